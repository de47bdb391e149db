//! One meaning, two drivers: the same events through the ETL (files) and through the stream (a log, several shards, any
//! cuts), in any order, duplication and batching, give byte-equal histories.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use anabranch_batch::dataset::Dataset;
use anabranch_batch::etl::{self, EtlRequest, EtlSettings, MEMORY_BYTES_DEFAULT};
use anabranch_batch::input::InputOptions;
use anabranch_batch::mapping::Mapping;
use anabranch_events::{EventSettings, EventTypes, History, codec};
use anabranch_stores::lake::{MemoryStore, ObjectStore, S3Options, StoreOptions};
use anabranch_stores::state::State;
use anabranch_stores::state::log::{NewRecord, hash_key, shard_of};
use anabranch_stream::embedded::LogReader;
use anabranch_stream::ports::{Position, ShardId};
use anabranch_stream::settings::StreamSettings;
use anabranch_stream::shared::Shared;
use anabranch_stream::testing::{self, NOW_MS, TestClock};
use anabranch_stream::worker::{Step, Worker};
use proptest::prelude::*;

type Histories = BTreeMap<Vec<u8>, Vec<u8>>;

/// Few users, sessions, items, times and ids, so that everything collides: equal ids with other payloads, anonymous
/// sessions that log in, quotas that overflow. One event in fifteen is bad.
fn any_event() -> impl Strategy<Value = String> {
    let user = prop::option::weighted(0.7, 0..4_u8);
    let session = prop::option::weighted(0.5, 0..4_u8);
    let id = prop::option::weighted(0.6, 0..12_u8);
    let kind = prop::sample::select(vec!["view", "click", "cart", "purchase", "purchase", "ogle"]);
    (user, session, 0..9_u8, id, kind, 0..40_i64, prop::option::of(0..3_u8)).prop_map(
        |(user, session, item, id, kind, time, value)| {
            let mut event = serde_json::json!({
                "itemId": format!("i{item}"), "eventType": kind, "sentAt": NOW_MS - 100_000 + time * 1000,
            });
            for (name, number) in
                [("userId", user.map(|u| format!("u{u}"))), ("sessionId", session.map(|s| format!("s{s}")))]
            {
                if let Some(number) = number {
                    event[name] = number.into();
                }
            }
            if let Some(id) = id {
                event["eventId"] = format!("e{id}").into();
            }
            if let Some(value) = value {
                event["eventValue"] = value.into();
            }
            event.to_string()
        },
    )
}

fn settings() -> EventSettings {
    EventSettings { quota: 5, seen_max: 4, sessions_max: 2, ..EventSettings::default() }
}

/// A file, an ETL run, the histories of its dataset.
fn through_etl(events: &[String], types: &EventTypes) -> Histories {
    let folder = tempfile::tempdir().unwrap();
    let half = events.len() / 2;
    std::fs::write(folder.path().join("interactions-1.jsonl"), events[..half].join("\n")).unwrap();
    std::fs::write(folder.path().join("interactions-2.jsonl"), events[half..].join("\n")).unwrap();
    let mapping = "[interactions.columns]\nuser = \"userId\"\nsession = \"sessionId\"\nitem = \"itemId\"\n\
                   event_type = \"eventType\"\nevent_id = \"eventId\"\nvalue = \"eventValue\"\ntime = \"sentAt\"\n";
    let input = InputOptions {
        data: folder.path().display().to_string(),
        store: StoreOptions { process_started: SystemTime::UNIX_EPOCH, s3: S3Options::default() },
    };
    let store = MemoryStore::new();
    let outcome = etl::run(
        &EtlRequest {
            input: &input,
            mapping: &Mapping::parse(mapping).unwrap(),
            types,
            settings: &EtlSettings { keep_going: true, ..EtlSettings::default() },
            as_of_ms: Some(NOW_MS),
            until_ms: None,
            erased: &|_| None,
            scratch: &folder.path().join("scratch"),
            threads: 2,
            memory_bytes: MEMORY_BYTES_DEFAULT,
            progress: &|_| {},
            clock_s: &|| 0.0,
        },
        &store,
    );
    match outcome {
        Ok(outcome) => {
            let counts = outcome.report.interactions;
            assert_eq!(counts.read, counts.clean + counts.duplicates + counts.quarantined + counts.filtered);
        }
        // Nothing but bad events: nothing to remember.
        Err(anabranch_batch::BatchError::NoRows { .. }) => return Histories::new(),
        Err(error) => panic!("{error}"),
    }
    Dataset::current(&store).unwrap().histories().map(|entry| entry.unwrap()).map(|(k, v)| (k.to_bytes(), v)).collect()
}

/// The log, two shards, cuts of random size; what the state holds in the end, without histories that hold nothing.
fn through_stream(events: &[String], cut_records: usize, micro_batch_records: usize, types: &EventTypes) -> Histories {
    let folder = tempfile::tempdir().unwrap();
    let state: Arc<State> = testing::state(folder.path(), 2);
    let records: Vec<NewRecord<'_>> = events
        .iter()
        .map(|event| {
            let key = anabranch_events::wire::partition_key(event.as_bytes()).unwrap_or_default();
            let shard = shard_of(hash_key(&key), 2);
            NewRecord { shard, partition_key: "k", data: event.as_bytes(), arrival_ms: NOW_MS }
        })
        .collect();
    state.append(&records, None).unwrap();
    let sink: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new());
    let stream = StreamSettings { cut_records, micro_batch_records, ..StreamSettings::default() };
    let mut parts = testing::parts(Arc::clone(&state), sink, TestClock::new(), stream);
    parts.types = types.clone();
    let shared = Arc::new(Shared::new(parts.over_port()));
    let workers = (0..2).map(|shard| {
        let reader = LogReader::new(Arc::clone(&state), shard);
        (shard, Worker::new(Arc::clone(&shared), ShardId(shard.into()), Box::new(reader)))
    });
    let mut workers: Vec<(u32, Worker)> = workers.collect();
    for (shard, worker) in &mut workers {
        let newest = Position::whole(state.newest(*shard).unwrap().into());
        while worker.processed() < newest || !worker.is_clean() {
            if matches!(worker.step().unwrap(), Step::Idle { .. }) {
                worker.flush();
            }
        }
    }
    assert!(shared.totals().conserve());
    // A late or refused event may leave a history of nothing behind; the batch arm writes none.
    let nothing = codec::decode(&codec::encode(&History::new(), types), types).unwrap();
    state
        .histories(types)
        .map(|stored| stored.unwrap())
        .filter(|stored| stored.history != nothing)
        .map(|stored| (stored.key.to_bytes(), codec::encode(&stored.history, types)))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn batch_and_stream_reach_the_same_bytes(
        (events, again) in prop::collection::vec(any_event(), 1..60).prop_flat_map(|events| {
            let repeats = prop::collection::vec(prop::sample::select(events.clone()), 0..20);
            (Just(events.clone()), repeats).prop_flat_map(|(events, repeats)| {
                let all: Vec<String> = events.iter().chain(&repeats).cloned().collect();
                (Just(events), Just(all).prop_shuffle())
            })
        }),
        cut_records in 1..30_usize,
        micro_batch_records in 1..20_usize,
    ) {
        let types = settings().compile().unwrap();
        let batch = through_etl(&events, &types);
        let stream = through_stream(&again, cut_records, micro_batch_records, &types);
        prop_assert_eq!(batch, stream);
    }
}
