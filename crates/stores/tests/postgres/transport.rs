//! What a server refuses and how it is told: formats, rights, passwords, certificates.

use anabranch_stores::ErrorKind;
use anabranch_stores::vectors::{PostgresOptions, PostgresVectors, VectorError, VectorStore, testing};
use serde_json::json;

use crate::items;
use crate::server::Place;

#[test]
fn a_newer_format_is_refused() {
    let Some(place) = Place::schema("newer") else { return };
    drop(PostgresVectors::open(place.options()).unwrap());
    place.run(&format!("UPDATE {}.format SET version = 2", place.schema_name()));
    let error = PostgresVectors::open(place.options()).unwrap_err();
    assert!(matches!(&error, VectorError::Format { found, .. } if found == "2"), "{error}");
    place.run(&format!("DELETE FROM {}.format", place.schema_name()));
    assert_eq!(PostgresVectors::open(place.options()).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn rights_that_lack_are_named() {
    let Some(place) = Place::database("rights") else { return };
    let user = format!("poor_{}", std::process::id());
    place.run(&format!("CREATE ROLE {user} LOGIN"));
    let mut poor = place.options();
    let after = poor.url.split_once('@').unwrap().1.to_owned();
    poor.url = format!("postgres://{user}@{after}");
    let told = |options: &PostgresOptions| {
        let error = PostgresVectors::open(options.clone()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FixInput, "{error}");
        error.to_string()
    };
    assert!(told(&poor).contains("CREATE EXTENSION vector;"));
    place.run("CREATE EXTENSION vector");
    assert!(told(&poor).contains("grant"));
    // The schema made by another is enough for reading.
    drop(PostgresVectors::open(place.options()).unwrap());
    assert!(told(&poor).contains("grant"));
    place.run(&format!(
        "GRANT USAGE ON SCHEMA anabranch TO {user}; GRANT SELECT ON ALL TABLES IN SCHEMA anabranch TO {user}"
    ));
    let store = PostgresVectors::open(poor.clone()).unwrap();
    assert_eq!(store.count(items("1")).unwrap(), 0);
    let error = store.upsert(items("1"), &[testing::record("a", &[1.0], json!({}))]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FixInput, "{error}");
    drop(store);
    let nowhere = PostgresOptions { url: place.url_of(Some("no_such_database")), ..place.options() };
    assert!(told(&nowhere).contains("no_such_database"));
    place.run(&format!("DROP OWNED BY {user}; DROP ROLE {user}"));
}

#[test]
fn nobody_listens() {
    let mut options = PostgresOptions::new("postgres://me:secret@127.0.0.1:1/shop");
    options.connect_timeout = std::time::Duration::from_secs(2);
    let error = PostgresVectors::open(options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Retry, "{error}");
    assert!(!error.to_string().contains("secret"), "{error}");
}

/// `ANABRANCH_TEST_POSTGRES_TLS_URL` names a user with the password `ANABRANCH_TEST_POSTGRES_PASSWORD`, on a server that
/// takes nothing but TLS and whose certificate for `localhost` and 127.0.0.1 is signed by
/// `ANABRANCH_TEST_POSTGRES_CA`; `ANABRANCH_TEST_POSTGRES_OTHER_CA` signed nothing.
#[test]
fn encrypted_and_verified() {
    let read = |name: &str| std::env::var(format!("ANABRANCH_TEST_POSTGRES_{name}")).ok();
    let (Some(url), Some(password), Some(ca), Some(other_ca)) =
        (read("TLS_URL"), read("PASSWORD"), read("CA"), read("OTHER_CA"))
    else {
        println!("skipped: set ANABRANCH_TEST_POSTGRES_TLS_URL, _PASSWORD, _CA and _OTHER_CA to run this test");
        return;
    };
    let with = |mode: &str, ca: Option<&String>, password: &str| PostgresOptions {
        password: Some(password.to_owned()),
        authorities: ca.map(|file| std::fs::read(file).unwrap()),
        schema: format!("tls_{}", std::process::id()),
        ..PostgresOptions::new(format!("{url}{mode}"))
    };
    let refused = |options: PostgresOptions| {
        let error = PostgresVectors::open(options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FixInput, "{error}");
        assert!(!error.to_string().contains(&password), "{error}");
        error.to_string()
    };
    for mode in ["", "?sslmode=prefer", "?sslmode=require", "?sslmode=verify-full"] {
        let store = PostgresVectors::open(with(mode, Some(&ca), &password)).unwrap();
        assert_eq!(store.count(items("none")).unwrap(), 0, "{mode}");
    }
    // As libpq's default: encrypted, to whoever answers.
    let store = PostgresVectors::open(with("", None, &password)).unwrap();
    store.upsert(items("1"), &[testing::record("a", &[1.0], json!({}))]).unwrap();
    assert!(store.drop_version(items("1")).unwrap());
    assert!(refused(with("?sslmode=require", None, &password)).contains("authority"));
    assert!(refused(with("", Some(&other_ca), &password)).contains("authority"));
    assert!(refused(with("?sslmode=disable", None, &password)).contains("28000"));
    assert!(refused(with("", Some(&ca), "not the one")).contains("28P01"));
}
