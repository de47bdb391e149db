//! The in-memory twin: the plainest thing that keeps the port's promises, for tests and for
//! simulations that must be deterministic.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::path::listing_folder;
use super::{LakeError, ObjectMeta, ObjectPath, ObjectStore, PutOutcome};

/// An object store in memory. `modified_ms` counts writes, so that nothing depends on a clock.
#[derive(Debug, Default)]
pub struct MemoryStore {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<ObjectPath, (Bytes, i64)>,
    write_count: i64,
}

impl State {
    fn write(&mut self, path: &ObjectPath, bytes: Bytes) {
        self.write_count += 1;
        self.objects.insert(path.clone(), (bytes, self.write_count));
    }
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every critical section leaves the map whole, so a poisoned lock holds valid data.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ObjectStore for MemoryStore {
    fn put_new(&self, path: &ObjectPath, bytes: &[u8]) -> Result<PutOutcome, LakeError> {
        let mut state = self.state();
        if state.objects.contains_key(path) {
            return Ok(PutOutcome::AlreadyExists);
        }
        state.write(path, Bytes::copy_from_slice(bytes));
        Ok(PutOutcome::Created)
    }

    fn put(&self, path: &ObjectPath, bytes: &[u8]) -> Result<(), LakeError> {
        self.state().write(path, Bytes::copy_from_slice(bytes));
        Ok(())
    }

    fn put_file(&self, path: &ObjectPath, source: &Path) -> Result<u64, LakeError> {
        let bytes = std::fs::read(source).map_err(|error| LakeError::from_io("read", source, error))?;
        let size = bytes.len() as u64;
        self.state().write(path, bytes.into());
        Ok(size)
    }

    fn get(&self, path: &ObjectPath) -> Result<Bytes, LakeError> {
        match self.state().objects.get(path) {
            Some((bytes, _)) => Ok(bytes.clone()),
            None => Err(LakeError::NotFound { store: "memory".to_owned(), path: path.to_string() }),
        }
    }

    fn get_range(&self, path: &ObjectPath, start: u64, len: u64) -> Result<Bytes, LakeError> {
        let bytes = self.get(path)?;
        let size = bytes.len() as u64;
        match start.checked_add(len) {
            Some(end) if end <= size => Ok(bytes.slice(start as usize..end as usize)),
            _ => Err(LakeError::RangeOutside { path: path.to_string(), start, len, size }),
        }
    }

    fn open(&self, path: &ObjectPath) -> Result<Box<dyn Read + Send>, LakeError> {
        Ok(Box::new(Cursor::new(self.get(path)?)))
    }

    fn size(&self, path: &ObjectPath) -> Result<u64, LakeError> {
        Ok(self.get(path)?.len() as u64)
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, LakeError> {
        let folder = listing_folder(prefix)?;
        let state = self.state();
        let below = state.objects.iter().filter(|(path, _)| path.is_below(folder));
        Ok(below
            .map(|(path, (bytes, modified_ms))| ObjectMeta {
                path: path.clone(),
                size: bytes.len() as u64,
                modified_ms: *modified_ms,
            })
            .collect())
    }

    fn folders(&self, prefix: &str) -> Result<Vec<String>, LakeError> {
        let folder = listing_folder(prefix)?;
        let state = self.state();
        let below = state.objects.keys().filter_map(|path| path.within(folder)?.split_once('/'));
        let mut names: Vec<String> = below.map(|(name, _)| name.to_owned()).collect();
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    fn list_named(&self, prefix: &str, start: &str) -> Result<Vec<ObjectMeta>, LakeError> {
        let folder = listing_folder(prefix)?;
        let mut found = self.list(folder)?;
        let is_named = |name: &str| name.starts_with(start) && !name.contains('/');
        found.retain(|meta| meta.path.within(folder).is_some_and(is_named));
        Ok(found)
    }

    fn delete(&self, path: &ObjectPath) -> Result<(), LakeError> {
        self.state().objects.remove(path);
        Ok(())
    }
}
