//! `run`: what is pending becomes mails in the outbox; all of it, or what a person chooses, or, in a
//! dry run, nothing.

use anyhow::anyhow;
use outbox::{DirectiveId, Draft, Generator, NewMail, Outbox};
use outbox_config::progress::Progress;
use outbox_config::{Config, Failure, OutboxSettings};
use tracing::{info, warn};

use crate::cli::RunArgs;
use crate::compose::{Composer, Sink, Summary};
use crate::interactive;
use crate::store::{self, EventColumns, Scope};
use crate::tickets::{Drawn, Pretended, Tickets};
use crate::tools::{Tools, claims};

/// Writes what is pending into the outbox.
pub fn run(config: &Config, args: &RunArgs, verbose: u8) -> Result<(), Failure> {
    if !args.all {
        interactive::check_terminal()?;
    }
    let tools = Tools::load(config)?;
    // A password that can't be read is the configuration's fault, and no outage.
    config.database()?.event.password()?;
    let outbox = Outbox::open(&config.outbox.path).map_err(Failure::unavailable)?;
    let target = if args.dry_run {
        Target::Nowhere
    } else {
        let Some(generator) = outbox.lock_generator().map_err(Failure::unavailable)? else {
            info!("another outbox-generator writes into this outbox: nothing to do");
            return Ok(());
        };
        recover(&generator)?;
        Target::Outbox { generator, drafts: Vec::new() }
    };
    let mut run = Run { config, tools, outbox: &outbox, target, summary: Summary::default() };
    if args.all {
        if run.write(None)? == Outcome::NotOurTurn {
            return Ok(());
        }
    } else {
        interactive::ask(&mut run, args.batch_size.get(), verbose > 1)?;
    }
    let Summary { mails, copies, postponed, errors } = run.summary;
    if args.dry_run {
        info!(mails, copies, postponed, errors, "dry run, nothing was written: these would be");
    } else {
        info!(mails, copies, postponed, errors, "done");
    }
    run.summary.check()
}

fn recover(generator: &Generator<'_>) -> Result<(), Failure> {
    let recovered = generator.recover().map_err(Failure::unavailable)?;
    let (published, removed) = (recovered.published.len(), recovered.removed.len());
    if published + removed > 0 {
        warn!(published, removed, "an earlier run was interrupted: ended its work");
    }
    Ok(())
}

/// A run at work. It holds the outbox's lock, unless it is a dry one.
pub struct Run<'o> {
    pub(crate) config: &'o Config,
    pub(crate) tools: Tools,
    pub(crate) outbox: &'o Outbox,
    target: Target<'o>,
    summary: Summary,
}

/// Whether anything was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All was done that could be: this became of it.
    Done(Summary),
    /// Somebody else is at it, as the log tells.
    NotOurTurn,
}

impl Run<'_> {
    /// Whether nothing is written.
    pub fn is_dry(&self) -> bool {
        matches!(self.target, Target::Nowhere)
    }

    /// Writes what is pending, or `only` what is of these directives. The locks in the database are
    /// held meanwhile, and no longer.
    pub fn write(&mut self, only: Option<&[DirectiveId]>) -> Result<Outcome, Failure> {
        let database = &self.config.database()?.event;
        // Before the database is asked: the deliverer removes a claim only after the database knows.
        let claims = claims(self.outbox)?;
        let mut client = store::open(database)?;
        let columns = EventColumns::read(&mut client).map_err(store::failure)?;
        let scope = Scope::of(self.config)?.only(only);
        let mut ticket_client;
        let (pending, mut tickets): (_, Box<dyn Tickets>) = match self.target {
            Target::Nowhere => {
                let pending = store::peek(&mut client, scope, &claims)?;
                (pending, Box::new(Pretended::default()))
            }
            Target::Outbox { .. } => {
                // Tickets are committed while the run's transaction is still open.
                ticket_client = store::open(database)?;
                let Some(pending) = store::pending(&mut client, scope, &claims)? else {
                    return Ok(Outcome::NotOurTurn);
                };
                let last = claims.last_ticket.as_ref();
                (pending, Box::new(Drawn::new(&mut ticket_client, last)))
            }
        };
        let mut composer = Composer {
            tools: &mut self.tools,
            columns: &columns,
            tickets: tickets.as_mut(),
            sink: &mut Writer {
                target: &mut self.target,
                outbox: self.outbox,
                floor: &self.config.outbox,
                before: self.summary.mails,
            },
            tell: false,
            progress: Some(Progress::start(pending.groups.len(), "groups")),
            summary: Summary::default(),
        };
        composer.compose(pending)?;
        let summary = composer.summary;
        self.summary += summary;
        Ok(Outcome::Done(summary))
    }
}

/// Where a run's mails go.
enum Target<'o> {
    /// Into the outbox, with each batch.
    Outbox { generator: Generator<'o>, drafts: Vec<Draft> },
    /// Nowhere: it is a dry run.
    Nowhere,
}

/// How many drafts at most have their files open: most systems allow a process 1024 files.
const OPEN: usize = 200;

struct Writer<'t, 'o> {
    target: &'t mut Target<'o>,
    outbox: &'o Outbox,
    floor: &'t OutboxSettings,
    /// How many mails this run wrote before.
    before: usize,
}

impl Sink for Writer<'_, '_> {
    /// Nothing more is written where there is too little room: a full disk would stop the deliverer
    /// too, which must write down what the relay says.
    fn check_room(&self, written: usize) -> Result<(), Failure> {
        let written = self.before + written;
        let room = self.outbox.room().map_err(Failure::unavailable)?;
        self.floor.room_for_mails(room.octets, room.files).map(drop).map_err(|too_little| {
            Failure::Unavailable(anyhow!(
                "no more mails are written ({written} were in this run): {too_little}"
            ))
        })
    }

    fn take(&mut self, mail: NewMail, bytes: &[u8]) -> Result<(), Failure> {
        if let Target::Outbox { generator, drafts } = self.target {
            drafts.push(generator.draft(mail, bytes).map_err(Failure::unavailable)?);
            // Each has two files open, and a single group can become any number of mails.
            if drafts.len() % OPEN == 0 {
                let open = drafts.len() - OPEN;
                drafts[open..]
                    .iter_mut()
                    .try_for_each(Draft::settle)
                    .map_err(Failure::unavailable)?;
            }
        }
        Ok(())
    }

    fn end_batch(&mut self) -> Result<(), Failure> {
        if let Target::Outbox { generator, drafts } = self.target {
            generator.publish(std::mem::take(drafts)).map_err(Failure::unavailable)?;
        }
        Ok(())
    }
}
