//! Several hosts with an outbox each on one database: each generator writes to its share of the
//! groups, and to no other's.

use std::collections::{BTreeMap, BTreeSet};

use outbox_tests::events::{self, Directive};
use outbox_tests::programs;
use outbox_tests::programs::wait_until;
use outbox_tests::scripted_relay::ScriptedRelay;
use outbox_tests::site::Site;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// Hosts with an outbox each and the database of the first, one for each of these shards.
fn hosts(shards: &[Value]) -> Vec<Site> {
    let mut hosts: Vec<Site> = Vec::new();
    for shard in shards {
        let mut builder = Site::new(programs!()).unsigned().set("shard", shard.clone());
        if let Some(first) = hosts.first() {
            builder = builder.set("database.event.name", json!(first.database().name()));
        }
        hosts.push(builder.build());
    }
    hosts
}

fn shard(index: u32, count: u32) -> Value {
    json!({"index": index, "count": count})
}

/// Events of many groups, three each: with aggregate identifiers, without, and with a null.
fn many_groups() -> Vec<Value> {
    (0..120)
        .map(|number| {
            let to = Directive::to(&format!("abuse{}@isp.example", number % 10));
            match number % 4 {
                0 => to.event(),
                1 => to.aggregate("source.asn", 64496 + number % 10).event(),
                2 => to.aggregate("cidr", json!(null)).event(),
                _ => to.aggregate("feed", "Übersicht, \"{1}\"").aggregate("a", "b").event(),
            }
        })
        .collect()
}

/// Which of `count` shares a group is of, by the documented rule.
fn share(sidecar: &Value, count: u32) -> u32 {
    let group = &sidecar["group"];
    let mut text = group["recipient_address"].as_str().unwrap().to_owned();
    // The array in the database has the order of the directive, which here is that of the alphabet.
    let pairs = group["aggregate_identifier"].as_object().unwrap();
    let mut parts: Vec<&str> = Vec::new();
    for (name, value) in pairs {
        parts.extend([name.as_str(), value.as_str().unwrap_or_default()]);
    }
    text.push('\u{1f}');
    text.push_str(&parts.join("\u{1f}"));
    let digest = Sha256::digest(text.as_bytes());
    (u32::from_be_bytes(digest[..4].try_into().unwrap()) >> 4) % count
}

fn directive_ids(sidecar: &Value) -> Vec<i64> {
    let ids = sidecar["directive_ids"].as_array().unwrap();
    ids.iter().map(|id| id.as_i64().unwrap()).collect()
}

/// How many generators wait for the row of `ticket_day`, when they hold all their other locks.
fn waiting(site: &Site) -> i64 {
    site.column(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
            AND application_name = 'outbox-generator' AND wait_event_type = 'Lock'",
    )[0]
}

#[test]
fn shards_at_the_same_time_put_each_directive_into_one_mail_and_each_group_into_one_share() {
    let hosts = hosts(&[shard(0, 4), shard(1, 4), shard(2, 4), shard(3, 4)]);
    let first = &hosts[0];
    first.insert(&many_groups());
    let held = first.hold("SELECT FROM ticket_day FOR UPDATE");
    let runs: Vec<_> = hosts.iter().map(|host| host.start_generator(&["run", "--all"])).collect();
    wait_until("all are at work", || waiting(first) == 4);
    drop(held);
    for run in runs {
        run.finish().expect(0).without("WARN").line("INFO", &["done", "errors=0"]);
    }

    let mut groups: BTreeMap<String, usize> = BTreeMap::new();
    let (mut directives, mut tickets) = (Vec::new(), BTreeSet::new());
    for (index, host) in (0..).zip(&hosts) {
        let sidecars = host.sidecars();
        assert!(!sidecars.is_empty(), "of so many groups each share has some");
        for sidecar in &sidecars {
            assert_eq!(share(sidecar, 4), index, "{sidecar}");
            *groups.entry(sidecar["group"].to_string()).or_default() += 1;
            directives.extend(directive_ids(sidecar));
            assert!(tickets.insert(sidecar["ticket"].as_str().unwrap().to_owned()), "{sidecar}");
        }
    }
    directives.sort_unstable();
    assert_eq!(directives, first.column::<i64>("SELECT id FROM directives ORDER BY id"));
    let distinct = "SELECT count(*) FROM (SELECT DISTINCT recipient_address, aggregate_identifier
                                            FROM directives) AS groups";
    assert_eq!(first.column::<i64>(distinct), [i64::try_from(groups.len()).unwrap()]);
    assert!(groups.values().all(|&mails| mails == 1), "a group is whole: {groups:?}");

    // Each leaves to the others what is theirs.
    for host in &hosts {
        host.generator(&["run", "--all"]).expect(0).line("INFO", &["done", "mails=0"]);
    }
}

#[test]
fn pending_and_check_tell_of_the_own_shard_and_no_other() {
    let hosts = hosts(&[shard(0, 2), shard(1, 2)]);
    hosts[0].insert(&many_groups());
    let mut shown = 0;
    for (index, host) in hosts.iter().enumerate() {
        let run = host.generator(&["pending"]).expect(0);
        let last = run.stdout.lines().last().unwrap();
        assert!(last.ends_with(&format!("in shard {index} of 2")), "{run}");
        let listed = host.generator(&["pending", "--json"]).expect(0).stdout;
        let listed: Vec<Value> = serde_json::from_str(&listed).unwrap();
        shown += listed.len();
        let run = host.generator(&["check"]).expect(0);
        assert!(run.stdout.contains(&format!(", shard {index} of 2\n")), "{run}");
    }
    let distinct = "SELECT count(*) FROM (SELECT DISTINCT recipient_address, aggregate_identifier
                                            FROM directives) AS groups";
    assert_eq!(hosts[0].column::<i64>(distinct), [i64::try_from(shown).unwrap()]);
}

#[test]
fn the_same_shard_on_two_hosts_is_written_by_the_first_and_left_alone_by_the_second() {
    let hosts = hosts(&[shard(1, 2), shard(1, 2), shard(0, 2)]);
    hosts[0].insert(&many_groups());
    let held = hosts[0].hold("SELECT FROM ticket_day FOR UPDATE");
    let first = hosts[0].start_generator(&["run", "--all"]);
    wait_until("the first is at work", || waiting(&hosts[0]) == 1);
    let second = hosts[1].generator(&["run", "--all"]).expect(0).without("ERROR");
    second.line("INFO", &["another outbox-generator works on shard 1 of 2 in this database"]);
    assert_eq!(second.lines("INFO").len(), 1, "{second}");
    assert_eq!(hosts[1].files(), [""; 0]);
    // The other shard is another's.
    let other = hosts[2].start_generator(&["run", "--all"]);
    wait_until("the other is at work too", || waiting(&hosts[0]) == 2);
    drop(held);
    for run in [first, other] {
        run.finish().expect(0).line("INFO", &["done", "errors=0"]);
    }
    assert!(!hosts[0].sidecars().is_empty() && !hosts[2].sidecars().is_empty());
}

#[test]
fn generators_that_count_differently_do_not_work_at_the_same_time() {
    let hosts = hosts(&[shard(0, 2), shard(3, 4), shard(0, 1)]);
    let database = &hosts[0];
    database.insert(&events::groups(20));
    for at_work in &hosts {
        let held = database.hold("SELECT FROM ticket_day FOR UPDATE");
        let first = at_work.start_generator(&["run", "--all"]);
        wait_until("the first is at work", || waiting(database) == 1);
        for other in hosts.iter().filter(|other| other.domain() != at_work.domain()) {
            let run = other.generator(&["run", "--all"]).expect(78);
            run.line("ERROR", &["another outbox-generator works on this database with a shard"]);
        }
        // It ends without having written: the others find nothing claimed nor written.
        first.kill();
        drop(held);
        let sessions = "SELECT count(*) FROM pg_stat_activity
                         WHERE datname = current_database() AND application_name = 'outbox-generator'";
        wait_until("the server has noticed", || database.column::<i64>(sessions) == [0]);
        assert_eq!(at_work.files(), [""; 0]);
    }
}

#[test]
fn a_count_that_changes_while_mails_are_in_the_outbox_stops_the_generator_until_they_are_gone() {
    let relay = ScriptedRelay::start();
    let mut hosts = hosts(&[shard(0, 2)]);
    let mut host = hosts.remove(0);
    host.set("smtp.port", json!(relay.port()));
    host.insert(&many_groups());
    host.generator(&["run", "--all"]).expect(0);
    let written = host.sidecars().len();
    host.set("shard", shard(0, 3));
    let run = host.generator(&["run", "--all"]).expect(75);
    run.line("ERROR", &["claim", "directives that are not of shard 0 of 3"]);
    let run = host.generator(&["check"]).expect(1);
    assert!(
        run.stdout.contains("WRONG database: ") && run.stdout.contains("shard 0 of 3"),
        "{run}"
    );
    assert_eq!(host.sidecars().len(), written);

    host.deliverer(&["run", "--once"]).expect(0);
    let run = host.generator(&["run", "--all"]).expect(0);
    run.line("INFO", &["done", "errors=0"]);
    assert!(!host.sidecars().is_empty(), "its new share has groups that are not sent yet");
}

#[test]
fn a_shard_that_can_not_be_is_refused_with_the_key() {
    for (wrong, key) in [
        (shard(4, 4), "shard.index"),
        (shard(0, 0), "shard.count"),
        (shard(0, 1025), "shard.count"),
        (json!({"index": -1, "count": 2}), "shard.index"),
        (json!({"index": 1}), "shard"),
    ] {
        let hosts = hosts(std::slice::from_ref(&wrong));
        let run = hosts[0].generator(&["run", "--all"]).expect(78);
        run.line("ERROR", &[&format!(": {key}: ")]);
    }
}
