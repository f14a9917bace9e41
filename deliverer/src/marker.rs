//! The thread that tells the database: it takes accepted mails, marks many in one transaction, and
//! reports those that are marked.
//!
//! It is a thread of its own since a database can be silent for minutes, and relaying goes on.

use std::collections::HashSet;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use outbox::MailId;
use outbox_config::DatabaseSettings;
use outbox_config::database::{Client, Silence, SqlState, connect};
use tracing::{error, info, warn};

use crate::event::Event;
use crate::marks::{Kept, Mark, Marked, NotMarked, mark_sent};

/// How many mails are marked in one transaction at most.
const BATCH: usize = 200;

/// How long a statement may take.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(60);

/// How long to wait before the database is tried again: doubling between these two.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// The way to the thread. It ends when this is dropped.
pub struct Marker {
    orders: Sender<Order>,
    settings: DatabaseSettings,
    report: Sender<Event>,
}

/// What the thread is told.
enum Order {
    Mark(Mark),
    /// Use these settings from now on.
    ConnectAnew(Box<DatabaseSettings>),
}

impl Marker {
    /// Starts the thread. It reports [`Event::Marked`] and, whenever the database did not take
    /// marks, [`Event::NotMarked`].
    pub fn start(settings: DatabaseSettings, report: Sender<Event>) -> Self {
        let (orders, taken) = channel();
        let worker = Worker {
            settings: settings.clone(),
            report: report.clone(),
            client: None,
            away: None,
            refused: HashSet::new(),
        };
        thread::spawn(move || worker.run(&taken));
        Self { orders, settings, report }
    }

    /// Leaves the thread alone, which says nothing any more, and starts another one with nothing to do.
    /// What the old one may report after all is as true as ever: marking twice changes nothing.
    pub fn start_anew(&mut self) {
        *self = Self::start(self.settings.clone(), self.report.clone());
    }

    /// Hands over a mail to mark. It must have a durable delivery record that says so.
    pub fn mark(&self, mark: Mark) {
        // The thread ends only with this.
        let _ = self.orders.send(Order::Mark(mark));
    }

    /// Has it use these settings from now on.
    pub fn connect_anew(&mut self, settings: DatabaseSettings) {
        self.settings = settings.clone();
        let _ = self.orders.send(Order::ConnectAnew(Box::new(settings)));
    }
}

struct Worker {
    settings: DatabaseSettings,
    report: Sender<Event>,
    client: Option<Client>,
    /// What is wrong with the database, while it is away.
    away: Option<String>,
    /// Mails whose data the database finds fault with, and that were told about.
    refused: HashSet<MailId>,
}

impl Worker {
    fn run(mut self, taken: &Receiver<Order>) {
        let mut waiting = Vec::new();
        let mut retry = RETRY.0;
        loop {
            if waiting.is_empty() {
                let Ok(order) = taken.recv() else { return };
                waiting.extend(self.heed(order));
            }
            waiting.extend(taken.try_iter().filter_map(|order| self.heed(order)));
            waiting = self.mark(waiting);
            if waiting.is_empty() {
                retry = RETRY.0;
                continue;
            }
            if self.report.send(Event::NotMarked(self.away.clone())).is_err() {
                return;
            }
            let again = Instant::now() + retry;
            loop {
                match taken.recv_timeout(again.saturating_duration_since(Instant::now())) {
                    Ok(Order::Mark(mark)) => waiting.push(mark),
                    // They may well be why the old ones failed.
                    Ok(order @ Order::ConnectAnew(_)) => {
                        waiting.extend(self.heed(order));
                        break;
                    }
                    Err(RecvTimeoutError::Timeout) => break,
                    // What is not marked has a record on disk, and is marked after the next start.
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
            retry = (retry * 2).min(RETRY.1);
        }
    }

    /// The mark in an order, if it is one.
    fn heed(&mut self, order: Order) -> Option<Mark> {
        match order {
            Order::Mark(mark) => Some(mark),
            Order::ConnectAnew(settings) => {
                self.settings = *settings;
                self.client = None;
                None
            }
        }
    }

    /// Marks what it can, and gives back the rest.
    fn mark(&mut self, mut marks: Vec<Mark>) -> Vec<Mark> {
        let mut rest = Vec::new();
        while !marks.is_empty() {
            let batch: Vec<Mark> = marks.drain(..marks.len().min(BATCH)).collect();
            match self.try_mark(&batch) {
                Ok(marked) => {
                    self.is_there();
                    self.done(&batch, &marked);
                }
                Err(Problem::Data(text)) => {
                    self.is_there();
                    match batch.as_slice() {
                        [mark] => {
                            if self.refused.insert(mark.id.clone()) {
                                error!(
                                    ticket = %mark.ticket, mail = %mark.id,
                                    "cannot mark a relayed mail as sent, will try again: {text}"
                                );
                            }
                            rest.extend(batch);
                        }
                        // The others are marked all the same.
                        _ => rest.extend(self.mark_one_by_one(batch)),
                    }
                }
                Err(Problem::Connection(text)) => {
                    self.client = None;
                    rest.extend(batch);
                    rest.append(&mut marks);
                    if self.away.is_none() {
                        error!(
                            unmarked = rest.len(),
                            "the database does not take marks, relaying goes on: {text}"
                        );
                    }
                    self.away = Some(text);
                }
            }
        }
        rest
    }

    /// Marks what it can of a batch of which something can't be marked. Ends when the database is
    /// away: each further try would wait for it.
    fn mark_one_by_one(&mut self, batch: Vec<Mark>) -> Vec<Mark> {
        let mut rest = Vec::new();
        for mark in batch {
            if self.away.is_some() {
                rest.push(mark);
            } else {
                rest.extend(self.mark(vec![mark]));
            }
        }
        rest
    }

    /// The database answers, whatever it says of a mail.
    fn is_there(&mut self) {
        if self.away.take().is_some() {
            info!("the database takes marks again");
        }
    }

    fn done(&self, batch: &[Mark], marked: &Marked) {
        tell(marked);
        let ids = batch.iter().map(|mark| mark.id.clone()).collect();
        // Nobody listens any more: then the next start finds the records and asks again.
        let _ = self.report.send(Event::Marked(ids));
    }

    fn try_mark(&mut self, batch: &[Mark]) -> Result<Marked, Problem> {
        if self.client.as_mut().is_none_or(Client::has_ended) {
            self.client = None;
            // The service notices that this thread is silent, and goes on.
            let silence = Silence::IsNoticed;
            let connected = connect(&self.settings, "outbox-deliverer", STATEMENT_TIMEOUT, silence);
            self.client =
                Some(connected.map_err(|error| Problem::Connection(format!("{error:#}")))?);
        }
        let client = self.client.as_mut().expect("just connected");
        let mut marked = mark_sent(client, batch);
        if let Err(NotMarked::Database(error)) = &marked
            && error.is_conflict()
        {
            marked = mark_sent(client, batch);
        }
        marked.map_err(|error| {
            if is_away(client, &error) {
                Problem::Connection(error.to_string())
            } else {
                Problem::Data(error.to_string())
            }
        })
    }
}

impl Drop for Worker {
    /// Without this thread nothing would ever be marked, and nobody would notice. The program can be
    /// ended at any point, and is started again.
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::exit(1);
        }
    }
}

/// Whether the database as a whole is of no use now. Anything else may be about one mail: its data,
/// a trigger, a lock on its row.
fn is_away(client: &Client, error: &NotMarked) -> bool {
    let NotMarked::Database(error) = error else { return false };
    let Some(code) = error.code().map(SqlState::code) else { return true };
    // Connection, authorisation, catalogue, transaction in the wrong state (read-only), no rights or
    // no such table, resources, shutdown.
    client.is_closed()
        || ["08", "28", "3D", "25", "42", "53", "58", "57P"]
            .iter()
            .any(|away| code.starts_with(away))
}

enum Problem {
    /// A mail's data is at fault, or something that only concerns this mail.
    Data(String),
    /// The database is away, or refuses everything.
    Connection(String),
}

/// What an operator must know of marks that others made.
fn tell(marked: &Marked) {
    for ticket in &marked.taken {
        warn!(%ticket, "the ticket of a relayed mail stood in the table sent already: it was given twice");
    }
    for Kept { ticket, directive, marked_by } in &marked.kept {
        if let Some(other) = marked_by {
            warn!(
                %ticket, %directive, marked_by = %other,
                "a directive of a relayed mail was marked sent already, under another ticket"
            );
        } else {
            warn!(%ticket, %directive, "a directive of a relayed mail is gone from the database");
        }
    }
}
