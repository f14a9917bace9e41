//! Reports of the shipped definitions, and of some that are worse.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use outbox::GroupKey;
use serde_json::{Value as Json, json};

use super::*;
use crate::event::{Inet, Value};
use crate::formats::{Decision, Definitions, NoScripts};
use crate::group::Group;

// ---- What the tests work with ----

/// The mapping that the definitions in a folder have for X-ARF of this `event_data_format`.
fn mapping_in(folder: &Path, event_data_format: &str) -> Rc<Mapping> {
    let definitions = Definitions::load(folder).unwrap();
    let key = GroupKey {
        recipient_address: "abuse@as64496.example".into(),
        template_name: "any".into(),
        notification_format: "xarf".into(),
        event_data_format: event_data_format.into(),
        aggregate_identifier: BTreeMap::new(),
    };
    let group = Group {
        key,
        directive_ids: Vec::new(),
        event_ids: Vec::new(),
        inserted_at: Timestamp::UNIX_EPOCH,
        notification_interval: SignedDuration::ZERO,
        last_sent: None,
    };
    match definitions.decide(&group, Timestamp::UNIX_EPOCH, &mut NoScripts).unwrap() {
        Some(Decision::Compose(plan)) => plan.mails[0].report.clone().expect("a report"),
        other => panic!("{other:?}"),
    }
}

fn shipped(event_data_format: &str) -> Rc<Mapping> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../templates/formats");
    mapping_in(&folder, event_data_format)
}

/// The mapping of a `[format.xarf]` with this text.
fn written(data: &str, xarf: &str) -> Rc<Mapping> {
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "[[format]]\nname = \"x\"\ndata = \"{data}\"\ncolumns = [\"source.ip\"]\n[format.xarf]\n{xarf}"
    );
    fs::write(folder.path().join("10-x.toml"), text).unwrap();
    mapping_in(folder.path(), "any")
}

fn inet(text: &str) -> Value {
    let (address, prefix) = text.split_once('/').unwrap_or((text, ""));
    let address: std::net::IpAddr = address.parse().unwrap();
    let prefix = prefix.parse().unwrap_or(if address.is_ipv4() { 32 } else { 128 });
    Value::Inet(Inet { address, prefix, cidr: false })
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn time(text: &str) -> Value {
    Value::Time(text.parse().unwrap())
}

/// An event, with a value for each field that a shipped definition names.
#[derive(Clone)]
struct Columns(BTreeMap<String, Value>);

impl Columns {
    fn new() -> Self {
        let values = [
            ("time.source", time("2026-10-04T07:13:29Z")),
            ("source.ip", inet("192.0.2.38")),
            ("source.port", Value::Integer(49_008)),
            ("source.asn", Value::Integer(4_200_000_000)),
            ("source.fqdn", text("login.bank.example")),
            ("source.url", text("https://login.bank.example/a?b=%20")),
            ("source.geolocation.cc", text("DE")),
            ("destination.ip", inet("2001:db8::50")),
            ("destination.port", Value::Integer(80)),
            ("destination.asn", Value::Integer(64_511)),
            ("destination.fqdn", text("c8.sinkhole.example")),
            ("protocol.transport", text("tcp")),
            ("protocol.application", text("http")),
            ("classification.taxonomy", text("malicious-code")),
            ("classification.type", text("infected-system")),
            ("classification.identifier", text("examplebot")),
            ("malware.name", text("examplebot")),
            ("malware.hash.md5", Value::Null),
            ("event_description.text", Value::Null),
            ("event_description.target", text("Example Bank")),
            ("raw", Value::Null),
            ("extra", Value::Json(json!({}))),
        ];
        Self(values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }

    fn with(mut self, name: &str, value: Value) -> Self {
        self.0.insert(name.to_owned(), value);
        self
    }

    fn without(self, name: &str) -> Self {
        self.with(name, Value::Null)
    }

    fn event(self) -> Event {
        let (columns, values): (Vec<_>, Vec<_>) = self.0.into_iter().unzip();
        Event::new(EventId(17), Arc::from(columns), values)
    }
}

fn reporter() -> Reporter {
    let sender = "CERT Example <noreply@cert.example>".parse().unwrap();
    Reporter::new(&sender, &XarfSettings::default(), None).unwrap()
}

fn ticket() -> Ticket {
    "20261125-10000042".parse().unwrap()
}

fn make(mapping: &Mapping, columns: Columns) -> Result<Report, ReportError> {
    report(mapping, &columns.event(), &reporter(), &ticket())
}

#[track_caller]
fn yaml(mapping: &Mapping, columns: Columns) -> String {
    match make(mapping, columns) {
        Ok(Report::Plain { yaml, .. }) => yaml,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn v4(mapping: &Mapping, columns: Columns) -> Json {
    match make(mapping, columns) {
        Ok(Report::Json(json)) => serde_json::from_str(&json).unwrap(),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn fails(mapping: &Mapping, columns: Columns, why: &str) {
    let error = make(mapping, columns).expect_err(why);
    assert_eq!(error.to_string(), format!("failed to report event 17 as X-ARF: {why}"));
}

/// What Python's parser of YAML makes of documents, one after the other.
fn python_reads(documents: &str) -> Vec<Json> {
    const READ: &str =
        "import json, sys, yaml\njson.dump(list(yaml.safe_load_all(sys.stdin.buffer)), sys.stdout)";
    let mut python = Command::new("python3")
        .args(["-c", READ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut python.stdin.take().unwrap(), documents.as_bytes()).unwrap();
    let out = python.wait_with_output().unwrap();
    assert!(out.status.success(), "{documents}");
    serde_json::from_slice(&out.stdout).unwrap()
}

// ---- X-ARF 0.2 ----

#[test]
fn a_bot_infection_is_what_the_schema_asks_for() {
    let mapping = shipped("bot-infection_0.2.0_unstable");
    let report = yaml(&mapping, Columns::new());
    let expected = "\
---
Reported-From: \"noreply@cert.example\"
Category: \"abuse\"
Report-Type: \"bot-infection\"
User-Agent: \"outbox-generator/VERSION\"
Report-ID: \"20261125-10000042@cert.example\"
Date: \"2026-10-04T07:13:29Z\"
Source: \"192.0.2.38\"
Source-Type: \"ipv4\"
Source-Port: 49008
Source-ASN: 4200000000
Destination: \"2001:db8::50\"
Destination-Type: \"ipv6\"
Destination-Port: 80
Destination-ASN: 64511
Classification-Taxonomy: \"malicious-code\"
Classification-Type: \"infected-system\"
Classification-Identifier: \"examplebot\"
Malware-Name: \"examplebot\"
Attachment: \"none\"
Schema-URL: \"https://raw.githubusercontent.com/Intevation/xarf-schemata/master/abuse_bot-infection_0.2.0_unstable.json\"
";
    assert_eq!(report, expected.replace("VERSION", env!("CARGO_PKG_VERSION")));
}

#[test]
fn every_value_is_read_back_as_what_it_is() {
    let mapping = written(
        "xarf-0.2",
        "category = \"abuse\"\nreport_type = \"x\"\nschema_url = \"https://x.example/x.json\"\n\
         [format.xarf.fields]\n\"Date\" = \"time.source\"\n\"Source\" = \"source.ip\"\n\
         \"Text\" = \"extra.text\"\n\"Attempts\" = { field = \"extra.n\", type = \"integer\" }\n\
         \"Score\" = { field = \"extra.score\", type = \"number\" }\n\
         \"Seen\" = { field = \"extra.seen\", type = \"boolean\" }\n",
    );
    let every_control: String = (0..0x20).chain(0x7f..0xa1).filter_map(char::from_u32).collect();
    let texts = [
        "2001:10:20:30:40:50:51:52",
        "no",
        "Yes",
        "off",
        "null",
        "~",
        "1e3",
        "0x1f",
        "1_000",
        "12:30:45",
        "007",
        "1.5",
        ".inf",
        "2026-10-04",
        "<<",
        "=",
        "a \"b\" 'c'",
        "back\\slash \\n",
        "trailing ",
        " leading",
        "a: b",
        "# no comment",
        "- a",
        "---",
        "...",
        "%TAG",
        "@x",
        "`x`",
        "!!int 3",
        "&a *a",
        "{a: 1}",
        "[1]",
        "|",
        ">",
        "?",
        "Grüße, 例え \u{1f600}",
        "line\nline\r\nline\rline",
        "tab\t",
        "nul\0escape\u{1b}[31m",
        "nel\u{85}ls\u{2028}ps\u{2029}bom\u{feff}nbsp\u{a0}",
        "\u{fffe}\u{ffff}\u{fffd}\u{10ffff}\u{e000}\u{1fffe}",
        "evil\"\nCategory: \"fraud",
    ];
    let long = "x ".repeat(5000);
    let texts: Vec<&str> = texts.into_iter().chain([every_control.as_str(), &long]).collect();
    let extra = |extra: Json| Columns::new().with("extra", Value::Json(extra));
    let documents: String = texts
        .iter()
        .map(|text| extra(json!({"text": text, "n": "17", "score": 0.85, "seen": "True"})))
        .map(|columns| yaml(&mapping, columns.with("source.ip", inet("2001:10:20:30:40:50:51:52"))))
        .collect();
    let read = python_reads(&documents);
    assert_eq!(read.len(), texts.len());
    for (read, text) in read.iter().zip(texts) {
        assert_eq!(read["Text"], json!(text));
        assert_eq!(read["Source"], "2001:10:20:30:40:50:51:52");
        assert_eq!(
            (&read["Category"], &read["Date"]),
            (&json!("abuse"), &json!("2026-10-04T07:13:29Z"))
        );
        let others = [&read["Attempts"], &read["Score"], &read["Seen"]];
        assert_eq!(others, [&json!(17), &json!(0.85), &json!(true)]);
        assert_eq!(read.as_object().unwrap().len(), 14);
    }
    let numbers = [("1e3", json!(1000)), ("1E-3", json!(0.001)), ("-0.5", json!(-0.5))];
    let documents: String = numbers
        .iter()
        .map(|(digits, _)| serde_json::from_str(&format!("{{\"score\": {digits}}}")).unwrap())
        .map(|score| yaml(&mapping, extra(score)))
        .collect();
    for (read, (digits, number)) in python_reads(&documents).iter().zip(numbers) {
        assert_eq!(read["Score"], number, "{digits}");
        assert_eq!(read.get("Attempts"), None, "what is not there is left out");
    }
}

#[test]
fn a_report_without_what_it_needs_fails_and_names_event_field_and_rule() {
    let mapping = shipped("bot-infection_0.2.0_unstable");
    fails(
        &mapping,
        Columns::new().without("source.ip"),
        "Source must be there, and the event has no source.ip",
    );
    fails(
        &mapping,
        Columns::new().with("time.source", text("infinity")),
        "Date (from time.source) must be a time (RFC 3339), not \"infinity\"",
    );
    fails(
        &mapping,
        Columns::new().with("source.ip", inet("192.0.2.0/24")),
        "Source must be an IP address, unless the definition names its type, not \"192.0.2.0/24\"",
    );
    fails(
        &mapping,
        Columns::new().with("source.port", Value::Integer(70_000)),
        "Source-Port (from source.port) must be a whole number from 0 to 65535, not 70000",
    );
    let few = ["destination.ip", "destination.port", "destination.asn", "malware.name"];
    let report = yaml(&mapping, few.into_iter().fold(Columns::new(), Columns::without));
    assert!(!report.contains("Destination") && !report.contains("Malware"), "{report}");
}

#[test]
fn a_type_that_the_definition_names_is_that_of_the_value() {
    let named = |source: &str, kind: &str| {
        written(
            "xarf-0.2",
            &format!(
                "category = \"fraud\"\nreport_type = \"x\"\nschema_url = \"https://x.example/x.json\"\n\
                 [format.xarf.fields]\n\"Date\" = \"time.source\"\n\"Source\" = \"{source}\"\n\
                 \"Source-Type\" = {{ value = \"{kind}\" }}\n\
                 \"Destination-Type\" = {{ value = \"ip-address\" }}\n"
            ),
        )
    };
    for (source, kind) in [
        ("source.url", "uri"),
        ("source.fqdn", "domain"),
        ("source.ip", "ip-address"),
        ("source.ip", "ipv4"),
    ] {
        let read = &python_reads(&yaml(&named(source, kind), Columns::new()))[0];
        assert_eq!(read["Source-Type"], kind);
        assert_eq!(read.get("Destination-Type"), None, "without a destination");
    }
    fails(&named("source.ip", "ipv6"), Columns::new(), "Source must be ipv6, not \"192.0.2.38\"");
    let why = "Source must be ip-address, not \"login.bank.example\"";
    fails(&named("source.fqdn", "ip-address"), Columns::new(), why);
    for (source, kind, value) in [
        ("source.fqdn", "uri", "login.bank.example"),
        ("source.ip", "domain", "192.0.2.38"),
        ("source.fqdn", "email", "login.bank.example"),
    ] {
        fails(
            &named(source, kind),
            Columns::new(),
            &format!("Source must be {kind}, not {value:?}"),
        );
    }
}

#[test]
fn evidence_goes_with_the_report_and_the_report_says_so() {
    let mapping = written(
        "xarf-0.2",
        "category = \"abuse\"\nreport_type = \"x\"\nschema_url = \"https://x.example/x.json\"\n\
         evidence = { field = \"raw\", base64 = true, content_type = \"text/plain\" }\n\
         [format.xarf.fields]\n\"Date\" = \"time.source\"\n\"Source\" = \"source.ip\"\n",
    );
    let with = |raw: &str| Columns::new().with("raw", text(raw));
    for raw in ["bG9nIGxpbmUK", "bG9nIGxp\nbmUK"] {
        let Ok(Report::Plain { yaml, evidence: Some(evidence) }) = make(&mapping, with(raw)) else {
            panic!("evidence");
        };
        assert!(yaml.contains("\nAttachment: \"text/plain\"\n"));
        assert_eq!(
            (evidence.content_type.as_str(), &evidence.bytes[..]),
            ("text/plain", &b"log line\n"[..])
        );
    }
    assert!(yaml(&mapping, Columns::new()).contains("\nAttachment: \"none\"\n"));
    fails(&mapping, with("!"), "evidence (from raw) must be base64, and is not");
}

/// The blocks of a text that are indented by four, without that.
fn indented(text: &str) -> Vec<String> {
    let mut blocks = vec![String::new()];
    for line in text.lines() {
        let last = blocks.last_mut().unwrap();
        match line.strip_prefix("    ") {
            Some(line) => last.extend([line, "\n"]),
            None if line.is_empty() && !last.is_empty() => last.push('\n'),
            None if last.is_empty() => {}
            None => blocks.push(String::new()),
        }
    }
    blocks
}

#[test]
fn the_example_in_the_documents_makes_the_report_that_stands_there() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/formats.md");
    let docs = fs::read_to_string(docs).unwrap();
    let (_, section) = docs.split_once("\n## X-ARF\n").unwrap();
    let blocks = indented(section);
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("25-example.toml"), &blocks[0]).unwrap();
    let report = yaml(&mapping_in(folder.path(), "bots"), Columns::new());
    assert_eq!(report.trim_end(), blocks[1].trim_end());

    let error = Columns::new().with("source.port", Value::Integer(0));
    let error = make(&shipped("infrastructure-botnet_4"), error).unwrap_err();
    assert_eq!(error.to_string(), blocks[2].trim_end());
}

// ---- X-ARF 4 ----

type Needs = &'static [(&'static str, &'static str)];

/// The types that are shipped: the format, category and type, the fields that the schema asks for
/// beside those of the core, and the field of the event without which each is missing.
const TYPES: [(&str, &str, &str, Needs); 4] = [
    ("infrastructure-botnet_4", "infrastructure", "botnet", &[]),
    (
        "vulnerability-open-service_4",
        "vulnerability",
        "open_service",
        &[("service", "protocol.application")],
    ),
    (
        "connection-login-attack_4",
        "connection",
        "login_attack",
        &[("protocol", "protocol.transport"), ("source_port", "source.port")],
    ),
    ("content-phishing_4", "content", "phishing", &[("url", "source.url")]),
];

#[track_caller]
fn assert_core(report: &Json, category: &str, report_type: &str) {
    let version: Vec<_> = report["xarf_version"].as_str().unwrap().split('.').collect();
    assert!(version[0] == "4" && version.len() == 3);
    let uuid: Vec<char> = report["report_id"].as_str().unwrap().chars().collect();
    let dashes: Vec<_> = (0..uuid.len()).filter(|at| uuid[*at] == '-').collect();
    assert_eq!((uuid.len(), dashes), (36, vec![8, 13, 18, 23]));
    assert!(uuid[14] == '4' && "89ab".contains(uuid[19]));
    assert_eq!(report["timestamp"], "2026-10-04T07:13:29Z");
    for who in ["reporter", "sender"] {
        let expected = json!({
            "org": "CERT Example", "contact": "noreply@cert.example", "domain": "cert.example",
        });
        assert_eq!(report[who], expected);
    }
    assert_eq!(report["source_identifier"], "192.0.2.38");
    assert_eq!((&report["category"], &report["type"]), (&json!(category), &json!(report_type)));
    assert!(report.get("_internal").is_none());
}

#[test]
fn a_report_of_each_type_has_what_its_schema_needs_and_fails_without() {
    for (format, category, report_type, needed) in TYPES {
        let mapping = shipped(format);
        let report = v4(&mapping, Columns::new());
        assert_core(&report, category, report_type);
        for (key, field) in needed {
            assert!(report.get(key).is_some(), "{key} in {report}");
            let mut columns = Columns::new().without(field);
            if *key == "service" {
                columns = columns.without("classification.identifier");
            }
            let error = make(&mapping, columns).expect_err(key);
            assert_eq!((error.event, error.key.as_str()), (EventId(17), *key));
            assert!(error.rule.starts_with("must be there"), "{error}");
        }
        for (key, field) in [("timestamp", "time.source"), ("source_identifier", "source.ip")] {
            let columns = Columns::new().without(field).without("source.fqdn");
            assert_eq!(make(&mapping, columns).expect_err(key).key, key);
        }
        for port in [0, -1, 65_536] {
            let columns = Columns::new().with("source.port", Value::Integer(port));
            if report.get("source_port").is_some() {
                let why = format!(
                    "source_port (from source.port) must be a whole number from 1 to 65535, not {port}"
                );
                fails(&mapping, columns, &why);
            }
        }
    }
}

#[test]
fn the_shipped_definitions_say_all_that_an_event_has() {
    let of = |format: &str, columns: Columns| {
        let mut report = v4(&shipped(format), columns);
        for core in ["xarf_version", "report_id", "reporter", "sender", "category", "type"] {
            report.as_object_mut().unwrap().remove(core);
        }
        report
    };
    let core = json!({"timestamp": "2026-10-04T07:13:29Z", "source_identifier": "192.0.2.38"});
    let expect = |report: &Json, fields: Json| {
        let mut expected = core.clone();
        let Json::Object(fields) = fields else { unreachable!() };
        expected.as_object_mut().unwrap().extend(fields);
        assert_eq!(*report, expected);
    };
    expect(
        &of("infrastructure-botnet_4", Columns::new()),
        json!({
            "source_port": 49008, "compromise_evidence": "Communication with a server of the botnet",
            "malware_family": "examplebot", "c2_server": "c8.sinkhole.example", "c2_protocol": "http",
        }),
    );
    let other = Columns::new()
        .with("protocol.application", text("ssh"))
        .without("destination.fqdn")
        .with("event_description.text", text("seen"));
    expect(
        &of("infrastructure-botnet_4", other),
        json!({
            "source_port": 49008, "compromise_evidence": "seen",
            "malware_family": "examplebot", "c2_server": "2001:db8::50", "c2_protocol": "tcp",
        }),
    );
    expect(
        &of("vulnerability-open-service_4", Columns::new()),
        json!({
            "source_port": 49008, "service_port": 49008, "service": "http",
            "evidence_source": "vulnerability_scan",
        }),
    );
    expect(
        &of("connection-login-attack_4", Columns::new()),
        json!({
            "source_port": 49008, "protocol": "tcp", "first_seen": "2026-10-04T07:13:29Z",
            "destination_ip": "2001:db8::50", "destination_port": 80,
        }),
    );
    expect(
        &of("content-phishing_4", Columns::new()),
        json!({
            "url": "https://login.bank.example/a?b=%20", "domain": "login.bank.example",
            "asn": 4_200_000_000_u32, "country_code": "DE", "target_brand": "Example Bank",
        }),
    );
}

#[test]
fn a_value_that_the_schema_refuses_fails_the_report() {
    let phishing = shipped("content-phishing_4");
    fails(
        &phishing,
        Columns::new().with("source.url", text("http://a.example/\r\nX: y")),
        "url (from source.url) must be a URI (RFC 3986), not \"http://a.example/\\r\\nX: y\"",
    );
    let login = shipped("connection-login-attack_4");
    fails(
        &login,
        Columns::new().with("protocol.transport", text("gre")),
        "protocol (from protocol.transport) must be one of tcp, udp, icmp, sctp, not \"gre\"",
    );
    fails(
        &login,
        Columns::new().without("source.port"),
        "source_port must be there where source_identifier is an IP address",
    );
}

const BOTNET: &str = "category = \"infrastructure\"\ntype = \"botnet\"\n";
const BOTNET_FIELDS: &str = "[format.xarf.fields]\ntimestamp = \"time.source\"\n\
                             source_identifier = \"source.ip\"\ncompromise_evidence = { value = \"seen\" }\n";

#[test]
fn tags_evidence_and_nested_fields_are_as_the_schema_wants_them() {
    let mapping = written(
        "xarf-4",
        &format!(
            "{BOTNET}version = \"4.1.0\"\n\
             evidence = [\n\
               {{ field = \"raw\", base64 = true, content_type = \"message/rfc822\", description = \"The mail\" }},\n\
               {{ field = \"extra.log\", content_type = \"text/plain\" }},\n\
             ]\n{BOTNET_FIELDS}\
             tags = \"extra.tags\"\nconfidence = {{ value = 0.9 }}\n\
             \"custom.cc\" = \"source.geolocation.cc\"\n\"custom.asn\" = \"source.asn\"\n"
        ),
    );
    let columns = |tags: Json| {
        Columns::new()
            .with("raw", text("aGVsbG8="))
            .with("extra", Value::Json(json!({"tags": tags, "log": "Grüße\n"})))
    };
    let report = v4(&mapping, columns(json!(["malware:examplebot"])));
    assert_core(&report, "infrastructure", "botnet");
    assert_eq!(report["xarf_version"], "4.1.0");
    assert_eq!(report["tags"], json!(["malware:examplebot"]));
    assert_eq!(report["confidence"], json!(0.9));
    assert_eq!(report["custom"], json!({"cc": "DE", "asn": 4_200_000_000_u32}));
    assert_eq!(
        report["evidence"],
        json!([
            {
                "content_type": "message/rfc822", "description": "The mail", "payload": "aGVsbG8=", "size": 5,
                "hash": "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
            },
            {
                "content_type": "text/plain", "payload": "R3LDvMOfZQo=", "size": 8,
                "hash": "sha256:b1de61b8108f15d9913e0fa2e6371ed737fbe2be84e63a89ca8ae7a370322371",
            },
        ])
    );
    let error = make(&mapping, columns(json!(["Malware:x"]))).expect_err("a tag");
    assert_eq!((error.key.as_str(), error.field), ("tags", Some(Field::Extra("tags".into()))));
    let many: Vec<_> = (0..21).map(|n| format!("n:{n}")).collect();
    assert_eq!(make(&mapping, columns(json!(many))).expect_err("too many").key, "tags");
}

#[test]
fn the_source_of_a_login_attack_that_is_no_address_needs_no_port() {
    let mapping = written(
        "xarf-4",
        "category = \"connection\"\ntype = \"login_attack\"\n[format.xarf.fields]\n\
         timestamp = \"time.source\"\nfirst_seen = \"time.source\"\nprotocol = { value = \"tcp\" }\n\
         source_identifier = [\"source.fqdn\", \"source.ip\"]\n",
    );
    assert_eq!(v4(&mapping, Columns::new())["source_identifier"], "login.bank.example");
    let why = "source_port must be there where source_identifier is an IP address";
    fails(&mapping, Columns::new().without("source.fqdn"), why);
}

#[test]
fn a_required_field_and_what_counts_only_in_some_values_are_heeded() {
    let mapping = written(
        "xarf-4",
        &format!(
            "{BOTNET}{BOTNET_FIELDS}\
             c2_server = {{ from = [\"destination.fqdn\", {{ field = \"destination.ip\", only = \"192.0.2.1\" }}], \
             required = true }}\n"
        ),
    );
    assert_eq!(v4(&mapping, Columns::new())["c2_server"], "c8.sinkhole.example");
    fails(
        &mapping,
        Columns::new().without("destination.fqdn"),
        "c2_server must be there, and the event has no destination.fqdn, no destination.ip that is 192.0.2.1",
    );
}

#[test]
fn the_identification_is_of_the_ticket_and_the_configured_domain() {
    let mapping = shipped("infrastructure-botnet_4");
    let event = Columns::new().event();
    let id = |reporter: &Reporter, ticket: &str| match report(
        &mapping,
        &event,
        reporter,
        &ticket.parse().unwrap(),
    ) {
        Ok(Report::Json(json)) => serde_json::from_str::<Json>(&json).unwrap()["report_id"].clone(),
        other => panic!("{other:?}"),
    };
    let own = reporter();
    assert_eq!(id(&own, "20261125-10000042"), id(&own, "20261125-10000042"));
    assert_ne!(id(&own, "20261125-10000042"), id(&own, "20261125-10000043"));
    let elsewhere = Reporter { report_domain: "other.example".into(), ..own.clone() };
    assert_ne!(id(&own, "20261125-10000042"), id(&elsewhere, "20261125-10000042"));
}

// ---- Who reports ----

#[test]
fn who_reports_is_the_sender_unless_the_settings_say_otherwise() {
    let sender: Mailbox = "noreply@bücher.example".parse().unwrap();
    let own = Reporter::new(&sender, &XarfSettings::default(), None).unwrap();
    assert_eq!(
        (own.org.as_str(), own.domain.as_str()),
        ("xn--bcher-kva.example", "xn--bcher-kva.example")
    );
    let settings = |org: &str, contact: &str, domain: &str| XarfSettings {
        org: Some(org.to_owned()),
        contact: Some(contact.to_owned()),
        domain: Some(domain.to_owned()),
    };
    let good = settings("CERT Ö", "reports@cert.example", "CERT.example");
    let set = Reporter::new(&sender, &good, Some("ids.example")).unwrap();
    assert_eq!((set.org.as_str(), set.domain.as_str()), ("CERT Ö", "cert.example"));
    assert_eq!(
        (set.contact.as_str(), set.report_domain.as_str()),
        ("reports@cert.example", "ids.example")
    );
    assert_eq!(set.from, sender.address);

    let wrong = |settings: &XarfSettings, id: Option<&str>| {
        Reporter::new(&sender, settings, id).unwrap_err().0
    };
    let long = "x".repeat(201);
    assert_eq!(wrong(&settings(&long, "a@b.example", "b.example"), None), "xarf.org");
    assert_eq!(wrong(&settings("x", "nobody", "b.example"), None), "xarf.contact");
    assert_eq!(wrong(&settings("x", "a@b.example", "b example"), None), "xarf.domain");
    assert_eq!(wrong(&good, Some("a@b")), "xarf_reportdomain");
}
