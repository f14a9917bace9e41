//! Housekeeping: what is left over goes, the archive stays within its limits, and a file system that
//! gets full is told about.

use std::time::{Duration, Instant, SystemTime};

use outbox::{Deliverer, Pruned};
use outbox_config::Config;
use tracing::{error, info, warn};

/// How often it is done.
const AGAIN: Duration = Duration::from_secs(3600);

/// What was done when.
#[derive(Debug, Default)]
pub struct Housekeeping {
    done: Option<Instant>,
    /// Whether there is too little room for new mails.
    full: bool,
    /// Whether not even a record can be written.
    stuck: bool,
}

impl Housekeeping {
    /// Once an hour, and when the file system gets full: removes what is left over, and from the
    /// archive what is too old or too much. Gives how many mails of the archive that were.
    pub fn keep(&mut self, deliverer: &Deliverer<'_>, config: &Config) -> outbox::Result<usize> {
        if self.done.is_some_and(|done| done.elapsed() < AGAIN) {
            return Ok(0);
        }
        self.done = Some(Instant::now());
        remove_leftovers(deliverer)?;
        let (age, size) = (config.delivery.archive_for, config.delivery.archive_size);
        match deliverer.prune_archive(age, size, SystemTime::now()) {
            Ok(Pruned { mails: 0, .. }) => {}
            Ok(Pruned { mails, octets }) => {
                info!(mails, octets, "removed old mails from the archive");
                return Ok(mails);
            }
            Err(error) => warn!("old mails stay in the archive: {error}"),
        }
        Ok(0)
    }

    /// Whether records can be written. Nothing is relayed while they can't, for what the relay says
    /// would be lost; that is told once. Fails if the outbox was replaced.
    pub fn can_record(&mut self, deliverer: &Deliverer<'_>) -> outbox::Result<bool> {
        let tried = deliverer.try_recording();
        if let Err(error @ outbox::Error::NotAnOutbox { .. }) = tried {
            return Err(error);
        }
        let stuck = tried.is_err();
        if stuck != std::mem::replace(&mut self.stuck, stuck) {
            if let Err(error) = &tried {
                error!("nothing is relayed until records can be written: {error}");
            } else {
                info!("records can be written again");
            }
        }
        Ok(!stuck)
    }

    /// Tells once when the file system gets full. Relaying goes on: it needs little. Gives what lacks.
    pub fn watch_room(
        &mut self,
        deliverer: &Deliverer<'_>,
        config: &Config,
    ) -> outbox::Result<Option<String>> {
        let room = deliverer.outbox().room()?;
        let judged = config.outbox.room_for_mails(room.octets, room.files);
        let full = judged.is_err();
        if full != std::mem::replace(&mut self.full, full) {
            match &judged {
                Err(words) => {
                    // The archive may be what fills it.
                    self.done = None;
                    warn!("no new mails are written, those that are there are relayed: {words}");
                }
                Ok(words) => info!("there is room for new mails again: {words}"),
            }
        }
        Ok(judged.err().map(|lack| lack.short()))
    }
}

/// Ends what an interrupted run left half done. To be called before anything else is.
pub fn remove_leftovers(deliverer: &Deliverer<'_>) -> outbox::Result<()> {
    let leftovers = deliverer.recover()?;
    if leftovers > 0 {
        info!(leftovers, "removed delivery records of mails that were finished");
    }
    Ok(())
}
