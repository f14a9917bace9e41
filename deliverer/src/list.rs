//! `list`: the mails in the outbox, one a line or as JSON.

use jiff::Timestamp;
use outbox::{DeliveryRecord, MailId, Outbox, RecipientState, Sidecar, State, Ticket};
use outbox_config::Failure;
use outbox_config::program::{print, width};
use outbox_config::text::{fit, one_line};
use serde::Serialize;

use crate::cli::StateName;

/// What is known of one mail.
#[derive(Debug)]
pub struct Listed {
    /// The mail.
    pub id: MailId,
    /// What its files mean.
    pub state: State,
    /// What the generator wrote, or why it can't be read.
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
        mails.push(Listed { state: entry.state(record.as_ref()), id, sidecar, record });
    }
    Ok(mails)
}

impl Listed {
    /// The state in an operator's words.
    pub fn state_name(&self) -> StateName {
        match &self.state {
            _ if self.sidecar.is_err() => StateName::Failed,
            State::Held if self.record.as_ref().is_some_and(DeliveryRecord::was_held) => {
                StateName::Failed
            }
            State::Held => StateName::Held,
            State::Deferred { .. } => StateName::Deferred,
            State::Withdrawn => StateName::Withdrawn,
            State::Accepted => StateName::Accepted,
            _ => StateName::Queued,
        }
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
        let worst = |state| record.recipients.values().find(|outcome| outcome.state == state);
        [RecipientState::Rejected, RecipientState::Deferred, RecipientState::Accepted]
            .into_iter()
            .find_map(worst)
            .map(|outcome| outcome.reply.clone())
            .unwrap_or_default()
    }
}

/// One mail as JSON. Times are RFC 3339.
#[derive(Serialize)]
struct Json<'a> {
    id: &'a MailId,
    ticket: Option<&'a str>,
    state: String,
    created_at: Option<Timestamp>,
    subject: Option<&'a str>,
    to: &'a [String],
    attempts: u32,
    next_attempt_at: Option<Timestamp>,
    last_reply: String,
    directives: usize,
}

/// Prints the list.
pub fn list(outbox: &Outbox, only: Option<StateName>, json: bool) -> Result<(), Failure> {
    let mails = read(outbox).map_err(Failure::unavailable)?;
    let mails: Vec<Listed> = mails
        .into_iter()
        .filter(|mail| only.is_none_or(|state| state == mail.state_name()))
        .collect();
    let text = if json { as_json(&mails) } else { as_table(&mails, outbox::now(), width()) };
    print(&text)
}

fn as_json(mails: &[Listed]) -> String {
    let mails: Vec<Json<'_>> = mails
        .iter()
        .map(|mail| {
            let sidecar = mail.sidecar.as_ref().ok();
            Json {
                id: &mail.id,
                ticket: sidecar.map(|sidecar| sidecar.ticket.as_str()),
                state: mail.state_name().to_string(),
                created_at: sidecar.map(|sidecar| sidecar.created_at),
                subject: sidecar.map(|sidecar| sidecar.subject.as_str()),
                to: sidecar.map_or(&[], |sidecar| &sidecar.envelope.to),
                attempts: mail.record.as_ref().map_or(0, |record| record.attempts),
                next_attempt_at: mail.record.as_ref().and_then(|record| record.next_attempt_at),
                last_reply: mail.words(),
                directives: sidecar.map_or(0, |sidecar| sidecar.directive_ids.len()),
            }
        })
        .collect();
    serde_json::to_string_pretty(&mails).expect("plain data has a JSON form") + "\n"
}

/// A table for a terminal of `width` columns; the last column takes what is left.
fn as_table(mails: &[Listed], now: Timestamp, width: Option<usize>) -> String {
    if mails.is_empty() {
        return "no mails\n".to_owned();
    }
    let line = |cells: [&str; 7]| {
        let [ticket, age, state, tries, next, recipient, reply] = cells;
        let line = format!(
            "{ticket:<17} {age:>4} {state:<9} {tries:>3} {next:>4} {:<24} {reply}",
            fit(recipient, 24)
        );
        fit(line.trim_end(), width.unwrap_or(usize::MAX)) + "\n"
    };
    let mut table = line(["TICKET", "AGE", "STATE", "TRY", "NEXT", "RECIPIENT", "LAST REPLY"]);
    for mail in mails {
        let sidecar = mail.sidecar.as_ref().ok();
        let record = mail.record.as_ref();
        let to = sidecar.map_or(&[][..], |sidecar| &sidecar.envelope.to);
        let recipient = match to {
            [] => String::new(),
            [one] => one.clone(),
            [first, others @ ..] => format!("{first} +{}", others.len()),
        };
        table += &line([
            mail.id.ticket().as_ref().map_or("?", Ticket::as_str),
            &sidecar.map(|sidecar| span(sidecar.created_at, now)).unwrap_or_default(),
            &mail.state_name().to_string(),
            &record.map_or_else(String::new, |record| record.attempts.to_string()),
            &record
                .and_then(|record| record.next_attempt_at)
                .map(|next| span(now, next))
                .unwrap_or_default(),
            &one_line(&recipient),
            &one_line(&mail.words()),
        ]);
    }
    table
}

/// The time between two points in the largest unit that gives a number: `45s`, `12m`, `3h`, `9d`.
fn span(from: Timestamp, to: Timestamp) -> String {
    let seconds = to.duration_since(from).as_secs().max(0);
    match seconds {
        0..100 => format!("{seconds}s"),
        100..6_000 => format!("{}m", seconds / 60),
        6_000..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}
