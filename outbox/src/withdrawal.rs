//! Taking a mail back for good: it is never sent, and its directives are pending again, or were marked
//! by the caller.
//!
//! In this order, of which each step is durable before the next begins:
//!
//! 1. the mail is flagged T ([`Outbox::change_flags`]): it is withdrawn, and offered to no relay from
//!    now on;
//! 2. its lock is taken, so that the relay is not taking it just now, and the record is read: what the
//!    relay has already can't be taken back ([`Outbox::take_back`]);
//! 3. the mail's file is removed ([`Withdrawal::remove_mail`]);
//! 4. if the directives are never to be sent, the caller marks them in the database;
//! 5. the sidecar is removed ([`TakenBack::forget`]): **now the mail claims nothing**;
//! 6. the record is removed.
//!
//! A crash after 1, 2, 3 or 4 leaves a mail that is withdrawn and claims its directives, so it is
//! neither sent nor written anew, and all steps can be taken again: marking twice changes nothing. A
//! crash after 5 leaves a record without mail and sidecar, which the deliverer removes.
//! The file goes before the sidecar, since a file without one would be a foreign mail; and before the
//! marks, so that nothing that is marked can be undeleted in a mail reader.

use crate::{DeliveryRecord, DeliveryState, MailId, MailLock, Outbox, Result, Sidecar, disk};

/// What [`Outbox::take_back`] found.
#[derive(Debug)]
pub enum TakeBack<'a> {
    /// It can be taken back.
    Ready(Box<Withdrawal<'a>>),
    /// Somebody has its lock: mostly the deliverer, while the relay takes it.
    Busy,
    /// The relay has it.
    Accepted(Box<DeliveryRecord>),
    /// It is not in the outbox any more.
    Gone,
}

/// The right to take one mail back: nobody else acts on it before this is dropped.
#[derive(Debug)]
pub struct Withdrawal<'a> {
    outbox: &'a Outbox,
    sidecar: Sidecar,
    record: Option<DeliveryRecord>,
    _lock: MailLock,
}

/// A mail whose file is gone and that still claims its directives.
#[derive(Debug)]
#[must_use = "it claims its directives until it is forgotten"]
pub struct TakenBack<'a>(Withdrawal<'a>);

impl Outbox {
    /// Takes a mail's lock in order to take it back, without waiting.
    ///
    /// Fails on a sidecar or a record that can't be read: without them nobody knows whether the relay
    /// has the mail, and what it claims.
    pub fn take_back(&self, id: &MailId) -> Result<TakeBack<'_>> {
        let Some(lock) = self.lock_mail(id)? else {
            let there = self.sidecar(id)?.is_some();
            return Ok(if there { TakeBack::Busy } else { TakeBack::Gone });
        };
        let record = match self.record(id)? {
            Some(record) if record.state == DeliveryState::Accepted => {
                return Ok(TakeBack::Accepted(Box::new(record)));
            }
            record => record,
        };
        let Some(sidecar) = self.sidecar(id)? else { return Ok(TakeBack::Gone) };
        let withdrawal = Withdrawal { outbox: self, sidecar, record, _lock: lock };
        Ok(TakeBack::Ready(Box::new(withdrawal)))
    }
}

impl<'a> Withdrawal<'a> {
    /// What the mail is about.
    pub fn sidecar(&self) -> &Sidecar {
        &self.sidecar
    }

    /// What the relay said of it so far.
    pub fn record(&self) -> Option<&DeliveryRecord> {
        self.record.as_ref()
    }

    /// Removes the mail's file, if there is one.
    pub fn remove_mail(self) -> Result<TakenBack<'a>> {
        self.outbox.remove_mail(&self.sidecar.id)?;
        Ok(TakenBack(self))
    }
}

impl TakenBack<'_> {
    /// What the mail was about.
    pub fn sidecar(&self) -> &Sidecar {
        &self.0.sidecar
    }

    /// Gives its directives back: removes the sidecar, then the record.
    pub fn forget(self) -> Result<()> {
        let Withdrawal { outbox, sidecar, .. } = &self.0;
        disk::remove(&outbox.sidecar_path(&sidecar.id))?;
        disk::sync_folder(&outbox.sidecars())?;
        disk::remove(&outbox.record_path(&sidecar.id))
    }
}
