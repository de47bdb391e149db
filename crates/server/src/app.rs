//! The routes, what handlers share, and serving.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use anabranch_stream::ingest::Reply;
use anabranch_stream::{Appended, IngestError, LiveStream, NewEvent, RunningStream};
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{Method, StatusCode, Uri};
use axum::routing::{get, post};
use axum::serve::Listener;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::reply::{BODIES_KIB_MAX, BODY_BYTES_MAX, Refusal};
use crate::{admin, events, kinesis, metrics, observe, questions};

/// Connections open at once; more wait in the kernel's queue. Each carries one request at a time, so this also bounds
/// the questions that wait for a thread.
const CONNECTIONS_MAX: usize = 1024;
/// How long open requests may take to end after the server was told to stop.
const GRACE: Duration = Duration::from_secs(10);

/// What the handlers share.
#[derive(Debug)]
pub struct App {
    stream: Arc<dyn LiveStream>,
    token: TokenDigest,
    requests: AtomicU64,
    bodies: Arc<Semaphore>,
    operating: Arc<Semaphore>,
}

/// The digest of the admin token: comparing digests takes a time that says nothing about the token.
struct TokenDigest(Option<[u8; 32]>);

impl std::fmt::Debug for TokenDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenDigest")
    }
}

impl App {
    /// Serves `stream`; `POST /forget` and `POST /backup` ask for `admin_token`, and are closed if it is empty.
    pub fn new(stream: Arc<dyn LiveStream>, admin_token: &str) -> Self {
        let token = (!admin_token.is_empty()).then(|| Sha256::digest(admin_token.as_bytes()).into());
        Self {
            stream,
            token: TokenDigest(token),
            requests: AtomicU64::new(0),
            bodies: Arc::new(Semaphore::new(BODIES_KIB_MAX)),
            operating: Arc::new(Semaphore::new(1)),
        }
    }

    /// The stream behind the server.
    pub const fn stream(&self) -> &Arc<dyn LiveStream> {
        &self.stream
    }

    /// The stream's name.
    pub(crate) fn stream_name(&self) -> &str {
        &self.stream.shared().settings.name
    }

    /// The same over the embedded log, for what only that can do.
    pub fn embedded(&self) -> Result<&RunningStream, IngestError> {
        self.stream.embedded().map_err(|source| IngestError::Elsewhere(source.to_owned()))
    }

    pub(crate) const fn bodies(&self) -> &Arc<Semaphore> {
        &self.bodies
    }

    /// One erasure or backup at a time.
    pub(crate) const fn operating(&self) -> &Arc<Semaphore> {
        &self.operating
    }

    pub(crate) fn is_admin(&self, token: &str) -> bool {
        let given: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        self.token.0.is_some_and(|held| held.iter().zip(given).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0)
    }

    /// A new id for a request, in the form that AWS's have. Unique within the process, no secret.
    pub(crate) fn request_id(&self) -> String {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        let now = self.stream.shared().clock.now_ms() as u64;
        format!("{:08x}-{:04x}-4000-8000-{number:012x}", (now >> 16) & 0xffff_ffff, now & 0xffff)
    }

    /// Hands events over and waits for their sync. `room` is held until the events left the queue, even if the
    /// producer went away meanwhile.
    pub(crate) async fn append(
        &self,
        events: Vec<NewEvent>,
        room: OwnedSemaphorePermit,
    ) -> Result<Vec<Appended>, IngestError> {
        let appender = self.embedded()?.appender();
        let (sender, receiver) = oneshot::channel();
        let reply: Reply = Box::new(move |result| {
            drop(room);
            // An error means that the producer went away; its events are in the log all the same.
            drop(sender.send(result));
        });
        appender.submit(events, reply);
        // A reply that is dropped uncalled belonged to an appender that ended.
        receiver.await.unwrap_or(Err(IngestError::Stopping))
    }
}

/// All routes.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/", get(observe::about).post(kinesis::door))
        .route("/events", post(events::door))
        .route("/recommendations", post(questions::personalize))
        .route("/recommendations/{user}", get(questions::recommendations))
        .route("/explain/{user}/{item}", get(questions::explain))
        .route("/history/{user}", get(questions::history))
        .route("/status", get(observe::status))
        .route("/healthz", get(observe::health))
        .route("/metrics", get(metrics::metrics))
        .route("/forget", post(admin::forget))
        .route("/backup", post(admin::backup))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(app)
}

async fn no_such_path(uri: Uri) -> Refusal {
    let message = format!("there is nothing at {}; GET / lists what there is", uri.path());
    Refusal::new(StatusCode::NOT_FOUND, "not-found", message)
}

async fn no_such_method(method: Method, uri: Uri) -> Refusal {
    let message = format!("{} does not take {method}; GET / lists what it takes", uri.path());
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", message)
}

/// Serves `app` on `listener` until `shutdown` is ready, then lets open requests end, for ten seconds at most.
///
/// Requests that did not end by then live on until the caller's runtime ends.
pub async fn serve(
    listener: TcpListener,
    app: Arc<App>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let listener = Bounded { listener, permits: Arc::new(Semaphore::new(CONNECTIONS_MAX)) };
    let (tell, told) = oneshot::channel();
    let server = axum::serve(listener, router(app)).with_graceful_shutdown(async move {
        shutdown.await;
        // Nobody listens any more if the server ended by itself.
        let _ = tell.send(());
    });
    let given_up = async move {
        if told.await.is_ok() {
            tokio::time::sleep(GRACE).await;
        } else {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        result = server => result,
        () = given_up => {
            tracing::warn!("some requests did not end in time; the server stops without them");
            Ok(())
        }
    }
}

/// A listener that accepts when there is room.
struct Bounded {
    listener: TcpListener,
    permits: Arc<Semaphore>,
}

impl Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let permit = Arc::clone(&self.permits).acquire_owned().await.expect("the semaphore is never closed");
        // axum's own accept tells and survives errors such as too many open files.
        let (stream, address) = Listener::accept(&mut self.listener).await;
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection without TCP_NODELAY");
        }
        (Connection { stream, _permit: permit }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection and its permit.
struct Connection {
    stream: TcpStream,
    _permit: OwnedSemaphorePermit,
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
