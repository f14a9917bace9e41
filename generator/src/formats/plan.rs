//! What the format definitions say of a group. Plain data.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;

use crate::column::Column;

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
    /// Now: one mail that claims the group's directives, and its copies.
    Compose(Box<Plan>),
}

/// The mails that a group becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The format that took the group.
    pub format: FormatName,
    /// The mail to the group's recipient, which claims its directives.
    pub mail: MailPlan,
    /// Copies with the mail's ticket that claim nothing, in the order of their rules.
    pub copies: Vec<CopyPlan>,
}

/// How one mail is made of its template and the group's events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailPlan {
    /// The columns of the table of events, never empty.
    pub columns: Vec<Column>,
    /// Where the table stands.
    pub data: Data,
    /// What the template can name beside `ticket_number`, `events_as_csv` and the group's
    /// aggregate identifier, which all three win over a substitution of the same name.
    ///
    /// Each text is itself a template, in which `ticket_number` and the aggregate identifier have
    /// values and nothing else has. Expand one only when the mail's template names it, so that a
    /// text for some groups does no harm to others, and never expand the result again.
    pub substitutions: BTreeMap<String, Text>,
    /// Subject and body.
    pub template: TemplateChoice,
}

/// A copy of a group's mail for other eyes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyPlan {
    /// Bare addresses for the envelope, never empty; the header stays that of the group's mail.
    pub envelope_to: Vec<String>,
    /// How the copy is made: as the group's mail in all that its rule does not say otherwise.
    pub mail: MailPlan,
}

/// Where the table of events stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Data {
    /// In the text, as `${events_as_csv}`.
    Inline,
    /// In an attached file; `${events_as_csv}` is empty.
    Attachment,
}

impl Data {
    pub(super) const ALL: [Self; 2] = [Self::Inline, Self::Attachment];

    /// The name in a definition.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inline => "inline",
            Self::Attachment => "attachment",
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

/// A text of a definition that may hold `${placeholders}`, and where it stands for an error to name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// The text, nothing expanded.
    pub text: String,
    /// The definition file's name, without its folder.
    pub file: String,
    /// The line the text begins in, from 1.
    pub line: usize,
}

/// A format's name and its file's, for logs and errors: `"open SNMP" (10-shadowserver.toml)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormatName {
    /// What the definition calls itself, unique among all definitions.
    pub name: String,
    /// The definition file's name, without its folder.
    pub file: String,
}

impl fmt::Display for FormatName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} ({})", self.name, self.file)
    }
}
