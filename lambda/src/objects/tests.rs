#![allow(clippy::unwrap_used)]
use std::collections::{BTreeMap, HashMap};

use anabranch_aws::firehose::sink::FirehoseSink;
use anabranch_aws::firehose::testing::MemoryFirehose;
use anabranch_aws::lambda_events::KinesisEvent;
use anabranch_stores::lake::{Fault, FaultPlan, FaultyStore, MemoryStore, Operation};
use anabranch_stream::StreamSettings;
use anabranch_stream::ports::{Checkpoint, Commit, StateStore};
use anabranch_stream::settings::{Compression, Mode};
use anabranch_stream::shared::Shared;
use anabranch_stream::testing::{self, MemoryShard, MemoryState, When};
use anabranch_stream::worker::{Worker, WorkerError};

use super::*;
use crate::stream::StreamFunction;
use crate::testing::{Put, SHARD, World, function, keep_first, kinesis_event, number, settings, some_puts, split};

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

/// What a mapping with a parallelization factor of two makes of puts: each key always on the same side.
fn two_sides(puts: &[Put]) -> [KinesisEvent; 2] {
    let all = kinesis_event(0, puts);
    let side = |wanted: bool| KinesisEvent {
        records: all.records.iter().filter(|r| (r.kinesis.partition_key.as_str() < "u2") == wanted).cloned().collect(),
    };
    [side(true), side(false)]
}

/// The second of two invocations of one shard finds its records below the checkpoint, or in the range of an object whose
/// commit did not follow; before it was taken for delivered and no list of it was ever made.
#[test]
fn batches_side_by_side_are_refused_and_the_setting_is_named() {
    let [one, other] = two_sides(&some_puts(40));
    for is_committed in [true, false] {
        let world = World::new();
        if !is_committed {
            // The checkpoint and the histories are read; the third call is the commit.
            world.state.faults.fail_after(2, When::Before);
        }
        assert_eq!(world.objects().handle(&one, &testing::model()).is_ok(), is_committed);
        world.state.faults.end();
        let (before, histories) = (lines(&*world.sink), world.state.bytes());
        let error = world.objects().handle(&other, &testing::model()).unwrap_err();
        assert!(matches!(error, InvocationError::SideBySide { .. }), "{error}");
        assert!(error.to_string().contains("ParallelizationFactor"), "{error}");
        assert_eq!((lines(&*world.sink), world.state.bytes()), (before, histories), "everything is as it was");
        // Of the side that was delivered a repeat is still taken.
        world.objects().handle(&one, &testing::model()).unwrap();
    }
}

/// One invocation after the other is one chain, whoever makes a batch of whom: nothing of it is taken for another side.
#[test]
fn what_was_delivered_is_known_again_in_any_cut_and_in_both_modes() {
    let puts = some_puts(39);
    let modes = [Mode::PerEvent, Mode::PerUser];
    for (mode, later) in modes.into_iter().flat_map(|mode| modes.map(|later| (mode, later))) {
        let world = World::new();
        let of = |mode: Mode, state: &Arc<MemoryState>| StreamFunction {
            function: function(
                Arc::clone(state) as _,
                Arc::clone(&world.sink) as _,
                StreamSettings { mode, ..settings() },
            ),
            firehose: None::<FirehoseSink<MemoryFirehose>>,
        };
        run(&of(mode, &world.state), &puts, 13);
        let before = world.sink.list("").unwrap();
        // A table restored to its beginning, or without histories and with a checkpoint; batches of other sizes.
        for (size, passed) in [(39, 0), (5, 0), (7, 26), (39, 39)] {
            let restored = MemoryState::new();
            if let Some(number) = (passed > 0).then(|| number(passed - 1).parse().unwrap()) {
                let (checkpoint, histories) = (Checkpoint::After(Position::whole(number)), &HashMap::new());
                let types = &testing::types();
                let shard = SHARD.parse().unwrap();
                restored.commit(Commit { shard, checkpoint, histories, types, notices: &[] }).unwrap();
            }
            run(&of(later, &restored), &puts, size);
            assert_eq!(restored.bytes(), world.state.bytes(), "{mode:?}, {size} at a time after {passed}");
            assert_eq!(world.sink.list("").unwrap(), before, "{mode:?}, {size} at a time after {passed}");
        }
    }
}

/// An object that was delivered, and nothing after it: its dead letters and histories are made when the batch comes in
/// halves. Before, the letters of the second half were lost.
#[test]
fn halves_of_a_batch_whose_object_alone_was_written_lose_no_dead_letter() {
    let puts = some_puts(26);
    let calm = World::new();
    run(&calm.objects(), &puts, 26);
    let world = World::new();
    let scripted = [(Operation::PutNew, Fault::After)].into();
    let sink = FaultyStore::new(Arc::clone(&world.sink), FaultPlan { scripted, ..FaultPlan::default() });
    let function = function(Arc::clone(&world.state) as _, Arc::new(sink), settings());
    let crashes = StreamFunction { function, firehose: None::<FirehoseSink<MemoryFirehose>> };
    crashes.handle(&kinesis_event(0, &puts), &testing::model()).unwrap_err();
    assert!(world.dead_letters().is_empty());
    run(&world.objects(), &puts, 13);
    let sorted = |world: &World| {
        let mut letters: Vec<String> = world.dead_letters().iter().map(ToString::to_string).collect();
        letters.sort();
        letters
    };
    assert_eq!(sorted(&world), sorted(&calm));
    assert_eq!((lines(&*world.sink), world.state.bytes()), (lines(&*calm.sink), calm.state.bytes()));
}

/// The mapping gave a batch up after its object and before its commit: the chain goes on, and what stays out of the
/// histories is counted.
#[test]
fn a_batch_that_was_given_up_is_a_gap_and_its_records_are_counted() {
    let world = World::new();
    let puts = some_puts(30);
    world.state.faults.fail_after(2, When::Before);
    world.objects().handle(&kinesis_event(0, &puts[..12]), &testing::model()).unwrap_err();
    world.state.faults.end();
    let given_up = lines(&*world.sink).len();
    let report = world.objects().handle(&kinesis_event(25, &puts[25..]), &testing::model()).unwrap().report;
    let records = puts[..12].iter().map(|put| put.parts.len() as u64).sum::<u64>();
    assert_eq!((report.missing, report.conserves()), (records, true));
    let delivered = lines(&*world.sink);
    assert_eq!(delivered.len() as u64, given_up as u64 + report.delivered);
    assert_eq!(keep_first(&delivered).len(), delivered.len());
}

/// A worker on the same chain whose settings differ: refused before it delivers, whoever comes first.
#[test]
fn a_function_and_a_worker_of_two_forms_do_not_share_a_chain() {
    let gzip = StreamSettings { compression: Compression::Gzip, ..settings() };
    let world = World::new();
    let event = kinesis_event(0, &some_puts(5));
    world.objects().handle(&event, &testing::model()).unwrap();
    let (state, sink) = (Arc::clone(&world.state), Arc::clone(&world.sink));
    let parts = testing::port_parts(state, sink, testing::TestClock::new(), gzip.clone());
    let mut worker = Worker::new(Arc::new(Shared::new(parts)), SHARD.parse().unwrap(), MemoryShard::new().reader());
    assert!(matches!(worker.step(), Err(WorkerError::Form { .. })));

    let world = World { sink: Arc::new(MemoryStore::new()), ..World::new() };
    object::claim_form(&*world.sink, &format!("clicks-{}", testing::NOW_MS), Compression::Gzip).unwrap();
    let error = world.objects().handle(&event, &testing::model()).unwrap_err();
    assert!(matches!(error, InvocationError::Form(_)), "{error}");
    assert!(world.sink.list("recommendations").unwrap().is_empty());
}
