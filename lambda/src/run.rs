//! What both functions do with records: decode → histories in few reads → join → lists, each with its record.
//!
//! The same functions as the worker's ([`Transform`], [`read_ahead`]); here each record is decoded and joined by itself,
//! so that what became of it is known, and everything is scored together. Nothing is written: a caller delivers and
//! commits, and if it delivers a part only it joins that part again, from what is stored, and commits that.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockWriteGuard};

use anabranch_events::{EventTypes, HistoryKey};
use anabranch_models::{Model, Scratch};
use anabranch_stores::lake::{LakeError, ObjectStore};
use anabranch_stream::histories::{Histories, read_ahead};
use anabranch_stream::measures::{ListTimes, Tally};
use anabranch_stream::notify::{Notice, NotifyError, Rules};
use anabranch_stream::object::Counts;
use anabranch_stream::ports::{PortError, Position, Record, ShardId, StateStore};
use anabranch_stream::settings::Mode;
use anabranch_stream::transform::{Batch, Earned, Output, Pending, Transform};
use anabranch_stream::{Clock, StreamSettings};

/// What stays over the invocations of a function.
#[derive(Debug)]
pub struct Function {
    /// Histories and checkpoints.
    pub state: Arc<dyn StateStore>,
    /// Where objects and dead letters go.
    pub sink: Arc<dyn ObjectStore>,
    /// Settings under which histories are folded.
    pub types: EventTypes,
    /// The `[stream]` settings, checked.
    pub settings: StreamSettings,
    /// Namespace of ids and folders.
    pub namespace: String,
    /// What triggers notifications: they are kept with the histories, and sent by [`notify`](crate::notify).
    pub rules: Rules,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Buffers of the model that scored last.
    pub scratch: ScratchPool,
    /// Whether the chain of objects has the form of the settings; asked once a process.
    pub chain: ChainForm,
}

/// Set once the chain of objects is known to have the form of the settings.
pub type ChainForm = std::sync::OnceLock<()>;

/// Buffers are kept between invocations; only one is under way at a time.
#[derive(Debug, Default)]
pub struct ScratchPool(Mutex<Option<(Arc<Model>, Scratch)>>);

impl ScratchPool {
    fn with<T>(&self, model: &Arc<Model>, run: impl FnOnce(&mut Scratch) -> T) -> T {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same = held.as_ref().is_some_and(|(of, _)| Arc::ptr_eq(of, model));
        let mut scratch = match held.take() {
            Some((_, scratch)) if is_same => scratch,
            _ => model.recommender().scratch(),
        };
        let done = run(&mut scratch);
        *held = Some((Arc::clone(model), scratch));
        done
    }
}

/// Why an invocation failed as a whole: whoever invoked it tries it again.
#[derive(Debug, thiserror::Error)]
pub enum InvocationError {
    /// Histories or checkpoints.
    #[error(transparent)]
    State(#[from] PortError),
    /// Objects or dead letters.
    #[error(transparent)]
    Sink(#[from] LakeError),
    /// An object in the chain is damaged or newer than this program.
    #[error(transparent)]
    Object(#[from] anabranch_stream::object::ObjectError),
    /// The chain of objects has another form than the settings.
    #[error(transparent)]
    Form(#[from] anabranch_stream::object::FormError),
    /// A record in the range of an object that does not hold its list.
    #[error(
        "{shard}: the record at {position} has no list, though it lies in the range of {object}: batches of this shard \
         come side by side, which exactly-once objects do not allow. Set the event source mapping's \
         ParallelizationFactor to 1, then see \"Batches side by side\" in docs/operations.md"
    )]
    SideBySide {
        /// The shard.
        shard: ShardId,
        /// The record.
        position: Position,
        /// The object.
        object: String,
    },
    /// Lines could not be compressed.
    #[error("compressing: {0}")]
    Compress(#[from] std::io::Error),
    /// Notifications could not be sent.
    #[error(transparent)]
    Notify(#[from] NotifyError),
}

/// What histories an invocation holds; shards of one invocation share it, since a user may be in two.
#[derive(Debug, Default)]
pub struct Held {
    pub(crate) histories: RwLock<Histories>,
    /// Which events earned a list already, for a caller that delivers after its commit.
    pub(crate) earned: Option<Earned>,
}

impl Held {
    /// For a caller that delivers after its commit: an event that a history holds earns its list again.
    pub fn repeating() -> Self {
        Self { histories: RwLock::default(), earned: Some(Earned::default()) }
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Histories> {
        self.histories.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What became of a record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fate {
    /// Its lists, by their place in [`Applied::lines`].
    pub lines: Vec<usize>,
    /// Events of it that were refused.
    pub rejected: u64,
    /// Their dead letters, in [`Applied::dead`].
    pub dead: Range<usize>,
}

/// What records did.
#[derive(Clone, Debug, Default)]
pub struct Applied {
    /// JSON Lines of recommendations.
    pub text: Vec<u8>,
    /// Each line in `text`, its newline included.
    pub lines: Vec<Range<usize>>,
    /// The record that goes with each line. In per-user mode the first that names the user: who begins again there
    /// makes the list again.
    pub records: Vec<usize>,
    /// JSON Lines of dead letters.
    pub dead: Vec<u8>,
    /// One for each record.
    pub fates: Vec<Fate>,
    /// What happened.
    pub counts: Counts,
    /// What was counted beside it, at other places.
    pub tally: Tally,
    /// Of each list, when its event happened and arrived.
    pub times: Vec<ListTimes>,
    /// What is to be sent.
    pub notices: Vec<Notice>,
}

impl Function {
    /// Joins records of one shard into `held` and makes their lists.
    pub fn apply(
        &self,
        shard: ShardId,
        records: &[Record],
        model: &Arc<Model>,
        held: &mut Held,
    ) -> Result<Applied, PortError> {
        self.join(shard, records, model, held, true)
    }

    /// Joins records and makes no list: what is committed after a part of them was delivered.
    pub fn apply_unscored(
        &self,
        shard: ShardId,
        records: &[Record],
        model: &Arc<Model>,
        held: &mut Held,
    ) -> Result<Applied, PortError> {
        self.join(shard, records, model, held, false)
    }

    fn join(
        &self,
        shard: ShardId,
        records: &[Record],
        model: &Arc<Model>,
        held: &mut Held,
        is_scored: bool,
    ) -> Result<Applied, PortError> {
        let transform = self.transform(shard);
        let batches: Vec<Batch<'_>> = records.chunks(1).map(|record| transform.decode(record)).collect();
        let is_per_event = self.settings.mode == Mode::PerEvent;
        let asked = batches.iter().filter(|_| is_per_event && is_scored).flat_map(Batch::owners);
        let touched = batches.iter().flat_map(Batch::touched);
        read_ahead(&*self.state, &self.types, &held.histories, touched, asked)?;

        let mut applied = Applied::default();
        let mut output = Output::default();
        let mut pending: Vec<Pending<'_>> = Vec::new();
        let mut first_of: HashMap<HistoryKey, usize> = HashMap::new();
        {
            let mut histories = held.histories.write().unwrap_or_else(PoisonError::into_inner);
            for (index, batch) in batches.into_iter().enumerate() {
                if !is_per_event {
                    for owner in batch.owners() {
                        first_of.entry(owner.clone()).or_insert(index);
                    }
                }
                let (rejected, dead) = (output.counts.rejected, output.dead.len());
                let asked = match &mut held.earned {
                    Some(earned) => transform.join_repeating(batch, &mut histories, model, &mut output, earned),
                    None => transform.join(batch, &mut histories, model, &mut output),
                };
                applied.records.extend(std::iter::repeat_n(index, asked.len()));
                pending.extend(asked);
                applied.fates.push(Fate {
                    lines: Vec::new(),
                    rejected: output.counts.rejected - rejected,
                    dead: dead..output.dead.len(),
                });
            }
        }
        applied.records.extend(output.owners().map(|owner| first_of.get(owner).copied().unwrap_or_default()));
        if is_scored {
            self.score(&transform, &pending, model, held, &mut output)?;
        } else {
            output.counts.delivered = applied.records.len() as u64;
        }
        (applied.tally, applied.times) = (output.tally, output.times);
        applied.counts = output.counts;
        applied.dead = output.dead;
        applied.notices = output.notices;
        applied.text = output.lines;
        applied.place_lines();
        Ok(applied)
    }

    fn score(
        &self,
        transform: &Transform<'_>,
        pending: &[Pending<'_>],
        model: &Arc<Model>,
        held: &Held,
        output: &mut Output,
    ) -> Result<(), PortError> {
        if self.settings.mode == Mode::PerUser {
            read_ahead(&*self.state, &self.types, &held.histories, std::iter::empty(), output.owners())?;
        }
        self.scratch.with(model, |scratch| {
            for pending in pending.chunks(self.settings.micro_batch_records) {
                transform.score(pending, model, scratch, output);
            }
            let histories = held.histories.read().unwrap_or_else(PoisonError::into_inner);
            transform.finish(&histories, model, scratch, output);
        });
        Ok(())
    }

    fn transform(&self, shard: ShardId) -> Transform<'_> {
        Transform {
            types: &self.types,
            namespace: &self.namespace,
            shard,
            mode: self.settings.mode,
            list_length: self.settings.list_length,
            hide: self.settings.hide,
            rules: &self.rules,
        }
    }
}

impl Applied {
    /// Each line's bytes, its newline included.
    pub fn lines(&self) -> impl Iterator<Item = &[u8]> {
        self.lines.iter().map(|range| &self.text[range.clone()])
    }

    /// Finds the lines, and gives them to their records.
    fn place_lines(&mut self) {
        let mut from = 0;
        for (index, line) in self.text.split_inclusive(|byte| *byte == b'\n').enumerate() {
            self.lines.push(from..from + line.len());
            from += line.len();
            self.fates[self.records[index]].lines.push(index);
        }
    }
}
