//! A group: the pending directives that one notification answers. Plain data.

use std::collections::BTreeSet;
use std::fmt;

use jiff::{SignedDuration, Timestamp};
use outbox::{DirectiveId, GroupKey};

/// Key of a row in the table `events`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId(pub i64);

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Pending directives with the same recipient, template, formats and aggregate identifier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// What the directives have in common.
    pub key: GroupKey,
    /// The directives, ascending. `event_ids` has the event of each at the same position.
    pub directive_ids: Vec<DirectiveId>,
    /// The events, one a directive; an event can be there twice.
    pub event_ids: Vec<EventId>,
    /// When the newest of the directives was inserted.
    pub inserted_at: Timestamp,
    /// The longest of the directives' intervals.
    pub notification_interval: SignedDuration,
    /// When an equal group was last notified: its newest `sent` row, or its newest mail in the
    /// outbox, whichever is later.
    pub last_sent: Option<Timestamp>,
}

impl Group {
    /// The events, each once.
    pub fn events(&self) -> BTreeSet<EventId> {
        self.event_ids.iter().copied().collect()
    }
}

/// Ids for a person: ascending, each once, runs as `4711-4719`.
pub fn ids(ids: impl Iterator<Item = i64>) -> String {
    let sorted: BTreeSet<i64> = ids.collect();
    let mut runs: Vec<(i64, i64)> = Vec::new();
    for id in sorted {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == id => *last = id,
            _ => runs.push((id, id)),
        }
    }
    let shown =
        runs.iter().map(
            |&(first, last)| {
                if first == last { first.to_string() } else { format!("{first}-{last}") }
            },
        );
    shown.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    #[test]
    fn ids_are_shown_as_runs() {
        assert_eq!(super::ids([5, 3, 4, 9, 4, 11].into_iter()), "3-5,9,11");
        assert_eq!(super::ids([].into_iter()), "");
    }
}
