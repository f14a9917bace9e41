//! Encryption to recipients, with a signature inside or without (RFC 3156, 6.2).

use std::path::{Path, PathBuf};

use gpgme::{Context, EncryptFlags, Key};

use super::gnupg::{broken, context, fingerprint, key_name};
use super::keyring::{Keyring, NoKey, meant, trouble};
use super::signer::{GpgSigner, SignError, sign_error};
use super::{KeyError, in_home};
use crate::address::Address;

/// Why there is no encrypted mail.
#[derive(Debug, thiserror::Error)]
pub enum EncryptError {
    /// There is no key for a recipient.
    #[error(
        "failed to encrypt to {address}: {reason}; ask its owner for a valid key, and import it{} \
         (gpg --import)", in_home(home.as_deref())
    )]
    NoKey {
        /// The recipient.
        address: String,
        /// What is wrong.
        reason: NoKey,
        /// The configured folder.
        home: Option<PathBuf>,
    },
    /// What GnuPG says.
    #[error("failed to encrypt to {to}: {reason}")]
    Gnupg {
        /// The recipients.
        to: String,
        /// The reason in GnuPG's words.
        reason: String,
    },
    /// The signature inside fails.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// The keyring can't be read.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// A keyring with the way to GnuPG, which encrypts.
#[derive(Debug)]
pub(super) struct Sealer {
    context: Context,
    home: Option<PathBuf>,
    pub(super) keyring: Keyring,
    /// Our own key, to which mails are encrypted as well, so that operators can read them.
    pub(super) own: Option<Key>,
    /// The fingerprint of the key that signs inside.
    signed_by: Option<String>,
}

impl Sealer {
    /// Reads the keyring. Without a `signer` nothing is signed, and the key `name`, if there is a
    /// name, is but the one that operators read with.
    pub(super) fn open(
        home: Option<&Path>,
        signer: Option<&GpgSigner>,
        name: &str,
    ) -> Result<Self, KeyError> {
        let mut context = context(home)?;
        let keyring = Keyring::read(&mut context).map_err(broken(home))?;
        let own = match (signer, key_name(name)) {
            (Some(signer), _) => {
                context.add_signer(signer.key()).map_err(broken(home))?;
                Some(signer.key().clone())
            }
            (None, Some(name)) => Some(one_key(&mut context, home, name)?),
            (None, None) => None,
        };
        Ok(Self {
            context,
            home: home.map(Path::to_owned),
            keyring,
            own: own.filter(|key| trouble(key).is_none()),
            signed_by: signer.map(|signer| signer.fingerprint().to_owned()),
        })
    }

    /// The keys of all recipients, or why one has none.
    pub(super) fn keys(&self, to: &[Address]) -> Result<Vec<Key>, EncryptError> {
        let key = |address: &Address| {
            self.keyring.key_for(address).cloned().map_err(|reason| EncryptError::NoKey {
                address: address.as_str().to_owned(),
                reason,
                home: self.home.clone(),
            })
        };
        to.iter().map(key).collect()
    }
}

impl EncryptError {
    /// Whether it is about a key that there is, and that can't be used.
    pub(super) fn is_unusable_key(&self) -> bool {
        matches!(self, Self::NoKey { reason, .. } if *reason != NoKey::Missing)
    }
}

/// The one key that `name` means, for encryption alone.
fn one_key(context: &mut Context, home: Option<&Path>, name: &str) -> Result<Key, KeyError> {
    let keys = context.find_keys([name]).and_then(Iterator::collect);
    let mut keys: Vec<Key> = meant(name, keys.map_err(broken(home))?);
    if keys.len() > 1 {
        let fingerprints = keys.iter().map(fingerprint).collect();
        return Err(KeyError::Ambiguous { key: name.to_owned(), fingerprints });
    }
    let missing = || KeyError::Missing { key: name.to_owned(), home: home.map(Path::to_owned) };
    keys.pop().ok_or_else(missing)
}

/// The encryption of one mail.
#[derive(Debug)]
pub struct Encryption<'a> {
    sealer: &'a mut Sealer,
    to: String,
    keys: Vec<Key>,
}

impl<'a> Encryption<'a> {
    /// With these keys of recipients, and our own.
    pub(super) fn new(sealer: &'a mut Sealer, to: &[Address], mut keys: Vec<Key>) -> Self {
        let to = to.iter().map(Address::as_str).collect::<Vec<_>>().join(", ");
        keys.extend(sealer.own.clone());
        Self { sealer, to, keys }
    }

    /// Signs, if mails are signed, and encrypts: one OpenPGP message in ASCII armour.
    pub fn encrypt(&mut self, bytes: &[u8]) -> Result<Vec<u8>, EncryptError> {
        let Self { sealer, to, keys } = self;
        let mut armored = Vec::new();
        // Whose key it is was for the one to say who imported it: GnuPG would ask. And compressed, the
        // size would tell of how much a text of an attacker's is like another's in the same mail.
        let flags = EncryptFlags::ALWAYS_TRUST | EncryptFlags::NO_COMPRESS;
        let context = &mut sealer.context;
        let done = match &sealer.signed_by {
            None => context.encrypt_with_flags(&*keys, bytes, &mut armored, flags).map(drop),
            Some(_) => {
                context.sign_and_encrypt_with_flags(&*keys, bytes, &mut armored, flags).map(drop)
            }
        };
        done.map_err(|error| {
            let signing = sealer.signed_by.as_deref().and_then(|key| sign_error(key, error));
            signing.map_or_else(
                || EncryptError::Gnupg { to: to.clone(), reason: error.description().into_owned() },
                EncryptError::from,
            )
        })?;
        Ok(armored)
    }
}
