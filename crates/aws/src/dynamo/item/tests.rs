#![allow(clippy::unwrap_used)]
use super::*;
use anabranch_events::erasure::ErasureKey;
use anabranch_stream::ports::SequenceNumber;
use proptest::prelude::*;

fn types() -> EventTypes {
    anabranch_events::EventSettings::default().compile().unwrap()
}

fn user() -> HistoryKey {
    HistoryKey::User("u1".into())
}

/// What is stored in production; a change here breaks every table.
#[test]
fn the_item_of_an_empty_history_is_frozen() {
    let bytes = codec::encode(&History::new(), &types());
    let item = history_item(&user(), bytes.clone(), 1_700_000_000);
    let expected = Item::from([
        ("k".to_owned(), Value::B(b"uu1".to_vec())),
        ("h".to_owned(), Value::B(bytes.clone())),
        ("f".to_owned(), Value::N("1".to_owned())),
        ("v".to_owned(), Value::B(xxh3_64_with_seed(&bytes, 1).to_be_bytes().to_vec())),
        ("ttl".to_owned(), Value::N("1700000000".to_owned())),
    ]);
    assert_eq!(item, expected);
    let read = read_history(&user(), &item, &types()).unwrap();
    assert_eq!((read.history, read.base), (codec::decode(&bytes, &types()).unwrap(), Base::Version(read.version)));
}

#[test]
fn the_kinds_of_items_share_no_key() {
    let name = ErasureKey::new([7; 32]).name(&user());
    let keys = [
        history_key(&user()),
        history_key(&HistoryKey::Session("u1".into())),
        floor_key(&name),
        checkpoint_key("u1", ShardId(7)),
    ];
    let first: std::collections::BTreeSet<u8> = keys.iter().map(|key| key.as_bytes().unwrap()[0]).collect();
    assert_eq!(first.len(), keys.len());
    assert_eq!(keys[3], Value::B(b"cu1/shardId-000000000007".to_vec()));
}

#[test]
fn what_cannot_be_understood_is_refused_by_name() {
    let bytes = codec::encode(&History::new(), &types());
    let good = history_item(&user(), bytes, 0);
    let read = |name: &str, value: Option<Value>| {
        let mut item = good.clone();
        match value {
            Some(value) => drop(item.insert(name.to_owned(), value)),
            None => drop(item.remove(name)),
        }
        read_history(&user(), &item, &types()).unwrap_err()
    };
    assert_eq!(read("f", Some(Value::number(2))), ItemError::Newer { of: "user u1".to_owned(), found: 2 });
    assert_eq!(read("f", Some(Value::number(2))).into_port().kind, ErrorKind::FixInput);
    let newer = Value::B(vec![codec::VERSION + 1, 0, 0, 0, 0, 0]);
    assert_eq!(read("h", Some(newer)).into_port().kind, ErrorKind::FixInput);
    for (name, value) in [
        ("f", Some(Value::S("1".to_owned()))),
        ("h", None),
        ("h", Some(Value::B(vec![]))),
        ("h", Some(Value::B(vec![codec::VERSION; 40]))),
        ("v", None),
        ("v", Some(Value::B(vec![1, 2]))),
    ] {
        let error = read(name, value.clone()).into_port();
        assert_eq!(error.kind, ErrorKind::Corrupt, "{name} {value:?}: {error}");
        assert!(error.what.contains("user u1"), "{error}");
    }
}

fn checkpoints() -> impl Strategy<Value = Checkpoint> {
    let number = prop_oneof![
        (0_u64..5).prop_map(SequenceNumber::from),
        Just("49590338271490256608559692538361571095921575989136588898".parse().unwrap()),
        Just("9".repeat(76).parse().unwrap()),
    ];
    (number, proptest::option::of(prop_oneof![0_u64..4, Just(u64::MAX)]), any::<bool>()).prop_map(
        |(number, sub, is_end)| {
            let position = Position { number, sub };
            if is_end { Checkpoint::ShardEnd(position) } else { Checkpoint::After(position) }
        },
    )
}

/// Values of every type, some of them what a sound item holds.
fn values() -> impl Strategy<Value = Value> {
    let sound = codec::encode(&History::new(), &types());
    prop_oneof![
        ".{0,8}".prop_map(Value::S),
        prop_oneof![Just("1"), Just("0"), Just("-1"), Just("1e3"), Just(""), Just("256")]
            .prop_map(|digits| Value::N(digits.to_owned())),
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(Value::B),
        Just(Value::B(sound)),
        any::<bool>().prop_map(Value::Bool),
        prop_oneof![Just("AFTER"), Just("SHARD_END"), Just("42.7")].prop_map(|text| Value::S(text.to_owned())),
    ]
}

proptest! {
    /// Nothing in a table makes a reader panic, and what reads at all reads the same again.
    #[test]
    fn any_item_is_read_or_refused(
        item in proptest::collection::btree_map(
            proptest::sample::select(vec!["k", "h", "f", "v", "ttl", "floor", "position", "state", "order"]).prop_map(str::to_owned),
            values(),
            0..9,
        ),
    ) {
        let read = read_history(&user(), &item, &types());
        if let Ok(stored) = &read {
            let again = history_item(&user(), codec::encode(&stored.history, &types()), 0);
            prop_assert_eq!(&read_history(&user(), &again, &types()).unwrap().history, &stored.history);
        }
        let _ = read_floor(&item);
        if let Ok(checkpoint) = read_checkpoint(ShardId(7), &item) {
            let (again, _) = checkpoint_item("n", ShardId(7), checkpoint);
            prop_assert_eq!(read_checkpoint(ShardId(7), &again).unwrap(), checkpoint);
        }
    }

    #[test]
    fn checkpoints_come_back_and_move_forward_only(old in checkpoints(), new in checkpoints()) {
        let (stands, _) = checkpoint_item("clicks-1", ShardId(7), old);
        prop_assert_eq!(read_checkpoint(ShardId(7), &stands).unwrap(), old);
        let (_, moves_on) = checkpoint_item("clicks-1", ShardId(7), new);
        let rank = |checkpoint: Checkpoint| (matches!(checkpoint, Checkpoint::ShardEnd(_)), checkpoint.position());
        prop_assert_eq!(moves_on.holds(Some(&stands)), rank(new) > rank(old));
        prop_assert!(moves_on.holds(None));
    }

    #[test]
    fn floors_come_back_and_rise_only(old in any::<i64>(), new in any::<i64>()) {
        let name = ErasureKey::new([7; 32]).name(&user());
        let (stands, _) = floor_item(&name, old);
        prop_assert_eq!(read_floor(&stands).unwrap(), old);
        prop_assert_eq!(floor_item(&name, new).1.holds(Some(&stands)), new > old);
    }
}
