//! Both programs, killed before and after every system call that matters, and with each of them
//! failing once: nothing is lost, and nothing goes out twice but in the one window that SMTP leaves.
//!
//! A *point* is one run of a program in which one call, the first, the second, …, is meddled with by
//! `outbox-tracer`. Normal runs of both programs follow until all is quiet. Then all that was asked for
//! is there, once.
//!
//! `make check` tries a sample of the points, others each day; `make torture` tries them all.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use outbox_tests::events::Directive;
use outbox_tests::programs::{Finished, wait_until};
use outbox_tests::random::Random;
use outbox_tests::scripted_relay::{Act, At, Received, ScriptedRelay};
use outbox_tests::site::{Program, Site};
use outbox_tests::tracer::{Call, Traced};
use outbox_tests::{mail, programs};
use rustix::io::Errno;
use serde_json::json;

const TRACER: &str = env!("CARGO_BIN_EXE_outbox-tracer");

/// Killed before, and after.
const KILLED: &[&str] = &["before", "after"];

/// What a call can fail with, and a part of what was to be written or read.
const FAULTS: &[&str] = &["EIO", "ENOSPC", "EACCES", "EMFILE", "EINTR", "short"];

// ---- A sample ----

#[test]
fn a_generator_killed_at_a_sample_of_its_calls_loses_nothing_and_repeats_nothing() {
    Torture::of(Program::Generator).sample(KILLED, 16);
}

#[test]
fn a_generator_of_which_a_sample_of_calls_fails_says_so_loses_nothing_and_repeats_nothing() {
    Torture::of(Program::Generator).sample(FAULTS, 6);
}

#[test]
fn a_deliverer_killed_at_a_sample_of_its_calls_repeats_at_most_the_mail_in_hand() {
    Torture::of(Program::Deliverer).sample(KILLED, 16);
}

#[test]
fn a_deliverer_of_which_a_sample_of_calls_fails_says_so_and_loses_nothing() {
    Torture::of(Program::Deliverer).sample(FAULTS, 6);
}

#[test]
fn a_deliverer_that_holds_what_is_uncertain_repeats_nothing_wherever_it_is_killed() {
    Torture::of(Program::Deliverer).holding().sample(KILLED, 8);
}

#[test]
fn a_script_and_a_withdrawal_killed_at_a_sample_of_calls_lose_nothing() {
    Torture::of(Program::Generator).doing(Work::Script).sample(&["before"], 4);
    Torture::of(Program::Deliverer).doing(Work::Regenerated).sample(&["before"], 4);
    Torture::of(Program::Deliverer).doing(Work::Suppressed).sample(&["before"], 4);
}

/// What these tests found: each left a mail alone without a word, or kept a connection waiting for
/// minutes for a reply that could not come.
#[test]
fn a_fault_of_a_lock_or_of_a_connection_in_the_midst_of_a_mail_is_told_of_at_once() {
    let mut world = World::new(Torture::of(Program::Deliverer));
    // The first mail's lock; then the first of what is said to the relay, and of what is heard.
    for (only, points) in
        [("statx /sidecar/", 1..=1), ("sendto relay", 1..=3), ("recvfrom relay", 1..=9)]
    {
        world.only = only;
        for at in points {
            assert!(world.point("EIO", at, &mut Tally::default()), "{only} {at}");
        }
    }
}

// ---- All of it ----

#[test]
#[ignore = "takes minutes: make torture"]
fn a_generator_killed_at_every_call_loses_nothing_and_repeats_nothing() {
    Torture::of(Program::Generator).all(KILLED);
}

#[test]
#[ignore = "takes minutes: make torture"]
fn a_generator_of_which_each_call_fails_once_says_so_loses_nothing_and_repeats_nothing() {
    Torture::of(Program::Generator).all(FAULTS);
}

#[test]
#[ignore = "takes minutes: make torture"]
fn a_generator_that_signs_killed_at_every_call_loses_nothing_and_repeats_nothing() {
    Torture::of(Program::Generator).signing().all(&["before"]);
}

#[test]
#[ignore = "takes minutes: make torture"]
fn a_deliverer_killed_at_every_call_repeats_at_most_the_mail_in_hand() {
    Torture::of(Program::Deliverer).all(KILLED);
}

#[test]
#[ignore = "takes minutes: make torture"]
fn a_deliverer_of_which_each_call_fails_once_says_so_and_loses_nothing() {
    Torture::of(Program::Deliverer).all(FAULTS);
}

#[test]
#[ignore = "takes minutes: make torture"]
fn a_deliverer_that_holds_what_is_uncertain_repeats_nothing_killed_at_any_call() {
    Torture::of(Program::Deliverer).holding().all(KILLED);
}

#[test]
#[ignore = "takes minutes: make torture"]
fn a_generator_with_a_script_killed_at_every_call_loses_nothing_and_repeats_a_copy_at_most() {
    Torture::of(Program::Generator).doing(Work::Script).all(KILLED);
}

#[test]
#[ignore = "takes minutes: make torture"]
fn a_withdrawal_killed_at_every_call_or_of_which_each_fails_can_be_made_again() {
    for work in [Work::Regenerated, Work::Suppressed] {
        Torture::of(Program::Deliverer).doing(work).all(KILLED);
        Torture::of(Program::Deliverer).doing(work).all(FAULTS);
    }
}

// ---- Which points ----

/// What is done in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    /// Mails are written and relayed: one, one with a copy, one in two parts, one to two recipients of
    /// whom the relay defers the second, and one that it rejects.
    Mails,
    /// A script makes several mails of a group, and a copy.
    Script,
    /// Mails are taken back, and written anew.
    Regenerated,
    /// Mails are taken back, and never sent.
    Suppressed,
}

/// Which program is meddled with, and how the installation is.
#[derive(Clone, Copy)]
struct Torture {
    program: Program,
    work: Work,
    /// Whether `delivery.uncertain` is `"hold"`.
    holds: bool,
    signs: bool,
}

/// What came of the points of one kind.
#[derive(Default)]
struct Tally {
    tried: usize,
    /// How many mails came twice.
    repeated: usize,
    /// How many mails were held since nobody knew whether the relay has them.
    uncertain: usize,
    /// How many runs went on, or ended, with words about the fault.
    told: usize,
    /// By name, the calls that were meddled with.
    calls: BTreeMap<String, usize>,
    failed: Vec<String>,
}

impl Torture {
    fn of(program: Program) -> Self {
        Self { program, work: Work::Mails, holds: false, signs: false }
    }

    fn doing(self, work: Work) -> Self {
        Self { work, ..self }
    }

    fn holding(self) -> Self {
        Self { holds: true, ..self }
    }

    fn signing(self) -> Self {
        Self { signs: true, ..self }
    }

    /// Tries so many points of each kind, spread over all of them, other ones each day.
    fn sample(self, meddles: &[&str], points: usize) {
        let today = jiff::Timestamp::now().as_second() / 86_400;
        let mut random = Random::seeded(today.unsigned_abs());
        let mut world = World::new(self);
        for meddle in meddles {
            let count = world.count(meddle);
            let step = (count / points).max(1);
            let first = usize::try_from(random.below(step as u64)).unwrap() + 1;
            self.run(&mut world, meddle, count, (first..=count).step_by(step));
        }
    }

    /// Tries all points.
    fn all(self, meddles: &[&str]) {
        let mut world = World::new(self);
        for meddle in meddles {
            let count = world.count(meddle);
            self.run(&mut world, meddle, count, 1..);
        }
    }

    fn run(
        self,
        world: &mut World,
        meddle: &str,
        count: usize,
        points: impl Iterator<Item = usize>,
    ) {
        let begun = Instant::now();
        let mut tally = Tally::default();
        let (mut missed, mut missed_in_a_row) = (0, 0);
        for at in points {
            // How many calls there are differs from run to run, as threads come first or second, and as
            // many mails as are there are marked together.
            let tried = catch_unwind(AssertUnwindSafe(|| {
                (0..3).any(|_| world.point(meddle, at, &mut tally))
            }));
            match tried {
                Ok(true) => missed_in_a_row = 0,
                Ok(false) if at > count => {
                    missed_in_a_row += 1;
                    if missed_in_a_row == 3 {
                        break;
                    }
                }
                Ok(false) => missed += 1,
                Err(_) => {
                    tally.failed.push(format!("{meddle} {at}"));
                    *world = World::new(self);
                }
            }
        }
        let Tally { tried, repeated, uncertain, told, calls, failed } = tally;
        let calls: Vec<String> =
            calls.iter().map(|(call, times)| format!("{call} {times}")).collect();
        println!(
            "{:?}, {:?}{}{}, {meddle}: {count} points in the first run, {tried} tried in {} s, {missed} not \
             met, {} failed {failed:?}; {told} told of, {repeated} mails came twice, {uncertain} held as uncertain; {}",
            self.program,
            self.work,
            if self.holds { " that holds" } else { "" },
            if self.signs { " that signs" } else { "" },
            begun.elapsed().as_secs(),
            failed.len(),
            calls.join(", ")
        );
        assert_eq!(failed, [""; 0], "points of {:?}, {:?}", self.program, self.work);
        assert!(tried > 0, "{meddle} was never done");
    }
}

// ---- One point ----

/// An installation through which the same mails go, round by round, each time to other recipients.
struct World {
    torture: Torture,
    relay: ScriptedRelay,
    site: Site,
    round: usize,
    /// What the outbox looks like after an undisturbed run.
    undisturbed: Vec<String>,
    /// Of which calls one is meddled with: with what their name and subject begin.
    only: &'static str,
}

/// A format whose groups go out in parts, a mail for each event, with the event attached.
const PARTS: &str = r#"
    [[format]]
    name = "parts"
    when = { notification_format = "parts" }
    columns = ["source.ip"]
    data = "attachment"
    split_after = 1
    subject = "Ticket ${ticket_number}"
    body = "Part ${part_number} of ${number_of_parts}"
"#;

/// A script that makes of a group a mail for each event, and a copy.
const SEVERAL: &str = r#"
def create_notifications(context):
    directive = context.directive
    if directive.notification_format != "several":
        return None
    mails = []
    for event in directive.event_ids[:]:
        directive.event_ids = [event]
        mails += context.mail_format_as_csv()
    return mails + context.mail_format_as_csv(
        envelope_tos=["internal-gov@cert.example"], mark_as_sent=False,
        ticket_number=mails[0].ticket)
"#;

const GOVERNMENT: &str = "internal-gov@cert.example";

impl World {
    fn new(torture: Torture) -> Self {
        let relay = ScriptedRelay::start();
        let copies = include_str!("../../templates/formats/examples/01-constituency-copies.toml");
        let mut site = Site::new(programs!())
            .relay(relay.port())
            .template("formats/01-constituency-copies.toml", copies)
            .template("formats/02-parts.toml", PARTS)
            .set("delivery.connections", json!(1));
        if torture.work == Work::Script {
            site = site.template("formats/03-several.py", SEVERAL);
        }
        if torture.holds {
            site = site.set("delivery.uncertain", json!("hold"));
        }
        if !torture.signs {
            site = site.unsigned();
        }
        let site = site.build();
        let mut world = Self { torture, relay, site, round: 0, undisturbed: Vec::new(), only: "" };
        // A round in which nothing is done to it.
        assert!(!world.point("before", 0, &mut Tally::default()));
        world
    }

    /// How many points there are of a kind.
    fn count(&mut self, meddle: &str) -> usize {
        self.prepare();
        let traced = self.trace(meddle, 0);
        self.settle(&traced, &mut Tally::default());
        traced.count()
    }

    fn to(&self, name: &str) -> String {
        format!("{name}{}@isp.example", self.round)
    }

    /// Whether the first run of the generator after the disturbance may have something to do.
    fn is_written_later(&self) -> bool {
        self.torture.program == Program::Generator || self.torture.work == Work::Regenerated
    }

    /// Puts the work of a round there.
    fn prepare(&mut self) {
        self.round += 1;
        self.relay.behave();
        let to = |name| Directive::to(&self.to(name));
        let plain = to("plain").event();
        let copied = to("copied").aggregate("recipient_group", "Government").event();
        match self.torture.work {
            Work::Mails => {
                let both = format!("{},{}", self.to("one"), self.to("two"));
                let parts = || to("parts").format("parts", "csv").event();
                let events = [
                    plain,
                    copied,
                    parts(),
                    parts(),
                    Directive::to(&both).event(),
                    to("rejected").event(),
                ];
                self.site.insert(&events);
                let two = words(&self.to("two"));
                self.relay.always(At::Rcpt, &two, Act::Say("450 4.2.0 greylisted"));
                self.reject();
            }
            Work::Script => {
                let several = || to("several").format("several", "csv").event();
                self.site.insert(&[plain, several(), several(), several()]);
            }
            Work::Regenerated | Work::Suppressed => {
                self.site.insert(&[plain, copied]);
            }
        }
        if self.torture.program == Program::Deliverer {
            self.generate();
        }
        if matches!(self.torture.work, Work::Regenerated | Work::Suppressed) {
            self.relay.always(At::Rcpt, "", Act::Say("450 4.2.0 greylisted"));
            self.deliver();
            self.relay.behave();
        }
    }

    /// Whom how many mails go to.
    fn expected(&self) -> BTreeMap<String, usize> {
        let own: &[(&str, usize)] = match self.torture.work {
            Work::Mails => &[
                ("plain", 1),
                ("copied", 1),
                ("parts", 2),
                ("one", 1),
                ("two", 1),
                ("rejected", 1),
            ],
            Work::Script => &[("plain", 1), ("several", 3)],
            Work::Regenerated => &[("plain", 1), ("copied", 1)],
            Work::Suppressed => return BTreeMap::new(),
        };
        let own = own.iter().map(|(name, count)| (self.to(name), *count));
        own.chain([(GOVERNMENT.to_owned(), 1)]).collect()
    }

    /// How many mails of a round have a ticket of their own.
    fn tickets(&self) -> usize {
        match self.torture.work {
            Work::Mails => 6,
            Work::Script => 4,
            Work::Regenerated | Work::Suppressed => 2,
        }
    }

    fn reject(&self) {
        self.relay.always(At::Rcpt, &words(&self.to("rejected")), Act::Say("550 5.1.1 unknown"));
    }

    fn trace(&self, meddle: &str, at: usize) -> Traced {
        let arguments: &[&str] = match (self.torture.program, self.torture.work) {
            (_, Work::Regenerated) => &["withdraw", "--all", "--regenerate"],
            (_, Work::Suppressed) => &["withdraw", "--all", "--suppress"],
            (Program::Generator, _) => &["run", "--all"],
            (Program::Deliverer, _) => &["run", "--once"],
        };
        let traced =
            Traced::run(TRACER, &self.site, self.torture.program, arguments, self.only, meddle, at);
        self.relay.wait_until_left();
        traced
    }

    fn generate(&self) -> Finished {
        // The server may not have noticed yet that a session's program was killed.
        let sessions = "SELECT pid FROM pg_stat_activity
            WHERE datname = current_database() AND application_name LIKE 'outbox-%'";
        wait_until("the sessions have ended", || self.site.column::<i32>(sessions).is_empty());
        self.site.generator(&["run", "--all"]).expect(0).without("ERROR")
    }

    /// One round, with one call meddled with. Whether there was such a call.
    fn point(&mut self, meddle: &str, at: usize, tally: &mut Tally) -> bool {
        self.prepare();
        let traced = self.trace(meddle, at);
        let Some(call) = traced.call(at).cloned() else {
            // A mail that is rejected is one with errors.
            let rejects =
                self.torture.program == Program::Deliverer && self.torture.work == Work::Mails;
            let code = i32::from(rejects);
            assert_eq!(traced.run.status.code(), Some(code), "{}", traced.run);
            assert_eq!(complaints(&traced.run), [""; 0]);
            if at == 0 {
                self.undisturbed = self.shape();
            }
            self.settle(&traced, tally);
            return false;
        };
        tally.tried += 1;
        let subject =
            if call.about.starts_with(['/']) || call.about.is_empty() { "" } else { &call.about };
        *tally
            .calls
            .entry(format!("{} {subject}", call.call).trim_end().to_owned())
            .or_default() += 1;
        let checked = catch_unwind(AssertUnwindSafe(|| {
            if KILLED.contains(&meddle) {
                assert_eq!(traced.run.status.code(), None, "it was killed");
            } else {
                tally.told += usize::from(self.check_words(&traced.run, &call));
            }
            self.settle(&traced, tally);
        }));
        if let Err(panic) = checked {
            let seen: Vec<String> = traced.calls.iter().map(ToString::to_string).collect();
            let last = seen.len().saturating_sub(40);
            eprintln!("{meddle} {at}: {call}\n{}\n{}", traced.run, seen[last..].join("\n"));
            eprintln!("{:#?}", self.site.files());
            std::panic::resume_unwind(panic);
        }
        true
    }

    /// A program one of whose calls failed never panics. It says what it could not do; and if it says
    /// nothing, it has done all. Whether it said something.
    fn check_words(&self, run: &Finished, call: &Call) -> bool {
        let code = run.status.code().expect("it ends by itself");
        assert!([0, 1, 75, 78].contains(&code), "{code}");
        assert!(!run.stderr.contains("panicked"));
        let complaints = complaints(run);
        if complaints.is_empty() {
            // What is not durable looks the same.
            let interrupted = call.result == Some(-i64::from(Errno::INTR.raw_os_error()));
            assert!(interrupted || !call.call.contains("sync"), "it said nothing");
            assert_eq!(self.shape(), self.undisturbed, "it said nothing, and did not do all");
            return false;
        }
        // Which file it was, or the folder that it is in; or whom it spoke with.
        let named: Vec<String> = match call.about.as_str() {
            "relay" => vec!["relay".to_owned()],
            "database" => vec![
                "database".to_owned(),
                "pending directives".to_owned(),
                "tickets".to_owned(),
                "events".to_owned(),
            ],
            path => {
                let path = format!("{}{path}", self.site.outbox().display());
                vec![path.rsplit_once('/').expect("it is absolute").0.to_owned()]
            }
        };
        assert!(
            named.iter().any(|name| {
                // What a command says of a mail stands in its answer.
                complaints.iter().any(|line| line.contains(name)) || run.stdout.contains(name)
            }),
            "none names {named:?}: {complaints:#?}"
        );
        true
    }

    /// How many files of which kind there are in the outbox, and how many directives are pending.
    fn shape(&self) -> Vec<String> {
        let mut files = self.site.files();
        for file in &mut files {
            if let Some((before, rest)) = file.split_once('#') {
                *file =
                    format!("{before}#{}", rest.trim_start_matches(|c: char| c.is_ascii_digit()));
            }
        }
        files.push(format!("{} pending", self.site.pending()));
        files.sort();
        files
    }

    /// Runs both programs until all is quiet, as an operator does, and checks that all is as it should
    /// be. `traced` was disturbed.
    fn settle(&mut self, traced: &Traced, tally: &mut Tally) {
        let disturbed: Vec<Received> = self.relay.received();
        let written = self.written_down(traced);
        self.assert_no_claim_twice();
        if matches!(self.torture.work, Work::Regenerated | Work::Suppressed) {
            // Who took them back does so again, and then nothing of them is left.
            self.trace("before", 0).run.expect(0).without("ERROR");
            self.deliver();
            assert_eq!(self.site.files(), [""; 0]);
        }
        for run in 1.. {
            let again = self.generate();
            if !(run == 1 && self.is_written_later()) {
                again.line("INFO", &["done", "mails=0 copies=0"]);
            }
            self.assert_no_claim_twice();
            assert_eq!(self.site.listed("tmp").len(), 0);
            self.deliver();
            let deferred = self.deferred();
            if deferred.is_empty() {
                break;
            }
            assert!(run < 4, "it is not quiet after {run} runs: {:?}", self.site.files());
            self.relay.behave();
            self.reject();
            for mail in deferred {
                self.site.flag(&mail, "r");
            }
        }
        let withdrawn = self.see_to_held(tally);
        assert_eq!(self.site.pending(), 0);
        let archived = self.archived();
        self.assert_nothing_else_is_left(archived.len());
        self.assert_sent(&disturbed, &written, &archived, &withdrawn, tally);
        for path in self.site.listed("sent/cur") {
            fs::remove_file(path).unwrap();
        }
    }

    fn deliver(&self) {
        let run = self.site.deliverer(&["run", "--once"]);
        assert!(matches!(run.status.code(), Some(0 | 1)), "{run}");
        assert_eq!(complaints(&run), [""; 0], "{run}");
    }

    /// The mails of which it was written down, in a traced run, what the relay said: as the calls tell,
    /// and the folder. Not those whose connection broke before it said something, as the log tells.
    fn written_down(&self, traced: &Traced) -> BTreeSet<String> {
        let id = |path: &str| {
            let name = path.strip_prefix("/delivery/")?.strip_suffix(".json")?;
            (!name.starts_with('.')).then(|| name.to_owned())
        };
        let renamed = traced
            .calls
            .iter()
            .filter(|call| call.call == "rename" && call.result == Some(0))
            .filter_map(|call| id(call.to.as_deref()?));
        let there = self.site.records();
        let there = there.iter().map(|record| record["id"].as_str().unwrap().to_owned());
        let uncertain = |id: &String| {
            let mut lines = traced.run.stderr.lines();
            lines.any(|line| line.contains("uncertain, will be sent again") && line.contains(id))
        };
        renamed.chain(there).filter(|id| !uncertain(id)).collect()
    }

    /// The files of mails that are deferred.
    fn deferred(&self) -> Vec<std::path::PathBuf> {
        let records = self.site.records();
        let deferred = records.iter().filter(|record| record["state"] == "deferred");
        deferred.map(|record| self.file_of(record["id"].as_str().unwrap())).collect()
    }

    fn file_of(&self, id: &str) -> std::path::PathBuf {
        let mut here = ["new", "cur"].iter().flat_map(|folder| self.site.listed(folder));
        let here = here.find(|path| path.display().to_string().contains(id));
        here.unwrap_or_else(|| panic!("{id} is not in {:?}", self.site.files()))
    }

    /// The rejected mail, and no other one, waits for a person, who releases it once the relay takes it;
    /// and so do those that were in a relay's hands, if they are to be held: those which the relay has
    /// are taken back. Gives these.
    fn see_to_held(&self, tally: &mut Tally) -> BTreeSet<String> {
        let has = self.relay.by_message_id();
        let mut withdrawn = BTreeSet::new();
        self.relay.behave();
        let rejected = json!([self.to("rejected")]);
        let mut unknown = 0;
        for sidecar in self.site.sidecars() {
            let (id, message_id) = (&sidecar["id"], sidecar["message_id"].as_str().unwrap());
            let file = self.file_of(id.as_str().unwrap());
            let flags = file.display().to_string();
            assert!(flags.ends_with(":2,F"), "{flags}");
            if sidecar["envelope"]["to"] != rejected {
                assert!(self.torture.holds, "held: {sidecar}");
                unknown += 1;
            }
            if has.contains_key(message_id) {
                assert!(self.torture.holds, "held although the relay has it: {sidecar}");
                let command = ["withdraw", id.as_str().unwrap(), "--suppress"];
                self.site.deliverer(&command).expect(0);
                withdrawn.insert(message_id.to_owned());
            } else {
                fs::rename(&file, flags.strip_suffix('F').unwrap()).unwrap();
            }
        }
        assert!(unknown <= 1, "one connection has one mail in hand");
        tally.uncertain += unknown;
        let run = self.site.deliverer(&["run", "--once"]).expect(0);
        assert_eq!(complaints(&run), [""; 0], "{run}");
        withdrawn
    }

    /// No directive stands in two sidecars, and no ticket is given to two mails.
    fn assert_no_claim_twice(&self) {
        let mut directives = BTreeSet::new();
        let mut tickets = BTreeSet::new();
        for sidecar in self.site.sidecars() {
            for directive in sidecar["directive_ids"].as_array().unwrap() {
                assert!(directives.insert(directive.as_i64().unwrap()), "{directive} twice");
            }
            if sidecar["mark_sent"] == true {
                let ticket = sidecar["ticket"].as_str().unwrap().to_owned();
                assert!(tickets.insert(ticket), "{sidecar}: the ticket twice");
            }
        }
    }

    fn assert_nothing_else_is_left(&self, archived: usize) {
        let (kept, others): (Vec<_>, Vec<_>) =
            self.site.files().into_iter().partition(|file| file.starts_with("sent/cur/#"));
        assert_eq!(others, [""; 0], "nothing is left but the archive");
        assert_eq!(kept.len(), archived);
    }

    /// The ids of the mails in the archive, by their Message-ID.
    fn archived(&self) -> BTreeMap<String, String> {
        let mails = self.site.listed("sent/cur").into_iter().map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let id = name.split([':', '+']).next().unwrap().to_owned();
            (mail::header(&fs::read(path).unwrap(), "Message-ID").unwrap(), id)
        });
        mails.collect()
    }

    /// The relay has what the round was to send. What it has twice it got, to the last byte the same,
    /// in a run that was disturbed before anything was written down of it.
    fn assert_sent(
        &self,
        disturbed: &[Received],
        written: &BTreeSet<String>,
        archived: &BTreeMap<String, String>,
        withdrawn: &BTreeSet<String>,
        tally: &mut Tally,
    ) {
        let received = self.relay.received();
        self.relay.forget();
        let mut by_recipient: BTreeMap<(String, String), Vec<&Received>> = BTreeMap::new();
        for mail in &received {
            for to in &mail.to {
                by_recipient.entry((mail.message_id(), to.clone())).or_default().push(mail);
            }
            let first = received.iter().find(|other| other.message_id() == mail.message_id());
            assert_eq!(first.unwrap().bytes, mail.bytes, "a repetition is the same mail");
        }
        let mut sent: BTreeMap<String, usize> = BTreeMap::new();
        let mut repeated = BTreeSet::new();
        for ((message_id, to), mails) in &by_recipient {
            *sent.entry(to.clone()).or_default() += 1;
            if mails.len() > 1 {
                assert_eq!(mails.len(), 2, "{to}");
                assert!(!self.torture.holds, "{to} got it twice");
                assert_eq!(self.torture.program, Program::Deliverer, "{to} got it twice");
                let before = disturbed.iter().filter(|mail| mail.message_id() == *message_id);
                assert_eq!(before.count(), 1, "{to} got it twice, and not by the disturbance");
                let id = &archived[message_id];
                assert!(!written.contains(id), "{to} got it twice although that was written down");
                repeated.insert(message_id);
            }
        }
        assert!(repeated.len() <= 1, "one connection has one mail in hand: {repeated:?}");
        tally.repeated += repeated.len();

        let mut expected = self.expected();
        let taken_back = |message_id: &String| !archived.contains_key(message_id);
        let one = by_recipient.keys().find(|(_, to)| *to == self.to("one"));
        if one.is_some_and(|(message_id, _)| taken_back(message_id)) {
            // The operator could not know that the second one lacks it.
            expected.remove(&self.to("two"));
        }
        if self.torture.work == Work::Script && sent.get(GOVERNMENT) == Some(&2) {
            // As docs/scripts.md tells: some of the mails that mark were committed, and the others are
            // written with a copy of their own.
            sent.insert(GOVERNMENT.to_owned(), 1);
            tally.repeated += 1;
        }
        assert_eq!(sent, expected, "each group's mail once, and each copy once");

        let ids: BTreeSet<&String> =
            by_recipient.keys().map(|(message_id, _)| message_id).collect();
        assert!(ids.iter().all(|id| archived.contains_key(*id) != withdrawn.contains(*id)));
        assert_eq!(archived.len() + withdrawn.len(), ids.len(), "the archive has each");

        let tickets: BTreeSet<String> = received.iter().map(Received::ticket).collect();
        let known = self.site.sent_tickets();
        assert_eq!(known.len(), self.tickets() * self.round, "a row in sent for each");
        assert_eq!(known.iter().collect::<BTreeSet<_>>().len(), known.len(), "no ticket twice");
        let relayed = if self.torture.work == Work::Suppressed { 0 } else { self.tickets() };
        assert_eq!(tickets.len(), relayed);
        assert!(tickets.iter().all(|ticket| known.contains(ticket)));
    }
}

/// An address as it stands in a command.
fn words(address: &str) -> String {
    format!("<{address}>")
}

/// The lines on what went wrong, but for what the relay was told to say.
fn complaints(run: &Finished) -> Vec<&str> {
    let expected = [
        // With `delivery.uncertain` "hold", and nobody else.
        "this program was killed while the relay had it in hand",
        "errors with 2 of the mails",
        "450 4.2.0 greylisted",
        "550 5.1.1 unknown",
        "errors with 1 of the mails",
        "an earlier run was interrupted",
    ];
    let lines = run.stderr.lines().filter(|line| !line.contains(" INFO "));
    lines.filter(|line| !expected.iter().any(|words| line.contains(words))).collect()
}
