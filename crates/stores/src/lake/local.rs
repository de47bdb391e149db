//! Objects as files in a folder, with the durability that the exactly-once chain needs.
//!
//! A write goes to a temporary file in `<root>/.tmp/`, is synced, then enters its place in one
//! step: by hard link when it must be new (the kernel lets one of many links win), by rename when
//! it replaces. Then the folder is synced, and so is every folder above it whose entry this process
//! has not yet seen on disk; without that a power cut could take a fresh `day=…/` folder with all
//! that lies in it. `AlreadyExists` syncs the folder too: the caller will build on that object, and
//! the process that linked it may have died before its own sync.
//!
//! A crash leaves at most files in `.tmp/`; opening sweeps those that are older than the process and
//! locked by nobody.

use std::cell::Cell;
use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use super::path::{RESERVED_FOLDER, listing_folder};
use super::{LakeError, ObjectMeta, ObjectPath, ObjectStore, PutOutcome};

/// Tells apart the temporary files of all stores of this process.
static TEMPORARY_COUNT: AtomicU64 = AtomicU64::new(0);

/// An object store in a local folder.
#[derive(Debug)]
pub struct LocalStore {
    root: PathBuf,
    /// Folders whose own entry this process knows to be on disk.
    durable_folders: Mutex<HashSet<PathBuf>>,
}

impl LocalStore {
    /// Opens the folder `root`, creating it if need be, and sweeps temporary files last written
    /// before `process_started` (younger ones may belong to another live process).
    pub fn open(root: impl Into<PathBuf>, process_started: SystemTime) -> Result<Self, LakeError> {
        let root = std::path::absolute(root.into())
            .map_err(|error| LakeError::from_io("resolve", Path::new("the store's folder"), error))?;
        let temporary = root.join(RESERVED_FOLDER);
        fs::create_dir_all(&temporary).map_err(|error| LakeError::from_io("create folder", &temporary, error))?;
        let store = Self { root, durable_folders: Mutex::new(HashSet::new()) };
        // The root's own entry, and those above it if they are new.
        for folder in store.root.ancestors().skip(1).take_while(|folder| folder.parent().is_some()) {
            match sync_folder(folder) {
                // A folder above ours that we may not read was not created by us either.
                Err(LakeError::Denied { .. }) => break,
                other => other?,
            }
        }
        sync_folder(&store.root)?;
        sweep(&temporary, process_started)?;
        Ok(store)
    }

    /// The folder that holds the objects.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn file_of(&self, path: &ObjectPath) -> PathBuf {
        self.root.join(path.as_str())
    }

    fn not_found(&self, path: &ObjectPath) -> LakeError {
        LakeError::NotFound { store: self.root.display().to_string(), path: path.to_string() }
    }

    fn open_file(&self, path: &ObjectPath) -> Result<(File, u64), LakeError> {
        let place = self.file_of(path);
        let opened = File::open(&place).and_then(|file| {
            let metadata = file.metadata()?;
            Ok((file, metadata))
        });
        match opened {
            Ok((file, metadata)) if metadata.is_file() => Ok((file, metadata.len())),
            Ok(_) => Err(self.not_found(path)),
            Err(error) if is_absent(&error) => Err(self.not_found(path)),
            Err(error) => Err(LakeError::from_io("open", &place, error)),
        }
    }

    /// Writes and syncs a temporary file by `fill`; it is removed when the guard drops.
    fn temporary(&self, fill: impl FnOnce(&mut File) -> Result<(), LakeError>) -> Result<TemporaryFile, LakeError> {
        let (mut file, place) = loop {
            let count = TEMPORARY_COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("{}-{count}", std::process::id());
            let place = self.root.join(RESERVED_FOLDER).join(name);
            match OpenOptions::new().write(true).create_new(true).open(&place) {
                Ok(file) => break (file, place),
                // Containers that share a volume share process ids too: take the next number.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(LakeError::from_io("create", &place, error)),
            }
        };
        // The lock tells a sweeping process that this file has an owner. A file system without
        // locks still has the age to go by.
        let _ = file.try_lock();
        let filled = fill(&mut file);
        let guard = TemporaryFile { place, renamed: Cell::new(false), file };
        filled?;
        guard.file.sync_all().map_err(|error| LakeError::from_io("sync", &guard.place, error))?;
        Ok(guard)
    }

    fn temporary_with(&self, bytes: &[u8]) -> Result<TemporaryFile, LakeError> {
        let root = &self.root;
        self.temporary(|file| file.write_all(bytes).map_err(|error| LakeError::from_io("write below", root, error)))
    }

    /// Makes sure that the folder of `place` exists and that its entry, and those above it up to
    /// the root, are on disk.
    fn ensure_folder(&self, place: &Path) -> Result<PathBuf, LakeError> {
        let folder = place.parent().unwrap_or(&self.root).to_path_buf();
        let known = |folder: &Path| {
            let known = self.durable_folders.lock().unwrap_or_else(PoisonError::into_inner);
            known.contains(folder)
        };
        if folder == self.root || known(&folder) {
            return Ok(folder);
        }
        fs::create_dir_all(&folder).map_err(|error| LakeError::from_io("create folder", &folder, error))?;
        let fresh = folder.ancestors().take_while(|folder| **folder != *self.root && !known(folder));
        let mut fresh: Vec<&Path> = fresh.collect();
        fresh.reverse();
        for new in fresh {
            sync_folder(new.parent().unwrap_or(&self.root))?;
            let mut known = self.durable_folders.lock().unwrap_or_else(PoisonError::into_inner);
            known.insert(new.to_path_buf());
        }
        Ok(folder)
    }

    /// Puts a finished temporary file in its place by `step`, once more if someone removed the
    /// folder that this process had already made.
    fn enter(
        &self,
        path: &ObjectPath,
        step: impl Fn(&Path) -> io::Result<PutOutcome>,
    ) -> Result<PutOutcome, LakeError> {
        let place = self.file_of(path);
        let mut folder = self.ensure_folder(&place)?;
        let mut outcome = step(&place);
        if outcome.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            self.durable_folders.lock().unwrap_or_else(PoisonError::into_inner).clear();
            folder = self.ensure_folder(&place)?;
            outcome = step(&place);
        }
        let outcome = outcome.map_err(|error| match error.kind() {
            io::ErrorKind::Unsupported => LakeError::InvalidLocation {
                location: self.root.display().to_string(),
                reason: "its file system has no hard links, which create-only writes need; use \
                         another folder (ext4, xfs, btrfs, zfs, apfs)"
                    .to_owned(),
            },
            _ => LakeError::from_io("write object", &place, error),
        })?;
        sync_folder(&folder)?;
        Ok(outcome)
    }

    fn replace(&self, path: &ObjectPath, temporary: &TemporaryFile) -> Result<(), LakeError> {
        let outcome = self.enter(path, |place| {
            fs::rename(&temporary.place, place)?;
            temporary.renamed.set(true);
            Ok(PutOutcome::Created)
        })?;
        debug_assert_eq!(outcome, PutOutcome::Created);
        Ok(())
    }
}

impl ObjectStore for LocalStore {
    fn put_new(&self, path: &ObjectPath, bytes: &[u8]) -> Result<PutOutcome, LakeError> {
        let temporary = self.temporary_with(bytes)?;
        self.enter(path, |place| match fs::hard_link(&temporary.place, place) {
            Ok(()) => Ok(PutOutcome::Created),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(PutOutcome::AlreadyExists),
            Err(error) => Err(error),
        })
    }

    fn put(&self, path: &ObjectPath, bytes: &[u8]) -> Result<(), LakeError> {
        let temporary = self.temporary_with(bytes)?;
        self.replace(path, &temporary)
    }

    fn put_file(&self, path: &ObjectPath, source: &Path) -> Result<u64, LakeError> {
        let mut size = 0;
        let temporary = self.temporary(|file| {
            let copied = File::open(source).and_then(|mut source| io::copy(&mut source, file));
            size = copied.map_err(|error| LakeError::from_io("copy", source, error))?;
            Ok(())
        })?;
        self.replace(path, &temporary)?;
        Ok(size)
    }

    fn get(&self, path: &ObjectPath) -> Result<Bytes, LakeError> {
        let (mut file, size) = self.open_file(path)?;
        let mut bytes = Vec::with_capacity(size as usize);
        file.read_to_end(&mut bytes).map_err(|error| LakeError::from_io("read", &self.file_of(path), error))?;
        Ok(bytes.into())
    }

    fn get_range(&self, path: &ObjectPath, start: u64, len: u64) -> Result<Bytes, LakeError> {
        let (mut file, size) = self.open_file(path)?;
        if start.checked_add(len).is_none_or(|end| end > size) {
            return Err(LakeError::RangeOutside { path: path.to_string(), start, len, size });
        }
        let mut bytes = vec![0; len as usize];
        file.seek(SeekFrom::Start(start))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(|error| LakeError::from_io("read", &self.file_of(path), error))?;
        Ok(bytes.into())
    }

    fn open(&self, path: &ObjectPath) -> Result<Box<dyn Read + Send>, LakeError> {
        Ok(Box::new(self.open_file(path)?.0))
    }

    fn size(&self, path: &ObjectPath) -> Result<u64, LakeError> {
        Ok(self.open_file(path)?.1)
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, LakeError> {
        let folder = listing_folder(prefix)?;
        let mut found = Vec::new();
        let mut pending = vec![self.root.join(folder)];
        while let Some(folder) = pending.pop() {
            self.list_folder(&folder, &mut pending, &mut found)?;
        }
        found.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }

    fn folders(&self, prefix: &str) -> Result<Vec<String>, LakeError> {
        let mut below = Vec::new();
        self.list_folder(&self.root.join(listing_folder(prefix)?), &mut below, &mut Vec::new())?;
        let names = below.iter().filter_map(|place| place.file_name()?.to_str());
        let mut names: Vec<String> = names.map(str::to_owned).collect();
        names.sort_unstable();
        Ok(names)
    }

    fn list_named(&self, prefix: &str, start: &str) -> Result<Vec<ObjectMeta>, LakeError> {
        let mut found = Vec::new();
        self.list_folder(&self.root.join(listing_folder(prefix)?), &mut Vec::new(), &mut found)?;
        found.retain(|meta| meta.path.name().starts_with(start));
        found.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }

    fn delete(&self, path: &ObjectPath) -> Result<(), LakeError> {
        let place = self.file_of(path);
        match fs::symlink_metadata(&place) {
            Ok(metadata) if metadata.is_dir() => return Ok(()),
            _ => {}
        }
        match fs::remove_file(&place) {
            Ok(()) => sync_folder(place.parent().unwrap_or(&self.root)),
            Err(error) if is_absent(&error) => Ok(()),
            Err(error) => Err(LakeError::from_io("delete", &place, error)),
        }
    }

    fn local_path(&self, path: &ObjectPath) -> Option<PathBuf> {
        Some(self.file_of(path))
    }
}

impl LocalStore {
    /// Adds the objects of one folder to `found` and its subfolders to `pending`. Files whose name
    /// is no object path (not UTF-8, control characters) were not written by a store: left out.
    fn list_folder(
        &self,
        folder: &Path,
        pending: &mut Vec<PathBuf>,
        found: &mut Vec<ObjectMeta>,
    ) -> Result<(), LakeError> {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if is_absent(&error) => return Ok(()),
            Err(error) => return Err(LakeError::from_io("list", folder, error)),
        };
        for entry in entries {
            let entry = entry.map_err(|error| LakeError::from_io("list", folder, error))?;
            let place = entry.path();
            let relative = place.strip_prefix(&self.root).ok().and_then(Path::to_str);
            let Some(path) = relative.and_then(|text| ObjectPath::new(text).ok()) else { continue };
            let metadata = match fs::metadata(&place) {
                Ok(metadata) => metadata,
                // Deleted between the listing and the look.
                Err(error) if is_absent(&error) => continue,
                Err(error) => return Err(LakeError::from_io("look at", &place, error)),
            };
            if metadata.is_dir() {
                pending.push(place);
            } else if metadata.is_file() {
                let modified = metadata.modified().ok();
                let since = modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
                let modified_ms = since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
                found.push(ObjectMeta { path, size: metadata.len(), modified_ms });
            }
        }
        Ok(())
    }
}

/// A file in `.tmp/` that goes away with its guard, unless it was renamed: then its name may already
/// belong to someone else.
#[derive(Debug)]
struct TemporaryFile {
    place: PathBuf,
    renamed: Cell<bool>,
    file: File,
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        if !self.renamed.get() {
            // A leftover is swept when the store is next opened.
            let _ = fs::remove_file(&self.place);
        }
    }
}

fn sync_folder(folder: &Path) -> Result<(), LakeError> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| LakeError::from_io("sync folder", folder, error))
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn sweep(temporary: &Path, process_started: SystemTime) -> Result<(), LakeError> {
    let entries = fs::read_dir(temporary).map_err(|error| LakeError::from_io("list", temporary, error))?;
    for entry in entries.flatten() {
        let modified = entry.metadata().and_then(|metadata| metadata.modified());
        if modified.is_ok_and(|modified| modified < process_started) {
            let unowned = File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok());
            if unowned {
                // Another process may sweep at the same time; what is gone is gone.
                let _ = fs::remove_file(entry.path());
            }
        }
    }
    Ok(())
}
