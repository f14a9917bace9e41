//! Data that is large, deep or made to be slow: it costs its own group at most, and never the time
//! of the others.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use outbox_tests::events::Directive;
use outbox_tests::programs;
use outbox_tests::scripted_relay::ScriptedRelay;
use outbox_tests::site::Site;
use serde_json::{Value, json};

use super::{Case, Cell, Check, Wanted, generate, judge_log, judge_mails};

const FORMATS: &str = r#"
    [[format]]
    name = "slow patterns"
    when = { notification_format = "slow", aggregate = { word = "*a*a*a*a*a*a*a*a*a*a*a*a*b" } }
    columns = ["source.ip"]
    subject = "not this"
    body = "x"

    [[format]]
    name = "slow"
    when = { notification_format = "slow" }
    columns = ["source.ip"]
    subject = "[${ticket_number}] ${word}"
    body = "<${word}>"

    [[format]]
    name = "large in the text"
    when = { notification_format = "inline" }
    columns = ["malware.name", "extra.banner"]
    subject = "large"
    body = "${events_as_csv}"

    [[format]]
    name = "large attached"
    when = { notification_format = "attached" }
    data = "attachment"
    columns = ["malware.name", "extra.banner"]
    subject = "large"
    body = "x"
"#;

fn case(number: usize, form: &str, word: &str, name: &str, banner: &Value) -> Case {
    let to = format!("c{number}@isp.example");
    let mut event = Directive::to(&to).format(form, "csv").aggregate("word", word).event();
    event["malware.name"] = json!(name);
    event["extra"]["banner"] = banner.clone();
    let shown = match banner {
        Value::String(text) => Cell::Text(text.clone()),
        other => Cell::Json(other.clone()),
    };
    let wanted = Check {
        to: vec![to],
        row: (form != "slow").then(|| vec![Cell::Text(name.to_owned()), shown]),
        text: (form == "slow").then(|| format!("<{word}>")),
        subject: (form == "slow").then(|| format!("[\0] {word}")),
    };
    Case { kind: "size", place: "event", event, wanted: Wanted::Mail(wanted) }
}

#[test]
fn large_and_slow_values_arrive_and_a_value_that_is_too_deep_costs_its_group() {
    let relay = ScriptedRelay::start();
    let site = Site::new(programs!())
        .unsigned()
        .relay(relay.port())
        .template("formats/05-size.toml", FORMATS)
        .build();
    let megabyte = "\"x\",\r\n.\r\n=1+1;\t".repeat(1 << 16);
    let keys: serde_json::Map<String, Value> =
        (0..100_000).map(|number| (format!("key {number}"), json!(number))).collect();
    let mut cases = Vec::new();
    for form in ["inline", "attached"] {
        cases.push(case(cases.len(), form, "w", &megabyte, &json!(megabyte)));
        cases.push(case(cases.len(), form, "w", "x", &json!("y".repeat(10 << 20))));
        cases.push(case(cases.len(), form, "w", "x", &Value::Object(keys.clone())));
    }
    // All that is shown of this is a column beside it.
    let mut beside = case(cases.len(), "inline", "w", "x", &json!("x"));
    beside.event["extra"]["not shown"] = json!("z".repeat(10 << 20));
    cases.push(beside);
    for word in ["a".repeat(100_000), "a ".repeat(50_000) + "x", "é".repeat(20_000)] {
        cases.push(case(cases.len(), "slow", &word, "x", &json!("x")));
    }
    let mut deep = json!(1);
    for _ in 0..100 {
        deep = json!([deep]);
    }
    let mut too_deep = case(cases.len(), "inline", "w", "x", &json!("nested"));
    too_deep.wanted = Wanted::Error("cannot read extra of event ");
    cases.push(too_deep);
    cases.push(case(cases.len(), "inline", "w", "x", &deep));
    // Deeper than JSON's reader goes, and so beyond what can be handed over as JSON here.
    site.sql(&format!(
        "CREATE FUNCTION nest() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             NEW.extra := replace(NEW.extra::text, '\"nested\"', '{}1{}')::jsonb;
             RETURN NEW; END $$;
         CREATE TRIGGER aaa_nest BEFORE INSERT ON events FOR EACH ROW
             WHEN (NEW.extra::text LIKE '%\"nested\"%') EXECUTE FUNCTION nest()",
        "[".repeat(3000),
        "]".repeat(3000)
    ));
    let outcome = generate(&site, &cases);
    judge_mails(&site, &cases, &outcome.mails, None);
    judge_log(&site.deliverer(&["run", "--once"]).expect(0).without("WARN"));
    assert_eq!(relay.received().len(), outcome.mails.len());
    assert_eq!(site.pending(), 1);
}

#[test]
fn a_script_can_name_ten_thousand_recipients_and_each_gets_the_mail_once() {
    const PROGRAM: &str = r#"#!/usr/bin/env python3
import json, sys
for line in sys.stdin:
    to = ["c%d@isp.example" % (number % 10000) for number in range(20000)]
    print(json.dumps({"notifications": [{"columns": ["source.ip"], "subject": "s", "body": "b",
                                         "envelope_to": to}]}), flush=True)
"#;
    let relay = ScriptedRelay::start();
    let mut site = Site::new(programs!()).unsigned().relay(relay.port()).build();
    let folder = site.folder().join("scripts");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("10-program"), PROGRAM).unwrap();
    fs::set_permissions(folder.join("10-program"), fs::Permissions::from_mode(0o755)).unwrap();
    site.set("script_directory", json!(folder));
    site.insert([&Directive::to("a@isp.example").event()]);
    judge_log(&site.generator(&["run", "--all"]).expect(0));
    judge_log(&site.deliverer(&["run", "--once"]).expect(0));
    let to: Vec<String> = (0..10_000).map(|number| format!("c{number}@isp.example")).collect();
    let [mail] = &relay.received()[..] else { panic!("not one mail") };
    assert_eq!(mail.to.len(), to.len());
    assert!(mail.to == to);
    assert_eq!(site.pending(), 0);
}
