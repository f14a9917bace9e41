//! The relays in their order: how each is doing, which one takes the next mail, and the sessions
//! that wait for a mail.
//!
//! ```text
//!            ┌── works: up to delivery.connections at the same time, one while it says "too many"
//!  unknown ──┤                 ▲ one attempt goes through: INFO
//!  one at    └── trouble ──────┘
//!  a time        WARN, left alone for 2 s … 5 min, then one attempt at a time
//!  (one more after each five seconds in which nothing came of it)
//! ```
//!
//! All mails go to the first relay. The next one gets them only while those before it are in trouble,
//! or sit on every mail they have. What goes wrong with a relay counts against no mail.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use outbox_config::{ConfigError, DeliverySettings, SmtpSettings};
use tracing::{debug, info, warn};

use crate::health::{RelayHealth, Trouble};
use crate::smtp::{Attempt, Connection, Outcome, Phase, Relay, RelayTrouble, Reply};

/// How long a relay is left alone after trouble: doubling between these two.
const PAUSE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(300));

/// How long a relay gets one connection at a time after it said that there are too many.
const NARROW: Duration = Duration::from_secs(60);

/// How long a relay may sit on all the mails it has before the next relay is asked as well.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long the one mail that tries a relay out may take before another one does as well: it may be
/// the mail that is slow.
const SLOW: Duration = Duration::from_secs(5);

/// How long a session is kept without a mail for it: a relay would end it at a time of its own
/// choosing.
const IDLE: Duration = Duration::from_secs(2);

/// The relays.
pub struct Relays {
    known: Vec<Known>,
    connections: usize,
    mails_per_connection: u32,
    connection_age: Duration,
    /// Sessions without a mail.
    idle: Vec<(usize, Session, Instant)>,
    /// How often these were configured: a turn of before has nothing to tell.
    generation: u32,
}

/// One relay, and what is known of it.
struct Known {
    relay: Arc<Relay>,
    name: Arc<str>,
    health: Health,
    /// Until when it gets one connection at a time.
    narrow: Option<Instant>,
    /// When each mail that is with it now was given to it.
    with_it: Vec<Instant>,
    /// Since when it has sat on all that it has, once that was told.
    silent: Option<Timestamp>,
}

enum Health {
    /// Not asked yet.
    Unknown,
    Works,
    Trouble {
        /// Since when, and what it last came to.
        known: Trouble,
        /// When it was last found so.
        found: Instant,
        /// Until when it is left alone: by the clock that nobody sets, and by the one that is told.
        until: Instant,
        paused_until: Timestamp,
        pause: Duration,
    },
}

/// Which relay is to be asked, as far as one of them tells.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ask {
    /// This one.
    This,
    /// The next one: this one is in trouble, or sits on all that it has.
    Next,
    /// None: this one has all it may have, and will be done with some of it soon.
    Later,
}

/// A connection, and how much it was used.
pub struct Session {
    /// Over which mails go.
    pub connection: Connection,
    /// When it was made.
    pub opened: Instant,
    /// How many mails were begun on it.
    pub mails: u32,
}

/// The right to bring one mail to a relay. To be given back with [`Relays::end`].
#[derive(Debug)]
pub struct Turn {
    generation: u32,
    index: usize,
    name: Arc<str>,
    since: Instant,
}

impl Turn {
    /// The name of the relay whose turn it is.
    pub fn relay(&self) -> &str {
        &self.name
    }
}

impl Relays {
    /// The configured relays. Nothing is connected to yet.
    pub fn new(relays: &[SmtpSettings], limits: &DeliverySettings) -> Result<Self, ConfigError> {
        let mut new = Self {
            known: Vec::new(),
            connections: 0,
            mails_per_connection: 0,
            connection_age: Duration::ZERO,
            idle: Vec::new(),
            generation: 0,
        };
        new.configure(relays, limits)?;
        Ok(new)
    }

    /// Takes these relays and limits instead, and forgets how the relays were doing. Changes nothing
    /// if it fails. What is in a relay's hands comes back all the same.
    pub fn configure(
        &mut self,
        relays: &[SmtpSettings],
        limits: &DeliverySettings,
    ) -> Result<(), ConfigError> {
        let known = |settings| {
            let relay = Relay::configured(settings)?;
            let name: Arc<str> = relay.name().into();
            // What it has in hand it still has, and its connections count.
            let before = self.known.iter().find(|known| known.name == name);
            Ok(Known {
                relay: Arc::new(relay),
                health: Health::Unknown,
                narrow: None,
                silent: None,
                with_it: before.map(|known| known.with_it.clone()).unwrap_or_default(),
                name,
            })
        };
        self.known = relays.iter().map(known).collect::<Result<_, ConfigError>>()?;
        self.connections = limits.connections.get();
        self.mails_per_connection = limits.mails_per_connection.get();
        self.connection_age = limits.connection_age;
        self.idle.drain(..).for_each(|(_, session, _)| quit(session));
        self.generation += 1;
        Ok(())
    }

    /// How each does, in order.
    pub fn health(&self) -> Vec<RelayHealth> {
        self.known.iter().map(Known::health).collect()
    }

    /// The relays' names, host and port, in order.
    pub fn names(&self) -> Vec<&str> {
        self.known.iter().map(|known| &*known.name).collect()
    }

    /// A turn for one more mail, if there is one now.
    pub fn begin(&mut self) -> Option<(Turn, Arc<Relay>, Option<Session>)> {
        let now = Instant::now();
        let index = self.next(now)?;
        let idle = self.idle.iter().rposition(|(of, ..)| *of == index);
        let session = idle.map(|at| self.idle.remove(at).1);
        let known = &mut self.known[index];
        known.with_it.push(now);
        let name = Arc::clone(&known.name);
        let turn = Turn { generation: self.generation, index, name, since: now };
        Some((turn, Arc::clone(&known.relay), session))
    }

    /// The first relay in order that may have one more mail. If none may, one that is tried out with a
    /// mail that takes long: it may be the mail.
    fn next(&self, now: Instant) -> Option<usize> {
        for (index, known) in self.known.iter().enumerate() {
            match known.ask(now, self.connections) {
                Ask::This => return Some(index),
                Ask::Next => {}
                Ask::Later => break,
            }
        }
        self.known.iter().position(|known| {
            known.narrow.is_none()
                && known.is_tried_out_slowly(now)
                && known.with_it.len() < self.connections
        })
    }

    /// Ends a turn. `attempt` is what came of it, where the relay was asked at all; `session` what
    /// can be used again.
    pub fn end(&mut self, turn: &Turn, attempt: Option<&Attempt>, session: Option<Session>) {
        let current = self.give_back(turn);
        if let (true, Some(attempt)) = (current, attempt) {
            self.learn(turn, attempt.trouble.as_ref(), too_many(attempt).as_ref());
        }
        let Some(session) = session else { return };
        let rested = !current || self.known[turn.index].rests();
        let used_up = session.mails >= self.mails_per_connection
            || session.opened.elapsed() >= self.connection_age;
        if rested || used_up {
            quit(session);
        } else {
            self.idle.push((turn.index, session, Instant::now()));
        }
    }

    /// Ends a turn in which no session came about.
    pub fn end_without_session(&mut self, turn: &Turn, trouble: &RelayTrouble) {
        if self.give_back(turn) {
            let too_many = trouble.reply().filter(|reply| says_too_many(reply));
            self.learn(turn, Some(trouble), too_many);
        }
    }

    /// Whether the turn is one of the present relays'.
    fn give_back(&mut self, turn: &Turn) -> bool {
        for known in self.known.iter_mut().filter(|known| known.name == turn.name) {
            if let Some(at) = known.with_it.iter().position(|&since| since == turn.since) {
                known.with_it.swap_remove(at);
                break;
            }
        }
        turn.generation == self.generation
    }

    /// Learns from an attempt: what trouble there was, and the reply that said "too many", if one did.
    fn learn(&mut self, turn: &Turn, trouble: Option<&RelayTrouble>, too_many: Option<&Reply>) {
        let known = &mut self.known[turn.index];
        // A relay that has other mails in hand does work; it only wants no more of them.
        let only_busy =
            too_many.is_some() && matches!(known.health, Health::Works) && known.has_company();
        let narrow_already = known.narrow.is_some();
        if too_many.is_some() {
            known.narrow();
        }
        match (trouble, too_many) {
            (Some(_), _) if only_busy => {}
            (Some(trouble), _) => known.pause(turn, trouble),
            // One at a time is too many as well. It would say so to each mail.
            (None, Some(reply)) if narrow_already && !known.has_company() => {
                known.pause(turn, &RelayTrouble::answered(Phase::Mail, reply.clone()));
            }
            (None, _) => known.works(turn),
        }
        if self.known[turn.index].rests() {
            // They would be found closed, or hung like the one that failed.
            self.idle.retain(|(of, ..)| *of != turn.index);
        }
    }

    /// Whether all of them are left alone for now.
    pub fn all_rest(&self) -> bool {
        self.known.iter().all(Known::rests)
    }

    /// When there may be a turn again although nothing else happens: a pause ends, a trial, or
    /// patience.
    pub fn next_turn(&self) -> Option<Instant> {
        let now = Instant::now();
        let times = self.known.iter().flat_map(|known| {
            let pause = match known.health {
                Health::Trouble { until, .. } => Some(until),
                _ => None,
            };
            let patience = known.with_it.iter().map(|&since| since + PATIENCE);
            let slow = known.with_it.iter().map(|&since| since + SLOW);
            [pause, known.narrow].into_iter().flatten().chain(patience).chain(slow)
        });
        times.filter(|&at| at > now).min()
    }

    /// Closes what waited too long for a mail, and ends what is over. Gives when there is more of
    /// that to do.
    pub fn tidy(&mut self) -> Option<Instant> {
        let now = Instant::now();
        for known in &mut self.known {
            if !known.sits_on_all(now) {
                known.silent = None;
            } else if known.silent.is_none() {
                let mails = known.with_it.len();
                warn!(relay = &*known.name, mails, "the relay sits on all mails that it has");
                known.silent = Some(outbox::now());
            }
            if known.narrow.is_some_and(|until| now >= until) {
                known.narrow = None;
                info!(relay = &*known.name, "the relay may have all connections again");
            }
        }
        let stale = self.idle.extract_if(.., |(_, _, since)| now.duration_since(*since) >= IDLE);
        stale.for_each(|(_, session, _)| quit(session));
        let idle = self.idle.iter().map(|(_, _, since)| *since + IDLE);
        idle.chain(self.known.iter().filter_map(|known| known.narrow)).min()
    }

    /// Says goodbye wherever there is a session, and waits for that.
    pub fn disconnect(&mut self) {
        thread::scope(|scope| {
            for (_, session, _) in self.idle.drain(..) {
                // Without a thread to be had it is closed without a word.
                let quit = || session.connection.quit();
                let _ = thread::Builder::new().spawn_scoped(scope, quit);
            }
        });
    }
}

impl Known {
    fn health(&self) -> RelayHealth {
        let (trouble, paused_until) = match &self.health {
            Health::Trouble { known, paused_until, .. } => {
                (Some(known.clone()), self.rests().then_some(*paused_until))
            }
            Health::Unknown | Health::Works => {
                let words = || "it sits on all mails that it has".to_owned();
                (self.silent.map(|since| Trouble { since, words: words() }), None)
            }
        };
        RelayHealth { name: self.name.to_string(), trouble, paused_until }
    }

    /// Whether it is left alone for now.
    fn rests(&self) -> bool {
        matches!(self.health, Health::Trouble { until, .. } if Instant::now() < until)
    }

    /// Whether it is to be asked to take one more mail.
    fn ask(&self, now: Instant, connections: usize) -> Ask {
        let patient = |since: Instant| now.duration_since(since) < PATIENCE;
        match self.health {
            Health::Works => {
                let room = if self.narrow.is_some() { 1 } else { connections };
                if self.with_it.len() < room {
                    Ask::This
                } else if self.sits_on_all(now) {
                    Ask::Next
                } else {
                    Ask::Later
                }
            }
            Health::Unknown | Health::Trouble { .. } => {
                let trial = self.trials().min();
                if self.rests() {
                    Ask::Next
                } else if trial.is_none() && self.with_it.len() < connections {
                    Ask::This
                } else if matches!(self.health, Health::Unknown) && trial.is_some_and(patient) {
                    Ask::Later
                } else {
                    Ask::Next
                }
            }
        }
    }

    /// Whether nothing has come of all the mails it has, for long.
    fn sits_on_all(&self, now: Instant) -> bool {
        let long = |&since: &Instant| now.duration_since(since) >= PATIENCE;
        !self.with_it.is_empty() && self.with_it.iter().all(long)
    }

    /// When the mails were given to it that try out whether it works. What it had in hand when it got
    /// into trouble tells nothing, however long that takes.
    fn trials(&self) -> impl Iterator<Item = Instant> {
        let from = match self.health {
            Health::Trouble { found, .. } => Some(found),
            _ => None,
        };
        self.with_it.iter().copied().filter(move |&since| from.is_none_or(|from| since >= from))
    }

    /// Whether it is tried out, and all mails that do so take long.
    fn is_tried_out_slowly(&self, now: Instant) -> bool {
        !matches!(self.health, Health::Works)
            && !self.rests()
            && self.trials().next().is_some()
            && self.trials().all(|since| now.duration_since(since) >= SLOW)
    }

    fn has_company(&self) -> bool {
        !self.with_it.is_empty()
    }

    /// One WARN when trouble begins, the rest of it at DEBUG.
    fn pause(&mut self, turn: &Turn, trouble: &RelayTrouble) {
        let now = Instant::now();
        let relay = &*self.name;
        let (since, pause) = match self.health {
            // Begun before the trouble was known, and so no news.
            Health::Trouble { found, .. } if turn.since < found => return,
            Health::Trouble { ref known, pause, .. } => {
                debug!(relay, "the relay is still in trouble: {trouble}");
                let longer = (pause * 2).min(PAUSE.1);
                (known.since, if trouble.may_be_the_mails() { pause } else { longer })
            }
            Health::Unknown | Health::Works => {
                warn!(relay, "the relay is in trouble and left alone for a while: {trouble}");
                (outbox::now(), PAUSE.0)
            }
        };
        let known = Trouble { since, words: trouble.to_string() };
        let paused_until =
            outbox::now() + SignedDuration::try_from(pause).expect("it is minutes at most");
        let until = now + pause;
        self.health = Health::Trouble { known, found: now, until, paused_until, pause };
    }

    fn works(&mut self, turn: &Turn) {
        if let Health::Trouble { known, found, .. } = &self.health {
            if turn.since < *found {
                return;
            }
            let seconds = known.duration(outbox::now()).as_secs();
            info!(relay = &*self.name, seconds, "the relay works again");
        }
        self.health = Health::Works;
    }

    fn narrow(&mut self) {
        let relay = &*self.name;
        if self.narrow.replace(Instant::now() + NARROW).is_none() {
            warn!(
                relay,
                "the relay says that these are too many: one connection at a time for a while"
            );
        }
    }
}

/// Says goodbye. Nobody waits for that.
fn quit(session: Session) {
    // Without a thread to be had it is closed without a word.
    let _ = thread::Builder::new().spawn(move || session.connection.quit());
}

/// What a relay said in an attempt of too many connections or mails.
fn too_many(attempt: &Attempt) -> Option<Reply> {
    let trouble = attempt.trouble.iter().filter_map(RelayTrouble::reply);
    let deferred = attempt.recipients.iter().filter_map(|recipient| match &recipient.outcome {
        Outcome::Deferred(reply) => Some(reply),
        _ => None,
    });
    trouble.chain(deferred).find(|reply| says_too_many(reply)).cloned()
}

/// 452 is not among them: too many recipients are no matter of connections (RFC 5321, 4.5.3.1.10).
fn says_too_many(reply: &Reply) -> bool {
    let words = reply.to_string().to_ascii_lowercase();
    matches!(reply.code(), 421 | 450 | 451)
        && (words.contains("too many") || words.contains("too much mail"))
}

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::{Cause, Recipient};

    pub(super) fn relays(count: usize) -> Relays {
        let settings =
            |n| serde_json::from_str(&format!(r#"{{"host": "127.0.0.1", "port": {n}}}"#)).unwrap();
        let settings: Vec<SmtpSettings> = (1..=count).map(settings).collect();
        Relays::new(&settings, &DeliverySettings::default()).unwrap()
    }

    /// The relay whose turn it is, by its place in the configuration.
    pub(super) fn begin(relays: &mut Relays) -> Option<(usize, Turn)> {
        relays.begin().map(|(turn, ..)| (turn.index + 1, turn))
    }

    fn begin_all(relays: &mut Relays) -> Vec<Turn> {
        std::iter::from_fn(|| begin(relays).map(|(_, turn)| turn)).collect()
    }

    pub(super) fn attempt(trouble: Option<RelayTrouble>) -> Attempt {
        Attempt {
            recipients: Vec::new(),
            refusal: None,
            reusable: false,
            trouble,
            phases: Vec::new(),
        }
    }

    pub(super) fn refused() -> RelayTrouble {
        let cause = Cause::Unreachable("connection refused".into());
        RelayTrouble { phase: Phase::Connect, cause, stale: false }
    }

    pub(super) fn answered(code: u16, words: &str) -> RelayTrouble {
        let cause = Cause::Answered(Reply::of(code, words));
        RelayTrouble { phase: Phase::Greeting, cause, stale: false }
    }

    pub(super) fn lost_with_a_mail() -> RelayTrouble {
        let cause = Cause::Lost("closed by the relay".into());
        RelayTrouble { phase: Phase::Data, cause, stale: false }
    }

    fn pause_of(relays: &Relays, index: usize) -> Option<Duration> {
        match relays.known[index].health {
            Health::Trouble { pause, .. } => Some(pause),
            _ => None,
        }
    }

    /// As if the first relay had had all its mails for so long.
    fn took(relays: &mut Relays, time: Duration) {
        let begun = Instant::now().checked_sub(time).unwrap();
        relays.known[0].with_it.iter_mut().for_each(|since| *since = begun);
    }

    /// As if its pause were over.
    pub(super) fn end_pause(relays: &mut Relays, index: usize) {
        if let Health::Trouble { until, .. } = &mut relays.known[index].health {
            *until = Instant::now();
        }
    }

    #[test]
    fn a_relay_gets_one_mail_until_it_is_known_to_work_and_then_as_many_as_it_may_have() {
        let mut relays = relays(2);
        let turns = begin_all(&mut relays);
        assert_eq!(turns.len(), 1);
        relays.end(&turns[0], Some(&attempt(None)), None);
        let turns = begin_all(&mut relays);
        assert_eq!(turns.iter().map(|turn| turn.index).collect::<Vec<_>>(), [0; 4]);
        relays.end(&turns[0], None, None);
        assert_eq!(begin_all(&mut relays).len(), 1);
    }

    #[test]
    fn the_next_relay_is_asked_while_the_first_rests_and_the_first_again_after_that() {
        let mut relays = relays(2);
        let (_, turn) = begin(&mut relays).unwrap();
        relays.end_without_session(&turn, &refused());
        assert!(!relays.all_rest());
        let (second, turn) = begin(&mut relays).unwrap();
        assert_eq!(second, 2);
        relays.end(&turn, Some(&attempt(None)), None);
        end_pause(&mut relays, 0);
        // One mail tries the first again, the others go on with the second meanwhile.
        let turns = begin_all(&mut relays);
        assert_eq!(turns.iter().map(|turn| turn.index).collect::<Vec<_>>(), [0, 1, 1, 1, 1]);
        relays.end(&turns[0], Some(&attempt(None)), None);
        assert_eq!(begin(&mut relays).unwrap().0, 1);
    }

    #[test]
    fn a_pause_doubles_up_to_five_minutes() {
        let mut relays = relays(1);
        let mut pauses = Vec::new();
        for _ in 0..10 {
            let (_, turn) = begin(&mut relays).unwrap();
            relays.end_without_session(&turn, &refused());
            assert!(relays.all_rest() && begin(&mut relays).is_none());
            pauses.push(pause_of(&relays, 0).unwrap().as_secs());
            end_pause(&mut relays, 0);
        }
        assert_eq!(pauses, [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    }

    #[test]
    fn several_attempts_that_fail_for_the_same_trouble_make_no_longer_pause() {
        let mut relays = relays(1);
        let (_, turn) = begin(&mut relays).unwrap();
        relays.end(&turn, Some(&attempt(None)), None);
        for turn in begin_all(&mut relays) {
            relays.end_without_session(&turn, &refused());
        }
        assert_eq!(pause_of(&relays, 0), Some(PAUSE.0));
    }

    #[test]
    fn what_was_begun_before_the_trouble_does_not_end_it() {
        let mut relays = relays(1);
        let (_, turn) = begin(&mut relays).unwrap();
        relays.end(&turn, Some(&attempt(None)), None);
        let turns = begin_all(&mut relays);
        relays.end_without_session(&turns[0], &refused());
        relays.end(&turns[1], Some(&attempt(None)), None);
        assert!(relays.all_rest());
    }

    #[test]
    fn a_relay_that_may_break_over_the_mail_is_not_left_alone_for_longer_each_time() {
        let mut relays = relays(1);
        for _ in 0..5 {
            let (_, turn) = begin(&mut relays).unwrap();
            relays.end(&turn, Some(&attempt(Some(lost_with_a_mail()))), None);
            end_pause(&mut relays, 0);
        }
        assert_eq!(pause_of(&relays, 0), Some(PAUSE.0));
    }

    #[test]
    fn too_many_takes_a_relay_back_to_one_connection_for_a_while() {
        for words in ["4.7.0 Too many connections", "4.7.0 too many errors after RCPT"] {
            let mut relays = relays(1);
            let (_, turn) = begin(&mut relays).unwrap();
            relays.end(&turn, Some(&attempt(None)), None);
            let mut turns = begin_all(&mut relays);
            relays.end_without_session(&turns.remove(0), &answered(421, words));
            assert!(!relays.all_rest(), "it works on three others");
            for turn in turns.drain(1..) {
                relays.end(&turn, Some(&attempt(None)), None);
            }
            assert!(begin(&mut relays).is_none(), "there is one");
            relays.end(&turns[0], Some(&attempt(None)), None);
            assert_eq!(begin_all(&mut relays).len(), 1);
            assert!(relays.tidy().is_some());
            relays.known[0].narrow = Some(Instant::now());
            relays.tidy();
            assert_eq!(begin_all(&mut relays).len(), 3);
        }
        assert!(says_too_many(&Reply::of(450, "4.7.1 Error: too much mail from 192.0.2.1")));
        assert!(!says_too_many(&Reply::of(452, "4.5.3 too many recipients")));
        assert!(!says_too_many(&Reply::of(421, "4.3.2 shutting down")));
    }

    #[test]
    fn a_relay_to_which_one_connection_is_too_many_is_left_alone_and_asked_again() {
        let mut relays = relays(1);
        let mut said = attempt(None);
        said.recipients.push(Recipient {
            address: "abuse@isp.example".parse().unwrap(),
            outcome: Outcome::Deferred(Reply::of(450, "4.7.1 Error: too much mail")),
        });
        let (_, turn) = begin(&mut relays).unwrap();
        relays.end(&turn, Some(&said), None);
        assert!(!relays.all_rest());
        for pause in [2, 4] {
            let (_, turn) = begin(&mut relays).unwrap();
            relays.end(&turn, Some(&said), None);
            assert_eq!(pause_of(&relays, 0), Some(Duration::from_secs(pause)));
            end_pause(&mut relays, 0);
        }
        let (_, turn) = begin(&mut relays).unwrap();
        relays.end(&turn, Some(&attempt(None)), None);
        assert_eq!(pause_of(&relays, 0), None);
    }

    #[test]
    fn a_relay_that_sits_on_all_it_has_for_a_minute_keeps_no_mail_from_the_next() {
        let mut relays = relays(2);
        let (_, turn) = begin(&mut relays).unwrap();
        relays.end(&turn, Some(&attempt(None)), None);
        begin_all(&mut relays);
        assert!(begin(&mut relays).is_none());
        took(&mut relays, PATIENCE);
        assert_eq!(begin(&mut relays).unwrap().0, 2);
    }

    #[test]
    fn a_slow_mail_does_not_stop_the_rest_before_a_relay_is_known_to_work() {
        let mut relays = relays(1);
        for n in 1..=4 {
            assert_eq!(begin_all(&mut relays).len(), 1, "one at a time");
            assert!(relays.next_turn().unwrap() <= Instant::now() + SLOW);
            took(&mut relays, SLOW * n);
        }
        assert!(begin(&mut relays).is_none(), "these are all connections");
    }

    #[test]
    fn mails_that_hang_at_a_relay_do_not_keep_it_from_being_tried_after_trouble() {
        let mut relays = relays(1);
        let (_, turn) = begin(&mut relays).unwrap();
        relays.end(&turn, Some(&attempt(None)), None);
        let turns = begin_all(&mut relays);
        relays.end_without_session(&turns[0], &refused());
        end_pause(&mut relays, 0);
        assert_eq!(begin_all(&mut relays).len(), 1, "one that tries it out");
    }

    #[test]
    fn a_turn_of_before_a_new_configuration_tells_nothing_of_the_new_relays() {
        let mut relays = relays(2);
        let (_, turn) = begin(&mut relays).unwrap();
        let one = serde_json::from_str(r#"{"host": "127.0.0.1", "port": 9}"#).unwrap();
        relays.configure(&[one], &DeliverySettings::default()).unwrap();
        relays.end_without_session(&turn, &refused());
        assert!(!relays.all_rest());
        assert_eq!(begin(&mut relays).unwrap().0, 1);
    }
}
