//! Looking at an outbox while others move files in it.
//!
//! A mail moves `tmp/` → `new/` → `cur/`, and the scan reads `sidecar/` first and then these three in
//! that order, so that a mail on its way is met at least once. But a mail reader also renames within
//! a folder, and back to `new/`, which readdir may miss: a mail found nowhere is looked for again.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::mail_file::parse_file_name;
use crate::service::SERVICE_FILE;
use crate::{
    DeliveryRecord, DeliveryState, Error, Flags, MailFile, MailId, Outbox, Place, Result,
    Sha256Digest, Sidecar, disk,
};

/// How often a mail is looked for again before it counts as gone.
const LOOKS: usize = 4;

/// What is odd about a name that is a mail's, but no mail's of ours.
const NO_TICKET: &str = "there is no ticket in its name";

/// What is odd about a folder, a link, a FIFO, a socket or a device, whatever its name.
const NO_FILE: &str = "it is not a regular file";

/// How much of a mail is read for its header, in octets.
const HEADER_LIMIT: u64 = 1 << 20;

/// What there is of one mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its file, if there is one.
    pub mail: Option<MailFile>,
    /// Whether it has a sidecar.
    pub sidecar: bool,
    /// Whether it has a delivery record.
    pub record: bool,
}

/// A file that nothing of ours would have put there. It is never touched.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Oddity {
    /// Where it is.
    pub path: PathBuf,
    /// What is odd about it.
    pub why: &'static str,
}

/// The outbox as it was met, by mail id; since ids begin with the time, the oldest comes first.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Everything that belongs to a mail.
    pub entries: BTreeMap<MailId, Entry>,
    /// Everything that does not.
    pub oddities: Vec<Oddity>,
    /// Mails that were met in two folders: where each was met first, and where then.
    pub(crate) met_again: Vec<(MailId, MailFile, MailFile)>,
}

/// What the presence of a mail's files means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// A mail in `tmp/` without a sidecar: the generator's next start removes it if it is ours.
    Draft,
    /// A mail in `tmp/` with a sidecar: the generator's next start publishes it.
    Committed,
    /// To be relayed.
    Queued,
    /// To be relayed again, not before `until`.
    Deferred {
        /// When it is due.
        until: Timestamp,
    },
    /// Flagged (F): waits for a person.
    Held,
    /// Deleted or marked for deletion (T): still claimed, waits for a person.
    Withdrawn,
    /// Taken by the relay: to be marked sent, archived and forgotten.
    Accepted,
    /// A mail without a sidecar in `new/` or `cur/`: not ours, never sent.
    Foreign,
    /// A delivery record without sidecar and mail: the deliverer removes it.
    Leftover,
}

impl Entry {
    /// What the files mean together with the delivery record's content.
    pub fn state(&self, record: Option<&DeliveryRecord>) -> State {
        if !self.sidecar {
            return match &self.mail {
                None => State::Leftover,
                Some(mail) if mail.place == Place::Tmp => State::Draft,
                Some(_) => State::Foreign,
            };
        }
        if record.is_some_and(|record| record.state == DeliveryState::Accepted) {
            return State::Accepted;
        }
        match &self.mail {
            None => State::Withdrawn,
            Some(mail) if mail.place == Place::Tmp => State::Committed,
            Some(mail) if mail.flags.trashed() => State::Withdrawn,
            Some(mail) if mail.flags.held() => State::Held,
            Some(mail) => match record {
                Some(DeliveryRecord {
                    state: DeliveryState::Deferred,
                    next_attempt_at: Some(until),
                    ..
                }) if !mail.flags.retried() => State::Deferred { until: *until },
                // Deferred, and a person asked for the next attempt now. Rejected, expired or held in
                // the record but no longer flagged: a person released it.
                _ => State::Queued,
            },
        }
    }
}

impl Outbox {
    /// Looks at everything. Fails only where a folder cannot be read; single files never fail it.
    pub fn scan(&self) -> Result<Snapshot> {
        let mut snapshot = Snapshot::default();
        for met in list(&self.sidecars())? {
            snapshot.note_sidecar(&self.sidecars(), &met);
        }
        for place in Place::ALL {
            for met in list(&self.maildir(place))? {
                snapshot.note_mail(&self.maildir(place), place, met);
            }
        }
        for met in list(&self.records())? {
            snapshot.note_record(&self.records(), &met);
        }
        self.look_again(&mut snapshot)?;
        snapshot.entries.retain(|_, entry| entry.sidecar || entry.mail.is_some() || entry.record);
        Ok(snapshot)
    }

    /// Settles what the first look can have missed or misread: a mail renamed while its folder was
    /// listed, one published after `sidecar/` was listed, one finished after that.
    fn look_again(&self, snapshot: &mut Snapshot) -> Result<()> {
        for _ in 0..LOOKS {
            let unmet = |entry: &Entry| entry.sidecar && entry.mail.is_none();
            let missing: BTreeSet<MailId> = snapshot
                .entries
                .iter()
                .filter(|(_, entry)| unmet(entry))
                .map(|(id, _)| id.clone())
                .collect();
            if missing.is_empty() {
                break;
            }
            for (id, mail) in self.mails(|id| missing.contains(id))? {
                snapshot.entry(id).mail = Some(mail);
            }
        }
        for (id, entry) in &mut snapshot.entries {
            if entry.sidecar != entry.mail.is_some() {
                let path = self.sidecar_path(id);
                // Not what a link leads to: whatever stands there may claim anything.
                entry.sidecar = match fs::symlink_metadata(&path) {
                    Ok(_) => true,
                    Err(error) if error.kind() == ErrorKind::NotFound => false,
                    Err(error) => return Err(Error::io("stat", &path)(error)),
                };
            }
        }
        Ok(())
    }

    /// The files of the mails that are `wanted`. One that is met under two names has the flags of
    /// both, and the place that comes later.
    fn mails(&self, wanted: impl Fn(&MailId) -> bool) -> Result<BTreeMap<MailId, MailFile>> {
        let mut mails = BTreeMap::new();
        for place in Place::ALL {
            for Met { name, is_file } in list(&self.maildir(place))? {
                if let Some((id, flags)) = name.to_str().and_then(parse_file_name)
                    && is_file
                    && wanted(&id)
                {
                    meet(mails.entry(id).or_default(), MailFile { place, file_name: name, flags });
                }
            }
        }
        Ok(mails.into_iter().filter_map(|(id, mail)| Some((id, mail?))).collect())
    }

    /// Looks for one mail's file by its unique name, more than once, for a rename can hide it.
    pub fn find(&self, id: &MailId) -> Result<Option<MailFile>> {
        for _ in 0..LOOKS {
            if let Some(mail) = self.mails(|this| this == id)?.remove(id) {
                return Ok(Some(mail));
            }
        }
        Ok(None)
    }

    /// Where the mail's file is now, given where it was: the old place first, which is nearly
    /// always right and needs no listing.
    pub fn refind(&self, id: &MailId, known: &MailFile) -> Result<Option<MailFile>> {
        match fs::symlink_metadata(self.mail_path(known)) {
            Ok(there) if there.is_file() => Ok(Some(known.clone())),
            _ => self.find(id),
        }
    }

    /// The mails in the archive that are `wanted`, by id.
    pub fn archived(&self, wanted: impl Fn(&MailId) -> bool) -> Result<BTreeMap<MailId, PathBuf>> {
        Ok(self.in_archive()?.into_iter().filter(|(id, _)| wanted(id)).collect())
    }

    /// Everything in the archive that has a mail's name, in no order.
    pub(crate) fn in_archive(&self) -> Result<Vec<(MailId, PathBuf)>> {
        let mut mails = Vec::new();
        for place in [Place::New, Place::Cur] {
            let folder = self.archive().join(place.folder());
            for Met { name, .. } in list(&folder)? {
                if let Some((id, _)) = name.to_str().and_then(parse_file_name) {
                    mails.push((id, folder.join(name)));
                }
            }
        }
        Ok(mails)
    }

    /// The lines of a mail's header, the file wherever it is in the outbox.
    pub fn header(&self, path: &Path) -> Result<Vec<String>> {
        let (file, size) = disk::open_regular(path)?;
        let bytes = disk::read_up_to(&file, size.min(HEADER_LIMIT), path)?;
        let text = String::from_utf8_lossy(&bytes);
        Ok(text.lines().take_while(|line| !line.is_empty()).map(str::to_owned).collect())
    }

    /// Reads a mail and compares it with what the generator wrote down of it: `Err` in the inner
    /// result tells how it differs.
    pub fn read_mail(
        &self,
        mail: &MailFile,
        sidecar: &Sidecar,
    ) -> Result<std::result::Result<Vec<u8>, String>> {
        let path = self.mail_path(mail);
        let (file, size) = match disk::open_regular(&path) {
            Err(Error::Malformed { reason, .. }) => return Ok(Err(reason)),
            other => other?,
        };
        if size != sidecar.size {
            let expected = sidecar.size;
            return Ok(Err(format!(
                "it was changed after it was written: {size} octets instead of {expected}"
            )));
        }
        let bytes = disk::read_up_to(&file, size, &path)?;
        let digest = Sha256Digest::of(&bytes);
        if digest == sidecar.sha256 {
            Ok(Ok(bytes))
        } else {
            let expected = sidecar.sha256;
            Ok(Err(format!(
                "it was changed after it was written: SHA-256 is {digest} instead of {expected}"
            )))
        }
    }
}

impl Snapshot {
    fn entry(&mut self, id: MailId) -> &mut Entry {
        self.entries.entry(id).or_insert(Entry { mail: None, sidecar: false, record: false })
    }

    /// Notes a sidecar, also one that is none of ours: who asks what it claims must fail on it.
    fn note_sidecar(&mut self, folder: &Path, met: &Met) {
        let Some(id) = self.json_of(folder, met) else { return };
        if id.ticket().is_none() {
            self.oddity(folder.join(&met.name), NO_TICKET);
        }
        self.entry(id).sidecar = true;
    }

    fn note_record(&mut self, folder: &Path, met: &Met) {
        if let Some(id) = self.json_of(folder, met) {
            self.entry(id).record = true;
        }
    }

    /// The mail whose JSON file has this name. A name that is no such file's is odd, unless it is one
    /// that our files have before they are in place.
    fn json_of(&mut self, folder: &Path, Met { name, is_file }: &Met) -> Option<MailId> {
        let id = name.to_str().and_then(|name| name.strip_suffix(".json")?.parse().ok());
        if id.is_none() {
            match disk::is_temporary(name) || name == SERVICE_FILE {
                true if *is_file => {}
                true => self.oddity(folder.join(name), NO_FILE),
                false => self.oddity(folder.join(name), "its name is not <mail id>.json"),
            }
        }
        id
    }

    fn note_mail(&mut self, folder: &Path, place: Place, Met { name, is_file }: Met) {
        let Some((id, flags)) = name.to_str().and_then(parse_file_name) else {
            self.oddity(folder.join(name), "its name is not that of a mail of this outbox");
            return;
        };
        // A mail is a file. Whatever else has its name is no part of it, and stays as it is.
        if !is_file {
            self.oddity(folder.join(name), NO_FILE);
            return;
        }
        // In the other two folders it is a mail without a sidecar.
        if place == Place::Tmp && id.ticket().is_none() {
            self.oddity(folder.join(&name), NO_TICKET);
        }
        let met = MailFile { place, file_name: name, flags };
        if let Some(before) = self.entry(id.clone()).mail.clone()
            && before.place != place
        {
            self.met_again.push((id.clone(), before, met.clone()));
        }
        meet(&mut self.entry(id).mail, met);
    }

    fn oddity(&mut self, path: PathBuf, why: &'static str) {
        self.oddities.push(Oddity { path, why });
    }
}

/// Notes a mail's file. Where it is met twice it moved on meanwhile, and the later place holds; or
/// it has two names (a backup's or a tool's link), and what a person said by either counts.
fn meet(known: &mut Option<MailFile>, met: MailFile) {
    let flags = match known {
        Some(known) => Flags::from(format!("{}{}", known.flags, met.flags).as_str()),
        None => met.flags,
    };
    *known = Some(MailFile { flags, ..met });
}

/// What is met in a folder.
struct Met {
    name: OsString,
    /// Whether it is a regular file, as all of ours are.
    is_file: bool,
}

/// All that is in a folder.
fn list(folder: &Path) -> Result<Vec<Met>> {
    let mut met = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io("list", folder))? {
        let entry = entry.map_err(Error::io("list", folder))?;
        // Mostly the folder tells. What is gone meanwhile was a file, for all that is known.
        let is_file = entry.file_type().map_or(true, |kind| kind.is_file());
        met.push(Met { name: entry.file_name(), is_file });
    }
    Ok(met)
}
