//! The program under the tracer: started, stopped at each call, and meddled with.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{LineWriter, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::{Command, exit};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Parser;
use nix::errno::Errno;
use nix::libc::{self, user_regs_struct};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill, raise};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::json;

use crate::calls::{CALLS, Call, Subject, argument};

/// Runs a program and meddles with one of its system calls.
#[derive(Debug, Parser)]
struct Args {
    /// Where the calls are written down, a JSON object a line.
    #[arg(long)]
    log: PathBuf,
    /// The file whose opening is the beginning.
    #[arg(long)]
    begin: PathBuf,
    /// The folder whose files count.
    #[arg(long)]
    below: String,
    /// With what the name of a call and what it is about must begin, such as `rename /new/`.
    #[arg(long, default_value = "")]
    only: String,
    /// What to do: `before` (killed), `after` (killed), `short` (a part is done), or the name of
    /// an error such as `EIO`. Calls to which that cannot happen are not counted.
    #[arg(long)]
    meddle: Meddle,
    /// With which call, the first being 1. With 0 none.
    #[arg(long)]
    at: usize,
    /// The program and its arguments.
    #[arg(last = true, required = true)]
    program: Vec<OsString>,
}

/// What happens to the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meddle {
    Before,
    After,
    Short,
    Fail(Errno, &'static str),
}

impl std::str::FromStr for Meddle {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "before" => Self::Before,
            "after" => Self::After,
            "short" => Self::Short,
            "EIO" => Self::Fail(Errno::EIO, "EIO"),
            "ENOSPC" => Self::Fail(Errno::ENOSPC, "ENOSPC"),
            "EACCES" => Self::Fail(Errno::EACCES, "EACCES"),
            "EMFILE" => Self::Fail(Errno::EMFILE, "EMFILE"),
            "EINTR" => Self::Fail(Errno::EINTR, "EINTR"),
            other => return Err(format!("{other} is nothing that is known here")),
        })
    }
}

/// A call that a thread is in.
struct Entered {
    call: &'static Call,
    registers: user_regs_struct,
    about: String,
    number: Option<usize>,
}

/// Where a thread is.
enum Thread {
    /// In its own code, or in a call that is of no interest.
    Elsewhere { in_call: bool },
    /// In a call that is written down when it ends.
    In(Box<Entered>),
}

pub fn main() -> Result<()> {
    let args = Args::parse();
    let child = Command::new("sh")
        .args(["-c", "kill -STOP $$; exec \"$@\"", "sh"])
        .args(&args.program)
        .spawn()
        .context("cannot start a shell")?;
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    waitpid(pid, Some(WaitPidFlag::WUNTRACED)).context("the shell does not stop")?;
    let options = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_EXITKILL;
    ptrace::seize(pid, options).context("cannot trace")?;
    let log = File::create(&args.log).context("cannot write what was seen")?;
    let tracer = Tracer {
        args,
        pid,
        log: LineWriter::new(log),
        memory: None,
        begun: false,
        counted: 0,
        killed: false,
        sockets: HashMap::new(),
        threads: HashMap::new(),
    };
    match tracer.run()? {
        WaitStatus::Exited(_, code) => exit(code),
        WaitStatus::Signaled(_, signal, _) => {
            raise(signal)?;
            bail!("the program was ended by {signal}")
        }
        other => bail!("the program ended strangely: {other:?}"),
    }
}

struct Tracer {
    args: Args,
    pid: Pid,
    log: LineWriter<File>,
    /// The memory of the program, once it runs.
    memory: Option<File>,
    /// Whether the file was opened from which on calls count.
    begun: bool,
    counted: usize,
    killed: bool,
    /// Whom a socket speaks with, by its descriptor.
    sockets: HashMap<u64, &'static str>,
    threads: HashMap<Pid, Thread>,
}

impl Tracer {
    fn run(mut self) -> Result<WaitStatus> {
        let mut ended = None;
        loop {
            let status = match waitpid(None, Some(WaitPidFlag::__WALL)) {
                Err(Errno::ECHILD) => break,
                Err(Errno::EINTR) => continue,
                other => other?,
            };
            let Some(pid) = status.pid() else { continue };
            let mut signal = None;
            match status {
                WaitStatus::Exited(..) | WaitStatus::Signaled(..) => {
                    self.threads.remove(&pid);
                    if pid == self.pid {
                        ended = Some(status);
                    }
                    continue;
                }
                WaitStatus::PtraceEvent(_, _, libc::PTRACE_EVENT_EXEC) => {
                    self.memory = Some(File::open(format!("/proc/{pid}/mem"))?);
                    self.threads.insert(pid, Thread::Elsewhere { in_call: true });
                }
                WaitStatus::PtraceSyscall(_) if self.memory.is_some() => self.stopped(pid)?,
                WaitStatus::Stopped(_, other) => signal = Some(other),
                _ => {}
            }
            if !self.killed {
                // One that was killed by somebody else is not there any more.
                let _ = ptrace::syscall(pid, signal);
            }
        }
        self.log.flush()?;
        ended.ok_or_else(|| anyhow!("the program is gone"))
    }

    /// A thread is at the beginning or at the end of a call.
    fn stopped(&mut self, pid: Pid) -> Result<()> {
        let Ok(registers) = ptrace::getregs(pid) else { return Ok(()) };
        let thread = self.threads.remove(&pid).unwrap_or(Thread::Elsewhere { in_call: false });
        let thread = match thread {
            Thread::In(entered) => {
                self.leave(pid, &entered, registers)?;
                Thread::Elsewhere { in_call: false }
            }
            Thread::Elsewhere { in_call: true } => Thread::Elsewhere { in_call: false },
            Thread::Elsewhere { in_call: false } => match self.enter(pid, registers)? {
                Some(entered) => Thread::In(Box::new(entered)),
                None => Thread::Elsewhere { in_call: true },
            },
        };
        self.threads.insert(pid, thread);
        Ok(())
    }

    fn enter(&mut self, pid: Pid, registers: user_regs_struct) -> Result<Option<Entered>> {
        if self.killed {
            return Ok(None);
        }
        let number = i64::try_from(registers.orig_rax).unwrap_or(-1);
        let Some(call) = CALLS.iter().find(|call| call.number == number) else {
            return Ok(None);
        };
        let Some(about) = self.about(pid, call, &registers) else { return Ok(None) };
        let counts = match self.args.meddle {
            Meddle::Before | Meddle::After => call.changes(&registers),
            // A socket that did a part only says when it can do more; but this one always can, so
            // that who waits for its word, as PostgreSQL's client does, waits for ever.
            Meddle::Short => call.can_be_short && registers.rdx > 1 && about != "database",
            Meddle::Fail(_, name) => call.can_fail_with(name, &registers),
        };
        let counts = counts && format!("{} {about}", call.name).starts_with(&self.args.only);
        let number = counts.then(|| {
            self.counted += 1;
            self.counted
        });
        let entered = Entered { call, registers, about, number };
        if number != Some(self.args.at) {
            return Ok(Some(entered));
        }
        let mut changed = registers;
        match self.args.meddle {
            Meddle::Before => {
                self.tell(&entered, None)?;
                // Killed in this stop a call is not made anyway; and so that it is certain:
                changed.orig_rax = u64::MAX;
                ptrace::setregs(pid, changed)?;
                self.kill()?;
                return Ok(None);
            }
            Meddle::After => {}
            Meddle::Short => {
                changed.rdx = 1;
                ptrace::setregs(pid, changed)?;
            }
            // No call at all; its result is set when it is left.
            Meddle::Fail(..) => {
                changed.orig_rax = u64::MAX;
                ptrace::setregs(pid, changed)?;
            }
        }
        Ok(Some(entered))
    }

    fn leave(&mut self, pid: Pid, entered: &Entered, now: user_regs_struct) -> Result<()> {
        let mut result = now.rax.cast_signed();
        let meddled = entered.number.is_some_and(|number| number == self.args.at);
        if meddled && let Meddle::Fail(errno, _) = self.args.meddle {
            result = -i64::from(errno as i32);
            let mut changed = now;
            changed.rax = result.cast_unsigned();
            // The number that was taken out, or else the kernel would think of a restart.
            changed.orig_rax = entered.registers.orig_rax;
            ptrace::setregs(pid, changed)?;
        }
        if entered.call.name == "socket" && result >= 0 {
            self.sockets.insert(result.cast_unsigned(), peer(entered.registers.rdi));
        }
        self.tell(entered, Some(result))?;
        if meddled && self.args.meddle == Meddle::After {
            self.kill()?;
        }
        Ok(())
    }

    fn kill(&mut self) -> Result<()> {
        self.killed = true;
        Ok(kill(self.pid, Signal::SIGKILL)?)
    }

    /// What a call is about, if that is of interest.
    fn about(&mut self, pid: Pid, call: &Call, registers: &user_regs_struct) -> Option<String> {
        let text = match call.subject {
            Subject::Path(number) => self.text(argument(registers, number)),
            Subject::Descriptor => {
                let descriptor = registers.rdi;
                let link = fs::read_link(format!("/proc/{pid}/fd/{descriptor}")).ok()?;
                if link.as_os_str().as_encoded_bytes().starts_with(b"socket:") {
                    let peer = self.sockets.get(&descriptor).copied();
                    return self.begun.then_some(peer?.to_owned());
                }
                link.display().to_string()
            }
            Subject::Domain => return self.begun.then(|| peer(registers.rdi).to_owned()),
        };
        if !self.begun {
            self.begun = call.opens() && text == self.args.begin.display().to_string();
            return None;
        }
        text.strip_prefix(&self.args.below).map(str::to_owned)
    }

    /// Writes a call down. Without a result it was not made.
    fn tell(&mut self, entered: &Entered, result: Option<i64>) -> Result<()> {
        let Entered { call, registers, about, number } = entered;
        let to = call.target.map(|number| self.text(argument(registers, number)));
        let to = to.as_deref().map(|to| to.strip_prefix(&self.args.below).unwrap_or(to));
        // Of what is written, and of what was read.
        let length = match (call.moves_data(), result) {
            (false, _) => 0,
            (true, Some(result)) if call.reads() => u64::try_from(result).unwrap_or(0),
            (true, _) => registers.rdx,
        };
        let data = self.bytes(registers.rsi, usize::try_from(length.min(400))?);
        let line = json!({
            "number": number,
            "call": call.name,
            "about": about,
            "to": to,
            "data": String::from_utf8_lossy(&data),
            "result": result,
        });
        Ok(writeln!(self.log, "{line}")?)
    }

    /// The text at an address of the program.
    fn text(&self, address: u64) -> String {
        let bytes = self.bytes(address, 4096);
        let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
        String::from_utf8_lossy(&bytes[..end]).into_owned()
    }

    fn bytes(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        // Up to the end of what is there.
        let read = self.memory.as_ref().and_then(|memory| memory.read_at(&mut bytes, address).ok());
        bytes.truncate(read.unwrap_or(0));
        bytes
    }
}

/// The relay is on TCP, and the database of the tests on a socket of Unix.
fn peer(domain: u64) -> &'static str {
    if domain == 1 { "database" } else { "relay" }
}
