//! A cut on its way out: object, dead letters, histories and checkpoint, in this order. What is done is not done again,
//! and nothing after it is begun before it.

use std::sync::Arc;

use anabranch_stores::lake::{ObjectPath, PutOutcome};

use super::error::{Trouble, WorkerError};
use super::{Phase, Step, Worker, scratch, transform};
use crate::histories::{self, read_ahead};
use crate::measures::{Counted, ListTimes, Tally};
use crate::object::{self, Trailer};
use crate::ports::Checkpoint;
use crate::transform::NO_OVERLAY;

/// A cut on its way out. Its bytes do not change between attempts.
#[derive(Debug)]
pub(super) struct Cut {
    pub(super) object: ObjectPath,
    pub(super) bytes: Vec<u8>,
    pub(super) trailer: Trailer,
    pub(super) dead_letters: Option<(ObjectPath, Vec<u8>)>,
    pub(super) tally: Tally,
    pub(super) times: Vec<ListTimes>,
    pub(super) is_delivered: bool,
}

impl Worker {
    /// Closes the open cut; from here on its bytes are fixed.
    pub(super) fn cut(&mut self) -> Result<Step, Trouble> {
        let Some(first) = self.first else { return Ok(Step::Worked) };
        let shared = Arc::clone(&self.shared);
        let model = shared.model();
        {
            let _gate = shared.enter();
            let owners = self.output.owners();
            read_ahead(&*shared.state, &shared.types, &self.shard.histories, std::iter::empty(), owners)
                .map_err(|source| Trouble::state(self.id, source))?;
            let histories = histories::read(&self.shard.histories);
            let scratch = scratch(&mut self.scratch, &model);
            transform(&shared, self.id).finish(&histories, &model, scratch, &mut self.output);
        }
        let lines = std::mem::take(&mut self.output.lines);
        let counts = std::mem::take(&mut self.output.counts);
        let (tally, times) = (std::mem::take(&mut self.output.tally), std::mem::take(&mut self.output.times));
        debug_assert!(counts.conserve(), "{counts:?}");
        let trailer = Trailer {
            version: object::VERSION,
            shard: self.id,
            after: self.after,
            first: first.position,
            last: self.processed,
            counts,
            snapshot_version: model.version().to_owned(),
            overlay_version: NO_OVERLAY.to_owned(),
            bytes: lines.len() as u64,
            digest: object::digest(&lines),
        };
        let bytes = object::encode(&lines, &trailer, shared.settings.form())
            .map_err(|source| WorkerError::Compress { shard: self.id, source })?;
        let object = self.object_path(first.arrival_ms);
        let dead = std::mem::take(&mut self.output.dead);
        let dead_letters = self.dead_letters(&dead, &object)?;
        let cut = Cut { object, bytes, trailer, dead_letters, tally, times, is_delivered: false };
        self.phase = Phase::Delivering(Box::new(cut));
        Ok(Step::Worked)
    }

    /// Path and bytes of the dead letters beside `object`, if there are any.
    pub(super) fn dead_letters(
        &self,
        dead: &[u8],
        object: &ObjectPath,
    ) -> Result<Option<(ObjectPath, Vec<u8>)>, WorkerError> {
        if dead.is_empty() {
            return Ok(None);
        }
        let (path, compression) = object::dead_letters_beside(object);
        let bytes =
            object::compress(dead, compression).map_err(|source| WorkerError::Compress { shard: self.id, source })?;
        Ok(Some((path, bytes)))
    }

    /// Tries to bring the cut out: object, dead letters, histories and checkpoint, in this order. What is done is not
    /// done again.
    pub(super) fn deliver(&mut self) -> Result<Step, Trouble> {
        let (is_place_old, now) = (self.is_place_old(), self.now());
        let Phase::Delivering(cut) = &mut self.phase else { return Ok(Step::Worked) };
        if is_place_old && !cut.is_delivered {
            tracing::warn!(shard = %self.id, after = %self.after, "slept or waited for hours; the chain is looked at anew");
            self.discard();
            return Ok(Step::Worked);
        }
        let (id, sink) = (self.id, &self.shared.sink);
        if !cut.is_delivered {
            let trouble = |error| Trouble::sink(id, cut.object.as_str(), error);
            match sink.put_new(&cut.object, &cut.bytes).map_err(trouble)? {
                PutOutcome::Created => self.placed = now,
                PutOutcome::AlreadyExists => {
                    let tail = sink.get_tail(&cut.object, object::tail_bytes(cut.object.as_str())).map_err(trouble)?;
                    let found = object::decode_trailer(cut.object.as_str(), &tail)
                        .map_err(|source| WorkerError::Object { shard: id, source })?;
                    if found != cut.trailer {
                        tracing::warn!(shard = %id, after = %self.after, "another worker was first; rolling forward");
                        self.discard();
                        return Ok(Step::Worked);
                    }
                    // Equal: an earlier attempt of ours landed though its answer was lost, who knows when.
                }
            }
            cut.is_delivered = true;
            self.shared.note_delivered(cut.trailer.counts.records, &cut.times);
        }
        if let Some((path, bytes)) = &cut.dead_letters {
            // A function of the range: what is there already is the same.
            let _ = sink.put_new(path, bytes).map_err(|error| Trouble::sink(id, path.as_str(), error))?;
            cut.dead_letters = None;
        }
        let last = cut.trailer.last;
        let counted = Counted { counts: cut.trailer.counts, tally: cut.tally };
        self.commit(Checkpoint::After(last))?;
        self.shard.update_status(|status| {
            status.add(&counted);
            status.objects += 1;
        });
        Ok(Step::Worked)
    }
}
