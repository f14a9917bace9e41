//! The rules as they were read from the files. Plain data.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::rc::Rc;

use outbox_config::Encrypt;

use super::condition::Condition;
use super::plan::{Compress, Data, TemplateChoice, Texts};
use super::postpone::Postpone;
use crate::address::Address;
use crate::column::Column;
use crate::pattern::Patterns;
use crate::table::TableOptions;
use crate::xarf::Mapping;

/// One definition file.
#[derive(Debug)]
pub(super) struct File {
    pub(super) name: String,
    pub(super) substitutions: Texts,
    pub(super) substitutions_for_data: BTreeMap<Data, Texts>,
    pub(super) substitutions_if_split: Texts,
    pub(super) substitutions_when: Vec<ConditionalTexts>,
    pub(super) copies: Vec<Copy>,
    pub(super) formats: Vec<Format>,
}

/// A `[[substitutions_when]]`.
#[derive(Debug)]
pub(super) struct ConditionalTexts {
    pub(super) condition: Condition,
    pub(super) set: Texts,
}

/// A `[[copy]]`. What is `None` is as in the group's mail.
#[derive(Debug)]
pub(super) struct Copy {
    pub(super) condition: Condition,
    pub(super) envelope_to: Vec<Address>,
    pub(super) columns: Option<Vec<Column>>,
    pub(super) data: Option<DataRule>,
    pub(super) csv: Option<TableOptions>,
    pub(super) compress: Option<Compress>,
    pub(super) substitutions: Texts,
    pub(super) template: Option<TemplateChoice>,
    pub(super) encrypt: Option<Encrypt>,
}

/// A `[[format]]`. Without a template it is the one that the directive names.
#[derive(Debug)]
pub(super) struct Format {
    pub(super) name: String,
    pub(super) line: usize,
    pub(super) condition: Condition,
    pub(super) postpone: Postpone,
    pub(super) columns: Vec<Column>,
    pub(super) data: DataRule,
    /// How an event becomes a report, where some data is one.
    pub(super) report: Option<Rc<Mapping>>,
    pub(super) csv: TableOptions,
    pub(super) compress: Option<Compress>,
    pub(super) split_after: Option<NonZeroUsize>,
    pub(super) substitutions: Texts,
    pub(super) template: Option<TemplateChoice>,
    pub(super) encrypt: Option<Encrypt>,
}

/// How a rule finds out where the table of events stands.
#[derive(Debug)]
pub(super) enum DataRule {
    /// The same for all.
    Always(Data),
    /// The first that matches the group's `event_data_format`.
    ByEventDataFormat(Vec<(Data, Patterns)>),
}

impl DataRule {
    /// All that it can choose.
    pub(super) fn all(&self) -> Vec<Data> {
        match self {
            Self::Always(data) => vec![*data],
            Self::ByEventDataFormat(cases) => cases.iter().map(|(data, _)| *data).collect(),
        }
    }

    /// `None` if the rule has nothing for a group with this format.
    pub(super) fn choose(&self, event_data_format: &str) -> Option<Data> {
        match self {
            Self::Always(data) => Some(*data),
            Self::ByEventDataFormat(cases) => cases
                .iter()
                .find(|(_, patterns)| patterns.matches(event_data_format))
                .map(|(data, _)| *data),
        }
    }
}
