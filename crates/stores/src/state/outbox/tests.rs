#![allow(clippy::unwrap_used)]

use std::collections::HashMap;

use anabranch_events::EventSettings;

use super::*;
use crate::state::Create;

const T: i64 = 1_700_000_000_000;

fn state(folder: &std::path::Path) -> State {
    let create = Create { name: "clicks".to_owned(), shards: 1, now_ms: T, secret: [7; 32] };
    State::open(folder, create).unwrap()
}

fn entry(id: u128, due_ms: i64, owner: &str) -> Entry {
    Entry { id, due_ms, owner: HistoryKey::User(owner.into()), time_ms: T, body: format!("body {id}").into_bytes() }
}

fn commit(state: &State, entries: &[Entry]) {
    let types = EventSettings::default().compile().unwrap();
    let advance = |_: Option<&[u8]>| Ok(vec![0; 8]);
    state.commit_with(0, &advance, &HashMap::new(), &types, entries).unwrap();
}

fn ids(state: &State, now_ms: i64) -> Vec<u128> {
    state.outbox_due(now_ms, None, 100).unwrap().iter().map(|entry| entry.id).collect()
}

#[test]
fn entries_come_when_they_are_due_in_order_and_survive() {
    let folder = tempfile::tempdir().unwrap();
    let all = [entry(9, T + 5, "u"), entry(u128::MAX, T + 5, "v"), entry(3, T, "u"), entry(1, -7, "w")];
    {
        let state = state(folder.path());
        commit(&state, &all);
    }
    let state = state(folder.path());
    assert_eq!(ids(&state, T - 1), [1]);
    assert_eq!(ids(&state, T), [1, 3]);
    assert_eq!(ids(&state, T + 5), [1, 3, 9, u128::MAX]);
    assert_eq!(state.outbox_due(T + 5, Some((T, 3)), 1).unwrap(), [all[0].clone()], "after a place, whole");
    assert_eq!(state.outbox_due(T + 5, Some((T + 5, u128::MAX)), 9).unwrap(), []);
    for (now_ms, next) in [(-8, Some(-7)), (-7, Some(T)), (T, Some(T + 5)), (T + 5, None)] {
        assert_eq!(state.outbox_next_due(now_ms).unwrap(), next);
    }
    assert_eq!(state.outbox_len().unwrap(), 4);
}

#[test]
fn an_id_is_taken_once_whether_it_waits_moved_or_is_finished() {
    let folder = tempfile::tempdir().unwrap();
    let state = state(folder.path());
    commit(&state, &[entry(1, T, "u"), entry(2, T, "u")]);
    let later = Entry { body: b"second".to_vec(), ..entry(1, T, "u") };
    state.outbox_rewrite(&later).unwrap();
    commit(&state, &[entry(1, T + 9, "u")]);
    assert_eq!(state.outbox_due(T + 9, None, 9).unwrap(), [later.clone(), entry(2, T, "u")]);
    state.outbox_finish((T, 1), T + 100, None).unwrap();
    state.outbox_rewrite(&later).unwrap();
    commit(&state, &[entry(1, T, "u")]);
    assert_eq!(ids(&state, T + 9), [2], "finished is finished");
    assert_eq!(state.outbox_trim(T + 100).unwrap(), 0);
    assert_eq!(state.outbox_trim(T + 101).unwrap(), 1);
    commit(&state, &[entry(1, T, "u")]);
    assert_eq!(ids(&state, T + 9), [1, 2], "until it is forgotten");
    assert_eq!(state.outbox_trim(i64::MAX).unwrap(), 0);
}

#[test]
fn the_newest_sent_time_only_rises_and_finishing_again_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let state = state(folder.path());
    let u = HistoryKey::User("u".into());
    commit(&state, &[entry(1, T, "u")]);
    assert_eq!(state.outbox_newest_sent(&u).unwrap(), None);
    for (time_ms, newest) in [(T, T), (T - 5, T), (T + 5, T + 5), (T + 5, T + 5)] {
        state.outbox_finish((T, 1), T, Some((&u, time_ms))).unwrap();
        assert_eq!(state.outbox_newest_sent(&u).unwrap(), Some(newest));
    }
    assert_eq!(state.outbox_len().unwrap(), 0);
    assert_eq!(state.outbox_newest_sent(&HistoryKey::Session("u".into())).unwrap(), None);
}

#[test]
fn a_forgotten_owner_has_nothing_here_and_nothing_returns() {
    let folder = tempfile::tempdir().unwrap();
    let state = state(folder.path());
    let types = EventSettings::default().compile().unwrap();
    let u = HistoryKey::User("u".into());
    commit(&state, &[entry(1, T, "u"), entry(2, T, "other")]);
    state.outbox_finish((T, 7), T, Some((&u, T))).unwrap();
    let forgotten = state.forget(&u, T, &types, &|_, _| crate::state::log::Rewrite::Keep).unwrap();
    assert_eq!(forgotten.notices, 1);
    commit(&state, &[entry(1, T, "u"), entry(3, T, "u")]);
    state.outbox_finish((T, 8), T, Some((&u, T))).unwrap();
    assert_eq!((ids(&state, T), state.outbox_newest_sent(&u).unwrap()), (vec![2], None));
    commit(&state, &[Entry { time_ms: T + 1, ..entry(4, T, "u") }]);
    assert_eq!(ids(&state, T), [2, 4], "who comes back is somebody new");
}

#[test]
fn a_backup_holds_the_outbox_and_damage_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let state = state(&folder.path().join("a"));
    commit(&state, &[entry(1, T, "u")]);
    let mut backup = Vec::new();
    state.backup(&mut backup).unwrap();
    State::restore(&folder.path().join("b"), &|| Ok(&backup[..])).unwrap();
    let restored = State::open_existing(&folder.path().join("b")).unwrap();
    assert_eq!(restored.outbox_due(T, None, 9).unwrap(), [entry(1, T, "u")]);
    for damaged in [&b""[..], b"\x02", b"\x01123456789", &[1, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, b'u']] {
        restored.outbox.insert(due_key((T, 1)), damaged).unwrap();
        assert!(matches!(restored.outbox_due(T, None, 9), Err(StateError::Corrupt { .. })));
    }
}
