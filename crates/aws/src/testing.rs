//! Worlds in memory for tests and simulations: a Kinesis stream, a lease table, a clock. Deterministic: one thread, one
//! seed and one sequence of calls give the same answers. No part of the API: hidden from the docs, panics on misuse.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use anabranch_stores::backoff::Pause;
use anabranch_stream::Clock;
use anabranch_stream::ports::{PortError, ShardId};

use crate::kinesis::dispatch_lease::{DispatchLease, DispatchLeaseTable};
use crate::kinesis::lease::{Lease, LeaseTable};

mod kinesis;

pub use kinesis::{Faults, SimKinesis, sequence_number};

/// Where a [`SimClock`] begins, milliseconds since 1970.
pub const START_MS: i64 = 1_700_000_000_000;

/// A clock that moves when it is told to, and by every pause.
#[derive(Debug, Default)]
pub struct SimClock(AtomicU64);

impl SimClock {
    /// Moves on.
    pub fn advance_ms(&self, ms: u64) {
        self.0.fetch_add(ms * 1000, Ordering::SeqCst);
    }
}

impl Clock for SimClock {
    fn now_ms(&self) -> i64 {
        START_MS + (self.0.load(Ordering::SeqCst) / 1000) as i64
    }

    fn monotonic_us(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

impl Pause for SimClock {
    fn pause(&self, ms: u64) {
        self.advance_ms(ms);
    }
}

/// A lease table in memory.
#[derive(Debug, Default)]
pub struct MemoryLeases(Mutex<BTreeMap<ShardId, Lease>>, Mutex<Option<DispatchLease>>);

impl DispatchLeaseTable for MemoryLeases {
    fn dispatch_lease(&self) -> Result<Option<DispatchLease>, PortError> {
        Ok(self.1.lock().unwrap().clone())
    }

    fn write_dispatch_lease(&self, lease: &DispatchLease, expected_counter: Option<u64>) -> Result<bool, PortError> {
        let mut held = self.1.lock().unwrap();
        let is_expected = held.as_ref().map(|held| held.counter) == expected_counter;
        if is_expected {
            *held = Some(lease.clone());
        }
        Ok(is_expected)
    }
}

impl LeaseTable for MemoryLeases {
    fn leases(&self) -> Result<Vec<Lease>, PortError> {
        Ok(self.0.lock().unwrap().values().cloned().collect())
    }

    fn create(&self, lease: &Lease) -> Result<bool, PortError> {
        let mut leases = self.0.lock().unwrap();
        let is_new = !leases.contains_key(&lease.key);
        leases.entry(lease.key).or_insert_with(|| lease.clone());
        Ok(is_new)
    }

    fn replace(&self, lease: &Lease, expected_counter: u64) -> Result<bool, PortError> {
        let mut leases = self.0.lock().unwrap();
        let Some(stored) = leases.get_mut(&lease.key).filter(|stored| stored.counter == expected_counter) else {
            return Ok(false);
        };
        *stored = lease.clone();
        Ok(true)
    }

    fn remove(&self, key: ShardId, expected_counter: u64) -> Result<bool, PortError> {
        let mut leases = self.0.lock().unwrap();
        let is_expected = leases.get(&key).is_some_and(|stored| stored.counter == expected_counter);
        if is_expected {
            leases.remove(&key);
        }
        Ok(is_expected)
    }
}
