//! One connection to a relay: how it opens, how commands and replies take turns, how it ends.

use std::{
    fmt::{self, Display},
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use lettre::transport::smtp::{
    commands::{Ehlo, Quit, Starttls},
    extension::ClientId,
};
use rustls::{ClientConfig, pki_types::ServerName};
use tracing::debug;

use outbox_config::SmtpTls as Tls;

use super::{
    auth,
    capabilities::Capabilities,
    link::Link,
    outcome::Meaning,
    relay::{Deadlines, Relay},
    reply::{self, Parsed, Reply},
    tls,
    trouble::{Cause, Phase, RelayTrouble},
};

/// A connection over which mails can be sent, one after the other.
pub struct Connection {
    link: Link,
    /// What has arrived and isn't read yet, without TLS. Never survives the beginning of TLS.
    received: Vec<u8>,
    deadlines: Deadlines,
    capabilities: Capabilities,
    /// What must not show in a reply.
    hidden: Vec<String>,
    /// How far the relay is with a mail.
    pub(super) state: State,
    /// Whether a mail was begun on it.
    pub(super) used: bool,
    /// How long each phase took so far.
    phases: Vec<(Phase, Duration)>,
}

/// Whether the connection can take a MAIL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Yes.
    Ready,
    /// After RSET: an earlier mail was left in the midst.
    InTransaction,
    /// Never again.
    Closed,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { capabilities, state, used, .. } = self;
        f.debug_struct("Connection")
            .field("capabilities", capabilities)
            .field("state", state)
            .field("used", used)
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// Connects, greets, begins TLS and logs in, as `relay` says. Whatever goes wrong is the relay's.
    pub fn open(relay: &Relay) -> Result<Self, RelayTrouble> {
        let trouble = RelayTrouble::new;
        let tls = match relay.tls {
            Tls::None => None,
            Tls::StartTls | Tls::Implicit => {
                let name = ServerName::try_from(relay.host.clone())
                    .map_err(|error| trouble(Phase::Tls, Cause::Tls(error.to_string())))?;
                let config = tls::client_config(relay.ca_file.as_deref())
                    .map_err(|cause| trouble(Phase::Tls, cause))?;
                Some((config, name))
            }
        };
        let begun = Instant::now();
        let link = Link::connect(&relay.host, relay.port, relay.deadlines.connect)
            .map_err(|error| trouble(Phase::Connect, Cause::Unreachable(error.to_string())))?;
        let mut connection = Self {
            link,
            received: Vec::new(),
            deadlines: relay.deadlines.clone(),
            capabilities: Capabilities::default(),
            hidden: Vec::new(),
            state: State::Ready,
            used: false,
            phases: vec![(Phase::Connect, begun.elapsed())],
        };
        match tls {
            None => connection.greet(&relay.hello_name)?,
            Some((config, name)) if relay.tls == Tls::Implicit => {
                connection.start_tls(config, name)?;
                connection.greet(&relay.hello_name)?;
            }
            Some((config, name)) => {
                connection.greet(&relay.hello_name)?;
                connection.ask_for_tls()?;
                connection.start_tls(config, name)?;
                connection.hello(&relay.hello_name)?;
            }
        }
        if let Some(credentials) = &relay.credentials {
            auth::log_in(&mut connection, credentials)?;
        }
        Ok(connection)
    }

    /// Says QUIT and closes. Best effort: all that mattered was said before.
    pub fn quit(mut self) {
        // Where it failed already, nothing more must go out: the rest of a message may wait in the TLS session.
        if self.state != State::Closed {
            let deadline = self.deadline(Phase::Quit);
            // Whatever the relay answers, or doesn't, the connection ends here.
            if self.command(Phase::Quit, Quit).is_ok() {
                self.link.close(deadline);
            }
        }
    }

    /// Whether the relay has closed this connection meanwhile, or said something unasked: then it is of no more use.
    pub fn is_idle_closed(&mut self) -> bool {
        self.state == State::Closed || self.expect_silence(Phase::Mail).is_err()
    }

    /// How long each phase took since this was last asked. [`send`](Connection::send) asks at its end, and puts what it
    /// hears into its [`Attempt`](super::Attempt).
    pub fn take_phases(&mut self) -> Vec<(Phase, Duration)> {
        std::mem::take(&mut self.phases)
    }

    fn took(&mut self, phase: Phase, begun: Instant) {
        let more = begun.elapsed();
        match self.phases.iter_mut().find(|(known, _)| *known == phase) {
            Some((_, time)) => *time += more,
            None => self.phases.push((phase, more)),
        }
    }

    fn greet(&mut self, hello_name: &ClientId) -> Result<(), RelayTrouble> {
        let greeting = self.hear(Phase::Greeting, self.deadline(Phase::Greeting))?;
        self.expect(Phase::Greeting, greeting, 220)?;
        self.hello(hello_name)
    }

    fn hello(&mut self, name: &ClientId) -> Result<(), RelayTrouble> {
        let reply = self.command(Phase::Hello, Ehlo::new(name.clone()))?;
        if reply.code() / 100 == 5 {
            // A relay of before 1995. It offers nothing.
            let reply = self.command(Phase::Hello, format!("HELO {name}\r\n"))?;
            self.capabilities = Capabilities::default();
            return self.expect(Phase::Hello, reply, 250).map(drop);
        }
        let reply = self.expect(Phase::Hello, reply, 250)?;
        self.capabilities = Capabilities::from_ehlo(&reply);
        Ok(())
    }

    fn ask_for_tls(&mut self) -> Result<(), RelayTrouble> {
        if !self.capabilities.start_tls {
            return Err(self.fail(
                Phase::StartTls,
                Cause::NotOffered(
                    "STARTTLS (smtp.tls says how to go without, or with TLS from the start)",
                ),
            ));
        }
        let reply = self.command(Phase::StartTls, Starttls)?;
        self.expect(Phase::StartTls, reply, 220)?;
        // A TLS server waits for the client to speak. What is here already was put there for us to take it for the
        // encrypted session's replies (nodemailer#1835).
        self.expect_silence(Phase::StartTls).map_err(|trouble| match trouble.cause {
            Cause::Lost(_) => trouble,
            _ => RelayTrouble { cause: Cause::Injected, ..trouble },
        })
    }

    fn start_tls(
        &mut self,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<(), RelayTrouble> {
        debug_assert!(self.received.is_empty(), "plaintext never survives the beginning of TLS");
        self.capabilities = Capabilities::default();
        let deadline = self.deadline(Phase::Tls);
        let begun = Instant::now();
        let agreed = self.link.start_tls(config, name, deadline);
        self.took(Phase::Tls, begun);
        agreed.map_err(|error| self.fail(Phase::Tls, error))
    }

    /// Says one command and hears its reply, which isn't 421.
    pub(super) fn command(
        &mut self,
        phase: Phase,
        command: impl Display,
    ) -> Result<Reply, RelayTrouble> {
        let deadline = self.deadline(phase);
        self.say(phase, &command.to_string())?;
        self.hear(phase, deadline)
    }

    /// Says one command, or a group of them (RFC 2920), when no reply is outstanding.
    pub(super) fn say(&mut self, phase: Phase, commands: &str) -> Result<(), RelayTrouble> {
        self.expect_silence(phase)?;
        let begun = Instant::now();
        let written = self.link.write_all(commands.as_bytes(), self.deadline(phase));
        self.took(phase, begun);
        match written {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(self.fail(phase, error)),
            // A connection that broke may still hold the relay's last words: hearing finds them, or how it broke.
            Err(_) | Ok(()) => Ok(()),
        }
    }

    /// Hears one reply. 421 ends the connection, and is an error whatever the phase.
    pub(super) fn hear(&mut self, phase: Phase, deadline: Instant) -> Result<Reply, RelayTrouble> {
        let begun = Instant::now();
        let read = self.read_reply(deadline);
        self.took(phase, begun);
        let reply = read.map_err(|cause| self.fail(phase, cause))?;
        let reply = self.hidden.iter().fold(reply, |reply, secret| reply.without(secret));
        debug!(?phase, %reply, "the relay said");
        match Meaning::of(&reply) {
            Meaning::RelaysOwn => Err(self.fail(phase, Cause::Answered(reply))),
            Meaning::GoOn | Meaning::Refused(_) => Ok(reply),
        }
    }

    /// Insists that nothing has arrived which nobody asked for.
    pub(super) fn expect_silence(&mut self, phase: Phase) -> Result<(), RelayTrouble> {
        if self.state == State::Closed {
            return Err(self.fail(phase, Cause::Lost("it was closed before".into())));
        }
        if self.received.is_empty() {
            match self.receive(None) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(self.fail(phase, error)),
                Ok(0) => {
                    return Err(self.fail(phase, io::Error::from(io::ErrorKind::UnexpectedEof)));
                }
                Ok(_) => {}
            }
        }
        let cause = match reply::parse(&self.received) {
            Ok(Parsed::Complete { reply, .. }) if Meaning::of(&reply) == Meaning::RelaysOwn => {
                Cause::Answered(reply)
            }
            Ok(Parsed::Complete { reply, .. }) => {
                Cause::OutOfStep(format!("it said {reply} unasked"))
            }
            _ => Cause::OutOfStep("it sent bytes unasked".into()),
        };
        Err(self.fail(phase, cause))
    }

    /// Hands a message to the kernel, up to and with its final dot.
    ///
    /// Stops early when the relay speaks early: it has made up its mind. So it listens after each piece, and while the
    /// relay doesn't read.
    pub(super) fn hand_over(&mut self, wire: &[u8], limit: Duration) -> Result<(), HandOver> {
        let begun = Instant::now();
        let handed = self.hand_over_until(wire, begun + limit);
        self.took(Phase::Message, begun);
        handed
    }

    fn hand_over_until(&mut self, wire: &[u8], deadline: Instant) -> Result<(), HandOver> {
        const PIECE: usize = 64 * 1024;
        const LISTEN_EVERY: Duration = Duration::from_millis(500);
        let mut handed = 0;
        while handed < wire.len() {
            if !self.is_silent() {
                return Err(HandOver { handed, cause: None });
            }
            let piece = &wire[handed..wire.len().min(handed + PIECE)];
            match self.link.write(piece, deadline.min(Instant::now() + LISTEN_EVERY)) {
                Ok(more) => handed += more,
                Err(error)
                    if error.kind() == io::ErrorKind::TimedOut && Instant::now() < deadline => {}
                Err(error) => return Err(HandOver { handed, cause: Some(error.into()) }),
            }
        }
        Ok(())
    }

    /// Whether nothing has arrived, not even the end.
    fn is_silent(&mut self) -> bool {
        self.received.is_empty()
            && self.receive(None).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Whether another mail can be begun: it isn't closed, and nothing has come unasked so far.
    pub(super) fn is_reusable(&self) -> bool {
        self.state != State::Closed && self.received.is_empty()
    }

    pub(super) fn fail(&mut self, phase: Phase, cause: impl Into<Cause>) -> RelayTrouble {
        self.state = State::Closed;
        RelayTrouble::new(phase, cause)
    }

    pub(super) fn deadline(&self, phase: Phase) -> Instant {
        Instant::now()
            + match phase {
                Phase::Greeting => self.deadlines.greeting,
                Phase::FinalDot => self.deadlines.final_dot,
                Phase::Quit => self.deadlines.quit,
                _ => self.deadlines.command,
            }
    }

    pub(super) fn deadlines(&self) -> &Deadlines {
        &self.deadlines
    }

    pub(super) fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Whether nobody else on the network can read along.
    pub(super) fn is_private(&self) -> bool {
        self.link.is_encrypted() || self.link.is_loopback()
    }

    pub(super) fn hide_in_replies(&mut self, secrets: Vec<String>) {
        self.hidden = secrets;
    }

    fn expect(&mut self, phase: Phase, reply: Reply, code: u16) -> Result<Reply, RelayTrouble> {
        if reply.code() == code { Ok(reply) } else { Err(self.fail(phase, Cause::Answered(reply))) }
    }

    fn read_reply(&mut self, deadline: Instant) -> Result<Reply, Cause> {
        loop {
            if let Parsed::Complete { reply, length } = reply::parse(&self.received)? {
                self.received.drain(..length);
                return Ok(reply);
            }
            let end = match self.receive(Some(deadline)) {
                Ok(1..) => continue,
                Ok(0) => io::ErrorKind::UnexpectedEof.into(),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    return Err(Cause::TimedOut);
                }
                Err(error) => error,
            };
            let cut_off = std::mem::take(&mut self.received);
            self.state = State::Closed;
            return reply::parse_cut_off(&cut_off).ok_or_else(|| end.into());
        }
    }

    /// Appends what arrives until `deadline`, or what has arrived, and tells how many bytes.
    fn receive(&mut self, deadline: Option<Instant>) -> io::Result<usize> {
        let mut buffer = [0; 4096];
        let length = match deadline {
            Some(deadline) => self.link.read(&mut buffer, deadline)?,
            None => self.link.read_arrived(&mut buffer)?,
        };
        self.received.extend_from_slice(&buffer[..length]);
        Ok(length)
    }
}

/// A message that didn't get to its end.
pub(super) struct HandOver {
    /// How many bytes the relay may have.
    pub handed: usize,
    /// Why; nothing when the relay spoke (or hung up) in the midst.
    pub cause: Option<Cause>,
}
