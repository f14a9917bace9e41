//! The deliverer: relays the mails in the outbox and only then marks their directives sent.

pub mod smtp;
