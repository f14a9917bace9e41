//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
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
    /// Tell which mails came back: read the mailbox where bounces land, and find the ticket of each.
    ///
    /// What could be tied to a ticket is flagged as seen after the report is out, so that the next
    /// run tells only what is new. Everything else stays as it is, and is named at the end.
    Bounces(BouncesArgs),
    /// Check configuration, database and rights, relay and outbox, and change nothing.
    Check,
}

/// What `bounces` takes.
#[derive(Clone, Debug, clap::Args)]
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
