#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use anabranch_stream::Clock;
use proptest::prelude::*;

use super::*;
use crate::kinesis::backlog::expand;
use crate::testing::{Faults, SimClock, SimKinesis};

fn record(key: &str, data: impl Into<Vec<u8>>) -> PutRecord {
    PutRecord { partition_key: key.to_owned(), data: data.into() }
}

struct World {
    clock: Arc<SimClock>,
    kinesis: SimKinesis,
    producer: Producer,
}

fn world(settings: ProducerSettings, seed: u64) -> World {
    let clock = Arc::new(SimClock::default());
    let kinesis = SimKinesis::new(2, Arc::clone(&clock), seed);
    let patience = Patience::new(Arc::clone(&clock) as _, seed);
    let producer = Producer::new(Arc::new(kinesis.clone()), settings, patience);
    World { clock, kinesis, producer }
}

impl World {
    /// What consumers see, by key, in order.
    fn stored(&self) -> BTreeMap<String, Vec<Vec<u8>>> {
        let mut stored: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
        for shard in self.kinesis.shard_ids() {
            for record in self.kinesis.records(shard).into_iter().flat_map(expand) {
                stored.entry(record.partition_key).or_default().push(record.data.unwrap());
            }
        }
        stored
    }
}

#[test]
fn calls_keep_to_the_limits() {
    let world = world(ProducerSettings::default(), 1);
    let records: Vec<PutRecord> = (0..1_201).map(|id| record(&format!("u{id}"), vec![0; 100])).collect();
    let answers = world.producer.put(&records);
    assert!(answers.iter().all(|answer| matches!(answer, Answer::Stored { .. })));
    assert_eq!(world.kinesis.calls("PutRecords"), 3);
    // 1 MiB less its key fits; five of them are a call.
    let large: Vec<PutRecord> = (0..11).map(|id| record(&format!("{id:02}"), vec![0; (1 << 20) - 2])).collect();
    assert!(world.producer.put(&large).iter().all(|answer| matches!(answer, Answer::Stored { .. })));
    assert_eq!(world.kinesis.calls("PutRecords"), 3 + 3);
    assert!(world.producer.put(&[]).is_empty());
}

#[test]
fn what_can_never_be_stored_is_refused_and_holds_nobody_up() {
    let world = world(ProducerSettings::default(), 1);
    let long = "ü".repeat(257);
    let records = [
        record("u", vec![0; 1 << 20]),
        record("", "a"),
        record(&long, "a"),
        record("u", "after"),
        record(&long[..512], "a"),
    ];
    let answers = world.producer.put(&records);
    assert_eq!(answers[0], Answer::Refused(Refusal::TooLarge { bytes: (1 << 20) + 1, limit: 1 << 20 }));
    assert_eq!(answers[1], Answer::Refused(Refusal::Key { chars: 0 }));
    assert_eq!(answers[2], Answer::Refused(Refusal::Key { chars: 257 }));
    assert!(answers[3..].iter().all(|answer| matches!(answer, Answer::Stored { .. })), "{answers:?}");
    assert_eq!(world.stored()["u"], [b"after"]);
}

#[test]
fn patience_ends_and_those_behind_are_not_sent() {
    let world = world(ProducerSettings::default(), 1);
    world.kinesis.set_faults(Faults { put_failed: 1000, ..Faults::default() });
    let answers = world.producer.put(&[record("a", "1"), record("b", "1"), record("a", "2")]);
    let kinds: Vec<_> = answers
        .iter()
        .map(|answer| match answer {
            Answer::Failed(error) => Some(error.kind),
            Answer::Behind => None,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(kinds, [Some(ApiErrorKind::Retry), Some(ApiErrorKind::Retry), None]);
    assert_eq!(world.kinesis.calls("PutRecords"), 8, "as many attempts as patience has");
    assert!(world.stored().is_empty());
    let waited_ms = world.clock.monotonic_us() / 1000;
    assert!((3_000..=6_400).contains(&waited_ms), "{waited_ms}");
}

#[test]
fn a_mistake_is_not_retried() {
    let settings = ProducerSettings { records_max: 501, ..ProducerSettings::default() };
    let world = world(settings, 1);
    let records: Vec<PutRecord> = (0..501).map(|id| record(&format!("u{id}"), "a")).collect();
    let answers = world.producer.put(&records);
    assert!(
        answers.iter().all(|answer| matches!(answer, Answer::Failed(error) if error.kind == ApiErrorKind::FixInput))
    );
    assert_eq!(world.kinesis.calls("PutRecords"), 1);
}

#[test]
fn a_busy_key_takes_one_call_when_its_records_are_packed() {
    for (aggregate, calls) in [(false, 1_000), (true, 1)] {
        let world = world(ProducerSettings { aggregate, ..ProducerSettings::default() }, 1);
        let records: Vec<PutRecord> = (0..1_000).map(|id| record("bot", format!("event {id}"))).collect();
        let answers = world.producer.put(&records);
        assert!(answers.iter().all(|answer| matches!(answer, Answer::Stored { .. })));
        assert_eq!(world.kinesis.calls("PutRecords"), calls);
        assert_eq!(world.stored()["bot"], records.into_iter().map(|record| record.data).collect::<Vec<_>>());
    }
}

/// Each item where it was seen first.
fn firsts(items: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut seen = HashSet::new();
    items.iter().filter(|item| seen.insert((*item).clone())).cloned().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever fails: answers tell the truth, no record is stored twice unless an answer was lost, and no record of a
    /// key overtakes another.
    #[test]
    fn order_per_key_and_true_answers(
        keys in proptest::collection::vec(0_u8..6, 0..60),
        seed in any::<u64>(),
        aggregate in any::<bool>(),
        answer_lost in prop_oneof![Just(0_u64), Just(300)],
        put_failed in prop_oneof![Just(0_u64), Just(300), Just(800)],
    ) {
        let settings = ProducerSettings { records_max: 4, bytes_max: 120, record_bytes_max: 60, aggregate };
        let world = world(settings, seed);
        world.kinesis.set_faults(Faults { answer_lost, put_failed, throttled: 100, internal: 100, ..Faults::default() });
        let records: Vec<PutRecord> =
            keys.iter().enumerate().map(|(id, key)| record(&format!("u{key}"), format!("event {id}"))).collect();
        let answers = world.producer.put(&records);
        prop_assert_eq!(answers.len(), records.len());
        let stored = world.stored();
        let mut sent: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
        let mut ended: HashSet<String> = HashSet::new();
        for (record, answer) in records.iter().zip(&answers) {
            let key = &record.partition_key;
            let times = stored.get(key).map_or(0, |all| all.iter().filter(|data| **data == record.data).count());
            match answer {
                Answer::Stored { shard, number } => {
                    prop_assert!(!ended.contains(key), "stored after one that was given up");
                    let is_there = world.kinesis.records(*shard).into_iter().any(|stored| {
                        stored.number == *number && expand(stored).iter().any(|part| part.data.as_ref() == Some(&record.data))
                    });
                    prop_assert!(is_there);
                    prop_assert!(times == 1 || answer_lost > 0 && times > 1);
                }
                Answer::Failed(_) => {
                    ended.insert(key.clone());
                    prop_assert!(answer_lost > 0 || times == 0);
                }
                Answer::Behind => {
                    prop_assert!(ended.contains(key));
                    prop_assert_eq!(times, 0);
                }
                Answer::Refused(_) => prop_assert!(false, "nothing here is too large"),
            }
            sent.entry(key.clone()).or_default().push(record.data.clone());
        }
        for (key, stored) in stored {
            // What is stored is a beginning of what was sent, repeats aside.
            let firsts = firsts(&stored);
            prop_assert_eq!(&sent[&key][..firsts.len()], &firsts[..]);
        }
    }
}
