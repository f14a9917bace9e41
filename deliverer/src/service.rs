//! The service: looks at the outbox, has relayed what is due, has it marked, finishes what is marked.
//!
//! ```text
//!  look ──▶ accepted ──▶ marker ──▶ Event::Marked ──▶ finish (archive, sidecar, record)
//!    ▲  └─▶ due ──▶ attempt (a thread each) ──▶ Event::Report ──▶ verdict ──▶ record ──▶ accepted?
//!    │                                                               └─▶ held? flag first   └─▶ marker
//!    └── doorbell, half a minute, next attempt due, stop
//! ```
//!
//! The directory is the state, and this thread alone changes it. What is kept in memory only saves
//! work: which mails are in the relays' or the marker's hands, what was warned about, and over which
//! mails a relay got into trouble.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use jiff::{SignedDuration, Timestamp};
use outbox::{
    Deliverer, DeliveryRecord, DeliveryState, MailFile, MailId, MailLock, RecipientState, Sidecar,
    Snapshot, State,
};
use outbox_config::{Config, Failure, Uncertain, logging};
use tracing::{debug, error, info, warn};

use crate::attempt::{self, Came, Found, Report, Task};
use crate::cli::StateName;
use crate::event::Event;
use crate::housekeeping::{Housekeeping, remove_leftovers};
use crate::marker::Marker;
use crate::marks::Mark;
use crate::monitor::Monitor;
use crate::queue::state_name;
use crate::relays::Relays;
use crate::smtp::RelayTrouble;
use crate::summary::Summary;
use crate::verdict::{self, Circumstances, Verdict, judge};

/// How long the service looks away at most.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// How long it looks away at least while mails are due: its own work rings the doorbell as well, and
/// each mail's flags are looked at right before it is sent.
const BUSY: Duration = Duration::from_secs(1);

/// How many mails are written down together at most: on a slow disk, each takes its time.
const TOGETHER: usize = 200;

/// How long to wait before a record that could not be written is written again.
const RECORD_AGAIN: Duration = Duration::from_secs(2);

/// How long the marker may say nothing while it has marks in hand: longer than its connection and
/// its statements can take unless the server is frozen.
const MARKS_OVERDUE: Duration = Duration::from_secs(180);

/// With how many troubles of the relay in a row a mail takes the blame for them.
const BLAMED: u32 = 3;

/// Over how many mails in a row a relay may break before a single run gives up.
const BREAKS: u32 = 10;

/// How many other mails pass one over which a relay got into trouble, before it has its turn.
const PASSED: u32 = 20;

/// How long somebody else may have the lock of a mail until that is told.
const LOCKED_LONG: Duration = Duration::from_secs(60);

/// How long the end waits for marks that are under way.
const LAST_MARKS: Duration = Duration::from_secs(10);

/// What is to be relayed, in its order: how suspect a mail is, then its id, which begins with the
/// time.
type Due = BTreeMap<(u32, MailId), (MailFile, Option<DeliveryRecord>)>;

/// The deliverer at work.
pub struct Service<'a> {
    deliverer: Deliverer<'a>,
    config: Config,
    relays: Relays,
    marker: Marker,
    monitor: Monitor,
    events: Receiver<Event>,
    /// Where attempts report to: the other end of `events`.
    report: Sender<Event>,
    stop: Arc<AtomicBool>,
    /// Whether something may have changed since the last look began, and when that was.
    look: bool,
    looked: Instant,
    /// When the next look may begin.
    look_from: Instant,
    /// When to look again without being told to.
    look_at: Instant,
    due: Due,
    /// In a relay's hands, with what is known of them.
    in_hand: HashMap<MailId, InHand>,
    /// When `delivery.rate` allows the next mail.
    next_by_rate: Instant,
    /// Whether the database must take marks before more is relayed.
    blocked: bool,
    /// Whether the database refused marks when it was last heard of.
    refused: bool,
    /// When the marker last spoke, or had nothing to do. None once its silence was told.
    heard: Option<Instant>,
    /// Relayed, and in the marker's hands; with the file's last known place.
    unmarked: HashMap<MailId, Option<MailFile>>,
    /// How often a relay got into trouble over a mail: it goes to the back of the queue.
    suspects: HashMap<MailId, u32>,
    /// How often in a row relays broke over mails, and none went through.
    breaks: u32,
    /// How many mails went since the last one over which a relay had got into trouble.
    passed: u32,
    /// Since when somebody else has had the lock of a mail, and whether that was told.
    locked: HashMap<MailId, (Instant, bool)>,
    warned: HashSet<PathBuf>,
    housekeeping: Housekeeping,
    summary: Summary,
}

/// A mail in a relay's hands.
struct InHand {
    known: MailFile,
    record: DeliveryRecord,
    suspect: u32,
    /// Whether the relay has heard of it.
    offered: Arc<AtomicBool>,
}

/// A mail about which something was decided, and what is to be written down of it.
struct Decided {
    sidecar: Sidecar,
    file: MailFile,
    verdict: Verdict,
    /// How long the attempt took, if one was made.
    took: Option<Duration>,
    /// Held until it is written down.
    _lock: Option<MailLock>,
}

/// Why no mail is given to a relay now.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rest {
    /// None is due, or those that are wait for others.
    Nothing,
    /// All relays are in trouble.
    Relays,
    /// `delivery.rate`.
    Rate,
    /// The database must take marks first.
    Marks,
}

impl<'a> Service<'a> {
    /// A service that has not begun. `events` is what attempts, the marker, the doorbell and the
    /// signals `report` to; `stop` is looked at between mails.
    pub fn new(
        deliverer: Deliverer<'a>,
        config: Config,
        relays: Relays,
        marker: Marker,
        monitor: Monitor,
        (report, events): (Sender<Event>, Receiver<Event>),
        stop: Arc<AtomicBool>,
    ) -> Self {
        let now = Instant::now();
        Self {
            deliverer,
            config,
            relays,
            marker,
            monitor,
            events,
            report,
            stop,
            look: true,
            looked: now,
            look_from: now,
            look_at: now,
            due: Due::new(),
            in_hand: HashMap::new(),
            next_by_rate: now,
            blocked: false,
            heard: Some(now),
            unmarked: HashMap::new(),
            suspects: HashMap::new(),
            breaks: 0,
            passed: 0,
            refused: false,
            locked: HashMap::new(),
            warned: HashSet::new(),
            housekeeping: Housekeeping::default(),
            summary: Summary::default(),
        }
    }

    /// Works until told to stop.
    pub fn run(mut self) -> outbox::Result<Summary> {
        let worked = self.work();
        self.end(worked)
    }

    fn work(&mut self) -> outbox::Result<()> {
        remove_leftovers(&self.deliverer)?;
        self.monitor.ready();
        while !self.stopping() {
            if self.is_time_to_look() {
                self.look()?;
            }
            let rest = self.dispatch()?;
            self.keep_house()?;
            self.monitor.relays(self.relays.health());
            self.monitor.tell(&self.deliverer, self.unmarked.len());
            let until = self.wake_at(rest);
            self.wait(until)?;
        }
        Ok(())
    }

    /// Works on what is due now, waits for its marks, and ends.
    pub fn run_once(mut self) -> outbox::Result<Summary> {
        let worked = self.work_once();
        self.end(worked)
    }

    fn work_once(&mut self) -> outbox::Result<()> {
        remove_leftovers(&self.deliverer)?;
        self.deliverer.try_recording()?;
        self.look()?;
        while !self.stopping() {
            let rest = self.dispatch()?;
            match rest {
                Rest::Nothing if self.in_hand.is_empty() => break,
                // Over a mail that breaks the relay the others wait for a moment only.
                Rest::Relays if self.in_hand.is_empty() && !self.others_may_pass() => {
                    self.summary.relay_trouble = true;
                    break;
                }
                Rest::Marks if self.in_hand.is_empty() => {
                    if !self.wait_for_marks(MARKS_OVERDUE)? {
                        return Ok(());
                    }
                }
                _ => {
                    // It looks only once.
                    let until = self.turn_at(rest);
                    self.wait(until.unwrap_or_else(|| Instant::now() + LOOK_AGAIN))?;
                }
            }
        }
        self.summary.relay_trouble |= self.relays.all_rest();
        while !self.stopping() && !self.unmarked.is_empty() && self.wait_for_marks(MARKS_OVERDUE)? {
        }
        self.keep_house()
    }

    /// Waits for what the relays have heard of, and a while for marks under way. What a relay took is
    /// written down even if the work ended for an error.
    fn end(mut self, mut worked: outbox::Result<()>) -> outbox::Result<Summary> {
        self.monitor.stopping();
        self.stop.store(true, Ordering::SeqCst);
        while self.in_hand.values().any(|mail| mail.offered.load(Ordering::SeqCst)) {
            worked = worked.and(self.wait(Instant::now() + LOOK_AGAIN));
        }
        for (_, InHand { mut record, .. }) in std::mem::take(&mut self.in_hand) {
            let offered = record.offered_at.take().is_some();
            worked = worked.and(self.unoffer(record, offered).map(drop));
        }
        self.relays.disconnect();
        let until = Instant::now() + LAST_MARKS;
        while worked.is_ok()
            && !self.unmarked.is_empty()
            && self.wait_for_marks(until.saturating_duration_since(Instant::now()))?
        {}
        self.summary.unmarked = self.unmarked.len();
        self.monitor.ended(&self.deliverer, self.unmarked.len());
        worked.map(|()| self.summary)
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    fn is_time_to_look(&self) -> bool {
        let now = Instant::now();
        (self.look || now >= self.look_at) && now >= self.earliest()
    }

    /// When the next look may begin. A look at many mails takes its time, and thousands can become due
    /// one after the other: most of the time is for relaying them.
    fn earliest(&self) -> Instant {
        if self.due.is_empty() && self.in_hand.is_empty() {
            self.look_from
        } else {
            self.looked + BUSY
        }
    }

    /// Looks at the outbox, and sees to each mail as its state asks.
    fn look(&mut self) -> outbox::Result<()> {
        // Cleared before the look: what rings during it asks for another one.
        self.look = false;
        self.looked = Instant::now();
        self.look_at = self.looked + LOOK_AGAIN;
        let snapshot = self.deliverer.outbox().scan()?;
        self.warn_of_oddities(&snapshot);
        let lack = self.housekeeping.watch_room(&self.deliverer, &self.config)?;
        self.monitor.room(lack);
        self.listen_to_marker();
        self.suspects.retain(|id, _| snapshot.entries.contains_key(id));
        self.locked.retain(|id, _| snapshot.entries.contains_key(id));
        self.sort_out(&snapshot)?;
        if !self.due.is_empty() && !self.housekeeping.can_record(&self.deliverer)? {
            self.due.clear();
        }
        let cost = self.looked.elapsed();
        self.look_from = self.looked + (cost * 10).min(BUSY);
        Ok(())
    }

    /// Sees to each mail as its state asks, and notes those to relay now.
    fn sort_out(&mut self, snapshot: &Snapshot) -> outbox::Result<()> {
        let now = outbox::now();
        let (mut decided, mut counted) = (Vec::new(), Vec::new());
        self.due.clear();
        for (id, entry) in &snapshot.entries {
            self.monitor.lives();
            let mut count = |state| counted.push((state, id.written_at()));
            if self.unmarked.contains_key(id) {
                count(StateName::Accepted);
                continue;
            }
            if self.in_hand.contains_key(id) {
                count(StateName::Queued);
                continue;
            }
            let mut record = None;
            if entry.record {
                let Some(read) = self.readable(id, |outbox| outbox.record(id)) else {
                    count(StateName::Failed);
                    continue;
                };
                record = read;
            }
            let state = entry.state(record.as_ref());
            if entry.sidecar {
                count(state_name(&state, record.as_ref()));
            }
            if let (State::Foreign, Some(mail)) = (&state, &entry.mail) {
                self.warn_of_foreign(id, mail);
                continue;
            }
            if state == State::Accepted {
                self.go_on_from(id, record, entry.mail.clone())?;
                continue;
            }
            let (State::Queued | State::Deferred { .. } | State::Held, Some(file)) =
                (&state, &entry.mail)
            else {
                continue;
            };
            // These two count for a mail that is flagged already as well: whoever clears the flag
            // then has looked at it.
            if record.as_ref().is_some_and(|record| record.offered_at.is_some()) {
                decided.extend(self.decide(id, file, record, verdict::interrupted));
            } else if record.is_none() && self.config.review.hold_new {
                let for_review = |record, _: &Circumstances<'_>| verdict::for_review(record);
                decided.extend(self.decide(id, file, record, for_review));
            } else if state == State::Held {
                // A person, and no program, decides.
            } else if let Some(until) = self.not_before(id, &state, record.as_ref(), now) {
                self.look_again_at(until);
            } else {
                let suspect = self.suspects.get(id).copied().unwrap_or(0);
                self.due.insert((suspect, id.clone()), (file.clone(), record));
            }
            if decided.len() >= TOGETHER {
                self.write_down(std::mem::take(&mut decided))?;
            }
        }
        self.monitor.looked(counted.into_iter().collect());
        self.write_down(decided)
    }

    /// Until when a mail has to wait, if that is in the future. A time further off than any wait is:
    /// the clock was wrong when that was written.
    fn not_before(
        &self,
        id: &MailId,
        state: &State,
        record: Option<&DeliveryRecord>,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let delivery = &self.config.delivery;
        let (until, longest) = match (state, record) {
            (State::Deferred { until }, _) => (*until, delivery.retry_max),
            (_, None) if !delivery.minimum_age.is_zero() => {
                (later(id.written_at()?, delivery.minimum_age), delivery.minimum_age)
            }
            _ => return None,
        };
        (until > now && until <= later(now, longest)).then_some(until)
    }

    /// Decides about a mail without asking a relay.
    fn decide(
        &mut self,
        id: &MailId,
        file: &MailFile,
        record: Option<DeliveryRecord>,
        decide: impl FnOnce(DeliveryRecord, &Circumstances<'_>) -> Verdict,
    ) -> Option<Decided> {
        let sidecar = self.readable(id, |outbox| outbox.sidecar(id))??;
        let record = record.unwrap_or_else(|| DeliveryRecord::new(id.clone()));
        let verdict = decide(record, &self.circumstances("", Duration::ZERO, false));
        Some(Decided { sidecar, file: file.clone(), verdict, took: None, _lock: None })
    }

    fn circumstances<'s>(
        &'s self,
        relay: &'s str,
        took: Duration,
        blamed: bool,
    ) -> Circumstances<'s> {
        let (now, jitter) = (outbox::now(), random_fraction());
        Circumstances { relay, settings: &self.config.delivery, now, took, jitter, blamed }
    }

    /// Begins attempts for what is due, as many as are allowed now. Says why not more.
    fn dispatch(&mut self) -> outbox::Result<Rest> {
        let rest = self.begin_attempts()?;
        // Otherwise they are only under way.
        let blocked = rest == Rest::Marks && self.refused;
        if blocked != std::mem::replace(&mut self.blocked, blocked) && blocked {
            let unmarked = self.unmarked.len();
            warn!(
                unmarked,
                "relaying waits until the database takes marks (delivery.unmarked_limit)"
            );
        }
        Ok(rest)
    }

    fn begin_attempts(&mut self) -> outbox::Result<Rest> {
        while !self.stopping() {
            let Some(next) = self.next_due() else { return Ok(Rest::Nothing) };
            let limit = self.config.delivery.unmarked_limit;
            if self.unmarked.len() >= limit {
                return Ok(Rest::Marks);
            }
            // Those in hand may all become unmarked ones.
            if self.unmarked.len() + self.in_hand.len() >= limit {
                return Ok(Rest::Nothing);
            }
            let now = Instant::now();
            if now < self.next_by_rate {
                return Ok(Rest::Rate);
            }
            let Some((turn, relay, session)) = self.relays.begin() else {
                let trouble = self.relays.all_rest();
                return Ok(if trouble { Rest::Relays } else { Rest::Nothing });
            };
            if let Some(rate) = self.config.delivery.rate {
                self.next_by_rate = now + rate.interval();
            }
            let (known, record) = self.due.remove(&next).expect("it was just there");
            let (suspect, id) = next;
            self.passed = if suspect > 0 { 0 } else { self.passed + 1 };
            let mut record = record.unwrap_or_else(|| DeliveryRecord::new(id.clone()));
            if record.was_held() {
                record.reopen();
            }
            if self.config.delivery.uncertain == Uncertain::Hold {
                record.offered_at = Some(outbox::now());
                self.deliverer.record(std::slice::from_ref(&record))?;
            }
            let closed = record.recipients.iter();
            let closed = closed.filter(|(_, outcome)| outcome.state != RecipientState::Deferred);
            let closed = closed.map(|(address, _)| address.clone()).collect();
            let offered = Arc::new(AtomicBool::new(false));
            let in_hand =
                InHand { known: known.clone(), record, suspect, offered: Arc::clone(&offered) };
            self.in_hand.insert(id.clone(), in_hand);
            let outbox = self.deliverer.outbox().clone();
            let stop = Arc::clone(&self.stop);
            let task = Task { outbox, id, known, closed, turn, relay, session, stop, offered };
            attempt::start(task, &self.report);
        }
        Ok(Rest::Nothing)
    }

    /// The mail to relay next. Of those over which a relay got into trouble only one is in hand at a
    /// time: whatever is wrong with them must not keep all connections busy.
    fn next_due(&self) -> Option<(u32, MailId)> {
        let suspect_in_hand = self.in_hand.values().any(|mail| mail.suspect > 0);
        // New mails may keep coming.
        let passed = self
            .due
            .keys()
            .next_back()
            .filter(|(suspect, _)| *suspect > 0 && !suspect_in_hand && self.passed >= PASSED);
        let next = passed.or_else(|| self.due.keys().next())?;
        (next.0 == 0 || !suspect_in_hand).then(|| next.clone())
    }

    /// Whether a relay broke over the last mails, and there are others that it may take.
    fn others_may_pass(&self) -> bool {
        let others = self.next_due().is_some_and(|(suspect, _)| suspect == 0);
        others && (1..=BREAKS).contains(&self.breaks)
    }

    /// When there is something to do although nothing happens.
    fn wake_at(&mut self, rest: Rest) -> Instant {
        let until = if self.look { self.looked } else { self.look_at }.max(self.earliest());
        self.turn_at(rest).map_or(until, |turn| until.min(turn))
    }

    /// When a mail may be given to a relay, or a session has to be closed, although nothing happens.
    fn turn_at(&mut self, rest: Rest) -> Option<Instant> {
        let rate = (rest == Rest::Rate).then_some(self.next_by_rate);
        let turn = self.relays.next_turn().filter(|_| !self.due.is_empty());
        [self.relays.tidy(), turn, rate].into_iter().flatten().min()
    }

    /// Waits until something happens or the time has come, and sees to all that has happened.
    fn wait(&mut self, until: Instant) -> outbox::Result<()> {
        self.monitor.lives();
        let wait = until.saturating_duration_since(Instant::now());
        let wait = self.monitor.interval().map_or(wait, |interval| wait.min(interval));
        let Ok(first) = self.events.recv_timeout(wait) else { return Ok(()) };
        // All that is here: the records of many mails are made durable together.
        let events: Vec<Event> = std::iter::once(first).chain(self.events.try_iter()).collect();
        self.handle(events).map(drop)
    }

    /// Waits for marks. Whether some came, and not the news that the database takes none.
    fn wait_for_marks(&mut self, longest: Duration) -> outbox::Result<bool> {
        let until = Instant::now() + longest;
        loop {
            self.monitor.lives();
            let left = until.saturating_duration_since(Instant::now());
            let wait = self.monitor.interval().map_or(left, |interval| left.min(interval));
            match self.events.recv_timeout(wait) {
                Ok(event) => return self.handle(vec![event]),
                Err(_) if wait == left => return Ok(false),
                Err(_) => {}
            }
        }
    }

    /// Sees to what has happened. Whether the database takes marks as far as these tell. An error keeps
    /// none of the others from being seen to.
    fn handle(&mut self, events: Vec<Event>) -> outbox::Result<bool> {
        let mut decided = Vec::new();
        let mut takes_marks = true;
        let mut done = Ok(());
        for event in events {
            match event {
                Event::Look => self.look = true,
                Event::Stop => {}
                // What is about to end needs no new configuration.
                Event::Reload if self.stopping() => {}
                Event::Reload => self.reload(),
                Event::NotMarked(away) => {
                    takes_marks = false;
                    self.refused = true;
                    self.hear();
                    self.monitor.database(away);
                }
                Event::Marked(ids) => {
                    self.refused = false;
                    self.hear();
                    self.monitor.marked(ids.len());
                    done = done.and(self.finish(ids));
                }
                Event::Report(report) => match self.take_back(*report) {
                    Ok(mail) => decided.extend(mail),
                    Err(error) => done = done.and(Err(error)),
                },
            }
        }
        let written = self.write_down(decided);
        done.and(written).map(|()| takes_marks)
    }

    /// Takes a mail back from a relay's hands, and decides about it.
    fn take_back(&mut self, report: Report) -> outbox::Result<Option<Decided>> {
        let Report { id, turn, came, session, took, lock } = report;
        let InHand { known, mut record, .. } = self.in_hand.remove(&id).expect("it was in hand");
        match &came {
            Came::NoSession(trouble) => {
                self.monitor.no_session(turn.relay());
                self.breaks = 0;
                self.relays.end_without_session(&turn, trouble);
            }
            Came::Tried(_, attempt) => {
                self.monitor.tried(turn.relay(), attempt);
                self.relays.end(&turn, Some(attempt), session);
                let broke = attempt.trouble.as_ref().is_some_and(RelayTrouble::may_be_the_mails);
                self.breaks = if broke { self.breaks + 1 } else { 0 };
                if attempt.trouble.is_none() {
                    self.suspects.remove(&id);
                }
            }
            _ => self.relays.end(&turn, None, session),
        }
        if !matches!(came, Came::Tried(..)) {
            // No relay was offered it.
            self.next_by_rate = Instant::now();
        }
        if lock.is_some() {
            self.locked.remove(&id);
        }
        let offered = record.offered_at.take().is_some();
        let before = record.clone();
        let decided = match came {
            Came::NoSession(_) => None,
            Came::NotNow => {
                // What changed rings. A lock that is let go of does not.
                self.look_at = self.look_at.min(Instant::now() + BUSY);
                if lock.is_none() {
                    self.warn_of_lock(&id);
                }
                return self.unoffer(before, offered);
            }
            Came::Unreadable(error) => {
                self.leave_alone(&id, &error);
                return self.unoffer(before, offered);
            }
            Came::Unfit(found, reason) => Some((found, verdict::held(record, reason))),
            Came::Tried(found, attempt) => {
                let trouble = attempt.trouble.as_ref();
                let blamed =
                    trouble.is_some_and(RelayTrouble::may_be_the_mails) && self.suspect(&id);
                let circumstances = self.circumstances(turn.relay(), took, blamed);
                let verdict = judge(record, &found.sidecar.envelope, &attempt, &circumstances);
                Some((found, verdict))
            }
        };
        if let Some((found, verdict)) = decided
            && verdict.record.is_some()
        {
            let Found { sidecar, file } = *found;
            return Ok(Some(Decided { sidecar, file, verdict, took: Some(took), _lock: lock }));
        }
        // Nothing was said of it: it is still to be relayed.
        let suspect = self.suspects.get(&id).copied().unwrap_or(0);
        self.due.insert((suspect, id), (known, Some(before.clone())));
        self.unoffer(before, offered)
    }

    /// Writes down that a mail is in no relay's hands any more, if it was written down that it was.
    fn unoffer(
        &mut self,
        record: DeliveryRecord,
        offered: bool,
    ) -> outbox::Result<Option<Decided>> {
        if offered && matches!(self.deliverer.outbox().sidecar(&record.id), Ok(None)) {
            // Taken back meanwhile: then what was written down for the attempt is left over.
            remove_leftovers(&self.deliverer)?;
        } else if offered {
            self.deliverer.record(&[record])?;
        }
        Ok(None)
    }

    /// Writes verdicts down and acts on them. Flags come before records: a crash in between leaves
    /// mails that wait for a person, and never one that seems released by a person.
    fn write_down(&mut self, mut decided: Vec<Decided>) -> outbox::Result<()> {
        let mut done = Ok(());
        let mut records = Vec::with_capacity(decided.len());
        decided.retain(|mail| {
            self.monitor.lives();
            let Some(record) = &mail.verdict.record else { return false };
            if mail.verdict.hold {
                match self.deliverer.hold(&mail.sidecar.id, &mail.file) {
                    Ok(true) => {}
                    // Somebody removed it meanwhile. A record without the flag would say "released".
                    Ok(false) => return false,
                    Err(error) => {
                        done = std::mem::replace(&mut done, Ok(())).and(Err(error));
                        return false;
                    }
                }
            }
            records.push(record.clone());
            true
        });
        if records.is_empty() {
            return done;
        }
        self.record(&records)?;
        // Others see the mails as the last look found them.
        self.look = true;
        for (Decided { sidecar, file, verdict, took, _lock }, record) in
            decided.into_iter().zip(records)
        {
            if record.state == DeliveryState::Deferred && file.flags.retried() {
                done = done.and(self.deliverer.retried(&sidecar.id, &file));
            }
            self.summary.tell(&sidecar, &record, verdict.uncertain, took);
            match record.next_attempt_at {
                Some(next) => self.look_again_at(next),
                // Due at once.
                None => self.look |= record.state == DeliveryState::Deferred,
            }
            if record.state == DeliveryState::Accepted {
                self.summary.relayed += 1;
                done = done.and(self.have_marked(sidecar, record.accepted_at, Some(file)));
            }
        }
        done
    }

    /// Writes records. That a relay took a mail must not get lost while this program lives: where
    /// it can't be written (a full disk), nothing else is done until it can.
    fn record(&mut self, records: &[DeliveryRecord]) -> outbox::Result<()> {
        let mut told = false;
        loop {
            let Err(error) = self.deliverer.record(records) else {
                if told {
                    info!(mails = records.len(), "written down at last");
                }
                return Ok(());
            };
            let taken: Vec<&str> = records
                .iter()
                .filter(|record| record.any_accepted() || record.uncertain > 0)
                .map(|record| record.id.as_str())
                .collect();
            if taken.is_empty() {
                return Err(error);
            }
            if !std::mem::replace(&mut told, true) {
                error!(
                    mail = taken.join(" "),
                    "the relay took a mail and that can't be written down; trying until it can, for \
                     without the record the mail is sent again: {error}"
                );
            }
            // There is no event to wait for when a disk has room again.
            std::thread::sleep(RECORD_AGAIN);
            self.monitor.lives();
        }
    }

    /// Takes up an accepted mail where an earlier run, or a database that was away, left it.
    fn go_on_from(
        &mut self,
        id: &MailId,
        record: Option<DeliveryRecord>,
        file: Option<MailFile>,
    ) -> outbox::Result<()> {
        let Some(Some(sidecar)) = self.readable(id, |outbox| outbox.sidecar(id)) else {
            return Ok(());
        };
        self.have_marked(sidecar, record.and_then(|record| record.accepted_at), file)
    }

    /// Hands an accepted mail to the marker; a copy has nothing to mark and is finished at once.
    fn have_marked(
        &mut self,
        sidecar: Sidecar,
        accepted_at: Option<Timestamp>,
        file: Option<MailFile>,
    ) -> outbox::Result<()> {
        self.unmarked.insert(sidecar.id.clone(), file);
        if !sidecar.mark_sent {
            return self.finish(vec![sidecar.id]);
        }
        self.marker.mark(Mark {
            id: sidecar.id,
            ticket: sidecar.ticket,
            sent_at: accepted_at.unwrap_or(sidecar.created_at),
            directive_ids: sidecar.directive_ids,
        });
        Ok(())
    }

    fn finish(&mut self, ids: Vec<MailId>) -> outbox::Result<()> {
        let known: Vec<_> = ids
            .into_iter()
            .filter_map(|id| self.unmarked.remove(&id).map(|file| (id, file)))
            .collect();
        self.deliverer.finish(&known, !self.config.delivery.archive_for.is_zero())?;
        self.summary.finished += known.len();
        for (id, _) in known {
            debug!(mail = %id, "marked sent and finished");
        }
        Ok(())
    }

    fn hear(&mut self) {
        self.heard = Some(Instant::now());
    }

    /// Tells once that the marker is stuck: a frozen server can keep it waiting for ever.
    fn listen_to_marker(&mut self) {
        if self.unmarked.is_empty() {
            self.hear();
        } else if self.heard.is_some_and(|heard| heard.elapsed() > MARKS_OVERDUE) {
            self.heard = None;
            let unmarked = self.unmarked.len();
            error!(unmarked, "the database neither takes marks nor refuses them: it seems frozen");
        }
    }

    /// Notes that a relay got into trouble over a mail. Whether that happened so often that the
    /// mail is to blame, and then begins to count anew.
    fn suspect(&mut self, id: &MailId) -> bool {
        let count = self.suspects.entry(id.clone()).or_default();
        *count += 1;
        let blamed = *count >= BLAMED;
        if blamed {
            self.suspects.remove(id);
        }
        blamed
    }

    /// Notes when a mail is due.
    fn look_again_at(&mut self, time: Timestamp) {
        let wait = Duration::try_from(time.duration_since(outbox::now())).unwrap_or_default();
        self.look_at = self.look_at.min(Instant::now() + wait);
    }

    /// Reads the configuration anew. One that can't be used changes nothing.
    fn reload(&mut self) {
        self.monitor.reloading();
        match self.try_reload() {
            Ok(()) => info!(relays = self.relays.names().join(" "), "configuration read anew"),
            Err(failure) => {
                error!("the configuration can't be used, and the old one stays: {failure}");
            }
        }
        self.monitor.ready();
    }

    fn keep_house(&mut self) -> outbox::Result<()> {
        let removed = self.housekeeping.keep(&self.deliverer, &self.config)?;
        self.monitor.archive_removed(removed);
        Ok(())
    }

    fn try_reload(&mut self) -> Result<(), Failure> {
        let config = self.config.reload()?;
        for (same, key) in [
            (config.outbox.path == self.config.outbox.path, "outbox.path"),
            (config.metrics == self.config.metrics, "metrics"),
        ] {
            if !same {
                let text = format!("{key} can't change while the service runs: restart it");
                return Err(Failure::Configuration(anyhow!(text)));
            }
        }
        let database = config.database()?.event.clone();
        database.password()?;
        self.relays.configure(config.smtp()?, &config.delivery)?;
        self.marker.connect_anew(database);
        logging::set_level(config.logging_level);
        self.config = config;
        // What was due by the old one need not be by the new one.
        let now = Instant::now();
        (self.look_at, self.look_from, self.next_by_rate) = (now, now, now);
        self.looked = now.checked_sub(BUSY).unwrap_or(now);
        Ok(())
    }

    /// Reads a file of the mail. One that can't be read is told about once, and the mail is left
    /// alone: `None`.
    fn readable<T>(
        &mut self,
        id: &MailId,
        read: impl FnOnce(&outbox::Outbox) -> outbox::Result<T>,
    ) -> Option<T> {
        match read(self.deliverer.outbox()) {
            Ok(value) => Some(value),
            Err(error) => {
                self.leave_alone(id, &error);
                None
            }
        }
    }

    fn leave_alone(&mut self, id: &MailId, error: &outbox::Error) {
        if self.warned.insert(PathBuf::from(id.as_str())) {
            self.summary.errors += 1;
            error!(mail = %id, "left alone until mended: {error}");
        }
    }

    /// A person who takes a mail back has its lock for moments.
    fn warn_of_lock(&mut self, id: &MailId) {
        let (since, told) = self.locked.entry(id.clone()).or_insert((Instant::now(), false));
        if since.elapsed() >= LOCKED_LONG && !std::mem::replace(told, true) {
            let seconds = since.elapsed().as_secs();
            warn!(mail = %id, seconds, "somebody has the lock of a mail, which waits for that");
        }
    }

    fn warn_of_oddities(&mut self, snapshot: &Snapshot) {
        for oddity in &snapshot.oddities {
            if self.warned.insert(oddity.path.clone()) {
                let path = oddity.path.to_string_lossy();
                warn!(%path, "a file that is not ours, left alone: {}", oddity.why);
            }
        }
    }

    fn warn_of_foreign(&mut self, id: &MailId, mail: &MailFile) {
        let path = self.deliverer.outbox().mail_path(mail);
        if self.warned.insert(path.clone()) {
            let path = path.to_string_lossy();
            warn!(mail = %id, %path, "a mail without a sidecar: not ours, never sent");
        }
    }
}

/// A time so much later; the furthest there is, should that be beyond it.
fn later(time: Timestamp, by: Duration) -> Timestamp {
    let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
    time.saturating_add(by).expect("a duration is no calendar span")
}

/// A number from 0 to 1, uniform. Without a source of randomness 0.5: nothing depends on it.
fn random_fraction() -> f64 {
    getrandom::u32().map_or(0.5, |number| f64::from(number) / f64::from(u32::MAX))
}
