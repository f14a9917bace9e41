//! The outbox's folders: where what is, who may enter, and the two locks.

use std::fs::{self, File, Metadata, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use maildir::Maildir;

use crate::delivery::DeliveryRecord;
use crate::error::IN_ITS_GROUP;
use crate::mail_file::parse_file_name;
use crate::sidecar::VERSION;
use crate::{Deliverer, Error, Generator, MailFile, MailId, Place, Result, Sidecar, disk};

/// Folders: owner and group may do all, and what is made inside belongs to the group, so that
/// two system users of one group can share the outbox.
pub(crate) const FOLDER_MODE: u32 = 0o2770;

/// How long a lock may be shared by those who only look whether it is held: an instant each.
const LOOKED_AT: Duration = Duration::from_secs(1);

/// An outbox on disk. Reading needs no lock, and changing a mail's flags needs none either, as with
/// mail readers. Writing needs [`Outbox::lock_generator`] or [`Outbox::lock_deliverer`], and taking a
/// mail back its own lock ([`Outbox::take_back`]).
#[derive(Clone, Debug)]
pub struct Outbox {
    root: PathBuf,
}

impl Outbox {
    /// Makes what is missing of an outbox at `root` (its parent must be there) and opens it.
    /// Folders that exist keep their modes.
    ///
    /// Only for when a person asks for it: in the place of an outbox that is not mounted just now, a
    /// new one would claim nothing, and everything would be written a second time.
    pub fn create(root: &Path) -> Result<Self> {
        let outbox = Self { root: root.to_owned() };
        if root.exists() {
            outbox.refuse_to_forget()?;
        }
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
        if let Some(parent) = root.parent().filter(|parent| parent.is_dir()) {
            disk::sync_folder(parent)?;
        }
        Self::open(root)
    }

    /// Fails if there are mails of ours and not the folders that tell what is known of them: with
    /// new ones, nothing would be claimed and all of it be written and sent again.
    fn refuse_to_forget(&self) -> Result<()> {
        let lost = [self.sidecars(), self.records()].into_iter().find(|folder| !folder.exists());
        let Some(lost) = lost else { return Ok(()) };
        for folder in Place::ALL.map(|place| self.maildir(place)) {
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                let name = entry.file_name();
                let ours = name.to_str().and_then(parse_file_name);
                if ours.is_some_and(|(id, _)| id.ticket().is_some()) {
                    let reason = format!(
                        "{} is missing while there are mails in {}: bring it back, or move these \
                         mails away if they are to be written anew",
                        lost.display(),
                        folder.display()
                    );
                    return Err(Error::NotAnOutbox { path: self.root.clone(), reason });
                }
            }
        }
        Ok(())
    }

    /// Opens the outbox at `root`. Fails, and says what is missing, if it is none.
    pub fn open(root: &Path) -> Result<Self> {
        let outbox = Self { root: root.to_owned() };
        let refuse = |folder: &Path, wrong: String| {
            let reason = format!("{}: {wrong}", folder.display());
            Err(Error::NotAnOutbox { path: root.to_owned(), reason })
        };
        let mut device = None;
        for folder in outbox.folders() {
            // The root may be a link to where the outbox is; what is in it may not.
            let metadata =
                if folder == root { fs::metadata(&folder) } else { fs::symlink_metadata(&folder) };
            match metadata {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    let hint =
                        "is its file system mounted? `outbox-generator init` makes a new outbox";
                    return refuse(&folder, format!("{error} ({hint})"));
                }
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                    return refuse(&folder, format!("{error} ({IN_ITS_GROUP})"));
                }
                Err(error) => return refuse(&folder, error.to_string()),
                Ok(metadata) if !metadata.is_dir() => {
                    return refuse(&folder, "is not a folder".into());
                }
                Ok(metadata) if *device.get_or_insert(metadata.dev()) != metadata.dev() => {
                    let wrong =
                        "is on another file system, and a rename can't cross from one to the other";
                    return refuse(&folder, wrong.into());
                }
                Ok(_) => {}
            }
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
    pub(crate) fn folders(&self) -> Vec<PathBuf> {
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
        Ok(Lock::take(self.sidecars())?.map(|lock| Generator::new(self, lock)))
    }

    /// Whether a generator writes into this outbox now. Disturbs none, not even one that starts just now.
    pub fn has_generator(&self) -> Result<bool> {
        Lock::is_held(&self.sidecars())
    }

    /// Whether a deliverer works on this outbox. Disturbs none, not even one that starts just now.
    pub fn deliverer_runs(&self) -> Result<bool> {
        Lock::is_held(&self.records())
    }

    /// Takes the deliverer's lock. `None` if another process holds it.
    pub fn lock_deliverer(&self) -> Result<Option<Deliverer<'_>>> {
        let Some(lock) = Lock::take(self.records())? else { return Ok(None) };
        // What the last one said of itself, if it was killed, is not true of this one.
        disk::remove(&self.service_path())?;
        Ok(Some(Deliverer::new(self, lock)))
    }
}

/// An `flock` on the folder that only its holder writes into. It ends with the process that holds
/// it, however that ends. Since the folder itself is locked, no lock file can be removed under it.
#[derive(Debug)]
pub(crate) struct Lock {
    folder: File,
    path: PathBuf,
}

impl Lock {
    fn take(path: PathBuf) -> Result<Option<Self>> {
        let folder = File::open(&path).map_err(Error::io("open", &path))?;
        let until = Instant::now() + LOOKED_AT;
        loop {
            match folder.try_lock() {
                Ok(()) => return Ok(Some(Self { folder, path })),
                Err(TryLockError::WouldBlock) if Instant::now() < until => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(Error::io("lock", &path)(error)),
            }
            // Held, or only looked at?
            match folder
                .try_lock_shared()
                .and_then(|()| folder.unlock().map_err(TryLockError::Error))
            {
                Ok(()) => std::thread::sleep(LOOKED_AT / 100),
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(Error::io("lock", &path)(error)),
            }
        }
    }

    /// Whether somebody holds the lock of this folder.
    fn is_held(path: &Path) -> Result<bool> {
        let folder = File::open(path).map_err(Error::io("open", path))?;
        // Shared, so that many can look at the same time. It ends with `folder`.
        match folder.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(Error::io("lock", path)(error)),
        }
    }

    /// Fails if the path leads to another folder by now: then somebody else may hold the lock of
    /// that one.
    pub(crate) fn check(&self) -> Result<()> {
        let identity = |metadata: Metadata| (metadata.dev(), metadata.ino());
        let held = self.folder.metadata().map_err(Error::io("stat", &self.path))?;
        let there = fs::metadata(&self.path).map_err(Error::io("stat", &self.path))?;
        if identity(held) == identity(there) {
            return Ok(());
        }
        let reason = "it was replaced by another folder while this program ran".to_owned();
        Err(Error::NotAnOutbox { path: self.path.clone(), reason })
    }
}
