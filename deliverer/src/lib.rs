//! The deliverer: relays the mails in the outbox, and only then marks their directives `sent`.
//!
//! [`run`] is the table of contents: each command in a function, each step in a module.

mod check;
pub mod cli;
pub mod counts;
mod courier;
mod doorbell;
mod event;
pub mod health;
mod list;
mod marker;
mod marks;
pub mod metrics;
mod service;
mod show;
pub mod smtp;
mod status;
mod summary;
pub mod systemd;
mod verdict;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::channel;

use anyhow::{Context as _, anyhow};
use outbox::Outbox;
use outbox_config::{Config, Failure};
use tracing::info;

use cli::Command;
use courier::Courier;
use doorbell::Doorbell;
use event::stop_on_signals;
use marker::Marker;
use service::Service;
use summary::Summary;

pub use status::{UNKNOWN, status};

/// Does what the command line says.
pub fn run(command: &Command, config: &Config) -> Result<(), Failure> {
    match command {
        Command::Run { once } => deliver(config, *once),
        Command::List { state, json } => list::list(&open(config)?, *state, *json),
        Command::Show { mail } => show::show(&open(config)?, mail),
        Command::Check => check::check(config),
        Command::Status(_) => unreachable!("main asks for it: its exit codes are a plugin's"),
    }
}

fn open(config: &Config) -> Result<Outbox, Failure> {
    Outbox::open(&config.outbox.path).map_err(Failure::unavailable)
}

fn deliver(config: &Config, once: bool) -> Result<(), Failure> {
    let database = config.database()?.event.clone();
    let courier = Courier::new(&config.smtp()?[0])?;
    // A password that can't be read is an error now, not in the marker's thread.
    database.password()?;
    let outbox = open(config)?;
    let deliverer = outbox.lock_deliverer().map_err(Failure::unavailable)?.ok_or_else(|| {
        let path = outbox.root().display();
        Failure::Unavailable(anyhow!("another outbox-deliverer runs on {path} already"))
    })?;
    let (report, events) = channel();
    let stop = Arc::new(AtomicBool::new(false));
    stop_on_signals(Arc::clone(&stop), report.clone())
        .context("cannot handle signals")
        .map_err(Failure::Failed)?;
    let marker = Marker::start(database, report.clone());
    let relay = courier.relay_name();
    let settings = config.delivery.clone();
    // Watch first, then look: what comes in between rings.
    let _doorbell = (!once).then(|| Doorbell::new(&outbox, report));
    let service = Service::new(deliverer, settings, courier, marker, events, stop);
    if !once {
        info!(outbox = %outbox.root().display(), relay, "delivering");
    }
    let done = if once { service.run_once() } else { service.run() };
    let summary = done.map_err(Failure::unavailable)?;
    conclude(summary, once)
}

/// The last line, and what it means for the exit code.
fn conclude(summary: Summary, once: bool) -> Result<(), Failure> {
    let Summary { relayed, deferred, held, finished, unmarked, errors, relay_trouble } = summary;
    info!(relayed, finished, deferred, held, unmarked, errors, "done");
    if !once {
        return Ok(());
    }
    if relay_trouble {
        return Err(Failure::Unavailable(anyhow!("the relay does not take mails now")));
    }
    if unmarked > 0 {
        let text = "the database does not take marks now: the relayed mails are marked next time";
        return Err(Failure::Unavailable(anyhow!(text)));
    }
    if errors > 0 {
        return Err(Failure::Failed(anyhow!(
            "errors with {errors} of the mails: see the lines above"
        )));
    }
    Ok(())
}
