//! What can go wrong with an outbox, each with the path it went wrong at.

use std::io;
use std::path::{Path, PathBuf};

/// What goes with an error where this user may not do something.
pub(crate) const IN_ITS_GROUP: &str = "whoever works with an outbox has to be in its group";

/// The result of an operation on the outbox.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation on the outbox failed. The texts name the file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused; `action` says what was tried.
    #[error("failed to {action} {}: {cause}", path.display())]
    Io {
        /// What was tried, as a verb: "open", "fsync".
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },

    /// A file could not be renamed.
    #[error("failed to rename {} to {}: {cause}", from.display(), to.display())]
    Rename {
        /// Where it is.
        from: PathBuf,
        /// Where it was to be.
        to: PathBuf,
        /// What the system said.
        cause: io::Error,
    },

    /// A file of the outbox holds something else than it must.
    #[error("failed to read {}: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// There is something where a mail goes once it is sent.
    #[error("{} is in the archive already: the mail was sent before, or something else has its name there", path.display())]
    InArchive {
        /// What is there.
        path: PathBuf,
    },

    /// The folder is no outbox.
    #[error("failed to use {} as an outbox: {reason}", path.display())]
    NotAnOutbox {
        /// The folder.
        path: PathBuf,
        /// What it lacks.
        reason: String,
    },

    /// Not `YYYYMMDD-NNNNNNNN`.
    #[error("failed to read {0:?} as a ticket (YYYYMMDD-NNNNNNNN)")]
    Ticket(String),

    /// Not a Maildir unique name of ours.
    #[error("failed to read {0:?} as a mail id (ASCII letters, digits, '.', '-' and '_')")]
    MailId(String),

    /// Not 64 lower case hex digits.
    #[error("failed to read {0:?} as a SHA-256 digest")]
    Digest(String),
}

impl Error {
    /// An [`Error::Io`] for `map_err`.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |cause| Self::Io { action, path, cause }
    }

    /// An [`Error::Malformed`].
    pub(crate) fn malformed(path: &Path, reason: impl Into<String>) -> Self {
        Self::Malformed { path: path.to_owned(), reason: reason.into() }
    }

    /// Whether the operating system said that there is no such file.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { cause, .. } | Self::Rename { cause, .. }
            if cause.kind() == io::ErrorKind::NotFound)
    }

    /// What to do about it, where that can be known.
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            Self::Io { cause, .. } | Self::Rename { cause, .. }
                if cause.kind() == io::ErrorKind::PermissionDenied =>
            {
                Some(IN_ITS_GROUP)
            }
            _ => None,
        }
    }
}
