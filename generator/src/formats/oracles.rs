//! What must be true of any format definition.

use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use outbox::GroupKey;

use super::script::NoScripts;
use super::{Decision, Definitions, Step, read, repeated_names};
use crate::group::Group;

/// Values that conditions name, and others.
const VALUES: [&str; 7] = [
    "shadowserver",
    "csv_inline",
    "csv_attachment",
    "generic",
    "abuse@as64496.example",
    "64496",
    "",
];

/// A definition is refused with places that are in the file, or decides the same about a group each time; a format of
/// which it is said that it never matches never does.
pub(crate) fn format(text: &[u8]) {
    let Ok(text) = str::from_utf8(text) else { return };
    let path = Path::new("/formats/10-test.toml");
    let file = match read::read(path, text) {
        Ok(file) => file,
        Err(problems) => {
            assert!(!problems.is_empty());
            let lines = text.split('\n').count();
            for problem in problems {
                assert!(problem.to_string().starts_with("/formats/10-test.toml:"));
                assert!(!problem.message.is_empty());
                let is_there = |(line, column): (usize, usize)| {
                    let line = text.split('\n').nth(line - 1).unwrap_or_default();
                    column >= 1 && column <= line.chars().count() + 1
                };
                let (line, column) = problem.position.unwrap_or((1, 1));
                assert!((1..=lines).contains(&line) && is_there((line, column)), "{problem}");
            }
            return;
        }
    };
    let is_repeated = !repeated_names(&[], &file, path).is_empty();
    let definitions = Definitions {
        files: vec![file],
        scripts: Vec::new(),
        order: vec![Step::File(0)],
        ignored: Vec::new(),
    };
    let never = definitions.shadowed();
    assert!(definitions.kinds().len() >= definitions.formats().count());
    let keys = definitions.aggregate_keys();
    let now: Timestamp = "2026-11-20T12:00:00Z".parse().expect("a time");
    for round in 0..VALUES.len() {
        let value = |place: usize| VALUES[(round * place + place) % VALUES.len()].to_owned();
        let keys = keys.iter().take(round).map(|key| ((*key).to_owned(), Some(value(5))));
        let group = Group {
            key: GroupKey {
                recipient_address: value(1),
                template_name: value(2),
                notification_format: value(3),
                event_data_format: value(4),
                aggregate_identifier: keys.collect(),
            },
            directive_ids: Vec::new(),
            event_ids: Vec::new(),
            inserted_at: now,
            notification_interval: SignedDuration::MAX,
            last_sent: Some(now),
        };
        let decide = || definitions.decide(&group, now, &mut NoScripts);
        let Ok(decided) = decide() else { continue };
        assert_eq!(decide().ok().as_ref(), Some(&decided));
        let format = match decided {
            None => continue,
            Some(Decision::Postponed { format, until, .. }) => {
                assert!(until.is_none_or(|until| until > now), "it waits for what is past");
                format
            }
            Some(Decision::Compose(plan)) => {
                assert!(
                    plan.mails.iter().all(|mail| !mail.columns.is_empty() || mail.report.is_some())
                );
                assert_eq!(plan.mails.iter().filter(|mail| mail.mark_sent).count(), 1);
                assert!(plan.number_of_parts(10) >= 1);
                plan.format
            }
        };
        let name = format!("format {:?} (", format.name);
        let told = |words: &String| words.starts_with(&name) && words.contains("can never match");
        assert!(is_repeated || !never.iter().any(told), "{never:?}");
    }
}
