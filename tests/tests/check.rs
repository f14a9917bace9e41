//! `outbox-generator check` finds before a mail is due what would keep it from being written, and
//! says what helps.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use outbox_tests::events::{self, Directive};
use outbox_tests::postgres_cluster::GENERATOR_ROLE;
use outbox_tests::programs;
use outbox_tests::programs::Finished;
use outbox_tests::site::{Builder, Site};

fn site() -> Builder {
    Site::new(programs!()).unsigned()
}

/// The lines of `check` that begin so.
fn lines<'r>(run: &'r Finished, how: &str) -> Vec<&'r str> {
    run.stdout.lines().filter(|line| line.starts_with(how)).collect()
}

/// The one line that begins so and holds all of these words.
#[track_caller]
fn line<'r>(run: &'r Finished, how: &str, words: &[&str]) -> &'r str {
    let mut found = lines(run, how);
    found.retain(|line| words.iter().all(|word| line.contains(word)));
    let [line] = found[..] else { panic!("not one {how} line with {words:?}\n{run}") };
    line
}

#[test]
fn what_is_shipped_is_well_with_the_sample_events() {
    let site = site().build();
    site.insert(&events::sample());
    let run = site.generator(&["check"]).expect(0);
    assert_eq!(lines(&run, "WRONG"), [""; 0], "{run}");
    assert_eq!(lines(&run, "note"), [""; 0], "{run}");
}

#[test]
fn a_placeholder_without_a_value_is_told_with_template_line_and_the_formats_that_use_it() {
    let site = site()
        // Chosen by rules: one has the name, one has not.
        .template("chosen", "Subject\n\nDear all,\n${greeting} and ${number_of_events}\n")
        .template(
            "formats/01-chosen.toml",
            "[[format]]\nname = \"with\"\nwhen = { notification_format = \"with\" }\n\
             columns = [\"source.ip\"]\ntemplate = \"chosen\"\n\
             substitutions = { greeting = \"Hello\" }\n\n\
             [[format]]\nname = \"without\"\nwhen = { notification_format = \"without\" }\n\
             columns = [\"source.ip\"]\ntemplate = \"chosen\"\n",
        )
        // Of a definition itself.
        .template(
            "formats/02-own.toml",
            "[[format]]\nname = \"own\"\nwhen = { notification_format = \"own\", \
             aggregate = { constituency = \"gov*\" } }\ncolumns = [\"source.ip\"]\n\
             subject = \"S\"\nbody = \"${constituency} ${cidr} ${nothing}\"\n",
        )
        // Chosen by directives.
        .template("openchargen_special", "Subject\n\n${signature_en} ${signatur_en}\n")
        .template("generic", "Subject\n\n${events_as_csv} ${source.asn} ${destination.asn}\n")
        .build();
    // With a key in its aggregate identifier that events have a field for, and one they have not.
    let asn = Directive::to("a@isp.example").aggregate("source.asn", 64496);
    site.insert(&[asn.aggregate("my_key", "x").event()]);
    let run = site.generator(&["check"]).expect(1);
    let told = line(&run, "WRONG templates: ", &["\"chosen\": line 4, column 1: ", "\"greeting\""]);
    assert!(told.ends_with("in mails of format \"without\" (01-chosen.toml)"), "{told}");
    line(&run, "WRONG templates: ", &["02-own.toml:5", "\"nothing\"", "format \"own\""]);
    let words =
        ["\"openchargen_special\": line 3, column 17", "\"signatur_en\"", "openchargen\" ("];
    line(&run, "WRONG templates: ", &words);
    assert_eq!(lines(&run, "WRONG").len(), 3, "{run}");
    // It may come, as events have it; but no directive has had it.
    line(&run, "note  templates: ", &["\"generic\": line 3", "\"destination.asn\""]);
    run.line("ERROR", &["not well: templates"]);
}

#[test]
fn what_a_script_could_give_is_a_note_and_no_error() {
    let site = site()
        .template("generic", "Subject\n\n${events_as_csv} ${greeting}\n")
        .template("formats/00-texts.py", "def create_notifications(context):\n    return None\n")
        .build();
    let run = site.generator(&["check"]).expect(0);
    let told = line(&run, "note  templates: ", &["\"generic\": line 3", "\"greeting\""]);
    assert!(told.ends_with(", unless a script gives one"), "{told}");
}

#[test]
fn a_substitution_can_name_what_is_known_of_the_mail_and_nothing_else() {
    let site = site()
        .template(
            "formats/01-texts.toml",
            "[substitutions]\nfine = \"${ticket_number} ${source.asn} ${part_number} $$5\"\n\
             nested = \"see ${fine}\"\ntable = \"${events_as_csv}\"\ncost = \"5$ each\"\n",
        )
        .build();
    let run = site.generator(&["check"]).expect(1);
    line(&run, "WRONG formats: ", &["01-texts.toml:3", "nested names \"fine\""]);
    line(&run, "WRONG formats: ", &["01-texts.toml:4", "table names \"events_as_csv\""]);
    line(&run, "WRONG formats: ", &["the substitution cost", "01-texts.toml:5", "no placeholder"]);
    assert_eq!(lines(&run, "WRONG").len(), 3, "{run}");
}

#[test]
fn a_column_that_events_lack_is_told_with_the_formats_that_show_it() {
    let site = site()
        .template(
            "formats/01-columns.toml",
            "[[copy]]\nenvelope_to = \"archive@cert.example\"\ncolumns = [\"source.ipp\"]\n\n\
             [[format]]\nname = \"slip\"\nwhen = { notification_format = \"slip\" }\n\
             columns = [\"source.ip\", \"source.ipp\", \"extra.anything\"]\n",
        )
        .build();
    let run = site.generator(&["check"]).expect(1);
    let told = line(&run, "WRONG formats: ", &["lacks the column source.ipp"]);
    assert!(told.contains("the copy to archive@cert.example (01-columns.toml)"), "{told}");
    assert!(told.contains("format \"slip\" (01-columns.toml)"), "{told}");
    assert_eq!(lines(&run, "WRONG").len(), 1, "{run}");
}

#[test]
fn a_rule_that_can_never_match_is_told_with_the_rule_that_takes_its_groups() {
    let format = |name: &str, rule: &str| {
        format!("[[format]]\nname = \"{name}\"\ncolumns = [\"source.ip\"]\n{rule}\n\n")
    };
    let file = [
        format("wide", "when = { notification_format = [\"x-*\", \"y\"] }"),
        format("narrow", "when = { notification_format = \"x-1*\", template_name = \"a\" }"),
        format("other", "when = { notification_format = [\"x-1\", \"z\"] }"),
        format("csv", "when = { notification_format = \"z\" }\ndata = { inline = \"*csv*\" }"),
        format("inline", "when = { notification_format = \"z\" }\ndata = { inline = \"csv_*\" }"),
        format("all", "when = { notification_format = \"z\" }"),
        format(
            "left",
            "when = { notification_format = \"q\" }\nunless = { template_name = \"t\" }",
        ),
        format("again", "when = { notification_format = \"q\", template_name = \"u\" }"),
        format("rest", "when = { notification_format = \"q\", template_name = \"t\" }"),
        format("none", "when = { template_name = \"abc\" }\nunless = { template_name = \"a*\" }"),
    ];
    let site = site()
        .template("formats/01-rules.toml", &file.concat())
        .template(
            "formats/99-late.toml",
            "[[format]]\nname = \"late\"\nwhen = { notification_format = \"text2\" }\n\
             columns = [\"source.ip\"]\n\n\
             [[substitutions_when]]\nset = { a = \"1\" }\n\n\
             [[substitutions_when]]\ntemplate_name = \"x\"\nset = { a = \"2\" }\n",
        )
        .build();
    let run = site.generator(&["check"]).expect(1);
    for (shadowed, by) in [
        ("\"narrow\" (01-rules.toml:", "\"wide\""),
        ("\"inline\"", "\"other\""),
        ("\"csv\"", "\"other\""),
        ("\"all\"", "\"other\""),
        ("\"again\"", "\"left\""),
        ("\"none\"", "its `unless` leaves it no group"),
        ("\"late\" (99-late.toml:", "\"fallback\" (90-fallback.toml:"),
        ("[[substitutions_when]] number 2 of 99-late.toml", "number 1"),
    ] {
        let told = line(&run, "WRONG formats: ", &[shadowed, "can never match", by]);
        assert!(told.find(shadowed) < told.find(by), "{told}");
    }
    assert_eq!(lines(&run, "WRONG").len(), 8, "{run}");
}

#[test]
fn a_template_that_nobody_names_is_a_note_and_no_error() {
    let site = site().template("forgotten", "Subject\n\nText\n").build();
    site.insert(&events::sample());
    let run = site.generator(&["check"]).expect(0);
    let told = line(&run, "note  templates: ", &["no rule names them"]);
    assert!(told.ends_with(" directives: forgotten"), "{told}");
    site.insert(&[Directive::to("a@isp.example").template("forgotten").event()]);
    let run = site.generator(&["check"]).expect(0);
    assert_eq!(lines(&run, "note"), [""; 0], "{run}");
}

#[test]
fn broken_toml_is_told_with_file_line_and_column() {
    let site =
        site().template("formats/01-broken.toml", "[substitutions]\na = \"x\"\nb = \n").build();
    let run = site.generator(&["check"]).expect(1);
    line(&run, "WRONG formats: ", &["formats/01-broken.toml:3:5: "]);
}

#[test]
fn a_missing_right_is_told_as_the_grant_that_helps() {
    let site = site().build();
    let role = GENERATOR_ROLE;
    let take = |what: &str| {
        // The rights come through the role of both programs.
        site.sql(&format!("REVOKE {what} FROM eventdb_send_notifications, {role}, PUBLIC"));
    };
    for (right, on) in [
        ("SELECT", "events"),
        ("SELECT", "directives"),
        ("UPDATE", "directives"),
        ("SELECT", "sent"),
        ("SELECT", "ticket_day"),
        ("UPDATE", "ticket_day"),
    ] {
        take(&format!("{right} ON {on}"));
        let run = site.generator(&["check"]).expect(1);
        let told = line(&run, "WRONG database: ", &["lacks rights: GRANT"]).to_owned();
        let (_, grants) = told.split_once("lacks rights: ").unwrap();
        assert!(grants.starts_with(&format!("GRANT {right}")) && grants.contains(on), "{told}");
        site.sql(grants);
        site.generator(&["check"]).expect(0);
    }
    let schema = site.column::<String>(
        "SELECT relnamespace::regnamespace::text FROM pg_class WHERE relname = 'directives'",
    );
    take(&format!("ALL ON SCHEMA {}", schema[0]));
    let run = site.generator(&["check"]).expect(1);
    let told = line(&run, "WRONG database: ", &["lacks rights: GRANT USAGE ON SCHEMA"]).to_owned();
    site.sql(told.split_once("lacks rights: ").unwrap().1);
    site.generator(&["check"]).expect(0);
}

#[test]
fn folders_that_others_can_use_or_the_deliverer_cannot_are_told_with_the_chmod_that_helps() {
    let site = site().build();
    for (folder, mode, words) in [
        ("new", 0o2777, "others than its group may write into it"),
        ("sidecar", 0o2775, "others than its group may look into it"),
        ("delivery", 0o0770, "what is made in it does not belong to its group"),
        ("sent/cur", 0o2700, "its group may not do all in it"),
    ] {
        let path = site.outbox().join(folder);
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let run = site.generator(&["check"]).expect(1);
        let told = line(&run, "WRONG outbox: ", &[words]);
        assert!(told.ends_with(&format!(": chmod 2770 {}", path.display())), "{told}");
        let deliverers = site.deliverer(&["check"]).expect(1);
        assert_eq!(line(&deliverers, "WRONG outbox: ", &[words]), told);
        let (_, helps) = told.rsplit_once(": ").unwrap();
        let done = std::process::Command::new("sh").args(["-c", helps]).status().unwrap();
        assert!(done.success());
        site.generator(&["check"]).expect(0);
    }
}
