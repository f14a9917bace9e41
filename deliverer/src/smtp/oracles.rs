//! What must be true of any reply of a relay, and of any message on its way to one.

use std::collections::BTreeSet;

use outbox_config::text::is_hidden;

use super::capabilities::Capabilities;
use super::message::Content;
use super::outcome::Meaning;
use super::reply::{Parsed, Reply, parse, parse_cut_off};

/// Replies are read as a plain reading of RFC 5321 (section 4.2) has it, the same however they arrive, and shown in one
/// line of bounded length. What EHLO offers is what a plain reading finds.
pub(crate) fn reply(received: &[u8]) {
    let parsed = parse(received);
    if received.len() <= 64 * 1024 {
        match (&parsed, plainly(received)) {
            (Ok(Parsed::Complete { reply, length }), Some((code, lines, end))) => {
                assert_eq!((reply.code(), *length), (code, end));
                assert!(reply.lines().eq(lines.iter().map(String::as_str)));
            }
            (Ok(Parsed::Incomplete) | Err(_), None) => {}
            (parsed, plainly) => panic!("{parsed:?} and {plainly:?}"),
        }
    }
    // However it is cut, what came so far says the same as the whole, or nothing yet.
    for cut in (0..received.len()).step_by(received.len() / 64 + 1) {
        match (parse(&received[..cut]), &parsed) {
            (Ok(Parsed::Incomplete), _) => {
                if let Ok(Parsed::Complete { length, .. }) = parsed {
                    assert!(cut < length);
                }
            }
            (Err(_), whole) => assert!(whole.is_err()),
            (Ok(complete), whole) => assert_eq!(whole.as_ref(), Ok(&complete)),
        }
    }
    if let Some(reply) = parse_cut_off(received) {
        // Only 250 takes a mail, and a code is never made up.
        assert!(received.starts_with(reply.code().to_string().as_bytes()));
        shown(&reply);
    }
    let Ok(Parsed::Complete { reply, length }) = parsed else { return };
    assert_eq!(parse_cut_off(&received[..length]), Some(reply.clone()));
    shown(&reply);
    assert_eq!(matches!(Meaning::of(&reply), Meaning::GoOn), reply.code() < 400);
    if reply.is_positive() {
        offered(&reply);
    }
}

/// The first reply: code, texts, and where it ends; `None` if there is none, or it has no end.
fn plainly(received: &[u8]) -> Option<(u16, Vec<String>, usize)> {
    let (mut codes, mut lines, mut end) = (BTreeSet::new(), Vec::new(), 0);
    for line in received.split_inclusive(|&b| b == b'\n') {
        end += line.len();
        let line = line.strip_suffix(b"\n")?;
        let length = line.iter().rposition(|&b| b != b'\r').map_or(0, |last| last + 1);
        let line = &line[..length];
        let code = str::from_utf8(line.get(..3)?).ok()?;
        codes
            .insert(code.parse::<u16>().ok().filter(|_| code.bytes().all(|b| b.is_ascii_digit()))?);
        lines.push(String::from_utf8_lossy(line.get(4..).unwrap_or_default()).into_owned());
        match line.get(3) {
            Some(b'-') if codes.len() == 1 => {}
            Some(b' ') | None if codes.len() == 1 => {
                let code = codes.first().copied().filter(|code| (200..600).contains(code))?;
                return Some((code, lines, end));
            }
            _ => return None,
        }
    }
    None
}

fn shown(reply: &Reply) {
    let shown = reply.to_string();
    assert!(shown.starts_with(&reply.code().to_string()));
    assert!(shown.chars().count() <= 512 && !shown.contains(is_hidden), "{shown:?}");
    assert_eq!(format!("{reply:?}"), format!("Reply({shown})"));
    let secret = reply.lines().next().unwrap_or_default().get(..4).unwrap_or_default().to_owned();
    if !secret.is_empty() && !secret.contains('*') {
        assert!(reply.clone().without(&secret).lines().all(|line| !line.contains(&secret)));
    }
}

fn offered(reply: &Reply) {
    let offered = Capabilities::from_ehlo(reply);
    let lines: Vec<String> = reply.lines().skip(1).map(str::to_ascii_uppercase).collect();
    let words: Vec<Vec<&str>> =
        lines.iter().map(|line| line.split_ascii_whitespace().collect()).collect();
    let has = |keyword: &str| words.iter().any(|words| words.first() == Some(&keyword));
    assert_eq!(offered.start_tls, has("STARTTLS"));
    assert_eq!(offered.pipelining, has("PIPELINING"));
    assert_eq!(offered.eight_bit_mime, has("8BITMIME"));
    assert_eq!(offered.smtp_utf8, has("SMTPUTF8"));
    assert_eq!(offered.dsn, has("DSN"));
    assert_eq!(offered.size, has("SIZE"));
    let mechanisms: BTreeSet<&str> = words
        .iter()
        .filter_map(|words| {
            let (first, others) = words.split_first()?;
            let old = first.strip_prefix("AUTH=");
            let is_auth = *first == "AUTH" || old.is_some();
            is_auth.then(|| old.into_iter().chain(others.iter().copied()))
        })
        .flatten()
        .collect();
    assert_eq!(offered.auth_plain, mechanisms.contains("PLAIN"));
    assert_eq!(offered.auth_login, mechanisms.contains("LOGIN"));
    if let Some(limit) = offered.size_limit {
        let said = |words: &Vec<&str>| words.get(1).is_some_and(|said| said.parse() == Ok(limit));
        assert!(limit > 0 && words.iter().any(said));
    }
}

/// What goes over the wire is one mail for every server there is, and it is the message; or it is refused, and rightly.
pub(crate) fn wire(message: &[u8]) {
    let mut whole = message.to_vec();
    for (end, lacks) in [(&b"\r\n"[..], &b""[..]), (b"\r", b"\n"), (b"", b"\r\n")] {
        if whole.ends_with(end) {
            whole.extend_from_slice(lacks);
            break;
        }
    }
    let lines: Vec<&[u8]> = pieces(&whole, b"\r\n");
    let fit = |line: &&[u8]| line.len() <= 998 && !line.iter().any(|b| b"\r\n\0".contains(b));
    let encoded = Content::encode(message);
    assert_eq!(encoded.is_ok(), !message.is_empty() && lines.iter().all(fit), "{encoded:?}");
    let Ok(content) = encoded else { return };

    assert_eq!(content.size, whole.len());
    assert_eq!(content.is_eight_bit, !whole.is_ascii());
    let header = lines.iter().take_while(|line| !line.is_empty());
    assert_eq!(content.header_is_eight_bit, !header.clone().all(|line| line.is_ascii()));
    assert_eq!(&content.wire[content.final_dot_at()..], b".\r\n");

    // A strict server: a line ends with CRLF, and nothing else.
    let sent = pieces(&content.wire, b"\r\n");
    assert_eq!(sent.iter().position(|line| line == b"."), Some(sent.len() - 2), "it ends early");
    assert_eq!(sent[sent.len() - 1], b"", "something is behind the end");
    let received: Vec<u8> = sent[..sent.len() - 2]
        .iter()
        .flat_map(|line| [line.strip_prefix(b".").unwrap_or(line), b"\r\n"].concat())
        .collect();
    assert_eq!(received, whole);
    // Servers that take a CR or LF alone for the end of a line, or leave out a NUL.
    let lenient: Vec<u8> = content.wire.iter().copied().filter(|&b| b != 0).collect();
    let dots = lenient.split(|b| b"\r\n".contains(b)).filter(|line| *line == b".").count();
    assert_eq!(dots, 1, "a second mail for a lenient server");
}

/// What is between the separators.
fn pieces<'b>(bytes: &'b [u8], separator: &[u8]) -> Vec<&'b [u8]> {
    let (mut pieces, mut start, mut at) = (Vec::new(), 0, 0);
    while at + separator.len() <= bytes.len() {
        if bytes[at..].starts_with(separator) {
            pieces.push(&bytes[start..at]);
            at += separator.len();
            start = at;
        } else {
            at += 1;
        }
    }
    pieces.push(&bytes[start..]);
    pieces
}
