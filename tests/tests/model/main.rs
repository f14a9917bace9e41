//! Random sequences of everything that can happen, each step held against a simple model.
//!
//! [`step`] has what can happen, as values; [`world`] lets it happen to the real programs, a real
//! database and a relay; [`ledger`] is the model. A sequence that fails is made shorter as long as it
//! still fails, and printed with all that the programs said. `OUTBOX_TEST_SEED` does it again.
//!
//! What is known and told elsewhere does not happen here: two mail readers at the same time, of which
//! one clears the F of the other (docs/mutt.md), and scripts whose copies can come twice
//! (docs/scripts.md).

mod ledger;
mod step;
mod world;

use std::any::Any;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use outbox_tests::random::Random;
use outbox_tests::scripted_relay::At;
use outbox_tests::{Cluster, programs};
use step::{Command, End, Hand, Relay, Setting, Step};
use world::World;

/// How many steps a sequence has, before all is healed.
const LENGTH: usize = 24;

/// How long a sequence that fails is made shorter.
const SHRINK: Duration = Duration::from_secs(60);

#[test]
fn whatever_happens_in_whatever_order_nothing_is_lost_repeated_or_sent_against_a_persons_word() {
    sequences(1_701, |count, _| count < 20);
}

/// Each of these fails if one rule is broken that chance seldom tries: F, `review.hold_new`, the time of
/// the next attempt, the lock of a mail, who has a mail already, publishing what is committed, asking a
/// person after a kill.
#[test]
fn what_chance_seldom_brings_about_is_held_against_the_model_too() {
    let generate = || Step::Generate(End::Itself);
    let deliver = || Step::Deliver(End::Itself);
    let slow = |always| {
        Step::Relay(Relay::Say {
            at: At::Rcpt,
            words: "450 4.2.0 greylisted, try again later",
            to: "slow",
            always,
        })
    };
    let regenerate = || Step::Command(Command::Regenerate, Some(0), End::Itself);
    let mut sequences = vec![
        vec![Step::Insert(vec![3, 4]), generate(), Step::Mail(Hand::Flag, 0), Step::Start],
        vec![Step::Configure(Setting::HoldNew(true)), Step::Insert(vec![2]), generate(), deliver()],
        vec![
            Step::Configure(Setting::Patient(true)),
            Step::Insert(vec![4]),
            slow(false),
            generate(),
            deliver(),
            deliver(),
        ],
        vec![Step::Insert(vec![3]), slow(true), generate(), deliver(), regenerate()],
        vec![
            Step::Start,
            Step::Relay(Relay::Slow(3_000)),
            Step::Insert(vec![1]),
            generate(),
            Step::Pass(1_000),
            regenerate(),
        ],
    ];
    for number in 1..=6 {
        let killed = Step::Generate(End::Before("rename", number));
        sequences.push(vec![Step::Insert(vec![2, 5]), killed, generate()]);
        let killed = Step::Deliver(End::Before("fsync", number));
        let hold = Step::Configure(Setting::HoldUncertain(true));
        sequences.push(vec![hold, Step::Insert(vec![1]), generate(), killed, deliver()]);
    }
    let cluster = Cluster::private();
    for steps in sequences {
        if let Err(failure) = run(&steps, &cluster) {
            panic!("{failure}");
        }
    }
}

#[test]
#[ignore = "takes the minutes that MINUTES says"]
fn whatever_happens_in_whatever_order_for_minutes() {
    let minutes = std::env::var("MINUTES").map_or(4.0, |text| {
        text.parse::<f64>().unwrap_or_else(|error| panic!("MINUTES={text:?}: {error}"))
    });
    // Others each time.
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is later");
    let long = Duration::from_secs_f64(minutes * 60.0);
    sequences(now.as_secs() << 20 | 1, |_, begun| begun.elapsed() < long);
}

/// Runs sequences in two threads, while they are to go on by their count and the time they began. The
/// one of `OUTBOX_TEST_SEED` alone, if it is given.
fn sequences(first: u64, go_on: impl Fn(u64, Instant) -> bool + Sync) {
    let (begun, count, failed) = (Instant::now(), AtomicU64::new(0), AtomicBool::new(false));
    let tallies = Mutex::new(Vec::new());
    let given: Option<u64> =
        std::env::var("OUTBOX_TEST_SEED").ok().and_then(|text| text.parse().ok());
    thread::scope(|scope| {
        for _ in 0..if given.is_some() { 1 } else { 2 } {
            scope.spawn(|| {
                let cluster = Cluster::private();
                loop {
                    let number = count.fetch_add(1, Ordering::Relaxed);
                    let enough = if given.is_some() { number > 0 } else { !go_on(number, begun) };
                    if enough || failed.load(Ordering::Relaxed) {
                        break;
                    }
                    let seed = given.unwrap_or(first + 2 * number);
                    match sequence(seed, &cluster) {
                        Ok(tally) => {
                            tallies.lock().expect("nobody panics with it").push(tally);
                        }
                        Err(report) => {
                            failed.store(true, Ordering::Relaxed);
                            panic!("{report}");
                        }
                    }
                }
            });
        }
    });
    let tallies = tallies.into_inner().expect("nobody panicked");
    let sum = |at: usize| tallies.iter().map(|tally: &[usize; 4]| tally[at]).sum::<usize>();
    let [mails, dots, repeated, kills] = [0, 1, 2, 3].map(sum);
    println!(
        "{} sequences of {LENGTH} steps in {} s: {mails} mails, {dots} final dots, {kills} kills of a \
         deliverer, {repeated} answers lost with them",
        tallies.len(),
        begun.elapsed().as_secs(),
    );
}

/// Runs the sequence of this seed. What it came to, or a report of how it failed.
fn sequence(seed: u64, cluster: &Cluster) -> Result<[usize; 4], String> {
    let mut random = Random::seeded(seed);
    // Neighbouring seeds begin alike.
    (0..20).for_each(|_| _ = random.below(2));
    let mut steps = step::sequence(&mut random, LENGTH);
    let mut failure = match run(&steps, cluster) {
        Ok(tally) => return Ok(tally),
        Err(failure) => failure,
    };
    let until = Instant::now() + SHRINK;
    let mut size = steps.len() / 2;
    while size > 0 {
        let mut at = 0;
        while at < steps.len() && Instant::now() < until {
            let mut fewer = steps.clone();
            fewer.drain(at..(at + size).min(steps.len()));
            match run(&fewer, cluster) {
                Ok(_) => at += size,
                Err(of_fewer) => (steps, failure) = (fewer, of_fewer),
            }
        }
        size /= 2;
    }
    let mut report = format!("the sequence of OUTBOX_TEST_SEED={seed} fails, made shorter:\n");
    for step in &steps {
        let _ = writeln!(report, "  {step}");
    }
    let _ = writeln!(report, "{failure}");
    Err(report)
}

fn run(steps: &[Step], cluster: &Cluster) -> Result<[usize; 4], String> {
    let mut world = World::new(programs!(), cluster);
    let ran = catch_unwind(AssertUnwindSafe(|| {
        for step in steps {
            world.step(step);
        }
        world.come_to_rest()
    }));
    ran.map_err(|panic| format!("{}\n{}", words(panic.as_ref()), world.end()))
}

fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked")
}
