//! GnuPG homes for tests, and which keys are taken or refused for what.

use std::path::Path;
use std::process::{Command, Stdio};
use std::{fs, io};

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

    /// Makes a key that signs, and encrypts with a part of its own.
    pub(crate) fn add(&self, user: &str) -> String {
        self.gpg(&["--passphrase", "", "--quick-gen-key", user, "future-default", "-", "never"]);
        self.fingerprint(user)
    }

    fn revoke(&self, fingerprint: &str) {
        let certificate = self.path().join(format!("openpgp-revocs.d/{fingerprint}.rev"));
        let certificate = fs::read_to_string(certificate).unwrap().replace(":-----", "-----");
        self.gpg_with(&["--import"], &certificate);
    }

    fn disable(&self, fingerprint: &str) {
        self.gpg_with(&["--command-fd", "0", "--edit-key", fingerprint], "disable\nsave\n");
    }

    /// The public keys, for another home.
    pub(crate) fn give_to(&self, other: &Self) {
        other.gpg_with(&["--import"], &self.gpg(&["--armor", "--export"]));
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    #[track_caller]
    pub(crate) fn gpg(&self, args: &[&str]) -> String {
        self.gpg_with(args, "")
    }

    #[track_caller]
    pub(crate) fn gpg_with(&self, args: &[&str], input: &str) -> String {
        let mut gpg = Command::new("gpg")
            .arg("--homedir")
            .arg(self.path())
            .args(["--batch", "--yes", "--quiet", "--no-tty", "--pinentry-mode", "loopback"])
            // Whatever the locale of who runs the tests says.
            .arg("--utf8-strings")
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

    pub(crate) fn fingerprint(&self, user: &str) -> String {
        let listing = self.gpg(&["--with-colons", "--list-keys", user]);
        let line = listing.lines().find(|line| line.starts_with("fpr")).unwrap();
        line.split(':').nth(9).unwrap().to_owned()
    }

    fn open(&self, key: &str) -> Result<GpgSigner, KeyError> {
        GpgSigner::open(Some(self.path()), key)
    }

    #[track_caller]
    fn refusal(&self, key: &str) -> String {
        let message = self.open(key).unwrap_err().to_string();
        assert!(message.starts_with("failed to "), "{message}");
        message
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let home = self.path();
        let _ = Command::new("gpgconf").arg("--homedir").arg(home).args(["--kill", "all"]).status();
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
        home.gpg(&["--passphrase", "", "--quick-add-key", &fingerprint, "ed25519", "sign", until]);
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
    home.gpg(&["--passphrase", "secret", "--quick-gen-key", "a@cert.example", "ed25519", "sign"]);
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

/// What becomes of mails from this home, whose configuration is `{"always_sign": false}` but for
/// these keys.
fn openpgp(home: &Home, settings: &str) -> Result<OpenPgp, KeyError> {
    let mut json: serde_json::Value = serde_json::from_str(settings).unwrap();
    json["gnupg_home"] = home.path().to_str().unwrap().into();
    if json["always_sign"].is_null() {
        json["always_sign"] = false.into();
    }
    let settings = serde_json::from_value(json).unwrap();
    OpenPgp::open(&settings, &"noreply@cert.example".parse().unwrap())
}

const ALWAYS: &str = r#"{"encrypt": "always"}"#;

/// The fingerprints of the keys to encrypt with, or why there are none.
fn keys(home: &Home, settings: &str, to: &str) -> Result<Option<Vec<String>>, String> {
    let to = crate::address::recipients(to).unwrap();
    let keys = openpgp(home, settings).unwrap().keys(None, &to).map_err(|e| e.to_string())?;
    Ok(keys.map(|keys| keys.iter().map(gnupg::fingerprint).collect()))
}

/// The one key for an address.
#[track_caller]
fn key(home: &Home, to: &str) -> String {
    keys(home, ALWAYS, to).unwrap().unwrap().remove(0)
}

/// Why there is none.
#[track_caller]
fn no_key(home: &Home, to: &str) -> String {
    let message = keys(home, ALWAYS, to).unwrap_err();
    assert!(message.starts_with(&format!("failed to encrypt to {to}: ")), "{message}");
    assert!(message.contains(home.path().to_str().unwrap()), "{message}");
    message
}

#[test]
fn a_recipients_key_is_found_by_exactly_the_address_in_a_user_id() {
    let home = Home::new();
    home.add("Other <xabuse@isp.example>");
    home.add("Other <abuse@isp.example.org>");
    home.add("abuse at isp <other@isp.example> (abuse@isp.example)");
    assert!(no_key(&home, "abuse@isp.example").contains("there is no key for it"));
    let right = home.add("ISP Abuse <ABUSE@ISP.example>");
    for spelling in ["abuse@isp.example", "Abuse@isp.example", "ABUSE@ISP.EXAMPLE"] {
        assert_eq!(key(&home, spelling), right);
    }
    let bare = home.add("bare@isp.example");
    assert_eq!(key(&home, "bare@isp.example"), bare);
    let second = home.add("First <first@isp.example>");
    home.gpg(&["--quick-add-uid", &second, "Second <second@isp.example>"]);
    assert_eq!(key(&home, "second@isp.example"), second);
    home.gpg(&["--quick-revoke-uid", &second, "Second <second@isp.example>"]);
    assert!(no_key(&home, "second@isp.example").contains("there is no key for it"));
    assert_eq!(key(&home, "first@isp.example"), second);
}

#[test]
fn a_domain_is_the_same_as_it_is_read_and_as_it_is_sent() {
    let home = Home::new();
    let read = home.add("Bücher <abuse@bücher.example>");
    let sent = home.add("Straße <abuse@xn--strae-oqa.example>");
    for (spelling, expected) in [
        ("abuse@bücher.example", &read),
        ("abuse@xn--bcher-kva.example", &read),
        ("abuse@BÜCHER.example", &read),
        ("abuse@straße.example", &sent),
        ("abuse@xn--strae-oqa.example", &sent),
    ] {
        assert_eq!(&key(&home, spelling), expected, "{spelling}");
    }
}

#[test]
fn the_newest_key_that_is_usable_is_taken() {
    let home = Home::new();
    let at = |time: &str, expires: &str| {
        let user = "Abuse <abuse@isp.example>";
        let listed = |home: &Home| -> Vec<String> {
            let list = home.gpg(&["--with-colons", "--list-keys"]);
            let lines: Vec<_> = list.lines().collect();
            let primary = lines.windows(2).filter(|pair| pair[0].starts_with("pub"));
            primary.map(|pair| pair[1].split(':').nth(9).unwrap().to_owned()).collect()
        };
        let before = listed(&home);
        home.gpg(&[
            "--faked-system-time",
            &format!("{time}T000000!"),
            "--passphrase",
            "",
            "--quick-gen-key",
            user,
            "future-default",
            "-",
            expires,
        ]);
        listed(&home).into_iter().find(|key| !before.contains(key)).unwrap()
    };
    let middle = at("20220101", "never");
    assert_eq!(key(&home, "abuse@isp.example"), middle);
    at("20200101", "never");
    assert_eq!(key(&home, "abuse@isp.example"), middle, "an older one is not taken");
    let newest = at("20240101", "never");
    assert_eq!(key(&home, "abuse@isp.example"), newest);
    at("20250101", "2d");
    assert_eq!(key(&home, "abuse@isp.example"), newest, "an expired one is not taken");
    home.revoke(&newest);
    assert_eq!(key(&home, "abuse@isp.example"), middle);
}

#[test]
fn a_recipients_key_that_can_not_be_used_is_told_with_the_reason() {
    let home = Home::with_key("Signs <signs@isp.example>");
    assert!(no_key(&home, "signs@isp.example").contains("has no part that encrypts"));

    let in_2020 = |args: &[&str]| {
        home.gpg(&[&["--faked-system-time", "20200101T000000!", "--passphrase", ""], args].concat())
    };
    in_2020(&["--quick-gen-key", "expired@isp.example", "future-default", "-", "1d"]);
    let expired = home.fingerprint("expired@isp.example");
    let message = no_key(&home, "expired@isp.example");
    assert!(message.contains(&format!("its key {expired} is expired")), "{message}");

    in_2020(&["--quick-gen-key", "part@isp.example", "ed25519", "sign", "never"]);
    let part = home.fingerprint("part@isp.example");
    in_2020(&["--quick-add-key", &part, "cv25519", "encr", "1d"]);
    assert!(no_key(&home, "part@isp.example").contains("has no part that encrypts"));
    home.gpg(&["--passphrase", "", "--quick-add-key", &part, "cv25519", "encr", "never"]);
    assert_eq!(key(&home, "part@isp.example"), part);

    let revoked = home.add("revoked@isp.example");
    home.revoke(&revoked);
    assert!(no_key(&home, "revoked@isp.example").contains("is revoked"));

    let disabled = home.add("disabled@isp.example");
    home.disable(&disabled);
    assert!(no_key(&home, "disabled@isp.example").contains("is disabled"));
}

#[test]
fn if_there_must_be_a_key_it_is_one_for_each_recipient() {
    let home = Home::new();
    let (a, b) = (home.add("a@isp.example"), home.add("b@isp.example"));
    let if_key = r#"{"encrypt": "if-key"}"#;
    let both = Some(vec![a, b]);
    for settings in [ALWAYS, if_key] {
        assert_eq!(keys(&home, settings, "a@isp.example, b@isp.example").unwrap(), both);
    }
    assert_eq!(keys(&home, if_key, "a@isp.example, c@isp.example").unwrap(), None);
    let message = keys(&home, ALWAYS, "a@isp.example, c@isp.example").unwrap_err();
    assert!(message.starts_with("failed to encrypt to c@isp.example: there is no key"));
    assert_eq!(keys(&home, "{}", "a@isp.example").unwrap(), None);
    let never = r#"{"encrypt": "always", "encrypt_for": {"never": ["a@*"]}}"#;
    assert_eq!(keys(&home, never, "a@isp.example").unwrap(), None);
}

#[test]
fn a_format_has_its_say_and_the_keyring_is_read_then() {
    let home = Home::new();
    let a = home.add("a@isp.example");
    let to = ["a@isp.example".parse().unwrap()];
    let mut openpgp = openpgp(&home, "{}").unwrap();
    assert!(openpgp.keys(None, &to).unwrap().is_none());
    let keys = openpgp.keys(Some(Encrypt::Always), &to).unwrap().unwrap();
    assert_eq!(keys[0].fingerprint(), Ok(a.as_str()));
}

#[test]
fn a_keyring_that_can_not_be_read_is_told_before_there_is_a_mail() {
    let settings = |key: &str| {
        let json =
            format!(r#"{{"always_sign": false, "gnupg_home": "/nonexistent/gnupg", {key}}}"#);
        OpenPgp::open(&serde_json::from_str(&json).unwrap(), &"a@cert.example".parse().unwrap())
    };
    assert!(matches!(settings(r#""encrypt": "if-key""#), Err(KeyError::Home { .. })));
    settings(r#""encrypt": "never""#).expect("nothing is to be read");
}

#[test]
fn a_key_that_is_gone_when_it_is_needed_is_told_with_the_recipients() {
    let home = Home::with_key("a@isp.example");
    let key = home.add("b@isp.example");
    let mut openpgp = openpgp(&home, ALWAYS).unwrap();
    let to = ["b@isp.example".parse().unwrap()];
    let Wrapping::Encryption(mut encryption) = openpgp.protection(None, &to).unwrap().wrapping
    else {
        panic!("it is to be encrypted");
    };
    home.gpg(&["--delete-secret-and-public-key", &key]);
    let message = encryption.encrypt(b"Text\r\n").unwrap_err().to_string();
    assert!(message.starts_with("failed to encrypt to b@isp.example: "), "{message}");
}

#[test]
fn who_may_not_read_the_keyring_can_look_all_the_same() {
    let look = |home: &Path| {
        let json =
            format!(r#"{{"always_sign": true, "encrypt": "always", "gnupg_home": {home:?}}}"#);
        let mut openpgp = OpenPgp::to_look(Some(&serde_json::from_str(&json).unwrap()));
        openpgp.rehearse(None, &["a@isp.example".parse().unwrap()])
    };
    assert!(look(Path::new("/nonexistent/gnupg")).is_ok());
    let home = Home::new();
    assert!(matches!(look(home.path()), Err(EncryptError::NoKey { .. })));
    home.add("a@isp.example");
    assert!(look(home.path()).is_ok());
}

#[test]
fn check_says_who_gets_encrypted_mails_and_what_is_wrong() {
    let home = Home::new();
    let ours = home.add("CERT Example <noreply@cert.example>");
    home.add("a@ministry.example");
    let report = |more: &str| {
        let json = format!(
            r#"{{"always_sign": true, "signing_key": "{ours}", "gnupg_home": {:?}{more}}}"#,
            home.path()
        );
        let settings: OpenPgpSettings = serde_json::from_str(&json).unwrap();
        let mut openpgp =
            OpenPgp::open(&settings, &"noreply@cert.example".parse().unwrap()).unwrap();
        openpgp.report(&settings, outbox::now()).map_err(|error| error.to_string())
    };
    assert_eq!(
        report("").unwrap(),
        format!(
            "{ours} signs without asking; expires: never; mails are not encrypted, unless a format \
             says so"
        )
    );
    let all = r#", "encrypt": "if-key", "protected_headers": true, "autocrypt": true,
        "encrypt_for": {"always": ["*@ministry.example"], "if-key": ["*@isp.example"]}"#;
    assert_eq!(
        report(all).unwrap(),
        format!(
            "{ours} signs without asking; expires: never; mails are encrypted if there is a key, \
             addresses with a usable key: 2, always for *@ministry.example: 1, if-key for \
             *@isp.example: 0; headers are protected; mails carry the key (Autocrypt)"
        )
    );
    let missing = r#", "encrypt_for": {"always": ["b@ministry.example"]}"#;
    assert!(report(missing).unwrap_err().contains("names b@ministry.example"));

    home.gpg(&["--quick-set-expire", &ours, "29d"]);
    let message = report("").unwrap_err();
    assert!(message.contains("expires within 30 days") && message.contains(&ours), "{message}");
    home.gpg(&["--quick-set-expire", &ours, "32d"]);
    report("").unwrap();
}

/// The header in which gpg finds a key, as it is after unfolding.
fn autocrypt(home: &Home, key: &str) -> Result<String, String> {
    let settings = format!(r#"{{"always_sign": true, "signing_key": "{key}", "autocrypt": true}}"#);
    let mut openpgp = openpgp(home, &settings).map_err(|error| error.to_string())?;
    let protection = openpgp.protection(None, &["a@isp.example".parse().unwrap()]).unwrap();
    Ok(protection.autocrypt.unwrap().to_owned())
}

#[test]
fn an_autocrypt_header_has_the_key_that_signs_and_no_more() {
    let home = Home::new();
    let ours = home.add("CERT Example <NoReply@cert.example>");
    let other = home.add("Other <other@isp.example>");
    home.gpg(&["--quick-sign-key", "--default-key", &other, &ours]);
    let value = autocrypt(&home, &ours).unwrap();
    let keydata = value.strip_prefix("addr=noreply@cert.example; keydata=").unwrap();
    let reader = Home::new();
    let armor = format!(
        "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n{}\n-----END PGP PUBLIC KEY BLOCK-----\n",
        keydata.replace(' ', "\n")
    );
    reader.gpg_with(&["--import"], &armor);
    assert_eq!(reader.fingerprint("noreply@cert.example"), ours);
    let signatures = reader.gpg(&["--with-colons", "--list-sigs"]);
    assert_eq!(signatures.matches("\nsig:").count(), 2, "one user id, one part: {signatures}");
    assert!(value.len() < 1000, "{}", value.len());
}

#[test]
fn a_key_that_autocrypt_can_not_use_is_told() {
    let home = Home::with_key("CERT Example <noreply@cert.example>");
    let signs = home.fingerprint("noreply@cert.example");
    let message = autocrypt(&home, &signs).unwrap_err();
    assert!(message.contains(&signs) && message.contains("can encrypt"), "{message}");
    let other = home.add("Other <other@cert.example>");
    let message = autocrypt(&home, &other).unwrap_err();
    assert!(message.contains("the address of the sender, noreply@cert.example"), "{message}");
    for letter in ["a", "b", "c", "d", "e", "f"] {
        let user = format!("{} <noreply@cert.example>", letter.repeat(1500));
        home.gpg(&["--quick-add-uid", &other, &user]);
    }
    let message = autocrypt(&home, &other).unwrap_err();
    assert!(message.contains("too large for a header"), "{message}");
}

#[test]
fn the_part_that_signs_is_enough_on_a_server() {
    let safe = Home::new();
    safe.gpg(&["--passphrase", "", "--quick-gen-key", "noreply@cert.example", "ed25519", "cert"]);
    let ours = safe.fingerprint("noreply@cert.example");
    safe.gpg(&["--passphrase", "", "--quick-add-key", &ours, "ed25519", "sign", "never"]);
    let signs = safe.gpg(&["--with-colons", "--list-keys", &ours]);
    let signs = signs.lines().rfind(|line| line.starts_with("fpr")).unwrap().to_owned();
    let signs = format!("{}!", signs.split(':').nth(9).unwrap());
    safe.gpg(&["--passphrase", "", "--quick-add-key", &ours, "cv25519", "encr", "never"]);
    let server = Home::new();
    server.gpg_with(&["--import"], &safe.gpg(&["--armor", "--export-secret-subkeys", &signs]));
    safe.give_to(&server);
    server.add("abuse@isp.example");

    let settings = format!(
        r#"{{"always_sign": true, "signing_key": "{ours}", "encrypt": "always", "autocrypt": true}}"#
    );
    let mut openpgp = openpgp(&server, &settings).unwrap();
    let to = ["abuse@isp.example".parse().unwrap()];
    let Wrapping::Encryption(mut encryption) = openpgp.protection(None, &to).unwrap().wrapping
    else {
        panic!("it is to be encrypted");
    };
    let armored = String::from_utf8(encryption.encrypt(b"Text\r\n").unwrap()).unwrap();
    // We read it where the whole key is, the recipient where theirs is.
    for home in [&safe, &server] {
        assert_eq!(home.gpg_with(&["--decrypt"], &armored), "Text\r\n");
    }
}
