//! Recipients' keys: which one is for an address, or why there is none.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::time::SystemTime;

use gpgme::{Context, Key};

use super::gnupg::fingerprint;
use crate::address::Address;

/// Why there is no key for an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoKey {
    /// None has it in a user id.
    Missing,
    /// The key with this fingerprint has, the newest of them if there are several, but its owner
    /// revoked it.
    Revoked(String),
    /// Its time is over.
    Expired(String),
    /// It was switched off in this keyring.
    Disabled(String),
    /// GnuPG finds it damaged.
    Invalid(String),
    /// It has no part that encrypts, or none that is still valid.
    CanNotEncrypt(String),
}

impl fmt::Display for NoKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => write!(f, "there is no key for it in the keyring"),
            Self::Revoked(key) => write!(f, "its key {key} is revoked"),
            Self::Expired(key) => write!(f, "its key {key} is expired"),
            Self::Disabled(key) => write!(f, "its key {key} is disabled"),
            Self::Invalid(key) => write!(f, "its key {key} is damaged"),
            Self::CanNotEncrypt(key) => write!(
                f,
                "its key {key} has no part that encrypts (none at all, or it is expired or revoked)"
            ),
        }
    }
}

/// The keys of a keyring by the addresses in their user ids, as they were when it was read.
#[derive(Debug)]
pub struct Keyring {
    keys: HashMap<String, Choice>,
}

/// The key for an address so far.
#[derive(Debug)]
struct Choice {
    address: Address,
    key: Key,
    trouble: Option<NoKey>,
}

impl Choice {
    /// What counts when there are several: those that can be used, the newest of them.
    fn rank(&self) -> (bool, Option<SystemTime>, String) {
        let made = self.key.primary_key().and_then(|primary| primary.creation_time());
        (self.trouble.is_none(), made, fingerprint(&self.key))
    }
}

impl Keyring {
    /// Reads all of it, which is one call of GnuPG however many recipients there are, and leaves
    /// the comparing to us: GnuPG finds `abuse@isp.example` in `xabuse@isp.example` as well.
    pub(super) fn read(context: &mut Context) -> gpgme::Result<Self> {
        let mut keys = HashMap::new();
        for key in context.keys()? {
            let key = key?;
            let trouble = trouble(&key);
            for address in addresses(&key) {
                let choice = Choice { address, key: key.clone(), trouble: trouble.clone() };
                match keys.entry(comparable(&choice.address)) {
                    Entry::Vacant(free) => _ = free.insert(choice),
                    Entry::Occupied(mut other) if other.get().rank() < choice.rank() => {
                        other.insert(choice);
                    }
                    Entry::Occupied(_) => (),
                }
            }
        }
        Ok(Self { keys })
    }

    /// The key to encrypt with to an address.
    pub(super) fn key_for(&self, address: &Address) -> Result<&Key, NoKey> {
        let choice = self.keys.get(&comparable(address)).ok_or(NoKey::Missing)?;
        match &choice.trouble {
            None => Ok(&choice.key),
            Some(trouble) => Err(trouble.clone()),
        }
    }

    /// The addresses to which mails can be encrypted.
    pub(super) fn usable(&self) -> impl Iterator<Item = &Address> {
        self.keys.values().filter(|choice| choice.trouble.is_none()).map(|choice| &choice.address)
    }
}

/// Of the keys that GnuPG finds by a name, those that the name means. For an address GnuPG finds each
/// key in whose user ids it stands, also as the end of another address.
pub(super) fn meant(name: &str, mut keys: Vec<Key>) -> Vec<Key> {
    if let Ok(address) = name.trim_matches(['<', '>']).parse::<Address>() {
        let is_own = |own: Address| comparable(&own) == comparable(&address);
        keys.retain(|key| addresses(key).any(is_own));
    }
    keys
}

/// An address as it is compared: in lower case, also before the `@`, where hardly any system
/// tells cases apart.
pub(super) fn comparable(address: &Address) -> String {
    address.as_str().to_lowercase()
}

/// Why a key can't be used to encrypt.
pub(super) fn trouble(key: &Key) -> Option<NoKey> {
    let trouble = if key.is_revoked() {
        NoKey::Revoked
    } else if key.is_expired() {
        NoKey::Expired
    } else if key.is_disabled() {
        NoKey::Disabled
    } else if key.is_invalid() {
        NoKey::Invalid
    } else if !key.subkeys().any(|part| part.can_encrypt() && !part.is_bad()) {
        NoKey::CanNotEncrypt
    } else {
        return None;
    };
    Some(trouble(fingerprint(key)))
}

/// The addresses that a key is for. What is no address that a mail could go to is left
/// out, and so is a user id that its owner took back; when all of the key is revoked, GnuPG says that
/// of each.
pub(super) fn addresses(key: &Key) -> impl Iterator<Item = Address> {
    let revoked = key.is_revoked();
    let valid =
        key.user_ids().filter(move |user| revoked || !(user.is_revoked() || user.is_invalid()));
    valid.filter_map(|user| {
        let text = user.address().or_else(|_| user.email()).ok()?;
        text.parse().ok()
    })
}
