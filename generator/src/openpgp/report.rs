//! What `check` says of the keys, and what is wrong with them before a mail is due.

use anyhow::bail;
use jiff::Timestamp;
use outbox_config::{Encrypt, OpenPgpSettings};

use super::OpenPgp;
use crate::pattern::AddressPattern;

impl OpenPgp {
    /// In words: which key signs and until when, who gets encrypted mails, what else is switched on.
    /// `settings` is what it was opened with.
    ///
    /// Fails if the key that signs is about to expire, or if mails must be encrypted for an address
    /// that has no key.
    pub fn report(&mut self, settings: &OpenPgpSettings, now: Timestamp) -> anyhow::Result<String> {
        let mut words = vec![self.signing(now)?, self.encrypting(settings)?];
        if self.headers {
            words.push("headers are protected".to_owned());
        }
        if self.autocrypt.is_some() {
            words.push("mails carry the key (Autocrypt)".to_owned());
        }
        words.retain(|word| !word.is_empty());
        Ok(words.join("; "))
    }

    fn signing(&self, now: Timestamp) -> anyhow::Result<String> {
        let Some(signer) = &self.signer else {
            return Ok("mails are not signed (openpgp.always_sign is false)".to_owned());
        };
        let key = signer.fingerprint();
        if let Some(until) = signer.expires_soon(now) {
            bail!(
                "the OpenPGP key {key} expires within 30 days: {until}; extend it (gpg \
                 --quick-set-expire {key} 1y) and publish it again"
            );
        }
        let until = signer.expires_at().map_or("never".to_owned(), |until| until.to_string());
        Ok(format!("{key} signs without asking; expires: {until}"))
    }

    fn encrypting(&mut self, settings: &OpenPgpSettings) -> anyhow::Result<String> {
        if !self.rules.may_encrypt() {
            return Ok("mails are not encrypted, unless a format says so".to_owned());
        }
        let sealer = self.sealer()?;
        let keyring = &sealer.keyring;
        let usable = |glob: &str| {
            let pattern = AddressPattern::new(glob);
            keyring.usable().filter(|address| pattern.matches(address)).count()
        };
        let mut words = vec![match settings.encrypt {
            Encrypt::Never => "mails are not encrypted in general".to_owned(),
            Encrypt::IfKey => "mails are encrypted if there is a key".to_owned(),
            Encrypt::Always => "mails are encrypted or not written".to_owned(),
        }];
        words.push(format!("addresses with a usable key: {}", keyring.usable().count()));
        let rules = &settings.encrypt_for;
        let lists = [("always", &rules.always), ("if-key", &rules.if_key)];
        for (list, glob) in
            lists.iter().flat_map(|(list, globs)| globs.iter().map(move |g| (list, g)))
        {
            let count = usable(glob);
            // A pattern may wait for keys to come.
            if count == 0 && *list == "always" && !glob.contains('*') {
                bail!(
                    "openpgp.encrypt_for.always names {glob}, for which the keyring has no usable \
                     key: its mails are not written"
                );
            }
            words.push(format!("{list} for {glob}: {count}"));
        }
        if sealer.own.is_none() {
            words.push(
                "the key that signs can not encrypt, so that encrypted mails can not be read in the \
                 outbox"
                    .to_owned(),
            );
        }
        Ok(words.join(", "))
    }
}
