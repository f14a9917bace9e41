//! The Autocrypt header: our key, for clients that pick up keys from mails (Autocrypt, level 1).

use std::path::Path;

use gpgme::{Context, ExportMode, Key};

use super::KeyError;
use super::gnupg::{broken, fingerprint};
use super::keyring::{addresses, comparable, trouble};
use crate::address::Address;

/// Clients need not read a longer header.
const LONGEST: usize = 10 * 1024;

/// The header's value, with a space wherever a line may end.
///
/// It does not say `prefer-encrypt=mutual`: whether a notification is to be answered encrypted is
/// for who answers it to decide.
pub(super) fn header(
    context: &mut Context,
    home: Option<&Path>,
    key: &Key,
    sender: &Address,
) -> Result<String, KeyError> {
    let refuse = |reason| KeyError::Autocrypt { key: fingerprint(key), reason };
    if addresses(key).all(|address| comparable(&address) != comparable(sender)) {
        return Err(refuse(format!(
            "none of its user ids has the address of the sender, {sender}"
        )));
    }
    if trouble(key).is_some() {
        return Err(refuse("none of its parts can encrypt now (gpg --quick-add-key)".to_owned()));
    }
    let mut armored = Vec::new();
    context.export_keys([key], ExportMode::MINIMAL, &mut armored).map_err(broken(home))?;
    let value = format!("addr={sender}; keydata={}", base64(&String::from_utf8_lossy(&armored)));
    if value.len() > LONGEST {
        return Err(refuse(format!(
            "it is too large for a header, {} octets in base64; take a key of an elliptic curve, \
             with few user ids and no photo",
            value.len()
        )));
    }
    Ok(value)
}

/// What stands in ASCII armour (RFC 9580, 6.2) between its header and its checksum.
fn base64(armored: &str) -> String {
    let lines = armored.lines().skip_while(|line| !line.is_empty());
    let lines = lines.skip(1).take_while(|line| !line.starts_with(['=', '-']));
    lines.collect::<Vec<_>>().join(" ")
}
