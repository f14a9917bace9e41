//! `withdraw`: takes mails back for good. The order of the steps, and what a crash after each leaves, is
//! told where they are taken: `outbox/src/withdrawal.rs`.

use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::Args;
use outbox::{DeliveryRecord, Flags, Outbox, RecipientState, Sidecar, State, TakeBack, Withdrawal};
use outbox_config::database::Client;
use outbox_config::{Config, DatabaseSettings, Failure};

use super::change::{Answer, Report};
use super::flags::{NOT_PUBLISHED, gone, too_late};
use super::{Listed, read, unavailable};
use crate::cli::Change;
use crate::marks::{Kept, Marked, connect, suppress};

/// How long a command waits for mails that are in the relay's hands.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often it looks whether they are still. There is no event to wait for when a lock ends.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What becomes of the directives of mails that are taken back.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Decision {
    /// Their directives are pending again: the next run of the generator writes them anew.
    #[arg(long)]
    pub regenerate: bool,

    /// Their directives are never sent: marked with a row in `sent` that has no time.
    #[arg(long)]
    pub suppress: bool,
}

/// Takes mails back.
pub fn withdraw(
    config: &Config,
    outbox: &Outbox,
    change: &Change,
    decision: &Decision,
) -> Result<(), Failure> {
    let settings = if decision.suppress { Some(config.database()?.event.clone()) } else { None };
    let mut database = settings.map(Database::new);
    let selected = change.selector.select(read(outbox).map_err(unavailable)?);
    let mut report = Report::new(change.json);
    // First all of them are kept from being sent, and then one after the other is seen to.
    let mut withdrawn = Vec::new();
    for mail in &selected.mails {
        let answer = match &mail.state {
            State::Accepted => Some(Answer::refused(too_late(mail.record.as_ref()))),
            State::Committed => Some(Answer::refused(NOT_PUBLISHED)),
            _ if change.dry_run => Some(plan(mail, decision)),
            State::Withdrawn => None,
            _ => flag(outbox, mail),
        };
        match answer {
            Some(answer) => report.tell(mail, answer)?,
            None => withdrawn.push(mail),
        }
    }
    let until = Instant::now() + PATIENCE;
    for mail in withdrawn {
        let Answer { result, mut text } = take_back(outbox, mail, database.as_mut(), until);
        let same_ticket = |other: &&Listed| other.ticket() == mail.ticket();
        let others = selected.others.iter().filter(same_ticket).count();
        if others > 0 {
            text = format!("{text}; {others} more with this ticket: left alone");
        }
        report.tell(mail, Answer { result, text })?;
    }
    let concluded = report.conclude(&selected.missing);
    match database.and_then(|database| database.trouble) {
        Some(trouble) => Err(Failure::Unavailable(trouble.context(
            "the database did not take marks: what is withdrawn stays claimed, so run this again",
        ))),
        None => concluded,
    }
}

/// Flags a mail (T). `None` if it is withdrawn now.
fn flag(outbox: &Outbox, mail: &Listed) -> Option<Answer> {
    match outbox.change_flags(&mail.id, mail.file.as_ref(), |flags| flags.with(Flags::TRASHED)) {
        // Deleted at this moment, or finished: what follows finds out.
        Ok(_) => None,
        Err(error) => Some(Answer::error(&error)),
    }
}

/// What would be done with a mail.
fn plan(mail: &Listed, decision: &Decision) -> Answer {
    match &mail.sidecar {
        Err(trouble) => Answer::failed(trouble.clone()),
        Ok(sidecar) => match refusal(sidecar, mail.record.as_ref(), decision.regenerate) {
            Some(text) => Answer::refused(text),
            None => Answer::planned(format!(
                "would be taken back, {}{}",
                directives(sidecar, mail.record.as_ref(), decision.suppress),
                doubt(mail.record.as_ref())
            )),
        },
    }
}

/// Takes a withdrawn mail back, with a database if its directives are never to be sent.
fn take_back(
    outbox: &Outbox,
    mail: &Listed,
    database: Option<&mut Database>,
    until: Instant,
) -> Answer {
    let withdrawal = match wait_for(outbox, mail, until) {
        Ok(TakeBack::Ready(withdrawal)) => withdrawal,
        Ok(TakeBack::Busy) => {
            return Answer::refused(
                "the relay has it in hand: it is marked as withdrawn, run this again",
            );
        }
        Ok(TakeBack::Accepted(record)) => {
            return undo(outbox, mail, Answer::refused(too_late(Some(&record))));
        }
        Ok(TakeBack::Gone) => return gone(outbox, &mail.id),
        Err(error) => return Answer::error(&error),
    };
    if let Some(text) = refusal(withdrawal.sidecar(), withdrawal.record(), database.is_none()) {
        drop(withdrawal);
        return undo(outbox, mail, Answer::refused(text));
    }
    match carry_out(*withdrawal, database) {
        Ok(answer) => answer,
        Err(error) => Answer::error(&error),
    }
}

fn wait_for<'a>(outbox: &'a Outbox, mail: &Listed, until: Instant) -> outbox::Result<TakeBack<'a>> {
    loop {
        match outbox.take_back(&mail.id)? {
            TakeBack::Busy if Instant::now() < until => sleep(LOOK_AGAIN),
            found => return Ok(found),
        }
    }
}

fn carry_out(
    withdrawal: Withdrawal<'_>,
    database: Option<&mut Database>,
) -> outbox::Result<Answer> {
    let record = withdrawal.record().cloned();
    let becomes = directives(withdrawal.sidecar(), withdrawal.record(), database.is_some());
    let mut text = format!("taken back, {becomes}");
    let database = database.filter(|_| withdrawal.sidecar().mark_sent);
    let taken_back = match database {
        None => withdrawal.remove_mail()?,
        Some(database) => {
            // Without its file a mail can't be undeleted: so not before the database is there.
            if !database.is_there() {
                return Ok(Answer::failed("withdrawn, and its directives stay claimed"));
            }
            let taken_back = withdrawal.remove_mail()?;
            let Some(marked) = database.suppress(taken_back.sidecar(), record.as_ref()) else {
                let text = "withdrawn, its file removed, and its directives stay claimed";
                return Ok(Answer::failed(text));
            };
            text += &found_otherwise(&marked);
            taken_back
        }
    };
    taken_back.forget()?;
    Ok(Answer::done(text + &doubt(record.as_ref())))
}

/// Why a mail can't be taken back so that its directives are pending again.
fn refusal(sidecar: &Sidecar, record: Option<&DeliveryRecord>, regenerate: bool) -> Option<String> {
    let record = record.filter(|record| regenerate && record.any_accepted())?;
    let has_it = |address: &&String| {
        let outcome = record.recipients.get(*address);
        outcome.is_some_and(|outcome| outcome.state == RecipientState::Accepted)
    };
    let have_it: Vec<&str> =
        sidecar.envelope.to.iter().filter(has_it).map(String::as_str).collect();
    Some(format!(
        "written anew it would go twice to {}, who have it already; `--suppress` keeps it from the \
         others",
        have_it.join(", ")
    ))
}

/// Clears the flag T that this command set: what is refused stays as it was.
fn undo(outbox: &Outbox, mail: &Listed, answer: Answer) -> Answer {
    if mail.state == State::Withdrawn {
        return answer;
    }
    match outbox.change_flags(&mail.id, None, |flags| flags.without(Flags::TRASHED)) {
        Ok(_) => answer,
        Err(error) => Answer::failed(format!("{}; and it stays withdrawn: {error}", answer.text)),
    }
}

/// What becomes of a mail's directives, in words.
fn directives(sidecar: &Sidecar, record: Option<&DeliveryRecord>, suppress: bool) -> String {
    let (directives, are) = match sidecar.directive_ids.len() {
        0 => return "a copy".to_owned(),
        1 => ("1 directive".to_owned(), "is"),
        many => (format!("{many} directives"), "are"),
    };
    if !suppress {
        format!("{directives} {are} pending again")
    } else if record.is_some_and(DeliveryRecord::any_accepted) {
        format!("{directives} {are} marked as sent, for some recipients have the mail")
    } else {
        format!("{directives} {are} never sent")
    }
}

/// What must be said of a mail that the relay may have.
fn doubt(record: Option<&DeliveryRecord>) -> String {
    match record {
        Some(record) if record.uncertain > 0 || record.offered_at.is_some() => {
            "; the relay may have it: an attempt ended without an answer".to_owned()
        }
        _ => String::new(),
    }
}

/// What the database had to say beside what was expected.
fn found_otherwise(marked: &Marked) -> String {
    let kept = marked.kept.iter().map(|Kept { directive, marked_by, .. }| match marked_by {
        Some(other) => format!("; directive {directive} was marked before, by {other}"),
        None => format!("; directive {directive} is gone from the database"),
    });
    let taken = marked.taken.iter().map(|ticket| format!("; {ticket} stood in sent already"));
    kept.chain(taken).collect()
}

/// The database, and what it refused.
struct Database {
    settings: DatabaseSettings,
    client: Option<Client>,
    trouble: Option<anyhow::Error>,
}

impl Database {
    fn new(settings: DatabaseSettings) -> Self {
        Self { settings, client: None, trouble: None }
    }

    /// Whether it is there. Connects at the first time, and where a session has ended since; what
    /// failed is not tried again.
    fn is_there(&mut self) -> bool {
        if self.client.as_mut().is_none_or(Client::has_ended) {
            self.client = None;
            if self.trouble.is_none() {
                match connect(&self.settings) {
                    Ok(client) => self.client = Some(client),
                    Err(trouble) => self.trouble = Some(trouble),
                }
            }
        }
        self.client.is_some()
    }

    /// Marks a mail's directives as never to be sent. `None` if that did not work.
    fn suppress(&mut self, sidecar: &Sidecar, record: Option<&DeliveryRecord>) -> Option<Marked> {
        // Some have it: that was their last notification.
        let sent_at = record.filter(|record| record.any_accepted());
        let sent_at = sent_at.and_then(|record| record.last_attempt_at);
        let client = self.client.as_mut()?;
        suppress(client, &sidecar.ticket, sent_at, &sidecar.directive_ids)
            .map_err(|error| self.trouble = Some(error.into()))
            .ok()
    }
}
