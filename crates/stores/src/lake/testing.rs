//! The conformance suite of the port. An adapter is an adapter once [`conformance`] passes on it.
//!
//! Compiled always (it is small and has no dependencies), so that other crates' tests and the
//! integration test against a real S3 use the same one. It panics on the first broken promise.

use std::io::{Read, Write};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{LakeError, ObjectPath, ObjectStore, PutOutcome};

/// Writers that race for one path.
const RACERS: usize = 8;
/// Races run, each on a fresh path.
const RACES: usize = 12;
/// A size that spans three parts of a multipart upload or chunked read (8 MiB each), with a rest.
const LARGE_BYTES: usize = (17 << 20) + 13;

/// Checks every promise of [`ObjectStore`] on `store`, which must be empty; leaves objects behind.
pub fn conformance(store: &dyn ObjectStore) {
    assert!(store.list("").expect("an empty store lists").is_empty(), "the store must start empty");
    missing_paths(store);
    create_only(store);
    create_only_races(store);
    replacement(store);
    ranges_and_tails(store);
    listing(store);
    odd_names(store);
    large_object(store);
}

fn path(text: &str) -> ObjectPath {
    ObjectPath::new(text).expect("the suite's paths are valid")
}

fn is_missing<T>(result: &Result<T, LakeError>) -> bool {
    matches!(result, Err(LakeError::NotFound { .. }))
}

fn missing_paths(store: &dyn ObjectStore) {
    let nowhere = path("nowhere/at/all");
    assert!(is_missing(&store.get(&nowhere)), "get of a missing object");
    assert!(is_missing(&store.get_range(&nowhere, 0, 1)), "get_range of a missing object");
    assert!(is_missing(&store.get_range(&nowhere, 0, 0)), "an empty range of a missing object");
    assert!(is_missing(&store.get_tail(&nowhere, 4)), "get_tail of a missing object");
    assert!(is_missing(&store.size(&nowhere)), "size of a missing object");
    assert!(is_missing(&store.open(&nowhere).map(|_| ())), "open of a missing object");
    assert!(!store.exists(&nowhere).expect("exists answers"), "exists of a missing object");
    store.delete(&nowhere).expect("deleting what is not there succeeds");
    assert!(store.list("nowhere").expect("a missing folder lists").is_empty());
    for bad in ["", "/a", "a/", "a//b", "../a", "a/./b", "a\nb", "a\\b", ".tmp/x"] {
        let error = ObjectPath::new(bad).expect_err("an invalid path is refused");
        assert_eq!(error.kind(), crate::ErrorKind::FixInput, "{bad:?}");
    }
}

fn create_only(store: &dyn ObjectStore) {
    let once = path("create/once");
    assert_eq!(store.put_new(&once, b"first").expect("creates"), PutOutcome::Created);
    assert_eq!(store.put_new(&once, b"second").expect("answers"), PutOutcome::AlreadyExists);
    assert_eq!(&store.get(&once).expect("reads")[..], b"first", "a loser must not overwrite");
    store.delete(&once).expect("deletes");
    assert!(!store.exists(&once).expect("exists answers"));
    assert_eq!(store.put_new(&once, b"third").expect("creates"), PutOutcome::Created);
    let empty = path("create/empty");
    assert_eq!(store.put_new(&empty, b"").expect("creates"), PutOutcome::Created);
    assert_eq!(store.put_new(&empty, b"x").expect("answers"), PutOutcome::AlreadyExists);
    assert_eq!(store.size(&empty).expect("size"), 0);
    assert!(store.get(&empty).expect("reads").is_empty());
    assert!(store.get_tail(&empty, 8).expect("tail").is_empty());
    let mut text = String::new();
    store.open(&empty).expect("opens").read_to_string(&mut text).expect("reads");
    assert!(text.is_empty());
}

fn create_only_races(store: &dyn ObjectStore) {
    for race in 0..RACES {
        let contested = path(&format!("races/{race}/object"));
        let (barrier, winners) = (Barrier::new(RACERS), AtomicUsize::new(usize::MAX));
        let created = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for racer in 0..RACERS {
                let (contested, barrier, winners, created) = (&contested, &barrier, &winners, &created);
                scope.spawn(move || {
                    barrier.wait();
                    let bytes = format!("written by {racer}");
                    let outcome = store.put_new(contested, bytes.as_bytes()).expect("answers");
                    if outcome == PutOutcome::Created {
                        created.fetch_add(1, Ordering::SeqCst);
                        winners.store(racer, Ordering::SeqCst);
                    } else {
                        let seen = store.get(contested).expect("what exists can be read");
                        assert!(seen.starts_with(b"written by "), "a loser sees a whole object");
                    }
                });
            }
        });
        assert_eq!(created.into_inner(), 1, "exactly one of {RACERS} writers creates");
        let expected = format!("written by {}", winners.into_inner());
        assert_eq!(&store.get(&contested).expect("reads")[..], expected.as_bytes());
    }
}

fn replacement(store: &dyn ObjectStore) {
    let replaced = path("replace/me");
    store.put(&replaced, b"a long first version").expect("writes");
    store.put(&replaced, b"short").expect("replaces");
    assert_eq!(&store.get(&replaced).expect("reads")[..], b"short");
    assert_eq!(store.size(&replaced).expect("size"), 5);
    assert_eq!(store.put_new(&replaced, b"new").expect("answers"), PutOutcome::AlreadyExists);
    // A reader beside a writer sees one version or the other, whole.
    let versions = [vec![b'a'; 70_000], vec![b'b'; 90_000]];
    store.put(&replaced, &versions[0]).expect("writes");
    std::thread::scope(|scope| {
        let versions = &versions;
        let replaced = &replaced;
        scope.spawn(move || {
            for round in 0..20 {
                store.put(replaced, &versions[round % 2]).expect("replaces");
            }
        });
        for _ in 0..20 {
            let seen = store.get(replaced).expect("reads");
            assert!(versions.iter().any(|version| version[..] == seen[..]), "a torn read");
        }
    });
}

fn ranges_and_tails(store: &dyn ObjectStore) {
    let object = path("ranges/object");
    let bytes: Vec<u8> = (0..=255).collect();
    store.put(&object, &bytes).expect("writes");
    for (start, len) in [(0, 256), (0, 1), (10, 20), (255, 1), (256, 0), (0, 0), (100, 0)] {
        let seen = store.get_range(&object, start, len).expect("a range inside");
        assert_eq!(seen[..], bytes[start as usize..(start + len) as usize], "{start}+{len}");
    }
    for (start, len) in [(0, 257), (256, 1), (300, 1), (300, 0), (u64::MAX, 1), (1, u64::MAX)] {
        let error = store.get_range(&object, start, len).expect_err("a range outside");
        let expected = matches!(error, LakeError::RangeOutside { size: 256, .. });
        assert!(expected, "{start}+{len}: {error:?}");
        assert_eq!(error.kind(), crate::ErrorKind::FixInput);
    }
    for len in [0, 1, 8, 256, 1000] {
        let tail = store.get_tail(&object, len).expect("a tail");
        assert_eq!(tail[..], bytes[256 - (len as usize).min(256)..], "tail of {len}");
    }
}

fn listing(store: &dyn ObjectStore) {
    // In byte order: '-' < '/' < '0' < 'a'; a folder's listing holds whole segments only.
    let texts = ["list/a-b", "list/a/1", "list/a/10", "list/a/2", "list/a/b/c", "list/a0", "list/b"];
    for text in texts.iter().rev() {
        store.put(&path(text), text.as_bytes()).expect("writes");
    }
    let names = |prefix: &str| -> Vec<String> {
        let listed = store.list(prefix).expect("lists");
        listed.iter().map(|meta| meta.path.to_string()).collect()
    };
    assert_eq!(names("list"), texts);
    assert_eq!(names("list/"), texts, "a trailing slash changes nothing");
    assert_eq!(names("list/a"), ["list/a/1", "list/a/10", "list/a/2", "list/a/b/c"]);
    assert_eq!(names("lis"), Vec::<String>::new(), "a prefix is a folder, not a start of a name");
    let named = |prefix: &str, start: &str| -> Vec<String> {
        let listed = store.list_named(prefix, start).expect("lists");
        listed.iter().map(|meta| meta.path.to_string()).collect()
    };
    assert_eq!(named("list/a", "1"), ["list/a/1", "list/a/10"]);
    assert_eq!(named("list", "a"), ["list/a-b", "list/a0"], "the folder's own objects, not its folders'");
    assert_eq!((named("list", "c"), named("nowhere", "a")), (vec![], vec![]));
    let folders = |prefix: &str| store.folders(prefix).expect("lists");
    assert_eq!((folders("list"), folders("list/a/")), (vec!["a".to_owned()], vec!["b".to_owned()]));
    assert_eq!((folders("list/a/b"), folders("nowhere")), (vec![], vec![]));
    assert!(folders("").contains(&"list".to_owned()) && !folders("").iter().any(|name| name.starts_with('.')));
    assert!(store.folders("../list").is_err() && store.list_named("a//b", "c").is_err(), "bad prefixes");
    assert!(store.list("../list").is_err() && store.list("a//b").is_err(), "bad prefixes");
    let all = store.list("").expect("lists");
    assert!(all.is_sorted_by(|a, b| a.path < b.path), "sorted, each once");
    assert!(all.iter().all(|meta| !meta.path.as_str().starts_with(".tmp")));
    for meta in store.list("list").expect("lists") {
        assert_eq!(meta.size, meta.path.as_str().len() as u64);
    }
    store.delete(&path("list/a/10")).expect("deletes");
    assert_eq!(names("list/a"), ["list/a/1", "list/a/2", "list/a/b/c"]);
}

fn odd_names(store: &dyn ObjectStore) {
    let long = format!("odd/{}", "n".repeat(255));
    let texts = [
        "odd/day=2026-01-31/hour=07/shard-000.jsonl.gz",
        "odd/with space and  two",
        "odd/plus+percent%20hash#question?amp&",
        "odd/čeština/日本語/emoji-🌊",
        "odd/...three.dots",
        "odd/quote'\"[brackets]{braces}~^`|<>*:;,@!$()",
        long.as_str(),
    ];
    for text in texts {
        let odd = path(text);
        assert_eq!(store.put_new(&odd, text.as_bytes()).expect(text), PutOutcome::Created, "{text}");
        assert_eq!(store.put_new(&odd, b"x").expect(text), PutOutcome::AlreadyExists, "{text}");
        assert_eq!(&store.get(&odd).expect(text)[..], text.as_bytes(), "{text}");
        assert_eq!(store.size(&odd).expect(text), text.len() as u64);
    }
    let mut expected = texts.to_vec();
    expected.sort_unstable();
    let listed = store.list("odd").expect("lists");
    assert!(listed.iter().map(|meta| meta.path.as_str()).eq(expected), "{listed:?}");
    for text in texts {
        store.delete(&path(text)).expect("deletes");
    }
    assert!(store.list("odd").expect("lists").is_empty());
}

fn large_object(store: &dyn ObjectStore) {
    let bytes: Vec<u8> = (0..LARGE_BYTES).map(|index| (index * 31 % 251) as u8).collect();
    let local = std::env::temp_dir().join(format!("anabranch-conformance-{}", std::process::id()));
    let large = path("large/object");
    std::fs::File::create(&local).expect("creates").write_all(&bytes).expect("writes");
    let written = store.put_file(&large, &local).expect("uploads a file");
    std::fs::remove_file(&local).expect("removes its file");
    assert_eq!(written, LARGE_BYTES as u64);
    assert_eq!(store.size(&large).expect("size"), LARGE_BYTES as u64);
    let mut streamed = Vec::new();
    store.open(&large).expect("opens").read_to_end(&mut streamed).expect("streams");
    assert!(streamed == bytes, "the stream gives the file's bytes");
    assert!(store.get(&large).expect("reads")[..] == bytes[..]);
    let (start, len) = (8_388_600, 16);
    let seen = store.get_range(&large, start, len).expect("a range across parts");
    assert_eq!(seen[..], bytes[start as usize..][..len as usize]);
    let missing = std::path::Path::new("/nonexistent/file");
    assert!(store.put_file(&path("large/none"), missing).is_err());
    assert!(!store.exists(&path("large/none")).expect("exists answers"), "nothing half-written");
}
