//! `pending`: the groups, and what would become of each. Takes no lock and changes nothing.

use outbox::{Claims, GroupKey, Outbox, Sidecar};
use outbox_config::program::{print, to_json, width};
use outbox_config::text::{fit, one_line};
use outbox_config::{Config, Failure};
use serde::Serialize;

use crate::fate::Fate;
use crate::group::{Group, ids};
use crate::scripts::DatabaseHost;
use crate::store::{self, BadGroup, EventColumns, Pending, Scope, Shard};
use crate::tickets::Pretended;
use crate::tools::{Tools, claims};

/// One group, or one mail in the outbox.
#[derive(Serialize)]
struct Line {
    state: &'static str,
    directives: usize,
    recipient_address: String,
    template_name: String,
    notification_format: String,
    event_data_format: String,
    /// Postponed until when, in which mail, or why it can't be written.
    why: String,
    directive_ids: String,
}

/// Prints them.
pub fn pending(config: &Config, json: bool) -> Result<(), Failure> {
    let mut tools = Tools::without_key(config)?;
    let (claims, mut lines) = claimed(config)?;
    let database = config.database()?;
    database.event.password()?;
    let mut client = store::open(&database.event)?;
    let columns = EventColumns::read(&mut client).map_err(store::failure)?;
    let scope = Scope::of(config)?;
    let Pending { mut transaction, groups } = store::peek(&mut client, scope, &claims)?;
    let mut host = DatabaseHost {
        transaction: &mut transaction,
        columns: &columns,
        tickets: &mut Pretended::default(),
    };
    for group in groups {
        lines.push(match group {
            Ok(group) => foresee(&mut tools, &mut host, &columns, &group)?,
            Err(bad) => unreadable(&bad),
        });
    }
    let width = width().unwrap_or(usize::MAX);
    let text = if json { to_json(&lines) } else { table(&lines, scope.shard(), width) };
    print(&text)
}

/// What waits in the outbox, if there is one.
fn claimed(config: &Config) -> Result<(Claims, Vec<Line>), Failure> {
    if !config.outbox.path.exists() {
        return Ok((Claims::default(), Vec::new()));
    }
    let outbox = Outbox::open(&config.outbox.path).map_err(Failure::unavailable)?;
    let claims = claims(&outbox)?;
    let mut lines = Vec::new();
    for id in outbox.scan().map_err(Failure::unavailable)?.entries.keys() {
        let Some(Sidecar { ticket, group, directive_ids, mark_sent: true, .. }) =
            outbox.sidecar(id).map_err(Failure::unavailable)?
        else {
            continue;
        };
        let list = ids(directive_ids.iter().map(|id| id.0));
        lines.push(Line::new("outbox", &group, directive_ids.len(), list, format!("as {ticket}")));
    }
    Ok((claims, lines))
}

impl Line {
    fn new(
        state: &'static str,
        key: &GroupKey,
        directives: usize,
        directive_ids: String,
        why: String,
    ) -> Self {
        Self {
            state,
            directives,
            recipient_address: key.recipient_address.clone(),
            template_name: key.template_name.clone(),
            notification_format: key.notification_format.clone(),
            event_data_format: key.event_data_format.clone(),
            why,
            directive_ids,
        }
    }
}

/// What a run would make of the group.
fn foresee(
    tools: &mut Tools,
    host: &mut DatabaseHost<'_, '_>,
    columns: &EventColumns,
    group: &Group,
) -> Result<Line, Failure> {
    let (state, why) = match Fate::foreseen(group, tools, host, columns)? {
        Fate::Impossible(why) => ("error", why),
        Fate::Postponed { until, why, .. } => {
            let until = until.map(|until| format!("until {until:.0}: ")).unwrap_or_default();
            ("postponed", format!("{until}{why}"))
        }
        Fate::Due(plan) => ("due", format!("format {}", plan.format)),
    };
    let list = ids(group.directive_ids.iter().map(|id| id.0));
    Ok(Line::new(state, &group.key, group.directive_ids.len(), list, why))
}

fn unreadable(bad: &BadGroup) -> Line {
    Line {
        state: "error",
        directives: bad.directive_ids.len(),
        recipient_address: String::new(),
        template_name: String::new(),
        notification_format: String::new(),
        event_data_format: String::new(),
        why: bad.reason.clone(),
        directive_ids: ids(bad.directive_ids.iter().map(|id| id.0)),
    }
}

fn table(lines: &[Line], shard: Shard, width: usize) -> String {
    let which = if shard.is_all() { String::new() } else { format!(" in {shard}") };
    if lines.is_empty() {
        return format!("nothing is pending{which}\n");
    }
    let mut table =
        format!("{:<9} {:>5} {:<22} {:<20} {}\n", "STATE", "COUNT", "RECIPIENT", "TEMPLATE", "WHY");
    for line in lines {
        let row = format!(
            "{:<9} {:>5} {:<22} {:<20} {}",
            line.state,
            line.directives,
            fit(&one_line(&line.recipient_address), 22),
            fit(&one_line(&line.template_name), 20),
            one_line(&line.why)
        );
        table += &fit(row.trim_end(), width);
        table.push('\n');
    }
    let count = |state| lines.iter().filter(|line| line.state == state).count();
    table
        + &format!(
            "{} due, {} postponed, {} in the outbox, {} that can't be written{which}\n",
            count("due"),
            count("postponed"),
            count("outbox"),
            count("error")
        )
}
