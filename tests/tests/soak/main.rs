//! The long run: both programs at work for as many minutes as `MINUTES` says, while events come all
//! the time, a person is at the mails, relays and database go away, and both programs are killed.
//!
//! | thread | does |
//! | --- | --- |
//! | loader | stores events, as IntelMQ does |
//! | generator | `run --all` again and again, as a timer does; kills some of them |
//! | deliverer | the service: long lives in which nobody kills it, and short ones with violent ends; SIGHUP with other relays and limits in both |
//! | operator | flags, unflags and deletes mails like mutt, and uses the commands on the queue |
//! | trouble | the relay refuses, hangs up and goes away; the database is stopped, killed, or ends sessions |
//! | sampler | memory, descriptors and threads of the service, sessions in the database, files in the outbox |
//!
//! At the end everything is healed, and the counts have to be exact.

mod samples;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::thread;
use std::time::{Duration, Instant};

use outbox_tests::database::insert_event;
use outbox_tests::events::{Directive, recipient};
use outbox_tests::postfix::Postfix;
use outbox_tests::postgres_cluster::SUPERUSER;
use outbox_tests::programs::{Finished, Running, wait_until};
use outbox_tests::random::Random;
use outbox_tests::scripted_relay::{Act, At, ScriptedRelay};
use outbox_tests::site::Site;
use outbox_tests::{Cluster, mail, programs};
use rustix::process::Signal;
use samples::{Life, Sample, Samples};
use serde_json::{Value, json};

/// `delivery.connections` at most, to each of two relays: so many mails a kill can make go out again.
const CONNECTIONS: usize = 4;
const IN_HAND: usize = 2 * CONNECTIONS;

/// How many groups there are: so many mails a run of the generator writes at most.
const GROUPS: u64 = 40;

/// Whom copies go to.
const COLLEAGUES: &str = "internal-gov@cert.example";

#[test]
#[ignore = "takes the minutes that MINUTES says"]
fn nothing_is_lost_or_repeated_in_a_long_run_and_the_service_does_not_grow() {
    let minutes = std::env::var("MINUTES").map_or(4.0, |text| {
        text.parse::<f64>().unwrap_or_else(|error| panic!("MINUTES={text:?}: {error}"))
    });
    let copies = include_str!("../../../templates/formats/examples/01-constituency-copies.toml");
    let (cluster, relay, postfix) = (Cluster::private(), ScriptedRelay::start(), Postfix::shared());
    let site = Site::new(programs!())
        .database(cluster.database())
        .template("formats/01-constituency-copies.toml", copies)
        .set("smtp", both(&relay, postfix))
        .set("delivery.retry_min", json!("1s"))
        .set("delivery.retry_max", json!("5s"))
        .set("delivery.archive_for", json!("60s"))
        .set("delivery.archive_size", json!("200K"))
        .build();
    let run = Run {
        site: RwLock::new(site),
        cluster,
        relay,
        postfix,
        until: Instant::now() + Duration::from_secs_f64(minutes * 60.0),
        length: Duration::from_secs_f64(minutes * 60.0),
        over: AtomicBool::new(false),
        changes: AtomicUsize::new(0),
        life: Mutex::new(None),
        done: Done::default(),
        samples: Mutex::default(),
    };
    let random = Random::seeded(1796);
    thread::scope(|scope| {
        for (number, work) in
            [Run::load, Run::generate, Run::deliver, Run::operate, Run::trouble, Run::sample]
                .into_iter()
                .enumerate()
        {
            let (run, mut random) = (&run, random.clone());
            (0..=number).for_each(|_| _ = random.below(2));
            scope.spawn(move || {
                let _stops = StopsAll(&run.over);
                work(run, &mut random);
            });
        }
    });
    run.heal();
    println!("{}", run.done);
    run.assert_nothing_lost_or_repeated();
    let samples = run.samples.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("{samples}");
    samples.assert_flat(run.length / 4);
}

/// What all threads share.
struct Run {
    site: RwLock<Site>,
    cluster: Cluster,
    relay: ScriptedRelay,
    postfix: &'static Postfix,
    until: Instant,
    length: Duration,
    over: AtomicBool,
    /// How often database or room went away or came back: odd while one is away.
    changes: AtomicUsize,
    /// The service that runs.
    life: Mutex<Option<(u32, Life)>>,
    done: Done,
    samples: Mutex<Samples>,
}

/// What was done.
#[derive(Default)]
struct Done {
    events: AtomicUsize,
    generator_runs: AtomicUsize,
    generator_kills: AtomicUsize,
    deliverer_kills: AtomicUsize,
    deliverer_stops: AtomicUsize,
    reloads: AtomicUsize,
    renames: AtomicUsize,
    deletions: AtomicUsize,
    commands: AtomicUsize,
    relay_outages: AtomicUsize,
    refusals: AtomicUsize,
    hangups: AtomicUsize,
    database_stops: AtomicUsize,
    database_kills: AtomicUsize,
    sessions_ended: AtomicUsize,
    /// The tickets of mails that were taken back to be written anew.
    taken_back: Mutex<BTreeSet<String>>,
}

/// Ends the other threads when its own one panics.
struct StopsAll<'a>(&'a AtomicBool);

impl Drop for StopsAll<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

fn count(counter: &AtomicUsize) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn both(relay: &ScriptedRelay, postfix: &Postfix) -> Value {
    json!([one(relay.port()), one(postfix.port())])
}

fn one(port: u16) -> Value {
    json!({"host": "127.0.0.1", "port": port})
}

impl Run {
    fn site(&self) -> RwLockReadGuard<'_, Site> {
        self.site.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the configuration, and whoever starts from now on reads it.
    fn set(&self, key: &str, value: Value) {
        self.site.write().unwrap_or_else(PoisonError::into_inner).set(key, value);
    }

    /// Runs the generator to its end. (What waits for its end must keep nobody from changing the
    /// configuration.)
    fn generator(&self) -> Finished {
        let running = self.site().start_generator(&["run", "--all"]);
        running.finish()
    }

    fn deliverer(&self, arguments: &[&str]) -> Finished {
        let running = self.site().start_deliverer(arguments);
        running.finish()
    }

    fn goes_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed) && Instant::now() < self.until
    }

    /// Lets time pass. False if the run is over.
    fn pause(&self, time: Duration) -> bool {
        let until = (Instant::now() + time).min(self.until);
        while self.goes_on() && Instant::now() < until {
            thread::sleep((until - Instant::now()).min(Duration::from_millis(100)));
        }
        self.goes_on()
    }

    // ---- The threads ----

    fn load(&self, random: &mut Random) {
        let (mut client, mut number) = (None, 0);
        while self.pause(random.moment(Duration::from_millis(250))) {
            let connect = || self.site().database().try_connect_as(SUPERUSER).ok();
            let Some(mut connected) = client.take().or_else(connect) else { continue };
            let events: Vec<Value> = (0..=random.below(8))
                .map(|_| {
                    number += 1;
                    event(number, random.below(GROUPS))
                })
                .collect();
            let store = |client: &mut postgres::Client| -> anyhow::Result<()> {
                let mut transaction = client.transaction()?;
                for event in &events {
                    insert_event(&mut transaction, event)?;
                }
                Ok(transaction.commit()?)
            };
            // Where the database goes away in the midst of it, it knows which it has.
            if store(&mut connected).is_ok() {
                self.done.events.fetch_add(events.len(), Ordering::Relaxed);
                client = Some(connected);
            }
        }
    }

    fn generate(&self, random: &mut Random) {
        while self.pause(random.moment(Duration::from_millis(1_500))) {
            count(&self.done.generator_runs);
            let before = self.changes.load(Ordering::SeqCst);
            let running = self.site().start_generator(&["run", "--all"]);
            if random.below(4) == 0 {
                thread::sleep(random.moment(Duration::from_millis(700)));
                if running.kill().status.code().is_none() {
                    count(&self.done.generator_kills);
                }
                continue;
            }
            let ended = running.finish();
            let undisturbed =
                before.is_multiple_of(2) && before == self.changes.load(Ordering::SeqCst);
            match ended.status.code() {
                Some(0) => {}
                Some(75) if !undisturbed => {}
                _ => panic!("{ended}"),
            }
        }
    }

    /// Of ten tenths of the time, four are a first long life, one is violent, and so on.
    fn deliver(&self, random: &mut Random) {
        let begun = Instant::now();
        let mut tenths = 0;
        for (part, long) in [(4, true), (2, false), (3, true), (1, false)] {
            tenths += part;
            let until = begun + self.length * tenths / 10;
            while self.goes_on() && Instant::now() < until {
                let longest = until - Instant::now();
                let time = random.moment(Duration::from_secs(8)).min(longest);
                self.live(random, if long { longest } else { time }, long);
            }
        }
    }

    /// A life of the service.
    fn live(&self, random: &mut Random, time: Duration, long: bool) {
        let mut service = self.site().start_deliverer(&["run"]);
        // A kill may also come right at its start.
        if long || random.below(4) > 0 {
            service.wait_for("delivering");
        }
        let begun = Instant::now();
        *self.life.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((service.id(), Life { begun, long }));
        let until = begun + time;
        while self.goes_on() && Instant::now() < until {
            let pause = random.moment(Duration::from_secs(if long { 20 } else { 4 }));
            self.pause(pause.min(until.saturating_duration_since(Instant::now())));
            assert!(service.is_running(), "the service ended: {}", service.finish());
            if Instant::now() < until {
                self.reload(random, &service);
            }
        }
        *self.life.lock().unwrap_or_else(PoisonError::into_inner) = None;
        if long || random.below(3) == 0 {
            count(&self.done.deliverer_stops);
            no_panic(service.terminate().expect(0));
        } else {
            count(&self.done.deliverer_kills);
            no_panic(service.kill());
        }
    }

    /// Has the service read another configuration.
    fn reload(&self, random: &mut Random, service: &Running) {
        match random.below(4) {
            0 => self.set("smtp", both(&self.relay, self.postfix)),
            1 => self.set("smtp", one(self.relay.port())),
            2 => self.set("smtp", one(self.postfix.port())),
            _ => self.set("delivery.connections", json!(1 + random.below(CONNECTIONS as u64))),
        }
        count(&self.done.reloads);
        service.signal(Signal::HUP);
    }

    fn operate(&self, random: &mut Random) {
        while self.pause(random.moment(Duration::from_millis(1_500))) {
            let names: Vec<_> =
                ["new", "cur"].iter().flat_map(|at| self.site().listed(at)).collect();
            let Some(path) = pick(&names, random) else { continue };
            let name = path.file_name().expect("it has one").to_string_lossy().into_owned();
            let (unique, flags) = name.split_once(":2,").unwrap_or((&name, ""));
            let flagged = |letters: &str| {
                let to = self.site().outbox().join("cur").join(format!("{unique}:2,{letters}"));
                // Gone or renamed in this moment: a mail reader looks anew.
                if fs::rename(path, to).is_ok() {
                    count(&self.done.renames);
                }
            };
            let ticket = unique.split('.').nth(2).unwrap_or_default();
            let command = |arguments: &[&str]| -> Finished {
                count(&self.done.commands);
                let ended = self.deliverer(arguments);
                assert!(matches!(ended.status.code(), Some(0 | 1)), "{ended}");
                no_panic(ended)
            };
            match random.below(12) {
                0 | 1 => flagged(&format!("F{}", flags.replace(['F', 'T'], ""))),
                2 => flagged(&format!("{}S", flags.replace('S', ""))),
                3 => flagged(&format!("{}T", flags.replace('T', ""))),
                4 | 5 => flagged(&flags.replace(['F', 'T'], "")),
                6 => {
                    count(&self.done.deletions);
                    let _ = fs::remove_file(path);
                }
                7 => _ = command(&["hold", ticket]),
                8 => _ = command(&["release", "--all"]),
                9 => _ = command(&["retry", "--state", "deferred"]),
                10 => _ = command(&["show", ticket]),
                _ => {
                    let ended = command(&["withdraw", "--regenerate", ticket]);
                    if ended.stdout.contains("taken back") {
                        self.note_taken_back(&ended);
                    }
                }
            }
        }
    }

    /// The lines begin with the ticket.
    fn note_taken_back(&self, ended: &Finished) {
        let mut tickets = self.done.taken_back.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = ended.stdout.lines().filter(|line| line.contains("taken back"));
        tickets.extend(lines.filter_map(|line| Some(line.split_once(' ')?.0.to_owned())));
    }

    fn trouble(&self, random: &mut Random) {
        while self.pause(random.moment(Duration::from_secs(8))) {
            let time = random.moment(Duration::from_secs(4));
            match random.below(9) {
                0 | 1 => {
                    count(&self.done.relay_outages);
                    self.relay.go_away();
                    self.pause(time);
                    self.relay.come_back();
                }
                2 => {
                    count(&self.done.database_stops);
                    self.without(|| {
                        self.cluster.stop();
                        self.pause(time);
                        self.cluster.start();
                    });
                }
                3 => {
                    count(&self.done.database_kills);
                    self.without(|| {
                        self.cluster.kill();
                        self.pause(time);
                        self.cluster.start();
                    });
                }
                4 => {
                    count(&self.done.sessions_ended);
                    self.without(|| {
                        self.site().sql(
                            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                              WHERE application_name LIKE 'outbox-%'",
                        );
                    });
                }
                5 => {
                    count(&self.done.hangups);
                    self.relay.once(At::FinalDot, "", Act::HangUp);
                }
                _ => {
                    count(&self.done.refusals);
                    let refusal = [
                        (At::Rcpt, "450 4.2.0 greylisted, try again later"),
                        (At::Rcpt, "550 5.1.1 no such user here"),
                        (At::FinalDot, "451 4.3.0 try again later"),
                        (At::Mail, "421 4.3.2 going down"),
                    ];
                    let (at, words) = *pick(&refusal, random).expect("there are some");
                    let act = Act::Say(words);
                    let act = if words.starts_with("421") { Act::SayAndHangUp(words) } else { act };
                    self.relay.once(at, "", act);
                }
            }
        }
    }

    /// Does something without which the generator may have to give up.
    fn without(&self, outage: impl FnOnce()) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        outage();
        self.changes.fetch_add(1, Ordering::SeqCst);
    }

    fn sample(&self, _: &mut Random) {
        while self.pause(Duration::from_secs(1)) {
            let life = *self.life.lock().unwrap_or_else(PoisonError::into_inner);
            let sample = life.and_then(|(pid, life)| Sample::of(pid, life));
            let folders = ["new", "cur", "sidecar", "delivery", "sent/cur"]
                .map(|at| self.site().listed(at).len());
            let client = self.site().database().try_connect_as(SUPERUSER);
            let sessions = client.ok().and_then(|mut client| {
                let row = client.query_one(
                    "SELECT count(*) FILTER (WHERE application_name = 'outbox-generator'),
                            count(*) FILTER (WHERE application_name = 'outbox-deliverer')
                       FROM pg_stat_activity",
                    &[],
                );
                row.ok().map(|row| (row.get(0), row.get(1)))
            });
            let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
            samples.note(sample, folders, sessions);
        }
    }

    // ---- The end ----

    /// All is well again, and what a person stopped goes on.
    fn heal(&self) {
        self.relay.behave();
        self.set("smtp", both(&self.relay, self.postfix));
        for _ in 0..20 {
            for mail in ["new", "cur"].iter().flat_map(|at| self.site().listed(at)) {
                let name = mail.file_name().expect("it has one").to_string_lossy();
                let (unique, flags) = name.split_once(":2,").unwrap_or((&name, ""));
                let to = format!("{unique}:2,{}", flags.replace(['F', 'T'], ""));
                fs::rename(&mail, self.site().outbox().join("cur").join(to)).expect("nobody else");
            }
            let deleted = self.deliverer(&["withdraw", "--regenerate", "--state", "withdrawn"]);
            self.note_taken_back(&deleted.expect(0));
            self.deliverer(&["retry", "--state", "deferred"]).expect(0);
            self.generator().expect(0);
            let ended = self.deliverer(&["run", "--once"]);
            assert!(matches!(ended.status.code(), Some(0 | 75)), "{ended}");
            if self.site().pending() == 0 && self.site().listed("sidecar").is_empty() {
                return;
            }
        }
        panic!("not all is sent: {:?}", self.site().files());
    }

    fn assert_nothing_lost_or_repeated(&self) {
        let site = self.site();
        let strays: Vec<String> =
            site.files().into_iter().filter(|file| !file.starts_with("sent/cur/#")).collect();
        assert_eq!(strays, [""; 0], "nothing is left but the archive");
        let directives = site.column::<i64>("SELECT count(*) FROM directives")[0];
        let events = site.column::<i64>("SELECT count(*) FROM events")[0];
        assert_eq!(directives, events, "an event has one here");
        let tickets: BTreeSet<String> = site.sent_tickets().into_iter().collect();
        let rows = site.column::<i64>("SELECT count(*) FROM sent WHERE sent_at IS NOT NULL")[0];
        assert_eq!(i64::try_from(tickets.len()).unwrap(), rows, "no ticket twice");

        let mut mails = Vec::new();
        wait_until("Postfix has delivered what it took", || {
            mails = self.arrived();
            let there: BTreeSet<&String> = mails.iter().map(|mail| &mail.ticket).collect();
            tickets.iter().all(|ticket| there.contains(ticket))
        });
        let mut distinct: BTreeMap<&str, &Arrived> = BTreeMap::new();
        let (mut again, mut in_doubt) = (0, 0);
        let taken_back = self.done.taken_back.lock().unwrap_or_else(PoisonError::into_inner);
        for mail in &mails {
            if let Some(first) = distinct.get(&*mail.message_id) {
                assert_eq!(first.text, mail.text, "what comes again is the same to the last octet");
                again += 1;
                continue;
            }
            distinct.insert(&mail.message_id, mail);
            if !tickets.contains(&mail.ticket) {
                // Taken back although the relay had it, unknown to us: a kill, or no answer. Copies
                // are mails of their own, and may be sent before that.
                assert!(taken_back.contains(&mail.ticket), "{} is unknown", mail.ticket);
                in_doubt += usize::from(mail.to != COLLEAGUES);
            }
        }
        let kills = self.done.deliverer_kills.load(Ordering::Relaxed);
        let hangups = self.done.hangups.load(Ordering::Relaxed);
        let allowed = kills * IN_HAND + hangups;
        println!(
            "sent: {directives} directives in {} mails; {} mails came, {} of them through Postfix, \
             {again} again and {in_doubt} taken back in doubt, of {allowed} that {kills} kills and \
             {hangups} lost answers allow",
            tickets.len(),
            mails.len(),
            mails.iter().filter(|mail| mail.through_postfix).count(),
        );
        assert!(again + in_doubt <= allowed, "{again} + {in_doubt} > {allowed}");

        // Each event is in the mail by which its directive was sent, and that mail is in no other.
        let mut found: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
        let mut messages: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for mail in distinct.values().filter(|mail| tickets.contains(&mail.ticket)) {
            if mail.to != COLLEAGUES {
                messages.entry(&mail.ticket).or_default().insert(&mail.message_id);
            }
            for piece in mail.text.replace("=\n", "").split("mark-").skip(1) {
                found.entry(piece[..8].to_owned()).or_default().insert(&mail.ticket);
            }
        }
        assert!(messages.values().all(|ids| ids.len() == 1), "no ticket twice");
        assert_eq!(messages.keys().count(), tickets.len(), "each mail that is marked came");
        let rows = site.database().connect().query(
            "SELECT events.\"destination.fqdn\", intelmq_ticket
               FROM directives JOIN events ON events.id = events_id JOIN sent ON sent.id = sent_id",
            &[],
        );
        for row in rows.expect("the database is there") {
            let (name, ticket): (String, String) = (row.get(0), row.get(1));
            let mark = &name["mark-".len()..][..8];
            let expected = BTreeSet::from([&*ticket]);
            assert_eq!(found.remove(mark), Some(expected), "the event {name}");
        }
        assert_eq!(found, BTreeMap::new(), "no event is in a mail that it does not belong to");
    }

    /// All that came, over either relay.
    fn arrived(&self) -> Vec<Arrived> {
        let mut mails: Vec<Arrived> = (self.relay.received().iter())
            .filter(|mail| !mail.refused)
            .map(|mail| Arrived::new(&mail.bytes, mail.to.join(" "), false))
            .collect();
        for file in self.postfix.mails_of(self.site().domain()) {
            let bytes = fs::read(file).expect("failed to read a mail");
            let to = mail::header(&bytes, "X-Original-To").expect("Postfix says so");
            mails.push(Arrived::new(&bytes, to, true));
        }
        mails
    }
}

/// A mail that arrived.
struct Arrived {
    message_id: String,
    ticket: String,
    to: String,
    /// From the first field that is ours, with the line ends of a Maildir.
    text: String,
    through_postfix: bool,
}

impl Arrived {
    fn new(bytes: &[u8], to: String, through_postfix: bool) -> Self {
        let text = String::from_utf8(bytes.to_vec()).expect("it is ASCII").replace("\r\n", "\n");
        let begin = if text.starts_with("From: ") { 0 } else { text.find("\nFrom: ").unwrap() + 1 };
        let header = |name| mail::header(bytes, name).expect("it is there");
        Self {
            message_id: header("Message-ID"),
            ticket: header("X-Ticket"),
            to,
            text: text[begin..].to_owned(),
            through_postfix,
        }
    }
}

/// An event of this group that can be found again in a mail.
fn event(number: u64, group: u64) -> Value {
    let mut directive = Directive::to(&recipient(usize::try_from(group).expect("it is small")));
    if group.is_multiple_of(10) {
        directive = directive.aggregate("recipient_group", "Government");
    }
    let mut event = directive.event();
    event["destination.fqdn"] = json!(format!("mark-{number:08}.example"));
    event
}

fn pick<'a, T>(of: &'a [T], random: &mut Random) -> Option<&'a T> {
    let end = u64::try_from(of.len()).expect("it is small");
    (end > 0).then(|| &of[usize::try_from(random.below(end)).expect("it is small")])
}

fn no_panic(ended: Finished) -> Finished {
    assert!(!ended.stderr.contains("panicked"), "{ended}");
    ended
}

impl std::fmt::Display for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let taken_back = self.taken_back.lock().unwrap_or_else(PoisonError::into_inner).len();
        for (count, what) in [
            (&self.events, "events stored"),
            (&self.generator_runs, "runs of the generator"),
            (&self.generator_kills, "of them killed"),
            (&self.deliverer_kills, "services killed"),
            (&self.deliverer_stops, "services stopped"),
            (&self.reloads, "configurations read anew"),
            (&self.renames, "renames as of a mail reader"),
            (&self.deletions, "mails deleted"),
            (&self.commands, "commands on the queue"),
            (&self.relay_outages, "outages of the relay"),
            (&self.refusals, "refusals and broken sessions"),
            (&self.hangups, "answers to a final dot not given"),
            (&self.database_stops, "stops of the database"),
            (&self.database_kills, "kills of the database"),
            (&self.sessions_ended, "times that it ended all sessions"),
        ] {
            writeln!(f, "{:>8} {what}", count.load(Ordering::Relaxed))?;
        }
        write!(f, "{taken_back:>8} mails taken back to be written anew")
    }
}
