//! `preview`: what is pending as the mails that it would become, for a person to look at. Takes no
//! lock and no ticket, and changes neither database nor outbox.

#[cfg(any(test, fuzzing))]
pub(crate) mod oracles;

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use maildir::Maildir;
use outbox::{Claims, NewMail, Outbox};
use outbox_config::program::print;
use outbox_config::progress::Progress;
use outbox_config::text::is_hidden;
use outbox_config::{Config, Failure};
use tracing::info;

use crate::cli::PreviewArgs;
use crate::compose::{Composer, Sink, Summary};
use crate::openpgp::OpenPgp;
use crate::store::{self, EventColumns, Scope};
use crate::tickets::Pretended;
use crate::tools::{Tools, claims};

/// Shows the mails, and tells in the log what becomes of each group.
pub fn preview(config: &Config, args: &PreviewArgs) -> Result<(), Failure> {
    let maildir = args.maildir.as_ref();
    let maildir = maildir.map(|folder| fresh_maildir(folder, &config.outbox.path)).transpose()?;
    let mut sink = Shown { maildir };
    let mut tools = if args.plain {
        Tools { openpgp: OpenPgp::off(), ..Tools::without_key(config)? }
    } else {
        Tools::load(config)?
    };
    let database = config.database()?;
    database.event.password()?;
    let claims = if config.outbox.path.exists() {
        claims(&Outbox::open(&config.outbox.path).map_err(Failure::unavailable)?)?
    } else {
        Claims::default()
    };
    let mut client = store::open(&database.event)?;
    let columns = EventColumns::read(&mut client).map_err(store::failure)?;
    let mut pending = store::peek(&mut client, Scope::of(config)?, &claims)?;
    pending.groups.truncate(args.limit.unwrap_or(usize::MAX));
    // On a terminal the mails themselves say how far it is.
    let progress = sink.maildir.is_some().then(|| Progress::start(pending.groups.len(), "groups"));
    let mut composer = Composer {
        tools: &mut tools,
        columns: &columns,
        tickets: &mut Pretended::default(),
        sink: &mut sink,
        tell: true,
        progress,
        summary: Summary::default(),
    };
    composer.compose(pending)?;
    let summary = composer.summary;
    let Summary { mails, copies, postponed, errors } = summary;
    info!(mails, copies, postponed, errors, "a preview: nothing was written into the outbox");
    summary.check()
}

/// Where the mails are shown: in a Maildir, or else on standard output as an mbox.
struct Shown {
    maildir: Option<Maildir>,
}

impl Sink for Shown {
    fn check_room(&self, _: usize) -> Result<(), Failure> {
        Ok(())
    }

    fn take(&mut self, mail: NewMail, bytes: &[u8]) -> Result<(), Failure> {
        match &self.maildir {
            None => print(&mbox(&mail, bytes)),
            Some(maildir) => maildir
                .store_new(bytes)
                .map(drop)
                .with_context(|| format!("cannot write into {}", maildir.path().display()))
                .map_err(Failure::Unavailable),
        }
    }

    fn end_batch(&mut self) -> Result<(), Failure> {
        Ok(())
    }
}

/// A mail behind the line that separates mails in an mbox (RFC 4155), with the line ends of a terminal.
/// No line of ours begins with `From `. What could act on a terminal is in no mail of ours either;
/// should it be, it is made visible.
fn mbox(mail: &NewMail, bytes: &[u8]) -> String {
    let date = mail.created_at.strftime("%a %b %e %H:%M:%S %Y");
    let from = if mail.envelope.from.is_empty() { "MAILER-DAEMON" } else { &mail.envelope.from };
    let mut text = format!("From {from} {date}\n");
    for c in String::from_utf8_lossy(bytes).replace("\r\n", "\n").chars() {
        if is_hidden(c) && !matches!(c, '\n' | '\t') {
            text.extend(c.escape_default());
        } else {
            text.push(c);
        }
    }
    text.push('\n');
    text
}

/// A Maildir for nothing but the preview: made here, or empty.
fn fresh_maildir(folder: &Path, outbox: &Path) -> Result<Maildir, Failure> {
    let refuse = |why: &str| {
        let folder = folder.display();
        Err(Failure::Usage(anyhow!("{folder}: {why}: name a folder that is not there yet")))
    };
    let cannot = |error| {
        Failure::Unavailable(anyhow!("cannot make the Maildir {}: {error}", folder.display()))
    };
    if folder.exists() {
        let same = |folder: &Path| -> Option<PathBuf> { folder.canonicalize().ok() };
        if same(folder).is_some_and(|folder| Some(folder) == same(outbox)) {
            return refuse("it is the outbox");
        }
        // Of an empty Maildir, too, there is nothing but the three folders.
        let entries = fs::read_dir(folder).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        for entry in entries.map_err(cannot)? {
            let part = ["cur", "new", "tmp"].iter().any(|part| entry.file_name() == *part);
            let empty = fs::read_dir(entry.path()).is_ok_and(|mut files| files.next().is_none());
            if !(part && empty) {
                return refuse("there is something in it");
            }
        }
    } else {
        // Mails are nobody else's business.
        fs::DirBuilder::new().mode(0o700).create(folder).map_err(cannot)?;
    }
    let maildir = Maildir::from(folder.to_owned());
    maildir.create_dirs().map_err(cannot)?;
    Ok(maildir)
}
