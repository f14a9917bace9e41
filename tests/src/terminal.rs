//! A program in a terminal of its own: a private tmux server, 80 columns and 24 lines, in which keys are
//! pressed and the screen is read.
//!
//! What a key does is awaited on the screen or in the outbox, never by a guessed time.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::programs::LIMIT;
use crate::watchdog;

/// A terminal. The program in it ends with it when this is dropped.
#[derive(Debug)]
pub struct Terminal {
    socket: PathBuf,
}

impl Terminal {
    /// Runs a command of the shell, with a home folder and what lies in the `bin` there.
    #[track_caller]
    pub fn start(home: &Path, command: &str) -> Self {
        let socket = tempfile::Builder::new()
            .prefix("tmux-")
            .tempfile_in(home)
            .expect("failed to make a name")
            .into_temp_path()
            .to_path_buf();
        watchdog::at_end(&format!("tmux -S '{}' kill-server", socket.display()));
        let terminal = Self { socket };
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", home.join("bin").display());
        // How it ended stays on the screen until the terminal is closed.
        let script = format!("{command}; printf '\\nended with %s\\n' $?; exec sleep infinity");
        let started = Command::new("tmux")
            .arg("-S")
            .arg(&terminal.socket)
            .args(["-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24"])
            .args(["sh", "-c", &script])
            .current_dir(home)
            .env_clear()
            .env("HOME", home)
            .env("PATH", path)
            .env("LC_ALL", "C.UTF-8")
            .env("TZ", "UTC")
            .stdin(Stdio::null())
            .output()
            .expect("failed to run tmux");
        assert!(started.status.success(), "tmux: {}", String::from_utf8_lossy(&started.stderr));
        terminal
    }

    /// Presses keys, one after the other: names of tmux, such as `Enter`, or text.
    #[track_caller]
    pub fn keys(&self, keys: &[&str]) {
        let mut arguments = vec!["send-keys".to_owned()];
        // To tmux, a semicolon at the end of an argument ends its command.
        arguments.extend(keys.iter().map(|key| match key.strip_suffix(';') {
            Some(text) => format!("{text}\\;"),
            None => (*key).to_owned(),
        }));
        let sent = self.tmux(&arguments);
        assert!(sent.status.success(), "tmux: {}", String::from_utf8_lossy(&sent.stderr));
    }

    /// What stands on the screen now.
    pub fn screen(&self) -> String {
        let captured = self.tmux(&["capture-pane".to_owned(), "-p".to_owned()]);
        String::from_utf8_lossy(&captured.stdout).into_owned()
    }

    /// Waits until the screen shows a text, and gives the screen.
    #[track_caller]
    pub fn wait_for(&self, text: &str) -> String {
        self.wait_until(&format!("{text:?} is on the screen"), |screen| screen.contains(text))
    }

    /// Waits until the screen is as wanted, and gives it.
    #[track_caller]
    pub fn wait_until(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + LIMIT;
        loop {
            let screen = self.screen();
            if wanted(&screen) {
                return screen;
            }
            assert!(Instant::now() < deadline, "it took too long until {what}:\n{screen}");
            // A terminal can't be waited for.
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for what a key does elsewhere than on the screen, which is only shown if that takes too
    /// long.
    #[track_caller]
    pub fn wait_for_effect(&self, what: &str, done: impl Fn() -> bool) {
        self.wait_until(what, |_| done());
    }

    /// Waits until the command has ended, with this exit code, and gives the screen.
    #[track_caller]
    pub fn wait_for_end(&self, code: i32) -> String {
        let screen = self.wait_for("\nended with ");
        assert!(screen.contains(&format!("\nended with {code}\n")), "{screen}");
        screen
    }

    fn tmux(&self, arguments: &[String]) -> Output {
        Command::new("tmux")
            .arg("-S")
            .arg(&self.socket)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("failed to run tmux")
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.tmux(&["kill-server".to_owned()]);
    }
}
