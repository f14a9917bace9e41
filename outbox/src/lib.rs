//! The outbox on disk: a Maildir of mails that wait to be relayed, each tied to a sidecar that
//! names the directives it answers and, once an attempt was made, to a delivery record.
//!
//! ```text
//!   generator                                            deliverer
//!   ─────────                                            ─────────
//!   tmp/<id> ──┐ fsync                                   new/ cur/ ── relay ──┐
//!   sidecar ───┤ rename, fsync folder                                         ▼
//!              ▼                                         delivery/<id>.json (durable)
//!   new/<id>  (one rename: the commit point)                                  │
//!                                                        database commit      │
//!   claims() ◀── sidecar/ ──────────────────────────     sent/cur/<id>  ◀─────┤
//!                                                        unlink sidecar, then record
//! ```
//!
//! What it promises:
//!
//! * A mail in `new/` or `cur/` has a durable sidecar: that is written first and deleted last.
//! * A directive is claimed while a sidecar lists it. Who reads the claims **before** asking the
//!   database what is pending never answers a directive twice.
//! * Sidecars and records are written and removed under a lock alone: [`Generator`] offers drafts and
//!   publishing, [`Deliverer`] records, holding and finishing, and a [`Withdrawal`], under the mail's
//!   own lock, takes one mail back. Flags are changed without any, as mail readers do. The locks are
//!   `flock`s, so that a dead process never blocks.
//! * Nothing unreadable is deleted. It is reported, and stays.
//!
//! This crate knows no SQL, no SMTP and no OpenPGP. The format is told in docs/outbox-format.md.

mod delivery;
mod disk;
mod error;
mod finish;
mod folder;
mod mail_file;
mod mail_lock;
mod names;
mod once;
#[cfg(any(test, fuzzing))]
pub mod oracles;
mod permissions;
mod publish;
mod rename;
mod room;
mod scan;
mod service;
mod sidecar;
mod withdrawal;

pub use delivery::{AttemptMade, DeliveryRecord, DeliveryState, RecipientOutcome, RecipientState};
pub use error::{Error, Result};
pub use finish::{Deliverer, Pruned};
pub use folder::Outbox;
pub use mail_file::{Flags, MailFile, Place};
pub use mail_lock::MailLock;
pub use names::{DirectiveId, MailId, Ticket, now};
pub use publish::{Claims, Draft, Generator, NewMail, Recovered};
pub use room::Room;
pub use scan::{Entry, Oddity, Snapshot, State};
pub use sidecar::{Envelope, GroupKey, Sha256Digest, Sidecar};
pub use withdrawal::{TakeBack, TakenBack, Withdrawal};
