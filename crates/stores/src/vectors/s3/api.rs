//! The service's operations, as far as they are used here, and its limits.
//!
//! Names and limits are those of the API of 2025-07-15 and of the user guide's page "Limitations and restrictions".

use std::fmt::Debug;

use serde::{Deserialize, Serialize};

use crate::vectors::Metadata;

/// Vectors of one `PutVectors`.
pub(super) const PUT_VECTORS_MAX: usize = 500;
/// Keys of one `DeleteVectors`.
pub(super) const DELETE_VECTORS_MAX: usize = 500;
/// Keys of one `GetVectors`.
pub(super) const GET_VECTORS_MAX: usize = 100;
/// Vectors on a page of `ListVectors`; the service ends a page earlier at 1 MB.
pub(super) const LIST_VECTORS_MAX: usize = 1000;
/// Segments that a listing can be divided into.
pub(super) const SEGMENTS_MAX: usize = 16;
/// Indexes on a page of `ListIndexes`.
pub(super) const LIST_INDEXES_MAX: usize = 500;
/// Most dimensions of an index.
pub(super) const DIMENSION_MAX: usize = 4096;
/// Bytes of one request (20 MiB).
pub(super) const REQUEST_BYTES_MAX: usize = 20 << 20;
/// Metadata beside one vector. The guide says 40 KB, so the smaller reading counts.
pub(super) const METADATA_BYTES_MAX: usize = 40_000;
/// The part of it that filters see: 2 KB.
pub(super) const FILTERABLE_BYTES_MAX: usize = 2_000;
/// Keys of metadata beside one vector.
pub(super) const METADATA_KEYS_MAX: usize = 50;
/// Bytes of a metadata key.
pub(super) const METADATA_KEY_BYTES_MAX: usize = 63;
/// Characters of an index name.
pub(super) const INDEX_NAME_MAX: usize = 63;

/// What a failed call asks of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApiErrorKind {
    /// Too many requests: the same call later.
    Throttled,
    /// The service is not well, or no answer came; the call may or may not have been applied.
    Unavailable,
    /// The bucket or index is not there.
    NotFound,
    /// The index is there already.
    Conflict,
    /// A quota of the account is reached.
    Quota,
    /// The permissions, the key or the signature do not allow it.
    Denied,
    /// The request is malformed for this index.
    Invalid,
    /// The answer cannot be read.
    Unreadable,
}

/// A call that failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{detail}")]
pub struct ApiError {
    /// What to do about it.
    pub kind: ApiErrorKind,
    /// What the service or the connection said.
    pub detail: String,
}

impl ApiError {
    /// A failure of that kind.
    pub fn new(kind: ApiErrorKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into() }
    }

    /// Whether the same call may succeed a moment later.
    pub fn is_passing(&self) -> bool {
        matches!(self.kind, ApiErrorKind::Throttled | ApiErrorKind::Unavailable)
    }
}

/// An index to be made: float32, cosine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateIndex<'a> {
    /// Its name.
    pub name: &'a str,
    /// Numbers of each vector.
    pub dimension: usize,
    /// Metadata keys that filters do not see.
    pub non_filterable: &'a [&'a str],
}

/// What an index is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IndexInfo {
    /// Numbers of each vector.
    pub dimension: usize,
    /// `cosine` or `euclidean`.
    pub distance_metric: String,
    /// `ENHANCED` if filters are applied before the search, so that its answer is complete; `CLASSIC`, or nothing, else.
    #[serde(default)]
    pub index_mode: Option<String>,
}

/// The numbers of a vector.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VectorData {
    /// One number for each dimension.
    pub float32: Vec<f32>,
}

/// A vector to be put.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PutVector {
    /// Its key.
    pub key: String,
    /// Its numbers.
    pub data: VectorData,
    /// What lies beside it.
    pub metadata: Metadata,
}

/// A vector that came back; its numbers are never asked for, since they are in the metadata.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct StoredVector {
    /// Its key.
    pub key: String,
    /// What lies beside it, if it was asked for.
    #[serde(default)]
    pub metadata: Option<Metadata>,
}

/// A vector found by a query.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct FoundVector {
    /// Its key.
    pub key: String,
    /// Cosine distance by the service's own arithmetic; smaller is nearer. Hits are scored again.
    #[serde(default)]
    pub distance: Option<f32>,
    /// What lies beside it.
    #[serde(default)]
    pub metadata: Option<Metadata>,
}

/// One page of a longer answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T> {
    /// What is on it.
    pub entries: Vec<T>,
    /// Token of the next page; none after the last one.
    pub next: Option<String>,
}

/// A part of a listing that is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Which part, from 0.
    pub index: usize,
    /// Of how many.
    pub count: usize,
}

/// A page of vectors to be listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListVectors<'a> {
    /// The part of the index to list.
    pub segment: Segment,
    /// Whether metadata comes with the keys.
    pub with_metadata: bool,
    /// Token of the page; none for the first.
    pub next: Option<&'a str>,
}

/// A page of a query's answer. Metadata and distances come with the keys.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QueryVectors<'a> {
    /// Vectors wanted on all pages together.
    pub top_k: usize,
    /// The numbers to be near to.
    pub query: &'a [f32],
    /// Condition on metadata in the service's language.
    pub filter: Option<&'a serde_json::Value>,
    /// Token of the page; none for the first.
    pub next: Option<&'a str>,
}

/// The operations of one vector bucket. Every call is one request and is tried once; trying again is the caller's.
pub trait S3VectorsApi: Send + Sync + Debug {
    /// The bucket, for messages.
    fn place(&self) -> String;

    /// Makes an index; [`ApiErrorKind::Conflict`] if it is there.
    fn create_index(&self, index: &CreateIndex<'_>) -> Result<(), ApiError>;

    /// What an index is; [`ApiErrorKind::NotFound`] if it is not there.
    fn get_index(&self, index: &str) -> Result<IndexInfo, ApiError>;

    /// Names of indexes that begin with `prefix` (1–63 characters).
    fn list_indexes(&self, prefix: &str, next: Option<&str>) -> Result<Page<String>, ApiError>;

    /// Removes an index and its vectors.
    fn delete_index(&self, index: &str) -> Result<(), ApiError>;

    /// Adds or replaces 1–500 vectors, all or none.
    fn put_vectors(&self, index: &str, vectors: &[PutVector]) -> Result<(), ApiError>;

    /// Those of 1–100 keys that are there, in any order.
    fn get_vectors(&self, index: &str, keys: &[&str], with_metadata: bool) -> Result<Vec<StoredVector>, ApiError>;

    /// One page of the vectors of a segment, in any order.
    fn list_vectors(&self, index: &str, list: &ListVectors<'_>) -> Result<Page<StoredVector>, ApiError>;

    /// Removes those of 1–500 keys that are there.
    fn delete_vectors(&self, index: &str, keys: &[&str]) -> Result<(), ApiError>;

    /// One page of the nearest vectors, nearest first, approximately.
    fn query_vectors(&self, index: &str, query: &QueryVectors<'_>) -> Result<Page<FoundVector>, ApiError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn throttling_and_silence_pass_and_nothing_else_does() {
        let passing = [ApiErrorKind::Throttled, ApiErrorKind::Unavailable];
        let lasting = [
            ApiErrorKind::NotFound,
            ApiErrorKind::Conflict,
            ApiErrorKind::Quota,
            ApiErrorKind::Denied,
            ApiErrorKind::Invalid,
            ApiErrorKind::Unreadable,
        ];
        assert!(passing.into_iter().all(|kind| ApiError::new(kind, "").is_passing()));
        assert!(!lasting.into_iter().any(|kind| ApiError::new(kind, "").is_passing()));
    }
}
