//! A generator's share of the groups, where several hosts with an outbox each work on one database.

use std::fmt;

use outbox::DirectiveId;
use outbox_config::ShardSettings;
use outbox_config::database::{Error, Transaction};

/// Of the advisory locks with two numbers: "outb" in ASCII and the count of shards. Every generator
/// holds it, shared.
const COUNT_LOCK: i32 = 0x6f75_7462;

/// "outs" in ASCII and the index: who holds this one is the one generator of a shard.
const SHARD_LOCK: i32 = 0x6f75_7473;

/// One of `count` shares. The only one, unless the configuration says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard(ShardSettings);

/// What came of asking for a shard's locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// They are held until the transaction ends.
    Ours,
    /// Another generator works on this shard.
    Taken,
    /// Another generator works with this count of shards, so that the shares overlap.
    OtherCount(i64),
}

impl From<ShardSettings> for Shard {
    /// The settings were checked when they were read.
    fn from(settings: ShardSettings) -> Self {
        Self(settings)
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shard {} of {}", self.0.index, self.0.count)
    }
}

impl Shard {
    /// Whether there are no others.
    pub fn is_all(self) -> bool {
        self.0.count == 1
    }

    /// The condition in SQL that a row of `directives`, called `d3`, is of this share.
    ///
    /// The hash is the first 28 bits of a SHA-256, which no version of PostgreSQL computes
    /// otherwise, as `hashtext` may. A group is whole in one share, for its recipient and aggregate
    /// identifier are what its directives have in common.
    pub(super) fn condition(self) -> String {
        let ShardSettings { index, count } = self.0;
        if self.is_all() {
            return "true".to_owned();
        }
        format!(
            "('x' || left(encode(sha256(convert_to(
                 concat_ws(chr(31), d3.recipient_address,
                           array_to_string(d3.aggregate_identifier, chr(31), '')),
                 'UTF8')), 'hex'), 7))::bit(28)::int % {count} = {index}"
        )
    }

    /// Takes the locks that keep two generators from the same groups, if they are to be had.
    ///
    /// Shares overlap only where the index is the same or the count is not. So each generator
    /// first holds the lock of its count, then looks who holds that of another: of two that come at
    /// the same time, one at least sees the other.
    pub(super) fn take_turn(self, transaction: &mut Transaction<'_>) -> Result<Turn, Error> {
        // Both are small, as the configuration was checked.
        let [index, count] = [self.0.index, self.0.count].map(u32::cast_signed);
        let share = "SELECT pg_advisory_xact_lock_shared($1, $2)";
        transaction.execute(share, &[&COUNT_LOCK, &count])?;
        let others = "SELECT objid::bigint FROM pg_locks
                       WHERE locktype = 'advisory' AND objsubid = 2 AND classid = $1::int::oid
                         AND database = (SELECT oid FROM pg_database
                                          WHERE datname = current_database())
                         AND granted AND objid <> $2::int::oid
                       ORDER BY objid LIMIT 1";
        if let Some(row) = transaction.query(others, &[&COUNT_LOCK, &count])?.first() {
            return Ok(Turn::OtherCount(row.get(0)));
        }
        let alone = "SELECT pg_try_advisory_xact_lock($1, $2)";
        let alone: bool = transaction.query_one(alone, &[&SHARD_LOCK, &index])?.get(0);
        Ok(if alone { Turn::Ours } else { Turn::Taken })
    }

    /// How many of these directives are pending and of another share.
    pub(super) fn count_foreign(
        self,
        transaction: &mut Transaction<'_>,
        directives: impl Iterator<Item = DirectiveId>,
    ) -> Result<i64, Error> {
        if self.is_all() {
            return Ok(0);
        }
        let ids: Vec<i64> = directives.map(|id| id.0).collect();
        let query = format!(
            "SELECT count(*) FROM directives AS d3
              WHERE d3.id = ANY($1) AND d3.sent_id IS NULL AND NOT ({})",
            self.condition()
        );
        Ok(transaction.query_one(&query, &[&ids])?.get(0))
    }
}
