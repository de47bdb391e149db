//! A small world for tests: puts of producers as the worker, the event source mapping and Firehose see them.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use anabranch_aws::firehose::sink::FirehoseSink;
use anabranch_aws::firehose::testing::MemoryFirehose;
use anabranch_aws::kinesis::kpl::Aggregator;
use anabranch_aws::lambda_events::{
    FirehoseEvent, FirehoseRecord, KinesisEvent, KinesisEventRecord, KinesisRecord, KinesisRecordMetadata,
};
use anabranch_aws::testing::SimClock;
use anabranch_stores::backoff::Patience;
use anabranch_stores::lake::{MemoryStore, ObjectStore};
use anabranch_stream::StreamSettings;
use anabranch_stream::notify::Rules;
use anabranch_stream::object;
use anabranch_stream::ports::StateStore;
use anabranch_stream::testing::{self, MemoryState, NOW_MS, TestClock, event};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::run::{ChainForm, Function, ScratchPool};
use crate::settings::Partition;
use crate::stream::StreamFunction;
use crate::transform::TransformFunction;

pub(crate) const SHARD: &str = "shardId-000000000006";

/// What a producer put: one user record, or several in an aggregate.
#[derive(Clone, Debug)]
pub(crate) struct Put {
    pub(crate) arrival_ms: i64,
    pub(crate) key: String,
    pub(crate) parts: Vec<Vec<u8>>,
}

impl Put {
    pub(crate) fn one(key: &str, data: Vec<u8>) -> Self {
        Self { arrival_ms: NOW_MS, key: key.to_owned(), parts: vec![data] }
    }
}

/// Sequence number of the n-th put, counted from 0, as [`testing::MemoryShard`] numbers them.
pub(crate) fn number(index: usize) -> String {
    format!("4959033827149025660855969253836157{:022}", index + 1)
}

/// Events of five users: types, repeats, sessions with and without their user, records that are no events.
pub(crate) fn some_puts(count: usize) -> Vec<Put> {
    (0..count)
        .map(|i| {
            let user = format!("u{}", i * 7 % 5);
            let at = NOW_MS - 1_000_000 + i as i64;
            let kind = ["view", "cart", "purchase"][i % 3];
            let of = |n: usize| event(&user, &format!("i{}", (i * 3 + n) % 23), kind, at + n as i64);
            let session = |user: &str| {
                format!(r#"{{{user}"sessionId":"s{}","itemId":"i{}","eventType":"view","sentAt":{at}}}"#, i % 2, i % 20)
            };
            let parts = match i % 13 {
                4 => vec![of(0), of(1), of(2)],
                6 => vec![session(&format!(r#""userId":"{user}","#)).into_bytes()],
                8 => vec![session("").into_bytes()],
                9 => vec![b"no json".to_vec()],
                10 => vec![of(0), b"\xff\xfe".to_vec()],
                11 => vec![event("u1", "i1", "view", NOW_MS - 2_000_000)],
                _ => vec![of(0)],
            };
            Put { arrival_ms: NOW_MS - 1000 + i as i64, key: user, parts }
        })
        .collect()
}

/// Puts `from..from + puts.len()` as the event source mapping hands them over.
pub(crate) fn kinesis_event(from: usize, puts: &[Put]) -> KinesisEvent {
    let record = |(index, put): (usize, &Put)| {
        let data = match &put.parts[..] {
            [one] => one.clone(),
            parts => {
                let mut aggregate = Aggregator::new(&put.key);
                for part in parts {
                    aggregate.push(part);
                }
                aggregate.finish()
            }
        };
        KinesisEventRecord {
            kinesis: KinesisRecord {
                partition_key: put.key.clone(),
                sequence_number: number(index),
                data: STANDARD.encode(data),
                arrival_ms: Some(put.arrival_ms),
            },
            event_id: format!("{SHARD}:{}", number(index)),
            ..KinesisEventRecord::default()
        }
    };
    KinesisEvent { records: (from..).zip(puts).map(record).collect() }
}

/// The same as Firehose hands them over: aggregates taken apart, a sub-sequence number on everything.
pub(crate) fn firehose_event(from: usize, puts: &[Put]) -> FirehoseEvent {
    let mut records = Vec::new();
    for (index, put) in (from..).zip(puts) {
        for (sub, part) in put.parts.iter().enumerate() {
            records.push(FirehoseRecord {
                record_id: format!("{}{sub:010}", number(index)),
                arrival_ms: Some(put.arrival_ms + 7),
                data: STANDARD.encode(part),
                kinesis_record_metadata: Some(KinesisRecordMetadata {
                    shard_id: SHARD.to_owned(),
                    partition_key: put.key.clone(),
                    arrival_ms: Some(put.arrival_ms),
                    sequence_number: number(index),
                    subsequence_number: Some(sub as u64),
                }),
            });
        }
    }
    FirehoseEvent { records, ..FirehoseEvent::default() }
}

pub(crate) fn settings() -> StreamSettings {
    StreamSettings { list_length: 5, micro_batch_records: 3, ..StreamSettings::default() }
}

pub(crate) fn function(state: Arc<dyn StateStore>, sink: Arc<dyn ObjectStore>, settings: StreamSettings) -> Function {
    Function {
        state,
        sink,
        types: testing::types(),
        settings,
        namespace: format!("clicks-{NOW_MS}"),
        rules: Rules::default(),
        clock: TestClock::new(),
        scratch: ScratchPool::default(),
        chain: ChainForm::default(),
    }
}

/// A function with everything in memory.
pub(crate) struct World {
    pub(crate) state: Arc<MemoryState>,
    pub(crate) sink: Arc<MemoryStore>,
    pub(crate) firehose: MemoryFirehose,
}

impl World {
    pub(crate) fn new() -> Self {
        Self { state: MemoryState::new(), sink: Arc::new(MemoryStore::new()), firehose: MemoryFirehose::new(1) }
    }

    fn function(&self, settings: StreamSettings) -> Function {
        function(Arc::clone(&self.state) as _, Arc::clone(&self.sink) as _, settings)
    }

    pub(crate) fn stream(&self) -> StreamFunction<MemoryFirehose> {
        self.stream_with(settings())
    }

    pub(crate) fn stream_with(&self, settings: StreamSettings) -> StreamFunction<MemoryFirehose> {
        let patience = Patience::new(Arc::new(SimClock::default()), 1);
        let firehose = FirehoseSink::new(self.firehose.clone(), patience, 1);
        StreamFunction { function: self.function(settings), firehose: Some(firehose) }
    }

    pub(crate) fn objects(&self) -> StreamFunction<MemoryFirehose> {
        StreamFunction { function: self.function(settings()), firehose: None }
    }

    pub(crate) fn transform(&self, partition: Partition) -> TransformFunction {
        TransformFunction::new(self.function(settings()), partition)
    }

    /// Lines that Firehose holds, in order.
    pub(crate) fn lines(&self) -> Vec<Vec<u8>> {
        split(&self.firehose.stored().concat())
    }

    /// Dead letters, each parsed.
    pub(crate) fn dead_letters(&self) -> Vec<Value> {
        let mut letters = Vec::new();
        for meta in self.sink.list("dead-letters").unwrap() {
            let lines = object::decompress("", &self.sink.get(&meta.path).unwrap(), 1 << 20).unwrap();
            letters.extend(split(&lines).iter().map(|line| serde_json::from_slice::<Value>(line).unwrap()));
        }
        letters
    }
}

pub(crate) fn split(text: &[u8]) -> Vec<Vec<u8>> {
    text.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
}

/// A member of a line.
pub(crate) fn text(line: &[u8], name: &str) -> String {
    serde_json::from_slice::<Value>(line).unwrap()[name].as_str().unwrap().to_owned()
}

pub(crate) fn ids(lines: &[Vec<u8>]) -> Vec<String> {
    lines.iter().map(|line| text(line, "recommendationId")).collect()
}

/// Lines without repeats: the first of each id, in order.
pub(crate) fn keep_first(lines: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut met = HashSet::new();
    lines.iter().zip(ids(lines)).filter(|(_, id)| met.insert(id.clone())).map(|(l, _)| l.clone()).collect()
}

/// What a metric's lines add up to.
pub(crate) fn totals(lines: &[String]) -> BTreeMap<String, f64> {
    let mut totals = BTreeMap::new();
    for line in lines {
        let line: Value = serde_json::from_str(line).unwrap();
        for metric in line["_aws"]["CloudWatchMetrics"][0]["Metrics"].as_array().unwrap() {
            let name = metric["Name"].as_str().unwrap();
            *totals.entry(name.to_owned()).or_default() += line[name].as_f64().unwrap_or_default();
        }
    }
    totals
}
