//! What every adapter of the ports must pass. The suites put real data through an adapter and panic at the first broken
//! promise; they want a store of their own, empty at the start.

use std::collections::HashMap;

use anabranch_events::{Alias, Entry, EventKey, EventTypes, History, HistoryKey, ItemKey, codec};
use anabranch_stores::state::commit::Held;

use super::{NOW_MS, types};
use crate::ports::{Checkpoint, Commit, Page, Position, Record, ShardId, ShardReader, StateStore};

/// Empty pages in a row after which a suite gives up.
const EMPTY_PAGES_MAX: usize = 1000;

/// One shard of an adapter under test.
pub trait ShardFixture {
    /// Puts one record of the stream, of one user record or (an aggregate) of several. Answers `false`, and puts
    /// nothing, if records of this kind do not exist here.
    fn put(&mut self, partition_key: &str, parts: &[&[u8]]) -> bool;
    /// Closes the shard as a split does. Answers `false` if shards are never closed here.
    fn close(&mut self) -> bool;
    /// A new consumer, as after a restart.
    fn reader(&mut self) -> Box<dyn ShardReader>;
}

/// What [`ShardReader`] promises: order, AFTER semantics, places inside aggregates, limits, and which page is the last.
pub fn shard_reader_conformance(fixture: &mut dyn ShardFixture) {
    let page = fixture.reader().read_after(Position::START, 10, 1 << 20).unwrap();
    assert!(page.records.is_empty() && !page.is_end_of_shard, "an empty shard is not at its end");

    let mut expected: Vec<(String, Vec<u8>, Option<u64>)> = Vec::new();
    let mut put = |fixture: &mut dyn ShardFixture, key: &str, parts: &[&[u8]]| {
        if fixture.put(key, parts) {
            for (sub, part) in (0..).zip(parts) {
                expected.push((key.to_owned(), part.to_vec(), (parts.len() > 1).then_some(sub)));
            }
        }
        expected.clone()
    };
    put(fixture, "a", &[b"1"]);
    put(fixture, "b", &[b"2"]);
    put(fixture, "c", &[b"3.0", b"3.1", b"3.2", b"3.3"]);
    put(fixture, "a", &[b"4"]);
    put(fixture, "c", &[b"5.0", b"5.1"]);
    let expected = put(fixture, "\u{fc}", &[b"\x00\xff"]);

    let mut first: Option<Vec<Record>> = None;
    for records_max in [1, 2, 3, 100] {
        let found = read(&mut *fixture.reader(), Position::START, records_max, expected.len());
        let seen: Vec<_> =
            found.iter().map(|r| (r.partition_key.clone(), r.data.clone().unwrap_or_default(), r.sub)).collect();
        assert_eq!(seen, expected, "in the order in which they were put, {records_max} at a time");
        assert_eq!(*first.get_or_insert_with(|| found.clone()), found, "the same however it is read");
    }
    let records = first.unwrap_or_default();
    check_places(&records);

    let mut same = fixture.reader();
    for (index, record) in records.iter().enumerate() {
        let rest = &records[index + 1..];
        let found = read(&mut *fixture.reader(), record.position, 2, rest.len());
        assert_eq!(found, rest, "a new reader resumes AFTER {}", record.position);
        let found = read(&mut *same, record.position, 100, rest.len());
        assert_eq!(found, rest, "a reader goes back to {}", record.position);
        let page = next(&mut *same, record.position, 100, 0, !rest.is_empty());
        assert!(page.records.len() <= 1, "no byte is allowed beyond the first record");
    }

    let last = records.last().map(|record| record.position).unwrap_or_default();
    let page = same.read_after(last, 10, 1 << 20).unwrap();
    assert!(page.records.is_empty() && !page.is_end_of_shard, "the newest record is not the end of the shard");
    put_more(fixture, &mut *same, last);
}

/// A reader that waits at the newest record sees what comes, and the end only with or after the last record.
fn put_more(fixture: &mut dyn ShardFixture, waiting: &mut dyn ShardReader, last: Position) {
    for data in [b"6", b"7", b"8"] {
        assert!(fixture.put("d", &[data]));
    }
    let records = read(waiting, last, 1, 3);
    assert_eq!(
        records.iter().map(|r| r.data.as_deref()).collect::<Vec<_>>(),
        [Some(&b"6"[..]), Some(b"7"), Some(b"8")]
    );
    if !fixture.close() {
        return;
    }
    for from in [last, records[1].position, records[2].position] {
        let (mut reader, mut at, mut count, mut pages) = (fixture.reader(), from, 0, 0);
        let wanted = records.iter().filter(|record| record.position > from).count();
        loop {
            let page = reader.read_after(at, 2, 1 << 20).unwrap();
            count += page.records.len();
            at = reached(at, &page);
            if page.is_end_of_shard {
                break;
            }
            pages += 1;
            assert!(pages < EMPTY_PAGES_MAX, "a closed shard comes to its end");
        }
        assert_eq!(count, wanted, "the end comes after the last record, from {from}");
        let again = next(&mut *reader, at, 2, 1 << 20, false);
        assert!(again.records.is_empty());
    }
}

/// Ascending places; the parts of an aggregate before its end, which the last part is.
fn check_places(records: &[Record]) {
    for pair in records.windows(2) {
        let (left, right) = (&pair[0], &pair[1]);
        assert!(left.position < right.position, "{} before {}", left.position, right.position);
        let is_same = left.position.number == right.position.number;
        assert_eq!(is_same, left.position.sub.is_some(), "only the last part stands at the record's end");
        if is_same {
            assert_eq!((left.position.sub, right.sub), (left.sub, left.sub.map(|sub| sub + 1)));
        }
    }
    assert_eq!(records.last().and_then(|last| last.position.sub), None);
}

fn reached(at: Position, page: &Page) -> Position {
    page.records.last().map(|record| record.position).max(page.through).unwrap_or(at).max(at)
}

/// One page, after as many empty ones as come where something is expected.
fn next(reader: &mut dyn ShardReader, at: Position, records_max: usize, bytes_max: usize, is_more: bool) -> Page {
    for _ in 0..EMPTY_PAGES_MAX {
        let page = reader.read_after(at, records_max, bytes_max).unwrap();
        if !page.records.is_empty() || !is_more {
            return page;
        }
    }
    panic!("no record comes after {at}");
}

fn read(reader: &mut dyn ShardReader, after: Position, records_max: usize, count: usize) -> Vec<Record> {
    let (mut at, mut records) = (after, Vec::new());
    while records.len() < count {
        let page = next(reader, at, records_max, 1 << 20, true);
        assert!(page.records.len() <= records_max);
        at = reached(at, &page);
        records.extend(page.records);
    }
    records
}

fn user(name: &str) -> HistoryKey {
    HistoryKey::User(name.into())
}

/// A history of some events; equal numbers are equal events.
fn history(events: &[u64], types: &EventTypes) -> History {
    let entry = |event: &u64| Entry {
        time_ms: NOW_MS + *event as i64,
        event: EventKey(*event),
        item: ItemKey::of(&format!("i{event}")),
        value: None,
        kind: types.code("view").unwrap(),
    };
    History::from_entries(events.iter().map(entry).collect(), types)
}

struct Suite<'a> {
    store: &'a dyn StateStore,
    types: EventTypes,
}

impl Suite<'_> {
    fn commit(&self, shard: u64, checkpoint: Checkpoint, histories: &[(&HistoryKey, &Held)]) {
        let histories: HashMap<_, _> = histories.iter().map(|(key, held)| ((*key).clone(), (*held).clone())).collect();
        let commit =
            Commit { shard: ShardId(shard), checkpoint, histories: &histories, types: &self.types, notices: &[] };
        self.store.commit(commit).unwrap();
    }

    fn read(&self, key: &HistoryKey) -> Option<Held> {
        self.store.histories(std::slice::from_ref(key), &self.types).unwrap().pop().unwrap()
    }

    fn bytes(&self, key: &HistoryKey) -> Option<Vec<u8>> {
        self.read(key).map(|held| codec::encode(&held.history, &self.types))
    }

    fn expect(&self, key: &HistoryKey, events: &[u64], why: &str) {
        let expected = codec::encode(&history(events, &self.types), &self.types);
        assert_eq!(self.bytes(key), Some(expected), "{why}");
    }

    fn checkpoint(&self, shard: u64) -> Checkpoint {
        self.store.checkpoint(ShardId(shard)).unwrap()
    }
}

fn after(text: &str) -> Checkpoint {
    Checkpoint::After(text.parse().unwrap())
}

fn end(text: &str) -> Checkpoint {
    Checkpoint::ShardEnd(text.parse().unwrap())
}

/// What [`StateStore`] promises: a commit joins and never overwrites, a checkpoint never moves back, doing either twice
/// is doing it once.
pub fn state_store_conformance(store: &dyn StateStore) {
    let suite = Suite { store, types: types() };
    assert!(suite.read(&user("nobody")).is_none());
    assert_eq!(suite.checkpoint(0), Checkpoint::After(Position::START));
    checkpoints(&suite);
    joins(&suite);
    keys(&suite);
    many(&suite);
    at_once(&suite);
}

fn checkpoints(suite: &Suite<'_>) {
    let kinesis = "49590338271490256608559692538361571095921575989136588898";
    let within = format!("{kinesis}.3");
    suite.commit(10, after(&within), &[]);
    assert_eq!(suite.checkpoint(10), after(&within));
    for (commit, expected) in [
        (after("7"), after(&within)),
        (after(&format!("{kinesis}.2")), after(&within)),
        (after(&format!("{kinesis}.10")), after(&format!("{kinesis}.10"))),
        (after(kinesis), after(kinesis)),
        (after(&within), after(kinesis)),
        (end(kinesis), end(kinesis)),
        (after(kinesis), end(kinesis)),
        (after("7"), end(kinesis)),
        (end(kinesis), end(kinesis)),
    ] {
        suite.commit(10, commit, &[]);
        assert_eq!(suite.checkpoint(10), expected, "after {commit:?}");
    }
    assert_eq!(suite.checkpoint(11), Checkpoint::After(Position::START), "shards do not mix");
    suite.commit(11, end("0"), &[]);
    assert_eq!(suite.checkpoint(11), end("0"), "a shard may end before it began");
}

fn joins(suite: &Suite<'_>) {
    let (key, types) = (user("joins"), &suite.types);
    let new = |events: &[u64]| Held { history: history(events, types), base: None };
    suite.commit(1, after("5"), &[(&key, &new(&[1]))]);
    suite.expect(&key, &[1], "what was written is read");
    let read = suite.read(&key).unwrap();
    let grown = |event: u64| {
        let mut held = read.clone();
        held.history.join(&history(&[event], types), types);
        held
    };
    suite.commit(1, after("6"), &[(&key, &grown(2))]);
    suite.expect(&key, &[1, 2], "a history grows");
    suite.commit(2, after("7"), &[(&key, &grown(3))]);
    suite.expect(&key, &[1, 2, 3], "what somebody else wrote since the read is joined");
    suite.commit(2, after("8"), &[(&key, &new(&[4]))]);
    suite.expect(&key, &[1, 2, 3, 4], "also by one who saw nothing there");
    let before = suite.bytes(&key);
    suite.commit(2, after("8"), &[(&key, &new(&[4]))]);
    suite.commit(1, after("6"), &[(&key, &grown(2))]);
    assert_eq!(suite.bytes(&key), before, "committing again changes nothing");
    suite.commit(2, after("3"), &[(&key, &new(&[5]))]);
    suite.expect(&key, &[1, 2, 3, 4, 5], "a late commit's histories count though its checkpoint does not");
    assert_eq!((suite.checkpoint(1), suite.checkpoint(2)), (after("6"), after("8")));
}

fn keys(suite: &Suite<'_>) {
    let types = &suite.types;
    let name = "x \u{1f600}/#|\"";
    let (owner, session) = (user(name), HistoryKey::Session(name.into()));
    let mut own = history(&[1], types);
    own.note_session(name, NOW_MS, types);
    let mut theirs = history(&[2], types);
    theirs.note_alias(Alias { time_ms: NOW_MS, event: EventKey(7), user: name.into() });
    let held = |history: &History| Held { history: history.clone(), base: None };
    suite.commit(3, after("1"), &[(&owner, &held(&own)), (&session, &held(&theirs))]);
    let read = suite.store.histories(&[session, user("nobody"), owner], types).unwrap();
    let bytes = |history: &History| codec::encode(history, types);
    let read: Vec<_> = read.iter().map(|held| held.as_ref().map(|held| bytes(&held.history))).collect();
    assert_eq!(read, [Some(bytes(&theirs)), None, Some(bytes(&own))], "in the order of the keys; u/x is not s/x");
}

/// More than one call of the service takes.
fn many(suite: &Suite<'_>) {
    let all: Vec<(HistoryKey, Held)> = (0..257)
        .map(|i| (user(&format!("many-{i}")), Held { history: history(&[i], &suite.types), base: None }))
        .collect();
    let histories: Vec<_> = all.iter().map(|(key, held)| (key, held)).collect();
    suite.commit(4, after("9"), &histories);
    let keys: Vec<HistoryKey> = all.iter().map(|(key, _)| key.clone()).rev().collect();
    let read = suite.store.histories(&keys, &suite.types).unwrap();
    assert_eq!(read.len(), keys.len());
    for (event, held) in (0..257).rev().zip(read) {
        let expected = codec::encode(&history(&[event], &suite.types), &suite.types);
        assert_eq!(held.map(|held| codec::encode(&held.history, &suite.types)), Some(expected));
    }
}

/// Several shards write one history at the same time: nothing is lost.
fn at_once(suite: &Suite<'_>) {
    let key = user("at-once");
    std::thread::scope(|scope| {
        for shard in 0..4_u64 {
            let key = &key;
            scope.spawn(move || {
                for turn in 0..5 {
                    let mut held = suite.read(key).unwrap_or_default();
                    held.history.join(&history(&[shard * 5 + turn], &suite.types), &suite.types);
                    suite.commit(20 + shard, after(&(turn + 1).to_string()), &[(key, &held)]);
                }
            });
        }
    });
    suite.expect(&key, &(0..20).collect::<Vec<_>>(), "every event of every writer");
}
