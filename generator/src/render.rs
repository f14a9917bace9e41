//! From a group, its plan and its events to the mails, as bytes and as what the outbox must know.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Context as _, anyhow};
use jiff::Timestamp;
use outbox::{Envelope, NewMail, Ticket};

use crate::address::{Address, recipients};
use crate::column::Field;
use crate::event::Event;
use crate::facts::Facts;
use crate::formats::{Data, MailPlan, Plan, TicketOf};
use crate::group::{EventId, Group};
use crate::mail::{Attachment, Letter, MessageId, compose};
use crate::openpgp::Signer;
use crate::part::{Part, parts};
use crate::table::{Table, TableOptions};
use crate::template::{Filled, Template};
use crate::tickets::{Pretended, Tickets as _};
use crate::tools::Tools;

/// The events that were loaded for a batch of groups.
pub type Events = HashMap<EventId, Event>;

/// The mails of one part of a group, or why there are none.
pub struct Rendered {
    /// The part.
    pub part: Part,
    /// What the outbox must know of each mail, and the mail; they are written together.
    pub mails: anyhow::Result<Vec<(NewMail, Vec<u8>)>>,
}

/// Makes the mails of each part of a group. A part that fails, fails as a whole and alone.
///
/// `tickets` has as many as the plan [needs](Plan::number_of_tickets).
pub fn render(
    tools: &mut Tools,
    group: &Group,
    plan: &Plan,
    events: &Events,
    tickets: &[Ticket],
    now: Timestamp,
) -> Vec<Rendered> {
    let parts = parts(group, plan);
    let own = tickets.len() / parts.len().max(1);
    let render = |part: Part| {
        let tickets = &tickets[own * (part.number - 1)..][..own];
        let mails = Occasion::new(group, &part, events, now)
            .and_then(|occasion| occasion.letters(tools, plan, tickets));
        Rendered { mails, part }
    };
    parts.into_iter().map(render).collect()
}

/// Finds out, without events, ticket or signature, whether a group's mails could be made.
pub fn rehearse(tools: &mut Tools, group: &Group, plan: &Plan) -> anyhow::Result<()> {
    let ticket = Pretended::default().draw(1)?.remove(0);
    let events = Events::new();
    for part in parts(group, plan).iter().take(1) {
        let occasion = Occasion::new(group, part, &events, outbox::now())?;
        for mail in &plan.mails {
            let template = tools.templates.get(&mail.template)?;
            occasion.fill(&template, mail, &ticket, "")?;
        }
    }
    Ok(())
}

/// The fields of events that a plan's tables show.
pub fn fields(plan: &Plan) -> impl Iterator<Item = &Field> {
    plan.mails.iter().flat_map(|mail| mail.columns.iter().map(|column| &column.field))
}

/// What the mails of a part have in common.
struct Occasion<'a> {
    group: &'a Group,
    part: &'a Part,
    events: &'a Events,
    facts: Facts,
    now: Timestamp,
    to: Vec<Address>,
}

impl<'a> Occasion<'a> {
    fn new(
        group: &'a Group,
        part: &'a Part,
        events: &'a Events,
        now: Timestamp,
    ) -> anyhow::Result<Self> {
        let to = recipients(&group.key.recipient_address)?;
        Ok(Self { group, part, events, facts: Facts::of(group, part, events), now, to })
    }

    /// Makes the part's mails. The first that marks its directives as sent claims them.
    fn letters(
        &self,
        tools: &mut Tools,
        plan: &Plan,
        tickets: &[Ticket],
    ) -> anyhow::Result<Vec<(NewMail, Vec<u8>)>> {
        let mut unclaimed: BTreeSet<_> = self.part.directive_ids.iter().copied().collect();
        let mut tickets = tickets.iter();
        let mut ticket = None;
        let mut mails = Vec::new();
        for mail in &plan.mails {
            ticket = match &mail.ticket {
                TicketOf::Own => tickets.next(),
                TicketOf::Same => ticket,
                TicketOf::Given(given) => Some(given),
            };
            let ticket = ticket.context("a mail has no ticket")?;
            let some = mail.events.as_ref().map(|events| self.part.about(self.group, events));
            let about = |part| Occasion::new(self.group, part, self.events, self.now);
            let about_some = some.as_ref().map(about).transpose()?;
            let occasion = about_some.as_ref().unwrap_or(self);
            let (mut new, bytes) = occasion.letter(tools, mail, ticket)?;
            if mail.mark_sent {
                let own = occasion.part.directive_ids.iter().copied();
                new.directive_ids = own.filter(|id| unclaimed.remove(id)).collect();
            }
            mails.push((new, bytes));
        }
        Ok(mails)
    }

    /// Makes one mail. It claims nothing yet.
    fn letter(
        &self,
        tools: &mut Tools,
        plan: &MailPlan,
        ticket: &Ticket,
    ) -> anyhow::Result<(NewMail, Vec<u8>)> {
        let csv = self.table(plan)?;
        let inline = if plan.data == Data::Inline { csv.as_str() } else { "" };
        let template = tools.templates.get(&plan.template)?;
        let Filled { subject, body } = self.fill(&template, plan, ticket, inline)?;
        let message_id = MessageId::new(ticket, &tools.sender.address)?;
        let attachment = (plan.data == Data::Attachment).then_some(Attachment {
            file_name: "events.csv",
            content_type: "text/csv; charset=utf-8",
            bytes: csv.as_bytes(),
        });
        let letter = Letter {
            from: &tools.sender,
            to: &self.to,
            subject: &subject,
            body: &body,
            attachment,
            date: self.now,
            message_id: &message_id,
            ticket,
        };
        let bytes =
            compose(&letter, tools.signer.as_mut().map(|signer| signer as &mut dyn Signer))?;
        let envelope_to = plan.envelope_to.as_ref().unwrap_or(&self.to);
        let mail = NewMail {
            ticket: ticket.clone(),
            message_id: message_id.as_str().to_owned(),
            created_at: self.now,
            subject,
            envelope: Envelope {
                from: tools.envelope_from.of(ticket),
                to: envelope_to.iter().map(ToString::to_string).collect(),
            },
            directive_ids: Vec::new(),
            group: self.group.key.clone(),
        };
        Ok((mail, bytes))
    }

    /// The part's events as CSV. An event that two directives are about has one row.
    fn table(&self, plan: &MailPlan) -> anyhow::Result<String> {
        let mut table = Table::new(&plan.columns, TableOptions::default());
        for id in &self.part.event_ids {
            let event = self.events.get(id).with_context(|| format!("event {id} is gone"))?;
            table.add(event)?;
        }
        Ok(table.into_csv())
    }

    /// Fills a template. A name means, in this order: the ticket and the table of events, the
    /// aggregate identifier, a substitution of the plan, a fact. A substitution's text may itself name
    /// all of these but the table and substitutions.
    fn fill(
        &self,
        template: &Template,
        plan: &MailPlan,
        ticket: &Ticket,
        csv: &str,
    ) -> anyhow::Result<Filled> {
        let aggregate = &self.group.key.aggregate_identifier;
        let aggregate = |name: &str| aggregate.get(name).map(|v| v.as_deref().unwrap_or_default());
        let known = |name: &str| match name {
            "ticket_number" => Some(ticket.as_str()),
            name => aggregate(name),
        };
        let mut expanded = BTreeMap::new();
        for placeholder in template.placeholders() {
            let name = placeholder.name.as_str();
            if let Some(text) = plan.substitutions.get(name)
                && known(name).is_none()
                && !expanded.contains_key(name)
            {
                if text.verbatim {
                    expanded.insert(name.to_owned(), text.text.clone());
                    continue;
                }
                let text = Template::from_parts(&text.place(), "", &text.text)
                    .and_then(|template| {
                        template.fill(|name| known(name).or_else(|| self.facts.get(name)))
                    })
                    .map_err(|error| anyhow!("{error}"))
                    .with_context(|| format!("the substitution {name}"))?;
                expanded.insert(name.to_owned(), text.body);
            }
        }
        let filled = template.fill(|name| match name {
            "events_as_csv" => Some(csv),
            name => known(name)
                .or_else(|| expanded.get(name).map(String::as_str))
                .or_else(|| self.facts.get(name)),
        })?;
        Ok(filled)
    }
}
