//! The S3 adapter against a real endpoint (MinIO, moto, S3 itself): the same conformance suite.
//!
//! Runs when `ANABRANCH_TEST_S3_ENDPOINT` is set, for example to `http://127.0.0.1:5555`, and the
//! bucket `ANABRANCH_TEST_S3_BUCKET` (default `anabranch-test`) exists there and is empty.
#![allow(clippy::unwrap_used, missing_docs)]

use std::time::SystemTime;

use anabranch_stores::ErrorKind;
use anabranch_stores::lake::{ObjectPath, ObjectStore, RemoteStore, S3Options, StoreOptions, open_store, testing};

fn setting(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

#[test]
fn s3_store_conforms() {
    let Ok(endpoint) = std::env::var("ANABRANCH_TEST_S3_ENDPOINT") else {
        println!("skipped: set ANABRANCH_TEST_S3_ENDPOINT to an S3 endpoint to run this test");
        return;
    };
    let bucket = setting("ANABRANCH_TEST_S3_BUCKET", "anabranch-test");
    let s3 = S3Options {
        allow_http: endpoint.starts_with("http://"),
        endpoint: Some(endpoint),
        access_key_id: Some(setting("AWS_ACCESS_KEY_ID", "test")),
        secret_access_key: Some(setting("AWS_SECRET_ACCESS_KEY", "test")),
        ..S3Options::default()
    };
    let options = StoreOptions { process_started: SystemTime::UNIX_EPOCH, s3 };
    let prefix = format!("run-{}/conformance", std::process::id());
    let store = open_store(&format!("s3://{bucket}/{prefix}"), &options).unwrap();
    testing::conformance(&store);

    // The bucket's view holds the prefix; a store without one sees it.
    let whole = RemoteStore::s3(&bucket, "", &options.s3).unwrap();
    let seen = whole.list(&prefix).unwrap();
    assert_eq!(seen.len(), store.list("").unwrap().len());
    for meta in seen {
        whole.delete(&meta.path).unwrap();
    }
    assert!(store.list("").unwrap().is_empty());

    let path = ObjectPath::new("x").unwrap();
    let nowhere = RemoteStore::s3("no-such-bucket-anabranch", "", &options.s3).unwrap();
    assert_eq!(nowhere.put(&path, b"x").unwrap_err().kind(), ErrorKind::FixInput);
    assert_eq!(nowhere.get(&path).unwrap_err().kind(), ErrorKind::NotFound);
}
