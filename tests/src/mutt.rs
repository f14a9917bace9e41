//! The real mutt on an outbox, in a terminal of its own: a private tmux server, 80 columns and 24
//! lines, in which keys are pressed and the screen is read.
//!
//! What a key does is awaited on the screen or in the outbox, never by a guessed time.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::programs::LIMIT;
use crate::site::Site;
use crate::watchdog;

/// The configuration that docs/mutt.md shows.
pub const MUTTRC: &str = include_str!("../../docs/muttrc.outbox");

/// What stands on the screen once mutt has ended well.
const ENDED_WELL: &str = "mutt ended with 0";

/// A mutt at work. It ends with its terminal when this is dropped.
#[derive(Debug)]
pub struct Mutt {
    socket: PathBuf,
}

impl Mutt {
    /// Opens the site's outbox with the configuration of docs/mutt.md, as a person who has the public
    /// key, and waits until the list is there.
    #[track_caller]
    pub fn open(site: &Site) -> Self {
        Self::open_with(site, "")
    }

    /// Opens it as an operator who has the private key too, and so can read what is encrypted.
    #[track_caller]
    pub fn open_with_private_key(site: &Site) -> Self {
        site.gnupg().give_private_keys(&home(site).join(".gnupg"));
        Self::open(site)
    }

    /// The same with these lines of configuration behind it.
    #[track_caller]
    pub fn open_with(site: &Site, lines: &str) -> Self {
        let home = home(site);
        let outbox = site.outbox().display().to_string();
        let muttrc = MUTTRC.replace("/var/spool/intelmq-outbox", &outbox);
        assert!(muttrc.contains(&outbox), "the configuration names the outbox");
        let file = home.join("muttrc");
        fs::write(&file, format!("{muttrc}\n{lines}\n")).expect("failed to write the muttrc");
        Self::start(&home, &format!("mutt -F {}", file.display()))
    }

    /// Opens the site's outbox with a mutt that was told nothing, not even by the system, but the order
    /// of the list: that of the tickets.
    #[track_caller]
    pub fn open_bare(site: &Site) -> Self {
        let outbox = site.outbox();
        let command = format!("mutt -n -F /dev/null -e 'set sort=subject' -f {}", outbox.display());
        Self::start(&home(site), &command)
    }

    #[track_caller]
    fn start(home: &Path, command: &str) -> Self {
        let socket = tempfile::Builder::new()
            .prefix("tmux-")
            .tempfile_in(home)
            .expect("failed to make a name")
            .into_temp_path()
            .to_path_buf();
        watchdog::at_end(&format!("tmux -S '{}' kill-server", socket.display()));
        let mutt = Self { socket };
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", home.join("bin").display());
        // How mutt ended stays on the screen until the terminal is closed.
        let script =
            format!("{command}; printf '\\nmutt ended with %s\\n' $?; exec sleep infinity");
        let started = Command::new("tmux")
            .arg("-S")
            .arg(&mutt.socket)
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
        mutt.wait_for("-Mutt: ");
        mutt
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

    /// Waits until mutt has ended, and well.
    #[track_caller]
    pub fn wait_for_end(&self) {
        let screen = self.wait_for("mutt ended with ");
        assert!(screen.contains(ENDED_WELL), "{screen}");
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

impl Drop for Mutt {
    fn drop(&mut self) {
        self.tmux(&["kill-server".to_owned()]);
    }
}

/// A person's home: a GnuPG home with the public key, and the deliverer in the search path.
fn home(site: &Site) -> PathBuf {
    let home = site.folder().join("reader");
    if home.exists() {
        return home;
    }
    let (gnupg, bin) = (home.join(".gnupg"), home.join("bin"));
    // A mutt that was told nothing asks for the folder of a person's mail.
    for folder in [&bin, &home.join("Mail")] {
        fs::create_dir_all(folder).expect("failed to make a home");
    }
    fs::DirBuilder::new().mode(0o700).create(&gnupg).expect("failed to make a GnuPG home");
    let program = bin.join("outbox-deliverer");
    fs::write(&program, site.deliverer_script()).expect("failed to write a script");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("it is ours");
    site.gnupg().give_public_key(&gnupg);
    home
}
