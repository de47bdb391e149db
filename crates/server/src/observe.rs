//! How the stream fares: for people (`/status`), for machines that restart it (`/healthz`), for dashboards (`/metrics`).

use std::fmt::Write as _;
use std::sync::Arc;

use anabranch_stream::ports::Position;
use anabranch_stream::shared::ShardStatus;
use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use serde_json::{Value, json};

use crate::app::App;

/// The quantiles of the time from receipt to readable list.
const QUANTILES: [(f64, &str); 4] = [(0.5, "0.5"), (0.9, "0.9"), (0.99, "0.99"), (0.999, "0.999")];

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
            "GET /metrics": "Prometheus metrics",
            "POST /forget": "erase {\"userId\"} or {\"sessionId\"}; admin token",
            "POST /backup": "write a backup to {\"path\"}; admin token",
        },
    }))
}

/// Why the stream takes no events, if it does not.
fn trouble(app: &App) -> Option<(&'static str, String)> {
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
fn number(position: Position) -> Option<u64> {
    u64::try_from(position.number).ok()
}

/// Records in the log that are not processed yet. Kinesis tells a time instead, `behindMs`.
fn lag(status: &ShardStatus) -> Option<u64> {
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
    let shards: Vec<Value> = shared
        .statuses()
        .into_iter()
        .map(|(shard, status)| {
            let mut value = serde_json::to_value(&status).unwrap_or_default();
            value["shardId"] = shard.to_string().into();
            value["lag"] = lag(&status).into();
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
            "ageMs": shared.clock.now_ms().saturating_sub(meta.as_of_ms),
            "items": model.snapshot().item_count(),
            "dim": model.snapshot().dim(),
        },
        "totals": shared.totals(),
        "shards": shards,
        "ingestRoom": ingest_room(&app),
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
fn ingest_room(app: &App) -> Option<usize> {
    Some(app.embedded().ok()?.appender().room())
}

/// `GET /metrics`, in Prometheus's text format 0.0.4.
pub(crate) async fn metrics(State(app): State<Arc<App>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], render(&app))
}

fn render(app: &App) -> String {
    let shared = app.stream().shared();
    let totals = shared.totals();
    let mut page = Page::default();
    for (name, help, value) in [
        ("records_total", "Log records covered by committed cuts.", totals.records),
        ("records_erased_total", "Records whose content was erased before they were processed.", totals.erased),
        ("events_accepted_total", "Valid events in committed cuts.", totals.accepted),
        ("lists_delivered_total", "Lists delivered.", totals.delivered),
        ("events_superseded_total", "Events followed by another of their user in their cut.", totals.superseded),
        ("events_duplicate_total", "Events that their history held already.", totals.duplicate),
        ("events_late_total", "Events older than their history can hold.", totals.late),
        ("events_rejected_total", "Events that went to the dead letters.", totals.rejected),
    ] {
        page.family(name, "counter", help);
        page.sample(name, "", value as f64);
    }
    let statuses = shared.statuses();
    let mut per_shard = |name: &str, kind: &str, help: &str, value: &dyn Fn(&ShardStatus) -> Option<f64>| {
        let mut samples = statuses.iter().filter_map(|(shard, status)| Some((shard, value(status)?))).peekable();
        if samples.peek().is_some() {
            page.family(name, kind, help);
        }
        for (shard, value) in samples {
            page.sample(name, &format!("{{shard=\"{shard}\"}}"), value);
        }
    };
    per_shard("lag_records", "gauge", "Records in the log that are not processed yet.", &|status| {
        lag(status).map(|lag| lag as f64)
    });
    per_shard("behind_seconds", "gauge", "How far reading is behind the newest record.", &|status| {
        status.behind_ms.map(|ms| ms as f64 / 1e3)
    });
    per_shard("uncommitted_records", "gauge", "Records processed but not delivered yet.", &|status| {
        Some(number(status.processed)?.saturating_sub(number(status.committed)?) as f64)
    });
    per_shard("objects_total", "counter", "Objects written.", &|status| Some(status.objects as f64));
    per_shard("stalled", "gauge", "1 while the shard waits for its sink or its state.", &|status| {
        Some(f64::from(u8::from(status.stalled.is_some())))
    });

    let notices = shared.notices();
    page.family("notifications_total", "counter", "What became of notices: queued, sent, retried, dead.");
    for (outcome, value) in
        [("queued", notices.queued), ("sent", notices.sent), ("retried", notices.retried), ("dead", notices.dead)]
    {
        page.sample("notifications_total", &format!("{{outcome=\"{outcome}\"}}"), value as f64);
    }
    page.family("notifications_dropped_total", "counter", "Notices that were decided against, by reason.");
    for (reason, value) in &notices.dropped {
        page.sample("notifications_dropped_total", &format!("{{reason=\"{reason}\"}}"), *value as f64);
    }

    let latency = shared.latency();
    page.family("latency_seconds", "summary", "Time from an event's receipt to its list being readable.");
    for (q, label) in QUANTILES {
        page.sample("latency_seconds", &format!("{{quantile=\"{label}\"}}"), latency.quantile_us(q) as f64 / 1e6);
    }
    page.sample("latency_seconds_sum", "", latency.sum_us() as f64 / 1e6);
    page.sample("latency_seconds_count", "", latency.count() as f64);

    let model = shared.model();
    let age_ms = shared.clock.now_ms().saturating_sub(model.snapshot().meta().as_of_ms);
    page.family("snapshot_age_seconds", "gauge", "Age of the newest event that the model was trained on.");
    page.sample("snapshot_age_seconds", "", age_ms as f64 / 1e3);
    page.family("snapshot_info", "gauge", "The model that serves, in its label.");
    page.sample("snapshot_info", &format!("{{version=\"{}\"}}", escaped(model.version())), 1.0);
    if let Some(room) = ingest_room(app) {
        page.family(
            "ingest_room_events",
            "gauge",
            "Events that the ingest queue takes before producers are slowed down.",
        );
        page.sample("ingest_room_events", "", room as f64);
    }
    page.family("blocked", "gauge", "1 while the stream takes no events; /healthz says why.");
    page.sample("blocked", "", f64::from(u8::from(trouble(app).is_some())));
    page.text
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Prometheus text under construction.
#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        writeln!(self.text, "# HELP anabranch_{name} {help}\n# TYPE anabranch_{name} {kind}")
            .expect("writing into memory does not fail");
    }

    fn sample(&mut self, name: &str, labels: &str, value: f64) {
        writeln!(self.text, "anabranch_{name}{labels} {value}").expect("writing into memory does not fail");
    }
}
