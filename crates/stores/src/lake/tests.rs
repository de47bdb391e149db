#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::*;
use crate::ErrorKind;

fn path(text: &str) -> ObjectPath {
    ObjectPath::new(text).unwrap()
}

fn local(folder: &std::path::Path) -> LocalStore {
    LocalStore::open(folder, SystemTime::UNIX_EPOCH).unwrap()
}

#[test]
fn memory_store_conforms() {
    testing::conformance(&MemoryStore::new());
}

#[test]
fn local_store_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let store = local(&folder.path().join("new/root"));
    testing::conformance(&store);
    let left = fs::read_dir(store.root().join(".tmp")).unwrap().count();
    assert_eq!(left, 0, "no temporary file outlives its write");
}

#[test]
fn faulty_store_without_faults_conforms() {
    testing::conformance(&FaultyStore::new(MemoryStore::new(), FaultPlan::default()));
}

#[test]
fn local_store_shows_no_temporary_file_and_sweeps_only_what_is_old_and_unowned() {
    let folder = tempfile::tempdir().unwrap();
    let store = local(folder.path());
    let temporary = folder.path().join(".tmp");
    let old = temporary.join("999-0");
    let owned = temporary.join("999-1");
    let young = temporary.join("999-2");
    for place in [&old, &owned, &young] {
        fs::write(place, "half an obj").unwrap();
    }
    let started = SystemTime::UNIX_EPOCH + Duration::from_hours(500_000);
    let at = |place: &std::path::Path, time| {
        fs::File::options().write(true).open(place).unwrap().set_modified(time).unwrap();
    };
    at(&old, started - Duration::from_secs(1));
    at(&owned, started - Duration::from_secs(1));
    at(&young, started);
    let owner = fs::File::open(&owned).unwrap();
    owner.lock().unwrap();
    assert!(store.list("").unwrap().is_empty());
    LocalStore::open(folder.path(), started).unwrap();
    assert!(!old.exists(), "a leftover goes");
    assert!(owned.exists(), "a live process's file stays");
    assert!(young.exists(), "a file younger than this process stays");
}

#[test]
fn local_store_writes_again_after_its_folder_was_removed_by_hand() {
    let folder = tempfile::tempdir().unwrap();
    let store = local(folder.path());
    assert_eq!(store.put_new(&path("day=1/a"), b"a").unwrap(), PutOutcome::Created);
    fs::remove_dir_all(folder.path().join("day=1")).unwrap();
    assert_eq!(store.put_new(&path("day=1/b"), b"b").unwrap(), PutOutcome::Created);
    fs::remove_dir_all(folder.path().join("day=1")).unwrap();
    store.put(&path("day=1/c"), b"c").unwrap();
    assert_eq!(store.list("").unwrap().len(), 1);
}

#[test]
fn local_store_names_the_place_when_a_path_is_blocked_by_an_object() {
    let folder = tempfile::tempdir().unwrap();
    let store = local(folder.path());
    store.put(&path("a"), b"object").unwrap();
    let error = store.put_new(&path("a/b"), b"below an object").unwrap_err();
    assert!(error.to_string().contains('a'), "{error}");
    assert!(matches!(store.get(&path("a/b")), Err(LakeError::NotFound { .. })));
    store.put(&path("d/e"), b"x").unwrap();
    assert!(store.put(&path("d"), b"over a folder").is_err());
    assert!(matches!(store.get(&path("d")), Err(LakeError::NotFound { .. })));
    store.delete(&path("d")).unwrap();
    assert!(store.exists(&path("d/e")).unwrap(), "deleting a folder's name deletes nothing");
}

#[test]
fn an_open_reader_keeps_the_version_it_opened() {
    let folder = tempfile::tempdir().unwrap();
    let store = local(folder.path());
    store.put(&path("x"), b"old").unwrap();
    let mut reader = store.open(&path("x")).unwrap();
    store.put(&path("x"), b"newer").unwrap();
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "old");
}

#[test]
fn a_full_disk_is_said_to_be_full() {
    let error = LakeError::from_io("write", std::path::Path::new("/lake/x"), std::io::ErrorKind::StorageFull.into());
    assert_eq!(error.kind(), ErrorKind::Full);
    assert!(error.to_string().contains("/lake/x"));
}

#[test]
fn faults_strike_as_scripted_and_after_means_it_landed() {
    let scripted = VecDeque::from([
        (Operation::PutNew, Fault::Before),
        (Operation::PutNew, Fault::After),
        (Operation::PutNew, Fault::Full),
        (Operation::Read, Fault::Slow),
    ]);
    let slowed = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&slowed);
    let store = FaultyStore::new(MemoryStore::new(), FaultPlan { scripted, ..FaultPlan::default() }).with_slow_hook(
        move |_| {
            counter.fetch_add(1, Ordering::SeqCst);
        },
    );
    let (a, b) = (path("a"), path("b"));
    assert_eq!(store.put_new(&a, b"1").unwrap_err().kind(), ErrorKind::Retry);
    assert!(!store.inner().exists(&a).unwrap(), "before: nothing landed");
    assert_eq!(store.put_new(&a, b"1").unwrap_err().kind(), ErrorKind::Retry);
    assert!(store.inner().exists(&a).unwrap(), "after: it landed, the answer was lost");
    assert_eq!(store.put_new(&b, b"1").unwrap_err().kind(), ErrorKind::Full);
    assert!(!store.inner().exists(&b).unwrap(), "full: nothing landed");
    assert_eq!(store.put_new(&a, b"1").unwrap(), PutOutcome::AlreadyExists);
    assert_eq!(&store.get(&a).unwrap()[..], b"1");
    assert_eq!(slowed.load(Ordering::SeqCst), 1);
    assert_eq!(store.struck().len(), 4);
}

#[test]
fn random_faults_repeat_with_their_seed_and_keep_their_rate() {
    let struck = |seed| {
        let plan = FaultPlan { seed, before_per_mille: 100, after_per_mille: 100, ..FaultPlan::default() };
        let store = FaultyStore::new(MemoryStore::new(), plan);
        for index in 0..2000 {
            let _ = store.put(&path(&format!("o/{index}")), b"x");
        }
        store.struck()
    };
    let first = struck(7);
    assert_eq!(first, struck(7));
    assert_ne!(first, struck(8));
    // 2,000 calls at 20 %: mean 400, standard deviation 18.
    assert!((320..480).contains(&first.len()), "{}", first.len());
}

#[test]
fn locations_open_the_store_they_name() {
    let folder = tempfile::tempdir().unwrap();
    let options = StoreOptions { process_started: SystemTime::UNIX_EPOCH, s3: S3Options::default() };
    let plain = folder.path().to_str().unwrap().to_owned();
    let store = open_store(&plain, &options).unwrap();
    store.put(&path("x"), b"1").unwrap();
    let by_url = open_store(&format!("file://{plain}"), &options).unwrap();
    assert_eq!(&by_url.get(&path("x")).unwrap()[..], b"1");
    assert!(by_url.local_path(&path("x")).unwrap().is_file());
    for wrong in ["", "gs://bucket", "s3://", "file://relative/folder"] {
        let error = open_store(wrong, &options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FixInput, "{wrong}: {error}");
    }
    assert!(open_store("s3://bucket/some/prefix", &options).is_ok());
    let settings = BTreeMap::from([("no_such_setting".to_owned(), "1".to_owned())]);
    let s3 = S3Options { settings, ..S3Options::default() };
    let error = open_store("s3://bucket", &StoreOptions { s3, ..options }).unwrap_err();
    assert!(error.to_string().contains("no_such_setting"), "{error}");
}

#[test]
fn a_dead_s3_endpoint_is_an_error_to_retry_and_no_panic_inside_a_runtime() {
    let s3 = S3Options {
        endpoint: Some("http://127.0.0.1:1".to_owned()),
        allow_http: true,
        access_key_id: Some("k".to_owned()),
        secret_access_key: Some("hidden".to_owned()),
        retries_max: Some(0),
        ..S3Options::default()
    };
    assert!(!format!("{s3:?}").contains("hidden"), "secrets stay out of logs");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let error = runtime.block_on(async {
        let store = RemoteStore::s3("bucket", "", &s3).unwrap();
        store.get(&path("x")).unwrap_err()
    });
    assert_eq!(error.kind(), ErrorKind::Retry, "{error}");
    assert!(error.to_string().contains("s3://bucket/x"), "{error}");
}

proptest! {
    #[test]
    fn any_text_is_a_path_both_stores_keep_or_an_error(text in "[a-z./\\\\ \u{0}-\u{20}é]{0,12}") {
        if let Ok(path) = ObjectPath::new(text.clone()) {
            let folder = tempfile::tempdir().unwrap();
            let store = local(folder.path());
            store.put(&path, text.as_bytes()).unwrap();
            prop_assert_eq!(&store.get(&path).unwrap()[..], text.as_bytes());
            let listed = store.list("").unwrap();
            prop_assert_eq!(listed.len(), 1);
            prop_assert_eq!(&listed[0].path, &path);
        }
    }
}
