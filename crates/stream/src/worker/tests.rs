//! The chain of cuts under every crash and every failure of the sink: the same lists, each once.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use anabranch_events::{Recommendation, codec};
use anabranch_stores::ErrorKind;
use anabranch_stores::lake::{MemoryStore, ObjectStore, PutOutcome};
use anabranch_stores::state::State;
use anabranch_stores::state::log::{NewRecord, hash_key, shard_of};
use proptest::prelude::*;

use super::*;
use crate::embedded::LogReader;
use crate::object::Counts;
use crate::settings::{Compression, Format, StreamSettings};
use crate::testing::{self, NOW_MS, TestClock, event};

mod asleep;
mod simulated;

fn settings(cut_records: usize) -> StreamSettings {
    StreamSettings {
        cut_records,
        micro_batch_records: 3,
        cut_after_ms: 10,
        list_length: 5,
        ..StreamSettings::default()
    }
}

fn shared(state: Arc<State>, sink: Arc<dyn ObjectStore>, settings: StreamSettings) -> Arc<Shared> {
    Arc::new(Shared::new(testing::parts(state, sink, TestClock::new(), settings).over_port()))
}

fn append(state: &State, events: &[(&str, Vec<u8>)]) {
    let records: Vec<NewRecord<'_>> = events
        .iter()
        .enumerate()
        .map(|(i, (key, data))| NewRecord {
            shard: shard_of(hash_key(key), state.identity().shards),
            partition_key: key,
            data,
            arrival_ms: NOW_MS + i as i64,
        })
        .collect();
    state.append(&records, None).unwrap();
}

/// A worker on the first shard of the embedded log.
fn embedded(state: &Arc<State>, sink: &Arc<dyn ObjectStore>, settings: StreamSettings) -> Worker {
    let shared = shared(Arc::clone(state), Arc::clone(sink), settings);
    Worker::new(shared, ShardId(0), Box::new(LogReader::new(Arc::clone(state), 0)))
}

/// Steps until nothing is left, flushing the last cut.
fn run_to_end(worker: &mut Worker) {
    for _ in 0..10_000 {
        match worker.step().unwrap() {
            Step::Idle { .. } if worker.is_clean() => return,
            Step::Idle { .. } => worker.flush(),
            Step::Ended => return,
            Step::Worked | Step::Stalled { .. } => {}
        }
    }
    panic!("the worker makes no progress");
}

/// All delivered lines by id; a repeated id fails the test. Also the sum of the trailers' counts.
fn delivered(sink: &dyn ObjectStore) -> (BTreeMap<String, Vec<u8>>, Counts) {
    let mut lines_by_id = BTreeMap::new();
    let mut counts = Counts::default();
    let mut chain: BTreeMap<(ShardId, Position), Position> = BTreeMap::new();
    for meta in sink.list("recommendations").unwrap() {
        let (trailer, lines) = object::decode(meta.path.as_str(), &sink.get(&meta.path).unwrap()).unwrap();
        assert!(trailer.counts.conserve(), "{:?}", trailer.counts);
        assert_eq!(object::parse_name(meta.path.as_str()), Some((trailer.shard, trailer.after)));
        assert!(trailer.after < trailer.first && trailer.first <= trailer.last);
        assert_eq!(chain.insert((trailer.shard, trailer.after), trailer.last), None, "two objects after one position");
        counts.add(&trailer.counts);
        for line in lines.split(|&b| b == b'\n').filter(|line| !line.is_empty()) {
            let record: Recommendation<'_> = serde_json::from_slice(line).unwrap();
            assert!(record.items.len() <= 5 && !record.items.is_empty());
            let earlier = lines_by_id.insert(record.recommendation_id.to_string(), line.to_vec());
            assert!(earlier.is_none(), "list {} was delivered twice", record.recommendation_id);
        }
    }
    let mut reach: BTreeMap<ShardId, Position> = BTreeMap::new();
    for ((shard, after), last) in chain {
        assert_eq!(reach.insert(shard, last).unwrap_or_default(), after, "the chain has no gap and no overlap");
    }
    (lines_by_id, counts)
}

fn histories(state: &State) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let types = testing::types();
    state.histories(&types).map(|s| s.unwrap()).map(|s| (s.key.to_bytes(), codec::encode(&s.history, &types))).collect()
}

fn some_events(count: usize) -> Vec<(String, Vec<u8>)> {
    (0..count)
        .map(|i| {
            let user = format!("u{}", i * 7 % 5);
            let kind = ["view", "cart", "purchase"][i % 3];
            let data = match i % 11 {
                9 => b"no json".to_vec(),
                10 => event(&user, "i1", "view", NOW_MS - 5), // the same event again and again
                _ => event(&user, &format!("i{}", i * 3 % 23), kind, NOW_MS + i as i64),
            };
            (user, data)
        })
        .collect()
}

fn append_all(state: &State, events: &[(String, Vec<u8>)]) {
    let events: Vec<(&str, Vec<u8>)> = events.iter().map(|(key, data)| (key.as_str(), data.clone())).collect();
    append(state, &events);
}

#[test]
fn every_event_is_accounted_for_and_dead_letters_keep_the_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let state = testing::state(folder.path(), 1);
    append_all(&state, &some_events(100));
    let sink: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new());
    let mut worker = embedded(&state, &sink, settings(10));
    run_to_end(&mut worker);
    let (lists, counts) = delivered(&*sink);
    assert_eq!(counts.records, 100);
    assert_eq!(counts.rejected, 9);
    assert_eq!(counts.accepted, 91);
    assert_eq!(counts.delivered, lists.len() as u64);
    assert!(counts.duplicate > 0, "{counts:?}");
    let mut dead = 0;
    for meta in sink.list("dead-letters").unwrap() {
        let lines = object::decompress("d", &sink.get(&meta.path).unwrap(), 1 << 20).unwrap();
        for line in lines.split(|&b| b == b'\n').filter(|l| !l.is_empty()) {
            let letter: serde_json::Value = serde_json::from_slice(line).unwrap();
            assert_eq!((letter["raw"].as_str(), letter["code"].as_str()), (Some("no json"), Some("unparsable")));
            dead += 1;
        }
    }
    assert_eq!(dead, 9);
}

/// A table over the folder of lists reads lists and nothing else: dead letters and what a chain says of itself lie outside.
#[test]
fn what_is_no_list_lies_outside_of_the_lists_folder() {
    for format in [Format::Jsonl, Format::Parquet] {
        let folder = tempfile::tempdir().unwrap();
        let state = testing::state(folder.path(), 1);
        append_all(&state, &some_events(60));
        let sink: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new());
        run_to_end(&mut embedded(&state, &sink, StreamSettings { format, ..settings(10) }));
        let mut folders: BTreeMap<String, u64> = BTreeMap::new();
        for meta in sink.list("").unwrap() {
            let (folder, _) = meta.path.as_str().split_once('/').unwrap();
            *folders.entry(folder.to_owned()).or_default() += 1;
        }
        assert_eq!(folders.keys().collect::<Vec<_>>(), ["chains", "dead-letters", "recommendations"]);
        assert!(folders["dead-letters"] > 1);
        // Each of its objects is one of the chain, of the form that the table reads; `delivered` parses every line.
        let form = StreamSettings { format, ..settings(10) }.form();
        for meta in sink.list("recommendations").unwrap() {
            let (shard, after) = object::parse_name(meta.path.as_str()).unwrap();
            assert!(
                meta.path.as_str().ends_with(&object::object_name("", shard, after, NOW_MS, form)),
                "{}",
                meta.path
            );
        }
        assert!(delivered(&*sink).1.delivered > 20);
    }
}

/// A phone that was offline: events of yesterday arrive today. They lie in the folder of their arrival, say both times,
/// and stand in their history where they happened.
#[test]
fn folders_are_by_arrival_and_histories_by_event_time() {
    const DAY_MS: i64 = 24 * 3_600_000;
    let folder = tempfile::tempdir().unwrap();
    let state = testing::state(folder.path(), 1);
    let times = [NOW_MS, NOW_MS - DAY_MS, NOW_MS - 2 * DAY_MS];
    let events: Vec<(&str, Vec<u8>)> =
        (0..).zip(times).map(|(i, time)| ("u", event("u", &format!("i{i}"), "view", time))).collect();
    append(&state, &events);
    let sink: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new());
    run_to_end(&mut embedded(&state, &sink, settings(1)));
    let objects = sink.list("recommendations").unwrap();
    assert!(
        !objects.is_empty() && objects.iter().all(|meta| meta.path.as_str().contains("/day=2023-11-14/hour=22/")),
        "{objects:?}"
    );
    let mut told: Vec<(i64, i64)> = delivered(&*sink)
        .0
        .values()
        .map(|line| serde_json::from_slice::<Recommendation<'_>>(line).unwrap())
        .map(|list| (list.event_time_ms, list.arrival_time_ms))
        .collect();
    told.sort_unstable();
    assert_eq!(told, [(times[2], NOW_MS + 2), (times[1], NOW_MS + 1), (times[0], NOW_MS)]);
    let types = testing::types();
    let held = state.histories(&types).next().unwrap().unwrap().history;
    assert_eq!(held.entries().map(|entry| entry.time_ms).collect::<Vec<_>>(), [times[2], times[1], times[0]]);
}

#[test]
fn micro_batches_and_cuts_do_not_change_a_list() {
    let run = |cut_records, micro_batch_records| {
        let folder = tempfile::tempdir().unwrap();
        let state = testing::state(folder.path(), 1);
        append_all(&state, &some_events(120));
        let sink: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new());
        let settings = StreamSettings { micro_batch_records, ..settings(cut_records) };
        run_to_end(&mut embedded(&state, &sink, settings));
        (delivered(&*sink).0, histories(&state))
    };
    let expected = run(1, 1);
    assert_eq!(run(1000, 100), expected);
    assert_eq!(run(7, 5), expected);
}

#[test]
fn per_user_mode_makes_one_list_a_user_and_cut() {
    let folder = tempfile::tempdir().unwrap();
    let state = testing::state(folder.path(), 1);
    append_all(&state, &some_events(100));
    let sink: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new());
    let settings = StreamSettings { mode: Mode::PerUser, micro_batch_records: 100, ..settings(1000) };
    run_to_end(&mut embedded(&state, &sink, settings));
    let (lists, counts) = delivered(&*sink);
    assert_eq!(lists.len(), 5);
    assert_eq!(counts.delivered, 5);
    assert!(counts.superseded > 20 && counts.conserve());
}

/// A zombie: two workers on one shard, each with its own uncommitted state, stepping in turns.
#[test]
fn two_workers_at_once_neither_duplicate_nor_overlap() {
    let folder = tempfile::tempdir().unwrap();
    let state = testing::state(folder.path(), 1);
    append_all(&state, &some_events(100));
    let sink: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new());
    let new = |cut| embedded(&state, &sink, settings(cut));
    let (mut a, mut b) = (new(7), new(10));
    for turn in 0..4000_usize {
        let worker = if turn * turn % 7 < 3 { &mut a } else { &mut b };
        if matches!(worker.step().unwrap(), Step::Idle { .. }) {
            worker.flush();
        }
    }
    run_to_end(&mut a);
    run_to_end(&mut b);
    let (lists, _) = delivered(&*sink);

    let alone = tempfile::tempdir().unwrap();
    let alone_state = testing::state(alone.path(), 1);
    append_all(&alone_state, &some_events(100));
    let alone_sink: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new());
    run_to_end(&mut embedded(&alone_state, &alone_sink, settings(10)));
    assert_eq!(lists, delivered(&*alone_sink).0);
    assert_eq!(histories(&state), histories(&alone_state));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// The worker dies after any number of steps (its memory is lost, log and objects stay), again and again, while the
    /// sink loses answers and refuses writes. In the end: the lists and histories of an undisturbed run.
    #[test]
    fn crashes_and_a_failing_sink_change_nothing(seed in any::<u64>(), lives in prop::collection::vec(1..25_usize, 1..12)) {
        use anabranch_stores::lake::{FaultPlan, FaultyStore};
        let events = some_events(80);
        let undisturbed = {
            let folder = tempfile::tempdir().unwrap();
            let state = testing::state(folder.path(), 1);
            append_all(&state, &events);
            let sink: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new());
            run_to_end(&mut embedded(&state, &sink, settings(9)));
            (delivered(&*sink).0, histories(&state))
        };
        let folder = tempfile::tempdir().unwrap();
        let state = testing::state(folder.path(), 1);
        append_all(&state, &events);
        let sink = Arc::new(MemoryStore::new());
        for (life, steps) in lives.iter().enumerate() {
            let plan = FaultPlan {
                seed: seed ^ life as u64,
                before_per_mille: 200,
                after_per_mille: 200,
                full_per_mille: 50,
                ..FaultPlan::default()
            };
            let faulty: Arc<dyn ObjectStore> = Arc::new(FaultyStore::new(Arc::clone(&sink), plan));
            let mut worker = embedded(&state, &faulty, settings(9));
            for _ in 0..*steps {
                if matches!(worker.step().unwrap(), Step::Idle { .. }) {
                    worker.flush();
                }
            }
        }
        let calm: Arc<dyn ObjectStore> = Arc::clone(&sink) as Arc<dyn ObjectStore>;
        run_to_end(&mut embedded(&state, &calm, settings(9)));
        prop_assert_eq!(delivered(&*sink).0, undisturbed.0);
        prop_assert_eq!(histories(&state), undisturbed.1);
    }
}

#[test]
fn a_changed_compression_still_finds_the_chain() {
    let folder = tempfile::tempdir().unwrap();
    let state = testing::state(folder.path(), 1);
    append_all(&state, &some_events(40));
    let sink: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new());
    let mut first = embedded(&state, &sink, settings(10));
    // Until an object is out whose histories are not committed: the moment before the commit.
    while !matches!(&first.phase, Phase::Delivering(_)) {
        first.step().unwrap();
    }
    let Phase::Delivering(cut) = &first.phase else { unreachable!() };
    assert_eq!(sink.put_new(&cut.object, &cut.bytes).unwrap(), PutOutcome::Created);
    drop(first);
    let gzip = StreamSettings { compression: Compression::Gzip, ..settings(10) };
    // As the error says: nothing runs, and the form of before is removed.
    sink.delete(&object::form_path(&state.identity().namespace()).unwrap()).unwrap();
    run_to_end(&mut embedded(&state, &sink, gzip));
    delivered(&*sink);
}

/// Two workers of one shard whose settings differ: they would want two names for one range, and both get theirs.
#[test]
fn of_two_forms_at_once_one_is_refused_before_it_delivers() {
    for formats in [[Format::Jsonl, Format::Parquet], [Format::Parquet, Format::Jsonl]] {
        let folder = tempfile::tempdir().unwrap();
        let state = testing::state(folder.path(), 1);
        append_all(&state, &some_events(40));
        let sink: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new());
        let [mut one, mut other] = formats.map(|format| {
            embedded(&state, &sink, StreamSettings { format, compression: Compression::Gzip, ..settings(7) })
        });
        one.step().unwrap();
        let error = (0..3).find_map(|_| other.step().err()).unwrap();
        assert!(matches!(error, WorkerError::Form { .. }), "{error}");
        assert_eq!(error.kind(), ErrorKind::FixInput);
        run_to_end(&mut one);
        assert_eq!(delivered(&*sink).1.records, 40);
    }
}

#[test]
fn a_sink_that_fails_stops_input_and_says_why() {
    use anabranch_stores::lake::{Fault, FaultPlan, FaultyStore, Operation};
    let folder = tempfile::tempdir().unwrap();
    let state = testing::state(folder.path(), 1);
    append_all(&state, &some_events(20));
    let sink = Arc::new(MemoryStore::new());
    let scripted = [(Operation::PutNew, Fault::Full), (Operation::PutNew, Fault::Before)].into();
    let plan = FaultPlan { scripted, ..FaultPlan::default() };
    let faulty: Arc<dyn ObjectStore> = Arc::new(FaultyStore::new(Arc::clone(&sink), plan));
    let mut worker = embedded(&state, &faulty, settings(10));
    let shared = Arc::clone(&worker.shared);
    let mut stalls = 0;
    for _ in 0..100 {
        match worker.step().unwrap() {
            Step::Stalled { .. } => {
                stalls += 1;
                assert!(shared.blocked().unwrap().contains("cannot deliver"));
            }
            Step::Idle { .. } => worker.flush(),
            Step::Worked | Step::Ended => {}
        }
    }
    assert_eq!(stalls, 2);
    assert_eq!(shared.blocked(), None);
    assert_eq!(delivered(&*sink).1.records, 20);
}
