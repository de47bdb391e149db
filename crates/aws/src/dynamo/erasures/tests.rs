#![allow(clippy::unwrap_used)]
use std::collections::HashMap;
use std::sync::Arc;

use anabranch_events::erasure::ErasureKey;
use anabranch_events::{Alias, Entry, EventKey, EventSettings, History, ItemKey, codec};
use anabranch_stores::ErrorKind;
use anabranch_stores::backoff::{Patience, Pause};
use anabranch_stores::state::commit::Held;
use anabranch_stream::Clock;
use anabranch_stream::ports::StateStore;

use super::*;
use crate::dynamo::api::Value;
use crate::dynamo::histories::{StateParts, StateSettings};
use crate::dynamo::testing::{Hit, MemoryDynamo};

const TABLE: &str = "state";
const NOW_MS: i64 = 1_700_000_000_000;
const DAY_S: u32 = 86_400;
const NOTHING: [i64; 0] = [];

#[derive(Debug)]
struct Still;

impl Clock for Still {
    fn now_ms(&self) -> i64 {
        NOW_MS
    }

    fn monotonic_us(&self) -> u64 {
        0
    }
}

impl Pause for Still {
    fn pause(&self, _: u64) {}
}

fn types() -> EventTypes {
    EventSettings::default().compile().unwrap()
}

fn world() -> (Arc<MemoryDynamo>, DynamoState) {
    let api = Arc::new(MemoryDynamo::new(&[TABLE], 1));
    let (table, namespace) = (TABLE.to_owned(), "clicks-1".to_owned());
    let parts = StateParts {
        api: Arc::clone(&api) as _,
        settings: StateSettings { table, namespace, retention_s: DAY_S, ttl_s: 90 * DAY_S },
        erasure_key: ErasureKey::new([7; 32]),
        clock: Arc::new(Still),
        patience: Patience::new(Arc::new(Still), 1),
    };
    (api, DynamoState::new(parts, &types()).unwrap())
}

fn alice() -> HistoryKey {
    HistoryKey::User("alice".into())
}

fn held(state: &DynamoState, key: &HistoryKey) -> Option<Held> {
    state.histories(std::slice::from_ref(key), &types()).unwrap().pop().unwrap()
}

/// What a worker holds after reading `key` and applying an event of time `NOW_MS + time`.
fn grown(state: &DynamoState, key: &HistoryKey, time: i64) -> HashMap<HistoryKey, Held> {
    let mut held = held(state, key).unwrap_or_default();
    let event = EventKey(time as u64);
    let entry = Entry { time_ms: NOW_MS + time, event, item: ItemKey(1), value: None, kind: 0 };
    held.history.apply(entry, &types());
    HashMap::from([(key.clone(), held)])
}

fn write(state: &DynamoState, histories: &HashMap<HistoryKey, Held>) {
    state.write(histories.iter(), &types()).unwrap();
}

fn times(state: &DynamoState, key: &HistoryKey) -> Vec<i64> {
    let held = held(state, key).unwrap_or_default();
    held.history.entries().map(|entry| entry.time_ms - NOW_MS).collect()
}

#[test]
fn a_worker_that_read_before_brings_nothing_back() {
    let (_, state) = world();
    write(&state, &grown(&state, &alice(), 1));
    let old = grown(&state, &alice(), 2);
    let newer = grown(&state, &alice(), 20);
    state.forget(&alice(), NOW_MS + 10, &types()).unwrap();
    write(&state, &old);
    assert_eq!(times(&state, &alice()), NOTHING);
    write(&state, &newer);
    assert_eq!(times(&state, &alice()), [20], "what came after the floor is a new beginning");
}

#[test]
fn a_worker_that_read_before_there_was_an_item_brings_nothing_back() {
    let (_, state) = world();
    let old = grown(&state, &alice(), 2);
    state.forget(&alice(), NOW_MS + 10, &types()).unwrap();
    write(&state, &old);
    assert_eq!(times(&state, &alice()), NOTHING);
}

#[test]
fn the_floor_outlives_the_tombstone_and_holds_for_a_replay_years_later() {
    let (api, state) = world();
    write(&state, &grown(&state, &alice(), 1));
    let old = grown(&state, &alice(), 2);
    state.forget(&alice(), NOW_MS + 10, &types()).unwrap();
    let key = item::history_key(&alice());
    let tombstone = api.items(TABLE)[&key].clone();
    let ttl_s: i64 = tombstone["ttl"].as_number().unwrap();
    assert_eq!(ttl_s, NOW_MS / 1000 + i64::from(2 * DAY_S), "the retention and a day, not the time to live");
    api.expire(TABLE, ttl_s + 1);
    assert!(!api.items(TABLE).contains_key(&key));
    assert!(!format!("{:?}", api.items(TABLE)).contains("alice"));

    assert_eq!(held(&state, &alice()).unwrap().history.floor_ms(), NOW_MS + 10);
    write(&state, &grown(&state, &alice(), 3));
    assert_eq!(times(&state, &alice()), NOTHING);
    // A worker that read when there was an item finds none: its join takes the floor from the erasure's own item.
    write(&state, &old);
    assert_eq!(times(&state, &alice()), NOTHING);
    write(&state, &grown(&state, &alice(), 11));
    assert_eq!(times(&state, &alice()), [11]);
    // The new item carries the floor itself, so it is not looked up for every event of theirs.
    let bytes = api.items(TABLE)[&key]["h"].as_bytes().unwrap().to_vec();
    assert_eq!(codec::decode(&bytes, &types()).unwrap().floor_ms(), NOW_MS + 10);
}

#[test]
fn nothing_in_the_table_names_the_owner_once_all_is_done() {
    let (api, state) = world();
    state.forget(&alice(), NOW_MS, &types()).unwrap();
    api.expire(TABLE, i64::MAX);
    let items = api.items(TABLE);
    assert_eq!(items.len(), 1);
    let (key, item) = items.first_key_value().unwrap();
    assert_eq!(*key, item::floor_key(&ErasureKey::new([7; 32]).name(&alice())));
    assert_eq!(item["floor"], Value::number(NOW_MS));
}

#[test]
fn sessions_known_to_be_theirs_go_too() {
    let (_, state) = world();
    let session = |id: &str| HistoryKey::Session(id.into());
    let mut user = History::new();
    for id in ["s1", "s2"] {
        user.note_session(id, NOW_MS, &types());
    }
    let aliased = |owner: &str| {
        let mut history = grown(&state, &session("new"), 1).remove(&session("new")).unwrap().history;
        history.note_alias(Alias { time_ms: NOW_MS, event: EventKey(1), user: owner.into() });
        Held { history, base: None }
    };
    let histories = HashMap::from([
        (alice(), Held { history: user, base: None }),
        (session("s1"), aliased("alice")),
        (session("s2"), aliased("bob")),
    ]);
    write(&state, &histories);
    let forgotten = state.forget(&alice(), NOW_MS + 10, &types()).unwrap();
    assert_eq!(forgotten.keys, [alice(), session("s1")]);
    assert_eq!(forgotten.names.len(), 2);
    assert_eq!((times(&state, &session("s1")), times(&state, &session("s2"))), (vec![], vec![1]));
}

#[test]
fn an_erasure_that_broke_off_leaves_nothing_worse_and_is_finished_by_the_next() {
    // Broken off after each of its writes: floors of owner and session, tombstones of session and owner.
    for writes in 0..4 {
        let (api, state) = world();
        let session = HistoryKey::Session("s1".into());
        let mut user = grown(&state, &alice(), 1);
        user.get_mut(&alice()).unwrap().history.note_session("s1", NOW_MS + 1, &types());
        write(&state, &user);
        let mut theirs = grown(&state, &session, 1);
        let alias = Alias { time_ms: NOW_MS + 1, event: EventKey(1), user: "alice".into() };
        theirs.get_mut(&session).unwrap().history.note_alias(alias);
        write(&state, &theirs);

        // Two reads; a tombstone is two puts, since there is an item.
        let puts = [0, 1, 2, 4][writes];
        api.script(&[Hit::Pass; 2]);
        api.script(&vec![Hit::Pass; puts]);
        api.script(&[Hit::Before; 8]);
        let error = state.forget(&alice(), NOW_MS + 10, &types()).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Retry, "after {writes} writes");
        let forgotten = state.forget(&alice(), NOW_MS + 10, &types()).unwrap();
        assert_eq!(forgotten.keys.len(), 2, "after {writes} writes the session is still found");
        assert_eq!((times(&state, &alice()), times(&state, &session)), (vec![], vec![]));
    }
}

#[test]
fn floors_only_rise() {
    let (_, state) = world();
    state.forget(&alice(), NOW_MS + 10, &types()).unwrap();
    state.forget(&alice(), NOW_MS + 5, &types()).unwrap();
    assert_eq!(held(&state, &alice()).unwrap().history.floor_ms(), NOW_MS + 10);
}
