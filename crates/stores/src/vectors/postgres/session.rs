//! Connections and transactions: a small pool, and one transaction per call of the port.
//!
//! A call's first message is `BEGIN` together with its first question, in one round trip. If a connection from the pool
//! proves dead there, nothing was done yet, and the next one is tried; a fresh connection is the last. A transaction
//! that is not committed is rolled back when its session ends, whatever the reason, and the connection is used again.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::{FutureExt, SinkExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error, Row};

use super::failure;
use super::target::Target;
use crate::own_runtime::{OwnRuntime, Stopped};
use crate::vectors::VectorError;

/// A value given to a statement.
#[derive(Debug)]
pub(super) enum Param {
    Float(f64),
    Text(String),
    Bytes(Vec<u8>),
    BytesList(Vec<Vec<u8>>),
    Floats(Vec<f32>),
}

impl Param {
    fn as_sql(&self) -> (&(dyn ToSql + Sync), Type) {
        match self {
            Self::Float(value) => (value, Type::FLOAT8),
            Self::Text(value) => (value, Type::TEXT),
            Self::Bytes(value) => (value, Type::BYTEA),
            Self::BytesList(value) => (value, Type::BYTEA_ARRAY),
            Self::Floats(value) => (value, Type::FLOAT4_ARRAY),
        }
    }
}

/// A statement and its values.
#[derive(Debug)]
pub(super) struct Statement {
    pub(super) sql: String,
    pub(super) params: Vec<Param>,
}

impl Statement {
    pub(super) fn new(sql: impl Into<String>, params: Vec<Param>) -> Self {
        Self { sql: sql.into(), params }
    }

    /// Parsed anew each time, in the same round trip: plans then see the values, and poolers that share connections
    /// between transactions are no trouble.
    async fn rows(&self, client: &Client) -> Result<Vec<Row>, Error> {
        let params: Vec<_> = self.params.iter().map(Param::as_sql).collect();
        client.query_typed(&self.sql, &params).await
    }
}

struct Pool {
    idle: Mutex<Vec<Client>>,
    permits: Arc<Semaphore>,
}

impl Pool {
    fn take(&self) -> Option<Client> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn give(&self, client: Client) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(client);
    }
}

enum OpenFailure {
    Busy,
    TimedOut,
    Connection(Error),
    Statement(Error),
}

/// One database server: its address, its connections, and the threads that serve them.
pub(super) struct Server {
    runtime: OwnRuntime,
    target: Arc<Target>,
    pool: Arc<Pool>,
}

impl Server {
    pub(super) fn new(target: Target, connections_max: usize) -> Result<Self, VectorError> {
        let runtime = OwnRuntime::new("anabranch-postgres").map_err(|error| VectorError::Backend {
            action: "start the threads for",
            place: target.place.clone(),
            detail: error.to_string(),
        })?;
        let permits = Arc::new(Semaphore::new(connections_max.clamp(1, Semaphore::MAX_PERMITS)));
        Ok(Self { runtime, target: Arc::new(target), pool: Arc::new(Pool { idle: Mutex::default(), permits }) })
    }

    pub(super) fn place(&self) -> &str {
        &self.target.place
    }

    /// Begins a transaction with `begin` and asks `first` in it.
    pub(super) fn begin(&self, begin: &str, first: Statement) -> Result<(Session<'_>, Vec<Row>), VectorError> {
        let (pool, target, begin) = (Arc::clone(&self.pool), Arc::clone(&self.target), begin.to_owned());
        let opened = self.runtime.wait(async move { open(&pool, &target, &begin, &first).await });
        let failed =
            |detail: String| VectorError::Backend { action: "connect to", place: self.place().to_owned(), detail };
        match opened.map_err(|Stopped| self.stopped("connect to"))? {
            Ok((client, permit, rows)) => {
                Ok((Session { server: self, client: Some(Arc::new(client)), _permit: permit }, rows))
            }
            Err(OpenFailure::Busy) => Err(failed("all its connections are in use".to_owned())),
            Err(OpenFailure::TimedOut) => Err(failed("it does not answer".to_owned())),
            Err(OpenFailure::Connection(error)) => Err(failure::of_connection(self.place(), &error)),
            Err(OpenFailure::Statement(error)) => Err(failure::of_statement(self.place(), "read", &error)),
        }
    }

    fn stopped(&self, action: &'static str) -> VectorError {
        let detail = "the threads of its client have stopped".to_owned();
        VectorError::Backend { action, place: self.place().to_owned(), detail }
    }
}

async fn open(
    pool: &Pool,
    target: &Target,
    begin: &str,
    first: &Statement,
) -> Result<(Client, OwnedSemaphorePermit, Vec<Row>), OpenFailure> {
    let permit = timeout(target.connect_timeout, Arc::clone(&pool.permits).acquire_owned()).await;
    let permit = permit.map_err(|_| OpenFailure::Busy)?.map_err(|_| OpenFailure::Busy)?;
    while let Some(client) = pool.take() {
        if client.is_closed() {
            continue;
        }
        match start(&client, begin, first).await {
            Ok(rows) => return Ok((client, permit, rows)),
            Err(error) if failure::is_lost(&error) => {}
            Err(error) => return Err(OpenFailure::Statement(error)),
        }
    }
    let connected = timeout(target.connect_timeout, target.config.connect(target.tls.clone())).await;
    let (client, connection) = connected.map_err(|_| OpenFailure::TimedOut)?.map_err(OpenFailure::Connection)?;
    tokio::spawn(async move {
        // Its failure reaches every statement that waits, so nothing is lost here.
        let _ = connection.await;
    });
    match start(&client, begin, first).await {
        Ok(rows) => Ok((client, permit, rows)),
        Err(error) => Err(OpenFailure::Statement(error)),
    }
}

/// Both are sent before the first answer is awaited.
async fn start(client: &Client, begin: &str, first: &Statement) -> Result<Vec<Row>, Error> {
    let (begun, rows) = futures::join!(client.batch_execute(begin), first.rows(client));
    begun?;
    rows
}

/// One transaction on one connection.
pub(super) struct Session<'a> {
    server: &'a Server,
    // Gone only while the session is dropped.
    client: Option<Arc<Client>>,
    _permit: OwnedSemaphorePermit,
}

impl Session<'_> {
    /// Sends plain SQL without values.
    pub(super) fn run(&self, action: &'static str, sql: impl Into<String>) -> Result<(), VectorError> {
        let (client, sql) = (self.client(), sql.into());
        self.wait(action, async move { client.batch_execute(&sql).await })
    }

    pub(super) fn rows(&self, action: &'static str, statement: Statement) -> Result<Vec<Row>, VectorError> {
        let client = self.client();
        self.wait(action, async move { statement.rows(&client).await })
    }

    /// Plain SQL and a statement in one round trip.
    pub(super) fn run_and_rows(
        &self,
        action: &'static str,
        sql: &str,
        statement: Statement,
    ) -> Result<Vec<Row>, VectorError> {
        let (client, sql) = (self.client(), sql.to_owned());
        self.wait(action, async move { start(&client, &sql, &statement).await })
    }

    /// Streams `chunks` into a `COPY … FROM STDIN`.
    pub(super) fn copy(
        &self,
        action: &'static str,
        sql: &str,
        chunks: impl Iterator<Item = Bytes>,
    ) -> Result<(), VectorError> {
        let (client, sql) = (self.client(), sql.to_owned());
        let mut sink = self.wait(action, async move { client.copy_in::<_, Bytes>(&sql).await.map(Box::pin) })?;
        for chunk in chunks {
            sink = self.wait(action, async move {
                sink.send(chunk).await?;
                Ok(sink)
            })?;
        }
        self.wait(action, async move { sink.as_mut().finish().await })?;
        Ok(())
    }

    /// Makes everything since the beginning durable and visible.
    pub(super) fn commit(self) -> Result<(), VectorError> {
        self.run("commit to", "COMMIT")
    }

    pub(super) fn place(&self) -> &str {
        self.server.place()
    }

    fn client(&self) -> Arc<Client> {
        Arc::clone(self.client.as_ref().expect("a session has its client until it is dropped"))
    }

    fn wait<T, F>(&self, action: &'static str, future: F) -> Result<T, VectorError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let done = self.server.runtime.wait(future).map_err(|Stopped| self.server.stopped(action))?;
        done.map_err(|error| failure::of_statement(self.place(), action, &error))
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        // Every statement has been waited for, so this is the only owner; if a panic tells otherwise, the connection
        // is closed with its last owner, which rolls back as well.
        let Some(client) = self.client.take().and_then(Arc::into_inner) else { return };
        if client.is_closed() {
            return;
        }
        // Polled once, the statement is sent; answers come in order, so the next user need not wait for this one.
        // After a commit it does nothing.
        let _ = client.batch_execute("ROLLBACK").now_or_never();
        self.server.pool.give(client);
    }
}
