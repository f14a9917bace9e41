//! What must be true of any file and any name in an outbox: for fuzzing (tests/fuzz) and, with what that found, for the
//! tests.

use std::fmt::Debug;

use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::mail_file::{self, parse_file_name};
use crate::scan::{Entry, State};
use crate::sidecar::VERSION;
use crate::{
    DeliveryRecord, Flags, MailFile, MailId, Place, RecipientState, Sha256Digest, Sidecar, Ticket,
    disk,
};

/// A name, and what must be true of any input that it is given.
pub type Oracle = (&'static str, fn(&[u8]));

/// All oracles.
pub const ALL: &[Oracle] = &[("sidecar", sidecar), ("record", record), ("names", names)];

/// A sidecar that is read says what any other reader of JSON finds in it, and is written so that it reads the same.
pub fn sidecar(file: &[u8]) {
    let Ok(sidecar) = disk::from_json::<Sidecar>(file, VERSION) else { return };
    says_what_it_was_read_from(&sidecar, file);
    if sidecar.validate().is_ok() {
        assert!(!sidecar.envelope.to.is_empty());
        assert_ne!(sidecar.mark_sent, sidecar.directive_ids.is_empty());
        let words = sidecar.envelope.to.iter().chain([&sidecar.envelope.from, &sidecar.message_id]);
        for word in words {
            assert!(!word.contains(['\r', '\n', '\0']), "{word:?} breaks an SMTP command");
        }
    }
}

/// The same of a delivery record. Nothing that it can say lets a recipient be asked again who has the mail.
pub fn record(file: &[u8]) {
    let Ok(record) = disk::from_json::<DeliveryRecord>(file, VERSION) else { return };
    says_what_it_was_read_from(&record, file);
    let envelope: Vec<String> = record.recipients.keys().cloned().collect();
    let open = record.open_recipients(&envelope);
    for (address, outcome) in &record.recipients {
        let asked = open.contains(&address.as_str());
        assert_eq!(asked, outcome.state == RecipientState::Deferred, "{address:?}");
    }
    assert_eq!(record.last_reply().is_none(), record.recipients.is_empty());
    let mut again = record.clone();
    again.reopen();
    assert_eq!(again.any_accepted(), record.any_accepted());
    assert!(again.recipients.values().all(|outcome| outcome.state == RecipientState::Accepted));

    let mail = MailFile {
        place: Place::New,
        file_name: record.id.as_str().into(),
        flags: Flags::default(),
    };
    let entry = Entry { mail: Some(mail), sidecar: true, record: true };
    match entry.state(Some(&record)) {
        State::Accepted => assert_eq!(record.state, crate::DeliveryState::Accepted),
        State::Deferred { until } => assert_eq!(record.next_attempt_at, Some(until)),
        other => assert_eq!(other, State::Queued),
    }
}

fn says_what_it_was_read_from<T>(read: &T, file: &[u8])
where
    T: Serialize + DeserializeOwned + PartialEq + Debug,
{
    let written = disk::to_json(read);
    assert_eq!(disk::from_json::<T>(&written, VERSION).as_ref(), Ok(read));
    assert_eq!(written, disk::to_json(&disk::from_json::<T>(&written, VERSION).unwrap()));
    assert!(!written.iter().any(|&b| b < b' ' && b != b'\n'), "a control character in the file");

    let other: Value = serde_json::from_slice(file).expect("it was JSON a moment ago");
    let ours: Value = serde_json::from_slice(&written).unwrap();
    assert_same(&ours, &other);
}

/// That two JSON values say the same, whatever the form of their times, and whether nothing is left out or null.
fn assert_same(ours: &Value, other: &Value) {
    match (ours, other) {
        (Value::Object(ours), Value::Object(other)) => {
            let nothing = Value::Null;
            let of =
                |map: &Map<String, Value>, key: &String| map.get(key).unwrap_or(&nothing).clone();
            for key in ours.keys().chain(other.keys()) {
                match (of(ours, key), of(other, key)) {
                    // What is left out where it is nothing.
                    (Value::Null, Value::Number(zero)) if zero.as_u64() == Some(0) => {}
                    (Value::Null, Value::Array(none)) if none.is_empty() => {}
                    (ours, other) => assert_same(&ours, &other),
                }
            }
        }
        (Value::Array(ours), Value::Array(other)) => {
            assert_eq!(ours.len(), other.len());
            ours.iter().zip(other).for_each(|(ours, other)| assert_same(ours, other));
        }
        (Value::String(ours), Value::String(other)) if ours != other => {
            let time =
                |text: &str| text.parse::<Timestamp>().expect("only times have several forms");
            assert_eq!(time(ours), time(other));
        }
        (ours, other) => assert_eq!(ours, other),
    }
}

/// A name is taken apart as a plain reading of the format has it, and put together again. None leads out of its folder.
pub fn names(text: &[u8]) {
    let Ok(name) = str::from_utf8(text) else { return };
    let (unique, info) = name.split_once(':').unwrap_or((name, ""));
    let (id, number) = unique.split_once('+').unwrap_or((unique, "0"));
    let is_number = number.bytes().all(|b| b.is_ascii_digit()) && number.parse::<u32>().is_ok();
    let read = parse_file_name(name);
    assert_eq!(read.is_some(), is_mail_id(id) && is_number, "{name:?}");
    assert_eq!(name.parse::<MailId>().is_ok(), is_mail_id(name), "{name:?}");
    assert_eq!(name.parse::<Ticket>().is_ok(), is_ticket(name), "{name:?}");
    if let Ok(digest) = name.parse::<Sha256Digest>() {
        assert_eq!(digest.to_string(), name);
    }
    let Some((id, flags)) = read else { return };
    if let Some(ticket) = id.ticket() {
        assert!(
            id.as_str().split('.').any(|part| part == ticket.as_str())
                && is_ticket(ticket.as_str())
        );
    }
    if let Some(at) = id.written_at() {
        let first = id.as_str().split('.').next().unwrap();
        let plain =
            |number: &str| number.trim_start_matches('-').trim_start_matches('0').to_owned();
        assert_eq!(plain(first), plain(&at.as_second().to_string()));
    }
    let letters = info.strip_prefix("2,").unwrap_or_default();
    for letter in letters.chars() {
        assert_eq!(flags.to_string().contains(letter), letter.is_ascii_alphabetic(), "{letter:?}");
    }
    assert!(flags.to_string().bytes().is_sorted() && flags.to_string().len() <= 52);
    assert_eq!(
        parse_file_name(&mail_file::file_name(&id, &flags)),
        Some((id.clone(), flags.clone()))
    );

    let mail = MailFile { place: Place::Cur, file_name: name.into(), flags: flags.clone() };
    let held = flags.with(Flags::HELD);
    let anew = mail.name_anew(&id, &held);
    assert_eq!(parse_file_name(&anew), Some((id.clone(), held.clone())));
    assert_ne!(anew.split_once(':').unwrap().0, unique, "a mail reader knows that name");
    assert!(anew.len() <= 255 && !anew.contains('/'));
    assert!(held.held() && !held.without(Flags::HELD).held());
    assert!(disk::is_temporary(disk::temporary(&id).as_ref()));
    assert!(disk::temporary(&id).parse::<MailId>().is_err());
}

fn is_mail_id(text: &str) -> bool {
    let letters = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    (1..=200).contains(&text.len()) && text.chars().all(letters) && !text.starts_with('.')
}

fn is_ticket(text: &str) -> bool {
    text.len() == 17
        && text.char_indices().all(|(at, c)| if at == 8 { c == '-' } else { c.is_ascii_digit() })
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
