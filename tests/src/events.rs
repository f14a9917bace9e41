//! Events with directives, made up for a test.

use serde_json::{Value, json};

/// A directive as a rule expert attaches it to an event. What a test does not say is as good as
/// anything.
#[derive(Clone, Debug)]
pub struct Directive(Value);

impl Directive {
    /// To this address, with the events inside the text that all formats without a rule of their
    /// own get.
    pub fn to(recipient: &str) -> Self {
        Self(json!({
            "medium": "email",
            "recipient_address": recipient,
            "template_name": "generic",
            "notification_format": "text",
            "event_data_format": "csv_inline",
            "aggregate_identifier": {},
            "notification_interval": 0,
        }))
    }

    /// With this template.
    #[must_use]
    pub fn template(self, name: &str) -> Self {
        self.with("template_name", json!(name))
    }

    /// In this format.
    #[must_use]
    pub fn format(self, notification: &str, event_data: &str) -> Self {
        self.with("notification_format", json!(notification))
            .with("event_data_format", json!(event_data))
    }

    /// Grouped by this, too.
    #[must_use]
    pub fn aggregate(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.0["aggregate_identifier"][key] = value.into();
        self
    }

    /// At most once in so many seconds.
    #[must_use]
    pub fn interval(self, seconds: i64) -> Self {
        self.with("notification_interval", json!(seconds))
    }

    /// With this value, whatever it is.
    #[must_use]
    pub fn with(mut self, key: &str, value: Value) -> Self {
        self.0[key] = value;
        self
    }

    /// As JSON.
    pub fn json(self) -> Value {
        self.0
    }

    /// An event with this directive.
    pub fn event(self) -> Value {
        event([self])
    }
}

/// An event with these directives.
pub fn event(directives: impl IntoIterator<Item = Directive>) -> Value {
    event_with(&directives.into_iter().map(Directive::json).collect())
}

/// An event whose directives are this, whatever it is.
pub fn event_with(directives: &Value) -> Value {
    json!({
        "source.asn": 64496,
        "source.ip": "192.0.2.1",
        "time.source": "2026-11-24T10:11:12+00:00",
        "extra": {"certbund": {"source_directives": directives}},
    })
}

/// Events of `count` groups, one each.
pub fn groups(count: usize) -> Vec<Value> {
    (1..=count).map(|number| Directive::to(&recipient(number)).event()).collect()
}

/// Whom the `number`th of [`groups`] goes to.
pub fn recipient(number: usize) -> String {
    format!("abuse{number}@isp.example")
}

/// The project's sample events.
pub fn sample() -> Vec<Value> {
    include_str!("../events/sample-events.jsonl")
        .lines()
        .map(|line| serde_json::from_str(line).expect("a sample event is JSON"))
        .collect()
}
