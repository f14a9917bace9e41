//! Detached OpenPGP signatures, made by GnuPG without ever asking a person for anything.
//!
//! A key that can not sign is found when it is opened, by signing something, before there is a
//! mail to be lost over it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use gpgme::{Context, Key, PinentryMode, Protocol};
use jiff::Timestamp;

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
    /// Everything looks well, but signing fails.
    #[error(transparent)]
    Sign(#[from] SignError),
}

fn in_home(home: Option<&Path>) -> String {
    home.map(|home| format!(" in {}", home.display())).unwrap_or_default()
}

/// A key in GnuPG's care that is known to sign.
///
/// It holds a connection that stays in its thread; another thread opens its own.
#[derive(Debug)]
pub struct GpgSigner {
    context: Context,
    fingerprint: String,
    expires_at: Option<Timestamp>,
}

impl GpgSigner {
    /// Opens the secret key that `key` names: by its fingerprint, or by a key id or user id that
    /// only one key answers to. Without `gnupg_home` GnuPG's own default is the keyring.
    ///
    /// Fails for every reason for which a signature would fail, since one is made to find out.
    pub fn open(gnupg_home: Option<&Path>, key: &str) -> Result<Self, KeyError> {
        // GnuPG takes an empty name for every key.
        let name = key.trim();
        if name.is_empty() || name.contains('\0') {
            return Err(KeyError::Unnamed);
        }
        if let Some(path) = gnupg_home {
            fs::read_dir(path)
                .map_err(|source| KeyError::Home { path: path.to_owned(), source })?;
        }
        let mut context = context(gnupg_home).map_err(broken(gnupg_home))?;
        let key = find(&mut context, gnupg_home, name)?;
        let fingerprint = key.fingerprint().unwrap_or(name).to_owned();
        context.add_signer(&key).map_err(broken(gnupg_home))?;

        let mut signer = Self { context, fingerprint, expires_at: None };
        let made_by = match signer.detached(b"Is there a signature?\r\n") {
            Ok((_, made_by)) => made_by,
            Err(error) => return Err(socket_path_too_long(gnupg_home).unwrap_or(error.into())),
        };
        signer.expires_at = expiry(&key, &made_by);
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

    /// A signature, and the fingerprint of the part of the key that made it.
    fn detached(&mut self, bytes: &[u8]) -> Result<(Signature, String), SignError> {
        let mut armored = Vec::new();
        let result = self.context.sign_detached(bytes, &mut armored);
        let failed = |reason: &str| SignError::Gnupg {
            key: self.fingerprint.clone(),
            reason: reason.into(),
        };
        // The agent's ways of saying that it would have to ask.
        let asks = [gpgme::Error::NO_PIN_ENTRY, gpgme::Error::NO_PASSPHRASE].map(|e| e.code());
        let result = result.map_err(|error| {
            if asks.contains(&error.code()) {
                SignError::Passphrase(self.fingerprint.clone())
            } else {
                failed(&error.description())
            }
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

/// A connection to GnuPG that neither asks a person nor the network.
fn context(gnupg_home: Option<&Path>) -> gpgme::Result<Context> {
    let mut context = Context::from_protocol(Protocol::OpenPgp)?;
    if let Some(home) = gnupg_home {
        context.set_engine_home_dir(home.as_os_str().as_encoded_bytes())?;
    }
    context.set_offline(true);
    context.set_pinentry_mode(PinentryMode::Error)?;
    context.set_armor(true);
    Ok(context)
}

/// Finds the one key that `name` means and that may sign.
fn find(context: &mut Context, home: Option<&Path>, name: &str) -> Result<Key, KeyError> {
    let keys = context.find_secret_keys([name]).and_then(Iterator::collect);
    let mut keys: Vec<Key> = keys.map_err(broken(home))?;
    if keys.len() > 1 {
        let fingerprint = |key: &Key| key.fingerprint().unwrap_or("?").to_owned();
        let fingerprints = keys.iter().map(fingerprint).collect();
        return Err(KeyError::Ambiguous { key: name.to_owned(), fingerprints });
    }
    let Some(key) = keys.pop() else {
        let mut public = context.find_keys([name]).map_err(broken(home))?;
        let (key, home_folder) = (name.to_owned(), home.map(Path::to_owned));
        return Err(match public.next() {
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
    Err(unusable(key.fingerprint().unwrap_or(name).to_owned()))
}

/// Makes an error of what GnuPG says, or of what it doesn't say.
fn broken(home: Option<&Path>) -> impl FnOnce(gpgme::Error) -> KeyError {
    move |error| {
        socket_path_too_long(home).unwrap_or_else(|| KeyError::Gnupg {
            home: home.map(Path::to_owned),
            reason: error.description().into_owned(),
        })
    }
}

/// Says so if the agent's socket can't be where GnuPG wants it: `sockaddr_un` has room for 107
/// bytes. GnuPG itself only says that there is no agent, or no secret key.
fn socket_path_too_long(gnupg_home: Option<&Path>) -> Option<KeyError> {
    let gpgconf = ["--list-dirs", "agent-socket"];
    let out = Command::new("gpgconf").arg("--homedir").arg(gnupg_home?).args(gpgconf).output();
    let socket = PathBuf::from(String::from_utf8(out.ok()?.stdout).ok()?.trim_end());
    (socket.as_os_str().len() > 107).then_some(KeyError::SocketPath(socket))
}

/// When the key or its part with the fingerprint `made_by` expires, whichever is first.
fn expiry(key: &Key, made_by: &str) -> Option<Timestamp> {
    let signing = key.subkeys().find(|part| part.fingerprint() == Ok(made_by));
    let times = key.primary_key().into_iter().chain(signing);
    times.filter_map(|part| Timestamp::try_from(part.expiration_time()?).ok()).min()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::process::Stdio;

    use super::*;

    /// A GnuPG home folder whose agent ends with it.
    pub(crate) struct Home(tempfile::TempDir);

    impl Home {
        pub(crate) fn new() -> Self {
            // Not below TMPDIR, whose path can be too long for the agent's socket.
            Self(tempfile::Builder::new().prefix("gpg").tempdir_in("/tmp").unwrap())
        }

        pub(crate) fn with_key(user: &str) -> Self {
            let home = Self::new();
            home.gpg(&["--passphrase", "", "--quick-gen-key", user, "ed25519", "sign", "never"]);
            home
        }

        pub(crate) fn path(&self) -> &Path {
            self.0.path()
        }

        #[track_caller]
        fn gpg(&self, args: &[&str]) -> String {
            self.gpg_with(args, "")
        }

        #[track_caller]
        fn gpg_with(&self, args: &[&str], input: &str) -> String {
            let mut gpg = Command::new("gpg")
                .arg("--homedir")
                .arg(self.path())
                .args(["--batch", "--yes", "--quiet", "--no-tty", "--pinentry-mode", "loopback"])
                .args(args)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            io::Write::write_all(&mut gpg.stdin.take().unwrap(), input.as_bytes()).unwrap();
            let out = gpg.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&out.stderr);
            assert!(out.status.success(), "gpg {args:?}: {said}");
            String::from_utf8_lossy(&out.stdout).into_owned()
        }

        fn fingerprint(&self, user: &str) -> String {
            let listing = self.gpg(&["--with-colons", "--list-keys", user]);
            let line = listing.lines().find(|line| line.starts_with("fpr")).unwrap();
            line.split(':').nth(9).unwrap().to_owned()
        }

        fn open(&self, key: &str) -> Result<GpgSigner, KeyError> {
            GpgSigner::open(Some(self.path()), key)
        }

        #[track_caller]
        fn refusal(&self, key: &str) -> String {
            let message = self.open(key).map(|signer| signer.fingerprint).unwrap_err().to_string();
            assert!(message.starts_with("failed to "), "{message}");
            message
        }
    }

    impl Drop for Home {
        fn drop(&mut self) {
            let home = self.path();
            let _ =
                Command::new("gpgconf").arg("--homedir").arg(home).args(["--kill", "all"]).status();
        }
    }

    #[test]
    fn a_key_is_found_by_fingerprint_key_id_and_user_id_and_signs() {
        let home = Home::with_key("CERT Example <noreply@cert.example>");
        let fingerprint = home.fingerprint("noreply@cert.example");
        let spaced = format!(" {fingerprint} ");
        let long_id = format!("0x{}", &fingerprint[24..]);
        for name in [&fingerprint, &spaced, &long_id, "noreply@cert.example", "CERT Example"] {
            let mut signer = home.open(name).unwrap();
            assert_eq!(signer.fingerprint(), fingerprint);
            assert_eq!(signer.expires_at(), None);
            let signature = signer.sign(b"bytes\r\n").unwrap();
            assert_eq!(signature.micalg, "pgp-sha256");
            assert!(signature.armored.starts_with(b"-----BEGIN PGP SIGNATURE-----\n"));
        }
    }

    #[test]
    fn the_hash_is_the_one_that_was_used() {
        let home = Home::with_key("a@cert.example");
        fs::write(home.path().join("gpg.conf"), "personal-digest-preferences SHA384\n").unwrap();
        assert_eq!(home.open("a@cert.example").unwrap().sign(b"x").unwrap().micalg, "pgp-sha384");
    }

    #[test]
    fn the_day_is_known_on_which_the_key_or_its_signing_part_expires() {
        let home = Home::new();
        let gen_key = |user, until| {
            home.gpg(&["--passphrase", "", "--quick-gen-key", user, "ed25519", "cert", until]);
        };
        gen_key("a@cert.example", "20401231T120000");
        let fingerprint = home.fingerprint("a@cert.example");
        assert!(home.refusal("a@cert.example").contains("none of its parts can sign"));
        let add = |until| {
            home.gpg(&[
                "--passphrase",
                "",
                "--quick-add-key",
                &fingerprint,
                "ed25519",
                "sign",
                until,
            ]);
        };
        add("20381231T120000");
        let expires =
            |home: &Home| home.open("a@cert.example").unwrap().expires_at().unwrap().to_string();
        assert_eq!(expires(&home), "2038-12-31T12:00:00Z");
        home.gpg(&["--quick-set-expire", &fingerprint, "20371231T120000"]);
        assert_eq!(expires(&home), "2037-12-31T12:00:00Z");
    }

    #[test]
    fn a_home_folder_that_is_not_there_is_told() {
        let message = GpgSigner::open(Some(Path::new("/nonexistent/gnupg")), "x").unwrap_err();
        assert!(message.to_string().contains("/nonexistent/gnupg"));
        assert!(message.to_string().contains("openpgp.gnupg_home"));
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(GpgSigner::open(Some(file.path()), "x"), Err(KeyError::Home { .. })));
    }

    #[test]
    fn a_key_that_is_missing_or_has_no_private_part_is_told() {
        let home = Home::with_key("a@cert.example");
        assert!(home.refusal("").contains("is empty"));
        assert!(home.refusal("b@cert.example").starts_with("failed to find the OpenPGP key"));
        let public = home.gpg(&["--armor", "--export", "a@cert.example"]);
        let other = Home::new();
        other.gpg_with(&["--import"], &public);
        assert!(other.refusal("a@cert.example").contains("private part"));
    }

    #[test]
    fn a_name_that_means_two_keys_is_refused_with_both_fingerprints() {
        let home = Home::with_key("one@cert.example");
        home.gpg(&["--passphrase", "", "--quick-gen-key", "two@cert.example", "ed25519", "sign"]);
        let message = home.refusal("cert.example");
        for user in ["one@cert.example", "two@cert.example"] {
            assert!(message.contains(&home.fingerprint(user)), "{message}");
        }
    }

    #[test]
    fn a_key_that_is_expired_revoked_or_disabled_is_told() {
        let home = Home::new();
        home.gpg(&[
            "--faked-system-time",
            "20200101T000000",
            "--passphrase",
            "",
            "--quick-gen-key",
            "old@cert.example",
            "ed25519",
            "sign",
            "1d",
        ]);
        let message = home.refusal("old@cert.example");
        assert!(message.contains("expired") && message.contains("--quick-set-expire"), "{message}");

        let generate = |user| {
            home.gpg(&["--passphrase", "", "--quick-gen-key", user, "ed25519", "sign", "never"]);
            home.fingerprint(user)
        };
        let revoked = generate("revoked@cert.example");
        let certificate = home.path().join(format!("openpgp-revocs.d/{revoked}.rev"));
        let certificate = fs::read_to_string(certificate).unwrap().replace(":-----", "-----");
        home.gpg_with(&["--import"], &certificate);
        assert!(home.refusal("revoked@cert.example").contains("revoked"));

        let disabled = generate("disabled@cert.example");
        home.gpg_with(&["--command-fd", "0", "--edit-key", &disabled], "disable\nsave\n");
        assert!(home.refusal("disabled@cert.example").contains("disabled"));
    }

    #[test]
    fn a_passphrase_is_never_asked_for_but_told() {
        let home = Home::new();
        home.gpg(&[
            "--passphrase",
            "secret",
            "--quick-gen-key",
            "a@cert.example",
            "ed25519",
            "sign",
        ]);
        // The agent may still know it from making the key.
        home.gpg_agent("reloadagent");
        let message = home.refusal("a@cert.example");
        assert!(message.contains("passphrase"), "{message}");
    }

    impl Home {
        fn gpg_agent(&self, command: &str) {
            let done = Command::new("gpg-connect-agent")
                .arg("--homedir")
                .arg(self.path())
                .args([command, "/bye"])
                .output()
                .unwrap();
            assert!(done.status.success());
        }
    }

    #[test]
    fn a_home_folder_whose_path_is_too_long_for_the_agent_is_told() {
        let home = Home::new();
        let long = home.path().join("l".repeat(120));
        fs::create_dir(&long).unwrap();
        let key = Home::with_key("a@cert.example");
        for entry in ["pubring.kbx", "trustdb.gpg"] {
            fs::copy(key.path().join(entry), long.join(entry)).unwrap();
        }
        fs::create_dir(long.join("private-keys-v1.d")).unwrap();
        for entry in fs::read_dir(key.path().join("private-keys-v1.d")).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), long.join("private-keys-v1.d").join(entry.file_name())).unwrap();
        }
        let error = GpgSigner::open(Some(&long), "a@cert.example").unwrap_err();
        assert!(matches!(error, KeyError::SocketPath(_)), "{error}");
    }
}
