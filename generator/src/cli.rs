//! The command line.

use clap::{Parser, Subcommand};
use outbox_config::program::CommonArgs;

/// Turns IntelMQ's pending directives into signed, ticketed mails in the outbox.
///
/// It sends nothing: that is outbox-deliverer's work, and in between a person can look with mutt.
/// Run it from cron or a systemd timer; a second one at the same time notices and ends.
///
/// Exit codes: 0 all fine; 1 it ran, but something failed that a log line names; 2 wrong usage;
/// 75 something it needs is not there now (database, outbox); 78 configuration.
#[derive(Debug, Parser)]
#[command(name = "outbox-generator", version, max_term_width = 100)]
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
    /// Write what is pending into the outbox.
    Run {
        /// All of it, without asking. Required: there is no other way to run yet.
        #[arg(long, required = true)]
        all: bool,
    },
    /// Make the outbox's folders, where the configuration says. Changes nothing that exists.
    Init,
    /// List what is pending, and what would become of it. Changes nothing.
    Pending {
        /// As JSON, one array.
        #[arg(long)]
        json: bool,
    },
    /// Check configuration, database and rights, key, formats, templates and outbox, and change
    /// nothing.
    Check,
}
