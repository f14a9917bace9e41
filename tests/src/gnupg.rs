//! GnuPG homes with a key that signs, or with one that can't.
//!
//! Each test has a home of its own, below /tmp since the agent's socket has room for 107 bytes. The
//! good key is made once a process and copied, since that is faster than to make one.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::system::copy_folder;
use crate::watchdog;

/// What the keys are for.
pub const USER_ID: &str = "CERT Example <noreply@cert.example>";

/// Options with which a key is made that wants no passphrase.
const WITHOUT_PASSPHRASE: [&str; 4] = ["--pinentry-mode", "loopback", "--passphrase", ""];

/// A GnuPG home, whose agent ends with this value. The folder belongs to whoever made it.
#[derive(Debug)]
pub struct Gnupg {
    home: PathBuf,
    fingerprint: String,
}

impl Gnupg {
    /// A home with a key that can sign.
    pub fn with_key(home: &Path) -> Self {
        static MASTER: OnceLock<(PathBuf, String)> = OnceLock::new();
        let (master, fingerprint) = MASTER.get_or_init(|| {
            let folder = tempfile::TempDir::with_prefix_in("outbox-key-", "/tmp")
                .expect("failed to make a folder")
                .keep();
            watchdog::removes(&folder);
            let made = Self::with_new_key(&folder.join("home"), &[], "", "never");
            // Dropping it ends the agent, so that all is on the disk.
            (made.home.clone(), made.fingerprint.clone())
        });
        copy_folder(master, home);
        Self::new(home, fingerprint.clone())
    }

    /// A home with a key that can sign and decrypt.
    pub fn with_encrypting_key(home: &Path) -> Self {
        let gnupg = Self::with_key(home);
        let part = ["--quick-add-key", &gnupg.fingerprint, "cv25519", "encr", "never"];
        gnupg.run(&[&WITHOUT_PASSPHRASE[..], &part].concat());
        gnupg
    }

    /// A home with a key that can sign for another week.
    pub fn with_key_of_a_week(home: &Path) -> Self {
        Self::with_new_key(home, &[], "", "7d")
    }

    /// A home without any key.
    pub fn without_key(home: &Path) -> Self {
        private_folder(home);
        Self::new(home, "0123456789ABCDEF0123456789ABCDEF01234567".to_owned())
    }

    /// A home with a key that could sign until 2020.
    pub fn with_expired_key(home: &Path) -> Self {
        Self::with_new_key(home, &["--faked-system-time", "20200101T000000!"], "", "1d")
    }

    /// A home with a key that wants to hear a passphrase first.
    pub fn with_protected_key(home: &Path, passphrase: &str) -> Self {
        Self::with_new_key(home, &[], passphrase, "never")
    }

    fn with_new_key(home: &Path, options: &[&str], passphrase: &str, expires: &str) -> Self {
        private_folder(home);
        let mut gnupg = Self::new(home, String::new());
        gnupg.run(
            &[
                options,
                &["--pinentry-mode", "loopback", "--passphrase", passphrase],
                &["--quick-generate-key", USER_ID, "ed25519", "sign", expires],
            ]
            .concat(),
        );
        let keys = gnupg.run(&["--with-colons", "--list-secret-keys"]);
        let fingerprint = keys
            .lines()
            .find_map(|line| line.strip_prefix("fpr:"))
            .and_then(|fields| fields.split(':').find(|field| !field.is_empty()));
        gnupg.fingerprint.push_str(fingerprint.expect("GnuPG lists the key"));
        // The agent remembers the passphrase that it just heard.
        gnupg.end_agent();
        gnupg
    }

    fn new(home: &Path, fingerprint: String) -> Self {
        let gnupg = Self { home: home.to_owned(), fingerprint };
        watchdog::at_end(&format!(
            "[ -d '{0}' ] && gpgconf --homedir '{0}' --kill all",
            home.display()
        ));
        gnupg
    }

    /// The folder: what goes into `openpgp.gnupg_home`.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The key: what goes into `openpgp.signing_key`. Without a key, that of none.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Puts the public key into another person's home, which trusts it.
    pub fn give_public_key(&self, home: &Path) {
        let reader = Self::new(home, self.fingerprint.clone());
        self.give("--export", &reader);
        let trust = home.join("owner-trust");
        fs::write(&trust, format!("{}:6:\n", self.fingerprint)).expect("failed to write the trust");
        reader.run(&["--import-ownertrust", &trust.display().to_string()]);
    }

    /// Puts the private keys into another person's home, as the public one.
    pub fn give_private_keys(&self, home: &Path) {
        self.give("--export-secret-keys", &Self::new(home, self.fingerprint.clone()));
    }

    /// Puts the public keys into another home.
    pub fn give_public_keys(&self, other: &Self) {
        self.give("--export", other);
    }

    fn give(&self, export: &str, other: &Self) {
        let file = other.home.join("keys");
        fs::write(&file, self.run(&["--armor", export])).expect("failed to write the keys");
        other.run(&["--import", &file.display().to_string()]);
    }

    /// Makes a key of a recipient, private part and all.
    pub fn add_recipient(&self, user_id: &str) {
        let key = ["--quick-generate-key", user_id, "future-default", "-", "never"];
        self.run(&[&WITHOUT_PASSPHRASE[..], &key].concat());
    }

    /// Makes a key of a recipient that is expired.
    pub fn add_expired_recipient(&self, user_id: &str) {
        let time = ["--faked-system-time", "20200101T000000!"];
        let key = ["--quick-generate-key", user_id, "future-default", "-", "1d"];
        self.run(&[&time[..], &WITHOUT_PASSPHRASE, &key].concat());
    }

    /// What gpg makes of an encrypted mail of ours: what is inside, and its status lines.
    ///
    /// Panics if the mail is none, or if there is no key here that decrypts it.
    pub fn decrypt(&self, mail: &Path) -> (String, String) {
        let text = fs::read_to_string(mail).expect("a mail of ours is ASCII");
        assert!(text.contains("\nContent-Type: multipart/encrypted; "), "{text}");
        let status = self.home.join("status");
        let message = self.home.join("message");
        let armor = text.find("-----BEGIN PGP MESSAGE").expect("there is a message");
        fs::write(&message, &text[armor..]).expect("failed to write a message");
        let (status_file, message) = (status.display().to_string(), message.display().to_string());
        let inside = self.run(&["--status-file", &status_file, "--decrypt", &message]);
        (inside, fs::read_to_string(status).expect("gpg writes its status"))
    }

    fn run(&self, arguments: &[&str]) -> String {
        let output = Command::new("gpg")
            .arg("--homedir")
            .arg(&self.home)
            .args(["--batch", "--quiet"])
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("failed to run gpg");
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "gpg {arguments:?}: {words}");
        String::from_utf8(output.stdout).expect("gpg writes UTF-8")
    }

    fn end_agent(&self) {
        let _ = Command::new("gpgconf")
            .arg("--homedir")
            .arg(&self.home)
            .args(["--kill", "all"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}

impl Drop for Gnupg {
    fn drop(&mut self) {
        self.end_agent();
    }
}

fn private_folder(path: &Path) {
    fs::DirBuilder::new().mode(0o700).create(path).expect("failed to make the GnuPG home");
}
