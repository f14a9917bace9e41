//! All of the generator's SQL: what is pending, the events it is about, and tickets.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use jiff::{SignedDuration, Timestamp};
use outbox::{Claims, DirectiveId, GroupKey, Ticket};
use outbox_config::database::{connect, describe, missing_grants};
use outbox_config::{DatabaseSettings, Failure};
use postgres::error::SqlState;
use postgres::fallible_iterator::FallibleIterator as _;
use postgres::{Client, Row, Transaction};
use tracing::{info, warn};

use crate::column::Field;
use crate::event::{Event, Value};
use crate::group::{EventId, Group};

/// "outbox" in ASCII: who holds this advisory lock is the one generator on this database.
const ADVISORY_LOCK: i64 = 0x6f75_7462_6f78;

/// How long one statement may take: the pending query reads hundreds of thousands of rows.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(600);

/// Connects, for long statements.
pub fn open(settings: &DatabaseSettings) -> Result<Client, Failure> {
    connect(settings, "outbox-generator", STATEMENT_TIMEOUT).map_err(Failure::Unavailable)
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

/// Reads what is pending and not claimed, for who only looks: takes no lock and heeds none.
pub fn peek(
    client: &mut Client,
    condition: Option<&str>,
    claims: &Claims,
) -> Result<Vec<Result<Group, BadGroup>>, Failure> {
    let mut transaction = client.transaction().map_err(|error| cannot_read(&error, condition))?;
    read_pending(&mut transaction, condition, claims, Lock::Nothing)
        .map_err(|error| cannot_read(&error, condition))
}

/// A transaction in which nothing is written, for who only looks.
pub fn reading(client: &mut Client) -> Result<Transaction<'_>, Failure> {
    client
        .build_transaction()
        .read_only(true)
        .start()
        .map_err(|error| Failure::Unavailable(anyhow!("{}", describe(&error))))
}

/// Whether the rows of pending directives are locked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lock {
    Rows,
    Nothing,
}

/// Names a table or a column that is not there, or a mistake in the configured condition: SQLSTATE
/// class 42, the configuration's fault. Anything else may be better later.
fn cannot_read(error: &postgres::Error, condition: Option<&str>) -> Failure {
    let about = match condition.filter(|condition| !condition.trim().is_empty()) {
        Some(condition) => format!("; database.additional_directive_where is {condition:?}"),
        None => String::new(),
    };
    let said = anyhow!("cannot read the pending directives: {}{about}", describe(error));
    match error.code() {
        Some(code) if code.code().starts_with("42") => Failure::Configuration(said),
        _ => Failure::Unavailable(said),
    }
}

/// Reads what is pending and not claimed, and locks it: `None` if another generator, or Mailgen,
/// is at it, which the log tells.
///
/// The row lock is `FOR KEY SHARE`: Mailgen's `FOR UPDATE NOWAIT` fails on it, and the deliverer's
/// `UPDATE` of `sent_id` does not have to wait for the end of this run. Generators tell each other
/// by an advisory lock.
pub fn pending<'a>(
    client: &'a mut Client,
    condition: Option<&str>,
    claims: &Claims,
) -> Result<Option<Pending<'a>>, Failure> {
    let mut transaction = client.transaction().map_err(|error| cannot_read(&error, condition))?;
    let alone: bool = transaction
        .query_one("SELECT pg_try_advisory_xact_lock($1)", &[&ADVISORY_LOCK])
        .map_err(|error| cannot_read(&error, condition))?
        .get(0);
    if !alone {
        info!("another outbox-generator works on this database: nothing to do");
        return Ok(None);
    }
    match read_pending(&mut transaction, condition, claims, Lock::Rows) {
        Ok(groups) => Ok(Some(Pending { transaction, groups })),
        Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
            // Not a generator of ours. If it comes again and again, it is no Mailgen either.
            warn!(
                "somebody else, such as Mailgen or an open psql, holds pending directives locked: \
                 nothing is written this time"
            );
            Ok(None)
        }
        Err(error) => Err(cannot_read(&error, condition)),
    }
}

/// Finds out whether the configured condition makes sense, without reading a row.
pub fn check_condition(client: &mut Client, condition: Option<&str>) -> Result<(), Failure> {
    let query = pending_query(condition, Lock::Rows);
    client.prepare(&query).map(drop).map_err(|error| cannot_read(&error, condition))
}

fn read_pending(
    transaction: &mut Transaction<'_>,
    condition: Option<&str>,
    claims: &Claims,
    lock: Lock,
) -> Result<Vec<Result<Group, BadGroup>>, postgres::Error> {
    let claimed: Vec<i64> = claims.directives.iter().map(|id| id.0).collect();
    let rows = transaction.query_raw(&pending_query(condition, lock), [&claimed])?;
    rows.map(|row| Ok(group(&row, claims))).collect()
}

fn pending_query(condition: Option<&str>, lock: Lock) -> String {
    let condition = condition.map(str::trim).filter(|condition| !condition.is_empty());
    let names_events =
        |condition: &str| condition.contains("events.") || condition.contains("\"events\".");
    let join = match condition {
        Some(condition) if names_events(condition) => "JOIN events ON events.id = d3.events_id",
        _ => "",
    };
    let condition = condition.unwrap_or("true");
    let lock = if lock == Lock::Rows { "FOR KEY SHARE OF d3 NOWAIT" } else { "" };
    // The conditions on sent_id, medium and endpoint are literals, and the last mail is looked for by
    // `=` and the order of sent_id, since the indexes of sql/notifications.sql serve only these
    // forms. The line end behind the configured condition ends a comment in it.
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
         SELECT recipient_address, template_name, notification_format, event_data_format,
                array_to_json(aggregate_identifier)::text AS aggregate_identifier,
                directive_ids, event_ids, inserted_at,
                (extract(epoch FROM notification_interval) * 1000000)::bigint AS interval_us,
                CASE WHEN notification_interval > interval '0' THEN
                    (SELECT s.sent_at
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
    let aggregate: Option<String> = row.get("aggregate_identifier");
    let aggregate_identifier = match aggregate.as_deref().map_or(Ok(BTreeMap::new()), pairs) {
        Ok(pairs) => pairs,
        Err(reason) => return Err(BadGroup { directive_ids, event_ids, reason }),
    };
    let key = GroupKey {
        recipient_address: row.get("recipient_address"),
        template_name: row.get("template_name"),
        notification_format: row.get("notification_format"),
        event_data_format: row.get("event_data_format"),
        aggregate_identifier,
    };
    // A mail under way is the group's last notification as much as one that was relayed.
    let last_sent = row.get::<_, Option<Timestamp>>("last_sent");
    let last_sent = last_sent.max(claims.newest.get(&key).copied());
    Ok(Group {
        key,
        directive_ids,
        event_ids,
        inserted_at: row.get("inserted_at"),
        notification_interval: SignedDuration::from_micros(row.get("interval_us")),
        last_sent,
    })
}

/// `aggregate_identifier` is an array of pairs.
fn pairs(json: &str) -> Result<BTreeMap<String, Option<String>>, String> {
    let wrong = || format!("its aggregate_identifier is no list of pairs: {json}");
    let rows: Vec<[Option<String>; 2]> = serde_json::from_str(json).map_err(|_| wrong())?;
    rows.into_iter().map(|[key, value]| Ok((key.ok_or_else(wrong)?, value))).collect()
}

/// The columns of the table `events`, as they are in this installation.
#[derive(Clone, Debug)]
pub struct EventColumns(BTreeMap<String, bool>);

impl EventColumns {
    /// Reads them.
    pub fn read(client: &mut Client) -> anyhow::Result<Self> {
        let statement = client
            .prepare("SELECT * FROM events LIMIT 0")
            .map_err(|error| anyhow!("{}", describe(&error)))
            .context("cannot read the columns of the table events")?;
        let native = |column: &postgres::Column| {
            (column.name().to_owned(), <Value as postgres::types::FromSql>::accepts(column.type_()))
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

/// Loads events, with the columns that `fields` need. Fields whose column the table lacks are left
/// out: check them with [`EventColumns::has`] before.
pub fn load_events(
    transaction: &mut Transaction<'_>,
    columns: &EventColumns,
    ids: &BTreeSet<EventId>,
    fields: &BTreeSet<&Field>,
) -> anyhow::Result<HashMap<EventId, Event>> {
    let names: BTreeSet<&str> = fields.iter().map(|field| field.column()).collect();
    let (names, selected): (Vec<String>, Vec<String>) =
        names.into_iter().filter_map(|name| Some((name.to_owned(), columns.select(name)?))).unzip();
    let names: Arc<[String]> = names.into();
    let mut query = "SELECT id".to_owned();
    for column in &selected {
        query.push_str(", ");
        query.push_str(column);
    }
    query.push_str(" FROM events WHERE id = ANY($1)");
    let ids: Vec<i64> = ids.iter().map(|id| id.0).collect();
    let mut load = || -> Result<HashMap<EventId, Event>, postgres::Error> {
        transaction
            .query_raw(&query, [&ids])?
            .map(|row| {
                let id = EventId(row.try_get(0)?);
                let values = (1..=names.len()).map(|i| row.try_get::<_, Value>(i));
                let values = values.collect::<Result<_, postgres::Error>>()?;
                Ok((id, Event::new(id, Arc::clone(&names), values)))
            })
            .collect()
    };
    load().map_err(|error| anyhow!("{}", describe(&error))).context("cannot load events")
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
    let say = |error: postgres::Error| anyhow!("{}", describe(&error));
    let mut transaction = client.transaction().map_err(say)?;
    let days = "SELECT to_char(initialized_for_day, 'YYYYMMDD') FROM ticket_day FOR UPDATE";
    let rows = transaction.query(days, &[]).map_err(say)?;
    let [row] = rows.as_slice() else {
        bail!("the table ticket_day has {} rows instead of one: see sql/", rows.len());
    };
    let last: Option<String> = row.get(0);
    // Asked only now that the row is locked: midnight may have passed while waiting.
    let today = "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYYMMDD')";
    let today: String = transaction.query_one(today, &[]).map_err(say)?.get(0);
    let last = last.unwrap_or_default();
    if last > today {
        bail!(
            "ticket_day says {last}, which is in the future (it is {today} in UTC): numbers would \
             repeat when that day comes; set the clock right, or initialized_for_day"
        );
    }
    if last < today {
        transaction.batch_execute("ALTER SEQUENCE intelmq_ticket_seq RESTART").map_err(say)?;
        let set = "UPDATE ticket_day SET initialized_for_day = to_date($1, 'YYYYMMDD')";
        transaction.execute(set, &[&today]).map_err(say)?;
        let outboxs_last = outboxs_last.map(Ticket::as_str);
        let skip = "SELECT setval('intelmq_ticket_seq', max(split_part(ticket, '-', 2)::bigint))
                      FROM (SELECT intelmq_ticket FROM sent UNION ALL SELECT $1) AS used (ticket)
                     WHERE ticket ~ '^[0-9]{8}-[0-9]{8}$' AND split_part(ticket, '-', 1) = $2
                    HAVING count(*) > 0";
        transaction.query(skip, &[&outboxs_last, &today]).map_err(say)?;
    }
    let numbers = "SELECT nextval('intelmq_ticket_seq') FROM generate_series(1, $1::bigint)";
    let count = i64::try_from(count)?;
    let rows = transaction.query(numbers, &[&count]).map_err(say)?;
    let tickets = rows.iter().map(|row| Ok(Ticket::new(&today, row.get(0))?));
    let tickets = tickets.collect::<anyhow::Result<Vec<_>>>()?;
    transaction.commit().map_err(say)?;
    Ok(tickets)
}

/// The rights that a run needs and this role lacks, each as the `GRANT` that gives it.
pub fn missing_rights(client: &mut Client) -> anyhow::Result<Vec<String>> {
    find_missing_rights(client).map_err(|error| anyhow!("{}", describe(&error)))
}

fn find_missing_rights(client: &mut Client) -> Result<Vec<String>, postgres::Error> {
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
