//! `list`: the mails in the outbox, one a line or as JSON.

use std::time::Duration;

use jiff::Timestamp;
use outbox::{DirectiveId, MailId, Outbox, Ticket};
use outbox_config::program::{print, print_json, width};
use outbox_config::text::{fit, one_line};
use outbox_config::{Failure, duration_words};
use serde::Serialize;

use super::selector::{fail_with, not_found};
use super::{Listed, Selector, read, unavailable};
use crate::cli::StateName;
use crate::counts::Counts;

/// How wide the column of the recipients may get, whatever the terminal: the last column is worth more.
const RECIPIENT: usize = 24;

/// One mail as JSON. Times are RFC 3339.
#[derive(Serialize)]
struct Json<'a> {
    id: &'a MailId,
    ticket: Option<Ticket>,
    state: String,
    created_at: Option<Timestamp>,
    subject: Option<&'a str>,
    to: &'a [String],
    size: Option<u64>,
    attempts: u32,
    uncertain: u32,
    next_attempt_at: Option<Timestamp>,
    retry: bool,
    relay: Option<&'a str>,
    last_reply: String,
    directives: usize,
    directive_ids: &'a [DirectiveId],
}

/// Prints the list.
pub fn list(outbox: &Outbox, selector: &Selector, json: bool) -> Result<(), Failure> {
    let selected = selector.select(read(outbox).map_err(unavailable)?);
    let mails = &selected.mails;
    if json {
        print_json(&as_json(mails))?;
    } else {
        print(&as_table(mails, outbox::now(), width()))?;
    }
    fail_with(not_found(&selected.missing))
}

fn as_json(mails: &[Listed]) -> Vec<Json<'_>> {
    mails
        .iter()
        .map(|mail| {
            let sidecar = mail.sidecar.as_ref().ok();
            let record = mail.record.as_ref();
            let directive_ids = sidecar.map_or(&[][..], |sidecar| &sidecar.directive_ids);
            Json {
                id: &mail.id,
                ticket: mail.ticket(),
                state: mail.state_name().to_string(),
                created_at: sidecar.map(|sidecar| sidecar.created_at),
                subject: sidecar.map(|sidecar| sidecar.subject.as_str()),
                to: mail.recipients(),
                size: sidecar.map(|sidecar| sidecar.size),
                attempts: record.map_or(0, |record| record.attempts),
                uncertain: record.map_or(0, |record| record.uncertain),
                next_attempt_at: record.and_then(|record| record.next_attempt_at),
                retry: mail.is_retried(),
                relay: record.and_then(|record| record.relay.as_deref()),
                last_reply: mail.words(),
                directives: directive_ids.len(),
                directive_ids,
            }
        })
        .collect()
}

/// A table for a terminal of `width` columns, and how many mails of each state it holds. Each column is
/// as wide as it has to be; the last one takes what is left. Without a terminal nothing is cut off.
fn as_table(mails: &[Listed], now: Timestamp, width: Option<usize>) -> String {
    if mails.is_empty() {
        return "no mails\n".to_owned();
    }
    let heads = ["TICKET", "AGE", "STATE", "TRY", "NEXT", "RECIPIENT", "LAST REPLY"];
    let mut rows = vec![heads.map(str::to_owned)];
    rows.extend(mails.iter().map(|mail| row(mail, now)));
    let widest = |column: usize| {
        rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
    };
    let [ticket, age, state, tries, next] = [0, 1, 2, 3, 4].map(widest);
    let recipient = width.map_or(usize::MAX, |width| RECIPIENT.max(width / 4));
    let column = widest(5).min(recipient);
    let mut table = String::new();
    for row in &rows {
        let line = format!(
            "{:<ticket$} {:>age$} {:<state$} {:>tries$} {:>next$} {:<column$} {}",
            row[0],
            row[1],
            row[2],
            row[3],
            row[4],
            fit(&row[5], recipient),
            row[6]
        );
        table += &(fit(line.trim_end(), width.unwrap_or(usize::MAX)) + "\n");
    }
    let counts: Counts = mails.iter().map(Listed::counted).collect();
    format!("{table}{counts}\n")
}

fn row(mail: &Listed, now: Timestamp) -> [String; 7] {
    let record = mail.record.as_ref();
    let state = mail.state_name();
    let next = record.and_then(|record| record.next_attempt_at);
    let next = next.filter(|_| matches!(state, StateName::Deferred | StateName::Held));
    [
        mail.ticket().map_or_else(|| "?".to_owned(), |ticket| ticket.to_string()),
        mail.sidecar.as_ref().map(|it| span(it.created_at, now)).unwrap_or_default(),
        state.to_string(),
        record.filter(|it| it.attempts > 0).map(|it| it.attempts.to_string()).unwrap_or_default(),
        next.map(|next| span(now, next)).unwrap_or_default(),
        one_line(&mail.recipient()),
        one_line(&mail.words()),
    ]
}

/// How long it is from one point in time to another.
fn span(from: Timestamp, to: Timestamp) -> String {
    duration_words(Duration::try_from(to.duration_since(from)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use outbox::{DeliveryRecord, Flags, MailFile, Place, Sidecar, State};
    use serde_json::json;

    use super::*;

    /// A mail of the hour before `now`, and what the relay said of it.
    fn listed(number: u32, to: &str, reply: &str, now: Timestamp) -> Listed {
        let id = format!("1764028800.M1P2Q3.20261125-{number}.host");
        let sidecar: Sidecar = serde_json::from_value(json!({
            "version": 1, "id": id, "ticket": format!("20261125-{number}"), "message_id": "<x>",
            "created_at": now.saturating_sub(jiff::SignedDuration::from_hours(1)).unwrap(),
            "sha256": "0".repeat(64), "size": 1, "subject": "s",
            "envelope": {"from": "noreply@cert.example", "to": [to]},
            "mark_sent": true, "directive_ids": [number],
            "group": {"recipient_address": to, "template_name": "t", "notification_format": "f",
                      "event_data_format": "e", "aggregate_identifier": {}},
        }))
        .unwrap();
        let until = now.saturating_add(jiff::SignedDuration::from_mins(5)).unwrap();
        let record: DeliveryRecord = serde_json::from_value(json!({
            "version": 1, "id": id, "state": "deferred", "attempts": 3, "next_attempt_at": until,
            "recipients": {to: {"state": "deferred", "reply": reply}},
        }))
        .unwrap();
        let flags = Flags::default();
        let file = MailFile { place: Place::Cur, file_name: id.clone().into(), flags };
        Listed {
            id: id.parse().unwrap(),
            file: Some(file),
            state: State::Deferred { until },
            sidecar: Ok(sidecar),
            record: Some(record),
        }
    }

    #[test]
    fn the_table_fits_the_terminal_and_nothing_is_cut_off_without_one() {
        let now = outbox::now();
        let long = format!("{}@isp.example", "a".repeat(60));
        let mails = [
            listed(10_000_001, "abuse@isp.example", "450 4.2.0 greylisted\u{1b}[2J", now),
            listed(10_000_002, &long, &"452 ".repeat(200), now),
        ];
        let table = as_table(&mails, now, Some(80));
        assert_eq!(
            table.lines().collect::<Vec<_>>(),
            [
                "TICKET            AGE STATE    TRY NEXT RECIPIENT                LAST REPLY",
                "20261125-10000001 60m deferred   3   5m abuse@isp.example        450 4.2.0 grey…",
                "20261125-10000002 60m deferred   3   5m aaaaaaaaaaaaaaaaaaaaaaa… 452 452 452 45…",
                "2 deferred",
            ]
        );
        let mut untried = listed(10_000_003, "abuse@isp.example", "", now);
        untried.record.as_mut().unwrap().attempts = 0;
        let tries = &row(&untried, now)[3];
        assert_eq!(tries, "", "as for a mail that nothing was written down about yet");
        let table = as_table(&mails, now, None);
        assert!(table.contains(&long) && table.contains("greylisted\\u{1b}[2J\n"), "{table}");
    }
}
