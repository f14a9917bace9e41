//! A column of the table of events that a mail carries. Plain data.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::group::EventId;

/// Where a column's values come from, and what stands above them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Where the values come from.
    pub field: Field,
    /// The title in the first row.
    pub title: String,
}

/// A field of an event.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    /// A column of the table `events`, such as `source.ip`.
    Event(String),
    /// A key of the JSON object in the column `extra`.
    Extra(String),
    /// Nothing that the database knows: a script gave a text for each event. One without is empty.
    Given(Arc<BTreeMap<EventId, String>>),
}

impl Field {
    /// Reads `source.ip`, or `extra.key` for a key of the column `extra` (everything behind the
    /// first dot, so that keys with dots can be named).
    pub fn parse(name: &str) -> Self {
        match name.strip_prefix("extra.") {
            Some(key) => Self::Extra(key.to_owned()),
            None => Self::Event(name.to_owned()),
        }
    }

    /// Like [`Field::parse`], for what a person wrote. Fails in words at what is a slip of the pen.
    pub fn read(name: &str) -> Result<Self, String> {
        if let Some(key) = name.strip_prefix("extra:") {
            Err(format!("{name:?} is no field: a key of `extra` is written \"extra.{key}\""))
        } else if name.trim().is_empty() || name == "extra." {
            Err(format!("{name:?} is no field"))
        } else {
            Ok(Self::parse(name))
        }
    }

    /// What stands above it where nobody says otherwise: its name, without `extra.`.
    pub fn default_title(&self) -> &str {
        match self {
            Self::Event(name) | Self::Extra(name) => name,
            Self::Given(_) => "",
        }
    }

    /// The column of the table `events` that it is in, or that tells whose it is.
    pub fn column(&self) -> &str {
        match self {
            Self::Event(name) => name,
            Self::Extra(_) => "extra",
            Self::Given(_) => "id",
        }
    }
}

impl std::fmt::Display for Field {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Event(name) => f.write_str(name),
            Self::Extra(key) => write!(f, "extra.{key}"),
            Self::Given(_) => f.write_str("values that a script gave"),
        }
    }
}
