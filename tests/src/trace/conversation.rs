//! What a program says to a relay, and what that answers, read from the octets on the socket.

use std::collections::VecDeque;

use anyhow::{Context, Result, ensure};

/// A step of an attempt to relay a mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// `MAIL FROM` was said: an attempt begins.
    Mail,
    /// A recipient was named.
    Rcpt(String),
    /// `DATA` was said.
    Data,
    /// The final dot was said; these are the octets before it, each dot that was added taken out.
    FinalDot(Vec<u8>),
    /// The relay answered a recipient.
    RcptAnswered(String, u16),
    /// The relay answered the final dot.
    Answered(u16),
}

/// A session, as far as it was read.
#[derive(Debug, Default)]
pub struct Session {
    sent: Vec<u8>,
    received: Vec<u8>,
    /// What has no answer yet.
    waiting: VecDeque<Waiting>,
    greeted: bool,
    /// Whether what is said now is a mail.
    data: bool,
    /// Whether what is said next depends on the answer to `DATA`.
    asked: bool,
}

#[derive(Debug)]
enum Waiting {
    Rcpt(String),
    Data,
    FinalDot,
    Other,
}

impl Session {
    /// Octets that the program said. Gives the steps that are whole with them.
    pub fn send(&mut self, octets: &[u8]) -> Result<Vec<Step>> {
        self.sent.extend_from_slice(octets);
        let mut steps = Vec::new();
        loop {
            if self.data {
                let end = if self.sent.starts_with(b".\r\n") {
                    Some(0)
                } else {
                    self.sent.windows(5).position(|at| at == b"\r\n.\r\n").map(|at| at + 2)
                };
                let Some(end) = end else { return Ok(steps) };
                let mail: Vec<u8> = self.sent.drain(..end).collect();
                self.sent.drain(..3);
                self.data = false;
                self.waiting.push_back(Waiting::FinalDot);
                steps.push(Step::FinalDot(without_added_dots(&mail)));
                continue;
            }
            ensure!(!self.asked || self.sent.is_empty(), "said before DATA was answered");
            let Some(end) = self.sent.windows(2).position(|at| at == b"\r\n") else {
                return Ok(steps);
            };
            let line: Vec<u8> = self.sent.drain(..end + 2).collect();
            let line = String::from_utf8_lossy(&line[..end]).into_owned();
            let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
            self.waiting.push_back(match verb.as_str() {
                "MAIL" => {
                    steps.push(Step::Mail);
                    Waiting::Other
                }
                "RCPT" => {
                    let inside = line.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
                    let (address, _) = inside.context("RCPT without an address")?;
                    steps.push(Step::Rcpt(address.to_owned()));
                    Waiting::Rcpt(address.to_owned())
                }
                "DATA" => {
                    steps.push(Step::Data);
                    self.asked = true;
                    Waiting::Data
                }
                _ => Waiting::Other,
            });
        }
    }

    /// Octets that came. Gives the steps that they complete.
    pub fn receive(&mut self, octets: &[u8]) -> Result<Vec<Step>> {
        self.received.extend_from_slice(octets);
        let mut steps = Vec::new();
        while let Some(end) = self.received.windows(2).position(|at| at == b"\r\n") {
            let line: Vec<u8> = self.received.drain(..end + 2).collect();
            let line = String::from_utf8_lossy(&line[..end]).into_owned();
            if line.as_bytes().get(3) == Some(&b'-') {
                continue;
            }
            let code = line.get(..3).and_then(|code| code.parse().ok()).context("no reply")?;
            if !std::mem::replace(&mut self.greeted, true) {
                continue;
            }
            // A relay may say a last word that nobody asked for.
            match self.waiting.pop_front() {
                Some(Waiting::Rcpt(address)) => steps.push(Step::RcptAnswered(address, code)),
                Some(Waiting::Data) => (self.asked, self.data) = (false, code == 354),
                Some(Waiting::FinalDot) => steps.push(Step::Answered(code)),
                Some(Waiting::Other) | None => {}
            }
        }
        Ok(steps)
    }
}

fn without_added_dots(mail: &[u8]) -> Vec<u8> {
    let mut octets = Vec::with_capacity(mail.len());
    for line in mail.split_inclusive(|&octet| octet == b'\n') {
        octets.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
    }
    octets
}
