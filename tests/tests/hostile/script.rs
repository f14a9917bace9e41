//! Scripts hand on what was in an event, or say what nobody expects. To the generator their answers
//! are data as well.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use outbox_tests::events::Directive;
use outbox_tests::programs;
use outbox_tests::scripted_relay::ScriptedRelay;
use outbox_tests::site::{Builder, Site};
use serde_json::{Value, json};

use super::corpus::{self, Hostile};
use super::{
    Case, Cell, Check, Wanted, acts, generate, judge_log, judge_mails, judge_output, tell,
};

/// A program that hands the text of the group's aggregate identifier on in each place that an answer
/// has for texts, and says it in the log and to standard error.
const PROGRAM: &str = r#"#!/usr/bin/env python3
import json, sys
def say(answer):
    print(json.dumps(answer), flush=True)
for line in sys.stdin:
    group = json.loads(line)
    if group["notification_format"] == "verbatim":
        print(group["event_data_format"], flush=True)
        continue
    if group["notification_format"] != "program":
        say(None)
        continue
    text = group["aggregate_identifier"]["word"]
    say({"log": {"level": "warning", "text": text}})
    print(text, file=sys.stderr, flush=True)
    event = str(group["event_ids"][0])
    say({"notifications": [{
        "columns": ["malware.name", {"title": "title " + text, "values": {event: text}}],
        "subject": "[${ticket_number}] program", "body": "<${said}>", "data": "attachment",
        "substitutions": {"said": text}}]})
"#;

/// The same as a script of Mailgen: it computes a column, logs, prints, and fills a template.
const PYTHON: &str = r#"
from intelmqmail.tableformat import Column, TableFormat, IntelMQColumn
from intelmqmail.templates import Template

class Again(Column):
    event_table_column = "malware.name"
    column_key = "again"

    def value_from_event(self, event):
        return event["malware.name"]

def create_notifications(context):
    if context.directive.notification_format != "python":
        return []
    text = context.directive.get_aggregation_item("word")
    context.logger.info("said %s", text)
    context.logger.warning(text)
    print(text)
    table = TableFormat("again", [IntelMQColumn("name", "malware.name"), Again("again")])
    return context.mail_format_as_csv(
        table, template=Template.from_strings("[$ticket_number] python", "<${said}>"),
        substitutions={"said": text}, attach_event_data=True)
"#;

fn site(builder: Builder) -> Site {
    let mut site = builder.build();
    let folder = site.folder().join("scripts");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("10-program"), PROGRAM).unwrap();
    fs::set_permissions(folder.join("10-program"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(folder.join("20-python.py"), PYTHON).unwrap();
    site.set("script_directory", json!(folder));
    site
}

#[test]
fn what_scripts_hand_on_arrives_as_it_is_and_is_neither_run_nor_expanded() {
    let relay = ScriptedRelay::start();
    let site = site(Site::new(programs!()).unsigned().relay(relay.port()));
    let _ = fs::remove_file("/tmp/outbox-hostile");
    let mut cases = Vec::new();
    for Hostile { kind, text } in corpus::some() {
        for place in ["program", "python"] {
            let to = format!("c{}@isp.example", cases.len());
            let directive = Directive::to(&to).format(place, "x").aggregate("word", text.clone());
            let mut event = directive.event();
            event["malware.name"] = json!(text);
            let wanted = Wanted::Mail(Check {
                to: vec![to],
                subject: Some(format!("[\0] {place}")),
                text: Some(format!("<{text}>")),
                row: Some(vec![Cell::Text(text.clone()), Cell::Text(text.clone())]),
            });
            cases.push(Case { kind, place, event, wanted });
        }
    }
    let outcome = generate(&site, &cases);
    tell(&cases, &outcome);
    judge_mails(&site, &cases, &outcome.mails, None);
    judge_log(&site.deliverer(&["run", "--once"]).expect(0).without("WARN"));
    assert_eq!(relay.received().len(), cases.len());
    assert!(!std::path::Path::new("/tmp/outbox-hostile").exists(), "something ran a text");
}

/// Answers that nobody should give, and the word with which each is refused.
fn answers() -> Vec<(Value, &'static str)> {
    let forged = "x\r\n2026-11-25T00:00:00.000Z ERROR forged\u{1b}[2J\u{202e} directives=1";
    let with = |key: &str, value: Value| {
        let mut notification = json!({"columns": ["source.ip"], "subject": "s", "body": "b"});
        notification[key] = value;
        json!({"notifications": [notification]})
    };
    let column = |column: Value| with("columns", json!([column]));
    vec![
        (with("subject", json!("x\r\nBcc: victim@isp.example")), "header Subject"),
        (with("subject", json!("x\u{2028}Bcc: victim@isp.example")), "header Subject"),
        (with("subject", json!("x\u{0}")), "header Subject"),
        (with("subject", json!(forged)), "header Subject"),
        (with("subject", json!("${no_such_name}\n")), "no value"),
        (
            with("envelope_to", json!("a@isp.example\r\nRCPT TO:<victim@isp.example>")),
            "envelope_to",
        ),
        (with("envelope_to", json!(["a@isp.example> SIZE=1"])), "envelope_to"),
        (with("envelope_to", json!(["\"a\"@isp.example"])), "envelope_to"),
        (with("envelope_to", json!("=?utf-8?Q?a?=@isp.example")), "envelope_to"),
        (with("envelope_to", json!([])), "envelope_to"),
        (with("envelope_to", json!("a\u{0}@isp.example")), "envelope_to"),
        (with("ticket", json!("20991231-10000001")), "ticket"),
        (with("ticket", json!("../../etc/passwd")), "ticket"),
        (with("ticket", json!("20261125-1000000１")), "ticket"),
        (with("event_ids", json!([999_999_999])), "event_ids"),
        (with("event_ids", json!(["1; DROP TABLE events"])), "event_ids"),
        (with("mark_sent", json!("yes\n")), "mark_sent"),
        (with("data", json!("attachment\n")), "data"),
        (with("encrypt", json!(forged)), "encrypt"),
        (with("file_name", json!("../x.csv")), "file_name"),
        (with(forged, json!(1)), "unknown"),
        (with("substitutions", json!({"ticket_number": "20261125-10000001"})), "ticket_number"),
        (with("substitutions", json!({"events_as_csv": forged})), "events_as_csv"),
        (with("attachment", json!({"compress": "zip", "above": "-1"})), "above"),
        (column(json!("source.ip\" FROM events; DROP TABLE events; --")), "source.ip"),
        (column(json!({"field": "no.such\n", "title": "x"})), "no.such"),
        (column(json!({"title": forged})), "columns"),
        (column(json!({"title": "x", "values": {"1 OR 1=1": "x"}})), "columns"),
        (
            json!({"notifications": [{"columns": ["source.ip"], "template": "../../etc/passwd"}]}),
            "template",
        ),
        (json!({"notifications": [{"columns": ["source.ip"], "template": forged}]}), "template"),
        (json!({"error": forged}), "ERROR forged"),
        (json!({ forged: 1 }), "10-program"),
        (json!(forged), "10-program"),
        (json!([[[[[[]]]]]]), "10-program"),
        (json!({"load_events": {"columns": ["x\"; DROP TABLE events; --"]}}), "10-program"),
    ]
}

#[test]
fn an_answer_that_would_forge_a_mail_or_a_line_of_the_log_is_an_error_of_its_group() {
    let site = site(Site::new(programs!()).unsigned());
    // A format of a directive is short.
    site.sql("ALTER TABLE directives ALTER event_data_format TYPE text");
    let answer = |text: String, wanted| {
        let directive = Directive::to("a@isp.example").format("verbatim", &text);
        Case { kind: "answer", place: "program", event: directive.event(), wanted }
    };
    let mut cases: Vec<Case> = answers()
        .into_iter()
        .map(|(said, words)| answer(said.to_string(), Wanted::Error(words)))
        .collect();
    let deep = format!("{{\"notifications\": {}{}}}", "[".repeat(1000), "]".repeat(1000));
    for text in ["{", "\u{1b}[2J\u{202e}", "{\"error\": \"\\ud800\"}", &deep, "NaN", "null null"] {
        cases.push(answer(text.to_owned(), Wanted::Error("10-program")));
    }
    let good = json!({"notifications": [{"columns": ["source.ip"], "subject": "s", "body": "b"}]});
    let wanted = Check { to: vec!["a@isp.example".into()], ..Check::default() };
    cases.push(answer(good.to_string(), Wanted::Mail(wanted)));
    let outcome = generate(&site, &cases);
    tell(&cases, &outcome);
    judge_mails(&site, &cases, &outcome.mails, None);
    for line in outcome.errors.values() {
        assert!(line.contains("10-program") && !line.contains(acts), "{line}");
    }
    let events = site.column::<i64>("SELECT count(*) FROM events")[0];
    assert_eq!(events, i64::try_from(cases.len()).unwrap());
    for arguments in [&["pending"][..], &["pending", "--json"], &["preview"]] {
        judge_output(&site.generator(arguments).stdout);
    }
}
