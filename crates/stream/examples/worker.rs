//! What one shard's worker costs a core, stage by stage: a durable log, histories of a given length in the embedded
//! state, per-event lists from a snapshot, objects of zstd on disk. `make bench` runs it.
//!
//! `cargo run --release -p anabranch-stream --example worker -- SNAPSHOT FOLDER HISTORY_LENGTH`
//!
//! Prints one JSON object: events a CPU second of the whole worker, microseconds an event of each stage (timed apart,
//! over the same records, on one thread), and events a CPU second of decode + join + commit without lists: of 64 users at
//! once who make eight events each, and where hardly two events of a cut are of one user. FOLDER should lie on the disk
//! that is to be measured.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::sync::{Arc, RwLock};
use std::time::{Instant, SystemTime};

use anabranch_events::history::Entry;
use anabranch_events::{EventKey, EventTypes, History, HistoryKey, ItemKey, codec};
use anabranch_models::{Kernels, Model, Query};
use anabranch_stores::lake::{LocalStore, ObjectPath, ObjectStore, PutOutcome};
use anabranch_stores::state::log::NewRecord;
use anabranch_stores::state::{Create, State, StateError};
use anabranch_stream::embedded::{EmbeddedState, LogReader};
use anabranch_stream::histories::{Histories, read_ahead};
use anabranch_stream::notify::Rules;
use anabranch_stream::object::{self, Counts, Trailer};
use anabranch_stream::ports::{Checkpoint, Commit, Position, Record, ShardId, ShardReader, StateStore};
use anabranch_stream::shared::{Shared, SharedParts};
use anabranch_stream::transform::{NO_OVERLAY, Output, Transform};
use anabranch_stream::worker::{Step, Worker};
use anabranch_stream::{Clock, StreamSettings};

/// Users with a history; every one makes one event of the run with lists.
const USERS: usize = 30_000;
/// Events of the run without lists.
const JOINED: usize = 120_000;
/// Users at once and events of each, where they come in sessions.
const AT_ONCE: usize = 64;
const SESSION: usize = 8;
const NOW_MS: i64 = 1_700_000_000_000;
const SHARD: ShardId = ShardId(0);

#[derive(Debug)]
struct MachineClock(Instant);

impl Clock for MachineClock {
    fn now_ms(&self) -> i64 {
        NOW_MS + self.0.elapsed().as_millis() as i64
    }

    fn monotonic_us(&self) -> u64 {
        self.0.elapsed().as_micros() as u64
    }
}

/// Seconds that this process has run on all its threads, those that flush the state's files included.
fn cpu_seconds() -> f64 {
    fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("schedstat")).ok())
        .filter_map(|text| text.split(' ').next()?.parse::<f64>().ok())
        .sum::<f64>()
        * 1e-9
}

/// A generator of numbers, the same in every run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((u128::from(self.0) * n as u128) >> 64) as usize
    }
}

/// Draws items as often as they are popular.
struct Shelf(Vec<f64>);

impl Shelf {
    fn new(model: &Model) -> Self {
        let mut sums = vec![0.0];
        sums.extend(model.snapshot().popularity().iter().scan(0.0, |sum, popularity| {
            *sum += f64::from(*popularity);
            Some(*sum)
        }));
        Self(sums)
    }

    fn draw(&self, chance: &mut Chance) -> u32 {
        let place = chance.below(1 << 30) as f64 / f64::from(1 << 30) * self.0[self.0.len() - 1];
        (self.0.partition_point(|sum| *sum <= place) - 1) as u32
    }
}

/// Histories as people make them: a popular item, then one of its neighbours. All views, all of different items.
fn history(chance: &mut Chance, shelf: &Shelf, model: &Model, length: usize) -> History {
    let snapshot = model.snapshot();
    let view = model.types().code("view").unwrap();
    let mut items = std::collections::BTreeSet::new();
    while items.len() < length {
        let item = shelf.draw(chance);
        items.insert(item);
        let (neighbours, _) = snapshot.neighbours(item);
        if items.len() < length && !neighbours.is_empty() {
            items.insert(neighbours[chance.below(neighbours.len().min(10))]);
        }
    }
    let entries = items.into_iter().map(|item| {
        let time_ms = NOW_MS - 1_000_000 - chance.below(90 * 86_400_000) as i64;
        let id = snapshot.item_id(item);
        let event = EventKey::derived("", id, "view", time_ms, None);
        Entry { time_ms, event, item: ItemKey::of(id), value: None, kind: view }
    });
    History::from_entries(entries.collect(), model.types())
}

fn user(number: usize) -> String {
    format!("user-{number}")
}

/// A state with everybody's history and `events` records in its log, the i-th by `owner(i)`.
fn state(folder: &Path, model: &Model, length: usize, events: usize, owner: &dyn Fn(usize) -> usize) -> Arc<State> {
    let create = Create { name: "clicks".to_owned(), shards: 1, now_ms: NOW_MS, secret: [7; 32] };
    let state = State::open(folder, create).unwrap();
    let (mut chance, shelf) = (Chance(88_172_645_463_325_252), Shelf::new(model));
    let mut histories = (0..USERS).map(|number| {
        let key = HistoryKey::User(user(number).into());
        Ok::<_, StateError>((key, codec::encode(&history(&mut chance, &shelf, model, length), model.types())))
    });
    state.import(&mut histories, model.types()).unwrap();
    let mut chance = Chance(1_442_695_040_888_963_407);
    for from in (0..events).step_by(1000) {
        let bodies: Vec<(String, String)> = (from..events.min(from + 1000))
            .map(|number| {
                let (user, time_ms) = (user(owner(number)), NOW_MS - 900_000 + number as i64);
                let item = model.snapshot().item_id(shelf.draw(&mut chance));
                let body = format!(
                    r#"{{"userId":"{user}","itemId":"{item}","eventType":"view","eventId":"e-{number}","sentAt":{time_ms}}}"#
                );
                (user, body)
            })
            .collect();
        let records: Vec<NewRecord<'_>> = bodies
            .iter()
            .map(|(user, body)| NewRecord { shard: 0, partition_key: user, data: body.as_bytes(), arrival_ms: NOW_MS })
            .collect();
        state.append(&records, None).unwrap();
    }
    Arc::new(state)
}

fn parts(folder: &Path, state: &Arc<State>, model: &Arc<Model>) -> SharedParts {
    fs::create_dir_all(folder).unwrap();
    SharedParts {
        state: Arc::new(EmbeddedState::new(Arc::clone(state))),
        sink: Arc::new(LocalStore::open(folder, SystemTime::now()).unwrap()),
        types: model.types().clone(),
        settings: StreamSettings { shards: 1, ..StreamSettings::default() },
        namespace: "bench-0".to_owned(),
        model: Arc::clone(model),
        clock: Arc::new(MachineClock(Instant::now())),
    }
}

/// The worker as it runs: events a CPU second.
fn whole(folder: &Path, model: &Arc<Model>, length: usize) -> f64 {
    let state = state(&folder.join("state"), model, length, USERS, &|number| number);
    let shared = Arc::new(Shared::new(parts(&folder.join("out"), &state, model)));
    let mut worker = Worker::new(Arc::clone(&shared), SHARD, Box::new(LogReader::new(Arc::clone(&state), 0)));
    let begin = cpu_seconds();
    while worker.committed() < Position::whole((USERS as u64).into()) {
        if matches!(worker.step().unwrap(), Step::Idle { .. }) {
            worker.flush();
        }
    }
    USERS as f64 / (cpu_seconds() - begin)
}

/// The same work with a clock at each stage.
#[derive(Default)]
struct Stages(BTreeMap<&'static str, f64>);

impl Stages {
    fn time<T>(&mut self, stage: &'static str, work: impl FnOnce() -> T) -> T {
        let begin = Instant::now();
        let result = work();
        *self.0.entry(stage).or_default() += begin.elapsed().as_secs_f64();
        result
    }
}

fn transform<'a>(types: &'a EventTypes, settings: &StreamSettings, rules: &'a Rules) -> Transform<'a> {
    let (mode, list_length, hide) = (settings.mode, settings.list_length, settings.hide);
    Transform { types, namespace: "bench-0", shard: SHARD, mode, list_length, hide, rules }
}

/// Microseconds an event of each stage.
fn stages(folder: &Path, model: &Arc<Model>, length: usize) -> BTreeMap<&'static str, f64> {
    let state = state(&folder.join("state"), model, length, USERS, &|number| number);
    let SharedParts { state: store, sink, types, settings, .. } = parts(&folder.join("out"), &state, model);
    let (rules, mut times) = (Rules::default(), Stages::default());
    let transform = transform(&types, &settings, &rules);
    let mut reader = LogReader::new(state, 0);
    let (mut after, mut open) = (Position::START, Position::START);
    let held = RwLock::new(Histories::default());
    let (mut output, mut scratch) = (Output::default(), model.recommender().scratch());
    loop {
        let page =
            times.time("read the log", || reader.read_after(after, settings.micro_batch_records, 4 << 20).unwrap());
        let last = page.records.last().map(|record| record.position);
        if let Some(last) = last {
            join(&mut times, &transform, &*store, &held, &page.records, model, &mut scratch, &mut output);
            after = last;
        }
        if output.lines.len() >= settings.cut_bytes || (last.is_none() && !output.lines.is_empty()) {
            let lines = std::mem::take(&mut output.lines);
            let (path, bytes) = times.time("compress", || {
                let trailer = trailer(open, after, &lines, model);
                let path = object::object_name("bench", SHARD, open, NOW_MS, settings.form());
                (ObjectPath::new(path).unwrap(), object::encode(&lines, &trailer, settings.form()).unwrap())
            });
            let outcome = times.time("write the object", || sink.put_new(&path, &bytes).unwrap());
            assert_eq!(outcome, PutOutcome::Created);
            times.time("commit", || commit(&*store, &types, &held, after));
            open = after;
        }
        if last.is_none() {
            return times.0.into_iter().map(|(stage, seconds)| (stage, seconds * 1e6 / USERS as f64)).collect();
        }
    }
}

#[allow(clippy::too_many_arguments)]
fn join(
    times: &mut Stages,
    transform: &Transform<'_>,
    store: &dyn StateStore,
    held: &RwLock<Histories>,
    records: &[Record],
    model: &Model,
    scratch: &mut anabranch_models::Scratch,
    output: &mut Output,
) {
    let batch = times.time("decode", || transform.decode(records));
    times.time("read histories", || {
        read_ahead(store, transform.types, held, batch.touched(), batch.owners()).unwrap();
    });
    let keys: Vec<HistoryKey> = batch.owners().cloned().collect();
    let pending = times.time("join, weigh", || transform.join(batch, &mut held.write().unwrap(), model, output));
    // The lists alone, apart from their records. Every user has one event in the run, so this is the row it saw.
    let rows: Vec<Vec<(u32, f32)>> = {
        let held = held.read().unwrap();
        keys.iter().map(|key| model.row(&held.uncommitted()[key].history)).collect()
    };
    let queries: Vec<Query<'_>> =
        rows.iter().map(|row| Query { row, exclude: &[], k: transform.list_length }).collect();
    let recommender = model.recommender();
    times.time("of it fold-in", || {
        for row in &rows {
            black_box(recommender.user_factors(scratch, row).unwrap());
        }
    });
    times.time("of it lists", || black_box(recommender.recommend(scratch, &queries)));
    times.time("lists and records", || transform.score(&pending, model, scratch, output));
}

fn commit(store: &dyn StateStore, types: &EventTypes, held: &RwLock<Histories>, after: Position) {
    let mut held = held.write().unwrap();
    let checkpoint = Checkpoint::After(after);
    store.commit(Commit { shard: SHARD, checkpoint, histories: held.uncommitted(), types, notices: &[] }).unwrap();
    held.clear();
}

fn trailer(after: Position, last: Position, lines: &[u8], model: &Model) -> Trailer {
    Trailer {
        version: object::VERSION,
        shard: SHARD,
        after,
        first: last,
        last,
        counts: Counts::default(),
        snapshot_version: model.version().to_owned(),
        overlay_version: NO_OVERLAY.to_owned(),
        bytes: lines.len() as u64,
        digest: object::digest(lines),
    }
}

/// Decode + join + commit, without lists: events a CPU second.
fn joined(folder: &Path, model: &Arc<Model>, length: usize, owner: &dyn Fn(usize) -> usize) -> f64 {
    let state = state(&folder.join("state"), model, length, JOINED, owner);
    let SharedParts { state: store, types, settings, .. } = parts(&folder.join("out"), &state, model);
    let rules = Rules::default();
    let transform = transform(&types, &settings, &rules);
    let mut reader = LogReader::new(state, 0);
    let (mut after, mut output) = (Position::START, Output::default());
    let held = RwLock::new(Histories::default());
    let begin = cpu_seconds();
    loop {
        let page = reader.read_after(after, settings.micro_batch_records, 4 << 20).unwrap();
        let Some(last) = page.records.last() else { break };
        let batch = transform.decode(&page.records);
        read_ahead(&*store, &types, &held, batch.touched(), std::iter::empty()).unwrap();
        transform.roll_forward(batch, &mut held.write().unwrap(), &mut output);
        after = last.position;
        if output.counts.records >= settings.cut_records as u64 {
            output = Output::default();
            commit(&*store, &types, &held, after);
        }
    }
    commit(&*store, &types, &held, after);
    JOINED as f64 / (cpu_seconds() - begin)
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [snapshot, folder, length] = &arguments[..] else {
        eprintln!("usage: worker SNAPSHOT FOLDER HISTORY_LENGTH");
        std::process::exit(2);
    };
    let (folder, length) = (Path::new(folder), length.parse().unwrap());
    let model = Arc::new(Model::open(Path::new(snapshot), "0123456789abcdef", Kernels::best()).unwrap());
    let fresh = |name: &str| {
        let folder = folder.join(name);
        let _ = fs::remove_dir_all(&folder);
        folder
    };
    let report = serde_json::json!({
        "items": model.snapshot().item_count(),
        "dim": model.snapshot().dim(),
        "historyLength": length,
        "eventsPerCpuSecond": whole(&fresh("whole"), &model, length),
        "stagesUs": stages(&fresh("stages"), &model, length),
        "joinedPerCpuSecond": {
            "sessions": joined(&fresh("joined"), &model, length, &|number| {
                (number / (AT_ONCE * SESSION) * AT_ONCE + number % AT_ONCE) % USERS
            }),
            "scattered": joined(&fresh("joined"), &model, length, &|number| {
                (number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) as usize % USERS
            }),
        },
    });
    println!("{report}");
}
