//! A column of the table of events that a mail carries. Plain data.

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

    /// The column of the table `events` that it is in.
    pub fn column(&self) -> &str {
        match self {
            Self::Event(name) => name,
            Self::Extra(_) => "extra",
        }
    }
}

impl std::fmt::Display for Field {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Event(name) => f.write_str(name),
            Self::Extra(key) => write!(f, "extra.{key}"),
        }
    }
}
