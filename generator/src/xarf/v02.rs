//! A report of X-ARF 0.2: keys and values in YAML.
//!
//! Every text stands in double quotes, since YAML takes an unquoted `2001:10:20:30:40:50:51:52` for
//! a number, and `no` for false.

use std::fmt::Write as _;
use std::net::IpAddr;

use outbox::Ticket;
use serde_json::Value as Json;

use super::kind::{self, Kind};
use super::mapping::Mapping;
use super::{Evidence, ReportError, Reporter, USER_AGENT};
use crate::address::Address;
use crate::event::Event;

/// The keys that must be there and that an event gives.
pub const REQUIRED: [&str; 2] = ["Date", "Source"];

/// The keys that the generator writes.
const WRITTEN: [&str; 7] = [
    "Reported-From",
    "Category",
    "Report-Type",
    "User-Agent",
    "Report-ID",
    "Attachment",
    "Schema-URL",
];

/// What a report is about, and the key that tells of which type that is.
const SUBJECTS: [(&str, &str); 2] =
    [("Source", "Source-Type"), ("Destination", "Destination-Type")];

/// What `Source-Type` and `Destination-Type` can say.
const TYPES: Kind = Kind::OneOf(&["ipv4", "ipv6", "ip-address", "uri", "domain", "email"]);

/// What a key's value must be; `None` if the generator writes that key itself.
pub fn kind(key: &str) -> Option<Kind> {
    Some(match key {
        _ if WRITTEN.contains(&key) => return None,
        "Date" => Kind::Time,
        "Source-Type" | "Destination-Type" => TYPES,
        "Source-Port" | "Destination-Port" => Kind::Integer(0, 65_535),
        "Source-ASN" | "Destination-ASN" => Kind::ASN,
        "Occurrences" => Kind::Integer(1, i64::MAX),
        "Version" => Kind::NUMBER,
        "TLP" => Kind::OneOf(&["white", "green", "amber", "red"]),
        _ => Kind::TEXT,
    })
}

/// What reports of one definition have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The value of `Category`.
    pub category: String,
    /// The value of `Report-Type`.
    pub report_type: String,
    /// The value of `Schema-URL`.
    pub schema_url: String,
}

/// The report of an event.
pub fn yaml(
    head: &Head,
    mapping: &Mapping,
    event: &Event,
    evidence: Option<&Evidence>,
    reporter: &Reporter,
    ticket: &Ticket,
) -> Result<String, ReportError> {
    let mut yaml = Yaml("---\n".to_owned());
    yaml.text("Reported-From", reporter.from.as_str());
    yaml.text("Category", &head.category);
    yaml.text("Report-Type", &head.report_type);
    yaml.text("User-Agent", USER_AGENT);
    yaml.text("Report-ID", &reporter.report_id(ticket));
    let values = mapping.values(event)?;
    for (key, value) in &values {
        // Types stand with what they are of, and there alone.
        if SUBJECTS.iter().any(|(_, type_key)| key == type_key) {
            continue;
        }
        yaml.add(key, value);
        if let Some((_, type_key)) = SUBJECTS.iter().find(|(subject, _)| key == subject) {
            let named =
                values.iter().find(|(name, _)| name == type_key).map(|(_, of)| kind::text(of));
            let of = subject_type(&kind::text(value), named.as_deref())
                .map_err(|rule| ReportError::new(event, key, None, rule))?;
            yaml.text(type_key, &of);
        }
    }
    yaml.text("Attachment", evidence.map_or("none", |evidence| &evidence.content_type));
    yaml.text("Schema-URL", &head.schema_url);
    Ok(yaml.0)
}

/// The type of a source or destination: what the definition says, or that of an address.
fn subject_type(value: &str, named: Option<&str>) -> Result<String, String> {
    let address: Option<IpAddr> = value.parse().ok();
    let fits = match named {
        Some("ipv4") => address.is_some_and(|address| address.is_ipv4()),
        Some("ipv6") => address.is_some_and(|address| address.is_ipv6()),
        Some("uri") => Kind::Uri.fit(value.into()).is_ok(),
        Some("domain") => Kind::Host.fit(value.into()).is_ok() && address.is_none(),
        Some("email") => value.parse::<Address>().is_ok(),
        _ => address.is_some(),
    };
    match (named, address) {
        (Some(named), _) if fits => Ok(named.to_owned()),
        (None, Some(address)) => Ok(if address.is_ipv4() { "ipv4" } else { "ipv6" }.to_owned()),
        _ => {
            let shown = outbox_config::text::fit(&format!("{value:?}"), 100);
            let wanted = named.unwrap_or("an IP address, unless the definition names its type");
            Err(format!("must be {wanted}, not {shown}"))
        }
    }
}

/// A YAML document (1.1 and 1.2 alike) of keys and values.
struct Yaml(String);

impl Yaml {
    fn add(&mut self, key: &str, value: &Json) {
        match value {
            Json::Number(number) => self.line(key, &decimal(number)),
            Json::Bool(truth) => self.line(key, &truth.to_string()),
            other => self.text(key, &kind::text(other)),
        }
    }

    fn text(&mut self, key: &str, text: &str) {
        self.line(key, &quoted(text));
    }

    fn line(&mut self, key: &str, value: &str) {
        writeln!(self.0, "{key}: {value}").expect("a string takes everything");
    }
}

/// A number without an exponent, which YAML 1.1 reads in few of the forms that JSON has.
fn decimal(number: &serde_json::Number) -> String {
    let digits = number.to_string();
    match digits.parse::<f64>() {
        Ok(float) if digits.contains(['e', 'E']) => float.to_string(),
        _ => digits,
    }
}

/// A double-quoted scalar (YAML 1.2, 7.3.1). What YAML has no place for, or would take for the end
/// of a line, is escaped.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            _ if c.is_control()
                || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}') =>
            {
                write!(quoted, "\\u{:04X}", u32::from(c)).expect("a string takes everything");
            }
            _ => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// Whether a key can stand in YAML as it is, and is read as itself.
pub fn is_key(key: &str) -> bool {
    const READ_AS_OTHER: [&str; 10] =
        ["y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan"];
    key.starts_with(|c: char| c.is_ascii_alphabetic())
        && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
        && !READ_AS_OTHER.contains(&key.to_ascii_lowercase().as_str())
}
