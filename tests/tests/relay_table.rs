//! Everything that a relay can do wrong at each step of the conversation, as a table: what becomes of
//! the mail, of the relay, of the other mails, what is logged, and what the next run does.
//!
//! Each row is a run of the real `outbox-deliverer` on an outbox of its own with two mails: one to two
//! recipients, over which the relay misbehaves, and another one to a bystander. Then the relay
//! behaves, and another run has to bring to everybody what they lack, and nothing else.
//!
//! What single connections make of all this, and of large messages, is shown in
//! `deliverer/src/smtp/tests.rs`.

use std::any::Any;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::thread::scope;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use outbox_config::text::is_hidden;
use outbox_tests::authority::Authority;
use outbox_tests::events::Directive;
use outbox_tests::programs;
use outbox_tests::programs::{Finished, LIMIT, wait_until};
use outbox_tests::scripted_relay::{Act, At, Received, ScriptedRelay, Tls};
use outbox_tests::site::Site;
use serde_json::{Value, json};

const ONE: &str = "one@as64499.example";
const TWO: &str = "two@as64499.example";
const BYSTANDER: &str = "bystander@as64500.example";

// ---- The table ----

/// A step of the conversation: the columns of the table, and the connection itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    Connect,
    Greeting,
    Ehlo,
    StartTls,
    Tls,
    Auth,
    Mail,
    Rcpt1,
    Rcpt2,
    Data,
    /// The first line of the message has come.
    Body,
    Dot,
    Quit,
}

const STEPS: [Step; 12] = [
    Step::Greeting,
    Step::Ehlo,
    Step::StartTls,
    Step::Tls,
    Step::Auth,
    Step::Mail,
    Step::Rcpt1,
    Step::Rcpt2,
    Step::Data,
    Step::Body,
    Step::Dot,
    Step::Quit,
];

/// What comes of it: the cells of the table. Each is told in full by [`expect_first_run`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// `.`: both mails are relayed, as if nothing had been unusual.
    Usual,
    /// `R`: it is the relay's trouble, and none of a mail. Both wait.
    Relays,
    /// `B`: it is the relay's trouble as well, but may come from the mail. So the other one is relayed,
    /// and the mail is tried once more after that.
    Breaks,
    /// `D`: the mail is deferred for both recipients.
    Deferred,
    /// `H`: the mail is refused for both, and held.
    Held,
    /// `d1`, `d2`: one recipient is deferred, the other one has the mail.
    DeferredFor(&'static str),
    /// `h1`, `h2`: one recipient is refused for good, the other one has the mail.
    RefusedFor(&'static str),
    /// `U`: nobody knows whether the relay took the mail. It is sent again.
    Uncertain,
    /// The same with `delivery.uncertain` `"hold"`: it is held.
    UncertainAndHeld,
}

impl Fate {
    /// `-` is no row: there is nothing of the kind at this step.
    fn parse(cell: &str) -> Option<Self> {
        Some(match cell {
            "-" => return None,
            "." => Self::Usual,
            "R" => Self::Relays,
            "B" => Self::Breaks,
            "D" => Self::Deferred,
            "d1" => Self::DeferredFor(ONE),
            "d2" => Self::DeferredFor(TWO),
            "H" => Self::Held,
            "h1" => Self::RefusedFor(ONE),
            "h2" => Self::RefusedFor(TWO),
            "U" => Self::Uncertain,
            other => panic!("{other:?} is no fate"),
        })
    }
}

/// What the relay does, the fate at each step, and words that must be logged of it.
///
/// A reply too early is an extra one at the step before: the two are the same octets.
#[rustfmt::skip]
const TABLE: &[(&str, &str, &str)] = &[
    // greeting EHLO STARTTLS TLS AUTH  MAIL RCPT1 RCPT2 DATA  body dot  QUIT
    ("4xx",
     "    R    R    R      -    R      D    d1    d2    D     D   D     .",  "450 4.7.1 later"),
    ("5xx",
     "    R    .    R      -    R      H    h1    h2    H     H   H     .",  "550 5.7.1 never"),
    ("421",
     "    R    R    R      -    R      R    B     B     B     B   B     .",  "the relay answered 421 4.3.2 closing"),
    ("3xx",
     "    R    R    R      -    R      R    B     B     B     U   U     .",  "334 go on"),
    ("drop",
     "    R    R    R      R    R      B    B     B     B     U   U     .",  "the connection is lost"),
    ("reset",
     "    R    R    R      R    R      B    B     B     B     U   U     .",  "Connection reset by peer"),
    ("hang",
     "    R    R    R      R    R      B    B     B     B     U   U     .",  "it took too long"),
    ("byte a second",
     "    R    R    R      -    R      B    B     B     B     -   U     .",  "it took too long"),
    ("garbage",
     "    R    R    R      -    R      B    B     B     B     U   U     .",  "the relay sent what isn't a reply: no reply code"),
    ("two codes",
     "    R    R    R      -    R      B    B     B     B     U   U     .",  "the relay sent what isn't a reply: two codes in one reply"),
    ("lines without end",
     "    R    R    R      -    R      B    B     B     B     U   U     .",  "the relay sent what isn't a reply: a reply without end"),
    ("a line without end",
     "    R    R    R      -    R      B    B     B     B     U   U     .",  "the relay sent what isn't a reply: a reply without end"),
    ("extra reply",
     "    R    R    -      -    R      B    B     B     B     -   .     .",  "the relay's replies are out of step with our commands"),
    ("bare code",
     "    .    .    .      -    .      .    .     .     .     -   .     .",  ""),
    ("non-UTF-8",
     "    .    .    .      -    .      .    .     .     .     -   .     .",  ""),
    ("10 kB line",
     "    .    .    .      -    .      .    .     .     .     -   .     .",  ""),
    ("multi-line",
     "    .    .    .      -    .      .    .     .     .     -   .     .",  ""),
    ("bare LF",
     "    .    .    .      -    .      .    .     .     .     -   .     .",  ""),
    ("hostile 4xx",
     "    R    R    R      -    R      D    d1    d2    D     D   D     .",  "450 4.7.1 a\u{fffd}[2Jb\u{fffd}c\u{fffd}d\u{fffd}e WARN forged"),
    ("hostile 5xx",
     "    R    .    R      -    R      H    h1    h2    H     H   H     .",  "550 5.7.1 a\u{fffd}[2Jb\u{fffd}c\u{fffd}d\u{fffd}e WARN forged"),
];

/// The same for what a relay can do at one step only: the step, what it does there, the fate, words.
fn special() -> Vec<Row> {
    let authority = authority();
    let row = |at, does: &str, act, fate, words| Row {
        at,
        does: does.to_owned(),
        act: vec![(at, act)],
        kind: Kind::of(at)[0],
        fate: Fate::parse(fate).expect("it is one"),
        words,
    };
    let tls = |does, act, words| row(Step::Tls, does, act, "R", words);
    let ehlo = |does, reply| row(Step::Ehlo, does, send(reply), ".", "");
    let mut rows = vec![
        tls("garbage", send("hello?\r\n"), "received corrupt message"),
        tls("plain text", send("250 2.0.0 ok\r\n"), "received corrupt message"),
        tls(
            "certificate of an unknown authority",
            Act::Show(Authority::new().server("127.0.0.1")),
            "invalid peer certificate: ",
        ),
        tls(
            "expired certificate",
            Act::Show(authority.0.expired_server("127.0.0.1")),
            "invalid peer certificate: certificate expired",
        ),
        tls(
            "certificate of another name",
            Act::Show(authority.0.server("relay.example")),
            "invalid peer certificate: certificate not valid for name \"127.0.0.1\"",
        ),
        row(
            Step::StartTls,
            "injected text",
            send("220 2.0.0 go ahead\r\n250-injected\r\n250 AUTH PLAIN\r\n"),
            "R",
            "plaintext came behind the reply to STARTTLS; somebody may be tampering",
        ),
        ehlo("SIZE 0", "250-x\r\n250 SIZE 0\r\n"),
        ehlo("SIZE without a number", "250-x\r\n250 SIZE\r\n"),
        ehlo("SIZE of words", "250-x\r\n250 SIZE lots of room\r\n"),
        ehlo("SIZE beyond all numbers", "250-x\r\n250 SIZE 99999999999999999999999\r\n"),
        ehlo("AUTH without a mechanism", "250-x\r\n250-AUTH\r\n250 AUTH=\r\n"),
    ];
    // The relay has PIPELINING. One reply to many commands is a silence after the first: "hang".
    let out_of_step =
        "out of step with our commands: it said 354 go ahead, which is no answer to this";
    for (does, act) in [
        ("a reply left out", vec![(Step::Rcpt1, send(""))]),
        (
            "replies in another order",
            vec![
                (Step::Rcpt1, send("")),
                (Step::Rcpt2, send("354 go ahead\r\n250 2.1.5 ok\r\n250 2.1.5 ok\r\n")),
                (Step::Data, send("")),
            ],
        ),
    ] {
        let (at, kind, fate, words) = (Step::Rcpt1, Kind::Full, Fate::Breaks, out_of_step);
        rows.push(Row { at, does: does.to_owned(), act, kind, fate, words });
    }
    rows
}

/// A run of the program with a relay that does something unusual.
#[derive(Clone)]
struct Row {
    at: Step,
    does: String,
    /// What it does at which steps, every time.
    act: Vec<(Step, Act)>,
    kind: Kind,
    fate: Fate,
    /// What must stand in the log.
    words: &'static str,
}

/// What the relay has to offer, apart from what is unusual.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Nothing: each command waits for the reply to the one before.
    Plain,
    /// STARTTLS, a login, and PIPELINING.
    Full,
}

impl Kind {
    /// With which kinds of relay a step is tried.
    fn of(step: Step) -> &'static [Self] {
        match step {
            Step::Greeting | Step::Ehlo => &[Self::Plain],
            Step::StartTls | Step::Tls | Step::Auth => &[Self::Full],
            _ => &[Self::Plain, Self::Full],
        }
    }
}

fn send(octets: &str) -> Act {
    Act::Send(octets.into())
}

impl Step {
    fn at(self) -> At {
        match self {
            Self::Connect => panic!("nothing is said before there is a connection"),
            Self::Greeting => At::Greeting,
            Self::Ehlo => At::Ehlo,
            Self::StartTls => At::StartTls,
            Self::Tls => At::Handshake,
            Self::Auth => At::Auth,
            Self::Mail => At::Mail,
            Self::Rcpt1 | Self::Rcpt2 => At::Rcpt,
            Self::Data => At::Data,
            Self::Body => At::Body,
            Self::Dot => At::FinalDot,
            Self::Quit => At::Quit,
        }
    }

    /// What the right reply begins with.
    fn code(self) -> u16 {
        match self {
            Self::Greeting | Self::StartTls => 220,
            Self::Auth => 235,
            Self::Data => 354,
            Self::Quit => 221,
            _ => 250,
        }
    }

    /// How the deliverer names the step, where the relay's trouble comes up there.
    fn words(self) -> &'static str {
        match self {
            Self::Connect => "failed to connect to the relay: ",
            Self::Greeting => "failed to get the relay's greeting: ",
            Self::Ehlo => "failed to say hello to the relay (EHLO): ",
            Self::StartTls => "failed to begin TLS with the relay (STARTTLS): ",
            Self::Tls => "failed to agree on TLS with the relay: ",
            Self::Auth => "failed to log in to the relay (AUTH): ",
            Self::Mail => "failed to name the sender to the relay (MAIL): ",
            Self::Rcpt1 | Self::Rcpt2 => "failed to name the recipients to the relay (RCPT): ",
            Self::Data => "failed to announce the message to the relay (DATA): ",
            // A small message is handed over before anything can be heard.
            Self::Body | Self::Dot => {
                "failed to hear whether the relay took the message (final dot): "
            }
            Self::Quit => "failed to say goodbye to the relay (QUIT): ",
        }
    }
}

/// What the relay does at a step, in the words of the table.
fn act(does: &str, step: Step) -> Act {
    let code = step.code();
    let hostile = |code| {
        let first = format!("{code}-4.7.1 a\x1b[2Jb\0c\rd\u{202e}e\r\n");
        let mut octets = first.replace("4.7.1", &format!("{}.7.1", code / 100)).into_bytes();
        octets.extend(format!("{code}-WARN forged\r\n{code}-").bytes());
        octets.extend(b"\xff\xfe\r\n");
        octets.extend(format!("{code} {}\r\n", "x".repeat(10_000)).bytes());
        octets
    };
    let octets = match does {
        "drop" => return Act::HangUp,
        "reset" => return Act::Reset,
        "hang" => return Act::Hold,
        "byte a second" => return Act::Dribble(Duration::from_secs(1)),
        "lines without end" => {
            return Act::Flood(format!("{code}-more\r\n").repeat(100).into_bytes());
        }
        "a line without end" => return Act::Flood("250 250 ".repeat(100).into_bytes()),
        "4xx" => b"450 4.7.1 later\r\n".to_vec(),
        "5xx" => b"550 5.7.1 never\r\n".to_vec(),
        "421" => return Act::SayAndHangUp("421 4.3.2 closing"),
        "3xx" => return babble(step, b"334 go on\r\n"),
        "garbage" => return babble(step, b"hello?\r\n"),
        "two codes" => return babble(step, format!("{code}-fine\r\n550 not\r\n").as_bytes()),
        "extra reply" => format!("{code} fine\r\n250 2.0.0 extra\r\n").into_bytes(),
        "bare code" => format!("{code}\r\n").into_bytes(),
        "non-UTF-8" => [format!("{code} gr").as_bytes(), b"\xfc\xdfe\r\n"].concat(),
        "10 kB line" => format!("{code} {}\r\n", "x".repeat(10_000)).into_bytes(),
        "multi-line" => format!("{code}-one\r\n{code}-\r\n{code} three\r\n").into_bytes(),
        "bare LF" => format!("{code} fine\n").into_bytes(),
        "hostile 4xx" => hostile(450),
        "hostile 5xx" => hostile(550),
        other => panic!("nobody knows what {other:?} is"),
    };
    if step == Step::Body { Act::SendAndHangUp(octets) } else { Act::Send(octets) }
}

/// What is no answer. Who speaks in the midst of a message does not read the rest.
fn babble(step: Step, octets: &[u8]) -> Act {
    let octets = octets.to_vec();
    if step == Step::Body { Act::SendAndHangUp(octets) } else { Act::Babble(octets) }
}

fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for &(does, cells, words) in TABLE {
        let cells: Vec<&str> = cells.split_whitespace().collect();
        assert_eq!(cells.len(), STEPS.len(), "{does}");
        for (at, cell) in STEPS.into_iter().zip(cells) {
            let Some(fate) = Fate::parse(cell) else { continue };
            for &kind in Kind::of(at) {
                let act = vec![(at, act(does, at))];
                let row = Row { at, does: does.to_owned(), act, kind, fate, words };
                if fate == Fate::Uncertain && kind == Kind::Full {
                    rows.push(Row { fate: Fate::UncertainAndHeld, ..row.clone() });
                }
                rows.push(row);
            }
        }
    }
    rows.extend(special());
    // What takes long comes first.
    rows.sort_by_key(|row| !row.waits());
    rows
}

// ---- A row ----

/// An authority, and the file with its certificate.
fn authority() -> &'static (Authority, tempfile::TempDir) {
    static AUTHORITY: OnceLock<(Authority, tempfile::TempDir)> = OnceLock::new();
    AUTHORITY.get_or_init(|| {
        let folder = tempfile::TempDir::with_prefix_in("outbox-", "/tmp").unwrap();
        outbox_tests::watchdog::removes(folder.path());
        let authority = Authority::new();
        authority.write(&folder.path().join("ca.pem"));
        (authority, folder)
    })
}

/// A relay and an outbox with two mails for it.
struct Case {
    relay: ScriptedRelay,
    site: Site,
}

impl Case {
    fn new(kind: Kind, settings: &[(&str, Value)]) -> Self {
        let (authority, folder) = authority();
        let relay = match kind {
            Kind::Plain => ScriptedRelay::offering(&[]),
            Kind::Full => ScriptedRelay::encrypting(
                &["PIPELINING", "AUTH PLAIN"],
                Tls::StartTls(authority.server("127.0.0.1")),
            ),
        };
        let mut site = Site::new(programs!())
            .unsigned()
            .relay(relay.port())
            .set("envelope_from", json!("bounce+{ticket}@cert.example"))
            // In these tests, what is deferred is soon due.
            .set("delivery.retry_min", json!("1s"))
            .set("delivery.retry_max", json!("1s"));
        if kind == Kind::Full {
            site = site
                .set("smtp.tls", json!("starttls"))
                .set("smtp.ca_file", json!(folder.path().join("ca.pem")))
                .set("smtp.username", json!("outbox"))
                .set("smtp.password", json!("secret"));
        }
        for (key, value) in settings {
            site = site.set(key, value.clone());
        }
        let site = site.build();
        site.insert(&[
            Directive::to(&format!("{ONE},{TWO}")).event(),
            Directive::to(BYSTANDER).event(),
        ]);
        site.generator(&["run", "--all"]).expect(0);
        Self { relay, site }
    }

    /// From now on, the relay misbehaves over the mail to two recipients, or, before that can be
    /// known, over all.
    fn misbehave(&self, steps: &[(Step, Act)]) {
        let sidecars = self.site.sidecars();
        let to_two = sidecars.iter().find(|sidecar| sidecar["envelope"]["to"] == json!([ONE, TWO]));
        let from = to_two.expect("it is there")["envelope"]["from"].as_str().unwrap();
        for (step, act) in steps {
            let about = match step {
                Step::Mail => from,
                Step::Rcpt1 | Step::Data | Step::Body | Step::Dot => ONE,
                Step::Rcpt2 => TWO,
                _ => "",
            };
            self.relay.always(step.at(), about, act.clone());
        }
    }

    /// How the mail to two recipients lies in the outbox, if it does, and what its record says.
    fn mail(&self) -> Option<(String, Option<Value>)> {
        let sidecars = self.site.sidecars();
        let sidecar =
            sidecars.iter().find(|sidecar| sidecar["envelope"]["to"] == json!([ONE, TWO]))?;
        let id = sidecar["id"].as_str().unwrap();
        let here = ["new", "cur"].map(|folder| self.site.listed(folder)).concat();
        let path =
            here.iter().map(|path| path.display().to_string()).find(|path| path.contains(id));
        let path = path.expect("a mail with a sidecar is there");
        let (folder, name) = path.rsplit_once('/').unwrap();
        let folder = folder.rsplit_once('/').unwrap().1;
        let flags = name.split_once(':').map_or("", |(_, flags)| flags);
        let record = self.site.records().into_iter().find(|record| record["id"] == id);
        Some((format!("{folder}:{flags}"), record))
    }

    /// Who the relay said it has a mail for, in order.
    fn confirmed(&self) -> Vec<String> {
        let received = self.relay.received().into_iter().filter(|mail| mail.confirmed);
        let mut confirmed: Vec<String> = received.flat_map(|mail| mail.to).collect();
        confirmed.sort();
        confirmed
    }

    /// The mails to two recipients whose final dot came.
    fn reached(&self) -> Vec<Received> {
        let mut received = self.relay.received();
        received.retain(|mail| mail.to != [BYSTANDER]);
        received
    }

    /// Waits until what is deferred is due.
    fn wait_until_due(&self) {
        let due = |record: &Value| match record["next_attempt_at"].as_str() {
            Some(time) => time.parse::<Timestamp>().unwrap() <= Timestamp::now(),
            None => true,
        };
        wait_until("what is deferred is due", || self.site.records().iter().all(due));
    }
}

// ---- What is expected ----

/// What a run leaves behind.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    /// The exit code.
    code: i32,
    /// The WARN and ERROR lines, as far as they are expected.
    warnings: Vec<String>,
    errors: Vec<String>,
    /// Folder and flags of the mail to two recipients, if it is not relayed.
    mail: Option<String>,
    /// What its record says, if there is one: state, attempts, those of them that were uncertain.
    record: Option<(String, u64, u64)>,
    /// How it stands for each of the two: state, and `*` if the relay's words are told.
    recipients: Vec<(String, String)>,
    /// How often it reached the relay.
    reached: usize,
    /// Who has a mail, as far as the relay said so.
    confirmed: Vec<String>,
    /// How many directives are not marked.
    pending: i64,
}

const IN_TROUBLE: &str = "the relay is in trouble and left alone for a while: ";
const RELAY_AWAY: &str = "the relay does not take mails now";
const SOME_FAILED: &str = "errors with 1 of the mails";
const NO_ANSWER: &str = "no answer to the final dot: the relay may have taken the mail";
const NO_MEANING: &str = "an answer to the final dot that has no meaning there: ";

/// What the run has to leave behind in which the relay misbehaves.
fn expect_first_run(row: &Row) -> Found {
    let dots = usize::from(row.at == Step::Dot);
    let trouble = row.trouble();
    let said = |words: &str| vec![format!("{words}: {}", row.words)];
    let both = |state: &str| [ONE, TWO].map(|to| (to.to_owned(), state.to_owned())).to_vec();
    // The mail is still there, and the other one is relayed.
    let open = Found {
        code: 0,
        warnings: vec![],
        errors: vec![],
        mail: Some("new:".into()),
        record: None,
        recipients: vec![],
        reached: dots,
        confirmed: vec![BYSTANDER.into()],
        pending: 1,
    };
    match row.fate {
        Fate::Usual => Found {
            mail: None,
            reached: 1,
            confirmed: vec![BYSTANDER.into(), ONE.into(), TWO.into()],
            pending: 0,
            ..open
        },
        Fate::Relays => Found {
            code: 75,
            warnings: vec![trouble],
            errors: vec![RELAY_AWAY.into()],
            confirmed: vec![],
            pending: 2,
            ..open
        },
        Fate::Breaks => Found {
            code: 75,
            warnings: vec![trouble.clone(), trouble],
            errors: vec![RELAY_AWAY.into()],
            reached: 2 * dots,
            ..open
        },
        Fate::Deferred => Found {
            warnings: said(&format!("deferred: {ONE}")),
            record: Some(("deferred".into(), 1, 0)),
            recipients: both("deferred *"),
            ..open
        },
        Fate::Held => Found {
            code: 1,
            errors: [said(&format!("rejected by the relay, and held: {ONE}")), vec![SOME_FAILED.into()]]
                .concat(),
            mail: Some("cur:2,F".into()),
            record: Some(("rejected".into(), 1, 0)),
            recipients: both("rejected *"),
            ..open
        },
        Fate::DeferredFor(whom) => Found {
            warnings: said(&format!("deferred: {whom}")),
            record: Some(("deferred".into(), 1, 0)),
            recipients: [ONE, TWO]
                .map(|to| (to.into(), if to == whom { "deferred *" } else { "accepted" }.into()))
                .to_vec(),
            reached: 1,
            confirmed: [BYSTANDER, other_than(whom)].map(Into::into).to_vec(),
            ..open
        },
        Fate::RefusedFor(whom) => Found {
            code: 1,
            errors: [
                said(&format!("relayed, but not to all recipients: {whom}")),
                vec![SOME_FAILED.into()],
            ]
            .concat(),
            mail: None,
            reached: 1,
            confirmed: [BYSTANDER, other_than(whom)].map(Into::into).to_vec(),
            pending: 0,
            ..open
        },
        Fate::Uncertain => Found {
            warnings: vec![
                format!("uncertain, will be sent again with the same Message-ID: {ONE}: {}", row.unsure()),
                trouble,
            ],
            record: Some(("deferred".into(), 1, 1)),
            recipients: both("deferred uncertain"),
            ..open
        },
        Fate::UncertainAndHeld => Found {
            code: 1,
            warnings: vec![trouble],
            errors: vec![
                "not sent, and held: the relay may have taken it: it was handed over whole, and no answer \
                 came (attempts: 1)"
                    .into(),
                SOME_FAILED.into(),
            ],
            mail: Some("cur:2,F".into()),
            record: Some(("held".into(), 1, 1)),
            recipients: both("deferred uncertain"),
            ..open
        },
    }
}

/// And what the next run has to add to that, with a relay that behaves.
fn expect_next_run(row: &Row, first: Found) -> Found {
    let quiet = Found { code: 0, warnings: vec![], errors: vec![], ..first };
    let everybody = [BYSTANDER, ONE, TWO].map(Into::into).to_vec();
    match row.fate {
        // The first two wait for a person; with the others there is nothing more to be done.
        Fate::Held | Fate::UncertainAndHeld | Fate::Usual | Fate::RefusedFor(_) => quiet,
        Fate::Relays | Fate::Breaks | Fate::Deferred | Fate::DeferredFor(_) | Fate::Uncertain => {
            Found {
                mail: None,
                record: None,
                recipients: vec![],
                reached: quiet.reached + 1,
                confirmed: everybody,
                pending: 0,
                ..quiet
            }
        }
    }
}

fn other_than(whom: &str) -> &'static str {
    if whom == ONE { TWO } else { ONE }
}

impl Row {
    fn name(&self) -> String {
        format!("{:?}: {} ({:?}, {:?})", self.at, self.does, self.kind, self.fate)
    }

    /// Whether it is about time that passes.
    fn waits(&self) -> bool {
        self.words == "it took too long"
    }

    /// The words of the relay's trouble.
    fn trouble(&self) -> String {
        // What comes unasked is found at a later step. A reset can be there before the connection.
        let elsewhere = self.does == "extra reply"
            || (self.at, &*self.does) == (Step::Greeting, "reset")
            || self.words.starts_with("out of step")
            || self.words.starts_with("failed to");
        format!("{IN_TROUBLE}{}", if elsewhere { "" } else { self.at.words() })
    }

    /// What is said of a recipient of whom it is not known whether the relay has the mail.
    fn unsure(&self) -> &'static str {
        if self.does == "3xx" { NO_MEANING } else { NO_ANSWER }
    }

    fn settings(&self) -> Vec<(&'static str, Value)> {
        let mut settings = Vec::new();
        if self.waits() {
            // No longer than a busy machine may need for a reply.
            let short = json!({"greeting": "3s", "command": "3s", "final_dot": "3s", "quit": "1s"});
            settings.push(("smtp.timeouts", short));
        }
        if self.fate == Fate::UncertainAndHeld {
            settings.push(("delivery.uncertain", json!("hold")));
        }
        settings
    }

    /// Panics where something is not as it must be.
    fn run(&self) {
        let case = Case::new(self.kind, &self.settings());
        case.misbehave(&self.act);
        self.check(&case, || case.relay.behave());
        assert!(case.relay.flooded() < 32 << 20, "{} octets taken", case.relay.flooded());
    }

    /// Runs the program twice, and has the relay behave in between.
    fn check(&self, case: &Case, behave: impl FnOnce()) {
        let run = case.site.deliverer(&["run", "--once"]);
        let expected = expect_first_run(self);
        assert_eq!(case.found(&run, &expected, self.words), expected, "{run}");
        expect_decent(&run, &case.site);
        behave();
        case.wait_until_due();
        let next = case.site.deliverer(&["run", "--once"]);
        let expected = expect_next_run(self, expected);
        assert_eq!(case.found(&next, &expected, self.words), expected, "{run}\n{next}");
        case.expect_the_same_mail();
    }

    /// The same with a service at work, which tells how relay and mails are.
    fn serve(&self) {
        let case = Case::new(self.kind, &self.settings());
        case.misbehave(&self.act);
        let service = case.site.start_deliverer(&["run"]);
        let trouble = self.trouble();
        let trouble = trouble.strip_prefix(IN_TROUBLE).unwrap();
        let is_in_trouble = |status: &Value| {
            let relay = &status["service"]["relays"][0];
            let told = relay["trouble"]["words"].as_str().unwrap_or_default();
            told.contains(trouble) && told.contains(self.words) && relay["paused_until"].is_string()
        };
        let is_well = |status: &Value| status["service"]["relays"][0]["trouble"].is_null();
        match self.fate {
            // Tried again and again, the mail is the only one that tells of the relay.
            Fate::Relays | Fate::Breaks | Fate::Uncertain => {
                case.wait_for_status("WARNING", is_in_trouble);
            }
            Fate::Deferred | Fate::DeferredFor(_) => {
                case.wait_for_status("OK", |status| {
                    is_well(status) && status["mails"]["deferred"] == 1
                });
            }
            Fate::Held => {
                case.wait_for_status("WARNING", |status| {
                    is_well(status) && status["mails"]["failed"] == 1
                });
            }
            Fate::Usual | Fate::RefusedFor(_) => {
                case.wait_for_status("OK", |status| {
                    is_well(status) && status["mails"]["queued"] == 0
                });
            }
            Fate::UncertainAndHeld => unreachable!("it is held as others are"),
        }
        case.relay.behave();
        let expected = expect_next_run(self, expect_first_run(self));
        wait_until("all that can be sent is sent", || case.site.pending() == expected.pending);
        case.wait_for_status(if self.fate == Fate::Held { "WARNING" } else { "OK" }, is_well);
        let run = service.terminate().expect(0);
        assert_eq!(case.confirmed(), expected.confirmed, "{run}");
        if matches!(self.fate, Fate::Relays | Fate::Breaks) {
            assert!(run.lines("INFO").iter().any(|line| line.contains("works again")), "{run}");
        }
        expect_decent(&run, &case.site);
        case.expect_the_same_mail();
    }
}

impl Case {
    /// Waits until `status` says this of all, and of some as is asked.
    fn wait_for_status(&self, severity: &str, is_so: impl Fn(&Value) -> bool) {
        let mut last = String::new();
        let began = Instant::now();
        loop {
            let run = self.site.deliverer(&["status", "--json"]);
            if let Ok(status) = serde_json::from_str::<Value>(&run.stdout)
                && status["status"] == severity
                && is_so(&status)
            {
                let code = ["OK", "WARNING", "CRITICAL"].iter().position(|name| *name == severity);
                assert_eq!(run.status.code(), code.and_then(|code| code.try_into().ok()));
                return;
            }
            assert!(
                began.elapsed() < LIMIT,
                "it is not {severity} or not so: {run}\nbefore: {last}"
            );
            last = run.stdout;
        }
    }

    /// What comes more than once is the same mail, to be told by its Message-ID and by its octets.
    fn expect_the_same_mail(&self) {
        let mut reached = self.reached();
        reached.dedup_by(|a, b| a.bytes == b.bytes && a.message_id() == b.message_id());
        assert!(reached.len() <= 1, "{reached:?}");
    }

    /// What there is now. Of log lines, that they are the expected ones if they hold the same words.
    fn found(&self, run: &Finished, expected: &Found, words: &str) -> Found {
        let told = |level: &str, expected: &[String]| {
            let mut lines: Vec<String> = run.lines(level).into_iter().map(Into::into).collect();
            // Two of an instant come in either order.
            for words_too in expected {
                let is_it = |line: &String| {
                    line.contains(words_too)
                        && (!words_too.starts_with(IN_TROUBLE) || line.contains(words))
                };
                if let Some(line) = lines.iter_mut().find(|line| is_it(line)) {
                    line.clone_from(words_too);
                }
            }
            lines.sort_by_key(|line| expected.iter().position(|expected| expected == line));
            lines
        };
        let (mail, record) =
            self.mail().map_or((None, None), |(mail, record)| (Some(mail), record));
        let recipient = |(to, outcome): (&String, &Value)| {
            let state = outcome["state"].as_str().unwrap();
            let reply = outcome["reply"].as_str().unwrap();
            let words = match state {
                "accepted" => "accepted".to_owned(),
                _ if reply == NO_ANSWER || reply.starts_with(NO_MEANING) => {
                    format!("{state} uncertain")
                }
                _ if reply.contains(words) => format!("{state} *"),
                _ => format!("{state} {reply}"),
            };
            (to.clone(), words)
        };
        let recipients = record.as_ref().map(|record| {
            record["recipients"].as_object().unwrap().iter().map(recipient).collect()
        });
        let number = |record: &Value, key: &str| record[key].as_u64().unwrap_or(0);
        Found {
            code: run.status.code().unwrap(),
            warnings: told("WARN", &expected.warnings),
            errors: told("ERROR", &expected.errors),
            mail,
            record: record.map(|record| {
                let state = record["state"].as_str().unwrap().to_owned();
                (state, number(&record, "attempts"), number(&record, "uncertain"))
            }),
            recipients: recipients.unwrap_or_default(),
            reached: self.reached().len(),
            confirmed: self.confirmed(),
            pending: self.site.pending(),
        }
    }
}

/// Whatever the relay says, each entry of the log is a line of bounded length, and a record is JSON of
/// bounded size; neither has anything in it that acts on a terminal.
fn expect_decent(run: &Finished, site: &Site) {
    for line in run.stderr.lines() {
        let time = line.split_whitespace().next().unwrap_or_default();
        assert!(time.parse::<Timestamp>().is_ok(), "no entry of its own: {line:?}");
        assert!(!line.contains(is_hidden) && line.len() < 6_000, "{line:?}");
    }
    for file in site.listed("delivery") {
        let text = std::fs::read_to_string(&file).unwrap();
        let json: Value = serde_json::from_str(&text).unwrap();
        let shown = |c: char| c == '\n' || !is_hidden(c);
        assert!(text.len() < 8_000 && text.chars().all(shown) && json.is_object(), "{text}");
        assert!(!text.contains("\\u"), "{text}");
    }
}

/// Some rows side by side; all that is wrong is told.
fn side_by_side(rows: &[Row], run: fn(&Row)) {
    let begun = Instant::now();
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                while let Some(row) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(row))) {
                        let told = format!("{}\n{}", row.name(), words_of(&*panic));
                        wrong.lock().unwrap().push(told);
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    println!("{} rows in {} s", rows.len(), begun.elapsed().as_secs());
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), rows.len(), wrong.join("\n\n"));
}

fn words_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no words")
}

#[test]
fn whatever_a_relay_does_at_whichever_step_each_mail_stands_as_the_table_says() {
    side_by_side(&rows(), Row::run);
}

#[test]
fn the_running_service_tells_how_the_relay_and_the_mails_are_and_goes_on_by_itself() {
    let mut rows = rows();
    rows.retain(|row| {
        ["4xx", "5xx", "drop"].contains(&&*row.does)
            && row.kind == Kind::of(row.at)[0]
            && row.fate != Fate::UncertainAndHeld
    });
    side_by_side(&rows, Row::serve);
}

#[test]
fn a_relay_that_takes_no_connection_is_in_trouble_and_no_mail_is() {
    let row = |does: &str, words| Row {
        at: Step::Connect,
        does: does.to_owned(),
        act: Vec::new(),
        kind: Kind::Plain,
        fate: Fate::Relays,
        words,
    };
    let refused = row("refused", "Connection refused");
    let case = Case::new(refused.kind, &[]);
    case.relay.go_away();
    refused.check(&case, || case.relay.come_back());

    let swallowed = row("swallowed", "connection timed out");
    let case = Case::new(swallowed.kind, &[("smtp.timeouts", json!({"connect": "2s"}))]);
    case.relay.go_away();
    // A queue of connections that nobody takes out, and full: the kernel does not answer more.
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, case.relay.port()));
    let listener = TcpListener::bind(address).expect("the port is still free");
    rustix::net::listen(&listener, 0).expect("a queue may be short");
    let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(500)).ok();
    let queue: Vec<TcpStream> = std::iter::from_fn(connect).collect();
    swallowed.check(&case, || {
        drop((listener, queue));
        case.relay.come_back();
    });
}

#[test]
fn mails_larger_than_a_relay_says_that_it_takes_are_held_with_the_reason() {
    let case = Case::new(Kind::Plain, &[]);
    case.misbehave(&[(Step::Ehlo, send("250-x\r\n250 SIZE 1\r\n"))]);
    let run = case.site.deliverer(&["run", "--once"]).expect(1);
    let told = run.lines("ERROR");
    let reason = "not sent, and held: failed to send the mail: ";
    assert_eq!(told.iter().filter(|line| line.contains(reason)).count(), 2, "{run}");
    assert!(case.relay.commands().iter().all(|command| !command.starts_with("MAIL")), "{run}");
    let (place, record) = case.mail().unwrap();
    let record = record.unwrap();
    assert_eq!(
        (&*place, &record["state"], &record["attempts"]),
        ("cur:2,F", &json!("held"), &json!(0))
    );
}

#[test]
fn check_notes_a_wait_for_the_last_word_that_makes_duplicates_likely() {
    let case = Case::new(Kind::Plain, &[("smtp.timeouts", json!({"final_dot": "599s"}))]);
    let run = case.site.deliverer(&["check"]).expect(0);
    assert!(
        run.stdout.contains("note  relay: 127.0.0.1: smtp.timeouts.final_dot is below"),
        "{run}"
    );
    let case = Case::new(Kind::Plain, &[("smtp.timeouts", json!({"final_dot": "10m"}))]);
    let run = case.site.deliverer(&["check"]).expect(0);
    assert!(!run.stdout.contains("note"), "{run}");
}
