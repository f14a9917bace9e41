//! Mail addresses: the configured sender, and the recipients that directives name.

use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use outbox::Ticket;
use outbox_config::text::is_hidden;

/// A mail address that can stand in a header and in an SMTP command (RFC 5321, 4.1.2).
///
/// The local part is a dot-atom, non-ASCII characters included (RFC 6531, 3.3); the domain is in
/// its ASCII form, in lower case. So there are neither quotes, comments, white space nor controls.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    text: String,
    at: usize,
}

/// Why a text is not taken for an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It is no address, for a reason that is said.
    #[error("failed to read the mail address {address:?}: {reason}")]
    Invalid {
        /// The text in question.
        address: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A list of recipients without a recipient.
    #[error("failed to find a mail address in {0:?}")]
    None(String),
}

impl Address {
    /// The address as text, without brackets.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The domain, in ASCII.
    pub fn domain(&self) -> &str {
        &self.text[self.at + 1..]
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let refuse = |reason| AddressError::Invalid { address: text.to_owned(), reason };
        let (local, domain) = text.rsplit_once('@').ok_or_else(|| refuse("there is no @ in it"))?;
        check_local_part(local).map_err(refuse)?;
        let domain = ascii_domain(domain).map_err(refuse)?;
        let address = Self { text: format!("{local}@{domain}"), at: local.len() };
        // RFC 5321, 4.5.3.1.3: a path has 256 octets at most, its two brackets included.
        if address.text.len() > 254 {
            return Err(refuse("it is longer than 254 octets"));
        }
        // The deliverer makes this of it again to speak SMTP.
        if address.text.parse::<lettre::Address>().is_err() {
            return Err(refuse("SMTP can not carry it"));
        }
        Ok(address)
    }
}

/// Checks for a dot-atom (RFC 5322, 3.2.3, with RFC 6531, 3.3) of at most 64 octets (RFC 5321,
/// 4.5.3.1.1).
fn check_local_part(local: &str) -> Result<(), &'static str> {
    let atom = |c: char| match c {
        _ if c.is_ascii_alphanumeric() => true,
        '!' | '#' | '$' | '%' | '&' | '\'' | '*' | '+' | '-' | '/' | '=' | '?' | '^' | '_'
        | '`' | '{' | '|' | '}' | '~' => true,
        // The protocol allows what nobody sees or what turns the text around; it only deceives.
        _ => !c.is_ascii() && !is_hidden(c) && !c.is_whitespace(),
    };
    if local.starts_with('"') {
        return Err("a quoted local part is not supported");
    }
    if local.contains(char::is_control) {
        return Err("there is a control character before the @");
    }
    if local.split('.').any(str::is_empty) {
        return Err("the part before the @ is empty, or a dot has nothing on one side");
    }
    if !local.chars().all(|c| c == '.' || atom(c)) {
        return Err("there is a character before the @ that can not stand there");
    }
    // Such words are none in an address (RFC 2047, 5), but some readers decode them there, and show or
    // answer another address.
    if local.contains("=?") {
        return Err("the part before the @ looks like an encoded word");
    }
    if local.len() > 64 {
        return Err("the part before the @ is longer than 64 octets");
    }
    Ok(())
}

/// The A-labels of a domain (RFC 5891; UTS 46, non-transitional, with the rules of STD 3).
fn ascii_domain(domain: &str) -> Result<String, &'static str> {
    if domain.starts_with('[') || domain.parse::<IpAddr>().is_ok() {
        return Err("an IP address instead of a domain is not supported");
    }
    idna::domain_to_ascii_strict(domain).map_err(|_| "the part behind the @ is no domain name")
}

/// Reads what a directive names: one address, or more with commas between.
///
/// An address that comes again is left out, and so is an empty place between commas, which RFC
/// 5322, 4.4 has readers accept.
pub fn recipients(list: &str) -> Result<Vec<Address>, AddressError> {
    let texts = list.split(',').map(str::trim).filter(|text| !text.is_empty());
    let addresses = texts.map(str::parse).collect::<Result<Vec<_>, _>>()?;
    if addresses.is_empty() {
        return Err(AddressError::None(list.to_owned()));
    }
    Ok(each_once(addresses))
}

/// The addresses in their order, without those that come again: nobody is to get a mail twice.
pub fn each_once(mut addresses: Vec<Address>) -> Vec<Address> {
    let mut seen = HashSet::new();
    addresses.retain(|address| seen.insert(address.clone()));
    addresses
}

/// An address with the name of whom it belongs to, as in `CERT Example <noreply@cert.example>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mailbox {
    /// The name, without quotes.
    pub name: Option<String>,
    /// The address.
    pub address: Address,
}

impl FromStr for Mailbox {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let refuse = |reason| AddressError::Invalid { address: text.to_owned(), reason };
        let text = text.trim();
        let Some((name, address)) = text.strip_suffix('>').and_then(|text| text.rsplit_once('<'))
        else {
            return Ok(Self { name: None, address: text.parse()? });
        };
        let name = match name.trim().strip_prefix('"') {
            None => name.trim().to_owned(),
            Some(quoted) => unquote(quoted).ok_or_else(|| refuse("a quote is not closed"))?,
        };
        if name.contains(char::is_control) {
            return Err(refuse("there is a control character in the name"));
        }
        Ok(Self { name: Some(name).filter(|name| !name.is_empty()), address: address.parse()? })
    }
}

/// What stands in a quoted string (RFC 5322, 3.2.4) whose first quote was taken off.
fn unquote(quoted: &str) -> Option<String> {
    let mut text = String::new();
    let mut characters = quoted.chars();
    loop {
        match characters.next()? {
            '\\' => text.push(characters.next()?),
            '"' => break,
            character => text.push(character),
        }
    }
    characters.as_str().is_empty().then_some(text)
}

/// The reverse-path that mails are given: an address in which `{ticket}` stands for the ticket
/// (VERP, so that a bounce says which mail it is about), or nothing for the null reverse-path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvelopeFrom(String);

impl EnvelopeFrom {
    const PLACE: &str = "{ticket}";

    /// What all reverse-paths look like, with `*` in the ticket's place.
    pub fn pattern(&self) -> String {
        self.0.replace(Self::PLACE, "*")
    }

    /// The reverse-path of the mail with this ticket, without brackets.
    pub fn of(&self, ticket: &Ticket) -> String {
        self.0.replace(Self::PLACE, ticket.as_str())
    }
}

impl From<&Address> for EnvelopeFrom {
    fn from(address: &Address) -> Self {
        Self(address.text.clone())
    }
}

impl FromStr for EnvelopeFrom {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let refuse = |reason| AddressError::Invalid { address: text.to_owned(), reason };
        if text.is_empty() {
            return Ok(Self(String::new()));
        }
        let (local, domain) = text.rsplit_once('@').ok_or_else(|| refuse("there is no @ in it"))?;
        if local.replace(Self::PLACE, "").contains(['{', '}']) || domain.contains(['{', '}']) {
            return Err(refuse("braces are for {ticket} before the @ alone"));
        }
        // With a ticket in it, to see that it stays valid and is not too long.
        let sample = Ticket::new("20000101", 10_000_001).expect("the sample is a ticket");
        let address: Address =
            text.replace(Self::PLACE, sample.as_str()).parse().map_err(|error| match error {
                AddressError::Invalid { reason, .. } => refuse(reason),
                none @ AddressError::None(_) => none,
            })?;
        Ok(Self(format!("{local}@{}", address.domain())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(address: &str) -> &'static str {
        match address.parse::<Address>() {
            Err(AddressError::Invalid { address: named, reason }) => {
                assert_eq!(named, address);
                reason
            }
            other => panic!("{address:?}: {other:?}"),
        }
    }

    #[test]
    fn addresses_of_today_are_taken() {
        for text in [
            "abuse@isp.example",
            "a.b+c_d-e/f='x'@sub.isp.example",
            "root@localhost",
            "grüße@isp.example",
            "{x}@isp.example",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().as_str(), text);
        }
    }

    #[test]
    fn a_domain_becomes_its_a_labels_in_lower_case_and_the_local_part_stays() {
        for (text, shown) in [
            ("Abuse@ISP.Example", "Abuse@isp.example"),
            ("abuse@bücher.example", "abuse@xn--bcher-kva.example"),
            ("abuse@straße.example", "abuse@xn--strae-oqa.example"),
            ("abuse@例え.テスト", "abuse@xn--r8jz45g.xn--zckzah"),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.as_str(), shown);
            assert_eq!(address.domain(), shown.split_once('@').unwrap().1);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_reason() {
        assert!(refused("isp.example").contains("no @"));
        for text in ["@isp.example", ".a@isp.example", "a.@isp.example", "a..b@isp.example"] {
            assert!(refused(text).contains("empty"), "{text}");
        }
        for text in [
            "a b@isp.example",
            "a@b@isp.example",
            "<a@isp.example",
            "(c)a@isp.example",
            "a\u{a0}b@isp.example",
            "a\u{202e}b@isp.example",
            "a\u{200b}b@isp.example",
            "a\u{2028}b@isp.example",
            "a\u{ad}b@isp.example",
        ] {
            assert!(refused(text).contains("can not stand there"), "{text}");
        }
        for text in ["a\r\nBcc: b@isp.example", "a\0@isp.example", "a\u{85}@isp.example"] {
            assert!(refused(text).contains("control"), "{text:?}");
        }
        for text in [
            "a@",
            "a@-isp.example",
            "a@isp..example",
            "a@isp.example.",
            "a@isp example",
            "a@isp.example>",
            "a@isp_x.example",
            "a@isp.example\n",
            "a@xn--.example",
        ] {
            assert!(refused(text).contains("no domain"), "{text:?}");
        }
        for text in ["a@[192.0.2.1]", "a@192.0.2.1", "a@[IPv6:2001:db8::1]"] {
            assert!(refused(text).contains("IP address"), "{text}");
        }
        assert!(refused("\"a b\"@isp.example").contains("quoted"));
        for text in ["=?utf-8?Q?a?=@isp.example", "a=?x@isp.example"] {
            assert!(refused(text).contains("encoded word"), "{text}");
        }
        assert!("a=b?c?=d@isp.example".parse::<Address>().is_ok());
    }

    #[test]
    fn the_limits_of_rfc_5321_hold() {
        let at = |local: usize, labels: usize| {
            format!("{}@{}example", "l".repeat(local), "abcdefghi.".repeat(labels))
        };
        assert!(at(64, 10).parse::<Address>().is_ok());
        assert!(refused(&at(65, 10)).contains("64"));
        assert_eq!(at(56, 19).len(), 254);
        assert!(at(56, 19).parse::<Address>().is_ok());
        assert!(refused(&at(57, 19)).contains("254"));
        assert!(refused(&at(1, 25)).contains("no domain"), "a domain has 253 at most");
    }

    #[test]
    fn recipients_are_trimmed_and_each_comes_once() {
        let list =
            recipients(" a@isp.example,b@ISP.example , a@isp.example,,b@isp.example,").unwrap();
        let list: Vec<_> = list.iter().map(Address::as_str).collect();
        assert_eq!(list, ["a@isp.example", "b@isp.example"]);
        for none in ["", " , ,"] {
            assert_eq!(recipients(none), Err(AddressError::None(none.into())));
        }
        assert_eq!(
            recipients("a@isp.example, CERT <b@isp.example>").unwrap_err().to_string(),
            "failed to read the mail address \"CERT <b@isp.example>\": there is a character \
             before the @ that can not stand there"
        );
    }

    #[test]
    fn a_sender_can_have_a_name() {
        for (text, name) in [
            ("noreply@cert.example", None),
            ("<noreply@cert.example>", None),
            (" CERT Example  <noreply@CERT.example> ", Some("CERT Example")),
            ("CERT, Example <noreply@cert.example>", Some("CERT, Example")),
            (r#""Müller \"Q\" <x>" <noreply@cert.example>"#, Some("Müller \"Q\" <x>")),
            ("\"\" <noreply@cert.example>", None),
        ] {
            let mailbox: Mailbox = text.parse().unwrap();
            assert_eq!(mailbox.name.as_deref(), name, "{text}");
            assert_eq!(mailbox.address.as_str(), "noreply@cert.example");
        }
        for bad in [
            "CERT",
            "CERT <x>",
            "\"CERT <a@b.example>",
            "\"C\"x <a@b.example>",
            "C\rT <a@b.example>",
        ] {
            assert!(bad.parse::<Mailbox>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_envelope_from_carries_the_ticket() {
        let ticket = "20261125-10000042".parse().unwrap();
        let of = |text: &str| text.parse::<EnvelopeFrom>().map(|from| from.of(&ticket));
        assert_eq!(
            of("bounce+{ticket}@cert.example").unwrap(),
            "bounce+20261125-10000042@cert.example"
        );
        assert_eq!(of("bounce@Bücher.example").unwrap(), "bounce@xn--bcher-kva.example");
        assert_eq!(of("").unwrap(), "", "the null reverse-path");
        for bad in ["{tiket}@cert.example", "x@{ticket}.example", "bounce", "{ticket@cert.example"]
        {
            assert!(of(bad).unwrap_err().to_string().contains(bad));
        }
        let long = format!("{}{{ticket}}@cert.example", "l".repeat(50));
        assert!(of(&long).unwrap_err().to_string().contains("64"));
    }
}
