//! Which of our mails a notice is about: the tickets that it names, the most reliable place first.
//!
//! Nothing in a notice is to be trusted. Whoever knows one ticket, or guesses one, can forge a bounce
//! for it; so each ticket comes with the place where it stood.

use outbox::Ticket;
use serde::Serialize;

use super::fields::Fields;

/// Where a ticket stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FoundBy {
    /// In the address that the notice was sent to: the sender of our envelope.
    Verp,
    /// In the delivery status, which repeats the ENVID of our envelope (RFC 3461, 4.4).
    EnvelopeId,
    /// In the field `X-Ticket` of the returned header.
    TicketHeader,
    /// In the field `Message-ID` of the returned header.
    MessageId,
    /// In such a field pasted into the text.
    PastedHeader,
    /// In the notice's own `In-Reply-To` or `References`.
    References,
}

impl FoundBy {
    /// As a person says it.
    pub fn words(self) -> &'static str {
        match self {
            Self::Verp => "the VERP address",
            Self::EnvelopeId => "the envelope id",
            Self::TicketHeader => "the returned X-Ticket",
            Self::MessageId => "the returned Message-ID",
            Self::PastedHeader => "a header in the text",
            Self::References => "In-Reply-To or References",
        }
    }
}

/// The fields that name the address a mail was delivered to.
const ADDRESSED: [&str; 8] = [
    "Delivered-To",
    "X-Original-To",
    "Envelope-To",
    "X-Envelope-To",
    "X-Delivered-To",
    "Apparently-To",
    "To",
    "Cc",
];

/// What there is of a notice to look for tickets in.
#[derive(Debug)]
pub struct Places<'a> {
    /// Its own header.
    pub header: &'a Fields,
    /// The ENVID that the delivery status repeats.
    pub envelope_id: Option<&'a str>,
    /// Headers of mails that came back with it.
    pub returned: &'a [Fields],
    /// Its texts.
    pub texts: &'a [String],
}

/// Every ticket named, once each, the most reliable place first. `envelope_from` is the configured
/// one, with `{ticket}` in it or not.
pub fn find(places: &Places<'_>, envelope_from: Option<&str>) -> Vec<(Ticket, FoundBy)> {
    let Places { header, envelope_id, returned, texts } = places;
    let mut found = Vec::<(Ticket, FoundBy)>::new();
    let mut add = |ticket: Option<Ticket>, by| {
        if let Some(ticket) = ticket
            && found.iter().all(|(known, _)| *known != ticket)
        {
            found.push((ticket, by));
        }
    };
    for address in ADDRESSED.iter().flat_map(|name| header.all(name)).flat_map(addresses) {
        add(ticket_of_address(address, envelope_from), FoundBy::Verp);
    }
    add(envelope_id.and_then(|id| tickets_in(&from_xtext(id)).next()), FoundBy::EnvelopeId);
    for field in returned.iter().flat_map(|header| header.all("X-Ticket")) {
        add(field.parse().ok(), FoundBy::TicketHeader);
    }
    for field in returned.iter().flat_map(|header| header.all("Message-ID")) {
        add(ticket_of_message_id(field), FoundBy::MessageId);
    }
    for (name, value) in texts.iter().flat_map(|text| pasted(text)) {
        let ticket = match name {
            "X-Ticket" => value.parse().ok(),
            _ => ticket_of_message_id(value),
        };
        add(ticket, FoundBy::PastedHeader);
    }
    for field in ["In-Reply-To", "References"].iter().flat_map(|name| header.all(name)) {
        for id in field.split_whitespace() {
            add(ticket_of_message_id(id), FoundBy::References);
        }
    }
    found
}

/// What looks like an address in a field's value.
fn addresses(value: &str) -> impl Iterator<Item = &str> {
    value
        .split(|c: char| c.is_whitespace() || matches!(c, ',' | ';' | '<' | '>' | '"' | '(' | ')'))
        .filter(|word| word.contains('@'))
}

/// The ticket in an address that bounces come to.
fn ticket_of_address(address: &str, envelope_from: Option<&str>) -> Option<Ticket> {
    const PLACE: &str = "{ticket}";
    if let Some(from) = envelope_from.filter(|from| from.contains(PLACE)) {
        let wanted = canonical(address);
        return tickets_in(address)
            .find(|ticket| canonical(&from.replace(PLACE, ticket.as_str())) == wanted);
    }
    let (local, _) = address.rsplit_once('@')?;
    tickets_in(local).find(|ticket| local.ends_with(ticket.as_str()))
}

/// `<20261125-10000042.0123456789abcdef@cert.example>`
fn ticket_of_message_id(id: &str) -> Option<Ticket> {
    let id = id.trim().trim_start_matches('<');
    id.split_once('.').and_then(|(ticket, _)| ticket.parse().ok())
}

/// Fields of our header on lines of a text, however indented or quoted, the value perhaps on the
/// next line.
fn pasted(text: &str) -> impl Iterator<Item = (&'static str, &str)> {
    fn bare(line: &str) -> &str {
        line.trim_start_matches(|c: char| c.is_whitespace() || c == '>').trim_end()
    }
    let mut lines = text.lines().map(bare).peekable();
    std::iter::from_fn(move || {
        while let Some(line) = lines.next() {
            let Some((name, value)) = line.split_once(':') else { continue };
            let known = ["X-Ticket", "Message-ID"];
            let known = known.into_iter().find(|known| known.eq_ignore_ascii_case(name.trim_end()));
            let Some(name) = known else { continue };
            let value = value.trim_start();
            let next = lines.peek().copied().unwrap_or_default();
            return Some((name, if value.is_empty() { next } else { value }));
        }
        None
    })
}

/// Everything in `text` of the form of a ticket, no digit beside it.
fn tickets_in(text: &str) -> impl Iterator<Item = Ticket> {
    const LENGTH: usize = 17;
    let bytes = text.as_bytes();
    let digit = |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(u8::is_ascii_digit);
    let alone = move |at: usize| !digit(at.checked_sub(1)) && !digit(Some(at + LENGTH));
    (0..(bytes.len() + 1).saturating_sub(LENGTH))
        .filter(move |at| alone(*at))
        .filter_map(|at| text.get(at..at + LENGTH)?.parse().ok())
}

/// An ENVID as it was before it was written as xtext (RFC 3461, 4), which those who repeat it should
/// have undone.
fn from_xtext(text: &str) -> String {
    let mut rest = text;
    let mut decoded = String::with_capacity(text.len());
    while let Some((before, after)) = rest.split_once('+') {
        decoded.push_str(before);
        let code = after.get(..2).filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
        let code = code.and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(u8::is_ascii);
        decoded.push(code.map_or('+', char::from));
        rest = if code.is_some() { &after[2..] } else { after };
    }
    decoded + rest
}

/// An address so that equal ones compare equal: in lower case, the domain as A-labels.
///
/// (Upper and lower case may differ before the `@`, but no bounce was ever told apart by that.)
pub fn canonical(address: &str) -> String {
    let address = address.trim().trim_matches(['<', '>']);
    match address.rsplit_once('@') {
        Some((local, domain)) => {
            let domain = idna::domain_to_ascii(domain).unwrap_or_else(|_| domain.to_owned());
            format!("{local}@{domain}").to_lowercase()
        }
        None => address.to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICKET: &str = "20261125-10000042";

    fn found(header: &str, envelope_id: Option<&str>, returned: &str, text: &str) -> Vec<String> {
        found_with(Some("bounce+{ticket}@cert.example"), header, envelope_id, returned, text)
    }

    fn found_with(
        envelope_from: Option<&str>,
        header: &str,
        envelope_id: Option<&str>,
        returned: &str,
        text: &str,
    ) -> Vec<String> {
        let places = Places {
            header: &Fields::parse(header),
            envelope_id,
            returned: &[Fields::parse(returned)],
            texts: &[text.to_owned()],
        };
        let found = find(&places, envelope_from);
        found.iter().map(|(ticket, by)| format!("{ticket} {}", by.words())).collect()
    }

    #[test]
    fn the_most_reliable_place_comes_first_and_a_ticket_once() {
        let all = found(
            "To: <bounce+20261125-10000001@CERT.example>\nDelivered-To: bounce@cert.example\n\
             References: <a@b> <20261125-10000006.0@cert.example>\n",
            Some("20261125-10000002"),
            "X-Ticket: 20261125-10000003\nMessage-ID: <20261125-10000004.0@cert.example>\n\
             Subject: x",
            "> Message-ID:\n>   <20261125-10000005.0@cert.example>\nX-Ticket: 20261125-10000001\n",
        );
        let expected = [
            "20261125-10000001 the VERP address",
            "20261125-10000002 the envelope id",
            "20261125-10000003 the returned X-Ticket",
            "20261125-10000004 the returned Message-ID",
            "20261125-10000005 a header in the text",
            "20261125-10000006 In-Reply-To or References",
        ];
        assert_eq!(all, expected);
    }

    #[test]
    fn an_address_counts_only_as_configured() {
        let to = |from, address: &str| {
            !found_with(from, &format!("To: {address}"), None, "", "").is_empty()
        };
        let ours = Some("Bounce+{ticket}@bücher.example");
        assert!(to(ours, &format!("bounce+{TICKET}@XN--bcher-kva.example")));
        assert!(to(ours, &format!("\"{TICKET}\" <bounce+{TICKET}@bücher.example>")));
        for other in [
            format!("bounce+{TICKET}@cert.example"),
            format!("bounces+{TICKET}@bücher.example"),
            format!("bounce+{TICKET}1@bücher.example"),
            format!("bounce+{TICKET}-x@bücher.example"),
        ] {
            assert!(!to(ours, &other), "{other}");
        }
        for from in [None, Some("bounce@cert.example"), Some("")] {
            assert!(to(from, &format!("x-{TICKET}@cert.example")));
            assert!(!to(from, &format!("{TICKET}x@cert.example")));
            assert!(!to(from, &format!("1{TICKET}@cert.example")));
        }
    }

    #[test]
    fn an_envelope_id_may_still_be_xtext() {
        assert_eq!(from_xtext("2026+2B1+20a+3Db+"), "2026+1 a=b+");
        assert_eq!(from_xtext("+é+C3+2"), "+é+C3+2");
        assert_eq!(
            found("", Some("20261125+2D10000042"), "", ""),
            [format!("{TICKET} the envelope id")]
        );
        assert_eq!(found("", Some("120261125-10000042"), "", ""), [""; 0]);
    }
}
