//! What a program asks PostgreSQL, and what that answers, read from the octets on the socket.
//!
//! Only what the programs use of the protocol (version 3, see PostgreSQL's manual, "Frontend/Backend
//! Protocol"): simple queries, and prepared statements with parameters in binary form.

use std::collections::{HashMap, VecDeque};

use anyhow::{Context, Result, ensure};

/// A statement that was asked, with what came back so far.
#[derive(Clone, Debug, Default)]
pub struct Statement {
    /// Where the call that sent it began.
    pub from: u64,
    /// Its text.
    pub text: String,
    /// Its parameters; none for NULL.
    pub parameters: Vec<Option<Vec<u8>>>,
    /// The rows that came.
    pub rows: Vec<Vec<Option<Vec<u8>>>>,
}

/// A session, as far as it was read.
#[derive(Debug, Default)]
pub struct Session {
    begun: bool,
    sent: Vec<u8>,
    received: Vec<u8>,
    prepared: HashMap<String, String>,
    bound: Option<Statement>,
    /// What is not answered yet, with a `None` wherever the server is to say that it is ready.
    waiting: VecDeque<Option<Statement>>,
}

impl Session {
    /// Octets that the program sent. Gives the statements that are whole with them.
    pub fn send(&mut self, octets: &[u8], from: u64) -> Result<Vec<Statement>> {
        self.sent.extend_from_slice(octets);
        let mut asked = Vec::new();
        if !self.begun {
            // The first message has no letter.
            let Some(_) = take(&mut self.sent, 0)? else { return Ok(asked) };
            self.begun = true;
        }
        while let Some((letter, message)) = lettered(&mut self.sent)? {
            let mut message = message.as_slice();
            match letter {
                b'Q' => {
                    let text = string(&mut message)?;
                    let statement = Statement { from, text, ..Statement::default() };
                    self.waiting.extend([Some(statement.clone()), None]);
                    asked.push(statement);
                }
                b'P' => {
                    let name = string(&mut message)?;
                    self.prepared.insert(name, string(&mut message)?);
                }
                b'B' => {
                    string(&mut message)?;
                    let name = string(&mut message)?;
                    let text = self.prepared.get(&name).context("bound, and never prepared")?;
                    let formats = number16(&mut message)?;
                    for _ in 0..formats {
                        number16(&mut message)?;
                    }
                    let parameters = values(&mut message)?;
                    let text = text.clone();
                    self.bound = Some(Statement { from, text, parameters, rows: Vec::new() });
                }
                b'E' => {
                    let statement = self.bound.take().context("executed, and never bound")?;
                    self.waiting.push_back(Some(statement.clone()));
                    asked.push(statement);
                }
                b'S' => self.waiting.push_back(None),
                _ => {}
            }
        }
        Ok(asked)
    }

    /// Octets that came. Gives the statements that they complete, with their tags; an empty one says
    /// that the statement failed.
    pub fn receive(&mut self, octets: &[u8]) -> Result<Vec<(Statement, String)>> {
        self.received.extend_from_slice(octets);
        let mut done = Vec::new();
        while let Some((letter, message)) = lettered(&mut self.received)? {
            let mut message = message.as_slice();
            match letter {
                b'D' => {
                    let row = values(&mut message)?;
                    let asked = self.waiting.front_mut().and_then(Option::as_mut);
                    asked.context("a row of nothing")?.rows.push(row);
                }
                b'C' => {
                    let asked = self.waiting.pop_front().flatten().context("nothing was asked")?;
                    done.push((asked, string(&mut message)?));
                }
                b'E' => {
                    if let Some(Some(_)) = self.waiting.front() {
                        let failed = self.waiting.pop_front().flatten();
                        done.extend(failed.map(|failed| (failed, String::new())));
                    }
                }
                // What was asked behind a statement that failed was skipped. The first time, at the
                // end of the login, nothing was asked.
                b'Z' => while self.waiting.pop_front().flatten().is_some() {},
                _ => {}
            }
        }
        Ok(done)
    }

    /// What was asked and not answered.
    pub fn unanswered(&self) -> impl Iterator<Item = &Statement> {
        self.waiting.iter().flatten()
    }
}

/// The elements of an array in binary form; none for NULL.
pub fn array(octets: &[u8]) -> Result<Vec<Option<Vec<u8>>>> {
    let mut rest = octets;
    let dimensions = number32(&mut rest)?;
    number32(&mut rest)?;
    number32(&mut rest)?;
    if dimensions == 0 {
        return Ok(Vec::new());
    }
    ensure!(dimensions == 1, "an array of {dimensions} dimensions");
    let count = number32(&mut rest)?;
    number32(&mut rest)?;
    (0..count).map(|_| value(&mut rest)).collect()
}

/// A `bigint` or `timestamptz` in binary form.
pub fn number64(octets: &[u8]) -> Result<i64> {
    Ok(i64::from_be_bytes(octets.try_into().context("no number of 64 bits")?))
}

fn lettered(buffer: &mut Vec<u8>) -> Result<Option<(u8, Vec<u8>)>> {
    let Some(&letter) = buffer.first() else { return Ok(None) };
    Ok(take(buffer, 1)?.map(|message| (letter, message)))
}

/// Takes a message whose length stands behind `before` octets, if it is there whole.
fn take(buffer: &mut Vec<u8>, before: usize) -> Result<Option<Vec<u8>>> {
    let Some(mut length) = buffer.get(before..before + 4) else { return Ok(None) };
    let length = usize::try_from(number32(&mut length)?)?;
    ensure!(length >= 4, "a message of {length} octets");
    if buffer.len() < before + length {
        return Ok(None);
    }
    let message = buffer[before + 4..before + length].to_vec();
    buffer.drain(..before + length);
    Ok(Some(message))
}

fn values(message: &mut &[u8]) -> Result<Vec<Option<Vec<u8>>>> {
    let count = number16(message)?;
    (0..count).map(|_| value(message)).collect()
}

fn value(message: &mut &[u8]) -> Result<Option<Vec<u8>>> {
    let length = number32(message)?;
    if length < 0 {
        return Ok(None);
    }
    octets(message, usize::try_from(length)?).map(|octets| Some(octets.to_vec()))
}

fn number16(message: &mut &[u8]) -> Result<i16> {
    Ok(i16::from_be_bytes(octets(message, 2)?.try_into()?))
}

fn number32(message: &mut &[u8]) -> Result<i32> {
    Ok(i32::from_be_bytes(octets(message, 4)?.try_into()?))
}

fn string(message: &mut &[u8]) -> Result<String> {
    let length = message.iter().position(|&octet| octet == 0).context("a string without end")?;
    let text = octets(message, length)?.to_vec();
    octets(message, 1)?;
    Ok(String::from_utf8(text)?)
}

fn octets<'m>(message: &mut &'m [u8], count: usize) -> Result<&'m [u8]> {
    let (octets, rest) = message.split_at_checked(count).context("a message is too short")?;
    *message = rest;
    Ok(octets)
}
