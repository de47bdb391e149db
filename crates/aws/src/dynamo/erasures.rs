//! Forgetting an owner in the table, so that nothing returns.
//!
//! Three things could bring an owner's past back: a worker that read the history before it was erased, events that
//! Kinesis still holds, a replay of old files. Each is stopped by the *floor*, the time at or below which everything
//! of theirs vanishes in every join:
//!
//! 1. The floor is written first, in an item of its own that never expires and is keyed by an HMAC of the owner, so it
//!    says nothing to whoever lacks the erasure key.
//! 2. Then it is joined into the owner's own item: the past goes, the floor stays. A worker that read before finds
//!    another version (or an item where there was none), its write fails, and the join with the floor drops what it
//!    held. If nothing else is left, that item is a *tombstone*; it names the owner as long as the stream itself may
//!    still hold their records, and a day longer, and then expires.
//! 3. Whoever finds no item reads the floor's item, and writes the floor into the item that they make.
//!
//! So **every history's item carries its owner's floor**, and a floor costs a read only for owners without an item. A
//! crash between the steps leaves a floor; forgetting again finishes it. A table that is restored from a backup is older
//! than its erasures: forget those owners again before a worker starts on it.

use std::collections::BTreeSet;

use anabranch_events::erasure::ErasedName;
use anabranch_events::{EventTypes, HistoryKey};
use anabranch_stores::state::erasures::Forgotten;
use anabranch_stream::ports::{self, PortError};

use super::api::Put;
use super::histories::DynamoState;
use super::item;

/// How much longer than the stream's retention a tombstone lives: reads that began before are over long since.
const TOMBSTONE_MARGIN_S: u32 = 86_400;

impl DynamoState {
    /// Forgets the owner of `key`, and the sessions known to be theirs, up to `floor_ms`.
    ///
    /// The answer's `log_records` is 0: Kinesis rewrites no record; they expire with its retention, under the floor.
    pub fn forget(&self, key: &HistoryKey, floor_ms: i64, types: &EventTypes) -> Result<Forgotten, PortError> {
        let keys = self.keys_of(key, floor_ms, types)?;
        let names: Vec<(ErasedName, i64)> = keys.iter().map(|key| (self.erasure_key.name(key), floor_ms)).collect();
        for (name, floor_ms) in &names {
            let (item, condition) = item::floor_item(name, *floor_ms);
            self.put_one(&Put { item, condition }, "writing an erasure")?;
        }
        // Sessions first: a crash in between leaves the owner's own item, which names the sessions to who comes again.
        for key in keys.iter().rev() {
            self.write_floor(key, floor_ms, types)?;
        }
        let notices = self.forget_notices(&keys, floor_ms)?;
        let histories = keys.len() as u64;
        Ok(Forgotten { names, keys: keys.into_iter().collect(), histories, notices, ..Forgotten::default() })
    }

    /// The owner first, then the sessions that are theirs: the alias says so, or an erasure that broke off got to it.
    fn keys_of(&self, key: &HistoryKey, floor_ms: i64, types: &EventTypes) -> Result<BTreeSet<HistoryKey>, PortError> {
        let mut keys = BTreeSet::from([key.clone()]);
        if let (HistoryKey::User(user), Some(own)) = (key, ports::history(self, key, types)?) {
            let sessions: Vec<HistoryKey> =
                own.sessions().map(|(session, _)| HistoryKey::Session(session.into())).collect();
            let held = ports::StateStore::histories(self, &sessions, types)?;
            keys.extend(sessions.into_iter().zip(held).filter_map(|(session, held)| {
                let history = held?.history;
                let is_theirs = history.alias().is_some_and(|alias| alias.user == *user);
                (is_theirs || history.floor_ms() >= floor_ms).then_some(session)
            }));
        }
        Ok(keys)
    }

    pub(super) const fn tombstone_s(&self) -> u32 {
        self.settings.retention_s.saturating_add(TOMBSTONE_MARGIN_S)
    }
}

#[cfg(test)]
mod tests;
