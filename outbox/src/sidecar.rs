//! The sidecar: what a mail is about, written once by the generator and never changed.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::once::each_key_once;
use crate::{DirectiveId, Error, MailId, Ticket};

/// The version of the sidecar's and the delivery record's format that this crate reads and writes.
pub(crate) const VERSION: u32 = 1;

/// Everything that is known of a mail but is not the mail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sidecar {
    pub(crate) version: u32,
    /// The mail's Maildir unique name.
    pub id: MailId,
    /// The ticket in the subject, and in `sent` once the mail was relayed.
    pub ticket: Ticket,
    /// The `Message-ID` field's value (RFC 5322, 3.6.4), angle brackets included.
    pub message_id: String,
    /// When the mail was composed: its `Date` field, to the microsecond.
    pub created_at: Timestamp,
    /// Digest of the mail file's bytes.
    pub sha256: Sha256Digest,
    /// Size of the mail file in octets.
    pub size: u64,
    /// The subject, decoded.
    pub subject: String,
    /// Whom the mail goes to, whatever its header says.
    pub envelope: Envelope,
    /// Whether a relayed mail makes its directives `sent`. A copy does not.
    pub mark_sent: bool,
    /// What the mail claims. Empty exactly if `mark_sent` is false.
    pub directive_ids: Vec<DirectiveId>,
    /// The group of directives the mail answers.
    pub group: GroupKey,
}

impl Sidecar {
    /// Says what is wrong where a rule of the format is broken.
    pub(crate) fn validate(&self) -> Result<(), String> {
        if let Some(ticket) = self.id.ticket().filter(|ticket| *ticket != self.ticket) {
            return Err(format!("its ticket is {}, and its name says {ticket}", self.ticket));
        }
        if self.envelope.to.is_empty() {
            return Err("its envelope names no recipient".into());
        }
        if self.mark_sent == self.directive_ids.is_empty() {
            return Err("it marks directives sent but names none, or the reverse".into());
        }
        let addresses = self.envelope.to.iter().chain([&self.envelope.from]);
        for text in addresses.chain([&self.message_id]) {
            if text.contains(|c: char| c.is_control()) {
                return Err(format!("{text:?} holds a control character"));
            }
        }
        Ok(())
    }
}

/// The envelope of RFC 5321: reverse-path and forward-paths, bare addresses without brackets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// `MAIL FROM`; empty for the null reverse-path.
    pub from: String,
    /// `RCPT TO`; never empty in a sidecar.
    pub to: Vec<String>,
}

/// What directives have in common that are answered by one mail.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupKey {
    /// Address, or addresses with commas between, as in the table `directives`.
    pub recipient_address: String,
    /// Name of a file in the template folder.
    pub template_name: String,
    /// What kind of notification the rule expert asked for.
    pub notification_format: String,
    /// In which form the events' data is wanted.
    pub event_data_format: String,
    /// Further keys and values that all of the group share. A JSON null is `None`.
    #[serde(deserialize_with = "each_key_once")]
    pub aggregate_identifier: BTreeMap<String, Option<String>>,
}

/// A SHA-256 digest, shown as 64 lower case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sha256Digest([u8; 32]);

impl Sha256Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Sha256Digest> for String {
    fn from(digest: Sha256Digest) -> String {
        digest.to_string()
    }
}

impl FromStr for Sha256Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || Error::Digest(text.to_owned());
        if text.len() != 64 || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(wrong());
        }
        let mut bytes = [0; 32];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).map_err(|_| wrong())?;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Sha256Digest {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}
