//! Holds the tables of messages in docs/operations.md against the code: no message without a row, no
//! row without a message.
//!
//! A message is what `error!` or `warn!` logs, and what can end a program: the texts of `anyhow!`,
//! `bail!`, `.context()`, of `#[error]`, and of failed file operations. In its text, `…` stands for
//! each value that is put in. A row's first cell names messages in backticks, with their level, and
//! may have `…` for more of the text. One without a level is a reason: it stands in the `…` of another.

use std::fs;
use std::path::{Path, PathBuf};

use outbox_tests::messages::{Level, Message, Messages};

/// Each table, and the folders with the source of whose messages it has.
const TABLES: [(&str, &[&str]); 3] = [
    ("Generator", &["generator/src"]),
    ("Deliverer", &["deliverer/src"]),
    ("Both programs", &["outbox/src", "outbox/config/src"]),
];

/// Texts that no operator meets by themselves, and why.
const NEVER_ALONE: [(&str, &str); 11] = [
    ("failed to … …: …", "each action of outbox::Error::io is taken by itself"),
    ("failed to …: …", "RelayTrouble, which `the relay is in trouble …` and `check` tell"),
    ("failed to read … as a ticket (YYYYMMDD-NNNNNNNN)", "the reason why a sidecar can't be read"),
    (
        "failed to read … as a mail id (ASCII letters, digits, '.', '-' and '_')",
        "the reason why a sidecar or a record can't be read",
    ),
    ("failed to read … as a SHA-256 digest", "the reason why a sidecar can't be read"),
    ("no reply code", "behind `the relay sent what isn't a reply: `"),
    ("two codes in one reply", "behind `the relay sent what isn't a reply: `"),
    ("a reply without end", "behind `the relay sent what isn't a reply: `"),
    ("format …: …", "before the reason why there is no mail"),
    ("the substitution …: …", "before the reason why there is no mail"),
    ("not well: …", "sums up lines of `check` that begin with WRONG"),
];

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn messages(folders: &[&str]) -> Messages {
    let mut all = Messages::default();
    for folder in folders {
        all.read_crate(&project(), folder);
    }
    all
}

#[test]
fn every_message_has_a_row() {
    let mut missing = Vec::new();
    for (table, folders) in TABLES {
        let rows = rows(table);
        let mut needed: Vec<String> = messages(folders)
            .messages
            .iter()
            .filter(|message| message.level != Level::Info)
            .filter(|message| NEVER_ALONE.iter().all(|(text, _)| message.text != *text))
            .filter(|message| !rows.iter().any(|row| row.tells(message)))
            .map(|message| {
                // A backtick would end the cell's text.
                let text = message.text.replace('`', "…");
                format!("| `{} {text}` | |\n", message.level.word())
            })
            .collect();
        needed.sort();
        needed.dedup();
        if !needed.is_empty() {
            missing.push(format!("\n### {table}\n\n{}", needed.concat()));
        }
    }
    assert!(missing.is_empty(), "docs/operations.md lacks these rows:\n{}", missing.concat());
}

#[test]
fn every_row_has_a_message() {
    let shared = TABLES[2].1;
    let mut unknown = Vec::new();
    for (table, folders) in TABLES {
        let mut known = messages(folders);
        known.append(messages(shared));
        let rows = rows(table);
        assert!(rows.len() > 5, "the table {table} is not found");
        unknown.extend(
            rows.iter().filter(|row| !row.is_of(&known)).map(|row| {
                format!("docs/operations.md:{}: {:?} {}", row.line, row.level, row.text)
            }),
        );
    }
    assert!(unknown.is_empty(), "nothing in the code says:\n{}", unknown.join("\n"));
}

#[test]
fn what_is_said_to_stand_never_alone_is_said_at_all() {
    let all = messages(&TABLES.map(|(_, folders)| folders).concat());
    for (text, _) in NEVER_ALONE {
        assert!(all.messages.iter().any(|message| message.text == text), "{text}");
    }
}

/// A message as a row of a table names it.
#[derive(Debug)]
struct Row {
    /// None for a reason.
    level: Option<&'static str>,
    text: String,
    line: usize,
}

impl Row {
    /// Whether it tells of this message: it says the same, or less with `…` for the rest. Where a
    /// message begins with what is put in, or has it in its midst as a logged one can, the row may
    /// say what that is.
    fn tells(&self, message: &Message) -> bool {
        let level = match message.level {
            Level::Said => matches!(self.level, None | Some("ERROR" | "WRONG")),
            logged => self.level == Some(logged.word()),
        };
        let may_be_special = message.level != Level::Said || message.text.starts_with('…');
        level
            && (fits(&self.text, &message.text)
                || may_be_special && fits(&message.text, &self.text))
    }

    /// Whether something in the code says it. A reason need not be a message.
    fn is_of(&self, known: &Messages) -> bool {
        known.messages.iter().any(|message| self.tells(message))
            || self.level.is_none() && known.literals.iter().any(|text| fits(&self.text, text))
    }
}

/// Whether a text is a pattern's, with anything for each `…` in the pattern.
fn fits(pattern: &str, text: &str) -> bool {
    let Some((begin, rest)) = pattern.split_once('…') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(begin) else { return false };
    let mut parts: Vec<&str> = rest.split('…').collect();
    let end = parts.pop().unwrap_or_default();
    for part in parts {
        let Some((_, behind)) = text.split_once(part) else { return false };
        text = behind;
    }
    text.ends_with(end)
}

/// What the first cells of a table name.
fn rows(table: &str) -> Vec<Row> {
    let text = fs::read_to_string(project().join("docs/operations.md")).unwrap();
    let mut rows = Vec::new();
    let heading = format!("### {table}");
    let lines = text.lines().enumerate().skip_while(|(_, line)| *line != heading).skip(1);
    for (number, line) in lines.take_while(|(_, line)| !line.starts_with('#')) {
        let Some(cell) = line.strip_prefix("| ").and_then(|line| line.split(" | ").next()) else {
            continue;
        };
        if matches!(cell, "message" | "---") {
            continue;
        }
        let mut level = None;
        let spans: Vec<&str> = cell.split('`').skip(1).step_by(2).collect();
        assert!(!spans.is_empty(), "line {}: no message in backticks: {cell}", number + 1);
        for span in spans {
            let levels = ["ERROR", "WARN", "INFO", "WRONG"];
            let told = levels.into_iter().find(|level| span.starts_with(&format!("{level} ")));
            level = told.or(level);
            let text = told.map_or(span, |told| &span[told.len() + 1..]).to_owned();
            let speaks = text.contains(char::is_alphabetic);
            assert!(speaks, "line {}: it would fit everything: {span}", number + 1);
            rows.push(Row { level, text, line: number + 1 });
        }
    }
    rows
}

#[test]
fn a_pattern_fits_what_it_leaves_open_and_nothing_else() {
    let fitting = [
        ("failed to read …", "failed to read the template …: it is too large"),
        ("…, and held: …", "rejected by the relay, and held: …"),
        ("cannot … tickets", "cannot draw tickets"),
        ("a … b … c", "a x b y b z c"),
        ("all of it", "all of it"),
    ];
    for (pattern, text) in fitting {
        assert!(fits(pattern, text), "{pattern} | {text}");
    }
    let others = [
        ("failed to read …", "cannot read"),
        ("all of it", "all of it …"),
        ("… and more", "and more of it"),
        ("a … b", "a x"),
        ("b … a", "a b"),
    ];
    for (pattern, text) in others {
        assert!(!fits(pattern, text), "{pattern} | {text}");
    }
}
