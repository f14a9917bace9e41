//! Reports in X-ARF, from events in PostgreSQL to mails in the outbox.

use outbox_tests::events::Directive;
use outbox_tests::site::Site;
use outbox_tests::{mail, programs};
use serde_json::{Value, json};

fn event(directive: Directive, source_port: u32) -> Value {
    let mut event = directive.event();
    let values = json!({
        "source.ip": "2001:db8::38",
        "source.port": source_port,
        "destination.ip": "203.0.113.203",
        "destination.fqdn": "c8.sinkhole.example",
        "protocol.transport": "tcp",
        "malware.name": "examplebot",
    });
    for (name, value) in values.as_object().expect("an object") {
        event[name] = value.clone();
    }
    event
}

fn botnet() -> Directive {
    Directive::to("abuse@isp.example")
        .template("xarf_bot-infection")
        .format("xarf", "infrastructure-botnet_4")
}

fn bot_infection() -> Directive {
    Directive::to("abuse@isp.example")
        .template("xarf_bot-infection")
        .format("xarf", "bot-infection_0.2.0_unstable")
}

/// The directives of events that still wait, by the events' ids.
fn pending(site: &Site) -> Vec<i64> {
    site.column("SELECT events_id FROM directives WHERE sent_id IS NULL ORDER BY 1")
}

#[test]
fn an_event_that_can_not_be_reported_fails_alone_and_is_told_with_the_rule() {
    let mut site = Site::new(programs!()).build();
    let reporter =
        json!({"org": "CERT Ö", "contact": "reports@cert.example", "domain": "cert.example"});
    site.set("xarf", reporter.clone());
    site.set("xarf_reportdomain", json!("ids.cert.example"));
    let ids = site.insert([
        &event(botnet(), 49008),
        &event(botnet(), 0),
        &event(botnet(), 49010),
        &event(bot_infection(), 49011),
    ]);

    let run = site.generator(&["run", "--all"]).expect(1);
    run.line("INFO", &["done", "mails=3", "errors=1"]);
    let line = run.line("ERROR", &["no mail for abuse@isp.example", &format!("events={}", ids[1])]);
    let why = format!(
        "failed to report event {} as X-ARF: source_port (from source.port) must be a whole number from 1 to \
         65535, not 0",
        ids[1]
    );
    assert!(line.contains(&why), "{line}");

    let sidecars = site.sidecars();
    let files: Vec<_> = (sidecars.iter())
        .map(|sidecar| site.outbox().join("new").join(sidecar["id"].as_str().expect("an id")))
        .collect();
    let mut ports = Vec::new();
    for (sidecar, read) in sidecars.iter().zip(mail::read(&files, Some(site.gnupg().home()))) {
        assert_eq!(sidecar["directive_ids"].as_array().map(Vec::len), Some(1));
        assert_eq!(read.signed_by.as_deref(), Some(site.gnupg().fingerprint()), "{}", read.gpg);
        assert!(read.text.contains("\"2001:db8::38\""), "for a person, too: {}", read.text);
        if let Some(version) = read.header.get("x-xarf") {
            assert_eq!((version.as_str(), &read.attachment), ("SECURE", &None));
            continue;
        }
        let (name, report) = read.attachment.expect("a report");
        let report: Value = serde_json::from_str(&report).expect("JSON");
        assert_eq!(name, "xarf.json");
        assert_eq!(report["source_identifier"], "2001:db8::38");
        assert_eq!(report["timestamp"], "2026-11-24T10:11:12Z");
        assert_eq!((&report["reporter"], &report["sender"]), (&reporter, &reporter));
        ports.push(report["source_port"].as_i64().expect("a port"));
    }
    ports.sort_unstable();
    assert_eq!(ports, [49008, 49010]);

    // The others' directives are claimed, this one is tried again, and told again.
    let run = site.generator(&["run", "--all"]).expect(1);
    run.line("INFO", &["done", "mails=0", "errors=1"]);
    assert_eq!(run.lines("ERROR").len(), 2, "{run}");
    assert_eq!(pending(&site), ids);
}

#[test]
fn a_report_that_is_not_signed_is_plain_and_its_copy_is_the_same_report() {
    let copy = "[[copy]]\nwhen = { notification_format = \"xarf\" }\nenvelope_to = \"archive@cert.example\"\n";
    let site = Site::new(programs!()).unsigned().template("formats/05-copy.toml", copy).build();
    site.insert([&event(bot_infection(), 49008), &event(botnet(), 49008)]);
    site.generator(&["run", "--all"]).expect(0).line("INFO", &["done", "mails=2", "copies=2"]);
    let mails: Vec<String> = (site.listed("new").iter())
        .map(|file| std::fs::read_to_string(file).expect("a mail"))
        .collect();
    let plain: Vec<&String> =
        mails.iter().filter(|mail| mail.contains("\r\nX-XARF: PLAIN\r\n")).collect();
    assert_eq!((mails.len(), plain.len()), (4, 2));
    let report = |mail: &str| {
        let (_, report) = mail.split_once("report.txt").expect("a report");
        let (report, _) = report.split_once("\r\n--=_").expect("its end");
        report.to_owned()
    };
    assert_eq!(report(plain[0]), report(plain[1]));
    assert!(report(plain[0]).contains("Source: \"2001:db8::38\"\r\nSource-Type: \"ipv6\"\r\n"));
}

#[test]
fn a_setting_that_can_not_be_is_told_before_anything_is_written() {
    let mut site = Site::new(programs!()).unsigned().build();
    site.insert([&event(botnet(), 49008)]);
    for (key, value) in [
        ("xarf", json!({"contact": "nobody"})),
        ("xarf", json!({"domain": "a b"})),
        ("xarf", json!({"org": ""})),
    ] {
        site.set(key, value.clone());
        let name = value.as_object().and_then(|value| value.keys().next()).expect("a key");
        let words = format!("xarf.{name} in the configuration: ");
        site.generator(&["run", "--all"]).expect(78).line("ERROR", &[&words]);
        let check = site.generator(&["check"]).expect(1);
        assert!(check.stdout.contains(&words) || check.stderr.contains(&words), "{check}");
    }
    site.set("xarf", json!({}));
    site.set("xarf_reportdomain", json!("x@y"));
    let words = "xarf_reportdomain in the configuration: must be a domain name, not \"x@y\"";
    site.generator(&["run", "--all"]).expect(78).line("ERROR", &[words]);
    assert_eq!(site.files(), [""; 0]);
}
