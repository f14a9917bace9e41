//! All of the generator's SQL: what is pending, the events it is about, and tickets.

mod shard;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use jiff::{SignedDuration, Timestamp};
use outbox::{Claims, DirectiveId, GroupKey, Ticket};
use outbox_config::database::types::{FromSql, ToSql};
use outbox_config::database::{
    Client, Column, Error, Row, Silence, SqlState, Transaction, ValueError, connect, give_up,
    missing_grants,
};
use outbox_config::{Config, ConfigError, DatabaseSettings, Failure};
use tracing::{info, warn};

use crate::column::Field;
use crate::event::{Event, Value};
use crate::group::{EventId, Group};

pub use shard::Shard;
use shard::Turn;

/// How long one statement may take: the pending query reads hundreds of thousands of rows.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(600);

/// Connects, for long statements.
pub fn open(settings: &DatabaseSettings) -> Result<Client, Failure> {
    connect(settings, "outbox-generator", STATEMENT_TIMEOUT, Silence::Ends(give_up))
        .map_err(Failure::Unavailable)
}

/// The pending groups and the right to answer them, as long as the transaction lasts.
pub struct Pending<'a> {
    /// Keeps the locks; rolled back when dropped, since nothing is written in it.
    pub transaction: Transaction<'a>,
    /// The groups, the one with the oldest directive first.
    pub groups: Vec<Result<Group, BadGroup>>,
}

/// A group of directives that makes no sense.
#[derive(Clone, Debug)]
pub struct BadGroup {
    /// Its directives.
    pub directive_ids: Vec<DirectiveId>,
    /// Their events.
    pub event_ids: Vec<EventId>,
    /// What is wrong.
    pub reason: String,
}

/// Which directives are the generator's, besides being pending.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'c> {
    /// The configured condition.
    condition: Option<&'c str>,
    /// The generator's share.
    shard: Shard,
    /// None but these, where a person chose.
    only: Option<&'c [DirectiveId]>,
}

impl<'c> Scope<'c> {
    /// As the configuration says.
    pub fn of(config: &'c Config) -> Result<Self, ConfigError> {
        let condition = config.database()?.additional_directive_where.as_deref();
        Ok(Self { condition, shard: config.shard.into(), only: None })
    }

    /// Of these only those, if any are given.
    #[must_use]
    pub fn only(self, directives: Option<&'c [DirectiveId]>) -> Self {
        Self { only: directives, ..self }
    }

    /// The generator's share.
    pub fn shard(&self) -> Shard {
        self.shard
    }
}

/// Reads what is pending and not claimed, for who only looks: takes no lock and heeds none, in a
/// transaction that can change nothing.
pub fn peek<'a>(
    client: &'a mut Client,
    scope: Scope<'_>,
    claims: &Claims,
) -> Result<Pending<'a>, Failure> {
    let transaction = client.read_only_transaction();
    transaction
        .and_then(|mut transaction| {
            let groups = read_pending(&mut transaction, scope, claims, Lock::Nothing)?;
            Ok(Pending { transaction, groups })
        })
        .map_err(|error| cannot_read(error, scope))
}

/// Whether the rows of pending directives are locked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lock {
    Rows,
    Nothing,
}

/// A table, a column or a right that is not there, or a mistake in the configured condition, is not
/// mended by waiting. Anything else may be better later.
pub fn failure(error: anyhow::Error) -> Failure {
    let lasting = error.downcast_ref().is_some_and(Error::is_lasting);
    if lasting { Failure::Configuration(error) } else { Failure::Unavailable(error) }
}

fn cannot_read(error: Error, scope: Scope<'_>) -> Failure {
    let about = match scope.condition.filter(|condition| !condition.trim().is_empty()) {
        Some(condition) => format!(" (database.additional_directive_where is {condition:?})"),
        None => String::new(),
    };
    failure(anyhow::Error::new(error).context(format!("cannot read the pending directives{about}")))
}

/// Reads what is pending and not claimed, and locks it: `None` if another generator, or Mailgen,
/// is at it, which the log tells.
///
/// The row lock is `FOR KEY SHARE`: Mailgen's `FOR UPDATE NOWAIT` fails on it, and the deliverer's
/// `UPDATE` of `sent_id` does not have to wait for the end of this run. Generators, whose row locks
/// go together, tell each other by advisory locks.
pub fn pending<'a>(
    client: &'a mut Client,
    scope: Scope<'_>,
    claims: &Claims,
) -> Result<Option<Pending<'a>>, Failure> {
    let shard = scope.shard;
    let mut transaction = client.transaction().map_err(|error| cannot_read(error, scope))?;
    match shard.take_turn(&mut transaction).map_err(|error| cannot_read(error, scope))? {
        Turn::Ours => {}
        Turn::Taken => {
            let what = if shard.is_all() { String::new() } else { format!("{shard} in ") };
            info!("another outbox-generator works on {what}this database: nothing to do");
            return Ok(None);
        }
        Turn::OtherCount(count) => {
            return Err(Failure::Configuration(anyhow!(
                "another outbox-generator works on this database with a shard.count of {count}, \
                 and this one is {shard}: they would write to the same recipients; stop all, and \
                 give them the same count"
            )));
        }
    }
    check_claims(&mut transaction, scope, claims)?;
    match read_pending(&mut transaction, scope, claims, Lock::Rows) {
        Ok(groups) => Ok(Some(Pending { transaction, groups })),
        Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
            // Not a generator of ours. If it comes again and again, it is no Mailgen either.
            warn!(
                "somebody else, such as Mailgen or an open psql, holds pending directives locked: \
                 nothing is written this time"
            );
            Ok(None)
        }
        Err(error) => Err(cannot_read(error, scope)),
    }
}

/// Fails if the outbox has mails to groups of another share. Then the shards were changed before
/// the outboxes were empty, and the mails to groups of this share may lie in another one.
fn check_claims(
    transaction: &mut Transaction<'_>,
    scope: Scope<'_>,
    claims: &Claims,
) -> Result<(), Failure> {
    let shard = scope.shard;
    let foreign = shard.count_foreign(transaction, claims.directives.iter().copied());
    match foreign.map_err(|error| cannot_read(error, scope))? {
        0 => Ok(()),
        count => Err(Failure::Unavailable(anyhow!(
            "mails in the outbox claim {count} directives that are not of {shard}: the shards were \
             changed before the outboxes were empty, so another one may claim directives of this \
             shard; nothing is written until these mails are sent or taken back"
        ))),
    }
}

/// Finds out, without reading a pending row, whether the configured condition makes sense, and
/// whether the mails in the outbox are of the configured share.
pub fn check_scope(client: &mut Client, scope: Scope<'_>, claims: &Claims) -> Result<(), Failure> {
    let query = pending_query(scope, Lock::Rows);
    client.prepare(&query).map(drop).map_err(|error| cannot_read(error, scope))?;
    let mut transaction = client.transaction().map_err(|error| cannot_read(error, scope))?;
    check_claims(&mut transaction, scope, claims)
}

fn read_pending(
    transaction: &mut Transaction<'_>,
    scope: Scope<'_>,
    claims: &Claims,
    lock: Lock,
) -> Result<Vec<Result<Group, BadGroup>>, Error> {
    let claimed: Vec<i64> = claims.directives.iter().map(|id| id.0).collect();
    let only = scope.only.map(|ids| ids.iter().map(|id| id.0).collect::<Vec<i64>>());
    let parameters: [&(dyn ToSql + Sync); 2] = [&claimed, &only];
    transaction.query_map(&pending_query(scope, lock), &parameters, |row| group(row, claims))
}

fn pending_query(scope: Scope<'_>, lock: Lock) -> String {
    let condition = scope.condition.map(str::trim).filter(|condition| !condition.is_empty());
    let names_events =
        |condition: &str| condition.contains("events.") || condition.contains("\"events\".");
    let join = match condition {
        Some(condition) if names_events(condition) => "JOIN events ON events.id = d3.events_id",
        _ => "",
    };
    let condition = condition.unwrap_or("true");
    let share = scope.shard.condition();
    let only =
        if scope.only.is_some() { "d3.id = ANY($2::bigint[])" } else { "$2::bigint[] IS NULL" };
    let lock = if lock == Lock::Rows { "FOR KEY SHARE OF d3 NOWAIT" } else { "" };
    // The conditions on sent_id, medium and endpoint are literals, and the last mail is looked for by
    // `=` and the order of sent_id, since the indexes of sql/notifications.sql serve only these
    // forms. The line end behind the configured condition ends a comment in it. What is read is cast,
    // since columns that grew otherwise (an integer, a timestamp without time zone) do as well.
    format!(
        "WITH pending AS MATERIALIZED (
             SELECT d3.id, d3.events_id, d3.recipient_address, d3.template_name,
                    d3.notification_format, d3.event_data_format, d3.aggregate_identifier,
                    d3.notification_interval, d3.inserted_at
               FROM directives AS d3 {join}
              WHERE d3.sent_id IS NULL
                AND d3.medium = 'email'
                AND d3.endpoint = 'source'
                AND NOT EXISTS (SELECT FROM unnest($1::bigint[]) AS claimed (directive)
                                 WHERE claimed.directive = d3.id)
                AND {only}
                AND {share}
                AND ({condition}
                    )
                {lock}),
         grouped AS (
             SELECT recipient_address, template_name, notification_format, event_data_format,
                    aggregate_identifier,
                    array_agg(id ORDER BY id) AS directive_ids,
                    array_agg(events_id ORDER BY id) AS event_ids,
                    max(inserted_at) AS inserted_at,
                    max(notification_interval) AS notification_interval
               FROM pending
              GROUP BY recipient_address, template_name, notification_format,
                       event_data_format, aggregate_identifier)
         SELECT recipient_address::text, template_name::text, notification_format::text,
                event_data_format::text,
                array_to_json(aggregate_identifier)::text AS aggregate_identifier,
                directive_ids::bigint[], event_ids::bigint[], inserted_at::timestamptz,
                least(greatest(extract(epoch FROM notification_interval) * 1000000, -9e18), 9e18)::bigint
                    AS interval_us,
                CASE WHEN notification_interval > interval '0' THEN
                    (SELECT s.sent_at::timestamptz
                       FROM directives AS d2
                       JOIN sent AS s ON s.id = d2.sent_id
                      WHERE d2.recipient_address = g.recipient_address
                        AND d2.template_name = g.template_name
                        AND d2.notification_format = g.notification_format
                        AND d2.event_data_format = g.event_data_format
                        AND d2.aggregate_identifier = g.aggregate_identifier
                        AND d2.sent_id IS NOT NULL
                        AND s.sent_at IS NOT NULL
                      ORDER BY d2.sent_id DESC
                      LIMIT 1)
                END AS last_sent
           FROM grouped AS g
          ORDER BY directive_ids[1]"
    )
}

fn group(row: &Row, claims: &Claims) -> Result<Group, BadGroup> {
    let directive_ids = row.get::<_, Vec<i64>>("directive_ids").into_iter().map(DirectiveId);
    let event_ids = row.get::<_, Vec<i64>>("event_ids").into_iter().map(EventId);
    let (directive_ids, event_ids): (Vec<_>, Vec<_>) =
        (directive_ids.collect(), event_ids.collect());
    let key = match key(row) {
        Ok(key) => key,
        Err(reason) => return Err(BadGroup { directive_ids, event_ids, reason }),
    };
    let times = row.try_get("inserted_at").and_then(|inserted_at: Timestamp| {
        Ok((inserted_at, row.try_get::<_, Option<Timestamp>>("last_sent")?))
    });
    let Ok((inserted_at, last_sent)) = times else {
        // `infinity`, or a year that no clock will show.
        let reason =
            "its directives' inserted_at, or the sent_at of its last mail, is out of range";
        return Err(BadGroup { directive_ids, event_ids, reason: reason.to_owned() });
    };
    // A mail under way is the group's last notification as much as one that was relayed.
    let last_sent = last_sent.max(claims.newest.get(&key).copied());
    Ok(Group {
        key,
        directive_ids,
        event_ids,
        inserted_at,
        notification_interval: SignedDuration::from_micros(row.get("interval_us")),
        last_sent,
    })
}

/// What the group's directives have in common. In a database whose encoding is `SQL_ASCII` a text may be
/// anything.
fn key(row: &Row) -> Result<GroupKey, String> {
    fn read<'r, T: FromSql<'r>>(row: &'r Row, column: &str) -> Result<T, String> {
        row.try_get(column).map_err(|error| format!("cannot read its {column}: {}", why(&error)))
    }
    let aggregate: Option<String> = read(row, "aggregate_identifier")?;
    Ok(GroupKey {
        recipient_address: read(row, "recipient_address")?,
        template_name: read(row, "template_name")?,
        notification_format: read(row, "notification_format")?,
        event_data_format: read(row, "event_data_format")?,
        aggregate_identifier: aggregate.as_deref().map_or(Ok(BTreeMap::new()), pairs)?,
    })
}

/// What is wrong with a value, without the words around it.
fn why(error: &ValueError) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

/// `aggregate_identifier` is an array of pairs.
pub(crate) fn pairs(json: &str) -> Result<BTreeMap<String, Option<String>>, String> {
    let wrong = || format!("its aggregate_identifier is no list of pairs: {json}");
    let rows: Vec<[Option<String>; 2]> = serde_json::from_str(json).map_err(|_| wrong())?;
    rows.into_iter().map(|[key, value]| Ok((key.ok_or_else(wrong)?, value))).collect()
}

/// What directives name that only the database knows.
#[derive(Clone, Debug)]
pub struct Named {
    /// The templates.
    pub templates: BTreeSet<String>,
    /// The keys of their aggregate identifiers.
    pub aggregate_keys: BTreeSet<String>,
}

impl Named {
    /// How many directives are looked at, the newest: all of them may be many millions.
    pub const NEWEST: i64 = 100_000;

    /// Reads them.
    pub fn read(client: &mut Client) -> anyhow::Result<Self> {
        let mut texts = |what: &str| -> Result<BTreeSet<String>, Error> {
            let query = format!(
                "SELECT DISTINCT {what} FROM (SELECT template_name, aggregate_identifier
                                                FROM directives ORDER BY id DESC LIMIT $1) AS d"
            );
            let rows = client.query(&query, &[&Self::NEWEST])?;
            Ok(rows.iter().filter_map(|row| row.get::<_, Option<String>>(0)).collect())
        };
        let keys = "d.aggregate_identifier[generate_subscripts(d.aggregate_identifier, 1)][1]";
        texts("template_name")
            .and_then(|templates| Ok(Self { templates, aggregate_keys: texts(keys)? }))
            .context("cannot read what the directives name")
    }
}

/// The columns of the table `events`, as they are in this installation.
#[derive(Clone, Debug)]
pub struct EventColumns(BTreeMap<String, bool>);

impl EventColumns {
    /// Reads them.
    pub fn read(client: &mut Client) -> anyhow::Result<Self> {
        let statement = client
            .prepare("SELECT * FROM events LIMIT 0")
            .context("cannot read the columns of the table events")?;
        let native = |column: &Column| {
            (column.name().to_owned(), <Value as FromSql>::accepts(column.type_()))
        };
        Ok(Self(statement.columns().iter().map(native).collect()))
    }

    /// Whether an event has the field: a column of the table, or anything in `extra`.
    pub fn has(&self, field: &Field) -> bool {
        self.0.contains_key(field.column())
    }

    /// Their names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// How the column stands in a `SELECT`: as it is, or as text where its type is not one that
    /// is read as such.
    fn select(&self, column: &str) -> Option<String> {
        let quoted = format!("\"{}\"", column.replace('"', "\"\""));
        self.0.get(column).map(|&native| if native { quoted } else { format!("{quoted}::text") })
    }
}

/// Events that were asked for: each as it was loaded, or in words what in it can't be read. One that
/// is gone is not there.
pub type Events = HashMap<EventId, Result<Event, String>>;

/// Loads events, with the columns that `fields` need. Fields whose column the table lacks are left
/// out: check them with [`EventColumns::has`] before.
///
/// What is in events comes from outside. So a value that can't be read spoils its event alone.
pub fn load_events(
    transaction: &mut Transaction<'_>,
    columns: &EventColumns,
    ids: &BTreeSet<EventId>,
    fields: &BTreeSet<&Field>,
) -> anyhow::Result<Events> {
    let names: BTreeSet<&str> = fields.iter().map(|field| field.column()).collect();
    let (names, selected): (Vec<String>, Vec<String>) =
        names.into_iter().filter_map(|name| Some((name.to_owned(), columns.select(name)?))).unzip();
    let names: Arc<[String]> = names.into();
    let mut query = "SELECT id::bigint".to_owned();
    for column in &selected {
        query.push_str(", ");
        query.push_str(column);
    }
    query.push_str(" FROM events WHERE id = ANY($1::bigint[])");
    let ids: Vec<i64> = ids.iter().map(|id| id.0).collect();
    let event = |id: EventId, row: &Row| {
        let value = |(index, name): (usize, &String)| {
            row.try_get::<_, Value>(index + 1)
                .map_err(|error| format!("cannot read {name} of event {id}: {}", why(&error)))
        };
        let values = names.iter().enumerate().map(value).collect::<Result<_, String>>()?;
        Ok(Event::new(id, Arc::clone(&names), values))
    };
    let loaded = transaction.query_map(&query, &[&ids], |row| {
        let id = EventId(row.get(0));
        (id, event(id, row))
    });
    Ok(loaded.context("cannot load events")?.into_iter().collect())
}

/// Draws `count` tickets, in a transaction of its own that is committed before one is used: a
/// number that was given out is never given again, whatever crashes.
///
/// The day is that of UTC. On a new day the numbers start again, under the lock of the row in
/// `ticket_day`; a day in the future is an error, since numbers could repeat when it comes.
///
/// Where numbers of today were used nevertheless (Mailgen, in another time zone, put the day back; a
/// database was restored) counting goes on behind those in `sent` and behind `last`, the outbox's.
pub fn draw_tickets(
    client: &mut Client,
    count: usize,
    last: Option<&Ticket>,
) -> anyhow::Result<Vec<Ticket>> {
    draw(client, count, last).context("cannot draw tickets")
}

fn draw(
    client: &mut Client,
    count: usize,
    outboxs_last: Option<&Ticket>,
) -> anyhow::Result<Vec<Ticket>> {
    let mut transaction = client.transaction()?;
    let rows = transaction.query("SELECT FROM ticket_day FOR UPDATE", &[])?;
    if rows.len() != 1 {
        bail!("the table ticket_day has {} rows instead of one: see sql/", rows.len());
    }
    // Asked only now that the row is locked: midnight may have passed while waiting.
    let days = transaction.query_one(
        "SELECT to_char(today, 'YYYYMMDD'), today::text, last::text,
                coalesce(last > today, false), coalesce(last < today, true)
           FROM ticket_day AS days (last),
                (SELECT (clock_timestamp() AT TIME ZONE 'UTC')::date) AS clock (today)",
        &[],
    )?;
    let today: String = days.get(0);
    if days.get(3) {
        let (today, last): (String, String) = (days.get(1), days.get(2));
        bail!(
            "ticket_day says {last}, which is in the future (it is {today} in UTC): numbers would \
             repeat when that day comes; set the clock right, or initialized_for_day"
        );
    }
    if days.get(4) {
        transaction.execute("ALTER SEQUENCE intelmq_ticket_seq RESTART", &[])?;
        let set = "UPDATE ticket_day SET initialized_for_day = to_date($1, 'YYYYMMDD')";
        transaction.execute(set, &[&today])?;
        let outboxs_last = outboxs_last.map(Ticket::as_str);
        let skip = "SELECT setval('intelmq_ticket_seq', max(split_part(ticket, '-', 2)::bigint))
                      FROM (SELECT intelmq_ticket FROM sent UNION ALL SELECT $1) AS used (ticket)
                     WHERE ticket ~ '^[0-9]{8}-[0-9]{8}$' AND split_part(ticket, '-', 1) = $2
                    HAVING count(*) > 0";
        transaction.query(skip, &[&outboxs_last, &today])?;
    }
    let numbers = "SELECT nextval('intelmq_ticket_seq') FROM generate_series(1, $1::bigint)";
    let count = i64::try_from(count)?;
    let rows = transaction.query(numbers, &[&count])?;
    let tickets = rows.iter().map(|row| Ok(Ticket::new(&today, row.get(0))?));
    let tickets = tickets.collect::<anyhow::Result<Vec<_>>>()?;
    transaction.commit()?;
    Ok(tickets)
}

/// The rights that a run needs and this role lacks, each as the `GRANT` that gives it.
pub fn missing_rights(client: &mut Client) -> Result<Vec<String>, Error> {
    let mut missing = missing_grants(
        client,
        &[
            ("events", None, "SELECT"),
            ("directives", None, "SELECT"),
            // FOR KEY SHARE asks for it.
            ("directives", Some("sent_id"), "UPDATE"),
            ("sent", None, "SELECT"),
            ("ticket_day", None, "SELECT"),
            ("ticket_day", Some("initialized_for_day"), "UPDATE"),
        ],
    )?;
    if missing.iter().any(|grant| grant.contains(" ON SCHEMA ")) {
        // To this role there is no sequence.
        return Ok(missing);
    }
    let sequence = client.query(
        "SELECT format('GRANT %I TO %I;', pg_get_userbyid(relowner), current_user)
           FROM pg_class
          WHERE oid = 'intelmq_ticket_seq'::regclass
            AND NOT pg_has_role(relowner, 'USAGE')",
        &[],
    )?;
    missing.extend(sequence.iter().map(|row| row.get::<_, String>(0)));
    Ok(missing)
}
