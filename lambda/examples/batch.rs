//! What a batch of 1,000 records costs the function behind an event source mapping: the event as Lambda hands it over,
//! parsed; histories of a given length read, joined and committed; 1,000 lists delivered to Firehose. State and Firehose
//! are in memory, so what is measured is the function's own work. `make bench` runs it beside the same job in Python with
//! numpy (`bench/numpy_batch.py`).
//!
//! `cargo run --release -p anabranch-lambda --example batch -- SNAPSHOT HISTORY_LENGTH`
//!
//! Prints one JSON object: CPU milliseconds a batch (the median of several) and what the process holds beside the mapped
//! snapshot, in MiB.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use anabranch_aws::firehose::sink::FirehoseSink;
use anabranch_aws::firehose::testing::MemoryFirehose;
use anabranch_aws::lambda_events::KinesisEvent;
use anabranch_aws::testing::SimClock;
use anabranch_events::history::Entry;
use anabranch_events::{EventKey, History, HistoryKey, ItemKey};
use anabranch_lambda::run::{ChainForm, Function, ScratchPool};
use anabranch_lambda::stream::StreamFunction;
use anabranch_models::{Kernels, Model};
use anabranch_stores::backoff::Patience;
use anabranch_stores::lake::MemoryStore;
use anabranch_stores::state::commit::Held;
use anabranch_stream::StreamSettings;
use anabranch_stream::ports::{Checkpoint, Commit, Position, ShardId, StateStore};
use anabranch_stream::testing::{MemoryState, NOW_MS, TestClock};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

const RECORDS: usize = 1_000;
const BATCHES: usize = 9;
/// What a Firehose record holds at most, as the function's settings have it.
const PACKED_BYTES: usize = 256 << 10;

/// Milliseconds that this thread has run.
fn cpu_ms() -> f64 {
    let told = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    told.split(' ').next().unwrap().parse::<f64>().unwrap() * 1e-6
}

/// A value of `/proc/self/status`, in MiB.
fn status_mib(name: &str) -> f64 {
    let told = fs::read_to_string("/proc/self/status").unwrap();
    let line = told.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

/// Spreads a number over `0..below`.
fn spread(number: usize, below: usize) -> usize {
    let hash = (number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    ((u128::from(hash) * below as u128) >> 64) as usize
}

fn store(state: &MemoryState, model: &Model, length: usize) {
    let view = model.types().code("view").unwrap();
    let histories: HashMap<HistoryKey, Held> = (0..RECORDS)
        .map(|user| {
            let entries = (0..length).map(|n| {
                let item = model.snapshot().item_id(spread(user * length + n, model.snapshot().item_count()) as u32);
                let time_ms = NOW_MS - 1_000_000 - spread(n * 31 + user, 90 * 86_400_000) as i64;
                let event = EventKey::derived("", item, "view", time_ms, None);
                Entry { time_ms, event, item: ItemKey::of(item), value: None, kind: view }
            });
            let history = History::from_entries(entries.collect(), model.types());
            (HistoryKey::User(format!("user-{user}").into()), Held { history, base: None })
        })
        .collect();
    let checkpoint = Checkpoint::After(Position::START);
    let commit = Commit { shard: ShardId(1), checkpoint, histories: &histories, types: model.types(), notices: &[] };
    state.commit(commit).unwrap();
}

/// The event of batch `number`, as text.
fn event(number: usize, model: &Model) -> String {
    let records: Vec<serde_json::Value> = (0..RECORDS)
        .map(|n| {
            let (sequence, user) = (number * RECORDS + n, format!("user-{n}"));
            let item = model.snapshot().item_id(spread(sequence * 7, model.snapshot().item_count()) as u32);
            let data = format!(
                r#"{{"userId":"{user}","itemId":"{item}","eventType":"view","eventId":"e-{sequence}","sentAt":{}}}"#,
                NOW_MS - 900_000 + sequence as i64
            );
            let id = format!("4959033827149025660855969253836157{:022}", sequence + 1);
            serde_json::json!({
                "eventSource": "aws:kinesis",
                "eventID": format!("shardId-000000000006:{id}"),
                "kinesis": {
                    "kinesisSchemaVersion": "1.0",
                    "partitionKey": user,
                    "sequenceNumber": id,
                    "data": STANDARD.encode(data),
                    "approximateArrivalTimestamp": NOW_MS as f64 / 1000.0,
                },
            })
        })
        .collect();
    serde_json::json!({ "Records": records }).to_string()
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [snapshot, length] = &arguments[..] else {
        eprintln!("usage: batch SNAPSHOT HISTORY_LENGTH");
        std::process::exit(2);
    };
    let length: usize = length.parse().unwrap();
    let model = Arc::new(Model::open(Path::new(snapshot), "0123456789abcdef", Kernels::best()).unwrap());
    let state = MemoryState::new();
    store(&state, &model, length);
    let patience = Patience::new(Arc::new(SimClock::default()), 1);
    let function = StreamFunction {
        function: Function {
            state,
            sink: Arc::new(MemoryStore::new()),
            types: model.types().clone(),
            settings: StreamSettings::default(),
            namespace: "bench-0".to_owned(),
            clock: TestClock::new(),
            rules: anabranch_stream::notify::Rules::default(),
            scratch: ScratchPool::default(),
            chain: ChainForm::default(),
        },
        firehose: Some(FirehoseSink::new(MemoryFirehose::new(1), patience, PACKED_BYTES)),
    };
    let mut times: Vec<f64> = (0..BATCHES)
        .map(|number| {
            let text = event(number, &model);
            let begin = cpu_ms();
            let event: KinesisEvent = serde_json::from_str(&text).unwrap();
            let handled = function.handle(&event, &model).unwrap();
            let answer = serde_json::to_string(&handled.response).unwrap();
            let ms = cpu_ms() - begin;
            assert_eq!(answer, r#"{"batchItemFailures":[]}"#);
            assert_eq!(handled.report.delivered, RECORDS as u64);
            ms
        })
        .collect();
    times.sort_by(f64::total_cmp);
    let report = serde_json::json!({
        "items": model.snapshot().item_count(),
        "dim": model.snapshot().dim(),
        "historyLength": length,
        "records": RECORDS,
        "cpuMsPerBatch": times[BATCHES / 2],
        "anonymousMiB": status_mib("RssAnon"),
        "mappedMiB": status_mib("RssFile"),
    });
    println!("{report}");
}
