//! What Lambda hands to a function, and what it wants back: the Kinesis event source mapping, and Firehose's data
//! transformation.
//!
//! Readers are tolerant, because AWS's own services and samples differ: unknown and missing fields are fine, times come as
//! integers in milliseconds, as seconds with a fraction, or as ISO 8601 text, `subsequenceNumber` as an integer or as
//! `""`. A record that cannot be read costs one record: its data stay text until asked for. Writers are strict: a
//! response that Lambda would misread cannot be made ([`BatchItemFailure`] names a sequence number,
//! [`FirehoseResponse::bytes`] says how large the answer will be).

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use anabranch_events::wire::time::{number_ms, parse_time_ms};
use anabranch_stream::ports::{ParseError, Record, SequenceNumber, ShardId};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{self, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::api::DataRecord;
use crate::kinesis::backlog::expand;

/// The largest answer of a synchronous invocation, bytes.
pub const RESPONSE_BYTES_MAX: usize = 6 * 1024 * 1024;

/// A batch from the event source mapping of a Kinesis stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct KinesisEvent {
    /// The records of one shard, in order.
    #[serde(rename = "Records", default, deserialize_with = "or_default")]
    pub records: Vec<KinesisEventRecord>,
}

/// One Kinesis record: an event, or an aggregate of many (the mapping does not take aggregates apart).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KinesisEventRecord {
    /// The record.
    #[serde(deserialize_with = "or_default")]
    pub kinesis: KinesisRecord,
    /// Shard and sequence number: `shardId-000000000006:49590338271490256608559692538361571095921575989136588898`.
    #[serde(rename = "eventID", deserialize_with = "or_default")]
    pub event_id: String,
    /// The stream.
    #[serde(rename = "eventSourceARN", deserialize_with = "or_default")]
    pub event_source_arn: String,
}

/// The `kinesis` part of a record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KinesisRecord {
    /// Missing where an on-demand stream distributes records by itself.
    #[serde(deserialize_with = "or_default")]
    pub partition_key: String,
    /// Its place in the shard.
    #[serde(deserialize_with = "or_default")]
    pub sequence_number: String,
    /// base64.
    #[serde(deserialize_with = "or_default")]
    pub data: String,
    /// When it arrived, milliseconds since 1970.
    #[serde(rename = "approximateArrivalTimestamp", deserialize_with = "time_ms")]
    pub arrival_ms: Option<i64>,
}

/// Why a record of an event cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Its sequence number or shard is not one.
    #[error(transparent)]
    Place(#[from] ParseError),
    /// Its data are not base64.
    #[error("the data of record {0} are not base64")]
    Data(String),
}

impl KinesisEventRecord {
    /// The shard, from the event id.
    pub fn shard(&self) -> Result<ShardId, ParseError> {
        self.event_id.split_once(':').map_or(self.event_id.as_str(), |(shard, _)| shard).parse()
    }

    /// Its sequence number.
    pub fn number(&self) -> Result<SequenceNumber, ParseError> {
        self.kinesis.sequence_number.parse()
    }

    /// The user records, taken out of an aggregate if it is one. A missing arrival time is `now_ms`.
    pub fn user_records(&self, now_ms: i64) -> Result<VecDeque<Record>, RecordError> {
        let data = STANDARD.decode(&self.kinesis.data);
        Ok(expand(DataRecord {
            number: self.number()?,
            arrival_ms: self.kinesis.arrival_ms.unwrap_or(now_ms),
            partition_key: self.kinesis.partition_key.clone(),
            data: data.map_err(|_| RecordError::Data(self.kinesis.sequence_number.clone()))?,
        }))
    }
}

/// What the mapping does next: it goes on after everything, or begins again at the lowest failed record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KinesisResponse {
    /// Empty: everything is done. The mapping takes the lowest as its checkpoint.
    pub batch_item_failures: Vec<BatchItemFailure>,
}

/// A record that failed. An empty or unknown identifier would fail the whole batch, so it is made of a number only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BatchItemFailure {
    item_identifier: String,
}

impl KinesisResponse {
    /// Everything is done.
    pub const DONE: Self = Self { batch_item_failures: Vec::new() };

    /// Begin again at this record of the batch.
    pub fn again_from(number: SequenceNumber) -> Self {
        Self { batch_item_failures: vec![BatchItemFailure { item_identifier: number.to_string() }] }
    }
}

/// A batch of Firehose's data transformation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FirehoseEvent {
    /// Names the invocation.
    #[serde(deserialize_with = "or_default")]
    pub invocation_id: String,
    /// The delivery stream.
    #[serde(deserialize_with = "or_default")]
    pub delivery_stream_arn: String,
    /// The Kinesis stream behind it, if any.
    pub source_kinesis_stream_arn: Option<String>,
    /// The region.
    #[serde(deserialize_with = "or_default")]
    pub region: String,
    /// The records; Firehose has taken aggregates apart.
    #[serde(deserialize_with = "or_default")]
    pub records: Vec<FirehoseRecord>,
}

/// One record to transform.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FirehoseRecord {
    /// Every id must be answered, or Firehose takes the whole invocation as failed.
    #[serde(deserialize_with = "or_default")]
    pub record_id: String,
    /// When it arrived, milliseconds since 1970.
    #[serde(rename = "approximateArrivalTimestamp", deserialize_with = "time_ms")]
    pub arrival_ms: Option<i64>,
    /// base64.
    #[serde(deserialize_with = "or_default")]
    pub data: String,
    /// Where it stood in the Kinesis stream.
    pub kinesis_record_metadata: Option<KinesisRecordMetadata>,
}

impl FirehoseRecord {
    /// The bytes; `None` if they are not base64.
    pub fn decode(&self) -> Option<Vec<u8>> {
        STANDARD.decode(&self.data).ok()
    }
}

/// Where a record stood in its Kinesis stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KinesisRecordMetadata {
    /// The shard.
    #[serde(deserialize_with = "or_default")]
    pub shard_id: String,
    /// The partition key.
    #[serde(deserialize_with = "or_default")]
    pub partition_key: String,
    /// When it arrived in the stream, milliseconds since 1970.
    #[serde(rename = "approximateArrivalTimestamp", deserialize_with = "time_ms")]
    pub arrival_ms: Option<i64>,
    /// Its place in the shard.
    #[serde(deserialize_with = "or_default")]
    pub sequence_number: String,
    /// Its place in an aggregate; none outside one, though Firehose writes 0 there too.
    #[serde(deserialize_with = "sub")]
    pub subsequence_number: Option<u64>,
}

/// The answer to [`FirehoseEvent`]: one record for every record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FirehoseResponse {
    /// In any order.
    pub records: Vec<TransformedRecord>,
}

impl FirehoseResponse {
    /// How many bytes the answer has as JSON, without whitespace; Lambda takes [`RESPONSE_BYTES_MAX`].
    pub fn bytes(&self) -> usize {
        const FRAME: usize = r#"{"records":[]}"#.len();
        let commas = self.records.len().saturating_sub(1);
        FRAME + commas + self.records.iter().map(TransformedRecord::bytes).sum::<usize>()
    }
}

/// What became of one record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TransformedRecord {
    record_id: String,
    result: TransformResult,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Metadata>,
}

/// What Firehose is to do with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum TransformResult {
    /// Deliver it.
    Ok,
    /// Leave it out; it counts as done.
    Dropped,
    /// Put it below the error prefix.
    ProcessingFailed,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    partition_keys: BTreeMap<String, String>,
}

impl TransformedRecord {
    /// Deliver `data`; end it with a line feed, Firehose puts nothing between records. `partition_keys` are those of
    /// dynamic partitioning.
    pub fn deliver(record_id: &str, data: &[u8], partition_keys: BTreeMap<String, String>) -> Self {
        Self {
            record_id: record_id.to_owned(),
            result: TransformResult::Ok,
            data: Some(STANDARD.encode(data)),
            metadata: (!partition_keys.is_empty()).then_some(Metadata { partition_keys }),
        }
    }

    /// Leave the record out.
    pub fn dropped(record_id: &str) -> Self {
        Self { record_id: record_id.to_owned(), result: TransformResult::Dropped, data: None, metadata: None }
    }

    /// Put the record as it came below the error prefix.
    pub fn failed(record: &FirehoseRecord) -> Self {
        Self {
            record_id: record.record_id.clone(),
            result: TransformResult::ProcessingFailed,
            data: Some(record.data.clone()),
            metadata: None,
        }
    }

    /// What is to be done with it.
    pub const fn result(&self) -> TransformResult {
        self.result
    }

    /// Its id.
    pub fn record_id(&self) -> &str {
        &self.record_id
    }

    /// How many bytes it has as JSON, without whitespace.
    pub fn bytes(&self) -> usize {
        /// Counts what it is given.
        struct Counter(usize);
        impl std::io::Write for Counter {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0 += bytes.len();
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let mut counter = Counter(0);
        serde_json::to_writer(&mut counter, self).expect("a record of text has a JSON form and counting cannot fail");
        counter.0
    }
}

/// `null` is the default, as a missing field is.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// Milliseconds since 1970 from any form that AWS writes; `None` from any other.
fn time_ms<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    Ok(match deserializer.deserialize_any(Loose)? {
        LooseValue::Text(text) => parse_time_ms(&text),
        LooseValue::Integer(number) => number_ms(number as f64),
        LooseValue::Float(number) => number_ms(number),
        LooseValue::Other => None,
    })
}

/// A number, or nothing for `""` and other things.
fn sub<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    Ok(match deserializer.deserialize_any(Loose)? {
        LooseValue::Text(text) => text.parse().ok(),
        LooseValue::Integer(number) => u64::try_from(number).ok(),
        LooseValue::Float(_) | LooseValue::Other => None,
    })
}

/// Any JSON value, as far as a number or text is looked for.
enum LooseValue {
    Text(String),
    Integer(i128),
    Float(f64),
    Other,
}

struct Loose;

impl<'de> Visitor<'de> for Loose {
    type Value = LooseValue;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a number or text")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<LooseValue, E> {
        Ok(LooseValue::Text(text.to_owned()))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<LooseValue, E> {
        Ok(LooseValue::Integer(number.into()))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<LooseValue, E> {
        Ok(LooseValue::Integer(number.into()))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<LooseValue, E> {
        Ok(LooseValue::Float(number))
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<LooseValue, E> {
        Ok(LooseValue::Other)
    }

    fn visit_unit<E: de::Error>(self) -> Result<LooseValue, E> {
        Ok(LooseValue::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<LooseValue, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(LooseValue::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<LooseValue, A::Error> {
        while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(LooseValue::Other)
    }
}

#[cfg(test)]
mod tests;
