//! The conformance suite of the port. It panics on the first broken promise.

use serde_json::json;

use super::{Collection, Filter, Hit, Metric, Scalar, Search, VectorError, VectorRecord, VectorStore};
use crate::ErrorKind;

/// Checks every promise of [`VectorStore`] on `store`, which must be empty.
pub fn conformance(store: &dyn VectorStore) {
    nothing_is_there(store);
    records_come_back(store);
    bad_records_change_nothing(store);
    order_is_total(store);
    metrics_differ(store);
    filters_select(store);
    deletes_are_seen(store);
    versions_are_separate(store);
    searches_are_checked(store);
}

/// A record for tests.
///
/// # Panics
/// If `metadata` is not a JSON object.
pub fn record(id: &str, vector: &[f32], metadata: serde_json::Value) -> VectorRecord {
    let serde_json::Value::Object(metadata) = metadata else { panic!("metadata is an object") };
    VectorRecord { id: id.to_owned(), vector: vector.to_vec(), metadata }
}

fn items(version: &str) -> Collection<'_> {
    Collection::new("items", version).expect("the suite's names are valid")
}

fn ids(hits: &[Hit]) -> Vec<&str> {
    hits.iter().map(|hit| hit.id.as_str()).collect()
}

fn nothing_is_there(store: &dyn VectorStore) {
    let nowhere = items("nowhere");
    assert_eq!(store.count(nowhere).expect("counts"), 0);
    assert_eq!(store.get(nowhere, "a").expect("answers"), None);
    assert_eq!(store.delete(nowhere, &["a"]).expect("answers"), 0);
    assert!(!store.drop_version(nowhere).expect("answers"));
    assert_eq!(store.versions("items").expect("lists"), Vec::<String>::new());
    store.scan(nowhere, &mut |_| panic!("nothing to visit")).expect("scans");
    let error = store.search(nowhere, &Search::cosine(&[1.0], 1)).expect_err("unknown collection");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    store.upsert(nowhere, &[]).expect("an empty upsert makes nothing");
    assert_eq!(store.versions("items").expect("lists"), Vec::<String>::new());
    for bad in ["", "a/b", "a b", "é", &"x".repeat(65)] {
        assert!(Collection::new(bad, "1").is_err() && Collection::new("items", bad).is_err(), "{bad:?}");
    }
}

fn records_come_back(store: &dyn VectorStore) {
    let records = [
        record("b", &[0.5, -2.0], json!({"title": "B", "price": 2.5, "tags": ["x", "y"], "nested": {"deep": null}})),
        record("čaj 🍵", &[1e-30, 0.0], json!({})),
        record(&"l".repeat(256), &[3.0e30, 1.0], json!({"title": "long"})),
        record("a", &[1.0, 0.25], json!({"title": "A"})),
    ];
    store.upsert(items("crud"), &records).expect("upserts");
    assert_eq!(store.count(items("crud")).expect("counts"), 4);
    for record in &records {
        assert_eq!(store.get(items("crud"), &record.id).expect("gets").as_ref(), Some(record));
    }
    assert_eq!(store.get(items("crud"), &"l".repeat(1000)).expect("gets"), None);
    let mut seen = Vec::new();
    store.scan(items("crud"), &mut |record| seen.push(record.id)).expect("scans");
    let mut expected: Vec<_> = records.iter().map(|record| record.id.clone()).collect();
    expected.sort_unstable();
    assert_eq!(seen, expected);
    let replaced = record("b", &[7.0, 7.0], json!({"title": "new"}));
    store.upsert(items("crud"), std::slice::from_ref(&replaced)).expect("replaces");
    assert_eq!(store.get(items("crud"), "b").expect("gets"), Some(replaced));
    assert_eq!(store.count(items("crud")).expect("counts"), 4);
    let hits = store.search(items("crud"), &Search::cosine(&[1.0, 1.0], 1)).expect("searches");
    assert_eq!(ids(&hits), ["b"], "the new vector is found");
}

fn bad_records_change_nothing(store: &dyn VectorStore) {
    let good = record("good", &[1.0, 2.0], json!({}));
    store.upsert(items("bad"), std::slice::from_ref(&good)).expect("upserts");
    let cases = [
        record("zero", &[0.0, -0.0], json!({})),
        record("nan", &[1.0, f32::NAN], json!({})),
        record("infinite", &[f32::NEG_INFINITY, 1.0], json!({})),
        record("short", &[1.0], json!({})),
        record("long", &[1.0, 1.0, 1.0], json!({})),
        record("empty", &[], json!({})),
        record("", &[1.0, 1.0], json!({})),
        record(&"x".repeat(257), &[1.0, 1.0], json!({})),
        record("fresh", &[1.0, 1.0], json!({})),
    ];
    for bad in cases {
        let fresh = record("fresh", &[1.0, 1.0], json!({}));
        let error = store.upsert(items("bad"), &[fresh, bad.clone()]).expect_err("a bad record is refused");
        let named =
            matches!(&error, VectorError::Refused { id, .. } | VectorError::Dimension { id, .. } if *id == bad.id);
        assert!(named, "{error}");
        assert_eq!(error.kind(), ErrorKind::FixInput);
        assert_eq!(store.count(items("bad")).expect("counts"), 1, "all or nothing: {error}");
        let error = store.upsert(items("bad-first"), &[bad.clone(), bad]).expect_err("refused as the first");
        assert_eq!(error.kind(), ErrorKind::FixInput);
    }
    assert_eq!(store.versions("items").expect("lists"), ["bad", "crud"], "a refused upsert makes no collection");
}

fn order_is_total(store: &dyn VectorStore) {
    let same: Vec<_> = ["d", "b", "e", "a", "c"].iter().map(|id| record(id, &[2.0, 0.0], json!({}))).collect();
    store.upsert(items("order"), &same).expect("upserts");
    store
        .upsert(items("order"), &[record("z", &[-1.0, 0.0], json!({})), record("y", &[0.0, 5.0], json!({}))])
        .expect("upserts");
    let hits = store.search(items("order"), &Search::cosine(&[0.5, 0.0], 10)).expect("searches");
    assert_eq!(ids(&hits), ["a", "b", "c", "d", "e", "y", "z"]);
    let scores: Vec<f32> = hits.iter().map(|hit| hit.score).collect();
    assert_eq!(scores, [1.0, 1.0, 1.0, 1.0, 1.0, 0.0, -1.0]);
    let hits = store.search(items("order"), &Search::cosine(&[0.5, 0.0], 3)).expect("searches");
    assert_eq!(hits.len(), 3);
    assert!(hits.iter().all(|hit| hit.score.to_bits() == 1.0f32.to_bits()));
    assert!(store.search(items("order"), &Search::cosine(&[1.0, 0.0], 0)).expect("searches").is_empty());
}

fn metrics_differ(store: &dyn VectorStore) {
    let near = record("near", &[1.0, 0.1], json!({}));
    let large = record("large", &[10.0, 10.0], json!({}));
    store.upsert(items("metric"), &[near, large]).expect("upserts");
    let cosine = Search::cosine(&[1.0, 0.0], 2);
    assert_eq!(ids(&store.search(items("metric"), &cosine).expect("searches")), ["near", "large"]);
    let dot = Search { metric: Metric::Dot, ..cosine };
    let hits = store.search(items("metric"), &dot).expect("searches");
    assert_eq!(hits, [Hit { id: "large".into(), score: 10.0 }, Hit { id: "near".into(), score: 1.0 }]);
}

fn filters_select(store: &dyn VectorStore) {
    let text = |field: &str, value: &str| Filter::Eq { field: field.into(), value: Scalar::Text(value.into()) };
    let range = |min, max| Filter::Range { field: "price".into(), min, max };
    store
        .upsert(
            items("filter"),
            &[
                record("a", &[1.0, 0.0], json!({"genre": "drama", "price": 1, "stock": true})),
                record("b", &[1.0, 0.1], json!({"genre": ["drama", "comedy"], "price": 2.5, "stock": false})),
                record("c", &[1.0, 0.2], json!({"genre": "comedy", "price": -3, "stock": "true"})),
                record("d", &[1.0, 0.3], json!({"genre": null, "price": "2.5"})),
            ],
        )
        .expect("upserts");
    let stock = Filter::Eq { field: "stock".into(), value: Scalar::Bool(true) };
    let listed = Filter::In { field: "price".into(), values: vec![Scalar::Number(1.0), Scalar::Text("2.5".into())] };
    let cases: Vec<(Filter, &[&str])> = vec![
        (text("genre", "drama"), &["a", "b"]),
        (text("genre", "comedy"), &["b", "c"]),
        (text("genre", "Drama"), &[]),
        (text("missing", "drama"), &[]),
        (stock, &["a"]),
        (listed, &["a", "d"]),
        (Filter::In { field: "price".into(), values: vec![] }, &[]),
        (range(Some(1.0), Some(2.5)), &["a", "b"]),
        (range(None, Some(0.0)), &["c"]),
        (range(Some(-3.0), None), &["a", "b", "c"]),
        (range(None, None), &["a", "b", "c"]),
        (range(Some(2.0), Some(1.0)), &[]),
        (Filter::Not(Box::new(text("genre", "drama"))), &["c", "d"]),
        (Filter::And(vec![text("genre", "drama"), text("genre", "comedy")]), &["b"]),
        (Filter::Or(vec![range(None, Some(0.0)), text("price", "2.5")]), &["c", "d"]),
        (Filter::And(vec![]), &["a", "b", "c", "d"]),
        (Filter::Or(vec![]), &[]),
    ];
    for (filter, expected) in cases {
        let search = Search::cosine(&[1.0, 0.0], 10).filtered(&filter);
        let hits = store.search(items("filter"), &search).expect("searches");
        assert_eq!(ids(&hits), expected, "{filter:?}");
    }
    store.upsert(items("filter"), &[record("a", &[1.0, 0.0], json!({"genre": "opera"}))]).expect("upserts");
    let drama = text("genre", "drama");
    let search = Search::cosine(&[1.0, 0.0], 10).filtered(&drama);
    assert_eq!(ids(&store.search(items("filter"), &search).expect("searches")), ["b"], "old metadata is gone");
}

fn deletes_are_seen(store: &dyn VectorStore) {
    let records: Vec<_> = (0..40)
        .map(|index| record(&format!("{index:02}"), &[1.0, index as f32], json!({"even": index % 2 == 0})))
        .collect();
    store.upsert(items("delete"), &records).expect("upserts");
    assert_eq!(store.delete(items("delete"), &["00", "01", "nobody", "00"]).expect("deletes"), 2);
    assert_eq!(store.count(items("delete")).expect("counts"), 38);
    assert_eq!(store.get(items("delete"), "00").expect("gets"), None);
    let hits = store.search(items("delete"), &Search::cosine(&[1.0, 0.0], 2)).expect("searches");
    assert_eq!(ids(&hits), ["02", "03"]);
    let all: Vec<&str> = records.iter().map(|record| record.id.as_str()).collect();
    assert_eq!(store.delete(items("delete"), &all).expect("deletes"), 38);
    assert!(store.search(items("delete"), &Search::cosine(&[1.0, 0.0], 2)).expect("searches").is_empty());
    store.upsert(items("delete"), &records[..1]).expect("an emptied collection takes records again");
    let hits = store.search(items("delete"), &Search::cosine(&[1.0, 0.0], 2)).expect("searches");
    assert_eq!(ids(&hits), ["00"]);
}

fn versions_are_separate(store: &dyn VectorStore) {
    let users = |version| Collection::new("users", version).expect("valid");
    let item = |x: f32| [record("same id", &[x, 1.0], json!({}))];
    store.upsert(users("2"), &item(1.0)).expect("upserts");
    store.upsert(users("10"), &item(2.0)).expect("upserts");
    store.upsert(items("2"), &[record("same id", &[1.0, 2.0, 3.0], json!({}))]).expect("its own dimension");
    assert_eq!(store.versions("users").expect("lists"), ["10", "2"]);
    assert!(store.drop_version(users("2")).expect("drops"));
    assert!(!store.drop_version(users("2")).expect("answers"));
    assert_eq!(store.versions("users").expect("lists"), ["10"]);
    assert_eq!(store.get(users("2"), "same id").expect("gets"), None);
    let kept = store.get(users("10"), "same id").expect("gets").map(|record| record.vector);
    assert_eq!(kept, Some(vec![2.0, 1.0]));
    assert_eq!(store.count(items("2")).expect("counts"), 1);
    let hits = store.search(users("10"), &Search::cosine(&[2.0, 1.0], 5)).expect("searches");
    assert_eq!(ids(&hits), ["same id"]);
    store.upsert(users("2"), &[record("again", &[1.0], json!({}))]).expect("a dropped version starts anew");
    assert_eq!(store.get(users("2"), "same id").expect("gets"), None);
}

fn searches_are_checked(store: &dyn VectorStore) {
    let zero = [0.0, 0.0];
    let good = Search::cosine(&[1.0, 1.0], 1);
    let nan = Filter::Not(Box::new(Filter::Range { field: "x".into(), min: Some(f64::NAN), max: None }));
    let huge = Filter::In { field: "x".into(), values: vec![Scalar::Bool(true); 1001] };
    let bad = [
        Search { query: &zero, ..good },
        Search { query: &[1.0], ..good },
        Search { query: &[f32::NAN, 1.0], ..good },
        Search { query: &[f32::INFINITY, 1.0], metric: Metric::Dot, ..good },
        Search { k: 10_001, ..good },
        good.filtered(&nan),
        good.filtered(&huge),
    ];
    for search in bad {
        let error = store.search(items("order"), &search).expect_err("a bad search is refused");
        assert_eq!(error.kind(), ErrorKind::FixInput, "{error}");
    }
    let dot = Search { query: &zero, metric: Metric::Dot, ..good };
    assert_eq!(store.search(items("order"), &dot).expect("zero has an inner product").len(), 1);
}
