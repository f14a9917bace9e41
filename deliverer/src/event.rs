//! What wakes the service, and the signals among it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;

use outbox::MailId;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use tracing::info;

use crate::attempt::Report;

/// What wakes the service.
pub enum Event {
    /// Something may have changed in the outbox.
    Look,
    /// These mails are marked in the database.
    Marked(Vec<MailId>),
    /// The database did not take marks; the marker will try again. What is wrong with the database, if
    /// it is away.
    NotMarked(Option<String>),
    /// An attempt ended.
    Report(Box<Report>),
    /// Read the configuration anew.
    Reload,
    /// End.
    Stop,
}

/// The signals, as events; for the end there is a flag besides, which is seen at once.
pub fn listen_to_signals(stop: Arc<AtomicBool>, events: Sender<Event>) -> std::io::Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    std::thread::spawn(move || {
        for signal in signals.forever() {
            if signal == SIGHUP {
                let _ = events.send(Event::Reload);
                continue;
            }
            info!("told to stop: finishing the mails in hand");
            stop.store(true, Ordering::SeqCst);
            let _ = events.send(Event::Stop);
        }
    });
    Ok(())
}
