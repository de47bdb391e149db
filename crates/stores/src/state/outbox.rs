//! The outbox: what is to be sent because of an event, committed in one batch with the history that the event changed.
//!
//! | key | value |
//! |---|---|
//! | `d`, due time, id | an entry that waits |
//! | `i`, id | `p` and its due time while it waits; `f` and the time until which that is remembered once it is finished |
//! | `x`, that time, id | nothing: finished ids in the order in which they are forgotten |
//! | `s`, owner | newest time of what was sent to them |
//!
//! Times are 8 bytes that sort as the times do, ids 16. Guaranteed: an id that waits or was finished is not taken again,
//! so whoever commits a cut a second time doubles nothing; the newest sent time only rises; nothing of an owner whose
//! floor covers its event gets in. Not here: what an entry says, and when it is worth sending (`stream`).

use anabranch_events::HistoryKey;
use fjall::{OwnedWriteBatch, PersistMode};

use super::{State, StateError};

const DUE: u8 = b'd';
const ID: u8 = b'i';
const FORGET: u8 = b'x';
const SENT: u8 = b's';
const PENDING: u8 = b'p';
const FINISHED: u8 = b'f';
/// Version of an entry's bytes.
const VERSION: u8 = 1;
/// Finished ids forgotten in one batch.
const FORGOTTEN_AT_ONCE: usize = 10_000;

/// An entry of the outbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The same for the same entry, always.
    pub id: u128,
    /// When it is to be looked at, milliseconds since 1970.
    pub due_ms: i64,
    /// Whose event caused it.
    pub owner: HistoryKey,
    /// That event's time: a floor at or above it erases the entry.
    pub time_ms: i64,
    /// What it says.
    pub body: Vec<u8>,
}

/// A place in the order of the outbox: due time, then id.
pub type Place = (i64, u128);

impl State {
    /// Puts new entries into a cut's batch. The caller holds the lock of commits.
    pub(super) fn stage(&self, batch: &mut OwnedWriteBatch, entries: &[Entry]) -> Result<(), StateError> {
        for entry in entries {
            let is_erased = self.floor(&entry.owner).is_some_and(|floor| entry.time_ms <= floor);
            if is_erased || self.outbox.contains_key(id_key(entry.id))? {
                continue;
            }
            batch.insert(&self.outbox, due_key((entry.due_ms, entry.id)), encode(entry));
            batch.insert(&self.outbox, id_key(entry.id), marked(PENDING, entry.due_ms));
        }
        Ok(())
    }

    /// Up to `count_max` entries that are due at `now_ms`, in order, after `after`.
    pub fn outbox_due(&self, now_ms: i64, after: Option<Place>, count_max: usize) -> Result<Vec<Entry>, StateError> {
        let from = after.map_or_else(|| vec![DUE], |place| [&due_key(place)[..], &[0]].concat());
        let to = due_key((now_ms, u128::MAX));
        if from >= to {
            return Ok(Vec::new());
        }
        self.outbox
            .range(from..=to)
            .take(count_max)
            .map(|guard| {
                let (key, value) = guard.into_inner()?;
                decode(&key, &value)
            })
            .collect()
    }

    /// When the first entry after `now_ms` is due.
    pub fn outbox_next_due(&self, now_ms: i64) -> Result<Option<i64>, StateError> {
        let from = [&due_key((now_ms, u128::MAX))[..], &[0]].concat();
        let Some(guard) = self.outbox.range(from..vec![DUE + 1]).next() else { return Ok(None) };
        Ok(Some(place(&guard.key()?)?.0))
    }

    /// Replaces what a waiting entry says. One that is finished stays finished.
    pub fn outbox_rewrite(&self, entry: &Entry) -> Result<(), StateError> {
        let _one_at_a_time = self.lock_commits();
        let key = due_key((entry.due_ms, entry.id));
        if self.outbox.contains_key(&key)? {
            let mut batch = self.db.batch();
            batch.insert(&self.outbox, key, encode(entry));
            batch.commit()?;
        }
        Ok(())
    }

    /// Takes an entry out. Its id is remembered until `kept_until_ms`; `sent` raises its receiver's newest sent time.
    pub fn outbox_finish(
        &self,
        place: Place,
        kept_until_ms: i64,
        sent: Option<(&HistoryKey, i64)>,
    ) -> Result<(), StateError> {
        let _one_at_a_time = self.lock_commits();
        let mut batch = self.db.batch().durability(Some(PersistMode::SyncData));
        let (due, id) = (due_key(place), id_key(place.1));
        if self.outbox.contains_key(&due)? {
            batch.remove(&self.outbox, due);
            batch.insert(&self.outbox, id, marked(FINISHED, kept_until_ms));
            batch.insert(&self.outbox, forget_key(kept_until_ms, place.1), &[][..]);
        }
        if let Some((receiver, time_ms)) = sent
            && self.floor(receiver).is_none_or(|floor| time_ms > floor)
        {
            let newest = self.outbox_newest_sent(receiver)?.map_or(time_ms, |held| held.max(time_ms));
            batch.insert(&self.outbox, sent_key(receiver), ordered(newest));
        }
        batch.commit()?;
        Ok(())
    }

    /// The newest time of what was sent to `receiver`.
    pub fn outbox_newest_sent(&self, receiver: &HistoryKey) -> Result<Option<i64>, StateError> {
        self.outbox.get(sent_key(receiver))?.map(|bytes| time(&bytes)).transpose()
    }

    /// Forgets finished ids whose time is over. Returns how many.
    pub fn outbox_trim(&self, now_ms: i64) -> Result<u64, StateError> {
        let mut trimmed = 0;
        loop {
            let mut batch = self.db.batch();
            let mut count = 0;
            for guard in self.outbox.range(vec![FORGET]..forget_key(now_ms, 0)).take(FORGOTTEN_AT_ONCE) {
                let key = guard.key()?;
                let id = key.get(9..).and_then(|id| id.try_into().ok()).map(u128::from_be_bytes);
                batch.remove(&self.outbox, id_key(id.ok_or_else(corrupt)?));
                batch.remove(&self.outbox, key.to_vec());
                count += 1;
            }
            batch.commit()?;
            trimmed += count as u64;
            if count < FORGOTTEN_AT_ONCE {
                return Ok(trimmed);
            }
        }
    }

    /// Entries that wait. Counts them one by one.
    pub fn outbox_len(&self) -> Result<u64, StateError> {
        self.outbox.prefix([DUE]).try_fold(0, |count, guard| {
            guard.key()?;
            Ok(count + 1)
        })
    }

    /// Removes what waits for `owners` up to `floor_ms`, and when something was sent to them. The caller holds the lock
    /// of commits and has recorded the floor.
    pub(super) fn stage_forgetting(
        &self,
        batch: &mut OwnedWriteBatch,
        owners: &std::collections::BTreeSet<HistoryKey>,
        floor_ms: i64,
    ) -> Result<u64, StateError> {
        let mut gone = 0;
        for guard in self.outbox.prefix([DUE]) {
            let (key, value) = guard.into_inner()?;
            let entry = decode(&key, &value)?;
            if owners.contains(&entry.owner) && entry.time_ms <= floor_ms {
                batch.remove(&self.outbox, key.to_vec());
                batch.remove(&self.outbox, id_key(entry.id));
                gone += 1;
            }
        }
        for owner in owners {
            batch.remove(&self.outbox, sent_key(owner));
        }
        Ok(gone)
    }
}

/// Eight bytes that sort as times do, before and after 1970.
fn ordered(time_ms: i64) -> [u8; 8] {
    ((time_ms as u64) ^ (1 << 63)).to_be_bytes()
}

fn time(bytes: &[u8]) -> Result<i64, StateError> {
    let bytes = bytes.try_into().map_err(|_| corrupt())?;
    Ok((u64::from_be_bytes(bytes) ^ (1 << 63)) as i64)
}

pub(crate) fn due_key((due_ms, id): Place) -> Vec<u8> {
    [&[DUE][..], &ordered(due_ms), &id.to_be_bytes()].concat()
}

fn id_key(id: u128) -> Vec<u8> {
    [&[ID][..], &id.to_be_bytes()].concat()
}

fn forget_key(time_ms: i64, id: u128) -> Vec<u8> {
    [&[FORGET][..], &ordered(time_ms), &id.to_be_bytes()].concat()
}

fn sent_key(owner: &HistoryKey) -> Vec<u8> {
    [&[SENT][..], &owner.to_bytes()].concat()
}

fn marked(mark: u8, time_ms: i64) -> Vec<u8> {
    [&[mark][..], &ordered(time_ms)].concat()
}

fn place(key: &[u8]) -> Result<Place, StateError> {
    match (key.get(1..9), key.get(9..).and_then(|id| id.try_into().ok())) {
        (Some(due), Some(id)) => Ok((time(due)?, u128::from_be_bytes(id))),
        _ => Err(corrupt()),
    }
}

pub(crate) fn encode(entry: &Entry) -> Vec<u8> {
    let owner = entry.owner.to_bytes();
    let mut bytes = Vec::with_capacity(11 + owner.len() + entry.body.len());
    bytes.push(VERSION);
    bytes.extend_from_slice(&entry.time_ms.to_le_bytes());
    bytes.extend_from_slice(&(owner.len() as u16).to_le_bytes());
    bytes.extend_from_slice(&owner);
    bytes.extend_from_slice(&entry.body);
    bytes
}

pub(crate) fn decode(key: &[u8], value: &[u8]) -> Result<Entry, StateError> {
    let (due_ms, id) = place(key)?;
    let read = || {
        let (version, rest) = value.split_first()?;
        let (time_ms, rest) = rest.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let (owner, body) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
        (*version == VERSION).then_some(Entry {
            id,
            due_ms,
            owner: HistoryKey::from_bytes(owner)?,
            time_ms: i64::from_le_bytes(*time_ms),
            body: body.to_vec(),
        })
    };
    read().ok_or_else(corrupt)
}

fn corrupt() -> StateError {
    StateError::Corrupt { what: "an entry of the outbox".to_owned() }
}

#[cfg(test)]
mod tests;
