//! The bytes of a notification mail: bare, signed or encrypted.
//!
//! A bare mail is text, or text and an attachment in `multipart/mixed`, or text and a report (see
//! [`crate::xarf`]). What protects it is put around that by `protected`. All of it is 7-bit with
//! CRLF, and no line is longer than 998 octets (RFC 5322, 2.1.1), but that an address can bring
//! non-ASCII characters to the head (RFC 6532).

use std::borrow::Cow;
use std::fmt::{self, Write};

use jiff::Timestamp;
use mail_builder::MessageBuilder;
use mail_builder::headers::HeaderType;
use mail_builder::headers::address::Address as AddressList;
use mail_builder::headers::content_type::ContentType;
use mail_builder::headers::date::Date;
use mail_builder::headers::raw::Raw;
use mail_builder::headers::text::Text;
use mail_builder::mime::{BodyPart, MimePart};
use outbox::Ticket;
use outbox_config::text::turns_or_ends_line;

use crate::address::{Address, Mailbox};
use crate::openpgp::{EncryptError, Protection, SignError, Wrapping};
use crate::xarf::{self, Evidence, Report};

#[cfg(any(test, fuzzing))]
pub(crate) mod oracles;
mod protected;
mod quoted_printable;

#[cfg(test)]
mod report_tests;

/// The fields of a header, in order.
type Fields<'a> = Vec<(Cow<'a, str>, HeaderType<'a>)>;

/// Everything that a mail says.
#[derive(Clone, Copy, Debug)]
pub struct Letter<'a> {
    /// Whom it is from, for people.
    pub from: &'a Mailbox,
    /// Whom it is for: one address at least.
    pub to: &'a [Address],
    /// One line.
    pub subject: &'a str,
    /// The text.
    pub body: &'a str,
    /// What comes with the text.
    pub with: With<'a>,
    /// When it was composed. The header has full seconds.
    pub date: Timestamp,
    /// Its own identification.
    pub message_id: &'a MessageId,
    /// The ticket that it is known by.
    pub ticket: &'a Ticket,
}

/// What comes with a mail's text.
#[derive(Clone, Copy, Debug)]
pub enum With<'a> {
    /// Nothing.
    Nothing,
    /// A file.
    File(Attachment<'a>),
    /// A report.
    Report(&'a Report),
}

/// A file that comes with a mail.
#[derive(Clone, Copy, Debug)]
pub struct Attachment<'a> {
    /// The name it is saved under, without folders.
    pub file_name: &'a str,
    /// Its MIME type with parameters, such as `text/csv; charset=utf-8`.
    pub content_type: &'a str,
    /// The file, which arrives byte for byte.
    pub bytes: &'a [u8],
}

/// Why a mail can't be written.
#[derive(Debug, thiserror::Error)]
pub enum MailError {
    /// A header's value would end the header, or is no such value at all. Nothing is stripped:
    /// what is in the value may be an attack, and is for a person to look at.
    #[error("failed to write the header {header}: {reason} in {value:?}")]
    Header {
        /// Name of the header.
        header: &'static str,
        /// What is wrong.
        reason: String,
        /// The value, or its beginning.
        value: String,
    },
    /// It can't be signed.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// It can't be encrypted.
    #[error(transparent)]
    Encrypt(#[from] EncryptError),
    /// The system gives no random bytes for a Message-ID.
    #[error("failed to get random bytes from the system: {0}")]
    Random(getrandom::Error),
}

/// The value of the header `Message-ID`: `<ticket.random@domain>`, unique for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageId(String);

impl MessageId {
    /// A new identification for the mail with this ticket, in the domain of its sender.
    pub fn new(ticket: &Ticket, sender: &Address) -> Result<Self, MailError> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(MailError::Random)?;
        Ok(Self::with_random(ticket, sender, u64::from_be_bytes(random)))
    }

    fn with_random(ticket: &Ticket, sender: &Address, random: u64) -> Self {
        Self(format!("<{ticket}.{random:016x}@{}>", sender.domain()))
    }

    /// The value, angle brackets included.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A boundary of its own for each `kind` of multipart in the mail.
    ///
    /// It can't occur in any part, since `=_` is neither base64 nor quoted-printable (RFC 2045,
    /// 6.7), nor in any other mail's.
    fn boundary(&self, kind: &str) -> String {
        let unique = self.0.trim_start_matches('<').split('@').next().unwrap_or_default();
        format!("=_{kind}_{unique}")
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Writes a mail, signed or encrypted as `protection` says. The same letter gives the same bytes,
/// but for signature and encryption.
///
/// Fails if a header's value holds a control character or one that acts like one, or if signing or
/// encrypting fails.
pub fn compose(letter: &Letter<'_>, protection: Protection<'_>) -> Result<Vec<u8>, MailError> {
    check_headers(letter)?;
    let autocrypt = protection.autocrypt;
    let (mut fields, mut content) = (fields(letter), content(letter));
    if let With::Report(Report::Plain { .. }) = letter.with {
        let is_plain = matches!(protection.wrapping, Wrapping::None);
        if !is_plain {
            content = enclosed(letter, content)?;
        }
        fields.push(xarf(if is_plain { "PLAIN" } else { "SECURE" }));
    }
    let (mut fields, body) = protected::protect(fields, content, letter, protection)?;
    // Not among the protected ones: the header is for clients that don't know us yet, and large.
    if let Some(autocrypt) = autocrypt {
        fields.push(("Autocrypt".into(), Raw::new(autocrypt).into()));
    }
    Ok(written(fields, body))
}

fn written(fields: Fields<'_>, body: MimePart<'_>) -> Vec<u8> {
    let mut mail = MessageBuilder::new().body(body);
    mail.headers = fields;
    mail.write_to_vec().expect("a vector takes everything")
}

/// The header but for what tells of the content.
fn fields<'a>(letter: &Letter<'a>) -> Fields<'a> {
    let Letter { from, to, subject, date, message_id, ticket, .. } = *letter;
    let address = |address: &'_ Address| AddressList::from(address.as_str().to_owned());
    // White space at either end would be lost as it stands, and a tab where the field is folded.
    let fragile = subject.trim() != subject || subject.contains('\t');
    let subject: HeaderType<'a> = if fragile || subject.contains("=?") {
        Raw::new(encoded_words(subject)).into()
    } else {
        Text::new(subject).into()
    };
    let field = |name: &'static str, value: HeaderType<'a>| (Cow::from(name), value);
    let raw = |name, value: &'a str| field(name, Raw::new(value).into());
    let sender = AddressList::new_address(from.name.as_deref(), from.address.as_str());
    vec![
        field("From", sender.into()),
        field("To", AddressList::new_list(to.iter().map(address).collect()).into()),
        field("Subject", subject),
        field("Date", Date::new(date.as_second()).into()),
        raw("Message-ID", message_id.as_str()),
        raw("MIME-Version", "1.0"),
        // RFC 3834, 5: no vacation notice answers this. The next line says it to Exchange.
        raw("Auto-Submitted", "auto-generated"),
        raw("X-Auto-Response-Suppress", "All"),
        raw("X-Ticket", ticket.as_str()),
    ]
}

/// Says in the header that there is a report of X-ARF 0.2, and whether it is enclosed.
fn xarf(value: &'static str) -> (Cow<'static, str>, HeaderType<'static>) {
    ("X-XARF".into(), Raw::new(value).into())
}

/// The mail in a mail that X-ARF 0.2 signs or encrypts. It is the same mail without that, so that a
/// program can take it out and read it as if it had come so.
fn enclosed(letter: &Letter<'_>, content: MimePart<'_>) -> Result<MimePart<'static>, MailError> {
    // RFC 3156, 3: what is signed is 7-bit.
    for (header, address) in
        letter.to.iter().map(|to| ("To", to)).chain([("From", &letter.from.address)])
    {
        if !address.as_str().is_ascii() {
            let reason = "there is a character that no signed X-ARF report can carry".into();
            return Err(MailError::Header { header, reason, value: address.to_string() });
        }
    }
    let mut fields = fields(letter);
    fields.push(xarf("PLAIN"));
    let bytes = written(fields, content);
    let name = ContentType::new("message/rfc822").attribute("name", "xarf.eml");
    Ok(MimePart::new(name, BodyPart::Binary(bytes.into()))
        // RFC 2046, 5.2.1: no other encoding is allowed here.
        .transfer_encoding("7bit")
        .attachment("xarf.eml"))
}

/// Refuses what could end a header and begin another. Addresses, ticket and Message-ID are of
/// types that hold no such thing.
fn check_headers(letter: &Letter<'_>) -> Result<(), MailError> {
    let name = letter.from.name.as_deref();
    let attachment = match letter.with {
        With::File(attachment) => Some(attachment),
        With::Nothing | With::Report(_) => None,
    };
    let file_name = attachment.map(|attachment| attachment.file_name);
    let content_type = attachment.map(|attachment| attachment.content_type);
    for (header, value) in [
        ("From", name),
        ("Subject", Some(letter.subject)),
        ("Content-Disposition", file_name),
        ("Content-Type", content_type),
    ] {
        let value = value.unwrap_or_default();
        let begin = || value.chars().take(200).collect();
        let refuse = |reason| MailError::Header { header, reason, value: begin() };
        // A tab is white space there as any other (RFC 5322, 2.2.2).
        if let Some(control) = value.chars().find(|c| c.is_control() && *c != '\t') {
            return Err(refuse(format!("there is the control character {control:?}")));
        }
        // No control to Unicode, but some readers end a line there, or show the rest elsewhere.
        if let Some(c) = value.chars().find(|&c| turns_or_ends_line(c)) {
            let why = "which ends a line or turns the direction of text,";
            return Err(refuse(format!("there is the character {c:?}, {why}")));
        }
        if header == "Content-Type" && !value.is_ascii() {
            return Err(refuse("there is a character that is not ASCII".into()));
        }
    }
    Ok(())
}

/// What the mail is about: text, and what comes with it.
fn content<'a>(letter: &Letter<'a>) -> MimePart<'a> {
    let text = text(ContentType::new("text/plain"), letter.body);
    match letter.with {
        With::Nothing => text,
        With::File(Attachment { file_name, content_type, bytes }) => {
            mixed(letter, vec![text, attachment(file_name, content_type, bytes)])
        }
        With::Report(Report::Plain { yaml, evidence }) => {
            let report = ContentType::new("text/plain")
                .attribute("charset", "utf-8")
                .attribute("name", "report.txt");
            let mut parts = vec![text, self::text(report, yaml)];
            parts.extend(evidence.as_ref().map(|Evidence { content_type, bytes, .. }| {
                let is_text = content_type.starts_with("text/") && str::from_utf8(bytes).is_ok();
                let charset = if is_text { "; charset=utf-8" } else { "" };
                attachment("evidence", format!("{content_type}{charset}"), bytes)
            }));
            mixed(letter, parts)
        }
        With::Report(Report::Json(json)) => {
            // RFC 5965, 2 and 3.1, with a type of feedback that X-ARF has of its own. The empty line is
            // for programs that take it for a mail, and write it anew to check what was signed.
            let feedback = format!(
                "Feedback-Type: xarf\r\nUser-Agent: {}\r\nVersion: 1\r\n\r\n",
                xarf::USER_AGENT
            );
            let feedback = MimePart::new("message/feedback-report", feedback.into_bytes())
                .transfer_encoding("7bit")
                .inline();
            let name = "xarf.json";
            let json = attachment(name, format!("application/json; name={name}"), json.as_bytes());
            let report = ContentType::new("multipart/report")
                .attribute("report-type", "feedback-report")
                .attribute("boundary", letter.message_id.boundary("report"));
            MimePart::new(report, vec![text, feedback, json])
        }
    }
}

fn text<'a>(content_type: ContentType<'a>, text: &str) -> MimePart<'a> {
    MimePart::new(content_type, quoted_printable::encode(text))
        .transfer_encoding("quoted-printable")
}

fn mixed<'a>(letter: &Letter<'_>, parts: Vec<MimePart<'a>>) -> MimePart<'a> {
    let boundary = letter.message_id.boundary("mixed");
    MimePart::new(ContentType::new("multipart/mixed").attribute("boundary", boundary), parts)
}

fn attachment<'a>(
    file_name: &'a str,
    content_type: impl Into<Cow<'a, str>>,
    bytes: &'a [u8],
) -> MimePart<'a> {
    // Were the type not raw, mail-builder would see text and write line ends of its own choice.
    MimePart {
        headers: vec![("Content-Type".into(), Raw::new(content_type).into())],
        contents: BodyPart::Binary(bytes.into()),
    }
    .attachment(file_name)
}

/// Text as encoded words (RFC 2047, 4.2), whatever it holds.
///
/// mail-builder leaves short ASCII text alone. If that looks like an encoded word, as data from
/// outside can, a reader would decode it to something that was never checked.
fn encoded_words(text: &str) -> String {
    // Short enough that the first one fits behind the header's name.
    const ROOM: usize = 48;
    let mut words = String::new();
    let mut room = 0;
    for character in text.chars() {
        let mut encoded = String::new();
        match character {
            ' ' => encoded.push('_'),
            _ if character.is_ascii_alphanumeric() => encoded.push(character),
            _ => {
                for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                    write!(encoded, "={byte:02X}").expect("a string takes everything");
                }
            }
        }
        if room < encoded.len() {
            words.push_str(if words.is_empty() { "=?utf-8?Q?" } else { "?= =?utf-8?Q?" });
            room = ROOM;
        }
        room -= encoded.len();
        words.push_str(&encoded);
    }
    words.push_str("?=");
    words
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::process::Command;

    use serde_json::{Value, json};

    use super::*;
    use crate::openpgp::tests::Home;
    use crate::openpgp::{GpgSigner, Wrapping};

    /// Reads every mail of a folder with Python's `email`, under both of its policies, and compares
    /// it to what the file beside it says.
    const JUDGE: &str = r#"
import email, email.policy, json, pathlib, sys
from email.header import decode_header, make_header
from email.utils import getaddresses

def text_of(part):
    return part.get_payload(decode=True).decode(part.get_content_charset())

def decoded(header):
    return str(make_header(decode_header(header)))

def judge(raw, want, policy):
    mail = email.message_from_bytes(raw, policy=policy)
    assert not mail.defects, mail.defects
    subject = mail["Subject"]
    if policy is email.policy.compat32:
        subject = decoded(subject)
    assert subject == want["subject"], (subject, want["subject"])
    for name in ("From", "To"):
        if policy is email.policy.compat32:
            got = [[decoded(who), address] for who, address in getaddresses([mail[name]])]
        else:
            got = [[who.display_name, who.addr_spec] for who in mail[name].addresses]
        assert got == want[name.lower()], (got, want[name.lower()])
    for name in ("Message-ID", "X-Ticket", "Date", "MIME-Version", "Auto-Submitted", "X-Auto-Response-Suppress"):
        assert mail.get_all(name) == [want[name]], (name, mail.get_all(name))
    content = mail
    if want["signed"]:
        assert mail.get_content_type() == "multipart/signed"
        assert mail.get_param("protocol") == "application/pgp-signature"
        parts = mail.get_payload()
        assert len(parts) == 2
        content, signature = parts
        assert signature.get_content_type() == "application/pgp-signature"
        boundary = b"--" + mail.get_boundary().encode()
        first, armored = raw.split(b"\r\n" + boundary + b"\r\n")[1:3]
        assert raw.count(boundary) == 3
        armored = armored.split(b"\r\n\r\n", 1)[1].split(b"\r\n" + boundary + b"--")[0]
        path = pathlib.Path(want["path"])
        path.with_suffix(".signed").write_bytes(first)
        path.with_suffix(".asc").write_bytes(armored)
    text, files = content, []
    if want["file"] is not None:
        assert content.get_content_type() == "multipart/mixed"
        text, *files = content.get_payload()
    assert text.get_content_type() == "text/plain" and text["Content-Transfer-Encoding"] == "quoted-printable"
    assert text_of(text) == want["body"], (text_of(text), want["body"])
    if policy is email.policy.default:
        assert text.get_content() == want["body"]
    assert len(files) == (want["file"] is not None)
    for file in files:
        assert file.get_filename() == want["file"]["name"], (file.get_filename(), want["file"])
        assert file.get_content_disposition() == "attachment"
        assert file["Content-Type"].replace('"', '') == want["file"]["type"]
        assert file["Content-Transfer-Encoding"] == "base64"
        assert file.get_payload(decode=True) == bytes(want["file"]["bytes"])

count = 0
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.eml")):
    want = json.loads(path.with_suffix(".json").read_text())
    raw = path.read_bytes()
    for policy in (email.policy.default, email.policy.compat32, email.policy.SMTP):
        try:
            judge(raw, want | {"path": str(path)}, policy)
        except Exception as error:
            sys.exit(f"{path.name}: line {error.__traceback__.tb_next and error.__traceback__.tb_next.tb_lineno}: {type(error).__name__}: {error}")
    count += 1
print(count)
"#;

    fn signed(signer: &mut GpgSigner) -> Protection<'_> {
        Protection { wrapping: Wrapping::Signature(signer), ..Protection::default() }
    }

    /// Sends letters to the judge.
    struct Court {
        folder: tempfile::TempDir,
        mails: usize,
    }

    impl Court {
        fn new() -> Self {
            Self { folder: tempfile::tempdir().unwrap(), mails: 0 }
        }

        fn path(&self, mail: usize, extension: &str) -> std::path::PathBuf {
            self.folder.path().join(format!("{mail:05}.{extension}"))
        }

        fn add(&mut self, letter: &Letter<'_>, protection: Protection<'_>) -> Vec<u8> {
            let is_signed = matches!(protection.wrapping, Wrapping::Signature(_));
            let mail = compose(letter, protection).unwrap();
            assert_fit_for_the_wire(&mail);
            let to: Vec<_> = letter.to.iter().map(|to| ["", to.as_str()]).collect();
            let name = letter.from.name.as_deref().unwrap_or_default();
            let file = match letter.with {
                With::Nothing => None,
                With::File(file) => Some(file),
                With::Report(_) => panic!("the judge knows no reports"),
            };
            let file = file.map(|file| {
                json!({"name": file.file_name, "type": file.content_type, "bytes": file.bytes})
            });
            let expected = json!({
                "signed": is_signed,
                "subject": letter.subject,
                "from": [[name, letter.from.address.as_str()]],
                "to": to,
                "body": letter.body.replace("\r\n", "\n").replace('\n', "\r\n"),
                "file": file.unwrap_or(Value::Null),
                "Date": "Wed, 25 Nov 2026 06:07:08 +0000",
                "Message-ID": letter.message_id.as_str(),
                "X-Ticket": letter.ticket.as_str(),
                "MIME-Version": "1.0",
                "Auto-Submitted": "auto-generated",
                "X-Auto-Response-Suppress": "All",
            });
            fs::write(self.path(self.mails, "eml"), &mail).unwrap();
            fs::write(self.path(self.mails, "json"), expected.to_string()).unwrap();
            self.mails += 1;
            mail
        }

        fn judge(&self) {
            let folder = self.folder.path().to_str().unwrap();
            let out = Command::new("python3").args(["-c", JUDGE, folder]).output().unwrap();
            let (said, failed) =
                (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
            assert!(out.status.success(), "{failed}");
            assert_eq!(said.trim(), self.mails.to_string());
        }
    }

    #[track_caller]
    pub(super) fn assert_fit_for_the_wire(mail: &[u8]) {
        assert!(mail.is_ascii() && !mail.contains(&0));
        assert!(mail.ends_with(b"\r\n"));
        let text = str::from_utf8(mail).unwrap();
        for line in text.split("\r\n") {
            assert!(line.len() <= 998 && !line.contains(['\r', '\n']), "{line:?}");
            assert!(!line.starts_with("From ") && !line.starts_with('.'), "{line:?}");
        }
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(body.split("\r\n").all(|line| line.len() <= 78));
        for word in head.split_ascii_whitespace().filter(|word| word.starts_with("=?")) {
            assert!(word.len() <= 75, "{word}");
        }
    }

    fn verify(home: &Path, court: &Court, mail: usize) -> bool {
        Command::new("gpg")
            .arg("--homedir")
            .arg(home)
            .args(["--batch", "--verify"])
            .args([court.path(mail, "asc"), court.path(mail, "signed")])
            .output()
            .unwrap()
            .status
            .success()
    }

    /// What a test needs around its letter.
    pub(super) struct Desk {
        from: Mailbox,
        pub(super) to: Vec<Address>,
        ticket: Ticket,
        message_id: MessageId,
    }

    impl Desk {
        pub(super) fn new() -> Self {
            let from: Mailbox = "CERT Example <noreply@cert.example>".parse().unwrap();
            let ticket = "20261125-10000042".parse().unwrap();
            let message_id = MessageId::with_random(&ticket, &from.address, 0x0123_4567_89ab_cdef);
            Self { to: vec!["abuse@isp.example".parse().unwrap()], from, ticket, message_id }
        }

        pub(super) fn letter<'a>(&'a self, subject: &'a str, body: &'a str) -> Letter<'a> {
            Letter {
                from: &self.from,
                to: &self.to,
                subject,
                body,
                with: With::Nothing,
                date: "2026-11-25T06:07:08.999Z".parse().unwrap(),
                message_id: &self.message_id,
                ticket: &self.ticket,
            }
        }
    }

    fn csv<'a>(file_name: &'a str, bytes: &'a [u8]) -> With<'a> {
        With::File(Attachment { file_name, content_type: "text/csv; charset=utf-8", bytes })
    }

    const BODIES: [&str; 14] = [
        "Dear colleagues,\n\nplease see below.\n",
        "Grüße, \u{1f600} 例え\n",
        "From here on\nFrom there\n\nFrom \n",
        "trailing \ntabs\t\n \n\t\n",
        ".\n..\n.a\n\n.\n",
        "-- \nCERT Example\n",
        "",
        "\n",
        "no line end",
        "bare\rCR, CRLF\r\nand LF\n\r\r\n",
        "=3D =?utf-8?Q?x?= =\n",
        "--=_mixed_20261125-10000042.0123456789abcdef\n--=_signed_20261125-10000042.0123456789abcdef--\n",
        "nul \0 escape \u{1b}[31m del \u{7f} nel \u{85} ls \u{2028}\n",
        "\u{feff}bom\n",
    ];

    const NAMES: [&str; 6] = [
        "events.csv",
        "a-name-of-exactly-forty-characters-12.csv",
        "Ereignisse für Müller & Söhne – Übersicht.csv",
        "quote\" and \\ backslash; semi.csv",
        "a name that is so long that it needs continuations since it has more than seventy-eight characters.csv",
        "例え.csv",
    ];

    #[test]
    fn python_reads_what_was_written_and_gpg_finds_it_signed() {
        let home = Home::with_key("Judge <judge@cert.example>");
        let mut signer = GpgSigner::open(Some(home.path()), "judge@cert.example").unwrap();
        let desk = Desk::new();
        let mut court = Court::new();
        let long_line = "x".repeat(3000) + "\n";
        let long_words = "lang wörd ".repeat(300);
        let bodies = BODIES.iter().copied().chain([long_line.as_str(), &long_words]);
        let every_byte: Vec<u8> = (0..=255).collect();
        let data = [b"".as_slice(), b"\"a\"\r\n\"b\nc\"\r\n", &every_byte, "\"ü\"\r\n".as_bytes()];

        let mut mails = Vec::new();
        for (index, body) in bodies.enumerate() {
            for name in [None, Some(NAMES[index % NAMES.len()])] {
                let mut letter = desk.letter("CB-Report#20261125-10000042", body);
                letter.with =
                    name.map_or(With::Nothing, |name| csv(name, data[index % data.len()]));
                court.add(&letter, Protection::default());
                let mail = court.add(&letter, signed(&mut signer));
                assert!(String::from_utf8(mail).unwrap().contains("micalg=\"pgp-sha256\""));
                mails.push(court.mails - 1);
            }
        }
        court.judge();
        for mail in &mails {
            assert!(verify(home.path(), &court, *mail), "mail {mail}");
        }
        let path = court.path(mails[0], "signed");
        let mut changed = fs::read(&path).unwrap();
        *changed.last_mut().unwrap() ^= 1;
        fs::write(path, changed).unwrap();
        assert!(!verify(home.path(), &court, mails[0]), "a change is found");
    }

    #[test]
    fn subjects_of_every_kind_arrive() {
        let desk = Desk::new();
        let mut court = Court::new();
        let long = "Sicherheitsmeldung über Geräte im Netz ".repeat(8);
        let words = "report ".repeat(60);
        for subject in [
            "",
            "plain",
            "Meldung für AS 64496",
            "例え".repeat(150).trim(),
            long.trim(),
            words.trim(),
            &"x".repeat(300),
            &"ä".repeat(300),
            "=?utf-8?B?DQpCY2M6IGV2aWxAZXhhbXBsZS5vcmc=?=",
            &format!("=?x {}", "ä?=_".repeat(40)),
            "two  spaces   and a (comment) \"quoted\" <x@y.example>, b: c;",
            "\u{1f600}".repeat(75).as_str(),
            " leading",
            "\ttabs \t in it\t",
            "trailing ",
            "\u{a0}no break\u{a0}",
            &"a\tb".repeat(60),
        ] {
            court.add(&desk.letter(subject, "b\n"), Protection::default());
        }
        court.judge();
    }

    #[test]
    fn senders_and_recipients_of_every_kind_arrive() {
        let mut court = Court::new();
        for (from, to) in [
            ("noreply@cert.example", "a@isp.example"),
            (
                "\"Müller, \\\"Q\\\" \\\\ CERT\" <noreply@cert.example>",
                "a@isp.example,b@isp.example",
            ),
            ("国家 CERT <noreply@bücher.example>", "abuse@bücher.example"),
        ] {
            let desk = Desk {
                from: from.parse().unwrap(),
                to: crate::address::recipients(to).unwrap(),
                ..Desk::new()
            };
            court.add(&desk.letter("s", "b\n"), Protection::default());
        }
        let many: Vec<_> =
            (0..200).map(|i| format!("abuse-{i}@isp.example").parse().unwrap()).collect();
        let desk = Desk { to: many, ..Desk::new() };
        court.add(&desk.letter("s", "b\n"), Protection::default());
        court.judge();
    }

    #[test]
    fn a_local_part_that_is_not_ascii_stands_in_the_head_as_it_is() {
        let desk = Desk { to: vec!["grüße@isp.example".parse().unwrap()], ..Desk::new() };
        let mail =
            String::from_utf8(compose(&desk.letter("s", "b\n"), Protection::default()).unwrap())
                .unwrap();
        assert!(mail.contains("\r\nTo: <grüße@isp.example>\r\n"));
    }

    #[test]
    fn random_bodies_arrive() {
        let desk = Desk::new();
        let mut court = Court::new();
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state >> 33).unwrap() % below
        };
        let stuff = [
            "From ",
            ".",
            "-- ",
            "=",
            " ",
            "\t",
            "\n",
            "\r\n",
            "\r",
            "x",
            "word",
            "ü",
            "€",
            "\u{1f600}",
            "\0",
            "From",
            "\n.\n",
            "--=_",
            "=3D",
            "?",
            "_",
        ];
        for _ in 0..300 {
            let body: String = (0..random(400)).map(|_| stuff[random(stuff.len())]).collect();
            court.add(&desk.letter("s", &body), Protection::default());
        }
        court.judge();
    }

    #[test]
    fn the_same_letter_gives_the_same_bytes() {
        let desk = Desk::new();
        let mut letter = desk.letter("Meldung über alles", "body\n");
        letter.with = csv("events.csv", b"\"a\"\r\n");
        assert_eq!(
            compose(&letter, Protection::default()).unwrap(),
            compose(&letter, Protection::default()).unwrap()
        );
    }

    #[test]
    fn the_whole_of_a_mail_with_an_attachment() {
        let desk = Desk::new();
        let mut letter = desk.letter("CB-Report#20261125-10000042", "See the file.\n");
        letter.with = csv("events.csv", b"\"asn\"\r\n");
        let expected = "\
From: \"CERT Example\" <noreply@cert.example>
To: <abuse@isp.example>
Subject: CB-Report#20261125-10000042
Date: Wed, 25 Nov 2026 06:07:08 +0000
Message-ID: <20261125-10000042.0123456789abcdef@cert.example>
MIME-Version: 1.0
Auto-Submitted: auto-generated
X-Auto-Response-Suppress: All
X-Ticket: 20261125-10000042
Content-Type: multipart/mixed;
 boundary=\"=_mixed_20261125-10000042.0123456789abcdef\"

--=_mixed_20261125-10000042.0123456789abcdef
Content-Type: text/plain; charset=\"utf-8\"
Content-Transfer-Encoding: quoted-printable

See the file.

--=_mixed_20261125-10000042.0123456789abcdef
Content-Type: text/csv; charset=utf-8
Content-Disposition: attachment; filename=\"events.csv\"
Content-Transfer-Encoding: base64

ImFzbiINCg==

--=_mixed_20261125-10000042.0123456789abcdef--
";
        let mail = String::from_utf8(compose(&letter, Protection::default()).unwrap()).unwrap();
        assert_eq!(mail, expected.replace('\n', "\r\n"));
    }

    #[test]
    fn a_control_character_in_a_header_is_refused_and_the_header_named() {
        let desk = Desk::new();
        let fails = |letter: &Letter<'_>, header: &str| {
            let message = compose(letter, Protection::default()).unwrap_err().to_string();
            let begin = format!("failed to write the header {header}: there is ");
            assert!(message.starts_with(&begin), "{message}");
            assert!(!message.contains(char::is_control), "fit for a log: {message}");
        };
        for hostile in [
            "a\r\nBcc: x@evil.example",
            "a\nb",
            "a\rb",
            "a\0b",
            "a\u{1b}[2Jb",
            "a\u{85}b",
            "a\u{2028}Bcc: x@evil.example",
            "a\u{2029}b",
            "a.\u{202e}exe",
            "a\u{2066}b",
        ] {
            fails(&desk.letter(hostile, "b\n"), "Subject");

            let from = Mailbox { name: Some(hostile.into()), ..desk.from.clone() };
            fails(&Letter { from: &from, ..desk.letter("s", "b\n") }, "From");

            let attached = |file_name, content_type| {
                let with = With::File(Attachment { file_name, content_type, bytes: b"" });
                Letter { with, ..desk.letter("s", "b\n") }
            };
            fails(&attached(hostile, "text/csv"), "Content-Disposition");
            fails(&attached("events.csv", hostile), "Content-Type");
        }
        let with = With::File(Attachment { file_name: "e", content_type: "text/ü", bytes: b"" });
        fails(&Letter { with, ..desk.letter("s", "b\n") }, "Content-Type");
        compose(&desk.letter("a\tb", "b\n"), Protection::default()).expect("a tab is white space");
        let marks = "\u{200e}שלום\u{200f} \u{1f469}\u{200d}\u{1f4bb}";
        compose(&desk.letter(marks, "b\n"), Protection::default()).expect("some scripts need them");
    }

    #[test]
    fn a_message_id_is_of_the_ticket_and_the_senders_domain_and_new_each_time() {
        let ticket: Ticket = "20261125-10000042".parse().unwrap();
        let sender: Address = "noreply@bücher.example".parse().unwrap();
        let id = MessageId::new(&ticket, &sender).unwrap();
        assert!(id.as_str().starts_with("<20261125-10000042."));
        assert!(id.as_str().ends_with("@xn--bcher-kva.example>"));
        assert_ne!(id, MessageId::new(&ticket, &sender).unwrap());
        assert!(id.boundary("signed").len() <= 70, "RFC 2046, 5.1.1");
    }

    #[test]
    fn a_table_of_megabytes_arrives() {
        let desk = Desk::new();
        let row = "\"64496\",\"192.0.2.1\",\"2026-02-01 06:00:11\",\"Müller\"\r\n";
        let table = row.repeat((4 << 20) / row.len());
        let mut letter = desk.letter("s", &table);
        letter.with = csv("events.csv", table.as_bytes());
        assert_fit_for_the_wire(&compose(&letter, Protection::default()).unwrap());
    }
}
