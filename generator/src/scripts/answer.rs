//! From a script's answer to the plan of its mails.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use outbox::Ticket;
use outbox_config::parse_size;
use tracing::{debug, warn};

use super::protocol::{Attachment, Column as SaidColumn, Notification};
use crate::address::{Address, each_once};
use crate::column::{Column, Field};
use crate::formats::{
    Compress, Compression, Data, MailPlan, TemplateChoice, Text, Texts, TicketOf,
};
use crate::group::{EventId, Group, ids};

/// What an answer is held against.
pub(super) struct Question<'a> {
    /// The script's name.
    pub(super) script: &'a str,
    /// What it was asked about.
    pub(super) group: &'a Group,
    /// The texts that it was given.
    pub(super) given: &'a Texts,
    /// The tickets that scripts drew for the group.
    pub(super) tickets: &'a [Ticket],
}

impl Question<'_> {
    /// The plans of mails. Fails in words that name the mail and the key.
    pub(super) fn plans(&self, said: Vec<Notification>) -> Result<Vec<MailPlan>, String> {
        if said.is_empty() {
            return Err("`notifications` is empty: a script that takes no part answers null".into());
        }
        let plans = said.into_iter().enumerate().map(|(index, notification)| {
            self.plan(notification).map_err(|error| format!("notifications[{index}].{error}"))
        });
        let mut plans: Vec<MailPlan> = plans.collect::<Result<_, _>>()?;
        self.settle_claims(&mut plans);
        Ok(plans)
    }

    fn plan(&self, said: Notification) -> Result<MailPlan, String> {
        if said.columns.is_empty() {
            return Err("columns: there is none".into());
        }
        let columns = said.columns.into_iter().enumerate().map(|(index, said)| {
            column(said).map_err(|error| format!("columns[{index}]: {error}"))
        });
        let data = match said.data.as_deref() {
            None | Some("inline") => Data::Inline,
            Some("attachment") => Data::Attachment,
            Some(other) => {
                let wrong = format!("data: {other:?} is neither \"inline\" nor \"attachment\"");
                return Err(wrong);
            }
        };
        Ok(MailPlan {
            columns: columns.collect::<Result<_, _>>()?,
            data,
            report: None,
            encrypt: said.encrypt,
            csv: said.csv,
            compress: said.attachment.map(|said| compress(&said)).transpose()?,
            substitutions: self.texts(said.substitutions)?,
            template: self.template(said.template, said.subject, said.body)?,
            envelope_to: said.envelope_to.map(|list| addresses(&list.0)).transpose()?,
            mark_sent: said.mark_sent,
            ticket: said.ticket.map_or(Ok(TicketOf::Own), |ticket| self.ticket(&ticket))?,
            events: said.event_ids.map(|ids| self.events(&ids)).transpose()?,
        })
    }

    /// Texts of the script. One that it was given and gives back stays what it was.
    pub(super) fn texts(&self, said: BTreeMap<String, String>) -> Result<Texts, String> {
        let mut texts = Texts::new();
        for (name, text) in said {
            if let "ticket_number" | "events_as_csv" = name.as_str() {
                return Err(format!("substitutions.{name}: it has its value from the mail"));
            }
            if self.given.get(&name).is_none_or(|given| given.text != text) {
                let text = Text { verbatim: true, ..self.text(text) };
                texts.insert(name, text);
            }
        }
        Ok(texts)
    }

    fn text(&self, text: String) -> Text {
        Text { text, file: self.script.to_owned(), line: 0, verbatim: false }
    }

    fn template(
        &self,
        name: Option<String>,
        subject: Option<String>,
        body: Option<String>,
    ) -> Result<TemplateChoice, String> {
        match (name, subject, body) {
            (None, None, None) => Ok(TemplateChoice::Named(self.group.key.template_name.clone())),
            (Some(name), None, None) => Ok(TemplateChoice::Named(name)),
            (None, Some(subject), Some(body)) => {
                Ok(TemplateChoice::Inline { subject: self.text(subject), body: self.text(body) })
            }
            (Some(_), ..) => Err("template: it excludes `subject` and `body`".into()),
            (None, Some(_), None) => Err("subject: it needs `body`".into()),
            (None, None, Some(_)) => Err("body: it needs `subject`".into()),
        }
    }

    /// A ticket stands for mails of one group: any other is somebody else's.
    fn ticket(&self, said: &str) -> Result<TicketOf, String> {
        match self.tickets.iter().find(|drawn| drawn.as_str() == said) {
            Some(drawn) => Ok(TicketOf::Given(drawn.clone())),
            None => Err(format!("ticket: {said:?} was not drawn for this group")),
        }
    }

    fn events(&self, said: &BTreeSet<i64>) -> Result<BTreeSet<EventId>, String> {
        let all = self.group.events();
        let events: BTreeSet<EventId> = said.iter().copied().map(EventId).collect();
        if let Some(strange) = events.difference(&all).next() {
            return Err(format!("event_ids: {strange} is not an event of this group"));
        }
        if events.is_empty() {
            return Err("event_ids: there is none".into());
        }
        Ok(events)
    }

    /// Makes copies of those that mark what one before them marks, and tells if directives are left
    /// over.
    fn settle_claims(&self, plans: &mut [MailPlan]) {
        let script = self.script;
        let recipient = &self.group.key.recipient_address;
        let mut unclaimed = self.group.events();
        for (index, plan) in plans.iter_mut().enumerate().filter(|(_, plan)| plan.mark_sent) {
            let before = unclaimed.len();
            match &plan.events {
                None => unclaimed.clear(),
                Some(events) => unclaimed.retain(|id| !events.contains(id)),
            }
            if unclaimed.len() == before {
                plan.mark_sent = false;
                debug!(
                    script,
                    recipient, "notifications[{index}] is a copy: one before it has its directives"
                );
            }
        }
        if !unclaimed.is_empty() {
            let events = ids(unclaimed.iter().map(|id| id.0));
            warn!(
                script,
                recipient,
                events,
                "no notification of the script marks the directives as sent: they stay pending, and \
                 mails are written again in the next run"
            );
        }
    }
}

fn column(said: SaidColumn) -> Result<Column, String> {
    Ok(match said {
        SaidColumn::Field { field, title } => {
            let field = Field::read(&field)?;
            let title = title.unwrap_or_else(|| field.default_title().to_owned());
            Column { field, title }
        }
        SaidColumn::Values { title, values } => {
            let values =
                values.into_iter().map(|(id, text)| (EventId(id), text.unwrap_or_default()));
            Column { field: Field::Given(Arc::new(values.collect())), title }
        }
    })
}

fn compress(said: &Attachment) -> Result<Compress, String> {
    let how = Compression::ALL.into_iter().find(|how| how.as_str() == said.compress);
    let how = how.ok_or_else(|| format!("attachment.compress: {:?} is unknown", said.compress))?;
    let above = said.above.as_deref().map_or(Ok(0), parse_size);
    Ok(Compress { how, above: above.map_err(|error| format!("attachment.above: {error}"))? })
}

fn addresses(said: &[String]) -> Result<Vec<Address>, String> {
    let addresses = said.iter().map(|text| text.trim().parse::<Address>());
    let addresses: Vec<Address> =
        addresses.collect::<Result<_, _>>().map_err(|error| format!("envelope_to: {error}"))?;
    if addresses.is_empty() {
        return Err("envelope_to: there is no address".into());
    }
    Ok(each_once(addresses))
}
