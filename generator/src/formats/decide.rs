//! What becomes of a group: the rules asked in their order.

use std::num::NonZeroUsize;

use jiff::Timestamp;
use outbox::GroupKey;

use super::error::DecideError;
use super::plan::{Data, Decision, FormatName, MailPlan, Plan, TemplateChoice, Texts, TicketOf};
use super::postpone::Wait;
use super::rules::{Copy, File, Format};
use super::script::{Answer, Ask, AskError, ScriptFile};
use super::{Definitions, Step};
use crate::group::Group;

impl Definitions {
    /// Asks the formats, and through `scripts` the scripts, in their order what becomes of `group` at
    /// `now`; the first that is for it decides. `None` if none is.
    ///
    /// Fails if that format asks for something of the group that the group does not have, or if a
    /// script fails that is asked.
    pub fn decide(
        &self,
        group: &Group,
        now: Timestamp,
        scripts: &mut dyn Ask,
    ) -> Result<Option<Decision>, DecideError> {
        let mut given = Given {
            key: &group.key,
            events: group.events().len(),
            layers: Vec::new(),
            copies: Vec::new(),
        };
        for step in &self.order {
            let file = match *step {
                Step::File(index) => &self.files[index],
                Step::Script(index) => {
                    match given.ask(&self.scripts[index], group, now, scripts)? {
                        Some(decision) => return Ok(Some(decision)),
                        None => continue,
                    }
                }
            };
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

/// What the rules so far give to a group's mails, whatever format takes it.
struct Given<'d> {
    key: &'d GroupKey,
    /// How many events the group has.
    events: usize,
    layers: Vec<Layer<'d>>,
    copies: Vec<&'d Copy>,
}

/// Texts of a file, or of a script that did not take the group.
enum Layer<'d> {
    File(&'d File),
    Script(Texts),
}

impl<'d> Given<'d> {
    fn add(&mut self, file: &'d File) {
        self.layers.push(Layer::File(file));
        self.copies.extend(file.copies.iter().filter(|copy| copy.condition.matches(self.key)));
    }

    /// What a script makes of the group. `None` if the group is not for it.
    fn ask(
        &mut self,
        script: &ScriptFile,
        group: &Group,
        now: Timestamp,
        scripts: &mut dyn Ask,
    ) -> Result<Option<Decision>, DecideError> {
        let name = FormatName { name: script.name.clone(), file: script.name.clone() };
        match scripts.ask(script, group, now, &self.substitutions(None, false, &[])) {
            Ok(Answer::Pass(texts)) => {
                self.layers.push(Layer::Script(texts));
                Ok(None)
            }
            Ok(Answer::Postponed) => {
                let why = "the script has it wait".to_owned();
                Ok(Some(Decision::Postponed { format: name, until: None, why }))
            }
            Ok(Answer::Mails(mails)) => {
                Ok(Some(Decision::Compose(Box::new(self.scripted(name, mails)))))
            }
            Err(AskError::Script(reason)) => Err(DecideError::Script { script: name.file, reason }),
            Err(AskError::Unavailable(error)) => {
                Err(DecideError::Unavailable { script: name.file, error })
            }
        }
    }

    /// The mails of a script, each that claims directives with the copies that rules give it.
    fn scripted(&self, name: FormatName, said: Vec<MailPlan>) -> Plan {
        let mut mails = Vec::new();
        for mut mail in said {
            let own = std::mem::take(&mut mail.substitutions);
            mail.substitutions = self.substitutions(Some(mail.data), false, &[&own]);
            let copies = self.copies.iter().filter(|_| mail.mark_sent);
            let copies: Vec<_> = copies.map(|copy| self.copy(copy, &own, false, &mail)).collect();
            mails.push(mail);
            mails.extend(copies);
        }
        Plan { format: name, mails, split_after: None }
    }

    fn plan(&self, name: FormatName, format: &Format, data: Data) -> Plan {
        let template = format.template.clone();
        // A report is about one event, which is no part of anything for who reads it.
        let one = data.is_report().then_some(NonZeroUsize::MIN);
        let split_after = one.or(format.split_after);
        let split = one.is_none() && split_after.is_some_and(|most| self.events > most.get());
        let mail = MailPlan {
            columns: format.columns.clone(),
            data,
            report: format.report.clone().filter(|_| data.is_report()),
            csv: format.csv,
            compress: format.compress,
            substitutions: self.substitutions(Some(data), split, &[&format.substitutions]),
            template: template
                .unwrap_or_else(|| TemplateChoice::Named(self.key.template_name.clone())),
            envelope_to: None,
            mark_sent: true,
            ticket: TicketOf::Own,
            events: None,
            encrypt: format.encrypt,
        };
        let own = &format.substitutions;
        let copies = self.copies.iter().map(|copy| self.copy(copy, own, split, &mail));
        let copies: Vec<_> = copies.collect();
        let mails = std::iter::once(mail).chain(copies).collect();
        Plan { format: name, mails, split_after }
    }

    fn copy(&self, copy: &Copy, own: &Texts, split: bool, mail: &MailPlan) -> MailPlan {
        let other = copy.data.as_ref().and_then(|rule| rule.choose(&self.key.event_data_format));
        let data = other.unwrap_or(mail.data);
        MailPlan {
            columns: copy.columns.as_ref().unwrap_or(&mail.columns).clone(),
            data,
            report: mail.report.clone().filter(|_| data.is_report()),
            csv: copy.csv.unwrap_or(mail.csv),
            compress: copy.compress.or(mail.compress),
            substitutions: self.substitutions(Some(data), split, &[own, &copy.substitutions]),
            template: copy.template.as_ref().unwrap_or(&mail.template).clone(),
            envelope_to: Some(copy.envelope_to.clone()),
            mark_sent: false,
            ticket: TicketOf::Same,
            events: mail.events.clone(),
            encrypt: copy.encrypt.or(mail.encrypt),
        }
    }

    /// The later file wins, and what is more particular wins over what is more general. Those for a
    /// form of data are left out where none is given.
    fn substitutions(&self, data: Option<Data>, split: bool, own: &[&Texts]) -> Texts {
        let mut texts = Texts::new();
        for layer in &self.layers {
            let file = match layer {
                Layer::File(file) => file,
                Layer::Script(set) => {
                    texts.extend(set.clone());
                    continue;
                }
            };
            let for_data = data.and_then(|data| file.substitutions_for_data.get(&data.place()));
            let when = file.substitutions_when.iter().find(|rule| rule.condition.matches(self.key));
            texts.extend(file.substitutions.clone());
            texts.extend(for_data.cloned().unwrap_or_default());
            if split {
                texts.extend(file.substitutions_if_split.clone());
            }
            texts.extend(when.map(|rule| rule.set.clone()).unwrap_or_default());
        }
        for set in own {
            texts.extend((*set).clone());
        }
        texts
    }
}
