//! The connection against a scripted relay: every phase, every way in which a relay can misbehave.

use std::{
    thread,
    time::{Duration, Instant},
};

use lettre::transport::smtp::{authentication::Credentials, extension::ClientId};
use outbox_config::SmtpTls as Tls;

use super::{
    authority::Authority,
    scripted::{Action, Moment, Script, ScriptedRelay, base64, say, unstuff},
    *,
};

const MESSAGE: &[u8] = b"Subject: test\r\n\r\nHello\r\n";

/// Long enough that a busy machine doesn't reach them.
fn patient() -> Deadlines {
    let long = Duration::from_secs(20);
    Deadlines {
        connect: long,
        greeting: long,
        command: long,
        envelope: long,
        recipient: Duration::ZERO,
        data: long,
        data_rate: 500,
        final_dot: long,
        quit: Duration::from_millis(300),
    }
}

/// For relays that never answer.
fn impatient() -> Deadlines {
    let short = Duration::from_millis(300);
    Deadlines {
        greeting: short,
        command: short,
        data: short,
        final_dot: short,
        data_rate: u32::MAX,
        ..patient()
    }
}

fn to(relay: &ScriptedRelay) -> Relay {
    Relay {
        host: "127.0.0.1".into(),
        port: relay.port(),
        tls: Tls::None,
        ca_file: None,
        credentials: None,
        hello_name: ClientId::Domain("client.example".into()),
        deadlines: patient(),
    }
}

fn envelope(to: &[&str]) -> Envelope {
    let to = to.iter().map(|to| to.parse().unwrap()).collect();
    Envelope::new(Some("from@cert.example".parse().unwrap()), to).unwrap()
}

fn open(relay: &ScriptedRelay) -> Connection {
    Connection::open(&to(relay)).unwrap()
}

fn try_open(relay: &Relay, deadlines: &Deadlines) -> Result<Connection, RelayTrouble> {
    Connection::open(&Relay { deadlines: deadlines.clone(), ..relay.clone() })
}

fn send(connection: &mut Connection, to: &[&str]) -> Attempt {
    connection.send(&envelope(to), MESSAGE, &SendOptions::default())
}

/// `accepted`, `deferred 450`, …: one word a recipient.
fn outcomes(attempt: &Attempt) -> Vec<String> {
    let word = |recipient: &Recipient| match &recipient.outcome {
        Outcome::Open => "open".into(),
        Outcome::Accepted(reply) => format!("accepted {}", reply.code()),
        Outcome::Deferred(reply) => format!("deferred {}", reply.code()),
        Outcome::Rejected(reply) => format!("rejected {}", reply.code()),
        Outcome::Uncertain(None) => "uncertain".into(),
        Outcome::Uncertain(Some(reply)) => format!("uncertain {}", reply.code()),
    };
    attempt.recipients.iter().map(word).collect()
}

/// `Mail TimedOut`, …; nothing if there is no trouble.
fn trouble(trouble: Option<&RelayTrouble>) -> String {
    let Some(trouble) = trouble else { return String::new() };
    let cause = match &trouble.cause {
        Cause::Unreachable(_) => "Unreachable".into(),
        Cause::Lost(_) => "Lost".into(),
        Cause::TimedOut => "TimedOut".into(),
        Cause::Answered(reply) => reply.code().to_string(),
        Cause::Malformed(_) => "Malformed".into(),
        Cause::OutOfStep(_) => "OutOfStep".into(),
        Cause::Injected => "Injected".into(),
        Cause::Tls(_) => "Tls".into(),
        Cause::NotOffered(_) => "NotOffered".into(),
        Cause::PasswordInTheClear => "PasswordInTheClear".into(),
    };
    let stale = if trouble.stale { " stale" } else { "" };
    format!("{:?} {cause}{stale}", trouble.phase)
}

/// Every way to answer at a phase whose right answer is `code`, by name.
fn answers(code: u16) -> Vec<(&'static str, Action)> {
    let mut non_utf8 = format!("{code} gr").into_bytes();
    non_utf8.extend_from_slice(b"\xfc\xdfe\r\n");
    vec![
        ("good", say(format!("{code} fine\r\n"))),
        ("bare code", say(format!("{code}\r\n"))),
        ("bare LF", say(format!("{code} fine\n"))),
        ("non-UTF-8", say(non_utf8)),
        ("10 kB line", say(format!("{code} {}\r\n", "x".repeat(10_000)))),
        ("multi-line", say(format!("{code}-one\r\n{code}-two\r\n{code} three\r\n"))),
        ("4xx", say("450 4.7.1 later\r\n")),
        ("5xx", say("550 5.7.1 never\r\n")),
        ("421", say("421 4.3.2 closing\r\n")),
        ("drop", Action::Drop),
        ("reset", Action::Reset),
        ("garbage", say("hello?\r\n")),
        ("two codes", say(format!("{code}-fine\r\n550 not\r\n"))),
        ("extra", say(format!("{code} fine\r\n250 extra\r\n"))),
        ("hang", Action::Hang),
        ("dribble", Action::Dribble(format!("{code}-slow\r\n").into_bytes())),
    ]
}

const TOLERATED: [&str; 6] =
    ["good", "bare code", "bare LF", "non-UTF-8", "10 kB line", "multi-line"];

fn deadlines_for(answer: &str) -> Deadlines {
    if matches!(answer, "hang" | "dribble") { impatient() } else { patient() }
}

/// A check's name, and the check: it gives what it found, and what was expected.
type Row = (String, Box<dyn FnOnce() -> (String, String) + Send>);

/// Runs a check for each answer, all at the same time, and reports all that differ.
fn check_all(rows: Vec<Row>) {
    let running: Vec<_> = rows.into_iter().map(|(name, row)| (name, thread::spawn(row))).collect();
    let wrong: Vec<String> = running
        .into_iter()
        .filter_map(|(name, row)| match row.join() {
            Ok((found, expected)) if found == expected => None,
            Ok((found, expected)) => {
                Some(format!("{name}: found {found:?}, expected {expected:?}"))
            }
            Err(_) => Some(format!("{name}: panicked")),
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// How a phase of [`Connection::open`] ends, for each answer.
fn check_opening(
    moment: Moment,
    code: u16,
    phase: &'static str,
    script: &Script,
    prepare: impl Fn(&mut Relay),
) {
    let mut rows: Vec<Row> = Vec::new();
    for (answer, action) in answers(code) {
        let expected = match answer {
            answer if TOLERATED.contains(&answer) => String::new(),
            "4xx" => format!("{phase} 450"),
            // HELO is tried then, and taken.
            "5xx" if moment == Moment::Ehlo => String::new(),
            "5xx" => format!("{phase} 550"),
            "421" => format!("{phase} 421"),
            "drop" | "reset" => format!("{phase} Lost"),
            "garbage" | "two codes" => format!("{phase} Malformed"),
            "hang" | "dribble" => format!("{phase} TimedOut"),
            "extra" if moment == Moment::Greeting => "Hello OutOfStep".into(),
            "extra" if moment == Moment::StartTls => "StartTls Injected".into(),
            "extra" => "Mail OutOfStep".into(),
            other => panic!("{other}"),
        };
        let server = ScriptedRelay::start(script.clone().at(moment, action));
        let mut relay = to(&server);
        prepare(&mut relay);
        let row = move || {
            let began = Instant::now();
            let result = try_open(&relay, &deadlines_for(answer));
            let found = match result {
                Ok(mut connection) => {
                    trouble(send(&mut connection, &["a@x.example"]).trouble.as_ref())
                }
                Err(why) => trouble(Some(&why)),
            };
            assert!(began.elapsed() < Duration::from_secs(5), "the deadline was 0.3 s");
            drop(server);
            // The reset may be here before we are told of the connection.
            let early = found == "Connect Unreachable" && expected == "Greeting Lost";
            (if early { expected.clone() } else { found }, expected)
        };
        rows.push((format!("{moment:?}, {answer}"), Box::new(row)));
    }
    check_all(rows);
}

#[test]
fn whatever_goes_wrong_at_the_greeting_is_the_relays() {
    check_opening(Moment::Greeting, 220, "Greeting", &Script::new(), |_| {});
}

#[test]
fn whatever_goes_wrong_at_ehlo_is_the_relays() {
    check_opening(Moment::Ehlo, 250, "Hello", &Script::new(), |_| {});
}

#[test]
fn whatever_goes_wrong_at_starttls_is_the_relays() {
    let folder = tempfile::tempdir().unwrap();
    let ca_file = folder.path().join("ca.pem");
    let authority = Authority::new();
    authority.write(&ca_file);
    let script = Script::new().start_tls(authority.server("127.0.0.1"));
    check_opening(Moment::StartTls, 220, "StartTls", &script, |relay| {
        relay.tls = Tls::StartTls;
        relay.ca_file = Some(ca_file.clone());
    });
}

#[test]
fn whatever_goes_wrong_at_auth_is_the_relays() {
    let script = Script::new().offers("AUTH PLAIN LOGIN").login("me", "secret");
    check_opening(Moment::Auth, 235, "Auth", &script, |relay| {
        relay.credentials = Some(Credentials::new("me".into(), "secret".into()));
    });
}

#[test]
fn whatever_goes_wrong_at_auth_login_is_the_relays() {
    let script = Script::new().offers("AUTH LOGIN").login("me", "secret");
    let credentials = |relay: &mut Relay| {
        relay.credentials = Some(Credentials::new("me".into(), "secret".into()));
    };
    check_opening(Moment::AuthPassword, 235, "Auth", &script, credentials);
    for moment in [Moment::Auth, Moment::AuthUser] {
        let server = ScriptedRelay::start(script.clone().at(moment, say("235 already\r\n")));
        let mut relay = to(&server);
        credentials(&mut relay);
        assert_eq!(trouble(try_open(&relay, &patient()).err().as_ref()), "Auth 235");
    }
}

/// What becomes of a mail, for each answer at a phase of [`Connection::send`].
fn check_sending(
    moment: Moment,
    code: u16,
    phase: &'static str,
    after_extra: &'static str,
    script: &Script,
) {
    let last = moment == Moment::FinalDot;
    let undecided = if last { "uncertain" } else { "open" };
    let mut rows: Vec<Row> = Vec::new();
    for (answer, action) in answers(code) {
        let expected = match answer {
            answer if TOLERATED.contains(&answer) => "accepted 250, , true".into(),
            "4xx" => "deferred 450, , true".into(),
            "5xx" => "rejected 550, , true".into(),
            "421" => format!("open, {phase} 421, false"),
            "drop" | "reset" => format!("{undecided}, {phase} Lost, false"),
            "garbage" | "two codes" => format!("{undecided}, {phase} Malformed, false"),
            "hang" | "dribble" => format!("{undecided}, {phase} TimedOut, false"),
            "extra" if last => "accepted 250, , false".into(),
            "extra" => format!("open, {after_extra} OutOfStep, false"),
            other => panic!("{other}"),
        };
        let server = ScriptedRelay::start(script.clone().at(moment, action));
        let row = move || {
            let began = Instant::now();
            let mut connection = try_open(&to(&server), &deadlines_for(answer)).unwrap();
            let attempt = send(&mut connection, &["a@x.example"]);
            assert!(began.elapsed() < Duration::from_secs(5), "the deadline was 0.3 s");
            let trouble = trouble(attempt.trouble.as_ref());
            let found = format!("{}, {trouble}, {}", outcomes(&attempt).concat(), attempt.reusable);
            if attempt.reusable {
                let next = send(&mut connection, &["b@x.example"]);
                assert_eq!(outcomes(&next), ["accepted 250"], "after {answer}");
            }
            // The relay never had a mail that we call open.
            let taken = usize::from(outcomes(&attempt) != ["open"] && last);
            if !attempt.reusable && !matches!(answer, "421" | "extra") {
                assert_eq!(server.messages().len(), taken);
            }
            (found, expected)
        };
        rows.push((format!("{moment:?}, {answer}"), Box::new(row)));
    }
    check_all(rows);
}

#[test]
fn replies_to_mail_count_for_the_mail() {
    check_sending(Moment::Mail, 250, "Mail", "Rcpt", &Script::new());
    check_sending(Moment::Mail, 250, "Mail", "Data", &Script::new().offers("PIPELINING"));
}

#[test]
fn replies_to_rcpt_count_for_the_recipient() {
    check_sending(Moment::Rcpt, 250, "Rcpt", "Data", &Script::new());
    check_sending(Moment::Rcpt, 250, "Rcpt", "Data", &Script::new().offers("PIPELINING"));
}

#[test]
fn replies_to_data_count_for_the_mail() {
    check_sending(Moment::Data, 354, "Data", "Message", &Script::new());
    check_sending(Moment::Data, 354, "Data", "Message", &Script::new().offers("PIPELINING"));
}

#[test]
fn only_a_lost_reply_to_the_final_dot_leaves_a_mail_uncertain() {
    check_sending(Moment::FinalDot, 250, "FinalDot", "", &Script::new());
    check_sending(Moment::FinalDot, 250, "FinalDot", "", &Script::new().offers("PIPELINING"));
}

#[test]
fn only_250_accepts_a_mail() {
    for odd in ["354", "251", "220", "200", "334"] {
        let server =
            ScriptedRelay::start(Script::new().at(Moment::FinalDot, say(format!("{odd} odd\r\n"))));
        let attempt = send(&mut open(&server), &["a@x.example"]);
        assert_eq!(outcomes(&attempt), [format!("uncertain {odd}")]);
        assert!(attempt.is_uncertain() && !attempt.reusable);
        assert_eq!(trouble(attempt.trouble.as_ref()), format!("FinalDot {odd}"));
    }
}

#[test]
fn a_reply_that_the_end_of_the_connection_cuts_off_still_counts() {
    let server = ScriptedRelay::start(
        Script::new().at(Moment::FinalDot, Action::SayAndDrop(b"250 Ok que".to_vec())),
    );
    let attempt = send(&mut open(&server), &["a@x.example"]);
    assert_eq!(outcomes(&attempt), ["accepted 250"]);
    assert!(!attempt.reusable);
}

#[test]
fn a_positive_reply_with_another_meaning_ends_the_connection() {
    for (moment, odd) in
        [(Moment::Mail, "354 go\r\n"), (Moment::Rcpt, "354 go\r\n"), (Moment::Data, "250 ok\r\n")]
    {
        for script in [Script::new(), Script::new().offers("PIPELINING")] {
            let server = ScriptedRelay::start(script.at(moment, say(odd)));
            let attempt = send(&mut open(&server), &["a@x.example"]);
            assert_eq!(outcomes(&attempt), ["open"]);
            assert!(trouble(attempt.trouble.as_ref()).ends_with("OutOfStep"));
            assert!(server.messages().is_empty());
        }
    }
}

#[test]
fn each_recipient_has_its_own_state() {
    let to = ["a@x.example", "b@x.example", "c@x.example", "d@x.example", "e@x.example"];
    for pipelining in [false, true] {
        let mut script = Script::new()
            .at(Moment::Rcpt, say("250 ok\r\n"))
            .at(Moment::Rcpt, say("450 greylisted\r\n"))
            .at(Moment::Rcpt, say("251 will forward\r\n"))
            .at(Moment::Rcpt, say("550 unknown\r\n"))
            .at(Moment::Rcpt, say("252 cannot verify\r\n"));
        if pipelining {
            script = script.offers("PIPELINING");
        }
        let server = ScriptedRelay::start(script.clone());
        let attempt = send(&mut open(&server), &to);
        assert_eq!(
            outcomes(&attempt),
            ["accepted 250", "deferred 450", "accepted 250", "rejected 550", "accepted 250"]
        );
        assert!(attempt.reusable && attempt.trouble.is_none());
        assert_eq!(server.messages(), [MESSAGE]);
        assert_eq!(server.sessions()[0].pipelined, pipelining);

        let server =
            ScriptedRelay::start(script.clone().at(Moment::FinalDot, say("552 too big\r\n")));
        let expected =
            ["rejected 552", "deferred 450", "rejected 552", "rejected 550", "rejected 552"];
        assert_eq!(outcomes(&send(&mut open(&server), &to)), expected);

        let server = ScriptedRelay::start(script.at(Moment::Data, say("451 not now\r\n")));
        let expected =
            ["deferred 451", "deferred 450", "deferred 451", "rejected 550", "deferred 451"];
        assert_eq!(outcomes(&send(&mut open(&server), &to)), expected);
    }
}

#[test]
fn what_was_refused_before_the_connection_broke_stays_refused() {
    for (moment, undecided) in [(Moment::Data, "open"), (Moment::FinalDot, "uncertain")] {
        let script =
            Script::new().at(Moment::Rcpt, say("550 unknown\r\n")).at(moment, Action::Drop);
        for script in [script.clone(), script.offers("PIPELINING")] {
            let server = ScriptedRelay::start(script);
            let attempt = send(&mut open(&server), &["a@x.example", "b@x.example"]);
            assert_eq!(outcomes(&attempt), ["rejected 550", undecided]);
        }
    }
}

#[test]
fn an_extra_reply_in_a_group_takes_back_what_the_others_said() {
    // Shifted by one, the second recipient would have the first one's 550.
    let script = Script::new()
        .offers("PIPELINING")
        .at(Moment::Mail, say("250 ok\r\n250 extra\r\n"))
        .at(Moment::Rcpt, say("550 unknown\r\n"));
    let server = ScriptedRelay::start(script);
    let attempt = send(&mut open(&server), &["a@x.example", "b@x.example"]);
    assert_eq!(outcomes(&attempt), ["open", "open"]);
    assert_eq!(trouble(attempt.trouble.as_ref()), "Data OutOfStep");
    // And where the last reply of the group is a refusal, too.
    let script = Script::new()
        .offers("PIPELINING")
        .at(Moment::Rcpt, say("550 unknown\r\n"))
        .at(Moment::Data, say("554 no\r\n250 extra\r\n"));
    let server = ScriptedRelay::start(script);
    let attempt = send(&mut open(&server), &["a@x.example", "b@x.example"]);
    assert_eq!(outcomes(&attempt), ["open", "open"]);
    assert_eq!(trouble(attempt.trouble.as_ref()), "Data OutOfStep");
}

#[test]
fn a_relay_that_wants_a_message_for_nobody_gets_a_lone_dot() {
    for verdict in ["250 queued\r\n", "554 no valid recipients\r\n"] {
        let script = Script::new()
            .offers("PIPELINING")
            .at(Moment::Rcpt, say("550 unknown\r\n"))
            .at(Moment::Rcpt, say("450 later\r\n"))
            .at(Moment::Data, say("354 go ahead\r\n"))
            .at(Moment::FinalDot, say(verdict));
        let server = ScriptedRelay::start(script);
        let mut connection = open(&server);
        let attempt = send(&mut connection, &["a@x.example", "b@x.example"]);
        assert_eq!(outcomes(&attempt), ["rejected 550", "deferred 450"]);
        assert!(attempt.reusable && attempt.trouble.is_none());
        assert_eq!(outcomes(&send(&mut connection, &["c@x.example"])), ["accepted 250"]);
        assert_eq!(server.messages(), [b"", MESSAGE]);
    }
}

#[test]
fn a_refused_mail_is_refused_whatever_the_rest_of_the_group_hears() {
    let refused = || Script::new().offers("PIPELINING").at(Moment::Mail, say("550 not you\r\n"));
    for (script, reusable) in [
        (refused(), true),
        (refused().at(Moment::Data, say("354 go ahead\r\n")), true),
        (
            refused()
                .at(Moment::Rcpt, say("250 ok\r\n"))
                .at(Moment::Data, say("503 MAIL first\r\n")),
            true,
        ),
        // It takes the recipient, and would take an empty mail for it: no dot.
        (refused().at(Moment::Rcpt, say("250 ok\r\n")), false),
    ] {
        let server = ScriptedRelay::start(script);
        let mut connection = open(&server);
        let attempt = send(&mut connection, &["a@x.example"]);
        assert_eq!(outcomes(&attempt), ["rejected 550"]);
        assert_eq!((attempt.reusable, attempt.trouble), (reusable, None));
        assert!(server.messages().iter().all(Vec::is_empty));
        if reusable {
            assert_eq!(outcomes(&send(&mut connection, &["b@x.example"])), ["accepted 250"]);
        } else {
            assert!(server.messages().is_empty());
        }
    }
}

#[test]
fn rset_comes_before_the_next_mail_where_one_was_left_open_and_only_there() {
    let server = ScriptedRelay::start(Script::new().at(Moment::Rcpt, say("550 unknown\r\n")));
    let mut connection = open(&server);
    assert_eq!(outcomes(&send(&mut connection, &["a@x.example"])), ["rejected 550"]);
    assert!(server.commands("DATA").is_empty(), "there is nobody to send to");
    for _ in 0..2 {
        assert_eq!(outcomes(&send(&mut connection, &["b@x.example"])), ["accepted 250"]);
    }
    connection.quit();
    let verbs: Vec<String> =
        server.sessions()[0].commands.iter().map(|command| command[..4].to_owned()).collect();
    assert_eq!(verbs.join(" "), "EHLO MAIL RCPT RSET MAIL RCPT DATA MAIL RCPT DATA QUIT");
}

#[test]
fn a_connection_that_went_stale_says_so() {
    let second =
        |action: Action| Script::new().at(Moment::Mail, say("250 ok\r\n")).at(Moment::Mail, action);
    for (script, expected) in [
        (second(Action::Drop), "Mail Lost stale"),
        (second(Action::Reset), "Mail Lost stale"),
        (second(say("421 idle too long\r\n")), "Mail 421 stale"),
        (second(say("hello?\r\n")), "Mail Malformed"),
        (Script::new().at(Moment::AfterMail, Action::Drop), "Mail Lost stale"),
        (
            Script::new().at(Moment::AfterMail, Action::SayAndDrop(b"421 idle\r\n".to_vec())),
            "Mail 421 stale",
        ),
        (Script::new().at(Moment::AfterMail, say("250 extra\r\n")), "Mail OutOfStep"),
        (
            Script::new().at(Moment::Rcpt, say("250 ok\r\n")).at(Moment::Rcpt, Action::Drop),
            "Rcpt Lost",
        ),
    ] {
        for script in [script.clone(), script.offers("PIPELINING")] {
            let server = ScriptedRelay::start(script);
            let mut connection = open(&server);
            assert_eq!(outcomes(&send(&mut connection, &["a@x.example"])), ["accepted 250"]);
            // Let what comes after the mail arrive.
            thread::sleep(Duration::from_millis(30));
            let attempt = send(&mut connection, &["b@x.example"]);
            assert_eq!(outcomes(&attempt), ["open"]);
            assert_eq!(trouble(attempt.trouble.as_ref()), expected);
            assert!(!attempt.reusable);
        }
    }
    let server = ScriptedRelay::start(Script::new().at(Moment::Mail, Action::Drop));
    let attempt = send(&mut open(&server), &["a@x.example"]);
    assert_eq!(trouble(attempt.trouble.as_ref()), "Mail Lost", "a new connection isn't stale");
}

#[test]
fn an_idle_connection_is_seen_to_be_closed() {
    let server = ScriptedRelay::start(
        Script::new().at(Moment::AfterMail, say("")).at(Moment::AfterMail, Action::Drop),
    );
    let mut connection = open(&server);
    assert!(!connection.is_idle_closed());
    send(&mut connection, &["a@x.example"]);
    assert!(!connection.is_idle_closed());
    send(&mut connection, &["a@x.example"]);
    thread::sleep(Duration::from_millis(30));
    assert!(connection.is_idle_closed());
    assert_eq!(
        trouble(send(&mut connection, &["a@x.example"]).trouble.as_ref()),
        "Mail Lost stale"
    );
}

#[test]
fn a_thousand_recipients_are_no_deadlock() {
    let to: Vec<String> =
        (0..1000).map(|n| format!("recipient-number-{n}@somewhere.example")).collect();
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    for script in [Script::new(), Script::new().offers("PIPELINING").offers("DSN")] {
        let mut script = script;
        for n in 0..1000 {
            let code = if n % 3 == 0 { "550" } else { "250" };
            // Long replies fill the buffers on the way back.
            script = script.at(Moment::Rcpt, say(format!("{code} {}\r\n", "y".repeat(2000))));
        }
        let server = ScriptedRelay::start(script);
        let attempt = send(&mut open(&server), &to);
        for (n, outcome) in outcomes(&attempt).into_iter().enumerate() {
            assert_eq!(outcome, if n % 3 == 0 { "rejected 550" } else { "accepted 250" });
        }
        assert_eq!(server.commands("RCPT").len(), 1000);
        assert_eq!(server.messages(), [MESSAGE]);
    }
}

fn megabytes(size: usize) -> Vec<u8> {
    let line = format!(".{}\r\n", "z".repeat(70));
    let mut message = b"Subject: large\r\n\r\n".to_vec();
    while message.len() < size {
        message.extend_from_slice(line.as_bytes());
    }
    message
}

#[test]
fn a_large_mail_arrives_whole() {
    let message = megabytes(5_000_000);
    let server = ScriptedRelay::start(Script::new().offers("SIZE 10000000"));
    let attempt =
        open(&server).send(&envelope(&["a@x.example"]), &message, &SendOptions::default());
    assert_eq!(outcomes(&attempt), ["accepted 250"]);
    assert!(server.messages() == [&*message]);
    assert!(server.commands("MAIL")[0].ends_with(&format!("SIZE={}", message.len())));
}

#[test]
fn an_early_refusal_is_heard_whatever_the_relay_does_then() {
    let message = megabytes(4_000_000);
    let refusal = b"552 5.3.4 too big\r\n".to_vec();
    for moment in [Moment::InMessage(0), Moment::InMessage(1_000_000)] {
        for action in [
            Action::SayAndDrop(refusal.clone()),
            Action::SayAndHang(refusal.clone()),
            say(&refusal),
        ] {
            for tls in [false, true] {
                let (script, relay_tls, folder) = tls_or_not(tls);
                let server = ScriptedRelay::start(script.at(moment, action.clone()));
                let mut relay = to(&server);
                relay.tls = relay_tls;
                relay.ca_file = tls.then(|| folder.path().join("ca.pem"));
                let mut connection = try_open(&relay, &patient()).unwrap();
                let attempt =
                    connection.send(&envelope(&["a@x.example"]), &message, &SendOptions::default());
                assert_eq!(
                    outcomes(&attempt),
                    ["rejected 552"],
                    "{moment:?} {action:?} {tls} {:?}",
                    attempt.trouble
                );
                assert_eq!(attempt.trouble, None);
            }
        }
    }
}

fn tls_or_not(tls: bool) -> (Script, Tls, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    if !tls {
        return (Script::new(), Tls::None, folder);
    }
    let authority = Authority::new();
    authority.write(&folder.path().join("ca.pem"));
    (Script::new().implicit_tls(authority.server("127.0.0.1")), Tls::Implicit, folder)
}

#[test]
fn an_envelope_over_which_the_relay_takes_its_time_ends_with_its_own_deadline() {
    let action = Action::Dribble(b"250-slow\r\n".to_vec());
    let server = ScriptedRelay::start(Script::new().at(Moment::Rcpt, action));
    let envelope = Duration::from_millis(200);
    let deadlines = Deadlines { envelope, recipient: envelope, ..patient() };
    let began = Instant::now();
    let mut connection = try_open(&to(&server), &deadlines).unwrap();
    let attempt = send(&mut connection, &["a@x.example", "b@x.example"]);
    assert_eq!(trouble(attempt.trouble.as_ref()), "Rcpt TimedOut");
    assert_eq!(outcomes(&attempt), ["open", "open"]);
    let took = began.elapsed();
    assert!(took >= 3 * envelope && took < patient().command, "{took:?}");
}

#[test]
fn a_connection_that_breaks_in_the_message_delivered_nothing() {
    let message = megabytes(8_000_000);
    for (action, expected) in [
        (Action::Drop, "Message Lost"),
        (Action::Reset, "Message Lost"),
        (Action::Hang, "Message TimedOut"),
        (say("250 fine already\r\n"), "Message OutOfStep"),
        (Action::SayAndDrop(b"421 shutting down\r\n".to_vec()), "Message 421"),
    ] {
        for tls in [false, true] {
            let (script, relay_tls, folder) = tls_or_not(tls);
            let server =
                ScriptedRelay::start(script.at(Moment::InMessage(100_000), action.clone()));
            let mut relay = to(&server);
            relay.tls = relay_tls;
            relay.ca_file = tls.then(|| folder.path().join("ca.pem"));
            let deadlines = if matches!(action, Action::Hang) {
                Deadlines { data: Duration::from_millis(700), data_rate: u32::MAX, ..patient() }
            } else {
                patient()
            };
            let mut connection = try_open(&relay, &deadlines).unwrap();
            let attempt =
                connection.send(&envelope(&["a@x.example"]), &message, &SendOptions::default());
            assert_eq!(outcomes(&attempt), ["open"], "{action:?}");
            assert_eq!(trouble(attempt.trouble.as_ref()), expected, "TLS: {tls}");
            drop(connection);
            assert!(server.messages().is_empty());
        }
    }
}

#[test]
fn certificates_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let (ca_file, other_ca_file) = (folder.path().join("ca.pem"), folder.path().join("other.pem"));
    let (authority, other) = (Authority::new(), Authority::new());
    authority.write(&ca_file);
    other.write(&other_ca_file);
    for (config, ca, good) in [
        (authority.server("127.0.0.1"), Some(&ca_file), true),
        (authority.server("relay.example"), Some(&ca_file), false),
        (authority.expired_server("127.0.0.1"), Some(&ca_file), false),
        (authority.server("127.0.0.1"), Some(&other_ca_file), false),
        (authority.server("127.0.0.1"), None, false),
    ] {
        for tls in [Tls::StartTls, Tls::Implicit] {
            let script = match tls {
                Tls::StartTls => Script::new().start_tls(config.clone()),
                _ => Script::new().implicit_tls(config.clone()),
            };
            let server = ScriptedRelay::start(script);
            let relay = Relay { tls, ca_file: ca.cloned(), ..to(&server) };
            match try_open(&relay, &patient()) {
                Ok(mut connection) => {
                    assert!(good, "{relay:?}");
                    assert_eq!(
                        outcomes(&send(&mut connection, &["a@x.example"])),
                        ["accepted 250"]
                    );
                    assert!(server.sessions()[0].encrypted);
                    connection.quit();
                }
                Err(why) => {
                    assert!(!good, "{why}");
                    assert_eq!(trouble(Some(&why)), "Tls Tls", "{why}");
                    assert!(server.commands("MAIL").is_empty());
                }
            }
        }
    }
}

#[test]
fn a_ca_file_that_is_no_use_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let server = ScriptedRelay::start(Script::new());
    for content in [
        None,
        Some("no certificate"),
        Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
    ] {
        let path = folder.path().join("ca.pem");
        if let Some(content) = content {
            std::fs::write(&path, content).unwrap();
        }
        let relay = Relay { tls: Tls::StartTls, ca_file: Some(path), ..to(&server) };
        let why = try_open(&relay, &patient()).unwrap_err();
        assert!(
            why.to_string().contains("/ca.pem") && why.to_string().contains("certificate"),
            "{why}"
        );
    }
}

#[test]
fn a_handshake_that_doesnt_come_about_ends_at_its_deadline() {
    let (script, tls, folder) = tls_or_not(true);
    for (action, expected) in [
        (Action::Hang, "Tls TimedOut"),
        // The beginning of a record of 16 KiB that never ends.
        (Action::Dribble(b"\x16\x03\x03\x40\x00\0\0\0".to_vec()), "Tls TimedOut"),
        (Action::Drop, "Tls Lost"),
        (Action::SayAndHang(b"220 plaintext, surprisingly\r\n".to_vec()), "Tls Tls"),
    ] {
        let server = ScriptedRelay::start(script.clone().at(Moment::Handshake, action.clone()));
        let relay = Relay { tls, ca_file: Some(folder.path().join("ca.pem")), ..to(&server) };
        let began = Instant::now();
        let why = try_open(&relay, &impatient()).unwrap_err();
        assert_eq!(trouble(Some(&why)), expected, "{action:?}");
        assert!(began.elapsed() < Duration::from_secs(5));
    }
}

#[test]
fn plaintext_behind_starttls_is_an_attack_and_not_a_reply() {
    let (_, _, folder) = tls_or_not(true);
    let authority = Authority::new();
    authority.write(&folder.path().join("ca.pem"));
    for injected in
        ["220 go\r\n250 injected\r\n", "220 go\r\n2", "220 go\r\n\x16\x03", "220 go\r\n421 bye\r\n"]
    {
        let script = Script::new()
            .start_tls(authority.server("127.0.0.1"))
            .at(Moment::StartTls, say(injected));
        let server = ScriptedRelay::start(script);
        let relay = Relay {
            tls: Tls::StartTls,
            ca_file: Some(folder.path().join("ca.pem")),
            ..to(&server)
        };
        let why = try_open(&relay, &patient()).unwrap_err();
        assert_eq!(trouble(Some(&why)), "StartTls Injected");
        assert!(why.to_string().contains("tampering"), "{why}");
    }
}

#[test]
fn without_starttls_nothing_is_sent_where_tls_is_required() {
    for script in [Script::new(), Script::new().at(Moment::Ehlo, say("502 what?\r\n"))] {
        let server = ScriptedRelay::start(script);
        let relay = Relay {
            tls: Tls::StartTls,
            credentials: Some(Credentials::new("me".into(), "secret".into())),
            ..to(&server)
        };
        assert_eq!(trouble(try_open(&relay, &patient()).err().as_ref()), "StartTls NotOffered");
        assert!(
            server.sessions()[0]
                .commands
                .iter()
                .all(|command| command.contains("HELO") || command.contains("EHLO"))
        );
    }
}

#[test]
fn what_was_offered_before_tls_is_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    authority.write(&folder.path().join("ca.pem"));
    let script = Script::new()
        .start_tls(authority.server("127.0.0.1"))
        .at(Moment::Ehlo, say("250-hello\r\n250-STARTTLS\r\n250-AUTH PLAIN\r\n250 SIZE 1\r\n"));
    let server = ScriptedRelay::start(script);
    let relay =
        Relay { tls: Tls::StartTls, ca_file: Some(folder.path().join("ca.pem")), ..to(&server) };
    let mut connection = try_open(&relay, &patient()).unwrap();
    assert_eq!(outcomes(&send(&mut connection, &["a@x.example"])), ["accepted 250"]);
    let relay =
        Relay { credentials: Some(Credentials::new("me".into(), "secret".into())), ..relay };
    assert_eq!(trouble(try_open(&relay, &patient()).err().as_ref()), "Auth NotOffered");
}

#[test]
fn auth_takes_plain_else_login() {
    for (offer, first) in [
        ("AUTH LOGIN PLAIN", "AUTH PLAIN"),
        ("AUTH CRAM-MD5 LOGIN", "AUTH LOGIN"),
        ("auth=login", "AUTH LOGIN"),
    ] {
        for (password, good) in [("secret", true), ("wrong", false)] {
            let server = ScriptedRelay::start(Script::new().offers(offer).login("me", "secret"));
            let relay = Relay {
                credentials: Some(Credentials::new("me".into(), password.into())),
                ..to(&server)
            };
            let found = trouble(try_open(&relay, &patient()).err().as_ref());
            assert_eq!(found, if good { "" } else { "Auth 535" }, "{offer}");
            assert!(server.commands("AUTH")[0].starts_with(first));
            assert_eq!(server.commands("AUTH").len(), 1, "a refused password isn't tried again");
        }
    }
    let server = ScriptedRelay::start(Script::new().offers("AUTH CRAM-MD5"));
    let relay =
        Relay { credentials: Some(Credentials::new("me".into(), "secret".into())), ..to(&server) };
    assert_eq!(trouble(try_open(&relay, &patient()).err().as_ref()), "Auth NotOffered");
}

#[test]
fn a_password_does_not_leave_this_machine_without_tls() {
    // No packet is sent: connecting a UDP socket only looks the route up.
    let udp = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let Some(own) =
        udp.connect("192.0.2.1:9").and_then(|()| udp.local_addr()).ok().map(|own| own.ip())
    else {
        eprintln!("not tested: this machine has no address but loopback");
        return;
    };
    assert!(!own.is_loopback());
    let server = ScriptedRelay::start_at(
        own,
        Script::new().offers("AUTH PLAIN LOGIN").login("me", "secret"),
    );
    let credentials = Some(Credentials::new("me".into(), "secret".into()));
    let relay = Relay { host: own.to_string(), credentials, ..to(&server) };
    assert_eq!(trouble(try_open(&relay, &patient()).err().as_ref()), "Auth PasswordInTheClear");
    assert!(server.commands("AUTH").is_empty());
}

#[test]
fn a_password_that_the_relay_sends_back_is_not_shown() {
    let password = "hunter2-hunter2";
    for offer in ["AUTH PLAIN", "AUTH LOGIN"] {
        let encoded = if offer == "AUTH PLAIN" {
            base64(&format!("\0me\0{password}"))
        } else {
            base64(password)
        };
        let quote = say(format!("535 can't take {encoded} that is {password}\r\n"));
        let moment = if offer == "AUTH PLAIN" { Moment::Auth } else { Moment::AuthPassword };
        let server = ScriptedRelay::start(Script::new().offers(offer).at(moment, quote));
        let relay = Relay {
            credentials: Some(Credentials::new("me".into(), password.into())),
            ..to(&server)
        };
        let why = try_open(&relay, &patient()).unwrap_err();
        for shown in [why.to_string(), format!("{why:?}"), format!("{relay:?}")] {
            assert!(!shown.contains(&encoded) && !shown.contains(password), "{shown}");
        }
        assert_eq!(why.reply().unwrap().to_string(), "535 can't take *** that is ***");
    }
}

#[test]
fn a_mail_that_does_not_fit_the_relay_is_refused_before_anything_is_sent() {
    let latin = "a@x.example";
    let other = "ä@x.example";
    let ascii = "Subject: a\r\n\r\nb\r\n";
    for (offers, to, message, expected) in [
        (&[][..], latin, "Subject: a\r\n\r\nä\r\n", Some(Refusal::BodyNeedsEightBitMime)),
        (&["8BITMIME"][..], latin, "Subject: a\r\n\r\nä\r\n", None),
        (&["8BITMIME"][..], latin, "Subject: ä\r\n\r\nb\r\n", Some(Refusal::HeaderNeedsSmtpUtf8)),
        (&["8BITMIME", "SMTPUTF8"][..], latin, "Subject: ä\r\n\r\nb\r\n", None),
        (&["8BITMIME"][..], other, ascii, Some(Refusal::AddressNeedsSmtpUtf8(other.into()))),
        (&["8BITMIME", "SMTPUTF8"][..], other, ascii, None),
        (&["SIZE 16"][..], latin, ascii, Some(Refusal::TooLarge { size: 17, limit: 16 })),
        (&["SIZE 17"][..], latin, ascii, None),
        (&["SIZE"][..], latin, ascii, None),
        (&[][..], latin, "a\nb", Some(Refusal::BareLf { line: 1 })),
    ] {
        let script = offers.iter().fold(Script::new(), |script, offer| script.offers(offer));
        let server = ScriptedRelay::start(script);
        let mut connection = open(&server);
        let attempt =
            connection.send(&envelope(&[to]), message.as_bytes(), &SendOptions::default());
        assert_eq!(attempt.refusal, expected);
        assert!(attempt.reusable && attempt.trouble.is_none());
        let expected = if expected.is_some() { "open" } else { "accepted 250" };
        assert_eq!(outcomes(&attempt), [expected]);
        assert_eq!(server.commands("MAIL").is_empty(), expected == "open");
    }
    let server = ScriptedRelay::start(Script::new());
    let evil = Envelope::new(
        None,
        vec![Address::new_dangerous("a@x.example>\r\nRCPT TO:<b", "x.example")],
    )
    .unwrap();
    let attempt = open(&server).send(&evil, MESSAGE, &SendOptions::default());
    assert!(matches!(attempt.refusal, Some(Refusal::Address(_))));
}

#[test]
fn parameters_are_given_where_offered_and_needed() {
    let mail = |offers: &[&str], message: &str, from: Option<&str>, envid: &str| {
        let script = offers.iter().fold(Script::new(), |script, offer| script.offers(offer));
        let server = ScriptedRelay::start(script);
        let from = from.map(|from| from.parse().unwrap());
        let envelope = Envelope::new(from, vec!["a+b=c@x.example".parse().unwrap()]).unwrap();
        let options = SendOptions { envid: Some(envid.into()) };
        assert_eq!(
            outcomes(&open(&server).send(&envelope, message.as_bytes(), &options)),
            ["accepted 250"]
        );
        [server.commands("MAIL"), server.commands("RCPT")].concat().join("\n")
    };
    let all = &["SIZE", "8BITMIME", "SMTPUTF8", "DSN", "PIPELINING"][..];
    let ascii = "Subject: a\r\n\r\nb\r\n";
    let plain = "RCPT TO:<a+b=c@x.example>";
    let dsn = "RCPT TO:<a+b=c@x.example> NOTIFY=FAILURE,DELAY ORCPT=rfc822;a+2Bb+3Dc@x.example";
    let from = Some("f@x.example");
    assert_eq!(mail(&[], ascii, from, "1"), format!("MAIL FROM:<f@x.example>\n{plain}"));
    assert_eq!(mail(&[], ascii, None, "1"), format!("MAIL FROM:<>\n{plain}"));
    assert_eq!(mail(all, ascii, None, "1"), format!("MAIL FROM:<> SIZE=17\n{plain}"));
    assert_eq!(
        mail(all, ascii, from, "2026+1 a=b"),
        format!("MAIL FROM:<f@x.example> SIZE=17 RET=HDRS ENVID=2026+2B1+20a+3Db\n{dsn}")
    );
    assert_eq!(
        mail(all, "Subject: a\r\n\r\nä\r\n", from, "not\nprintable"),
        format!("MAIL FROM:<f@x.example> SIZE=18 BODY=8BITMIME RET=HDRS\n{dsn}")
    );
    assert_eq!(
        mail(&["8BITMIME", "SMTPUTF8"], "Subject: ä\r\n\r\nb\r\n", from, "1"),
        format!("MAIL FROM:<f@x.example> BODY=8BITMIME SMTPUTF8\n{plain}")
    );
}

#[test]
fn a_relay_that_cannot_be_reached_is_told_within_the_deadline() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let server = ScriptedRelay::start(Script::new());
    let relay = Relay { port: closed, ..to(&server) };
    let why = try_open(&relay, &patient()).unwrap_err();
    assert_eq!(trouble(Some(&why)), "Connect Unreachable");
    assert!(why.to_string().starts_with("failed to connect to the relay: 127.0.0.1:"), "{why}");

    let relay = Relay { host: "no-such-host.invalid".into(), ..to(&server) };
    let deadlines = Deadlines { connect: Duration::from_millis(500), ..patient() };
    let began = Instant::now();
    assert_eq!(trouble(try_open(&relay, &deadlines).err().as_ref()), "Connect Unreachable");
    assert!(began.elapsed() < Duration::from_secs(3));
}

#[test]
fn a_name_with_several_addresses_is_tried_to_the_end() {
    // `localhost` is ::1 too on most machines, where nobody listens.
    let server = ScriptedRelay::start(Script::new());
    let relay = Relay { host: "localhost".into(), ..to(&server) };
    assert_eq!(
        outcomes(&send(&mut try_open(&relay, &patient()).unwrap(), &["a@x.example"])),
        ["accepted 250"]
    );
}

#[test]
fn quit_waits_no_longer_than_it_may() {
    let server = ScriptedRelay::start(Script::new().at(Moment::Quit, Action::Hang));
    let connection = open(&server);
    let began = Instant::now();
    connection.quit();
    assert!(began.elapsed() < Duration::from_secs(3));
    assert_eq!(server.commands("QUIT").len(), 1);
}

#[test]
fn an_attempt_tells_how_long_each_phase_took() {
    use Phase::{Connect, Data, FinalDot, Greeting, Hello, Mail, Message, Rcpt};
    let script = Script::new().at(Moment::FinalDot, say("250 ok\r\n"));
    let server = ScriptedRelay::start(script.at(Moment::FinalDot, Action::Hang));
    let mut connection = try_open(&to(&server), &impatient()).unwrap();
    let first = send(&mut connection, &["a@x.example", "b@x.example"]).phases;
    let second = send(&mut connection, &["a@x.example"]).phases;
    let names =
        |phases: &[(Phase, Duration)]| phases.iter().map(|(phase, _)| *phase).collect::<Vec<_>>();
    assert_eq!(names(&first), [Connect, Greeting, Hello, Mail, Rcpt, Data, Message, FinalDot]);
    assert_eq!(names(&second), [Mail, Rcpt, Data, Message, FinalDot]);
    let (last, waited) = second[4];
    assert_eq!(last, FinalDot);
    assert!(waited >= impatient().final_dot, "{waited:?} until the relay was given up");
    assert!(connection.take_phases().is_empty());
}

#[test]
fn the_scripted_relay_reads_strictly() {
    assert_eq!(
        unstuff(b"a\n.\n\r\n..b\r\n.\r\nMAIL"),
        Some((b"a\n.\n\r\n.b\r\n".to_vec(), &b"MAIL"[..]))
    );
    assert_eq!(unstuff(b"a\r\n."), None);
    assert_eq!(base64("me"), "bWU=");
    assert_eq!(base64("\0me\0secret"), "AG1lAHNlY3JldA==");
}
