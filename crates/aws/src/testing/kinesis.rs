//! A Kinesis stream in memory that behaves as the real one does on its bad days.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anabranch_stores::backoff::Jitter;
use anabranch_stream::Clock;
use anabranch_stream::ports::{SequenceNumber, ShardId};
use md5::{Digest, Md5};

use super::{START_MS, SimClock};
use crate::api::{
    ApiError, ApiErrorKind, DataRecord, KinesisApi, Pushed, PutRecord, PutResult, READS_PER_SECOND, RecordsPage, Shard,
    ShardFilter, ShardPage, StartingPosition, StreamSummary, Subscription, SubscriptionEvent,
};

const FIVE_MINUTES_MS: i64 = 300_000;
const SUBSCRIBE_AGAIN_MS: i64 = 5_000;
const PAGE_BYTES_MAX: usize = 10 << 20;
const PUT_RECORDS_MAX: usize = 500;
const PUT_BYTES_MAX: usize = 10 << 20;
const RECORD_BYTES_MAX: usize = 1 << 20;
/// Small, so that listings have several pages.
const LIST_SHARDS_MAX: usize = 3;

/// How often what goes wrong, in calls (or records, or events) per thousand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Any call: `ProvisionedThroughputExceededException`.
    pub throttled: u64,
    /// Any call: a 5xx, before it has an effect.
    pub internal: u64,
    /// `GetRecords`: an iterator that expired early.
    pub expired: u64,
    /// `GetRecords` and subscriptions: nothing, though there are records.
    pub empty_pages: u64,
    /// `GetRecords` and subscriptions: fewer records than fit.
    pub short_pages: u64,
    /// `PutRecords`: a record fails inside a good answer.
    pub put_failed: u64,
    /// `PutRecords`: everything is stored and the answer is lost.
    pub answer_lost: u64,
    /// Subscriptions that end early.
    pub ended: u64,
    /// Subscriptions whose connection dies without a word.
    pub silent: u64,
}

impl Faults {
    /// All of them, often.
    pub const BAD_DAY: Self = Self {
        throttled: 100,
        internal: 100,
        expired: 100,
        empty_pages: 200,
        short_pages: 500,
        put_failed: 200,
        answer_lost: 0,
        ended: 100,
        silent: 20,
    };
}

/// A stream. Clones are the same stream.
#[derive(Clone, Debug)]
pub struct SimKinesis {
    clock: Arc<SimClock>,
    stream: Arc<Mutex<Stream>>,
}

#[derive(Debug)]
struct Stream {
    shards: BTreeMap<ShardId, SimShard>,
    next_shard: u64,
    next_number: u64,
    faults: Faults,
    random: Jitter,
    calls: BTreeMap<&'static str, u64>,
    struck: BTreeMap<&'static str, u64>,
    arrival_offset_ms: i64,
    reads_refused: u64,
    subscribed_from: Vec<StartingPosition>,
}

#[derive(Debug)]
struct SimShard {
    shard: Shard,
    records: Vec<DataRecord>,
    /// How many of them the retention took.
    trimmed: usize,
    /// When `GetRecords` was called within the last second.
    reads_ms: VecDeque<i64>,
    /// Number and start of the newest subscription.
    subscription: (u64, Option<i64>),
}

impl SimShard {
    fn new(id: ShardId, parents: &[ShardId], hash_keys: (u128, u128)) -> Self {
        let (parent, adjacent_parent) = (parents.first().copied(), parents.get(1).copied());
        Self {
            shard: Shard { id, parent, adjacent_parent, is_closed: false, hash_keys },
            records: Vec::new(),
            trimmed: 0,
            reads_ms: VecDeque::new(),
            subscription: (0, None),
        }
    }

    fn index(&self, from: StartingPosition) -> usize {
        let found = match from {
            StartingPosition::TrimHorizon => 0,
            StartingPosition::At(number) => self.records.partition_point(|record| record.number < number),
            StartingPosition::After(number) => self.records.partition_point(|record| record.number <= number),
        };
        found.max(self.trimmed)
    }
}

/// The `count`th sequence number of every simulated stream: 56 digits, as Kinesis's are.
pub fn sequence_number(count: u64) -> SequenceNumber {
    format!("4959033827149025660855969253836157109{count:019}").parse().unwrap()
}

impl SimKinesis {
    /// A stream of `shards` equal shards.
    pub fn new(shards: u64, clock: Arc<SimClock>, seed: u64) -> Self {
        let width = u128::MAX / u128::from(shards.max(1));
        let shards: BTreeMap<ShardId, SimShard> = (0..shards.max(1))
            .map(|number| {
                let first = width * u128::from(number);
                let last = if number + 1 == shards.max(1) { u128::MAX } else { first + width - 1 };
                (ShardId(number), SimShard::new(ShardId(number), &[], (first, last)))
            })
            .collect();
        let next_shard = shards.len() as u64;
        let stream = Stream {
            shards,
            next_shard,
            next_number: 1,
            faults: Faults::default(),
            random: Jitter::new(seed),
            calls: BTreeMap::new(),
            struck: BTreeMap::new(),
            arrival_offset_ms: 0,
            reads_refused: 0,
            subscribed_from: Vec::new(),
        };
        Self { clock, stream: Arc::new(Mutex::new(stream)) }
    }

    fn lock(&self) -> MutexGuard<'_, Stream> {
        self.stream.lock().unwrap()
    }

    /// From now on.
    pub fn set_faults(&self, faults: Faults) {
        self.lock().faults = faults;
    }

    /// Stores a record without faults; where.
    pub fn put(&self, partition_key: &str, data: &[u8]) -> (ShardId, SequenceNumber) {
        let mut stream = self.lock();
        let arrival_ms = stream.arrival_ms(self.clock.now_ms());
        stream.store(partition_key, data, arrival_ms)
    }

    /// What a shard holds, trimmed records too.
    pub fn records(&self, shard: ShardId) -> Vec<DataRecord> {
        self.lock().shards[&shard].records.clone()
    }

    /// The newest record of a shard, trimmed or not.
    pub fn newest(&self, shard: ShardId) -> Option<DataRecord> {
        self.lock().shards[&shard].records.last().cloned()
    }

    /// Ids of all shards, open and closed.
    pub fn shard_ids(&self) -> Vec<ShardId> {
        self.lock().shards.keys().copied().collect()
    }

    /// Splits an open shard in the middle; its children.
    pub fn split(&self, shard: ShardId) -> [ShardId; 2] {
        let mut stream = self.lock();
        let (first, last) = stream.close(shard);
        let middle = first + (last - first) / 2;
        [stream.open(&[shard], (first, middle)), stream.open(&[shard], (middle + 1, last))]
    }

    /// Merges two neighbours; their child.
    pub fn merge(&self, left: ShardId, right: ShardId) -> ShardId {
        let mut stream = self.lock();
        let (first, middle) = stream.close(left);
        let (next, last) = stream.close(right);
        assert_eq!(middle + 1, next, "only neighbours can be merged, the lower one first");
        stream.open(&[left, right], (first, last))
    }

    /// The retention takes the oldest `count` records of a shard.
    pub fn trim(&self, shard: ShardId, count: usize) {
        let mut stream = self.lock();
        let shard = stream.shards.get_mut(&shard).unwrap();
        shard.trimmed = (shard.trimmed + count).min(shard.records.len());
    }

    /// The retention takes a closed shard.
    pub fn remove(&self, shard: ShardId) {
        let removed = self.lock().shards.remove(&shard).unwrap();
        assert!(removed.shard.is_closed, "only closed shards go away");
    }

    /// From now on records arrive by a clock that is so far off: arrival times are approximate and step back, too.
    pub fn set_arrival_offset_ms(&self, offset_ms: i64) {
        self.lock().arrival_offset_ms = offset_ms;
    }

    /// How many of a shard's records the retention took.
    pub fn trimmed(&self, shard: ShardId) -> usize {
        self.lock().shards[&shard].trimmed
    }

    /// How often each fault struck.
    pub fn struck(&self) -> BTreeMap<&'static str, u64> {
        self.lock().struck.clone()
    }

    /// All shards as a listing without faults tells.
    pub fn shards(&self) -> Vec<Shard> {
        self.lock().shards.values().map(|shard| shard.shard.clone()).collect()
    }

    /// How often an operation was called.
    pub fn calls(&self, operation: &str) -> u64 {
        self.lock().calls.get(operation).copied().unwrap_or(0)
    }

    /// Where the subscriptions that were granted began.
    pub fn subscribed_from(&self) -> Vec<StartingPosition> {
        self.lock().subscribed_from.clone()
    }

    /// Calls of `GetRecords` beyond five a second.
    pub fn reads_refused(&self) -> u64 {
        self.lock().reads_refused
    }
}

impl Stream {
    fn strikes(&mut self, fault: &'static str, permille: u64) -> bool {
        let strikes = self.random.below(1000) < permille;
        if strikes {
            *self.struck.entry(fault).or_default() += 1;
        }
        strikes
    }

    fn arrival_ms(&self, now_ms: i64) -> i64 {
        now_ms + self.arrival_offset_ms
    }

    fn error(kind: ApiErrorKind, operation: &'static str, code: &str) -> ApiError {
        ApiError::new(kind, operation, "the simulated stream", code)
    }

    /// Counts a call and lets it fail as the faults say.
    fn call(&mut self, operation: &'static str) -> Result<(), ApiError> {
        *self.calls.entry(operation).or_default() += 1;
        if self.strikes("throttled", self.faults.throttled) {
            let code = "ProvisionedThroughputExceededException";
            return Err(Self::error(ApiErrorKind::Throttled, operation, code));
        }
        if self.strikes("internal failure", self.faults.internal) {
            return Err(Self::error(ApiErrorKind::Retry, operation, "InternalFailure"));
        }
        Ok(())
    }

    fn shard(&mut self, id: ShardId, operation: &'static str) -> Result<&mut SimShard, ApiError> {
        let missing = || Self::error(ApiErrorKind::NotFound, operation, "ResourceNotFoundException");
        self.shards.get_mut(&id).ok_or_else(missing)
    }

    fn store(&mut self, partition_key: &str, data: &[u8], arrival_ms: i64) -> (ShardId, SequenceNumber) {
        let hash = u128::from_be_bytes(Md5::digest(partition_key.as_bytes()).into());
        let number = sequence_number(self.next_number);
        self.next_number += 1;
        let shard = self
            .shards
            .values_mut()
            .find(|shard| !shard.shard.is_closed && (shard.shard.hash_keys.0..=shard.shard.hash_keys.1).contains(&hash))
            .unwrap();
        let (partition_key, data) = (partition_key.to_owned(), data.to_vec());
        shard.records.push(DataRecord { number, arrival_ms, partition_key, data });
        (shard.shard.id, number)
    }

    fn close(&mut self, shard: ShardId) -> (u128, u128) {
        let shard = &mut self.shards.get_mut(&shard).unwrap().shard;
        assert!(!shard.is_closed, "{} is closed", shard.id);
        shard.is_closed = true;
        shard.hash_keys
    }

    fn open(&mut self, parents: &[ShardId], hash_keys: (u128, u128)) -> ShardId {
        let id = ShardId(self.next_shard);
        self.next_shard += 1;
        self.shards.insert(id, SimShard::new(id, parents, hash_keys));
        id
    }

    /// Records of a shard from `index`, as many as the faults let through; where to go on.
    fn page(&mut self, id: ShardId, index: usize, limit: usize) -> (Vec<DataRecord>, usize) {
        let limit = if self.strikes("empty page", self.faults.empty_pages) {
            0
        } else if self.strikes("short page", self.faults.short_pages) {
            1 + self.random.below(3) as usize
        } else {
            limit
        };
        let shard = &self.shards[&id];
        let index = index.max(shard.trimmed).min(shard.records.len());
        let mut bytes = 0;
        let records: Vec<DataRecord> = shard.records[index..]
            .iter()
            .take(limit)
            .take_while(|record| {
                bytes += record.data.len() + record.partition_key.len();
                bytes <= PAGE_BYTES_MAX
            })
            .cloned()
            .collect();
        let next = index + records.len();
        (records, next)
    }

    /// Whether a shard is closed and read up to `index`, and how far a reader at `index` is behind.
    fn rest(&self, id: ShardId, index: usize, now_ms: i64) -> (bool, u64) {
        let shard = &self.shards[&id];
        // Zero says that nothing newer is there, so whatever its clock said, a record that waits is at least 1 ms old.
        let behind_ms = shard.records.get(index).map_or(0, |next| now_ms.saturating_sub(next.arrival_ms).max(1) as u64);
        (shard.shard.is_closed && index >= shard.records.len(), behind_ms)
    }
}

impl KinesisApi for SimKinesis {
    fn describe(&self) -> Result<StreamSummary, ApiError> {
        self.lock().call("DescribeStreamSummary")?;
        let arn = "arn:aws:kinesis:eu-west-1:123456789012:stream/clicks".to_owned();
        Ok(StreamSummary { arn, created_ms: START_MS, retention_hours: 24 })
    }

    /// A token says where to go on, and of which listing.
    fn list_shards(&self, filter: Option<ShardFilter>, next_token: Option<&str>) -> Result<ShardPage, ApiError> {
        let mut stream = self.lock();
        stream.call("ListShards")?;
        let (from, is_filtered) = match next_token.map(|token| token.split_once(' ').unwrap()) {
            Some((from, is_filtered)) => (from.parse().unwrap(), is_filtered.parse().unwrap()),
            None => (0, filter == Some(ShardFilter::AtTrimHorizon)),
        };
        // Nothing of a shard expires before everything of its parents has.
        let at_horizon = |shard: &&SimShard| {
            shard.trimmed > 0 || shard.shard.parents().all(|parent| !stream.shards.contains_key(&parent))
        };
        let all: Vec<Shard> = stream
            .shards
            .values()
            .filter(|shard| !is_filtered || at_horizon(shard))
            .map(|shard| shard.shard.clone())
            .collect();
        let next = (from + LIST_SHARDS_MAX).min(all.len());
        let next_token = (next < all.len()).then(|| format!("{next} {is_filtered}"));
        Ok(ShardPage { shards: all[from.min(next)..next].to_vec(), next_token })
    }

    fn get_shard_iterator(&self, shard: ShardId, from: StartingPosition) -> Result<String, ApiError> {
        let mut stream = self.lock();
        stream.call("GetShardIterator")?;
        let index = stream.shard(shard, "GetShardIterator")?.index(from);
        Ok(format!("{} {index} {}", shard.0, self.clock.now_ms()))
    }

    fn get_records(&self, iterator: &str, limit: u32) -> Result<RecordsPage, ApiError> {
        let operation = "GetRecords";
        let mut parts = iterator.split(' ');
        let id = ShardId(parts.next().unwrap().parse().unwrap());
        let index: usize = parts.next().unwrap().parse().unwrap();
        let made_ms: i64 = parts.next().unwrap().parse().unwrap();
        let now_ms = self.clock.now_ms();
        let mut stream = self.lock();
        stream.call(operation)?;
        let shard = stream.shard(id, operation)?;
        shard.reads_ms.retain(|&read_ms| read_ms > now_ms - 1000);
        if shard.reads_ms.len() as u64 >= READS_PER_SECOND {
            stream.reads_refused += 1;
            let code = "ProvisionedThroughputExceededException";
            return Err(Stream::error(ApiErrorKind::Throttled, operation, code));
        }
        shard.reads_ms.push_back(now_ms);
        let rate = stream.faults.expired;
        if now_ms - made_ms > FIVE_MINUTES_MS || stream.strikes("expired iterator", rate) {
            return Err(Stream::error(ApiErrorKind::ExpiredIterator, operation, "ExpiredIteratorException"));
        }
        let (records, next) = stream.page(id, index, limit as usize);
        let (is_end, behind_ms) = stream.rest(id, next, now_ms);
        // The end comes with the last records or alone after them.
        let next_iterator = if is_end && (records.is_empty() || stream.random.below(2) == 0) {
            None
        } else {
            Some(format!("{} {next} {now_ms}", id.0))
        };
        Ok(RecordsPage { records, next_iterator, behind_ms: Some(behind_ms) })
    }

    fn subscribe_to_shard(&self, shard: ShardId, from: StartingPosition) -> Result<Box<dyn Subscription>, ApiError> {
        let operation = "SubscribeToShard";
        let now_ms = self.clock.now_ms();
        let mut stream = self.lock();
        stream.call(operation)?;
        let found = stream.shard(shard, operation)?;
        if found.subscription.1.is_some_and(|started_ms| now_ms - started_ms < SUBSCRIBE_AGAIN_MS) {
            return Err(Stream::error(ApiErrorKind::InUse, operation, "ResourceInUseException"));
        }
        found.subscription = (found.subscription.0 + 1, Some(now_ms));
        let (number, index) = (found.subscription.0, found.index(from));
        stream.subscribed_from.push(from);
        Ok(Box::new(SimSubscription {
            kinesis: self.clone(),
            shard,
            number,
            index,
            started_ms: now_ms,
            is_done: false,
            is_silent: false,
        }))
    }

    fn put_records(&self, records: &[PutRecord]) -> Result<Vec<PutResult>, ApiError> {
        let operation = "PutRecords";
        let mut stream = self.lock();
        stream.call(operation)?;
        let bytes: Vec<usize> = records.iter().map(|record| record.partition_key.len() + record.data.len()).collect();
        if records.is_empty()
            || records.len() > PUT_RECORDS_MAX
            || bytes.iter().sum::<usize>() > PUT_BYTES_MAX
            || bytes.iter().any(|&bytes| bytes > RECORD_BYTES_MAX)
            || records
                .iter()
                .any(|record| record.partition_key.is_empty() || record.partition_key.chars().count() > 256)
        {
            return Err(Stream::error(ApiErrorKind::FixInput, operation, "InvalidArgumentException"));
        }
        // No order is promised within a call.
        let mut order: Vec<usize> = (0..records.len()).collect();
        for last in (1..order.len()).rev() {
            let other = stream.random.below(last as u64 + 1) as usize;
            order.swap(last, other);
        }
        let failed =
            PutResult::Failed { code: "InternalFailure".to_owned(), message: "Internal service failure.".to_owned() };
        let mut results = vec![failed; records.len()];
        for index in order {
            let rate = stream.faults.put_failed;
            if !stream.strikes("failed record", rate) {
                let record = &records[index];
                let arrival_ms = stream.arrival_ms(self.clock.now_ms());
                let (shard, number) = stream.store(&record.partition_key, &record.data, arrival_ms);
                results[index] = PutResult::Stored { shard, number };
            }
        }
        let rate = stream.faults.answer_lost;
        if stream.strikes("lost answer of PutRecords", rate) {
            return Err(Stream::error(ApiErrorKind::Retry, operation, "the connection was lost"));
        }
        Ok(results)
    }
}

#[derive(Debug)]
struct SimSubscription {
    kinesis: SimKinesis,
    shard: ShardId,
    number: u64,
    index: usize,
    started_ms: i64,
    is_done: bool,
    /// The connection died, and nobody says so.
    is_silent: bool,
}

impl Subscription for SimSubscription {
    fn next(&mut self, wait: Duration) -> Result<Pushed, ApiError> {
        let operation = "SubscribeToShard";
        let now_ms = self.kinesis.clock.now_ms();
        let mut stream = self.kinesis.lock();
        let rate = stream.faults.silent;
        self.is_silent |= stream.strikes("silent subscription", rate);
        if self.is_silent {
            drop(stream);
            self.kinesis.clock.advance_ms(wait.as_millis() as u64);
            return Ok(Pushed::Nothing);
        }
        let rate = stream.faults.ended;
        if self.is_done
            || now_ms - self.started_ms >= FIVE_MINUTES_MS
            || stream.strikes("subscription ended early", rate)
        {
            self.is_done = true;
            return Ok(Pushed::Ended);
        }
        if stream.shard(self.shard, operation)?.subscription.0 != self.number {
            return Err(Stream::error(ApiErrorKind::InUse, operation, "ResourceInUseException"));
        }
        let rate = stream.faults.internal;
        if stream.strikes("internal failure", rate) {
            return Err(Stream::error(ApiErrorKind::Retry, operation, "InternalFailure"));
        }
        let (records, next) = stream.page(self.shard, self.index, 10_000);
        let (is_end_of_shard, behind_ms) = stream.rest(self.shard, next, now_ms);
        if records.is_empty() && !is_end_of_shard && stream.random.below(2) == 0 {
            drop(stream);
            self.kinesis.clock.advance_ms(wait.as_millis() as u64);
            return Ok(Pushed::Nothing);
        }
        self.index = next;
        self.is_done = is_end_of_shard;
        // It goes on while nothing is put here: up to the stream's newest record once this shard is read.
        let records_here = &stream.shards[&self.shard].records;
        let continuation = match records_here[..next].last() {
            Some(record) if next < records_here.len() => record.number,
            None if next < records_here.len() => sequence_number(0),
            _ => sequence_number(stream.next_number - 1),
        };
        Ok(Pushed::Event(SubscriptionEvent {
            records,
            continuation: (!is_end_of_shard).then_some(continuation),
            behind_ms: Some(behind_ms),
            is_end_of_shard,
            is_fresh: true,
        }))
    }
}
