//! What a relay offers in its reply to EHLO.

use lettre::transport::smtp::authentication::Mechanism;

use super::reply::Reply;

/// The extensions that matter to us. lettre's `ServerInfo` knows neither PIPELINING, SIZE nor DSN, and keywords only in
/// upper case (RFC 5321, section 2.4: in any).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
// Each is a fact of its own about the relay.
#[allow(clippy::struct_excessive_bools)]
pub(super) struct Capabilities {
    /// STARTTLS, RFC 3207.
    pub start_tls: bool,
    /// PIPELINING, RFC 2920.
    pub pipelining: bool,
    /// SIZE, RFC 1870. Offered with 0 or without a number, there is no limit.
    pub size: bool,
    /// The largest message, in bytes.
    pub size_limit: Option<usize>,
    /// 8BITMIME, RFC 6152.
    pub eight_bit_mime: bool,
    /// SMTPUTF8, RFC 6531.
    pub smtp_utf8: bool,
    /// DSN, RFC 3461.
    pub dsn: bool,
    /// AUTH PLAIN, RFC 4954 and RFC 4616.
    pub auth_plain: bool,
    /// AUTH LOGIN.
    pub auth_login: bool,
}

impl Capabilities {
    /// Reads a positive reply to EHLO: its first line greets, each further one names an extension.
    pub fn from_ehlo(reply: &Reply) -> Self {
        let mut offered = Self::default();
        for line in reply.lines().skip(1) {
            let line = line.to_ascii_uppercase();
            // `AUTH=LOGIN` is how some said it before RFC 2554.
            let line = match line.strip_prefix("AUTH=") {
                Some(mechanisms) => format!("AUTH {mechanisms}"),
                None => line,
            };
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("STARTTLS") => offered.start_tls = true,
                Some("PIPELINING") => offered.pipelining = true,
                Some("8BITMIME") => offered.eight_bit_mime = true,
                Some("SMTPUTF8") => offered.smtp_utf8 = true,
                Some("DSN") => offered.dsn = true,
                Some("SIZE") => {
                    offered.size = true;
                    offered.size_limit = words
                        .next()
                        .and_then(|limit| limit.parse().ok())
                        .filter(|&limit| limit > 0);
                }
                Some("AUTH") => {
                    for mechanism in words {
                        offered.auth_plain |= mechanism == "PLAIN";
                        offered.auth_login |= mechanism == "LOGIN";
                    }
                }
                _ => {}
            }
        }
        offered
    }

    /// How to log in. LOGIN comes last, for it is obsolete.
    pub fn mechanism(&self) -> Option<Mechanism> {
        match (self.auth_plain, self.auth_login) {
            (true, _) => Some(Mechanism::Plain),
            (false, true) => Some(Mechanism::Login),
            (false, false) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::reply::parse_cut_off;

    fn offered(ehlo: &str) -> Capabilities {
        Capabilities::from_ehlo(&parse_cut_off(ehlo.as_bytes()).unwrap())
    }

    #[test]
    fn keywords_count_in_any_case_but_not_in_the_greeting() {
        assert_eq!(
            offered("250-PIPELINING\r\n250-8BitMime\r\n250-size 1000\r\n250 auth=login x-y"),
            Capabilities {
                eight_bit_mime: true,
                size: true,
                size_limit: Some(1000),
                auth_login: true,
                ..Capabilities::default()
            }
        );
    }

    #[test]
    fn auth_is_a_keyword_at_the_beginning_of_a_line_alone() {
        for line in ["AUTH X-OWN AUTH=LOGIN", "X-OWN AUTH=LOGIN", "XAUTH=LOGIN"] {
            assert_eq!(offered(&format!("250-hello\r\n250 {line}")).mechanism(), None, "{line}");
        }
        let both = offered("250-hello\r\n250-AUTH=LOGIN\r\n250 AUTH PLAIN");
        assert!(both.auth_plain && both.auth_login);
    }

    #[test]
    fn size_without_a_number_or_zero_is_no_limit() {
        for line in ["SIZE", "SIZE 0", "SIZE lots", "SIZE 99999999999999999999999"] {
            let offered = offered(&format!("250-hello\r\n250 {line}"));
            assert_eq!((offered.size, offered.size_limit), (true, None), "{line}");
        }
    }
}
