//! Where ticket numbers come from: the database, or nowhere for who only looks.

use outbox::Ticket;
use outbox_config::database::Client;

use crate::store;

/// Gives ticket numbers.
pub trait Tickets {
    /// This many, none of which was given before.
    fn draw(&mut self, count: usize) -> anyhow::Result<Vec<Ticket>>;
}

/// Numbers of the database, each given once for all time.
pub struct Drawn<'a> {
    client: &'a mut Client,
    last: Option<&'a Ticket>,
}

impl<'a> Drawn<'a> {
    /// Draws over a connection of its own, since numbers are committed while a run's transaction is
    /// still open. `last` is the outbox's last ticket, behind which the numbers go on.
    pub fn new(client: &'a mut Client, last: Option<&'a Ticket>) -> Self {
        Self { client, last }
    }
}

impl Tickets for Drawn<'_> {
    fn draw(&mut self, count: usize) -> anyhow::Result<Vec<Ticket>> {
        if count == 0 {
            return Ok(Vec::new());
        }
        store::draw_tickets(self.client, count, self.last)
    }
}

/// Numbers that are none: `00000000-00000001` and so on, of a day that never is.
#[derive(Debug, Default)]
pub struct Pretended {
    last: i64,
}

impl Tickets for Pretended {
    fn draw(&mut self, count: usize) -> anyhow::Result<Vec<Ticket>> {
        let number = |_| {
            self.last += 1;
            Ok(Ticket::new("00000000", self.last)?)
        };
        (0..count).map(number).collect()
    }
}
