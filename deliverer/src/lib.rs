//! The deliverer: relays the mails in the outbox, and only then marks their directives `sent`.
//!
//! [`run`] is the table of contents: each command in a function, each step in a module. [`status`] is
//! not in it, for its exit codes are a plugin's.

mod attempt;
mod bounces;
mod check;
pub mod cli;
mod counts;
mod doorbell;
mod due;
mod event;
mod health;
mod housekeeping;
mod looks;
mod marker;
mod marks;
mod metrics;
mod monitor;
#[cfg(any(test, fuzzing))]
pub mod oracles;
mod queue;
mod relays;
mod service;
mod smtp;
mod status;
mod summary;
mod systemd;
mod told;
mod unmarked;
mod verdict;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::channel;

use anyhow::{Context as _, anyhow};
use outbox::Outbox;
use outbox_config::{Config, Failure};
use tracing::info;

use cli::Task;
use doorbell::Doorbell;
use event::listen_to_signals;
use marker::Marker;
use metrics::Metrics;
use monitor::Monitor;
use relays::Relays;
use service::Service;
use summary::Summary;

pub use status::{UNKNOWN, status};

/// Does what the command line says.
pub fn run(task: &Task, config: &Config) -> Result<(), Failure> {
    match task {
        Task::Run { once } => deliver(config, *once),
        Task::List { selector, json } => queue::list(&open(config)?, selector, *json),
        Task::Show { selector, json } => queue::show(&open(config)?, selector, *json),
        Task::Hold(change) => queue::hold(&open(config)?, change),
        Task::Release(change) => queue::release(&open(config)?, change),
        Task::Retry(change) => queue::retry(&open(config)?, change),
        Task::Withdraw { change, decision } => {
            queue::withdraw(config, &open(config)?, change, decision)
        }
        Task::Verify { selector, no_database, json } => {
            queue::verify(config, &open(config)?, selector, !no_database, *json)
        }
        Task::Bounces(args) => bounces::bounces(config, args),
        Task::Check => check::check(config),
    }
}

fn open(config: &Config) -> Result<Outbox, Failure> {
    Outbox::open(&config.outbox.path).map_err(Failure::unavailable)
}

fn deliver(config: &Config, once: bool) -> Result<(), Failure> {
    let database = config.database()?.event.clone();
    let relays = Relays::new(config.smtp()?, &config.delivery)?;
    // A password that can't be read is an error now, not in the marker's thread.
    database.password()?;
    let outbox = open(config)?;
    let deliverer = outbox.lock_deliverer().map_err(Failure::unavailable)?.ok_or_else(|| {
        let path = outbox.root().display();
        Failure::Unavailable(anyhow!("another outbox-deliverer runs on {path} already"))
    })?;
    let (report, events) = channel();
    let stop = Arc::new(AtomicBool::new(false));
    listen_to_signals(Arc::clone(&stop), report.clone())
        .context("cannot handle signals")
        .map_err(Failure::Failed)?;
    let metrics = if once { Metrics::new() } else { Metrics::start(&config.metrics)? };
    let monitor = Monitor::new(metrics, relays.health());
    let marker = Marker::start(database, report.clone());
    let names = relays.names().join(" ");
    // Watch first, then look: what comes in between rings.
    let _doorbell = (!once).then(|| Doorbell::new(&outbox, report.clone()));
    let service =
        Service::new(deliverer, config.clone(), relays, marker, monitor, (report, events), stop);
    if !once {
        info!(outbox = %outbox.root().display(), relays = names, "delivering");
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
