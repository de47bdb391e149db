//! The worker over a shard and a state that fail on demand: aggregates, empty pages, the end of a shard, retention.

use std::sync::Mutex;

use anabranch_events::{EventTypes, HistoryKey};
use anabranch_stores::lake::{FaultPlan, FaultyStore};
use anabranch_stores::state::commit::Held;

use super::*;
use crate::Clock as _;
use crate::ports::{PortError, StateStore};
use crate::shared::lock;
use crate::testing::{MemoryShard, MemoryState, When};

struct World {
    shard: Arc<MemoryShard>,
    state: Arc<MemoryState>,
    sink: Arc<dyn ObjectStore>,
}

type Outcome = (BTreeMap<String, Vec<u8>>, BTreeMap<Vec<u8>, Vec<u8>>);

impl World {
    fn new() -> Self {
        Self { shard: MemoryShard::new(), state: MemoryState::new(), sink: Arc::new(MemoryStore::new()) }
    }

    /// A closed shard of sixty events: plain records, aggregates (one of them empty), rubbish, sessions, repeats.
    fn filled() -> Self {
        Self::of((0..60).map(click))
    }

    fn of(events: impl Iterator<Item = Vec<u8>>) -> Self {
        let (world, events) = (Self::new(), events.collect::<Vec<_>>());
        for (i, events) in events.chunks(6).enumerate() {
            let arrival_ms = NOW_MS + i as i64 * 3_600_000;
            let parts: Vec<&[u8]> = events.iter().map(Vec::as_slice).collect();
            world.shard.put(arrival_ms, "a", &parts[..1]);
            world.shard.put(arrival_ms, "b", &parts[1..5]);
            if i % 4 == 1 {
                world.shard.put(arrival_ms, "c", &[]);
            }
            world.shard.put(arrival_ms, "d", &parts[5..]);
        }
        world.shard.put(NOW_MS, "e", &[]);
        world.shard.close();
        world
    }

    fn worker_to(&self, sink: Arc<dyn ObjectStore>, settings: StreamSettings) -> Worker {
        let state = Arc::clone(&self.state);
        let shared = Shared::new(testing::port_parts(state, sink, TestClock::new(), settings));
        Worker::new(Arc::new(shared), ShardId(3), self.shard.reader())
    }

    fn worker(&self, cut_records: usize) -> Worker {
        self.worker_to(Arc::clone(&self.sink), settings(cut_records))
    }

    /// Everything that matters: each list once, the histories. The shard must be committed to its end.
    fn outcome(&self) -> Outcome {
        self.state.faults.end();
        let checkpoint = self.state.checkpoint(ShardId(3)).unwrap();
        assert_eq!(checkpoint, Checkpoint::ShardEnd(self.shard.newest()));
        let (lists, counts) = delivered(&*self.sink);
        assert_eq!((counts.records, counts.delivered), (60, lists.len() as u64));
        (lists, self.state.bytes())
    }
}

/// Users, sessions, sessions that turn out to be somebody's; the same event again; rubbish.
fn click(i: usize) -> Vec<u8> {
    let (user, session) = (i * 7 % 5, i / 4 % 3);
    let owner = match i % 4 {
        0 | 1 => format!(r#""userId":"u{user}""#),
        2 => format!(r#""sessionId":"s{session}""#),
        _ => format!(r#""userId":"u{user}","sessionId":"s{session}""#),
    };
    match i % 13 {
        7 => b"no json".to_vec(),
        11 => event("u1", "i1", "view", NOW_MS - 5),
        _ => {
            let kind = ["view", "cart", "purchase"][i % 3];
            let (item, time_ms) = (i * 3 % 23, NOW_MS + i as i64);
            format!(r#"{{{owner},"itemId":"i{item}","eventType":"{kind}","sentAt":{time_ms}}}"#).into_bytes()
        }
    }
}

/// Steps to the end of the shard. Returns how many steps stalled.
fn finish(worker: &mut Worker) -> usize {
    let mut stalls = 0;
    for _ in 0..20_000 {
        match worker.step().unwrap() {
            Step::Ended => return stalls,
            Step::Stalled { .. } => stalls += 1,
            Step::Idle { .. } => worker.flush(),
            Step::Worked => {}
        }
    }
    panic!("the worker makes no progress");
}

fn undisturbed() -> Outcome {
    let world = World::filled();
    assert_eq!(finish(&mut world.worker(7)), 0);
    world.outcome()
}

#[test]
fn a_crash_or_a_zombie_between_any_two_steps_changes_nothing() {
    let expected = undisturbed();
    assert_eq!((expected.0.len(), expected.1.len()), (52, 8), "lists and histories");
    for steps in 0.. {
        let (crashed, zombie) = (World::filled(), World::filled());
        let mut first = crashed.worker(7);
        let has_ended = (0..steps).any(|_| first.step().unwrap() == Step::Ended);
        drop(first);
        finish(&mut crashed.worker(7));
        assert_eq!(crashed.outcome(), expected, "a crash after {steps} steps");

        let mut first = zombie.worker(7);
        for _ in 0..steps {
            first.step().unwrap();
        }
        finish(&mut zombie.worker(5));
        finish(&mut first);
        assert_eq!(zombie.outcome(), expected, "a zombie that slept after {steps} steps");
        if has_ended {
            return;
        }
    }
}

#[test]
fn any_failing_call_changes_nothing() {
    let expected = undisturbed();
    let world = World::filled();
    finish(&mut world.worker(7));
    let (state_calls, reader_calls) = (world.state.faults.calls(), world.shard.faults.calls());
    assert!(state_calls > 20 && reader_calls > 10, "{state_calls}, {reader_calls}");
    for when in [When::Before, When::After] {
        for call in 0..state_calls.max(reader_calls) {
            let world = World::filled();
            world.state.faults.fail_after(call, when);
            world.shard.faults.fail_after(call, when);
            let mut worker = world.worker(7);
            let shared = Arc::clone(&worker.shared);
            assert!(finish(&mut worker) > 0);
            assert_eq!(shared.blocked(), None, "what passed blocks nothing");
            assert_eq!(world.outcome(), expected, "call {call} fails {when:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Lives of any length, sometimes two at once, while state, reader and sink fail and pages are empty.
    #[test]
    fn everything_at_once_changes_nothing(
        seed in any::<u64>(),
        lives in prop::collection::vec((1..40_usize, 1..12_usize, prop::collection::vec((0..30_u64, any::<bool>()), 0..8)), 1..8),
        empty_every in 0..4_u64,
    ) {
        let expected = undisturbed();
        let world = World::filled();
        world.shard.empty_every(if empty_every == 1 { 0 } else { empty_every });
        let mut zombie = world.worker(11);
        for (life, (steps, cut, faults)) in lives.iter().enumerate() {
            for (passing, before) in faults {
                let when = if *before { When::Before } else { When::After };
                world.state.faults.fail_after(*passing, when);
                world.shard.faults.fail_after(passing / 2, when);
            }
            let plan = FaultPlan {
                seed: seed ^ life as u64,
                before_per_mille: 150,
                after_per_mille: 150,
                ..FaultPlan::default()
            };
            let faulty: Arc<dyn ObjectStore> = Arc::new(FaultyStore::new(Arc::clone(&world.sink), plan));
            let mut worker = world.worker_to(faulty, settings(*cut));
            for step in 0..*steps {
                let stepping = if (step + life) % 5 == 0 { &mut zombie } else { &mut worker };
                if matches!(stepping.step().unwrap(), Step::Idle { .. }) {
                    stepping.flush();
                }
            }
        }
        finish(&mut zombie);
        finish(&mut world.worker(7));
        prop_assert_eq!(world.outcome(), expected);
    }
}

#[test]
fn a_batch_is_read_in_three_calls_and_lists_do_not_depend_on_it() {
    let run = |micro_batch_records, mode| {
        let world = World::filled();
        let settings = StreamSettings { mode, micro_batch_records, ..settings(1000) };
        finish(&mut world.worker_to(Arc::clone(&world.sink), settings));
        (delivered(&*world.sink).0, world.state.bytes(), world.state.reads())
    };
    let (lists, bytes, reads) = run(1000, Mode::PerEvent);
    assert_eq!(reads, [8], "nothing was stored that a history could point to");
    let one_by_one = run(1, Mode::PerEvent);
    assert_eq!((lists, &bytes), (one_by_one.0, &one_by_one.1));
    let per_user = run(1000, Mode::PerUser);
    assert_eq!((per_user.0.len(), per_user.1), (8, bytes), "one list for each owner of an event");
}

/// A session whose owner is known, whose owner has another session: each is one step away.
#[test]
fn what_histories_point_to_is_read_in_rounds_and_a_failed_round_changes_nothing() {
    let world = World::new();
    let put = |i: i64, owner: &str, item: &str| {
        let time_ms = NOW_MS + i;
        let data = format!(r#"{{{owner},"itemId":"{item}","eventType":"view","sentAt":{time_ms}}}"#);
        world.shard.put(NOW_MS, "k", &[data.as_bytes()]);
    };
    put(0, r#""userId":"w","sessionId":"t""#, "i1");
    put(1, r#""sessionId":"t""#, "i5");
    put(2, r#""userId":"w","sessionId":"s""#, "i9");
    run_to_end(&mut world.worker(1000));
    put(3, r#""sessionId":"s""#, "i13");
    let before = world.state.reads().len();
    let mut worker = world.worker(1000);
    while worker.is_recovering() {
        worker.step().unwrap();
    }
    for round in 0..3 {
        world.state.faults.fail_after(round, When::Before);
        assert_eq!(worker.step().unwrap(), Step::Stalled { wait_ms: BACKOFF_MS[round as usize] });
        assert!(histories::read(&worker.shard.histories).uncommitted().is_empty());
        assert!(worker.is_clean() && worker.output.counts == Counts::default());
        let why = worker.shared.blocked().unwrap();
        assert!(why.contains("shardId-000000000003 cannot use its state"), "{why}");
    }
    let reads = world.shard.faults.calls();
    run_to_end(&mut worker);
    assert_eq!(worker.shared.blocked(), None);
    assert!(world.shard.faults.calls() <= reads + 2, "the page was kept");
    assert_eq!(world.state.reads()[before..], [1, 1, 1, 1, 1, 1], "none, one, two good rounds, then all three");

    let all_at_once = World::new();
    let mut lists = delivered(&*world.sink).0;
    assert_eq!(lists.len(), 4);
    drop(worker);
    let mut again = World { shard: Arc::clone(&world.shard), ..all_at_once }.worker(1000);
    let sink = Arc::clone(&again.shared.sink);
    run_to_end(&mut again);
    let together = delivered(&*sink).0;
    lists.retain(|id, line| together.get(id) != Some(line));
    assert!(lists.is_empty(), "what is read anew gives the list of what was in memory: {lists:?}");
}

/// The moment after the object is out: the commit alone is tried again, and nothing is taken in meanwhile.
#[test]
fn a_failing_commit_keeps_the_delivered_cut() {
    for when in [When::Before, When::After] {
        let world = World::filled();
        let mut worker = world.worker(7);
        while !matches!(worker.phase, Phase::Delivering(_)) {
            worker.step().unwrap();
        }
        (0..3).for_each(|call| world.state.faults.fail_after(call, when));
        let reads = world.shard.faults.calls();
        for expected in [100, 200, 400] {
            assert_eq!(worker.step().unwrap(), Step::Stalled { wait_ms: expected });
            assert!(matches!(&worker.phase, Phase::Delivering(cut) if cut.is_delivered));
        }
        assert_eq!(world.sink.list("recommendations").unwrap().len(), 1);
        assert_eq!(world.shard.faults.calls(), reads, "no input while the commit fails");
        assert_eq!(worker.step().unwrap(), Step::Worked);
        assert_eq!(worker.shared.status(ShardId(3)).unwrap().objects, 1);
        finish(&mut worker);
        assert_eq!(world.outcome(), undisturbed());
    }
}

#[test]
fn a_closed_shard_ends_once_its_last_record_is_committed() {
    let world = World::filled();
    finish(&mut world.worker(1000));
    world.outcome();
    let objects = world.sink.list("").unwrap();
    let mut again = world.worker(7);
    finish(&mut again);
    assert_eq!(again.step().unwrap(), Step::Ended);
    assert_eq!(again.committed(), world.shard.newest());
    // Kinesis forgets the shard in the end; its checkpoint says enough.
    world.shard.expire(world.shard.newest());
    world.shard.faults.fail_as(0, When::Before, ErrorKind::NotFound);
    finish(&mut world.worker(7));
    assert_eq!(world.sink.list("").unwrap(), objects);

    let empty = World::new();
    let mut waiting = empty.worker(7);
    for _ in 0..5 {
        waiting.step().unwrap();
    }
    assert!(matches!(waiting.step().unwrap(), Step::Idle { .. }), "an empty page is not the end");
    empty.shard.close();
    finish(&mut waiting);
    assert_eq!(empty.state.checkpoint(ShardId(3)).unwrap(), Checkpoint::ShardEnd(Position::START));
    assert!(empty.sink.list(object::LISTS).unwrap().is_empty(), "nothing is delivered of nothing");
}

#[test]
fn a_cut_may_end_within_an_aggregate() {
    let world = World::new();
    let events: Vec<Vec<u8>> =
        (0..5).map(|i| event("u", &format!("i{i}"), "view", NOW_MS + i)).chain([b"?".to_vec()]).collect();
    let parts: Vec<&[u8]> = events.iter().map(Vec::as_slice).collect();
    world.shard.put(NOW_MS, "u", &parts);
    let mut first = world.worker_to(Arc::clone(&world.sink), StreamSettings { micro_batch_records: 2, ..settings(2) });
    while first.committed() == Position::START {
        first.step().unwrap();
    }
    drop(first);
    let number = world.shard.newest().number;
    let within = Position { number, sub: Some(1) };
    assert_eq!(world.state.checkpoint(ShardId(3)).unwrap(), Checkpoint::After(within));
    run_to_end(&mut world.worker(100));
    assert_eq!(world.state.checkpoint(ShardId(3)).unwrap(), Checkpoint::After(Position::whole(number)));
    let (lists, counts) = delivered(&*world.sink);
    assert_eq!((counts.records, lists.len(), counts.rejected), (6, 5, 1));
    let mut subs: Vec<_> = lists
        .values()
        .map(|line| serde_json::from_slice::<Recommendation<'_>>(line).unwrap())
        .map(|list| {
            assert_eq!(
                (list.sequence_number.as_ref(), list.shard_id.as_ref()),
                (number.to_string().as_str(), "shardId-000000000003")
            );
            list.sub_sequence_number
        })
        .collect();
    subs.sort_unstable();
    assert_eq!(subs, (0..5).map(Some).collect::<Vec<_>>());
    let names: Vec<String> = [object::DEAD_LETTERS, object::LISTS]
        .iter()
        .flat_map(|folder| world.sink.list(folder).unwrap())
        .map(|meta| meta.path.as_str().rsplit('/').next().unwrap().to_owned())
        .collect();
    let second = format!("00003-{within}.jsonl.zst");
    assert_eq!(names, [second.as_str(), "00003-00000000000000000000.jsonl.zst", &second], "the dead letter's first");
    let letters = world.sink.get(&world.sink.list("dead-letters").unwrap()[0].path).unwrap();
    let letter: serde_json::Value =
        serde_json::from_slice(&object::decompress("d", &letters, 1 << 20).unwrap()).unwrap();
    assert_eq!((&letter["subSequenceNumber"], &letter["raw"]), (&5.into(), &"?".into()));
}

/// A cut came out, its commit did not, and before anybody looked again retention took its first records, or all: its
/// folder can no longer be told from them, yet no list is made twice.
#[test]
fn an_object_whose_first_records_expired_is_still_found() {
    // Without repeats: what a lost event's history would have recognised as one gets its list, under the same id.
    let filled = || World::of((0..60).map(|i| click(if i % 13 == 11 { i + 62 } else { i })));
    let all = {
        let world = filled();
        finish(&mut world.worker(7));
        delivered(&*world.sink).0
    };
    for expired in [10, 20, 25, 60] {
        let world = filled();
        let mut first = world.worker(20);
        while !matches!(first.phase, Phase::Delivering(_)) {
            first.step().unwrap();
        }
        let Phase::Delivering(cut) = &first.phase else { unreachable!("the loop ends with it") };
        assert_eq!(world.sink.put_new(&cut.object, &cut.bytes).unwrap(), PutOutcome::Created);
        let trailer = cut.trailer.clone();
        drop(first);
        let records = world.shard.reader().read_after(Position::START, 100, 1 << 20).unwrap().records;
        assert!(records[10].arrival_ms >= NOW_MS + 3_600_000, "in another hour's folder");
        let through = if expired == 60 { world.shard.newest() } else { records[expired - 1].position };
        world.shard.expire(through);

        let mut second = world.worker(20);
        finish(&mut second);
        let (lists, counts) = delivered(&*world.sink);
        let lost = expired.saturating_sub(trailer.counts.records as usize) as u64;
        assert_eq!(counts.records, 60 - lost, "{expired} expired");
        assert!(second.committed() >= trailer.last);
        assert!(lists.keys().all(|id| all.contains_key(id)), "each list once; later ones lack the expired events");
    }
}

/// Pushes its pages; one of them is late and says what was true before the records came.
#[derive(Debug)]
struct Pushing {
    reader: Box<dyn ShardReader>,
    reads: usize,
    late: usize,
}

impl ShardReader for Pushing {
    fn read_after(&mut self, after: Position, records_max: usize, bytes_max: usize) -> Result<Page, PortError> {
        self.reads += 1;
        if self.reads == self.late {
            return Ok(Page { behind_ms: Some(0), is_pushed: true, ..Page::default() });
        }
        Ok(Page { is_pushed: true, ..self.reader.read_after(after, records_max, bytes_max)? })
    }

    fn may_lack_after(&mut self, after: Position) -> Result<bool, PortError> {
        self.reader.may_lack_after(after)
    }
}

impl World {
    fn pushed(&self, late: usize, clock: &Arc<TestClock>) -> Worker {
        let (state, sink) = (Arc::clone(&self.state), Arc::clone(&self.sink));
        let settings = StreamSettings { micro_batch_records: 2, ..settings(7) };
        let shared = Shared::new(testing::port_parts(state, sink, Arc::clone(clock), settings));
        let reader = Box::new(Pushing { reader: self.shard.reader(), reads: 0, late });
        Worker::new(Arc::new(shared), ShardId(3), reader)
    }
}

/// Somebody else delivered an object while the word that nothing is there was on its way.
#[test]
fn a_page_that_is_pushed_late_leaves_no_record_out_of_the_histories() {
    for late in 1..20 {
        let world = World::filled();
        let mut first = world.worker(7);
        while !matches!(first.phase, Phase::Delivering(_)) {
            first.step().unwrap();
        }
        let Phase::Delivering(cut) = &first.phase else { unreachable!("the loop ends with it") };
        assert_eq!(world.sink.put_new(&cut.object, &cut.bytes).unwrap(), PutOutcome::Created);
        drop(first);
        finish(&mut world.pushed(late, &TestClock::new()));
        assert_eq!(world.outcome(), undisturbed(), "page {late} is late");
    }
}

#[test]
fn a_pushed_page_tells_of_the_time_of_the_call_before() {
    let (world, clock) = (World::new(), TestClock::new());
    let mut worker = world.pushed(0, &clock);
    while !matches!(worker.step().unwrap(), Step::Idle { .. }) {}
    let mut asked_ms = clock.now_ms();
    for _ in 0..3 {
        clock.advance_ms(1000);
        worker.step().unwrap();
        assert_eq!(worker.shared.settled_ms(ShardId(3)), Some(asked_ms));
        asked_ms = clock.now_ms();
    }
}

#[test]
fn an_error_that_does_not_pass_ends_the_worker_and_names_the_shard() {
    for kind in [ErrorKind::FixInput, ErrorKind::Corrupt, ErrorKind::Fenced] {
        let world = World::filled();
        let mut worker = world.worker(7);
        world.shard.faults.fail_as(1, When::Before, kind);
        let error = (0..100).find_map(|_| worker.step().err()).unwrap();
        assert_eq!(error.kind(), kind);
        assert!(error.to_string().starts_with("shardId-000000000003: reading records"), "{error}");
        let mut worker = world.worker(7);
        world.state.faults.fail_as(3, When::After, kind);
        let error = (0..100).find_map(|_| worker.step().err()).unwrap();
        assert!(matches!(error, WorkerError::State { .. }), "{error}");
    }
}

/// A split: the parent ends and goes, its children come; totals never fall, nobody is served from what is gone.
#[test]
fn shards_come_and_go() {
    let world = World::filled();
    let parts =
        testing::port_parts(Arc::clone(&world.state) as _, Arc::clone(&world.sink), TestClock::new(), settings(7));
    let shared = Arc::new(Shared::new(parts));
    let ids = || shared.statuses().iter().map(|(id, _)| id.0).collect::<Vec<_>>();
    let mut parent = Worker::new(Arc::clone(&shared), ShardId(3), world.shard.reader());
    finish(&mut parent);
    let totals = shared.totals();
    assert_eq!((totals.records, ids()), (60, vec![3]));
    let child = MemoryShard::new();
    child.put(NOW_MS, "u", &[&event("new", "i1", "view", NOW_MS)]);
    let mut children: Vec<Worker> =
        [4, 5].map(|id| Worker::new(Arc::clone(&shared), ShardId(id), child.reader())).into();
    drop(parent);
    assert_eq!((shared.totals(), ids()), (totals, vec![4, 5]));
    for _ in 0..6 {
        children[0].step().unwrap();
    }
    let key = HistoryKey::User("new".into());
    assert_eq!(shared.history(&key).unwrap().unwrap().len(), 1, "served before it is committed");
    // The lease went elsewhere: a newer worker of the same shard takes the place of the old one.
    let newer = Worker::new(Arc::clone(&shared), ShardId(4), child.reader());
    assert_eq!(shared.history(&key).unwrap(), None);
    drop(children);
    assert_eq!(ids(), [4]);
    drop(newer);
    assert!(ids().is_empty());
}

/// A store in which something happens between reading and answering.
#[derive(Debug)]
struct Interrupted {
    state: Arc<MemoryState>,
    worker: Mutex<Option<Worker>>,
}

impl StateStore for Interrupted {
    fn histories(&self, keys: &[HistoryKey], types: &EventTypes) -> Result<Vec<Option<Held>>, PortError> {
        let found = self.state.histories(keys, types);
        let interrupting = lock(&self.worker).take();
        if let Some(mut worker) = interrupting {
            worker.flush();
            run_to_end(&mut worker);
            *lock(&self.worker) = Some(worker);
        }
        found
    }

    fn checkpoint(&self, shard: ShardId) -> Result<Checkpoint, PortError> {
        self.state.checkpoint(shard)
    }

    fn commit(&self, commit: Commit<'_>) -> Result<(), PortError> {
        self.state.commit(commit)
    }
}

/// Whoever asked for a history read the store first and the memory second; a commit in between took the newest events
/// out of both views for a moment, and a click seemed undone.
#[test]
fn a_history_asked_for_during_a_commit_is_whole() {
    let world = World::new();
    world.shard.put(NOW_MS, "u", &[&event("u", "i1", "view", NOW_MS)]);
    let state = Arc::new(Interrupted { state: Arc::clone(&world.state), worker: Mutex::default() });
    let parts = testing::port_parts(Arc::clone(&state) as _, Arc::clone(&world.sink), TestClock::new(), settings(100));
    let shared = Arc::new(Shared::new(parts));
    let mut worker = Worker::new(Arc::clone(&shared), ShardId(3), world.shard.reader());
    while worker.processed() == Position::START {
        worker.step().unwrap();
    }
    *lock(&state.worker) = Some(worker);
    assert!(world.state.bytes().is_empty());
    assert_eq!(shared.history(&HistoryKey::User("u".into())).unwrap().unwrap().len(), 1);
    assert_eq!(world.state.bytes().len(), 1, "committed meanwhile");
}
