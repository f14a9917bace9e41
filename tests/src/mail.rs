//! Mails as others read them: bytes for the little that is compared bytewise, Python's `email`
//! package and `gpg` for what a receiver makes of them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

/// A mail as Python's `email` and `gpg --verify` see it. See `read_mails.py`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadMail {
    /// The header's fields but `Received` and such, decoded, by their names in lower case.
    pub header: std::collections::BTreeMap<String, String>,
    /// The content type of the whole.
    pub content_type: String,
    /// The text, decoded.
    pub text: String,
    /// The attachment, decoded, by its file name.
    pub attachment: Option<(String, String)>,
    /// What Python found wrong, in any part.
    pub defects: Vec<String>,
    /// Fingerprint of the key that signed it, if gpg says the signature is good.
    pub signed_by: Option<String>,
    /// What gpg said.
    pub gpg: String,
}

/// Reads mails in the order of their files. Signatures are checked with the keys in `gnupg_home`;
/// without one no mail may be signed.
///
/// Panics where a file is no mail at all.
pub fn read(files: &[PathBuf], gnupg_home: Option<&Path>) -> Vec<ReadMail> {
    judge(include_str!("read_mails.py"), files, gnupg_home)
}

/// What a script in Python says of each of these files, as a list in JSON. It is given the GnuPG home, or
/// an empty text, and then the files.
///
/// Panics where it fails.
pub fn judge<T: DeserializeOwned>(
    script: &str,
    files: &[PathBuf],
    gnupg_home: Option<&Path>,
) -> Vec<T> {
    let output = Command::new("python3")
        .args(["-c", script])
        .arg(gnupg_home.unwrap_or(Path::new("")))
        .args(files)
        .stdin(Stdio::null())
        .output()
        .expect("failed to run python3");
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "failed to read mails: {words}");
    let mails: Vec<T> = serde_json::from_slice(&output.stdout).expect("it writes JSON");
    assert_eq!(mails.len(), files.len());
    mails
}

/// The value of a header field that is not folded; the name in any case.
pub fn header(mail: &[u8], name: &str) -> Option<String> {
    let header = String::from_utf8_lossy(mail);
    let header = header.split("\r\n\r\n").next()?.split("\n\n").next()?.to_owned();
    header.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    })
}

/// The part of a `multipart/signed` that is signed, with CRLF line ends, which a Maildir need not
/// keep.
///
/// Panics if the mail is none.
pub fn signed_part(mail: &[u8]) -> Vec<u8> {
    let text = String::from_utf8(mail.to_vec()).expect("a mail of ours is ASCII");
    let text = text.replace("\r\n", "\n").replace('\n', "\r\n");
    let (_, boundary) = text.split_once("; boundary=\"=_signed_").expect("it is multipart/signed");
    let (boundary, _) = boundary.split_once('"').expect("the boundary is quoted");
    let delimiter = format!("\r\n--=_signed_{boundary}\r\n");
    let parts: Vec<&str> = text.split(&delimiter).collect();
    assert_eq!(parts.len(), 3, "a header and two parts");
    parts[1].as_bytes().to_vec()
}

/// SHA-256 as hex digits.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}
