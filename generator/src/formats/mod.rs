//! Format definitions: files of rules that say what mail a group of directives becomes.
//!
//! # Files
//!
//! The files `NN-name.toml` of one folder (`NN`: two digits or more) are asked in the byte order of
//! their names. Within a file, rules of a kind are asked in the order in which they stand. The
//! first `[[format]]` that is for a group decides it.
//!
//! | in a file | what it does |
//! | --- | --- |
//! | `[substitutions]` | texts for the templates of this file's formats and all later ones |
//! | `[substitutions_for_data.inline]`, `….attachment` | the same, by where a mail has its table |
//! | `[substitutions_if_split]` | the same, for mails that are parts of a group |
//! | `[[substitutions_when]]` | the same, by group: of those in a file, the first that matches adds its `set` |
//! | `[titles]` | what stands above a field's column in this file |
//! | `[[copy]]` | a copy of the mail of each group it matches, for this file's formats and all later ones |
//! | `[[format]]` | what becomes of the groups it is for |
//!
//! Where a name is set twice, the later file wins; in a file, `[[substitutions_when]]` wins over
//! `[substitutions_if_split]`, that over `[substitutions_for_data]`, and that over `[substitutions]`;
//! a format's own `substitutions` win over all of these, and a copy's own over the format's.
//!
//! # Conditions
//!
//! `[[format]]` and `[[copy]]` have `when = { … }`, and are for all groups without it;
//! `[[substitutions_when]]` has the same keys directly. All three can have `unless = { … }`: groups
//! that are left alone. The keys are `notification_format`, `event_data_format`, `template_name`,
//! `recipient_address` (the whole text, lists included), `aggregate = { "source.asn" = "64*" }` and
//! `has_aggregate`; each value is a text with `*` as wildcard, or a list of alternatives, and all
//! keys must match. `has_aggregate` names keys of the aggregate identifier which all must be there.
//! A null in the aggregate identifier counts as not there.
//!
//! # Formats
//!
//! `name`, unique; `columns`, each `"source.ip"`, `"extra.key"`, or `{ field = …, title = … }`
//! (without a title: that of `[titles]`, or else the field's own name, without `extra.`); `data`:
//! `"inline"` (default) or `"attachment"`, `"xarf-0.2"` or `"xarf-4"` with a table `xarf`, or by the
//! group's `event_data_format`: `{ attachment = "*_attachment", inline = "*" }`, where the first that
//! matches counts and a group that none matches is not for the format; `postpone`; `split_after`, a
//! number of events; `attachment = { compress = "zip", above = "256 KiB" }` (or `"gzip"`; without
//! `above` always); `csv = { guard_formulas = true, bom = true }`; `encrypt`, as in the
//! configuration; `substitutions`; and `template`, or `subject` and `body`, or neither for the
//! template that the directive names.
//!
//! `postpone` has `newest_directive_younger_than`, `observation_younger_than` (both `"90s"`,
//! `"15m"`, `"2h"`, `"1d"`) and `within_notification_interval = true`: a group for which one holds
//! waits.
//!
//! `[[copy]]` needs `envelope_to`, an address or a list; it can have all of a format's keys but
//! `name`, `postpone` and `split_after`, and is like the group's mail in what it does not set.
//!
//! An unknown key is an error, and all errors of all files are told at once.
//!
//! # Scripts
//!
//! `NN*.py` and executables `NN-name` in the folder take part in the same order. [`Ask`] asks them.

mod condition;
mod decide;
mod error;
#[cfg(any(test, fuzzing))]
pub(crate) mod oracles;
mod plan;
mod postpone;
mod read;
mod rules;
mod script;
mod survey;
mod toml_table;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub use error::{DecideError, LoadError, Problem};
pub use plan::{
    Compress, Compression, Data, Decision, FormatName, MailPlan, Plan, TemplateChoice, Text, Texts,
    TicketOf,
};
pub use read::RESERVED;
pub use script::{Answer, Ask, AskError, NoScripts, ScriptFile, ScriptKind};
pub use survey::MailKind;

use crate::column::Field;
use rules::File;

/// All rules of a folder, in the order in which they are asked.
#[derive(Debug)]
pub struct Definitions {
    files: Vec<File>,
    scripts: Vec<ScriptFile>,
    /// In which order files and scripts are asked.
    order: Vec<Step>,
    ignored: Vec<PathBuf>,
}

/// A definition file or a script, by its place among its like.
#[derive(Clone, Copy, Debug)]
enum Step {
    File(usize),
    Script(usize),
}

impl Definitions {
    /// Reads the definitions in `script_directory`.
    ///
    /// Fails if the folder can't be read, or with everything that is wrong in any of its files.
    pub fn load(script_directory: &Path) -> Result<Self, LoadError> {
        let folder = |source| LoadError::Folder { path: script_directory.to_owned(), source };
        let (mut files, mut scripts) = (Vec::new(), Vec::new());
        let (mut order, mut ignored) = (Vec::new(), Vec::new());
        let mut problems = Vec::new();
        for path in &list(script_directory).map_err(folder)? {
            if !is_definition(path) {
                match ScriptFile::of(path) {
                    None => ignored.push(path.clone()),
                    Some(script) => {
                        order.push(Step::Script(scripts.len()));
                        scripts.push(script);
                    }
                }
                continue;
            }
            let text = fs::read_to_string(path).map_err(|error| {
                vec![Problem { file: path.clone(), position: None, message: error.to_string() }]
            });
            match text.and_then(|text| read::read(path, &text)) {
                Ok(file) => {
                    problems.extend(repeated_names(&files, &file, path));
                    order.push(Step::File(files.len()));
                    files.push(file);
                }
                Err(found) => problems.extend(found),
            }
        }
        if problems.is_empty() {
            Ok(Self { files, scripts, order, ignored })
        } else {
            Err(LoadError::Definitions(problems))
        }
    }

    /// The scripts in the order in which they are asked.
    pub fn scripts(&self) -> impl Iterator<Item = &ScriptFile> {
        self.scripts.iter()
    }

    /// The files in the folder that are neither definitions nor scripts, and take no part.
    pub fn ignored(&self) -> &[PathBuf] {
        &self.ignored
    }

    /// The formats in the order in which they are asked.
    pub fn formats(&self) -> impl Iterator<Item = FormatName> {
        self.files.iter().flat_map(|file| {
            let named = |name: &String| FormatName { name: name.clone(), file: file.name.clone() };
            file.formats.iter().map(move |format| named(&format.name))
        })
    }

    /// Every field that some column or report shows.
    pub fn fields(&self) -> BTreeSet<&Field> {
        let formats = self.files.iter().flat_map(|file| &file.formats).map(|f| &f.columns);
        let copies =
            self.files.iter().flat_map(|file| &file.copies).filter_map(|c| c.columns.as_ref());
        let reports =
            self.files.iter().flat_map(|file| &file.formats).filter_map(|f| f.report.as_ref());
        let reported = reports.flat_map(|mapping| mapping.fields());
        formats.chain(copies).flatten().map(|column| &column.field).chain(reported).collect()
    }

    /// Every template that a rule chooses by itself; those that directives name come on top.
    pub fn templates(&self) -> impl Iterator<Item = &TemplateChoice> {
        let formats = self.files.iter().flat_map(|file| &file.formats).map(|f| &f.template);
        let copies = self.files.iter().flat_map(|file| &file.copies).map(|copy| &copy.template);
        formats.chain(copies).flatten()
    }

    /// Whether some format, or perhaps a script, takes the template that the directive names.
    pub fn use_directives_templates(&self) -> bool {
        !self.scripts.is_empty()
            || self
                .files
                .iter()
                .flat_map(|file| &file.formats)
                .any(|format| format.template.is_none())
    }

    /// Every substitution of every rule, with its name.
    pub fn substitutions(&self) -> impl Iterator<Item = (&str, &Text)> {
        let sets = self.files.iter().flat_map(|file| {
            let own = [&file.substitutions].into_iter();
            own.chain(file.substitutions_for_data.values())
                .chain([&file.substitutions_if_split])
                .chain(file.substitutions_when.iter().map(|rule| &rule.set))
                .chain(file.copies.iter().map(|copy| &copy.substitutions))
                .chain(file.formats.iter().map(|format| &format.substitutions))
        });
        sets.flatten().map(|(name, text)| (name.as_str(), text))
    }
}

/// The definition files and whatever else lies there, in the order of their names.
fn list(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if is_leftover(entry.file_name().as_encoded_bytes()) {
            continue;
        }
        if is_definition(&path) || !path.is_dir() {
            paths.push(path);
        }
    }
    // All in one folder, so that the order of the paths is the byte order of the names.
    paths.sort();
    Ok(paths)
}

/// Whether a file is a definition by its name.
fn is_definition(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    name.len() > 2 && name[..2].iter().all(u8::is_ascii_digit) && name.ends_with(b".toml")
}

/// Whether a file is hidden, was left there by an editor or a package manager, or is data of scripts:
/// Mailgen's read a `variables.json` that lies beside them.
fn is_leftover(name: &[u8]) -> bool {
    const ENDINGS: [&str; 12] = [
        ".json",
        "~",
        "#",
        ".bak",
        ".orig",
        ".rej",
        ".swp",
        ".dpkg-old",
        ".dpkg-dist",
        ".dpkg-new",
        ".rpmsave",
        ".rpmnew",
    ];
    name.starts_with(b".") || ENDINGS.iter().any(|ending| name.ends_with(ending.as_bytes()))
}

/// Formats of `file` whose name another format has: a log line could mean either.
fn repeated_names(before: &[File], file: &File, path: &Path) -> Vec<Problem> {
    let mut seen: Vec<(&str, &str)> = before
        .iter()
        .flat_map(|f| f.formats.iter().map(|g| (g.name.as_str(), f.name.as_str())))
        .collect();
    let mut problems = Vec::new();
    for format in &file.formats {
        if let Some((name, other)) = seen.iter().find(|(name, _)| *name == format.name) {
            problems.push(Problem {
                file: path.to_owned(),
                position: Some((format.line, 1)),
                message: format!("a format named {name:?} is already in {other}"),
            });
        }
        seen.push((&format.name, &file.name));
    }
    problems
}
