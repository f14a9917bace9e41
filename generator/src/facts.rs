//! What every template can say of its mail, without anybody setting it.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::column::Field;
use crate::event::{Cell, Value};
use crate::group::Group;
use crate::part::Part;
use crate::store::Events;

/// Names and values, for one mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts(BTreeMap<&'static str, String>);

impl Facts {
    /// The names that have a value in every mail.
    pub const NAMES: [&'static str; 7] = [
        "recipient_address",
        "number_of_events",
        "part_number",
        "number_of_parts",
        "first_time_source",
        "last_time_source",
        "source_asns",
    ];

    /// The fields of events that the values come from, for whoever loads them. One that the table
    /// `events` lacks makes its values empty.
    pub fn fields() -> [Field; 2] {
        ["time.source", "source.asn"].map(Field::parse)
    }

    /// Of a part whose `events` were loaded. Where one is missing, as all are where nothing was loaded,
    /// the facts are those of the others.
    pub fn of(group: &Group, part: &Part, events: &Events) -> Self {
        let [time_source, source_asn] = Self::fields();
        let events = || part.event_ids.iter().filter_map(|id| events.get(id)?.as_ref().ok());
        let times = events().filter_map(|event| match event.field(&time_source) {
            Some(Cell::Column(Value::Time(time))) => Some(*time),
            _ => None,
        });
        let times: BTreeSet<Timestamp> = times.collect();
        let asns = events().filter_map(|event| match event.field(&source_asn) {
            Some(Cell::Column(Value::Integer(asn))) => Some(*asn),
            _ => None,
        });
        let asns: BTreeSet<i64> = asns.collect();
        let asns: Vec<String> = asns.iter().map(i64::to_string).collect();
        // As in the table of events.
        let time = |time: Option<&Timestamp>| {
            time.map(|time| time.strftime("%Y-%m-%d %H:%M:%S").to_string()).unwrap_or_default()
        };
        let values = [
            group.key.recipient_address.clone(),
            part.event_ids.len().to_string(),
            part.number.to_string(),
            part.of.to_string(),
            time(times.first()),
            time(times.last()),
            asns.join(", "),
        ];
        Self(Self::NAMES.into_iter().zip(values).collect())
    }

    /// The value of a name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}
