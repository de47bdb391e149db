//! The exact twin: a map in memory and a scan. What the index is measured against.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::port::{check_records, check_search};
use super::score::{Scorer, TopK};
use super::{Collection, Hit, Search, VectorError, VectorRecord, VectorStore};

/// Vectors in memory, searched exactly.
#[derive(Debug, Default)]
pub struct ExactVectors {
    collections: RwLock<BTreeMap<(String, String), Vectors>>,
}

type Collections = BTreeMap<(String, String), Vectors>;

#[derive(Debug)]
struct Vectors {
    dim: usize,
    records: BTreeMap<String, VectorRecord>,
}

impl ExactVectors {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn read(&self) -> RwLockReadGuard<'_, Collections> {
        // Every critical section leaves the maps whole, so a poisoned lock holds valid data.
        self.collections.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Collections> {
        self.collections.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(collection: Collection<'_>) -> (String, String) {
    (collection.name().to_owned(), collection.version().to_owned())
}

impl VectorStore for ExactVectors {
    fn upsert(&self, collection: Collection<'_>, records: &[VectorRecord]) -> Result<(), VectorError> {
        let mut collections = self.write();
        let known = collections.get(&key(collection)).map(|vectors| vectors.dim);
        let Some(dim) = check_records(records, known)? else { return Ok(()) };
        let vectors = collections.entry(key(collection)).or_insert_with(|| Vectors { dim, records: BTreeMap::new() });
        for record in records {
            vectors.records.insert(record.id.clone(), record.clone());
        }
        Ok(())
    }

    fn delete(&self, collection: Collection<'_>, ids: &[&str]) -> Result<u64, VectorError> {
        let mut collections = self.write();
        let Some(vectors) = collections.get_mut(&key(collection)) else { return Ok(0) };
        Ok(ids.iter().filter(|id| vectors.records.remove(**id).is_some()).count() as u64)
    }

    fn get(&self, collection: Collection<'_>, id: &str) -> Result<Option<VectorRecord>, VectorError> {
        Ok(self.read().get(&key(collection)).and_then(|vectors| vectors.records.get(id).cloned()))
    }

    fn search(&self, collection: Collection<'_>, search: &Search<'_>) -> Result<Vec<Hit>, VectorError> {
        let collections = self.read();
        let vectors = collections.get(&key(collection)).ok_or_else(|| VectorError::UnknownCollection {
            name: collection.name().to_owned(),
            version: collection.version().to_owned(),
        })?;
        check_search(search, vectors.dim)?;
        let scorer = Scorer::new(search.query, search.metric);
        let mut top = TopK::new(search.k);
        for record in vectors.records.values() {
            if search.filter.is_none_or(|filter| filter.matches(&record.metadata)) {
                top.offer(scorer.score(&record.vector), || record.id.clone());
            }
        }
        Ok(top.into_hits())
    }

    fn scan(&self, collection: Collection<'_>, visit: &mut dyn FnMut(VectorRecord)) -> Result<(), VectorError> {
        if let Some(vectors) = self.read().get(&key(collection)) {
            vectors.records.values().cloned().for_each(visit);
        }
        Ok(())
    }

    fn count(&self, collection: Collection<'_>) -> Result<u64, VectorError> {
        Ok(self.read().get(&key(collection)).map_or(0, |vectors| vectors.records.len() as u64))
    }

    fn versions(&self, name: &str) -> Result<Vec<String>, VectorError> {
        let collections = self.read();
        let of_name = collections.keys().filter(|(found, _)| found == name);
        Ok(of_name.map(|(_, version)| version.clone()).collect())
    }

    fn drop_version(&self, collection: Collection<'_>) -> Result<bool, VectorError> {
        Ok(self.write().remove(&key(collection)).is_some())
    }
}
