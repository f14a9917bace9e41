//! The Maildir where bounces land, which belongs to another program: a mail transport agent writes
//! into it, and people look at it.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use outbox::Flags;
use rustix::fs::OFlags;
use rustix::io::Errno;

/// How much of a mail is looked at. Status and returned header stand at its beginning. Beyond that,
/// a mail made for the purpose could keep a MIME parser busy for hours or exhaust its stack.
const LOOKED_AT: u64 = 256 << 10;

/// A Maildir.
#[derive(Clone, Debug)]
pub struct Mailbox {
    root: PathBuf,
}

/// A file in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MailboxFile {
    /// The part of its name before the flags, the same wherever it is moved.
    pub unique: String,
    /// Below the Maildir: `new/…` or `cur/…`.
    path: PathBuf,
    flags: String,
}

impl MailboxFile {
    /// One of a Maildir that is not there.
    #[cfg(any(test, fuzzing))]
    pub(super) fn for_tests() -> Self {
        let unique = "1795578426.M1P1.vm".to_owned();
        Self { path: Path::new("new").join(&unique), unique, flags: String::new() }
    }
}

impl Mailbox {
    /// Opens the Maildir at `root`. Fails if it is none.
    pub fn open(root: &Path) -> anyhow::Result<Self> {
        for folder in ["new", "cur"] {
            let folder = root.join(folder);
            let metadata = fs::metadata(&folder).with_context(|| {
                format!("{} is not a Maildir: {}", root.display(), folder.display())
            })?;
            if !metadata.is_dir() {
                bail!("{} is not a Maildir: {} is not a folder", root.display(), folder.display());
            }
        }
        Ok(Self { root: root.to_owned() })
    }

    /// The mails in it, oldest name first: those that nobody has seen or deleted yet, or `all`. A name
    /// that can't be dealt with is an error in the place of the file.
    pub fn list(&self, all: bool) -> anyhow::Result<Vec<anyhow::Result<MailboxFile>>> {
        let mut files = Vec::new();
        let mut troubles = Vec::new();
        for folder in ["new", "cur"] {
            let place = self.root.join(folder);
            let entries = fs::read_dir(&place)
                .and_then(Iterator::collect::<io::Result<Vec<_>>>)
                .with_context(|| format!("failed to list {}", place.display()))?;
            for entry in entries {
                let name = entry.file_name();
                if name.as_encoded_bytes().first() == Some(&b'.') {
                    continue;
                }
                let Some(name) = name.to_str() else {
                    let path = entry.path();
                    troubles.push(anyhow!("{}: its name is not UTF-8", path.display()));
                    continue;
                };
                let (unique, info) = name.split_once(':').unwrap_or((name, ""));
                let flags = info.strip_prefix("2,").unwrap_or_default();
                if all || !flags.contains(['S', 'T']) {
                    files.push(MailboxFile {
                        unique: unique.to_owned(),
                        path: Path::new(folder).join(name),
                        flags: flags.to_owned(),
                    });
                }
            }
        }
        files.sort();
        let troubles = troubles.into_iter().map(Err);
        Ok(files.into_iter().map(Ok).chain(troubles).collect())
    }

    /// The beginning of a mail: all that is looked at. Fails on what is no file.
    pub fn read(&self, file: &MailboxFile) -> anyhow::Result<Vec<u8>> {
        let path = self.root.join(&file.path);
        // Opening a FIFO would wait, and a link may lead anywhere.
        let careful = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let read = || -> io::Result<Vec<u8>> {
            let no_file = || io::Error::other("it is not a regular file");
            let file = OpenOptions::new()
                .read(true)
                .custom_flags(careful.bits().cast_signed())
                .open(&path)
                .map_err(|error| match Errno::from_io_error(&error) {
                    Some(Errno::LOOP) => no_file(),
                    _ => error,
                })?;
            if !file.metadata()?.is_file() {
                return Err(no_file());
            }
            let mut bytes = Vec::new();
            file.take(LOOKED_AT).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        read().with_context(|| format!("failed to read {}", path.display()))
    }

    /// Moves a mail to `cur/`, flagged as seen, its other flags kept. One that is gone was moved by
    /// somebody else, and is left to them.
    pub fn mark_seen(&self, file: &MailboxFile) -> anyhow::Result<()> {
        let flags = Flags::from(file.flags.as_str()).with('S');
        let from = self.root.join(&file.path);
        let to = self.root.join("cur").join(format!("{}:2,{flags}", file.unique));
        if from == to {
            return Ok(());
        }
        let moved = if to.exists() {
            Err(io::Error::other("there is a mail of this name already"))
        } else {
            fs::rename(&from, &to)
        };
        match moved {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error)
                .with_context(|| format!("failed to move {} to {}", from.display(), to.display())),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for MailboxFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}
