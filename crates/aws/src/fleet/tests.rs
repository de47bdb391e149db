#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

use anabranch_stores::lake::{FaultPlan, FaultyStore, MemoryStore, ObjectPath, ObjectStore};
use anabranch_stream::notify::{NotifySettings, RuleSettings};
use anabranch_stream::object;
use anabranch_stream::testing::{self, MemoryChannel, MemoryState};
use anabranch_stream::{Counts, StreamSettings};

use super::*;
use crate::kinesis::kpl::Aggregator;
use crate::testing::{Faults, MemoryLeases, SimClock, SimKinesis};

/// What every process of a stream shares.
struct World {
    clock: Arc<SimClock>,
    kinesis: SimKinesis,
    state: Arc<MemoryState>,
    leases: Arc<MemoryLeases>,
    sink: Arc<FaultyStore<MemoryStore>>,
    /// Events put so far; each has its number for a session of its own.
    events: AtomicU64,
    /// Moves the clock while the test runs, faster than the wall's.
    _ticker: Ticker,
}

struct Ticker {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap();
    }
}

impl World {
    fn new(shards: u64, seed: u64) -> Self {
        let clock = Arc::new(SimClock::default());
        let stop = Arc::<AtomicBool>::default();
        let (ticks, told) = (Arc::clone(&clock), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !told.load(Ordering::SeqCst) {
                ticks.advance_ms(20);
                std::thread::park_timeout(Duration::from_millis(2));
            }
        });
        Self {
            kinesis: SimKinesis::new(shards, Arc::clone(&clock), seed),
            clock,
            state: MemoryState::new(),
            leases: Arc::default(),
            sink: Arc::new(FaultyStore::new(MemoryStore::new(), FaultPlan::default())),
            events: AtomicU64::new(0),
            _ticker: Ticker { stop, thread: Some(thread) },
        }
    }

    fn parts(&self, worker: &str, reading: Reading) -> FleetParts {
        let sink: Arc<dyn ObjectStore> = Arc::<FaultyStore<MemoryStore>>::clone(&self.sink);
        FleetParts {
            shared: SharedParts {
                state: Arc::<MemoryState>::clone(&self.state),
                sink,
                types: testing::types(),
                settings: StreamSettings { cut_after_ms: 200, list_length: 3, ..StreamSettings::default() },
                namespace: "clicks-1".to_owned(),
                model: testing::model(),
                clock: Arc::<SimClock>::clone(&self.clock),
            },
            api: Arc::new(self.kinesis.clone()),
            reading,
            leases: Arc::<MemoryLeases>::clone(&self.leases),
            settings: FleetSettings {
                worker: worker.to_owned(),
                shards_max: 16,
                failover_ms: 3_000,
                list_every_ms: 1_000,
                drain_ms: 60_000,
            },
            patience: Patience::new(Arc::<SimClock>::clone(&self.clock), 1),
            models: None,
            notify: None,
            source: "the Kinesis stream clicks".to_owned(),
            created_ms: 1,
        }
    }

    fn start(&self, worker: &str) -> Fleet {
        Fleet::start(self.parts(worker, Reading::Polling(PollSettings::default()))).unwrap()
    }

    /// Events of many users, some of them packed.
    fn put(&self, count: u64) {
        for _ in 0..count {
            let number = self.events.fetch_add(1, Ordering::SeqCst);
            let event = |part: u64| {
                let time_ms = self.clock.now_ms();
                let id = format!("e{number}.{part}");
                format!(
                    r#"{{"userId":"u{}","itemId":"i{}","eventType":"view","eventId":"{id}","sentAt":{time_ms}}}"#,
                    number % 7,
                    number % 20
                )
            };
            let key = format!("u{}", number % 7);
            if number.is_multiple_of(3) {
                let mut aggregate = Aggregator::new(&key);
                let parts = [event(0), event(1)];
                for part in parts {
                    aggregate.push(part.as_bytes());
                }
                self.kinesis.put("an aggregate", &aggregate.finish());
            } else {
                self.kinesis.put(&key, event(0).as_bytes());
            }
        }
    }

    /// The ids of all events that were put.
    fn expected(&self) -> BTreeMap<String, usize> {
        let put = self.events.load(Ordering::SeqCst);
        (0..put)
            .flat_map(|number| {
                (0..=u64::from(number.is_multiple_of(3))).map(move |part| (format!("e{number}.{part}"), 1))
            })
            .collect()
    }

    /// How often each event was delivered; every object is checked against its trailer, the counts against the lists.
    fn delivered(&self) -> BTreeMap<String, usize> {
        let mut times = BTreeMap::new();
        let mut counts = Counts::default();
        for meta in self.sink.list("recommendations/clicks-1").unwrap() {
            let (trailer, lines) = object::decode(meta.path.as_str(), &self.sink.get(&meta.path).unwrap()).unwrap();
            assert!(trailer.counts.conserve());
            counts.add(&trailer.counts);
            for line in lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
                let list: serde_json::Value = serde_json::from_slice(line).unwrap();
                *times.entry(list["eventId"].as_str().unwrap().to_owned()).or_default() += 1;
            }
        }
        assert_eq!(counts.delivered as usize, times.values().sum::<usize>());
        times
    }

    fn wait_until(&self, what: &str, mut is_done: impl FnMut() -> bool) {
        for _ in 0..6_000 {
            if is_done() {
                return;
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
        panic!("{what}: not in time; shards {:?}, leases {:?}", self.kinesis.shard_ids(), self.leases.leases());
    }

    fn wait_delivered(&self) {
        let expected = self.expected();
        self.wait_until("everything is delivered once", || self.delivered() == expected);
    }
}

#[test]
fn a_split_and_a_merge_are_followed_and_everything_comes_once() {
    let world = World::new(2, 1);
    let fleet = world.start("a");
    assert_eq!(fleet.shards(), [ShardId(0), ShardId(1)]);
    world.put(40);
    world.wait_delivered();
    let [left, right] = world.kinesis.split(ShardId(0));
    world.put(40);
    world.wait_until("the children are read", || fleet.shards() == [ShardId(1), left, right]);
    world.wait_delivered();
    let child = world.kinesis.merge(left, right);
    world.put(40);
    world.wait_until("the child is read", || fleet.shards() == [ShardId(1), child]);
    world.wait_delivered();
    for ended in [ShardId(0), left, right] {
        let checkpoint = anabranch_stream::ports::StateStore::checkpoint(&*world.state, ended).unwrap();
        assert!(matches!(checkpoint, Checkpoint::ShardEnd(_)), "{ended}: {checkpoint:?}");
    }
    // What lives on is told; what ended still counts.
    let totals = fleet.shared().totals();
    assert_eq!(totals.delivered as usize, world.expected().len());
    assert!(fleet.shared().blocked().is_none());
    fleet.stop().unwrap();
}

#[test]
fn two_processes_share_and_one_that_dies_is_replaced() {
    let world = World::new(4, 2);
    let first = world.start("a");
    assert_eq!(first.shards().len(), 4);
    let second = world.start("b");
    world.wait_until("the shards are shared", || first.shards().len() == 2 && second.shards().len() == 2);
    world.put(60);
    world.wait_delivered();
    // Killed: nothing is given back, so its leases must run out.
    drop(second);
    world.put(60);
    world.wait_until("the first reads everything", || first.shards().len() == 4);
    world.wait_delivered();
    first.stop().unwrap();
}

#[test]
fn a_process_that_ends_commits_its_open_cuts_and_gives_its_leases_back() {
    let world = World::new(3, 3);
    let mut parts = world.parts("a", Reading::Polling(PollSettings::default()));
    // No cut is due before the end.
    parts.shared.settings.cut_after_ms = 3_600_000;
    let fleet = Fleet::start(parts).unwrap();
    world.put(30);
    let processed = |fleet: &Fleet| -> Vec<_> {
        fleet.shared().statuses().into_iter().map(|(_, status)| status.processed).collect()
    };
    let newest: Vec<_> = (0..3)
        .map(|shard| {
            let last = world.kinesis.records(ShardId(shard)).last().map(|record| record.number);
            last.map(anabranch_stream::ports::Position::whole).unwrap_or_default()
        })
        .collect();
    world.wait_until("everything is processed", || processed(&fleet) == newest);
    assert!(world.delivered().is_empty());
    fleet.stop().unwrap();
    assert_eq!(world.delivered(), world.expected());
    assert!(world.leases.leases().unwrap().iter().all(|lease| lease.owner.is_none()));
}

#[test]
fn a_bad_day_loses_nothing_by_polling_and_by_fan_out() {
    for (seed, reading) in
        [(4, Reading::Polling(PollSettings::default())), (5, Reading::FanOut(FanOutSettings { wait_ms: 1 }))]
    {
        let world = World::new(2, seed);
        world.kinesis.set_faults(Faults::BAD_DAY);
        let fleet = Fleet::start(world.parts("a", reading)).unwrap();
        world.put(30);
        world.kinesis.split(ShardId(1));
        world.put(30);
        world.wait_delivered();
        fleet.stop().unwrap();
        assert_eq!(world.delivered(), world.expected());
    }
}

#[test]
fn a_shard_in_trouble_is_told_and_tried_again_and_the_others_go_on() {
    let world = World::new(2, 6);
    world.put(30);
    // What lies where the first cut of shard 0 wants to lie is no delivered object.
    let first_ms = world.kinesis.records(ShardId(0))[0].arrival_ms;
    let name = object::object_name(
        "recommendations/clicks-1",
        ShardId(0),
        anabranch_stream::ports::Position::START,
        first_ms,
        anabranch_stream::Compression::Zstd,
    );
    let foreign = ObjectPath::new(name).unwrap();
    world.sink.put(&foreign, &[0; 2048]).unwrap();
    let fleet = world.start("a");
    world.wait_until("the trouble is told", || {
        fleet.shared().blocked().is_some_and(|why| why.contains("shardId-000000000000") && why.contains("again in"))
    });
    let of_other = world.kinesis.records(ShardId(1)).len();
    world.wait_until("the other shard goes on", || {
        fleet.shared().status(ShardId(1)).is_some_and(|status| status.counts.records as usize >= of_other)
    });
    assert!(fleet.failure().is_none());
    world.sink.delete(&foreign).unwrap();
    world.wait_delivered();
    world.wait_until("nothing is told any more", || fleet.shared().blocked().is_none());
    fleet.stop().unwrap();
}

/// The lease of notifications goes from one process to the other, by a clean end and by a crash.
#[test]
fn one_process_sends_notifications_and_another_follows_it() {
    let world = World::new(2, 8);
    let channel = MemoryChannel::default();
    let rule = RuleSettings { event_types: vec!["view".to_owned()], cool_down_minutes: 0, ..RuleSettings::default() };
    let settings = NotifySettings { rules: [("r".to_owned(), rule)].into(), ..NotifySettings::default() };
    let start = |name: &str| {
        let parts = NotifyParts {
            rules: settings.compile(&testing::types()).unwrap(),
            channel: Box::new(channel.clone()),
            attempts_max: 8,
            seed: 1,
        };
        let (outbox, leases) = (Arc::<MemoryState>::clone(&world.state), Arc::<MemoryLeases>::clone(&world.leases));
        let notify = Some(FleetNotify { parts, outbox, leases });
        Fleet::start(FleetParts { notify, ..world.parts(name, Reading::Polling(PollSettings::default())) }).unwrap()
    };
    let arrived = || {
        let ids = channel.ids();
        assert_eq!(ids.iter().collect::<std::collections::BTreeSet<_>>().len(), ids.len(), "each once");
        ids.len()
    };
    let who = || world.leases.dispatch_lease().unwrap().and_then(|lease| lease.owner);
    let first = start("a");
    world.wait_until("somebody sends", || who().as_deref() == Some("a"));
    let second = start("b");
    world.put(20);
    world.wait_until("everything is sent", || arrived() == world.expected().len());
    assert_eq!((first.shared().notices().sent, second.shared().notices().sent), (arrived() as u64, 0));
    first.stop().unwrap();
    world.wait_until("the other sends, at once", || who().as_deref() == Some("b"));
    world.put(20);
    world.wait_until("everything is sent", || arrived() == world.expected().len());
    let third = start("c");
    drop(second);
    world.put(20);
    world.wait_until("the third sends", || arrived() == world.expected().len());
    assert_eq!((who().as_deref(), world.state.waiting()), (Some("c"), 0));
    third.stop().unwrap();
    assert_eq!(who(), None);
}

#[test]
fn a_stream_reads_from_elsewhere_and_says_where() {
    let world = World::new(1, 7);
    let fleet = world.start("a");
    assert_eq!(fleet.embedded().unwrap_err(), "the Kinesis stream clicks");
    assert_eq!(fleet.created_ms(), 1);
    fleet.stop().unwrap();
}
