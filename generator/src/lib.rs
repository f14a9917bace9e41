//! The generator: turns pending directives into signed, ticketed mails in the outbox.

pub mod address;
pub mod column;
pub mod event;
pub mod group;
pub mod mail;
pub mod openpgp;
pub mod table;
pub mod template;
