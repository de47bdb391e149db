//! A process's part of a stream's shards: one [`Worker`] a shard that it holds a lease of, each on a thread of its own.
//!
//! ```text
//! list shards → which may be read (parents first) → leases: which of them are ours → start and stop workers → …
//! ```
//!
//! Any number of processes read one stream so. Leases only spread the shards over them and may be wrong for a while: that
//! nothing is lost or delivered twice comes from the chain of create-only objects ([`anabranch_stream::worker`]). A
//! worker whose lease went drops what it has not committed; one whose shard is read to its end is followed at once by
//! the shard's children's.
//!
//! **One shard's trouble is its own.** What may pass its worker waits out by itself. A worker that ends in an error
//! (an object of its chain that does not read, a permission that is missing) is made again after a while, with its lease
//! kept so that it does not wander over every process; its shard and reason are told as blocked, and the others go on. A
//! panic, or a table or stream that is not there, stops the process.
//!
//! **Notifications.** Every worker commits what its events trigger; one process at a time sends it, by a lease of its own
//! ([`dispatch_lease`](crate::kinesis::dispatch_lease)), once the whole stream is read far enough
//! ([`frontier`](crate::kinesis::frontier)). Trouble with sending stops nothing else.
//!
//! **Bounds.** [`FleetSettings::shards_max`] threads, and three more. A shard holds one answer of Kinesis (10 MiB), one
//! micro-batch, an open cut (`cut_bytes`, and once more while it is encoded) and the histories that it changed
//! (`cut_histories`): about 100 MB at the worst under the defaults. It reads no page while it holds one, so whoever is
//! slow (sink, table, scoring) slows reading down, and Kinesis keeps the rest.
//!
//! | file | what lives there |
//! |---|---|
//! | here | the threads |
//! | `coordinate` | which shards to read now: listing, checkpoints, leases; no threads |
//! | `dispatch` | sending notifications while the lease is ours; no threads |

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anabranch_stores::ErrorKind;
use anabranch_stores::backoff::Patience;
use anabranch_stream::crew::{Crew, Failed};
use anabranch_stream::models::{ModelPoll, ModelSource};
use anabranch_stream::notify::{DispatcherParts, Outbox};
use anabranch_stream::ports::{Checkpoint, PortError, ShardId, ShardReader};
use anabranch_stream::running::{NotifyParts, RunningStream, StartError};
use anabranch_stream::shared::{Shared, SharedParts};
use anabranch_stream::worker::{Step, Worker, WorkerError};
use anabranch_stream::{Clock, LiveStream};

use crate::api::KinesisApi;
use crate::kinesis::dispatch_lease::{DispatchLeaseTable, DispatchLeaseTaker};
use crate::kinesis::fanout::{FanOutReader, FanOutSettings};
use crate::kinesis::frontier::Frontier;
use crate::kinesis::lease::{LeaseSettings, LeaseTable, LeaseTaker};
use crate::kinesis::reader::{PollSettings, PollingReader};

mod coordinate;
mod dispatch;

pub use coordinate::Coordinator;
pub use dispatch::Dispatching;

/// How often the housekeeper looks for a newer model.
const HOUSEKEEPING: Duration = Duration::from_millis(250);
/// A worker that ended in an error is made again after this long, in milliseconds, longer each time.
const FAILED_WAITS_MS: [u64; 4] = [5_000, 20_000, 60_000, 300_000];
/// A worker that was made again and runs this long, in milliseconds, is in trouble no longer.
const RECOVERED_MS: u64 = 3_000;
/// Rounds that fail in a row before the stream counts as blocked: one throttled call is no news.
const ROUNDS_FAILED_MAX: u32 = 3;
/// Shortest wait between two walks over the outbox, in milliseconds: each reads the whole table.
const WALK_EVERY_MS: u64 = 1_000;

/// How records are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// `GetRecords`.
    Polling(PollSettings),
    /// `SubscribeToShard`, as a registered consumer.
    FanOut(FanOutSettings),
}

/// How a process takes part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetSettings {
    /// A name that no other process has, for its leases.
    pub worker: String,
    /// Shards that this process reads at once, each on a thread.
    pub shards_max: usize,
    /// A process that does not renew its leases for this long has lost them, in milliseconds.
    pub failover_ms: u64,
    /// How often the shards are listed, in milliseconds; at the end of a shard of its own also at once.
    pub list_every_ms: u64,
    /// How long open cuts may take to come out when the process ends, in milliseconds.
    pub drain_ms: u64,
}

/// What a fleet is made of.
#[derive(Debug)]
pub struct FleetParts {
    /// State, sink, settings, model, clock.
    pub shared: SharedParts,
    /// The stream.
    pub api: Arc<dyn KinesisApi>,
    /// How its records are read.
    pub reading: Reading,
    /// Who reads which shard.
    pub leases: Arc<dyn LeaseTable>,
    /// How this process takes part.
    pub settings: FleetSettings,
    /// How long readers wait between attempts.
    pub patience: Patience,
    /// Where newer models come from; without it the first one stays.
    pub models: Option<ModelSource>,
    /// Notifications; without it no event triggers any, and nothing that waits goes out by this process.
    pub notify: Option<FleetNotify>,
    /// What is read, for people: `the Kinesis stream clicks`.
    pub source: String,
    /// When the stream was created, milliseconds since 1970.
    pub created_ms: i64,
}

/// What notifications need.
#[derive(Debug)]
pub struct FleetNotify {
    /// Rules and the way out.
    pub parts: NotifyParts,
    /// Where notices wait: the state's, which [`SharedParts::state`] writes.
    pub outbox: Arc<dyn Outbox>,
    /// Who sends.
    pub leases: Arc<dyn DispatchLeaseTable>,
}

/// The workers of this process. Dropping it stops them without waiting for the open cuts.
#[derive(Debug)]
pub struct Fleet {
    shared: Arc<Shared>,
    crew: Arc<Crew>,
    members: Arc<Members>,
    source: String,
    created_ms: i64,
    drain_ms: u64,
}

/// Makes readers.
#[derive(Debug)]
struct Readers {
    api: Arc<dyn KinesisApi>,
    reading: Reading,
    clock: Arc<dyn Clock>,
    patience: Patience,
}

impl Readers {
    fn of(&self, shard: ShardId) -> Box<dyn ShardReader> {
        let (api, clock, patience) = (Arc::clone(&self.api), Arc::clone(&self.clock), self.patience.clone());
        match self.reading {
            Reading::Polling(settings) => Box::new(PollingReader::new(api, shard, settings, clock, patience)),
            Reading::FanOut(settings) => Box::new(FanOutReader::new(api, shard, settings, clock, patience)),
        }
    }

    /// How long a worker waits at most before it asks an idle shard again; a subscription waits by itself.
    fn idle_ms_max(&self) -> u64 {
        match self.reading {
            Reading::Polling(settings) => 1000 / settings.reads_per_second.max(1),
            Reading::FanOut(_) => 1,
        }
    }
}

/// One worker's thread.
#[derive(Debug, Default)]
struct Member {
    stop: AtomicBool,
    outcome: Mutex<Outcome>,
}

#[derive(Debug, Default)]
enum Outcome {
    #[default]
    Running,
    /// The shard is read to its end.
    Ended(Checkpoint),
    Failed(WorkerError),
    /// Its lease went, or the process ends.
    Stopped,
}

/// The threads of all workers, and the bell of who looks after them.
#[derive(Debug, Default)]
struct Members {
    by_shard: Mutex<BTreeMap<ShardId, Arc<Member>>>,
    bell: Condvar,
    is_draining: AtomicBool,
    /// Every worker came to its end, and the leases are given back.
    is_drained: AtomicBool,
    /// A thread sends, or may: it is to end before the lease is given back.
    is_dispatching: AtomicBool,
}

impl Members {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<ShardId, Arc<Member>>> {
        self.by_shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::SeqCst)
    }

    fn ring(&self) {
        let _members = self.lock();
        self.bell.notify_all();
    }

    /// Until somebody rings, or `wait` is over.
    fn wait(&self, wait: Duration) {
        let members = self.lock();
        drop(self.bell.wait_timeout(members, wait).unwrap_or_else(PoisonError::into_inner));
    }
}

fn outcome_of(member: &Member) -> MutexGuard<'_, Outcome> {
    member.outcome.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Fleet {
    /// Lists the shards, takes leases and starts. What is wrong with stream, tables or settings is told here.
    pub fn start(parts: FleetParts) -> Result<Self, StartError> {
        parts.shared.settings.check().map_err(StartError::Setting)?;
        parts.shared.model.check_types(&parts.shared.types)?;
        let (notify, sending) = match parts.notify {
            Some(FleetNotify { parts, outbox, leases }) => (Some(parts), Some((outbox, leases))),
            None => (None, None),
        };
        let rules = notify.as_ref().map(|notify| notify.rules.clone()).unwrap_or_default();
        let shared = Arc::new(Shared::new(parts.shared).with_rules(rules));
        let FleetSettings { worker, shards_max, failover_ms, list_every_ms, drain_ms } = parts.settings;
        let dispatch_taker = DispatchLeaseTaker::new(worker.clone(), failover_ms);
        let mut coordinator = Coordinator::new(
            Arc::clone(&parts.api),
            Arc::clone(&shared.state),
            parts.leases,
            LeaseTaker::new(worker, LeaseSettings { failover_ms, leases_max: shards_max }),
            list_every_ms,
        );
        let mut wanted = BTreeSet::new();
        // The first process of a stream makes the leases in its first round and takes them in its second.
        for _ in 0..2 {
            wanted = match coordinator.round(&HashMap::new(), &*shared.clock, false) {
                Err(error) if error.kind == ErrorKind::Retry => {
                    tracing::warn!(%error, "no lease is taken yet");
                    break;
                }
                wanted => wanted?,
            };
        }
        let crew = Arc::new(Crew::new(Arc::clone(&shared)));
        let members = Arc::<Members>::default();
        let clock = Arc::clone(&shared.clock);
        let mut dispatch_lease = None;
        if let (Some(notify), Some((outbox, leases))) = (notify, sending) {
            let NotifyParts { channel, attempts_max, seed, .. } = notify;
            let (api, state, clock) = (Arc::clone(&parts.api), Arc::clone(&shared.state), Arc::clone(&clock));
            let dispatcher = DispatcherParts {
                shared: Arc::clone(&shared),
                outbox,
                progress: Box::new(Frontier::new(api, state, clock)),
                channel,
                attempts_max,
                seed,
                idle_shortest_ms: WALK_EVERY_MS,
            };
            let dispatching = Dispatching::new(dispatcher, dispatch_taker.right());
            let all = Arc::clone(&members);
            members.is_dispatching.store(true, Ordering::SeqCst);
            crew.spawn("dispatcher", move |shared| {
                dispatch::run(dispatching, shared, &all);
                Ok(())
            })?;
            dispatch_lease = Some((dispatch_taker, leases));
        }
        let readers = Readers { api: parts.api, reading: parts.reading, clock, patience: parts.patience };
        let mut keeper = Keeper {
            coordinator,
            shared: Arc::clone(&shared),
            crew: Arc::clone(&crew),
            members: Arc::clone(&members),
            readers,
            dispatch_lease,
            wanted,
            failing: BTreeMap::new(),
            ended: HashMap::new(),
            rounds_failed: 0,
            round_ms: (failover_ms / 3).max(1),
        };
        let fleet = Self { shared, crew, members, source: parts.source, created_ms: parts.created_ms, drain_ms };
        keeper.reconcile()?;
        fleet.crew.spawn("fleet", move |_| keeper.run())?;
        if let Some(models) = parts.models {
            fleet.crew.spawn("housekeeper", move |shared| {
                let mut poll = ModelPoll::new(shared.clock.monotonic_us());
                while !shared.is_stopping() {
                    poll.run(shared, &models);
                    std::thread::park_timeout(HOUSEKEEPING.min(Duration::from_millis(shared.settings.model_poll_ms)));
                }
                Ok(())
            })?;
        }
        Ok(fleet)
    }

    /// The shards that have a worker here now.
    pub fn shards(&self) -> Vec<ShardId> {
        self.members.lock().keys().copied().collect()
    }

    /// Commits the open cuts, gives the leases back, ends every thread. Why the stream had stopped by itself, if it had.
    pub fn stop(self) -> Result<(), Failed> {
        self.members.is_draining.store(true, Ordering::SeqCst);
        self.shared.wake_all();
        self.members.ring();
        let start_us = self.shared.clock.monotonic_us();
        let is_over = || self.shared.clock.monotonic_us().saturating_sub(start_us) >= self.drain_ms * 1000;
        while !self.members.is_drained.load(Ordering::SeqCst) && !self.shared.is_stopping() && !is_over() {
            self.members.wait(Duration::from_millis(20));
        }
        self.crew.end();
        self.crew.failure().map_or(Ok(()), Err)
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.crew.end();
    }
}

impl LiveStream for Fleet {
    fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    fn failure(&self) -> Option<Failed> {
        self.crew.failure()
    }

    fn created_ms(&self) -> i64 {
        self.created_ms
    }

    fn embedded(&self) -> Result<&RunningStream, &str> {
        Err(&self.source)
    }
}

/// A shard whose worker ended in an error.
#[derive(Debug)]
struct Failing {
    times: usize,
    not_before_us: u64,
    why: String,
    /// When it was made again.
    again_us: Option<u64>,
}

/// Looks after the workers.
struct Keeper {
    coordinator: Coordinator,
    shared: Arc<Shared>,
    crew: Arc<Crew>,
    members: Arc<Members>,
    readers: Readers,
    /// The lease of notifications, where there are rules.
    dispatch_lease: Option<(DispatchLeaseTaker, Arc<dyn DispatchLeaseTable>)>,
    /// The shards whose leases are ours.
    wanted: BTreeSet<ShardId>,
    failing: BTreeMap<ShardId, Failing>,
    /// Shards that were read to their end here since the last round.
    ended: HashMap<ShardId, Checkpoint>,
    rounds_failed: u32,
    round_ms: u64,
}

impl Keeper {
    fn run(mut self) -> Result<(), Failed> {
        let mut round_us = self.shared.clock.monotonic_us();
        self.keep_dispatch_lease();
        while !self.shared.is_stopping() {
            self.gather();
            if self.members.is_draining() {
                let is_dispatching = self.members.is_dispatching.load(Ordering::SeqCst);
                if self.members.lock().is_empty() && !is_dispatching {
                    self.give_back();
                    return Ok(());
                }
                self.members.wait(Duration::from_millis(20));
                continue;
            }
            let now_us = self.shared.clock.monotonic_us();
            let is_due = now_us.saturating_sub(round_us) >= self.round_ms * 1000;
            // A round that failed is not made again before its time.
            if is_due || (!self.ended.is_empty() && self.rounds_failed == 0) {
                round_us = now_us;
                self.keep_dispatch_lease();
                self.round()?;
            }
            self.reconcile().map_err(|error| (format!("starting a thread: {error}"), ErrorKind::Retry))?;
            self.members.wait(Duration::from_millis(self.round_ms.min(100)));
        }
        Ok(())
    }

    /// Takes note of workers that came to their end.
    fn gather(&mut self) {
        let now_us = self.shared.clock.monotonic_us();
        let mut members = self.members.lock();
        members.retain(|&shard, member| {
            let outcome = std::mem::take(&mut *outcome_of(member));
            match outcome {
                Outcome::Running => return true,
                Outcome::Stopped => {}
                Outcome::Ended(end) => {
                    self.failing.remove(&shard);
                    self.ended.insert(shard, end);
                }
                Outcome::Failed(error) => {
                    let failing = self.failing.entry(shard);
                    let failing =
                        failing.or_insert(Failing { times: 0, not_before_us: 0, why: String::new(), again_us: None });
                    let wait_ms = FAILED_WAITS_MS[failing.times.min(FAILED_WAITS_MS.len() - 1)];
                    failing.times += 1;
                    failing.again_us = None;
                    failing.not_before_us = now_us.saturating_add(wait_ms * 1000);
                    failing.why = format!("{error}; it is tried again in {} s", wait_ms / 1000);
                    tracing::error!(%shard, reason = failing.why, "a worker ended");
                }
            }
            false
        });
        self.failing.retain(|_, failing| {
            failing.again_us.is_none_or(|again_us| now_us.saturating_sub(again_us) < RECOVERED_MS * 1000)
        });
    }

    /// Lists, takes leases, renews.
    fn round(&mut self) -> Result<(), Failed> {
        let mut own: HashMap<ShardId, Checkpoint> = self
            .shared
            .statuses()
            .into_iter()
            .map(|(shard, status)| (shard, Checkpoint::After(status.committed)))
            .collect();
        let is_news = !self.ended.is_empty();
        own.extend(self.ended.iter().map(|(shard, end)| (*shard, *end)));
        match self.coordinator.round(&own, &*self.shared.clock, is_news) {
            Ok(wanted) => {
                self.ended.clear();
                self.failing.retain(|shard, _| wanted.contains(shard));
                self.wanted = wanted;
                self.rounds_failed = 0;
                self.shared.set_blocked("leases", None);
                Ok(())
            }
            Err(error) if error.kind == ErrorKind::Retry => {
                tracing::warn!(%error, "the leases stay as they are for now");
                self.rounds_failed += 1;
                if self.rounds_failed >= ROUNDS_FAILED_MAX {
                    self.shared.set_blocked("leases", Some(error.to_string()));
                }
                Ok(())
            }
            Err(PortError { kind, what, .. }) => Err((what, kind)),
        }
    }

    /// Starts the workers that are wanted and not there, stops those that are there and not wanted.
    fn reconcile(&mut self) -> std::io::Result<()> {
        let now_us = self.shared.clock.monotonic_us();
        let whys: Vec<&str> = self.failing.values().map(|failing| failing.why.as_str()).collect();
        self.shared.set_blocked("shards", (!whys.is_empty()).then(|| whys.join("; ")));
        let mut members = self.members.lock();
        for (shard, member) in &*members {
            if !self.wanted.contains(shard) {
                member.stop.store(true, Ordering::SeqCst);
            }
        }
        for &shard in &self.wanted {
            let is_early = self.failing.get(&shard).is_some_and(|failing| now_us < failing.not_before_us);
            if is_early || members.contains_key(&shard) || self.ended.contains_key(&shard) {
                continue;
            }
            let member = Arc::<Member>::default();
            let worker = Worker::new(Arc::clone(&self.shared), shard, self.readers.of(shard));
            let (own, all) = (Arc::clone(&member), Arc::clone(&self.members));
            let idle_ms_max = self.readers.idle_ms_max();
            self.crew.spawn(&shard.to_string(), move |shared| {
                let outcome = drive(worker, shared, &own, &all, idle_ms_max).unwrap_or_else(Outcome::Failed);
                *outcome_of(&own) = outcome;
                all.ring();
                Ok(())
            })?;
            tracing::info!(%shard, "a worker starts");
            if let Some(failing) = self.failing.get_mut(&shard) {
                failing.again_us = Some(now_us);
            }
            members.insert(shard, member);
        }
        Ok(())
    }

    /// Renews the lease of notifications, or takes it if nobody keeps it. If that fails what is held runs out by itself.
    fn keep_dispatch_lease(&mut self) {
        if let Some((taker, table)) = &mut self.dispatch_lease
            && let Err(error) = taker.run(&**table, &*self.shared.clock)
        {
            tracing::warn!(%error, "the lease of notifications stays as it is for now");
        }
    }

    /// Others may read our shards from now on, without waiting for our leases to run out.
    fn give_back(&mut self) {
        if let Some((taker, table)) = &mut self.dispatch_lease
            && let Err(error) = taker.release(&**table)
        {
            tracing::warn!(%error, "the lease of notifications is not given back; another takes it when it runs out");
        }
        if let Err(error) = self.coordinator.release(&*self.shared.clock) {
            tracing::warn!(%error, "the leases are not given back; others take them when they run out");
        }
        self.members.is_drained.store(true, Ordering::SeqCst);
        self.members.ring();
    }
}

/// Runs a worker until its shard ends, its lease goes, or the process ends (then its open cut is committed first).
fn drive(
    mut worker: Worker,
    shared: &Arc<Shared>,
    own: &Member,
    all: &Members,
    idle_ms_max: u64,
) -> Result<Outcome, WorkerError> {
    let shard = worker.shard();
    while !shared.is_stopping() && !own.stop.load(Ordering::SeqCst) {
        if all.is_draining() {
            if worker.is_clean() || worker.is_recovering() {
                break;
            }
            worker.flush();
        }
        match worker.step()? {
            Step::Worked => {}
            Step::Idle { wait_ms } => {
                shared.wait_for(shard, Some(worker.processed()), Duration::from_millis(wait_ms.min(idle_ms_max)));
            }
            Step::Stalled { wait_ms } => shared.wait_for(shard, None, Duration::from_millis(wait_ms)),
            Step::Ended => return Ok(Outcome::Ended(Checkpoint::ShardEnd(worker.committed()))),
        }
    }
    Ok(Outcome::Stopped)
}

#[cfg(test)]
mod tests;
