//! A small world for tests, of this crate and of those above it: a trained model over twenty items, a clock that stands
//! still, a shard and a state in memory that fail on demand, and what every adapter of the ports must pass. No part of the API: it is hidden from the docs, panics on any fault, and may change at any time.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};

use anabranch_events::{EventSettings, EventTypes};
use anabranch_models::ials::IalsSettings;
use anabranch_models::learn::{ItemIndex, LearnSettings, Provenance, learn};
use anabranch_models::{Interactions, Kernels, Model, Snapshot};
use anabranch_stores::lake::ObjectStore;
use anabranch_stores::state::{Create, State};

use crate::clock::Clock;
use crate::ports::StateStore;
use crate::settings::StreamSettings;
use crate::shared::SharedParts;

mod conformance;
mod memory;
mod outbox;

pub use conformance::{ShardFixture, shard_reader_conformance, state_store_conformance};
pub use memory::{Faults, MemoryShard, MemoryState, When};
pub use outbox::{MemoryChannel, Sending, notice, outbox_conformance};

/// Where the clock stands, milliseconds since 1970.
pub const NOW_MS: i64 = 1_700_000_000_000;

/// A clock that stands still until it is moved.
#[derive(Debug)]
pub struct TestClock(AtomicI64);

impl TestClock {
    /// At [`NOW_MS`].
    pub fn new() -> Arc<Self> {
        Arc::new(Self(AtomicI64::new(NOW_MS)))
    }

    /// Moves on.
    pub fn advance_ms(&self, ms: i64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }

    fn monotonic_us(&self) -> u64 {
        (self.now_ms() - NOW_MS) as u64 * 1000
    }
}

/// The default event settings.
pub fn events() -> EventSettings {
    EventSettings::default()
}

/// The same, compiled.
pub fn types() -> EventTypes {
    events().compile().unwrap()
}

/// Twenty items in four groups; thirty users who stay in their group. Trained once a process.
pub fn model() -> Arc<Model> {
    static MODEL: OnceLock<Arc<Model>> = OnceLock::new();
    Arc::clone(MODEL.get_or_init(|| train("0123456789abcdef", 4)))
}

/// Another model over the same items, as a later training gives it.
pub fn next_model() -> Arc<Model> {
    static MODEL: OnceLock<Arc<Model>> = OnceLock::new();
    Arc::clone(MODEL.get_or_init(|| train("fedcba9876543210", 1)))
}

/// The bytes of [`model`]'s snapshot.
pub fn snapshot() -> Vec<u8> {
    learned(4)
}

fn train(version: &str, iterations: usize) -> Arc<Model> {
    let snapshot = Arc::new(Snapshot::from_bytes(&learned(iterations)).unwrap());
    Arc::new(Model::new(snapshot, version, Kernels::best()).unwrap())
}

fn learned(iterations: usize) -> Vec<u8> {
    let index = ItemIndex::new((0..20).map(|i| format!("i{i}")).collect()).unwrap();
    let rows: Vec<Vec<(u32, f32)>> = (0..30_u32)
        .map(|user| {
            (0..20).filter(|item| item % 4 == user % 4 && (item + user) % 3 != 0).map(|item| (item, 1.0)).collect()
        })
        .collect();
    let rows = Interactions::from_rows(20, rows).unwrap();
    let settings = LearnSettings {
        ials: IalsSettings { dim: 8, iterations, ..IalsSettings::default() },
        ..LearnSettings::default()
    };
    let provenance =
        Provenance { events: &events(), as_of_ms: NOW_MS, demand: None, titles: &[], metrics: BTreeMap::new() };
    learn(Kernels::best(), &rows, &index, &settings, &provenance, |_| {}).unwrap().snapshot
}

/// A new state.
pub fn state(path: &std::path::Path, shards: u32) -> Arc<State> {
    let create = Create { name: "clicks".to_owned(), shards, now_ms: NOW_MS, secret: [7; 32] };
    Arc::new(State::open(path, create).unwrap())
}

/// All that a stream shares, with [`model`].
pub fn parts(
    state: Arc<State>,
    sink: Arc<dyn ObjectStore>,
    clock: Arc<TestClock>,
    settings: StreamSettings,
) -> SharedParts<Arc<State>> {
    let namespace = state.identity().namespace();
    SharedParts { state, sink, types: types(), settings, namespace, model: model(), clock }
}

/// The same over any port.
pub fn port_parts(
    state: Arc<dyn StateStore>,
    sink: Arc<dyn ObjectStore>,
    clock: Arc<TestClock>,
    settings: StreamSettings,
) -> SharedParts {
    let namespace = format!("clicks-{NOW_MS}");
    SharedParts { state, sink, types: types(), settings, namespace, model: model(), clock }
}

/// An event as a producer writes it.
pub fn event(user: &str, item: &str, kind: &str, time_ms: i64) -> Vec<u8> {
    format!(r#"{{"userId":"{user}","itemId":"{item}","eventType":"{kind}","sentAt":{time_ms}}}"#).into_bytes()
}
