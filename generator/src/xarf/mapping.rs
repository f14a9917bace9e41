//! Which field of a report comes from which field of an event. Plain data, as a definition has it.

use serde_json::Value as Json;

use super::kind::{self, Kind};
use super::types::WRITTEN;
use super::{ReportError, v02, v4};
use crate::column::Field;
use crate::event::Event;

/// How an event becomes a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// What kind of report, and what is the same in all of them.
    pub form: Form,
    /// The report's fields, in the order of the definition.
    pub entries: Vec<Entry>,
    /// What goes with the report to prove it.
    pub evidence: Vec<EvidenceRule>,
}

/// The kinds of reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// X-ARF 0.2: YAML.
    V02(v02::Head),
    /// X-ARF 4: JSON.
    V4(v4::Head),
}

/// A field of the report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name; dots lead into objects in X-ARF 4.
    pub key: String,
    /// What its value must be.
    pub kind: Kind,
    /// Whether there is no report without it.
    pub required: bool,
    /// Where its value comes from: the first of these that has one.
    pub sources: Vec<Source>,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A field of the event.
    Field {
        /// The field.
        field: Field,
        /// The values that count, as texts; all if there is none.
        only: Vec<String>,
    },
    /// The definition itself.
    Value(Json),
}

/// Something that goes with a report, from a field of the event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvidenceRule {
    /// Its MIME type, without parameters.
    pub content_type: String,
    /// What it is, for a person.
    pub description: Option<String>,
    /// The field it is in.
    pub field: Field,
    /// Whether the field has it in base64, as the column `raw` does.
    pub base64: bool,
    /// Whether there is no report without it.
    pub required: bool,
}

impl Mapping {
    /// The fields of events that reports are made of.
    pub fn fields(&self) -> impl Iterator<Item = &Field> {
        let sources = self.entries.iter().flat_map(|entry| &entry.sources);
        let fields = sources.filter_map(|source| match source {
            Source::Field { field, .. } => Some(field),
            Source::Value(_) => None,
        });
        fields.chain(self.evidence.iter().map(|rule| &rule.field))
    }

    /// The fields of an event's report that have a value.
    pub(super) fn values<'m>(&'m self, event: &Event) -> Result<Vec<(&'m str, Json)>, ReportError> {
        let values = self.entries.iter().map(|entry| (entry.key.as_str(), entry.value(event)));
        values.filter_map(|(key, value)| value.transpose().map(|value| Ok((key, value?)))).collect()
    }
}

impl Form {
    /// What a field of the report must be; `None` if the generator writes that field itself.
    pub fn kind(&self, key: &str) -> Option<Kind> {
        match self {
            Self::V02(_) => v02::kind(key),
            Self::V4(head) => {
                let first = key.split('.').next().unwrap_or_default();
                // What `_internal` holds must never be sent.
                let is_reserved = WRITTEN.contains(&first) || first == "_internal";
                (!is_reserved).then(|| head.category.kind(head.report_type, key))
            }
        }
    }

    /// Whether a definition may say what a field of the report must be.
    pub fn leaves_open(&self, key: &str) -> bool {
        match self {
            Self::V02(_) => self.kind(key) == Some(Kind::TEXT),
            Self::V4(_) => self.kind(key) == Some(Kind::Any),
        }
    }

    /// The fields that an event must give.
    pub fn required(&self) -> Vec<&'static str> {
        match self {
            Self::V02(_) => v02::REQUIRED.to_vec(),
            Self::V4(head) => head.report_type.required().collect(),
        }
    }
}

impl Entry {
    fn value(&self, event: &Event) -> Result<Option<Json>, ReportError> {
        for source in &self.sources {
            let (value, field) = match source {
                Source::Value(value) => return Ok(Some(value.clone())),
                Source::Field { field, only } => {
                    let value = value(event, field)?
                        .filter(|value| only.is_empty() || only.contains(&kind::text(value)));
                    (value, field)
                }
            };
            if let Some(value) = value {
                let refuse = |rule| ReportError::new(event, &self.key, Some(field), rule);
                return self.kind.fit(value).map(Some).map_err(refuse);
            }
        }
        if self.required {
            let fields: Vec<_> = self.sources.iter().filter_map(Source::name).collect();
            let rule = format!("must be there, and the event has no {}", fields.join(", no "));
            return Err(ReportError::new(event, &self.key, None, rule));
        }
        Ok(None)
    }
}

impl Source {
    fn name(&self) -> Option<String> {
        match self {
            Self::Field { field, only } if only.is_empty() => Some(field.to_string()),
            Self::Field { field, only } => Some(format!("{field} that is {}", only.join(" or "))),
            Self::Value(_) => None,
        }
    }
}

/// What an event has in a field, if anything.
pub(super) fn value(event: &Event, field: &Field) -> Result<Option<Json>, ReportError> {
    let cell = event.field(field).ok_or_else(|| {
        let rule = "the event was loaded without it".to_owned();
        ReportError::new(event, &field.to_string(), None, rule)
    })?;
    Ok(kind::json(cell))
}
