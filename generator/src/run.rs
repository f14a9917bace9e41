//! `run`: what is pending becomes mails in the outbox.

use std::collections::BTreeSet;

use anyhow::{Context as _, anyhow};
use outbox::{Draft, Generator, Outbox};
use outbox_config::{Config, Failure, OutboxSettings};
use postgres::Transaction;
use tracing::{debug, error, info, warn};

use crate::facts::Facts;
use crate::fate::Fate;
use crate::formats::Plan;
use crate::group::{EventId, Group, ids};
use crate::part::Part;
use crate::render::{Rendered, fields, render};
use crate::scripts::DatabaseHost;
use crate::store::{self, BadGroup, EventColumns, Pending};
use crate::tickets::{Drawn, Tickets};
use crate::tools::{Tools, claims};

/// How many mails share one round of fsync, and how many events are loaded for them at a time.
const BATCH: Limits = Limits { mails: 100, events: 10_000 };

struct Limits {
    mails: usize,
    events: usize,
}

/// What a run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Summary {
    mails: usize,
    copies: usize,
    postponed: usize,
    errors: usize,
}

/// Writes all that is pending into the outbox.
pub fn run(config: &Config) -> Result<(), Failure> {
    let mut tools = Tools::load(config)?;
    let database = config.database()?;
    // A password that can't be read is the configuration's fault, and no outage.
    database.event.password()?;
    let outbox = Outbox::open(&config.outbox.path).map_err(Failure::unavailable)?;
    let Some(mut generator) = outbox.lock_generator().map_err(Failure::unavailable)? else {
        info!("another outbox-generator writes into this outbox: nothing to do");
        return Ok(());
    };
    recover(&generator)?;
    // Before the database is asked: the deliverer removes a claim only after the database knows.
    let claims = claims(generator.outbox())?;

    let mut client = store::open(&database.event)?;
    // Tickets are committed while the run's transaction is still open.
    let mut ticket_client = store::open(&database.event)?;
    let columns = EventColumns::read(&mut client).map_err(Failure::Unavailable)?;
    let condition = database.additional_directive_where.as_deref();
    let pending = store::pending(&mut client, condition, &claims)?;
    let Some(Pending { mut transaction, groups }) = pending else {
        return Ok(());
    };
    let mut writer = Writer {
        tools: &mut tools,
        generator: &mut generator,
        columns: &columns,
        transaction: &mut transaction,
        tickets: &mut Drawn::new(&mut ticket_client, claims.last_ticket.as_ref()),
        floor: &config.outbox,
        summary: Summary::default(),
    };
    writer.write(groups)?;
    let Summary { mails, copies, postponed, errors } = writer.summary;
    info!(mails, copies, postponed, errors, "done");
    if errors > 0 {
        return Err(Failure::Failed(anyhow!(
            "{errors} groups failed and stay pending: see the lines above"
        )));
    }
    Ok(())
}

fn recover(generator: &Generator<'_>) -> Result<(), Failure> {
    let recovered = generator.recover().map_err(Failure::unavailable)?;
    let (published, removed) = (recovered.published.len(), recovered.removed.len());
    if published + removed > 0 {
        warn!(published, removed, "an earlier run was interrupted: ended its work");
    }
    Ok(())
}

/// A group and what it becomes.
struct Planned {
    group: Group,
    plan: Plan,
}

struct Writer<'a, 'c, 'o> {
    tools: &'a mut Tools,
    generator: &'a mut Generator<'o>,
    columns: &'a EventColumns,
    transaction: &'a mut Transaction<'c>,
    tickets: &'a mut dyn Tickets,
    floor: &'a OutboxSettings,
    summary: Summary,
}

impl Writer<'_, '_, '_> {
    /// Decides on each group, and writes in batches. Only trouble with database or outbox ends it.
    fn write(&mut self, groups: Vec<Result<Group, BadGroup>>) -> Result<(), Failure> {
        let mut batch = Vec::new();
        let (mut mails, mut events) = (0, 0);
        for group in groups {
            let group = match group {
                Ok(group) => group,
                Err(bad) => {
                    self.fail(&bad.directive_ids, &bad.event_ids, "", &bad.reason);
                    continue;
                }
            };
            let Some(plan) = self.decide(&group)? else { continue };
            mails += plan.mails.len() * plan.number_of_parts(group.events().len());
            events += group.event_ids.len();
            batch.push(Planned { group, plan });
            if mails >= BATCH.mails || events >= BATCH.events {
                self.write_batch(&batch)?;
                batch.clear();
                (mails, events) = (0, 0);
            }
        }
        self.write_batch(&batch)
    }

    /// The group's plan, if it becomes a mail now.
    fn decide(&mut self, group: &Group) -> Result<Option<Plan>, Failure> {
        let mut host = DatabaseHost {
            transaction: self.transaction,
            columns: self.columns,
            tickets: self.tickets,
        };
        let mut scripts = self.tools.scripts.with(&mut host);
        match Fate::of(group, &self.tools.definitions, &mut scripts, self.columns)? {
            Fate::Due(plan) => return Ok(Some(*plan)),
            Fate::Impossible(reason) => self.fail_group(group, &reason),
            Fate::Postponed { format, until, why } => {
                self.summary.postponed += 1;
                let until = until.map(|until| format!("{until:.0}")).unwrap_or_default();
                let recipient = &group.key.recipient_address;
                debug!(%recipient, %format, until, "postponed: {why}");
            }
        }
        Ok(None)
    }

    fn write_batch(&mut self, batch: &[Planned]) -> Result<(), Failure> {
        if batch.is_empty() {
            return Ok(());
        }
        self.check_room()?;
        let event_ids = batch.iter().flat_map(|planned| planned.group.event_ids.iter().copied());
        let shown = batch.iter().flat_map(|planned| fields(&planned.plan));
        let facts = Facts::fields();
        let shown = shown.chain(&facts).collect();
        let ids: BTreeSet<_> = event_ids.collect();
        let events = store::load_events(self.transaction, self.columns, &ids, &shown)
            .map_err(Failure::Unavailable)?;
        let needs =
            |planned: &Planned| planned.plan.number_of_tickets(planned.group.events().len());
        let needed = batch.iter().map(needs).sum();
        let tickets = self.tickets.draw(needed).map_err(Failure::Unavailable)?;
        let mut tickets = tickets.as_slice();
        let mut drafts: Vec<Draft> = Vec::new();
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
                            debug!(
                                ticket = %mail.ticket, recipient = %group.key.recipient_address,
                                events = part.event_ids.len(), format = %plan.format, "composed"
                            );
                            drafts.push(
                                self.generator.draft(mail, &bytes).map_err(Failure::unavailable)?,
                            );
                        }
                    }
                }
            }
        }
        let copies = drafts.iter().filter(|draft| !draft.sidecar().mark_sent).count();
        let written = drafts.len();
        self.generator.publish(drafts).map_err(Failure::unavailable)?;
        self.summary.mails += written - copies;
        self.summary.copies += copies;
        Ok(())
    }

    /// Writes nothing more, and draws no ticket for it, where there is too little room: a full disk
    /// would stop the deliverer too, which must write down what the relay says.
    fn check_room(&self) -> Result<(), Failure> {
        let room = self.generator.outbox().room().map_err(Failure::unavailable)?;
        self.floor.room_for_mails(room.octets, room.files).map(drop).map_err(|too_little| {
            let written = self.summary.mails;
            Failure::Unavailable(anyhow!(
                "no more mails are written ({written} were in this run): {too_little}"
            ))
        })
    }

    fn fail_group(&mut self, group: &Group, reason: &str) {
        self.fail_about(group, &group.directive_ids, &group.event_ids, reason);
    }

    fn fail_part(&mut self, group: &Group, part: &Part, reason: &str) {
        let event_ids: Vec<_> = part.event_ids.iter().copied().collect();
        self.fail_about(group, &part.directive_ids, &event_ids, reason);
    }

    fn fail_about(
        &mut self,
        group: &Group,
        directive_ids: &[outbox::DirectiveId],
        event_ids: &[EventId],
        reason: &str,
    ) {
        let key = &group.key;
        let about = format!(
            " for {} (template {}, {}, {})",
            key.recipient_address,
            key.template_name,
            key.notification_format,
            key.event_data_format
        );
        self.fail(directive_ids, event_ids, &about, reason);
    }

    /// One ERROR line for a group that stays pending.
    fn fail(
        &mut self,
        directive_ids: &[outbox::DirectiveId],
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
