//! A part of a group: the events that one mail, and its copies, are about.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;

use outbox::DirectiveId;

use crate::formats::Plan;
use crate::group::{EventId, Group};

/// Some events of a group, and the directives about them. Without a split it is the whole group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Which part it is, from 1.
    pub number: usize,
    /// How many parts the group has.
    pub of: usize,
    /// The events.
    pub event_ids: BTreeSet<EventId>,
    /// The directives that the part's mail answers, ascending.
    pub directive_ids: Vec<DirectiveId>,
}

impl Part {
    /// Of this part of the group, what is about these events.
    #[must_use]
    pub fn about(&self, group: &Group, events: &BTreeSet<EventId>) -> Self {
        let event_ids = &self.event_ids & events;
        let pairs = group.directive_ids.iter().zip(&group.event_ids);
        let own = pairs.filter(|(_, event)| event_ids.contains(event));
        let directive_ids = own.map(|(directive, _)| *directive).collect();
        Self { number: self.number, of: self.of, event_ids, directive_ids }
    }
}

/// The parts that a plan splits its group into, by the order of the events' ids. A directive is in
/// the part that has its event.
pub fn parts(group: &Group, plan: &Plan) -> Vec<Part> {
    // Gone through once, since a group can have as many parts as events.
    let mut about: BTreeMap<EventId, Vec<DirectiveId>> = BTreeMap::new();
    for (directive, event) in group.directive_ids.iter().zip(&group.event_ids) {
        about.entry(*event).or_default().push(*directive);
    }
    let about: Vec<(EventId, Vec<DirectiveId>)> = about.into_iter().collect();
    let size = plan.split_after.map_or(usize::MAX, NonZeroUsize::get);
    let of = plan.number_of_parts(about.len());
    let part = |(index, about): (usize, &[(EventId, Vec<DirectiveId>)])| {
        let event_ids = about.iter().map(|(event, _)| *event).collect();
        let mut directive_ids: Vec<_> = about.iter().flat_map(|(_, ids)| ids).copied().collect();
        directive_ids.sort_unstable();
        Part { number: index + 1, of, event_ids, directive_ids }
    };
    about.chunks(size).enumerate().map(part).collect()
}

#[cfg(test)]
mod tests {
    use jiff::{SignedDuration, Timestamp};
    use outbox::GroupKey;
    use proptest::prelude::*;

    use super::*;
    use crate::formats::FormatName;

    fn split(pairs: &[(i64, i64)], after: usize) -> Vec<(usize, usize, Vec<i64>, Vec<i64>)> {
        let group = Group {
            key: GroupKey {
                recipient_address: "abuse@isp.example".into(),
                template_name: "generic".into(),
                notification_format: "text".into(),
                event_data_format: "csv_inline".into(),
                aggregate_identifier: BTreeMap::new(),
            },
            directive_ids: pairs.iter().map(|(directive, _)| DirectiveId(*directive)).collect(),
            event_ids: pairs.iter().map(|(_, event)| EventId(*event)).collect(),
            inserted_at: Timestamp::UNIX_EPOCH,
            notification_interval: SignedDuration::ZERO,
            last_sent: None,
        };
        let format = FormatName { name: "test".into(), file: "10-test.toml".into() };
        let plan = Plan { format, mails: Vec::new(), split_after: NonZeroUsize::new(after) };
        let ids = |part: Part| {
            let events = part.event_ids.iter().map(|id| id.0).collect();
            (part.number, part.of, events, part.directive_ids.iter().map(|id| id.0).collect())
        };
        parts(&group, &plan).into_iter().map(ids).collect()
    }

    proptest! {
        #[test]
        fn every_event_and_directive_is_in_one_part_and_none_is_too_large(
            events in proptest::collection::vec(0..60_i64, 0..200),
            after in 0..70_usize,
        ) {
            // Directives as the database has them, ascending, each about any event.
            let pairs: Vec<(i64, i64)> = (1..).zip(events.iter().copied()).collect();
            let parts = split(&pairs, after);
            let all: BTreeSet<i64> = events.iter().copied().collect();
            let in_parts: Vec<i64> = parts.iter().flat_map(|(_, _, events, _)| events.clone()).collect();
            prop_assert!(in_parts.iter().eq(&all), "each once, in their order");
            let mut answered: Vec<i64> =
                parts.iter().flat_map(|(.., directives)| directives.clone()).collect();
            answered.sort_unstable();
            prop_assert!(answered.iter().eq(pairs.iter().map(|(directive, _)| directive)));
            for (index, (number, of, events, directives)) in parts.iter().enumerate() {
                prop_assert_eq!((*number, *of), (index + 1, parts.len()));
                prop_assert!(after == 0 || (1..=after).contains(&events.len()));
                prop_assert!(directives.is_sorted());
                let about = |directive: &i64| pairs[usize::try_from(*directive - 1).unwrap()].1;
                prop_assert!(directives.iter().all(|directive| events.contains(&about(directive))));
            }
            prop_assert!(after > 0 || parts.len() <= 1);
        }
    }

    #[test]
    fn each_event_is_in_one_part_and_its_directives_with_it_in_their_order() {
        // Directive and event; the first event comes last, and has two directives.
        let pairs = [(1, 12), (2, 13), (3, 11), (4, 14), (5, 11)];
        assert_eq!(split(&pairs, 0), [(1, 1, vec![11, 12, 13, 14], vec![1, 2, 3, 4, 5])]);
        assert_eq!(
            split(&pairs, 3),
            [(1, 2, vec![11, 12, 13], vec![1, 2, 3, 5]), (2, 2, vec![14], vec![4])]
        );
        assert_eq!(split(&pairs, 4), split(&pairs, 0));
        assert_eq!(split(&pairs, 1).len(), 4);
    }
}
