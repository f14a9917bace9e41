//! What becomes of a group: the rules asked in their order.

use jiff::Timestamp;
use outbox::GroupKey;

use super::Definitions;
use super::error::DecideError;
use super::plan::{Data, Decision, FormatName, MailPlan, Plan, TemplateChoice, TicketOf};
use super::postpone::Wait;
use super::rules::{Copy, File, Format, Texts};
use crate::group::Group;

impl Definitions {
    /// Asks the formats in their order what becomes of `group` at `now`; the first that is for it
    /// decides. `None` if no format is.
    ///
    /// Fails if that format asks for something of the group that the group does not have.
    pub fn decide(&self, group: &Group, now: Timestamp) -> Result<Option<Decision>, DecideError> {
        let mut given = Given { key: &group.key, files: Vec::new(), copies: Vec::new() };
        for file in &self.files {
            given.add(file);
            for format in &file.formats {
                if let Some(data) = takes(format, &group.key) {
                    let name = FormatName { name: format.name.clone(), file: file.name.clone() };
                    return match format.postpone.wait(group, &name, now)? {
                        Some(Wait { until, why }) => {
                            Ok(Some(Decision::Postponed { format: name, until, why }))
                        }
                        None => {
                            Ok(Some(Decision::Compose(Box::new(given.plan(name, format, data)))))
                        }
                    };
                }
            }
        }
        Ok(None)
    }
}

/// A format is for the groups that its condition matches and that it has a form of data for.
fn takes(format: &Format, key: &GroupKey) -> Option<Data> {
    if !format.condition.matches(key) {
        return None;
    }
    format.data.choose(&key.event_data_format)
}

/// What the files so far give to a group's mails, whatever format takes it.
struct Given<'d> {
    key: &'d GroupKey,
    files: Vec<&'d File>,
    copies: Vec<&'d Copy>,
}

impl<'d> Given<'d> {
    fn add(&mut self, file: &'d File) {
        self.files.push(file);
        self.copies.extend(file.copies.iter().filter(|copy| copy.condition.matches(self.key)));
    }

    fn plan(&self, name: FormatName, format: &Format, data: Data) -> Plan {
        let template = format.template.clone();
        let mail = MailPlan {
            columns: format.columns.clone(),
            data,
            substitutions: self.substitutions(data, &[&format.substitutions]),
            template: template
                .unwrap_or_else(|| TemplateChoice::Named(self.key.template_name.clone())),
            envelope_to: None,
            mark_sent: true,
            ticket: TicketOf::Own,
        };
        let copies = self.copies.iter().map(|copy| self.copy(copy, format, &mail));
        let copies: Vec<_> = copies.collect();
        let mails = std::iter::once(mail).chain(copies).collect();
        Plan { format: name, mails, split_after: None }
    }

    fn copy(&self, copy: &Copy, format: &Format, mail: &MailPlan) -> MailPlan {
        let own = copy.data.as_ref().and_then(|rule| rule.choose(&self.key.event_data_format));
        let data = own.unwrap_or(mail.data);
        MailPlan {
            columns: copy.columns.as_ref().unwrap_or(&mail.columns).clone(),
            data,
            substitutions: self.substitutions(data, &[&format.substitutions, &copy.substitutions]),
            template: copy.template.as_ref().unwrap_or(&mail.template).clone(),
            envelope_to: Some(copy.envelope_to.clone()),
            mark_sent: false,
            ticket: TicketOf::Same,
        }
    }

    /// The later file wins, and what is more particular wins over what is more general.
    fn substitutions(&self, data: Data, own: &[&Texts]) -> Texts {
        let mut texts = Texts::new();
        for file in &self.files {
            let for_data = file.substitutions_for_data.get(&data);
            let when = file.substitutions_when.iter().find(|rule| rule.condition.matches(self.key));
            texts.extend(file.substitutions.clone());
            texts.extend(for_data.cloned().unwrap_or_default());
            texts.extend(when.map(|rule| rule.set.clone()).unwrap_or_default());
        }
        for set in own {
            texts.extend((*set).clone());
        }
        texts
    }
}
