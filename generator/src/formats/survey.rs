//! What can be said of the definitions without a group: what mails they can make, and which rules can
//! never match. For `check`.

use std::collections::BTreeSet;

use super::Definitions;
use super::condition::{Condition, Criteria};
use super::plan::{Data, TemplateChoice, Texts};
use super::rules::{Copy, DataRule, File, Format};
use crate::address::Address;
use crate::column::Field;
use crate::pattern::Patterns;

/// A kind of mail that the definitions can make: that of a format, or a copy.
pub struct MailKind<'d> {
    /// Which rule makes it, for a person.
    pub name: String,
    /// What it shows of events, but for a copy that shows what its mail does.
    pub fields: Vec<&'d Field>,
    /// Its template, if that is not the one that the directive names.
    pub template: Option<&'d TemplateChoice>,
    /// The names that a substitution gives a value, for some groups at least.
    pub substitutions: BTreeSet<&'d str>,
    /// Which groups it is for.
    condition: &'d Condition,
}

impl MailKind<'_> {
    /// Whether directives that name this template can become such a mail.
    pub fn is_for_template(&self, name: &str) -> bool {
        let matches = |criteria: &Criteria| {
            criteria.template_name.as_ref().map(|patterns| patterns.matches(name))
        };
        let left_alone = |unless: &Criteria| {
            let only = Criteria { template_name: unless.template_name.clone(), ..<_>::default() };
            *unless == only && matches(unless) == Some(true)
        };
        matches(&self.condition.when) != Some(false)
            && !self.condition.unless.as_ref().is_some_and(left_alone)
    }

    /// Whether the rule asks for such a template by name, as its own or as the directive's.
    pub fn names_template(&self, name: &str) -> bool {
        let asks = |patterns: &Patterns| !patterns.match_all() && patterns.matches(name);
        self.uses_template(name) || self.condition.when.template_name.as_ref().is_some_and(asks)
    }

    /// Whether the rule names this template as its own.
    pub fn uses_template(&self, name: &str) -> bool {
        matches!(self.template, Some(TemplateChoice::Named(own)) if own == name)
    }
}

impl Definitions {
    /// The kinds of mails that there can be. A copy in all like its mail is none.
    pub fn kinds(&self) -> Vec<MailKind<'_>> {
        let mut kinds = Vec::new();
        for (index, file) in self.files.iter().enumerate() {
            let (before, behind) = (&self.files[..=index], &self.files[index..]);
            kinds.extend(file.copies.iter().map(|copy| self.copy_kind(file, copy, behind)));
            kinds.extend(file.formats.iter().map(|format| format_kind(file, format, before)));
        }
        kinds
    }

    /// The copies are of mails that formats of its file and the ones `behind` make.
    fn copy_kind<'d>(&'d self, file: &File, copy: &'d Copy, behind: &'d [File]) -> MailKind<'d> {
        let formats = behind.iter().flat_map(|file| &file.formats);
        let own = formats.map(|format| &format.substitutions).chain([&copy.substitutions]);
        let to: Vec<&str> = copy.envelope_to.iter().map(Address::as_str).collect();
        MailKind {
            name: format!("the copy to {} ({})", to.join(", "), file.name),
            fields: copy.columns.iter().flatten().map(|column| &column.field).collect(),
            template: copy.template.as_ref(),
            substitutions: names(&self.files, &Data::PLACES, true)
                .chain(own.flat_map(Texts::keys))
                .map(String::as_str)
                .collect(),
            condition: &copy.condition,
        }
    }

    /// The keys of the aggregate identifier that conditions name.
    pub fn aggregate_keys(&self) -> BTreeSet<&str> {
        let conditions = self.files.iter().flat_map(|file| {
            let formats = file.formats.iter().map(|format| &format.condition);
            let copies = file.copies.iter().map(|copy| &copy.condition);
            formats.chain(copies).chain(file.substitutions_when.iter().map(|rule| &rule.condition))
        });
        conditions
            .flat_map(|condition| [Some(&condition.when), condition.unless.as_ref()])
            .flatten()
            .flat_map(|criteria| criteria.aggregate.keys().chain(&criteria.has_aggregate))
            .map(String::as_str)
            .collect()
    }

    /// The rules of which it is plain that they never match a group, or never after the rules before
    /// them: which, and why. Others may be there that can't be told so easily.
    pub fn shadowed(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut before: Vec<(&File, &Format)> = Vec::new();
        for file in &self.files {
            for format in &file.formats {
                let name = format!("format {:?} ({}:{})", format.name, file.name, format.line);
                let taker = before.iter().find(|(_, earlier)| shadows(earlier, format));
                if format.condition.takes_none() {
                    found.push(format!("{name} can never match: its `unless` leaves it no group"));
                } else if let Some((file, earlier)) = taker {
                    found.push(format!(
                        "{name} can never match: format {:?} ({}:{}) takes all of its groups before",
                        earlier.name, file.name, earlier.line
                    ));
                }
                before.push((file, format));
            }
            found.extend(shadowed_texts(file));
        }
        found
    }
}

fn format_kind<'d>(file: &File, format: &'d Format, before: &'d [File]) -> MailKind<'d> {
    let data: Vec<Data> = format.data.all().into_iter().map(Data::place).collect();
    let columns = format.columns.iter().map(|column| &column.field);
    let reported = format.report.iter().flat_map(|mapping| mapping.fields());
    let texts =
        names(before, &data, format.split_after.is_some()).chain(format.substitutions.keys());
    MailKind {
        name: format!("format {:?} ({})", format.name, file.name),
        fields: columns.chain(reported).collect(),
        template: format.template.as_ref(),
        substitutions: texts.map(String::as_str).collect(),
        condition: &format.condition,
    }
}

/// The names that files give values to, in mails with their table in one of these places, that may
/// be parts of a group or not.
fn names<'d>(files: &'d [File], data: &[Data], split: bool) -> impl Iterator<Item = &'d String> {
    files.iter().flat_map(move |file| {
        let for_data = data.iter().filter_map(|data| file.substitutions_for_data.get(data));
        let if_split = split.then_some(&file.substitutions_if_split);
        let sets: Vec<&Texts> =
            [&file.substitutions].into_iter().chain(for_data).chain(if_split).collect();
        let when = file.substitutions_when.iter().map(|rule| &rule.set);
        sets.into_iter().chain(when).flat_map(Texts::keys)
    })
}

/// Whether `earlier` takes all groups that `later` is for.
fn shadows(earlier: &Format, later: &Format) -> bool {
    // What `later` takes is within each of these.
    let Condition { when, unless } = &later.condition;
    let mut limits = vec![when.clone()];
    if let Some(taken) = taken_data_formats(&later.data) {
        limits.push(Criteria { event_data_format: Some(taken), ..when.clone() });
    }
    let has_data_for_all = taken_data_formats(&earlier.data).is_none_or(|taken| {
        let given = limits.iter().filter_map(|limit| limit.event_data_format.as_ref());
        given.into_iter().any(|formats| formats.within(&taken))
    });
    has_data_for_all
        && limits.iter().any(|limit| earlier.condition.takes_all_of(limit, unless.as_ref()))
}

/// The `event_data_format`s that the rule has something for; all if `None`.
fn taken_data_formats(rule: &DataRule) -> Option<Patterns> {
    match rule {
        DataRule::Always(_) => None,
        DataRule::ByEventDataFormat(cases) => {
            let patterns = cases.iter().flat_map(|(_, patterns)| patterns.0.clone()).collect();
            Some(Patterns(patterns)).filter(|patterns| !patterns.match_all())
        }
    }
}

/// Of a file's `[[substitutions_when]]` only the first that matches counts.
fn shadowed_texts(file: &File) -> Vec<String> {
    let mut found = Vec::new();
    for (index, rule) in file.substitutions_when.iter().enumerate() {
        let name = format!("[[substitutions_when]] number {} of {}", index + 1, file.name);
        let Condition { when, unless } = &rule.condition;
        let takes_all = |earlier: &Condition| earlier.takes_all_of(when, unless.as_ref());
        let mut earlier = file.substitutions_when[..index].iter();
        if rule.condition.takes_none() {
            found.push(format!("{name} can never match: its `unless` leaves it no group"));
        } else if let Some(taker) = earlier.position(|earlier| takes_all(&earlier.condition)) {
            found.push(format!(
                "{name} can never match: number {} takes all of its groups before",
                taker + 1
            ));
        }
    }
    found
}
