//! The way to GnuPG, which is never to ask a person or the network for anything.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use gpgme::{Context, Key, PinentryMode, Protocol};

use super::KeyError;
use super::keyring::meant;

/// A connection to GnuPG that neither asks a person nor the network.
pub(super) fn context(gnupg_home: Option<&Path>) -> Result<Context, KeyError> {
    if let Some(path) = gnupg_home {
        fs::read_dir(path).map_err(|source| KeyError::Home { path: path.to_owned(), source })?;
    }
    let connect = || {
        let mut context = Context::from_protocol(Protocol::OpenPgp)?;
        if let Some(home) = gnupg_home {
            context.set_engine_home_dir(home.as_os_str().as_encoded_bytes())?;
        }
        context.set_offline(true);
        context.set_pinentry_mode(PinentryMode::Error)?;
        context.set_armor(true);
        Ok(context)
    };
    connect().map_err(broken(gnupg_home))
}

/// A key's name as GnuPG takes it; none if it is empty, which GnuPG takes for every key.
pub(super) fn key_name(name: &str) -> Option<&str> {
    Some(name.trim()).filter(|name| !name.is_empty() && !name.contains('\0'))
}

/// The fingerprint of a key's primary part.
pub(super) fn fingerprint(key: &Key) -> String {
    key.fingerprint().unwrap_or("?").to_owned()
}

/// Of the keys that GnuPG found for `name`, the one that is [meant]; `None` if there is none.
pub(super) fn only(
    found: gpgme::Result<Vec<Key>>,
    home: Option<&Path>,
    name: &str,
) -> Result<Option<Key>, KeyError> {
    let mut keys = meant(name, found.map_err(broken(home))?);
    if keys.len() > 1 {
        let fingerprints = keys.iter().map(fingerprint).collect();
        return Err(KeyError::Ambiguous { key: name.to_owned(), fingerprints });
    }
    Ok(keys.pop())
}

/// Makes an error of what GnuPG says, or of what it doesn't say.
pub(super) fn broken(home: Option<&Path>) -> impl FnOnce(gpgme::Error) -> KeyError {
    move |error| {
        socket_path_too_long(home).unwrap_or_else(|| KeyError::Gnupg {
            home: home.map(Path::to_owned),
            reason: error.description().into_owned(),
        })
    }
}

/// Says so if the agent's socket can't be where GnuPG wants it: `sockaddr_un` has room for 107
/// bytes. GnuPG itself only says that there is no agent, or no secret key.
pub(super) fn socket_path_too_long(gnupg_home: Option<&Path>) -> Option<KeyError> {
    let gpgconf = ["--list-dirs", "agent-socket"];
    let out = Command::new("gpgconf").arg("--homedir").arg(gnupg_home?).args(gpgconf).output();
    let socket = PathBuf::from(String::from_utf8(out.ok()?.stdout).ok()?.trim_end());
    (socket.as_os_str().len() > 107).then_some(KeyError::SocketPath(socket))
}
