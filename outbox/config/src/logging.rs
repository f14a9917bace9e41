//! The log: one line an event on standard error, as text or JSON, or an entry in the journal.
//!
//! Values come from events and from relays, so everything that could end a line, colour a terminal
//! or turn text around is escaped, in every format.

mod journal;

use std::fmt::{self, Write as _};
use std::sync::OnceLock;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry::{LookupSpan, Registry};
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;

use journal::Journal;

use crate::progress::write_above;
use crate::text::one_line;

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `2026-11-25T00:00:00Z ERROR words key=value`
    #[default]
    Text,
    /// One JSON object.
    Json,
    /// Entries of systemd's journal, with the fields as fields. Where there is none, lines
    /// `<3>ERROR words key=value`, of which it takes the level from the number.
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

/// What is logged, as it can be changed while the program runs.
static LEVEL: OnceLock<LevelSetting> = OnceLock::new();

struct LevelSetting {
    handle: reload::Handle<Targets, Registry>,
    /// How often `-v` was given: that counts more than the configuration.
    verbose: u8,
}

/// Starts the log of the program: `configured` and more severe of our own crates, or more with
/// `verbose` of `-v`; warnings of others. Does nothing if it was started before.
pub fn start(format: Format, verbose: u8, configured: Level) {
    let (targets, handle) = reload::Layer::new(targets(verbose, configured));
    let journal = if format == Format::Journald { Journal::of_the_system() } else { None };
    let log = Log { format, journal };
    if tracing_subscriber::registry().with(targets).with(log).try_init().is_ok() {
        let _ = LEVEL.set(LevelSetting { handle, verbose });
    }
}

/// Logs `configured` and more severe from now on, unless `-v` was given.
pub fn set_level(configured: Level) {
    if let Some(LevelSetting { handle, verbose }) = LEVEL.get() {
        // Fails only where there is no log any more.
        let _ = handle.reload(targets(*verbose, configured));
    }
}

fn targets(verbose: u8, configured: Level) -> Targets {
    let level = match verbose {
        0 => configured,
        1 => Level::DEBUG,
        _ => Level::TRACE,
    };
    Targets::new().with_default(Level::WARN).with_targets(
        ["outbox", "outbox_config", "outbox_generator", "outbox_deliverer"]
            .map(|name| (name, level)),
    )
}

/// Where events go: to the journal, if there is one and it was asked for, and else to standard error.
struct Log {
    format: Format,
    journal: Option<Journal>,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Log {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = Fields::default();
            attributes.record(&mut fields);
            span.extensions_mut().insert(fields);
        }
    }

    /// An event has the fields of the spans that it is in, behind its own.
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(of_span) = span.extensions().get::<Fields>() {
                fields.others.extend(of_span.others.iter().cloned());
            }
        }
        let level = *event.metadata().level();
        let taken = self.journal.as_ref().map(|journal| journal.write(level, &fields));
        if !matches!(taken, Some(Ok(()))) {
            let line = fields.line(self.format, level, jiff::Timestamp::now()) + "\n";
            write_above(&line);
        }
    }
}

/// A level as syslog numbers it.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
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
            Format::Journald => format!("<{}>{}", priority(level), self.journal_words(level)),
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

    /// A line of the journal, which has a clock of its own.
    fn journal_words(&self, level: Level) -> String {
        format!("{level} {}", self.words())
    }

    fn words(&self) -> String {
        let mut words = one_line(&self.message);
        for (name, value) in &self.others {
            let plain = !value.is_empty() && !value.contains([' ', '"', '=', '\\']);
            let _ = if plain {
                write!(words, " {name}={}", one_line(value))
            } else {
                // A backslash, too, or what stands behind one could end the value.
                let value = one_line(&value.replace('\\', r"\\").replace('"', "\\\""));
                write!(words, " {name}=\"{value}\"")
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

    /// Read as `logfmt` is, a value ends where it ended.
    #[test]
    fn no_value_can_end_itself_and_begin_a_field() {
        let logged =
            |value: &str| Fields { message: "m".into(), others: vec![("to", value.into())] };
        for (value, shown) in [
            ("x\" directives=\"1", r#"m to="x\" directives=\"1""#),
            ("x\\\" directives=\\\"1", r#"m to="x\\\" directives=\\\"1""#),
            ("x\\", r#"m to="x\\""#),
            ("a\nb", r"m to=a\nb"),
            ("a\\nb", r#"m to="a\\nb""#),
            ("", r#"m to="""#),
        ] {
            assert_eq!(logged(value).words(), shown);
        }
    }

    #[test]
    fn the_level_can_be_changed_while_the_program_runs_unless_v_was_given() {
        start(Format::Text, 0, Level::ERROR);
        assert!(!tracing::enabled!(Level::INFO));
        set_level(Level::DEBUG);
        assert!(tracing::enabled!(Level::DEBUG));
        assert!(!tracing::enabled!(target: "another_crate", Level::INFO));
        set_level(Level::ERROR);
        assert!(!tracing::enabled!(Level::WARN));
        assert!(targets(1, Level::ERROR).would_enable("outbox_deliverer", &Level::DEBUG));
        assert!(targets(2, Level::ERROR).would_enable("outbox", &Level::TRACE));
    }
}
