//! Scripts that say what becomes of a group where format definitions can't: started once a run,
//! asked in lines of JSON, and given up on if they fail too often.
//!
//! `process` speaks with a process, `protocol` has what is said, `answer` makes a plan of it, and
//! `host` gives scripts what they ask for. Python scripts of Mailgen share one process, the runner,
//! whose program is `generator/python/`.

mod answer;
mod host;
#[cfg(any(test, fuzzing))]
pub(crate) mod oracles;
mod process;
mod protocol;
mod runner;

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::process::Command;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use outbox::Ticket;
use outbox_config::text::fit;
use outbox_config::{Config, OnException, ScriptSettings};
use tracing::{debug, error, info, warn};

pub use host::{DatabaseHost, Host};

use crate::formats::{
    Answer, Ask, AskError, Definitions, LoadError, Problem, ScriptFile, ScriptKind, Texts,
};
use crate::group::Group;
use answer::Question;
use process::{Process, Trouble};
use protocol::{About, Message, Reply, Request};

/// How much time of a run a script's failures may cost, in time limits of a group, until it is not
/// started any more. One that fails fast can so fail for many groups and still answer for the rest.
const PATIENCE: u32 = 5;
/// How many messages a script may send about one group.
const MAX_MESSAGES: usize = 100_000;
/// How often a script may ask for the events of one group.
const MAX_LOADS: usize = 100;
/// How much of a text for the log is kept, in characters.
const MAX_LOG: usize = 4_000;

/// The scripts of a run, those that were reached running.
pub struct Scripts {
    settings: ScriptSettings,
    python: Vec<ScriptFile>,
    runner: Option<Process>,
    executables: HashMap<String, Process>,
    lost: HashMap<String, Lost>,
}

/// The time that a script's failures cost in this run.
struct Lost {
    time: Duration,
    last: String,
}

/// Why there is no answer.
enum Failed {
    /// The process is of no more use.
    Process(String),
    /// The process ended well, as one does that is for a single group.
    Done(String),
    /// The script refuses the group, or its answer makes no sense.
    Answer(String),
    /// What it asked for can't be had.
    Host(anyhow::Error),
}

impl From<Trouble> for Failed {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Ended(Some(status)) if status.success() => Self::Done(trouble.to_string()),
            _ => Self::Process(trouble.to_string()),
        }
    }
}

impl Scripts {
    /// Starts the runner if there are Python scripts, and has it load them all. Fails with all that
    /// can't be loaded. Other scripts are started when a group reaches them.
    pub fn load(definitions: &Definitions, config: &Config) -> Result<Self, LoadError> {
        let python = definitions.scripts().filter(|script| script.kind == ScriptKind::Python);
        let mut scripts = Self {
            settings: config.scripts.clone(),
            python: python.cloned().collect(),
            runner: None,
            executables: HashMap::new(),
            lost: HashMap::new(),
        };
        if !scripts.python.is_empty() {
            scripts.runner = Some(scripts.start_runner().map_err(LoadError::Definitions)?);
        }
        Ok(scripts)
    }

    /// Gives the scripts what they need to be asked about one group.
    pub fn with<'a>(&'a mut self, host: &'a mut dyn Host) -> Asking<'a> {
        Asking { scripts: self, host, told: false, tickets: Vec::new() }
    }

    /// Starts the runner, and has it load its scripts.
    fn start_runner(&self) -> Result<Process, Vec<Problem>> {
        let problem = |script: &ScriptFile, message: String| Problem {
            file: script.path.clone(),
            position: None,
            message,
        };
        let first = self.python.first().expect("who starts the runner has a script for it");
        let mut runner = runner::start(&self.settings)
            .map_err(|error| vec![problem(first, format!("cannot run Python: {error}"))])?;
        let mut problems = Vec::new();
        for script in &self.python {
            match load(&mut runner, script) {
                Ok(()) => {}
                Err(Failed::Answer(words)) => problems.push(problem(script, words)),
                Err(Failed::Process(words) | Failed::Done(words)) => {
                    runner.kill();
                    problems.push(problem(script, words));
                    break;
                }
                Err(Failed::Host(_)) => unreachable!("there is no host while scripts are loaded"),
            }
        }
        if problems.is_empty() { Ok(runner) } else { Err(problems) }
    }

    /// The process that a script runs in, started if there is none, and whether it was.
    fn process(&mut self, script: &ScriptFile) -> Result<(&mut Process, bool), Failed> {
        match script.kind {
            ScriptKind::Python => {
                let started = self.runner.is_none();
                if started {
                    let runner = self.start_runner().map_err(|problems| {
                        Failed::Process(LoadError::Definitions(problems).to_string())
                    })?;
                    self.runner = Some(runner);
                }
                Ok((self.runner.as_mut().expect("it was started"), started))
            }
            ScriptKind::Executable => {
                let started = !self.executables.contains_key(&script.name);
                if started {
                    let mut command = Command::new(&script.path);
                    let process = Process::start(&mut command, self.settings.timeout)
                        .map_err(|error| Failed::Process(format!("cannot start it: {error}")))?;
                    self.executables.insert(script.name.clone(), process);
                }
                Ok((self.executables.get_mut(&script.name).expect("it was started"), started))
            }
        }
    }

    /// Ends the process of a script that failed.
    fn end(&mut self, script: &ScriptFile) {
        let process = match script.kind {
            ScriptKind::Python => self.runner.take(),
            ScriptKind::Executable => self.executables.remove(&script.name),
        };
        if let Some(mut process) = process {
            process.kill();
        }
    }
}

impl Drop for Scripts {
    /// All of them are told before the first is waited for.
    fn drop(&mut self) {
        for process in self.executables.values_mut().chain(&mut self.runner) {
            process.close();
        }
    }
}

fn load(runner: &mut Process, script: &ScriptFile) -> Result<(), Failed> {
    let path = script.path.to_str();
    let path = path.ok_or_else(|| Failed::Answer("its path is not UTF-8".to_owned()))?;
    runner.ask(&runner::load(path), &mut noise(&script.name))?;
    match converse(runner, script, &mut |_| {
        Ok(Reply::Error { error: "there is no group while scripts are loaded".to_owned() })
    })? {
        None => Ok(()),
        Some(Message::Error(words)) => Err(Failed::Answer(words)),
        Some(_) => Err(Failed::Process("it answers before it is asked".to_owned())),
    }
}

/// Scripts that are asked about one group, and what is known of it.
pub struct Asking<'a> {
    scripts: &'a mut Scripts,
    host: &'a mut dyn Host,
    /// Whether the runner knows the group.
    told: bool,
    /// The tickets that scripts drew for it.
    tickets: Vec<Ticket>,
}

impl Ask for Asking<'_> {
    fn ask(
        &mut self,
        script: &ScriptFile,
        group: &Group,
        now: Timestamp,
        given: &Texts,
    ) -> Result<Answer, AskError> {
        let most = self.scripts.settings.timeout * PATIENCE;
        if let Some(Lost { last, .. }) =
            self.scripts.lost.get(&script.name).filter(|lost| lost.time >= most)
        {
            return Err(AskError::Script(format!(
                "its failures took {PATIENCE} times as long as scripts.timeout, so that it is not \
                 started any more in this run; the last was: {last}"
            )));
        }
        let begin = Instant::now();
        let used = self.scripts.executables.contains_key(&script.name);
        let mut result = self.try_asking(script, group, now, given);
        if used && matches!(result, Err(Failed::Done(_))) {
            // It was about to end when it was asked.
            self.scripts.end(script);
            result = self.try_asking(script, group, now, given);
        }
        match result {
            Ok(answer) => Ok(answer),
            Err(Failed::Answer(words)) => Err(AskError::Script(fit(&words, MAX_LOG))),
            Err(Failed::Process(words) | Failed::Done(words)) => {
                let words = fit(&words, MAX_LOG);
                self.scripts.end(script);
                let lost = self.scripts.lost.entry(script.name.clone());
                let lost = lost.or_insert(Lost { time: Duration::ZERO, last: String::new() });
                lost.time += begin.elapsed();
                lost.last.clone_from(&words);
                Err(AskError::Script(words))
            }
            Err(Failed::Host(error)) => Err(AskError::Unavailable(error)),
        }
    }
}

impl Asking<'_> {
    fn try_asking(
        &mut self,
        script: &ScriptFile,
        group: &Group,
        now: Timestamp,
        given: &Texts,
    ) -> Result<Answer, Failed> {
        let in_runner = script.kind == ScriptKind::Python;
        let (process, started) = self.scripts.process(script)?;
        if in_runner && started {
            self.told = false;
        }
        let about = (!in_runner || !self.told).then(|| About::new(group, now));
        let request = Request {
            script: if in_runner { script.path.to_str() } else { None },
            about,
            substitutions: given.iter().map(|(name, text)| (&**name, &*text.text)).collect(),
        };
        process.ask(&json(&request), &mut noise(&script.name))?;
        self.told |= in_runner;
        let (host, tickets) = (&mut *self.host, &mut self.tickets);
        let message = converse(process, script, &mut |asked| match asked {
            Asked::Events(columns) => {
                if let Some(name) = columns.as_ref().and_then(|columns| host.lacks(columns)) {
                    let error = format!("the table events lacks the column {name}");
                    return Ok(Reply::Error { error });
                }
                Ok(match host.load_events(group, columns.as_ref())? {
                    Ok(events) => Reply::events(&events),
                    Err(error) => Reply::Error { error },
                })
            }
            Asked::Ticket => {
                let ticket = host.new_ticket()?;
                tickets.push(ticket.clone());
                Ok(Reply::Ticket { ticket: ticket.to_string() })
            }
        })?;
        if process.has_more() {
            return Err(Trouble::Unasked.into());
        }
        let question = Question { script: &script.name, group, given, tickets: &self.tickets };
        match message {
            None => Ok(Answer::Pass(Texts::new())),
            Some(Message::Substitutions(said)) => {
                question.texts(said).map(Answer::Pass).map_err(Failed::Answer)
            }
            Some(Message::Postponed(_)) => Ok(Answer::Postponed),
            Some(Message::Notifications(said)) => {
                question.plans(said).map(Answer::Mails).map_err(Failed::Answer)
            }
            Some(Message::Exception(words))
                if self.scripts.settings.on_exception == OnException::Next =>
            {
                warn!(
                    script = script.name,
                    recipient = group.key.recipient_address,
                    "an exception, the next rule is asked (scripts.on_exception): {words}"
                );
                Ok(Answer::Pass(Texts::new()))
            }
            Some(Message::Error(words) | Message::Exception(words)) => Err(Failed::Answer(words)),
            Some(Message::LoadEvents(_) | Message::NewTicketNumber(_) | Message::Log(_)) => {
                unreachable!("these are no answers")
            }
        }
    }
}

/// What a script asks for.
enum Asked {
    Events(Option<BTreeSet<String>>),
    Ticket,
}

/// Hears a script that was asked to its answer, and gives it what it asks for in between.
fn converse(
    process: &mut Process,
    script: &ScriptFile,
    give: &mut dyn FnMut(Asked) -> anyhow::Result<Reply>,
) -> Result<Option<Message>, Failed> {
    let mut loads = 0;
    for _ in 0..MAX_MESSAGES {
        let line = process.hear(&mut noise(&script.name))?;
        let message = protocol::read(&line).map_err(|error| {
            let said = fit(&String::from_utf8_lossy(&line), 100);
            Failed::Process(format!("what it said is no answer: {error}: {said}"))
        })?;
        let asked = match message {
            Some(Message::LoadEvents(wanted)) => Asked::Events(wanted.columns),
            Some(Message::NewTicketNumber(_)) => Asked::Ticket,
            Some(Message::Log(line)) => {
                log(&script.name, &line);
                continue;
            }
            answer => return Ok(answer),
        };
        let for_events = matches!(asked, Asked::Events(_));
        if for_events {
            process.settle(&mut noise(&script.name))?;
        }
        let begin = Instant::now();
        let reply = give(asked).map_err(Failed::Host)?;
        process.reply(&json(&reply));
        if for_events {
            loads += 1;
            if loads > MAX_LOADS {
                let words = format!("it asked for the events {MAX_LOADS} times, and was killed");
                return Err(Failed::Process(words));
            }
            // The time that the database took is not the script's.
            process.extend(begin.elapsed());
        }
    }
    Err(Failed::Process(format!("it sent {MAX_MESSAGES} messages and no answer, and was killed")))
}

fn json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("it has texts for keys")
}

/// Logs what a script says on standard error.
fn noise(script: &str) -> impl FnMut(&str) + '_ {
    move |line| info!(script, "the script said: {line}")
}

/// Logs what a script has for the log.
fn log(script: &str, line: &protocol::Log) {
    let text = fit(&line.text, MAX_LOG);
    match line.level.to_ascii_uppercase().as_str() {
        "ERROR" | "CRITICAL" => error!(script, "the script reports: {text}"),
        "WARNING" | "WARN" => warn!(script, "the script reports: {text}"),
        "INFO" => info!(script, "the script reports: {text}"),
        _ => debug!(script, "the script reports: {text}"),
    }
}
