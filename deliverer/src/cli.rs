//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use outbox_config::parse_duration;
use outbox_config::program::CommonArgs;

use crate::queue::{Decision, Selector};

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
    /// All but `status`.
    #[command(flatten)]
    Task(Task),
    /// Tell how outbox and service do, as a plugin for Icinga and Nagios.
    ///
    /// One line with performance data, and more lines where something is not well. Exit codes: 0 OK;
    /// 1 WARNING; 2 CRITICAL; 3 UNKNOWN, which is also wrong usage and a wrong configuration. A limit
    /// is passed by what is above it. No deliverer at work is CRITICAL. A relay in trouble, a database
    /// that is away and a disk that is nearly full are WARNING; no relay that works for longer than
    /// --crit-age is CRITICAL.
    Status(StatusArgs),
}

/// What ends with the exit codes that both programs have.
#[derive(Debug, Subcommand)]
pub enum Task {
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
        /// Which; all, if none is named.
        #[command(flatten)]
        selector: Selector,
        /// As JSON, one array.
        #[arg(long)]
        json: bool,
    },
    /// Show all there is to know of some mails: envelope, every recipient's state, the attempts,
    /// directives, header.
    ///
    /// A mail that is named and was sent already is shown from the archive.
    #[command(mut_group("Selector", |group| group.required(true)))]
    Show {
        /// Which.
        #[command(flatten)]
        selector: Selector,
        /// As JSON, one array.
        #[arg(long)]
        json: bool,
    },
    /// Hold mails: they wait, flagged (F), until they are released.
    #[command(mut_group("Selector", |group| group.required(true)))]
    Hold(Change),
    /// Release mails that are held, by a person or by the deliverer: they are sent.
    ///
    /// One that was deferred goes at its time, or with `retry`. One that failed begins anew: whoever
    /// lacks it is asked for again.
    #[command(mut_group("Selector", |group| group.required(true)))]
    Release(Change),
    /// Try deferred mails again now, not at their time.
    #[command(mut_group("Selector", |group| group.required(true)))]
    Retry(Change),
    /// Take mails back for good, and say what becomes of their directives.
    ///
    /// A mail that the relay has can't be taken back. One that it is being handed at this moment is
    /// waited for. Mails that were deleted in a mail reader wait for this command.
    #[command(mut_group("Selector", |group| group.required(true)))]
    Withdraw {
        /// Which.
        #[command(flatten)]
        change: Change,
        /// What becomes of their directives.
        #[command(flatten)]
        decision: Decision,
    },
    /// Compare every mail with its sidecar, its record and the database, and tell what a person should
    /// look at. Changes nothing.
    Verify {
        /// Which; all, and all else in the outbox, if none is named.
        #[command(flatten)]
        selector: Selector,
        /// Without asking the database.
        #[arg(long)]
        no_database: bool,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Tell which mails came back: read the mailbox where bounces land, and find the ticket of each.
    ///
    /// What could be tied to a ticket is flagged as seen after the report is out, so that the next
    /// run tells only what is new. Everything else stays as it is, and is named at the end.
    Bounces(BouncesArgs),
    /// Check configuration, database and rights, relay and outbox, and change nothing.
    Check,
}

/// What `bounces` takes.
#[derive(Clone, Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own")]
pub struct BouncesArgs {
    /// The Maildir where bounces land: the mailbox of `envelope_from`.
    pub maildir: PathBuf,
    /// As JSON, one array. What stays is told in the log.
    #[arg(long)]
    pub json: bool,
    /// Flag nothing.
    #[arg(long)]
    pub keep: bool,
    /// Look at what was seen before, too.
    #[arg(long)]
    pub all: bool,
    /// Do not ask the database: no directives, any ticket is believed, and nothing is flagged.
    #[arg(long)]
    pub no_database: bool,
}

/// Which mails a command changes, and how it tells.
#[derive(Clone, Debug, Args)]
pub struct Change {
    /// Which.
    #[command(flatten)]
    pub selector: Selector,
    /// Only say what would be done.
    #[arg(long)]
    pub dry_run: bool,
    /// Say what was done as JSON, one array.
    #[arg(long)]
    pub json: bool,
}

/// What `status` is asked.
#[derive(Clone, Debug, Args)]
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

impl Cli {
    /// Whether a command line is one for `status`, as far as it can be read: it may be a wrong one.
    pub fn asks_for_status(words: impl IntoIterator<Item = OsString>) -> bool {
        let read = Self::command().ignore_errors(true).try_get_matches_from(words);
        read.is_ok_and(|read| read.subcommand_name() == Some("status"))
    }
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

/// States as an operator names them, in the order in which they are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum StateName {
    /// To be relayed.
    Queued,
    /// To be relayed again later.
    Deferred,
    /// Flagged by a person, or new and to be looked at: waits.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_command_line_for_status_is_told_from_others() {
        let asks = |words: &str| {
            let words = words.split(' ').map(OsString::from);
            Cli::asks_for_status(["outbox-deliverer".into()].into_iter().chain(words))
        };
        for words in [
            "status --no-such",
            "status --warn-age soon",
            "status too much",
            "--config /c status --warn-failed x",
            "-v --log-format json status --no-such",
        ] {
            assert!(asks(words), "{words}");
        }
        for words in ["list --state status", "hold status --no-such", "--config status list -x"] {
            assert!(!asks(words), "{words}");
        }
    }
}
