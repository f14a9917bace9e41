//! How mails get to the relays: several connections and several relays, limits, slow ones, what
//! waits for a person or for its time, and what a running service takes up without a restart.

use std::fs;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use outbox_tests::events::{self, recipient};
use outbox_tests::programs;
use outbox_tests::programs::{Running, wait_until};
use outbox_tests::scripted_relay::{Act, At, ScriptedRelay};
use outbox_tests::site::{Builder, Program, Site};
use rustix::process::Signal;
use serde_json::json;

// ---- Several connections ----

#[test]
fn as_many_mails_are_in_hand_as_there_are_connections_and_not_more() {
    let relay = ScriptedRelay::start();
    let site = with_mails(Site::new(programs!()).relay(relay.port()), 8);
    relay.always(At::FinalDot, "", Act::Hold);
    let service = site.start_deliverer(&["run"]);
    // A relay of which nothing is known yet gets one mail.
    relay.wait_until_so_many_held(1);
    assert_eq!((relay.received().len(), relay.connections()), (1, 1));
    relay.go_on();
    relay.wait_until_so_many_held(4);
    assert_eq!(relay.received().len(), 5);
    for _ in 0..7 {
        relay.go_on();
    }
    wait_until("all are sent", || site.pending() == 0);
    service.terminate().expect(0).without("ERROR").without("WARN");
    assert_eq!(relay.most_open(), 4);
    assert_eq!(relay.by_message_id().len(), 8);
}

#[test]
fn a_connection_is_used_for_so_many_mails_and_no_more() {
    let relay = ScriptedRelay::start();
    let site = Site::new(programs!())
        .relay(relay.port())
        .set("delivery.connections", json!(1))
        .set("delivery.mails_per_connection", json!(3));
    let site = with_mails(site, 7);
    site.deliverer(&["run", "--once"]).expect(0);
    assert_eq!((relay.received().len(), relay.connections(), relay.most_open()), (7, 3, 1));
}

#[test]
fn a_relay_that_says_too_many_gets_one_connection_and_no_mail_suffers() {
    let relay = ScriptedRelay::start();
    let site = with_mails(Site::new(programs!()).relay(relay.port()), 8);
    relay.once(At::Greeting, "", Act::Say("220 scripted.example ESMTP"));
    relay.once(At::FinalDot, "", Act::Say("250 2.0.0 queued"));
    relay.once(At::FinalDot, "", Act::Hold);
    let too_many = Act::SayAndHangUp("421 4.7.0 too many connections from your host");
    relay.once(At::Greeting, "", too_many.clone());
    relay.once(At::Greeting, "", too_many);
    let service = site.start_deliverer(&["run"]);
    service.wait_for("one connection at a time");
    relay.wait_until_held();
    relay.go_on();
    wait_until("all are sent", || site.pending() == 0);
    let run = service.terminate().expect(0).without("ERROR");
    assert_eq!(run.lines("WARN").len(), 1, "{run}");
    assert_eq!(relay.by_message_id().len(), 8);
    assert!(site.records().is_empty());
}

#[test]
fn where_the_relay_can_it_is_asked_to_name_the_ticket_in_what_it_reports() {
    let relay = ScriptedRelay::offering(&["PIPELINING", "DSN"]);
    let site = with_mails(Site::new(programs!()).relay(relay.port()), 1);
    site.deliverer(&["run", "--once"]).expect(0);
    let commands = relay.commands();
    let ticket = &site.sent_tickets()[0];
    let mail = commands.iter().find(|command| command.starts_with("MAIL")).unwrap();
    assert!(mail.ends_with(&format!("RET=HDRS ENVID={ticket}")), "{mail}");
    let rcpt = commands.iter().find(|command| command.starts_with("RCPT")).unwrap();
    let expected = format!("NOTIFY=FAILURE,DELAY ORCPT=rfc822;{}", recipient(1));
    assert!(rcpt.ends_with(&expected), "{rcpt}");
}

#[test]
fn what_relays_say_at_the_same_time_can_be_told_apart() {
    let relay = ScriptedRelay::start();
    let site = with_mails(Site::new(programs!()).relay(relay.port()), 3);
    let ids: Vec<String> = (1..=3)
        .map(|number| site.sidecar_to(&recipient(number))["id"].as_str().unwrap().to_owned())
        .collect();
    let run = site.deliverer(&["-v", "run", "--once"]).expect(0);
    for id in ids {
        run.line("DEBUG", &["the relay said", "phase=Mail", &format!("mail={id}")]);
    }
}

// ---- One slow mail never stops the rest ----

#[test]
fn a_relay_that_dribbles_over_one_mail_keeps_no_other_waiting() {
    let relay = ScriptedRelay::start();
    let site = with_mails(Site::new(programs!()).relay(relay.port()), 40);
    relay.always(At::Rcpt, &recipient(3), Act::Dribble(Duration::from_millis(300)));
    let service = site.start_deliverer(&["run"]);
    wait_until("the others are sent", || site.pending() == 1);
    assert!(!relay.received().iter().any(|mail| mail.to == [recipient(3)]), "and it is not yet");
    wait_until("it is sent as well", || site.pending() == 0);
    service.terminate().expect(0).without("ERROR").without("WARN");
}

#[test]
fn a_relay_that_never_answers_for_one_mail_keeps_no_other_waiting() {
    let relay = ScriptedRelay::start();
    let site = with_mails(Site::new(programs!()).relay(relay.port()), 20);
    relay.once(At::FinalDot, &recipient(1), Act::Say("451 4.3.0 later"));
    relay.always(At::FinalDot, &recipient(2), Act::Hold);
    let service = site.start_deliverer(&["run"]);
    wait_until("the others are sent", || site.pending() == 2);
    // New ones are sent as well.
    site.insert(&events::groups(21)[20..]);
    site.generator(&["run", "--all"]).expect(0);
    wait_until("a new one is sent", || site.sent_tickets().len() == 19);
    relay.go_on();
    wait_until("it is sent in the end", || site.pending() == 1);
    service.terminate().expect(0).without("ERROR");
}

#[test]
fn the_very_first_mail_may_be_the_one_without_an_answer() {
    let relay = ScriptedRelay::start();
    let site = with_mails(Site::new(programs!()).relay(relay.port()), 8);
    relay.always(At::FinalDot, &recipient(1), Act::Hold);
    let service = site.start_deliverer(&["run"]);
    wait_until("the others are sent", || site.pending() == 1);
    relay.go_on();
    wait_until("it is sent in the end", || site.pending() == 0);
    service.terminate().expect(0).without("ERROR").without("WARN");
}

#[test]
fn mails_over_which_the_relay_breaks_never_take_all_connections() {
    let relay = ScriptedRelay::start();
    let site = with_mails(Site::new(programs!()).relay(relay.port()), 12);
    for number in 1..=4 {
        relay.always(At::Data, &recipient(number), Act::HangUp);
    }
    let service = site.start_deliverer(&["run"]);
    wait_until("the others are sent", || site.pending() == 4);
    wait_until("the four are blamed in the end", || {
        site.records().iter().filter(|record| record["state"] == "deferred").count() == 4
    });
    service.terminate().expect(0).without("ERROR");
    assert_eq!(relay.by_message_id().len(), 8);
}

#[test]
fn a_slow_first_mail_keeps_no_other_waiting_although_the_relay_is_not_known_to_work() {
    let relay = ScriptedRelay::start();
    let site = with_mails(Site::new(programs!()).relay(relay.port()), 6);
    relay.always(At::FinalDot, &recipient(1), Act::Hold);
    let service = site.start_deliverer(&["run"]);
    wait_until("the others are sent", || site.pending() == 1);
    relay.go_on();
    wait_until("all are sent", || site.pending() == 0);
    service.terminate().expect(0).without("WARN");
}

#[test]
fn a_slow_mail_and_trouble_over_another_one_stop_nothing() {
    let relay = ScriptedRelay::start();
    let site = with_mails(Site::new(programs!()).relay(relay.port()), 12);
    relay.always(At::FinalDot, &recipient(2), Act::Hold);
    relay.once(At::Data, &recipient(3), Act::HangUp);
    let service = site.start_deliverer(&["run"]);
    service.wait_for("the relay is in trouble");
    wait_until("the others are sent", || site.pending() == 1);
    relay.go_on();
    wait_until("all are sent", || site.pending() == 0);
    service.terminate().expect(0);
}

#[test]
fn a_single_run_gets_past_a_mail_over_which_the_relay_breaks() {
    let relay = ScriptedRelay::start();
    let site = with_mails(Site::new(programs!()).relay(relay.port()), 5);
    relay.always(At::Data, &recipient(1), Act::HangUp);
    site.deliverer(&["run", "--once"]).expect(75);
    assert_eq!(site.pending(), 1);
}

#[test]
fn a_mail_over_which_the_relay_broke_has_its_turn_although_new_ones_keep_coming() {
    let relay = ScriptedRelay::start();
    let site = Site::new(programs!()).relay(relay.port()).set("delivery.connections", json!(1));
    let site = with_mails(site, 60);
    relay.once(At::Data, &recipient(1), Act::HangUp);
    site.deliverer(&["run", "--once"]).expect(0);
    let order = relay.received().iter().position(|mail| mail.to == [recipient(1)]).unwrap();
    assert!(order < 30, "{order} others went first");
}

#[test]
fn a_mail_that_nobody_can_read_or_lock_takes_no_part_of_the_rate() {
    let relay = ScriptedRelay::start();
    let site = Site::new(programs!()).relay(relay.port()).set("delivery.rate", json!("30/m"));
    let site = with_mails(site, 4);
    let outbox = outbox::Outbox::open(&site.outbox()).unwrap();
    let id = |number| site.sidecar_to(&recipient(number))["id"].as_str().unwrap().parse().unwrap();
    let _lock = outbox.lock_mail(&id(1)).unwrap().unwrap();
    fs::write(site.outbox().join(format!("sidecar/{}.json", id(2))), "{").unwrap();
    let service = site.start_deliverer(&["run"]);
    wait_until("the others are sent", || site.pending() == 2);
    service.terminate().expect(0);
}

#[test]
fn without_a_thread_for_an_attempt_no_answer_of_another_one_is_lost() {
    let relay = ScriptedRelay::start();
    let site = with_mails(Site::new(programs!()).relay(relay.port()), 6);
    relay.once(At::FinalDot, "", Act::Say("250 2.0.0 queued"));
    relay.once(At::FinalDot, "", Act::Hold);
    let options = ["-e", "trace=clone3", "-e", "inject=clone3:error=EAGAIN:when=5"];
    let run = site.start_under_strace(Program::Deliverer, &["run", "--once"], &options);
    relay.wait_until_held();
    run.wait_for("no thread for it");
    relay.go_on();
    run.finish();
    site.deliverer(&["run", "--once"]).expect(0);
    assert_eq!((site.pending(), relay.received().len()), (0, 6));
}

#[test]
fn a_large_mail_and_one_to_a_thousand_recipients_go_out_beside_the_others() {
    let relay = ScriptedRelay::start();
    let site = with_mails(Site::new(programs!()).relay(relay.port()), 5);
    let large = [b"Subject: large\r\n\r\n".to_vec(), b"0123456789\r\n".repeat(2 << 20)].concat();
    publish(&site, &["large@as64510.example".to_owned()], &large);
    let many: Vec<String> = (0..1000).map(|n| format!("abuse{n}@as64511.example")).collect();
    publish(&site, &many, b"Subject: many\r\n\r\nMany.\r\n");
    site.deliverer(&["run", "--once"]).expect(0);
    let received = relay.received();
    assert_eq!((site.pending(), received.len()), (0, 7));
    assert!(received.iter().any(|mail| mail.bytes == large));
    assert!(received.iter().any(|mail| mail.to == many));
}

// ---- Several relays ----

#[test]
fn while_the_first_relay_is_away_mails_go_to_the_second_and_later_to_the_first_again() {
    let (first, second) = (ScriptedRelay::start(), ScriptedRelay::start());
    let site = with_mails(Site::new(programs!()).set("smtp", both(&first, &second)), 3);
    first.go_away();
    let service = site.start_deliverer(&["run"]);
    wait_until("they are sent", || site.pending() == 0);
    assert_eq!(second.by_message_id().len(), 3);
    let name = |relay: &ScriptedRelay| format!("relay=127.0.0.1:{}", relay.port());
    first.come_back();
    // After its pause, the first is tried again with one mail.
    let mut sent = 3;
    wait_until("the first has one", || {
        if site.pending() == 0 {
            sent += 1;
            site.insert(&events::groups(sent)[sent - 1..]);
            site.generator(&["run", "--all"]).expect(0);
        }
        !first.received().is_empty()
    });
    wait_until("all are sent", || site.pending() == 0);
    let run = service.terminate().expect(0).without("ERROR");
    run.line("WARN", &["the relay is in trouble", &name(&first)]);
    run.line("INFO", &["the relay works again", &name(&first)]);
    assert!(run.line("INFO", &["relayed ticket=", "-10000001 "]).contains(&name(&second)), "{run}");
    assert_eq!(first.received().len() + second.received().len(), sent);
}

#[test]
fn a_wrong_password_touches_no_mail_and_the_next_relay_takes_them() {
    let first = ScriptedRelay::offering(&["AUTH PLAIN"]);
    let second = ScriptedRelay::start();
    first.always(At::Auth, "", Act::Say("535 5.7.8 authentication failed"));
    let mut relays = both(&first, &second);
    relays[0]["username"] = json!("outbox");
    relays[0]["password"] = json!("wr0ngpass");
    let mut site = with_mails(Site::new(programs!()).set("smtp", json!([relays[0]])), 2);
    let run = site.deliverer(&["run", "--once"]).expect(75);
    let line = run.line("WARN", &["the relay is in trouble", "535 5.7.8 authentication failed"]);
    assert!(!line.contains("wr0ngpass"));
    assert_eq!(site.files(), ["new/#1", "new/#2", "sidecar/#1.json", "sidecar/#2.json"]);

    site.set("smtp", relays);
    site.deliverer(&["run", "--once"]).expect(0);
    assert_eq!((site.pending(), second.received().len(), first.received().len()), (0, 2, 0));
}

#[test]
fn without_any_relay_a_run_says_so_and_no_mail_is_touched() {
    let (first, second) = (ScriptedRelay::start(), ScriptedRelay::start());
    let site = with_mails(Site::new(programs!()).set("smtp", both(&first, &second)), 2);
    first.always(At::Greeting, "", Act::SayAndHangUp("554 5.3.2 not today"));
    second.always(At::Mail, "", Act::SayAndHangUp("421 4.3.2 shutting down"));
    let run = site.deliverer(&["run", "--once"]).expect(75);
    assert_eq!(run.lines("WARN").len(), 2, "{run}");
    assert_eq!(site.files(), ["new/#1", "new/#2", "sidecar/#1.json", "sidecar/#2.json"]);
}

#[test]
fn a_single_run_says_that_mails_are_left_though_the_relay_may_be_back_when_it_ends() {
    let relay = ScriptedRelay::start();
    let site = with_mails(Site::new(programs!()).relay(relay.port()), 3);
    let marks = site.hold("SELECT FROM directives FOR UPDATE");
    relay.once(At::Mail, "", Act::Say("250 2.1.0 sender ok"));
    relay.always(At::Mail, "", Act::SayAndHangUp("421 4.3.2 shutting down"));
    let run = site.start_deliverer(&["run", "--once"]);
    run.wait_for("the relay is in trouble");
    wait_until("it waits for its mark", || site.waits(Program::Deliverer, "Lock"));
    // By then the relay may be asked again.
    std::thread::sleep(Duration::from_millis(2100));
    drop(marks);
    run.finish().expect(75).line("ERROR", &["the relay does not take mails now"]);
    assert_eq!(relay.received().len(), 1);
}

// ---- Limits of time ----

#[test]
fn no_more_mails_are_offered_than_the_rate_allows() {
    let relay = ScriptedRelay::start();
    let site = Site::new(programs!()).relay(relay.port()).set("delivery.rate", json!("5/s"));
    let site = with_mails(site, 6);
    let begun = Instant::now();
    site.deliverer(&["run", "--once"]).expect(0);
    // Five waits of a fifth of a second.
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(relay.received().len(), 6);
}

#[test]
fn a_new_mail_waits_until_it_is_old_enough() {
    let relay = ScriptedRelay::start();
    let site = Site::new(programs!()).relay(relay.port()).set("delivery.minimum_age", json!("2s"));
    let site = with_mails(site, 1);
    let written: Timestamp = site.sidecars()[0]["created_at"].as_str().unwrap().parse().unwrap();
    let service = site.start_deliverer(&["run"]);
    wait_until("it is sent", || site.pending() == 0);
    let waited = Timestamp::now().duration_since(written);
    assert!(waited.as_secs() >= 1, "{waited:?}");
    service.terminate().expect(0).without("WARN");

    let mut site = site;
    site.set("delivery.minimum_age", json!("1h"));
    site.insert(&events::groups(2)[1..]);
    site.generator(&["run", "--all"]).expect(0);
    site.deliverer(&["run", "--once"]).expect(0);
    assert_eq!(relay.received().len(), 1);
    // Its time can be shortened, and nothing was written down of it.
    site.set("delivery.minimum_age", json!("0s"));
    site.deliverer(&["run", "--once"]).expect(0);
    assert_eq!(relay.received().len(), 2);
}

#[test]
fn a_new_rate_counts_at_once() {
    let relay = ScriptedRelay::start();
    let site = Site::new(programs!()).relay(relay.port()).set("delivery.rate", json!("1/h"));
    let mut site = with_mails(site, 3);
    let service = site.start_deliverer(&["run"]);
    wait_until("one is sent", || site.pending() == 2);
    site.set("delivery.rate", json!("100/s"));
    service.signal(Signal::HUP);
    wait_until("the others are sent", || site.pending() == 0);
    service.terminate().expect(0);
}

// ---- What waits for a person ----

#[test]
fn a_mail_that_was_held_before_the_service_saw_it_is_not_held_for_review_after_its_release() {
    let relay = ScriptedRelay::start();
    let site = Site::new(programs!()).relay(relay.port()).set("review.hold_new", json!(true));
    let site = with_mails(site, 1);
    site.deliverer(&["hold", "--all"]).expect(0);
    let service = site.start_deliverer(&["run"]);
    service.wait_for("for review");
    site.deliverer(&["release", "--all"]).expect(0);
    wait_until("it is sent", || site.pending() == 0);
    service.terminate().expect(0);
}

#[test]
fn in_review_mode_every_new_mail_is_held_until_its_flag_is_cleared() {
    let relay = ScriptedRelay::start();
    let site = Site::new(programs!()).relay(relay.port()).set("review.hold_new", json!(true));
    let site = with_mails(site, 2);
    let service = site.start_deliverer(&["run"]);
    wait_until("both are held", || site.records().len() == 2);
    assert_eq!(site.listed("cur").len(), 2);
    assert!(site.records().iter().all(|record| record["state"] == "review"));
    assert_eq!(relay.connections(), 0);
    site.flag(&site.listed("cur")[1], "S");
    wait_until("one is sent", || site.pending() == 1);
    let run = service.terminate().expect(0).without("ERROR").without("WARN");
    assert_eq!(run.lines("INFO").iter().filter(|line| line.contains("for review")).count(), 2);
    let left = ["cur/#1:2,F", "delivery/#1.json", "sent/cur/#2:2,S", "sidecar/#1.json"];
    assert_eq!(site.files(), left);
}

#[test]
fn a_deferred_mail_with_the_retry_flag_is_tried_now_and_loses_the_flag() {
    let relay = ScriptedRelay::start();
    let site = with_mails(Site::new(programs!()).relay(relay.port()), 1);
    relay.once(At::Rcpt, "", Act::Say("450 4.2.0 greylisted"));
    relay.once(At::Rcpt, "", Act::Say("450 4.2.0 still greylisted"));
    let service = site.start_deliverer(&["run"]);
    service.wait_for("450 4.2.0 greylisted");
    site.flag(&site.listed("new")[0], "Sr");
    service.wait_for("450 4.2.0 still greylisted");
    wait_until("the flag is gone", || site.files().contains(&"cur/#1:2,S".to_owned()));
    let record = &site.records()[0];
    assert_eq!((&record["attempts"], record["history"].as_array().unwrap().len()), (&json!(2), 2));
    site.flag(&site.listed("cur")[0], "r");
    wait_until("it is sent", || site.pending() == 0);
    service.terminate().expect(0);
    assert_eq!(site.files(), ["sent/cur/#1:2,S"]);
}

// ---- Uncertain outcomes ----

#[test]
fn where_uncertain_mails_are_held_even_a_kill_makes_none_go_out_twice() {
    let relay = ScriptedRelay::start();
    let site = Site::new(programs!()).relay(relay.port()).set("delivery.uncertain", json!("hold"));
    let site = with_mails(site, 2);
    relay.once(At::FinalDot, &recipient(1), Act::Hold);
    let service = site.start_deliverer(&["run"]);
    relay.wait_until_held();
    service.kill();
    relay.behave();
    relay.go_on();

    let run = site.deliverer(&["run", "--once"]).expect(1);
    run.line("ERROR", &["held", "killed", "-10000001 "]);
    assert_eq!(site.files()[..2], ["cur/#1:2,F", "delivery/#1.json"]);
    let record = &site.records()[0];
    assert_eq!((&record["state"], &record["uncertain"]), (&json!("held"), &json!(1)));
    assert_eq!((site.pending(), relay.received().len()), (1, 2));

    // Released, it is sent after all.
    site.flag(&site.listed("cur")[0], "");
    site.deliverer(&["run", "--once"]).expect(0);
    assert_eq!((site.pending(), relay.received().len()), (0, 3));
}

#[test]
fn where_uncertain_mails_are_held_a_relay_in_trouble_leaves_no_trace() {
    let relay = ScriptedRelay::start();
    let site = Site::new(programs!()).relay(relay.port()).set("delivery.uncertain", json!("hold"));
    let site = with_mails(site, 1);
    relay.once(At::Mail, "", Act::SayAndHangUp("421 4.3.2 shutting down"));
    site.deliverer(&["run", "--once"]).expect(75);
    assert_eq!(site.records()[0].get("offered_at"), None);
    assert_eq!(site.records()[0]["attempts"], 0);
    site.deliverer(&["run", "--once"]).expect(0);
    assert_eq!((site.pending(), relay.received().len()), (0, 1));
}

// ---- Configuration read anew ----

#[test]
fn a_running_service_takes_up_a_new_configuration_and_refuses_a_wrong_one() {
    let (first, second) = (ScriptedRelay::start(), ScriptedRelay::start());
    let mut site = with_mails(Site::new(programs!()).relay(first.port()), 1);
    first.always(At::FinalDot, "", Act::Hold);
    let service = site.start_deliverer(&["run"]);
    first.wait_until_held();

    // With a mail in hand at the old relay, which is finished there.
    site.set("smtp.port", json!(second.port()));
    service.signal(Signal::HUP);
    service.wait_for("configuration read anew");
    first.go_on();
    wait_until("it is sent", || site.pending() == 0);
    more_mails(&site, 2);
    wait_until("the next goes to the new relay", || second.received().len() == 1);

    let reload_refused = |service: &Running, count, words: &str| {
        service.signal(Signal::HUP);
        let line = service.wait_for_nth("the old one stays", count);
        assert!(line.contains(" ERROR ") && line.contains(words), "{line}");
    };
    site.set("smtp.port", json!("x"));
    reload_refused(&service, 1, "smtp.port");
    site.set("smtp.port", json!(second.port()));
    site.set("outbox.path", json!("/nowhere"));
    reload_refused(&service, 2, "outbox.path can't change while the service runs");
    let outbox = site.folder().join("outbox");
    site.set("outbox.path", json!(outbox));
    more_mails(&site, 3);
    wait_until("it goes on with the old one", || second.received().len() == 2);
    wait_until("all are marked", || site.pending() == 0);
    service.terminate().expect(0);
}

#[test]
fn a_running_service_takes_up_a_new_login_for_the_database() {
    let relay = ScriptedRelay::start();
    let mut site = with_mails(Site::new(programs!()).relay(relay.port()), 1);
    let port = site.database().port();
    site.set("database.event.port", json!(1));
    let service = site.start_deliverer(&["run"]);
    service.wait_for("the database does not take marks");
    site.set("database.event.port", json!(port));
    service.signal(Signal::HUP);
    service.wait_for("the database takes marks again");
    wait_until("it is marked", || site.pending() == 0);
    service.terminate().expect(0);
}

#[test]
fn a_new_configuration_gives_no_relay_more_connections_than_it_may_have() {
    let relay = ScriptedRelay::start();
    let site = with_mails(Site::new(programs!()).relay(relay.port()), 8);
    relay.once(At::FinalDot, "", Act::Say("250 2.0.0 queued"));
    relay.always(At::FinalDot, "", Act::Hold);
    let service = site.start_deliverer(&["run"]);
    relay.wait_until_so_many_held(4);
    for count in 1..=2 {
        service.signal(Signal::HUP);
        service.wait_for_nth("configuration read anew", count);
    }
    // Each connection that there could be would be there when the first mails are through.
    (0..7).for_each(|_| relay.go_on());
    wait_until("all are sent", || site.pending() == 0);
    service.terminate().expect(0);
    assert_eq!(relay.most_open(), 4);
}

// ---- The end ----

#[test]
fn a_relay_that_has_not_heard_of_any_mail_keeps_the_service_from_no_end() {
    let relay = ScriptedRelay::start();
    let site = Site::new(programs!()).relay(relay.port()).set("delivery.uncertain", json!("hold"));
    let site = with_mails(site, 1);
    relay.once(At::Greeting, "", Act::Hold);
    let service = site.start_deliverer(&["run"]);
    relay.wait_until_held();
    service.terminate().expect(0);
    relay.go_on();
    assert!(site.records().iter().all(|record| record.get("offered_at").is_none()));
    site.deliverer(&["run", "--once"]).expect(0);
    assert_eq!((site.pending(), relay.received().len()), (0, 1));
}

#[test]
fn what_the_relay_says_is_not_written_into_another_outbox() {
    let relay = ScriptedRelay::start();
    let site = with_mails(Site::new(programs!()).relay(relay.port()), 1);
    relay.once(At::FinalDot, "", Act::Hold);
    let service = site.start_deliverer(&["run"]);
    relay.wait_until_held();
    let away = site.folder().join("away");
    fs::rename(site.outbox(), &away).unwrap();
    outbox::Outbox::create(&site.outbox()).unwrap();
    relay.go_on();
    service.wait_for("that can't be written down");
    fs::rename(site.outbox(), site.folder().join("other")).unwrap();
    fs::rename(&away, site.outbox()).unwrap();
    service.wait_for("written down at last");
    service.terminate();
    site.deliverer(&["run", "--once"]).expect(0);
    assert_eq!((site.pending(), relay.received().len()), (0, 1));
}

// ---- What the tests above are made of ----

fn with_mails(builder: Builder, count: usize) -> Site {
    let site = builder.build();
    site.insert(&events::groups(count));
    site.generator(&["run", "--all"]).expect(0);
    assert_eq!(site.listed("new").len(), count);
    site
}

/// One more mail, the `number`th.
fn more_mails(site: &Site, number: usize) {
    site.insert(&events::groups(number)[number - 1..]);
    site.generator(&["run", "--all"]).expect(0);
}

/// A mail that claims nothing, straight into the outbox.
fn publish(site: &Site, to: &[String], bytes: &[u8]) {
    let outbox = outbox::Outbox::open(&site.outbox()).unwrap();
    let mut generator = outbox.lock_generator().unwrap().expect("no generator runs");
    let mail = outbox::NewMail {
        ticket: "20261125-19999999".parse().unwrap(),
        message_id: "<1@cert.example>".into(),
        created_at: Timestamp::now(),
        subject: "large or many".into(),
        envelope: outbox::Envelope { from: "noreply@cert.example".into(), to: to.to_vec() },
        directive_ids: Vec::new(),
        group: outbox::GroupKey {
            recipient_address: "x".into(),
            template_name: "x".into(),
            notification_format: "x".into(),
            event_data_format: "x".into(),
            aggregate_identifier: std::collections::BTreeMap::new(),
        },
    };
    let draft = generator.draft(mail, bytes).unwrap();
    generator.publish(vec![draft]).unwrap();
}

fn both(first: &ScriptedRelay, second: &ScriptedRelay) -> serde_json::Value {
    json!([first.port(), second.port()].map(|port| json!({"host": "127.0.0.1", "port": port})))
}

#[test]
fn a_mail_that_somebody_is_about_to_take_back_is_not_sent() {
    let relay = ScriptedRelay::start();
    let site = with_mails(Site::new(programs!()).relay(relay.port()), 1);
    let outbox = outbox::Outbox::open(&site.outbox()).unwrap();
    let id = site.sidecars()[0]["id"].as_str().unwrap().parse().unwrap();
    let lock = outbox.lock_mail(&id).unwrap().expect("nobody has it");
    site.deliverer(&["run", "--once"]).expect(0);
    assert_eq!(relay.received().len(), 0);
    drop(lock);
    site.deliverer(&["run", "--once"]).expect(0);
    assert_eq!(relay.received().len(), 1);

    // And while the relay has it in hand, nobody else gets the lock.
    more_mails(&site, 2);
    relay.once(At::FinalDot, "", Act::Hold);
    let service = site.start_deliverer(&["run"]);
    relay.wait_until_held();
    let id = site.sidecars()[0]["id"].as_str().unwrap().parse().unwrap();
    assert!(outbox.lock_mail(&id).unwrap().is_none());
    relay.go_on();
    wait_until("it is sent", || site.pending() == 0);
    service.terminate().expect(0);
    assert!(fs::read_dir(site.outbox().join("delivery")).unwrap().flatten().next().is_none());
}
