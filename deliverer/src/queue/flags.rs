//! `hold`, `release` and `retry`: a flag in the name of the mail's file, as a mail reader sets it. The
//! service looks at the flags right before it relays a mail.

use outbox::{DeliveryRecord, Flags, MailId, Outbox, State, TakeBack};
use outbox_config::Failure;

use super::change::{Answer, Report};
use super::{Listed, read, unavailable};
use crate::cli::Change;

/// What is to become of a mail.
enum Plan {
    /// Its flags are changed: what that would do.
    Change(&'static str),
    /// Nothing.
    Leave(Answer),
}

/// Flags mails (F).
pub fn hold(outbox: &Outbox, change: &Change) -> Result<(), Failure> {
    let plan = |mail: &Listed| match &mail.state {
        State::Held => Plan::Leave(Answer::unchanged("held already")),
        State::Withdrawn => Plan::Leave(Answer::refused("it is withdrawn, and not sent anyway")),
        State::Accepted => Plan::Leave(Answer::refused(too_late(mail.record.as_ref()))),
        State::Committed => Plan::Leave(Answer::refused(NOT_PUBLISHED)),
        _ => Plan::Change("would be held"),
    };
    let held = |mail: &Listed| match outbox.take_back(&mail.id) {
        Ok(TakeBack::Busy) => {
            Answer::done("in the relay's hands at this moment: held unless it is taken now")
        }
        Ok(TakeBack::Accepted(record)) => Answer::refused(too_late(Some(&record))),
        Ok(TakeBack::Gone) => gone(outbox, &mail.id),
        // Nobody sends one that can't be read.
        Ok(TakeBack::Ready(_)) | Err(_) => Answer::done("held"),
    };
    apply(outbox, change, plan, |flags| flags.with(Flags::HELD), held)
}

/// Clears the flag F.
pub fn release(outbox: &Outbox, change: &Change) -> Result<(), Failure> {
    let plan = |mail: &Listed| match &mail.state {
        State::Held => Plan::Change("would be released"),
        State::Withdrawn => Plan::Leave(Answer::refused(
            "it is withdrawn: undelete it in a mail reader, or say with `withdraw` what becomes of it",
        )),
        State::Accepted => Plan::Leave(Answer::unchanged("the relay has it")),
        _ => Plan::Leave(Answer::unchanged("not held")),
    };
    let released = |mail: &Listed| {
        let next = mail.record.as_ref().filter(|record| !record.was_held());
        let next = next.and_then(|record| record.next_attempt_at);
        match next.filter(|next| *next > outbox::now() && !mail.is_retried()) {
            Some(next) => Answer::done(format!("released; it was deferred until {next:.0}")),
            None => Answer::done("released"),
        }
    };
    apply(outbox, change, plan, |flags| flags.without(Flags::HELD), released)
}

/// Makes deferred mails due (flag r).
pub fn retry(outbox: &Outbox, change: &Change) -> Result<(), Failure> {
    let plan = |mail: &Listed| match &mail.state {
        State::Deferred { .. } => Plan::Change("would be due now"),
        State::Held => Plan::Leave(Answer::refused("it is held: use `release`")),
        State::Withdrawn => Plan::Leave(Answer::refused("it is withdrawn")),
        State::Accepted => Plan::Leave(Answer::unchanged("the relay has it")),
        _ => Plan::Leave(Answer::unchanged("queued: it goes as soon as it can")),
    };
    apply(outbox, change, plan, |flags| flags.with(Flags::RETRY), |_| Answer::done("due now"))
}

fn apply(
    outbox: &Outbox,
    change: &Change,
    plan: impl Fn(&Listed) -> Plan,
    flags: impl Fn(&Flags) -> Flags,
    done: impl Fn(&Listed) -> Answer,
) -> Result<(), Failure> {
    let selected = change.selector.select(read(outbox).map_err(unavailable)?);
    let mut report = Report::new(change.json);
    for mail in &selected.mails {
        let answer = match plan(mail) {
            Plan::Leave(answer) => answer,
            Plan::Change(what) if change.dry_run => Answer::planned(what),
            Plan::Change(_) => match outbox.change_flags(&mail.id, mail.file.as_ref(), &flags) {
                Ok(true) => done(mail),
                Ok(false) => gone(outbox, &mail.id),
                Err(error) => Answer::error(&error),
            },
        };
        report.tell(mail, answer)?;
    }
    report.conclude(&selected.missing)
}

/// What is said of a mail that vanished while the command looked.
pub fn gone(outbox: &Outbox, id: &MailId) -> Answer {
    match outbox.archived(|archived| archived == id) {
        Ok(archived) if !archived.is_empty() => {
            Answer::refused("too late: it was sent at this moment")
        }
        // No archive is kept, or a person was at it.
        _ => Answer::refused("it is gone: it was sent, deleted or taken back at this moment"),
    }
}

/// What is said of a mail in `tmp/`.
pub const NOT_PUBLISHED: &str = "the generator is not done with it: try again after its next run";

/// What is said of a mail that the relay has.
pub fn too_late(record: Option<&DeliveryRecord>) -> String {
    match record.and_then(|record| record.accepted_at) {
        Some(at) => format!("too late: the relay took it at {at:.0}"),
        None => "too late: the relay took it".to_owned(),
    }
}
