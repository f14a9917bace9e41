//! What protects a mail: a signature (RFC 3156, 5), or encryption with a signature inside or without
//! (RFC 3156, 4 and 6.2), and the header within it (RFC 9788).
//!
//! A content that is signed is serialised once, and those very bytes are both signed and written.

use std::borrow::Cow;

use mail_builder::headers::content_type::ContentType;
use mail_builder::headers::raw::Raw;
use mail_builder::headers::text::Text;
use mail_builder::headers::{Header, HeaderType};
use mail_builder::mime::{BodyPart, MimePart};

use super::{Fields, Letter, MailError, MessageId, quoted_printable};
use crate::openpgp::{Encryption, Protection, Signer, Wrapping};

/// What stands in the place of a subject that is encrypted (RFC 9788, 3.2.1).
const HIDDEN: &str = "[...]";

/// Wraps the content. Gives the header as it then is, and the body.
pub(super) fn protect<'a>(
    mut fields: Fields<'a>,
    mut content: MimePart<'a>,
    letter: &Letter<'_>,
    protection: Protection<'_>,
) -> Result<(Fields<'a>, MimePart<'a>), MailError> {
    let id = letter.message_id;
    let body = match protection.wrapping {
        Wrapping::None => content,
        Wrapping::Signature(signer) => {
            if protection.headers {
                put_inside(&fields, "clear", &mut content);
            }
            signed(content, id, signer)?
        }
        Wrapping::Encryption(encryption) => {
            if protection.headers {
                put_inside(&fields, "cipher", &mut content);
                show_subject(letter.subject, &mut content);
                hide_subject(&mut fields);
                tell_outside(&fields, &mut content);
            }
            encrypted(content, id, encryption)?
        }
    };
    Ok((fields, body))
}

/// Puts the content and its signature in `multipart/signed`.
fn signed(
    content: MimePart<'_>,
    id: &MessageId,
    signer: &mut dyn Signer,
) -> Result<MimePart<'static>, MailError> {
    let bytes = serialised(content);
    let signature = signer.sign(&bytes)?;
    let signature_part = MimePart::new(
        ContentType::new("application/pgp-signature").attribute("name", "signature.asc"),
        armor(&signature.armored),
    )
    .transfer_encoding("7bit");
    Ok(MimePart::new(
        ContentType::new("multipart/signed")
            .attribute("protocol", "application/pgp-signature")
            .attribute("micalg", signature.micalg)
            .attribute("boundary", id.boundary("signed")),
        vec![MimePart::raw(BodyPart::Binary(bytes.into())), signature_part],
    ))
}

/// Puts the content into `multipart/encrypted`.
fn encrypted(
    content: MimePart<'_>,
    id: &MessageId,
    mut encryption: Encryption<'_>,
) -> Result<MimePart<'static>, MailError> {
    let armored = encryption.encrypt(&serialised(content))?;
    let binary = |text: &'static [u8]| BodyPart::Binary(text.into());
    let version = MimePart::new("application/pgp-encrypted", binary(b"Version: 1\r\n"))
        .transfer_encoding("7bit");
    let message = MimePart::new(
        ContentType::new("application/octet-stream").attribute("name", "encrypted.asc"),
        armor(&armored),
    )
    .transfer_encoding("7bit");
    Ok(MimePart::new(
        ContentType::new("multipart/encrypted")
            .attribute("protocol", "application/pgp-encrypted")
            .attribute("boundary", id.boundary("encrypted")),
        vec![version, message],
    ))
}

fn serialised(content: MimePart<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    content.write_part(&mut bytes);
    bytes
}

/// ASCII armour with the line ends of a mail.
fn armor(armored: &[u8]) -> BodyPart<'static> {
    let armored = String::from_utf8_lossy(armored);
    let armored: String = armored.lines().flat_map(|line| [line, "\r\n"]).collect();
    BodyPart::Binary(armored.into_bytes().into())
}

/// The fields that are protected: all that do not tell of the content itself (RFC 9788, 1.7).
fn protectable<'f, 'a>(
    fields: &'f Fields<'a>,
) -> impl Iterator<Item = &'f (Cow<'a, str>, HeaderType<'a>)> {
    fields.iter().filter(|(name, _)| name != "MIME-Version")
}

/// Writes a header into the content's own, and says so: `clear` if what is outside says the same,
/// `cipher` if it is encrypted (RFC 9788, 2.1).
fn put_inside<'a>(fields: &Fields<'a>, hp: &'static str, content: &mut MimePart<'a>) {
    mark(content, "hp", hp);
    content.headers.splice(0..0, protectable(fields).cloned());
}

/// Gives a part's content type another parameter.
fn mark(part: &mut MimePart<'_>, name: &'static str, value: &'static str) {
    for (_, field) in part.headers.iter_mut().filter(|(name, _)| name == "Content-Type") {
        match field {
            HeaderType::ContentType(kind) => kind.attributes.push((name.into(), value.into())),
            HeaderType::Raw(text) => {
                text.raw = format!("{}; {name}=\"{value}\"", text.raw).into();
            }
            _ => (),
        }
    }
}

/// Lets the text begin with the subject, for clients that don't know protected headers. Those that
/// do leave it out (RFC 9788, 2.1.2).
fn show_subject(subject: &str, part: &mut MimePart<'_>) {
    match &mut part.contents {
        // The first part is the one that people read.
        BodyPart::Multipart(parts) => {
            if let Some(first) = parts.first_mut() {
                show_subject(subject, first);
            }
        }
        BodyPart::Text(text) => {
            *text = (quoted_printable::encode(&format!("Subject: {subject}\n\n")) + text).into();
            mark(part, "hp-legacy-display", "1");
        }
        BodyPart::Binary(_) => (),
    }
}

/// The policy for what can be read on the way that RFC 9788 asks for, `hcp_baseline` (3.2.1): of
/// our fields it is about the subject alone.
fn hide_subject(fields: &mut Fields<'_>) {
    for (_, value) in fields.iter_mut().filter(|(name, _)| name == "Subject") {
        *value = Text::new(HIDDEN).into();
    }
}

/// Tells inside what stands outside, so that a reader knows what was not encrypted (RFC 9788, 2.2).
fn tell_outside(fields: &Fields<'_>, content: &mut MimePart<'_>) {
    let told = protectable(fields).map(|(name, value)| {
        let mut written = Vec::new();
        value.write_header(&mut written, name.len() + 2);
        // It is folded anew, behind another name.
        let value = String::from_utf8_lossy(&written).replace("\r\n", "");
        ("HP-Outer".into(), Raw::new(format!("{name}: {value}")).into())
    });
    content.headers.extend(told.collect::<Vec<_>>());
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use serde_json::json;

    use super::super::tests::{Desk, assert_fit_for_the_wire};
    use super::super::{Attachment, With, compose, fields};
    use super::*;
    use crate::openpgp::OpenPgp;
    use crate::openpgp::tests::Home;
    use crate::xarf::Report;

    /// Reads mails with the recipients' keys. See there.
    const JUDGE: &str = include_str!("judge_protected.py");

    /// The sender's home, the recipients' (who trust it), and the mails to judge.
    struct Court {
        ours: Home,
        theirs: Home,
        key: String,
        folder: tempfile::TempDir,
        mails: usize,
    }

    impl Court {
        fn new() -> Self {
            let (ours, theirs) = (Home::new(), Home::new());
            let key = ours.add("CERT Example <noreply@cert.example>");
            for user in ["abuse@isp.example", "copy@cert.example", "grüße@isp.example"] {
                theirs.add(user);
            }
            theirs.give_to(&ours);
            ours.give_to(&theirs);
            Self { ours, theirs, key, folder: tempfile::tempdir().unwrap(), mails: 0 }
        }

        fn openpgp(&self, always_sign: bool, more: &str) -> OpenPgp {
            let settings = format!(
                r#"{{"always_sign": {always_sign}, "gnupg_home": {:?}, "signing_key": "{}"{more}}}"#,
                self.ours.path(),
                self.key
            );
            let sender = "noreply@cert.example".parse().unwrap();
            OpenPgp::open(&serde_json::from_str(&settings).unwrap(), &sender).unwrap()
        }

        /// Composes a mail, and notes what a receiver must find in it.
        fn add(
            &mut self,
            openpgp: &mut OpenPgp,
            (subject, body): (&str, &str),
            file: Option<Attachment<'_>>,
            expected: serde_json::Value,
        ) -> String {
            let desk = Desk::new();
            let mut letter = desk.letter(subject, body);
            letter.with = file.map_or(With::Nothing, With::File);
            let mail = compose(&letter, openpgp.protection(None, &desk.to).unwrap()).unwrap();
            assert_fit_for_the_wire(&mail);
            let files = file.map(|file| String::from_utf8_lossy(file.bytes).into_owned());
            let mut expected = expected;
            expected["subject"] = subject.into();
            expected["body"] = body.into();
            expected["files"] = json!(Vec::from_iter(files));
            let path = self.folder.path().join(format!("{:03}.eml", self.mails));
            fs::write(&path, &mail).unwrap();
            fs::write(path.with_extension("json"), expected.to_string()).unwrap();
            self.mails += 1;
            String::from_utf8(mail).unwrap()
        }

        fn judge(&self) {
            let out = Command::new("python3")
                .args(["-c", JUDGE])
                .args([self.folder.path(), self.theirs.path()])
                .output()
                .unwrap();
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            assert_eq!(String::from_utf8_lossy(&out.stdout).trim(), self.mails.to_string());
        }
    }

    const SUBJECTS: [&str; 5] = [
        "[CERT#20261125-10000042] Open SNMP in AS 64496",
        "Meldung über hidden words",
        "=?utf-8?B?aGlkZGVu?= hidden words",
        "a subject with hidden words that is so long that it has to be folded once or even twice before it ends",
        "",
    ];

    const BODIES: [&str; 3] =
        ["Dear hidden words,\n\nplease see.\n", "From here\n.\n-- \nGrüße \n", "no line end"];

    #[test]
    fn what_is_protected_arrives_and_is_hidden_on_the_way() {
        let mut court = Court::new();
        let bytes = "\"hidden words\",\"ü\"\r\n".as_bytes();
        let table = Attachment { file_name: "events.csv", content_type: "text/csv", bytes };
        let key = court.key.clone();
        for (sign, encrypt, headers) in [
            (false, "never", false),
            (false, "never", true),
            (true, "never", false),
            (true, "never", true),
            (false, "always", false),
            (false, "always", true),
            (true, "if-key", false),
            (true, "always", true),
        ] {
            let more = format!(r#", "encrypt": "{encrypt}", "protected_headers": {headers}"#);
            let mut openpgp = court.openpgp(sign, &more);
            let (wrapping, hp) = match (sign, encrypt) {
                (false, "never") => ("none", None),
                (true, "never") => ("signature", headers.then_some("clear")),
                _ => ("encryption", headers.then_some("cipher")),
            };
            let expected = json!({
                "wrapping": wrapping,
                "hp": hp,
                "signed_by": if sign { vec![&key] } else { vec![] },
                // The recipient's, and our own.
                "keys": 2,
            });
            for (index, subject) in SUBJECTS.into_iter().enumerate() {
                let file = (index % 2 > 0).then_some(table);
                let letter = (subject, BODIES[index % BODIES.len()]);
                let mail = court.add(&mut openpgp, letter, file, expected.clone());
                if hp == Some("cipher") {
                    assert!(!mail.contains("hidden"), "{mail}");
                }
            }
        }
        court.judge();
    }

    #[test]
    fn any_content_can_say_that_its_header_is_protected() {
        let message = || BodyPart::Binary(b"Subject: inner\r\n\r\ntext\r\n".as_slice().into());
        let kind = || ContentType::new("message/rfc822").attribute("name", "xarf.eml");
        let raw = HeaderType::from(Raw::new("message/rfc822; name=\"xarf.eml\""));
        let desk = Desk::new();
        for kind in [kind().into(), raw] {
            let mut part =
                MimePart { headers: vec![("Content-Type".into(), kind)], contents: message() }
                    .transfer_encoding("7bit");
            put_inside(&fields(&desk.letter("outer", "")), "clear", &mut part);
            let text = String::from_utf8(serialised(part)).unwrap();
            assert!(
                text.starts_with("From: \"CERT Example\" <noreply@cert.example>\r\n"),
                "{text}"
            );
            assert!(text.contains("\r\nSubject: outer\r\n"), "{text}");
            let kind = "\r\nContent-Type: message/rfc822; name=\"xarf.eml\"; hp=\"clear\"\r\n";
            assert!(text.contains(kind), "{text}");
            assert!(text.ends_with("\r\n\r\nSubject: inner\r\n\r\ntext\r\n"), "{text}");
        }
    }

    #[test]
    fn an_encrypted_report_of_x_arf_0_2_encloses_a_plain_one() {
        let court = Court::new();
        let report = Report::Plain { yaml: "---\nCategory: \"abuse\"\n".into(), evidence: None };
        let desk = Desk::new();
        let mut letter = desk.letter("s", "Text\n");
        letter.with = With::Report(&report);
        for headers in [false, true] {
            let more = format!(r#", "encrypt": "always", "protected_headers": {headers}"#);
            let mut openpgp = court.openpgp(true, &more);
            let mail = compose(&letter, openpgp.protection(None, &desk.to).unwrap()).unwrap();
            let mail = String::from_utf8(mail).unwrap();
            assert!(mail.contains("\r\nX-XARF: SECURE\r\n"), "{mail}");
            let inside = court.theirs.gpg_with(&["--decrypt"], &mail);
            let (part, plain) = inside.split_once("\r\n\r\n").unwrap();
            assert!(part.contains("Content-Type: message/rfc822; name=\"xarf.eml\""), "{part}");
            assert_eq!(part.contains("hp=\"cipher\""), headers, "{part}");
            let (head, body) = plain.split_once("\r\n\r\n").unwrap();
            assert!(head.contains("\r\nX-XARF: PLAIN\r\n"), "{head}");
            assert!(head.contains("\r\nContent-Type: multipart/mixed;"), "{head}");
            assert!(body.contains("\r\nCategory: \"abuse\"\r\n"), "{body}");
        }
    }

    #[test]
    fn the_head_of_an_encrypted_mail_as_a_whole() {
        let mut court = Court::new();
        let more = r#", "encrypt": "always", "protected_headers": true"#;
        let expected = json!({
            "wrapping": "encryption", "hp": "cipher", "signed_by": [court.key], "keys": 2
        });
        let letter = ("hidden words", "hidden words\n");
        let mail = court.add(&mut court.openpgp(true, more), letter, None, expected);
        let head = "\
From: \"CERT Example\" <noreply@cert.example>
To: <abuse@isp.example>
Subject: [...]
Date: Wed, 25 Nov 2026 06:07:08 +0000
Message-ID: <20261125-10000042.0123456789abcdef@cert.example>
MIME-Version: 1.0
Auto-Submitted: auto-generated
X-Auto-Response-Suppress: All
X-Ticket: 20261125-10000042
Content-Type: multipart/encrypted; protocol=\"application/pgp-encrypted\";
 boundary=\"=_encrypted_20261125-10000042.0123456789abcdef\"

--=_encrypted_20261125-10000042.0123456789abcdef
Content-Type: application/pgp-encrypted
Content-Transfer-Encoding: 7bit

Version: 1

--=_encrypted_20261125-10000042.0123456789abcdef
Content-Type: application/octet-stream; name=\"encrypted.asc\"
Content-Transfer-Encoding: 7bit

-----BEGIN PGP MESSAGE-----
";
        let head = head.replace('\n', "\r\n");
        assert!(mail.starts_with(&head), "{mail}");
        court.judge();
    }

    #[test]
    fn an_autocrypt_header_is_folded_and_stands_outside_alone() {
        let mut court = Court::new();
        for encrypt in ["never", "always"] {
            let more = format!(
                r#", "encrypt": "{encrypt}", "protected_headers": true, "autocrypt": true"#
            );
            let expected = match encrypt {
                "never" => json!({"wrapping": "signature", "hp": "clear"}),
                _ => json!({
                    "wrapping": "encryption", "hp": "cipher", "signed_by": [court.key], "keys": 2
                }),
            };
            let mail = court.add(&mut court.openpgp(true, &more), ("s", "b\n"), None, expected);
            let (head, _) = mail.split_once("\r\n\r\n").unwrap();
            let (_, autocrypt) = head.split_once("\r\nAutocrypt: ").unwrap();
            assert!(autocrypt.starts_with("addr=noreply@cert.example;\r\n keydata="));
            assert_eq!(mail.matches("Autocrypt").count(), 1);
            assert!(head.lines().all(|line| line.len() <= 78), "{head}");
        }
        court.judge();
    }
}
