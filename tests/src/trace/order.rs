//! Whether a trace keeps the order of docs/outbox-format.md, mail by mail.
//!
//! Nearly every rule has one form: before this begins, that must have happened to its end. What made
//! something durable counts from its end, and what others can see from its beginning.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use outbox::{DeliveryRecord, DeliveryState, RecipientState, Sidecar};

use super::{Event, NEVER, Process, Relay, Trace, What, flags_of, folder_of, mail_of};
use crate::site::Program;

/// A rule of the order, named for what must come first, or must be so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// The generator holds the lock of `sidecar/` whenever it renames into it.
    GeneratorHasItsLock,
    /// The sidecars were read before the database is asked what is pending.
    ClaimsAreRead,
    /// The transaction that drew a ticket was committed before a draft bears it.
    TicketIsCommitted,
    /// A sidecar's octets are durable before it gets into place.
    SidecarsOctetsAreDurable,
    /// A mail's octets are durable before its sidecar gets into place.
    MailsOctetsAreDurable,
    /// A mail's name in `tmp/` is durable before its sidecar gets into place.
    DraftsNameIsDurable,
    /// The copies of a mail are committed, durably, before it is.
    CopiesAreCommitted,
    /// A sidecar's name is durable before its mail gets into `new/`.
    SidecarsNameIsDurable,
    /// The copies of a mail are published, durably, before it is.
    CopiesArePublished,
    /// `new/` is durable before `tmp/` is.
    NewIsDurableBeforeTmp,
    /// `new/` and `tmp/` are durable before the generator ends.
    PublishedIsDurable,
    /// What a crash left of a copy loses its sidecar, durably, before its file.
    AbandonedSidecarIsGone,
    /// The deliverer holds the lock of `delivery/` whenever it renames into it.
    DelivererHasItsLock,
    /// Before it relays anything, the deliverer tries whether it can write a record.
    RecordingWasTried,
    /// A mail is offered to a relay only once it is published, with a durable sidecar.
    MailIsPublished,
    /// A relay gets the octets that the generator wrote.
    OctetsAreTheSame,
    /// The deliverer holds a mail's lock when it begins an attempt.
    MailIsLocked,
    /// And holds it until what came of the attempt is durable.
    LockIsHeldUntilRecorded,
    /// With `delivery.uncertain` `"hold"`: that a relay has the mail in hand is durable before it has.
    OfferIsRecorded,
    /// A record says `accepted` of a recipient only once the relay has said so.
    RelayHasAccepted,
    /// A mail has its flag F, durably, before its record says that it is held.
    FlagIsDurable,
    /// A program gives a mail a name that it never had.
    NameIsNew,
    /// A record's octets are durable before it gets into place.
    RecordsOctetsAreDurable,
    /// The record that says `accepted` is durable before the database is told.
    RecordIsDurable,
    /// The database has committed before a mail goes into the archive; of a copy the record is durable.
    CommittedBeforeArchived,
    /// The database has committed before a sidecar goes; of a copy the record is durable.
    CommittedBeforeForgotten,
    /// `sent/cur/`, `new/` and `cur/` are durable before a sidecar goes.
    ArchiveIsDurable,
    /// That a sidecar is gone is durable before the record goes.
    SidecarIsGone,
    /// A mail that is taken back has its flag T, durably, before its lock is taken.
    WithdrawnIsDurable,
    /// Its record is read under the lock before its file goes.
    RecordIsReadUnderLock,
    /// The lock is held until its sidecar is gone.
    LockIsHeldUntilForgotten,
    /// That its file is gone is durable before the database is told, and before its sidecar goes.
    FileIsGone,
    /// If its directives are never to be sent, the database has committed that before its sidecar goes.
    SuppressedBeforeForgotten,
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 33] = [
        Self::GeneratorHasItsLock,
        Self::ClaimsAreRead,
        Self::TicketIsCommitted,
        Self::SidecarsOctetsAreDurable,
        Self::MailsOctetsAreDurable,
        Self::DraftsNameIsDurable,
        Self::CopiesAreCommitted,
        Self::SidecarsNameIsDurable,
        Self::CopiesArePublished,
        Self::NewIsDurableBeforeTmp,
        Self::PublishedIsDurable,
        Self::AbandonedSidecarIsGone,
        Self::DelivererHasItsLock,
        Self::RecordingWasTried,
        Self::MailIsPublished,
        Self::OctetsAreTheSame,
        Self::MailIsLocked,
        Self::LockIsHeldUntilRecorded,
        Self::OfferIsRecorded,
        Self::RelayHasAccepted,
        Self::FlagIsDurable,
        Self::NameIsNew,
        Self::RecordsOctetsAreDurable,
        Self::RecordIsDurable,
        Self::CommittedBeforeArchived,
        Self::CommittedBeforeForgotten,
        Self::ArchiveIsDurable,
        Self::SidecarIsGone,
        Self::WithdrawnIsDurable,
        Self::RecordIsReadUnderLock,
        Self::LockIsHeldUntilForgotten,
        Self::FileIsGone,
        Self::SuppressedBeforeForgotten,
    ];
}

/// A breach of a rule.
#[derive(Clone, Debug)]
pub struct Violation {
    /// The rule.
    pub rule: Rule,
    /// The mail; empty where it is about none.
    pub mail: String,
    /// What came too early.
    pub early: String,
    /// What should have come before it, and when it came.
    pub late: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rule, mail, early, late } = self;
        write!(f, "{rule:?}: mail {mail}: {early}, before {late}")
    }
}

/// What a trace is like.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The breaches.
    pub violations: Vec<Violation>,
    /// How often each rule was looked at.
    pub looked_at: BTreeMap<Rule, usize>,
}

/// Checks a trace.
pub fn check(trace: &Trace) -> Report {
    let mut checker = Checker::new(trace);
    for event in &trace.events {
        checker.publishing(event);
        checker.finishing(event);
        checker.taking_back(event);
    }
    checker.records();
    checker.attempts();
    checker.report
}

/// A file that was written, and got into place or not.
struct Written<'t> {
    path: &'t str,
    created: &'t Event,
    /// When its last octets were there.
    whole: u64,
    octets: Vec<u8>,
    renamed: Option<&'t Event>,
}

/// An attempt to relay a mail.
#[derive(Clone)]
struct Attempt<'t> {
    mail: &'t str,
    began: &'t Event,
    data: Option<&'t Event>,
    octets: Option<(&'t Event, &'t [u8])>,
    accepted: Vec<&'t str>,
    answered: Option<(&'t Event, u16)>,
}

struct Checker<'t> {
    trace: &'t Trace,
    written: Vec<Written<'t>>,
    sidecars: HashMap<&'t str, Sidecar>,
    attempts: Vec<Attempt<'t>>,
    report: Report,
}

impl<'t> Checker<'t> {
    fn new(trace: &'t Trace) -> Self {
        let mut written: Vec<Written<'t>> = Vec::new();
        for event in &trace.events {
            match &event.what {
                What::Created(path) => written.push(Written {
                    path,
                    created: event,
                    whole: event.to,
                    octets: Vec::new(),
                    renamed: None,
                }),
                What::Wrote(path, octets) => {
                    if let Some(file) = written.iter_mut().rev().find(|file| file.path == path) {
                        file.octets.extend_from_slice(octets);
                        file.whole = event.to;
                    }
                }
                What::Renamed(from, _) => {
                    let file = written.iter_mut().rev().find(|file| file.path == from);
                    if let Some(file) = file
                        && file.renamed.is_none()
                    {
                        file.renamed = Some(event);
                    }
                }
                _ => {}
            }
        }
        let sidecars = written
            .iter()
            .filter(|file| folder_of(file.path) == "sidecar")
            // One that a kill kept from being written is none.
            .filter_map(|file| {
                Some((mail_of(file.path)?, serde_json::from_slice(&file.octets).ok()?))
            })
            .collect();
        let attempts = Vec::new();
        let mut checker = Self { trace, written, sidecars, attempts, report: Report::default() };
        checker.attempts = checker.all_attempts();
        checker
    }

    // ---- The forms that rules have ----

    /// Before `event` begins, something `wanted` must have happened that began after `after`.
    fn before(
        &mut self,
        rule: Rule,
        mail: &str,
        event: &Event,
        after: u64,
        (words, wanted): (&str, &dyn Fn(&Event) -> bool),
    ) {
        let mut fitting = self
            .trace
            .events
            .iter()
            .filter(|other| after != NEVER && other.from > after && wanted(other));
        let found = fitting.clone().any(|other| other.to < event.from);
        let late = match fitting.next() {
            Some(other) => format!("{words}, which was done by {}", describe(other)),
            None => format!("{words}, which never was done"),
        };
        self.judge(rule, mail, event, found, late);
    }

    fn judge(&mut self, rule: Rule, mail: &str, event: &Event, kept: bool, late: String) {
        *self.report.looked_at.entry(rule).or_default() += 1;
        if !kept {
            let (mail, early) = (mail.to_owned(), describe(event));
            self.report.violations.push(Violation { rule, mail, early, late });
        }
    }

    /// Before `event` begins, a file or folder must have been made durable after `after`.
    fn durable(&mut self, rule: Rule, mail: &str, event: &Event, after: u64, path: &str) {
        let wanted = |other: &Event| matches!(&other.what, What::Synced(synced) if synced == path);
        self.before(rule, mail, event, after, (&format!("fsync of {path}"), &wanted));
    }

    /// Its process must hold this lock from before `event` begins until `until`. Whether it had it.
    fn locked(&mut self, rule: Rule, mail: &str, event: &Event, until: u64, path: &str) -> bool {
        let mine = |other: &&Event| other.process == event.process;
        let mut events = self.trace.events.iter().filter(mine);
        let lock = events.clone().rfind(|other| {
            other.to < event.from && matches!(&other.what, What::Locked(locked) if locked == path)
        });
        let free = lock.and_then(|lock| {
            events.find(|other| {
                other.from > lock.to
                    && other.from < until
                    && matches!(&other.what, What::Unlocked(unlocked) if unlocked == path)
            })
        });
        let late = match (lock, free) {
            (None, _) => format!("the lock of {path}, which it did not have"),
            (_, Some(free)) => {
                format!("the lock of {path} may go, which went by {}", describe(free))
            }
            _ => String::new(),
        };
        let kept = lock.is_some() && free.is_none();
        self.judge(rule, mail, event, kept, late);
        kept
    }

    // ---- What is known of a mail ----

    fn of(&self, event: &Event) -> &'t Process {
        &self.trace.processes[event.process]
    }

    fn find(&self, wanted: impl Fn(&Event) -> bool) -> Option<&'t Event> {
        self.trace.events.iter().find(|event| wanted(event))
    }

    /// When something happened for the first time.
    fn end_of(&self, wanted: impl Fn(&Event) -> bool) -> u64 {
        self.find(wanted).map_or(NEVER, |event| event.to)
    }

    /// When a mail's sidecar got into place.
    fn sidecar_in_place(&self, mail: &str) -> u64 {
        self.end_of(|event| renamed_to(event, &format!("sidecar/{mail}.json")))
    }

    fn copies_of(&self, mail: &str) -> Vec<&'t str> {
        let Some(sidecar) = self.sidecars.get(mail).filter(|sidecar| sidecar.mark_sent) else {
            return Vec::new();
        };
        let same = |other: &Sidecar| {
            !other.mark_sent
                && (&other.group, other.created_at) == (&sidecar.group, sidecar.created_at)
        };
        self.sidecars.iter().filter(|(_, other)| same(other)).map(|(id, _)| *id).collect()
    }

    /// The records of a mail, in the order in which they were written.
    fn records_of(&self, mail: &str) -> impl Iterator<Item = (&Written<'t>, DeliveryRecord)> {
        let path = format!("delivery/.{mail}.json.tmp");
        let written = self.written.iter().filter(move |file| file.path == path);
        written.filter_map(|file| Some((file, serde_json::from_slice(&file.octets).ok()?)))
    }

    /// When the first record that says `accepted` got into place.
    fn accepted_in_place(&self, mail: &str) -> u64 {
        let accepted = |(_, record): &(_, DeliveryRecord)| record.state == DeliveryState::Accepted;
        let first = self.records_of(mail).find(accepted);
        first.and_then(|(file, _)| file.renamed).map_or(NEVER, |event| event.to)
    }

    // ---- The generator ----

    fn publishing(&mut self, event: &'t Event) {
        match &event.what {
            What::AskedForPending => self.claims(event),
            What::Created(path) if folder_of(path) == "tmp" => {
                let Some(mail) = mail_of(path) else { return };
                let ticket = mail.split('.').nth(2).unwrap_or_default();
                let drew = |other: &Event| {
                    let What::Committed(transaction) = &other.what else { return false };
                    transaction.drawn.iter().any(|drawn| drawn == ticket)
                };
                let words = format!("the commit that drew {ticket}");
                self.before(Rule::TicketIsCommitted, mail, event, 0, (&words, &drew));
            }
            What::Renamed(from, to) if folder_of(to) == "sidecar" => {
                let Some(mail) = mail_of(to) else { return };
                self.commits(event, mail, from);
            }
            What::Renamed(from, to) if folder_of(from) == "tmp" && folder_of(to) == "new" => {
                let Some(mail) = mail_of(to) else { return };
                self.publishes(event, mail);
            }
            What::Removed(path) if folder_of(path) == "tmp" => {
                let Some(mail) = mail_of(path) else { return };
                let sidecar = format!("sidecar/{mail}.json");
                if self.find(|other| renamed_to(other, &sidecar)).is_some() {
                    let gone = self.end_of(|other| removed(other, &sidecar));
                    self.durable(Rule::AbandonedSidecarIsGone, mail, event, gone, "sidecar");
                }
            }
            _ => {}
        }
    }

    /// `sidecar/` was listed, and each sidecar that was there all the time opened after that.
    fn claims(&mut self, asked: &'t Event) {
        let listed = self.trace.events.iter().rfind(|event| {
            event.process == asked.process
                && event.to < asked.from
                && event.what == What::Listed("sidecar".into())
        });
        let begin =
            self.end_of(|event| event.process == asked.process && event.what == What::Started);
        let late = "the listing of sidecar/, which was not listed".to_owned();
        self.judge(Rule::ClaimsAreRead, "", asked, listed.is_some(), late);
        let Some(listed) = listed else { return };
        let there: Vec<&str> = self
            .trace
            .events
            .iter()
            .filter(|event| event.to < begin)
            .filter_map(|event| match &event.what {
                What::Renamed(_, to) if folder_of(to) == "sidecar" => Some(to.as_str()),
                _ => None,
            })
            .filter(|path| {
                !self.trace.events.iter().any(|event| removed(event, path) && event.from < asked.to)
            })
            .collect();
        for path in there {
            let read = |event: &Event| {
                event.process == asked.process
                    && matches!(&event.what, What::Opened(opened) if opened == path)
            };
            let mail = mail_of(path).unwrap_or_default();
            let words = format!("reading {path}");
            self.before(Rule::ClaimsAreRead, mail, asked, listed.to, (&words, &read));
        }
    }

    fn commits(&mut self, event: &'t Event, mail: &'t str, temporary: &str) {
        self.locked(Rule::GeneratorHasItsLock, mail, event, event.to, "sidecar");
        let draft = format!("tmp/{mail}");
        let whole = |path: &str| {
            let mut files = self.written.iter().rev();
            files.find(|file| file.path == path).map_or(NEVER, |file| file.whole)
        };
        let (sidecar_whole, mail_whole) = (whole(temporary), whole(&draft));
        self.durable(Rule::SidecarsOctetsAreDurable, mail, event, sidecar_whole, temporary);
        self.durable(Rule::MailsOctetsAreDurable, mail, event, mail_whole, &draft);
        let created =
            self.end_of(|other| matches!(&other.what, What::Created(path) if *path == draft));
        self.durable(Rule::DraftsNameIsDurable, mail, event, created, "tmp");
        for copy in self.copies_of(mail) {
            let path = format!("sidecar/{copy}.json");
            let wanted = |other: &Event| renamed_to(other, &path);
            self.before(Rule::CopiesAreCommitted, mail, event, 0, (&path, &wanted));
            let in_place = self.sidecar_in_place(copy);
            self.durable(Rule::CopiesAreCommitted, mail, event, in_place, "sidecar");
        }
    }

    fn publishes(&mut self, event: &'t Event, mail: &'t str) {
        let in_place = self.sidecar_in_place(mail);
        self.durable(Rule::SidecarsNameIsDurable, mail, event, in_place, "sidecar");
        for copy in self.copies_of(mail) {
            let path = format!("new/{copy}");
            let wanted = |other: &Event| renamed_to(other, &path);
            self.before(Rule::CopiesArePublished, mail, event, 0, (&path, &wanted));
            let published = self.end_of(wanted);
            self.durable(Rule::CopiesArePublished, mail, event, published, "new");
        }
        let tmp =
            self.find(|other| other.from > event.to && other.what == What::Synced("tmp".into()));
        if let Some(tmp) = tmp {
            self.durable(Rule::NewIsDurableBeforeTmp, mail, tmp, event.to, "new");
        }
        // One that was killed promised nothing.
        let end = self.find(|other| other.process == event.process && other.what == What::Ended);
        if let Some(end) = end {
            for folder in ["new", "tmp"] {
                self.durable(Rule::PublishedIsDurable, mail, end, event.to, folder);
            }
        }
    }

    // ---- The deliverer ----

    fn records(&mut self) {
        let mails: Vec<&'t str> = self.sidecars.keys().copied().collect();
        for mail in mails {
            let records: Vec<_> = self
                .records_of(mail)
                .map(|(file, record)| (file.path, file.created, file.whole, file.renamed, record))
                .collect();
            for (path, created, whole, renamed, record) in records {
                self.accepted(mail, created, &record);
                if record.was_held() {
                    self.held(mail, created);
                }
                if let Some(renamed) = renamed {
                    self.locked(Rule::DelivererHasItsLock, mail, renamed, renamed.to, "delivery");
                    self.durable(Rule::RecordsOctetsAreDurable, mail, renamed, whole, path);
                }
            }
        }
    }

    fn accepted(&mut self, mail: &str, created: &'t Event, record: &DeliveryRecord) {
        let accepted: Vec<&String> = record
            .recipients
            .iter()
            .filter(|(_, outcome)| outcome.state == RecipientState::Accepted)
            .map(|(address, _)| address)
            .collect();
        for address in accepted {
            let answered = self.attempts.iter().find_map(|attempt| {
                let fits = attempt.mail == mail && attempt.accepted.contains(&address.as_str());
                attempt.answered.filter(|(_, code)| fits && *code == 250)
            });
            let kept = answered.is_some_and(|(event, _)| event.to < created.from);
            let late = match answered {
                Some((event, _)) => format!("250 for {address}, {}", describe(event)),
                None => format!("250 for {address}, which never came"),
            };
            self.judge(Rule::RelayHasAccepted, mail, created, kept, late);
        }
    }

    fn held(&mut self, mail: &str, created: &'t Event) {
        let flagged = |event: &Event| match &event.what {
            What::Renamed(_, to) => {
                folder_of(to) == "cur" && mail_of(to) == Some(mail) && flags_of(to).contains('F')
            }
            _ => false,
        };
        let rule = Rule::FlagIsDurable;
        self.before(rule, mail, created, 0, ("the flag F", &flagged));
        let Some(flag) = self.find(flagged) else { return };
        let What::Renamed(from, _) = &flag.what else { return };
        self.durable(rule, mail, created, flag.to, "cur");
        if folder_of(from) != "cur" {
            self.durable(rule, mail, created, flag.to, folder_of(from));
        }
    }

    /// The attempts at mails that are known.
    fn all_attempts(&self) -> Vec<Attempt<'t>> {
        let mut steps: BTreeMap<(usize, usize), Vec<(&'t Event, &'t Relay)>> = BTreeMap::new();
        for event in &self.trace.events {
            if let What::Relay(number, step) = &event.what {
                steps.entry((event.process, *number)).or_default().push((event, step));
            }
        }
        let attempts = steps.into_values().filter_map(|steps| {
            let began = steps[0].0;
            let named: Vec<&str> = steps
                .iter()
                .filter_map(|(_, step)| match step {
                    Relay::Recipient(address, _) => Some(address.as_str()),
                    _ => None,
                })
                .collect();
            let octets = steps.iter().find_map(|(event, step)| match step {
                Relay::HandedOver(octets) => Some((*event, octets.as_slice())),
                _ => None,
            });
            let accepted = steps.iter().filter_map(|(_, step)| match step {
                Relay::Recipient(address, 250..=259) => Some(address.as_str()),
                _ => None,
            });
            Some(Attempt {
                mail: self.mail_offered(began, &named, octets.map(|(_, octets)| octets))?,
                began,
                data: steps.iter().find(|(_, step)| **step == Relay::Data).map(|(event, _)| *event),
                octets,
                accepted: accepted.collect(),
                answered: steps.iter().find_map(|(event, step)| match step {
                    Relay::Answered(code) => Some((*event, *code)),
                    _ => None,
                }),
            })
        });
        attempts.collect()
    }

    /// Which mail it is: by its Message-ID, and where it was not handed over, the latest of those that
    /// have these recipients.
    fn mail_offered(&self, began: &Event, to: &[&str], octets: Option<&[u8]>) -> Option<&'t str> {
        let fits = |sidecar: &Sidecar| match octets {
            Some(octets) => {
                let id = sidecar.message_id.as_bytes();
                octets.windows(id.len()).any(|at| at == id)
            }
            None => to.iter().all(|to| sidecar.envelope.to.iter().any(|known| known == to)),
        };
        self.written
            .iter()
            .filter(|file| octets.is_some() || file.created.from < began.from)
            .filter(|file| folder_of(file.path) == "sidecar")
            .filter_map(|file| mail_of(file.path))
            .rfind(|mail| self.sidecars.get(mail).is_some_and(fits))
    }

    fn attempts(&mut self) {
        let mut tried = Vec::new();
        for attempt in self.attempts.clone() {
            let Attempt { mail, began, data, octets, .. } = attempt;
            if !tried.contains(&began.process) {
                tried.push(began.process);
                let tried = |event: &Event| {
                    event.process == began.process
                        && event.what == What::Synced("delivery/.probe.json.tmp".into())
                };
                let words = "writing a record was tried";
                self.before(Rule::RecordingWasTried, mail, began, 0, (words, &tried));
            }
            let lock = format!("sidecar/{mail}.json");
            let locked = self.locked(Rule::MailIsLocked, mail, began, began.from, &lock);
            if let Some(data) = data {
                let published = format!("new/{mail}");
                let wanted = |event: &Event| renamed_to(event, &published);
                self.before(Rule::MailIsPublished, mail, data, 0, (&published, &wanted));
                let in_place = self.sidecar_in_place(mail);
                self.durable(Rule::MailIsPublished, mail, data, in_place, "sidecar");
            }
            if let Some((event, octets)) = octets {
                let draft = format!("tmp/{mail}");
                let written = self.written.iter().find(|file| file.path == draft);
                let same = written.is_some_and(|file| plain(&file.octets) == plain(octets));
                let late = format!("the octets of {draft}, which are others");
                self.judge(Rule::OctetsAreTheSame, mail, event, same, late);
            }
            if self.trace.uncertain_hold {
                let offered = self
                    .records_of(mail)
                    .filter(|(file, record)| {
                        record.offered_at.is_some() && file.created.from < began.from
                    })
                    .last();
                let in_place = offered.and_then(|(file, _)| file.renamed).map_or(NEVER, |it| it.to);
                self.durable(Rule::OfferIsRecorded, mail, began, in_place, "delivery");
            }
            let mine = |file: &Written<'_>| {
                file.created.process == began.process && file.created.from > began.from
            };
            let recorded = self.records_of(mail).find(|(file, _)| mine(file));
            let renamed = recorded.and_then(|(file, _)| file.renamed);
            let Some(in_place) = renamed.map(|event| event.to) else { continue };
            let synced = What::Synced("delivery".into());
            let durable = self.end_of(|event| event.from > in_place && event.what == synced);
            // One that was killed before that held it to its end.
            if locked && durable != NEVER {
                self.locked(Rule::LockIsHeldUntilRecorded, mail, began, durable, &lock);
            }
        }
    }

    fn finishing(&mut self, event: &'t Event) {
        let run = self.of(event).program == Program::Deliverer && self.of(event).was_told("run");
        match &event.what {
            What::Marking(tickets) if run => {
                for ticket in tickets {
                    let of_it = |(_, sidecar): &(&&str, &Sidecar)| {
                        sidecar.mark_sent && sidecar.ticket.as_str() == ticket
                    };
                    let Some(mail) = self.sidecars.iter().find(of_it).map(|(mail, _)| *mail) else {
                        continue;
                    };
                    let in_place = self.accepted_in_place(mail);
                    self.durable(Rule::RecordIsDurable, mail, event, in_place, "delivery");
                }
            }
            What::Renamed(_, to) if folder_of(to) == "cur" => {
                let Some(mail) = mail_of(to) else { return };
                let had = self.find(|other| {
                    other.from < event.from
                        && (renamed_to(other, to)
                            || matches!(&other.what, What::Created(path) if path == to))
                });
                let late = format!("any other name: it had the name {to}");
                self.judge(Rule::NameIsNew, mail, event, had.is_none(), late);
            }
            What::Renamed(_, to) if folder_of(to) == "sent/cur" => {
                let Some(mail) = mail_of(to) else { return };
                self.known(Rule::CommittedBeforeArchived, mail, event);
            }
            What::Removed(path) if folder_of(path) == "sidecar" && run => {
                // A temporary one claims nothing.
                let Some(mail) = mail_in_place(path) else { return };
                self.known(Rule::CommittedBeforeForgotten, mail, event);
                let archived = |other: &Event| match &other.what {
                    What::Renamed(_, to) => {
                        folder_of(to) == "sent/cur" && mail_of(to) == Some(mail)
                    }
                    _ => false,
                };
                let gone = |other: &Event| match &other.what {
                    What::Removed(path) => {
                        folder_of(path) == "sent/cur" && mail_of(path) == Some(mail)
                    }
                    _ => false,
                };
                let archived = self.end_of(archived);
                if archived == NEVER {
                    // Somebody removed the file after the relay had it.
                    return;
                }
                let kept = self.find(gone).map_or(archived, |event| event.to);
                for (folder, after) in [("sent/cur", kept), ("new", archived), ("cur", archived)] {
                    self.durable(Rule::ArchiveIsDurable, mail, event, after, folder);
                }
            }
            What::Removed(path) if folder_of(path) == "delivery" => {
                let Some(mail) = mail_in_place(path) else { return };
                let gone = self.end_of(|other| removed(other, &format!("sidecar/{mail}.json")));
                self.durable(Rule::SidecarIsGone, mail, event, gone, "sidecar");
            }
            _ => {}
        }
    }

    /// The database has committed that a mail is sent; of a copy, which has nothing to mark, the record
    /// that it is accepted is durable.
    fn known(&mut self, rule: Rule, mail: &str, event: &'t Event) {
        match self.sidecars.get(mail) {
            Some(sidecar) if sidecar.mark_sent => {
                let ticket = sidecar.ticket.as_str().to_owned();
                let marked = |other: &Event| marks(other, &ticket);
                self.before(rule, mail, event, 0, (&format!("the commit of {ticket}"), &marked));
            }
            _ => {
                let in_place = self.accepted_in_place(mail);
                self.durable(rule, mail, event, in_place, "delivery");
            }
        }
    }

    // ---- Taking back ----

    fn taking_back(&mut self, event: &'t Event) {
        if !self.of(event).was_told("withdraw") {
            return;
        }
        match &event.what {
            What::Removed(path) if matches!(folder_of(path), "new" | "cur") => {
                let Some(mail) = mail_of(path) else { return };
                let sidecar = format!("sidecar/{mail}.json");
                let locked = |other: &Event| {
                    other.process == event.process
                        && matches!(&other.what, What::Locked(path) if *path == sidecar)
                };
                let lock = self.find(locked);
                if let Some(lock) = lock {
                    self.withdrawn(mail, lock);
                }
                let record = format!("delivery/{mail}.json");
                if self.find(|other| renamed_to(other, &record) && other.to < event.from).is_some()
                {
                    let read = |other: &Event| {
                        other.process == event.process
                            && matches!(&other.what, What::Opened(path) if *path == record)
                    };
                    let after = lock.map_or(NEVER, |lock| lock.to);
                    let rule = Rule::RecordIsReadUnderLock;
                    self.before(rule, mail, event, after, (&format!("reading {record}"), &read));
                }
                let forgotten = self.end_of(|other| removed(other, &sidecar));
                let rule = Rule::LockIsHeldUntilForgotten;
                self.locked(rule, mail, event, forgotten, &sidecar);
            }
            What::Removed(path) if folder_of(path) == "sidecar" => {
                let Some(mail) = mail_of(path) else { return };
                self.file_is_gone(mail, event);
                let Some(sidecar) = self.sidecars.get(mail).filter(|sidecar| sidecar.mark_sent)
                else {
                    return;
                };
                if self.of(event).was_told("--suppress") {
                    let ticket = sidecar.ticket.as_str().to_owned();
                    let marked = |other: &Event| marks(other, &ticket);
                    let words = format!("the commit of {ticket}");
                    let rule = Rule::SuppressedBeforeForgotten;
                    self.before(rule, mail, event, 0, (&words, &marked));
                }
            }
            What::Marking(tickets) => {
                let mails: Vec<&str> = self
                    .sidecars
                    .iter()
                    .filter(|(_, sidecar)| {
                        sidecar.mark_sent
                            && tickets.iter().any(|ticket| sidecar.ticket.as_str() == ticket)
                    })
                    .map(|(mail, _)| *mail)
                    .collect();
                for mail in mails {
                    self.file_is_gone(mail, event);
                }
            }
            _ => {}
        }
    }

    fn withdrawn(&mut self, mail: &str, lock: &'t Event) {
        let flagged = |event: &Event| match &event.what {
            What::Renamed(_, to) => mail_of(to) == Some(mail) && flags_of(to).contains('T'),
            _ => false,
        };
        let rule = Rule::WithdrawnIsDurable;
        self.before(rule, mail, lock, 0, ("the flag T", &flagged));
        let Some(flag) = self.find(flagged) else { return };
        let What::Renamed(from, _) = &flag.what else { return };
        self.durable(rule, mail, lock, flag.to, "cur");
        if folder_of(from) != "cur" {
            self.durable(rule, mail, lock, flag.to, folder_of(from));
        }
    }

    fn file_is_gone(&mut self, mail: &str, event: &'t Event) {
        let gone = self.end_of(|other| match &other.what {
            What::Removed(path) => {
                matches!(folder_of(path), "new" | "cur") && mail_of(path) == Some(mail)
            }
            _ => false,
        });
        for folder in ["new", "cur"] {
            self.durable(Rule::FileIsGone, mail, event, gone, folder);
        }
    }
}

/// The mail that a sidecar or record belongs to which is in place.
fn mail_in_place(path: &str) -> Option<&str> {
    let hidden = path.rsplit('/').next().is_some_and(|name| name.starts_with('.'));
    mail_of(path).filter(|_| !hidden)
}

fn renamed_to(event: &Event, path: &str) -> bool {
    matches!(&event.what, What::Renamed(_, to) if to == path)
}

fn removed(event: &Event, path: &str) -> bool {
    matches!(&event.what, What::Removed(removed) if removed == path)
}

fn marks(event: &Event, ticket: &str) -> bool {
    let What::Committed(transaction) = &event.what else { return false };
    transaction.sent.iter().any(|(sent, _)| sent == ticket)
}

/// A mail's octets, however its lines end.
fn plain(octets: &[u8]) -> Vec<u8> {
    let mut plain: Vec<u8> = octets.iter().copied().filter(|&octet| octet != b'\r').collect();
    if !plain.ends_with(b"\n") {
        plain.push(b'\n');
    }
    plain
}

/// An event in a few words, with its place in the trace.
fn describe(event: &Event) -> String {
    let what = match &event.what {
        What::Wrote(path, octets) => format!("{} octets written to {path}", octets.len()),
        What::Relay(attempt, Relay::HandedOver(octets)) => {
            format!("{} octets handed over in attempt {attempt}", octets.len())
        }
        what => format!("{what:?}"),
    };
    format!("{what} (at {})", event.from)
}
