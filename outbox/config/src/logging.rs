//! The log: one line an event on standard error, as text, JSON or for the journal.
//!
//! Values come from events and from relays, so everything that could end a line, colour a terminal
//! or turn text around is escaped, in every format.

use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::text::one_line;

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `2026-11-25T00:00:00Z ERROR words key=value`
    #[default]
    Text,
    /// One JSON object.
    Json,
    /// `<3>words key=value`: systemd's journal takes the level from the number and has a clock.
    Journald,
}

impl std::str::FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            "journald" => Ok(Self::Journald),
            _ => Err("write text, json or journald".into()),
        }
    }
}

/// Starts the log of the program: `level` and more severe of our own crates, warnings of others.
/// Does nothing if it was started before.
pub fn start(format: Format, level: Level) {
    let targets = Targets::new().with_default(Level::WARN).with_targets(
        ["outbox", "outbox_config", "outbox_generator", "outbox_deliverer"]
            .map(|name| (name, level)),
    );
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).event_format(format);
    let _ = tracing_subscriber::registry().with(targets).with(layer).try_init();
}

impl<S, N> FormatEvent<S, N> for Format
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let now = jiff::Timestamp::now();
        writeln!(writer, "{}", fields.line(*self, *event.metadata().level(), now))
    }
}

/// An event's message and fields, as text.
#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, String)>,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record(field, value.to_owned());
    }
}

impl Fields {
    fn record(&mut self, field: &Field, value: String) {
        match field.name() {
            "message" => self.message = value,
            name => self.others.push((name, value)),
        }
    }

    fn line(&self, format: Format, level: Level, now: jiff::Timestamp) -> String {
        match format {
            Format::Text => format!("{now:.3} {level:>5} {}", self.words()),
            Format::Journald => {
                let priority = match level {
                    Level::ERROR => 3,
                    Level::WARN => 4,
                    Level::INFO => 6,
                    _ => 7,
                };
                format!("<{priority}>{} {}", level, self.words())
            }
            Format::Json => {
                let mut line = serde_json::Map::new();
                line.insert("time".into(), format!("{now:.3}").into());
                line.insert("level".into(), level.as_str().into());
                line.insert("message".into(), one_line(&self.message).into());
                for (name, value) in &self.others {
                    line.insert((*name).into(), one_line(value).into());
                }
                serde_json::Value::Object(line).to_string()
            }
        }
    }

    fn words(&self) -> String {
        let mut words = one_line(&self.message);
        for (name, value) in &self.others {
            let value = one_line(value);
            let plain = !value.is_empty() && !value.contains([' ', '"', '=']);
            let _ = if plain {
                write!(words, " {name}={value}")
            } else {
                write!(words, " {name}=\"{}\"", value.replace('"', "\\\""))
            };
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields() -> Fields {
        Fields {
            message: "refused\n2026 ERROR forged \u{1b}[31m".into(),
            others: vec![
                ("ticket", "20261125-10000001".into()),
                ("reply", "a \"b\"\u{202e}".into()),
            ],
        }
    }

    #[test]
    fn no_value_can_end_the_line_or_colour_the_terminal_in_any_format() {
        let now = "2026-11-25T00:00:00Z".parse().unwrap();
        assert_eq!(
            fields().line(Format::Text, Level::ERROR, now),
            r#"2026-11-25T00:00:00.000Z ERROR refused\n2026 ERROR forged \u{1b}[31m ticket=20261125-10000001 reply="a \"b\"\u{202e}""#
        );
        for format in [Format::Json, Format::Journald] {
            let line = fields().line(format, Level::WARN, now);
            assert!(!line.contains(['\n', '\u{1b}', '\u{202e}']), "{line:?}");
        }
        assert!(fields().line(Format::Journald, Level::WARN, now).starts_with("<4>WARN refused"));
    }
}
