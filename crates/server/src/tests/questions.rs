//! Lists, explanations, histories.

use std::sync::{Arc, LazyLock};

use anabranch_events::{Entry, EventKey, History, HistoryKey, ItemKey};
use anabranch_models::{Hide, Model};
use anabranch_stream::testing;
use axum::http::StatusCode;
use proptest::prelude::*;
use serde_json::json;

use super::{World, event, settings};
use crate::answers;

/// The items that the model's users take together with `i1`: dense indices 1, 5, 9, 13, 17 are ranks of the ids' bytes.
const GROUP: [&str; 5] = ["i1", "i13", "i17", "i3", "i7"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_reacts_to_the_event_before_it() {
    let world = World::new(settings());
    let popular = world.get("/recommendations/a?n=3").await.json();
    assert_eq!(popular["historyEvents"], 0);
    assert!(popular["newestEventMs"].is_null());
    let body = format!("[{},{}]", event("a", "i1", "purchase", 1), event("a", "i3", "view", 2));
    assert_eq!(world.post("/events", body).await.status, StatusCode::OK);
    world.flush().await;
    let ids = |answer: &serde_json::Value| -> Vec<String> {
        answer["items"].as_array().unwrap().iter().map(|item| item["itemId"].as_str().unwrap().to_owned()).collect()
    };
    let everything = world.get("/recommendations/a?n=20&hide=nothing").await.json();
    assert_eq!((everything["userId"].as_str(), everything["historyEvents"].as_u64()), (Some("a"), Some(2)));
    assert_eq!(everything["newestEventMs"], testing::NOW_MS + 2);
    assert_eq!(ids(&everything).len(), 20);
    let listed = ids(&everything);
    assert!(listed[..5].iter().all(|id| GROUP.contains(&id.as_str())), "{listed:?}");
    assert!(!ids(&popular).iter().all(|id| GROUP.contains(&id.as_str())), "{popular}");
    let without_seen = ids(&world.get("/recommendations/a?n=20&hide=seen").await.json());
    assert!(!without_seen.contains(&"i1".to_owned()) && without_seen.contains(&"i3".to_owned()));
    let fresh = ids(&world.get("/recommendations/a?n=20&hide=everything").await.json());
    assert!(!fresh.contains(&"i1".to_owned()) && !fresh.contains(&"i3".to_owned()));

    let asked = json!({ "userId": "a", "numResults": 4, "campaignArn": "arn:…" }).to_string();
    let first = world.post("/recommendations", asked.clone()).await.json();
    assert_eq!(first["itemList"].as_array().unwrap().len(), 4);
    assert_eq!(first["itemList"][0]["itemId"], without_seen[0]);
    assert_eq!(first, world.post("/recommendations", asked).await.json(), "equal questions, equal answers and ids");
    for bad in [json!({}), json!({ "userId": "" }), json!({ "userId": "a", "numResults": 501 }), json!([]), json!(1)] {
        assert_eq!(world.post("/recommendations", bad.to_string()).await.status, StatusCode::BAD_REQUEST, "{bad}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_history_is_told_newest_first_with_its_sessions() {
    let world = World::new(settings());
    let known = json!({ "sessionId": "s", "eventList": [
        { "itemId": "i1", "eventType": "view", "sentAt": 1_699_999_000 },
    ]});
    let login = json!({ "userId": "a/b c", "sessionId": "s", "itemId": "unheard of", "eventType": "purchase",
        "eventValue": 2.5, "sentAt": 1_700_000_000 });
    let got = world.post("/events", format!("{known}\n{login}")).await;
    assert_eq!(got.json()["accepted"], 2, "{}", got.text());
    world.flush().await;
    let history = world.get("/history/a%2Fb%20c").await.json();
    assert_eq!(history["userId"], "a/b c");
    let entries = history["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 2, "the session's events are the user's: {history}");
    assert_eq!(entries[0]["time"], "2023-11-14T22:13:20Z");
    assert_eq!(entries[0]["itemId"], ItemKey::of("unheard of").to_string());
    assert_eq!((entries[0]["eventType"].as_str(), entries[0]["value"].as_f64()), (Some("purchase"), Some(2.5)));
    assert_eq!(entries[1]["itemId"], "i1");
    assert_eq!((history["seenCount"].as_u64(), history["floorMs"].is_null()), (Some(1), true));
    assert_eq!(history["sessions"], json!([{ "sessionId": "s", "newestMs": 1_700_000_000_000_i64 }]));
    assert_eq!(world.get("/history/s?kind=session").await.json()["entries"].as_array().unwrap().len(), 2);
    assert_eq!(world.get("/history/nobody").await.json()["entries"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_explanation_has_the_score_of_the_list() {
    let world = World::new(settings());
    let body = format!("[{},{}]", event("a", "i1", "purchase", 1), event("a", "i5", "view", 2));
    world.post("/events", body).await;
    world.flush().await;
    let list = world.get("/recommendations/a?n=20&hide=nothing").await.json();
    for item in list["items"].as_array().unwrap() {
        let id = item["itemId"].as_str().unwrap();
        let answer = world.get(&format!("/explain/a/{id}")).await.json();
        assert_eq!(answer["score"], item["score"], "{id}");
        let parts = answer["parts"].as_array().unwrap();
        let sum: f64 = parts.iter().map(|part| part["contribution"].as_f64().unwrap()).sum();
        assert!((sum - item["score"].as_f64().unwrap()).abs() <= 1e-5, "{answer}");
    }
}

/// Trained once for all cases.
static MODEL: LazyLock<Arc<Model>> = LazyLock::new(testing::model);

proptest! {
    /// The parts of any score sum to it within 1e-5, for any history.
    #[test]
    fn parts_sum_to_the_score(
        raw in proptest::collection::vec((0_u32..24, 0_u8..5, 0_i64..1_000_000_000), 0..30),
        item in 0_u32..20,
    ) {
        let (types, model) = (testing::types(), &*MODEL);
        let entries: Vec<Entry> = (0_u64..).zip(raw).map(|(i, (item, kind, age))| Entry {
            time_ms: testing::NOW_MS - age,
            event: EventKey(i),
            item: ItemKey::of(&format!("i{item}")),
            value: None,
            kind,
        }).collect();
        let history = History::from_entries(entries, &types);
        let key = HistoryKey::User("u".into());
        let id = format!("i{item}");
        let answer = answers::explain(model, &key, &history, &id).unwrap();
        let sum: f64 = answer.parts.iter().map(|part| part.contribution).sum();
        prop_assert!((sum - f64::from(answer.score)).abs() <= 1e-5);
        let list = answers::recommend(model, &key, &history, 20, Hide::Nothing).unwrap();
        let listed = list.items.iter().find(|listed| listed.item_id == id).unwrap();
        prop_assert_eq!(listed.score.to_bits(), answer.score.to_bits());
        let told = answers::history(&types, Some(model.snapshot()), &key, &history);
        prop_assert_eq!(told.entries.len(), history.len());
        prop_assert!(told.entries.windows(2).all(|pair| pair[0].time_ms >= pair[1].time_ms));
    }
}
