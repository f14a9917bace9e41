//! What both programs are around their commands: common arguments, the log, words and an exit code
//! at the end, and standard output.

use std::fmt::Write as _;
use std::io::{ErrorKind, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, anyhow};
use serde::Serialize;
use tracing::{Level, error};

use crate::text::{is_hidden, one_line};
use crate::{Config, Failure, logging};

/// The arguments that every command takes.
#[derive(Clone, Debug, clap::Args)]
pub struct CommonArgs {
    /// Configuration file, instead of /etc/intelmq/intelmq-mailgen.conf. The user's
    /// ~/.intelmq/intelmq-mailgen.conf is read besides, section by section over it.
    #[arg(short, long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,

    /// Log more: -v what happens to each mail, -vv each step.
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub verbose: u8,

    /// How log lines on standard error look.
    #[arg(long, value_name = "text|json|journald", default_value = "text", global = true)]
    pub log_format: logging::Format,
}

/// Reads the configuration, starts the log, does `command`, and tells how it ended.
pub fn run(args: &CommonArgs, command: impl FnOnce(&Config) -> Result<(), Failure>) -> ExitCode {
    let config = Config::load(args.config.as_deref());
    let level = config.as_ref().map_or(Level::INFO, |config| config.logging_level);
    logging::start(args.log_format, args.verbose, level);
    match config.map_err(Failure::from).and_then(|config| command(&config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            error!("{failure}");
            failure.exit_code()
        }
    }
}

/// Writes to standard output, at once. A reader that went away (`| head`) is no error.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output").map_err(Failure::Failed)
        }
        _ => Ok(()),
    }
}

/// Plain data as JSON that a person can read too, with a line end.
///
/// JSON itself asks for no escape of DEL, of the controls behind it, which some terminals obey, and of
/// what turns the direction of text. Such characters stand in strings alone.
pub fn to_json(data: &impl Serialize) -> String {
    let json = serde_json::to_string_pretty(data).expect("plain data has a JSON form") + "\n";
    let mut shown = String::with_capacity(json.len());
    for c in json.chars() {
        if is_hidden(c) && c != '\n' {
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(shown, "\\u{unit:04x}").expect("a string takes everything");
            }
        } else {
            shown.push(c);
        }
    }
    shown
}

/// [Prints](print()) plain data as JSON.
pub fn print_json(data: &impl Serialize) -> Result<(), Failure> {
    print(&to_json(data))
}

/// How wide the terminal is; no limit where there is none.
pub fn width() -> Option<usize> {
    let stdout = std::io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    Some(rustix::termios::tcgetwinsize(stdout).map_or(80, |size| usize::from(size.ws_col).max(40)))
}

/// One thing that `check` looks at: its name, and a function that says how it is.
pub type Check<'a> = (&'static str, Box<dyn Fn(&Config) -> anyhow::Result<String> + 'a>);

/// What `check` finds. Each is printed at once: a line that begins with `ok`, `note` or `WRONG`, and
/// the name of what was looked at.
#[derive(Debug, Default)]
pub struct Findings {
    wrong: Vec<&'static str>,
}

impl Findings {
    /// Checks one thing after the other.
    pub fn look_at(&mut self, config: &Config, checks: &[Check<'_>]) -> Result<(), Failure> {
        for (name, check) in checks {
            match check(config) {
                Ok(text) => self.ok(name, &text)?,
                Err(error) => self.wrong(name, &format!("{error:#}"))?,
            }
        }
        Ok(())
    }

    /// It is well.
    pub fn ok(&self, name: &str, text: &str) -> Result<(), Failure> {
        tell("ok   ", name, text)
    }

    /// It may be well: a person should know.
    pub fn note(&self, name: &str, text: &str) -> Result<(), Failure> {
        tell("note ", name, text)
    }

    /// It is not well.
    pub fn wrong(&mut self, name: &'static str, text: &str) -> Result<(), Failure> {
        self.wrong.push(name);
        tell("WRONG", name, text)
    }

    /// Fails if something was wrong.
    pub fn end(mut self) -> Result<(), Failure> {
        if self.wrong.is_empty() {
            return Ok(());
        }
        // There can be much wrong with one thing, and several relays have one name.
        self.wrong.dedup();
        Err(Failure::Failed(anyhow!("not well: {}", self.wrong.join(", "))))
    }
}

fn tell(how: &str, name: &str, text: &str) -> Result<(), Failure> {
    print(&format!("{}\n", one_line(&format!("{how} {name}: {text}"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_says_what_it_is_made_of_and_can_not_act_on_a_terminal() {
        let text = "x\u{1b}[2J\u{9b}2J\u{7f}\u{202e}\u{feff}\n\t\"ä\u{1f600}";
        let json = to_json(&[text]);
        let expected =
            "[\n  \"x\\u001b[2J\\u009b2J\\u007f\\u202e\\ufeff\\n\\t\\\"ä\u{1f600}\"\n]\n";
        assert_eq!(json, expected);
        assert_eq!(serde_json::from_str::<Vec<String>>(&json).unwrap(), [text]);
    }
}
