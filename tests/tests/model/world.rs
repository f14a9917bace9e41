//! The real world that the steps happen in: the two programs on an installation of their own, a
//! database that can be stopped, a relay that misbehaves. After each step everything stands still for a
//! look.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use jiff::SignedDuration;
use outbox::{MailId, Outbox, State};
use outbox_tests::Cluster;
use outbox_tests::events::{Directive, event_with};
use outbox_tests::programs::{Finished, Programs, Running, wait_until};
use outbox_tests::scripted_relay::{Act, At, ScriptedRelay};
use outbox_tests::site::{Program, Site};
use postgres::Client;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::ledger::{
    Deeds, Directive as Stored, Ledger, SeenMail, SentRow, Settings, Sight, noted,
};
use crate::step::{Command, Database, End, Hand, Relay, Setting, Step};

/// Everything that a sequence works on.
#[expect(clippy::struct_excessive_bools, reason = "each is a matter of its own")]
pub struct World<'c> {
    site: Site,
    cluster: &'c Cluster,
    relay: ScriptedRelay,
    service: Option<Service>,
    settings: Settings,
    database_up: bool,
    relay_up: bool,
    lock: Option<Client>,
    generator_left_things: bool,
    deliverer_left_things: bool,
    ledger: Ledger,
    deeds: Deeds,
    log: String,
}

struct Service {
    running: Running,
    settings: Settings,
    reloads: usize,
}

impl<'c> World<'c> {
    /// One in which nothing has happened. The cluster is at its service alone.
    pub fn new(programs: Programs, cluster: &'c Cluster) -> Self {
        let relay = ScriptedRelay::start();
        let copies =
            include_str!("../../../templates/formats/examples/01-constituency-copies.toml");
        let site = Site::new(programs)
            .database(cluster.database())
            .relay(relay.port())
            .unsigned()
            .template("formats/01-constituency-copies.toml", copies)
            .set("delivery.retry_min", json!("1s"))
            .set("delivery.retry_max", json!("2s"))
            .build();
        Self {
            site,
            cluster,
            relay,
            service: None,
            settings: Settings {
                hold_uncertain: false,
                hold_new: false,
                retry_max: SignedDuration::from_secs(2),
                full: false,
            },
            database_up: true,
            relay_up: true,
            lock: None,
            generator_left_things: false,
            deliverer_left_things: false,
            ledger: Ledger::default(),
            deeds: Deeds::default(),
            log: String::new(),
        }
    }

    /// Lets a step happen, and looks whether all is as it must be.
    pub fn step(&mut self, step: &Step) {
        let _ = writeln!(self.log, "---- {step}");
        if let Some(service) = &self.service {
            self.deeds.settings.push(service.settings);
        }
        match step {
            Step::Insert(groups) => self.insert(groups),
            Step::Generate(end) => self.generate(end),
            Step::Deliver(end) => self.deliver(end),
            Step::Start => self.start(),
            Step::Stop => self.stop(),
            Step::Kill => self.kill(),
            Step::Configure(setting) => self.configure(*setting),
            Step::Pass(time) => sleep(Duration::from_millis(*time)),
            Step::Mail(hand, which) => self.read_mail(*hand, *which),
            Step::Command(command, which, end) => self.command(*command, *which, end),
            Step::Relay(relay) => self.meddle_with_relay(relay),
            Step::Database(database) => self.meddle_with_database(*database),
        }
        self.check();
    }

    /// Heals everything, and lets both programs work until nothing is left to do.
    pub fn come_to_rest(&mut self) -> [usize; 4] {
        self.step(&Step::Database(Database::ComeBack));
        self.step(&Step::Relay(Relay::ComeBack));
        self.step(&Step::Relay(Relay::Behave));
        self.step(&Step::Stop);
        // By the settings of before, as far as these let it.
        self.step(&Step::Generate(End::Itself));
        self.step(&Step::Deliver(End::Itself));
        for setting in [
            Setting::HoldUncertain(false),
            Setting::HoldNew(false),
            Setting::Connections(4),
            Setting::Patient(false),
            Setting::Full(false),
        ] {
            self.step(&Step::Configure(setting));
        }
        for _ in 0..10 {
            let mails = self.mails().len();
            for hand in [Hand::Untrash, Hand::Unflag] {
                (0..mails).for_each(|which| self.read_mail(hand, which));
            }
            // What a person deleted is written anew, and what some have already is not.
            self.command_withdrawn("--regenerate");
            self.command_withdrawn("--suppress");
            self.step(&Step::Command(Command::Retry, None, End::Itself));
            // What waits for the group's last notification waits no more.
            self.site.sql("UPDATE sent SET sent_at = sent_at - interval '2 days'");
            self.step(&Step::Generate(End::Itself));
            self.step(&Step::Deliver(End::Itself));
            if self.site.pending() == 0 && self.site.listed("sidecar").is_empty() {
                let sight = self.look();
                self.ledger.check_the_end(&sight);
                return self.ledger.tally(&sight);
            }
        }
        panic!("it does not come to rest: {:?}", self.site.files());
    }

    /// What happened, with all that the programs said.
    pub fn end(mut self) -> String {
        if let Some(service) = self.service.take() {
            // It may stand still.
            let ended = service.running.kill();
            self.note(&ended);
        }
        let files = self.site.files().join("\n");
        let _ = writeln!(self.log, "---- the outbox\n{files}\n---- what came to the relay");
        for mail in self.relay.received() {
            let (id, to) = (mail.message_id(), mail.to.join(" "));
            let said = match (mail.confirmed, mail.refused) {
                (true, _) => "taken",
                (_, true) => "refused",
                _ => "no answer",
            };
            let _ = writeln!(self.log, "{id} to {to}: {said}");
        }
        if !self.database_up {
            self.cluster.start();
        }
        self.log
    }

    fn note(&mut self, ended: &Finished) {
        let _ = writeln!(self.log, "{ended}");
        assert!(!ended.stderr.contains("panicked"), "{}", ended.what);
    }

    // ---- The steps ----

    fn insert(&mut self, groups: &[u64]) {
        if !self.database_up {
            return;
        }
        let events: Vec<Value> = groups.iter().map(|group| event(*group)).collect();
        self.site.insert(&events);
        let rows = self.site.database().connect().query(
            "SELECT id, recipient_address, notification_interval > interval '0' FROM directives",
            &[],
        );
        for row in rows.expect("the database is there") {
            let directive = Stored { recipient: row.get(1), may_wait: row.get(2) };
            self.ledger.stored(row.get(0), directive);
        }
    }

    fn generate(&mut self, end: &End) {
        let ended = self.run(Program::Generator, &["run", "--all"], end);
        let killed = ended.status.code().is_none();
        self.generator_left_things = killed;
        let undisturbed = self.database_up && self.lock.is_none() && !self.settings.full;
        match ended.status.code() {
            None => {}
            Some(0) => self.deeds.generated = undisturbed,
            Some(75) => assert!(!undisturbed, "{ended}"),
            Some(_) => panic!("{ended}"),
        }
    }

    fn deliver(&mut self, end: &End) {
        if self.service.is_some() {
            return;
        }
        // It would wait for that.
        self.lock = None;
        self.deeds.settings.push(self.settings);
        self.deliverer_left_things = false;
        let ended = self.run(Program::Deliverer, &["run", "--once"], end);
        match ended.status.code() {
            None => {
                self.deeds.deliverer_killed = true;
                self.deliverer_left_things = true;
            }
            Some(0) => self.deeds.delivered = true,
            Some(1 | 75) => {}
            Some(_) => panic!("{ended}"),
        }
    }

    fn start(&mut self) {
        if self.service.is_some() {
            return;
        }
        self.deliverer_left_things = false;
        self.deeds.settings.push(self.settings);
        let running = self.site.start_deliverer(&["run"]);
        running.wait_for("delivering");
        self.service = Some(Service { running, settings: self.settings, reloads: 0 });
    }

    fn stop(&mut self) {
        let Some(service) = self.service.take() else { return };
        self.lock = None;
        let ended = service.running.terminate();
        self.note(&ended);
        ended.expect(0);
    }

    fn kill(&mut self) {
        let Some(service) = self.service.take() else { return };
        let ended = service.running.kill();
        self.note(&ended);
        self.deeds.deliverer_killed = true;
        self.deliverer_left_things = true;
    }

    fn configure(&mut self, setting: Setting) {
        match setting {
            Setting::HoldUncertain(hold) => {
                self.settings.hold_uncertain = hold;
                self.site.set("delivery.uncertain", json!(if hold { "hold" } else { "resend" }));
            }
            Setting::HoldNew(hold) => {
                self.settings.hold_new = hold;
                self.site.set("review.hold_new", json!(hold));
            }
            Setting::Connections(connections) => {
                self.site.set("delivery.connections", json!(connections));
            }
            Setting::Patient(patient) => {
                let hours = if patient { 4 } else { 0 };
                self.settings.retry_max =
                    SignedDuration::from_secs(if patient { hours * 3600 } else { 2 });
                self.site.set("delivery.retry_max", json!(if patient { "4h" } else { "2s" }));
                self.site.set("delivery.retry_min", json!(if patient { "1h" } else { "1s" }));
            }
            Setting::Full(full) => {
                self.settings.full = full;
                self.site.set("outbox.min_free", json!(if full { "1000000G" } else { "1M" }));
            }
        }
        if let Some(service) = &mut self.service {
            service.running.signal(Signal::HUP);
            service.reloads += 1;
            service.running.wait_for_nth("configuration read anew", service.reloads);
            service.settings = self.settings;
            self.deeds.settings.push(self.settings);
        }
    }

    /// As a mail reader does: it lists the folders, and renames.
    fn read_mail(&mut self, hand: Hand, which: usize) {
        let mails = self.mails();
        let Some((id, path)) = mails.get(which % mails.len().max(1)) else { return };
        if hand != Hand::See {
            self.deeds.touched.insert(id.clone());
        }
        if hand == Hand::Unflag {
            self.deeds.released.insert(id.clone());
        }
        let name = path.file_name().expect("it has one").to_string_lossy().into_owned();
        let (unique, flags) = name.split_once(":2,").unwrap_or((&name, ""));
        let flags = match hand {
            Hand::Flag => format!("{flags}F"),
            Hand::Unflag => flags.replace('F', ""),
            Hand::Trash => format!("{flags}T"),
            Hand::Untrash => flags.replace('T', ""),
            Hand::See => format!("{flags}SRD"),
            Hand::Delete => {
                let removed = fs::remove_file(path).is_ok();
                let _ = writeln!(self.log, "{id}: removed: {removed}");
                return;
            }
        };
        let flags: BTreeSet<char> = flags.chars().collect();
        let flags = String::from_iter(flags);
        let to = self.site.outbox().join("cur").join(format!("{unique}:2,{flags}"));
        // The service may be faster: then the mail is not where it was.
        let renamed = fs::rename(path, &to).is_ok();
        let _ = writeln!(self.log, "{id}: flags {flags:?}: {renamed}");
    }

    /// The mails that a mail reader sees.
    fn mails(&self) -> Vec<(MailId, PathBuf)> {
        let files = ["new", "cur"].iter().flat_map(|folder| self.site.listed(folder));
        let mut mails: Vec<_> = files
            .filter_map(|path| {
                let name = path.file_name()?.to_str()?;
                let id = name.split([':', '+']).next()?.parse().ok()?;
                Some((id, path))
            })
            .collect();
        mails.sort();
        mails
    }

    fn command(&mut self, command: Command, which: Option<usize>, end: &End) {
        let sidecars = self.site.sidecars();
        if sidecars.is_empty() {
            return;
        }
        let text =
            |sidecar: &Value, key: &str| sidecar[key].as_str().expect("it is text").to_owned();
        let ticket = which.map(|which| text(&sidecars[which % sidecars.len()], "ticket"));
        let meant: BTreeSet<MailId> = (sidecars.iter())
            .filter(|one| ticket.as_ref().is_none_or(|ticket| text(one, "ticket") == *ticket))
            .map(|one| text(one, "id").parse().expect("it is an id"))
            .collect();
        self.deeds.touched.extend(meant.clone());
        let mut arguments = match command {
            Command::Hold => vec!["hold"],
            Command::Release => {
                self.deeds.released.extend(meant);
                vec!["release"]
            }
            Command::Retry => vec!["retry"],
            Command::Regenerate => {
                self.deeds.regenerated.extend(meant);
                vec!["withdraw", "--regenerate"]
            }
            Command::Suppress => {
                // It would wait for that.
                self.lock = None;
                self.deeds.suppressed.extend(meant);
                vec!["withdraw", "--suppress"]
            }
        };
        arguments.push(ticket.as_deref().unwrap_or("--all"));
        let ended = self.run(Program::Deliverer, &arguments, end);
        match ended.status.code() {
            None => self.deliverer_left_things = true,
            Some(0 | 1) => {}
            Some(75) => assert!(!self.database_up && command == Command::Suppress, "{ended}"),
            Some(_) => panic!("{ended}"),
        }
    }

    /// Takes back what is withdrawn, where that can be done in this way.
    fn command_withdrawn(&mut self, decision: &str) {
        let meant: Vec<MailId> = (self.look().mails.into_iter())
            .filter(|(_, mail)| mail.state == State::Withdrawn)
            .map(|(id, _)| id)
            .collect();
        let deeds = &mut self.deeds;
        let by =
            if decision == "--regenerate" { &mut deeds.regenerated } else { &mut deeds.suppressed };
        by.extend(meant.clone());
        deeds.touched.extend(meant);
        let arguments = ["withdraw", decision, "--state", "withdrawn"];
        let ended = self.run(Program::Deliverer, &arguments, &End::Itself);
        assert!(matches!(ended.status.code(), Some(0 | 1)), "{ended}");
        self.check();
    }

    fn run(&mut self, program: Program, arguments: &[&str], end: &End) -> Finished {
        let start = || match program {
            Program::Generator => self.site.start_generator(arguments),
            Program::Deliverer => self.site.start_deliverer(arguments),
        };
        let ended = match end {
            End::Itself => start().finish(),
            End::After(time) => {
                let running = start();
                sleep(Duration::from_millis(*time));
                running.kill()
            }
            End::Before(call, number) => self.site.killed_before(program, arguments, call, *number),
        };
        self.note(&ended);
        ended
    }

    fn meddle_with_relay(&mut self, relay: &Relay) {
        match relay {
            Relay::Say { at, words, to, always } => {
                self.ledger.refused_for_good |= words.starts_with('5');
                let act =
                    if *at == At::Greeting { Act::SayAndHangUp(words) } else { Act::Say(words) };
                if *always {
                    self.relay.always(*at, to, act);
                } else {
                    self.relay.once(*at, to, act);
                }
            }
            Relay::HangUp(at) => self.relay.once(*at, "", Act::HangUp),
            Relay::Slow(time) => {
                self.relay.once(At::FinalDot, "", Act::Take(Duration::from_millis(*time)));
            }
            Relay::Behave => self.relay.behave(),
            Relay::GoAway if self.relay_up => {
                self.relay.go_away();
                self.relay_up = false;
            }
            Relay::ComeBack if !self.relay_up => {
                self.relay.come_back();
                self.relay_up = true;
            }
            Relay::GoAway | Relay::ComeBack => {}
        }
    }

    fn meddle_with_database(&mut self, database: Database) {
        match database {
            Database::Stop | Database::Kill if self.database_up => {
                self.lock = None;
                if database == Database::Stop {
                    self.cluster.stop();
                } else {
                    self.cluster.kill();
                }
                self.database_up = false;
            }
            Database::ComeBack => {
                self.lock = None;
                if !self.database_up {
                    self.cluster.start();
                    self.database_up = true;
                }
            }
            Database::EndSessions if self.database_up => self.site.sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                  WHERE application_name LIKE 'outbox-%' AND datname = current_database()",
            ),
            Database::Lock if self.database_up && self.lock.is_none() => {
                self.lock = Some(self.site.hold("SELECT FROM directives FOR UPDATE"));
            }
            _ => {}
        }
    }

    // ---- The look ----

    /// Everything stands still, is looked at, and goes on.
    fn check(&mut self) {
        if let Some(service) = &mut self.service {
            assert!(service.running.is_running(), "the service ended");
            service.running.signal(Signal::STOP);
            let id = service.running.id();
            wait_until("the service stands still", || stands_still(id));
        }
        let sight = self.look();
        let mut deeds = std::mem::take(&mut self.deeds);
        deeds.generator_left_things = self.generator_left_things;
        // What it is just about to do looks the same.
        deeds.deliverer_left_things = self.deliverer_left_things || self.service.is_some();
        self.ledger.check(&sight, &deeds);
        if let Some(service) = &self.service {
            service.running.signal(Signal::CONT);
        }
    }

    fn look(&self) -> Sight {
        if self.service.is_none() {
            wait_until("the relay saw the deliverer's end", || self.relay.open() == 0);
        }
        let outbox = Outbox::open(&self.site.outbox()).expect("the outbox is there");
        let snapshot = outbox.scan().expect("it can be read");
        assert!(snapshot.oddities.is_empty(), "{:?}", snapshot.oddities);
        let mails: BTreeMap<MailId, SeenMail> = (snapshot.entries.into_iter())
            .map(|(id, entry)| {
                let sidecar = outbox.sidecar(&id).expect("it can be read");
                let record = outbox.record(&id).expect("it can be read");
                let busy = sidecar.is_some() && matches!(outbox.lock_mail(&id), Ok(None));
                let (state, file) = (entry.state(record.as_ref()), entry.mail.is_some());
                (id, SeenMail { sidecar, record, state, file, busy })
            })
            .collect();
        self.wait_for_words(&mails);
        let archive = outbox.archived(|_| true).expect("it can be read").into_iter();
        Sight {
            archive: archive.map(|(id, path)| (id, fs::read(path).expect("it is there"))).collect(),
            temporary: self.temporary(),
            directives: self.database_up.then(|| self.directives()),
            received: self.relay.received(),
            at: outbox::now(),
            mails,
        }
    }

    /// The relay notes what it said right after it said it: a moment later than the deliverer may have.
    fn wait_for_words(&self, mails: &BTreeMap<MailId, SeenMail>) {
        let until = Instant::now() + Duration::from_secs(5);
        let all_said = || {
            let said: BTreeSet<(String, String)> = (self.relay.received().into_iter())
                .filter(|mail| mail.confirmed)
                .flat_map(|mail| {
                    let id = mail.message_id();
                    mail.to.into_iter().map(move |to| (id.clone(), to))
                })
                .collect();
            mails.values().all(|mail| {
                let id = mail.sidecar.as_ref().map(|sidecar| sidecar.message_id.clone());
                let noted = noted(mail.record.as_ref()).into_iter();
                id.is_none_or(|id| noted.into_iter().all(|to| said.contains(&(id.clone(), to))))
            })
        };
        while !all_said() && Instant::now() < until {
            sleep(Duration::from_millis(5));
        }
    }

    fn temporary(&self) -> Vec<String> {
        let mut files = Vec::new();
        for folder in ["sidecar", "delivery"] {
            for entry in fs::read_dir(self.site.outbox().join(folder)).expect("it is there") {
                let name = entry.expect("it can be read").file_name().display().to_string();
                // What the deliverer says of itself stays.
                if name.starts_with('.') && !name.starts_with(".service.json") {
                    files.push(format!("{folder}/{name}"));
                }
            }
        }
        files
    }

    fn directives(&self) -> BTreeMap<i64, Option<SentRow>> {
        let rows = self.site.database().connect().query(
            "SELECT d.id, intelmq_ticket, sent_at IS NOT NULL
               FROM directives d LEFT JOIN sent ON sent.id = sent_id",
            &[],
        );
        let row = |row: &postgres::Row| {
            let ticket: Option<String> = row.get(1);
            (row.get(0), ticket.map(|ticket| SentRow { ticket, notified: row.get(2) }))
        };
        rows.expect("the database is there").iter().map(row).collect()
    }
}

/// Whether all threads of a process are stopped.
fn stands_still(id: u32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
    tasks
        .map(|task| fs::read_to_string(task.path().join("stat")).unwrap_or_default())
        .all(|stat| stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['T', 't'])))
}

/// An event of a group: plain, with a copy, with two recipients, at most once a day.
fn event(group: u64) -> Value {
    let to = match group {
        3 | 6 => format!("slow{group}@isp.example,abuse{group}@isp.example"),
        4 => format!("slow{group}@isp.example"),
        _ => format!("abuse{group}@isp.example"),
    };
    let mut directive = Directive::to(&to);
    if matches!(group, 2 | 5) {
        directive = directive.aggregate("recipient_group", "Government");
    }
    if matches!(group, 4 | 5) {
        directive = directive.interval(86_400);
    }
    event_with(&json!([directive.json()]))
}
