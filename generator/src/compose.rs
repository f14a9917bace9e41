//! From pending groups to mails, batch by batch, for whoever takes them: `run` writes them into the
//! outbox, a dry run only counts them, `preview` shows them.

use std::collections::BTreeSet;
use std::ops::AddAssign;

use anyhow::{Context as _, anyhow};
use outbox::{DirectiveId, NewMail};
use outbox_config::Failure;
use outbox_config::database::Transaction;
use outbox_config::progress::Progress;
use tracing::{debug, error, info};

use crate::facts::Facts;
use crate::fate::Fate;
use crate::formats::{FormatName, Plan};
use crate::group::{EventId, Group, ids};
use crate::part::Part;
use crate::render::{Rendered, fields, render};
use crate::scripts::DatabaseHost;
use crate::store::{self, BadGroup, EventColumns, Pending};
use crate::tickets::Tickets;
use crate::tools::Tools;

/// How many mails share one round of fsync, and how many events are loaded for them at a time.
const BATCH: Limits = Limits { mails: 100, events: 10_000 };

struct Limits {
    mails: usize,
    events: usize,
}

/// What became of groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Mails that claim directives.
    pub mails: usize,
    /// Mails that claim none.
    pub copies: usize,
    /// Groups that wait.
    pub postponed: usize,
    /// Groups, or parts of them, that became no mail though they should.
    pub errors: usize,
}

impl Summary {
    /// Fails if a group failed.
    pub fn check(self) -> Result<(), Failure> {
        match self.errors {
            0 => Ok(()),
            errors => Err(Failure::Failed(anyhow!(
                "groups that failed and stay pending: {errors}, see the lines above"
            ))),
        }
    }
}

impl AddAssign for Summary {
    fn add_assign(&mut self, other: Self) {
        self.mails += other.mails;
        self.copies += other.copies;
        self.postponed += other.postponed;
        self.errors += other.errors;
    }
}

/// Where mails go.
pub trait Sink {
    /// Whether there is room for more; `written` mails were taken so far. Asked before a batch is
    /// made, and so before tickets are drawn for it.
    fn check_room(&self, written: usize) -> Result<(), Failure>;

    /// Takes a mail of the batch.
    fn take(&mut self, mail: NewMail, bytes: &[u8]) -> Result<(), Failure>;

    /// The batch is whole.
    fn end_batch(&mut self) -> Result<(), Failure>;
}

/// Makes mails of groups.
pub struct Composer<'a> {
    /// What it takes to make them.
    pub tools: &'a mut Tools,
    /// The columns that events have.
    pub columns: &'a EventColumns,
    /// Where ticket numbers come from.
    pub tickets: &'a mut dyn Tickets,
    /// Where the mails go.
    pub sink: &'a mut dyn Sink,
    /// Whether what becomes of each group is told at INFO, and not at DEBUG.
    pub tell: bool,
    /// How far it is; none is shown if `None`.
    pub progress: Option<Progress>,
    /// What became of the groups so far.
    pub summary: Summary,
}

/// A group and what it becomes.
struct Planned {
    group: Group,
    plan: Plan,
}

impl Composer<'_> {
    /// Decides on each group, and makes mails in batches. Only trouble with the database or with
    /// where the mails go ends it; what goes wrong with a group is told in the log.
    pub fn compose(&mut self, pending: Pending<'_>) -> Result<(), Failure> {
        let Pending { mut transaction, groups } = pending;
        let mut batch = Vec::new();
        let (mut mails, mut events) = (0, 0);
        for group in groups {
            let Some(planned) = self.plan(group, &mut transaction)? else {
                self.advance();
                continue;
            };
            let number_of_events = planned.group.events().len();
            mails += planned.plan.mails.len() * planned.plan.number_of_parts(number_of_events);
            events += number_of_events;
            batch.push(planned);
            if mails >= BATCH.mails || events >= BATCH.events {
                self.make(&mut transaction, &batch)?;
                batch.clear();
                (mails, events) = (0, 0);
            }
        }
        self.make(&mut transaction, &batch)
    }

    /// The group and its plan, if it becomes a mail now.
    fn plan(
        &mut self,
        group: Result<Group, BadGroup>,
        transaction: &mut Transaction<'_>,
    ) -> Result<Option<Planned>, Failure> {
        let group = match group {
            Ok(group) => group,
            Err(BadGroup { directive_ids, event_ids, reason }) => {
                self.fail(&directive_ids, &event_ids, "", &reason);
                return Ok(None);
            }
        };
        let mut host = DatabaseHost { transaction, columns: self.columns, tickets: self.tickets };
        let mut scripts = self.tools.scripts.with(&mut host);
        match Fate::of(&group, &self.tools.definitions, &mut scripts, self.columns)? {
            Fate::Due(plan) => return Ok(Some(Planned { group, plan: *plan })),
            Fate::Impossible(reason) => {
                let Group { directive_ids, event_ids, .. } = &group;
                self.fail(directive_ids, event_ids, &about(&group), &reason);
            }
            Fate::Postponed { format, until, why } => {
                self.summary.postponed += 1;
                let until = until.map(|until| format!("{until:.0}")).unwrap_or_default();
                let recipient = &group.key.recipient_address;
                if self.tell {
                    info!(%recipient, %format, until, "postponed: {why}");
                } else {
                    debug!(%recipient, %format, until, "postponed: {why}");
                }
            }
        }
        Ok(None)
    }

    fn make(
        &mut self,
        transaction: &mut Transaction<'_>,
        batch: &[Planned],
    ) -> Result<(), Failure> {
        if batch.is_empty() {
            return Ok(());
        }
        self.sink.check_room(self.summary.mails)?;
        let event_ids = batch.iter().flat_map(|planned| planned.group.event_ids.iter().copied());
        let shown = batch.iter().flat_map(|planned| fields(&planned.plan));
        let facts = Facts::fields();
        let shown = shown.chain(&facts).collect();
        let ids: BTreeSet<_> = event_ids.collect();
        let events =
            store::load_events(transaction, self.columns, &ids, &shown).map_err(store::failure)?;
        let needs =
            |planned: &Planned| planned.plan.number_of_tickets(planned.group.events().len());
        let needed = batch.iter().map(needs).sum();
        let tickets = self.tickets.draw(needed).map_err(store::failure)?;
        let mut tickets = tickets.as_slice();
        let mut made = Summary::default();
        for planned in batch {
            let Planned { group, plan } = planned;
            let (own, others) = tickets.split_at(needs(planned));
            tickets = others;
            for Rendered { part, mails } in
                render(self.tools, group, plan, &events, own, outbox::now())
            {
                match mails.with_context(|| format!("format {}", plan.format)) {
                    Err(error) => self.fail_part(group, &part, &format!("{error:#}")),
                    Ok(mails) => {
                        for (mail, bytes) in mails {
                            self.tell_of(&mail, &part, &plan.format);
                            let copy = mail.directive_ids.is_empty();
                            made += Summary {
                                mails: usize::from(!copy),
                                copies: usize::from(copy),
                                ..Summary::default()
                            };
                            self.sink.take(mail, &bytes)?;
                        }
                    }
                }
            }
            self.advance();
        }
        self.sink.end_batch()?;
        self.summary += made;
        Ok(())
    }

    /// One group more is done.
    fn advance(&mut self) {
        if let Some(progress) = &mut self.progress {
            progress.advance();
        }
    }

    fn tell_of(&self, mail: &NewMail, part: &Part, format: &FormatName) {
        let (ticket, recipient) = (&mail.ticket, &mail.group.recipient_address);
        let events = part.event_ids.len();
        if self.tell {
            let to = mail.envelope.to.join(", ");
            info!(%ticket, %recipient, to, events, %format, "composed");
        } else {
            debug!(%ticket, %recipient, events, %format, "composed");
        }
    }

    fn fail_part(&mut self, group: &Group, part: &Part, reason: &str) {
        let event_ids: Vec<_> = part.event_ids.iter().copied().collect();
        self.fail(&part.directive_ids, &event_ids, &about(group), reason);
    }

    /// One ERROR line for a group that stays pending.
    fn fail(
        &mut self,
        directive_ids: &[DirectiveId],
        event_ids: &[EventId],
        about: &str,
        reason: &str,
    ) {
        self.summary.errors += 1;
        let directives = ids(directive_ids.iter().map(|id| id.0));
        let events = ids(event_ids.iter().map(|id| id.0));
        error!(directives, events, "no mail{about}, its directives stay pending: {reason}");
    }
}

fn about(group: &Group) -> String {
    let key = &group.key;
    format!(
        " for {} (template {}, {}, {})",
        key.recipient_address, key.template_name, key.notification_format, key.event_data_format
    )
}
