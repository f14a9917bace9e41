//! The message as SMTP carries it: what must not be in it, and the dots that keep it from ending early.

use lettre::address::Envelope;

use super::capabilities::Capabilities;

/// Ends the message: RFC 5321, section 4.1.1.4. The CRLF before it belongs to the message's last line.
pub(super) const FINAL_DOT: &[u8] = b".\r\n";

/// The longest line without its CRLF, in bytes: RFC 5321, section 4.5.3.1.6.
const LONGEST_LINE: usize = 998;

/// Why a mail can't be given to a relay, or not to this one. Nothing of it was sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no message.
    #[error("failed to send the mail: it is empty")]
    Empty,
    /// A line holds a CR that isn't followed by LF. Relays differ in what they make of it (SMTP smuggling).
    #[error("failed to send the mail: line {line} has a carriage return (CR) in its midst")]
    BareCr {
        /// Counted from 1.
        line: usize,
    },
    /// A line ends with LF alone. Relays differ in what they make of it (SMTP smuggling).
    #[error("failed to send the mail: line {line} ends with a bare line feed (LF)")]
    BareLf {
        /// Counted from 1.
        line: usize,
    },
    /// A line holds a NUL, which RFC 5321 (section 4.5.2) forbids in effect, and RFC 5322 outright.
    #[error("failed to send the mail: line {line} holds a NUL")]
    Nul {
        /// Counted from 1.
        line: usize,
    },
    /// A line has more than 998 bytes, CRLF not counted.
    #[error(
        "failed to send the mail: line {line} has {length} bytes, and 998 is the most that SMTP allows"
    )]
    LongLine {
        /// Counted from 1.
        line: usize,
        /// In bytes, without CRLF.
        length: usize,
    },
    /// An address holds a control character and would break the command it stands in.
    #[error("failed to send the mail: the address {0:?} holds a control character")]
    Address(String),
    /// An address isn't ASCII, and the relay has no SMTPUTF8.
    #[error(
        "failed to send the mail: the address {0:?} is not ASCII, and the relay does not offer SMTPUTF8"
    )]
    AddressNeedsSmtpUtf8(String),
    /// The header holds raw UTF-8 (RFC 6532), and the relay has no SMTPUTF8.
    #[error(
        "failed to send the mail: its header is not ASCII, and the relay does not offer SMTPUTF8"
    )]
    HeaderNeedsSmtpUtf8,
    /// The body isn't ASCII, and the relay has no 8BITMIME.
    #[error(
        "failed to send the mail: its body is not ASCII, and the relay does not offer 8BITMIME"
    )]
    BodyNeedsEightBitMime,
    /// The message is larger than the relay takes.
    #[error("failed to send the mail: it has {size} bytes, and the relay takes {limit} at most")]
    TooLarge {
        /// The message's size in bytes.
        size: usize,
        /// The relay's limit in bytes.
        limit: usize,
    },
}

/// A checked message, ready for the wire.
#[derive(Debug)]
pub(super) struct Content {
    /// Dot-stuffed, with its final dot.
    pub wire: Vec<u8>,
    /// The size in bytes as RFC 1870 counts it: with each CRLF, without stuffed dots and the final one.
    pub size: usize,
    /// Whether the header has bytes beyond ASCII.
    pub header_is_eight_bit: bool,
    /// Whether anything has bytes beyond ASCII.
    pub is_eight_bit: bool,
}

impl Content {
    /// Checks a message and encodes it (RFC 5321, section 4.5.2), all in one buffer so that it leaves in one go.
    pub fn encode(message: &[u8]) -> Result<Self, Refusal> {
        if message.is_empty() {
            return Err(Refusal::Empty);
        }
        let mut content = Self {
            wire: Vec::with_capacity(message.len() + message.len() / 64 + 64),
            size: 0,
            header_is_eight_bit: false,
            is_eight_bit: false,
        };
        let mut in_header = true;
        for (line, text) in (1..).zip(message.split_inclusive(|&b| b == b'\n')) {
            let text = match text {
                [text @ .., b'\r', b'\n'] => text,
                [.., b'\n'] => return Err(Refusal::BareLf { line }),
                // Only the last line can lack its LF; its CR alone is half of what is missing.
                [text @ .., b'\r'] | text => text,
            };
            if text.contains(&b'\r') {
                return Err(Refusal::BareCr { line });
            }
            if text.contains(&0) {
                return Err(Refusal::Nul { line });
            }
            if text.len() > LONGEST_LINE {
                return Err(Refusal::LongLine { line, length: text.len() });
            }
            in_header &= !text.is_empty();
            if !text.is_ascii() {
                content.is_eight_bit = true;
                content.header_is_eight_bit |= in_header;
            }
            if text.starts_with(b".") {
                content.wire.push(b'.');
            }
            content.wire.extend_from_slice(text);
            content.wire.extend_from_slice(b"\r\n");
            content.size += text.len() + 2;
        }
        content.wire.extend_from_slice(FINAL_DOT);
        Ok(content)
    }

    /// Where the final dot begins in [`wire`](Self::wire).
    pub fn final_dot_at(&self) -> usize {
        self.wire.len() - FINAL_DOT.len()
    }

    /// Whether MAIL must say SMTPUTF8.
    pub fn needs_smtp_utf8(&self, envelope: &Envelope) -> bool {
        self.header_is_eight_bit || addresses(envelope).any(|address| !address.is_ascii())
    }

    /// Tells whether this mail can be given to a relay that offers these `capabilities`.
    pub fn fits(&self, envelope: &Envelope, capabilities: &Capabilities) -> Result<(), Refusal> {
        if let Some(address) =
            addresses(envelope).find(|address| address.chars().any(char::is_control))
        {
            return Err(Refusal::Address(address.into()));
        }
        if !capabilities.smtp_utf8 {
            if let Some(address) = addresses(envelope).find(|address| !address.is_ascii()) {
                return Err(Refusal::AddressNeedsSmtpUtf8(address.into()));
            }
            if self.header_is_eight_bit {
                return Err(Refusal::HeaderNeedsSmtpUtf8);
            }
        }
        if self.is_eight_bit && !capabilities.eight_bit_mime {
            return Err(Refusal::BodyNeedsEightBitMime);
        }
        match capabilities.size_limit {
            Some(limit) if self.size > limit => Err(Refusal::TooLarge { size: self.size, limit }),
            _ => Ok(()),
        }
    }
}

fn addresses(envelope: &Envelope) -> impl Iterator<Item = &str> {
    envelope.from().into_iter().chain(envelope.to()).map(AsRef::as_ref)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::scripted::unstuff;

    #[test]
    fn what_relays_would_read_differently_is_refused() {
        let long = format!("a\r\n{}\r\n", "x".repeat(999));
        for (message, refusal) in [
            (&b""[..], Refusal::Empty),
            (b"a\r\nb\nc\r\n", Refusal::BareLf { line: 2 }),
            (b"a\n", Refusal::BareLf { line: 1 }),
            (b"a\r\nb\rc\r\n", Refusal::BareCr { line: 2 }),
            (b"a\r\r\n", Refusal::BareCr { line: 1 }),
            (b"a\r\n.\r\r\nMAIL\r\n", Refusal::BareCr { line: 2 }),
            (b"a\r\n\n.\r\n", Refusal::BareLf { line: 2 }),
            (b"a\r\n\r\nb\0\r\n", Refusal::Nul { line: 3 }),
            (long.as_bytes(), Refusal::LongLine { line: 2, length: 999 }),
        ] {
            assert_eq!(Content::encode(message).unwrap_err(), refusal);
        }
        assert!(Content::encode(format!("{}\r\n", "x".repeat(998)).as_bytes()).is_ok());
    }

    #[test]
    fn a_missing_last_crlf_is_added() {
        for message in [&b"a\r\nb"[..], b"a\r\nb\r", b"a\r\nb\r\n"] {
            let content = Content::encode(message).unwrap();
            assert_eq!((&*content.wire, content.size), (&b"a\r\nb\r\n.\r\n"[..], 6));
        }
    }

    #[test]
    fn dots_are_stuffed_at_line_starts_alone() {
        let content = Content::encode(b".\r\na.b\r\n..c\r\n\r\n.").unwrap();
        assert_eq!(content.wire, b"..\r\na.b\r\n...c\r\n\r\n..\r\n.\r\n");
        assert_eq!(content.final_dot_at(), content.wire.len() - 3);
    }

    #[test]
    fn eight_bit_is_found_and_told_from_eight_bit_headers() {
        let found = |message: &str| {
            let content = Content::encode(message.as_bytes()).unwrap();
            (content.is_eight_bit, content.header_is_eight_bit)
        };
        assert_eq!(found("Subject: a\r\n\r\nb\r\n"), (false, false));
        assert_eq!(found("Subject: a\r\n\r\nä\r\n"), (true, false));
        assert_eq!(found("Subject: ä\r\n\r\nb\r\n"), (true, true));
    }

    /// Messages of the characters that matter, in every arrangement up to a length and then at random.
    #[test]
    fn what_a_receiver_unstuffs_is_the_message() {
        let pieces: [&[u8]; 4] = [b".", b"\r\n", b"a", b"\r\n."];
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        for round in 0..20_000_u64 {
            let mut message = Vec::new();
            let mut choice = round;
            for _ in 0..round % 60 {
                message.extend_from_slice(pieces[usize::try_from(choice % 4).unwrap()]);
                choice /= 4;
                if choice == 0 {
                    seed ^= seed << 13;
                    seed ^= seed >> 7;
                    seed ^= seed << 17;
                    choice = seed;
                }
            }
            message.extend_from_slice(b"\r\n");
            let wire = Content::encode(&message).unwrap().wire;
            let (received, rest) = unstuff(&wire).expect("the message ends");
            assert_eq!(received, message);
            assert_eq!(rest, b"", "the message ended early");
        }
    }
}
