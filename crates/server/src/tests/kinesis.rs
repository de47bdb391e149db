//! The Kinesis door: what producers rely on, and each way to be refused.

use anabranch_stores::state::log::{hash_key, shard_of};
use axum::body::Body;
use axum::http::{Request, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{Got, World, event, settings};

async fn call(world: &World, operation: &str, body: &Value) -> Got {
    raw(world, operation, "application/x-amz-json-1.1", body.to_string()).await
}

async fn raw(world: &World, operation: &str, content_type: &str, body: impl Into<Body>) -> Got {
    let request = Request::post("/")
        .header("x-amz-target", format!("Kinesis_20131202.{operation}"))
        .header("content-type", content_type)
        .body(body.into())
        .unwrap();
    world.send(request).await
}

fn record(data: &str, key: &str) -> Value {
    json!({ "Data": STANDARD.encode(data), "PartitionKey": key })
}

fn put(data: &[u8], key: &str) -> Value {
    json!({ "StreamName": "clicks", "Data": STANDARD.encode(data), "PartitionKey": key })
}

fn assert_refused(got: &Got, status: u16, kind: &str, words: &str) {
    let body = got.json();
    assert_eq!(got.status.as_u16(), status, "{body}");
    assert_eq!(body["__type"], kind, "{body}");
    assert!(body["message"].as_str().unwrap().contains(words), "{body}");
    assert_eq!(got.headers["x-amzn-errortype"], kind);
    assert!(got.headers.contains_key("x-amzn-requestid"));
    assert_eq!(got.headers["content-type"], "application/x-amz-json-1.1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_goes_to_the_shard_of_its_key_and_becomes_a_list() {
    let world = World::new(settings());
    for user in ["a", "b", "c", "d"] {
        let got = call(&world, "PutRecord", &put(event(user, "i1", "view", 0).as_bytes(), user)).await;
        assert_eq!(got.status, StatusCode::OK);
        let shard = shard_of(hash_key(user), 2);
        assert_eq!(got.json()["ShardId"], format!("shardId-{shard:012}"));
        assert!(got.json()["SequenceNumber"].as_str().unwrap().parse::<u64>().unwrap() > 0);
    }
    let mut steered = put(event("e", "i1", "view", 0).as_bytes(), "e");
    steered["ExplicitHashKey"] = u128::MAX.to_string().into();
    assert_eq!(call(&world, "PutRecord", &steered).await.json()["ShardId"], "shardId-000000000001");
    let mut steered = put(event("e", "i2", "view", 0).as_bytes(), "e");
    steered["ExplicitHashKey"] = "0".into();
    assert_eq!(call(&world, "PutRecord", &steered).await.json()["ShardId"], "shardId-000000000000");
    world.flush().await;
    let mut users: Vec<String> =
        world.lines("recommendations").iter().map(|line| line["userId"].as_str().unwrap().to_owned()).collect();
    users.sort();
    assert_eq!(users, ["a", "b", "c", "d", "e", "e"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_records_in_one_call() {
    let world = World::new(settings());
    let records: Vec<Value> =
        (0..500).map(|i| record(&event(&format!("u{}", i % 7), "i2", "view", i), &format!("u{}", i % 7))).collect();
    let arn = "arn:aws:kinesis:eu-west-1:123456789012:stream/clicks";
    let got = call(&world, "PutRecords", &json!({ "StreamARN": arn, "Records": records })).await;
    let body = got.json();
    assert_eq!((got.status, &body["FailedRecordCount"]), (StatusCode::OK, &json!(0)), "{body}");
    assert_eq!(body["Records"].as_array().unwrap().len(), 500);
    world.flush().await;
    assert_eq!(world.lines("recommendations").len(), 500);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_queue_has_no_room_for_is_told_record_by_record() {
    let world = World::new(anabranch_stream::StreamSettings { ingest_queue_records: 3, ..settings() });
    let records: Vec<Value> = (0..5).map(|i| record(&event("u", "i2", "view", i), "u")).collect();
    let body = call(&world, "PutRecords", &json!({ "StreamName": "clicks", "Records": records })).await.json();
    assert_eq!(body["FailedRecordCount"], 2, "{body}");
    let outcomes = body["Records"].as_array().unwrap();
    assert!(outcomes[..3].iter().all(|outcome| outcome["SequenceNumber"].is_string()), "{body}");
    for outcome in &outcomes[3..] {
        assert_eq!(outcome["ErrorCode"], "ProvisionedThroughputExceededException");
        assert!(outcome["SequenceNumber"].is_null());
    }
    world.flush().await;
    assert_eq!(world.lines("recommendations").len(), 3, "exactly the first three were taken");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_log_slows_producers_down_and_the_stream_is_well() {
    // The clock stands still: no cut becomes due by its age.
    let bounds = anabranch_stream::StreamSettings { retention_bytes: 64 << 20, cut_bytes: 1 << 30, ..settings() };
    let world = World::new(bounds);
    let large = "x".repeat(1_000_000);
    let call_of = |count: usize| {
        let records: Vec<Value> = (0..count).map(|_| record(&large, "k")).collect();
        json!({ "StreamName": "clicks", "Records": records })
    };
    let mut taken = 0;
    let body = loop {
        let body = call(&world, "PutRecords", &call_of(10)).await.json();
        if body["FailedRecordCount"] != 0 {
            break body;
        }
        taken += 10;
    };
    let outcomes = body["Records"].as_array().unwrap();
    taken += outcomes.iter().filter(|outcome| outcome["SequenceNumber"].is_string()).count();
    assert_eq!((taken, outcomes.len()), (67, 10), "67 of 1,000,012 bytes are 64 MiB: {body}");
    for outcome in &outcomes[7..] {
        assert_eq!(outcome["ErrorCode"], "ProvisionedThroughputExceededException");
        assert!(outcome["ErrorMessage"].as_str().unwrap().contains("retention_bytes"), "{body}");
    }
    let got = call(&world, "PutRecord", &put(large.as_bytes(), "k")).await;
    assert_refused(&got, 400, "ProvisionedThroughputExceededException", "after a pause");
    let sized = event("u", "i1", "view", 0).replacen('{', &format!(r#"{{"note":"{large}","#), 1);
    let got = world.post("/events", sized).await;
    assert_eq!((got.status, got.json()["code"].as_str()), (StatusCode::SERVICE_UNAVAILABLE, Some("busy")));
    assert!(got.headers.contains_key("retry-after"));
    // What next to nothing would be taken of is refused as a whole, unread: nobody looked what it is.
    let got = raw(&world, "PutRecords", "application/x-amz-json-1.1", "no json ".repeat(1 << 20)).await;
    assert_refused(&got, 400, "ProvisionedThroughputExceededException", "retention_bytes");
    assert_eq!(world.get("/healthz").await.status, StatusCode::OK);
    let room = world.get("/status").await.json()["logRoomBytes"].as_u64().unwrap();
    assert!(
        room < 1_000_000 && world.get("/metrics").await.text().contains(&format!("anabranch_log_room_bytes {room}"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blocked_stream_takes_nothing_and_says_why() {
    let world = World::new(settings());
    world.app.stream().shared().set_blocked("test", Some("the test says so".to_owned()));
    let records = json!({ "StreamName": "clicks", "Records": [record("{}", "a"), record("{}", "b")] });
    let body = call(&world, "PutRecords", &records).await.json();
    assert_eq!(body["FailedRecordCount"], 2);
    for outcome in body["Records"].as_array().unwrap() {
        assert_eq!(outcome["ErrorCode"], "InternalFailure");
        assert!(outcome["ErrorMessage"].as_str().unwrap().contains("the test says so"));
    }
    let got = call(&world, "PutRecord", &put(b"{}", "a")).await;
    assert_refused(&got, 500, "InternalFailure", "the test says so");
    world.app.stream().shared().set_blocked("test", None);
    assert_eq!(call(&world, "PutRecord", &put(b"{}", "a")).await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_limit_is_kept_to_the_byte() {
    let world = World::new(settings());
    let largest = vec![b'x'; (1 << 20) - 1];
    assert_eq!(call(&world, "PutRecord", &put(&largest, "k")).await.status, StatusCode::OK);
    let got = call(&world, "PutRecord", &put(&vec![b'x'; 1 << 20], "k")).await;
    assert_refused(&got, 400, "ValidationException", "'data'");
    // 256 characters of three bytes each are a key; one more is none.
    assert_eq!(call(&world, "PutRecord", &put(b"{}", &"日".repeat(256))).await.status, StatusCode::OK);
    let got = call(&world, "PutRecord", &put(b"{}", &"日".repeat(257))).await;
    assert_refused(&got, 400, "ValidationException", "'partitionKey'");
    let got = call(&world, "PutRecord", &put(b"{}", "")).await;
    assert_refused(&got, 400, "ValidationException", "greater than or equal to 1");
    let many = |count: usize| -> Vec<Value> { (0..count).map(|_| record("{}", "k")).collect() };
    let got = call(&world, "PutRecords", &json!({ "StreamName": "clicks", "Records": many(501) })).await;
    assert_refused(&got, 400, "ValidationException", "'records'");
    let got = call(&world, "PutRecords", &json!({ "StreamName": "clicks", "Records": [] })).await;
    assert_refused(&got, 400, "ValidationException", "'records'");
    let megabyte = "x".repeat((1 << 20) - 1);
    let ten: Vec<Value> = (0..10).map(|_| record(&megabyte, "k")).collect();
    let got = call(&world, "PutRecords", &json!({ "StreamName": "clicks", "Records": ten })).await;
    assert_eq!(got.json()["FailedRecordCount"], 0, "10 MiB are one call");
    let eleven: Vec<Value> = (0..11).map(|_| record(&megabyte, "k")).collect();
    let got = call(&world, "PutRecords", &json!({ "StreamName": "clicks", "Records": eleven })).await;
    assert_refused(&got, 400, "InvalidArgumentException", "bytes a call");
    let got = raw(&world, "PutRecord", "application/x-amz-json-1.1", vec![b' '; (16 << 20) + 1]).await;
    assert_refused(&got, 413, "ValidationException", "16 MiB");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_calls_get_awss_names() {
    let world = World::new(settings());
    for key in ["-1", "+5", "01", "", "x", "٣"] {
        let mut call_body = put(b"{}", "k");
        call_body["ExplicitHashKey"] = key.into();
        let got = call(&world, "PutRecord", &call_body).await;
        assert_refused(&got, 400, "ValidationException", "explicitHashKey");
    }
    let mut too_great = put(b"{}", "k");
    too_great["ExplicitHashKey"] = "340282366920938463463374607431768211456".into();
    let got = call(&world, "PutRecord", &too_great).await;
    assert_refused(&got, 400, "InvalidArgumentException", "2^128");

    let got = call(&world, "PutRecord", &json!({ "StreamName": "other", "Data": "", "PartitionKey": "k" })).await;
    assert_refused(&got, 400, "ResourceNotFoundException", "other");
    let arn = "arn:aws:kinesis:eu-west-1:1:stream/other";
    let both = json!({ "StreamName": "clicks", "StreamARN": arn, "Data": "", "PartitionKey": "k" });
    assert_refused(&call(&world, "PutRecord", &both).await, 400, "ResourceNotFoundException", "other");
    let got = call(&world, "PutRecord", &json!({ "Data": "", "PartitionKey": "k" })).await;
    assert_refused(&got, 400, "InvalidArgumentException", "StreamName");
    let got = call(&world, "PutRecord", &json!({ "StreamName": "clicks", "PartitionKey": "k" })).await;
    assert_refused(&got, 400, "ValidationException", "null");
    let bad = json!({ "StreamName": "clicks", "Data": "*", "PartitionKey": "k" });
    assert_refused(&call(&world, "PutRecord", &bad).await, 400, "SerializationException", "base64");
    let second = json!({ "StreamName": "clicks", "Records": [record("{}", "k"), { "Data": "e30=" }] });
    let got = call(&world, "PutRecords", &second).await;
    assert_refused(&got, 400, "ValidationException", "records.2.member.partitionKey");
    assert_refused(&call(&world, "GetRecords", &json!({})).await, 400, "UnknownOperationException", "GetRecords");
    for body in ["", "[", "[]", "null", "{\"Records\":3}", "\u{0}"] {
        let got = raw(&world, "PutRecords", "application/x-amz-json-1.1", body).await;
        assert!(got.status.is_client_error(), "{body:?}: {}", got.text());
    }
    let got = raw(&world, "PutRecords", "application/x-amz-cbor-1.1", "x").await;
    assert_refused(&got, 415, "UnsupportedMediaTypeException", "AWS_CBOR_DISABLE");
    let got = world.post("/", "{}").await;
    assert_refused(&got, 400, "UnknownOperationException", "/events");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stream_and_its_shards_are_described() {
    let world = World::new(anabranch_stream::StreamSettings { shards: 3, ..settings() });
    let named = json!({ "StreamName": "clicks" });
    let summary = call(&world, "DescribeStreamSummary", &named).await.json();
    assert_eq!(summary["StreamDescriptionSummary"]["StreamStatus"], "ACTIVE");
    assert_eq!(summary["StreamDescriptionSummary"]["OpenShardCount"], 3);

    let mut shards = Vec::new();
    let mut request = json!({ "StreamName": "clicks", "MaxResults": 2 });
    loop {
        let page = call(&world, "ListShards", &request).await.json();
        shards.extend(page["Shards"].as_array().unwrap().clone());
        let Some(token) = page["NextToken"].as_str() else { break };
        request = json!({ "NextToken": token, "MaxResults": 2 });
    }
    assert_eq!(shards.len(), 3);
    let mut expected = 0_u128;
    for (index, shard) in (0_u32..).zip(&shards) {
        let end = |name: &str| shard["HashKeyRange"][name].as_str().unwrap().parse::<u128>().unwrap();
        let (first, last) = (end("StartingHashKey"), end("EndingHashKey"));
        assert_eq!(first, expected, "ranges leave no gap");
        assert_eq!((shard_of(first, 3), shard_of(last, 3)), (index, index), "as records are routed");
        expected = last.wrapping_add(1);
    }
    assert_eq!(expected, 0, "the last range ends at 2^128 - 1");
    let got = call(&world, "ListShards", &json!({ "StreamName": "clicks", "NextToken": "x" })).await;
    assert_refused(&got, 400, "ResourceNotFoundException", "NextToken");
}
