//! A report of X-ARF 4: a JSON object.

use std::fmt::Write as _;
use std::net::IpAddr;

use outbox::Ticket;
use serde_json::{Map, Value as Json, json};
use sha2::{Digest, Sha256};

use super::mapping::Mapping;
use super::types::{Category, Type};
use super::{Evidence, ReportError, Reporter, base64};
use crate::event::Event;

/// What reports of one definition have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The version that reports say they are of.
    pub version: String,
    /// The category.
    pub category: &'static Category,
    /// The type.
    pub report_type: &'static Type,
}

/// The report of an event.
pub fn json(
    head: &Head,
    mapping: &Mapping,
    event: &Event,
    evidence: &[Evidence],
    reporter: &Reporter,
    ticket: &Ticket,
) -> Result<String, ReportError> {
    // It is one who reports and who sends the report.
    let reports = json!({
        "org": reporter.org,
        "contact": reporter.contact.as_str(),
        "domain": reporter.domain,
    });
    let mut report = Map::new();
    report.insert("xarf_version".into(), head.version.as_str().into());
    report.insert("report_id".into(), uuid(&reporter.report_id(ticket)).into());
    report.insert("reporter".into(), reports.clone());
    report.insert("sender".into(), reports);
    report.insert("category".into(), head.category.name.into());
    report.insert("type".into(), head.report_type.name.into());
    for (key, value) in mapping.values(event)? {
        insert(&mut report, key, value);
    }
    if !evidence.is_empty() {
        report.insert("evidence".into(), evidence.iter().map(item).collect());
    }
    let source = report.get("source_identifier").and_then(Json::as_str).unwrap_or_default();
    if head.report_type.needs_source_port
        && source.parse::<IpAddr>().is_ok()
        && !report.contains_key("source_port")
    {
        let rule = "must be there where source_identifier is an IP address".to_owned();
        return Err(ReportError::new(event, "source_port", None, rule));
    }
    Ok(serde_json::to_string_pretty(&report).expect("JSON is written to memory"))
}

/// Puts a value in the place that the dots of its key name. The keys of a mapping don't get in each
/// other's way.
fn insert(report: &mut Map<String, Json>, key: &str, value: Json) {
    match key.split_once('.') {
        None => _ = report.insert(key.to_owned(), value),
        Some((object, rest)) => {
            let inner = report.entry(object).or_insert_with(|| Map::new().into());
            if let Json::Object(inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}

fn item(evidence: &Evidence) -> Json {
    let mut item = json!({
        "content_type": evidence.content_type,
        "payload": base64(&evidence.bytes),
        "hash": format!("sha256:{}", hex(&Sha256::digest(&evidence.bytes))),
        "size": evidence.bytes.len(),
    });
    if let Some(description) = &evidence.description {
        item["description"] = description.as_str().into();
    }
    item
}

/// A UUID that is always the same for the same text, and no other text's.
///
/// Its bits are those of the text's SHA-256, in the form of version 4 (RFC 9562, 5.4), which X-ARF
/// asks for.
fn uuid(text: &str) -> String {
    let mut bytes: [u8; 32] = Sha256::digest(text).into();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let digits = hex(&bytes[..16]);
    [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut digits, byte| {
        write!(digits, "{byte:02x}").expect("a string takes everything");
        digits
    })
}
