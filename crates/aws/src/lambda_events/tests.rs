//! Samples in the shapes of AWS's documentation and of real traffic, written by hand.
#![allow(clippy::unwrap_used)]

use anabranch_stream::ports::Position;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::kinesis::kpl::Aggregator;

/// The event of AWS's guide "Process Amazon Kinesis records with Lambda".
const KINESIS: &str = r#"{
  "Records": [
    {
      "kinesis": {
        "kinesisSchemaVersion": "1.0",
        "partitionKey": "1",
        "sequenceNumber": "49590338271490256608559692538361571095921575989136588898",
        "data": "SGVsbG8sIHRoaXMgaXMgYSB0ZXN0Lg==",
        "approximateArrivalTimestamp": 1545084650.987
      },
      "eventSource": "aws:kinesis",
      "eventVersion": "1.0",
      "eventID": "shardId-000000000006:49590338271490256608559692538361571095921575989136588898",
      "eventName": "aws:kinesis:record",
      "invokeIdentityArn": "arn:aws:iam::111122223333:role/lambda-role",
      "awsRegion": "us-east-2",
      "eventSourceARN": "arn:aws:kinesis:us-east-2:111122223333:stream/lambda-stream"
    }
  ],
  "window": {"start": "2020-12-09T07:04:00Z", "end": "2020-12-09T07:06:00Z"},
  "isFinalInvokeForWindow": false
}"#;

#[test]
fn a_kinesis_event_is_read() {
    let event: KinesisEvent = serde_json::from_str(KINESIS).unwrap();
    let [record] = &event.records[..] else { panic!("one record") };
    assert_eq!(record.shard(), Ok(ShardId(6)));
    let records = record.user_records(0).unwrap();
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].position, Position::whole(record.number().unwrap()));
    assert_eq!((records[0].sub, records[0].arrival_ms), (None, 1_545_084_650_987));
    assert_eq!(records[0].data.as_deref(), Some(&b"Hello, this is a test."[..]));
}

#[test]
fn the_mapping_hands_aggregates_over_raw_and_they_are_taken_apart() {
    let mut aggregate = Aggregator::new("u1");
    aggregate.push(b"first");
    aggregate.push(b"second");
    let data = STANDARD.encode(aggregate.finish());
    let record: KinesisEventRecord =
        serde_json::from_value(json!({"kinesis": {"sequenceNumber": "7", "data": data, "partitionKey": "a"}})).unwrap();
    let records = record.user_records(5).unwrap();
    let seen: Vec<_> =
        records.iter().map(|record| (record.position.to_string(), record.sub, record.arrival_ms)).collect();
    assert_eq!(seen, [("7.0".to_owned(), Some(0), 5), ("7".to_owned(), Some(1), 5)]);
    assert!(records.iter().all(|record| record.partition_key == "u1"));
}

#[test]
fn a_bad_record_costs_one_record() {
    let event = json!({"Records": [
        {"kinesis": {"sequenceNumber": "1", "data": "***"}},
        {"kinesis": {"sequenceNumber": "x", "data": "YQ=="}},
        {"kinesis": {"sequenceNumber": "3", "data": "YQ==", "partitionKey": null, "approximateArrivalTimestamp": null}},
        {},
    ]});
    let event: KinesisEvent = serde_json::from_value(event).unwrap();
    let read: Vec<bool> = event.records.iter().map(|record| record.user_records(0).is_ok()).collect();
    assert_eq!(read, [false, false, true, false]);
    assert_eq!(event.records[0].user_records(0), Err(RecordError::Data("1".to_owned())));
    for text in ["{}", r#"{"Records": null}"#, r#"{"Records": []}"#] {
        assert_eq!(serde_json::from_str::<KinesisEvent>(text).unwrap(), KinesisEvent::default());
    }
}

#[test]
fn a_partial_failure_names_the_record_to_begin_with() {
    assert_eq!(serde_json::to_string(&KinesisResponse::DONE).unwrap(), r#"{"batchItemFailures":[]}"#);
    let number = "49590338271490256608559692538361571095921575989136588898";
    assert_eq!(
        serde_json::to_string(&KinesisResponse::again_from(number.parse().unwrap())).unwrap(),
        format!(r#"{{"batchItemFailures":[{{"itemIdentifier":"{number}"}}]}}"#)
    );
}

/// A Firehose event with a Kinesis source; `arrival` and `sub` as they are written.
fn firehose(arrival: &serde_json::Value, sub: &serde_json::Value) -> FirehoseEvent {
    serde_json::from_value(json!({
        "invocationId": "4c1b3a55-0d8d-4b62-b1a5-7a4b9e2f0c11",
        "deliveryStreamArn": "arn:aws:firehose:eu-west-1:123456789012:deliverystream/recommendations",
        "sourceKinesisStreamArn": "arn:aws:kinesis:eu-west-1:123456789012:stream/clicks",
        "region": "eu-west-1",
        "records": [{
            "recordId": "shardId-00000000000000000000000000000000000000000000000000",
            "approximateArrivalTimestamp": arrival,
            "data": "eyJhIjoxfQ==",
            "kinesisRecordMetadata": {
                "shardId": "shardId-000000000000",
                "partitionKey": "u1",
                "approximateArrivalTimestamp": arrival,
                "sequenceNumber": "49546986683135544286507457936321625675700192471156785154",
                "subsequenceNumber": sub,
            },
        }],
    }))
    .unwrap()
}

#[test]
fn times_and_sub_sequence_numbers_come_in_every_form() {
    let expected = Some(1_495_072_949_453);
    let times = [
        json!(1_495_072_949_453_i64),
        json!(1_495_072_949.453),
        json!("2017-05-18T02:02:29.453Z"),
        json!("1495072949453"),
    ];
    for arrival in &times {
        let event = firehose(arrival, &json!(""));
        let metadata = event.records[0].kinesis_record_metadata.as_ref().unwrap();
        assert_eq!((event.records[0].arrival_ms, metadata.arrival_ms), (expected, expected), "{arrival}");
    }
    for (arrival, expected) in [
        (json!(null), None),
        (json!("soon"), None),
        (json!([1]), None),
        (json!({"a": 1}), None),
        (json!(1_495_072_949), Some(1_495_072_949_000)),
    ] {
        assert_eq!(firehose(&arrival, &json!(0)).records[0].arrival_ms, expected, "{arrival}");
    }
    for (sub, expected) in
        [(json!(""), None), (json!(0), Some(0)), (json!("3"), Some(3)), (json!(-1), None), (json!(null), None)]
    {
        let event = firehose(&times[0], &sub);
        assert_eq!(event.records[0].kinesis_record_metadata.as_ref().unwrap().subsequence_number, expected, "{sub}");
    }
}

#[test]
fn a_direct_put_event_has_no_kinesis_metadata() {
    // The sample of AWS's guide "Transform source data in Amazon Data Firehose", direct put.
    let event: FirehoseEvent = serde_json::from_str(
        r#"{"invocationId": "invoked123", "deliveryStreamArn": "aws:lambda:events", "region": "us-west-2", "records":
        [{"data": "SGVsbG8gV29ybGQ=", "recordId": "record1", "approximateArrivalTimestamp": 1510772160000}]}"#,
    )
    .unwrap();
    assert_eq!(event.source_kinesis_stream_arn, None);
    assert_eq!(event.records[0].kinesis_record_metadata, None);
    assert_eq!(event.records[0].decode().as_deref(), Some(&b"Hello World"[..]));
}

#[test]
fn golden_firehose_response() {
    let event = firehose(&json!(0), &json!(""));
    let keys = BTreeMap::from([("day".to_owned(), "2026-11-23".to_owned())]);
    let response = FirehoseResponse {
        records: vec![
            TransformedRecord::deliver("r1", b"{}\n", keys),
            TransformedRecord::deliver("r2", b"", BTreeMap::new()),
            TransformedRecord::dropped("r3"),
            TransformedRecord::failed(&event.records[0]),
        ],
    };
    let text = serde_json::to_string(&response).unwrap();
    assert_eq!(
        text,
        concat!(
            r#"{"records":[{"recordId":"r1","result":"Ok","data":"e30K","metadata":{"partitionKeys":{"day":"2026-11-23"}}},"#,
            r#"{"recordId":"r2","result":"Ok","data":""},{"recordId":"r3","result":"Dropped"},"#,
            r#"{"recordId":"shardId-00000000000000000000000000000000000000000000000000","#,
            r#""result":"ProcessingFailed","data":"eyJhIjoxfQ=="}]}"#,
        )
    );
    assert_eq!(response.bytes(), text.len());
    assert_eq!(FirehoseResponse::default().bytes(), r#"{"records":[]}"#.len());
}

proptest! {
    #[test]
    fn a_response_is_as_long_as_it_says(
        records in proptest::collection::vec((".{0,20}", proptest::collection::vec(any::<u8>(), 0..50), any::<bool>()), 0..8)
    ) {
        let records = records
            .into_iter()
            .map(|(id, data, has_key)| {
                let keys = if has_key { BTreeMap::from([("k\"".to_owned(), id.clone())]) } else { BTreeMap::new() };
                TransformedRecord::deliver(&id, &data, keys)
            })
            .collect();
        let response = FirehoseResponse { records };
        prop_assert_eq!(response.bytes(), serde_json::to_string(&response).unwrap().len());
    }
}
