//! What must be true of whatever stands in the file in which the service says how it does.

use std::sync::LazyLock;

use clap::Parser as _;
use outbox_config::text::is_hidden;

use super::{Found, Health, Presence, Severity, StatusArgs};
use crate::cli::{Cli, Command};

static ASKED: LazyLock<StatusArgs> =
    LazyLock::new(|| match Cli::parse_from(["outbox-deliverer", "status"]).command {
        Command::Status(asked) => asked,
        Command::Task(task) => unreachable!("{task:?}"),
    });

/// What `status` prints stays a plugin's output: one line, a bar, performance data, and a line for each problem.
pub(crate) fn service(file: &[u8]) {
    let Ok(health) = serde_json::from_slice::<Health>(file) else { return };
    let again = serde_json::to_vec(&health).expect("it has a JSON form");
    assert_eq!(serde_json::from_slice::<Health>(&again).ok().as_ref(), Some(&health));
    let now = "2026-11-25T04:00:00Z".parse().expect("a time");
    let found = Found {
        counts: std::iter::empty().collect(),
        service: Presence::Running(health),
        lack: None,
        now,
    };
    let problems = found.judge(&ASKED);
    assert!(problems.is_sorted_by_key(|problem| std::cmp::Reverse(problem.severity)));
    let text = found.as_plugin(Severity::Ok, &problems, &ASKED);
    assert!(!text.contains(|c| c != '\n' && is_hidden(c)), "{text:?}");
    assert_eq!(text.matches('|').count(), 1, "{text:?}");
    let first = text.lines().next().unwrap_or_default();
    assert!(
        first.starts_with("OUTBOX OK - ") && first.ends_with(" oldest=0s;3600;14400;0"),
        "{first:?}"
    );
    assert_eq!(text.lines().count(), 2 + problems.len());
    let json = found.as_json(Severity::Ok, &problems);
    assert!(!json.contains(|c| c != '\n' && is_hidden(c)), "{json:?}");
    let json: serde_json::Value = serde_json::from_str(&json).expect("it is JSON");
    assert_eq!(json["problems"].as_array().map(Vec::len), Some(problems.len()));
}
