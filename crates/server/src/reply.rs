//! What goes wrong, in JSON that says what to do; and request bodies, bounded in size, number and time.

use std::sync::Arc;
use std::time::Duration;

use anabranch_stream::IngestError;
use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;

use crate::app::App;

/// Largest body: a `PutRecords` call of 10 MiB in base64 with its keys.
pub(crate) const BODY_BYTES_MAX: usize = 16 << 20;
/// Bodies held at once, in KiB; decoded they take about as much again. Beyond it producers are told to slow down.
pub(crate) const BODIES_KIB_MAX: usize = 256 << 10;
/// A body that takes longer than this to arrive is given up, so that slow senders cannot hold the room for bodies.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Work on a body larger than this leaves the threads that serve connections.
const INLINE_BYTES_MAX: usize = 64 << 10;
/// Seconds after which a producer that was told to wait may try again.
const RETRY_AFTER_S: u64 = 1;

/// A refused request.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) code: &'static str,
    pub(crate) message: String,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-request", message)
    }

    /// What this process does not do, because its stream reads from elsewhere.
    pub(crate) fn elsewhere(error: &IngestError) -> Self {
        Self::new(StatusCode::CONFLICT, "elsewhere", error.to_string())
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    }

    /// Passing trouble: the same request succeeds later.
    pub(crate) fn unavailable(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(json!({ "code": self.code, "message": self.message }))).into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<PathRejection> for Refusal {
    fn from(rejection: PathRejection) -> Self {
        Self::bad_request(format!("the path is not usable ({rejection}); ids are UTF-8, percent-encoded"))
    }
}

impl From<QueryRejection> for Refusal {
    fn from(rejection: QueryRejection) -> Self {
        Self::bad_request(format!("the query is not usable ({})", rejection.body_text()))
    }
}

/// A body that has arrived, and its share of the room for bodies.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) bytes: Bytes,
    pub(crate) room: OwnedSemaphorePermit,
}

impl FromRequest<Arc<App>> for Taken {
    type Rejection = Refusal;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Refusal> {
        let stated = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        // Without a stated length (chunks) the body counts as the largest.
        let bytes_max: usize = stated.unwrap_or(BODY_BYTES_MAX);
        if bytes_max > BODY_BYTES_MAX {
            return Err(too_large());
        }
        let kib = bytes_max.div_ceil(1 << 10).max(1) as u32;
        let Ok(room) = Arc::clone(app.bodies()).try_acquire_many_owned(kib) else {
            return Err(Refusal::unavailable("busy", "too many requests are being read; send it again after a pause"));
        };
        match tokio::time::timeout(BODY_TIMEOUT, Bytes::from_request(request, app)).await {
            Ok(Ok(bytes)) => Ok(Self { bytes, room }),
            Ok(Err(rejection)) => Err(unread(&rejection)),
            Err(_) => Err(Refusal::new(
                StatusCode::REQUEST_TIMEOUT,
                "timeout",
                format!("the body did not arrive within {} s; send it again", BODY_TIMEOUT.as_secs()),
            )),
        }
    }
}

fn unread(rejection: &BytesRejection) -> Refusal {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        too_large()
    } else {
        Refusal::bad_request(format!("the body could not be read ({rejection})"))
    }
}

fn too_large() -> Refusal {
    Refusal::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "too-large",
        format!("the body has more than {} MiB; send it in several requests", BODY_BYTES_MAX >> 20),
    )
}

/// Runs CPU or disk work away from the threads that serve connections.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        tracing::error!(%error, "a request broke an invariant");
        Refusal::internal("the request broke an invariant of the server; please report it")
    })
}

/// Runs work on a body of `bytes` bytes: here if it is small, else as [`blocking`].
pub(crate) async fn by_size<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refusal> {
    if bytes <= INLINE_BYTES_MAX { Ok(work()) } else { blocking(work).await }
}
