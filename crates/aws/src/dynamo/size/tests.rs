#![allow(clippy::unwrap_used)]
use super::super::item;
use super::*;
use anabranch_events::{Alias, Entry, EventKey, EventSettings, History, HistoryKey, ItemKey, codec};

const T: i64 = 1_700_000_000_000;

fn types(quota: usize, seen_max: usize) -> EventTypes {
    EventSettings { quota, seen_max, ..EventSettings::default() }.compile().unwrap()
}

/// `count` entries for each of the kinds, `step_ms` apart, each of another item.
fn filled(types: &EventTypes, kinds: &[&str], count: usize, step_ms: i64, value: Option<f32>) -> History {
    let entries = kinds.iter().flat_map(|kind| {
        let kind = types.code(kind).unwrap();
        (0..count).map(move |i| {
            let key = (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(kind);
            Entry { time_ms: T - i as i64 * step_ms, event: EventKey(key), item: ItemKey(!key), value, kind }
        })
    });
    History::from_entries(entries.collect(), types)
}

fn bytes_of(history: &History, types: &EventTypes) -> usize {
    let key = HistoryKey::User("customer-1234567".into());
    item_bytes(&item::history_item(&key, codec::encode(history, types), 1_800_000_000))
}

fn seen_beyond(types: &EventTypes, count: usize) -> History {
    // More purchases than the class holds leave the older ones in the seen set alone.
    filled(types, &["purchase"], count, 3_600_000, None)
}

/// The figures of the module's header.
#[test]
fn the_table_in_the_header() {
    let table = [
        // quota, seen_max, bytes and units of: median, one class full, everything full, worst case
        (16, 0, [378, 378, 1676, 5170], [1, 1, 2, 6]),
        (64, 128, [658, 1338, 7308, 14_675], [1, 2, 8, 15]),
        (256, 512, [658, 5179, 29_010, 50_392], [1, 6, 29, 50]),
    ];
    for (quota, seen_max, bytes, units) in table {
        let types = types(quota, seen_max);
        let median = bytes_of(&filled(&types, &["view"], 30.min(quota), 3_600_000, None), &types);
        let one = bytes_of(&filled(&types, &["view"], quota, 3_600_000, None), &types);
        let mut full = filled(&types, &["view", "click", "watch", "cart"], quota, 3_600_000, None);
        full.join(&seen_beyond(&types, quota + seen_max), &types);
        let full = bytes_of(&full, &types);
        let worst = largest_item_bytes(&types);
        assert_eq!([median, one, full, worst], bytes, "quota {quota}");
        assert_eq!(bytes.map(write_units), units, "quota {quota}");
    }
    assert!((dollars_per_million_writes(700) - 0.625).abs() < 1e-9);
    assert!((dollars_per_million_writes(50 * 1024) - 31.25).abs() < 1e-9);
    assert!((dollars_per_million_reads(700) - 0.125).abs() < 1e-9);
}

#[test]
fn units_round_up_and_nothing_is_free() {
    assert_eq!([0, 1, 1024, 1025, 2048, 2049].map(write_units), [1, 1, 1, 2, 2, 3]);
    assert_eq!([0, 4096, 4097].map(read_units), [1, 1, 2]);
}

/// Longest ids, widest times, values everywhere, every class and the seen set full: still under the bound, and the bound
/// is not so far above that it refuses what would fit.
#[test]
fn the_bound_holds_for_the_largest_history_that_can_be_built() {
    for (quota, seen_max) in [(1, 0), (16, 64), (256, 512), (1000, 1000)] {
        let types = types(quota, seen_max);
        let id = |i: usize| format!("{i:03}{}", "s".repeat(ID_BYTES_MAX - 3));
        let mut history =
            filled(&types, &["view", "click", "watch", "cart", "purchase"], quota, 40_000_000_000, Some(1.5));
        // Seen times beyond the entries', as far apart as an `i64` allows.
        let purchase = types.code("purchase").unwrap();
        let old = (0..quota + seen_max).map(|i| Entry {
            time_ms: T + 1 + i as i64,
            event: EventKey(i as u64),
            item: ItemKey(i as u64 * 7 + 1),
            value: Some(2.5),
            kind: purchase,
        });
        history.join(&History::from_entries(old.collect(), &types), &types);
        (0..20).for_each(|i| history.note_session(&id(i), T, &types));
        history.note_alias(Alias { time_ms: T, event: EventKey(1), user: id(0).into() });
        history.erase(i64::MIN / 2);
        let key = HistoryKey::User(id(1).into());
        let bytes = codec::encode(&history, &types);
        let history_bound = largest_history_bytes(&types);
        assert!(bytes.len() <= history_bound, "{} of {history_bound}", bytes.len());
        let found = item_bytes(&item::history_item(&key, bytes, i64::MAX));
        let bound = largest_item_bytes(&types);
        assert!(found <= bound && bound < found * 3 / 2 + 200, "quota {quota}: {found} of {bound}");
    }
}

#[test]
fn settings_that_could_outgrow_an_item_are_refused_with_the_remedy() {
    assert_eq!(check(&types(256, 512)), Ok(()));
    assert_eq!(check(&types(2_500, 0)), Ok(()));
    let refused = check(&types(2_500, 4_000)).unwrap_err();
    assert_eq!((refused.entries, refused.seen), (12_500, 4_000));
    let text = refused.to_string();
    assert!(text.contains("lower quota") && text.contains("409600"), "{text}");
}

#[test]
fn bytes_are_counted_as_dynamodb_does() {
    let item = Item::from([
        ("k".to_owned(), Value::B(vec![0; 10])),
        ("ab".to_owned(), Value::S("größe".to_owned())),
        ("n".to_owned(), Value::number(-12_345)),
        ("b".to_owned(), Value::Bool(true)),
    ]);
    assert_eq!(item_bytes(&item), (1 + 10) + (2 + 7) + (1 + 3 + 1 + 1) + (1 + 1));
}
