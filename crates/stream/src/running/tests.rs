//! Hot reload under load, and what a stopped stream leaves behind.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anabranch_events::{EventTypes, History};
use anabranch_models::ials::IalsSettings;
use anabranch_models::learn::{ItemIndex, LearnSettings, Provenance, learn};
use anabranch_models::{Interactions, Kernels, Model, Query, Snapshot};
use anabranch_stores::lake::{LocalStore, MemoryStore, ObjectStore};
use anabranch_stores::registry::ModelRegistry;

use super::*;
use crate::ingest::{IngestError, NewEvent};
use crate::models::reload;
use crate::notify::{NotifySettings, RuleSettings};
use crate::settings::StreamSettings;
use crate::testing::{self, MemoryChannel, NOW_MS, TestClock, event};

const SWAPS: usize = 1000;

/// Two models over the same items that disagree about every list.
fn snapshot(seed: u64) -> Vec<u8> {
    let index = ItemIndex::new((0..20).map(|i| format!("i{i}")).collect()).unwrap();
    let rows: Vec<Vec<(u32, f32)>> = (0..30_u32)
        .map(|user| {
            (0..20).filter(|item| (item * 7 + user * (seed as u32 + 1)) % 5 < 2).map(|item| (item, 1.0)).collect()
        })
        .collect();
    let settings = LearnSettings {
        ials: IalsSettings { dim: 8, iterations: 3, seed, ..IalsSettings::default() },
        ..LearnSettings::default()
    };
    let provenance = Provenance {
        events: &testing::events(),
        as_of_ms: NOW_MS,
        demand: None,
        titles: &[],
        metrics: std::collections::BTreeMap::new(),
    };
    let rows = Interactions::from_rows(20, rows).unwrap();
    learn(Kernels::best(), &rows, &index, &settings, &provenance, |_| {}).unwrap().snapshot
}

fn viewed(types: &EventTypes) -> History {
    History::from_entries(
        vec![anabranch_events::Entry {
            time_ms: NOW_MS,
            event: anabranch_events::EventKey(1),
            item: anabranch_events::ItemKey::of("i3"),
            value: None,
            kind: types.code("view").unwrap(),
        }],
        types,
    )
}

fn list(model: &Model, history: &History) -> Vec<(u32, u32)> {
    let row = model.row(history);
    let query = Query { row: &row, exclude: &[], k: 20 };
    let mut scratch = model.recommender().scratch();
    let list = model.recommender().recommend(&mut scratch, &[query]).remove(0).unwrap();
    list.iter().map(|scored| (scored.item(), scored.score().to_bits())).collect()
}

/// A thousand promotions while readers ask all along: every answer is one model's answer, whole, with that model's name.
#[test]
fn a_thousand_swaps_and_never_half_a_model() {
    let folder = tempfile::tempdir().unwrap();
    let types = testing::types();
    let lake: Arc<dyn ObjectStore> =
        Arc::new(LocalStore::open(folder.path().join("lake"), std::time::SystemTime::UNIX_EPOCH).unwrap());
    let registry = ModelRegistry::new(Arc::clone(&lake));
    let mut expected = HashMap::new();
    let mut versions = Vec::new();
    for seed in [1, 2] {
        let bytes = snapshot(seed);
        let file = folder.path().join(format!("{seed}.anb"));
        std::fs::write(&file, &bytes).unwrap();
        let version = registry.publish(&file, &serde_json::json!({}), NOW_MS).unwrap().version.to_string();
        let model = Model::new(Arc::new(Snapshot::from_bytes(&bytes).unwrap()), &version, Kernels::best()).unwrap();
        expected.insert(version.clone(), list(&model, &viewed(&types)));
        versions.push(version);
    }
    assert_ne!(expected[&versions[0]], expected[&versions[1]]);
    registry.promote(&versions[0], "test", NOW_MS).unwrap();
    let models =
        ModelSource { registry: registry.clone(), cache_folder: folder.path().join("cache"), kernels: Kernels::best() };

    let state = testing::state(&folder.path().join("state"), 1);
    let mut shared = testing::parts(state, Arc::new(MemoryStore::new()), TestClock::new(), StreamSettings::default());
    shared.model = Arc::new(models.newer_than(None).unwrap().unwrap());
    let stream = RunningStream::start(StreamParts { shared, models: None, notify: None }).unwrap();
    let data = event("u", "i3", "view", NOW_MS);
    stream.appender().append(vec![NewEvent { partition_key: "u".to_owned(), explicit_hash_key: None, data }]).unwrap();
    stream.flush().unwrap();

    let (is_done, answers, seen) = (AtomicBool::new(false), AtomicU64::new(0), Mutex::new(BTreeSet::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_done.load(Ordering::SeqCst) {
                    let history = stream.shared().effective(&HistoryKey::User("u".into())).unwrap().unwrap();
                    let model = stream.shared().model();
                    let found = list(&model, &history);
                    assert_eq!(found, expected[model.version()], "the list of another model than its name says");
                    lock(&seen).insert(model.version().to_owned());
                    answers.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        for swap in 1..=SWAPS {
            registry.promote(&versions[swap % 2], "test", NOW_MS).unwrap();
            reload(stream.shared(), &models);
            assert_eq!(stream.shared().model().version(), versions[swap % 2]);
        }
        is_done.store(true, Ordering::SeqCst);
    });
    assert_eq!(lock(&seen).len(), 2);
    assert!(answers.load(Ordering::SeqCst) > SWAPS as u64 / 10, "the readers hardly read");
    stream.stop().unwrap();
}

/// A promoted model that does not fit the settings, or is damaged, does not serve; the old one goes on.
#[test]
fn an_unfit_model_does_not_take_over() {
    let folder = tempfile::tempdir().unwrap();
    let lake: Arc<dyn ObjectStore> =
        Arc::new(LocalStore::open(folder.path().join("lake"), std::time::SystemTime::UNIX_EPOCH).unwrap());
    let registry = ModelRegistry::new(Arc::clone(&lake));
    let models =
        ModelSource { registry: registry.clone(), cache_folder: folder.path().join("cache"), kernels: Kernels::best() };
    let state = testing::state(&folder.path().join("state"), 1);
    let parts = testing::parts(state, Arc::new(MemoryStore::new()), TestClock::new(), StreamSettings::default());
    let shared = Arc::new(Shared::new(parts.over_port()));
    let held = shared.model().version().to_owned();
    let mut bytes = snapshot(1);
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let file = folder.path().join("damaged.anb");
    std::fs::write(&file, &bytes).unwrap();
    let version = registry.publish(&file, &serde_json::json!({}), NOW_MS).unwrap().version;
    registry.promote(version.as_str(), "test", NOW_MS).unwrap();
    assert!(models.newer_than(Some(&held)).unwrap_err().contains("corrupt"));
    reload(&shared, &models);
    assert_eq!(shared.model().version(), held);
}

/// Nothing is delivered while events come: the log fills to the byte, the door refuses, retention takes nothing that is
/// not delivered, and delivery makes room again.
#[test]
fn a_full_log_refuses_and_loses_nothing() {
    const BYTES_MAX: u64 = 64 << 20;
    let folder = tempfile::tempdir().unwrap();
    let (state, sink, clock) = (testing::state(folder.path(), 2), Arc::new(MemoryStore::new()), TestClock::new());
    // The clock stands still, so no cut is due before somebody asks for it.
    let settings = StreamSettings {
        retention_bytes: BYTES_MAX,
        retention_hours: 0,
        cut_bytes: 1 << 30,
        disk_free_bytes_min: 0,
        ..StreamSettings::default()
    };
    let shared = testing::parts(Arc::clone(&state), Arc::clone(&sink) as _, clock, settings);
    let stream = RunningStream::start(StreamParts { shared, models: None, notify: None }).unwrap();
    let sized = |number: usize, bytes: usize| {
        let mut data = format!("no event {number} ").into_bytes();
        data.resize(bytes, b'x');
        NewEvent { partition_key: format!("u{number:03}"), explicit_hash_key: None, data }
    };
    let mut taken = 0;
    let refusal = loop {
        match stream.appender().append(vec![sized(taken, 1_000_000)]) {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(refusal, IngestError::Full { bytes_max: BYTES_MAX });
    let each = anabranch_stores::state::log::record_bytes("u000", &vec![0; 1_000_000]);
    assert_eq!(taken as u64, BYTES_MAX / each);
    let room = stream.appender().log_room();
    assert_eq!((state.log_bytes(), room), (taken as u64 * each, BYTES_MAX % each));
    // What fits still does, in order, and all or nothing of one request.
    let small = room as usize - 2 * (each as usize - 1_000_000);
    let two = vec![sized(100, small / 2), sized(101, small - small / 2 + 1)];
    assert_eq!(stream.appender().fitting(&two), (1, IngestError::Full { bytes_max: BYTES_MAX }));
    assert!(stream.appender().append(two).is_err());
    stream.appender().append(vec![sized(100, small / 2), sized(101, small - small / 2)]).unwrap();
    assert_eq!(stream.appender().log_room(), 0);
    taken += 2;

    let all = Retention { oldest_ms: i64::MAX, bytes_max: 0 };
    let trimmed = state.trim(all).unwrap();
    assert_eq!((trimmed.removed, trimmed.is_full), (0, true), "retention takes nothing that is not delivered");
    assert_eq!(stream.shared().blocked(), None, "a stream that is busy is well");
    stream.flush().unwrap();
    // The housekeeper removes what is delivered.
    while stream.appender().log_room() < BYTES_MAX / 2 {
        assert_eq!(stream.failure(), None);
        std::thread::park_timeout(Duration::from_millis(5));
    }
    stream.appender().append((0..16).map(|number| sized(number, 1_000_000)).collect()).unwrap();
    stream.flush().unwrap();
    assert_eq!(stream.shared().totals().rejected, taken as u64 + 16, "each event that was taken is accounted for");
    stream.stop().unwrap();
}

/// Two carts, one owner forgotten while her notice waits: the other's goes out by the stream's own thread, hers never.
#[test]
fn a_forgotten_users_notice_does_not_go_out() {
    let folder = tempfile::tempdir().unwrap();
    let (state, clock, channel) = (testing::state(folder.path(), 2), TestClock::new(), MemoryChannel::default());
    let rule = RuleSettings { event_types: vec!["cart".to_owned()], delay_minutes: 30, ..RuleSettings::default() };
    let notify = NotifySettings { rules: [("r".to_owned(), rule)].into(), ..NotifySettings::default() };
    let shared =
        testing::parts(Arc::clone(&state), Arc::new(MemoryStore::new()), Arc::clone(&clock), StreamSettings::default());
    let notify = NotifyParts {
        rules: notify.compile(&testing::types()).unwrap(),
        channel: Box::new(channel.clone()),
        attempts_max: 8,
        seed: 1,
    };
    let stream = RunningStream::start(StreamParts { shared, models: None, notify: Some(notify) }).unwrap();
    let put = |user: &str| {
        let data = event(user, "i3", "cart", NOW_MS);
        let new = NewEvent { partition_key: user.to_owned(), explicit_hash_key: None, data };
        stream.appender().append(vec![new]).unwrap();
    };
    put("ada");
    put("bob");
    stream.flush().unwrap();
    assert_eq!(state.outbox_len().unwrap(), 2);
    let (forgotten, _) = stream.forget(&HistoryKey::User("ada".into())).unwrap();
    assert_eq!((forgotten.notices, state.outbox_len().unwrap()), (1, 1));
    clock.advance_ms(31 * 60_000);
    while stream.shared().notices().sent == 0 {
        assert_eq!(stream.failure(), None);
        std::thread::park_timeout(Duration::from_millis(5));
    }
    let arrived = channel.arrived();
    assert!(arrived.len() == 1 && arrived[0].1.body.contains(r#""userId":"bob""#), "{arrived:?}");
    assert_eq!(state.outbox_len().unwrap(), 0);
    stream.stop().unwrap();
}
