#![allow(clippy::unwrap_used)]
use std::collections::HashMap;
use std::sync::Arc;

use anabranch_events::{Entry, EventKey, EventSettings, EventTypes, History, HistoryKey, ItemKey, codec};
use anabranch_stores::ErrorKind;
use anabranch_stores::backoff::Pause;
use anabranch_stores::state::commit::Held;
use anabranch_stream::ports::{Checkpoint, Commit, Position, SequenceNumber, ShardId, StateStore};
use anabranch_stream::testing::state_store_conformance;
use proptest::prelude::*;

use super::*;
use crate::dynamo::api::{ITEM_BYTES_MAX, Item};
use crate::dynamo::testing::{Faults, Hit, MemoryDynamo};

const TABLE: &str = "state";
const NOW_MS: i64 = 1_700_000_000_000;
const DAY_S: u32 = 86_400;
const SHARD: ShardId = ShardId(7);

#[derive(Debug)]
struct StillClock;

impl Clock for StillClock {
    fn now_ms(&self) -> i64 {
        NOW_MS
    }

    fn monotonic_us(&self) -> u64 {
        0
    }
}

#[derive(Debug)]
struct NoPause;

impl Pause for NoPause {
    fn pause(&self, _: u64) {}
}

fn types() -> EventTypes {
    EventSettings { quota: 4, seen_max: 6, ..EventSettings::default() }.compile().unwrap()
}

fn settings() -> StateSettings {
    let table = TABLE.to_owned();
    StateSettings { table, namespace: "clicks-1".to_owned(), retention_s: DAY_S, ttl_s: 90 * DAY_S }
}

fn open(api: &Arc<MemoryDynamo>, settings: StateSettings, types: &EventTypes) -> Result<DynamoState, PortError> {
    let api: Arc<dyn DynamoApi> = Arc::clone(api) as _;
    let patience = Patience::new(Arc::new(NoPause), 1);
    let erasure_key = ErasureKey::new([7; 32]);
    DynamoState::new(StateParts { api, settings, erasure_key, clock: Arc::new(StillClock), patience }, types)
}

fn world() -> (Arc<MemoryDynamo>, DynamoState) {
    let api = Arc::new(MemoryDynamo::new(&[TABLE], 1));
    let state = open(&api, settings(), &types()).unwrap();
    (api, state)
}

fn user(id: impl std::fmt::Display + Copy) -> HistoryKey {
    HistoryKey::User(id.to_string().into())
}

fn entry(time: i64) -> Entry {
    let kind = types().code(if time % 3 == 0 { "purchase" } else { "view" }).unwrap();
    let key = time as u64;
    Entry { time_ms: NOW_MS + time, event: EventKey(key), item: ItemKey(key % 11), value: None, kind }
}

fn history_of(times: &[i64]) -> History {
    let mut history = History::new();
    for &time in times {
        history.apply(entry(time), &types());
    }
    history
}

fn cut<'a>(histories: &'a HashMap<HistoryKey, Held>, types: &'a EventTypes, number: u64) -> Commit<'a> {
    let checkpoint = Checkpoint::After(Position::whole(SequenceNumber::from(number)));
    Commit { shard: SHARD, checkpoint, histories, types, notices: &[] }
}

/// What every store of the port promises, over a service that fails a tenth of the calls: as if it did not, to whoever has
/// the patience.
#[test]
fn the_state_conforms() {
    for seed in 0..8 {
        let api = Arc::new(MemoryDynamo::new(&[TABLE], seed));
        api.set_faults(Faults { before: 4, after: 4, throttle: 4, unprocessed: 10, ..Faults::default() });
        let types = EventSettings::default().compile().unwrap();
        let mut state = open(&api, settings(), &types).unwrap();
        state.patience.attempts_max = 64;
        state_store_conformance(&state);
    }
}

fn commit(state: &DynamoState, histories: &HashMap<HistoryKey, Held>, number: u64) -> Result<(), PortError> {
    state.commit(cut(histories, &types(), number))
}

fn read(state: &DynamoState, key: &HistoryKey) -> Option<Held> {
    state.histories(std::slice::from_ref(key), &types()).unwrap().pop().unwrap()
}

/// Reads a history, applies events to it, as a worker does.
fn grown(state: &DynamoState, key: &HistoryKey, times: &[i64]) -> HashMap<HistoryKey, Held> {
    let mut held = read(state, key).unwrap_or_default();
    for &time in times {
        held.history.apply(entry(time), &types());
    }
    HashMap::from([(key.clone(), held)])
}

fn stored(api: &MemoryDynamo, key: &HistoryKey) -> Option<Item> {
    api.items(TABLE).remove(&item::history_key(key))
}

fn stored_bytes(api: &MemoryDynamo, key: &HistoryKey) -> Option<Vec<u8>> {
    stored(api, key).map(|item| item["h"].as_bytes().unwrap().to_vec())
}

fn encoded(history: &History) -> Vec<u8> {
    codec::encode(history, &types())
}

#[test]
fn a_cut_is_one_put_a_user_and_a_checkpoint_whatever_the_events() {
    let (api, state) = world();
    let held = |times: &[i64]| Held { history: history_of(times), base: None };
    let cut = HashMap::from([(user("a"), held(&[1, 2, 3, 4])), (user("b"), held(&[5, 6]))]);
    commit(&state, &cut, 10).unwrap();
    assert_eq!(api.usage().puts, 3);
    let found = state.histories(&[user("b"), user("nobody"), user("a"), user("b")], &types()).unwrap();
    let lengths: Vec<Option<usize>> = found.iter().map(|held| held.as_ref().map(|held| held.history.len())).collect();
    assert_eq!(lengths, [Some(2), None, Some(4), Some(2)]);
    assert_eq!(state.checkpoint(SHARD).unwrap(), Checkpoint::After(Position::whole(SequenceNumber::from(10))));
    assert_eq!(state.checkpoint(ShardId(8)).unwrap(), Checkpoint::After(Position::START));
}

#[test]
fn what_did_not_change_is_not_written() {
    let (api, state) = world();
    commit(&state, &grown(&state, &user("a"), &[1, 2]), 1).unwrap();
    let before = api.usage().puts;
    // Duplicates only; and a user of whom nothing is known, whose event came too late.
    let mut cut = grown(&state, &user("a"), &[2, 1]);
    cut.insert(user("b"), Held::default());
    commit(&state, &cut, 2).unwrap();
    assert_eq!(api.usage().puts, before + 1, "the checkpoint alone");
    assert_eq!(stored(&api, &user("b")), None);
}

#[test]
fn reads_are_in_hundreds_and_unprocessed_keys_are_asked_again() {
    let (api, state) = world();
    let keys: Vec<HistoryKey> = (0..250).map(user).collect();
    let cut = keys.iter().map(|key| (key.clone(), Held { history: history_of(&[1]), base: None })).collect();
    commit(&state, &cut, 1).unwrap();
    let before = api.usage();
    assert!(state.histories(&keys, &types()).unwrap().iter().all(Option::is_some));
    assert_eq!(api.usage().gets - before.gets, 3);
    assert_eq!(api.usage().keys - before.keys, 250, "no floor is looked up where an item is");
    assert_eq!(api.usage().read_units - before.read_units, 250);
    api.set_faults(Faults { unprocessed: 50, throttle: 20, before: 10, after: 10, in_flight: 0 });
    assert!(state.histories(&keys, &types()).unwrap().iter().all(Option::is_some));
    api.set_faults(Faults { unprocessed: 100, ..Faults::default() });
    let error = state.histories(&keys, &types()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Retry);
    assert!(error.what.contains("250 keys stay unprocessed"), "{error}");
}

#[test]
fn a_conflict_is_joined_never_overwritten_and_costs_no_read() {
    let (api, state) = world();
    let key = user("a");
    let first = grown(&state, &key, &[1]);
    let second = grown(&state, &key, &[2]);
    commit(&state, &first, 1).unwrap();
    let gets = api.usage().gets;
    let written = state.write(second.iter(), &types()).unwrap();
    assert_eq!(written, Written { written: 1, unchanged: 0, conflicts: 1 });
    assert_eq!(api.usage().gets, gets);
    assert_eq!(stored_bytes(&api, &key), Some(encoded(&history_of(&[1, 2]))));
    // A stand-in of DynamoDB that does not tell what stands there: it is read.
    api.set_silent(true);
    let written = state.write(grown_over(&first, &key, &[3]).iter(), &types()).unwrap();
    assert_eq!(written, Written { written: 1, unchanged: 0, conflicts: 1 });
    assert_eq!(stored_bytes(&api, &key), Some(encoded(&history_of(&[1, 2, 3]))));
}

/// The same reading as `held`, with other events.
fn grown_over(held: &HashMap<HistoryKey, Held>, key: &HistoryKey, times: &[i64]) -> HashMap<HistoryKey, Held> {
    HashMap::from([(key.clone(), Held { history: history_of(times), base: held[key].base })])
}

#[test]
fn a_write_whose_answer_was_lost_is_found_done() {
    let (api, state) = world();
    let cut = grown(&state, &user("a"), &[1]);
    api.script(&[Hit::After]);
    let written = state.write(cut.iter(), &types()).unwrap();
    assert_eq!(written, Written { written: 0, unchanged: 1, conflicts: 1 });
    assert_eq!(stored_bytes(&api, &user("a")), Some(encoded(&history_of(&[1]))));
    // The whole commit repeated, with what was read before: nothing changes.
    commit(&state, &cut, 1).unwrap();
    commit(&state, &cut, 1).unwrap();
    assert_eq!(stored_bytes(&api, &user("a")), Some(encoded(&history_of(&[1]))));
}

#[test]
fn the_checkpoint_comes_after_the_histories() {
    let (api, state) = world();
    let cut = grown(&state, &user("a"), &[1]);
    api.script(&[Hit::Before; 8]);
    let error = commit(&state, &cut, 5).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Retry);
    assert!(error.what.contains("writing 1 histories"), "{error}");
    assert_eq!(state.checkpoint(SHARD).unwrap().position(), Position::START);
    commit(&state, &cut, 5).unwrap();
    assert_eq!(state.checkpoint(SHARD).unwrap().position(), Position::whole(SequenceNumber::from(5)));
}

#[test]
fn a_checkpoint_never_moves_back_and_is_its_namespaces_own() {
    let (api, state) = world();
    let nothing = HashMap::new();
    commit(&state, &nothing, 5).unwrap();
    commit(&state, &nothing, 3).unwrap();
    api.script(&[Hit::After]);
    commit(&state, &nothing, 6).unwrap();
    let at = Position::whole(SequenceNumber::from(6));
    assert_eq!(state.checkpoint(SHARD).unwrap(), Checkpoint::After(at));
    let types = types();
    let end = Commit { checkpoint: Checkpoint::ShardEnd(at), ..cut(&nothing, &types, 6) };
    state.commit(end).unwrap();
    commit(&state, &nothing, 6).unwrap();
    assert_eq!(state.checkpoint(SHARD).unwrap(), Checkpoint::ShardEnd(at));
    let other = StateSettings { namespace: "backfill".to_owned(), ..settings() };
    let other = open(&api, other, &types).unwrap();
    assert_eq!(other.checkpoint(SHARD).unwrap(), Checkpoint::After(Position::START));
}

#[test]
fn writers_that_never_let_go_end_in_retry_and_the_next_try_holds() {
    let (api, state) = world();
    let key = user("a");
    let other = Arc::new(open(&api, settings(), &types()).unwrap());
    for time in 1..=8 {
        let (other, key) = (Arc::clone(&other), key.clone());
        api.intrude(Some(Box::new(move |_: &MemoryDynamo| {
            other.write(grown(&other, &key, &[time]).iter(), &types()).unwrap();
        })));
        // The intruder's own put is left alone.
        api.intrude(None);
    }
    let cut = grown(&state, &key, &[20]);
    let error = commit(&state, &cut, 1).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Retry);
    assert!(error.what.contains("others keep writing"), "{error}");
    commit(&state, &cut, 1).unwrap();
    assert_eq!(stored_bytes(&api, &key), Some(encoded(&history_of(&[1, 2, 3, 4, 5, 6, 7, 8, 20]))));
}

#[test]
fn items_live_longer_than_the_stream_keeps_events() {
    let (api, state) = world();
    commit(&state, &grown(&state, &user("a"), &[1]), 1).unwrap();
    let ttl_s: i64 = stored(&api, &user("a")).unwrap()["ttl"].as_number().unwrap();
    assert_eq!(ttl_s, NOW_MS / 1000 + i64::from(90 * DAY_S));
    for ttl_s in [0, DAY_S] {
        let error = open(&api, StateSettings { ttl_s, ..settings() }, &types()).unwrap_err();
        assert_eq!(error.kind, ErrorKind::FixInput);
        assert!(error.what.contains("longer time to live"), "{error}");
    }
    assert!(open(&api, StateSettings { namespace: String::new(), ..settings() }, &types()).is_err());
}

#[test]
fn quotas_that_could_outgrow_an_item_are_refused_at_the_start() {
    let (api, _) = world();
    let large = EventSettings { quota: 10_000, ..EventSettings::default() }.compile().unwrap();
    let error = open(&api, settings(), &large).unwrap_err();
    assert_eq!(error.kind, ErrorKind::FixInput);
    assert!(error.what.contains("lower quota"), "{error}");
}

/// The largest settings that are let in never meet DynamoDB's limit.
#[test]
fn the_largest_histories_that_are_let_in_fit() {
    let types = EventSettings { quota: 2_500, seen_max: 100, ..EventSettings::default() }.compile().unwrap();
    let api = Arc::new(MemoryDynamo::new(&[TABLE], 1));
    let state = open(&api, settings(), &types).unwrap();
    let entries = (0..12_500_i64).map(|i| {
        let key = (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let time_ms = NOW_MS - i * 40_000_000;
        Entry { time_ms, event: EventKey(key), item: ItemKey(!key), value: Some(0.5), kind: (i % 5) as u8 }
    });
    let history = History::from_entries(entries.collect(), &types);
    assert_eq!(history.len(), 12_500);
    let histories = HashMap::from([(user("u".repeat(256).as_str()), Held { history, base: None })]);
    state.commit(cut(&histories, &types, 1)).unwrap();
    let largest = api.items(TABLE).values().map(size::item_bytes).max().unwrap();
    assert!(largest > ITEM_BYTES_MAX / 2, "{largest}");
}

#[test]
fn an_imported_item_is_read_and_upgraded_by_the_next_write() {
    let (api, state) = world();
    let key = user("a");
    let bytes = encoded(&history_of(&[1]));
    let import = |bytes: &[u8]| {
        Item::from([("k".to_owned(), item::history_key(&key)), ("h".to_owned(), Value::B(bytes.to_vec()))])
    };
    api.place(TABLE, item::history_key(&key), import(&bytes));
    assert_eq!(read(&state, &key).unwrap().history.len(), 1);
    // Even an event that changes nothing brings the item into today's form.
    commit(&state, &grown(&state, &key, &[1]), 1).unwrap();
    let upgraded = stored(&api, &key).unwrap();
    assert_eq!(upgraded, item::history_item(&key, bytes.clone(), NOW_MS / 1000 + i64::from(90 * DAY_S)));
    // The upgrade is conditional too: what another import put meanwhile is joined.
    api.place(TABLE, item::history_key(&key), import(&bytes));
    let cut = grown(&state, &key, &[2]);
    let other = import(&encoded(&history_of(&[3])));
    api.intrude(None);
    api.intrude(Some(Box::new(move |api: &MemoryDynamo| api.place(TABLE, other["k"].clone(), other))));
    commit(&state, &cut, 2).unwrap();
    assert_eq!(stored_bytes(&api, &key), Some(encoded(&history_of(&[1, 2, 3]))));
}

#[test]
fn what_a_newer_program_wrote_is_refused_and_left_alone() {
    let (api, state) = world();
    let key = user("a");
    let cut = grown(&state, &key, &[2]);
    let mut newer = item::history_item(&key, encoded(&history_of(&[1])), 0);
    newer.insert("f".to_owned(), Value::number(item::FORMAT + 1));
    api.place(TABLE, item::history_key(&key), newer.clone());
    assert_eq!(state.histories(std::slice::from_ref(&key), &types()).unwrap_err().kind, ErrorKind::FixInput);
    let error = commit(&state, &cut, 1).unwrap_err();
    assert!(error.what.contains("upgrade the program"), "{error}");
    assert_eq!(stored(&api, &key), Some(newer));
}

#[test]
fn a_table_that_is_not_there_is_said_so() {
    let api = Arc::new(MemoryDynamo::new(&[], 1));
    let state = open(&api, settings(), &types()).unwrap();
    let error = state.checkpoint(SHARD).unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
    assert!(error.what.contains("table state"), "{error}");
}

#[test]
fn a_warm_start_joins_and_may_be_repeated() {
    let (api, state) = world();
    commit(&state, &grown(&state, &user("a"), &[5]), 1).unwrap();
    state.forget(&user("gone"), NOW_MS + 3, &types()).unwrap();
    let batch = HashMap::from([
        (user("a"), history_of(&[1, 2])),
        (user("b"), history_of(&[3])),
        (user("gone"), history_of(&[2])),
    ]);
    let written = state.import(&batch, &types()).unwrap();
    assert_eq!((written.written, written.unchanged), (2, 1));
    assert_eq!(stored_bytes(&api, &user("a")), Some(encoded(&history_of(&[1, 2, 5]))));
    assert!(read(&state, &user("gone")).unwrap().history.is_forgotten());
    assert_eq!(state.import(&batch, &types()).unwrap(), Written { unchanged: 3, ..Written::default() });
}

/// Threads that write the same users at once.
#[test]
fn threads_end_in_the_join_of_everything() {
    let api = Arc::new(MemoryDynamo::new(&[TABLE], 3));
    let types = types();
    std::thread::scope(|scope| {
        for thread in 0..4_i64 {
            let state = open(&api, settings(), &types).unwrap();
            scope.spawn(move || {
                for round in 0..25 {
                    let cut: HashMap<_, _> =
                        (0..3).flat_map(|id| grown(&state, &user(id), &[thread + 4 * round])).collect();
                    while commit(&state, &cut, 1).is_err() {}
                }
            });
        }
    });
    let all: Vec<i64> = (0..100).collect();
    for id in 0..3 {
        assert_eq!(stored_bytes(&api, &user(id)), Some(encoded(&history_of(&all))));
    }
}

#[derive(Clone, Debug)]
enum Action {
    Event { user: u8, time: i64 },
    Commit,
    Forget { user: u8, time: i64 },
}

fn actions() -> impl Strategy<Value = Vec<(usize, Action)>> {
    let action = prop_oneof![
        6 => (0_u8..3, 1_i64..40).prop_map(|(user, time)| Action::Event { user, time }),
        3 => Just(Action::Commit),
        1 => (0_u8..3, 1_i64..20).prop_map(|(user, time)| Action::Forget { user, time }),
    ];
    proptest::collection::vec((0_usize..3, action), 1..60)
}

/// A port's call, repeated as the worker repeats it.
fn insist<T>(mut call: impl FnMut() -> Result<T, PortError>) -> T {
    for _ in 0..1000 {
        match call() {
            Ok(value) => return value,
            Err(error) => assert_eq!(error.kind, ErrorKind::Retry, "{error}"),
        }
    }
    panic!("no progress in a thousand tries");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Three workers and an eraser over one table, any order, requests that fail before and after they took effect,
    /// throttling, unprocessed keys, and writes that slip in between a read and its put: what is stored in the end is
    /// the join of everything, and nothing forgotten returns.
    #[test]
    fn any_interleaving_ends_in_the_join_of_everything(
        actions in actions(),
        intrusions in proptest::collection::vec((proptest::bool::weighted(0.3), 0_u8..3, 40_i64..60), 0..12),
        seed in any::<u64>(),
        is_silent in any::<bool>(),
    ) {
        let types = types();
        let api = Arc::new(MemoryDynamo::new(&[TABLE], seed));
        api.set_silent(is_silent);
        api.set_faults(Faults { before: 10, after: 10, throttle: 10, unprocessed: 20, in_flight: 0 });
        let states: Vec<_> = (0..4).map(|_| Arc::new(open(&api, settings(), &types).unwrap())).collect();
        let mut expected: HashMap<u8, (Vec<i64>, i64)> = HashMap::new();
        for (is_there, id, time) in intrusions {
            let intruder = states[3].clone();
            api.intrude(is_there.then(|| {
                expected.entry(id).or_default().0.push(time);
                Box::new(move |_: &MemoryDynamo| {
                    let cut = insist(|| {
                        let mut held = intruder.histories(&[user(id)], &self::types())?.pop().flatten().unwrap_or_default();
                        held.history.apply(entry(time), &self::types());
                        Ok(HashMap::from([(user(id), held)]))
                    });
                    insist(|| intruder.write(cut.iter(), &self::types()));
                }) as Box<dyn FnOnce(&MemoryDynamo) + Send>
            }));
        }
        let mut dirty: Vec<HashMap<HistoryKey, Held>> = vec![HashMap::new(); 3];
        let commit_all = |writer: usize, dirty: &mut HashMap<HistoryKey, Held>| {
            insist(|| commit(&states[writer], dirty, 1));
            dirty.clear();
        };
        for (writer, action) in actions {
            match action {
                Action::Event { user: id, time } => {
                    let held = dirty[writer].entry(user(id)).or_insert_with(|| {
                        insist(|| states[writer].histories(&[user(id)], &types)).pop().unwrap().unwrap_or_default()
                    });
                    held.history.apply(entry(time), &types);
                    expected.entry(id).or_default().0.push(time);
                }
                Action::Commit => commit_all(writer, &mut dirty[writer]),
                Action::Forget { user: id, time } => {
                    insist(|| states[writer].forget(&user(id), NOW_MS + time, &types));
                    let floor = &mut expected.entry(id).or_default().1;
                    *floor = (*floor).max(time);
                }
            }
        }
        // Intrusions that no put met yet happen now.
        for round in 0..13 {
            insist(|| states[0].put_one(&Put { item: Item::from([("k".to_owned(), Value::S(format!("x{round}")))]), condition: crate::dynamo::api::Condition::Always }, "filling"));
        }
        for (writer, dirty) in dirty.iter_mut().enumerate() {
            commit_all(writer, dirty);
        }
        api.set_faults(Faults::default());
        for (id, (times, floor)) in expected {
            let mut history = history_of(&times);
            if floor > 0 {
                history.erase(NOW_MS + floor);
            }
            let found = read(&states[0], &user(id)).unwrap();
            prop_assert_eq!(encoded(&found.history), encoded(&history), "user {}", id);
        }
    }
}

const OUTBOX: &str = "outbox";

fn world_with_outbox(seed: u64) -> (Arc<MemoryDynamo>, DynamoState) {
    let api = Arc::new(MemoryDynamo::new(&[TABLE, OUTBOX], seed));
    let state = open(&api, settings(), &types()).unwrap().with_outbox(OUTBOX);
    (api, state)
}

#[test]
fn the_outbox_keeps_its_promises_on_bad_days_too() {
    let (_, state) = world_with_outbox(1);
    anabranch_stream::testing::outbox_conformance(&state, &state);
    for seed in 0..5 {
        let (api, state) = world_with_outbox(seed);
        api.set_faults(Faults { before: 4, after: 4, throttle: 4, unprocessed: 4, in_flight: 0 });
        anabranch_stream::testing::outbox_conformance(&state, &state);
    }
}

#[test]
fn a_walk_over_more_than_it_keeps_shows_everything_and_reads_again_only_what_it_did_not_keep() {
    use anabranch_stream::notify::Outbox as _;
    let (api, state) = world_with_outbox(1);
    let (types, nothing) = (types(), HashMap::new());
    let all: Vec<_> =
        (0..4500).map(|i| anabranch_stream::testing::notice(i, NOW_MS + (i as i64 * 7919) % 4500, "u")).collect();
    state.commit(Commit { notices: &all, ..cut(&nothing, &types, 10) }).unwrap();
    let (mut after, mut met) = (None, Vec::new());
    let mut gets = api.usage().gets;
    loop {
        let page = state.due(NOW_MS + 10_000, after, 64).unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.place());
        met.extend(page);
        if met.len() <= 4096 {
            assert_eq!(api.usage().gets, gets, "what was scanned is not read again");
        }
        if met.len() == 4096 {
            // Of the rest one is finished meanwhile.
            let late = all.iter().max_by_key(|notice| notice.place()).unwrap();
            state.finish(late, NOW_MS + 1_000_000, None).unwrap();
            gets = api.usage().gets;
        }
    }
    assert!(api.usage().gets > gets);
    assert!(met.is_sorted_by_key(anabranch_stream::notify::Notice::place));
    assert_eq!(met.len(), 4499);
}

/// A crash between notices and histories: the cut is committed again, and what was sent meanwhile stays sent.
#[test]
fn notices_come_before_histories_and_a_second_commit_doubles_none() {
    use anabranch_stream::notify::Outbox as _;
    let (api, state) = world_with_outbox(1);
    let (types, notices) = (types(), [anabranch_stream::testing::notice(5, NOW_MS, "u")]);
    let histories = grown(&state, &user("u"), &[1]);
    let cut = || Commit { notices: &notices, ..cut(&histories, &types, 10) };
    let mut hasty = open(&api, settings(), &types).unwrap().with_outbox(OUTBOX);
    hasty.patience.attempts_max = 1;
    api.script(&[Hit::Pass, Hit::Before]);
    assert_eq!(hasty.commit(cut()).unwrap_err().kind, ErrorKind::Retry);
    assert_eq!((api.items(OUTBOX).len(), stored(&api, &user("u"))), (1, None));
    let due = state.due(NOW_MS, None, 9).unwrap();
    assert_eq!(due, notices);
    state.finish(&due[0], NOW_MS + 1_000_000, None).unwrap();
    state.commit(cut()).unwrap();
    assert!(stored(&api, &user("u")).is_some());
    assert_eq!(state.due(NOW_MS, None, 9).unwrap(), []);
    api.expire(OUTBOX, NOW_MS / 1000 + 1001);
    assert!(api.items(OUTBOX).is_empty());

    let without = open(&api, settings(), &types).unwrap();
    let error = without.commit(cut()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::FixInput);
    assert!(error.to_string().contains("name an outbox table"), "{error}");
}

#[test]
fn forgetting_takes_what_waits_and_when_something_was_sent() {
    use anabranch_stream::notify::Outbox as _;
    let (api, state) = world_with_outbox(1);
    let (types, nothing) = (types(), HashMap::new());
    let notice = anabranch_stream::testing::notice;
    let notices = [notice(5, NOW_MS, "u"), notice(6, NOW_MS, "other"), notice(7, NOW_MS, "u")];
    state.commit(Commit { notices: &notices, ..cut(&nothing, &types, 10) }).unwrap();
    state.finish(&notices[2], NOW_MS, Some((&user("u"), NOW_MS))).unwrap();
    assert_eq!(state.newest_sent(&user("u")).unwrap(), Some(NOW_MS));
    assert_eq!(state.forget(&user("u"), NOW_MS, &types).unwrap().notices, 1);
    assert_eq!(state.due(NOW_MS, None, 9).unwrap(), notices[1..2]);
    assert_eq!(state.newest_sent(&user("u")).unwrap(), None);
    assert!(!format!("{:?}", api.items(TABLE)).contains("sent"));
}
