//! Runs the two programs under strace, one after the other or together, and makes a [`Trace`] of what
//! it writes.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::calls::{self, Call, annotation, quoted};
use super::{Event, NEVER, Process, Relay, Trace, Transaction, What, conversation, statements};
use crate::programs::{Finished, Running};
use crate::site::{Program, Site};

/// The calls that are recorded.
const CALLS: &str = "trace=openat,open,creat,read,readv,pread64,write,writev,pwrite64,fsync,fdatasync,\
    sync_file_range,rename,renameat,renameat2,link,linkat,symlink,unlink,unlinkat,ftruncate,truncate,\
    mkdir,rmdir,close,dup,dup2,dup3,fcntl,flock,getdents64,connect,sendto,sendmsg,sendmmsg,recvfrom,recvmsg,\
    execve,clone,clone3,fork,vfork,exit_group";

/// Records runs on a site.
#[derive(Debug)]
pub struct Recorder<'s> {
    site: &'s Site,
    relay: u16,
    trace: Trace,
    begin: u64,
    parts: usize,
}

impl<'s> Recorder<'s> {
    /// A recorder for a site whose relay is on this port.
    pub fn new(site: &'s Site, relay: u16) -> Self {
        Self { site, relay, trace: Trace::default(), begin: 0, parts: 0 }
    }

    /// Runs a program to its end.
    #[track_caller]
    pub fn run(&mut self, program: Program, arguments: &[&str]) -> Finished {
        self.run_with(program, arguments, &[])
    }

    /// Runs a program that is killed right before a thread of it makes this call for the `number`th
    /// time.
    #[track_caller]
    pub fn killed_before(
        &mut self,
        program: Program,
        arguments: &[&str],
        call: &str,
        number: usize,
    ) -> Finished {
        let inject = format!("inject={call}:signal=KILL:when={number}");
        self.run_with(program, arguments, &["-e", &inject])
    }

    #[track_caller]
    fn run_with(&mut self, program: Program, arguments: &[&str], more: &[&str]) -> Finished {
        let file = self.file();
        let output = file.to_str().expect("the folder has a plain name");
        let options = [&["-f", "-yy", "-xx", "-s", "99999999", "-o", output, "-e", CALLS], more];
        let run = self.site.start_under_strace(program, arguments, &options.concat()).finish();
        self.add(&file);
        run
    }

    /// Runs a shell script in which `$GENERATOR` and `$DELIVERER` are the two programs with the site's
    /// configuration.
    #[track_caller]
    pub fn together(&mut self, script: &str) -> Finished {
        let file = self.file();
        let folder = self.site.folder();
        let mut command = Command::new("strace");
        command.args(["-qq", "-f", "-yy", "-xx", "-s", "99999999", "-o"]).arg(&file);
        command.args(["-e", CALLS, "sh", "-c", script]).current_dir("/");
        for (name, text) in [
            ("GENERATOR", self.site.generator_script()),
            ("DELIVERER", self.site.deliverer_script()),
        ] {
            let path = folder.join(name);
            fs::write(&path, text).expect("failed to write a script");
            command.env(name, format!("sh {}", path.display()));
        }
        let run = Running::start(&mut command).finish();
        self.add(&file);
        run
    }

    fn file(&mut self) -> PathBuf {
        self.parts += 1;
        self.site.folder().join(format!("trace-{}", self.parts))
    }

    #[track_caller]
    fn add(&mut self, file: &Path) {
        let text = fs::read_to_string(file).expect("strace has written");
        let _ = fs::remove_file(file);
        let mut reader = Reader {
            outbox: self.site.outbox().to_str().expect("a plain path").to_owned(),
            relay: self.relay,
            begin: self.begin,
            trace: &mut self.trace,
            processes: HashMap::new(),
            locks: HashMap::new(),
            sessions: HashMap::new(),
            attempts: 0,
        };
        reader.read(&text).unwrap_or_else(|error| panic!("cannot read a trace: {error:#}"));
        self.begin += 1000 * (text.lines().count() as u64 + 1);
    }

    /// What was recorded.
    pub fn trace(mut self) -> Trace {
        self.trace.sort();
        self.trace
    }
}

/// Makes events of one recording.
struct Reader<'t> {
    outbox: String,
    relay: u16,
    begin: u64,
    trace: &'t mut Trace,
    /// Which of [`Trace::processes`] a thread belongs to.
    processes: HashMap<u32, usize>,
    /// By process and file descriptor, the path that is locked.
    locks: HashMap<(usize, u32), String>,
    sessions: HashMap<(usize, u32), Session>,
    attempts: usize,
}

enum Session {
    Database(Box<statements::Session>, Option<Transaction>, Open),
    Relay(conversation::Session, usize),
}

/// What was learned within a transaction.
#[derive(Default)]
struct Open {
    day: String,
}

impl Reader<'_> {
    fn read(&mut self, text: &str) -> Result<()> {
        let calls = calls::read(text)?;
        let first = self.trace.processes.len();
        self.find_processes(&calls)?;
        self.attempts = self
            .trace
            .events
            .iter()
            .filter(|event| matches!(event.what, What::Relay(_, Relay::Began)))
            .count();
        for call in &calls {
            let Some(&process) = self.processes.get(&call.thread) else { continue };
            self.take(call, process).with_context(|| {
                format!("line {}, {}: {:.200}", call.from + 1, call.name, call.arguments.join(", "))
            })?;
        }
        // A commit that was said, and whose answer nobody waited for.
        let open: Vec<_> = self
            .sessions
            .iter()
            .filter_map(|((process, _), session)| match session {
                Session::Database(session, Some(transaction), _) => {
                    let mut unanswered = session.unanswered();
                    let commit = unanswered.find(|statement| statement.text == "COMMIT")?;
                    Some((*process, commit.from, transaction.clone()))
                }
                _ => None,
            })
            .collect();
        for (process, from, transaction) in open {
            self.trace.events.push(Event {
                from,
                to: NEVER,
                process,
                what: What::Committed(transaction),
            });
        }
        let end = self.begin + 1000 * text.lines().count() as u64;
        for process in first..self.trace.processes.len() {
            let of_it = |event: &&Event| event.process == process;
            let ended = |event: &Event| event.what == What::Ended;
            if !self.trace.events.iter().filter(of_it).any(ended) {
                self.trace.events.push(Event { from: end, to: end, process, what: What::Killed });
            }
        }
        Ok(())
    }

    /// Which thread belongs to which of the two programs: a thread begins before the call ends that made
    /// it.
    fn find_processes(&mut self, calls: &[Call]) -> Result<()> {
        let mut made = HashMap::new();
        for call in calls {
            let thread = call.name.starts_with("clone")
                && call.arguments.iter().any(|argument| argument.contains("CLONE_THREAD"));
            if thread && call.result > 0 {
                made.insert(u32::try_from(call.result)?, call.thread);
            }
            if call.name != "execve" || call.result != 0 {
                continue;
            }
            let arguments: Vec<String> = call.arguments[1]
                .trim_matches(['[', ']'])
                .split(", ")
                .filter_map(quoted)
                .map(|octets| String::from_utf8_lossy(&octets).into_owned())
                .collect();
            let name = arguments.first().map(String::as_str).unwrap_or_default();
            let program = match name.rsplit('/').next().unwrap_or_default() {
                name if name.starts_with("outbox-generator") => Program::Generator,
                name if name.starts_with("outbox-deliverer") => Program::Deliverer,
                _ => continue,
            };
            let arguments = arguments[3..].to_vec();
            self.processes.insert(call.thread, self.trace.processes.len());
            self.trace.processes.push(Process { program, arguments });
        }
        let mut more = true;
        while std::mem::take(&mut more) {
            for (child, parent) in &made {
                if let Some(&process) = self.processes.get(parent) {
                    more |= self.processes.insert(*child, process).is_none();
                }
            }
        }
        Ok(())
    }

    /// A path within the outbox.
    fn inside(&self, path: &str) -> Option<String> {
        let rest = path.strip_prefix(&self.outbox)?;
        if rest.is_empty() {
            Some(String::new())
        } else {
            rest.strip_prefix('/').map(str::to_owned)
        }
    }

    fn at(&self, line: usize) -> u64 {
        self.begin + 1000 * line as u64
    }

    fn note(&mut self, call: &Call, process: usize, what: What) {
        let (from, to) = (self.at(call.from), self.at(call.to));
        self.trace.events.push(Event { from, to, process, what });
    }

    fn take(&mut self, call: &Call, process: usize) -> Result<()> {
        match call.name.as_str() {
            "execve" => self.note(call, process, What::Started),
            "exit_group" => self.note(call, process, What::Ended),
            _ if call.result < 0 && call.name != "connect" => {}
            "openat" | "open" | "creat" => self.opened(call, process)?,
            "rename" => {
                let (from, to) = (call.text(0).context("from")?, call.text(1).context("to")?);
                if let (Some(from), Some(to)) = (self.inside(&from), self.inside(&to)) {
                    self.note(call, process, What::Renamed(from, to));
                }
            }
            "unlink" => {
                let path = call.text(0).context("which?")?;
                if let Some(path) = self.inside(&path) {
                    self.note(call, process, What::Removed(path));
                }
            }
            "renameat" | "renameat2" | "link" | "linkat" | "symlink" | "unlinkat" | "truncate"
            | "mkdir" | "rmdir" => {
                let here = call.arguments.iter().filter_map(|argument| quoted(argument));
                let mut here = here.map(|octets| String::from_utf8_lossy(&octets).into_owned());
                ensure!(!here.any(|path| self.inside(&path).is_some()), "not known to this reader");
            }
            "connect" => self.connected(call, process),
            "close" => {
                let descriptor = call.descriptor(0).context("closed what?")?;
                self.sessions.remove(&(process, descriptor));
                if let Some(path) = self.locks.remove(&(process, descriptor)) {
                    self.note(call, process, What::Unlocked(path));
                }
            }
            "dup" | "dup2" | "dup3" | "fcntl" => {
                // A second descriptor would have to be followed too.
                let key = (process, call.descriptor(0).context("of what?")?);
                let followed = self.sessions.contains_key(&key) || self.locks.contains_key(&key);
                let twice = call.name != "fcntl" || call.arguments[1].starts_with("F_DUPFD");
                ensure!(!(followed && twice), "not known to this reader");
            }
            _ => {
                let Some(descriptor) = call.descriptor(0) else { return Ok(()) };
                if self.sessions.contains_key(&(process, descriptor)) {
                    self.spoke(call, process, descriptor)?;
                } else if let Some(path) = call.path_of(0).and_then(|path| self.inside(&path)) {
                    self.at_file(call, process, descriptor, path)?;
                }
            }
        }
        Ok(())
    }

    fn opened(&mut self, call: &Call, process: usize) -> Result<()> {
        let Some(path) = annotation(&call.gave).and_then(|path| self.inside(&path)) else {
            return Ok(());
        };
        let flags = call.arguments.iter().find(|argument| argument.starts_with("O_"));
        let flags = flags.context("how?")?;
        ensure!(
            !flags.contains("O_TRUNC") && !flags.contains("O_APPEND"),
            "how it writes: {flags}"
        );
        if flags.contains("O_CREAT") {
            ensure!(flags.contains("O_EXCL"), "it may have been there: {flags}");
            self.note(call, process, What::Created(path));
        } else {
            self.note(call, process, What::Opened(path));
        }
        Ok(())
    }

    fn at_file(
        &mut self,
        call: &Call,
        process: usize,
        descriptor: u32,
        path: String,
    ) -> Result<()> {
        match call.name.as_str() {
            "write" => {
                let mut octets = call.octets(1).context("what?")?;
                octets.truncate(usize::try_from(call.result)?);
                self.note(call, process, What::Wrote(path, octets));
            }
            "fsync" => self.note(call, process, What::Synced(path)),
            "getdents64" if call.result == 0 => self.note(call, process, What::Listed(path)),
            "flock" => {
                let how = call.arguments.get(1).map(String::as_str).unwrap_or_default();
                if how.contains("LOCK_EX") {
                    self.locks.insert((process, descriptor), path.clone());
                    self.note(call, process, What::Locked(path));
                } else if how.contains("LOCK_UN")
                    && self.locks.remove(&(process, descriptor)).is_some()
                {
                    self.note(call, process, What::Unlocked(path));
                }
            }
            "read" | "getdents64" => {}
            other => ensure!(false, "{other} is not known to this reader"),
        }
        Ok(())
    }

    fn connected(&mut self, call: &Call, process: usize) {
        let Some(descriptor) = call.descriptor(0) else { return };
        let whom = call.arguments.get(1).map(String::as_str).unwrap_or_default();
        let session = if whom.contains("AF_UNIX") {
            let path = quoted(whom).unwrap_or_default();
            if !String::from_utf8_lossy(&path).contains(".s.PGSQL.") {
                return;
            }
            Session::Database(Box::default(), None, Open::default())
        } else if whom.contains(&format!("htons({})", self.relay)) {
            Session::Relay(conversation::Session::default(), 0)
        } else {
            return;
        };
        self.sessions.entry((process, descriptor)).or_insert(session);
    }

    fn spoke(&mut self, call: &Call, process: usize, descriptor: u32) -> Result<()> {
        let said = match call.name.as_str() {
            "sendto" | "write" => true,
            "recvfrom" | "read" => false,
            other => anyhow::bail!("{other} is not known to this reader"),
        };
        if call.result == 0 || call.arguments.iter().any(|argument| argument.contains("MSG_PEEK")) {
            return Ok(());
        }
        let mut octets = call.octets(1).context("what?")?;
        octets.truncate(usize::try_from(call.result)?);
        let (from, to) = (self.at(call.from), self.at(call.to));
        let mut events = Vec::new();
        let session = self.sessions.get_mut(&(process, descriptor)).expect("it was there");
        match session {
            Session::Database(session, transaction, open) => {
                if said {
                    for statement in session.send(&octets, from)? {
                        events.extend(asked(&statement)?.map(|what| (from, what)));
                    }
                } else {
                    for (statement, tag) in session.receive(&octets)? {
                        if tag == "COMMIT"
                            && let Some(done) = transaction.take()
                        {
                            events.push((statement.from, What::Committed(done)));
                        } else {
                            answered(&statement, &tag, transaction, open)?;
                        }
                    }
                }
            }
            Session::Relay(session, attempt) => {
                let steps = if said { session.send(&octets)? } else { session.receive(&octets)? };
                for step in steps {
                    let step = match step {
                        conversation::Step::Mail => {
                            self.attempts += 1;
                            *attempt = self.attempts;
                            Relay::Began
                        }
                        conversation::Step::Rcpt(_) => continue,
                        conversation::Step::RcptAnswered(address, code) => {
                            Relay::Recipient(address, code)
                        }
                        conversation::Step::Data => Relay::Data,
                        conversation::Step::FinalDot(octets) => Relay::HandedOver(octets),
                        conversation::Step::Answered(code) => Relay::Answered(code),
                    };
                    events.push((from, What::Relay(*attempt, step)));
                }
            }
        }
        for (from, what) in events {
            self.trace.events.push(Event { from, to, process, what });
        }
        Ok(())
    }
}

/// What a statement says that was just asked.
fn asked(statement: &statements::Statement) -> Result<Option<What>> {
    let text = statement.text.as_str();
    if text.starts_with("WITH pending AS MATERIALIZED") {
        return Ok(Some(What::AskedForPending));
    }
    if text.starts_with("INSERT INTO sent") || text.starts_with("UPDATE directives") {
        return Ok(Some(What::Marking(texts(statement, 0)?)));
    }
    Ok(None)
}

/// What a statement did that was just answered.
fn answered(
    statement: &statements::Statement,
    tag: &str,
    transaction: &mut Option<Transaction>,
    open: &mut Open,
) -> Result<()> {
    if matches!(tag, "BEGIN" | "START TRANSACTION") {
        *transaction = Some(Transaction::default());
        return Ok(());
    }
    let Some(transaction_open) = transaction else { return Ok(()) };
    if tag == "ROLLBACK" {
        *transaction = None;
        return Ok(());
    }
    if tag.is_empty() {
        return Ok(());
    }
    let text = statement.text.as_str();
    let first = |row: &Vec<Option<Vec<u8>>>| row[0].clone().context("a value is missing");
    if text.starts_with("SELECT to_char(") && text.contains("clock_timestamp()") {
        open.day = String::from_utf8(first(&statement.rows[0])?)?;
    } else if text.starts_with("SELECT nextval('intelmq_ticket_seq')") {
        ensure!(!open.day.is_empty(), "the question for the day is not known to this reader");
        for row in &statement.rows {
            let number = statements::number64(&first(row)?)?;
            transaction_open.drawn.push(format!("{}-{number:08}", open.day));
        }
    } else if text.starts_with("INSERT INTO sent") {
        let times = statements::array(statement.parameters[1].as_deref().context("no times")?)?;
        let times = times.iter().map(|time| time.as_deref().map(statements::number64).transpose());
        let times = times.collect::<Result<Vec<_>>>()?;
        transaction_open.sent.extend(texts(statement, 0)?.into_iter().zip(times));
    } else if text.starts_with("UPDATE directives") {
        let ids = statements::array(statement.parameters[1].as_deref().context("no directives")?)?;
        let ids = ids.iter().map(|id| statements::number64(id.as_deref().context("NULL")?));
        let ids = ids.collect::<Result<Vec<_>>>()?;
        transaction_open.marked.extend(texts(statement, 0)?.into_iter().zip(ids));
    }
    Ok(())
}

fn texts(statement: &statements::Statement, parameter: usize) -> Result<Vec<String>> {
    let array = statement.parameters[parameter].as_deref().context("NULL in place of an array")?;
    let texts = statements::array(array)?;
    texts.into_iter().map(|text| Ok(String::from_utf8(text.context("NULL")?)?)).collect()
}
