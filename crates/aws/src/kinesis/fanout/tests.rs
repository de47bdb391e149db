#![allow(clippy::unwrap_used)]

use anabranch_stores::ErrorKind;

use super::*;
use crate::kinesis::promises::{FAN_OUT as MAKE, Put, SHARD, World};
use crate::testing::Faults;

#[test]
fn a_subscription_of_five_minutes_is_followed_by_the_next_without_a_gap() {
    let mut world = World::new(1);
    let mut reader = MAKE(&world, SHARD, 1);
    let (mut after, mut read) = (Position::START, Vec::new());
    // Twenty minutes, one record every ten seconds.
    for _ in 0..120 {
        world.put(Put::Plain);
        for _ in 0..10 {
            let page = world.read(&mut *reader, after, 10, 1000);
            after = page.records.last().map_or(after, |record| record.position);
            read.extend(page.records);
            world.clock.advance_ms(1_000);
        }
    }
    assert_eq!(read, world.expected);
    let subscriptions = world.kinesis.calls("SubscribeToShard");
    assert!((4..=6).contains(&subscriptions), "{subscriptions} subscriptions in about twenty minutes");
}

#[test]
fn a_quiet_shard_is_subscribed_to_after_its_continuation() {
    let world = World::new(1);
    let clock = Arc::clone(&world.clock);
    let kinesis = crate::testing::SimKinesis::new(2, Arc::clone(&clock), 1);
    // Everything goes to one shard; the other is read.
    let busy = kinesis.put("u", b"{}").0;
    let quiet = ShardId(1 - busy.0);
    let mut reader =
        FanOutReader::new(Arc::new(kinesis.clone()), quiet, FanOutSettings::default(), clock, world.patience(1));
    let mut newest = None;
    for _ in 0..700 {
        newest = Some(kinesis.put("u", b"{}").1);
        assert_eq!(world.read(&mut reader, Position::START, 10, 10).records, []);
        world.clock.advance_ms(1_000);
    }
    let from = kinesis.subscribed_from();
    assert_eq!(from[0], StartingPosition::TrimHorizon);
    assert!(from.len() >= 3);
    for from in &from[1..] {
        let StartingPosition::After(number) = from else { panic!("{from:?}") };
        assert!(Some(*number) <= newest && *number > crate::testing::sequence_number(100), "{number}");
    }
}

#[test]
fn of_two_readers_of_one_consumer_neither_loses_records_nor_storms() {
    let mut world = World::new(1);
    let mut readers = [MAKE(&world, SHARD, 1), MAKE(&world, SHARD, 2)];
    let mut seen = [(Position::START, Vec::new()), (Position::START, Vec::new())];
    let mut refused = 0;
    for _ in 0..600 {
        world.put(Put::Aggregate(2));
        for (reader, (after, records)) in readers.iter_mut().zip(&mut seen) {
            match reader.read_after(*after, 100, 10_000) {
                Ok(page) => {
                    *after = page.records.last().map_or(*after, |record| record.position);
                    records.extend(page.records);
                }
                Err(error) => {
                    assert_eq!(error.kind, ErrorKind::Retry);
                    refused += 1;
                }
            }
        }
        world.clock.advance_ms(100);
    }
    assert!(refused > 0);
    // A minute, and Kinesis lets a subscription be taken over every five seconds.
    assert!(world.kinesis.calls("SubscribeToShard") < 40, "{}", world.kinesis.calls("SubscribeToShard"));
    for ((after, mut records), mut reader) in seen.into_iter().zip(readers) {
        world.clock.advance_ms(10_000);
        records.extend(world.drain(&mut *reader, after, false));
        assert_eq!(records, world.expected);
    }
}

#[test]
fn a_reader_that_is_refused_backs_off() {
    let world = World::new(1);
    world.kinesis.set_faults(Faults { throttled: 1000, ..Faults::default() });
    let mut reader = MAKE(&world, SHARD, 1);
    for _ in 0..60_000 {
        assert_eq!(reader.read_after(Position::START, 10, 10).unwrap_err().kind, ErrorKind::Retry);
        world.clock.advance_ms(1);
    }
    let calls = world.kinesis.calls("SubscribeToShard");
    assert!((8..=12).contains(&calls), "{calls} in a minute: one in five seconds, and a little jitter");
    // Asking often does not put the next attempt off (it once did: each refused read counted as a failure of its own).
    world.kinesis.set_faults(Faults::default());
    let recovered = (0..10_000).find(|_| {
        world.clock.advance_ms(1);
        reader.read_after(Position::START, 10, 10).is_ok()
    });
    assert!(recovered.is_some());
}

#[test]
fn a_subscription_whose_connection_died_is_followed_by_the_next() {
    let mut world = World::new(1);
    let mut reader = MAKE(&world, SHARD, 1);
    world.put(Put::Plain);
    let read = world.drain(&mut *reader, Position::START, false);
    assert_eq!(read, world.expected);
    let after = read[0].position;
    world.kinesis.set_faults(Faults { silent: 1000, ..Faults::default() });
    assert_eq!(world.read(&mut *reader, after, 10, 1000).records, []);
    world.kinesis.set_faults(Faults::default());
    world.put(Put::Plain);
    let mut waited_ms = 0;
    let found = loop {
        let page = reader.read_after(after, 10, 1000).unwrap();
        assert!(!page.is_caught_up() || !page.records.is_empty(), "silence is no word that nothing is there");
        if !page.records.is_empty() {
            break page.records;
        }
        world.clock.advance_ms(500);
        waited_ms += 500;
        assert!(waited_ms < 60_000, "nobody noticed");
    };
    assert_eq!(found, world.expected[1..]);
    assert!(waited_ms >= 20_000, "{waited_ms} ms: an event may be late by a few seconds");
}

/// A subscription with its events changed on the way.
#[derive(Debug)]
struct Changed {
    kinesis: crate::testing::SimKinesis,
    change: fn(&mut crate::api::SubscriptionEvent),
}

#[derive(Debug)]
struct ChangedSubscription(Box<dyn Subscription>, fn(&mut crate::api::SubscriptionEvent));

impl Subscription for ChangedSubscription {
    fn next(&mut self, wait: Duration) -> Result<Pushed, ApiError> {
        let mut pushed = self.0.next(wait)?;
        if let Pushed::Event(event) = &mut pushed {
            (self.1)(event);
        }
        Ok(pushed)
    }
}

impl KinesisApi for Changed {
    fn describe(&self) -> Result<crate::api::StreamSummary, ApiError> {
        self.kinesis.describe()
    }
    fn list_shards(
        &self,
        filter: Option<crate::api::ShardFilter>,
        next_token: Option<&str>,
    ) -> Result<crate::api::ShardPage, ApiError> {
        self.kinesis.list_shards(filter, next_token)
    }
    fn get_shard_iterator(&self, shard: ShardId, from: StartingPosition) -> Result<String, ApiError> {
        self.kinesis.get_shard_iterator(shard, from)
    }
    fn get_records(&self, iterator: &str, limit: u32) -> Result<crate::api::RecordsPage, ApiError> {
        self.kinesis.get_records(iterator, limit)
    }
    fn subscribe_to_shard(&self, shard: ShardId, from: StartingPosition) -> Result<Box<dyn Subscription>, ApiError> {
        Ok(Box::new(ChangedSubscription(self.kinesis.subscribe_to_shard(shard, from)?, self.change)))
    }
    fn put_records(&self, records: &[crate::api::PutRecord]) -> Result<Vec<crate::api::PutResult>, ApiError> {
        self.kinesis.put_records(records)
    }
}

fn changed(world: &World, change: fn(&mut crate::api::SubscriptionEvent)) -> FanOutReader {
    let api = Arc::new(Changed { kinesis: world.kinesis.clone(), change });
    FanOutReader::new(api, SHARD, FanOutSettings::default(), Arc::clone(&world.clock) as _, world.patience(1))
}

#[test]
fn an_event_that_lay_ready_does_not_say_that_nothing_is_there_now() {
    for (change, is_news) in [
        ((|event| event.is_fresh = false) as fn(&mut crate::api::SubscriptionEvent), false),
        (|event| event.is_fresh = true, true),
    ] {
        let world = World::new(1);
        let mut reader = changed(&world, change);
        let pages: Vec<_> = (0..20)
            .map(|_| {
                world.clock.advance_ms(1_000);
                reader.read_after(Position::START, 10, 10).unwrap()
            })
            .collect();
        assert_eq!(pages.iter().any(Page::is_caught_up), is_news);
    }
}

#[test]
fn an_event_that_came_while_records_were_handed_out_is_no_word_of_now() {
    let mut world = World::new(1);
    let mut reader = MAKE(&world, SHARD, 1);
    let (mut after, mut told) = (Position::START, 0);
    for _ in 0..50 {
        (0..3).for_each(|_| world.put(Put::Plain));
        let mut handed_out = 0;
        while handed_out < 3 {
            world.clock.advance_ms(100);
            if let Some(record) = reader.read_after(after, 1, 1).unwrap().records.first() {
                (after, handed_out) = (record.position, handed_out + 1);
            }
        }
        assert!(!reader.read_after(after, 1, 1).unwrap().is_caught_up(), "nobody listened in the call before");
        told += usize::from((0..10).any(|_| reader.read_after(after, 1, 1).unwrap().is_caught_up()));
    }
    assert!(told > 40, "it is told soon: {told}");
}

#[test]
fn a_subscription_that_nobody_listened_to_is_not_believed() {
    let world = World::new(1);
    let mut reader = MAKE(&world, SHARD, 1);
    let _ = world.read(&mut *reader, Position::START, 10, 10);
    assert_eq!(world.kinesis.calls("SubscribeToShard"), 1);
    world.clock.advance_ms(9_000);
    let _ = world.read(&mut *reader, Position::START, 10, 10);
    assert_eq!(world.kinesis.calls("SubscribeToShard"), 1, "a slow worker keeps its subscription");
    world.clock.advance_ms(11_000);
    let _ = world.read(&mut *reader, Position::START, 10, 10);
    assert_eq!(world.kinesis.calls("SubscribeToShard"), 2);
}

#[test]
fn an_event_without_continuation_is_followed_after_its_records() {
    let mut world = World::new(1);
    world.kinesis.set_faults(Faults { short_pages: 1000, ..Faults::default() });
    (0..10).for_each(|count| world.put(Put::Aggregate(count % 4)));
    let mut reader = changed(&world, |event| event.continuation = None);
    assert_eq!(world.drain(&mut reader, Position::START, false), world.expected);
}
