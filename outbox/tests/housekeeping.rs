//! What keeps an outbox in order: the archive is pruned, a full disk leaves nothing behind, and what
//! is not ours is named and left alone.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use outbox::{DirectiveId, Envelope, GroupKey, NewMail, Outbox, Pruned, Ticket};
use tempfile::TempDir;

const DAY: Duration = Duration::from_secs(86_400);

fn outbox() -> (TempDir, Outbox) {
    let folder = tempfile::tempdir().unwrap();
    let outbox = Outbox::create(&folder.path().join("outbox")).unwrap();
    (folder, outbox)
}

/// The name of a mail in the archive.
fn name(number: u32) -> String {
    format!("1795577736.M132945P32262Q{number}.20261125-{}.host:2,S", 10_000_000 + number)
}

/// Puts a mail of so many octets into the archive, written so long ago.
fn archive(outbox: &Outbox, number: u32, octets: u64, age: Duration) -> PathBuf {
    let path = outbox.archive().join("cur").join(name(number));
    let file = File::create(&path).unwrap();
    file.set_len(octets).unwrap();
    file.set_modified(SystemTime::now() - age).unwrap();
    path
}

fn prune(outbox: &Outbox, keep: Duration, limit: Option<u64>) -> outbox::Result<Pruned> {
    outbox.lock_deliverer()?.unwrap().prune_archive(keep, limit, SystemTime::now())
}

/// The numbers of the mails that are in the archive.
fn kept(outbox: &Outbox) -> Vec<u32> {
    let mut numbers: Vec<u32> = (1..10)
        .filter(|&number| outbox.archive().join("cur").join(name(number)).exists())
        .collect();
    numbers.sort_unstable();
    numbers
}

#[test]
fn the_archive_loses_what_is_too_old_and_then_the_oldest_until_it_is_small_enough() {
    let (_folder, outbox) = outbox();
    // The names say another order than the times.
    for (number, age) in [(1, 2 * DAY), (2, 3 * DAY), (3, DAY), (4, 40 * DAY)] {
        archive(&outbox, number, 1000, age);
    }
    assert_eq!(prune(&outbox, 50 * DAY, None).unwrap(), Pruned::default());
    assert_eq!(prune(&outbox, 50 * DAY, Some(4000)).unwrap(), Pruned::default());
    assert_eq!(prune(&outbox, 30 * DAY, Some(4000)).unwrap(), Pruned { mails: 1, octets: 1000 });
    assert_eq!(kept(&outbox), [1, 2, 3]);
    assert_eq!(prune(&outbox, 30 * DAY, Some(1999)).unwrap(), Pruned { mails: 2, octets: 2000 });
    assert_eq!(kept(&outbox), [3]);
    assert_eq!(prune(&outbox, 30 * DAY, Some(0)).unwrap(), Pruned { mails: 1, octets: 1000 });
}

#[test]
fn pruning_touches_and_counts_only_regular_files_with_the_names_of_our_mails() {
    let (folder, outbox) = outbox();
    let precious = folder.path().join("precious");
    fs::write(&precious, [0; 5000]).unwrap();
    let cur = outbox.archive().join("cur");
    symlink(&precious, cur.join(name(1))).unwrap();
    symlink(folder.path(), cur.join(name(2))).unwrap();
    fs::create_dir(cur.join(name(3))).unwrap();
    fs::write(cur.join(name(3)).join(name(4)), [0; 5000]).unwrap();
    make_fifo(&cur.join(name(5)));
    let saved = cur.join("1795577736.R77.desk:2,S");
    fs::write(&saved, [0; 5000]).unwrap();
    archive(&outbox, 6, 1000, 2 * DAY);

    let pruned = prune(&outbox, Duration::ZERO, Some(0)).unwrap();

    assert_eq!(pruned, Pruned { mails: 1, octets: 1000 });
    assert!(precious.exists() && saved.exists() && cur.join(name(3)).join(name(4)).exists());
    let kept: Vec<bool> =
        [1, 2, 3, 5, 6].map(|number| fs::symlink_metadata(cur.join(name(number))).is_ok()).into();
    assert_eq!(kept, [true, true, true, true, false]);
}

#[test]
fn a_hundred_thousand_mails_are_pruned_in_seconds() {
    let (_folder, outbox) = outbox();
    for number in 0..100_000 {
        archive(&outbox, number, 10, DAY * (number % 7));
    }
    let began = Instant::now();
    let pruned = prune(&outbox, 30 * DAY, Some(1_000)).unwrap();
    assert_eq!(pruned, Pruned { mails: 99_900, octets: 999_000 });
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
}

/// Not a test: what the next one runs with a limit of how large a file may become, which to the
/// writer is as good as a full disk.
#[test]
#[ignore = "needs to be run with a limit"]
fn write_a_mail_that_is_too_large() {
    let outbox = Outbox::open(Path::new(&std::env::var("OUTBOX").unwrap())).unwrap();
    let mut generator = outbox.lock_generator().unwrap().unwrap();
    let mail = NewMail {
        ticket: Ticket::new("20261125", 10_000_001).unwrap(),
        message_id: "<20261125-10000001.0@cert.example>".into(),
        created_at: outbox::now(),
        subject: "open DNS resolver".into(),
        envelope: Envelope { from: String::new(), to: vec!["abuse@as64496.example".into()] },
        directive_ids: vec![DirectiveId(1)],
        group: GroupKey {
            recipient_address: "abuse@as64496.example".into(),
            template_name: "generic".into(),
            notification_format: "text".into(),
            event_data_format: "csv_inline".into(),
            aggregate_identifier: [].into(),
        },
    };
    let error = generator.draft(mail, &vec![b'x'; 100_000]).unwrap_err();
    eprintln!("it failed: {error}");
}

#[test]
fn a_mail_that_can_not_be_written_whole_leaves_nothing() {
    let (_folder, outbox) = outbox();
    let limited = "trap '' XFSZ; ulimit -f 16; exec \"$0\" \"$@\"";
    let run = Command::new("sh")
        .args(["-c", limited])
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "write_a_mail_that_is_too_large"])
        .env("OUTBOX", outbox.root())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success() && said.contains("it failed: failed to write"), "{said}");
    for folder in ["tmp", "sidecar", "new"] {
        let files = fs::read_dir(outbox.root().join(folder)).unwrap().count();
        assert_eq!(files, 0, "{folder}");
    }
}

#[test]
fn whatever_is_not_ours_is_named_but_other_programs_sidecars_still_count_as_claims() {
    let (folder, outbox) = outbox();
    let root = outbox.root();
    for place in ["new", "cur", "tmp", "sidecar", "delivery"] {
        fs::write(root.join(place).join(".hidden"), b"").unwrap();
        fs::write(root.join(place).join("päckchen"), b"").unwrap();
    }
    fs::write(root.join("sidecar/.1.M2.20261125-10000001.h.json.tmp"), b"").unwrap();
    fs::write(root.join("delivery/.probe.json.tmp"), b"").unwrap();
    symlink(folder.path(), root.join("tmp/link:2,S")).unwrap();
    make_fifo(&root.join("sidecar/fifo.json"));

    let snapshot = outbox.scan().unwrap();

    let mut named: Vec<String> = (snapshot.oddities.iter())
        .map(|odd| odd.path.strip_prefix(root).unwrap().display().to_string())
        .collect();
    named.sort();
    let expected = [
        "cur/.hidden",
        "cur/päckchen",
        "delivery/.hidden",
        "delivery/päckchen",
        "new/.hidden",
        "new/päckchen",
        "sidecar/.hidden",
        "sidecar/fifo.json",
        "sidecar/päckchen",
        "tmp/.hidden",
        "tmp/link:2,S",
        "tmp/päckchen",
    ];
    assert_eq!(named, expected);
    let error = outbox.claims().unwrap_err().to_string();
    assert!(error.contains("fifo.json"), "{error}");
}

#[test]
fn the_room_is_that_of_the_outboxs_file_system() {
    let (_folder, outbox) = outbox();
    let room = outbox.room().unwrap();
    assert!(room.octets > 0 && room.files != Some(0), "{room:?}");
    fs::remove_dir_all(outbox.root()).unwrap();
    let error = outbox.room().unwrap_err().to_string();
    assert!(error.contains("failed to ask for the room in"), "{error}");
}

fn make_fifo(path: &Path) {
    let made = Command::new("mkfifo").arg(path).status().unwrap();
    assert!(made.success());
}
