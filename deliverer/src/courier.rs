//! The courier: takes one mail to the relay, and knows how the relay is doing.
//!
//! What goes wrong with the relay itself pauses the relay, and no mail's attempts are counted.

use std::time::{Duration, Instant};

use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::extension::ClientId;
use outbox_config::{ConfigError, SmtpSettings};
use tracing::{debug, info, warn};

use crate::smtp::{
    Address, Attempt, Connection, Deadlines, Envelope, Relay, RelayTrouble, SendOptions,
};

/// How long the relay is left alone after trouble: doubling between these two.
const PAUSE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(300));

/// A relay, the connection to it, and its health.
pub struct Courier {
    relay: Relay,
    deadlines: Deadlines,
    connection: Option<Connection>,
    trouble: Option<Trouble>,
}

/// How long the relay has been in trouble, and until when it is left alone.
struct Trouble {
    since: Instant,
    until: Instant,
    pause: Duration,
}

impl Courier {
    /// A courier to the configured relay. Connects when the first mail is to go.
    pub fn new(settings: &SmtpSettings) -> Result<Self, ConfigError> {
        let login = settings.login()?;
        let credentials = login.map(|(name, password)| {
            Credentials::new(name.to_owned(), password.expose().to_owned())
        });
        let relay = Relay {
            host: settings.bare_host().to_owned(),
            port: settings.port(),
            tls: settings.tls(),
            ca_file: settings.ca_file.clone(),
            credentials,
            hello_name: hello_name(),
        };
        Ok(Self { relay, deadlines: Deadlines::default(), connection: None, trouble: None })
    }

    /// The relay's name for records and logs.
    pub fn relay_name(&self) -> String {
        if self.relay.host.contains(':') {
            format!("[{}]:{}", self.relay.host, self.relay.port)
        } else {
            format!("{}:{}", self.relay.host, self.relay.port)
        }
    }

    /// Until when the relay is left alone.
    pub fn paused_until(&self) -> Option<Instant> {
        self.trouble.as_ref().map(|trouble| trouble.until).filter(|until| *until > Instant::now())
    }

    /// Makes sure that there is a connection. Trouble pauses the relay.
    pub fn connect(&mut self) -> Result<(), RelayTrouble> {
        self.try_connect().inspect_err(|trouble| self.pause(trouble))
    }

    /// The same, but trouble has no consequence.
    pub fn try_connect(&mut self) -> Result<(), RelayTrouble> {
        if self.connection.as_mut().is_some_and(Connection::is_idle_closed) {
            self.connection = None;
        }
        if self.connection.is_none() {
            debug!(relay = self.relay_name(), "connecting");
            self.connection = Some(Connection::open(&self.relay, &self.deadlines)?);
        }
        Ok(())
    }

    /// Sends one mail over the connection made by [`Courier::connect`].
    ///
    /// A relay that ended the connection since the last mail is connected to again. Trouble pauses
    /// the relay; an attempt without ends the pause.
    pub fn send(&mut self, envelope: &Envelope, message: &[u8], id: &str) -> Attempt {
        let options = SendOptions { envid: Some(id.to_owned()) };
        let mut attempt = self.try_send(envelope, message, &options);
        if attempt.trouble.as_ref().is_some_and(|trouble| trouble.stale) && self.connect().is_ok() {
            attempt = self.try_send(envelope, message, &options);
        }
        match &attempt.trouble {
            Some(trouble) => self.pause(trouble),
            None => self.end_pause(),
        }
        attempt
    }

    fn try_send(&mut self, envelope: &Envelope, message: &[u8], options: &SendOptions) -> Attempt {
        let mut connection = self.connection.take().expect("connect was called before");
        let attempt = connection.send(envelope, message, options);
        if attempt.reusable {
            self.connection = Some(connection);
        }
        attempt
    }

    /// Whether there is a connection.
    pub fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    /// Says goodbye, if there is a connection.
    pub fn disconnect(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.quit();
        }
    }

    /// One WARN when trouble begins, the rest of it at DEBUG.
    fn pause(&mut self, trouble: &RelayTrouble) {
        let now = Instant::now();
        let relay = self.relay_name();
        self.connection = None;
        let (since, pause) = match &self.trouble {
            None => {
                warn!(relay, "the relay is in trouble and left alone for a while: {trouble}");
                (now, PAUSE.0)
            }
            Some(known) => {
                debug!(relay, "the relay is still in trouble: {trouble}");
                (known.since, (known.pause * 2).min(PAUSE.1))
            }
        };
        self.trouble = Some(Trouble { since, until: now + pause, pause });
    }

    fn end_pause(&mut self) {
        if let Some(trouble) = self.trouble.take() {
            let seconds = trouble.since.elapsed().as_secs();
            info!(relay = self.relay_name(), seconds, "the relay works again");
        }
    }
}

/// The envelope as SMTP's own type, or why it is none.
pub fn smtp_envelope(from: &str, to: &[&str]) -> Result<Envelope, String> {
    let address = |text: &str| {
        text.parse::<Address>().map_err(|error| format!("{text:?} is no mail address: {error}"))
    };
    let from = if from.is_empty() { None } else { Some(address(from)?) };
    let to = to.iter().map(|text| address(text)).collect::<Result<Vec<_>, _>>()?;
    Envelope::new(from, to).map_err(|error| error.to_string())
}

/// What this host calls itself. A name without a domain is no name to say hello with (RFC 5321,
/// 4.1.1.1): then an address literal.
fn hello_name() -> ClientId {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    if name.contains('.') && name.chars().all(valid) {
        ClientId::Domain(name)
    } else {
        ClientId::Ipv4(std::net::Ipv4Addr::LOCALHOST)
    }
}
