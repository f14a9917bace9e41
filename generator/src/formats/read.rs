//! From the text of one definition file to its rules.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::Path;
use std::rc::Rc;

use jiff::SignedDuration;
use outbox_config::{Encrypt, parse_duration, parse_size};
use toml::de::DeTable;

use super::condition::{Condition, Criteria};
use super::error::Problem;
use super::plan::{Compress, Compression, Data, TemplateChoice, Text, Texts};
use super::postpone::Postpone;
use super::rules::{ConditionalTexts, Copy, DataRule, File, Format};
use super::toml_table::{Problems, Table, Value, hint};
use crate::address::{Address, each_once};
use crate::column::{Column, Field};
use crate::facts::Facts;
use crate::pattern::{Pattern, Patterns};
use crate::table::TableOptions;
use crate::xarf::Mapping;

mod xarf;

/// Names whose value every mail gives itself.
pub const RESERVED: [&str; 3] = ["ticket_number", "events_as_csv", "attachment_name"];

/// What `encrypt` can say, as in the configuration.
const ENCRYPT: [(&str, Encrypt); 3] =
    [("never", Encrypt::Never), ("if-key", Encrypt::IfKey), ("always", Encrypt::Always)];

/// Begins the message where `data` names no form of data.
const DATA: &str = "unknown form of `data`";

/// What `data` can say.
fn known_data() -> [(&'static str, Data); 4] {
    Data::ALL.map(|data| (data.as_str(), data))
}

/// Reads the definition file `path`, which holds `text`.
pub(super) fn read(path: &Path, text: &str) -> Result<File, Vec<Problem>> {
    let mut problems = Problems::new(path, text);
    let (root, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let offset = error.span().map_or(0, |span| span.start);
        problems.report(offset, error.message());
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut reader = Reader { file: name, titles: BTreeMap::new(), problems };
    // What the parser made of broken text would only bring errors that are none.
    let file = errors
        .is_empty()
        .then(|| reader.file(Table::new("a definition file", root.span(), root.get_ref())));
    let problems = reader.problems.into_vec();
    file.filter(|_| problems.is_empty()).ok_or(problems)
}

struct Reader<'a> {
    /// The file's name without its folder.
    file: String,
    /// The file's `[titles]`.
    titles: BTreeMap<String, String>,
    problems: Problems<'a>,
}

impl Reader<'_> {
    fn file(&mut self, mut root: Table) -> File {
        if let Some(titles) = root.get("titles") {
            self.titles = self.titles(titles);
        }
        let substitutions = self.optional(&mut root, "substitutions", Self::texts);
        let for_data = self.optional(&mut root, "substitutions_for_data", Self::for_data);
        let if_split = self.optional(&mut root, "substitutions_if_split", Self::texts);
        let substitutions_when = self.each(&mut root, "substitutions_when", Self::conditional);
        let copies = self.each(&mut root, "copy", Self::copy);
        let formats = self.each(&mut root, "format", Self::format);
        root.deny_unknown(&mut self.problems);
        File {
            name: self.file.clone(),
            substitutions: substitutions.unwrap_or_default(),
            substitutions_for_data: for_data.unwrap_or_default(),
            substitutions_if_split: if_split.unwrap_or_default(),
            substitutions_when,
            copies,
            formats,
        }
    }

    fn optional<T>(
        &mut self,
        table: &mut Table,
        key: &'static str,
        read: fn(&mut Self, Value) -> T,
    ) -> Option<T> {
        table.get(key).map(|value| read(self, value))
    }

    fn each<T>(
        &mut self,
        table: &mut Table,
        key: &'static str,
        read: fn(&mut Self, Table) -> T,
    ) -> Vec<T> {
        let Some(value) = table.get(key) else { return Vec::new() };
        let tables = value.tables(&mut self.problems);
        tables.into_iter().map(|table| read(self, table)).collect()
    }

    fn titles(&mut self, value: Value) -> BTreeMap<String, String> {
        let Some(table) = value.table("[titles]", &mut self.problems) else {
            return BTreeMap::new();
        };
        let mut titles = BTreeMap::new();
        for entry in table.entries() {
            // A title for a field that no event can have is a slip of the pen.
            self.field(entry.key, entry.key_offset);
            if let Some(title) = entry.string(&mut self.problems) {
                titles.insert(entry.key.to_owned(), title.to_owned());
            }
        }
        titles
    }

    fn texts(&mut self, value: Value) -> Texts {
        let title = format!("`{}`", value.key);
        let Some(table) = value.table(&title, &mut self.problems) else {
            return Texts::new();
        };
        let mut texts = Texts::new();
        for entry in table.entries() {
            let name = entry.key;
            if RESERVED.contains(&name) || Facts::NAMES.contains(&name) {
                let message = format!("`{name}` has its value from the mail and can't be set");
                self.problems.report(entry.key_offset, message);
            } else if !is_placeholder(name) {
                let message = format!(
                    "no template can name `{name}`: a name has letters, digits, `_` and `.`, and \
                     begins with a letter or `_`"
                );
                self.problems.report(entry.key_offset, message);
            }
            if let Some(text) = entry.string(&mut self.problems) {
                let text = self.text(entry, text);
                texts.insert(name.to_owned(), text);
            }
        }
        texts
    }

    fn text(&self, value: &Value, text: &str) -> Text {
        let line = self.problems.line(value.offset());
        Text { text: text.to_owned(), file: self.file.clone(), line, verbatim: false }
    }

    fn for_data(&mut self, value: Value) -> BTreeMap<Data, Texts> {
        let title = "[substitutions_for_data]";
        let Some(mut table) = value.table(title, &mut self.problems) else {
            return BTreeMap::new();
        };
        let mut texts = BTreeMap::new();
        for data in Data::PLACES {
            if let Some(set) = table.get(data.as_str()) {
                texts.insert(data, self.texts(set));
            }
        }
        table.deny_unknown(&mut self.problems);
        texts
    }

    fn conditional(&mut self, mut table: Table) -> ConditionalTexts {
        let when = self.criteria(&mut table);
        let unless = self.optional(&mut table, "unless", Self::unless).flatten();
        let set = table.require("set", &mut self.problems).map(|value| self.texts(value));
        table.deny_unknown(&mut self.problems);
        ConditionalTexts { condition: Condition { when, unless }, set: set.unwrap_or_default() }
    }

    fn copy(&mut self, mut table: Table) -> Copy {
        let condition = self.condition(&mut table);
        let envelope_to = table
            .require("envelope_to", &mut self.problems)
            .map(|value| self.addresses(value))
            .unwrap_or_default();
        let copy = Copy {
            condition,
            envelope_to,
            columns: self.optional(&mut table, "columns", Self::columns),
            data: self.optional(&mut table, "data", Self::data_of_copy).flatten(),
            csv: self.optional(&mut table, "csv", Self::csv),
            compress: self.optional(&mut table, "attachment", Self::compress).flatten(),
            substitutions: self
                .optional(&mut table, "substitutions", Self::texts)
                .unwrap_or_default(),
            template: self.template(&mut table),
            encrypt: self.optional(&mut table, "encrypt", Self::encrypt).flatten(),
        };
        table.deny_unknown(&mut self.problems);
        copy
    }

    fn format(&mut self, mut table: Table) -> Format {
        let line = self.problems.line(table.offset);
        let name = table
            .require("name", &mut self.problems)
            .and_then(|value| value.non_empty_string(&mut self.problems));
        let condition = self.condition(&mut table);
        let postpone = self.optional(&mut table, "postpone", Self::postpone);
        let columns = table.require("columns", &mut self.problems).map(|value| self.columns(value));
        let data = self
            .optional(&mut table, "data", Self::data)
            .flatten()
            .unwrap_or(DataRule::Always(Data::Inline));
        let format = Format {
            name: name.unwrap_or_default().to_owned(),
            line,
            condition,
            postpone: postpone.unwrap_or_default(),
            columns: columns.unwrap_or_default(),
            report: self.report(&mut table, &data).map(Rc::new),
            data,
            csv: self.optional(&mut table, "csv", Self::csv).unwrap_or_default(),
            compress: self.optional(&mut table, "attachment", Self::compress).flatten(),
            split_after: self.optional(&mut table, "split_after", Self::number).flatten(),
            substitutions: self
                .optional(&mut table, "substitutions", Self::texts)
                .unwrap_or_default(),
            template: self.template(&mut table),
            encrypt: self.optional(&mut table, "encrypt", Self::encrypt).flatten(),
        };
        table.deny_unknown(&mut self.problems);
        format
    }

    /// What `data` asks for, if it asks for reports.
    fn report(&mut self, table: &mut Table, data: &DataRule) -> Option<Mapping> {
        let xarf = table.get("xarf");
        let mut versions: Vec<_> = data.all().into_iter().filter(|data| data.is_report()).collect();
        versions.dedup();
        match (xarf, versions.as_slice()) {
            (None, []) => None,
            (Some(value), [version]) => self.xarf(value, *version),
            (Some(value), []) => {
                let message = "`xarf` is for `data = \"xarf-0.2\"` and `data = \"xarf-4\"` only";
                self.problems.report(value.key_offset, message);
                None
            }
            (None, _) => {
                let message = format!("{} lacks the table `xarf` for its reports", table.title());
                self.problems.report(table.offset, message);
                None
            }
            (Some(value), _) => {
                let message = "a format has reports of one version: make another for the other";
                self.problems.report(value.key_offset, message);
                None
            }
        }
    }

    fn condition(&mut self, table: &mut Table) -> Condition {
        let when = self.optional(table, "when", Self::when).flatten().unwrap_or_default();
        let unless = self.optional(table, "unless", Self::unless).flatten();
        Condition { when, unless }
    }

    fn when(&mut self, value: Value) -> Option<Criteria> {
        let mut table = value.table("`when`", &mut self.problems)?;
        let criteria = self.criteria(&mut table);
        table.deny_unknown(&mut self.problems);
        Some(criteria)
    }

    fn unless(&mut self, value: Value) -> Option<Criteria> {
        let mut table = value.table("`unless`", &mut self.problems)?;
        if table.entries().is_empty() {
            value.report(&mut self.problems, "an empty `unless` would leave the rule no group");
        }
        let criteria = self.criteria(&mut table);
        table.deny_unknown(&mut self.problems);
        Some(criteria)
    }

    fn criteria(&mut self, table: &mut Table) -> Criteria {
        Criteria {
            notification_format: self.optional(table, "notification_format", Self::patterns),
            event_data_format: self.optional(table, "event_data_format", Self::patterns),
            template_name: self.optional(table, "template_name", Self::patterns),
            recipient_address: self.optional(table, "recipient_address", Self::patterns),
            aggregate: self.optional(table, "aggregate", Self::aggregate).unwrap_or_default(),
            has_aggregate: self.optional(table, "has_aggregate", Self::strings).unwrap_or_default(),
        }
    }

    fn patterns(&mut self, value: Value) -> Patterns {
        let values = value.one_or_more(&mut self.problems);
        let texts = values.iter().filter_map(|value| value.text(&mut self.problems));
        Patterns(texts.map(|text| Pattern::new(&text)).collect())
    }

    fn strings(&mut self, value: Value) -> Vec<String> {
        let values = value.one_or_more(&mut self.problems);
        let texts = values.iter().filter_map(|value| value.non_empty_string(&mut self.problems));
        texts.map(str::to_owned).collect()
    }

    fn aggregate(&mut self, value: Value) -> BTreeMap<String, Patterns> {
        let Some(table) = value.table("`aggregate`", &mut self.problems) else {
            return BTreeMap::new();
        };
        let entries = table.entries().iter();
        entries.map(|entry| (entry.key.to_owned(), self.patterns(*entry))).collect()
    }

    fn addresses(&mut self, value: Value) -> Vec<Address> {
        let values = value.one_or_more(&mut self.problems);
        let mut addresses = Vec::new();
        for value in values {
            let Some(text) = value.string(&mut self.problems) else { continue };
            match text.parse::<Address>() {
                Ok(address) => addresses.push(address),
                Err(error) => value.report(&mut self.problems, error.to_string()),
            }
        }
        each_once(addresses)
    }

    fn postpone(&mut self, value: Value) -> Postpone {
        let Some(mut table) = value.table("`postpone`", &mut self.problems) else {
            return Postpone::default();
        };
        if table.entries().is_empty() {
            value.report(&mut self.problems, "`postpone` is empty");
        }
        let postpone = Postpone {
            newest_directive_younger_than: self
                .optional(&mut table, "newest_directive_younger_than", Self::duration)
                .flatten(),
            observation_younger_than: self
                .optional(&mut table, "observation_younger_than", Self::duration)
                .flatten(),
            within_notification_interval: self.flag(&mut table, "within_notification_interval"),
        };
        table.deny_unknown(&mut self.problems);
        postpone
    }

    fn duration(&mut self, value: Value) -> Option<SignedDuration> {
        let text = value.string(&mut self.problems)?;
        match parse_duration(text).map(SignedDuration::try_from) {
            Ok(Ok(duration)) => Some(duration),
            Ok(Err(error)) => {
                value.report(&mut self.problems, error.to_string());
                None
            }
            Err(message) => {
                value.report(&mut self.problems, message);
                None
            }
        }
    }

    fn columns(&mut self, value: Value) -> Vec<Column> {
        let mut columns: Vec<Column> = Vec::new();
        for value in value.list(&mut self.problems) {
            let Some(column) = self.column(value) else { continue };
            if columns.iter().any(|other| other.title == column.title) {
                let message = format!("two columns have the title {:?}", column.title);
                value.report(&mut self.problems, message);
            }
            columns.push(column);
        }
        columns
    }

    /// `"source.ip"`, or `{ field = "source.ip", title = "ip" }`.
    fn column(&mut self, value: Value) -> Option<Column> {
        let (field, title) = if value.is_table() {
            let mut table = value.table("a column", &mut self.problems)?;
            let field = table.require("field", &mut self.problems);
            let title = table.get("title").and_then(|value| value.string(&mut self.problems));
            table.deny_unknown(&mut self.problems);
            (field?, title)
        } else {
            (value, None)
        };
        let name = field.string(&mut self.problems)?;
        let read = self.field(name, field.offset())?;
        let title = title.map(str::to_owned);
        let title = title
            .or_else(|| self.titles.get(name).cloned())
            .unwrap_or_else(|| read.default_title().to_owned());
        Some(Column { field: read, title })
    }

    fn field(&mut self, name: &str, offset: usize) -> Option<Field> {
        let read = Field::read(name);
        read.map_err(|wrong| self.problems.report(offset, wrong)).ok()
    }

    /// `"inline"`, or `{ inline = "*_csv_inline", … }`: by the group's `event_data_format`.
    fn data(&mut self, value: Value) -> Option<DataRule> {
        if !value.is_table() {
            return self.named(value, DATA, known_data()).map(DataRule::Always);
        }
        let table = value.table("`data`", &mut self.problems)?;
        if table.entries().is_empty() {
            value.report(&mut self.problems, "`data` is empty");
        }
        let mut cases = Vec::new();
        for entry in table.entries() {
            let patterns = self.patterns(*entry);
            if let Some(data) = self.one_of(entry, entry.key, DATA, known_data()) {
                cases.push((data, patterns));
            }
        }
        Some(DataRule::ByEventDataFormat(cases))
    }

    /// A copy has a report only if the mail has it.
    fn data_of_copy(&mut self, value: Value) -> Option<DataRule> {
        let data = self.data(value)?;
        if data.all().iter().any(|data| data.is_report()) {
            let message = "a copy has a report where the mail has one, and no other";
            value.report(&mut self.problems, message);
        }
        Some(data)
    }

    fn encrypt(&mut self, value: Value) -> Option<Encrypt> {
        self.named(value, "unknown value of `encrypt`", ENCRYPT)
    }

    /// `{ guard_formulas = true, bom = true }`.
    fn csv(&mut self, value: Value) -> TableOptions {
        let Some(mut table) = value.table("`csv`", &mut self.problems) else {
            return TableOptions::default();
        };
        let options = TableOptions {
            guard_formulas: self.flag(&mut table, "guard_formulas"),
            bom: self.flag(&mut table, "bom"),
        };
        table.deny_unknown(&mut self.problems);
        options
    }

    /// `{ compress = "zip", above = "256 KiB" }`.
    fn compress(&mut self, value: Value) -> Option<Compress> {
        let mut table = value.table("`attachment`", &mut self.problems)?;
        let how = table.require("compress", &mut self.problems);
        let known = Compression::ALL.map(|how| (how.as_str(), how));
        let how = how.and_then(|value| self.named(value, "unknown compression", known));
        let above = table.get("above").and_then(|value| {
            let size = parse_size(value.string(&mut self.problems)?);
            size.map_err(|message| value.report(&mut self.problems, message)).ok()
        });
        table.deny_unknown(&mut self.problems);
        Some(Compress { how: how?, above: above.unwrap_or(0) })
    }

    /// What a text stands for. `wrong` begins the message where it is not among the known ones.
    fn named<T>(
        &mut self,
        value: Value,
        wrong: &str,
        known: impl IntoIterator<Item = (&'static str, T)>,
    ) -> Option<T> {
        let name = value.string(&mut self.problems)?;
        self.one_of(&value, name, wrong, known)
    }

    /// The same for a `name` that stands elsewhere; a problem is that of `value`.
    fn one_of<T>(
        &mut self,
        value: &Value,
        name: &str,
        wrong: &str,
        known: impl IntoIterator<Item = (&'static str, T)>,
    ) -> Option<T> {
        let (names, meanings): (Vec<_>, Vec<_>) = known.into_iter().unzip();
        let found = names.iter().position(|known| *known == name);
        if found.is_none() {
            value.report(&mut self.problems, format!("{wrong} {name:?}{}", hint(name, &names)));
        }
        meanings.into_iter().nth(found?)
    }

    fn flag(&mut self, table: &mut Table, key: &'static str) -> bool {
        table.get(key).and_then(|value| value.boolean(&mut self.problems)).unwrap_or(false)
    }

    fn number(&mut self, value: Value) -> Option<NonZeroUsize> {
        value.number(&mut self.problems)
    }

    /// `template`, or `subject` and `body`, or none of them.
    fn template(&mut self, table: &mut Table) -> Option<TemplateChoice> {
        let template = table.get("template");
        let subject = table.get("subject");
        let body = table.get("body");
        match (template, subject, body) {
            (None, None, None) => None,
            (Some(name), None, None) => {
                let name = name.non_empty_string(&mut self.problems)?;
                Some(TemplateChoice::Named(name.to_owned()))
            }
            (None, Some(subject), Some(body)) => {
                let line = subject.non_empty_string(&mut self.problems)?;
                if line.contains(char::is_control) {
                    subject.report(&mut self.problems, "`subject` must be a single line");
                }
                let text = body.string(&mut self.problems)?;
                Some(TemplateChoice::Inline {
                    subject: self.text(&subject, line),
                    body: self.text(&body, text),
                })
            }
            (Some(template), ..) => {
                template.report(&mut self.problems, "`template` excludes `subject` and `body`");
                None
            }
            (None, Some(lonely), None) | (None, None, Some(lonely)) => {
                let message = "`subject` and `body` need each other";
                self.problems.report(lonely.key_offset, message);
                None
            }
        }
    }
}

/// Whether a template can name it: as in Python's `string.Template` with dots allowed.
fn is_placeholder(name: &str) -> bool {
    let first = name.bytes().next();
    first.is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.')
}
