#![allow(clippy::unwrap_used)]
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anabranch_events::EventSettings;
use anabranch_models::ials::IalsSettings;
use anabranch_models::learn::{ItemIndex, LearnSettings, Provenance, learn};
use anabranch_models::{Interactions, Kernels};
use anabranch_stores::lake::{MemoryStore, ObjectPath, ObjectStore};
use anabranch_stores::registry::ModelRegistry;
use anabranch_stream::testing::{NOW_MS, TestClock, types};

use super::*;

/// Trains, publishes and promotes a model of `items` items; its version.
fn promote(registry: &ModelRegistry, folder: &Path, items: u32, events: &EventSettings) -> String {
    let index = ItemIndex::new((0..items).map(|i| format!("i{i}")).collect()).unwrap();
    let rows: Vec<Vec<(u32, f32)>> = (0..items)
        .map(|user| {
            [user, (user + 1) % items]
                .into_iter()
                .collect::<BTreeSet<_>>()
                .into_iter()
                .map(|item| (item, 1.0))
                .collect()
        })
        .collect();
    let rows = Interactions::from_rows(items as usize, rows).unwrap();
    let ials = IalsSettings { dim: 8, iterations: 1, ..IalsSettings::default() };
    let settings = LearnSettings { ials, ..LearnSettings::default() };
    let provenance = Provenance { events, as_of_ms: NOW_MS, demand: None, titles: &[], metrics: BTreeMap::new() };
    let learned = learn(Kernels::best(), &rows, &index, &settings, &provenance, |_| {}).unwrap();
    let file = folder.join("trained.anb");
    std::fs::write(&file, &learned.snapshot).unwrap();
    let manifest = registry.publish(&file, &serde_json::json!({}), NOW_MS).unwrap();
    registry.promote(manifest.version.as_str(), "test", NOW_MS).unwrap();
    manifest.version.as_str().to_owned()
}

fn registry(store: &Arc<MemoryStore>) -> ModelRegistry {
    ModelRegistry::new(Arc::clone(store) as _)
}

fn open(store: &Arc<MemoryStore>, folder: &Path, clock: &Arc<TestClock>) -> Result<Arc<Models>, ModelsError> {
    let cache_folder = folder.join("cache");
    let source = ModelSource { registry: registry(store), cache_folder, kernels: Kernels::best() };
    Models::open(source, types(), Arc::clone(clock) as _, 60)
}

fn look(models: &Arc<Models>) -> bool {
    models.look_if_due().map(|looking| looking.join().unwrap()).is_some()
}

#[test]
fn a_newer_model_takes_over_between_invocations_and_the_old_one_is_cleared_away() {
    let folder = tempfile::tempdir().unwrap();
    let (store, clock, events) = (Arc::new(MemoryStore::new()), TestClock::new(), EventSettings::default());
    assert!(matches!(open(&store, folder.path(), &clock), Err(ModelsError::NoModel)));
    let first = promote(&registry(&store), folder.path(), 10, &events);
    let models = open(&store, folder.path(), &clock).unwrap();
    let held = models.current();
    assert_eq!(held.version(), first);
    let second = promote(&registry(&store), folder.path(), 12, &events);
    assert!(!look(&models), "it is not time yet");
    clock.advance_ms(60_000);
    assert!(look(&models));
    assert_eq!(models.current().version(), second);
    // Whoever holds the old one goes on with it.
    assert_eq!((held.snapshot().item_count(), held.snapshot().item_id(3)), (10, "i3"));
    let cached: Vec<String> = std::fs::read_dir(folder.path().join("cache"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(cached, [format!("{second}.anb")]);
    clock.advance_ms(60_000);
    assert!(look(&models), "nothing new");
    assert_eq!(models.current().version(), second);
}

#[test]
fn a_model_that_does_not_fit_or_is_damaged_leaves_the_old_one() {
    let folder = tempfile::tempdir().unwrap();
    let (store, clock, events) = (Arc::new(MemoryStore::new()), TestClock::new(), EventSettings::default());
    let first = promote(&registry(&store), folder.path(), 10, &events);
    let models = open(&store, folder.path(), &clock).unwrap();
    let mut other = EventSettings::default();
    let kind = other.types.values().next().unwrap().clone();
    other.types.insert("ogle".to_owned(), kind);
    promote(&registry(&store), folder.path(), 11, &other);
    clock.advance_ms(60_000);
    assert!(look(&models));
    assert_eq!(models.current().version(), first, "other event types");
    let third = promote(&registry(&store), folder.path(), 13, &events);
    let path = ObjectPath::new(format!("models/{third}/snapshot.anb")).unwrap();
    let mut bytes = store.get(&path).unwrap().to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    store.put(&path, &bytes).unwrap();
    clock.advance_ms(60_000);
    assert!(look(&models));
    assert_eq!(models.current().version(), first, "a flipped bit");
}
