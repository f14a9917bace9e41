//! What systemd is told of the service: ready, what it is about, that it lives, and that it ends
//! (`sd_notify(3)`). Started by something else, nothing is told to anybody.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use outbox_config::text::one_line;
use sd_notify::NotifyState;
use tracing::debug;

/// How long systemd may take to take a message. One that is frozen must not freeze the service.
const PATIENCE: Duration = Duration::from_secs(1);

/// The way to systemd, if it started this program and wants to know.
#[derive(Debug)]
pub struct Systemd {
    /// Where it listens: a path, or behind `@` an abstract name.
    socket: Option<OsString>,
    watchdog: Option<Duration>,
    /// When it was last said that the service lives.
    lived: Option<Instant>,
    status: String,
}

impl Systemd {
    /// Looks whether systemd listens, and whether it watches.
    pub fn from_environment() -> Self {
        let socket = std::env::var_os("NOTIFY_SOCKET");
        let watchdog = sd_notify::watchdog_enabled().filter(|_| socket.is_some());
        Self { socket, watchdog, lived: None, status: String::new() }
    }

    /// How often [`Systemd::watchdog`] is to be said: twice as often as systemd asks. `None` where
    /// nobody watches.
    pub fn watchdog_interval(&self) -> Option<Duration> {
        self.watchdog.map(|limit| limit / 2)
    }

    /// The service works; also after a reload, whether that had an effect or not.
    pub fn ready(&self) {
        self.notify(&[NotifyState::Ready]);
    }

    /// What it is about, in a line for `systemctl status`. Said again only when it changes.
    pub fn status(&mut self, words: &str) {
        let words = one_line(words);
        if words != self.status {
            self.notify(&[NotifyState::Status(&words)]);
            self.status = words;
        }
    }

    /// It lives. To be said only by the thread that does the work, so that it means something; also
    /// in the midst of what can take long, for it is not passed on more often than makes sense.
    pub fn watchdog(&mut self) {
        let Some(limit) = self.watchdog else { return };
        if self.lived.is_none_or(|lived| lived.elapsed() >= limit / 8) {
            self.notify(&[NotifyState::Watchdog]);
            self.lived = Some(Instant::now());
        }
    }

    /// It reads its configuration anew; [`Systemd::ready`] ends that.
    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.notify(&[NotifyState::Reloading, now]),
            Err(error) => debug!("cannot tell systemd of the reload: {error}"),
        }
    }

    /// It ends.
    pub fn stopping(&self) {
        self.notify(&[NotifyState::Stopping]);
    }

    /// A message that does not arrive is no reason to stop: systemd acts on what it misses.
    fn notify(&self, states: &[NotifyState<'_>]) {
        if let Some(socket) = &self.socket
            && let Err(error) = send(socket, states)
        {
            debug!("cannot tell systemd how the service is: {error}");
        }
    }
}

fn send(to: &OsStr, states: &[NotifyState<'_>]) -> io::Result<()> {
    let mut message = String::new();
    for state in states {
        let _ = writeln!(message, "{state}");
    }
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(PATIENCE))?;
    match to.as_bytes().strip_prefix(b"@") {
        Some(name) => socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
        None => socket.connect(to)?,
    }
    socket.send(message.as_bytes()).map(drop)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// What a process says in which systemd wants to know; see [`speak`].
    #[test]
    fn systemd_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let me = std::env::current_exe().unwrap();
        // The environment belongs to all tests of this process, so another one speaks.
        let spoke = Command::new(me)
            .args(["--exact", "systemd::tests::speak", "--ignored"])
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", "60000000")
            .output()
            .unwrap();
        assert!(spoke.status.success(), "{}", String::from_utf8_lossy(&spoke.stdout));
        let hear = || {
            let mut bytes = [0; 1024];
            let length = socket.recv(&mut bytes).unwrap();
            String::from_utf8(bytes[..length].to_vec()).unwrap()
        };
        assert_eq!(hear(), "READY=1\n");
        assert_eq!(hear(), "STATUS=no mails\\n\n", "a line end in it is no new assignment");
        assert_eq!(hear(), "WATCHDOG=1\n", "the same words are not said twice");
        // Nor that it lives, a moment later.
        let reloading = hear();
        let at = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        assert!(at.trim_end().parse::<u64>().unwrap() > 0, "{reloading}");
        assert_eq!(hear(), "STOPPING=1\n");
    }

    #[test]
    #[ignore = "speaks for systemd_is_told, in a process of its own"]
    fn speak() {
        let mut systemd = Systemd::from_environment();
        assert_eq!(systemd.watchdog_interval(), Some(Duration::from_secs(30)));
        systemd.ready();
        systemd.status("no mails\n");
        systemd.status("no mails\n");
        systemd.watchdog();
        systemd.watchdog();
        systemd.reloading();
        systemd.stopping();
    }

    #[test]
    fn a_systemd_that_takes_no_message_freezes_nothing() {
        let name = format!("@outbox-deliverer-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name[1..]).unwrap();
        let deaf = UnixDatagram::bind_addr(&address).unwrap();
        let failed = (0..100_000).find_map(|_| send(name.as_ref(), &[NotifyState::Watchdog]).err());
        assert_eq!(failed.map(|error| error.kind()), Some(io::ErrorKind::WouldBlock));
        let mut bytes = [0; 16];
        let length = deaf.recv(&mut bytes).unwrap();
        assert_eq!(&bytes[..length], b"WATCHDOG=1\n");
    }

    #[test]
    fn without_systemd_nothing_is_told_and_nobody_watches() {
        let mut systemd =
            Systemd { socket: None, watchdog: None, lived: None, status: String::new() };
        systemd.ready();
        systemd.status("words");
        systemd.watchdog();
        assert_eq!(systemd.watchdog_interval(), None);
    }
}
