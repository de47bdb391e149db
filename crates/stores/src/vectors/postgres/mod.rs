//! The vector database on a server: PostgreSQL with pgvector 0.8 or newer, as on Amazon RDS and Aurora.
//!
//! One call is one transaction. A collection of one version is a table of its own, so that a version is dropped at
//! once; tables are named by a number. Vectors lie there as they were given, bit for bit; the HNSW index is on their unit
//! vectors (`l2_normalize`, which pgvector computes with an f64 norm, so that no length overflows). Hits are scored
//! again here, exactly.
//!
//! - An upsert streams binary `COPY`, into the table itself while it is empty, else into a temporary one that is then
//!   merged. The index is built when a collection first passes [`PostgresOptions::exact_scan_max`], over all records at
//!   once, so a large collection should come in one call.
//! - Inner products, small collections, narrow filters and vectors past 2,000 dimensions (pgvector's limit for an index)
//!   are answered by an exact scan in the server, from which about `k` records travel (`search.rs`).
//! - A dropped collection waits for searches under way. A search that comes too late finds nothing and says so.

mod copy;
mod failure;
mod fields;
mod options;
mod schema;
mod search;
mod session;
mod target;
mod tls;

use tokio_postgres::Row;

pub use self::options::PostgresOptions;
use self::session::{Param, Server, Session, Statement};
use self::target::Target;
use super::port::{check_records, check_search};
use super::{Collection, Hit, Search, VectorError, VectorRecord, VectorStore};

/// Most dimensions of an indexed `vector`. `halfvec` would reach 4,000, but at half the digits for the few models past 2,000.
const INDEXED_DIM_MAX: usize = 2000;
/// How often making a collection is tried while others make and drop the same one.
const MAKE_ATTEMPTS: usize = 5;
/// Records of one step of a scan.
const PAGE: usize = 1000;

/// A collection's row.
#[derive(Debug, Clone, Copy)]
struct CollectionInfo {
    /// Number of its table.
    number: i64,
    dim: usize,
    /// Whether it is to have an index once it is large.
    indexed: bool,
    /// Whether it has one.
    graph: bool,
    records: u64,
}

impl CollectionInfo {
    fn table(&self) -> String {
        format!("vectors_{}", self.number)
    }

    /// What the index is on; a search must order by the very same expression.
    fn indexed_expression(&self) -> String {
        format!("(l2_normalize(embedding)::vector({}))", self.dim)
    }
}

/// A vector database on a PostgreSQL server.
pub struct PostgresVectors {
    server: Server,
    options: PostgresOptions,
    begin_read: String,
    begin_write: String,
}

impl std::fmt::Debug for PostgresVectors {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("PostgresVectors")
            .field("place", &self.server.place())
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl PostgresVectors {
    /// Connects, and makes extension, schema and tables if they are absent.
    pub fn open(options: PostgresOptions) -> Result<Self, VectorError> {
        let server = Server::new(Target::new(&options)?, options.connections_max)?;
        let extension_schema = schema::prepare(&server, &options.schema)?;
        let path = format!("{}, \"{}\"", options.schema, extension_schema.replace('"', "\"\""));
        let begin_read = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL search_path = {path}; \
             SET LOCAL statement_timeout = {}; SET LOCAL jit = off",
            options.read_timeout.as_millis().clamp(1, i32::MAX as u128)
        );
        // A writer that falls silent must not hold its locks.
        let begin_write = format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL search_path = {path}; \
             SET LOCAL statement_timeout = {}; SET LOCAL idle_in_transaction_session_timeout = '5min'; \
             SET LOCAL maintenance_work_mem = '{}MB'",
            options.write_timeout.as_millis().clamp(1, i32::MAX as u128),
            options.maintenance_memory_mib.max(1)
        );
        Ok(Self { server, options, begin_read, begin_write })
    }

    /// The server and schema in words, without secrets.
    pub fn place(&self) -> &str {
        self.server.place()
    }

    /// Begins to read and looks the collection up.
    fn reading(&self, collection: Collection<'_>) -> Result<(Session<'_>, Option<CollectionInfo>), VectorError> {
        let (session, rows) = self.server.begin(&self.begin_read, find(collection, ""))?;
        let info = read_info(&session, &rows)?;
        Ok((session, info))
    }

    /// Begins to write and locks the collection's row, if there is one, against other writers.
    fn writing(&self, collection: Collection<'_>) -> Result<(Session<'_>, Option<CollectionInfo>), VectorError> {
        let (session, rows) = self.server.begin(&self.begin_write, find(collection, " FOR UPDATE"))?;
        let info = read_info(&session, &rows)?;
        Ok((session, info))
    }

    /// Makes the collection, or returns the one that another caller has just made.
    fn make(
        &self,
        session: &Session<'_>,
        collection: Collection<'_>,
        dim: usize,
    ) -> Result<CollectionInfo, VectorError> {
        let indexed = self.options.indexed.iter().any(|name| name == collection.name());
        let sql = format!(
            "INSERT INTO collections (name, version, dim, indexed, graph, records) \
             VALUES ($1, $2, {dim}, {indexed}, false, 0) \
             ON CONFLICT DO NOTHING RETURNING number, dim, indexed, graph, records"
        );
        for _ in 0..MAKE_ATTEMPTS {
            let rows = session.rows("add a collection to", Statement::new(sql.clone(), key(collection)))?;
            if let Some(info) = read_info(session, &rows)? {
                let table = format!(
                    "CREATE TABLE {} (id bytea PRIMARY KEY, metadata json NOT NULL, fields jsonb NOT NULL, \
                     embedding vector({dim}) NOT NULL)",
                    info.table()
                );
                session.run("add a collection to", table)?;
                return Ok(info);
            }
            let rows = session.rows("read", find(collection, " FOR UPDATE"))?;
            if let Some(info) = read_info(session, &rows)? {
                return Ok(info);
            }
        }
        Err(VectorError::Backend {
            action: "add a collection to",
            place: self.place().to_owned(),
            detail: "others make and drop it again and again".to_owned(),
        })
    }

    fn write(&self, session: &Session<'_>, info: &CollectionInfo, records: &[VectorRecord]) -> Result<(), VectorError> {
        let table = info.table();
        let fresh = info.records == 0;
        let added = if fresh {
            session.copy("write to", &copy_into(&table), copy::chunks(records))?;
            records.len() as u64
        } else {
            merge(session, &table, records)?
        };
        let total = info.records + added;
        let mut after = format!("UPDATE collections SET records = {total} WHERE number = {};", info.number);
        let build = info.indexed && !info.graph && info.dim <= INDEXED_DIM_MAX && total > self.options.exact_scan_max;
        if build {
            after += &format!(
                "CREATE INDEX {table}_graph ON {table} USING hnsw ({} vector_ip_ops) WITH (m = {}, ef_construction = {}); \
                 CREATE INDEX {table}_fields ON {table} USING gin (fields jsonb_path_ops); \
                 UPDATE collections SET graph = true WHERE number = {};",
                info.indexed_expression(),
                self.options.links,
                self.options.ef_construction,
                info.number
            );
        }
        if build || fresh {
            // The vectors' own statistics would help nothing and take long.
            after += &format!("ANALYZE {table} (id, fields);");
        }
        session.run(if build { "index" } else { "write to" }, after)
    }
}

impl VectorStore for PostgresVectors {
    fn upsert(&self, collection: Collection<'_>, records: &[VectorRecord]) -> Result<(), VectorError> {
        if records.is_empty() {
            return Ok(());
        }
        let (session, known) = self.writing(collection)?;
        let Some(dim) = check_records(records, known.map(|info| info.dim))? else { return Ok(()) };
        let info = match known {
            Some(info) => info,
            None => self.make(&session, collection, dim)?,
        };
        if info.dim != dim {
            check_records(records, Some(info.dim))?;
        }
        self.write(&session, &info, records)?;
        session.commit()
    }

    fn delete(&self, collection: Collection<'_>, ids: &[&str]) -> Result<u64, VectorError> {
        let (session, info) = self.writing(collection)?;
        let Some(info) = info else { return Ok(0) };
        let sql = format!(
            "WITH gone AS (DELETE FROM {} WHERE id = ANY($1) RETURNING 1), \
             changed AS (UPDATE collections SET records = records - (SELECT count(*) FROM gone) WHERE number = {}) \
             SELECT count(*) FROM gone",
            info.table(),
            info.number
        );
        let ids = ids.iter().map(|id| id.as_bytes().to_vec()).collect();
        let rows = session.rows("delete from", Statement::new(sql, vec![Param::BytesList(ids)]))?;
        let removed_count = read_count(&session, &rows)?;
        session.commit()?;
        Ok(removed_count)
    }

    fn get(&self, collection: Collection<'_>, id: &str) -> Result<Option<VectorRecord>, VectorError> {
        let (session, info) = self.reading(collection)?;
        let Some(info) = info else { return Ok(None) };
        let sql = format!("SELECT id, metadata::text, vector_send(embedding) FROM {} WHERE id = $1", info.table());
        let found = session.rows("read", Statement::new(sql, vec![Param::Bytes(id.as_bytes().to_vec())]));
        match found {
            Ok(rows) => rows.first().map(|row| read_record(&session, &info, row)).transpose(),
            Err(error) if failure::is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn search(&self, collection: Collection<'_>, search: &Search<'_>) -> Result<Vec<Hit>, VectorError> {
        let unknown = || VectorError::UnknownCollection {
            name: collection.name().to_owned(),
            version: collection.version().to_owned(),
        };
        let (session, info) = self.reading(collection)?;
        let info = info.ok_or_else(unknown)?;
        check_search(search, info.dim)?;
        let found = search::search_in(&session, &self.options, &info, search);
        found.map_err(|error| if failure::is_gone(&error) { unknown() } else { error })
    }

    fn scan(&self, collection: Collection<'_>, visit: &mut dyn FnMut(VectorRecord)) -> Result<(), VectorError> {
        let (session, info) = self.reading(collection)?;
        let Some(info) = info else { return Ok(()) };
        let cursor = format!(
            "DECLARE records NO SCROLL CURSOR FOR SELECT id, metadata::text, vector_send(embedding) FROM {} ORDER BY id",
            info.table()
        );
        match session.run("read", cursor) {
            Err(error) if failure::is_gone(&error) => return Ok(()),
            other => other?,
        }
        loop {
            let rows = session.rows("read", Statement::new(format!("FETCH {PAGE} FROM records"), vec![]))?;
            for row in &rows {
                visit(read_record(&session, &info, row)?);
            }
            if rows.len() < PAGE {
                return Ok(());
            }
        }
    }

    fn count(&self, collection: Collection<'_>) -> Result<u64, VectorError> {
        let (_, info) = self.reading(collection)?;
        Ok(info.map_or(0, |info| info.records))
    }

    fn versions(&self, name: &str) -> Result<Vec<String>, VectorError> {
        let sql = "SELECT version FROM collections WHERE name = $1 ORDER BY version";
        let statement = Statement::new(sql, vec![Param::Text(name.replace('\0', "\u{fffd}"))]);
        let (session, rows) = self.server.begin(&self.begin_read, statement)?;
        let versions = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>();
        versions.map_err(|_| corrupt(&session, "a version is no text"))
    }

    fn drop_version(&self, collection: Collection<'_>) -> Result<bool, VectorError> {
        let (session, info) = self.writing(collection)?;
        let Some(info) = info else { return Ok(false) };
        let sql = format!(
            "SET LOCAL client_min_messages = warning; DELETE FROM collections WHERE number = {}; DROP TABLE IF EXISTS {}",
            info.number,
            info.table()
        );
        session.run("drop a collection of", sql)?;
        session.commit()?;
        Ok(true)
    }
}

/// Writes records over those of the same ids, and returns how many are new. One that is the same in every bit is left as
/// it lies, so that publishing again costs the index nothing.
fn merge(session: &Session<'_>, table: &str, records: &[VectorRecord]) -> Result<u64, VectorError> {
    session.run("write to", format!("CREATE TEMPORARY TABLE staged (LIKE {table}) ON COMMIT DROP"))?;
    session.copy("write to", &copy_into("staged"), copy::chunks(records))?;
    let known = Statement::new(format!("SELECT count(*) FROM staged JOIN {table} USING (id)"), vec![]);
    let known_count = read_count(session, &session.rows("write to", known)?)?;
    session.run(
        "write to",
        format!(
            "INSERT INTO {table} AS old SELECT * FROM staged ON CONFLICT (id) DO UPDATE \
             SET metadata = excluded.metadata, fields = excluded.fields, embedding = excluded.embedding \
             WHERE old.metadata::text <> excluded.metadata::text \
             OR vector_send(old.embedding) <> vector_send(excluded.embedding)"
        ),
    )?;
    Ok((records.len() as u64).saturating_sub(known_count))
}

fn copy_into(table: &str) -> String {
    format!("COPY {table} (id, metadata, fields, embedding) FROM STDIN (FORMAT binary)")
}

fn find(collection: Collection<'_>, lock: &str) -> Statement {
    let sql =
        format!("SELECT number, dim, indexed, graph, records FROM collections WHERE name = $1 AND version = $2{lock}");
    Statement::new(sql, key(collection))
}

fn key(collection: Collection<'_>) -> Vec<Param> {
    vec![Param::Text(collection.name().to_owned()), Param::Text(collection.version().to_owned())]
}

fn read_info(session: &Session<'_>, rows: &[Row]) -> Result<Option<CollectionInfo>, VectorError> {
    let Some(row) = rows.first() else { return Ok(None) };
    let read = || -> Result<_, tokio_postgres::Error> {
        let (dim, records): (i32, i64) = (row.try_get(1)?, row.try_get(4)?);
        Ok(CollectionInfo {
            number: row.try_get(0)?,
            dim: dim as usize,
            indexed: row.try_get(2)?,
            graph: row.try_get(3)?,
            records: records as u64,
        })
    };
    read().map(Some).map_err(|_| corrupt(session, "a collection's row is malformed"))
}

fn read_count(session: &Session<'_>, rows: &[Row]) -> Result<u64, VectorError> {
    let count: Option<i64> = rows.first().and_then(|row| row.try_get(0).ok());
    count.map(|count| count as u64).ok_or_else(|| corrupt(session, "a count is not a number"))
}

fn read_record(session: &Session<'_>, info: &CollectionInfo, row: &Row) -> Result<VectorRecord, VectorError> {
    let read = || {
        let (id, metadata, bytes): (Vec<u8>, &str, &[u8]) =
            (row.try_get(0).ok()?, row.try_get(1).ok()?, row.try_get(2).ok()?);
        let mut vector = Vec::with_capacity(info.dim);
        copy::read_vector(bytes, info.dim, &mut vector).then_some(())?;
        Some(VectorRecord { id: String::from_utf8(id).ok()?, vector, metadata: serde_json::from_str(metadata).ok()? })
    };
    read().ok_or_else(|| corrupt(session, "a record is malformed"))
}

fn corrupt(session: &Session<'_>, detail: &str) -> VectorError {
    VectorError::Corrupt { place: session.place().to_owned(), detail: detail.to_owned() }
}
