//! What Anabranch keeps, and where: each kind of storage is a port (a trait that states its
//! guarantees), an in-memory twin, the embedded adapter, and one conformance suite for all.
//!
//! - [`backoff`]: waiting between attempts, for whoever calls a service.
//! - [`lake`]: objects under paths, in a folder or in S3; create-only writes are what makes
//!   delivery exactly-once.
//! - [`parquet`]: columns of Parquet files that may be damaged.
//! - [`registry`]: published model snapshots and the numbered pointers that say which is current.
//! - [`vectors`]: embeddings with metadata; similar items by an HNSW index on LMDB, by PostgreSQL with pgvector, by
//!   Amazon S3 Vectors.

pub mod backoff;
pub mod history_file;
pub mod lake;
pub mod parquet;
pub mod registry;
pub mod state;
pub mod vectors;

mod kind;
mod own_runtime;
mod signed;

#[doc(hidden)]
pub mod fuzzing;

pub use kind::ErrorKind;
