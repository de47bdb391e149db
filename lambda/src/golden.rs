//! One golden set, four ways: the worker over a shard, objects from Lambda, Lambda behind the event source mapping, and
//! the Firehose transformation give the same bytes; whatever happens to invocations, the histories are the same.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::sync::Arc;

use anabranch_aws::firehose::testing::Faults as FirehoseFaults;
use anabranch_aws::lambda_events::FirehoseResponse;
use anabranch_stores::lake::{MemoryStore, ObjectStore};
use anabranch_stream::object;
use anabranch_stream::shared::Shared;
use anabranch_stream::testing::{self, MemoryShard, MemoryState, TestClock, When};
use anabranch_stream::worker::{Step, Worker};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use serde_json::Value;

use crate::settings::Partition;
use crate::testing::{Put, SHARD, World, firehose_event, ids, keep_first, kinesis_event, settings, some_puts, split};

/// What the worker delivers, in order, and the histories that it leaves.
fn by_worker(puts: &[Put]) -> (Vec<Vec<u8>>, Arc<MemoryState>) {
    let (shard, state, sink) = (MemoryShard::new(), MemoryState::new(), Arc::new(MemoryStore::new()));
    for put in puts {
        let parts: Vec<&[u8]> = put.parts.iter().map(Vec::as_slice).collect();
        shard.put(put.arrival_ms, &put.key, &parts);
    }
    let settings = anabranch_stream::StreamSettings { cut_records: 17, ..settings() };
    let parts = testing::port_parts(Arc::clone(&state) as _, Arc::clone(&sink) as _, TestClock::new(), settings);
    let mut worker = Worker::new(Arc::new(Shared::new(parts)), SHARD.parse().unwrap(), shard.reader());
    for _ in 0..10_000 {
        match worker.step().unwrap() {
            Step::Idle { .. } if worker.is_clean() => return (object_lines(&sink), state),
            Step::Idle { .. } => worker.flush(),
            _ => {}
        }
    }
    panic!("the worker makes no progress");
}

/// The lines of all objects, by the order of their names.
fn object_lines(sink: &MemoryStore) -> Vec<Vec<u8>> {
    let objects = sink.list("recommendations").unwrap();
    let texts = objects.iter().map(|meta| object::decode("", &sink.get(&meta.path).unwrap()).unwrap().1);
    texts.flat_map(|text| split(&text)).collect()
}

pub(crate) fn delivered(response: &FirehoseResponse) -> Vec<Vec<u8>> {
    let response = serde_json::to_value(response).unwrap();
    let records = response["records"].as_array().unwrap().iter();
    let delivered = records.filter(|record| record["result"] == "Ok");
    delivered.flat_map(|record| split(&STANDARD.decode(record["data"].as_str().unwrap()).unwrap())).collect()
}

#[test]
fn four_ways_give_the_same_bytes() {
    let puts = some_puts(120);
    let (golden, histories) = by_worker(&puts);
    assert!(golden.len() > 100);
    let parsed: Value = serde_json::from_slice(&golden[0]).unwrap();
    assert_eq!((parsed["shardId"].as_str(), parsed["items"].as_array().unwrap().len()), (Some(SHARD), 5));
    assert!(golden.iter().any(|line| line.windows(19).any(|part| part == b"\"subSequenceNumber\"")));

    for size in [1, 7, 120] {
        let (stream, objects, transform) = (World::new(), World::new(), World::new());
        let mut transformed = Vec::new();
        for (index, chunk) in puts.chunks(size).enumerate() {
            let from = index * size;
            let event = kinesis_event(from, chunk);
            assert!(stream.stream().handle(&event, &testing::model()).unwrap().response.batch_item_failures.is_empty());
            objects.objects().handle(&event, &testing::model()).unwrap();
            let event = firehose_event(from, chunk);
            let handled = transform.transform(Partition::None).handle(&event, &testing::model()).unwrap();
            transformed.extend(delivered(&handled.response));
        }
        assert!(stream.lines() == golden, "the mapping, {size} at a time");
        assert!(object_lines(&objects.sink) == golden, "objects, {size} at a time");
        // The repeats are of events that the producer sent again, in another invocation.
        assert!(keep_first(&transformed) == golden, "the transformation, {size} at a time");
        for world in [&stream, &objects, &transform] {
            assert_eq!(world.state.bytes(), histories.bytes());
        }
        assert_eq!(stream.dead_letters(), objects.dead_letters());
    }
}

/// Invocations of one run: which puts, how often something fails.
#[derive(Clone, Debug)]
struct Invocation {
    from: usize,
    count: usize,
    fails: Option<u64>,
}

fn invocations() -> impl Strategy<Value = Vec<Invocation>> {
    let one = (0_usize..40, 1_usize..12, proptest::option::weighted(0.3, 0_u64..4))
        .prop_map(|(from, count, fails)| Invocation { from, count, fails });
    proptest::collection::vec(one, 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Invocations come twice, out of order, in other cuts, and fail anywhere; at last each batch comes once in order.
    #[test]
    fn whatever_happens_to_invocations_histories_and_ids_are_the_same(before in invocations(), seed in any::<u64>()) {
        let puts = some_puts(40);
        let (golden, histories) = by_worker(&puts);
        let golden_ids: BTreeSet<String> = ids(&golden).into_iter().collect();
        let (stream, transform) = (World::new(), World::new());
        let mut transformed = Vec::new();
        let _ = seed;
        stream.firehose.set_faults(FirehoseFaults { record: 10, refuse: 10, lose: 5 });
        for Invocation { from, count, fails } in before {
            let chunk = &puts[from..(from + count).min(puts.len())];
            for world in [&stream, &transform] {
                if let Some(calls) = fails {
                    let when = if calls % 2 == 0 { When::Before } else { When::After };
                    world.state.faults.fail_after(calls / 2, when);
                }
            }
            let _ = stream.stream().handle(&kinesis_event(from, chunk), &testing::model());
            let handled = transform.transform(Partition::None).handle(&firehose_event(from, chunk), &testing::model());
            if let Ok(handled) = handled {
                prop_assert!(handled.report.conserves());
                transformed.extend(delivered(&handled.response));
            }
            stream.state.faults.end();
            transform.state.faults.end();
        }
        stream.firehose.set_faults(FirehoseFaults::default());
        let handled = stream.stream().handle(&kinesis_event(0, &puts), &testing::model()).unwrap();
        prop_assert!(handled.report.conserves() && handled.response.batch_item_failures.is_empty());
        let handled = transform.transform(Partition::None).handle(&firehose_event(0, &puts), &testing::model()).unwrap();
        transformed.extend(delivered(&handled.response));
        prop_assert_eq!(stream.state.bytes(), histories.bytes());
        prop_assert_eq!(transform.state.bytes(), histories.bytes());
        prop_assert_eq!(&ids(&stream.lines()).into_iter().collect::<BTreeSet<_>>(), &golden_ids);
        prop_assert_eq!(&ids(&transformed).into_iter().collect::<BTreeSet<_>>(), &golden_ids);
    }
}
