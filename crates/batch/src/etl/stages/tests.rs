//! A small engine with a shuffle of its own: whatever its partitions and the order of rows in them, the dataset and its
//! books are those of the local run.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use anabranch_stores::lake::{MemoryStore, ObjectStore};
use proptest::prelude::*;

use super::*;
use crate::dataset::Dataset;
use crate::etl::tests::{AS_OF, World};

/// A fixed stream of words.
struct Words(u64);

impl Words {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % below
    }
}

type Owned = (RecordKind, i64, Vec<u8>, Vec<u8>);

fn owned(records: &Records) -> Vec<Owned> {
    records.view().iter().map(|r| (r.kind, r.part, r.key.to_vec(), r.row.to_vec())).collect()
}

fn records(rows: &[Owned]) -> Records {
    let mut records = Records::default();
    for (kind, part, key, row) in rows {
        records.push(*kind, *part, |out| out.extend(key), |out| out.extend(row));
    }
    records
}

/// Deals rows to partitions, shuffles each and sorts it, as engines do: by key, equal keys in any order.
fn shuffle(rows: Vec<Owned>, partitions: usize, words: &mut Words) -> Vec<Vec<Owned>> {
    let mut dealt = vec![Vec::new(); partitions];
    for row in rows {
        let hash = row.2.iter().fold(row.1 as usize, |hash, byte| hash.wrapping_mul(31).wrapping_add(*byte as usize));
        dealt[hash % partitions].push(row);
    }
    for rows in &mut dealt {
        for index in 1..rows.len() {
            rows.swap(index, words.next(index + 1));
        }
        rows.sort_by(|a, b| (a.1, &a.2).cmp(&(b.1, &b.2)));
    }
    dealt
}

/// Gives a stage its partition in batches.
fn batches(rows: &[Owned], words: &mut Words, mut each: impl FnMut(RecordsRef<'_>)) {
    let mut rest = rows;
    while !rest.is_empty() {
        let (batch, tail) = rest.split_at(1 + words.next(rest.len()));
        each(records(batch).view());
        rest = tail;
    }
}

fn plan(world: &World, base: Option<&Dataset<'_>>) -> Plan {
    Plan::new(PlanRequest {
        input: &world.input(),
        mapping: world.mapping.clone(),
        events: EventSettings::default(),
        settings: world.settings.clone(),
        as_of_ms: Some(AS_OF),
        until_ms: world.until_ms,
        base,
    })
    .unwrap()
}

fn run(world: &World, store: &MemoryStore, plan: &Plan, seed: u64) -> Result<StageOutcome, BatchError> {
    let words = &mut Words(seed);
    let json = serde_json::to_string(plan).unwrap();
    let plan: Plan = serde_json::from_str(&json).unwrap();
    assert_eq!(serde_json::to_string(&plan).unwrap(), json, "a plan travels");
    let is_incremental = plan.base.is_some();
    let stages = Arc::new(Stages::new(plan).unwrap());
    let mut mapped = Vec::new();
    for number in 0..stages.plan().files.len() {
        let scratch = world.folder.path().join("scratch");
        let each = &mut |records: Records| {
            mapped.extend(owned(&records));
            Ok(())
        };
        stages.map_file(number, &world.input().store, &scratch, each).unwrap();
    }
    if is_incremental {
        let dataset = Dataset::current(store).unwrap();
        let each = &mut |records: Records| {
            mapped.extend(owned(&records));
            Ok(())
        };
        for path in dataset.paths("interactions") {
            interaction_records(&stages, &dataset, path, each).unwrap();
        }
        for path in dataset.paths("histories") {
            history_records(&dataset, store, path, each).unwrap();
        }
        mapped.extend(owned(&carried_quarantine(&dataset).unwrap()));
    }
    let mut by_kind: BTreeMap<RecordKind, Vec<Owned>> = BTreeMap::new();
    for row in mapped {
        by_kind.entry(row.0).or_default().push(row);
    }
    let mut of = |kind| by_kind.remove(&kind).unwrap_or_default();
    let mut told = [of(RecordKind::Account), of(RecordKind::Counts)].concat();

    let mut out = Records::default();
    let erased = &|_: &_| None;
    for (number, rows) in (0..).zip(shuffle(of(RecordKind::Row), 1 + words.next(5), words)) {
        let mut folder = stages.fold(number).unwrap();
        batches(&rows, words, |batch| folder.push(batch, erased, &mut out).unwrap());
        folder.finish(store, erased, &mut out).unwrap();
    }
    let (clean, counts): (Vec<_>, Vec<_>) = owned(&out).into_iter().partition(|(kind, ..)| *kind == RecordKind::Clean);
    told.extend(counts);
    // Days: each in one partition.
    let mut days = vec![Vec::new(); 1 + words.next(4)];
    let dealt = days.len();
    for row in clean {
        days[row.1 as usize % dealt].push(row);
    }
    for mut rows in days {
        rows.sort_by(|a, b| (a.1, &a.2).cmp(&(b.1, &b.2)));
        let mut out = Records::default();
        let mut writer = DayWriter::new(Arc::clone(&stages));
        batches(&rows, words, |batch| writer.push(batch, store, &mut out).unwrap());
        writer.finish(store, &mut out).unwrap();
        told.extend(owned(&out));
    }
    for rows in shuffle(of(RecordKind::Item), 1 + words.next(3), words) {
        let mut out = Records::default();
        let mut writer = ItemWriter::default();
        batches(&rows, words, |batch| writer.push(&stages, batch, store, &mut out).unwrap());
        writer.finish(store, &mut out).unwrap();
        told.extend(owned(&out));
    }
    let mut refused = of(RecordKind::Quarantine);
    refused.sort_by(|a, b| a.2.cmp(&b.2));
    let cut = words.next(refused.len() + 1);
    for (number, rows) in [(0, &refused[..cut]), (1, &refused[cut..])] {
        let mut out = Records::default();
        let mut writer = QuarantineWriter::new(number).unwrap();
        batches(rows, words, |batch| writer.push(batch, store, &mut out).unwrap());
        writer.finish(store, &mut out).unwrap();
        told.extend(owned(&out));
    }
    for index in 1..told.len() {
        told.swap(index, words.next(index + 1));
    }
    publish(&stages, store, &[records(&told).view()])
}

/// Rows, histories, quarantine, users, items.
type Content = (Vec<String>, BTreeMap<Vec<u8>, Vec<u8>>, Vec<String>, Vec<String>, Vec<String>);

/// Everything that a dataset says, without how its files are cut.
fn content(store: &dyn ObjectStore) -> Content {
    let dataset = Dataset::current(store).unwrap();
    let mut rows: Vec<String> = dataset.interactions(None).map(|row| format!("{:?}", row.unwrap())).collect();
    rows.sort_unstable();
    let histories = dataset.histories().map(|entry| entry.map(|(key, bytes)| (key.to_bytes(), bytes)).unwrap());
    let quarantine = dataset.quarantine().unwrap().iter().map(|line| format!("{line:?}")).collect();
    let sorted = |mut texts: Vec<String>| {
        texts.sort_unstable();
        texts
    };
    let users = sorted(dataset.users().unwrap().iter().map(|user| format!("{user:?}")).collect());
    let items = sorted(dataset.catalog().unwrap().iter().map(|item| format!("{item:?}")).collect());
    (rows, histories.collect(), quarantine, users, items)
}

/// Events of few users, sessions and days, some of them bad or repeated.
fn events(words: &mut Words, rows: usize) -> String {
    let mut text = "USER_ID,ITEM_ID,TIMESTAMP,EVENT_TYPE,SESSION_ID,EVENT_VALUE,EVENT_ID\n".to_owned();
    for _ in 0..rows {
        let user = ["", "ann", "bob", "cid", "dé"][words.next(5)];
        let session = ["", "s1", "s2", "s3"][words.next(4)];
        let kind = ["view", "cart", "purchase", "view", "cart", "view", "view", "ogle"][words.next(8)];
        let time = 1_600_000_000 + words.next(40) * 10_000;
        let id = if words.next(3) == 0 { format!("e{}", words.next(9)) } else { String::new() };
        let value = ["", "", "1.5", "", "", "2", "", "", "x"][words.next(9)];
        writeln!(text, "{user},item{},{time},{kind},{session},{value},{id}", words.next(7)).unwrap();
    }
    text
}

fn world(words: &mut Words) -> World {
    let mut world = World::new();
    world.settings.bot_events_per_day_max = 3;
    world.until_ms = (words.next(2) == 0).then_some(1_600_300_000_000);
    world.file("interactions-1.csv", events(words, 60));
    world.file("items.jsonl", "{\"ITEM_ID\":\"item1\",\"TITLE\":\"Tea\"}\n{\"TITLE\":\"?\"}\n{\"ITEM_ID\":\"item1\",\"TITLE\":\"Green tea\"}\n");
    world.file("users.csv", "USER_ID,AGE\nann,33\nzoe,20\nann,34\n");
    world.file("interactions-0.txt.gz", "not gzip");
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_partitions_give_the_dataset_of_the_local_run(seed in 0_u64..1 << 40) {
        let words = &mut Words(seed);
        let world = world(words);
        let local = world.run().unwrap();
        let store = MemoryStore::new();
        let outcome = run(&world, &store, &plan(&world, None), seed).unwrap();
        prop_assert_eq!(&outcome.report, &local.report);
        prop_assert_eq!(content(&store), content(&world.store));
        // The same run again, cut otherwise: the same content; cut alike: nothing changes.
        let again = run(&world, &store, &plan(&world, None), seed).unwrap();
        prop_assert_eq!(again.published, Some(super::super::Published::Unchanged(1)));
        run(&world, &store, &plan(&world, None), seed + 1).unwrap();
        prop_assert_eq!(content(&store), content(&world.store));
    }

    #[test]
    fn an_incremental_run_reaches_what_a_run_over_everything_reaches(seed in 0_u64..1 << 40) {
        let words = &mut Words(seed);
        let world = world(words);
        let store = MemoryStore::new();
        run(&world, &store, &plan(&world, None), seed).unwrap();
        world.file("interactions-2.csv", events(words, 40));
        let everything = world.run().unwrap();
        let dataset = Dataset::current(&store).unwrap();
        let mut plan = plan(&world, Some(&dataset));
        plan.keep(|file| file.table != "interactions" || file.name == "interactions-2.csv");
        let outcome = run(&world, &store, &plan, seed).unwrap();
        prop_assert_eq!(&outcome.report, &everything.report);
        prop_assert_eq!(content(&store), content(&world.store));
        // Its base is gone now: a repetition must plan anew.
        let again = run(&world, &store, &plan, seed);
        prop_assert!(matches!(again, Err(BatchError::Raced { .. })), "{:?}", again);
    }
}

#[test]
fn books_that_do_not_balance_and_foreign_records_are_refused() {
    let world = World::new();
    world.file("interactions.csv", events(&mut Words(7), 30));
    let store = MemoryStore::new();
    let stages = Arc::new(Stages::new(plan(&world, None)).unwrap());
    let scratch = world.folder.path().join("scratch");
    let mut mapped = Vec::new();
    let each = &mut |records: Records| {
        mapped.extend(owned(&records));
        Ok(())
    };
    stages.map_file(0, &world.input().store, &scratch, each).unwrap();
    assert!(matches!(stages.map_file(1, &world.input().store, &scratch, each), Err(BatchError::Records { .. })));
    let accounts: Vec<Owned> = mapped.iter().filter(|row| row.0 == RecordKind::Account).cloned().collect();
    let unfolded = publish(&stages, &store, &[records(&accounts).view()]);
    assert!(matches!(unfolded, Err(BatchError::Unreconciled { .. })), "{unfolded:?}");
    assert!(matches!(publish(&stages, &store, &[]), Err(BatchError::Records { .. })), "no account");
    let twice = [accounts.clone(), accounts].concat();
    assert!(matches!(publish(&stages, &store, &[records(&twice).view()]), Err(BatchError::Records { .. })));
    assert!(Dataset::current(&store).is_err(), "nothing was published");

    let mut out = Records::default();
    let mut fold = |rows: &[Owned]| stages.fold(0).unwrap().push(records(rows).view(), &|_| None, &mut out);
    assert!(matches!(fold(&mapped), Err(BatchError::Records { .. })), "kinds are mixed");
    let mut rows: Vec<Owned> = mapped.into_iter().filter(|row| row.0 == RecordKind::Row).collect();
    rows.sort_by(|a, b| b.2.cmp(&a.2));
    assert!(matches!(fold(&rows), Err(BatchError::Records { .. })), "keys descend");
    for (key, row) in
        [(b"uann".to_vec(), vec![0; 4]), (b"uann".to_vec(), vec![255; 60]), (b"".to_vec(), rows[0].3.clone())]
    {
        assert!(matches!(fold(&[(RecordKind::Row, 0, key, row)]), Err(BatchError::Records { .. })));
    }
}

#[test]
fn columns_that_do_not_fit_are_refused() {
    assert!(BinaryRef::new(&[], b"").is_err());
    assert!(BinaryRef::new(&[0, 3], b"ab").is_err());
    assert!(BinaryRef::new(&[2, 1], b"ab").is_err());
    assert!(BinaryRef::new(&[-1, 1], b"ab").is_err());
    let two = BinaryRef::new(&[1, 2, 2], b"ab").unwrap();
    assert_eq!(two.iter().collect::<Vec<_>>(), [b"b".as_slice(), b""]);
    assert!(RecordsRef::new(&[1], &[0], two, two).is_err());
    assert!(RecordsRef::new(&[1, 9], &[0, 0], two, two).is_err());
    assert!(RecordsRef::new(&[1, 7], &[0, 0], two, two).is_ok());
}
