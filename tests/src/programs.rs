//! The two programs as tests run them: to their end within a time limit, or as a service whose log
//! is watched.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{JoinHandle, spawn};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::watchdog;

/// How long anything in these tests may take. Only what went wrong gets there.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Where the two programs are. [`programs!`](crate::programs!) knows.
#[derive(Clone, Copy, Debug)]
pub struct Programs {
    /// `outbox-generator`.
    pub generator: &'static str,
    /// `outbox-deliverer`.
    pub deliverer: &'static str,
}

/// The [`Programs`], as cargo built them. Cargo says where they are to the test that is compiled,
/// so this has to be a macro.
#[macro_export]
macro_rules! programs {
    () => {
        $crate::programs::Programs {
            generator: env!("CARGO_BIN_EXE_outbox-generator-under-test"),
            deliverer: env!("CARGO_BIN_EXE_outbox-deliverer-under-test"),
        }
    };
}

/// A program that ended, and all it said.
#[derive(Clone, Debug)]
pub struct Finished {
    /// What was run.
    pub what: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error: the log, where the program is ours.
    pub stderr: String,
}

#[expect(clippy::return_self_not_must_use, reason = "what they check is often all that is wanted")]
impl Finished {
    /// Panics, with all that the program said, if it did not end with this exit code.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "{self}");
        self
    }

    /// The log lines of a level, such as `ERROR`.
    pub fn lines(&self, level: &str) -> Vec<&str> {
        self.stderr.lines().filter(|line| line.split_whitespace().nth(1) == Some(level)).collect()
    }

    /// The one log line of a level that holds all of these words. Panics if there is none, or
    /// another.
    #[track_caller]
    pub fn line(&self, level: &str, words: &[&str]) -> &str {
        let found: Vec<&str> = self
            .lines(level)
            .into_iter()
            .filter(|line| words.iter().all(|word| line.contains(word)))
            .collect();
        match found[..] {
            [line] => line,
            _ => panic!("not one {level} line with {words:?} but {}\n{self}", found.len()),
        }
    }

    /// Panics if a line of this level was logged.
    #[track_caller]
    pub fn without(self, level: &str) -> Self {
        assert_eq!(self.lines(level), [""; 0], "{self}");
        self
    }
}

impl std::fmt::Display for Finished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ended with {}\n{}{}", self.what, self.status, self.stdout, self.stderr)
    }
}

/// A program at work. It is killed when this is dropped.
#[derive(Debug)]
pub struct Running {
    what: String,
    child: Child,
    output: [Arc<Output>; 2],
    readers: Vec<JoinHandle<()>>,
}

/// What came out of a pipe so far.
#[derive(Debug, Default)]
struct Output {
    text: Mutex<(String, bool)>,
    grew: Condvar,
}

impl Running {
    /// Starts a command. What it writes is read all the time, so that it never has to wait for us.
    pub fn start(command: &mut Command) -> Self {
        let name = Path::new(command.get_program()).file_name().unwrap_or_default().to_owned();
        let arguments = command.get_args().collect::<Vec<_>>().join(" ".as_ref());
        let what = format!("{} {}", name.display(), arguments.display());
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("failed to start {what}: {error}"));
        watchdog::kills(child.id());
        let stdout: Box<dyn Read + Send> = Box::new(child.stdout.take().expect("it was piped"));
        let stderr: Box<dyn Read + Send> = Box::new(child.stderr.take().expect("it was piped"));
        let output = [Arc::<Output>::default(), Arc::default()];
        let readers = [stdout, stderr]
            .into_iter()
            .zip(&output)
            .map(|(pipe, output)| {
                let output = Arc::clone(output);
                spawn(move || output.fill(pipe))
            })
            .collect();
        Self { what, child, output, readers }
    }

    /// Waits for its end. Panics, with all that it said, if that does not come in time.
    #[track_caller]
    pub fn finish(self) -> Finished {
        self.finish_within(LIMIT)
    }

    /// The same, where there is much to do.
    #[track_caller]
    pub fn finish_within(mut self, limit: Duration) -> Finished {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                return self.finished(status);
            }
            if Instant::now() > deadline {
                let _ = self.child.kill();
                let status = self.child.wait().expect("it is our child");
                panic!("it did not end within {limit:?}: {}", self.finished(status));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn finished(&mut self, status: ExitStatus) -> Finished {
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        let [stdout, stderr] = self.output.each_ref().map(|output| output.so_far());
        Finished { what: std::mem::take(&mut self.what), status, stdout, stderr }
    }

    /// Waits for a line of its log that holds `words`, and gives it. Panics, with all of the log,
    /// if the program ends without having written it, or does not write it in time.
    #[track_caller]
    pub fn wait_for(&self, words: &str) -> String {
        self.wait_for_nth(words, 1)
    }

    /// The same for the `count`th of such lines.
    #[track_caller]
    pub fn wait_for_nth(&self, words: &str, count: usize) -> String {
        let [_, log] = &self.output;
        let deadline = Instant::now() + LIMIT;
        let mut held = log.text.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let (text, ended) = &*held;
            if let Some(line) = text.lines().filter(|line| line.contains(words)).nth(count - 1) {
                return line.to_owned();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if *ended || left.is_zero() {
                let how = if *ended { "it ended" } else { "it took too long" };
                panic!("{}: {how} without {words:?}:\n{text}", self.what);
            }
            held = log.grew.wait_timeout(held, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Tells it to end (SIGTERM) and waits until it has.
    #[track_caller]
    pub fn terminate(self) -> Finished {
        self.signal(Signal::TERM);
        self.finish()
    }

    /// Kills it (SIGKILL), which it can't prepare for, and waits until it is gone.
    #[track_caller]
    pub fn kill(self) -> Finished {
        self.signal(Signal::KILL);
        self.finish()
    }

    /// The number of its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        // It may just have ended; it stays a zombie until we ask, so this is never another process.
        let _ = kill_process(pid, signal);
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("it is our child").is_none()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Output {
    fn fill(&self, mut pipe: Box<dyn Read + Send>) {
        let mut buffer = [0; 4096];
        let mut bytes = Vec::new();
        loop {
            let read = pipe.read(&mut buffer).unwrap_or(0);
            bytes.extend_from_slice(&buffer[..read]);
            // Only whole lines but at the end: a character may be in two pieces.
            // What was there before has no line end: a line may be long.
            let before = bytes.len() - read;
            let end = bytes[before..].iter().rposition(|&byte| byte == b'\n');
            let whole = end.map_or(0, |at| before + at + 1);
            let whole = if read == 0 { bytes.len() } else { whole };
            let mut held = self.text.lock().unwrap_or_else(PoisonError::into_inner);
            held.0.push_str(&String::from_utf8_lossy(&bytes[..whole]));
            held.1 = read == 0;
            bytes.drain(..whole);
            self.grew.notify_all();
            if read == 0 {
                return;
            }
        }
    }

    fn so_far(&self) -> String {
        self.text.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }
}

/// Waits until `done`, looking again and again where nothing can be waited for. Panics with the
/// words of `what` if that takes too long.
#[track_caller]
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !done() {
        assert!(Instant::now() < deadline, "it took too long until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
