//! The service in memory, for tests: its limits, its query by brute force, and faults by a seed.
//!
//! What the user guide leaves open is answered in the way that is hardest on a caller: an operator on a value it is not
//! defined for is false, a listing and a query come in small pages, and a filtered query of an index that does not filter
//! first may end early.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64;

use super::api::{
    ApiError, ApiErrorKind, CreateIndex, DELETE_VECTORS_MAX, DIMENSION_MAX, FILTERABLE_BYTES_MAX, FoundVector,
    GET_VECTORS_MAX, INDEX_NAME_MAX, IndexInfo, ListVectors, METADATA_BYTES_MAX, METADATA_KEY_BYTES_MAX,
    METADATA_KEYS_MAX, PUT_VECTORS_MAX, Page, PutVector, QueryVectors, REQUEST_BYTES_MAX, S3VectorsApi, SEGMENTS_MAX,
    StoredVector,
};
use crate::backoff::{Jitter, Pause};
use crate::vectors::Metadata;

/// Most vectors of one query.
const TOP_K_MAX: usize = 100;
/// Vectors on a page of a query or of a listing: small, so that tests turn pages.
const PAGE: usize = 7;
const KEY_BYTES_MAX: usize = 1024;

/// How the service in memory behaves.
#[derive(Debug, Clone, Copy, Default)]
pub struct Behaviour {
    /// Calls of a thousand that fail: throttled, or unavailable before or after they were applied, each a third.
    pub failures_per_mille: u64,
    /// Decides which.
    pub seed: u64,
    /// Whether indexes filter before they search. If not, a filtered query sees only the nearest vectors.
    pub filters_first: bool,
    /// Distances are off by up to this, so that the order of candidates is only about right.
    pub distance_error: f32,
}

/// Amazon S3 Vectors in memory, one bucket.
#[derive(Debug)]
pub struct MemoryS3Vectors {
    behaviour: Behaviour,
    chance: Jitter,
    indexes: Mutex<BTreeMap<String, Index>>,
}

#[derive(Debug)]
struct Index {
    dimension: usize,
    non_filterable: Vec<String>,
    vectors: BTreeMap<String, (Vec<f32>, Metadata)>,
}

/// Lets no time pass.
#[derive(Debug)]
pub struct NoPause;

impl Pause for NoPause {
    fn pause(&self, _ms: u64) {}
}

impl MemoryS3Vectors {
    /// An empty bucket.
    pub fn new(behaviour: Behaviour) -> Self {
        Self { behaviour, chance: Jitter::new(behaviour.seed), indexes: Mutex::default() }
    }

    /// Names of all indexes.
    pub fn index_names(&self) -> Vec<String> {
        self.indexes().keys().cloned().collect()
    }

    fn indexes(&self) -> MutexGuard<'_, BTreeMap<String, Index>> {
        self.indexes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies a call, unless chance lets it fail before or, with its effect, after.
    fn call<R>(&self, apply: impl FnOnce(&mut BTreeMap<String, Index>) -> Result<R, ApiError>) -> Result<R, ApiError> {
        let fault = self.chance.below(3000);
        if fault >= 3 * self.behaviour.failures_per_mille {
            return apply(&mut self.indexes());
        }
        if fault.is_multiple_of(3) {
            return Err(ApiError::new(ApiErrorKind::Throttled, "too many requests"));
        }
        if fault % 3 == 1 {
            return Err(ApiError::new(ApiErrorKind::Unavailable, "not applied"));
        }
        apply(&mut self.indexes())?;
        Err(ApiError::new(ApiErrorKind::Unavailable, "applied, and no answer came"))
    }

    fn nearest(&self, index: &Index, query: &QueryVectors<'_>) -> Result<Vec<FoundVector>, ApiError> {
        let length = |vector: &[f32]| vector.iter().map(|value| value * value).sum::<f32>().sqrt();
        let mut found: Vec<(f32, &String, &Metadata)> = index
            .vectors
            .iter()
            .map(|(key, (vector, metadata))| {
                let product: f32 = vector.iter().zip(query.query).map(|(a, b)| a * b).sum();
                // Equal for equal keys, so that pages of one query agree.
                let noise = (xxh3_64(key.as_bytes()) % 2001) as f32 / 1000.0 - 1.0;
                let exact = 1.0 - product / (length(vector) * length(query.query));
                (exact + noise * self.behaviour.distance_error, key, metadata)
            })
            .collect();
        found.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(b.1)));
        if query.filter.is_some() && !self.behaviour.filters_first {
            found.truncate(2 * query.top_k);
        }
        let non_filterable: Vec<&str> = index.non_filterable.iter().map(String::as_str).collect();
        let mut answer = Vec::new();
        for (distance, key, metadata) in found {
            let wanted = match query.filter {
                Some(filter) => holds(filter, metadata, &non_filterable).map_err(invalid)?,
                None => true,
            };
            if wanted && answer.len() < query.top_k {
                let metadata = Some(metadata.clone());
                answer.push(FoundVector { key: key.clone(), distance: Some(distance), metadata });
            }
        }
        Ok(answer)
    }
}

fn invalid(detail: impl Into<String>) -> ApiError {
    ApiError::new(ApiErrorKind::Invalid, detail)
}

fn known<'a>(indexes: &'a mut BTreeMap<String, Index>, name: &str) -> Result<&'a mut Index, ApiError> {
    indexes.get_mut(name).ok_or_else(|| ApiError::new(ApiErrorKind::NotFound, "the index could not be found"))
}

/// The page of `entries` that begins at the token, which is a number.
fn page<T>(entries: Vec<T>, next: Option<&str>) -> Result<Page<T>, ApiError> {
    let start: usize = next.map_or(Ok(0), str::parse).map_err(|_| invalid("the token is not ours"))?;
    let total = entries.len();
    let entries = entries.into_iter().skip(start).take(PAGE).collect();
    Ok(Page { entries, next: (start + PAGE < total).then(|| (start + PAGE).to_string()) })
}

/// Whether a filter of the service's language holds of metadata, in its strictest sense; the error says why the service
/// would refuse it.
pub fn holds(filter: &Value, metadata: &Metadata, non_filterable: &[&str]) -> Result<bool, String> {
    let Value::Object(entries) = filter else { return Err(format!("{filter} is no filter")) };
    if entries.is_empty() {
        return Err("a filter is empty".to_owned());
    }
    let mut all = true;
    for (key, wanted) in entries {
        all &= match key.as_str() {
            "$and" | "$or" => {
                let Some(filters) = wanted.as_array().filter(|filters| !filters.is_empty()) else {
                    return Err(format!("{key} needs a list of filters"));
                };
                let held = filters
                    .iter()
                    .map(|filter| holds(filter, metadata, non_filterable))
                    .collect::<Result<Vec<bool>, String>>()?;
                if key == "$and" { held.iter().all(|held| *held) } else { held.iter().any(|held| *held) }
            }
            key if key.starts_with('$') => return Err(format!("{key} is no operator here")),
            key if non_filterable.contains(&key) => return Err(format!("{key} is not filterable")),
            key => field_holds(metadata.get(key), wanted)?,
        };
    }
    Ok(all)
}

fn field_holds(found: Option<&Value>, wanted: &Value) -> Result<bool, String> {
    let equal = |wanted: &Value| match found {
        Some(Value::Array(values)) => values.contains(wanted),
        Some(found) => found == wanted,
        None => false,
    };
    let Value::Object(operators) = wanted else { return Ok(equal(wanted)) };
    let mut all = !operators.is_empty();
    for (operator, wanted) in operators {
        let number = || wanted.as_f64().ok_or_else(|| format!("{operator} needs a number"));
        let compared = |holds: fn(&f64, &f64) -> bool, bound: f64| {
            found.filter(|found| found.is_number()).and_then(Value::as_f64).is_some_and(|found| holds(&found, &bound))
        };
        all &= match operator.as_str() {
            "$eq" if wanted.is_array() || wanted.is_object() || wanted.is_null() => {
                return Err("$eq needs a text, number or boolean".to_owned());
            }
            "$eq" => equal(wanted),
            "$gte" => compared(f64::ge, number()?),
            "$lte" => compared(f64::le, number()?),
            "$exists" => wanted.as_bool().ok_or("$exists needs a boolean")? == found.is_some(),
            other => return Err(format!("{other} is not what the adapter sends")),
        };
    }
    Ok(all)
}

fn check_put(index: &Index, vector: &PutVector) -> Result<(), ApiError> {
    let key = &vector.key;
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        return Err(invalid("a key has 1 to 1,024 characters"));
    }
    let numbers = &vector.data.float32;
    if numbers.len() != index.dimension || !numbers.iter().all(|number| number.is_finite()) {
        return Err(invalid(format!("vector {key:?} is not {} finite numbers", index.dimension)));
    }
    if numbers.iter().all(|number| *number == 0.0) {
        return Err(invalid(format!("vector {key:?} is zero")));
    }
    let hidden = |name: &String| index.non_filterable.contains(name);
    let (mut bytes, mut filterable) = (0, Metadata::new());
    for (name, value) in &vector.metadata {
        let plain = |value: &Value| value.is_string() || value.is_number() || value.is_boolean();
        let list = value.as_array().is_some_and(|values| !values.is_empty() && values.iter().all(plain));
        if !(plain(value) || list) || name.is_empty() || name.len() > METADATA_KEY_BYTES_MAX || name.starts_with('$') {
            return Err(invalid(format!("metadata {name:?} of vector {key:?} is not allowed")));
        }
        bytes += name.len() + value.as_str().map_or_else(|| value.to_string().len(), str::len);
        if !hidden(name) {
            filterable.insert(name.clone(), value.clone());
        }
    }
    let filterable_bytes = Value::Object(filterable).to_string().len();
    let too_much = bytes > METADATA_BYTES_MAX
        || filterable_bytes > FILTERABLE_BYTES_MAX
        || vector.metadata.len() > METADATA_KEYS_MAX;
    if too_much { Err(invalid(format!("metadata of vector {key:?} is too large"))) } else { Ok(()) }
}

impl S3VectorsApi for MemoryS3Vectors {
    fn place(&self) -> String {
        "the vector bucket in memory".to_owned()
    }

    fn create_index(&self, index: &CreateIndex<'_>) -> Result<(), ApiError> {
        self.call(|indexes| {
            let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
            let ends = |end: Option<&u8>| end.is_some_and(u8::is_ascii_alphanumeric);
            let bytes = index.name.as_bytes();
            let named = (3..=INDEX_NAME_MAX).contains(&bytes.len())
                && bytes.iter().all(|byte| plain(*byte))
                && ends(bytes.first())
                && ends(bytes.last());
            if !named || index.dimension == 0 || index.dimension > DIMENSION_MAX || index.non_filterable.len() > 10 {
                return Err(invalid(format!("index {:?} is malformed", index.name)));
            }
            if indexes.contains_key(index.name) {
                return Err(ApiError::new(ApiErrorKind::Conflict, "the index exists"));
            }
            let non_filterable = index.non_filterable.iter().map(|key| (*key).to_owned()).collect();
            let made = Index { dimension: index.dimension, non_filterable, vectors: BTreeMap::new() };
            indexes.insert(index.name.to_owned(), made);
            Ok(())
        })
    }

    fn get_index(&self, index: &str) -> Result<IndexInfo, ApiError> {
        self.call(|indexes| {
            let index_mode = self.behaviour.filters_first.then(|| "ENHANCED".to_owned());
            let dimension = known(indexes, index)?.dimension;
            Ok(IndexInfo { dimension, distance_metric: "cosine".to_owned(), index_mode })
        })
    }

    fn list_indexes(&self, prefix: &str, next: Option<&str>) -> Result<Page<String>, ApiError> {
        self.call(|indexes| {
            if prefix.is_empty() || prefix.len() > INDEX_NAME_MAX {
                return Err(invalid("a prefix has 1 to 63 characters"));
            }
            page(indexes.keys().filter(|name| name.starts_with(prefix)).cloned().collect(), next)
        })
    }

    fn delete_index(&self, index: &str) -> Result<(), ApiError> {
        self.call(|indexes| {
            known(indexes, index)?;
            indexes.remove(index);
            Ok(())
        })
    }

    fn put_vectors(&self, index: &str, vectors: &[PutVector]) -> Result<(), ApiError> {
        self.call(|indexes| {
            let index = known(indexes, index)?;
            let bytes = serde_json::to_vec(vectors).map_err(|error| invalid(error.to_string()))?.len();
            if vectors.is_empty() || vectors.len() > PUT_VECTORS_MAX || bytes > REQUEST_BYTES_MAX {
                return Err(invalid("a put has 1 to 500 vectors in 20 MiB"));
            }
            vectors.iter().try_for_each(|vector| check_put(index, vector))?;
            for vector in vectors {
                index.vectors.insert(vector.key.clone(), (vector.data.float32.clone(), vector.metadata.clone()));
            }
            Ok(())
        })
    }

    fn get_vectors(&self, index: &str, keys: &[&str], with_metadata: bool) -> Result<Vec<StoredVector>, ApiError> {
        self.call(|indexes| {
            let index = known(indexes, index)?;
            if keys.is_empty() || keys.len() > GET_VECTORS_MAX || keys.iter().any(|key| key.is_empty()) {
                return Err(invalid("a get has 1 to 100 keys"));
            }
            let found = keys.iter().filter_map(|key| index.vectors.get_key_value(*key));
            let stored = |(key, (_, metadata)): (&String, &(Vec<f32>, Metadata))| StoredVector {
                key: key.clone(),
                metadata: with_metadata.then(|| metadata.clone()),
            };
            Ok(found.map(stored).collect())
        })
    }

    fn list_vectors(&self, index: &str, list: &ListVectors<'_>) -> Result<Page<StoredVector>, ApiError> {
        self.call(|indexes| {
            let index = known(indexes, index)?;
            let segment = list.segment;
            if segment.count == 0 || segment.count > SEGMENTS_MAX || segment.index >= segment.count {
                return Err(invalid("there are 1 to 16 segments"));
            }
            let here = |key: &str| xxh3_64(key.as_bytes()) % segment.count as u64 == segment.index as u64;
            let found = index.vectors.iter().filter(|(key, _)| here(key)).map(|(key, (_, metadata))| StoredVector {
                key: key.clone(),
                metadata: list.with_metadata.then(|| metadata.clone()),
            });
            page(found.collect(), list.next)
        })
    }

    fn delete_vectors(&self, index: &str, keys: &[&str]) -> Result<(), ApiError> {
        self.call(|indexes| {
            let index = known(indexes, index)?;
            if keys.is_empty() || keys.len() > DELETE_VECTORS_MAX || keys.iter().any(|key| key.is_empty()) {
                return Err(invalid("a delete has 1 to 500 keys"));
            }
            for key in keys {
                index.vectors.remove(*key);
            }
            Ok(())
        })
    }

    fn query_vectors(&self, index: &str, query: &QueryVectors<'_>) -> Result<Page<FoundVector>, ApiError> {
        self.call(|indexes| {
            let index = known(indexes, index)?;
            if query.top_k == 0 || query.top_k > TOP_K_MAX || query.query.len() != index.dimension {
                return Err(invalid("a query wants 1 to 100 vectors of the index's dimension"));
            }
            if query.query.iter().all(|number| *number == 0.0) {
                return Err(invalid("the query is zero"));
            }
            page(self.nearest(index, query)?, query.next)
        })
    }
}
