//! What every reader of a shard promises, whatever Kinesis does meanwhile; `conformance` holds both readers to it.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use anabranch_stores::ErrorKind;
use anabranch_stores::backoff::{Jitter, Patience};
use anabranch_stream::Clock;
use anabranch_stream::ports::{Page, Position, Record, SequenceNumber, ShardId, ShardReader};
use proptest::prelude::*;

use super::fanout::{FanOutReader, FanOutSettings};
use super::kpl::Aggregator;
use super::reader::{PollSettings, PollingReader};
use crate::testing::{Faults, SimClock, SimKinesis};

/// A stream of one shard and what its reader should see.
pub(super) struct World {
    pub(super) clock: Arc<SimClock>,
    pub(super) kinesis: SimKinesis,
    pub(super) expected: Vec<Record>,
}

/// The world's shard.
pub(super) const SHARD: ShardId = ShardId(0);

/// Makes a reader of a shard; the number is a seed.
pub(super) type Make = fn(&World, ShardId, u64) -> Box<dyn ShardReader>;

/// By polling.
pub(super) const POLLING: Make = |world, shard, seed| {
    let (api, clock) = (Arc::new(world.kinesis.clone()), Arc::clone(&world.clock));
    Box::new(PollingReader::new(api, shard, PollSettings::default(), clock, world.patience(seed)))
};

/// By enhanced fan-out.
pub(super) const FAN_OUT: Make = |world, shard, seed| {
    let (api, clock) = (Arc::new(world.kinesis.clone()), Arc::clone(&world.clock));
    Box::new(FanOutReader::new(api, shard, FanOutSettings::default(), clock, world.patience(seed)))
};

/// Every reader there is.
pub(super) const READERS: [Make; 2] = [POLLING, FAN_OUT];

/// What a producer put.
#[derive(Clone, Copy, Debug)]
pub(super) enum Put {
    Plain,
    Aggregate(usize),
    /// The magic bytes and nothing that fits them.
    Lookalike,
    /// The right MD5 of what is no protobuf.
    Poison,
}

pub(super) fn puts() -> impl Strategy<Value = Vec<Put>> {
    let put = prop_oneof![
        4 => Just(Put::Plain),
        3 => (0_usize..6).prop_map(Put::Aggregate),
        1 => Just(Put::Lookalike),
        1 => Just(Put::Poison),
    ];
    proptest::collection::vec(put, 0..40)
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let clock = Arc::new(SimClock::default());
        let kinesis = SimKinesis::new(1, Arc::clone(&clock), seed);
        Self { clock, kinesis, expected: Vec::new() }
    }

    pub(super) fn patience(&self, seed: u64) -> Patience {
        Patience::new(Arc::clone(&self.clock) as _, seed)
    }

    pub(super) fn put(&mut self, put: Put) {
        let id = self.expected.len();
        let (key, data) = (format!("u{id}"), format!("event {id}").into_bytes());
        match put {
            Put::Plain => self.put_plain(&key, &data),
            Put::Lookalike => self.put_plain(&key, &[&[0xf3, 0x89, 0x9a, 0xc2], &data[..], &[0; 16]].concat()),
            Put::Poison => {
                let digest = <md5::Md5 as md5::Digest>::digest([0x1a]);
                self.put_plain(&key, &[&[0xf3, 0x89, 0x9a, 0xc2, 0x1a], digest.as_slice()].concat());
            }
            Put::Aggregate(count) => {
                let mut aggregate = Aggregator::new(&key);
                let parts: Vec<Vec<u8>> = (0..count).map(|part| format!("event {id}.{part}").into_bytes()).collect();
                for part in &parts {
                    aggregate.push(part);
                }
                let (_, number) = self.kinesis.put("an aggregate", &aggregate.finish());
                for (sub, data) in parts.into_iter().enumerate() {
                    let position_sub = if sub + 1 == count { None } else { Some(sub as u64) };
                    self.expect(number, position_sub, Some(sub as u64), &key, data);
                }
            }
        }
        self.clock.advance_ms(7);
    }

    fn put_plain(&mut self, key: &str, data: &[u8]) {
        let (_, number) = self.kinesis.put(key, data);
        self.expect(number, None, None, key, data.to_vec());
    }

    fn expect(
        &mut self,
        number: SequenceNumber,
        position_sub: Option<u64>,
        sub: Option<u64>,
        key: &str,
        data: Vec<u8>,
    ) {
        self.expected.push(Record {
            position: Position { number, sub: position_sub },
            sub,
            arrival_ms: self.clock.now_ms(),
            partition_key: key.to_owned(),
            data: Some(data),
        });
    }

    /// Reads once, as a worker does: trouble that may pass costs a little time. An empty page that says to be the newest
    /// must not lie, or a worker takes what it rolls forward over as expired.
    pub(super) fn read(
        &self,
        reader: &mut dyn ShardReader,
        after: Position,
        records_max: usize,
        bytes_max: usize,
    ) -> Page {
        let page = match reader.read_after(after, records_max, bytes_max) {
            Ok(page) => page,
            Err(error) => {
                assert_eq!(error.kind, ErrorKind::Retry, "{error}");
                Page { behind_ms: Some(1), ..Page::default() }
            }
        };
        if page.records.is_empty() {
            let newest = self.expected.last().map_or(Position::START, |record| record.position);
            assert!(
                !page.is_caught_up() || after >= newest,
                "nothing is there after {after}, it says: there is {newest}"
            );
            self.clock.advance_ms(50);
        }
        page
    }

    /// Reads until the end of the shard, or, if it is open, until everything expected was read.
    pub(super) fn drain(&self, reader: &mut dyn ShardReader, mut after: Position, is_closed: bool) -> Vec<Record> {
        let mut records: Vec<Record> = Vec::new();
        let last = self.expected.last().map_or(Position::START, |record| record.position);
        for _ in 0..100_000 {
            if !is_closed && after >= last {
                return records;
            }
            let page = self.read(reader, after, 3, 1 << 20);
            after = page.through.or_else(|| page.records.last().map(|record| record.position)).unwrap_or(after);
            records.extend(page.records);
            if page.is_end_of_shard {
                assert!(is_closed, "an open shard has no end");
                return records;
            }
        }
        panic!("no end in sight after {after}");
    }
}

/// Every record comes once, in order, whatever Kinesis does, however little is asked for at once, and wherever the reader
/// is killed and another one goes on; then comes the end of the shard.
pub(super) fn everything_once_in_order(make: Make, puts: &[Put], seed: u64) {
    let mut world = World::new(seed);
    world.kinesis.set_faults(Faults::BAD_DAY);
    let (before, during) = puts.split_at(puts.len() / 2);
    for &put in before {
        world.put(put);
    }
    let mut during = during.iter();
    let chance = Jitter::new(seed ^ 1);
    let mut reader = make(&world, SHARD, seed);
    let mut after = Position::START;
    let mut read: Vec<Record> = Vec::new();
    let mut is_closed = false;
    for step in 0.. {
        assert!(step < 100_000, "seed {seed}: no progress after {after}");
        match during.next() {
            Some(&put) => world.put(put),
            None if !is_closed => {
                world.kinesis.split(SHARD);
                is_closed = true;
            }
            None => {}
        }
        let records_max = 1 + chance.below(5) as usize;
        let bytes_max = chance.below(40) as usize;
        let page = world.read(&mut *reader, after, records_max, bytes_max);
        assert!(page.records.len() <= records_max);
        let bytes: usize = page.records.iter().skip(1).map(|record| record.data.as_ref().unwrap().len()).sum();
        assert!(bytes <= bytes_max);
        if let Some(last) = page.records.last() {
            after = last.position;
        }
        after = page.through.unwrap_or(after);
        read.extend(page.records);
        if page.is_end_of_shard {
            break;
        }
        if chance.below(8) == 0 {
            // A process takes a while to start; a new reader knows nothing of its predecessor's reads.
            world.clock.advance_ms(1_000);
            reader = make(&world, SHARD, seed + step);
        }
        if chance.below(50) == 0 {
            world.clock.advance_ms(400_000);
        }
    }
    assert!(is_closed, "seed {seed}: the end came before the split");
    assert_eq!(read, world.expected, "seed {seed}");
    assert!(world.read(&mut *reader, after, 9, 9).records.is_empty());
    assert_eq!(world.kinesis.reads_refused(), 0, "seed {seed}: more than five reads a second");
}

/// After any position, inside aggregates too, a new reader gives exactly what follows.
pub(super) fn every_position_resumes(make: Make) {
    let mut world = World::new(3);
    let aggregates = [3, 0, 1, 4].map(Put::Aggregate);
    for put in [Put::Plain].into_iter().chain(aggregates).chain([Put::Poison, Put::Aggregate(2), Put::Plain]) {
        world.put(put);
    }
    world.kinesis.split(SHARD);
    assert_eq!(world.drain(&mut *make(&world, SHARD, 1), Position::START, true), world.expected);
    for index in 0..world.expected.len() {
        world.clock.advance_ms(10_000);
        let records = world.drain(&mut *make(&world, SHARD, 1), world.expected[index].position, true);
        assert_eq!(records, world.expected[index + 1..], "after {}", world.expected[index].position);
    }
}

/// User records whose keys hash outside the shard are not dropped.
pub(super) fn keys_of_other_shards_stay(make: Make) {
    let mut world = World::new(5);
    world.kinesis.split(SHARD);
    // Everything in one aggregate of one child: about half of these keys hash into its sibling.
    let parts: Vec<Vec<u8>> = (0..20).map(|part| format!("event {part}").into_bytes()).collect();
    let mut aggregate = Aggregator::new("a key that may hash anywhere");
    for part in &parts {
        aggregate.push(part);
    }
    let mut shards = Vec::new();
    for outer in ["a", "b", "c", "d"] {
        shards.push(world.kinesis.put(outer, &aggregate.finish()).0);
    }
    shards.sort();
    shards.dedup();
    assert_eq!(shards.len(), 2, "the test needs aggregates in both children");
    world.expected.clear();
    let found: usize = shards
        .into_iter()
        .map(|shard| {
            let mut reader = make(&world, shard, 1);
            let (mut after, mut count) = (Position::START, 0);
            for _ in 0..200 {
                let page = world.read(&mut *reader, after, 100, 1 << 20);
                after = page.records.last().map_or(after, |record| record.position);
                count += page.records.len();
            }
            count
        })
        .sum();
    assert_eq!(found, 4 * parts.len());
}
