//! The shipped format definitions, templates and sample events fit together.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use outbox::{DirectiveId, GroupKey};
use outbox_generator::column::Field;
use outbox_generator::formats::{
    Data, Decision, Definitions, MailPlan, NoScripts, Plan, TemplateChoice,
};
use outbox_generator::group::{EventId, Group};
use serde_json::Value;

type Aggregate = BTreeMap<String, Option<String>>;

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn shipped() -> Definitions {
    Definitions::load(&project("templates/formats")).expect("the shipped definitions")
}

fn now() -> Timestamp {
    "2026-10-05T12:00:00Z".parse().expect("a time")
}

fn group(key: GroupKey) -> Group {
    Group {
        key,
        directive_ids: Vec::new(),
        event_ids: Vec::new(),
        inserted_at: now(),
        notification_interval: SignedDuration::ZERO,
        last_sent: None,
    }
}

fn key(format: &str, data: &str, template: &str, aggregate: &Aggregate) -> GroupKey {
    GroupKey {
        recipient_address: "abuse@as64496.example".into(),
        template_name: template.into(),
        notification_format: format.into(),
        event_data_format: data.into(),
        aggregate_identifier: aggregate.clone(),
    }
}

fn plan(definitions: &Definitions, key: &GroupKey) -> Plan {
    match definitions.decide(&group(key.clone()), now(), &mut NoScripts).expect("a decision") {
        Some(Decision::Compose(plan)) => *plan,
        other => panic!("{key:?} is not composed: {other:?}"),
    }
}

/// The sample events' directives in groups, as the database would give them.
fn sample_groups() -> Vec<Group> {
    let text = fs::read_to_string(project("tests/events/sample-events.jsonl")).expect("events");
    let mut groups: BTreeMap<GroupKey, Group> = BTreeMap::new();
    for (event_id, line) in (1..).zip(text.lines()) {
        let event: Value = serde_json::from_str(line).expect("JSON");
        let directives = event["extra"]["certbund"]["source_directives"].as_array();
        for directive in directives.expect("directives") {
            let text = |key: &str| directive[key].as_str().expect("a string").to_owned();
            let interval = directive["notification_interval"].as_i64().expect("an interval");
            if interval == -1 {
                continue;
            }
            let aggregate = directive["aggregate_identifier"].as_object().expect("an object");
            let value = |value: &Value| match value {
                Value::Null => None,
                Value::String(text) => Some(text.clone()),
                other => Some(other.to_string()),
            };
            let key = GroupKey {
                recipient_address: text("recipient_address"),
                template_name: text("template_name"),
                notification_format: text("notification_format"),
                event_data_format: text("event_data_format"),
                aggregate_identifier: aggregate
                    .iter()
                    .map(|(k, v)| (k.clone(), value(v)))
                    .collect(),
            };
            let group = groups.entry(key.clone()).or_insert_with(|| group(key));
            let interval = SignedDuration::from_secs(interval);
            group.notification_interval = group.notification_interval.max(interval);
            let directive_id = i64::try_from(group.directive_ids.len()).expect("few") + 1;
            group.directive_ids.push(DirectiveId(event_id * 100 + directive_id));
            group.event_ids.push(EventId(event_id));
        }
    }
    groups.into_values().collect()
}

/// The names in a template's `${…}`; there must be no other `$`.
fn placeholders<'t>(text: &'t str) -> BTreeSet<&'t str> {
    let named = |piece: &'t str| {
        let name = piece.strip_prefix('{').and_then(|rest| rest.split_once('}'));
        name.unwrap_or_else(|| panic!("a stray $ before {piece:?}")).0
    };
    text.split('$').skip(1).map(named).collect()
}

/// Checks that each name a mail's template uses has a value for a group with this `aggregate`.
fn assert_all_names_have_values(mail: &MailPlan, aggregate: &Aggregate) {
    let text = match &mail.template {
        TemplateChoice::Named(name) => fs::read_to_string(project("templates").join(name))
            .unwrap_or_else(|error| panic!("the template {name}: {error}")),
        TemplateChoice::Inline { subject, body } => format!("{}\n\n{}", subject.text, body.text),
    };
    let (subject, body) = text.split_once("\n\n").expect("a subject and a body");
    assert!(subject.contains("${ticket_number}") && !subject.contains('\n'), "{subject}");
    assert_eq!(body.matches("${events_as_csv}").count(), 1, "{text}");
    for name in placeholders(&text) {
        if name == "ticket_number" || name == "events_as_csv" || aggregate.contains_key(name) {
            continue;
        }
        let value = mail.substitutions.get(name).unwrap_or_else(|| panic!("${{{name}}} in {text}"));
        for inner in placeholders(&value.text) {
            let known = inner == "ticket_number" || aggregate.contains_key(inner);
            assert!(known, "${{{inner}}} in ${{{name}}} in {text}");
        }
    }
}

/// Which directives name a shipped template: notification format and event data formats.
fn named_by(template: &str) -> (String, Vec<String>) {
    let both = |format: &str| {
        let data = ["inline", "attachment"].map(|kind| format!("{format}_csv_{kind}"));
        (format.to_owned(), data.to_vec())
    };
    if let Some(feed) = template.strip_prefix("shadowserver_") {
        ("shadowserver".into(), vec![feed.to_owned()])
    } else if template == "malware-infection_provider" {
        both("malware-infection")
    } else if template.ends_with("_provider") {
        both("vulnerable-service")
    } else if template == "generic" {
        ("text".into(), vec!["csv_inline".into(), "csv_attachment".into()])
    } else if template == "demo.txt" {
        ("demo".into(), vec!["csv".into()])
    } else {
        panic!("{template} is a template for what?")
    }
}

#[test]
fn every_group_of_the_sample_events_is_a_mail_but_x_arf() {
    let definitions = shipped();
    let groups = sample_groups();
    let mut left = Vec::new();
    for group in &groups {
        match definitions.decide(group, now(), &mut NoScripts).expect("a decision") {
            Some(Decision::Compose(plan)) => {
                assert_eq!(plan.mails.len(), 1);
                assert_all_names_have_values(&plan.mails[0], &group.key.aggregate_identifier);
            }
            Some(postponed @ Decision::Postponed { .. }) => panic!("{postponed:?}"),
            None => left.push(group.key.notification_format.as_str()),
        }
    }
    assert_eq!(left, ["xarf", "xarf"]);
    assert!(groups.iter().any(|group| group.event_ids.len() > 3), "groups of many events");
}

#[test]
fn every_shipped_format_is_met_by_a_sample_event() {
    let definitions = shipped();
    let met: BTreeSet<String> = sample_groups()
        .iter()
        .filter_map(|group| {
            match definitions.decide(group, now(), &mut NoScripts).expect("a decision") {
                Some(Decision::Compose(plan)) => Some(plan.format.name),
                _ => None,
            }
        })
        .collect();
    let unmet: Vec<_> =
        definitions.formats().map(|f| f.name).filter(|name| !met.contains(name)).collect();
    // Its template would be a file for a service that nobody named yet.
    assert_eq!(unmet, ["other vulnerable service"]);
}

#[test]
fn every_shipped_template_has_a_value_for_each_name_in_every_format_that_names_it() {
    let definitions = shipped();
    let aggregates = ["", "source.asn", "cidr", "source.geolocation.cc", "time.observation"];
    let mut seen = 0;
    for entry in fs::read_dir(project("templates")).expect("the templates") {
        let entry = entry.expect("a template");
        if entry.path().is_dir() {
            continue;
        }
        let template = entry.file_name().into_string().expect("a name");
        let (format, datas) = named_by(&template);
        for data in datas {
            for name in aggregates {
                let aggregate: Aggregate = [(name.to_owned(), Some("1".to_owned()))].into();
                let plan = plan(&definitions, &key(&format, &data, &template, &aggregate));
                assert_eq!(plan.mails[0].template, TemplateChoice::Named(template.clone()));
                assert_all_names_have_values(&plan.mails[0], &aggregate);
                let (shows, attached) = (plan.mails[0].data, data.ends_with("_attachment"));
                assert_eq!(shows == Data::Attachment, attached || format == "demo", "{data}");
                // None is there by the grace of a rule for the rest.
                let rest = ["fallback", "other vulnerable service"];
                assert!(!rest.contains(&plan.format.name.as_str()), "{template}");
                seen += 1;
            }
        }
    }
    assert!(seen > 250, "{seen}");
}

#[test]
fn the_text_says_what_the_events_have_in_common() {
    let definitions = shipped();
    for (name, about, in_network) in [
        ("source.asn", "about AS ${source.asn}", " in AS ${source.asn}"),
        ("cidr", "about CIDR ${cidr}", " in ${cidr}"),
        ("time.observation", "", " in your network"),
    ] {
        let aggregate: Aggregate = [(name.to_owned(), Some("1".to_owned()))].into();
        let plan = plan(&definitions, &key("text", "csv_inline", "generic", &aggregate));
        assert_eq!(plan.mails[0].substitutions["asn_or_cidr"].text, about);
        assert_eq!(plan.mails[0].substitutions["in_network_en"].text, in_network);
    }
}

#[test]
fn the_fallback_takes_what_is_left_with_its_own_text_and_leaves_x_arf_alone() {
    let definitions = shipped();
    let none = Aggregate::new();
    for (data, form) in [("anything", Data::Inline), ("x_csv_attachment", Data::Attachment)] {
        let plan = plan(&definitions, &key("new", data, "no-such-file", &none));
        assert_eq!(plan.format.name, "fallback");
        assert_eq!(plan.mails[0].data, form);
        assert_all_names_have_values(&plan.mails[0], &none);
        let columns: Vec<_> = plan.mails[0]
            .columns
            .iter()
            .map(|column| match &column.field {
                Field::Event(name) => (name.as_str(), column.title.as_str()),
                Field::Extra(key) => panic!("extra.{key}"),
            })
            .collect();
        assert_eq!(
            columns,
            [
                ("source.asn", "asn"),
                ("source.ip", "ip"),
                ("time.source", "timestamp"),
                ("source.port", "src_port"),
                ("destination.ip", "dst_ip"),
                ("destination.port", "dst_port"),
                ("destination.fqdn", "dst_host"),
                ("protocol.transport", "proto"),
            ]
        );
        let TemplateChoice::Inline { subject, .. } = &plan.mails[0].template else {
            panic!("a file")
        };
        assert_eq!(subject.text, "CB-Report#${ticket_number}");
    }
    let xarf = group(key("xarf", "bot-infection_0.2.0_unstable", "xarf_bot-infection", &none));
    assert_eq!(definitions.decide(&xarf, now(), &mut NoScripts).expect("no format"), None);
}

#[test]
fn reports_with_an_interval_wait_for_it() {
    let definitions = shipped();
    for (format, data, template) in [
        ("malware-infection", "malware-infection_csv_inline", "malware-infection_provider"),
        ("ebury", "ebury_csv_attachment", "malware-infection_provider"),
        ("vulnerable-service", "vulnerable-service_csv_inline", "opendns_provider"),
    ] {
        let mut group = group(key(format, data, template, &Aggregate::new()));
        group.notification_interval = SignedDuration::from_hours(24);
        group.last_sent = Some(now() - SignedDuration::from_hours(23));
        let decision = definitions.decide(&group, now(), &mut NoScripts).expect("a decision");
        assert!(matches!(decision, Some(Decision::Postponed { .. })), "{format}: {decision:?}");
        group.last_sent = Some(now() - SignedDuration::from_hours(24));
        let decision = definitions.decide(&group, now(), &mut NoScripts).expect("a decision");
        assert!(matches!(decision, Some(Decision::Compose(_))), "{format}: {decision:?}");
    }
}

#[test]
fn the_example_of_copies_serves_a_constituency() {
    let folder = tempfile::tempdir().expect("a folder");
    for from in ["templates/formats", "templates/formats/examples"] {
        for entry in fs::read_dir(project(from)).expect("a folder") {
            let entry = entry.expect("a file");
            if entry.path().is_file() {
                fs::copy(entry.path(), folder.path().join(entry.file_name())).expect("a copy");
            }
        }
    }
    let definitions = Definitions::load(folder.path()).expect("definitions");
    let copies = |recipient_group: &str| {
        let aggregate = [("recipient_group".to_owned(), Some(recipient_group.to_owned()))].into();
        plan(&definitions, &key("text", "csv_inline", "generic", &aggregate)).mails.split_off(1)
    };
    let [copy] = &copies("Energy")[..] else { panic!("one copy") };
    let to = "internal-energy@cert.example".parse().expect("an address");
    assert_eq!(copy.envelope_to, Some(vec![to]));
    assert!(!copy.mark_sent);
    assert_eq!(copy.data, Data::Attachment);
    let place = &copy.substitutions["data_location_en"].text;
    assert_eq!(place, "in the attached file events.csv");
    assert_eq!(copies("Government").len(), 1);
    assert_eq!(copies("Health").len(), 0);
}

#[test]
fn the_sample_events_are_from_ranges_for_documentation() {
    let text = fs::read_to_string(project("tests/events/sample-events.jsonl")).expect("events");
    assert!(text.lines().count() >= 60);
    for line in text.lines() {
        let event: Value = serde_json::from_str(line).expect("JSON");
        for key in ["source.ip", "destination.ip"] {
            if let Some(ip) = event[key].as_str() {
                let ranges = ["192.0.2.", "198.51.100.", "203.0.113.", "2001:db8:"];
                assert!(ranges.iter().any(|range| ip.starts_with(range)), "{ip}");
            }
        }
        let asn = event["source.asn"].as_i64().expect("an AS number");
        let ranges = [64496..=64511, 65536..=65551, 4_200_000_000..=4_294_967_294];
        assert!(ranges.iter().any(|range| range.contains(&asn)), "{asn}");
    }
}
