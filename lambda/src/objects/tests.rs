#![allow(clippy::unwrap_used)]
use std::collections::BTreeMap;

use anabranch_stores::lake::{Fault, FaultPlan, FaultyStore, MemoryStore, Operation};
use anabranch_stream::testing::{self, MemoryState, When};

use super::*;
use crate::stream::StreamFunction;
use crate::testing::{Put, World, function, keep_first, kinesis_event, settings, some_puts, split};
use anabranch_aws::firehose::testing::MemoryFirehose;

fn lines(sink: &dyn ObjectStore) -> Vec<Vec<u8>> {
    let objects = sink.list("recommendations").unwrap();
    let mut reach = BTreeMap::new();
    let mut lines = Vec::new();
    for meta in &objects {
        let (trailer, text) = object::decode(meta.path.as_str(), &sink.get(&meta.path).unwrap()).unwrap();
        assert!(trailer.counts.conserve() && trailer.after < trailer.first && trailer.first <= trailer.last);
        assert_eq!(reach.insert(trailer.after, trailer.last), None);
        lines.extend(split(&text));
    }
    let mut after = Position::START;
    for (from, last) in reach {
        assert_eq!(from, after, "the chain has no gap and no overlap");
        after = last;
    }
    lines
}

/// A mapping: hands the batch over until it is done; after a failure in halves, as a bisection does.
fn run(function: &StreamFunction<MemoryFirehose>, puts: &[Put], size: usize) -> u64 {
    let (mut from, mut length, mut failures, mut delivered) = (0, size, 0, 0);
    while from < puts.len() {
        let to = (from + length).min(puts.len());
        if let Ok(handled) = function.handle(&kinesis_event(from, &puts[from..to]), &testing::model()) {
            assert!(handled.report.conserves());
            delivered += handled.report.delivered;
            (from, length) = (to, size);
        } else {
            failures += 1;
            assert!(failures < 100, "no progress");
            length = (length / 2).max(1);
        }
    }
    delivered
}

#[test]
fn whatever_call_fails_every_list_is_delivered_once_and_histories_are_the_same() {
    let puts = some_puts(36);
    let calm = World::new();
    run(&calm.objects(), &puts, 9);
    let golden = lines(&*calm.sink);
    let sorted = |mut lines: Vec<Vec<u8>>| {
        lines.sort();
        lines
    };
    assert_eq!(sorted(keep_first(&golden)), sorted(golden.clone()));
    let calls = calm.state.faults.calls();
    for call in 0..calls {
        for when in [When::Before, When::After] {
            let world = World::new();
            world.state.faults.fail_after(call, when);
            run(&world.objects(), &puts, 9);
            assert!(sorted(lines(&*world.sink)) == sorted(golden.clone()), "call {call} of the state fails {when:?}");
            assert_eq!(world.state.bytes(), calm.state.bytes(), "call {call} of the state fails {when:?}");
        }
    }
    for operation in [Operation::PutNew, Operation::Read] {
        for fault in [Fault::Before, Fault::After] {
            let state = MemoryState::new();
            let scripted = [(operation, fault), (operation, fault)].into();
            let store = Arc::new(FaultyStore::new(MemoryStore::new(), FaultPlan { scripted, ..FaultPlan::default() }));
            let function = function(Arc::clone(&state) as _, Arc::clone(&store) as _, settings());
            run(&StreamFunction { function, firehose: None }, &puts, 9);
            assert_eq!(sorted(lines(store.inner())), sorted(golden.clone()), "{operation:?} {fault:?}");
            assert_eq!(state.bytes(), calm.state.bytes());
        }
    }
}

#[test]
fn a_batch_that_comes_again_changes_nothing() {
    let world = World::new();
    let event = kinesis_event(0, &some_puts(20));
    let first = world.objects().handle(&event, &testing::model()).unwrap().report;
    let (objects, histories) = (lines(&*world.sink), world.state.bytes());
    let again = world.objects().handle(&event, &testing::model()).unwrap().report;
    assert_eq!((again.delivered, again.duplicate), (0, first.applied + first.duplicate));
    assert_eq!((lines(&*world.sink), world.state.bytes()), (objects, histories));
}

#[test]
fn an_object_that_is_not_of_this_chain_is_refused() {
    let world = World::new();
    let puts = some_puts(3);
    world.objects().handle(&kinesis_event(0, &puts), &testing::model()).unwrap();
    let object = world.sink.list("recommendations").unwrap().remove(0);
    let (mut trailer, text) = object::decode("", &world.sink.get(&object.path).unwrap()).unwrap();
    trailer.shard = ShardId(7);
    let bytes = object::encode(&text, &trailer, settings().compression).unwrap();
    world.sink.put(&object.path, &bytes).unwrap();
    let fresh = World { state: MemoryState::new(), sink: Arc::clone(&world.sink), firehose: MemoryFirehose::new(1) };
    let error = fresh.objects().handle(&kinesis_event(0, &puts), &testing::model()).unwrap_err();
    assert!(matches!(error, InvocationError::Object(ObjectError::Corrupt { .. })), "{error}");
}
