//! `check`: do definitions, templates and database fit together? What a group could stumble over is
//! found before there is such a group.

use std::collections::BTreeMap;

use outbox_config::program::Findings;
use outbox_config::{Config, Failure};

use super::{open_database, template_names};
use crate::column::Field;
use crate::facts::Facts;
use crate::formats::{Definitions, MailKind, RESERVED, TemplateChoice};
use crate::store::{EventColumns, Named};
use crate::template::{Placeholder, Template};
use crate::tools;

/// Tells what is wrong. What can't be read at all was told before.
pub fn look_at(config: &Config, findings: &mut Findings) -> Result<(), Failure> {
    let Ok(definitions) = tools::definitions(config) else { return Ok(()) };
    for rule in definitions.shadowed() {
        findings.wrong("formats", &rule)?;
    }
    let kinds = definitions.kinds();
    let database = Database::read(config);
    if let Err(error) = &database {
        let text = format!("not compared with what is in the database: {error:#}");
        findings.note("formats", &text)?;
    }
    let database = database.ok();
    let names = Names { definitions: &definitions, database: database.as_ref() };
    if let Some(Database { columns, .. }) = &database {
        look_at_columns(&kinds, columns, findings)?;
    }
    look_at_substitutions(&names, findings)?;
    look_at_templates(config, &kinds, &names, findings)
}

/// What the database says of events and directives.
struct Database {
    columns: EventColumns,
    named: Named,
}

impl Database {
    fn read(config: &Config) -> anyhow::Result<Self> {
        let mut client = open_database(config)?;
        let columns = EventColumns::read(&mut client)?;
        Ok(Self { columns, named: Named::read(&mut client)? })
    }
}

/// Names, but not so many that nobody reads them.
fn listed(names: &[&str]) -> String {
    const MOST: usize = 5;
    match names.get(MOST..) {
        None | Some([]) => names.join(", "),
        Some(more) => format!("{} and {} more", names[..MOST].join(", "), more.len()),
    }
}

/// A format shows only what the table `events` has.
fn look_at_columns(
    kinds: &[MailKind<'_>],
    columns: &EventColumns,
    findings: &mut Findings,
) -> Result<(), Failure> {
    let mut lacking: BTreeMap<&Field, Vec<&str>> = BTreeMap::new();
    for kind in kinds {
        for field in kind.fields.iter().filter(|field| !columns.has(field)) {
            lacking.entry(field).or_default().push(&kind.name);
        }
    }
    for (field, shown_by) in lacking {
        let shown_by = listed(&shown_by);
        let text = format!("the table events lacks the column {field}, shown by {shown_by}");
        findings.wrong("formats", &text)?;
    }
    Ok(())
}

/// Which names can have a value.
struct Names<'a> {
    definitions: &'a Definitions,
    database: Option<&'a Database>,
}

/// Whether a name has a value that no substitution gives.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Given {
    /// In every mail, or where a rule or a directive has such a key in its aggregate identifier.
    Yes,
    /// If a directive has such a key; none of the newest has, though events have such a field.
    Perhaps,
    /// Nothing is known that would give it.
    No,
}

impl Names<'_> {
    fn given(&self, name: &str) -> Given {
        if RESERVED.contains(&name)
            || Facts::NAMES.contains(&name)
            || self.definitions.aggregate_keys().contains(name)
        {
            return Given::Yes;
        }
        match self.database {
            Some(Database { named, .. }) if named.aggregate_keys.contains(name) => Given::Yes,
            Some(Database { columns, .. }) if columns.has(&Field::parse(name)) => Given::Perhaps,
            // Without the database: as the fields of events are written.
            None if name.contains('.') => Given::Perhaps,
            _ if name == "cidr" => Given::Perhaps,
            _ => Given::No,
        }
    }

    /// Whether there are directives that a note could be about.
    fn has_directives(&self) -> bool {
        self.database.is_some_and(|database| !database.named.templates.is_empty())
    }
}

/// A substitution's text is filled where a template names it, with what it may name.
fn look_at_substitutions(names: &Names<'_>, findings: &mut Findings) -> Result<(), Failure> {
    for (name, text) in names.definitions.substitutions() {
        let place = text.place();
        let template = match Template::from_parts(&place, "", &text.text) {
            Ok(template) => template,
            Err(error) => {
                findings.wrong("formats", &format!("the substitution {name}: {error}"))?;
                continue;
            }
        };
        for Placeholder { name: wanted, .. } in template.placeholders() {
            if names.given(wanted) == Given::No || wanted == "events_as_csv" {
                let text = format!(
                    "{place}: the substitution {name} names {wanted:?}, which has no value there: \
                     it can't name another substitution, or the table of events"
                );
                findings.wrong("formats", &text)?;
            }
        }
    }
    Ok(())
}

fn look_at_templates(
    config: &Config,
    kinds: &[MailKind<'_>],
    names: &Names<'_>,
    findings: &mut Findings,
) -> Result<(), Failure> {
    let Ok(mut templates) = tools::templates(config) else { return Ok(()) };
    let files = template_names(config.template_dir()?).unwrap_or_default();
    let mut unnamed = Vec::new();
    for name in &files {
        let Ok(template) = templates.get(&TemplateChoice::Named(name.clone())) else { continue };
        let users: Vec<&MailKind<'_>> =
            kinds.iter().filter(|kind| kind.uses_template(name)).collect();
        let others = kinds.iter().filter(|kind| kind.template.is_none());
        let others: Vec<&MailKind<'_>> = others.filter(|kind| kind.is_for_template(name)).collect();
        look_at_placeholders(name, &template, (&users, &others), names, findings)?;
        let by_directive =
            names.database.is_some_and(|database| database.named.templates.contains(name));
        if !by_directive && !kinds.iter().any(|kind| kind.names_template(name)) {
            unnamed.push(name.as_str());
        }
    }
    for kind in kinds {
        if let Some(choice @ TemplateChoice::Inline { subject, .. }) = kind.template
            && let Ok(template) = templates.get(choice)
        {
            let name = subject.place();
            look_at_placeholders(&name, &template, (&[kind], &[]), names, findings)?;
        }
    }
    if names.has_directives() && !unnamed.is_empty() {
        let text = format!(
            "no rule names them, nor does one of the newest {} directives: {}",
            Named::NEWEST,
            unnamed.join(", ")
        );
        findings.note("templates", &text)?;
    }
    Ok(())
}

/// Of the kinds of mails that are made from a template, `users` name it themselves: each must have
/// all that it names. The others are made from it where a directive says so, and a directive may
/// have one of them only: so one that has it is enough.
fn look_at_placeholders(
    name: &str,
    template: &Template,
    (users, others): (&[&MailKind<'_>], &[&MailKind<'_>]),
    names: &Names<'_>,
    findings: &mut Findings,
) -> Result<(), Failure> {
    let mut told: Vec<&str> = Vec::new();
    for Placeholder { name: wanted, line, column } in template.placeholders() {
        let given = names.given(wanted);
        if given == Given::Yes || told.contains(&wanted.as_str()) {
            continue;
        }
        let lacks = |kind: &&&MailKind<'_>| !kind.substitutions.contains(wanted.as_str());
        let mut lacking: Vec<&&MailKind<'_>> = users.iter().filter(lacks).collect();
        if users.is_empty() && others.iter().all(|kind| lacks(&kind)) {
            lacking.extend(others);
        }
        if lacking.is_empty() {
            continue;
        }
        told.push(wanted);
        // First those that are most likely meant.
        lacking.sort_by_key(|kind| !kind.names_template(name));
        let lacking: Vec<&str> = lacking.iter().map(|kind| kind.name.as_str()).collect();
        let lacking = listed(&lacking);
        let place = format!("the template {name:?}: line {line}, column {column}");
        if given == Given::No {
            let text = format!("{place}: there is no value for {wanted:?} in mails of {lacking}");
            if names.definitions.scripts().next().is_some() {
                findings.note("templates", &format!("{text}, unless a script gives one"))?;
            } else {
                findings.wrong("templates", &text)?;
            }
        } else if names.has_directives() {
            let text = format!(
                "{place}: {wanted:?} must come from the aggregate identifier in mails of {lacking}, \
                 and none of the newest {} directives has it",
                Named::NEWEST
            );
            findings.note("templates", &text)?;
        }
    }
    Ok(())
}
