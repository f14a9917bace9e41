//! The command line.

use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use outbox_config::parse_duration;
use outbox_config::program::CommonArgs;

/// Relays the mails in the outbox over SMTP, and only then marks their directives `sent`.
///
/// A mail that is flagged in mutt (F) waits; one that is deleted is not sent. What the relay refuses
/// for good, or for too long, is flagged by the deliverer and waits for a person.
///
/// Exit codes: 0 all fine; 1 it ran, but something failed that a log line names; 2 wrong usage;
/// 75 something it needs is not there now (database, relay, outbox); 78 configuration.
#[derive(Debug, Parser)]
#[command(name = "outbox-deliverer", version, max_term_width = 100)]
pub struct Cli {
    /// What every command takes.
    #[command(flatten)]
    pub common: CommonArgs,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch the outbox and relay what comes, until SIGTERM or SIGINT.
    ///
    /// The mail in hand is finished and recorded before the program ends. It can be killed at any
    /// time: what the relay took before is on disk, and is not sent again. Only a mail that the relay
    /// took in that very instant is.
    Run {
        /// Relay what is due now, mark it, and exit.
        #[arg(long)]
        once: bool,
    },
    /// List the mails in the outbox.
    List {
        /// Only those in this state.
        #[arg(long)]
        state: Option<StateName>,
        /// As JSON, one array.
        #[arg(long)]
        json: bool,
    },
    /// Show all there is to know of one mail.
    Show {
        /// A ticket (20261125-10000042), or a mail id as in `list --json`.
        mail: String,
    },
    /// Tell how outbox and service do, as a plugin for Icinga and Nagios.
    ///
    /// One line with performance data, and more lines where something is not well. Exit codes: 0 OK;
    /// 1 WARNING; 2 CRITICAL; 3 UNKNOWN, which is also wrong usage and a wrong configuration. A limit
    /// is passed by what is above it. No deliverer at work is CRITICAL. A relay in trouble, a database
    /// that is away and a disk that is nearly full are WARNING; no relay that works for longer than
    /// --crit-age is CRITICAL.
    Status(StatusArgs),
    /// Check configuration, database and rights, relay and outbox, and change nothing.
    Check,
}

/// What `status` is asked.
#[derive(Clone, Debug, clap::Args)]
pub struct StatusArgs {
    /// As JSON, one object.
    #[arg(long)]
    pub json: bool,
    /// WARNING above this age of the oldest mail that is queued or deferred.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = parse_duration)]
    pub warn_age: Duration,
    /// CRITICAL above this age.
    #[arg(long, value_name = "DURATION", default_value = "4h", value_parser = parse_duration)]
    pub crit_age: Duration,
    /// WARNING above this number of mails that the relay refused, or that can't be sent.
    #[arg(long, value_name = "N", default_value = "0")]
    pub warn_failed: usize,
    /// CRITICAL above this number of them.
    #[arg(long, value_name = "N")]
    pub crit_failed: Option<usize>,
    /// WARNING above this number of mails that were taken back and wait for a decision.
    #[arg(long, value_name = "N", default_value = "0")]
    pub warn_withdrawn: usize,
    /// CRITICAL above this number of them.
    #[arg(long, value_name = "N")]
    pub crit_withdrawn: Option<usize>,
    /// WARNING above this number of mails that a person holds, or that wait for review.
    #[arg(long, value_name = "N")]
    pub warn_held: Option<usize>,
    /// CRITICAL above this number of them.
    #[arg(long, value_name = "N")]
    pub crit_held: Option<usize>,
}

impl StatusArgs {
    /// The states whose mails are limited in number, each with the limits for WARNING and CRITICAL.
    pub fn limits(&self) -> [(StateName, Option<usize>, Option<usize>); 3] {
        [
            (StateName::Failed, Some(self.warn_failed), self.crit_failed),
            (StateName::Withdrawn, Some(self.warn_withdrawn), self.crit_withdrawn),
            (StateName::Held, self.warn_held, self.crit_held),
        ]
    }
}

/// States as an operator names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StateName {
    /// To be relayed.
    Queued,
    /// To be relayed again later.
    Deferred,
    /// Flagged by a person: waits.
    Held,
    /// Deleted by a person: waits, and stays claimed.
    Withdrawn,
    /// Taken by the relay, not marked yet.
    Accepted,
    /// Refused by the relay, given up or unfit to be sent: waits.
    Failed,
}

impl std::fmt::Display for StateName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.to_possible_value().expect("no state is hidden").get_name())
    }
}
