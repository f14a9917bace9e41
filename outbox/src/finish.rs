//! The deliverer's side: records, holding a mail, and the finish of those the database knows.
//!
//! The finish of accepted mails, in this order: delivery record (durable, see
//! [`Deliverer::record`]) → commit in the database (the caller's) → mail into the archive → sidecar
//! unlinked → synced → record unlinked ([`Deliverer::finish`]). A crash anywhere leaves a record that
//! says `accepted` beside a sidecar, and the next start goes on from there: nothing is relayed
//! again, and the database is told again, which changes nothing.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
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

/// What [`Deliverer::prune_archive`] removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// How many mails.
    pub mails: usize,
    /// How many octets they had.
    pub octets: u64,
}

impl<'a> Deliverer<'a> {
    pub(crate) fn new(outbox: &'a Outbox, lock: Lock) -> Self {
        Self { outbox, lock }
    }

    /// The outbox this is the right to.
    pub fn outbox(&self) -> &'a Outbox {
        self.outbox
    }

    /// Writes delivery records. When it returns they survive a crash.
    ///
    /// Fails if the outbox was replaced by another one meanwhile: there they would tell nobody.
    pub fn record(&self, records: &[DeliveryRecord]) -> Result<()> {
        self.lock.check()?;
        let folder = self.outbox.records();
        for record in records {
            let (temporary, file) =
                disk::create_temporary(&folder, record.id.as_str(), &disk::to_json(record))?;
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
        let (probe, file) = disk::create_temporary(&self.outbox.records(), "probe", &[b' '; 4096])?;
        let synced = disk::sync_file(&file, &probe);
        disk::remove(&probe)?;
        synced
    }

    /// Flags a mail (F), so that it waits for a person. Whether there was a mail to flag.
    pub fn hold(&self, id: &MailId, known: &MailFile) -> Result<bool> {
        let held = |flags: &Flags| flags.with(Flags::HELD).without(Flags::RETRY);
        self.outbox.change_flags(id, Some(known), held)
    }

    /// Takes away the flag that asked for the attempt which has just been made.
    pub fn clear_retry(&self, id: &MailId, known: &MailFile) -> Result<()> {
        self.outbox.change_flags(id, Some(known), |flags| flags.without(Flags::RETRY)).map(drop)
    }

    /// Finishes mails that the database knows to be sent: into the archive (or away, without one),
    /// then their sidecars, then their records. To be called only **after** the commit.
    ///
    /// Gives those that can't be moved, and why: something is in the way, or their files may not be
    /// renamed. They stay as they are and keep none of the others.
    pub fn finish(
        &self,
        mails: &[(MailId, Option<MailFile>)],
        archive: bool,
    ) -> Result<Vec<(MailId, Error)>> {
        self.lock.check()?;
        let (mut moved, mut stuck) = (Vec::new(), Vec::new());
        let kept = self.outbox.archive().join(Place::Cur.folder());
        for (id, known) in mails {
            let target = |mail: &MailFile| self.outbox.archive_path(id, mail);
            // Without a file, a person deleted it after the relay had it.
            let done = self.outbox.rename_mail(id, known.clone(), target).and_then(|renamed| {
                renamed.filter(|_| !archive).map_or(Ok(()), |mail| disk::remove(&target(&mail)))
            });
            match done {
                Ok(()) => moved.push(id),
                Err(error) => stuck.push((id.clone(), error)),
            }
        }
        disk::sync_folder(&kept)?;
        disk::sync_folder(&self.outbox.maildir(Place::New))?;
        disk::sync_folder(&self.outbox.maildir(Place::Cur))?;
        for id in &moved {
            disk::remove(&self.outbox.sidecar_path(id))?;
        }
        disk::sync_folder(&self.outbox.sidecars())?;
        for id in moved {
            disk::remove(&self.outbox.record_path(id))?;
        }
        Ok(stuck)
    }

    /// Ends what an interrupted run left half done, before anything is done on the word of a record.
    /// Gives how many records of finished mails were removed.
    pub fn recover(&self) -> Result<usize> {
        let folder = self.outbox.records();
        disk::remove_temporary(&folder)?;
        // A record may have been renamed into place and not be durable yet.
        disk::sync_folder(&folder)?;
        let snapshot = self.outbox.scan()?;
        for (id, old, new) in
            snapshot.met_again.iter().filter(|(_, old, _)| old.place != Place::Tmp)
        {
            self.outbox.forget_old_name(id, old, new)?;
        }
        let mut removed = 0;
        for (id, entry) in snapshot.entries {
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

    /// Removes from the archive the mails that were written longer than `keep` ago, and of the rest
    /// the oldest ones until no more than `limit` octets are left. Without a limit, age alone counts.
    ///
    /// Only our own mails are touched, and counted: not what a person put there, and nothing that is
    /// no regular file. Fails if there are some that can't be removed, but removes all that can.
    pub fn prune_archive(
        &self,
        keep: Duration,
        limit: Option<u64>,
        now: SystemTime,
    ) -> Result<Pruned> {
        let mut mails = self.archived()?;
        // Of those written at the same time, the names say which is older.
        mails.sort_unstable_by(|a, b| (a.modified, &a.path).cmp(&(b.modified, &b.path)));
        let mut left: u64 = mails.iter().map(|mail| mail.octets).sum();
        let mut pruned = Pruned::default();
        let mut failed = None;
        for mail in mails {
            let old = now.duration_since(mail.modified).is_ok_and(|age| age > keep);
            if !old && limit.is_none_or(|limit| left <= limit) {
                break;
            }
            match disk::remove(&mail.path) {
                Ok(()) => {
                    left -= mail.octets;
                    pruned.mails += 1;
                    pruned.octets += mail.octets;
                }
                Err(error) => _ = failed.get_or_insert(error),
            }
        }
        failed.map_or(Ok(pruned), Err)
    }

    /// Our own mails in the archive, in no order.
    fn archived(&self) -> Result<Vec<ArchivedMail>> {
        let mut mails = Vec::new();
        for (_, path) in
            self.outbox.in_archive()?.into_iter().filter(|(id, _)| id.ticket().is_some())
        {
            // Not that of what a link leads to. One that a mail reader just renamed has none; the next
            // time is early enough for it.
            let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
            let Ok(modified) = metadata.modified() else { continue };
            if metadata.is_file() {
                mails.push(ArchivedMail { modified, octets: metadata.len(), path });
            }
        }
        Ok(mails)
    }
}

impl Outbox {
    /// Where a mail goes in the archive.
    fn archive_path(&self, id: &MailId, mail: &MailFile) -> PathBuf {
        let flags = [Flags::HELD, Flags::TRASHED, Flags::RETRY]
            .into_iter()
            .fold(mail.flags.with('S'), |flags, flag| flags.without(flag));
        self.archive().join(Place::Cur.folder()).join(file_name(id, &flags))
    }

    /// Fails if there is something where the mail goes in the archive: mostly the mail itself, which was
    /// sent, and brought back from a backup.
    pub fn check_archive(&self, id: &MailId, mail: &MailFile) -> Result<()> {
        let path = self.archive_path(id, mail);
        match fs::symlink_metadata(&path) {
            Ok(_) => Err(Error::InArchive { path }),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Error::io("stat", &path)(error)),
        }
    }
}

struct ArchivedMail {
    modified: SystemTime,
    octets: u64,
    path: PathBuf,
}
