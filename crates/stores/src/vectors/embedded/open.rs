//! Opening LMDB: the one unsafe call of this crate, and the lock that makes it sound.
#![allow(unsafe_code)]

use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::Path;

use heed::{Env, EnvOpenOptions, WithoutTls};

use super::{Access, EmbeddedOptions};
use crate::vectors::VectorError;

/// Named databases of one environment.
const DATABASES_MAX: u32 = 8;
/// Concurrent read transactions, over all processes.
const READERS_MAX: u32 = 1024;
/// LMDB wants whole pages; this is a multiple of every page size in use (4 to 64 KiB).
const MAP_GRANULE_BYTES: usize = 1 << 20;

/// The environment, and the writers' lock (held until dropped) if it was opened for writing.
pub(super) fn open(folder: &Path, options: &EmbeddedOptions) -> Result<(Env<WithoutTls>, Option<File>), VectorError> {
    let failed = |action, detail: String| VectorError::Backend { action, place: folder.display().to_string(), detail };
    let lock = match options.access {
        Access::ReadOnly if folder.join("data.mdb").is_file() => None,
        Access::ReadOnly => return Err(VectorError::Missing { place: folder.display().to_string() }),
        Access::ReadWrite => {
            fs::create_dir_all(folder).map_err(|error| failed("create", error.to_string()))?;
            let lock = OpenOptions::new().create(true).truncate(false).write(true).open(folder.join("writer.lock"));
            let lock = lock.map_err(|error| failed("lock", error.to_string()))?;
            match lock.try_lock() {
                Ok(()) => Some(lock),
                Err(TryLockError::WouldBlock) => {
                    return Err(VectorError::Locked { place: folder.display().to_string() });
                }
                Err(TryLockError::Error(error)) => return Err(failed("lock", error.to_string())),
            }
        }
    };
    let map_bytes = options.map_bytes.max(MAP_GRANULE_BYTES).next_multiple_of(MAP_GRANULE_BYTES);
    let mut environment = EnvOpenOptions::new().read_txn_without_tls();
    environment.map_size(map_bytes).max_dbs(DATABASES_MAX).max_readers(READERS_MAX);
    // SAFETY: LMDB maps `data.mdb`, and the map is sound as long as the file changes through LMDB
    // only. All changes here go through LMDB with its own locking on (no NO_LOCK, no WRITE_MAP);
    // the folder is this store's own, a second writer of ours is kept out by `writer.lock`, and
    // readers in other processes go through LMDB's reader table. What remains is somebody editing
    // or truncating the file by hand, or a network file system, which the manual forbids.
    let opened = unsafe { environment.open(folder) };
    match opened {
        Ok(opened) => Ok((opened, lock)),
        Err(heed::Error::EnvAlreadyOpened) => Err(VectorError::Locked { place: folder.display().to_string() }),
        Err(error @ heed::Error::Mdb(heed::MdbError::Invalid | heed::MdbError::VersionMismatch)) => {
            Err(VectorError::Corrupt { place: folder.display().to_string(), detail: error.to_string() })
        }
        Err(error) => Err(failed("open", error.to_string())),
    }
}
