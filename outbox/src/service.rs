//! What only the running deliverer knows, for others to read: what it says of itself.
//!
//! The file `.service.json` beside the records is no second truth about mails, and no step of the
//! protocol: it is not durable, and counts only while the deliverer's lock is held. What a killed
//! deliverer left of it misleads nobody.

use std::path::PathBuf;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::sidecar::VERSION;
use crate::{Deliverer, Outbox, Result, disk};

/// What the running deliverer says of itself, beside the records.
pub(crate) const SERVICE_FILE: &str = ".service.json";

/// What is said, as it is written.
#[derive(Serialize)]
struct Said<'a, T: Serialize> {
    version: u32,
    #[serde(flatten)]
    what: &'a T,
}

impl Outbox {
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
    /// Says something of this deliverer to whoever [asks](Outbox::said): a structure, to which the
    /// version of the format is added.
    pub fn say(&self, what: &impl Serialize) -> Result<()> {
        let path = self.outbox().service_path();
        let said = disk::to_json(&Said { version: VERSION, what });
        let (temporary, _) = disk::create_temporary(&self.outbox().records(), "service", &said)?;
        disk::rename(&temporary, &path)
    }

    /// Takes back what was said. To be called at a clean end.
    pub fn say_nothing(&self) -> Result<()> {
        disk::remove(&self.outbox().service_path())
    }
}
