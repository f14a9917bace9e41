//! Which mails a command is about.

use anyhow::anyhow;
use clap::Args;
use glob::{MatchOptions, Pattern};
use outbox::{MailId, Ticket};
use outbox_config::Failure;
use outbox_config::text::one_line;

use super::Listed;
use crate::cli::StateName;

/// Names and filters. Of the mails that are named (of all, if none is) those that pass every filter.
#[derive(Clone, Debug, Args)]
pub struct Selector {
    /// Tickets (20261125-10000042: the mail and its copies) or mail ids (as in `list --json`).
    #[arg(value_name = "MAIL")]
    pub names: Vec<String>,

    /// Only mails that go to an address like this, such as '*@as64496.example'.
    ///
    /// `*` stands for any characters, `?` for one, `[ab]` for one of these; lower and upper case are
    /// the same. Given more than once, any of them will do.
    #[arg(long, value_name = "GLOB")]
    pub recipient: Vec<Pattern>,

    /// Only mails in this state. Given more than once, any of them will do.
    #[arg(long)]
    pub state: Vec<StateName>,

    /// All mails.
    #[arg(long, conflicts_with = "names")]
    pub all: bool,
}

/// What a [`Selector`] found.
#[derive(Debug)]
pub struct Selected {
    /// The mails, oldest first.
    pub mails: Vec<Listed>,
    /// The other mails in the outbox.
    pub others: Vec<Listed>,
    /// The names that no mail in the outbox has.
    pub missing: Vec<String>,
}

impl Selector {
    /// Whether it names and filters nothing.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty() && self.recipient.is_empty() && self.state.is_empty()
    }

    /// Picks from `mails`.
    pub fn select(&self, mails: Vec<Listed>) -> Selected {
        let unknown = |name: &&String| !mails.iter().any(|mail| mail.is_called(name));
        let missing = self.names.iter().filter(unknown).cloned().collect();
        let (mails, others) = mails.into_iter().partition(|mail| self.takes(mail));
        Selected { mails, others, missing }
    }

    fn takes(&self, mail: &Listed) -> bool {
        let options = MatchOptions { case_sensitive: false, ..MatchOptions::new() };
        let goes_to = |pattern: &Pattern| {
            mail.recipients().iter().any(|address| pattern.matches_with(address, options))
        };
        (self.names.is_empty() || self.names.iter().any(|name| mail.is_called(name)))
            && (self.recipient.is_empty() || self.recipient.iter().any(goes_to))
            && (self.state.is_empty() || self.state.contains(&mail.state_name()))
    }
}

/// Whether `name` is a mail's id or ticket.
pub fn is_called(id: &MailId, ticket: Option<Ticket>, name: &str) -> bool {
    id.as_str() == name || ticket.is_some_and(|ticket| ticket.as_str() == name)
}

/// What is said of names that no mail has. `None` if all were found.
pub fn not_found(missing: &[String]) -> Option<anyhow::Error> {
    (!missing.is_empty()).then(|| {
        anyhow!(
            "no mail in the outbox has the ticket or id {}; `list` shows those that are there, and \
             `show` finds one that was sent",
            in_a_row(missing)
        )
    })
}

/// Names, as they may be printed.
pub fn in_a_row(names: &[String]) -> String {
    names.iter().map(|name| one_line(name)).collect::<Vec<_>>().join(", ")
}

/// Fails, once all else is done, if something is to be said of it.
pub fn fail_with(said: impl IntoIterator<Item = anyhow::Error>) -> Result<(), Failure> {
    let said: Vec<String> = said.into_iter().map(|error| error.to_string()).collect();
    if said.is_empty() { Ok(()) } else { Err(Failure::Failed(anyhow!("{}", said.join("; ")))) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command, Task};

    fn parse(arguments: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from([&["outbox-deliverer"], arguments].concat())
    }

    #[test]
    fn a_command_that_changes_mails_asks_for_which() {
        for command in ["hold", "release", "retry", "show"] {
            let text = parse(&[command]).unwrap_err().to_string();
            assert!(text.contains("MAIL") && text.contains("--all"), "{command}: {text}");
            assert!(parse(&[command, "--all"]).is_ok(), "{command}");
            assert!(parse(&[command, "--state", "failed"]).is_ok(), "{command}");
            assert!(parse(&[command, "20261125-10000042", "--all"]).is_err(), "{command}");
        }
        assert!(parse(&["list"]).is_ok() && parse(&["verify"]).is_ok());
    }

    #[test]
    fn withdraw_asks_for_one_decision() {
        assert!(parse(&["withdraw", "--all"]).is_err());
        assert!(parse(&["withdraw", "--regenerate"]).is_err());
        assert!(parse(&["withdraw", "--all", "--regenerate", "--suppress"]).is_err());
        assert!(parse(&["withdraw", "--all", "--suppress"]).is_ok());
    }

    #[test]
    fn the_recipient_is_matched_whole_and_in_any_case() {
        let Command::Task(Task::List { selector, .. }) =
            parse(&["list", "--recipient", "*@AS6449?.example"]).unwrap().command
        else {
            unreachable!("it was told to list");
        };
        let options = MatchOptions { case_sensitive: false, ..MatchOptions::new() };
        let matches = |address| selector.recipient[0].matches_with(address, options);
        assert!(matches("abuse@as64496.example") && matches("Noc@AS64497.EXAMPLE"));
        assert!(!matches("abuse@as64496.example.org") && !matches("abuse@as6450.example"));
    }
}
