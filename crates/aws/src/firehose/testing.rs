//! A delivery stream in memory, for tests and simulations: its limits, and failures from a seed or a script. No part of
//! the API: hidden from the docs, and it may panic on misuse or change at any time.
#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use anabranch_stores::backoff::Jitter;

use super::pack::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX, RECORD_BYTES_MAX};
use super::sink::{FirehoseApi, RecordOutcome};
use crate::api::{ApiError, ApiErrorKind};

/// What happens to one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hit {
    /// All its records are stored.
    Pass,
    /// These records fail, by their place in the request, with this code; the others are stored.
    Partly(Vec<usize>, &'static str),
    /// It is refused; nothing is stored.
    Refuse(ApiErrorKind),
    /// All its records are stored and the answer is lost.
    Lose,
}

/// How often, in percent, what happens when no script says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// A record fails.
    pub record: u64,
    /// A request is refused.
    pub refuse: u64,
    /// A request's answer is lost.
    pub lose: u64,
}

#[derive(Debug, Default)]
struct World {
    stored: Vec<Vec<u8>>,
    requests: Vec<usize>,
    script: VecDeque<Hit>,
    faults: Faults,
}

/// The delivery stream.
#[derive(Clone, Debug)]
pub struct MemoryFirehose {
    world: Arc<Mutex<World>>,
    chance: Arc<Jitter>,
}

impl MemoryFirehose {
    /// Without faults; `seed` is what later faults come from.
    pub fn new(seed: u64) -> Self {
        Self { world: Arc::default(), chance: Arc::new(Jitter::new(seed)) }
    }

    /// What happens to the next requests, one each, before chance decides again.
    pub fn script(&self, hits: impl IntoIterator<Item = Hit>) {
        self.world.lock().unwrap().script.extend(hits);
    }

    /// From now on things fail this often.
    pub fn set_faults(&self, faults: Faults) {
        self.world.lock().unwrap().faults = faults;
    }

    /// Records in the order in which they were stored.
    pub fn stored(&self) -> Vec<Vec<u8>> {
        self.world.lock().unwrap().stored.clone()
    }

    /// How many records each request had.
    pub fn requests(&self) -> Vec<usize> {
        self.world.lock().unwrap().requests.clone()
    }

    fn hit(&self, world: &mut World, count: usize) -> Hit {
        if let Some(hit) = world.script.pop_front() {
            return hit;
        }
        let Faults { record, refuse, lose } = world.faults;
        match self.chance.below(100) {
            roll if roll < refuse => Hit::Refuse(ApiErrorKind::Throttled),
            roll if roll < refuse + lose => Hit::Lose,
            _ => {
                let fails = |_: &usize| self.chance.below(100) < record;
                Hit::Partly((0..count).filter(fails).collect(), "ServiceUnavailableException")
            }
        }
    }
}

impl FirehoseApi for MemoryFirehose {
    fn put_record_batch(&self, records: &[&[u8]]) -> Result<Vec<RecordOutcome>, ApiError> {
        let mut world = self.world.lock().unwrap();
        let fails = |kind, message: &str| Err(ApiError::new(kind, "PutRecordBatch", "delivery stream memory", message));
        let bytes: usize = records.iter().map(|record| record.len()).sum();
        if records.is_empty() || records.len() > BATCH_RECORDS_MAX || bytes > BATCH_BYTES_MAX {
            return fails(ApiErrorKind::FixInput, "InvalidArgumentException: the request's size");
        }
        if records.iter().any(|record| record.len() > RECORD_BYTES_MAX) {
            return fails(ApiErrorKind::FixInput, "InvalidArgumentException: a record's size");
        }
        world.requests.push(records.len());
        let (failing, code) = match self.hit(&mut world, records.len()) {
            Hit::Pass => (Vec::new(), ""),
            Hit::Partly(failing, code) => (failing, code),
            Hit::Refuse(kind) => return fails(kind, "refused"),
            Hit::Lose => {
                world.stored.extend(records.iter().map(|record| record.to_vec()));
                return fails(ApiErrorKind::Retry, "the connection broke");
            }
        };
        let mut outcomes = Vec::new();
        for (index, record) in records.iter().enumerate() {
            outcomes.push(if failing.contains(&index) {
                RecordOutcome::Failed { code: code.to_owned(), message: "no".to_owned() }
            } else {
                world.stored.push(record.to_vec());
                RecordOutcome::Stored
            });
        }
        Ok(outcomes)
    }
}
