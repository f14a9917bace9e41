//! The deliverer's side: records, holding a mail, and the finish of those the database knows.
//!
//! The finish of accepted mails, in this order: delivery record (durable, see
//! [`Deliverer::record`]) → commit in the database (the caller's) → mail into the archive → sidecar
//! unlinked → synced → record unlinked ([`Deliverer::finish`]). A crash anywhere leaves a record that
//! says `accepted` beside a sidecar, and the next start goes on from there: nothing is relayed
//! again, and the database is told again, which changes nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::folder::Lock;
use crate::mail_file::file_name;
use crate::{DeliveryRecord, Error, Flags, MailFile, MailId, Outbox, Place, Result, State, disk};

/// The right to write delivery records and to finish mails. Ends with the process or when dropped.
#[derive(Debug)]
pub struct Deliverer<'a> {
    outbox: &'a Outbox,
    lock: Lock,
}

/// What became of a finished mail's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finished {
    /// It is in the archive.
    Archived,
    /// It was removed, since no archive is kept.
    Removed,
    /// There was no file: a person deleted it after the relay had it.
    NoFile,
}

/// How often a file is looked for that someone renames at the same time.
const RENAME_ATTEMPTS: usize = 20;

impl<'a> Deliverer<'a> {
    pub(crate) fn new(outbox: &'a Outbox, lock: Lock) -> Self {
        Self { outbox, lock }
    }

    /// The outbox this is the right to.
    pub fn outbox(&self) -> &'a Outbox {
        self.outbox
    }

    /// Writes delivery records. When it returns they survive a crash.
    pub fn record(&self, records: &[DeliveryRecord]) -> Result<()> {
        let folder = self.outbox.records();
        for record in records {
            let temporary = folder.join(disk::temporary(&record.id));
            disk::remove(&temporary)?;
            let file = disk::create(&temporary, &disk::to_json(record))?;
            disk::sync_file(&file, &temporary)?;
            disk::rename(&temporary, &self.outbox.record_path(&record.id))?;
        }
        disk::sync_folder(&folder)
    }

    /// Whether a record could be written now: tried out, and undone. A mail that is relayed while its
    /// record can't be written would be relayed again.
    ///
    /// Fails as well if the outbox was replaced by another one meanwhile.
    pub fn try_recording(&self) -> Result<()> {
        self.lock.check()?;
        let probe = self.outbox.records().join(".probe.json.tmp");
        disk::remove(&probe)?;
        let file = disk::create(&probe, &[b' '; 4096])?;
        let synced = disk::sync_file(&file, &probe);
        disk::remove(&probe)?;
        synced
    }

    /// Flags a mail (F), so that it waits for a person. Whether there was a mail to flag.
    pub fn hold(&self, id: &MailId, known: &MailFile) -> Result<bool> {
        self.change_flags(id, known, |flags| flags.with('F'))
    }

    /// Renames a mail's file into `cur/` with other flags, and makes that durable.
    fn change_flags(
        &self,
        id: &MailId,
        known: &MailFile,
        change: impl Fn(&Flags) -> Flags,
    ) -> Result<bool> {
        let cur = self.outbox.maildir(Place::Cur);
        let target = |mail: &MailFile| cur.join(mail.name_anew(id, &change(&mail.flags)));
        let moved = self.rename_mail(id, Some(known.clone()), target)?;
        if let Some(from) = &moved {
            disk::sync_folder(&cur)?;
            if from.place != Place::Cur {
                disk::sync_folder(&self.outbox.maildir(from.place))?;
            }
        }
        Ok(moved.is_some())
    }

    /// Renames a mail's file wherever a mail reader may move it meanwhile. Gives where it was.
    fn rename_mail(
        &self,
        id: &MailId,
        known: Option<MailFile>,
        target: impl Fn(&MailFile) -> PathBuf,
    ) -> Result<Option<MailFile>> {
        let mut known = known;
        for _ in 0..RENAME_ATTEMPTS {
            let mail = match known.take() {
                Some(mail) => mail,
                None => match self.outbox.find(id)? {
                    Some(mail) => mail,
                    None => return Ok(None),
                },
            };
            match disk::rename(&self.outbox.mail_path(&mail), &target(&mail)) {
                Err(error) if error.is_not_found() => {}
                other => return other.map(|()| Some(mail)),
            }
        }
        Ok(None)
    }

    /// Finishes mails that the database knows to be sent: into the archive (or away, without one),
    /// then their sidecars, then their records. To be called only **after** the commit.
    pub fn finish(
        &self,
        mails: &[(MailId, Option<MailFile>)],
        archive: bool,
    ) -> Result<Vec<Finished>> {
        let kept = self.outbox.archive().join(Place::Cur.folder());
        let mut finished = Vec::with_capacity(mails.len());
        for (id, known) in mails {
            let target = |mail: &MailFile| {
                kept.join(file_name(id, &mail.flags.without('F').without('T').with('S')))
            };
            finished.push(match self.rename_mail(id, known.clone(), target)? {
                None => Finished::NoFile,
                Some(_) if archive => Finished::Archived,
                Some(mail) => {
                    disk::remove(&target(&mail))?;
                    Finished::Removed
                }
            });
        }
        disk::sync_folder(&kept)?;
        disk::sync_folder(&self.outbox.maildir(Place::New))?;
        disk::sync_folder(&self.outbox.maildir(Place::Cur))?;
        for (id, _) in mails {
            disk::remove(&self.outbox.sidecar_path(id))?;
        }
        disk::sync_folder(&self.outbox.sidecars())?;
        for (id, _) in mails {
            disk::remove(&self.outbox.record_path(id))?;
        }
        Ok(finished)
    }

    /// Ends what an interrupted run left half done, before anything is done on the word of a record.
    /// Gives how many records of finished mails were removed.
    pub fn recover(&self) -> Result<usize> {
        let folder = self.outbox.records();
        disk::remove_temporary(&folder)?;
        // A record may have been renamed into place and not be durable yet.
        disk::sync_folder(&folder)?;
        let mut removed = 0;
        for (id, entry) in self.outbox.scan()?.entries {
            // Only what the last step of a finish leaves. A record beside a mail whose sidecar is
            // missing says that the relay has it: whoever took the sidecar away may bring it back.
            if entry.state(None) == State::Leftover
                && id.ticket().is_some()
                && matches!(self.outbox.record(&id), Ok(Some(_)))
            {
                disk::remove(&self.outbox.record_path(&id))?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Removes from the archive what was written longer than `keep` ago. Gives how many.
    pub fn prune_archive(&self, keep: Duration, now: SystemTime) -> Result<usize> {
        let mut removed = 0;
        for place in [Place::New, Place::Cur] {
            let folder = self.outbox.archive().join(place.folder());
            for entry in fs::read_dir(&folder).map_err(Error::io("list", &folder))? {
                let path = entry.map_err(Error::io("list", &folder))?.path();
                removed += usize::from(older_than(&path, keep, now) && disk::remove(&path).is_ok());
            }
        }
        Ok(removed)
    }
}

fn older_than(path: &Path, age: Duration, now: SystemTime) -> bool {
    fs::symlink_metadata(path)
        .and_then(|metadata| metadata.modified())
        .is_ok_and(|modified| now.duration_since(modified).is_ok_and(|found| found > age))
}
