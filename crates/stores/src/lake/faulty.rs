//! A wrapper that makes any store fail on purpose, by a seeded plan: the same seed and the same
//! calls give the same faults, so a failing simulation can be run again.

use std::collections::VecDeque;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::{LakeError, ObjectMeta, ObjectPath, ObjectStore, PutOutcome};

/// What strikes a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// Fails with nothing done.
    Before,
    /// The call takes effect, then its answer is lost.
    After,
    /// The disk is full: a write fails with nothing done. Reads are spared.
    Full,
    /// The call works, after the plan's slow hook has run.
    Slow,
    /// A create-only write times out and is still on its way: it takes effect (or finds another object) when the test
    /// lets it, by [`FaultyStore::land`]. Any other call fails with nothing done.
    InFlight,
}

/// Which calls a plan strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// `put_new`.
    PutNew,
    /// `put` and `put_file`.
    Put,
    /// `get`, `get_range`, `open`, `size`.
    Read,
    /// `list`.
    List,
    /// `delete`.
    Delete,
}

impl Operation {
    fn writes(self) -> bool {
        matches!(self, Self::PutNew | Self::Put | Self::Delete)
    }

    fn name(self) -> &'static str {
        match self {
            Self::PutNew => "create",
            Self::Put => "write",
            Self::Read => "read",
            Self::List => "list",
            Self::Delete => "delete",
        }
    }
}

/// When faults strike: first the scripted ones, each at the next call of its operation, then
/// random ones at the given rates (in thousandths of the calls).
#[derive(Debug, Clone, Default)]
pub struct FaultPlan {
    /// Seed of the random faults.
    pub seed: u64,
    /// Rate of [`Fault::Before`], in thousandths.
    pub before_per_mille: u64,
    /// Rate of [`Fault::After`], in thousandths.
    pub after_per_mille: u64,
    /// Rate of [`Fault::Full`] among writes, in thousandths.
    pub full_per_mille: u64,
    /// Rate of [`Fault::Slow`], in thousandths.
    pub slow_per_mille: u64,
    /// Rate of [`Fault::InFlight`], in thousandths.
    pub in_flight_per_mille: u64,
    /// Faults for the next calls of an operation, in order.
    pub scripted: VecDeque<(Operation, Fault)>,
}

/// Called on a [`Fault::Slow`]: a simulation advances its clock here, a test waits on a barrier.
type SlowHook = Arc<dyn Fn(Operation) + Send + Sync>;

/// A store that fails by plan.
pub struct FaultyStore<S> {
    inner: S,
    slow: Option<SlowHook>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    plan: FaultPlan,
    call_count: u64,
    struck: Vec<(Operation, Fault)>,
    in_flight: VecDeque<(ObjectPath, Vec<u8>)>,
}

impl<S: std::fmt::Debug> std::fmt::Debug for FaultyStore<S> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("FaultyStore").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<S> FaultyStore<S> {
    /// Wraps `inner`.
    pub fn new(inner: S, plan: FaultPlan) -> Self {
        let state = Mutex::new(State { plan, ..State::default() });
        Self { inner, slow: None, state }
    }

    /// Sets what a slow call does before it goes on.
    #[must_use]
    pub fn with_slow_hook(mut self, hook: impl Fn(Operation) + Send + Sync + 'static) -> Self {
        self.slow = Some(Arc::new(hook));
        self
    }

    /// The wrapped store, without faults.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// Replaces the plan: `FaultPlan::default()` makes the store healthy.
    pub fn set_plan(&self, plan: FaultPlan) {
        self.state().plan = plan;
    }

    /// Every fault that has struck, in order.
    pub fn struck(&self) -> Vec<(Operation, Fault)> {
        self.state().struck.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_fault(&self, operation: Operation) -> Option<Fault> {
        let mut state = self.state();
        state.call_count += 1;
        let scripted = state.plan.scripted.iter().position(|(planned, _)| *planned == operation);
        let fault = match scripted {
            Some(position) => state.plan.scripted.remove(position).map(|(_, fault)| fault),
            None => random_fault(&state.plan, state.call_count, operation),
        };
        if let Some(fault) = fault {
            state.struck.push((operation, fault));
        }
        fault
    }

    fn strike<T>(
        &self,
        operation: Operation,
        place: &str,
        call: impl FnOnce(&S) -> Result<T, LakeError>,
    ) -> Result<T, LakeError> {
        let injected = |fault| Err(LakeError::Injected { fault, action: operation.name(), path: place.to_owned() });
        match self.next_fault(operation) {
            None => call(&self.inner),
            Some(Fault::Slow) => {
                if let Some(slow) = &self.slow {
                    slow(operation);
                }
                call(&self.inner)
            }
            Some(Fault::After) => {
                call(&self.inner)?;
                injected(Fault::After)
            }
            Some(fault) => injected(fault),
        }
    }
}

fn random_fault(plan: &FaultPlan, call_count: u64, operation: Operation) -> Option<Fault> {
    let roll = mix(plan.seed ^ call_count.wrapping_mul(0x9E37_79B9_7F4A_7C15)) % 1000;
    let full = if operation.writes() { plan.full_per_mille } else { 0 };
    let rates = [
        (Fault::Before, plan.before_per_mille),
        (Fault::After, plan.after_per_mille),
        (Fault::Full, full),
        (Fault::Slow, plan.slow_per_mille),
        (Fault::InFlight, plan.in_flight_per_mille),
    ];
    let mut limit = 0;
    rates.into_iter().find_map(|(fault, rate)| {
        limit += rate;
        (roll < limit).then_some(fault)
    })
}

/// SplitMix64's finaliser: a bijection whose output bits all depend on all input bits.
fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

impl<S: ObjectStore> FaultyStore<S> {
    /// Lets the oldest write that is still on its way arrive. What it found, with its path; `None` if there is none.
    pub fn land(&self) -> Option<(ObjectPath, Result<PutOutcome, LakeError>)> {
        let (path, bytes) = self.state().in_flight.pop_front()?;
        let outcome = self.inner.put_new(&path, &bytes);
        Some((path, outcome))
    }
}

impl<S: ObjectStore> ObjectStore for FaultyStore<S> {
    fn put_new(&self, path: &ObjectPath, bytes: &[u8]) -> Result<PutOutcome, LakeError> {
        let answer = self.strike(Operation::PutNew, path.as_str(), |inner| inner.put_new(path, bytes));
        if let Err(LakeError::Injected { fault: Fault::InFlight, .. }) = answer {
            self.state().in_flight.push_back((path.clone(), bytes.to_vec()));
        }
        answer
    }

    fn put(&self, path: &ObjectPath, bytes: &[u8]) -> Result<(), LakeError> {
        self.strike(Operation::Put, path.as_str(), |inner| inner.put(path, bytes))
    }

    fn put_file(&self, path: &ObjectPath, source: &Path) -> Result<u64, LakeError> {
        self.strike(Operation::Put, path.as_str(), |inner| inner.put_file(path, source))
    }

    fn get(&self, path: &ObjectPath) -> Result<Bytes, LakeError> {
        self.strike(Operation::Read, path.as_str(), |inner| inner.get(path))
    }

    fn get_range(&self, path: &ObjectPath, start: u64, len: u64) -> Result<Bytes, LakeError> {
        self.strike(Operation::Read, path.as_str(), |inner| inner.get_range(path, start, len))
    }

    fn open(&self, path: &ObjectPath) -> Result<Box<dyn Read + Send>, LakeError> {
        self.strike(Operation::Read, path.as_str(), |inner| inner.open(path))
    }

    fn size(&self, path: &ObjectPath) -> Result<u64, LakeError> {
        self.strike(Operation::Read, path.as_str(), |inner| inner.size(path))
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, LakeError> {
        self.strike(Operation::List, prefix, |inner| inner.list(prefix))
    }

    fn folders(&self, prefix: &str) -> Result<Vec<String>, LakeError> {
        self.strike(Operation::List, prefix, |inner| inner.folders(prefix))
    }

    fn list_named(&self, prefix: &str, start: &str) -> Result<Vec<ObjectMeta>, LakeError> {
        self.strike(Operation::List, prefix, |inner| inner.list_named(prefix, start))
    }

    fn delete(&self, path: &ObjectPath) -> Result<(), LakeError> {
        self.strike(Operation::Delete, path.as_str(), |inner| inner.delete(path))
    }

    fn local_path(&self, path: &ObjectPath) -> Option<PathBuf> {
        self.inner.local_path(path)
    }
}
