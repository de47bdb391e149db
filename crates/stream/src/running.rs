//! A running stream on one machine, over the embedded log and state: its threads, and the questions it answers while
//! it runs.
//!
//! Threads: one worker a shard, one appender, one housekeeper (model reload, retention, free disk space), and where there
//! are rules for notifications one dispatcher. Each ends when the stream stops; a worker's failure stops the stream and is told by [`RunningStream::failure`].

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anabranch_events::HistoryKey;
use anabranch_stores::ErrorKind;
use anabranch_stores::lake::LakeError;
use anabranch_stores::state::backup::BackupSummary;
use anabranch_stores::state::erasures::Forgotten;
use anabranch_stores::state::log::Retention;
use anabranch_stores::state::{State, StateError};

use crate::crew::Crew;
use crate::embedded::{EmbeddedState, LogReader, log_number};
use crate::erase;
use crate::ingest::{Appender, run_appender};
use crate::models::{ModelPoll, ModelSource};
use crate::notify::dispatcher::DispatchStep;
use crate::notify::{Channel, Dispatcher, DispatcherParts, NotifyError, OwnShards, Rules};
use crate::object;
use crate::ports::{PortError, Position, ShardId};
use crate::shared::{Shared, SharedParts, lock};
use crate::worker::{Step, Worker, WorkerError};

/// How often the housekeeper looks around.
const HOUSEKEEPING: Duration = Duration::from_millis(250);
/// How often retention runs, in milliseconds.
const TRIM_EVERY_MS: u64 = 10_000;
/// Shortest wait between two walks over the outbox, in milliseconds; they are cheap here.
const WALK_EVERY_MS: u64 = 10;

/// What a running stream is made of.
#[derive(Debug)]
pub struct StreamParts {
    /// State, sink, settings, model, clock.
    pub shared: SharedParts<Arc<State>>,
    /// Where newer models come from; without it the first one stays.
    pub models: Option<ModelSource>,
    /// Notifications; without it no event triggers any, and what waits in the outbox goes on waiting.
    pub notify: Option<NotifyParts>,
}

/// What notifications need.
#[derive(Debug)]
pub struct NotifyParts {
    /// What triggers them.
    pub rules: Rules,
    /// The way out.
    pub channel: Box<dyn Channel>,
    /// Attempts of one notification, the first included.
    pub attempts_max: u32,
    /// What the jitter of retries comes from.
    pub seed: u64,
}

/// Why a stream does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting is out of range.
    #[error("{0}")]
    Setting(String),
    /// The model does not fit the settings.
    #[error(transparent)]
    Model(#[from] anabranch_models::ModelError),
    /// A shard did not recover.
    #[error(transparent)]
    Worker(#[from] Box<WorkerError>),
    /// The state is of another kind of stream.
    #[error(transparent)]
    Port(#[from] PortError),
    /// The sink does not answer.
    #[error("{0}")]
    Sink(String),
    /// The state failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// A thread could not be started.
    #[error("starting a thread: {0}")]
    Thread(#[from] std::io::Error),
}

impl StartError {
    /// What the caller can do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Setting(_) | Self::Model(_) => ErrorKind::FixInput,
            Self::Worker(error) => kind_of(error),
            Self::Port(error) => error.kind,
            Self::State(error) => error.kind(),
            Self::Sink(_) | Self::Thread(_) => ErrorKind::Retry,
        }
    }
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The state failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// The histories do not read.
    #[error(transparent)]
    Histories(#[from] PortError),
    /// The sink failed.
    #[error(transparent)]
    Sink(#[from] LakeError),
    /// The stream stopped meanwhile.
    #[error("the stream stopped: {0}")]
    Stopped(String),
}

/// A running stream. Dropping it stops it without waiting for the open cuts.
#[derive(Debug)]
pub struct RunningStream {
    shared: Arc<Shared>,
    state: Arc<State>,
    appender: Appender,
    crew: Crew,
    /// What is to be committed soon, shard by shard.
    flush: Arc<Mutex<Vec<Position>>>,
    /// One erasure or backup at a time.
    operating: Mutex<()>,
}

impl RunningStream {
    /// Recovers every shard, then starts the threads.
    pub fn start(parts: StreamParts) -> Result<Self, StartError> {
        parts.shared.settings.check().map_err(StartError::Setting)?;
        parts.shared.model.check_types(&parts.shared.types)?;
        let state = Arc::clone(&parts.shared.state);
        let shared = Shared::new(parts.shared.over_port());
        let (rules, sending) = match parts.notify {
            Some(NotifyParts { rules, channel, attempts_max, seed }) => (rules, Some((channel, attempts_max, seed))),
            None => (Rules::default(), None),
        };
        let shared = Arc::new(shared.with_rules(rules));
        let mut workers = Vec::new();
        let mut last = 0;
        for shard in 0..state.identity().shards {
            let reader = Box::new(LogReader::new(Arc::clone(&state), shard));
            let mut worker = Worker::new(Arc::clone(&shared), ShardId(shard.into()), reader);
            while worker.is_recovering() {
                if let Step::Stalled { .. } = worker.step().map_err(Box::new)? {
                    return Err(StartError::Sink(shared.blocked().unwrap_or_default()));
                }
            }
            shared.note_newest(worker.shard(), Position::whole(state.newest(shard)?.into()));
            last = last.max(log_number(worker.processed())?);
            workers.push(worker);
        }
        if state.is_restored() {
            state.finish_restore(last)?;
        }
        let (appender, inbox) = Appender::new(Arc::clone(&shared), Arc::clone(&state));
        let stream = Self {
            flush: Arc::new(Mutex::new(vec![Position::START; workers.len()])),
            crew: Crew::new(Arc::clone(&shared)),
            operating: Mutex::default(),
            appender,
            shared,
            state: Arc::clone(&state),
        };
        for (index, worker) in workers.into_iter().enumerate() {
            let flush = Arc::clone(&stream.flush);
            stream.crew.spawn(&format!("shard-{index}"), move |shared| {
                drive(worker, shared, &flush, index).map_err(|error| (error.to_string(), kind_of(&error)))
            })?;
        }
        let log = Arc::clone(&state);
        stream.crew.spawn("appender", move |shared| {
            run_appender(shared, &log, &inbox).map_err(|error| (error.to_string(), error.kind()))
        })?;
        if let Some((channel, attempts_max, seed)) = sending {
            let outbox = Arc::new(EmbeddedState::new(Arc::clone(&state)));
            let shared = Arc::clone(&stream.shared);
            let progress = Box::new(OwnShards::new(Arc::clone(&shared)));
            let idle_shortest_ms = WALK_EVERY_MS;
            let parts = DispatcherParts { shared, outbox, progress, channel, attempts_max, seed, idle_shortest_ms };
            let dispatcher = Dispatcher::new(parts);
            stream.crew.spawn("dispatcher", move |shared| {
                dispatch(dispatcher, shared).map_err(|error| (error.to_string(), error.kind()))
            })?;
        }
        stream.crew.spawn("housekeeper", move |shared| {
            keep_house(shared, &state, parts.models.as_ref());
            Ok(())
        })?;
        Ok(stream)
    }

    /// What the threads share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The embedded log and state.
    pub const fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// The door for events.
    pub const fn appender(&self) -> &Appender {
        &self.appender
    }

    /// Why the stream stopped by itself, if it did.
    pub fn failure(&self) -> Option<(String, ErrorKind)> {
        self.crew.failure()
    }

    /// Waits until every record that is in the log now is delivered and committed.
    pub fn flush(&self) -> Result<(), AskError> {
        let mut targets = Vec::new();
        for shard in 0..self.state.identity().shards {
            targets.push(Position::whole(self.state.newest(shard)?.into()));
        }
        {
            let mut flush = lock(&self.flush);
            for (wanted, target) in flush.iter_mut().zip(&targets) {
                *wanted = (*wanted).max(*target);
            }
        }
        self.shared.wake_all();
        loop {
            let is_done = (0..)
                .map(ShardId)
                .zip(&targets)
                .all(|(shard, target)| self.shared.status(shard).is_some_and(|status| status.committed >= *target));
            if is_done {
                return Ok(());
            }
            if let Some((why, _)) = self.failure() {
                return Err(AskError::Stopped(why));
            }
            if self.shared.is_stopping() {
                return Err(AskError::Stopped("it was asked to".to_owned()));
            }
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }

    /// Forgets the owner of `key`: state, uncommitted histories and dead letters. The lake and the vectors are the
    /// caller's part. Returns what the state removed and how many dead letters went.
    pub fn forget(&self, key: &HistoryKey) -> Result<(Forgotten, u64), AskError> {
        let _one_at_a_time = lock(&self.operating);
        // Dead letters of the open cuts come out first, so that they can be erased below.
        self.flush()?;
        let _still = self.shared.stand_still();
        let newest = self.shared.effective(key)?.and_then(|history| history.newest_ms());
        let floor_ms = newest.unwrap_or(i64::MIN).max(self.shared.clock.now_ms());
        let forgotten = self.state.forget(key, floor_ms, &self.shared.types, &erase::without)?;
        let owners: BTreeSet<HistoryKey> = forgotten.keys.iter().cloned().collect();
        self.shared.erase_uncommitted(&owners, floor_ms);
        let letters = erase::erase_dead_letters(
            &*self.shared.sink,
            object::DEAD_LETTERS,
            &owners,
            self.shared.settings.compression,
        )?;
        Ok((forgotten, letters))
    }

    /// Writes a consistent backup of the state while everything goes on.
    pub fn backup(&self, out: impl Write) -> Result<BackupSummary, AskError> {
        let _one_at_a_time = lock(&self.operating);
        Ok(self.state.backup(out)?)
    }

    /// Commits the open cuts, then ends every thread.
    pub fn stop(self) -> Result<(), AskError> {
        let flushed = if self.shared.is_stopping() { Ok(()) } else { self.flush() };
        self.crew.end();
        match self.failure() {
            Some((why, _)) => Err(AskError::Stopped(why)),
            None => flushed,
        }
    }
}

fn drive(
    mut worker: Worker,
    shared: &Arc<Shared>,
    flush: &Mutex<Vec<Position>>,
    index: usize,
) -> Result<(), WorkerError> {
    let shard = worker.shard();
    while !shared.is_stopping() {
        let flush_to = lock(flush)[index];
        // Read on to the wanted record first; then cut.
        if worker.processed() >= flush_to && !worker.is_clean() && worker.committed() < flush_to {
            worker.flush();
        }
        match worker.step()? {
            Step::Worked => {}
            Step::Idle { wait_ms } => shared.wait_for(shard, Some(worker.processed()), Duration::from_millis(wait_ms)),
            Step::Stalled { wait_ms } => shared.wait_for(shard, None, Duration::from_millis(wait_ms)),
            // The embedded log is never split; a worker over another source would be followed by its children's.
            Step::Ended => break,
        }
    }
    Ok(())
}

/// Sends what is due until the stream stops. What waits then goes on waiting.
fn dispatch(mut dispatcher: Dispatcher, shared: &Shared) -> Result<(), NotifyError> {
    while !shared.is_stopping() {
        match dispatcher.step()? {
            DispatchStep::Worked => {}
            DispatchStep::Idle { wait_ms, .. } | DispatchStep::Stalled { wait_ms } => {
                std::thread::park_timeout(Duration::from_millis(wait_ms));
            }
        }
    }
    Ok(())
}

/// A failed engine has to be opened anew, so its port asks to stop writing; whoever starts processes may try again.
fn kind_of(error: &WorkerError) -> ErrorKind {
    match error.kind() {
        ErrorKind::Fenced => ErrorKind::Retry,
        kind => kind,
    }
}

fn keep_house(shared: &Shared, state: &State, models: Option<&ModelSource>) {
    let mut trimmed_us = 0;
    let mut was_full = false;
    let mut poll = ModelPoll::new(shared.clock.monotonic_us());
    while !shared.is_stopping() {
        check_disk(shared, state);
        let now_us = shared.clock.monotonic_us();
        // A log that is nearly full is trimmed at every look, so that what is delivered makes room at once.
        let (high, low) = shared.settings.log_marks();
        let is_nearly_full = state.log_bytes() > high;
        if is_nearly_full || now_us.saturating_sub(trimmed_us) >= TRIM_EVERY_MS * 1000 || trimmed_us == 0 {
            trimmed_us = now_us;
            let bytes_max = if is_nearly_full { low } else { shared.settings.retention_bytes };
            trim(shared, state, bytes_max);
            tell_fill(shared, state.log_bytes() > high, &mut was_full);
        }
        if let Some(models) = models {
            poll.run(shared, models);
        }
        let wait = HOUSEKEEPING.min(Duration::from_millis(shared.settings.model_poll_ms));
        std::thread::park_timeout(wait);
    }
}

/// Stops input while the disk has less free space than the settings ask for: a full disk would poison the log.
fn check_disk(shared: &Shared, state: &State) {
    let free = rustix::fs::statvfs(state.path()).map(|fs| fs.f_bavail.saturating_mul(fs.f_frsize));
    match free {
        Ok(free) if free < shared.settings.disk_free_bytes_min => {
            let why = format!(
                "the disk of {} has {} MB free, less than disk_free_bytes_min ({} MB): make room",
                state.path().display(),
                free >> 20,
                shared.settings.disk_free_bytes_min >> 20
            );
            shared.set_blocked("disk", Some(why));
        }
        Ok(_) => shared.set_blocked("disk", None),
        Err(error) => tracing::warn!(%error, "free disk space is unknown"),
    }
}

fn trim(shared: &Shared, state: &State, bytes_max: u64) {
    let kept_ms = i64::try_from(shared.settings.retention_hours.saturating_mul(3_600_000)).unwrap_or(i64::MAX);
    let retention = Retention { oldest_ms: shared.clock.now_ms().saturating_sub(kept_ms), bytes_max };
    if let Err(error) = state.trim(retention) {
        tracing::error!(%error, "retention failed; it is tried again");
    }
}

/// Once for each time that delivery falls so far behind; the door refuses by itself (see [`crate::ingest`]).
fn tell_fill(shared: &Shared, is_full: bool, was_full: &mut bool) {
    let bytes_max = shared.settings.retention_bytes;
    match (is_full, *was_full) {
        (true, false) => tracing::warn!(
            bytes_max,
            "the log is nearly full of undelivered events; when it is, producers are told to slow down"
        ),
        (false, true) => tracing::info!(bytes_max, "the log has room again"),
        _ => {}
    }
    *was_full = is_full;
}

#[cfg(test)]
mod tests;
