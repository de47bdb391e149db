//! Histories and checkpoints. A cut is committed in one synced batch: either its histories, its checkpoint and what it
//! wants sent are all there after a crash, or nothing.

use std::collections::HashMap;

use anabranch_events::{EventTypes, History, HistoryKey, codec};
use fjall::PersistMode;
use xxhash_rust::xxh3::xxh3_64;

use super::{State, StateError, outbox};

/// A history in memory, and which stored bytes it grew from.
#[derive(Clone, Debug, Default)]
pub struct Held {
    /// The history.
    pub history: History,
    /// Hash of the stored bytes at the time of reading; `None` if none were stored.
    pub base: Option<u64>,
}

/// A history that is stored.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Whose.
    pub key: HistoryKey,
    /// The history.
    pub history: History,
}

/// Makes a checkpoint's new bytes of those that are stored.
pub type Advance<'a> = dyn Fn(Option<&[u8]>) -> Result<Vec<u8>, StateError> + 'a;

impl State {
    /// Reads a history, with the floor of its owner's erasure joined in.
    pub fn history(&self, key: &HistoryKey, types: &EventTypes) -> Result<Option<Held>, StateError> {
        let stored = self.histories.get(key.to_bytes())?;
        let floor = self.floor(key);
        let mut held = match stored {
            Some(bytes) => Held { history: decode(key, &bytes, types)?, base: Some(xxh3_64(&bytes)) },
            None if floor.is_some() => Held::default(),
            None => return Ok(None),
        };
        if let Some(floor) = floor {
            held.history.erase(floor);
        }
        Ok(Some(held))
    }

    /// The sequence number up to which the shard's events are in the histories; 0 at the start.
    pub fn checkpoint(&self, shard: u32) -> Result<u64, StateError> {
        match self.checkpoints.get(shard.to_be_bytes())? {
            Some(bytes) => super::read_u64(&bytes),
            None => Ok(0),
        }
    }

    /// The bytes of a shard's checkpoint, for callers that keep more in it than a number of this log (see
    /// [`State::commit_with`]).
    pub fn checkpoint_bytes(&self, shard: u32) -> Result<Option<Vec<u8>>, StateError> {
        Ok(self.checkpoints.get(shard.to_be_bytes())?.map(|bytes| bytes.to_vec()))
    }

    /// Commits a cut of this log: the histories that it touched and how far the shard is, in one synced batch. The
    /// checkpoint never moves back.
    pub fn commit(
        &self,
        shard: u32,
        checkpoint: u64,
        histories: &HashMap<HistoryKey, Held>,
        types: &EventTypes,
    ) -> Result<(), StateError> {
        let advance = |stored: Option<&[u8]>| {
            let stored = stored.map_or(Ok(0), super::read_u64)?;
            Ok(stored.max(checkpoint).to_le_bytes().to_vec())
        };
        self.commit_with(shard, &advance, histories, types, &[])
    }

    /// Commits a cut: the histories that it touched, the shard's new checkpoint and what is to be sent, in one synced
    /// batch. A history that somebody else wrote since it was read (another shard, a session's owner) is joined, never
    /// overwritten.
    pub fn commit_with(
        &self,
        shard: u32,
        advance: &Advance<'_>,
        histories: &HashMap<HistoryKey, Held>,
        types: &EventTypes,
        outbox: &[outbox::Entry],
    ) -> Result<(), StateError> {
        let _one_at_a_time = self.lock_commits();
        let mut batch = self.db.batch().durability(Some(PersistMode::SyncData));
        self.stage(&mut batch, outbox)?;
        for (key, held) in histories {
            let key_bytes = key.to_bytes();
            let floor = self.floor(key);
            let stored = self.histories.get(&key_bytes)?;
            let is_ours = stored.as_ref().map(|bytes| xxh3_64(bytes)) == held.base;
            let bytes = if is_ours && floor.is_none() {
                codec::encode(&held.history, types)
            } else {
                let mut joined = held.history.clone();
                if let Some(bytes) = &stored {
                    joined.join(&decode(key, bytes, types)?, types);
                }
                if let Some(floor) = floor {
                    joined.erase(floor);
                }
                codec::encode(&joined, types)
            };
            batch.insert(&self.histories, key_bytes, bytes);
        }
        let stored = self.checkpoints.get(shard.to_be_bytes())?;
        batch.insert(&self.checkpoints, shard.to_be_bytes(), advance(stored.as_deref())?);
        batch.commit()?;
        Ok(())
    }

    /// Joins histories that batch made (a warm start). Joining twice changes nothing, so an import that a crash cut
    /// short is simply run again. Returns how many were joined.
    pub fn import<E: From<StateError>>(
        &self,
        histories: &mut dyn Iterator<Item = Result<(HistoryKey, Vec<u8>), E>>,
        types: &EventTypes,
    ) -> Result<u64, E> {
        // A thousand histories of 5 KB make a batch of 5 MB.
        const CHUNK: usize = 1000;
        let mut imported = 0;
        loop {
            let _one_at_a_time = self.lock_commits();
            let mut batch = self.db.batch();
            let mut in_chunk = 0;
            for item in (&mut *histories).take(CHUNK) {
                let (key, bytes) = item?;
                in_chunk += 1;
                let key_bytes = key.to_bytes();
                let mut history = decode(&key, &bytes, types)?;
                if let Some(stored) = self.histories.get(&key_bytes).map_err(StateError::from)? {
                    history.join(&decode(&key, &stored, types)?, types);
                }
                if let Some(floor) = self.floor(&key) {
                    history.erase(floor);
                }
                batch.insert(&self.histories, key_bytes, codec::encode(&history, types));
            }
            imported += in_chunk as u64;
            let is_last = in_chunk < CHUNK;
            let mode = if is_last { Some(PersistMode::SyncAll) } else { None };
            batch.durability(mode).commit().map_err(StateError::from)?;
            if is_last {
                self.db.persist(PersistMode::SyncAll).map_err(StateError::from)?;
                return Ok(imported);
            }
        }
    }

    /// Every stored history in order of its key.
    pub fn histories<'a>(&'a self, types: &'a EventTypes) -> impl Iterator<Item = Result<Stored, StateError>> + 'a {
        self.histories.iter().map(move |guard| {
            let (key, bytes) = guard.into_inner()?;
            let key = HistoryKey::from_bytes(&key)
                .ok_or_else(|| StateError::Corrupt { what: "a history's key".to_owned() })?;
            let mut history = decode(&key, &bytes, types)?;
            if let Some(floor) = self.floor(&key) {
                history.erase(floor);
            }
            Ok(Stored { key, history })
        })
    }
}

pub(super) fn decode(key: &HistoryKey, bytes: &[u8], types: &EventTypes) -> Result<History, StateError> {
    codec::decode(bytes, types).map_err(|source| StateError::History { key: key.to_string(), source })
}
