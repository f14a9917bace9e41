//! Hostile data on its whole way: from an event or a directive through both programs to a relay and
//! to whoever reads the mail.
//!
//! Each text of the [corpus] goes to each place where data gets in. Then either the mail is right, as
//! [the strictest reader](wire::fault) of its bytes, Python and GnuPG find, or the group stays pending
//! with one ERROR line that names the directive; and no other group is held up. No text gets a line
//! of its own into a log, or anything onto a terminal.

mod corpus;
mod directives;
mod events;
mod looking;
mod script;
mod size;
mod smuggling;
mod wire;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use outbox_tests::mail;
use outbox_tests::programs::{Finished, LIMIT};
use outbox_tests::site::Site;
use serde::Deserialize;
use serde_json::Value;

// ---- Cases ----

/// What must come of a directive.
#[derive(Clone, Debug)]
enum Wanted {
    /// A mail that this finds right.
    Mail(Check),
    /// No mail, and an ERROR line with these words.
    Error(&'static str),
    /// No directive, but a row in `directives_rejected`.
    Rejected,
}

/// What a mail must say.
#[derive(Clone, Debug, Default)]
struct Check {
    /// Who gets it: the envelope, the header, and nobody else.
    to: Vec<String>,
    /// The subject, in which a NUL stands for the ticket.
    subject: Option<String>,
    /// The text, line ends aside.
    text: Option<String>,
    /// The one row of the table, by its columns, line ends aside where it stands in the text.
    row: Option<Vec<Cell>>,
}

/// A cell of a table.
#[derive(Clone, Debug)]
enum Cell {
    /// This text.
    Text(String),
    /// This value as JSON.
    Json(Value),
}

/// An event with one directive.
#[derive(Clone, Debug)]
struct Case {
    /// What it tries, for the figures.
    kind: &'static str,
    /// Where.
    place: &'static str,
    event: Value,
    wanted: Wanted,
}

/// What became of the cases.
struct Outcome {
    /// The mails' files, by the number of the case.
    mails: BTreeMap<usize, PathBuf>,
    /// The one ERROR line about a case.
    errors: BTreeMap<usize, String>,
}

/// Inserts the cases, runs the generator over them, and holds what came of each against what was
/// wanted. All else in the outbox, and any ERROR line about something else, is a failure.
fn generate(site: &Site, cases: &[Case]) -> Outcome {
    let events = site.insert(cases.iter().map(|case| &case.event));
    let number: HashMap<i64, usize> = events.iter().copied().zip(0..).collect();
    let pairs = site.column::<String>("SELECT id || ' ' || events_id FROM directives");
    let case_of: HashMap<i64, usize> = pairs
        .iter()
        .filter_map(|pair| {
            let (directive, event) = pair.split_once(' ')?;
            Some((directive.parse().ok()?, *number.get(&event.parse().ok()?)?))
        })
        .collect();
    let rejected = site.column::<i64>("SELECT events_id FROM directives_rejected");
    let failing = cases.iter().any(|case| matches!(case.wanted, Wanted::Error(_)));
    // Hundreds of groups, and a busy machine perhaps.
    let run = site.start_generator(&["run", "--all"]).finish_within(10 * LIMIT);
    let run = run.expect(i32::from(failing));
    judge_log(&run);

    let mut errors = BTreeMap::new();
    let lines = run.lines("ERROR");
    let lines = if failing { &lines[..lines.len() - 1] } else { &lines[..] };
    for line in lines {
        let id = line.rsplit_once(" directives=").and_then(|(_, rest)| rest.split_once(" events="));
        let id = id.and_then(|(id, _)| id.parse().ok());
        let case = id.and_then(|id: i64| case_of.get(&id));
        let case = *case.unwrap_or_else(|| panic!("it names no directive of ours: {line}"));
        let before = errors.insert(case, (*line).to_owned());
        assert_eq!(before, None, "a second line about {:?}", cases[case]);
    }
    let mut mails = BTreeMap::new();
    for sidecar in site.sidecars() {
        let ids = sidecar["directive_ids"].as_array().unwrap();
        let [id] = &ids[..] else { panic!("{sidecar}") };
        let case = *case_of.get(&id.as_i64().unwrap()).unwrap_or_else(|| panic!("{sidecar}"));
        let path = site.outbox().join("new").join(sidecar["id"].as_str().unwrap());
        assert!(mails.insert(case, path).is_none(), "a second mail for {:?}", cases[case]);
        let Wanted::Mail(check) = &cases[case].wanted else {
            panic!("a mail for {:?}: {sidecar}", cases[case]);
        };
        assert_eq!(sidecar["envelope"]["to"], Value::from(check.to.clone()));
    }
    assert_eq!(site.listed("new").len(), mails.len(), "each mail has its sidecar");
    for (index, case) in cases.iter().enumerate() {
        let (mail, error) = (mails.contains_key(&index), errors.get(&index));
        let is_rejected = rejected.contains(&events[index]);
        let right = match &case.wanted {
            Wanted::Mail(_) => mail && error.is_none() && !is_rejected,
            Wanted::Error(words) => {
                !mail && error.is_some_and(|line| line.contains(words)) && !is_rejected
            }
            Wanted::Rejected => !mail && error.is_none() && is_rejected,
        };
        assert!(right, "mail: {mail}, error: {error:?}, rejected: {is_rejected}: {case:?}\n{run}");
    }
    Outcome { mails, errors }
}

/// Holds mails against what their cases want of them: their bytes, and what Python and GnuPG read.
/// Files are by the number of the case.
fn judge_mails(site: &Site, cases: &[Case], mails: &BTreeMap<usize, PathBuf>, home: Option<&Path>) {
    let tickets = tickets(site);
    let files: Vec<PathBuf> = mails.values().cloned().collect();
    for ((&index, path), read) in mails.iter().zip(read(&files, home)) {
        let case = &cases[index];
        let Wanted::Mail(check) = &case.wanted else { panic!("{case:?}") };
        let bytes = fs::read(path).unwrap();
        let said = outbox_tests::mail::header(&bytes, "X-Ticket").expect("there is a ticket");
        let about = || format!("{case:?}\n{read:?}\n{}", String::from_utf8_lossy(&bytes));
        assert!(tickets.contains(&said), "{}", about());
        // What a relay stored has other line ends and more fields.
        if path.starts_with(site.outbox()) {
            let utf8 = !check.to.iter().all(|to| to.is_ascii());
            let fault = wire::fault(&bytes, &said, site.domain(), utf8);
            assert_eq!(fault, None, "{}", about());
        }
        assert_eq!(read.defects, [""; 0], "{}", about());
        assert_eq!((&read.to, &read.old_to), (&check.to, &check.to), "{}", about());
        let fingerprint = home.map(|_| site.gnupg().fingerprint());
        assert_eq!(read.signed_by.as_deref(), fingerprint, "{}", about());
        if let Some(subject) = &check.subject {
            let subject = subject.replace('\0', &said);
            assert_eq!((&read.subject, &read.old_subject), (&subject, &subject), "{}", about());
        }
        assert!(!read.subject.contains(['\r', '\n']), "{}", about());
        assert_eq!(read.structure, structure(&read), "{}", about());
        if let Some(text) = &check.text {
            assert_eq!(lf(&read.text), lf(text), "{}", about());
        }
        if let Some(row) = &check.row {
            let rows = read.rows.as_ref().unwrap_or_else(|| panic!("no table: {}", about()));
            let [_, found] = &rows[..] else { panic!("not one row: {}", about()) };
            let attached = |name: &String| name.starts_with("events.");
            let in_text = !read.names.iter().flatten().any(attached);
            assert_eq!(found.len(), row.len(), "{}", about());
            for (found, cell) in found.iter().zip(row) {
                match cell {
                    Cell::Text(text) if in_text => assert_eq!(lf(found), lf(text), "{}", about()),
                    Cell::Text(text) => assert_eq!(found, text, "{}", about()),
                    Cell::Json(value) => {
                        let found: Value = serde_json::from_str(found).unwrap();
                        assert_eq!(found, *value, "{}", about());
                    }
                }
            }
        }
    }
}

/// The parts that a mail with these files has, in their order, the whole before what is in it.
fn structure(read: &Read) -> Vec<&'static str> {
    let mut parts = vec!["text/plain"];
    let file = read.names.iter().flatten().find(|name| name.starts_with("events."));
    if let Some(name) = file {
        let of_file = match name.as_str() {
            "events.zip" => "application/zip",
            "events.csv.gz" => "application/gzip",
            _ => "text/csv",
        };
        parts = vec!["multipart/mixed", "text/plain", of_file];
    }
    if read.signed_by.is_some() {
        parts.insert(0, "multipart/signed");
        parts.push("application/pgp-signature");
    }
    parts
}

fn tickets(site: &Site) -> Vec<String> {
    let ticket = |sidecar: &Value| sidecar["ticket"].as_str().unwrap().to_owned();
    let mut tickets: Vec<String> = site.sidecars().iter().map(ticket).collect();
    tickets.extend(site.sent_tickets());
    tickets
}

/// Line ends as a text in a mail has them.
fn lf(text: &str) -> String {
    text.replace("\r\n", "\n")
}

/// How many cases there are of each kind, for whoever runs the test with `--nocapture`.
fn tell(cases: &[Case], outcome: &Outcome) {
    let mut kinds: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for case in cases {
        *kinds.entry((case.place, case.kind)).or_default() += 1;
    }
    println!(
        "{} cases, {} mails, {} errors",
        cases.len(),
        outcome.mails.len(),
        outcome.errors.len()
    );
    for ((place, kind), count) in kinds {
        println!("{count:>5} {place}: {kind}");
    }
}

// ---- Judges ----

/// A mail as Python and GnuPG read it: see `judge.py`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Read {
    defects: Vec<String>,
    subject: String,
    old_subject: String,
    to: Vec<String>,
    old_to: Vec<String>,
    structure: Vec<String>,
    names: Vec<Option<String>>,
    text: String,
    rows: Option<Vec<Vec<String>>>,
    signed_by: Option<String>,
}

fn read(files: &[PathBuf], gnupg_home: Option<&Path>) -> Vec<Read> {
    // Some hundred at a time: there is a limit to what stands on a command line.
    let judged = |files| mail::judge(include_str!("judge.py"), files, gnupg_home);
    files.chunks(500).flat_map(judged).collect()
}

/// Whether a character can't be seen as itself, or does something to what stands around it: the
/// controls (Cc), those that format (Cf), the separators of lines and paragraphs, and fillers.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{890}'..='\u{891}'
                | '\u{8e2}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// Panics unless each line of a log of text is whole, ours and harmless.
#[track_caller]
fn judge_log(run: &Finished) {
    for line in run.stderr.split_terminator('\n') {
        let (time, rest) = line.split_at_checked(24).unwrap_or_else(|| panic!("{line:?}"));
        assert!(time.parse::<Timestamp>().is_ok(), "no time begins {line:?}");
        let levels = [" ERROR ", "  WARN ", "  INFO ", " DEBUG ", " TRACE "];
        assert!(levels.iter().any(|level| rest.starts_with(level)), "no level is in {line:?}");
        assert!(!line.contains(acts), "{line:?}");
    }
}

/// Panics unless what a command printed is lines that do nothing to a terminal.
#[track_caller]
fn judge_output(text: &str) {
    let bad = text.chars().find(|&c| acts(c) && c != '\n');
    assert_eq!(bad, None, "in {text:?}");
}
