//! What scripts can ask for while they work on a group: its events, and ticket numbers.

use std::collections::BTreeSet;

use outbox::Ticket;
use outbox_config::database::Transaction;

use crate::column::Field;
use crate::event::Event;
use crate::group::{EventId, Group};
use crate::store::{self, EventColumns};
use crate::tickets::Tickets;

/// Gives scripts what they ask for. An error ends the run.
pub trait Host {
    /// A column that the table `events` lacks.
    fn lacks(&self, columns: &BTreeSet<String>) -> Option<String>;

    /// The group's events in the order of their ids, each once, with these columns or all; or what in
    /// one of them can't be read.
    fn load_events(
        &mut self,
        group: &Group,
        columns: Option<&BTreeSet<String>>,
    ) -> anyhow::Result<Result<Vec<Event>, String>>;

    /// A ticket number that nobody has.
    fn new_ticket(&mut self) -> anyhow::Result<Ticket>;
}

/// The database.
pub struct DatabaseHost<'a, 'c> {
    /// Where events are read.
    pub transaction: &'a mut Transaction<'c>,
    /// The columns that events have.
    pub columns: &'a EventColumns,
    /// Where numbers come from.
    pub tickets: &'a mut dyn Tickets,
}

impl Host for DatabaseHost<'_, '_> {
    fn lacks(&self, columns: &BTreeSet<String>) -> Option<String> {
        let lacks = |name: &&String| !self.columns.has(&Field::Event((*name).clone()));
        columns.iter().find(lacks).cloned()
    }

    fn load_events(
        &mut self,
        group: &Group,
        columns: Option<&BTreeSet<String>>,
    ) -> anyhow::Result<Result<Vec<Event>, String>> {
        let fields: Vec<Field> = match columns {
            Some(names) => names.iter().cloned().map(Field::Event).collect(),
            None => self.columns.names().map(|name| Field::Event(name.to_owned())).collect(),
        };
        let ids: BTreeSet<EventId> = group.events();
        let fields = fields.iter().collect();
        let mut events = store::load_events(self.transaction, self.columns, &ids, &fields)?;
        Ok(ids.iter().filter_map(|id| events.remove(id)).collect())
    }

    fn new_ticket(&mut self) -> anyhow::Result<Ticket> {
        Ok(self.tickets.draw(1)?.remove(0))
    }
}
