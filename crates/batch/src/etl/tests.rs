//! The whole ETL on small inputs: golden rows, every kind of bad input, the laws, publication.
#![allow(clippy::unwrap_used, clippy::format_collect)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::SystemTime;

use anabranch_events::history::apply_event;
use anabranch_events::{Event, EventKey, EventSettings, EventTypes, Fields, History, HistoryKey, codec};
use anabranch_stores::lake::{
    Fault, FaultPlan, FaultyStore, MemoryStore, ObjectPath, ObjectStore, Operation, S3Options, StoreOptions,
};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::dataset::Dataset;

pub(crate) const AS_OF: i64 = 1_750_000_000_000;

pub(crate) struct World {
    pub(crate) folder: TempDir,
    pub(crate) store: MemoryStore,
    pub(crate) types: EventTypes,
    pub(crate) mapping: Mapping,
    pub(crate) settings: EtlSettings,
    pub(crate) threads: usize,
    pub(crate) until_ms: Option<i64>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            store: MemoryStore::new(),
            types: EventSettings::default().compile().unwrap(),
            mapping: Mapping::default(),
            settings: EtlSettings { keep_going: true, ..EtlSettings::default() },
            threads: 2,
            until_ms: None,
        }
    }

    pub(crate) fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> &Self {
        let place = self.folder.path().join("data").join(name);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::write(place, bytes).unwrap();
        self
    }

    pub(crate) fn input(&self) -> InputOptions {
        options(&self.folder.path().join("data"))
    }

    fn run_in(&self, store: &dyn ObjectStore, erased: Erased<'_>) -> Result<EtlOutcome, BatchError> {
        let scratch = self.folder.path().join("scratch");
        let request = EtlRequest {
            input: &self.input(),
            mapping: &self.mapping,
            types: &self.types,
            settings: &self.settings,
            as_of_ms: Some(AS_OF),
            until_ms: self.until_ms,
            erased,
            scratch: &scratch,
            threads: self.threads,
            memory_bytes: MEMORY_BYTES_DEFAULT,
            progress: &|_| {},
            clock_s: &|| 0.0,
        };
        let outcome = run(&request, store);
        let leftovers = fs::read_dir(&scratch).map_or(0, Iterator::count);
        assert_eq!(leftovers, 0, "scratch files are removed");
        outcome
    }

    pub(crate) fn run(&self) -> Result<EtlOutcome, BatchError> {
        self.run_in(&self.store, &|_| None)
    }

    fn tree(&self) -> BTreeMap<String, Vec<u8>> {
        tree(&self.store)
    }

    fn rows(&self) -> Vec<String> {
        let dataset = Dataset::current(&self.store).unwrap();
        dataset
            .interactions(None)
            .map(|row| {
                let row = row.unwrap();
                let text = |t: Option<String>| t.unwrap_or_else(|| "-".to_owned());
                format!(
                    "{} {} {} {} {:?} {}",
                    text(row.user),
                    text(row.session),
                    row.item,
                    row.event_type,
                    row.value,
                    row.time_ms / 1000
                )
            })
            .collect()
    }
}

type Erased<'a> = &'a (dyn Fn(&HistoryKey) -> Option<i64> + Sync);

pub(crate) fn options(data: &Path) -> InputOptions {
    let store = StoreOptions { process_started: SystemTime::UNIX_EPOCH, s3: S3Options::default() };
    InputOptions { data: data.display().to_string(), store }
}

fn tree(store: &dyn ObjectStore) -> BTreeMap<String, Vec<u8>> {
    let objects = store.list("").unwrap();
    objects.into_iter().map(|o| (o.path.as_str().to_owned(), store.get(&o.path).unwrap().to_vec())).collect()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

const SMALL: &str = "USER_ID,ITEM_ID,TIMESTAMP,EVENT_TYPE,SESSION_ID,EVENT_VALUE\n\
    ann,tea,1600000000,view,s1,\n\
    ann,tea,1600000100,purchase,s1,2.5\n\
    bob,\"milk, fresh\",1600100000,view,,\n\
    ,tea,1600000050,view,s2,\n\
    ann,tea,1600000000,view,s1,\n";

#[test]
fn golden_small_shop() {
    let world = World::new();
    world.file("interactions.csv", SMALL);
    world.file("items.jsonl", "{\"ITEM_ID\":\"tea\",\"TITLE\":\"Tea\",\"PRICE\":3.5,\"BRAND\":\"X\"}\n{\"ITEM_ID\":\"tea\",\"TITLE\":\"Green tea\",\"PRICE\":\"ask\"}\n");
    world.file("users.csv", "USER_ID,AGE\nann,33\nzoe,20\n");
    let outcome = world.run().unwrap();
    let report = &outcome.report;
    assert_eq!(report.interactions, Counts { read: 5, clean: 4, duplicates: 1, ..Counts::default() });
    assert_eq!(report.items, Counts { read: 2, clean: 1, duplicates: 1, ..Counts::default() });
    assert_eq!(report.users, Counts { read: 2, clean: 2, ..Counts::default() });
    assert_eq!((report.days, report.first_day.as_deref()), (2, Some("2020-09-13")));
    assert_eq!((report.histories.users, report.histories.sessions), (2, 2));
    assert_eq!(
        world.rows(),
        [
            "ann s1 tea view None 1600000000",
            "ann s1 tea purchase Some(2.5) 1600000100",
            "- s2 tea view None 1600000050",
            "bob - milk, fresh view None 1600100000",
        ]
    );
    let dataset = Dataset::current(&world.store).unwrap();
    let items = dataset.catalog().unwrap();
    assert_eq!((items.len(), items[0].title.as_deref(), items[0].price), (1, Some("Green tea"), None));
    assert_eq!(items[0].attributes["price"], "ask");
    let users: Vec<_> = dataset.users().unwrap().into_iter().map(|u| (u.id, u.events, u.attributes.len())).collect();
    assert_eq!(users, [("ann".into(), 2, 1), ("bob".into(), 1, 0), ("zoe".into(), 0, 1)]);
    let session = histories(&world.store, &world.types)[&HistoryKey::Session("s1".into())].clone();
    assert_eq!(session.alias().map(|alias| &*alias.user), Some("ann"));
}

fn histories(store: &dyn ObjectStore, types: &EventTypes) -> BTreeMap<HistoryKey, History> {
    let dataset = Dataset::current(store).unwrap();
    dataset.histories().map(|entry| entry.unwrap()).map(|(k, v)| (k, codec::decode(&v, types).unwrap())).collect()
}

#[test]
fn bad_rows_cost_themselves_only() {
    let long = "x".repeat(300);
    let mut csv = b"USER_ID,ITEM_ID,TIMESTAMP,EVENT_TYPE,EVENT_VALUE\n".to_vec();
    let rows: Vec<(Vec<u8>, Option<&str>)> = vec![
        (b"u,i,1600000000,view,".to_vec(), None),
        (b"u,i,1600000000".to_vec(), Some("unparsable")),
        (b"u,i,1600000000,view,,,".to_vec(), Some("unparsable")),
        (b"u\xff,i,1600000000,view,".to_vec(), Some("unparsable")),
        (b"u\0,i,1600000000,view,".to_vec(), Some("unparsable")),
        (b"u,\"i,1600000000,view,".to_vec(), Some("unparsable")),
        (b"u,\"i\"x,1600000000,view,".to_vec(), Some("unparsable")),
        (b",i,1600000000,view,".to_vec(), Some("missing-user")),
        (b"u,,1600000000,view,".to_vec(), Some("missing-item")),
        (b"u,i,,view,".to_vec(), Some("missing-time")),
        (format!("u,{long},1600000000,view,").into_bytes(), Some("id-too-long")),
        (b"u,i,1600000000,dance,".to_vec(), Some("unknown-event-type")),
        (b"u,i,yesterday,view,".to_vec(), Some("bad-time")),
        (b"u,i,1000,view,".to_vec(), Some("time-too-old")),
        (b"u,i,1900000000,view,".to_vec(), Some("time-too-new")),
        (b"u,i,1600000000,view,inf".to_vec(), Some("bad-value")),
        (b"u,\"two\nlines\",1600000000,view,".to_vec(), None),
        (b"u,j,1600000001,view,1".to_vec(), None),
    ];
    let mut expected = Vec::new();
    for (row, code) in &rows {
        if let Some(code) = code {
            expected.push(((*code).to_owned(), Some(csv.len() as u64)));
        }
        csv.extend_from_slice(row);
        csv.push(b'\n');
    }
    let world = World::new();
    world.file("interactions.csv", &csv);
    let report = world.run().unwrap().report;
    let found = Dataset::current(&world.store).unwrap().quarantine().unwrap();
    let found_codes: Vec<_> = found.iter().map(|q| (q.code.clone(), q.offset)).collect();
    assert_eq!(found_codes, expected);
    assert_eq!(report.interactions.clean, 3);
    assert_eq!(report.interactions.quarantined, expected.len() as u64);
    assert!(
        found.iter().any(|q| q.raw_base64.is_some()) && found.iter().any(|q| q.raw.as_deref() == Some("u,i,,view,"))
    );
}

#[test]
fn bad_json_lines() {
    let world = World::new();
    world.file(
        "interactions.jsonl",
        "{\"userId\":\"u\",\"itemId\":7,\"sentAt\":1600000000}\n{bad\n[1]\n\n{\"USER_ID\":{},\"ITEM_ID\":\"i\"}\n\
         {\"userId\":\"u\",\"itemId\":\"i\",\"sentAt\":\"2020-09-13T12:26:40Z\",\"x\":[1,{}]}",
    );
    let report = world.run().unwrap().report;
    assert_eq!(report.interactions, Counts { read: 5, clean: 2, quarantined: 3, ..Counts::default() });
    let mut rows = world.rows();
    // One second, one user: the order is that of the event keys.
    rows.sort();
    assert_eq!(rows, ["u - 7 view None 1600000000", "u - i view None 1600000000"]);
}

#[test]
fn bad_files_cost_themselves_only() {
    let good = "USER_ID,ITEM_ID,TIMESTAMP\nu,i,1600000000\n";
    let many: String = (0..200_000).map(|i| format!("u{i},i,1600000000\n")).collect();
    let packed = gzip(format!("USER_ID,ITEM_ID,TIMESTAMP\n{many}").as_bytes());
    let zst = zstd::encode_all(good.as_bytes(), 1).unwrap();
    let world = World::new();
    world
        .file("interactions-0.csv", good)
        .file("interactions-1.csv", "")
        .file("interactions-2.csv", "A,B\n1,2\n")
        .file("interactions-3.parquet", b"PAR1 this is cut short")
        .file("interactions-4.csv.gz", &packed[..packed.len() / 2])
        .file("interactions-5.csv", &packed)
        .file("interactions-6.csv.zst", &zst[..zst.len() - 5])
        .file("interactions-7.jsonl", "hello\n")
        .file("interactions-8.xlsx", "x")
        .file("interactions-9.csv", b"PAR1")
        .file("interactions-a.csv.zst", good);
    let report = world.run().unwrap().report;
    let words = [
        ("interactions-1.csv", "empty"),
        ("interactions-2.csv", "no column ITEM_ID or itemId; the columns are: A, B"),
        ("interactions-3.parquet", "no whole Parquet"),
        ("interactions-4.csv.gz", "truncated"),
        ("interactions-5.csv", "gzip"),
        ("interactions-6.csv.zst", "cannot be read on"),
        ("interactions-7.jsonl", "no line begins with"),
        ("interactions-8.xlsx", ".parquet"),
        ("interactions-9.csv", "name it .parquet"),
        ("interactions-a.csv.zst", "its bytes do not"),
    ];
    let failed: Vec<_> = report.failed_files().map(|f| (f.file.as_str(), f.failed.as_deref().unwrap())).collect();
    assert_eq!(failed.len(), words.len(), "{failed:?}");
    for ((file, reason), (name, word)) in failed.iter().zip(words) {
        assert_eq!(*file, name);
        assert!(reason.contains(word) || reason.contains("truncated"), "{file}: {reason}");
    }
    // Rows before the break stay.
    let broken = report.files.iter().find(|f| f.file == "interactions-4.csv.gz").unwrap();
    assert!(broken.read > 50_000 && broken.read < 200_000);
    let entries = Dataset::current(&world.store).unwrap().quarantine().unwrap();
    assert_eq!(entries.iter().filter(|q| q.code == FILE_CODE).count(), words.len());
}

#[test]
fn failed_files_block_publication_unless_accepted() {
    let mut world = World::new();
    world.settings.keep_going = false;
    world.file("interactions-0.csv", SMALL).file("interactions-1.csv", "");
    let outcome = world.run().unwrap();
    assert_eq!(outcome.published, None);
    assert!(outcome.report.check_files().unwrap_err().to_string().contains("interactions-1.csv"));
    assert!(matches!(Dataset::current(&world.store), Err(BatchError::NoDataset)));
    world.settings.keep_going = true;
    assert_eq!(world.run().unwrap().published, Some(Published::New(1)));
}

#[test]
fn nothing_readable_is_an_error() {
    let world = World::new();
    assert!(matches!(world.run(), Err(BatchError::Input { .. })));
    world.file("interactions.csv", "");
    assert!(world.run().unwrap_err().to_string().contains("empty"));
    world.file("interactions.csv", "USER_ID,ITEM_ID,TIMESTAMP\n");
    assert!(matches!(world.run(), Err(BatchError::NoRows { .. })));
    world.file("interactions.csv", "USER_ID,ITEM_ID,TIMESTAMP\n,,\n");
    assert!(matches!(world.run(), Err(BatchError::NoRows { .. })));
    assert!(world.tree().keys().all(|path| !path.starts_with("manifests/")));
}

#[test]
fn a_second_run_changes_nothing_and_a_new_one_replaces() {
    let mut world = World::new();
    world.file("interactions.csv", SMALL);
    assert_eq!(world.run().unwrap().published, Some(Published::New(1)));
    let before = world.tree();
    world.threads = 1;
    assert_eq!(world.run().unwrap().published, Some(Published::Unchanged(1)));
    assert_eq!(world.tree(), before);
    world.file("interactions.csv", format!("{SMALL}new,item,1600000000,view,,\n"));
    assert_eq!(world.run().unwrap().published, Some(Published::New(2)));
    let manifests: Vec<_> = world.tree().into_keys().filter(|path| path.starts_with("manifests/")).collect();
    assert_eq!(manifests, ["manifests/0000000002.json"]);
    let dataset = Dataset::current(&world.store).unwrap();
    let named: usize = dataset.manifest().files.len();
    assert_eq!(world.tree().len(), named + 2, "data files, one manifest, the report");
}

#[test]
fn a_crash_before_the_manifest_leaves_the_old_dataset() {
    let world = World::new();
    world.file("interactions.csv", SMALL);
    let store = FaultyStore::new(MemoryStore::new(), FaultPlan::default());
    world.run_in(&store, &|_| None).unwrap();
    let before: Vec<_> = Dataset::current(&store).unwrap().interactions(None).map(Result::unwrap).collect();
    world.file("interactions.csv", format!("{SMALL}new,item,1600000000,view,,\n"));
    // Whichever of the writes fails, readers see the old dataset whole.
    for survivors in 0..20 {
        let mut scripted: std::collections::VecDeque<_> =
            std::iter::repeat_n((Operation::PutNew, Fault::Slow), survivors).collect();
        scripted.push_back((Operation::PutNew, Fault::Before));
        store.set_plan(FaultPlan { scripted, ..FaultPlan::default() });
        let result = world.run_in(&store, &|_| None);
        store.set_plan(FaultPlan::default());
        let after: Vec<_> = Dataset::current(&store).unwrap().interactions(None).map(Result::unwrap).collect();
        if result.is_ok() {
            assert_eq!(after.len(), before.len() + 1);
            return;
        }
        assert_eq!(after, before);
    }
    panic!("the run never got through");
}

#[test]
fn cut_over_and_erasure_filter() {
    let mut world = World::new();
    world.file("interactions.csv", SMALL);
    world.until_ms = Some(1_600_000_100_000);
    let floor = 1_600_000_000_000;
    let erased = |key: &HistoryKey| (key.id() == "ann").then_some(floor);
    let report = world.run_in(&world.store, &erased).unwrap().report;
    assert_eq!(report.interactions, Counts { read: 5, clean: 2, filtered: 3, ..Counts::default() });
    assert_eq!(report.filtered_by_reason["erased"], 2);
    assert_eq!(report.filtered_by_reason["after-cut-over"], 1);
    let histories = histories(&world.store, &world.types);
    assert_eq!(histories[&HistoryKey::User("ann".into())].floor_ms(), floor);
    assert_eq!(histories[&HistoryKey::Session("s1".into())].alias().unwrap().time_ms, 1_600_000_100_000);
}

/// A forgotten owner who has not come back: neither a history nor attributes carry the name into a later dataset.
#[test]
fn of_a_forgotten_owner_not_even_the_name_is_written() {
    let world = World::new();
    world.file("interactions.csv", SMALL);
    world.file("users.csv", "USER_ID,AGE\nann,33\nzoe,20\n");
    let erased = |key: &HistoryKey| (key.id() == "ann").then_some(1_700_000_000_000);
    let report = world.run_in(&world.store, &erased).unwrap().report;
    assert_eq!((report.filtered_by_reason["erased"], report.users.filtered), (3, 1));
    assert!(!histories(&world.store, &world.types).contains_key(&HistoryKey::User("ann".into())));
    let users = Dataset::current(&world.store).unwrap().users().unwrap();
    assert!(users.iter().all(|user| user.id != "ann"));
}

#[test]
fn bots_are_marked_and_kept() {
    let mut world = World::new();
    world.settings.bot_events_per_day_max = 10;
    let rows: String =
        (0..11).map(|i| format!("bot,i{i},160000{i:04}\nshopper,i,{}\n", 1_600_000_000 + i * 86_400)).collect();
    world.file("interactions.csv", format!("USER_ID,ITEM_ID,TIMESTAMP\n{rows}"));
    let report = world.run().unwrap().report;
    assert_eq!((report.bots, report.interactions.clean), (1, 22));
    let users = Dataset::current(&world.store).unwrap().users().unwrap();
    let bots: Vec<_> = users.iter().filter(|user| user.is_bot).map(|user| user.id.as_str()).collect();
    assert_eq!(bots, ["bot"]);
}

fn arbitrary_fields() -> impl Strategy<Value = Fields<'static>> {
    let id = |n: u8| prop::option::weighted(0.6, (0..n).prop_map(|i| format!("id{i}").into()));
    let kind = prop::sample::select(vec!["view", "purchase", "cart"]);
    (id(4), id(3), 0..5_u8, kind, id(6), 0..12_i64, prop::option::of(0..3_u8)).prop_map(
        |(user, session, item, kind, event_id, time, value)| Fields {
            session: if user.is_none() { Some(session.clone().unwrap_or_else(|| "id0".into())) } else { session },
            user,
            item: Some(format!("item{item}").into()),
            event_type: Some(kind.into()),
            event_id,
            time: anabranch_events::event::TimeField::Ms(1_600_000_000_000 + time),
            value: value.map_or(anabranch_events::event::ValueField::Absent, |v| {
                anabranch_events::event::ValueField::Number(f64::from(v))
            }),
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The law that ties both arms: the ETL's histories are those of applying the events one by one.
    #[test]
    fn fold_equals_apply(fields in prop::collection::vec(arbitrary_fields(), 1..80), quota in 1..5_usize, floor in prop::option::of(0..6_i64)) {
        let mut settings = EventSettings::default().with_quota(quota);
        settings.seen_max = 2;
        settings.sessions_max = 1;
        let types = settings.compile().unwrap();
        let events: Vec<Event<'_>> =
            fields.into_iter().map(|fields| Event::from_fields(fields, &types, AS_OF).unwrap()).collect();
        let floor_of = move |key: &HistoryKey| match key {
            HistoryKey::User(user) if &**user == "id1" => floor.map(|floor| 1_600_000_000_000 + floor),
            _ => None,
        };
        let mut expected: BTreeMap<HistoryKey, History> = BTreeMap::new();
        for event in &events {
            let owner_floor = floor_of(&event.history_key());
            if owner_floor.is_some_and(|floor| event.time_ms <= floor) {
                expected.entry(event.history_key()).or_default().erase(owner_floor.unwrap());
                continue;
            }
            apply_event(event, &types, &mut |key, change| {
                let history = expected.entry(key.clone()).or_default();
                if let Some(floor) = floor_of(key) {
                    history.erase(floor);
                }
                change(history);
            });
        }
        let mut bytes = Vec::new();
        for event in &events {
            row::put_event(&mut bytes, event);
            if let (Some(user), Some(session)) = (&event.user, &event.session) {
                row::put_alias(&mut bytes, session, user, event.time_ms, event.key);
            }
        }
        let scratch = tempfile::tempdir().unwrap();
        let spill = Spill::create(scratch.path(), 1).unwrap();
        let mut writer = spill.writer();
        writer.push(0, |out| out.extend_from_slice(&bytes)).unwrap();
        writer.finish().unwrap();
        let days = Days::create(scratch.path()).unwrap();
        let store = MemoryStore::new();
        let publisher = Publisher::new(&store).unwrap();
        let rules = FoldRules { types: &types, bot_events_per_day_max: 0, erased: &floor_of };
        let counts =
            fold_partition(0, &spill, &days, &rules, &attributes::users_table(), &publisher).unwrap();
        prop_assert_eq!(counts.clean + counts.duplicates + counts.erased, events.len() as u64);
        publisher.commit(&EtlReport::default()).unwrap();
        let found: BTreeMap<HistoryKey, Vec<u8>> =
            Dataset::current(&store).unwrap().histories().map(|entry| entry.unwrap()).collect();
        let expected: BTreeMap<HistoryKey, Vec<u8>> =
            expected
                .into_iter()
                .filter(|(key, history)| floor_of(key).is_none() || !history.is_forgotten())
                .map(|(key, history)| (key, codec::encode(&history, &types)))
                .collect();
        prop_assert_eq!(found, expected);
    }

    /// Any bytes: no panic, and the books balance (an error of the input is fine).
    #[test]
    fn any_bytes_reconcile(
        tail in prop::collection::vec(prop::sample::select(b"u,i1\"\n\r{}:x\0\xff600000000".to_vec()), 0..400),
        json in any::<bool>(),
    ) {
        let world = World::new();
        let mut bytes = if json { b"{\"userId\":\"u\",\"itemId\":\"i\",\"sentAt\":1600000000}\n".to_vec() } else { b"USER_ID,ITEM_ID,TIMESTAMP\nu,i,1600000000\n".to_vec() };
        bytes.extend(tail);
        world.file(if json { "interactions.jsonl" } else { "interactions.csv" }, &bytes);
        let report = world.run().unwrap().report;
        prop_assert!(report.interactions.clean >= 1);
    }
}

#[test]
fn rows_round_trip() {
    let types = EventSettings::default().compile().unwrap();
    let fields = Fields {
        user: Some("ü".repeat(128).into()),
        session: Some("s".into()),
        item: Some("i".repeat(256).into()),
        time: anabranch_events::event::TimeField::Ms(AS_OF),
        value: anabranch_events::event::ValueField::Number(2.0),
        ..Fields::default()
    };
    let event = Event::from_fields(fields, &types, AS_OF).unwrap();
    let mut bytes = Vec::new();
    row::put_event(&mut bytes, &event);
    row::put_alias(&mut bytes, "s", "u", 5, EventKey(7));
    row::put_attributes(&mut bytes, "u", 3, b"{}");
    let (first, rest) = row::RowRef::split(&bytes).unwrap();
    let (second, rest) = row::RowRef::split(rest).unwrap();
    let (third, rest) = row::RowRef::split(rest).unwrap();
    assert!(rest.is_empty());
    assert_eq!(first.entry().unwrap(), event.entry());
    assert_eq!(first.owner_key().unwrap(), event.history_key());
    assert_eq!((first.session(), second.item(), third.payload()), (Some(&b"s"[..]), &b"u"[..], &b"{}"[..]));
    assert!(row::RowRef::split(&bytes[..20]).is_none());
    let _ = ObjectPath::new("x").unwrap();
}

/// Row groups are read on several threads; once they shared one file position and got each other's bytes.
#[test]
fn many_row_groups_are_read_at_once() {
    use crate::tables::{Column, Table, TextBuilder};
    let schema = "message t { required binary USER_ID (STRING); required binary ITEM_ID (STRING); \
                  required int64 TIMESTAMP; }";
    let table = Table::new("test", schema, &["USER_ID", "ITEM_ID"], &[]);
    let mut groups = (0..64_i64).map(|group| {
        let (mut users, mut items, mut times) = (TextBuilder::required(), TextBuilder::required(), Vec::new());
        for row in 0..2_000_i64 {
            users.push(Some(format!("user-{group}-{row}").as_bytes()));
            items.push(Some(format!("item-{}", row * group).as_bytes()));
            times.push(1_600_000_000 + row);
        }
        vec![users.finish(), items.finish(), Column::Long(times)]
    });
    let world = World::new();
    world.file("interactions.parquet", table.encode(|| groups.next()).unwrap());
    let counts = world.run().unwrap().report.interactions;
    assert_eq!(counts, Counts { read: 128_000, clean: 128_000, ..Counts::default() });
}
