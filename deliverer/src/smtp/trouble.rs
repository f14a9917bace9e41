//! What goes wrong between us and the relay, and at which step.

use std::{
    fmt::{self, Display, Formatter},
    io,
};

use super::reply::{Malformed, Reply};

/// A step of the conversation. Printed, it completes "failed to …".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Name look-up and TCP connection.
    Connect,
    /// The relay's first words.
    Greeting,
    /// EHLO, or HELO where the relay doesn't know EHLO.
    Hello,
    /// The command STARTTLS.
    StartTls,
    /// The TLS handshake.
    Tls,
    /// AUTH.
    Auth,
    /// RSET, which ends what an earlier mail has left open.
    Reset,
    /// MAIL FROM.
    Mail,
    /// RCPT TO.
    Rcpt,
    /// DATA and its 354.
    Data,
    /// The message, up to its final dot.
    Message,
    /// The final dot and its reply.
    FinalDot,
    /// QUIT.
    Quit,
}

impl Phase {
    /// Those that are timed, in the order of a conversation: all but QUIT, for which no mail waits.
    pub const TIMED: [Self; 12] = [
        Self::Connect,
        Self::Greeting,
        Self::Hello,
        Self::StartTls,
        Self::Tls,
        Self::Auth,
        Self::Reset,
        Self::Mail,
        Self::Rcpt,
        Self::Data,
        Self::Message,
        Self::FinalDot,
    ];

    /// A short name, as in a metric's label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Greeting => "greeting",
            Self::Hello => "hello",
            Self::StartTls => "starttls",
            Self::Tls => "tls",
            Self::Auth => "auth",
            Self::Reset => "reset",
            Self::Mail => "mail",
            Self::Rcpt => "rcpt",
            Self::Data => "data",
            Self::Message => "message",
            Self::FinalDot => "final_dot",
            Self::Quit => "quit",
        }
    }
}

impl Display for Phase {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connect to the relay",
            Self::Greeting => "get the relay's greeting",
            Self::Hello => "say hello to the relay (EHLO)",
            Self::StartTls => "begin TLS with the relay (STARTTLS)",
            Self::Tls => "agree on TLS with the relay",
            Self::Auth => "log in to the relay (AUTH)",
            Self::Reset => "clear the relay's last transaction (RSET)",
            Self::Mail => "name the sender to the relay (MAIL)",
            Self::Rcpt => "name the recipients to the relay (RCPT)",
            Self::Data => "announce the message to the relay (DATA)",
            Self::Message => "hand the message to the relay",
            Self::FinalDot => "hear whether the relay took the message (final dot)",
            Self::Quit => "say goodbye to the relay (QUIT)",
        })
    }
}

/// A failure that is the relay's, or the way's to it, and counts against no mail.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed to {phase}: {cause}")]
pub struct RelayTrouble {
    /// At which step.
    pub phase: Phase,
    /// What went wrong.
    pub cause: Cause,
    /// A connection that had already carried a mail was closed (or said 421) before the next MAIL was answered: that
    /// is how relays end idle connections, so a new connection may well do.
    pub stale: bool,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// No connection came about.
    #[error("{0}")]
    Unreachable(String),
    /// The connection was closed or broke.
    #[error("the connection is lost: {0}")]
    Lost(String),
    /// The deadline of the phase has passed.
    #[error("it took too long")]
    TimedOut,
    /// The relay said no, or 421, or something that has no meaning here.
    #[error("the relay answered {0}")]
    Answered(Reply),
    /// What came isn't a reply.
    #[error("the relay sent what isn't a reply: {0}")]
    Malformed(#[from] Malformed),
    /// A reply came to which there is no question: no reply of this connection can be trusted any more.
    #[error("the relay's replies are out of step with our commands: {0}")]
    OutOfStep(String),
    /// Plaintext came behind the reply to STARTTLS, where somebody in between could have put it.
    #[error(
        "plaintext came behind the reply to STARTTLS; somebody may be tampering with the connection"
    )]
    Injected,
    /// TLS failed: the certificate, the protocol, or our own list of authorities.
    #[error("{0}")]
    Tls(String),
    /// The relay doesn't offer what the configuration requires.
    #[error("the relay does not offer {0}")]
    NotOffered(&'static str),
    /// The password would have crossed the network unencrypted.
    #[error("refusing to send a password without TLS to a host other than this one")]
    PasswordInTheClear,
}

impl RelayTrouble {
    pub(super) fn new(phase: Phase, cause: impl Into<Cause>) -> Self {
        Self { phase, cause: cause.into(), stale: false }
    }

    /// That the relay said this at a phase.
    pub fn answered(phase: Phase, reply: Reply) -> Self {
        Self::new(phase, Cause::Answered(reply))
    }

    /// What the relay said, where it said something.
    pub fn reply(&self) -> Option<&Reply> {
        match &self.cause {
            Cause::Answered(reply) => Some(reply),
            _ => None,
        }
    }

    /// Whether it may come from the mail in hand: in its midst, without a word, with a 421, or with a reply that has no
    /// meaning there. What a relay says to MAIL already (or before that, unasked), or of a login, it says to every mail.
    pub fn may_be_the_mails(&self) -> bool {
        match (self.phase, self.reply()) {
            (Phase::Mail, None) => !matches!(self.cause, Cause::OutOfStep(_)),
            (Phase::Rcpt | Phase::Data | Phase::Message | Phase::FinalDot, reply) => {
                reply.is_none_or(|reply| reply.code() < 500)
            }
            _ => false,
        }
    }

    /// Whether this is how a relay ends a connection that it doesn't want to keep.
    pub(super) fn is_goodbye(&self) -> bool {
        match &self.cause {
            Cause::Lost(_) => true,
            Cause::Answered(reply) => reply.code() == 421,
            _ => false,
        }
    }
}

impl From<io::Error> for Cause {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Self::TimedOut,
            // rustls reports what breaks the protocol this way.
            io::ErrorKind::InvalidData => Self::Tls(error.to_string()),
            io::ErrorKind::UnexpectedEof => Self::Lost("closed by the relay".into()),
            _ => Self::Lost(error.to_string()),
        }
    }
}
