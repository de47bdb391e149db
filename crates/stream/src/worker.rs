//! One shard's worker: the chain of cuts.
//!
//! ```text
//! read after p → transform → … until a cut is due → object(after p) → dead letters → histories + checkpoint → p = last
//! ```
//!
//! Between cuts the applied state lives in memory and is served from there; the log holds the events. The object is
//! the commit point: it is created only if no object comes after `p` yet. Whoever finds one there (a restart after a
//! crash, a lost answer, a second worker) **rolls forward**: joins the events that the object covers, makes no list
//! again, and goes on after its last record. So neither a crash anywhere nor a zombie can duplicate or overlap.
//!
//! [`Worker::step`] does one small thing and says what to wait for; a thread, or a simulation, drives it. When the sink
//! fails in a way that may pass, the cut is kept and tried again, input stops, and the reason is told.

use std::collections::HashMap;
use std::sync::Arc;

use anabranch_models::{Model, Scratch};
use anabranch_stores::ErrorKind;
use anabranch_stores::lake::{LakeError, ObjectPath, PutOutcome};
use anabranch_stores::state::StateError;
use anabranch_stores::state::log::{LogRecord, shard_id};

use crate::object::{self, ObjectError, Trailer};
use crate::shared::{ShardHistories, Shared};
use crate::transform::{NO_OVERLAY, Output, Transform};

/// Bytes of records read at once.
const READ_BYTES_MAX: usize = 4 << 20;
/// Waiting times between attempts of a failing sink, in milliseconds: doubling up to the last.
const BACKOFF_MS: [u64; 7] = [100, 200, 400, 800, 1600, 3200, 5000];

/// What a step did, and what to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Something; step again.
    Worked,
    /// Nothing to do before a new record arrives or this many milliseconds passed.
    Idle {
        /// Milliseconds.
        wait_ms: u64,
    },
    /// The sink fails for now; step again after this many milliseconds.
    Stalled {
        /// Milliseconds.
        wait_ms: u64,
    },
}

/// Why a worker ends.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The state failed.
    #[error("{shard}: {source}")]
    State {
        /// The shard.
        shard: String,
        /// What happened.
        source: StateError,
    },
    /// The sink refuses in a way that waiting does not mend.
    #[error("{shard}: the sink refuses object {path}: {source}")]
    Sink {
        /// The shard.
        shard: String,
        /// The object.
        path: String,
        /// What happened.
        source: LakeError,
    },
    /// An object of the chain does not read.
    #[error("{shard}: {source}; move it away only if its lists may be made again")]
    Object {
        /// The shard.
        shard: String,
        /// What happened.
        source: ObjectError,
    },
    /// Compression failed.
    #[error("{shard}: compressing an object failed: {source}")]
    Compress {
        /// The shard.
        shard: String,
        /// What happened.
        source: std::io::Error,
    },
}

impl WorkerError {
    /// What the caller can do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::State { source, .. } => source.kind(),
            Self::Sink { source, .. } => source.kind(),
            Self::Object { .. } => ErrorKind::Corrupt,
            Self::Compress { .. } => ErrorKind::Bug,
        }
    }
}

/// A cut on its way out. Its bytes do not change between attempts.
#[derive(Debug)]
struct Cut {
    object: ObjectPath,
    bytes: Vec<u8>,
    trailer: Trailer,
    dead_letters: Option<(ObjectPath, Vec<u8>)>,
    is_delivered: bool,
}

#[derive(Debug)]
enum Phase {
    /// Looking for objects beyond the checkpoint.
    Recovering,
    /// Taking in records.
    Open,
    /// A cut is on its way out.
    Delivering(Box<Cut>),
}

/// One shard's worker.
#[derive(Debug)]
pub struct Worker {
    shared: Arc<Shared>,
    shard: u32,
    /// The open cut comes after this record: everything up to it is committed.
    after: u64,
    /// Everything up to here is applied.
    processed: u64,
    /// Arrival of the first record of the open cut, and when it was processed.
    first: Option<(u64, i64, u64)>,
    output: Output,
    scratch: Option<(Arc<Model>, Scratch)>,
    phase: Phase,
    attempts: usize,
    is_flushing: bool,
}

impl Worker {
    /// A worker for `shard`, before its recovery.
    pub fn new(shared: Arc<Shared>, shard: u32) -> Self {
        Self {
            shared,
            shard,
            after: 0,
            processed: 0,
            first: None,
            output: Output::default(),
            scratch: None,
            phase: Phase::Recovering,
            attempts: 0,
            is_flushing: false,
        }
    }

    /// Does one thing. See the module's documentation.
    pub fn step(&mut self) -> Result<Step, WorkerError> {
        match &self.phase {
            Phase::Recovering => self.recover(),
            Phase::Open => self.take_in(),
            Phase::Delivering(_) => self.deliver(),
        }
    }

    /// Makes the open cut due now; [`Worker::is_clean`] tells when it is committed.
    pub fn flush(&mut self) {
        self.is_flushing = true;
    }

    /// Whether nothing is applied that is not committed.
    pub fn is_clean(&self) -> bool {
        matches!(self.phase, Phase::Open) && self.first.is_none()
    }

    /// The shard.
    pub const fn shard(&self) -> u32 {
        self.shard
    }

    /// Everything up to here is applied.
    pub const fn processed(&self) -> u64 {
        self.processed
    }

    fn take_in(&mut self) -> Result<Step, WorkerError> {
        let settings = &self.shared.settings;
        let records = self.read(self.processed, settings.micro_batch_records)?;
        if !records.is_empty() {
            self.process(&records)?;
        }
        if let Some(wait_ms) = self.until_due() {
            if records.is_empty() {
                return Ok(Step::Idle { wait_ms });
            }
            return Ok(Step::Worked);
        }
        self.prepare_cut()?;
        Ok(Step::Worked)
    }

    /// Milliseconds until the open cut is due; `None` if it is due now.
    fn until_due(&mut self) -> Option<u64> {
        let settings = &self.shared.settings;
        let Some((_, _, opened_us)) = self.first else {
            self.is_flushing = false;
            return Some(settings.cut_after_ms.max(1000));
        };
        let is_full =
            self.output.lines.len() >= settings.cut_bytes || self.output.counts.records >= settings.cut_records as u64;
        let age_ms = self.shared.clock.monotonic_us().saturating_sub(opened_us) / 1000;
        if is_full || self.is_flushing || age_ms >= settings.cut_after_ms {
            return None;
        }
        Some(settings.cut_after_ms - age_ms)
    }

    fn process(&mut self, records: &[LogRecord]) -> Result<(), WorkerError> {
        let shared = Arc::clone(&self.shared);
        let _gate = shared.enter();
        let model = shared.model();
        self.use_model(&model);
        let (_, scratch) = self.scratch.as_mut().expect("use_model made one");
        let transform = transform(&shared, self.shard);
        {
            let mut dirty = shared.dirty(self.shard);
            let mut histories = ShardHistories { state: &shared.state, types: &shared.types, dirty: &mut dirty };
            transform
                .batch(records, &mut histories, &model, scratch, &mut self.output)
                .map_err(|source| WorkerError::State { shard: shard_id(self.shard), source })?;
        }
        let last = records.last().map_or(self.processed, |record| record.sequence);
        let first = records.first().map_or((last, 0), |record| (record.sequence, record.arrival_ms));
        self.first.get_or_insert((first.0, first.1, shared.clock.monotonic_us()));
        self.processed = last;
        shared.update_status(self.shard, |status| status.processed = last);
        shared.note_readable(self.shard, last);
        Ok(())
    }

    /// Buffers for the current model; its dimensions may differ from the last one's.
    fn use_model(&mut self, model: &Arc<Model>) {
        if self.scratch.as_ref().is_none_or(|(of, _)| !Arc::ptr_eq(of, model)) {
            self.scratch = Some((Arc::clone(model), model.recommender().scratch()));
        }
    }

    fn prepare_cut(&mut self) -> Result<(), WorkerError> {
        let shared = Arc::clone(&self.shared);
        let Some((first, first_arrival_ms, _)) = self.first else { return Ok(()) };
        let model = shared.model();
        self.use_model(&model);
        let (_, scratch) = self.scratch.as_mut().expect("use_model made one");
        {
            let _gate = shared.enter();
            let mut dirty = shared.dirty(self.shard);
            let mut histories = ShardHistories { state: &shared.state, types: &shared.types, dirty: &mut dirty };
            transform(&shared, self.shard)
                .finish(&mut histories, &model, scratch, &mut self.output)
                .map_err(|source| WorkerError::State { shard: shard_id(self.shard), source })?;
        }
        let lines = std::mem::take(&mut self.output.lines);
        let counts = std::mem::take(&mut self.output.counts);
        debug_assert!(counts.conserve(), "{counts:?}");
        let trailer = Trailer {
            version: object::VERSION,
            shard: self.shard,
            after: self.after,
            first,
            last: self.processed,
            counts,
            snapshot_version: model.version().to_owned(),
            overlay_version: NO_OVERLAY.to_owned(),
            bytes: lines.len() as u64,
            digest: object::digest(&lines),
        };
        let bytes = object::encode(&lines, &trailer, shared.settings.compression)
            .map_err(|source| WorkerError::Compress { shard: shard_id(self.shard), source })?;
        let dead_letters = self.dead_letters(first_arrival_ms)?;
        let object = self.path("recommendations", first_arrival_ms);
        self.phase = Phase::Delivering(Box::new(Cut { object, bytes, trailer, dead_letters, is_delivered: false }));
        self.attempts = 0;
        Ok(())
    }

    fn dead_letters(&mut self, first_arrival_ms: i64) -> Result<Option<(ObjectPath, Vec<u8>)>, WorkerError> {
        let dead = std::mem::take(&mut self.output.dead);
        if dead.is_empty() {
            return Ok(None);
        }
        let bytes = object::compress(&dead, self.shared.settings.compression)
            .map_err(|source| WorkerError::Compress { shard: shard_id(self.shard), source })?;
        Ok(Some((self.path("dead-letters", first_arrival_ms), bytes)))
    }

    /// Tries to bring the cut out: object, dead letters, histories and checkpoint, in this order.
    fn deliver(&mut self) -> Result<Step, WorkerError> {
        let Phase::Delivering(cut) = &mut self.phase else { return Ok(Step::Worked) };
        if !cut.is_delivered {
            match self.shared.sink.put_new(&cut.object, &cut.bytes) {
                Ok(PutOutcome::Created) => cut.is_delivered = true,
                Ok(PutOutcome::AlreadyExists) => {
                    match self.shared.sink.get_tail(&cut.object, object::TRAILER_BYTES as u64) {
                        Ok(tail) => {
                            let found = object::decode_trailer(cut.object.as_str(), &tail)
                                .map_err(|source| WorkerError::Object { shard: shard_id(self.shard), source })?;
                            if found == cut.trailer {
                                // An earlier attempt of ours landed though its answer was lost.
                                cut.is_delivered = true;
                            } else {
                                tracing::warn!(
                                    shard = self.shard,
                                    after = self.after,
                                    "another worker was first; rolling forward"
                                );
                                self.discard();
                                return Ok(Step::Worked);
                            }
                        }
                        Err(error) => return self.stall(error),
                    }
                }
                Err(error) => return self.stall(error),
            }
        }
        let Phase::Delivering(cut) = &mut self.phase else { return Ok(Step::Worked) };
        if let Some((path, bytes)) = &cut.dead_letters {
            match self.shared.sink.put_new(path, bytes) {
                Ok(PutOutcome::Created | PutOutcome::AlreadyExists) => cut.dead_letters = None,
                Err(error) => return self.stall(error),
            }
        }
        let (last, counts) = (cut.trailer.last, cut.trailer.counts);
        self.commit(last)?;
        self.shared.update_status(self.shard, |status| {
            status.counts.add(&counts);
            status.objects += 1;
        });
        self.unstall();
        Ok(Step::Worked)
    }

    /// Histories and checkpoint, in one synced batch. From here on the cut is history.
    fn commit(&mut self, last: u64) -> Result<(), WorkerError> {
        let _gate = self.shared.enter();
        let mut dirty = self.shared.dirty(self.shard);
        self.shared
            .state
            .commit(self.shard, last, &dirty, &self.shared.types)
            .map_err(|source| WorkerError::State { shard: shard_id(self.shard), source })?;
        dirty.clear();
        self.after = last;
        self.processed = self.processed.max(last);
        self.first = None;
        self.phase = Phase::Open;
        self.is_flushing = false;
        let processed = self.processed;
        self.shared.update_status(self.shard, |status| {
            status.committed = last;
            status.processed = processed;
        });
        Ok(())
    }

    /// Drops everything uncommitted and reads the chain again.
    fn discard(&mut self) {
        self.shared.dirty(self.shard).clear();
        self.output = Output::default();
        self.first = None;
        self.phase = Phase::Recovering;
    }

    fn stall(&mut self, error: LakeError) -> Result<Step, WorkerError> {
        match error.kind() {
            ErrorKind::Retry | ErrorKind::Full => {}
            _ => {
                let path = match &self.phase {
                    Phase::Delivering(cut) => cut.object.as_str().to_owned(),
                    _ => "of the chain".to_owned(),
                };
                return Err(WorkerError::Sink { shard: shard_id(self.shard), path, source: error });
            }
        }
        let why = format!("{} cannot deliver: {error}", shard_id(self.shard));
        self.shared.update_status(self.shard, |status| status.stalled = Some(why.clone()));
        self.shared.set_blocked("sink", Some(why));
        let wait_ms = BACKOFF_MS[self.attempts.min(BACKOFF_MS.len() - 1)];
        self.attempts += 1;
        Ok(Step::Stalled { wait_ms })
    }

    fn unstall(&mut self) {
        self.attempts = 0;
        self.shared.update_status(self.shard, |status| status.stalled = None);
        let is_any_stalled = (0..self.shared.shard_count()).any(|shard| self.shared.status(shard).stalled.is_some());
        if !is_any_stalled {
            self.shared.set_blocked("sink", None);
        }
    }

    /// Walks the chain of objects from the checkpoint to its end.
    fn recover(&mut self) -> Result<Step, WorkerError> {
        let state_error = |source| WorkerError::State { shard: shard_id(self.shard), source };
        self.after = self.shared.state.checkpoint(self.shard).map_err(state_error)?;
        self.processed = self.after;
        let newest = self.shared.state.newest(self.shard).map_err(state_error)?;
        let known = if self.shared.state.is_restored() {
            match self.chain_by_listing() {
                Ok(known) => Some(known),
                Err(error) => return self.stall(error),
            }
        } else {
            None
        };
        loop {
            let next = self.read(self.after, 1)?;
            let path = match (&known, next.first()) {
                (Some(known), _) => known.get(&self.after).cloned(),
                (None, Some(record)) => Some(self.path("recommendations", record.arrival_ms)),
                (None, None) => None,
            };
            let Some(path) = path else { break };
            let (path, tail) = match self.find(path) {
                Ok(Some(found)) => found,
                Ok(None) => break,
                Err(error) => return self.stall(error),
            };
            let trailer = object::decode_trailer(path.as_str(), &tail)
                .map_err(|source| WorkerError::Object { shard: shard_id(self.shard), source })?;
            if let Some(error) = self.roll_forward(&trailer)? {
                return self.stall(error);
            }
        }
        self.unstall();
        self.phase = Phase::Open;
        let (committed, processed) = (self.after, self.processed);
        self.shared.update_status(self.shard, |status| {
            status.committed = committed;
            status.processed = processed;
            status.newest = status.newest.max(newest);
        });
        Ok(Step::Worked)
    }

    /// The trailer of the object at `path`, or at the same place with the other compression (the setting may have
    /// changed since it was written).
    fn find(&self, path: ObjectPath) -> Result<Option<(ObjectPath, bytes::Bytes)>, LakeError> {
        for path in [object::other_compression(path.as_str()), path] {
            match self.shared.sink.get_tail(&path, object::TRAILER_BYTES as u64) {
                Ok(tail) => return Ok(Some((path, tail))),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Joins what an object covers and commits it. Returns the sink's error if dead letters could not be written.
    fn roll_forward(&mut self, trailer: &Trailer) -> Result<Option<LakeError>, WorkerError> {
        tracing::info!(
            shard = self.shard,
            after = trailer.after,
            last = trailer.last,
            "rolling forward over an object"
        );
        let mut first_arrival_ms = None;
        let mut output = Output::default();
        let mut position = self.after;
        while position < trailer.last {
            let mut records = self.read(position, 1000)?;
            records.retain(|record| record.sequence <= trailer.last);
            let Some(last) = records.last() else {
                tracing::warn!(
                    shard = self.shard,
                    position,
                    last = trailer.last,
                    "an object covers records that the log does not hold (a restored backup): they stay out of the histories"
                );
                break;
            };
            position = last.sequence;
            first_arrival_ms.get_or_insert(records[0].arrival_ms);
            let _gate = self.shared.enter();
            let mut dirty = self.shared.dirty(self.shard);
            let mut histories =
                ShardHistories { state: &self.shared.state, types: &self.shared.types, dirty: &mut dirty };
            transform(&self.shared, self.shard)
                .roll_forward(&records, &mut histories, &mut output)
                .map_err(|source| WorkerError::State { shard: shard_id(self.shard), source })?;
        }
        if let Some(first_arrival_ms) = first_arrival_ms {
            self.output.dead = output.dead;
            if let Some((path, bytes)) = self.dead_letters(first_arrival_ms)?
                && let Err(error) = self.shared.sink.put_new(&path, &bytes)
            {
                self.shared.dirty(self.shard).clear();
                return Ok(Some(error));
            }
        }
        self.commit(trailer.last)?;
        self.phase = Phase::Recovering;
        Ok(None)
    }

    /// After a restore the log may lack the records that objects begin with, so their names are looked up.
    fn chain_by_listing(&self) -> Result<HashMap<u64, ObjectPath>, LakeError> {
        let objects = self.shared.sink.list(&format!("recommendations/{}", self.shared.namespace))?;
        Ok(objects
            .into_iter()
            .filter_map(|object| match object::parse_name(object.path.as_str()) {
                Some((shard, after)) if shard == self.shard => Some((after, object.path)),
                _ => None,
            })
            .collect())
    }

    fn path(&self, branch: &str, first_arrival_ms: i64) -> ObjectPath {
        let kind = format!("{branch}/{}", self.shared.namespace);
        let name =
            object::object_name(&kind, self.shard, self.after, first_arrival_ms, self.shared.settings.compression);
        ObjectPath::new(name).expect("names are made of checked settings, digits and fixed words")
    }

    fn read(&self, after: u64, records_max: usize) -> Result<Vec<LogRecord>, WorkerError> {
        self.shared
            .state
            .read_after(self.shard, after, records_max, READ_BYTES_MAX)
            .map_err(|source| WorkerError::State { shard: shard_id(self.shard), source })
    }
}

fn transform(shared: &Shared, shard: u32) -> Transform<'_> {
    Transform {
        types: &shared.types,
        namespace: &shared.namespace,
        shard,
        mode: shared.settings.mode,
        list_length: shared.settings.list_length,
        hide: shared.settings.hide,
    }
}

#[cfg(test)]
mod tests;
