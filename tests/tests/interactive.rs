//! `outbox-generator run` without `--all`, in a real terminal: a person says batch by batch what is
//! written.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use outbox_tests::events::{self, Directive, recipient};
use outbox_tests::programs;
use outbox_tests::site::Site;
use outbox_tests::terminal::Terminal;

const QUESTION: &str = "[c]ontinue (skip), [s]end this batch, send [a]ll, [q]uit?";

fn site() -> Site {
    Site::new(programs!()).unsigned().build()
}

/// `outbox-generator run` with these arguments, in a terminal.
fn run(site: &Site, arguments: &str) -> Terminal {
    let home = site.folder().join("person");
    let bin = home.join("bin");
    fs::create_dir_all(&bin).unwrap();
    let program = bin.join("outbox-generator");
    fs::write(&program, site.generator_script()).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    Terminal::start(&home, &format!("outbox-generator run {arguments}"))
}

/// Waits for the `number`th question.
#[track_caller]
fn wait_for_question(terminal: &Terminal, number: usize) -> String {
    let asked = |screen: &str| {
        screen.matches(QUESTION).count() >= number && screen.trim_end().ends_with("[q]uit?")
    };
    terminal.wait_until(&format!("question {number}"), asked)
}

/// Who has a mail in the outbox.
fn written(site: &Site) -> BTreeSet<String> {
    let to =
        |sidecar: &serde_json::Value| sidecar["envelope"]["to"][0].as_str().unwrap().to_owned();
    site.sidecars().iter().map(to).collect()
}

fn recipients(numbers: impl IntoIterator<Item = usize>) -> BTreeSet<String> {
    numbers.into_iter().map(recipient).collect()
}

#[test]
fn each_batch_is_shown_and_skipped_or_written_as_the_person_says() {
    let site = site();
    site.insert(&events::groups(7));
    let terminal = run(&site, "-N 2");
    let screen = wait_for_question(&terminal, 1);
    assert!(screen.starts_with("Groups 1 to 2 of 7:\n"), "{screen}");
    assert!(screen.contains("   1. 1 event to abuse1@isp.example\n"), "{screen}");
    assert!(screen.contains("      generic (text/csv_inline)\n"), "{screen}");
    // What is no answer is asked again.
    terminal.keys(&["x", "Enter"]);
    let screen = wait_for_question(&terminal, 2);
    assert!(screen.contains("Answer with c, s, a or q."), "{screen}");
    terminal.keys(&["c", "Enter"]);
    let screen = wait_for_question(&terminal, 3);
    assert!(screen.contains("Groups 3 to 4 of 7:") && written(&site).is_empty(), "{screen}");
    terminal.keys(&["s", "Enter"]);
    let screen = wait_for_question(&terminal, 4);
    assert!(screen.contains("mails: 2, copies: 0, postponed: 0, errors: 0\n"), "{screen}");
    assert!(screen.contains("Groups 5 to 6 of 7:"), "{screen}");
    assert_eq!(written(&site), recipients([3, 4]));
    terminal.keys(&["a", "Enter"]);
    let screen = terminal.wait_for_end(0);
    assert!(screen.contains("mails: 3, copies: 0") && screen.contains("done mails=5"), "{screen}");
    assert_eq!(written(&site), recipients(3..=7));
    // What was skipped is pending.
    site.generator(&["run", "--all"]).expect(0).line("INFO", &["done", "mails=2"]);
}

#[test]
fn quitting_and_the_end_of_input_write_nothing_more() {
    let site = site();
    site.insert(&events::groups(3));
    let terminal = run(&site, "-N 1");
    wait_for_question(&terminal, 1);
    terminal.keys(&["s", "Enter"]);
    wait_for_question(&terminal, 2);
    terminal.keys(&["q", "Enter"]);
    let screen = terminal.wait_for_end(0);
    assert!(screen.contains("Nothing more is written."), "{screen}");
    assert_eq!(written(&site), recipients([1]));

    let terminal = run(&site, "");
    wait_for_question(&terminal, 1);
    terminal.keys(&["C-d"]);
    let screen = terminal.wait_for_end(2);
    assert!(screen.contains("--all"), "{screen}");
    assert_eq!(written(&site), recipients([1]));
}

#[test]
fn where_nobody_can_be_asked_nothing_is_written_and_the_error_tells_of_all() {
    let site = site();
    site.insert(&events::groups(1));
    let run = site.generator(&["run"]).expect(2);
    run.line("ERROR", &["no terminal", "run --all"]);
    assert_eq!(site.files(), [""; 0]);
}

#[test]
fn while_a_person_thinks_the_database_is_free_and_no_directive_is_written_twice() {
    let site = site();
    site.insert(&events::groups(4));
    let terminal = run(&site, "-N 2");
    wait_for_question(&terminal, 1);
    // Another run leaves all to the person.
    site.generator(&["run", "--all"]).expect(0).line("INFO", &["another outbox-generator"]);
    assert_eq!(site.files(), [""; 0]);
    // No session is open, so that no timeout counts and nobody waits.
    let sessions = "SELECT pid FROM pg_stat_activity
                     WHERE datname = current_database() AND application_name = 'outbox-generator'";
    assert_eq!(site.column::<i32>(sessions), [0; 0]);
    // Meanwhile Mailgen, or a person, answers one of those that are shown; and another event comes.
    site.sql(
        "INSERT INTO sent (intelmq_ticket, sent_at) VALUES ('20200101-10000001', now());
         UPDATE directives SET sent_id = (SELECT max(id) FROM sent)
          WHERE recipient_address = 'abuse1@isp.example'",
    );
    site.insert(&[Directive::to(&recipient(2)).event()]);
    terminal.keys(&["s", "Enter"]);
    let screen = wait_for_question(&terminal, 2);
    assert!(screen.contains("mails: 1, copies: 0"), "{screen}");
    assert_eq!(written(&site), recipients([2]));
    let claimed = site.sidecars()[0]["directive_ids"].as_array().unwrap().len();
    assert_eq!(claimed, 1, "what came later was not shown");
    terminal.keys(&["q", "Enter"]);
    terminal.wait_for_end(0);
}

#[test]
fn a_locked_database_is_told_and_the_batch_is_asked_about_again() {
    let site = site();
    site.insert(&events::groups(1));
    let terminal = run(&site, "");
    wait_for_question(&terminal, 1);
    let mailgen = site.hold("SELECT FROM directives WHERE sent_id IS NULL FOR UPDATE");
    terminal.keys(&["s", "Enter"]);
    let screen = wait_for_question(&terminal, 2);
    assert!(screen.contains("Nothing was written: the line above says why."), "{screen}");
    drop(mailgen);
    terminal.keys(&["s", "Enter"]);
    terminal.wait_for_end(0);
    assert_eq!(written(&site), recipients([1]));
}

#[test]
fn the_list_says_what_would_not_be_written_and_shows_hostile_text_as_text() {
    let site = site();
    let postponed = Directive::to("late@isp.example")
        .template("malware-infection_provider")
        .format("malware-infection", "malware-infection_csv_inline")
        .interval(86400);
    site.insert(&[
        Directive::to("x\u{1b}[2Jy@isp.example").event(),
        Directive::to("robot@isp.example").format("xarf", "unheard-of").event(),
        Directive::to("long@isp.example").template(&"t".repeat(70)).event(),
        postponed.clone().event(),
    ]);
    site.sql(
        "INSERT INTO sent (intelmq_ticket, sent_at) VALUES ('20200101-10000001', now());
         INSERT INTO directives (events_id, sent_id, medium, recipient_address, template_name,
                notification_format, event_data_format, aggregate_identifier, notification_interval, endpoint)
         SELECT events_id, (SELECT max(id) FROM sent), medium, recipient_address, template_name,
                notification_format, event_data_format, aggregate_identifier, notification_interval, endpoint
           FROM directives WHERE recipient_address = 'late@isp.example'",
    );
    let terminal = run(&site, "-vv -n");
    let screen = wait_for_question(&terminal, 1);
    for words in [
        "1. 1 event to x\\u{1b}[2Jy@isp.example\n",
        "takes the group",
        "ttt (t…\n",
        "can't be written: failed to read the template",
        "postponed until ",
        "events 1; directives 1\n",
    ] {
        assert!(screen.contains(words), "{words:?}\n{screen}");
    }
    terminal.keys(&["a", "Enter"]);
    let screen = terminal.wait_for_end(1);
    assert!(screen.contains("Dry run, nothing is written: "), "{screen}");
    assert_eq!(site.files(), [""; 0]);
}

#[test]
fn a_long_run_shows_how_far_it_is_and_the_line_makes_room_for_the_log_and_goes() {
    let site = Site::new(programs!()).build();
    let mut events = events::groups(400);
    events.insert(300, Directive::to("robot@isp.example").format("xarf", "unheard-of").event());
    site.insert(&events);
    let terminal = run(&site, "--all");
    let far = |screen: &str| screen.contains("[####") && screen.contains(" of 401 groups");
    terminal.wait_until("it says how far it is", far);
    let screen = terminal.wait_for_end(1);
    let whole = |line: &str| line.starts_with("20") && line.contains("Z ERROR no mail for robot@");
    assert!(screen.lines().any(whole), "{screen}");
    assert!(screen.contains("done mails=400") && !screen.contains(" of 401"), "{screen}");
    // Elsewhere there is no such line.
    site.insert(&events::groups(200));
    let run = site.generator(&["run", "--all"]).expect(1);
    assert!(!run.stderr.contains('\r') && !run.stderr.contains(" of "), "{run}");
}
