//! What databases do that ours should not: commit without durability, refuse one row of many, give
//! a ticket twice. In each case no mail may be lost, sent twice or left unmarked in silence.

use outbox_tests::Cluster;
use outbox_tests::events::{self, Directive};
use outbox_tests::programs;
use outbox_tests::programs::wait_until;
use outbox_tests::scripted_relay::ScriptedRelay;
use outbox_tests::site::Site;

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
