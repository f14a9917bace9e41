//! From what the relay said to what is written down: the one place that decides it.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use outbox::{
    AttemptMade, DeliveryRecord, DeliveryState, Envelope, RecipientOutcome, RecipientState,
};
use outbox_config::{DeliverySettings, Uncertain};

use crate::smtp::{Attempt, Outcome};

/// Put before the reply of a recipient that is asked for no more.
pub const GIVEN_UP: &str = "given up after too long: ";

/// What to write down of a mail. Where the [record says so](DeliveryRecord::was_held) the mail is to be
/// flagged, so that it waits for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The record to write.
    pub record: DeliveryRecord,
    /// Whether the relay may have taken the mail without saying so.
    pub uncertain: bool,
}

/// What a verdict depends on besides the attempt itself.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    /// Who was asked: host and port.
    pub relay: &'a str,
    /// Waits and limits.
    pub settings: &'a DeliverySettings,
    /// When the attempt ended.
    pub now: Timestamp,
    /// How long it took.
    pub took: Duration,
    /// From 0 to 1: spreads the next attempts of mails that were deferred together.
    pub jitter: f64,
    /// Whether the relay's trouble is the mail's own, for it came with this mail time and again.
    pub blamed: bool,
}

/// Decides what an attempt means for its mail. `attempt` speaks of the recipients that `record` has
/// open, in the envelope's order. `None` if nothing was said of the mail: the trouble is the relay's alone,
/// and counts against no mail.
pub fn judge(
    mut record: DeliveryRecord,
    envelope: &Envelope,
    attempt: &Attempt,
    at: &Circumstances<'_>,
) -> Option<Verdict> {
    if let Some(refusal) = &attempt.refusal {
        return Some(held(record, refusal.to_string()));
    }
    let asked: Vec<String> =
        record.open_recipients(&envelope.to).into_iter().map(str::to_owned).collect();
    let blame = attempt.trouble.as_ref().filter(|_| at.blamed);
    let mut decided = false;
    for (address, recipient) in asked.into_iter().zip(&attempt.recipients) {
        let (state, reply) = match &recipient.outcome {
            Outcome::Accepted(reply) => (RecipientState::Accepted, reply.to_string()),
            Outcome::Deferred(reply) => (RecipientState::Deferred, reply.to_string()),
            Outcome::Rejected(reply) => (RecipientState::Rejected, reply.to_string()),
            Outcome::Uncertain(reply) => {
                (RecipientState::Deferred, uncertain_words(reply.as_ref()))
            }
            Outcome::Open => match blame {
                Some(trouble) => (RecipientState::Deferred, trouble.to_string()),
                None => continue,
            },
        };
        decided = true;
        record.recipients.insert(address, RecipientOutcome { state, reply });
    }
    if !decided {
        // The relay's trouble alone: it counts against no mail.
        return None;
    }
    record.remember(AttemptMade {
        at: at.now,
        relay: at.relay.to_owned(),
        milliseconds: u64::try_from(at.took.as_millis()).unwrap_or(u64::MAX),
        reply: last_word(&record, attempt),
    });
    record.relay = Some(at.relay.to_owned());
    record.offered_at = None;
    record.reason = None;
    record.next_attempt_at = None;
    let uncertain = attempt.is_uncertain();
    let counted = attempt.trouble.is_none() || uncertain || blame.is_some();
    if counted {
        record.attempts = record.attempts.saturating_add(1);
        // One in the future is of a clock that was wrong: counted from there, the mail would never be given up.
        let first = record.first_attempt_at.filter(|first| *first <= at.now);
        record.first_attempt_at = first.or(Some(at.now));
        record.last_attempt_at = Some(at.now);
        record.uncertain = record.uncertain.saturating_add(u32::from(uncertain));
    }
    let overdue = record.first_attempt_at.is_some_and(|first| {
        // One in the future, of a clock that was wrong, is no reason to give up.
        Duration::try_from(at.now.duration_since(first))
            .is_ok_and(|waited| waited >= at.settings.expire_after)
    });
    if uncertain && (overdue || at.settings.uncertain == Uncertain::Hold) {
        let times = record.uncertain;
        let reason = format!(
            "the relay may have taken it: it was handed over whole, and no answer came \
             (attempts: {times})"
        );
        return Some(Verdict { uncertain, ..held(record, reason) });
    }
    let open = !record.open_recipients(&envelope.to).is_empty();
    if open && !overdue {
        record.state = DeliveryState::Deferred;
        if counted {
            let wait = wait(record.attempts, at.settings, at.jitter);
            record.next_attempt_at = Some(at.now + wait);
        }
        return Some(Verdict { record, uncertain });
    }
    if open {
        give_up(&mut record, envelope, attempt);
    }
    // Some were taken and some never will be: the mail is sent, and the log tells who lacks it.
    record.state = match (record.any_accepted(), open) {
        (true, _) => DeliveryState::Accepted,
        (false, false) => DeliveryState::Rejected,
        (false, true) => DeliveryState::Expired,
    };
    if record.state == DeliveryState::Accepted {
        record.accepted_at = Some(at.now);
    }
    Some(Verdict { record, uncertain })
}

/// Closes the recipients that are open, so that the record tells of each who has the mail and who lacks it.
fn give_up(record: &mut DeliveryRecord, envelope: &Envelope, attempt: &Attempt) {
    for address in record.open_recipients(&envelope.to) {
        let said = record.recipients.remove(address).map(|outcome| outcome.reply);
        let trouble = || attempt.trouble.as_ref().map(ToString::to_string);
        let words = said.or_else(trouble).unwrap_or_else(|| "the relay was not asked".to_owned());
        let outcome = RecipientOutcome {
            state: RecipientState::Rejected,
            reply: format!("{GIVEN_UP}{words}"),
        };
        record.recipients.insert(address.to_owned(), outcome);
    }
}

/// The verdict on a mail that was in the relay's hands when the program was killed: whether the relay
/// took it is not known.
pub fn interrupted(mut record: DeliveryRecord, uncertain: Uncertain, now: Timestamp) -> Verdict {
    let offered = record.offered_at.take();
    record.attempts = record.attempts.saturating_add(1);
    record.uncertain = record.uncertain.saturating_add(1);
    record.first_attempt_at = record.first_attempt_at.or(offered);
    record.last_attempt_at = offered;
    if uncertain == Uncertain::Hold {
        let reason = "the relay may have taken it: this program was killed while the relay had it in \
                      hand";
        return Verdict { uncertain: true, ..held(record, reason.to_owned()) };
    }
    record.state = DeliveryState::Deferred;
    record.next_attempt_at = Some(now);
    Verdict { record, uncertain: true }
}

/// The verdict on a new mail where a person looks at each first.
pub fn for_review(mut record: DeliveryRecord) -> Verdict {
    record.state = DeliveryState::Review;
    record.reason = Some("new: waits for a person to release it (review.hold_new)".to_owned());
    Verdict { record, uncertain: false }
}

/// The words that tell most of an attempt: of the recipient that fared worst, or of what ended it.
fn last_word(record: &DeliveryRecord, attempt: &Attempt) -> String {
    let worst = |state| {
        let asked = attempt.recipients.iter().map(|recipient| recipient.address.as_ref());
        let outcomes = asked.filter_map(|address: &str| record.recipients.get(address));
        outcomes
            .filter(|outcome| outcome.state == state)
            .map(|outcome| outcome.reply.clone())
            .next()
    };
    [RecipientState::Rejected, RecipientState::Deferred, RecipientState::Accepted]
        .into_iter()
        .find_map(worst)
        .or_else(|| attempt.trouble.as_ref().map(ToString::to_string))
        .unwrap_or_default()
}

/// The verdict on a mail that is not, or no more, to be offered to the relay.
pub fn held(mut record: DeliveryRecord, reason: String) -> Verdict {
    record.state = DeliveryState::Held;
    record.offered_at = None;
    record.next_attempt_at = None;
    record.reason = Some(reason);
    Verdict { record, uncertain: false }
}

fn uncertain_words(reply: Option<&crate::smtp::Reply>) -> String {
    match reply {
        None => "no answer to the final dot: the relay may have taken the mail".to_owned(),
        Some(reply) => format!("an answer to the final dot that has no meaning there: {reply}"),
    }
}

/// How long to wait after the `attempts`th: doubling from `retry_min` to `retry_max`, of which
/// between three and four quarters are waited.
fn wait(attempts: u32, settings: &DeliverySettings, jitter: f64) -> SignedDuration {
    let factor = 2_u32.saturating_pow(attempts.saturating_sub(1));
    let doubled = settings.retry_min.checked_mul(factor);
    let longest = doubled.unwrap_or(Duration::MAX).min(settings.retry_max);
    let wait = longest.mul_f64(0.75 + 0.25 * jitter.clamp(0.0, 1.0));
    SignedDuration::from_millis(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests {
    use outbox::MailId;

    use super::*;
    use crate::smtp::{Cause, Phase, Recipient, Refusal, RelayTrouble, Reply};

    const NOW: &str = "2026-11-25T12:00:00Z";
    const ABUSE: &str = "abuse@as64496.example";
    const NOC: &str = "noc@as64496.example";

    fn at(time: &str) -> Timestamp {
        time.parse().unwrap()
    }

    pub(super) fn id() -> MailId {
        "1764028800.M1P2Q3.20261125-10000042.host".parse().unwrap()
    }

    fn envelope() -> Envelope {
        Envelope { from: "noreply@cert.example".into(), to: vec![ABUSE.into(), NOC.into()] }
    }

    fn attempt(outcomes: &[(&str, Outcome)], trouble: Option<RelayTrouble>) -> Attempt {
        let recipient = |(address, outcome): &(&str, Outcome)| Recipient {
            address: address.parse().unwrap(),
            outcome: outcome.clone(),
        };
        Attempt {
            recipients: outcomes.iter().map(recipient).collect(),
            refusal: None,
            reusable: trouble.is_none(),
            trouble,
            phases: Vec::new(),
        }
    }

    pub(super) fn lost() -> RelayTrouble {
        let cause = Cause::Lost("closed by the relay".into());
        RelayTrouble { phase: Phase::FinalDot, cause, stale: false }
    }

    fn judge_with(
        settings: &DeliverySettings,
        record: DeliveryRecord,
        attempt: &Attempt,
    ) -> Option<Verdict> {
        let relay = "relay.example:25";
        let took = Duration::from_millis(120);
        let at = Circumstances { relay, settings, now: at(NOW), took, jitter: 1.0, blamed: false };
        judge(record, &envelope(), attempt, &at)
    }

    fn judged(record: DeliveryRecord, attempt: &Attempt) -> Verdict {
        judge_with(&DeliverySettings::default(), record, attempt).expect("something was said")
    }

    pub(super) fn accepted() -> Outcome {
        Outcome::Accepted(Reply::of(250, "2.0.0 queued"))
    }

    pub(super) fn deferred() -> Outcome {
        Outcome::Deferred(Reply::of(450, "4.2.0 greylisted"))
    }

    pub(super) fn rejected() -> Outcome {
        Outcome::Rejected(Reply::of(550, "5.1.1 no such user"))
    }

    #[test]
    fn a_mail_is_accepted_when_no_recipient_is_open_and_one_was_accepted() {
        let verdict = judged(
            DeliveryRecord::new(id()),
            &attempt(&[(ABUSE, accepted()), (NOC, rejected())], None),
        );
        let record = verdict.record;
        assert!(!record.was_held());
        assert_eq!(record.state, DeliveryState::Accepted);
        assert_eq!(record.accepted_at, Some(at(NOW)));
        assert_eq!(record.attempts, 1);
        assert_eq!(record.relay.as_deref(), Some("relay.example:25"));
        assert_eq!(record.recipients[NOC].reply, "550 5.1.1 no such user");
    }

    #[test]
    fn a_mail_that_all_refuse_is_held_with_the_relays_words() {
        let verdict = judged(
            DeliveryRecord::new(id()),
            &attempt(&[(ABUSE, rejected()), (NOC, rejected())], None),
        );
        assert!(verdict.record.was_held());
        assert_eq!(verdict.record.state, DeliveryState::Rejected);
    }

    #[test]
    fn one_open_recipient_defers_the_mail_and_is_the_only_one_asked_for_next() {
        let verdict = judged(
            DeliveryRecord::new(id()),
            &attempt(&[(ABUSE, accepted()), (NOC, deferred())], None),
        );
        let record = verdict.record;
        assert!(!record.was_held());
        assert_eq!(record.state, DeliveryState::Deferred);
        assert_eq!(record.next_attempt_at, Some(at("2026-11-25T12:05:00Z")));
        assert_eq!(record.open_recipients(&envelope().to), [NOC]);

        let verdict = judged(record, &attempt(&[(NOC, accepted())], None));
        let record = verdict.record;
        assert_eq!((record.state, record.attempts), (DeliveryState::Accepted, 2));
        assert_eq!(record.next_attempt_at, None);
    }

    #[test]
    fn the_wait_doubles_up_to_its_limit_and_is_spread() {
        let settings = DeliverySettings::default();
        let minutes = |attempts, jitter| wait(attempts, &settings, jitter).as_secs() / 60;
        let waits: Vec<i64> = (1..=9).map(|attempts| minutes(attempts, 1.0)).collect();
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 240, 240, 240]);
        assert_eq!(wait(1, &settings, 0.0), SignedDuration::from_secs(225));
        assert_eq!(minutes(u32::MAX, 1.0), 240);
        let (retry_min, retry_max) =
            (Duration::from_secs(1), Duration::from_secs(100 * 366 * 86_400));
        let settings = DeliverySettings { retry_min, retry_max, ..settings };
        assert_eq!(wait(33, &settings, 1.0).unsigned_abs(), retry_max, "the longest there is");
    }

    #[test]
    fn a_mail_is_given_up_after_the_configured_time_and_held() {
        let mut record = DeliveryRecord::new(id());
        record.first_attempt_at = Some(at("2026-11-20T12:00:00Z"));
        record.attempts = 30;
        let verdict =
            judged(record.clone(), &attempt(&[(ABUSE, deferred()), (NOC, deferred())], None));
        assert!(verdict.record.was_held());
        assert_eq!(verdict.record.state, DeliveryState::Expired);

        record.first_attempt_at = Some(at("2026-11-20T12:00:01Z"));
        let verdict =
            judged(record.clone(), &attempt(&[(ABUSE, deferred()), (NOC, deferred())], None));
        assert_eq!(verdict.record.state, DeliveryState::Deferred, "a second is left");

        record.first_attempt_at = Some(at("2026-11-20T12:00:00Z"));
        let verdict = judged(record, &attempt(&[(ABUSE, accepted()), (NOC, deferred())], None));
        assert!(!verdict.record.was_held());
        assert_eq!(verdict.record.state, DeliveryState::Accepted, "someone has it");
    }

    #[test]
    fn a_first_attempt_in_the_future_is_forgotten_so_that_the_mail_is_given_up_one_day() {
        let mut record = DeliveryRecord::new(id());
        record.first_attempt_at = Some(at("2099-01-01T00:00:00Z"));
        record.attempts = u32::MAX;
        let record =
            judged(record, &attempt(&[(ABUSE, deferred()), (NOC, deferred())], None)).record;
        assert_eq!(record.state, DeliveryState::Deferred);
        assert_eq!((record.first_attempt_at, record.attempts), (Some(at(NOW)), u32::MAX));
    }

    #[test]
    fn who_was_not_spoken_of_when_a_mail_is_given_up_is_told_as_lacking_it() {
        let mut record = DeliveryRecord::new(id());
        record.first_attempt_at = Some(at("2026-11-20T12:00:00Z"));
        record.attempts = 30;
        let outcome =
            RecipientOutcome { state: RecipientState::Accepted, reply: "250 queued".to_owned() };
        let colleague = "colleague@as64496.example";
        record.recipients.insert(colleague.to_owned(), outcome);
        let to = vec![colleague.to_owned(), ABUSE.to_owned(), NOC.to_owned()];
        let envelope = Envelope { to, ..envelope() };
        // One is refused, then the connection breaks.
        let attempt = attempt(&[(ABUSE, rejected()), (NOC, Outcome::Open)], Some(lost()));
        let settings = &DeliverySettings::default();
        let at = Circumstances {
            relay: "relay.example:25",
            settings,
            now: at(NOW),
            took: Duration::ZERO,
            jitter: 1.0,
            blamed: false,
        };
        let record = judge(record, &envelope, &attempt, &at).unwrap().record;
        assert_eq!(record.state, DeliveryState::Accepted, "someone has it");
        let noc = &record.recipients[NOC];
        assert_eq!(noc.state, RecipientState::Rejected);
        assert_eq!(noc.reply, format!("{GIVEN_UP}{}", lost()));
    }

    #[test]
    fn the_relays_trouble_counts_against_no_mail() {
        let open = attempt(&[(ABUSE, Outcome::Open), (NOC, Outcome::Open)], Some(lost()));
        let settings = DeliverySettings::default();
        assert_eq!(judge_with(&settings, DeliveryRecord::new(id()), &open), None);
        // What was decided before the trouble stays decided, and the rest is due at once.
        let partly = attempt(&[(ABUSE, rejected()), (NOC, Outcome::Open)], Some(lost()));
        let record = judged(DeliveryRecord::new(id()), &partly).record;
        assert_eq!((record.attempts, record.next_attempt_at), (0, None));
        assert_eq!(record.open_recipients(&envelope().to), [NOC]);
    }

    #[test]
    fn trouble_that_comes_with_one_mail_time_and_again_is_the_mails_own() {
        let open = attempt(&[(ABUSE, Outcome::Open), (NOC, rejected())], Some(lost()));
        let settings = &DeliverySettings::default();
        let took = Duration::ZERO;
        let at = Circumstances {
            relay: "r:25",
            settings,
            now: at(NOW),
            took,
            jitter: 1.0,
            blamed: true,
        };
        let record = judge(DeliveryRecord::new(id()), &envelope(), &open, &at).unwrap().record;
        assert_eq!((record.state, record.attempts), (DeliveryState::Deferred, 1));
        assert!(record.recipients[ABUSE].reply.contains("the connection is lost"));
        assert_eq!(record.next_attempt_at, Some("2026-11-25T12:05:00Z".parse().unwrap()));
    }

    #[test]
    fn a_first_attempt_in_the_future_gives_no_mail_up() {
        let mut record = DeliveryRecord::new(id());
        record.first_attempt_at = Some(at("2027-11-25T12:00:00Z"));
        let verdict = judged(record, &attempt(&[(ABUSE, deferred()), (NOC, deferred())], None));
        assert_eq!(verdict.record.state, DeliveryState::Deferred);
    }

    #[test]
    fn a_mail_that_stays_uncertain_is_held_in_the_end() {
        let mut record = DeliveryRecord::new(id());
        record.first_attempt_at = Some(at("2026-11-20T12:00:00Z"));
        record.uncertain = 7;
        let unsure = [(ABUSE, Outcome::Uncertain(None)), (NOC, Outcome::Uncertain(None))];
        let verdict = judged(record, &attempt(&unsure, Some(lost())));
        assert!(verdict.record.was_held());
        let record = verdict.record;
        assert_eq!(record.state, DeliveryState::Held);
        assert!(record.reason.unwrap().contains("(attempts: 8)"));
    }

    #[test]
    fn an_uncertain_mail_is_counted_and_sent_again_or_held_as_configured() {
        let unsure = attempt(&[(ABUSE, Outcome::Uncertain(None)), (NOC, rejected())], Some(lost()));
        let verdict = judged(DeliveryRecord::new(id()), &unsure);
        let record = verdict.record;
        assert!(!record.was_held());
        assert_eq!(
            (record.state, record.attempts, record.uncertain),
            (DeliveryState::Deferred, 1, 1)
        );
        assert!(record.recipients[ABUSE].reply.contains("may have taken"));
        assert!(record.next_attempt_at.is_some());

        let hold = DeliverySettings { uncertain: Uncertain::Hold, ..DeliverySettings::default() };
        let verdict = judge_with(&hold, DeliveryRecord::new(id()), &unsure).unwrap();
        assert!(verdict.record.was_held());
        let record = verdict.record;
        assert_eq!((record.state, record.uncertain), (DeliveryState::Held, 1));
        assert!(record.reason.unwrap().contains("may have taken"));
    }

    #[test]
    fn a_mail_unfit_for_the_relay_is_held_with_the_reason_and_not_counted() {
        let mut unfit = attempt(&[(ABUSE, Outcome::Open), (NOC, Outcome::Open)], None);
        unfit.refusal = Some(Refusal::BareLf { line: 3 });
        let verdict = judged(DeliveryRecord::new(id()), &unfit);
        assert!(verdict.record.was_held());
        let record = verdict.record;
        assert_eq!((record.state, record.attempts), (DeliveryState::Held, 0));
        assert_eq!(
            record.reason.as_deref(),
            Some("failed to send the mail: line 3 ends with a bare line feed (LF)")
        );
    }
}
