//! The machine loses its power at any moment of recorded runs: whatever of that a disk could have kept,
//! the programs go on from it, every directive ends `sent`, and no mail goes out twice but for the one
//! window that SMTP has.
//!
//! What a disk could keep is told in `outbox_tests::trace::crash`. The relay and the database are other
//! machines, or honest: they have what they confirmed.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use outbox::{DeliveryRecord, DeliveryState, Sidecar};
use outbox_tests::random::Random;
use outbox_tests::scripted_relay::{Act, At, ScriptedRelay};
use outbox_tests::site::Site;
use outbox_tests::trace::crash::{Crash, Left, crashes, cuts};
use outbox_tests::trace::worlds::{ANEW, NEVER_SENT, REFUSED, World};
use outbox_tests::trace::{Relay, Trace, What, folder_of, mail_of};
use outbox_tests::{mail, programs};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

#[test]
fn whatever_a_lost_power_leaves_of_some_moments_nothing_is_lost_and_nothing_sent_twice() {
    for (world, number) in
        [(World::Usual, 60), (World::UncertainHold, 20), (World::WithoutArchive, 20)]
    {
        let crashes = distinct(world, recorded(world), 4);
        let chosen = some_of(&crashes, number);
        assert_recovered(world, recorded(world), &chosen);
    }
}

#[test]
#[ignore = "takes many minutes: make powerloss"]
fn whatever_a_lost_power_leaves_of_any_moment_nothing_is_lost_and_nothing_sent_twice() {
    all_recovered(World::Usual);
}

#[test]
#[ignore = "takes minutes: make powerloss"]
fn whatever_a_lost_power_leaves_without_an_archive_nothing_is_lost_and_nothing_sent_twice() {
    all_recovered(World::WithoutArchive);
}

#[test]
#[ignore = "takes minutes: make powerloss"]
fn whatever_a_lost_power_leaves_where_uncertain_mails_are_held_nothing_is_lost_or_sent_twice() {
    all_recovered(World::UncertainHold);
}

#[track_caller]
fn all_recovered(world: World) {
    let crashes = distinct(world, recorded(world), 4);
    assert_recovered(world, recorded(world), &crashes.iter().collect::<Vec<_>>());
}

#[test]
fn a_step_that_is_not_made_durable_is_found() {
    let world = World::Usual;
    let real = recorded(world);
    let temporary = |path: &str, folder: &str| folder_of(path) == folder && path.contains("/.");
    let missing: [(&str, Which); 6] = [
        ("a mail", &|path| folder_of(path) == "tmp"),
        ("a sidecar", &|path| temporary(path, "sidecar")),
        ("sidecar/", &|path| path == "sidecar"),
        ("a record", &|path| temporary(path, "delivery") && mail_of(path).is_some()),
        ("delivery/", &|path| path == "delivery"),
        ("new/ and sent/cur/", &|path| matches!(path, "new" | "sent/cur")),
    ];
    let machine = Machine::start(world);
    let usual: HashSet<u64> =
        distinct(world, real, 0).iter().map(|crash| crash.left.digest()).collect();
    for (what, path) in missing {
        let mut trace = real.clone();
        trace.events.retain(|event| !matches!(&event.what, What::Synced(synced) if path(synced)));
        let found = first_fault(&machine, real, &trace, &usual);
        println!("without the fsync of {what}: {found:?}");
        assert!(found.is_some(), "nobody noticed that {what} is not made durable");
    }
}

/// Which files or folders.
type Which<'w> = &'w dyn Fn(&str) -> bool;

/// What goes wrong after the first crash, of some at random, that left what is not `usual` and was not
/// survived.
fn first_fault(
    machine: &Machine,
    real: &Trace,
    trace: &Trace,
    usual: &HashSet<u64>,
) -> Option<String> {
    let mut random = Random::seeded(1770);
    let cuts = cuts(trace);
    for _ in 0..400 {
        let time = some(&cuts, &mut random)?;
        let mut crashes = crashes(trace, *time, &mut random, 0);
        crashes.retain(|crash| !usual.contains(&crash.left.digest()));
        if let Some(crash) = some(&crashes, &mut random)
            && let Err(fault) = machine.recover(real, crash)
        {
            return Some(fault);
        }
    }
    None
}

/// One of them at random.
fn some<'a, T>(all: &'a [T], random: &mut Random) -> Option<&'a T> {
    if all.is_empty() {
        return None;
    }
    let number = random.below(all.len() as u64);
    all.get(usize::try_from(number).expect("it is below a length"))
}

/// All that a crash could leave at any time, each once.
fn distinct(world: World, trace: &Trace, chances: usize) -> Vec<Crash> {
    let mut random = Random::seeded(1768);
    let mut seen = HashSet::new();
    let cuts = cuts(trace);
    let mut all = Vec::new();
    let mut number = 0;
    for &time in &cuts {
        let relayed: Vec<(usize, bool)> =
            relayed_before(trace, time).iter().map(|mail| (mail.attempt, mail.confirmed)).collect();
        for crash in crashes(trace, time, &mut random, chances) {
            number += 1;
            if seen.insert((crash.left.digest(), relayed.clone())) {
                all.push(crash);
            }
        }
    }
    println!(
        "{world:?}: {} moments, {number} variants, {} of them distinct",
        cuts.len(),
        all.len()
    );
    all
}

/// So many of them, from the first to the last at random.
fn some_of(crashes: &[Crash], number: usize) -> Vec<&Crash> {
    let mut random = Random::seeded(1769);
    let share = crashes.len().div_ceil(number).max(1);
    crashes.chunks(share).filter_map(|portion| some(portion, &mut random)).collect()
}

/// Has the programs go on after each of these crashes, and prints what came of it.
#[track_caller]
fn assert_recovered(world: World, trace: &Trace, crashes: &[&Crash]) {
    let begun = Instant::now();
    let next = AtomicUsize::new(0);
    let repeated = AtomicUsize::new(0);
    let work = || {
        let machine = Machine::start(world);
        let mut faults = Vec::new();
        while let Some(crash) = crashes.get(next.fetch_add(1, Ordering::Relaxed)) {
            match machine.recover(trace, crash) {
                Ok(again) => _ = repeated.fetch_add(again, Ordering::Relaxed),
                Err(fault) => faults.push(fault),
            }
        }
        faults
    };
    let faults: Vec<String> = thread::scope(|scope| {
        // They wait for the disk most of the time.
        let workers: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("it does not panic")).collect()
    });
    println!(
        "{world:?}: {} crashes, {} mails came again, {} faults, {} seconds",
        crashes.len(),
        repeated.load(Ordering::Relaxed),
        faults.len(),
        begun.elapsed().as_secs(),
    );
    let shown: Vec<&str> = faults.iter().take(5).map(String::as_str).collect();
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), shown.join("\n\n"));
}

/// A mail that the relay had in hand before the crash.
#[derive(Clone, Debug)]
struct Relayed {
    attempt: usize,
    to: Vec<String>,
    octets: Vec<u8>,
    /// Whether the relay had said so to the deliverer.
    confirmed: bool,
    /// Whether that is durable.
    recorded: bool,
}

/// What the relay had in hand by then.
fn relayed_before(trace: &Trace, time: u64) -> Vec<Relayed> {
    let steps = trace.events.iter().filter_map(|event| match &event.what {
        What::Relay(attempt, step) => Some((event, *attempt, step)),
        _ => None,
    });
    let mut relayed: BTreeMap<usize, (Vec<String>, Option<Relayed>)> = BTreeMap::new();
    for (event, attempt, step) in steps.filter(|(event, ..)| event.from <= time) {
        let (to, mail) = relayed.entry(attempt).or_default();
        match step {
            Relay::Recipient(address, 250..=259) => to.push(address.clone()),
            Relay::HandedOver(octets) => {
                let (to, octets) = (to.clone(), octets.clone());
                let mail_relayed =
                    Relayed { attempt, to, octets, confirmed: false, recorded: false };
                *mail = Some(mail_relayed);
            }
            Relay::Answered(250) => {
                let Some(mail) = mail else { continue };
                mail.confirmed = event.to <= time;
                mail.recorded = recorded_by(trace, event.to, &mail.octets, time);
            }
            _ => {}
        }
    }
    relayed.into_values().filter_map(|(_, mail)| mail).collect()
}

/// Whether a record that was written after `answered` is durable.
fn recorded_by(trace: &Trace, answered: u64, octets: &[u8], time: u64) -> bool {
    let id = mail::header(octets, "Message-ID").expect("a mail has a Message-ID");
    let of_it = sidecars(trace).into_iter().find(|sidecar| sidecar.message_id == id);
    let path = format!("delivery/{}.json", of_it.expect("it has a sidecar").id);
    let renamed = trace.events.iter().find(|event| {
        event.from > answered && matches!(&event.what, What::Renamed(_, to) if *to == path)
    });
    renamed.is_some_and(|renamed| {
        trace.events.iter().any(|event| {
            event.from > renamed.to
                && event.to <= time
                && event.what == What::Synced("delivery".into())
        })
    })
}

/// Whether a relay may have had a mail in hand by then, as far as a record that was left can tell.
fn in_hand(trace: &Trace, id: &str, time: u64) -> bool {
    let temporary = format!("delivery/.{id}.json.tmp");
    let in_place = format!("delivery/{id}.json");
    let mut in_hand = false;
    for event in trace.events.iter().filter(|event| event.from <= time) {
        match &event.what {
            What::Wrote(path, octets) if *path == temporary => {
                let record: DeliveryRecord = serde_json::from_slice(octets).unwrap();
                in_hand |= record.offered_at.is_some();
            }
            // What was written before is not left any more.
            What::Synced(path) if path == "delivery" && event.to <= time => {
                let last = trace.events.iter().rfind(|last| {
                    last.to < event.from
                        && matches!(&last.what, What::Renamed(_, to) if *to == in_place)
                });
                let written = last.and_then(|last| {
                    trace.events.iter().rfind(|written| {
                        written.to < last.from
                            && matches!(&written.what, What::Wrote(path, _) if *path == temporary)
                    })
                });
                if let Some(What::Wrote(_, octets)) = written.map(|written| &written.what) {
                    let record: DeliveryRecord = serde_json::from_slice(octets).unwrap();
                    in_hand = record.offered_at.is_some();
                }
            }
            _ => {}
        }
    }
    in_hand
}

fn sidecars(trace: &Trace) -> Vec<Sidecar> {
    let written = trace.events.iter().filter_map(|event| match &event.what {
        What::Wrote(path, octets) if folder_of(path) == "sidecar" => Some(octets),
        _ => None,
    });
    written.filter_map(|octets| serde_json::from_slice(octets).ok()).collect()
}

/// An installation that is brought into the state that a crash left.
struct Machine {
    world: World,
    site: Site,
    relay: ScriptedRelay,
}

impl Machine {
    fn start(world: World) -> Self {
        let relay = ScriptedRelay::start();
        relay.always(At::Rcpt, REFUSED, Act::Say("550 5.1.1 no such user"));
        let site = world
            .site(programs!(), relay.port())
            // What waits for longer than this is due.
            .set("delivery.retry_min", json!("1s"))
            .set("delivery.retry_max", json!("1s"))
            .build();
        for portion in world.events() {
            site.insert(&portion);
        }
        Self { world, site, relay }
    }

    /// Goes on after a crash, to the end. Gives how many mails came again, or what is not as it should be.
    fn recover(&self, trace: &Trace, crash: &Crash) -> Result<usize, String> {
        self.relay.forget();
        self.rebuild(&crash.left);
        self.go_on().and_then(|()| self.judge(trace, crash)).map_err(|fault| {
            let found: Vec<&String> = crash.left.files.keys().collect();
            let last = trace.events.iter().rfind(|event| event.to <= crash.time);
            format!(
                "{:?}: a crash at {} ({:?}), of what was not durable there was left {}: {fault}\n\
                 before: {found:?}\nafter: {:?}\nrelayed: {:?}",
                self.world,
                crash.time,
                last.map(|event| what(&event.what)),
                crash.how,
                self.site.files(),
                self.relay
                    .received()
                    .iter()
                    .map(|mail| format!("{} to {:?}", mail.ticket(), mail.to))
                    .collect::<Vec<_>>(),
            )
        })
    }

    fn rebuild(&self, left: &Left) {
        let outbox = self.site.outbox();
        for folder in
            ["tmp", "new", "cur", "sidecar", "delivery", "sent/tmp", "sent/new", "sent/cur"]
        {
            for entry in fs::read_dir(outbox.join(folder)).unwrap() {
                fs::remove_file(entry.unwrap().path()).unwrap();
            }
        }
        let mut written: BTreeMap<usize, PathBuf> = BTreeMap::new();
        for (name, (number, octets)) in &left.files {
            let path = outbox.join(name);
            if let Some(other) = written.get(number) {
                fs::hard_link(other, &path).unwrap();
                continue;
            }
            fs::write(&path, octets).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
            written.insert(*number, path);
        }

        let mut statements = vec![
            "UPDATE directives SET sent_id = NULL WHERE sent_id IS NOT NULL;".to_owned(),
            "DELETE FROM sent;".to_owned(),
            "UPDATE ticket_day SET initialized_for_day = '2016-01-01';".to_owned(),
        ];
        for transaction in &left.committed {
            if let Some((day, number)) =
                transaction.drawn.iter().max().and_then(|ticket| ticket.split_once('-'))
            {
                statements.push(format!(
                    "UPDATE ticket_day SET initialized_for_day = to_date('{day}', 'YYYYMMDD');
                     SELECT setval('intelmq_ticket_seq', {number});"
                ));
            }
            for (ticket, time) in &transaction.sent {
                let time = time.map_or("NULL".to_owned(), |time| {
                    format!(
                        "timestamptz '2000-01-01 00:00:00+00' + {time} * interval '1 microsecond'"
                    )
                });
                statements.push(format!(
                    "INSERT INTO sent (intelmq_ticket, sent_at) VALUES ('{ticket}', {time});"
                ));
            }
            for (ticket, directive) in &transaction.marked {
                statements.push(format!(
                    "UPDATE directives SET sent_id =
                        (SELECT id FROM sent WHERE intelmq_ticket = '{ticket}')
                      WHERE id = {directive} AND sent_id IS NULL;"
                ));
            }
        }
        self.site.sql(&statements.concat());
    }

    /// Both programs, as their timers would start them, and the operator who ends what he began.
    fn go_on(&self) -> Result<(), String> {
        self.both()?;
        let mut again = false;
        for (whom, how) in [(ANEW, "--regenerate"), (NEVER_SENT, "--suppress")] {
            for sidecar in self.sidecars()? {
                if sidecar["envelope"]["to"] == json!([whom]) {
                    let id = sidecar["id"].as_str().unwrap();
                    let run = self.site.deliverer(&["withdraw", how, id]);
                    expect(run.status.success(), || format!("{run}"))?;
                    again = true;
                }
            }
        }
        if again {
            self.both()?;
        }
        let run = self.site.generator(&["run", "--all"]);
        let quiet = run.status.success() && run.stderr.contains("done mails=0 copies=0");
        expect(quiet, || format!("it is not quiet: {run}"))
    }

    fn both(&self) -> Result<(), String> {
        let run = self.site.generator(&["run", "--all"]);
        expect(run.status.success(), || format!("{run}"))?;
        let run = self.site.deliverer(&["run", "--once"]);
        // A mail that is refused, or of which nobody knows whether the relay has it, is an error.
        expect(matches!(run.status.code(), Some(0 | 1)), || format!("{run}"))
    }

    fn sidecars(&self) -> Result<Vec<Value>, String> {
        self.read("sidecar")
    }

    fn read<T: DeserializeOwned>(&self, folder: &str) -> Result<Vec<T>, String> {
        let read = |path: &PathBuf| {
            serde_json::from_slice(&fs::read(path).unwrap())
                .map_err(|error| format!("{}: {error}", path.display()))
        };
        self.site.listed(folder).iter().map(read).collect()
    }

    /// Whether all is as it should be.
    fn judge(&self, trace: &Trace, crash: &Crash) -> Result<usize, String> {
        let before = relayed_before(trace, crash.time);
        let after = self.relay.received();
        let held = self.held(trace, crash)?;
        let mut again = 0;
        // By recipient: the mail, and whether it is certain that the relay has it.
        for recipient in self.world.recipients() {
            let to = |to: &[String]| to.iter().any(|to| to == recipient);
            let earlier: Vec<&Relayed> = before.iter().filter(|mail| to(&mail.to)).collect();
            let later = after.iter().filter(|mail| to(&mail.to)).count();
            let octets: BTreeSet<&[u8]> = earlier
                .iter()
                .map(|mail| mail.octets.as_slice())
                .chain(after.iter().filter(|mail| to(&mail.to)).map(|mail| mail.bytes.as_slice()))
                .collect();
            expect(octets.len() <= 1, || format!("{recipient} got two mails that differ"))?;
            let certain = earlier.iter().filter(|mail| mail.confirmed).count() + later;
            let window = earlier.iter().filter(|mail| !mail.recorded).count();
            if held.contains(recipient) {
                expect(certain <= 1, || {
                    format!("{recipient} got {certain} mails, and it is held")
                })?;
                continue;
            }
            if certain == 0 && recipient == NEVER_SENT && self.is_suppressed() {
                continue;
            }
            let allowed = if self.world == World::UncertainHold { 1 } else { 1 + window };
            expect((1..=allowed).contains(&certain), || {
                format!("{recipient} got {certain} mails, and could have got {allowed}")
            })?;
            again += certain - 1;
        }
        self.judge_database(&before, &held)?;
        self.judge_archive(&before)?;
        Ok(again)
    }

    /// What waits for a person: the recipients. Everything else in the outbox is the archive.
    fn held(&self, trace: &Trace, crash: &Crash) -> Result<BTreeSet<String>, String> {
        let mut held = BTreeSet::new();
        let mut files = self.site.files();
        files.retain(|file| !file.starts_with("sent/cur/"));
        let mut expected = Vec::new();
        let records: Vec<DeliveryRecord> = self.read("delivery")?;
        for sidecar in self.sidecars()? {
            let to = sidecar["envelope"]["to"][0].as_str().unwrap();
            let id = sidecar["id"].as_str().unwrap();
            // One that was flagged before the crash, and whose record was not durable, has none.
            let record = records.iter().find(|record| record.id.as_str() == id);
            if let Some(record) = record {
                let rejected = to == REFUSED && record.state == DeliveryState::Rejected;
                let unsure = record.state == DeliveryState::Held && record.uncertain > 0;
                let in_hand = unsure && in_hand(trace, id, crash.time);
                expect(rejected || in_hand, || format!("{to} is {:?}", record.state))?;
            }
            let number: u32 = sidecar["ticket"].as_str().unwrap()[9..].parse().unwrap();
            let number = number - 10_000_000;
            expected.extend([format!("cur/#{number}:2,F"), format!("sidecar/#{number}.json")]);
            expected.extend(record.map(|_| format!("delivery/#{number}.json")));
            let all = sidecar["envelope"]["to"].as_array().unwrap();
            held.extend(all.iter().map(|to| to.as_str().unwrap().to_owned()));
        }
        expected.sort();
        expect(files == expected, || {
            format!("in the outbox there should be {expected:?} and is {files:?}")
        })?;
        let refused = self.world != World::WithoutArchive;
        expect(held.remove(REFUSED) == refused, || "what the relay refuses is not held".into())?;
        Ok(held)
    }

    fn is_suppressed(&self) -> bool {
        let marked = format!(
            "SELECT count(*) FROM directives AS d JOIN sent AS s ON s.id = d.sent_id
              WHERE d.recipient_address = '{NEVER_SENT}' AND s.sent_at IS NULL"
        );
        self.site.column::<i64>(&marked)[0] == 1
    }

    /// Every directive is marked, but for those of the mails that are held; each mail has its ticket.
    fn judge_database(&self, before: &[Relayed], held: &BTreeSet<String>) -> Result<(), String> {
        let claimed: BTreeSet<i64> = self
            .sidecars()?
            .iter()
            .flat_map(|sidecar| sidecar["directive_ids"].as_array().unwrap().clone())
            .map(|id| id.as_i64().unwrap())
            .collect();
        let pending = self.site.column::<i64>("SELECT id FROM directives WHERE sent_id IS NULL");
        expect(pending.iter().collect::<BTreeSet<_>>() == claimed.iter().collect(), || {
            format!("pending are {pending:?}, and claimed {claimed:?}")
        })?;
        let mut tickets: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let after = self.relay.received();
        let mails = before
            .iter()
            .map(|mail| (&mail.octets, &mail.to))
            .chain(after.iter().map(|mail| (&mail.bytes, &mail.to)));
        for (octets, to) in mails {
            // A copy shares the ticket of its mail.
            if !to[0].ends_with("@cert.example") {
                let ticket = mail::header(octets, "X-Ticket").unwrap();
                let id = mail::header(octets, "Message-ID").unwrap();
                tickets.entry(ticket).or_default().insert(id);
            }
        }
        let twice = tickets.values().any(|mails| mails.len() > 1);
        expect(!twice, || format!("a ticket was given twice: {tickets:?}"))?;
        let sent: BTreeSet<String> = self
            .site
            .column::<String>("SELECT intelmq_ticket FROM sent WHERE sent_at IS NOT NULL")
            .into_iter()
            .collect();
        // What is held may be at the relay, and is not sent as far as anybody knows.
        let missing = tickets.keys().filter(|ticket| !sent.contains(*ticket)).count();
        let unsure = if held.is_empty() { 0 } else { held.len() };
        expect(missing <= unsure && sent.iter().all(|ticket| tickets.contains_key(ticket)), || {
            format!("relayed are {:?}, and sent {sent:?}", tickets.keys())
        })
    }

    /// The archive has each mail that was relayed, whole, once.
    fn judge_archive(&self, before: &[Relayed]) -> Result<(), String> {
        let mut archived: Vec<Vec<u8>> = self
            .site
            .listed("sent/cur")
            .iter()
            .map(|path| plain(&fs::read(path).unwrap()))
            .collect();
        archived.sort();
        let mut relayed: BTreeSet<Vec<u8>> =
            self.relay.received().iter().map(|mail| plain(&mail.bytes)).collect();
        relayed.extend(before.iter().map(|mail| plain(&mail.octets)));
        if self.world == World::WithoutArchive {
            return expect(archived.is_empty(), || "there is an archive".into());
        }
        let held: BTreeSet<Vec<u8>> =
            self.site.listed("cur").iter().map(|path| plain(&fs::read(path).unwrap())).collect();
        relayed.retain(|mail| !held.contains(mail));
        expect(archived.iter().eq(&relayed), || {
            format!("{} mails are in the archive, and {} relayed", archived.len(), relayed.len())
        })
    }
}

fn expect(right: bool, fault: impl FnOnce() -> String) -> Result<(), String> {
    if right { Ok(()) } else { Err(fault()) }
}

/// A mail's octets, however its lines end.
fn plain(octets: &[u8]) -> Vec<u8> {
    let mut plain: Vec<u8> = octets.iter().copied().filter(|&octet| octet != b'\r').collect();
    if !plain.ends_with(b"\n") {
        plain.push(b'\n');
    }
    plain
}

/// What happened, without octets.
fn what(what: &What) -> String {
    match what {
        What::Wrote(path, octets) => format!("{} octets written to {path}", octets.len()),
        What::Relay(attempt, Relay::HandedOver(_)) => format!("attempt {attempt} handed over"),
        what => format!("{what:?}"),
    }
}

/// A recorded world: once for all tests.
fn recorded(world: World) -> &'static Trace {
    static RECORDED: [OnceLock<Trace>; 3] = [const { OnceLock::new() }; 3];
    let number = World::ALL.iter().position(|other| *other == world).expect("it is one of all");
    RECORDED[number].get_or_init(|| world.record(programs!()))
}
