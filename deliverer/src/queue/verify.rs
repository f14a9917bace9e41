//! `verify`: every mail against its sidecar, its record and the database, and what else is in the outbox.
//! Changes nothing.
//!
//! What the service does at the same time must not look like damage: whatever is found is looked at
//! once more at the end, and what has moved on is not told.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;

use anyhow::anyhow;
use outbox::{
    DeliveryRecord, DeliveryState, DirectiveId, MailId, Outbox, RecipientState, Sidecar, State,
    Ticket,
};
use outbox_config::program::{print, print_json};
use outbox_config::text::one_line;
use outbox_config::{Config, Failure};
use serde::Serialize;

use super::selector::{fail_with, not_found};
use super::{Listed, Selector, read, unavailable};
use crate::cli::StateName;
use crate::marks::{Claimed, connect, marked_already, sent_already};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Severity {
    /// Something is not as the programs leave it.
    Wrong,
    /// A person should look at it, or decide.
    Look,
}

/// What is told of one thing.
#[derive(Debug, Serialize)]
struct Finding {
    severity: Severity,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<MailId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ticket: Option<Ticket>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<PathBuf>,
    text: String,
}

/// All of it as JSON.
#[derive(Debug, Serialize)]
struct Json<'a> {
    mails: usize,
    ok: usize,
    findings: &'a [Finding],
}

/// Compares, and prints what was found.
pub fn verify(
    config: &Config,
    outbox: &Outbox,
    selector: &Selector,
    ask_database: bool,
    json: bool,
) -> Result<(), Failure> {
    let selected = selector.select(read(outbox).map_err(unavailable)?);
    let mails = &selected.mails;
    let mut findings = Vec::new();
    for mail in mails {
        compare_files(outbox, mail, &mut findings);
    }
    if ask_database && let Err(error) = compare_with_database(config, mails, &mut findings) {
        findings.push(Finding::about(Severity::Wrong, format!("database: {error:#}")));
    }
    findings.retain(|finding| finding.id.as_ref().is_none_or(|id| is_as_before(outbox, mails, id)));
    if selector.is_empty() {
        look_around(outbox, &mut findings).map_err(unavailable)?;
    }
    let blamed = |mail: &&Listed| findings.iter().any(|it| it.id.as_ref() == Some(&mail.id));
    let ok = mails.len() - mails.iter().filter(blamed).count();
    if json {
        print_json(&Json { mails: mails.len(), ok, findings: &findings })?;
    } else {
        for finding in &findings {
            print(&format!("{}\n", one_line(&finding.to_string())))?;
        }
        print(&format!("ok    {ok} of {} mails\n", mails.len()))?;
    }
    let count = findings.len();
    let found = (count > 0).then(|| anyhow!("what is wrong or needs a person: {count}"));
    fail_with(found.into_iter().chain(not_found(&selected.missing)))
}

impl Finding {
    fn about(severity: Severity, text: impl Into<String>) -> Self {
        Self { severity, id: None, ticket: None, file: None, text: text.into() }
    }

    fn of(severity: Severity, mail: &Listed, text: impl Into<String>) -> Self {
        let (id, ticket) = (Some(mail.id.clone()), mail.ticket());
        Self { id, ticket, ..Self::about(severity, text) }
    }

    fn at(path: PathBuf, text: impl Into<String>) -> Self {
        Self { file: Some(path), ..Self::about(Severity::Look, text) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.severity {
            Severity::Wrong => "WRONG ",
            Severity::Look => "LOOK  ",
        })?;
        match (&self.ticket, &self.id, &self.file) {
            (Some(ticket), ..) => write!(f, "{ticket}: {}", self.text),
            (None, Some(id), _) => write!(f, "{id}: {}", self.text),
            (None, None, Some(path)) => write!(f, "{}: {}", path.display(), self.text),
            (None, None, None) => f.write_str(&self.text),
        }
    }
}

/// Whether nothing became of a mail since it was read, so that what was found of it stands.
fn is_as_before(outbox: &Outbox, mails: &[Listed], id: &MailId) -> bool {
    let Some(mail) = mails.iter().find(|mail| mail.id == *id) else { return true };
    let Ok(before) = &mail.sidecar else { return true };
    let sidecar_stays = matches!(outbox.sidecar(id), Ok(Some(now)) if now == *before);
    sidecar_stays && outbox.record(id).is_ok_and(|record| record == mail.record)
}

/// A mail's file, sidecar and record.
fn compare_files(outbox: &Outbox, mail: &Listed, findings: &mut Vec<Finding>) {
    let mut tell = |severity, text: String| findings.push(Finding::of(severity, mail, text));
    let sidecar = match &mail.sidecar {
        Ok(sidecar) => sidecar,
        Err(trouble) => {
            let text = format!(
                "{trouble}; the mail is not sent until this is mended, and if it is a sidecar, no mail \
                 at all is written until then"
            );
            return tell(Severity::Wrong, text);
        }
    };
    if let Some(record) = &mail.record
        && let Some(text) = contradiction(sidecar, record)
    {
        tell(Severity::Wrong, format!("its delivery record does not fit: {text}"));
    }
    match mail.state {
        State::Accepted => return,
        State::Withdrawn => {
            let text = "withdrawn, its directives stay claimed: `withdraw --regenerate` or \
                        `--suppress` says what becomes of them";
            tell(Severity::Look, text.to_owned());
        }
        State::Committed if !outbox.has_generator().unwrap_or(false) => {
            let text = "in tmp/, and no generator runs: its next run publishes the mail";
            tell(Severity::Look, text.to_owned());
        }
        _ if mail.state_name() == StateName::Failed => {
            let text = format!("failed: {}; `release` it, or `withdraw` it", mail.words());
            tell(Severity::Look, text);
        }
        _ => {}
    }
    let changed = match outbox.find(&mail.id) {
        // Withdrawn; or it is on its way, and then its record or its sidecar is.
        Ok(None) => return,
        Ok(Some(file)) => match outbox.read_mail(&file, sidecar) {
            Ok(Ok(_)) => match outbox.check_archive(&mail.id, &file) {
                Ok(()) => return,
                Err(error) => {
                    let text = format!("{error}; it is not sent: take one of the two away");
                    return tell(Severity::Wrong, text);
                }
            },
            Ok(Err(reason)) => reason,
            Err(error) if error.is_not_found() => return,
            Err(error) => error.to_string(),
        },
        Err(error) => error.to_string(),
    };
    let text = format!("{changed}; it is never sent: `withdraw --regenerate` has it written anew");
    tell(Severity::Wrong, text);
}

/// What a record says that can't be, if the sidecar is right.
fn contradiction(sidecar: &Sidecar, record: &DeliveryRecord) -> Option<String> {
    let stranger = |address: &&String| !sidecar.envelope.to.contains(address);
    if let Some(stranger) = record.recipients.keys().find(stranger) {
        return Some(format!("it speaks of {stranger}, to whom the mail does not go"));
    }
    let open = record.open_recipients(&sidecar.envelope.to);
    match record.state {
        DeliveryState::Accepted if !record.any_accepted() => {
            Some("accepted, but for no recipient".to_owned())
        }
        DeliveryState::Accepted if !open.is_empty() => {
            Some(format!("accepted, but not yet for {}", open.join(", ")))
        }
        DeliveryState::Deferred if open.is_empty() => {
            Some("deferred, but no recipient is to be asked for".to_owned())
        }
        DeliveryState::Rejected if record.recipients.values().any(is_accepted) => {
            Some("rejected, but accepted for a recipient".to_owned())
        }
        _ => None,
    }
}

fn is_accepted(outcome: &outbox::RecipientOutcome) -> bool {
    outcome.state == RecipientState::Accepted
}

/// What the mails claim, against each other and against the database.
fn compare_with_database(
    config: &Config,
    mails: &[Listed],
    findings: &mut Vec<Finding>,
) -> anyhow::Result<()> {
    let mut claims: HashMap<DirectiveId, &Listed> = HashMap::new();
    let mut tickets: HashMap<Ticket, &Listed> = HashMap::new();
    for mail in mails {
        let Ok(sidecar) = &mail.sidecar else { continue };
        if !sidecar.mark_sent {
            continue;
        }
        tickets.insert(sidecar.ticket.clone(), mail);
        for directive in &sidecar.directive_ids {
            if let Some(other) = claims.insert(*directive, mail) {
                let text = format!("directive {directive} is claimed by {} as well", other.id);
                findings.push(Finding::of(Severity::Wrong, mail, text));
            }
        }
    }
    if claims.is_empty() {
        return Ok(());
    }
    let settings = &config.database()?.event;
    let mut client = connect(settings)?;
    let asked: Vec<DirectiveId> = claims.keys().copied().collect();
    let mut marked = marked_already(&mut client, &asked)?;
    marked.sort_by_key(|claimed| claimed.directive);
    for Claimed { directive, marked_by } in marked {
        let mail = claims[&directive];
        let ours = mail.ticket();
        let ours = ours.as_ref().map(Ticket::as_str);
        let (severity, text) = match marked_by {
            None => (
                Severity::Look,
                format!("directive {directive} is gone from the database: its event was deleted"),
            ),
            // Told of the ticket below.
            Some(ticket) if Some(ticket.as_str()) == ours => continue,
            Some(other) => (
                Severity::Wrong,
                format!(
                    "directive {directive} is marked sent by {other}: `withdraw --suppress` keeps it \
                     from being sent twice"
                ),
            ),
        };
        findings.push(Finding::of(severity, mail, text));
    }
    let asked: Vec<Ticket> = tickets.keys().cloned().collect();
    let mut sent = sent_already(&mut client, &asked)?;
    sent.sort();
    for ticket in sent {
        let mail = tickets[&ticket];
        let (severity, text) = match mail.state {
            State::Accepted => continue,
            State::Withdrawn => (
                Severity::Look,
                "it stands in sent: its withdrawal was interrupted, so do `withdraw --suppress` \
                 again",
            ),
            _ => (
                Severity::Wrong,
                "it stands in sent already and is to be sent: was the outbox restored from a backup? \
                 `withdraw --suppress` keeps it from being sent twice",
            ),
        };
        findings.push(Finding::of(severity, mail, text));
    }
    Ok(())
}

/// What is in the outbox beside its mails.
fn look_around(outbox: &Outbox, findings: &mut Vec<Finding>) -> outbox::Result<()> {
    let snapshot = outbox.scan()?;
    let generator = outbox.has_generator()?;
    for (id, entry) in snapshot.entries {
        let path = entry.mail.as_ref().map(|mail| outbox.mail_path(mail));
        match (entry.state(None), path) {
            (State::Foreign, Some(path)) => {
                let text = "a mail without a sidecar: not ours, never sent; move it away";
                findings.push(Finding::at(path, text));
            }
            // One without a ticket in its name is foreign, and told of below.
            (State::Draft, Some(path)) if !generator && id.ticket().is_some() => {
                let text = "a draft that was given up: the generator's next run removes it";
                findings.push(Finding::at(path, text));
            }
            (State::Leftover, _) => {
                let path = outbox.records().join(format!("{id}.json"));
                match outbox.record(&id) {
                    Ok(None) => {}
                    Ok(Some(_)) => findings.push(Finding::at(
                        path,
                        "a delivery record of a mail that is gone: the deliverer removes it at its start, and once \
                         an hour",
                    )),
                    Err(error) => findings.push(Finding::at(path, error.to_string())),
                }
            }
            _ => {}
        }
    }
    for oddity in snapshot.oddities {
        findings.push(Finding::at(oddity.path, format!("{}: move it away", oddity.why)));
    }
    Ok(())
}
