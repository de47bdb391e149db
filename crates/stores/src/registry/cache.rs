//! Snapshots as local files: digests, and verified downloads for stores without files.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

use super::RegistryError;
use super::records::Manifest;
use crate::lake::{ObjectPath, ObjectStore};

/// Bytes hashed and copied at a time.
const COPY_BYTES: usize = 1 << 20;

/// Tells apart the unfinished downloads of this process.
static DOWNLOAD_COUNT: AtomicU64 = AtomicU64::new(0);

fn local(action: &'static str, place: &Path, source: std::io::Error) -> RegistryError {
    RegistryError::Local { action, place: place.display().to_string(), source }
}

/// SHA-256 in hexadecimal and size of a local file.
pub(super) fn digest_of_file(place: &Path) -> Result<(String, u64), RegistryError> {
    let mut file = File::open(place).map_err(|error| local("open", place, error))?;
    hash_while_copying(&mut file, &mut std::io::sink()).map_err(|error| local("read", place, error))
}

/// Copies a snapshot object and returns the digest and size of what passed by.
pub(super) fn copy_hashing(
    object: &mut dyn Read,
    target: &mut dyn Write,
    manifest: &Manifest,
) -> Result<(String, u64), RegistryError> {
    hash_while_copying(object, target)
        .map_err(|error| local("copy the snapshot of", Path::new(manifest.version.as_str()), error))
}

/// Compares a digest with the manifest's.
pub(super) fn check(manifest: &Manifest, found: &str, size: u64) -> Result<(), RegistryError> {
    if found == manifest.sha256 && size == manifest.size {
        return Ok(());
    }
    Err(RegistryError::Digest {
        version: manifest.version.clone(),
        expected: manifest.sha256.clone(),
        found: found.to_owned(),
        size,
    })
}

/// The snapshot as `<folder>/<version>.anb`. That name appears only after the digest was checked
/// and the bytes were synced, so a file of the right size under it is taken as it is.
pub(super) fn download(
    store: &dyn ObjectStore,
    object: &ObjectPath,
    manifest: &Manifest,
    folder: &Path,
) -> Result<PathBuf, RegistryError> {
    let place = folder.join(format!("{}.anb", manifest.version));
    if fs::metadata(&place).is_ok_and(|metadata| metadata.len() == manifest.size) {
        return Ok(place);
    }
    fs::create_dir_all(folder).map_err(|error| local("create folder", folder, error))?;
    let count = DOWNLOAD_COUNT.fetch_add(1, Ordering::Relaxed);
    let partial = folder.join(format!(".{}-{}-{count}.partial", manifest.version, std::process::id()));
    let finished = download_to(store, object, manifest, &partial)
        .and_then(|()| fs::rename(&partial, &place).map_err(|error| local("rename to", &place, error)));
    if let Err(error) = finished {
        // The error matters more than the leftover, which the next attempt ignores.
        let _ = fs::remove_file(&partial);
        return Err(error);
    }
    Ok(place)
}

fn download_to(
    store: &dyn ObjectStore,
    object: &ObjectPath,
    manifest: &Manifest,
    partial: &Path,
) -> Result<(), RegistryError> {
    let mut source = store.open(object)?;
    let mut file = File::create(partial).map_err(|error| local("create", partial, error))?;
    let (found, size) = copy_hashing(&mut source, &mut file, manifest)?;
    check(manifest, &found, size)?;
    file.sync_all().map_err(|error| local("sync", partial, error))
}

fn hash_while_copying(source: &mut dyn Read, target: &mut dyn Write) -> std::io::Result<(String, u64)> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; COPY_BYTES];
    let mut size = 0;
    loop {
        let len = match source.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => len,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(&buffer[..len]);
        target.write_all(&buffer[..len])?;
        size += len as u64;
    }
    let mut text = String::with_capacity(64);
    for byte in hasher.finalize() {
        text.push(char::from(b"0123456789abcdef"[usize::from(byte >> 4)]));
        text.push(char::from(b"0123456789abcdef"[usize::from(byte & 15)]));
    }
    Ok((text, size))
}
