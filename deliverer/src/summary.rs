//! What is told of a run: a line for each mail, and the sum at the end.

use std::time::Duration;

use outbox::{DeliveryRecord, DeliveryState, RecipientState, Sidecar};
use tracing::{error, info, warn};

use crate::verdict::GIVEN_UP;

/// What a run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Mails the relay took.
    pub relayed: usize,
    /// Mails that are to be tried again.
    pub deferred: usize,
    /// Mails that wait for a person since this run.
    pub held: usize,
    /// Mails that were marked and finished.
    pub finished: usize,
    /// Mails that were relayed and are not marked.
    pub unmarked: usize,
    /// Mails and files that an ERROR line was written about.
    pub errors: usize,
    /// Whether the relay was in trouble at the end.
    pub relay_trouble: bool,
}

impl Summary {
    /// One line for what became of a mail, with the words on each recipient that lacks it. `took` is
    /// how long the attempt took, if one was made.
    pub fn tell(
        &mut self,
        sidecar: &Sidecar,
        record: &DeliveryRecord,
        uncertain: bool,
        took: Option<Duration>,
    ) {
        let (ticket, mail) = (&sidecar.ticket, &sidecar.id);
        let attempts = record.attempts;
        // Missing where none was asked.
        let relay = record.relay.as_deref();
        let seconds = took.map_or(0.0, |took| took.as_secs_f64());
        let seconds = format!("{seconds:.3}");
        let domain = domains(&sidecar.envelope.to);
        let replies = || {
            let open = record.recipients.iter();
            let open = open.filter(|(_, outcome)| outcome.state != RecipientState::Accepted);
            open.map(|(address, outcome)| format!("{address}: {}", outcome.reply))
                .collect::<Vec<_>>()
                .join("; ")
        };
        match record.state {
            DeliveryState::Accepted => {
                let missing = replies();
                if missing.is_empty() {
                    let reply = record.recipients.values().next_back();
                    let reply = reply.map(|outcome| outcome.reply.as_str()).unwrap_or_default();
                    info!(%ticket, %mail, domain, relay, attempts, seconds, reply, "relayed");
                } else {
                    self.errors += 1;
                    error!(%ticket, %mail, domain, relay, attempts, seconds, "relayed, but not to all recipients: {missing}");
                }
            }
            DeliveryState::Deferred => {
                self.deferred += 1;
                let next =
                    record.next_attempt_at.map(|next| format!("{next:.0}")).unwrap_or_default();
                let words = replies();
                if uncertain {
                    warn!(%ticket, %mail, domain, relay, attempts, seconds, next, "uncertain, will be sent again with the same Message-ID: {words}");
                } else {
                    warn!(%ticket, %mail, domain, relay, attempts, seconds, next, "deferred: {words}");
                }
            }
            DeliveryState::Review => info!(%ticket, %mail, "new, and held for review"),
            DeliveryState::Rejected | DeliveryState::Expired | DeliveryState::Held => {
                self.held += 1;
                self.errors += 1;
                let (what, why) = match record.state {
                    DeliveryState::Rejected => ("rejected by the relay", replies()),
                    DeliveryState::Expired => {
                        ("given up after too long", replies().replace(GIVEN_UP, ""))
                    }
                    _ => ("not sent", record.reason.clone().unwrap_or_default()),
                };
                error!(%ticket, %mail, domain, relay, attempts, "{what}, and held: {why}");
            }
        }
    }
}

/// The recipients' domains, each once, in the envelope's order.
fn domains(recipients: &[String]) -> String {
    let mut domains: Vec<&str> = Vec::new();
    for domain in recipients.iter().filter_map(|address| Some(address.rsplit_once('@')?.1)) {
        if !domains.contains(&domain) {
            domains.push(domain);
        }
    }
    domains.join(" ")
}
