//! What the operator reads: a few lines for each recipient, or JSON.

use std::fmt::Write as _;

use jiff::Timestamp;
use outbox::{DirectiveId, Ticket};
use outbox_config::text::{fit, one_line};
use serde::Serialize;

use super::dsn::{Action, Outcome};
use super::status::{Status, reason};
use super::ticket::{FoundBy, canonical};
use crate::marks::Known;

/// How much of a diagnostic is shown to a person; JSON has all of it.
const DIAGNOSTIC: usize = 500;

/// How many directives are shown to a person.
const DIRECTIVES: usize = 12;

/// What came back for one recipient of a ticket.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    ticket: Ticket,
    action: Action,
    status: Option<Status>,
    recipient: Option<String>,
    original_recipient: Option<String>,
    final_recipient: Option<String>,
    reason: &'static str,
    diagnostic: Option<String>,
    remote_mta: Option<String>,
    reporting_mta: Option<String>,
    /// When the relay took our mail; missing if the database was not asked.
    sent_at: Option<Timestamp>,
    /// None if the database was not asked.
    directives: Option<Vec<DirectiveId>>,
    found_by: FoundBy,
    /// What speaks against believing it.
    notes: Vec<String>,
    file: String,
    date: Option<String>,
}

/// The mail that a notice is tied to.
#[derive(Clone, Copy, Debug)]
pub struct Tie<'a> {
    /// Its ticket.
    pub ticket: &'a Ticket,
    /// Where that stood.
    pub found_by: FoundBy,
    /// What the database knows of it; none if it was not asked.
    pub known: Option<&'a Known>,
    /// The other tickets named, which exist as well.
    pub others: &'a [&'a Ticket],
}

impl Entry {
    /// Puts together what a notice says and what we know.
    pub fn new(tie: Tie<'_>, outcome: Outcome, file: &str, date: Option<&str>) -> Self {
        let mut notes = Vec::new();
        if let Some(known) = tie.known {
            if known.sent_at.is_none() {
                notes.push("no mail of this ticket was ever sent".to_owned());
            }
            let ours: Vec<String> =
                known.recipients.iter().flat_map(|list| list.split(',')).map(canonical).collect();
            let told = [&outcome.original_recipient, &outcome.final_recipient];
            if !told.into_iter().flatten().any(|address| ours.contains(&canonical(address))) {
                let text =
                    "no directive of the ticket has this recipient: a copy, a forward, or forged";
                notes.push(text.to_owned());
            }
        }
        if !tie.others.is_empty() {
            let first: Vec<&str> = tie.others.iter().take(3).map(|other| other.as_str()).collect();
            let more = if tie.others.len() > first.len() { " and more" } else { "" };
            notes.push(format!("it also names {}{more}", first.join(" ")));
        }
        Self {
            ticket: tie.ticket.clone(),
            action: outcome.action,
            status: outcome.status,
            recipient: outcome.recipient().map(str::to_owned),
            reason: reason(outcome.action, outcome.status, outcome.diagnostic.as_deref()),
            original_recipient: outcome.original_recipient,
            final_recipient: outcome.final_recipient,
            diagnostic: outcome.diagnostic,
            remote_mta: outcome.remote_mta,
            reporting_mta: outcome.reporting_mta,
            sent_at: tie.known.and_then(|known| known.sent_at),
            directives: tie.known.map(|known| known.directive_ids.clone()),
            found_by: tie.found_by,
            notes,
            file: file.to_owned(),
            date: date.map(str::to_owned),
        }
    }

    /// The ticket that it is about.
    pub fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    /// Adds a few lines for a terminal of `width` columns.
    fn write(&self, text: &mut String, width: usize) {
        let recipient = one_line(self.recipient.as_deref().unwrap_or("(recipient not told)"));
        let status = self.status.map(|status| format!("{status} ")).unwrap_or_default();
        let head = format!("{}  {:<10}{recipient}", self.ticket, self.action.as_str());
        let why = format!("{status}{}", self.reason);
        if head.chars().count() + 2 + why.chars().count() <= width {
            let _ = writeln!(text, "{head}  {why}");
        } else {
            let _ = writeln!(text, "{head}\n    {why}");
        }
        let mut paragraph = |words: &str| wrap(text, words, width);
        if let (Some(original), Some(last)) = (&self.original_recipient, &self.final_recipient)
            && canonical(original) != canonical(last)
        {
            paragraph(&format!("forwarded to {}", one_line(last)));
        }
        let by = match (&self.remote_mta, &self.reporting_mta) {
            (Some(host), _) => format!("({})", one_line(host)),
            (None, Some(host)) => format!("(told by {})", one_line(host)),
            (None, None) => String::new(),
        };
        let said = fit(&one_line(self.diagnostic.as_deref().unwrap_or_default()), DIAGNOSTIC);
        paragraph(&format!("{said} {by}"));
        let mut known = String::new();
        if let Some(sent_at) = self.sent_at {
            let _ = write!(known, "sent {sent_at:.0}; ");
        }
        match self.directives.as_deref() {
            None => {}
            Some([]) => known += "no directives; ",
            Some(ids) => {
                known += "directives ";
                for id in ids.iter().take(DIRECTIVES) {
                    let _ = write!(known, "{id} ");
                }
                if let Some(more @ 1..) = ids.len().checked_sub(DIRECTIVES) {
                    let _ = write!(known, "and {more} more ");
                }
                known.truncate(known.trim_end().len());
                known += "; ";
            }
        }
        paragraph(&format!("{known}found by {}", self.found_by.words()));
        for note in &self.notes {
            paragraph(&format!("note: {note}"));
        }
    }
}

/// Adds `words`, indented, in lines of at most `width` columns; a word that is longer is cut.
fn wrap(text: &mut String, words: &str, width: usize) {
    const INDENT: &str = "    ";
    let room = width.saturating_sub(INDENT.len()).max(20);
    let mut column = 0;
    for word in words.split(' ').filter(|word| !word.is_empty()) {
        let mut rest: Vec<char> = word.chars().collect();
        while !rest.is_empty() {
            let piece: String = rest.drain(..rest.len().min(room)).collect();
            let length = piece.chars().count();
            if column > 0 && column + 1 + length <= room {
                text.push(' ');
                column += 1;
            } else {
                text.push_str(if column > 0 { "\n" } else { "" });
                text.push_str(INDENT);
                column = 0;
            }
            text.push_str(&piece);
            column += length;
        }
    }
    if column > 0 {
        text.push('\n');
    }
}

/// The report for a person.
pub fn as_text(entries: &[Entry], staying: &[(String, String)], width: usize) -> String {
    let mut text = String::new();
    for entry in entries {
        entry.write(&mut text, width);
    }
    if entries.is_empty() {
        text.push_str("no bounces\n");
    }
    if !staying.is_empty() {
        let (files, stay) = if staying.len() == 1 {
            ("file", "stays as it is")
        } else {
            ("files", "stay as they are")
        };
        let _ = writeln!(text, "\n{} {files} {stay}:", staying.len());
        for (file, why) in staying {
            wrap(&mut text, &format!("{}: {why}", one_line(file)), width);
        }
    }
    text
}
