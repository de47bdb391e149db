//! Erasure of a published dataset: nothing of theirs is left, nothing of others changes, at any crash.
// Our own paths are lower case.
#![allow(clippy::unwrap_used, clippy::case_sensitive_file_extension_comparisons)]

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::Read as _;

use anabranch_stores::lake::{Fault, FaultPlan, FaultyStore, MemoryStore, Operation};
use proptest::prelude::*;

use super::*;
use crate::dataset::{Dataset, Interaction, UserRow};
use crate::etl::tests::World;

fn user(id: &str) -> HistoryKey {
    HistoryKey::User(id.into())
}

fn session(id: &str) -> HistoryKey {
    HistoryKey::Session(id.into())
}

fn zara() -> BTreeSet<HistoryKey> {
    BTreeSet::from([user("zara")])
}

/// Thirty users over several days, zara among them: with a session that was anonymous at first, attributes, refused
/// rows, and a file whose very header names her.
fn shop() -> World {
    let world = World::new();
    let mut rows = "USER_ID,ITEM_ID,TIMESTAMP,EVENT_TYPE,SESSION_ID\n".to_owned();
    for n in 0..600_u32 {
        let kind = ["view", "cart", "purchase"][n as usize % 3];
        writeln!(rows, "u{},i{},{},{kind},s{}", n % 29, n % 17, 1_600_000_000 + n * 600, n % 29).unwrap();
    }
    rows.push_str(",i1,1600000000,view,zs1\nzara,i1,1600000060,view,zs1\nzara,i2,1600090000,purchase,zs1\n");
    // A day of her own, and a row that repeats another.
    rows.push_str("zara,i3,1700000000,purchase,\nzara,i3,1700000000,purchase,\n");
    rows.push_str("zara,i3,1700000000,dance,\nzarathustra,i3,1700000000,dance,\nzara,i3\n");
    let mut bytes = rows.into_bytes();
    bytes.extend_from_slice(b"\xff,zara,1700000000,view,\n\xff,u1,1700000000,view,\n");
    world.file("interactions-0.csv", bytes);
    world.file("interactions-1.csv", "A,zara\n1,2\n");
    world.file("items.csv", "ITEM_ID,TITLE\ni1,One\ni2,Two\n");
    world.file("users.csv", "USER_ID,AGE\nzara,33\nu1,20\nu99,20\n");
    world.run().unwrap();
    let lists =
        ["bulk/m1/recommendations.jsonl.zst", "bulk/m1/recommendations.parquet", "embeddings/m1/users-00000.parquet"];
    for path in lists.into_iter().chain(["embeddings/m1/written.json"]) {
        world.store.put(&ObjectPath::new(path).unwrap(), b"zara").unwrap();
    }
    world.store.put(&ObjectPath::new("embeddings/m1/items-00000.parquet").unwrap(), b"items stay").unwrap();
    world
}

fn tree(store: &dyn ObjectStore) -> BTreeMap<String, Vec<u8>> {
    let objects = store.list("").unwrap();
    objects.into_iter().map(|o| (o.path.as_str().to_owned(), store.get(&o.path).unwrap().to_vec())).collect()
}

/// All bytes of a store, stored and unpacked.
fn unpacked(store: &dyn ObjectStore) -> Vec<u8> {
    let mut all = Vec::new();
    for (path, bytes) in tree(store) {
        all.extend_from_slice(path.as_bytes());
        all.extend_from_slice(&bytes);
        if path.starts_with("bulk/") || path.starts_with("embeddings/") {
            continue;
        }
        if path.ends_with(".zst") {
            zstd::stream::read::Decoder::new(&bytes[..]).unwrap().read_to_end(&mut all).unwrap();
        }
        if path.ends_with(".parquet") {
            let mut reader = TableReader::new(&path, bytes.into()).unwrap();
            while let Some((_, columns)) = reader.next_group().unwrap() {
                for text in columns.iter().flat_map(Column::texts).flatten() {
                    all.extend_from_slice(text);
                    all.push(b'\n');
                }
            }
        }
    }
    all
}

fn names(store: &dyn ObjectStore, id: &str) -> bool {
    Mentions::new(&BTreeSet::from([user(id)])).in_text(&unpacked(store))
}

#[derive(Debug, PartialEq)]
struct Contents {
    interactions: Vec<Interaction>,
    histories: BTreeMap<HistoryKey, Vec<u8>>,
    users: Vec<UserRow>,
    quarantine: Vec<Quarantined>,
}

fn contents(store: &dyn ObjectStore) -> Contents {
    let dataset = Dataset::current(store).unwrap();
    Contents {
        interactions: dataset.interactions(None).collect::<Result<_, _>>().unwrap(),
        histories: dataset.histories().collect::<Result<_, _>>().unwrap(),
        users: dataset.users().unwrap(),
        quarantine: dataset.quarantine().unwrap(),
    }
}

#[test]
fn nothing_of_hers_is_left_and_nothing_of_others_changes() {
    let world = shop();
    let store = &world.store;
    assert!(names(store, "zara") && names(store, "zs1"));
    let before = contents(store);
    let (report, files) = {
        let dataset = Dataset::current(store).unwrap();
        (dataset.report().clone(), dataset.manifest().files.clone())
    };

    let erased = erase_owner(store, &zara(), world.folder.path()).unwrap();
    assert_eq!(erased, Erased { interactions: 4, histories: 2, users: 1, quarantined: 4, bulk_objects: 4 });
    assert!(!names(store, "zara") && !names(store, "zs1"));
    assert!(names(store, "zarathustra"), "somebody else");
    assert!(tree(store).contains_key("embeddings/m1/items-00000.parquet"), "an item's embedding is nobody's");

    let mut expected = before;
    let hers = |row: &Interaction| row.user.as_deref() == Some("zara") || row.session.as_deref() == Some("zs1");
    expected.interactions.retain(|row| !hers(row));
    expected.histories.retain(|key, _| *key != user("zara") && *key != session("zs1"));
    expected.users.retain(|user| user.id != "zara");
    // Of the two rows that are no text, hers comes first.
    let of_u1 = expected.quarantine.iter().filter(|entry| entry.raw_base64.is_some()).filter_map(|e| e.offset).max();
    let is_kept = |entry: &Quarantined| match &entry.raw {
        Some(raw) => raw.starts_with("zarathustra"),
        None => entry.raw_base64.is_some() && entry.offset == of_u1,
    };
    expected.quarantine.retain(is_kept);
    assert_eq!(expected.quarantine.len(), 2);
    assert_eq!(contents(store), expected);

    let dataset = Dataset::current(store).unwrap();
    let now = dataset.report();
    now.check().unwrap();
    // Beside the dataset's files there are two manifests and the items' embeddings.
    assert_eq!((dataset.number(), tree(store).len()), (2, dataset.manifest().files.len() + 3));
    assert_eq!(now.interactions.read, report.interactions.read);
    assert_eq!(now.interactions.clean, report.interactions.clean - 4);
    assert_eq!(now.interactions.quarantined, report.interactions.quarantined - 3, "the file's entry is in no book");
    assert_eq!(now.interactions.filtered, 7);
    assert_eq!((now.users.clean, now.users.filtered), (report.users.clean - 1, 1));
    assert_eq!(now.filtered_by_reason[ERASED], 8);
    assert_eq!(now.active_users, report.active_users - 1);
    assert_eq!(
        (now.histories.users, now.histories.sessions),
        (report.histories.users - 1, report.histories.sessions - 1)
    );
    let bytes: usize = expected.histories.values().map(Vec::len).sum();
    assert_eq!(now.histories.bytes, bytes as u64);
    assert_eq!(now.histories.entries, report.histories.entries - 4);
    assert_eq!(now.days, report.days - 1);
    assert_ne!(now.last_day, report.last_day);
    assert_eq!(now.files.iter().find_map(|file| file.failed.as_deref()), Some(REDACTED));
    let kept = files.iter().filter(|file| dataset.manifest().files.contains(file)).count();
    assert!(kept > 2, "days and catalogue without anything of hers keep their files");
}

#[test]
fn a_second_time_nothing_changes() {
    let world = shop();
    erase_owner(&world.store, &zara(), world.folder.path()).unwrap();
    let after = tree(&world.store);
    let store = FaultyStore::new(&world.store, FaultPlan::default());
    // Any write would fail.
    store.set_plan(FaultPlan {
        scripted: [Operation::Put, Operation::PutNew, Operation::Delete].map(|o| (o, Fault::Before)).into(),
        ..FaultPlan::default()
    });
    assert_eq!(erase_owner(&store, &zara(), world.folder.path()).unwrap(), Erased::default());
    assert_eq!(tree(&world.store), after);
}

#[test]
fn nobody_strangers_and_an_empty_store() {
    let world = shop();
    let before = tree(&world.store);
    assert_eq!(erase_owner(&world.store, &BTreeSet::new(), world.folder.path()).unwrap(), Erased::default());
    assert_eq!(tree(&world.store), before);
    let stranger = BTreeSet::from([user("nobody-here"), session("u1")]);
    let erased = erase_owner(&world.store, &stranger, world.folder.path()).unwrap();
    // The quarantine cannot tell a session from a user; everything else can.
    assert_eq!(erased, Erased { quarantined: 1, bulk_objects: 4, ..Erased::default() });
    let empty = MemoryStore::new();
    assert_eq!(erase_owner(&empty, &zara(), world.folder.path()).unwrap(), Erased::default());
    assert!(tree(&empty).is_empty());
    assert_eq!(with_sessions(&empty, &zara()).unwrap(), zara());
    // What cannot be read cannot be searched: that is no success.
    empty.put(&ObjectPath::new("manifests/0000000001.json").unwrap(), b"{}").unwrap();
    assert!(matches!(erase_owner(&empty, &zara(), world.folder.path()), Err(BatchError::Corrupt { .. })));
}

#[test]
fn a_session_is_its_newest_users_and_shared_rows_go_with_it() {
    let world = World::new();
    world.file(
        "interactions.csv",
        "USER_ID,ITEM_ID,TIMESTAMP,SESSION_ID\nbob,a,1600000000,kiosk\n,b,1600000001,kiosk\nann,c,1600000002,kiosk\n\
         bob,d,1600000003,\ncarl,e,1600000000,kiosk\n,f,1600000000,other\nbob,f,1600000001,other\nann,f,1600000000,other\n",
    );
    world.run().unwrap();
    let owners = BTreeSet::from([user("ann")]);
    assert_eq!(with_sessions(&world.store, &owners).unwrap(), BTreeSet::from([user("ann"), session("kiosk")]));
    let before = contents(&world.store);
    let erased = erase_owner(&world.store, &owners, world.folder.path()).unwrap();
    assert_eq!(erased, Erased { interactions: 5, histories: 2, users: 2 - 1, ..Erased::default() });
    let after = contents(&world.store);
    let rows: Vec<_> = after.interactions.iter().map(|row| (row.user.as_deref(), row.item.as_str())).collect();
    assert_eq!(rows, [(Some("bob"), "f"), (Some("bob"), "d"), (None, "f")]);
    let users: Vec<_> = after.users.iter().map(|user| (user.id.as_str(), user.events)).collect();
    assert_eq!(users, [("bob", 2)], "carl has no clean row any more");
    assert_eq!(Dataset::current(&world.store).unwrap().report().active_users, 1);
    assert_eq!(after.histories[&user("bob")], before.histories[&user("bob")]);
    assert_eq!(after.histories.len(), 3);
}

/// Whatever call fails, before or after it took effect: the dataset reads whole, as it was or as it will be, and
/// another erasure finishes the work.
#[test]
fn a_crash_anywhere_leaves_a_whole_dataset() {
    let reference = shop();
    let (start, old) = (tree(&reference.store), contents(&reference.store));
    erase_owner(&reference.store, &zara(), reference.folder.path()).unwrap();
    let (new, expected) = (contents(&reference.store), tree(&reference.store));
    let mut seen = (false, false);
    for operation in [Operation::PutNew, Operation::Put, Operation::Delete, Operation::Read, Operation::List] {
        for fault in [Fault::Before, Fault::After] {
            for survivors in 0.. {
                let store = MemoryStore::new();
                for (path, bytes) in &start {
                    store.put(&ObjectPath::new(path.as_str()).unwrap(), bytes).unwrap();
                }
                let mut scripted: VecDeque<_> = std::iter::repeat_n((operation, Fault::Slow), survivors).collect();
                scripted.push_back((operation, fault));
                let faulty = FaultyStore::new(&store, FaultPlan { scripted, ..FaultPlan::default() });
                let outcome = erase_owner(&faulty, &zara(), reference.folder.path());
                let found = contents(&store);
                seen = (seen.0 || found == old, seen.1 || (outcome.is_err() && found == new));
                assert!(found == old || found == new, "{operation:?} {fault:?} after {survivors}");
                if outcome.is_ok() {
                    break;
                }
                erase_owner(&store, &zara(), reference.folder.path()).unwrap();
                assert!(!names(&store, "zara"), "{operation:?} {fault:?} after {survivors}");
                assert_eq!(contents(&store), new);
                assert_eq!(tree(&store).len(), expected.len());
            }
        }
    }
    assert_eq!(seen, (true, true), "both sides of the manifest were tried");
}

#[test]
fn a_report_of_a_run_that_published_nothing_is_cleaned_too() {
    let world = shop();
    erase_owner(&world.store, &zara(), world.folder.path()).unwrap();
    let mut report = Dataset::current(&world.store).unwrap().report().clone();
    report.files[0].failed = Some("the columns are: zara, B".to_owned());
    write_report(&world.store, &report).unwrap();
    assert_eq!(erase_owner(&world.store, &zara(), world.folder.path()).unwrap(), Erased::default());
    assert!(!names(&world.store, "zara"));
}

type Row = (Option<u8>, Option<u8>, u8, bool);

fn csv<'a>(rows: impl Iterator<Item = &'a (usize, Row)>) -> String {
    let mut text = "USER_ID,SESSION_ID,ITEM_ID,TIMESTAMP,EVENT_TYPE\n".to_owned();
    for (index, (user, session, item, buys)) in rows {
        let id = |prefix: &str, id: &Option<u8>| id.map_or_else(String::new, |id| format!("{prefix}{id}"));
        let kind = if *buys { "purchase" } else { "view" };
        let time = 1_600_000_000 + index * 20_000;
        writeln!(text, "{},{},i{item},{time},{kind}", id("u", user), id("s", session)).unwrap();
    }
    text
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Erasing equals an ETL that never saw their rows, histories of those who shared a session aside.
    #[test]
    fn erasing_equals_never_having_seen(
        rows in prop::collection::vec((prop::option::of(0..4_u8), prop::option::of(0..4_u8), 0..5_u8, any::<bool>()), 1..40),
    ) {
        let anyone = |row: &Row| row.0.is_some() || row.1.is_some();
        let rows: Vec<(usize, Row)> = rows.into_iter().filter(anyone).enumerate().collect();
        // One row of somebody else's, so that both runs have something to read.
        let bystander = "bystander,,i,1600000000,view\n";
        let (world, twin) = (World::new(), World::new());
        world.file("interactions.csv", csv(rows.iter()) + bystander);
        world.run().unwrap();
        let before = contents(&world.store);
        let owners = with_sessions(&world.store, &BTreeSet::from([user("u0")])).unwrap();
        let is_theirs = |(_, (user, session, ..)): &&(usize, Row)| {
            *user == Some(0) || session.is_some_and(|id| owners.contains(&self::session(&format!("s{id}"))))
        };
        twin.file("interactions.csv", csv(rows.iter().filter(|row| !is_theirs(row))) + bystander);
        twin.run().unwrap();

        let erased = erase_owner(&world.store, &BTreeSet::from([user("u0")]), world.folder.path()).unwrap();
        let (found, expected) = (contents(&world.store), contents(&twin.store));
        prop_assert_eq!(erased.interactions, rows.iter().filter(is_theirs).count() as u64);
        prop_assert_eq!(found.interactions, expected.interactions);
        prop_assert_eq!(found.users, expected.users);
        let mut histories = before.histories;
        histories.retain(|key, _| !owners.contains(key));
        prop_assert_eq!(&found.histories, &histories);
        let report = |store| Dataset::current(store).unwrap().report().clone();
        let (found, expected) = (report(&world.store), report(&twin.store));
        prop_assert_eq!(found.interactions.clean, expected.interactions.clean);
        prop_assert_eq!(found.clean_by_event_type, expected.clean_by_event_type);
        prop_assert_eq!((found.days, found.first_day, found.last_day), (expected.days, expected.first_day, expected.last_day));
        prop_assert_eq!((found.active_users, found.bots), (expected.active_users, expected.bots));
        let sum: usize = histories.values().map(Vec::len).sum();
        prop_assert_eq!(found.histories.bytes, sum as u64);
        prop_assert_eq!(found.histories.users + found.histories.sessions, histories.len() as u64);
    }
}
