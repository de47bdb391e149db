//! The ETL on real files, where they are: `ANABRANCH_TEST_DATA`, or `../shared/data` beside the repository.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use super::tests::{World, options};
use super::*;
use crate::dataset::Dataset;

fn data(folder: &str) -> Option<PathBuf> {
    let base = std::env::var("ANABRANCH_TEST_DATA")
        .map_or_else(|_| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data")), PathBuf::from);
    let place = base.join(folder);
    if !place.is_dir() {
        eprintln!("skipped: {} is not there; set ANABRANCH_TEST_DATA", place.display());
        return None;
    }
    Some(place)
}

fn etl(folder: &str, mapping: &Mapping) -> Option<(World, EtlReport)> {
    let input = options(&data(folder)?);
    let world = World::new();
    let scratch = world.folder.path().join("scratch");
    let request = EtlRequest {
        input: &input,
        mapping,
        types: &world.types,
        settings: &EtlSettings::default(),
        as_of_ms: None,
        until_ms: None,
        erased: &|_| None,
        scratch: &scratch,
        threads: 2,
        memory_bytes: MEMORY_BYTES_DEFAULT,
        progress: &|_| {},
        clock_s: &|| 0.0,
    };
    let report = run(&request, &world.store).unwrap().report;
    Some((world, report))
}

#[test]
fn complete_journey_reconciles() {
    let mapping = Mapping::parse(include_str!("../../../../examples/completejourney.toml")).unwrap();
    let Some((world, report)) = etl("completejourney", &mapping) else { return };
    let counts = report.interactions;
    assert_eq!((counts.read, counts.quarantined, counts.filtered), (1_469_307, 0, 0));
    assert_eq!((report.active_users, report.items.read), (2_469, 92_331));
    let dataset = Dataset::current(&world.store).unwrap();
    assert_eq!(dataset.interactions(None).map(Result::unwrap).count() as u64, counts.clean);
    assert_eq!(dataset.catalog().unwrap().len() as u64, report.items.clean);
}

#[test]
fn personalize_needs_no_mapping() {
    let Some((_, report)) = etl("personalize", &Mapping::default()) else { return };
    assert_eq!((report.interactions.read, report.interactions.quarantined), (158_371, 16_364));
    // Ratings given before the year 2000.
    assert_eq!(report.quarantined_by_reason["time-too-old"], 16_364);
    assert!(report.clean_by_event_type["watch"] > 0 && report.clean_by_event_type["click"] > 0);
}

#[test]
fn movielens_maps() {
    let mapping = Mapping::parse(include_str!("../../../../examples/movielens.toml")).unwrap();
    let Some((_, report)) = etl("ml-latest-small", &mapping) else { return };
    assert_eq!((report.interactions.read, report.interactions.quarantined), (100_836, 10_902));
    // Ratings given before the year 2000.
    assert_eq!(report.quarantined_by_reason["time-too-old"], 10_902);
}
