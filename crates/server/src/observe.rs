//! How the stream fares: for people (`/status`) and for machines that restart it (`/healthz`). For dashboards there is
//! [`metrics`](crate::metrics).

use std::sync::Arc;

use anabranch_stream::ports::Position;
use anabranch_stream::shared::ShardStatus;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde_json::{Value, json};

use crate::app::App;

/// `GET /`: what there is.
pub(crate) async fn about(State(app): State<Arc<App>>) -> Json<Value> {
    Json(json!({
        "service": "anabranch",
        "stream": app.stream().shared().settings.name,
        "routes": {
            "POST /": "Kinesis API, JSON 1.1: PutRecord, PutRecords, DescribeStreamSummary, ListShards",
            "POST /events": "a JSON event, an array, a PutEvents envelope or JSON Lines",
            "GET /recommendations/{user}": "a list; n=1..500, hide=nothing|seen|everything, kind=user|session",
            "POST /recommendations": "a list, as Personalize's GetRecommendations: userId, numResults",
            "GET /explain/{user}/{item}": "why the item has its score; kind=user|session",
            "GET /history/{user}": "what is remembered; kind=user|session",
            "GET /status": "shards, counts, model, latency",
            "GET /healthz": "200 if events are taken, 503 and the reason if not",
            "GET /metrics": "OpenMetrics, for Prometheus",
            "POST /forget": "erase {\"userId\"} or {\"sessionId\"}; admin token",
            "POST /backup": "write a backup to {\"path\"}; admin token",
        },
    }))
}

/// Why the stream takes no events, if it does not.
pub(crate) fn trouble(app: &App) -> Option<(&'static str, String)> {
    if let Some((why, _)) = app.stream().failure() {
        return Some(("failed", why));
    }
    let shared = app.stream().shared();
    if shared.is_stopping() {
        return Some(("stopping", "the stream is stopping".to_owned()));
    }
    shared.blocked().map(|why| ("blocked", why))
}

/// `GET /healthz`.
pub(crate) async fn health(State(app): State<Arc<App>>) -> impl IntoResponse {
    match trouble(&app) {
        None => (StatusCode::OK, Json(json!({ "status": "ok" }))),
        Some((status, reason)) => {
            (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "status": status, "reason": reason })))
        }
    }
}

/// The number of a record of the embedded log; another source's have more digits.
pub(crate) fn number(position: Position) -> Option<u64> {
    u64::try_from(position.number).ok()
}

/// Records in the log that are not processed yet. Kinesis tells a time instead, `behindMs`.
pub(crate) fn lag(status: &ShardStatus) -> Option<u64> {
    // The newest record is known of the log only.
    let newest = number(status.newest).filter(|_| status.behind_ms.is_none())?;
    Some(newest.saturating_sub(number(status.processed)?))
}

/// `GET /status`.
pub(crate) async fn status(State(app): State<Arc<App>>) -> Json<Value> {
    let shared = app.stream().shared();
    let model = shared.model();
    let meta = model.snapshot().meta();
    let latency = shared.latency();
    let now_ms = shared.clock.now_ms();
    let shards: Vec<Value> = shared
        .statuses()
        .into_iter()
        .map(|(shard, status)| {
            let mut value = serde_json::to_value(&status).unwrap_or_default();
            value["shardId"] = shard.to_string().into();
            value["lag"] = lag(&status).into();
            value["iteratorAgeMs"] = status.iterator_age_ms(now_ms).into();
            for (name, position) in
                [("committed", status.committed), ("processed", status.processed), ("newest", status.newest)]
            {
                if let Some(number) = number(position) {
                    value[name] = number.into();
                }
            }
            value
        })
        .collect();
    let (state, reason) = trouble(&app).map_or(("ok", None), |(state, reason)| (state, Some(reason)));
    Json(json!({
        "status": state,
        "reason": reason,
        "blocked": shared.blocked(),
        "stream": {
            "name": shared.settings.name,
            "namespace": shared.namespace,
            "mode": shared.settings.mode,
            "createdMs": app.stream().created_ms(),
            "source": app.stream().embedded().err(),
        },
        "model": {
            "version": model.version(),
            "asOfMs": meta.as_of_ms,
            "ageMs": now_ms.saturating_sub(meta.as_of_ms),
            "items": model.snapshot().item_count(),
            "dim": model.snapshot().dim(),
        },
        "totals": shared.totals(),
        "shards": shards,
        "ingestRoom": ingest_room(&app),
        "logRoomBytes": log_room(&app),
        "latencyUs": {
            "count": latency.count(),
            "p50": latency.quantile_us(0.5),
            "p90": latency.quantile_us(0.9),
            "p99": latency.quantile_us(0.99),
            "p999": latency.quantile_us(0.999),
        },
    }))
}

/// Events that the ingest queue takes, where there is one.
pub(crate) fn ingest_room(app: &App) -> Option<usize> {
    Some(app.embedded().ok()?.appender().room())
}

/// Bytes that the log takes, where there is one.
pub(crate) fn log_room(app: &App) -> Option<u64> {
    Some(app.embedded().ok()?.appender().log_room())
}
