//! The three laws of the join, over random events with every kind of trouble, and the cases by hand.
#![allow(clippy::unwrap_used)]

use std::borrow::Cow;
use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::codec;
use crate::settings::EventSettings;

/// Small quotas, so that random histories overflow them; two types share a class.
pub(crate) fn tight() -> EventTypes {
    let mut settings = EventSettings { quota: 3, seen_max: 2, sessions_max: 2, ..EventSettings::default() };
    settings.types.get_mut("click").unwrap().class = Some("view".to_owned());
    settings.types.get_mut("view").unwrap().hides = true;
    settings.quotas.insert("purchase".to_owned(), 2);
    settings.compile().unwrap()
}

/// Few distinct ids, times and items, so that equal ids with different payloads are common.
pub(crate) fn any_entry() -> impl Strategy<Value = Entry> {
    (0..12_i64, 0..10_u64, 0..6_u64, prop::option::of(0..3_u8), 0..5_u8).prop_map(|(time, event, item, value, kind)| {
        Entry {
            time_ms: 1_000_000_000_000 + time,
            event: EventKey(event),
            item: ItemKey(item),
            value: value.map(f32::from),
            kind,
        }
    })
}

/// What can happen to a history besides entries.
#[derive(Clone, Debug)]
enum Step {
    Entry(Entry),
    Floor(i64),
    Session(u8, i64),
    Alias(u8, i64),
}

fn any_step() -> impl Strategy<Value = Step> {
    let time = 1_000_000_000_000..1_000_000_000_012_i64;
    prop_oneof![
        12 => any_entry().prop_map(Step::Entry),
        1 => (1_000_000_000_000..1_000_000_000_004_i64).prop_map(Step::Floor),
        1 => (0..4_u8, time.clone()).prop_map(|(s, t)| Step::Session(s, t)),
        1 => (0..3_u8, time).prop_map(|(u, t)| Step::Alias(u, t)),
    ]
}

fn take(history: &mut History, step: &Step, types: &EventTypes) {
    match step {
        Step::Entry(entry) => {
            history.apply(*entry, types);
        }
        Step::Floor(floor) => history.erase(*floor),
        Step::Session(session, time) => history.note_session(&format!("s{session}"), *time, types),
        Step::Alias(user, time) => {
            history.note_alias(Alias {
                time_ms: *time,
                event: EventKey(u64::from(*user)),
                user: format!("u{user}").into(),
            });
        }
    }
}

fn folded(steps: &[Step], types: &EventTypes) -> History {
    let mut history = History::new();
    for step in steps {
        take(&mut history, step, types);
    }
    history.normalise(types);
    history
}

fn joined(a: &History, b: &History, types: &EventTypes) -> History {
    let mut joined = a.clone();
    joined.join(b, types);
    joined
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn join_is_commutative_associative_idempotent(
        a in prop::collection::vec(any_step(), 0..14),
        b in prop::collection::vec(any_step(), 0..14),
        c in prop::collection::vec(any_step(), 0..14),
    ) {
        let types = tight();
        let (a, b, c) = (folded(&a, &types), folded(&b, &types), folded(&c, &types));
        prop_assert_eq!(joined(&a, &b, &types), joined(&b, &a, &types));
        prop_assert_eq!(joined(&joined(&a, &b, &types), &c, &types), joined(&a, &joined(&b, &c, &types), &types));
        prop_assert_eq!(joined(&a, &a, &types), a);
    }

    /// Any order, any repeats, any cut into batches: one history, one run of bytes.
    #[test]
    fn order_duplication_and_batching_do_not_matter(
        steps in prop::collection::vec(any_step(), 1..30).prop_flat_map(|steps| {
            let repeated = prop::collection::vec(prop::sample::select(steps.clone()), 0..10);
            (Just(steps), repeated)
        }).prop_flat_map(|(steps, repeated)| {
            let all: Vec<Step> = steps.iter().chain(&repeated).cloned().collect();
            (Just(steps), Just(all).prop_shuffle(), prop::collection::vec(0..40_usize, 0..6))
        }),
    ) {
        let (in_order, shuffled, mut cuts) = steps;
        let types = tight();
        let expected = folded(&in_order, &types);
        cuts.retain(|cut| *cut < shuffled.len());
        cuts.push(0);
        cuts.push(shuffled.len());
        cuts.sort_unstable();
        let mut history = History::new();
        for batch in cuts.windows(2) {
            history.join(&folded(&shuffled[batch[0]..batch[1]], &types), &types);
        }
        history.normalise(&types);
        prop_assert_eq!(codec::encode(&history, &types), codec::encode(&expected, &types));
        prop_assert_eq!(history, expected);
    }

    /// The bulk constructor is the same meaning as one event at a time.
    #[test]
    fn from_entries_equals_apply(entries in prop::collection::vec(any_entry(), 0..40)) {
        let types = tight();
        let steps: Vec<Step> = entries.iter().copied().map(Step::Entry).collect();
        let expected = folded(&steps, &types);
        prop_assert_eq!(&History::from_entries(entries.clone(), &types), &expected);
        // In order, as a stored history comes back, with the quotas that it had or wider ones.
        for types in [types, EventSettings::default().compile().unwrap()] {
            let mut entries = entries.clone();
            entries.sort_unstable_by_key(|entry| (entry.time_ms, entry.event));
            prop_assert_eq!(History::from_entries(entries, &types), folded(&steps, &types));
        }
    }

    /// `apply` says what happened: applied events and only they add an entry that stands.
    #[test]
    fn outcomes_tell_the_truth(entries in prop::collection::vec(any_entry(), 1..40)) {
        let types = tight();
        let mut history = History::new();
        history.erase(1_000_000_000_001);
        for entry in entries {
            let held = |history: &History| history.classes.get(types.class_of(entry.kind))
                .is_some_and(|class| class.iter().any(|e| e.event == entry.event));
            let before = held(&history);
            let outcome = history.apply(entry, &types);
            match outcome {
                Outcome::Applied => prop_assert!(!before && held(&history)),
                Outcome::Duplicate => prop_assert!(before && held(&history)),
                Outcome::Late => prop_assert!(!before && !held(&history)),
            }
        }
    }

    /// A forgotten past does not come back, however it is replayed.
    #[test]
    fn nothing_returns_below_the_floor(entries in prop::collection::vec(any_entry(), 0..40), floor in 0..13_i64) {
        let types = tight();
        let mut history = History::from_entries(entries.clone(), &types);
        let floor = 1_000_000_000_000 + floor;
        history.erase(floor);
        let erased = history.clone();
        for entry in entries.iter().filter(|entry| entry.time_ms <= floor) {
            prop_assert_ne!(history.apply(*entry, &types), Outcome::Applied);
        }
        prop_assert_eq!(&history, &erased);
        prop_assert!(history.entries().all(|entry| entry.time_ms > floor));
        prop_assert!(history.seen().iter().all(|seen| seen.time_ms > floor));
    }
}

fn entry(time: i64, event: u64, item: u64, kind: u8) -> Entry {
    Entry { time_ms: time, event: EventKey(event), item: ItemKey(item), value: None, kind }
}

/// The counterexample of the module's documentation: identity without the class would lose Y.
#[test]
fn one_id_in_two_classes_keeps_the_law() {
    let types = EventSettings::default().with_quota(1).compile().unwrap();
    let (view, purchase) = (types.code("view").unwrap(), types.code("purchase").unwrap());
    let (y, x1, x2) = (entry(0, 1, 1, view), entry(1, 2, 2, view), entry(2, 2, 2, purchase));
    let one = |e: Entry| History::from_entries(vec![e], &types);
    let left = joined(&joined(&one(y), &one(x1), &types), &one(x2), &types);
    let right = joined(&one(y), &joined(&one(x1), &one(x2), &types), &types);
    assert_eq!(left, right);
    assert_eq!(left.len(), 2);
}

#[test]
fn views_cannot_push_purchases_out() {
    let types = EventSettings::default().with_quota(2).compile().unwrap();
    let (view, purchase) = (types.code("view").unwrap(), types.code("purchase").unwrap());
    let mut history = History::new();
    assert_eq!(history.apply(entry(1, 1, 1, purchase), &types), Outcome::Applied);
    for i in 2..100 {
        assert_eq!(history.apply(entry(i, i as u64, 5, view), &types), Outcome::Applied);
    }
    assert_eq!(history.len(), 3);
    assert_eq!(history.apply(entry(1, 1, 1, purchase), &types), Outcome::Duplicate);
    assert_eq!(history.apply(entry(2, 2, 5, view), &types), Outcome::Late);
}

fn event(user: Option<&str>, session: Option<&str>, id: u64, time_ms: i64, types: &EventTypes) -> Event<'static> {
    Event {
        user: user.map(|u| Cow::Owned(u.to_owned())),
        session: session.map(|s| Cow::Owned(s.to_owned())),
        item: Cow::Owned(format!("i{id}")),
        kind: types.code("view").unwrap(),
        time_ms,
        value: None,
        key: EventKey(id),
        event_id: None,
    }
}

#[test]
fn a_session_joins_its_user_after_the_login() {
    let types = tight();
    let mut stored: BTreeMap<HistoryKey, History> = BTreeMap::new();
    let mut send = |event: &Event<'_>| {
        apply_event(event, &types, &mut |key, change| change(stored.entry(key.clone()).or_default()))
    };
    assert_eq!(send(&event(None, Some("s1"), 1, 100, &types)), Outcome::Applied);
    assert_eq!(send(&event(Some("u"), Some("s1"), 2, 200, &types)), Outcome::Applied);
    assert_eq!(send(&event(Some("u"), Some("s1"), 2, 200, &types)), Outcome::Duplicate);
    assert_eq!(send(&event(None, Some("s1"), 3, 300, &types)), Outcome::Applied);

    let look = |stored: &BTreeMap<HistoryKey, History>, key: HistoryKey| {
        effective::<()>(&key, &types, &mut |key| Ok(stored.get(key).cloned())).unwrap().unwrap()
    };
    let user = look(&stored, HistoryKey::User("u".into()));
    assert_eq!(user.len(), 3, "the user's own event and both anonymous ones");
    let session = look(&stored, HistoryKey::Session("s1".into()));
    assert_eq!(session.entries().collect::<Vec<_>>(), user.entries().collect::<Vec<_>>());

    // Somebody else logs in to the same session later: it is theirs now.
    apply_event(&event(Some("v"), Some("s1"), 4, 400, &types), &types, &mut |key, change| {
        change(stored.entry(key.clone()).or_default());
    });
    assert_eq!(look(&stored, HistoryKey::User("u".into())).len(), 1);
    assert_eq!(look(&stored, HistoryKey::User("v".into())).len(), 3);
}
