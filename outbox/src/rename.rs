//! Renaming and removing a mail's file while mail readers may rename it as well.
//!
//! Everybody may change flags, at any time and without a lock, as mail readers do: the flags are how a
//! person acts on a mail.

use std::path::PathBuf;

use crate::{Error, Flags, MailFile, MailId, Outbox, Place, Result, disk};

/// How often a file is looked for that someone renames at the same time.
const ATTEMPTS: usize = 20;

impl Outbox {
    /// Renames a mail's file into `cur/` with other flags, and makes that durable. `known` is where it
    /// was seen last. Whether there was a mail.
    pub fn change_flags(
        &self,
        id: &MailId,
        known: Option<&MailFile>,
        change: impl Fn(&Flags) -> Flags,
    ) -> Result<bool> {
        let cur = self.maildir(Place::Cur);
        let target = |mail: &MailFile| cur.join(mail.name_anew(id, &change(&mail.flags)));
        let moved = self.rename_mail(id, known.cloned(), target)?;
        if let Some(from) = &moved {
            disk::sync_folder(&cur)?;
            if from.place != Place::Cur {
                disk::sync_folder(&self.maildir(from.place))?;
            }
        }
        Ok(moved.is_some())
    }

    /// Renames a mail's file wherever a mail reader may move it meanwhile. Gives where it was.
    pub(crate) fn rename_mail(
        &self,
        id: &MailId,
        known: Option<MailFile>,
        target: impl Fn(&MailFile) -> PathBuf,
    ) -> Result<Option<MailFile>> {
        let mut known = known;
        for _ in 0..ATTEMPTS {
            let mail = match known.take() {
                Some(mail) => mail,
                None => match self.find(id)? {
                    Some(mail) => mail,
                    None => return Ok(None),
                },
            };
            match disk::rename(&self.mail_path(&mail), &target(&mail)) {
                Err(error) if error.is_not_found() => {}
                other => return other.map(|()| Some(mail)),
            }
        }
        Ok(None)
    }

    /// Ends a rename from one folder to another of which a crash left both names: else the old one
    /// would still be there when the mail is finished, and foreign. The flags of both are kept. That in
    /// `tmp/` is the generator's to remove, the others the deliverer's.
    pub(crate) fn forget_old_name(
        &self,
        id: &MailId,
        old: &MailFile,
        new: &MailFile,
    ) -> Result<()> {
        let path = self.mail_path(old);
        if !disk::is_same_file(&path, &self.mail_path(new)) {
            return Ok(());
        }
        let both = Flags::from(format!("{}{}", old.flags, new.flags).as_str());
        if both != new.flags {
            self.change_flags(id, Some(new), |_| both.clone())?;
        }
        disk::remove(&path)
    }

    /// Removes a mail's file under whatever names it has, and makes that durable. That there is none
    /// is fine.
    pub(crate) fn remove_mail(&self, id: &MailId) -> Result<()> {
        for _ in 0..ATTEMPTS {
            let Some(mail) = self.find(id)? else {
                disk::sync_folder(&self.maildir(Place::New))?;
                return disk::sync_folder(&self.maildir(Place::Cur));
            };
            disk::remove(&self.mail_path(&mail))?;
        }
        let cause = std::io::Error::other("it comes back under other names");
        Err(Error::io("remove", &self.maildir(Place::Cur).join(id.as_str()))(cause))
    }
}
