//! One process: leases, and a real worker over real readers for each shard that it believes to be its own.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use anabranch_aws::api::{KinesisApi, all_shards};
use anabranch_aws::dynamo::histories::{DynamoState, StateParts, StateSettings};
use anabranch_aws::dynamo::leases::DynamoLeases;
use anabranch_aws::kinesis::fanout::{FanOutReader, FanOutSettings};
use anabranch_aws::kinesis::lease::{LeaseSettings, LeaseTaker};
use anabranch_aws::kinesis::reader::{PollSettings, PollingReader};
use anabranch_aws::kinesis::shards::plan;
use anabranch_aws::testing::SimClock;
use anabranch_events::erasure::ErasureKey;
use anabranch_stores::ErrorKind;
use anabranch_stores::backoff::Patience;
use anabranch_stream::ports::{PortError, ShardId, ShardReader};
use anabranch_stream::shared::{Shared, SharedParts};
use anabranch_stream::testing;
use anabranch_stream::worker::{Step, Worker};
use anabranch_stream::{Clock, StreamSettings};

use crate::chance::Chance;
use crate::wire::{Via, Wire};
use crate::world::{LEASES, NAMESPACE, TABLE, World};

/// A machine's clock: what it says may be wrong, how long something takes may not.
#[derive(Debug)]
pub(crate) struct MachineClock {
    time: Arc<SimClock>,
    off_ms: AtomicI64,
}

impl Clock for MachineClock {
    fn now_ms(&self) -> i64 {
        self.time.now_ms() + self.off_ms.load(Ordering::SeqCst)
    }

    fn monotonic_us(&self) -> u64 {
        self.time.monotonic_us()
    }
}

/// A process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) name: String,
    pub(crate) wire: Arc<Wire>,
    pub(crate) workers: BTreeMap<ShardId, Worker>,
    /// It sleeps until then, by the world's clock.
    pub(crate) asleep_until_us: u64,
    clock: Arc<MachineClock>,
    shared: Arc<Shared>,
    kinesis: Arc<dyn KinesisApi>,
    leases: DynamoLeases,
    taker: LeaseTaker,
    is_fan_out: bool,
    time: Arc<SimClock>,
    chance: Chance,
}

impl Process {
    pub(crate) fn start(world: &World, number: u64, chance: &Chance) -> Self {
        let name = format!("process-{number}");
        let own = Chance::new(chance.seed());
        let wire = Wire::new(name.clone(), Arc::clone(&world.tape), own.seed());
        let clock = Arc::new(MachineClock { time: Arc::clone(&world.clock), off_ms: AtomicI64::new(0) });
        let mut patience = Patience::new(Arc::clone(&world.clock) as _, own.seed());
        patience.attempts_max = own.pick(&[2, 4, 8]);
        let dynamo = Arc::new(Via { wire: Arc::clone(&wire), service: Arc::clone(&world.dynamo) });
        let parts = StateParts {
            api: Arc::clone(&dynamo) as _,
            settings: StateSettings {
                table: TABLE.to_owned(),
                namespace: NAMESPACE.to_owned(),
                retention_s: 86_400,
                ttl_s: 90 * 86_400,
            },
            erasure_key: ErasureKey::new([7; 32]),
            clock: Arc::clone(&clock) as _,
            patience: patience.clone(),
        };
        let settings = StreamSettings {
            mode: world.plan.mode,
            compression: world.plan.compression,
            hide: world.plan.hide,
            list_length: 5,
            cut_after_ms: own.pick(&[50, 500, 2_000, 10_000]),
            cut_records: own.pick(&[1, 3, 10, 50]),
            micro_batch_records: own.pick(&[1, 3, 20]),
            ..StreamSettings::default()
        };
        let shared = Shared::new(SharedParts {
            state: Arc::new(DynamoState::new(parts, &world.types).unwrap()),
            sink: Arc::new(Via { wire: Arc::clone(&wire), service: Arc::clone(&world.bucket) }),
            types: world.types.clone(),
            settings,
            namespace: NAMESPACE.to_owned(),
            model: testing::model(),
            clock: Arc::clone(&clock) as _,
        });
        let lease_settings = LeaseSettings { failover_ms: own.pick(&[2_000, 10_000]), leases_max: usize::MAX };
        Self {
            kinesis: Arc::new(Via { wire: Arc::clone(&wire), service: world.kinesis.clone() }),
            leases: DynamoLeases::new(dynamo as _, LEASES, patience),
            taker: LeaseTaker::new(name.clone(), lease_settings),
            shared: Arc::new(shared),
            workers: BTreeMap::new(),
            asleep_until_us: 0,
            is_fan_out: own.one_in(2),
            time: Arc::clone(&world.clock),
            chance: own,
            clock,
            wire,
            name,
        }
    }

    /// Reads the shard list and the leases, begins with shards that are its own now, and leaves those that are not.
    pub(crate) fn run_leases(&mut self) -> Result<(), PortError> {
        let shards = all_shards(&*self.kinesis)?;
        let mut checkpoints = HashMap::new();
        for shard in &shards {
            checkpoints.insert(shard.id, self.shared.state.checkpoint(shard.id)?);
        }
        let states = plan(&shards, &checkpoints);
        let held = self.taker.run(&self.leases, &states, &*self.clock)?;
        // Whoever is slow to notice goes on with a shard that is another's by now.
        let chance = &self.chance;
        self.workers.retain(|id, _| held.contains(id) || chance.one_in(3));
        for id in held {
            if !self.workers.contains_key(&id) {
                let worker = Worker::new(Arc::clone(&self.shared), id, self.reader(id));
                self.workers.insert(id, worker);
            }
        }
        Ok(())
    }

    /// Begins with a shard that nobody gave it: two workers at once.
    pub(crate) fn intrude(&mut self, id: ShardId) {
        let worker = Worker::new(Arc::clone(&self.shared), id, self.reader(id));
        self.workers.insert(id, worker);
    }

    fn reader(&self, id: ShardId) -> Box<dyn ShardReader> {
        let (api, clock) = (Arc::clone(&self.kinesis), Arc::clone(&self.clock) as Arc<dyn Clock>);
        let patience = Patience::new(Arc::clone(&self.time) as _, self.chance.seed());
        if self.is_fan_out {
            Box::new(FanOutReader::new(api, id, FanOutSettings::default(), clock, patience))
        } else {
            Box::new(PollingReader::new(api, id, PollSettings::default(), clock, patience))
        }
    }

    /// Steps the worker of a shard. `None` if its shard is gone for good.
    pub(crate) fn step(&mut self, id: ShardId) -> Option<Step> {
        let worker = self.workers.get_mut(&id)?;
        match worker.step() {
            Ok(Step::Ended) => {
                self.workers.remove(&id);
                Some(Step::Ended)
            }
            Ok(step) => Some(step),
            // Retention took the shard while this one slept.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.workers.remove(&id);
                None
            }
            Err(error) => panic!("{}: {error}", self.name),
        }
    }

    pub(crate) fn use_next_model(&self) {
        self.shared.set_model(testing::next_model());
    }

    pub(crate) fn step_clock(&self, by_ms: i64) {
        self.clock.off_ms.fetch_add(by_ms, Ordering::SeqCst);
    }

    pub(crate) fn is_awake(&self) -> bool {
        self.time.monotonic_us() >= self.asleep_until_us
    }
}
