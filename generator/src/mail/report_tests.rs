//! Mails with reports, as Python's parsers of mail, YAML and JSON read them.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::*;
use crate::openpgp::tests::Home;
use crate::openpgp::{GpgSigner, Signer};
use crate::xarf::Evidence;

/// Prints what is in a mail: per part its header fields, what its body decodes to, its parts; and
/// writes what is signed beside the mail.
const READER: &str = r#"
import email, email.policy, json, pathlib, sys, yaml

path = pathlib.Path(sys.argv[1])
raw = path.read_bytes()

def read(part):
    assert not part.defects, part.defects
    fields = {name.lower(): value for name, value in part.items()}
    out = {"type": part.get_content_type(), "fields": fields}
    if part.is_multipart() and part.get_content_maintype() == "multipart":
        out["parts"] = [read(inner) for inner in part.get_payload()]
    elif part.get_content_type() == "message/rfc822":
        out["mail"] = read(part.get_payload()[0])
    elif part.get_content_type() == "message/feedback-report":
        out["feedback"] = dict(part.get_payload()[0].items())
    else:
        out["body"] = part.get_payload(decode=True).decode()
        out["name"] = part.get_filename()
        if out["name"] == "report.txt":
            out["yaml"] = yaml.safe_load(out["body"])
        if out["name"] == "xarf.json":
            out["json"] = json.loads(out["body"])
    return out

for policy in (email.policy.default, email.policy.compat32):
    mail = email.message_from_bytes(raw, policy=policy)
    read(mail)
if mail.get_content_type() == "multipart/signed":
    boundary = b"\r\n--" + mail.get_boundary().encode()
    first, armored = raw.split(boundary + b"\r\n")[1:3]
    path.with_suffix(".signed").write_bytes(first)
    # Who checks a signature with this package writes what was signed anew.
    as_written = email.policy.SMTP.clone(refold_source="none")
    written = email.message_from_bytes(raw, policy=as_written).get_payload()[0].as_bytes()
    assert written == first, written
    path.with_suffix(".asc").write_bytes(armored.split(b"\r\n\r\n", 1)[1].split(boundary)[0])
    # What was signed is a mail in a mail, to the byte.
    path.with_suffix(".inner").write_bytes(first.split(b"\r\n\r\n", 1)[1])
print(json.dumps(read(mail)))
"#;

struct Desk {
    folder: tempfile::TempDir,
    from: Mailbox,
    to: Vec<Address>,
    ticket: Ticket,
    message_id: MessageId,
}

impl Desk {
    fn new() -> Self {
        let from: Mailbox = "CERT Example <noreply@cert.example>".parse().unwrap();
        let ticket = "20261125-10000042".parse().unwrap();
        Self {
            folder: tempfile::tempdir().unwrap(),
            message_id: MessageId::with_random(&ticket, &from.address, 7),
            to: vec!["abuse@isp.example".parse().unwrap()],
            from,
            ticket,
        }
    }

    fn letter<'a>(&'a self, report: &'a Report) -> Letter<'a> {
        Letter {
            from: &self.from,
            to: &self.to,
            subject: "Ein Bericht über =?utf-8?Q?etwas?=",
            body: "From here\nGrüße\n",
            with: With::Report(report),
            date: "2026-11-25T06:07:08Z".parse().unwrap(),
            message_id: &self.message_id,
            ticket: &self.ticket,
        }
    }

    /// What Python reads in a file of this folder.
    fn read(&self, name: &str) -> Value {
        let path = self.folder.path().join(name);
        let out = Command::new("python3").args(["-c", READER]).arg(path).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        serde_json::from_slice(&out.stdout).unwrap()
    }

    fn compose(&self, report: &Report, signer: Option<&mut GpgSigner>) -> Value {
        let mail = compose(&self.letter(report), signed(signer)).unwrap();
        assert!(mail.is_ascii());
        let text = str::from_utf8(&mail).unwrap();
        assert!(!text.replace("\r\n", "").contains(['\r', '\n']));
        assert!(text.split("\r\n").all(|line| line.len() <= 998 && !line.starts_with("From ")));
        fs::write(self.folder.path().join("mail.eml"), &mail).unwrap();
        self.read("mail.eml")
    }

    fn verifies(&self, home: &Path) -> bool {
        Command::new("gpg")
            .arg("--homedir")
            .arg(home)
            .args(["--batch", "--verify"])
            .args(["mail.asc", "mail.signed"].map(|name| self.folder.path().join(name)))
            .output()
            .unwrap()
            .status
            .success()
    }
}

fn plain(evidence: Option<Evidence>) -> Report {
    let yaml = "---\nSource: \"2001:10:20:30:40:50:51:52\"\nMalware-Name: \"Grüße = .\\u000A\"\n";
    Report::Plain { yaml: yaml.into(), evidence }
}

fn evidence() -> Evidence {
    let content_type = "text/plain".into();
    Evidence { content_type, description: None, bytes: b"a log\nFrom it\n".to_vec() }
}

/// Checks a mail, or one within a mail, that is a PLAIN report.
fn assert_plain(mail: &Value, evidence: bool) {
    assert_eq!(mail["fields"]["x-xarf"], "PLAIN");
    assert_eq!(mail["fields"]["auto-submitted"], "auto-generated");
    assert_eq!(mail["fields"]["mime-version"], "1.0");
    assert_eq!(mail["type"], "multipart/mixed");
    let parts = mail["parts"].as_array().unwrap();
    assert_eq!(parts.len(), 2 + usize::from(evidence));
    assert_eq!((&parts[0]["type"], &parts[0]["name"]), (&json!("text/plain"), &Value::Null));
    assert_eq!(parts[0]["body"], "From here\r\nGrüße\r\n");
    let content_type = parts[1]["fields"]["content-type"].as_str().unwrap();
    assert_eq!(content_type.replace('"', ""), "text/plain; charset=utf-8; name=report.txt");
    let expected = json!({"Source": "2001:10:20:30:40:50:51:52", "Malware-Name": "Grüße = .\n"});
    assert_eq!(parts[1]["yaml"], expected);
    if evidence {
        assert_eq!(
            (&parts[2]["type"], &parts[2]["name"]),
            (&json!("text/plain"), &json!("evidence"))
        );
        assert_eq!(parts[2]["body"], "a log\nFrom it\n");
        assert_eq!(parts[2]["fields"]["content-type"], "text/plain; charset=utf-8");
    }
}

fn signed(signer: Option<&mut GpgSigner>) -> Protection<'_> {
    let wrapping =
        signer.map_or(Wrapping::None, |signer| Wrapping::Signature(signer as &mut dyn Signer));
    Protection { wrapping, ..Protection::default() }
}

#[test]
fn a_report_of_x_arf_0_2_that_is_not_signed_is_plain() {
    let desk = Desk::new();
    let mail = desk.compose(&plain(None), None);
    assert_plain(&mail, false);
    assert_eq!(mail["fields"]["message-id"], desk.message_id.as_str());
    assert_plain(&desk.compose(&plain(Some(evidence())), None), true);
}

#[test]
fn a_signed_one_is_secure_and_encloses_a_plain_one() {
    let home = Home::with_key("Judge <judge@cert.example>");
    let mut key = GpgSigner::open(Some(home.path()), "judge@cert.example").unwrap();
    let desk = Desk::new();
    let mail = desk.compose(&plain(Some(evidence())), Some(&mut key));
    assert_eq!(mail["fields"]["x-xarf"], "SECURE");
    assert_eq!(mail["type"], "multipart/signed");
    let parts = mail["parts"].as_array().unwrap();
    assert_eq!(parts.len(), 2);
    assert_eq!(parts[1]["type"], "application/pgp-signature");
    assert_eq!(parts[0]["type"], "message/rfc822");
    assert_eq!(parts[0]["fields"]["content-transfer-encoding"], "7bit");
    let disposition = parts[0]["fields"]["content-disposition"].as_str().unwrap();
    assert_eq!(disposition.replace('"', ""), "attachment; filename=xarf.eml");
    assert_plain(&parts[0]["mail"], true);
    for field in ["from", "to", "subject", "date", "message-id", "x-ticket", "auto-submitted"] {
        assert_eq!(parts[0]["mail"]["fields"][field], mail["fields"][field], "{field}");
    }
    assert!(desk.verifies(home.path()));

    // Taken out to the byte, as a program does that reads it again, it is a mail of its own.
    let taken_out = desk.read("mail.inner");
    assert_plain(&taken_out, true);

    let signed = desk.folder.path().join("mail.signed");
    let mut changed = fs::read(&signed).unwrap();
    changed[400] ^= 1;
    fs::write(&signed, changed).unwrap();
    assert!(!desk.verifies(home.path()), "a change is found");
}

#[test]
fn what_is_enclosed_has_no_address_that_is_not_ascii() {
    let home = Home::with_key("Judge <judge@cert.example>");
    let mut key = GpgSigner::open(Some(home.path()), "judge@cert.example").unwrap();
    let desk = Desk { to: vec!["grüße@isp.example".parse().unwrap()], ..Desk::new() };
    let report = plain(None);
    let error = compose(&desk.letter(&report), signed(Some(&mut key))).unwrap_err().to_string();
    assert!(error.starts_with("failed to write the header To: there is a character"), "{error}");
    compose(&desk.letter(&report), signed(None)).expect("no mail in a mail");
}

#[test]
fn a_report_of_x_arf_4_is_a_feedback_report_signed_or_not() {
    let home = Home::with_key("Judge <judge@cert.example>");
    let mut key = GpgSigner::open(Some(home.path()), "judge@cert.example").unwrap();
    let desk = Desk::new();
    let report = Report::Json("{\n  \"xarf_version\": \"4.2.0\",\n  \"x\": \"Grüße\"\n}".into());
    let unsigned = desk.compose(&report, None);
    let signed = desk.compose(&report, Some(&mut key));
    assert!(desk.verifies(home.path()));
    assert_eq!(signed["type"], "multipart/signed");
    for (mail, content) in [(&unsigned, &unsigned), (&signed, &signed["parts"][0])] {
        assert_eq!(mail["fields"].get("x-xarf"), None);
        assert_eq!(content["type"], "multipart/report");
        let content_type = content["fields"]["content-type"].as_str().unwrap();
        assert!(content_type.contains("report-type=\"feedback-report\""), "{content_type}");
        let parts = content["parts"].as_array().unwrap();
        assert_eq!(parts.len(), 3);
        assert_eq!(parts[0]["body"], "From here\r\nGrüße\r\n");
        let feedback = json!({
            "Feedback-Type": "xarf",
            "User-Agent": concat!("outbox-generator/", env!("CARGO_PKG_VERSION")),
            "Version": "1",
        });
        assert_eq!(parts[1]["feedback"], feedback);
        assert_eq!(parts[2]["fields"]["content-type"], "application/json; name=xarf.json");
        assert_eq!(parts[2]["fields"]["content-transfer-encoding"], "base64");
        let disposition = parts[2]["fields"]["content-disposition"].as_str().unwrap();
        assert_eq!(disposition.replace('"', ""), "attachment; filename=xarf.json");
        assert_eq!(parts[2]["json"], json!({"xarf_version": "4.2.0", "x": "Grüße"}));
    }
}
