//! What others see of the service: systemd, `status`, and Prometheus.
//!
//! The service tells it what happened, and it passes on what each of the three wants to know.

use std::time::Duration;

use outbox::Deliverer;

use crate::counts::Counts;
use crate::health::{Health, RelayHealth, Trouble};
use crate::metrics::{AttemptResult, Metrics};
use crate::smtp::{Attempt, Outcome};
use crate::systemd::Systemd;

/// The way to all who look.
pub struct Monitor {
    systemd: Systemd,
    metrics: Metrics,
    counts: Counts,
    health: Health,
    /// What `status` reads now.
    said: Option<Health>,
}

impl Monitor {
    /// Of a service that begins now.
    pub fn new(metrics: Metrics, relays: Vec<RelayHealth>) -> Self {
        let health = Health::new(relays.iter().map(|relay| relay.name.clone()));
        let systemd = Systemd::from_environment();
        let mut new = Self { systemd, metrics, counts: Counts::default(), health, said: None };
        new.relays(relays);
        new
    }

    /// How often [`Monitor::lives`] is to be said; `None` where nobody watches.
    pub fn interval(&self) -> Option<Duration> {
        self.systemd.watchdog_interval()
    }

    /// The service works, and has its present configuration.
    pub fn ready(&self) {
        self.systemd.ready();
    }

    /// The service reads its configuration anew, until [`Monitor::ready`].
    pub fn reloading(&self) {
        self.systemd.reloading();
    }

    /// The service is not stuck. To be said by the thread that does the work, as often as it likes.
    pub fn lives(&mut self) {
        self.systemd.watchdog();
    }

    /// A look at the whole outbox has found these mails.
    pub fn looked(&mut self, counts: Counts) {
        self.health.looked_at = outbox::now();
        self.metrics.mails(&counts, self.health.looked_at);
        self.counts = counts;
    }

    /// What the outbox's file system lacks, while it has less room than it should.
    pub fn room(&mut self, lack: Option<String>) {
        self.metrics.disk_low(lack.is_some());
        self.health.disk_low = lack;
    }

    /// How the relays do.
    pub fn relays(&mut self, relays: Vec<RelayHealth>) {
        for gone in &self.health.relays {
            if !relays.iter().any(|relay| relay.name == gone.name) {
                self.metrics.forget_relay(&gone.name);
            }
        }
        for relay in &relays {
            self.metrics.relay_up(&relay.name, relay.trouble.is_none());
        }
        self.health.relays = relays;
    }

    /// No session with a relay came about.
    pub fn no_session(&self, relay: &str) {
        self.metrics.attempt(relay, AttemptResult::RelayTrouble);
    }

    /// A relay was asked to take a mail.
    pub fn tried(&self, relay: &str, attempt: &Attempt) {
        self.metrics.attempt(relay, result(attempt));
        for recipient in &attempt.recipients {
            match &recipient.outcome {
                Outcome::Accepted(reply) | Outcome::Deferred(reply) | Outcome::Rejected(reply) => {
                    self.metrics.reply(reply.code());
                }
                Outcome::Uncertain(_) | Outcome::Open => {}
            }
        }
        for (phase, took) in &attempt.phases {
            self.metrics.phase(*phase, *took);
        }
    }

    /// The database took so many marks.
    pub fn marked(&mut self, mails: usize) {
        self.metrics.marked(mails);
        self.database(None);
    }

    /// What is wrong with the database, while it is away; `None` once it answers.
    pub fn database(&mut self, words: Option<String>) {
        self.metrics.database_up(words.is_none());
        self.health.database = words.map(|words| {
            let since = self.health.database.as_ref().map_or_else(outbox::now, |known| known.since);
            Trouble { since, words }
        });
    }

    /// So many mails were removed from the archive.
    pub fn archive_removed(&self, mails: usize) {
        self.metrics.archive_removed(mails);
    }

    /// Passes on what is new, for `status` and for systemd's line; and how many relayed mails are not
    /// marked.
    pub fn tell(&mut self, deliverer: &Deliverer<'_>, unmarked: usize) {
        self.metrics.unmarked(unmarked);
        if self.said.as_ref() != Some(&self.health) {
            self.health.write(deliverer);
            self.said = Some(self.health.clone());
        }
        let words = self.health.words();
        self.systemd.status(&format!("{}; {words}", self.counts));
    }

    /// The service ends, after the mails in hand.
    pub fn stopping(&self) {
        self.systemd.stopping();
    }

    /// The service has ended, and so many relayed mails are not marked.
    pub fn ended(&self, deliverer: &Deliverer<'_>, unmarked: usize) {
        self.metrics.unmarked(unmarked);
        // A file that stays behind misleads nobody.
        let _ = deliverer.say_nothing();
        self.metrics.finish();
    }
}

/// What came of an attempt as a whole.
fn result(attempt: &Attempt) -> AttemptResult {
    let any = |is: fn(&Outcome) -> bool| attempt.recipients.iter().any(|it| is(&it.outcome));
    if attempt.refusal.is_some() {
        AttemptResult::Unfit
    } else if attempt.is_uncertain() {
        AttemptResult::Uncertain
    } else if any(|outcome| matches!(outcome, Outcome::Accepted(_))) {
        AttemptResult::Accepted
    } else if any(|outcome| matches!(outcome, Outcome::Deferred(_))) {
        AttemptResult::Deferred
    } else if any(|outcome| matches!(outcome, Outcome::Rejected(_))) {
        AttemptResult::Rejected
    } else {
        AttemptResult::RelayTrouble
    }
}
