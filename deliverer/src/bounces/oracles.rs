//! What must be true of any mail in the mailbox for bounces.

use std::collections::BTreeSet;

use outbox_config::program::to_json;
use outbox_config::text::is_hidden;

use super::dsn::DeliveryStatus;
use super::mailbox::MailboxFile;
use super::notice::{Kind, Notice};
use super::{place, report};

/// Whatever the mail is, it is told in lines that a terminal shows as they are, of the width asked for, and in JSON; and
/// it is read the same each time.
pub(crate) fn bounce(mail: &[u8]) {
    // Wide enough for the longest of our own words.
    let width = 60 + mail.len() % 60;
    for envelope_from in [None, Some("bounce+{ticket}@cert.example")] {
        let notice = Notice::read(mail, envelope_from);
        assert_eq!(notice, Notice::read(mail, envelope_from));
        let tickets: BTreeSet<_> = notice.tickets.iter().map(|(ticket, _)| ticket).collect();
        assert_eq!(tickets.len(), notice.tickets.len(), "a ticket is named twice");
        if let Kind::Report(outcomes) = &notice.kind {
            assert!(!outcomes.is_empty());
        }
        let file = MailboxFile::for_tests();
        let (entries, staying) = match place(&file, notice, &None) {
            Ok(entries) => (entries, Vec::new()),
            Err(why) => (Vec::new(), vec![(file.to_string(), why)]),
        };
        let text = report::as_text(&entries, &staying, width);
        assert!(!text.contains(|c| c != '\n' && is_hidden(c)), "{text:?}");
        let wrapped = |line: &&str| line.starts_with("    ");
        for line in text.lines().filter(wrapped) {
            assert!(line.chars().count() <= width, "{line:?}");
        }
        // A few lines for each recipient, and a paragraph of a diagnostic that is cut.
        let words: usize = text.lines().filter(wrapped).map(str::len).sum();
        assert!(words <= (entries.len() + staying.len() + 1) * (4_000 + 8 * mail.len()));
        let json = to_json(&entries);
        assert!(!json.contains(|c| c != '\n' && is_hidden(c)), "{json:?}");
        let read: Vec<serde_json::Value> = serde_json::from_str(&json).unwrap();
        assert_eq!(read.len(), entries.len());
    }
    // The body of a delivery status alone, without which most mutations of a mail end in nothing.
    let status = DeliveryStatus::parse(&String::from_utf8_lossy(mail));
    assert_eq!(status, DeliveryStatus::parse(&String::from_utf8_lossy(mail)));
    for outcome in status.outcomes {
        let outcome = outcome.with_status_of_diagnostic();
        if let Some(status) = outcome.status {
            assert!(
                matches!(status.class, 2 | 4 | 5) && status.subject < 1000 && status.detail < 1000
            );
        }
    }
}
