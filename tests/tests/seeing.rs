//! What others see of the service: systemd, an operator's monitoring and its log, whatever state
//! things are in.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use outbox_tests::Cluster;
use outbox_tests::events::{self, recipient};
use outbox_tests::programs;
use outbox_tests::programs::{LIMIT, wait_until};
use outbox_tests::scripted_relay::{Act, At, ScriptedRelay};
use outbox_tests::service_manager::ServiceManager;
use outbox_tests::site::Site;
use outbox_tests::system::free_port;
use rustix::process::Signal;
use serde_json::{Value, json};

// ---- `status` ----

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

#[test]
fn status_tells_of_a_relay_in_trouble_a_database_that_is_away_and_a_full_disk() {
    let relay = ScriptedRelay::start();
    let mut site = Site::new(programs!()).unsigned().relay(relay.port()).build();
    let name = format!("127.0.0.1:{}", relay.port());
    more_mails(&site, 1);
    more_mails(&site, 2);
    site.deliverer(&["hold", "--recipient", &recipient(2)]).expect(0);
    // The generator, whose work is done, would mind as well.
    site.set("database.event.port", json!(1));
    site.set("outbox.min_free", json!("8000000G"));
    let service = site.start_deliverer(&["run"]);
    service.wait_for("the database does not take marks");
    let warned = |words: &[&str]| {
        let found = site.deliverer(&["status"]);
        let line = found.stdout.lines().next().unwrap_or_default().to_owned();
        (found.status.code() == Some(1) && words.iter().all(|it| line.contains(it)))
            .then_some(found)
    };
    wait_until("status tells", || warned(&["database away for ", "disk low: "]).is_some());
    relay.go_away();
    site.deliverer(&["release", "--all"]).expect(0);
    let trouble = format!("relay {name} in trouble for ");
    wait_until("status tells of the relay", || warned(&[&trouble]).is_some());

    let found = warned(&["OUTBOX WARNING - ", &trouble, "database away for ", "disk low: "]);
    let found = found.expect("it still says so").stdout;
    assert!(halves(&found).1.contains("accepted=1;;;0 "), "{found}");
    let more = |words: &str| {
        found.lines().any(|line| line.starts_with("WARNING: ") && line.contains(words))
    };
    assert!(more("Connection refused (os error 111); tried again at 20"), "{found}");
    assert!(more("away for") && more("cannot connect to database"), "{found}");
    assert!(more("no new mails are written: ") && more("outbox.min_free asks for"), "{found}");

    let json: Value =
        serde_json::from_str(&site.deliverer(&["status", "--json"]).expect(1).stdout).unwrap();
    assert_eq!(json["status"], "WARNING");
    assert_eq!(json["deliverer_runs"], true);
    assert_eq!(json["problems"].as_array().map(Vec::len), Some(3), "{json}");
    assert_eq!(json["service"]["relays"][0]["name"], json!(name));
    assert!(json["service"]["relays"][0]["trouble"]["words"].is_string(), "{json}");
    assert!(json["service"]["database"]["since"].is_string(), "{json}");
    assert!(
        json["service"]["disk_low"].as_str().is_some_and(|lack| lack.contains("free")),
        "{json}"
    );

    // All relays, for longer than `--crit-age`.
    let critical = || site.deliverer(&["status", "--crit-age", "1s"]).status.code() == Some(2);
    wait_until("it lasts for more than a second", critical);

    relay.come_back();
    wait_until("the relay is well", || {
        site.deliverer(&["status"]).stdout.contains(&format!("relay {name} ok"))
    });
    service.terminate().expect(0);
}

#[test]
fn status_warns_of_as_many_mails_in_a_state_as_it_is_told_to() {
    let relay = ScriptedRelay::start();
    let site = Site::new(programs!()).unsigned().relay(relay.port()).build();
    relay.always(At::Rcpt, &recipient(1), Act::Say("550 5.1.1 no such user"));
    for number in 1..=4 {
        more_mails(&site, number);
    }
    site.deliverer(&["hold", "--recipient", &recipient(2), "--recipient", &recipient(3)]).expect(0);
    site.flag(&site.mail_to(&recipient(4)), "T");
    let service = site.start_deliverer(&["run"]);
    service.wait_for("rejected by the relay");
    let status = |arguments: &str| {
        let arguments: Vec<&str> = "status".split(' ').chain(arguments.split(' ')).collect();
        site.deliverer(&arguments)
    };
    let found = status("--warn-failed 1 --warn-withdrawn 1 --warn-held 2").expect(0).stdout;
    assert!(halves(&found).0.contains("2 held, 1 withdrawn, 1 failed"), "{found}");
    assert!(halves(&found).1.contains("held=2;2;;0 withdrawn=1;1;;0"), "{found}");
    for (limits, code, words) in [
        ("--warn-withdrawn 1", 1, "WARNING - 1 failed; "),
        ("--warn-failed 1", 1, "WARNING - 1 withdrawn; "),
        ("--warn-failed 1 --warn-withdrawn 1 --warn-held 1", 1, "WARNING - 2 held; "),
        ("--warn-withdrawn 1 --crit-held 1", 2, "CRITICAL - 2 held; 1 failed; "),
        ("--crit-failed 0", 2, "CRITICAL - 1 failed; 1 withdrawn; "),
    ] {
        let found = status(limits).expect(code).stdout;
        assert!(found.starts_with(&format!("OUTBOX {words}")), "{limits}: {found}");
    }
    service.terminate().expect(0);
}

// ---- systemd ----

#[test]
fn systemd_is_told_that_the_service_works_only_when_it_does() {
    let systemd = ServiceManager::start();
    let relay = ScriptedRelay::start();
    let mut site = Site::new(programs!())
        .unsigned()
        .relay(relay.port())
        .environment(systemd.environment())
        .build();
    let outbox = site.outbox();
    site.set("outbox.path", json!(site.folder().join("missing")));
    site.deliverer(&["run"]).expect(75);
    site.set("outbox.path", json!(outbox));
    {
        let outbox = outbox::Outbox::open(&outbox).unwrap();
        let _other = outbox.lock_deliverer().unwrap().expect("no deliverer runs");
        site.deliverer(&["run"]).expect(75);
    }
    site.set("metrics.listen", json!(format!("127.0.0.1:{}", relay.port())));
    site.deliverer(&["run"]).expect(75);
    site.set("metrics.listen", Value::Null);
    site.deliverer(&["status"]).expect(2);
    site.deliverer(&["run", "--once"]).expect(0);
    assert!(!systemd.news().iter().any(|text| text.contains("READY=1")), "{:?}", systemd.news());

    let service = site.start_deliverer(&["run"]);
    systemd.wait_for("READY=1");
    site.deliverer(&["status"]).expect(0);
    service.terminate().expect(0);
}

#[test]
fn systemd_is_told_in_a_line_what_the_service_is_about() {
    let systemd = ServiceManager::start();
    let relay = ScriptedRelay::start();
    let site = Site::new(programs!())
        .unsigned()
        .relay(relay.port())
        .environment(systemd.environment())
        .build();
    let line = |counts: &str| format!("STATUS={counts}; relay 127.0.0.1:{} ok", relay.port());
    let service = site.start_deliverer(&["run"]);
    systemd.wait_for(&line("no mails"));

    relay.once(At::FinalDot, "", Act::Hold);
    more_mails(&site, 1);
    systemd.wait_for(&line("1 queued"));
    relay.wait_until_held();
    relay.go_on();
    systemd.wait_for(&line("no mails"));

    relay.once(At::Rcpt, "", Act::Say("450 4.2.0 greylisted"));
    more_mails(&site, 2);
    let began = Instant::now();
    systemd.wait_for(&line("1 deferred"));
    // It looks every half minute anyway.
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    site.deliverer(&["hold", "--all"]).expect(0);
    systemd.wait_for(&line("1 held"));
    relay.once(At::Rcpt, "", Act::Say("550 5.1.1 no such user"));
    more_mails(&site, 3);
    systemd.wait_for(&line("1 held, 1 failed"));

    relay.go_away();
    more_mails(&site, 4);
    let trouble = systemd.wait_for("1 queued, 1 held, 1 failed; relay 127.0.0.1:");
    let trouble = if trouble.ends_with(" ok") { systemd.wait_for("in trouble") } else { trouble };
    assert!(trouble.contains(" in trouble since 20"), "{trouble}");
    relay.come_back();
    systemd.wait_for(&line("1 held, 1 failed"));
    service.terminate().expect(0);
    assert_eq!(systemd.news().last().map(String::as_str), Some("STOPPING=1"));
}

#[test]
fn systemd_hears_of_a_reload_and_its_end_whatever_comes_of_it() {
    let systemd = ServiceManager::start();
    let mut site = Site::new(programs!()).unsigned().environment(systemd.environment()).build();
    let service = site.start_deliverer(&["run"]);
    systemd.wait_for("STATUS=");
    let mut last = 0;
    let mut reload = |site: &mut Site, port: Value, words: &str| {
        site.set("smtp.port", port);
        let before = systemd.messages().len();
        service.signal(Signal::HUP);
        service.wait_for(words);
        systemd.wait_for("READY=1");
        let said = systemd.messages().split_off(before).into_iter().map(|(_, text)| text);
        let said: Vec<String> = said.filter(|text| !text.starts_with("STATUS=")).collect();
        let [reloading, ready] = &said[..] else { panic!("{said:?}") };
        let at = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect(reloading);
        let at: u64 = at.parse().unwrap();
        assert!(at > last, "the clock goes on: {at} after {last}");
        last = at;
        assert_eq!(ready, "READY=1");
    };
    reload(&mut site, json!(free_port()), "configuration read anew");
    reload(&mut site, json!("smtp"), "and the old one stays");
    service.terminate().expect(0);
}

#[test]
fn systemd_hears_that_the_service_lives_whoever_keeps_it_waiting() {
    let limit = Duration::from_secs(2);
    let systemd = ServiceManager::watching(limit);
    let relay = ScriptedRelay::start();
    let mut site = Site::new(programs!())
        .unsigned()
        .relay(relay.port())
        .environment(systemd.environment())
        .build();
    more_mails(&site, 1);
    more_mails(&site, 2);
    site.deliverer(&["hold", "--recipient", &recipient(2)]).expect(0);
    site.set("database.event.port", json!(1));
    let service = site.start_deliverer(&["run"]);
    service.wait_for("the database does not take marks");
    hear_life(&systemd);

    relay.once(At::FinalDot, "", Act::Hold);
    site.deliverer(&["release", "--all"]).expect(0);
    relay.wait_until_held();
    hear_life(&systemd);

    service.signal(Signal::TERM);
    systemd.wait_for("STOPPING=1");
    service.signal(Signal::HUP);
    hear_life(&systemd);
    relay.go_on();
    let ended = Instant::now();
    let run = service.finish().expect(0);
    assert!(run.stderr.contains("unmarked=2"), "{run}");
    assert_eq!(systemd.news().last().map(String::as_str), Some("STOPPING=1"));

    let alive: Vec<Instant> = systemd.messages().into_iter().map(|(when, _)| when).collect();
    let gaps =
        alive.windows(2).map(|pair| pair[1] - pair[0]).chain([ended - alive[alive.len() - 1]]);
    assert!(gaps.max() < Some(limit), "{:?}", systemd.messages());
}

/// Waits until the service said twice more that it lives.
#[track_caller]
fn hear_life(systemd: &ServiceManager) {
    for _ in 0..3 {
        systemd.wait_for("WATCHDOG=1");
    }
}

// ---- Metrics ----

#[test]
fn the_metrics_count_attempts_by_what_came_of_them() {
    let relay = ScriptedRelay::start();
    let port = free_port();
    let site = Site::new(programs!())
        .unsigned()
        .relay(relay.port())
        .set("metrics.listen", json!(format!("127.0.0.1:{port}")))
        .build();
    let [accepted, deferred, rejected, uncertain] =
        ["accepted", "deferred", "rejected", "uncertain"].map(|result| attempts(&relay, result));
    let service = site.start_deliverer(&["run"]);
    service.wait_for("delivering");
    let new = wait_for_samples(
        port,
        &[
            ("outbox_mails{state=\"queued\"}", 0.0),
            ("outbox_oldest_waiting_seconds", 0.0),
            (&accepted, 0.0),
            ("outbox_replies_total{class=\"5xx\"}", 0.0),
            ("outbox_smtp_phase_seconds_count{phase=\"final_dot\"}", 0.0),
            ("outbox_marked_total", 0.0),
            ("outbox_disk_low", 0.0),
        ],
    );
    assert!(new["outbox_last_look_timestamp_seconds"] >= new["outbox_start_time_seconds"]);

    more_mails(&site, 1);
    wait_for_samples(port, &[(&accepted, 1.0), ("outbox_marked_total", 1.0)]);
    relay.once(At::Rcpt, "", Act::Say("450 4.2.0 greylisted"));
    more_mails(&site, 2);
    wait_for_samples(port, &[(&deferred, 1.0)]);
    relay.once(At::Rcpt, "", Act::Say("550 5.1.1 no such user"));
    more_mails(&site, 3);
    wait_for_samples(port, &[(&rejected, 1.0)]);
    relay.once(At::FinalDot, "", Act::HangUp);
    more_mails(&site, 4);
    let all = wait_for_samples(
        port,
        &[
            (&uncertain, 1.0),
            ("outbox_mails{state=\"queued\"}", 0.0),
            ("outbox_mails{state=\"deferred\"}", 2.0),
            ("outbox_mails{state=\"failed\"}", 1.0),
            ("outbox_replies_total{class=\"2xx\"}", 1.0),
            ("outbox_replies_total{class=\"4xx\"}", 1.0),
            ("outbox_replies_total{class=\"5xx\"}", 1.0),
            ("outbox_smtp_phase_seconds_count{phase=\"mail\"}", 4.0),
            ("outbox_smtp_phase_seconds_count{phase=\"rcpt\"}", 4.0),
            ("outbox_smtp_phase_seconds_count{phase=\"tls\"}", 0.0),
        ],
    );
    let oldest = all["outbox_oldest_waiting_seconds"];
    assert!(oldest > 0.0 && oldest < 120.0, "{oldest}");
    assert!(all["outbox_smtp_phase_seconds_count{phase=\"connect\"}"] >= 1.0);
    site.deliverer(&["hold", "--state", "deferred"]).expect(0);
    let held = [("outbox_mails{state=\"held\"}", 2.0), ("outbox_oldest_waiting_seconds", 0.0)];
    wait_for_samples(port, &held);
    service.terminate().expect(0);
}

#[test]
fn the_metrics_tell_what_is_away_and_the_file_has_them_to_the_end() {
    let cluster = Cluster::private();
    let relay = ScriptedRelay::start();
    let port = free_port();
    let mut site = Site::new(programs!())
        .unsigned()
        .database(cluster.database())
        .relay(relay.port())
        .set("metrics.listen", json!(format!("127.0.0.1:{port}")))
        .build();
    let file = site.folder().join("outbox.prom");
    site.set("metrics.file", json!(file));
    let up = format!("outbox_relay_up{{relay=\"127.0.0.1:{}\"}}", relay.port());
    let [accepted, trouble] = ["accepted", "relay_trouble"].map(|result| attempts(&relay, result));
    let service = site.start_deliverer(&["run"]);
    service.wait_for("delivering");
    wait_for_samples(port, &[(&up, 1.0), ("outbox_database_up", 1.0)]);

    relay.go_away();
    more_mails(&site, 1);
    wait_for_samples(port, &[(&up, 0.0), (&trouble, 1.0), (&accepted, 0.0)]);
    relay.come_back();
    wait_for_samples(port, &[(&up, 1.0), (&accepted, 1.0), ("outbox_marked_total", 1.0)]);

    let accepted_while_away = |number: usize| {
        relay.once(At::FinalDot, "", Act::Hold);
        more_mails(&site, number);
        relay.wait_until_held();
        cluster.stop();
    };
    accepted_while_away(2);
    relay.go_on();
    wait_for_samples(
        port,
        &[
            ("outbox_database_up", 0.0),
            ("outbox_unmarked_mails", 1.0),
            ("outbox_marked_total", 1.0),
            ("outbox_mails{state=\"accepted\"}", 1.0),
        ],
    );
    cluster.start();
    let last = wait_for_samples(
        port,
        &[
            ("outbox_database_up", 1.0),
            ("outbox_unmarked_mails", 0.0),
            ("outbox_marked_total", 2.0),
            ("outbox_mails{state=\"accepted\"}", 0.0),
        ],
    );

    // What happens while it ends counts as well.
    accepted_while_away(3);
    service.signal(Signal::TERM);
    service.wait_for("told to stop");
    relay.go_on();
    service.finish().expect(0);
    let written = samples(&fs::read_to_string(&file).unwrap());
    for (name, value) in [
        (accepted.as_str(), 3.0),
        ("outbox_marked_total", 2.0),
        ("outbox_unmarked_mails", 1.0),
        ("outbox_database_up", 0.0),
    ] {
        assert_eq!(written.get(name), Some(&value), "{name}");
    }
    let names = |samples: &Samples| samples.keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(names(&written), names(&last));
}

#[test]
fn who_asks_for_metrics_and_means_no_good_disturbs_nobody() {
    let relay = ScriptedRelay::start();
    let port = free_port();
    let site = Site::new(programs!())
        .unsigned()
        .relay(relay.port())
        .set("metrics.listen", json!(format!("127.0.0.1:{port}")))
        .build();
    let service = site.start_deliverer(&["run"]);
    service.wait_for("delivering");
    let say = |bytes: &[u8]| {
        let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        // It may be hung up on in the midst of it.
        let _ = client.write_all(bytes);
        client
    };
    let _patient = [&b""[..], b"GET /metr", b"GET /metrics HTTP/1.1\r\n"].map(say);
    for bytes in [
        &b"\0\xff\r\n\r\n"[..],
        b"GET /metrics\r\n\r\n",
        b"GET /../../etc/passwd HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        &vec![b'x'; 1 << 20],
        &b"GET /metrics HTTP/1.1\r\n\r\n".repeat(1000),
    ] {
        drop(say(bytes));
    }
    more_mails(&site, 1);
    wait_until("a mail is sent all the same", || site.pending() == 0);
    assert_eq!(samples(&scrape(port)).get("outbox_database_up"), Some(&1.0));
    service.terminate().expect(0).without("WARN").without("ERROR");
}

#[test]
fn each_metric_has_a_row_in_the_documentation_and_each_row_a_metric() {
    let relay = ScriptedRelay::start();
    let port = free_port();
    let site = Site::new(programs!())
        .unsigned()
        .relay(relay.port())
        .set("metrics.listen", json!(format!("127.0.0.1:{port}")))
        .build();
    let service = site.start_deliverer(&["run"]);
    wait_until("it has looked", || {
        scrape_from(port).is_ok_and(|text| text.contains("outbox_mails{"))
    });
    let text = scrape(port);
    let mut told = BTreeSet::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        let mut labels = BTreeSet::new();
        for sample in samples(&text).keys() {
            let (of, rest) = sample.split_once('{').unwrap_or((sample, ""));
            let of = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| of.strip_suffix(end).filter(|of| *of == name))
                .unwrap_or(of);
            if of == name {
                let names = rest.split(',').filter_map(|label| Some(label.split_once('=')?.0));
                labels.extend(names.filter(|label| *label != "le").map(str::to_owned));
            }
        }
        told.insert((name.to_owned(), kind.to_owned(), labels));
    }
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operations.md");
    let docs = fs::read_to_string(docs).unwrap();
    let rows = docs.lines().filter(|line| line.starts_with("| `outbox_"));
    let rows: BTreeSet<_> = rows
        .map(|row| {
            let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
            let quoted = |cell: &str| {
                cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<BTreeSet<_>>()
            };
            let [name, kind, labels, _meaning] = cells[..] else { panic!("not four cells: {row}") };
            (name.trim_matches('`').to_owned(), kind.to_owned(), quoted(labels))
        })
        .collect();
    assert_eq!(rows, told);
    service.terminate().expect(0);
}

/// What a scrape has: a value for each name with its labels.
type Samples = BTreeMap<String, f64>;

fn attempts(relay: &ScriptedRelay, result: &str) -> String {
    let port = relay.port();
    format!("outbox_attempts_total{{relay=\"127.0.0.1:{port}\",result=\"{result}\"}}")
}

/// Scrapes until these are the values, and gives all.
#[track_caller]
fn wait_for_samples(port: u16, expected: &[(&str, f64)]) -> Samples {
    let deadline = Instant::now() + LIMIT;
    loop {
        let found = samples(&scrape(port));
        if expected.iter().all(|(name, value)| found.get(*name) == Some(value)) {
            return found;
        }
        assert!(Instant::now() < deadline, "not {expected:?} but {found:#?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[track_caller]
fn scrape(port: u16) -> String {
    scrape_from(port).unwrap_or_else(|error| panic!("nobody tells metrics: {error}"))
}

fn scrape_from(port: u16) -> std::io::Result<String> {
    let mut client = TcpStream::connect(("127.0.0.1", port))?;
    client.set_read_timeout(Some(LIMIT))?;
    client.write_all(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")?;
    let mut answer = String::new();
    client.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
    assert!(
        head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4"),
        "{head}"
    );
    Ok(body.to_owned())
}

/// Reads Prometheus's text format, as strictly as its rules are: a metric's `HELP` and `TYPE` come
/// before its samples, and each sample once.
#[track_caller]
fn samples(text: &str) -> Samples {
    assert!(text.ends_with('\n'), "the last line has an end");
    let mut samples = Samples::new();
    let (mut helped, mut typed) = (String::new(), (String::new(), String::new()));
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            rest.split(' ').next().unwrap_or_default().clone_into(&mut helped);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a metric has a type");
            assert_eq!(helped, name, "help comes before the type");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!((kind == "counter") == name.ends_with("_total"), "{line}");
            typed = (name.to_owned(), kind.to_owned());
        } else {
            let (sample, value) =
                line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
            let (name, labels) = sample.split_once('{').unwrap_or((sample, "}"));
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{line}");
            assert!(labels.ends_with('}'), "{line}");
            let (of, kind) = &typed;
            let end = name.strip_prefix(of.as_str()).unwrap_or_else(|| panic!("no type: {line}"));
            let ends: &[&str] =
                if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(ends.contains(&end), "{line}");
            let value = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
            assert!(samples.insert(sample.to_owned(), value).is_none(), "twice: {line}");
        }
    }
    samples
}

// ---- The log ----

#[test]
fn a_relayed_mail_has_the_same_fields_in_every_format_of_the_log() {
    let relay = ScriptedRelay::start();
    let site = Site::new(programs!()).unsigned().relay(relay.port()).build();
    let relayed = |number: usize, format: &str| {
        more_mails(&site, number);
        let run = site.deliverer(&["--log-format", format, "run", "--once"]).expect(0);
        let line = run.stderr.lines().find(|line| line.contains("relayed")).map(str::to_owned);
        line.unwrap_or_else(|| panic!("no line: {run}"))
    };
    let names = ["ticket", "mail", "domain", "relay", "attempts", "seconds", "reply"];
    let json: serde_json::Map<String, Value> =
        serde_json::from_str(&relayed(1, "json")).expect("it is JSON");
    assert_eq!((&json["level"], &json["message"]), (&json!("INFO"), &json!("relayed")));
    let found: BTreeSet<&str> = json.keys().map(String::as_str).collect();
    assert_eq!(found, names.into_iter().chain(["time", "level", "message"]).collect());
    assert_eq!(json["ticket"], json!(site.sent_tickets()[0]));
    assert_eq!(json["domain"], "isp.example");
    assert_eq!(json["relay"], json!(format!("127.0.0.1:{}", relay.port())));
    assert_eq!(json["attempts"], "1");
    assert_eq!(json["reply"], "250 2.0.0 queued");
    let seconds: f64 = json["seconds"].as_str().unwrap().parse().unwrap();
    assert!(seconds < 60.0, "{seconds}");
    let time = json["time"].as_str().unwrap();
    assert!(time.parse::<jiff::Timestamp>().is_ok(), "{time}");

    let text = relayed(2, "text");
    let (_, fields) = text.split_once(" INFO relayed ").expect("it begins like this");
    let found: Vec<&str> =
        fields.split(' ').filter_map(|field| Some(field.split_once('=')?.0)).collect();
    assert_eq!(found, names);
}

// ---- What the tests above are made of ----

/// One more mail, the `number`th.
fn more_mails(site: &Site, number: usize) {
    site.insert(&events::groups(number)[number - 1..]);
    site.generator(&["run", "--all"]).expect(0);
}
