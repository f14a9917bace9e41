//! The lock of one mail: who has it alone decides what becomes of the mail.
//!
//! The deliverer has it from before it looks at the mail's flags until what the relay said is written
//! down. Who takes a mail back has it from before it reads the record until the sidecar is gone. So a
//! mail is never taken back while the relay may be taking it.
//!
//! It is an `flock` on the sidecar, and ends with the process that holds it.

use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;

use crate::{Error, MailId, Outbox, Result, disk};

/// One mail's lock. Ends when dropped.
#[derive(Debug)]
pub struct MailLock {
    _sidecar: File,
}

impl Outbox {
    /// Takes a mail's lock, without waiting: `None` if somebody has it, or if the mail has no sidecar
    /// (any more).
    pub fn lock_mail(&self, id: &MailId) -> Result<Option<MailLock>> {
        let path = self.sidecar_path(id);
        let sidecar = match disk::open_regular(&path) {
            Err(error) if error.is_not_found() => return Ok(None),
            other => other?.0,
        };
        match sidecar.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(Error::io("lock", &path)(error)),
        }
        // Whoever had it before may have removed the sidecar: then this is the lock of nothing.
        let held = sidecar.metadata().map_err(Error::io("stat", &path))?;
        match fs::symlink_metadata(&path) {
            Ok(there) if (there.dev(), there.ino()) == (held.dev(), held.ino()) => {
                Ok(Some(MailLock { _sidecar: sidecar }))
            }
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(Error::io("stat", &path)(error))
            }
            _ => Ok(None),
        }
    }
}
