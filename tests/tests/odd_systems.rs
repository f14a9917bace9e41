//! What the system under an outbox does to it: disks that are full or read-only, folders that go away
//! or are others suddenly, clocks that jump, and more mails than inotify can tell of.

use std::collections::HashSet;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use outbox::Outbox;
use outbox_tests::events::{self, Directive, recipient};
use outbox_tests::programs;
use outbox_tests::programs::{Finished, Running, wait_until};
use outbox_tests::scripted_relay::{Act, At, ScriptedRelay};
use outbox_tests::site::{Builder, Site};
use outbox_tests::small_disk::SmallDisk;
use outbox_tests::unprivileged::unprivileged;
use rustix::fs::inotify;
use rustix::process::Signal;
use serde_json::json;

// ---- Disks ----

/// A site whose outbox is on a disk of its own.
fn site_on_disk(builder: Builder, options: &str) -> Option<(SmallDisk, Site)> {
    let disk = SmallDisk::mount(options)?;
    let mut site = builder
        .unsigned()
        .set("outbox.min_free", json!("0"))
        .set("outbox.min_free_inodes", json!(0))
        .build();
    let outbox = disk.path().join("outbox");
    site.set("outbox.path", json!(outbox));
    Outbox::create(&outbox).unwrap();
    Some((disk, site))
}

/// Panics unless all was sent, once.
#[track_caller]
fn all_were_sent_once(site: &Site, relay: &ScriptedRelay, count: usize) {
    let received = relay.received();
    let to: HashSet<&str> = received.iter().map(|mail| mail.to[0].as_str()).collect();
    assert_eq!((received.len(), to.len(), site.pending()), (count, count, 0));
    assert_eq!(site.sent_tickets().len(), count);
    let left: Vec<String> =
        site.files().into_iter().filter(|file| !file.starts_with("sent/cur/")).collect();
    assert_eq!(left, [""; 0]);
}

#[test]
fn a_disk_that_is_full_or_out_of_inodes_ends_the_generator_and_the_next_run_goes_on() {
    for (too_small, enough) in [("size=1m", "size=40m"), ("size=40m,nr_inodes=250", "nr_inodes=0")]
    {
        let relay = ScriptedRelay::start();
        let builder = Site::new(programs!()).relay(relay.port());
        let Some((mut disk, site)) = site_on_disk(builder, too_small) else { return };
        site.insert(&events::groups(150));

        let run = site.generator(&["run", "--all"]).expect(75);
        run.line("ERROR", &["failed to ", "No space left on device"]);
        // Whole batches, and nothing of the one that failed.
        let written = site.listed("new").len();
        assert!(written % 100 == 0 && written < 150, "{written}: {run}");
        assert_eq!((site.listed("sidecar").len(), site.files().len()), (written, 2 * written));

        disk.remount(enough);
        site.generator(&["run", "--all"]).expect(0);
        assert_eq!(site.listed("new").len(), 150);
        site.deliverer(&["run", "--once"]).expect(0);
        all_were_sent_once(&site, &relay, 150);
    }
}

#[test]
fn on_a_full_disk_nothing_is_relayed_until_there_is_room() {
    let relay = ScriptedRelay::start();
    let Some((disk, site)) = site_on_disk(Site::new(programs!()).relay(relay.port()), "size=1m")
    else {
        return;
    };
    site.insert(&events::groups(3));
    site.generator(&["run", "--all"]).expect(0);
    let filler = disk.fill();
    let run = site.deliverer(&["run", "--once"]).expect(75);
    run.line("ERROR", &["delivery/.probe.json.tmp", "No space left on device"]);

    let service = site.start_deliverer(&["run"]);
    let told = service.wait_for("nothing is relayed until records can be written");
    assert!(told.contains("No space left on device"), "{told}");
    assert_eq!(relay.connections(), 0);
    site.deliverer(&["list"]).expect(0);
    site.deliverer(&["status"]).expect(0);
    fs::remove_file(filler).unwrap();
    // A mail reader's flag rings.
    site.flag(&site.mail_to(&recipient(1)), "S");
    service.wait_for("records can be written again");
    wait_until("all are marked", || site.pending() == 0);
    service.terminate().expect(0);
    all_were_sent_once(&site, &relay, 3);
}

#[test]
fn a_disk_that_fills_up_or_turns_read_only_while_the_relay_has_a_mail_makes_none_go_twice() {
    for read_only in [false, true] {
        let relay = ScriptedRelay::start();
        let builder =
            Site::new(programs!()).relay(relay.port()).set("delivery.connections", json!(1));
        let Some((mut disk, site)) = site_on_disk(builder, "size=1m") else { return };
        site.insert(&events::groups(2));
        site.generator(&["run", "--all"]).expect(0);
        relay.once(At::FinalDot, "", Act::Hold);
        let service = site.start_deliverer(&["run"]);
        relay.wait_until_held();
        let mut filler = None;
        if read_only {
            disk.remount("ro");
        } else {
            filler = Some(disk.fill());
        }
        relay.go_on();
        let told = service.wait_for("the relay took a mail and that can't be written down");
        let why = if read_only { "Read-only file system" } else { "No space left on device" };
        assert!(told.contains(why), "{told}");
        if let Some(filler) = filler {
            fs::remove_file(filler).unwrap();
        } else {
            disk.remount("rw");
        }
        service.wait_for("written down at last");
        wait_until("both are marked", || site.pending() == 0);
        let run = service.terminate().expect(0);
        assert_eq!(run.lines("ERROR").len(), 1, "{run}");
        all_were_sent_once(&site, &relay, 2);
    }
}

#[test]
fn a_disk_that_is_read_only_is_told_by_each_program_and_nothing_is_relayed() {
    let relay = ScriptedRelay::start();
    let Some((mut disk, site)) =
        site_on_disk(Site::new(programs!()).relay(relay.port()), "size=1m")
    else {
        return;
    };
    site.insert(&events::groups(1));
    site.generator(&["run", "--all"]).expect(0);
    site.insert(&[Directive::to("late@isp.example").event()]);
    disk.remount("ro");
    for run in [site.generator(&["run", "--all"]), site.deliverer(&["run", "--once"])] {
        run.expect(75).line("ERROR", &["Read-only file system"]);
    }
    assert_eq!(relay.connections(), 0);
    for run in [site.generator(&["check"]), site.deliverer(&["check"])] {
        let run = run.expect(1);
        assert!(run.stdout.contains("WRONG outbox: ") && run.stdout.contains("Read-only"), "{run}");
    }
    site.deliverer(&["list"]).expect(0);
    disk.remount("rw");
    site.generator(&["run", "--all"]).expect(0);
    site.deliverer(&["run", "--once"]).expect(0);
    all_were_sent_once(&site, &relay, 2);
}

#[test]
fn a_log_that_cannot_be_written_stops_neither_program() {
    let relay = ScriptedRelay::start();
    let site = Site::new(programs!()).relay(relay.port()).unsigned().build();
    site.insert(&events::groups(2));
    let full = |script: String, arguments: &[&str]| {
        let path = site.folder().join("run.sh");
        fs::write(&path, script).unwrap();
        Command::new("sh")
            .arg(path)
            .args(arguments)
            .stderr(File::create("/dev/full").unwrap())
            .stdout(Stdio::null())
            .status()
            .unwrap()
            .code()
    };
    assert_eq!(full(site.generator_script(), &["run", "--all"]), Some(0));
    assert_eq!(full(site.deliverer_script(), &["run", "--once"]), Some(0));
    all_were_sent_once(&site, &relay, 2);
}

// ---- Folders ----

/// The folders of an outbox, by their place in it.
const FOLDERS: [&str; 10] =
    ["", "tmp", "new", "cur", "sidecar", "delivery", "sent", "sent/tmp", "sent/new", "sent/cur"];

/// What can become of a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gone {
    Away,
    File,
    Link,
    Closed,
}

/// A folder to which something happened, until it is put back.
struct Changed {
    path: PathBuf,
    aside: PathBuf,
    gone: Gone,
}

impl Changed {
    fn new(site: &Site, folder: &str, gone: Gone) -> Self {
        let path = if folder.is_empty() { site.outbox() } else { site.outbox().join(folder) };
        let aside = site.folder().join("aside");
        match gone {
            Gone::Closed => fs::set_permissions(&path, Permissions::from_mode(0o000)).unwrap(),
            _ => fs::rename(&path, &aside).unwrap(),
        }
        match gone {
            Gone::File => fs::write(&path, b"").unwrap(),
            Gone::Link => symlink(&aside, &path).unwrap(),
            Gone::Away | Gone::Closed => {}
        }
        Self { path, aside, gone }
    }

    fn put_back(self) {
        if self.gone == Gone::Closed {
            return fs::set_permissions(&self.path, Permissions::from_mode(0o2770)).unwrap();
        }
        let _ = fs::remove_file(&self.path);
        fs::rename(&self.aside, &self.path).unwrap();
    }
}

/// Panics if a program did not end with 75 and a line that names the folder, or one in it.
#[track_caller]
fn names(run: &Finished, code: i32, path: &Path) {
    let run = run.clone().expect(code);
    let said = format!("{}{}", run.stdout, run.stderr);
    assert!(said.contains(&path.display().to_string()), "{}: {run}", path.display());
    assert!(!said.contains("panicked"), "{run}");
}

#[test]
fn without_one_of_its_folders_an_outbox_is_refused_at_the_start_and_forgets_nothing() {
    let relay = ScriptedRelay::start();
    let site = Site::new(unprivileged(programs!())).relay(relay.port()).unsigned().build();
    site.insert(&events::groups(1));
    site.generator(&["run", "--all"]).expect(0);
    site.insert(&[Directive::to("late@isp.example").event()]);
    let before = site.files();
    for folder in FOLDERS {
        for gone in [Gone::Away, Gone::File, Gone::Link, Gone::Closed] {
            // The outbox itself may be a link; and what nobody looks into may be closed.
            let fine = folder.is_empty() && gone == Gone::Link
                || gone == Gone::Closed && matches!(folder, "sent/tmp" | "sent/new");
            // Found where a mail goes there.
            let late = gone == Gone::Closed && matches!(folder, "sent" | "sent/cur");
            let changed = Changed::new(&site, folder, gone);
            eprintln!("{folder:?} {gone:?}");
            let status = site.deliverer(&["status"]);
            if !fine {
                let path = &changed.path;
                if !late || folder == "sent" {
                    names(&status, 3, path);
                    names(&site.generator(&["run", "--all"]), 75, path);
                    names(&site.deliverer(&["run", "--once"]), 75, path);
                    names(&site.deliverer(&["list"]), 75, path);
                } else {
                    // The mail is left alone before any relay hears of it.
                    names(&site.deliverer(&["run", "--once"]), 1, path);
                }
                names(&site.deliverer(&["check"]), 1, path);
            }
            let offered = relay.commands().iter().any(|command| command.starts_with("MAIL"));
            assert!(!offered, "{folder:?} {gone:?}");
            changed.put_back();
            assert_eq!(site.files(), before, "{folder:?} {gone:?}");
        }
    }
    site.generator(&["run", "--all"]).expect(0);
    site.deliverer(&["run", "--once"]).expect(0);
    all_were_sent_once(&site, &relay, 2);
}

#[test]
fn a_folder_that_goes_while_the_service_runs_ends_it_with_words_and_the_next_start_goes_on() {
    for folder in FOLDERS {
        if matches!(folder, "sent/tmp" | "sent/new") {
            continue;
        }
        let relay = ScriptedRelay::start();
        let site = Site::new(programs!()).relay(relay.port()).unsigned().build();
        site.insert(&events::groups(1));
        site.generator(&["run", "--all"]).expect(0);
        relay.once(At::FinalDot, "", Act::Hold);
        let service = site.start_deliverer(&["run"]);
        relay.wait_until_held();
        let changed = Changed::new(&site, folder, Gone::Away);
        if folder == "delivery" || folder.is_empty() {
            // What the relay says is written down as soon as there is a place for it.
            relay.go_on();
            service.wait_for("that can't be written down");
            changed.put_back();
            service.wait_for("written down at last");
            wait_until("it is marked", || site.pending() == 0);
            service.terminate();
        } else {
            relay.go_on();
            names(&service.finish(), 75, &changed.path);
            changed.put_back();
        }
        site.deliverer(&["run", "--once"]).expect(0);
        all_were_sent_once(&site, &relay, 1);
    }
}

#[test]
fn another_outbox_in_the_place_of_one_that_is_served_is_not_touched() {
    let relay = ScriptedRelay::start();
    let site = Site::new(programs!()).relay(relay.port()).unsigned().build();
    let service = site.start_deliverer(&["run"]);
    service.wait_for("delivering");
    let (path, aside) = (site.outbox(), site.folder().join("aside"));
    fs::rename(&path, &aside).unwrap();
    site.generator(&["init"]).expect(0);
    site.insert(&events::groups(1));
    site.generator(&["run", "--all"]).expect(0);
    let run = service.finish().expect(75);
    assert_eq!(run.lines("ERROR").len(), 1, "{run}");
    assert_eq!(relay.received().len(), 0);
    assert_eq!(site.files(), ["new/#1", "sidecar/#1.json"]);
    site.deliverer(&["run", "--once"]).expect(0);
    all_were_sent_once(&site, &relay, 1);
}

// ---- Clocks ----

/// A clock for the programs that tells another time than the system's.
struct Clock(PathBuf);

impl Clock {
    fn set(&self, shift: &str) {
        fs::write(&self.0, shift).unwrap();
    }
}

/// A site whose programs have their own clock. Where there is none it says so loudly.
fn site_with_clock(builder: Builder) -> Option<(Clock, Site)> {
    let library = Command::new("sh")
        .args(["-c", "ls /usr/lib/*/faketime/libfaketimeMT.so.1"])
        .output()
        .unwrap()
        .stdout;
    let library = String::from_utf8_lossy(&library).trim().to_owned();
    if library.is_empty() {
        eprintln!("NOT TRIED HERE: clocks that jump, for libfaketime is not installed");
        return None;
    }
    let file = tempfile::NamedTempFile::new().unwrap().into_temp_path().keep().unwrap();
    let clock = Clock(file.clone());
    clock.set("+0");
    let environment = [
        ("LD_PRELOAD", library.into()),
        ("FAKETIME_TIMESTAMP_FILE", file.into_os_string()),
        ("FAKETIME_NO_CACHE", "1".into()),
        // Only the time of day jumps.
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        ("NO_FAKE_STAT", "1".into()),
    ];
    Some((clock, builder.environment(environment).unsigned().build()))
}

impl Drop for Clock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn a_clock_that_jumps_by_a_day_between_runs_loses_nothing_and_repeats_nothing() {
    let relay = ScriptedRelay::start();
    let builder = Site::new(programs!()).relay(relay.port());
    let Some((clock, site)) = site_with_clock(builder) else { return };
    let mut count = 0;
    for (write, send) in [
        ("+0", "-1d"),
        ("+1d", "+0"),
        ("-1d", "+1d"),
        ("+0", "+1d"),
        ("-1d", "-1d"),
        ("+1d", "-1d"),
    ] {
        site.insert(
            (0..3)
                .map(|number| {
                    Directive::to(&format!("abuse{}@isp.example", count + number)).event()
                })
                .collect::<Vec<_>>()
                .iter(),
        );
        count += 3;
        clock.set(write);
        site.generator(&["run", "--all"]).expect(0);
        clock.set(send);
        site.deliverer(&["list"]).expect(0);
        site.deliverer(&["run", "--once"]).expect(0);
        all_were_sent_once(&site, &relay, count);
    }
}

#[test]
fn a_clock_that_jumps_while_a_mail_is_deferred_hangs_it_for_no_longer_than_the_longest_wait() {
    let relay = ScriptedRelay::start();
    let builder = Site::new(programs!())
        .relay(relay.port())
        .set("delivery.retry_min", json!("1h"))
        .set("delivery.retry_max", json!("4h"));
    let Some((clock, site)) = site_with_clock(builder) else { return };
    let service = site.start_deliverer(&["run"]);
    service.wait_for("delivering");
    let mut sent = 0;
    for jump in ["-1d", "+1d"] {
        clock.set("+0");
        relay.once(At::Rcpt, "", Act::Say("450 4.2.0 greylisted"));
        site.insert(&[Directive::to(&format!("abuse{jump}@isp.example")).event()]);
        site.generator(&["run", "--all"]).expect(0);
        wait_until("it is deferred", || {
            site.records().iter().any(|record| record["state"] == "deferred")
        });
        assert_eq!(relay.received().len(), sent, "it has to wait for an hour");
        // By a clock that is right again, it waits for more than the longest wait, or has waited.
        clock.set(jump);
        // A mail reader's flag rings.
        let id = site.sidecars()[0]["id"].as_str().unwrap().to_owned();
        let mail = ["new", "cur"].iter().flat_map(|folder| site.listed(folder));
        let mail = mail.into_iter().find(|path| path.display().to_string().contains(&id)).unwrap();
        site.flag(&mail, "S");
        sent += 1;
        relay.wait_for_mails(sent);
        let sent = i64::try_from(sent).unwrap();
        let marked = "SELECT count(*) FROM directives WHERE sent_id IS NOT NULL";
        wait_until("it is marked", || site.column::<i64>(marked)[0] == sent);
    }
    service.terminate().expect(0).without("ERROR");
    all_were_sent_once(&site, &relay, 2);
}

#[test]
fn an_archive_that_a_clock_ahead_of_time_makes_old_is_not_removed_without_a_word() {
    let relay = ScriptedRelay::start();
    let builder = Site::new(programs!()).relay(relay.port());
    let Some((clock, site)) = site_with_clock(builder) else { return };
    site.insert(&events::groups(3));
    site.generator(&["run", "--all"]).expect(0);
    site.deliverer(&["run", "--once"]).expect(0);
    for jump in ["-1d", "+1d"] {
        clock.set(jump);
        site.deliverer(&["run", "--once"]).expect(0);
        assert_eq!(site.listed("sent/cur").len(), 3, "a day changes nothing");
    }
    clock.set("+4000d");
    let run = site.deliverer(&["run", "--once"]).expect(0);
    run.line("INFO", &["removed old mails from the archive", "mails=3"]);
    assert_eq!(site.listed("sent/cur").len(), 0);
}

// ---- inotify ----

#[test]
fn without_inotify_the_service_says_so_and_works() {
    let relay = ScriptedRelay::start();
    let site = Site::new(programs!()).relay(relay.port()).unsigned().build();
    site.insert(&events::groups(1));
    site.generator(&["run", "--all"]).expect(0);
    for limit in ["max_inotify_instances", "max_inotify_watches"] {
        let script = site.folder().join("limited.sh");
        let text = site.deliverer_script();
        fs::write(
            &script,
            text.replacen("exec", &format!("echo 0 >/proc/sys/user/{limit} || exit 99; exec"), 1),
        )
        .unwrap();
        let mut limited = Command::new("unshare");
        limited.args(["--user", "--map-root-user", "sh"]).arg(&script).arg("run").current_dir("/");
        let mut service = Running::start(&mut limited);
        wait_until("it began or could not", || {
            !service.is_running() || site.deliverer(&["status"]).status.code() != Some(2)
        });
        if !service.is_running() {
            let run = service.finish();
            eprintln!(
                "NOT TRIED HERE: a limit of inotify, for there are no namespaces of users: {run}"
            );
            return;
        }
        let told =
            service.wait_for("cannot watch the outbox, looking at it every half minute instead");
        assert!(told.contains(" WARN "), "{told}");
        wait_until("what was there is marked", || site.pending() == 0);
        service.terminate().expect(0);
        site.insert(&events::groups(1));
        site.generator(&["run", "--all"]).expect(0);
    }
    site.deliverer(&["run", "--once"]).expect(0);
    assert_eq!((relay.received().len(), site.pending()), (3, 0));
}

/// How many events inotify keeps for who does not read them.
fn queue_length() -> usize {
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    limit.trim().parse().unwrap()
}

/// Another who watches the same folder and does not read: what overflows for it, overflows for the
/// service that is stopped meanwhile.
struct Witness(rustix::fd::OwnedFd);

impl Witness {
    fn new(folder: &Path) -> Self {
        let queue = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
        let flags = inotify::WatchFlags::MOVED_TO
            | inotify::WatchFlags::MOVED_FROM
            | inotify::WatchFlags::CREATE;
        inotify::add_watch(&queue, folder, flags).unwrap();
        Self(queue)
    }

    /// Whether events were lost.
    fn overflowed(&self) -> bool {
        let mut buffer = [const { std::mem::MaybeUninit::uninit() }; 8192];
        let mut events = inotify::Reader::new(&self.0, &mut buffer);
        while let Ok(event) = events.next() {
            if event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW) {
                return true;
            }
        }
        false
    }
}

#[test]
#[ignore = "takes minutes"]
fn forty_thousand_mails_that_come_at_once_are_sent_once_each() {
    const COUNT: usize = 40_000;
    let relay = ScriptedRelay::start();
    let site = Site::new(programs!()).relay(relay.port()).unsigned().build();
    let extra = Directive::to("abuseNUMBER@isp.example").event()["extra"].to_string();
    site.sql(&format!(
        "INSERT INTO events (\"source.asn\", \"source.ip\", \"time.source\", extra)
         SELECT 64496, '192.0.2.1', '2026-11-24T10:11:12+00:00',
                replace('{extra}', 'NUMBER', number::text)::jsonb
           FROM generate_series(1, {COUNT}) AS number"
    ));
    let service = site.start_deliverer(&["run"]);
    service.wait_for("delivering");
    service.signal(Signal::STOP);
    let witness = Witness::new(&site.outbox().join("new"));
    let began = Instant::now();
    let mut generator = site.start_generator(&["run", "--all"]);
    while generator.is_running() {
        assert!(began.elapsed() < Duration::from_secs(1800), "the generator takes too long");
        std::thread::sleep(Duration::from_millis(100));
    }
    generator.finish().expect(0);
    assert!(witness.overflowed());
    let (written, resumed) = (began.elapsed(), Instant::now());
    service.signal(Signal::CONT);
    for count in (0..=COUNT).step_by(500) {
        relay.wait_for_mails(count);
    }
    let sent = resumed.elapsed();
    wait_until("all are marked", || site.pending() == 0);
    wait_until("all are finished", || site.listed("sidecar").is_empty());
    service.terminate().expect(0);
    all_were_sent_once(&site, &relay, COUNT);
    eprintln!("{COUNT} mails: written in {written:?}, sent in {sent:?}");
}

#[test]
fn mails_of_which_inotify_lost_the_news_are_sent_all_the_same() {
    let relay = ScriptedRelay::start();
    let site = Site::new(programs!()).relay(relay.port()).unsigned().build();
    site.insert(&events::groups(300));
    let service = site.start_deliverer(&["run"]);
    service.wait_for("delivering");
    // Nobody reads, and the queue is full before the mails come.
    service.signal(Signal::STOP);
    let new = site.outbox().join("new");
    let witness = Witness::new(&new);
    let [here, there] = ["here.tmp", "there.tmp"].map(|name| new.join(name));
    File::create(&here).unwrap();
    for _ in 0..=queue_length() / 2 {
        fs::rename(&here, &there).unwrap();
        fs::rename(&there, &here).unwrap();
    }
    fs::remove_file(&here).unwrap();
    site.generator(&["run", "--all"]).expect(0);
    assert!(witness.overflowed());
    service.signal(Signal::CONT);
    relay.wait_for_mails(300);
    wait_until("all are marked", || site.pending() == 0);
    service.terminate().expect(0);
    all_were_sent_once(&site, &relay, 300);
}
