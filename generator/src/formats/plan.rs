//! What the format definitions say of a group. Plain data.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::num::NonZeroUsize;
use std::rc::Rc;

use jiff::Timestamp;
use outbox::Ticket;
use outbox_config::Encrypt;

use crate::address::Address;
use crate::column::Column;
use crate::group::EventId;
use crate::table::TableOptions;
use crate::xarf::Mapping;

/// What becomes of a group that a format takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Not in this run. Its directives stay pending.
    Postponed {
        /// The format that took the group.
        format: FormatName,
        /// From when on the group is due if nothing is added to it; `None` for never.
        until: Option<Timestamp>,
        /// The reasons, for a person.
        why: String,
    },
    /// Now: mails that claim the group's directives, and copies of them.
    Compose(Box<Plan>),
}

/// The mails that a group becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The format that took the group.
    pub format: FormatName,
    /// The mails, never empty. Each directive is claimed by the first that marks it as sent.
    pub mails: Vec<MailPlan>,
    /// After how many events the group goes on in further mails of the same kind, each with a ticket
    /// and directives of its own; never if `None`.
    pub split_after: Option<NonZeroUsize>,
}

impl Plan {
    /// Into how many parts a group with this number of events is split.
    pub fn number_of_parts(&self, events: usize) -> usize {
        self.split_after.map_or(1, |most| events.div_ceil(most.get()).max(1))
    }

    /// How many tickets such a group needs.
    pub fn number_of_tickets(&self, events: usize) -> usize {
        let own = self.mails.iter().filter(|mail| mail.ticket == TicketOf::Own).count();
        own * self.number_of_parts(events)
    }
}

/// Which ticket a mail has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TicketOf {
    /// A new one.
    Own,
    /// That of the mail before it, as a copy has.
    Same,
    /// This one.
    Given(Ticket),
}

/// How one mail is made of its template and the group's events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailPlan {
    /// The columns of the table of events, never empty.
    pub columns: Vec<Column>,
    /// Where the table stands.
    pub data: Data,
    /// How the event becomes the report that `data` says there is.
    pub report: Option<Rc<Mapping>>,
    /// How the table is written.
    pub csv: TableOptions,
    /// Whether an attached table is compressed.
    pub compress: Option<Compress>,
    /// What the template can name beside `ticket_number`, `events_as_csv` and the group's
    /// aggregate identifier, which all three win over a substitution of the same name.
    ///
    /// Each text that is not verbatim is itself a template, in which `ticket_number`, the aggregate
    /// identifier and the mail's facts have values and nothing else has. Expand one only when the
    /// mail's template names it, so that a text for some groups does no harm to others, and never
    /// expand the result again.
    pub substitutions: Texts,
    /// Subject and body.
    pub template: TemplateChoice,
    /// Whom it goes to, never empty, where that is not the group's recipients. The header names those
    /// in any case.
    pub envelope_to: Option<Vec<Address>>,
    /// Whether the group's directives are sent when it is. A copy's are not.
    pub mark_sent: bool,
    /// Its ticket.
    pub ticket: TicketOf,
    /// The events that it is about, never none and all of the group, where that is not all of the
    /// part's.
    pub events: Option<BTreeSet<EventId>>,
    /// Whether it is encrypted, where the configuration has no rule for its recipients. `None` leaves
    /// it to the configuration.
    pub encrypt: Option<Encrypt>,
}

/// Where the table of events stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Data {
    /// In the text, as `${events_as_csv}`.
    Inline,
    /// In an attached file; `${events_as_csv}` is empty.
    Attachment,
    /// In the text, as `${events_as_csv}`, beside a report of X-ARF 0.2 about the one event.
    Xarf02,
    /// In the text, as `${events_as_csv}`, beside a report of X-ARF 4 about the one event.
    Xarf4,
}

impl Data {
    pub(super) const ALL: [Self; 4] = [Self::Inline, Self::Attachment, Self::Xarf02, Self::Xarf4];

    /// The places of the table, by which substitutions can differ.
    pub(super) const PLACES: [Self; 2] = [Self::Inline, Self::Attachment];

    /// Where the table stands: a report changes nothing about that.
    pub(super) fn place(self) -> Self {
        if self.is_report() { Self::Inline } else { self }
    }

    /// The name in a definition.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inline => "inline",
            Self::Attachment => "attachment",
            Self::Xarf02 => "xarf-0.2",
            Self::Xarf4 => "xarf-4",
        }
    }

    /// Whether there is a report, which is about one event.
    pub fn is_report(self) -> bool {
        matches!(self, Self::Xarf02 | Self::Xarf4)
    }
}

/// That an attachment is compressed, and from which size on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compress {
    /// How.
    pub how: Compression,
    /// One with more octets is.
    pub above: u64,
}

/// A format of compressed files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// An archive with the file in it.
    Zip,
    /// RFC 1952.
    Gzip,
}

impl Compression {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Zip, Self::Gzip];

    /// The name in a definition.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Zip => "zip",
            Self::Gzip => "gzip",
        }
    }
}

/// Where subject and body come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TemplateChoice {
    /// A file of the template folder.
    Named(String),
    /// The definition itself.
    Inline {
        /// One line.
        subject: Text,
        /// The rest.
        body: Text,
    },
}

/// Texts for a template, by the name it uses.
pub type Texts = BTreeMap<String, Text>;

/// A text of a definition that may hold `${placeholders}`, and where it stands for an error to name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// The text, nothing expanded.
    pub text: String,
    /// The name of the definition file or script, without its folder.
    pub file: String,
    /// The line the text begins in, from 1; 0 for a script's.
    pub line: usize,
    /// Whether it is a value, and no template.
    pub verbatim: bool,
}

impl Text {
    /// Where it stands, for an error.
    pub fn place(&self) -> String {
        if self.line == 0 { self.file.clone() } else { format!("{}:{}", self.file, self.line) }
    }
}

/// A format's name and its file's, for logs and errors: `"open SNMP" (10-shadowserver.toml)`. A script
/// is called as its file is: `20-own.py`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormatName {
    /// What the definition calls itself, unique among all definitions.
    pub name: String,
    /// The definition file's name, without its folder.
    pub file: String,
}

impl fmt::Display for FormatName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name == self.file {
            return f.write_str(&self.file);
        }
        write!(f, "{:?} ({})", self.name, self.file)
    }
}
