//! Many callers at once, connections that are cut, a server that is started again.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};

use anabranch_stores::ErrorKind;
use anabranch_stores::vectors::{
    Collection, PostgresOptions, PostgresVectors, Search, VectorRecord, VectorStore, testing,
};
use serde_json::json;

use crate::items;
use crate::server::Place;

/// Callers that start together.
const WRITERS: usize = 6;

fn records(from: usize, count: usize) -> Vec<VectorRecord> {
    (from..from + count)
        .map(|index| testing::record(&format!("{index:06}"), &[1.0, index as f32, 0.5], json!({"n": index})))
        .collect()
}

#[test]
fn two_processes_make_the_schema_and_a_collection_at_once() {
    let Some(place) = Place::database("at_once") else { return };
    let barrier = Arc::new(Barrier::new(WRITERS));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (barrier, options) = (Arc::clone(&barrier), place.options());
            std::thread::spawn(move || {
                barrier.wait();
                let store = PostgresVectors::open(PostgresOptions { exact_scan_max: 300, ..options }).unwrap();
                barrier.wait();
                // Half of what each writes is its own, half is everybody's.
                store.upsert(items("same"), &records(writer * 100, 200)).unwrap();
                store.count(items("same")).unwrap()
            })
        })
        .collect();
    let counts: Vec<u64> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
    assert!(counts.iter().all(|count| *count >= 200), "{counts:?}");
    let store = PostgresVectors::open(place.options()).unwrap();
    assert_eq!(store.count(items("same")).unwrap(), 700);
    let mut seen = Vec::new();
    store.scan(items("same"), &mut |record| seen.push(record)).unwrap();
    assert_eq!(seen, records(0, 700));
    assert_eq!(store.versions("items").unwrap(), ["same"]);
}

#[test]
fn a_dropped_collection_answers_wholly_or_is_unknown() {
    let Some(place) = Place::schema("dropped") else { return };
    let store = Arc::new(PostgresVectors::open(place.options()).unwrap());
    let over = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let (store, over) = (Arc::clone(&store), Arc::clone(&over));
            std::thread::spawn(move || {
                let (mut whole, mut unknown) = (0, 0);
                while !over.load(Ordering::Relaxed) {
                    match store.search(items("1"), &Search::cosine(&[1.0, 2.0, 0.5], 50)) {
                        Ok(hits) => {
                            assert_eq!(hits.len(), 50);
                            whole += 1;
                        }
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
                            unknown += 1;
                        }
                    }
                    assert!(store.get(items("1"), "000001").unwrap().is_none_or(|record| record == records(1, 1)[0]));
                    let mut seen = 0;
                    store.scan(items("1"), &mut |_| seen += 1).unwrap();
                    assert!(seen == 0 || seen == 1500, "{seen}");
                }
                (whole, unknown)
            })
        })
        .collect();
    for _ in 0..15 {
        store.upsert(items("1"), &records(0, 1500)).unwrap();
        store.search(items("1"), &Search::cosine(&[1.0, 2.0, 0.5], 50)).unwrap();
        assert!(store.drop_version(items("1")).unwrap());
    }
    over.store(true, Ordering::Relaxed);
    let counts: Vec<(u32, u32)> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
    assert!(counts.iter().any(|(_, unknown)| *unknown > 0), "{counts:?}");
}

#[test]
fn cut_connections_leave_all_of_a_call_or_nothing() {
    let Some(place) = Place::database("cut") else { return };
    let place = Arc::new(place);
    let store = PostgresVectors::open(PostgresOptions { exact_scan_max: 100, ..place.options() }).unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let cutter = {
        let (place, over) = (Arc::clone(&place), Arc::clone(&over));
        std::thread::spawn(move || {
            let mut cut = 0;
            while !over.load(Ordering::Relaxed) {
                cut += place.cut();
                std::thread::sleep(std::time::Duration::from_millis(40));
            }
            cut
        })
    };
    let (mut told, mut failed) = (Vec::new(), 0);
    for round in 0..40 {
        let version = round.to_string();
        match store.upsert(items(&version), &records(0, 1500)) {
            Ok(()) => told.push(version),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Retry, "{error}");
                failed += 1;
            }
        }
    }
    over.store(true, Ordering::Relaxed);
    assert!(cutter.join().unwrap() > 0);
    assert!(failed > 0, "the cutter never met a call");
    // The pool may hold dead connections now: the next calls work nevertheless.
    let versions = store.versions("items").unwrap();
    assert!(told.iter().all(|version| versions.contains(version)), "what was acknowledged is there");
    for version in &versions {
        let mut seen = 0;
        store.scan(items(version), &mut |_| seen += 1).unwrap();
        assert_eq!((seen, store.count(items(version)).unwrap()), (1500, 1500), "all of a call");
    }
    let tables = place.run("SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relname LIKE 'vectors_%'");
    assert_eq!(tables, [versions.len().to_string()], "no table is left behind");
}

#[test]
fn dead_connections_are_made_anew() {
    let Some(place) = Place::database("anew") else { return };
    let store = PostgresVectors::open(place.options()).unwrap();
    store.upsert(items("1"), &records(0, 10)).unwrap();
    for _ in 0..5 {
        assert!(place.cut() > 0);
        assert_eq!(store.count(items("1")).unwrap(), 10);
        place.cut();
        store.upsert(items("1"), &records(0, 10)).unwrap();
    }
}

#[test]
fn a_restarted_server_is_reached_again() {
    let (Ok(restart), Some(place)) = (std::env::var("ANABRANCH_TEST_POSTGRES_RESTART"), Place::schema("restarted"))
    else {
        println!("skipped: set ANABRANCH_TEST_POSTGRES_RESTART to a command that kills the server and starts it again");
        return;
    };
    let store = PostgresVectors::open(place.options()).unwrap();
    store.upsert(items("1"), &records(0, 500)).unwrap();
    assert!(Command::new("sh").args(["-c", &restart]).status().unwrap().success());
    assert_eq!(store.count(items("1")).unwrap(), 500, "what was acknowledged survives the server's death");
    store.upsert(items("1"), &records(500, 1)).unwrap();
    assert_eq!(store.search(items("1"), &Search::cosine(&[1.0, 1.0, 1.0], 3)).unwrap().len(), 3);
}

#[test]
fn calls_from_inside_a_runtime_and_from_a_visit_work() {
    let Some(place) = Place::schema("inside") else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let options = place.options();
    runtime.block_on(async {
        let store = PostgresVectors::open(options).unwrap();
        store.upsert(items("1"), &records(0, 2500)).unwrap();
        let mut seen = 0;
        store
            .scan(items("1"), &mut |record| {
                if seen % 500 == 0 {
                    assert_eq!(store.get(items("1"), &record.id).unwrap(), Some(record));
                }
                seen += 1;
            })
            .unwrap();
        assert_eq!(seen, 2500);
        tokio::spawn(async move { drop(store) }).await.unwrap();
    });
}

#[test]
fn no_more_connections_than_allowed() {
    let Some(place) = Place::database("few") else { return };
    let options = PostgresOptions { connections_max: 2, ..place.options() };
    let store = Arc::new(PostgresVectors::open(options).unwrap());
    store.upsert(items("1"), &records(0, 2000)).unwrap();
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let store = Arc::clone(&store);
            std::thread::spawn(move || {
                for _ in 0..20 {
                    store.search(items("1"), &Search::cosine(&[1.0, 1.0, 1.0], 10)).unwrap();
                }
            })
        })
        .collect();
    for caller in callers {
        caller.join().unwrap();
    }
    let count: usize = place.run_outside(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'anabranch' AND datname LIKE 'test_%_few'",
    )[0]
    .parse()
    .unwrap();
    assert!((1..=2).contains(&count), "{count}");
}

#[test]
fn names_may_be_long_and_alike() {
    let Some(place) = Place::schema("names") else { return };
    let store = PostgresVectors::open(place.options()).unwrap();
    let names = ["x".repeat(64), format!("{}y", "x".repeat(63)), "A.b-_".to_owned(), "a.b-_".to_owned()];
    for (index, name) in names.iter().enumerate() {
        store.upsert(Collection::new(name, name).unwrap(), &records(index, index + 1)).unwrap();
    }
    for (index, name) in names.iter().enumerate() {
        assert_eq!(store.count(Collection::new(name, name).unwrap()).unwrap(), index as u64 + 1);
        assert_eq!(store.versions(name).unwrap(), [name.as_str()]);
    }
    assert_eq!(store.versions("nul\0").unwrap(), Vec::<String>::new());
}
