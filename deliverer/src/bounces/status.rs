//! Status codes (RFC 3463), and what they mean in plain words.

use std::fmt;

use serde::Serialize;

use super::dsn::Action;

/// An enhanced status code: `5.1.1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// 2 success, 4 for the time being, 5 for good.
    pub class: u16,
    /// What it is about: address, mailbox, mail system, network, protocol, content, policy.
    pub subject: u16,
    /// What exactly.
    pub detail: u16,
}

impl Status {
    /// The code that `text` begins with; a comment may follow.
    pub fn parse(text: &str) -> Option<Self> {
        let code = text.split(|c: char| c.is_whitespace() || c == '(').find(|s| !s.is_empty())?;
        let mut numbers = code.split('.').map(|part| {
            let digits = (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| part.parse::<u16>().ok()).flatten()
        });
        let mut number = || numbers.next().flatten();
        let status = Self { class: number()?, subject: number()?, detail: number()? };
        (matches!(status.class, 2 | 4 | 5) && numbers.next().is_none()).then_some(status)
    }

    /// The first code within the words of a mail server, as in `552-5.2.2 over quota`.
    pub fn find(text: &str) -> Option<Self> {
        text.split(|c: char| c.is_whitespace() || c == '-')
            .map(|word| word.trim_matches(|c: char| !c.is_ascii_alphanumeric()))
            .find_map(Self::parse)
    }

    /// Whether it says no more than that it went well or not.
    pub fn is_generic(self) -> bool {
        self.subject == 0
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}

impl Serialize for Status {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// Why it came back: by the code if that is precise, else by what mail servers are used to say,
/// else by what the code is about at all.
pub fn reason(action: Action, status: Option<Status>, diagnostic: Option<&str>) -> &'static str {
    match action {
        Action::Delivered => return "delivered",
        Action::Relayed => return "relayed to a host that sends no notices",
        Action::Expanded => return "delivered to a list of addresses",
        Action::Failed | Action::Delayed => {}
    }
    status
        .and_then(precise)
        .or_else(|| by_words(diagnostic?))
        .or_else(|| rough(status?))
        .unwrap_or(if action == Action::Delayed { "not delivered yet" } else { "not delivered" })
}

/// RFC 3463, 3, and the registry of enhanced status codes, but for codes that large mail systems use
/// for something else.
fn precise(status: Status) -> Option<&'static str> {
    let for_now = status.class == 4;
    Some(match (status.subject, status.detail) {
        (1, 1) => "no such user",
        (1, 2) => "no such domain",
        (1, 3) => "not a valid address",
        (1, 4) => "ambiguous address",
        (1, 6) => "user moved, no new address known",
        (1, 7 | 8) => "our sender address was refused",
        (2, 1) if for_now => "mailbox takes no mail now",
        (2, 1) => "mailbox disabled",
        (2, 2) => "mailbox full",
        (2, 3) | (3, 4) => "mail too large",
        (2, 4) => "trouble with a mailing list",
        (3, 1) => "mail system full",
        (3, 2) => "mail system takes no mail now",
        (4, 1) if for_now => "no answer from the host",
        (4, 2) => "the connection broke",
        (4, 3) => "trouble with a directory, such as DNS",
        (4, 4) => "no host to send to",
        (4, 5) => "mail system overloaded",
        (4, 6) => "mail loop",
        (4, 7) => "not delivered in time",
        (5, 3) => "too many recipients",
        (7, 1) => "refused by policy",
        (7, 2) => "mailing list refuses our mails",
        (7, 20..=29) => "refused by policy: authentication (DKIM, SPF, DMARC)",
        _ => return None,
    })
}

/// What mail servers say beside or in place of a precise code.
fn by_words(diagnostic: &str) -> Option<&'static str> {
    const KNOWN: [(&[&str], &str); 8] = [
        (
            &["mailbox full", "mailbox is full", "over quota", "quota exceed", "mailboxfull"],
            "mailbox full",
        ),
        (
            &[
                "recipientnotfound",
                "user unknown",
                "unknown user",
                "no such user",
                "no such mailbox",
                "no mailbox here",
                "unknown recipient",
                "recipient not found",
                "unrouteable address",
            ],
            "no such user",
        ),
        // Exchange Online, for addresses that a domain does not have, with 5.4.1.
        (&["recipient address rejected: access denied"], "no such user, or refused"),
        (&["domain not found", "host not found", "unrouteable mail domain"], "no such domain"),
        (&["message too large", "message size", "too big"], "mail too large"),
        (&["greylist", "graylist", "grey-list"], "greylisted"),
        (&["spam", "blocklist", "blacklist", "block list", "policy"], "refused by policy"),
        (&["mailbox unavailable"], "mailbox unavailable"),
    ];
    let said = diagnostic.to_ascii_lowercase();
    let said = |words: &&str| said.contains(*words);
    KNOWN.iter().find(|(words, _)| words.iter().any(said)).map(|(_, reason)| *reason)
}

/// What the code is about.
fn rough(status: Status) -> Option<&'static str> {
    Some(match (status.subject, status.detail) {
        (1, 10) => "the domain takes no mail",
        (1, _) => "trouble with the address",
        (2, _) => "trouble with the mailbox",
        (3, _) => "trouble with the mail system",
        (4, _) => "trouble with the network",
        (5, _) => "trouble with the protocol",
        (6, _) => "trouble with the content",
        (7, _) => "refused by policy",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_three_numbers_and_nothing_like_it() {
        assert_eq!(Status::parse("5.1.10 (bad user)").unwrap().to_string(), "5.1.10");
        assert_eq!(Status::parse("4.4.7(expired)").unwrap().to_string(), "4.4.7");
        for bad in ["", "5", "5.1", "5.1.1.1", "3.1.1", "5.1.1000", "5.+1.1", "5..1", "x5.1.1"] {
            assert_eq!(Status::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_code_is_found_in_the_words_of_a_mail_server() {
        for (text, code) in [
            ("552-5.2.2 The account is over quota", Some("5.2.2")),
            ("550 #5.1.0 Address rejected", Some("5.1.0")),
            ("host 192.0.2.25 said: 550 (5.7.1): no", Some("5.7.1")),
            ("host 5.1.1.25 said: 550 no", None),
            ("é 550", None),
        ] {
            let found = Status::find(text).map(|status| status.to_string());
            assert_eq!(found.as_deref(), code, "{text}");
        }
    }

    #[test]
    fn the_reason_is_the_code_s_and_else_the_words_of_the_server() {
        let failed =
            |code: &str, said: &str| reason(Action::Failed, Status::parse(code), Some(said));
        assert_eq!(failed("5.2.2", "user unknown"), "mailbox full");
        assert_eq!(failed("5.0.0", "550 unknown user"), "no such user");
        assert_eq!(failed("5.1.10", "550 5.1.10 RESOLVER.ADR.RecipientNotFound"), "no such user");
        assert_eq!(failed("5.1.10", "domain has null MX"), "the domain takes no mail");
        let denied = "550 5.4.1 Recipient address rejected: Access denied.";
        assert_eq!(failed("5.4.1", denied), "no such user, or refused");
        assert_eq!(failed("5.5.0", "550 5.5.0 mailbox unavailable"), "mailbox unavailable");
        assert_eq!(failed("5.2.0", "no"), "trouble with the mailbox");
        assert_eq!(failed("5.0.0", "no"), "not delivered");
        let delayed = |code: &str, said| reason(Action::Delayed, Status::parse(code), said);
        assert_eq!(delayed("4.2.0", Some("Greylisted")), "greylisted");
        assert_eq!(delayed("4.2.1", None), "mailbox takes no mail now");
        assert_eq!(delayed("4.4.1", None), "no answer from the host");
        assert_eq!(delayed("4.0.0", None), "not delivered yet");
        assert_eq!(reason(Action::Relayed, None, None), "relayed to a host that sends no notices");
    }
}
