//! What was warned about already: each thing is told once.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use outbox::{MailId, Snapshot};
use tracing::{error, warn};

/// How long somebody else may have the lock of a mail until that is told. Who takes a mail back has it
/// for moments.
const LOCKED_LONG: Duration = Duration::from_secs(60);

/// What was warned about.
#[derive(Default)]
pub struct Told {
    /// Mails of which a file can't be read.
    unreadable: HashSet<MailId>,
    /// Files that are not ours.
    files: HashSet<PathBuf>,
    /// Mails of which somebody else has the lock: since when, and whether that was told.
    locked: HashMap<MailId, (Instant, bool)>,
}

impl Told {
    /// Forgets what is gone.
    pub fn begin_anew(&mut self, there: &Snapshot) {
        self.unreadable.retain(|id| there.entries.contains_key(id));
        self.locked.retain(|id, _| there.entries.contains_key(id));
    }

    /// A file of the mail can't be read, and so the mail is left alone. Whether that is news.
    pub fn unreadable(&mut self, id: &MailId, error: &outbox::Error) -> bool {
        let news = self.unreadable.insert(id.clone());
        if news {
            error!(mail = %id, "left alone until mended: {error}");
        }
        news
    }

    /// All files of the mail can be read.
    pub fn readable(&mut self, id: &MailId) {
        self.unreadable.remove(id);
    }

    /// Whether a file of the mail could not be read.
    pub fn is_unreadable(&self, id: &MailId) -> bool {
        self.unreadable.contains(id)
    }

    /// These files are not ours.
    pub fn oddities(&mut self, there: &Snapshot) {
        for oddity in &there.oddities {
            if self.files.insert(oddity.path.clone()) {
                let path = oddity.path.to_string_lossy();
                warn!(%path, "a file that is not ours, left alone: {}", oddity.why);
            }
        }
    }

    /// This mail is not ours.
    pub fn foreign(&mut self, id: &MailId, path: &Path) {
        if self.files.insert(path.to_owned()) {
            let path = path.to_string_lossy();
            warn!(mail = %id, %path, "a mail without a sidecar: not ours, never sent");
        }
    }

    /// Somebody else has the lock of the mail.
    pub fn locked(&mut self, id: &MailId) {
        let (since, told) = self.locked.entry(id.clone()).or_insert((Instant::now(), false));
        if since.elapsed() >= LOCKED_LONG && !std::mem::replace(told, true) {
            let seconds = since.elapsed().as_secs();
            warn!(mail = %id, seconds, "somebody has the lock of a mail, which waits for that");
        }
    }

    /// Nobody else has it any more.
    pub fn unlocked(&mut self, id: &MailId) {
        self.locked.remove(id);
    }
}
