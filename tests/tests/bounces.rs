//! What comes back is told per ticket, tied to the database, and flagged as seen only after that. What is no bounce, or
//! names no ticket of ours, stays as it is.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use outbox_tests::events::Directive;
use outbox_tests::postfix::Postfix;
use outbox_tests::programs;
use outbox_tests::programs::wait_until;
use outbox_tests::scripted_relay::ScriptedRelay;
use outbox_tests::site::{Program, Site};
use serde_json::{Value, json};

/// The ticket that the bounces of the collection are about.
const TICKET: &str = "20261125-10000042";

/// What is told of each notice of the collection (`tests/bounces/`): action, code, recipient, reason, where the ticket
/// stood.
const TOLD: &[(&str, &[&str])] = &[
    ("exchange-failed", &["failed 5.2.2 abuse@as64496.example: mailbox full (ticket_header)"]),
    ("exchange-online-failed", &["failed 5.1.10 abuse@as64496.example: no such user (verp)"]),
    ("exchange-pasted", &["failed 5.7.1 abuse@as64496.example: refused by policy (pasted_header)"]),
    ("exim-delayed", &["delayed 4.2.0 slow@as64496.example: greylisted (verp)"]),
    (
        "exim-delayed-no-diagnostic",
        &["delayed 4.0.0 slow@as64496.example: not delivered yet (verp)"],
    ),
    ("exim-failed", &["failed 5.1.1 nobody@as64496.example: no such user (verp)"]),
    ("exim-old-delayed", &["delayed - abuse@as64496.example: not delivered yet (references)"]),
    (
        "exim-old-failed",
        &[
            "failed 5.2.2 abuse@as64496.example: mailbox full (pasted_header)",
            "failed - noc@as64496.example: no such user (pasted_header)",
        ],
    ),
    (
        "exim-two-recipients",
        &[
            "failed 5.2.2 full@as64496.example: mailbox full (envelope_id)",
            "failed 5.1.1 nobody@as64496.example: no such user (envelope_id)",
        ],
    ),
    ("hostile-charset", &["failed 5.2.2 abuse@as64496.example: mailbox full (verp)"]),
    ("hostile-duplicate-fields", &["delivered 2.0.0 abuse@as64496.example: delivered (verp)"]),
    (
        "hostile-escape-codes",
        &["failed 5.2.2 \u{1b}]0;owned\u{7}abuse@as64496.example: mailbox full (verp), stranger"],
    ),
    ("hostile-nul", &["failed 5.2.2 abuse@as64496.example: mailbox full (verp)"]),
    (
        "hostile-other-recipient",
        &["failed 5.1.1 victim@as64511.example: no such user (verp), stranger"],
    ),
    ("hostile-other-ticket", &["failed 5.2.2 abuse@as64496.example: mailbox full (verp), 1 note"]),
    ("postfix-delayed", &["delayed 4.2.0 slow@as64496.example: greylisted (verp)"]),
    ("postfix-failed", &["failed 5.1.1 nobody@as64496.example: no such user (verp)"]),
    ("postfix-failed-envid", &["failed 5.1.1 nobody@as64496.example: no such user (envelope_id)"]),
    (
        "postfix-no-code",
        &[
            "failed 5.1.1 nobody+x=y@as64496.example: no such user (envelope_id)",
            "failed 5.0.0 plain@as64496.example: no such user (envelope_id)",
        ],
    ),
    (
        "postfix-two-recipients",
        &[
            "failed 5.2.2 full@as64496.example: mailbox full (envelope_id)",
            "failed 5.1.1 nobody@as64496.example: no such user (envelope_id)",
        ],
    ),
    (
        "qmail-failed",
        &[
            "failed 5.1.1 noc@as64496.example: no such user (pasted_header)",
            "failed - abuse@as64496.example: mailbox full (pasted_header)",
        ],
    ),
    ("sendmail-failed", &["failed 5.1.1 abuse@as64496.example: no such user (ticket_header)"]),
    (
        "sendmail-relayed",
        &[
            "relayed 2.1.9 abuse@as64496.example: relayed to a host that sends no notices (envelope_id)",
        ],
    ),
];

/// What stays, and why.
const STAYING: &[(&str, &str)] = &[
    ("hostile-empty", "not a bounce"),
    ("hostile-empty-report", "a delivery status that names no recipient (names 20261125-10000042)"),
    (
        "hostile-no-boundary",
        "from a mail system, in a form that is not understood (names 20261125-10000042)",
    ),
    ("hostile-no-header", "not a bounce"),
    ("hostile-no-ticket", "a bounce without a ticket"),
    (
        "hostile-unknown-ticket",
        "a bounce, but the ticket is not in the database (names 20261125-99999999)",
    ),
    ("not-forwarded-bounce", "not a bounce"),
    ("not-human-reply", "not a bounce (names 20261125-10000042)"),
    ("not-read-receipt", "not a bounce (names 20261125-10000042)"),
    ("not-spam", "not a bounce"),
    (
        "not-understood",
        "from a mail system, in a form that is not understood (names 20261125-10000042)",
    ),
    ("not-vacation", "not a bounce: an automatic reply (names 20261125-10000042)"),
];

#[test]
fn each_notice_of_the_collection_is_told_or_stays() {
    let site = site();
    let mailbox = mailbox(&site, &collection());
    let run = site.deliverer(&["bounces", &mailbox, "--json"]).expect(0).without("ERROR");
    let entries: Vec<Value> = serde_json::from_str(&run.stdout).unwrap();
    let mut told = BTreeMap::<String, Vec<String>>::new();
    for entry in &entries {
        assert_eq!(entry["ticket"], TICKET);
        assert_eq!(entry["directives"], json!([1, 2, 3]));
        assert_eq!(entry["sent_at"], "2026-11-25T06:07:08Z");
        told.entry(text(&entry["file"])).or_default().push(summary(entry));
    }
    let expected: BTreeMap<String, Vec<String>> = (TOLD.iter())
        .map(|(file, told)| ((*file).to_owned(), told.iter().map(|&line| line.into()).collect()))
        .collect();
    assert_eq!(told, expected);
    for (file, why) in STAYING {
        run.line("INFO", &[&format!("stays as it is: {why}"), &format!("file=new/{file}")]);
    }
    assert_eq!(run.lines("INFO").len(), STAYING.len());

    let of = |file: &str| entries.iter().find(|entry| entry["file"] == file).unwrap();
    let forwarded = of("sendmail-failed");
    assert_eq!(forwarded["final_recipient"], "box@store.as64496.example");
    assert_eq!(forwarded["remote_mta"], "store.as64496.example");
    assert_eq!(forwarded["reporting_mta"], "mx.as64496.example");
    assert_eq!(forwarded["diagnostic"], "550 5.1.1 <box@store.as64496.example>... User unknown");
    assert_eq!(forwarded["date"], "2026-11-25T06:07:19Z");
    assert_eq!(of("hostile-other-ticket")["notes"], json!(["it also names 20261125-10000043"]));
    let old = of("exim-old-failed");
    assert_eq!(old["remote_mta"], "store.as64496.example");
    assert_eq!(old["diagnostic"], "552 5.2.2 <abuse@as64496.example>: Mailbox full");

    // What was told is seen, what was not is untouched.
    let mut seen: Vec<String> = TOLD.iter().map(|(file, _)| format!("{file}:2,S")).collect();
    seen.sort();
    assert_eq!(names(&mailbox, "cur"), seen);
    let staying: Vec<&str> = STAYING.iter().map(|(file, _)| *file).collect();
    assert_eq!(names(&mailbox, "new"), staying);
    let again = site.deliverer(&["bounces", &mailbox]).expect(0);
    assert!(again.stdout.starts_with("no bounces\n\n12 files stay as they are:\n"), "{again}");
    let all = site.deliverer(&["bounces", &mailbox, "--json", "--all"]).expect(0);
    assert_eq!(serde_json::from_str::<Vec<Value>>(&all.stdout).unwrap(), entries);
    assert_eq!(names(&mailbox, "cur"), seen);
}

#[test]
fn a_person_reads_80_columns_without_escape_codes_and_with_the_directives() {
    let site = site();
    let mailbox = mailbox(&site, &collection());
    let run = site.deliverer(&["bounces", &mailbox]).expect(0);
    let expected = "\
20261125-10000042  failed    full@as64496.example  5.2.2 mailbox full
    552-5.2.2 The email account that you tried to reach is over quota and
    552-5.2.2 inactive. Please direct the recipient to 552 5.2.2
    https://help.example/over-quota (mx.as64496.example)
    sent 2026-11-25T06:07:08Z; directives 1 2 3; found by the envelope id
20261125-10000042  failed    nobody@as64496.example  5.1.1 no such user
    550 5.1.1 <nobody@as64496.example>: Recipient address rejected: User unknown
    in virtual mailbox table (mx.as64496.example)
    sent 2026-11-25T06:07:08Z; directives 1 2 3; found by the envelope id
";
    assert!(run.stdout.contains(expected), "{run}");
    for line in run.stdout.lines() {
        assert!(line.chars().count() <= 80, "{line}");
        assert!(!line.contains(|c: char| c.is_control() || c == '\u{202e}'), "{line:?}");
    }
}

#[test]
fn nothing_is_flagged_before_the_report_is_out() {
    let mut site = site();
    let files = collection();
    let mailbox = mailbox(&site, &files);
    let untouched = || assert_eq!(names(&mailbox, "new").len(), files.len());

    let kept = site.deliverer(&["bounces", &mailbox, "--keep"]).expect(0);
    untouched();
    // A reader that went away has read nothing.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = Command::new(programs!().deliverer)
        .arg("--config")
        .arg(site.folder().join("deliverer.conf"))
        .args(["bounces", &mailbox])
        .stdout(writer)
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    untouched();
    // A disk that is full has taken nothing.
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let status = Command::new(programs!().deliverer)
        .arg("--config")
        .arg(site.folder().join("deliverer.conf"))
        .args(["bounces", &mailbox])
        .stdout(full)
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(1));
    untouched();
    let killed = site.killed_before(Program::Deliverer, &["bounces", &mailbox], "rename", 1);
    assert_eq!((killed.status.code(), killed.stdout), (None, kept.stdout));
    untouched();

    site.set("database.event.port", json!(1));
    let away = site.deliverer(&["bounces", &mailbox]).expect(75);
    away.line("ERROR", &["cannot connect to database"]);
    assert_eq!(away.stdout, "");
    untouched();
    // Without it there is less to tell, and nothing is checked.
    let run = site.deliverer(&["bounces", &mailbox, "--no-database", "--json"]).expect(0);
    let entries: Vec<Value> = serde_json::from_str(&run.stdout).unwrap();
    assert!(entries.iter().all(|entry| entry["directives"].is_null()));
    assert!(entries.iter().any(|entry| entry["ticket"] == "20261125-99999999"));
    untouched();
}

#[test]
fn what_is_no_readable_mail_is_told_and_stays_and_flags_of_others_are_kept() {
    let site = site();
    let bounce =
        collection().into_iter().find(|file| file.ends_with("postfix-failed.eml")).unwrap();
    let mailbox = mailbox(&site, std::slice::from_ref(&bounce));
    let root = Path::new(&mailbox);
    fs::copy(&bounce, root.join("cur/flagged:2,FR")).unwrap();
    fs::copy(&bounce, root.join("cur/noted:2,")).unwrap();
    fs::copy(&bounce, root.join("cur/deleted:2,T")).unwrap();
    fs::copy(&bounce, root.join("new/.hidden")).unwrap();
    fs::create_dir(root.join("new/folder")).unwrap();
    symlink(&bounce, root.join("new/link")).unwrap();
    assert!(Command::new("mkfifo").arg(root.join("new/fifo")).status().unwrap().success());
    // This one has the name that it would get.
    fs::copy(&bounce, root.join("new/twice")).unwrap();
    fs::copy(&bounce, root.join("cur/twice:2,S")).unwrap();

    let run = site.deliverer(&["bounces", &mailbox]).expect(1);
    assert_eq!(run.stdout.matches(TICKET).count(), 4, "{run}");
    for name in ["fifo", "folder", "link"] {
        run.line("ERROR", &["failed to read", name, "it is not a regular file"]);
    }
    run.line("ERROR", &["failed to move", "new/twice", "there is a mail of this name already"]);
    run.line("ERROR", &["errors with 4 of the files"]);
    assert_eq!(
        names(&mailbox, "cur"),
        ["deleted:2,T", "flagged:2,FRS", "noted:2,S", "postfix-failed:2,S", "twice:2,S"]
    );
    assert_eq!(names(&mailbox, "new"), [".hidden", "fifo", "folder", "link", "twice"]);

    let run = site.deliverer(&["bounces", "/nowhere"]).expect(75);
    run.line("ERROR", &["/nowhere is not a Maildir"]);
}

#[test]
fn a_mail_made_to_keep_the_parser_busy_costs_a_moment() {
    let site = site();
    let mailbox = mailbox(&site, &[]);
    let head = format!("To: bounce+{TICKET}@cert.example\nFrom: MAILER-DAEMON@x.example\n");
    let status = "Content-Type: message/delivery-status\n\nA: b\n\n\
                  Final-Recipient: rfc822; abuse@as64496.example\nStatus: 5.1.1\n";
    let report = |rest: &str| {
        let kind = "Content-Type: multipart/report; boundary=\"b\"\n\n--b\n";
        format!("{head}{kind}{status}\n--b\n{rest}")
    };
    let parts = |number| format!("--b\nContent-Type: multipart/mixed; boundary=\"c{number}\"\n\n");
    let hostile = [
        ("large", report(&format!("\n{}", "x".repeat(10 << 20)))),
        ("messages", report(&"Content-Type: message/rfc822\n\n".repeat(300_000))),
        ("multiparts", report(&(0..300_000).map(parts).collect::<String>())),
        ("fields", report(&"a:b\n".repeat(1_000_000))),
        ("messages-only", head.clone() + &"Content-Type: message/rfc822\n\n".repeat(300_000)),
    ];
    for (name, mail) in hostile {
        fs::write(Path::new(&mailbox).join("new").join(name), mail).unwrap();
    }
    let run = site.deliverer(&["bounces", &mailbox, "--json"]).expect(0).without("ERROR");
    let entries: Vec<Value> = serde_json::from_str(&run.stdout).unwrap();
    let told: Vec<&str> = entries.iter().map(|entry| entry["file"].as_str().unwrap()).collect();
    assert_eq!(told, ["fields", "large", "messages", "multiparts"], "{run}");
    run.line("INFO", &["new/messages-only", "in a form that is not understood"]);
}

#[test]
fn the_bounce_of_a_mail_that_was_relayed_leads_to_its_directives() {
    let relay = ScriptedRelay::start();
    let site = Site::new(programs!())
        .relay(relay.port())
        .set("envelope_from", json!("bounce+{ticket}@cert.example"))
        .build();
    // In a list, and in a domain that the generator writes otherwise.
    site.insert(&[Directive::to("Abuse@as64496.example, noc@bücher.example").event()]);
    site.generator(&["run", "--all"]).expect(0);
    site.deliverer(&["run", "--once"]).expect(0);
    let mail = relay.received().remove(0);
    let ticket = mail.ticket();
    let header = String::from_utf8(mail.bytes).unwrap();
    let (header, _) = header.split_once("\r\n\r\n").unwrap();
    let without_ticket: Vec<&str> =
        header.lines().filter(|line| !line.starts_with("X-Ticket")).collect();
    let bounce = |to: &str, returned: &str| {
        format!(
            "Return-Path: <>\r\nFrom: MAILER-DAEMON@mx.example\r\nTo: {to}\r\n\
             Content-Type: multipart/report; boundary=part\r\n\r\n--part\r\n\
             Content-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mx.example\r\n\r\n\
             Final-Recipient: rfc822; noc@xn--bcher-kva.example\r\nAction: failed\r\n\
             Status: 5.2.2\r\n\r\n--part\r\nContent-Type: message/rfc822\r\n\r\n{returned}\r\n\r\n\
             \r\n--part--\r\n"
        )
    };
    let mailbox = mailbox(&site, &[]);
    for (name, bounce) in [
        ("1", bounce(&mail.from, "")),
        ("2", bounce("bounce@cert.example", header)),
        ("3", bounce("bounce@cert.example", &without_ticket.join("\r\n"))),
    ] {
        fs::write(Path::new(&mailbox).join("new").join(name), bounce).unwrap();
    }
    let run = site.deliverer(&["bounces", &mailbox, "--json"]).expect(0);
    let entries: Vec<Value> = serde_json::from_str(&run.stdout).unwrap();
    let found_by: Vec<&str> =
        entries.iter().map(|entry| entry["found_by"].as_str().unwrap()).collect();
    assert_eq!(found_by, ["verp", "ticket_header", "message_id"], "{run}");
    for entry in &entries {
        assert_eq!(entry["ticket"], json!(ticket));
        assert_eq!(entry["directives"], json!([1]));
        assert_eq!(entry["notes"], json!([]));
    }
}

#[test]
fn what_postfix_sends_back_is_told_with_the_directives_of_each_recipient() {
    let postfix = Postfix::shared();
    let mailbox = postfix.mailbox().display().to_string();
    let new = postfix.mailbox().join("new");
    for (round, envelope_from, found_by) in
        [(1, "bounce+{ticket}@cert.example", "verp"), (2, "bounce@cert.example", "envelope_id")]
    {
        let site = Site::new(programs!())
            .relay(postfix.port())
            .set("envelope_from", json!(envelope_from))
            .build();
        site.insert(&[
            Directive::to("abuse@full.example").event(),
            Directive::to("abuse@nobody.example").event(),
            Directive::to("abuse@as64496.example").event(),
        ]);
        site.generator(&["run", "--all"]).expect(0);
        site.deliverer(&["run", "--once"]).expect(0);
        assert_eq!(site.pending(), 0, "Postfix took them all");

        // One is delivered, and stays in each round; for two there is a bounce.
        wait_until("Postfix has sent two mails back", || {
            fs::read_dir(&new).is_ok_and(|files| files.count() == round + 2)
        });
        let run = site.deliverer(&["bounces", &mailbox, "--json"]).expect(0);
        let entries: Vec<Value> = serde_json::from_str(&run.stdout).unwrap();
        assert_eq!(entries.len(), 2, "{run}");
        for (address, reason) in
            [("abuse@full.example", "mailbox full"), ("abuse@nobody.example", "no such user")]
        {
            let entry = entries.iter().find(|entry| entry["recipient"] == address).unwrap();
            let of = |column: &str| {
                format!(
                    "SELECT {column} FROM directives JOIN sent ON sent.id = sent_id
                      WHERE recipient_address = '{address}'"
                )
            };
            assert_eq!(entry["directives"], json!(site.column::<i64>(&of("directives.id"))));
            assert_eq!(entry["ticket"], site.column::<String>(&of("intelmq_ticket"))[0]);
            assert_eq!(
                (&entry["action"], &entry["reason"], &entry["found_by"], &entry["notes"]),
                (&json!("failed"), &json!(reason), &json!(found_by), &json!([])),
            );
        }
        assert_eq!(run.lines("INFO").len(), round, "{run}");
        assert_eq!(fs::read_dir(&new).unwrap().count(), round);
    }
}

/// A site that has sent the mail with [`TICKET`], and another with the next ticket.
fn site() -> Site {
    let site =
        Site::new(programs!()).set("envelope_from", json!("bounce+{ticket}@cert.example")).build();
    let address = |local: &str| format!("{local}@as64496.example");
    site.insert(&[
        Directive::to("nobody@as64496.example, Full@AS64496.example").event(),
        Directive::to("abuse@as64496.example,noc@as64496.example,slow@as64496.example").event(),
        Directive::to(&[address("plain"), address("nobody+x=y")].join(", ")).event(),
    ]);
    site.sql(&format!(
        "INSERT INTO sent (intelmq_ticket, sent_at)
         VALUES ('{TICKET}', '2026-11-25T06:07:08Z'), ('20261125-10000043', '2026-11-25T06:07:09Z');
         UPDATE directives SET sent_id = (SELECT id FROM sent WHERE intelmq_ticket = '{TICKET}')"
    ));
    site
}

/// The files in `tests/bounces/`.
fn collection() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("bounces");
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "eml"))
        .collect();
    files.sort();
    files
}

/// A Maildir with these mails in `new/`, each named as its file is.
fn mailbox(site: &Site, mails: &[PathBuf]) -> String {
    let root = site.folder().join("bounces");
    for folder in ["new", "cur", "tmp"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    for mail in mails {
        fs::copy(mail, root.join("new").join(mail.file_stem().unwrap())).unwrap();
    }
    root.display().to_string()
}

/// The names in a folder of the mailbox, ordered.
fn names(mailbox: &str, folder: &str) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(Path::new(mailbox).join(folder))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// An entry of the report as a line of [`TOLD`].
fn summary(entry: &Value) -> String {
    let part = |key: &str| entry[key].as_str().unwrap_or("-").to_owned();
    let notes: Vec<String> = entry["notes"].as_array().unwrap().iter().map(text).collect();
    let notes = match &notes[..] {
        [] => "",
        [one] if one.starts_with("no directive of the ticket has this recipient") => ", stranger",
        [_] => ", 1 note",
        _ => panic!("{notes:?}"),
    };
    format!(
        "{} {} {}: {} ({}){notes}",
        part("action"),
        part("status"),
        part("recipient"),
        part("reason"),
        part("found_by")
    )
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}
