//! The vector database: embeddings with metadata, versioned by the snapshot they come from.
//!
//! The port is [`VectorStore`]; [`ExactVectors`] is its slow and plain twin in memory,
//! [`EmbeddedVectors`] the default on disk (LMDB with an HNSW index by hannoy), [`PostgresVectors`] a
//! server's (pgvector). All score with the same arithmetic, so a hit has the same bits in each; those
//! with a graph may miss a neighbour (recall at 10 is measured by `examples/vector_recall.rs`), and
//! never invent one.
//!
//! Not done here: user → item retrieval. The best items for a user have the largest inner
//! product, which HNSW over this data finds badly (recall .77–.96) and more slowly than a scan, so
//! `models` scores it exactly. Users are stored for lookup and export, without an index.

mod embedded;
mod error;
mod exact;
mod filter;
mod port;
mod postgres;
pub mod s3;
mod score;
mod secret;
mod settings;
pub mod testing;
#[cfg(test)]
mod tests;

pub use embedded::{Access, EmbeddedOptions, EmbeddedVectors};
pub use error::VectorError;
pub use exact::ExactVectors;
pub use filter::{Filter, Scalar};
pub use port::{Collection, Hit, Metadata, Metric, Search, VectorRecord, VectorStore};
pub use postgres::{PostgresOptions, PostgresVectors};
pub use s3::{S3Vectors, S3VectorsOptions};
pub use settings::{PostgresSettings, S3VectorsSettings, VectorKind, VectorPlaces, VectorSettings};
