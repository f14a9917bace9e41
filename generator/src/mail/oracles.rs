//! What must be true of any mail that we write.

use mail_parser::{MessageParser, MimeHeaders as _, PartType};
use outbox_config::text::turns_or_ends_line;

use super::{Attachment, Letter, MailError, MessageId, With, compose, quoted_printable};
use crate::address::Mailbox;
use crate::openpgp::Protection;

/// The names in a header, in their order.
const NAMES: [&str; 9] = [
    "From",
    "To",
    "Subject",
    "Date",
    "Message-ID",
    "MIME-Version",
    "Auto-Submitted",
    "X-Auto-Response-Suppress",
    "X-Ticket",
];

/// A subject, a name, a file's name, a text and a file, with a byte 1 behind each but the last: what can not stand in a
/// header is refused, and anything else is a mail of seven bits and short lines, with our fields and no others, in which
/// another reader finds all of it again.
pub(crate) fn mail(data: &[u8]) {
    let mut pieces = data.splitn(5, |&b| b == 1);
    let mut next = || pieces.next().unwrap_or_default();
    let mut text = || String::from_utf8_lossy(next()).into_owned();
    let (subject, name, file_name, body, file) = (text(), text(), text(), text(), text());
    let from = Mailbox {
        name: Some(name).filter(|name| !name.is_empty()),
        address: "noreply@cert.example".parse().expect("an address"),
    };
    let ticket = "20261125-10000042".parse().expect("a ticket");
    let to = ["abuse@isp.example", "noc@isp.example"].map(|text| text.parse().expect("an address"));
    let with = match file_name.as_str() {
        "" => With::Nothing,
        file_name => With::File(Attachment {
            file_name,
            content_type: "text/csv; charset=utf-8",
            bytes: file.as_bytes(),
        }),
    };
    let message_id = MessageId::with_random(&ticket, &from.address, 7);
    let letter = Letter {
        from: &from,
        to: &to,
        subject: &subject,
        body: &body,
        with,
        date: "2026-11-25T06:07:08Z".parse().expect("a time"),
        message_id: &message_id,
        ticket: &ticket,
    };
    let in_header = [&*subject, from.name.as_deref().unwrap_or_default(), &file_name];
    let ends_a_line = |c: char| (c.is_control() && c != '\t') || turns_or_ends_line(c);
    let is_harmful = in_header.iter().any(|text| text.contains(ends_a_line));
    let bytes = match compose(&letter, Protection::default()) {
        Err(MailError::Header { .. }) => {
            assert!(is_harmful);
            return;
        }
        other => other.expect("a mail without a signature"),
    };
    assert!(!is_harmful && bytes.is_ascii() && !bytes.contains(&0));
    let wire = str::from_utf8(&bytes).expect("it is ASCII");
    let lines: Vec<&str> = wire.strip_suffix("\r\n").expect("a last line").split("\r\n").collect();
    for line in &lines {
        assert!(line.len() <= 998 && !line.contains(['\r', '\n']), "{line:?}");
        assert!(!line.starts_with("From ") && !line.starts_with('.'), "{line:?}");
    }
    let head = lines.iter().take_while(|line| !line.is_empty());
    let names: Vec<&str> = head
        .filter(|line| !line.starts_with([' ', '\t']))
        .filter_map(|line| line.split(':').next())
        .collect();
    assert_eq!(names[..NAMES.len()], NAMES);
    assert!(names[NAMES.len()..].iter().all(|name| name.starts_with("Content-")), "{names:?}");

    let read = MessageParser::default().parse(&bytes).expect("it is a mail");
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(read.subject().unwrap_or_default()), words(&subject), "{wire}");
    let read_from = read.from().and_then(|from| from.first()).expect("a sender");
    assert_eq!(read_from.address(), Some("noreply@cert.example"), "{wire}");
    let read_to: Vec<_> =
        read.to().expect("recipients").iter().filter_map(|to| to.address()).collect();
    assert_eq!(read_to, ["abuse@isp.example", "noc@isp.example"], "{wire}");
    let lines = |text: &str| text.replace("\r\n", "\n");
    let read_body = read.text_bodies().next().expect("a text");
    let PartType::Text(read_body) = &read_body.body else { panic!("{wire}") };
    assert_eq!(lines(read_body), lines(&body), "{wire}");
    assert_eq!(read.attachment_count(), usize::from(!file_name.is_empty()), "{wire}");
    if let Some(attachment) = read.attachments().next() {
        assert_eq!(attachment.contents(), file.as_bytes(), "{wire}");
        assert_eq!(
            words(attachment.attachment_name().unwrap_or_default()),
            words(&file_name),
            "{wire}"
        );
    }

    let encoded = quoted_printable::encode(&body);
    for line in encoded.split("\r\n") {
        assert!(line.len() <= 76 && !line.ends_with([' ', '\t']), "{line:?}");
    }
}
