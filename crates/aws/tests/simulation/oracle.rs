//! What must be true: at every moment, and at the end.
//!
//! The end is judged by three things that owe nothing to the processes under test: the producers' own record of what was
//! acknowledged, a plain fold of it, and one undisturbed worker a shard over the log as it is.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use anabranch_aws::api::DataRecord;
use anabranch_aws::dynamo::item;
use anabranch_aws::kinesis::backlog::expand;
use anabranch_aws::testing::SimClock;
use anabranch_events::wire::decode_record;
use anabranch_events::{History, HistoryKey, Recommendation, apply_event, codec};
use anabranch_models::Model;
use anabranch_stores::lake::{MemoryStore, ObjectPath, ObjectStore};
use anabranch_stream::object::{self, Counts, Trailer};
use anabranch_stream::ports::{Checkpoint, Page, PortError, Position, Record, ShardId, ShardReader};
use anabranch_stream::shared::{Shared, SharedParts};
use anabranch_stream::testing::{self, MemoryState};
use anabranch_stream::worker::{Step, Worker};
use anabranch_stream::{Mode, StreamSettings};

use crate::producers::Sender;
use crate::world::{NAMESPACE, TABLE, World};

/// Later than every event.
const END_OF_TIME_MS: i64 = 4_000_000_000_000;

/// What holds at every moment. Remembers the objects it saw.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    objects: BTreeMap<ObjectPath, (i64, Trailer)>,
    checkpoints: BTreeMap<ShardId, Checkpoint>,
}

impl Watch {
    /// No object changes or goes; chains have no gap and no overlap; checkpoints move forward and stand at the end of an
    /// object; a child has no object before its parents are committed to their ends.
    pub(crate) fn look(&mut self, world: &World) {
        let checkpoints: BTreeMap<ShardId, Checkpoint> =
            world.kinesis.shard_ids().into_iter().map(|id| (id, checkpoint(world, id))).collect();
        let mut news = BTreeSet::new();
        let listed = world.objects.list(object::LISTS).unwrap();
        assert!(listed.len() >= self.objects.len(), "an object is gone");
        for meta in listed {
            if let Some((stamp, _)) = self.objects.get(&meta.path) {
                assert_eq!(*stamp, meta.modified_ms, "{} was written again", meta.path);
                continue;
            }
            let trailer = object::decode_trailer(meta.path.as_str(), &world.objects.get(&meta.path).unwrap()).unwrap();
            assert_eq!(object::parse_name(meta.path.as_str()), Some((trailer.shard, trailer.after)), "{}", meta.path);
            assert!(trailer.after < trailer.first && trailer.first <= trailer.last, "{trailer:?}");
            assert!(trailer.counts.conserve(), "{trailer:?}");
            news.insert(trailer.shard);
            self.objects.insert(meta.path, (meta.modified_ms, trailer));
        }
        for shard in world.kinesis.shards() {
            if news.contains(&shard.id) {
                for parent in shard.parents() {
                    let parent = checkpoints.get(&parent);
                    assert!(
                        parent.is_none_or(|at| matches!(at, Checkpoint::ShardEnd(_))),
                        "{} was begun while its parent stood at {parent:?}",
                        shard.id
                    );
                }
            }
        }
        for (shard, at) in checkpoints {
            let before = self.checkpoints.insert(shard, at);
            if before == Some(at) && !news.contains(&shard) {
                continue;
            }
            assert!(
                before.is_none_or(|before| before.furthest(at) == at),
                "{shard} went back from {before:?} to {at:?}"
            );
            let chain = self.chain(shard);
            let reach = chain.last().map_or(Position::START, |trailer| trailer.last);
            let ends = chain.iter().map(|trailer| trailer.last).chain([Position::START]).collect::<BTreeSet<_>>();
            match at {
                Checkpoint::After(position) => {
                    assert!(ends.contains(&position), "{shard} is committed to {position}, where no object ends");
                }
                Checkpoint::ShardEnd(position) => {
                    let log = log(world, shard);
                    let newest = log.last().map_or(Position::START, |record| record.position);
                    assert!(reach >= newest && position >= reach, "{shard} ended at {position}: {reach} of {newest}");
                }
            }
        }
    }

    /// The objects of a shard in their order, each after the one before.
    fn chain(&self, shard: ShardId) -> Vec<&Trailer> {
        let mut chain: Vec<&Trailer> =
            self.objects.values().map(|(_, trailer)| trailer).filter(|trailer| trailer.shard == shard).collect();
        chain.sort_by_key(|trailer| trailer.after);
        let mut reach = Position::START;
        for trailer in &chain {
            assert_eq!(trailer.after, reach, "{shard}: the chain has a gap or an overlap");
            reach = trailer.last;
        }
        chain
    }
}

/// How far a shard is committed, by the table itself.
pub(crate) fn checkpoint(world: &World, shard: ShardId) -> Checkpoint {
    let found = world.dynamo.item(TABLE, &item::checkpoint_key(NAMESPACE, shard));
    found.map_or(Checkpoint::After(Position::START), |found| item::read_checkpoint(shard, &found).unwrap())
}

/// The user records of a shard, all that ever were.
pub(crate) fn log(world: &World, shard: ShardId) -> Vec<Record> {
    world.kinesis.records(shard).into_iter().flat_map(expand).collect()
}

/// Whether everything that was put is committed.
pub(crate) fn is_drained(world: &World) -> bool {
    world.kinesis.shards().iter().all(|shard| match checkpoint(world, shard.id) {
        Checkpoint::ShardEnd(_) => true,
        Checkpoint::After(_) if shard.is_closed => false,
        // An aggregate that holds nothing is nothing to commit.
        Checkpoint::After(position) => match world.kinesis.newest(shard.id).map(expand) {
            Some(parts) if parts.is_empty() => log(world, shard.id).last().is_none_or(|last| last.position <= position),
            parts => parts.and_then(|parts| parts.back().map(|last| last.position)) <= Some(position),
        },
    })
}

/// The end. Everything is drained.
pub(crate) fn judge(world: &World, senders: &[Sender]) {
    let delivered = Delivered::read(world);
    let expected = Delivered::undisturbed(world, &testing::model());
    let (counts, wanted) = (delivered.counts, expected.counts);
    world.tape.count("event: delivered", counts.delivered);
    world.tape.count("event: superseded", counts.superseded);
    world.tape.count("event: duplicate", counts.duplicate);
    world.tape.count("event: late", counts.late);
    world.tape.count("event: dead letter", counts.rejected);
    world.tape.say(format!("{counts:?}"));

    assert!(counts.conserve(), "{counts:?}");
    assert_eq!(
        (counts.records, counts.accepted, counts.rejected, counts.erased),
        (wanted.records, wanted.accepted, wanted.rejected, 0),
        "every record is in one object"
    );
    assert_eq!(delivered.dead, expected.dead, "dead letters are the poison records");
    if !world.plan.has_strays {
        assert_eq!(
            (counts.delivered + counts.superseded, counts.duplicate, counts.late),
            (wanted.delivered, wanted.duplicate, wanted.late)
        );
        let ids = |of: &Delivered| of.lists.values().map(|list| list.event.clone()).collect::<BTreeSet<_>>();
        match world.plan.mode {
            Mode::PerEvent => {
                let ids = |of: &Delivered| of.lists.keys().cloned().collect::<BTreeSet<_>>();
                assert_eq!(ids(&delivered), ids(&expected), "each list once, none invented");
            }
            Mode::PerUser => assert!(ids(&delivered).is_subset(&ids(&expected)), "none invented"),
        }
    }
    if world.plan.is_repeatable() {
        let next = Delivered::undisturbed(world, &testing::next_model());
        let by_version: HashMap<&str, &Delivered> =
            HashMap::from([("0123456789abcdef", &expected), ("fedcba9876543210", &next)]);
        for (id, list) in &delivered.lists {
            assert_eq!(Some(list), by_version[&*list.version].lists.get(id), "the list is the one of its history");
        }
    }
    check_histories(world, senders);
}

/// Histories are the fold of what was acknowledged, byte for byte, and nobody else has one.
fn check_histories(world: &World, senders: &[Sender]) {
    let mut log_data: Vec<(Vec<u8>, String)> = Vec::new();
    for shard in world.kinesis.shard_ids() {
        for record in log(world, shard) {
            log_data.push((record.data.unwrap(), record.partition_key));
        }
    }
    let log_data: BTreeSet<(Vec<u8>, String)> = log_data.into_iter().collect();
    let mut histories: BTreeMap<HistoryKey, History> = BTreeMap::new();
    let mut sent: BTreeSet<(Vec<u8>, String)> = BTreeSet::new();
    for sender in senders {
        for record in &sender.acknowledged {
            // A producer may have put an aggregate of its own making.
            let parts = expand(DataRecord {
                number: Position::START.number,
                arrival_ms: END_OF_TIME_MS,
                partition_key: record.partition_key.clone(),
                data: record.data.clone(),
            });
            for part in parts {
                let data = part.data.unwrap();
                decode_record(&data, &world.types, END_OF_TIME_MS, |event| {
                    if let Ok(event) = event {
                        apply_event(&event, &world.types, &mut |key, change| {
                            change(histories.entry(key.clone()).or_default());
                        });
                    }
                });
                sent.insert((data, part.partition_key));
            }
        }
    }
    let missing: Vec<_> = sent.difference(&log_data).collect();
    assert!(missing.is_empty(), "acknowledged and not in the stream: {missing:?}");
    let invented: Vec<_> = log_data.difference(&sent).collect();
    assert!(invented.is_empty(), "in the stream and never acknowledged, though all was sent again: {invented:?}");
    let expected: BTreeMap<Vec<u8>, Vec<u8>> = histories
        .iter()
        .filter(|(_, history)| !history.is_forgotten())
        .map(|(key, history)| (key.to_bytes(), codec::encode(history, &world.types)))
        .collect();
    let found: BTreeMap<Vec<u8>, Vec<u8>> = world
        .dynamo
        .items(TABLE)
        .values()
        .filter_map(|item| Some((item.get("k")?.as_bytes()?.to_vec(), item.get("h")?.as_bytes()?.to_vec())))
        .collect();
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "whose histories there are");
    for (key, bytes) in &expected {
        let read = |bytes: &[u8]| codec::decode(bytes, &world.types).unwrap();
        assert_eq!(
            &found[key],
            bytes,
            "the history of {}: found {:#?}, acknowledged {:#?}",
            String::from_utf8_lossy(key),
            read(&found[key]),
            read(bytes)
        );
    }
}

/// A list.
#[derive(Clone, Debug, PartialEq, Eq)]
struct List {
    line: Vec<u8>,
    version: String,
    event: String,
}

/// What is in a bucket.
#[derive(Debug, Default)]
struct Delivered {
    lists: BTreeMap<String, List>,
    /// Lines of dead letters.
    dead: Vec<Vec<u8>>,
    counts: Counts,
}

impl Delivered {
    fn read(world: &World) -> Self {
        Self::of(&*world.objects, world.plan.mode)
    }

    /// Reads every object. No id comes twice, and the lists of a shard come in the order of its records.
    fn of(objects: &dyn ObjectStore, mode: Mode) -> Self {
        let mut delivered = Self::default();
        let mut places: BTreeMap<ShardId, Vec<(Position, Vec<Position>)>> = BTreeMap::new();
        for meta in objects.list(object::LISTS).unwrap() {
            let (trailer, lines) = object::decode(meta.path.as_str(), &objects.get(&meta.path).unwrap()).unwrap();
            delivered.counts.add(&trailer.counts);
            let mut records = Vec::new();
            for line in lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
                let list: Recommendation<'_> = serde_json::from_slice(line).unwrap();
                assert_eq!(list.shard_id, trailer.shard.to_string());
                let place = Position { number: list.sequence_number.parse().unwrap(), sub: list.sub_sequence_number };
                records.push(place);
                let (version, event) =
                    (list.snapshot_version.to_string(), format!("{:?} {}", list.user_id, list.event_id));
                let id = list.recommendation_id.to_string();
                let again = delivered.lists.insert(id, List { line: line.to_vec(), version, event });
                if let Some(again) = again {
                    let lines = [&again.line[..], line].map(String::from_utf8_lossy);
                    panic!("a list was delivered twice (after {}):\n{}", trailer.after, lines.join("\n"));
                }
            }
            places.entry(trailer.shard).or_default().push((trailer.after, records));
        }
        if mode == Mode::PerEvent {
            for (shard, mut objects) in places {
                objects.sort();
                let records: Vec<Position> = objects.into_iter().flat_map(|(_, records)| records).collect();
                let order = |place: &Position| (place.number, place.sub);
                assert!(records.is_sorted_by_key(order), "{shard}: lists out of order");
            }
        }
        for meta in objects.list(object::DEAD_LETTERS).unwrap() {
            let lines = object::decompress("dead", &objects.get(&meta.path).unwrap(), 1 << 24).unwrap();
            let lines = lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
            delivered.dead.extend(lines.map(<[u8]>::to_vec));
        }
        delivered.dead.sort();
        delivered
    }

    /// What one worker a shard makes of the log when nothing happens, parents before children.
    fn undisturbed(world: &World, model: &Arc<Model>) -> Self {
        let sink = Arc::new(MemoryStore::new());
        let state = MemoryState::new();
        let settings = StreamSettings {
            list_length: 5,
            hide: world.plan.hide,
            micro_batch_records: 1000,
            cut_records: 1_000_000,
            ..StreamSettings::default()
        };
        let shared = Arc::new(Shared::new(SharedParts {
            state,
            sink: Arc::clone(&sink) as _,
            types: world.types.clone(),
            settings,
            namespace: NAMESPACE.to_owned(),
            model: Arc::clone(model),
            clock: Arc::new(SimClock::default()),
        }));
        for id in world.kinesis.shard_ids() {
            let mut worker = Worker::new(Arc::clone(&shared), id, Box::new(Whole(log(world, id))));
            while worker.step().unwrap() != Step::Ended {}
        }
        Self::of(&*sink, Mode::PerEvent)
    }
}

/// A closed shard without any trouble.
#[derive(Debug)]
struct Whole(Vec<Record>);

impl ShardReader for Whole {
    fn read_after(&mut self, after: Position, records_max: usize, _bytes_max: usize) -> Result<Page, PortError> {
        let from = self.0.partition_point(|record| record.position <= after);
        let records: Vec<Record> = self.0[from..].iter().take(records_max).cloned().collect();
        let is_end_of_shard = from + records.len() == self.0.len();
        Ok(Page { records, is_end_of_shard, ..Page::default() })
    }

    fn may_lack_after(&mut self, _after: Position) -> Result<bool, PortError> {
        Ok(false)
    }
}
