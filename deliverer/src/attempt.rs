//! One attempt to relay a mail, in a thread of its own: from the session to the relay's last word.
//!
//! The mail's lock is taken before its flags are looked at, which is as late as can be, and goes back
//! with the report. So it is held until what the relay said is written down.

use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use outbox::{DeliveryRecord, MailFile, MailId, MailLock, Outbox, Sidecar};
use tracing::{debug, debug_span};

use crate::event::Event;
use crate::relays::{Session, Turn};
use crate::smtp::{
    Address, Attempt, Cause, Connection, Envelope, Phase, Relay, RelayTrouble, SendOptions,
};

/// What an attempt needs.
pub struct Task {
    /// Where the mail is.
    pub outbox: Outbox,
    /// Which mail.
    pub id: MailId,
    /// Its file's last known place.
    pub known: MailFile,
    /// What is written down of it: only the recipients that it has open are asked for.
    pub record: DeliveryRecord,
    /// The turn at the relay, to be given back.
    pub turn: Turn,
    /// The relay.
    pub relay: Arc<Relay>,
    /// A session with it, if there is one.
    pub session: Option<Session>,
    /// Whether the program is to end: then nothing more is offered to a relay.
    pub stop: Arc<AtomicBool>,
    /// Set before the mail is offered to the relay. Until then nobody needs to wait for the report of
    /// an attempt that is to stop.
    pub offered: Arc<AtomicBool>,
}

/// What came of it.
pub struct Report {
    /// Of which mail.
    pub id: MailId,
    /// The turn that ends with this.
    pub turn: Turn,
    /// What came of it.
    pub came: Came,
    /// A session that can be used again.
    pub session: Option<Session>,
    /// How long it took.
    pub took: Duration,
    /// The mail's lock, to be dropped when all is written down.
    pub lock: Option<MailLock>,
}

/// What can come of an attempt.
pub enum Came {
    /// No session with the relay: nothing was said of the mail.
    NoSession(RelayTrouble),
    /// The mail is held, taken back or gone by now, or somebody is about to take it back.
    NotNow,
    /// A file of the mail can't be read, or is where it is not to be.
    Unreadable(outbox::Error),
    /// The mail can't be given to any relay, for this reason.
    Unfit(Box<Found>, String),
    /// The relay was asked.
    Tried(Box<Found>, Box<Attempt>),
}

/// What there is of the mail.
pub struct Found {
    /// What it is about.
    pub sidecar: Sidecar,
    /// Its file.
    pub file: MailFile,
}

/// Begins an attempt. It ends with an [`Event::Report`].
pub fn start(task: Task, report: &Sender<Event>) {
    let (give, take) = channel::<Task>();
    let sender = report.clone();
    let started = thread::Builder::new().spawn(move || {
        let _guard = Guard;
        let Ok(task) = take.recv() else { return };
        // What several connections say at the same time can be told apart by it.
        let _span = debug_span!("attempt", mail = %task.id).entered();
        // Nobody listens any more only if the program ends.
        let _ = sender.send(Event::Report(Box::new(attempt(task))));
    });
    match started {
        // It waits for that.
        Ok(_) => _ = give.send(task),
        Err(error) => {
            let cause = Cause::Unreachable(format!("no thread for it: {error}"));
            let trouble = RelayTrouble { phase: Phase::Connect, cause, stale: false };
            let Task { id, turn, .. } = task;
            let came = Came::NoSession(trouble);
            let no_thread =
                Report { id, turn, came, session: None, took: Duration::ZERO, lock: None };
            let _ = report.send(Event::Report(Box::new(no_thread)));
        }
    }
}

/// Without its report a mail would be in hand for ever, and nobody would notice. The program can be
/// ended at any point, and is started again.
struct Guard;

impl Drop for Guard {
    fn drop(&mut self) {
        if thread::panicking() {
            process::exit(1);
        }
    }
}

fn attempt(task: Task) -> Report {
    let begun = Instant::now();
    let Task { outbox, id, known, record, turn, relay, session, stop, offered } = task;
    let report = |came, session, lock| {
        let took = begun.elapsed();
        Report { id: id.clone(), turn, came, session, took, lock }
    };
    // First what can take long.
    let mut session = match session_with(&relay, session) {
        Ok(session) => session,
        Err(trouble) => return report(Came::NoSession(trouble), None, None),
    };
    let lock = match outbox.lock_mail(&id) {
        Ok(Some(lock)) => lock,
        Ok(None) => return report(Came::NotNow, Some(session), None),
        Err(error) => return report(Came::Unreadable(error), Some(session), None),
    };
    let (found, bytes) = match read(&outbox, &id, &known) {
        Ok(read) => read,
        Err(came) => return report(came, Some(session), Some(lock)),
    };
    let open = record.open_recipients(&found.sidecar.envelope.to);
    let envelope = match smtp_envelope(&found.sidecar.envelope.from, &open) {
        Ok(envelope) => envelope,
        Err(reason) => return report(Came::Unfit(found, reason), Some(session), Some(lock)),
    };
    // In this order: who said "stop" and then sees nothing offered can be sure that nothing will be.
    offered.store(true, Ordering::SeqCst);
    if stop.load(Ordering::SeqCst) {
        return report(Came::NotNow, Some(session), Some(lock));
    }
    let options = SendOptions { envid: Some(found.sidecar.ticket.to_string()) };
    session.mails += 1;
    let mut attempt = session.connection.send(&envelope, &bytes, &options);
    if attempt.trouble.as_ref().is_some_and(|trouble| trouble.stale) {
        // That is how relays end a session that they don't want to keep. Nothing was said of the mail.
        if let Ok(mut new) = session_with(&relay, None) {
            new.mails += 1;
            let phases = attempt.phases;
            attempt = new.connection.send(&envelope, &bytes, &options);
            attempt.phases.extend(phases);
            session = new;
        }
    }
    let session = attempt.reusable.then_some(session);
    report(Came::Tried(found, Box::new(attempt)), session, Some(lock))
}

fn session_with(relay: &Relay, session: Option<Session>) -> Result<Session, RelayTrouble> {
    if let Some(mut session) = session
        && !session.connection.is_idle_closed()
    {
        return Ok(session);
    }
    debug!(relay = relay.host, port = relay.port, "connecting");
    let connection = Connection::open(relay)?;
    Ok(Session { connection, opened: Instant::now(), mails: 0 })
}

/// Reads a mail that is still to be sent.
fn read(outbox: &Outbox, id: &MailId, known: &MailFile) -> Result<(Box<Found>, Vec<u8>), Came> {
    let sidecar = match outbox.sidecar(id) {
        Ok(Some(sidecar)) => sidecar,
        Ok(None) => return Err(Came::NotNow),
        Err(error) => return Err(Came::Unreadable(error)),
    };
    let file = match outbox.refind(id, known) {
        Ok(Some(file)) if !file.flags.held() && !file.flags.trashed() => file,
        Ok(_) => return Err(Came::NotNow),
        Err(error) => return Err(Came::Unreadable(error)),
    };
    outbox.check_archive(id, &file).map_err(Came::Unreadable)?;
    let content = outbox.read_mail(&file, &sidecar);
    let found = Box::new(Found { sidecar, file });
    match content {
        Ok(Ok(bytes)) => Ok((found, bytes)),
        Ok(Err(reason)) => {
            let reason = format!("{reason}; such a mail is never sent, it can only be taken back");
            Err(Came::Unfit(found, reason))
        }
        // Moved in this instant: the next look finds it.
        Err(error) if error.is_not_found() => Err(Came::NotNow),
        Err(error) => Err(Came::Unreadable(error)),
    }
}

/// The envelope as SMTP's own type, or why it is none.
fn smtp_envelope(from: &str, to: &[&str]) -> Result<Envelope, String> {
    let address = |text: &str| {
        text.parse::<Address>().map_err(|error| format!("{text:?} is no mail address: {error}"))
    };
    let from = if from.is_empty() { None } else { Some(address(from)?) };
    let to = to.iter().map(|text| address(text)).collect::<Result<Vec<_>, _>>()?;
    Envelope::new(from, to).map_err(|error| error.to_string())
}
