//! The service: looks at the outbox, relays what is due, has it marked, finishes what is marked.
//!
//! ```text
//!  look ──▶ accepted ──▶ marker ──▶ Event::Marked ──▶ finish (archive, sidecar, record)
//!    ▲  └─▶ due ──▶ courier ──▶ verdict ──▶ record ──▶ accepted? ──▶ marker
//!    │                                         └─▶ held? flag first
//!    └── doorbell, half a minute, next attempt due, stop
//! ```
//!
//! The directory is the state. What is kept in memory only saves work: which mails the marker has
//! in hand, what was warned about, and which mail the relay was handling when it got into trouble.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant, SystemTime};

use jiff::{SignedDuration, Timestamp};
use outbox::{
    Deliverer, DeliveryRecord, DeliveryState, Entry, MailFile, MailId, Pruned, Sidecar, Snapshot,
    State,
};
use outbox_config::DeliverySettings;
use tracing::{debug, error, info, warn};

use crate::courier::{Courier, smtp_envelope};
use crate::event::Event;
use crate::marker::Marker;
use crate::marks::Mark;
use crate::smtp::RelayTrouble;
use crate::summary::Summary;
use crate::verdict::{self, Circumstances, Verdict, judge};

/// How long the service looks away at most.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// How often the archive is pruned.
const PRUNE_AGAIN: Duration = Duration::from_secs(3600);

/// How long to wait before a record that could not be written is written again.
const RECORD_AGAIN: Duration = Duration::from_secs(2);

/// How long a connection is kept without a mail for it.
const IDLE_CONNECTION: Duration = Duration::from_secs(2);

/// How long the marker may say nothing while it has marks in hand: longer than its connection and
/// its statements can take unless the server is frozen.
const MARKS_OVERDUE: Duration = Duration::from_secs(180);

/// With how many troubles of the relay in a row a mail takes the blame for them.
const BLAMED: u32 = 3;

/// How long the end waits for marks that are under way.
const LAST_MARKS: Duration = Duration::from_secs(10);

/// What is to be relayed now, in its order: how suspect a mail is, then its id, which begins with
/// the time.
type Due<'s> = BTreeMap<(u32, &'s MailId), (&'s MailFile, Option<DeliveryRecord>)>;

/// The deliverer at work.
pub struct Service<'a> {
    deliverer: Deliverer<'a>,
    settings: DeliverySettings,
    courier: Courier,
    marker: Marker,
    events: Receiver<Event>,
    stop: Arc<AtomicBool>,
    /// Whether something may have changed since the last look began.
    look: bool,
    /// When the next deferred mail is due.
    next: Option<Timestamp>,
    /// Whether the database must take marks before more is relayed.
    blocked: bool,
    /// When the marker last spoke, or had nothing to do; and whether its silence was told.
    heard: Instant,
    silent: bool,
    /// Relayed, and in the marker's hands; with the file's last known place.
    unmarked: HashMap<MailId, Option<MailFile>>,
    /// How often the relay got into trouble over a mail: it goes to the back of the queue.
    suspects: HashMap<MailId, u32>,
    warned: HashSet<PathBuf>,
    pruned: Option<Instant>,
    summary: Summary,
}

impl<'a> Service<'a> {
    /// A service that has not begun. `events` is what the marker, the doorbell and the signals
    /// report to; `stop` is looked at between mails.
    pub fn new(
        deliverer: Deliverer<'a>,
        settings: DeliverySettings,
        courier: Courier,
        marker: Marker,
        events: Receiver<Event>,
        stop: Arc<AtomicBool>,
    ) -> Self {
        Self {
            deliverer,
            settings,
            courier,
            marker,
            events,
            stop,
            look: false,
            next: None,
            blocked: false,
            heard: Instant::now(),
            silent: false,
            unmarked: HashMap::new(),
            suspects: HashMap::new(),
            warned: HashSet::new(),
            pruned: None,
            summary: Summary::default(),
        }
    }

    /// Works until told to stop.
    pub fn run(mut self) -> outbox::Result<Summary> {
        self.begin()?;
        while !self.stopping() {
            // Cleared before the look: what rings during it asks for another one.
            self.look = false;
            let snapshot = self.deliverer.outbox().scan()?;
            let next = self.work(&snapshot)?;
            self.prune();
            self.wait(next)?;
        }
        self.end()
    }

    /// Works on what is due now, waits for its marks, and ends.
    pub fn run_once(mut self) -> outbox::Result<Summary> {
        self.begin()?;
        loop {
            let snapshot = self.deliverer.outbox().scan()?;
            self.work(&snapshot)?;
            let mut taken = true;
            while taken && !self.unmarked.is_empty() && !self.stopping() {
                match self.events.recv_timeout(MARKS_OVERDUE) {
                    Ok(Event::NotMarked) | Err(_) => taken = false,
                    Ok(event) => self.handle(event)?,
                }
            }
            // Only the limit of unmarked mails leaves some that are due.
            if !self.blocked || !taken || self.stopping() {
                break;
            }
        }
        self.prune();
        self.end()
    }

    fn begin(&mut self) -> outbox::Result<()> {
        let leftovers = self.deliverer.recover()?;
        if leftovers > 0 {
            info!(leftovers, "removed delivery records of mails that were finished");
        }
        Ok(())
    }

    fn end(mut self) -> outbox::Result<Summary> {
        self.courier.disconnect();
        let until = Instant::now() + LAST_MARKS;
        while !self.unmarked.is_empty() {
            match self.events.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Event::NotMarked) | Err(_) => break,
                Ok(event) => self.handle(event)?,
            }
        }
        self.summary.unmarked = self.unmarked.len();
        self.summary.relay_trouble = self.courier.paused_until().is_some();
        Ok(self.summary)
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Goes through what a look found. Gives when a mail is due next, or the relay's pause ends.
    fn work(&mut self, snapshot: &Snapshot) -> outbox::Result<Option<Instant>> {
        self.warn_of_oddities(snapshot);
        self.listen_to_marker();
        self.suspects.retain(|id, _| snapshot.entries.contains_key(id));
        self.next = None;
        let due = self.sort_out(snapshot)?;
        if !due.is_empty() {
            self.deliverer.try_recording()?;
        }
        let blocked = !self.relay_all(due)?;
        if blocked != std::mem::replace(&mut self.blocked, blocked) && blocked {
            let unmarked = self.unmarked.len();
            warn!(
                unmarked,
                "relaying waits until the database takes marks (delivery.unmarked_limit)"
            );
        }
        let due = self.next.map(|next| {
            let wait = next.duration_since(outbox::now());
            Instant::now() + Duration::try_from(wait).unwrap_or(Duration::ZERO)
        });
        Ok([due, self.courier.paused_until()].into_iter().flatten().min())
    }

    /// Sees to each mail as its state asks, and gives those to relay now: oldest first, but those
    /// over which the relay got into trouble last.
    fn sort_out<'s>(&mut self, snapshot: &'s Snapshot) -> outbox::Result<Due<'s>> {
        let now = outbox::now();
        let longest =
            SignedDuration::try_from(self.settings.retry_max).unwrap_or(SignedDuration::MAX);
        let furthest = now.saturating_add(longest).expect("a duration is no calendar span");
        let mut due = Due::new();
        for (id, entry) in &snapshot.entries {
            if self.unmarked.contains_key(id) {
                continue;
            }
            let mut record = None;
            if entry.record {
                let Some(read) = self.readable(id, |outbox| outbox.record(id)) else { continue };
                record = read;
            }
            match entry.state(record.as_ref()) {
                State::Accepted => self.go_on_from(id, record, entry.mail.clone())?,
                // Further off than any wait is: the clock was wrong when that was written.
                State::Deferred { until } if until > now && until <= furthest => {
                    self.due_at(Some(until));
                }
                State::Queued | State::Deferred { .. } => {
                    let suspect = self.suspects.get(id).copied().unwrap_or(0);
                    let file = entry.mail.as_ref().expect("a queued mail has a file");
                    due.insert((suspect, id), (file, record));
                }
                State::Foreign => self.warn_of_foreign(id, entry),
                State::Leftover
                | State::Held
                | State::Withdrawn
                | State::Draft
                | State::Committed => {}
            }
        }
        Ok(due)
    }

    /// Relays what is due until the relay is in trouble, the program is to end, or too many mails
    /// are unmarked: then `false`.
    fn relay_all(&mut self, due: Due<'_>) -> outbox::Result<bool> {
        for ((_, id), (file, record)) in due {
            self.handle_arrived()?;
            if self.unmarked.len() >= self.settings.unmarked_limit {
                return Ok(false);
            }
            let relay_rests = self.courier.paused_until().is_some();
            if self.stopping() || relay_rests || self.courier.connect().is_err() {
                break;
            }
            self.relay(id, file, record)?;
        }
        Ok(true)
    }

    /// Relays one mail, over the connection that is there, and writes down what came of it.
    fn relay(
        &mut self,
        id: &MailId,
        known: &MailFile,
        record: Option<DeliveryRecord>,
    ) -> outbox::Result<()> {
        let Some(Some(sidecar)) = self.readable(id, |outbox| outbox.sidecar(id)) else {
            return Ok(());
        };
        let mut record = record.unwrap_or_else(|| DeliveryRecord::new(id.clone()));
        if record.was_held() {
            record.reopen();
        }
        // Looked at as late as can be: mutt may just have flagged or deleted it.
        let Some(file) = self.deliverer.outbox().refind(id, known)? else { return Ok(()) };
        if file.flags.held() || file.flags.trashed() {
            return Ok(());
        }
        let bytes = match self.deliverer.outbox().read_mail(&file, &sidecar) {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(reason)) => {
                let reason =
                    format!("{reason}; such a mail is never sent, it can only be taken back");
                return self.write_down(sidecar, &file, verdict::held(record, reason));
            }
            // Moved in this instant: the next look finds it.
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => {
                self.leave_alone(id, &error);
                return Ok(());
            }
        };
        let open = record.open_recipients(&sidecar.envelope.to);
        let envelope = match smtp_envelope(&sidecar.envelope.from, &open) {
            Ok(envelope) => envelope,
            Err(reason) => return self.write_down(sidecar, &file, verdict::held(record, reason)),
        };
        let attempt = self.courier.send(&envelope, &bytes, id.as_str());
        // An answer such as "log in first" is the same for every mail.
        let about_us = |trouble: &RelayTrouble| trouble.reply().is_some_and(|r| r.code() != 421);
        let blamed =
            attempt.trouble.as_ref().is_some_and(|trouble| !about_us(trouble)) && self.suspect(id);
        let verdict = judge(
            record,
            &sidecar.envelope,
            &attempt,
            &Circumstances {
                relay: &self.courier.relay_name(),
                settings: &self.settings,
                now: outbox::now(),
                jitter: random_fraction(),
                blamed,
            },
        );
        self.write_down(sidecar, &file, verdict)
    }

    /// Writes a verdict down and acts on it. The flag comes before the record: a crash in between
    /// leaves a mail that waits for a person, and never one that seems released by a person.
    fn write_down(
        &mut self,
        sidecar: Sidecar,
        file: &MailFile,
        verdict: Verdict,
    ) -> outbox::Result<()> {
        let Some(record) = verdict.record else { return Ok(()) };
        if verdict.hold && !self.deliverer.hold(&sidecar.id, file)? {
            // Somebody removed it meanwhile. A record without the flag would say "released".
            return Ok(());
        }
        self.record(&record)?;
        self.summary.tell(&sidecar, &record, verdict.uncertain);
        self.due_at(record.next_attempt_at);
        if record.state == DeliveryState::Accepted {
            self.summary.relayed += 1;
            self.have_marked(sidecar, record.accepted_at, Some(file.clone()))?;
        }
        Ok(())
    }

    /// Writes a record. That the relay took a mail must not get lost while this program lives: where
    /// it can't be written (a full disk), nothing else is done until it can.
    fn record(&mut self, record: &DeliveryRecord) -> outbox::Result<()> {
        let mut told = false;
        loop {
            let Err(error) = self.deliverer.record(std::slice::from_ref(record)) else {
                if told {
                    info!(mail = %record.id, "written down at last");
                }
                return Ok(());
            };
            if !record.any_accepted() && record.uncertain == 0 {
                return Err(error);
            }
            if !std::mem::replace(&mut told, true) {
                error!(
                    mail = %record.id,
                    "the relay took a mail and that can't be written down; trying until it can, for \
                     without the record the mail is sent again: {error}"
                );
            }
            // There is no event to wait for when a disk has room again.
            std::thread::sleep(RECORD_AGAIN);
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
        self.deliverer.finish(&known, !self.settings.archive_for.is_zero())?;
        self.summary.finished += known.len();
        for (id, _) in known {
            debug!(mail = %id, "marked sent and finished");
        }
        Ok(())
    }

    fn handle(&mut self, event: Event) -> outbox::Result<()> {
        match event {
            Event::Look => self.look = true,
            Event::Stop => {}
            Event::NotMarked => self.hear(),
            Event::Marked(ids) => {
                self.hear();
                self.finish(ids)?;
            }
        }
        Ok(())
    }

    fn hear(&mut self) {
        self.heard = Instant::now();
        self.silent = false;
    }

    /// Tells once that the marker is stuck: a frozen server can keep it waiting for ever.
    fn listen_to_marker(&mut self) {
        if self.unmarked.is_empty() {
            self.hear();
        } else if self.heard.elapsed() > MARKS_OVERDUE && !std::mem::replace(&mut self.silent, true)
        {
            let unmarked = self.unmarked.len();
            error!(unmarked, "the database neither takes marks nor refuses them: it seems frozen");
        }
    }

    /// Notes that the relay got into trouble over a mail. Whether that happened so often that the
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

    /// Notes when a deferred mail is due.
    fn due_at(&mut self, next: Option<Timestamp>) {
        self.next = [self.next, next].into_iter().flatten().min();
    }

    /// Deals with what arrived meanwhile, without waiting.
    fn handle_arrived(&mut self) -> outbox::Result<()> {
        while let Ok(event) = self.events.try_recv() {
            self.handle(event)?;
        }
        Ok(())
    }

    /// Waits until there is a reason to look again, or to stop.
    ///
    /// A connection is closed once nothing came for a while: the relay would close it at a time of
    /// its own choosing.
    fn wait(&mut self, next: Option<Instant>) -> outbox::Result<()> {
        let now = Instant::now();
        let again = next.map_or(now + LOOK_AGAIN, |next| next.min(now + LOOK_AGAIN));
        let idle = now + IDLE_CONNECTION;
        loop {
            self.handle_arrived()?;
            let unblocked = self.blocked && self.unmarked.len() < self.settings.unmarked_limit;
            let now = Instant::now();
            if self.stopping() || self.look || unblocked || now >= again {
                return Ok(());
            }
            if now >= idle {
                self.courier.disconnect();
            }
            let until = if self.courier.is_connected() { again.min(idle) } else { again };
            if let Ok(event) = self.events.recv_timeout(until.saturating_duration_since(now)) {
                self.handle(event)?;
            }
        }
    }

    fn prune(&mut self) {
        if self.pruned.is_some_and(|pruned| pruned.elapsed() < PRUNE_AGAIN) {
            return;
        }
        self.pruned = Some(Instant::now());
        let (age, size) = (self.settings.archive_for, self.settings.archive_size);
        match self.deliverer.prune_archive(age, size, SystemTime::now()) {
            Ok(Pruned { mails: 0, .. }) => {}
            Ok(Pruned { mails, octets }) => {
                info!(mails, octets, "removed old mails from the archive");
            }
            Err(error) => warn!("old mails stay in the archive: {error}"),
        }
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

    fn warn_of_oddities(&mut self, snapshot: &Snapshot) {
        for oddity in &snapshot.oddities {
            if self.warned.insert(oddity.path.clone()) {
                let path = oddity.path.to_string_lossy();
                warn!(%path, "a file that is not ours, left alone: {}", oddity.why);
            }
        }
    }

    fn warn_of_foreign(&mut self, id: &MailId, entry: &Entry) {
        let path = self.deliverer.outbox().mail_path(entry.mail.as_ref().expect("it is a mail"));
        if self.warned.insert(path.clone()) {
            let path = path.to_string_lossy();
            warn!(mail = %id, %path, "a mail without a sidecar: not ours, never sent");
        }
    }
}

/// A number from 0 to 1, uniform. Without a source of randomness 0.5: nothing depends on it.
fn random_fraction() -> f64 {
    getrandom::u32().map_or(0.5, |number| f64::from(number) / f64::from(u32::MAX))
}
