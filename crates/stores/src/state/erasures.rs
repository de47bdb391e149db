//! Erasure in the state: the floor of a forgotten owner, kept under an HMAC name, and the removal of what log,
//! histories and outbox hold of them.

use std::collections::{BTreeSet, HashMap};
use std::sync::PoisonError;

use anabranch_events::erasure::{ErasedName, ErasureKey};
use anabranch_events::{EventTypes, HistoryKey};
use fjall::{Keyspace, PersistMode};

use super::log::Rewrite;
use super::{State, StateError};

/// What forgetting removed from the state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// Names and floors that were recorded, for the erasure table of the lake.
    pub names: Vec<(ErasedName, i64)>,
    /// The owner and the sessions known to be theirs.
    pub keys: Vec<HistoryKey>,
    /// Histories removed.
    pub histories: u64,
    /// Log records emptied or rewritten.
    pub log_records: u64,
    /// Entries of the outbox removed.
    pub notices: u64,
}

pub(super) fn load(erasures: &Keyspace) -> Result<HashMap<ErasedName, i64>, StateError> {
    let mut floors = HashMap::new();
    for guard in erasures.iter() {
        let (name, floor) = guard.into_inner()?;
        let name = name.as_ref().try_into().map(ErasedName::from_bytes);
        let floor = floor.as_ref().try_into().map(i64::from_le_bytes);
        let (Ok(name), Ok(floor)) = (name, floor) else {
            return Err(StateError::Corrupt { what: "an entry of the erasure table".to_owned() });
        };
        floors.insert(name, floor);
    }
    Ok(floors)
}

impl State {
    /// The secret under which forgotten owners are named.
    pub const fn erasure_key(&self) -> &ErasureKey {
        &self.erasure_key
    }

    /// The floor of this history's owner, if they were forgotten.
    pub fn floor(&self, key: &HistoryKey) -> Option<i64> {
        let floors = self.floors.read().unwrap_or_else(PoisonError::into_inner);
        if floors.is_empty() { None } else { floors.get(&self.erasure_key.name(key)).copied() }
    }

    /// The erasure table.
    pub fn floors(&self) -> HashMap<ErasedName, i64> {
        self.floors.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Joins floors into the erasure table (by max).
    pub fn add_floors(&self, floors: &[(ErasedName, i64)]) -> Result<(), StateError> {
        let mut held = self.floors.write().unwrap_or_else(PoisonError::into_inner);
        let mut batch = self.db.batch().durability(Some(PersistMode::SyncAll));
        for (name, floor) in floors {
            let joined = held.get(name).map_or(*floor, |held| (*held).max(*floor));
            batch.insert(&self.erasures, &name.as_bytes()[..], &joined.to_le_bytes()[..]);
        }
        batch.commit()?;
        for (name, floor) in floors {
            let entry = held.entry(*name).or_insert(*floor);
            *entry = (*entry).max(*floor);
        }
        Ok(())
    }

    /// Forgets the owner of `key`, and the sessions known to be theirs, up to `floor_ms`.
    ///
    /// The floor is recorded first, so a crash at any later point leaves nothing that can come back; run it again to
    /// finish the removal. `owners_of` names the histories that a log record's bytes would touch, and `without`
    /// returns the bytes without what belongs to the given owners.
    pub fn forget(
        &self,
        key: &HistoryKey,
        floor_ms: i64,
        types: &EventTypes,
        without: &dyn Fn(&[u8], &BTreeSet<HistoryKey>) -> Rewrite,
    ) -> Result<Forgotten, StateError> {
        let mut keys = BTreeSet::from([key.clone()]);
        if let (HistoryKey::User(user), Some(held)) = (key, self.history(key, types)?) {
            for (session, _) in held.history.sessions() {
                let session = HistoryKey::Session(session.into());
                let theirs = self.history(&session, types)?;
                if theirs.is_some_and(|held| held.history.alias().is_some_and(|alias| alias.user == *user)) {
                    keys.insert(session);
                }
            }
        }
        let names: Vec<(ErasedName, i64)> = keys.iter().map(|key| (self.erasure_key.name(key), floor_ms)).collect();
        self.add_floors(&names)?;

        let mut forgotten = Forgotten { names, ..Forgotten::default() };
        {
            let _one_at_a_time = self.lock_commits();
            let mut batch = self.db.batch().durability(Some(PersistMode::SyncAll));
            for key in &keys {
                let key_bytes = key.to_bytes();
                if let Some(bytes) = self.histories.get(&key_bytes)? {
                    let mut history = super::commit::decode(key, &bytes, types)?;
                    history.erase(floor_ms);
                    if history.is_empty() && history.seen().is_empty() {
                        // The floor lives on in the erasure table, without the owner's name.
                        batch.remove(&self.histories, key_bytes);
                    } else {
                        batch.insert(&self.histories, key_bytes, anabranch_events::codec::encode(&history, types));
                    }
                    forgotten.histories += 1;
                }
            }
            forgotten.notices = self.stage_forgetting(&mut batch, &keys, floor_ms)?;
            batch.commit()?;
        }
        forgotten.log_records = self.rewrite_log(&mut |data| without(data, &keys))?;
        // The old bytes must leave the disk too, not only the view: flushed and compacted here, they are out of the
        // tables; the engine's journal still holds them until it turns over, which cannot be forced from outside.
        for keyspace in [&self.meta, &self.log, &self.histories, &self.checkpoints, &self.erasures, &self.outbox] {
            keyspace.rotate_memtable_and_wait()?;
        }
        for keyspace in [&self.log, &self.histories, &self.outbox] {
            keyspace.major_compact()?;
        }
        forgotten.keys = keys.into_iter().collect();
        Ok(forgotten)
    }
}
