//! A script as a process that is spoken with in lines: each wait has an end, and so has what it may
//! say.
//!
//! One thread does all of it: the pipes do not block, and `poll` waits for whichever of them is
//! ready first, so that neither side waits for the other with a full pipe.

use std::fmt;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use outbox_config::{duration_words, size_words};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

/// The longest line that a script may say.
const MAX_LINE: usize = 16 << 20;
/// How much of a line on standard error is passed on.
const MAX_NOISE: usize = 1000;
/// How many lines on standard error are passed on, of each time it is asked.
const MAX_NOISES: usize = 100;
/// How long a process has that was told to end, or that closed its output.
const GRACE: Duration = Duration::from_secs(2);

/// A running script.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// Becomes readable when it ends. What it started may keep its pipes open. (Linux before 5.3 has
    /// none; then that costs time.)
    pidfd: Option<OwnedFd>,
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
    stderr: Option<ChildStderr>,
    /// What the script was not given yet.
    unsent: Vec<u8>,
    /// What it said and nobody took yet.
    said: Vec<u8>,
    /// How much of `said` has no line end in it.
    searched: usize,
    noise: Vec<u8>,
    noises: usize,
    /// How it ended, once that was asked.
    ended: Option<ExitStatus>,
    limit: Duration,
    deadline: Instant,
}

/// Why there is no answer. The process is of no more use.
#[derive(Debug)]
pub enum Trouble {
    /// It was too slow.
    Slow(Duration),
    /// It ended, or closed its standard output.
    Ended(Option<ExitStatus>),
    /// It said a line that is too long.
    Endless,
    /// It said more and more, and did not read what it was told.
    Deaf,
    /// It said something before it was asked.
    Unasked,
    /// The system failed.
    System(io::Error),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slow(limit) => write!(
                f,
                "it had no answer after {} (scripts.timeout) and was killed",
                duration_words(*limit)
            ),
            Self::Ended(Some(status)) => match (status.code(), status.signal()) {
                (Some(code), _) => write!(f, "it ended with exit code {code}"),
                (None, Some(signal)) => write!(f, "it was ended by signal {signal}"),
                (None, None) => f.write_str("it ended"),
            },
            Self::Ended(None) => f.write_str("it closed its standard output and was killed"),
            Self::Endless => write!(
                f,
                "it answered a line of more than {} and was killed",
                size_words(MAX_LINE as u64)
            ),
            Self::Deaf => f.write_str("it did not read what it asked for and was killed"),
            Self::Unasked => f.write_str("it said more than the answer and was killed"),
            Self::System(error) => write!(f, "{error}"),
        }
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

impl Process {
    /// Starts it, in a process group of its own and without passwords in its environment.
    pub fn start(command: &mut Command, limit: Duration) -> io::Result<Self> {
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().contains("PASSWORD") {
                command.env_remove(name);
            }
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let stdin = child.stdin.take().expect("it is a pipe");
        let stdout = child.stdout.take().expect("it is a pipe");
        let stderr = child.stderr.take().expect("it is a pipe");
        for pipe in [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()] {
            rustix::io::ioctl_fionbio(pipe, true)?;
        }
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).ok();
        Ok(Self {
            child,
            pidfd,
            stdin: Some(stdin),
            stdout,
            stderr: Some(stderr),
            unsent: Vec::new(),
            said: Vec::new(),
            searched: 0,
            noise: Vec::new(),
            noises: 0,
            ended: None,
            limit,
            deadline: Instant::now() + limit,
        })
    }

    /// Says a line that begins a conversation, for which there is the whole time. `noise` is given
    /// what the script says on standard error.
    pub fn ask(&mut self, line: &[u8], noise: &mut dyn FnMut(&str)) -> Result<(), Trouble> {
        self.deadline = Instant::now() + self.limit;
        self.noises = 0;
        self.hear_out(noise)?;
        if self.has_more() {
            return Err(Trouble::Unasked);
        }
        self.reply(line);
        Ok(())
    }

    /// Says a line within a conversation.
    pub fn reply(&mut self, line: &[u8]) {
        self.unsent.extend_from_slice(line);
        self.unsent.push(b'\n');
    }

    /// Waits until it has taken what it was told. One that asks for more and more, and reads none of it,
    /// must not fill the memory.
    pub fn settle(&mut self, noise: &mut dyn FnMut(&str)) -> Result<(), Trouble> {
        while !self.unsent.is_empty() {
            self.wait()?;
            self.send()?;
            self.hear_noise(noise)?;
            let (ended, before) = (self.ends_within(Duration::ZERO), self.said.len());
            let open = read(&mut self.stdout, &mut self.said)?;
            if self.said.len() > MAX_LINE {
                return Err(Trouble::Deaf);
            }
            if !open || ended && self.said.len() == before {
                // What it said before is heard, and then that it ended.
                return Ok(());
            }
        }
        Ok(())
    }

    /// Gives it more time: that which somebody else took.
    pub fn extend(&mut self, time: Duration) {
        self.deadline += time;
    }

    /// The next line that it says, without the line end.
    pub fn hear(&mut self, noise: &mut dyn FnMut(&str)) -> Result<Vec<u8>, Trouble> {
        loop {
            if let Some(length) = self.said[self.searched..].iter().position(|&b| b == b'\n') {
                let rest = self.said.split_off(self.searched + length + 1);
                let mut line = std::mem::replace(&mut self.said, rest);
                line.pop();
                self.searched = 0;
                // What it said on standard error before is of this line.
                self.hear_noise(noise)?;
                return Ok(line);
            }
            self.searched = self.said.len();
            if self.said.len() > MAX_LINE {
                return Err(Trouble::Endless);
            }
            self.wait()?;
            self.send()?;
            self.hear_noise(noise)?;
            // Before it is read, so that nothing that it said before it ended is missed.
            let ended = self.ends_within(Duration::ZERO);
            let open = read(&mut self.stdout, &mut self.said)?;
            if !open || ended && self.said.len() == self.searched {
                self.hear_noise(noise)?;
                return Err(Trouble::Ended(self.exit_status()));
            }
        }
    }

    /// Takes in what is there.
    fn hear_out(&mut self, noise: &mut dyn FnMut(&str)) -> Result<(), Trouble> {
        self.hear_noise(noise)?;
        if !read(&mut self.stdout, &mut self.said)? {
            return Err(Trouble::Ended(self.exit_status()));
        }
        Ok(())
    }

    /// Waits until there is something to do.
    fn wait(&self) -> Result<(), Trouble> {
        let mut pipes = vec![PollFd::new(&self.stdout, PollFlags::IN)];
        pipes.extend(self.stderr.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        pipes.extend(self.pidfd.as_ref().map(|pidfd| PollFd::new(pidfd, PollFlags::IN)));
        if let Some(stdin) = self.stdin.as_ref().filter(|_| !self.unsent.is_empty()) {
            pipes.push(PollFd::new(stdin, PollFlags::OUT));
        }
        // One that writes all the time has something ready for ever.
        let late = Instant::now() >= self.deadline;
        if !late && wait_for(&mut pipes, self.deadline)? {
            Ok(())
        } else {
            Err(Trouble::Slow(self.limit))
        }
    }

    /// Gives the script as much as it takes now.
    fn send(&mut self) -> io::Result<()> {
        let Some(stdin) = &mut self.stdin else { return Ok(()) };
        let mut sent = 0;
        while sent < self.unsent.len() {
            match stdin.write(&self.unsent[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    // It reads no more. What it says, or that it ended, tells why.
                    self.stdin = None;
                    self.unsent.clear();
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        self.unsent.drain(..sent);
        Ok(())
    }

    /// Passes on what is on standard error, within bounds.
    fn hear_noise(&mut self, noise: &mut dyn FnMut(&str)) -> io::Result<()> {
        let Some(pipe) = &mut self.stderr else { return Ok(()) };
        let open = read(pipe, &mut self.noise)?;
        if !open {
            self.stderr = None;
        }
        while let Some(end) = self.noise.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.noise.drain(..=end).collect();
            self.pass_on(&line[..end], noise);
        }
        if !self.noise.is_empty() && (!open || self.noise.len() > MAX_NOISE) {
            let line = std::mem::take(&mut self.noise);
            self.pass_on(&line, noise);
        }
        Ok(())
    }

    fn pass_on(&mut self, line: &[u8], noise: &mut dyn FnMut(&str)) {
        self.noises += 1;
        if self.noises <= MAX_NOISES && !line.is_empty() {
            noise(&String::from_utf8_lossy(&line[..line.len().min(MAX_NOISE)]));
        } else if self.noises == MAX_NOISES + 1 {
            noise("(the rest is left out)");
        }
    }

    /// Whether it ends in this time.
    fn ends_within(&self, time: Duration) -> bool {
        self.pidfd.as_ref().is_some_and(|pidfd| {
            let mut pipes = [PollFd::new(pidfd, PollFlags::IN)];
            wait_for(&mut pipes, Instant::now() + time).unwrap_or(false)
        })
    }

    /// How it ended, if it does within the grace. What it left behind is killed then.
    fn exit_status(&mut self) -> Option<ExitStatus> {
        if !self.ends_within(GRACE) {
            return None;
        }
        self.kill();
        self.ended
    }

    /// Kills it and all that it started, unless that left its process group.
    pub fn kill(&mut self) {
        // Once it was waited for, the number of its group may be another's.
        if self.ended.is_none() {
            let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
            self.ended = self.child.wait().ok();
        }
    }

    /// Whether it said more than was heard.
    pub fn has_more(&self) -> bool {
        !self.said.is_empty()
    }

    /// Tells it that there is no more to come.
    pub fn close(&mut self) {
        self.stdin = None;
    }
}

impl Drop for Process {
    /// Lets it end by itself, and kills what of its group is left after the grace.
    fn drop(&mut self) {
        self.close();
        if self.ended.is_none() && self.exit_status().is_none() {
            self.kill();
        }
    }
}

/// Waits until one of these is ready: false if none was at `deadline`.
fn wait_for(pipes: &mut [PollFd<'_>], deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(pipes, Some(&timeout)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Reads some of what is there, and no more than would be too much: false at the end.
fn read(pipe: &mut impl io::Read, into: &mut Vec<u8>) -> io::Result<bool> {
    let mut buffer = [0; 16 << 10];
    loop {
        match pipe.read(&mut buffer) {
            Ok(0) => return Ok(false),
            Ok(count) => {
                into.extend_from_slice(&buffer[..count]);
                return Ok(true);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
