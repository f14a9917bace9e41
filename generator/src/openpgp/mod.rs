//! What OpenPGP does for a run's mails: signatures, encryption, the key in an Autocrypt header. All
//! of it is made by GnuPG without ever asking a person or the network for anything.

mod autocrypt;
mod error;
mod gnupg;
mod keyring;
mod report;
mod rules;
mod seal;
mod signer;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::HashSet;
use std::path::PathBuf;

use gpgme::Key;
use outbox_config::{Encrypt, OpenPgpSettings};
use tracing::warn;

pub use error::KeyError;
use error::in_home;
pub use keyring::NoKey;
pub use seal::{EncryptError, Encryption};
pub use signer::{GpgSigner, SignError, Signature, Signer};

use crate::address::Address;
use rules::Rules;
use seal::Sealer;

/// What one mail is protected by.
#[derive(Default)]
pub struct Protection<'a> {
    /// What its content is wrapped in.
    pub wrapping: Wrapping<'a>,
    /// Whether the header is protected with it (RFC 9788).
    pub headers: bool,
    /// The value of the header `Autocrypt`, with a space wherever a line may end.
    pub autocrypt: Option<&'a str>,
}

/// What the content of a mail is wrapped in.
#[derive(Default)]
pub enum Wrapping<'a> {
    /// Nothing.
    #[default]
    None,
    /// A signature.
    Signature(&'a mut dyn Signer),
    /// Encryption, with a signature inside if mails are signed.
    Encryption(Encryption<'a>),
}

/// The configured protection of mails, its keys found and tried.
#[derive(Debug)]
pub struct OpenPgp {
    /// Whether mails are neither signed nor encrypted, whatever is configured.
    off: bool,
    home: Option<PathBuf>,
    signing_key: String,
    signer: Option<GpgSigner>,
    rules: Rules,
    /// Not there before a mail could be encrypted.
    sealer: Option<Sealer>,
    headers: bool,
    autocrypt: Option<String>,
    /// What was said of keys that can't be used.
    told: HashSet<String>,
}

impl OpenPgp {
    /// Opens the key that signs, if mails are signed, and the keyring, if mails of this sender can
    /// be encrypted by the configuration alone. Whatever is wrong is the configuration's fault.
    pub fn open(settings: &OpenPgpSettings, sender: &Address) -> Result<Self, KeyError> {
        let home = settings.gnupg_home.as_deref();
        let name = settings.signing_key.as_deref().unwrap_or_default();
        let mut signer = None;
        if settings.always_sign {
            signer = Some(GpgSigner::open(home, name)?);
        }
        let autocrypt = match &signer {
            Some(signer) if settings.autocrypt => {
                Some(autocrypt::header(&mut gnupg::context(home)?, home, signer.key(), sender)?)
            }
            _ => None,
        };
        let mut openpgp = Self { signer, autocrypt, ..Self::to_look(Some(settings)) };
        if openpgp.rules.may_encrypt() {
            openpgp.sealer()?;
        }
        Ok(openpgp)
    }

    /// For looking alone: it is known to whom mails can be encrypted, and none can be signed.
    pub fn to_look(settings: Option<&OpenPgpSettings>) -> Self {
        let rules = settings.map(|settings| Rules::new(settings.encrypt, &settings.encrypt_for));
        Self {
            off: false,
            home: settings.and_then(|settings| settings.gnupg_home.clone()),
            signing_key: settings.and_then(|s| s.signing_key.clone()).unwrap_or_default(),
            signer: None,
            rules: rules.unwrap_or_default(),
            sealer: None,
            headers: settings.is_some_and(|settings| settings.protected_headers),
            autocrypt: None,
            told: HashSet::new(),
        }
    }

    /// No protection at all: no key is needed.
    pub fn off() -> Self {
        Self { off: true, ..Self::to_look(None) }
    }

    /// The key that signs, if mails are signed.
    pub fn signer(&self) -> Option<&GpgSigner> {
        self.signer.as_ref()
    }

    /// The protection of a mail to these recipients, of a format that may have its own say on
    /// encryption.
    ///
    /// Fails if it must be encrypted and one of them has no key.
    pub fn protection(
        &mut self,
        format: Option<Encrypt>,
        to: &[Address],
    ) -> Result<Protection<'_>, EncryptError> {
        let keys = self.keys(format, to)?;
        let Self { signer, sealer, headers, autocrypt, .. } = self;
        let wrapping = match (keys, signer) {
            (Some(keys), _) => {
                let sealer = sealer.as_mut().expect("the keys are from there");
                Wrapping::Encryption(Encryption::new(sealer, to, keys))
            }
            (None, Some(signer)) => Wrapping::Signature(signer),
            (None, None) => Wrapping::None,
        };
        Ok(Protection { wrapping, headers: *headers, autocrypt: autocrypt.as_deref() })
    }

    /// Finds out whether a mail has the keys that it needs. What can't be known, since who looks may
    /// not read the keyring, is left open.
    pub fn rehearse(
        &mut self,
        format: Option<Encrypt>,
        to: &[Address],
    ) -> Result<(), EncryptError> {
        match self.keys(format, to) {
            Ok(_) | Err(EncryptError::Key(_)) => Ok(()),
            Err(missing) => Err(missing),
        }
    }

    /// The keys to encrypt a mail with, if it is to be encrypted.
    fn keys(
        &mut self,
        format: Option<Encrypt>,
        to: &[Address],
    ) -> Result<Option<Vec<Key>>, EncryptError> {
        if self.off {
            return Ok(None);
        }
        Ok(match self.rules.of_mail(format, to) {
            Encrypt::Never => None,
            Encrypt::IfKey => match self.sealer()?.keys(to) {
                Ok(keys) => Some(keys),
                Err(trouble) => {
                    self.tell_once(&trouble);
                    None
                }
            },
            Encrypt::Always => Some(self.sealer()?.keys(to)?),
        })
    }

    /// Tells of a mail that goes in clear although there is a key, once for each key.
    fn tell_once(&mut self, trouble: &EncryptError) {
        let words = trouble.to_string();
        if trouble.is_unusable_key() && self.told.insert(words.clone()) {
            warn!("in clear, since there is no usable key: {words}");
        }
    }

    /// The keyring, read once.
    fn sealer(&mut self) -> Result<&mut Sealer, KeyError> {
        if self.sealer.is_none() {
            let signer = self.signer.as_ref();
            self.sealer = Some(Sealer::open(self.home.as_deref(), signer, &self.signing_key)?);
        }
        Ok(self.sealer.as_mut().expect("it was just opened"))
    }
}
