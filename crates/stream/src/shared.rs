//! What the threads of one stream share: the state, the sink, the current model, each shard's uncommitted histories,
//! health and totals. Locks are held for short, named reasons and always taken in the order of the fields below.
//!
//! A shard is here while its worker lives: [`crate::worker::Worker::new`] brings it, dropping the worker takes it away, so
//! the map follows every split and merge and nobody is served from what a worker no longer holds.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use anabranch_events::history::effective;
use anabranch_events::{EventTypes, History, HistoryKey};
use anabranch_models::Model;
use anabranch_stores::lake::ObjectStore;
use anabranch_stores::state::State;

use crate::clock::Clock;
use crate::embedded::EmbeddedState;
use crate::histories::{self, Histories};
use crate::latency::Latency;
use crate::measures::{Counted, Distributions, ListTimes};
use crate::notify::{NotifyCounts, Rules};
use crate::object::Counts;
use crate::ports::{self, PortError, Position, ShardId, StateStore};
use crate::settings::StreamSettings;

mod status;

pub(crate) use status::Cause;
pub use status::ShardStatus;

/// Receipt times kept for the latency histogram; beyond this a backlog is replayed and latency means nothing.
const RECEIPTS_MAX: usize = 100_000;

/// What all threads of a stream share.
#[derive(Debug)]
pub struct Shared {
    /// Histories and checkpoints.
    pub state: Arc<dyn StateStore>,
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
    shards: RwLock<BTreeMap<ShardId, Arc<Shard>>>,
    /// Counts of shards that are gone, so that totals never fall.
    retired: Mutex<Counted>,
    health: Mutex<Health>,
    latency: Mutex<Latency>,
    distributions: Mutex<Distributions>,
    rules: Rules,
    notices: Mutex<NotifyCounts>,
    /// When the oldest notice was due that waits; known where notices are dispatched.
    waiting_since_ms: Mutex<Option<i64>>,
    stop: AtomicBool,
}

/// One shard, as its worker and those who ask see it.
#[derive(Debug, Default)]
pub(crate) struct Shard {
    /// Written by the shard's worker (and by erasing, while everything stands still).
    pub(crate) histories: RwLock<Histories>,
    status: Mutex<ShardStatus>,
    /// When records were received, by the monotonic clock, until their lists are readable.
    receipts: Mutex<VecDeque<(Position, u64)>>,
    /// Newest record appended, where somebody says so, and a bell for the worker.
    newest: Mutex<Position>,
    bell: Condvar,
}

impl Shard {
    pub(crate) fn update_status(&self, update: impl FnOnce(&mut ShardStatus)) {
        update(&mut lock(&self.status));
    }

    fn status(&self) -> ShardStatus {
        let newest = *lock(&self.newest);
        let mut status = lock(&self.status).clone();
        status.newest = status.newest.max(newest);
        status
    }
}

/// Why the stream takes no input, by reason; empty when it does.
#[derive(Clone, Debug, Default)]
struct Health {
    reasons: std::collections::BTreeMap<&'static str, String>,
}

/// What [`Shared::new`] is made of. A running stream is made of the same with the embedded state itself.
#[derive(Debug)]
pub struct SharedParts<S = Arc<dyn StateStore>> {
    /// Histories and checkpoints.
    pub state: S,
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

impl SharedParts<Arc<State>> {
    /// The same over the port of the embedded state.
    pub fn over_port(self) -> SharedParts {
        SharedParts {
            state: Arc::new(EmbeddedState::new(self.state)),
            sink: self.sink,
            types: self.types,
            settings: self.settings,
            namespace: self.namespace,
            model: self.model,
            clock: self.clock,
        }
    }
}

impl Shared {
    /// Brings the parts together. There is no shard yet.
    pub fn new(parts: SharedParts) -> Self {
        Self {
            state: parts.state,
            sink: parts.sink,
            types: parts.types,
            settings: parts.settings,
            namespace: parts.namespace,
            clock: parts.clock,
            gate: RwLock::new(()),
            model: RwLock::new(parts.model),
            shards: RwLock::default(),
            retired: Mutex::default(),
            health: Mutex::default(),
            latency: Mutex::default(),
            distributions: Mutex::default(),
            rules: Rules::default(),
            notices: Mutex::default(),
            waiting_since_ms: Mutex::default(),
            stop: AtomicBool::new(false),
        }
    }

    /// With rules for notifications.
    #[must_use]
    pub fn with_rules(self, rules: Rules) -> Self {
        Self { rules, ..self }
    }

    /// What triggers notifications.
    pub const fn rules(&self) -> &Rules {
        &self.rules
    }

    /// What became of notices.
    pub fn notices(&self) -> NotifyCounts {
        lock(&self.notices).clone()
    }

    pub(crate) fn count_notices(&self, count: impl FnOnce(&mut NotifyCounts)) {
        count(&mut lock(&self.notices));
    }

    /// For how long the oldest due notice has waited, in milliseconds; 0 where none does, or another process dispatches.
    pub fn notices_waiting_ms(&self, now_ms: i64) -> u64 {
        let since_ms = *lock(&self.waiting_since_ms);
        since_ms.map_or(0, |since_ms| u64::try_from(now_ms.saturating_sub(since_ms)).unwrap_or(0))
    }

    /// Says since when the oldest due notice waits.
    pub fn note_waiting(&self, since_ms: Option<i64>) {
        *lock(&self.waiting_since_ms) = since_ms;
    }

    /// Everything that arrived in a shard before this time is applied; `None` of a shard that has no worker here.
    pub fn settled_ms(&self, id: ShardId) -> Option<i64> {
        self.shard(id).map(|shard| lock(&shard.status).settled_ms)
    }

    /// Brings a shard in, as new. A second worker of the same shard takes the place of the first.
    pub(crate) fn enter_shard(&self, id: ShardId) -> Arc<Shard> {
        let shard = Arc::new(Shard::default());
        let mut shards = self.shards_mut();
        let before = shards.insert(id, Arc::clone(&shard));
        self.retire(shards, before);
        shard
    }

    /// Takes a shard away, unless another worker's stands in its place already.
    pub(crate) fn leave_shard(&self, id: ShardId, shard: &Arc<Shard>) {
        let mut shards = self.shards_mut();
        if shards.get(&id).is_some_and(|held| Arc::ptr_eq(held, shard)) {
            let before = shards.remove(&id);
            self.retire(shards, before);
        }
    }

    /// Keeps the counts of a shard that was just taken out of `shards`, so that nobody who sums sees them missing.
    fn retire(&self, shards: RwLockWriteGuard<'_, BTreeMap<ShardId, Arc<Shard>>>, shard: Option<Arc<Shard>>) {
        let Some(shard) = shard else { return };
        lock(&self.retired).add(&shard.status().counted());
        drop(shards);
        self.note_progress(&shard);
    }

    fn shards_mut(&self) -> RwLockWriteGuard<'_, BTreeMap<ShardId, Arc<Shard>>> {
        self.shards.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The shards that have a worker now, in order.
    fn shards(&self) -> Vec<(ShardId, Arc<Shard>)> {
        let shards = self.shards.read().unwrap_or_else(PoisonError::into_inner);
        shards.iter().map(|(id, shard)| (*id, Arc::clone(shard))).collect()
    }

    fn shard(&self, id: ShardId) -> Option<Arc<Shard>> {
        self.shards.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
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

    /// The history of `key` as it stands: what is stored joined with what shards hold uncommitted.
    pub fn history(&self, key: &HistoryKey) -> Result<Option<History>, PortError> {
        // Memory first: what a worker commits in between is then seen twice, never missed.
        let mut joined: Option<History> = None;
        for (_, shard) in self.shards() {
            if let Some(held) = histories::read(&shard.histories).uncommitted().get(key) {
                joined.get_or_insert_default().join(&held.history, &self.types);
            }
        }
        match (ports::history(&*self.state, key, &self.types)?, joined) {
            (Some(mut stored), Some(joined)) => {
                stored.join(&joined, &self.types);
                Ok(Some(stored))
            }
            (stored, joined) => Ok(stored.or(joined)),
        }
    }

    /// The effective history of `key`: joined with those of the sessions known to be the same person's.
    pub fn effective(&self, key: &HistoryKey) -> Result<Option<History>, PortError> {
        effective(key, &self.types, &mut |key| self.history(key))
    }

    /// Erases what the shards hold uncommitted of `owners`. The caller lets everything stand still.
    pub(crate) fn erase_uncommitted(&self, owners: &BTreeSet<HistoryKey>, floor_ms: i64) {
        for (_, shard) in self.shards() {
            let mut held = histories::write(&shard.histories);
            for owner in owners {
                held.erase(owner, floor_ms);
            }
        }
    }

    /// Says that these records are in the log, received at `received_us`.
    pub fn announce(&self, id: ShardId, records: &[Position], received_us: u64) {
        let (Some(&last), Some(shard)) = (records.last(), self.shard(id)) else { return };
        {
            let mut receipts = lock(&shard.receipts);
            if receipts.len() < RECEIPTS_MAX {
                receipts.extend(records.iter().map(|&record| (record, received_us)));
            }
        }
        self.note_newest(id, last);
    }

    /// Says how far the shard's log goes.
    pub(crate) fn note_newest(&self, id: ShardId, position: Position) {
        let Some(shard) = self.shard(id) else { return };
        let mut newest = lock(&shard.newest);
        *newest = (*newest).max(position);
        shard.bell.notify_all();
    }

    /// Says that the lists of records up to `position` are readable.
    pub(crate) fn note_readable(&self, shard: &Shard, position: Position) {
        let now_us = self.clock.monotonic_us();
        let mut receipts = lock(&shard.receipts);
        let mut latency = lock(&self.latency);
        let mut distributions = lock(&self.distributions);
        while let Some(&(of, received_us)) = receipts.front() {
            if of > position {
                break;
            }
            latency.record(now_us.saturating_sub(received_us));
            distributions.to_readable.observe(now_us.saturating_sub(received_us));
            receipts.pop_front();
        }
    }

    /// Says that a cut of `records` records, with these lists, is delivered.
    pub(crate) fn note_delivered(&self, records: u64, lists: &[ListTimes]) {
        let now_ms = self.clock.now_ms();
        lock(&self.distributions).note_delivered(records, lists, now_ms);
    }

    /// Waits until the shard has a record after `position` (`None`: whatever it has), or `wait` is over, or the stream
    /// stops.
    pub fn wait_for(&self, id: ShardId, position: Option<Position>, wait: Duration) {
        let Some(shard) = self.shard(id) else { return std::thread::park_timeout(wait) };
        let newest = lock(&shard.newest);
        if position.is_none_or(|position| *newest <= position) && !self.is_stopping() {
            drop(shard.bell.wait_timeout(newest, wait).unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Rings every shard's bell.
    pub fn wake_all(&self) {
        for (_, shard) in self.shards() {
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
                    tracing::error!(cause = source, reason = why, "the stream takes no input");
                }
            }
            None => {
                if health.reasons.remove(source).is_some() {
                    tracing::info!(cause = source, "the stream goes on");
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

    /// Notes why a shard waits, and stops input for it.
    pub(crate) fn note_stall(&self, shard: &Shard, cause: Cause, why: String) {
        if lock(&shard.status).cause != Some(cause) {
            // What it waited for before is there; now it waits for something else.
            self.note_progress(shard);
        }
        shard.update_status(|status| {
            status.stalled = Some(why.clone());
            status.cause = Some(cause);
        });
        self.set_blocked(cause.name(), Some(why));
    }

    /// Notes that a shard waits no longer. Input goes on once no shard waits for the same.
    pub(crate) fn note_progress(&self, shard: &Shard) {
        let mut ended = None;
        shard.update_status(|status| {
            status.stalled = None;
            ended = status.cause.take();
        });
        if let Some(cause) = ended
            && !self.shards().iter().any(|(_, shard)| lock(&shard.status).cause == Some(cause))
        {
            self.set_blocked(cause.name(), None);
        }
    }

    /// Where a shard stands, if it has a worker.
    pub fn status(&self, id: ShardId) -> Option<ShardStatus> {
        self.shard(id).map(|shard| shard.status())
    }

    /// Where every shard stands.
    pub fn statuses(&self) -> Vec<(ShardId, ShardStatus)> {
        self.shards().into_iter().map(|(id, shard)| (id, shard.status())).collect()
    }

    /// Counts of committed cuts over all shards since the start of the process.
    pub fn totals(&self) -> Counts {
        self.counted().counts
    }

    /// The same with what was counted beside them. Neither falls, and each cut is in both or in neither.
    pub fn counted(&self) -> Counted {
        // No shard comes or goes meanwhile.
        let shards = self.shards.read().unwrap_or_else(PoisonError::into_inner);
        let mut counted = *lock(&self.retired);
        shards.values().for_each(|shard| counted.add(&lock(&shard.status).counted()));
        counted
    }

    /// Batch sizes and latencies of delivered cuts.
    pub fn distributions(&self) -> Distributions {
        lock(&self.distributions).clone()
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
