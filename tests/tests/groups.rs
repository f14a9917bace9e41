//! What a group becomes beside one mail: parts of a large one, compressed attachments, nothing at all
//! where the mail is too large or its recipient is not one that mails may go to.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use outbox_tests::events::{self, Directive};
use outbox_tests::programs::Running;
use outbox_tests::site::{Builder, Site};
use outbox_tests::{mail, programs};
use serde_json::{Value, json};

/// A site with this definition before all others.
fn site_with(definition: &str) -> Builder {
    Site::new(programs!()).unsigned().template("formats/05-own.toml", definition)
}

fn to(recipient: &str) -> Directive {
    Directive::to(recipient).format("own", "csv")
}

const PARTS: &str = r#"
    [substitutions]
    part = ""
    [substitutions_if_split]
    part = ", part ${part_number} of ${number_of_parts}"
    [[format]]
    name = "own"
    when = { notification_format = "own" }
    columns = ["source.ip"]
    split_after = 2
    subject = "Ticket ${ticket_number}${part}"
    body = "${number_of_events} events for ${recipient_address}\n${events_as_csv}"
    [[copy]]
    when = { notification_format = "own" }
    envelope_to = "copies@cert.example"
"#;

#[test]
fn a_large_group_goes_out_in_parts_each_with_its_own_ticket_and_directives() {
    let site = site_with(PARTS).build();
    let large: Vec<Value> = (0..5).map(|_| to("abuse@isp.example").event()).collect();
    site.insert(large.iter().chain([&to("noc@isp.example").event()]));
    let run = site.generator(&["run", "--all"]).expect(0);
    run.line("INFO", &["done", "mails=4", "copies=4", "errors=0"]);

    let sidecars = site.sidecars();
    let mut claimed = BTreeSet::new();
    let mut tickets = BTreeSet::new();
    for sidecar in sidecars.iter().filter(|sidecar| sidecar["mark_sent"] == true) {
        for id in sidecar["directive_ids"].as_array().expect("a list") {
            assert!(claimed.insert(id.as_i64()), "two mails claim {id}");
        }
        assert!(tickets.insert(sidecar["ticket"].to_string()), "two mails have one ticket");
        let copies = sidecars.iter().filter(|s| s["mark_sent"] == false);
        let own = copies.filter(|copy| copy["ticket"] == sidecar["ticket"]);
        let own: Vec<_> = own.collect();
        assert_eq!(own.len(), 1, "each part has its copy");
        assert_eq!(own[0]["envelope"]["to"], json!(["copies@cert.example"]));
    }
    assert_eq!(claimed.len(), 6);

    let mails = mail::read(&site.listed("new"), None);
    let mut seen: Vec<(String, usize)> = mails
        .iter()
        .map(|mail| {
            let subject = mail.header["subject"].split_once("Ticket ").expect("a ticket").1;
            (subject[17..].to_owned(), mail.text.matches("192.0.2.1").count())
        })
        .collect();
    seen.sort();
    seen.dedup();
    let expected = [("", 1), (", part 1 of 3", 2), (", part 2 of 3", 2), (", part 3 of 3", 1)];
    assert_eq!(seen, expected.map(|(subject, rows)| (subject.to_owned(), rows)));
    assert!(mails.iter().any(|mail| mail.text.starts_with("2 events for abuse@isp.example")));
    site.generator(&["run", "--all"]).expect(0);
    assert_eq!(site.sidecars().len(), 8, "all is claimed");
}

#[test]
fn a_group_can_become_more_mails_than_a_process_may_have_files_open() {
    let definition = r#"
        [[format]]
        name = "own"
        when = { notification_format = "own" }
        columns = ["source.ip"]
        split_after = 1
        subject = "Ticket ${ticket_number}"
        body = "${events_as_csv}"
    "#;
    let site = site_with(definition).build();
    let event = to("abuse@isp.example").event();
    site.insert(std::iter::repeat_n(&event, 450));
    let script = site.folder().join("generator");
    let text = site.generator_script().replace("exec ", "ulimit -n 500\nexec ");
    fs::write(&script, text).unwrap();
    let run = Running::start(Command::new("sh").arg(&script).args(["run", "--all"])).finish();
    run.expect(0).line("INFO", &["done", "mails=450"]);
    assert_eq!((site.listed("new").len(), site.listed("tmp").len()), (450, 0));
}

const FACTS: &str = r#"
    [[format]]
    name = "own"
    when = { notification_format = "own" }
    columns = ["source.ip"]
    substitutions = { about = "${number_of_events} events in AS ${source_asns}" }
    subject = "${about}"
    body = "${recipient_address}: ${first_time_source} to ${last_time_source}, ${part_number}/${number_of_parts}"
"#;

#[test]
fn a_template_can_name_the_facts_of_its_mail() {
    let site = site_with(FACTS).build();
    let mut events: Vec<Value> = (0..3).map(|_| to("abuse@isp.example").event()).collect();
    events[0]["source.asn"] = json!(64511);
    events[1]["time.source"] = json!("2026-11-23T23:59:59.9+00:00");
    events[2]["time.source"] = Value::Null;
    events[2]["source.asn"] = Value::Null;
    // One event, two directives: it is one event.
    let twice = events::event([to("abuse@isp.example"), to("abuse@isp.example")]);
    site.insert(events.iter().chain([&twice]));
    site.generator(&["run", "--all"]).expect(0);
    let mails = mail::read(&site.listed("new"), None);
    assert_eq!(mails[0].header["subject"], "4 events in AS 64496, 64511");
    assert_eq!(
        mails[0].text.trim_end(),
        "abuse@isp.example: 2026-11-23 23:59:59 to 2026-11-24 10:11:12, 1/1"
    );
}

#[test]
fn a_large_attachment_is_compressed_and_may_have_a_byte_order_mark_and_no_formulas() {
    let definition = |how: &str, name: &str| {
        format!(
            r#"
            [[format]]
            name = "own {how}"
            when = {{ template_name = "{how}" }}
            columns = ["source.ip", "comment"]
            data = "attachment"
            attachment = {{ compress = "{how}", above = "1 KiB" }}
            csv = {{ guard_formulas = true, bom = true }}
            subject = "${{attachment_name}}"
            body = "in {name}"
            "#
        )
    };
    let both = definition("zip", "events.zip") + &definition("gzip", "events.csv.gz");
    let site = site_with(&both).build();
    for how in ["zip", "gzip"] {
        let event = |recipient: &str| {
            let mut event = to(recipient).template(how).event();
            event["comment"] = json!("=1+1");
            event
        };
        let large: Vec<_> = (0..50).map(|_| event(&format!("large-{how}@isp.example"))).collect();
        site.insert(large.iter().chain([&event(&format!("small-{how}@isp.example"))]));
    }
    site.generator(&["run", "--all"]).expect(0);
    let program = r#"
import email, email.policy, gzip, io, sys, zipfile
mail = email.message_from_binary_file(open(sys.argv[1], "rb"), policy=email.policy.default)
part, = mail.iter_attachments()
data, name = part.get_payload(decode=True), part.get_filename()
if name.endswith(".gz"):
    assert part.get_content_type() == "application/gzip"
    data = gzip.decompress(data)
elif name.endswith(".zip"):
    assert part.get_content_type() == "application/zip"
    archive = zipfile.ZipFile(io.BytesIO(data))
    assert archive.namelist() == ["events.csv"]
    data = archive.read("events.csv")
else:
    assert part.get_content_type() == "text/csv"
rows = data.decode().split("\r\n")
assert rows[0] == '\ufeff"source.ip","comment"' and rows[-1] == "", rows
assert set(rows[1:-1]) == {'"192.0.2.1","\'=1+1"'}, rows
print(name, mail["Subject"], len(rows) - 2)
"#;
    for (recipient, expected) in [
        ("large-zip@isp.example", "events.zip events.zip 50"),
        ("small-zip@isp.example", "events.csv events.csv 1"),
        ("large-gzip@isp.example", "events.csv.gz events.csv.gz 50"),
        ("small-gzip@isp.example", "events.csv events.csv 1"),
    ] {
        let mut python = Command::new("python3")
            .arg("-")
            .arg(site.mail_to(recipient))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3");
        python.stdin.take().expect("a pipe").write_all(program.as_bytes()).expect("written");
        let output = python.wait_with_output().expect("an end");
        assert!(output.status.success(), "{recipient}");
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim_end(), expected);
    }
}

#[test]
fn a_mail_that_is_too_large_fails_alone_and_the_error_names_the_limit() {
    let site = site_with(PARTS).set("outbox.max_mail_size", json!("4 KiB")).build();
    let mut large = to("large@isp.example").event();
    large["comment"] = json!("x".repeat(10_000));
    let definition = PARTS.replace("[\"source.ip\"]", "[\"source.ip\", \"comment\"]");
    let small = to("small@isp.example").event();
    let site_definition = site.folder().join("templates/formats/05-own.toml");
    std::fs::write(site_definition, definition).expect("written");
    // The third part of the large group is too large.
    let others: Vec<_> = (0..4).map(|_| to("large@isp.example").event()).collect();
    site.insert(others.iter().chain([&large, &small]));
    let run = site.generator(&["run", "--all"]).expect(1);
    let words = "outbox.max_mail_size (4.0 KiB): let the format compress the attachment or split";
    let line = run.line("ERROR", &["large@isp.example", words]);
    assert!(line.contains("directives=5 events=5"), "{line}");
    run.line("INFO", &["done", "mails=3", "errors=1"]);
    assert_eq!(run.lines("ERROR").len(), 2, "and the last one: {run}");
    assert_eq!(site.pending(), 6, "nothing is sent yet");
}

#[test]
fn mails_to_the_system_itself_are_refused() {
    let site = Site::new(programs!())
        .unsigned()
        .set("envelope_from", json!("bounce+{ticket}@cert.example"))
        .build();
    let own = format!("NoReply@{}", site.domain());
    site.insert([
        &Directive::to(&own).event(),
        &Directive::to("abuse@isp.example, bounce+20261125-10000001@cert.example").event(),
        &Directive::to("abuse@isp.example").event(),
    ]);
    let run = site.generator(&["run", "--all"]).expect(1);
    run.line("ERROR", &["this system's own address (sender)", "for NoReply@"]);
    run.line("ERROR", &["bounce+20261125-10000001@cert.example is this system's own address"]);
    assert_eq!(site.sidecars().len(), 1);
    let pending = site.generator(&["pending"]).expect(0).stdout;
    assert_eq!(pending.matches("own address").count(), 2, "{pending}");
}

#[test]
fn a_test_system_writes_to_allowed_recipients_alone_or_sends_all_to_one_address() {
    let mut site = Site::new(programs!())
        .unsigned()
        .set("review.only_recipients", json!(["*@test.example"]))
        .build();
    site.insert([
        &Directive::to("abuse@isp.example").event(),
        &Directive::to("Abuse@TEST.example, noc@test.example").event(),
    ]);
    let run = site.generator(&["run", "--all"]).expect(1);
    run.line("ERROR", &["abuse@isp.example is not among review.only_recipients"]);
    assert_eq!(site.sidecars().len(), 1);

    site.set("review.redirect_to", json!("everything@test.example"));
    let run = site.generator(&["run", "--all"]).expect(0);
    run.line("WARN", &["review.redirect_to is set", "everything@test.example"]);
    let sidecars = site.sidecars();
    let redirected = sidecars
        .iter()
        .find(|sidecar| sidecar["envelope"]["to"] == json!(["everything@test.example"]))
        .expect("a redirected mail");
    assert_eq!(redirected["group"]["recipient_address"], "abuse@isp.example");
    let headers: Vec<_> = mail::read(&site.listed("new"), None);
    assert!(
        headers.iter().any(|mail| mail.header["to"].contains("abuse@isp.example")),
        "headers stay"
    );
    let check = site.generator(&["check"]).stdout;
    assert!(check.contains("all mails go to everything@test.example"), "{check}");
}
