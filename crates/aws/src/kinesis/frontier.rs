//! How far a stream is read, by whomever: what comes after its checkpoints is asked of the stream itself.
//!
//! A checkpoint says by its place, not by a time, how far a shard is committed. The first record after it says the rest:
//! everything that arrived before that record is in the histories. Where none comes after it, everything is that had
//! arrived when Kinesis was asked. So no process has to tell another how far it is, a shard in which nothing happens costs
//! nobody a write, and a function behind an event source mapping, which is not there while nothing happens, needs no one
//! to speak for it.
//!
//! The whole stream counts, not the shard that carried an event: a cart and its purchase may come under two partition
//! keys, or on two sides of a split. Shards are listed in each look, before they are asked: what is not listed holds only
//! what arrived later.
//!
//! **Cost.** A look is one `ListShards`, and for each shard a checkpoint and one `GetRecords` of one record (three at the
//! most), of the five a second that all readers of a shard share; none where it is known what comes next. There is a look only for a
//! notice that is due and not known to be settled, and none within [`LOOK_EVERY_MS`] of the last.
//!
//! **Clocks.** Arrivals are Kinesis's; "when it was asked" is this process's clock less [`CLOCK_SLACK_MS`].
//!
//! Not here: what a mapping's filter leaves out. Nobody commits it, and everything waits for it: use none.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use anabranch_stores::ErrorKind;
use anabranch_stream::Clock;
use anabranch_stream::notify::{Notice, Progress};
use anabranch_stream::ports::{Checkpoint, PortError, Position, ShardId, StateStore};

use super::backlog::expand;
use super::shards::starting_position;
use crate::api::{ApiErrorKind, KinesisApi, Shard, all_shards};

/// Looks are this far apart at least, in milliseconds.
pub const LOOK_EVERY_MS: u64 = 2_000;
/// Answers that one look waits for in a shard: the first seldom leaves a question.
const READS_A_LOOK: usize = 3;
/// How far this process's clock may be ahead of Kinesis's, in milliseconds.
pub const CLOCK_SLACK_MS: i64 = 1_000;

/// What is known of a shard whose checkpoint is at `after`.
#[derive(Debug)]
struct Look {
    after: Position,
    next: Next,
}

#[derive(Debug)]
enum Next {
    /// A record that arrived then: no need to ask again while the checkpoint stays.
    Record { arrival_ms: i64 },
    /// Nothing so far; the iterator goes on there. Without one the shard was closed and holds no more.
    Nothing { iterator: Option<String> },
    /// Not asked yet.
    Unknown,
}

/// The least that is read of any shard.
#[derive(Debug)]
pub struct Frontier {
    api: Arc<dyn KinesisApi>,
    state: Arc<dyn StateStore>,
    clock: Arc<dyn Clock>,
    looks: HashMap<ShardId, Look>,
    /// Shards that are read to their end; they stay so.
    ended: HashSet<ShardId>,
    looked_us: Option<u64>,
    /// Everything that arrived up to here is committed.
    settled_ms: i64,
}

impl Frontier {
    /// Of the stream that `api` speaks for and whose checkpoints `state` keeps.
    pub fn new(api: Arc<dyn KinesisApi>, state: Arc<dyn StateStore>, clock: Arc<dyn Clock>) -> Self {
        Self { api, state, clock, looks: HashMap::new(), ended: HashSet::new(), looked_us: None, settled_ms: i64::MIN }
    }

    /// Everything that arrived up to this time is committed, milliseconds since 1970, as far as the last look goes.
    pub const fn settled_ms(&self) -> i64 {
        self.settled_ms
    }

    fn look(&mut self) -> Result<(), PortError> {
        let asked_ms = self.clock.now_ms().saturating_sub(CLOCK_SLACK_MS);
        let shards = all_shards(&*self.api)?;
        let listed: HashSet<ShardId> = shards.iter().map(|shard| shard.id).collect();
        self.looks.retain(|shard, _| listed.contains(shard));
        self.ended.retain(|shard| listed.contains(shard));
        let mut settled_ms = asked_ms;
        for shard in &shards {
            settled_ms = settled_ms.min(self.ask(shard, asked_ms)?);
        }
        // A clock that stepped back makes nothing unread.
        self.settled_ms = self.settled_ms.max(settled_ms);
        Ok(())
    }

    /// Everything that arrived in the shard up to this time is committed.
    fn ask(&mut self, shard: &Shard, asked_ms: i64) -> Result<i64, PortError> {
        if self.ended.contains(&shard.id) {
            return Ok(i64::MAX);
        }
        let after = match self.state.checkpoint(shard.id)? {
            Checkpoint::ShardEnd(_) => {
                self.ended.insert(shard.id);
                self.looks.remove(&shard.id);
                return Ok(i64::MAX);
            }
            Checkpoint::After(after) => after,
        };
        let fresh = || Look { after, next: Next::Unknown };
        let look = self.looks.entry(shard.id).or_insert_with(fresh);
        if look.after != after {
            *look = fresh();
        }
        for _ in 0..READS_A_LOOK {
            let answer = match &look.next {
                Next::Record { arrival_ms } => return Ok(arrival_ms.saturating_sub(1)),
                Next::Nothing { iterator: None } => return Ok(asked_ms),
                Next::Nothing { iterator: Some(iterator) } => self.api.get_records(iterator, 1),
                Next::Unknown => self
                    .api
                    .get_shard_iterator(shard.id, starting_position(after))
                    .and_then(|iterator| self.api.get_records(&iterator, 1)),
            };
            let page = match answer {
                Ok(page) => page,
                Err(error) => {
                    look.next = Next::Unknown;
                    match error.kind {
                        // Nobody looked for five minutes.
                        ApiErrorKind::ExpiredIterator => continue,
                        // Kinesis forgot a closed shard, and with it whatever was not read.
                        ApiErrorKind::NotFound if shard.is_closed => return Ok(asked_ms),
                        // Unknown until the next look; who reads the shard comes first.
                        kind if kind.kind() == ErrorKind::Retry => return Ok(i64::MIN),
                        _ => return Err(error.into()),
                    }
                }
            };
            let is_caught_up = page.records.is_empty() && page.behind_ms == Some(0);
            // An aggregate of nothing is passed over without a commit.
            let unread = page.records.into_iter().find_map(|record| {
                let arrival_ms = record.arrival_ms;
                (!expand(record).is_empty()).then_some(arrival_ms)
            });
            look.next = match unread {
                Some(arrival_ms) => Next::Record { arrival_ms },
                None => Next::Nothing { iterator: page.next_iterator },
            };
            if is_caught_up {
                return Ok(asked_ms);
            }
        }
        // Empty pages that are not the newest: the next look goes on there.
        Ok(match look.next {
            Next::Record { arrival_ms } => arrival_ms.saturating_sub(1),
            Next::Nothing { iterator: None } => asked_ms,
            Next::Nothing { .. } | Next::Unknown => i64::MIN,
        })
    }
}

impl Progress for Frontier {
    fn is_settled(&mut self, notice: &Notice) -> Result<bool, PortError> {
        let now_us = self.clock.monotonic_us();
        let is_due = self.looked_us.is_none_or(|at_us| now_us.saturating_sub(at_us) >= LOOK_EVERY_MS * 1000);
        if self.settled_ms < notice.settled_ms && is_due {
            self.looked_us = Some(now_us);
            self.look()?;
        }
        Ok(self.settled_ms >= notice.settled_ms)
    }
}

#[cfg(test)]
mod tests;
