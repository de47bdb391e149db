//! A shard and a state in memory: plain twins of Kinesis and `DynamoDB` that fail when they are told to.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::{Arc, Mutex};

use anabranch_events::{EventTypes, HistoryKey, codec};
use anabranch_stores::ErrorKind;
use anabranch_stores::state::commit::Held;
use anabranch_stores::state::outbox::Place;
use xxhash_rust::xxh3::xxh3_64;

use crate::notify::{Notice, Outbox};
use crate::ports::{
    Checkpoint, Commit, Page, PortError, Position, Record, SequenceNumber, ShardId, ShardReader, StateStore,
};
use crate::shared::lock;

/// When a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Before it did anything.
    Before,
    /// After it took effect: the answer is lost.
    After,
}

/// Which calls fail, counted from the first.
#[derive(Debug, Default)]
pub struct Faults(Mutex<Plan>);

#[derive(Debug, Default)]
struct Plan {
    calls: u64,
    by_call: BTreeMap<u64, (When, ErrorKind)>,
}

impl Faults {
    /// The call after `passing` more ones fails, in a way that may pass.
    pub fn fail_after(&self, passing: u64, when: When) {
        self.fail_as(passing, when, ErrorKind::Retry);
    }

    /// The call after `passing` more ones fails like this.
    pub fn fail_as(&self, passing: u64, when: When, kind: ErrorKind) {
        let mut plan = lock(&self.0);
        let call = plan.calls + passing;
        plan.by_call.insert(call, (when, kind));
    }

    /// How many calls there were.
    pub fn calls(&self) -> u64 {
        lock(&self.0).calls
    }

    /// Nothing fails any more.
    pub fn end(&self) {
        lock(&self.0).by_call.clear();
    }

    fn strike<T>(&self, what: &str, call: impl FnOnce() -> Result<T, PortError>) -> Result<T, PortError> {
        let fault = {
            let mut plan = lock(&self.0);
            let number = plan.calls;
            plan.calls += 1;
            plan.by_call.remove(&number)
        };
        let Some((when, kind)) = fault else { return call() };
        if when == When::After {
            drop(call()?);
        }
        Err(PortError { kind, what: format!("{what} fails {when:?} its effect, as the test asks"), source: None })
    }
}

/// A shard as Kinesis has it: 56-digit numbers, aggregates, an end, expired records, empty pages.
#[derive(Debug, Default)]
pub struct MemoryShard {
    log: Mutex<Log>,
    /// Faults of its readers.
    pub faults: Faults,
}

#[derive(Debug, Default)]
struct Log {
    entries: Vec<Entry>,
    records: u64,
    reads: u64,
    empty_every: u64,
    is_closed: bool,
}

#[derive(Debug)]
enum Entry {
    Record(Record),
    /// An aggregate that held nothing.
    Nothing(Position),
}

impl Entry {
    const fn position(&self) -> Position {
        match self {
            Self::Record(record) => record.position,
            Self::Nothing(position) => *position,
        }
    }
}

impl MemoryShard {
    /// An empty shard.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Puts one record; several parts make an aggregate, none an empty one.
    pub fn put(&self, arrival_ms: i64, partition_key: &str, parts: &[&[u8]]) {
        let mut log = lock(&self.log);
        log.records += 1;
        let number: SequenceNumber = format!("4959033827149025660855969253836157{:022}", log.records).parse().unwrap();
        let last = parts.len().saturating_sub(1);
        for (index, part) in parts.iter().enumerate() {
            let sub = (last > 0).then_some(index as u64);
            let position = Position { number, sub: sub.filter(|_| index < last) };
            let data = Some(part.to_vec());
            let record = Record { position, sub, arrival_ms, partition_key: partition_key.to_owned(), data };
            log.entries.push(Entry::Record(record));
        }
        if parts.is_empty() {
            log.entries.push(Entry::Nothing(Position::whole(number)));
        }
    }

    /// The shard is split or merged: no record comes any more.
    pub fn close(&self) {
        lock(&self.log).is_closed = true;
    }

    /// Every n-th read is answered with an empty page that is not the newest; 0 for none.
    pub fn empty_every(&self, reads: u64) {
        lock(&self.log).empty_every = reads;
    }

    /// Retention takes everything up to here.
    pub fn expire(&self, through: Position) {
        lock(&self.log).entries.retain(|entry| entry.position() > through);
    }

    /// The place of the newest record.
    pub fn newest(&self) -> Position {
        lock(&self.log).entries.last().map(Entry::position).unwrap_or_default()
    }

    /// A consumer.
    pub fn reader(self: &Arc<Self>) -> Box<dyn ShardReader> {
        Box::new(MemoryReader(Arc::clone(self)))
    }

    fn page(&self, after: Position, records_max: usize, bytes_max: usize) -> Page {
        let mut log = lock(&self.log);
        log.reads += 1;
        if log.reads.is_multiple_of(log.empty_every) {
            return Page { behind_ms: Some(1), ..Page::default() };
        }
        let from = log.entries.partition_point(|entry| entry.position() <= after);
        let mut page = Page::default();
        let mut bytes = 0;
        for entry in &log.entries[from..] {
            if let Entry::Record(record) = entry {
                bytes += record.data.as_ref().map_or(0, Vec::len);
                if page.records.len() >= records_max || (bytes > bytes_max && !page.records.is_empty()) {
                    page.behind_ms = Some(1);
                    return page;
                }
                page.records.push(record.clone());
                if page.records.len() == 1 {
                    bytes = 0; // the limit is on what comes beyond the first
                }
            } else {
                page.through = Some(entry.position());
            }
        }
        page.behind_ms = Some(0);
        page.is_end_of_shard = log.is_closed;
        page
    }
}

#[derive(Debug)]
struct MemoryReader(Arc<MemoryShard>);

impl ShardReader for MemoryReader {
    fn read_after(&mut self, after: Position, records_max: usize, bytes_max: usize) -> Result<Page, PortError> {
        self.0.faults.strike("reading", || Ok(self.0.page(after, records_max, bytes_max)))
    }
}

/// Histories and checkpoints in memory.
#[derive(Debug, Default)]
pub struct MemoryState {
    kept: Mutex<Kept>,
    /// Its faults.
    pub faults: Faults,
}

#[derive(Debug, Default)]
struct Kept {
    histories: HashMap<HistoryKey, Vec<u8>>,
    checkpoints: HashMap<ShardId, Checkpoint>,
    reads: Vec<usize>,
    outbox: BTreeMap<Place, Notice>,
    finished: BTreeSet<u128>,
    sent: HashMap<HistoryKey, i64>,
}

impl MemoryState {
    /// Nothing is known of anybody.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Every history as stored.
    pub fn bytes(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        lock(&self.kept).histories.iter().map(|(key, bytes)| (key.to_bytes(), bytes.clone())).collect()
    }

    /// Notices that wait.
    pub fn waiting(&self) -> usize {
        lock(&self.kept).outbox.len()
    }

    /// How many histories each read asked for.
    pub fn reads(&self) -> Vec<usize> {
        lock(&self.kept).reads.clone()
    }
}

impl StateStore for MemoryState {
    fn histories(&self, keys: &[HistoryKey], types: &EventTypes) -> Result<Vec<Option<Held>>, PortError> {
        self.faults.strike("reading histories", || {
            let mut kept = lock(&self.kept);
            kept.reads.push(keys.len());
            let held =
                |bytes: &Vec<u8>| Held { history: codec::decode(bytes, types).unwrap(), base: Some(xxh3_64(bytes)) };
            Ok(keys.iter().map(|key| kept.histories.get(key).map(held)).collect())
        })
    }

    fn checkpoint(&self, shard: ShardId) -> Result<Checkpoint, PortError> {
        self.faults.strike("reading a checkpoint", || {
            let found = lock(&self.kept).checkpoints.get(&shard).copied();
            Ok(found.unwrap_or(Checkpoint::After(Position::START)))
        })
    }

    fn commit(&self, commit: Commit<'_>) -> Result<(), PortError> {
        self.faults.strike("committing", || {
            let kept = &mut *lock(&self.kept);
            for notice in commit.notices {
                let waits = kept.outbox.keys().any(|(_, id)| *id == notice.id);
                if !waits && !kept.finished.contains(&notice.id) {
                    kept.outbox.insert(notice.place(), notice.clone());
                }
            }
            for (key, held) in commit.histories {
                let stored = kept.histories.get(key);
                let mut history = held.history.clone();
                if let Some(stored) = stored.filter(|stored| held.base != Some(xxh3_64(stored))) {
                    history.join(&codec::decode(stored, commit.types).unwrap(), commit.types);
                }
                kept.histories.insert(key.clone(), codec::encode(&history, commit.types));
            }
            let stored = kept.checkpoints.entry(commit.shard).or_insert(commit.checkpoint);
            *stored = stored.furthest(commit.checkpoint);
            Ok(())
        })
    }
}

impl Outbox for MemoryState {
    fn due(&self, now_ms: i64, after: Option<Place>, count_max: usize) -> Result<Vec<Notice>, PortError> {
        self.faults.strike("reading the outbox", || {
            let from = after.map_or(Bound::Unbounded, Bound::Excluded);
            let kept = lock(&self.kept);
            let due = kept.outbox.range((from, Bound::Unbounded)).take_while(|((due_ms, _), _)| *due_ms <= now_ms);
            Ok(due.take(count_max).map(|(_, notice)| notice.clone()).collect())
        })
    }

    fn next_due(&self, now_ms: i64) -> Result<Option<i64>, PortError> {
        let kept = lock(&self.kept);
        Ok(kept.outbox.keys().map(|(due_ms, _)| *due_ms).find(|due_ms| *due_ms > now_ms))
    }

    fn postpone(&self, notice: &Notice) -> Result<(), PortError> {
        self.faults.strike("postponing a notice", || {
            if let Some(held) = lock(&self.kept).outbox.get_mut(&notice.place()) {
                *held = notice.clone();
            }
            Ok(())
        })
    }

    fn finish(&self, notice: &Notice, _kept_until_ms: i64, sent: Option<(&HistoryKey, i64)>) -> Result<(), PortError> {
        self.faults.strike("finishing a notice", || {
            let kept = &mut *lock(&self.kept);
            kept.outbox.remove(&notice.place());
            kept.finished.insert(notice.id);
            if let Some((receiver, time_ms)) = sent {
                let newest = kept.sent.entry(receiver.clone()).or_insert(time_ms);
                *newest = (*newest).max(time_ms);
            }
            Ok(())
        })
    }

    fn newest_sent(&self, receiver: &HistoryKey) -> Result<Option<i64>, PortError> {
        Ok(lock(&self.kept).sent.get(receiver).copied())
    }

    fn trim(&self, _now_ms: i64) -> Result<(), PortError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, NOW_MS, ShardFixture};

    #[derive(Debug)]
    struct Fixture(Arc<MemoryShard>);

    impl ShardFixture for Fixture {
        fn put(&mut self, partition_key: &str, parts: &[&[u8]]) -> bool {
            self.0.put(NOW_MS, partition_key, parts);
            true
        }

        fn close(&mut self) -> bool {
            self.0.close();
            true
        }

        fn reader(&mut self) -> Box<dyn ShardReader> {
            self.0.reader()
        }
    }

    #[test]
    fn the_shard_keeps_its_promises() {
        testing::shard_reader_conformance(&mut Fixture(MemoryShard::new()));
        let hesitant = MemoryShard::new();
        hesitant.empty_every(2);
        testing::shard_reader_conformance(&mut Fixture(hesitant));
    }

    #[test]
    fn the_state_keeps_its_promises() {
        testing::state_store_conformance(&*MemoryState::new());
        let state = MemoryState::new();
        testing::outbox_conformance(&*state, &*state);
    }
}
