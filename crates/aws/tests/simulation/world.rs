//! The services of one run, and what the seed decided about it.

use std::sync::Arc;

use anabranch_aws::dynamo::testing::{self as dynamo, MemoryDynamo};
use anabranch_aws::testing::{Faults, SimClock, SimKinesis};
use anabranch_events::{EventSettings, EventTypes};
use anabranch_models::Hide;
use anabranch_stores::lake::{FaultPlan, FaultyStore, MemoryStore};
use anabranch_stream::{Clock, Compression, Mode};

use crate::chance::Chance;
use crate::tape::Tape;

/// The table of histories and checkpoints.
pub(crate) const TABLE: &str = "state";
/// The table of leases.
pub(crate) const LEASES: &str = "leases";
/// The namespace of ids and folders.
pub(crate) const NAMESPACE: &str = "clicks-1700000000000";

/// What the seed decided at the start.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Steps until the faults stop.
    pub(crate) steps: u64,
    /// Shards at the start.
    pub(crate) shards: u64,
    /// Users.
    pub(crate) users: u64,
    /// Processes that may run at once.
    pub(crate) processes: usize,
    /// When a list is made.
    pub(crate) mode: Mode,
    /// How objects are compressed.
    pub(crate) compression: Compression,
    /// Which items lists do not show.
    pub(crate) hide: Hide,
    /// Entries kept of each class.
    pub(crate) quota: usize,
    /// Whether there are sessions: their histories are written from more than one shard.
    pub(crate) has_sessions: bool,
    /// Whether some producers put users under keys that are not theirs, so that a user's events come from two shards.
    pub(crate) has_strays: bool,
}

impl Plan {
    fn new(chance: &Chance) -> Self {
        let has_strays = chance.one_in(6);
        Self {
            steps: 100 + chance.below(500),
            shards: 1 + chance.below(3),
            users: 1 + chance.below(8),
            processes: 1 + chance.index(3),
            mode: if chance.one_in(6) { Mode::PerUser } else { Mode::PerEvent },
            compression: if chance.one_in(8) { Compression::Gzip } else { Compression::Zstd },
            hide: if chance.one_in(2) { Hide::Seen } else { Hide::Nothing },
            quota: chance.pick(&[2, 3, 6, 40]),
            has_sessions: has_strays || chance.one_in(3),
            has_strays,
        }
    }

    /// Whether a list depends on the log alone: its owner's histories all come through one shard at a time.
    pub(crate) fn is_repeatable(&self) -> bool {
        self.mode == Mode::PerEvent && !self.has_sessions
    }
}

/// The services, without the processes that use them.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) tape: Arc<Tape>,
    pub(crate) plan: Plan,
    pub(crate) types: EventTypes,
    pub(crate) clock: Arc<SimClock>,
    pub(crate) kinesis: SimKinesis,
    pub(crate) dynamo: Arc<MemoryDynamo>,
    /// What the bucket holds.
    pub(crate) objects: Arc<MemoryStore>,
    /// The bucket as processes reach it.
    pub(crate) bucket: Arc<FaultyStore<Arc<MemoryStore>>>,
}

impl World {
    pub(crate) fn new(chance: &Chance, tape: Arc<Tape>) -> Self {
        let plan = Plan::new(chance);
        tape.say(format!("{plan:?}"));
        let clock = Arc::new(SimClock::default());
        // The hour changes now and then.
        clock.advance_ms(chance.below(86_400_000));
        let objects = Arc::new(MemoryStore::new());
        let slow = Arc::clone(&clock);
        let bucket = FaultyStore::new(Arc::clone(&objects), FaultPlan::default())
            .with_slow_hook(move |_| slow.advance_ms(2_000));
        let types = EventSettings::default().with_quota(plan.quota).compile().unwrap();
        Self {
            kinesis: SimKinesis::new(plan.shards, Arc::clone(&clock), chance.seed()),
            dynamo: Arc::new(MemoryDynamo::new(&[TABLE, LEASES], chance.seed())),
            bucket: Arc::new(bucket),
            tape,
            plan,
            types,
            clock,
            objects,
        }
    }

    pub(crate) fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    /// The services become better or worse.
    pub(crate) fn change_weather(&self, chance: &Chance) {
        let rate = |often: &[u64]| chance.pick(often);
        self.kinesis.set_faults(Faults {
            throttled: rate(&[0, 0, 50, 200]),
            internal: rate(&[0, 0, 50, 200]),
            expired: rate(&[0, 0, 100, 300]),
            empty_pages: rate(&[0, 100, 400]),
            short_pages: rate(&[0, 300, 900]),
            put_failed: rate(&[0, 100, 400]),
            answer_lost: rate(&[0, 50, 200]),
            ended: rate(&[0, 0, 100]),
            silent: rate(&[0, 0, 20]),
        });
        self.kinesis.set_arrival_offset_ms(chance.pick(&[0, 0, 0, 900_000, -900_000, 3_600_000]));
        self.dynamo.set_faults(dynamo::Faults {
            before: rate(&[0, 0, 5, 20]),
            after: rate(&[0, 0, 5, 20]),
            throttle: rate(&[0, 0, 5, 20]),
            unprocessed: rate(&[0, 0, 30]),
            in_flight: rate(&[0, 0, 5, 15]),
        });
        self.dynamo.set_silent(chance.one_in(3));
        self.bucket.set_plan(FaultPlan {
            seed: chance.seed(),
            before_per_mille: rate(&[0, 0, 100, 300]),
            after_per_mille: rate(&[0, 0, 100, 300]),
            full_per_mille: rate(&[0, 0, 0, 100]),
            slow_per_mille: rate(&[0, 0, 100]),
            in_flight_per_mille: rate(&[0, 0, 50, 200]),
            ..FaultPlan::default()
        });
    }

    /// Every service is well again, and what was on its way arrives.
    pub(crate) fn clear_up(&self) {
        self.kinesis.set_faults(Faults::default());
        self.dynamo.set_faults(dynamo::Faults::default());
        self.bucket.set_plan(FaultPlan::default());
        while self.land_one() {}
    }

    /// Lets a request arrive that its sender gave up.
    pub(crate) fn land_one(&self) -> bool {
        let object = self.bucket.land();
        if let Some((path, outcome)) = &object {
            self.tape.say(format!("{path} arrives: {:?}", outcome.as_ref().unwrap()));
            self.tape.count("bucket: write that landed later", 1);
        }
        let item = self.dynamo.land();
        if let Some((table, held)) = &item {
            self.tape.say(format!("an item of {table} arrives: {held}"));
        }
        object.is_some() || item.is_some()
    }
}
