//! Signatures.
//!
//! A key that can not sign is found when it is opened, by signing something, before there is a
//! mail to be lost over it.

use std::path::Path;

use gpgme::{Context, Key};
use jiff::{SignedDuration, Timestamp};

use super::KeyError;
use super::gnupg::{broken, context, fingerprint, key_name, only, socket_path_too_long};
use super::keyring::meant;

/// How long before a key's end there is time to act.
const NOTICE: SignedDuration = SignedDuration::from_hours(30 * 24);

/// Something that signs the bytes of a mail's part.
pub trait Signer {
    /// A detached signature of exactly these bytes.
    fn sign(&mut self, bytes: &[u8]) -> Result<Signature, SignError>;
}

/// A detached signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// The signature in ASCII armour (RFC 9580, 6).
    pub armored: Vec<u8>,
    /// How the hash that was used is called in `multipart/signed`, such as `pgp-sha512` (RFC 3156,
    /// 5).
    pub micalg: String,
}

/// Why there is no signature.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SignError {
    /// What GnuPG says.
    #[error("failed to sign with the OpenPGP key {key}: {reason}")]
    Gnupg {
        /// Fingerprint of the key.
        key: String,
        /// The reason in GnuPG's words.
        reason: String,
    },
    /// It is protected by a passphrase, and the agent doesn't know it.
    #[error(
        "failed to sign with the OpenPGP key {0}: it is protected by a passphrase, which nobody \
         is there to enter; use a key without one (gpg --edit-key {0} passwd)"
    )]
    Passphrase(String),
}

/// A key in GnuPG's care that is known to sign.
///
/// It holds a connection that stays in its thread; another thread opens its own.
#[derive(Debug)]
pub struct GpgSigner {
    context: Context,
    key: Key,
    fingerprint: String,
    expires_at: Option<Timestamp>,
}

impl GpgSigner {
    /// Opens the secret key that `key` names: by its fingerprint, or by a key id or user id that
    /// only one key answers to. Without `gnupg_home` GnuPG's own default is the keyring.
    ///
    /// Fails for every reason for which a signature would fail, since one is made to find out.
    pub fn open(gnupg_home: Option<&Path>, key: &str) -> Result<Self, KeyError> {
        let name = key_name(key).ok_or(KeyError::Unnamed)?;
        let mut context = context(gnupg_home)?;
        let key = find(&mut context, gnupg_home, name)?;
        context.add_signer(&key).map_err(broken(gnupg_home))?;

        let fingerprint = fingerprint(&key);
        let mut signer = Self { context, key, fingerprint, expires_at: None };
        let made_by = match signer.detached(b"Is there a signature?\r\n") {
            Ok((_, made_by)) => made_by,
            Err(error) => return Err(socket_path_too_long(gnupg_home).unwrap_or(error.into())),
        };
        signer.expires_at = expiry(&signer.key, &made_by);
        Ok(signer)
    }

    /// The fingerprint of the primary key.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// When the key, or its part that signs, expires; `None` if neither ever does.
    pub fn expires_at(&self) -> Option<Timestamp> {
        self.expires_at
    }

    /// When the key expires, if that is within the next 30 days.
    pub fn expires_soon(&self, now: Timestamp) -> Option<Timestamp> {
        self.expires_at.filter(|until| until.duration_since(now) <= NOTICE)
    }

    /// The key.
    pub(super) fn key(&self) -> &Key {
        &self.key
    }

    /// A signature, and the fingerprint of the part of the key that made it.
    fn detached(&mut self, bytes: &[u8]) -> Result<(Signature, String), SignError> {
        let mut armored = Vec::new();
        let result = self.context.sign_detached(bytes, &mut armored);
        let failed = |reason: &str| SignError::Gnupg {
            key: self.fingerprint.clone(),
            reason: reason.into(),
        };
        let result = result.map_err(|error| {
            sign_error(&self.fingerprint, error).unwrap_or_else(|| failed(&error.description()))
        })?;
        let made = result.new_signatures().next();
        let made = made.ok_or_else(|| failed("GnuPG reports success and no signature"))?;
        let hash = made.hash_algorithm().name().map_err(|_| failed("its hash has no name"))?;
        let micalg = format!("pgp-{}", hash.to_ascii_lowercase());
        let made_by = made.fingerprint().unwrap_or_default().to_owned();
        Ok((Signature { armored, micalg }, made_by))
    }
}

impl Signer for GpgSigner {
    fn sign(&mut self, bytes: &[u8]) -> Result<Signature, SignError> {
        self.detached(bytes).map(|(signature, _)| signature)
    }
}

/// Says so if an error means that the agent would have to ask for the key's passphrase.
pub(super) fn sign_error(fingerprint: &str, error: gpgme::Error) -> Option<SignError> {
    let asks = [gpgme::Error::NO_PIN_ENTRY, gpgme::Error::NO_PASSPHRASE].map(|e| e.code());
    asks.contains(&error.code()).then(|| SignError::Passphrase(fingerprint.to_owned()))
}

/// Finds the one key that `name` means and that may sign.
fn find(context: &mut Context, home: Option<&Path>, name: &str) -> Result<Key, KeyError> {
    let keys = context.find_secret_keys([name]).and_then(Iterator::collect);
    let Some(key) = only(keys, home, name)? else {
        let public = context.find_keys([name]).and_then(Iterator::collect);
        let public = meant(name, public.map_err(broken(home))?);
        let (key, home_folder) = (name.to_owned(), home.map(Path::to_owned));
        return Err(match public.first() {
            None => KeyError::Missing { key, home: home_folder },
            // Without an agent every key looks so.
            Some(_) => socket_path_too_long(home)
                .unwrap_or(KeyError::OnlyPublic { key, home: home_folder }),
        });
    };
    let unusable = if key.is_revoked() {
        KeyError::Revoked
    } else if key.is_expired() {
        KeyError::Expired
    } else if key.is_disabled() {
        KeyError::Disabled
    } else if !key.can_sign() {
        KeyError::CanNotSign
    } else {
        return Ok(key);
    };
    Err(unusable(fingerprint(&key)))
}

/// When the key or its part with the fingerprint `made_by` expires, whichever is first.
fn expiry(key: &Key, made_by: &str) -> Option<Timestamp> {
    let signing = key.subkeys().find(|part| part.fingerprint() == Ok(made_by));
    let times = key.primary_key().into_iter().chain(signing);
    times.filter_map(|part| Timestamp::try_from(part.expiration_time()?).ok()).min()
}
