//! Leases: which worker reads which shard. The fields are those of the Kinesis Client Library, so that its tools and its
//! operators' habits apply.
//!
//! A lease only spreads work. It may be wrong for a while (two workers on one shard, a worker that sleeps through its
//! lease): the chain of create-only objects keeps delivery exactly once whoever reads. So a lease is renewed by
//! changing its counter, expires when somebody has seen the counter stand still for [`LeaseSettings::failover_ms`] on a
//! clock of their own, and needs no clocks that agree. The checkpoint in a lease is a copy for people; the one that
//! counts is the state store's.
//!
//! [`step`] decides, purely; [`LeaseTaker`] reads the table, runs it and writes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use anabranch_stream::Clock;
use anabranch_stream::ports::{Checkpoint, ParseError, PortError, Position, ShardId};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::shards::{ShardState, ShardStatus};

/// A row of the lease table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// `leaseKey`: the shard.
    pub key: ShardId,
    /// `leaseOwner`: the worker that reads it.
    pub owner: Option<String>,
    /// `leaseCounter`: one more with each write.
    pub counter: u64,
    /// `checkpoint` and `checkpointSubSequenceNumber`: how far the shard was committed when this was written.
    pub checkpoint: LeaseCheckpoint,
    /// `parentShardId`: the shards it continues.
    pub parents: Vec<ShardId>,
    /// `ownerSwitchesSinceCheckpoint`.
    pub owner_switches: u64,
    /// `startingHashKey` and `endingHashKey`.
    pub hash_keys: (u128, u128),
}

/// A checkpoint in the KCL's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseCheckpoint {
    /// `TRIM_HORIZON`: nothing is committed.
    TrimHorizon,
    /// A sequence number, with a sub-sequence number inside an aggregate.
    After(Position),
    /// `SHARD_END`: read to its end.
    ShardEnd,
}

impl From<Checkpoint> for LeaseCheckpoint {
    fn from(checkpoint: Checkpoint) -> Self {
        match checkpoint {
            Checkpoint::ShardEnd(_) => Self::ShardEnd,
            Checkpoint::After(Position::START) => Self::TrimHorizon,
            Checkpoint::After(position) => Self::After(position),
        }
    }
}

impl LeaseCheckpoint {
    /// The values of `checkpoint` and `checkpointSubSequenceNumber`; the latter is absent after a whole record.
    pub fn attributes(&self) -> (String, Option<u64>) {
        match self {
            Self::TrimHorizon => ("TRIM_HORIZON".to_owned(), None),
            Self::ShardEnd => ("SHARD_END".to_owned(), None),
            Self::After(position) => (position.number.to_string(), position.sub),
        }
    }

    /// Reads what [`Self::attributes`] gave.
    pub fn from_attributes(checkpoint: &str, sub: Option<u64>) -> Result<Self, ParseError> {
        Ok(match checkpoint {
            "TRIM_HORIZON" => Self::TrimHorizon,
            "SHARD_END" => Self::ShardEnd,
            number => Self::After(Position { number: number.parse()?, sub }),
        })
    }
}

/// Keeps leases. Every write is conditional, so a lost race is an answer (`false`), not an error.
pub trait LeaseTable: Send + Sync + Debug {
    /// All leases.
    fn leases(&self) -> Result<Vec<Lease>, PortError>;

    /// Writes a lease that is not there yet; whether it was not.
    fn create(&self, lease: &Lease) -> Result<bool, PortError>;

    /// Replaces the lease whose counter is still `expected_counter`; whether it was.
    fn replace(&self, lease: &Lease, expected_counter: u64) -> Result<bool, PortError>;

    /// Removes the lease whose counter is still `expected_counter`; whether it was there.
    fn remove(&self, key: ShardId, expected_counter: u64) -> Result<bool, PortError>;
}

/// How leases are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseSettings {
    /// A lease whose counter stands still this long is taken over (KCL's `failoverTimeMillis`). Renew about three
    /// times as often.
    pub failover_ms: u64,
    /// No worker holds more (KCL's `maxLeasesForWorker`).
    pub leases_max: usize,
}

impl Default for LeaseSettings {
    fn default() -> Self {
        Self { failover_ms: 10_000, leases_max: usize::MAX }
    }
}

/// When this worker saw a counter change last, by its own monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sighting {
    counter: u64,
    since_us: u64,
}

/// What this worker has seen of the table so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sightings(BTreeMap<ShardId, Sighting>);

impl Sightings {
    /// Notes what the table holds now.
    pub fn observe(&mut self, table: &[Lease], now_us: u64) {
        let listed: BTreeSet<ShardId> = table.iter().map(|lease| lease.key).collect();
        self.0.retain(|key, _| listed.contains(key));
        for lease in table {
            let fresh = Sighting { counter: lease.counter, since_us: now_us };
            let seen = self.0.entry(lease.key).or_insert(fresh);
            if seen.counter != lease.counter {
                *seen = fresh;
            }
        }
    }

    /// For how many fail-over times the lease is known to have stood still.
    fn still(&self, lease: &Lease, now_us: u64, settings: &LeaseSettings) -> u64 {
        let still_us = self.0.get(&lease.key).map_or(0, |seen| now_us.saturating_sub(seen.since_us));
        still_us / settings.failover_ms.saturating_mul(1000).max(1)
    }

    fn is_expired(&self, lease: &Lease, now_us: u64, settings: &LeaseSettings) -> bool {
        lease.owner.is_none() || self.still(lease, now_us, settings) >= 1
    }
}

/// One conditional write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseAction {
    /// A shard that has no lease yet.
    Create(Lease),
    /// Still ours: the counter moves.
    Renew(Lease),
    /// Ours from now on: nobody had it, its owner stopped renewing, or its owner has more than its share.
    Take(Lease),
    /// Not to be read any more: done, or waiting for a parent.
    Release(Lease),
    /// Its shard is no longer listed.
    Remove {
        /// The shard.
        key: ShardId,
        /// The counter that was seen.
        counter: u64,
    },
}

/// What `own` should write, given what the table holds and when it was seen to change.
///
/// Everybody aims at an equal share: readable shards divided by live workers, rounded up. Free leases are taken first;
/// only when there are none is one stolen, from the worker that has most, and only if that evens them out (it has
/// two more than we have), so a balanced table stays as it is. What nobody takes for two fail-over times, since those whose
/// share it is may hold no more, is taken beyond the share.
pub fn step(
    seen: &Sightings,
    table: &[Lease],
    shards: &[ShardState],
    own: &str,
    now_us: u64,
    settings: &LeaseSettings,
) -> Vec<LeaseAction> {
    let states: BTreeMap<ShardId, &ShardState> = shards.iter().map(|state| (state.id, state)).collect();
    let is_readable =
        |lease: &&Lease| states.get(&lease.key).is_some_and(|state| state.status == ShardStatus::Readable);
    let is_own = |lease: &Lease| lease.owner.as_deref() == Some(own);

    let mut actions: Vec<LeaseAction> = create_missing(table, shards);
    for lease in table {
        match states.get(&lease.key) {
            None => actions.push(LeaseAction::Remove { key: lease.key, counter: lease.counter }),
            Some(state) if is_own(lease) && state.status == ShardStatus::Readable => {
                actions.push(LeaseAction::Renew(next(lease, state, Some(own))));
            }
            Some(state) if is_own(lease) => actions.push(LeaseAction::Release(next(lease, state, None))),
            Some(_) => {}
        }
    }

    let mut free = Vec::new();
    let mut held: BTreeMap<&str, Vec<&Lease>> = BTreeMap::from([(own, Vec::new())]);
    for lease in table.iter().filter(is_readable) {
        match lease.owner.as_deref() {
            Some(owner) if is_own(lease) || !seen.is_expired(lease, now_us, settings) => {
                held.entry(owner).or_default().push(lease);
            }
            _ => free.push(lease),
        }
    }
    let readable_count = shards.iter().filter(|state| state.status == ShardStatus::Readable).count();
    let share = readable_count.div_ceil(held.len()).min(settings.leases_max);
    let own_count = held.get(own).map_or(0, Vec::len);
    // Each worker has an order of its own, so that they seldom race for the same lease.
    free.sort_by_key(|lease| order(own, lease.key));
    let (mut in_share, mut room) = (share.saturating_sub(own_count), settings.leases_max.saturating_sub(own_count));
    free.retain(|lease| {
        let is_taken = in_share > 0 || (room > 0 && seen.still(lease, now_us, settings) >= 2);
        if is_taken {
            (in_share, room) = (in_share.saturating_sub(1), room.saturating_sub(1));
        }
        is_taken
    });
    let mut taken = free;
    if taken.is_empty() && own_count < share {
        let richest = held.values().max_by_key(|leases| leases.len()).map_or(&[][..], Vec::as_slice);
        if richest.len() >= own_count + 2 {
            taken.extend(richest.iter().min_by_key(|lease| order(own, lease.key)).copied());
        }
    }
    actions.extend(taken.into_iter().map(|lease| LeaseAction::Take(next(lease, states[&lease.key], Some(own)))));
    actions
}

fn create_missing(table: &[Lease], shards: &[ShardState]) -> Vec<LeaseAction> {
    let known: BTreeSet<ShardId> = table.iter().map(|lease| lease.key).collect();
    shards
        .iter()
        .filter(|state| state.status != ShardStatus::Drained && !known.contains(&state.id))
        .map(|state| {
            LeaseAction::Create(Lease {
                key: state.id,
                owner: None,
                counter: 0,
                checkpoint: state.checkpoint.into(),
                parents: state.parents.clone(),
                owner_switches: 0,
                hash_keys: state.hash_keys,
            })
        })
        .collect()
}

/// The lease with its counter moved, written by or for `owner`.
fn next(lease: &Lease, state: &ShardState, owner: Option<&str>) -> Lease {
    let checkpoint = LeaseCheckpoint::from(state.checkpoint);
    let switches = if checkpoint == lease.checkpoint { lease.owner_switches } else { 0 };
    let is_switch = owner.is_some() && lease.owner.as_deref() != owner;
    Lease {
        owner: owner.map(str::to_owned),
        counter: lease.counter.wrapping_add(1),
        checkpoint,
        owner_switches: switches.saturating_add(u64::from(is_switch)),
        ..lease.clone()
    }
}

fn order(own: &str, key: ShardId) -> u64 {
    xxh3_64_with_seed(own.as_bytes(), key.0)
}

/// One worker's part in the spreading of leases.
#[derive(Debug)]
pub struct LeaseTaker {
    own: String,
    settings: LeaseSettings,
    seen: Sightings,
}

impl LeaseTaker {
    /// For the worker `own`, a name that no other worker has.
    pub fn new(own: impl Into<String>, settings: LeaseSettings) -> Self {
        Self { own: own.into(), settings, seen: Sightings::default() }
    }

    /// Reads the table, renews, takes, releases; the shards that this worker is to read now. On an error go on with the
    /// shards of before and come back: nothing is unsafe meanwhile.
    pub fn run(
        &mut self,
        table: &dyn LeaseTable,
        shards: &[ShardState],
        clock: &dyn Clock,
    ) -> Result<BTreeSet<ShardId>, PortError> {
        // A read may take long. A counter that moved was seen at its end at the latest, and one that did not stood still until its
        // beginning at least: so a slow read makes nobody look dead.
        let asked_us = clock.monotonic_us();
        let leases = table.leases()?;
        self.seen.observe(&leases, clock.monotonic_us());
        let mut held = BTreeSet::new();
        for action in step(&self.seen, &leases, shards, &self.own, asked_us, &self.settings) {
            match action {
                LeaseAction::Create(lease) => {
                    table.create(&lease)?;
                }
                LeaseAction::Renew(lease) | LeaseAction::Take(lease) => {
                    if table.replace(&lease, lease.counter.wrapping_sub(1))? {
                        held.insert(lease.key);
                    }
                }
                LeaseAction::Release(lease) => {
                    table.replace(&lease, lease.counter.wrapping_sub(1))?;
                }
                LeaseAction::Remove { key, counter } => {
                    table.remove(key, counter)?;
                }
            }
        }
        Ok(held)
    }
}

#[cfg(test)]
mod tests;
