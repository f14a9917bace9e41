//! One mail of the mailbox: what kind of notice it is, what it says, and which tickets it names.

use mail_parser::{MessageParser, MessagePart, MimeHeaders as _, PartType};
use outbox::Ticket;

use super::dsn::{DeliveryStatus, Outcome};
use super::fields::Fields;
use super::plain;
use super::ticket::{self, FoundBy, Places};

/// What came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A mail system tells what became of a mail, for each recipient. Never empty.
    Report(Vec<Outcome>),
    /// A delivery status that says nothing of any recipient.
    EmptyReport,
    /// From a mail system, in a form of its own.
    MailSystem,
    /// An automatic reply (RFC 3834), such as a vacation notice.
    AutoReply,
    /// Anything else: a person's reply, most likely.
    Other,
}

/// A mail as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// What came.
    pub kind: Kind,
    /// When it was written, RFC 3339, if it says so.
    pub date: Option<String>,
    /// The tickets that it names, the most reliable place first.
    pub tickets: Vec<(Ticket, FoundBy)>,
}

/// The parts of a mail that matter. What is inside a returned mail is none of them, so that a bounce
/// which somebody forwards is not taken for one.
#[derive(Debug, Default)]
struct Parts {
    header: Fields,
    date: Option<String>,
    /// Whether the whole is a `multipart/report`.
    is_report: bool,
    /// Bodies of `message/delivery-status`.
    statuses: Vec<String>,
    /// Headers of returned mails.
    returned: Vec<Fields>,
    texts: Vec<String>,
}

impl Notice {
    /// Reads a mail, or the beginning of one. Whatever the bytes are, it is a notice of some kind.
    pub fn read(bytes: &[u8], envelope_from: Option<&str>) -> Self {
        let parts = Parts::of(bytes);
        let from_system = parts.is_from_mail_system();
        let believed = parts.is_report || from_system;
        let statuses: Vec<DeliveryStatus> = (parts.statuses.iter())
            .filter(|_| believed)
            .map(|text| DeliveryStatus::parse(text))
            .collect();
        let envelope_id = statuses.iter().find_map(|status| status.envelope_id.as_deref());
        let tickets = ticket::find(
            &Places {
                header: &parts.header,
                envelope_id,
                returned: &parts.returned,
                texts: &parts.texts,
            },
            envelope_from,
        );
        let has_status = !statuses.is_empty();
        let mut outcomes: Vec<Outcome> =
            statuses.into_iter().flat_map(|status| status.outcomes).collect();
        if outcomes.is_empty()
            && let Some(text) = parts.texts.first()
        {
            outcomes = plain::outcomes(&parts.header, text);
        }
        let kind = if !outcomes.is_empty() {
            Kind::Report(outcomes)
        } else if has_status {
            Kind::EmptyReport
        } else {
            parts.kind_without_report(from_system)
        };
        Self { kind, date: parts.date, tickets }
    }
}

impl Parts {
    fn of(bytes: &[u8]) -> Self {
        let Some(message) = MessageParser::default().parse(bytes) else { return Self::default() };
        let mut parts = Self {
            date: message
                .date()
                .filter(|date| date.is_valid())
                .map(mail_parser::DateTime::to_rfc3339),
            ..Self::default()
        };
        if let Some(root) = message.parts.first() {
            parts.header = header_of(root, bytes);
            parts.is_report = root.is_content_type("multipart", "report");
        }
        for part in &message.parts {
            parts.add(part);
        }
        parts
    }

    fn add(&mut self, part: &MessagePart<'_>) {
        let kind = |kind, subtype| part.is_content_type(kind, subtype);
        let words = || String::from_utf8_lossy(part.contents());
        if kind("message", "delivery-status") || kind("message", "global-delivery-status") {
            self.statuses.push(words().into_owned());
        } else if kind("text", "rfc822-headers") || kind("message", "global-headers") {
            self.returned.push(Fields::parse(&words()));
        } else if let PartType::Message(returned) = &part.body {
            if let Some(root) = returned.parts.first() {
                self.returned.push(header_of(root, &returned.raw_message));
            }
        } else if kind("message", "rfc822") {
            // Nothing of a mail was found in there but a header, or less.
            self.returned.push(Fields::parse(&words()));
        } else if let PartType::Text(text) = &part.body {
            self.texts.push(text.clone().into_owned());
        }
    }

    /// Whether it claims to come from a mail system: from an address that such systems use, and with
    /// the null sender, as far as that is noted. (Sendmail notes its own address instead.)
    fn is_from_mail_system(&self) -> bool {
        let field = |name| self.header.get(name).unwrap_or_default().to_ascii_lowercase();
        let (from, path) = (field("From"), field("Return-Path"));
        let systems = ["mailer-daemon", "postmaster", "microsoftexchange"];
        systems.iter().any(|name| from.contains(name))
            && (matches!(&*path, "" | "<>") || path.contains("mailer-daemon"))
    }

    fn kind_without_report(&self, from_system: bool) -> Kind {
        let replied = self.header.get("Auto-Submitted").is_some_and(|value| {
            !value.trim_start().get(..2).is_some_and(|no| no.eq_ignore_ascii_case("no"))
        });
        let old_signs = ["X-Autoreply", "X-Autorespond"];
        if from_system {
            Kind::MailSystem
        } else if replied || old_signs.iter().any(|name| self.header.get(name).is_some()) {
            Kind::AutoReply
        } else {
            Kind::Other
        }
    }
}

/// The header of a part, out of the bytes of the mail that it is in.
fn header_of(part: &MessagePart<'_>, bytes: &[u8]) -> Fields {
    let place = part.raw_header_offset() as usize..part.raw_body_offset() as usize;
    Fields::parse(&String::from_utf8_lossy(bytes.get(place).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// Damaged bounces are notices of some kind, too.
    #[test]
    fn a_bounce_cut_off_or_garbled_anywhere_is_read_all_the_same() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/bounces");
        let mut seed = 1_u64;
        let mut random = |below: usize| {
            // Numerical Recipes' generator: the same numbers each time.
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            usize::try_from(seed >> 33).expect("31 bits fit") % below.max(1)
        };
        let mut reports = 0;
        for entry in fs::read_dir(folder).unwrap() {
            let bytes = fs::read(entry.unwrap().path()).unwrap();
            for cut in (0..bytes.len()).step_by(97) {
                let notice = Notice::read(&bytes[..cut], None);
                reports += usize::from(matches!(notice.kind, Kind::Report(_)));
            }
            if bytes.is_empty() {
                continue;
            }
            let lines: Vec<&[u8]> = bytes.split_inclusive(|&b| b == b'\n').collect();
            for _ in 0..200 {
                let mut garbled = lines.clone();
                for _ in 0..=random(4) {
                    match random(3) {
                        0 => garbled.swap(random(lines.len()), random(lines.len())),
                        1 => garbled[random(lines.len())] = b"\n",
                        _ => garbled[random(lines.len())] = lines[random(lines.len())],
                    }
                }
                let mut garbled = garbled.concat();
                for _ in 0..random(8) {
                    let at = random(garbled.len());
                    if let Some(byte) = garbled.get_mut(at) {
                        *byte = u8::try_from(random(256)).expect("it is below 256");
                    }
                }
                let notice = Notice::read(&garbled, Some("bounce+{ticket}@cert.example"));
                reports += usize::from(matches!(notice.kind, Kind::Report(_)));
            }
        }
        assert!(reports > 100, "{reports} of them still say what became of a mail");
    }
}
