//! `check`: is everything there that a run needs? Changes nothing.

use std::time::Duration;

use anyhow::{anyhow, bail};
use outbox::Outbox;
use outbox_config::program::{Check, Findings};
use outbox_config::{Config, Failure, SmtpSettings, SmtpTimeouts, SmtpTls};

use crate::marks::{connect, missing_rights};
use crate::queue::read;
use crate::smtp::{Connection, Deadlines, Relay};

/// How long a relay may take for each answer. A mail waits longer; a person does not.
const PATIENCE: Duration = Duration::from_secs(30);

/// Checks all of it.
pub fn check(config: &Config) -> Result<(), Failure> {
    let mut checks: Vec<Check<'_>> =
        vec![("outbox", Box::new(check_outbox)), ("database", Box::new(check_database))];
    match config.smtp() {
        Ok(relays) => checks.extend(relays.iter().map(|relay| -> Check<'_> {
            ("relay", Box::new(move |_| check_relay(relay, PATIENCE)))
        })),
        Err(error) => checks.push(("relay", Box::new(move |_| bail!("{error}")))),
    }
    let mut findings = Findings::default();
    findings.look_at(config, &checks)?;
    for relay in &config.smtp {
        if relay.timeouts.final_dot < SmtpTimeouts::FINAL_DOT {
            let text = format!(
                "{}: smtp.timeouts.final_dot is below the ten minutes of RFC 5321: a mail that the relay took and did \
                 not confirm by then is sent again",
                relay.host
            );
            findings.note("relay", &text)?;
        }
    }
    // An outbox that can't be opened was told about above.
    let outbox = Outbox::open(&config.outbox.path);
    for wrong in outbox.and_then(|outbox| outbox.wrong_permissions()).unwrap_or_default() {
        findings.wrong("outbox", &wrong)?;
    }
    findings.end()
}

fn check_outbox(config: &Config) -> anyhow::Result<String> {
    let outbox = Outbox::open(&config.outbox.path)?;
    let mails = read(&outbox)?;
    if let Some(trouble) = mails.iter().find_map(|mail| mail.sidecar.as_ref().err()) {
        bail!("{trouble}");
    }
    let mails = mails.len();
    outbox.check_writable(&["new", "cur", "sidecar", "delivery", "sent/cur"])?;
    let room = outbox.room()?;
    let room = config.outbox.room_for_mails(room.octets, room.files)?;
    Ok(format!("{} with {mails} mails; {room}", outbox.root().display()))
}

fn check_database(config: &Config) -> anyhow::Result<String> {
    let settings = &config.database()?.event;
    let mut client = connect(settings)?;
    let missing = missing_rights(&mut client)?;
    if !missing.is_empty() {
        bail!("{} lacks rights: {}", settings.username, missing.join(" "));
    }
    Ok(format!("{} as {}", settings.name, settings.username))
}

fn check_relay(settings: &SmtpSettings, patience: Duration) -> anyhow::Result<String> {
    let mut relay = Relay::configured(settings)?;
    let name = relay.name();
    let Deadlines { connect, greeting, command, .. } = &mut relay.deadlines;
    for deadline in [connect, greeting, command] {
        *deadline = patience.min(*deadline);
    }
    let connection = Connection::open(&relay).map_err(|trouble| anyhow!("{name}: {trouble}"))?;
    connection.quit();
    let tls = match relay.tls {
        SmtpTls::None => "without TLS",
        SmtpTls::StartTls | SmtpTls::Implicit => "with TLS",
    };
    let login = if relay.credentials.is_some() { ", and logs us in" } else { "" };
    Ok(format!("{name} greets us {tls}{login}"))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_mute_relay_is_given_up_when_patience_is_over() {
        // It takes connections and never says a word.
        let mute = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = mute.local_addr().unwrap().port();
        let settings = format!(r#"{{"smtp": {{"host": "127.0.0.1", "port": {port}}}}}"#);
        let config: Config = serde_json::from_str(&settings).unwrap();
        let error = check_relay(&config.smtp().unwrap()[0], Duration::from_millis(50)).unwrap_err();
        let expected =
            format!("127.0.0.1:{port}: failed to get the relay's greeting: it took too long");
        assert_eq!(error.to_string(), expected);
    }
}
