//! From a group, its plan and its events to the mails, as bytes and as what the outbox must know.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Context as _, anyhow};
use jiff::Timestamp;
use outbox::{Envelope, NewMail, Ticket};

use crate::address::{Address, recipients};
use crate::column::Field;
use crate::event::Event;
use crate::formats::{Data, MailPlan, Plan, Text};
use crate::group::{EventId, Group};
use crate::mail::{Attachment, Letter, MessageId, compose};
use crate::openpgp::Signer;
use crate::table::{Table, TableOptions};
use crate::template::{Filled, Template};
use crate::tools::Tools;

/// The events that were loaded for a batch of groups.
pub type Events = HashMap<EventId, Event>;

/// Makes a group's mail and its copies, all with one ticket. Fails as a whole.
pub fn render(
    tools: &mut Tools,
    group: &Group,
    plan: &Plan,
    events: &Events,
    ticket: &Ticket,
    now: Timestamp,
) -> anyhow::Result<Vec<(NewMail, Vec<u8>)>> {
    let to = recipients(&group.key.recipient_address)?;
    let occasion = Occasion { group, events, ticket, now, to: &to };
    let envelope_to = to.iter().map(|address| address.as_str().to_owned()).collect();
    let mut mails = vec![occasion.letter(tools, &plan.mail, envelope_to)?];
    mails[0].0.directive_ids.clone_from(&group.directive_ids);
    for copy in &plan.copies {
        mails.push(occasion.letter(tools, &copy.mail, copy.envelope_to.clone())?);
    }
    Ok(mails)
}

/// Finds out, without events, ticket or signature, whether a group's mails could be made.
pub fn rehearse(tools: &mut Tools, group: &Group, plan: &Plan) -> anyhow::Result<()> {
    recipients(&group.key.recipient_address)?;
    let ticket = Ticket::new("00000000", 0)?;
    for mail in std::iter::once(&plan.mail).chain(plan.copies.iter().map(|copy| &copy.mail)) {
        let template = tools.templates.get(&mail.template)?;
        fill(&template, mail, group, &ticket, "")?;
    }
    Ok(())
}

/// The fields of events that a plan's tables show.
pub fn fields(plan: &Plan) -> impl Iterator<Item = &Field> {
    std::iter::once(&plan.mail)
        .chain(plan.copies.iter().map(|copy| &copy.mail))
        .flat_map(|mail| mail.columns.iter().map(|column| &column.field))
}

/// What a mail and its copies have in common.
struct Occasion<'a> {
    group: &'a Group,
    events: &'a Events,
    ticket: &'a Ticket,
    now: Timestamp,
    to: &'a [Address],
}

impl Occasion<'_> {
    /// Makes one mail. It claims nothing yet.
    fn letter(
        &self,
        tools: &mut Tools,
        plan: &MailPlan,
        envelope_to: Vec<String>,
    ) -> anyhow::Result<(NewMail, Vec<u8>)> {
        let &Self { group, events, ticket, now, to } = self;
        let csv = table(group, plan, events)?;
        let inline = if plan.data == Data::Inline { csv.as_str() } else { "" };
        let template = tools.templates.get(&plan.template)?;
        let Filled { subject, body } = fill(&template, plan, group, ticket, inline)?;
        let message_id = MessageId::new(ticket, &tools.sender.address)?;
        let attachment = (plan.data == Data::Attachment).then_some(Attachment {
            file_name: "events.csv",
            content_type: "text/csv; charset=utf-8",
            bytes: csv.as_bytes(),
        });
        let letter = Letter {
            from: &tools.sender,
            to,
            subject: &subject,
            body: &body,
            attachment,
            date: now,
            message_id: &message_id,
            ticket,
        };
        let bytes =
            compose(&letter, tools.signer.as_mut().map(|signer| signer as &mut dyn Signer))?;
        let mail = NewMail {
            ticket: ticket.clone(),
            message_id: message_id.as_str().to_owned(),
            created_at: now,
            subject,
            envelope: Envelope { from: tools.envelope_from.of(ticket), to: envelope_to },
            directive_ids: Vec::new(),
            group: group.key.clone(),
        };
        Ok((mail, bytes))
    }
}

/// The group's events as CSV. An event that two directives are about has one row.
fn table(group: &Group, plan: &MailPlan, events: &Events) -> anyhow::Result<String> {
    let mut table = Table::new(&plan.columns, TableOptions::default());
    for id in group.event_ids.iter().collect::<BTreeSet<_>>() {
        let event = events.get(id).with_context(|| format!("event {id} is gone"))?;
        table.add(event)?;
    }
    Ok(table.into_csv())
}

/// Fills a template. A name means, in this order: what every mail has, the aggregate identifier,
/// the format's substitutions, whose texts may name the former two.
fn fill(
    template: &Template,
    plan: &MailPlan,
    group: &Group,
    ticket: &Ticket,
    csv: &str,
) -> anyhow::Result<Filled> {
    let aggregate = &group.key.aggregate_identifier;
    let known = |name: &str| match name {
        "ticket_number" => Some(ticket.as_str()),
        name => aggregate.get(name).map(|value| value.as_deref().unwrap_or_default()),
    };
    let mut expanded = BTreeMap::new();
    for placeholder in template.placeholders() {
        let name = placeholder.name.as_str();
        if let Some(Text { text, file, line }) = plan.substitutions.get(name)
            && known(name).is_none()
            && !expanded.contains_key(name)
        {
            let text = Template::from_parts(&format!("{file}:{line}"), "", text)
                .and_then(|template| template.fill(known))
                .map_err(|error| anyhow!("{error}"))
                .with_context(|| format!("the substitution {name}"))?;
            expanded.insert(name.to_owned(), text.body);
        }
    }
    let filled = template.fill(|name| match name {
        "events_as_csv" => Some(csv),
        name => known(name).or_else(|| expanded.get(name).map(String::as_str)),
    })?;
    Ok(filled)
}
