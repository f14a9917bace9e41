//! Mails to recipients whose keys are in the keyring, from the database to the relay.

use std::fs;

use outbox_tests::events::{Directive, recipient};
use outbox_tests::gnupg::Gnupg;
use outbox_tests::mail;
use outbox_tests::programs;
use outbox_tests::scripted_relay::ScriptedRelay;
use outbox_tests::site::{Builder, Site};
use serde_json::json;

#[test]
fn a_group_that_must_be_encrypted_and_can_not_waits_with_an_error_and_the_others_go() {
    let relay = ScriptedRelay::start();
    let site = site().relay(relay.port()).set("openpgp.encrypt", json!("always")).build();
    site.gnupg().add_recipient(&format!("ISP <{}>", recipient(1)));
    site.insert(&outbox_tests::events::groups(2));

    let run = site.generator(&["run", "--all"]).expect(1);
    let line = run.line("ERROR", &["failed to encrypt to abuse2@isp.example: there is no key"]);
    assert!(line.contains("directives=") && line.contains("gpg --import"), "{line}");
    run.line("INFO", &["done", "mails=1 ", "errors=1"]);
    let pending = site.generator(&["pending"]).expect(0).stdout;
    assert!(pending.contains("failed to encrypt to abuse2@isp.example"), "{pending}");

    let (inside, status) = site.gnupg().decrypt(&site.mail_to(&recipient(1)));
    assert!(inside.starts_with("Content-Type: text/plain") && inside.contains("192.0.2.1"));
    assert!(status.contains(&format!("VALIDSIG {}", site.gnupg().fingerprint())), "{status}");
    assert_eq!(status.matches("ENC_TO ").count(), 2, "the recipient and we: {status}");
    site.deliverer(&["run", "--once"]).expect(0).without("WARN");
    assert_eq!((relay.received().len(), site.pending()), (1, 1));

    // With a key it goes, too.
    site.gnupg().add_recipient(&recipient(2));
    site.generator(&["run", "--all"]).expect(0);
    site.gnupg().decrypt(&site.mail_to(&recipient(2)));
    site.deliverer(&["run", "--once"]).expect(0);
    assert_eq!((relay.received().len(), site.pending()), (2, 0));
}

#[test]
fn with_if_key_each_recipient_gets_what_it_can_read_and_a_format_and_a_rule_say_otherwise() {
    let format = "[[format]]\nname = \"secret\"\nwhen = { notification_format = \"secret\" }\n\
        columns = [\"source.ip\"]\nencrypt = \"never\"\n";
    let site = site()
        .set("openpgp.encrypt", json!("if-key"))
        .set("openpgp.encrypt_for", json!({"never": ["*@OPEN.example"]}))
        .template("formats/05-secret.toml", format)
        .build();
    for address in ["key@isp.example", "key@open.example", "a@isp.example", "xnokey@isp.example"] {
        site.gnupg().add_recipient(&format!("Recipient <{address}>"));
    }
    site.gnupg().add_expired_recipient("Recipient <old@isp.example>");
    let secret = Directive::to("a@isp.example").format("secret", "csv_inline");
    site.insert([
        &Directive::to("Key@ISP.example").event(),
        &Directive::to("nokey@isp.example").event(),
        &Directive::to("key@open.example").event(),
        &Directive::to("key@isp.example, nokey@isp.example").event(),
        &Directive::to("old@isp.example").event(),
        &Directive::to("old@isp.example").aggregate("source.asn", "64496").event(),
        &secret.event(),
    ]);
    let run = site.generator(&["run", "--all"]).expect(0);
    assert_eq!(run.lines("WARN").len(), 1, "once for each key: {run}");
    run.line("WARN", &["in clear", "failed to encrypt to old@isp.example: its key", "is expired"]);
    let encrypted = |to: &[&str]| {
        let all = site.sidecars();
        let sidecar = all.iter().find(|sidecar| sidecar["envelope"]["to"] == json!(to)).unwrap();
        let path = site.outbox().join("new").join(sidecar["id"].as_str().unwrap());
        let mail = fs::read(path).unwrap();
        mail::header(&mail, "Content-Type").unwrap().starts_with("multipart/encrypted;")
    };
    assert!(encrypted(&["Key@isp.example"]));
    assert!(!encrypted(&["nokey@isp.example"]), "a key of xnokey@ is none");
    assert!(!encrypted(&["key@open.example"]), "the rule for the recipient");
    assert!(!encrypted(&["key@isp.example", "nokey@isp.example"]), "one can't read it");
    assert!(!encrypted(&["a@isp.example"]), "the format");
}

#[test]
fn a_copy_is_encrypted_to_those_it_goes_to() {
    let copy = "[[copy]]\nenvelope_to = \"copy@cert.example\"\n";
    let site = site()
        .set("openpgp.encrypt", json!("always"))
        .template("formats/05-copy.toml", copy)
        .build();
    site.gnupg().add_recipient("isp@isp.example");
    site.insert([&Directive::to("isp@isp.example").event()]);
    let run = site.generator(&["run", "--all"]).expect(1);
    run.line("ERROR", &["failed to encrypt to copy@cert.example: there is no key for it"]);
    assert_eq!(site.files(), Vec::<String>::new(), "mail and copy are written together");

    let reader = site.folder().join("reader");
    let reader = Gnupg::without_key(&reader);
    reader.add_recipient("copy@cert.example");
    reader.give_public_keys(site.gnupg());
    site.gnupg().give_public_keys(&reader);
    site.generator(&["run", "--all"]).expect(0);
    let (inside, _) = reader.decrypt(&site.mail_to("copy@cert.example"));
    assert!(inside.contains("192.0.2.1"));
    let (_, status) = site.gnupg().decrypt(&site.mail_to("isp@isp.example"));
    assert_eq!(status.matches("ENC_TO ").count(), 2, "not to the copy's: {status}");
}

/// GnuPG finds an address in a longer one, too.
#[test]
fn a_key_whose_address_only_ends_like_ours_is_not_taken_for_our_own() {
    let mut site = Site::new(programs!())
        .key(Gnupg::without_key)
        .set("openpgp.always_sign", json!(false))
        .set("openpgp.encrypt", json!("always"))
        .set("openpgp.signing_key", json!("noreply@cert.example"))
        .build();
    site.gnupg().add_recipient("ISP <isp@isp.example>");
    site.gnupg().add_recipient("Somebody <xnoreply@cert.example>");
    site.insert([&Directive::to("isp@isp.example").event()]);
    let missing = ["noreply@cert.example"];
    site.generator(&["run", "--all"]).expect(78).line("ERROR", &missing);
    site.set("openpgp.always_sign", json!(true));
    site.generator(&["run", "--all"]).expect(78).line("ERROR", &missing);

    site.set("openpgp.always_sign", json!(false));
    site.gnupg().add_recipient("CERT <NoReply@cert.example>");
    site.generator(&["run", "--all"]).expect(0);
    let (_, status) = site.gnupg().decrypt(&site.mail_to("isp@isp.example"));
    assert_eq!(status.matches("ENC_TO ").count(), 2, "the recipient and we: {status}");
}

#[test]
fn what_is_hidden_on_the_way_is_known_to_the_outbox() {
    let site = site()
        .set("sender", json!("CERT Example <noreply@cert.example>"))
        .set("openpgp.encrypt", json!("always"))
        .set("openpgp.protected_headers", json!(true))
        .set("openpgp.autocrypt", json!(true))
        .build();
    site.gnupg().add_recipient(&recipient(1));
    site.insert(&outbox_tests::events::groups(1));
    let check = site.generator(&["check"]).expect(0).stdout;
    assert!(check.contains("mails are encrypted or not written"), "{check}");
    assert!(check.contains("headers are protected; mails carry the key (Autocrypt)"), "{check}");
    site.generator(&["run", "--all"]).expect(0);

    let path = site.mail_to(&recipient(1));
    let mail = fs::read(&path).unwrap();
    assert_eq!(mail::header(&mail, "Subject").unwrap(), "[...]");
    assert!(mail::header(&mail, "Autocrypt").unwrap().starts_with("addr=noreply@cert.example;"));
    let sidecar = site.sidecar_to(&recipient(1));
    let subject = sidecar["subject"].as_str().unwrap();
    let (inside, _) = site.gnupg().decrypt(&path);
    assert!(inside.contains(&format!("Subject: {subject}\r\n")), "{inside}");
    let shown = site.deliverer(&["show", sidecar["ticket"].as_str().unwrap()]).expect(0).stdout;
    assert!(shown.contains(subject), "{shown}");
}

#[test]
fn a_key_that_expires_soon_is_told_once_a_run_and_is_wrong_to_check() {
    let site = Site::new(programs!()).key(Gnupg::with_key_of_a_week).build();
    site.insert(&outbox_tests::events::groups(2));
    let run = site.generator(&["run", "--all"]).expect(0);
    assert_eq!(run.lines("WARN").len(), 1, "{run}");
    run.line("WARN", &["expires soon", site.gnupg().fingerprint(), "until="]);
    let check = site.generator(&["check"]).expect(1);
    assert!(check.stdout.contains("expires within 30 days: "), "{check}");
}

/// A site whose key signs, and decrypts what operators are to read.
fn site() -> Builder {
    Site::new(programs!()).key(Gnupg::with_encrypting_key)
}
