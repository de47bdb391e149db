#![allow(clippy::unwrap_used)]
use std::collections::BTreeMap;

use anabranch_aws::kinesis::dispatch_lease::DispatchLease;
use anabranch_aws::kinesis::frontier::Frontier;
use anabranch_aws::testing::{MemoryLeases, SimClock, SimKinesis};
use anabranch_events::HistoryKey;
use anabranch_stores::lake::{MemoryStore, ObjectStore};
use anabranch_stream::Clock as _;
use anabranch_stream::notify::{AfterAWhile, DropReason, NotifySettings, Outbox as _, Progress, RuleSettings, Rules};
use anabranch_stream::ports::ShardId;
use anabranch_stream::shared::SharedParts;
use anabranch_stream::testing::{self, MemoryChannel, MemoryState, When, event};

use super::*;
use crate::stream::StreamFunction;
use crate::testing::{Put, firehose_event, function, settings};

const MINUTE_MS: u64 = 60_000;

/// Everything that the functions share, and a Kinesis stream that somebody maps to `stream`.
struct World {
    clock: Arc<SimClock>,
    kinesis: SimKinesis,
    state: Arc<MemoryState>,
    sink: Arc<MemoryStore>,
    leases: Arc<MemoryLeases>,
    channel: MemoryChannel,
    rules: Rules,
}

fn rules() -> Rules {
    let abandoned = RuleSettings {
        event_types: vec!["cart".to_owned()],
        delay_minutes: 30,
        unless: vec!["purchase".to_owned()],
        cool_down_minutes: 0,
        ..RuleSettings::default()
    };
    let rules = [("abandoned-cart".to_owned(), abandoned)].into();
    NotifySettings { rules, ..NotifySettings::default() }.compile(&testing::types()).unwrap()
}

impl World {
    fn new() -> Self {
        let clock = Arc::new(SimClock::default());
        Self {
            kinesis: SimKinesis::new(2, Arc::clone(&clock), 1),
            state: MemoryState::new(),
            sink: Arc::new(MemoryStore::new()),
            leases: Arc::default(),
            channel: MemoryChannel::default(),
            rules: rules(),
            clock,
        }
    }

    fn function(&self) -> crate::run::Function {
        let sink: Arc<dyn ObjectStore> = Arc::<MemoryStore>::clone(&self.sink);
        let function = function(Arc::clone(&self.state) as _, sink, settings());
        crate::run::Function { rules: self.rules.clone(), clock: Arc::<SimClock>::clone(&self.clock), ..function }
    }

    /// What the mapping hands over of a shard, from a record on.
    fn map(&self, shard: ShardId, from: usize) {
        use anabranch_aws::lambda_events::{KinesisEvent, KinesisEventRecord, KinesisRecord};
        use base64::Engine as _;
        let records = self.kinesis.records(shard).into_iter().skip(from).map(|record| KinesisEventRecord {
            kinesis: KinesisRecord {
                partition_key: record.partition_key,
                sequence_number: record.number.to_string(),
                data: base64::engine::general_purpose::STANDARD.encode(&record.data),
                arrival_ms: Some(record.arrival_ms),
            },
            event_id: format!("{shard}:{}", record.number),
            ..KinesisEventRecord::default()
        });
        let event = KinesisEvent { records: records.collect() };
        let stream: StreamFunction<anabranch_aws::firehose::testing::MemoryFirehose> =
            StreamFunction { function: self.function(), firehose: None };
        let report = stream.handle(&event, &testing::model()).unwrap().report;
        assert!(report.conserves());
    }

    fn put(&self, key: &str, user: &str, kind: &str) -> ShardId {
        self.kinesis.put(key, &event(user, "i3", kind, self.clock.now_ms())).0
    }

    /// Ada's cart is read, as is the other shard, and its notice is due.
    fn ada_abandons_a_cart(&self) {
        self.put("ada", "ada", "cart");
        for shard in [ShardId(0), ShardId(1)] {
            self.map(shard, 0);
        }
        self.clock.advance_ms(40 * MINUTE_MS);
    }

    fn notify_with(&self, name: &str, progress: Box<dyn Progress>) -> NotifyFunction {
        let shared = Shared::new(SharedParts {
            state: Arc::<MemoryState>::clone(&self.state),
            sink: Arc::<MemoryStore>::clone(&self.sink),
            types: testing::types(),
            settings: settings(),
            namespace: "clicks-1".to_owned(),
            model: testing::model(),
            clock: Arc::<SimClock>::clone(&self.clock),
        });
        let parts = DispatcherParts {
            shared: Arc::new(shared.with_rules(self.rules.clone())),
            outbox: Arc::<MemoryState>::clone(&self.state),
            progress,
            channel: Box::new(self.channel.clone()),
            attempts_max: 8,
            seed: 1,
            idle_shortest_ms: 1_000,
        };
        NotifyFunction::new(parts, Arc::clone(&self.leases) as _, Arc::<SimClock>::clone(&self.clock), name, 5_000)
    }

    fn notify(&self, name: &str) -> NotifyFunction {
        let state = Arc::<MemoryState>::clone(&self.state);
        let clock = Arc::<SimClock>::clone(&self.clock);
        self.notify_with(name, Box::new(Frontier::new(Arc::new(self.kinesis.clone()), state, clock)))
    }

    fn invoked(&self, time_ms: i64) -> Invoked {
        Invoked { model: testing::next_model(), deadline_ms: self.clock.now_ms() + time_ms }
    }

    fn users(&self) -> Vec<String> {
        let user = |body: &str| {
            serde_json::from_str::<serde_json::Value>(body).unwrap()["userId"].as_str().unwrap().to_owned()
        };
        let mut users: Vec<String> = self.channel.arrived().iter().map(|(_, arrived)| user(&arrived.body)).collect();
        users.sort_unstable();
        users
    }

    /// A key of each shard.
    fn keys(&self) -> [String; 2] {
        let key_of = |shard| {
            let mut keys = (0..100).map(|n| format!("k{n}"));
            keys.find(|key| self.kinesis.put(key, b"probe").0 == ShardId(shard)).unwrap()
        };
        [key_of(0), key_of(1)]
    }
}

#[test]
fn what_is_due_goes_out_once_and_the_metrics_say_so() {
    let world = World::new();
    let notify = world.notify("a");
    for user in ["ada", "bob", "eve"] {
        world.put(user, user, "cart");
    }
    for shard in [ShardId(0), ShardId(1)] {
        world.map(shard, 0);
    }
    assert_eq!(world.state.waiting(), 3);
    // The mapping hands the batch over again: nothing is doubled.
    world.map(ShardId(0), 0);
    assert_eq!(world.state.waiting(), 3);
    assert_eq!(notify.handle(&world.invoked(60_000)).unwrap().response, NotifyResponse::default());
    world.clock.advance_ms(10 * MINUTE_MS);
    let bought = world.put("bob", "bob", "purchase");
    let before = world.kinesis.records(bought).len() - 1;
    world.clock.advance_ms(21 * MINUTE_MS);
    let handled = notify.handle(&world.invoked(60_000)).unwrap();
    assert_eq!((handled.response.sent, world.users().len()), (0, 0), "the purchase is not read yet");
    assert!((60_000..70_000).contains(&handled.report.waiting_ms), "{:?}", handled.report);
    world.map(bought, before);
    world.clock.advance_ms(MINUTE_MS);
    let handled = notify.handle(&world.invoked(60_000)).unwrap();
    assert_eq!(handled.response, NotifyResponse { sent: 2, is_unfinished: false });
    assert_eq!(world.users(), ["ada", "eve"]);
    assert!(world.channel.arrived()[0].1.body.contains(testing::next_model().version()), "by the model of now");
    let dropped = BTreeMap::from([(DropReason::Cancelled, 1)]);
    let counts = NotifyCounts { sent: 2, dropped, ..NotifyCounts::default() };
    assert_eq!(handled.report, NotifyReport { counts: Some(counts), waiting_ms: 0 });
    assert_eq!(notify.handle(&world.invoked(60_000)).unwrap().response.sent, 0);
    assert_eq!(world.leases.dispatch_lease().unwrap().unwrap().owner, None, "given back");
}

/// A cart and its purchase in two shards, of which the mapping has handed over one.
#[test]
fn the_other_shard_has_its_say() {
    let world = World::new();
    let [here, there] = world.keys();
    let notify = world.notify("a");
    world.put(&here, "ada", "cart");
    world.map(ShardId(0), 0);
    world.map(ShardId(1), 0);
    world.clock.advance_ms(MINUTE_MS);
    let before = world.kinesis.records(ShardId(1)).len();
    world.put(&there, "ada", "purchase");
    for _ in 0..5 {
        world.clock.advance_ms(10 * MINUTE_MS);
        assert_eq!(notify.handle(&world.invoked(60_000)).unwrap().response.sent, 0);
    }
    world.map(ShardId(1), before);
    world.clock.advance_ms(MINUTE_MS);
    let handled = notify.handle(&world.invoked(60_000)).unwrap();
    assert_eq!(handled.report.counts.unwrap().dropped, BTreeMap::from([(DropReason::Cancelled, 1)]));
    assert!(world.channel.arrived().is_empty());
}

#[test]
fn behind_a_transform_a_notice_waits_for_what_firehose_may_hold() {
    let world = World::new();
    let after = AfterAWhile::new(Arc::<SimClock>::clone(&world.clock), 16 * MINUTE_MS as i64);
    let notify = world.notify_with("a", Box::new(after));
    let transform = crate::transform::TransformFunction::new(world.function(), crate::settings::Partition::None);
    let cart = |user: &str| Put::one(user, event(user, "i3", "cart", world.clock.now_ms()));
    let puts = [cart("ada"), cart("bob")];
    for _ in 0..2 {
        // Its answer is lost and it comes again.
        let report = transform.handle(&firehose_event(0, &puts), &testing::model()).unwrap().report;
        assert_eq!(report.delivered, 2);
    }
    assert_eq!(world.state.waiting(), 2);
    world.clock.advance_ms(20 * MINUTE_MS);
    let purchase = Put {
        arrival_ms: world.clock.now_ms(),
        ..Put::one("bob", event("bob", "i3", "purchase", world.clock.now_ms()))
    };
    world.clock.advance_ms(15 * MINUTE_MS);
    assert_eq!(notify.handle(&world.invoked(60_000)).unwrap().response.sent, 0, "Firehose may hold something");
    transform.handle(&firehose_event(2, &[purchase]), &testing::model()).unwrap();
    world.clock.advance_ms(15 * MINUTE_MS);
    assert_eq!(notify.handle(&world.invoked(60_000)).unwrap().response.sent, 1);
    assert_eq!(world.users(), ["ada"]);
}

#[test]
fn it_stops_while_there_is_time_to_write_down_and_goes_on_next_time() {
    let world = World::new();
    let notify = world.notify("a");
    world.ada_abandons_a_cart();
    // A sending takes up to five seconds, writing it down up to ten.
    let handled = notify.handle(&world.invoked(14_999)).unwrap();
    assert_eq!(handled.response, NotifyResponse { sent: 0, is_unfinished: true });
    assert_eq!(notify.handle(&world.invoked(60_000)).unwrap().response.sent, 1);
    assert_eq!(notify.handle(&world.invoked(-5)).unwrap().response.sent, 0);
}

/// A worker that renews its lease whenever somebody waits.
#[derive(Debug)]
struct Renewing(Mutex<DispatchLeaseTaker>, Arc<MemoryLeases>, Arc<SimClock>);
impl Pause for Renewing {
    fn pause(&self, ms: u64) {
        self.2.advance_ms(ms);
        assert!(self.0.lock().unwrap().run(&*self.1, &*self.2).unwrap());
    }
}

#[test]
fn only_one_sends_and_a_dead_ones_lease_runs_out() {
    let world = World::new();
    let (a, b) = (world.notify("a"), world.notify("b"));
    world.ada_abandons_a_cart();
    let worker = |counter| DispatchLease { owner: Some("a worker".to_owned()), counter };
    world.leases.write_dispatch_lease(&worker(0), None).unwrap();
    // A worker that renews: each of its counters is seen for a while, none for long.
    let handled = {
        let mut taker = DispatchLeaseTaker::new("a worker", FAILOVER_MS);
        let (leases, clock) = (Arc::clone(&world.leases), Arc::clone(&world.clock));
        assert!(taker.run(&*leases, &*clock).unwrap());
        let with_worker =
            NotifyFunction { pause: Arc::new(Renewing(Mutex::new(taker), leases, clock)), ..world.notify("c") };
        with_worker.handle(&world.invoked(60_000)).unwrap()
    };
    assert_eq!((handled.response.is_unfinished, handled.report.counts), (true, None), "it says nothing of others");
    assert!(world.channel.arrived().is_empty());
    // Now it is dead: whoever waits long enough takes over.
    assert_eq!(a.handle(&world.invoked(60_000)).unwrap().response.sent, 1);
    assert_eq!(b.handle(&world.invoked(60_000)).unwrap().response, NotifyResponse::default());
}

/// The process lives on after an invocation that failed: what it had sent is written down, not sent again.
#[test]
fn an_invocation_that_fails_repeats_nothing() {
    for (call, when) in [(0, When::Before), (1, When::Before), (2, When::After), (3, When::Before), (4, When::After)] {
        let world = World::new();
        let notify = world.notify("a");
        world.ada_abandons_a_cart();
        world.state.faults.fail_as(call, when, ErrorKind::FixInput);
        let _ = notify.handle(&world.invoked(60_000));
        world.state.faults.end();
        world.clock.advance_ms(MINUTE_MS);
        let _ = notify.handle(&world.invoked(60_000)).unwrap();
        assert_eq!((world.users(), world.state.waiting()), (vec!["ada".to_owned()], 0), "call {call} {when:?}");
        let ada = HistoryKey::User("ada".into());
        assert!(world.state.newest_sent(&ada).unwrap().is_some());
    }
}
