//! What became of a mail, recipient by recipient, and the one place that says what a reply means for it.

use std::time::Duration;

use lettre::{Address, address::Envelope};

use super::{
    message::Refusal,
    reply::Reply,
    trouble::{Phase, RelayTrouble},
};

/// What became of the mail for one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing was decided, and the relay has not taken the mail for this recipient: ask again.
    Open,
    /// 250 to the final dot. The only way to this state.
    Accepted(Reply),
    /// 4xx to MAIL, RCPT, DATA or the final dot: ask again later.
    Deferred(Reply),
    /// 5xx to MAIL, RCPT, DATA or the final dot: asking again won't help.
    Rejected(Reply),
    /// The relay may have seen the final dot, and gave no answer to it that could be understood (such as a 354 or 251,
    /// which is kept here). Asking again may produce a duplicate.
    Uncertain(Option<Reply>),
}

/// One recipient of the envelope, and what became of the mail for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient {
    /// The address, as in the envelope.
    pub address: Address,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of one [`send`](super::Connection::send).
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Each recipient of the envelope, in its order.
    pub recipients: Vec<Recipient>,
    /// Why we sent nothing at all: the mail, or its envelope, can't be given to this relay. All recipients are open.
    pub refusal: Option<Refusal>,
    /// The failure that ended the attempt, where it is the relay's. Recipients decided before it stay decided.
    pub trouble: Option<RelayTrouble>,
    /// Whether the connection can carry another mail. It says RSET itself where that is needed.
    pub reusable: bool,
    /// How long each phase took since the last attempt over this connection, or, for its first, since it began to open.
    /// Of commands that went out together, the first has the time until its reply, and the others what they added.
    pub phases: Vec<(Phase, Duration)>,
}

impl Attempt {
    pub(super) fn open(envelope: &Envelope) -> Self {
        let recipients = envelope
            .to()
            .iter()
            .map(|address| Recipient { address: address.clone(), outcome: Outcome::Open })
            .collect();
        Self { recipients, refusal: None, trouble: None, reusable: true, phases: Vec::new() }
    }

    /// Whether the relay may have taken the mail for a recipient without us knowing.
    pub fn is_uncertain(&self) -> bool {
        self.recipients.iter().any(|recipient| matches!(recipient.outcome, Outcome::Uncertain(_)))
    }
}

/// What a reply to MAIL, RCPT, DATA or the final dot means for the mail.
///
/// Which 2xx or 3xx is the right one is for the step to say.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// 2xx or 3xx.
    GoOn,
    /// 4xx or 5xx, with what it makes of a recipient.
    Refused(Outcome),
    /// 421: the relay closes the connection, whatever we asked (RFC 5321, section 3.8). 530 and its
    /// kin: it wants a login or TLS (RFC 4954, section 6). Neither is a mail's fault.
    RelaysOwn,
}

impl Meaning {
    pub fn of(reply: &Reply) -> Self {
        match reply.code() {
            421 | 530 | 534 | 535 | 538 => Self::RelaysOwn,
            200..=399 => Self::GoOn,
            500..=599 => Self::Refused(Outcome::Rejected(reply.clone())),
            // 4xx; the parser lets nothing else through, but what is unknown is temporary.
            _ => Self::Refused(Outcome::Deferred(reply.clone())),
        }
    }
}
