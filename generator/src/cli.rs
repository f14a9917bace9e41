//! The command line.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
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
    ///
    /// Without --all it shows what is pending batch by batch (with -vv the ids of events and directives,
    /// too), and asks what is to be written.
    Run(RunArgs),
    /// Show the mails that what is pending would become, with tickets that are none. Changes nothing.
    ///
    /// They go to standard output as an mbox, or into a Maildir for `mutt -f`. The log tells which
    /// format took each group, or why there is no mail, and what is postponed until when.
    Preview(PreviewArgs),
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

/// How to run.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Write all of it, without asking.
    #[arg(short, long)]
    pub all: bool,
    /// Say what would be written, and write nothing: no mail, no ticket, no change anywhere.
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// How many groups to show and to ask about at a time, without --all.
    #[arg(short = 'N', long, value_name = "N", default_value = "10")]
    pub batch_size: NonZeroUsize,
}

/// What to show.
#[derive(Clone, Debug, Args)]
pub struct PreviewArgs {
    /// Write the mails into this Maildir, which is made, or must be empty.
    #[arg(long, value_name = "DIR")]
    pub maildir: Option<PathBuf>,
    /// Look at so many groups only: those with the oldest directives.
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Neither sign nor encrypt: no key is needed, and all can be read.
    #[arg(long)]
    pub plain: bool,
}
