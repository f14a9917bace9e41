//! What databases do that ours should not: be away, break off, freeze, refuse, hide rows, grow other
//! columns, take rights away, commit without durability, give a ticket twice. In each case the error is
//! named, and no mail is lost, sent twice or left unmarked in silence.
//!
//! What happens when the server is stopped or killed is in `interruptions.rs` as well.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use outbox_tests::Cluster;
use outbox_tests::database_proxy::{Cut, DatabaseProxy};
use outbox_tests::events::{self, Directive, recipient};
use outbox_tests::postgres_cluster::{DELIVERER_ROLE, GENERATOR_ROLE};
use outbox_tests::programs;
use outbox_tests::programs::{Finished, wait_until};
use outbox_tests::scripted_relay::{Received, ScriptedRelay};
use outbox_tests::site::{Program, Site};
use outbox_tests::system::free_port;
use serde_json::{Value, json};

// ---- Committed, refused, given twice ----

#[test]
fn a_commit_is_durable_although_the_servers_default_is_another() {
    let relay = ScriptedRelay::start();
    let site = Site::new(programs!()).relay(relay.port()).build();
    let database = site.database().name();
    // The session that writes tells in which mode it commits.
    site.sql(&format!(
        "ALTER DATABASE {database} SET synchronous_commit = off;
         CREATE TABLE seen (mode text);
         GRANT INSERT ON seen TO PUBLIC;
         CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO seen VALUES (current_setting('synchronous_commit')); RETURN NEW; END $$;
         CREATE TRIGGER see BEFORE INSERT ON sent FOR EACH ROW EXECUTE FUNCTION see();
         CREATE TRIGGER see BEFORE UPDATE ON ticket_day FOR EACH ROW EXECUTE FUNCTION see();"
    ));
    site.insert(&events::groups(1));
    site.generator(&["run", "--all"]).expect(0);
    site.deliverer(&["run", "--once"]).expect(0);
    assert_eq!(site.column::<String>("SELECT mode FROM seen"), ["on", "on"]);
}

#[test]
fn a_directive_that_can_not_be_marked_keeps_no_other_from_being_marked() {
    let relay = ScriptedRelay::start();
    let site = Site::new(programs!()).relay(relay.port()).build();
    site.insert(&events::groups(4));
    site.generator(&["run", "--all"]).expect(0);
    site.sql(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE 'not this one'; END $$;
         CREATE TRIGGER refuse BEFORE UPDATE ON directives FOR EACH ROW
             WHEN (OLD.id = 2) EXECUTE FUNCTION refuse();",
    );

    let service = site.start_deliverer(&["run"]);
    service.wait_for("cannot mark a relayed mail as sent");
    wait_until("the others are marked", || site.pending() == 1);
    site.sql("DROP TRIGGER refuse ON directives");
    wait_until("the last is marked as well", || site.pending() == 0);

    let run = service.terminate().expect(0);
    assert_eq!(run.lines("ERROR").len(), 1, "it is told once: {run}");
    assert!(run.lines("ERROR")[0].contains("not this one"), "{run}");
    assert_eq!(relay.received().len(), 4);
}

#[test]
fn a_database_that_is_back_and_refuses_marks_is_not_away() {
    let cluster = Cluster::private();
    let relay = ScriptedRelay::start();
    let site =
        Site::new(programs!()).unsigned().database(cluster.database()).relay(relay.port()).build();
    site.insert(&events::groups(3));
    site.generator(&["run", "--all"]).expect(0);
    site.sql(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE 'not this one'; END $$;
         CREATE TRIGGER refuse BEFORE UPDATE ON directives FOR EACH ROW EXECUTE FUNCTION refuse();",
    );
    cluster.stop();
    let service = site.start_deliverer(&["run"]);
    service.wait_for("the database does not take marks");
    relay.wait_for_mails(3);
    cluster.start();
    service.wait_for_nth("cannot mark a relayed mail as sent", 3);
    wait_until("it is not away", || !site.deliverer(&["status"]).stdout.contains("database away"));
    site.sql("DROP TRIGGER refuse ON directives");
    wait_until("all are marked", || site.pending() == 0);
    let run = service.terminate().expect(0);
    run.line("INFO", &["the database takes marks again"]);
}

#[test]
fn counting_goes_on_behind_the_tickets_of_today_when_the_day_was_put_back() {
    let relay = ScriptedRelay::start();
    let site = Site::new(programs!()).relay(relay.port()).build();
    site.insert(&events::groups(2));
    site.generator(&["run", "--all"]).expect(0);
    // Twice somebody in another time zone begins "yesterday" anew: once while the mails are in the
    // outbox only, once when they stand in `sent` only.
    for recipient in ["third@isp.example", "fourth@isp.example"] {
        site.sql("UPDATE ticket_day SET initialized_for_day = initialized_for_day - 1");
        site.insert([&Directive::to(recipient).event()]);
        site.generator(&["run", "--all"]).expect(0);
        site.deliverer(&["run", "--once"]).expect(0).without("WARN");
    }
    let mut tickets = site.sent_tickets();
    tickets.sort();
    let numbers: Vec<&str> = tickets.iter().filter_map(|ticket| ticket.split('-').nth(1)).collect();
    assert_eq!(numbers, ["10000001", "10000002", "10000003", "10000004"]);
}

#[test]
fn a_ticket_that_stands_in_sent_already_is_told() {
    let relay = ScriptedRelay::start();
    let site = Site::new(programs!()).relay(relay.port()).build();
    site.insert(&events::groups(1));
    site.generator(&["run", "--all"]).expect(0);
    let ticket = site.sidecars()[0]["ticket"].as_str().unwrap().to_owned();
    let row = format!("('{ticket}', '2020-01-01')");
    site.sql(&format!("INSERT INTO sent (intelmq_ticket, sent_at) VALUES {row}"));
    let run = site.deliverer(&["run", "--once"]).expect(0);
    run.line("WARN", &["given twice", &ticket]);
    assert_eq!(site.pending(), 0);
}

// ---- Not to be had ----

#[test]
fn who_gets_no_session_says_where_as_whom_and_why_and_works_when_there_is_one() {
    let cluster = Cluster::private_on_loopback();
    let relay = ScriptedRelay::start();
    let mut site =
        Site::new(programs!()).unsigned().database(cluster.database()).relay(relay.port()).build();
    let name = site.database().name().to_owned();
    let socket_dir = site.database().socket_dir().display().to_string();
    // It takes connections, and never says a word.
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let mute = mute.local_addr().unwrap().port();
    let (here, server) = (("127.0.0.1", cluster.port()), (socket_dir.as_str(), cluster.port()));
    let cases = ways_to_get_no_session(server, here, mute, &name);
    for (number, (what, (host, port), settings, breaking, mending, words)) in (1..).zip(cases) {
        println!("{what}");
        // A mail to be marked, and a group to become one.
        site.insert([&Directive::to(&recipient(2 * number - 1)).event()]);
        site.generator(&["run", "--all"]).expect(0);
        site.insert([&Directive::to(&recipient(2 * number)).event()]);
        let as_it_was = json!({"name": name, "host": socket_dir, "port": cluster.port()});
        let mut event = as_it_was.clone();
        (event["host"], event["port"]) = (json!(host), json!(port));
        for (key, value) in settings {
            event[key] = value;
        }
        site.sql(&both("ALTER ROLE $ PASSWORD 'right'"));
        configure(&site, &breaking);
        site.set("database.event", event.clone());
        let generators = ["run --all", "run --all --dry-run", "preview", "pending", "check"];
        let deliverers = ["run --once", "verify", "check"];
        // All commands use one way in: all of them are tried once.
        let generators = if number == 1 { &generators[..] } else { &["run --all", "check"] };
        let deliverers = if number == 1 { &deliverers[..] } else { &["run --once", "check"] };
        let split = |command: &&str| command.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let started: Vec<_> = generators
            .iter()
            .map(|command| (GENERATOR_ROLE, *command, split(command)))
            .chain(deliverers.iter().map(|command| (DELIVERER_ROLE, *command, split(command))))
            .map(|(role, command, arguments)| {
                let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
                let running = if role == GENERATOR_ROLE {
                    site.start_generator(&arguments)
                } else {
                    site.start_deliverer(&arguments)
                };
                (role, command, running)
            })
            .collect();
        for (role, command, running) in started {
            let looks = ["check", "verify"].contains(&command);
            let run = running.finish().expect(if looks { 1 } else { 75 });
            let role = event.get("username").and_then(Value::as_str).unwrap_or(role);
            let database = event["name"].as_str().unwrap();
            let told = format!(
                "cannot connect to database {database} at {host}, port {port}, as {role}: "
            );
            let lines = if looks {
                run.stdout.lines().filter(|line| line.starts_with("WRONG")).collect()
            } else {
                run.lines("ERROR")
            };
            let right =
                |line: &&&str| line.contains(&told) && words.iter().all(|word| line.contains(word));
            assert_eq!(lines.iter().filter(right).count(), 1, "{told}… {words:?}: {run}");
        }
        assert_eq!(site.listed("sidecar").len(), 1, "nothing more was written");
        assert_eq!(relay.received().len(), 2 * number - 1, "and what there was is relayed");
        assert_eq!(site.pending(), 2);

        configure(&site, &mending);
        site.set("database.event", as_it_was);
        site.generator(&["run", "--all"]).expect(0);
        site.deliverer(&["run", "--once"]).expect(0);
        assert_all_sent_once(&site, &relay, 2 * number);
    }
}

/// What is wrong, where the programs connect, what else is set, what makes it so and what mends it, and
/// what is to be read.
type Case<'c> = (&'c str, (&'c str, u16), Vec<(&'c str, Value)>, String, String, [&'c str; 2]);

/// `server` and `here` are ways to a server that is well, `mute` is the port of one that says nothing.
fn ways_to_get_no_session<'c>(
    server: (&'c str, u16),
    here: (&'c str, u16),
    mute: u16,
    database: &str,
) -> Vec<Case<'c>> {
    let none = String::new;
    let rules = |rules: &str| authentication(&["local all postgres trust", rules]);
    let trust = || authentication(&["local all all trust", "host all all all trust"]);
    vec![
        ("no socket", ("/nowhere", 5432), vec![], none(), none(), ["No such file", ""]),
        ("no port", ("127.0.0.1", free_port()), vec![], none(), none(), ["refused", ""]),
        ("mute", ("127.0.0.1", mute), vec![], none(), none(), ["said nothing for 20 seconds", ""]),
        (
            "a wrong password",
            server,
            vec![("password", json!("wrong"))],
            rules("local all all scram-sha-256"),
            trust(),
            ["password authentication failed", "28P01"],
        ),
        (
            "no password",
            server,
            vec![],
            rules("local all all scram-sha-256"),
            trust(),
            ["password missing", ""],
        ),
        ("no rule", server, vec![], rules(""), trust(), ["no pg_hba.conf entry", "28000"]),
        (
            "no such role",
            server,
            vec![("username", json!("nobody"))],
            none(),
            none(),
            ["role \"nobody\" does not exist", "28000"],
        ),
        (
            "no such database",
            server,
            vec![("name", json!("nothing"))],
            none(),
            none(),
            ["database \"nothing\" does not exist", "3D000"],
        ),
        ("no TLS", here, vec![("sslmode", json!("require"))], none(), none(), ["TLS", ""]),
        (
            "TLS wanted",
            here,
            vec![("sslmode", json!("disable"))],
            rules("hostssl all all all trust"),
            trust(),
            ["no encryption", "28000"],
        ),
        (
            "no login",
            server,
            vec![],
            both("ALTER ROLE $ NOLOGIN"),
            both("ALTER ROLE $ LOGIN"),
            ["not permitted to log in", "28000"],
        ),
        (
            "too many",
            server,
            vec![],
            both("ALTER ROLE $ CONNECTION LIMIT 0"),
            both("ALTER ROLE $ CONNECTION LIMIT -1"),
            ["too many connections", "53300"],
        ),
        (
            "no right to connect",
            server,
            vec![],
            format!("REVOKE CONNECT ON DATABASE {database} FROM PUBLIC"),
            format!("GRANT CONNECT ON DATABASE {database} TO PUBLIC"),
            ["permission denied for database", "42501"],
        ),
    ]
}

/// The statement for each of the two roles.
fn both(statement: &str) -> String {
    [GENERATOR_ROLE, DELIVERER_ROLE].map(|role| statement.replace('$', role)).join(";")
}

/// What writes these lines into `pg_hba.conf`.
fn authentication(rules: &[&str]) -> String {
    format!("authentication: {}", rules.join("\n"))
}

/// Runs statements, or has the server take rules of authentication.
fn configure(site: &Site, what: &str) {
    let Some(rules) = what.strip_prefix("authentication: ") else { return site.sql(what) };
    let file = site.column::<String>("SHOW hba_file").remove(0);
    fs::write(file, format!("{rules}\n")).unwrap();
    let loaded = || site.column::<SystemTime>("SELECT pg_conf_load_time()")[0];
    let before = loaded();
    site.sql("SELECT pg_reload_conf()");
    wait_until("the rules hold", || loaded() > before);
}

#[test]
fn a_standby_is_told_as_such_and_takes_marks_once_it_is_promoted() {
    let cluster = Cluster::private();
    let relay = ScriptedRelay::start();
    let site =
        Site::new(programs!()).unsigned().database(cluster.database()).relay(relay.port()).build();
    site.insert(&events::groups(1));
    site.generator(&["run", "--all"]).expect(0);
    site.insert([&Directive::to(&recipient(2)).event()]);
    let folder = PathBuf::from(&site.column::<String>("SHOW data_directory")[0]);
    cluster.stop();
    fs::write(folder.join("standby.signal"), "").unwrap();

    // Without queries: as a server does that starts up, recovers or shuts down.
    let settings = folder.join("postgresql.auto.conf");
    let before = fs::read_to_string(&settings).unwrap();
    fs::write(&settings, format!("{before}\nhot_standby = off\n")).unwrap();
    cluster.start();
    let connect = "cannot connect to database";
    site.generator(&["run", "--all"]).expect(75).line("ERROR", &[connect, "57P03"]);
    let run = site.deliverer(&["run", "--once"]).expect(75);
    run.line("ERROR", &["the database does not take marks", connect, "57P03"]);
    cluster.stop();

    // With queries, and nothing can be written.
    fs::write(&settings, before).unwrap();
    cluster.start();
    site.generator(&["pending"]).expect(0);
    site.generator(&["run", "--all"]).expect(75).line("ERROR", &["read-only", "25006"]);
    let run = site.deliverer(&["run", "--once"]).expect(75);
    run.line("ERROR", &["the database does not take marks", "read-only", "25006"]);
    assert_eq!((site.pending(), relay.received().len(), site.listed("sidecar").len()), (2, 1, 1));

    site.column::<bool>("SELECT pg_promote()");
    site.generator(&["run", "--all"]).expect(0);
    site.deliverer(&["run", "--once"]).expect(0);
    assert_all_sent_once(&site, &relay, 2);
}

#[test]
#[ignore = "takes three minutes, the time in which a silent server is given up"]
fn a_server_that_freezes_is_away_after_a_while_and_has_all_marked_when_it_thaws() {
    let relay = ScriptedRelay::start();
    let (site, proxy) = site_behind_proxy(relay.port());
    site.insert(&events::groups(2));
    site.generator(&["run", "--all"]).expect(0);
    // Login, settings (two), BEGIN, and then nothing more in this session.
    proxy.cut(4, Cut::Silence);
    let service = site.start_deliverer(&["run"]);
    relay.wait_for_mails(2);
    let begin = Instant::now();
    while !site.deliverer(&["status"]).stdout.contains("database away") {
        assert!(begin.elapsed() < Duration::from_secs(300), "nothing is told");
        thread::sleep(Duration::from_secs(1));
    }
    assert!(proxy.was_cut());
    wait_until("all are marked", || site.pending() == 0);
    let run = service.terminate().expect(0);
    run.line("ERROR", &["the database neither takes marks nor refuses them"]);
    assert_all_sent_once(&site, &relay, 2);
}

// ---- Broken at every request ----

#[test]
fn a_generator_whose_sessions_break_at_any_request_loses_nothing_and_repeats_nothing() {
    broken_at_every_request(Program::Generator, &["run", "--all"]);
}

#[test]
fn a_deliverer_whose_session_breaks_at_any_request_loses_nothing_and_repeats_nothing() {
    broken_at_every_request(Program::Deliverer, &["run", "--once"]);
}

#[test]
fn a_suppression_whose_session_breaks_at_any_request_can_be_repeated() {
    broken_at_every_request(Program::Deliverer, &["withdraw", "--suppress", "--all"]);
}

/// The session breaks at the first, the second, … request, before the server hears it and before the
/// program hears the answer. A COMMIT is one of them: then nobody knows what came of it.
fn broken_at_every_request(program: Program, command: &[&str]) {
    let relay = ScriptedRelay::start();
    let (site, proxy) = site_behind_proxy(relay.port());
    let start = |arguments: &[&str]| match program {
        Program::Generator => site.generator(arguments),
        Program::Deliverer => site.deliverer(arguments),
    };
    let withdraws = command[0] == "withdraw";
    let (mut rounds, mut cuts) = (0, 0);
    for cut in [Cut::Unheard, Cut::Unanswered] {
        for number in 1.. {
            rounds += 1;
            site.insert([&Directive::to(&recipient(rounds)).event()]);
            if program == Program::Deliverer {
                site.generator(&["run", "--all"]).expect(0);
            }
            // Only on a new day the ticket's transaction says all that it can.
            if program == Program::Generator {
                site.sql("UPDATE ticket_day SET initialized_for_day = '2020-01-01'");
            }
            proxy.cut(number, cut);
            let run = start(command);
            let was_cut = proxy.was_cut();
            cuts += usize::from(was_cut);
            // The last request is a goodbye, or ends a transaction that has changed nothing.
            if run.status.code() != Some(0) {
                assert!(was_cut, "{run}");
                let run = run.expect(75);
                let words = ["connection closed", "cannot connect", "end of file"];
                let told = |line: &&str| words.iter().any(|words| line.contains(words));
                assert!(run.lines("ERROR").iter().any(told), "{run}");
            }
            // A server notices only then that its client is gone.
            wait_until("the sessions have ended", || sessions(&site) == 0);
            start(command).expect(0).without("WARN").without("ERROR");
            assert_eq!(
                site.pending(),
                i64::from(program == Program::Generator),
                "{cut:?} {number}"
            );
            if program == Program::Generator {
                assert_eq!(site.sidecars().len(), 1, "{cut:?} {number}");
                site.deliverer(&["run", "--once"]).expect(0).without("WARN");
            }
            if withdraws {
                assert_eq!(site.files(), [""; 0]);
                assert_eq!(site.sent_tickets().len(), rounds);
            } else {
                assert_all_sent_once(&site, &relay, rounds);
            }
            if !was_cut {
                break;
            }
        }
    }
    println!("{cuts} cuts in {rounds} rounds");
    assert!(cuts >= 20, "{cuts}");
    assert!(!withdraws || relay.received().is_empty());
}

fn site_behind_proxy(relay: u16) -> (Site, DatabaseProxy) {
    let mut site = Site::new(programs!()).unsigned().relay(relay).build();
    let proxy = DatabaseProxy::before(site.database());
    site.set("database.event.host", json!(proxy.socket_dir()));
    (site, proxy)
}

/// How many of the two programs' sessions the server has.
fn sessions(site: &Site) -> i64 {
    site.column(
        "SELECT count(*) FROM pg_stat_activity
          WHERE datname = current_database() AND application_name LIKE 'outbox-%'",
    )[0]
}

// ---- As it should not be ----

/// A database that is not as it should be, and what each program makes of it.
struct Odd {
    what: &'static str,
    /// What makes it so, and what mends it. `$GENERATOR` and `$DELIVERER` are the roles.
    breaking: &'static str,
    mending: &'static str,
    generator: Made,
    deliverer: Made,
}

/// What a program makes of a database.
#[derive(Clone, Copy)]
enum Made {
    /// It works.
    Works,
    /// It ends with this code and an ERROR line with these words, and changes nothing.
    Fails(i32, &'static [&'static str]),
    /// The same, and `check` says so before.
    Foreseen(i32, &'static [&'static str]),
}

use Made::{Fails, Foreseen, Works};

fn odd(
    what: &'static str,
    breaking: &'static str,
    mending: &'static str,
    generator: Made,
    deliverer: Made,
) -> Odd {
    Odd { what, breaking, mending, generator, deliverer }
}

/// Tries both programs on each, mends it, and lets them end their work.
fn each(cases: &[Odd]) {
    let relay = ScriptedRelay::start();
    for Odd { what, breaking, mending, generator, deliverer } in cases {
        println!("{what}");
        let site = Site::new(programs!()).unsigned().relay(relay.port()).build();
        let sql = |text: &str| {
            let text =
                text.replace("$GENERATOR", GENERATOR_ROLE).replace("$DELIVERER", DELIVERER_ROLE);
            site.sql(&text.replace("$DATABASE", site.database().name()));
        };
        let before = relay.received().len();
        site.insert(&[Directive::to(&recipient(1)).event()]);
        site.generator(&["run", "--all"]).expect(0);
        site.insert(&[Directive::to(&recipient(2)).event()]);
        sql(breaking);

        foreseen(&site.generator(&["check"]), generator);
        let run = site.generator(&["run", "--all"]);
        made(&run, generator);
        let written = usize::from(matches!(generator, Works));
        assert_eq!(site.listed("sidecar").len(), 1 + written, "{run}");

        foreseen(&site.deliverer(&["check"]), deliverer);
        let run = site.deliverer(&["run", "--once"]);
        made(&run, deliverer);
        assert_eq!(relay.received().len() - before, 1 + written, "{run}");
        let marked = if matches!(deliverer, Works) { 1 + written } else { 0 };
        assert_eq!(site.listed("sent/cur").len(), marked, "{run}");

        sql(mending);
        site.generator(&["check"]).expect(0);
        site.generator(&["run", "--all"]).expect(0).without("ERROR");
        site.deliverer(&["check"]).expect(0);
        site.deliverer(&["run", "--once"]).expect(0).without("WARN").without("ERROR");
        assert_eq!(site.pending(), 0, "{what}");
        assert_eq!(relay.received().len() - before, 2, "{what}: each mail once");
        assert_eq!((site.sent_tickets().len(), site.listed("sidecar").len()), (2, 0), "{what}");
    }
}

/// Panics if a run did not do what was expected of it. What fails says so in one line with these words.
#[track_caller]
fn made(run: &Finished, made: &Made) {
    match made {
        Works => assert!(run.status.success() && run.lines("ERROR").is_empty(), "{run}"),
        Fails(code, words) | Foreseen(code, words) => {
            let run = run.clone().expect(*code);
            let told = |line: &&&str| words.iter().all(|words| line.contains(words));
            assert_eq!(run.lines("ERROR").iter().filter(told).count(), 1, "{words:?}: {run}");
        }
    }
}

#[track_caller]
fn foreseen(check: &Finished, made: &Made) {
    let wrong = check.stdout.lines().any(|line| line.starts_with("WRONG database: "));
    assert_eq!(wrong, matches!(made, Foreseen(..)), "{check}");
    assert_eq!(wrong, !check.status.success(), "{check}");
}

#[test]
fn a_right_that_is_missing_is_named_with_table_and_role_and_check_knows_before() {
    each(&[
        odd(
            "events",
            "REVOKE SELECT ON events FROM eventdb_send_notifications",
            "GRANT SELECT ON events TO eventdb_send_notifications",
            Foreseen(78, &["permission denied for table events", "the role is outbox_generator"]),
            Works,
        ),
        odd(
            "reading directives",
            "REVOKE SELECT ON directives FROM eventdb_send_notifications",
            "GRANT SELECT ON directives TO eventdb_send_notifications",
            Foreseen(
                78,
                &["permission denied for table directives", "the role is outbox_generator"],
            ),
            Foreseen(
                75,
                &["permission denied for table directives", "the role is outbox_deliverer"],
            ),
        ),
        odd(
            "marking directives",
            "REVOKE UPDATE ON directives FROM eventdb_send_notifications",
            "GRANT UPDATE ON directives TO eventdb_send_notifications",
            Foreseen(
                78,
                &["permission denied for table directives", "the role is outbox_generator"],
            ),
            Foreseen(
                75,
                &["permission denied for table directives", "the role is outbox_deliverer"],
            ),
        ),
        odd(
            "reading sent",
            "REVOKE SELECT ON sent FROM eventdb_send_notifications",
            "GRANT SELECT ON sent TO eventdb_send_notifications",
            Foreseen(78, &["permission denied for table sent", "the role is outbox_generator"]),
            Foreseen(75, &["permission denied for table sent", "the role is outbox_deliverer"]),
        ),
        odd(
            "writing sent",
            "REVOKE INSERT ON sent FROM eventdb_send_notifications",
            "GRANT INSERT ON sent TO eventdb_send_notifications",
            Works,
            Foreseen(75, &["permission denied for table sent", "the role is outbox_deliverer"]),
        ),
        odd(
            "numbering sent",
            "REVOKE USAGE ON SEQUENCE sent_id_seq FROM eventdb_send_notifications",
            "GRANT USAGE ON SEQUENCE sent_id_seq TO eventdb_send_notifications",
            Works,
            Foreseen(
                75,
                &["permission denied for sequence sent_id_seq", "the role is outbox_deliverer"],
            ),
        ),
        odd(
            "reading the day",
            "REVOKE SELECT ON ticket_day FROM eventdb_send_notifications",
            "GRANT SELECT ON ticket_day TO eventdb_send_notifications",
            Foreseen(
                78,
                &["permission denied for table ticket_day", "the role is outbox_generator"],
            ),
            Works,
        ),
        odd(
            "setting the day",
            "REVOKE UPDATE ON ticket_day FROM eventdb_send_notifications",
            "GRANT UPDATE ON ticket_day TO eventdb_send_notifications",
            Foreseen(
                78,
                &["permission denied for table ticket_day", "the role is outbox_generator"],
            ),
            Works,
        ),
        odd(
            "starting the numbers anew",
            "ALTER SEQUENCE intelmq_ticket_seq OWNER TO postgres;
             GRANT USAGE ON SEQUENCE intelmq_ticket_seq TO eventdb_send_notifications;
             UPDATE ticket_day SET initialized_for_day = '2020-01-01'",
            "ALTER SEQUENCE intelmq_ticket_seq OWNER TO eventdb_send_notifications",
            Foreseen(
                78,
                &["must be owner of sequence intelmq_ticket_seq", "the role is outbox_generator"],
            ),
            Works,
        ),
    ]);
}

#[test]
fn what_a_role_can_not_see_is_an_error_and_nothing_is_passed_over() {
    each(&[
        odd(
            "the schema",
            "REVOKE USAGE ON SCHEMA public FROM eventdb_send_notifications, PUBLIC",
            "GRANT USAGE ON SCHEMA public TO eventdb_send_notifications, PUBLIC",
            Foreseen(78, &["\"events\" does not exist"]),
            Foreseen(75, &["\"sent\" does not exist"]),
        ),
        odd(
            "a policy that hides rows",
            "ALTER TABLE directives ENABLE ROW LEVEL SECURITY;
             CREATE POLICY none ON directives FOR ALL TO PUBLIC USING (false)",
            "DROP POLICY none ON directives; ALTER TABLE directives DISABLE ROW LEVEL SECURITY",
            Foreseen(
                78,
                &[
                    "row-level security policy for table \"directives\"",
                    "the role is outbox_generator",
                ],
            ),
            Foreseen(
                75,
                &[
                    "row-level security policy for table \"directives\"",
                    "the role is outbox_deliverer",
                ],
            ),
        ),
    ]);
}

#[test]
fn tables_that_changed_do_or_are_named_and_no_mark_is_lost() {
    each(&[
        odd(
            "integers and other times",
            "ALTER TABLE directives DROP CONSTRAINT IF EXISTS directives_events_id_fkey;
             ALTER TABLE directives ALTER id TYPE integer, ALTER events_id TYPE integer,
                 ALTER sent_id TYPE integer, ALTER inserted_at TYPE timestamp;
             ALTER TABLE sent ALTER id TYPE integer, ALTER sent_at TYPE timestamp;
             ALTER TABLE events ALTER id TYPE integer, ALTER \"source.asn\" TYPE bigint",
            "SELECT",
            Works,
            Works,
        ),
        odd(
            "text instead of limited text, and jsonb",
            "ALTER TABLE directives ALTER recipient_address TYPE text, ALTER medium TYPE text;
             ALTER TABLE sent ALTER intelmq_ticket TYPE text;
             ALTER TABLE events ALTER extra TYPE json",
            "SELECT",
            Works,
            Works,
        ),
        odd(
            "views instead of tables",
            "ALTER TABLE sent RENAME TO sent_table; CREATE VIEW sent AS SELECT * FROM sent_table;
             ALTER TABLE directives RENAME TO directives_table;
             CREATE VIEW directives AS SELECT * FROM directives_table;
             ALTER TABLE events RENAME TO events_table;
             CREATE VIEW events AS SELECT * FROM events_table;
             GRANT SELECT, INSERT ON sent TO eventdb_send_notifications;
             GRANT SELECT, UPDATE ON directives TO eventdb_send_notifications;
             GRANT SELECT ON events TO eventdb_send_notifications",
            "SELECT",
            Works,
            Works,
        ),
        odd(
            "tables in another schema",
            "CREATE SCHEMA other; GRANT USAGE ON SCHEMA other TO PUBLIC;
             ALTER TABLE sent SET SCHEMA other; ALTER TABLE directives SET SCHEMA other;
             ALTER DATABASE $DATABASE SET search_path = public, other",
            "SELECT",
            Works,
            Works,
        ),
        odd(
            "a sequence of another name for the rows of sent",
            "ALTER SEQUENCE sent_id_seq RENAME TO numbers",
            "SELECT",
            Works,
            Works,
        ),
        odd(
            "a column that is not there",
            "ALTER TABLE sent RENAME sent_at TO at",
            "ALTER TABLE sent RENAME at TO sent_at",
            Foreseen(78, &["sent_at does not exist"]),
            Fails(75, &["\"sent_at\" of relation \"sent\" does not exist"]),
        ),
        odd(
            "a table that is not there",
            "ALTER TABLE directives RENAME TO elsewhere",
            "ALTER TABLE elsewhere RENAME TO directives",
            Foreseen(78, &["\"directives\" does not exist"]),
            Foreseen(75, &["\"directives\" does not exist"]),
        ),
        odd(
            "a column that must be filled",
            "ALTER TABLE sent ADD who text; ALTER TABLE sent ADD CHECK (who IS NOT NULL)",
            "ALTER TABLE sent DROP who",
            Works,
            Fails(75, &["cannot mark a relayed mail as sent", "sent_who_check", "-10000001 mail="]),
        ),
    ]);
}

/// What undoes a mark without a word: the mail must keep its claim, or it would be written once more.
#[test]
fn a_mark_that_a_trigger_or_rule_undoes_is_told_and_no_mail_is_written_twice() {
    const UNDONE: Made = Fails(
        75,
        &["cannot mark a relayed mail as sent", "directive 1 stays pending although it was marked"],
    );
    const SKIP: &str = "CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RETURN NULL; END $$;";
    fn leak(text: String) -> &'static str {
        text.leak()
    }
    let undone = |what, breaking, mending| odd(what, breaking, mending, Works, UNDONE);
    each(&[
        undone(
            "a trigger that drops the mark",
            leak(format!(
                "{SKIP} CREATE TRIGGER skip BEFORE UPDATE ON directives
                              FOR EACH ROW EXECUTE FUNCTION skip()"
            )),
            "DROP TRIGGER skip ON directives",
        ),
        undone(
            "a trigger that drops the row of the mail",
            leak(format!(
                "{SKIP} CREATE TRIGGER skip BEFORE INSERT ON sent
                              FOR EACH ROW EXECUTE FUNCTION skip()"
            )),
            "DROP TRIGGER skip ON sent",
        ),
        undone(
            "a trigger that names the mail otherwise",
            "CREATE FUNCTION rename() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN NEW.intelmq_ticket := 'X' || NEW.intelmq_ticket; RETURN NEW; END $$;
             CREATE TRIGGER rename BEFORE INSERT ON sent FOR EACH ROW EXECUTE FUNCTION rename()",
            "DROP TRIGGER rename ON sent",
        ),
        undone(
            "a trigger that takes the mark back",
            "CREATE FUNCTION clear() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
                 $$ BEGIN UPDATE directives SET sent_id = NULL WHERE sent_id IS NOT NULL;
                    RETURN NULL; END $$;
             CREATE TRIGGER clear AFTER UPDATE ON directives FOR EACH STATEMENT
                 WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION clear()",
            "DROP TRIGGER clear ON directives",
        ),
        undone(
            "a rule instead of the mark",
            "CREATE RULE nothing AS ON UPDATE TO directives DO INSTEAD NOTHING",
            "DROP RULE nothing ON directives",
        ),
    ]);
}

// ---- What the server's settings can not do ----

#[test]
fn settings_of_role_and_database_change_neither_what_is_done_nor_what_is_written() {
    let relay = ScriptedRelay::start();
    // Shows columns of types that are read as text.
    let definition = "[[format]]\nname = \"all\"\nsubject = \"S\"\nbody = \"${events_as_csv}\"\n\
        columns = [\"source.ip\", \"source.geolocation.latitude\", \"day\", \"span\", \"octets\", \"reals\", \"at\"]\n";
    let texts: Vec<String> = [
        "",
        // None of them may end a session or a transaction, or have it see less.
        "ALTER ROLE $ SET statement_timeout = '1ms';
         ALTER ROLE $ SET lock_timeout = '1ms';
         ALTER ROLE $ SET idle_in_transaction_session_timeout = '1ms';
         ALTER ROLE $ SET idle_session_timeout = '2s';
         ALTER ROLE $ SET default_transaction_isolation = 'serializable';
         ALTER ROLE $ SET default_transaction_deferrable = on;
         ALTER ROLE $ SET row_security = on",
        // None may change how a value looks.
        "ALTER ROLE $ SET DateStyle = 'SQL, DMY';
         ALTER ROLE $ SET TimeZone = 'Pacific/Auckland';
         ALTER ROLE $ SET IntervalStyle = 'sql_standard';
         ALTER ROLE $ SET bytea_output = 'escape';
         ALTER ROLE $ SET extra_float_digits = -15;
         ALTER ROLE $ SET client_encoding = 'LATIN1';
         ALTER ROLE $ SET standard_conforming_strings = off;
         ALTER ROLE $ SET backslash_quote = on;
         ALTER ROLE $ SET quote_all_identifiers = on;
         ALTER ROLE $ SET array_nulls = off;
         ALTER ROLE $ SET transform_null_equals = on;
         ALTER ROLE $ SET lc_numeric = 'C.UTF-8';
         ALTER ROLE $ SET lc_messages = 'C.UTF-8'",
    ]
    .iter()
    .map(|settings| {
        // Roles are the cluster's: it must be one's own.
        let cluster = Cluster::private();
        let site = Site::new(programs!())
            .unsigned()
            .database(cluster.database())
            .relay(relay.port())
            .template("formats/00-all.toml", definition)
            .build();
        site.sql(
            "ALTER TABLE events ADD day date DEFAULT '2026-11-25',
                 ADD span interval DEFAULT '1 day 02:03:04.5', ADD octets bytea DEFAULT '\\x00ff',
                 ADD reals float8[] DEFAULT ARRAY[0.1, 1e100], ADD at timestamp DEFAULT '2026-11-25 01:02:03'",
        );
        for role in [GENERATOR_ROLE, DELIVERER_ROLE] {
            site.sql(&settings.replace('$', role));
        }
        let mut event = Directive::to("first@isp.example").aggregate("place", "Köln").event();
        event["source.geolocation.latitude"] = json!(0.1);
        site.insert([&event]);
        // More than one batch.
        site.insert(&events::groups(150));
        // Its second session, for tickets, has nothing to do for longer than that.
        let held = site.hold("LOCK TABLE directives IN ACCESS EXCLUSIVE MODE");
        let generator = site.start_generator(&["run", "--all"]);
        wait_until("it waits", || site.waits(Program::Generator, "Lock"));
        thread::sleep(Duration::from_millis(2_500));
        drop(held);
        generator.finish().expect(0);
        let first = fs::read_to_string(&site.listed("new")[0]).unwrap();
        let before = relay.received().len();
        site.deliverer(&["run", "--once"]).expect(0).without("WARN").without("ERROR");
        assert_eq!((site.pending(), relay.received().len() - before), (0, 151));
        let table = first.find("\"source.ip\"").unwrap_or_else(|| panic!("no table: {first}"));
        first[table..].to_owned()
    })
    .collect();
    println!("{}", texts[0]);
    assert!(texts[0].contains("2026-11-25"), "{}", texts[0]);
    assert_eq!(texts[0], texts[1]);
    assert_eq!(texts[0], texts[2]);
}

#[test]
fn a_session_that_was_ended_while_idle_is_replaced_without_a_word() {
    let relay = ScriptedRelay::start();
    let site = Site::new(programs!()).unsigned().relay(relay.port()).build();
    site.insert(&events::groups(1));
    site.generator(&["run", "--all"]).expect(0);
    let service = site.start_deliverer(&["run"]);
    wait_until("the first is marked", || site.pending() == 0);
    site.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
          WHERE datname = current_database() AND application_name = 'outbox-deliverer'",
    );
    wait_until("the session has ended", || sessions(&site) == 0);
    site.insert([&Directive::to(&recipient(2)).event()]);
    site.generator(&["run", "--all"]).expect(0);
    wait_until("the second is marked", || site.pending() == 0);
    service.terminate().expect(0).without("WARN").without("ERROR");
    assert_all_sent_once(&site, &relay, 2);
}

#[test]
fn a_text_that_is_no_utf_8_spoils_its_own_group_and_no_other() {
    let relay = ScriptedRelay::start();
    for encoding in ["SQL_ASCII", "LATIN1"] {
        let site = Site::new(programs!())
            .unsigned()
            .database(Cluster::shared().database_encoded(encoding))
            .relay(relay.port())
            .build();
        site.insert(&events::groups(2));
        site.insert([&Directive::to("third@isp.example").aggregate("place", "Köln").event()]);
        let ascii = encoding == "SQL_ASCII";
        if ascii {
            // What a client wrote that says it speaks another encoding.
            site.sql(
                "UPDATE directives SET template_name = convert_from('\\xfc', 'SQL_ASCII') WHERE id = 1",
            );
        }
        site.generator(&["pending"]).expect(0);
        let run = site.generator(&["run", "--all"]).expect(i32::from(ascii));
        if ascii {
            let words = ["directives=1", "cannot read its template_name", "utf-8"];
            run.line("ERROR", &words);
            site.sql("UPDATE directives SET template_name = 'generic' WHERE id = 1");
            site.generator(&["run", "--all"]).expect(0);
        }
        let before = relay.received().len();
        site.deliverer(&["run", "--once"]).expect(0).without("WARN").without("ERROR");
        assert_eq!((site.pending(), relay.received().len() - before), (0, 3), "{encoding}");
    }
}

// ---- What an SQLSTATE means ----

#[test]
fn an_outage_is_one_line_and_a_mails_own_trouble_is_its_own_whatever_the_words() {
    // Given for the whole: it is told once, and nothing more is tried.
    const AWAY: [&str; 12] = [
        "08006", "25006", "28000", "3D000", "42501", "42P01", "53100", "53200", "53300", "57P01",
        "57P03", "58030",
    ];
    // Given for one mail: the others are marked.
    const ITS_OWN: [&str; 11] = [
        "22001", "23505", "23514", "40001", "40P01", "55000", "55P03", "57014", "0A000", "P0001",
        "XX000",
    ];
    let relay = ScriptedRelay::start();
    let states = AWAY.iter().map(|state| (state, true));
    for (state, away) in states.chain(ITS_OWN.iter().map(|state| (state, false))) {
        let site = Site::new(programs!()).unsigned().relay(relay.port()).build();
        site.insert(&events::groups(3));
        site.generator(&["run", "--all"]).expect(0);
        // The words are the server's, in its language.
        site.sql(&format!(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN RAISE 'Platte voll, Verbindung getrennt' USING ERRCODE = '{state}'; END $$;
             CREATE TRIGGER refuse BEFORE UPDATE ON directives FOR EACH ROW
                 WHEN ({}) EXECUTE FUNCTION refuse();",
            if away { "true" } else { "OLD.id = 2" }
        ));
        let before = relay.received().len();
        let run = site.deliverer(&["run", "--once"]).expect(75);
        let words =
            if away { "the database does not take marks," } else { "cannot mark a relayed mail" };
        let told = run.line("ERROR", &["Platte voll", &format!("SQLSTATE {state}")]);
        assert!(told.contains(words), "{run}");
        assert_eq!(site.pending(), if away { 3 } else { 1 }, "{state}: {run}");
        site.sql("DROP TRIGGER refuse ON directives");
        site.deliverer(&["run", "--once"]).expect(0).without("WARN").without("ERROR");
        assert_eq!((site.pending(), relay.received().len() - before), (0, 3), "{state}");
    }
}

#[test]
fn a_conflict_that_passes_is_no_error_and_a_killed_session_is_one() {
    let relay = ScriptedRelay::start();
    // Where it happens, what happens, and the exit codes.
    for (table, event, statement, deliverer, generator) in [
        ("sent", "INSERT", "RAISE 'once' USING ERRCODE = '40001'", 0, None),
        ("directives", "UPDATE", "RAISE 'once' USING ERRCODE = '40P01'", 0, None),
        ("sent", "INSERT", "PERFORM pg_terminate_backend(pg_backend_pid())", 75, None),
        ("directives", "UPDATE", "PERFORM pg_terminate_backend(pg_backend_pid())", 75, None),
        ("ticket_day", "UPDATE", "PERFORM pg_terminate_backend(pg_backend_pid())", 0, Some(75)),
        ("ticket_day", "UPDATE", "RAISE 'once' USING ERRCODE = '40001'", 0, Some(75)),
    ] {
        for when in ["BEFORE", "AFTER", "DEFERRED"] {
            let site = Site::new(programs!()).unsigned().relay(relay.port()).build();
            site.insert(&events::groups(1));
            if generator.is_none() {
                site.generator(&["run", "--all"]).expect(0);
            }
            // A sequence goes on whatever is rolled back: so it happens once.
            let trigger = if when == "DEFERRED" {
                format!(
                    "CREATE CONSTRAINT TRIGGER once AFTER {event} ON {table} DEFERRABLE INITIALLY DEFERRED"
                )
            } else {
                format!("CREATE TRIGGER once {when} {event} ON {table}")
            };
            site.sql(&format!(
                "CREATE SEQUENCE times;
                 CREATE FUNCTION once() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
                     $$ BEGIN IF nextval('times') = 1 THEN {statement}; END IF; RETURN NEW; END $$;
                 {trigger} FOR EACH ROW EXECUTE FUNCTION once();"
            ));
            if let Some(code) = generator {
                let run = site.generator(&["run", "--all"]).expect(code);
                run.line("ERROR", &["cannot draw tickets"]);
                assert_eq!(site.files(), [""; 0], "{table} {when}");
                wait_until("the session has ended", || sessions(&site) == 0);
                site.generator(&["run", "--all"]).expect(0);
            }
            let before = relay.received().len();
            // It may try once more before it ends.
            let run = site.deliverer(&["run", "--once"]);
            assert!([0, deliverer].map(Some).contains(&run.status.code()), "{run}");
            assert_eq!(run.lines("ERROR").is_empty(), deliverer == 0, "{table} {when}: {run}");
            site.deliverer(&["run", "--once"]).expect(0).without("WARN").without("ERROR");
            assert_eq!((site.pending(), relay.received().len() - before), (0, 1), "{table} {when}");
            assert_eq!(site.sent_tickets().len(), 1);
        }
    }
}

// ---- Rows that others change meanwhile ----

#[test]
fn directives_that_go_or_are_marked_while_their_mail_is_under_way_cost_no_other_its_mark() {
    let marked_by_hand =
        "INSERT INTO sent (intelmq_ticket, sent_at) VALUES ('20200101-10000001', now());
         UPDATE directives SET sent_id = (SELECT max(id) FROM sent) WHERE recipient_address = $TO";
    let gone = "is gone from the database";
    let relay = ScriptedRelay::start();
    for (what, statement, words, rows) in [
        (
            "one of its events",
            "DELETE FROM events WHERE id = (SELECT min(events_id) FROM directives WHERE recipient_address = $TO)",
            gone,
            1,
        ),
        (
            "all of its events",
            "DELETE FROM events WHERE id IN (SELECT events_id FROM directives WHERE recipient_address = $TO)",
            gone,
            2,
        ),
        ("its directives", "DELETE FROM directives WHERE recipient_address = $TO", gone, 2),
        ("marked by hand", marked_by_hand, "was marked sent already, under another ticket", 2),
    ] {
        for after_it_was_sent in [false, true] {
            println!("{what}, after it was sent: {after_it_was_sent}");
            let site = Site::new(programs!()).unsigned().relay(relay.port()).build();
            let event = Directive::to(&recipient(1)).event();
            site.insert([&event, &event, &Directive::to(&recipient(2)).event()]);
            site.generator(&["run", "--all"]).expect(0);
            let change = statement.replace("$TO", &format!("'{}'", recipient(1)));
            let before = relay.received().len();
            let run = if after_it_was_sent {
                // What the deliverer's transaction has to wait for, and then finds.
                let mut held = site.hold("LOCK TABLE sent IN ACCESS EXCLUSIVE MODE");
                let service = site.start_deliverer(&["run", "--once"]);
                wait_until("it waits to mark", || site.waits(Program::Deliverer, "Lock"));
                held.batch_execute(&format!("{change}; COMMIT")).unwrap();
                service.finish()
            } else {
                site.sql(&change);
                // The generator writes nothing anew.
                site.generator(&["run", "--all"]).expect(0).line("INFO", &["done", "mails=0"]);
                site.deliverer(&["run", "--once"])
            };
            let run = run.expect(0).without("ERROR");
            let told = run.lines("WARN");
            assert_eq!(told.len(), rows, "{run}");
            assert!(told.iter().all(|line| line.contains(words)), "{run}");
            assert_eq!(relay.received().len() - before, 2);
            assert_eq!((site.pending(), site.listed("sidecar").len()), (0, 0));
            let tickets = site.sent_tickets();
            assert!(
                site.sent_tickets().iter().any(|ticket| ticket.ends_with("-10000002")),
                "{tickets:?}"
            );
            site.generator(&["run", "--all"]).expect(0).line("INFO", &["done", "mails=0"]);
        }
    }
}

// ---- Tickets ----

#[test]
fn a_ticket_that_can_not_be_drawn_is_told_and_nothing_is_written() {
    let shifted = |days: i32| {
        format!(
            "CREATE SCHEMA shifted; GRANT USAGE ON SCHEMA shifted TO PUBLIC;
             CREATE FUNCTION shifted.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS
                 $$ SELECT pg_catalog.clock_timestamp() + interval '{days} days' $$;
             ALTER DATABASE $DATABASE SET search_path = shifted, pg_catalog, public"
        )
    };
    let unshifted = "ALTER DATABASE $DATABASE RESET search_path";
    let today = "UPDATE ticket_day SET initialized_for_day = (now() AT TIME ZONE 'UTC')::date";
    let day = |day: &str| format!("UPDATE ticket_day SET initialized_for_day = {day}");
    // What makes it so, what mends it, and the words; none where numbers are drawn all the same.
    let cases: Vec<(String, String, Option<&[&str]>)> = vec![
        (
            day("(now() AT TIME ZONE 'UTC')::date + 1"),
            today.into(),
            Some(&["which is in the future", "initialized_for_day"]),
        ),
        (day("'10000-01-01'"), today.into(), Some(&["which is in the future"])),
        (day("'infinity'"), today.into(), Some(&["which is in the future"])),
        (day("'-infinity'"), String::new(), None),
        (day("'0044-03-15 BC'"), String::new(), None),
        (day("NULL"), String::new(), None),
        (
            "DELETE FROM ticket_day".into(),
            "INSERT INTO ticket_day VALUES ('2020-01-01')".into(),
            Some(&["0 rows instead of one"]),
        ),
        (
            "INSERT INTO ticket_day VALUES ('2020-01-01')".into(),
            "DELETE FROM ticket_day WHERE initialized_for_day = '2020-01-01'".into(),
            Some(&["2 rows instead of one"]),
        ),
        (
            "ALTER SEQUENCE intelmq_ticket_seq MAXVALUE 10000003".into(),
            "ALTER SEQUENCE intelmq_ticket_seq NO MAXVALUE".into(),
            Some(&["2200H", "intelmq_ticket_seq"]),
        ),
        (
            "SELECT setval('intelmq_ticket_seq', 99999999)".into(),
            "SELECT setval('intelmq_ticket_seq', 10000100)".into(),
            Some(&["cannot draw tickets", "100000000"]),
        ),
        (
            "ALTER SEQUENCE intelmq_ticket_seq RENAME TO elsewhere".into(),
            "ALTER SEQUENCE elsewhere RENAME TO intelmq_ticket_seq".into(),
            Some(&["\"intelmq_ticket_seq\" does not exist"]),
        ),
        // The clock of the server was right, and then is a day behind.
        (shifted(-1), unshifted.into(), Some(&["which is in the future"])),
        // It is a day ahead: these are tomorrow's numbers.
        (shifted(1), String::new(), None),
    ];
    let relay = ScriptedRelay::start();
    for (breaking, mending, words) in cases {
        println!("{breaking}");
        let site = Site::new(programs!()).unsigned().relay(relay.port()).build();
        let sql = |text: &str| site.sql(&text.replace("$DATABASE", site.database().name()));
        site.insert(&events::groups(2));
        site.generator(&["run", "--all"]).expect(0);
        site.insert([3, 4].map(|number| Directive::to(&recipient(number)).event()).iter());
        sql(&breaking);
        if let Some(words) = words {
            let run = site.generator(&["run", "--all"]);
            let code = if breaking.contains("RENAME") { 78 } else { 75 };
            run.clone().expect(code).line("ERROR", words);
            assert_eq!(site.listed("sidecar").len(), 2, "{run}");
            sql(&mending);
        }
        site.generator(&["run", "--all"]).expect(0).without("ERROR");
        let before = relay.received().len();
        site.deliverer(&["run", "--once"]).expect(0).without("WARN").without("ERROR");
        assert_eq!((site.pending(), relay.received().len() - before), (0, 4));
        let tickets: BTreeSet<String> = site.sent_tickets().into_iter().collect();
        assert_eq!(tickets.len(), 4, "{tickets:?}");
    }
}

// ---- What the tests above are made of ----

/// Every directive is `sent`, the relay has each group's mail once, and what was sent is what is marked.
#[track_caller]
fn assert_all_sent_once(site: &Site, relay: &ScriptedRelay, groups: usize) {
    assert_eq!(site.pending(), 0);
    let received = relay.received();
    let recipients: BTreeSet<_> = received.iter().map(|mail| mail.to.join(" ")).collect();
    assert_eq!((received.len(), recipients.len()), (groups, groups), "each mail once");
    let tickets: BTreeSet<_> = received.iter().map(Received::ticket).collect();
    assert!(tickets.into_iter().eq(site.sent_tickets()), "what was sent is what is marked");
    let mut others = site.files();
    others.retain(|file| !file.starts_with("sent/cur/#"));
    assert_eq!(others, [""; 0], "nothing is left but the archive");
}
