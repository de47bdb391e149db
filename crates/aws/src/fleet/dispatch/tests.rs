//! Processes that are stepped by hand, over simulated Kinesis and DynamoDB: who sends what, and how often.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anabranch_events::erasure::ErasureKey;
use anabranch_stores::backoff::{Jitter, Patience};
use anabranch_stores::lake::MemoryStore;
use anabranch_stream::notify::{DropReason, NotifyCounts, NotifySettings, Outbox as _, RuleSettings};
use anabranch_stream::ports::{Checkpoint, ShardId, StateStore as _};
use anabranch_stream::shared::SharedParts;
use anabranch_stream::testing::{self, MemoryChannel, Sending, event};
use anabranch_stream::worker::{Step, Worker};
use anabranch_stream::{Clock as _, StreamSettings};

use super::*;
use crate::dynamo::histories::{DynamoState, StateParts, StateSettings};
use crate::dynamo::leases::DynamoLeases;
use crate::dynamo::testing::{Faults, MemoryDynamo};
use crate::fleet::Coordinator;
use crate::kinesis::dispatch_lease::{DispatchLeaseTable as _, DispatchLeaseTaker};
use crate::kinesis::frontier::Frontier;
use crate::kinesis::lease::{LeaseSettings, LeaseTaker};
use crate::kinesis::reader::{PollSettings, PollingReader};
use crate::testing::{SimClock, SimKinesis};

const FAILOVER_MS: u64 = 9_000;
const TICK_MS: u64 = 1_000;
const MINUTE: usize = 60;

/// What every process of a stream shares.
struct World {
    clock: Arc<SimClock>,
    kinesis: SimKinesis,
    dynamo: Arc<MemoryDynamo>,
    sink: Arc<MemoryStore>,
    channel: MemoryChannel,
    rule: RuleSettings,
    chance: Jitter,
}

/// A process. Dropping it is a crash.
struct Process {
    shared: Arc<Shared>,
    state: Arc<DynamoState>,
    leases: Arc<DynamoLeases>,
    coordinator: Coordinator,
    workers: BTreeMap<ShardId, Worker>,
    ended: HashMap<ShardId, Checkpoint>,
    taker: DispatchLeaseTaker,
    dispatching: Dispatching,
    /// Its threads that read do not get the processor.
    is_slow: bool,
}

/// A cart that is abandoned after a minute.
fn abandoned() -> RuleSettings {
    RuleSettings {
        event_types: vec!["cart".to_owned()],
        delay_minutes: 1,
        unless: vec!["purchase".to_owned()],
        cool_down_minutes: 0,
        ..RuleSettings::default()
    }
}

impl World {
    fn new(shards: u64, rule: RuleSettings, seed: u64) -> Self {
        let clock = Arc::new(SimClock::default());
        Self {
            kinesis: SimKinesis::new(shards, Arc::clone(&clock), seed),
            dynamo: Arc::new(MemoryDynamo::new(&["state", "outbox", "leases"], seed)),
            sink: Arc::new(MemoryStore::new()),
            channel: MemoryChannel::default(),
            chance: Jitter::new(seed),
            clock,
            rule,
        }
    }

    fn start(&self, name: &str) -> Process {
        let types = testing::types();
        let clock = || Arc::<SimClock>::clone(&self.clock);
        let patience = Patience::new(clock(), 1);
        let parts = StateParts {
            api: Arc::<MemoryDynamo>::clone(&self.dynamo),
            settings: StateSettings {
                table: "state".to_owned(),
                namespace: "clicks-1".to_owned(),
                retention_s: 86_400,
                ttl_s: 90 * 86_400,
            },
            erasure_key: ErasureKey::new([7; 32]),
            clock: clock(),
            patience: patience.clone(),
        };
        let state = Arc::new(DynamoState::new(parts, &types).unwrap().with_outbox("outbox"));
        let rules = NotifySettings { rules: [("r".to_owned(), self.rule.clone())].into(), ..NotifySettings::default() };
        let shared = Shared::new(SharedParts {
            state: Arc::<DynamoState>::clone(&state),
            sink: Arc::<MemoryStore>::clone(&self.sink),
            settings: StreamSettings { cut_after_ms: 500, list_length: 3, ..StreamSettings::default() },
            namespace: "clicks-1".to_owned(),
            model: testing::model(),
            clock: clock(),
            types: types.clone(),
        });
        let shared = Arc::new(shared.with_rules(rules.compile(&types).unwrap()));
        let leases = Arc::new(DynamoLeases::new(Arc::<MemoryDynamo>::clone(&self.dynamo), "leases", patience));
        let settings = LeaseSettings { failover_ms: FAILOVER_MS, leases_max: usize::MAX };
        let table = Arc::<DynamoLeases>::clone(&leases);
        let kinesis = || Arc::new(self.kinesis.clone());
        let state_store = || Arc::<DynamoState>::clone(&state);
        let coordinator = Coordinator::new(kinesis(), state_store(), table, LeaseTaker::new(name, settings), 2_000);
        let taker = DispatchLeaseTaker::new(name, FAILOVER_MS);
        let parts = DispatcherParts {
            shared: Arc::clone(&shared),
            outbox: Arc::<DynamoState>::clone(&state),
            progress: Box::new(Frontier::new(kinesis(), state_store(), clock())),
            channel: Box::new(self.channel.clone()),
            attempts_max: 8,
            seed: 1,
            idle_shortest_ms: 1_000,
        };
        let dispatching = Dispatching::new(parts, taker.right());
        Process {
            shared,
            state,
            leases,
            coordinator,
            workers: BTreeMap::new(),
            ended: HashMap::new(),
            taker,
            dispatching,
            is_slow: false,
        }
    }

    /// An event of `user` under a partition key that need not be theirs.
    fn put(&self, key: &str, user: &str, kind: &str) -> ShardId {
        self.kinesis.put(key, &event(user, "i3", kind, self.clock.now_ms())).0
    }

    /// A key whose events go to this shard.
    fn key_of(&self, shard: ShardId) -> String {
        (0..1000).map(|n| format!("k{n}")).find(|key| self.kinesis.put(key, b"probe").0 == shard).unwrap()
    }

    /// Some seconds pass for these processes.
    fn run(&self, processes: &mut [&mut Process], seconds: usize) {
        for _ in 0..seconds {
            self.clock.advance_ms(TICK_MS);
            for process in &mut *processes {
                process.tick(self);
            }
        }
    }

    /// How often each notification arrived, by its user.
    fn arrived(&self) -> BTreeMap<String, usize> {
        let mut times = BTreeMap::new();
        let mut ids = BTreeMap::new();
        for (_, notification) in self.channel.arrived() {
            let body: serde_json::Value = serde_json::from_str(&notification.body).unwrap();
            let user = body["userId"].as_str().unwrap().to_owned();
            assert_eq!(*ids.entry(user.clone()).or_insert(notification.id.clone()), notification.id, "one id");
            *times.entry(user).or_default() += 1;
        }
        times
    }
}

impl Process {
    fn tick(&mut self, world: &World) {
        self.keep_leases(world);
        if !self.is_slow {
            self.read();
        }
        self.send(usize::MAX);
    }

    fn keep_leases(&mut self, world: &World) {
        let _ = self.taker.run(&*self.leases, &*world.clock);
        let committed = |(shard, worker): (&ShardId, &Worker)| (*shard, Checkpoint::After(worker.committed()));
        let mut own: HashMap<ShardId, Checkpoint> = self.workers.iter().map(committed).collect();
        own.extend(&self.ended);
        let Ok(wanted) = self.coordinator.round(&own, &*world.clock, !self.ended.is_empty()) else {
            return;
        };
        self.workers.retain(|shard, _| wanted.contains(shard));
        for shard in wanted.into_iter().filter(|shard| !self.ended.contains_key(shard)) {
            let (api, clock) = (Arc::new(world.kinesis.clone()), Arc::<SimClock>::clone(&world.clock));
            let patience = Patience::new(Arc::<SimClock>::clone(&world.clock), 1);
            let make = || Box::new(PollingReader::new(api, shard, PollSettings::default(), clock, patience));
            self.workers.entry(shard).or_insert_with(|| Worker::new(Arc::clone(&self.shared), shard, make()));
        }
    }

    fn read(&mut self) {
        let ended = &mut self.ended;
        self.workers.retain(|shard, worker| {
            for _ in 0..50 {
                match worker.step().unwrap() {
                    Step::Worked => {}
                    Step::Idle { .. } | Step::Stalled { .. } => return true,
                    Step::Ended => {
                        ended.insert(*shard, Checkpoint::ShardEnd(worker.committed()));
                        return false;
                    }
                }
            }
            true
        });
    }

    /// Steps of the dispatcher until it waits; how many of `steps_max` there were.
    fn send(&mut self, steps_max: usize) -> usize {
        let mut steps = 0;
        while steps < steps_max && self.dispatching.step().unwrap() == DispatchStep::Worked {
            steps += 1;
        }
        steps
    }

    /// As the lease says.
    fn who_sends(&self) -> String {
        self.leases.dispatch_lease().unwrap().unwrap().owner.unwrap()
    }

    fn counts(&self) -> NotifyCounts {
        self.shared.notices()
    }
}

fn once(users: impl IntoIterator<Item = String>) -> BTreeMap<String, usize> {
    users.into_iter().map(|user| (user, 1)).collect()
}

/// Carts of forty users, a third of whom buy later, under keys of all shards; the users who are to be told.
fn forty_carts(world: &World, run: &mut dyn FnMut(&World, usize)) -> BTreeSet<String> {
    for n in 0..40 {
        world.put(&format!("a{}", world.chance.below(1000)), &format!("u{n}"), "cart");
        if n % 10 == 0 {
            run(world, 2);
        }
    }
    for n in (0..40).filter(|n| n % 3 == 0) {
        world.put(&format!("b{}", world.chance.below(1000)), &format!("u{n}"), "purchase");
    }
    (0..40).filter(|n| n % 3 != 0).map(|n| format!("u{n}")).collect()
}

#[test]
fn two_processes_send_each_notification_once() {
    for seed in 0..5 {
        let world = World::new(4, abandoned(), seed);
        let (mut a, mut b) = (world.start("a"), world.start("b"));
        world.run(&mut [&mut a, &mut b], 5);
        let told = forty_carts(&world, &mut |world, seconds| world.run(&mut [&mut a, &mut b], seconds));
        world.kinesis.split(ShardId(seed % 4));
        world.run(&mut [&mut a, &mut b], 2 * MINUTE);
        assert_eq!(world.arrived(), once(told), "seed {seed}");
        // One of them sent everything; both committed notices; what was bought was dropped.
        let (of_a, of_b) = (a.counts(), b.counts());
        assert_eq!(of_a.sent.min(of_b.sent), 0);
        assert!(of_a.queued > 0 && of_b.queued > 0 && of_a.queued + of_b.queued == 40, "{of_a:?} {of_b:?}");
        let dropped = |counts: &NotifyCounts| counts.dropped.get(&DropReason::Cancelled).copied().unwrap_or_default();
        assert_eq!(dropped(&of_a) + dropped(&of_b), 14);
        assert!(a.state.due(i64::MAX, None, 100).unwrap().is_empty());
        assert_eq!(a.shared.notices_waiting_ms(world.clock.now_ms()), 0);
    }
}

/// A process dies after any number of steps of its dispatcher; the other, or one that is started anew, goes on.
#[test]
fn a_crash_repeats_at_most_what_was_in_hand() {
    for crash_after in 0..12 {
        let world = World::new(2, abandoned(), 1);
        let mut first = world.start("first");
        world.run(&mut [&mut first], 5);
        let users: Vec<String> = (0..4).map(|n| format!("u{n}")).collect();
        for user in &users {
            world.put(user, user, "cart");
        }
        world.run(&mut [&mut first], 10);
        let mut second = world.start("second");
        world.clock.advance_ms(2 * 60_000);
        first.keep_leases(&world);
        first.read();
        assert!(first.send(crash_after) <= crash_after);
        drop(first);
        world.run(&mut [&mut second], 2 * MINUTE);
        let arrived = world.arrived();
        assert_eq!(arrived.keys().cloned().collect::<Vec<_>>(), users, "after {crash_after}");
        let repeats = arrived.values().sum::<usize>() - users.len();
        assert!(repeats <= 1, "after {crash_after}: {arrived:?}");
    }
}

/// A cart in one worker's shard, the purchase in another's, which is slow: the cart was called abandoned.
#[test]
fn a_purchase_in_another_processs_shard_has_its_say() {
    let world = World::new(2, abandoned(), 1);
    let (mut a, mut b) = (world.start("a"), world.start("b"));
    world.run(&mut [&mut a, &mut b], 10);
    assert_eq!((a.workers.len(), b.workers.len()), (1, 1));
    let (of_a, of_b) = (*a.workers.keys().next().unwrap(), *b.workers.keys().next().unwrap());
    let (key_a, key_b) = (world.key_of(of_a), world.key_of(of_b));
    world.run(&mut [&mut a, &mut b], 10);
    // The process that sends has the carts; the other the purchase.
    let sends = a.who_sends();
    let (cart, purchase) = if sends == "a" { (&key_a, &key_b) } else { (&key_b, &key_a) };
    world.put(cart, "bought", "cart");
    world.put(cart, "left", "cart");
    world.run(&mut [&mut a, &mut b], 20);
    (if sends == "a" { &mut b } else { &mut a }).is_slow = true;
    world.put(purchase, "bought", "purchase");
    world.run(&mut [&mut a, &mut b], 5 * MINUTE);
    assert_eq!(world.arrived(), BTreeMap::new(), "the purchase is not read yet");
    let sender = if sends == "a" { &a } else { &b };
    assert!(sender.shared.notices_waiting_ms(world.clock.now_ms()) > 4 * 60_000, "and the wait is told");
    (a.is_slow, b.is_slow) = (false, false);
    world.run(&mut [&mut a, &mut b], 20);
    assert_eq!(world.arrived(), once(["left".to_owned()]));

    // The same with a process that dies: its shard is the other's soon.
    world.put(cart, "bought-2", "cart");
    world.run(&mut [&mut a, &mut b], 20);
    world.put(purchase, "bought-2", "purchase");
    let mut survivor = if sends == "a" { a } else { b };
    world.run(&mut [&mut survivor], 3 * MINUTE);
    assert_eq!(world.arrived(), once(["left".to_owned()]));
    assert_eq!(survivor.counts().dropped[&DropReason::Cancelled], 2);
}

#[test]
fn whoever_loses_the_lease_writes_down_what_is_in_hand_and_sends_no_more() {
    let world = World::new(1, abandoned(), 1);
    let (mut a, mut b) = (world.start("a"), world.start("b"));
    world.run(&mut [&mut a, &mut b], 5);
    let users: Vec<String> = (0..6).map(|n| format!("u{n}")).collect();
    for user in &users {
        world.put(user, user, "cart");
    }
    world.run(&mut [&mut a, &mut b], 30);
    assert_eq!(a.who_sends(), "a");
    world.clock.advance_ms(60_000);
    a.keep_leases(&world);
    while world.channel.arrived().is_empty() {
        assert!(
            a.send(1) == 1 || {
                world.clock.advance_ms(2_000);
                a.keep_leases(&world);
                true
            }
        );
    }
    assert!(a.dispatching.is_closing(), "sent, and not written down");
    // It does not get the processor for longer than its lease lasts. It looks at the clock before it sends.
    world.clock.advance_ms(FAILOVER_MS);
    a.send(usize::MAX);
    assert_eq!((world.channel.arrived().len(), a.counts().sent), (1, 1), "the one in hand is written down");
    world.run(&mut [&mut b], 30);
    assert_eq!(b.who_sends(), "b");
    a.send(usize::MAX);
    assert_eq!(world.arrived(), once(users.clone()), "the rest is the other's");
    assert_eq!((a.counts().sent, b.counts().sent), (1, 5));
    // It comes back and finds nothing of its own.
    world.run(&mut [&mut a, &mut b], 30);
    assert_eq!(world.arrived(), once(users));
    // Given back, it is another's at once.
    b.taker.release(&*b.leases).unwrap();
    world.run(&mut [&mut a], 1);
    assert_eq!(a.who_sends(), "a");
}

#[test]
fn quiet_hours_hold_whoever_sends() {
    // The clock begins at 22:13:20 UTC.
    let world = World::new(1, RuleSettings { quiet_hours: "22:00-23:00".to_owned(), ..abandoned() }, 1);
    let mut a = world.start("a");
    world.run(&mut [&mut a], 5);
    world.put("ada", "ada", "cart");
    world.run(&mut [&mut a], 10 * MINUTE);
    drop(a);
    let mut b = world.start("b");
    world.run(&mut [&mut b], 30 * MINUTE);
    assert_eq!((world.arrived(), b.counts()), (BTreeMap::new(), NotifyCounts::default()));
    world.run(&mut [&mut b], 10 * MINUTE);
    assert_eq!(world.arrived(), once(["ada".to_owned()]));
    let (sent_ms, _) = world.channel.arrived()[0];
    assert!((0..5_000).contains(&(sent_ms.rem_euclid(86_400_000) - 23 * 3_600_000)), "at eleven: {sent_ms}");
}

/// Requests that fail before or after their effect, writes that land later, receivers that do not answer, processes
/// that die and are started again: everybody is told, and under one id.
#[test]
fn on_bad_days_everybody_is_told_under_one_id() {
    for seed in 0..20 {
        let world = World::new(3, abandoned(), seed);
        let mut processes = vec![world.start("p0"), world.start("p1")];
        let run = |world: &World, processes: &mut [Process], seconds: usize| {
            world.run(&mut processes.iter_mut().collect::<Vec<_>>(), seconds);
        };
        run(&world, &mut processes, 5);
        world.dynamo.set_faults(Faults { before: 4, after: 4, throttle: 4, unprocessed: 5, in_flight: 3 });
        let told = forty_carts(&world, &mut |world, seconds| run(world, &mut processes, seconds));
        for number in 2..14 {
            run(&world, &mut processes, 4 + world.chance.below(12) as usize);
            world.channel.script([[Sending::Lose, Sending::LoseAnswer][number % 2], Sending::Pass]);
            world.dynamo.land();
            if world.chance.below(2) == 0 {
                let gone = world.chance.below(2) as usize;
                processes[gone] = world.start(&format!("p{number}"));
            }
        }
        world.dynamo.set_faults(Faults::default());
        world.channel.end_script();
        while world.dynamo.land().is_some() {}
        run(&world, &mut processes, 5 * MINUTE);
        let arrived = world.arrived();
        assert_eq!(arrived.keys().cloned().collect::<BTreeSet<_>>(), told, "seed {seed}");
        let state = &processes[0].state;
        assert!(state.due(i64::MAX, None, 100).unwrap().is_empty(), "seed {seed}: nothing waits");
        assert!(matches!(state.checkpoint(ShardId(0)), Ok(Checkpoint::After(_))));
    }
}
