//! The port over the service's operations: what is written where, and in which order.
//!
//! The collection exists when its main index does, and what its index of inner products covers is read off the names:
//! exactly one is whole, several are a rebuild that has not ended, and then inner products are scanned. So every call
//! that was cut off is made whole by repeating it.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::api::{
    ApiError, ApiErrorKind, DELETE_VECTORS_MAX, DIMENSION_MAX, GET_VECTORS_MAX, ListVectors, PUT_VECTORS_MAX,
    PutVector, REQUEST_BYTES_MAX, S3VectorsApi, SEGMENTS_MAX, Segment, StoredVector, VectorData,
};
use super::augment::{augmented, exponent_above};
use super::http::HttpS3Vectors;
use super::indexes::Shape;
use super::names::{PARTS_MAX, dot_index, main_index, parse, prefix_of};
use super::options::S3VectorsOptions;
use super::parallel::in_parallel;
use super::record::{from_stored, to_stored};
use crate::ErrorKind;
use crate::backoff::{Patience, Pause};
use crate::vectors::port::check_records;
use crate::vectors::score::unit;
use crate::vectors::{Collection, Hit, Search, VectorError, VectorRecord, VectorStore};

/// Longest id that can be stored, so that a longer one need not be asked for.
const ID_BYTES_MAX: usize = 256;
/// Bytes of a number in JSON, its comma included: `-1.1754944e-38,`.
const NUMBER_BYTES_MAX: usize = 16;
/// Bytes of a request beside its vectors, and of a vector beside its numbers, key and metadata.
const ENVELOPE_BYTES: usize = 1024;

/// Collections of vectors in a vector bucket.
///
/// One process at a time may write a collection; any number may read. An upsert of more than 500 records (fewer where
/// they are large) is several requests: if it fails half-way a part may be there, and the same call again makes it
/// whole. [`VectorStore::count`] lists all keys and [`VectorStore::scan`] all keys and then all records, so both cost
/// by the size of the collection; keys are held in memory.
#[derive(Debug)]
pub struct S3Vectors {
    pub(super) api: Arc<dyn S3VectorsApi>,
    pub(super) options: S3VectorsOptions,
    pub(super) patience: Patience,
    /// What searches know of collections. An entry may be out of date; a search that fails on one reads it anew.
    pub(super) shapes: Mutex<HashMap<String, Arc<Shape>>>,
}

/// What an upsert does for inner products.
#[derive(Debug, PartialEq, Eq)]
enum DotPlan {
    /// There is no such index.
    Nothing,
    /// The records belong into the one there is.
    Put(i32),
    /// A norm is above its bound, or a rebuild was cut off: put everything into that one and remove the others.
    Rebuild(i32),
}

/// The decision alone. `dots` ascends; `needed` is the smallest bound for the records of the call.
fn dot_plan(dots: &[i32], needed: i32) -> DotPlan {
    match dots {
        [] => DotPlan::Nothing,
        [only] if needed <= *only => DotPlan::Put(*only),
        [.., largest] => DotPlan::Rebuild(needed.max(*largest)),
    }
}

impl S3Vectors {
    /// A client for the options' bucket, over HTTPS; nothing is sent until the first call.
    pub fn connect(options: S3VectorsOptions) -> Result<Self, VectorError> {
        let api = HttpS3Vectors::new(&options)?;
        let pause = api.pause();
        Ok(Self::over(Arc::new(api), pause, options))
    }

    /// The same over any implementation of the operations; `pause` waits between attempts.
    pub fn over(api: Arc<dyn S3VectorsApi>, pause: Arc<dyn Pause>, options: S3VectorsOptions) -> Self {
        let mut patience = Patience::new(pause, options.jitter_seed);
        patience.attempts_max = options.attempts_max;
        Self { api, options, patience, shapes: Mutex::default() }
    }

    /// One call, tried again while the trouble is passing.
    pub(super) fn call<R>(
        &self,
        action: &'static str,
        call: impl Fn(&dyn S3VectorsApi) -> Result<R, ApiError>,
    ) -> Result<R, VectorError> {
        self.patience.run(ApiError::is_passing, || call(&*self.api)).map_err(|error| self.failed(action, error))
    }

    pub(super) fn failed(&self, action: &'static str, error: ApiError) -> VectorError {
        let kind = match error.kind {
            ApiErrorKind::Throttled | ApiErrorKind::Unavailable | ApiErrorKind::Conflict | ApiErrorKind::Unreadable => {
                ErrorKind::Retry
            }
            ApiErrorKind::NotFound => ErrorKind::NotFound,
            ApiErrorKind::Quota => ErrorKind::Full,
            ApiErrorKind::Denied | ApiErrorKind::Invalid => ErrorKind::FixInput,
        };
        VectorError::Service { action, place: self.api.place(), detail: error.detail, kind }
    }

    pub(super) fn damaged(&self, detail: String) -> VectorError {
        VectorError::Service { action: "read vectors of", place: self.api.place(), detail, kind: ErrorKind::Corrupt }
    }

    /// Puts records into an index, as `place` turns their vectors.
    fn put(
        &self,
        index: &str,
        records: &[VectorRecord],
        place: impl Fn(&[f32]) -> Vec<f32> + Sync,
    ) -> Result<(), VectorError> {
        in_parallel(&requests(records)?, self.options.puts_in_flight, |range| {
            let encode = |record: &VectorRecord| {
                let (metadata, _) = to_stored(record)?;
                let data = VectorData { float32: place(&record.vector) };
                Ok(PutVector { key: record.id.clone(), data, metadata })
            };
            let vectors = records[range.clone()].iter().map(encode).collect::<Result<Vec<_>, VectorError>>()?;
            self.call("put vectors into", |api| api.put_vectors(index, &vectors))
        })?;
        Ok(())
    }

    /// Puts every record into the index of inner products with that bound, and removes the others.
    fn rebuild(&self, shape: &Shape, exponent: i32) -> Result<(), VectorError> {
        let into = dot_index(&shape.main, exponent);
        if !shape.dots.contains(&exponent) {
            self.make_index(&into, shape.dim + 1)?;
        }
        self.each_window(&shape.main, &mut |records| self.put(&into, &records, |vector| augmented(vector, exponent)))?;
        for other in shape.dots.iter().filter(|other| **other != exponent) {
            self.remove_index(&dot_index(&shape.main, *other))?;
        }
        Ok(())
    }

    /// Shows the pages of a whole index, from several threads.
    pub(super) fn each_page(
        &self,
        index: &str,
        with_metadata: bool,
        visit: impl Fn(Vec<StoredVector>) -> Result<(), VectorError> + Sync,
    ) -> Result<(), VectorError> {
        let count = self.options.scan_segments.clamp(1, SEGMENTS_MAX);
        let segments: Vec<Segment> = (0..count).map(|index| Segment { index, count }).collect();
        in_parallel(&segments, count, |segment| {
            let mut next = None;
            loop {
                let list = ListVectors { segment: *segment, with_metadata, next: next.as_deref() };
                let page = self.call("list vectors of", |api| api.list_vectors(index, &list))?;
                visit(page.entries)?;
                next = page.next;
                if next.is_none() {
                    return Ok(());
                }
            }
        })?;
        Ok(())
    }

    /// Shows every record in ascending order of ids, some hundreds at a time.
    fn each_window(
        &self,
        main: &str,
        visit: &mut dyn FnMut(Vec<VectorRecord>) -> Result<(), VectorError>,
    ) -> Result<(), VectorError> {
        let keys = Mutex::new(Vec::new());
        self.each_page(main, false, |page| {
            let mut keys = keys.lock().unwrap_or_else(PoisonError::into_inner);
            keys.extend(page.into_iter().map(|stored| stored.key));
            Ok(())
        })?;
        let mut keys: Vec<String> = keys.into_inner().unwrap_or_else(PoisonError::into_inner);
        keys.sort_unstable();
        keys.dedup();
        let reads = self.options.scan_segments.clamp(1, SEGMENTS_MAX);
        for window in keys.chunks(GET_VECTORS_MAX * reads) {
            let chunks: Vec<&[String]> = window.chunks(GET_VECTORS_MAX).collect();
            let read = |chunk: &&[String]| {
                let keys: Vec<&str> = chunk.iter().map(String::as_str).collect();
                self.call("read vectors of", |api| api.get_vectors(main, &keys, true))
            };
            let found = in_parallel(&chunks, reads, read)?.into_iter().flatten();
            let mut records = found.map(|stored| self.record(stored)).collect::<Result<Vec<_>, _>>()?;
            records.sort_unstable_by(|a, b| a.id.cmp(&b.id));
            visit(records)?;
        }
        Ok(())
    }

    pub(super) fn record(&self, stored: StoredVector) -> Result<VectorRecord, VectorError> {
        from_stored(stored.key, stored.metadata.as_ref()).map_err(|detail| self.damaged(detail))
    }
}

fn unknown(collection: Collection<'_>) -> VectorError {
    VectorError::UnknownCollection { name: collection.name().to_owned(), version: collection.version().to_owned() }
}

/// The records of each `PutVectors`, by the number and the bytes it may have. Refuses a record that is too large.
fn requests(records: &[VectorRecord]) -> Result<Vec<Range<usize>>, VectorError> {
    let (mut ranges, mut start, mut bytes) = (Vec::new(), 0, ENVELOPE_BYTES);
    for (index, record) in records.iter().enumerate() {
        // In a JSON text each byte of ours is written as two at most: quotes and backslashes.
        let more = NUMBER_BYTES_MAX * (record.vector.len() + 1)
            + 2 * (to_stored(record)?.1 + record.id.len())
            + ENVELOPE_BYTES;
        if index > start && (index - start == PUT_VECTORS_MAX || bytes + more > REQUEST_BYTES_MAX) {
            ranges.push(start..index);
            (start, bytes) = (index, ENVELOPE_BYTES);
        }
        bytes += more;
    }
    if start < records.len() {
        ranges.push(start..records.len());
    }
    Ok(ranges)
}

impl VectorStore for S3Vectors {
    fn upsert(&self, collection: Collection<'_>, records: &[VectorRecord]) -> Result<(), VectorError> {
        // Everything that can be wrong with the call is found before anything is sent.
        let known = self.load(collection)?;
        let Some(dim) = check_records(records, known.as_ref().map(|shape| shape.dim))? else { return Ok(()) };
        let Some(main) = main_index(collection) else {
            let detail = format!(
                "collection {:?} and version {:?} make too long a name: use {PARTS_MAX} characters together, fewer with \
                 capitals, '_' and '.'",
                collection.name(),
                collection.version()
            );
            let (action, place) = ("name an index of", self.api.place());
            return Err(VectorError::Service { action, place, detail, kind: ErrorKind::FixInput });
        };
        requests(records)?;
        let Some(needed) = records.iter().map(|record| exponent_above(&record.vector)).max() else { return Ok(()) };
        let has_dots = known.as_ref().is_some_and(|shape| !shape.dots.is_empty());
        if let (true, Some(first)) = (dim == DIMENSION_MAX, records.first())
            && (has_dots || known.is_none() && self.options.inner_product.iter().any(|name| name == collection.name()))
        {
            let reason = "an index of inner products has room for 4,095 dimensions";
            return Err(VectorError::Refused { id: first.id.clone(), reason });
        }

        let shape = match known {
            Some(shape) => shape,
            None => Arc::new(self.make(collection, main, dim, needed)?),
        };
        self.put(&shape.main, records, unit)?;
        match dot_plan(&shape.dots, needed) {
            DotPlan::Nothing => Ok(()),
            DotPlan::Put(bound) => self.put(&dot_index(&shape.main, bound), records, |vector| augmented(vector, bound)),
            DotPlan::Rebuild(bound) => {
                // Before anything is removed, so that no search of ours asks for what is gone.
                self.forget(&shape.main);
                self.rebuild(&shape, bound)
            }
        }
    }

    fn delete(&self, collection: Collection<'_>, ids: &[&str]) -> Result<u64, VectorError> {
        let Some(shape) = self.load(collection)? else { return Ok(0) };
        let mut ids: Vec<&str> = ids.iter().copied().filter(|id| !id.is_empty() && id.len() <= ID_BYTES_MAX).collect();
        ids.sort_unstable();
        ids.dedup();
        let chunks: Vec<&[&str]> = ids.chunks(GET_VECTORS_MAX).collect();
        let there = in_parallel(&chunks, self.options.scan_segments, |keys| {
            self.call("read vectors of", |api| api.get_vectors(&shape.main, keys, false))
        })?;
        let there: Vec<String> = there.into_iter().flatten().map(|stored| stored.key).collect();
        // The main index last: if a call before it fails, the same call again still counts what was there. All ids go,
        // since a delete that was cut off may have left some beside the main index.
        let beside = shape.dots.iter().map(|bound| dot_index(&shape.main, *bound));
        for index in beside.chain([shape.main.clone()]) {
            let chunks: Vec<&[&str]> = ids.chunks(DELETE_VECTORS_MAX).collect();
            in_parallel(&chunks, self.options.puts_in_flight, |keys| {
                self.call("delete vectors of", |api| api.delete_vectors(&index, keys))
            })?;
        }
        Ok(there.len() as u64)
    }

    fn get(&self, collection: Collection<'_>, id: &str) -> Result<Option<VectorRecord>, VectorError> {
        let Some(main) = main_index(collection).filter(|_| !id.is_empty() && id.len() <= ID_BYTES_MAX) else {
            return Ok(None);
        };
        match self.call("read vectors of", |api| api.get_vectors(&main, &[id], true)) {
            Ok(found) => found.into_iter().next().map(|stored| self.record(stored)).transpose(),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn search(&self, collection: Collection<'_>, search: &Search<'_>) -> Result<Vec<Hit>, VectorError> {
        let remembered = self.cached(collection);
        let answer = remembered.as_ref().map(|shape| self.search_in(shape, search));
        match answer {
            // Perhaps the collection was dropped, made anew or given another index meanwhile.
            Some(Err(error)) if error.kind() != ErrorKind::Retry => {
                let shape = self.load(collection)?.ok_or_else(|| unknown(collection))?;
                if remembered.is_some_and(|remembered| remembered == shape) {
                    return Err(error);
                }
                self.search_in(&shape, search)
            }
            Some(answer) => answer,
            None => {
                let shape = self.load(collection)?.ok_or_else(|| unknown(collection))?;
                self.search_in(&shape, search)
            }
        }
    }

    fn scan(&self, collection: Collection<'_>, visit: &mut dyn FnMut(VectorRecord)) -> Result<(), VectorError> {
        let Some(shape) = self.load(collection)? else { return Ok(()) };
        self.each_window(&shape.main, &mut |records| {
            records.into_iter().for_each(&mut *visit);
            Ok(())
        })
    }

    fn count(&self, collection: Collection<'_>) -> Result<u64, VectorError> {
        let Some(shape) = self.load(collection)? else { return Ok(0) };
        let count = std::sync::atomic::AtomicU64::new(0);
        self.each_page(&shape.main, false, |page| {
            count.fetch_add(page.len() as u64, std::sync::atomic::Ordering::Relaxed);
            Ok(())
        })?;
        Ok(count.into_inner())
    }

    fn versions(&self, name: &str) -> Result<Vec<String>, VectorError> {
        let Some(prefix) = prefix_of(name) else { return Ok(Vec::new()) };
        let indexes = self.list(&prefix)?.into_iter().filter_map(|index| parse(&index));
        let mut versions: Vec<String> =
            indexes.filter(|parsed| parsed.name == name && parsed.dot.is_none()).map(|parsed| parsed.version).collect();
        versions.sort_unstable();
        Ok(versions)
    }

    fn drop_version(&self, collection: Collection<'_>) -> Result<bool, VectorError> {
        let Some(main) = main_index(collection) else { return Ok(false) };
        let was_there = self.load(collection)?.is_some();
        self.forget(&main);
        // The main index first: without it the collection is gone, and what a call that was cut off left beside is
        // removed by the same call again, or by the upsert that makes the collection anew.
        if was_there {
            self.remove_index(&main)?;
        }
        for bound in self.dots(&main)? {
            self.remove_index(&dot_index(&main, bound))?;
        }
        Ok(was_there)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::testing::record;
    use serde_json::json;

    #[test]
    fn one_index_is_used_and_several_are_made_one() {
        assert_eq!(dot_plan(&[], 5), DotPlan::Nothing);
        assert_eq!(dot_plan(&[3], -2), DotPlan::Put(3));
        assert_eq!(dot_plan(&[3], 3), DotPlan::Put(3));
        assert_eq!(dot_plan(&[3], 4), DotPlan::Rebuild(4));
        assert_eq!(dot_plan(&[3, 5], 1), DotPlan::Rebuild(5));
        assert_eq!(dot_plan(&[3, 5], 6), DotPlan::Rebuild(6));
    }

    #[test]
    fn requests_keep_within_number_and_bytes() {
        let small: Vec<_> = (0..1201).map(|index| record(&index.to_string(), &[1.0], json!({}))).collect();
        let ranges = requests(&small).map_err(|error| error.to_string());
        assert_eq!(ranges, Ok(vec![0..500, 500..1000, 1000..1201]));
        assert!(requests(&[]).is_ok_and(|ranges| ranges.is_empty()));

        let large: Vec<_> = (0..400)
            .map(|index| {
                let text = "\"".repeat(4000);
                record(&index.to_string(), &[-1.175_494_4e-38; 4096], json!({"text": text}))
            })
            .collect();
        let ranges = requests(&large).expect("they fit");
        assert!(ranges.len() > 1 && ranges.iter().map(ExactSizeIterator::len).sum::<usize>() == 400);
        for range in ranges {
            let vectors: Vec<PutVector> = large[range]
                .iter()
                .map(|record| PutVector {
                    key: record.id.clone(),
                    data: VectorData { float32: record.vector.clone() },
                    metadata: to_stored(record).expect("it fits").0,
                })
                .collect();
            let bytes = serde_json::to_vec(&vectors).expect("plain data").len();
            assert!(bytes + ENVELOPE_BYTES < REQUEST_BYTES_MAX, "{bytes}");
        }
    }
}
