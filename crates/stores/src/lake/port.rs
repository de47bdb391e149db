//! The port itself: what an object store must do, and nothing it need not.

use std::fmt::Debug;
use std::io::Read;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::{LakeError, ObjectPath};

/// What a create-only write found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "AlreadyExists means that the bytes were not written"]
pub enum PutOutcome {
    /// The object did not exist and now holds these bytes, durably.
    Created,
    /// An object was there, durably, and is untouched. After a lost answer it may be the caller's
    /// own earlier attempt: read it to know.
    AlreadyExists,
}

/// One line of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// The object's path.
    pub path: ObjectPath,
    /// Size in bytes.
    pub size: u64,
    /// Time of the last write in milliseconds since 1970, by the store's own clock (the memory
    /// store counts writes instead). For people and retention, never for ordering.
    pub modified_ms: i64,
}

/// A store of immutable-by-habit objects under `/`-separated paths.
///
/// Every call blocks. Every write is all or nothing, and durable when it returns `Ok`; after an
/// `Err` the write may or may not have landed. A path is either an object or a folder of objects,
/// never both (file systems cannot hold both).
pub trait ObjectStore: Send + Sync + Debug {
    /// Writes `bytes` under `path` only if nothing is there: of any number of racing writers, in
    /// any number of processes, exactly one is told `Created`.
    fn put_new(&self, path: &ObjectPath, bytes: &[u8]) -> Result<PutOutcome, LakeError>;

    /// Writes `bytes` under `path`, replacing what is there in one step.
    fn put(&self, path: &ObjectPath, bytes: &[u8]) -> Result<(), LakeError>;

    /// Like [`put`](Self::put) with the content of the file `source`, never held in memory whole.
    /// Returns the number of bytes written.
    fn put_file(&self, path: &ObjectPath, source: &Path) -> Result<u64, LakeError>;

    /// The whole object.
    fn get(&self, path: &ObjectPath) -> Result<Bytes, LakeError>;

    /// Exactly `len` bytes from offset `start`; a range that passes the object's end is
    /// [`LakeError::RangeOutside`].
    fn get_range(&self, path: &ObjectPath, start: u64, len: u64) -> Result<Bytes, LakeError>;

    /// A stream over the whole object as it was when opened; if the object is replaced meanwhile
    /// the reader either goes on with the old bytes or fails, it never mixes.
    fn open(&self, path: &ObjectPath) -> Result<Box<dyn Read + Send>, LakeError>;

    /// The object's size in bytes.
    fn size(&self, path: &ObjectPath) -> Result<u64, LakeError>;

    /// Every object below the folder `prefix` (whole segments; `""` for all), sorted by path. A
    /// folder that does not exist is empty.
    fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, LakeError>;

    /// The folders directly below the folder `prefix`, by their last segment, sorted.
    fn folders(&self, prefix: &str) -> Result<Vec<String>, LakeError>;

    /// The objects directly in the folder `prefix` whose names begin with `start`, sorted by path. On S3 it costs what they
    /// are, not what else lies there.
    fn list_named(&self, prefix: &str, start: &str) -> Result<Vec<ObjectMeta>, LakeError>;

    /// Removes the object, durably; removing what is not there succeeds.
    fn delete(&self, path: &ObjectPath) -> Result<(), LakeError>;

    /// The file that holds the object, where the store has such files (for memory-mapping).
    fn local_path(&self, _path: &ObjectPath) -> Option<PathBuf> {
        None
    }

    /// The last `len` bytes, or the whole object if it is shorter (a Parquet footer, a trailer).
    fn get_tail(&self, path: &ObjectPath, len: u64) -> Result<Bytes, LakeError> {
        let size = self.size(path)?;
        let len = len.min(size);
        self.get_range(path, size - len, len)
    }

    /// Whether an object lies under `path`.
    fn exists(&self, path: &ObjectPath) -> Result<bool, LakeError> {
        match self.size(path) {
            Ok(_) => Ok(true),
            Err(LakeError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

macro_rules! forward {
    ($type:ty) => {
        impl<S: ObjectStore + ?Sized> ObjectStore for $type {
            fn put_new(&self, path: &ObjectPath, bytes: &[u8]) -> Result<PutOutcome, LakeError> {
                (**self).put_new(path, bytes)
            }
            fn put(&self, path: &ObjectPath, bytes: &[u8]) -> Result<(), LakeError> {
                (**self).put(path, bytes)
            }
            fn put_file(&self, path: &ObjectPath, source: &Path) -> Result<u64, LakeError> {
                (**self).put_file(path, source)
            }
            fn get(&self, path: &ObjectPath) -> Result<Bytes, LakeError> {
                (**self).get(path)
            }
            fn get_range(&self, path: &ObjectPath, start: u64, len: u64) -> Result<Bytes, LakeError> {
                (**self).get_range(path, start, len)
            }
            fn open(&self, path: &ObjectPath) -> Result<Box<dyn Read + Send>, LakeError> {
                (**self).open(path)
            }
            fn size(&self, path: &ObjectPath) -> Result<u64, LakeError> {
                (**self).size(path)
            }
            fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, LakeError> {
                (**self).list(prefix)
            }
            fn folders(&self, prefix: &str) -> Result<Vec<String>, LakeError> {
                (**self).folders(prefix)
            }
            fn list_named(&self, prefix: &str, start: &str) -> Result<Vec<ObjectMeta>, LakeError> {
                (**self).list_named(prefix, start)
            }
            fn delete(&self, path: &ObjectPath) -> Result<(), LakeError> {
                (**self).delete(path)
            }
            fn local_path(&self, path: &ObjectPath) -> Option<PathBuf> {
                (**self).local_path(path)
            }
            fn get_tail(&self, path: &ObjectPath, len: u64) -> Result<Bytes, LakeError> {
                (**self).get_tail(path, len)
            }
            fn exists(&self, path: &ObjectPath) -> Result<bool, LakeError> {
                (**self).exists(path)
            }
        }
    };
}

forward!(&S);
forward!(Box<S>);
forward!(std::sync::Arc<S>);
