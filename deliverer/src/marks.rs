//! The deliverer's commands' way into the database, and all of the deliverer's SQL: marking directives `sent`, or as never to be sent, and asking which are.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use outbox::{DirectiveId, MailId, Ticket};
use outbox_config::DatabaseSettings;
use outbox_config::database::{self, Client, Error, Row, Silence, missing_grants};

/// How long a statement of a command may take: a person waits.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(60);

/// Connects, for a command.
pub fn connect(settings: &DatabaseSettings) -> anyhow::Result<Client> {
    let silence = Silence::Ends(database::give_up);
    database::connect(settings, "outbox-deliverer", STATEMENT_TIMEOUT, silence)
}

/// A mail that the relay took, and what the database is to be told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The mail.
    pub id: MailId,
    /// Its ticket: the key of the row in `sent`.
    pub ticket: Ticket,
    /// When the relay took it.
    pub sent_at: Timestamp,
    /// What becomes sent by it.
    pub directive_ids: Vec<DirectiveId>,
}

/// A directive that another than the mail's ticket stands on after marking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The mail's ticket.
    pub ticket: Ticket,
    /// The directive.
    pub directive: DirectiveId,
    /// The ticket that stands on it; none if the directive is gone.
    pub marked_by: Option<String>,
}

/// What was found otherwise than expected while marking.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marked {
    /// Directives that keep another mark, or are gone.
    pub kept: Vec<Kept>,
    /// Tickets that stood in `sent` already, and of another mail: their time is not this mail's.
    pub taken: Vec<Ticket>,
}

/// Why nothing was marked.
#[derive(Debug, thiserror::Error)]
pub enum NotMarked {
    /// The database refused it, or is away.
    #[error(transparent)]
    Database(#[from] Error),
    /// It was written, and is not there.
    #[error(
        "directive {0} stays pending although it was marked: a trigger, rule or policy of the tables \
         sent and directives undoes that"
    )]
    Undone(DirectiveId),
}

/// Marks the directives of many mails in one transaction.
///
/// Telling it again changes nothing: a ticket has one row in `sent`, and a directive that is marked
/// keeps its mark. So it can be repeated when nobody knows whether a commit came through.
pub fn mark_sent(client: &mut Client, marks: &[Mark]) -> Result<Marked, NotMarked> {
    let tickets: Vec<&str> = marks.iter().map(|mark| mark.ticket.as_str()).collect();
    let times: Vec<_> = marks.iter().map(|mark| Some(mark.sent_at)).collect();
    let (directive_tickets, directives): (Vec<&str>, Vec<i64>) = marks
        .iter()
        .flat_map(|mark| mark.directive_ids.iter().map(|id| (mark.ticket.as_str(), id.0)))
        .unzip();
    mark(client, &tickets, &times, &directive_tickets, &directives)
}

/// Marks the directives of a mail that was taken back, so that nobody writes them anew. Without
/// `sent_at`, the time of an attempt that reached some, it does not count as a notification.
///
/// Telling it again changes nothing.
pub fn suppress(
    client: &mut Client,
    ticket: &Ticket,
    sent_at: Option<Timestamp>,
    directive_ids: &[DirectiveId],
) -> Result<Marked, NotMarked> {
    let directives: Vec<i64> = directive_ids.iter().map(|id| id.0).collect();
    let tickets = vec![ticket.as_str(); directives.len()];
    mark(client, &[ticket.as_str()], &[sent_at], &tickets, &directives)
}

/// In one transaction: rows in `sent` with these tickets and times, and directives that point to the
/// row of their ticket. A directive that is there and pending after that is an error: the mail would
/// give up its claim, and the generator would write another one.
fn mark(
    client: &mut Client,
    tickets: &[&str],
    times: &[Option<Timestamp>],
    directive_tickets: &[&str],
    directives: &[i64],
) -> Result<Marked, NotMarked> {
    let mut transaction = client.transaction()?;
    transaction.execute(
        "INSERT INTO sent (intelmq_ticket, sent_at)
         SELECT * FROM unnest($1::text[], $2::timestamptz[])
             ON CONFLICT (intelmq_ticket) DO NOTHING",
        &[&tickets, &times],
    )?;
    transaction.execute(
        "UPDATE directives AS d
            SET sent_id = s.id
           FROM unnest($1::text[], $2::bigint[]) AS mail (ticket, directive)
           JOIN sent AS s ON s.intelmq_ticket = mail.ticket
          WHERE d.id = mail.directive
            AND d.sent_id IS NULL",
        &[&directive_tickets, &directives],
    )?;
    let kept = transaction.query(
        "SELECT mail.ticket, mail.directive, coalesce(s.intelmq_ticket, d.sent_id::text),
                d.id IS NOT NULL AND d.sent_id IS NULL
           FROM unnest($1::text[], $2::bigint[]) AS mail (ticket, directive)
           LEFT JOIN directives AS d ON d.id = mail.directive
           LEFT JOIN sent AS s ON s.id = d.sent_id
          WHERE s.intelmq_ticket IS DISTINCT FROM mail.ticket",
        &[&directive_tickets, &directives],
    )?;
    if let Some(row) = kept.iter().find(|row| row.get(3)) {
        return Err(NotMarked::Undone(DirectiveId(row.get(1))));
    }
    let taken = transaction.query(
        "SELECT mail.ticket
           FROM unnest($1::text[], $2::timestamptz[]) AS mail (ticket, sent_at)
           JOIN sent AS s ON s.intelmq_ticket = mail.ticket
          WHERE s.sent_at IS DISTINCT FROM mail.sent_at",
        &[&tickets, &times],
    )?;
    transaction.commit()?;
    let ticket = |row: &Row| row.get::<_, String>(0).parse().expect("it was given as a ticket");
    let taken = taken.iter().map(ticket).collect();
    let kept = kept.into_iter().map(|row| Kept {
        ticket: ticket(&row),
        directive: DirectiveId(row.get(1)),
        marked_by: row.get(2),
    });
    Ok(Marked { kept: kept.collect(), taken })
}

/// A directive that is not as the mail that claims it has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// The directive.
    pub directive: DirectiveId,
    /// The ticket that stands on it; none if the directive is gone.
    pub marked_by: Option<String>,
}

/// Of `directive_ids`, those that are gone or marked.
pub fn marked_already(
    client: &mut Client,
    directive_ids: &[DirectiveId],
) -> Result<Vec<Claimed>, Error> {
    let directives: Vec<i64> = directive_ids.iter().map(|id| id.0).collect();
    let rows = client.query(
        "SELECT claimed.directive, coalesce(s.intelmq_ticket, d.sent_id::text)
           FROM unnest($1::bigint[]) AS claimed (directive)
           LEFT JOIN directives AS d ON d.id = claimed.directive
           LEFT JOIN sent AS s ON s.id = d.sent_id
          WHERE d.id IS NULL OR d.sent_id IS NOT NULL",
        &[&directives],
    )?;
    let claimed = rows
        .iter()
        .map(|row| Claimed { directive: DirectiveId(row.get(0)), marked_by: row.get(1) });
    Ok(claimed.collect())
}

/// Of `tickets`, those that stand in `sent`.
pub fn sent_already(client: &mut Client, tickets: &[Ticket]) -> Result<Vec<Ticket>, Error> {
    let tickets: Vec<&str> = tickets.iter().map(Ticket::as_str).collect();
    let rows = client.query(
        "SELECT intelmq_ticket FROM sent WHERE intelmq_ticket = ANY ($1::text[])",
        &[&tickets],
    )?;
    Ok(rows.iter().filter_map(|row| row.get::<_, String>(0).parse().ok()).collect())
}

/// The rights that marking needs and this role lacks, each as the `GRANT` that gives it.
pub fn missing_rights(client: &mut Client) -> Result<Vec<String>, Error> {
    let mut missing = missing_grants(
        client,
        &[
            ("sent", None, "SELECT"),
            ("sent", None, "INSERT"),
            ("directives", None, "SELECT"),
            ("directives", Some("sent_id"), "UPDATE"),
        ],
    )?;
    if missing.iter().any(|grant| grant.contains(" ON SCHEMA ")) {
        // To this role there is no sequence.
        return Ok(missing);
    }
    let sequence = client.query(
        "SELECT format('GRANT USAGE ON SEQUENCE %s TO %I;', sequence, current_user)
           FROM pg_get_serial_sequence('sent', 'id') AS sequence
          WHERE NOT has_sequence_privilege(sequence, 'USAGE')",
        &[],
    )?;
    missing.extend(sequence.iter().map(|row| row.get::<_, String>(0)));
    Ok(missing)
}

/// What the database knows of a ticket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// When the relay took the mail; none if its directives are never to be mailed.
    pub sent_at: Option<Timestamp>,
    /// What became sent by it.
    pub directive_ids: Vec<DirectiveId>,
    /// Whom these directives are for, each an address or a list of them with commas between.
    pub recipients: Vec<String>,
}

/// What the database knows of these tickets. Those that it does not know are left out.
pub fn known_tickets(
    client: &mut Client,
    tickets: &[&str],
) -> Result<HashMap<Ticket, Known>, Error> {
    let rows = client.query(
        "SELECT s.intelmq_ticket, s.sent_at::timestamptz,
                coalesce(array_agg(d.id ORDER BY d.id) FILTER (WHERE d.id IS NOT NULL), '{}')::bigint[],
                coalesce(array_agg(DISTINCT d.recipient_address)
                         FILTER (WHERE d.id IS NOT NULL), '{}')::text[]
           FROM sent AS s
           LEFT JOIN directives AS d ON d.sent_id = s.id
          WHERE s.intelmq_ticket = ANY($1)
          GROUP BY s.id",
        &[&tickets],
    )?;
    let known = rows.iter().map(|row| {
        let ids: Vec<i64> = row.get(2);
        let ticket = row.get::<_, String>(0).parse().expect("it was given as a ticket");
        let directive_ids = ids.into_iter().map(DirectiveId).collect();
        // A time that no clock shows is none; an address that is not UTF-8 is in no notice.
        let sent_at = row.try_get(1).ok().flatten();
        (ticket, Known { sent_at, directive_ids, recipients: row.try_get(3).unwrap_or_default() })
    });
    Ok(known.collect())
}
