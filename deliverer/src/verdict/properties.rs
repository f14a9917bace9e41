//! What holds of every mail, whatever relays answer, clocks show and the configuration becomes between attempts.

use std::collections::BTreeMap;
use std::time::Duration;

use outbox::{Flags, MailFile, Place, State};
use proptest::prelude::*;

use super::tests::{accepted, deferred, id, lost, rejected};
use super::*;
use crate::service::not_before;
use crate::smtp::{Recipient, Refusal};

const ADDRESSES: [&str; 4] =
    ["a@as64496.example", "b@as64496.example", "c@as64497.example", "d@as64497.example"];

/// What comes of asking for one recipient.
#[derive(Clone, Copy, Debug)]
enum Said {
    Accepted,
    Deferred,
    Rejected,
    Uncertain,
    Nothing,
}

/// What happens to a mail.
#[derive(Clone, Debug)]
enum Step {
    /// An attempt: what is said of each recipient that is asked for, whether the relay is in trouble at its end, and
    /// whether the mail takes the blame for that.
    Attempt { said: [Said; 4], trouble: bool, blamed: bool },
    /// The mail can't be given to a relay.
    Refused,
    /// The program is killed while a relay has the mail in hand.
    Killed,
    /// A person releases it, if it is held.
    Released,
}

/// How it all is at a step: the clock, the waits that are configured, and chance.
#[derive(Clone, Debug)]
struct Present {
    now: Timestamp,
    settings: DeliverySettings,
    jitter: f64,
}

fn said() -> impl Strategy<Value = Said> {
    prop_oneof![
        3 => Just(Said::Deferred),
        2 => Just(Said::Accepted),
        2 => Just(Said::Rejected),
        1 => Just(Said::Uncertain),
        1 => Just(Said::Nothing),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (proptest::array::uniform4(said()), any::<bool>(), any::<bool>())
            .prop_map(|(said, trouble, blamed)| Step::Attempt { said, trouble, blamed }),
        1 => Just(Step::Refused),
        1 => Just(Step::Killed),
        3 => Just(Step::Released),
    ]
}

/// A clock that any of a century's instants can be on, or that of the step before and a little.
fn seconds() -> impl Strategy<Value = i64> {
    prop_oneof![-946_684_800_i64..4_102_444_800, 1_764_000_000_i64..1_764_100_000]
}

fn settings() -> impl Strategy<Value = DeliverySettings> {
    let century = 100 * 366 * 86_400_u64;
    let seconds = move || prop_oneof![1..100_u64, 1..100_000_u64, 1..=century];
    (seconds(), seconds(), prop_oneof![Just(0), seconds()], any::<bool>()).prop_map(
        |(one, other, expire, hold)| DeliverySettings {
            retry_min: Duration::from_secs(one.min(other)),
            retry_max: Duration::from_secs(one.max(other)),
            expire_after: Duration::from_secs(expire),
            uncertain: if hold { Uncertain::Hold } else { Uncertain::Resend },
            ..DeliverySettings::default()
        },
    )
}

fn present() -> impl Strategy<Value = Present> {
    (seconds(), settings(), 0.0..=1.0).prop_map(|(seconds, settings, jitter)| Present {
        now: Timestamp::from_second(seconds).expect("a time of our days"),
        settings,
        jitter,
    })
}

fn envelope() -> Envelope {
    Envelope { from: String::new(), to: ADDRESSES.map(str::to_owned).to_vec() }
}

/// An attempt in which this is said of those who are asked for.
fn attempt(open: &[&str], said: [Said; 4], trouble: bool) -> Attempt {
    let recipient = |(address, said): (&&str, Said)| Recipient {
        address: address.parse().expect("an address"),
        outcome: match said {
            Said::Accepted => accepted(),
            Said::Deferred => deferred(),
            Said::Rejected => rejected(),
            Said::Uncertain => Outcome::Uncertain(None),
            Said::Nothing => Outcome::Open,
        },
    };
    Attempt {
        recipients: open.iter().zip(said).map(recipient).collect(),
        refusal: None,
        trouble: trouble.then(lost),
        reusable: !trouble,
        phases: Vec::new(),
    }
}

/// What a step makes of a record; `None` where nothing changes.
fn after(record: &DeliveryRecord, step: &Step, present: &Present) -> Option<Verdict> {
    let envelope = envelope();
    let open = record.open_recipients(&envelope.to);
    let judge = |attempt: &Attempt, blamed| {
        let at = Circumstances {
            relay: "relay.example:25",
            settings: &present.settings,
            now: present.now,
            took: Duration::from_millis(3),
            jitter: present.jitter,
            blamed,
        };
        judge(record.clone(), &envelope, attempt, &at)
    };
    match step {
        Step::Attempt { said, trouble, blamed } => judge(&attempt(&open, *said, *trouble), *blamed),
        Step::Refused => {
            let mut attempt = attempt(&open, [Said::Nothing; 4], false);
            attempt.refusal = Some(Refusal::Empty);
            judge(&attempt, false)
        }
        Step::Killed => {
            let mut offered = record.clone();
            offered.offered_at = Some(present.now);
            Some(interrupted(offered, present.settings.uncertain, present.now))
        }
        Step::Released => unreachable!("a person decides"),
    }
}

fn states(record: &DeliveryRecord) -> BTreeMap<String, RecipientState> {
    record.recipients.iter().map(|(address, outcome)| (address.clone(), outcome.state)).collect()
}

proptest! {
    /// Steps in any order, at any time: who has the mail is asked no more and never forgotten; who refused it is asked
    /// no more until a person says so; accepted is a mail when nobody is open and somebody has it.
    #[test]
    fn each_recipient_gets_the_mail_once_and_is_told_the_truth_of(
        steps in proptest::collection::vec((step(), present()), 1..80)
    ) {
        let envelope = envelope();
        let mut record = DeliveryRecord::new(id());
        for (step, present) in steps {
            let before = record.clone();
            if let Step::Released = step {
                if record.was_held() {
                    record.reopen();
                    prop_assert_eq!(record.any_accepted(), before.any_accepted());
                    prop_assert_eq!(record.first_attempt_at, None, "the time until it is given up begins anew");
                    let has = |state: &RecipientState| *state == RecipientState::Accepted;
                    prop_assert_eq!(states(&record), states(&before).into_iter().filter(|(_, state)| has(state)).collect());
                }
                continue;
            }
            if before.was_held() || before.state == DeliveryState::Accepted {
                continue;
            }
            let Some(Verdict { record: after, uncertain }) = after(&before, &step, &present) else {
                let said_nothing = match &step {
                    Step::Attempt { said, trouble, blamed } => {
                        let open = before.open_recipients(&envelope.to).len();
                        said[..open].iter().all(|said| matches!(said, Said::Nothing)) && !(*trouble && *blamed)
                    }
                    _ => false,
                };
                prop_assert!(said_nothing, "{:?}", step);
                continue;
            };

            let (was, is) = (states(&before), states(&after));
            for (address, state) in &was {
                if *state != RecipientState::Deferred {
                    prop_assert_eq!(is.get(address), Some(state), "{} was settled", address);
                }
            }
            prop_assert!(after.any_accepted() || !before.any_accepted());
            let open = after.open_recipients(&envelope.to);
            prop_assert_eq!(after.state == DeliveryState::Accepted, open.is_empty() && after.any_accepted() && after.state != DeliveryState::Held, "{:?}", after);
            prop_assert_eq!(after.accepted_at.is_some(), after.state == DeliveryState::Accepted);
            if matches!(after.state, DeliveryState::Rejected | DeliveryState::Expired) {
                prop_assert!(open.is_empty() && !after.any_accepted());
            }
            if after.state == DeliveryState::Deferred {
                prop_assert!(!open.is_empty());
            }
            if uncertain && present.settings.uncertain == Uncertain::Hold {
                prop_assert_eq!(after.state, DeliveryState::Held, "a person decides");
            }
            // Given up for its age alone.
            let age = before.first_attempt_at.map(|first| present.now.duration_since(first));
            let is_old = age.is_some_and(|age| age >= SignedDuration::try_from(present.settings.expire_after).unwrap())
                || present.settings.expire_after.is_zero();
            let given_up = |record: &DeliveryRecord| record.recipients.values().filter(|outcome| outcome.reply.starts_with(GIVEN_UP)).count();
            prop_assert!(is_old || given_up(&after) == given_up(&before));
            prop_assert!(is_old || after.state != DeliveryState::Expired);
            prop_assert!(
                after.attempts == before.attempts
                    || after.first_attempt_at.is_some_and(|first| first <= present.now)
                    || matches!(step, Step::Killed),
                "a mail that is never given up: {:?}",
                after
            );
            prop_assert!(after.offered_at.is_none());
            prop_assert!(after.history.len() <= 50 && after.attempts >= before.attempts);
            let json = serde_json::to_string(&after).unwrap();
            prop_assert_eq!(&serde_json::from_str::<DeliveryRecord>(&json).unwrap(), &after);
            record = after;
        }
    }

    /// However the clock jumps and the waits are changed, a deferred mail is due no later than the longest wait from
    /// the present, and a mail is looked at again at a time that is in the future.
    #[test]
    fn no_wait_is_longer_than_what_is_configured_now(
        steps in proptest::collection::vec((present(), present()), 1..30)
    ) {
        let file = MailFile { place: Place::New, file_name: id().as_str().into(), flags: Flags::default() };
        let entry = outbox::Entry { mail: Some(file), sidecar: true, record: true };
        let mut record = DeliveryRecord::new(id());
        for (then, later) in steps {
            let step = Step::Attempt { said: [Said::Deferred; 4], trouble: false, blamed: false };
            let Some(verdict) = after(&record, &step, &then) else { continue };
            record = verdict.record;
            if record.state != DeliveryState::Deferred {
                record.reopen();
                continue;
            }
            let waits = record.next_attempt_at.unwrap().duration_since(then.now);
            let longest = SignedDuration::try_from(then.settings.retry_max).unwrap();
            let shortest = SignedDuration::try_from(then.settings.retry_min).unwrap();
            prop_assert!(waits <= longest && waits * 4 >= shortest * 3 - SignedDuration::from_millis(4));
            let state = entry.state(Some(&record));
            let deferred = matches!(state, State::Deferred { .. });
            prop_assert!(deferred);
            // Another clock and another configuration.
            match not_before(&later.settings, &id(), &state, Some(&record), later.now) {
                None => {}
                Some(until) => {
                    let waits = until.duration_since(later.now);
                    let longest = SignedDuration::try_from(later.settings.retry_max).unwrap();
                    prop_assert!(waits.is_positive() && waits <= longest, "{}", waits);
                }
            }
        }
    }

    /// A new mail waits for its least age, whatever the clock shows, and no longer.
    #[test]
    fn a_new_mail_waits_for_its_least_age_and_no_longer(present in present(), age in 0..200_000_u64) {
        let settings = DeliverySettings { minimum_age: Duration::from_secs(age), ..present.settings };
        let until = not_before(&settings, &id(), &State::Queued, None, present.now);
        let written = id().written_at().unwrap();
        let passed = present.now.duration_since(written).as_secs();
        let age = i64::try_from(age).unwrap();
        // A clock that shows a time before the mail was written was wrong then, or is now.
        prop_assert_eq!(until.is_some(), (0..age).contains(&passed));
        prop_assert!(until.is_none_or(|until| until.duration_since(written).as_secs() == age));
    }

    /// Waits double until they reach the longest, of which at least three quarters are waited.
    #[test]
    fn waits_double_until_the_longest(settings in settings(), attempts in 1..200_u32, jitter in -1.0..2.0) {
        let full = |attempts| wait(attempts, &settings, 1.0);
        let longest = SignedDuration::try_from(settings.retry_max).unwrap();
        prop_assert_eq!(full(1).min(longest), SignedDuration::try_from(settings.retry_min).unwrap());
        let doubled = full(attempts).checked_mul(2).unwrap_or(SignedDuration::MAX).min(longest);
        prop_assert_eq!(full(attempts + 1), doubled);
        prop_assert!(full(attempts + 1) >= full(attempts));
        let spread = wait(attempts, &settings, jitter);
        prop_assert!(spread <= full(attempts));
        prop_assert!(spread * 4 + SignedDuration::from_millis(4) >= full(attempts) * 3);
    }
}
