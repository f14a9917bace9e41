//! The bytes of a mail as the strictest reader wants them, and of a conversation with a relay as
//! lenient ones take them.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::spawn;

use jiff::Timestamp;
use jiff::fmt::rfc2822;

/// Every field that a header of ours can have, each once at most.
const FIELDS: [&str; 13] = [
    "From",
    "To",
    "Subject",
    "Date",
    "Message-ID",
    "MIME-Version",
    "Auto-Submitted",
    "X-Auto-Response-Suppress",
    "X-Ticket",
    "X-XARF",
    "Autocrypt",
    "Content-Type",
    "Content-Transfer-Encoding",
];

/// What is wrong with a mail's bytes by RFC 5322 and RFC 5321, by what SMTP servers were made to
/// misread, and by what our mails are to look like; `None` if nothing is.
///
/// `utf8` allows a header that is not ASCII (RFC 6532).
pub fn fault(mail: &[u8], ticket: &str, domain: &str, utf8: bool) -> Option<String> {
    let Ok(text) = str::from_utf8(mail) else { return Some("it is not UTF-8".into()) };
    if !text.ends_with("\r\n") {
        return Some("it does not end in CRLF".into());
    }
    for line in text.split("\r\n") {
        let why = if line.contains(['\r', '\n']) {
            "a bare CR or LF"
        } else if line.len() > 998 {
            "more than 998 octets"
        } else if line.starts_with('.') {
            "a dot at its beginning"
        } else if line.starts_with("From ") {
            "From at its beginning"
        } else if line.contains(|c: char| c.is_ascii_control() && c != '\t') {
            "a control character"
        } else {
            continue;
        };
        return Some(format!("a line with {why}: {line:?}"));
    }
    let Some((header, body)) = text.split_once("\r\n\r\n") else {
        return Some("no empty line ends the header".into());
    };
    if !body.is_ascii() || !(utf8 || header.is_ascii()) {
        return Some("there is a character that is not ASCII".into());
    }
    let unfolded = header.replace("\r\n ", " ").replace("\r\n\t", "\t");
    let mut fields = Vec::new();
    for line in unfolded.split("\r\n") {
        match line.split_once(": ").or_else(|| Some((line.strip_suffix(':')?, ""))) {
            Some((name, value)) if FIELDS.contains(&name) => fields.push((name, value)),
            _ => return Some(format!("a line of the header that is none of ours: {line:?}")),
        }
    }
    for name in FIELDS {
        let count = fields.iter().filter(|(found, _)| *found == name).count();
        let wanted = !matches!(name, "X-XARF" | "Autocrypt" | "Content-Transfer-Encoding");
        if count > 1 || (wanted && count == 0) {
            return Some(format!("{name} is there {count} times: {header}"));
        }
    }
    let value = |name| fields.iter().find(|(found, _)| *found == name).map_or("", |(_, it)| it);
    let date: Result<Timestamp, _> = rfc2822::DateTimeParser::new().parse_timestamp(value("Date"));
    let id = value("Message-ID").strip_prefix('<').and_then(|id| id.strip_suffix('>'));
    let random = id
        .and_then(|id| id.strip_prefix(ticket)?.strip_prefix('.')?.strip_suffix(domain))
        .and_then(|random| random.strip_suffix('@'));
    let hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    if date.is_err() {
        return Some(format!("a Date that is none: {:?}", value("Date")));
    }
    if !random.is_some_and(|random| random.len() == 16 && random.chars().all(hex)) {
        return Some(format!("a Message-ID that is not ours: {:?}", value("Message-ID")));
    }
    if value("X-Ticket") != ticket {
        return Some(format!("the ticket {:?}", value("X-Ticket")));
    }
    None
}

// ---- What a relay hears ----

/// Stands between the deliverer and a relay, and keeps every octet that the deliverer said.
#[derive(Debug)]
pub struct Recorder {
    port: u16,
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Recorder {
    /// Listens on a port of its own, and passes all on to the relay on `port`. Its thread ends with
    /// the test process.
    pub fn before(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let recorder = Self {
            port: listener.local_addr().expect("it is bound").port(),
            heard: Arc::default(),
        };
        let heard = Arc::clone(&recorder.heard);
        spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let relay = TcpStream::connect(("127.0.0.1", port)).expect("the relay is there");
                let number = {
                    let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
                    heard.push(Vec::new());
                    heard.len() - 1
                };
                let (from, to) = (clone(&relay), clone(&client));
                spawn(move || copy(from, to, |_| ()));
                let heard = Arc::clone(&heard);
                spawn(move || {
                    copy(client, relay, |bytes| {
                        let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
                        heard[number].extend_from_slice(bytes);
                    });
                });
            }
        });
        recorder
    }

    /// What goes into `smtp.port`.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// All that was said, by connection.
    pub fn heard(&self) -> Vec<Vec<u8>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn clone(socket: &TcpStream) -> TcpStream {
    socket.try_clone().expect("a socket can be shared")
}

fn copy(mut from: TcpStream, mut to: TcpStream, mut see: impl FnMut(&[u8])) {
    let mut buffer = vec![0; 65536];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        see(&buffer[..count]);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// What a server takes for the end of a line.
#[derive(Clone, Copy, Debug)]
pub enum Reading {
    /// CRLF alone, as RFC 5321 has it.
    Strict,
    /// LF, with or without a CR before it: Postfix and Sendmail of old.
    BareLf,
    /// CR, LF or both.
    BareCr,
    /// The same, without a NUL anywhere.
    WithoutNul,
    /// A line ends with CRLF, and the mail with a dot between any two of CR, LF and CRLF: Exim of old.
    AnyDot,
}

/// All of them.
pub const READINGS: [Reading; 5] =
    [Reading::Strict, Reading::BareLf, Reading::BareCr, Reading::WithoutNul, Reading::AnyDot];

/// What a server makes of all that a client said on one connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Understood {
    /// The commands, but for the mails.
    pub commands: Vec<String>,
    /// The mails, without the dots that SMTP adds, each line with CRLF.
    pub mails: Vec<Vec<u8>>,
}

/// Reads what a client said.
pub fn understand(said: &[u8], reading: Reading) -> Understood {
    let mut understood = Understood::default();
    let mut mail: Option<Vec<u8>> = None;
    for line in lines(said, reading) {
        let Some(open) = &mut mail else {
            let command = String::from_utf8_lossy(&line).into_owned();
            if command.eq_ignore_ascii_case("DATA") {
                mail = Some(Vec::new());
            }
            understood.commands.push(command);
            continue;
        };
        if line == b"." {
            understood.mails.extend(mail.take());
            continue;
        }
        open.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
        open.extend_from_slice(b"\r\n");
    }
    // One that never ended.
    understood.mails.extend(mail);
    understood
}

fn lines(said: &[u8], reading: Reading) -> Vec<Vec<u8>> {
    let said: Vec<u8> = match reading {
        Reading::WithoutNul => said.iter().copied().filter(|&byte| byte != 0).collect(),
        _ => said.to_vec(),
    };
    let (mut lines, mut line, mut at) = (Vec::new(), Vec::new(), 0);
    while at < said.len() {
        let rest = &said[at..];
        let end = match reading {
            _ if rest.starts_with(b"\r\n") => 2,
            Reading::BareLf if rest[0] == b'\n' => 1,
            Reading::BareCr | Reading::WithoutNul if matches!(rest[0], b'\r' | b'\n') => 1,
            // Around a lone dot alone.
            Reading::AnyDot if matches!(rest[0], b'\r' | b'\n') => {
                let ends = |byte: Option<&u8>| matches!(byte, Some(b'\r' | b'\n'));
                let before = rest.get(1) == Some(&b'.') && ends(rest.get(2));
                usize::from(before || line == b".")
            }
            _ => 0,
        };
        if end == 0 {
            line.push(rest[0]);
            at += 1;
        } else {
            lines.push(std::mem::take(&mut line));
            at += end;
        }
    }
    if !line.is_empty() {
        lines.push(line);
    }
    lines
}
