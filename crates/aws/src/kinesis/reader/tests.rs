#![allow(clippy::unwrap_used)]

use anabranch_stores::ErrorKind;

use super::*;
use crate::kinesis::promises::{FAN_OUT, POLLING as MAKE, Put, SHARD, World};
use crate::testing::Faults;

#[test]
fn a_page_is_fetched_once_and_handed_out_in_parts() {
    let mut world = World::new(1);
    (0..100).for_each(|_| world.put(Put::Plain));
    assert_eq!(world.drain(&mut *MAKE(&world, SHARD, 1), Position::START, false), world.expected);
    assert_eq!((world.kinesis.calls("GetRecords"), world.kinesis.calls("GetShardIterator")), (1, 1));
}

#[test]
fn a_poll_in_a_tight_loop_keeps_to_its_reads_a_second() {
    let world = World::new(1);
    let mut reader = MAKE(&world, SHARD, 1);
    for _ in 0..10_000 {
        assert_eq!(reader.read_after(Position::START, 10, 10).unwrap().records, []);
        world.clock.advance_ms(1);
    }
    let calls = world.kinesis.calls("GetRecords");
    assert!((39..=41).contains(&calls), "{calls} calls in ten seconds at four a second");
    assert_eq!(world.kinesis.reads_refused(), 0);
}

#[test]
fn an_expired_iterator_is_made_anew_after_the_last_record() {
    let mut world = World::new(1);
    world.put(Put::Plain);
    let mut reader = MAKE(&world, SHARD, 1);
    let after = world.drain(&mut *reader, Position::START, false)[0].position;
    world.put(Put::Plain);
    world.clock.advance_ms(301_000);
    // No error: a worker that is slow for five minutes is no trouble of Kinesis's.
    let page = reader.read_after(after, 10, 10).unwrap();
    assert!(page.records.is_empty() && !page.is_caught_up(), "nobody said that nothing is there: {page:?}");
    world.clock.advance_ms(1_000);
    assert_eq!(reader.read_after(after, 10, 10).unwrap().records, world.expected[1..]);
    assert_eq!(world.kinesis.calls("GetShardIterator"), 2);
}

#[test]
fn a_throttled_reader_asks_less_and_less_and_says_so() {
    let world = World::new(1);
    world.kinesis.set_faults(Faults { throttled: 1000, ..Faults::default() });
    let mut reader = MAKE(&world, SHARD, 1);
    for _ in 0..60_000 {
        let error = reader.read_after(Position::START, 10, 10).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Retry);
        world.clock.advance_ms(1);
    }
    let calls = world.kinesis.calls("GetShardIterator");
    assert!((15..60).contains(&calls), "{calls} calls in a minute");
    // It recovers within the longest wait.
    world.kinesis.set_faults(Faults::default());
    world.clock.advance_ms(10_000);
    assert!(reader.read_after(Position::START, 10, 10).is_ok());
}

#[test]
fn empty_pages_are_not_the_end_and_a_null_iterator_is() {
    let mut world = World::new(1);
    world.kinesis.set_faults(Faults { empty_pages: 1000, ..Faults::default() });
    world.put(Put::Plain);
    world.kinesis.split(SHARD);
    let mut reader = MAKE(&world, SHARD, 1);
    for _ in 0..20 {
        let page = world.read(&mut *reader, Position::START, 10, 10);
        assert_eq!((page.records.len(), page.is_end_of_shard), (0, false));
        world.clock.advance_ms(1_000);
    }
    world.kinesis.set_faults(Faults::default());
    assert_eq!(world.drain(&mut *reader, Position::START, true), world.expected);
}

#[test]
fn a_shard_that_went_away_is_no_passing_trouble() {
    let world = World::new(1);
    world.kinesis.split(SHARD);
    world.kinesis.remove(SHARD);
    let error = MAKE(&world, SHARD, 1).read_after(Position::START, 10, 10).unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
}

#[test]
fn it_says_how_far_behind_it_is_and_goes_on_where_the_retention_left_off() {
    let mut world = World::new(1);
    (0..10).for_each(|_| world.put(Put::Plain));
    world.kinesis.set_faults(Faults { short_pages: 1000, ..Faults::default() });
    world.clock.advance_ms(5_000);
    let page = MAKE(&world, SHARD, 1).read_after(Position::START, 10, 1000).unwrap();
    let next = &world.expected[page.records.len()];
    assert_eq!(page.behind_ms, Some((world.clock.now_ms() - next.arrival_ms) as u64));
    world.kinesis.trim(SHARD, 6);
    world.clock.advance_ms(1_000);
    let after = world.expected[2].position;
    assert_eq!(world.drain(&mut *MAKE(&world, SHARD, 2), after, false), world.expected[6..]);
}

/// What the children of a split cost is a listing of shards, not one of everything that was ever delivered.
#[test]
fn a_shard_that_began_after_the_trim_horizon_lacks_nothing() {
    let mut world = World::new(1);
    (0..10).for_each(|_| world.put(Put::Plain));
    let [left, right] = world.kinesis.split(SHARD);
    for make in [MAKE, FAN_OUT] {
        for child in [left, right] {
            let reads = world.kinesis.calls("GetRecords") + world.kinesis.calls("SubscribeToShard");
            assert!(!make(&world, child, 1).may_lack_after(Position::START).unwrap());
            let after = world.kinesis.calls("GetRecords") + world.kinesis.calls("SubscribeToShard");
            assert_eq!(after, reads, "nothing is read for that");
        }
        assert!(make(&world, SHARD, 1).may_lack_after(Position::START).unwrap(), "nobody knows when it began");
        world.clock.advance_ms(10_000);
        assert!(!make(&world, SHARD, 1).may_lack_after(world.expected[0].position).unwrap());
        world.clock.advance_ms(10_000);
    }
    // The parent went, so its children may have lost records.
    world.kinesis.remove(SHARD);
    assert!(MAKE(&world, left, 1).may_lack_after(Position::START).unwrap());
}
