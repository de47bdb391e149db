#![allow(clippy::unwrap_used)]

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::json;

use super::*;
use crate::ErrorKind;
use crate::lake::{Fault, FaultPlan, FaultyStore, LocalStore, MemoryStore, Operation};

struct Fixture {
    folder: tempfile::TempDir,
    store: Arc<FaultyStore<MemoryStore>>,
    registry: ModelRegistry,
}

fn fixture() -> Fixture {
    let store = Arc::new(FaultyStore::new(MemoryStore::new(), FaultPlan::default()));
    let registry = ModelRegistry::new(Arc::clone(&store) as Arc<dyn ObjectStore>);
    Fixture { folder: tempfile::tempdir().unwrap(), store, registry }
}

impl Fixture {
    fn file(&self, content: &str) -> PathBuf {
        let place = self.folder.path().join("model.anb");
        fs::write(&place, content).unwrap();
        place
    }

    fn publish(&self, content: &str) -> Manifest {
        self.registry.publish(&self.file(content), &json!({"recall": 0.5}), 1000).unwrap()
    }

    fn current(&self) -> Option<String> {
        self.registry.current().unwrap().pointer.map(|pointer| pointer.version.to_string())
    }

    fn put(&self, path: &str, bytes: &[u8]) {
        self.store.inner().put(&ObjectPath::new(path).unwrap(), bytes).unwrap();
    }

    fn delete(&self, path: &str) {
        self.store.inner().delete(&ObjectPath::new(path).unwrap()).unwrap();
    }

    fn script(&self, scripted: impl Into<VecDeque<(Operation, Fault)>>) {
        self.store.set_plan(FaultPlan { scripted: scripted.into(), ..FaultPlan::default() });
    }
}

#[test]
fn a_version_is_the_start_of_the_snapshots_sha256() {
    let fixture = fixture();
    let manifest = fixture.publish("abc");
    // FIPS 180-2, appendix B.1.
    assert_eq!(manifest.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_eq!((manifest.version.as_str(), manifest.size), ("ba7816bf8f01cfea", 3));
}

#[test]
fn publishing_the_same_snapshot_twice_changes_nothing() {
    let fixture = fixture();
    let first = fixture.publish("one");
    let before = fixture.store.inner().list("").unwrap();
    let again = fixture.registry.publish(&fixture.file("one"), &json!({"recall": 0.9}), 2000).unwrap();
    assert_eq!(again, first);
    assert_eq!(fixture.store.inner().list("").unwrap(), before, "not even a rewrite");
    assert_eq!(fixture.current(), None, "publishing promotes nothing");
}

#[test]
fn promotions_are_numbered_and_roll_back_one_by_one() {
    let fixture = fixture();
    let versions = ["one", "two", "three"].map(|content| fixture.publish(content).version.to_string());
    for (index, version) in versions.iter().enumerate() {
        let pointer = fixture.registry.promote(version, "trained", 10).unwrap();
        assert_eq!(pointer.number, index as u64 + 1);
        assert_eq!(fixture.current().as_ref(), Some(version));
    }
    let again = fixture.registry.promote(&versions[2], "once more", 11).unwrap();
    assert_eq!(again.number, 3, "promoting what is current writes nothing");

    assert_eq!(fixture.registry.rollback("worse", 20).unwrap().number, 4);
    assert_eq!(fixture.current().as_ref(), Some(&versions[1]));
    assert_eq!(fixture.registry.rollback("worse still", 21).unwrap().number, 5);
    assert_eq!(fixture.current().as_ref(), Some(&versions[0]));
    let error = fixture.registry.rollback("too far", 22).unwrap_err();
    assert!(matches!(error, RegistryError::NothingBefore { .. }), "{error}");

    let listed = fixture.registry.list().unwrap();
    let promotions = |version: &str| {
        let entry = listed.iter().find(|entry| entry.manifest.version.as_str() == version).unwrap();
        assert_eq!(entry.metrics, Some(json!({"recall": 0.5})));
        (entry.promotions.clone(), entry.is_current)
    };
    assert_eq!(promotions(&versions[0]), (vec![1, 5], true));
    assert_eq!(promotions(&versions[1]), (vec![2, 4], false));
    assert_eq!(promotions(&versions[2]), (vec![3], false));
}

#[test]
fn rolling_back_passes_over_a_model_whose_snapshot_is_gone() {
    let fixture = fixture();
    let versions = ["one", "two", "three"].map(|content| fixture.publish(content).version.to_string());
    for version in &versions {
        fixture.registry.promote(version, "trained", 10).unwrap();
    }
    fixture.delete(&format!("models/{}/snapshot.anb", versions[1]));
    fixture.registry.rollback("worse", 20).unwrap();
    assert_eq!(fixture.current().as_ref(), Some(&versions[0]));
}

#[test]
fn racing_promoters_get_distinct_numbers_and_none_is_lost() {
    let fixture = fixture();
    let versions: Vec<String> = (0..8).map(|index| fixture.publish(&format!("m{index}")).version.to_string()).collect();
    let pointers: Vec<Pointer> = std::thread::scope(|scope| {
        let racers: Vec<_> = versions
            .iter()
            .map(|version| scope.spawn(|| fixture.registry.promote(version, "race", 1).unwrap()))
            .collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).collect()
    });
    let numbers: BTreeSet<u64> = pointers.iter().map(|pointer| pointer.number).collect();
    assert_eq!(numbers, (1..=8).collect());
    let listed = fixture.registry.list().unwrap();
    for pointer in &pointers {
        let entry = listed.iter().find(|entry| entry.manifest.version == pointer.version).unwrap();
        assert_eq!(entry.promotions, [pointer.number]);
    }
    let last = pointers.iter().max_by_key(|pointer| pointer.number).unwrap();
    assert_eq!(fixture.current(), Some(last.version.to_string()));
}

#[test]
fn a_crash_at_any_write_leaves_the_old_model_current_and_a_retry_finishes() {
    // The writes in order: snapshot, metrics, manifest, pointer; each fails before or after landing.
    for fault in [Fault::Before, Fault::After, Fault::Full] {
        for crash_at in 0..4 {
            let fixture = fixture();
            let old = fixture.publish("old").version.to_string();
            fixture.registry.promote(&old, "first", 1).unwrap();
            let job = || -> Result<(), RegistryError> {
                let manifest = fixture.registry.publish(&fixture.file("new"), &json!({}), 2000)?;
                fixture.registry.promote(manifest.version.as_str(), "second", 3).map(|_| ())
            };
            // Slow is no fault: it only lets the write before the crash pass.
            let script: Vec<_> = match crash_at {
                0 => vec![(Operation::Put, fault)],
                1 => vec![(Operation::Put, Fault::Slow), (Operation::Put, fault)],
                2 => vec![(Operation::PutNew, fault)],
                _ => vec![(Operation::PutNew, Fault::Slow), (Operation::PutNew, fault)],
            };
            fixture.script(script);
            job().unwrap_err();
            fixture.script([]);
            let landed = crash_at == 3 && fault == Fault::After;
            let current = fixture.registry.current().unwrap();
            assert!(current.warnings.is_empty(), "a crash leaves nothing invalid: {:?}", current.warnings);
            assert_eq!(fixture.current() == Some(old), !landed, "crash at {crash_at}, {fault:?}");
            job().unwrap();
            let listed = fixture.registry.list().unwrap();
            assert_eq!(listed.len(), 2);
            assert!(listed[1].is_current);
            assert_eq!(listed[1].promotions, [2], "a retry adds no second promotion");
        }
    }
}

#[test]
fn invalid_pointers_are_passed_over_with_a_reason() {
    let fixture = fixture();
    let good = fixture.publish("good");
    let other = fixture.publish("other");
    fixture.registry.promote(good.version.as_str(), "trained", 10).unwrap();
    let pointer = |number: u64, format: u32, sha256: &str| {
        let (version, size) = (&good.version, good.size);
        json!({"format": format, "number": number, "version": version, "sha256": sha256, "size": size,
               "promoted_at_ms": 1, "reason": "", "previous": null})
        .to_string()
    };
    fixture.put("models/pointers/0000000002.json", b"{ half a poi");
    fixture.put("models/pointers/0000000003.json", pointer(3, 2, &good.sha256).as_bytes());
    fixture.put("models/pointers/0000000004.json", pointer(9, 1, &good.sha256).as_bytes());
    fixture.put("models/pointers/0000000005.json", pointer(5, 1, &other.sha256).as_bytes());
    fixture.put("models/pointers/README.txt", b"stray");
    let current = fixture.registry.current().unwrap();
    assert_eq!(current.pointer.unwrap().number, 1);
    assert_eq!(current.warnings.len(), 5, "{:?}", current.warnings);
    assert!(current.warnings.iter().any(|warning| warning.contains("newer anabranch")), "{:?}", current.warnings);

    // A promotion goes above the invalid ones, and a lost snapshot makes its pointer invalid.
    assert_eq!(fixture.registry.promote(other.version.as_str(), "", 11).unwrap().number, 6);
    fixture.put(&format!("models/{}/snapshot.anb", other.version), b"truncat");
    let current = fixture.registry.current().unwrap();
    assert_eq!(current.pointer.unwrap().number, 1);
    assert!(current.warnings[0].contains("7 bytes instead of 5"), "{:?}", current.warnings);
    let error = fixture.registry.promote(other.version.as_str(), "", 12).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    // Publishing the same bytes again mends it.
    fixture.publish("other");
    assert_eq!(fixture.current(), Some(other.version.to_string()));
}

#[test]
fn unknown_versions_are_named() {
    let fixture = fixture();
    for version in ["", "latest", "../x", "0123456789abcdef", "BA7816BF8F01CFEA"] {
        let error = fixture.registry.promote(version, "", 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        assert!(error.to_string().contains(version), "{error}");
    }
    assert!(matches!(fixture.registry.rollback("", 1), Err(RegistryError::NothingCurrent)));
}

#[test]
fn snapshots_are_served_from_the_folder_or_from_a_verified_copy() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let file = folder.path().join("model.anb");
    fs::write(&file, "model bytes").unwrap();
    let local = LocalStore::open(folder.path().join("lake"), SystemTime::UNIX_EPOCH).unwrap();
    let registry = ModelRegistry::new(Arc::new(local));
    let manifest = registry.publish(&file, &json!({}), 1).unwrap();
    let place = registry.local_snapshot(manifest.version.as_str(), &cache).unwrap();
    assert!(place.starts_with(folder.path().join("lake")), "no copy is made of a local file");
    assert!(!cache.exists());
    registry.verify(manifest.version.as_str()).unwrap();
    fs::write(&place, "model bytez").unwrap();
    assert!(matches!(registry.verify(manifest.version.as_str()), Err(RegistryError::Digest { .. })));

    let fixture = fixture();
    let manifest = fixture.publish("model bytes");
    let version = manifest.version.as_str();
    fixture.put(&format!("models/{version}/snapshot.anb"), b"model bytez");
    let error = fixture.registry.local_snapshot(version, &cache).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert_eq!(fs::read_dir(&cache).unwrap().count(), 0, "a bad download leaves nothing");
    fixture.put(&format!("models/{version}/snapshot.anb"), b"model bytes");
    let place = fixture.registry.local_snapshot(version, &cache).unwrap();
    assert_eq!(fs::read_to_string(&place).unwrap(), "model bytes");
    fixture.delete(&format!("models/{version}/snapshot.anb"));
    assert_eq!(fixture.registry.local_snapshot(version, &cache).unwrap(), place, "downloaded once");
}
