//! The delivery record: what the relay said of a mail so far. Only the deliverer writes it.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::MailId;
use crate::once::each_key_once;
use crate::sidecar::VERSION;

/// What came of the attempts to relay a mail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeliveryRecord {
    version: u32,
    /// The mail's Maildir unique name.
    pub id: MailId,
    /// How it stands.
    pub state: DeliveryState,
    /// How often the relay was asked to take this mail.
    pub attempts: u32,
    /// How many of them ended without a word after the mail was handed over whole: the relay may
    /// have taken it then.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub uncertain: u32,
    /// When it was first tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_attempt_at: Option<Timestamp>,
    /// When it was last tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_attempt_at: Option<Timestamp>,
    /// When it is tried next, while it is deferred.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt_at: Option<Timestamp>,
    /// The last word on each recipient, by the address in the sidecar's envelope. One that is
    /// missing was not spoken of yet.
    #[serde(deserialize_with = "each_key_once")]
    pub recipients: BTreeMap<String, RecipientOutcome>,
    /// Who said so: host and port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<String>,
    /// When the relay took the mail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted_at: Option<Timestamp>,
    /// Why the mail is held, where no recipient's reply says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Since when the mail is in the relay's hands. Only written where a mail that the relay may have
    /// taken without saying so is to be held: met by a later start, it says that there was no time to
    /// write down what the relay said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offered_at: Option<Timestamp>,
    /// The attempts, oldest first; of very many the latest 50.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<AttemptMade>,
}

/// One attempt to relay a mail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttemptMade {
    /// When it ended.
    pub at: Timestamp,
    /// The relay that was asked: host and port.
    pub relay: String,
    /// How long it took, in milliseconds.
    pub milliseconds: u64,
    /// The last word of it: the relay's, of the recipient that fared worst, or what kept it from
    /// saying one.
    pub reply: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl DeliveryRecord {
    /// How many attempts a record keeps.
    const HISTORY: usize = 50;

    /// Notes an attempt.
    pub fn remember(&mut self, attempt: AttemptMade) {
        if self.history.len() >= Self::HISTORY {
            self.history.remove(0);
        }
        self.history.push(attempt);
    }

    /// The record of a mail that was not tried yet.
    pub fn new(id: MailId) -> Self {
        Self {
            version: VERSION,
            id,
            state: DeliveryState::Deferred,
            attempts: 0,
            uncertain: 0,
            first_attempt_at: None,
            last_attempt_at: None,
            next_attempt_at: None,
            recipients: BTreeMap::new(),
            relay: None,
            accepted_at: None,
            reason: None,
            offered_at: None,
            history: Vec::new(),
        }
    }

    /// Of the envelope's recipients, those that a next attempt asks for: neither accepted nor
    /// rejected so far.
    pub fn open_recipients<'a>(&self, envelope: &'a [String]) -> Vec<&'a str> {
        let closed = |address: &str| {
            self.recipients
                .get(address)
                .is_some_and(|outcome| outcome.state != RecipientState::Deferred)
        };
        envelope.iter().map(String::as_str).filter(|address| !closed(address)).collect()
    }

    /// Whether the mail was held with this record.
    pub fn was_held(&self) -> bool {
        use DeliveryState::{Expired, Held, Rejected, Review};
        matches!(self.state, Rejected | Expired | Held | Review)
    }

    /// Begins anew after a person released the mail: all but those who have it are asked for, and
    /// the time until it is given up starts again. The attempts stay counted.
    pub fn reopen(&mut self) {
        self.state = DeliveryState::Deferred;
        self.recipients.retain(|_, outcome| outcome.state == RecipientState::Accepted);
        self.first_attempt_at = None;
        self.next_attempt_at = None;
        self.reason = None;
    }

    /// The reply that tells most: on the recipient that fared worst, or, of a deferred mail, why it is
    /// tried again.
    pub fn last_reply(&self) -> Option<&str> {
        use RecipientState::{Accepted, Deferred, Rejected};
        let order = match self.state {
            DeliveryState::Deferred => [Deferred, Rejected, Accepted],
            _ => [Rejected, Deferred, Accepted],
        };
        let on = |state| self.recipients.values().find(|outcome| outcome.state == state);
        order.into_iter().find_map(on).map(|outcome| outcome.reply.as_str())
    }

    /// Whether the relay took the mail for at least one recipient.
    pub fn any_accepted(&self) -> bool {
        self.recipients.values().any(|outcome| outcome.state == RecipientState::Accepted)
    }
}

/// How a mail stands with the relay. While the mail is flagged, `list` shows one that is rejected,
/// expired or held as `failed`, and one to be reviewed as `held`; once a person has cleared the flag,
/// all four are `queued`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeliveryState {
    /// To be tried again at `next_attempt_at`.
    Deferred,
    /// Refused for good by the relay for every recipient, and held.
    Rejected,
    /// Deferred for longer than configured, and held.
    Expired,
    /// Never offered to the relay, or no more, and held: `reason` tells why.
    Held,
    /// New, and held until a person has looked at it. Released, it is like one that was never tried.
    Review,
    /// No recipient is open and at least one was accepted: to be marked `sent`.
    Accepted,
}

/// The relay's last word on one recipient.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecipientOutcome {
    /// How the recipient stands.
    pub state: RecipientState,
    /// The relay's words, or what kept it from saying any.
    pub reply: String,
}

/// How a recipient stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecipientState {
    /// To be asked for again.
    Deferred,
    /// Refused for good.
    Rejected,
    /// Taken.
    Accepted,
}

impl fmt::Display for RecipientState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deferred => "deferred",
            Self::Rejected => "rejected",
            Self::Accepted => "accepted",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_reply_is_on_who_fared_worst_or_why_it_is_tried_again() {
        use RecipientState::{Accepted, Deferred, Rejected};
        let mut record = DeliveryRecord::new("1.h".parse().unwrap());
        assert_eq!(record.last_reply(), None);
        for (state, reply) in [(Accepted, "250"), (Deferred, "450"), (Rejected, "550")] {
            let outcome = RecipientOutcome { state, reply: reply.to_owned() };
            record.recipients.insert(format!("{reply}@isp.example"), outcome);
        }
        record.state = DeliveryState::Deferred;
        assert_eq!(record.last_reply(), Some("450"));
        record.state = DeliveryState::Accepted;
        assert_eq!(record.last_reply(), Some("550"));
    }
}
