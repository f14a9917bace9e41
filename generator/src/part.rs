//! A part of a group: the events that one mail, and its copies, are about.

use std::collections::BTreeSet;

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
    /// A part with these events of the group.
    fn new(group: &Group, number: usize, of: usize, event_ids: BTreeSet<EventId>) -> Self {
        let pairs = group.directive_ids.iter().zip(&group.event_ids);
        let own = pairs.filter(|(_, event)| event_ids.contains(event));
        let directive_ids = own.map(|(directive, _)| *directive).collect();
        Self { number, of, event_ids, directive_ids }
    }

    /// Of this part, what is about these events.
    #[must_use]
    pub fn about(&self, group: &Group, events: &BTreeSet<EventId>) -> Self {
        Self::new(group, self.number, self.of, &self.event_ids & events)
    }
}

/// The parts that a plan splits its group into, by the order of the events' ids. A directive is in
/// the part that has its event.
pub fn parts(group: &Group, plan: &Plan) -> Vec<Part> {
    let events: Vec<EventId> = group.events().into_iter().collect();
    let size = plan.split_after.map_or(usize::MAX, std::num::NonZeroUsize::get);
    let of = plan.number_of_parts(events.len());
    let part = |(index, events): (usize, &[EventId])| {
        Part::new(group, index + 1, of, events.iter().copied().collect())
    };
    events.chunks(size).enumerate().map(part).collect()
}
