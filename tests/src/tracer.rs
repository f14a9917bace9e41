//! Programs run by `outbox-tracer`: with one of their system calls meddled with, and all written down.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::process::Command;

use serde::Deserialize;

use crate::programs::Finished;
use crate::site::{Program, Site};

/// A call as it was seen.
#[derive(Clone, Debug, Deserialize)]
pub struct Call {
    /// Which of those with which the same could have been done.
    pub number: Option<usize>,
    /// Its name, such as `rename`.
    pub call: String,
    /// A path below the outbox, or whom a socket speaks with.
    pub about: String,
    /// The new path.
    pub to: Option<String>,
    /// The first of what was written or read.
    pub data: String,
    /// What it gave. Without a result it was not made, or not to its end.
    pub result: Option<i64>,
}

/// A program that ended, and its calls in the order in which they ended.
#[derive(Debug)]
pub struct Traced {
    /// How it ended.
    pub run: Finished,
    /// What it called.
    pub calls: Vec<Call>,
}

impl Traced {
    /// Runs a program of a site. `only` is with what those calls begin that have a number, if not all
    /// of them, such as `rename /new/`. `meddle` is what is done with the call that has the number `at`; the
    /// tracer, at the path `tracer`, tells in its help what that can be.
    pub fn run(
        tracer: &str,
        site: &Site,
        program: Program,
        arguments: &[&str],
        only: &str,
        meddle: &str,
        at: usize,
    ) -> Self {
        let log = site.folder().join("calls");
        let mut command = Command::new(tracer);
        command
            .arg("--log")
            .arg(&log)
            .arg("--begin")
            .arg(site.config_of(program))
            .arg("--below")
            .arg(site.outbox())
            .args(["--only", only, "--meddle", meddle, "--at", &at.to_string(), "--"]);
        // Should it never end, what it did is in the message.
        let running = site.start_under(command, program, arguments);
        let finish = AssertUnwindSafe(|| running.finish());
        let run = catch_unwind(finish).unwrap_or_else(|panic| {
            let seen: Vec<String> = calls(&log).iter().map(ToString::to_string).collect();
            eprintln!("{}", seen.join("\n"));
            resume_unwind(panic)
        });
        Self { run, calls: calls(&log) }
    }

    /// How many calls there were with which that could have been done.
    pub fn count(&self) -> usize {
        self.calls.iter().filter_map(|call| call.number).max().unwrap_or(0)
    }

    /// The call with this number.
    pub fn call(&self, number: usize) -> Option<&Call> {
        self.calls.iter().find(|call| call.number == Some(number))
    }
}

fn calls(log: &Path) -> Vec<Call> {
    let text = fs::read_to_string(log).expect("the tracer wrote what it saw");
    text.lines().map(|line| serde_json::from_str(line).expect("the tracer writes JSON")).collect()
}

impl std::fmt::Display for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { number, call, about, to, data, result } = self;
        let number = number.map(|number| number.to_string()).unwrap_or_default();
        write!(f, "{number:>5} {call} {about}")?;
        if let Some(to) = to {
            write!(f, " -> {to}")?;
        }
        if !data.is_empty() {
            write!(f, " {:?}", data.chars().take(60).collect::<String>())?;
        }
        match result {
            Some(result) => write!(f, " = {result}"),
            None => write!(f, " not made"),
        }
    }
}
