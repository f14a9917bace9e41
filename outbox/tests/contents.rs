//! Sidecars and records that hold what they must not: cut off at every octet, with keys that stand
//! twice, too deep, too large, in other encodings, about other mails. Each is refused with the name of
//! its file and a reason, and none is ever read as something else.

use std::fs::{self, File};
use std::path::PathBuf;

use outbox::{
    DeliveryRecord, DeliveryState, DirectiveId, Envelope, GroupKey, MailId, NewMail, Outbox,
    RecipientOutcome, RecipientState, Ticket,
};
use serde_json::Value;
use tempfile::TempDir;

const TO: &str = "abuse@as64496.example";

struct Case {
    _folder: TempDir,
    outbox: Outbox,
    id: MailId,
}

/// A mail with a sidecar and a record in which every field stands.
fn case() -> Case {
    let folder = tempfile::tempdir().unwrap();
    let outbox = Outbox::create(&folder.path().join("outbox")).unwrap();
    let mut generator = outbox.lock_generator().unwrap().unwrap();
    let mail = NewMail {
        ticket: Ticket::new("20261125", 10_000_001).unwrap(),
        message_id: "<20261125-10000001.0@cert.example>".into(),
        created_at: outbox::now(),
        subject: "öpen DNS resolver".into(),
        envelope: Envelope { from: "noreply@cert.example".into(), to: vec![TO.into()] },
        directive_ids: vec![DirectiveId(1), DirectiveId(2)],
        group: GroupKey {
            recipient_address: TO.into(),
            template_name: "generic".into(),
            notification_format: "text".into(),
            event_data_format: "csv_inline".into(),
            aggregate_identifier: [("source.asn".to_owned(), Some("64496".to_owned()))].into(),
        },
    };
    let draft = generator.draft(mail, b"Subject: x\r\n\r\nhello\r\n").unwrap();
    let id = generator.publish(vec![draft]).unwrap().remove(0);
    let mut record = DeliveryRecord::new(id.clone());
    (record.state, record.attempts, record.uncertain) = (DeliveryState::Deferred, 3, 1);
    let now = Some(outbox::now());
    (record.first_attempt_at, record.last_attempt_at, record.next_attempt_at) = (now, now, now);
    (record.accepted_at, record.offered_at) = (now, now);
    (record.relay, record.reason) = (Some("mail.cert.example:25".into()), Some("why".into()));
    let outcome = RecipientOutcome { state: RecipientState::Accepted, reply: "250 ok".into() };
    record.recipients.insert(TO.into(), outcome);
    record.remember(outbox::AttemptMade {
        at: outbox::now(),
        relay: "mail.cert.example:25".into(),
        milliseconds: 12,
        reply: "250 ok".into(),
    });
    outbox.lock_deliverer().unwrap().unwrap().record(&[record]).unwrap();
    drop(generator);
    Case { _folder: folder, outbox, id }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    Sidecar,
    Record,
}

impl Case {
    fn path(&self, which: Which) -> PathBuf {
        let folder = match which {
            Which::Sidecar => self.outbox.sidecars(),
            Which::Record => self.outbox.records(),
        };
        folder.join(format!("{}.json", self.id))
    }

    /// Why the file can't be read; panics if it can, or if that does not name it.
    #[track_caller]
    fn refused(&self, which: Which, what: &str) -> String {
        let error = match which {
            Which::Sidecar => self.outbox.sidecar(&self.id).map(drop),
            Which::Record => self.outbox.record(&self.id).map(drop),
        };
        let error = error.expect_err(what).to_string();
        let path = self.path(which);
        assert!(error.contains(&path.display().to_string()), "{what}: {error}");
        if which == Which::Sidecar {
            let claims = self.outbox.claims().expect_err(what).to_string();
            assert_eq!(claims, error, "{what}: whoever asks for the claims learns of it");
        }
        error
    }

    /// The same after the file was written anew, with the reason's words.
    #[track_caller]
    fn refuses(&self, which: Which, bytes: &[u8], words: &str) {
        fs::write(self.path(which), bytes).unwrap();
        let what = String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).into_owned();
        let error = self.refused(which, &what);
        assert!(error.contains(words), "not {words:?}: {error}\n{what}");
    }
}

const BOTH: [Which; 2] = [Which::Sidecar, Which::Record];

#[test]
fn a_file_that_is_cut_off_at_any_octet_is_refused() {
    let case = case();
    for which in BOTH {
        let whole = fs::read(case.path(which)).unwrap();
        assert!(whole.ends_with(b"}\n"), "the line end is all that is not needed");
        for length in 0..whole.len() - 1 {
            case.refuses(which, &whole[..length], "failed to read");
        }
        // And what a crash of the machine can leave: the length, and zeros from somewhere on.
        for length in (0..whole.len() - 1).step_by(7) {
            let mut zeros = whole.clone();
            zeros[length..].fill(0);
            case.refuses(which, &zeros, "failed to read");
        }
        fs::write(case.path(which), &whole).unwrap();
    }
    assert!(case.outbox.sidecar(&case.id).unwrap().is_some());
    assert!(case.outbox.record(&case.id).unwrap().is_some());
}

#[test]
fn no_key_may_stand_twice_at_any_level() {
    let case = case();
    for which in BOTH {
        let whole = fs::read_to_string(case.path(which)).unwrap();
        let keys: Vec<usize> =
            whole.match_indices("\": ").map(|(end, _)| whole[..end].rfind('"').unwrap()).collect();
        assert!(keys.len() > 15, "{whole}");
        for start in keys {
            // The key and its value again, before themselves.
            let mut values =
                serde_json::Deserializer::from_str(&whole[start..]).into_iter::<Value>();
            let key = values.next().unwrap().unwrap();
            let colon = start + values.byte_offset() + 1;
            let mut values =
                serde_json::Deserializer::from_str(&whole[colon..]).into_iter::<Value>();
            values.next().unwrap().unwrap();
            let end = colon + values.byte_offset();
            let twice = format!("{},{}", &whole[..end], &whole[start..]);
            let words = key.as_str().unwrap();
            case.refuses(which, twice.as_bytes(), words);
        }
        fs::write(case.path(which), &whole).unwrap();
    }
}

#[test]
fn what_is_no_json_of_ours_is_refused_whatever_it_is() {
    let case = case();
    for which in BOTH {
        let whole = fs::read_to_string(case.path(which)).unwrap();
        let with = |from: &str, to: &str| {
            assert!(whole.contains(from), "{from} in {whole}");
            whole.replacen(from, to, 1).into_bytes()
        };
        let version = "\"version\": 1";
        let deep = |open: &str, close: &str, count: usize| {
            with(
                version,
                &format!("\"x\": {}1{}, {version}", open.repeat(count), close.repeat(count)),
            )
        };
        let utf16: Vec<u8> = whole.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let cases: Vec<(Vec<u8>, &str)> = vec![
            (Vec::new(), "EOF while parsing"),
            (b"\n".to_vec(), "EOF while parsing"),
            (b"null".to_vec(), "invalid type"),
            (b"[]".to_vec(), "line 1"),
            (b"{}".to_vec(), "missing field `version`"),
            (b"Subject: no JSON\r\n\r\n".to_vec(), "expected value"),
            (vec![0; 4096], "expected value"),
            ([b"\xef\xbb\xbf", whole.as_bytes()].concat(), "expected value"),
            (utf16, "line 1"),
            ([whole.as_bytes(), b"{}"].concat(), "trailing characters"),
            ([whole.as_bytes(), b"\0"].concat(), "trailing characters"),
            (with(version, "\"version\": 2"), "version 2 of the format"),
            (with(version, "\"version\": 0"), "version 0 of the format"),
            (with(version, "\"version\": 4294967296"), "u32"),
            (with(version, "\"version\": -1"), "u32"),
            (with(version, "\"version\": 1.0"), "u32"),
            (with(version, "\"version\": \"1\""), "u32"),
            (with(version, "\"version\": NaN"), "expected value"),
            (with(version, "\"version\": 1e999999"), "line 2"),
            (with(version, "\"version\": 00001"), "invalid number"),
            (with(version, "\"version\": 1, \"later\": true"), "unknown field `later`"),
            (with(version, "\"version\": 1,, \"x\": 1"), "line 2"),
            (deep("[", "]", 100), "unknown field"),
            (deep("[", "]", 100_000), "unknown field"),
            (deep("{\"x\":", "}", 100_000), "unknown field"),
            (with("\"id\": ", &format!("\"id\": {}", "[".repeat(100_000))), "expected `,` or `]`"),
            (with("\"id\": \"", "\"id\": \"x"), "it says it is of mail x"),
            (with("\"id\": \"", "\"id\": \"../"), "as a mail id"),
            (with("\"id\": \"", "\"id\": \"/etc/"), "as a mail id"),
            (with("\"id\": \"", "\"id\": \"%2e%2e%2f"), "as a mail id"),
            (with("\"id\": \"", "\"id\": \"\\u0000"), "as a mail id"),
            (with("\"id\": \"", "\"id\": \"\\ud800"), "hex escape"),
        ];
        for (bytes, words) in cases {
            case.refuses(which, &bytes, words);
        }
        let mut latin1 = whole.clone().into_bytes();
        let at = whole.find("cert.example").unwrap();
        latin1[at] = 0xf6;
        case.refuses(which, &latin1, "invalid unicode");
        // Too large to be read at all, and as large as may be.
        for (size, words) in [((64 << 20) + 1, "octets are too many"), (64 << 20, "expected value")]
        {
            File::create(case.path(which)).unwrap().set_len(size).unwrap();
            let error = case.refused(which, "too large");
            assert!(error.contains(words), "{error}");
        }
        fs::write(case.path(which), &whole).unwrap();
    }
}

#[test]
fn a_sidecar_that_says_what_no_generator_says_is_refused() {
    let case = case();
    let whole = fs::read_to_string(case.path(Which::Sidecar)).unwrap();
    let change = |pointer: &str, value: &str| {
        let mut json: Value = serde_json::from_str(&whole).unwrap();
        *json.pointer_mut(pointer).expect(pointer) = serde_json::from_str(value).unwrap();
        json.to_string()
    };
    for (pointer, value, words) in [
        ("/ticket", "\"20261125-10000002\"", "its name says 20261125-10000001"),
        ("/ticket", "\"../../../../x\"", "as a ticket"),
        ("/ticket", "\"20261125-1000000%31\"", "as a ticket"),
        ("/ticket", "\"２０２６１１２５-10000001\"", "as a ticket"),
        ("/ticket", "20261125", "expected a string"),
        ("/created_at", "\"yesterday\"", "line 1"),
        ("/created_at", "\"+999999-01-01T00:00:00Z\"", "line 1"),
        ("/sha256", "\"0\"", "as a SHA-256 digest"),
        ("/size", "-1", "u64"),
        ("/size", "18446744073709551616", "u64"),
        ("/size", "1e300", "u64"),
        ("/envelope/to", "[]", "names no recipient"),
        ("/envelope/to", "\"abuse@as64496.example\"", "sequence"),
        ("/envelope/to/0", "\"a@b.example>\\r\\nDATA\"", "control character"),
        ("/envelope/from", "\"a\\u0000@b.example\"", "control character"),
        ("/message_id", "\"<x>\\nBcc: victim@isp.example\"", "control character"),
        ("/mark_sent", "false", "marks directives sent but names none, or the reverse"),
        ("/directive_ids", "[]", "marks directives sent but names none, or the reverse"),
        ("/directive_ids/0", "99999999999999999999", "i64"),
        ("/directive_ids/0", "1.5", "i64"),
        ("/directive_ids/0", "\"1\"", "i64"),
        ("/directive_ids/0", "1e999999", "number out of range"),
        ("/group/aggregate_identifier/source.asn", "64496", "expected a string"),
        ("/group/aggregate_identifier", "[]", "expected a map"),
    ] {
        case.refuses(Which::Sidecar, change(pointer, value).as_bytes(), words);
    }
}

#[test]
fn a_record_that_says_what_no_deliverer_says_is_refused() {
    let case = case();
    let whole = fs::read_to_string(case.path(Which::Record)).unwrap();
    for (pointer, value, words) in [
        ("/state", "\"sent\"", "unknown variant `sent`"),
        ("/state", "\"Accepted\"", "unknown variant `Accepted`"),
        ("/attempts", "-1", "u32"),
        ("/attempts", "4294967296", "u32"),
        ("/next_attempt_at", "\"soon\"", "line 1"),
        ("/next_attempt_at", "1795601701", "line 1"),
        ("/recipients", "[]", "expected a map"),
        ("/recipients/abuse@as64496.example/state", "\"held\"", "unknown variant `held`"),
        ("/recipients/abuse@as64496.example", "null", "line 1"),
        ("/history/0/milliseconds", "1e99", "u64"),
    ] {
        let mut json: Value = serde_json::from_str(&whole).unwrap();
        *json.pointer_mut(pointer).expect(pointer) = serde_json::from_str(value).unwrap();
        case.refuses(Which::Record, json.to_string().as_bytes(), words);
    }
}
