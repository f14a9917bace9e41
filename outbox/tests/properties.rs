//! What is claimed, whatever mails there are and wherever they stand.

use std::collections::{BTreeMap, HashSet};

use outbox::{DirectiveId, Envelope, GroupKey, NewMail, Outbox};
use proptest::prelude::*;

fn group(number: u8) -> GroupKey {
    GroupKey {
        recipient_address: format!("abuse@as{number}.example"),
        template_name: "generic".into(),
        notification_format: "text".into(),
        event_data_format: "csv_inline".into(),
        aggregate_identifier: BTreeMap::new(),
    }
}

proptest! {
    // Each writes some files, durably.
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn the_claims_are_what_all_mails_list_and_no_more(
        mails in proptest::collection::vec((0..4_u8, proptest::collection::vec(1..50_i64, 0..6), 0..4_u8), 1..8)
    ) {
        let folder = tempfile::tempdir().unwrap();
        let outbox = Outbox::create(&folder.path().join("outbox")).unwrap();
        let mut generator = outbox.lock_generator().unwrap().unwrap();
        let mut listed = HashSet::new();
        let mut newest = BTreeMap::new();
        for (number, (of, directives, place)) in (0_i64..).zip(&mails) {
            let ticket: outbox::Ticket = format!("20261125-{:08}", 10_000_000 + number).parse().unwrap();
            let created_at = "2026-11-25T06:07:08Z".parse::<jiff::Timestamp>().unwrap()
                + jiff::SignedDuration::from_mins((number * 7) % 5);
            let ids: Vec<DirectiveId> = directives.iter().copied().map(DirectiveId).collect();
            let mail = NewMail {
                ticket: ticket.clone(),
                message_id: format!("<{ticket}@cert.example>"),
                created_at,
                subject: "s".into(),
                envelope: Envelope { from: String::new(), to: vec!["abuse@isp.example".into()] },
                directive_ids: ids.clone(),
                group: group(*of),
            };
            let draft = generator.draft(mail, b"Subject: s\r\n\r\nb\r\n").unwrap();
            let id = generator.publish(vec![draft]).unwrap().remove(0);
            // Where a mail reader put it, or not at all.
            let new = outbox.root().join("new").join(id.as_str());
            match place {
                0 => {}
                1 => std::fs::rename(&new, outbox.root().join(format!("cur/{id}:2,S"))).unwrap(),
                2 => std::fs::rename(&new, outbox.root().join(format!("cur/{id}:2,FT"))).unwrap(),
                _ => std::fs::remove_file(&new).unwrap(),
            }
            if !ids.is_empty() {
                let known = newest.entry(group(*of)).or_insert(created_at);
                *known = created_at.max(*known);
            }
            listed.extend(ids);
        }
        let claims = outbox.claims().unwrap();
        prop_assert_eq!(claims.directives, listed);
        prop_assert_eq!(claims.newest.into_iter().collect::<BTreeMap<_, _>>(), newest);
        let last = format!("20261125-{:08}", 10_000_000 + mails.len() - 1);
        prop_assert_eq!(claims.last_ticket.map(String::from), Some(last));
    }
}
