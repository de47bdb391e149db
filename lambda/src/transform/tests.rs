#![allow(clippy::unwrap_used)]
use anabranch_stream::testing::{self, NOW_MS, When, event};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::*;
use crate::golden::delivered;
use crate::testing::{Put, World, firehose_event, ids, keep_first, kinesis_event, some_puts, totals};

fn handle(world: &World, event: &FirehoseEvent) -> (Vec<Value>, Report) {
    let handled = world.transform(Partition::Hour).handle(event, &testing::model()).unwrap();
    assert!(handled.report.conserves(), "{:?}", handled.report);
    let value = serde_json::to_value(&handled.response).unwrap();
    (value["records"].as_array().unwrap().clone(), handled.report)
}

fn requested(data: &Value) -> FirehoseEvent {
    serde_json::from_value(json!({"invocationId": "i", "deliveryStreamArn": "a", "region": "r", "records": data}))
        .unwrap()
}

#[test]
fn every_record_is_answered_once_in_order() {
    let world = World::new();
    let mut event = firehose_event(0, &some_puts(40));
    event.records[5].data = "%%%".to_owned();
    let (answers, report) = handle(&world, &event);
    let asked: Vec<&str> = event.records.iter().map(|record| record.record_id.as_str()).collect();
    let answered: Vec<&str> = answers.iter().map(|answer| answer["recordId"].as_str().unwrap()).collect();
    assert_eq!(answered, asked);
    for (answer, record) in answers.iter().zip(&event.records) {
        let data = answer["data"].as_str();
        match answer["result"].as_str().unwrap() {
            "Ok" => {
                let text = STANDARD.decode(data.unwrap()).unwrap();
                assert_eq!((text.last(), crate::testing::split(&text).len()), (Some(&b'\n'), 1));
                assert_eq!(answer["metadata"]["partitionKeys"], json!({"day": "2023-11-14", "hour": "22"}));
            }
            "Dropped" => assert!(data.is_none()),
            "ProcessingFailed" => assert_eq!(data, Some(record.data.as_str()), "the record as it came"),
            other => panic!("{other}"),
        }
    }
    let count = |result: &str| answers.iter().filter(|answer| answer["result"] == result).count() as u64;
    assert_eq!((count("Ok"), count("ProcessingFailed")), (report.delivered, report.dead_lettered));
    assert!(count("Dropped") > 0 && count("ProcessingFailed") > 3);
    assert!(world.dead_letters().is_empty(), "Firehose keeps what failed");
    let lines = report.lines("Anabranch", "clicks", &testing::model(), NOW_MS).unwrap();
    let total = totals(&lines);
    assert!((total["BatchSize"] - event.records.len() as f64).abs() < 0.5);
}

#[test]
fn an_invocation_that_comes_twice_repeats_every_id_and_changes_nothing() {
    let world = World::new();
    let puts = some_puts(60);
    let event = firehose_event(0, &puts);
    let handle = || world.transform(Partition::None).handle(&event, &testing::model()).unwrap();
    let first = delivered(&handle().response);
    let histories = world.state.bytes();
    // Its answer was lost: Firehose comes again.
    let second = delivered(&handle().response);
    assert_eq!(ids(&second), ids(&first));
    assert_eq!(world.state.bytes(), histories);
    assert_eq!(keep_first(&first), first, "an event that comes twice in one request has one list");
    // The same events through the mapping, afterwards: all known.
    let report = world.stream().handle(&kinesis_event(0, &puts), &testing::model()).unwrap().report;
    assert_eq!(report.delivered, 0);
}

#[test]
fn a_commit_that_fails_fails_the_invocation() {
    for when in [When::Before, When::After] {
        let world = World::new();
        let event = firehose_event(0, &[Put::one("u0", event("u0", "i1", "view", NOW_MS))]);
        world.state.faults.fail_after(1, when);
        assert!(world.transform(Partition::None).handle(&event, &testing::model()).is_err());
        let (answers, _) = handle(&world, &event);
        assert_eq!(answers[0]["result"], "Ok", "{when:?}");
    }
}

#[test]
fn records_put_straight_into_firehose_have_no_place_in_a_stream() {
    let world = World::new();
    let data = |item: &str| STANDARD.encode(event("u1", item, "view", NOW_MS));
    let records = json!([
        {"recordId": "49546986683135544286507457936321625675700192471156785154", "data": data("i1"),
         "approximateArrivalTimestamp": 1_700_000_000_000_i64},
        {"recordId": "not-a-number", "data": data("i2"), "approximateArrivalTimestamp": "2023-11-14T23:00:00Z"},
    ]);
    let (answers, _) = handle(&world, &requested(&records));
    let line = |answer: &Value| -> Value {
        serde_json::from_slice(&STANDARD.decode(answer["data"].as_str().unwrap()).unwrap()).unwrap()
    };
    let (first, second) = (line(&answers[0]), line(&answers[1]));
    assert_eq!(first["shardId"], "shardId-000000000000");
    assert_eq!(first["sequenceNumber"], "49546986683135544286507457936321625675700192471156785154");
    assert_eq!((first["arrivalTimeMs"].as_i64(), second["sequenceNumber"].as_str()), (Some(NOW_MS), Some("0")));
    assert_eq!(answers[1]["metadata"]["partitionKeys"]["hour"], "23", "arrival, not event time");
}

#[test]
fn a_record_with_good_and_bad_events_delivers_the_good_and_keeps_the_bad() {
    let world = World::new();
    let body = concat!(
        r#"{"userId":"u1","sessionId":"s","trackingId":"t","eventList":["#,
        r#"{"itemId":"i1","eventType":"view","sentAt":1700000000},{"eventType":"view","sentAt":1700000000}]}"#,
    );
    let event = firehose_event(0, &[Put::one("u1", body.as_bytes().to_vec())]);
    let (answers, report) = handle(&world, &event);
    assert_eq!((answers[0]["result"].as_str(), report.delivered, report.dead_lettered), (Some("Ok"), 1, 1));
    assert_eq!(world.dead_letters().len(), 1);
}

#[test]
fn an_empty_request_is_answered() {
    let (answers, report) = handle(&World::new(), &requested(&json!([])));
    assert!(answers.is_empty() && report == Report::default());
}

/// Firehose holds 500 partitions at once: their number follows the hours of arrival, whatever the users, items and event
/// times are.
#[test]
fn partitions_are_as_many_as_the_hours_of_arrival() {
    const HOUR_MS: i64 = 3_600_000;
    let puts: Vec<Put> = (0..600)
        .map(|i| {
            let arrival_ms = NOW_MS - i % 3 * HOUR_MS;
            let data = event(&format!("u{i}"), &format!("i{}", i % 20), "view", arrival_ms - i * HOUR_MS);
            Put { arrival_ms, ..Put::one(&format!("u{i}"), data) }
        })
        .collect();
    for (partition, expected) in [(Partition::None, 0), (Partition::Day, 1), (Partition::Hour, 3)] {
        let handled = World::new().transform(partition).handle(&firehose_event(0, &puts), &testing::model()).unwrap();
        let answers = serde_json::to_value(&handled.response).unwrap();
        let answers = answers["records"].as_array().unwrap();
        assert!(answers.len() == 600 && answers.iter().all(|answer| answer["result"] == "Ok"));
        let keys = answers.iter().filter_map(|answer| answer["metadata"].get("partitionKeys")).map(ToString::to_string);
        assert_eq!(keys.collect::<std::collections::BTreeSet<_>>().len(), expected, "{partition:?}");
    }
}
