//! `show`: all there is to know of one mail.

use std::fmt::Write as _;
use std::fs;

use anyhow::anyhow;
use outbox::{DirectiveId, MailFile, Outbox, Sidecar};
use outbox_config::Failure;
use outbox_config::program::print;
use outbox_config::text::one_line;

use crate::list::{Listed, read};

/// Prints what is known of the mails that `wanted`, a ticket or a mail id, names: a mail and its
/// copies share the ticket.
pub fn show(outbox: &Outbox, wanted: &str) -> Result<(), Failure> {
    let mails: Vec<Listed> = read(outbox)
        .map_err(Failure::unavailable)?
        .into_iter()
        .filter(|mail| names(mail, wanted))
        .collect();
    if mails.is_empty() {
        let wanted = one_line(wanted);
        return Err(Failure::Failed(anyhow!(
            "no mail in the outbox has the ticket or id {wanted}; `list` shows those that are there"
        )));
    }
    let mut text = String::new();
    for (i, mail) in mails.iter().enumerate() {
        if i > 0 {
            text.push('\n');
        }
        let file = outbox.find(&mail.id).map_err(Failure::unavailable)?;
        text += &describe(outbox, mail, file.as_ref());
    }
    print(&text)
}

fn names(mail: &Listed, wanted: &str) -> bool {
    mail.id.as_str() == wanted
        || mail.sidecar.as_ref().is_ok_and(|sidecar| sidecar.ticket.as_str() == wanted)
}

fn describe(outbox: &Outbox, mail: &Listed, file: Option<&MailFile>) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<12} {}", one_line(value));
    };
    line("Mail", mail.id.as_str());
    let state = mail.state_name().to_string();
    match mail.record.as_ref().and_then(|record| record.reason.as_deref()) {
        Some(reason) => line("State", &format!("{state}: {reason}")),
        None => line("State", &state),
    }
    let place = file.map(|file| outbox.mail_path(file));
    line("File", &place.as_ref().map_or("none".into(), |path| path.display().to_string()));
    let sidecar = match &mail.sidecar {
        Ok(sidecar) => sidecar,
        Err(trouble) => {
            line("Trouble", trouble);
            return text;
        }
    };
    line("Content", &content(outbox, file, sidecar));
    line("Ticket", sidecar.ticket.as_str());
    line("Subject", &sidecar.subject);
    line("Message-ID", &sidecar.message_id);
    line("Written", &format!("{:.0}", sidecar.created_at));
    line("Mail from", &format!("<{}>", sidecar.envelope.from));
    for address in &sidecar.envelope.to {
        let outcome = mail.record.as_ref().and_then(|record| record.recipients.get(address));
        let words = match outcome {
            None => "open".to_owned(),
            Some(outcome) => {
                format!("{}: {}", outcome.state, outcome.reply)
            }
        };
        line("Rcpt to", &format!("<{address}> {words}"));
    }
    if let Some(record) = &mail.record {
        let time =
            |time: Option<jiff::Timestamp>| time.map_or("-".into(), |time| format!("{time:.0}"));
        line("Attempts", &record.attempts.to_string());
        if record.uncertain > 0 {
            line("Uncertain", &format!("{} of them", record.uncertain));
        }
        line("First", &time(record.first_attempt_at));
        line("Last", &time(record.last_attempt_at));
        line("Next", &time(record.next_attempt_at));
        line("Relay", record.relay.as_deref().unwrap_or("-"));
    }
    let group = &sidecar.group;
    line("Group", &group.recipient_address);
    line("Template", &group.template_name);
    line("Format", &format!("{}, {}", group.notification_format, group.event_data_format));
    for (key, value) in &group.aggregate_identifier {
        line("Aggregate", &format!("{key} = {}", value.as_deref().unwrap_or("null")));
    }
    line("Directives", &directives(&sidecar.directive_ids));
    if let Some(path) = place
        && let Ok(bytes) = fs::read(path)
    {
        text.push('\n');
        for header in String::from_utf8_lossy(&bytes).lines().take_while(|line| !line.is_empty()) {
            let _ = writeln!(text, "{}", one_line(&header.replace('\t', " ")));
        }
    }
    text
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
