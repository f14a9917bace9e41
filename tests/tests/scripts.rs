//! Scripts decide on mails: those written for Mailgen, with all that they can name, and programs in
//! any language. Whatever a script does, it costs the group that it was asked about, and no more.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use outbox_tests::events::Directive;
use outbox_tests::mail::{ReadMail, read};
use outbox_tests::programs;
use outbox_tests::programs::{Finished, wait_until};
use outbox_tests::site::{Builder, Site};
use serde_json::{Value, json};

/// The scripts written for these tests, by their names.
const PYTHON: [(&str, &str); 6] = [
    ("00-common.py", include_str!("../scripts/00-common.py")),
    ("10-waits.py", include_str!("../scripts/10-waits.py")),
    ("20_tables.py", include_str!("../scripts/20_tables.py")),
    ("30_own.py", include_str!("../scripts/30_own.py")),
    ("40_bad.py", include_str!("../scripts/40_bad.py")),
    ("90-rest.py", include_str!("../scripts/90-rest.py")),
];

const GENERIC: &str = "[${ticket_number}] events\n\n${events_as_csv}\n${signature}";

/// A site whose folder of definitions has these files, those without an ending executable.
fn site(files: &[(&str, &str)]) -> Site {
    with_scripts(Site::new(programs!()).unsigned(), files)
}

fn with_scripts(builder: Builder, files: &[(&str, &str)]) -> Site {
    let mut site = builder
        .template("generic", GENERIC)
        .set("scripts", json!({"timeout": "2s", "config": {"team": "The team"}}))
        .build();
    let folder = site.folder().join("scripts");
    fs::create_dir(&folder).unwrap();
    site.set("script_directory", json!(folder));
    for (name, text) in files {
        put(&site, name, text);
    }
    site
}

fn put(site: &Site, name: &str, text: &str) {
    let path = site.folder().join("scripts").join(name);
    fs::write(&path, text).unwrap();
    let mode = if name.contains('.') { 0o644 } else { 0o755 };
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
}

/// An event of a group with this format.
fn event(recipient: &str, format: &str, data: &str) -> Value {
    about(Directive::to(recipient).format(format, data))
}

/// An event with a value in each kind of column.
fn about(directive: Directive) -> Value {
    let mut event = directive.aggregate("source.asn", "64496").event();
    event["source.geolocation.latitude"] = json!(52.5);
    event["source.tor_node"] = json!(true);
    event["extra"]["tag"] = json!("t1");
    event["extra"]["os.name"] = json!({"a": [1]});
    event
}

fn mail_to(site: &Site, recipient: &str) -> ReadMail {
    read(&[site.mail_to(recipient)], None).remove(0)
}

fn ticket(site: &Site, recipient: &str) -> String {
    site.sidecar_to(recipient)["ticket"].as_str().unwrap().to_owned()
}

#[test]
fn what_mailgens_scripts_can_name_is_there() {
    let site = site(&PYTHON);
    site.insert([
        &event("own@isp.example", "own", "csv"),
        &event("own@isp.example", "own", "csv"),
        &event("plain@isp.example", "table", "csv_plain"),
        &event("computed@isp.example", "table", "csv_computed/attached"),
        &event("direct@isp.example", "table", "csv_direct"),
        &event("extra@isp.example", "table", "csv_extra"),
        &event("single@isp.example", "table", "csv_single"),
        &event("rest@isp.example", "text", "csv"),
    ]);
    let check = site.generator(&["check"]).expect(0);
    assert!(check.stdout.contains("0 and 6 scripts in "), "{check}");
    let run = site.generator(&["run", "--all"]).expect(0).without("WARN");
    run.line("INFO", &["done", "mails=7", "copies=4"]);
    run.line(
        "INFO",
        &["the script reports: common texts for own@isp.example", "script=00-common.py"],
    );

    let own = mail_to(&site, "own@isp.example");
    let number = ticket(&site, "own@isp.example");
    assert_eq!(own.header["subject"], format!("[{number}] own for 64496"));
    assert_eq!(own.header["x-ticket"], number);
    let text = "$5, ${source.asn} stays, 2 in AS 64496.\n\n\"ip\"\n\"192.0.2.1\"\n\"192.0.2.1\"\nThe team $1\n";
    assert_eq!(own.text.replace('\r', ""), text);
    let sidecar = site.sidecar_to("own@isp.example");
    assert_eq!(sidecar["directive_ids"].as_array().unwrap().len(), 2, "{sidecar}");

    let sidecars = site.sidecars();
    let two = json!(["a@cert.example", "b@cert.example"]);
    let copy = sidecars.iter().find(|sidecar| sidecar["envelope"]["to"] == two).expect("a copy");
    assert_eq!((&copy["ticket"], &copy["directive_ids"]), (&json!(number), &json!([])));
    assert_eq!(copy["subject"], format!("[{number}] events"));
    let again = ticket(&site, "c@cert.example");
    assert_ne!(again, number, "a ticket of its own");
    let again = mail_to(&site, "c@cert.example");
    assert_eq!(again.text, own.text);
    assert_eq!(again.header["to"], "own@isp.example");
    let default = mail_to(&site, "d@cert.example");
    assert_eq!(default.header["subject"], "from the context");
    let titles =
        "\"asn\",\"ip\",\"timestamp\",\"src_port\",\"dst_ip\",\"dst_port\",\"dst_host\",\"proto\"";
    assert!(default.text.starts_with(titles), "{}", default.text);
    assert_eq!(mail_to(&site, "e@cert.example").header["subject"], "fallback");

    let plain = mail_to(&site, "plain@isp.example").text.replace('\r', "");
    assert_eq!(
        plain,
        "\"asn\",\"timestamp\",\"tag\",\"deep key\",\"address\"\n\
         \"64496\",\"2026-11-24 10:11:12\",\"t1\",\"{\"\"a\"\": [1]}\",\"192.0.2.1\"\n\nThe team $1\n"
    );
    let computed = mail_to(&site, "computed@isp.example");
    let (name, table) = computed.attachment.expect("a table");
    assert_eq!(name, "events.csv");
    let table = table.replace('\r', "");
    assert_eq!(table, "\"timestamp\",\"octet\",\"tag\"\n\"2026-11-24 10:11:12\",\"1\",\"t1\"\n");
    assert!(!computed.text.contains("octet"), "{}", computed.text);
    assert!(mail_to(&site, "direct@isp.example").text.starts_with("\"ip\""));
    let extra = mail_to(&site, "extra@isp.example").text.replace('\r', "");
    assert!(extra.starts_with("\"ip\",\"all\"\n\"192.0.2.1\",\"\"\n"), "{extra}");
    assert!(mail_to(&site, "single@isp.example").text.starts_with("\"the ip\""));
    assert!(mail_to(&site, "rest@isp.example").text.contains("The team $1"));
}

#[test]
fn an_early_script_gives_the_mails_of_later_ones_a_copy() {
    let site = site(&PYTHON);
    let government = Directive::to("gov@isp.example").format("table", "csv_single");
    site.insert([&about(government.aggregate("recipient_group", "Government"))]);
    site.generator(&["run", "--all"]).expect(0).line("INFO", &["mails=1", "copies=1"]);
    let copy = site.sidecar_to("internal-gov@cert.example");
    assert_eq!(copy["ticket"], ticket(&site, "gov@isp.example"));
    assert_eq!(copy["directive_ids"], json!([]));
    let copy = mail_to(&site, "internal-gov@cert.example");
    assert!(copy.attachment.is_some_and(|(_, table)| table.contains("192.0.2.1")));
    assert!(mail_to(&site, "gov@isp.example").attachment.is_none());
}

#[test]
fn a_script_can_have_a_group_wait_or_refuse_it() {
    let site = site(&PYTHON);
    let observed = |to: &str, time: &str| {
        about(Directive::to(to).format("observed", "csv").aggregate("time.observation", time))
    };
    site.insert([
        &about(Directive::to("interval@isp.example").format("interval", "csv").interval(86400)),
        &event("young@isp.example", "young", "csv"),
        &observed("then@isp.example", "2026-11-24T10:00:00+00:00"),
        &observed("now@isp.example", &format!("{:.6}", outbox::now())),
        &event("refused@isp.example", "refused", "csv_odd"),
    ]);
    site.sql(
        "INSERT INTO sent (intelmq_ticket, sent_at) VALUES ('20261124-10000001', now());
         INSERT INTO directives (events_id, sent_id, recipient_address, template_name,
                notification_format, event_data_format, aggregate_identifier,
                notification_interval, medium, endpoint)
         SELECT events_id, (SELECT id FROM sent), recipient_address, template_name,
                notification_format, event_data_format, aggregate_identifier,
                notification_interval, medium, endpoint
           FROM directives WHERE notification_format = 'interval'",
    );
    let pending = site.generator(&["pending"]).expect(0).stdout;
    assert!(pending.contains("1 due, 3 postponed, 0 in the outbox, 1 that can't be"), "{pending}");
    assert!(pending.contains("the script has it wait"), "{pending}");
    let run = site.generator(&["run", "--all"]).expect(1);
    run.line("INFO", &["done", "mails=1", "postponed=3", "errors=1"]);
    run.line(
        "ERROR",
        &[
            "refused@isp.example",
            "the script 10-waits.py: line ",
            "InvalidDirective: no such format: 'csv_odd'",
        ],
    );
    assert_eq!(mail_to(&site, "then@isp.example").header["to"], "then@isp.example");
}

#[test]
fn whatever_a_script_does_its_group_fails_with_its_name_and_the_run_goes_on() {
    let site = site(&PYTHON);
    let ways = ["exception", "exit", "crash", "hang", "recursion", "lines", "noise"];
    for way in ways {
        site.insert([
            &event(&format!("{way}@isp.example"), "bad", way),
            &event(&format!("after-{way}@isp.example"), "text", "csv"),
        ]);
    }
    let begin = Instant::now();
    let run = site.generator(&["run", "--all"]).expect(1);
    assert!(begin.elapsed() < Duration::from_secs(30), "{run}");
    run.line("INFO", &["done", "mails=8", "errors=6"]);
    for (way, words) in [
        ("exception", "line 11: ZeroDivisionError: division by zero"),
        ("exit", "line 13: SystemExit: 3"),
        ("crash", "it ended with exit code 4"),
        ("hang", "it had no answer after 2s (scripts.timeout) and was killed"),
        ("recursion", "RecursionError"),
        ("lines", "TypeError: create_notifications returned int among its notifications"),
    ] {
        let to = format!("{way}@isp.example");
        run.line("ERROR", &["no mail for", &to, "the script 40_bad.py: ", words]);
        mail_to(&site, &format!("after-{way}@isp.example"));
    }
    run.line("INFO", &["the script said: printed\\u{1b}[31m by the script", "script=40_bad.py"]);
    let noise = run.stderr.lines().filter(|line| line.contains("the script said: ")).count();
    assert_eq!(noise, 101, "it is bounded: {run}");
    run.line("INFO", &["the script said: (the rest is left out)"]);
    assert_eq!(site.pending(), 14, "nothing is sent yet");
}

#[test]
fn what_mailgen_heeds_when_a_script_sets_it_is_never_passed_over() {
    let site = site(&[("05-sets.py", include_str!("../scripts/05-sets.py"))]);
    let ways = ["aggregate", "recipient", "directives", "changed", "send", "sender"];
    site.insert(&ways.map(|way| event(&format!("{way}@isp.example"), "sets", way)));
    let run = site.generator(&["run", "--all"]).expect(1);
    run.line("INFO", &["done", "mails=1", "errors=5"]);
    assert_eq!(mail_to(&site, "aggregate@isp.example").header["subject"], "64496 added");
    for (way, words) in [
        ("recipient", "scripts can not set the directive's recipient_address"),
        ("directives", "scripts can not set the directive's directive_ids"),
        ("changed", "scripts can not change 'source.asn' in the directive's aggregate_identifier"),
        ("send", "NotOffered: Sends has a method send, which nobody would call"),
        ("sender", "scripts can not set the sender of mails"),
    ] {
        run.line("ERROR", &[&format!("{way}@isp.example"), "the script 05-sets.py: ", words]);
    }
}

#[test]
fn a_program_that_misbehaves_costs_its_group_and_no_more_than_some_time() {
    let hang = "#!/bin/sh\nread -r line\nexec sleep 1000\n";
    let lines = "#!/bin/sh\nread -r line\nyes '{' | head -n 1000000\n";
    let garbage = "#!/bin/sh\nread -r line\nhead -c 5000 /dev/urandom\necho\n";
    for (script, words) in [
        (hang, "the script 10-bad: it had no answer after 1s"),
        (lines, "the script 10-bad: what it said is no answer: "),
        (garbage, "the script 10-bad: what it said is no answer: "),
        ("#!/bin/sh\nexit 1\n", "the script 10-bad: it ended with exit code 1"),
    ] {
        let mut site = site(&[("10-bad", script), PYTHON[5]]);
        site.set("scripts.timeout", json!("1s"));
        site.insert(&outbox_tests::events::groups(7));
        let begin = Instant::now();
        let run = site.generator(&["run", "--all"]).expect(1);
        assert!(begin.elapsed() < Duration::from_secs(20), "{run}");
        let count =
            |words: &str| run.lines("ERROR").iter().filter(|line| line.contains(words)).count();
        let given_up = if script == hang { 2 } else { 0 };
        assert_eq!(count(words), 7 - given_up, "{run}");
        let told = "the script 10-bad: its failures took 5 times as long as scripts.timeout";
        assert_eq!(count(told), given_up, "{run}");
    }
}

/// A script must not be able to have the generator keep its events many times over.
#[test]
fn a_program_that_asks_and_never_reads_gets_no_more_than_it_takes() {
    let script = "#!/bin/sh\nread -r group\nexec yes '{\"load_events\": {\"columns\": null}}'\n";
    let site = site(&[("50-greedy", script)]);
    let mut event = event("greedy@isp.example", "x", "y");
    event["extra"]["blob"] = json!("x".repeat(200_000));
    site.insert([&event]);
    let run = site.generator(&["run", "--all"]).expect(1);
    run.line("ERROR", &["greedy@isp.example", "50-greedy", "it did not read what it asked for"]);
}

#[test]
fn an_exception_can_leave_the_group_to_the_next_rule_and_nothing_else_can() {
    let script = r#"
import os
def create_notifications(context):
    way = context.directive.event_data_format
    if way == "raises":
        raise ValueError("not mine\x1b[31m")
    if way == "report":
        return context.mail_format_as_xarf(None)
    if way == "exits":
        raise SystemExit(3)
    if way == "crashes":
        os._exit(4)
"#;
    let rest = r#"
        [[format]]
        name = "rest"
        columns = ["source.ip"]
        subject = "the rest"
        body = "x"
    "#;
    let mut site = site(&[("10-raises.py", script), ("90-rest.toml", rest)]);
    site.set("scripts.on_exception", json!("next"));
    let ways = ["raises", "report", "exits", "crashes"];
    site.insert(&ways.map(|way| event(&format!("{way}@isp.example"), "x", way)));
    let run = site.generator(&["run", "--all"]).expect(1);
    let words = ["the next rule is asked (scripts.on_exception)", "line 6: ValueError: not mine"];
    run.line("WARN", &[words[0], words[1], "raises@isp.example", "10-raises.py"]);
    run.line("INFO", &["done", "mails=1", "errors=3"]);
    assert_eq!(mail_to(&site, "raises@isp.example").header["subject"], "the rest");
    run.line("ERROR", &["report@isp.example", "scripts make no X-ARF mails"]);
    run.line("ERROR", &["exits@isp.example", "SystemExit: 3"]);
    run.line("ERROR", &["crashes@isp.example", "it ended with exit code 4"]);
}

/// What is marked is known by its ticket.
#[test]
fn two_mails_that_mark_different_directives_need_two_tickets() {
    let script = r#"#!/bin/sh
        while read -r group; do
            echo '{"new_ticket_number": true}'
            read -r ticket
            printf '%s\n%s' "$group" "$ticket" | jq -cs '. as [$group, $drawn] |
                {notifications: ($group.event_ids | map({columns: ["source.ip"],
                    subject: "${ticket_number}", body: "x", event_ids: [.]}
                    + if $group.recipient_address == "bad@isp.example"
                      then {ticket: $drawn.ticket} else {} end))}'
        done
    "#;
    let site = site(&[("50-each", script)]);
    let events =
        ["bad", "bad", "good", "good"].map(|to| event(&format!("{to}@isp.example"), "x", "y"));
    site.insert(&events);
    let run = site.generator(&["run", "--all"]).expect(1);
    run.line(
        "ERROR",
        &["bad@isp.example", "two mails that mark different directives", "directives=1-2"],
    );
    run.line("INFO", &["done", "mails=2", "errors=1"]);
}

#[test]
fn mails_that_mark_nothing_are_warned_about() {
    let site = site(&PYTHON);
    site.insert([&event("unmarked@isp.example", "bad", "unmarked")]);
    let run = site.generator(&["run", "--all"]).expect(0);
    run.line(
        "WARN",
        &["no notification of the script marks the directives as sent", "script=40_bad.py"],
    );
    run.line("INFO", &["done", "mails=0", "copies=1"]);
}

#[test]
fn a_script_that_can_not_be_loaded_stops_the_run_as_a_bad_definition_does() {
    let site = site(&PYTHON);
    put(&site, "50-broken.py", "def create_notifications(context):\n    return (\n");
    site.insert(&outbox_tests::events::groups(1));
    let words = "50-broken.py: line 2: SyntaxError: '(' was never closed";
    let run = site.generator(&["run", "--all"]).expect(78);
    run.line("ERROR", &[words]);
    let check = site.generator(&["check"]).expect(1);
    assert!(check.stdout.contains("WRONG formats: ") && check.stdout.contains(words), "{check}");
    assert_eq!(site.sidecars(), [json!(null); 0]);
}

#[test]
fn who_only_looks_draws_no_ticket() {
    let site = site(&PYTHON);
    site.insert([&event("own@isp.example", "own", "csv")]);
    let last = || site.column::<i64>("SELECT last_value FROM intelmq_ticket_seq")[0];
    let before = last();
    let pending = site.generator(&["pending"]).expect(0).stdout;
    assert!(pending.contains("format 30_own.py"), "{pending}");
    site.generator(&["run", "--all", "--dry-run"]).expect(0).line("INFO", &["mails=1"]);
    let preview = site.generator(&["preview"]).expect(0).stdout;
    assert!(preview.contains("\nSubject: [00000000-0000000"), "{preview}");
    assert_eq!(last(), before);
}

#[test]
fn the_example_in_the_documentation_works() {
    let text = include_str!("../../docs/scripts.md");
    let (_, example) = text.split_once("\n    #!/bin/sh\n").expect("there is an example");
    let lines = example.lines().take_while(|line| line.is_empty() || line.starts_with("    "));
    let lines: Vec<&str> = lines.map(|line| line.strip_prefix("    ").unwrap_or(line)).collect();
    let script = format!("#!/bin/sh\n{}\n", lines.join("\n"));
    let site = site(&[PYTHON[0], ("60-services", &script), PYTHON[5]]);
    let mut events = [
        event("services@isp.example", "services", "csv"),
        event("services@isp.example", "services", "csv"),
        event("rest@isp.example", "text", "csv"),
    ];
    events[0]["protocol.application"] = json!("snmp");
    site.insert(&events);
    site.generator(&["run", "--all"]).expect(0).without("WARN").line("INFO", &["mails=2"]);
    let mail = mail_to(&site, "services@isp.example");
    let number = ticket(&site, "services@isp.example");
    assert_eq!(mail.header["subject"], format!("[{number}] services in AS 64496"));
    let (_, table) = mail.attachment.expect("a table");
    let table = table.replace('\r', "");
    assert_eq!(table, "\"ip\",\"service\"\n\"192.0.2.1\",\"SNMP\"\n\"192.0.2.1\",\"unknown\"\n");
    mail_to(&site, "rest@isp.example");
}

#[test]
fn python_is_found_where_the_configuration_says_and_told_about_where_it_is_not() {
    let mut site = site(&PYTHON);
    site.set("scripts.python", json!("/nowhere/python3"));
    let run: Finished = site.generator(&["run", "--all"]).expect(78);
    run.line("ERROR", &["00-common.py: cannot run Python: /nowhere/python3: "]);
    assert!(Path::new("/usr/bin/python3").exists());
    site.set("scripts.python", json!("/usr/bin/python3"));
    site.generator(&["run", "--all"]).expect(0);
}

#[test]
fn no_script_gets_a_password() {
    let program = "#!/bin/sh\nread -r line\nprintf '{\"error\": \"%s\"}\\n' \"$(env | tr '\\n\"\\\\' ' ')\"\n";
    let python = "import os\ndef create_notifications(context):\n    \
                  raise Exception(os.environ, context.config)\n";
    for script in [("10-env", program), ("10env.py", python)] {
        let secret = [("OUTBOX_SMTP_PASSWORD", "pass0".into()), ("OTHER", "other0".into())];
        let mut site =
            with_scripts(Site::new(programs!()).unsigned().environment(secret), &[script]);
        site.set("smtp.password", json!("pass0"));
        site.set("smtp.username", json!("user0"));
        site.set("database.event.password", json!("pass0"));
        site.insert(&outbox_tests::events::groups(1));
        let run = site.generator(&["run", "--all"]).expect(1);
        assert!(run.line("ERROR", &["the script 10"]).contains("other0"), "{run}");
        assert!(!run.stderr.contains("pass0") && !run.stderr.contains("PASSWORD"), "{run}");
    }
}

#[test]
fn a_runner_whose_generator_is_killed_ends_whatever_its_script_is_at() {
    let hang = "import os, sys\ndef create_notifications(context):\n    \
                print('pid', os.getpid(), 'here', file=sys.stderr)\n    while True: pass\n";
    let mut site = site(&[("10hang.py", hang)]);
    site.set("scripts.timeout", json!("10m"));
    site.insert(&outbox_tests::events::groups(1));
    let run = site.start_generator(&["run", "--all"]);
    let line = run.wait_for("here");
    let pid = line.split("pid ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    let process = Path::new("/proc").join(&pid);
    assert!(process.exists());
    drop(run);
    let alive =
        || fs::read_to_string(process.join("stat")).is_ok_and(|stat| !stat.contains(") Z "));
    wait_until("the runner is gone", || !alive());
}

/// Each mail in the outbox but reports in X-ARF, by its group, without what no two mails have in common.
fn mails_by_group(site: &Site) -> BTreeMap<String, Value> {
    let sidecars = site.sidecars();
    let files: Vec<PathBuf> = site.listed("new");
    let mails = read(&files, None);
    assert_eq!(mails.len(), sidecars.len());
    let mut by_group = BTreeMap::new();
    for (file, mail) in files.iter().zip(mails) {
        let id = file.file_name().unwrap().to_str().unwrap();
        let sidecar = sidecars.iter().find(|sidecar| sidecar["id"] == id).expect("its sidecar");
        if sidecar["group"]["notification_format"] == "xarf" {
            continue;
        }
        let ticket = sidecar["ticket"].as_str().unwrap();
        let content = json!({
            "to": mail.header["to"],
            "subject": mail.header["subject"].replace(ticket, "TICKET"),
            "text": mail.text.replace(ticket, "TICKET"),
            "attachment": mail.attachment,
            "directives": sidecar["directive_ids"],
            "envelope_to": sidecar["envelope"]["to"],
        });
        let before = by_group.insert(sidecar["group"].to_string(), content);
        assert_eq!(before, None, "one mail for each group");
    }
    by_group
}

#[test]
fn the_sample_events_become_the_same_mails_by_definitions_and_by_scripts() {
    let by_definitions = Site::new(programs!()).unsigned().build();
    by_definitions.insert_samples();
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../templates/formats");
    let variables = fs::read_to_string(shipped.join("00-variables.toml")).unwrap();
    let script = include_str!("../scripts/50-as-defined.py");
    by_definitions.generator(&["run", "--all"]);
    let defined = mails_by_group(&by_definitions);
    assert!(defined.len() > 30, "{}", defined.len());
    // The values of the tables as the generator finds them, and as Python does.
    for work_out in [false, true] {
        let mut site = site(&[("00-variables.toml", &variables), ("50-as-defined.py", script)]);
        site.set("template_dir", json!(shipped.parent()));
        let config = json!({"definitions": shipped, "work_out": work_out});
        site.set("scripts.config", config);
        site.insert_samples();
        site.generator(&["run", "--all"]);
        let scripted = mails_by_group(&site);
        for (group, mail) in &defined {
            assert_eq!(scripted.get(group), Some(mail), "{work_out}: {group}");
        }
        assert_eq!(defined.len(), scripted.len());
    }
}

#[test]
fn a_database_that_goes_away_while_a_script_asks_ends_the_run() {
    let site = site(&[]);
    let (name, socket) = (site.database().name(), site.database().socket_dir());
    let terminate = format!(
        "psql -q -U postgres -h {} -p {} -d {name} -c \"SELECT pg_terminate_backend(pid) FROM \
         pg_stat_activity WHERE application_name = 'outbox-generator' AND datname = '{name}'\"",
        socket.display(),
        site.database().port()
    );
    let script = format!(
        "#!/bin/sh\nread -r group\n{terminate} >&2\necho '{{\"load_events\": {{\"columns\": null}}}}'\n\
         read -r events && echo null\n"
    );
    put(&site, "10-cruel", &script);
    site.insert(&outbox_tests::events::groups(3));
    let run = site.generator(&["run", "--all"]).expect(75);
    run.line("ERROR", &["cannot give the script 10-cruel what it asked for: "]);
    assert_eq!(site.sidecars(), [json!(null); 0]);
}
