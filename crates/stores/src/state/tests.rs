#![allow(clippy::unwrap_used)]

use std::collections::{BTreeSet, HashMap};

use anabranch_events::event::{Event, Fields, TimeField};
use anabranch_events::{EventSettings, EventTypes, History, HistoryKey, codec};

use super::commit::Held;
use super::log::{NewRecord, Retention, Rewrite, StartAt, hash_key, record_bytes, shard_of};
use super::{Create, State, StateError};

fn create() -> Create {
    Create { name: "clicks".to_owned(), shards: 2, now_ms: 1_700_000_000_000, secret: [7; 32] }
}

fn types() -> EventTypes {
    EventSettings::default().compile().unwrap()
}

fn event(user: &str, item: &str, time_ms: i64, types: &EventTypes) -> Event<'static> {
    let fields = Fields {
        user: Some(user.to_owned().into()),
        item: Some(item.to_owned().into()),
        time: TimeField::Ms(time_ms),
        ..Fields::default()
    };
    Event::from_fields(fields, types, time_ms).unwrap()
}

fn history(user: &str, items: &[(&str, i64)], types: &EventTypes) -> History {
    History::from_entries(items.iter().map(|(item, time)| event(user, item, *time, types).entry()).collect(), types)
}

const T: i64 = 1_700_000_000_000;

#[test]
fn records_come_back_in_order_and_survive_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let state = State::open(folder.path(), create()).unwrap();
    let record = |shard, data: &'static [u8], arrival_ms| NewRecord { shard, partition_key: "k", data, arrival_ms };
    let first =
        state.append(&[record(0, b"a", 1), record(1, b"b", 2), record(0, b"c", 3)], Some(("pos", b"3"))).unwrap();
    assert_eq!(first, [1, 2, 3]);
    drop(state);

    let state = State::open(folder.path(), create()).unwrap();
    assert_eq!(state.note("pos").unwrap().as_deref(), Some(&b"3"[..]));
    assert_eq!(state.append(&[record(0, b"d", 4)], None).unwrap(), [4], "numbers go on after a restart");
    let data = |shard, after| -> Vec<Vec<u8>> {
        state.read_after(shard, after, 100, 1 << 20).unwrap().into_iter().map(|r| r.data.unwrap()).collect()
    };
    assert_eq!(data(0, 0), [b"a", b"c", b"d"]);
    assert_eq!(data(0, 1), [b"c", b"d"]);
    assert_eq!(data(1, 0), [b"b"]);
    assert_eq!(state.read_after(0, 0, 100, 1).unwrap().len(), 1, "the byte limit never stops the first record");
    for (start, after) in [
        (StartAt::TrimHorizon, 0),
        (StartAt::Latest, 4),
        (StartAt::At(3), 2),
        (StartAt::After(3), 3),
        (StartAt::Time(2), 2),
        (StartAt::Time(9), 4),
    ] {
        assert_eq!(state.resolve(0, start).unwrap(), after, "{start:?}");
    }
}

/// The end of each shard's range, as Kinesis splits the key space for two and three shards; MD5 of "a" by RFC 1321.
#[test]
fn shards_are_keyed_as_kinesis_keys_them() {
    assert_eq!(hash_key("a"), 0x0cc1_75b9_c0f1_b6a8_31c3_99e2_6977_2661);
    assert_eq!(shard_of(0, 2), 0);
    assert_eq!(shard_of((1 << 127) - 2, 2), 0);
    assert_eq!(shard_of(1 << 127, 2), 1);
    assert_eq!(shard_of(u128::MAX, 2), 1);
    assert_eq!(shard_of(u128::MAX, 3), 2);
    assert_eq!(shard_of(u128::MAX, 1), 0);
}

#[test]
fn a_second_opening_is_refused_and_other_shards_too() {
    let folder = tempfile::tempdir().unwrap();
    let state = State::open(folder.path(), create()).unwrap();
    assert!(matches!(State::open(folder.path(), create()), Err(StateError::Locked { .. })));
    drop(state);
    let other = Create { shards: 3, ..create() };
    assert!(matches!(State::open(folder.path(), other), Err(StateError::OtherShards { found: 2, wanted: 3, .. })));
    assert!(matches!(State::open(folder.path(), Create { shards: 0, ..create() }), Err(StateError::Setting(_))));
}

#[test]
fn a_newer_format_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let state = State::open(folder.path(), create()).unwrap();
    state.meta.insert(super::META_FORMAT, 9_u32.to_le_bytes()).unwrap();
    drop(state);
    assert!(matches!(State::open(folder.path(), create()), Err(StateError::NewerFormat { found: 9, .. })));
}

#[test]
fn a_commit_joins_what_somebody_else_wrote() {
    let folder = tempfile::tempdir().unwrap();
    let types = types();
    let state = State::open(folder.path(), create()).unwrap();
    let key = HistoryKey::User("u".into());
    let commit = |shard, checkpoint, history: History, base| {
        let histories = HashMap::from([(key.clone(), Held { history, base })]);
        state.commit(shard, checkpoint, &histories, &types).unwrap();
    };
    commit(0, 5, history("u", &[("a", T)], &types), None);
    // Shard 1 did not know of shard 0's commit.
    commit(1, 6, history("u", &[("b", T + 1)], &types), None);
    let held = state.history(&key, &types).unwrap().unwrap();
    assert_eq!(held.history, history("u", &[("a", T), ("b", T + 1)], &types));
    assert_eq!((state.checkpoint(0).unwrap(), state.checkpoint(1).unwrap()), (5, 6));
    // Whoever read the newest bytes overwrites them, without a join.
    let mut grown = held.history.clone();
    grown.apply(event("u", "c", T + 2, &types).entry(), &types);
    commit(0, 7, grown.clone(), held.base);
    commit(0, 3, History::new(), None);
    assert_eq!(state.checkpoint(0).unwrap(), 7, "a checkpoint never moves back");
    assert_eq!(state.history(&key, &types).unwrap().unwrap().history, grown);
}

#[test]
fn importing_twice_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let types = types();
    let state = State::open(folder.path(), create()).unwrap();
    let all: Vec<(HistoryKey, Vec<u8>)> = (0..2500)
        .map(|i| {
            let user = format!("u{i}");
            let bytes = codec::encode(&history(&user, &[("a", T + i), ("b", T)], &types), &types);
            (HistoryKey::User(user.into()), bytes)
        })
        .collect();
    for _ in 0..2 {
        let mut iter = all.iter().cloned().map(Ok::<_, StateError>);
        assert_eq!(state.import(&mut iter, &types).unwrap(), 2500);
    }
    let stored: HashMap<HistoryKey, Vec<u8>> =
        state.histories(&types).map(|s| s.unwrap()).map(|s| (s.key, codec::encode(&s.history, &types))).collect();
    assert_eq!(stored, all.into_iter().collect());
}

#[test]
fn retention_keeps_what_is_not_processed() {
    let folder = tempfile::tempdir().unwrap();
    let types = types();
    let state = State::open(folder.path(), create()).unwrap();
    let records: Vec<NewRecord<'_>> = (0..10)
        .map(|i| NewRecord { shard: i % 2, partition_key: "k", data: &[0; 100], arrival_ms: i64::from(i) })
        .collect();
    state.append(&records, None).unwrap();
    state.commit(0, 5, &HashMap::new(), &types).unwrap();

    let trimmed = state.trim(Retention { oldest_ms: 3, bytes_max: u64::MAX }).unwrap();
    assert_eq!((trimmed.removed, trimmed.is_full), (2, false), "only shard 0's two old and processed records");
    let trimmed = state.trim(Retention { oldest_ms: 0, bytes_max: 100 }).unwrap();
    assert_eq!((trimmed.removed, trimmed.is_full), (1, true), "the unprocessed rest stays and the log is full");
    state.commit(0, 100, &HashMap::new(), &types).unwrap();
    state.commit(1, 100, &HashMap::new(), &types).unwrap();
    assert!(!state.trim(Retention { oldest_ms: 100, bytes_max: u64::MAX }).unwrap().is_full);
    assert_eq!(state.newest(0).unwrap(), 0);
    drop(state);
    let state = State::open(folder.path(), create()).unwrap();
    assert_eq!(state.append(&records[..1], None).unwrap(), [11], "an emptied log does not reuse numbers");
}

#[test]
fn the_bytes_of_the_log_are_counted_through_trims_erasures_and_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let types = types();
    let record =
        |shard: u32, data: &'static [u8], arrival_ms| NewRecord { shard, partition_key: "k", data, arrival_ms };
    let each = record_bytes("k", b"u");
    let state = State::open(folder.path(), create()).unwrap();
    for i in 0..10 {
        state.append(&[record(i % 2, b"u", i.into()), record(i % 2, b"v", i.into())], None).unwrap();
    }
    assert_eq!(state.log_bytes(), 20 * each);
    drop(state);

    let state = State::open(folder.path(), create()).unwrap();
    state.append(&[record(0, b"w", 10)], None).unwrap();
    let nothing = Retention { oldest_ms: i64::MIN, bytes_max: u64::MAX };
    assert_eq!(state.trim(nothing).unwrap().bytes_kept, 21 * each, "the first trim counts what was there before");
    assert_eq!(state.log_bytes(), 21 * each);
    // Every other record is the forgotten user's; of an erased record the head stays.
    state.forget(&HistoryKey::User("u".into()), T, &types, &without).unwrap();
    assert_eq!(state.log_bytes(), 21 * each - 10 * 2);
    // Again and again, each time a little further, as under load.
    for (passed, left) in [(3, 20), (8, 16), (8, 16), (21, 0)] {
        for shard in 0..2 {
            state.commit(shard, passed, &HashMap::new(), &types).unwrap();
        }
        state.trim(Retention { oldest_ms: i64::MAX, bytes_max: 0 }).unwrap();
        let held: usize = (0..2).map(|shard| state.read_after(shard, 0, 100, 1 << 20).unwrap().len()).sum();
        assert!(held <= left, "{held} records are left after {passed}");
        let erased = (0..2).flat_map(|shard| state.read_after(shard, 0, 100, 1 << 20).unwrap());
        let erased = erased.filter(|record| record.data.is_none()).count() as u64;
        assert_eq!(state.log_bytes(), held as u64 * each - erased * 2);
    }
    assert_eq!((state.log_bytes(), state.newest(0).unwrap(), state.newest(1).unwrap()), (0, 0, 0));
    assert_eq!(state.append(&[record(1, b"u", 11)], None).unwrap(), [22]);
    assert_eq!(state.trim(nothing).unwrap().bytes_kept, each);
    assert_eq!(state.read_after(1, 0, 10, 100).unwrap().len(), 1, "what comes after a trim is found");
}

/// Removes whole records whose text names the owner; enough for a test of the plumbing.
fn without(data: &[u8], keys: &BTreeSet<HistoryKey>) -> Rewrite {
    if keys.iter().any(|key| data == key.id().as_bytes()) { Rewrite::Empty } else { Rewrite::Keep }
}

#[test]
fn forgetting_reaches_histories_sessions_and_log_and_outlives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let types = types();
    let state = State::open(folder.path(), create()).unwrap();
    let (user, session, other) =
        (HistoryKey::User("u".into()), HistoryKey::Session("s".into()), HistoryKey::User("v".into()));
    let mut own = history("u", &[("a", T)], &types);
    own.note_session("s", T, &types);
    let mut sessions = history("s", &[("b", T)], &types);
    sessions.note_alias(anabranch_events::Alias { time_ms: T, event: anabranch_events::EventKey(1), user: "u".into() });
    let all =
        [(user.clone(), own.clone()), (session.clone(), sessions), (other.clone(), history("v", &[("c", T)], &types))];
    let held = all.into_iter().map(|(key, history)| (key, Held { history, base: None })).collect();
    state.commit(0, 1, &held, &types).unwrap();
    let record = |data: &'static [u8]| NewRecord { shard: 0, partition_key: "secret-key", data, arrival_ms: 5 };
    state.append(&[record(b"u"), record(b"v"), record(b"s")], None).unwrap();

    let forgotten = state.forget(&user, T + 10, &types, &without).unwrap();
    assert_eq!((forgotten.histories, forgotten.log_records, forgotten.keys.len()), (2, 2, 2));
    let check = |state: &State| {
        let left: Vec<HistoryKey> = state.histories(&types).map(|s| s.unwrap().key).collect();
        assert_eq!(left, std::slice::from_ref(&other));
        let log = state.read_after(0, 0, 10, 1 << 20).unwrap();
        let data: Vec<Option<&[u8]>> = log.iter().map(|r| r.data.as_deref()).collect();
        assert_eq!(data, [None, Some(&b"v"[..]), None]);
        assert_eq!(log[0].partition_key, "");
        // A replay of the old past joins nothing; the future does.
        let mut again = state.history(&user, &types).unwrap().unwrap().history;
        assert_eq!(again.apply(event("u", "a", T, &types).entry(), &types), anabranch_events::Outcome::Late);
        assert_eq!(again.apply(event("u", "a", T + 11, &types).entry(), &types), anabranch_events::Outcome::Applied);
    };
    check(&state);
    // An import of old histories brings nothing back either.
    let bytes = codec::encode(&own, &types);
    state.import(&mut std::iter::once(Ok::<_, StateError>((user.clone(), bytes))), &types).unwrap();
    assert!(state.history(&user, &types).unwrap().unwrap().history.is_empty());
    state.forget(&user, T + 10, &types, &without).unwrap();
    drop(state);
    check(&State::open(folder.path(), create()).unwrap());
}

#[test]
fn a_backup_restores_everything_and_damage_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let types = types();
    let state = State::open(&folder.path().join("a"), create()).unwrap();
    let record = NewRecord { shard: 0, partition_key: "k", data: b"x", arrival_ms: 5 };
    state.append(&[record; 3], None).unwrap();
    let key = HistoryKey::User("u".into());
    let held = Held { history: history("u", &[("a", T)], &types), base: None };
    state.commit(0, 2, &HashMap::from([(key.clone(), held.clone())]), &types).unwrap();
    let mut bytes = Vec::new();
    state.backup(&mut bytes).unwrap();

    let path = folder.path().join("b");
    for at in (0..bytes.len()).step_by(7) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1;
        assert!(State::restore(&path, &|| Ok(&flipped[..])).is_err(), "flip at {at}");
        assert!(State::restore(&path, &|| Ok(&bytes[..at])).is_err(), "cut at {at}");
        assert!(!State::exists(&path));
    }
    State::restore(&path, &|| Ok(&bytes[..])).unwrap();
    assert!(State::restore(&path, &|| Ok(&bytes[..])).is_err(), "never over an existing state");
    let restored = State::open(&path, create()).unwrap();
    assert!(restored.is_restored() && !state.is_restored());
    assert_eq!(restored.identity(), state.identity());
    assert_eq!(restored.history(&key, &types).unwrap().unwrap().history, held.history);
    assert_eq!(restored.checkpoint(0).unwrap(), 2);
    assert_eq!(restored.read_after(0, 0, 9, 99).unwrap(), state.read_after(0, 0, 9, 99).unwrap());
    restored.finish_restore(40).unwrap();
    assert_eq!(restored.append(&[record], None).unwrap(), [41]);
}
