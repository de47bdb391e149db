//! The adapter for Amazon S3 Vectors against a real endpoint: the same conformance suite, over the wire.
//!
//! Runs when `ANABRANCH_TEST_S3VECTORS_ENDPOINT` is set and the vector bucket `ANABRANCH_TEST_S3VECTORS_BUCKET` (default
//! `anabranch-test`) exists there and is empty. moto's server lacks queries; `tests/test_vectors_s3.py` adds them.
#![allow(clippy::unwrap_used, missing_docs)]

use anabranch_stores::ErrorKind;
use anabranch_stores::lake::S3Options;
use anabranch_stores::vectors::testing::{conformance, record};
use anabranch_stores::vectors::{
    Collection, ExactVectors, Filter, Metric, S3Vectors, S3VectorsOptions, Scalar, Search, VectorStore,
};
use serde_json::json;

fn setting(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

fn options(endpoint: String) -> S3VectorsOptions {
    let s3 = S3Options {
        region: Some(setting("AWS_REGION", "us-east-1")),
        access_key_id: Some(setting("AWS_ACCESS_KEY_ID", "test")),
        secret_access_key: Some(setting("AWS_SECRET_ACCESS_KEY", "test")),
        session_token: std::env::var("AWS_SESSION_TOKEN").ok(),
        ..S3Options::default()
    };
    let bucket = setting("ANABRANCH_TEST_S3VECTORS_BUCKET", "anabranch-test");
    S3VectorsOptions { endpoint: Some(endpoint), ..S3VectorsOptions::new(bucket, s3) }
}

fn drop_everything(store: &S3Vectors) {
    for name in ["items", "users", "wire"] {
        for version in store.versions(name).unwrap() {
            assert!(store.drop_version(Collection::new(name, &version).unwrap()).unwrap());
        }
    }
}

#[test]
fn s3_vectors_conform_over_the_wire() {
    let Ok(endpoint) = std::env::var("ANABRANCH_TEST_S3VECTORS_ENDPOINT") else {
        println!("skipped: set ANABRANCH_TEST_S3VECTORS_ENDPOINT to an endpoint of S3 Vectors to run this test");
        return;
    };
    let plain = S3Vectors::connect(options(endpoint.clone())).unwrap();
    conformance(&plain);
    drop_everything(&plain);

    let inner_product = vec!["items".to_owned(), "wire".to_owned()];
    let products = S3Vectors::connect(S3VectorsOptions { inner_product, ..options(endpoint.clone()) }).unwrap();
    conformance(&products);
    many_records(&products);
    drop_everything(&products);

    let nowhere = S3VectorsOptions { bucket: "no-such-bucket-anabranch".to_owned(), ..options(endpoint) };
    let nowhere = S3Vectors::connect(nowhere).unwrap();
    let items = Collection::new("items", "1").unwrap();
    let error = nowhere.upsert(items, &[record("a", &[1.0], json!({}))]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FixInput, "{error}");
    assert_eq!(nowhere.versions("items").unwrap_err().kind(), ErrorKind::FixInput);
    println!("ran over the wire");
}

fn many_records(store: &S3Vectors) {
    let wire = Collection::new("wire", "Version_1.5").unwrap();
    let vector = |index: u32| vec![index as f32 - 700.5, 1.0, (index % 7) as f32, 1e-3];
    let records: Vec<_> = (0..1300)
        .map(|index| record(&format!("{index:04} č🍵\"\\"), &vector(index), json!({"seven": index % 7, "tags": ["x"]})))
        .collect();
    store.upsert(wire, &records).unwrap();
    assert_eq!(store.count(wire).unwrap(), 1300);
    let mut seen = Vec::new();
    store.scan(wire, &mut |record| seen.push(record)).unwrap();
    assert_eq!(seen, records);
    let filter = Filter::And(vec![
        Filter::Eq { field: "seven".to_owned(), value: Scalar::Number(3.0) },
        Filter::Eq { field: "tags".to_owned(), value: Scalar::Text("x".to_owned()) },
    ]);
    let search = Search { metric: Metric::Dot, ..Search::cosine(&[1.0, 0.0, 0.5, 0.0], 5) };
    let exact = ExactVectors::new();
    exact.upsert(wire, &records).unwrap();
    // The last is more than one query gives, so that the collection is read whole.
    for search in [search, search.filtered(&filter), Search { k: 300, ..search }] {
        assert_eq!(store.search(wire, &search).unwrap(), exact.search(wire, &search).unwrap(), "{search:?}");
    }
}
