//! Numbers for Prometheus: what the service counts, and the text that tells it.
//!
//! ```text
//!   service ──▶ Metrics ──▶ file      every quarter of a minute, for the node exporter's textfile collector
//!                      └──▶ listener  GET /metrics on a loopback port
//! ```
//!
//! Each method is told what happened, or how something is now. Names, labels and units are for docs/operations.md to
//! tell; a name that is there once does not change its meaning.

mod file;
mod listener;

use std::time::Duration;

use jiff::Timestamp;
use outbox_config::{Failure, MetricsSettings};
use prometheus::{
    Gauge, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

use crate::counts::Counts;
use crate::smtp::Phase;

/// The upper ends of the buckets for a phase of SMTP, in seconds: from a relay next door to the ten
/// minutes that one may take for its last word.
const PHASE_SECONDS: &[f64] =
    &[0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 180.0, 300.0, 600.0];

/// What came of an attempt to relay a mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptResult {
    /// The relay took it, for at least one recipient.
    Accepted,
    /// The relay does not take it now.
    Deferred,
    /// The relay never takes it.
    Rejected,
    /// The relay may have taken it, and did not say.
    Uncertain,
    /// The relay was in trouble; it counts against no mail.
    RelayTrouble,
    /// The mail can't be given to this relay: nothing was sent.
    Unfit,
}

impl AttemptResult {
    const ALL: [Self; 6] = [
        Self::Accepted,
        Self::Deferred,
        Self::Rejected,
        Self::Uncertain,
        Self::RelayTrouble,
        Self::Unfit,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Deferred => "deferred",
            Self::Rejected => "rejected",
            Self::Uncertain => "uncertain",
            Self::RelayTrouble => "relay_trouble",
            Self::Unfit => "unfit",
        }
    }
}

/// The numbers. Clones count into the same ones, from any thread.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    file: Option<file::MetricsFile>,
    mails: IntGaugeVec,
    oldest: Gauge,
    last_look: Gauge,
    attempts: IntCounterVec,
    replies: IntCounterVec,
    phases: HistogramVec,
    marked: IntCounter,
    unmarked: IntGauge,
    relay_up: IntGaugeVec,
    database_up: IntGauge,
    disk_low: IntGauge,
    archive_removed: IntCounter,
}

impl Metrics {
    /// Numbers that begin now, and nobody to tell them to but [`Metrics::text`].
    pub fn new() -> Self {
        let registry = Registry::new();
        let add = &registry;
        let metrics = Self {
            mails: labelled(add, "outbox_mails", "Mails in the outbox, by state.", &["state"]),
            oldest: register(
                add,
                Gauge::new(
                    "outbox_oldest_waiting_seconds",
                    "Age of the oldest mail that is queued or deferred, 0 if there is none.",
                ),
            ),
            last_look: register(
                add,
                Gauge::new(
                    "outbox_last_look_timestamp_seconds",
                    "When the deliverer last looked at the whole outbox and counted its mails.",
                ),
            ),
            attempts: counted(
                add,
                "outbox_attempts_total",
                "Attempts to relay a mail, by relay and by what came of them.",
                &["relay", "result"],
            ),
            replies: counted(
                add,
                "outbox_replies_total",
                "The relays' last words on a recipient, by class of the reply's code.",
                &["class"],
            ),
            phases: register(
                add,
                HistogramVec::new(
                    HistogramOpts::new(
                        "outbox_smtp_phase_seconds",
                        "How long the phases of the conversation with a relay took.",
                    )
                    .buckets(PHASE_SECONDS.to_vec()),
                    &["phase"],
                ),
            ),
            marked: register(
                add,
                IntCounter::new(
                    "outbox_marked_total",
                    "Relayed mails that were marked in the database.",
                ),
            ),
            unmarked: register(
                add,
                IntGauge::new(
                    "outbox_unmarked_mails",
                    "Relayed mails that are not marked in the database yet.",
                ),
            ),
            relay_up: labelled(
                add,
                "outbox_relay_up",
                "Whether the relay works (1) or is in trouble (0).",
                &["relay"],
            ),
            database_up: register(
                add,
                IntGauge::new(
                    "outbox_database_up",
                    "Whether the database takes marks (1) or is away (0).",
                ),
            ),
            disk_low: register(
                add,
                IntGauge::new(
                    "outbox_disk_low",
                    "Whether the outbox's file system has less room than outbox.min_free or \
                     outbox.min_free_inodes asks for (1).",
                ),
            ),
            archive_removed: register(
                add,
                IntCounter::new(
                    "outbox_archive_removed_total",
                    "Old mails that were removed from the archive.",
                ),
            ),
            file: None,
            registry,
        };
        metrics.begin();
        metrics
    }

    /// What is known at the start. Each label whose values are known is there from the beginning: a
    /// counter that is missing until it counts has no first step that could be seen.
    fn begin(&self) {
        for class in ["2xx", "4xx", "5xx"] {
            self.replies.with_label_values(&[class]);
        }
        for phase in Phase::TIMED {
            self.phases.with_label_values(&[phase.name()]);
        }
        self.database_up.set(1);
        let about = "The deliverer at work, by version; always 1.";
        labelled(&self.registry, "outbox_deliverer_info", about, &["version"])
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1);
        let start = Gauge::new("outbox_start_time_seconds", "When the deliverer began.");
        register(&self.registry, start).set(seconds_since_1970());
    }

    /// Numbers that are told as configured, by threads that end with the program: the file is
    /// written four times a minute, from the first look on, and whoever asks on the port gets an
    /// answer.
    ///
    /// Fails if the port can't be listened on. A file that can't be written is a WARN, and tried
    /// again: the mails matter more.
    pub fn start(settings: &MetricsSettings) -> Result<Self, Failure> {
        let mut metrics = Self::new();
        if let Some(address) = settings.listen {
            listener::start(address, metrics.clone())?;
        }
        if let Some(path) = &settings.file {
            metrics.file = Some(file::MetricsFile::new(path.clone()));
        }
        Ok(metrics)
    }

    /// Writes the file for the last time: what happened since the last quarter of a minute counts.
    pub fn finish(&self) {
        if let Some(file) = &self.file {
            file.write(self);
        }
    }

    /// All numbers in Prometheus's text format.
    pub fn text(&self) -> String {
        TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .expect("what is registered has a text form")
    }

    /// A look at the whole outbox has found these mails.
    pub fn mails(&self, counts: &Counts, now: Timestamp) {
        for (state, count) in counts.by_state() {
            self.mails.with_label_values(&[state.to_string()]).set(signed(count));
        }
        self.oldest.set(counts.oldest_waiting(now).unwrap_or_default().as_secs_f64());
        self.last_look.set(seconds_since_1970());
        // Not earlier: mails that nobody counted yet must not be missing from it after each restart.
        if let Some(file) = &self.file {
            file.start(self);
        }
    }

    /// An attempt to relay a mail ended, or no session for one came about.
    pub fn attempt(&self, relay: &str, result: AttemptResult) {
        self.attempts.with_label_values(&[relay, result.name()]).inc();
    }

    /// A relay said its last word on a recipient: the code of the reply.
    pub fn reply(&self, code: u16) {
        let class = match code {
            200..=299 => "2xx",
            500..=599 => "5xx",
            // As the deliverer takes it: what is unknown is temporary.
            _ => "4xx",
        };
        self.replies.with_label_values(&[class]).inc();
    }

    /// A phase of SMTP took this long.
    pub fn phase(&self, phase: Phase, took: Duration) {
        self.phases.with_label_values(&[phase.name()]).observe(took.as_secs_f64());
    }

    /// So many mails were marked in the database.
    pub fn marked(&self, mails: usize) {
        self.marked.inc_by(mails as u64);
    }

    /// So many relayed mails are not marked now.
    pub fn unmarked(&self, mails: usize) {
        self.unmarked.set(signed(mails));
    }

    /// Whether a relay works. To be said of each at the start, and as often as one likes.
    pub fn relay_up(&self, relay: &str, up: bool) {
        self.relay_up.with_label_values(&[relay]).set(up.into());
        for result in AttemptResult::ALL {
            self.attempts.with_label_values(&[relay, result.name()]);
        }
    }

    /// A relay is configured no more: its health is of no interest.
    pub fn forget_relay(&self, relay: &str) {
        let _ = self.relay_up.remove_label_values(&[relay]);
    }

    /// Whether the database takes marks. Until it is said, it does.
    pub fn database_up(&self, up: bool) {
        self.database_up.set(up.into());
    }

    /// Whether the outbox's file system has less room than it should.
    pub fn disk_low(&self, low: bool) {
        self.disk_low.set(low.into());
    }

    /// So many mails were removed from the archive.
    pub fn archive_removed(&self, mails: usize) {
        self.archive_removed.inc_by(mails as u64);
    }
}

/// Registers a metric whose name and labels are fixed in this file.
fn register<M>(registry: &Registry, metric: prometheus::Result<M>) -> M
where
    M: prometheus::core::Collector + Clone + 'static,
{
    let metric = metric.expect("the names here are valid");
    registry.register(Box::new(metric.clone())).expect("each name is here once");
    metric
}

/// A gauge for each value of the labels.
fn labelled(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    register(registry, IntGaugeVec::new(Opts::new(name, help), labels))
}

/// A counter for each value of the labels.
fn counted(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    register(registry, IntCounterVec::new(Opts::new(name, help), labels))
}

fn seconds_since_1970() -> f64 {
    Timestamp::now().as_duration().as_secs_f64()
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::StateName;

    /// The value of a line that begins with `name`.
    fn value(metrics: &Metrics, name: &str) -> Option<String> {
        let text = metrics.text();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map(str::to_owned)
    }

    #[test]
    fn what_happened_is_in_the_text() {
        let now: Timestamp = "2026-11-25T04:00:00Z".parse().unwrap();
        let created: Timestamp = "2026-11-25T03:56:00Z".parse().unwrap();
        let metrics = Metrics::new();
        let counts = [(StateName::Queued, Some(created)), (StateName::Failed, None)];
        metrics.mails(&counts.into_iter().collect(), now);
        metrics.relay_up("mail.cert.example:587", true);
        metrics.attempt("mail.cert.example:587", AttemptResult::Accepted);
        for code in [250, 251, 450, 550] {
            metrics.reply(code);
        }
        metrics.phase(Phase::FinalDot, Duration::from_millis(300));
        metrics.marked(3);
        metrics.unmarked(2);
        metrics.database_up(false);
        for (name, expected) in [
            ("outbox_mails{state=\"queued\"}", "1"),
            ("outbox_mails{state=\"deferred\"}", "0"),
            ("outbox_mails{state=\"failed\"}", "1"),
            ("outbox_oldest_waiting_seconds", "240"),
            ("outbox_attempts_total{relay=\"mail.cert.example:587\",result=\"accepted\"}", "1"),
            ("outbox_attempts_total{relay=\"mail.cert.example:587\",result=\"uncertain\"}", "0"),
            ("outbox_replies_total{class=\"2xx\"}", "2"),
            ("outbox_replies_total{class=\"4xx\"}", "1"),
            ("outbox_smtp_phase_seconds_bucket{phase=\"final_dot\",le=\"0.25\"}", "0"),
            ("outbox_smtp_phase_seconds_bucket{phase=\"final_dot\",le=\"0.5\"}", "1"),
            ("outbox_smtp_phase_seconds_count{phase=\"connect\"}", "0"),
            ("outbox_marked_total", "3"),
            ("outbox_unmarked_mails", "2"),
            ("outbox_relay_up{relay=\"mail.cert.example:587\"}", "1"),
            ("outbox_database_up", "0"),
        ] {
            assert_eq!(value(&metrics, name).as_deref(), Some(expected), "{name}");
        }
        metrics.forget_relay("mail.cert.example:587");
        assert_eq!(value(&metrics, "outbox_relay_up{relay=\"mail.cert.example:587\"}"), None);
    }

    #[test]
    fn without_a_look_no_mails_are_told_of() {
        let metrics = Metrics::new();
        assert_eq!(value(&metrics, "outbox_mails{state=\"queued\"}"), None);
        assert_eq!(value(&metrics, "outbox_last_look_timestamp_seconds").as_deref(), Some("0"));
    }
}
