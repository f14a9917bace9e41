//! The service: looks at the outbox, has relayed what is due, has it marked, finishes what is marked.
//!
//! ```text
//!  look ──▶ accepted ──▶ marker ──▶ Event::Marked ──▶ finish (archive, sidecar, record)
//!    ▲  └─▶ due ──▶ attempt (a thread each) ──▶ Event::Report ──▶ verdict ──▶ record ──▶ accepted?
//!    │                                                               └─▶ held? flag first   └─▶ marker
//!    └── doorbell, half a minute, next attempt due, stop
//! ```
//!
//! The directory is the state, and of this program this thread alone changes it. What is kept in memory
//! only saves work: which mails are due and in the relays' hands ([`Due`]), which are in the marker's
//! ([`Unmarked`]), when to look again ([`Looks`]), and what was warned about ([`Told`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use jiff::{SignedDuration, Timestamp};
use outbox::{
    Deliverer, DeliveryRecord, DeliveryState, MailFile, MailId, MailLock, Sidecar, Snapshot, State,
};
use outbox_config::{Config, DeliverySettings, Failure, Uncertain, logging};
use tracing::{debug, error, info};

use crate::attempt::{self, Came, Found, Report, Task};
use crate::cli::StateName;
use crate::due::{Due, InHand};
use crate::event::Event;
use crate::housekeeping::{Housekeeping, remove_leftovers};
use crate::looks::Looks;
use crate::marker::Marker;
use crate::monitor::Monitor;
use crate::queue::state_name;
use crate::relays::Relays;
use crate::summary::Summary;
use crate::told::Told;
use crate::unmarked::{self, Unmarked};
use crate::verdict::{self, Circumstances, Verdict, judge};

/// How long the service waits at most where nothing tells it how long.
const LONG: Duration = Duration::from_secs(30);

/// How many mails are written down together at most: on a slow disk, each takes its time.
const TOGETHER: usize = 200;

/// How long to wait before a record that could not be written is written again.
const RECORD_AGAIN: Duration = Duration::from_secs(2);

/// How long the end waits for marks that are under way.
const LAST_MARKS: Duration = Duration::from_secs(10);

/// The deliverer at work.
pub struct Service<'a> {
    deliverer: Deliverer<'a>,
    config: Config,
    relays: Relays,
    monitor: Monitor,
    events: Receiver<Event>,
    /// Where attempts report to: the other end of `events`.
    report: Sender<Event>,
    stop: Arc<AtomicBool>,
    looks: Looks,
    due: Due,
    unmarked: Unmarked,
    /// When `delivery.rate` allows the next mail.
    next_by_rate: Instant,
    /// Mails that are to be held, and could not be flagged: tried again with each look.
    unheld: Vec<Decided>,
    told: Told,
    housekeeping: Housekeeping,
    summary: Summary,
}

/// A mail about which something was decided, and what is to be written down of it.
struct Decided {
    sidecar: Sidecar,
    file: MailFile,
    verdict: Verdict,
    /// How long the attempt took, if one was made.
    took: Option<Duration>,
    /// Held until it is written down.
    lock: Option<MailLock>,
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
        Self {
            deliverer,
            config,
            relays,
            monitor,
            events,
            report,
            stop,
            looks: Looks::new(),
            due: Due::default(),
            unmarked: Unmarked::new(marker),
            next_by_rate: Instant::now(),
            unheld: Vec::new(),
            told: Told::default(),
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
            if Instant::now() >= self.looks.due_at(!self.due.is_idle()) {
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
                Rest::Nothing if self.due.in_hand() == 0 => break,
                // Over a mail that breaks the relay the others wait for a moment only.
                Rest::Relays if self.due.in_hand() == 0 && !self.due.others_may_pass() => {
                    self.summary.relay_trouble = true;
                    break;
                }
                Rest::Marks if self.due.in_hand() == 0 => {
                    if !self.wait_for_marks(unmarked::OVERDUE)? {
                        return Ok(());
                    }
                }
                _ => {
                    // It looks only once.
                    let until = self.turn_at(rest);
                    self.wait(until.unwrap_or_else(|| Instant::now() + LONG))?;
                }
            }
        }
        self.summary.relay_trouble |= self.relays.all_rest();
        while !self.stopping()
            && !self.unmarked.is_empty()
            && self.wait_for_marks(unmarked::OVERDUE)?
        {}
        self.keep_house()
    }

    /// Waits for what the relays have heard of, and a while for marks under way. What a relay took is
    /// written down even if the work ended for an error.
    fn end(mut self, mut worked: outbox::Result<()>) -> outbox::Result<Summary> {
        self.monitor.stopping();
        self.stop.store(true, Ordering::SeqCst);
        while self.due.any_offered() {
            worked = worked.and(self.wait(Instant::now() + LONG));
        }
        for record in self.due.let_go() {
            worked = worked.and(self.unoffer(record));
        }
        self.relays.disconnect();
        let until = Instant::now() + LAST_MARKS;
        while worked.is_ok() && !self.unmarked.is_empty() {
            match self.wait_for_marks(until.saturating_duration_since(Instant::now())) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => worked = Err(error),
            }
        }
        self.summary.unmarked = self.unmarked.len();
        self.monitor.ended(&self.deliverer, self.unmarked.len());
        worked.map(|()| self.summary)
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Looks at the outbox, and sees to each mail as its state asks.
    fn look(&mut self) -> outbox::Result<()> {
        self.looks.begin();
        let unheld = std::mem::take(&mut self.unheld);
        self.write_down(unheld)?;
        let snapshot = self.deliverer.outbox().scan()?;
        self.told.oddities(&snapshot);
        let lack = self.housekeeping.watch_room(&self.deliverer, &self.config)?;
        self.monitor.room(lack);
        if let Some(trouble) = self.unmarked.listen() {
            self.monitor.database(Some(trouble.to_owned()));
        }
        self.told.begin_anew(&snapshot);
        self.due.begin_anew(&snapshot);
        self.sort_out(&snapshot)?;
        if !self.due.is_empty() && !self.housekeeping.can_record(&self.deliverer)? {
            self.due.clear();
        }
        self.looks.end();
        Ok(())
    }

    /// Sees to each mail as its state asks, and notes those to relay now.
    fn sort_out(&mut self, snapshot: &Snapshot) -> outbox::Result<()> {
        let now = outbox::now();
        let (mut decided, mut counted) = (Vec::new(), Vec::new());
        for (id, entry) in &snapshot.entries {
            self.monitor.lives();
            let mut count = |state| counted.push((state, id.written_at()));
            if self.unmarked.contains(id) {
                count(StateName::Accepted);
                continue;
            }
            if self.due.has_in_hand(id) {
                count(StateName::Queued);
                continue;
            }
            // Flagged it would be one of those.
            if self.unheld.iter().any(|mail| mail.sidecar.id == *id) {
                count(StateName::Failed);
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
            if self.told.is_unreadable(id) {
                count(StateName::Failed);
            } else if entry.sidecar {
                count(state_name(&state, record.as_ref()));
            }
            if let (State::Foreign, Some(mail)) = (&state, &entry.mail) {
                self.told.foreign(id, &self.deliverer.outbox().mail_path(mail));
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
                let uncertain = self.config.delivery.uncertain;
                let interrupted = |record| verdict::interrupted(record, uncertain, now);
                decided.extend(self.decide(id, file, record, interrupted));
            } else if record.is_none() && self.config.review.hold_new {
                decided.extend(self.decide(id, file, record, verdict::for_review));
            } else if state == State::Held {
                // A person, and no program, decides.
            } else if let Some(until) =
                not_before(&self.config.delivery, id, &state, record.as_ref(), now)
            {
                self.look_again_at(until);
            } else {
                self.due.add(id.clone(), file.clone(), record);
            }
            if decided.len() >= TOGETHER {
                self.write_down(std::mem::take(&mut decided))?;
            }
        }
        self.monitor.looked(counted.into_iter().collect());
        self.write_down(decided)
    }

    /// Decides about a mail without asking a relay.
    fn decide(
        &mut self,
        id: &MailId,
        file: &MailFile,
        record: Option<DeliveryRecord>,
        decide: impl FnOnce(DeliveryRecord) -> Verdict,
    ) -> Option<Decided> {
        let sidecar = self.readable(id, |outbox| outbox.sidecar(id))??;
        let record = record.unwrap_or_else(|| DeliveryRecord::new(id.clone()));
        let verdict = decide(record);
        Some(Decided { sidecar, file: file.clone(), verdict, took: None, lock: None })
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
        self.unmarked.is_waited_for(rest == Rest::Marks);
        Ok(rest)
    }

    fn begin_attempts(&mut self) -> outbox::Result<Rest> {
        while !self.stopping() {
            if !self.due.has_next() {
                return Ok(Rest::Nothing);
            }
            let limit = self.config.delivery.unmarked_limit;
            if self.unmarked.len() >= limit {
                return Ok(Rest::Marks);
            }
            // Those in hand may all become unmarked ones.
            if self.unmarked.len() + self.due.in_hand() >= limit {
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
            let (id, known, mut record) = self.due.take_next().expect("there is one");
            if self.config.delivery.uncertain == Uncertain::Hold {
                record.offered_at = Some(outbox::now());
                self.deliverer.record(std::slice::from_ref(&record))?;
            }
            let offered = Arc::new(AtomicBool::new(false));
            let task = Task {
                outbox: self.deliverer.outbox().clone(),
                id: id.clone(),
                known: known.clone(),
                record: record.clone(),
                turn,
                relay,
                session,
                stop: Arc::clone(&self.stop),
                offered: Arc::clone(&offered),
            };
            self.due.hand_over(id, InHand { known, record, offered });
            attempt::start(task, &self.report);
        }
        Ok(Rest::Nothing)
    }

    /// When there is something to do although nothing happens.
    fn wake_at(&mut self, rest: Rest) -> Instant {
        let until = self.looks.due_at(!self.due.is_idle());
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

    /// Waits for marks, or for whatever else happens. False if nothing did, or if the database takes no
    /// marks.
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
        let mut done = Ok(());
        // First what the relays said: until it is written down, a kill makes those mails go out twice.
        let mut decided = Vec::new();
        let mut others = Vec::new();
        for event in events {
            match event {
                Event::Report(report) => match self.conclude(*report) {
                    Ok(mail) => decided.extend(mail),
                    Err(error) => done = done.and(Err(error)),
                },
                other => others.push(other),
            }
        }
        done = done.and(self.write_down(decided));
        let mut takes_marks = true;
        for event in others {
            match event {
                Event::Look => self.looks.ring(),
                Event::Report(_) | Event::Stop => {}
                // What is about to end needs no new configuration.
                Event::Reload if self.stopping() => {}
                Event::Reload => self.reload(),
                Event::NotMarked(away) => {
                    takes_marks = false;
                    self.unmarked.not_marked();
                    self.monitor.database(away);
                }
                Event::Marked(ids) => {
                    self.monitor.marked(ids.len());
                    let mails = self.unmarked.marked(ids);
                    done = done.and(self.finish(&mails));
                }
            }
        }
        done.map(|()| takes_marks)
    }

    /// Takes a mail back from a relay's hands, and decides about it.
    fn conclude(&mut self, report: Report) -> outbox::Result<Option<Decided>> {
        let Report { id, turn, came, session, took, lock } = report;
        // At the end, those that no relay has heard of were let go.
        let Some(InHand { known, record, .. }) = self.due.take_back(&id) else { return Ok(None) };
        if !matches!(came, Came::Tried(..)) {
            // No relay was offered it.
            self.next_by_rate = Instant::now();
        }
        if lock.is_some() {
            self.told.unlocked(&id);
        }
        let (found, verdict) = match came {
            Came::NoSession(trouble) => {
                self.monitor.no_session(turn.relay());
                self.relays.end_without_session(&turn, &trouble);
                self.due.learn_of_no_session();
                self.due.add(id, known, Some(record.clone()));
                return self.unoffer(record).map(|()| None);
            }
            Came::NotNow => {
                self.relays.end(&turn, None, session);
                // What changed rings. A lock that is let go of does not.
                self.looks.soon();
                if lock.is_none() {
                    self.told.locked(&id);
                }
                return self.unoffer(record).map(|()| None);
            }
            Came::Unreadable(error) => {
                self.relays.end(&turn, None, session);
                self.leave_alone(&id, &error);
                return self.unoffer(record).map(|()| None);
            }
            Came::Unfit(found, reason) => {
                self.relays.end(&turn, None, session);
                (found, verdict::held(record, reason))
            }
            Came::Tried(found, attempt) => {
                self.monitor.tried(turn.relay(), &attempt);
                self.relays.end(&turn, Some(&attempt), session);
                self.told.readable(&id);
                let blamed = self.due.learn(&id, attempt.trouble.as_ref());
                let circumstances = self.circumstances(turn.relay(), took, blamed);
                let judged =
                    judge(record.clone(), &found.sidecar.envelope, &attempt, &circumstances);
                let Some(verdict) = judged else {
                    // Nothing was said of it: it is still to be relayed.
                    self.due.add(id, known, Some(record.clone()));
                    return self.unoffer(record).map(|()| None);
                };
                (found, verdict)
            }
        };
        let Found { sidecar, file } = *found;
        Ok(Some(Decided { sidecar, file, verdict, took: Some(took), lock }))
    }

    /// Writes down that a mail is in no relay's hands any more, if it was written down that it was.
    fn unoffer(&self, mut record: DeliveryRecord) -> outbox::Result<()> {
        if record.offered_at.take().is_none() {
            return Ok(());
        }
        if matches!(self.deliverer.outbox().sidecar(&record.id), Ok(None)) {
            // Taken back meanwhile: then what was written down for the attempt is left over.
            return remove_leftovers(&self.deliverer);
        }
        self.deliverer.record(&[record])
    }

    /// Writes verdicts down and acts on them. Flags come before records: a crash in between leaves
    /// mails that wait for a person, and never one that seems released by a person.
    fn write_down(&mut self, all: Vec<Decided>) -> outbox::Result<()> {
        let mut decided = Vec::new();
        for mut mail in all {
            self.monitor.lives();
            if !mail.verdict.record.was_held() {
                decided.push(mail);
                continue;
            }
            match self.deliverer.hold(&mail.sidecar.id, &mail.file) {
                Ok(true) => {
                    self.told.readable(&mail.sidecar.id);
                    decided.push(mail);
                }
                // Somebody removed it meanwhile: a record alone would say "released".
                Ok(false) => {}
                // Offered again, it would be refused again, and again.
                Err(error) => {
                    self.leave_alone(&mail.sidecar.id, &error);
                    drop(mail.lock.take());
                    self.unheld.push(mail);
                }
            }
        }
        if decided.is_empty() {
            return Ok(());
        }
        let mut done = Ok(());
        let records: Vec<_> = decided.iter().map(|mail| mail.verdict.record.clone()).collect();
        self.write_records(&records)?;
        // Others see the mails as the last look found them.
        self.looks.ring();
        for Decided { sidecar, file, verdict: Verdict { record, uncertain }, took, lock: _lock } in
            decided
        {
            if record.state == DeliveryState::Deferred && file.flags.retried() {
                done = done.and(self.deliverer.clear_retry(&sidecar.id, &file));
            }
            self.summary.tell(&sidecar, &record, uncertain, took);
            if let Some(next) = record.next_attempt_at {
                self.look_again_at(next);
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
    fn write_records(&mut self, records: &[DeliveryRecord]) -> outbox::Result<()> {
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
        if sidecar.mark_sent {
            self.unmarked.hand_over(sidecar, accepted_at, file);
            return Ok(());
        }
        self.finish(&[(sidecar.id, file)])
    }

    fn finish(&mut self, mails: &[(MailId, Option<MailFile>)]) -> outbox::Result<()> {
        let stuck = self.deliverer.finish(mails, !self.config.delivery.archive_for.is_zero())?;
        self.summary.finished += mails.len() - stuck.len();
        // The next look takes them up again.
        for (id, _) in mails.iter().filter(|(id, _)| stuck.iter().all(|(other, _)| other != id)) {
            debug!(mail = %id, "finished");
        }
        for (id, error) in stuck {
            self.leave_alone(&id, &error);
        }
        Ok(())
    }

    /// Notes when a mail is due.
    fn look_again_at(&mut self, time: Timestamp) {
        let wait = Duration::try_from(time.duration_since(outbox::now())).unwrap_or_default();
        self.looks.by(Instant::now() + wait);
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
        self.unmarked.connect_anew(database);
        logging::set_level(config.logging_level);
        self.config = config;
        // What was due by the old one need not be by the new one.
        self.looks.anew();
        self.next_by_rate = Instant::now();
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
        if self.told.unreadable(id, error) {
            self.summary.errors += 1;
        }
    }
}

/// Until when a mail has to wait, if that is in the future. A time further off than any wait is: the
/// clock was wrong when that was written.
pub(crate) fn not_before(
    delivery: &DeliverySettings,
    id: &MailId,
    state: &State,
    record: Option<&DeliveryRecord>,
    now: Timestamp,
) -> Option<Timestamp> {
    let (until, longest) = match (state, record) {
        (State::Deferred { until }, _) => (*until, delivery.retry_max),
        (_, None) if !delivery.minimum_age.is_zero() => {
            (later(id.written_at()?, delivery.minimum_age), delivery.minimum_age)
        }
        _ => return None,
    };
    (until > now && until <= later(now, longest)).then_some(until)
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
