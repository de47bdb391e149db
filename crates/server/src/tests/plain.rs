//! `POST /events`, what observes the stream, and paths that are not there.

use std::time::Duration;

use anabranch_stores::lake::{Fault, FaultPlan, Operation};
use anabranch_stream::testing;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{World, event, settings};
use crate::events::{EVENTS_MAX, judge};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_an_array_an_envelope_and_lines_say_the_same() {
    let world = World::new(settings());
    let (one, two) = (event("a", "i1", "view", 1), event("a", "i2", "view", 2));
    let pretty = serde_json::to_string_pretty(&serde_json::from_str::<Value>(&one).unwrap()).unwrap();
    let envelope = json!({ "userId": "a", "trackingId": "t", "sessionId": "s", "eventList": [
        { "itemId": "i3", "eventType": "view", "sentAt": 1_700_000_000 },
        { "itemId": "i4", "eventType": "cart", "sentAt": 1_700_000_000 },
    ]});
    for (body, accepted) in [
        (one.clone(), 1),
        (pretty, 1),
        (format!("[{one},{two}]"), 2),
        (envelope.to_string(), 2),
        (format!("{one}\n\n{two}\r\n{envelope}\n"), 4),
    ] {
        let got = world.post("/events", body.clone()).await;
        assert_eq!(got.status, StatusCode::OK, "{body}: {}", got.text());
        assert_eq!(got.json(), json!({ "accepted": accepted, "rejected": [] }), "{body}");
    }
    world.flush().await;
    // Ten events were taken, four are different: the join counts each once.
    assert_eq!(world.lines("recommendations").len(), 4);
    let totals = world.get("/status").await.json()["totals"].clone();
    assert_eq!((totals["accepted"].as_u64(), totals["duplicate"].as_u64()), (Some(10), Some(6)), "{totals}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_event_is_told_by_its_place_and_costs_the_others_nothing() {
    let world = World::new(settings());
    let good = event("a", "i1", "view", 1);
    let long = "x".repeat(257);
    let body = [
        good.as_str(),
        "no json",
        r#"{"itemId":"i1","sentAt":1700000000}"#,
        r#"{"userId":"a","sentAt":1700000000}"#,
        &format!(r#"{{"userId":"{long}","itemId":"i1","sentAt":1700000000}}"#),
        r#"{"userId":"a","itemId":"i1","eventType":"stare","sentAt":1700000000}"#,
        r#"{"userId":"a","itemId":"i1","sentAt":1900000000}"#,
        &event("b", "i1", "view", 1),
    ]
    .join("\n");
    let got = world.post("/events", body).await;
    assert_eq!(got.status, StatusCode::OK);
    let answer = got.json();
    assert_eq!(answer["accepted"], 2);
    let codes: Vec<(u64, &str)> = answer["rejected"]
        .as_array()
        .unwrap()
        .iter()
        .map(|rejected| (rejected["index"].as_u64().unwrap(), rejected["code"].as_str().unwrap()))
        .collect();
    assert_eq!(
        codes,
        [
            (1, "unparsable"),
            (2, "missing-user"),
            (3, "missing-item"),
            (4, "id-too-long"),
            (5, "unknown-event-type"),
            (6, "time-too-new")
        ]
    );
    world.flush().await;
    assert!(world.lines("recommendations").len() == 2 && world.sink_is_clean());
    let got = world.post("/events", "{}").await;
    assert_eq!((got.status, got.json()["accepted"].as_u64()), (StatusCode::BAD_REQUEST, Some(0)));
}

impl World {
    fn sink_is_clean(&self) -> bool {
        use anabranch_stores::lake::ObjectStore as _;
        self.sink.list("dead-letters").unwrap().is_empty()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_much_is_refused_whole() {
    let world = World::new(settings());
    let lines = "{}\n".repeat(EVENTS_MAX + 1);
    assert_eq!(world.post("/events", lines).await.status, StatusCode::PAYLOAD_TOO_LARGE);
    let got = world.post("/events", vec![b' '; (16 << 20) + 1]).await;
    assert_eq!((got.status, got.json()["code"].as_str()), (StatusCode::PAYLOAD_TOO_LARGE, Some("too-large")));
    for empty in ["", " \n\n", "[]"] {
        assert_eq!(world.post("/events", empty).await.status, StatusCode::BAD_REQUEST, "{empty:?}");
    }
    let room = world.app.bodies().available_permits();
    let _held = world.app.bodies().try_acquire_many(room as u32).unwrap();
    let got = world.post("/events", event("a", "i1", "view", 1)).await;
    assert_eq!((got.status, got.json()["code"].as_str()), (StatusCode::SERVICE_UNAVAILABLE, Some("busy")));
    assert!(got.headers.contains_key("retry-after"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_room_for_bodies_comes_back() {
    let world = World::new(settings());
    let before = world.app.bodies().available_permits();
    for body in [event("a", "i1", "view", 1), "no json".to_owned(), String::new()] {
        world.post("/events", body).await;
    }
    assert_eq!(world.app.bodies().available_permits(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_sink_blocks_input_with_its_reason_and_is_survived() {
    let world = World::new(settings());
    world.sink.set_plan(FaultPlan {
        scripted: (0..200).map(|_| (Operation::PutNew, Fault::Full)).collect(),
        ..FaultPlan::default()
    });
    assert_eq!(world.post("/events", event("a", "i1", "view", 1)).await.status, StatusCode::OK);
    // The test's clock stands still, so a flush makes the cut.
    let app = std::sync::Arc::clone(&world.app);
    let flushing = tokio::task::spawn_blocking(move || app.embedded().unwrap().flush());
    let mut health = world.get("/healthz").await;
    for _ in 0..2000 {
        if health.status != StatusCode::OK {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
        health = world.get("/healthz").await;
    }
    assert_eq!(health.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(health.json()["status"], "blocked");
    let got = world.post("/events", event("a", "i2", "view", 2)).await;
    assert_eq!((got.status, got.json()["code"].as_str()), (StatusCode::SERVICE_UNAVAILABLE, Some("blocked")));
    assert!(got.headers.contains_key("retry-after"));
    assert!(world.get("/metrics").await.text().contains("anabranch_blocked 1.0\n"));
    world.sink.set_plan(FaultPlan::default());
    flushing.await.unwrap().unwrap();
    for _ in 0..2000 {
        if world.get("/healthz").await.status == StatusCode::OK {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(world.get("/healthz").await.status, StatusCode::OK);
    assert_eq!(world.post("/events", event("a", "i2", "view", 2)).await.status, StatusCode::OK);
    world.flush().await;
    assert_eq!(world.lines("recommendations").len(), 2, "what was acknowledged is delivered, once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_status_tells_model_and_shards() {
    let world = World::new(settings());
    let status = world.get("/status").await.json();
    assert_eq!(status["status"], "ok");
    assert_eq!(status["model"]["version"], "0123456789abcdef");
    assert_eq!(status["shards"].as_array().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_there_is_told_in_json() {
    let world = World::new(settings());
    for (request, status) in [
        (Request::get("/nowhere"), StatusCode::NOT_FOUND),
        (Request::delete("/events"), StatusCode::METHOD_NOT_ALLOWED),
        (Request::get("/events"), StatusCode::METHOD_NOT_ALLOWED),
        (Request::get("/recommendations/a?n=0"), StatusCode::BAD_REQUEST),
        (Request::get("/recommendations/a?n=501"), StatusCode::BAD_REQUEST),
        (Request::get("/recommendations/a?n=many"), StatusCode::BAD_REQUEST),
        (Request::get("/recommendations/a?hide=some"), StatusCode::BAD_REQUEST),
        (Request::get("/recommendations/a?m=1"), StatusCode::BAD_REQUEST),
        (Request::get("/recommendations/%FF"), StatusCode::BAD_REQUEST),
        (Request::get(format!("/history/{}", "x".repeat(257))), StatusCode::BAD_REQUEST),
        (Request::get("/explain/a/unknown"), StatusCode::NOT_FOUND),
    ] {
        let request = request.body(Body::empty()).unwrap();
        let place = request.uri().to_string();
        let got = world.send(request).await;
        assert_eq!(got.status, status, "{place}");
        assert!(!got.json()["message"].as_str().unwrap().is_empty(), "{place}");
    }
    assert_eq!(world.get("/").await.json()["service"], "anabranch");
}

proptest! {
    /// No body makes the door panic, and every event is counted exactly once.
    #[test]
    fn any_body_is_judged(body in prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200),
        "[\\[\\]{}\",:a-z0-9\\n ]{0,80}".prop_map(String::into_bytes),
        proptest::collection::vec(prop_oneof![
            Just(r#"{"userId":"a","itemId":"b","sentAt":1700000000}"#.to_owned()),
            Just(r#"{"userId":"a","eventList":[{"itemId":"b","sentAt":1700000000},{"itemId":""},[],null]}"#.to_owned()),
            Just(r#"{"eventList":[]}"#.to_owned()),
            Just("[1,2]".to_owned()),
            Just("nul".to_owned()),
        ], 0..6).prop_map(|lines| lines.join("\n").into_bytes()),
    ]) {
        if let Ok((events, rejected)) = judge(&body, &testing::types(), testing::NOW_MS) {
            prop_assert!(!events.is_empty() || !rejected.is_empty());
            prop_assert!(events.iter().all(|event| !event.partition_key.is_empty()));
        }
    }
}
