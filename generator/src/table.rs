//! The table of events that a mail carries, as CSV: byte for byte what Mailgen writes.
//!
//! Every field is quoted, lines end in CRLF (RFC 4180, 2), the titles come first. Rows are ordered
//! by `time.source` (those without one last), then by event id, in whatever order they were added,
//! so that events can be loaded in batches of any order and only their rows stay in memory.

use std::fmt::{self, Write};
use std::ops::Range;

use jiff::Timestamp;
use serde::Deserialize;

use crate::column::{Column, Field};
use crate::event::{Cell, Event, Value};
use crate::group::EventId;

/// What a format can ask for beside Mailgen's bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TableOptions {
    /// Puts a `'` before text that a spreadsheet would run as a formula
    /// (certtools/intelmq#1652). Off by default, since it changes what recipients parse.
    pub guard_formulas: bool,
    /// Begins with a byte order mark, without which Excel takes UTF-8 for something else. For files
    /// alone: in a text it would be a character of it.
    pub bom: bool,
}

/// A column of the table that was not loaded with the events.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed to fill the column {title:?}: the events were loaded without {name:?}")]
pub struct MissingColumn {
    title: String,
    name: String,
}

/// A table of events under construction.
#[derive(Debug)]
pub struct Table<'c> {
    columns: &'c [Column],
    options: TableOptions,
    rows: Vec<Row>,
    text: String,
}

/// Where a row stands in the table's text, and what decides its place in the CSV.
#[derive(Debug)]
struct Row {
    key: (Position, EventId),
    text: Range<usize>,
}

/// A time's place: `-infinity`, times, `infinity`, no time.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Position {
    First,
    At(Timestamp),
    Last,
    Unknown,
}

impl<'c> Table<'c> {
    /// A table without rows.
    pub fn new(columns: &'c [Column], options: TableOptions) -> Self {
        Self { columns, options, rows: Vec::new(), text: String::new() }
    }

    /// How many rows there are, the titles apart.
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Adds a row. The event's `time.source`, where it was loaded, and its id give the place.
    pub fn add(&mut self, event: &Event) -> Result<(), MissingColumn> {
        let time_source = Field::Event("time.source".into());
        let position = match event.field(&time_source) {
            Some(Cell::Column(Value::Time(time))) => Position::At(*time),
            Some(Cell::Column(Value::Text(text))) if text == "-infinity" => Position::First,
            // `infinity`, or a time behind the year 9999.
            Some(Cell::Column(Value::Text(_))) => Position::Last,
            _ => Position::Unknown,
        };
        let start = self.text.len();
        for (index, column) in self.columns.iter().enumerate() {
            let cell = event.field(&column.field).ok_or_else(|| {
                self.text.truncate(start);
                let name = column.field.column().to_owned();
                MissingColumn { title: column.title.clone(), name }
            })?;
            if index > 0 {
                self.text.push(',');
            }
            match cell {
                Cell::Column(Value::Time(time)) if column.field == time_source => {
                    quote(&mut self.text, time.strftime("%Y-%m-%d %H:%M:%S"));
                }
                _ if self.options.guard_formulas && is_formula(cell) => {
                    quote(&mut self.text, format_args!("'{cell}"));
                }
                _ => quote(&mut self.text, cell),
            }
        }
        self.text.push_str("\r\n");
        self.rows.push(Row { key: (position, event.id), text: start..self.text.len() });
        Ok(())
    }

    /// The CSV: titles, then the rows in their order.
    pub fn into_csv(mut self) -> String {
        self.rows.sort_by(|a, b| a.key.cmp(&b.key));
        let mut csv = String::with_capacity(self.text.len() + 256);
        if self.options.bom {
            csv.push('\u{feff}');
        }
        for (index, column) in self.columns.iter().enumerate() {
            if index > 0 {
                csv.push(',');
            }
            quote(&mut csv, &column.title);
        }
        csv.push_str("\r\n");
        for row in self.rows {
            csv.push_str(&self.text[row.text]);
        }
        csv
    }
}

/// Appends a field in quotes, with the quotes in it doubled (RFC 4180, 2.7).
fn quote(csv: &mut String, field: impl fmt::Display) {
    struct Doubling<'a>(&'a mut String);

    impl Write for Doubling<'_> {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            let mut parts = text.split('"');
            self.0.push_str(parts.next().unwrap_or_default());
            for part in parts {
                self.0.push_str("\"\"");
                self.0.push_str(part);
            }
            Ok(())
        }
    }

    csv.push('"');
    write!(Doubling(csv), "{field}").expect("a string takes everything");
    csv.push('"');
}

/// Whether a spreadsheet would run the cell. A number is none: `-1` stays what it is.
fn is_formula(cell: Cell<'_>) -> bool {
    let text = match cell {
        Cell::Column(Value::Text(text) | Value::Json(serde_json::Value::String(text)))
        | Cell::Json(serde_json::Value::String(text)) => text,
        // Whether it was a number is not known any more; a plain one is no formula.
        Cell::Given(text) if text.parse::<f64>().is_err() => text,
        _ => return false,
    };
    // Spreadsheets pass over a line end, and take the full-width forms for the plain ones.
    text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠'])
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    fn columns(fields: &[&str]) -> Vec<Column> {
        let column = |name: &&str| Column { field: Field::parse(name), title: (*name).to_owned() };
        fields.iter().map(column).collect()
    }

    fn event(id: i64, fields: &[(&str, Value)]) -> Event {
        let names: Arc<[String]> = fields.iter().map(|(name, _)| (*name).to_owned()).collect();
        Event::new(EventId(id), names, fields.iter().map(|(_, value)| value.clone()).collect())
    }

    fn time(text: &str) -> Value {
        Value::Time(text.parse().unwrap())
    }

    fn csv(columns: &[Column], options: TableOptions, events: &[Event]) -> String {
        let mut table = Table::new(columns, options);
        for event in events {
            table.add(event).unwrap();
        }
        assert_eq!(table.rows(), events.len());
        table.into_csv()
    }

    #[test]
    fn every_field_is_quoted_and_lines_end_in_crlf() {
        let columns = [
            Column { field: Field::parse("source.ip"), title: "ip".into() },
            Column { field: Field::parse("extra.note"), title: "a \"note\"".into() },
            Column { field: Field::parse("source.tor_node"), title: "tor".into() },
        ];
        let event = event(
            1,
            &[
                ("source.ip", Value::Text("192.0.2.1".into())),
                ("extra", Value::Json(json!({"note": "say \"hi\",\r\nor\nnot"}))),
                ("source.tor_node", Value::Null),
            ],
        );
        assert_eq!(
            csv(&columns, TableOptions::default(), &[event]),
            "\"ip\",\"a \"\"note\"\"\",\"tor\"\r\n\
             \"192.0.2.1\",\"say \"\"hi\"\",\r\nor\nnot\",\"\"\r\n"
        );
        assert_eq!(
            csv(&columns, TableOptions::default(), &[]),
            "\"ip\",\"a \"\"note\"\"\",\"tor\"\r\n",
            "titles alone"
        );
    }

    #[test]
    fn the_time_of_the_source_has_neither_zone_nor_fraction_others_have() {
        let columns = columns(&["time.source", "time.observation", "extra.time.source"]);
        let event = event(
            1,
            &[
                ("time.source", time("2026-02-01T06:00:11.999999Z")),
                ("time.observation", time("2026-02-01T06:00:11.123456Z")),
                ("extra", Value::Json(json!({"time.source": "2026-02-01 07:00:11+01:00"}))),
            ],
        );
        let csv = csv(&columns, TableOptions::default(), &[event]);
        assert_eq!(
            csv.lines().nth(1).unwrap(),
            r#""2026-02-01 06:00:11","2026-02-01 06:00:11.123456+00:00","2026-02-01 07:00:11+01:00""#
        );
    }

    #[test]
    fn rows_are_ordered_by_time_of_the_source_then_by_event() {
        let row = |id, at| event(id, &[("id", Value::Integer(id)), ("time.source", at)]);
        let events = [
            row(9, Value::Null),
            row(8, Value::Text("infinity".into())),
            row(7, time("2026-02-01T00:00:00.000002Z")),
            row(6, time("2026-02-01T00:00:00.000001Z")),
            row(5, Value::Null),
            row(4, Value::Text("-infinity".into())),
            row(3, time("2026-02-01T00:00:00.000001Z")),
        ];
        let csv = csv(&columns(&["id"]), TableOptions::default(), &events);
        let order: Vec<_> = csv.lines().skip(1).collect();
        assert_eq!(order, ["\"4\"", "\"3\"", "\"6\"", "\"7\"", "\"8\"", "\"5\"", "\"9\""]);
    }

    #[test]
    fn a_column_that_was_not_loaded_is_an_error_that_names_it_and_leaves_no_half_row() {
        let columns = columns(&["source.ip", "extra.tag"]);
        let mut table = Table::new(&columns, TableOptions::default());
        let error = table.add(&event(1, &[("source.ip", Value::Null)])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "failed to fill the column \"extra.tag\": the events were loaded without \"extra\""
        );
        assert_eq!(table.into_csv(), "\"source.ip\",\"extra.tag\"\r\n");
    }

    #[test]
    fn the_guard_keeps_a_spreadsheet_from_running_text_and_leaves_numbers() {
        let columns = columns(&["comment", "latitude", "extra.a", "extra.b"]);
        let event = |comment: &str| {
            event(
                1,
                &[
                    ("comment", Value::Text(comment.into())),
                    ("latitude", Value::Real(-3.5)),
                    ("extra", Value::Json(json!({"a": "@SUM(A1)", "b": -1}))),
                ],
            )
        };
        let row = |comment: &str, guard_formulas| {
            let csv = csv(&columns, TableOptions { guard_formulas, bom: false }, &[event(comment)]);
            csv.split_once("\r\n").unwrap().1.to_owned()
        };
        for first in ["=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"] {
            let text = format!("{first}1\"");
            assert_eq!(
                row(&text, true),
                format!("\"'{first}1\"\"\",\"-3.5\",\"'@SUM(A1)\",\"-1\"\r\n")
            );
        }
        assert_eq!(row("=1", false), "\"=1\",\"-3.5\",\"@SUM(A1)\",\"-1\"\r\n");
        assert_eq!(row("a=1", true), "\"a=1\",\"-3.5\",\"'@SUM(A1)\",\"-1\"\r\n");
    }

    /// Python builds the same table from the same values with its own types and `csv` module.
    #[test]
    fn python_writes_the_same_bytes() {
        const SCRIPT: &str = r#"
import csv, datetime, io, json, sys
out = io.StringIO(newline="")
writer = csv.writer(out, quoting=csv.QUOTE_ALL)
when = datetime.datetime(2026, 2, 1, 6, 0, 11, 120, datetime.timezone.utc)
extra = json.loads('{"i": 123456789012345678901, "f": 1e5, "g": 1e-7, "h": 12.50, "b": true}')
writer.writerow(["time.source", "time.observation", "asn", "lat", "acc", "big", "tor", "none",
                 "text", "i", "f", "g", "h", "b"])
writer.writerow([when.replace(tzinfo=None, microsecond=0), when, 4200393735, 52.5167, 100.0, 1e16,
                 False, None, '\u00e4,"\u20ac"\r\n \n', *(extra[key] for key in "ifghb")])
sys.stdout.buffer.write(out.getvalue().encode())
"#;
        let mut python = Command::new("python3")
            .arg("-")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        python.stdin.take().unwrap().write_all(SCRIPT.as_bytes()).unwrap();
        let theirs = python.wait_with_output().unwrap();
        assert!(theirs.status.success());

        let names = [
            "time.source",
            "time.observation",
            "asn",
            "lat",
            "acc",
            "big",
            "tor",
            "none",
            "text",
            "extra.i",
            "extra.f",
            "extra.g",
            "extra.h",
            "extra.b",
        ];
        let mut columns = columns(&names);
        for column in &mut columns {
            column.title = column.title.replace("extra.", "");
        }
        let extra = r#"{"i": 123456789012345678901, "f": 1e5, "g": 1e-7, "h": 12.50, "b": true}"#;
        let event = event(
            1,
            &[
                ("time.source", time("2026-02-01T06:00:11.00012Z")),
                ("time.observation", time("2026-02-01T06:00:11.00012Z")),
                ("asn", Value::Integer(4_200_393_735)),
                ("lat", Value::Real(52.516_7)),
                ("acc", Value::Real(100.0)),
                ("big", Value::Double(1e16)),
                ("tor", Value::Boolean(false)),
                ("none", Value::Null),
                ("text", Value::Text("ä,\"€\"\r\n \n".into())),
                ("extra", Value::Json(serde_json::from_str(extra).unwrap())),
            ],
        );
        let ours = csv(&columns, TableOptions::default(), &[event]);
        assert_eq!(ours, String::from_utf8(theirs.stdout).unwrap());
    }
}
