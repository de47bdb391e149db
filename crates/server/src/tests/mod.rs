//! The router over a running stream with an embedded state and a sink in memory.
#![allow(clippy::unwrap_used)]

mod admin;
mod kinesis;
mod metrics;
mod plain;
mod questions;
mod serving;

use std::sync::Arc;

use anabranch_stores::lake::{FaultPlan, FaultyStore, MemoryStore, ObjectStore};
use anabranch_stream::testing;
use anabranch_stream::{RunningStream, StreamParts, StreamSettings};
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use serde_json::Value;
use tower::ServiceExt as _;

use crate::{App, router};

pub(super) const TOKEN: &str = "a token";

pub(super) struct World {
    pub(super) app: Arc<App>,
    pub(super) sink: Arc<FaultyStore<MemoryStore>>,
    router: Router,
    pub(super) folder: tempfile::TempDir,
}

pub(super) struct Got {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

impl Got {
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

pub(super) fn settings() -> StreamSettings {
    // A full test disk must not decide what these tests see.
    StreamSettings { cut_after_ms: 5, list_length: 5, disk_free_bytes_min: 0, ..StreamSettings::default() }
}

impl World {
    pub(super) fn new(settings: StreamSettings) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = testing::state(&folder.path().join("state"), settings.shards);
        let sink = Arc::new(FaultyStore::new(MemoryStore::new(), FaultPlan::default()));
        let port: Arc<dyn ObjectStore> = Arc::<FaultyStore<MemoryStore>>::clone(&sink);
        let shared = testing::parts(state, port, testing::TestClock::new(), settings);
        let stream = RunningStream::start(StreamParts { shared, models: None, notify: None }).unwrap();
        let app = Arc::new(App::new(Arc::new(stream), TOKEN));
        Self { router: router(Arc::clone(&app)), app, sink, folder }
    }

    pub(super) async fn send(&self, request: Request<Body>) -> Got {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap().to_vec();
        Got { status: parts.status, headers: parts.headers, body }
    }

    pub(super) async fn get(&self, path: &str) -> Got {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    pub(super) async fn post(&self, path: &str, body: impl Into<Body>) -> Got {
        self.send(Request::post(path).body(body.into()).unwrap()).await
    }

    pub(super) async fn flush(&self) {
        let app = Arc::clone(&self.app);
        tokio::task::spawn_blocking(move || app.embedded().unwrap().flush().unwrap()).await.unwrap();
    }

    /// All lines of delivered objects or dead letters.
    pub(super) fn lines(&self, folder: &str) -> Vec<Value> {
        let sink = &*self.sink;
        sink.list(folder)
            .unwrap()
            .iter()
            .flat_map(|meta| {
                let bytes = sink.get(&meta.path).unwrap();
                let (_, lines) = anabranch_stream::object::decode(meta.path.as_str(), &bytes).unwrap();
                let lines: Vec<Value> = lines
                    .split(|&byte| byte == b'\n')
                    .filter(|line| !line.is_empty())
                    .map(|line| serde_json::from_slice(line).unwrap())
                    .collect();
                lines
            })
            .collect()
    }
}

pub(super) fn event(user: &str, item: &str, kind: &str, after_ms: i64) -> String {
    String::from_utf8(testing::event(user, item, kind, testing::NOW_MS + after_ms)).unwrap()
}
