//! When to look at the whole outbox.
//!
//! A look at many mails takes its time, the service's own work rings the doorbell as well, and
//! thousands of mails can become due one after the other. So most of the time is kept for relaying.

use std::time::{Duration, Instant};

/// How long the service looks away at most.
const LATEST: Duration = Duration::from_secs(30);

/// How long it looks away at least while mails are due: each mail's flags are looked at right before it
/// is sent.
const BUSY: Duration = Duration::from_secs(1);

/// When the next look is due.
pub struct Looks {
    /// When the last one began.
    began: Instant,
    /// Whether something may have changed since then.
    rung: bool,
    /// Whether nothing else counts.
    at_once: bool,
    /// When the next one is due without being asked for.
    latest: Instant,
    /// When the next one may begin.
    earliest: Instant,
    /// When the next one may begin while mails are due.
    earliest_if_busy: Instant,
}

impl Looks {
    /// The first look is due at once.
    pub fn new() -> Self {
        let now = Instant::now();
        Self {
            began: now,
            rung: true,
            at_once: true,
            latest: now,
            earliest: now,
            earliest_if_busy: now,
        }
    }

    /// When the next look is due; `busy`: mails are due, or in the relays' hands.
    pub fn due_at(&self, busy: bool) -> Instant {
        if self.at_once {
            return self.began;
        }
        let asked = if self.rung { self.began } else { self.latest };
        asked.max(if busy { self.earliest_if_busy } else { self.earliest })
    }

    /// Something may have changed.
    pub fn ring(&mut self) {
        self.rung = true;
    }

    /// Something is due then.
    pub fn by(&mut self, at: Instant) {
        self.latest = self.latest.min(at);
    }

    /// Something has to be looked at again that does not ring.
    pub fn soon(&mut self) {
        self.by(Instant::now() + BUSY);
    }

    /// What was found before counts no more.
    pub fn anew(&mut self) {
        self.at_once = true;
    }

    /// A look begins: what rings during it asks for another one.
    pub fn begin(&mut self) {
        self.began = Instant::now();
        self.rung = false;
        self.at_once = false;
        self.latest = self.began + LATEST;
    }

    /// A look has ended. The next one has to wait for ten times as long as it took: up to [`BUSY`], or,
    /// while mails are due, from there up to [`LATEST`]. Else a look at very many mails would be followed
    /// by the next one, and hardly any would be relayed.
    pub fn end(&mut self) {
        self.ended(self.began.elapsed());
    }

    fn ended(&mut self, took: Duration) {
        self.earliest = self.began + (took * 10).min(BUSY);
        self.earliest_if_busy = self.began + (took * 10).clamp(BUSY, LATEST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_is_due_when_asked_for_or_after_a_while_but_not_too_often() {
        let mut looks = Looks::new();
        assert!(looks.due_at(true) <= Instant::now(), "the first one");
        looks.begin();
        looks.end();
        let began = looks.began;
        assert_eq!(looks.due_at(false), began + LATEST);
        looks.by(began + 5 * BUSY);
        assert_eq!(looks.due_at(false), began + 5 * BUSY);
        looks.ring();
        assert!(looks.due_at(false) < began + BUSY);
        assert_eq!(looks.due_at(true), began + BUSY);
        looks.anew();
        assert_eq!(looks.due_at(true), began);
    }

    #[test]
    fn a_look_that_takes_long_leaves_most_of_the_time_for_relaying() {
        let mut looks = Looks::new();
        looks.begin();
        looks.ring();
        looks.ended(2 * BUSY);
        assert_eq!(looks.due_at(true), looks.began + 20 * BUSY);
        assert_eq!(looks.due_at(false), looks.began + BUSY);
        looks.ended(10 * LATEST);
        assert_eq!(looks.due_at(true), looks.began + LATEST);
    }
}
