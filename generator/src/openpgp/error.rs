//! Why a key can't be used, in words that say what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use super::SignError;

/// Why a key can't be used. Each says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The configuration names no key.
    #[error("failed to choose an OpenPGP key: openpgp.signing_key is empty; name a fingerprint")]
    Unnamed,
    /// The folder with the keys can't be read.
    #[error(
        "failed to read the GnuPG home folder {}; openpgp.gnupg_home must name a folder that \
         belongs to the user who runs this", path.display()
    )]
    Home {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// GnuPG can't be talked to at all.
    #[error("failed to use GnuPG{}: {reason}; is gpg installed?", in_home(home.as_deref()))]
    Gnupg {
        /// The configured folder.
        home: Option<PathBuf>,
        /// The reason in GnuPG's words.
        reason: String,
    },
    /// The agent can't make its socket.
    #[error(
        "failed to start gpg-agent: the path of its socket, {}, has more than 107 bytes; choose a \
         shorter openpgp.gnupg_home, or have /run/user/UID made and run gpgconf --create-socketdir",
        .0.display()
    )]
    SocketPath(PathBuf),
    /// There is no such key.
    #[error(
        "failed to find the OpenPGP key {key:?}{}; see gpg --list-secret-keys for what is there",
        in_home(home.as_deref())
    )]
    Missing {
        /// The key as it was named.
        key: String,
        /// The configured folder.
        home: Option<PathBuf>,
    },
    /// The key is there but can't sign, since its private part isn't.
    #[error(
        "failed to find the private part of the OpenPGP key {key:?}{}; import it there with gpg \
         --import", in_home(home.as_deref())
    )]
    OnlyPublic {
        /// The key as it was named.
        key: String,
        /// The configured folder.
        home: Option<PathBuf>,
    },
    /// More than one key answers to the name.
    #[error(
        "failed to choose an OpenPGP key: {key:?} means {}; name one by its fingerprint",
        fingerprints.join(" or ")
    )]
    Ambiguous {
        /// The key as it was named.
        key: String,
        /// The keys that it can mean.
        fingerprints: Vec<String>,
    },
    /// Its owner revoked it.
    #[error("failed to use the OpenPGP key {0}: it is revoked; configure another one")]
    Revoked(String),
    /// Its time is over.
    #[error(
        "failed to use the OpenPGP key {0}: it is expired; extend it (gpg --quick-set-expire {0} \
         1y) and publish it again, or configure another one"
    )]
    Expired(String),
    /// It was switched off in this keyring.
    #[error(
        "failed to use the OpenPGP key {0}: it is disabled; switch it on again (gpg --edit-key {0} \
         enable) or configure another one"
    )]
    Disabled(String),
    /// It has no part that signs, or none that is still valid.
    #[error(
        "failed to use the OpenPGP key {0}: none of its parts can sign now; add a signing subkey \
         (gpg --quick-add-key {0} default sign) or configure another one"
    )]
    CanNotSign(String),
    /// It can't stand in an Autocrypt header.
    #[error(
        "failed to make an Autocrypt header (openpgp.autocrypt) of the OpenPGP key {key}: {reason}"
    )]
    Autocrypt {
        /// The fingerprint of the key.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// Everything looks well, but signing fails.
    #[error(transparent)]
    Sign(#[from] SignError),
}

pub(super) fn in_home(home: Option<&Path>) -> String {
    home.map(|home| format!(" in {}", home.display())).unwrap_or_default()
}
