//! What an operator's monitoring sees: `status` as a plugin for Icinga, whatever state things are in.

use std::os::unix::process::ExitStatusExt as _;

use outbox_tests::events;
use outbox_tests::programs;
use outbox_tests::scripted_relay::ScriptedRelay;
use outbox_tests::site::Site;
use serde_json::{Value, json};

/// The first line before the performance data, and that.
#[track_caller]
fn halves(text: &str) -> (&str, &str) {
    let line = text.lines().next().unwrap_or_default();
    line.split_once(" | ").unwrap_or_else(|| panic!("no performance data: {text}"))
}

#[test]
fn status_counts_what_is_in_the_outbox_and_misses_a_service() {
    let site = Site::new(programs!()).unsigned().build();
    site.insert(&events::groups(3));
    site.generator(&["run", "--all"]).expect(0);
    site.flag(&site.listed("new")[0], "F");
    let found = site.deliverer(&["status"]).expect(2);
    let (words, perfdata) = halves(&found.stdout);
    assert!(
        words.starts_with("OUTBOX CRITICAL - no deliverer runs; 2 queued, 1 held; oldest "),
        "{words}"
    );
    assert!(
        perfdata.starts_with("queued=2;;;0 deferred=0;;;0 held=1;;;0 withdrawn=0;0;;0 "),
        "{perfdata}"
    );
    assert_eq!(found.stderr, "", "Icinga shows standard output alone");

    let json: Value =
        serde_json::from_str(&site.deliverer(&["status", "--json"]).expect(2).stdout).unwrap();
    assert_eq!(json["status"], "CRITICAL");
    assert_eq!(json["mails"]["queued"], 2);
    assert_eq!(json["problems"][0]["what"], "no deliverer runs");
}

#[test]
fn a_service_is_seen_until_it_ends_or_is_killed() {
    let relay = ScriptedRelay::start();
    let site = Site::new(programs!()).unsigned().relay(relay.port()).build();
    let running = || {
        let service = site.start_deliverer(&["run"]);
        service.wait_for("delivering");
        site.deliverer(&["status"]).expect(0);
        service
    };
    running().terminate().expect(0);
    site.deliverer(&["status"]).expect(2);
    let killed = running().kill();
    assert_eq!(killed.status.signal(), Some(9), "{killed}");
    site.deliverer(&["status"]).expect(2);
}

#[test]
fn what_status_can_not_know_is_unknown_and_never_critical() {
    let mut site = Site::new(programs!()).unsigned().build();
    site.deliverer(&["status", "--warn-age", "soon"]).expect(3);
    site.deliverer(&["status", "--help"]).expect(0);
    site.deliverer(&["list", "--state", "odd"]).expect(2);
    let unknown = |site: &Site, words: &str| {
        let found = site.deliverer(&["status"]).expect(3);
        assert!(found.stdout.starts_with("OUTBOX UNKNOWN - "), "{found}");
        assert!(found.stdout.contains(words), "{found}");
    };
    site.set("outbox.path", json!(site.folder().join("missing")));
    unknown(&site, "is its file system mounted?");
    site.set("outbox.pfad", json!("x"));
    unknown(&site, "outbox.pfad");
}
