//! What the threads of one stream share: the state, the sink, the current model, each shard's uncommitted histories,
//! health and totals. Locks are held for short, named reasons and always taken in the order of the fields below.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use anabranch_events::history::effective;
use anabranch_events::{EventTypes, History, HistoryKey};
use anabranch_models::Model;
use anabranch_stores::lake::ObjectStore;
use anabranch_stores::state::commit::Held;
use anabranch_stores::state::{State, StateError};
use serde::Serialize;

use crate::clock::Clock;
use crate::object::Counts;
use crate::settings::StreamSettings;
use crate::transform::Histories;

/// Receipt times kept for the latency histogram; beyond this a backlog is replayed and latency means nothing.
const RECEIPTS_MAX: usize = 100_000;

/// What all threads of a stream share.
#[derive(Debug)]
pub struct Shared {
    /// Log, histories, checkpoints.
    pub state: Arc<State>,
    /// Where objects go.
    pub sink: Arc<dyn ObjectStore>,
    /// Settings under which histories are folded.
    pub types: EventTypes,
    /// The `[stream]` settings.
    pub settings: StreamSettings,
    /// Namespace of ids and folders: the stream's name and creation time, or a backfill's run id.
    pub namespace: String,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Workers hold it for reading while they change histories; erasing holds it for writing.
    gate: RwLock<()>,
    model: RwLock<Arc<Model>>,
    shards: Vec<ShardShared>,
    health: Mutex<Health>,
    latency: Mutex<Latency>,
    stop: AtomicBool,
}

#[derive(Debug, Default)]
struct ShardShared {
    /// Histories changed since the last cut.
    dirty: Mutex<HashMap<HistoryKey, Held>>,
    status: Mutex<ShardStatus>,
    /// When records were received, by the monotonic clock, until their lists are readable.
    receipts: Mutex<VecDeque<(u64, u64)>>,
    /// Newest sequence number appended, and a bell for the worker.
    newest: Mutex<u64>,
    bell: Condvar,
}

/// Where a shard stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ShardStatus {
    /// Everything up to here is delivered and committed.
    pub committed: u64,
    /// Everything up to here is processed and served from memory.
    pub processed: u64,
    /// Newest record in the log.
    pub newest: u64,
    /// Counts of committed cuts since the start of the process.
    pub counts: Counts,
    /// Objects written since the start of the process.
    pub objects: u64,
    /// Why the shard waits, if it does.
    pub stalled: Option<String>,
}

/// Why the stream takes no input, by reason; empty when it does.
#[derive(Clone, Debug, Default)]
struct Health {
    reasons: std::collections::BTreeMap<&'static str, String>,
}

/// Times from receipt to list, in microseconds: power-of-two buckets split in eight, so a quantile errs by less than
/// a tenth.
#[derive(Clone, Debug)]
pub struct Latency {
    buckets: Vec<u64>,
    count: u64,
    sum_us: u64,
}

const SUBBUCKETS: usize = 8;

impl Default for Latency {
    fn default() -> Self {
        Self { buckets: vec![0; 64 * SUBBUCKETS], count: 0, sum_us: 0 }
    }
}

impl Latency {
    /// Adds one time.
    pub fn record(&mut self, us: u64) {
        let us = us.max(SUBBUCKETS as u64);
        let exponent = us.ilog2() as usize;
        let sub = ((us >> (exponent - 3)) as usize) & (SUBBUCKETS - 1);
        self.buckets[exponent * SUBBUCKETS + sub] += 1;
        self.count += 1;
        self.sum_us += us;
    }

    /// Number of times recorded.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Sum of all times, in microseconds.
    pub const fn sum_us(&self) -> u64 {
        self.sum_us
    }

    /// The upper end of the bucket that holds quantile `q`, in microseconds; 0 if nothing was recorded.
    pub fn quantile_us(&self, q: f64) -> u64 {
        let wanted = (q * self.count as f64).ceil() as u64;
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted && *count > 0 {
                let (exponent, sub) = (index / SUBBUCKETS, index % SUBBUCKETS);
                return ((SUBBUCKETS + sub + 1) as u64) << (exponent - 3);
            }
        }
        0
    }
}

/// What [`Shared::new`] is made of.
#[derive(Debug)]
pub struct SharedParts {
    /// Log, histories, checkpoints.
    pub state: Arc<State>,
    /// Where objects go.
    pub sink: Arc<dyn ObjectStore>,
    /// Settings under which histories are folded.
    pub types: EventTypes,
    /// The `[stream]` settings, checked.
    pub settings: StreamSettings,
    /// Namespace of ids and folders.
    pub namespace: String,
    /// The model to begin with.
    pub model: Arc<Model>,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

impl Shared {
    /// Brings the parts together.
    pub fn new(parts: SharedParts) -> Self {
        let shards = (0..parts.state.identity().shards).map(|_| ShardShared::default()).collect();
        Self {
            state: parts.state,
            sink: parts.sink,
            types: parts.types,
            settings: parts.settings,
            namespace: parts.namespace,
            clock: parts.clock,
            gate: RwLock::new(()),
            model: RwLock::new(parts.model),
            shards,
            health: Mutex::default(),
            latency: Mutex::default(),
            stop: AtomicBool::new(false),
        }
    }

    /// Number of shards.
    pub fn shard_count(&self) -> u32 {
        self.shards.len() as u32
    }

    /// The current model. Take it once for a batch: it may be replaced at any time.
    pub fn model(&self) -> Arc<Model> {
        Arc::clone(&self.model.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the model; those who hold the old one finish with it.
    pub fn set_model(&self, model: Arc<Model>) {
        *self.model.write().unwrap_or_else(PoisonError::into_inner) = model;
    }

    /// Held by workers while they change histories.
    pub fn enter(&self) -> RwLockReadGuard<'_, ()> {
        self.gate.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Held while something is erased: no worker changes anything meanwhile.
    pub fn stand_still(&self) -> RwLockWriteGuard<'_, ()> {
        self.gate.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// A shard's uncommitted histories.
    pub fn dirty(&self, shard: u32) -> MutexGuard<'_, HashMap<HistoryKey, Held>> {
        lock(&self.shards[shard as usize].dirty)
    }

    /// The history of `key` as it stands: what is stored joined with what shards hold uncommitted.
    pub fn history(&self, key: &HistoryKey) -> Result<Option<History>, StateError> {
        let mut joined = self.state.history(key, &self.types)?.map(|held| held.history);
        for shard in 0..self.shard_count() {
            if let Some(held) = self.dirty(shard).get(key) {
                joined.get_or_insert_default().join(&held.history, &self.types);
            }
        }
        Ok(joined)
    }

    /// The effective history of `key`: joined with those of the sessions known to be the same person's.
    pub fn effective(&self, key: &HistoryKey) -> Result<Option<History>, StateError> {
        effective(key, &self.types, &mut |key| self.history(key))
    }

    /// Says that records up to `sequence` are in the log, received at `received_us`.
    pub fn announce(&self, shard: u32, sequences: &[u64], received_us: u64) {
        let Some(&last) = sequences.last() else { return };
        let shard = &self.shards[shard as usize];
        {
            let mut receipts = lock(&shard.receipts);
            if receipts.len() < RECEIPTS_MAX {
                receipts.extend(sequences.iter().map(|&sequence| (sequence, received_us)));
            }
        }
        let mut newest = lock(&shard.newest);
        *newest = (*newest).max(last);
        shard.bell.notify_all();
    }

    /// Says that the lists of records up to `sequence` are readable.
    pub(crate) fn note_readable(&self, shard: u32, sequence: u64) {
        let now_us = self.clock.monotonic_us();
        let mut receipts = lock(&self.shards[shard as usize].receipts);
        let mut latency = lock(&self.latency);
        while let Some(&(of, received_us)) = receipts.front() {
            if of > sequence {
                break;
            }
            latency.record(now_us.saturating_sub(received_us));
            receipts.pop_front();
        }
    }

    /// Waits until the shard has a record after `sequence`, or `wait` is over, or the stream stops.
    pub fn wait_for(&self, shard: u32, sequence: u64, wait: Duration) {
        let shard = &self.shards[shard as usize];
        let newest = lock(&shard.newest);
        if *newest <= sequence && !self.is_stopping() {
            drop(shard.bell.wait_timeout(newest, wait).unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Rings every shard's bell.
    pub fn wake_all(&self) {
        for shard in &self.shards {
            let _newest = lock(&shard.newest);
            shard.bell.notify_all();
        }
    }

    /// Asks all threads to finish what they hold and end.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.wake_all();
    }

    /// Whether the stream is ending.
    pub fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Stops input for a named reason (`source`), or takes that reason away.
    pub fn set_blocked(&self, source: &'static str, why: Option<String>) {
        let mut health = lock(&self.health);
        match why {
            Some(why) => {
                let is_news = health.reasons.insert(source, why.clone()).is_none();
                if is_news {
                    tracing::error!(source, why, "the stream takes no input");
                }
            }
            None => {
                if health.reasons.remove(source).is_some() {
                    tracing::info!(source, "the stream goes on");
                }
            }
        }
    }

    /// Why the stream takes no input, if it does not.
    pub fn blocked(&self) -> Option<String> {
        let health = lock(&self.health);
        if health.reasons.is_empty() {
            return None;
        }
        Some(health.reasons.values().map(String::as_str).collect::<Vec<_>>().join("; "))
    }

    /// Where a shard stands.
    pub fn status(&self, shard: u32) -> ShardStatus {
        let shared = &self.shards[shard as usize];
        let newest = *lock(&shared.newest);
        let mut status = lock(&shared.status).clone();
        status.newest = status.newest.max(newest);
        status
    }

    pub(crate) fn update_status(&self, shard: u32, update: impl FnOnce(&mut ShardStatus)) {
        update(&mut lock(&self.shards[shard as usize].status));
    }

    /// Counts of committed cuts over all shards since the start of the process.
    pub fn totals(&self) -> Counts {
        let mut totals = Counts::default();
        (0..self.shard_count()).for_each(|shard| totals.add(&self.status(shard).counts));
        totals
    }

    /// Times from receipt to readable list.
    pub fn latency(&self) -> Latency {
        lock(&self.latency).clone()
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A thread that panicked while holding a lock has ended its worker, and the process reports it; the data behind
    // these locks is replaced as a whole, so it is never half-changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One shard's view of histories: its uncommitted ones over the stored ones.
#[derive(Debug)]
pub struct ShardHistories<'a> {
    /// Stored histories.
    pub state: &'a State,
    /// Settings under which they are folded.
    pub types: &'a EventTypes,
    /// Uncommitted histories.
    pub dirty: &'a mut HashMap<HistoryKey, Held>,
}

impl Histories for ShardHistories<'_> {
    type Error = StateError;

    fn history_mut(&mut self, key: &HistoryKey) -> Result<&mut History, StateError> {
        if !self.dirty.contains_key(key) {
            let held = self.state.history(key, self.types)?.unwrap_or_default();
            self.dirty.insert(key.clone(), held);
        }
        Ok(&mut self.dirty.get_mut(key).expect("it was there or was inserted above").history)
    }

    fn peek(&mut self, key: &HistoryKey) -> Result<Option<History>, StateError> {
        match self.dirty.get(key) {
            Some(held) => Ok(Some(held.history.clone())),
            None => Ok(self.state.history(key, self.types)?.map(|held| held.history)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_a_tenth() {
        let mut latency = Latency::default();
        (1..=10_000_u64).for_each(|us| latency.record(us));
        for (q, exact) in [(0.5, 5000.0), (0.99, 9900.0), (1.0, 10_000.0)] {
            let found = latency.quantile_us(q) as f64;
            assert!(found >= exact * 0.99 && found <= exact * 1.13, "{q}: {found}");
        }
        assert_eq!(Latency::default().quantile_us(0.5), 0);
    }
}
