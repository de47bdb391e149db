#![allow(clippy::unwrap_used)]
use anabranch_stores::backoff::Pause;
use anabranch_stream::ports::{Position, SequenceNumber};

use super::*;
use crate::dynamo::testing::{Faults, Hit, MemoryDynamo};

#[derive(Debug)]
struct NoPause;

impl Pause for NoPause {
    fn pause(&self, _: u64) {}
}

fn world() -> (Arc<MemoryDynamo>, DynamoLeases) {
    let api = Arc::new(MemoryDynamo::new(&["leases"], 1));
    let leases = DynamoLeases::new(Arc::clone(&api) as _, "leases", Patience::new(Arc::new(NoPause), 1));
    (api, leases)
}

fn lease(shard: u64) -> Lease {
    Lease {
        key: ShardId(shard),
        owner: None,
        counter: 0,
        checkpoint: LeaseCheckpoint::TrimHorizon,
        parents: Vec::new(),
        owner_switches: 0,
        hash_keys: (0, u128::MAX),
    }
}

#[test]
fn leases_come_back_over_pages() {
    let (api, table) = world();
    let checkpoints = [
        LeaseCheckpoint::TrimHorizon,
        LeaseCheckpoint::ShardEnd,
        LeaseCheckpoint::After(Position { number: SequenceNumber::from(7), sub: None }),
        LeaseCheckpoint::After(Position { number: SequenceNumber::from(7), sub: Some(0) }),
        LeaseCheckpoint::After(Position { number: SequenceNumber::from(7), sub: Some(3) }),
    ];
    let leases: Vec<Lease> = (0_u64..10)
        .map(|shard| Lease {
            owner: (shard % 2 == 0).then(|| format!("worker-{shard}")),
            counter: shard * 1000,
            checkpoint: checkpoints[shard as usize % checkpoints.len()],
            parents: (0..shard % 3).map(ShardId).collect(),
            owner_switches: shard,
            hash_keys: (u128::from(shard), u128::MAX - u128::from(shard)),
            ..lease(shard)
        })
        .collect();
    for lease in &leases {
        assert!(table.create(lease).unwrap());
    }
    assert_eq!(table.leases().unwrap(), leases);
    api.set_faults(Faults { before: 20, throttle: 20, ..Faults::default() });
    assert_eq!(table.leases().unwrap(), leases);
}

#[test]
fn a_lost_race_is_an_answer() {
    let (_, table) = world();
    assert!(table.create(&lease(1)).unwrap());
    assert!(!table.create(&lease(1)).unwrap());
    let mine = Lease { owner: Some("me".to_owned()), counter: 1, ..lease(1) };
    let theirs = Lease { owner: Some("you".to_owned()), counter: 1, ..lease(1) };
    assert!(table.replace(&mine, 0).unwrap());
    assert!(!table.replace(&theirs, 0).unwrap());
    assert_eq!(table.leases().unwrap(), vec![mine.clone()]);
    assert!(!table.replace(&mine, 9).unwrap());
    assert!(!table.remove(ShardId(1), 0).unwrap());
    assert!(table.remove(ShardId(1), 1).unwrap());
    assert!(!table.remove(ShardId(1), 1).unwrap());
    assert!(!table.replace(&mine, 1).unwrap(), "a lease that was removed does not come back");
}

#[test]
fn the_fields_are_kcls_and_what_is_not_ours_stays() {
    let (api, table) = world();
    let own = Lease {
        owner: Some("me".to_owned()),
        counter: 4,
        checkpoint: LeaseCheckpoint::After(Position { number: SequenceNumber::from(7), sub: Some(2) }),
        parents: vec![ShardId(0)],
        hash_keys: (3, 9),
        ..lease(1)
    };
    table.create(&own).unwrap();
    let text = |text: &str| Value::S(text.to_owned());
    let mut expected = Item::from(
        [
            ("leaseKey", text("shardId-000000000001")),
            ("leaseOwner", text("me")),
            ("leaseCounter", Value::number(4)),
            ("checkpoint", text("7")),
            ("checkpointSubSequenceNumber", Value::number(2)),
            ("parentShardId", Value::Ss(BTreeSet::from(["shardId-000000000000".to_owned()]))),
            ("ownerSwitchesSinceCheckpoint", Value::number(0)),
            ("startingHashKey", text("3")),
            ("endingHashKey", text("9")),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    );
    let stored = || api.items("leases").into_values().next().unwrap();
    assert_eq!(stored(), expected);
    expected.insert("pendingCheckpoint".to_owned(), text("8"));
    api.place("leases", text("shardId-000000000001"), expected);
    let freed = Lease { owner: None, counter: 5, parents: vec![], ..own };
    assert!(table.replace(&freed, 4).unwrap());
    assert_eq!(stored()["pendingCheckpoint"], text("8"));
    assert!(!stored().contains_key("leaseOwner") && !stored().contains_key("parentShardId"));
}

#[test]
fn a_write_whose_answer_was_lost_looks_like_a_lost_race() {
    let (api, table) = world();
    api.script(&[Hit::After]);
    assert!(!table.create(&lease(1)).unwrap());
    assert_eq!(table.leases().unwrap(), [lease(1)]);
}

#[test]
fn trouble_that_stays_says_retry_and_a_broken_row_says_which() {
    let (api, table) = world();
    api.script(&[Hit::Before; 8]);
    assert_eq!(table.create(&lease(1)).unwrap_err().kind, ErrorKind::Retry);
    table.create(&lease(1)).unwrap();
    let mut item = api.items("leases").into_values().next().unwrap();
    item.insert("leaseCounter".to_owned(), Value::S("x".to_owned()));
    api.place("leases", Value::S("shardId-000000000001".to_owned()), item);
    let error = table.leases().unwrap_err();
    assert_eq!(error.kind, ErrorKind::Corrupt);
    assert!(error.what.contains("shardId-000000000001: attribute leaseCounter"), "{error}");
}
