//! Both readers under the suite that every adapter of the port must pass, and under what Kinesis adds to it ([`promises`]).
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use anabranch_stores::ErrorKind;
use anabranch_stream::ports::{Page, PortError, Position, ShardReader};
use anabranch_stream::testing::{ShardFixture, shard_reader_conformance};
use proptest::prelude::*;

use super::kpl::Aggregator;
use super::promises::{self, Make, READERS, SHARD, World};
use crate::testing::SimClock;

/// Asks again where it may, as the worker does, and lets time pass: the suite has no clock, and two consumers of one
/// shard are refused now and then.
#[derive(Debug)]
struct AsksAgain {
    reader: Box<dyn ShardReader>,
    clock: Arc<SimClock>,
}

impl ShardReader for AsksAgain {
    fn read_after(&mut self, after: Position, records_max: usize, bytes_max: usize) -> Result<Page, PortError> {
        loop {
            self.clock.advance_ms(20);
            match self.reader.read_after(after, records_max, bytes_max) {
                Err(error) if error.kind == ErrorKind::Retry => {}
                other => return other,
            }
        }
    }
}

struct Fixture {
    world: World,
    make: Make,
}

impl ShardFixture for Fixture {
    fn put(&mut self, partition_key: &str, parts: &[&[u8]]) -> bool {
        if let [data] = parts {
            self.world.kinesis.put(partition_key, data);
        } else {
            let mut aggregate = Aggregator::new(partition_key);
            for part in parts {
                aggregate.push(part);
            }
            self.world.kinesis.put("an aggregate", &aggregate.finish());
        }
        true
    }

    fn close(&mut self) -> bool {
        self.world.kinesis.split(SHARD);
        true
    }

    fn reader(&mut self) -> Box<dyn ShardReader> {
        let reader = (self.make)(&self.world, SHARD, 1);
        Box::new(AsksAgain { reader, clock: Arc::clone(&self.world.clock) })
    }
}

#[test]
fn readers_conform() {
    for make in READERS {
        shard_reader_conformance(&mut Fixture { world: World::new(1), make });
    }
}

#[test]
fn every_position_resumes() {
    READERS.into_iter().for_each(promises::every_position_resumes);
}

#[test]
fn keys_of_other_shards_stay() {
    READERS.into_iter().for_each(promises::keys_of_other_shards_stay);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn everything_comes_once_in_order_on_a_bad_day(puts in promises::puts(), seed in 0_u64..1_000_000) {
        for make in READERS {
            promises::everything_once_in_order(make, &puts, seed);
        }
    }
}
