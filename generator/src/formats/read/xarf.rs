//! `[format.xarf]`: how an event becomes a report.

use super::super::plan::Data;
use super::super::toml_table::{Table, Value};
use super::Reader;
use crate::column::Field;
use crate::xarf::kind::Kind;
use crate::xarf::types::CATEGORIES;
use crate::xarf::{Entry, EvidenceRule, Form, Mapping, Source, v02, v4};

/// The version that reports of X-ARF 4 are of, where the definition names none.
const VERSION: &str = "4.2.0";

impl Reader<'_> {
    /// Reads the table for reports of the version that `data` is.
    pub(super) fn xarf(&mut self, value: Value, data: Data) -> Option<Mapping> {
        let mut table = value.table("[format.xarf]", &mut self.problems)?;
        let form = match data {
            Data::Xarf4 => self.v4(&mut table),
            _ => self.v02(&mut table),
        };
        let fields = table.require("fields", &mut self.problems);
        let evidence = table.get("evidence");
        table.deny_unknown(&mut self.problems);
        let form = form?;
        let entries = self.entries(&form, fields?);
        let evidence = evidence.map(|value| self.evidence(&form, value)).unwrap_or_default();
        Some(Mapping { form, entries, evidence })
    }

    fn v02(&mut self, table: &mut Table) -> Option<Form> {
        let [category, report_type, schema_url] =
            ["category", "report_type", "schema_url"].map(|key| {
                let value = table.require(key, &mut self.problems)?;
                value.non_empty_string(&mut self.problems).map(|text| (value, text.to_owned()))
            });
        let (schema, schema_url) = schema_url?;
        if let Err(wrong) = Kind::Uri.fit(schema_url.as_str().into()) {
            schema.report(&mut self.problems, format!("`schema_url` {wrong}"));
        }
        let (category, report_type) = (category?.1, report_type?.1);
        Some(Form::V02(v02::Head { category, report_type, schema_url }))
    }

    fn v4(&mut self, table: &mut Table) -> Option<Form> {
        let category = table.require("category", &mut self.problems);
        let report_type = table.require("type", &mut self.problems);
        let version = match table.get("version") {
            None => VERSION.to_owned(),
            Some(value) => {
                let version = value.string(&mut self.problems)?;
                let numbers: Vec<_> = version.split('.').collect();
                let is_number =
                    |text: &&str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
                if numbers.len() != 3 || numbers[0] != "4" || !numbers.iter().all(is_number) {
                    let message = format!("`version` must be like \"{VERSION}\", not {version:?}");
                    value.report(&mut self.problems, message);
                }
                version.to_owned()
            }
        };
        let known = CATEGORIES.iter().map(|category| (category.name, category));
        let category = self.named(category?, "X-ARF has no `category`", known)?;
        let known = category.types.iter().map(|report_type| (report_type.name, report_type));
        let report_type = self.named(report_type?, "X-ARF has no `type`", known)?;
        Some(Form::V4(v4::Head { version, category, report_type }))
    }

    fn entries(&mut self, form: &Form, value: Value) -> Vec<Entry> {
        let title = "[format.xarf.fields]";
        let Some(table) = value.table(title, &mut self.problems) else { return Vec::new() };
        let keys: Vec<_> = table.entries().iter().map(|entry| entry.key).collect();
        for key in form.required() {
            if !keys.contains(&key) {
                value.report(
                    &mut self.problems,
                    format!("{title} lacks `{key}`, which each report needs"),
                );
            }
        }
        let mut entries = Vec::new();
        for entry in table.entries() {
            let key = entry.key;
            let inside =
                |other: &&&str| other.strip_prefix(key).is_some_and(|rest| rest.starts_with('.'));
            let kind = form.kind(key);
            let wrong = if kind.is_none() {
                Some(format!("`{key}` is not set here: the report has it without that"))
            } else if !is_key(form, key) {
                Some(format!("`{key}` is no name for a field of a report"))
            } else {
                let other = keys.iter().find(inside);
                other.map(|other| format!("`{key}` and `{other}` exclude each other"))
            };
            if let Some(wrong) = wrong {
                self.problems.report(entry.key_offset, wrong);
            }
            if let Some(read) = self.entry(form, entry, kind.unwrap_or(Kind::Any)) {
                let required = read.required || form.required().contains(&key);
                entries.push(Entry { required, ..read });
            }
        }
        entries
    }

    /// `"source.ip"`, `["destination.fqdn", "destination.ip"]`, or a table with `field`, `from` or
    /// `value`.
    fn entry(&mut self, form: &Form, value: &Value, kind: Kind) -> Option<Entry> {
        let key = value.key.to_owned();
        if !value.is_table() {
            let sources = self.sources(value, kind);
            return Some(Entry { key, kind, required: false, sources });
        }
        let mut table = value.table("a field of a report", &mut self.problems)?;
        let kind = match table.get("type") {
            None => kind,
            // What X-ARF asks for is not for a definition to say otherwise.
            Some(named) if !form.leaves_open(&key) => {
                named.report(&mut self.problems, format!("{key:?} must be {kind} in any case"));
                kind
            }
            Some(named) => self.kind(named)?,
        };
        let required = self.flag(&mut table, "required");
        let sources = match table.get("from") {
            Some(from) => self.sources(&from, kind),
            None => self.source(&mut table, kind).into_iter().collect(),
        };
        table.deny_unknown(&mut self.problems);
        Some(Entry { key, kind, required, sources })
    }

    fn kind(&mut self, value: Value) -> Option<Kind> {
        const KINDS: [(&str, Kind); 4] = [
            ("string", Kind::TEXT),
            ("integer", Kind::INTEGER),
            ("number", Kind::NUMBER),
            ("boolean", Kind::Boolean),
        ];
        self.named(value, "unknown `type`", KINDS)
    }

    /// One or more, of which the first that has a value counts.
    fn sources(&mut self, value: &Value, kind: Kind) -> Vec<Source> {
        let mut sources = Vec::new();
        for value in value.one_or_more(&mut self.problems) {
            if value.is_table() {
                let Some(mut table) = value.table("a source", &mut self.problems) else { continue };
                sources.extend(self.source(&mut table, kind));
                table.deny_unknown(&mut self.problems);
            } else if let Some(field) = self.event_field(value) {
                sources.push(Source::Field { field, only: Vec::new() });
            }
        }
        sources
    }

    /// `field` and `only`, or `value`.
    fn source(&mut self, table: &mut Table, kind: Kind) -> Option<Source> {
        if let Some(value) = table.get("value") {
            let constant = value.constant(&mut self.problems)?;
            return match kind.fit(constant) {
                Ok(constant) => Some(Source::Value(constant)),
                Err(wrong) => {
                    value.report(&mut self.problems, format!("the value {wrong}"));
                    None
                }
            };
        }
        let only = self.optional(table, "only", Self::strings).unwrap_or_default();
        let Some(field) = table.get("field") else {
            let message = format!(
                "{} has `field`, `from` or `value`; its own name needs quotes if there are dots in it",
                table.title()
            );
            self.problems.report(table.offset, message);
            return None;
        };
        Some(Source::Field { field: self.event_field(field)?, only })
    }

    fn event_field(&mut self, value: Value) -> Option<Field> {
        let name = value.string(&mut self.problems)?;
        self.field(name, value.offset())
    }

    fn evidence(&mut self, form: &Form, value: Value) -> Vec<EvidenceRule> {
        let values = value.one_or_more(&mut self.problems);
        let (most, version) = match form {
            Form::V02(_) => (1, "0.2"),
            Form::V4(_) => (50, "4"),
        };
        if values.len() > most {
            let message = format!("X-ARF {version} has at most {most} of `evidence`");
            value.report(&mut self.problems, message);
        }
        values.into_iter().filter_map(|value| self.evidence_rule(form, value)).collect()
    }

    fn evidence_rule(&mut self, form: &Form, value: Value) -> Option<EvidenceRule> {
        let mut table = value.table("`evidence`", &mut self.problems)?;
        let field = table.require("field", &mut self.problems);
        let content_type = table.require("content_type", &mut self.problems);
        let description = table.get("description");
        let base64 = self.flag(&mut table, "base64");
        let required = self.flag(&mut table, "required");
        table.deny_unknown(&mut self.problems);

        let description = match description {
            None => None,
            Some(value) => {
                let text = value.string(&mut self.problems)?;
                if let Err(wrong) = Kind::Text(500).fit(text.into()) {
                    value.report(&mut self.problems, format!("`description` {wrong}"));
                }
                Some(text.to_owned())
            }
        };
        let content_type_value = content_type?;
        let content_type = content_type_value.string(&mut self.problems)?;
        // In a mail, a part of these can't be base64 (RFC 2046, 5.1 and 5.2).
        let is_composite =
            content_type.starts_with("multipart/") || content_type.starts_with("message/");
        if !is_media_type(content_type) {
            let message = format!("{content_type:?} is no MIME type, such as text/plain");
            content_type_value.report(&mut self.problems, message);
        } else if is_composite && matches!(form, Form::V02(_)) {
            let message = format!("a report of X-ARF 0.2 can't carry {content_type}");
            content_type_value.report(&mut self.problems, message);
        }
        let content_type = content_type.to_owned();
        Some(EvidenceRule {
            content_type,
            description,
            field: self.event_field(field?)?,
            base64,
            required,
        })
    }
}

/// Whether a field of a report can have this name.
fn is_key(form: &Form, key: &str) -> bool {
    let word = |word: &str| {
        !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c))
    };
    match form {
        Form::V02(_) => v02::is_key(key),
        Form::V4(_) => key.split('.').all(word),
    }
}

/// Whether it is a type and a subtype (RFC 6838, 4.2).
fn is_media_type(text: &str) -> bool {
    let name = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "!#$&-^_.+".contains(c))
    };
    text.split_once('/').is_some_and(|(kind, subtype)| name(kind) && name(subtype))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::formats::read::read;

    const HEAD: &str = "[[format]]\nname = \"x\"\ncolumns = [\"source.ip\"]\n";

    /// What is wrong with a format that has these lines from its fourth on.
    fn problems(lines: &str) -> Vec<String> {
        match read(Path::new("10-x.toml"), &format!("{HEAD}{lines}")) {
            Ok(_) => Vec::new(),
            Err(problems) => problems.iter().map(ToString::to_string).collect(),
        }
    }

    /// What is wrong with these fields of a botnet's report, from line 11 on, if not that others lack.
    fn in_fields(fields: &str) -> Vec<String> {
        let head = "data = \"xarf-4\"\n[format.xarf]\ncategory = \"infrastructure\"\ntype = \"botnet\"\n\
                    [format.xarf.fields]\ntimestamp = \"time.source\"\nsource_identifier = \"source.ip\"\n";
        problems(&format!("{head}{fields}"))
    }

    const EVIDENCE: &str = "compromise_evidence = { value = \"seen\" }\n";

    #[test]
    fn a_report_that_is_whole_is_taken() {
        assert_eq!(in_fields(EVIDENCE), [""; 0]);
    }

    #[test]
    fn the_table_is_there_where_a_report_is_asked_for_and_nowhere_else() {
        assert_eq!(
            problems("data = \"xarf-4\"\n"),
            ["10-x.toml:1:1: [[format]] lacks the table `xarf` for its reports"]
        );
        assert_eq!(
            problems("[format.xarf]\n"),
            ["10-x.toml:4:9: `xarf` is for `data = \"xarf-0.2\"` and `data = \"xarf-4\"` only"]
        );
        assert_eq!(
            problems(
                "data = { \"xarf-4\" = \"a\", \"xarf-0.2\" = \"b\", inline = \"*\" }\n[format.xarf]\n"
            ),
            ["10-x.toml:5:9: a format has reports of one version: make another for the other"]
        );
        let copy = "[[copy]]\nenvelope_to = \"a@b.example\"\ndata = \"xarf-4\"\n";
        assert_eq!(
            problems(copy),
            ["10-x.toml:6:8: a copy has a report where the mail has one, and no other"]
        );
    }

    #[test]
    fn what_a_report_lacks_is_told_before_there_is_an_event() {
        assert_eq!(
            problems("data = \"xarf-0.2\"\n[format.xarf]\nschema_url = \"x\"\n"),
            [
                "10-x.toml:5:1: [format.xarf] lacks the key `category`",
                "10-x.toml:5:1: [format.xarf] lacks the key `report_type`",
                "10-x.toml:5:1: [format.xarf] lacks the key `fields`",
                "10-x.toml:6:14: `schema_url` must be a URI (RFC 3986), not \"x\"",
            ]
        );
        assert_eq!(
            problems(
                "data = \"xarf-4\"\n[format.xarf]\ncategory = \"conection\"\ntype = \"login_attack\"\nfields = {}\n"
            ),
            ["10-x.toml:6:12: X-ARF has no `category` \"conection\", did you mean `connection`?"]
        );
        assert_eq!(
            problems(
                "data = \"xarf-4\"\n[format.xarf]\ncategory = \"connection\"\ntype = \"login\"\nversion = \"3\"\n\
                 fields = {}\n"
            ),
            [
                "10-x.toml:7:8: X-ARF has no `type` \"login\", did you mean `login_attack`?",
                "10-x.toml:8:11: `version` must be like \"4.2.0\", not \"3\"",
            ]
        );
        assert_eq!(
            in_fields(""),
            [
                "10-x.toml:8:1: [format.xarf.fields] lacks `compromise_evidence`, which each report needs"
            ]
        );
    }

    #[test]
    fn a_field_that_can_not_be_is_told_with_its_place() {
        let one = |line: &str| {
            let found = in_fields(&format!("{EVIDENCE}{line}\n"));
            assert_eq!(found.len(), 1, "{found:?}");
            found[0].clone()
        };
        for (line, wrong) in [
            (
                "report_id = \"id\"",
                "1: `report_id` is not set here: the report has it without that",
            ),
            (
                "_internal = \"id\"",
                "1: `_internal` is not set here: the report has it without that",
            ),
            ("\"a..b\" = \"id\"", "1: `a..b` is no name for a field of a report"),
            ("tags = { value = \"Bad\" }", "18: the value must be a tag"),
            (
                "source_port = { value = 0 }",
                "25: the value must be a whole number from 1 to 65535, not 0",
            ),
            (
                "c2_server = { value = inf }",
                "23: `value` must be a string, a number, true, false or a list of them, not float",
            ),
            ("c2_server = { field = \"extra:x\" }", "23: \"extra:x\" is no field"),
            ("c2_server = {}", "13: a field of a report has `field`, `from` or `value`"),
            ("c2_server = []", "13: `c2_server` is empty"),
            ("c2_server = 7", "13: `c2_server` must be a string"),
            (
                "c2_server = { field = \"id\", type = \"integer\" }",
                "36: \"c2_server\" must be a text in any case",
            ),
            (
                "custom = { field = \"id\", type = \"text\" }",
                "33: unknown `type` \"text\", known are",
            ),
        ] {
            let found = one(line);
            let begin = format!("10-x.toml:12:{wrong}");
            assert!(found.starts_with(&begin), "{found}\n{begin}");
        }
        assert_eq!(
            in_fields(&format!("{EVIDENCE}custom.cc = \"id\"\n")),
            [
                "10-x.toml:12:1: a field of a report has `field`, `from` or `value`; its own name needs quotes \
                 if there are dots in it",
                "10-x.toml:12:8: unknown key `cc` in a field of a report, known are `type`, `required`, `from`, \
                 `value`, `only`, `field`",
            ]
        );
        let both = in_fields(&format!("{EVIDENCE}a = \"id\"\n\"a.b\" = \"id\"\n"));
        assert_eq!(both, ["10-x.toml:12:1: `a` and `a.b` exclude each other"]);
    }

    #[test]
    fn evidence_that_can_not_be_is_told_with_its_place() {
        let of = |data: &str, evidence: &str| {
            let (own, fields) = if data == "xarf-4" {
                (
                    "category = \"reputation\"\ntype = \"blocklist\"\n",
                    "timestamp = \"id\"\nsource_identifier = \"id\"\nthreat_type = \"id\"\n",
                )
            } else {
                (
                    "category = \"abuse\"\nreport_type = \"x\"\nschema_url = \"https://x.example/\"\n",
                    "Date = \"id\"\nSource = \"id\"\n",
                )
            };
            problems(&format!(
                "data = \"{data}\"\n[format.xarf]\nevidence = {evidence}\n{own}[format.xarf.fields]\n{fields}"
            ))
        };
        let good = "{ field = \"raw\", content_type = \"text/plain\" }";
        let mail = "{ field = \"raw\", content_type = \"message/rfc822\" }";
        for data in ["xarf-0.2", "xarf-4"] {
            assert_eq!(of(data, good), [""; 0]);
            assert_eq!(
                of(data, "{ field = \"raw\", content_type = \"text\" }"),
                ["10-x.toml:6:44: \"text\" is no MIME type, such as text/plain"]
            );
        }
        assert_eq!(of("xarf-4", &format!("[{good}, {mail}]")), [""; 0]);
        assert_eq!(
            of("xarf-0.2", &format!("[{good}, {good}]")),
            ["10-x.toml:6:12: X-ARF 0.2 has at most 1 of `evidence`"]
        );
        assert_eq!(
            of("xarf-0.2", mail),
            ["10-x.toml:6:44: a report of X-ARF 0.2 can't carry message/rfc822"]
        );
    }
}
