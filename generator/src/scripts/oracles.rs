//! What must be true of anything that a script says.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use outbox::{DirectiveId, GroupKey, Ticket};

use super::answer::Question;
use super::json;
use super::protocol::{About, Message, Request, read};
use crate::formats::{Texts, TicketOf};
use crate::group::{EventId, Group};

/// A line is read as a plain reading of its JSON has it; mails marked as sent are about events that no mail before
/// marks, and tickets are those that were drawn.
pub(crate) fn answer(line: &[u8]) {
    let plain = serde_json::from_slice::<serde_json::Value>(line);
    let message = match read(line) {
        Err(words) => {
            assert!(!words.is_empty());
            return;
        }
        Ok(message) => message,
    };
    let plain = plain.expect("what is no JSON was taken");
    let Some(message) = message else {
        assert!(plain.is_null());
        return;
    };
    assert_eq!(plain.as_object().map(serde_json::Map::len), Some(1));
    let group = group();
    let tickets: Vec<Ticket> = ["20261125-10000001", "20261125-10000002"]
        .map(|text| text.parse().expect("a ticket"))
        .to_vec();
    let given = Texts::new();
    let question = Question { script: "50-own", group: &group, given: &given, tickets: &tickets };
    match message {
        Message::Notifications(said) => {
            let count = said.len();
            let Ok(plans) = question.plans(said) else { return };
            assert_eq!(plans.len(), count);
            let all = group.events();
            let mut marked = BTreeSet::new();
            for plan in &plans {
                assert!(!plan.columns.is_empty());
                assert!(plan.envelope_to.as_ref().is_none_or(|to| !to.is_empty()));
                if let TicketOf::Given(ticket) = &plan.ticket {
                    assert!(tickets.contains(ticket));
                }
                let events = plan.events.clone().unwrap_or_else(|| all.clone());
                assert!(!events.is_empty() && events.is_subset(&all));
                if plan.mark_sent {
                    assert!(
                        !events.is_subset(&marked),
                        "two mails mark the same and are no copies"
                    );
                    marked.extend(events);
                }
            }
        }
        Message::Substitutions(texts) => {
            let keys: Vec<String> = texts.keys().cloned().collect();
            if let Ok(texts) = question.texts(texts) {
                assert!(keys.iter().eq(texts.keys()) && texts.values().all(|text| text.verbatim));
            }
        }
        _ => {}
    }
    // What the script is told is one line, too.
    let text = String::from_utf8_lossy(line);
    let request = Request {
        script: Some(&text),
        about: Some(About::new(&group, Timestamp::UNIX_EPOCH)),
        substitutions: BTreeMap::from([("a", &*text)]),
    };
    assert!(!json(&request).contains(&b'\n'));
}

fn group() -> Group {
    Group {
        key: GroupKey {
            recipient_address: "abuse@isp.example".into(),
            template_name: "generic".into(),
            notification_format: "text".into(),
            event_data_format: "csv_inline".into(),
            aggregate_identifier: BTreeMap::new(),
        },
        directive_ids: (1..=4).map(DirectiveId).collect(),
        event_ids: [7, 8, 9, 7].map(EventId).to_vec(),
        inserted_at: Timestamp::UNIX_EPOCH,
        notification_interval: SignedDuration::ZERO,
        last_sent: None,
    }
}
