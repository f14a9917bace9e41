//! What is printed, logged, counted and told of hostile mails and groups: nothing of it acts on a
//! terminal, and no text is a line, a field or a value of its own.

use std::fs;
use std::path::PathBuf;

use outbox_tests::events::Directive;
use outbox_tests::programs;
use outbox_tests::scripted_relay::ScriptedRelay;
use outbox_tests::service_manager::ServiceManager;
use outbox_tests::site::Site;
use outbox_tests::terminal::Terminal;
use serde_json::{Value, json};

use super::{acts, corpus, judge_log, judge_output};

/// A subject with what a subject can have of the text, and a text with all of it.
const FORMAT: &str = r#"
    [[format]]
    name = "hostile"
    when = { notification_format = "hostile" }
    columns = ["malware.name"]
    subject = "[${ticket_number}] ${subject}"
    body = "${word}\n\n${events_as_csv}"
"#;

/// A site with a mail for each text, and a group in error, whose fields are all that text.
fn site(relay: &ScriptedRelay, manager: &ServiceManager) -> Site {
    let site = Site::new(programs!())
        .unsigned()
        .relay(relay.port())
        .template("formats/05-hostile.toml", FORMAT)
        .set("metrics.file", json!("/dev/null"))
        .environment(manager.environment())
        .build();
    let mut events = Vec::new();
    for (number, text) in corpus::some().into_iter().map(|hostile| hostile.text).enumerate() {
        let subject = text.replace(|c: char| acts(c), " ");
        let mut event = Directive::to(&format!("a{number}@isp.example"))
            .format("hostile", "csv")
            .aggregate("word", text.clone())
            .aggregate("subject", subject)
            .aggregate(&text, "v")
            .event();
        event["malware.name"] = json!(text);
        events.push(event);
        let short: String = text.chars().take(90).collect();
        if short.is_empty() {
            continue;
        }
        let error = Directive::to(&format!("{short}@{number}.."))
            .template(&short)
            .format(&short, &short)
            .aggregate(&text, text.clone());
        events.push(error.event());
    }
    site.insert(&events);
    site
}

#[test]
fn no_command_prints_or_logs_anything_that_acts() {
    let relay = ScriptedRelay::start();
    let manager = ServiceManager::start();
    let mut site = site(&relay, &manager);
    let metrics: PathBuf = site.folder().join("outbox.prom");
    site.set("metrics.file", json!(metrics));
    let count = corpus::some().len();
    // An empty text is no recipient that the database takes.
    let errors = count - 1;

    let looks: [&[&str]; 5] = [
        &["pending"],
        &["preview", "--plain"],
        &["run", "--all", "--dry-run"],
        &["-vv", "run", "--all"],
        &["pending"],
    ];
    for arguments in looks {
        let run = site.generator(arguments);
        // A preview has the tabs of the mails.
        let tab = if arguments.contains(&"preview") { "\t" } else { "\0" };
        judge_output(&run.stdout.replace(tab, " "));
        judge_log(&run);
        if arguments.contains(&"run") {
            assert_eq!(run.lines("ERROR").len(), errors + 1, "{run}");
        }
    }
    assert_eq!(site.sidecars().len(), count);
    let run = site.generator(&["pending", "--json"]).expect(0);
    judge_output(&run.stdout);
    let lines: Vec<Value> = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(lines.len(), count + errors);

    // As JSON, each line is an object of texts, with a level of ours and nothing else's fields.
    let run = site.generator(&["--log-format", "json", "run", "--all"]).expect(1);
    judge_output(&run.stderr);
    let mut told = 0;
    for line in run.stderr.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let fields: Vec<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
        assert!(line.as_object().unwrap().values().all(Value::is_string), "{line}");
        if line["level"] == "ERROR" && line["directives"].is_string() {
            assert_eq!(fields, ["directives", "events", "level", "message", "time"]);
            told += 1;
        }
    }
    assert_eq!(told, errors);
    let run = site.generator(&["--log-format", "journald", "run", "--all"]).expect(1);
    judge_output(&run.stderr);
    assert!(run.stderr.lines().all(|line| {
        ["<3>ERROR ", "<4>WARN ", "<6>INFO "].iter().any(|begin| line.starts_with(begin))
    }));

    // Some are held, some refused, each with words of the relay's.
    relay.always(
        outbox_tests::scripted_relay::At::Rcpt,
        "TO:<a1",
        outbox_tests::scripted_relay::Act::Say("550 5.1.1 \u{1b}[2J\u{202e}no such user\u{9b}"),
    );
    let service = site.start_deliverer(&["run"]);
    let sent = || site.pending() == i64::try_from(errors).unwrap() + refused(count);
    outbox_tests::programs::wait_until("all is sent but what is refused", sent);
    judge_output(&service.terminate().expect(0).stderr);
    for message in manager.news() {
        for line in message.lines() {
            let known = ["READY=1", "STATUS=", "STOPPING=1", "RELOADING=1", "MONOTONIC_USEC="];
            assert!(known.iter().any(|known| line.starts_with(known)), "{message:?}");
            assert!(!line.contains(acts), "{message:?}");
        }
    }
    judge_output(&fs::read_to_string(&metrics).unwrap());

    let tickets: Vec<String> = site.sidecars().iter().map(|it| it["ticket"].to_string()).collect();
    let tickets: Vec<&str> = tickets.iter().map(|ticket| ticket.trim_matches('"')).collect();
    for arguments in [
        &["list"][..],
        &["list", "--json"],
        &["status"],
        &["verify"],
        &["verify", "--json"],
        &[&["show"], &tickets[..]].concat(),
        &[&["show", "--json"], &tickets[..]].concat(),
        &["show", "\u{1b}[2J\n"],
        &["release", "--state", "failed"],
        &["hold", "--all"],
        &["withdraw", "--all", "--regenerate"],
    ] {
        let run = site.deliverer(arguments);
        // Of status, 2 is its word for CRITICAL.
        assert!(run.status.code() != Some(2) || arguments == ["status"], "{run}");
        judge_output(&run.stdout);
        judge_log(&run);
        if arguments.contains(&"--json") {
            serde_json::from_str::<Value>(&run.stdout).unwrap();
        }
    }
}

/// How many recipients `a1…@` there are.
fn refused(count: usize) -> i64 {
    let begin = (0..count).filter(|number| number.to_string().starts_with('1'));
    i64::try_from(begin.count()).unwrap()
}

#[test]
fn mutt_lists_and_shows_hostile_mails_and_nothing_of_them_reaches_the_terminal() {
    let relay = ScriptedRelay::start();
    let manager = ServiceManager::start();
    let site = site(&relay, &manager);
    site.generator(&["run", "--all"]).expect(1);
    let count = corpus::some().len();
    let home = site.folder().join("person");
    fs::create_dir_all(home.join("Mail")).unwrap();
    // Each mail as mutt shows it, header and text, goes through a pipe into a file.
    let shown = home.join("shown");
    let pipe =
        format!("<tag-pattern>~A<enter><tag-prefix><pipe-message>cat >{}<enter>", shown.display());
    let command = format!(
        "mutt -n -F /dev/null -R -e 'set pipe_decode wait_key=no pipe_split=no' -e 'push \"{pipe}\"' -f {}",
        site.outbox().display()
    );
    let mutt = Terminal::start(&home, &command);
    let screen = mutt.wait_for(&format!("Msgs:{count}"));
    judge_output(&screen);
    mutt.wait_for_effect("mutt has shown all of them", || {
        let subjects =
            |text: Vec<u8>| String::from_utf8_lossy(&text).matches("\nSubject: [2").count();
        fs::read(&shown).is_ok_and(|text| subjects(text) == count)
    });
    mutt.keys(&["x"]);
    mutt.wait_for_end(0);
    let shown = String::from_utf8_lossy(&fs::read(&shown).unwrap()).into_owned();
    // A field that only data names is in the text alone: behind the empty line.
    for header in shown.split("\nFrom: ").map(|mail| mail.split("\n\n").next().unwrap()) {
        assert!(!header.contains("\nBcc:"), "{header}");
    }
}
