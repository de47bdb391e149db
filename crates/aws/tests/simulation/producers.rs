//! Producers, and their own record of what was acknowledged: the oracle believes nobody else.
//!
//! A producer sends what was not acknowledged again before anything new, in order. It repeats itself on purpose, is late,
//! packs aggregates (KPL) and sends rubbish.

use std::collections::VecDeque;
use std::sync::Arc;

use anabranch_aws::api::PutRecord;
use anabranch_aws::kinesis::kpl::Aggregator;
use anabranch_aws::kinesis::producer::{Answer, Producer, ProducerSettings};
use anabranch_stores::backoff::Patience;
use md5::{Digest, Md5};

use crate::chance::Chance;
use crate::world::World;

/// Records sent at once.
const BATCH_MAX: u64 = 12;
/// Records that wait to be acknowledged before nothing new is made.
const WAITING_MAX: usize = 40;

/// A producer.
#[derive(Debug)]
pub(crate) struct Sender {
    number: u64,
    producer: Producer,
    waiting: VecDeque<PutRecord>,
    /// What Kinesis acknowledged, in that order.
    pub(crate) acknowledged: Vec<PutRecord>,
    made: u64,
    /// Whether it packs what waits into aggregates itself. An aggregate within an aggregate is nobody's event.
    packs: bool,
    chance: Chance,
}

impl Sender {
    pub(crate) fn new(world: &World, number: u64, chance: &Chance) -> Self {
        let mut patience = Patience::new(Arc::clone(&world.clock) as _, chance.seed());
        patience.attempts_max = chance.pick(&[1, 3, 8]);
        let settings = ProducerSettings {
            records_max: chance.pick(&[2, 5, 500]),
            aggregate: chance.one_in(2),
            ..ProducerSettings::default()
        };
        let packs = settings.aggregate;
        let producer = Producer::new(Arc::new(world.kinesis.clone()), settings, patience);
        let chance = Chance::new(chance.seed());
        Self { packs, number, producer, waiting: VecDeque::new(), acknowledged: Vec::new(), made: 0, chance }
    }

    /// Whether everything that was made is acknowledged.
    pub(crate) fn is_done(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Makes something new, if not too much waits.
    pub(crate) fn make(&mut self, world: &World) {
        if self.waiting.len() < WAITING_MAX {
            for _ in 0..=self.chance.below(BATCH_MAX) {
                let record = self.record(world);
                self.waiting.push_back(record);
            }
        }
    }

    /// Sends everything that waits.
    pub(crate) fn send(&mut self, world: &World) {
        if self.waiting.is_empty() {
            return;
        }
        let records: Vec<PutRecord> = std::mem::take(&mut self.waiting).into();
        let answers = self.producer.put(&records);
        assert_eq!(answers.len(), records.len());
        let count = records.len();
        for (record, answer) in records.into_iter().zip(answers) {
            match answer {
                Answer::Stored { .. } => self.acknowledged.push(record),
                Answer::Failed(_) | Answer::Behind => self.waiting.push_back(record),
                Answer::Refused(refusal) => panic!("nothing here is too large: {refusal}"),
            }
        }
        let failed = self.waiting.len();
        world.tape.count("producer: record that has to be sent again", failed as u64);
        world.tape.say(format!("producer-{} sends {count} records, {failed} fail", self.number));
    }

    fn record(&mut self, world: &World) -> PutRecord {
        self.made += 1;
        let roll = self.chance.below(100);
        if roll < 12 && !self.acknowledged.is_empty() {
            world.tape.count("producer: the same record again", 1);
            return self.acknowledged[self.chance.index(self.acknowledged.len())].clone();
        }
        if roll < 18 {
            world.tape.count("producer: poison record", 1);
            return self.poison(world);
        }
        if roll < 20 && !self.packs {
            world.tape.count("producer: empty aggregate", 1);
            return put(&self.user(world), Aggregator::new("nobody").finish());
        }
        if roll < 32 && world.plan.has_strays && !self.packs {
            world.tape.count("producer: aggregate under a key of its own", 1);
            let key = format!("stray-{}", self.chance.below(4));
            let user = self.user(world);
            let mut aggregate = Aggregator::new(&user);
            for _ in 0..=self.chance.below(3) {
                self.made += 1;
                let owner = self.user(world);
                aggregate.push(&self.event(world, &format!(r#""userId":"{owner}""#)));
            }
            return put(&key, aggregate.finish());
        }
        if roll < 45 && world.plan.has_sessions {
            let session = format!("s{}", self.chance.below(3));
            return put(&session, self.event(world, &format!(r#""sessionId":"{session}""#)));
        }
        let user = self.user(world);
        if roll < 55 && world.plan.has_sessions {
            let session = self.chance.below(3);
            return put(&user, self.event(world, &format!(r#""userId":"{user}","sessionId":"s{session}""#)));
        }
        if roll < 58 {
            self.made += 1;
            let events = [self.event(world, ""), self.event(world, "")].map(|event| String::from_utf8(event).unwrap());
            let envelope = format!(r#"{{"userId":"{user}","eventList":[{}]}}"#, events.join(","));
            return put(&user, envelope.into_bytes());
        }
        put(&user, self.event(world, &format!(r#""userId":"{user}""#)))
    }

    fn user(&self, world: &World) -> String {
        format!("u{}", self.chance.below(world.plan.users))
    }

    /// An event of `owner`, by an id of its own or known by what it says.
    fn event(&self, world: &World, owner: &str) -> Vec<u8> {
        let late_ms = if self.chance.one_in(6) {
            world.tape.count("producer: late event", 1);
            self.chance.below(100_000_000)
        } else {
            self.chance.below(2_000)
        };
        // No two events say the same.
        let time_ms = world.now_ms() - late_ms as i64;
        let (number, made, item) = (self.number, self.made, self.chance.below(23));
        let kind = self.chance.pick(&["view", "view", "cart", "purchase"]);
        let id = if self.chance.one_in(3) {
            format!(r#""eventValue":{made}.{number}"#)
        } else {
            format!(r#""eventId":"e{number}-{made}-{item}-{}""#, self.chance.below(1 << 40))
        };
        let owner = if owner.is_empty() { String::new() } else { format!("{owner},") };
        format!(r#"{{{owner}"itemId":"i{item}","eventType":"{kind}","sentAt":{time_ms},{id}}}"#).into_bytes()
    }

    fn poison(&self, world: &World) -> PutRecord {
        let made = self.made;
        let data = match self.chance.below(6) {
            0 => format!("no json {made}").into_bytes(),
            1 => format!(r#"{{"userId":"u1","itemId":"i{made}","eventType":"teleport","sentAt":1}}"#).into_bytes(),
            2 => format!(r#"{{"itemId":"i{made}","sentAt":1700000000}}"#).into_bytes(),
            3 => vec![0xff, 0xfe, made as u8],
            4 => [&[0xf3, 0x89, 0x9a, 0xc2], &made.to_be_bytes()[..], &[0; 16]].concat(),
            // An aggregate by its checksum, though no protobuf.
            _ => [&[0xf3, 0x89, 0x9a, 0xc2, 0x1a], Md5::digest([0x1a]).as_slice()].concat(),
        };
        put(&self.user(world), data)
    }
}

fn put(partition_key: &str, data: Vec<u8>) -> PutRecord {
    PutRecord { partition_key: partition_key.to_owned(), data }
}
