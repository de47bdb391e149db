//! The port, its records, and the checks that every adapter applies to them.

use std::collections::HashSet;
use std::fmt::Debug;

use super::score::norm;
use super::{Filter, VectorError};

/// Longest id in bytes (the vocabulary's own limit; LMDB keys end at 511).
const ID_BYTES_MAX: usize = 256;
/// Longest collection name or version in bytes.
const NAME_BYTES_MAX: usize = 64;
/// Most dimensions of a vector.
const DIM_MAX: usize = 4096;
/// Most hits of one search.
pub(super) const K_MAX: usize = 10_000;

/// Metadata of a record: a JSON object.
pub type Metadata = serde_json::Map<String, serde_json::Value>;

/// A named set of vectors of one snapshot version, such as `items` of `ba7816bf8f01cfea`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Collection<'a> {
    name: &'a str,
    version: &'a str,
}

impl<'a> Collection<'a> {
    /// Checks both texts: 1–64 ASCII letters, digits, `-`, `_` or `.`.
    pub fn new(name: &'a str, version: &'a str) -> Result<Self, VectorError> {
        for text in [name, version] {
            let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
            if text.is_empty() || text.len() > NAME_BYTES_MAX || !plain {
                return Err(VectorError::BadName { text: text.to_owned() });
            }
        }
        Ok(Self { name, version })
    }

    /// What the vectors are of, such as `items`.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// The snapshot version they come from.
    pub fn version(&self) -> &'a str {
        self.version
    }
}

/// One vector with its id and metadata.
#[derive(Debug, Clone, PartialEq)]
pub struct VectorRecord {
    /// External id, 1–256 bytes.
    pub id: String,
    /// The vector as given: finite, not zero, one number per dimension.
    pub vector: Vec<f32>,
    /// Fields to filter by and to show.
    pub metadata: Metadata,
}

/// How nearness is scored; larger is nearer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Metric {
    /// Cosine of the angle, in [−1, 1]. The one that is indexed.
    #[default]
    Cosine,
    /// Inner product. Always an exact scan.
    Dot,
}

/// One search.
#[derive(Debug, Clone, Copy)]
pub struct Search<'a> {
    /// The query: finite, of the collection's dimension, and for cosine not zero.
    pub query: &'a [f32],
    /// Most hits wanted, at most 10,000.
    pub k: usize,
    /// How to score.
    pub metric: Metric,
    /// Only records that satisfy this.
    pub filter: Option<&'a Filter>,
}

impl<'a> Search<'a> {
    /// The `k` nearest by cosine, unfiltered.
    pub fn cosine(query: &'a [f32], k: usize) -> Self {
        Self { query, k, metric: Metric::Cosine, filter: None }
    }

    /// The same search among the records that satisfy `filter`.
    #[must_use]
    pub fn filtered(self, filter: &'a Filter) -> Self {
        Self { filter: Some(filter), ..self }
    }
}

/// A record found.
#[derive(Debug, Clone, PartialEq)]
pub struct Hit {
    /// The record's id.
    pub id: String,
    /// Its exact score under the search's metric, accumulated in f64.
    pub score: f32,
}

/// A store of vector collections.
///
/// Hits come in one total order: score descending, then id ascending by bytes. An upsert or delete
/// is all or nothing, durable when it returns, and seen whole by searches that begin after it. The
/// first upsert makes a collection and fixes its dimension.
///
/// Where an adapter needs several requests for one call (its type says when), a call that fails half-way may leave a
/// part; the same call again makes it whole, and a version is not used before its upsert has returned.
pub trait VectorStore: Send + Sync + Debug {
    /// Adds or replaces records. If any is bad (zero or non-finite vector, wrong dimension, bad or
    /// repeated id), nothing is written and the error names the id.
    fn upsert(&self, collection: Collection<'_>, records: &[VectorRecord]) -> Result<(), VectorError>;

    /// Removes records and returns how many were there.
    fn delete(&self, collection: Collection<'_>, ids: &[&str]) -> Result<u64, VectorError>;

    /// One record, or `None`.
    fn get(&self, collection: Collection<'_>, id: &str) -> Result<Option<VectorRecord>, VectorError>;

    /// The nearest records. A collection that does not exist is an error; an empty one has no hits.
    fn search(&self, collection: Collection<'_>, search: &Search<'_>) -> Result<Vec<Hit>, VectorError>;

    /// Shows every record in ascending order of ids (for export and exact scoring elsewhere).
    fn scan(&self, collection: Collection<'_>, visit: &mut dyn FnMut(VectorRecord)) -> Result<(), VectorError>;

    /// Number of records; 0 for a collection that does not exist.
    fn count(&self, collection: Collection<'_>) -> Result<u64, VectorError>;

    /// The versions that exist of the collections called `name`, ascending by bytes.
    fn versions(&self, name: &str) -> Result<Vec<String>, VectorError>;

    /// Removes a whole collection; says whether it was there.
    fn drop_version(&self, collection: Collection<'_>) -> Result<bool, VectorError>;
}

/// Checks the records of one upsert against the collection's dimension, if it has one yet, and
/// returns the dimension.
pub(super) fn check_records(records: &[VectorRecord], dim: Option<usize>) -> Result<Option<usize>, VectorError> {
    let mut dim = dim;
    let mut seen = HashSet::with_capacity(records.len());
    for record in records {
        let refuse = |reason| Err(VectorError::Refused { id: record.id.clone(), reason });
        if record.id.is_empty() || record.id.len() > ID_BYTES_MAX {
            return refuse("an id has 1 to 256 bytes");
        }
        if !seen.insert(record.id.as_str()) {
            return refuse("the id appears twice in one call");
        }
        let expected = *dim.get_or_insert(record.vector.len());
        if record.vector.len() != expected {
            return Err(VectorError::Dimension { id: record.id.clone(), expected, found: record.vector.len() });
        }
        if expected == 0 || expected > DIM_MAX {
            return refuse("a vector has 1 to 4,096 dimensions");
        }
        if !record.vector.iter().all(|value| value.is_finite()) {
            return refuse("the vector holds a value that is not finite");
        }
        if norm(&record.vector) == 0.0 {
            return refuse("the vector is zero, which has no direction");
        }
    }
    Ok(dim)
}

/// Checks a search against the collection's dimension.
pub(super) fn check_search(search: &Search<'_>, dim: usize) -> Result<(), VectorError> {
    let refuse = |reason: String| Err(VectorError::BadSearch { reason });
    if search.query.len() != dim {
        return refuse(format!("the query has {} dimensions, the collection {dim}", search.query.len()));
    }
    if !search.query.iter().all(|value| value.is_finite()) {
        return refuse("the query holds a value that is not finite".to_owned());
    }
    if search.metric == Metric::Cosine && norm(search.query) == 0.0 {
        return refuse("the query is zero, which has no direction".to_owned());
    }
    if search.k > K_MAX {
        return refuse(format!("k is {}, at most {K_MAX} are given", search.k));
    }
    match search.filter {
        Some(filter) => filter.check(),
        None => Ok(()),
    }
}
