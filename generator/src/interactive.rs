//! The questions of `run` without `--all`: what is pending is shown batch by batch, and a person says
//! what is written.
//!
//! Nothing in the database is locked while the person thinks, and no session is open there, so that
//! nobody waits for an answer and no timeout counts. What is chosen is read again, with all locks,
//! when it is written: of the directives that were shown, those that are still pending. The outbox's
//! lock is held all the time, so that no other run decides for the person.

use std::io::{BufRead as _, IsTerminal as _, stdin};

use anyhow::anyhow;
use jiff::Timestamp;
use outbox::DirectiveId;
use outbox_config::Failure;
use outbox_config::program::{print, width};
use outbox_config::text::{fit, one_line};

use crate::compose::Summary;
use crate::fate::Fate;
use crate::group::{Group, ids};
use crate::run::{Outcome, Run};
use crate::scripts::DatabaseHost;
use crate::store::{self, BadGroup, EventColumns, Pending, Scope};
use crate::tickets::Pretended;
use crate::tools::claims;

/// Fails if there is nobody to ask.
pub fn check_terminal() -> Result<(), Failure> {
    if stdin().is_terminal() {
        return Ok(());
    }
    Err(Failure::Usage(anyhow!(
        "there is no terminal to ask on: `run --all` writes all that is pending without asking"
    )))
}

/// What a person can say of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Continue,
    Send,
    All,
    Quit,
}

/// Asks for each batch, and writes what is to be written.
pub fn ask(run: &mut Run<'_>, batch_size: usize, with_ids: bool) -> Result<(), Failure> {
    let entries = entries(run)?;
    if entries.is_empty() {
        return print("Nothing is pending.\n");
    }
    let total = entries.len();
    let mut shown = 0;
    while shown < total {
        let batch = &entries[shown..total.min(shown + batch_size)];
        print(&list(batch, shown, total, with_ids))?;
        let chosen = match question()? {
            Answer::Continue => {
                print("Skipped.\n\n")?;
                &[]
            }
            Answer::Quit => return print("Nothing more is written.\n"),
            Answer::Send => batch,
            Answer::All => &entries[shown..],
        };
        if chosen.is_empty() {
            shown += batch.len();
            continue;
        }
        let directives: Vec<DirectiveId> =
            chosen.iter().flat_map(|entry| entry.directive_ids.iter().copied()).collect();
        match run.write(Some(&directives))? {
            Outcome::Done(summary) => {
                shown += chosen.len();
                print(&sum(summary, run.is_dry()))?;
            }
            Outcome::NotOurTurn => print("Nothing was written: the line above says why.\n\n")?,
        }
    }
    Ok(())
}

/// One pending group, as it is shown.
struct Entry {
    directive_ids: Vec<DirectiveId>,
    lines: Vec<String>,
    ids: String,
}

fn entries(run: &mut Run<'_>) -> Result<Vec<Entry>, Failure> {
    let claims = claims(run.outbox)?;
    let mut client = store::open(&run.config.database()?.event)?;
    let columns = EventColumns::read(&mut client).map_err(store::failure)?;
    let Pending { mut transaction, groups } =
        store::peek(&mut client, Scope::of(run.config)?, &claims)?;
    let mut host = DatabaseHost {
        transaction: &mut transaction,
        columns: &columns,
        tickets: &mut Pretended::default(),
    };
    let entry = |group| match group {
        Ok(group) => Fate::foreseen(&group, &mut run.tools, &mut host, &columns)
            .map(|fate| Entry::of(&group, &fate)),
        Err(bad) => Ok(Entry::of_bad(bad)),
    };
    groups.into_iter().map(entry).collect()
}

impl Entry {
    fn of(group: &Group, fate: &Fate) -> Self {
        let key = &group.key;
        let mut lines = vec![
            format!("{} to {}", events(group.events().len()), key.recipient_address),
            format!(
                "{} ({}/{})",
                key.template_name, key.notification_format, key.event_data_format
            ),
        ];
        match fate {
            Fate::Due(_) => {}
            Fate::Postponed { until, why, .. } => {
                let until = until.map(|until: Timestamp| format!(" until {until:.0}"));
                lines.push(format!("postponed{}: {why}", until.unwrap_or_default()));
            }
            Fate::Impossible(why) => lines.push(format!("can't be written: {why}")),
        }
        let (events, directives) = (&group.event_ids, &group.directive_ids);
        Self {
            ids: format!(
                "events {}; directives {}",
                ids(events.iter().map(|id| id.0)),
                ids(directives.iter().map(|id| id.0))
            ),
            directive_ids: directives.clone(),
            lines,
        }
    }

    fn of_bad(BadGroup { directive_ids, event_ids, reason }: BadGroup) -> Self {
        let events = ids(event_ids.iter().map(|id| id.0));
        let directives = ids(directive_ids.iter().map(|id| id.0));
        Self {
            lines: vec![format!("directives {directives}"), format!("can't be written: {reason}")],
            ids: format!("events {events}; directives {directives}"),
            directive_ids,
        }
    }
}

fn events(number: usize) -> String {
    if number == 1 { "1 event".to_owned() } else { format!("{number} events") }
}

/// The batch that begins behind the first `before` of `total` groups.
fn list(batch: &[Entry], before: usize, total: usize, with_ids: bool) -> String {
    let width = width().unwrap_or(usize::MAX);
    let mut text = format!("Groups {} to {} of {total}:\n", before + 1, before + batch.len());
    for (number, entry) in (before + 1..).zip(batch) {
        let ids = with_ids.then_some(&entry.ids);
        for (index, line) in entry.lines.iter().chain(ids).enumerate() {
            let lead = if index == 0 { format!("{number:>4}. ") } else { " ".repeat(6) };
            // Ids are for copying: they are not cut.
            let width = if index < entry.lines.len() { width } else { usize::MAX };
            text.push_str(&fit(&(lead + &one_line(line)), width));
            text.push('\n');
        }
    }
    text
}

/// Asks until there is an answer.
fn question() -> Result<Answer, Failure> {
    loop {
        print("[c]ontinue (skip), [s]end this batch, send [a]ll, [q]uit? ")?;
        let mut line = String::new();
        let read = stdin().lock().read_line(&mut line);
        if !read.is_ok_and(|read| read > 0) {
            print("\n")?;
            return Err(Failure::Usage(anyhow!(
                "the input ended before an answer: `run --all` writes without asking"
            )));
        }
        match answer(&line) {
            Some(answer) => return Ok(answer),
            None => print("Answer with c, s, a or q.\n")?,
        }
    }
}

fn answer(line: &str) -> Option<Answer> {
    match line.trim().to_ascii_lowercase().as_str() {
        "c" => Some(Answer::Continue),
        "s" => Some(Answer::Send),
        "a" => Some(Answer::All),
        "q" => Some(Answer::Quit),
        _ => None,
    }
}

fn sum(Summary { mails, copies, postponed, errors }: Summary, dry: bool) -> String {
    let would = if dry { "Dry run, nothing is written: " } else { "" };
    format!("{would}mails: {mails}, copies: {copies}, postponed: {postponed}, errors: {errors}\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_one_letter_and_nothing_else() {
        assert_eq!(answer(" s \n"), Some(Answer::Send));
        assert_eq!(answer("A\n"), Some(Answer::All));
        assert_eq!(answer("c"), Some(Answer::Continue));
        assert_eq!(answer("q\r\n"), Some(Answer::Quit));
        for wrong in ["", "\n", "sa", "yes", "\u{1b}[A"] {
            assert_eq!(answer(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn what_events_say_can_not_move_the_cursor_and_ids_are_shown_whole() {
        let entry = Entry {
            directive_ids: vec![DirectiveId(1)],
            lines: vec!["1 event to \u{1b}[2Ja@isp.example".into(), "text\rq".into()],
            ids: "events 1; directives 2".into(),
        };
        let text = list(&[entry], 10, 12, true);
        let expected = "Groups 11 to 11 of 12:\n  11. 1 event to \\u{1b}[2Ja@isp.example\n      \
                        text\\rq\n      events 1; directives 2\n";
        assert_eq!(text, expected);
    }
}
