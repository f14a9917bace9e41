//! The queue as an operator sees it, and what an operator does to it.
//!
//! ```text
//!  outbox ──▶ read ──▶ Selector ──▶ list, show, verify      print
//!                              ├──▶ hold, release, retry    rename the mail's file
//!                              └──▶ withdraw                lock, remove, mark in the database
//! ```
//!
//! There is no second source of truth: these commands read the outbox and rename files in it, as a mail
//! reader does, whether the service runs or not. The service watches the folders and sees to it.

mod change;
mod flags;
mod list;
#[cfg(any(test, fuzzing))]
pub(crate) mod oracles;
mod selector;
mod show;
mod verify;
mod withdraw;

use anyhow::anyhow;
use jiff::Timestamp;
use outbox::{DeliveryRecord, DeliveryState, MailFile, MailId, Outbox, Sidecar, State, Ticket};
use outbox_config::Failure;

pub use flags::{hold, release, retry};
pub use list::list;
pub use selector::Selector;
pub use show::show;
pub use verify::verify;
pub use withdraw::{Decision, withdraw};

use crate::cli::StateName;
use selector::is_called;

/// What is known of one mail.
#[derive(Debug)]
pub struct Listed {
    /// The mail.
    pub id: MailId,
    /// Where its file was met, if it has one.
    pub file: Option<MailFile>,
    /// What its files mean.
    pub state: State,
    /// What the generator wrote, or why it, or the record, can't be read.
    pub sidecar: Result<Sidecar, String>,
    /// What the deliverer wrote.
    pub record: Option<DeliveryRecord>,
}

/// Reads everything in the outbox that has a sidecar, oldest first.
pub fn read(outbox: &Outbox) -> outbox::Result<Vec<Listed>> {
    let mut mails = Vec::new();
    for (id, entry) in outbox.scan()?.entries {
        if !entry.sidecar {
            continue;
        }
        let (record, trouble) = match outbox.record(&id) {
            Ok(record) => (record, None),
            Err(error) => (None, Some(error.to_string())),
        };
        let sidecar = match (outbox.sidecar(&id), trouble) {
            (_, Some(trouble)) => Err(trouble),
            (Ok(Some(sidecar)), None) => Ok(sidecar),
            // Finished while we looked.
            (Ok(None), None) => continue,
            (Err(error), None) => Err(error.to_string()),
        };
        let state = entry.state(record.as_ref());
        mails.push(Listed { state, file: entry.mail, id, sidecar, record });
    }
    Ok(mails)
}

/// Why an operation on the outbox failed, with what to do about it where that is known.
fn explain(error: &outbox::Error) -> String {
    error.advice().map_or_else(|| error.to_string(), |advice| format!("{error} ({advice})"))
}

/// A [`Failure`] with which a command ends that can't read the outbox.
#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn unavailable(error: outbox::Error) -> Failure {
    Failure::Unavailable(anyhow!("{}", explain(&error)))
}

/// The state of a mail in an operator's words.
pub fn state_name(state: &State, record: Option<&DeliveryRecord>) -> StateName {
    match state {
        State::Held => match record {
            Some(record) if record.state == DeliveryState::Review => StateName::Held,
            Some(record) if record.was_held() => StateName::Failed,
            _ => StateName::Held,
        },
        State::Deferred { .. } => StateName::Deferred,
        State::Withdrawn => StateName::Withdrawn,
        State::Accepted => StateName::Accepted,
        _ => StateName::Queued,
    }
}

impl Listed {
    /// The state in an operator's words.
    pub fn state_name(&self) -> StateName {
        match &self.state {
            _ if self.sidecar.is_err() => StateName::Failed,
            state => state_name(state, self.record.as_ref()),
        }
    }

    /// What the mail is counted as: its state, and when it was written, where that is known.
    pub fn counted(&self) -> (StateName, Option<Timestamp>) {
        (self.state_name(), self.sidecar.as_ref().ok().map(|sidecar| sidecar.created_at))
    }

    /// The ticket: the sidecar's, or the one in the id of a mail whose sidecar can't be read.
    pub fn ticket(&self) -> Option<Ticket> {
        self.sidecar.as_ref().map_or_else(|_| self.id.ticket(), |it| Some(it.ticket.clone()))
    }

    /// Whether `name` is its id or ticket.
    fn is_called(&self, name: &str) -> bool {
        is_called(&self.id, self.ticket(), name)
    }

    /// Whom it goes to: the first recipient, and how many more there are.
    fn recipient(&self) -> String {
        match self.recipients() {
            [] => "?".to_owned(),
            [one] => one.clone(),
            [first, others @ ..] => format!("{first} +{}", others.len()),
        }
    }

    fn recipients(&self) -> &[String] {
        self.sidecar.as_ref().map_or(&[], |sidecar| &sidecar.envelope.to)
    }

    /// The last words on it: of the relay, or of this program.
    fn words(&self) -> String {
        let record = match (&self.sidecar, &self.record) {
            (Err(trouble), _) => return trouble.clone(),
            (Ok(_), None) => return String::new(),
            (Ok(_), Some(record)) => record,
        };
        if let Some(reason) = &record.reason {
            return reason.clone();
        }
        record.last_reply().unwrap_or_default().to_owned()
    }

    /// Whether a person asked for the next attempt now.
    fn is_retried(&self) -> bool {
        self.file.as_ref().is_some_and(|file| file.flags.retried())
    }
}
