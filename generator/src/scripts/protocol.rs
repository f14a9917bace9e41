//! What is said between the generator and a script: JSON, one value a line. docs/scripts.md tells
//! it to who writes one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::{SignedDuration, Timestamp};
use outbox_config::Encrypt;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize as DeriveDeserialize, Serialize, Serializer};

use crate::event::{Event, Value};
use crate::group::Group;
use crate::table::TableOptions;

/// What a script is asked.
#[derive(Serialize)]
pub(super) struct Request<'a> {
    /// Which of its scripts the runner is to ask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) script: Option<&'a str>,
    /// What it is asked about, unless it knows.
    #[serde(flatten)]
    pub(super) about: Option<About<'a>>,
    /// What the rules so far have for templates.
    pub(super) substitutions: BTreeMap<&'a str, &'a str>,
}

/// A group, and the time.
#[derive(Serialize)]
pub(super) struct About<'a> {
    recipient_address: &'a str,
    template_name: &'a str,
    notification_format: &'a str,
    event_data_format: &'a str,
    aggregate_identifier: &'a BTreeMap<String, Option<String>>,
    directive_ids: Vec<i64>,
    event_ids: Vec<i64>,
    inserted_at: Timestamp,
    #[serde(serialize_with = "seconds")]
    notification_interval: SignedDuration,
    last_sent: Option<Timestamp>,
    now: Timestamp,
}

impl<'a> About<'a> {
    pub(super) fn new(group: &'a Group, now: Timestamp) -> Self {
        let key = &group.key;
        Self {
            recipient_address: &key.recipient_address,
            template_name: &key.template_name,
            notification_format: &key.notification_format,
            event_data_format: &key.event_data_format,
            aggregate_identifier: &key.aggregate_identifier,
            directive_ids: group.directive_ids.iter().map(|id| id.0).collect(),
            event_ids: group.event_ids.iter().map(|id| id.0).collect(),
            inserted_at: group.inserted_at,
            notification_interval: group.notification_interval,
            last_sent: group.last_sent,
            now,
        }
    }
}

/// Whole seconds as a whole number.
fn seconds<S: Serializer>(duration: &SignedDuration, to: S) -> Result<S::Ok, S::Error> {
    if duration.subsec_nanos() == 0 {
        to.serialize_i64(duration.as_secs())
    } else {
        to.serialize_f64(duration.as_secs_f64())
    }
}

/// What a script gets that asked for something.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Reply {
    Events {
        events: Vec<serde_json::Map<String, serde_json::Value>>,
        /// The columns whose values are times.
        times: BTreeSet<String>,
    },
    Ticket {
        ticket: String,
    },
    Error {
        error: String,
    },
}

impl Reply {
    /// Events as JSON, each with its id.
    pub(super) fn events(events: &[Event]) -> Self {
        let mut times = BTreeSet::new();
        let json = events.iter().map(|event| {
            let mut json = serde_json::Map::new();
            json.insert("id".to_owned(), event.id.0.into());
            for (name, value) in event.columns() {
                if matches!(value, Value::Time(_)) && !times.contains(name) {
                    times.insert(name.to_owned());
                }
                json.insert(name.to_owned(), value.to_json());
            }
            json
        });
        Self::Events { events: json.collect(), times }
    }
}

/// What a script says: `null` is `None`.
#[derive(Debug, DeriveDeserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Message {
    /// It wants the group's events.
    LoadEvents(Columns),
    /// It wants a ticket number.
    NewTicketNumber(True),
    /// It has something for the log.
    Log(Log),
    /// The group has to wait.
    Postponed(True),
    /// The group is for it, and can't be answered.
    Error(String),
    /// The runner's alone: the script ended with an exception of its own.
    Exception(String),
    /// The group is not for it, and these are for later rules.
    Substitutions(BTreeMap<String, String>),
    /// These are the group's mails.
    Notifications(Vec<Notification>),
}

#[derive(Debug, DeriveDeserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Columns {
    /// All, if there is none.
    pub(super) columns: Option<BTreeSet<String>>,
}

#[derive(Debug, DeriveDeserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Log {
    pub(super) level: String,
    pub(super) text: String,
}

/// A mail as a script describes it.
#[derive(Clone, Debug, PartialEq, Eq, DeriveDeserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Notification {
    pub(super) columns: Vec<Column>,
    pub(super) data: Option<String>,
    #[serde(default)]
    pub(super) csv: TableOptions,
    pub(super) attachment: Option<Attachment>,
    pub(super) encrypt: Option<Encrypt>,
    pub(super) template: Option<String>,
    pub(super) subject: Option<String>,
    pub(super) body: Option<String>,
    #[serde(default)]
    pub(super) substitutions: BTreeMap<String, String>,
    pub(super) envelope_to: Option<OneOrMore>,
    #[serde(default = "yes")]
    pub(super) mark_sent: bool,
    pub(super) ticket: Option<String>,
    pub(super) event_ids: Option<BTreeSet<i64>>,
}

fn yes() -> bool {
    true
}

/// How an attached table is compressed.
#[derive(Clone, Debug, PartialEq, Eq, DeriveDeserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Attachment {
    pub(super) compress: String,
    pub(super) above: Option<String>,
}

/// A column as a script describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Column {
    Field { field: String, title: Option<String> },
    Values { title: String, values: BTreeMap<i64, Option<String>> },
}

impl<'de> Deserialize<'de> for Column {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(DeriveDeserialize)]
        #[serde(deny_unknown_fields)]
        struct Keys {
            field: Option<String>,
            title: Option<String>,
            values: Option<BTreeMap<i64, Option<String>>>,
        }

        struct AColumn;

        impl<'de> Visitor<'de> for AColumn {
            type Value = Column;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a field, {field, title} or {title, values}")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Column, E> {
                Ok(Column::Field { field: text.to_owned(), title: None })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Column, A::Error> {
                let keys = Keys::deserialize(de::value::MapAccessDeserializer::new(map))?;
                match (keys.field, keys.title, keys.values) {
                    (Some(field), title, None) => Ok(Column::Field { field, title }),
                    (None, Some(title), Some(values)) => Ok(Column::Values { title, values }),
                    _ => Err(de::Error::custom(
                        "a column has `field` and perhaps `title`, or `title` and `values`",
                    )),
                }
            }
        }

        from.deserialize_any(AColumn)
    }
}

/// A text, or a list of texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OneOrMore(pub(super) Vec<String>);

impl<'de> Deserialize<'de> for OneOrMore {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Texts;

        impl<'de> Visitor<'de> for Texts {
            type Value = OneOrMore;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<OneOrMore, E> {
                Ok(OneOrMore(vec![text.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<OneOrMore, A::Error> {
                Vec::deserialize(de::value::SeqAccessDeserializer::new(list)).map(OneOrMore)
            }
        }

        from.deserialize_any(Texts)
    }
}

/// The value `true`, where no other means anything.
#[derive(Debug)]
pub(super) struct True;

impl<'de> Deserialize<'de> for True {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        if bool::deserialize(from)? {
            Ok(Self)
        } else {
            Err(de::Error::custom("only `true` means something here"))
        }
    }
}

/// Reads what a script said. Fails in words that name the key.
pub(super) fn read(line: &[u8]) -> Result<Option<Message>, String> {
    let mut json = serde_json::Deserializer::from_slice(line);
    let message: Option<Message> =
        serde_path_to_error::deserialize(&mut json).map_err(|error| {
            let path = error.path().to_string();
            let inner = error.into_inner();
            // Its place is that in one line.
            let words = inner.to_string();
            let words = words.split(" at line 1 column").next().unwrap_or_default().to_owned();
            if path == "." || path == "?" { words } else { format!("{path}: {words}") }
        })?;
    json.end().map_err(|_| "there is more on the line than one value".to_owned())?;
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(line: &str) -> String {
        read(line.as_bytes()).unwrap_err()
    }

    #[test]
    fn an_answer_is_read_with_all_that_it_can_have() {
        assert!(read(b"null").unwrap().is_none());
        assert!(matches!(read(br#"{"postponed": true}"#), Ok(Some(Message::Postponed(_)))));
        let line = r#"{"notifications": [{
            "columns": ["source.ip", {"field": "extra.a", "title": "b"},
                        {"title": "c", "values": {"7": "x", "8": null}}],
            "data": "attachment", "csv": {"bom": true}, "attachment": {"compress": "zip"}, "encrypt": "if-key",
            "subject": "s", "body": "b", "substitutions": {"a": "b"},
            "envelope_to": "a@b.example", "mark_sent": false, "ticket": "20261125-10000001",
            "event_ids": [7, 8]}]}"#;
        let Ok(Some(Message::Notifications(list))) = read(line.replace('\n', " ").as_bytes())
        else {
            panic!("not read");
        };
        let field = |field: &str, title: Option<&str>| Column::Field {
            field: field.into(),
            title: title.map(str::to_owned),
        };
        assert_eq!(
            list,
            [Notification {
                columns: vec![
                    field("source.ip", None),
                    field("extra.a", Some("b")),
                    Column::Values {
                        title: "c".into(),
                        values: [(7, Some("x".into())), (8, None)].into(),
                    },
                ],
                data: Some("attachment".into()),
                csv: TableOptions { guard_formulas: false, bom: true },
                attachment: Some(Attachment { compress: "zip".into(), above: None }),
                encrypt: Some(Encrypt::IfKey),
                template: None,
                subject: Some("s".into()),
                body: Some("b".into()),
                substitutions: [("a".into(), "b".into())].into(),
                envelope_to: Some(OneOrMore(vec!["a@b.example".into()])),
                mark_sent: false,
                ticket: Some("20261125-10000001".into()),
                event_ids: Some([7, 8].into()),
            }]
        );
    }

    #[test]
    fn what_is_no_answer_is_told_by_its_key() {
        for (line, words) in [
            (r#"{"notifications": [{"colums": []}]}"#, "notifications[0].colums: unknown field"),
            (r#"{"notification": []}"#, "unknown variant `notification`"),
            (r#"{"postponed": false}"#, "postponed: only `true`"),
            (r#"{"substitutions": {"a": 1}}"#, "substitutions.a: invalid type"),
            (
                r#"{"notifications": [{"columns": [{"title": "a"}]}]}"#,
                "notifications[0].columns[0]",
            ),
            (r#"{"load_events": {"colums": null}}"#, "load_events.colums: unknown field"),
            ("null null", "more on the line"),
            ("hello", "expected"),
            ("", "EOF"),
            ("[]", "expected value"),
            ("{\"error\": \"\u{fffd}", "EOF"),
            ("\"postponed\"", "invalid type"),
        ] {
            assert!(wrong(line).contains(words), "{line}: {}", wrong(line));
        }
        assert!(read(b"\xff\xfe").is_err());
        let deep = "[".repeat(100_000);
        assert!(wrong(&format!("{{\"error\": {deep}")).contains("invalid type"));
    }
}
