//! The histories that a shard has in memory: changed and not committed yet, and those that a batch only looks at.
//!
//! Reading is separate from joining. [`read_ahead`] brings everything that a batch can touch or look at, in at most
//! three calls of the store whatever the batch's size; the join that follows cannot fail. A read that fails has changed
//! nothing, so the same batch is simply brought again. The lock is never held while the store is asked.
//!
//! Not here: a cache of committed histories. What a batch only looks at is forgotten with the batch, what it changed
//! with the commit.

use std::collections::{HashMap, HashSet};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use anabranch_events::{EventTypes, History, HistoryKey};
use anabranch_stores::state::commit::Held;

use crate::ports::{PortError, StateStore};

/// What one shard holds in memory. Locked for reading by those who serve it, for writing by its worker.
#[derive(Debug, Default)]
pub struct Histories {
    /// Changed since the last commit.
    uncommitted: HashMap<HistoryKey, Held>,
    /// Looked at by the current batch; `None` where nothing is stored.
    beside: HashMap<HistoryKey, Option<History>>,
}

impl Histories {
    /// What a commit writes.
    pub const fn uncommitted(&self) -> &HashMap<HistoryKey, Held> {
        &self.uncommitted
    }

    /// Forgets everything: it is committed, or another worker was first.
    pub fn clear(&mut self) {
        self.uncommitted.clear();
        self.beside.clear();
    }

    /// The history of `key`, to be changed. The batch that touches it was read ahead.
    pub(crate) fn get_mut(&mut self, key: &HistoryKey) -> &mut History {
        &mut self.uncommitted.get_mut(key).expect("a batch is joined only after everything it touches was read").history
    }

    /// The history of `key`, to be looked at.
    pub(crate) fn get(&self, key: &HistoryKey) -> Option<&History> {
        match self.uncommitted.get(key) {
            Some(held) => Some(&held.history),
            None => self.beside.get(key).and_then(Option::as_ref),
        }
    }

    /// Erases what an uncommitted history holds up to `floor_ms`.
    pub(crate) fn erase(&mut self, key: &HistoryKey, floor_ms: i64) {
        if let Some(held) = self.uncommitted.get_mut(key) {
            held.history.erase(floor_ms);
        }
    }

    fn is_known(&self, key: &HistoryKey) -> bool {
        self.uncommitted.contains_key(key) || self.beside.contains_key(key)
    }
}

/// Brings the histories that a batch changes (`touched`) and, for the owners whose lists it makes (`asked`), those that
/// are joined into them: a user's sessions, a session's owner and that owner's sessions. `asked` are among `touched` or
/// were touched before.
pub fn read_ahead<'k>(
    store: &dyn StateStore,
    types: &EventTypes,
    held: &RwLock<Histories>,
    touched: impl Iterator<Item = &'k HistoryKey>,
    asked: impl Iterator<Item = &'k HistoryKey> + Clone,
) -> Result<(), PortError> {
    // What somebody else committed since the last batch is looked at anew.
    write(held).beside.clear();
    let missing: Vec<HistoryKey> = {
        let (held, mut met) = (read(held), HashSet::new());
        touched.filter(|key| !held.uncommitted.contains_key(*key) && met.insert(*key)).cloned().collect()
    };
    let mut fetched = Histories::default();
    fetched.uncommitted.extend(fetch(store, types, missing)?.map(|(key, found)| (key, found.unwrap_or_default())));

    let mut wanted = Wanted::default();
    // Owners, then the users that sessions turned out to belong to. It ends there: a user's sessions are not followed.
    let mut users = follow(&read(held), &fetched, asked, &mut wanted);
    for _ in 0..2 {
        let found = fetch(store, types, std::mem::take(&mut wanted.keys))?;
        fetched.beside.extend(found.map(|(key, found)| (key, found.map(|held| held.history))));
        let of_users = std::mem::take(&mut users);
        follow(&read(held), &fetched, of_users.iter(), &mut wanted);
    }

    let mut held = write(held);
    held.uncommitted.extend(fetched.uncommitted);
    held.beside = fetched.beside;
    Ok(())
}

/// Wants what the histories of `keys` point to. Returns the users among it, whose sessions count too.
fn follow<'k>(
    held: &Histories,
    fetched: &Histories,
    keys: impl Iterator<Item = &'k HistoryKey>,
    wanted: &mut Wanted,
) -> Vec<HistoryKey> {
    let mut users = Vec::new();
    let mut want = |key: &HistoryKey| {
        if !held.is_known(key) && !fetched.is_known(key) {
            wanted.add(key);
        }
    };
    for key in keys {
        let Some(history) = held.get(key).or_else(|| fetched.get(key)) else { continue };
        match (key, history.alias()) {
            (HistoryKey::User(_), _) => {
                history.sessions().for_each(|(session, _)| want(&HistoryKey::Session(session.into())));
            }
            (HistoryKey::Session(_), Some(alias)) => {
                let user = HistoryKey::User(alias.user.clone());
                want(&user);
                users.push(user);
            }
            (HistoryKey::Session(_), None) => {}
        }
    }
    users
}

/// Keys to be read, each once, in the order in which they were met: equal batches make equal calls.
#[derive(Default)]
struct Wanted {
    keys: Vec<HistoryKey>,
    met: HashSet<HistoryKey>,
}

impl Wanted {
    fn add(&mut self, key: &HistoryKey) {
        if self.met.insert(key.clone()) {
            self.keys.push(key.clone());
        }
    }
}

/// One call of the store, or none.
fn fetch(
    store: &dyn StateStore,
    types: &EventTypes,
    keys: Vec<HistoryKey>,
) -> Result<impl Iterator<Item = (HistoryKey, Option<Held>)> + use<>, PortError> {
    let found = if keys.is_empty() { Vec::new() } else { store.histories(&keys, types)? };
    debug_assert_eq!(keys.len(), found.len(), "a store answers for every key");
    Ok(keys.into_iter().zip(found))
}

pub(crate) fn read(held: &RwLock<Histories>) -> RwLockReadGuard<'_, Histories> {
    held.read().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn write(held: &RwLock<Histories>) -> RwLockWriteGuard<'_, Histories> {
    held.write().unwrap_or_else(PoisonError::into_inner)
}
