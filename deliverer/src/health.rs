//! How the running service does, for `status` and for systemd: what no file of a mail tells.
//!
//! The service says it whenever it changes, and so after each look. It is about relays, database and disk, and never about a
//! mail: how a mail stands is in the mail's own files alone.

use std::time::Duration;

use jiff::Timestamp;
use outbox::{Deliverer, Outbox};
use outbox_config::duration_words;
use serde::{Deserialize, Serialize};
use tracing::debug;

/// How the service does. What is not known yet counts as being well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// The version of the program.
    pub program: String,
    /// Its process.
    pub pid: u32,
    /// When it began.
    pub started_at: Timestamp,
    /// When it last began to look at the whole outbox.
    pub looked_at: Timestamp,
    /// Each relay, in the order in which they are asked.
    pub relays: Vec<RelayHealth>,
    /// What is wrong with the database, while it does not take marks.
    pub database: Option<Trouble>,
    /// What the outbox's file system lacks, while it has less room than it should: `87 MiB free`.
    pub disk_low: Option<String>,
}

/// How a relay does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayHealth {
    /// Host and port.
    pub name: String,
    /// What is wrong with it, while it is.
    pub trouble: Option<Trouble>,
    /// Until when it is left alone, while it is in trouble.
    pub paused_until: Option<Timestamp>,
}

/// What is wrong, and since when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// Since when.
    pub since: Timestamp,
    /// What it last came to.
    pub words: String,
}

/// Whether a service runs, as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// None runs.
    Absent,
    /// One runs, and has not said how it does: it has just begun, or is of another version.
    Silent,
    /// One runs, and does so.
    Running(Health),
}

impl Health {
    /// Of a service that begins now, with these relays.
    pub fn new(relays: impl IntoIterator<Item = String>) -> Self {
        let now = outbox::now();
        let relay = |name| RelayHealth { name, trouble: None, paused_until: None };
        Self {
            program: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started_at: now,
            looked_at: now,
            relays: relays.into_iter().map(relay).collect(),
            database: None,
            disk_low: None,
        }
    }

    /// Writes it for others to read. No mail depends on that: where it fails, `status` says that it
    /// has not heard of the service for long.
    pub fn write(&self, deliverer: &Deliverer<'_>) {
        if let Err(error) = deliverer.say(self) {
            debug!("cannot tell how the service does: {error}");
        }
    }

    /// A line for systemd to keep: `relay mail.cert.example:587 ok; database away since
    /// 2026-11-25T03:56:00Z`. It is read later, so it has times and no durations.
    pub fn words(&self) -> String {
        let relay = |relay: &RelayHealth| match &relay.trouble {
            None => format!("relay {} ok", relay.name),
            Some(trouble) => format!("relay {} in trouble since {:.0}", relay.name, trouble.since),
        };
        let mut words: Vec<String> = self.relays.iter().map(relay).collect();
        let database = self.database.as_ref();
        words.extend(database.map(|away| format!("database away since {:.0}", away.since)));
        words.extend(self.disk_low.as_ref().map(|lack| format!("disk low: {lack}")));
        words.join("; ")
    }
}

impl RelayHealth {
    /// `relay mail.cert.example:587 ok`, or for how long it has been in trouble.
    pub fn words(&self, now: Timestamp) -> String {
        match &self.trouble {
            None => format!("relay {} ok", self.name),
            Some(trouble) => format!("relay {} in trouble for {}", self.name, trouble.lasts(now)),
        }
    }
}

impl Trouble {
    /// For how long.
    pub fn duration(&self, now: Timestamp) -> Duration {
        Duration::try_from(now.duration_since(self.since)).unwrap_or_default()
    }

    fn lasts(&self, now: Timestamp) -> String {
        duration_words(self.duration(now))
    }
}

/// Looks whether a service runs, and how it does.
pub fn read(outbox: &Outbox) -> outbox::Result<Presence> {
    if !outbox.deliverer_runs()? {
        return Ok(Presence::Absent);
    }
    Ok(match outbox.said() {
        Ok(Some(health)) => Presence::Running(health),
        Ok(None) | Err(outbox::Error::Malformed { .. }) => Presence::Silent,
        Err(error) => return Err(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_service_says_is_read_while_it_runs() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = Outbox::create(&folder.path().join("outbox")).unwrap();
        assert_eq!(read(&outbox).unwrap(), Presence::Absent);
        let deliverer = outbox.lock_deliverer().unwrap().unwrap();
        assert_eq!(read(&outbox).unwrap(), Presence::Silent);
        let mut health = Health::new(["mail.cert.example:587".to_owned()]);
        health.relays[0].trouble = Some(Trouble { since: outbox::now(), words: "no".into() });
        health.write(&deliverer);
        assert_eq!(read(&outbox).unwrap(), Presence::Running(health));
        // Of another version, cut off, or no JSON at all.
        for other in ["{\"version\": 2}", "{\"version\": 1", "{\"version\": 1}", "\u{1b}[0m"] {
            std::fs::write(outbox.records().join(".service.json"), other).unwrap();
            assert_eq!(read(&outbox).unwrap(), Presence::Silent, "{other}");
        }
        drop(deliverer);
        assert_eq!(read(&outbox).unwrap(), Presence::Absent, "killed");
    }

    #[test]
    fn the_words_name_what_is_wrong_and_since_when() {
        let since: Timestamp = "2026-11-25T03:56:00.25Z".parse().unwrap();
        let trouble = Some(Trouble { since, words: "failed to connect".into() });
        let mut health = Health::new(["a.example:25", "b.example:25"].map(str::to_owned));
        assert_eq!(health.words(), "relay a.example:25 ok; relay b.example:25 ok");
        health.relays.pop();
        health.relays[0].trouble = trouble.clone();
        health.database = trouble;
        health.disk_low = Some("87 MiB free".into());
        assert_eq!(
            health.words(),
            "relay a.example:25 in trouble since 2026-11-25T03:56:00Z; \
             database away since 2026-11-25T03:56:00Z; disk low: 87 MiB free"
        );
    }
}
