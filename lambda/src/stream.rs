//! Behind an event source mapping of a Kinesis stream: deliver, then commit, then say where to begin again.
//!
//! ```text
//! batch → user records (aggregates taken apart) → histories in few reads → lists → Firehose or object → dead letters
//!       → histories and checkpoint, conditionally → batchItemFailures
//! ```
//!
//! Delivery comes first and histories last, so an invocation that dies in between, or comes twice, repeats the same ids
//! and loses nothing. If Firehose takes a part only, the lowest record with an undelivered list is where the mapping
//! begins again; what comes before it is delivered and committed, and nothing after it is: the histories of that part are
//! joined anew from what is stored, or events whose list was never delivered would count as duplicates next time.
//!
//! A record that cannot be read is a dead letter, never a failure: it would block its shard until the stream forgets it.

use std::sync::Arc;

use anabranch_aws::firehose::sink::{FirehoseApi, FirehoseSink, LineOutcome};
use anabranch_aws::lambda_events::{KinesisEvent, KinesisEventRecord, KinesisResponse};
use anabranch_models::Model;
use anabranch_stream::notify::Notice;
use anabranch_stream::ports::{Checkpoint, Commit, Position, Record, SequenceNumber, ShardId};

use crate::compose::{Handler, Invoked};
use crate::report::Report;
use crate::run::{Function, Held, InvocationError};
use crate::{dead, objects};

/// What a handler hands back.
#[derive(Debug)]
pub struct Handled<R, T = Report> {
    /// The answer to whoever invoked it.
    pub response: R,
    /// What was done.
    pub report: T,
}

/// The function behind the event source mapping.
#[derive(Debug)]
pub struct StreamFunction<A> {
    /// What it works with.
    pub function: Function,
    /// Where lists go; without it they become exactly-once objects.
    pub firehose: Option<FirehoseSink<A>>,
}

impl<A: FirehoseApi> StreamFunction<A> {
    /// One invocation. An error asks for the whole batch again.
    pub fn handle(
        &self,
        event: &KinesisEvent,
        model: &Arc<Model>,
    ) -> Result<Handled<KinesisResponse>, InvocationError> {
        let now_ms = self.function.clock.now_ms();
        let mut report = Report { batch_size: event.records.len() as u64, ..Report::default() };
        let last_arrival_ms = event.records.iter().rev().find_map(|record| record.kinesis.arrival_ms);
        report.iterator_age_ms = last_arrival_ms.map(|arrival_ms| now_ms.saturating_sub(arrival_ms));
        let mut response = KinesisResponse::DONE;
        for (shard, records) in by_shard(event, now_ms) {
            match &self.firehose {
                Some(firehose) => {
                    if let Some(number) = self.deliver(firehose, shard, records, model, &mut report)? {
                        response.batch_item_failures.extend(KinesisResponse::again_from(number).batch_item_failures);
                    }
                }
                None => objects::deliver(&self.function, shard, records, model, &mut report)?,
            }
        }
        Ok(Handled { response, report })
    }

    /// Delivers the lists of one shard's records; the record to begin again at, if any.
    fn deliver(
        &self,
        firehose: &FirehoseSink<A>,
        shard: ShardId,
        mut records: Vec<Record>,
        model: &Arc<Model>,
        report: &mut Report,
    ) -> Result<Option<SequenceNumber>, InvocationError> {
        let function = &self.function;
        let mut held = Held::default();
        let mut applied = function.apply(shard, &records, model, &mut held)?;
        let delivery = firehose.deliver(applied.lines());
        report.note_lists(&applied, function.clock.now_ms());
        let of_outcome = |wanted: LineOutcome| {
            let lines = delivery.lines.iter().zip(&applied.records);
            lines.filter(move |(outcome, _)| **outcome == wanted).map(|(_, record)| records[*record].position.number)
        };
        let again_from = of_outcome(LineOutcome::Undelivered).min();
        let is_done = |number: SequenceNumber| again_from.is_none_or(|again_from| number < again_from);
        let undeliverable = of_outcome(LineOutcome::TooLarge).filter(|number| is_done(*number)).count() as u64;
        if again_from.is_some() {
            let batch = records.len();
            records.retain(|record| is_done(record.position.number));
            report.retried += (batch - records.len()) as u64;
            let error = delivery.trouble.as_ref().map(tracing::field::display);
            let retried = batch - records.len();
            tracing::warn!(%shard, records = batch, retried, error, "delivery failed in part");
            held = Held::default();
            applied = function.apply_unscored(shard, &records, model, &mut held)?;
        }
        dead::write(function, shard, &records, &applied, |_| true)?;
        commit(function, shard, &records, &applied.notices, &held)?;
        report.add(&applied);
        report.delivered -= undeliverable;
        report.undeliverable += undeliverable;
        Ok(again_from)
    }
}

impl<A: FirehoseApi + 'static> Handler<KinesisEvent> for StreamFunction<A> {
    type Response = KinesisResponse;
    type Report = Report;

    fn handle(&self, event: &KinesisEvent, with: &Invoked) -> Result<Handled<KinesisResponse>, InvocationError> {
        Self::handle(self, event, &with.model)
    }
}

/// Notices, histories, then how far the shard is.
fn commit(
    function: &Function,
    shard: ShardId,
    records: &[Record],
    notices: &[Notice],
    held: &Held,
) -> Result<(), InvocationError> {
    let Some(last) = records.iter().map(|record| record.position).max() else { return Ok(()) };
    commit_at(function, shard, last, notices, held)
}

/// The same with a checkpoint of the caller's.
pub(crate) fn commit_at(
    function: &Function,
    shard: ShardId,
    last: Position,
    notices: &[Notice],
    held: &Held,
) -> Result<(), InvocationError> {
    let histories = held.write();
    let checkpoint = Checkpoint::After(last);
    let commit = Commit { shard, checkpoint, histories: histories.uncommitted(), notices, types: &function.types };
    Ok(function.state.commit(commit)?)
}

/// The user records by shard; a mapping hands over one shard, some stand-ins mix them.
fn by_shard(event: &KinesisEvent, now_ms: i64) -> Vec<(ShardId, Vec<Record>)> {
    let mut groups: Vec<(ShardId, Vec<Record>)> = Vec::new();
    for record in &event.records {
        let last = groups.last().map_or(ShardId(0), |(shard, _)| *shard);
        let shard = record.shard().unwrap_or(last);
        let place = groups.iter().position(|(of, _)| *of == shard).unwrap_or(groups.len());
        if place == groups.len() {
            groups.push((shard, Vec::new()));
        }
        match record.user_records(now_ms) {
            Ok(found) => groups[place].1.extend(found),
            Err(error) => {
                tracing::warn!(%error, "a record cannot be read");
                groups[place].1.push(unreadable(record, now_ms));
            }
        }
    }
    groups
}

/// A record that is no event whatever it holds: it ends as a dead letter with the text that came.
fn unreadable(record: &KinesisEventRecord, now_ms: i64) -> Record {
    Record {
        position: Position::whole(record.number().unwrap_or_default()),
        sub: None,
        arrival_ms: record.kinesis.arrival_ms.unwrap_or(now_ms),
        partition_key: record.kinesis.partition_key.clone(),
        data: Some([b"unreadable: ", record.kinesis.data.as_bytes()].concat()),
    }
}

#[cfg(test)]
mod tests;
