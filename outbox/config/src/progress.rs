//! A line on the terminal that says how far a long work is, and that makes room for the log.

use std::io::{IsTerminal as _, Write as _, stderr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a work must take to be long, and how often the line changes.
const PATIENCE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(200);

/// How many characters the bar has.
const BAR: usize = 30;

/// Back to the beginning of the line, and nothing in it.
const CLEAR: &str = "\r\x1b[K";

/// The line that is on the terminal now; empty if there is none.
static LINE: Mutex<String> = Mutex::new(String::new());

/// A work whose progress is shown, if standard error is a terminal. The line goes when this is
/// dropped.
#[derive(Debug)]
pub struct Progress {
    done: usize,
    total: usize,
    what: &'static str,
    next: Instant,
    terminal: bool,
}

impl Progress {
    /// Begins a work on `total` of what `what` names.
    pub fn start(total: usize, what: &'static str) -> Self {
        let next = Instant::now() + PATIENCE;
        // One that is called dumb can't clear a line.
        let dumb = std::env::var_os("TERM").is_none_or(|name| name == "dumb");
        Self { done: 0, total, what, next, terminal: stderr().is_terminal() && !dumb }
    }

    /// One more is done, which is shown if it is time to.
    pub fn advance(&mut self) {
        self.done += 1;
        let now = Instant::now();
        if self.terminal && now >= self.next {
            self.next = now + PAUSE;
            set_line(bar(self.done, self.total, self.what));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.terminal {
            set_line(String::new());
        }
    }
}

fn bar(done: usize, total: usize, what: &str) -> String {
    let filled = BAR * done.min(total) / total.max(1);
    format!("[{:<BAR$}] {done} of {total} {what}", "#".repeat(filled))
}

fn set_line(line: String) {
    let mut shown = LINE.lock().unwrap_or_else(PoisonError::into_inner);
    if *shown != line {
        // Nobody looks any more: there is nobody to tell.
        let _ = stderr().lock().write_all(format!("{CLEAR}{line}").as_bytes());
        *shown = line;
    }
}

/// Writes a whole line to standard error; a line of progress goes before it and is there again behind.
pub(crate) fn write_above(line: &str) {
    let shown = LINE.lock().unwrap_or_else(PoisonError::into_inner);
    let text = if shown.is_empty() { line.to_owned() } else { format!("{CLEAR}{line}{}", *shown) };
    // Nobody reads it any more: there is nobody to tell.
    let _ = stderr().lock().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::bar;

    #[test]
    fn the_bar_is_as_full_as_the_work_is_done() {
        assert_eq!(bar(0, 3, "groups"), format!("[{}] 0 of 3 groups", " ".repeat(30)));
        assert_eq!(bar(3, 3, "groups"), format!("[{}] 3 of 3 groups", "#".repeat(30)));
        assert!(bar(1, 3, "groups").starts_with("[##########   "));
        assert!(bar(0, 0, "groups").ends_with(" 0 of 0 groups"));
    }
}
