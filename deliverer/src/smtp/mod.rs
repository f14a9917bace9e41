//! SMTP, as far as the deliverer speaks it: one connection to one relay, and exactly what the relay said at which step.
//!
//! ```text
//!  Connection::open            whatever fails here is the relay's doing, and no mail's
//!    connect ─▶ greeting ─▶ EHLO ─▶ STARTTLS ─▶ TLS ─▶ EHLO ─▶ AUTH
//!                             └──────── tls "none" ────────────▲
//!  Connection::send            a reply is the mail's doing, 421 and a lost connection the relay's
//!    check ─▶ [RSET] ─▶ MAIL ─▶ RCPT … RCPT ─▶ DATA ─▶ message ─▶ final dot ─▶ reply
//!      │                 │          │           │         │         └────────────┤
//!      │                 └──────────┴───────────┴─────────┤      lost here:      │ 250: accepted
//!      ▼ Refusal              lost here: nothing was      ▼      uncertain       ▼ 4xx, 5xx: the mail's
//!    nothing was sent         delivered, mail stays open
//!  Connection::quit            best effort
//! ```
//!
//! What it promises:
//!
//! 1. A mail counts as accepted only if the relay answered 250 to its final dot. Any other reply to the dot that is
//!    neither 4xx nor 5xx, or none, or one that can't be read, leaves it *uncertain*: the relay may have taken the mail.
//! 2. A mail is uncertain only if the relay may have seen its final dot. Until the dot is handed to the kernel, a lost
//!    connection means that nothing was delivered.
//! 3. Replies never shift: whatever arrives unasked ends the connection before the next command, and what was told in
//!    the same group of commands is forgotten.
//! 4. No plaintext is taken for TLS: nothing may have arrived behind the 220 to STARTTLS, and what the relay offered
//!    before TLS is forgotten (RFC 3207, section 4.2).
//! 5. Every phase ends at its [deadline](Deadlines), however slowly the relay dribbles.
//! 6. No password reaches a log, an error or a debug print, not even one that the relay sends back.
//!
//! lettre gives the vocabulary (addresses, envelope, commands and their parameters, credentials). Connection, buffer and
//! reply parser are ours, for its own can't tell a failure before the final dot from one after it.

mod auth;
mod capabilities;
mod connection;
mod link;
mod message;
#[cfg(any(test, fuzzing))]
pub(crate) mod oracles;
mod outcome;
mod relay;
mod reply;
mod tls;
mod transaction;
mod trouble;

#[cfg(test)]
#[path = "../../../tests/src/authority.rs"]
mod authority;
#[cfg(test)]
mod scripted;
#[cfg(test)]
mod tests;

pub use connection::Connection;
pub use lettre::{Address, address::Envelope};
pub use message::Refusal;
#[cfg(test)]
pub use outcome::Recipient;
pub use outcome::{Attempt, Outcome};
pub use relay::{Deadlines, Relay};
pub use reply::Reply;
pub use transaction::SendOptions;
pub use trouble::{Cause, Phase, RelayTrouble};
