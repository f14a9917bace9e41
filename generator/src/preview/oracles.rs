//! What must be true of any mail that is shown in an mbox.

use std::collections::BTreeMap;

use outbox::{Envelope, GroupKey, NewMail};

use crate::address::Address;
use crate::oracles::assert_shown;

/// Whatever the bytes are, they act on no terminal, and behind the line that separates mails they are what they were.
pub(crate) fn mbox(bytes: &[u8]) {
    let address = bytes.split(|&b| b == b'\n').next().and_then(|line| str::from_utf8(line).ok());
    let from =
        address.and_then(|text| text.parse::<Address>().ok()).map(|address| address.to_string());
    let mail = NewMail {
        ticket: "20261125-10000042".parse().expect("a ticket"),
        message_id: "<1@cert.example>".into(),
        created_at: "2026-11-25T06:07:08Z".parse().expect("a time"),
        subject: String::new(),
        envelope: Envelope { from: from.unwrap_or_default(), to: vec!["abuse@isp.example".into()] },
        directive_ids: Vec::new(),
        group: GroupKey {
            recipient_address: String::new(),
            template_name: String::new(),
            notification_format: String::new(),
            event_data_format: String::new(),
            aggregate_identifier: BTreeMap::new(),
        },
    };
    let text = super::mbox(&mail, bytes);
    assert_shown(&text);
    let (first, rest) = text.split_once('\n').expect("a first line");
    assert!(
        first.starts_with("From ") && first.ends_with(" Wed Nov 25 06:07:08 2026"),
        "{first:?}"
    );
    assert_eq!(first.split(' ').count(), 7, "{first:?}");
    let plain = String::from_utf8_lossy(bytes).replace("\r\n", "\n");
    assert_eq!(rest.matches('\n').count(), plain.matches('\n').count() + 1);
    if plain.chars().all(|c| c == '\n' || c == '\t' || c == ' ' || c.is_ascii_graphic()) {
        assert_eq!(rest, plain + "\n");
    }
}
