//! Which relay, and how long it may take for what.

use std::{path::PathBuf, time::Duration};

use lettre::transport::smtp::{authentication::Credentials, extension::ClientId};
use outbox_config::{ConfigError, SmtpSettings, SmtpTimeouts, SmtpTls as Tls};

/// A relay and how to speak to it.
#[derive(Clone, Debug)]
pub struct Relay {
    /// Name or address; with TLS, the certificate must be for it.
    pub host: String,
    /// TCP port: usually 25, 465 or 587.
    pub port: u16,
    /// Whether and when TLS begins.
    pub tls: Tls,
    /// PEM file with the only authorities trusted for this relay; without it, those of the system.
    ///
    /// Read at each [`open`](super::Connection::open), so that a new file counts without a restart.
    pub ca_file: Option<PathBuf>,
    /// User name and password; their debug print shows neither.
    pub credentials: Option<Credentials>,
    /// The name we give ourselves in EHLO.
    pub hello_name: ClientId,
    /// How long it may take for what.
    pub deadlines: Deadlines,
}

impl Relay {
    /// The relay that the configuration tells of. Fails if its password can't be read.
    pub fn configured(settings: &SmtpSettings) -> Result<Self, ConfigError> {
        let login = settings.login()?;
        let credentials = login.map(|(name, password)| {
            Credentials::new(name.to_owned(), password.expose().to_owned())
        });
        Ok(Self {
            host: settings.bare_host().to_owned(),
            port: settings.port(),
            tls: settings.tls(),
            ca_file: settings.ca_file.clone(),
            credentials,
            hello_name: hello_name(),
            deadlines: Deadlines::configured(&settings.timeouts),
        })
    }

    /// Its name for records and logs: host and port.
    pub fn name(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
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

/// How long the relay may take. Each is absolute: a byte now and then doesn't extend it.
#[derive(Clone, Debug)]
pub struct Deadlines {
    /// To look up the name and to connect, over all of the relay's addresses.
    pub connect: Duration,
    /// For the greeting.
    pub greeting: Duration,
    /// For the reply to each command, and for the TLS handshake.
    pub command: Duration,
    /// For the replies to all commands of a mail's envelope together, beside `recipient`: a relay that
    /// takes its time over each must not keep the connection for days.
    pub envelope: Duration,
    /// What each recipient adds to that.
    pub recipient: Duration,
    /// To take the message, beside what its size allows.
    pub data: Duration,
    /// How many bytes a second the relay must take at least once `data` has passed.
    pub data_rate: u32,
    /// For the reply to the final dot. RFC 5321 (section 4.5.3.2.6) wants ten minutes: who gives up sooner gets
    /// duplicates.
    pub final_dot: Duration,
    /// For QUIT as a whole.
    pub quit: Duration,
}

impl Deadlines {
    /// Those that the configuration tells of, and what is not configured.
    pub fn configured(timeouts: &SmtpTimeouts) -> Self {
        let &SmtpTimeouts { connect, greeting, command, envelope, data, final_dot, quit } =
            timeouts;
        Self {
            connect,
            greeting,
            command,
            envelope,
            recipient: Duration::from_secs(2),
            data,
            data_rate: 500,
            final_dot,
            quit,
        }
    }

    /// How long the envelope of a mail to so many recipients may take.
    pub(super) fn for_envelope(&self, recipients: usize) -> Duration {
        self.envelope + self.recipient * u32::try_from(recipients).unwrap_or(u32::MAX)
    }

    /// How long a message of `size` bytes may take.
    pub(super) fn for_message(&self, size: usize) -> Duration {
        let rate = u64::from(self.data_rate.max(1));
        self.data + Duration::from_millis(size as u64 * 1000 / rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_three_minutes_and_what_its_size_allows() {
        let deadlines = Deadlines::configured(&SmtpTimeouts::default());
        let seconds = |size| deadlines.for_message(size).as_secs();
        assert_eq!((seconds(0), seconds(500), seconds(5_000_000)), (180, 181, 10_180));
    }
}
