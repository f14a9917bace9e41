//! What can happen in a sequence, as plain values: drawn at random, told in words, left out one by
//! one when a sequence that fails is made shorter.
//!
//! Each step means something in every state, so that any sequence can be run: a person who is to take
//! the third of no mails takes none.

use std::fmt;

use outbox_tests::random::Random;
use outbox_tests::scripted_relay::At;

/// How many kinds of groups there are.
pub const GROUPS: u64 = 7;

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Events of these groups are stored.
    Insert(Vec<u64>),
    /// The generator runs.
    Generate(End),
    /// The deliverer runs once, unless the service runs.
    Deliver(End),
    /// The service is started, unless it runs.
    Start,
    /// The service is told to stop.
    Stop,
    /// The service is killed.
    Kill,
    /// The configuration is changed, and the service reads it.
    Configure(Setting),
    /// Nothing but time passes, in milliseconds.
    Pass(u64),
    /// A person does something to a mail in a mail reader.
    Mail(Hand, usize),
    /// A person uses a command on a mail, or on all.
    Command(Command, Option<usize>, End),
    /// The relay.
    Relay(Relay),
    /// The database.
    Database(Database),
}

/// How a program ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself.
    Itself,
    /// Killed after so many milliseconds, if it still runs.
    After(u64),
    /// Killed before its main thread calls the system so for this time, if it does.
    Before(&'static str, u32),
}

/// A value in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// Whether uncertain mails are held.
    HoldUncertain(bool),
    /// Whether new mails are held.
    HoldNew(bool),
    /// How many connections there are.
    Connections(u64),
    /// Whether a mail that was deferred waits an hour, and not a second.
    Patient(bool),
    /// Whether the disk counts as full.
    Full(bool),
}

/// What a mail reader does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hand {
    /// Sets F.
    Flag,
    /// Clears F.
    Unflag,
    /// Sets T.
    Trash,
    /// Clears T.
    Untrash,
    /// Sets S, R and D, which mean nothing.
    See,
    /// Removes the file.
    Delete,
}

/// A command of the deliverer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// `hold`.
    Hold,
    /// `release`.
    Release,
    /// `retry`.
    Retry,
    /// `withdraw --regenerate`.
    Regenerate,
    /// `withdraw --suppress`.
    Suppress,
}

/// What the relay does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Relay {
    /// Says this at a command, once or always; for one of the recipients only if it says which.
    Say {
        /// At which command.
        at: At,
        /// What it says.
        words: &'static str,
        /// The recipients that it says so to begin so.
        to: &'static str,
        /// Whether it says so from now on.
        always: bool,
    },
    /// Hangs up there, the next time.
    HangUp(At),
    /// Takes so many milliseconds to answer the next final dot.
    Slow(u64),
    /// Does nothing unusual any more.
    Behave,
    /// Is away.
    GoAway,
    /// Is back.
    ComeBack,
}

/// What happens to the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Database {
    /// Its server is stopped.
    Stop,
    /// Its server is killed.
    Kill,
    /// Its server is started, and nobody holds locks any more.
    ComeBack,
    /// It ends the sessions of both programs.
    EndSessions,
    /// Somebody locks all directives.
    Lock,
}

/// A sequence of so many steps.
pub fn sequence(random: &mut Random, length: usize) -> Vec<Step> {
    // So that what is away comes back, and there is mostly something to lose: something to write for
    // the generator, and a mail in hand when a deliverer is killed.
    let (mut service, mut relay, mut database) = (false, true, true);
    let mut steps = vec![
        Step::Configure(Setting::HoldUncertain(random.below(2) == 0)),
        Step::Configure(Setting::HoldNew(random.below(8) == 0)),
        insert(random),
        Step::Generate(End::Itself),
    ];
    while steps.len() < length {
        let step = match random.below(100) {
            0..12 => insert(random),
            12..27 => {
                if random.below(3) > 0 {
                    steps.push(insert(random));
                }
                Step::Generate(end(random))
            }
            27..45 if service => Step::Pass(random.below(400)),
            27..45 => {
                let end = end(random);
                if matches!(end, End::After(_)) {
                    steps.push(Step::Relay(Relay::Slow(random.below(300))));
                }
                Step::Deliver(end)
            }
            45..53 if !service => Step::Start,
            45..50 => {
                if random.below(3) > 0 {
                    steps.extend([
                        Step::Relay(Relay::Slow(random.below(400))),
                        insert(random),
                        Step::Generate(End::Itself),
                        Step::Pass(random.below(100)),
                    ]);
                }
                Step::Kill
            }
            50..53 => Step::Stop,
            53..59 => Step::Configure(setting(random)),
            59..72 => Step::Mail(hand(random), index(random)),
            72..82 => {
                let which = (random.below(4) > 0).then(|| index(random));
                Step::Command(command(random), which, end(random))
            }
            82..94 if !relay && random.below(2) == 0 => Step::Relay(Relay::ComeBack),
            82..94 => Step::Relay(fault(random)),
            _ if !database => Step::Database(Database::ComeBack),
            _ => Step::Database(outage(random)),
        };
        match &step {
            Step::Start => service = true,
            Step::Stop | Step::Kill => service = false,
            Step::Relay(Relay::GoAway) => relay = false,
            Step::Relay(Relay::ComeBack) => relay = true,
            Step::Database(Database::EndSessions) => {}
            Step::Database(what) => database = *what == Database::ComeBack,
            _ => {}
        }
        steps.push(step);
    }
    steps
}

fn insert(random: &mut Random) -> Step {
    Step::Insert((0..=random.below(5)).map(|_| random.below(GROUPS)).collect())
}

fn end(random: &mut Random) -> End {
    // Between renames most is at stake.
    const CALLS: [(&str, u64); 8] = [
        ("rename", 6),
        ("rename", 12),
        ("rename", 12),
        ("fsync", 10),
        ("fsync", 20),
        ("fchmod", 8),
        ("unlink", 8),
        ("openat", 120),
    ];
    match random.below(8) {
        0 | 1 => End::After(random.below(250)),
        2 | 3 => {
            let (call, calls) = CALLS[index(random) % CALLS.len()];
            End::Before(call, 1 + u32::try_from(random.below(calls)).expect("it is small"))
        }
        _ => End::Itself,
    }
}

fn setting(random: &mut Random) -> Setting {
    let on = random.below(2) == 0;
    match random.below(6) {
        0 | 1 => Setting::HoldUncertain(on),
        2 => Setting::HoldNew(on),
        3 => Setting::Connections(if on { 1 } else { 4 }),
        4 => Setting::Patient(on),
        // Full less often than not.
        _ => Setting::Full(on && random.below(2) == 0),
    }
}

fn hand(random: &mut Random) -> Hand {
    const HANDS: [Hand; 8] = [
        Hand::Flag,
        Hand::Flag,
        Hand::Unflag,
        Hand::Unflag,
        Hand::Trash,
        Hand::Untrash,
        Hand::See,
        Hand::Delete,
    ];
    HANDS[index(random) % HANDS.len()]
}

fn command(random: &mut Random) -> Command {
    const COMMANDS: [Command; 5] =
        [Command::Hold, Command::Release, Command::Retry, Command::Regenerate, Command::Suppress];
    COMMANDS[index(random) % COMMANDS.len()]
}

fn fault(random: &mut Random) -> Relay {
    const SAYINGS: [(At, &str); 9] = [
        (At::Rcpt, "450 4.2.0 greylisted, try again later"),
        (At::Rcpt, "450 4.2.0 greylisted, try again later"),
        (At::Rcpt, "550 5.1.1 no such user here"),
        (At::Mail, "451 4.3.0 not now"),
        (At::Data, "451 4.3.0 not now"),
        (At::FinalDot, "452 4.3.1 no room"),
        (At::FinalDot, "554 5.6.0 not this one"),
        (At::Greeting, "554 5.7.1 go away"),
        (At::Greeting, "421 4.3.2 too busy"),
    ];
    const MOMENTS: [At; 4] = [At::Mail, At::Data, At::FinalDot, At::FinalDot];
    match random.below(10) {
        0..4 => {
            let (at, words) = SAYINGS[index(random) % SAYINGS.len()];
            // One of two recipients has it then.
            let to = if at == At::Rcpt && random.below(3) > 0 { "slow" } else { "" };
            Relay::Say { at, words, to, always: at == At::Rcpt && random.below(2) == 0 }
        }
        4 | 5 => Relay::HangUp(MOMENTS[index(random) % MOMENTS.len()]),
        6 | 7 => Relay::Slow(random.below(400)),
        8 => Relay::Behave,
        _ => Relay::GoAway,
    }
}

fn outage(random: &mut Random) -> Database {
    const OUTAGES: [Database; 4] =
        [Database::Stop, Database::Kill, Database::EndSessions, Database::Lock];
    OUTAGES[index(random) % OUTAGES.len()]
}

fn index(random: &mut Random) -> usize {
    usize::try_from(random.below(64)).expect("it is small")
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Insert(groups) => write!(f, "events of the groups {groups:?} are stored"),
            Self::Generate(end) => write!(f, "the generator runs{end}"),
            Self::Deliver(end) => write!(f, "the deliverer runs once{end}"),
            Self::Start => f.write_str("the service is started"),
            Self::Stop => f.write_str("the service is told to stop"),
            Self::Kill => f.write_str("the service is killed"),
            Self::Configure(setting) => write!(f, "the configuration says {setting:?}"),
            Self::Pass(time) => write!(f, "{time} ms pass"),
            Self::Mail(hand, which) => write!(f, "a person: {hand:?}, of mail {which}"),
            Self::Command(command, Some(which), end) => {
                write!(f, "a person: the command {command:?} with mail {which}{end}")
            }
            Self::Command(command, None, end) => {
                write!(f, "a person: the command {command:?} with all mails{end}")
            }
            Self::Relay(relay) => write!(f, "the relay: {relay:?}"),
            Self::Database(database) => write!(f, "the database: {database:?}"),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Itself => Ok(()),
            Self::After(time) => write!(f, ", killed after {time} ms"),
            Self::Before(call, number) => write!(f, ", killed before its {call} number {number}"),
        }
    }
}
