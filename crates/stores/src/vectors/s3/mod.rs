//! The vector database in Amazon S3 Vectors: buckets of vectors that cost by what is stored and asked.
//!
//! A collection is one index of the service, searched by cosine. Where it is asked for, a second index holds the same
//! vectors with one more dimension, which makes the order of cosines that of inner products (`augment.rs`). Either gives
//! candidates only: their vectors come back bit for bit from metadata, and every hit is scored and its filter checked
//! here, as in every other adapter. Where the index cannot answer, the collection is read whole and scored exactly, which
//! is slow (pages of at most 1 MB) and bounded by [`S3VectorsOptions::exact_scan_max`]: for more hits than one query gives,
//! for inner products without their index, and for a filter that leaves fewer hits than wanted unless the index's mode is
//! ENHANCED, as it is in buckets made since 30 September 2026.
//!
//! Relied on: what was put is seen by all later reads (the service's documentation: writes are strongly consistent), a
//! call of up to 500 vectors is applied whole, and one process at a time writes a collection. The clock that a signature
//! needs is read by `object_store`; nothing else here reads clock, chance or environment.
//!
//! Why no SDK: eight calls of JSON do not pay for a minute of build, and the wheel may not import the `aws` crate. The
//! layers are the operations ([`S3VectorsApi`]), the wire ([`HttpS3Vectors`]) and the decisions ([`S3Vectors`]); the
//! last also run over [`testing::MemoryS3Vectors`], which keeps the service's limits and can fail by a seed.

mod api;
mod augment;
mod conditions;
mod http;
mod indexes;
mod names;
mod options;
mod parallel;
mod record;
mod search;
mod store;
pub mod testing;
#[cfg(test)]
mod tests;

pub use api::{
    ApiError, ApiErrorKind, CreateIndex, FoundVector, IndexInfo, ListVectors, Page, PutVector, QueryVectors,
    S3VectorsApi, Segment, StoredVector, VectorData,
};
pub use http::HttpS3Vectors;
pub use options::S3VectorsOptions;
pub use store::S3Vectors;
