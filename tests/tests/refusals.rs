//! What is refused, by the relay, by an operator's flag or by the programs themselves, is neither
//! sent nor lost: it stays where it was, with the reason, and everything else goes on.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use jiff::{Timestamp, ToSpan as _};
use outbox_tests::events::{self, Directive, event, recipient};
use outbox_tests::gnupg::Gnupg;
use outbox_tests::programs::{Finished, wait_until};
use outbox_tests::scripted_relay::{Act, At, ScriptedRelay};
use outbox_tests::site::{Builder, Site};
use outbox_tests::{Cluster, programs};
use serde_json::{Value, json};

// ---- By the relay ----

#[test]
fn a_mail_that_the_relay_defers_waits_for_its_time_and_goes_out_then() {
    let relay = ScriptedRelay::start();
    let mut site = site_with_mails(Site::new(programs!()).relay(relay.port()), 1);
    relay.once(At::Rcpt, &recipient(1), Act::Say("450 4.2.0 greylisted"));

    let before = Timestamp::now();
    let run = site.deliverer(&["run", "--once"]).expect(0).without("ERROR");
    run.line("WARN", &["deferred", "450 4.2.0 greylisted", "-10000001 "]);

    assert_eq!(site.files(), ["delivery/#1.json", "new/#1", "sidecar/#1.json"]);
    let record = &site.records()[0];
    assert_eq!(record["state"], "deferred");
    assert_eq!(record["attempts"], 1);
    assert_eq!(record["relay"], format!("127.0.0.1:{}", relay.port()));
    let outcome = &record["recipients"][recipient(1)];
    assert_eq!(outcome, &json!({"state": "deferred", "reply": "450 4.2.0 greylisted"}));
    let tried = time(&record["last_attempt_at"]);
    assert_eq!(record["first_attempt_at"], record["last_attempt_at"]);
    assert!(before <= tried && tried <= Timestamp::now(), "{record}");
    let next = time(&record["next_attempt_at"]);
    // The first wait is delivery.retry_min, of which at most a quarter is left out.
    assert!(tried + 225.seconds() <= next && next <= tried + 300.seconds(), "{record}");
    assert_eq!((site.pending(), site.sent_tickets().len()), (1, 0));

    let said = relay.commands().len();
    site.deliverer(&["run", "--once"]).expect(0).without("WARN").without("ERROR");
    assert_eq!((relay.commands().len(), relay.connections()), (said, 1), "it is not due");
    assert_eq!(&site.records()[0], record, "and nothing is written down of it");

    // A restart forgets nothing: the time is in the record.
    site.set("delivery.retry_min", json!("1s"));
    edit_json(&site.listed("delivery")[0], "next_attempt_at", json!("2026-11-25T00:00:00Z"));
    site.deliverer(&["run", "--once"]).expect(0);
    assert_eq!(site.files(), ["sent/cur/#1:2,S"]);
    assert_eq!((site.pending(), relay.received().len()), (0, 1));
}

#[test]
fn the_service_tries_a_deferred_mail_again_by_itself_and_later_each_time() {
    let relay = ScriptedRelay::start();
    let site = Site::new(programs!()).relay(relay.port()).set("delivery.retry_min", json!("1s"));
    let site = site_with_mails(site, 1);
    for _ in 0..2 {
        relay.once(At::FinalDot, "", Act::Say("451 4.3.0 try again"));
    }
    let service = site.start_deliverer(&["run"]);
    service.wait_for("relayed");
    wait_until("it is marked", || site.pending() == 0);
    let run = service.terminate().expect(0);

    let times: Vec<Timestamp> = run
        .stderr
        .lines()
        .filter(|line| line.contains("deferred: ") || line.contains(" relayed "))
        .map(|line| line.split(' ').next().unwrap().parse().unwrap())
        .collect();
    assert_eq!(times.len(), 3, "{run}");
    let waits: Vec<i128> =
        times.windows(2).map(|two| two[1].duration_since(two[0]).as_millis()).collect();
    assert!(waits[0] >= 740 && waits[1] >= 1490, "{waits:?}");
    assert!(run.line("INFO", &["relayed ticket="]).contains("attempts=3"), "{run}");
    assert_eq!(site.files(), ["sent/cur/#1:2,S"]);
}

#[test]
fn a_mail_that_the_relay_rejects_is_held_with_its_words_until_its_flag_is_cleared() {
    let relay = ScriptedRelay::start();
    let site = site_with_mails(Site::new(programs!()).relay(relay.port()), 2);
    relay.once(At::Rcpt, &recipient(1), Act::Say("550 5.1.1 no such user here"));

    let run = site.deliverer(&["run", "--once"]).expect(1);
    let line = run.line("ERROR", &["rejected", "550 5.1.1 no such user here"]);
    assert!(line.contains("-10000001 "), "it names the ticket: {line}");

    let held = ["cur/#1:2,F", "delivery/#1.json", "sent/cur/#2:2,S", "sidecar/#1.json"];
    assert_eq!(site.files(), held, "and the other mail went out");
    let record = &site.records()[0];
    assert_eq!((&record["state"], &record["attempts"]), (&json!("rejected"), &json!(1)));
    let outcome = &record["recipients"][recipient(1)];
    assert_eq!(outcome, &json!({"state": "rejected", "reply": "550 5.1.1 no such user here"}));
    assert_eq!(record.get("next_attempt_at"), None);
    let list = site.deliverer(&["list"]).expect(0).stdout;
    assert!(list.contains("550 5.1.1 no such user here"), "{list}");

    let connections = relay.connections();
    site.deliverer(&["run", "--once"]).expect(0);
    assert_eq!(relay.connections(), connections, "a held mail is not offered");
    assert_eq!(site.files(), held);
    assert_eq!(site.pending(), 1);

    site.flag(&site.listed("cur")[0], "");
    site.deliverer(&["run", "--once"]).expect(0);
    assert_eq!(site.files(), ["sent/cur/#1:2,S", "sent/cur/#2:2,S"]);
    assert_eq!((site.pending(), relay.received().len()), (0, 2));
}

#[test]
fn a_mail_refused_for_one_of_two_recipients_counts_as_sent_and_the_log_says_who_lacks_it() {
    let relay = ScriptedRelay::start();
    let site = Site::new(programs!()).relay(relay.port()).build();
    site.insert([&Directive::to("good@isp.example, gone@isp.example").event()]);
    site.generator(&["run", "--all"]).expect(0);
    relay.always(At::Rcpt, "gone@", Act::Say("550 5.1.1 gone"));

    let run = site.deliverer(&["run", "--once"]).expect(1);
    let line = run.line("ERROR", &["gone@isp.example", "550 5.1.1 gone"]);
    assert!(!line.contains("good@isp.example"), "{line}");
    assert_eq!(site.files(), ["sent/cur/#1:2,S"]);
    assert_eq!(site.pending(), 0);
    assert_eq!(relay.received()[0].to, ["good@isp.example"]);
}

#[test]
fn a_mail_deferred_for_one_of_two_recipients_is_offered_again_for_that_one_alone() {
    let relay = ScriptedRelay::start();
    let site = Site::new(programs!()).relay(relay.port()).build();
    site.insert([&Directive::to("good@isp.example, later@isp.example").event()]);
    site.generator(&["run", "--all"]).expect(0);
    relay.once(At::Rcpt, "later@", Act::Say("452 4.2.2 mailbox full"));

    site.deliverer(&["run", "--once"]).expect(0);
    assert_eq!(site.files(), ["delivery/#1.json", "new/#1", "sidecar/#1.json"]);
    assert_eq!(site.pending(), 1, "not sent before nobody is open");
    let recipients = &site.records()[0]["recipients"];
    assert_eq!(recipients["good@isp.example"]["state"], "accepted");
    assert_eq!(recipients["later@isp.example"]["state"], "deferred");

    edit_json(&site.listed("delivery")[0], "next_attempt_at", json!("2026-11-25T00:00:00Z"));
    site.deliverer(&["run", "--once"]).expect(0);
    assert_eq!(site.files(), ["sent/cur/#1:2,S"]);
    assert_eq!(site.pending(), 0);
    let to: Vec<Vec<String>> = relay.received().into_iter().map(|mail| mail.to).collect();
    assert_eq!(to, [["good@isp.example"], ["later@isp.example"]]);
    assert_eq!(relay.received()[0].bytes, relay.received()[1].bytes);
}

#[test]
fn a_mail_that_is_deferred_for_too_long_is_held_as_expired() {
    let relay = ScriptedRelay::start();
    let site = site_with_mails(Site::new(programs!()).relay(relay.port()), 1);
    relay.always(At::Rcpt, "", Act::Say("450 4.2.0 greylisted"));
    site.deliverer(&["run", "--once"]).expect(0);
    for key in ["first_attempt_at", "last_attempt_at", "next_attempt_at"] {
        edit_json(&site.listed("delivery")[0], key, json!("2026-11-01T00:00:00Z"));
    }

    let run = site.deliverer(&["run", "--once"]).expect(1);
    run.line("ERROR", &["-10000001 ", "450 4.2.0 greylisted"]);
    assert_eq!(site.files(), ["cur/#1:2,F", "delivery/#1.json", "sidecar/#1.json"]);
    assert_eq!(site.records()[0]["state"], "expired");
    assert_eq!(site.pending(), 1);
}

#[test]
fn a_relay_that_is_away_counts_against_no_mail() {
    let relay = ScriptedRelay::start();
    let site = site_with_mails(Site::new(programs!()).relay(relay.port()), 3);
    relay.go_away();
    let queued = site.files();

    let run = site.deliverer(&["run", "--once"]).expect(75);
    assert_eq!(run.lines("WARN").len(), 1, "one line, not one a mail: {run}");
    assert_eq!(site.files(), queued, "no attempt is written down");

    relay.come_back();
    site.deliverer(&["run", "--once"]).expect(0).without("WARN");
    assert_eq!(site.files(), ["sent/cur/#1:2,S", "sent/cur/#2:2,S", "sent/cur/#3:2,S"]);
    assert_eq!((site.pending(), relay.received().len()), (0, 3));
}

#[test]
fn the_service_goes_on_by_itself_when_the_relay_is_back() {
    let relay = ScriptedRelay::start();
    let site = site_with_mails(Site::new(programs!()).relay(relay.port()), 2);
    relay.go_away();
    let service = site.start_deliverer(&["run"]);
    service.wait_for("the relay is in trouble");
    relay.come_back();
    service.wait_for("the relay works again");
    wait_until("both are marked", || site.pending() == 0);
    service.terminate().expect(0).without("ERROR");
    assert_eq!(site.files(), ["sent/cur/#1:2,S", "sent/cur/#2:2,S"]);
}

#[test]
fn the_service_offers_a_mail_again_soon_after_the_relay_hung_up_on_it() {
    let relay = ScriptedRelay::start();
    let site = site_with_mails(Site::new(programs!()).relay(relay.port()), 1);
    relay.once(At::Rcpt, "", Act::HangUp);
    let service = site.start_deliverer(&["run"]);
    service.wait_for("the relay is in trouble");
    let trouble = Instant::now();
    relay.wait_for_mails(1);
    // It leaves the relay alone for two seconds, and not until it looks around anyway.
    assert!(trouble.elapsed() < Duration::from_secs(15), "{:?}", trouble.elapsed());
    wait_until("it is marked", || site.pending() == 0);
    service.terminate().expect(0).without("ERROR");
}

#[test]
fn words_of_the_relay_before_the_first_mail_are_its_own_trouble_whatever_their_code() {
    let relay = ScriptedRelay::start();
    let site = site_with_mails(Site::new(programs!()).relay(relay.port()), 1);
    let queued = site.files();
    for greeting in ["554 5.7.1 go away", "421 4.3.2 shutting down", "hello?", "354 go ahead"] {
        relay.behave();
        relay.always(At::Greeting, "", Act::Say(greeting));
        let run = site.deliverer(&["run", "--once"]).expect(75);
        run.line("WARN", &["greeting"]);
        assert_eq!(site.files(), queued, "{greeting}");
    }
    relay.behave();
    site.deliverer(&["run", "--once"]).expect(0);
    assert_eq!(site.files(), ["sent/cur/#1:2,S"]);
}

#[test]
fn a_relay_that_closes_in_the_midst_of_a_mail_counts_against_no_mail() {
    for (at, act) in [
        (At::Mail, Act::SayAndHangUp("421 4.3.2 shutting down")),
        (At::Rcpt, Act::HangUp),
        (At::Data, Act::SayAndHangUp("421 4.3.2 shutting down")),
        (At::FinalDot, Act::SayAndHangUp("421 4.3.2 shutting down")),
    ] {
        let relay = ScriptedRelay::start();
        let site = site_with_mails(Site::new(programs!()).relay(relay.port()), 2);
        let queued = site.files();
        relay.always(at, "", act);
        let run = site.deliverer(&["run", "--once"]).expect(75);
        assert_eq!(run.lines("WARN").len(), 1, "{at:?}: {run}");
        assert_eq!(site.files(), queued, "{at:?}");

        relay.behave();
        site.deliverer(&["run", "--once"]).expect(0);
        assert_eq!(site.files(), ["sent/cur/#1:2,S", "sent/cur/#2:2,S"], "{at:?}");
    }
}

#[test]
fn a_mail_without_an_answer_to_its_final_dot_is_uncertain_and_comes_again_unchanged() {
    let relay = ScriptedRelay::start();
    let site = Site::new(programs!()).relay(relay.port()).set("delivery.retry_min", json!("1s"));
    let site = site_with_mails(site, 1);
    relay.once(At::FinalDot, "", Act::HangUp);

    let run = site.deliverer(&["run", "--once"]);
    run.line("WARN", &["uncertain", "-10000001 "]);
    assert_eq!(site.files(), ["delivery/#1.json", "new/#1", "sidecar/#1.json"]);
    let record = &site.records()[0];
    assert_eq!(record["state"], "deferred");
    assert_eq!((&record["attempts"], &record["uncertain"]), (&json!(1), &json!(1)));
    assert_eq!(site.pending(), 1);

    let service = site.start_deliverer(&["run"]);
    wait_until("it is marked", || site.pending() == 0);
    service.terminate().expect(0);
    assert_eq!(site.files(), ["sent/cur/#1:2,S"]);
    let received = relay.received();
    assert_eq!(received.len(), 2);
    assert_eq!(received[0].bytes, received[1].bytes, "the Message-ID among them");
    assert_eq!(site.sent_tickets().len(), 1);
}

#[test]
fn an_uncertain_mail_is_held_where_the_configuration_says_so() {
    let relay = ScriptedRelay::start();
    let site = Site::new(programs!()).relay(relay.port()).set("delivery.uncertain", json!("hold"));
    let site = site_with_mails(site, 1);
    relay.once(At::FinalDot, "", Act::HangUp);

    let run = site.deliverer(&["run", "--once"]);
    assert!(!run.status.success(), "{run}");
    run.line("ERROR", &["-10000001 ", "may have taken it"]);
    assert_eq!(site.files(), ["cur/#1:2,F", "delivery/#1.json", "sidecar/#1.json"]);
    site.deliverer(&["run", "--once"]).expect(0);
    assert_eq!((relay.received().len(), site.pending()), (1, 1));
}

// ---- By what lies in the outbox ----

#[test]
fn a_mail_that_was_changed_is_held_and_never_sent() {
    let relay = ScriptedRelay::start();
    let site = site_with_mails(Site::new(programs!()).relay(relay.port()), 4);
    let change = |number: usize, change: fn(&mut Vec<u8>)| {
        let path = site.mail_to(&recipient(number));
        let mut bytes = fs::read(&path).unwrap();
        change(&mut bytes);
        fs::write(&path, bytes).unwrap();
    };
    change(1, |bytes| bytes[700] ^= 1);
    change(2, |bytes| bytes.truncate(bytes.len() / 2));
    change(3, |bytes| bytes.extend(b"P.S.\r\n"));

    let run = site.deliverer(&["run", "--once"]).expect(1);
    assert_eq!(run.lines("ERROR").len(), 3 + 1, "one a mail, and the last word: {run}");
    let expected = [
        "cur/#1:2,F",
        "cur/#2:2,F",
        "cur/#3:2,F",
        "delivery/#1.json",
        "delivery/#2.json",
        "delivery/#3.json",
        "sent/cur/#4:2,S",
        "sidecar/#1.json",
        "sidecar/#2.json",
        "sidecar/#3.json",
    ];
    assert_eq!(site.files(), expected);
    for record in site.records() {
        assert_eq!((&record["state"], &record["attempts"]), (&json!("held"), &json!(0)));
        assert!(record["reason"].as_str().unwrap().contains("changed"), "{record}");
    }

    // Not even if somebody clears the flag.
    for mail in site.listed("cur") {
        site.flag(&mail, "S");
    }
    site.deliverer(&["run", "--once"]).expect(1);
    let to: Vec<Vec<String>> = relay.received().into_iter().map(|mail| mail.to).collect();
    assert_eq!(to, [[recipient(4)]]);
    assert_eq!(site.pending(), 3);
}

#[test]
fn flags_that_mutt_sets_hold_and_withdraw_a_mail_and_its_directives_stay_claimed() {
    let relay = ScriptedRelay::start();
    let site = site_with_mails(Site::new(programs!()).relay(relay.port()), 5);
    site.flag(&site.mail_to(&recipient(1)), "F");
    site.flag(&site.mail_to(&recipient(2)), "T");
    site.flag(&site.mail_to(&recipient(3)), "FST");
    site.flag(&site.mail_to(&recipient(4)), "S");
    fs::remove_file(site.mail_to(&recipient(5))).unwrap();

    site.deliverer(&["run", "--once"]).expect(0);
    let expected = [
        "cur/#1:2,F",
        "cur/#2:2,T",
        "cur/#3:2,FST",
        "sent/cur/#4:2,S",
        "sidecar/#1.json",
        "sidecar/#2.json",
        "sidecar/#3.json",
        "sidecar/#5.json",
    ];
    assert_eq!(site.files(), expected);
    let run = site.generator(&["run", "--all"]).expect(0);
    run.line("INFO", &["done", "mails=0"]);
    assert_eq!(site.files(), expected, "no mail is written anew");

    site.flag(&site.mail_to(&recipient(1)), "S");
    site.flag(&site.mail_to(&recipient(2)), "S");
    site.deliverer(&["run", "--once"]).expect(0);
    assert_eq!(relay.received().len(), 3);
    assert_eq!(site.pending(), 2);
}

#[test]
fn a_foreign_mail_is_never_sent_and_never_touched() {
    let relay = ScriptedRelay::start();
    let site = site_with_mails(Site::new(programs!()).relay(relay.port()), 1);
    let foreign = [
        "new/1764028800.M1P2Q3.mailhost",
        "cur/1764028800.M2P2Q3.mailhost:2,S",
        "new/1764028800.M1P2Q3.20261125-10000099.mailhost",
        "new/with space",
        "tmp/1764028800.M4P2Q3.mailhost",
    ];
    for name in foreign {
        fs::write(site.outbox().join(name), "To: victim@isp.example\r\n\r\nhello\r\n").unwrap();
    }
    fs::create_dir(site.outbox().join("new/a-folder")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", site.outbox().join("new/a-link")).unwrap();

    let run = site.deliverer(&["run", "--once"]).expect(0);
    assert!(run.lines("WARN").len() >= 3, "{run}");
    assert_eq!(relay.received().len(), 1);
    site.generator(&["run", "--all"]).expect(0);
    for name in foreign {
        let bytes = fs::read_to_string(site.outbox().join(name)).expect(name);
        assert_eq!(bytes, "To: victim@isp.example\r\n\r\nhello\r\n", "{name}");
    }
    assert!(site.outbox().join("new/a-folder").is_dir());
    assert!(site.outbox().join("new/a-link").is_symlink());
    assert!(site.listed("delivery").is_empty());
}

#[test]
fn a_sidecar_that_cannot_be_read_stops_the_generator_and_only_its_own_mail() {
    let relay = ScriptedRelay::start();
    let site = site_with_mails(Site::new(programs!()).relay(relay.port()), 3);
    let sidecars = site.listed("sidecar");
    let half = fs::read(&sidecars[0]).unwrap();
    fs::write(&sidecars[0], &half[..half.len() / 2]).unwrap();
    edit_json(&sidecars[1], "version", json!(2));
    site.insert([&Directive::to("late@isp.example").event()]);

    let run = site.deliverer(&["run", "--once"]).expect(1);
    for sidecar in &sidecars[..2] {
        let id = sidecar.file_stem().unwrap().to_str().unwrap();
        let lines = run.lines("ERROR");
        assert!(lines.iter().any(|line| line.contains(id)), "{run}");
    }
    let kept = ["new/#1", "new/#2", "sent/cur/#3:2,S", "sidecar/#1.json", "sidecar/#2.json"];
    assert_eq!(site.files(), kept);

    let run = site.generator(&["run", "--all"]).expect(1);
    let name = sidecars[0].file_name().unwrap().to_str().unwrap();
    run.line("ERROR", &[name]);
    assert_eq!(site.files(), kept, "what it claims is not known");
    assert_eq!(tickets_drawn(&site), 3);

    fs::write(&sidecars[0], half).unwrap();
    edit_json(&sidecars[1], "version", json!(1));
    site.generator(&["run", "--all"]).expect(0);
    site.deliverer(&["run", "--once"]).expect(0);
    assert_eq!((site.pending(), relay.received().len()), (0, 4));
}

#[test]
fn a_second_deliverer_on_the_same_outbox_ends_at_once() {
    let relay = ScriptedRelay::start();
    let site = site_with_mails(Site::new(programs!()).relay(relay.port()), 1);
    relay.once(At::FinalDot, "", Act::Hold);
    let first = site.start_deliverer(&["run"]);
    relay.wait_until_held();
    let run = site.deliverer(&["run", "--once"]).expect(75);
    run.line("ERROR", &["another outbox-deliverer"]);
    relay.go_on();
    wait_until("it is marked", || site.pending() == 0);
    first.terminate().expect(0);
    assert_eq!(relay.received().len(), 1);
}

// ---- By the programs, at start ----

#[test]
fn a_key_that_cannot_sign_is_an_error_at_start_before_any_mail_or_ticket() {
    for (words, key) in [
        ("failed to find the OpenPGP key", Gnupg::without_key as fn(&Path) -> Gnupg),
        ("is expired", Gnupg::with_expired_key),
        ("passphrase", |home| Gnupg::with_protected_key(home, "only a person knows")),
    ] {
        let site = Site::new(programs!()).key(key).build();
        site.insert(&events::groups(2));
        let run = site.generator(&["run", "--all"]).expect(78);
        let line = run.line("ERROR", &[words]);
        assert!(line.contains(site.gnupg().fingerprint()), "it names the key: {line}");
        assert_eq!(site.files(), [""; 0]);
        assert_eq!((tickets_drawn(&site), site.pending()), (0, 2));
    }
}

#[test]
fn a_key_unknown_to_the_configuration_is_named_with_the_nearest_known_one() {
    let site = Site::new(programs!()).set("database.event.sslmod", json!("require")).build();
    site.insert(&events::groups(1));
    for run in [site.generator(&["run", "--all"]), site.deliverer(&["run", "--once"])] {
        let run = run.expect(78);
        run.line("ERROR", &["database.event.sslmod", "database.event.sslmode", ".conf"]);
    }
    assert_eq!(site.files(), [""; 0]);
    assert_eq!((tickets_drawn(&site), site.pending()), (0, 1));
}

#[test]
fn a_database_that_is_away_is_told_and_nothing_is_written() {
    let mut site = Site::new(programs!()).build();
    site.insert(&events::groups(1));
    site.set("database.event.port", json!(1));
    let run = site.generator(&["run", "--all"]).expect(75);
    run.line("ERROR", &["cannot connect to database"]);
    assert_eq!(site.files(), [""; 0]);
}

// ---- By the generator, group by group ----

#[test]
fn a_group_that_cannot_become_a_mail_stays_pending_with_an_error_and_all_others_are_written() {
    let relay = ScriptedRelay::start();
    let site = Site::new(programs!())
        .relay(relay.port())
        .template("unfillable", "Report ${ticket_number}\n\n${no_such_name}\n")
        .template("subject-from-data", "Report about ${malware.name}\n\nSee below.\n")
        .build();
    // Beside the folder of the templates: there, and readable.
    fs::write(site.folder().join("secret"), "a secret\n\ntext\n").unwrap();
    let forged = "Bob\r\nBcc: victim@isp.example\r\n2026-11-25T00:00:00.000Z ERROR forged";
    let bad = [
        ("template", Directive::to("bad1@isp.example").template("../secret")),
        ("template", Directive::to("bad2@isp.example").template("no-such-template")),
        ("no_such_name", Directive::to("bad3@isp.example").template("unfillable")),
        ("control", Directive::to("bad4\r\nBcc: victim@isp.example")),
        ("no @", Directive::to("bad5.isp.example")),
        (
            "ubject",
            Directive::to("bad6@isp.example")
                .template("subject-from-data")
                .aggregate("malware.name", forged),
        ),
        ("no format definition", Directive::to("bad7@isp.example").format("xarf", "bot-infection")),
    ];
    let mut ids = Vec::new();
    site.insert([&Directive::to("good1@isp.example").event()]);
    for (_, directive) in &bad {
        // Two events, so that lists of ids show.
        let event = directive.clone().event();
        ids.push(site.insert([&event, &event]));
    }
    site.insert([&Directive::to("good2@isp.example").event()]);

    let run = site.generator(&["run", "--all"]).expect(1);
    for ((words, _), events) in bad.iter().zip(&ids) {
        let directives: Vec<i64> = site.column(&format!(
            "SELECT id FROM directives WHERE events_id IN ({}, {}) ORDER BY id",
            events[0], events[1]
        ));
        let named = |name: &str, ids: &[i64]| format!("{name}={}-{}", ids[0], ids[1]);
        let (directives, events) = (named("directives", &directives), named("events", events));
        let line = run.line("ERROR", &[&directives, &events]);
        assert!(line.contains(words), "{words}: {line}");
    }
    assert_eq!(run.lines("ERROR").len(), bad.len() + 1, "one a group, and the last word: {run}");
    assert!(!run.stderr.contains("\n2026-11-25T00:00:00.000Z ERROR forged"), "{run}");
    run.line("INFO", &["done", "mails=2", "errors=7"]);
    // Each group of a batch has drawn its ticket, the first and the last are used.
    assert_eq!(to(&site), ["good1@isp.example", "good2@isp.example"]);
    assert_eq!(site.listed("tmp").len() + site.listed("cur").len(), 0);
    assert_eq!(site.listed("new").len(), 2);

    site.deliverer(&["run", "--once"]).expect(0);
    let received = relay.received();
    assert_eq!(received.len(), 2);
    for mail in received {
        let text = String::from_utf8_lossy(&mail.bytes).into_owned();
        assert!(!text.contains("victim@isp.example") && !text.contains("a secret"), "{text}");
    }
    let run = site.generator(&["run", "--all"]).expect(1);
    run.line("INFO", &["done", "mails=0", "errors=7"]);
    assert_eq!(site.pending(), 2 * i64::try_from(bad.len()).unwrap());
}

/// What a feed or a hand can leave in the database, and what no row of one group may do to the others.
#[test]
fn values_that_are_out_of_range_or_too_deep_cost_their_own_group_and_no_other() {
    let definition = r#"
        [[format]]
        name = "all"
        columns = ["time.source", "extra.banner"]
        subject = "Ticket ${ticket_number}"
        body = "${events_as_csv}"
    "#;
    let site =
        Site::new(programs!()).unsigned().template("formats/05-all.toml", definition).build();
    let to = |name: &str| Directive::to(&format!("{name}@isp.example")).interval(3600);
    let mut deep = to("deep").event();
    let nested = format!("{}1{}", "[".repeat(200), "]".repeat(200));
    deep["extra"]["banner"] = json!("nested");
    let mut never = to("never").event();
    never["time.source"] = json!("9999-12-31T23:59:59+00:00");
    let others = ["infinite", "late", "mailed", "long", "good"].map(|name| to(name).event());
    site.insert([&deep, &never].into_iter().chain(&others));
    site.insert([&to("mailed").event()]);
    site.sql(&format!(
        "UPDATE events SET extra = replace(extra::text, '\"nested\"', '{nested}')::jsonb;
         UPDATE directives SET inserted_at = 'infinity' WHERE recipient_address ~ 'infinite';
         UPDATE directives SET inserted_at = '9999-12-31' WHERE recipient_address ~ 'late';
         UPDATE directives SET notification_interval = '170000000 years'
          WHERE recipient_address ~ 'long';
         INSERT INTO sent (intelmq_ticket, sent_at) VALUES ('20200101-10000001', 'infinity');
         UPDATE directives SET sent_id = (SELECT id FROM sent)
          WHERE id = (SELECT max(id) FROM directives);"
    ));
    let run = site.generator(&["run", "--all"]).expect(1);
    run.line("INFO", &["done", "mails=3", "errors=4"]);
    run.line("ERROR", &["no mail for deep@isp.example", "cannot read extra of event "]);
    let lines = run.lines("ERROR");
    let out_of_range = lines.iter().filter(|line| line.contains("inserted_at, or the sent_at of"));
    assert_eq!(out_of_range.count(), 3, "{run}");
    let mut written = self::to(&site);
    written.sort();
    assert_eq!(written, ["good@isp.example", "long@isp.example", "never@isp.example"]);
    let mail = fs::read_to_string(site.mail_to("never@isp.example")).unwrap();
    assert!(mail.contains("\"9999-12-31 23:59:59+00:00\""), "{mail}");
    site.generator(&["pending"]).expect(0);
}

#[test]
fn an_event_that_is_gone_and_an_event_of_two_directives_are_no_trouble() {
    let relay = ScriptedRelay::start();
    let site = Site::new(programs!()).relay(relay.port()).build();
    let ids = site.insert([
        &event([Directive::to("a@isp.example"), Directive::to("a@isp.example")]),
        &Directive::to("b@isp.example").event(),
    ]);
    site.generator(&["run", "--all"]).expect(0);
    // Expired from the table while its mail waits: its directives go with it.
    site.sql(&format!("DELETE FROM events WHERE id = {}", ids[1]));
    let run = site.deliverer(&["run", "--once"]).expect(0);
    run.line("WARN", &["gone from the database", "-10000002 "]);
    assert_eq!(site.files(), ["sent/cur/#1:2,S", "sent/cur/#2:2,S"]);
    assert_eq!((site.pending(), site.sent_tickets().len()), (0, 2));
}

// ---- Secrets ----

#[test]
fn no_password_ever_shows_in_what_the_programs_say() {
    const SECRET: &str = "Marker-Pa55word";
    const WRONG: &str = "Other-Pa55word";
    // The secret, and the answer of AUTH PLAIN with it, as base64.
    const CODED: [&str; 2] = ["TWFya2VyLVBhNTV3b3Jk", "AGNlcnQATWFya2VyLVBhNTV3b3Jk"];
    let cluster = Cluster::private_on_loopback();
    let database = cluster.database();
    let name = database.name().to_owned();
    database
        .connect()
        .batch_execute(&format!(
            "CREATE ROLE mailer LOGIN PASSWORD '{SECRET}' IN ROLE eventdb_send_notifications"
        ))
        .unwrap();
    let access = cluster.socket_dir().join("data/pg_hba.conf");
    fs::write(&access, "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n").unwrap();
    database.connect().batch_execute("SELECT pg_reload_conf()").unwrap();
    let relay = ScriptedRelay::offering(&["AUTH PLAIN LOGIN"]);
    let mut site = Site::new(programs!())
        .database(database)
        .relay(relay.port())
        .set("database.event.host", json!("127.0.0.1"))
        .set("database.event.username", json!("mailer"))
        .set("database.event.password", json!(SECRET))
        .set("smtp.username", json!("cert"))
        .set("smtp.password", json!(SECRET))
        .set("logging_level", json!("DEBUG"))
        .build();
    site.insert(&events::groups(2));
    let mut runs: Vec<Finished> = Vec::new();
    let commands: [(bool, &[&str]); 8] = [
        (true, &["run", "--all"]),
        (true, &["pending"]),
        (true, &["check"]),
        (false, &["check"]),
        (false, &["list", "--json"]),
        (false, &["run", "--once"]),
        (false, &["list"]),
        (true, &["pending", "--json"]),
    ];
    let mut say = |site: &Site, expected: Option<i32>| {
        for format in ["text", "json", "journald"] {
            for (generator, command) in commands {
                let arguments = [&["-vv", "--log-format", format], command].concat();
                let run =
                    if generator { site.generator(&arguments) } else { site.deliverer(&arguments) };
                if let Some(code) = expected {
                    runs.push(run.expect(code));
                } else {
                    runs.push(run);
                }
            }
        }
    };
    say(&site, Some(0));
    assert_eq!((site.pending(), relay.received().len()), (0, 2), "the passwords are used: {name}");
    assert!(relay.commands().contains(&format!("AUTH PLAIN {}", CODED[1])));

    // A relay that repeats what it was told, and a database that refuses.
    site.insert(&events::groups(1));
    relay.always(At::Auth, "", Act::Say("535 5.7.8 Marker-Pa55word is wrong"));
    say(&site, None);
    relay.behave();
    site.set("database.event.password", json!(WRONG));
    say(&site, None);
    // A number where a text belongs is told without the number.
    site.set("database.event.password", json!(5_551_234));
    say(&site, Some(78));
    assert!(runs.iter().any(|run| run.stderr.contains("password authentication failed")));

    for run in &runs {
        let said = format!("{}{}", run.stdout, run.stderr);
        for secret in [SECRET, WRONG, "5551234", CODED[0], CODED[1]] {
            assert!(!said.contains(secret), "{secret:?} in: {run}");
        }
    }
}

// ---- What the tests above are made of ----

/// A site whose generator has run over so many groups.
fn site_with_mails(builder: Builder, count: usize) -> Site {
    let site = builder.build();
    site.insert(&events::groups(count));
    site.generator(&["run", "--all"]).expect(0);
    assert_eq!(site.sidecars().len(), count);
    site
}

fn time(value: &Value) -> Timestamp {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("a time: {value}"))
}

/// Changes a file of the outbox's as nobody should, in place of waiting.
fn edit_json(path: &Path, key: &str, value: Value) {
    let mut content: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    content[key] = value;
    fs::write(path, content.to_string()).unwrap();
}

/// How many tickets were drawn since the database was made.
fn tickets_drawn(site: &Site) -> i64 {
    site.column(
        "SELECT CASE WHEN is_called THEN last_value - 10000000 ELSE 0 END FROM intelmq_ticket_seq",
    )[0]
}

/// Whom the mails in the outbox go to.
fn to(site: &Site) -> Vec<String> {
    let first = |sidecar: &Value| sidecar["envelope"]["to"][0].as_str().unwrap().to_owned();
    site.sidecars().iter().map(first).collect()
}

#[test]
fn a_relay_that_wants_a_login_is_in_trouble_and_no_mail_is_held_for_it() {
    let relay = ScriptedRelay::start();
    let site = site_with_mails(Site::new(programs!()).relay(relay.port()), 2);
    relay.always(At::Mail, "", Act::Say("530 5.7.0 Authentication required"));
    let run = site.deliverer(&["run", "--once"]).expect(75);
    run.line("WARN", &["the relay is in trouble", "530 5.7.0 Authentication required"]);
    assert!(site.records().is_empty(), "{run}");
    assert_eq!(site.listed("new").len(), 2, "none is flagged");
    relay.behave();
    site.deliverer(&["run", "--once"]).expect(0);
    assert_eq!(site.pending(), 0);
}

#[test]
fn check_finds_what_run_would_refuse() {
    for (key, value, words) in [
        ("envelope_from", json!("bounce+{tikcet}@cert.example"), "envelope_from"),
        ("database.additional_directive_where", json!("d3.no_such = 1"), "no_such"),
        ("database.additional_directive_where", json!("(d3.id = 1"), "additional_directive_where"),
        ("script_directory", json!("/var/empty-for-this-test"), "/var/empty-for-this-test"),
    ] {
        let site = Site::new(programs!()).set(key, value).build();
        let run = site.generator(&["check"]).expect(1);
        assert!(run.stdout.contains("WRONG") && run.stdout.contains(words), "{run}");
        site.generator(&["run", "--all"]).expect(78);
    }
    let site = Site::new(programs!()).build();
    let run = site.generator(&["check"]).expect(0);
    assert!(!run.stdout.contains("WRONG"), "{run}");
}
