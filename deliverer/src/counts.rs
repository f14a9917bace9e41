//! How many mails are in which state, and since when the oldest waits to be relayed.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use clap::ValueEnum as _;
use jiff::Timestamp;

use crate::cli::StateName;

/// Mails by state. Collected from each mail's state and, where that is known, when it was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    states: BTreeMap<StateName, usize>,
    oldest_waiting: Option<Timestamp>,
}

impl FromIterator<(StateName, Option<Timestamp>)> for Counts {
    fn from_iter<T: IntoIterator<Item = (StateName, Option<Timestamp>)>>(mails: T) -> Self {
        let mut counts = Self::default();
        for (state, created_at) in mails {
            *counts.states.entry(state).or_default() += 1;
            if matches!(state, StateName::Queued | StateName::Deferred) {
                counts.oldest_waiting =
                    [counts.oldest_waiting, created_at].into_iter().flatten().min();
            }
        }
        counts
    }
}

impl Counts {
    /// How many mails are in this state.
    pub fn of(&self, state: StateName) -> usize {
        self.states.get(&state).copied().unwrap_or_default()
    }

    /// All states in their order, with how many mails are in each.
    pub fn by_state(&self) -> impl Iterator<Item = (StateName, usize)> {
        StateName::value_variants().iter().map(|state| (*state, self.of(*state)))
    }

    /// How long the oldest mail has waited that is to be relayed: queued or deferred.
    pub fn oldest_waiting(&self, now: Timestamp) -> Option<Duration> {
        let age = now.duration_since(self.oldest_waiting?);
        // Written in the future: one of two clocks is wrong.
        Some(Duration::try_from(age).unwrap_or_default())
    }
}

/// `12 queued, 3 deferred, 1 held`: the states that there are mails in.
impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<String> = self
            .by_state()
            .filter(|(_, count)| *count > 0)
            .map(|(state, count)| format!("{count} {state}"))
            .collect();
        if words.is_empty() { f.write_str("no mails") } else { f.write_str(&words.join(", ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use StateName::{Accepted, Deferred, Held, Queued};

    fn at(time: &str) -> Timestamp {
        time.parse().unwrap()
    }

    #[test]
    fn counts_are_told_in_words_and_by_state() {
        let mails = [Held, Queued, Deferred, Queued].map(|state| (state, None));
        let counts: Counts = mails.into_iter().collect();
        assert_eq!(counts.to_string(), "2 queued, 1 deferred, 1 held");
        assert_eq!((counts.of(Queued), counts.of(Accepted)), (2, 0));
        assert_eq!(counts.by_state().count(), 6);
        assert_eq!(Counts::default().to_string(), "no mails");
    }

    #[test]
    fn only_mails_that_are_to_be_relayed_wait() {
        let now = at("2026-11-25T04:00:00Z");
        let mails = [
            (Held, Some(at("2026-11-01T00:00:00Z"))),
            (Queued, None),
            (Queued, Some(at("2026-11-25T03:59:00Z"))),
            (Deferred, Some(at("2026-11-25T03:00:00Z"))),
        ];
        let counts: Counts = mails.into_iter().collect();
        assert_eq!(counts.oldest_waiting(now), Some(Duration::from_secs(3600)));
        assert_eq!(counts.oldest_waiting(at("2026-11-24T00:00:00Z")), Some(Duration::ZERO));
        assert_eq!(mails.into_iter().take(2).collect::<Counts>().oldest_waiting(now), None);
    }
}
