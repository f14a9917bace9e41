//! What must be true of any way to name mails.

use outbox::State;

use super::selector::Selector;
use super::{Listed, is_called};

const TICKET: &str = "20261125-10000042";

/// A glob, names, and recipients of mails, a line each: each mail is picked or not as a plain reading has it, and none
/// is lost.
pub(crate) fn selector(lines: &[u8]) {
    let Ok(lines) = str::from_utf8(lines) else { return };
    let mut lines = lines.lines();
    let Ok(glob) = glob::Pattern::new(lines.next().unwrap_or_default()) else { return };
    let names: Vec<String> =
        lines.next().unwrap_or_default().split(' ').map(str::to_owned).collect();
    let names: Vec<String> = names.into_iter().filter(|name| !name.is_empty()).collect();
    let addresses: Vec<&str> = lines.take(20).collect();
    let mails = addresses.iter().enumerate().map(|(index, address)| mail(index, address));
    let mails: Vec<Listed> = mails.collect();
    let all: Vec<_> = mails.iter().map(|mail| mail.id.clone()).collect();
    let selector = Selector {
        names: names.clone(),
        recipient: vec![glob.clone()],
        state: Vec::new(),
        all: false,
    };
    let selected = selector.select(mails);
    let mut found: Vec<_> =
        selected.mails.iter().chain(&selected.others).map(|mail| mail.id.clone()).collect();
    found.sort();
    assert_eq!(found, all, "a mail is lost, or there twice");
    let called = |name: &String| {
        selected.mails.iter().chain(&selected.others).any(|mail| mail.is_called(name))
    };
    assert_eq!(
        selected.missing,
        names.iter().filter(|name| !called(name)).cloned().collect::<Vec<_>>()
    );
    for (picked, mail) in selected
        .mails
        .iter()
        .map(|mail| (true, mail))
        .chain(selected.others.iter().map(|mail| (false, mail)))
    {
        let is_named =
            names.is_empty() || names.iter().any(|name| is_called(&mail.id, mail.ticket(), name));
        if glob.as_str().contains('[') {
            assert!(is_named || !picked);
            continue;
        }
        let [address] = mail.recipients() else { unreachable!("it has one recipient") };
        let lower = |text: &str| text.to_ascii_lowercase().chars().collect::<Vec<char>>();
        assert_eq!(
            picked,
            is_named && is_like(&lower(address), &lower(glob.as_str())),
            "{address:?}"
        );
    }
}

/// Whether a text is as a glob without classes says, worked out from the end.
fn is_like(text: &[char], glob: &[char]) -> bool {
    // Of each end of the text: whether it is like the end of the glob that was looked at so far.
    let mut ends = vec![false; text.len() + 1];
    ends[text.len()] = true;
    for wanted in glob.iter().rev() {
        let before = ends.clone();
        for at in (0..=text.len()).rev() {
            let next = before.get(at + 1).copied().unwrap_or(false);
            ends[at] = match wanted {
                '*' => before[at] || ends.get(at + 1).copied().unwrap_or(false),
                '?' => next,
                literal => next && text[at] == *literal,
            };
        }
    }
    ends[0]
}

fn mail(index: usize, address: &str) -> Listed {
    let id = format!("1795578426.M{index:06}P1Q1.{TICKET}.vm");
    let sidecar = serde_json::json!({
        "version": 1, "id": id, "ticket": TICKET, "message_id": "<1@cert.example>",
        "created_at": "2026-11-25T03:47:06Z", "sha256": "0".repeat(64), "size": 1, "subject": "s",
        "envelope": { "from": "", "to": [address] }, "mark_sent": true, "directive_ids": [1],
        "group": { "recipient_address": address, "template_name": "t", "notification_format": "n",
                   "event_data_format": "e", "aggregate_identifier": {} }
    });
    let sidecar = serde_json::from_value(sidecar).expect("it has the form");
    Listed {
        id: id.parse().expect("it is one"),
        file: None,
        state: State::Queued,
        sidecar: Ok(sidecar),
        record: None,
    }
}
