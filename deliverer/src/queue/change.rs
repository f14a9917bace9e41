//! What a command did to each mail: a line each as it happens, or one JSON array at the end.

use anyhow::anyhow;
use outbox::{MailId, Ticket};
use outbox_config::Failure;
use outbox_config::program::{print, print_json};
use outbox_config::text::one_line;
use serde::Serialize;

use super::selector::{fail_with, not_found};
use super::{Listed, explain};

/// How a command fared with a mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fared {
    /// Done.
    Done,
    /// It was so already.
    Unchanged,
    /// With `--dry-run`: it would be tried.
    Planned,
    /// It can't be done with this mail as it is.
    Refused,
    /// It went wrong.
    Failed,
}

/// What a command says of a mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// How it fared.
    pub result: Fared,
    /// The same in words.
    pub text: String,
}

impl Answer {
    /// [`Fared::Done`].
    pub fn done(text: impl Into<String>) -> Self {
        Self { result: Fared::Done, text: text.into() }
    }

    /// [`Fared::Unchanged`].
    pub fn unchanged(text: impl Into<String>) -> Self {
        Self { result: Fared::Unchanged, text: text.into() }
    }

    /// [`Fared::Planned`].
    pub fn planned(text: impl Into<String>) -> Self {
        Self { result: Fared::Planned, text: text.into() }
    }

    /// [`Fared::Refused`].
    pub fn refused(text: impl Into<String>) -> Self {
        Self { result: Fared::Refused, text: text.into() }
    }

    /// [`Fared::Failed`].
    pub fn failed(text: impl Into<String>) -> Self {
        Self { result: Fared::Failed, text: text.into() }
    }

    /// [`Fared::Failed`] over an error.
    pub fn error(error: &outbox::Error) -> Self {
        Self::failed(explain(error))
    }
}

/// One mail and its [`Answer`] as JSON.
#[derive(Debug, Serialize)]
struct Json {
    id: MailId,
    ticket: Option<Ticket>,
    result: Fared,
    text: String,
}

/// All answers of a command.
#[derive(Debug)]
pub struct Report {
    json: bool,
    answers: Vec<Json>,
}

impl Report {
    /// One that is told as JSON, or line by line.
    pub fn new(json: bool) -> Self {
        Self { json, answers: Vec::new() }
    }

    /// Notes an answer, and prints its line.
    pub fn tell(&mut self, mail: &Listed, answer: Answer) -> Result<(), Failure> {
        let Answer { result, text } = answer;
        let ticket = mail.ticket();
        if !self.json {
            let name = ticket.as_ref().map_or(mail.id.as_str(), Ticket::as_str);
            let how = match result {
                Fared::Done | Fared::Unchanged | Fared::Planned => "",
                Fared::Refused => "NOT DONE, ",
                Fared::Failed => "FAILED, ",
            };
            let line = format!("{name} {}: {how}{text}", mail.recipient());
            print(&(one_line(&line) + "\n"))?;
        }
        self.answers.push(Json { id: mail.id.clone(), ticket, result, text });
        Ok(())
    }

    /// Ends the command. Fails if something was not done, or if a name was not found.
    pub fn conclude(self, missing: &[String]) -> Result<(), Failure> {
        if self.json {
            print_json(&self.answers)?;
        } else if self.answers.is_empty() && missing.is_empty() {
            print("no mails\n")?;
        }
        let not_done = |answer: &&Json| matches!(answer.result, Fared::Refused | Fared::Failed);
        let wrong = self.answers.iter().filter(not_done).count();
        let all = self.answers.len();
        let not_done = (wrong > 0)
            .then(|| anyhow!("not done with {wrong} of {all} mails: see what is said of each"));
        fail_with(not_done.into_iter().chain(not_found(missing)))
    }
}
