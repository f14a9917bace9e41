//! systemd as a service sees it: a socket that hears what the service says of itself
//! (`sd_notify(3)`), and when it said that.

use std::ffi::OsString;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, spawn};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::programs::LIMIT;

/// What ends the listener.
const END: &[u8] = b"END";

/// A service manager at work. It ends when this is dropped.
#[derive(Debug)]
pub struct ServiceManager {
    folder: TempDir,
    heard: Arc<Heard>,
    listener: Option<JoinHandle<()>>,
    watchdog: Option<Duration>,
}

#[derive(Debug, Default)]
struct Heard {
    state: Mutex<State>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct State {
    messages: Vec<(Instant, String)>,
    /// How many of them were waited for, or passed over.
    passed: usize,
}

impl ServiceManager {
    /// Listens; nobody has to say that it lives.
    pub fn start() -> Self {
        Self::listen(None)
    }

    /// Listens, and wants to hear that the service lives within each such time (`WatchdogSec=`).
    pub fn watching(limit: Duration) -> Self {
        Self::listen(Some(limit))
    }

    fn listen(watchdog: Option<Duration>) -> Self {
        let folder = TempDir::with_prefix_in("outbox-", "/tmp").expect("failed to make a folder");
        let socket = UnixDatagram::bind(folder.path().join("notify")).expect("failed to listen");
        let heard = Arc::<Heard>::default();
        let for_thread = Arc::clone(&heard);
        let listener = Some(spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length) = socket.recv(&mut bytes) {
                if &bytes[..length] == END {
                    return;
                }
                let text = String::from_utf8_lossy(&bytes[..length]).trim_end().to_owned();
                for_thread.lock().messages.push((Instant::now(), text));
                for_thread.more.notify_all();
            }
        }));
        Self { folder, heard, listener, watchdog }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("notify")
    }

    /// What a service finds in its environment.
    pub fn environment(&self) -> Vec<(&'static str, OsString)> {
        let socket = [("NOTIFY_SOCKET", self.socket().into())];
        let watchdog =
            self.watchdog.map(|limit| ("WATCHDOG_USEC", limit.as_micros().to_string().into()));
        socket.into_iter().chain(watchdog).collect()
    }

    /// Waits for a message that holds `words`, after the one that was waited for before, and gives
    /// it. Panics if that takes too long.
    #[track_caller]
    pub fn wait_for(&self, words: &str) -> String {
        let deadline = Instant::now() + LIMIT;
        let mut state = self.heard.lock();
        loop {
            let next = state.messages[state.passed..].iter();
            if let Some(at) = next.clone().position(|(_, text)| text.contains(words)) {
                state.passed += at + 1;
                return state.messages[state.passed - 1].1.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "it took too long until {words:?}: {:?}", state.messages);
            let waited = self.heard.more.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// All that was heard so far, and when.
    pub fn messages(&self) -> Vec<(Instant, String)> {
        self.heard.lock().messages.clone()
    }

    /// All that was heard so far, but what only says that the service lives.
    pub fn news(&self) -> Vec<String> {
        let news = self.messages().into_iter().map(|(_, text)| text);
        news.filter(|text| text != "WATCHDOG=1").collect()
    }
}

impl Heard {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ServiceManager {
    fn drop(&mut self) {
        let told = UnixDatagram::unbound().and_then(|end| end.send_to(END, self.socket()));
        if let (Ok(_), Some(listener)) = (told, self.listener.take()) {
            let _ = listener.join();
        }
    }
}
