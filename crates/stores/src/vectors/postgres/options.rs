//! Settings of the PostgreSQL adapter.

use std::time::Duration;

/// How to reach a PostgreSQL server with pgvector, and how to use it. Nothing is read from the environment here.
#[derive(Clone)]
pub struct PostgresOptions {
    /// `postgres://user[:password]@host[:port]/database[?sslmode=…]`, special characters percent-encoded; a host that is
    /// a folder (`postgres://user@/database?host=/run/postgresql`) is a local socket.
    ///
    /// `sslmode`: `disable`; `prefer` (the default, as in libpq: encrypted if the server offers it, to whoever answers);
    /// `require`, `verify-ca` and `verify-full` all encrypt and verify certificate and host name.
    pub url: String,
    /// Overrides the URL's user.
    pub user: Option<String>,
    /// Overrides the URL's password.
    pub password: Option<String>,
    /// The authorities that sign the server's certificate, in PEM form, such as the bundle of Amazon RDS; `None` for the
    /// platform's own. With them, `prefer` becomes `verify-full`.
    pub authorities: Option<Vec<u8>>,
    /// Schema that holds all tables: lower-case letters, digits and `_`. Default `anabranch`; made if it is absent.
    pub schema: String,
    /// Names of the collections that get an HNSW index. Default `items`; users are stored only, since user → item is
    /// answered exactly elsewhere.
    pub indexed: Vec<String>,
    /// Up to this many candidates (records, or records left by a filter) are scanned exactly; a collection gets its
    /// index when it grows past it. Default 4,096.
    pub exact_scan_max: u64,
    /// Links of a node in the graph (`m`). Default 16, pgvector's own.
    pub links: u32,
    /// Candidates kept while inserting into the graph. Default 128, at least twice `links`.
    pub ef_construction: u32,
    /// Candidates kept while searching the graph, raised with `k`. Default 128, at most 1,000.
    pub ef_search: u32,
    /// Memory for building an index, in MiB: a graph that fits is built many times faster. Default 256; the server says in
    /// a notice when a graph has outgrown it.
    pub maintenance_memory_mib: u32,
    /// Most connections at once; further calls wait for one. Default 8.
    pub connections_max: usize,
    /// Longest wait for a connection. Default 10 s.
    pub connect_timeout: Duration,
    /// Longest statement of a reading call, enforced by the server. Default 30 s.
    pub read_timeout: Duration,
    /// Longest statement of a writing call, the building of an index included. Default 1 h.
    pub write_timeout: Duration,
}

impl PostgresOptions {
    /// The defaults, for a URL.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            user: None,
            password: None,
            authorities: None,
            schema: "anabranch".to_owned(),
            indexed: vec!["items".to_owned()],
            exact_scan_max: 4096,
            links: 16,
            ef_construction: 128,
            ef_search: 128,
            maintenance_memory_mib: 256,
            connections_max: 8,
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_hours(1),
        }
    }
}

impl std::fmt::Debug for PostgresOptions {
    /// The URL may hold a password, so both stay out of logs.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("PostgresOptions")
            .field("authorities", &self.authorities.as_ref().map(Vec::len))
            .field("schema", &self.schema)
            .field("indexed", &self.indexed)
            .field("exact_scan_max", &self.exact_scan_max)
            .field("links", &self.links)
            .field("ef_construction", &self.ef_construction)
            .field("ef_search", &self.ef_search)
            .field("maintenance_memory_mib", &self.maintenance_memory_mib)
            .field("connections_max", &self.connections_max)
            .field("connect_timeout", &self.connect_timeout)
            .field("read_timeout", &self.read_timeout)
            .field("write_timeout", &self.write_timeout)
            .finish_non_exhaustive()
    }
}
