//! What becomes of a group now: for who makes its mails, and for who only tells.

use jiff::Timestamp;
use outbox_config::Failure;

use crate::formats::{Ask, DecideError, Decision, Definitions, FormatName, Plan};
use crate::group::Group;
use crate::render::{fields, rehearse};
use crate::scripts::Host;
use crate::store::EventColumns;
use crate::tools::Tools;

/// What becomes of a group now.
pub enum Fate {
    /// It becomes a mail.
    Due(Box<Plan>),
    /// It waits.
    Postponed {
        /// The format that took it.
        format: FormatName,
        /// From when on it is due, if that is known.
        until: Option<Timestamp>,
        /// What for.
        why: String,
    },
    /// It can't become a mail as things are: why.
    Impossible(String),
}

impl Fate {
    /// Asks the definitions and scripts, and whether the events have what the plan shows. Fails if
    /// what scripts ask for can't be had, as nothing else can then.
    pub fn of(
        group: &Group,
        definitions: &Definitions,
        scripts: &mut dyn Ask,
        columns: &EventColumns,
    ) -> Result<Self, Failure> {
        Ok(match definitions.decide(group, outbox::now(), scripts) {
            Err(error @ DecideError::Unavailable { .. }) => {
                return Err(Failure::unavailable(error));
            }
            Err(error) => Self::Impossible(format!("{:#}", anyhow::Error::new(error))),
            Ok(None) => {
                Self::Impossible("no format definition or script takes the group".to_owned())
            }
            Ok(Some(Decision::Postponed { format, until, why })) => {
                Self::Postponed { format, until, why }
            }
            Ok(Some(Decision::Compose(plan))) => {
                let lacking = fields(&plan).find(|field| !columns.has(field)).cloned();
                match lacking {
                    None => Self::Due(plan),
                    Some(field) => Self::Impossible(format!(
                        "format {}: the table events lacks the column {field}",
                        plan.format
                    )),
                }
            }
        })
    }

    /// The same for who only looks, who learns now whether the mails could be made.
    pub fn foreseen(
        group: &Group,
        tools: &mut Tools,
        host: &mut dyn Host,
        columns: &EventColumns,
    ) -> Result<Self, Failure> {
        let mut scripts = tools.scripts.with(host);
        Ok(match Self::of(group, &tools.definitions, &mut scripts, columns)? {
            Self::Due(plan) => match rehearse(tools, group, &plan) {
                Ok(()) => Self::Due(plan),
                Err(error) => Self::Impossible(format!("{error:#}")),
            },
            other => other,
        })
    }
}
