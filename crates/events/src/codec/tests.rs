#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::history::tests::{any_entry, tight};
use crate::settings::EventSettings;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn round_trip_is_exact_and_canonical(
        entries in prop::collection::vec(any_entry(), 0..30),
        floor in prop::option::of(0..6_i64),
        sessions in prop::collection::vec((0..5_u8, 0..9_i64), 0..4),
        alias in prop::option::of(0..9_i64),
    ) {
        let types = tight();
        let mut history = History::from_entries(entries, &types);
        for (session, time) in sessions {
            history.note_session(&format!("s{session}"), 1_000_000_000_000 + time, &types);
        }
        if let Some(time) = alias {
            history.note_alias(Alias { time_ms: 1_000_000_000_000 + time, event: EventKey(9), user: "ü".into() });
        }
        if let Some(floor) = floor {
            history.erase(1_000_000_000_000 + floor);
        }
        history.normalise(&types);
        let bytes = encode(&history, &types);
        let read = decode(&bytes, &types).unwrap();
        prop_assert_eq!(&read, &history);
        prop_assert_eq!(encode(&read, &types), bytes);
    }

    #[test]
    fn damage_is_noticed_and_never_panics(entries in prop::collection::vec(any_entry(), 0..20), at in any::<prop::sample::Index>(), flip in 1..=255_u8) {
        let types = tight();
        let mut bytes = encode(&History::from_entries(entries, &types), &types);
        let at = at.index(bytes.len());
        let cut = decode(&bytes[..at], &types);
        prop_assert!(cut.is_err());
        bytes[at] ^= flip;
        prop_assert!(decode(&bytes, &types).is_err());
    }

    /// Bytes with a right checksum and nonsense inside: an error or a history, never a panic.
    #[test]
    fn nonsense_with_a_right_checksum_never_panics(body in prop::collection::vec(any::<u8>(), 1..200)) {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&body);
        bytes.extend_from_slice(&(xxh3_64(&bytes) as u32).to_le_bytes());
        let _ = decode(&bytes, &tight());
    }
}

/// The stored layout, byte for byte: `docs/formats.md` describes it.
#[test]
fn golden_bytes() {
    let types = EventSettings::default().compile().unwrap();
    let entry = |time_ms, event, item, value, kind: &str| Entry {
        time_ms,
        event: EventKey(event),
        item: ItemKey(item),
        value,
        kind: types.code(kind).unwrap(),
    };
    let mut history = History::from_entries(
        vec![
            entry(1_700_000_000_000, 0x0101, 0x0a0a, None, "view"),
            entry(1_700_000_001_000, 0x0202, 0x0b0b, Some(1.5), "view"),
            entry(1_700_000_000_500, 0x0303, 0x0a0a, None, "purchase"),
        ],
        &types,
    );
    history.note_session("s1", 1_700_000_000_000, &types);
    let hex = encode(&history, &types).iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    assert_eq!(
        hex,
        "0100d0afabfef9620208707572636861736501e80703030000000000000a0a0000000000000476696577020102020000000000000b0b0000000000000000c03fd00f01010000000000000a0a000000000000000180a0abfef962027331ffc92baa"
    );
}

#[test]
fn newer_versions_say_so() {
    let types = tight();
    let mut bytes = encode(&History::new(), &types);
    bytes[0] = 2;
    assert_eq!(decode(&bytes, &types), Err(CodecError::NewerVersion { found: 2 }));
    assert!(matches!(decode(&[], &types), Err(CodecError::Corrupt { .. })));
}

/// The promise of about 20 bytes an entry, on a history like a real one: an event every few hours.
#[test]
fn an_entry_takes_about_twenty_bytes() {
    let types = EventSettings::default().compile().unwrap();
    let entries = (0..256_i64)
        .map(|i| Entry {
            time_ms: 1_700_000_000_000 + i * 7_654_321,
            event: EventKey(i as u64),
            item: ItemKey(i as u64),
            value: None,
            kind: types.code("purchase").unwrap(),
        })
        .collect();
    let bytes = encode(&History::from_entries(entries, &types), &types).len();
    assert!(bytes <= 256 * 21, "{bytes} bytes for 256 entries");
}

#[test]
fn a_smaller_quota_applies_on_reading() {
    let wide = EventSettings::default().compile().unwrap();
    let narrow = EventSettings::default().with_quota(2).compile().unwrap();
    let entries: Vec<Entry> = (0..9_i64)
        .map(|i| Entry { time_ms: i + 1, event: EventKey(i as u64), item: ItemKey(1), value: None, kind: 0 })
        .collect();
    let bytes = encode(&History::from_entries(entries.clone(), &wide), &wide);
    assert_eq!(decode(&bytes, &narrow).unwrap(), History::from_entries(entries, &narrow));
}
