#![allow(clippy::unwrap_used)]

use std::collections::HashMap;

use anabranch_stream::ports::{Commit, SequenceNumber};
use anabranch_stream::testing::{self, MemoryState};

use super::*;
use crate::kinesis::kpl::Aggregator;
use crate::testing::{Faults, SimClock, SimKinesis};

struct World {
    clock: Arc<SimClock>,
    kinesis: SimKinesis,
    state: Arc<MemoryState>,
    frontier: Frontier,
}

impl World {
    fn new(shards: u64) -> Self {
        let clock = Arc::new(SimClock::default());
        let kinesis = SimKinesis::new(shards, Arc::clone(&clock), 1);
        let state = MemoryState::new();
        let frontier =
            Frontier::new(Arc::new(kinesis.clone()), Arc::clone(&state) as _, Arc::<SimClock>::clone(&clock));
        Self { clock, kinesis, state, frontier }
    }

    fn commit(&self, shard: ShardId, checkpoint: Checkpoint) {
        let (histories, types) = (HashMap::new(), testing::types());
        self.state.commit(Commit { shard, checkpoint, histories: &histories, types: &types, notices: &[] }).unwrap();
    }

    fn commit_to(&self, shard: ShardId, number: SequenceNumber) {
        self.commit(shard, Checkpoint::After(Position::whole(number)));
    }

    /// Whether everything that arrived up to `time_ms` is committed, asked after the pause.
    fn is_settled(&mut self, time_ms: i64) -> bool {
        self.clock.advance_ms(LOOK_EVERY_MS);
        let notice = Notice { settled_ms: time_ms, ..testing::notice(1, time_ms, "u") };
        self.frontier.is_settled(&notice).unwrap()
    }

    fn put(&self, data: &[u8]) -> (ShardId, SequenceNumber, i64) {
        let (shard, number) = self.kinesis.put("k", data);
        (shard, number, self.clock.now_ms())
    }
}

#[test]
fn what_comes_after_the_checkpoints_says_how_far_the_stream_is_read() {
    let mut world = World::new(4);
    let (shard, first, first_ms) = world.put(b"one");
    world.clock.advance_ms(60_000);
    let (_, second, second_ms) = world.put(b"two");
    world.clock.advance_ms(60_000);
    assert!(world.is_settled(first_ms - 1) && !world.is_settled(first_ms));
    world.commit_to(shard, first);
    assert!(world.is_settled(second_ms - 1) && !world.is_settled(second_ms));
    world.commit_to(shard, second);
    let now_ms = world.clock.now_ms();
    assert!(world.is_settled(now_ms), "nothing is unread: everything that had arrived is settled");
    assert!(!world.is_settled(now_ms + 600_000), "and nothing that may still come");
}

#[test]
fn one_unread_shard_holds_everything_back_and_costs_nothing_while_it_stays() {
    let mut world = World::new(3);
    let (_, _, put_ms) = world.put(b"unread");
    assert!(!world.is_settled(put_ms));
    let reads = world.kinesis.calls("GetRecords");
    let settled_ms = world.frontier.settled_ms();
    for _ in 0..20 {
        assert!(!world.is_settled(put_ms));
    }
    // The two other shards are asked again, the one that holds back is known.
    assert_eq!(world.kinesis.calls("GetRecords") - reads, 40);
    assert_eq!((settled_ms, world.frontier.settled_ms()), (put_ms - 1, put_ms - 1));
    // What is known to be settled asks nobody; nor does anything within the pause.
    let lists = world.kinesis.calls("ListShards");
    assert!(world.is_settled(put_ms - 1));
    let notice = Notice { settled_ms: put_ms, ..testing::notice(1, put_ms, "u") };
    assert!(!world.frontier.is_settled(&notice).unwrap());
    let asked = world.kinesis.calls("ListShards") - lists;
    for _ in 0..100 {
        assert!(!world.frontier.is_settled(&notice).unwrap());
    }
    assert_eq!(world.kinesis.calls("ListShards") - lists, asked, "one look in two seconds");
}

#[test]
fn children_hold_back_though_their_parent_is_done() {
    let mut world = World::new(1);
    let (parent, number, _) = world.put(b"before");
    world.commit_to(parent, number);
    assert!(world.is_settled(world.clock.now_ms() - 10_000));
    let children = world.kinesis.split(parent);
    let (child, number, put_ms) = world.put(b"after the split");
    assert!(children.contains(&child));
    world.clock.advance_ms(60_000);
    // The parent is read to its end: first nobody says so, then its checkpoint does.
    assert!(!world.is_settled(put_ms));
    world.commit(parent, Checkpoint::ShardEnd(Position::whole(number)));
    assert!(!world.is_settled(put_ms));
    world.commit_to(child, number);
    assert!(world.is_settled(put_ms));
    // A closed shard that nobody ends (functions do not) holds nothing back either, once it is read.
    let grandchildren = world.kinesis.split(child);
    assert!(world.is_settled(world.clock.now_ms()));
    // Retention took it, and the listing with it.
    world.kinesis.remove(parent);
    world.kinesis.remove(child);
    let (_, _, put_ms) = world.put(b"later");
    assert!(!world.is_settled(put_ms), "{grandchildren:?}");
}

#[test]
fn a_part_of_an_aggregate_is_unread_and_an_aggregate_of_nothing_is_not() {
    let mut world = World::new(1);
    let mut aggregate = Aggregator::new("k");
    aggregate.push(b"a");
    aggregate.push(b"b");
    let (shard, number, put_ms) = world.put(&aggregate.finish());
    world.commit(shard, Checkpoint::After(Position { number, sub: Some(0) }));
    assert!(!world.is_settled(put_ms));
    world.commit_to(shard, number);
    let (_, _, empty_ms) = world.put(&Aggregator::new("k").finish());
    world.clock.advance_ms(10_000);
    assert!(world.is_settled(empty_ms), "the look that finds it goes on behind it");
}

#[test]
fn trouble_settles_nothing_and_passes() {
    let mut world = World::new(2);
    let (shard, number, put_ms) = world.put(b"one");
    world.commit_to(shard, number);
    world.clock.advance_ms(60_000);
    for fault in [Faults { expired: 1000, ..Faults::default() }, Faults { empty_pages: 1000, ..Faults::default() }] {
        world.kinesis.set_faults(fault);
        let later_ms = world.put(b"unread").2;
        world.clock.advance_ms(10_000);
        for _ in 0..5 {
            assert!(!world.is_settled(later_ms), "{fault:?}");
        }
        world.kinesis.set_faults(Faults::default());
        let newest = world.kinesis.newest(shard).unwrap().number;
        world.commit_to(shard, newest);
        // Iterators of five minutes ago are made anew.
        world.clock.advance_ms(600_000);
        assert!(world.is_settled(later_ms));
    }
    world.kinesis.set_faults(Faults { internal: 1000, ..Faults::default() });
    world.clock.advance_ms(600_000);
    let notice = Notice { settled_ms: world.clock.now_ms(), ..testing::notice(1, put_ms, "u") };
    let error = world.frontier.is_settled(&notice).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Retry, "without a listing nobody knows anything");
    world.kinesis.set_faults(Faults::default());
    assert!(world.is_settled(notice.settled_ms));
}
