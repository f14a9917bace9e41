//! What both programs do so that the outbox stays fit for work: they watch the room it has, say what
//! is missing before it is missed, and leave alone what is not theirs.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use outbox_tests::events;
use outbox_tests::programs;
use outbox_tests::programs::wait_until;
use outbox_tests::scripted_relay::{Act, At, ScriptedRelay};
use outbox_tests::site::{Program, Site};
use serde_json::json;

/// More than any disk has.
const TOO_MUCH: &str = "900000G";

#[test]
fn below_a_floor_the_generator_writes_nothing_and_draws_no_ticket() {
    for (key, floor, none) in [
        ("outbox.min_free", json!(TOO_MUCH), json!("0")),
        ("outbox.min_free_inodes", json!(u64::MAX >> 1), json!(0)),
    ] {
        let mut site = Site::new(programs!()).unsigned().set(key, floor).build();
        site.insert(&events::groups(2));
        let tickets = "SELECT ticket_day::text FROM ticket_day";
        let before: Vec<String> = site.column(tickets);

        let run = site.generator(&["run", "--all"]).expect(75);

        let wanted = format!("{key} asks for");
        run.line("ERROR", &["no more mails are written (0 were in this run)", &wanted]);
        assert_eq!(site.files(), [""; 0]);
        assert_eq!(site.column::<String>(tickets), before);
        for check in [site.generator(&["check"]).expect(1), site.deliverer(&["check"]).expect(1)] {
            let mut lines = check.stdout.lines();
            assert!(
                lines.any(|line| line.starts_with("WRONG outbox: ") && line.contains(&wanted)),
                "{check}"
            );
        }
        // What only looks does not mind.
        let pending = site.generator(&["pending"]).expect(0);
        assert_eq!(pending.stdout.matches("due ").count(), 2, "{pending}");

        site.set(key, none);
        site.generator(&["run", "--all"]).expect(0);
        assert_eq!(site.listed("new").len(), 2);
    }
}

#[test]
fn below_a_floor_the_deliverer_goes_on() {
    let relay = ScriptedRelay::start();
    let mut site = Site::new(programs!()).relay(relay.port()).unsigned().build();
    site.insert(&events::groups(1));
    site.generator(&["run", "--all"]).expect(0);
    site.set("outbox.min_free", json!(TOO_MUCH));
    site.deliverer(&["run", "--once"]).expect(0);
    assert_eq!((relay.received().len(), site.pending()), (1, 0));
}

#[test]
fn a_disk_that_fills_up_during_a_run_ends_it_before_the_next_batch() {
    let site = Site::new(programs!()).unsigned().build();
    // Two batches.
    site.insert(&events::groups(150));
    // The second time it asks for the room, the file system says that there is none.
    let none = format!("inject=statfs:poke_exit=@arg2={}:when=2", "00".repeat(120));
    let options = ["-e", "trace=statfs", "-e", &none];
    let run = site.start_under_strace(Program::Generator, &["run", "--all"], &options).finish();

    let run = run.expect(75);
    run.line("ERROR", &["no more mails are written (100 were in this run)", "has 0 octets free"]);
    assert_eq!((site.listed("new").len(), site.listed("sidecar").len()), (100, 100));
    site.generator(&["run", "--all"]).expect(0).without("WARN");
    assert_eq!((site.listed("new").len(), site.listed("sidecar").len()), (150, 150));
}

#[test]
fn a_template_folder_without_templates_is_wrong_unless_the_formats_bring_their_own() {
    let mut site = Site::new(programs!()).unsigned().build();
    let (templates, formats) = (site.folder().join("none"), site.folder().join("formats"));
    fs::create_dir(&templates).unwrap();
    fs::create_dir(&formats).unwrap();
    site.set("template_dir", json!(templates));
    let check = site.generator(&["check"]).expect(1);
    let wrong = format!("WRONG templates: there is no template in {}", templates.display());
    assert!(check.stdout.contains(&wrong), "{check}");
    // Directives can name those in folders below.
    fs::create_dir(templates.join("de")).unwrap();
    let check = site.generator(&["check"]).expect(0);
    assert!(check.stdout.contains("ok    templates: 0 in "), "{check}");
    fs::remove_dir(templates.join("de")).unwrap();

    site.set("script_directory", json!(formats));
    let own = "[[format]]\nname = \"all\"\nsubject = \"ours\"\nbody = \"$events_as_csv\"\n\
               columns = [\"time.source\"]\n";
    fs::write(formats.join("10-own.toml"), own).unwrap();
    let check = site.generator(&["check"]).expect(0);
    assert!(check.stdout.contains("ok    templates: 0 in "), "{check}");
}

#[test]
fn check_tells_of_each_relay() {
    let (well, full) = (ScriptedRelay::start(), ScriptedRelay::start());
    full.always(At::Greeting, "", Act::Say("554 5.3.2 no service"));
    let relay = |port: u16| json!({"host": "127.0.0.1", "port": port});
    let both = json!([relay(well.port()), relay(full.port())]);
    let mut site = Site::new(programs!()).unsigned().set("smtp", both).build();

    let check = site.deliverer(&["check"]).expect(1);

    let expected = [
        format!("ok    relay: 127.0.0.1:{} greets us without TLS\n", well.port()),
        format!("WRONG relay: 127.0.0.1:{}: ", full.port()),
    ];
    assert!(expected.iter().all(|line| check.stdout.contains(line)), "{check}");
    assert!(check.stdout.contains("554 5.3.2 no service"), "{check}");
    check.line("ERROR", &["not well: relay"]);

    site.set("smtp", json!(relay(well.port())));
    let check = site.deliverer(&["check"]).expect(0);
    assert_eq!(check.stdout.matches("relay: ").count(), 1, "{check}");
}

#[test]
fn what_is_not_ours_is_named_once_and_disturbs_no_delivery() {
    let relay = ScriptedRelay::start();
    let site = Site::new(programs!()).relay(relay.port()).unsigned().build();
    site.insert(&events::groups(4));
    site.generator(&["run", "--all"]).expect(0);
    // The mails come back one by one below: each makes the service look at everything.
    let aside = site.folder().join("aside");
    fs::create_dir(&aside).unwrap();
    let mails: Vec<(PathBuf, PathBuf)> = (site.listed("new").into_iter())
        .map(|mail| (aside.join(mail.file_name().unwrap()), mail))
        .collect();
    for (aside, mail) in &mails {
        fs::rename(mail, aside).unwrap();
    }
    let mut odd = Vec::new();
    for folder in ["tmp", "new", "cur", "sidecar", "delivery"] {
        odd.extend(odd_things(&site, folder, ""));
    }
    for folder in ["sidecar", "delivery"] {
        odd.extend(odd_things(&site, folder, ".json"));
    }

    let service = site.start_deliverer(&["run"]);
    service.wait_for("delivering");
    for (number, (aside, mail)) in (1..).zip(&mails) {
        fs::rename(aside, mail).unwrap();
        relay.wait_for_mails(number);
    }
    wait_until("all are marked", || site.pending() == 0);
    let run = service.terminate().expect(0);

    for path in &odd {
        let path = path.display().to_string();
        let naming = run.stderr.lines().filter(|line| line.contains(&path)).count();
        assert_eq!(naming, 1, "{path} in {run}");
        assert!(fs::symlink_metadata(&path).is_ok(), "{path} is gone");
    }
    let said = run.lines("WARN").len() + run.lines("ERROR").len();
    assert_eq!(said, odd.len(), "nothing else is told: {run}");
    assert_eq!(relay.received().len(), 4);
}

/// Puts into a folder of the outbox what has no business there. Each name begins with the folder's,
/// since equal names in two folders would be of one mail.
fn odd_things(site: &Site, folder: &str, end: &str) -> Vec<PathBuf> {
    let path = |what: &str| {
        let kind = if end.is_empty() { "" } else { "json-" };
        site.outbox().join(folder).join(format!("{folder}-{kind}{what}{end}"))
    };
    let [fifo, link, inner, large, empty] = ["fifo", "link", "folder", "large", "empty"].map(path);
    make_fifo(&fifo);
    symlink(site.folder(), &link).unwrap();
    fs::create_dir(&inner).unwrap();
    File::create(&large).unwrap().set_len(2 << 30).unwrap();
    File::create(&empty).unwrap();
    let mut odd = vec![fifo, link, inner, large, empty];
    if end.is_empty() {
        let flagged = path("x:2,S");
        let hidden = site.outbox().join(folder).join(".hidden");
        File::create(&flagged).unwrap();
        File::create(&hidden).unwrap();
        odd.extend([flagged, hidden]);
    }
    odd
}

fn make_fifo(path: &Path) {
    let made = Command::new("mkfifo").arg(path).status().unwrap();
    assert!(made.success());
}
