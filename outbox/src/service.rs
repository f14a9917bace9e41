//! What only the running deliverer knows, for others to read: whether there is one, and what it says
//! of itself.
//!
//! The file `.service.json` beside the records is no second truth about mails, and no step of the
//! protocol: it is not durable, and counts only while the deliverer's lock is held. What a killed
//! deliverer left of it misleads nobody.

use std::fs::{File, TryLockError};
use std::path::PathBuf;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::sidecar::VERSION;
use crate::{Deliverer, Error, Outbox, Result, disk};

/// What the running deliverer says of itself, beside the records.
pub(crate) const SERVICE_FILE: &str = ".service.json";

impl Outbox {
    /// Whether a deliverer works on this outbox. Disturbs none, not even one that starts just now.
    pub fn deliverer_runs(&self) -> Result<bool> {
        let path = self.records();
        let folder = File::open(&path).map_err(Error::io("open", &path))?;
        // Shared, so that many can look at the same time. It ends with `folder`.
        match folder.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(Error::io("lock", &path)(error)),
        }
    }

    /// What the running deliverer [said of itself](Deliverer::say); `None` if none runs or it has said
    /// nothing yet. Fails on what another version wrote.
    pub fn said<T: DeserializeOwned>(&self) -> Result<Option<T>> {
        // In this order: what is read was there while somebody had the lock.
        let said = disk::read_json(&self.service_path(), VERSION);
        if self.deliverer_runs()? { said } else { Ok(None) }
    }

    pub(crate) fn service_path(&self) -> PathBuf {
        self.records().join(SERVICE_FILE)
    }
}

impl Deliverer<'_> {
    /// Says something of this deliverer to whoever [asks](Outbox::said). Its JSON form must have the
    /// key `version`, the format's.
    pub fn say(&self, what: &impl Serialize) -> Result<()> {
        let path = self.outbox().service_path();
        let temporary = path.with_file_name(".service.json.tmp");
        disk::remove(&temporary)?;
        disk::create(&temporary, &disk::to_json(what))?;
        disk::rename(&temporary, &path)
    }

    /// Takes back what was said. To be called at a clean end.
    pub fn say_nothing(&self) -> Result<()> {
        disk::remove(&self.outbox().service_path())
    }
}
