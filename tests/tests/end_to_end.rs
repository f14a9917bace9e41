//! From events in PostgreSQL to mails at the relay and `sent` in the database, with real servers
//! all the way.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use jiff::{Timestamp, ToSpan as _};
use outbox_tests::database::sql_file;
use outbox_tests::events::{self, Directive, recipient};
use outbox_tests::postfix::Postfix;
use outbox_tests::postgres_cluster::GENERATOR_ROLE;
use outbox_tests::programs::{Running, wait_until};
use outbox_tests::random::Random;
use outbox_tests::scripted_relay::{Act, At, Received, ScriptedRelay};
use outbox_tests::site::{Program, Site};
use outbox_tests::{Cluster, mail, programs, watchdog};
use serde_json::{Value, json};

// ---- The whole way ----

#[test]
fn each_group_of_the_sample_events_becomes_a_mail_that_gnupg_and_python_read_but_for_one() {
    let site = Site::new(programs!()).build();
    site.insert_samples();
    let run = site.generator(&["run", "--all"]).expect(1);

    let (mailed, failed): (Vec<Group>, Vec<Group>) =
        groups(&site).into_iter().partition(|group| group.data != "login-attack_0.1.2");
    assert!(mailed.len() > 40 && !failed.is_empty());
    // A report in X-ARF is about one event: such a group has a mail for each.
    let expected: Vec<Vec<i64>> = (mailed.iter())
        .flat_map(|group| {
            let most = if group.format == "xarf" { 1 } else { group.directives.len() };
            group.directives.chunks(most).map(<[i64]>::to_vec)
        })
        .collect();
    for group in &failed {
        let ids = |ids: &[i64]| ids.iter().map(ToString::to_string).collect::<Vec<_>>();
        let (directives, events) = (ids(&group.directives), ids(&group.events));
        let named = format!("directives={}", directives[0]);
        let line = run.line("ERROR", &[&named, "xarf"]);
        assert!(line.contains(&format!("events={}", events[0])), "{line}");
    }
    assert_eq!(run.lines("ERROR").len(), failed.len() + 1, "one a group, and the last word: {run}");
    let (mails, errors) = (format!("mails={}", expected.len()), format!("errors={}", failed.len()));
    run.line("INFO", &["done", &mails, "postponed=0", &errors]);

    // The folder holds a mail and its sidecar each, and nothing else.
    let sidecars = site.sidecars();
    let mut files: Vec<String> = (sidecars.iter())
        .map(|sidecar| sidecar["ticket"].as_str().unwrap().split_once('-').unwrap().1)
        .map(|number| number.parse::<u32>().unwrap() - 10_000_000)
        .flat_map(|number| [format!("new/#{number}"), format!("sidecar/#{number}.json")])
        .collect();
    files.sort();
    assert_eq!(site.files(), files);
    let tickets: BTreeSet<&str> =
        sidecars.iter().map(|sidecar| sidecar["ticket"].as_str().unwrap()).collect();
    assert_eq!(tickets.len(), expected.len(), "each its own ticket");

    // Each directive is claimed by the one mail of its group, or of its event.
    let mut claimed: Vec<Vec<i64>> = sidecars.iter().map(directive_ids).collect();
    let mut pending = expected;
    claimed.sort();
    pending.sort();
    assert_eq!(claimed, pending);

    // What is in a sidecar is what its mail is.
    let files: Vec<PathBuf> = (sidecars.iter())
        .map(|sidecar| site.outbox().join("new").join(sidecar["id"].as_str().unwrap()))
        .collect();
    let read = mail::read(&files, Some(site.gnupg().home()));
    for ((sidecar, file), read) in sidecars.iter().zip(&files).zip(read) {
        let bytes = fs::read(file).unwrap();
        assert_eq!(sidecar["sha256"], mail::sha256(&bytes));
        assert_eq!(sidecar["size"], bytes.len());
        assert_eq!(read.header["message-id"], sidecar["message_id"].as_str().unwrap());
        assert_eq!(read.header["subject"], sidecar["subject"].as_str().unwrap());
        assert_eq!(read.header["x-ticket"], sidecar["ticket"].as_str().unwrap());
        let to: Vec<&str> = read.header["to"].split(", ").collect();
        assert_eq!(json!(to), sidecar["envelope"]["to"], "{sidecar}");
        assert_eq!(sidecar["envelope"]["from"], format!("noreply@{}", site.domain()));
        assert_eq!((&sidecar["version"], &sidecar["mark_sent"]), (&json!(1), &json!(true)));
        let date = jiff::fmt::rfc2822::parse(&read.header["date"]).unwrap().timestamp();
        let created: Timestamp = sidecar["created_at"].as_str().unwrap().parse().unwrap();
        assert!(created.duration_since(date).as_millis_f64().abs() < 1000.0, "{sidecar}");

        assert_eq!(read.defects, [""; 0], "{}", file.display());
        assert_eq!(read.signed_by.as_deref(), Some(site.gnupg().fingerprint()), "{}", read.gpg);
        assert!(bytes.is_ascii());
        let text = String::from_utf8(bytes).unwrap();
        assert!(!text.replace("\r\n", "").contains(['\r', '\n']), "CRLF and nothing else");
        assert!(text.lines().all(|line| line.len() <= 998 && !line.starts_with("From ")));
    }
}

#[test]
fn what_postfix_takes_is_marked_and_archived_and_arrives_with_the_signed_bytes_untouched() {
    let postfix = Postfix::shared();
    let site = Site::new(programs!()).relay(postfix.port()).build();
    site.insert_samples();
    site.generator(&["run", "--all"]).expect(1);
    let (sidecars, before) = (site.sidecars(), bytes_by_message_id(&site.listed("new")));

    let started = Timestamp::now();
    let run = site.deliverer(&["run", "--once"]).expect(0).without("WARN").without("ERROR");
    run.line("INFO", &["done", &format!("relayed={0} finished={0}", sidecars.len())]);

    // The database knows of each mail's directives, and of no other's.
    for sidecar in &sidecars {
        let ticket = sidecar["ticket"].as_str().unwrap();
        let marked: Vec<i64> = site.column(&format!(
            "SELECT d.id FROM directives d JOIN sent s ON s.id = d.sent_id
              WHERE s.intelmq_ticket = '{ticket}' ORDER BY d.id"
        ));
        assert_eq!(marked, directive_ids(sidecar));
    }
    let mut tickets: Vec<&str> =
        sidecars.iter().map(|sidecar| sidecar["ticket"].as_str().unwrap()).collect();
    tickets.sort_unstable();
    assert_eq!(site.sent_tickets(), tickets);
    let unsent = "SELECT DISTINCT event_data_format FROM directives WHERE sent_id IS NULL";
    assert_eq!(site.column::<String>(unsent), ["login-attack_0.1.2"]);
    for sent_at in site.column::<Timestamp>("SELECT sent_at FROM sent") {
        assert!(started - 1.second() <= sent_at && sent_at <= Timestamp::now());
    }

    // The archive holds what was in new/, and there is nothing else.
    let archive = site.listed("sent/cur");
    let mut others = site.files();
    others.retain(|file| !file.starts_with("sent/cur/#"));
    assert_eq!(others, [""; 0]);
    assert_eq!(bytes_by_message_id(&archive), before);

    // Each receiver has the same signed bytes, and sees a good signature.
    let mut to: Vec<String> = (sidecars.iter())
        .flat_map(|sidecar| sidecar["envelope"]["to"].as_array().unwrap())
        .map(|address| address.as_str().unwrap().to_owned())
        .collect();
    let delivered = postfix.wait_for_mails_of(site.domain(), to.len());
    let mut delivered_to = Vec::new();
    for file in &delivered {
        let bytes = fs::read(file).unwrap();
        let message_id = mail::header(&bytes, "Message-ID").unwrap();
        assert_eq!(mail::signed_part(&bytes), mail::signed_part(&before[&message_id]));
        delivered_to.push(mail::header(&bytes, "X-Original-To").unwrap());
    }
    to.sort();
    delivered_to.sort();
    assert_eq!(delivered_to, to);
    for read in mail::read(&delivered, Some(site.gnupg().home())) {
        assert_eq!(read.signed_by.as_deref(), Some(site.gnupg().fingerprint()), "{}", read.gpg);
        assert_eq!(read.defects, [""; 0]);
    }

    let run = site.deliverer(&["run", "--once"]).expect(0);
    run.line("INFO", &["done", "relayed=0"]);
}

#[test]
fn the_service_relays_what_the_generator_writes_as_soon_as_it_is_there() {
    let relay = ScriptedRelay::start();
    let site = Site::new(programs!()).relay(relay.port()).build();
    let service = site.start_deliverer(&["run"]);
    service.wait_for("delivering");
    for round in 1..=3 {
        site.insert(&events::groups(2));
        site.generator(&["run", "--all"]).expect(0);
        let written = Instant::now();
        relay.wait_for_mails(2 * round);
        // It would look by itself only every half a minute.
        assert!(written.elapsed() < Duration::from_secs(10), "{:?}", written.elapsed());
        wait_until("they are finished", || site.listed("sidecar").is_empty());
    }
    service.terminate().expect(0).without("WARN").without("ERROR");
    assert_eq!((site.pending(), site.sent_tickets().len()), (0, 6));
}

#[test]
fn mutt_lists_the_outbox_and_shows_a_mail_with_a_good_signature() {
    let site = Site::new(programs!()).build();
    site.insert(&events::groups(2));
    site.generator(&["run", "--all"]).expect(0);
    let files = site.files();
    let settings = format!(
        "set crypt_use_gpgme=yes crypt_verify_sig=yes mbox_type=Maildir folder={} sleep_time=0\n",
        site.outbox().display()
    );
    fs::write(site.folder().join("muttrc"), settings).unwrap();

    let mutt = Terminal::start(
        site.folder(),
        &format!(
            "env HOME={0} GNUPGHOME={0}/gnupg LC_ALL=C.UTF-8 mutt -n -F {0}/muttrc -R -f {1}",
            site.folder().display(),
            site.outbox().display()
        ),
    );
    let index = mutt.wait_for("-10000002");
    assert!(index.contains("CB-Report#") && index.contains("-10000001"), "{index}");
    mutt.press("Enter");
    let pager = mutt.wait_for("Good signature from: CERT Example");
    assert!(pager.contains("Dear Sir or Madam"), "{pager}");
    mutt.press("q");
    mutt.wait_for("Msgs:2");
    mutt.press("x");
    assert_eq!(site.files(), files, "looking changes nothing");
}

#[test]
fn an_outbox_that_is_not_there_is_made_by_init_and_by_nothing_else() {
    let mut site = Site::new(programs!()).unsigned().build();
    site.insert(&events::groups(1));
    // As when its file system is not mounted: an empty one instead would claim nothing.
    site.set("outbox.path", json!(site.folder().join("elsewhere")));
    for run in [site.generator(&["run", "--all"]), site.deliverer(&["run", "--once"])] {
        run.expect(75).line("ERROR", &["elsewhere", "mounted?", "outbox-generator init"]);
    }
    assert!(!site.outbox().exists());

    site.generator(&["init"]).expect(0);
    site.generator(&["run", "--all"]).expect(0);
    let files = site.files();
    assert_eq!(files, ["new/#1", "sidecar/#1.json"]);
    site.generator(&["init"]).expect(0);
    assert_eq!(site.files(), files);
}

// ---- Never twice ----

/// Events arrive, the generator runs again and again, and so does the deliverer, now as a service
/// that is told to stop and now once; each directive's event is in exactly one mail that the relay
/// got.
#[test]
fn generator_and_deliverer_against_each_other_put_no_directive_into_two_mails() {
    let relay = ScriptedRelay::start();
    let site = Site::new(programs!()).relay(relay.port()).build();
    let mut random = Random::seeded(1);
    let over = AtomicBool::new(false);
    let mut inserted = 0;
    thread::scope(|scope| {
        let over = &over;
        let site = &site;
        scope.spawn(move || {
            while !over.load(Ordering::Relaxed) {
                site.generator(&["run", "--all"]).expect(0).without("ERROR");
            }
        });
        let mut other = random.clone();
        scope.spawn(move || {
            while !over.load(Ordering::Relaxed) {
                if other.below(2) == 0 {
                    site.deliverer(&["run", "--once"]).expect(0).without("WARN");
                } else {
                    let service = site.start_deliverer(&["run"]);
                    service.wait_for("delivering");
                    thread::sleep(other.moment(Duration::from_secs(1)));
                    service.terminate().expect(0).without("WARN").without("ERROR");
                }
            }
        });
        let until = Instant::now() + Duration::from_secs(12);
        while Instant::now() < until {
            let arriving: Vec<Value> = (0..=random.below(4))
                .map(|_| {
                    inserted += 1;
                    let to = recipient(usize::try_from(random.below(5)).unwrap());
                    marked(Directive::to(&to).event(), inserted)
                })
                .collect();
            site.insert(&arriving);
            thread::sleep(random.moment(Duration::from_millis(100)));
        }
        over.store(true, Ordering::Relaxed);
    });
    site.generator(&["run", "--all"]).expect(0);
    site.deliverer(&["run", "--once"]).expect(0);

    assert_eq!(site.pending(), 0);
    assert_eq!(site.files().len(), site.listed("sent/cur").len());
    println!("{inserted} directives in {} mails", relay.received().len());
    assert_each_mark_once(&site, &relay.received(), inserted);
}

#[test]
fn a_mail_that_is_marked_while_the_generator_looks_around_is_not_written_again() {
    let relay = ScriptedRelay::start();
    let site = Site::new(programs!()).relay(relay.port()).unsigned().build();
    site.insert(&events::groups(2));
    site.generator(&["run", "--all"]).expect(0);
    site.insert([&Directive::to("third@isp.example").event()]);
    // Half a second passes before it sees the sidecars. Were that after it asked the database what
    // is pending, the deliverer could have them marked and gone in between. When it has asked, it
    // waits for its ticket.
    let held = site.hold("SELECT FROM ticket_day FOR UPDATE");
    let sidecars = site.outbox().join("sidecar").display().to_string();
    let slow = ["-P", &sidecars, "-e", "trace=openat", "-e", "inject=openat:delay_enter=500000"];
    let generator = site.start_under_strace(Program::Generator, &["run", "--all"], &slow);
    let asks = "SELECT pid FROM pg_locks JOIN pg_database d ON d.oid = database
                 WHERE locktype = 'advisory' AND datname = current_database()";
    wait_until("it asks the database", || !site.column::<i32>(asks).is_empty());
    site.deliverer(&["run", "--once"]).expect(0);
    drop(held);
    generator.finish().expect(0).line("INFO", &["done", "mails=1"]);
    let files = ["new/#3", "sent/cur/#1:2,S", "sent/cur/#2:2,S", "sidecar/#3.json"];
    assert_eq!(site.files(), files);
}

#[test]
fn a_second_generator_at_once_notices_and_leaves_all_to_the_first() {
    let relay = ScriptedRelay::start();
    let mut site = Site::new(programs!()).relay(relay.port()).build();
    site.insert(&events::groups(3));
    // Who holds this row keeps the first from drawing tickets, when it holds all its locks.
    let held = site.hold("SELECT FROM ticket_day FOR UPDATE");
    let first = site.start_generator(&["run", "--all"]);
    wait_until("the first waits for its tickets", || site.waits(Program::Generator, "Lock"));

    let run = site.generator(&["run", "--all"]).expect(0);
    run.line("INFO", &["another outbox-generator"]);
    // On another host it would have another outbox and the same database.
    let outbox = site.outbox();
    site.set("outbox.path", json!(site.folder().join("other")));
    site.generator(&["init"]).expect(0);
    let run = site.generator(&["run", "--all"]).expect(0);
    run.line("INFO", &["another outbox-generator"]);
    assert_eq!(site.files(), [""; 0]);
    site.set("outbox.path", json!(outbox));

    // Mailgen, which asks for all that is pending and does not wait, is turned away as well.
    let mut mailgen = site.database().connect_as(GENERATOR_ROLE);
    let refused =
        mailgen.query("SELECT FROM directives WHERE sent_id IS NULL FOR UPDATE NOWAIT", &[]);
    let code = refused.unwrap_err().code().cloned();
    assert_eq!(code, Some(postgres::error::SqlState::LOCK_NOT_AVAILABLE));

    drop(held);
    first.finish().expect(0).line("INFO", &["done", "mails=3"]);
    site.generator(&["run", "--all"]).expect(0).line("INFO", &["done", "mails=0"]);
    site.deliverer(&["run", "--once"]).expect(0);
    assert_eq!((relay.received().len(), site.pending()), (3, 0));
}

#[test]
fn while_mailgen_holds_what_is_pending_the_generator_leaves_it_alone() {
    let site = Site::new(programs!()).build();
    site.insert(&events::groups(2));
    let mut mailgen = site.database().connect_as(GENERATOR_ROLE);
    let mut run = mailgen.transaction().unwrap();
    run.execute("SELECT FROM directives WHERE sent_id IS NULL FOR UPDATE NOWAIT", &[]).unwrap();
    site.generator(&["run", "--all"]).expect(0).line("WARN", &["Mailgen"]);
    assert_eq!(site.files(), [""; 0]);
    run.rollback().unwrap();
    site.generator(&["run", "--all"]).expect(0).line("INFO", &["done", "mails=2"]);
}

#[test]
fn the_deliverer_marks_while_a_generator_holds_what_is_pending() {
    let relay = ScriptedRelay::start();
    let site = Site::new(programs!()).relay(relay.port()).build();
    site.insert(&events::groups(2));
    site.generator(&["run", "--all"]).expect(0);
    site.insert(&events::groups(3));
    let held = site.hold("SELECT FROM ticket_day FOR UPDATE");
    let generator = site.start_generator(&["run", "--all"]);
    wait_until("it waits for its tickets", || site.waits(Program::Generator, "Lock"));
    site.deliverer(&["run", "--once"]).expect(0);
    assert_eq!(site.sent_tickets().len(), 2);
    drop(held);
    generator.finish().expect(0).line("INFO", &["done", "mails=3"]);
}

// ---- What makes a mail ----

#[test]
fn without_always_sign_mails_are_unsigned_and_no_key_is_needed() {
    let site = Site::new(programs!()).unsigned().build();
    site.insert([
        &Directive::to("a@isp.example").event(),
        &Directive::to("b@isp.example").format("text", "csv_attachment").event(),
    ]);
    site.generator(&["run", "--all"]).expect(0);
    let mails = mail::read(&site.listed("new"), None);
    assert_eq!(mails[0].content_type, "text/plain");
    assert!(mails[0].text.contains("\"64496\",\"192.0.2.1\""), "{}", mails[0].text);
    assert_eq!(mails[1].content_type, "multipart/mixed");
    let (name, csv) = mails[1].attachment.as_ref().unwrap();
    assert_eq!(name, "events.csv");
    assert!(csv.contains("\"64496\",\"192.0.2.1\""), "{csv}");
    assert!(mails.iter().all(|mail| mail.signed_by.is_none() && mail.defects.is_empty()));
}

#[test]
fn a_copy_goes_to_colleagues_with_the_same_ticket_and_marks_nothing() {
    let relay = ScriptedRelay::start();
    let copies = include_str!("../../templates/formats/examples/01-constituency-copies.toml");
    let site = Site::new(programs!())
        .relay(relay.port())
        .template("formats/01-constituency-copies.toml", copies)
        .build();
    let of = |group: &str, to: &str| Directive::to(to).aggregate("recipient_group", group).event();
    site.insert([&of("Government", "gov@isp.example"), &of("Other", "other@isp.example")]);
    let run = site.generator(&["run", "--all"]).expect(0);
    run.line("INFO", &["done", "mails=2", "copies=1"]);
    let expected =
        ["new/#1", "new/#1", "new/#2", "sidecar/#1.json", "sidecar/#1.json", "sidecar/#2.json"];
    assert_eq!(site.files(), expected);
    let copy = site.sidecar_to("internal-gov@cert.example");
    let mail = site.sidecar_to("gov@isp.example");
    assert_eq!(copy["ticket"], mail["ticket"]);
    assert_ne!(copy["message_id"], mail["message_id"]);
    assert_eq!((&copy["mark_sent"], &copy["directive_ids"]), (&json!(false), &json!([])));

    // The copy arrives alone: nothing is sent by that.
    site.flag(&site.mail_to("gov@isp.example"), "F");
    site.flag(&site.mail_to("other@isp.example"), "F");
    site.deliverer(&["run", "--once"]).expect(0);
    assert_eq!((site.pending(), site.sent_tickets().len()), (2, 0));
    let kept =
        ["cur/#1:2,F", "cur/#2:2,F", "sent/cur/#1:2,S", "sidecar/#1.json", "sidecar/#2.json"];
    assert_eq!(site.files(), kept);
    assert_eq!(relay.received()[0].to, ["internal-gov@cert.example"]);
    let to = mail::header(&relay.received()[0].bytes, "To");
    assert_eq!(to.as_deref(), Some("<gov@isp.example>"), "the colleague sees whom it went to");

    for file in site.listed("cur") {
        site.flag(&file, "");
    }
    site.deliverer(&["run", "--once"]).expect(0);
    assert_eq!((site.pending(), site.sent_tickets().len(), relay.received().len()), (0, 2, 3));
}

#[test]
fn a_copy_that_is_refused_is_held_and_its_mail_is_sent_all_the_same() {
    let relay = ScriptedRelay::start();
    let copies = "[[copy]]\nenvelope_to = \"gone@cert.example\"\n\
                  [[copy]]\nenvelope_to = \"slow@cert.example\"\ndata = \"attachment\"\n";
    let site = Site::new(programs!())
        .relay(relay.port())
        .template("formats/01-copies.toml", copies)
        .build();
    site.insert([&Directive::to("abuse@isp.example").event()]);
    site.generator(&["run", "--all"]).expect(0);
    relay.always(At::Rcpt, "gone@", Act::Say("550 5.1.1 gone"));
    relay.always(At::Rcpt, "slow@", Act::Say("450 4.2.0 later"));
    site.deliverer(&["run", "--once"]).expect(1);
    assert_eq!((site.pending(), site.sent_tickets().len()), (0, 1));
    let states: Vec<_> = site.records().iter().map(|record| record["state"].clone()).collect();
    assert!(states.contains(&json!("rejected")) && states.contains(&json!("deferred")));
    assert_eq!((site.listed("sent/cur").len(), site.sidecars().len()), (1, 2));

    // Whatever becomes of the copies later, the mail stays sent.
    site.deliverer(&["withdraw", "--all", "--regenerate"]).expect(0);
    assert_eq!((site.pending(), site.sent_tickets().len(), site.sidecars().len()), (0, 1, 0));
}

#[test]
fn a_recipients_large_number_of_an_autonomous_system_is_whole_in_the_csv() {
    let site = Site::new(programs!()).unsigned().build();
    let mut event =
        Directive::to("a@isp.example").aggregate("source.asn", 4_200_393_735_u64).event();
    event["source.asn"] = json!(4_200_393_735_u64);
    site.insert([&event]);
    site.generator(&["run", "--all"]).expect(0);
    let mails = mail::read(&site.listed("new"), None);
    assert!(mails[0].text.contains("\"4200393735\",\"192.0.2.1\""), "{}", mails[0].text);
    let group = &site.sidecars()[0]["group"];
    assert_eq!(group["aggregate_identifier"], json!({"source.asn": "4200393735"}));
}

#[test]
fn extra_can_be_json_or_jsonb() {
    const FORMAT: &str = r#"
[[format]]
name = "what is in extra"
when = { notification_format = "extra" }
data = "attachment"
columns = ["source.ip", "extra.tag", "extra.count", "extra.list", "extra.none", "extra.missing"]
subject = "Report"
body = "See there.\n"
"#;
    for kind in ["json", "jsonb"] {
        let site =
            Site::new(programs!()).unsigned().template("formats/05-extra.toml", FORMAT).build();
        site.sql(&format!("ALTER TABLE events ALTER extra TYPE {kind} USING extra::{kind}"));
        let mut event = Directive::to("a@isp.example").format("extra", "csv").event();
        event["extra"]["tag"] = json!("a \"b\", ä");
        event["extra"]["count"] = json!(12);
        event["extra"]["list"] = json!(["x", 1]);
        event["extra"]["none"] = json!(null);
        site.insert([&event]);
        site.generator(&["run", "--all"]).expect(0);
        let mails = mail::read(&site.listed("new"), None);
        let (_, csv) = mails[0].attachment.as_ref().unwrap();
        let expected = "\"source.ip\",\"tag\",\"count\",\"list\",\"none\",\"missing\"\r\n\
                        \"192.0.2.1\",\"a \"\"b\"\", ä\",\"12\",\"[\"\"x\"\",1]\",\"\",\"\"\r\n";
        assert_eq!(csv.replace(", 1]", ",1]"), expected, "{kind}");
    }
}

// ---- What is due ----

#[test]
fn a_directive_that_wants_no_notification_gets_none() {
    let site = Site::new(programs!()).build();
    site.insert([&Directive::to("nobody@isp.example").interval(-1).event()]);
    site.generator(&["run", "--all"]).expect(0).line("INFO", &["done", "mails=0", "postponed=0"]);
    assert_eq!(site.files(), [""; 0]);
    assert_eq!(site.column::<i64>("SELECT count(*) FROM directives"), [0]);
}

#[test]
fn a_mail_in_the_outbox_counts_as_the_groups_last_notification() {
    let relay = ScriptedRelay::start();
    let site = Site::new(programs!()).relay(relay.port()).build();
    let daily = |to: &str, asn: u32| {
        Directive::to(to)
            .template("malware-infection_provider")
            .format("malware-infection", "malware-infection_csv_inline")
            .aggregate("source.asn", asn)
            .interval(86_400)
    };
    let run = |mails: usize, postponed: usize| {
        let (mails, postponed) = (format!("mails={mails}"), format!("postponed={postponed}"));
        let run = site.generator(&["run", "--all"]).expect(0);
        run.line("INFO", &["done", &mails, &postponed, "errors=0"]);
    };
    site.insert([&daily("a@isp.example", 64496).event()]);
    run(1, 0);

    // More of the same group waits: while the mail is queued, held, or withdrawn by a person.
    site.insert([&daily("a@isp.example", 64496).event()]);
    run(0, 1);
    site.flag(&site.mail_to("a@isp.example"), "F");
    run(0, 1);
    site.flag(&site.mail_to("a@isp.example"), "T");
    run(0, 1);
    site.flag(&site.mail_to("a@isp.example"), "S");

    // Another group does not: another address, network, format, or one that asks for no interval.
    site.insert([
        &daily("b@isp.example", 64496).event(),
        &daily("a@isp.example", 64497).event(),
        &daily("a@isp.example", 64496).template("generic").event(),
        &Directive::to("c@isp.example").event(),
    ]);
    run(4, 1);
    site.insert([&Directive::to("c@isp.example").event()]);
    run(1, 1);

    // Relayed and marked, it still counts; and the interval is the longest that one of the group
    // asks for.
    site.deliverer(&["run", "--once"]).expect(0);
    assert_eq!((site.sent_tickets().len(), site.listed("sidecar").len()), (6, 0));
    run(0, 1);
    site.sql("UPDATE sent SET sent_at = now() - interval '23 hours 59 minutes'");
    run(0, 1);
    site.insert([&daily("a@isp.example", 64496).interval(2 * 86_400).event()]);
    site.sql("UPDATE sent SET sent_at = now() - interval '25 hours'");
    run(0, 1);
    site.sql("UPDATE sent SET sent_at = now() - interval '49 hours'");
    run(1, 0);
    assert_eq!(site.sidecars()[0]["directive_ids"].as_array().unwrap().len(), 2);
}

#[test]
fn an_additional_condition_speaks_of_directives_and_of_events_without_a_right_to_change_those() {
    let mut site = Site::new(programs!()).build();
    let of = |to: &str, feed: &str| {
        let mut event = Directive::to(to).event();
        event["feed.name"] = json!(feed);
        event
    };
    site.insert([&of("a@x.example", "A"), &of("a@y.example", "B"), &of("c@x.example", "B")]);
    let may = format!("SELECT has_table_privilege('{GENERATOR_ROLE}', 'events', 'UPDATE')");
    assert_eq!(site.column::<bool>(&may), [false]);
    let mut written = |condition: &str| -> Vec<String> {
        site.set("database.additional_directive_where", json!(condition));
        let before = site.listed("sidecar").len();
        site.generator(&["run", "--all"]).expect(0);
        let sidecars = site.sidecars();
        let to = sidecars[before..].iter().map(|sidecar| sidecar["envelope"]["to"][0].to_string());
        to.collect()
    };
    assert_eq!(written("events.\"feed.name\" = 'C'"), [""; 0]);
    assert_eq!(written("d3.recipient_address LIKE '%@y.example' -- ours"), ["\"a@y.example\""]);
    assert_eq!(written("events.\"feed.name\" = 'B'"), ["\"c@x.example\""]);
    assert_eq!(written("d3.medium = 'email' OR true"), ["\"a@x.example\""]);

    // One that is no SQL is told with its text, and nothing is written.
    site.insert(&events::groups(1));
    site.set("database.additional_directive_where", json!("d3.no_such_column = 1"));
    let run = site.generator(&["run", "--all"]);
    assert_ne!(run.status.code(), Some(0));
    run.line("ERROR", &["d3.no_such_column = 1"]);
}

#[test]
fn a_database_that_mailgen_made_and_used_is_worked_on_as_it_is() {
    let relay = ScriptedRelay::start();
    let database = Cluster::shared().mailgen_database();
    let daily = Directive::to("daily@isp.example")
        .template("malware-infection_provider")
        .format("malware-infection", "malware-infection_csv_inline")
        .aggregate("source.asn", 64496)
        .interval(86_400);
    let old = [daily.clone().event(), Directive::to("old@isp.example").event()];
    database.insert_events(&old);
    database
        .connect()
        .batch_execute(
            "INSERT INTO sent (intelmq_ticket, sent_at) VALUES ('20261120-10000001', now() - interval '1 hour'),
                                                               ('20261120-10000002', now() - interval '1 hour');
             UPDATE directives SET sent_id = id;
             SELECT setval('intelmq_ticket_seq', 10000002)",
        )
        .unwrap();
    // Of the old time, and pending.
    database.insert_events([&daily.clone().event(), &Directive::to("waiting@isp.example").event()]);

    database.load_sql(&sql_file("notifications.sql")).unwrap();
    let site = Site::new(programs!()).database(database).relay(relay.port()).build();
    site.insert([
        &Directive::to("old@isp.example").event(),
        &Directive::to("new@isp.example").event(),
    ]);
    let run = site.generator(&["run", "--all"]).expect(0);
    run.line("INFO", &["done", "mails=3", "postponed=1", "errors=0"]);
    site.deliverer(&["run", "--once"]).expect(0).without("WARN");
    let to: BTreeSet<String> = relay.received().iter().map(|mail| mail.to[0].clone()).collect();
    let expected = ["new@isp.example", "old@isp.example", "waiting@isp.example"];
    assert_eq!(to, expected.map(str::to_owned).into());
    assert_eq!((site.pending(), site.sent_tickets().len()), (1, 5));
    assert_eq!(site.generator(&["check"]).expect(0).lines("ERROR"), [""; 0]);
}

// ---- Tickets ----

#[test]
fn a_new_day_begins_its_numbers_anew_and_the_same_day_goes_on_with_them() {
    let site = Site::new(programs!()).build();
    site.sql(
        "UPDATE ticket_day SET initialized_for_day = (now() AT TIME ZONE 'UTC')::date - 1;
         SELECT setval('intelmq_ticket_seq', 10000500)",
    );
    site.insert(&events::groups(2));
    site.generator(&["run", "--all"]).expect(0);
    site.insert([&Directive::to("third@isp.example").event()]);
    site.generator(&["run", "--all"]).expect(0);
    let today: String =
        site.column("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD')").remove(0);
    let tickets: Vec<Value> =
        site.sidecars().iter().map(|sidecar| sidecar["ticket"].clone()).collect();
    let expected = [1, 2, 3].map(|number| json!(format!("{today}-1000000{number}")));
    assert_eq!(tickets, expected);
}

#[test]
fn a_ticket_day_in_the_future_stops_the_run_before_a_number_could_repeat() {
    let site = Site::new(programs!()).build();
    site.sql("UPDATE ticket_day SET initialized_for_day = (now() AT TIME ZONE 'UTC')::date + 1");
    site.insert(&events::groups(2));
    let run = site.generator(&["run", "--all"]);
    assert!(!run.status.success(), "{run}");
    run.line("ERROR", &["ticket_day", "in the future"]);
    assert_eq!(site.files(), [""; 0]);
    let drawn = "SELECT is_called FROM intelmq_ticket_seq";
    assert_eq!(site.column::<bool>(drawn), [false]);
    assert_eq!(site.pending(), 2);
}

// ---- What the tests above are made of ----

/// Directives that one mail answers.
struct Group {
    format: String,
    data: String,
    directives: Vec<i64>,
    events: Vec<i64>,
}

/// What Mailgen would ask the database for.
fn groups(site: &Site) -> Vec<Group> {
    let rows = site.database().connect().query(
        "SELECT notification_format, event_data_format, array_agg(id ORDER BY id), array_agg(events_id ORDER BY id)
           FROM directives WHERE sent_id IS NULL AND medium = 'email' AND endpoint = 'source'
          GROUP BY recipient_address, template_name, notification_format, event_data_format,
                   aggregate_identifier",
        &[],
    );
    let group = |row: &postgres::Row| Group {
        format: row.get(0),
        data: row.get(1),
        directives: row.get(2),
        events: row.get(3),
    };
    rows.unwrap().iter().map(group).collect()
}

fn directive_ids(sidecar: &Value) -> Vec<i64> {
    let ids = sidecar["directive_ids"].as_array().expect("it is a list");
    ids.iter().map(|id| id.as_i64().expect("it is a number")).collect()
}

fn bytes_by_message_id(files: &[PathBuf]) -> BTreeMap<String, Vec<u8>> {
    let named = |file: &PathBuf| {
        let bytes = fs::read(file).expect("failed to read a mail");
        (mail::header(&bytes, "Message-ID").expect("it has one"), bytes)
    };
    let mails: BTreeMap<_, _> = files.iter().map(named).collect();
    assert_eq!(mails.len(), files.len(), "no Message-ID twice");
    mails
}

/// An event that can be found again in a mail.
fn marked(mut event: Value, number: usize) -> Value {
    event["destination.fqdn"] = json!(mark(number));
    event
}

fn mark(number: usize) -> String {
    format!("mark-{number:06}.example")
}

/// Each of the events from 1 to `count` is in exactly one mail, and that is the one by which its
/// directive was sent.
fn assert_each_mark_once(site: &Site, mails: &[Received], count: usize) {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for mail in mails {
        // Quoted-printable breaks lines anywhere.
        let text = String::from_utf8_lossy(&mail.bytes).replace("=\r\n", "");
        for piece in text.split("mark-").skip(1) {
            found.entry(format!("mark-{}", &piece[..14])).or_default().push(mail.ticket());
        }
    }
    let mut expected: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let rows = site.database().connect().query(
        "SELECT events.\"destination.fqdn\", intelmq_ticket
           FROM directives JOIN events ON events.id = events_id JOIN sent ON sent.id = sent_id",
        &[],
    );
    for row in rows.unwrap() {
        expected.entry(row.get(0)).or_default().push(row.get(1));
    }
    assert_eq!(expected.len(), count);
    assert_eq!(found, expected);
}

/// A terminal with a program in it. It ends when this is dropped.
struct Terminal {
    socket: PathBuf,
}

impl Terminal {
    fn start(folder: &Path, command: &str) -> Self {
        let terminal = Self { socket: folder.join("tmux") };
        watchdog::at_end(&format!("tmux -S {} kill-server", terminal.socket.display()));
        terminal.tmux(&["-f", "/dev/null", "new-session", "-d", "-x", "120", "-y", "60", command]);
        terminal
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(&self.socket).args(arguments).env("LC_ALL", "C.UTF-8");
        Running::start(&mut command).finish().expect(0).stdout
    }

    fn press(&self, key: &str) {
        self.tmux(&["send-keys", key]);
    }

    /// Waits until the screen shows these words, and gives all of it.
    fn wait_for(&self, words: &str) -> String {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let screen = self.tmux(&["capture-pane", "-p"]);
            if screen.contains(words) {
                return screen;
            }
            assert!(Instant::now() < deadline, "no {words:?} on the screen:\n{screen}");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(&self.socket).arg("kill-server");
        Running::start(&mut command).finish();
    }
}
