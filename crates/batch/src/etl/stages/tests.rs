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
use crate::etl::tests::{AS_OF, World, gzip};

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
        records.push(*kind, *part, |out| out.extend(key), |out| out.extend(row)).unwrap();
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
        for path in dataset.paths("quarantine") {
            quarantine_records(&stages, &dataset, store, path, each).unwrap();
        }
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// A file of which a night left rows to the stream, or refused them for their time, is not known: it is read again,
    /// and however the cut-over moves from night to night, the outcome is that of a run over everything.
    #[test]
    fn however_the_cut_over_moves_an_incremental_run_is_a_whole_run(seed in 0_u64..1 << 40) {
        let words = &mut Words(seed);
        let mut world = World::new();
        world.settings.bot_events_per_day_max = 3;
        let store = MemoryStore::new();
        let mut as_of_ms = 1_600_000_000_000;
        for night in 0..4_i64 {
            world.file(&format!("interactions-{night}.csv"), events(words, 30));
            if night == 1 {
                // A file that could not be read whole, and is mended later.
                world.file("interactions-cut.csv.gz", &gzip(events(&mut Words(seed), 40).as_bytes())[..150]);
            }
            if night == 2 {
                world.file("interactions-cut.csv.gz", gzip(events(&mut Words(seed), 40).as_bytes()));
            }
            // Back at times, and now and then everything.
            world.until_ms = (words.next(4) > 0).then(|| 1_600_000_000_000 + words.next(9) as i64 * 50_000_000);
            as_of_ms += words.next(3) as i64 * 100_000_000;
            let of = |base: Option<&Dataset<'_>>| Plan::new(PlanRequest {
                input: &world.input(),
                mapping: world.mapping.clone(),
                events: EventSettings::default(),
                settings: world.settings.clone(),
                as_of_ms: Some(as_of_ms),
                until_ms: world.until_ms,
                base,
            }).unwrap();
            let dataset = Dataset::current(&store).ok();
            let mut plan = of(dataset.as_ref());
            if let Some(base) = plan.base.clone() {
                plan.keep(|file| !base.report.files.iter().any(|line| {
                    line.file == file.name && line.bytes == file.size && line.failed.is_none()
                        && line.after_cut_over == 0 && line.too_new == 0
                }));
            }
            let outcome = run(&world, &store, &plan, seed).unwrap();
            let everything = MemoryStore::new();
            let expected = run(&world, &everything, &of(None), seed + 1).unwrap();
            prop_assert_eq!(&outcome.report, &expected.report);
            let (mut ours, mut theirs) = (content(&store), content(&everything));
            ours.2.sort_unstable();
            theirs.2.sort_unstable();
            prop_assert_eq!(ours, theirs);
        }
    }
}

/// A night accepted a file that could not be read. It is mended, or gone, by the next night: what was accepted once
/// does not hold back runs that read whole files only.
#[test]
fn a_failure_that_was_accepted_does_not_hold_back_later_runs() {
    let mut world = World::new();
    world.file("interactions-0.csv", events(&mut Words(7), 30));
    world.file("interactions-1.csv.gz", "not gzip");
    world.file("interactions-2.csv.gz", "no gzip either");
    let store = MemoryStore::new();
    run(&world, &store, &plan(&world, None), 1).unwrap();
    world.settings.keep_going = false;
    let of_file = |store: &MemoryStore| -> Vec<String> {
        let dataset = Dataset::current(store).unwrap();
        dataset.quarantine().unwrap().into_iter().filter(|e| e.code == crate::etl::FILE_CODE).map(|e| e.file).collect()
    };
    assert_eq!(of_file(&store), ["interactions-1.csv.gz", "interactions-2.csv.gz"]);

    world.file("interactions-1.csv.gz", gzip(events(&mut Words(8), 30).as_bytes()));
    let run_again = |keep: fn(&PlannedFile) -> bool| {
        let dataset = Dataset::current(&store).unwrap();
        let mut plan = plan(&world, Some(&dataset));
        plan.keep(keep);
        run(&world, &store, &plan, 2).unwrap()
    };
    let still = run_again(|file| file.name != "interactions-0.csv");
    assert_eq!(still.published, None, "the plan reads a file that fails");
    let outcome = run_again(|file| file.name == "interactions-1.csv.gz");
    assert!(outcome.published.is_some(), "its files were read whole");
    let failed: Vec<_> = outcome.report.failed_files().map(|line| line.file.as_str()).collect();
    assert_eq!(failed, ["interactions-2.csv.gz"]);
    assert_eq!(of_file(&store), ["interactions-2.csv.gz"]);
    assert_eq!(outcome.report.files.len(), 3, "a line for each file");
}

/// Every row of a large file is refused under a wrong mapping: no record may grow with the file, and the run ends as the
/// local one does.
#[test]
fn a_file_of_nothing_but_refusals_comes_in_bounded_records_and_ends_as_the_local_run() {
    let world = World::new();
    let row = format!("u,i,1600000000,ogle,{}\n", "x".repeat(20_000));
    world.file("interactions.csv", format!("USER_ID,ITEM_ID,TIMESTAMP,EVENT_TYPE,NOTE\n{}", row.repeat(1_500)));
    let stages = Arc::new(Stages::new(plan(&world, None)).unwrap());
    let scratch = world.folder.path().join("scratch");
    let mut keys = Vec::new();
    let each = &mut |records: Records| {
        assert!(records.bytes() < 18 << 20, "{} bytes are handed over together", records.bytes());
        for record in records.view().iter().filter(|record| record.kind == RecordKind::Quarantine) {
            assert!(record.row.len() < 9 << 20 && record.row.ends_with(b"\n"), "{} bytes", record.row.len());
            keys.push(record.key.to_vec());
        }
        Ok(())
    };
    stages.map_file(0, &world.input().store, &scratch, each).unwrap();
    assert!(keys.len() > 3 && keys.is_sorted_by(|a, b| a < b), "{keys:?}");
    let store = MemoryStore::new();
    let error = run(&world, &store, &plan(&world, None), 3).unwrap_err().to_string();
    assert_eq!(error, world.run().unwrap_err().to_string());
    assert!(error.contains("unknown-event-type"), "{error}");
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
