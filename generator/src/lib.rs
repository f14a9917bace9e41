//! The generator: turns pending directives into signed, ticketed mails in the outbox.
//!
//! [`run()`] is the table of contents: each command in a function, each step in a module. Data goes
//! one way: `run` → `store` (groups) → `compose`, which asks `fate` (`formats`, `scripts`) for a plan,
//! `store` for events and `tickets` for numbers → `render` (`table`, `template`, `xarf`, `mail`,
//! `openpgp`) → the outbox.

pub mod address;
mod check;
pub mod cli;
pub mod column;
mod compose;
mod destination;
pub mod event;
mod facts;
mod fate;
pub mod formats;
pub mod group;
mod init;
mod interactive;
pub mod mail;
pub mod openpgp;
#[cfg(any(test, fuzzing))]
pub mod oracles;
mod pack;
mod part;
mod pattern;
mod pending;
mod preview;
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

use cli::{Cli, Command};

/// Does what the command line says.
pub fn run(cli: &Cli, config: &Config) -> Result<(), Failure> {
    match &cli.command {
        Command::Run(args) => run::run(config, args, cli.common.verbose),
        Command::Preview(args) => preview::preview(config, args),
        Command::Init => init::init(config),
        Command::Pending { json } => pending::pending(config, *json),
        Command::Check => check::check(config),
    }
}
