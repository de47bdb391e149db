//! Putting records: `PutRecords` within its limits, again for what failed only, in order per partition key.
//!
//! `PutRecords` answers 200 with failures inside and promises no order within a call. So a call holds at most one Kinesis
//! record per partition key: whatever fails, a later record of the same key has not been sent yet, and cannot overtake
//! it. A busy key stays fast because its waiting records are packed into one KPL aggregate, which keeps their order
//! (setting [`ProducerSettings::aggregate`]; readers must then take aggregates apart, as ours and Firehose do).
//!
//! A call that fails as a whole may have stored its records, so delivery is at least once; events carry ids.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use anabranch_stores::backoff::Patience;
use anabranch_stream::ports::{SequenceNumber, ShardId};

use super::kpl::Aggregator;
use crate::api::{ApiError, ApiErrorKind, KinesisApi, PutRecord, PutResult};

/// Characters of a partition key.
const KEY_CHARS_MAX: usize = 256;

/// Limits and packing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerSettings {
    /// Records in one call; Kinesis takes 500.
    pub records_max: usize,
    /// Bytes of data and partition keys in one call; 5 MiB is taken everywhere, Kinesis itself takes 10 MiB.
    pub bytes_max: usize,
    /// Bytes of data and partition key of one record; 1 MiB unless the stream's limit was raised.
    pub record_bytes_max: usize,
    /// Whether records of one key that wait together are packed into aggregates.
    pub aggregate: bool,
}

impl Default for ProducerSettings {
    fn default() -> Self {
        Self { records_max: 500, bytes_max: 5 << 20, record_bytes_max: 1 << 20, aggregate: false }
    }
}

/// What became of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is stored; the records of an aggregate share a number.
    Stored {
        /// The shard.
        shard: ShardId,
        /// Its place there.
        number: SequenceNumber,
    },
    /// It can never be stored; nothing was sent.
    Refused(Refusal),
    /// It failed for good, or as often as patience allows. It may be stored after all.
    Failed(ApiError),
    /// It was not sent, because one of its key before it failed.
    Behind,
}

/// Why a record cannot be stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The partition key is empty or too long.
    #[error("the partition key has {chars} characters; Kinesis takes 1 to {KEY_CHARS_MAX}")]
    Key {
        /// How many it has.
        chars: usize,
    },
    /// The record is too large.
    #[error("the record has {bytes} bytes with its partition key; the limit is {limit}")]
    TooLarge {
        /// How many it has.
        bytes: usize,
        /// How many it may have.
        limit: usize,
    },
}

/// Puts records into one stream.
#[derive(Debug)]
pub struct Producer {
    api: Arc<dyn KinesisApi>,
    settings: ProducerSettings,
    patience: Patience,
}

/// Records of one key, sent as one Kinesis record.
struct Parcel {
    /// Which of the caller's records.
    indices: Vec<usize>,
    record: PutRecord,
}

/// The records of one key that are not stored yet.
#[derive(Default)]
struct Lane {
    waiting: VecDeque<usize>,
    /// Failed calls since the last that stored something of this key.
    failures: u32,
}

impl Producer {
    /// For the stream that `api` speaks for.
    pub fn new(api: Arc<dyn KinesisApi>, settings: ProducerSettings, patience: Patience) -> Self {
        Self { api, settings, patience }
    }

    /// Puts the records; an answer for each, in their order.
    pub fn put(&self, records: &[PutRecord]) -> Vec<Answer> {
        let mut answers: Vec<Option<Answer>> = vec![None; records.len()];
        let mut lanes: HashMap<&str, Lane> = HashMap::new();
        // The order in which keys were seen first, so that equal input makes equal calls.
        let mut keys: VecDeque<&str> = VecDeque::new();
        for (index, record) in records.iter().enumerate() {
            if let Some(refusal) = self.refusal(record) {
                answers[index] = Some(Answer::Refused(refusal));
                continue;
            }
            let key = record.partition_key.as_str();
            let lane = lanes.entry(key).or_insert_with(|| {
                keys.push_back(key);
                Lane::default()
            });
            lane.waiting.push_back(index);
        }
        let mut failed_calls = 0;
        while !keys.is_empty() {
            let parcels = self.pack(records, &mut keys, &mut lanes);
            let failures = self.send(&parcels, &mut answers);
            for parcel in &parcels {
                let key = records[parcel.indices[0]].partition_key.as_str();
                let lane = lanes.get_mut(key).expect("every packed key has a lane");
                if let Some(error) = failures.get(&parcel.indices[0]) {
                    lane.failures += 1;
                    if error.kind.kind() == anabranch_stores::ErrorKind::Retry
                        && lane.failures < self.patience.attempts_max
                    {
                        for &index in parcel.indices.iter().rev() {
                            lane.waiting.push_front(index);
                        }
                    } else {
                        for &index in &parcel.indices {
                            answers[index] = Some(Answer::Failed(error.clone()));
                        }
                        for index in lane.waiting.drain(..) {
                            answers[index] = Some(Answer::Behind);
                        }
                    }
                } else {
                    lane.failures = 0;
                }
                if !lane.waiting.is_empty() {
                    keys.push_back(key);
                }
            }
            if failures.is_empty() {
                failed_calls = 0;
            } else {
                failed_calls += 1;
                if !keys.is_empty() {
                    // Each lane counts its own attempts, so the wait may be the last step's for long.
                    self.patience.wait_after(failed_calls.min(self.patience.attempts_max.saturating_sub(1)));
                }
            }
        }
        answers
            .into_iter()
            .map(|answer| answer.expect("every record was refused, stored, failed or left behind"))
            .collect()
    }

    fn refusal(&self, record: &PutRecord) -> Option<Refusal> {
        let chars = record.partition_key.chars().count();
        let bytes = record.partition_key.len() + record.data.len();
        let limit = self.settings.record_bytes_max.min(self.settings.bytes_max);
        if chars == 0 || chars > KEY_CHARS_MAX {
            Some(Refusal::Key { chars })
        } else if bytes > limit {
            Some(Refusal::TooLarge { bytes, limit })
        } else {
            None
        }
    }

    /// Takes the next call's records off the lanes: one parcel a key, within the limits.
    fn pack<'a>(
        &self,
        records: &'a [PutRecord],
        keys: &mut VecDeque<&'a str>,
        lanes: &mut HashMap<&'a str, Lane>,
    ) -> Vec<Parcel> {
        let mut parcels: Vec<Parcel> = Vec::new();
        let mut bytes = 0;
        while parcels.len() < self.settings.records_max.max(1)
            && let Some(&key) = keys.front()
        {
            let lane = lanes.get_mut(key).expect("every key has a lane");
            let parcel = self.parcel(records, key, &lane.waiting);
            let parcel_bytes = key.len() + parcel.record.data.len();
            if !parcels.is_empty() && bytes + parcel_bytes > self.settings.bytes_max {
                break;
            }
            bytes += parcel_bytes;
            keys.pop_front();
            lane.waiting.drain(..parcel.indices.len());
            parcels.push(parcel);
        }
        parcels
    }

    /// The first record of a lane, with as many of those behind it as one Kinesis record holds.
    fn parcel(&self, records: &[PutRecord], key: &str, waiting: &VecDeque<usize>) -> Parcel {
        let limit = self.settings.record_bytes_max.min(self.settings.bytes_max).saturating_sub(key.len());
        let mut aggregate = Aggregator::new(key);
        let mut indices = Vec::new();
        if self.settings.aggregate && waiting.len() > 1 {
            for &index in waiting {
                if aggregate.bytes_with(records[index].data.len()) > limit
                    || aggregate.count() == super::kpl::USER_RECORDS_MAX
                {
                    break;
                }
                aggregate.push(&records[index].data);
                indices.push(index);
            }
        }
        let data = if indices.len() > 1 {
            aggregate.finish()
        } else {
            indices = vec![waiting[0]];
            records[waiting[0]].data.clone()
        };
        Parcel { indices, record: PutRecord { partition_key: key.to_owned(), data } }
    }

    /// One call. Writes down what is stored; the errors of the rest by their first record.
    fn send(&self, parcels: &[Parcel], answers: &mut [Option<Answer>]) -> HashMap<usize, ApiError> {
        debug_assert_eq!(parcels.iter().map(|p| &p.record.partition_key).collect::<HashSet<_>>().len(), parcels.len());
        let records: Vec<PutRecord> = parcels.iter().map(|parcel| parcel.record.clone()).collect();
        let results = match self.api.put_records(&records) {
            Ok(results) if results.len() == parcels.len() => results,
            Ok(results) => {
                let message = format!("{} results for {} records", results.len(), parcels.len());
                let error = ApiError::new(ApiErrorKind::Malformed, "PutRecords", "the stream", message);
                return parcels.iter().map(|parcel| (parcel.indices[0], error.clone())).collect();
            }
            Err(error) => return parcels.iter().map(|parcel| (parcel.indices[0], error.clone())).collect(),
        };
        let mut failures = HashMap::new();
        for (parcel, result) in parcels.iter().zip(results) {
            match result {
                PutResult::Stored { shard, number } => {
                    for &index in &parcel.indices {
                        answers[index] = Some(Answer::Stored { shard, number });
                    }
                }
                PutResult::Failed { code, message } => {
                    let kind = ApiErrorKind::of(Some(&code), None);
                    let error = ApiError::new(kind, "PutRecords", "a record", format!("{code}: {message}"));
                    failures.insert(parcel.indices[0], error);
                }
            }
        }
        failures
    }
}

#[cfg(test)]
mod tests;
