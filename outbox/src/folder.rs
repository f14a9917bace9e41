//! The outbox's folders: where what is, who may enter, and the two locks.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use maildir::Maildir;

use crate::delivery::DeliveryRecord;
use crate::sidecar::VERSION;
use crate::{Deliverer, Error, Generator, MailFile, MailId, Place, Result, Sidecar, disk};

/// Folders: owner and group may do all, and what is made inside belongs to the group, so that
/// two system users of one group can share the outbox.
const FOLDER_MODE: u32 = 0o2770;

/// Locks: the group reads them.
const LOCK_MODE: u32 = 0o640;

/// An outbox on disk. Reading needs no lock; writing needs [`Outbox::lock_generator`] or
/// [`Outbox::lock_deliverer`].
#[derive(Clone, Debug)]
pub struct Outbox {
    root: PathBuf,
}

impl Outbox {
    /// Makes what is missing of an outbox at `root` (its parent must be there) and opens it.
    /// Folders that exist keep their modes.
    pub fn create(root: &Path) -> Result<Self> {
        let outbox = Self { root: root.to_owned() };
        let made: Vec<PathBuf> =
            outbox.folders().into_iter().filter(|folder| !folder.exists()).collect();
        if !root.exists() {
            fs::create_dir(root).map_err(Error::io("create the folder", root))?;
        }
        for maildir in [root.to_owned(), outbox.archive()] {
            Maildir::from(maildir.clone())
                .create_dirs()
                .map_err(Error::io("create the Maildir", &maildir))?;
        }
        for folder in [outbox.sidecars(), outbox.records()] {
            if !folder.exists() {
                fs::create_dir(&folder).map_err(Error::io("create the folder", &folder))?;
            }
        }
        for folder in made {
            fs::set_permissions(&folder, fs::Permissions::from_mode(FOLDER_MODE))
                .map_err(Error::io("set the mode of", &folder))?;
        }
        disk::sync_folder(&outbox.archive())?;
        disk::sync_folder(root)?;
        Self::open(root)
    }

    /// Opens the outbox at `root`. Fails, and says what is missing, if it is none.
    pub fn open(root: &Path) -> Result<Self> {
        let outbox = Self { root: root.to_owned() };
        for folder in outbox.folders() {
            let wrong = match fs::symlink_metadata(&folder) {
                Ok(metadata) if metadata.is_dir() => continue,
                Ok(metadata) if metadata.is_symlink() && folder == root && folder.is_dir() => {
                    continue;
                }
                Ok(_) => "is not a folder".to_owned(),
                Err(error) => error.to_string(),
            };
            let reason = format!("{}: {wrong}", folder.display());
            return Err(Error::NotAnOutbox { path: root.to_owned(), reason });
        }
        Ok(outbox)
    }

    /// Whether this process may write into the folders named. Changes nothing.
    pub fn check_writable(&self, folders: &[&str]) -> Result<()> {
        for folder in folders {
            let path = self.root.join(folder);
            rustix::fs::access(&path, rustix::fs::Access::WRITE_OK)
                .map_err(|error| Error::io("write into", &path)(error.into()))?;
        }
        Ok(())
    }

    /// The folder itself: a Maildir.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The archive Maildir of relayed mails.
    pub fn archive(&self) -> PathBuf {
        self.root.join("sent")
    }

    /// Where the sidecars are.
    pub fn sidecars(&self) -> PathBuf {
        self.root.join("sidecar")
    }

    /// Where the delivery records are.
    pub fn records(&self) -> PathBuf {
        self.root.join("delivery")
    }

    /// One of the Maildir's three folders.
    pub fn maildir(&self, place: Place) -> PathBuf {
        self.root.join(place.folder())
    }

    /// All folders of an outbox, parents first.
    fn folders(&self) -> Vec<PathBuf> {
        let archive = self.archive();
        let mut folders = vec![self.root.clone()];
        folders.extend(Place::ALL.map(|place| self.maildir(place)));
        folders.extend([self.sidecars(), self.records(), archive.clone()]);
        folders.extend(Place::ALL.map(|place| archive.join(place.folder())));
        folders
    }

    pub(crate) fn sidecar_path(&self, id: &MailId) -> PathBuf {
        self.sidecars().join(format!("{id}.json"))
    }

    pub(crate) fn record_path(&self, id: &MailId) -> PathBuf {
        self.records().join(format!("{id}.json"))
    }

    /// Where a mail's file is.
    pub fn mail_path(&self, mail: &MailFile) -> PathBuf {
        self.maildir(mail.place).join(&mail.file_name)
    }

    /// The sidecar of `id`, `None` if there is none. Fails on one that breaks the format.
    pub fn sidecar(&self, id: &MailId) -> Result<Option<Sidecar>> {
        let path = self.sidecar_path(id);
        let Some(sidecar) = disk::read_json::<Sidecar>(&path, VERSION)? else { return Ok(None) };
        if sidecar.id != *id {
            return Err(Error::malformed(&path, format!("it says it is of mail {}", sidecar.id)));
        }
        sidecar.validate().map_err(|reason| Error::malformed(&path, reason))?;
        Ok(Some(sidecar))
    }

    /// The delivery record of `id`, `None` if there is none. Fails on one that breaks the format.
    pub fn record(&self, id: &MailId) -> Result<Option<DeliveryRecord>> {
        let path = self.record_path(id);
        let Some(record) = disk::read_json::<DeliveryRecord>(&path, VERSION)? else {
            return Ok(None);
        };
        if record.id != *id {
            return Err(Error::malformed(&path, format!("it says it is of mail {}", record.id)));
        }
        Ok(Some(record))
    }

    /// Takes the generator's lock. `None` if another process holds it.
    pub fn lock_generator(&self) -> Result<Option<Generator<'_>>> {
        Ok(self.lock("generator.lock")?.map(|lock| Generator::new(self, lock)))
    }

    /// Takes the deliverer's lock. `None` if another process holds it.
    pub fn lock_deliverer(&self) -> Result<Option<Deliverer<'_>>> {
        Ok(self.lock("deliverer.lock")?.map(|lock| Deliverer::new(self, lock)))
    }

    /// `flock` ends with the process that holds it, however that ends. It needs no more than to read
    /// the file, so that it does not matter which of the group's users made it.
    fn lock(&self, name: &str) -> Result<Option<File>> {
        let path = self.root.join(name);
        let open = || OpenOptions::new().read(true).open(&path);
        let file = match open() {
            Err(error) if error.kind() == ErrorKind::NotFound => OpenOptions::new()
                .append(true)
                .create(true)
                .mode(LOCK_MODE)
                .open(&path)
                .and_then(|_| open()),
            other => other,
        };
        let file = file.map_err(Error::io("open the lock", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(Error::io("lock", &path)(error)),
        }
    }
}
