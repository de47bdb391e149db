//! Exactly-once objects in place of a Firehose stream: the worker's chain, one invocation at a time.
//!
//! The checkpoint says what the next object comes after; the object is created only if none is there. One that is there
//! was written by an invocation whose commit did not follow: its range is rolled forward, then the rest of the batch is
//! an object of its own. The mapping may cut the batch differently the second time (a bisection), so records that the
//! checkpoint has passed are joined again whenever they come; that changes nothing unless their commit was cut short.
//!
//! Batches that come side by side (a parallelization factor above 1) cannot be one chain: a record that another
//! invocation's object passed over without its list is found by `range`, and the invocation refused, with everything
//! as it was. A batch that never comes (the mapping gave it up) cannot be told from numbers, which have gaps anyway: the
//! chain goes on over it. If its object was delivered and its commit was not, its records stay out of the histories, and
//! are counted as missing.

use std::sync::Arc;

use anabranch_models::Model;
use anabranch_stores::lake::{LakeError, ObjectPath, ObjectStore, PutOutcome};
use anabranch_stream::object::{self, ObjectError, Trailer};
use anabranch_stream::ports::{Position, Record, ShardId};
use anabranch_stream::transform::NO_OVERLAY;

use crate::dead;
use crate::report::Report;
use crate::run::{Applied, Function, Held, InvocationError};
use crate::stream::commit_at;

mod range;

/// Delivers one shard's records.
pub fn deliver(
    function: &Function,
    shard: ShardId,
    mut records: Vec<Record>,
    model: &Arc<Model>,
    report: &mut Report,
) -> Result<(), InvocationError> {
    if function.chain.get().is_none() {
        object::claim_form(&*function.sink, &function.namespace, function.settings.form())?;
        function.chain.get_or_init(|| ());
    }
    records.sort_by_key(|record| record.position);
    let mut after = function.state.checkpoint(shard)?.position();
    let passed = take_through(&mut records, after);
    if !passed.is_empty() {
        let mut held = Held::default();
        let applied = function.apply_unscored(shard, &passed, model, &mut held)?;
        let letters = range::check_passed(function, shard, &passed, &applied, model)?;
        dead::write(function, shard, &passed, &applied, |record| letters[record])?;
        commit_at(function, shard, after, &applied.notices, &held)?;
        report.add(&applied);
    }
    while let Some(first) = records.first() {
        let path = path(function, shard, after, first.arrival_ms)?;
        let Some((path, trailer)) = find(function, shard, after, &path)? else {
            if let Some(applied) = create(function, shard, after, &path, &records, model, report)? {
                report.add(&applied);
                return Ok(());
            }
            continue; // somebody was first
        };
        tracing::info!(%shard, %after, last = %trailer.last, "rolling forward over an object");
        let covered = take_through(&mut records, trailer.last);
        let missing = trailer.counts.records.saturating_sub(covered.len() as u64);
        let mut held = Held::default();
        let applied = function.apply_unscored(shard, &covered, model, &mut held)?;
        let letters = range::check(function, shard, &path, &covered, &applied, model)?;
        if missing == 0 {
            put_dead_letters(function, &path, &applied)?;
        } else {
            tracing::warn!(%shard, %after, last = %trailer.last, missing, "an object covers records that the batch does not hold");
            report.missing += missing;
            dead::write(function, shard, &covered, &applied, |record| letters[record])?;
        }
        commit_at(function, shard, trailer.last, &applied.notices, &held)?;
        report.add(&applied);
        after = trailer.last;
    }
    Ok(())
}

/// Object, dead letters, histories and checkpoint; `None` if another object is there.
fn create(
    function: &Function,
    shard: ShardId,
    after: Position,
    path: &ObjectPath,
    records: &[Record],
    model: &Arc<Model>,
    report: &mut Report,
) -> Result<Option<Applied>, InvocationError> {
    let mut held = Held::default();
    let applied = function.apply(shard, records, model, &mut held)?;
    let position = |record: Option<&Record>| record.map(|record| record.position).unwrap_or_default();
    let trailer = Trailer {
        version: object::VERSION,
        shard,
        after,
        first: position(records.first()),
        last: position(records.last()),
        counts: applied.counts,
        snapshot_version: model.version().to_owned(),
        overlay_version: NO_OVERLAY.to_owned(),
        bytes: applied.text.len() as u64,
        digest: object::digest(&applied.text),
    };
    let bytes = object::encode(&applied.text, &trailer, function.settings.form())?;
    if ObjectStore::put_new(&function.sink, path, &bytes)? == PutOutcome::AlreadyExists
        && read_trailer(function, path)?.is_none_or(|found| found != trailer)
    {
        return Ok(None);
    }
    report.note_lists(&applied, function.clock.now_ms());
    put_dead_letters(function, path, &applied)?;
    commit_at(function, shard, trailer.last, &applied.notices, &held)?;
    Ok(Some(applied))
}

/// Dead letters lie beside their object, as a worker's do; they are a function of its range.
fn put_dead_letters(function: &Function, object: &ObjectPath, applied: &Applied) -> Result<(), InvocationError> {
    if !applied.dead.is_empty() {
        let (path, compression) = object::dead_letters_beside(object);
        let bytes = object::compress(&applied.dead, compression)?;
        let _ = ObjectStore::put_new(&function.sink, &path, &bytes)?;
    }
    Ok(())
}

/// The records up to `last`, taken out.
fn take_through(records: &mut Vec<Record>, last: Position) -> Vec<Record> {
    records.drain(..records.partition_point(|record| record.position <= last)).collect()
}

fn path(function: &Function, shard: ShardId, after: Position, arrival_ms: i64) -> Result<ObjectPath, LakeError> {
    let kind = format!("{}/{}", object::LISTS, function.namespace);
    ObjectPath::new(object::object_name(&kind, shard, after, arrival_ms, function.settings.form()))
}

/// The object after `after`, whichever form it was written in.
fn find(
    function: &Function,
    shard: ShardId,
    after: Position,
    path: &ObjectPath,
) -> Result<Option<(ObjectPath, Trailer)>, InvocationError> {
    for path in object::places(path) {
        let Some(trailer) = read_trailer(function, &path)? else { continue };
        if trailer.shard != shard || trailer.after != after || trailer.last <= after {
            let what = format!("its trailer says {}, {} to {}", trailer.shard, trailer.after, trailer.last);
            return Err(ObjectError::Corrupt { name: path.as_str().to_owned(), what }.into());
        }
        return Ok(Some((path, trailer)));
    }
    Ok(None)
}

fn read_trailer(function: &Function, path: &ObjectPath) -> Result<Option<Trailer>, InvocationError> {
    match ObjectStore::get_tail(&function.sink, path, object::tail_bytes(path.as_str())) {
        Ok(tail) => Ok(Some(object::decode_trailer(path.as_str(), &tail)?)),
        Err(LakeError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests;
