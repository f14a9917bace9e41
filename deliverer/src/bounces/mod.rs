//! `bounces`: reads the mailbox where bounces land, and tells per ticket what came back.
//!
//! ```text
//!   mailbox ──▶ notice ──▶ dsn, plain     what a mail system says of each recipient
//!                    └───▶ ticket         which of our mails it names
//!                              │
//!   database: known_tickets ───┴──▶ report ──▶ printed ──▶ mailbox: seen
//! ```
//!
//! Everything in a bounce is written by whoever sent it. It is tied only to a ticket that is in the
//! database; the report tells where the ticket stood, and what does not fit. Nothing is changed but a
//! flag in the mailbox, after the report is out. What can't be tied stays as it is.

mod dsn;
mod fields;
mod mailbox;
mod notice;
#[cfg(any(test, fuzzing))]
pub(crate) mod oracles;
mod plain;
mod report;
mod status;
mod ticket;

use std::collections::HashMap;
use std::io::{ErrorKind, Write as _};

use anyhow::{Context as _, anyhow};
use outbox::Ticket;
use outbox_config::program::{to_json, width};
use outbox_config::{Config, Failure};
use tracing::{error, info};

use crate::cli::BouncesArgs;
use crate::marks::{Known, connect, known_tickets};
use mailbox::{Mailbox, MailboxFile};
use notice::{Kind, Notice};
use report::{Entry, Tie};

/// What the database knows of the tickets asked about; none if it is not to be asked.
type KnownTickets = Option<HashMap<Ticket, Known>>;

/// Reports what came back. Ends with [`Failure::Failed`] if a file could not be dealt with, and
/// with [`Failure::Unavailable`], nothing printed and nothing changed, if the mailbox or the
/// database is away.
pub fn bounces(config: &Config, args: &BouncesArgs) -> Result<(), Failure> {
    let mailbox = Mailbox::open(&args.maildir).map_err(Failure::Unavailable)?;
    let mut troubles = 0;
    let mut trouble = |what: anyhow::Error| {
        error!("{what:#}");
        troubles += 1;
    };
    let mut notices = Vec::new();
    for file in mailbox.list(args.all).map_err(Failure::Unavailable)? {
        match file.and_then(|file| Ok((mailbox.read(&file)?, file))) {
            Ok((bytes, file)) => {
                notices.push((file, Notice::read(&bytes, config.envelope_from.as_deref())));
            }
            Err(error) => trouble(error),
        }
    }
    let known = if args.no_database { None } else { Some(ask(config, &notices)?) };

    let mut entries = Vec::new();
    let (mut placed, mut staying) = (Vec::new(), Vec::new());
    for (file, notice) in notices {
        match place(&file, notice, &known) {
            Ok(more) => {
                entries.extend(more);
                placed.push(file);
            }
            Err(why) => staying.push((file.to_string(), why)),
        }
    }
    // In the order of the files within a ticket.
    entries.sort_by(|one, other| one.ticket().cmp(other.ticket()));
    let text = if args.json {
        for (file, why) in &staying {
            info!(file, "stays as it is: {why}");
        }
        to_json(&entries)
    } else {
        report::as_text(&entries, &staying, width().unwrap_or(80))
    };
    // What nobody checked against the database is to be looked at again.
    if hand_over(&text)? && !args.keep && known.is_some() {
        placed.iter().filter_map(|file| mailbox.mark_seen(file).err()).for_each(&mut trouble);
    }
    match troubles {
        0 => Ok(()),
        _ => Err(Failure::Failed(anyhow!(
            "errors with {troubles} of the files: see the lines above"
        ))),
    }
}

/// Asks the database for all tickets that are named anywhere.
fn ask(
    config: &Config,
    notices: &[(MailboxFile, Notice)],
) -> Result<HashMap<Ticket, Known>, Failure> {
    let mut tickets: Vec<&str> = notices
        .iter()
        .filter(|(_, notice)| matches!(notice.kind, Kind::Report(_)))
        .flat_map(|(_, notice)| notice.tickets.iter().map(|(ticket, _)| ticket.as_str()))
        .collect();
    tickets.sort_unstable();
    tickets.dedup();
    if tickets.is_empty() {
        return Ok(HashMap::new());
    }
    let settings = &config.database()?.event;
    let mut client = connect(settings).map_err(Failure::Unavailable)?;
    known_tickets(&mut client, &tickets)
        .context("cannot look up tickets in the database")
        .map_err(Failure::Unavailable)
}

/// Ties a notice to the mail that it is about, or says why that can't be done.
fn place(file: &MailboxFile, notice: Notice, known: &KnownTickets) -> Result<Vec<Entry>, String> {
    let named = notice.tickets.first().map(|(ticket, _)| format!(" (names {ticket})"));
    let named = named.unwrap_or_default();
    let outcomes = match notice.kind {
        Kind::Report(outcomes) => outcomes,
        Kind::EmptyReport => {
            return Err(format!("a delivery status that names no recipient{named}"));
        }
        Kind::MailSystem => {
            return Err(format!("from a mail system, in a form that is not understood{named}"));
        }
        Kind::AutoReply => return Err(format!("not a bounce: an automatic reply{named}")),
        Kind::Other => return Err(format!("not a bounce{named}")),
    };
    let exists = |ticket: &Ticket| known.as_ref().is_none_or(|known| known.contains_key(ticket));
    let mut existing = notice.tickets.iter().filter(|(ticket, _)| exists(ticket));
    let Some((ticket, found_by)) = existing.next() else {
        return Err(if notice.tickets.is_empty() {
            "a bounce without a ticket".to_owned()
        } else {
            format!("a bounce, but the ticket is not in the database{named}")
        });
    };
    let others: Vec<&Ticket> = existing.map(|(ticket, _)| ticket).collect();
    let known = known.as_ref().and_then(|known| known.get(ticket));
    let tie = Tie { ticket, found_by: *found_by, known, others: &others };
    let date = notice.date.as_deref();
    Ok(outcomes.into_iter().map(|outcome| Entry::new(tie, outcome, &file.unique, date)).collect())
}

/// Writes the report to standard output, all of it. False if the reader went away before the end:
/// then nobody has read it.
fn hand_over(text: &str) -> Result<bool, Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => {
            Err(error).context("cannot write to standard output").map_err(Failure::Failed)
        }
    }
}
