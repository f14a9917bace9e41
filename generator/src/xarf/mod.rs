//! X-ARF: an event as a report that programs read, in version 0.2 (YAML) or 4 (JSON).
//!
//! A [`Mapping`], which a format definition holds, says which field of the report comes from which
//! field of the event. [`report`] makes the report of it; `mail` puts it in a mail.

pub mod kind;
mod mapping;
pub mod types;
pub mod v02;
pub mod v4;

#[cfg(test)]
mod tests;

use base64::Engine as _;
use base64::engine::general_purpose::{GeneralPurpose, STANDARD};
use outbox::Ticket;
use outbox_config::XarfSettings;

pub use mapping::{Entry, EvidenceRule, Form, Mapping, Source};

use crate::address::{Address, Mailbox};
use crate::column::Field;
use crate::event::Event;
use crate::group::EventId;
use kind::Kind;
use mapping::value;

/// The software that reports, as reports name it.
pub const USER_AGENT: &str = concat!("outbox-generator/", env!("CARGO_PKG_VERSION"));

/// Who reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reporter {
    /// The organisation's name, of 200 characters at most.
    pub org: String,
    /// Where it can be asked.
    pub contact: Address,
    /// Its domain.
    pub domain: String,
    /// The domain behind the ticket in a report's identification.
    pub report_domain: String,
    /// The address that mails are from.
    pub from: Address,
}

impl Reporter {
    /// Whoever `sender` is, where the settings say nothing else.
    ///
    /// Fails with the key of the setting that can't be, and why.
    pub fn new(
        sender: &Mailbox,
        settings: &XarfSettings,
        report_domain: Option<&str>,
    ) -> Result<Self, (&'static str, String)> {
        let own = sender.address.domain();
        let domain = |key, text: Option<&str>| match text {
            None => Ok(own.to_owned()),
            Some(text) => Kind::Host
                .fit(text.into())
                .map(|domain| kind::text(&domain))
                .map_err(|wrong| (key, wrong)),
        };
        let org = settings.org.as_deref().or(sender.name.as_deref()).unwrap_or(own);
        if org.trim().is_empty() || org.chars().count() > 200 {
            return Err(("xarf.org", "must be a name of at most 200 characters".to_owned()));
        }
        let contact = match &settings.contact {
            None => sender.address.clone(),
            Some(text) => text.parse().map_err(|error| ("xarf.contact", format!("{error}")))?,
        };
        Ok(Self {
            org: org.to_owned(),
            contact,
            domain: domain("xarf.domain", settings.domain.as_deref())?,
            report_domain: domain("xarf_reportdomain", report_domain)?,
            from: sender.address.clone(),
        })
    }

    /// The identification of the report in the mail with this ticket, and in its copies.
    fn report_id(&self, ticket: &Ticket) -> String {
        format!("{ticket}@{}", self.report_domain)
    }
}

/// A report, as a mail carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// X-ARF 0.2.
    Plain {
        /// The report.
        yaml: String,
        /// What proves it.
        evidence: Option<Evidence>,
    },
    /// X-ARF 4.
    Json(String),
}

/// Something that goes with a report to prove it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// Its MIME type, without parameters.
    pub content_type: String,
    /// What it is, for a person.
    pub description: Option<String>,
    /// Itself.
    pub bytes: Vec<u8>,
}

/// Why an event can't be reported.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed to report event {event} as X-ARF: {key}{} {rule}", From(.field))]
pub struct ReportError {
    /// The event.
    pub event: EventId,
    /// The field of the report.
    pub key: String,
    /// The field of the event that has the value in question.
    pub field: Option<Field>,
    /// What X-ARF asks for, and what there is instead.
    pub rule: String,
}

impl ReportError {
    fn new(event: &Event, key: &str, field: Option<&Field>, rule: String) -> Self {
        Self { event: event.id, key: key.to_owned(), field: field.cloned(), rule }
    }
}

struct From<'a>(&'a Option<Field>);

impl std::fmt::Display for From<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|field| write!(f, " (from {field})"))
    }
}

/// Makes the report of an event.
///
/// Fails if the event lacks what the report must have, or has a value that X-ARF does not take.
pub fn report(
    mapping: &Mapping,
    event: &Event,
    reporter: &Reporter,
    ticket: &Ticket,
) -> Result<Report, ReportError> {
    let evidence = evidence(mapping, event)?;
    match &mapping.form {
        Form::V02(head) => {
            let evidence = evidence.into_iter().next();
            let yaml = v02::yaml(head, mapping, event, evidence.as_ref(), reporter, ticket)?;
            Ok(Report::Plain { yaml, evidence })
        }
        Form::V4(head) => {
            v4::json(head, mapping, event, &evidence, reporter, ticket).map(Report::Json)
        }
    }
}

/// The evidence that the event has.
fn evidence(mapping: &Mapping, event: &Event) -> Result<Vec<Evidence>, ReportError> {
    // As far as padding goes, whatever there is will do.
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &base64::alphabet::STANDARD,
        base64::engine::GeneralPurposeConfig::new()
            .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent),
    );
    let mut found = Vec::new();
    for rule in &mapping.evidence {
        let refuse =
            |why: &str| ReportError::new(event, "evidence", Some(&rule.field), why.to_owned());
        let Some(value) = value(event, &rule.field)? else {
            if rule.required {
                return Err(refuse("must be there, and the event has none"));
            }
            continue;
        };
        let mut bytes = kind::text(&value).into_bytes();
        if rule.base64 {
            bytes.retain(|byte| !byte.is_ascii_whitespace());
            bytes = LENIENT.decode(bytes).map_err(|_| refuse("must be base64, and is not"))?;
        }
        // The limit of X-ARF 4 for one piece.
        if bytes.len() > 5 << 20 {
            return Err(refuse("must be of at most 5 MiB, and is larger"));
        }
        let (content_type, description) = (rule.content_type.clone(), rule.description.clone());
        found.push(Evidence { content_type, description, bytes });
    }
    Ok(found)
}

/// Bytes in base64, without line breaks.
fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}
