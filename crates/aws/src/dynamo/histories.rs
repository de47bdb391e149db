//! Histories and checkpoints of a stream in DynamoDB: the port [`StateStore`].
//!
//! **Reads** are `BatchGetItem`s of 100 keys, strongly consistent, one call of this port for a whole batch of records;
//! what the service left unprocessed is asked again after a pause.
//!
//! **Writes** are one conditional put for each user of a cut, never for each event, and none where nothing changed. The
//! condition is the version that was read; if somebody else wrote, the answer brings what stands there, both are
//! joined, and the put is made again until it holds. The join makes every order of writers, every repeat and every
//! write whose answer was lost end in the same bytes. A write that meets more writers than its patience lasts says
//! *retry*, and may be repeated as a whole.
//!
//! **The checkpoint** comes last, by a conditional put that only moves forward: after a crash between the two, the
//! events are joined again and change nothing.
//!
//! **Time to live**: an item vanishes `ttl_s` after its last change. That is longer than the stream keeps events, so an
//! event can never be read twice and its history not know it.
//!
//! Not here: what costs what ([`size`]), erasing ([`erasures`](super::erasures)).

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use anabranch_events::erasure::ErasureKey;
use anabranch_events::{EventTypes, History, HistoryKey, codec};
use anabranch_stores::ErrorKind;
use anabranch_stores::backoff::Patience;
use anabranch_stores::state::commit::Held;
use anabranch_stream::Clock;
use anabranch_stream::notify::Notice;
use anabranch_stream::ports::{Checkpoint, Commit, PortError, Position, ShardId, StateStore};

use super::api::{DynamoApi, DynamoError, GET_KEYS_MAX, Item, Put, Table, Value};
use super::item::{self, Base, StoredHistory};
use super::outbox::Walk;
use super::size;
use crate::api::{ApiError, ApiErrorKind};

/// Puts that are in memory at once: at a kilobyte each a megabyte, at the largest item 200.
pub(super) const PUTS_MAX: usize = 512;
/// Longest namespace in bytes; with a shard's name it stays far below the longest key.
const NAMESPACE_BYTES_MAX: usize = 1024;
/// Conflicts are joined and put again at once this often before a pause: one of two writers has won by then.
const CONFLICTS_AT_ONCE: u32 = 2;

/// Where a stream's state is, and how long it lasts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateSettings {
    /// The table's name or ARN.
    pub table: String,
    /// The stream's name and creation time, or a backfill's run id: histories are shared, checkpoints are not.
    pub namespace: String,
    /// How long the stream keeps events, in seconds (Kinesis: 24 hours to 365 days).
    pub retention_s: u32,
    /// How long a history outlives its last change, in seconds; longer than the retention.
    pub ttl_s: u32,
}

/// What [`DynamoState::new`] is made of.
#[derive(Debug)]
pub struct StateParts {
    /// DynamoDB.
    pub api: Arc<dyn DynamoApi>,
    /// Where, and how long.
    pub settings: StateSettings,
    /// The secret under which forgotten owners are named.
    pub erasure_key: ErasureKey,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// How long a call tries.
    pub patience: Patience,
}

/// A stream's histories, floors and checkpoints in one table.
#[derive(Debug)]
pub struct DynamoState {
    pub(super) api: Arc<dyn DynamoApi>,
    pub(super) table: Table,
    pub(super) settings: StateSettings,
    pub(super) erasure_key: ErasureKey,
    clock: Arc<dyn Clock>,
    pub(super) patience: Patience,
    /// Where notices wait.
    pub(super) outbox: Option<Table>,
    /// The walk over the outbox.
    pub(super) walk: Mutex<Walk>,
}

/// What writing did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Histories put.
    pub written: u64,
    /// Histories that stood there already.
    pub unchanged: u64,
    /// Times that somebody else had written first.
    pub conflicts: u64,
}

/// A history on its way into the table.
#[derive(Debug)]
struct Pending<'a> {
    key: &'a HistoryKey,
    history: Cow<'a, History>,
    /// The history, encoded.
    bytes: Vec<u8>,
    base: Base,
}

impl DynamoState {
    /// Checks the settings: an item that could outgrow DynamoDB's limit, or vanish before its events do, is refused.
    pub fn new(parts: StateParts, types: &EventTypes) -> Result<Self, PortError> {
        let refused = |what: String| PortError { kind: ErrorKind::FixInput, what, source: None };
        let settings = parts.settings;
        size::check(types).map_err(|error| PortError::new(ErrorKind::FixInput, error.to_string(), error))?;
        if settings.ttl_s <= settings.retention_s {
            return Err(refused(format!(
                "histories live {} s after their last change but the stream keeps events for {} s: set a longer time to live, or an event could come twice",
                settings.ttl_s, settings.retention_s
            )));
        }
        if !(1..=NAMESPACE_BYTES_MAX).contains(&settings.namespace.len()) {
            return Err(refused(format!("a namespace has 1 to {NAMESPACE_BYTES_MAX} bytes")));
        }
        let table = Table { name: settings.table.clone(), key: item::KEY };
        let StateParts { api, erasure_key, clock, patience, .. } = parts;
        Ok(Self { api, table, settings, erasure_key, clock, patience, outbox: None, walk: Mutex::default() })
    }

    /// Joins histories that batch made (a warm start). Joining twice changes nothing, so an import that was cut short is
    /// run again. Reads what stands there first, so a forgotten owner's floor holds here too.
    pub fn import(&self, histories: &HashMap<HistoryKey, History>, types: &EventTypes) -> Result<Written, PortError> {
        let keys: Vec<HistoryKey> = histories.keys().cloned().collect();
        let stored = self.histories(&keys, types)?;
        let joined: Vec<(&HistoryKey, Held)> = keys
            .iter()
            .zip(stored)
            .map(|(key, held)| {
                let mut held = held.unwrap_or_default();
                held.history.join(&histories[key], types);
                (key, held)
            })
            .collect();
        self.write(joined.iter().map(|(key, held)| (*key, held)), types)
    }

    /// Joins histories into the stored ones, whatever others write meanwhile. Deterministic: by order of the keys.
    pub(super) fn write<'a>(
        &self,
        histories: impl Iterator<Item = (&'a HistoryKey, &'a Held)>,
        types: &EventTypes,
    ) -> Result<Written, PortError> {
        let mut written = Written::default();
        let mut histories: Vec<(&HistoryKey, &Held)> = histories.collect();
        histories.sort_unstable_by_key(|(key, _)| *key);
        for chunk in histories.chunks(PUTS_MAX) {
            let pending: Vec<_> = chunk.iter().filter_map(|(key, held)| Pending::of(key, held, types)).collect();
            written.unchanged += (chunk.len() - pending.len()) as u64;
            self.put_until_held(pending, types, &mut written)?;
        }
        let Written { written: count, unchanged, conflicts } = written;
        tracing::debug!(written = count, unchanged, conflicts, "histories joined");
        Ok(written)
    }

    /// Writes the floor of a forgotten owner over their history, whether or not there is one.
    pub(super) fn write_floor(&self, key: &HistoryKey, floor_ms: i64, types: &EventTypes) -> Result<(), PortError> {
        let mut history = History::new();
        history.erase(floor_ms);
        let bytes = codec::encode(&history, types);
        let pending = Pending { key, history: Cow::Owned(history), bytes, base: Base::Absent };
        self.put_until_held(vec![pending], types, &mut Written::default())
    }

    /// Puts, joins what others wrote, puts again.
    fn put_until_held(
        &self,
        mut pending: Vec<Pending<'_>>,
        types: &EventTypes,
        written: &mut Written,
    ) -> Result<(), PortError> {
        for attempt in 1.. {
            if pending.is_empty() {
                break;
            }
            let puts = pending.iter().map(|pending| self.put_of(pending)).collect();
            let answers = self.api.put(&self.table, puts);
            let mut trouble = None;
            let mut left = Vec::new();
            let mut unseen = Vec::new();
            for (mut pending, answer) in pending.into_iter().zip(answers) {
                match answer {
                    Ok(()) => written.written += 1,
                    Err(DynamoError::ConditionFailed(stored)) => {
                        written.conflicts += 1;
                        let Some(stored) = stored else {
                            unseen.push(pending);
                            continue;
                        };
                        if pending.rebase(Some(&stored), None, types)? {
                            left.push(pending);
                        } else {
                            written.unchanged += 1;
                        }
                    }
                    Err(error) if error.is_passing() => {
                        trouble = Some(error);
                        left.push(pending);
                    }
                    Err(error) => return Err(error.into_port("writing a history")),
                }
            }
            self.look_up(unseen, types, &mut left, written)?;
            pending = left;
            if pending.is_empty() || (trouble.is_none() && attempt <= CONFLICTS_AT_ONCE) {
                continue;
            }
            if !self.patience.wait_after(attempt) {
                let what = format!("writing {} histories", pending.len());
                return Err(match trouble {
                    Some(error) => error.into_port(&what),
                    None => PortError {
                        kind: ErrorKind::Retry,
                        what: format!("{what}: others keep writing them; try again"),
                        source: None,
                    },
                });
            }
        }
        Ok(())
    }

    /// Conflicts about which the service told nothing: the item went (its time to live), or this service does not tell.
    fn look_up<'a>(
        &self,
        unseen: Vec<Pending<'a>>,
        types: &EventTypes,
        left: &mut Vec<Pending<'a>>,
        written: &mut Written,
    ) -> Result<(), PortError> {
        if unseen.is_empty() {
            return Ok(());
        }
        let keys: Vec<&HistoryKey> = unseen.iter().map(|pending| pending.key).collect();
        let (items, floors) = self.items_and_floors(&keys)?;
        for mut pending in unseen {
            let key = pending.key;
            if pending.rebase(items.get(&key.to_bytes()), floors.get(key).copied(), types)? {
                left.push(pending);
            } else {
                written.unchanged += 1;
            }
        }
        Ok(())
    }

    fn put_of(&self, pending: &Pending<'_>) -> Put {
        // An owner of whom nothing is left but the floor is named no longer than the stream itself could name them.
        let life_s = if pending.history.is_forgotten() { self.tombstone_s() } else { self.settings.ttl_s };
        let ttl_s = self.clock.now_ms().div_euclid(1000).saturating_add(i64::from(life_s));
        let item = item::history_item(pending.key, pending.bytes.clone(), ttl_s);
        Put { item, condition: pending.base.condition() }
    }

    /// The items of `keys`, and the floors of those without one. Whoever was forgotten has the floor in the item as long
    /// as there is one, so only a missing item leaves a question.
    fn items_and_floors<'a>(
        &self,
        keys: &[&'a HistoryKey],
    ) -> Result<(Items, HashMap<&'a HistoryKey, i64>), PortError> {
        let items = self.read(keys.iter().map(|key| item::history_key(key)), "reading histories")?;
        let absent = keys.iter().filter(|key| !items.contains_key(&key.to_bytes()));
        let names: BTreeMap<Value, &HistoryKey> =
            absent.map(|key| (item::floor_key(&self.erasure_key.name(key)), *key)).collect();
        let mut floors = HashMap::new();
        for item in self.read(names.keys().cloned(), "reading erasures")?.values() {
            let floor = item::read_floor(item).map_err(item::ItemError::into_port)?;
            if let Some(&key) = item.get(item::KEY).and_then(|name| names.get(name)) {
                floors.insert(key, floor);
            }
        }
        Ok((items, floors))
    }

    /// The items of `keys` that are there, by key.
    pub(super) fn read(&self, keys: impl Iterator<Item = Value>, what: &str) -> Result<Items, PortError> {
        self.read_in(&self.table, keys, what)
    }

    /// The same from any table.
    pub(super) fn read_in(
        &self,
        table: &Table,
        keys: impl Iterator<Item = Value>,
        what: &str,
    ) -> Result<Items, PortError> {
        let mut found = HashMap::new();
        let mut wanted: Vec<Value> = keys.collect::<BTreeSet<_>>().into_iter().collect();
        let mut attempt = 0;
        while !wanted.is_empty() {
            let chunks: Vec<Vec<Value>> = wanted.chunks(GET_KEYS_MAX).map(<[Value]>::to_vec).collect();
            let mut left = Vec::new();
            let mut trouble = None;
            for (chunk, answer) in chunks.iter().zip(self.api.get(table, &chunks)) {
                match answer {
                    Ok(got) => {
                        for item in got.items {
                            if let Some(key) = item.get(item::KEY).and_then(Value::as_bytes) {
                                found.insert(key.to_vec(), item);
                            }
                        }
                        left.extend(got.unprocessed);
                    }
                    Err(error) if error.is_passing() => {
                        trouble = Some(error);
                        left.extend_from_slice(chunk);
                    }
                    Err(error) => return Err(error.into_port(what)),
                }
            }
            attempt = if left.len() < wanted.len() { 1 } else { attempt + 1 };
            wanted = left;
            if !wanted.is_empty() && !self.patience.wait_after(attempt) {
                let unprocessed = || {
                    let message = format!("{} keys stay unprocessed", wanted.len());
                    ApiError::new(ApiErrorKind::Throttled, "BatchGetItem", table.resource(), message).into()
                };
                return Err(trouble.unwrap_or_else(unprocessed).into_port(what));
            }
        }
        Ok(found)
    }

    /// Puts one item if its condition holds, trying again in passing trouble. Whether it held.
    pub(super) fn put_one(&self, put: &Put, what: &str) -> Result<bool, PortError> {
        self.put_one_in(&self.table, put, what)
    }

    /// The same into any table.
    pub(super) fn put_one_in(&self, table: &Table, put: &Put, what: &str) -> Result<bool, PortError> {
        for attempt in 1.. {
            let Some(answer) = self.api.put(table, vec![put.clone()]).pop() else { break };
            match answer {
                Ok(()) => return Ok(true),
                Err(DynamoError::ConditionFailed(_)) => return Ok(false),
                Err(error) if error.is_passing() && self.patience.wait_after(attempt) => {}
                Err(error) => return Err(error.into_port(what)),
            }
        }
        Err(PortError { kind: ErrorKind::Bug, what: format!("{what}: a put was not answered"), source: None })
    }
}

/// Items by the bytes of their key.
pub(super) type Items = HashMap<Vec<u8>, Item>;

impl<'a> Pending<'a> {
    /// What to write of `held`; `None` if nothing would change. A history that says nothing and was not stored is not
    /// worth an item: an event came too late for it, or only the floor of an erasure is known, which has its own.
    fn of(key: &'a HistoryKey, held: &'a Held, types: &EventTypes) -> Option<Self> {
        if held.base.is_none() && held.history.is_forgotten() {
            return None;
        }
        let bytes = codec::encode(&held.history, types);
        if held.base == Some(item::version(item::FORMAT, &bytes)) {
            return None;
        }
        Some(Self { key, history: Cow::Borrowed(&held.history), bytes, base: Base::of_held(held.base) })
    }

    /// Joins what stands there now. Whether anything is left to write.
    fn rebase(&mut self, stored: Option<&Item>, floor: Option<i64>, types: &EventTypes) -> Result<bool, PortError> {
        let mut found = None;
        if let Some(item) = stored {
            let StoredHistory { history, base, version } =
                item::read_history(self.key, item, types).map_err(item::ItemError::into_port)?;
            self.history.to_mut().join(&history, types);
            self.base = base;
            found = Some(version);
        } else {
            self.base = Base::Absent;
            if let Some(floor) = floor {
                self.history.to_mut().erase(floor);
            }
        }
        self.bytes = codec::encode(&self.history, types);
        Ok(found != Some(item::version(item::FORMAT, &self.bytes)))
    }
}

impl StateStore for DynamoState {
    fn histories(&self, keys: &[HistoryKey], types: &EventTypes) -> Result<Vec<Option<Held>>, PortError> {
        let wanted: Vec<&HistoryKey> = keys.iter().collect();
        let (items, floors) = self.items_and_floors(&wanted)?;
        let held = |key: &HistoryKey| {
            if let Some(item) = items.get(&key.to_bytes()) {
                let stored = item::read_history(key, item, types).map_err(item::ItemError::into_port)?;
                return Ok(Some(Held { history: stored.history, base: Some(stored.version) }));
            }
            Ok(floors.get(key).map(|floor| {
                let mut held = Held::default();
                held.history.erase(*floor);
                held
            }))
        };
        keys.iter().map(held).collect()
    }

    fn checkpoint(&self, shard: ShardId) -> Result<Checkpoint, PortError> {
        let key = item::checkpoint_key(&self.settings.namespace, shard);
        let found = self.read(std::iter::once(key), "reading a checkpoint")?;
        match found.values().next() {
            Some(item) => item::read_checkpoint(shard, item).map_err(item::ItemError::into_port),
            None => Ok(Checkpoint::After(Position::START)),
        }
    }

    fn commit(&self, commit: Commit<'_>) -> Result<(), PortError> {
        self.keep(commit.notices)?;
        self.write(commit.histories.iter(), commit.types)?;
        let (item, condition) = item::checkpoint_item(&self.settings.namespace, commit.shard, commit.checkpoint);
        // A checkpoint that is as far or further stays: another worker, or this very write with its answer lost.
        self.put_one(&Put { item, condition }, "writing a checkpoint")?;
        Ok(())
    }

    fn join(
        &self,
        histories: &HashMap<HistoryKey, Held>,
        notices: &[Notice],
        types: &EventTypes,
    ) -> Result<(), PortError> {
        self.keep(notices)?;
        self.write(histories.iter(), types).map(drop)
    }
}

#[cfg(test)]
mod tests;
