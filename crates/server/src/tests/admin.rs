//! Erasure and backup.

use std::fs::File;

use anabranch_stores::state::State;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use serde_json::{Value, json};

use super::{Got, TOKEN, World, event, settings};

async fn ask(world: &World, path: &str, token: &str, body: &Value) -> Got {
    let request = Request::post(path)
        .header("authorization", format!("Bearer {token}"))
        .body(Body::from(body.to_string()))
        .unwrap();
    world.send(request).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_token_nothing_happens() {
    let world = World::new(settings());
    let path = world.folder.path().join("copy");
    for token in ["", "another", "a toke", "a token2"] {
        let got = ask(&world, "/backup", token, &json!({ "path": path })).await;
        assert_eq!(got.status, StatusCode::UNAUTHORIZED, "{token:?}");
        assert!(got.headers.contains_key("www-authenticate"));
    }
    assert_eq!(world.post("/forget", r#"{"userId":"a"}"#).await.status, StatusCode::UNAUTHORIZED);
    assert!(!path.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forgotten_user_is_gone_and_stays_gone() {
    let world = World::new(settings());
    let clicks = format!("{}\n{}", event("a", "i1", "view", 0), event("b", "i1", "view", 0));
    world.post("/events", clicks.clone()).await;
    let got = ask(&world, "/forget", TOKEN, &json!({ "userId": "a" })).await;
    let answer = got.json();
    assert_eq!(got.status, StatusCode::OK, "{answer}");
    assert_eq!(answer["keys"], json!([{ "userId": "a" }]));
    assert_eq!((answer["histories"].as_u64(), answer["logRecords"].as_u64()), (Some(1), Some(1)), "{answer}");
    assert_eq!(answer["names"][0]["name"].as_str().unwrap().len(), 64);
    assert_eq!(world.get("/history/a").await.json()["entries"], json!([]));
    assert_eq!(world.get("/history/b").await.json()["entries"].as_array().unwrap().len(), 1);
    world.post("/events", clicks).await;
    world.flush().await;
    assert_eq!(world.get("/history/a").await.json()["entries"], json!([]), "a replay brings nothing back");
    for bad in [json!({}), json!({ "userId": "a", "sessionId": "s" }), json!({ "userId": "" }), json!({ "user": "a" })]
    {
        assert_eq!(ask(&world, "/forget", TOKEN, &bad).await.status, StatusCode::BAD_REQUEST, "{bad}");
    }
    world.app.stream().shared().set_blocked("test", Some("no".to_owned()));
    let got = ask(&world, "/forget", TOKEN, &json!({ "userId": "b" })).await;
    assert_eq!(got.status, StatusCode::SERVICE_UNAVAILABLE, "it does not wait for ever");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_appears_whole_and_restores() {
    let world = World::new(settings());
    world.post("/events", event("a", "i1", "view", 0)).await;
    world.flush().await;
    let path = world.folder.path().join("copy");
    let got = ask(&world, "/backup", TOKEN, &json!({ "path": path })).await;
    assert_eq!(got.status, StatusCode::OK, "{}", got.text());
    assert_eq!(got.json()["bytes"].as_u64().unwrap(), path.metadata().unwrap().len());
    assert_eq!(world.folder.path().read_dir().unwrap().count(), 2, "no temporary file stays");
    let restored = world.folder.path().join("restored");
    State::restore(&restored, &|| File::open(&path)).unwrap();
    let state = State::open_existing(&restored).unwrap();
    let types = anabranch_stream::testing::types();
    assert_eq!(state.histories(&types).count(), 1);
    assert_eq!(ask(&world, "/backup", TOKEN, &json!({ "path": path })).await.status, StatusCode::CONFLICT);
    for bad in [json!({ "path": "relative" }), json!({ "path": "/" }), json!({ "path": 1 }), json!({})] {
        assert_eq!(ask(&world, "/backup", TOKEN, &bad).await.status, StatusCode::BAD_REQUEST, "{bad}");
    }
    let nowhere = world.folder.path().join("no folder").join("copy");
    let got = ask(&world, "/backup", TOKEN, &json!({ "path": nowhere })).await;
    assert_eq!(got.status, StatusCode::INTERNAL_SERVER_ERROR);
    let _held = world.app.operating().try_acquire().unwrap();
    let got = ask(&world, "/backup", TOKEN, &json!({ "path": nowhere })).await;
    assert_eq!((got.status, got.json()["code"].as_str()), (StatusCode::CONFLICT, Some("busy")));
}
