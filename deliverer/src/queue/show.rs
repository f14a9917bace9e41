//! `show`: all there is to know of some mails.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use outbox::{AttemptMade, DeliveryRecord, DirectiveId, MailFile, MailId, Outbox, Sidecar, Ticket};
use outbox_config::Failure;
use outbox_config::program::{print, print_json};
use outbox_config::text::one_line;
use serde::Serialize;

use super::selector::{in_a_row, is_called};
use super::{Selector, read, unavailable};

/// A mail as JSON: what its files say.
#[derive(Serialize)]
struct Json<'a> {
    id: &'a MailId,
    ticket: Option<Ticket>,
    state: String,
    file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    retry: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<&'a str>,
    sidecar: Option<&'a Sidecar>,
    record: Option<&'a DeliveryRecord>,
    header: Vec<String>,
}

/// Prints what is known of the mails that are selected. Those that are named and not in the outbox are
/// looked for in the archive.
pub fn show(outbox: &Outbox, selector: &Selector, json: bool) -> Result<(), Failure> {
    let mut selected = selector.select(read(outbox).map_err(unavailable)?);
    let sent = find_sent(outbox, &mut selected.missing).map_err(unavailable)?;
    // None, if it was moved at this moment or is no file.
    let header = |path: &Path| outbox.header(path).unwrap_or_default();
    let mut shown = Vec::new();
    for mail in &selected.mails {
        let file = outbox.find(&mail.id).map_err(unavailable)?;
        let path = file.as_ref().map(|file| outbox.mail_path(file));
        let content = mail.sidecar.as_ref().ok().map(|it| content(outbox, file.as_ref(), it));
        shown.push(Json {
            id: &mail.id,
            ticket: mail.ticket(),
            state: mail.state_name().to_string(),
            content,
            retry: mail.is_retried(),
            trouble: mail.sidecar.as_ref().err().map(String::as_str),
            sidecar: mail.sidecar.as_ref().ok(),
            record: mail.record.as_ref(),
            header: path.as_deref().map(header).unwrap_or_default(),
            file: path,
        });
    }
    for (id, path) in &sent {
        shown.push(Json {
            id,
            ticket: id.ticket(),
            state: "sent".to_owned(),
            content: None,
            retry: false,
            trouble: None,
            sidecar: None,
            record: None,
            header: header(path),
            file: Some(path.clone()),
        });
    }
    if json {
        print_json(&shown)?;
    } else if shown.is_empty() && selected.missing.is_empty() {
        print("no mails\n")?;
    } else {
        let texts: Vec<String> = shown.iter().map(describe).collect();
        print(&texts.join("\n"))?;
    }
    if selected.missing.is_empty() {
        return Ok(());
    }
    Err(Failure::Failed(anyhow!(
        "no mail in the outbox or in its archive has the ticket or id {}",
        in_a_row(&selected.missing)
    )))
}

/// The mails in the archive that have one of the names; these are not `missing` any more.
fn find_sent(
    outbox: &Outbox,
    missing: &mut Vec<String>,
) -> outbox::Result<BTreeMap<MailId, PathBuf>> {
    if missing.is_empty() {
        return Ok(BTreeMap::new());
    }
    let is_called = |id: &MailId, name: &str| is_called(id, id.ticket(), name);
    let sent = outbox.archived(|id| missing.iter().any(|name| is_called(id, name)))?;
    missing.retain(|name| !sent.keys().any(|id| is_called(id, name)));
    Ok(sent)
}

fn describe(mail: &Json<'_>) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<12} {}", one_line(value));
    };
    line("Mail", mail.id.as_str());
    match mail.record.and_then(|record| record.reason.as_deref()) {
        Some(reason) => line("State", &format!("{}: {reason}", mail.state)),
        None => line("State", &mail.state),
    }
    line("File", &mail.file.as_ref().map_or("none".into(), |path| path.display().to_string()));
    if let Some(trouble) = mail.trouble {
        line("Trouble", trouble);
    }
    if let Some(content) = &mail.content {
        line("Content", content);
    }
    if mail.retry {
        line("Retry", "asked for: it is due now");
    }
    line("Ticket", mail.ticket.as_ref().map_or("?", Ticket::as_str));
    if let Some(sidecar) = mail.sidecar {
        describe_sidecar(sidecar, mail.record, &mut line);
    }
    if !mail.header.is_empty() {
        text.push('\n');
    }
    for field in &mail.header {
        let _ = writeln!(text, "{}", one_line(&field.replace('\t', " ")));
    }
    text
}

fn describe_sidecar(
    sidecar: &Sidecar,
    record: Option<&DeliveryRecord>,
    line: &mut impl FnMut(&str, &str),
) {
    line("Subject", &sidecar.subject);
    line("Message-ID", &sidecar.message_id);
    line("Written", &format!("{:.0}", sidecar.created_at));
    line("Mail from", &format!("<{}>", sidecar.envelope.from));
    for address in &sidecar.envelope.to {
        let outcome = record.and_then(|record| record.recipients.get(address));
        let words = outcome
            .map_or("open".to_owned(), |outcome| format!("{}: {}", outcome.state, outcome.reply));
        line("Rcpt to", &format!("<{address}> {words}"));
    }
    if let Some(record) = record {
        describe_record(record, line);
    }
    let group = &sidecar.group;
    line("Group", &group.recipient_address);
    line("Template", &group.template_name);
    line("Format", &format!("{}, {}", group.notification_format, group.event_data_format));
    for (key, value) in &group.aggregate_identifier {
        line("Aggregate", &format!("{key} = {}", value.as_deref().unwrap_or("null")));
    }
    line("Directives", &directives(&sidecar.directive_ids));
}

fn describe_record(record: &DeliveryRecord, line: &mut impl FnMut(&str, &str)) {
    let time = |time: Option<jiff::Timestamp>| time.map_or("-".into(), |time| format!("{time:.0}"));
    line("Attempts", &record.attempts.to_string());
    if record.uncertain > 0 {
        line("Uncertain", &format!("{} of them", record.uncertain));
    }
    for AttemptMade { at, relay, milliseconds, reply } in &record.history {
        let (seconds, tenths) = (milliseconds / 1000, milliseconds % 1000 / 100);
        line("Attempt", &format!("{at:.0} {relay} {seconds}.{tenths}s {reply}"));
    }
    line("First", &time(record.first_attempt_at));
    line("Last", &time(record.last_attempt_at));
    line("Next", &time(record.next_attempt_at));
    if let Some(at) = record.offered_at {
        line("Offered", &format!("{at:.0}, and what came of it is not known"));
    }
    line("Relay", record.relay.as_deref().unwrap_or("-"));
}

/// Whether the file is still what the generator wrote.
fn content(outbox: &Outbox, file: Option<&MailFile>, sidecar: &Sidecar) -> String {
    match file.map(|file| outbox.read_mail(file, sidecar)) {
        None => "no file: it was deleted".to_owned(),
        Some(Ok(Ok(bytes))) => format!("{} octets, as written", bytes.len()),
        Some(Ok(Err(reason))) => reason,
        Some(Err(error)) => error.to_string(),
    }
}

fn directives(ids: &[DirectiveId]) -> String {
    if ids.is_empty() {
        return "none: a copy".to_owned();
    }
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}
