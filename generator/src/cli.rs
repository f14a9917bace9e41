//! The command line.

use std::path::PathBuf;

use clap::{ArgAction, Parser, Subcommand};
use outbox_config::logging::Format;

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
    /// Configuration file, instead of /etc/intelmq/intelmq-mailgen.conf. The user's
    /// ~/.intelmq/intelmq-mailgen.conf is read besides, section by section over it.
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,

    /// Log more: -v each group, -vv each step.
    #[arg(short, long, action = ArgAction::Count, global = true)]
    pub verbose: u8,

    /// How log lines on standard error look.
    #[arg(long, value_name = "text|json|journald", default_value = "text", global = true)]
    pub log_format: Format,

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
