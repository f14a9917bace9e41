//! The real mutt on an outbox, in a [terminal](Terminal) of its own.

use std::fs;
use std::ops::Deref;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::site::Site;
use crate::terminal::Terminal;

/// The configuration that docs/mutt.md shows.
pub const MUTTRC: &str = include_str!("../../docs/muttrc.outbox");

/// A mutt at work. It ends with its terminal when this is dropped.
#[derive(Debug)]
pub struct Mutt {
    terminal: Terminal,
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
        let terminal = Terminal::start(home, command);
        terminal.wait_for("-Mutt: ");
        Self { terminal }
    }

    /// Waits until mutt has ended, and well.
    #[track_caller]
    pub fn wait_for_end(&self) {
        self.terminal.wait_for_end(0);
    }
}

impl Deref for Mutt {
    type Target = Terminal;

    fn deref(&self) -> &Terminal {
        &self.terminal
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
