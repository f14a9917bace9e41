//! From what the relay said to what is written down: the one place that decides it.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use outbox::{DeliveryRecord, DeliveryState, Envelope, RecipientOutcome, RecipientState};
use outbox_config::{DeliverySettings, Uncertain};

use crate::smtp::{Attempt, Outcome};

/// What to do about a mail after an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The record to write, if anything is to be written down.
    pub record: Option<DeliveryRecord>,
    /// Whether the mail is to be flagged, so that it waits for a person.
    pub hold: bool,
}

/// Decides what an attempt means for its mail.
///
/// `attempt` speaks of the recipients that `record` has open. `jitter` lies between 0 and 1 and
/// spreads the next attempts of mails that were deferred together.
pub fn judge(
    mut record: DeliveryRecord,
    envelope: &Envelope,
    attempt: &Attempt,
    relay: &str,
    settings: &DeliverySettings,
    now: Timestamp,
    jitter: f64,
) -> Verdict {
    if let Some(refusal) = &attempt.refusal {
        return held(record, format!("cannot {refusal}"));
    }
    let mut decided = false;
    for recipient in &attempt.recipients {
        let (state, reply) = match &recipient.outcome {
            Outcome::Open => continue,
            Outcome::Accepted(reply) => (RecipientState::Accepted, reply.to_string()),
            Outcome::Deferred(reply) => (RecipientState::Deferred, reply.to_string()),
            Outcome::Rejected(reply) => (RecipientState::Rejected, reply.to_string()),
            Outcome::Uncertain(reply) => {
                (RecipientState::Deferred, uncertain_words(reply.as_ref()))
            }
        };
        decided = true;
        record.recipients.insert(recipient.address.to_string(), RecipientOutcome { state, reply });
    }
    if !decided {
        // The relay's trouble alone: it counts against no mail.
        return Verdict { record: None, hold: false };
    }
    record.relay = Some(relay.to_owned());
    record.reason = None;
    record.next_attempt_at = None;
    let uncertain = attempt.is_uncertain();
    if attempt.trouble.is_none() || uncertain {
        record.attempts += 1;
        record.first_attempt_at.get_or_insert(now);
        record.last_attempt_at = Some(now);
        record.uncertain += u32::from(uncertain);
    }
    if uncertain && settings.uncertain == Uncertain::Hold {
        let reason = "the relay may have taken it: it was handed over whole, and no answer came";
        return held(record, reason.into());
    }
    let overdue = record.first_attempt_at.is_some_and(|first| {
        now.duration_since(first).unsigned_abs() >= settings.expire_after && !uncertain
    });
    let open: Vec<String> =
        record.open_recipients(&envelope.to).into_iter().map(str::to_owned).collect();
    if !open.is_empty() && !overdue {
        record.state = DeliveryState::Deferred;
        if attempt.trouble.is_none() || uncertain {
            record.next_attempt_at = Some(now + wait(record.attempts, settings, jitter));
        }
        return Verdict { record: Some(record), hold: false };
    }
    // Some were taken and some never will be: the mail is sent, and the log tells who lacks it.
    record.state = match (record.any_accepted(), open.is_empty()) {
        (true, _) => DeliveryState::Accepted,
        (false, true) => DeliveryState::Rejected,
        (false, false) => DeliveryState::Expired,
    };
    if record.state == DeliveryState::Accepted {
        record.accepted_at = Some(now);
    }
    let hold = record.state != DeliveryState::Accepted;
    Verdict { record: Some(record), hold }
}

/// The verdict on a mail that is not, or no more, to be offered to the relay.
pub fn held(mut record: DeliveryRecord, reason: String) -> Verdict {
    record.state = DeliveryState::Held;
    record.next_attempt_at = None;
    record.reason = Some(reason);
    Verdict { record: Some(record), hold: true }
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
    let doublings = attempts.saturating_sub(1).min(32);
    let doubled = settings.retry_min.checked_mul(1 << doublings.min(31));
    let longest = doubled.unwrap_or(Duration::MAX).min(settings.retry_max);
    let wait = longest.mul_f64(0.75 + 0.25 * jitter.clamp(0.0, 1.0));
    SignedDuration::try_from(wait).unwrap_or(SignedDuration::MAX)
}
