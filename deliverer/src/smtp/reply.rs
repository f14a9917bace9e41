//! Replies: a parser that takes what relays really send, and a print that is safe to show.
//!
//! RFC 5321 (section 4.2) asks for `250 text<CRLF>`; relays also send a bare `250`, a bare LF, other character sets and
//! very long lines. None of these changes what the relay said, and each taken for a failure after the final dot would
//! be a duplicate mail. What does leave the meaning open (no code, two codes in one reply, no end) is [`Malformed`].

use std::fmt::{self, Display, Formatter, Write};

use outbox_config::text::is_hidden;

/// The most that a reply may take, over all of its lines, in bytes.
const LONGEST: usize = 64 * 1024;

/// The most that is shown of a reply, in characters.
const SHOWN: usize = 512;

/// What the relay answered.
///
/// Its text is whatever the relay chose to send. [`Display`] gives code and text on one line of at most 512 characters
/// without control characters and the like; `Debug` prints the same.
#[derive(Clone, PartialEq, Eq)]
pub struct Reply {
    code: u16,
    lines: Vec<String>,
}

impl Reply {
    /// The three digits, from 200 to 599.
    pub fn code(&self) -> u16 {
        self.code
    }

    /// A reply of one line, for tests of what is made of replies.
    #[cfg(test)]
    pub(crate) fn of(code: u16, text: &str) -> Self {
        Self { code, lines: vec![text.to_owned()] }
    }

    /// 2xx: done.
    pub(super) fn is_positive(&self) -> bool {
        self.code / 100 == 2
    }

    /// The text, line by line, as the relay sent it.
    pub(super) fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }

    /// The same reply with each `secret` replaced: some relays quote the command they refuse.
    pub(super) fn without(mut self, secret: &str) -> Self {
        if !secret.is_empty() {
            for line in &mut self.lines {
                *line = line.replace(secret, "***");
            }
        }
        self
    }
}

impl Display for Reply {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        let text = self
            .lines
            .iter()
            .filter(|line| !line.is_empty())
            .flat_map(|line| std::iter::once(' ').chain(line.chars()))
            .map(|c| if is_hidden(c) { char::REPLACEMENT_CHARACTER } else { c });
        for (written, c) in (3..).zip(text) {
            if written == SHOWN - 1 {
                return f.write_char('…');
            }
            f.write_char(c)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "Reply({self})")
    }
}

/// What the bytes received so far amount to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// A reply, in the first `length` bytes.
    Complete { reply: Reply, length: usize },
    /// The beginning of a reply.
    Incomplete,
}

/// Why something isn't a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It doesn't begin with three digits, or not with 2 to 5.
    #[error("no reply code")]
    NoCode,
    /// Lines of one reply differ in their code.
    #[error("two codes in one reply")]
    TwoCodes,
    /// More than 64 KiB without an end.
    #[error("a reply without end")]
    TooLong,
}

/// Reads the first reply in `received`.
pub(super) fn parse(received: &[u8]) -> Result<Parsed, Malformed> {
    let mut code = None;
    let mut lines = Vec::new();
    let mut length = 0;
    while let Some(end) = received[length..].iter().position(|&b| b == b'\n') {
        let line = without_trailing_cr(&received[length..length + end]);
        length += end + 1;
        let (this, rest) = split_code(line).ok_or(Malformed::NoCode)?;
        if *code.get_or_insert(this) != this {
            return Err(Malformed::TwoCodes);
        }
        let text = rest.get(1..).unwrap_or_default();
        lines.push(String::from_utf8_lossy(text).into_owned());
        match rest.first() {
            Some(b'-') => {}
            Some(b' ') | None => {
                let reply = Reply { code: this, lines };
                return Ok(Parsed::Complete { reply, length });
            }
            Some(_) => return Err(Malformed::NoCode),
        }
        if length > LONGEST {
            return Err(Malformed::TooLong);
        }
    }
    // Garbage need not end in a newline: a TLS alert doesn't.
    if received[length..].iter().take(3).any(|b| !b.is_ascii_digit()) {
        return Err(Malformed::NoCode);
    }
    if received.len() > LONGEST {
        return Err(Malformed::TooLong);
    }
    Ok(Parsed::Incomplete)
}

/// Reads a reply that the end of the connection has cut off: `250 Ok que` still says 250.
pub(super) fn parse_cut_off(received: &[u8]) -> Option<Reply> {
    match parse(&[received, b"\n"].concat()) {
        Ok(Parsed::Complete { reply, .. }) => Some(reply),
        _ => None,
    }
}

fn split_code(line: &[u8]) -> Option<(u16, &[u8])> {
    let (digits, rest) = line.split_at_checked(3)?;
    let [hundreds @ b'2'..=b'5', tens @ b'0'..=b'9', ones @ b'0'..=b'9'] = *digits else {
        return None;
    };
    let value = |digit: u8| u16::from(digit - b'0');
    Some((100 * value(hundreds) + 10 * value(tens) + value(ones), rest))
}

fn without_trailing_cr(mut line: &[u8]) -> &[u8] {
    while let [rest @ .., b'\r'] = line {
        line = rest;
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(received: &[u8]) -> (Reply, usize) {
        match parse(received) {
            Ok(Parsed::Complete { reply, length }) => (reply, length),
            other => panic!("{:?}: {other:?}", String::from_utf8_lossy(received)),
        }
    }

    #[test]
    fn what_relays_really_send_is_a_reply() {
        for (received, shown) in [
            (&b"250 2.0.0 Ok\r\n"[..], "250 2.0.0 Ok"),
            (b"250\r\n", "250"),
            (b"250 \r\n", "250"),
            (b"250 ok\n", "250 ok"),
            (b"250 ok\r\r\n", "250 ok"),
            (b"250-one\r\n250-\r\n250 two\r\n", "250 one two"),
            (b"250-one\n250\n", "250 one"),
            (b"250 gr\xfc\xdfe\r\n", "250 gr\u{fffd}\u{fffd}e"),
            (b"599 odd\r\n", "599 odd"),
        ] {
            let (reply, length) = complete(received);
            assert_eq!((reply.to_string().as_str(), length), (shown, received.len()));
        }
    }

    #[test]
    fn a_reply_ends_where_the_next_begins() {
        let (reply, length) = complete(b"250 one\r\n550 two\r\n");
        assert_eq!((reply.code(), length), (250, 9));
    }

    #[test]
    fn every_beginning_of_a_reply_is_incomplete() {
        let whole = b"250-one\r\n250 two\r\n";
        for cut in 0..whole.len() {
            assert_eq!(parse(&whole[..cut]), Ok(Parsed::Incomplete), "{cut}");
        }
    }

    #[test]
    fn what_leaves_the_meaning_open_is_malformed() {
        for (received, why) in [
            (&b"HTTP/1.1 400 Bad Request\r\n"[..], Malformed::NoCode),
            (b"\x15\x03\x01\x00\x02", Malformed::NoCode),
            (b"25\r\n", Malformed::NoCode),
            (b"\r\n", Malformed::NoCode),
            (b"150 ok\r\n", Malformed::NoCode),
            (b"650 ok\r\n", Malformed::NoCode),
            (b"2500 ok\r\n", Malformed::NoCode),
            (b"250-ok\r\n550 no\r\n", Malformed::TwoCodes),
        ] {
            assert_eq!(parse(received), Err(why), "{}", String::from_utf8_lossy(received));
        }
        assert_eq!(parse(&b"2".repeat(70_000)), Err(Malformed::TooLong));
        assert_eq!(parse(&b"250-more\r\n".repeat(7_000)), Err(Malformed::TooLong));
    }

    #[test]
    fn long_lines_are_taken_and_cut_when_shown() {
        let (reply, _) = complete(format!("250 {}\r\n", "x".repeat(10_000)).as_bytes());
        let shown = reply.to_string();
        assert_eq!(shown.chars().count(), 512);
        assert!(shown.starts_with("250 xxx") && shown.ends_with("x…"));
    }

    #[test]
    fn a_shown_reply_cannot_steer_a_terminal_or_forge_a_log_line() {
        let (reply, _) =
            complete("550 a\x1b[2Jb\0c\rd\u{85}e\u{202e}f\u{2028}g\x7f\r\n".as_bytes());
        let expected = "550 a\u{fffd}[2Jb\u{fffd}c\u{fffd}d\u{fffd}e\u{fffd}f\u{fffd}g\u{fffd}";
        assert_eq!(reply.to_string(), expected);
        assert_eq!(format!("{reply:?}"), format!("Reply({expected})"));
    }

    #[test]
    fn a_cut_off_reply_counts_once_its_code_is_there() {
        assert_eq!(parse_cut_off(b"250 Ok que").unwrap().to_string(), "250 Ok que");
        assert_eq!(parse_cut_off(b"250").unwrap().code(), 250);
        for open in [&b""[..], b"25", b"250-Ok", b"250-Ok\r\n", b"550-no\r\n25"] {
            assert_eq!(parse_cut_off(open), None);
        }
    }
}
