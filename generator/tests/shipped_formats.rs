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
use outbox_generator::template::{Filled, Template};
use serde_json::Value;

type Aggregate = BTreeMap<String, Option<String>>;

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn shipped() -> Definitions {
    Definitions::load(&project("templates/formats")).expect("the shipped definitions")
}

/// The same, with what stands in the folder of examples copied to them.
fn shipped_with_examples() -> Definitions {
    let folder = tempfile::tempdir().expect("a folder");
    for from in ["templates/formats", "templates/formats/examples"] {
        for entry in fs::read_dir(project(from)).expect("a folder") {
            let entry = entry.expect("a file");
            if entry.path().is_file() {
                fs::copy(entry.path(), folder.path().join(entry.file_name())).expect("a copy");
            }
        }
    }
    Definitions::load(folder.path()).expect("definitions")
}

fn now() -> Timestamp {
    "2026-10-05T12:00:00Z".parse().expect("a time")
}

fn group(key: GroupKey) -> Group {
    Group {
        key,
        directive_ids: Vec::new(),
        event_ids: Vec::new(),
        // Nothing more is added to it.
        inserted_at: now() - SignedDuration::from_hours(1),
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

/// The folders with a template for each shipped format: English, and German with English below.
const SETS: [&str; 2] = ["templates", "templates/de"];

/// The templates of a set by their names.
fn templates(set: &str) -> BTreeMap<String, String> {
    fs::read_dir(project(set))
        .expect("the templates")
        .map(|entry| entry.expect("a template"))
        .filter(|entry| entry.path().is_file())
        .map(|entry| {
            let text = fs::read_to_string(entry.path())
                .unwrap_or_else(|error| panic!("{}: {error}", entry.path().display()));
            (entry.file_name().into_string().expect("a name"), text)
        })
        .collect()
}

/// What each mail has a value for, beside its substitutions and the aggregate identifier.
fn value_of_each_mail(name: &str) -> Option<&'static str> {
    match name {
        "ticket_number" => Some("20261125-10000001"),
        "number_of_events" => Some("100000"),
        "part_number" | "number_of_parts" => Some("10"),
        "attachment_name" => Some("events.csv"),
        _ => None,
    }
}

/// The names in a text's `${…}`.
fn placeholders(text: &str) -> impl Iterator<Item = &str> {
    text.split("${").skip(1).filter_map(|rest| Some(rest.split_once('}')?.0))
}

/// Stands for the table of events in a filled template.
const TABLE: &str = "<the table of events>";

/// Fills a mail's template for a group with this `aggregate`, with the template files of this set.
fn filled(set: &str, mail: &MailPlan, aggregate: &Aggregate) -> Filled {
    let template = match &mail.template {
        TemplateChoice::Named(name) => Template::load(&project(set), name),
        TemplateChoice::Inline { subject, body } => {
            Template::from_parts("inline", &subject.text, &body.text)
        }
    };
    let template = template.expect("a template");
    let known = |name: &str| {
        let value = aggregate.get(name).map(|value| value.as_deref().unwrap_or_default());
        value.or(value_of_each_mail(name))
    };
    let texts: BTreeMap<&str, String> = (mail.substitutions.iter())
        .filter(|(name, _)| template.placeholders().any(|placeholder| placeholder.name == **name))
        .map(|(name, text)| {
            let text = Template::from_parts(name, "", &text.text).and_then(|text| text.fill(known));
            (name.as_str(), text.expect("a text without unknown names").body)
        })
        .collect();
    template
        .fill(|name| match name {
            "events_as_csv" => Some(TABLE),
            name => known(name).or_else(|| texts.get(name).map(String::as_str)),
        })
        .expect("a template without unknown names")
}

/// Checks that a mail's template can be filled, and that what comes of it is fit to be read.
fn assert_reads_well(set: &str, mail: &MailPlan, aggregate: &Aggregate) {
    let Filled { subject, body } = filled(set, mail, aggregate);
    assert!(subject.contains("20261125-10000001") && !subject.contains('\n'), "{subject}");
    assert_eq!(body.matches(TABLE).count(), 1, "{body}");
    assert!(body.trim_end().ends_with(TABLE), "a reply would be below the table: {body}");
    for line in body.lines() {
        assert!(line.chars().count() <= 76, "too long: {line:?}");
        assert_eq!(line, line.trim_end(), "blanks at the end: {line:?}");
    }
    assert!(!body.contains("\n\n\n"), "two empty lines in a row: {body}");
}

/// Which directives name a shipped template: notification format and event data formats.
fn named_by(template: &str) -> (String, Vec<String>) {
    let both = |format: &str| {
        let data = ["inline", "attachment"].map(|kind| format!("{format}_csv_{kind}"));
        (format.to_owned(), data.to_vec())
    };
    if let Some(feed) = template.strip_prefix("shadowserver_") {
        ("shadowserver".into(), vec![feed.to_owned()])
    } else if let Some(kind) = template.strip_prefix("xarf_") {
        let data: &[&str] = match kind {
            "bot-infection" => &["bot-infection_0.2.0_unstable", "infrastructure-botnet_4"],
            "open-service" => &["vulnerability-open-service_4"],
            "login-attack" => &["connection-login-attack_4"],
            "phishing" => &["content-phishing_4"],
            _ => panic!("{template} is a template for what?"),
        };
        ("xarf".into(), data.iter().map(ToString::to_string).collect())
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
fn every_group_of_the_sample_events_is_a_mail_but_one() {
    let definitions = shipped();
    let groups = sample_groups();
    let mut left = Vec::new();
    for group in &groups {
        match definitions.decide(group, now(), &mut NoScripts).expect("a decision") {
            Some(Decision::Compose(plan)) => {
                assert_eq!(plan.mails.len(), 1);
                assert_reads_well("templates", &plan.mails[0], &group.key.aggregate_identifier);
            }
            Some(postponed @ Decision::Postponed { .. }) => panic!("{postponed:?}"),
            None => left.push(group.key.event_data_format.as_str()),
        }
    }
    assert_eq!(left, ["login-attack_0.1.2"], "a report of a kind that no format is for");
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
    assert_eq!(unmet, [""; 0]);
}

#[test]
fn every_shipped_template_can_be_filled_in_every_format_that_names_it() {
    let definitions = shipped();
    let common = ["", "source.asn", "cidr", "source.geolocation.cc", "recipient_group"];
    let mut seen = 0;
    for (set, template) in
        SETS.iter().flat_map(|set| templates(set).into_keys().map(move |name| (set, name)))
    {
        let (format, datas) = named_by(&template);
        for data in datas {
            for name in common {
                let observed = ("time.observation".to_owned(), Some("2026-10-05T06:00:00Z".into()));
                let aggregate: Aggregate =
                    [(name.to_owned(), Some("2001:db8:ffff:ffff::/64".to_owned())), observed]
                        .into();
                let plan = plan(&definitions, &key(&format, &data, &template, &aggregate));
                assert_eq!(plan.mails[0].template, TemplateChoice::Named(template.clone()));
                assert_reads_well(set, &plan.mails[0], &aggregate);
                let (shows, attached) = (plan.mails[0].data, data.ends_with("_attachment"));
                assert_eq!(shows == Data::Attachment, attached || format == "demo", "{data}");
                // None is there by the grace of a rule for the rest.
                let rest = ["fallback", "other vulnerable service"];
                assert!(!rest.contains(&plan.format.name.as_str()), "{template}");
                seen += 1;
            }
        }
    }
    assert!(seen > 500, "{seen}");
}

#[test]
fn the_german_set_has_every_template_with_the_english_text_below() {
    let [english, german] = SETS.map(templates);
    assert_eq!(german.keys().collect::<Vec<_>>(), english.keys().collect::<Vec<_>>());
    for (name, german) in &german {
        let english = &english[name];
        // The subjects, what is before the heading, and what is below it.
        let (subject, text) = german.split_once("\n\n").expect("a text");
        let (german_half, english_half) =
            text.split_once("\n\nEnglish version\n===============\n\n").expect("two halves");
        let (english_subject, english_text) = english.split_once("\n\n").expect("a text");
        assert!(german_half.starts_with("(English version below)\n\n"), "{name}");
        assert_eq!(
            english_half.split_once("${data_heading_").expect("a heading").0,
            english_text.split_once("${data_heading_").expect("a heading").0,
            "{name}: the English half is the English template"
        );
        assert!(german.ends_with("${data_heading_de_en}${events_as_csv}\n"), "{name}");
        if name != "generic" {
            assert_ne!(subject, english_subject);
        }

        // What a reader types is the same in both languages, and so is what they can look up.
        let commands = |half: &str| -> Vec<String> {
            half.lines().filter(|line| line.starts_with("    ")).map(str::to_owned).collect()
        };
        assert_eq!(commands(german_half), commands(english_half), "{name}");
        let refers = |half: &str, word: &str| half.lines().any(|line| line.starts_with(word));
        assert_eq!(refers(german_half, "Verweise: "), refers(english_half, "References: "));
        for name in placeholders(german_half).filter(|name| name.contains('_')) {
            assert!(name.ends_with("_de"), "{name} in {german_half}");
        }
        let letters = |c: char| c == '\n' || (' '..='~').contains(&c) || "äöüÄÖÜß„“".contains(c);
        assert!(text.chars().all(letters), "{name}: a character that no keyboard has");
        assert!(german_half.contains(['ä', 'ö', 'ü', 'ß']), "{name}");
    }
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
        let in_network = in_network.replace("your network", "Ihrem Netz");
        assert_eq!(plan.mails[0].substitutions["in_network_de"].text, in_network);
    }
}

#[test]
fn the_subject_says_which_part_of_a_group_a_mail_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let variables = project("templates/formats/00-variables.toml");
    fs::copy(variables, folder.path().join("00-variables.toml")).expect("a copy");
    let format = "[[format]]\nname = \"large\"\ncolumns = [\"source.ip\"]\nsplit_after = 10\n";
    fs::write(folder.path().join("10-large.toml"), format).expect("a definition");
    let definitions = Definitions::load(folder.path()).expect("definitions");

    let aggregate: Aggregate = [("source.asn".to_owned(), Some("64496".to_owned()))].into();
    let mut group = group(key("text", "csv_inline", "opendns_provider", &aggregate));
    let mut subjects = |events: i64| {
        group.event_ids = (0..events).map(EventId).collect();
        let decision = definitions.decide(&group, now(), &mut NoScripts).expect("a decision");
        let Some(Decision::Compose(plan)) = decision else { panic!("{decision:?}") };
        SETS.map(|set| filled(set, &plan.mails[0], &aggregate).subject)
    };
    assert_eq!(
        subjects(11),
        [
            "[CERT#20261125-10000001] Open DNS resolvers in AS 64496 (part 10 of 10)",
            "[CERT#20261125-10000001] Offene DNS-Resolver in AS 64496 (Teil 10 von 10)",
        ]
    );
    assert_eq!(
        subjects(10),
        [
            "[CERT#20261125-10000001] Open DNS resolvers in AS 64496",
            "[CERT#20261125-10000001] Offene DNS-Resolver in AS 64496",
        ]
    );
}

#[test]
fn the_fallback_takes_what_is_left_with_its_own_text_and_leaves_x_arf_alone() {
    let definitions = shipped();
    let none = Aggregate::new();
    for (data, form) in [("anything", Data::Inline), ("x_csv_attachment", Data::Attachment)] {
        let plan = plan(&definitions, &key("new", data, "no-such-file", &none));
        assert_eq!(plan.format.name, "fallback");
        assert_eq!(plan.mails[0].data, form);
        assert_reads_well("templates", &plan.mails[0], &none);
        let columns: Vec<_> = plan.mails[0]
            .columns
            .iter()
            .map(|column| match &column.field {
                Field::Event(name) => (name.as_str(), column.title.as_str()),
                other => panic!("{other}"),
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
    let xarf = group(key("xarf", "login-attack_0.1.2", "xarf_login-attack", &none));
    assert_eq!(definitions.decide(&xarf, now(), &mut NoScripts).expect("no format"), None);
}

#[test]
fn malware_waits_for_the_interval_and_vulnerable_services_for_late_events() {
    let definitions = shipped();
    let hours = SignedDuration::from_hours;
    let is_due =
        |group: &Group| match definitions.decide(group, now(), &mut NoScripts).expect("a decision")
        {
            Some(Decision::Compose(_)) => true,
            Some(Decision::Postponed { .. }) => false,
            None => panic!("{group:?} is not taken"),
        };

    for matter in ["malware-infection", "avalanche", "ebury", "mumblehard"] {
        let data = format!("{matter}_csv_inline");
        let key = key(matter, &data, "malware-infection_provider", &Aggregate::new());
        let mut group = group(key);
        group.notification_interval = hours(24);
        for (ago, due) in [(23, false), (24, true)] {
            group.last_sent = Some(now() - hours(ago));
            assert_eq!(is_due(&group), due, "{matter}");
        }
    }

    let observed_ago = |hours: i64| -> Group {
        let time = (now() - SignedDuration::from_hours(hours)).to_string();
        let aggregate = [("time.observation".to_owned(), Some(time))].into();
        let data = "vulnerable-service_csv_inline";
        let mut group = group(key("vulnerable-service", data, "opendns_provider", &aggregate));
        // Another observation is another matter, so that an interval is nothing to wait for.
        group.notification_interval = SignedDuration::from_hours(24);
        group.last_sent = Some(now());
        group
    };
    assert!(is_due(&observed_ago(2)) && !is_due(&observed_ago(1)));
    let mut group = observed_ago(2);
    for (ago, due) in [(14, false), (15, true)] {
        group.inserted_at = now() - SignedDuration::from_mins(ago);
        assert_eq!(is_due(&group), due);
    }
    group.key.aggregate_identifier.clear();
    let error =
        definitions.decide(&group, now(), &mut NoScripts).expect_err("no time of observation");
    assert!(error.to_string().contains("time.observation"), "{error}");
}

/// The titles of the columns that a group's table has.
fn titles(plan: &Plan) -> Vec<&str> {
    plan.mails[0].columns.iter().map(|column| column.title.as_str()).collect()
}

#[test]
fn the_tables_have_what_those_of_mailgens_example_scripts_have() {
    let malware = "asn ip timestamp malware src_port dst_ip dst_port dst_host proto";
    let fallback = "asn ip timestamp src_port dst_ip dst_port dst_host proto";
    let special = "ASN IP Time Identifier Malware Port Destination-IP Destination-Port \
                   Destination-FQDN";
    // Feed, service, and which columns there are beside asn, ip and timestamp.
    let feeds = [
        ("DNS-open-resolvers", "opendns", ""),
        ("Open-Portmapper", "openportmapper", ""),
        ("Open-SNMP", "opensnmp", "sysdesc"),
        ("Open-LDAP", "openldap", "dns_hostname"),
        ("Open-MSSQL", "openmssql", "version server_name instance_name"),
        ("Open-MongoDB", "openmongodb", "version"),
        ("Open-Chargen", "openchargen", ""),
        ("Open-IPMI", "openipmi", ""),
        ("Open-NetBIOS", "opennetbios", "workgroup machine_name"),
        ("NTP-Monitor", "openntp", ""),
        ("Open-Elasticsearch", "openelasticsearch", "version name"),
        ("Open-mDNS", "openmdns", "workstation_info"),
        ("Open-Memcached", "openmemcached", "version"),
        ("Open-Redis", "openredis", "version"),
        ("Open-SSDP", "openssdp", "server"),
        (
            "Ssl-Freak-Scan",
            "ssl-freak",
            "hostname subject_common_name issuer_common_name freak_cipher_suite",
        ),
        ("Ssl-Scan", "ssl-poodle", "hostname subject_common_name issuer_common_name"),
    ];
    // Format, event data format, template, and the columns in this order.
    let mut expected: Vec<(&str, String, String, String)> = vec![
        ("shadowserver", "csv_malware".into(), "shadowserver_csv_malware".into(), malware.into()),
        ("vulnerable-service", "x_csv_inline".into(), "openx_provider".into(), fallback.into()),
        ("demo", "csv".into(), "demo.txt".into(), fallback.into()),
        ("text", "csv_inline".into(), "generic".into(), fallback.into()),
        ("whatever", "csv".into(), "generic".into(), fallback.into()),
    ];
    for kind in ["inline", "attachment"] {
        let matter = |matter: &'static str, columns: &str| {
            let data = format!("{matter}_csv_{kind}");
            (matter, data, "malware-infection_provider".to_owned(), columns.to_owned())
        };
        expected.push(matter("malware-infection", malware));
        expected.extend(["avalanche", "ebury", "mumblehard"].map(|name| matter(name, special)));
    }
    for (feed, service, columns) in feeds {
        let columns = format!("asn ip timestamp {columns}");
        let data = format!("csv_{feed}");
        expected.push(("shadowserver", data, format!("shadowserver_csv_{feed}"), columns.clone()));
        for (kind, folder) in [("inline", ""), ("attachment", "de/")] {
            let data = format!("vulnerable-service_csv_{kind}");
            let template = format!("{folder}{service}_provider");
            expected.push(("vulnerable-service", data, template, columns.clone()));
        }
    }

    let definitions = shipped();
    let observed = ("time.observation".to_owned(), Some("2026-10-05T06:00:00+00:00".to_owned()));
    let aggregate: Aggregate = [observed].into();
    for (format, data, template, columns) in expected {
        let plan = plan(&definitions, &key(format, &data, &template, &aggregate));
        let titles = titles(&plan);
        let mut rest = titles.iter();
        for column in columns.split(' ').filter(|column| !column.is_empty()) {
            assert!(
                rest.any(|title| *title == column),
                "{column} of {columns} is not in {titles:?}"
            );
        }
    }
}

#[test]
fn every_extra_column_has_a_value_in_a_sample_event_of_its_format() {
    let definitions = shipped();
    let text = fs::read_to_string(project("tests/events/sample-events.jsonl")).expect("events");
    let events: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let mut with_value: BTreeMap<(String, String), bool> = BTreeMap::new();
    for group in sample_groups() {
        let decision = definitions.decide(&group, now(), &mut NoScripts).expect("a decision");
        let Some(Decision::Compose(plan)) = decision else { continue };
        for column in &plan.mails[0].columns {
            let Field::Extra(name) = &column.field else { continue };
            let has_value = group.event_ids.iter().any(|id| {
                let event = &events[usize::try_from(id.0).expect("a number") - 1];
                !event["extra"][name].is_null()
            });
            let key = (plan.format.name.clone(), name.clone());
            *with_value.entry(key).or_default() |= has_value;
        }
    }
    assert!(with_value.len() > 100, "{}", with_value.len());
    let empty: Vec<_> = with_value.iter().filter(|(_, has_value)| !**has_value).collect();
    assert!(empty.is_empty(), "{empty:?}");
}

#[test]
fn the_example_of_copies_serves_a_constituency() {
    let definitions = shipped_with_examples();
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
    assert_eq!(place, "in the attached file ${attachment_name}");
    assert_reads_well("templates/de", copy, &Aggregate::new());
    assert_eq!(copies("Government").len(), 1);
    assert_eq!(copies("Health").len(), 0);
}

#[test]
fn the_example_of_a_german_fallback_goes_before_the_english_one() {
    let definitions = shipped_with_examples();
    let none = Aggregate::new();
    for (data, form) in [("anything", Data::Inline), ("x_csv_attachment", Data::Attachment)] {
        let plan = plan(&definitions, &key("new", data, "no-such-file", &none));
        assert_eq!(plan.format.name, "fallback in German and English");
        assert_eq!(plan.mails[0].data, form);
        assert_reads_well("templates/de", &plan.mails[0], &none);
        let fallback = shipped();
        let fallback = self::plan(&fallback, &key("new", data, "no-such-file", &none));
        assert_eq!(titles(&plan), titles(&fallback));
    }
    let text = plan(&definitions, &key("text", "csv_inline", "generic", &none));
    assert_eq!(text.format.name, "text");
    let xarf = group(key("xarf", "login-attack_0.1.2", "xarf_login-attack", &none));
    assert_eq!(definitions.decide(&xarf, now(), &mut NoScripts).expect("no format"), None);
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
