//! Sidecars and records that hold what they must not, and mails that are there more than once: by hand,
//! from another outbox, from a backup.
//!
//! What each content is refused for is shown in `outbox/tests/contents.rs`; here, what the programs make
//! of it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use outbox::Outbox;
use outbox_tests::events::{self, recipient};
use outbox_tests::programs;
use outbox_tests::scripted_relay::{Act, At, ScriptedRelay};
use outbox_tests::site::Site;
use outbox_tests::system::copy_folder;
use serde_json::{Value, json};

/// A site whose generator has run over so many groups.
fn site_with_mails(relay: &ScriptedRelay, count: usize) -> Site {
    let site = Site::new(programs!()).relay(relay.port()).unsigned().build();
    site.insert(&events::groups(count));
    site.generator(&["run", "--all"]).expect(0);
    assert_eq!(site.sidecars().len(), count);
    site
}

type Change = fn(&str) -> Vec<u8>;

/// Contents that are refused, made of one that is not.
const CONTENTS: [(&str, Change); 16] = [
    ("empty", |_| Vec::new()),
    ("an octet", |_| b"{".to_vec()),
    ("half", |whole| whole.as_bytes()[..whole.len() / 2].to_vec()),
    ("all but the last brace", |whole| whole.trim_end().trim_end_matches('}').into()),
    ("null", |_| b"null".to_vec()),
    ("a list", |_| b"[]".to_vec()),
    ("zeros", |whole| vec![0; whole.len()]),
    ("a mail", |_| b"Subject: ODD-MARKER\r\n\r\nhello\r\n".to_vec()),
    ("deep", |_| [vec![b'['; 100_000], vec![b']'; 100_000]].concat()),
    ("a byte order mark", |whole| format!("\u{feff}{whole}").into_bytes()),
    ("UTF-16", |whole| whole.encode_utf16().flat_map(u16::to_be_bytes).collect()),
    ("another version", |whole| whole.replacen("\"version\": 1", "\"version\": 2", 1).into()),
    ("a key twice", |whole| {
        whole.replacen("\"version\": 1", "\"id\": \"x\", \"version\": 1", 1).into()
    }),
    ("another mail's", |whole| whole.replacen("\"id\": \"1", "\"id\": \"2", 1).into()),
    ("a path", |whole| whole.replacen("\"id\": \"", "\"id\": \"../../", 1).into()),
    ("a key that is not known", |whole| whole.replacen('{', "{\"claims\": [],", 1).into()),
];

#[test]
fn a_sidecar_or_record_that_is_odd_keeps_its_own_mail_and_no_other() {
    let relay = ScriptedRelay::start();
    let count = CONTENTS.len();
    let site = site_with_mails(&relay, 2 * count + 1);
    let sidecars = site.listed("sidecar");
    let mut originals = Vec::new();
    for (number, (_, change)) in CONTENTS.iter().enumerate() {
        let whole = fs::read_to_string(&sidecars[number]).unwrap();
        fs::write(&sidecars[number], change(&whole)).unwrap();
        originals.push((sidecars[number].clone(), whole));
        // Of the next mail the record, which would say that the relay has it.
        let sidecar = &sidecars[count + number];
        let id = sidecar.file_stem().unwrap().to_str().unwrap();
        let record =
            json!({"version": 1, "id": id, "state": "accepted", "attempts": 1, "recipients": {}});
        let record = serde_json::to_string_pretty(&record).unwrap().replace("{\n  ", "{");
        fs::write(site.outbox().join("delivery").join(format!("{id}.json")), change(&record))
            .unwrap();
    }
    for (command, codes) in [
        (vec!["list"], [0, 0]),
        (vec!["show", "--all"], [0, 0]),
        (vec!["verify"], [1, 1]),
        (vec!["status"], [2, 2]),
    ] {
        let run = site.deliverer(&command);
        assert!(run.status.code().is_some_and(|code| codes.contains(&code)), "{run}");
    }
    let generator = site.generator(&["run", "--all"]).expect(1);
    assert_eq!(generator.lines("ERROR").len(), 1, "{generator}");
    let before: Vec<_> = all_bytes(&site);

    let run = site.deliverer(&["run", "--once"]).expect(1);

    let to: Vec<String> = relay.received().iter().map(|mail| mail.to[0].clone()).collect();
    assert_eq!(to, [recipient(2 * count + 1)], "{run}");
    for (number, sidecar) in sidecars[..2 * count].iter().enumerate() {
        let id = sidecar.file_stem().unwrap().to_str().unwrap();
        let lines: Vec<_> =
            run.lines("ERROR").into_iter().filter(|line| line.contains(id)).collect();
        assert_eq!(lines.len(), 1, "{:?}: {lines:?} in {run}", CONTENTS[number % count].0);
    }
    let after = all_bytes(&site);
    assert!(
        before
            .iter()
            .filter(|file| !after.contains(file))
            .all(|(path, _)| path.contains(&format!("-{}", 10_000_001 + 2 * count))),
        "nothing is touched"
    );
    assert_eq!(site.pending(), i64::try_from(2 * count).unwrap());

    // Mended, they go out.
    for (path, whole) in originals {
        fs::write(path, whole).unwrap();
    }
    for record in site.listed("delivery") {
        fs::remove_file(record).unwrap();
    }
    site.deliverer(&["run", "--once"]).expect(0);
    assert_eq!((relay.received().len(), site.pending()), (2 * count + 1, 0));
}

/// Every file of the outbox but those of the archive, with what is in it.
fn all_bytes(site: &Site) -> Vec<(String, Vec<u8>)> {
    let places = ["tmp", "new", "cur", "sidecar", "delivery"];
    let paths = places.iter().flat_map(|place| site.listed(place));
    paths.map(|path| (path.display().to_string(), fs::read(&path).unwrap())).collect()
}

#[test]
fn a_sidecar_that_is_too_large_is_not_read() {
    let relay = ScriptedRelay::start();
    let site = site_with_mails(&relay, 2);
    File::options()
        .append(true)
        .open(&site.listed("sidecar")[0])
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    let run = site.deliverer(&["run", "--once"]).expect(1);
    run.line("ERROR", &["1099511627776 octets are too many"]);
    assert_eq!(relay.received().len(), 1);
}

#[test]
fn counts_at_their_limit_stay_there_and_a_mail_goes_on() {
    let relay = ScriptedRelay::start();
    let site = site_with_mails(&relay, 1);
    relay.once(At::Rcpt, "", Act::Say("450 4.2.0 greylisted"));
    site.deliverer(&["run", "--once"]).expect(0);
    let path = site.listed("delivery").remove(0);
    let set = |next: &str| {
        edit(&path, |record| {
            record["attempts"] = json!(u32::MAX);
            record["uncertain"] = json!(u32::MAX);
            record["history"][0]["milliseconds"] = json!(u64::MAX);
            record["last_attempt_at"] = json!("9999-12-30T21:59:59Z");
            record["next_attempt_at"] = json!(next);
        });
    };
    // The last time that there is, which no clock reaches, and the first.
    for next in ["9999-12-30T21:59:59Z", "-009999-01-02T01:59:59Z"] {
        set(next);
        for command in [&["list"][..], &["show", "--all"], &["verify"], &["status"]] {
            let run = site.deliverer(command);
            assert!(run.status.code().is_some_and(|code| code < 3), "{run}");
        }
        relay.once(At::FinalDot, "", Act::HangUp);
        site.deliverer(&["run", "--once"]);
        let record = &site.records()[0];
        assert_eq!(record["attempts"], json!(u32::MAX), "{record}");
        assert_eq!(record["uncertain"], json!(u32::MAX), "{record}");
    }
    set("2026-11-25T00:00:00Z");
    site.deliverer(&["run", "--once"]).expect(0);
    assert_eq!((site.files(), site.pending()), (vec!["sent/cur/#1:2,S".to_owned()], 0));
}

fn edit(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut content = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut content);
    fs::write(path, content.to_string()).unwrap();
}

// ---- More than once ----

/// Copies a mail and its sidecar to another id, as a person might who wants to send it again. Gives the
/// sidecar's path.
fn copy_by_hand(site: &Site, id: &str, other: &str) -> PathBuf {
    let outbox = site.outbox();
    fs::copy(outbox.join("new").join(id), outbox.join("new").join(other)).unwrap();
    let sidecar = outbox.join("sidecar").join(format!("{other}.json"));
    fs::copy(outbox.join("sidecar").join(format!("{id}.json")), &sidecar).unwrap();
    sidecar
}

#[test]
fn a_mail_that_is_copied_by_hand_is_not_sent_twice() {
    let relay = ScriptedRelay::start();
    let site = site_with_mails(&relay, 2);
    let id = site.sidecars()[0]["id"].as_str().unwrap().to_owned();
    // As mutt copies; with its sidecar; and with a sidecar that was told its new name.
    let mutts = site.outbox().join("new/1795577736.R77.desk");
    fs::copy(site.outbox().join("new").join(&id), &mutts).unwrap();
    copy_by_hand(&site, &id, &id.replacen("17", "18", 1));
    let renamed = id.replacen("-1000", "-1999", 1);
    let renamed_sidecar = copy_by_hand(&site, &id, &renamed);
    edit(&renamed_sidecar, |sidecar| sidecar["id"] = json!(renamed));

    site.generator(&["run", "--all"]).expect(1).line("ERROR", &["failed to read"]);
    let run = site.deliverer(&["run", "--once"]).expect(1);
    run.line("ERROR", &["it says it is of mail"]);
    run.line("ERROR", &["its ticket is ", "and its name says "]);
    run.line("WARN", &["R77.desk", "a mail without a sidecar"]);
    assert_eq!(relay.received().len(), 2, "each mail once: {run}");
    assert_eq!(site.pending(), 0);
    // And not when it is looked at again.
    site.deliverer(&["run", "--once"]).expect(1);
    assert_eq!(relay.received().len(), 2);
    assert!(mutts.exists());
}

#[test]
fn who_writes_a_second_sidecar_for_a_directive_or_ticket_is_told_before_and_after_it_is_sent() {
    for same_ticket in [false, true] {
        let relay = ScriptedRelay::start();
        let site = site_with_mails(&relay, 1);
        let id = site.sidecars()[0]["id"].as_str().unwrap().to_owned();
        let ticket = site.sidecars()[0]["ticket"].as_str().unwrap().to_owned();
        let other_ticket =
            if same_ticket { ticket.clone() } else { ticket.replacen("-1000", "-1999", 1) };
        let other = id.replacen("17", "18", 1).replace(&ticket, &other_ticket);
        let sidecar = copy_by_hand(&site, &id, &other);
        edit(&sidecar, |sidecar| {
            sidecar["id"] = json!(other);
            sidecar["ticket"] = json!(other_ticket);
        });

        // The format forbids it, and who asks is told.
        let run = site.deliverer(&["verify"]).expect(1);
        assert!(run.stdout.contains("WRONG ") && run.stdout.contains("is claimed by"), "{run}");
        // No directive gets a third mail, and each mail is sent once.
        site.generator(&["run", "--all"]).expect(0).line("INFO", &["done", "mails=0"]);
        let run = site.deliverer(&["run", "--once"]).expect(0);
        assert_eq!(relay.received().len(), 2);
        let words = if same_ticket {
            "it was given twice"
        } else {
            "marked sent already, under another ticket"
        };
        run.line("WARN", &[words, &ticket]);
        assert_eq!(
            (site.pending(), site.sent_tickets().len()),
            (0, if same_ticket { 1 } else { 2 })
        );
        site.deliverer(&["run", "--once"]).expect(0);
        assert_eq!(relay.received().len(), 2);
    }
}

#[test]
fn a_mail_that_is_moved_to_another_outbox_is_sent_from_there_or_from_nowhere() {
    let relay = ScriptedRelay::start();
    let mut site = site_with_mails(&relay, 2);
    let here = site.outbox();
    let there = site.folder().join("there");
    Outbox::create(&there).unwrap();
    let ids: Vec<String> =
        site.sidecars().iter().map(|sidecar| sidecar["id"].as_str().unwrap().to_owned()).collect();
    for id in &ids {
        fs::rename(here.join("new").join(id), there.join("new").join(id)).unwrap();
    }
    // Of one of them the sidecar as well.
    let sidecar = format!("sidecar/{}.json", ids[0]);
    fs::rename(here.join(&sidecar), there.join(&sidecar)).unwrap();

    site.deliverer(&["run", "--once"]).expect(0);
    assert_eq!((relay.received().len(), site.files().len()), (0, 1));
    let verify = site.deliverer(&["verify"]).expect(1);
    assert!(verify.stdout.contains("withdrawn, its directives stay claimed"), "{verify}");
    site.set("outbox.path", json!(there));
    let run = site.deliverer(&["run", "--once"]).expect(0);
    run.line("WARN", &[&ids[1], "a mail without a sidecar: not ours, never sent"]);
    assert_eq!((relay.received().len(), site.pending()), (1, 1));
    // Brought back, the other one is sent too, and both once.
    fs::rename(there.join("new").join(&ids[1]), here.join("new").join(&ids[1])).unwrap();
    site.set("outbox.path", json!(here));
    site.deliverer(&["run", "--once"]).expect(0);
    assert_eq!((relay.received().len(), site.pending()), (2, 0));
}

#[test]
fn what_a_backup_brings_back_beside_the_archive_is_not_sent_again() {
    let relay = ScriptedRelay::start();
    let site = site_with_mails(&relay, 2);
    let backup = site.folder().join("backup");
    copy_folder(&site.outbox(), &backup);
    site.deliverer(&["run", "--once"]).expect(0);
    assert_eq!((relay.received().len(), site.pending()), (2, 0));

    for folder in ["new", "sidecar"] {
        for entry in fs::read_dir(backup.join(folder)).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), site.outbox().join(folder).join(entry.file_name())).unwrap();
        }
    }
    let restored = site.files();
    let run = site.deliverer(&["run", "--once"]).expect(1);
    assert_eq!(run.lines("ERROR").len(), 2 + 1, "one a mail, and the last word: {run}");
    assert_eq!(relay.received().len(), 2, "{run}");
    assert_eq!(site.files(), restored);
    let verify = site.deliverer(&["verify"]).expect(1);
    assert_eq!(verify.stdout.matches("is in the archive already").count(), 2, "{verify}");
    // The documented way out.
    site.deliverer(&["withdraw", "--suppress", "--all"]).expect(0);
    site.deliverer(&["run", "--once"]).expect(0);
    assert_eq!(site.files(), ["sent/cur/#1:2,S", "sent/cur/#2:2,S"]);
    assert_eq!((relay.received().len(), site.pending()), (2, 0));
}

#[test]
fn of_an_outbox_that_is_a_backup_verify_tells_what_was_sent_and_it_can_be_kept_from_going_again() {
    let relay = ScriptedRelay::start();
    let site = site_with_mails(&relay, 2);
    let backup = site.folder().join("backup");
    copy_folder(&site.outbox(), &backup);
    site.deliverer(&["run", "--once"]).expect(0);
    fs::remove_dir_all(site.outbox()).unwrap();
    fs::rename(backup, site.outbox()).unwrap();

    let verify = site.deliverer(&["verify"]).expect(1);
    let told = verify.stdout.matches("it stands in sent already and is to be sent").count();
    assert_eq!(told, 2, "{verify}");
    site.deliverer(&["withdraw", "--suppress", "--all"]).expect(0);
    site.generator(&["run", "--all"]).expect(0);
    site.deliverer(&["run", "--once"]).expect(0);
    assert_eq!((relay.received().len(), site.pending(), site.files().len()), (2, 0, 0));
}
