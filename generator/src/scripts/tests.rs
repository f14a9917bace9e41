//! Scripts that behave and scripts that do not, each as a real process.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use outbox::{DirectiveId, GroupKey, Ticket};
use outbox_config::Config;
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::address::Address;
use crate::event::{Event, Value};
use crate::formats::{Data, Decision, MailPlan, TemplateChoice, TicketOf};
use crate::group::EventId;

/// A folder of definitions and scripts, and what runs them.
struct Folder {
    root: TempDir,
    definitions: Definitions,
    scripts: Scripts,
    host: Given,
}

/// A host without a database: three columns, and tickets of a day.
#[derive(Default)]
struct Given {
    drawn: i64,
    loaded: usize,
}

impl Host for Given {
    fn lacks(&self, columns: &BTreeSet<String>) -> Option<String> {
        let known = ["id", "source.ip", "time.source", "extra"];
        columns.iter().find(|name| !known.contains(&name.as_str())).cloned()
    }

    fn load_events(
        &mut self,
        group: &Group,
        columns: Option<&BTreeSet<String>>,
    ) -> anyhow::Result<Result<Vec<Event>, String>> {
        self.loaded += 1;
        let all: BTreeSet<String> = ["source.ip", "time.source", "extra"].map(str::to_owned).into();
        let names: Vec<String> = columns.unwrap_or(&all).iter().cloned().collect();
        let event = |id: EventId| {
            let value = |name: &String| match name.as_str() {
                "source.ip" => Value::Text(format!("192.0.2.{id}")),
                "time.source" => Value::Time("2026-11-24T10:11:12.5Z".parse().unwrap()),
                "extra" => Value::Json(json!({"a": {"b": id.0}})),
                _ => Value::Integer(id.0),
            };
            Event::new(id, names.clone().into(), names.iter().map(value).collect())
        };
        Ok(Ok(group.events().into_iter().map(event).collect()))
    }

    fn new_ticket(&mut self) -> anyhow::Result<Ticket> {
        self.drawn += 1;
        Ok(Ticket::new("20261125", self.drawn)?)
    }
}

/// How long a script may take that will not end.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Files, those without an ending executable. Scripts have a minute: what ends by itself may take its time
/// on a busy machine.
fn folder(files: &[(&str, &str)]) -> Folder {
    try_folder(files).unwrap_or_else(|error| panic!("{error}"))
}

fn try_folder(files: &[(&str, &str)]) -> Result<Folder, LoadError> {
    folder_with_timeout(files, "60s")
}

fn folder_with_timeout(files: &[(&str, &str)], timeout: &str) -> Result<Folder, LoadError> {
    let root = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = root.path().join(name);
        fs::write(&path, text).unwrap();
        if !name.contains('.') {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }
    let config = root.path().join("config.json");
    let settings = json!({
        "template_dir": root.path(), "sender": "noreply@cert.example",
        "database": {"event": {"name": "n", "username": "u", "password": "hidden"}},
        "scripts": {"timeout": timeout, "config": {"own": [1, 2]}},
    });
    fs::write(&config, settings.to_string()).unwrap();
    let config = Config::load(Some(&config)).unwrap();
    let definitions = Definitions::load(root.path())?;
    let scripts = Scripts::load(&definitions, &config)?;
    Ok(Folder { root, definitions, scripts, host: Given::default() })
}

fn group() -> Group {
    Group {
        key: GroupKey {
            recipient_address: "abuse@isp.example".into(),
            template_name: "generic".into(),
            notification_format: "text".into(),
            event_data_format: "csv_inline".into(),
            aggregate_identifier: [("source.asn".to_owned(), Some("64496".to_owned()))].into(),
        },
        directive_ids: [1, 2, 3].map(DirectiveId).into(),
        event_ids: [11, 12, 12].map(EventId).into(),
        inserted_at: "2026-11-25T10:00:00Z".parse().unwrap(),
        notification_interval: SignedDuration::from_hours(24),
        last_sent: Some("2026-11-24T11:00:00.25Z".parse().unwrap()),
    }
}

fn now() -> Timestamp {
    "2026-11-25T12:00:00Z".parse().unwrap()
}

impl Folder {
    fn decide(&mut self) -> Result<Option<Decision>, String> {
        let mut asking = self.scripts.with(&mut self.host);
        let decision = self.definitions.decide(&group(), now(), &mut asking);
        decision.map_err(|error| format!("{:#}", anyhow::Error::new(error)))
    }

    #[track_caller]
    fn mails(&mut self) -> Vec<MailPlan> {
        match self.decide() {
            Ok(Some(Decision::Compose(plan))) => plan.mails,
            other => panic!("no mails: {other:?}"),
        }
    }

    #[track_caller]
    fn error(&mut self) -> String {
        self.decide().expect_err("an error")
    }
}

/// A script in sh that answers each line with this.
fn answers(answer: &str) -> String {
    format!("#!/bin/sh\nwhile read -r line; do printf '%s\\n' '{answer}'; done\n")
}

const REST: &str = "[[format]]\nname = \"rest\"\ncolumns = [\"source.ip\"]\n";

#[test]
fn a_program_is_asked_in_its_place_among_the_definitions() {
    let echo = r#"#!/usr/bin/python3
import json, sys
for line in sys.stdin:
    print(json.dumps({"error": line.strip()}), flush=True)
"#;
    let set = "[substitutions]\na = \"in AS ${source.asn}\"\nb = \"x\"\n";
    let mut folder = folder(&[
        ("00-set.toml", set),
        ("10-pass", &answers("null")),
        ("20-set", &answers(r#"{"substitutions": {"b": "own", "a": "in AS ${source.asn}"}}"#)),
        ("30-echo", echo),
        ("40-rest.toml", REST),
    ]);
    let error = folder.error();
    let request = error.strip_prefix("the script 30-echo: ").expect("whose it is");
    let request: serde_json::Value = serde_json::from_str(request).expect("JSON");
    assert_eq!(
        request,
        json!({
            "recipient_address": "abuse@isp.example", "template_name": "generic",
            "notification_format": "text", "event_data_format": "csv_inline",
            "aggregate_identifier": {"source.asn": "64496"},
            "directive_ids": [1, 2, 3], "event_ids": [11, 12, 12],
            "inserted_at": "2026-11-25T10:00:00Z", "notification_interval": 86400,
            "last_sent": "2026-11-24T11:00:00.25Z", "now": "2026-11-25T12:00:00Z",
            "substitutions": {"a": "in AS ${source.asn}", "b": "own"},
        })
    );
    fs::remove_file(folder.root.path().join("30-echo")).unwrap();
    folder.definitions = Definitions::load(folder.root.path()).unwrap();
    let texts = folder.mails().remove(0).substitutions;
    assert!(!texts["a"].verbatim && texts["a"].file == "00-set.toml", "as it was: {texts:?}");
    assert!(texts["b"].verbatim && texts["b"].file == "20-set", "{texts:?}");
}

#[test]
fn a_programs_mails_have_all_that_it_says() {
    let script = r#"#!/usr/bin/python3
import json, sys
def ask(question):
    print(json.dumps(question), flush=True)
    return json.loads(sys.stdin.readline())
for line in sys.stdin:
    group = json.loads(line)
    print(json.dumps({"log": {"level": "info", "text": "on it"}}), flush=True)
    print("noise", file=sys.stderr)
    assert "error" in ask({"load_events": {"columns": ["nosuch"]}})
    answer = ask({"load_events": {"columns": ["source.ip", "time.source"]}})
    assert answer["times"] == ["time.source"], answer
    events = answer["events"]
    assert events[0] == {"id": 11, "source.ip": "192.0.2.11", "time.source": "2026-11-24T10:11:12.5Z"}, events
    ticket = ask({"new_ticket_number": True})["ticket"]
    mail = {
        "columns": ["source.ip", {"field": "extra.a.b", "title": "deep"},
                    {"title": "own", "values": {str(e["id"]): "v%d" % e["id"] for e in events}}],
        "data": "attachment", "subject": "S ${ticket_number}", "body": "B", "ticket": ticket,
        "substitutions": {"x": "$y"}, "event_ids": [11],
    }
    copy = dict(mail, envelope_to=["copy@cert.example", " copy@CERT.example"],
                mark_sent=False)
    last = {"columns": ["source.ip"], "envelope_to": "b@cert.example", "template": "t"}
    print(json.dumps({"notifications": [mail, copy, last, last]}), flush=True)
"#;
    let mut folder = folder(&[("10-own", script)]);
    let mails = folder.mails();
    assert_eq!(mails.len(), 4);
    let [mail, copy, last, again] = mails.as_slice() else { unreachable!() };
    assert_eq!(mail.ticket, TicketOf::Given("20261125-00000001".parse().unwrap()));
    assert_eq!(mail.data, Data::Attachment);
    assert_eq!(mail.events, Some([EventId(11)].into()));
    let titles: Vec<_> = mail.columns.iter().map(|column| column.title.as_str()).collect();
    assert_eq!(titles, ["source.ip", "deep", "own"]);
    let event = Event::new(EventId(12), [].into(), vec![]);
    assert_eq!(event.field(&mail.columns[2].field).unwrap().to_string(), "v12");
    assert!(mail.substitutions["x"].verbatim);
    assert!(mail.mark_sent && mail.envelope_to.is_none());
    assert_eq!((copy.ticket.clone(), copy.mark_sent), (mail.ticket.clone(), false));
    let to: Vec<&str> = copy.envelope_to.iter().flatten().map(Address::as_str).collect();
    assert_eq!(to, ["copy@cert.example"], "nobody gets a mail twice");
    assert_eq!((&last.ticket, last.mark_sent, last.data), (&TicketOf::Own, true, Data::Inline));
    assert_eq!(last.template, TemplateChoice::Named("t".into()));
    assert!(!again.mark_sent, "another has its directives");
}

#[test]
fn a_rule_for_copies_holds_for_a_scripts_mails_that_claim_directives() {
    let copy = "[[copy]]\nenvelope_to = \"copy@cert.example\"\nsubstitutions = { a = \"copy\" }\n\
                [substitutions_for_data.attachment]\nwhere = \"attached\"\n";
    let mail = r#"{"columns": ["source.ip"], "data": "attachment", "substitutions": {"a": "own"}"#;
    let answer = format!(
        r#"{{"notifications": [{mail}, "event_ids": [12]}}, {mail}, "mark_sent": false}}]}}"#
    );
    let mut folder = folder(&[("05-copy.toml", copy), ("10-own", &answers(&answer))]);
    let mails = folder.mails();
    let [mail, copy, other] = mails.as_slice() else { panic!("{mails:?}") };
    let text = |mail: &MailPlan, name: &str| mail.substitutions[name].text.clone();
    assert_eq!(
        (text(mail, "a"), text(copy, "a"), text(other, "a")),
        ("own".into(), "copy".into(), "own".into())
    );
    assert_eq!(text(mail, "where"), "attached");
    assert_eq!(
        (&copy.ticket, copy.mark_sent, &copy.events),
        (&TicketOf::Same, false, &mail.events)
    );
    assert_eq!(other.envelope_to, None);
}

#[test]
fn what_a_program_says_wrong_is_told_with_its_place() {
    for (answer, words) in [
        (r#"{"notifications": []}"#, "`notifications` is empty"),
        (r#"{"notifications": [{"columns": []}]}"#, "notifications[0].columns: there is none"),
        (r#"{"notifications": [{"columns": ["extra:a"]}]}"#, "notifications[0].columns[0]: "),
        (r#"{"notifications": [{"columns": ["a"], "data": "x"}]}"#, "data: \"x\""),
        (r#"{"notifications": [{"columns": ["a"], "subject": "x"}]}"#, "subject: it needs `body`"),
        (r#"{"notifications": [{"columns": ["a"], "envelope_to": []}]}"#, "envelope_to: "),
        (r#"{"notifications": [{"columns": ["a"], "envelope_to": "x"}]}"#, "there is no @"),
        (r#"{"notifications": [{"columns": ["a"], "event_ids": [13]}]}"#, "13 is not an event"),
        (
            r#"{"notifications": [{"columns": ["a"], "ticket": "20261125-00000001"}]}"#,
            "was not drawn for this group",
        ),
        (r#"{"substitutions": {"ticket_number": "x"}}"#, "substitutions.ticket_number"),
        (r#"{"notifications": [{"colums": ["a"]}]}"#, "notifications[0].colums: unknown field"),
        (r#"{"error": "not today"}"#, "the script 10-a: not today"),
        ("nonsense", "what it said is no answer"),
    ] {
        let error = folder(&[("10-a", &answers(answer))]).error();
        assert!(error.starts_with("the script 10-a: ") && error.contains(words), "{error}");
    }
}

#[test]
fn misbehaviour_costs_its_group_and_what_takes_long_the_rest_in_the_end() {
    let hang = "#!/bin/sh\nexec sleep 1000\n";
    let greedy = "#!/bin/sh\nread -r line\nyes '{\"load_events\": {\"columns\": null}}'\n";
    let endless = "#!/bin/sh\nread -r line\nhead -c 20000000 /dev/zero | tr '\\0' x\n";
    let chatty = "#!/bin/sh\nread -r line\nyes null\n";
    let talkative =
        "#!/bin/sh\nread -r line\nyes '{\"log\": {\"level\": \"DEBUG\", \"text\": \"\"}}'\n";
    for (script, words) in [
        ("#!/bin/sh\nread -r line\nexit 3\n", "it ended with exit code 3"),
        ("#!/bin/sh\nread -r line\nsleep 1000 &\nexit 4\n", "it ended with exit code 4"),
        ("#!/bin/sh\nkill -SEGV $$\n", "it was ended by signal 11"),
        ("#!/bin/sh\nexec >&-\nread -r line\nsleep 1000\n", "it closed its standard output"),
        (hang, "it had no answer after 1s (scripts.timeout) and was killed"),
        ("#!/bin/sh\nyes >&2\n", "it had no answer after 1s (scripts.timeout) and was killed"),
        (greedy, "it asked for the events 100 times"),
        (endless, "a line of more than 16 MiB"),
        (chatty, "it said more than the answer"),
        (talkative, "it sent 100000 messages"),
        ("#!/no/such/interpreter\n", "cannot start it: "),
        ("#!/bin/sh\nread -r line\nprintf 'a\\000b\\n'\n", "is no answer"),
    ] {
        let timeout = if words.contains("after 1s") { "1s" } else { "60s" };
        let files = [("10-bad", script), ("20-rest.toml", REST)];
        let mut folder = folder_with_timeout(&files, timeout).unwrap();
        let begin = Instant::now();
        let mut failures = 0;
        while failures < 6 && begin.elapsed() < TIMEOUT * 5 {
            let error = folder.error();
            assert!(error.starts_with("the script 10-bad: ") && error.contains(words), "{error}");
            failures += 1;
        }
        if script == hang {
            assert_eq!(failures, 5);
            let begin = Instant::now();
            let error = folder.error();
            assert!(error.contains("not started any more") && error.contains(words), "{error}");
            assert!(begin.elapsed() < TIMEOUT / 2, "it is not tried any more");
        }
    }
}

#[test]
fn a_script_that_failed_is_started_anew() {
    let script = "#!/bin/sh\nread -r line\necho null\nread -r line\nexit 1\n";
    let mut folder = folder(&[("10-tired", script)]);
    for _ in 0..5 {
        assert_eq!(folder.decide(), Ok(None));
        assert!(folder.error().contains("exit code 1"));
    }
}

#[test]
fn a_program_that_ends_after_each_answer_is_started_for_each_group() {
    // At once, or when it was asked again already.
    for end in ["exit 0", "sleep 0.1"] {
        let script = format!("#!/bin/sh\nread -r line\necho >>\"$0.runs\"\necho null\n{end}\n");
        let mut folder = folder(&[("10-once", &script)]);
        for number in 1..=5 {
            assert_eq!(folder.decide(), Ok(None));
            let runs = fs::read_to_string(folder.root.path().join("10-once.runs")).unwrap();
            assert_eq!(runs.len(), number);
        }
    }
}

#[test]
fn what_a_killed_script_started_is_killed_too_and_the_others_end_by_themselves() {
    let script = "#!/bin/sh\nsleep 1000 &\necho $! >\"$0.pid\"\nwait\n";
    let good = "#!/bin/sh\nwhile read -r line; do echo null; done\necho done >\"$0.end\"\n";
    let files = [("05-good", good), ("10-hang", script)];
    let mut folder = folder_with_timeout(&files, "3s").unwrap();
    assert!(folder.error().contains("no answer after"));
    let pid = fs::read_to_string(folder.root.path().join("10-hang.pid")).unwrap();
    // It is nobody's to wait for, and dies a moment later.
    let begin = Instant::now();
    let alive = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
        stat.is_ok_and(|stat| !stat.contains(") Z "))
    };
    while alive() {
        assert!(begin.elapsed() < Duration::from_secs(10), "the child of the script is alive");
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(folder.scripts);
    assert_eq!(fs::read_to_string(folder.root.path().join("05-good.end")).unwrap(), "done\n");
}

#[test]
fn a_large_request_and_a_large_answer_do_not_wait_for_each_other() {
    let script = r#"#!/usr/bin/python3
import json, sys
for line in sys.stdin:
    sys.stderr.write("n" * 200000 + "\n")
    print(json.dumps({"log": {"level": "debug", "text": "x" * 1000000}}), flush=True)
    print(json.dumps({"load_events": {"columns": None}}), flush=True)
    print(json.dumps({"substitutions": {"a": "y" * 1000000}}), flush=True)
"#;
    let set = format!("[substitutions]\na = \"{}\"\n", "z".repeat(1_000_000));
    let mut folder = folder(&[("00-a.toml", &set), ("10-big", script), ("20-rest.toml", REST)]);
    assert_eq!(folder.mails()[0].substitutions["a"].text.len(), 1_000_000);
    assert_eq!(folder.host.loaded, 1);
}

// ---- Python ----

#[test]
fn scripts_that_can_not_be_loaded_are_told_with_file_and_line() {
    let Err(LoadError::Definitions(problems)) = try_folder(&[
        ("10-syntax.py", "def create_notifications(context):\n    return (\n"),
        ("20none.py", "def create_notification(context): pass\n"),
        ("30-import.py", "\n\nimport no_such_module\n"),
        ("40-exit.py", "import sys\nsys.exit(4)\n"),
        ("50-good.py", "def create_notifications(context): pass\n"),
        ("60-empty.py", ""),
        ("70-zero.py", "x = 1\n\0\n"),
    ]) else {
        panic!("loaded");
    };
    let told: Vec<String> = problems
        .iter()
        .map(|problem| {
            format!("{}: {}", problem.file.file_name().unwrap().display(), problem.message)
        })
        .collect();
    let words = [
        "10-syntax.py: line 2: SyntaxError: '(' was never closed",
        "20none.py: it has no function create_notifications",
        "30-import.py: line 3: ModuleNotFoundError: No module named 'no_such_module'",
        "40-exit.py: line 2: SystemExit: 4",
        "60-empty.py: it has no function create_notifications",
        "70-zero.py: ",
    ];
    assert_eq!(told.len(), words.len(), "{told:?}");
    for (told, words) in told.iter().zip(words) {
        assert!(told.starts_with(words), "{told}");
    }
}

fn python(body: &str) -> String {
    let lines: Vec<String> = body.lines().map(|line| format!("    {line}\n")).collect();
    let head = "from intelmqmail.notification import *\ndef create_notifications(context):\n";
    head.to_owned() + &lines.concat()
}

#[test]
fn a_python_script_that_fails_costs_the_group_with_its_line_and_goes_on() {
    for (body, words) in [
        ("return nosuch", "line 3: NameError: name 'nosuch' is not defined"),
        ("raise InvalidDirective('odd')", "line 3: InvalidDirective: odd"),
        ("raise InvalidTemplate('odd')", "line 3: InvalidTemplate: Invalid template 'odd'"),
        ("import sys; sys.exit('bye')", "line 3: SystemExit: bye"),
        ("return create_notifications(context)", "line 3: RecursionError"),
        ("return 'x' * (1 << 62)", "line 3: MemoryError"),
        (
            "from intelmqmail.templates import Template as T\n\
             n = context.mail_format_as_csv(template=T.from_strings('s', 'b'))\n\
             n[0].email._plan['data'] = {1j}\nreturn n",
            "what the script returned can not be passed on",
        ),
        ("raise InvalidDirective('x' * 5000000)", "InvalidDirective: xxx"),
        // Python writes a byte so that is no UTF-8, and there is no text with it.
        ("raise ValueError('odd \\ud800')", "line 3: ValueError: odd \\ud800"),
        (
            "from intelmqmail.templates import Template as T\n\
             return context.mail_format_as_csv(template=T.from_strings('s', 'b \\udc80'))",
            "what the script returned can not be passed on: 'utf-8' codec can't encode character",
        ),
        ("context.load_events(['\\ud800'])", "line 3: UnicodeEncodeError"),
        ("return [1]", "TypeError: create_notifications returned int"),
        ("return (x for x in ())", "`notifications` is empty"),
        ("context.load_events(['nosuch'])", "NotificationError: the table events lacks the column"),
        ("context.db_cursor", "NotOffered: scripts have no connection"),
        ("context.mail_format_as_xarf(None)", "NotOffered: scripts make no X-ARF mails"),
        (
            "return context.mail_format_as_csv()",
            "line 3: InvalidTemplate: Invalid template 'generic'",
        ),
        ("context.mail_format_as_csv(template='x')", "NotificationError: 'x' is no template"),
    ] {
        let mut folder = folder(&[("10a.py", &python(body))]);
        for _ in 0..4 {
            let error = folder.error();
            assert!(error.starts_with("the script 10a.py: ") && error.contains(words), "{error}");
        }
    }
}

#[test]
fn a_python_script_that_ruins_the_runner_costs_a_group_and_the_runner_is_started_anew() {
    for (body, words) in [
        ("import os; os._exit(7)", "it ended with exit code 7"),
        ("while True: pass", "it had no answer after 1s"),
        ("import os; os.kill(os.getpid(), 9)", "it was ended by signal 9"),
        ("import os; os.write(context._host._out.fileno(), b'x\\n')", "is no answer"),
    ] {
        let files = [("10a.py", python(body)), ("05b.py", python("return None"))];
        let files: Vec<_> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
        let timeout = if words.contains("after 1s") { "1s" } else { "60s" };
        let mut folder = folder_with_timeout(&files, timeout).unwrap();
        for _ in 0..3 {
            let error = folder.error();
            assert!(error.starts_with("the script 10a.py: ") && error.contains(words), "{error}");
        }
    }
}

#[test]
fn what_a_script_prints_or_starts_does_not_get_between_the_lines() {
    let body = "import os, subprocess, sys\nprint('hello')\nsys.stdout.write('no end')\n\
                os.write(1, b'raw\\n')\nsubprocess.run(['echo', 'child'])\n\
                assert subprocess.run(['cat'], stdout=subprocess.PIPE).stdout == b''\n\
                assert sys.stdin.read() == ''\ncontext.logger.warning('x\\ud800y')\n\
                return context.mail_format_as_csv()";
    let mut folder = folder(&[("10a.py", &python(body)), ("generic", "S\n\nB")]);
    assert_eq!(folder.mails().len(), 1);
}

#[test]
fn one_context_goes_through_all_python_scripts_and_the_definitions_between() {
    let early = python(
        "context.substitutions = dict(context.substitutions, early=5, over='e')\n\
         context.mark = context.directive['template_name']\n\
         original = context.mail_format_as_csv\n\
         def with_copy(*args, **kw):\n\
         \x20   mails = original(*args, **kw)\n\
         \x20   kw.update(envelope_tos=['copy@cert.example'], mark_as_sent=False, ticket_number=mails[0].ticket)\n\
         \x20   return mails + original(*args, **kw)\n\
         context.mail_format_as_csv = with_copy",
    );
    let late = python(
        "assert context.mark == 'generic'\n\
         assert context.substitutions['over'] == 'toml', context.substitutions\n\
         assert context.substitutions['early'] == 5, context.substitutions\n\
         assert context.config['own'] == [1, 2] and 'scripts' not in context.config\n\
         assert 'password' not in context.config['database']['event']\n\
         return context.mail_format_as_csv(substitutions=dict(context.substitutions, own='$x'))",
    );
    let mut folder = folder(&[
        ("00early.py", &early),
        ("10-over.toml", "[substitutions]\nover = \"toml\"\n"),
        ("20late.py", &late),
        ("generic", "S\n\nB"),
    ]);
    let mails = folder.mails();
    let [mail, copy] = mails.as_slice() else { panic!("{mails:?}") };
    assert_eq!(mail.ticket, TicketOf::Given("20261125-00000001".parse().unwrap()));
    assert_eq!((&copy.ticket, copy.mark_sent), (&mail.ticket, false));
    let texts: BTreeMap<_, _> = mail
        .substitutions
        .iter()
        .map(|(name, text)| (name.as_str(), (text.text.as_str(), text.verbatim)))
        .collect();
    let expected =
        [("early", ("5", true)), ("over", ("toml", false)), ("own", ("$x", true))].into();
    assert_eq!(texts, expected);
    assert_eq!(mail.template, TemplateChoice::Named("generic".into()));
}
