//! The adapter over the service in memory.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::json;

use super::testing::{Behaviour, MemoryS3Vectors, NoPause};
use super::{ApiError, ApiErrorKind, CreateIndex, FoundVector, IndexInfo, ListVectors, Page, PutVector, QueryVectors};
use super::{S3Vectors, S3VectorsApi, S3VectorsOptions, StoredVector};
use crate::ErrorKind;
use crate::lake::S3Options;
use crate::vectors::testing::{conformance, record};
use crate::vectors::{
    Collection, ExactVectors, Filter, Metadata, Metric, Scalar, Search, VectorError, VectorRecord, VectorStore,
};

fn options() -> S3VectorsOptions {
    S3VectorsOptions { attempts_max: 30, ..S3VectorsOptions::new("memory", S3Options::default()) }
}

fn over(api: &Arc<impl S3VectorsApi + 'static>, options: S3VectorsOptions) -> S3Vectors {
    S3Vectors::over(Arc::clone(api) as Arc<dyn S3VectorsApi>, Arc::new(NoPause), options)
}

fn store(behaviour: Behaviour, options: S3VectorsOptions) -> (S3Vectors, Arc<MemoryS3Vectors>) {
    let memory = Arc::new(MemoryS3Vectors::new(behaviour));
    (over(&memory, options), memory)
}

fn with_products(behaviour: Behaviour) -> (S3Vectors, Arc<MemoryS3Vectors>) {
    store(behaviour, S3VectorsOptions { inner_product: vec!["items".to_owned()], ..options() })
}

fn items(version: &str) -> Collection<'_> {
    Collection::new("items", version).unwrap()
}

#[test]
fn s3_vectors_conform() {
    for filters_first in [false, true] {
        for distance_error in [0.0, 0.01] {
            let behaviour = Behaviour { filters_first, distance_error, ..Behaviour::default() };
            conformance(&store(behaviour, options()).0);
            conformance(&with_products(behaviour).0);
        }
    }
}

#[test]
fn s3_vectors_conform_while_calls_fail() {
    for seed in 0..20 {
        let behaviour = Behaviour { failures_per_mille: 300, seed, ..Behaviour::default() };
        println!("seed {seed}");
        conformance(&store(behaviour, options()).0);
        conformance(&with_products(behaviour).0);
    }
}

#[test]
fn many_records_take_many_calls_and_come_back() {
    let (store, _) = with_products(Behaviour { filters_first: true, ..Behaviour::default() });
    let records: Vec<_> = (0..1234)
        .map(|index| record(&format!("{index:04}"), &[1.0, index as f32, -1.0], json!({"odd": index % 2 == 1})))
        .collect();
    store.upsert(items("1"), &records).unwrap();
    assert_eq!(store.count(items("1")).unwrap(), 1234);
    let mut seen = Vec::new();
    store.scan(items("1"), &mut |record| seen.push(record)).unwrap();
    assert_eq!(seen, records);
    let exact = ExactVectors::new();
    exact.upsert(items("1"), &records).unwrap();
    let odd = Filter::Eq { field: "odd".to_owned(), value: Scalar::Bool(true) };
    let even = Filter::Not(Box::new(odd.clone()));
    for metric in [Metric::Cosine, Metric::Dot] {
        for filter in [None, Some(&odd), Some(&even)] {
            // 200 is above what the service gives, so that the collection is scanned.
            for k in [3, 25, 100, 200] {
                let search = Search { query: &[0.3, 1.0, 0.2], k, metric, filter };
                let found = store.search(items("1"), &search).unwrap();
                assert_eq!(found, exact.search(items("1"), &search).unwrap(), "{search:?}");
            }
        }
    }
    let ids: Vec<&str> = records.iter().map(|record| record.id.as_str()).collect();
    assert_eq!(store.delete(items("1"), &ids).unwrap(), 1234);
    assert_eq!(store.count(items("1")).unwrap(), 0);
}

#[test]
fn a_larger_norm_makes_the_index_of_products_anew() {
    let (store, memory) = with_products(Behaviour::default());
    store.upsert(items("1"), &[record("a", &[1.5, 0.0], json!({})), record("b", &[0.0, 0.5], json!({}))]).unwrap();
    assert_eq!(memory.index_names(), ["v1.items.1", "v1.items.1.dot-p1"]);
    store.upsert(items("1"), &[record("c", &[1.0, 1.0], json!({}))]).unwrap();
    assert_eq!(memory.index_names(), ["v1.items.1", "v1.items.1.dot-p1"], "there was head-room");
    store.upsert(items("1"), &[record("d", &[0.0, -9.0], json!({}))]).unwrap();
    assert_eq!(memory.index_names(), ["v1.items.1", "v1.items.1.dot-p4"]);
    assert_eq!(store.versions("items").unwrap(), ["1"]);
    let search = Search { metric: Metric::Dot, ..Search::cosine(&[0.5, -1.0], 4) };
    let found: Vec<(String, f32)> =
        store.search(items("1"), &search).unwrap().into_iter().map(|hit| (hit.id, hit.score)).collect();
    let expected = [("d", 9.0), ("a", 0.75), ("b", -0.5), ("c", -0.5)];
    assert_eq!(found, expected.map(|(id, score)| (id.to_owned(), score)));
    // Beside, nothing else is touched: a collection that was not named has no such index.
    store.upsert(Collection::new("users", "1").unwrap(), &[record("u", &[1.0], json!({}))]).unwrap();
    assert_eq!(memory.index_names().len(), 3);
    assert!(store.drop_version(items("1")).unwrap());
    assert_eq!(memory.index_names(), ["v1.users.1"]);
}

#[test]
fn what_cannot_be_stored_is_refused_before_anything_is_sent() {
    let (store, memory) = with_products(Behaviour::default());
    let good = || record("good", &[1.0], json!({}));
    let large = record("large", &[1.0], json!({"text": "x".repeat(50_000)}));
    let refused = store.upsert(items("1"), &[good(), large]).unwrap_err();
    assert!(matches!(&refused, VectorError::Refused { id, .. } if id == "large"), "{refused}");
    let wide = [record("wide", &[1.0; 4096], json!({}))];
    let refused = store.upsert(items("1"), &wide).unwrap_err();
    assert!(matches!(&refused, VectorError::Refused { id, .. } if id == "wide"), "{refused}");
    let long = "V".repeat(30);
    let refused = store.upsert(items(&long), &[good()]).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::FixInput);
    assert!(refused.to_string().contains("50 characters"), "{refused}");
    assert_eq!(memory.index_names(), Vec::<String>::new());
    // Where no inner products are wanted there is room for all 4,096.
    store.upsert(Collection::new("users", "1").unwrap(), &wide).unwrap();
    assert_eq!(store.get(Collection::new("users", "1").unwrap(), "wide").unwrap().as_ref(), wide.first());
}

#[test]
fn a_scan_past_its_limit_is_refused() {
    let (store, _) = store(Behaviour::default(), S3VectorsOptions { exact_scan_max: 99, ..options() });
    let records: Vec<_> = (0..100).map(|index| record(&index.to_string(), &[1.0, index as f32], json!({}))).collect();
    store.upsert(items("1"), &records).unwrap();
    assert_eq!(store.search(items("1"), &Search::cosine(&[1.0, 1.0], 50)).unwrap().len(), 50);
    for _ in 0..2 {
        let refused = store.search(items("1"), &Search::cosine(&[1.0, 1.0], 101)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::FixInput);
        assert!(refused.to_string().contains("99 records"), "{refused}");
    }
}

#[test]
fn searches_notice_what_another_process_did() {
    let (reader, memory) = with_products(Behaviour::default());
    let writer = over(&memory, S3VectorsOptions { inner_product: vec!["items".to_owned()], ..options() });
    let dot = Search { metric: Metric::Dot, ..Search::cosine(&[1.0, 0.0], 1) };
    let best = |search: &Search<'_>| reader.search(items("1"), search).map(|hits| hits[0].id.clone());
    writer.upsert(items("1"), &[record("a", &[1.0, 0.0], json!({}))]).unwrap();
    assert_eq!(best(&dot).unwrap(), "a");
    writer.upsert(items("1"), &[record("b", &[99.0, 0.0], json!({}))]).unwrap();
    assert_eq!(best(&dot).unwrap(), "b", "the index of products is another");
    writer.drop_version(items("1")).unwrap();
    assert_eq!(best(&dot).unwrap_err().kind(), ErrorKind::NotFound);
    writer.upsert(items("1"), &[record("c", &[1.0, 0.0, 1.0], json!({}))]).unwrap();
    assert_eq!(best(&Search::cosine(&[1.0, 0.0, 0.0], 1)).unwrap(), "c", "its dimension is another");
    writer.drop_version(items("1")).unwrap();
    writer.upsert(items("1"), &[record("d", &[1.0, 0.0], json!({}))]).unwrap();
    assert_eq!(best(&Search::cosine(&[1.0, 0.0], 1)).unwrap(), "d");
}

/// Writes that end for good after a number of calls, as if the process had died.
#[derive(Debug)]
struct CutOff {
    inner: Arc<MemoryS3Vectors>,
    writes_left: std::sync::atomic::AtomicI64,
}

impl CutOff {
    fn write<R>(&self, write: impl FnOnce(&MemoryS3Vectors) -> Result<R, ApiError>) -> Result<R, ApiError> {
        if self.writes_left.fetch_sub(1, std::sync::atomic::Ordering::Relaxed) <= 0 {
            return Err(ApiError::new(ApiErrorKind::Denied, "cut off"));
        }
        write(&self.inner)
    }
}

impl S3VectorsApi for CutOff {
    fn place(&self) -> String {
        self.inner.place()
    }
    fn create_index(&self, index: &CreateIndex<'_>) -> Result<(), ApiError> {
        self.write(|inner| inner.create_index(index))
    }
    fn get_index(&self, index: &str) -> Result<IndexInfo, ApiError> {
        self.inner.get_index(index)
    }
    fn list_indexes(&self, prefix: &str, next: Option<&str>) -> Result<Page<String>, ApiError> {
        self.inner.list_indexes(prefix, next)
    }
    fn delete_index(&self, index: &str) -> Result<(), ApiError> {
        self.write(|inner| inner.delete_index(index))
    }
    fn put_vectors(&self, index: &str, vectors: &[PutVector]) -> Result<(), ApiError> {
        self.write(|inner| inner.put_vectors(index, vectors))
    }
    fn get_vectors(&self, index: &str, keys: &[&str], with_metadata: bool) -> Result<Vec<StoredVector>, ApiError> {
        self.inner.get_vectors(index, keys, with_metadata)
    }
    fn list_vectors(&self, index: &str, list: &ListVectors<'_>) -> Result<Page<StoredVector>, ApiError> {
        self.inner.list_vectors(index, list)
    }
    fn delete_vectors(&self, index: &str, keys: &[&str]) -> Result<(), ApiError> {
        self.write(|inner| inner.delete_vectors(index, keys))
    }
    fn query_vectors(&self, index: &str, query: &QueryVectors<'_>) -> Result<Page<FoundVector>, ApiError> {
        self.inner.query_vectors(index, query)
    }
}

type Step<'a> = (&'static str, Box<dyn Fn(&S3Vectors) -> Result<(), VectorError> + 'a>);

/// Every place that an upsert, a rebuild, a delete or a drop can be cut off at; the same call again makes it whole.
#[test]
fn a_call_that_was_cut_off_is_made_whole_by_the_same_call() {
    let settings = || S3VectorsOptions { inner_product: vec!["items".to_owned()], ..options() };
    let first: Vec<_> = (0..600).map(|index| record(&format!("{index:03}"), &[1.0, index as f32], json!({}))).collect();
    let later = [record("large", &[5000.0, 1.0], json!({})), record("001", &[0.5, 0.5], json!({"new": true}))];
    let gone: Vec<&str> = first[..10].iter().map(|record| record.id.as_str()).collect();
    let steps: Vec<Step<'_>> = vec![
        ("upsert", Box::new(|store| store.upsert(items("1"), &first))),
        ("rebuild", Box::new(|store| store.upsert(items("1"), &later))),
        ("delete", Box::new(|store| store.delete(items("1"), &gone).map(|_| ()))),
        ("drop", Box::new(|store| store.drop_version(items("1")).map(|_| ()))),
    ];
    for step in 0..steps.len() {
        let mut cuts = 0;
        for writes in 0.. {
            let memory = Arc::new(MemoryS3Vectors::new(Behaviour::default()));
            let whole = over(&memory, settings());
            let exact = ExactVectors::new();
            for (name, run) in &steps[..step] {
                run(&whole).unwrap_or_else(|error| panic!("{name}: {error}"));
            }
            let left = std::sync::atomic::AtomicI64::new(writes);
            let cut = over(&Arc::new(CutOff { inner: Arc::clone(&memory), writes_left: left }), settings());
            let ended = steps[step].1(&cut);
            // Whatever lies there now, a search gives no error of its own and nothing that was not put.
            let dot = Search { metric: Metric::Dot, ..Search::cosine(&[1.0, 2.0], 700) };
            match whole.search(items("1"), &dot) {
                Ok(hits) => assert!(hits.len() <= 601),
                Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound),
            }
            steps[step].1(&whole).unwrap();

            let mut expected: Vec<VectorRecord> = first.clone();
            expected.push(later[0].clone());
            expected[1] = later[1].clone();
            match step {
                0 => exact.upsert(items("1"), &first).unwrap(),
                1 => exact.upsert(items("1"), &expected).unwrap(),
                2 => exact.upsert(items("1"), &expected[10..]).unwrap(),
                _ => {}
            }
            if step == 3 {
                assert_eq!(memory.index_names(), Vec::<String>::new());
            } else {
                let dots = memory.index_names().iter().filter(|name| name.contains(".dot-")).count();
                assert_eq!((memory.index_names().len(), dots), (2, 1), "{}", steps[step].0);
                for (metric, k) in [(Metric::Dot, 20), (Metric::Dot, 700), (Metric::Cosine, 20)] {
                    let search = Search { metric, ..Search::cosine(&[1.0, 2.0], k) };
                    let found = whole.search(items("1"), &search).unwrap();
                    assert_eq!(found, exact.search(items("1"), &search).unwrap(), "{} after {writes}", steps[step].0);
                }
            }
            if ended.is_ok() {
                break;
            }
            cuts += 1;
        }
        assert!(cuts >= 2, "{} was cut off {cuts} times", steps[step].0);
    }
}

fn filter() -> impl Strategy<Value = Filter> {
    let field = prop_oneof![Just("genre".to_owned()), Just("year".to_owned()), Just("none".to_owned())];
    let scalar = prop_oneof![
        (0i32..4).prop_map(|number| Scalar::Number(f64::from(number))),
        prop_oneof![Just("a"), Just("b")].prop_map(|text| Scalar::Text(text.to_owned())),
    ];
    let leaf = prop_oneof![
        (field.clone(), scalar).prop_map(|(field, value)| Filter::Eq { field, value }),
        (field, prop::option::of(0.0..4.0f64)).prop_map(|(field, min)| Filter::Range { field, min, max: None }),
    ];
    leaf.prop_recursive(2, 6, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Filter::And),
            prop::collection::vec(inner.clone(), 0..3).prop_map(Filter::Or),
            inner.prop_map(|filter| Filter::Not(Box::new(filter))),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// With a service whose distances are exact to f32, the adapter gives the hits of the exact twin wherever the order
    /// of candidates does not depend on more than 100 of them; it never gives fewer than there are, nor an invented one.
    #[test]
    fn hits_are_those_of_the_exact_twin(
        rows in prop::collection::vec((prop::collection::vec(-3i8..4, 3), 0i32..4, prop::bool::ANY), 1..90),
        query in prop::collection::vec(-3i8..4, 3),
        k in 1usize..120,
        filter in prop::option::of(filter()),
        is_dot in prop::bool::ANY,
        filters_first in prop::bool::ANY,
        distance_error in prop_oneof![Just(0.0f32), Just(0.2)],
    ) {
        let numbers = |row: &[i8]| row.iter().map(|value| f32::from(*value)).collect::<Vec<f32>>();
        let records: Vec<VectorRecord> = rows
            .iter()
            .enumerate()
            .filter(|(_, (row, ..))| row.iter().any(|value| *value != 0))
            .map(|(index, (row, year, is_list))| {
                let genre = if *is_list { json!(["a", "b"]) } else { json!("a") };
                let year = if year % 2 == 0 { json!(year) } else { json!([year, 0]) };
                let mut metadata = Metadata::new();
                metadata.insert("genre".to_owned(), genre);
                metadata.insert("year".to_owned(), year);
                VectorRecord { id: format!("{index:02}"), vector: numbers(row), metadata }
            })
            .collect();
        prop_assume!(!records.is_empty() && query.iter().any(|value| *value != 0));
        let (store, _) = with_products(Behaviour { filters_first, distance_error, ..Behaviour::default() });
        let exact = ExactVectors::new();
        store.upsert(items("1"), &records).unwrap();
        exact.upsert(items("1"), &records).unwrap();
        let query = numbers(&query);
        let metric = if is_dot { Metric::Dot } else { Metric::Cosine };
        let search = Search { query: &query, k, metric, filter: filter.as_ref() };
        let found = store.search(items("1"), &search).unwrap();
        let expected = exact.search(items("1"), &search).unwrap();
        prop_assert_eq!(found.len(), expected.len());
        let all = exact.search(items("1"), &Search { k: 1000, ..search }).unwrap();
        let all: BTreeSet<(String, u32)> = all.into_iter().map(|hit| (hit.id, hit.score.to_bits())).collect();
        for hit in &found {
            prop_assert!(all.contains(&(hit.id.clone(), hit.score.to_bits())), "{hit:?} is invented");
        }
        // Equal scores at the edge of the candidates may be cut by f32; without ties they are the same records.
        if distance_error == 0.0 && (k > 100 || records.len() <= 40) {
            prop_assert_eq!(found, expected);
        }
    }
}
