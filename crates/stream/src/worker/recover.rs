//! Walking the chain of objects from the checkpoint to its end.
//!
//! An object beyond the checkpoint is a cut that came out although its commit did not: it is rolled forward over. Its
//! name needs its first record's arrival time, so the walk asks the reader for the next record and looks under that
//! name. Where the reader may lack that record (expired retention, a restored log) the names come from a listing.

use std::collections::HashMap;
use std::sync::Arc;

use anabranch_stores::ErrorKind;
use anabranch_stores::lake::{LakeError, ObjectPath};

use super::error::{Trouble, WorkerError};
use super::{EMPTY_PAGE_MS, Phase, Step, Worker, transform};
use crate::histories::{self, read_ahead};
use crate::object::{self, ObjectError, Trailer};
use crate::ports::{Checkpoint, Page, Position};
use crate::transform::Output;

/// The way of a recovery.
#[derive(Debug)]
pub(super) struct Walk {
    /// The checkpoint says that the shard is read to its end.
    is_ended: bool,
    /// The objects of the shard by what they come after, if they had to be listed.
    listed: Option<HashMap<Position, ObjectPath>>,
    /// The object that is rolled forward over.
    rolling: Option<Rolling>,
}

#[derive(Debug)]
struct Rolling {
    path: ObjectPath,
    trailer: Trailer,
    output: Output,
    /// Everything that it covers, and that is still there, is joined.
    is_joined: bool,
    /// A page said that nothing is there.
    is_told_empty: bool,
}

impl Worker {
    /// One thing on the way: the checkpoint, the next object, a page of its records, its commit.
    pub(super) fn recover(&mut self) -> Result<Step, Trouble> {
        let Phase::Recovering(walk) = &mut self.phase else { return Ok(Step::Worked) };
        let Some(mut walk) = walk.take() else { return self.start_walk() };
        let done = match &mut walk.rolling {
            None => self.next_object(&mut walk),
            Some(rolling) if !rolling.is_joined => self.roll(rolling),
            Some(rolling) => {
                let done = self.end_roll(rolling);
                if done.is_ok() {
                    walk.rolling = None;
                }
                done.map(|()| Step::Worked)
            }
        };
        // The end of the walk has set another phase.
        if let Phase::Recovering(place) = &mut self.phase {
            *place = Some(walk);
        }
        done
    }

    fn start_walk(&mut self) -> Result<Step, Trouble> {
        if !self.is_form_claimed {
            let (sink, namespace) = (&*self.shared.sink, &self.shared.namespace);
            object::claim_form(sink, namespace, self.shared.settings.form())
                .map_err(|error| Trouble::form(self.id, error))?;
            self.is_form_claimed = true;
        }
        let placed = self.now();
        let checkpoint = self.shared.state.checkpoint(self.id).map_err(|source| Trouble::state(self.id, source))?;
        let is_ended = matches!(checkpoint, Checkpoint::ShardEnd(_));
        let may_lack = !is_ended
            && self.reader.may_lack_after(checkpoint.position()).map_err(|source| Trouble::reader(self.id, source))?;
        let listed = if may_lack { Some(self.list_chain()?) } else { None };
        self.after = checkpoint.position();
        self.processed = self.after;
        self.placed = placed;
        self.tell_place();
        self.phase = Phase::Recovering(Some(Box::new(Walk { is_ended, listed, rolling: None })));
        Ok(Step::Worked)
    }

    /// Objects by what they come after; their folders are unknown without the records that they begin with. Every hour is
    /// asked for this shard's alone: a stream of many shards delivers millions of objects a month.
    fn list_chain(&self) -> Result<HashMap<Position, ObjectPath>, Trouble> {
        let sink = &self.shared.sink;
        let all = format!("{}/{}", object::LISTS, self.shared.namespace);
        let mut chain = HashMap::new();
        for day in sink.folders(&all).map_err(|error| Trouble::sink(self.id, &all, error))? {
            let day = format!("{all}/{day}");
            for hour in sink.folders(&day).map_err(|error| Trouble::sink(self.id, &day, error))? {
                let hour = format!("{day}/{hour}");
                let objects = sink.list_named(&hour, &object::names_of(self.id));
                for object in objects.map_err(|error| Trouble::sink(self.id, &hour, error))? {
                    if let Some((_, after)) = object::parse_name(object.path.as_str()) {
                        chain.insert(after, object.path);
                    }
                }
            }
        }
        tracing::info!(shard = %self.id, objects = chain.len(), "records may be gone; the chain is listed");
        Ok(chain)
    }

    /// Finds the object that comes after `self.after`, or the end of the chain.
    fn next_object(&mut self, walk: &mut Walk) -> Result<Step, Trouble> {
        let path = if let Some(listed) = &walk.listed {
            listed.get(&self.after).cloned()
        } else {
            let page = match self.next_page() {
                // Kinesis forgets a closed shard once its records expired; its end was committed long before.
                Err(Trouble::Final(error)) if walk.is_ended && error.kind() == ErrorKind::NotFound => Page::default(),
                page => page?,
            };
            let arrival_ms = page.records.first().map(|record| record.arrival_ms);
            if arrival_ms.is_none() && !page.is_caught_up() {
                self.consumed(&page);
                return Ok(Step::Idle { wait_ms: EMPTY_PAGE_MS });
            }
            self.page = Some(page);
            arrival_ms.map(|arrival_ms| self.object_path(arrival_ms))
        };
        let is_empty = path.is_none();
        let found = match path {
            Some(path) => self.find(&path)?,
            None => None,
        };
        let Some((path, tail)) = found else {
            self.phase = Phase::Open;
            if walk.is_ended && is_empty {
                self.end();
            }
            return Ok(Step::Worked);
        };
        let trailer = object::decode_trailer(path.as_str(), &tail)
            .map_err(|source| WorkerError::Object { shard: self.id, source })?;
        if trailer.shard != self.id || trailer.after != self.after || trailer.last <= self.after {
            let what = format!("its trailer says {}, {} to {}", trailer.shard, trailer.after, trailer.last);
            let source = ObjectError::Corrupt { name: path.as_str().to_owned(), what };
            return Err(WorkerError::Object { shard: self.id, source }.into());
        }
        tracing::info!(shard = %self.id, after = %trailer.after, last = %trailer.last, "rolling forward over an object");
        walk.rolling =
            Some(Rolling { path, trailer, output: Output::default(), is_joined: false, is_told_empty: false });
        Ok(Step::Worked)
    }

    /// The end of the object at `path`, or at the same place in another form (the chain's may have been changed since it
    /// was written).
    fn find(&self, path: &ObjectPath) -> Result<Option<(ObjectPath, bytes::Bytes)>, Trouble> {
        for path in object::places(path) {
            match self.shared.sink.get_tail(&path, object::tail_bytes(path.as_str())) {
                Ok(tail) => return Ok(Some((path, tail))),
                Err(LakeError::NotFound { .. }) => {}
                Err(error) => return Err(Trouble::sink(self.id, path.as_str(), error)),
            }
        }
        Ok(None)
    }

    /// Joins one page of what an object covers; makes no list.
    fn roll(&mut self, rolling: &mut Rolling) -> Result<Step, Trouble> {
        let last = rolling.trailer.last;
        let mut page = self.next_page()?;
        let covered = page.records.partition_point(|record| record.position <= last);
        let shared = Arc::clone(&self.shared);
        {
            let _gate = shared.enter();
            let transform = transform(&shared, self.id);
            let batch = transform.decode(&page.records[..covered]);
            let nobody = std::iter::empty();
            if let Err(source) =
                read_ahead(&*shared.state, &shared.types, &self.shard.histories, batch.touched(), nobody)
            {
                drop(batch);
                self.page = Some(page);
                return Err(Trouble::state(self.id, source));
            }
            let mut histories = histories::write(&self.shard.histories);
            transform.roll_forward(batch, &mut histories, &mut rolling.output);
            self.notices.append(&mut rolling.output.notices);
        }
        let rest = page.records.split_off(covered);
        if rest.is_empty() {
            let is_caught_up = page.records.is_empty() && page.is_caught_up();
            // A pushed word may be older than the object; the one after it is not.
            let is_gone = is_caught_up && (!page.is_pushed || rolling.is_told_empty);
            rolling.is_told_empty |= is_caught_up;
            let is_empty = page.records.is_empty() && page.through.is_none();
            self.consumed(&page);
            rolling.is_joined = self.processed >= last || self.is_at_end || is_gone;
            if is_empty && !rolling.is_joined {
                return Ok(Step::Idle { wait_ms: EMPTY_PAGE_MS });
            }
        } else {
            // The next object's records, or those of the open cut.
            self.processed = last;
            self.page = Some(Page { records: rest, ..page });
            rolling.is_joined = true;
        }
        Ok(Step::Worked)
    }

    /// Commits what an object covers.
    fn end_roll(&mut self, rolling: &mut Rolling) -> Result<(), Trouble> {
        let (held, covered) = (rolling.output.counts.records, rolling.trailer.counts.records);
        if held != covered {
            tracing::warn!(
                shard = %self.id,
                after = %rolling.trailer.after,
                last = %rolling.trailer.last,
                missing = covered.saturating_sub(held),
                "an object covers records that the shard does not hold (expired, or a restored backup): they stay out \
                 of the histories"
            );
        }
        if let Some((path, bytes)) = self.dead_letters(&rolling.output.dead, &rolling.path)? {
            // There already if the cut got as far as that.
            let outcome = self.shared.sink.put_new(&path, &bytes);
            let _ = outcome.map_err(|error| Trouble::sink(self.id, path.as_str(), error))?;
        }
        self.commit(Checkpoint::After(rolling.trailer.last))?;
        self.phase = Phase::Recovering(None);
        Ok(())
    }
}
