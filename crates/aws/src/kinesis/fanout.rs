//! A shard by enhanced fan-out: Kinesis pushes records over `SubscribeToShard`, 2 MB/s for this consumer alone.
//!
//! The same promises as by polling ([`super::reader`]). A subscription lasts five minutes; the next one begins after its
//! last continuation sequence number. A subscription that another one took over (`ResourceInUse`) is tried again with
//! back-off: leases may be wrong for a while. An event that names child shards is the shard's last. Events are taken only
//! when everything before them was handed out, so Kinesis is slowed down by a slow worker, and memory stays within one
//! event of ours and a few of the connection's.

use std::sync::Arc;
use std::time::Duration;

use anabranch_stores::backoff::Patience;
use anabranch_stream::Clock;
use anabranch_stream::ports::{Page, PortError, Position, SequenceNumber, ShardId, ShardReader};

use super::backlog::Backlog;
use super::reader::{Pace, behind_ms};
use super::shards::starting_position;
use crate::api::{ApiError, KinesisApi, Pushed, StartingPosition, Subscription};

/// Kinesis refuses a second subscription of a consumer to a shard within five seconds of the first.
const SUBSCRIBE_INTERVAL_US: u64 = 5_000_000;

/// How a subscription is listened to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FanOutSettings {
    /// How long a read waits for an event, milliseconds: a worker that cuts by time must come by now and then.
    pub wait_ms: u64,
}

impl Default for FanOutSettings {
    fn default() -> Self {
        Self { wait_ms: 100 }
    }
}

/// Reads one shard with `SubscribeToShard`.
#[derive(Debug)]
pub struct FanOutReader {
    api: Arc<dyn KinesisApi>,
    shard: ShardId,
    wait: Duration,
    pace: Pace,
    backlog: Backlog,
    source: Source,
    /// Everything up to here was pushed; beyond the backlog's position where no records came.
    continuation: Option<SequenceNumber>,
    behind_ms: Option<u64>,
}

#[derive(Debug)]
enum Source {
    None,
    Subscribed(Box<dyn Subscription>),
    /// Child shards were named.
    EndOfShard,
}

impl FanOutReader {
    /// For `shard` of the stream, and as the registered consumer, that `api` speaks for.
    pub fn new(
        api: Arc<dyn KinesisApi>,
        shard: ShardId,
        settings: FanOutSettings,
        clock: Arc<dyn Clock>,
        patience: Patience,
    ) -> Self {
        Self {
            api,
            shard,
            wait: Duration::from_millis(settings.wait_ms),
            pace: Pace::new(clock, patience),
            backlog: Backlog::new(Position::START),
            source: Source::None,
            continuation: None,
            behind_ms: None,
        }
    }

    /// Whether Kinesis may be asked now: a subscription may always, a new one not too soon.
    fn may_receive(&self) -> Result<bool, ApiError> {
        match self.source {
            Source::None => self.pace.may_call(),
            Source::Subscribed(_) => Ok(true),
            Source::EndOfShard => Ok(false),
        }
    }

    /// Takes the next event, subscribing first if need be. The backlog is empty. Whether there was one.
    fn receive(&mut self) -> Result<bool, ApiError> {
        if matches!(self.source, Source::None) {
            let from = self.starting_position();
            self.pace.hold(SUBSCRIBE_INTERVAL_US);
            self.source = Source::Subscribed(self.api.subscribe_to_shard(self.shard, from)?);
        }
        let Source::Subscribed(subscription) = &mut self.source else { return Ok(false) };
        match subscription.next(self.wait)? {
            Pushed::Nothing => {}
            Pushed::Ended => self.source = Source::None,
            Pushed::Event(event) => {
                self.pace.succeeded();
                self.backlog.push(event.records);
                self.behind_ms = event.behind_ms;
                // Without one the next subscription begins after the last record.
                self.continuation = event.continuation;
                if event.is_end_of_shard {
                    self.source = Source::EndOfShard;
                }
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn starting_position(&self) -> StartingPosition {
        let position = self.backlog.position();
        match self.continuation {
            Some(number) if Position::whole(number) > position => StartingPosition::After(number),
            _ => starting_position(position),
        }
    }
}

impl ShardReader for FanOutReader {
    fn read_after(&mut self, after: Position, records_max: usize, bytes_max: usize) -> Result<Page, PortError> {
        if !self.backlog.continues(after) {
            self.backlog = Backlog::new(after);
            self.source = Source::None;
            self.continuation = None;
        }
        let mut is_news = false;
        // Waiting is no new failure, or a worker that comes by often would wait for ever.
        if self.backlog.is_empty() && self.may_receive().map_err(PortError::from)? {
            is_news = match self.receive() {
                Ok(is_news) => is_news,
                Err(error) => {
                    self.source = Source::None;
                    return Err(self.pace.failed(error));
                }
            };
        }
        let page = self.backlog.page(records_max, bytes_max);
        let is_end_of_shard = matches!(self.source, Source::EndOfShard) && self.backlog.is_empty();
        Ok(Page { behind_ms: behind_ms(self.behind_ms, is_news), is_end_of_shard, ..page })
    }
}

#[cfg(test)]
mod tests;
