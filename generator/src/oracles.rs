//! What must be true of any input: for fuzzing (tests/fuzz) and, with what that found, for the tests. Where an oracle
//! needs what a module keeps to itself, it stands in that module.

use std::collections::BTreeMap;
use std::sync::Arc;

use outbox::{GroupKey, Ticket};
use outbox_config::database::types::{FromSql as _, Type};
use outbox_config::text::is_hidden;

use crate::address::{Address, EnvelopeFrom, Mailbox, recipients};
use crate::column::{Column, Field};
use crate::event::{Cell, Event, Value};
use crate::group::EventId;
use crate::mail;
use crate::pattern::{AddressPattern, Pattern, Patterns};
use crate::table::{Table, TableOptions};
use crate::template::{Template, TemplateError};
use crate::{formats, preview, scripts, store};

/// A name, and what must be true of any input that it is given.
pub type Oracle = (&'static str, fn(&[u8]));

/// All oracles.
pub const ALL: &[Oracle] = &[
    ("template", template),
    ("address", address),
    ("pattern", pattern),
    ("identifier", identifier),
    ("event", event),
    ("table", table),
    ("mail", mail::oracles::mail),
    ("mbox", preview::oracles::mbox),
    ("format", formats::oracles::format),
    ("answer", scripts::oracles::answer),
];

/// A template is read and filled as a plain reading of the rules does, and what is wrong is told with its place.
fn template(text: &[u8]) {
    let Ok(text) = str::from_utf8(text) else { return };
    let value = |name: &str| match name {
        "a" | "source.asn" => Some("$b ${a} $$ $"),
        _ if name.len().is_multiple_of(2) => Some("ä"),
        _ => None,
    };
    let plain =
        text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n").replace('\r', "\n");
    let mut lines = plain.split('\n').skip_while(|line| line.trim().is_empty());
    let subject = lines.next().map(|line| filled(line.trim(), value));
    let rest = lines.collect::<Vec<_>>().join("\n");
    let body = filled(&format!("{}\n", rest.trim()), value);
    let read = Template::parse("t", text);
    if let Ok(read) = &read {
        assert!(read.placeholders().all(|placeholder| plain.contains(&placeholder.name)));
    }
    let result = read.and_then(|read| read.fill(value));
    match (&result, subject) {
        (Err(TemplateError::NoSubject(_)), None) => {}
        (Ok(result), Some(Ok(subject))) => {
            assert_eq!(
                Ok((&result.subject, &result.body)),
                body.as_ref().map(|body| (&subject, body))
            );
            assert!(!result.subject.contains('\n'));
        }
        (Err(error), Some(subject)) => {
            assert!(subject.is_err() || body.is_err(), "{error}");
            let (TemplateError::Syntax { line, column, .. }
            | TemplateError::NoValue { line, column, .. }) = error
            else {
                panic!("{error}")
            };
            let there =
                plain.split('\n').nth(line - 1).and_then(|line| line.chars().nth(column - 1));
            assert_eq!(there, Some('$'), "{error}");
        }
        (result, subject) => panic!("{result:?} and {subject:?}"),
    }
}

/// A text with values in it, character by character.
fn filled<'v>(text: &str, value: impl Fn(&str) -> Option<&'v str>) -> Result<String, ()> {
    let letter = |c: &char| *c == '_' || c.is_ascii_alphabetic();
    let inner = |c: &char| letter(c) || *c == '.' || c.is_ascii_digit();
    let text: Vec<char> = text.chars().collect();
    let name_at = |start: usize| -> String {
        if text.get(start).is_some_and(letter) {
            text[start..].iter().copied().take_while(inner).collect()
        } else {
            String::new()
        }
    };
    let (mut result, mut at) = (String::new(), 0);
    while let Some(c) = text.get(at) {
        at += 1;
        if *c != '$' {
            result.push(*c);
            continue;
        }
        let name = match text.get(at) {
            Some('$') => {
                result.push('$');
                at += 1;
                continue;
            }
            Some('{') => {
                let name = name_at(at + 1);
                at += name.len() + 2;
                if name.is_empty() || text.get(at - 1) != Some(&'}') {
                    return Err(());
                }
                name
            }
            _ => {
                let name = name_at(at).trim_end_matches('.').to_owned();
                at += name.len();
                if name.is_empty() {
                    return Err(());
                }
                name
            }
        };
        result.push_str(value(&name).ok_or(())?);
    }
    Ok(result)
}

/// An address that is taken is the same when it is read again, by us and by what speaks SMTP, and breaks neither a
/// command nor a header.
fn address(text: &[u8]) {
    let Ok(text) = str::from_utf8(text) else { return };
    if let Ok(address) = text.parse::<Address>() {
        is_harmless(&address);
        let pattern = AddressPattern::new(text);
        assert!(pattern.matches(&address) || text.contains('*'), "{text:?}");
        assert!(AddressPattern::new(&text.to_uppercase()).matches(&address) || !text.is_ascii());
        assert!(AddressPattern::new(&format!("*@{}", address.domain())).matches(&address));
    }
    if let Ok(list) = recipients(text) {
        list.iter().for_each(is_harmless);
        assert!(!list.is_empty());
        assert!((1..list.len()).all(|index| !list[..index].contains(&list[index])));
        let joined = list.iter().map(Address::as_str).collect::<Vec<_>>().join(",");
        assert_eq!(recipients(&joined).as_ref(), Ok(&list));
        let named = text.split(',').filter(|part| !part.trim().is_empty()).count();
        assert!(list.len() <= named);
    }
    if let Ok(mailbox) = text.parse::<Mailbox>() {
        is_harmless(&mailbox.address);
        let name = mailbox.name.as_deref().unwrap_or_default();
        assert!(!name.contains(char::is_control));
        let quoted = name.replace('\\', "\\\\").replace('"', "\\\"");
        let written = format!("\"{quoted}\" <{}>", mailbox.address);
        assert_eq!(written.parse::<Mailbox>().as_ref(), Ok(&mailbox));
    }
    if let Ok(from) = text.parse::<EnvelopeFrom>() {
        for ticket in ["20000101-00000000", "99991231-99999999"] {
            let ticket: Ticket = ticket.parse().expect("a ticket");
            let of = from.of(&ticket);
            match of.parse::<Address>() {
                Ok(address) => is_harmless(&address),
                Err(_) => assert!(of.is_empty() && text.is_empty()),
            }
            assert_eq!(
                of.contains(ticket.as_str()),
                text.contains("{ticket}") || text.contains(ticket.as_str())
            );
        }
    }
}

fn is_harmless(address: &Address) {
    let text = address.as_str();
    assert_eq!(text.parse::<Address>().as_ref(), Ok(address));
    let local =
        text.strip_suffix(&format!("@{}", address.domain())).expect("it ends with its domain");
    assert!(!local.is_empty() && local.len() <= 64 && text.len() <= 254);
    assert!(
        !text
            .contains(|c: char| c.is_control() || c.is_whitespace() || "<>()[],;:\\\"".contains(c))
    );
    assert_eq!(text.matches('@').count(), 1);
    assert!(
        address
            .domain()
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.')
    );
    let smtp: lettre::Address = text.parse().expect("SMTP carries it");
    assert_eq!(AsRef::<str>::as_ref(&smtp), text);
}

/// Two patterns and a text, a line each: what matches, and what follows from one pattern about the other.
fn pattern(lines: &[u8]) {
    let Ok(lines) = str::from_utf8(lines) else { return };
    let mut lines = lines.splitn(3, '\n');
    let mut next = || lines.next().unwrap_or_default();
    let (one, other, text) = (next(), next(), next());
    let (narrow, wide) = (Pattern::new(one), Pattern::new(other));
    let is_like = |text: &str, pattern: &str| {
        like(&text.chars().collect::<Vec<_>>(), &pattern.chars().collect::<Vec<_>>())
    };
    assert_eq!(narrow.matches(text), is_like(text, one));
    let is_within = narrow.within(&wide);
    let is_apart = Patterns(vec![narrow.clone()]).apart(&Patterns(vec![wide.clone()]));
    assert!(!(is_within && is_apart), "a pattern matches nothing");
    // Texts that the one matches: its wildcards filled with what there is.
    let filled = [text, "", "*", "a", "\0"].map(|filling| one.replace('*', filling));
    for text in filled.iter().map(String::as_str).chain([text]) {
        assert!(narrow.matches(text) || !filled.iter().any(|filled| filled == text));
        assert_eq!(wide.matches(text), is_like(text, other));
        if narrow.matches(text) {
            assert!(!is_within || wide.matches(text), "{one:?} is not within {other:?}: {text:?}");
            assert!(!is_apart || !wide.matches(text), "{one:?} and {other:?} both match {text:?}");
        }
    }
    assert!(narrow.within(&narrow) || one.contains('\0'));
}

/// Whether a text is as a pattern says, worked out from the end.
fn like(text: &[char], pattern: &[char]) -> bool {
    let mut ends = vec![false; text.len() + 1];
    ends[text.len()] = true;
    for wanted in pattern.iter().rev() {
        let before = ends.clone();
        for at in (0..=text.len()).rev() {
            let rest = |ends: &[bool]| ends.get(at + 1).copied().unwrap_or(false);
            ends[at] = if *wanted == '*' {
                before[at] || rest(&ends)
            } else {
                rest(&before) && text[at] == *wanted
            };
        }
    }
    ends[0]
}

/// An aggregate identifier is what a plain reading of PostgreSQL's JSON finds, and survives a sidecar.
fn identifier(json: &[u8]) {
    let Ok(json) = str::from_utf8(json) else { return };
    let mut plain = serde_json::from_str::<Vec<serde_json::Value>>(json).ok().map(|rows| {
        let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
        let pair = |row: &serde_json::Value| match row.as_array().map(Vec::as_slice) {
            Some([key, value]) if value.is_string() || value.is_null() => {
                Some((text(key)?, text(value)))
            }
            _ => None,
        };
        rows.iter().map(pair).collect::<Option<BTreeMap<_, _>>>()
    });
    let read = store::pairs(json);
    assert_eq!(read.as_ref().ok(), plain.take().flatten().as_ref(), "{json:?}");
    let Ok(aggregate_identifier) = read else { return };
    let key = GroupKey {
        recipient_address: String::new(),
        template_name: String::new(),
        notification_format: String::new(),
        event_data_format: String::new(),
        aggregate_identifier,
    };
    let written = serde_json::to_string(&key).expect("it has a JSON form");
    assert_eq!(serde_json::from_str::<GroupKey>(&written).ok(), Some(key));
}

/// A value of any type that the database can send is taken or refused, and has a text and a JSON form that say the same.
fn event(data: &[u8]) {
    let types = [
        Type::BOOL,
        Type::INT2,
        Type::INT4,
        Type::INT8,
        Type::FLOAT4,
        Type::FLOAT8,
        Type::TIMESTAMPTZ,
        Type::INET,
        Type::CIDR,
        Type::JSON,
        Type::JSONB,
        Type::TEXT,
    ];
    let Some((which, raw)) = data.split_first() else { return };
    let column_type = &types[usize::from(*which) % types.len()];
    let Ok(value) = Value::from_sql(column_type, raw) else { return };
    let text = Cell::Column(&value).to_string();
    let json = value.to_json();
    match &value {
        Value::Double(number) => {
            let read: f64 = text.parse().expect("a float");
            assert!(
                read.to_bits() == number.to_bits() || (read.is_nan() && number.is_nan()),
                "{text}"
            );
            assert!(
                text.contains(['.', 'e']) || !number.is_finite(),
                "{text} is no float to Python"
            );
        }
        Value::Real(number) => {
            let read: f32 = text.parse().expect("a float");
            assert!(
                read.to_bits() == number.to_bits() || (read.is_nan() && number.is_nan()),
                "{text}"
            );
        }
        Value::Integer(number) => assert_eq!(text, number.to_string()),
        Value::Boolean(_) => assert!(text == "True" || text == "False"),
        Value::Time(_) => assert!(text.ends_with("+00:00") && text.len() >= 25, "{text}"),
        Value::Text(_) if *column_type == Type::TIMESTAMPTZ => {
            assert!(text.ends_with("infinity") || text.ends_with("+00:00"), "{text}");
        }
        Value::Json(json) => {
            if json.is_array() || json.is_object() {
                assert_eq!(
                    serde_json::from_str::<serde_json::Value>(&text).ok().as_ref(),
                    Some(json)
                );
            }
        }
        Value::Inet(_) | Value::Null | Value::Text(_) => {}
    }
    if let (Value::Inet(inet), serde_json::Value::String(json)) = (&value, &json) {
        assert_eq!(*json, text);
        let address = text.split('/').next().unwrap_or_default();
        assert_eq!(address.parse().ok(), Some(inet.address), "{text}");
    }
}

/// Cells, as the bytes between bytes 1, give a table in which any other reader of CSV finds them again; with the guard,
/// no text is a formula.
fn table(data: &[u8]) {
    let Some((&[shape, options], text)) = data.split_first_chunk() else { return };
    let width = usize::from(shape % 4) + 1;
    let options = TableOptions { guard_formulas: options & 1 == 1, bom: options & 2 == 2 };
    let text = String::from_utf8_lossy(text);
    let mut texts = text.split('\u{1}');
    let titles: Vec<&str> = texts.by_ref().take(width).collect();
    if titles.len() < width {
        return;
    }
    let columns: Vec<Column> = (0..)
        .zip(&titles)
        .map(|(index, title): (usize, _)| Column {
            field: Field::Event(format!("field{index}")),
            title: (*title).to_owned(),
        })
        .collect();
    let names: Arc<[String]> = (0..width).map(|index| format!("field{index}")).collect();
    let value = |text: &&str| match serde_json::from_str(text) {
        Ok(json) => Value::Json(json),
        Err(_) => Value::Text((*text).to_owned()),
    };
    let texts: Vec<&str> = texts.collect();
    let rows: Vec<Vec<Value>> =
        texts.chunks_exact(width).map(|row| row.iter().map(value).collect()).collect();
    let mut table = Table::new(&columns, options);
    // In no order: the ids give it.
    for (id, row) in (0..rows.len()).zip(&rows).rev() {
        let id = i64::try_from(id).expect("few rows");
        table
            .add(&Event::new(EventId(id), Arc::clone(&names), row.clone()))
            .expect("all is loaded");
    }
    assert_eq!(table.rows(), rows.len());
    let csv = table.into_csv();
    assert_eq!(csv.starts_with('\u{feff}'), options.bom);
    let csv = if options.bom { csv.strip_prefix('\u{feff}').expect("a mark") } else { &csv };
    let reader = csv::ReaderBuilder::new().has_headers(false).from_reader(csv.as_bytes());
    let read: Vec<csv::StringRecord> =
        reader.into_records().map(|row| row.expect("a row")).collect();
    assert_eq!(read.len(), rows.len() + 1);
    assert!(read[0].iter().eq(titles.iter().copied()));
    for (read, row) in read[1..].iter().zip(&rows) {
        assert_eq!(read.len(), width);
        for (read, value) in read.iter().zip(row) {
            let text = Cell::Column(value).to_string();
            let is_text =
                matches!(value, Value::Text(_) | Value::Json(serde_json::Value::String(_)));
            if options.guard_formulas && is_text {
                assert!(!read.starts_with(['=', '+', '-', '@', '\t', '\r']), "{read:?}");
                assert_eq!(
                    read.strip_prefix('\'').filter(|rest| *rest == text).unwrap_or(read),
                    text
                );
            } else {
                assert_eq!(read, text);
            }
        }
    }
}

/// That there is nothing in a text that acts on a terminal.
pub(crate) fn assert_shown(text: &str) {
    assert!(!text.contains(|c| !matches!(c, '\n' | '\t') && is_hidden(c)), "{text:?}");
}

#[cfg(test)]
#[path = "../../tests/fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    #[test]
    fn what_fuzzing_found_stays_found() {
        super::replay::replay(super::ALL);
    }
}
