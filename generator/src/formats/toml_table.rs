//! Typed, strict access to a parsed TOML table: every problem is kept with its place, and reading
//! goes on, so that one look shows all that is wrong.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::Problem;

/// The problems of one file.
pub(super) struct Problems<'a> {
    file: &'a Path,
    text: &'a str,
    found: Vec<(usize, Problem)>,
}

impl<'a> Problems<'a> {
    pub(super) fn new(file: &'a Path, text: &'a str) -> Self {
        Self { file, text, found: Vec::new() }
    }

    /// Keeps a problem of what begins at the byte `offset`.
    pub(super) fn report(&mut self, offset: usize, message: impl Into<String>) {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let column = before[line_start..].chars().count() + 1;
        let position = Some((self.line(offset), column));
        let problem = Problem { file: self.file.to_owned(), position, message: message.into() };
        self.found.push((offset, problem));
    }

    /// The line, from 1, that the byte `offset` is in.
    pub(super) fn line(&self, offset: usize) -> usize {
        self.text.bytes().take(offset).filter(|b| *b == b'\n').count() + 1
    }

    /// What was found, in the order of the file.
    pub(super) fn into_vec(mut self) -> Vec<Problem> {
        self.found.sort_by_key(|(offset, _)| *offset);
        self.found.into_iter().map(|(_, problem)| problem).collect()
    }
}

/// A table of which each key is asked for by name; what nobody asked for is a problem.
pub(super) struct Table<'t> {
    /// How a message names the table: `[[format]]`.
    title: String,
    /// The byte the table begins at.
    pub(super) offset: usize,
    entries: Vec<Value<'t>>,
    known: Vec<&'static str>,
}

impl<'t> Table<'t> {
    pub(super) fn new(title: &str, span: Range<usize>, table: &'t DeTable<'t>) -> Self {
        let mut entries: Vec<_> = table
            .iter()
            .map(|(key, value)| Value {
                key: key.get_ref(),
                key_offset: key.span().start,
                toml: value,
            })
            .collect();
        // The parser sorts by key; the file's order is what a person reads.
        entries.sort_by_key(|entry| entry.key_offset);
        Self { title: title.to_owned(), offset: span.start, entries, known: Vec::new() }
    }

    /// How a message names it.
    pub(super) fn title(&self) -> &str {
        &self.title
    }

    /// The value of a key that may be missing.
    pub(super) fn get(&mut self, key: &'static str) -> Option<Value<'t>> {
        self.known.push(key);
        self.entries.iter().find(|entry| entry.key == key).copied()
    }

    /// The value of a key that must be there.
    pub(super) fn require(
        &mut self,
        key: &'static str,
        problems: &mut Problems,
    ) -> Option<Value<'t>> {
        let value = self.get(key);
        if value.is_none() {
            problems.report(self.offset, format!("{} lacks the key `{key}`", self.title));
        }
        value
    }

    /// All entries in the order of the file, for a table whose keys are the user's own names.
    pub(super) fn entries(&self) -> &[Value<'t>] {
        &self.entries
    }

    /// Reports the keys that nobody asked for.
    pub(super) fn deny_unknown(self, problems: &mut Problems) {
        for entry in &self.entries {
            if !self.known.contains(&entry.key) {
                let hint = hint(entry.key, &self.known);
                let message = format!("unknown key `{}` in {}{hint}", entry.key, self.title);
                problems.report(entry.key_offset, message);
            }
        }
    }
}

/// A value and the key it stands behind.
#[derive(Clone, Copy)]
pub(super) struct Value<'t> {
    pub(super) key: &'t str,
    pub(super) key_offset: usize,
    toml: &'t Spanned<DeValue<'t>>,
}

impl<'t> Value<'t> {
    /// The byte the value begins at.
    pub(super) fn offset(&self) -> usize {
        self.toml.span().start
    }

    /// Keeps a problem of this value.
    pub(super) fn report(&self, problems: &mut Problems, message: impl Into<String>) {
        problems.report(self.offset(), message);
    }

    fn wrong_type(&self, problems: &mut Problems, wanted: &str) {
        let found = self.toml.get_ref().type_str();
        // A key with dots makes tables within tables unless it is quoted.
        let hint = match self.toml.get_ref() {
            DeValue::Table(_) if !wanted.contains("table") => " (a key with dots needs quotes)",
            _ => "",
        };
        self.report(problems, format!("`{}` must be {wanted}, not {found}{hint}", self.key));
    }

    pub(super) fn string(&self, problems: &mut Problems) -> Option<&'t str> {
        let text = self.toml.get_ref().as_str();
        if text.is_none() {
            self.wrong_type(problems, "a string");
        }
        text
    }

    /// A string with something in it.
    pub(super) fn non_empty_string(&self, problems: &mut Problems) -> Option<&'t str> {
        let text = self.string(problems)?;
        if text.trim().is_empty() {
            self.report(problems, format!("`{}` is empty", self.key));
            return None;
        }
        Some(text)
    }

    pub(super) fn boolean(&self, problems: &mut Problems) -> Option<bool> {
        let value = self.toml.get_ref().as_bool();
        if value.is_none() {
            self.wrong_type(problems, "true or false");
        }
        value
    }

    /// A whole number from 1.
    pub(super) fn number(&self, problems: &mut Problems) -> Option<NonZeroUsize> {
        let number = match self.toml.get_ref() {
            DeValue::Integer(number) if number.radix() == 10 => number.as_str().parse().ok(),
            _ => None,
        };
        if number.is_none() {
            self.report(problems, format!("`{}` must be a whole number from 1", self.key));
        }
        number
    }

    /// A string as itself, a whole number as it is written.
    pub(super) fn text(&self, problems: &mut Problems) -> Option<String> {
        match self.toml.get_ref() {
            DeValue::String(text) => Some(text.to_string()),
            DeValue::Integer(number) if number.radix() == 10 => Some(number.to_string()),
            _ => {
                self.wrong_type(problems, "a string or a list of strings");
                None
            }
        }
    }

    /// A text, a number, true or false, or a list of these.
    pub(super) fn constant(&self, problems: &mut Problems) -> Option<serde_json::Value> {
        if let DeValue::Array(_) = self.toml.get_ref() {
            return self.list(problems).iter().map(|value| value.constant(problems)).collect();
        }
        let constant = match self.toml.get_ref() {
            DeValue::String(text) => Some(text.as_ref().into()),
            DeValue::Boolean(truth) => Some((*truth).into()),
            DeValue::Integer(number) => {
                i64::from_str_radix(number.as_str(), number.radix()).ok().map(Into::into)
            }
            // Without `inf` and `nan`, which JSON does not have.
            DeValue::Float(number) => serde_json::from_str(number.as_str()).ok(),
            _ => None,
        };
        if constant.is_none() {
            self.wrong_type(problems, "a string, a number, true, false or a list of them");
        }
        constant
    }

    /// The values of a list; any other value is a list of itself.
    pub(super) fn one_or_more(&self, problems: &mut Problems) -> Vec<Value<'t>> {
        match self.toml.get_ref() {
            DeValue::Array(_) => self.list(problems),
            _ => vec![*self],
        }
    }

    /// The values of a list with something in it.
    pub(super) fn list(&self, problems: &mut Problems) -> Vec<Value<'t>> {
        let Some(values) = self.toml.get_ref().as_array() else {
            self.wrong_type(problems, "a list");
            return Vec::new();
        };
        if values.is_empty() {
            self.report(problems, format!("`{}` is empty", self.key));
        }
        values.iter().map(|value| Value { toml: value, ..*self }).collect()
    }

    pub(super) fn is_table(&self) -> bool {
        self.toml.get_ref().is_table()
    }

    pub(super) fn table(&self, title: &str, problems: &mut Problems) -> Option<Table<'t>> {
        let table = self.toml.get_ref().as_table();
        if table.is_none() {
            self.wrong_type(problems, "a table");
        }
        Some(Table::new(title, self.toml.span(), table?))
    }

    /// The tables of `[[key]]`.
    pub(super) fn tables(&self, problems: &mut Problems) -> Vec<Table<'t>> {
        let title = format!("[[{}]]", self.key);
        if self.is_table() {
            let message = format!("`{}` must stand in double brackets: {title}", self.key);
            problems.report(self.key_offset, message);
            return Vec::new();
        }
        let values = self.list(problems);
        values.iter().filter_map(|value| value.table(&title, problems)).collect()
    }
}

/// The nearest of the known names, or all where none is near.
pub(super) fn hint(wrong: &str, known: &[&str]) -> String {
    let nearest = known
        .iter()
        .map(|name| (strsim::jaro_winkler(wrong, name), *name))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match nearest {
        Some((likeness, name)) if likeness > 0.75 => format!(", did you mean `{name}`?"),
        _ => format!(", known are `{}`", known.join("`, `")),
    }
}
