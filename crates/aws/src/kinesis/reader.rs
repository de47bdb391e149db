//! A shard by polling: `GetShardIterator`, then `GetRecords` again and again.
//!
//! It resumes *after* the last whole record and only inside an aggregate *at* it, from the oldest record where nothing
//! was read. An expired iterator is made anew from the last position; an empty page is not the end of the shard, a null
//! `NextShardIterator` is; what was fetched is handed out in parts and not fetched again. It never sleeps: a call that
//! comes before the shard may be asked again gets an empty page, and one that comes while it backs off gets the error
//! that made it do so ([`anabranch_stores::ErrorKind::Retry`]).

use std::sync::Arc;

use anabranch_stores::backoff::Patience;
use anabranch_stream::Clock;
use anabranch_stream::ports::{Page, PortError, Position, ShardId, ShardReader, is_oldest_beyond};

use super::backlog::Backlog;
use super::shards::starting_position;
use crate::api::{ApiError, ApiErrorKind, GET_RECORDS_MAX, KinesisApi, READS_PER_SECOND, shards_at_trim_horizon};

/// How often a shard is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PollSettings {
    /// `GetRecords` a second, at most [`READS_PER_SECOND`], which all readers of a shard share: a Firehose on the
    /// same stream takes one, so the default leaves one.
    pub reads_per_second: u64,
}

impl Default for PollSettings {
    fn default() -> Self {
        Self { reads_per_second: READS_PER_SECOND - 1 }
    }
}

/// When a shard may be asked again.
#[derive(Debug)]
pub(super) struct Pace {
    clock: Arc<dyn Clock>,
    patience: Patience,
    not_before_us: u64,
    failure: Option<ApiError>,
    failures: u32,
}

impl Pace {
    pub(super) fn new(clock: Arc<dyn Clock>, patience: Patience) -> Self {
        Self { clock, patience, not_before_us: 0, failure: None, failures: 0 }
    }

    /// Whether a call may be made; while backing off, why not.
    pub(super) fn may_call(&self) -> Result<bool, ApiError> {
        let is_early = self.clock.monotonic_us() < self.not_before_us;
        match &self.failure {
            Some(error) if is_early => Err(error.clone()),
            _ => Ok(!is_early),
        }
    }

    /// No call for `interval_us`.
    pub(super) fn hold(&mut self, interval_us: u64) {
        self.not_before_us = self.not_before_us.max(self.clock.monotonic_us().saturating_add(interval_us));
    }

    pub(super) fn succeeded(&mut self) {
        (self.failure, self.failures) = (None, 0);
    }

    /// Backs off if the error may pass; gives it back.
    pub(super) fn failed(&mut self, error: ApiError) -> PortError {
        if error.kind.kind() == anabranch_stores::ErrorKind::Retry {
            self.failures = self.failures.saturating_add(1);
            self.hold(self.patience.wait_ms(self.failures).saturating_mul(1000));
            self.failure = Some(error.clone());
        }
        error.into()
    }
}

/// Reads one shard with `GetRecords`.
#[derive(Debug)]
pub struct PollingReader {
    api: Arc<dyn KinesisApi>,
    shard: ShardId,
    interval_us: u64,
    pace: Pace,
    backlog: Backlog,
    next: Next,
    behind_ms: Option<u64>,
}

/// Where the next `GetRecords` begins.
#[derive(Debug)]
enum Next {
    /// After everything that was fetched: an iterator must be made.
    Unknown,
    Iterator(String),
    /// Kinesis gave a null iterator.
    EndOfShard,
}

impl PollingReader {
    /// For `shard` of the stream that `api` speaks for. The waits of `patience` are kept by `clock`; its pause and its
    /// number of attempts are not used, since the worker comes back by itself.
    pub fn new(
        api: Arc<dyn KinesisApi>,
        shard: ShardId,
        settings: PollSettings,
        clock: Arc<dyn Clock>,
        patience: Patience,
    ) -> Self {
        Self {
            api,
            shard,
            interval_us: 1_000_000 / settings.reads_per_second.clamp(1, READS_PER_SECOND),
            pace: Pace::new(clock, patience),
            backlog: Backlog::new(Position::START),
            next: Next::Unknown,
            behind_ms: None,
        }
    }

    /// Asks Kinesis once. The backlog is empty, so the position is where everything fetched ended. Whether it answered.
    fn fetch(&mut self) -> Result<bool, ApiError> {
        self.pace.hold(self.interval_us);
        let iterator = match &self.next {
            Next::EndOfShard => return Ok(false),
            Next::Iterator(iterator) => iterator.clone(),
            Next::Unknown => self.api.get_shard_iterator(self.shard, starting_position(self.backlog.position()))?,
        };
        match self.api.get_records(&iterator, GET_RECORDS_MAX) {
            Ok(page) => {
                self.backlog.push(page.records);
                self.behind_ms = page.behind_ms;
                self.next = page.next_iterator.map_or(Next::EndOfShard, Next::Iterator);
                Ok(true)
            }
            // No failure: the worker was busy for five minutes. The next call makes a new iterator.
            Err(error) if error.kind == ApiErrorKind::ExpiredIterator && matches!(self.next, Next::Iterator(_)) => {
                tracing::debug!(shard = %self.shard, "the iterator expired");
                self.next = Next::Unknown;
                Ok(false)
            }
            Err(error) => {
                // The iterator that was just made is good for the next attempt.
                self.next =
                    if error.kind == ApiErrorKind::ExpiredIterator { Next::Unknown } else { Next::Iterator(iterator) };
                Err(error)
            }
        }
    }
}

/// What a page says of its distance to the newest record. Only an answer of Kinesis in this very call (`is_news`) may say
/// that nothing is there: what an earlier one said was of an earlier time, and perhaps of another place, and a worker
/// that believes an empty page takes what it looked for as expired.
pub(super) fn behind_ms(known: Option<u64>, is_news: bool) -> Option<u64> {
    if is_news { known } else { Some(known.unwrap_or_default().max(1)) }
}

/// Whether records of `shard` after `after` may be gone. A shard that began after the trim horizon lost none: so the
/// children of a split, which nobody has read yet, cost one listing of shards and not one of everything delivered. (If a
/// stream's retention was made longer since, its horizon may lie before what the shorter one took; that matters only to a
/// shard that lost its checkpoint at that time.)
pub(super) fn may_lack_after<R: ShardReader>(
    api: &dyn KinesisApi,
    shard: ShardId,
    reader: &mut R,
    after: Position,
) -> Result<bool, PortError> {
    if after == Position::START && shards_at_trim_horizon(api)?.iter().all(|at_horizon| at_horizon.id != shard) {
        return Ok(false);
    }
    is_oldest_beyond(reader, after)
}

impl ShardReader for PollingReader {
    fn read_after(&mut self, after: Position, records_max: usize, bytes_max: usize) -> Result<Page, PortError> {
        if !self.backlog.continues(after) {
            self.backlog = Backlog::new(after);
            self.next = Next::Unknown;
        }
        let mut is_news = false;
        if self.backlog.is_empty()
            && !matches!(self.next, Next::EndOfShard)
            && self.pace.may_call().map_err(PortError::from)?
        {
            is_news = self.fetch().map_err(|error| self.pace.failed(error))?;
            self.pace.succeeded();
        }
        let page = self.backlog.page(records_max, bytes_max);
        let is_end_of_shard = matches!(self.next, Next::EndOfShard) && self.backlog.is_empty();
        Ok(Page { behind_ms: behind_ms(self.behind_ms, is_news), is_end_of_shard, ..page })
    }

    fn may_lack_after(&mut self, after: Position) -> Result<bool, PortError> {
        may_lack_after(&*Arc::clone(&self.api), self.shard, self, after)
    }
}

#[cfg(test)]
mod tests;
