//! From a group, its plan and its events to the mails, as bytes and as what the outbox must know.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, anyhow, bail};
use jiff::{SignedDuration, Timestamp};
use outbox::{Envelope, NewMail, Ticket};
use outbox_config::size_words;

use crate::address::{Address, recipients};
use crate::column::Field;
use crate::event::Event;
use crate::facts::Facts;
use crate::formats::{Compress, Data, MailPlan, Plan, TicketOf};
use crate::group::{EventId, Group};
use crate::mail::{Attachment, Letter, MessageId, With, compose};
use crate::pack::{Packed, pack};
use crate::part::{Part, parts};
use crate::store::Events;
use crate::table::{Table, TableOptions};
use crate::template::{Filled, Template};
use crate::tickets::{Pretended, Tickets as _};
use crate::tools::Tools;
use crate::xarf;

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
        // Copies are known as such by the instant that they share with their mail alone.
        let after = SignedDuration::from_micros(i64::try_from(part.number - 1).unwrap_or(0));
        let occasion = Occasion::new(group, &part, events, now + after);
        let mails = occasion.and_then(|occasion| occasion.letters(tools, plan, tickets));
        Rendered { part, mails }
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
            occasion.fill(&template, mail, &ticket, Shown::default())?;
            let envelope_to = tools.destinations.of(occasion.to(mail))?;
            tools.openpgp.rehearse(mail.encrypt, envelope_to)?;
        }
    }
    Ok(())
}

/// The fields of events that a plan's tables and reports show.
pub fn fields(plan: &Plan) -> impl Iterator<Item = &Field> {
    plan.mails.iter().flat_map(|mail| {
        let reported = mail.report.iter().flat_map(|mapping| mapping.fields());
        mail.columns.iter().map(|column| &column.field).chain(reported)
    })
}

/// The name of the file that holds a table of events.
const TABLE: &str = "events.csv";

/// How a mail shows its table of events: in the text, or in a file with that name.
#[derive(Clone, Copy, Debug, Default)]
struct Shown<'a> {
    events_as_csv: &'a str,
    attachment_name: &'a str,
}

/// Refuses a mail that is larger than is allowed.
fn check_size(mail: &[u8], most: Option<u64>) -> anyhow::Result<()> {
    let size = mail.len() as u64;
    match most.filter(|most| size > *most) {
        None => Ok(()),
        Some(most) => bail!(
            "the mail has {}, which is more than outbox.max_mail_size ({}): let the format compress \
             the attachment or split the group (attachment, split_after), or allow more",
            size_words(size),
            size_words(most)
        ),
    }
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
        let mut marking = BTreeSet::new();
        let mut tickets = tickets.iter();
        let mut ticket = None;
        let mut mails = Vec::new();
        for mail in &plan.mails {
            ticket = match &mail.ticket {
                TicketOf::Own => tickets.next(),
                TicketOf::Same => ticket,
                TicketOf::Given(given) => Some(given),
            };
            let ticket = ticket.expect("there is a ticket for each mail that needs one");
            let some = mail.events.as_ref().map(|events| self.part.about(self.group, events));
            let about = |part| Occasion::new(self.group, part, self.events, self.now);
            let about_some = some.as_ref().map(about).transpose()?;
            let occasion = about_some.as_ref().unwrap_or(self);
            let (mut new, bytes) = occasion.letter(tools, mail, ticket)?;
            if mail.mark_sent {
                let own = occasion.part.directive_ids.iter().copied();
                new.directive_ids = own.filter(|id| unclaimed.remove(id)).collect();
            }
            // The deliverer knows by the ticket what it has marked already.
            if !new.directive_ids.is_empty() && !marking.insert(ticket) {
                bail!(
                    "two mails that mark different directives as sent have the ticket {ticket}: each \
                     needs one of its own"
                );
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
        let envelope_to = tools.destinations.of(self.to(plan))?;
        let csv = self.table(plan)?;
        let packed = self.packed(plan, &csv)?;
        let report = match &plan.report {
            Some(mapping) => {
                Some(xarf::report(mapping, self.reported()?, &tools.reporter, ticket)?)
            }
            None => None,
        };
        let with = match (&report, plan.data, &packed) {
            (Some(report), ..) => With::Report(report),
            (None, Data::Attachment, None) => With::File(Attachment {
                file_name: TABLE,
                content_type: "text/csv; charset=utf-8",
                bytes: csv.as_bytes(),
            }),
            (None, Data::Attachment, Some(Packed { name, content_type, bytes })) => {
                With::File(Attachment { file_name: name, content_type, bytes })
            }
            (None, ..) => With::Nothing,
        };
        let shown = match with {
            With::File(file) => Shown { events_as_csv: "", attachment_name: file.file_name },
            With::Nothing | With::Report(_) => Shown { events_as_csv: &csv, attachment_name: "" },
        };
        let template = tools.templates.get(&plan.template)?;
        let Filled { subject, body } = self.fill(&template, plan, ticket, shown)?;
        let message_id = MessageId::new(ticket, &tools.sender.address)?;
        let letter = Letter {
            from: &tools.sender,
            to: &self.to,
            subject: &subject,
            body: &body,
            with,
            date: self.now,
            message_id: &message_id,
            ticket,
        };
        let bytes = compose(&letter, tools.openpgp.protection(plan.encrypt, envelope_to)?)?;
        check_size(&bytes, tools.max_mail_size)?;
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
        let bom = plan.csv.bom && plan.data == Data::Attachment;
        let mut table = Table::new(&plan.columns, TableOptions { bom, ..plan.csv });
        for id in &self.part.event_ids {
            table.add(self.event(*id)?)?;
        }
        Ok(table.into_csv())
    }

    /// The one event of a part that is reported.
    fn reported(&self) -> anyhow::Result<&Event> {
        let id = self.part.event_ids.first().expect("a part is about an event at least");
        self.event(*id)
    }

    fn event(&self, id: EventId) -> anyhow::Result<&Event> {
        let event = self.events.get(&id).with_context(|| format!("event {id} is gone"))?;
        event.as_ref().map_err(|unreadable| anyhow!("{unreadable}"))
    }

    /// The table in a compressed file, if it is large enough for the plan to want that.
    fn packed(&self, plan: &MailPlan, csv: &str) -> anyhow::Result<Option<Packed>> {
        let large = |compress: &Compress| csv.len() as u64 > compress.above;
        match plan.compress.filter(large) {
            Some(Compress { how, .. }) if plan.data == Data::Attachment => {
                let packed = pack(how, TABLE, csv.as_bytes(), self.now);
                packed.map(Some).context("the attachment cannot be compressed")
            }
            _ => Ok(None),
        }
    }

    /// Whom a mail is for, as far as the plan goes.
    fn to<'p>(&'p self, plan: &'p MailPlan) -> &'p [Address] {
        plan.envelope_to.as_ref().unwrap_or(&self.to)
    }

    /// Fills a template. A name means, in this order: the ticket and what is shown of the events, the
    /// aggregate identifier, a substitution of the plan, a fact. A substitution's text may itself name
    /// all of these but the table and substitutions.
    fn fill(
        &self,
        template: &Template,
        plan: &MailPlan,
        ticket: &Ticket,
        shown: Shown<'_>,
    ) -> anyhow::Result<Filled> {
        let aggregate = &self.group.key.aggregate_identifier;
        let aggregate = |name: &str| aggregate.get(name).map(|v| v.as_deref().unwrap_or_default());
        let known = |name: &str| match name {
            "ticket_number" => Some(ticket.as_str()),
            "attachment_name" => Some(shown.attachment_name),
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
            "events_as_csv" => Some(shown.events_as_csv),
            name => known(name)
                .or_else(|| expanded.get(name).map(String::as_str))
                .or_else(|| self.facts.get(name)),
        })?;
        Ok(filled)
    }
}
