#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::Path;

use proptest::prelude::*;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use serde_json::json;

use super::testing::{conformance, record};
use super::*;
use crate::ErrorKind;

/// Small maps keep the tests' folders small on file systems without sparse files.
const MAP_BYTES: usize = 256 << 20;

/// Options under which every collection has a graph and every search that may use it does.
fn always_graph() -> EmbeddedOptions {
    let indexed = ["items", "users"].map(str::to_owned).to_vec();
    EmbeddedOptions { map_bytes: MAP_BYTES, indexed, exact_scan_max: 0, ..EmbeddedOptions::default() }
}

fn embedded(folder: &Path) -> EmbeddedVectors {
    EmbeddedVectors::open(folder, always_graph()).unwrap()
}

fn items() -> Collection<'static> {
    Collection::new("items", "v1").unwrap()
}

fn ids(hits: &[Hit]) -> Vec<&str> {
    hits.iter().map(|hit| hit.id.as_str()).collect()
}

#[test]
fn exact_store_conforms() {
    conformance(&ExactVectors::new());
}

#[test]
fn embedded_store_conforms_with_scans_and_with_graphs() {
    for options in [always_graph(), EmbeddedOptions { exact_scan_max: 4096, ..always_graph() }] {
        let folder = tempfile::tempdir().unwrap();
        conformance(&EmbeddedVectors::open(folder.path(), options).unwrap());
    }
}

#[test]
fn records_index_and_filters_survive_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let records: Vec<_> = (0..200)
        .map(|index| record(&format!("{index:03}"), &[1.0, index as f32 / 50.0, 0.3], json!({"n": index})))
        .collect();
    let query = [1.0, 2.0, 0.3];
    let filter = Filter::Range { field: "n".to_owned(), min: Some(150.0), max: None };
    let answers = |store: &EmbeddedVectors| {
        let plain = store.search(items(), &Search::cosine(&query, 5)).unwrap();
        let filtered = store.search(items(), &Search::cosine(&query, 5).filtered(&filter)).unwrap();
        (plain, filtered, store.count(items()).unwrap())
    };
    let store = embedded(folder.path());
    store.upsert(items(), &records).unwrap();
    let before = answers(&store);
    assert_eq!(before.2, 200);
    assert_eq!(before.1[0].id, "150");
    drop(store);
    assert_eq!(answers(&embedded(folder.path())), before);
}

#[test]
fn a_second_writer_is_refused_and_a_reader_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let read_only = || EmbeddedOptions { access: Access::ReadOnly, ..always_graph() };
    let missing = EmbeddedVectors::open(folder.path(), read_only()).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound, "{missing}");
    let store = embedded(folder.path());
    store.upsert(items(), &[record("a", &[1.0], json!({}))]).unwrap();
    let error = EmbeddedVectors::open(folder.path(), always_graph()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
    assert!(error.to_string().contains(&folder.path().display().to_string()), "{error}");
    drop(store);
    let reader = EmbeddedVectors::open(folder.path(), read_only()).unwrap();
    assert_eq!(reader.count(items()).unwrap(), 1);
    let error = reader.upsert(items(), &[record("b", &[1.0], json!({}))]).unwrap_err();
    assert!(matches!(error, VectorError::ReadOnly { .. }), "{error}");
    assert!(matches!(reader.drop_version(items()), Err(VectorError::ReadOnly { .. })));
}

#[test]
fn a_full_map_changes_nothing_and_a_larger_one_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let small = EmbeddedOptions { map_bytes: 1 << 20, ..always_graph() };
    let store = EmbeddedVectors::open(folder.path(), small).unwrap();
    store.upsert(items(), &[record("first", &[1.0; 64], json!({}))]).unwrap();
    let many = clustered(3, 5000, 64, 10);
    let error = store.upsert(items(), &many).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full, "{error}");
    assert_eq!(store.count(items()).unwrap(), 1, "all or nothing");
    assert!(store.get(items(), "first").unwrap().is_some());
    drop(store);
    let store = embedded(folder.path());
    store.upsert(items(), &many[..500]).unwrap();
    assert_eq!(store.count(items()).unwrap(), 501);
}

#[test]
fn a_foreign_file_is_damaged_not_a_panic() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("data.mdb"), vec![0x5a; 16384]).unwrap();
    let error = EmbeddedVectors::open(folder.path(), always_graph()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
}

/// Vectors around `centre_count` random centres, as item factors lie in genres.
fn clustered(seed: u64, count: usize, dim: usize, centre_count: usize) -> Vec<VectorRecord> {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    // Irwin–Hall: the sum of twelve uniforms is close to a normal of variance 1.
    let mut normal = move || (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0;
    let centres: Vec<Vec<f32>> = (0..centre_count).map(|_| (0..dim).map(|_| normal()).collect()).collect();
    (0..count)
        .map(|index| {
            let centre = &centres[index % centre_count];
            let vector: Vec<f32> = centre.iter().map(|value| value + 0.6 * normal()).collect();
            record(&format!("item-{index:05}"), &vector, json!({"genre": index % centre_count, "even": index % 2 == 0}))
        })
        .collect()
}

fn recall(exact: &[Hit], found: &[Hit]) -> f64 {
    let exact: BTreeSet<&str> = ids(exact).into_iter().collect();
    ids(found).iter().filter(|id| exact.contains(*id)).count() as f64 / exact.len() as f64
}

#[test]
fn the_graph_finds_the_exact_neighbours_also_filtered_and_after_deletes() {
    let folder = tempfile::tempdir().unwrap();
    let (store, twin) = (embedded(folder.path()), ExactVectors::new());
    let records = clustered(11, 5000, 32, 40);
    let (first, second) = records.split_at(4000);
    let stores: [&dyn VectorStore; 2] = [&store, &twin];
    for store in stores {
        store.upsert(items(), first).unwrap();
        store.upsert(items(), second).unwrap();
    }
    let even = Filter::Eq { field: "even".to_owned(), value: Scalar::Bool(true) };
    let mean_recall = |step: usize, filter: Option<&Filter>| {
        let queries: Vec<_> = records.iter().step_by(step).collect();
        let total: f64 = queries
            .iter()
            .map(|query| {
                let search = Search { filter, ..Search::cosine(&query.vector, 10) };
                let (exact, found) = (twin.search(items(), &search).unwrap(), store.search(items(), &search).unwrap());
                assert_eq!(found.len(), exact.len());
                for hit in &found {
                    if let Some(same) = exact.iter().find(|other| other.id == hit.id) {
                        assert_eq!(same.score.to_bits(), hit.score.to_bits(), "scores are exact");
                    }
                }
                recall(&exact, &found)
            })
            .sum();
        total / queries.len() as f64
    };
    assert!(mean_recall(50, None) >= 0.99);
    assert!(mean_recall(100, Some(&even)) >= 0.99);
    let gone: Vec<&str> = records.iter().step_by(3).map(|record| record.id.as_str()).collect();
    for store in stores {
        assert_eq!(store.delete(items(), &gone).unwrap(), gone.len() as u64);
    }
    assert!(mean_recall(50, None) >= 0.99, "after deleting a third");
}

/// One step of a random history of a collection.
#[derive(Debug, Clone)]
enum Step {
    Upsert(Vec<(u8, u8)>),
    Delete(Vec<u8>),
    Drop,
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let ids = || prop::collection::vec((0u8..40, any::<u8>()), 1..30);
    let step = prop_oneof![
        6 => ids().prop_map(Step::Upsert),
        3 => prop::collection::vec(0u8..40, 1..25).prop_map(Step::Delete),
        1 => Just(Step::Drop),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..14)
}

/// A record drawn from few ids and 256 vectors, so that histories collide often.
fn drawn(id: u8, seed: u8) -> VectorRecord {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(u64::from(seed));
    let vector: Vec<f32> = (0..4).map(|_| rng.random::<f32>() - 0.5).collect();
    let metadata = json!({"n": f64::from(seed % 8) - 3.5, "t": [format!("t{}", seed % 3), seed % 5], "b": seed > 99});
    record(&format!("id{id}"), &vector, metadata)
}

fn filters() -> impl Strategy<Value = Filter> {
    let scalar = || {
        prop_oneof![
            (0u8..6).prop_map(|number| Scalar::Number(f64::from(number))),
            (0u8..4).prop_map(|number| Scalar::Text(format!("t{number}"))),
            any::<bool>().prop_map(Scalar::Bool),
        ]
    };
    let field = || prop::sample::select(vec!["n", "t", "b", "none"]).prop_map(str::to_owned);
    let bound = || prop::option::of((-4i8..5).prop_map(|number| f64::from(number) / 2.0));
    let leaf = prop_oneof![
        (field(), scalar()).prop_map(|(field, value)| Filter::Eq { field, value }),
        (field(), prop::collection::vec(scalar(), 0..3)).prop_map(|(field, values)| Filter::In { field, values }),
        (field(), bound(), bound()).prop_map(|(field, min, max)| Filter::Range { field, min, max }),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Filter::And),
            prop::collection::vec(inner.clone(), 0..3).prop_map(Filter::Or),
            inner.prop_map(|filter| Filter::Not(Box::new(filter))),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn any_history_leaves_the_embedded_store_equal_to_its_twin(
        steps in steps(),
        filter in filters(),
        query in prop::array::uniform4(1i8..9),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let (mut store, twin) = (Some(embedded(folder.path())), ExactVectors::new());
        for step in steps {
            match step {
                Step::Reopen => {
                    drop(store.take());
                    store = Some(embedded(folder.path()));
                }
                Step::Upsert(drawn_ids) => {
                    let records: Vec<_> = drawn_ids.iter().map(|(id, seed)| drawn(*id, *seed)).collect();
                    let ours = store.as_ref().unwrap().upsert(items(), &records);
                    // A repeated id refuses both calls alike.
                    prop_assert_eq!(ours.is_ok(), twin.upsert(items(), &records).is_ok());
                }
                Step::Delete(gone) => {
                    let gone: Vec<String> = gone.iter().map(|id| format!("id{id}")).collect();
                    let gone: Vec<&str> = gone.iter().map(String::as_str).collect();
                    let ours = store.as_ref().unwrap().delete(items(), &gone).unwrap();
                    prop_assert_eq!(ours, twin.delete(items(), &gone).unwrap());
                }
                Step::Drop => {
                    let ours = store.as_ref().unwrap().drop_version(items()).unwrap();
                    prop_assert_eq!(ours, twin.drop_version(items()).unwrap());
                }
            }
        }
        let store = store.unwrap();
        prop_assert_eq!(store.versions("items").unwrap(), twin.versions("items").unwrap());
        let contents = |store: &dyn VectorStore| {
            let mut records = Vec::new();
            store.scan(items(), &mut |record| records.push(record)).unwrap();
            records
        };
        prop_assert_eq!(contents(&store), contents(&twin));
        prop_assert_eq!(store.count(items()).unwrap(), twin.count(items()).unwrap());
        let query = query.map(f32::from);
        let with = |k, metric, filter| Search { query: &query, k, metric, filter };
        // As many hits as there are records, or inner products: both scan, and must be equal.
        // Few hits by cosine: at this size the beam holds the whole graph, so these are equal too.
        for search in [
            with(100, Metric::Cosine, Some(&filter)),
            with(3, Metric::Dot, Some(&filter)),
            with(5, Metric::Cosine, None),
            with(5, Metric::Cosine, Some(&filter)),
        ] {
            match twin.search(items(), &search) {
                Ok(expected) => prop_assert_eq!(store.search(items(), &search).unwrap(), expected),
                Err(_) => prop_assert!(store.search(items(), &search).is_err()),
            }
        }
    }
}
