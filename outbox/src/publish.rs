//! The generator's side: drafts, publishing them together, mending what a crash left, and claims.
//!
//! Publishing a batch, in this order:
//!
//! 1. every `tmp/<id>` and every temporary sidecar is written ([`Generator::draft`]), then synced;
//! 2. the sidecars are renamed into place, those of copies first, `sidecar/` is synced: **now the mails
//!    are committed**;
//! 3. the mails are renamed `tmp/` → `new/`, copies first, both are synced.
//!
//! A crash before 2 leaves drafts without sidecars, which the next start removes: their directives
//! are still pending. A crash after it leaves mails in `tmp/` with sidecars, which the next start
//! publishes: their directives are claimed.
//!
//! In both renaming steps copies go before the mail they are copies of, and are synced before it goes:
//! of two renames, a crash may keep the second one alone. So a copy still in `tmp/` proves that its
//! mail is not in `new/` yet, and a copy whose mail has no sidecar was never committed as a whole: it
//! is removed like a draft. Which mail a copy is of is told by group and instant: mails that were
//! composed together have the same of both.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::path::PathBuf;

use jiff::Timestamp;

use crate::folder::Lock;
use crate::sidecar::VERSION;
use crate::{
    DirectiveId, Envelope, Error, GroupKey, MailId, Outbox, Place, Result, Sha256Digest, Sidecar,
    State, Ticket, disk,
};

/// The right to write mails into an outbox. Ends with the process or when dropped.
#[derive(Debug)]
pub struct Generator<'a> {
    outbox: &'a Outbox,
    host: String,
    drafts: u64,
    lock: Lock,
}

/// A mail that is written but not committed. Dropping it removes its files.
#[derive(Debug)]
#[must_use = "a draft that is not published is removed"]
pub struct Draft {
    sidecar: Sidecar,
    mail: Option<Written>,
    metadata: Option<Written>,
}

/// A file of a draft, open until it is durable.
#[derive(Debug)]
struct Written {
    path: PathBuf,
    file: Option<File>,
}

/// What a mail is about, for [`Generator::draft`].
#[derive(Clone, Debug)]
pub struct NewMail {
    /// The ticket drawn for it.
    pub ticket: Ticket,
    /// The value of its `Message-ID` field.
    pub message_id: String,
    /// Its `Date`. A mail and its copies have the same, and no other mail of the group has it.
    pub created_at: Timestamp,
    /// Its subject, decoded.
    pub subject: String,
    /// Whom it goes to.
    pub envelope: Envelope,
    /// What it claims: empty for a copy.
    pub directive_ids: Vec<DirectiveId>,
    /// The group it answers.
    pub group: GroupKey,
}

/// What [`Generator::recover`] found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Committed mails that were published.
    pub published: Vec<MailId>,
    /// Drafts that were removed.
    pub removed: Vec<MailId>,
}

/// What the mails in the outbox stand for.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    /// The directives that some sidecar lists.
    pub directives: HashSet<DirectiveId>,
    /// When the newest mail to each group was composed.
    pub newest: BTreeMap<GroupKey, Timestamp>,
    /// The highest ticket of all: the latest day's highest number.
    pub last_ticket: Option<Ticket>,
}

impl<'a> Generator<'a> {
    pub(crate) fn new(outbox: &'a Outbox, lock: Lock) -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let safe = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' };
        let host = host.chars().take(64).map(safe).collect();
        Self { outbox, host, drafts: 0, lock }
    }

    /// The outbox this is the right to.
    pub fn outbox(&self) -> &'a Outbox {
        self.outbox
    }

    /// Ends what an interrupted run left half done. To be called before [`Outbox::claims`].
    pub fn recover(&self) -> Result<Recovered> {
        disk::remove_temporary(&self.outbox.sidecars())?;
        let snapshot = self.outbox.scan()?;
        for (id, old, new) in
            snapshot.met_again.iter().filter(|(_, old, _)| old.place == Place::Tmp)
        {
            self.outbox.forget_old_name(id, old, new)?;
        }
        let mut committed = Vec::new();
        let mut abandoned = Vec::new();
        for (id, entry) in &snapshot.entries {
            match entry.state(None) {
                State::Committed => committed.push(id.clone()),
                // Other programs write into tmp/ as well; only a name of ours is ours to remove.
                State::Draft if id.ticket().is_some() => abandoned.push(id.clone()),
                _ => {}
            }
        }
        let (copies, mails, abandoned_copies) = self.sort(committed)?;
        for id in &abandoned_copies {
            // First the sidecar: without it the mail is a draft.
            disk::remove(&self.outbox.sidecar_path(id))?;
        }
        disk::sync_folder(&self.outbox.sidecars())?;
        abandoned.extend(abandoned_copies);
        for id in &abandoned {
            disk::remove(&self.in_tmp(id))?;
        }
        self.move_to_new([&copies, &mails])?;
        Ok(Recovered { published: [copies, mails].concat(), removed: abandoned })
    }

    /// Sorts what was committed: copies, mails, and the copies that were committed before the mail they
    /// belong to was.
    fn sort(&self, committed: Vec<MailId>) -> Result<(Vec<MailId>, Vec<MailId>, Vec<MailId>)> {
        let (mut copies, mut mails, mut occasions) = (Vec::new(), Vec::new(), HashSet::new());
        for id in committed {
            let Some(sidecar) = self.outbox.sidecar(&id)? else { continue };
            let occasion = (sidecar.group, sidecar.created_at);
            if sidecar.mark_sent {
                mails.push(id);
                occasions.insert(occasion);
            } else {
                copies.push((id, occasion));
            }
        }
        let (whole, abandoned): (Vec<_>, Vec<_>) =
            copies.into_iter().partition(|(_, occasion)| occasions.contains(occasion));
        let ids = |copies: Vec<(MailId, _)>| copies.into_iter().map(|(id, _)| id).collect();
        Ok((ids(whole), mails, ids(abandoned)))
    }

    /// Writes a mail, not committed and not yet durable.
    pub fn draft(&mut self, mail: NewMail, bytes: &[u8]) -> Result<Draft> {
        let id = self.next_id(&mail.ticket)?;
        let mail_path = self.in_tmp(&id);
        let sidecar = Sidecar {
            version: VERSION,
            id,
            ticket: mail.ticket,
            message_id: mail.message_id,
            created_at: mail.created_at,
            sha256: Sha256Digest::of(bytes),
            size: bytes.len() as u64,
            subject: mail.subject,
            envelope: mail.envelope,
            mark_sent: !mail.directive_ids.is_empty(),
            directive_ids: mail.directive_ids,
            group: mail.group,
        };
        sidecar.validate().map_err(|reason| Error::malformed(&mail_path, reason))?;
        let mut draft = Draft { sidecar, mail: None, metadata: None };
        draft.mail = Some(Written::create(mail_path, bytes)?);
        let path = self.outbox.sidecars().join(disk::temporary(&draft.sidecar.id));
        draft.metadata = Some(Written::create(path, &disk::to_json(&draft.sidecar))?);
        Ok(draft)
    }

    /// Makes drafts durable and publishes them, in the order told above. When it returns, the
    /// mails survive a crash. When it fails, some may be committed: end the run, and the next
    /// one's [`Generator::recover`] finds out.
    pub fn publish(&self, mut drafts: Vec<Draft>) -> Result<Vec<MailId>> {
        self.lock.check()?;
        drafts.iter_mut().try_for_each(Draft::settle)?;
        disk::sync_folder(&self.outbox.maildir(Place::Tmp))?;
        let (mails, copies) = drafts.into_iter().partition(|draft| draft.sidecar.mark_sent);
        let copies = self.commit(copies)?;
        let mails = self.commit(mails)?;
        self.move_to_new([&copies, &mails])?;
        Ok([copies, mails].concat())
    }

    /// Renames sidecars into place, and makes that durable.
    fn commit(&self, mut drafts: Vec<Draft>) -> Result<Vec<MailId>> {
        if drafts.is_empty() {
            return Ok(Vec::new());
        }
        let mut ids = Vec::with_capacity(drafts.len());
        for draft in &mut drafts {
            let id = draft.sidecar.id.clone();
            if let Some(temporary) = draft.metadata.take() {
                // From this rename on the mail is no draft any more, whatever fails next.
                draft.mail = None;
                disk::rename(&temporary.path, &self.outbox.sidecar_path(&id))?;
            }
            ids.push(id);
        }
        disk::sync_folder(&self.outbox.sidecars())?;
        Ok(ids)
    }

    /// The commit point of each mail: one rename. First that of the copies.
    fn move_to_new(&self, copies_and_mails: [&[MailId]; 2]) -> Result<()> {
        let new = self.outbox.maildir(Place::New);
        let mut groups = copies_and_mails.into_iter().filter(|ids| !ids.is_empty()).peekable();
        if groups.peek().is_none() {
            return Ok(());
        }
        for ids in groups {
            for id in ids {
                disk::rename(&self.in_tmp(id), &new.join(id.as_str()))?;
            }
            disk::sync_folder(&new)?;
        }
        disk::sync_folder(&self.outbox.maildir(Place::Tmp))
    }

    fn in_tmp(&self, id: &MailId) -> PathBuf {
        self.outbox.maildir(Place::Tmp).join(id.as_str())
    }

    /// Seconds, microseconds, process, count, ticket, host: unique as Maildir asks, ordered by
    /// time, and telling a person something in `ls`.
    fn next_id(&mut self, ticket: &Ticket) -> Result<MailId> {
        self.drafts += 1;
        id_at(crate::now(), self.drafts, ticket, &self.host)
    }
}

/// The id of the `count`th draft of this process, which begins with the time.
fn id_at(now: Timestamp, count: u64, ticket: &Ticket, host: &str) -> Result<MailId> {
    let (seconds, micros) = (now.as_second(), now.subsec_nanosecond() / 1000);
    let process = std::process::id();
    format!("{seconds}.M{micros:06}P{process}Q{count}.{ticket}.{host}").parse()
}

impl Outbox {
    /// Reads what the outbox claims. Who writes does it **before** asking the database what is
    /// pending: the deliverer removes a sidecar only after the database said `sent`.
    ///
    /// Fails on a sidecar that can't be read: it may claim anything, and a directive written to
    /// twice is worse than one written to later.
    pub fn claims(&self) -> Result<Claims> {
        let mut claims = Claims::default();
        for (id, entry) in self.scan()?.entries {
            if !entry.sidecar {
                continue;
            }
            // Gone meanwhile: the database says `sent` of it already.
            let Some(sidecar) = self.sidecar(&id)? else { continue };
            claims.directives.extend(sidecar.directive_ids);
            claims.last_ticket = claims.last_ticket.max(Some(sidecar.ticket));
            if sidecar.mark_sent {
                let newest = claims.newest.entry(sidecar.group).or_insert(sidecar.created_at);
                *newest = sidecar.created_at.max(*newest);
            }
        }
        Ok(claims)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        for written in self.mail.take().into_iter().chain(self.metadata.take()) {
            // The next start removes what can't be removed now.
            let _ = fs::remove_file(written.path);
        }
    }
}

impl Written {
    fn create(path: PathBuf, bytes: &[u8]) -> Result<Self> {
        Ok(Self { file: Some(disk::create(&path, bytes)?), path })
    }
}

impl Draft {
    /// Makes its files durable, and closes them. [`Generator::publish`] does it for the drafts that
    /// are not; who has many drafts does it before too many files are open.
    pub fn settle(&mut self) -> Result<()> {
        for written in self.mail.iter_mut().chain(&mut self.metadata) {
            if let Some(file) = written.file.take() {
                disk::sync_file(&file, &written.path)?;
            }
        }
        Ok(())
    }

    /// The sidecar as it will be written.
    pub fn sidecar(&self) -> &Sidecar {
        &self.sidecar
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// From 2001 to 2286 the seconds have as many digits.
        #[test]
        fn ids_are_in_the_order_of_their_times(
            one in 1_000_000_000_000_000..9_999_999_999_999_999_i64,
            apart in prop_oneof![1..2_000_000_i64, 1..9_000_000_000_000_000_i64],
            counts in any::<(u64, u64)>(),
        ) {
            let ticket = "20261125-10000042".parse().unwrap();
            let id = |micros: i64, count| {
                let time = Timestamp::from_microsecond(micros).unwrap();
                id_at(time, count, &ticket, "vm").unwrap()
            };
            let later = (one + apart).min(9_999_999_999_999_999);
            prop_assert!(id(one, counts.0) < id(later, counts.1) || one == later);
            prop_assert_eq!(id(one, counts.0).written_at().unwrap().as_second(), one / 1_000_000);
            prop_assert_eq!(id(one, counts.0).ticket(), Some(ticket.clone()));
            prop_assert_eq!(id(one, counts.0) == id(one, counts.1), counts.0 == counts.1);
        }
    }
}
