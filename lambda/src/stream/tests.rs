#![allow(clippy::unwrap_used)]
use std::collections::BTreeMap;
use std::sync::Arc;

use anabranch_aws::api::ApiErrorKind;
use anabranch_aws::dynamo::api::DynamoApi;
use anabranch_aws::dynamo::histories::{DynamoState, StateParts, StateSettings};
use anabranch_aws::dynamo::testing::MemoryDynamo;
use anabranch_aws::firehose::sink::FirehoseSink;
use anabranch_aws::firehose::testing::{Hit, MemoryFirehose};
use anabranch_aws::testing::SimClock;
use anabranch_events::HistoryKey;
use anabranch_events::erasure::ErasureKey;
use anabranch_stores::backoff::Patience;
use anabranch_stores::lake::MemoryStore;
use anabranch_stream::StreamSettings;
use anabranch_stream::ports::{StateStore as _, history};
use anabranch_stream::settings::Mode;
use anabranch_stream::testing::{self, NOW_MS, When, event};

use super::*;
use crate::testing::{Put, SHARD, World, function, ids, kinesis_event, number, settings, some_puts, text, totals};

fn views(count: usize) -> Vec<Put> {
    let view = |i: usize| event(&format!("u{}", i % 2), &format!("i{i}"), "view", NOW_MS - 100 + i as i64);
    (0..count).map(|i| Put::one("k", view(i))).collect()
}

fn begin_again(response: &KinesisResponse) -> Vec<String> {
    let value = serde_json::to_value(response).unwrap();
    let failures = value["batchItemFailures"].as_array().unwrap().iter();
    failures.map(|failure| failure["itemIdentifier"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_poison_record_costs_one_record() {
    let world = World::new();
    let puts = some_puts(60);
    let mut event = kinesis_event(0, &puts);
    event.records[3].kinesis.data = "not base64!".to_owned();
    let model = testing::model();
    let handled = world.stream().handle(&event, &model).unwrap();
    assert_eq!(handled.response, KinesisResponse::DONE);
    let lines = handled.report.lines("Anabranch", "clicks", &model, NOW_MS).unwrap();
    assert!(lines[0].contains("\"snapshotVersion\":\"0123456789abcdef\""));
    let total = totals(&lines);
    let of = |name: &str| total[name];
    assert!(handled.report.conserves());
    assert!(of("EventsDeadLettered") > 5.0 && of("EventsDuplicate") > 0.0 && of("ListsDelivered") > 30.0);
    assert!((of("ListsDelivered") - world.lines().len() as f64).abs() < 0.5);
    assert!((of("ListsFull") - of("ListsMade")).abs() < 0.5);
    assert!((of("BatchSize") - 60.0).abs() < 0.5);
    assert!((of("IteratorAge") - 941.0).abs() < 0.5, "the last record arrived at NOW − 1000 + 59");
    // Each dead letter says where it was; the one that was not base64 keeps what came.
    let letters = world.dead_letters();
    assert!((letters.len() as f64 - of("EventsDeadLettered")).abs() < 0.5);
    let poison = letters.iter().find(|letter| letter["sequenceNumber"] == number(3)).unwrap();
    assert!(poison["raw"].as_str().unwrap().contains("not base64!"), "{poison}");
    // One read of the store for what is touched; further ones follow sessions only.
    assert!(world.state.reads().len() <= 3, "{:?}", world.state.reads());
}

#[test]
fn a_batch_that_firehose_takes_in_part_begins_again_at_the_lowest_failed_record() {
    let puts = views(6);
    let once = World::new();
    once.stream().handle(&kinesis_event(0, &puts), &testing::model()).unwrap();

    let world = World::new();
    let model = testing::model();
    // Line 2 fails for good; the rest of its request is stored, so 3 to 5 will come twice.
    world.firehose.script([Hit::Partly(vec![2], "InvalidArgumentException")]);
    let handled = world.stream().handle(&kinesis_event(0, &puts), &model).unwrap();
    assert_eq!(begin_again(&handled.response), [number(2)]);
    assert_eq!((handled.report.delivered, handled.report.retried), (2, 4));
    assert!(handled.report.conserves());
    // Nothing after the failed record is committed: its list would be lost as a duplicate's.
    let held = |user: &str| {
        let key = HistoryKey::User(user.into());
        history(&*world.state, &key, &testing::types()).unwrap().map_or(0, |history| history.entries().count())
    };
    assert_eq!((held("u0"), held("u1")), (1, 1));
    let checkpoint = world.state.checkpoint(SHARD.parse().unwrap()).unwrap();
    assert_eq!(checkpoint.position().to_string(), number(1));

    let handled = world.stream().handle(&kinesis_event(2, &puts[2..]), &model).unwrap();
    assert_eq!((begin_again(&handled.response).len(), handled.report.delivered), (0, 4));
    assert_eq!(world.state.bytes(), once.state.bytes());
    let by_id = |world: &World| {
        world.lines().into_iter().map(|l| (text(&l, "recommendationId"), l)).collect::<BTreeMap<_, _>>()
    };
    assert_eq!(by_id(&world), by_id(&once), "repeats are the same bytes here");
    assert_eq!(world.lines().len(), 9);
}

#[test]
fn an_aggregate_fails_as_a_whole_and_its_parts_are_told_apart() {
    let world = World::new();
    let part = |i: i64| event("u0", &format!("i{i}"), "view", NOW_MS - 10 + i);
    let puts = [Put::one("u0", part(0)), Put { parts: vec![part(1), part(2), part(3)], ..Put::one("u0", vec![]) }];
    world.firehose.script([Hit::Partly(vec![2], "InvalidArgumentException")]);
    let handled = world.stream().handle(&kinesis_event(0, &puts), &testing::model()).unwrap();
    assert_eq!(begin_again(&handled.response), [number(1)]);
    assert_eq!(handled.report.delivered, 1, "no part of the failed aggregate counts");
    world.stream().handle(&kinesis_event(1, &puts[1..]), &testing::model()).unwrap();
    let subs: Vec<_> = world.lines()[3..]
        .iter()
        .map(|line| serde_json::from_slice::<serde_json::Value>(line).unwrap()["subSequenceNumber"].as_u64())
        .collect();
    assert_eq!(subs, [Some(0), Some(1), Some(2)]);
}

#[test]
fn an_invocation_that_comes_twice_delivers_nothing_new() {
    let world = World::new();
    let event = kinesis_event(0, &some_puts(30));
    let first = world.stream().handle(&event, &testing::model()).unwrap().report;
    let (lines, histories) = (world.lines(), world.state.bytes());
    let letters = world.dead_letters();
    let second = world.stream().handle(&event, &testing::model()).unwrap().report;
    assert_eq!((second.delivered, second.applied), (0, 0));
    assert_eq!(second.duplicate, first.applied + first.duplicate);
    assert_eq!((world.lines(), world.state.bytes(), world.dead_letters()), (lines, histories, letters));
}

#[test]
fn a_commit_that_fails_repeats_the_same_lists() {
    for when in [When::Before, When::After] {
        let world = World::new();
        let event = kinesis_event(0, &views(8));
        // Reads: users, then (per event) nothing more; the commit is the call after.
        world.state.faults.fail_after(1, when);
        assert!(world.stream().handle(&event, &testing::model()).is_err());
        let first = world.lines();
        assert_eq!(first.len(), 8, "delivery comes first");
        let handled = world.stream().handle(&event, &testing::model()).unwrap();
        let repeats = world.lines()[8..].to_vec();
        if when == When::Before {
            assert_eq!(repeats, first);
        } else {
            assert_eq!((repeats.len(), handled.report.duplicate), (0, 8));
        }
    }
}

#[test]
fn a_sink_that_is_down_leaves_everything_to_the_next_time() {
    let world = World::new();
    world.firehose.script([Hit::Refuse(ApiErrorKind::FixInput)]);
    let handled = world.stream().handle(&kinesis_event(4, &views(3)), &testing::model()).unwrap();
    assert_eq!(begin_again(&handled.response), [number(4)]);
    assert!(world.state.bytes().is_empty() && handled.report.conserves());
    assert_eq!((handled.report.events_in, handled.report.retried), (0, 3));
}

#[test]
fn in_per_user_mode_a_failure_begins_again_at_the_users_first_event() {
    let settings = || StreamSettings { mode: Mode::PerUser, ..settings() };
    let puts = views(6); // u0 and u1 in turn
    let once = World::new();
    let handled = once.stream_with(settings()).handle(&kinesis_event(0, &puts), &testing::model()).unwrap();
    assert_eq!((handled.report.delivered, handled.report.superseded, handled.report.applied), (2, 4, 6));

    let world = World::new();
    world.firehose.script([Hit::Partly(vec![1], "InvalidArgumentException")]);
    let handled = world.stream_with(settings()).handle(&kinesis_event(0, &puts), &testing::model()).unwrap();
    assert_eq!(begin_again(&handled.response), [number(1)], "u1's first event");
    assert!(handled.report.conserves());
    world.stream_with(settings()).handle(&kinesis_event(1, &puts[1..]), &testing::model()).unwrap();
    assert_eq!(world.state.bytes(), once.state.bytes());
    let found = ids(&world.lines());
    assert!(ids(&once.lines()).iter().all(|id| found.contains(id)));
}

#[test]
fn shards_that_come_mixed_are_told_apart() {
    let world = World::new();
    let mut event = kinesis_event(0, &views(4));
    event.records[1].event_id = format!("shardId-000000000009:{}", number(1));
    event.records[2].event_id = "nonsense".to_owned();
    world.stream().handle(&event, &testing::model()).unwrap();
    let shards: Vec<String> = world.lines().iter().map(|line| text(line, "shardId")).collect();
    let other = "shardId-000000000009";
    assert_eq!(shards, [SHARD, SHARD, other, other], "without a shard: the one before it");
}

fn dynamo(api: &Arc<MemoryDynamo>) -> DynamoState {
    let settings = StateSettings {
        table: "state".to_owned(),
        namespace: "clicks-1".to_owned(),
        retention_s: 86_400,
        ttl_s: 90 * 86_400,
    };
    let clock = Arc::new(SimClock::default());
    let patience = Patience::new(Arc::clone(&clock) as _, 1);
    let api: Arc<dyn DynamoApi> = Arc::clone(api) as _;
    let parts = StateParts { api, settings, erasure_key: ErasureKey::new([7; 32]), clock, patience };
    DynamoState::new(parts, &testing::types()).unwrap()
}

fn over_dynamo(api: &Arc<MemoryDynamo>, firehose: &MemoryFirehose) -> StreamFunction<MemoryFirehose> {
    let patience = Patience::new(Arc::new(SimClock::default()), 1);
    StreamFunction {
        function: function(Arc::new(dynamo(api)), Arc::new(MemoryStore::new()), settings()),
        firehose: Some(FirehoseSink::new(firehose.clone(), patience, 1)),
    }
}

#[test]
fn two_invocations_that_write_one_user_at_once_are_joined() {
    let puts = views(8);
    let (api, firehose) = (Arc::new(MemoryDynamo::new(&["state"], 1)), MemoryFirehose::new(1));
    let serial = Arc::new(MemoryDynamo::new(&["state"], 1));
    for (from, chunk) in [(0, &puts[..4]), (4, &puts[4..])] {
        over_dynamo(&serial, &firehose).handle(&kinesis_event(from, chunk), &testing::model()).unwrap();
    }
    // While the first half is on its way into the table, an invocation with the second half runs from end to end.
    let (other_api, other_firehose, other) = (Arc::clone(&api), firehose.clone(), kinesis_event(4, &puts[4..]));
    api.intrude(Some(Box::new(move |_| {
        over_dynamo(&other_api, &other_firehose).handle(&other, &testing::model()).unwrap();
    })));
    over_dynamo(&api, &firehose).handle(&kinesis_event(0, &puts[..4]), &testing::model()).unwrap();
    let keys = [HistoryKey::User("u0".into()), HistoryKey::User("u1".into())];
    let histories = |api| {
        let found = dynamo(api).histories(&keys, &testing::types()).unwrap();
        found.into_iter().map(|held| held.unwrap().history).collect::<Vec<_>>()
    };
    assert_eq!(histories(&api), histories(&serial));
    assert!(histories(&api).iter().all(|history| history.entries().count() == 4));
    let checkpoint = dynamo(&api).checkpoint(SHARD.parse().unwrap()).unwrap();
    assert_eq!(checkpoint.position().to_string(), number(7), "a checkpoint never moves back");
    // One write for each user and one for the checkpoint, whatever the number of events.
    let before = serial.usage().puts;
    let more: Vec<Put> = (0..50).map(|i| Put::one("k", event("u0", "i3", "view", NOW_MS + i))).collect();
    over_dynamo(&serial, &firehose).handle(&kinesis_event(8, &more), &testing::model()).unwrap();
    assert_eq!(serial.usage().puts - before, 2);
}
