//! Definitions from folders: what is read, what is refused, and what becomes of groups.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use jiff::{SignedDuration, Timestamp};
use outbox::GroupKey;
use tempfile::TempDir;

use outbox_config::Encrypt;

use super::*;
use crate::column::Column;
use crate::group::Group;

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in files {
        fs::write(folder.path().join(name), text).expect("a file");
    }
    folder
}

fn load(files: &[(&str, &str)]) -> Definitions {
    Definitions::load(folder(files).path()).expect("definitions")
}

/// The problems of a folder, each without the folder's name.
fn problems(files: &[(&str, &str)]) -> Vec<String> {
    let folder = folder(files);
    match Definitions::load(folder.path()) {
        Err(LoadError::Definitions(problems)) => {
            let strip = format!("{}/", folder.path().display());
            problems.iter().map(|problem| problem.to_string().replace(&strip, "")).collect()
        }
        other => panic!("no problems: {other:?}"),
    }
}

/// The one problem of a file that holds a good format and `text` in front of it.
fn problem(text: &str) -> String {
    let format = "[[format]]\nname = \"good\"\ncolumns = [\"source.ip\"]\n";
    let mut problems = problems(&[("10-test.toml", &format!("{text}\n{format}"))]);
    assert_eq!(problems.len(), 1, "{problems:?}");
    problems.remove(0)
}

/// The one problem of a format with `text` in it.
fn problem_in_format(text: &str) -> String {
    problem(&format!("[[format]]\nname = \"bad\"\ncolumns = [\"source.ip\"]\n{text}"))
}

fn now() -> Timestamp {
    "2026-11-20T12:00:00Z".parse().expect("a time")
}

fn group(notification_format: &str, event_data_format: &str) -> Group {
    Group {
        key: GroupKey {
            recipient_address: "abuse@as64496.example".into(),
            template_name: "generic".into(),
            notification_format: notification_format.into(),
            event_data_format: event_data_format.into(),
            aggregate_identifier: [("source.asn".to_owned(), Some("64496".to_owned()))].into(),
        },
        directive_ids: vec![],
        event_ids: vec![],
        inserted_at: "2026-11-20T11:50:00Z".parse().expect("a time"),
        notification_interval: SignedDuration::ZERO,
        last_sent: None,
    }
}

fn plan(definitions: &Definitions, group: &Group) -> Plan {
    match definitions.decide(group, now(), &mut NoScripts).expect("a decision") {
        Some(Decision::Compose(plan)) => *plan,
        other => panic!("no plan: {other:?}"),
    }
}

fn text<'p>(mail: &'p MailPlan, name: &str) -> Option<&'p str> {
    mail.substitutions.get(name).map(|text| text.text.as_str())
}

const SNMP: &str = r#"
[titles]
"source.asn" = "asn"
"extra.sysdesc" = "sysdesc"

[[format]]
name = "open SNMP"
when = { notification_format = "shadowserver", event_data_format = "csv_Open-SNMP" }
columns = ["source.asn", "source.ip", "extra.sysdesc", { field = "extra.a.b", title = "both" }, "extra.version"]
data = "attachment"
"#;

const REST: &str = r#"
[[format]]
name = "the rest"
columns = ["source.ip"]
"#;

// What is read

#[test]
fn files_are_asked_in_the_byte_order_of_their_names() {
    let one = |name: &str| format!("[[format]]\nname = {name:?}\ncolumns = [\"source.ip\"]\n");
    let definitions = load(&[
        ("20-b.toml", &one("third")),
        ("100-c.toml", &one("second")),
        ("00.toml", &format!("{}{}", one("first"), one("also first"))),
        ("20_B.toml", &one("last")),
    ]);
    let names: Vec<_> = definitions.formats().map(|format| format.to_string()).collect();
    assert_eq!(
        names,
        [
            "\"first\" (00.toml)",
            "\"also first\" (00.toml)",
            "\"second\" (100-c.toml)",
            "\"third\" (20-b.toml)",
            "\"last\" (20_B.toml)"
        ]
    );
}

#[test]
fn what_is_no_definition_is_told_and_leftovers_are_not() {
    let bad = "this is no definition";
    let folder = folder(&[
        ("10-good.toml", REST),
        ("10fallback.py", bad),
        ("20-script", bad),
        ("1-too-short.toml", bad),
        ("shadow.toml", bad),
        ("variables.json", bad),
        (".10-hidden.toml", bad),
        ("10-good.toml~", bad),
        ("#10-good.toml#", bad),
        ("10-good.toml.dpkg-old", bad),
        ("10-good.toml.bak", bad),
        (".10-good.toml.swp", bad),
    ]);
    fs::create_dir(folder.path().join("__pycache__")).expect("a folder");
    let definitions = Definitions::load(folder.path()).expect("definitions");
    let ignored: Vec<_> =
        definitions.ignored().iter().filter_map(|path| path.file_name()?.to_str()).collect();
    assert_eq!(ignored, ["1-too-short.toml", "20-script", "shadow.toml"]);
    assert_eq!(definitions.formats().count(), 1);
}

/// Remembers whom it was asked to ask.
struct Asked(Vec<String>);

impl Ask for Asked {
    fn ask(
        &mut self,
        script: &ScriptFile,
        _: &Group,
        _: Timestamp,
        _: &Texts,
    ) -> Result<Answer, AskError> {
        self.0.push(script.name.clone());
        Ok(Answer::Pass(BTreeMap::new()))
    }
}

#[test]
fn scripts_are_told_from_definitions_by_name_and_mode_and_asked_in_the_same_order() {
    let folder = folder(&[
        ("10-rest.toml", REST),
        ("05-program", ""),
        ("05-program.sh", ""),
        ("20-no-program", ""),
        ("20_program", ""),
        ("15mailgen.py", ""),
        ("123.py", ""),
        ("1.py", ""),
        ("30-program~", ""),
    ]);
    for name in
        ["10-rest.toml", "05-program", "05-program.sh", "20_program", "123.py", "30-program~"]
    {
        let executable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(folder.path().join(name), executable).expect("a mode");
    }
    fs::create_dir(folder.path().join("40-folder")).expect("a folder");
    symlink(folder.path().join("15mailgen.py"), folder.path().join("50linked.py")).expect("a link");
    let definitions = Definitions::load(folder.path()).expect("definitions");
    let scripts: Vec<_> =
        definitions.scripts().map(|script| (script.name.as_str(), script.kind)).collect();
    let (program, python) = (ScriptKind::Executable, ScriptKind::Python);
    assert_eq!(
        scripts,
        [
            ("05-program", program),
            ("05-program.sh", program),
            ("123.py", python),
            ("15mailgen.py", python),
            ("50linked.py", python),
        ]
    );
    assert_eq!(definitions.ignored().len(), 3, "{:?}", definitions.ignored());

    let mut asked = Asked(Vec::new());
    let decision = definitions.decide(&group("text", "csv"), now(), &mut asked);
    assert!(matches!(decision, Ok(Some(Decision::Compose(_)))), "{decision:?}");
    assert_eq!(asked.0, ["05-program", "05-program.sh"], "those before the definition");
}

#[test]
fn a_linked_file_is_a_definition_and_an_empty_folder_has_none() {
    let shipped = folder(&[("fallback", REST)]);
    let folder = folder(&[]);
    let empty = Definitions::load(folder.path()).expect("definitions");
    assert_eq!(
        empty.decide(&group("text", "csv_inline"), now(), &mut NoScripts).expect("a decision"),
        None
    );
    symlink(shipped.path().join("fallback"), folder.path().join("90-rest.toml")).expect("a link");
    let linked = Definitions::load(folder.path()).expect("definitions");
    assert_eq!(linked.formats().count(), 1);
}

#[test]
fn columns_have_the_title_they_are_given_or_the_files_or_their_own_name() {
    let definitions = load(&[("10-test.toml", SNMP)]);
    let plan = plan(&definitions, &group("shadowserver", "csv_Open-SNMP"));
    let column = |field, title: &str| Column { field, title: title.to_owned() };
    assert_eq!(
        plan.mails[0].columns,
        [
            column(Field::Event("source.asn".into()), "asn"),
            column(Field::Event("source.ip".into()), "source.ip"),
            column(Field::Extra("sysdesc".into()), "sysdesc"),
            column(Field::Extra("a.b".into()), "both"),
            column(Field::Extra("version".into()), "version"),
        ]
    );
    let fields: Vec<_> = definitions.fields().into_iter().cloned().collect();
    assert_eq!(fields.len(), 5);
    assert!(fields.contains(&Field::Extra("a.b".into())));
}

#[test]
fn titles_are_for_their_own_file() {
    let definitions =
        load(&[("00-titles.toml", "[titles]\n\"source.ip\" = \"ip\"\n"), ("10-rest.toml", REST)]);
    assert_eq!(plan(&definitions, &group("text", "csv")).mails[0].columns[0].title, "source.ip");
}

// What is refused

#[test]
fn broken_toml_names_file_line_and_column() {
    let problem = problem("# a comment\nname = \"ü\" x");
    assert!(problem.starts_with("10-test.toml:2:12: "), "{problem}");
    // `name` would also be unknown there, but what the parser made of the text is not judged.
    assert!(!problem.contains("unknown key"), "{problem}");
}

#[test]
fn an_unknown_key_names_its_place_and_the_nearest_known_key() {
    assert_eq!(
        problem_in_format("colums = []"),
        "10-test.toml:4:1: unknown key `colums` in [[format]], did you mean `columns`?"
    );
    assert_eq!(
        problem_in_format("when = { a = 1 }"),
        "10-test.toml:4:10: unknown key `a` in `when`, known are `notification_format`, \
         `event_data_format`, `template_name`, `recipient_address`, `aggregate`, `has_aggregate`"
    );
    assert_eq!(
        problem("[[formats]]"),
        "10-test.toml:1:3: unknown key `formats` in a definition file, did you mean `format`?"
    );
    assert_eq!(
        problem_in_format("postpone = { newest_directive_younger = \"1m\" }"),
        "10-test.toml:4:14: unknown key `newest_directive_younger` in `postpone`, did you mean \
         `newest_directive_younger_than`?"
    );
    assert!(
        problem("[[copy]]\nenvelope_to = \"a@b.example\"\nname = \"x\"").contains(":3:1: unknown")
    );
    assert!(problem("[substitutions_for_data.inlined]").contains("did you mean `inline`?"));
    assert!(problem("[[substitutions_when]]\nset = {}\nwhen = {}").contains("unknown key `when`"));
}

#[test]
fn all_problems_of_all_files_are_told_at_once() {
    let problems = problems(&[
        (
            "10-a.toml",
            "[[format]]\nnam = 1\n[[format]]\ndat = 2\nname = 5\ncolumns = \"source.ip\"\n",
        ),
        ("20-b.toml", REST),
        ("30-c.toml", "x ="),
        ("40-d.toml", "[titel]"),
    ]);
    let places: Vec<_> =
        problems.iter().map(|text| text.split(": ").next().unwrap_or_default()).collect();
    assert_eq!(
        places,
        [
            "10-a.toml:1:1",
            "10-a.toml:1:1",
            "10-a.toml:2:1",
            "10-a.toml:4:1",
            "10-a.toml:5:8",
            "10-a.toml:6:11",
            "30-c.toml:1:4",
            "40-d.toml:1:2"
        ],
        "{problems:#?}"
    );
}

#[test]
fn the_error_lists_the_problems_in_one_line() {
    let folder = folder(&[("10-a.toml", "a = 1\nb = 2\n")]);
    let error = Definitions::load(folder.path()).expect_err("unknown keys").to_string();
    assert!(error.starts_with("failed to read the format definitions: /"), "{error}");
    assert!(error.contains("10-a.toml:1:1: unknown") && error.contains("; /"), "{error}");
    assert!(!error.contains('\n'));
}

#[test]
fn a_missing_folder_and_an_unreadable_file_are_errors_that_name_them() {
    let folder = folder(&[]);
    let missing = folder.path().join("missing");
    let error = Definitions::load(&missing).expect_err("no folder").to_string();
    assert_eq!(
        error,
        format!("failed to read the folder of format definitions {}", missing.display())
    );

    fs::create_dir(folder.path().join("10-folder.toml")).expect("a folder");
    fs::write(folder.path().join("20-latin1.toml"), b"name = \"\xfc\"").expect("a file");
    let error = Definitions::load(folder.path()).expect_err("unreadable").to_string();
    assert!(error.contains("10-folder.toml: ") && error.contains("20-latin1.toml: "), "{error}");
}

#[test]
fn a_format_needs_a_name_of_its_own_and_columns_with_titles_of_their_own() {
    assert!(
        problem("[[format]]\ncolumns = [\"a\"]").ends_with(":1:1: [[format]] lacks the key `name`")
    );
    assert!(problem("[[format]]\nname = \"x\"").ends_with("lacks the key `columns`"));
    assert!(problem("[[format]]\nname = \" \"\ncolumns = [\"a\"]").ends_with("`name` is empty"));
    assert!(problem("[[format]]\nname = \"x\"\ncolumns = []").ends_with("`columns` is empty"));
    assert_eq!(
        problem("[[format]]\nname = \"good\"\ncolumns = [\"a\"]"),
        "10-test.toml:4:1: a format named \"good\" is already in 10-test.toml"
    );
    assert_eq!(
        problems(&[("10-a.toml", REST), ("20-b.toml", REST)]),
        ["20-b.toml:2:1: a format named \"the rest\" is already in 10-a.toml"]
    );
    assert_eq!(
        problem("[[format]]\nname = \"x\"\ncolumns = [\"extra.a\", { field = \"a\" }]"),
        "10-test.toml:3:23: two columns have the title \"a\""
    );
}

#[test]
fn a_wrong_field_is_refused_and_mailgens_spelling_is_explained() {
    assert!(
        problem("[[format]]\nname = \"x\"\ncolumns = [\"extra:tag\"]")
            .ends_with("\"extra:tag\" is no field: a key of `extra` is written \"extra.tag\"")
    );
    assert!(problem("[titles]\n\"extra.\" = \"x\"").ends_with(":2:1: \"extra.\" is no field"));
    assert!(
        problem("[titles]\nsource.asn = \"asn\"")
            .ends_with("`source` must be a string, not table (a key with dots needs quotes)")
    );
}

#[test]
fn data_of_an_unknown_form_names_the_known_ones() {
    assert_eq!(
        problem_in_format("data = \"xarf-5\""),
        "10-test.toml:4:8: unknown form of `data` \"xarf-5\", did you mean `xarf-4`?"
    );
    assert!(problem_in_format("data = \"attached\"").ends_with("did you mean `attachment`?"));
    assert!(problem_in_format("data = { inlin = \"*\" }").ends_with("did you mean `inline`?"));
    assert!(problem_in_format("data = 4").ends_with("`data` must be a string, not integer"));
}

#[test]
fn a_format_and_a_copy_can_say_whether_their_mails_are_encrypted() {
    let copies = "[[copy]]\nenvelope_to = \"same@cert.example\"\n[[copy]]\n\
        envelope_to = \"other@cert.example\"\nencrypt = \"never\"\n";
    for (line, [mail, same, other]) in [
        ("", [None, None, Some(Encrypt::Never)]),
        (
            "encrypt = \"if-key\"",
            [Some(Encrypt::IfKey), Some(Encrypt::IfKey), Some(Encrypt::Never)],
        ),
    ] {
        let definitions = load(&[("10-a.toml", &format!("{copies}{REST}{line}"))]);
        let mails = plan(&definitions, &group("text", "csv")).mails;
        let said: Vec<_> = mails.into_iter().map(|mail| mail.encrypt).collect();
        assert_eq!(said, [mail, same, other]);
    }
    assert!(
        problem_in_format("encrypt = \"if_key\"")
            .ends_with("unknown value of `encrypt` \"if_key\", did you mean `if-key`?")
    );
    assert!(problem_in_format("encrypt = true").ends_with("must be a string, not boolean"));
}

#[test]
fn a_duration_that_is_none_is_refused() {
    let problem = problem_in_format("postpone = { observation_younger_than = \"2 hours\" }");
    assert!(problem.starts_with("10-test.toml:4:41: \"2 hours\" is no duration"), "{problem}");
    assert!(problem_in_format("postpone = {}").ends_with("`postpone` is empty"));
    assert!(
        problem_in_format("postpone = { within_notification_interval = \"yes\" }")
            .ends_with("must be true or false, not string")
    );
}

#[test]
fn a_substitution_must_be_a_name_that_a_template_can_use_and_the_mail_does_not_set() {
    for name in ["ticket_number", "events_as_csv"] {
        let problem = problem(&format!("[substitutions]\n{name} = \"x\""));
        assert!(problem.contains(":2:1: ") && problem.contains("can't be set"), "{problem}");
    }
    assert!(problem("[substitutions]\ndata-location = \"x\"").contains("no template can name"));
    assert!(problem("[substitutions]\n4th = \"x\"").contains("no template can name"));
    assert!(
        problem_in_format("substitutions = { a = 1 }").ends_with("must be a string, not integer")
    );
}

#[test]
fn template_and_subject_with_body_exclude_each_other() {
    assert!(problem_in_format("template = \"a\"\nsubject = \"b\"").contains("excludes"));
    assert!(problem_in_format("subject = \"b\"").ends_with("need each other"));
    assert!(problem_in_format("body = \"b\"").ends_with("need each other"));
    assert!(problem_in_format("subject = \"a\\nb\"\nbody = \"\"").contains("a single line"));
    assert!(problem_in_format("template = \"\"").ends_with("`template` is empty"));
}

#[test]
fn a_copy_needs_addresses() {
    assert!(problem("[[copy]]").ends_with("[[copy]] lacks the key `envelope_to`"));
    assert!(problem("[[copy]]\nenvelope_to = []").ends_with("`envelope_to` is empty"));
    assert!(
        problem("[[copy]]\nenvelope_to = [\"a@b.example\", \"nobody\"]")
            .starts_with("10-test.toml:2:31: failed to read the mail address \"nobody\"")
    );
}

#[test]
fn a_rule_that_leaves_all_groups_alone_is_refused() {
    assert!(problem_in_format("unless = {}").contains("would leave the rule no group"));
}

#[test]
fn a_table_where_several_are_meant_says_how_it_is_written() {
    assert!(
        problem("[copy]\nenvelope_to = \"a@b.example\"").ends_with("double brackets: [[copy]]")
    );
}

// What becomes of groups

#[test]
fn the_first_format_that_is_for_a_group_decides_it() {
    let definitions = load(&[("10-snmp.toml", SNMP), ("90-rest.toml", REST)]);
    let snmp = plan(&definitions, &group("shadowserver", "csv_Open-SNMP"));
    assert_eq!(snmp.format.to_string(), "\"open SNMP\" (10-snmp.toml)");
    assert_eq!(snmp.mails[0].data, Data::Attachment);
    let rest = plan(&definitions, &group("shadowserver", "csv_Open-LDAP"));
    assert_eq!(rest.format.to_string(), "\"the rest\" (90-rest.toml)");
    assert_eq!(rest.mails[0].data, Data::Inline);
    assert_eq!(rest.mails[0].template, TemplateChoice::Named("generic".into()));
}

#[test]
fn a_group_that_no_format_is_for_has_no_decision() {
    let definitions = load(&[("10-snmp.toml", SNMP)]);
    assert_eq!(
        definitions
            .decide(&group("xarf", "csv_Open-SNMP"), now(), &mut NoScripts)
            .expect("a decision"),
        None
    );
}

#[test]
fn unless_leaves_groups_alone() {
    let rest = format!("{REST}unless = {{ notification_format = [\"xarf\", \"paper*\"] }}");
    let definitions = load(&[("90-rest.toml", &rest)]);
    for (format, taken) in [("text", true), ("xarf", false), ("paper-mail", false)] {
        let decision =
            definitions.decide(&group(format, "csv"), now(), &mut NoScripts).expect("a decision");
        assert_eq!(decision.is_some(), taken, "{format}");
    }
}

#[test]
fn an_aggregate_can_be_compared_with_a_number() {
    let rest = format!("{REST}when = {{ aggregate = {{ \"source.asn\" = [64495, 64496] }} }}");
    let definitions = load(&[("90-rest.toml", &rest)]);
    plan(&definitions, &group("text", "csv"));
}

#[test]
fn the_form_of_the_data_can_depend_on_the_event_data_format() {
    let by = format!(
        "{REST}data = {{ inline = \"*_inline\", attachment = [\"*_attachment\", \"zip\"] }}"
    );
    let definitions = load(&[("90-rest.toml", &by)]);
    for (format, data) in [
        ("csv_inline", Some(Data::Inline)),
        ("csv_attachment", Some(Data::Attachment)),
        ("zip", Some(Data::Attachment)),
        ("csv", None),
    ] {
        let group = group("text", format);
        match definitions.decide(&group, now(), &mut NoScripts).expect("a decision") {
            Some(Decision::Compose(plan)) => {
                assert_eq!(Some(plan.mails[0].data), data, "{format}");
            }
            other => assert!(other.is_none() && data.is_none(), "{format}: {other:?}"),
        }
    }
}

#[test]
fn of_the_forms_of_data_the_first_in_the_file_counts() {
    for (by, data) in [
        ("{ inline = \"*\", attachment = \"*_attachment\" }", Data::Inline),
        ("{ attachment = \"*_attachment\", inline = \"*\" }", Data::Attachment),
    ] {
        let definitions = load(&[("90-rest.toml", &format!("{REST}data = {by}"))]);
        assert_eq!(
            plan(&definitions, &group("text", "csv_attachment")).mails[0].data,
            data,
            "{by}"
        );
    }
}

#[test]
fn a_postponed_group_says_by_which_format_until_when_and_why() {
    let rest = format!("{REST}postpone = {{ newest_directive_younger_than = \"15m\" }}");
    let definitions = load(&[("90-rest.toml", &rest)]);
    let decision =
        definitions.decide(&group("text", "csv"), now(), &mut NoScripts).expect("a decision");
    assert_eq!(
        decision,
        Some(Decision::Postponed {
            format: FormatName { name: "the rest".into(), file: "90-rest.toml".into() },
            until: Some("2026-11-20T12:05:00Z".parse().expect("a time")),
            why: "the newest directive is younger than 15m".into(),
        })
    );
}

#[test]
fn an_observation_that_is_asked_for_and_missing_is_an_error_of_that_format_only() {
    let waiting = format!(
        "{REST}when = {{ notification_format = \"text\" }}\n\
         postpone = {{ observation_younger_than = \"2h\" }}"
    );
    let definitions = load(&[("10-text.toml", &waiting)]);
    let error = definitions
        .decide(&group("text", "csv"), now(), &mut NoScripts)
        .expect_err("no observation");
    assert!(error.to_string().contains("\"the rest\" (10-text.toml)"), "{error}");
    assert_eq!(
        definitions.decide(&group("demo", "csv"), now(), &mut NoScripts).expect("no format"),
        None
    );
}

#[test]
fn substitutions_hold_for_later_files_and_the_more_particular_wins() {
    let definitions = load(&[
        (
            "00-variables.toml",
            r#"
            [substitutions]
            prefix = "CERT#"
            signature = "general"
            when = "no"
            both = "file"
            own = "file"
            [substitutions_for_data.inline]
            place = "below"
            [substitutions_for_data.attachment]
            place = "attached"
            both = "data"
            "#,
        ),
        (
            "10-test.toml",
            r#"
            [substitutions]
            signature = "particular"
            [[substitutions_when]]
            has_aggregate = "cidr"
            set = { when = "cidr", both = "cidr" }
            [[substitutions_when]]
            has_aggregate = "source.asn"
            set = { when = "AS ${source.asn}", both = "when" }
            [[substitutions_when]]
            set = { when = "too late", never = "set" }
            [[format]]
            name = "x"
            columns = ["source.ip"]
            data = { attachment = "*_attachment", inline = "*" }
            substitutions = { own = "format" }
            "#,
        ),
        ("20-late.toml", "[substitutions]\nprefix = \"late\"\nlate = \"late\"\n"),
    ]);
    let inline = plan(&definitions, &group("text", "csv")).mails.remove(0);
    assert_eq!(text(&inline, "prefix"), Some("CERT#"));
    assert_eq!(text(&inline, "signature"), Some("particular"));
    assert_eq!(text(&inline, "when"), Some("AS ${source.asn}"));
    assert_eq!(text(&inline, "both"), Some("when"));
    assert_eq!(text(&inline, "own"), Some("format"));
    assert_eq!(text(&inline, "place"), Some("below"));
    assert_eq!(text(&inline, "never"), None);
    assert_eq!(text(&inline, "late"), None);
    let attached = plan(&definitions, &group("text", "csv_attachment")).mails.remove(0);
    assert_eq!(text(&attached, "place"), Some("attached"));

    let from = &inline.substitutions["when"];
    assert_eq!((from.file.as_str(), from.line), ("10-test.toml", 9));
    let all: Vec<_> = definitions.substitutions().map(|(name, _)| name).collect();
    assert_eq!(all.len(), 18, "{all:?}");
}

#[test]
fn within_a_file_when_wins_over_data_and_data_over_the_file() {
    let definitions = load(&[(
        "10-test.toml",
        r#"
        [substitutions]
        a = "file"
        b = "file"
        c = "file"
        d = "file"
        [substitutions_for_data.inline]
        b = "data"
        c = "data"
        d = "data"
        [[substitutions_when]]
        unless = { notification_format = "text" }
        set = { c = "not this" }
        [[substitutions_when]]
        set = { c = "when", d = "when" }
        [[format]]
        name = "x"
        columns = ["source.ip"]
        substitutions = { d = "format" }
        "#,
    )]);
    let mail = plan(&definitions, &group("text", "csv")).mails.remove(0);
    let values: Vec<_> = ["a", "b", "c", "d"].iter().map(|name| text(&mail, name)).collect();
    assert_eq!(values, [Some("file"), Some("data"), Some("when"), Some("format")]);
}

#[test]
fn a_format_can_name_its_template_or_hold_it() {
    let named = load(&[("10-a.toml", &format!("{REST}template = \"own\""))]);
    let choice = TemplateChoice::Named("own".into());
    assert_eq!(plan(&named, &group("text", "csv")).mails[0].template, choice);
    assert_eq!(named.templates().collect::<Vec<_>>(), [&choice]);

    let held = load(&[("10-a.toml", &format!("{REST}subject = \"s\"\nbody = \"\"\"\nb\n\"\"\""))]);
    let at = |text: &str, line| Text {
        text: text.into(),
        file: "10-a.toml".into(),
        line,
        verbatim: false,
    };
    assert_eq!(
        plan(&held, &group("text", "csv")).mails[0].template,
        TemplateChoice::Inline { subject: at("s", 5), body: at("b\n", 6) }
    );
}

#[test]
fn copies_are_made_for_the_formats_that_stand_after_their_file() {
    let copy = |group: &str, to: &str| {
        format!("[[copy]]\nwhen = {{ notification_format = {group:?} }}\nenvelope_to = {to:?}\n")
    };
    let definitions = load(&[
        ("00-copies.toml", &copy("shadowserver", "early@cert.example")),
        ("10-snmp.toml", &format!("{}{SNMP}", copy("shadowserver", "same@cert.example"))),
        ("20-copies.toml", &copy("*", "late@cert.example")),
        ("90-rest.toml", REST),
    ]);
    let to = |group: &Group| -> Vec<String> {
        let copies = plan(&definitions, group).mails.into_iter().skip(1);
        copies
            .flat_map(|copy| copy.envelope_to.expect("other addresses"))
            .map(|a| a.to_string())
            .collect()
    };
    let snmp = to(&group("shadowserver", "csv_Open-SNMP"));
    assert_eq!(snmp, ["early@cert.example", "same@cert.example"]);
    assert_eq!(to(&group("text", "csv")), ["late@cert.example"]);
}

#[test]
fn a_copy_is_like_the_mail_in_all_that_its_rule_does_not_say() {
    let variables = r#"
        [substitutions_for_data.inline]
        place = "below"
        [substitutions_for_data.attachment]
        place = "attached"
        [[copy]]
        envelope_to = ["a@cert.example", "b@cert.example"]
        [[copy]]
        envelope_to = "c@cert.example"
        data = "inline"
        columns = ["source.port"]
        subject = "copy"
        body = "of a mail"
        substitutions = { own = "copy" }
        [[copy]]
        unless = { aggregate = { "source.asn" = "*" } }
        envelope_to = "never@cert.example"
    "#;
    let snmp = format!("{SNMP}substitutions = {{ own = \"format\", kept = \"kept\" }}");
    let definitions = load(&[("00-variables.toml", variables), ("10-snmp.toml", &snmp)]);
    let plan = plan(&definitions, &group("shadowserver", "csv_Open-SNMP"));
    let [mail, same, other] = plan.mails.as_slice() else { panic!("{:?}", plan.mails) };
    let to = ["a@cert.example", "b@cert.example"].map(|text| text.parse().expect("an address"));
    let copy = MailPlan {
        envelope_to: Some(to.into()),
        mark_sent: false,
        ticket: TicketOf::Same,
        ..mail.clone()
    };
    assert_eq!(*same, copy);
    assert_eq!(other.data, Data::Inline);
    assert_eq!(other.columns.len(), 1);
    assert!(
        matches!(&other.template, TemplateChoice::Inline { subject, .. } if subject.text == "copy")
    );
    // The text says where this mail has its table, not where the other has it.
    assert_eq!(text(mail, "place"), Some("attached"));
    assert_eq!(text(other, "place"), Some("below"));
    assert_eq!(text(other, "own"), Some("copy"));
    assert_eq!(text(other, "kept"), Some("kept"));
}

#[test]
fn a_split_group_has_the_texts_for_parts_and_a_small_one_has_not() {
    let definitions = load(&[(
        "10-test.toml",
        r#"
        [substitutions]
        part = ""
        kept = "kept"
        [substitutions_for_data.inline]
        part = "inline"
        [substitutions_if_split]
        part = " (part ${part_number} of ${number_of_parts})"
        [[format]]
        name = "x"
        columns = ["source.ip"]
        split_after = 2
        [[copy]]
        envelope_to = "copy@cert.example"
        "#,
    )]);
    let mut group = group("text", "csv");
    for (events, expected) in [
        (vec![1, 2], "inline"),
        (vec![1, 2, 1], "inline"),
        (vec![1, 2, 3], " (part ${part_number} of ${number_of_parts})"),
    ] {
        group.event_ids = events.into_iter().map(crate::group::EventId).collect();
        let plan = plan(&definitions, &group);
        for mail in &plan.mails {
            assert_eq!(text(mail, "part"), Some(expected));
            assert_eq!(text(mail, "kept"), Some("kept"));
        }
    }
}

#[test]
fn a_format_says_how_its_table_is_written_and_a_copy_may_say_otherwise() {
    let options = "csv = { guard_formulas = true, bom = true }\n\
                   attachment = { compress = \"zip\", above = \"256 KiB\" }";
    let copies = "[[copy]]\nenvelope_to = \"a@cert.example\"\n\
                  [[copy]]\nenvelope_to = \"b@cert.example\"\ncsv = {}\n\
                  attachment = { compress = \"gzip\" }\n";
    let definitions = load(&[("10-a.toml", &format!("{copies}{REST}{options}"))]);
    let plan = plan(&definitions, &group("text", "csv"));
    let [mail, same, other] = plan.mails.as_slice() else { panic!("{:?}", plan.mails) };
    assert_eq!((mail.csv.guard_formulas, mail.csv.bom), (true, true));
    assert_eq!(mail.compress, Some(Compress { how: Compression::Zip, above: 262_144 }));
    assert_eq!((same.csv, same.compress), (mail.csv, mail.compress));
    assert_eq!((other.csv.guard_formulas, other.csv.bom), (false, false));
    assert_eq!(other.compress, Some(Compress { how: Compression::Gzip, above: 0 }));
}

#[test]
fn what_means_nothing_in_the_options_of_a_format_is_refused() {
    for (text, words) in [
        ("split_after = 0", "`split_after` must be a whole number from 1"),
        ("split_after = -1", "`split_after` must be a whole number from 1"),
        ("split_after = \"2\"", "`split_after` must be a whole number from 1"),
        ("attachment = { above = \"1K\" }", "lacks the key `compress`"),
        ("attachment = { compress = \"rar\" }", "unknown compression \"rar\""),
        ("attachment = { compress = \"zip\", above = \"1 MB\" }", "\"1 MB\" is no size"),
        ("csv = { guard_formulae = true }", "did you mean `guard_formulas`?"),
        ("csv = { bom = 1 }", "`bom` must be true or false"),
        ("substitutions = { number_of_events = \"1\" }", "can't be set"),
        ("substitutions = { attachment_name = \"1\" }", "can't be set"),
    ] {
        let problem = problem_in_format(text);
        assert!(problem.contains(words), "{text}: {problem}");
    }
}
