//! What wakes the service, and the signals among it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;

use outbox::MailId;
use signal_hook::consts::{SIGINT, SIGTERM};
use tracing::info;

/// What wakes the service.
#[derive(Clone, Debug)]
pub enum Event {
    /// Something may have changed in the outbox.
    Look,
    /// These mails are marked in the database.
    Marked(Vec<MailId>),
    /// The database did not take marks; the marker will try again.
    NotMarked,
    /// End.
    Stop,
}

/// The signals that end the service, as events: the flag for between mails, the event for waits.
pub fn stop_on_signals(stop: Arc<AtomicBool>, events: Sender<Event>) -> std::io::Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    std::thread::spawn(move || {
        for _ in signals.forever() {
            info!("told to stop: finishing the mail in hand");
            stop.store(true, Ordering::Relaxed);
            let _ = events.send(Event::Stop);
        }
    });
    Ok(())
}
