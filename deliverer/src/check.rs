//! `check`: is everything there that a run needs? Changes nothing.

use std::time::Duration;

use anyhow::{anyhow, bail};
use outbox::Outbox;
use outbox_config::database::{connect, describe};
use outbox_config::program::{self, Check};
use outbox_config::{Config, Failure, SmtpTls};

use crate::courier::Courier;
use crate::marks::missing_rights;
use crate::queue::read;

/// Checks all of it.
pub fn check(config: &Config) -> Result<(), Failure> {
    let checks: [Check; 3] =
        [("outbox", check_outbox), ("database", check_database), ("relay", check_relay)];
    program::check(config, &checks)
}

fn check_outbox(config: &Config) -> anyhow::Result<String> {
    let outbox = Outbox::open(&config.outbox.path)?;
    let mails = read(&outbox)?;
    if let Some(trouble) = mails.iter().find_map(|mail| mail.sidecar.as_ref().err()) {
        bail!("{trouble}");
    }
    let mails = mails.len();
    outbox.check_writable(&["new", "cur", "sidecar", "delivery", "sent/cur"])?;
    Ok(format!("{} with {mails} mails", outbox.root().display()))
}

fn check_database(config: &Config) -> anyhow::Result<String> {
    let settings = &config.database()?.event;
    let mut client = connect(settings, "outbox-deliverer", Duration::from_secs(30))?;
    let missing = missing_rights(&mut client).map_err(|error| anyhow!("{}", describe(&error)))?;
    if !missing.is_empty() {
        bail!("{} lacks rights: {}", settings.username, missing.join(" "));
    }
    Ok(format!("{} as {}", settings.name, settings.username))
}

fn check_relay(config: &Config) -> anyhow::Result<String> {
    let relay = &config.smtp()?[0];
    let mut courier = Courier::new(relay)?;
    let name = courier.relay_name();
    courier.try_connect().map_err(|trouble| anyhow!("{name}: {trouble}"))?;
    courier.disconnect();
    let tls = match relay.tls() {
        SmtpTls::None => "without TLS",
        SmtpTls::StartTls | SmtpTls::Implicit => "with TLS",
    };
    let login = if relay.login()?.is_some() { ", and logs us in" } else { "" };
    Ok(format!("{name} greets us {tls}{login}"))
}
