#![allow(clippy::unwrap_used)]

use std::collections::HashMap;

use anabranch_stores::backoff::Jitter;
use anabranch_stream::ports::SequenceNumber;
use proptest::prelude::*;

use super::*;
use crate::api::{KinesisApi, all_shards};
use crate::kinesis::shards::plan;
use crate::testing::{MemoryLeases, SimClock, SimKinesis};

fn state(id: u64, status: ShardStatus) -> ShardState {
    let checkpoint = Checkpoint::After(Position::START);
    ShardState { id: ShardId(id), parents: vec![], hash_keys: (0, u128::MAX), checkpoint, status }
}

fn readable(count: u64) -> Vec<ShardState> {
    (0..count).map(|id| state(id, ShardStatus::Readable)).collect()
}

fn counts(table: &MemoryLeases) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for lease in table.leases().unwrap() {
        *counts.entry(lease.owner.unwrap_or_default()).or_default() += 1;
    }
    counts
}

/// Workers that come by in turn, three times within the failover time.
struct Fleet {
    clock: SimClock,
    table: MemoryLeases,
    workers: BTreeMap<String, LeaseTaker>,
    held: BTreeMap<String, BTreeSet<ShardId>>,
}

impl Fleet {
    fn new(workers: u64) -> Self {
        let mut fleet = Self {
            clock: SimClock::default(),
            table: MemoryLeases::default(),
            workers: BTreeMap::new(),
            held: BTreeMap::new(),
        };
        (0..workers).for_each(|worker| fleet.join(worker));
        fleet
    }

    fn join(&mut self, worker: u64) {
        let name = format!("worker-{worker}");
        self.workers.insert(name.clone(), LeaseTaker::new(name, LeaseSettings::default()));
    }

    fn kill(&mut self, worker: u64) {
        self.workers.remove(&format!("worker-{worker}"));
        self.held.remove(&format!("worker-{worker}"));
    }

    fn rounds(&mut self, rounds: usize, shards: &[ShardState]) {
        for _ in 0..rounds {
            for (name, worker) in &mut self.workers {
                let held = worker.run(&self.table, shards, &self.clock).unwrap();
                self.held.insert(name.clone(), held);
                self.clock.advance_ms(100);
            }
            self.clock.advance_ms(3_000);
        }
    }

    /// Every readable shard is held by exactly one worker, and the counts differ by one at most.
    fn assert_even(&self, shards: &[ShardState]) {
        let mut held: Vec<ShardId> = self.held.values().flatten().copied().collect();
        held.sort();
        assert_eq!(held, super::super::shards::readable(shards), "{:?}", self.held);
        let counts: Vec<usize> = self.held.values().map(BTreeSet::len).collect();
        let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        assert!(most - least <= 1, "{counts:?}");
    }
}

#[test]
fn workers_share_evenly_and_then_leave_each_other_alone() {
    let shards = readable(10);
    let mut fleet = Fleet::new(3);
    fleet.rounds(12, &shards);
    fleet.assert_even(&shards);
    let owners = |fleet: &Fleet| {
        fleet.table.leases().unwrap().into_iter().map(|lease| (lease.key, lease.owner)).collect::<Vec<_>>()
    };
    let before = owners(&fleet);
    fleet.rounds(20, &shards);
    assert_eq!(owners(&fleet), before);
}

#[test]
fn a_dead_workers_shards_are_taken_over_after_the_failover_time_and_not_before() {
    let shards = readable(6);
    let mut fleet = Fleet::new(2);
    fleet.rounds(10, &shards);
    fleet.kill(0);
    fleet.rounds(2, &shards);
    assert_eq!(counts(&fleet.table)["worker-0"], 3, "it may only be slow");
    fleet.rounds(4, &shards);
    fleet.assert_even(&shards);
}

#[test]
fn a_new_worker_gets_its_share_one_at_a_time() {
    let shards = readable(8);
    let mut fleet = Fleet::new(1);
    fleet.rounds(3, &shards);
    fleet.join(1);
    fleet.rounds(1, &shards);
    assert_eq!(counts(&fleet.table)["worker-1"], 1);
    fleet.rounds(12, &shards);
    fleet.assert_even(&shards);
}

#[test]
fn nobody_holds_more_than_the_setting_says() {
    let shards = readable(5);
    let table = MemoryLeases::default();
    let mut worker = LeaseTaker::new("w", LeaseSettings { leases_max: 2, ..LeaseSettings::default() });
    let clock = SimClock::default();
    for _ in 0..20 {
        assert!(worker.run(&table, &shards, &clock).unwrap().len() <= 2);
        clock.advance_ms(3_000);
    }
    assert_eq!(counts(&table)["w"], 2);
}

#[test]
fn what_a_full_worker_leaves_is_taken_beyond_the_share() {
    let shards = readable(20);
    let mut fleet = Fleet::new(1);
    let small = LeaseTaker::new("small", LeaseSettings { leases_max: 4, ..LeaseSettings::default() });
    fleet.workers.insert("small".to_owned(), small);
    fleet.rounds(20, &shards);
    assert_eq!(counts(&fleet.table), BTreeMap::from([("small".to_owned(), 4), ("worker-0".to_owned(), 16)]));
    // Somebody with room gets a share of it.
    fleet.join(1);
    fleet.rounds(30, &shards);
    let counts = counts(&fleet.table);
    assert_eq!((counts["small"], counts["worker-0"], counts["worker-1"]), (4, 9, 7), "a third of twenty is seven");
}

/// A table whose reads take long.
#[derive(Debug)]
struct SlowTable<'a> {
    table: &'a MemoryLeases,
    clock: &'a SimClock,
    read_ms: u64,
}

impl LeaseTable for SlowTable<'_> {
    fn leases(&self) -> Result<Vec<Lease>, PortError> {
        self.clock.advance_ms(self.read_ms);
        self.table.leases()
    }
    fn create(&self, lease: &Lease) -> Result<bool, PortError> {
        self.table.create(lease)
    }
    fn replace(&self, lease: &Lease, expected_counter: u64) -> Result<bool, PortError> {
        self.table.replace(lease, expected_counter)
    }
    fn remove(&self, key: ShardId, expected_counter: u64) -> Result<bool, PortError> {
        self.table.remove(key, expected_counter)
    }
}

#[test]
fn a_slow_read_of_the_table_makes_nobody_look_dead() {
    let (shards, clock, table) = (readable(6), SimClock::default(), MemoryLeases::default());
    let mut alive = LeaseTaker::new("alive", LeaseSettings::default());
    let mut other = LeaseTaker::new("other", LeaseSettings { leases_max: 1, ..LeaseSettings::default() });
    for _ in 0..10 {
        alive.run(&table, &shards, &clock).unwrap();
        other.run(&table, &shards, &clock).unwrap();
        clock.advance_ms(3_000);
    }
    let held = counts(&table);
    assert_eq!(held, BTreeMap::from([("alive".to_owned(), 5), ("other".to_owned(), 1)]));
    let mut other = LeaseTaker::new("other", LeaseSettings::default());
    other.run(&SlowTable { table: &table, clock: &clock, read_ms: 15_000 }, &shards, &clock).unwrap();
    // The next round comes at once, before the other had to renew; one lease may be stolen to even out, five may not.
    other.run(&table, &shards, &clock).unwrap();
    assert!(counts(&table)["alive"] >= 3, "{:?}", counts(&table));
    // And one that stands still while a read takes long did so until the read began, no longer.
    clock.advance_ms(1_000);
    let mut third = LeaseTaker::new("third", LeaseSettings::default());
    third.run(&table, &shards, &clock).unwrap();
    let before = counts(&table);
    third.run(&SlowTable { table: &table, clock: &clock, read_ms: 15_000 }, &shards, &clock).unwrap();
    assert!(counts(&table)["alive"] + 1 >= before["alive"], "{before:?}, {:?}", counts(&table));
}

#[test]
fn done_shards_are_released_with_their_checkpoint_and_forgotten_when_they_are_no_longer_listed() {
    let table = MemoryLeases::default();
    let mut worker = LeaseTaker::new("w", LeaseSettings::default());
    let mut shards = vec![state(0, ShardStatus::Readable), state(1, ShardStatus::Waiting)];
    let clock = SimClock::default();
    (0..3).for_each(|_| drop(worker.run(&table, &shards, &clock).unwrap()));
    let held = worker.run(&table, &shards, &clock).unwrap();
    assert_eq!(held, BTreeSet::from([ShardId(0)]), "a child that waits is not read");
    shards[0].status = ShardStatus::Drained;
    shards[0].checkpoint = Checkpoint::ShardEnd(Position::whole(SequenceNumber::from(9)));
    shards[1].status = ShardStatus::Readable;
    assert_eq!(worker.run(&table, &shards, &clock).unwrap(), BTreeSet::from([ShardId(1)]));
    let lease = table.leases().unwrap().remove(0);
    assert_eq!((lease.owner, lease.checkpoint), (None, LeaseCheckpoint::ShardEnd));
    shards.remove(0);
    worker.run(&table, &shards, &clock).unwrap();
    assert_eq!(table.leases().unwrap().iter().map(|lease| lease.key).collect::<Vec<_>>(), [ShardId(1)]);
}

#[test]
fn a_lost_race_is_not_held() {
    let shards = readable(1);
    let table = MemoryLeases::default();
    let mut first = LeaseTaker::new("a", LeaseSettings::default());
    let clock = SimClock::default();
    first.run(&table, &shards, &clock).unwrap();
    // Both saw the free lease with counter 0.
    let seen = table.leases().unwrap();
    assert_eq!(first.run(&table, &shards, &clock).unwrap().len(), 1);
    let actions = step(&Sightings::default(), &seen, &shards, "b", 1, &LeaseSettings::default());
    let [LeaseAction::Take(lease)] = &actions[..] else { panic!("{actions:?}") };
    assert!(!table.replace(lease, 0).unwrap());
    assert_eq!(counts(&table)["a"], 1);
}

#[test]
fn checkpoints_are_in_the_kcls_words() {
    let number = SequenceNumber::from(42);
    let table = [
        (Checkpoint::After(Position::START), "TRIM_HORIZON", None),
        (Checkpoint::After(Position::whole(number)), "42", None),
        (Checkpoint::After(Position { number, sub: Some(7) }), "42", Some(7)),
        (Checkpoint::ShardEnd(Position::whole(number)), "SHARD_END", None),
    ];
    for (checkpoint, text, sub) in table {
        let lease = LeaseCheckpoint::from(checkpoint);
        assert_eq!(lease.attributes(), (text.to_owned(), sub));
        assert_eq!(LeaseCheckpoint::from_attributes(text, sub), Ok(lease));
    }
    assert!(LeaseCheckpoint::from_attributes("LATEST", None).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Workers come and go while the stream splits and merges; afterwards everything is held once, evenly.
    #[test]
    fn the_fleet_settles_after_any_upheaval(seed in any::<u64>()) {
        let chance = Jitter::new(seed);
        let mut fleet = Fleet::new(1 + chance.below(3));
        let kinesis = SimKinesis::new(1 + chance.below(4), std::sync::Arc::new(SimClock::default()), seed);
        let mut checkpoints: HashMap<ShardId, Checkpoint> = HashMap::new();
        let mut shards = Vec::new();
        for event in 0..12 {
            let open: Vec<_> = all_shards(&kinesis).unwrap().into_iter().filter(|shard| !shard.is_closed).collect();
            match chance.below(4) {
                0 => fleet.join(10 + event),
                1 if fleet.workers.len() > 1 => {
                    let name = fleet.workers.keys().nth(chance.below(fleet.workers.len() as u64) as usize).unwrap().clone();
                    fleet.workers.remove(&name);
                    fleet.held.remove(&name);
                }
                2 => {
                    let shard = open[chance.below(open.len() as u64) as usize].id;
                    kinesis.split(shard);
                }
                _ => {
                    // Whoever holds a closed shard reads it to its end.
                    for shard in all_shards(&kinesis).unwrap().iter().filter(|shard| shard.is_closed) {
                        checkpoints.insert(shard.id, Checkpoint::ShardEnd(Position::START));
                    }
                }
            }
            shards = plan(&all_shards(&kinesis).unwrap(), &checkpoints);
            fleet.rounds(chance.below(3) as usize, &shards);
        }
        let rounds = 8 + shards.len();
        fleet.rounds(rounds, &shards);
        fleet.assert_even(&shards);
        prop_assert!(kinesis.list_shards(None, None).is_ok());
    }
}
