//! The PostgreSQL adapter against a real server with pgvector: the same conformance suite, then what only a server has.
//!
//! Runs when `ANABRANCH_TEST_POSTGRES_URL` is set to the URL of an administrator, such as
//! `postgres://postgres@127.0.0.1:5432/postgres`; `tests/test_vectors_postgres.py` starts one. Each test has a schema of
//! its own, those that cut connections a database of their own.
#![allow(clippy::unwrap_used, missing_docs)]

mod faults;
mod filters;
mod server;
mod transport;

use std::collections::BTreeSet;

use anabranch_stores::vectors::{
    Collection, ExactVectors, Filter, Metric, PostgresOptions, PostgresVectors, Scalar, Search, VectorRecord,
    VectorStore, testing,
};
use proptest::test_runner::{Config, TestRng, TestRunner};
use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};
use serde_json::json;

use crate::server::Place;

#[test]
fn postgres_store_conforms() {
    // Every search by the graph, then every search by a scan.
    for (name, exact_scan_max) in [("conforms_graph", 0), ("conforms_scan", 4096)] {
        let Some(place) = Place::schema(name) else { return };
        let store = PostgresVectors::open(PostgresOptions { exact_scan_max, ..place.options() }).unwrap();
        testing::conformance(&store);
        assert_eq!(PostgresVectors::open(place.options()).unwrap().versions("users").unwrap(), ["10", "2"]);
    }
}

fn items(version: &str) -> Collection<'_> {
    Collection::new("items", version).unwrap()
}

fn bits(record: &VectorRecord) -> Vec<u32> {
    record.vector.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn every_bit_comes_back() {
    let Some(place) = Place::schema("bits") else { return };
    let store = PostgresVectors::open(place.options()).unwrap();
    let metadata = json!({
        "z": 1, "a": {"deep": [null, {"x": []}]}, "nul\0key": "nul\0value", "\u{1}": "\u{1}\u{2}", "empty": "",
        "numbers": [2.5, -0.0, 0, 1e300, 5e-324, u64::MAX, i64::MIN, 0.1], "quote\"\\": "'); DROP TABLE format; --", "🍵": "čaj\n"
    });
    let records = [
        testing::record("a\0b", &[1e-45, -0.0, 3.4e38], metadata.clone()),
        testing::record("a", &[f32::MIN_POSITIVE, 1e-30, -3.0e30], json!({})),
        testing::record("\u{1}", &[0.1, 0.2, 0.3], json!({"": ""})),
    ];
    for round in 0..2 {
        store.upsert(items("1"), &records).unwrap();
        for record in &records {
            let found = store.get(items("1"), &record.id).unwrap().unwrap();
            assert_eq!(bits(&found), bits(record), "round {round}");
            assert_eq!(found, *record);
            assert_eq!(
                serde_json::to_string(&found.metadata).unwrap(),
                serde_json::to_string(&record.metadata).unwrap(),
                "even as text"
            );
        }
    }
    // Only the sign of a zero changes: a comparison of numbers would not see it.
    let mut turned = records[0].clone();
    turned.vector[1] = 0.0;
    store.upsert(items("1"), std::slice::from_ref(&turned)).unwrap();
    assert_eq!(bits(&store.get(items("1"), "a\0b").unwrap().unwrap()), bits(&turned));
    assert_eq!(store.count(items("1")).unwrap(), 3);
    assert_eq!(store.delete(items("1"), &["a\0b", "b"]).unwrap(), 1);
}

/// Records on many scales, many of them equal, some with the same direction.
fn varied(count: usize, dim: usize, seed: u64) -> Vec<VectorRecord> {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    (0..count)
        .map(|index| {
            let scale = [1.0, 1e-30, 3.0e30, 1e-3, 1.0][index % 5];
            let vector: Vec<f32> = if index % 7 == 0 {
                vec![scale; dim]
            } else {
                (0..dim).map(|_| scale * (rng.random::<f32>() - 0.5)).collect()
            };
            testing::record(
                &format!("{:05}", index * 7919 % count),
                &vector,
                json!({"half": index % 2 == 0, "n": index % 100}),
            )
        })
        .collect()
}

#[test]
fn a_scan_in_the_server_gives_the_bits_of_the_exact_twin() {
    let Some(place) = Place::schema("scan") else { return };
    let store = PostgresVectors::open(place.options()).unwrap();
    let twin = ExactVectors::new();
    let half = Filter::Eq { field: "half".into(), value: Scalar::Bool(true) };
    for (dim, version) in [(3, "3"), (64, "64"), (2100, "2100")] {
        let records = varied(if dim > 1000 { 60 } else { 900 }, dim, dim as u64);
        store.upsert(items(version), &records).unwrap();
        twin.upsert(items(version), &records).unwrap();
        let mut queries: Vec<Vec<f32>> = records.iter().step_by(records.len() / 12).map(|r| r.vector.clone()).collect();
        queries.extend([vec![1.0; dim], vec![3.0e38; dim], vec![-1e-40; dim]]);
        for query in &queries {
            for (k, filter) in [(1, None), (10, None), (200, Some(&half)), (10, Some(&half)), (10_000, None)] {
                for metric in [Metric::Cosine, Metric::Dot] {
                    let search = Search { query, k, metric, filter };
                    let (found, expected) =
                        (store.search(items(version), &search), twin.search(items(version), &search));
                    assert_eq!(found.unwrap(), expected.unwrap(), "{dim} dimensions, k {k}, {metric:?}, {filter:?}");
                }
            }
        }
        let zero = Search { query: &vec![0.0; dim], k: 7, metric: Metric::Dot, filter: Some(&half) };
        assert_eq!(store.search(items(version), &zero).unwrap(), twin.search(items(version), &zero).unwrap());
    }
}

#[test]
fn the_graph_is_used_and_finds_nearly_all() {
    let Some(place) = Place::schema("graph") else { return };
    let options = PostgresOptions { exact_scan_max: 100, ..place.options() };
    let store = PostgresVectors::open(options).unwrap();
    let twin = ExactVectors::new();
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(7);
    let records: Vec<VectorRecord> = (0..3000)
        .map(|index| {
            let vector: Vec<f32> = (0..16).map(|_| rng.random::<f32>() - 0.5).collect();
            testing::record(&index.to_string(), &vector, json!({"half": index % 2 == 0, "n": index % 100}))
        })
        .collect();
    // In two calls, so that the second finds an index to insert into; then a third that replaces.
    for part in [&records[..2000], &records[2000..], &records[1500..2500]] {
        store.upsert(items("1"), part).unwrap();
    }
    twin.upsert(items("1"), &records).unwrap();
    assert_eq!(store.count(items("1")).unwrap(), 3000);
    let half = Filter::Eq { field: "half".into(), value: Scalar::Bool(true) };
    let few = Filter::Range { field: "n".into(), min: None, max: Some(1.0) };
    let (mut shared, mut total) = (0, 0);
    for filter in [None, Some(&half), Some(&few)] {
        for record in records.iter().step_by(60) {
            let search = Search { filter, ..Search::cosine(&record.vector, 10) };
            let found = store.search(items("1"), &search).unwrap();
            let expected: BTreeSet<(String, u32)> = twin
                .search(items("1"), &search)
                .unwrap()
                .into_iter()
                .map(|hit| (hit.id, hit.score.to_bits()))
                .collect();
            assert_eq!(found.len(), 10);
            shared += found.iter().filter(|hit| expected.contains(&(hit.id.clone(), hit.score.to_bits()))).count();
            total += expected.len();
        }
    }
    assert!(shared * 100 >= total * 97, "recall {shared} of {total}");
    drop(store);
    // The server counts the uses of an index a little later, when the connection ends at the latest.
    let used = "SELECT coalesce(sum(idx_scan), 0)::bigint FROM pg_stat_all_indexes WHERE indexrelname LIKE 'vectors_%_graph' AND schemaname = ";
    place.wait_until(&format!("{used}'{}'", place.schema_name()), |count| count >= 100);
}

#[test]
fn filters_in_sql_select_what_the_port_defines() {
    let Some(place) = Place::schema("filters") else { return };
    let store = PostgresVectors::open(place.options()).unwrap();
    let rng = TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha);
    let mut runner =
        TestRunner::new_with_rng(Config { cases: 40, failure_persistence: None, ..Config::default() }, rng);
    let round = std::cell::Cell::new(0);
    runner
        .run(&(filters::records(), filters::many()), |(metadata, conditions)| {
            round.set(round.get() + 1);
            let version = round.get().to_string();
            let records: Vec<VectorRecord> = metadata
                .into_iter()
                .enumerate()
                .map(|(index, metadata)| VectorRecord { id: index.to_string(), vector: vec![1.0], metadata })
                .collect();
            store.upsert(items(&version), &records).unwrap();
            for filter in &conditions {
                let expected: BTreeSet<&str> =
                    records.iter().filter(|r| filter.matches(&r.metadata)).map(|r| r.id.as_str()).collect();
                let hits = store.search(items(&version), &Search::cosine(&[1.0], 100).filtered(filter)).unwrap();
                let found: BTreeSet<&str> = hits.iter().map(|hit| hit.id.as_str()).collect();
                assert_eq!(found, expected, "{filter:?} on {records:?}");
            }
            store.drop_version(items(&version)).unwrap();
            Ok(())
        })
        .unwrap();
    // As deep and as wide as a filter may be.
    store.upsert(items("deep"), &[testing::record("a", &[1.0], json!({"x": 1}))]).unwrap();
    let one = Filter::Eq { field: "x".into(), value: Scalar::Number(1.0) };
    let deep = (0..900).fold(one, |inner, _| Filter::Not(Box::new(inner)));
    assert_eq!(store.search(items("deep"), &Search::cosine(&[1.0], 1).filtered(&deep)).unwrap().len(), 1);
    let wide = Filter::In { field: "x".into(), values: (0..1000).map(|n| Scalar::Number(f64::from(n))).collect() };
    assert_eq!(store.search(items("deep"), &Search::cosine(&[1.0], 1).filtered(&wide)).unwrap().len(), 1);
}
