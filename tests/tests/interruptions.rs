//! Killed, stopped, or without database or relay for a while: every directive ends `sent`, once.
//!
//! Killed at each single call of the system: that is in `torture.rs`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use outbox_tests::events::{self, recipient};
use outbox_tests::mail;
use outbox_tests::postfix::Postfix;
use outbox_tests::programs::wait_until;
use outbox_tests::random::Random;
use outbox_tests::scripted_relay::{Act, At, ScriptedRelay};
use outbox_tests::site::{Program, Site};
use outbox_tests::{Cluster, programs};
use serde_json::json;

// ---- Killed ----

#[test]
fn a_generator_killed_at_any_moment_loses_nothing_and_repeats_nothing() {
    let relay = ScriptedRelay::start();
    let site = Site::new(programs!()).relay(relay.port()).build();
    let count = 300;
    site.insert(&events::groups(count));
    let mut random = Random::seeded(1764);
    let files = || -> BTreeSet<PathBuf> {
        ["tmp", "new"].iter().flat_map(|folder| site.listed(folder)).collect()
    };
    let mut left = Vec::new();
    for _ in 0..8 {
        // The moment counts from what it has done, so that it means the same on a slow machine. A
        // hundred mails are drafted before they are published together, that is, renamed.
        let (before, enough) = (files(), usize::try_from(random.below(220)).unwrap());
        let mut seen = BTreeSet::new();
        let mut generator = site.start_generator(&["run", "--all"]);
        wait_until("it has done enough", || {
            seen.extend(files().difference(&before).cloned());
            !generator.is_running() || seen.len() >= enough
        });
        thread::sleep(random.moment(Duration::from_millis(30)));
        generator.kill();
        assert_no_claim_twice(&site);
        left.push(["tmp", "sidecar", "new"].map(|at| site.listed(at).len()));
    }
    println!("left in tmp, sidecar and new: {left:?}");
    assert!(left.iter().any(|[drafts, ..]| *drafts > 0) && left.iter().any(|[.., new]| *new > 0));
    site.generator(&["run", "--all"]).expect(0);
    assert_no_claim_twice(&site);
    assert_eq!((site.listed("tmp").len(), site.listed("new").len()), (0, count));
    assert_eq!(site.listed("sidecar").len(), count);
    // Written with half of it missing would be worse than not written.
    for read in mail::read(&site.listed("new"), Some(site.gnupg().home())) {
        assert_eq!(read.signed_by.as_deref(), Some(site.gnupg().fingerprint()));
    }

    site.deliverer(&["run", "--once"]).expect(0);
    assert_all_sent_once(&site, count, &received(&relay), 0);
}

#[test]
fn a_deliverer_killed_at_any_moment_repeats_at_most_the_mails_in_hand() {
    let relay = ScriptedRelay::start();
    let site = Site::new(programs!()).relay(relay.port()).build();
    let count = 300;
    site.insert(&events::groups(count));
    site.generator(&["run", "--all"]).expect(0);
    let mut random = Random::seeded(1765);
    let kills = 8;
    for kill in 1..=kills {
        let deliverer = site.start_deliverer(&["run"]);
        relay.wait_for_mails(kill * 30);
        thread::sleep(random.moment(Duration::from_millis(20)));
        deliverer.kill();
    }
    site.deliverer(&["run", "--once"]).expect(0).without("ERROR");
    assert_all_sent_once(&site, count, &received(&relay), kills * CONNECTIONS);
}

/// Directives arrive in portions while both programs are started, and killed, at random moments.
#[test]
fn both_killed_at_random_while_mails_go_through_postfix() {
    let (count, kills) = (250, 4);
    let postfix = Postfix::shared();
    let site = Site::new(programs!()).relay(postfix.port()).build();
    let mut random = Random::seeded(1766);
    let all = events::groups(count);
    thread::scope(|scope| {
        let site = &site;
        let mut other = random.clone();
        scope.spawn(move || {
            for portion in all.chunks(count.div_ceil(kills)) {
                site.insert(portion);
                let generator = site.start_generator(&["run", "--all"]);
                thread::sleep(random.moment(Duration::from_millis(900)));
                generator.kill();
            }
            site.generator(&["run", "--all"]).expect(0);
        });
        scope.spawn(move || {
            for _ in 0..kills {
                let deliverer = site.start_deliverer(&["run"]);
                deliverer.wait_for("delivering");
                thread::sleep(other.moment(Duration::from_millis(1_200)));
                deliverer.kill();
            }
        });
    });
    site.deliverer(&["run", "--once"]).expect(0).without("ERROR");

    let delivered = || -> Vec<(String, Vec<u8>)> {
        let mails = postfix.mails_of(site.domain()).into_iter().map(|file| {
            let bytes = fs::read(file).unwrap();
            // But for the fields that Postfix puts before it, with its own queue id in them.
            let from = String::from_utf8(bytes.clone()).unwrap().find("\nFrom: ").unwrap();
            (mail::header(&bytes, "Message-ID").unwrap(), bytes[from..].to_vec())
        });
        mails.collect()
    };
    let distinct = |received: &[(String, Vec<u8>)]| {
        received.iter().map(|(id, _)| id.clone()).collect::<BTreeSet<_>>().len()
    };
    wait_until("Postfix has delivered all", || distinct(&delivered()) >= count);
    assert_all_sent_once(&site, count, &delivered(), kills * CONNECTIONS);
}

#[test]
fn a_deliverer_killed_between_the_relays_answer_and_its_record_sends_the_same_mail_again() {
    let relay = ScriptedRelay::start();
    let site = Site::new(programs!()).relay(relay.port()).build();
    site.insert(&events::groups(1));
    site.generator(&["run", "--all"]).expect(0);
    relay.once(At::FinalDot, "", Act::Hold);
    let deliverer = site.start_deliverer(&["run"]);
    relay.wait_until_held();
    deliverer.kill();
    relay.go_on();
    assert_eq!(site.files(), ["new/#1", "sidecar/#1.json"], "nothing was written down");
    site.deliverer(&["run", "--once"]).expect(0);
    let received = relay.received();
    assert_eq!(received.len(), 2);
    assert_eq!(received[0].bytes, received[1].bytes, "the Message-ID among them");
    assert_eq!(site.files(), ["sent/cur/#1:2,S"]);
    assert_eq!((site.pending(), site.sent_tickets().len()), (0, 1));
}

#[test]
fn a_deliverer_killed_while_it_marks_sends_nothing_again() {
    let relay = ScriptedRelay::start();
    let site = Site::new(programs!()).relay(relay.port()).build();
    site.insert(&events::groups(2));
    site.generator(&["run", "--all"]).expect(0);
    let held = site.hold("SELECT FROM directives FOR UPDATE");
    let deliverer = site.start_deliverer(&["run"]);
    wait_until("it waits to mark the mails", || site.waits(Program::Deliverer, "Lock"));
    relay.wait_for_mails(2);
    wait_until("both are written down", || site.listed("delivery").len() == 2);
    deliverer.kill();
    let expected = [
        "delivery/#1.json",
        "delivery/#2.json",
        "new/#1",
        "new/#2",
        "sidecar/#1.json",
        "sidecar/#2.json",
    ];
    assert_eq!(site.files(), expected);
    assert!(site.records().iter().all(|record| record["state"] == "accepted"));
    drop(held);

    relay.go_away();
    site.deliverer(&["run", "--once"]).expect(0);
    assert_eq!(site.files(), ["sent/cur/#1:2,S", "sent/cur/#2:2,S"]);
    assert_eq!((site.pending(), relay.received().len()), (0, 2));
}

// ---- Told to stop ----

#[test]
fn told_to_stop_the_deliverer_finishes_the_mail_in_hand_and_no_other() {
    let relay = ScriptedRelay::start();
    let site = Site::new(programs!()).relay(relay.port()).build();
    site.insert(&events::groups(3));
    site.generator(&["run", "--all"]).expect(0);
    relay.once(At::FinalDot, "", Act::Hold);
    let deliverer = site.start_deliverer(&["run"]);
    relay.wait_until_held();
    deliverer.signal(rustix::process::Signal::TERM);
    deliverer.wait_for("told to stop");
    relay.go_on();
    let run = deliverer.finish().expect(0).without("WARN").without("ERROR");
    run.line("INFO", &["done", "relayed=1 finished=1", "unmarked=0"]);
    let expected = ["new/#2", "new/#3", "sent/cur/#1:2,S", "sidecar/#2.json", "sidecar/#3.json"];
    assert_eq!(site.files(), expected);
    assert_eq!((site.pending(), relay.received().len()), (2, 1));
    assert_eq!(relay.commands().last().unwrap(), "QUIT");
}

// ---- Without the database ----

#[test]
fn while_the_database_is_away_mails_go_on_up_to_a_limit_and_are_marked_when_it_is_back() {
    let cluster = Cluster::private();
    let relay = ScriptedRelay::start();
    let site = Site::new(programs!())
        .database(cluster.database())
        .relay(relay.port())
        .set("delivery.unmarked_limit", json!(5))
        .build();
    site.insert(&events::groups(12));
    site.generator(&["run", "--all"]).expect(0);
    cluster.stop();

    let service = site.start_deliverer(&["run"]);
    service.wait_for("relaying waits until the database takes marks");
    relay.wait_for_mails(5);
    assert_eq!((site.listed("delivery").len(), site.listed("new").len()), (5, 12));
    assert!(site.records().iter().all(|record| record["state"] == "accepted"));

    cluster.start();
    service.wait_for("the database takes marks again");
    relay.wait_for_mails(12);
    wait_until("all are finished", || site.listed("sidecar").is_empty());
    let run = service.terminate().expect(0);
    let errors = run.lines("ERROR");
    assert_eq!(errors.len(), 1, "one line, not one a mail: {run}");
    assert!(errors[0].contains("the database does not take marks"), "{run}");
    assert_all_sent_once(&site, 12, &received(&relay), 0);
}

#[test]
fn a_run_without_the_database_says_so_and_a_later_one_marks_without_sending_again() {
    let relay = ScriptedRelay::start();
    let mut site = Site::new(programs!()).relay(relay.port()).build();
    site.insert(&events::groups(2));
    site.generator(&["run", "--all"]).expect(0);
    let port = site.database().port();
    site.set("database.event.port", json!(1));
    let run = site.deliverer(&["run", "--once"]).expect(75);
    run.line("ERROR", &["the database does not take marks", "cannot connect"]);
    assert_eq!(relay.received().len(), 2);
    assert_eq!(site.pending(), 2);
    site.deliverer(&["list"]).expect(0);

    site.set("database.event.port", json!(port));
    relay.go_away();
    site.deliverer(&["run", "--once"]).expect(0);
    assert_eq!(site.files(), ["sent/cur/#1:2,S", "sent/cur/#2:2,S"]);
    assert_eq!((site.pending(), relay.received().len()), (0, 2));
}

#[test]
fn a_database_killed_while_it_marks_has_all_marked_once_when_it_is_back() {
    let cluster = Cluster::private();
    let relay = ScriptedRelay::start();
    let site = Site::new(programs!()).database(cluster.database()).relay(relay.port()).build();
    site.insert(&events::groups(3));
    site.generator(&["run", "--all"]).expect(0);
    let held = site.hold("SELECT FROM directives FOR UPDATE");
    let service = site.start_deliverer(&["run"]);
    wait_until("it waits to mark the mails", || site.waits(Program::Deliverer, "Lock"));
    cluster.kill();
    drop(held);
    cluster.start();
    wait_until("all are finished", || site.listed("sidecar").is_empty());
    service.terminate().expect(0);
    assert_all_sent_once(&site, 3, &received(&relay), 0);
}

#[test]
fn a_commit_whose_answer_is_lost_is_told_again_and_changes_nothing() {
    let cluster = Cluster::private();
    let relay = ScriptedRelay::start();
    let site = Site::new(programs!()).database(cluster.database()).relay(relay.port()).build();
    site.insert(&events::groups(3));
    site.generator(&["run", "--all"]).expect(0);
    // A standby that never comes: a commit is on disk, and waits to be said.
    site.sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
    site.sql("SELECT pg_reload_conf()");
    let setting = "SELECT setting FROM pg_settings WHERE name = 'synchronous_standby_names'";
    wait_until("the setting holds", || site.column::<String>(setting) == ["nobody"]);

    let service = site.start_deliverer(&["run"]);
    wait_until("its commit waits to be said", || site.waits(Program::Deliverer, "IPC"));
    relay.wait_for_mails(3);
    site.sql("ALTER SYSTEM RESET synchronous_standby_names");
    cluster.kill();
    cluster.start();
    assert!(!site.sent_tickets().is_empty(), "the commit had come through");
    wait_until("all are finished", || site.listed("sidecar").is_empty());
    service.terminate().expect(0);
    assert_all_sent_once(&site, 3, &received(&relay), 0);
}

#[test]
fn a_database_that_goes_away_under_the_generator_leaves_all_pending_or_claimed() {
    let cluster = Cluster::private();
    let relay = ScriptedRelay::start();
    let site = Site::new(programs!()).database(cluster.database()).relay(relay.port()).build();
    site.insert(&events::groups(150));
    let held = site.hold("SELECT FROM ticket_day FOR UPDATE");
    let generator = site.start_generator(&["run", "--all"]);
    wait_until("it waits for its tickets", || site.waits(Program::Generator, "Lock"));
    cluster.kill();
    generator.finish().expect(75);
    assert_eq!(site.files(), [""; 0]);
    drop(held);
    cluster.start();
    site.generator(&["run", "--all"]).expect(0);
    site.deliverer(&["run", "--once"]).expect(0);
    assert_all_sent_once(&site, 150, &received(&relay), 0);
}

// ---- What the tests above are made of ----

/// How many mails a deliverer has in hand at most: the default of `delivery.connections`.
const CONNECTIONS: usize = 4;

/// Every mail that came, by its Message-ID.
fn received(relay: &ScriptedRelay) -> Vec<(String, Vec<u8>)> {
    relay.received().into_iter().map(|mail| (mail.message_id(), mail.bytes)).collect()
}

/// No directive stands in two sidecars, and no ticket.
fn assert_no_claim_twice(site: &Site) {
    let sidecars = site.sidecars();
    let mut directives = BTreeSet::new();
    let mut tickets = BTreeSet::new();
    for sidecar in &sidecars {
        for directive in sidecar["directive_ids"].as_array().unwrap() {
            assert!(directives.insert(directive.as_i64().unwrap()), "{directive} twice");
        }
        let ticket = sidecar["ticket"].as_str().unwrap();
        assert!(tickets.insert(ticket.to_owned()), "{ticket} twice");
    }
}

/// Every directive of [`events::groups`] is sent; the relay has each group's mail once, but for so
/// many repetitions, which are the same to the last byte; the outbox is empty but for the archive,
/// which has each mail once.
fn assert_all_sent_once(
    site: &Site,
    count: usize,
    received: &[(String, Vec<u8>)],
    repetitions: usize,
) {
    assert_eq!(site.pending(), 0);
    let tickets = site.sent_tickets();
    assert_eq!(tickets.len(), count);
    assert_eq!(tickets.iter().collect::<BTreeSet<_>>().len(), count, "no ticket twice");

    let mut by_id: BTreeMap<&str, Vec<&[u8]>> = BTreeMap::new();
    for (message_id, bytes) in received {
        by_id.entry(message_id).or_default().push(bytes);
    }
    assert_eq!(by_id.len(), count, "a mail for each group");
    let repeated = received.len() - count;
    assert!(repeated <= repetitions, "{repeated} repetitions, for {repetitions} kills");
    println!("{repeated} mails came again");
    let mut recipients: HashMap<String, usize> = HashMap::new();
    let mut numbers = BTreeSet::new();
    for mails in by_id.values() {
        assert!(mails.iter().all(|bytes| *bytes == mails[0]), "a repetition is the same mail");
        *recipients.entry(mail::header(mails[0], "To").unwrap()).or_default() += 1;
        numbers.insert(mail::header(mails[0], "X-Ticket").unwrap());
    }
    assert!(numbers.iter().eq(tickets.iter()), "what was sent is what is marked");
    for number in 1..=count {
        assert_eq!(recipients.get(&format!("<{}>", recipient(number))), Some(&1));
    }

    let mut others = site.files();
    others.retain(|file| !file.starts_with("sent/cur/#"));
    assert_eq!(others, [""; 0], "nothing is left but the archive");
    assert_eq!(site.listed("sent/cur").len(), count);
}
