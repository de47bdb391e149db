//! The shop is the same everywhere, and the ETL finds exactly what was put into it.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::etl::EtlSettings;
use crate::etl::tests::World;

fn small() -> ShopSettings {
    ShopSettings { users: 200, items: 150, days: 20, ..ShopSettings::default() }
}

#[test]
fn the_etl_finds_the_ground_truth() {
    let mut world = World::new();
    world.settings = EtlSettings::default();
    let truth = shop(&small(), &world.folder.path().join("data")).unwrap();
    let report = world.run().unwrap().report;
    assert_eq!(report.interactions.read, truth.rows);
    assert_eq!(report.interactions.clean, truth.clean);
    assert_eq!(report.interactions.duplicates, truth.duplicates);
    let bad: BTreeMap<String, u64> = report.quarantined_by_reason.clone();
    assert_eq!(bad, truth.bad);
    assert_eq!((report.bots, report.items.clean, report.users.clean), (truth.bots, truth.items, truth.users));
    assert!(truth.log_ins > 10 && report.histories.sessions > 0);
}

#[test]
fn the_same_settings_give_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (folder.path().join("a"), folder.path().join("b"));
    shop(&small(), &a).unwrap();
    shop(&small(), &b).unwrap();
    let files = |folder: &std::path::Path| {
        let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        files.into_iter().map(|file| std::fs::read(file).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(files(&a), files(&b));
}

#[test]
fn scale_rows_reconcile() {
    let mut world = World::new();
    let settings = ScaleSettings { seed: 7, rows: 50_000, days: 30 };
    let truth = scale(&settings, &world.folder.path().join("data")).unwrap();
    world.settings.keep_going = false;
    let counts = world.run().unwrap().report.interactions;
    assert_eq!((counts.read, counts.quarantined), (truth.rows, truth.bad["missing-item"]));
    // Two fresh rows may say the same by chance.
    assert!(counts.duplicates >= truth.duplicates && counts.duplicates < truth.duplicates + 20);
}
