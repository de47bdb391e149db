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
//! [`Worker::step`] does one small thing and says what to wait for; a thread, or a simulation, drives it. When the
//! reader, the state or the sink fails in a way that may pass, the worker keeps what it holds (a page, a cut, its place
//! on the way of recovery), takes nothing else in, says why, and the next step tries the same again.
//!
//! | file | what lives there |
//! |---|---|
//! | here | the open cut: taking in, joining, committing, the end of a shard |
//! | `deliver` | a cut on its way out |
//! | `recover` | walking the chain of objects from the checkpoint to its end |
//! | `error` | what can go wrong, and whether it may pass |
//!
//! Not here: which worker has which shard (a lease may be wrong for a while), and how often to ask an idle source.

use std::sync::Arc;

use anabranch_models::{Model, Scratch};
use anabranch_stores::lake::ObjectPath;

use crate::histories::{self, read_ahead};
use crate::notify::Notice;
use crate::object;
use crate::ports::{Checkpoint, Commit, Page, Position, Record, ShardId, ShardReader};
use crate::settings::Mode;
use crate::shared::{Shard, Shared};
use crate::transform::{Output, Transform};

mod deliver;
mod error;
mod recover;

use error::Trouble;
pub use error::WorkerError;

/// Bytes of records read at once.
const READ_BYTES_MAX: usize = 4 << 20;
/// Waiting times between attempts of what fails, in milliseconds: doubling up to the last.
const BACKOFF_MS: [u64; 7] = [100, 200, 400, 800, 1600, 3200, 5000];
/// Wait after an empty page that is not the newest, in milliseconds: a shard of Kinesis answers five reads a second.
const EMPTY_PAGE_MS: u64 = 200;

/// How long a place in the chain is believed, in milliseconds. The folder of the next object is known by its first record;
/// once retention took that record (Kinesis: 24 hours at the least) a worker that slept would deliver into another
/// folder what others delivered long ago. Longer than the longest cut.
const PLACE_MS_MAX: u64 = 6 * 3_600_000;

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
    /// Reader, state or sink fails for now; step again after this many milliseconds.
    Stalled {
        /// Milliseconds.
        wait_ms: u64,
    },
    /// The shard was closed and everything in it is committed, its end too. There is nothing left to do, ever.
    Ended,
}

#[derive(Debug)]
enum Phase {
    /// Looking for objects beyond the checkpoint; `None` before the checkpoint is read.
    Recovering(Option<Box<recover::Walk>>),
    /// Taking in records.
    Open,
    /// A cut is on its way out.
    Delivering(Box<deliver::Cut>),
    /// The shard is read to its end.
    Ended,
}

/// How the open cut began.
#[derive(Clone, Copy, Debug)]
struct First {
    position: Position,
    arrival_ms: i64,
    /// When it was processed, by the monotonic clock.
    opened_us: u64,
}

/// One shard's worker.
#[derive(Debug)]
pub struct Worker {
    shared: Arc<Shared>,
    id: ShardId,
    shard: Arc<Shard>,
    reader: Box<dyn ShardReader>,
    /// The open cut comes after this: everything up to it is committed.
    after: Position,
    /// Everything up to here is applied.
    processed: Position,
    /// What was read after `processed` and is not applied yet.
    page: Option<Page>,
    /// No record comes after `processed` and `page`.
    is_at_end: bool,
    first: Option<First>,
    output: Output,
    /// What the next commit wants sent.
    notices: Vec<Notice>,
    scratch: Option<(Arc<Model>, Scratch)>,
    phase: Phase,
    attempts: usize,
    is_flushing: bool,
    /// The chain has the form of our settings.
    is_form_claimed: bool,
    /// When the chain was last seen to end at our place (its checkpoint was read, our object was created), by both clocks:
    /// the monotonic one may stand still while a machine is suspended, the other may step. A commit says nothing of it.
    placed: (u64, i64),
}

impl Worker {
    /// A worker for shard `id`, whose records `reader` reads, before its recovery.
    pub fn new(shared: Arc<Shared>, id: ShardId, reader: Box<dyn ShardReader>) -> Self {
        let shard = shared.enter_shard(id);
        Self {
            shared,
            id,
            shard,
            reader,
            after: Position::START,
            processed: Position::START,
            page: None,
            is_at_end: false,
            first: None,
            output: Output::default(),
            notices: Vec::new(),
            scratch: None,
            phase: Phase::Recovering(None),
            attempts: 0,
            is_flushing: false,
            is_form_claimed: false,
            placed: (0, 0),
        }
    }

    /// Does one thing. See the module's documentation.
    pub fn step(&mut self) -> Result<Step, WorkerError> {
        let done = match &self.phase {
            Phase::Recovering(_) => self.recover(),
            Phase::Open => self.take_in(),
            Phase::Delivering(_) => self.deliver(),
            Phase::Ended => return Ok(Step::Ended),
        };
        match done {
            Ok(step) => {
                if self.attempts > 0 {
                    self.attempts = 0;
                    self.shared.note_progress(&self.shard);
                }
                Ok(step)
            }
            Err(Trouble::Passing { cause, why }) => {
                self.shared.note_stall(&self.shard, cause, why);
                let wait_ms = BACKOFF_MS[self.attempts.min(BACKOFF_MS.len() - 1)];
                self.attempts += 1;
                Ok(Step::Stalled { wait_ms })
            }
            Err(Trouble::Final(error)) => Err(*error),
        }
    }

    /// Makes the open cut due now; [`Worker::is_clean`] tells when it is committed.
    pub fn flush(&mut self) {
        self.is_flushing = true;
    }

    /// Whether nothing is applied that is not committed.
    pub fn is_clean(&self) -> bool {
        matches!(self.phase, Phase::Open | Phase::Ended) && self.first.is_none()
    }

    /// Whether the chain of objects is not walked to its end yet.
    pub const fn is_recovering(&self) -> bool {
        matches!(self.phase, Phase::Recovering(_))
    }

    /// The shard.
    pub const fn shard(&self) -> ShardId {
        self.id
    }

    /// Everything up to here is committed.
    pub const fn committed(&self) -> Position {
        self.after
    }

    /// Everything up to here is applied.
    pub const fn processed(&self) -> Position {
        self.processed
    }

    fn take_in(&mut self) -> Result<Step, Trouble> {
        if self.until_due().is_none() {
            return self.cut();
        }
        if self.is_at_end {
            // Nothing is open, or its cut would be due.
            if self.is_place_old() {
                // What was delivered since, and is no longer there to be read, ends further on.
                self.discard();
                return Ok(Step::Worked);
            }
            self.commit(Checkpoint::ShardEnd(self.processed))?;
            return Ok(Step::Worked);
        }
        let page = self.next_page()?;
        if let Err(trouble) = self.process(&page.records) {
            self.page = Some(page);
            return Err(trouble);
        }
        let is_empty = page.records.is_empty() && page.through.is_none();
        self.consumed(&page);
        match self.until_due() {
            Some(_) if self.is_at_end || !is_empty => Ok(Step::Worked),
            Some(wait_ms) if page.is_caught_up() => Ok(Step::Idle { wait_ms }),
            Some(wait_ms) => Ok(Step::Idle { wait_ms: wait_ms.min(EMPTY_PAGE_MS) }),
            None => self.cut(),
        }
    }

    /// Milliseconds until the open cut is due; `None` if it is due now.
    fn until_due(&mut self) -> Option<u64> {
        let settings = &self.shared.settings;
        let Some(First { opened_us, .. }) = self.first else {
            self.is_flushing = false;
            return Some(settings.cut_after_ms.max(1000));
        };
        let is_full = self.output.lines.len() + self.output.dead.len() >= settings.cut_bytes
            || self.output.counts.records >= settings.cut_records as u64
            || histories::read(&self.shard.histories).uncommitted().len() >= settings.cut_histories;
        let age_ms = self.shared.clock.monotonic_us().saturating_sub(opened_us) / 1000;
        if is_full || self.is_flushing || self.is_at_end || age_ms >= settings.cut_after_ms {
            return None;
        }
        Some(settings.cut_after_ms - age_ms)
    }

    /// The page that waits, or the next one.
    fn next_page(&mut self) -> Result<Page, Trouble> {
        if let Some(page) = self.page.take() {
            return Ok(page);
        }
        let asked_ms = self.shared.clock.now_ms();
        let page = self.reader.read_after(self.processed, self.shared.settings.micro_batch_records, READ_BYTES_MAX);
        let page = page.map_err(|source| Trouble::reader(self.id, source))?;
        self.shard.update_status(|status| {
            let asked_before_ms = std::mem::replace(&mut status.asked_ms, asked_ms);
            status.behind_ms = page.behind_ms;
            if page.records.is_empty() && page.is_caught_up() {
                // Whatever had arrived then is applied.
                let told_ms = if page.is_pushed { asked_before_ms.min(asked_ms) } else { asked_ms };
                status.settled_ms = status.settled_ms.max(told_ms);
            }
        });
        Ok(page)
    }

    /// Moves on over a page that is applied.
    fn consumed(&mut self, page: &Page) {
        let last = page.records.last().map(|record| record.position).max(page.through);
        self.processed = self.processed.max(last.unwrap_or(Position::START));
        self.is_at_end = page.is_end_of_shard;
        let processed = self.processed;
        self.shard.update_status(|status| {
            status.processed = processed;
            if let Some(last) = page.records.last() {
                status.settled_ms = status.settled_ms.max(last.arrival_ms);
            }
        });
    }

    /// Joins records and makes their lists. If it fails it has done nothing.
    fn process(&mut self, records: &[Record]) -> Result<(), Trouble> {
        let (Some(first), Some(last)) = (records.first(), records.last()) else { return Ok(()) };
        let shared = Arc::clone(&self.shared);
        let _gate = shared.enter();
        let model = shared.model();
        let transform = transform(&shared, self.id);
        let batch = transform.decode(records);
        // In per-user mode the questions come with the cut.
        let asks_now = shared.settings.mode == Mode::PerEvent;
        let asked = batch.owners().filter(|_| asks_now);
        read_ahead(&*shared.state, &shared.types, &self.shard.histories, batch.touched(), asked)
            .map_err(|source| Trouble::state(self.id, source))?;
        let pending = {
            let mut histories = histories::write(&self.shard.histories);
            transform.join(batch, &mut histories, &model, &mut self.output)
        };
        let scratch = scratch(&mut self.scratch, &model);
        transform.score(&pending, &model, scratch, &mut self.output);
        self.notices.append(&mut self.output.notices);
        self.first.get_or_insert_with(|| First {
            position: first.position,
            arrival_ms: first.arrival_ms,
            opened_us: shared.clock.monotonic_us(),
        });
        shared.note_readable(&self.shard, last.position);
        Ok(())
    }

    /// Notices, histories and checkpoint. From here on the cut is history.
    fn commit(&mut self, checkpoint: Checkpoint) -> Result<(), Trouble> {
        let shared = Arc::clone(&self.shared);
        let _gate = shared.enter();
        {
            // Others may read meanwhile; nobody else writes.
            let held = histories::read(&self.shard.histories);
            let (histories, notices) = (held.uncommitted(), &self.notices);
            let commit = Commit { shard: self.id, checkpoint, histories, types: &shared.types, notices };
            shared.state.commit(commit).map_err(|source| Trouble::state(self.id, source))?;
        }
        shared.count_notices(|counts| counts.queued += self.notices.len() as u64);
        self.notices.clear();
        histories::write(&self.shard.histories).clear();
        self.after = checkpoint.position();
        self.processed = self.processed.max(self.after);
        self.first = None;
        self.phase = Phase::Open;
        if matches!(checkpoint, Checkpoint::ShardEnd(_)) {
            self.end();
        }
        self.is_flushing = false;
        self.tell_place();
        Ok(())
    }

    /// Nothing arrives in the shard any more.
    fn end(&mut self) {
        self.phase = Phase::Ended;
        self.shard.update_status(|status| status.settled_ms = i64::MAX);
    }

    /// Whether so long ago was looked where the chain ends that it must be looked again.
    fn is_place_old(&self) -> bool {
        let (placed_us, placed_ms) = self.placed;
        let clock = &self.shared.clock;
        clock.monotonic_us().saturating_sub(placed_us) / 1000 >= PLACE_MS_MAX
            || clock.now_ms().abs_diff(placed_ms) >= PLACE_MS_MAX
    }

    /// What both clocks say.
    fn now(&self) -> (u64, i64) {
        (self.shared.clock.monotonic_us(), self.shared.clock.now_ms())
    }

    fn tell_place(&self) {
        self.shard.update_status(|status| {
            status.committed = self.after;
            status.processed = self.processed;
        });
    }

    /// Drops everything uncommitted and reads the chain again.
    fn discard(&mut self) {
        histories::write(&self.shard.histories).clear();
        self.output = Output::default();
        self.notices.clear();
        self.page = None;
        self.is_at_end = false;
        self.first = None;
        self.phase = Phase::Recovering(None);
    }

    /// The object after `self.after`.
    fn object_path(&self, first_arrival_ms: i64) -> ObjectPath {
        let kind = format!("{}/{}", object::LISTS, self.shared.namespace);
        let name = object::object_name(&kind, self.id, self.after, first_arrival_ms, self.shared.settings.form());
        ObjectPath::new(name).expect("names are made of checked settings, digits and fixed words")
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.shared.leave_shard(self.id, &self.shard);
    }
}

/// Buffers for `model`; its dimensions may differ from those of the last one.
fn scratch<'s>(held: &'s mut Option<(Arc<Model>, Scratch)>, model: &Arc<Model>) -> &'s mut Scratch {
    if held.as_ref().is_none_or(|(of, _)| !Arc::ptr_eq(of, model)) {
        *held = Some((Arc::clone(model), model.recommender().scratch()));
    }
    &mut held.as_mut().expect("made above").1
}

fn transform(shared: &Shared, shard: ShardId) -> Transform<'_> {
    Transform {
        types: &shared.types,
        namespace: &shared.namespace,
        shard,
        mode: shared.settings.mode,
        list_length: shared.settings.list_length,
        hide: shared.settings.hide,
        rules: shared.rules(),
    }
}

#[cfg(test)]
mod tests;
