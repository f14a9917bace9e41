//! One mail over an open connection: MAIL, RCPT, DATA, the message, and what the relay makes of it.
//!
//! ```text
//!   the relay has PIPELINING   one group (or several, for many recipients), then its replies, in order
//!   it hasn't                  groups of one
//!
//!   reply     MAIL              RCPT                DATA                           final dot
//!   good      2xx               2xx                 354                            250
//!   4xx, 5xx  all recipients    that recipient      recipients taken so far        recipients taken so far
//!   other     out of step: end the connection, forget this mail's replies          uncertain
//! ```

use std::time::Instant;

use lettre::{
    Address,
    address::Envelope,
    transport::smtp::{
        commands::{Data, Mail, Rcpt, Rset},
        extension::{MailBodyParameter, MailParameter, RcptParameter},
    },
};

use super::{
    connection::{Connection, HandOver, State},
    message::{Content, FINAL_DOT},
    outcome::{Attempt, Meaning, Outcome, Recipient},
    reply::Reply,
    trouble::{Cause, Phase, RelayTrouble},
};

/// The most that a group of commands may take, in bytes. It fits in the smallest send buffer that Linux gives a socket,
/// so that we never wait to write while the relay waits for us to read (RFC 2920, section 3.1).
const LARGEST_GROUP: usize = 8 * 1024;

/// What the relay is told about a mail beside envelope and message.
#[derive(Clone, Debug, Default)]
pub struct SendOptions {
    /// Names this mail in delivery status notifications (RFC 3461, section 4.4), where the relay has DSN. Left out if it
    /// isn't printable ASCII, or longer than 100 characters once encoded.
    pub envid: Option<String>,
}

impl Connection {
    /// Sends one mail, to the envelope's recipients alone.
    ///
    /// Nothing is sent if the mail can't be given to this relay: then [`Attempt::refusal`] says why. A missing CRLF at
    /// the very end of `message` is added. [`Attempt`] tells what the relay made of it.
    pub fn send(&mut self, envelope: &Envelope, message: &[u8], options: &SendOptions) -> Attempt {
        let mut attempt = Attempt::open(envelope);
        match self.prepare(envelope, message) {
            Err(refusal) => attempt.refusal = Some(refusal),
            Ok(content) => {
                let reused = std::mem::replace(&mut self.used, true);
                let mut transaction = Transaction::new(self, &mut attempt.recipients);
                if let Err(mut trouble) = transaction.run(envelope, &content, options) {
                    trouble.stale =
                        reused && transaction.mail == MailReply::None && trouble.is_goodbye();
                    if matches!(trouble.cause, Cause::OutOfStep(_)) {
                        transaction.forget();
                    }
                    attempt.trouble = Some(trouble);
                }
            }
        }
        attempt.reusable = self.is_reusable();
        attempt.phases = self.take_phases();
        attempt
    }

    fn prepare(&self, envelope: &Envelope, message: &[u8]) -> Result<Content, super::Refusal> {
        let content = Content::encode(message)?;
        content.fits(envelope, self.capabilities())?;
        Ok(content)
    }
}

/// What a command in a group is about.
#[derive(Clone, Copy)]
enum Step {
    Mail,
    /// With the recipient's index.
    Rcpt(usize),
    Data,
}

impl Step {
    fn phase(self) -> Phase {
        match self {
            Self::Mail => Phase::Mail,
            Self::Rcpt(_) => Phase::Rcpt,
            Self::Data => Phase::Data,
        }
    }
}

/// What the relay said to MAIL.
#[derive(Clone, Copy, PartialEq, Eq)]
enum MailReply {
    None,
    Taken,
    Refused,
}

struct Transaction<'a> {
    connection: &'a mut Connection,
    recipients: &'a mut [Recipient],
    /// Indexes of the recipients that the relay said yes to.
    taken: Vec<usize>,
    mail: MailReply,
    /// The relay took a recipient for a mail whose MAIL it had refused.
    contradicts_itself: bool,
    go_ahead: bool,
}

impl<'a> Transaction<'a> {
    fn new(connection: &'a mut Connection, recipients: &'a mut [Recipient]) -> Self {
        Self {
            connection,
            recipients,
            taken: Vec::new(),
            mail: MailReply::None,
            contradicts_itself: false,
            go_ahead: false,
        }
    }

    fn run(
        &mut self,
        envelope: &Envelope,
        content: &Content,
        options: &SendOptions,
    ) -> Result<(), RelayTrouble> {
        self.reset()?;
        let limit = self.connection.deadlines().for_envelope(self.recipients.len());
        let deadline = Instant::now() + limit;
        for group in self.groups(envelope, content, options) {
            if self.mail == MailReply::Refused
                || (self.taken.is_empty() && matches!(group.steps[..], [Step::Data]))
            {
                break;
            }
            self.exchange(&group, deadline)?;
        }
        if !self.go_ahead {
            return self.check_step();
        }
        if self.contradicts_itself {
            // A final dot would have it deliver an empty mail.
            self.connection.state = State::Closed;
            Ok(())
        } else if self.taken.is_empty() {
            self.end_without_message()
        } else {
            self.deliver(content)
        }
    }

    /// Ends what an earlier mail left open. Only now: nobody had to wait for it then.
    fn reset(&mut self) -> Result<(), RelayTrouble> {
        if self.connection.state == State::InTransaction {
            let reply = self.connection.command(Phase::Reset, Rset)?;
            if !reply.is_positive() {
                return Err(self.connection.fail(Phase::Reset, Cause::Answered(reply)));
            }
            self.end();
        }
        Ok(())
    }

    fn exchange(&mut self, group: &Group, envelope: Instant) -> Result<(), RelayTrouble> {
        self.connection.say(group.steps[0].phase(), &group.commands)?;
        self.connection.state = State::InTransaction;
        for &step in &group.steps {
            // Each command has its own time: RFC 5321, section 4.5.3.2.
            let deadline = self.connection.deadline(step.phase()).min(envelope);
            let reply = self.connection.hear(step.phase(), deadline)?;
            self.answer(step, &reply)?;
        }
        Ok(())
    }

    fn answer(&mut self, step: Step, reply: &Reply) -> Result<(), RelayTrouble> {
        match (step, Meaning::of(reply)) {
            (Step::Mail, Meaning::Refused(outcome)) => {
                self.mail = MailReply::Refused;
                for recipient in &mut *self.recipients {
                    recipient.outcome = outcome.clone();
                }
            }
            (Step::Mail, Meaning::GoOn) if reply.is_positive() => self.mail = MailReply::Taken,

            // After a refused MAIL, these are told already.
            (Step::Rcpt(_) | Step::Data, Meaning::Refused(_))
                if self.mail == MailReply::Refused => {}
            (Step::Rcpt(_), Meaning::GoOn) if self.mail == MailReply::Refused => {
                self.contradicts_itself = true;
            }

            (Step::Rcpt(index), Meaning::Refused(outcome)) => {
                self.recipients[index].outcome = outcome;
            }
            // 251 and 252 too: RFC 5321, section 4.1.1.3.
            (Step::Rcpt(index), Meaning::GoOn) if reply.is_positive() => self.taken.push(index),

            (Step::Data, Meaning::Refused(outcome)) => self.decide(&outcome),
            (Step::Data, Meaning::GoOn) if reply.code() == 354 => self.go_ahead = true,

            (step, _) => {
                let cause =
                    Cause::OutOfStep(format!("it said {reply}, which is no answer to this"));
                return Err(self.connection.fail(step.phase(), cause));
            }
        }
        Ok(())
    }

    /// All recipients are refused, and the relay waits for a message all the same: RFC 2920, section 3.1. What it says
    /// to a lone dot changes nothing.
    fn end_without_message(&mut self) -> Result<(), RelayTrouble> {
        let dot = std::str::from_utf8(FINAL_DOT).expect("a dot is ASCII");
        self.connection.command(Phase::FinalDot, dot)?;
        self.end();
        Ok(())
    }

    fn deliver(&mut self, content: &Content) -> Result<(), RelayTrouble> {
        let limit = self.connection.deadlines().for_message(content.wire.len());
        if let Err(stopped) = self.connection.hand_over(&content.wire, limit) {
            return self.salvage(content, stopped);
        }
        let deadline = self.connection.deadline(Phase::FinalDot);
        let reply = match self.connection.hear(Phase::FinalDot, deadline) {
            Ok(reply) => reply,
            Err(trouble) => {
                // 421 is an answer; without any, only the relay knows.
                if trouble.reply().is_none() {
                    self.decide(&Outcome::Uncertain(None));
                }
                return Err(trouble);
            }
        };
        match Meaning::of(&reply) {
            Meaning::Refused(outcome) => self.decide(&outcome),
            _ if reply.code() == 250 => self.decide(&Outcome::Accepted(reply)),
            _ => {
                self.decide(&Outcome::Uncertain(Some(reply.clone())));
                return Err(self.connection.fail(Phase::FinalDot, Cause::Answered(reply)));
            }
        }
        self.end();
        Ok(())
    }

    /// The message didn't get to its end. The relay may have said why: a reply that refuses it counts as such.
    fn salvage(&mut self, content: &Content, stopped: HandOver) -> Result<(), RelayTrouble> {
        let deadline = self.connection.deadline(Phase::Message);
        let may_have_dot = stopped.handed > content.final_dot_at();
        let heard = match stopped.cause {
            Some(Cause::TimedOut) => Err(self.connection.fail(Phase::Message, Cause::TimedOut)),
            cause => {
                self.connection.hear(Phase::Message, deadline).map_err(|trouble| match cause {
                    Some(cause) if trouble.reply().is_none() => RelayTrouble { cause, ..trouble },
                    _ => trouble,
                })
            }
        };
        self.connection.state = State::Closed;
        let trouble = match heard.map(|reply| (Meaning::of(&reply), reply)) {
            Ok((Meaning::Refused(outcome), _)) => {
                self.decide(&outcome);
                return Ok(());
            }
            Ok((_, reply)) => {
                let cause =
                    Cause::OutOfStep(format!("it said {reply} in the midst of the message"));
                self.connection.fail(Phase::Message, cause)
            }
            Err(trouble) => trouble,
        };
        if may_have_dot && trouble.reply().is_none() {
            self.decide(&Outcome::Uncertain(None));
        }
        Err(trouble)
    }

    /// Gives the recipients that the relay had said yes to their outcome.
    fn decide(&mut self, outcome: &Outcome) {
        for index in self.taken.drain(..) {
            self.recipients[index].outcome = outcome.clone();
        }
    }

    /// Takes back what replies have said that may have been replies to something else.
    fn forget(&mut self) {
        for recipient in &mut *self.recipients {
            if matches!(recipient.outcome, Outcome::Deferred(_) | Outcome::Rejected(_)) {
                recipient.outcome = Outcome::Open;
            }
        }
    }

    /// The relay has answered the final dot, or RSET.
    fn end(&mut self) {
        if self.connection.state == State::InTransaction {
            self.connection.state = State::Ready;
        }
    }

    /// Looks whether the replies so far were those to our commands: one too many, and they weren't.
    fn check_step(&mut self) -> Result<(), RelayTrouble> {
        match self.connection.expect_silence(Phase::Data) {
            Err(trouble) if matches!(trouble.cause, Cause::OutOfStep(_)) => Err(trouble),
            // Closed after it has said all it had to say: nothing is lost.
            _ => Ok(()),
        }
    }

    fn groups(&self, envelope: &Envelope, content: &Content, options: &SendOptions) -> Vec<Group> {
        let from = envelope.from().cloned();
        let mail = Mail::new(from, self.mail_parameters(envelope, content, options)).to_string();
        let rcpts = envelope.to().iter().enumerate().map(|(index, to)| {
            let rcpt = Rcpt::new(to.clone(), self.rcpt_parameters(envelope, to));
            (Step::Rcpt(index), rcpt.to_string())
        });
        let commands = std::iter::once((Step::Mail, mail))
            .chain(rcpts)
            .chain([(Step::Data, Data.to_string())]);

        let pipelining = self.connection.capabilities().pipelining;
        let mut groups: Vec<Group> = Vec::new();
        for (step, command) in commands {
            match groups.last_mut() {
                Some(group)
                    if pipelining && group.commands.len() + command.len() <= LARGEST_GROUP =>
                {
                    group.commands.push_str(&command);
                    group.steps.push(step);
                }
                _ => groups.push(Group { commands: command, steps: vec![step] }),
            }
        }
        groups
    }

    fn mail_parameters(
        &self,
        envelope: &Envelope,
        content: &Content,
        options: &SendOptions,
    ) -> Vec<MailParameter> {
        let offered = self.connection.capabilities();
        let other = |keyword: &str, value: &str| MailParameter::Other {
            keyword: keyword.into(),
            value: Some(value.into()),
        };
        let mut parameters = Vec::new();
        if offered.size {
            parameters.push(MailParameter::Size(content.size));
        }
        if content.is_eight_bit {
            parameters.push(MailParameter::Body(MailBodyParameter::EightBitMime));
        }
        if content.needs_smtp_utf8(envelope) {
            parameters.push(MailParameter::SmtpUtfEight);
        }
        // Without a sender there is nobody to notify.
        if offered.dsn && envelope.from().is_some() {
            parameters.push(other("RET", "HDRS"));
            if let Some(envid) = options.envid.as_deref().filter(|envid| is_envid(envid)) {
                parameters.push(other("ENVID", envid));
            }
        }
        parameters
    }

    fn rcpt_parameters(&self, envelope: &Envelope, to: &Address) -> Vec<RcptParameter> {
        let other = |keyword: &str, value: String| RcptParameter::Other {
            keyword: keyword.into(),
            value: Some(value),
        };
        let mut parameters = Vec::new();
        if self.connection.capabilities().dsn && envelope.from().is_some() {
            parameters.push(other("NOTIFY", "FAILURE,DELAY".into()));
            let address: &str = to.as_ref();
            // Beyond ASCII, ORCPT has an encoding of its own (RFC 6533), and little use.
            if address.is_ascii() {
                parameters.push(other("ORCPT", format!("rfc822;{address}")));
            }
        }
        parameters
    }
}

/// Commands that go out together.
struct Group {
    commands: String,
    steps: Vec<Step>,
}

/// Whether ENVID can carry it: RFC 3461, section 4.4. lettre makes xtext of it (section 4), three bytes for each of
/// space, `+` and `=`.
fn is_envid(envid: &str) -> bool {
    let encoded = envid.bytes().map(|b| if matches!(b, b' ' | b'+' | b'=') { 3 } else { 1 });
    !envid.is_empty()
        && envid.bytes().all(|b| (b' '..=b'~').contains(&b))
        && encoded.sum::<usize>() <= 100
}
