//! Firehose's data transformation: every record answered once, in order, in at most 6 MB.
//!
//! A record with lists is `Ok`, its data the lists as lines; one whose events were all known or too late is `Dropped`;
//! one that cannot be read is `ProcessingFailed`, and Firehose puts it below the error prefix. A record that holds good
//! and bad events delivers the good ones, and the bad ones become dead letters.
//!
//! The answer *is* the delivery, and it leaves after the histories are committed: if it is lost, Firehose invokes again
//! and every event is in its history already. So here an event that a history holds earns its list again, under the
//! same id; twice in one request it earns one. An event that newer ones of its own request pushed out of the history is
//! late the second time, and dropped: a request would have to hold more events of one user and class than its quota.
//!
//! Firehose promises neither order nor that one user's records come to one invocation at a time; the join does not need
//! it. What is handed back because the answer would be too large ([`projection`](crate::projection)) is not committed:
//! when it is put again, it counts.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use anabranch_aws::lambda_events::{FirehoseEvent, FirehoseRecord, FirehoseResponse, RESPONSE_BYTES_MAX};
use anabranch_events::wire::time::day_and_hour;
use anabranch_models::Model;
use anabranch_stream::notify::Notice;
use anabranch_stream::ports::{Position, Record, SequenceNumber, ShardId};

use crate::compose::{Handler, Invoked};
use crate::dead;
use crate::projection::{self, Answer};
use crate::report::Report;
use crate::run::{Applied, Function, Held, InvocationError};
use crate::settings::Partition;
use crate::stream::Handled;

/// The function that Firehose invokes.
#[derive(Debug)]
pub struct TransformFunction {
    /// What it works with.
    pub function: Function,
    /// How records are spread over folders.
    pub partition: Partition,
    /// The largest answer, bytes: [`RESPONSE_BYTES_MAX`], less in tests.
    pub bytes_max: usize,
}

/// The records of one shard in a request.
#[derive(Debug)]
struct Group {
    shard: ShardId,
    /// Their places in the request.
    places: Vec<usize>,
    records: Vec<Record>,
}

impl TransformFunction {
    /// With AWS's limit.
    pub const fn new(function: Function, partition: Partition) -> Self {
        Self { function, partition, bytes_max: RESPONSE_BYTES_MAX }
    }

    /// One invocation. An error makes Firehose invoke again.
    pub fn handle(
        &self,
        event: &FirehoseEvent,
        model: &Arc<Model>,
    ) -> Result<Handled<FirehoseResponse>, InvocationError> {
        let function = &self.function;
        let now_ms = function.clock.now_ms();
        let groups = by_shard(event, now_ms);
        let mut report = Report { batch_size: event.records.len() as u64, ..Report::default() };
        let last_arrival_ms = groups.iter().flat_map(|group| &group.records).map(|record| record.arrival_ms).max();
        report.iterator_age_ms = last_arrival_ms.map(|arrival_ms| now_ms.saturating_sub(arrival_ms));

        let mut held = Held::repeating();
        let mut applied = Vec::with_capacity(groups.len());
        for group in &groups {
            let of_group = function.apply(group.shard, &group.records, model, &mut held)?;
            report.note_lists(&of_group, now_ms);
            applied.push(of_group);
        }
        let answers = self.answers(event.records.len(), &groups, &applied);
        let (response, fitted) = projection::answer(&event.records, &answers, self.bytes_max);
        let is_kept = |place: usize| {
            let is_delivered = matches!(answers[place], Answer::Deliver(..));
            !(is_delivered && fitted.returned_from.is_some_and(|from| place >= from))
        };
        let is_delivered = |place: usize| matches!(answers[place], Answer::Deliver(..)) && is_kept(place);
        report.shortened = fitted.shortened;

        let mut kept = None;
        if fitted.returned_from.is_some() {
            held = Held::repeating();
            let mut again = Vec::with_capacity(groups.len());
            for group in groups.iter().map(|group| group.only(is_kept)) {
                let of_group = function.apply_unscored(group.shard, &group.records, model, &mut held)?;
                again.push((group, of_group));
            }
            report.retried = (0..event.records.len()).filter(|place| !is_kept(*place)).count() as u64;
            kept = Some(again);
        }
        if let Some(list_length) = fitted.list_length {
            let (records, shortened, retried) = (event.records.len(), report.shortened, report.retried);
            tracing::warn!(records, list_length, shortened, retried, "the answer was too large");
        }
        let kept = kept.unwrap_or_else(|| groups.into_iter().zip(applied.iter().cloned()).collect());
        for (group, applied) in &kept {
            dead::write(function, group.shard, &group.records, applied, |index| is_delivered(group.places[index]))?;
            report.add(applied);
        }
        let notices: Vec<Notice> = kept.iter().flat_map(|(_, applied)| applied.notices.iter().cloned()).collect();
        function.state.join(held.write().uncommitted(), &notices, &function.types)?;
        // Not base64: a record, and an event of which nothing is known.
        let unreadable = event.records.len() as u64 - kept.iter().map(|(g, _)| g.places.len() as u64).sum::<u64>();
        let unreadable = unreadable - report.retried;
        report.events_in += unreadable;
        report.dead_lettered += unreadable;
        Ok(Handled { response, report })
    }

    /// What is to be answered to each record.
    fn answers<'a>(&self, count: usize, groups: &[Group], applied: &'a [Applied]) -> Vec<Answer<'a>> {
        let mut answers = vec![Answer::Fail; count];
        for (group, applied) in groups.iter().zip(applied) {
            let of_records = group.places.iter().zip(&group.records).zip(&applied.fates);
            for ((place, record), fate) in of_records {
                answers[*place] = if !fate.lines.is_empty() {
                    let lines = fate.lines.iter().map(|line| &applied.text[applied.lines[*line].clone()]).collect();
                    Answer::Deliver(lines, self.partition_keys(record.arrival_ms))
                } else if fate.rejected > 0 {
                    Answer::Fail
                } else {
                    Answer::Drop
                };
            }
        }
        answers
    }

    fn partition_keys(&self, arrival_ms: i64) -> BTreeMap<String, String> {
        let (day, hour) = day_and_hour(arrival_ms);
        let mut keys = BTreeMap::new();
        if self.partition != Partition::None {
            keys.insert("day".to_owned(), day);
        }
        if self.partition == Partition::Hour {
            keys.insert("hour".to_owned(), hour);
        }
        keys
    }
}

impl Handler<FirehoseEvent> for TransformFunction {
    type Response = FirehoseResponse;
    type Report = Report;

    fn handle(&self, event: &FirehoseEvent, with: &Invoked) -> Result<Handled<FirehoseResponse>, InvocationError> {
        Self::handle(self, event, &with.model)
    }
}

impl Group {
    /// Those records whose place is wanted.
    fn only(&self, is_wanted: impl Fn(usize) -> bool) -> Self {
        let pairs = self.places.iter().zip(&self.records).filter(|(place, _)| is_wanted(**place));
        let (places, records) = pairs.map(|(place, record)| (*place, record.clone())).unzip();
        Self { shard: self.shard, places, records }
    }
}

/// The records that can be decoded, by shard. One without a place in a Kinesis stream stands in shard 0, at its record
/// id if that is a number.
fn by_shard(event: &FirehoseEvent, now_ms: i64) -> Vec<Group> {
    // Firehose writes sub-sequence number 0 also where there is no aggregate: it counts if a later part is here.
    let aggregates: HashSet<(&str, &str)> = event
        .records
        .iter()
        .filter_map(|record| record.kinesis_record_metadata.as_ref())
        .filter(|metadata| metadata.subsequence_number.is_some_and(|sub| sub > 0))
        .map(|metadata| (metadata.shard_id.as_str(), metadata.sequence_number.as_str()))
        .collect();
    let mut groups: Vec<Group> = Vec::new();
    for (place, record) in event.records.iter().enumerate() {
        let Some(data) = record.decode() else { continue };
        let (shard, mut record) = located(record, data, now_ms);
        let metadata = event.records[place].kinesis_record_metadata.as_ref();
        let is_part =
            metadata.is_some_and(|held| aggregates.contains(&(held.shard_id.as_str(), held.sequence_number.as_str())));
        record.sub = record.sub.filter(|_| is_part);
        let at = groups.iter().position(|group| group.shard == shard).unwrap_or(groups.len());
        if at == groups.len() {
            groups.push(Group { shard, places: Vec::new(), records: Vec::new() });
        }
        groups[at].places.push(place);
        groups[at].records.push(record);
    }
    groups
}

fn located(record: &FirehoseRecord, data: Vec<u8>, now_ms: i64) -> (ShardId, Record) {
    let metadata = record.kinesis_record_metadata.as_ref();
    let shard = metadata.and_then(|held| held.shard_id.parse().ok()).unwrap_or(ShardId(0));
    let number = metadata.map_or(record.record_id.as_str(), |held| held.sequence_number.as_str());
    let number: SequenceNumber = number.parse().unwrap_or_default();
    let arrival_ms = metadata.and_then(|held| held.arrival_ms).or(record.arrival_ms).unwrap_or(now_ms);
    let partition_key = metadata.map(|held| held.partition_key.clone()).unwrap_or_default();
    let sub = metadata.and_then(|held| held.subsequence_number);
    (shard, Record { position: Position::whole(number), sub, arrival_ms, partition_key, data: Some(data) })
}

#[cfg(test)]
mod tests;
