//! Hostile values of events: in a table in the text, attached, packed, guarded, in reports, signed.

use std::fs;

use outbox_tests::events::Directive;
use outbox_tests::postfix::Postfix;
use outbox_tests::programs;
use outbox_tests::scripted_relay::ScriptedRelay;
use outbox_tests::site::Site;
use serde_json::{Value, json};

use super::corpus::{self, Hostile};
use super::wire::{READINGS, Recorder, understand};
use super::{Case, Cell, Check, Wanted, generate, judge_log, judge_mails, tell};

/// A format for each form in which a table is sent.
const FORMATS: &str = r#"
    [[format]]
    name = "inline"
    when = { notification_format = "inline" }
    columns = ["malware.name", "event_description.text", "extra.banner", "extra"]
    subject = "[${ticket_number}] inline"
    body = "${events_as_csv}"

    [[format]]
    name = "attached"
    when = { notification_format = "attached" }
    data = "attachment"
    columns = ["malware.name", "event_description.text", "extra.banner", "extra"]
    subject = "[${ticket_number}] attached"
    body = "See ${attachment_name}."

    [[format]]
    name = "guarded"
    when = { notification_format = "guarded" }
    data = "attachment"
    csv = { guard_formulas = true, bom = true }
    columns = ["malware.name", "event_description.text", "extra.banner", "extra"]
    subject = "[${ticket_number}] guarded"
    body = "See ${attachment_name}."

    [[format]]
    name = "zipped"
    when = { notification_format = "zipped" }
    data = "attachment"
    attachment = { compress = "zip" }
    columns = ["malware.name", "event_description.text", "extra.banner", "extra"]
    subject = "[${ticket_number}] zipped"
    body = "See ${attachment_name}."

    [[format]]
    name = "gzipped"
    when = { notification_format = "gzipped" }
    data = "attachment"
    attachment = { compress = "gzip" }
    columns = ["malware.name", "event_description.text", "extra.banner", "extra"]
    subject = "[${ticket_number}] gzipped"
    body = "See ${attachment_name}."
"#;

/// Each text in two columns, in a value of `extra`, and in a key, in each of these forms; and groups
/// with nothing odd between.
fn cases(forms: &[(&'static str, Vec<Hostile>)]) -> Vec<Case> {
    let mut cases = Vec::new();
    for (form, texts) in forms {
        for Hostile { kind, text } in texts {
            if cases.len() % 50 == 0 {
                cases.push(case(cases.len(), "neighbour", form, "192.0.2.1"));
            }
            cases.push(case(cases.len(), kind, form, text));
        }
    }
    cases
}

fn case(number: usize, kind: &'static str, form: &'static str, text: &str) -> Case {
    let to = format!("c{number}@isp.example");
    let mut event = Directive::to(&to).format(form, "csv").event();
    event["malware.name"] = json!(text);
    event["event_description.text"] = json!(text);
    event["extra"]["banner"] = json!(text);
    event["extra"][text] = json!(text);
    let formula = form == "guarded"
        && text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠']);
    let shown = if formula { format!("'{text}") } else { text.to_owned() };
    let cell = || Cell::Text(shown.clone());
    let row = vec![cell(), cell(), cell(), Cell::Json(event["extra"].clone())];
    let wanted = Wanted::Mail(Check {
        to: vec![to],
        subject: Some(format!("[\0] {form}")),
        text: (form != "inline").then(|| {
            let name = match form {
                "zipped" => "events.zip",
                "gzipped" => "events.csv.gz",
                _ => "events.csv",
            };
            format!("See {name}.")
        }),
        row: Some(row),
    });
    Case { kind, place: form, event, wanted }
}

#[test]
fn any_value_of_an_event_arrives_in_any_form_and_each_relay_sees_as_many_mails_as_were_sent() {
    let relay = ScriptedRelay::start();
    let recorder = Recorder::before(relay.port());
    let site = Site::new(programs!())
        .unsigned()
        .relay(recorder.port())
        .template("formats/05-hostile.toml", FORMATS)
        .build();
    // What is packed are the octets that are attached.
    let fourth = || corpus::some().into_iter().step_by(4).collect();
    let cases = cases(&[
        ("inline", corpus::texts()),
        ("attached", corpus::some()),
        ("guarded", corpus::some()),
        ("zipped", fourth()),
        ("gzipped", fourth()),
    ]);
    let outcome = generate(&site, &cases);
    tell(&cases, &outcome);
    judge_mails(&site, &cases, &outcome.mails, None);

    let mut written: Vec<Vec<u8>> =
        outcome.mails.values().map(|path| fs::read(path).unwrap()).collect();
    judge_log(&site.deliverer(&["run", "--once"]).expect(0).without("WARN"));
    assert_eq!(site.pending(), 0);
    written.sort();
    for reading in READINGS {
        let mut seen = Vec::new();
        for said in recorder.heard() {
            let understood = understand(&said, reading);
            for command in understood.commands {
                let known = ["EHLO ", "MAIL FROM:<noreply@", "RCPT TO:<c", "DATA", "QUIT"];
                assert!(known.iter().any(|known| command.starts_with(known)), "{command:?}");
            }
            seen.extend(understood.mails);
        }
        seen.sort();
        assert!(seen == written, "{reading:?}: {} mails, not {}", seen.len(), written.len());
    }
}

#[test]
fn signed_mails_with_any_value_arrive_through_postfix_as_they_were_signed() {
    let postfix = Postfix::shared();
    let site = Site::new(programs!())
        .relay(postfix.port())
        .template("formats/05-hostile.toml", FORMATS)
        .build();
    let cases = cases(&[("inline", corpus::some())]);
    let outcome = generate(&site, &cases);
    judge_log(&site.deliverer(&["run", "--once"]).expect(0).without("WARN"));
    let count = outcome.mails.len();
    let arrived = postfix.wait_for_mails_of(site.domain(), count);
    let arrived = arrived.into_iter().map(|path| {
        let mail = fs::read(&path).unwrap();
        let to = outbox_tests::mail::header(&mail, "To").expect("there is a recipient");
        let number = to.trim_matches(['<', '>']).strip_prefix('c').unwrap();
        (number.split('@').next().unwrap().parse().unwrap(), path)
    });
    judge_mails(&site, &cases, &arrived.collect(), Some(site.gnupg().home()));
    assert_eq!(site.pending(), 0);
}

/// What JSON can spell and PostgreSQL keeps as it was written, in a column of the type `json`: a NUL,
/// which Unicode has, and halves of characters, which it has not.
#[test]
fn a_nul_in_extra_arrives_and_half_a_character_costs_its_group() {
    let site =
        Site::new(programs!()).unsigned().template("formats/05-hostile.toml", FORMATS).build();
    site.sql("ALTER TABLE events ALTER extra TYPE json");
    let spelled = [
        (r"a\u0000b", Some("a\0b")),
        (r"\u0000", Some("\0")),
        (r"\ud83d\ude00", Some("\u{1f600}")),
        (r"\ud800", None),
        (r"\udc00x", None),
        (r"\ud800\ud800", None),
    ];
    for (number, (spelling, _)) in spelled.iter().enumerate() {
        for form in ["inline", "attached"] {
            let directive = Directive::to(&format!("{form}{number}@isp.example"));
            let directives = json!([directive.format(form, "csv").json()]);
            site.sql(&format!(
                r#"INSERT INTO events ("malware.name", extra) VALUES ('x',
                   '{{"banner": "{spelling}", "certbund": {{"source_directives": {directives}}}}}')"#
            ));
        }
    }
    let run = site.generator(&["run", "--all"]).expect(1);
    judge_log(&run);
    assert_eq!(run.lines("ERROR").len(), 2 * 3 + 1, "{run}");
    for (number, (_, arrives)) in spelled.iter().enumerate() {
        for form in ["inline", "attached"] {
            let to = format!("{form}{number}@isp.example");
            let Some(text) = arrives else {
                let words = format!("no mail for {to} ");
                run.line("ERROR", &[&words, "cannot read extra of event ", " directives="]);
                continue;
            };
            let path = site.mail_to(&to);
            let bytes = fs::read(&path).unwrap();
            let ticket = outbox_tests::mail::header(&bytes, "X-Ticket").unwrap();
            assert_eq!(super::wire::fault(&bytes, &ticket, site.domain(), false), None);
            let read = super::read(&[path], None).remove(0);
            assert_eq!(read.rows.unwrap()[1][2], *text, "{to}");
        }
    }
}

/// The columns with text that a shipped format shows, beside those in `extra`.
const TEXTS: [&str; 8] = [
    "classification.identifier",
    "destination.fqdn",
    "malware.name",
    "protocol.application",
    "source.fqdn",
    "source.reverse_dns",
    "source.url",
    "source.local_hostname",
];

/// The sample events with texts of the corpus in the places of theirs, the `round`th text first.
fn swept(round: usize) -> (Vec<Value>, Vec<String>) {
    let texts: Vec<String> = corpus::texts().into_iter().map(|hostile| hostile.text).collect();
    let mut next = (0..texts.len()).cycle().skip(round).map(|index| texts[index].clone());
    let mut events = outbox_tests::events::sample();
    for event in &mut events {
        for column in TEXTS {
            let text = next.next().unwrap();
            let fits = column != "protocol.application" || text.chars().count() <= 100;
            if !event[column].is_null() && fits {
                event[column] = text.into();
            }
        }
        for (key, value) in event["extra"].as_object_mut().unwrap() {
            if key != "certbund" {
                *value = next.next().unwrap().into();
            }
        }
    }
    (events, texts)
}

#[test]
fn the_shipped_formats_make_right_mails_of_hostile_sample_events() {
    let site = Site::new(programs!()).unsigned().build();
    sweep(&site, &[0, 77]);
}

#[test]
#[ignore = "it takes minutes: each text in each place"]
fn the_shipped_formats_make_right_mails_of_sample_events_with_each_text_in_each_place() {
    let site = Site::new(programs!()).unsigned().build();
    let rounds: Vec<usize> = (0..corpus::texts().len()).collect();
    sweep(&site, &rounds);
}

fn sweep(site: &Site, rounds: &[usize]) {
    for &round in rounds {
        let (events, texts) = swept(round);
        site.sql("DELETE FROM events");
        for sidecar in site.listed("sidecar").iter().chain(&site.listed("new")) {
            fs::remove_file(sidecar).unwrap();
        }
        site.insert(&events);
        site.sql("UPDATE directives SET inserted_at = inserted_at - interval '1 hour'");
        let run = site.generator(&["run", "--all"]);
        judge_log(&run);
        // A report can refuse a value, and says which. All else is a mail.
        for line in run.lines("ERROR").iter().rev().skip(1) {
            let known = ["as X-ARF: ", "format definition or script takes the group"];
            assert!(known.iter().any(|known| line.contains(known)), "{line}");
            assert!(line.contains(" directives="), "{line}");
        }
        let files = site.listed("new");
        assert!(files.len() > 30, "{run}");
        let sample = outbox_tests::events::sample();
        let known: Vec<String> = sample.iter().flat_map(strings).collect();
        let texts: Vec<String> = texts.iter().map(|text| super::lf(text)).collect();
        for (path, read) in files.iter().zip(super::read(&files, None)) {
            let bytes = fs::read(path).unwrap();
            let ticket = outbox_tests::mail::header(&bytes, "X-Ticket").unwrap();
            let fault = super::wire::fault(&bytes, &ticket, site.domain(), false);
            assert_eq!(fault, None, "{read:?}");
            assert_eq!(read.defects, [""; 0], "{read:?}");
            let rows = read.rows.as_ref().unwrap_or_else(|| panic!("no table: {read:?}"));
            let full = rows.iter().filter(|row| row.len() == rows[0].len() && row.len() > 1);
            for cell in full.skip(1).flatten() {
                let plain =
                    cell.len() < 40 && cell.chars().all(|c| c.is_ascii_graphic() || c == ' ');
                let ours = texts.contains(&super::lf(cell)) || known.contains(cell) || plain;
                assert!(ours, "{cell:?} in {read:?}");
            }
        }
    }
}

fn strings(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Object(map) => map.values().flat_map(strings).collect(),
        _ => Vec::new(),
    }
}
