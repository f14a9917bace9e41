//! mutt is an interface of the outbox: reading changes nothing, the flag F holds, clearing it
//! releases, deleting withdraws. With the real mutt in a terminal, beside the service at work.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use outbox_config::DeliverySettings;
use outbox_tests::events::{self, recipient};
use outbox_tests::gnupg::Gnupg;
use outbox_tests::mutt::{MUTTRC, Mutt};
use outbox_tests::programs;
use outbox_tests::programs::wait_until;
use outbox_tests::scripted_relay::{Act, At, ScriptedRelay};
use outbox_tests::site::Site;
use serde_json::json;

/// Far less than the time after which the service looks at the outbox in any case.
const AT_ONCE: Duration = Duration::from_secs(10);

// ---- Each key, and what it means ----

#[test]
fn reading_changes_nothing_and_the_signature_is_shown_as_good() {
    let relay = ScriptedRelay::start();
    let site = site_with_mails(&relay, 3);
    let (mails, sidecars) = (mails(&site), site.sidecars());

    let mutt = Mutt::open(&site);
    mutt.keys(&["Enter"]);
    // The first of them shows before there is a pager.
    let words = [
        "PGP signature successfully verified",
        "Good signature from: CERT Example <noreply@cert.example>",
    ];
    let good = |screen: &str| words.iter().all(|words| screen.contains(words));
    let pager = mutt.wait_until("the signature is shown as good", good);
    assert!(pager.contains(&format!("To: {}", recipient(3))) && !pager.contains("^M"), "{pager}");
    mutt.keys(&["Space"]);
    mutt.wait_until("the next page is on", |screen| !screen.contains("Good signature"));
    mutt.keys(&["i", "q"]);
    mutt.wait_for_end();
    assert_eq!(mail_files(&site), ["cur/#3:2,S", "new/#1", "new/#2"], "the newest comes first");

    // A mutt that was told nothing moves what it showed in the list, too.
    let mutt = Mutt::open_bare(&site);
    mutt.keys(&["=", "Enter"]);
    mutt.wait_for("[-- The following data is signed --]");
    mutt.keys(&["i", "q"]);
    mutt.wait_for_end();
    assert_eq!(mail_files(&site), ["cur/#1:2,S", "cur/#2:2,", "cur/#3:2,S"]);

    assert_eq!((self::mails(&site), site.sidecars()), (mails, sidecars));
    let list = site.deliverer(&["list", "--state", "queued"]).expect(0).stdout;
    assert!(list.ends_with("3 queued\n"), "{list}");
    site.deliverer(&["run", "--once"]).expect(0).without("WARN");
    assert_eq!(relay.received().len(), 3);
    assert_eq!(site.files(), ["sent/cur/#1:2,S", "sent/cur/#2:2,S", "sent/cur/#3:2,S"]);

    // And in the archive.
    let mutt = Mutt::open(&site);
    mutt.keys(&["c"]);
    mutt.wait_for("Open mailbox");
    mutt.keys(&["=sent", "Enter"]);
    mutt.wait_for("-Mutt: =sent [3 mails]");
    mutt.keys(&["Enter"]);
    mutt.wait_for("Good signature");
}

#[test]
fn an_operator_who_has_the_private_key_reads_what_is_encrypted() {
    let site = Site::new(programs!())
        .key(Gnupg::with_encrypting_key)
        .set("openpgp.encrypt", json!("always"))
        .set("openpgp.protected_headers", json!(true))
        .build();
    site.gnupg().add_recipient(&recipient(1));
    site.insert(&events::groups(1));
    site.generator(&["run", "--all"]).expect(0);

    let mutt = Mutt::open_with_private_key(&site);
    assert!(mutt.screen().contains("[...]"), "the list does not decrypt: {}", mutt.screen());
    mutt.keys(&["Enter"]);
    let pager = mutt.wait_for("The following data is PGP/MIME signed and encrypted");
    assert!(pager.contains("Good signature from: CERT Example <noreply@cert.example>"), "{pager}");
    let subject = site.sidecars()[0]["subject"].as_str().unwrap().to_owned();
    assert!(pager.contains(&format!("Subject: {subject}")), "{pager}");
    mutt.keys(&["Space"]);
    mutt.wait_for("Please check the systems named there");
    mutt.keys(&["i", "q"]);
    mutt.wait_for_end();
    assert_eq!(mail_files(&site), ["cur/#1:2,S"]);
}

#[test]
fn the_flag_holds_a_mail_and_clearing_it_sends_it_at_once() {
    let relay = ScriptedRelay::start();
    let site = site_with_mails(&relay, 3);
    let mutt = Mutt::open(&site);
    mutt.keys(&["j", "H"]);
    mutt.wait_for("1 held");
    wait_until("it is flagged", || mail_files(&site).contains(&"new/#2:2,F".to_owned()));

    let service = site.start_deliverer(&["run"]);
    relay.wait_for_mails(2);
    wait_until("they are archived", || mail_files(&site) == ["new/#2:2,F"]);
    assert_eq!(state(&site, 2), "held");
    mutt.keys(&["C-l"]);
    mutt.wait_for("1 mails, 1 held");

    let released = Instant::now();
    mutt.keys(&["R"]);
    relay.wait_for_mails(3);
    assert!(released.elapsed() < AT_ONCE, "{:?}", released.elapsed());
    wait_until("all is sent", || site.pending() == 0);
    mutt.wait_for("0 mails");
    mutt.keys(&["q"]);
    mutt.wait_for_end();
    service.terminate().expect(0).without("WARN").without("ERROR");
    assert!(relay.by_message_id().values().all(|mails| mails.len() == 1));
}

#[test]
fn the_keys_of_a_mutt_that_was_told_nothing_mean_the_same() {
    let relay = ScriptedRelay::start();
    let site = site_with_mails(&relay, 3);
    let mutt = Mutt::open_bare(&site);
    mutt.keys(&["F", "d", "$"]);
    mutt.wait_for("Purge 1 deleted message?");
    assert_eq!(mail_files(&site), ["new/#1", "new/#2", "new/#3"], "nothing happened so far");
    mutt.keys(&["y"]);
    wait_until("it is written", || mail_files(&site) == ["new/#1:2,F", "new/#3"]);

    let service = site.start_deliverer(&["run"]);
    relay.wait_for_mails(1);
    wait_until("it is archived", || mail_files(&site) == ["new/#1:2,F"]);
    assert_eq!((state(&site, 1), state(&site, 2)), ("held".to_owned(), "withdrawn".to_owned()));
    mutt.wait_until("the list is short", |screen| screen.contains("Msgs:1 "));
    mutt.keys(&["F", "$"]);
    relay.wait_for_mails(2);
    wait_until("it is archived", || mail_files(&site).is_empty());
    service.terminate().expect(0).without("ERROR");
    assert_eq!(to(&relay), [recipient(3), recipient(1)]);
}

#[test]
fn a_deleted_mail_is_not_sent_nor_written_anew_and_undeleted_it_is_sent() {
    let relay = ScriptedRelay::start();
    let site = site_with_mails(&relay, 2);
    let mutt = Mutt::open(&site);
    mutt.keys(&["W"]);
    mutt.wait_for("1 withdrawn");
    wait_until("it is marked", || mail_files(&site).contains(&"new/#2:2,T".to_owned()));

    let service = site.start_deliverer(&["run"]);
    relay.wait_for_mails(1);
    wait_until("the other one is archived", || mail_files(&site) == ["new/#2:2,T"]);
    assert_eq!(state(&site, 2), "withdrawn");
    let run = site.generator(&["run", "--all"]).expect(0);
    assert!(run.line("INFO", &["done"]).contains("mails=0"), "it is claimed: {run}");
    assert_eq!((site.sidecars().len(), site.pending()), (1, 1));

    mutt.wait_for("1 mails, 1 withdrawn");
    mutt.keys(&["U"]);
    relay.wait_for_mails(2);
    wait_until("all is sent", || site.pending() == 0);
    mutt.keys(&["q"]);
    mutt.wait_for_end();
    service.terminate().expect(0).without("ERROR");
}

#[test]
fn what_is_tagged_is_held_released_and_withdrawn_together() {
    let relay = ScriptedRelay::start();
    let site = site_with_mails(&relay, 12);
    let mutt = Mutt::open(&site);
    // By recipient; by ticket.
    mutt.keys(&["T~t abuse1", "Enter", ";H"]);
    mutt.wait_for("4 held, 4 tagged");
    wait_until("they are flagged", || flagged(&site) == 4);
    mutt.keys(&["C-t", "~A", "Enter", "T~H 0000005", "Enter", ";W"]);
    mutt.wait_for("4 held, 1 withdrawn]");

    let service = site.start_deliverer(&["run"]);
    relay.wait_for_mails(7);
    wait_until("they are archived", || mail_files(&site).len() == 5);
    mutt.wait_for("5 mails, 4 held, 1 withdrawn");
    mutt.keys(&["C-t", "~A", "Enter", "T~F", "Enter", ";R"]);
    relay.wait_for_mails(11);
    wait_until("they are archived", || mail_files(&site) == ["new/#5:2,T"]);
    service.terminate().expect(0).without("ERROR");
    assert_eq!((state(&site, 5), site.pending()), ("withdrawn".to_owned(), 1));
}

#[test]
fn the_keys_work_while_the_mail_is_shown_and_one_shows_what_the_deliverer_knows() {
    let relay = ScriptedRelay::start();
    let site = site_with_mails(&relay, 2);
    relay.once(At::Rcpt, "", Act::Say("550 5.1.1 no such user here"));
    site.deliverer(&["run", "--once"]).expect(1);
    let mutt = Mutt::open(&site);
    mutt.wait_for("1 held");
    mutt.keys(&["S"]);
    let shown = mutt.wait_for("Press any key");
    assert!(shown.contains("550 5.1.1 no such user"), "{shown}");
    mutt.keys(&["Space"]);
    mutt.wait_for("-Mutt: ");
    mutt.keys(&["Enter"]);
    mutt.wait_for("Good signature");
    mutt.keys(&["R"]);
    mutt.wait_for_effect("it is released", || mail_files(&site) == ["cur/#1:2,S"]);
    let service = site.start_deliverer(&["run"]);
    relay.wait_for_mails(2);
    wait_until("all is sent", || mail_files(&site).is_empty());
    mutt.keys(&["q"]);
    mutt.wait_for("0 mails");
    mutt.keys(&["q"]);
    mutt.wait_for_end();
    service.terminate().expect(0).without("ERROR");
}

#[test]
fn a_flag_of_ours_outlives_what_mutt_does_with_the_others() {
    let relay = ScriptedRelay::start();
    let site = site_with_mails(&relay, 1);
    site.flag(&site.listed("new")[0], "r");
    let mutt = Mutt::open(&site);
    mutt.keys(&["H"]);
    wait_until("it is flagged", || mail_files(&site) == ["cur/#1:2,Fr"]);
    mutt.keys(&["W"]);
    wait_until("it is marked", || mail_files(&site) == ["cur/#1:2,FTr"]);
    mutt.keys(&["U", "Enter"]);
    mutt.wait_for("Good signature");
    mutt.keys(&["i", "R"]);
    wait_until("it is released", || mail_files(&site) == ["cur/#1:2,Sr"]);
}

// ---- Both at once ----

#[test]
fn mutt_and_the_service_work_in_the_outbox_together_and_neither_harms_the_other() {
    const MAILS: usize = 200;
    let relay = ScriptedRelay::start();
    let site = site_with_mails(&relay, MAILS);
    // Half of them it takes while mutt is used. With the next ones it waits for mutt, however slow.
    relay.always(At::FinalDot, "-100001", Act::Hold);
    relay.always(At::FinalDot, "", Act::Take(Duration::from_millis(25)));
    let mutt = Mutt::open(&site);
    mutt.wait_for("200 mails");
    let service = site.start_deliverer(&["run"]);
    relay.wait_for_mails(10);

    // The newest, which come first in the list, are relayed last.
    mutt.keys(&["H"]);
    mutt.wait_for_effect("one is flagged", || flagged(&site) == 1);
    mutt.keys(&["j", "j", "H"]);
    mutt.wait_for_effect("two are flagged", || flagged(&site) == 2);
    mutt.keys(&["j", "Enter"]);
    mutt.wait_for("Good signature");
    mutt.keys(&["i"]);
    mutt.wait_until("the list is back", |screen| !screen.contains("Good signature"));
    mutt.keys(&["T"]);
    mutt.wait_for("Tag messages matching");
    mutt.keys(&["~H 1000018", "Enter"]);
    mutt.wait_for("10 tagged");
    mutt.keys(&[";H"]);
    mutt.wait_for_effect("ten more are flagged", || flagged(&site) == 12);
    let held = held(&site);

    let connections = DeliverySettings::default().connections.get();
    relay.wait_until_so_many_held(connections);
    relay.behave();
    (0..connections).for_each(|_| relay.go_on());
    relay.wait_for_mails(MAILS - held.len());
    mutt.wait_for_effect("the others are marked", || {
        site.pending() == i64::try_from(held.len()).unwrap()
    });
    mutt.wait_for_effect("the others are archived", || mail_files(&site).len() == held.len());
    assert_eq!(self::held(&site), held);
    mutt.keys(&["C-l"]);
    mutt.wait_for(&format!("{0} mails, {0} held", held.len()));
    mutt.keys(&["T~F", "Enter", ";R"]);
    relay.wait_for_mails(MAILS);
    mutt.wait_for_effect("all are marked", || site.pending() == 0);
    mutt.wait_for("0 mails");
    mutt.keys(&["q"]);
    mutt.wait_for_end();

    service.terminate().expect(0).without("WARN").without("ERROR");
    assert_eq!(relay.received().len(), MAILS);
    assert_eq!(relay.by_message_id().len(), MAILS, "none twice");
    assert_eq!(site.files().len(), MAILS, "all in the archive, and nothing else");
    assert_eq!(site.sent_tickets().len(), MAILS);
}

#[test]
fn what_mutt_writes_late_does_not_bring_back_a_mail_that_was_sent_meanwhile() {
    let relay = ScriptedRelay::start();
    let site = site_with_mails(&relay, 3);
    let mutt = Mutt::open_bare(&site);
    // One is read, one is flagged, one is deleted, and nothing of that is written.
    mutt.keys(&["Enter"]);
    mutt.wait_for("[-- The following data is signed --]");
    mutt.keys(&["i", "j", "F", "d"]);
    mutt.wait_until("all is changed", |screen| {
        screen.contains("Flag:1") && screen.contains("Del:1")
    });
    site.deliverer(&["run", "--once"]).expect(0);
    let sent = ["sent/cur/#1:2,S", "sent/cur/#2:2,S", "sent/cur/#3:2,S"];
    assert_eq!(site.files(), sent);
    mutt.keys(&["$"]);
    mutt.wait_for("Purge 1 deleted message?");
    mutt.keys(&["y"]);
    mutt.wait_for("Msgs:0");
    mutt.keys(&["q"]);
    mutt.wait_for_end();
    assert_eq!(site.files(), sent);
    assert_eq!((site.pending(), relay.received().len()), (0, 3));
}

#[test]
fn a_mail_is_sent_while_it_is_shown_and_mutt_goes_on() {
    let relay = ScriptedRelay::start();
    let site = site_with_mails(&relay, 2);
    let mutt = Mutt::open(&site);
    mutt.keys(&["Enter"]);
    mutt.wait_for("Good signature");
    site.deliverer(&["run", "--once"]).expect(0);
    mutt.keys(&["Space", "H"]);
    mutt.wait_for("0 mails");
    mutt.keys(&["q"]);
    mutt.wait_for_end();
    assert_eq!(site.files(), ["sent/cur/#1:2,S", "sent/cur/#2:2,S"]);
}

#[test]
fn a_mail_that_is_refused_while_a_person_reads_it_stays_held() {
    let relay = ScriptedRelay::start();
    let site = site_with_mails(&relay, 1);
    let mutt = Mutt::open_bare(&site);
    mutt.keys(&["Enter"]);
    mutt.wait_for("[-- The following data is signed --]");
    mutt.keys(&["i"]);
    // Changed: mutt has not written yet that the mail was read.
    mutt.wait_for("-*-Mutt: ");
    relay.once(At::Rcpt, "", Act::Say("550 5.1.1 no such user here"));
    let service = site.start_deliverer(&["run"]);
    service.wait_for("rejected");
    wait_until("it is written down", || site.records().len() == 1);
    mutt.keys(&["$", "$", "q"]);
    mutt.wait_for_end();
    let files = mail_files(&site);
    assert!(files.len() == 1 && files[0].contains('F'), "{files:?}");
    assert_eq!(state(&site, 1), "failed");
    service.terminate();
    assert_eq!((relay.received().len(), site.pending()), (0, 1));
}

#[test]
fn a_mail_flagged_while_the_relay_has_it_in_hand_waits_if_the_relay_does_not_take_it() {
    let relay = ScriptedRelay::start();
    let site = site_with_mails(&relay, 1);
    relay.once(At::Mail, "", Act::Hold);
    relay.once(At::Rcpt, "", Act::Say("450 4.2.0 greylisted"));
    let mutt = Mutt::open(&site);
    let service = site.start_deliverer(&["run"]);
    relay.wait_until_held();
    mutt.keys(&["H"]);
    wait_until("it is flagged", || mail_files(&site) == ["new/#1:2,F"]);
    relay.go_on();
    service.wait_for("deferred");
    wait_until("it is written down", || site.records().len() == 1);
    assert_eq!(state(&site, 1), "held");
    mutt.keys(&["R"]);
    wait_until("it is released", || mail_files(&site) == ["new/#1"]);
    assert_eq!(state(&site, 1), "deferred", "it waits for its time again");
    service.terminate().expect(0);
}

#[test]
fn a_mail_deleted_while_the_relay_has_it_in_hand_is_marked_if_the_relay_takes_it() {
    let relay = ScriptedRelay::start();
    let site = site_with_mails(&relay, 2);
    relay.once(At::FinalDot, &recipient(1), Act::Hold);
    let mutt = Mutt::open_bare(&site);
    let service = site.start_deliverer(&["run"]);
    relay.wait_until_held();
    mutt.keys(&["d", "$"]);
    mutt.wait_for("Purge 1 deleted message?");
    mutt.keys(&["y"]);
    wait_until("its file is gone", || mail_files(&site).len() == 1);
    relay.go_on();
    relay.wait_for_mails(2);
    wait_until("both are marked", || site.pending() == 0);
    wait_until("both are finished", || site.files() == ["sent/cur/#2:2,S"]);
    service.terminate().expect(0).without("ERROR");

    // And it is withdrawn if the relay refuses it.
    site.insert(&events::groups(1));
    site.generator(&["run", "--all"]).expect(0);
    relay.once(At::Mail, "", Act::Hold);
    relay.once(At::Rcpt, "", Act::Say("550 5.1.1 no such user here"));
    let service = site.start_deliverer(&["run"]);
    relay.wait_until_held();
    mutt.keys(&["C-l"]);
    mutt.wait_until("the mail is listed", |screen| screen.contains("Msgs:1 "));
    mutt.keys(&["d", "$"]);
    mutt.wait_for("Purge 1 deleted message?");
    mutt.keys(&["y"]);
    wait_until("its file is gone", || mail_files(&site).is_empty());
    relay.go_on();
    service.terminate().expect(0);
    assert_eq!((state(&site, 3), site.pending()), ("withdrawn".to_owned(), 1));
}

// ---- What one should not do ----

#[test]
fn a_mail_that_is_edited_in_mutt_is_withdrawn_and_its_new_form_is_not_sent() {
    let relay = ScriptedRelay::start();
    let site = site_with_mails(&relay, 2);
    let mutt = Mutt::open_with(&site, "bind index e edit\nset editor='sed -i s/Dear/Cheap/'");
    mutt.keys(&["e"]);
    mutt.wait_for("1 withdrawn");
    mutt.keys(&["q"]);
    mutt.wait_for_end();
    let run = site.deliverer(&["run", "--once"]).expect(0);
    run.line("WARN", &["a mail without a sidecar: not ours, never sent"]);
    assert_eq!(to(&relay), [recipient(1)]);
    assert_eq!((state(&site, 2), site.pending()), ("withdrawn".to_owned(), 1));
}

#[test]
fn keys_that_would_change_move_or_send_a_mail_are_off() {
    let relay = ScriptedRelay::start();
    let site = site_with_mails(&relay, 1);
    let mails = mails(&site);
    let mutt = Mutt::open_with(&site, "set editor='sed -i s/Dear/Cheap/'");
    for key in ["e", "y", "s", "b", "&", "#", "C-e", "M-s", "M-e"] {
        mutt.keys(&[key]);
        mutt.wait_for("Key is not bound");
        mutt.keys(&["C-l", "j"]);
        mutt.wait_until("that is told", |screen| !screen.contains("Key is not bound"));
    }
    mutt.keys(&["q"]);
    mutt.wait_for_end();
    assert_eq!(self::mails(&site), mails);
    assert_eq!(site.listed("new").len(), 1);
}

#[test]
fn the_documentation_shows_the_configuration_that_is_tested() {
    let page = include_str!("../../docs/mutt.md");
    let shown: String = MUTTRC
        .lines()
        .map(|line| if line.is_empty() { "\n".to_owned() } else { format!("    {line}\n") })
        .collect();
    assert!(page.contains(&shown), "docs/mutt.md does not show docs/muttrc.outbox as it is");
}

fn site_with_mails(relay: &ScriptedRelay, count: usize) -> Site {
    let site = Site::new(programs!()).relay(relay.port()).build();
    site.insert(&events::groups(count));
    let run = site.generator(&["run", "--all"]).expect(0);
    assert!(run.line("INFO", &["done"]).contains(&format!("mails={count} ")), "{run}");
    site
}

/// The mails' files, by name.
fn mail_files(site: &Site) -> Vec<String> {
    let mut files = site.files();
    files.retain(|file| file.starts_with("new/") || file.starts_with("cur/"));
    files
}

/// The mails' bytes, by id.
fn mails(site: &Site) -> BTreeMap<String, Vec<u8>> {
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    ["new", "cur"]
        .iter()
        .flat_map(|folder| site.listed(folder))
        .map(|path| {
            let id = name(&path).split(':').next().unwrap().to_owned();
            (id, fs::read(&path).unwrap())
        })
        .collect()
}

/// The files of mails that are flagged F.
fn held(site: &Site) -> Vec<String> {
    let mut files = mail_files(site);
    files.retain(|file| file.split_once(":2,").is_some_and(|(_, flags)| flags.contains('F')));
    files
}

fn flagged(site: &Site) -> usize {
    held(site).len()
}

/// What `list` says of the mail with the `number`th ticket of the day.
fn state(site: &Site, number: usize) -> String {
    let list = site.deliverer(&["list"]).expect(0).stdout;
    let ticket = format!("-{} ", 10_000_000 + number);
    let line = list.lines().find(|line| line.contains(&ticket));
    let line = line.unwrap_or_else(|| panic!("{ticket} is not in\n{list}"));
    line.split_whitespace().nth(2).expect("it has a state").to_owned()
}

/// Whom the relay got mails for, in this order.
fn to(relay: &ScriptedRelay) -> Vec<String> {
    relay.received().into_iter().flat_map(|mail| mail.to).collect()
}
