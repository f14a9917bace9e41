//! What an operator does to the queue by command: look at it, hold, release, retry and take back mails,
//! and have everything compared; beside a service that runs, and without one.

use std::fs;
use std::path::Path;

use outbox::{MailId, Outbox};
use outbox_tests::events::{self, Directive, recipient};
use outbox_tests::programs;
use outbox_tests::programs::{Finished, wait_until};
use outbox_tests::scripted_relay::{Act, At, ScriptedRelay};
use outbox_tests::site::{Builder, Program, Site};
use serde_json::{Value, json};

// ---- Look ----

#[test]
fn mails_are_selected_by_name_recipient_and_state() {
    let site = site_with_mails(Site::new(programs!()), 3);
    site.flag(&site.mail_to(&recipient(2)), "F");
    let list = |arguments: &[&str]| -> Vec<Value> {
        let run = site.deliverer(&[&["list", "--json"], arguments].concat()).expect(0);
        let mails: Value = serde_json::from_str(&run.stdout).unwrap();
        mails.as_array().unwrap().iter().map(|mail| mail["to"][0].clone()).collect()
    };
    let to = |numbers: &[usize]| -> Vec<Value> {
        numbers.iter().map(|&number| json!(recipient(number))).collect()
    };
    let id = site.sidecar_to(&recipient(1))["id"].as_str().unwrap().to_owned();
    let ticket = ticket_of(&site, 3);

    assert_eq!(list(&[]), to(&[1, 2, 3]));
    assert_eq!(list(&["--all"]), to(&[1, 2, 3]));
    assert_eq!(list(&[&ticket, &id]), to(&[1, 3]), "names add up");
    assert_eq!(list(&["--recipient", &recipient(2).to_uppercase()]), to(&[2]));
    assert_eq!(list(&["--recipient", "*@*"]), to(&[1, 2, 3]));
    assert_eq!(list(&["--recipient", "*@elsewhere.example"]), to(&[]));
    assert_eq!(list(&["--state", "held", "--state", "failed"]), to(&[2]));
    assert_eq!(list(&[&ticket, "--state", "held"]), to(&[]), "filters take away");

    let run = site.deliverer(&["list", "20200101-10000009", &ticket]).expect(1);
    assert!(run.stdout.contains(&ticket), "the other one is shown: {run}");
    run.line("ERROR", &["no mail in the outbox", "20200101-10000009"]);
    let run = site.deliverer(&["list", "--state", "failed"]).expect(0);
    assert_eq!(run.stdout, "no mails\n");
}

#[test]
fn the_list_counts_its_mails_and_tells_the_last_reply_of_each() {
    let relay = ScriptedRelay::start();
    let site = site_with_mails(Site::new(programs!()).relay(relay.port()), 3);
    relay.once(At::Rcpt, &recipient(1), Act::Say("450 4.2.0 greylisted"));
    site.deliverer(&["hold", &ticket_of(&site, 2)]).expect(0);
    site.flag(&site.mail_to(&recipient(3)), "T");
    site.deliverer(&["run", "--once"]).expect(0);

    let list = site.deliverer(&["list"]).expect(0).stdout;
    let lines: Vec<Vec<&str>> =
        list.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines.len(), 5, "{list}");
    assert_eq!(lines[0], ["TICKET", "AGE", "STATE", "TRY", "NEXT", "RECIPIENT", "LAST", "REPLY"]);
    let first = &lines[1];
    assert_eq!((first[0], first[2], first[3]), (&*ticket_of(&site, 1), "deferred", "1"), "{list}");
    assert_eq!(first[5..], [&*recipient(1), "450", "4.2.0", "greylisted"], "{list}");
    assert_eq!(lines[2][2], "held", "{list}");
    assert_eq!(lines[3][2], "withdrawn", "{list}");
    assert_eq!(list.lines().last(), Some("1 deferred, 1 held, 1 withdrawn"));
}

#[test]
fn a_new_mail_that_is_held_for_review_is_held_and_not_failed() {
    let site = site_with_mails(Site::new(programs!()), 1);
    let id = id_of(&site, 1);
    let record =
        json!({"version": 1, "id": id, "state": "review", "attempts": 0, "recipients": {}});
    fs::write(site.outbox().join(format!("delivery/{id}.json")), record.to_string()).unwrap();
    site.flag(&site.mail_to(&recipient(1)), "F");
    let list = site.deliverer(&["list"]).expect(0).stdout;
    assert!(list.ends_with("\n1 held\n"), "{list}");
    assert_eq!(site.deliverer(&["verify"]).expect(0).stdout, "ok    1 of 1 mails\n");
    site.deliverer(&["release", "--state", "held"]).expect(0);
    assert!(site.deliverer(&["list"]).expect(0).stdout.ends_with("\n1 queued\n"));
}

#[test]
fn a_mail_is_shown_with_each_recipient_and_attempt_and_from_the_archive_once_it_is_sent() {
    let relay = ScriptedRelay::start();
    let site = Site::new(programs!()).relay(relay.port()).build();
    site.insert([&Directive::to("good@isp.example, later@isp.example").event()]);
    site.generator(&["run", "--all"]).expect(0);
    relay.once(At::Rcpt, "later@", Act::Say("452 4.2.2 mailbox full"));
    site.deliverer(&["run", "--once"]).expect(0);
    let ticket = site.sidecars()[0]["ticket"].as_str().unwrap().to_owned();

    // Attempts that a service of another day made.
    edit_json(&site.listed("delivery")[0], |record| {
        record["history"] = json!([
            {"at": "2026-11-25T03:47:06Z", "relay": "mail.cert.example:25", "milliseconds": 1234,
             "reply": "451 4.3.0 try\u{1b}[2J later"},
        ]);
    });
    let text = site.deliverer(&["show", &ticket]).expect(0).stdout;
    for line in [
        "Rcpt to      <good@isp.example> accepted: 250 ",
        "Rcpt to      <later@isp.example> deferred: 452 4.2.2 mailbox full\n",
        "Attempt      2026-11-25T03:47:06Z mail.cert.example:25 1.2s 451 4.3.0 try\\u{1b}[2J later\n",
        &format!("\nX-Ticket: {ticket}\n"),
    ] {
        assert!(text.contains(line), "{line:?} in\n{text}");
    }
    let shown = json_of(&site.deliverer(&["show", "--json", &ticket]).expect(0));
    assert_eq!(shown[0]["record"], site.records()[0]);
    assert_eq!(shown[0]["sidecar"], site.sidecars()[0]);
    assert_eq!(shown[0]["state"], "deferred");

    edit_json(&site.listed("delivery")[0], |record| record["next_attempt_at"] = Value::Null);
    site.deliverer(&["run", "--once"]).expect(0);
    assert_eq!(site.files(), ["sent/cur/#1:2,S"]);
    let text = site.deliverer(&["show", &ticket]).expect(0).stdout;
    assert!(text.contains("State        sent\n"), "{text}");
    assert!(text.contains(&format!("File         {}\n", site.listed("sent/cur")[0].display())));
    assert!(text.contains(&format!("\nX-Ticket: {ticket}\n")), "{text}");
    let shown = json_of(&site.deliverer(&["show", "--json", &ticket]).expect(0));
    assert_eq!((&shown[0]["state"], &shown[0]["sidecar"]), (&json!("sent"), &Value::Null));
    let run = site.deliverer(&["show", &ticket, "20200101-10000009"]).expect(1);
    assert!(run.stdout.contains("State        sent\n"), "{run}");
    run.line("ERROR", &["no mail in the outbox or in its archive", "20200101-10000009"]);
}

// ---- Hold, release, retry ----

#[test]
fn what_is_held_waits_until_it_is_released_and_a_service_that_runs_notices() {
    let relay = ScriptedRelay::start();
    let site = site_with_mails(Site::new(programs!()).relay(relay.port()), 3);
    let run = site.deliverer(&["hold", "--all"]).expect(0);
    assert_eq!(run.stdout.matches(": held\n").count(), 3, "{run}");
    assert_eq!(site.files()[..3], ["cur/#1:2,F", "cur/#2:2,F", "cur/#3:2,F"]);
    let run = site.deliverer(&["hold", &ticket_of(&site, 1)]).expect(0);
    assert!(run.stdout.contains("held already"), "{run}");

    let service = site.start_deliverer(&["run"]);
    service.wait_for("delivering");
    let run = site.deliverer(&["release", &ticket_of(&site, 2)]).expect(0);
    assert!(run.stdout.ends_with(": released\n"), "{run}");
    relay.wait_for_mails(1);
    wait_until("it is finished", || site.sidecars().len() == 2);
    assert_eq!(site.files()[..2], ["cur/#1:2,F", "cur/#3:2,F"]);

    site.deliverer(&["release", "--state", "held"]).expect(0);
    wait_until("all are finished", || site.sidecars().is_empty());
    service.terminate().expect(0).without("WARN");
    assert_eq!((relay.received().len(), site.pending()), (3, 0));
}

#[test]
fn a_mail_held_while_the_service_runs_is_not_sent() {
    let relay = ScriptedRelay::start();
    let site = site_with_mails(Site::new(programs!()).relay(relay.port()), 2);
    // The relay is busy with the first while the second is held.
    relay.once(At::FinalDot, "", Act::Hold);
    let service = site.start_deliverer(&["run"]);
    relay.wait_until_held();
    let first = relay.commands().iter().any(|command| command.contains(&recipient(1)));
    let other = if first { 2 } else { 1 };
    site.deliverer(&["hold", &ticket_of(&site, other)]).expect(0);
    relay.go_on();
    wait_until("the first is finished", || site.sidecars().len() == 1);
    service.terminate().expect(0);
    assert_eq!(relay.received().len(), 1);
    assert!(site.files().contains(&format!("cur/#{other}:2,F")), "{:?}", site.files());
}

#[test]
fn a_mail_in_the_relays_hands_is_held_unless_it_is_taken_now() {
    let site = site_with_mails(Site::new(programs!()), 1);
    let outbox = Outbox::open(&site.outbox()).unwrap();
    let _lock = outbox.lock_mail(&id_of(&site, 1)).unwrap().unwrap();
    let run = site.deliverer(&["hold", "--all"]).expect(0);
    assert!(run.stdout.contains("in the relay's hands at this moment"), "{run}");
    assert_eq!(site.files(), ["cur/#1:2,F", "sidecar/#1.json"]);
}

#[test]
fn a_failed_mail_is_released_and_goes_out() {
    let relay = ScriptedRelay::start();
    let site = site_with_mails(Site::new(programs!()).relay(relay.port()), 1);
    relay.once(At::Rcpt, "", Act::Say("550 5.1.1 no such user here"));
    site.deliverer(&["run", "--once"]).expect(1);
    let run = site.deliverer(&["retry", "--all"]).expect(1);
    assert!(run.stdout.contains("NOT DONE, it is held: use `release`"), "{run}");

    site.deliverer(&["release", "--state", "failed"]).expect(0);
    site.deliverer(&["run", "--once"]).expect(0);
    assert_eq!((site.pending(), relay.received().len()), (0, 1));
}

#[test]
fn a_deferred_mail_is_due_with_retry_and_keeps_its_time_when_it_was_held_meanwhile() {
    let relay = ScriptedRelay::start();
    let site = site_with_mails(Site::new(programs!()).relay(relay.port()), 2);
    relay.once(At::Rcpt, &recipient(1), Act::Say("450 4.2.0 greylisted"));
    site.deliverer(&["hold", &ticket_of(&site, 2)]).expect(0);
    site.deliverer(&["run", "--once"]).expect(0);

    let ticket = ticket_of(&site, 1);
    site.deliverer(&["hold", &ticket]).expect(0);
    let run = site.deliverer(&["release", &ticket]).expect(0);
    assert!(run.stdout.contains("released; it was deferred until 20"), "{run}");
    let deferred = site.deliverer(&["list", "--state", "deferred"]).expect(0).stdout;
    assert!(deferred.contains(&ticket), "{deferred}");

    let run = site.deliverer(&["retry", "--json", "--state", "deferred"]).expect(0);
    assert_eq!(json_of(&run)[0]["result"], "done");
    assert!(site.files().contains(&"cur/#1:2,r".to_owned()), "{:?}", site.files());
    let run = site.deliverer(&["retry", "--json", &ticket]).expect(0);
    assert_eq!(json_of(&run)[0]["result"], "unchanged");
    let queued = site.deliverer(&["list", "--state", "queued", &ticket]).expect(0).stdout;
    assert!(queued.contains("450 4.2.0 greylisted"), "{queued}");
}

#[test]
fn nothing_is_changed_without_saying_which_or_with_a_dry_run() {
    let site = site_with_mails(Site::new(programs!()), 2);
    site.flag(&site.mail_to(&recipient(2)), "F");
    let before = site.files();
    for arguments in
        [&["hold"][..], &["release"], &["retry"], &["show"], &["withdraw", "--regenerate"]]
    {
        let run = site.deliverer(arguments).expect(2);
        assert!(run.stderr.contains("--all"), "{run}");
    }
    site.deliverer(&["withdraw", "--all"]).expect(2);
    let commands: [(&[&str], &str); 4] = [
        (&["hold", "--all"], "would be held"),
        (&["release", "--all"], "would be released"),
        (
            &["withdraw", "--all", "--regenerate"],
            "would be taken back, 1 directive is pending again",
        ),
        (&["withdraw", "--all", "--suppress"], "would be taken back, 1 directive is never sent"),
    ];
    for (arguments, words) in commands {
        let run = site.deliverer(&[arguments, &["--dry-run"]].concat()).expect(0);
        assert!(run.stdout.contains(words), "{run}");
        let run = site.deliverer(&[arguments, &["--dry-run", "--json"]].concat()).expect(0);
        let answers = json_of(&run);
        let planned = |answer: &&Value| answer["text"].as_str().unwrap().contains(words);
        let planned = answers.as_array().unwrap().iter().find(planned);
        assert_eq!(planned.map(|answer| &answer["result"]), Some(&json!("planned")), "{run}");
    }
    assert_eq!(site.files(), before);
    assert_eq!((site.pending(), site.sent_tickets().len()), (2, 0));
}

// ---- Beside a service that has the mail in hand ----

#[test]
fn a_mail_that_the_relay_is_being_handed_is_held_too_late_and_says_so() {
    let relay = ScriptedRelay::start();
    let site = site_with_mails(Site::new(programs!()).relay(relay.port()), 1);
    relay.once(At::FinalDot, "", Act::Hold);
    let service = site.start_deliverer(&["run"]);
    relay.wait_until_held();
    let run = site.deliverer(&["hold", "--all"]).expect(0);
    assert!(run.stdout.contains("in the relay's hands at this moment"), "{run}");
    relay.go_on();
    wait_until("it is finished", || site.sidecars().is_empty());
    service.terminate().expect(0);
    assert_eq!(site.files(), ["sent/cur/#1:2,S"]);
}

#[test]
fn a_mail_that_the_relay_is_being_handed_is_taken_back_only_if_it_is_not_taken() {
    for taken in [true, false] {
        let relay = ScriptedRelay::start();
        let mut site = site_with_mails(Site::new(programs!()).relay(relay.port()), 1);
        let port = site.database().port();
        // What is taken stays in the outbox until the database knows.
        site.set("database.event.port", json!(outbox_tests::system::free_port()));
        relay.once(At::Data, "", Act::Hold);
        if !taken {
            relay.always(At::FinalDot, "", Act::Say("451 4.3.0 try again"));
        }
        let service = site.start_deliverer(&["run"]);
        relay.wait_until_held();
        let withdraw = site.start_deliverer(&["withdraw", "--all", "--regenerate"]);
        wait_until("it is withdrawn", || site.files().contains(&"cur/#1:2,T".to_owned()));
        relay.go_on();
        let run = withdraw.finish().expect(i32::from(taken));
        assert_eq!(run.stdout.contains("too late: the relay took it at 20"), taken, "{run}");
        assert_eq!(site.sidecars().len(), usize::from(taken));
        service.terminate().expect(0);
        site.set("database.event.port", json!(port));
        relay.behave();
        site.deliverer(&["run", "--once"]).expect(0);
        site.generator(&["run", "--all"]).expect(0);
        site.deliverer(&["run", "--once"]).expect(0);
        assert_eq!((site.pending(), site.sent_tickets().len()), (0, 1));
        let confirmed = relay.received().iter().filter(|mail| mail.confirmed).count();
        assert_eq!(confirmed, 1, "it is sent once, with the old ticket or with a new one");
    }
}

#[test]
fn a_service_that_runs_tries_a_deferred_mail_at_once_with_retry() {
    let relay = ScriptedRelay::start();
    let site = site_with_mails(Site::new(programs!()).relay(relay.port()), 1);
    for _ in 0..2 {
        relay.once(At::Rcpt, "", Act::Say("450 4.2.0 greylisted"));
    }
    let service = site.start_deliverer(&["run"]);
    service.wait_for("deferred: ");
    site.deliverer(&["retry", "--all"]).expect(0);
    service.wait_for_nth("deferred: ", 2);
    assert_eq!(site.files(), ["cur/#1:2,", "delivery/#1.json", "sidecar/#1.json"]);
    site.deliverer(&["retry", "--all"]).expect(0);
    wait_until("it is finished", || site.sidecars().is_empty());
    service.terminate().expect(0);
    assert_eq!((site.pending(), relay.received().len()), (0, 1));
}

// ---- Take back ----

#[test]
fn a_mail_that_is_taken_back_to_be_regenerated_is_written_anew_beside_a_service_that_runs() {
    let relay = ScriptedRelay::start();
    let site = site_with_mails(Site::new(programs!()).relay(relay.port()), 2);
    relay.once(At::Rcpt, &recipient(1), Act::Say("450 4.2.0 greylisted"));
    let service = site.start_deliverer(&["run"]);
    service.wait_for("deferred: ");
    wait_until("the other is finished", || site.sidecars().len() == 1);

    let old = ticket_of(&site, 1);
    let run = site.deliverer(&["withdraw", "--regenerate", &old]).expect(0);
    let line = format!("{old} {}: taken back, 1 directive is pending again\n", recipient(1));
    assert_eq!(run.stdout, line);
    assert_eq!(site.files(), ["sent/cur/#2:2,S"]);
    assert_eq!((site.pending(), site.sent_tickets().len()), (1, 1));

    site.generator(&["run", "--all"]).expect(0);
    relay.wait_for_mails(2);
    wait_until("it is finished", || site.sidecars().is_empty());
    service.terminate().expect(0).without("ERROR");
    assert_ne!(relay.received()[1].ticket(), old);
    assert_eq!(site.pending(), 0);
}

#[test]
fn a_mail_that_is_suppressed_is_never_sent_and_does_not_count_as_a_notification() {
    let relay = ScriptedRelay::start();
    let site = site_with_mails(Site::new(programs!()).relay(relay.port()), 3);
    // Deleted in a mail reader, in both ways; and not at all.
    site.flag(&site.mail_to(&recipient(1)), "T");
    fs::remove_file(site.mail_to(&recipient(2))).unwrap();
    let tickets: Vec<String> = (1..=3).map(|number| ticket_of(&site, number)).collect();

    let run = site.deliverer(&["withdraw", "--suppress", "--all"]).expect(0);
    assert_eq!(run.stdout.matches(": taken back, 1 directive is never sent\n").count(), 3, "{run}");
    assert_eq!(site.files(), [""; 0]);
    assert_eq!(site.pending(), 0);
    assert_eq!(site.sent_tickets(), tickets);
    assert_eq!(site.column::<i64>("SELECT count(sent_at) FROM sent"), [0]);
    site.generator(&["run", "--all"]).expect(0).line("INFO", &["done", "mails=0"]);
    site.deliverer(&["run", "--once"]).expect(0);
    assert_eq!(relay.received().len(), 0);
    let run = site.deliverer(&["withdraw", "--suppress", "--state", "withdrawn"]).expect(0);
    assert_eq!(run.stdout, "no mails\n");
}

#[test]
fn a_mail_that_some_have_is_not_written_anew_but_kept_from_the_others() {
    let relay = ScriptedRelay::start();
    let site = Site::new(programs!()).relay(relay.port()).build();
    site.insert([&Directive::to("good@isp.example, later@isp.example").event()]);
    site.generator(&["run", "--all"]).expect(0);
    relay.once(At::Rcpt, "later@", Act::Say("452 4.2.2 mailbox full"));
    site.deliverer(&["run", "--once"]).expect(0);

    for more in [&[][..], &["--dry-run"]] {
        let command = [&["withdraw", "--all", "--regenerate"], more].concat();
        let run = site.deliverer(&command).expect(1);
        assert!(run.stdout.contains("go twice to good@isp.example, who"), "{run}");
    }
    assert_eq!(site.files(), ["cur/#1:2,", "delivery/#1.json", "sidecar/#1.json"]);
    let deferred = site.deliverer(&["list", "--state", "deferred"]).expect(0).stdout;
    assert!(deferred.ends_with("1 deferred\n"), "it is to be sent as before: {deferred}");

    let tried: String = site.records()[0]["last_attempt_at"].as_str().unwrap().to_owned();
    site.deliverer(&["withdraw", "--all", "--suppress"]).expect(0);
    let times = site.column::<jiff::Timestamp>("SELECT sent_at FROM sent");
    assert_eq!(times, [tried.parse().unwrap()], "some have it: that was a notification");
    assert_eq!((site.pending(), site.files().len()), (0, 0));
}

#[test]
fn what_the_relay_has_is_neither_held_nor_taken_back() {
    let relay = ScriptedRelay::start();
    let mut site = site_with_mails(Site::new(programs!()).relay(relay.port()), 1);
    let port = site.database().port();
    site.set("database.event.port", json!(outbox_tests::system::free_port()));
    site.deliverer(&["run", "--once"]).expect(75);
    site.set("database.event.port", json!(port));
    let before = site.files();
    assert_eq!(before, ["delivery/#1.json", "new/#1", "sidecar/#1.json"]);
    for command in [&["hold"][..], &["withdraw", "--suppress"], &["withdraw", "--regenerate"]] {
        let run = site.deliverer(&[command, &["--all"]].concat()).expect(1);
        assert!(run.stdout.contains("NOT DONE, too late: the relay took it at 20"), "{run}");
        run.line("ERROR", &["not done with 1 of 1 mails"]);
    }
    assert_eq!(site.files(), before);
    site.deliverer(&["verify"]).expect(0);
    site.deliverer(&["run", "--once"]).expect(0);
    assert_eq!((site.pending(), relay.received().len()), (0, 1));
}

#[test]
fn a_mail_in_the_relays_hands_is_waited_for_and_what_the_relay_says_counts() {
    let site = site_with_mails(Site::new(programs!()), 2);
    let outbox = Outbox::open(&site.outbox()).unwrap();
    for (number, taken) in [(1, true), (2, false)] {
        let id = id_of(&site, number);
        let lock = outbox.lock_mail(&id).unwrap().unwrap();
        let command = ["withdraw", "--regenerate", id.as_str()];
        let withdraw = site.start_deliverer(&command);
        let flagged = format!("cur/#{number}:2,T");
        wait_until("it is withdrawn", || site.files().contains(&flagged));
        if taken {
            let record = json!({
                "version": 1, "id": id, "state": "accepted", "attempts": 1,
                "recipients": {recipient(number): {"state": "accepted", "reply": "250 Ok"}},
                "accepted_at": "2026-11-25T03:47:06Z",
            });
            let path = site.outbox().join(format!("delivery/{id}.json"));
            fs::write(path, record.to_string()).unwrap();
        }
        drop(lock);
        let run = withdraw.finish().expect(i32::from(taken));
        assert_eq!(run.stdout.contains("took it at 2026-11-25T03:47:06Z"), taken, "{run}");
    }
    assert_eq!(site.files(), ["cur/#1:2,", "delivery/#1.json", "sidecar/#1.json"]);
}

#[test]
fn without_the_database_a_suppressed_mail_stays_withdrawn_and_claimed() {
    let relay = ScriptedRelay::start();
    let mut site = site_with_mails(Site::new(programs!()).relay(relay.port()), 2);
    let port = site.database().port();
    site.set("database.event.port", json!(outbox_tests::system::free_port()));
    let run = site.deliverer(&["withdraw", "--suppress", "--all"]).expect(75);
    run.line("ERROR", &["stays claimed", "cannot connect to database"]);
    assert_eq!(site.files(), ["cur/#1:2,T", "cur/#2:2,T", "sidecar/#1.json", "sidecar/#2.json"]);
    assert_eq!(
        run.stdout.matches(": FAILED, withdrawn, and its directives stay claimed").count(),
        2
    );

    site.set("database.event.port", json!(port));
    site.generator(&["run", "--all"]).expect(0).line("INFO", &["done", "mails=0"]);
    site.deliverer(&["run", "--once"]).expect(0);
    assert_eq!((relay.received().len(), site.pending()), (0, 2));
    site.deliverer(&["withdraw", "--suppress", "--all"]).expect(0);
    assert_eq!((site.files().len(), site.pending()), (0, 0));
}

#[test]
fn a_withdrawal_that_is_killed_at_any_step_can_be_repeated() {
    for decision in ["--regenerate", "--suppress"] {
        let relay = ScriptedRelay::start();
        let site = site_with_mails(Site::new(programs!()).relay(relay.port()), 1);
        relay.once(At::Rcpt, "", Act::Say("450 4.2.0 greylisted"));
        site.deliverer(&["run", "--once"]).expect(0);
        let command = ["withdraw", "--all", decision];
        // Before it removes the file, the sidecar, and the record. What is gone already is not removed.
        let steps: [(u32, &[&str]); 3] = [
            (1, &["cur/#1:2,T", "delivery/#1.json", "sidecar/#1.json"]),
            (2, &["delivery/#1.json", "sidecar/#1.json"]),
            (2, &["delivery/#1.json"]),
        ];
        for (number, files) in steps {
            let run = site.killed_before(Program::Deliverer, &command, "unlink", number);
            assert_eq!(run.status.code(), None, "{run}");
            assert_eq!(site.files(), files, "{run}");
            if site.sidecars().len() == 1 {
                let run = site.generator(&["run", "--all"]).expect(0);
                run.line("INFO", &["done", "mails=0"]);
            }
            site.deliverer(&["run", "--once"]).expect(0);
        }
        assert_eq!(site.files(), [""; 0], "the leftover record is removed");
        let suppressed = usize::from(decision == "--suppress");
        assert_eq!(site.sent_tickets().len(), suppressed);
        assert_eq!(relay.received().len(), 0);
        let mails = 1 - suppressed;
        let run = site.generator(&["run", "--all"]).expect(0);
        run.line("INFO", &["done", &format!("mails={mails} ")]);
    }
}

#[test]
fn a_copy_goes_with_its_mail_if_the_ticket_is_named_and_stays_if_only_the_recipient_is() {
    let copies = include_str!("../../templates/formats/examples/01-constituency-copies.toml");
    let relay = ScriptedRelay::start();
    let site = Site::new(programs!())
        .relay(relay.port())
        .template("formats/01-constituency-copies.toml", copies)
        .build();
    for number in [1, 2] {
        let mail = Directive::to(&recipient(number)).aggregate("recipient_group", "Government");
        site.insert([&mail.event()]);
    }
    site.generator(&["run", "--all"]).expect(0);
    assert_eq!(site.sidecars().len(), 4, "two mails and a copy each");

    let ticket = ticket_of(&site, 1);
    let run = site.deliverer(&["withdraw", "--suppress", &ticket]).expect(0);
    assert!(run.stdout.contains(": taken back, a copy\n"), "{run}");
    assert!(run.stdout.contains(": taken back, 1 directive is never sent\n"), "{run}");
    assert_eq!(site.sent_tickets(), [ticket]);

    let run = site.deliverer(&["withdraw", "--regenerate", "--recipient", &recipient(2)]).expect(0);
    assert!(run.stdout.contains("; 1 more with this ticket: left alone\n"), "{run}");
    assert_eq!((site.sidecars().len(), site.pending()), (1, 1));
}

// ---- Verify ----

#[test]
fn an_outbox_in_order_is_told_to_be_so() {
    let relay = ScriptedRelay::start();
    let site = site_with_mails(Site::new(programs!()).relay(relay.port()), 3);
    relay.once(At::Rcpt, &recipient(1), Act::Say("450 4.2.0 greylisted"));
    site.deliverer(&["hold", &ticket_of(&site, 2)]).expect(0);
    site.deliverer(&["run", "--once"]).expect(0);
    assert_eq!(site.deliverer(&["verify"]).expect(0).stdout, "ok    2 of 2 mails\n");
    let json = json_of(&site.deliverer(&["verify", "--json"]).expect(0));
    assert_eq!(json, json!({"mails": 2, "ok": 2, "findings": []}));
}

#[test]
fn each_thing_that_is_wrong_is_told_with_what_to_do() {
    let site = site_with_mails(Site::new(programs!()), 8);
    let append = |number: usize| {
        let path = site.mail_to(&recipient(number));
        let bytes = [&fs::read(&path).unwrap()[..], b"x"].concat();
        fs::write(path, bytes).unwrap();
    };
    append(1);
    site.flag(&site.mail_to(&recipient(2)), "T");
    let ticket = |number| ticket_of(&site, number);
    let directive = |number| site.sidecar_to(&recipient(number))["directive_ids"][0].clone();
    site.sql(&format!(
        "INSERT INTO sent (intelmq_ticket) VALUES ('{}'), ('20200101-10000001');
         UPDATE directives SET sent_id = (SELECT max(id) FROM sent) WHERE id = {};
         DELETE FROM directives WHERE id = {};",
        ticket(3),
        directive(4),
        directive(5)
    ));
    let (id, record) = (id_of(&site, 6), site.outbox().join("delivery"));
    fs::write(record.join(format!("{id}.json")), "{").unwrap();
    let id = id_of(&site, 7);
    let accepted =
        json!({"version": 1, "id": id, "state": "accepted", "attempts": 1, "recipients": {}});
    fs::write(record.join(format!("{id}.json")), accepted.to_string()).unwrap();
    let lost = site.sidecar_to(&recipient(8));
    let path = site.mail_to(&recipient(8));
    let expected_seven = ticket(7);
    let tickets: Vec<String> = (1..=6).map(ticket).collect();
    fs::remove_file(site.outbox().join(format!("sidecar/{}.json", lost["id"].as_str().unwrap())))
        .unwrap();
    fs::write(site.outbox().join("new/with space"), "x").unwrap();
    fs::write(site.outbox().join("tmp/1.draft"), "x").unwrap();

    let run = site.deliverer(&["verify"]).expect(1);
    let expected = [
        format!("WRONG {}: it was changed after it was written: ", tickets[0]),
        format!("LOOK  {}: withdrawn, its directives stay claimed", tickets[1]),
        format!("WRONG {}: it stands in sent already and is to be sent", tickets[2]),
        "is marked sent by 20200101-10000001: ".to_owned(),
        format!("LOOK  {}: directive {} is gone", tickets[4], 5),
        format!("WRONG {}: failed to read {}", tickets[5], record.display()),
        format!("WRONG {expected_seven}: its delivery record does not fit: accepted, but for no"),
        format!("LOOK  {}: a mail without a sidecar", path.display()),
        format!("LOOK  {}: its name is not", site.outbox().join("new/with space").display()),
        format!("LOOK  {}: there is no ticket", site.outbox().join("tmp/1.draft").display()),
    ];
    for words in &expected {
        assert_eq!(run.stdout.matches(words).count(), 1, "{words:?} in\n{run}");
    }
    assert_eq!(run.stdout.lines().count(), expected.len() + 1, "{run}");
    assert!(run.stdout.ends_with("ok    0 of 7 mails\n"), "{run}");
    run.line("ERROR", &["what is wrong or needs a person: 10"]);

    let run = site.deliverer(&["verify", "--no-database", &tickets[2]]).expect(0);
    assert_eq!(run.stdout, "ok    1 of 1 mails\n");
}

#[test]
fn without_the_database_the_files_are_verified_all_the_same() {
    let mut site = site_with_mails(Site::new(programs!()), 1);
    site.set("database.event.port", json!(outbox_tests::system::free_port()));
    let run = site.deliverer(&["verify"]).expect(1);
    assert!(run.stdout.starts_with("WRONG database: cannot connect to database"), "{run}");
    assert!(run.stdout.ends_with("\nok    1 of 1 mails\n"), "{run}");
    site.deliverer(&["verify", "--no-database"]).expect(0);
}

fn site_with_mails(builder: Builder, count: usize) -> Site {
    let site = builder.build();
    site.insert(&events::groups(count));
    site.generator(&["run", "--all"]).expect(0);
    assert_eq!(site.sidecars().len(), count);
    site
}

fn ticket_of(site: &Site, number: usize) -> String {
    site.sidecar_to(&recipient(number))["ticket"].as_str().unwrap().to_owned()
}

fn id_of(site: &Site, number: usize) -> MailId {
    site.sidecar_to(&recipient(number))["id"].as_str().unwrap().parse().unwrap()
}

fn json_of(run: &Finished) -> Value {
    serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {run}"))
}

fn edit_json(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut content: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut content);
    fs::write(path, content.to_string()).unwrap();
}
