//! The generator: turns pending directives into signed, ticketed mails in the outbox.
//!
//! [`run`] is the table of contents: each command in a function, each step in a module. Data goes
//! one way: `store` (groups) → `formats` (plan; asks `scripts`) → `store` (events, tickets) →
//! `render` (`table`, `template`, `xarf`, `mail`, `openpgp`) → the outbox.

pub mod address;
mod check;
pub mod cli;
pub mod column;
mod destination;
pub mod event;
mod facts;
mod fate;
pub mod formats;
pub mod group;
mod init;
pub mod mail;
pub mod openpgp;
mod pack;
mod part;
mod pattern;
mod pending;
mod render;
mod run;
mod scripts;
mod store;
pub mod table;
pub mod template;
mod tickets;
mod tools;
pub mod xarf;

use outbox_config::{Config, Failure};

use cli::Command;

/// Does what the command line says.
pub fn run(command: &Command, config: &Config) -> Result<(), Failure> {
    match command {
        Command::Run { .. } => run::run(config),
        Command::Init => init::init(config),
        Command::Pending { json } => pending::pending(config, *json),
        Command::Check => check::check(config),
    }
}
