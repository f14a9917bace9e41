//! The model: what must be true of directives, mails and the relay, whatever happened in whatever
//! order. It knows what was seen before and what was done since, and holds each new sight against it.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use outbox::{DeliveryRecord, GroupKey, MailId, RecipientState, Sha256Digest, Sidecar, State};
use outbox_tests::scripted_relay::Received;

/// How many mails a deliverer has in hand at most: as many as it may have connections.
pub const IN_HAND: usize = 4;

/// All there is at one moment, in which both programs are away or stand still.
pub struct Sight {
    /// What is in the outbox, but for the archive.
    pub mails: BTreeMap<MailId, SeenMail>,
    /// What is in the archive: the octets of each.
    pub archive: BTreeMap<MailId, Vec<u8>>,
    /// Files that nobody may leave behind, unless a program was killed.
    pub temporary: Vec<String>,
    /// Each directive, and the row of `sent` it points to. `None` while the database is away.
    pub directives: Option<BTreeMap<i64, Option<SentRow>>>,
    /// All whose final dot came to the relay so far.
    pub received: Vec<Received>,
    /// When this was.
    pub at: Timestamp,
}

/// A mail that is not finished.
pub struct SeenMail {
    /// What the generator wrote down of it.
    pub sidecar: Option<Sidecar>,
    /// What the deliverer wrote down of it.
    pub record: Option<DeliveryRecord>,
    /// What all that means.
    pub state: State,
    /// Whether it has a file.
    pub file: bool,
    /// Whether somebody has its lock.
    pub busy: bool,
}

/// A row of `sent`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentRow {
    /// The ticket.
    pub ticket: String,
    /// Whether there is a time: there is none if nobody was notified.
    pub notified: bool,
}

/// What the configuration says, as far as it makes a difference here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `delivery.uncertain` is `"hold"`.
    pub hold_uncertain: bool,
    /// `review.hold_new`.
    pub hold_new: bool,
    /// `delivery.retry_max`.
    pub retry_max: SignedDuration,
    /// No mail may be written for lack of room.
    pub full: bool,
}

/// What was done since the last sight.
#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a deed of its own")]
pub struct Deeds {
    /// What the deliverers that were at work went by.
    pub settings: Vec<Settings>,
    /// A deliverer was killed.
    pub deliverer_killed: bool,
    /// A deliverer ran once, to its end, and nothing was in its way.
    pub delivered: bool,
    /// A generator ran to its end, and nothing was in its way.
    pub generated: bool,
    /// A person did something to these mails.
    pub touched: BTreeSet<MailId>,
    /// A person released these.
    pub released: BTreeSet<MailId>,
    /// A person took these back, to be written anew.
    pub regenerated: BTreeSet<MailId>,
    /// A person took these back for good.
    pub suppressed: BTreeSet<MailId>,
    /// Since a generator, a deliverer, or a command was killed, none was at work to clean up.
    pub generator_left_things: bool,
    /// The same for the deliverer, or a command.
    pub deliverer_left_things: bool,
}

/// What is known of a mail.
struct Known {
    ticket: String,
    message_id: String,
    digest: Sha256Digest,
    /// Not known of one that was written and finished between two sights.
    sidecar: Option<Sidecar>,
    last: Last,
    gone: Option<Gone>,
    /// By recipient, how many answers of the relay were lost with a deliverer that was killed.
    lost: BTreeMap<String, usize>,
    /// The relay may have it, and a person is to be asked first.
    in_doubt: bool,
    /// A person released it, or a deliverer was at work that need not hold new mails.
    may_go: bool,
    /// A person said that it is never to be sent.
    suppressed: bool,
}

/// A mail at the last sight.
#[derive(Clone, PartialEq, Eq)]
struct Last {
    state: State,
    busy: bool,
    noted: BTreeSet<String>,
}

/// A directive that was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directive {
    /// Whom it is for, which makes a group here.
    pub recipient: String,
    /// Whether it waits while the group's last notification was not long ago.
    pub may_wait: bool,
}

/// How a mail went from the outbox.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gone {
    /// As it does when the relay took it, or as the database will tell.
    Finished,
    /// Taken back to be written anew.
    Regenerated,
    /// Taken back for good, or the relay took it right before.
    Suppressed,
    /// A copy whose mail was never committed.
    Abandoned,
}

/// The model.
#[derive(Default)]
pub struct Ledger {
    mails: BTreeMap<MailId, Known>,
    directives: BTreeMap<i64, Directive>,
    sent: BTreeMap<i64, SentRow>,
    /// Which mail claimed a directive last.
    claimed: BTreeMap<i64, MailId>,
    received: usize,
    /// The relay was told to refuse recipients or mails for good.
    pub refused_for_good: bool,
    kills: usize,
}

impl Ledger {
    /// A directive was stored.
    pub fn stored(&mut self, id: i64, directive: Directive) {
        self.directives.insert(id, directive);
    }

    /// Holds what is seen against what is known. Panics, with words, where that can't be.
    pub fn check(&mut self, sight: &Sight, deeds: &Deeds) {
        self.kills += usize::from(deeds.deliverer_killed);
        self.meet_mails(sight);
        self.check_folders(sight, deeds);
        self.check_what_arrived(sight, deeds);
        self.check_what_is_written_down(sight, deeds);
        self.check_persons_word(sight, deeds);
        self.check_gone(sight, deeds);
        self.check_claims(sight);
        self.check_database(sight);
        if deeds.generated {
            self.check_all_is_written(sight);
        }
        self.remember(sight, deeds);
    }

    /// Learns of mails that are new.
    fn meet_mails(&mut self, sight: &Sight) {
        for (id, mail) in &sight.mails {
            let Some(sidecar) = &mail.sidecar else { continue };
            if let Some(known) = self.mails.get(id) {
                let same = known.sidecar.as_ref().is_none_or(|before| before == sidecar);
                assert!(same, "the sidecar of {id} was changed");
                assert!(known.gone.is_none(), "{id} came back");
                continue;
            }
            for other in self.mails.values() {
                assert_ne!(other.message_id, sidecar.message_id, "a Message-ID twice");
                let twice = other.ticket == sidecar.ticket.as_str()
                    && other.sidecar.as_ref().is_some_and(|other| {
                        let same = |of: &Sidecar| (of.group.clone(), of.created_at);
                        other.mark_sent && sidecar.mark_sent || same(other) != same(sidecar)
                    });
                assert!(!twice, "the ticket {} twice", other.ticket);
            }
            let known = Known {
                ticket: sidecar.ticket.as_str().to_owned(),
                message_id: sidecar.message_id.clone(),
                digest: sidecar.sha256,
                sidecar: Some(sidecar.clone()),
                last: Last { state: State::Queued, busy: true, noted: BTreeSet::new() },
                gone: None,
                lost: BTreeMap::new(),
                in_doubt: false,
                may_go: false,
                suppressed: false,
            };
            self.mails.insert(id.clone(), known);
        }
        for (id, octets) in &sight.archive {
            let digest = Sha256Digest::of(octets);
            if let Some(known) = self.mails.get(id) {
                assert_eq!(known.digest, digest, "{id} in the archive is as it was written");
                continue;
            }
            // Written and finished since the last sight.
            let header = |name| outbox_tests::mail::header(octets, name).expect("it is there");
            let known = Known {
                ticket: header("X-Ticket"),
                message_id: header("Message-ID"),
                digest,
                sidecar: None,
                last: Last { state: State::Accepted, busy: true, noted: BTreeSet::new() },
                gone: None,
                lost: BTreeMap::new(),
                in_doubt: false,
                may_go: false,
                suppressed: false,
            };
            self.mails.insert(id.clone(), known);
        }
    }

    /// The folders hold only what is known, where it may be.
    fn check_folders(&self, sight: &Sight, deeds: &Deeds) {
        for (id, mail) in &sight.mails {
            match mail.state {
                State::Foreign => panic!("{id} has no sidecar"),
                State::Draft | State::Committed => {
                    assert!(deeds.generator_left_things, "{id} is left in tmp/");
                }
                State::Leftover => {
                    assert!(deeds.deliverer_left_things, "the record of {id} is left");
                }
                State::Withdrawn if !mail.file => {
                    let known = &self.mails[id];
                    let by_person = deeds.touched.contains(id)
                        || known.last.state == State::Withdrawn && !known.last.busy;
                    assert!(by_person || known.last.busy, "the file of {id} is gone");
                }
                _ => {}
            }
            assert!(!(mail.file && sight.archive.contains_key(id)), "{id} is in two places");
        }
        for file in &sight.temporary {
            let excused = if file.starts_with("sidecar") {
                deeds.generator_left_things
            } else {
                deeds.deliverer_left_things
            };
            assert!(excused, "{file} is left");
        }
    }

    /// No directive is in two mails, ever, unless a person had it written anew.
    fn check_claims(&mut self, sight: &Sight) {
        let mut now = BTreeSet::new();
        for (id, mail) in &sight.mails {
            let ids = mail.sidecar.iter().flat_map(|sidecar| &sidecar.directive_ids);
            for directive in ids.map(|id| id.0) {
                assert!(now.insert(directive), "the directive {directive} is claimed twice");
                assert!(self.directives.contains_key(&directive), "{directive} is unknown");
                let before = self.claimed.insert(directive, id.clone());
                let Some(before) = before.filter(|before| before != id) else { continue };
                let gone = self.mails[&before].gone;
                assert!(
                    gone == Some(Gone::Regenerated),
                    "the directive {directive} was in {before} and is in {id}"
                );
            }
        }
    }

    /// What came to the relay since the last sight was to go, with the right octets.
    fn check_what_arrived(&mut self, sight: &Sight, deeds: &Deeds) {
        for received in &sight.received[self.received..] {
            let message_id = received.message_id();
            let found = self.mails.iter().find(|(_, known)| known.message_id == message_id);
            let (id, known) = found.unwrap_or_else(|| panic!("nobody wrote {message_id}"));
            let digest = Sha256Digest::of(&received.bytes);
            assert_eq!(digest, known.digest, "{id} came to the relay as it was written");
            assert!(known.gone.is_none(), "{id} was gone, and went to the relay");
            assert!(!deeds.settings.is_empty(), "{id} went to the relay by itself");
            let again: Vec<&String> =
                received.to.iter().filter(|to| known.last.noted.contains(*to)).collect();
            assert!(again.is_empty(), "{id} was offered to {again:?} again, who have it");
            if known.last.busy || deeds.touched.contains(id) {
                continue;
            }
            match &known.last.state {
                State::Held => panic!("{id} was held, and went to the relay"),
                State::Withdrawn => panic!("{id} was withdrawn, and went to the relay"),
                State::Accepted => panic!("{id} was accepted, and went to the relay again"),
                State::Deferred { until } => {
                    let waits = |settings: &Settings| *until <= sight.at + settings.retry_max;
                    let too_early = *until > sight.at && deeds.settings.iter().all(waits);
                    assert!(!too_early, "{id} was deferred until {until}");
                }
                _ => {}
            }
            let asks = deeds.settings.iter().all(|settings| settings.hold_uncertain);
            assert!(!(known.in_doubt && asks), "{id} is in doubt, and went to the relay again");
            let reviewed = deeds.settings.iter().all(|settings| settings.hold_new);
            assert!(known.may_go || !reviewed, "{id} is new, and nobody looked at it");
        }
    }

    /// What the relay said is written down, unless a kill came between; and what is written down was
    /// said.
    fn check_what_is_written_down(&mut self, sight: &Sight, deeds: &Deeds) {
        let mut lost_now = 0;
        let mut confirmed: BTreeMap<(String, &str), usize> = BTreeMap::new();
        for received in sight.received.iter().filter(|received| received.confirmed) {
            for to in &received.to {
                *confirmed.entry((received.message_id(), to)).or_default() += 1;
            }
        }
        for ((message_id, to), count) in confirmed {
            let known = self.mails.iter_mut().find(|(_, known)| known.message_id == message_id);
            let (id, known) = known.expect("what came is known");
            let lost = known.lost.entry(to.to_owned()).or_default();
            let fresh = count - *lost;
            assert!(fresh <= 1, "{id} went to {to} {count} times, and {lost} answers were lost");
            let anew = known.gone == Some(Gone::Regenerated);
            assert!(fresh == 0 || !anew, "{to} has {id}, which was taken back to be written anew");
            // One that is gone was written down.
            let Some(mail) = sight.mails.get(id).filter(|mail| mail.sidecar.is_some()) else {
                continue;
            };
            let noted = noted(mail.record.as_ref()).contains(to);
            if fresh == 1 && !noted && !mail.busy {
                assert!(deeds.deliverer_killed, "{id} went to {to}, and that is not written down");
                *lost += 1;
                lost_now += 1;
            }
        }
        // Each mail has two recipients at most.
        assert!(lost_now <= 2 * IN_HAND, "a kill lost {lost_now} answers");
        for (id, mail) in &sight.mails {
            for to in noted(mail.record.as_ref()) {
                let said = self.was_confirmed(sight, id, Some(&to));
                assert!(said, "it is written down that {to} has {id}, and the relay never said so");
            }
            let before = self.mails.get(id).map(|known| &known.last.noted);
            let lasts = before.is_none_or(|before| before.is_subset(&noted(mail.record.as_ref())));
            assert!(lasts || mail.sidecar.is_none(), "who has {id} is forgotten");
        }
    }

    fn was_confirmed(&self, sight: &Sight, id: &MailId, to: Option<&String>) -> bool {
        let Some(known) = self.mails.get(id) else { return false };
        sight.received.iter().any(|received| {
            received.confirmed
                && to.is_none_or(|to| received.to.contains(to))
                && received.message_id() == known.message_id
        })
    }

    /// What a person stopped stays so, and what nobody stopped goes on.
    fn check_persons_word(&self, sight: &Sight, deeds: &Deeds) {
        for (id, mail) in &sight.mails {
            let Some(known) = self.mails.get(id).filter(|_| mail.sidecar.is_some()) else {
                continue;
            };
            let stopped = matches!(known.last.state, State::Held | State::Withdrawn);
            if stopped && !known.last.busy && !deeds.touched.contains(id) {
                let state = &mail.state;
                assert_eq!(*state, known.last.state, "{id} was stopped by a person or for one");
            }
            if known.last.state == State::Accepted && known.sidecar.is_some() && !known.last.busy {
                assert_eq!(mail.state, State::Accepted, "{id} was accepted");
            }
            let asks = deeds.settings.iter().all(|settings| settings.hold_uncertain);
            if known.in_doubt && deeds.delivered && asks && !deeds.touched.contains(id) {
                let stopped = matches!(mail.state, State::Held | State::Withdrawn);
                assert!(stopped, "{id} is in doubt, and not held");
            }
        }
    }

    /// A mail goes from the outbox when it is finished or taken back.
    fn check_gone(&mut self, sight: &Sight, deeds: &Deeds) {
        let committed: BTreeSet<(&GroupKey, Timestamp)> = (sight.mails.values())
            .filter_map(|mail| mail.sidecar.as_ref().filter(|sidecar| sidecar.mark_sent))
            .map(|sidecar| (&sidecar.group, sidecar.created_at))
            .collect();
        for id in &deeds.suppressed {
            self.mails.get_mut(id).expect("it was there").suppressed = true;
        }
        let mut gone = Vec::new();
        for (id, known) in &self.mails {
            let there = sight.mails.get(id).is_some_and(|mail| mail.sidecar.is_some());
            if known.gone.is_some() || there {
                continue;
            }
            let confirmed = self.was_confirmed(sight, id, None);
            let copy = known.sidecar.as_ref().filter(|sidecar| !sidecar.mark_sent);
            let abandoned = copy.is_some_and(|sidecar| {
                known.last.state == State::Committed
                    && !committed.contains(&(&sidecar.group, sidecar.created_at))
            });
            // Finished at the moment in which it was to be taken back, and its file was deleted.
            let sent = match copy {
                Some(_) => confirmed,
                None => sight.directives.iter().flatten().any(|(_, sent)| {
                    sent.as_ref().is_some_and(|row| row.notified && row.ticket == known.ticket)
                }),
            };
            let how = if sight.archive.contains_key(id) {
                assert!(confirmed, "{id} is in the archive, and the relay never took it");
                Gone::Finished
            } else if sent && !known.suppressed {
                assert!(confirmed, "{id} is sent, and the relay never took it");
                Gone::Finished
            } else if deeds.regenerated.contains(id) {
                Gone::Regenerated
            } else if deeds.suppressed.contains(id) {
                Gone::Suppressed
            } else if abandoned {
                Gone::Abandoned
            } else {
                // Its file was deleted when the relay had it.
                assert!(confirmed, "{id} is gone, and the relay never took it");
                Gone::Finished
            };
            if how == Gone::Regenerated {
                let noted = &known.last.noted;
                assert!(noted.is_empty(), "{id} is to be written anew, and {noted:?} have it");
            }
            gone.push((id.clone(), how));
        }
        for (id, how) in gone {
            self.mails.get_mut(&id).expect("it is known").gone = Some(how);
        }
    }

    /// The database says `sent` of what was sent, or is never to be, and of nothing else; and for ever.
    fn check_database(&mut self, sight: &Sight) {
        let Some(directives) = &sight.directives else { return };
        let mut by_ticket: BTreeMap<&str, Vec<(&MailId, &Known)>> = BTreeMap::new();
        for (id, known) in &self.mails {
            by_ticket.entry(&known.ticket).or_default().push((id, known));
        }
        for (directive, sent) in directives {
            let before = self.sent.get(directive);
            assert!(
                before.is_none_or(|before| Some(before) == sent.as_ref()),
                "{directive} changed"
            );
            let claim = self.claimed.get(directive);
            let Some(row) = sent else {
                // Of one that is gone it would be pending for ever, or written twice.
                if let Some(id) = claim {
                    let gone = self.mails[id].gone;
                    let pending = matches!(gone, None | Some(Gone::Regenerated));
                    assert!(
                        pending,
                        "{directive} was in {id}, and is pending although that is gone"
                    );
                }
                continue;
            };
            let mails = &by_ticket.get(&*row.ticket);
            let mails = mails.unwrap_or_else(|| panic!("no mail has the ticket {}", row.ticket));
            let marks = |known: &Known| known.sidecar.as_ref().is_none_or(|one| one.mark_sent);
            let said =
                mails.iter().any(|(id, known)| marks(known) && self.was_confirmed(sight, id, None));
            let suppressed = mails.iter().any(|(_, known)| known.suppressed);
            assert!(
                said || suppressed,
                "{directive} is sent, and the relay never took {}",
                row.ticket
            );
            assert!(row.notified || suppressed, "{directive} is never to be sent, says nobody");
            if let Some(id) = claim {
                let known = &self.mails[id];
                let same = known.ticket == row.ticket;
                // The mail it was written anew in came and went since the last sight.
                assert!(
                    same || known.gone == Some(Gone::Regenerated),
                    "{directive} is in {id}, and was sent with {}",
                    row.ticket
                );
                let told = !sight.mails.contains_key(id)
                    || matches!(sight.mails[id].state, State::Accepted | State::Leftover)
                    || suppressed;
                assert!(told || !same, "{directive} is sent, and {id} goes on");
            }
        }
        let sent = directives.iter().filter_map(|(id, sent)| Some((*id, sent.clone()?)));
        self.sent.extend(sent);
    }

    /// After a run of the generator nothing is pending but what waits for a group's last notification.
    fn check_all_is_written(&self, sight: &Sight) {
        let mut notified = BTreeSet::new();
        let mut pending = Vec::new();
        for (id, sent) in sight.directives.iter().flatten() {
            let claim = self.claimed.get(id).map(|mail| self.mails[mail].gone);
            let directive = &self.directives[id];
            if claim == Some(None) || sent.as_ref().is_some_and(|row| row.notified) {
                notified.insert(&directive.recipient);
            } else if sent.is_none() {
                pending.push((id, directive));
            }
        }
        for (id, directive) in pending {
            let waits = directive.may_wait && notified.contains(&directive.recipient);
            assert!(waits, "the directive {id} was not written");
        }
    }

    fn remember(&mut self, sight: &Sight, deeds: &Deeds) {
        let asks = deeds.settings.iter().all(|settings| settings.hold_uncertain);
        let reviewed = deeds.settings.iter().all(|settings| settings.hold_new);
        for (id, known) in &mut self.mails {
            let released = deeds.released.contains(id);
            known.may_go |= released || !reviewed;
            if released || !asks {
                known.in_doubt = false;
            }
            let Some(mail) = sight.mails.get(id) else { continue };
            known.last = Last {
                state: mail.state.clone(),
                busy: mail.busy,
                noted: noted(mail.record.as_ref()),
            };
            let new = &sight.received[self.received..];
            let doubtful = new.iter().any(|received| {
                let unnoted = |to: &String| !known.last.noted.contains(to);
                received.message_id() == known.message_id
                    && !received.refused
                    && received.to.iter().any(unnoted)
            });
            known.in_doubt |= doubtful && asks && !released && !mail.busy;
        }
        self.received = sight.received.len();
    }

    /// Panics unless all is done, and nothing is left.
    pub fn check_the_end(&self, sight: &Sight) {
        assert!(sight.mails.is_empty(), "mails are left");
        assert_eq!(sight.temporary, [""; 0]);
        for (id, known) in &self.mails {
            let Some(sidecar) = &known.sidecar else { continue };
            if known.gone != Some(Gone::Finished) || self.refused_for_good {
                continue;
            }
            for to in &sidecar.envelope.to {
                assert!(self.was_confirmed(sight, id, Some(to)), "{to} never got {id}");
            }
        }
        let directives = sight.directives.as_ref().expect("the database is there");
        for (directive, sent) in directives {
            assert!(sent.is_some(), "the directive {directive} was never sent");
        }
    }

    /// Mails, final dots, repetitions, kills of the deliverer.
    pub fn tally(&self, sight: &Sight) -> [usize; 4] {
        let repeated = self.mails.values().flat_map(|known| known.lost.values()).sum();
        [self.mails.len(), sight.received.len(), repeated, self.kills]
    }
}

/// Who has a mail, as is written down.
pub fn noted(record: Option<&DeliveryRecord>) -> BTreeSet<String> {
    let recipients = record.into_iter().flat_map(|record| &record.recipients);
    let have_it = recipients.filter(|(_, outcome)| outcome.state == RecipientState::Accepted);
    have_it.map(|(to, _)| to.clone()).collect()
}
