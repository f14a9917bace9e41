//! Recorded runs of the two programs: every step on the disk, in the database and at the relay, in the
//! order in which it happened.
//!
//! | module | job |
//! | --- | --- |
//! | [`recorder`] | runs the programs under strace, and gives a [`Trace`] |
//! | [`calls`] | the lines of strace as calls |
//! | [`statements`] | what is said to PostgreSQL, from the octets on its socket |
//! | [`conversation`] | what is said to the relay, from the octets on its socket |
//! | [`order`] | whether a trace keeps the order of docs/outbox-format.md |
//! | [`crash`] | what a crash of the machine could leave at any point of a trace |
//! | [`worlds`] | the runs that are recorded |

pub mod calls;
pub mod conversation;
pub mod crash;
pub mod order;
pub mod recorder;
pub mod statements;
pub mod worlds;

use crate::site::Program;

/// What happened, in the order in which it began.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// The events.
    pub events: Vec<Event>,
    /// The programs that ran.
    pub processes: Vec<Process>,
    /// Whether `delivery.uncertain` was `"hold"`.
    pub uncertain_hold: bool,
}

/// A program that ran.
#[derive(Clone, Debug)]
pub struct Process {
    /// Which.
    pub program: Program,
    /// With these arguments, those about the configuration left out.
    pub arguments: Vec<String>,
}

impl Process {
    /// Whether an argument was this.
    pub fn was_told(&self, argument: &str) -> bool {
        self.arguments.iter().any(|told| told == argument)
    }
}

/// Something that a program did. Others may see it from its beginning, and nobody can count on it
/// before its end.
#[derive(Clone, Debug)]
pub struct Event {
    /// When it began.
    pub from: u64,
    /// When it had happened; [`NEVER`] if that was not seen.
    pub to: u64,
    /// Who did it, by its place in [`Trace::processes`].
    pub process: usize,
    /// What it was.
    pub what: What,
}

/// The end of what was not seen to end.
pub const NEVER: u64 = u64::MAX;

/// What a program can do. Paths are relative to the outbox, and the outbox's own is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// It started.
    Started,
    /// It ended.
    Ended,
    /// It was killed.
    Killed,
    /// A file was created.
    Created(String),
    /// A file was opened to read it.
    Opened(String),
    /// A folder was listed to its end.
    Listed(String),
    /// Octets were added to a file.
    Wrote(String, Vec<u8>),
    /// A file, or the entries of a folder, were made durable.
    Synced(String),
    /// A file got another name.
    Renamed(String, String),
    /// A file was removed.
    Removed(String),
    /// An `flock` was taken.
    Locked(String),
    /// And let go of.
    Unlocked(String),
    /// The database was asked what is pending.
    AskedForPending,
    /// The database was told that these tickets are sent, not committed yet.
    Marking(Vec<String>),
    /// A transaction was committed: from when the program said so to when the database had confirmed it.
    Committed(Transaction),
    /// Something happened in an attempt to relay a mail.
    Relay(usize, Relay),
}

/// What was done in a transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Transaction {
    /// The tickets that were drawn.
    pub drawn: Vec<String>,
    /// The rows that were put into `sent`: the ticket, and the time in microseconds since 2000.
    pub sent: Vec<(String, Option<i64>)>,
    /// The directives that were marked, each with its ticket.
    pub marked: Vec<(String, i64)>,
}

/// A step of an attempt to relay a mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Relay {
    /// The attempt began, with `MAIL FROM`.
    Began,
    /// The relay answered a recipient.
    Recipient(String, u16),
    /// `DATA` was said.
    Data,
    /// The final dot was said.
    HandedOver(Vec<u8>),
    /// The relay answered it.
    Answered(u16),
}

impl Trace {
    /// Brings the events into the order in which they begin.
    pub fn sort(&mut self) {
        self.events.sort_by_key(|event| event.from);
    }
}

/// The mail that a file in an outbox belongs to, by its name.
pub fn mail_of(path: &str) -> Option<&str> {
    let name = path.rsplit('/').next()?;
    let name = name.strip_prefix('.').unwrap_or(name);
    let name = name.strip_suffix(".tmp").unwrap_or(name);
    let name = name.strip_suffix(".json").unwrap_or(name);
    let name = name.split(['+', ':']).next()?;
    // Others, such as `.probe.json.tmp`, have no ticket.
    name.split('.').nth(2).filter(|ticket| ticket.contains('-')).map(|_| name)
}

/// The flags in a file's name.
pub fn flags_of(path: &str) -> &str {
    path.split_once(":2,").map_or("", |(_, flags)| flags)
}

/// The folder that a file is in.
pub fn folder_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}
