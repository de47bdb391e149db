//! A shard by enhanced fan-out: Kinesis pushes records over `SubscribeToShard`, 2 MB/s for this consumer alone.
//!
//! The same promises as by polling ([`super::reader`]). A subscription lasts five minutes; the next one begins after its
//! last continuation sequence number. A subscription that another one took over (`ResourceInUse`) is tried again with
//! back-off: leases may be wrong for a while. An event that names child shards is the shard's last. Events are taken only
//! when everything before them was handed out, so Kinesis is slowed down by a slow worker, and memory stays within one
//! event of ours and a few of the connection's.
//!
//! Kinesis pushes an event every few seconds even where there is nothing to say. So a subscription that is silent for
//! longer has lost its connection without a word, and another one is begun; and one that nobody listened to for a while may
//! hold events that tell of a time long past, and another one is begun before it is believed.

use std::sync::Arc;
use std::time::Duration;

use anabranch_stores::backoff::Patience;
use anabranch_stream::Clock;
use anabranch_stream::ports::{Page, PortError, Position, SequenceNumber, ShardId, ShardReader};

use super::backlog::Backlog;
use super::reader::{Pace, behind_ms, may_lack_after};
use super::shards::starting_position;
use crate::api::{ApiError, KinesisApi, Pushed, StartingPosition, Subscription};

/// Kinesis refuses a second subscription of a consumer to a shard within five seconds of the first.
const SUBSCRIBE_INTERVAL_US: u64 = 5_000_000;
/// A subscription that says nothing for so long is dead. The Kinesis Client Library waits as long.
const SILENCE_MS: u64 = 35_000;
/// What lay unread for so long (a worker that waited for its sink, a machine that was suspended) is not listened to any more.
const UNHEARD_MS: u64 = 10_000;

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
    clock: Arc<dyn Clock>,
    pace: Pace,
    backlog: Backlog,
    source: Source,
    /// Everything up to here was pushed; beyond the backlog's position where no records came.
    continuation: Option<SequenceNumber>,
    behind_ms: Option<u64>,
    /// The subscription's last sign of life.
    heard: Moment,
    /// When it was listened to last.
    listened: Moment,
    /// The call before listened, and was not answered from the backlog.
    is_listening: bool,
}

/// A moment by both clocks: the monotonic one may stand still while the machine is suspended, the other one may step.
#[derive(Clone, Copy, Debug)]
struct Moment {
    wall_ms: i64,
    monotonic_us: u64,
}

impl Moment {
    fn now(clock: &dyn Clock) -> Self {
        Self { wall_ms: clock.now_ms(), monotonic_us: clock.monotonic_us() }
    }

    /// How long after `earlier` this is, by the clock that says more.
    fn since_ms(self, earlier: Self) -> u64 {
        let wall_ms = u64::try_from(self.wall_ms.saturating_sub(earlier.wall_ms)).unwrap_or(0);
        wall_ms.max(self.monotonic_us.saturating_sub(earlier.monotonic_us) / 1000)
    }
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
        let now = Moment::now(&*clock);
        Self {
            api,
            shard,
            wait: Duration::from_millis(settings.wait_ms),
            heard: now,
            listened: now,
            is_listening: false,
            pace: Pace::new(Arc::clone(&clock), patience),
            clock,
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

    /// Lets a subscription go that was not listened to for long, or that says nothing any more.
    fn let_go_of_the_dead(&mut self) {
        let now = Moment::now(&*self.clock);
        if let Source::Subscribed(_) = self.source
            && (now.since_ms(self.listened) >= UNHEARD_MS || now.since_ms(self.heard) >= SILENCE_MS)
        {
            self.source = Source::None;
        }
    }

    /// Takes the next event, subscribing first if need be. The backlog is empty. Whether one came since the call before.
    fn receive(&mut self) -> Result<bool, ApiError> {
        if matches!(self.source, Source::None) {
            let from = self.starting_position();
            self.pace.hold(SUBSCRIBE_INTERVAL_US);
            self.source = Source::Subscribed(self.api.subscribe_to_shard(self.shard, from)?);
            let now = Moment::now(&*self.clock);
            (self.heard, self.listened) = (now, now);
        }
        let Source::Subscribed(subscription) = &mut self.source else { return Ok(false) };
        let pushed = subscription.next(self.wait)?;
        self.listened = Moment::now(&*self.clock);
        match pushed {
            Pushed::Nothing => {}
            Pushed::Ended => self.source = Source::None,
            Pushed::Event(event) => {
                self.pace.succeeded();
                self.heard = self.listened;
                self.backlog.push(event.records);
                self.behind_ms = event.behind_ms;
                // Without one the next subscription begins after the last record.
                self.continuation = event.continuation;
                if event.is_end_of_shard {
                    self.source = Source::EndOfShard;
                }
                return Ok(event.is_fresh);
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
        if self.backlog.is_empty() {
            self.let_go_of_the_dead();
        }
        let mut is_news = false;
        let was_listening = std::mem::replace(&mut self.is_listening, false) || matches!(self.source, Source::None);
        // Waiting is no new failure, or a worker that comes by often would wait for ever.
        if self.backlog.is_empty() && self.may_receive().map_err(PortError::from)? {
            self.is_listening = true;
            is_news = match self.receive() {
                Ok(is_fresh) => is_fresh && was_listening,
                Err(error) => {
                    self.source = Source::None;
                    return Err(self.pace.failed(error));
                }
            };
        }
        let page = self.backlog.page(records_max, bytes_max);
        let is_end_of_shard = matches!(self.source, Source::EndOfShard) && self.backlog.is_empty();
        Ok(Page { behind_ms: behind_ms(self.behind_ms, is_news), is_end_of_shard, is_pushed: true, ..page })
    }

    fn may_lack_after(&mut self, after: Position) -> Result<bool, PortError> {
        may_lack_after(&*Arc::clone(&self.api), self.shard, self, after)
    }
}

#[cfg(test)]
mod tests;
