//! The lease table in DynamoDB, with the Kinesis Client Library's attributes (`leaseKey` is the partition key), so that
//! its tools and its operators read it. Attributes that are not ours stay as they are: every write is an update.
//!
//! The lease of the one process that sends notifications lies here too, under a name that no shard can have
//! ([`DISPATCH_LEASE`]), with `leaseOwner` and `leaseCounter` alone.
//!
//! A write whose answer is lost and which is then found done says *lost the race*: a lease may be wrong for a while,
//! and the next round of [`LeaseTaker`](crate::kinesis::lease::LeaseTaker) puts it right.

use std::collections::BTreeSet;
use std::sync::Arc;

use anabranch_stores::ErrorKind;
use anabranch_stores::backoff::Patience;
use anabranch_stream::ports::{PortError, ShardId};

use super::api::{Condition, DynamoApi, DynamoError, Got, Item, Table, Update, Value};
use crate::kinesis::dispatch_lease::{DISPATCH_LEASE, DispatchLease, DispatchLeaseTable};
use crate::kinesis::lease::{Lease, LeaseCheckpoint, LeaseTable};

pub(super) const KEY: &str = "leaseKey";
const OWNER: &str = "leaseOwner";
const COUNTER: &str = "leaseCounter";
const CHECKPOINT: &str = "checkpoint";
const SUB: &str = "checkpointSubSequenceNumber";
const PARENTS: &str = "parentShardId";
const SWITCHES: &str = "ownerSwitchesSinceCheckpoint";
const HASH_KEYS: [&str; 2] = ["startingHashKey", "endingHashKey"];

/// A lease table in DynamoDB.
#[derive(Debug)]
pub struct DynamoLeases {
    api: Arc<dyn DynamoApi>,
    table: Table,
    patience: Patience,
}

impl DynamoLeases {
    /// The leases in the table of this name (partition key `leaseKey`, text).
    pub fn new(api: Arc<dyn DynamoApi>, table: impl Into<String>, patience: Patience) -> Self {
        Self { api, table: Table { name: table.into(), key: KEY }, patience }
    }

    /// Runs a write until it is answered. Whether its condition held.
    fn held(&self, what: &str, write: impl Fn() -> Result<(), DynamoError>) -> Result<bool, PortError> {
        match self.patience.run(DynamoError::is_passing, write) {
            Ok(()) => Ok(true),
            Err(DynamoError::ConditionFailed(_)) => Ok(false),
            Err(error) => Err(error.into_port(what)),
        }
    }

    fn update(&self, lease: &Lease, condition: Condition, what: &str) -> Result<bool, PortError> {
        let update = update_of(lease, condition);
        self.held(what, || self.api.update(&self.table, update.clone()))
    }
}

impl LeaseTable for DynamoLeases {
    fn leases(&self) -> Result<Vec<Lease>, PortError> {
        let mut leases = Vec::new();
        let mut from = None;
        loop {
            let page = self.patience.run(DynamoError::is_passing, || self.api.scan(&self.table, from.clone()));
            let page = page.map_err(|error| error.into_port("reading leases"))?;
            for item in page.items.iter().filter(|item| !is_dispatch(item)) {
                leases.push(lease_of(item)?);
            }
            if page.next.is_none() {
                return Ok(leases);
            }
            from = page.next;
        }
    }

    fn create(&self, lease: &Lease) -> Result<bool, PortError> {
        self.update(lease, Condition::Absent(KEY), "creating a lease")
    }

    fn replace(&self, lease: &Lease, expected_counter: u64) -> Result<bool, PortError> {
        self.update(lease, Condition::Equals(COUNTER, Value::number(expected_counter)), "writing a lease")
    }

    fn remove(&self, key: ShardId, expected_counter: u64) -> Result<bool, PortError> {
        let condition = Condition::Equals(COUNTER, Value::number(expected_counter));
        let key = Value::S(key.to_string());
        self.held("removing a lease", || self.api.delete(&self.table, key.clone(), condition.clone()))
    }
}

impl DispatchLeaseTable for DynamoLeases {
    fn dispatch_lease(&self) -> Result<Option<DispatchLease>, PortError> {
        let mut attempt = 1;
        loop {
            let mut answers = self.api.get(&self.table, &[vec![dispatch_key()]]);
            match answers.pop().unwrap_or_else(|| Ok(Got::default())) {
                Ok(got) if got.unprocessed.is_empty() => return got.items.first().map(dispatch_of).transpose(),
                Ok(_) if self.patience.wait_after(attempt) => attempt += 1,
                Ok(_) => {
                    let what = "reading the lease of notifications: the key stays unprocessed; it is asked again later";
                    return Err(PortError { kind: ErrorKind::Retry, what: what.to_owned(), source: None });
                }
                Err(error) if error.is_passing() && self.patience.wait_after(attempt) => attempt += 1,
                Err(error) => return Err(error.into_port("reading the lease of notifications")),
            }
        }
    }

    fn write_dispatch_lease(&self, lease: &DispatchLease, expected_counter: Option<u64>) -> Result<bool, PortError> {
        let condition = match expected_counter {
            None => Condition::Absent(KEY),
            Some(counter) => Condition::Equals(COUNTER, Value::number(counter)),
        };
        let mut set = vec![(COUNTER, Value::number(lease.counter))];
        let mut remove = Vec::new();
        match &lease.owner {
            Some(owner) => set.push((OWNER, Value::S(owner.clone()))),
            None => remove.push(OWNER),
        }
        let update = Update { key: dispatch_key(), set, remove, condition };
        self.held("writing the lease of notifications", || self.api.update(&self.table, update.clone()))
    }
}

fn dispatch_key() -> Value {
    Value::S(DISPATCH_LEASE.to_owned())
}

fn is_dispatch(item: &Item) -> bool {
    item.get(KEY).and_then(Value::as_text) == Some(DISPATCH_LEASE)
}

fn dispatch_of(item: &Item) -> Result<DispatchLease, PortError> {
    let counter = item.get(COUNTER).and_then(Value::as_number).ok_or_else(|| PortError {
        kind: ErrorKind::Corrupt,
        what: format!("{DISPATCH_LEASE}: attribute {COUNTER} is missing or unsound; remove the item, it is made again"),
        source: None,
    })?;
    Ok(DispatchLease { owner: item.get(OWNER).and_then(Value::as_text).map(str::to_owned), counter })
}

pub(super) fn update_of(lease: &Lease, condition: Condition) -> Update {
    let (checkpoint, sub) = lease.checkpoint.attributes();
    let mut set = vec![
        (COUNTER, Value::number(lease.counter)),
        (CHECKPOINT, Value::S(checkpoint)),
        (SWITCHES, Value::number(lease.owner_switches)),
        (HASH_KEYS[0], Value::S(lease.hash_keys.0.to_string())),
        (HASH_KEYS[1], Value::S(lease.hash_keys.1.to_string())),
    ];
    let mut remove = Vec::new();
    match sub {
        Some(sub) => set.push((SUB, Value::number(sub))),
        None => remove.push(SUB),
    }
    match &lease.owner {
        Some(owner) => set.push((OWNER, Value::S(owner.clone()))),
        None => remove.push(OWNER),
    }
    let parents: BTreeSet<String> = lease.parents.iter().map(ShardId::to_string).collect();
    if parents.is_empty() {
        remove.push(PARENTS);
    } else {
        set.push((PARENTS, Value::Ss(parents)));
    }
    Update { key: Value::S(lease.key.to_string()), set, remove, condition }
}

pub(super) fn lease_of(item: &Item) -> Result<Lease, PortError> {
    let name = item.get(KEY).and_then(Value::as_text).unwrap_or("a lease without key");
    let unsound = |attribute: &str| PortError {
        kind: ErrorKind::Corrupt,
        what: format!("{name}: attribute {attribute} is missing or unsound; remove the item, it is made again"),
        source: None,
    };
    let number = |attribute: &'static str| {
        item.get(attribute)
            .map_or(Ok(None), |value| value.as_number::<u64>().map(Some).ok_or_else(|| unsound(attribute)))
    };
    let hash_key = |attribute: &'static str, absent: u128| {
        item.get(attribute).map_or(Ok(absent), |value| {
            value.as_text().and_then(|text| text.parse().ok()).ok_or_else(|| unsound(attribute))
        })
    };
    let checkpoint = item.get(CHECKPOINT).and_then(Value::as_text).ok_or_else(|| unsound(CHECKPOINT))?;
    let parents = match item.get(PARENTS) {
        None => Vec::new(),
        Some(Value::Ss(parents)) => {
            parents.iter().map(|parent| parent.parse().map_err(|_| unsound(PARENTS))).collect::<Result<_, _>>()?
        }
        Some(_) => return Err(unsound(PARENTS)),
    };
    Ok(Lease {
        key: name.parse().map_err(|_| unsound(KEY))?,
        owner: item.get(OWNER).and_then(Value::as_text).map(str::to_owned),
        counter: number(COUNTER)?.ok_or_else(|| unsound(COUNTER))?,
        checkpoint: LeaseCheckpoint::from_attributes(checkpoint, number(SUB)?).map_err(|_| unsound(CHECKPOINT))?,
        parents,
        owner_switches: number(SWITCHES)?.unwrap_or(0),
        hash_keys: (hash_key(HASH_KEYS[0], 0)?, hash_key(HASH_KEYS[1], u128::MAX)?),
    })
}

#[cfg(test)]
mod tests;
