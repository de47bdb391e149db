//! The model registry: which snapshots exist, which one is current, and how that ever changes.
//!
//! Everything is an object, so the registry works the same in a folder and in S3:
//!
//! ```text
//! models/<version>/snapshot.anb      the trained model
//! models/<version>/metrics.json      how it scored
//! models/<version>/manifest.json     create-only and written last: from here on it is published
//! models/pointers/0000000042.json    create-only: promotion number 42
//! ```
//!
//! `CURRENT` is no object of its own but the highest valid pointer, since neither a folder nor S3
//! offers one atomic replacement that never loses a racing promoter's word. A pointer is valid when
//! it parses and its snapshot is there with the size and digest it names; an invalid one is passed
//! over, with a warning. A version is the start of the snapshot's SHA-256, so publishing the same
//! bytes again changes nothing.
//!
//! Not done here: reading a snapshot's content (`models` does), and deleting old versions.

mod cache;
mod error;
pub(crate) mod records;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

pub use error::RegistryError;
pub use records::{Manifest, Pointer, Version};

use crate::lake::{LakeError, ObjectPath, ObjectStore, PutOutcome};

/// Attempts to take a pointer number before giving up: each lost attempt means that another
/// promotion succeeded, so more than this many in a row is a runaway loop somewhere.
const PROMOTE_ATTEMPTS: usize = 64;

/// The registry of one lake.
#[derive(Debug, Clone)]
pub struct ModelRegistry {
    store: Arc<dyn ObjectStore>,
}

/// What [`ModelRegistry::current`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Current {
    /// The highest valid pointer, or `None` while nothing was promoted.
    pub pointer: Option<Pointer>,
    /// One sentence for each higher pointer that was passed over.
    pub warnings: Vec<String>,
}

/// A published model, as [`ModelRegistry::list`] tells it.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelEntry {
    /// Version, size, digest and time of publication.
    pub manifest: Manifest,
    /// What was published as its metrics; `None` if the object is gone or no JSON.
    pub metrics: Option<serde_json::Value>,
    /// Numbers of the pointers that promoted it, ascending.
    pub promotions: Vec<u64>,
    /// Whether it is the current model.
    pub is_current: bool,
}

impl ModelRegistry {
    /// A registry on `store`, under `models/`.
    pub fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self { store }
    }

    /// Publishes the file `snapshot` with its `metrics` and returns its manifest. The model is not
    /// served before it is [promoted](Self::promote). Publishing bytes that are already published
    /// changes nothing (their first metrics and time stay) but restores a damaged snapshot object.
    pub fn publish(
        &self,
        snapshot: &Path,
        metrics: &serde_json::Value,
        published_at_ms: i64,
    ) -> Result<Manifest, RegistryError> {
        let (sha256, size) = cache::digest_of_file(snapshot)?;
        let version = Version::of_digest(&sha256);
        let object = snapshot_path(&version)?;
        if let Some(manifest) = self.read_manifest(&version)? {
            if manifest.sha256 != sha256 {
                return Err(RegistryError::Collision { version, first: manifest.sha256, second: sha256 });
            }
            if self.size_of(&object)? != Some(size) {
                self.store.put_file(&object, snapshot)?;
            }
            return Ok(manifest);
        }
        let written = self.store.put_file(&object, snapshot)?;
        if written != size {
            return Err(RegistryError::Changed { place: snapshot.display().to_string() });
        }
        self.store.put(&model_path(&version, "metrics.json")?, &records::to_json(metrics))?;
        let manifest = Manifest { format: records::FORMAT, version: version.clone(), sha256, size, published_at_ms };
        let manifest_path = model_path(&version, "manifest.json")?;
        match self.store.put_new(&manifest_path, &records::to_json(&manifest))? {
            PutOutcome::Created => Ok(manifest),
            // Another publisher of the same bytes was first, or our own answer was lost.
            PutOutcome::AlreadyExists => {
                self.read_manifest(&version)?.ok_or(RegistryError::UnknownVersion { version: version.to_string() })
            }
        }
    }

    /// Makes `version` current by a new pointer; if it is current already, nothing is written.
    /// Racing promoters all succeed, under distinct numbers; the highest number is current.
    pub fn promote(&self, version: &str, reason: &str, promoted_at_ms: i64) -> Result<Pointer, RegistryError> {
        let manifest = self.manifest(version)?;
        if let Some(fault) = self.snapshot_fault(&manifest.version, manifest.size)? {
            return Err(RegistryError::Unusable { version: version.to_owned(), fault });
        }
        for _ in 0..PROMOTE_ATTEMPTS {
            let pointers = self.pointer_paths()?;
            let current = self.highest_valid(&pointers.numbered)?.pointer;
            if let Some(current) = &current
                && current.version == manifest.version
            {
                return Ok(current.clone());
            }
            let pointer = Pointer {
                format: records::FORMAT,
                number: pointers.next_number()?,
                version: manifest.version.clone(),
                sha256: manifest.sha256.clone(),
                size: manifest.size,
                promoted_at_ms,
                reason: reason.to_owned(),
                previous: current.map(|current| current.version),
            };
            if self.take_number(&pointer)? {
                return Ok(pointer);
            }
        }
        Err(RegistryError::Contended { attempts: PROMOTE_ATTEMPTS })
    }

    /// Makes the version before the current one current again, by a new pointer. Repeated, it walks
    /// further back. Refused if another promotion happens meanwhile: it would undo that one.
    pub fn rollback(&self, reason: &str, promoted_at_ms: i64) -> Result<Pointer, RegistryError> {
        let pointers = self.pointer_paths()?;
        let current = self.highest_valid(&pointers.numbered)?.pointer.ok_or(RegistryError::NothingCurrent)?;
        let nothing = || RegistryError::NothingBefore { version: current.version.to_string() };
        let mut below = current.number;
        let mut wanted = current.previous.clone().ok_or_else(nothing)?;
        let target = loop {
            // The promotion that made `wanted` current knows what came before it.
            let earlier: Vec<_> = pointers.numbered.iter().filter(|(number, _)| *number < below).cloned().collect();
            let found = self.highest_of(&earlier, &wanted)?;
            let Some((pointer, fault)) = found else { return Err(nothing()) };
            if fault.is_none() {
                break pointer;
            }
            below = pointer.number;
            wanted = pointer.previous.ok_or_else(nothing)?;
        };
        let pointer = Pointer { number: pointers.next_number()?, promoted_at_ms, reason: reason.to_owned(), ..target };
        if self.take_number(&pointer)? { Ok(pointer) } else { Err(RegistryError::Overtaken { number: pointer.number }) }
    }

    /// The model to serve: one listing, one small read and one look at the snapshot's size.
    pub fn current(&self) -> Result<Current, RegistryError> {
        let pointers = self.pointer_paths()?;
        let mut current = self.highest_valid(&pointers.numbered)?;
        current.warnings.extend(pointers.warnings);
        Ok(current)
    }

    /// Every published model, oldest first.
    pub fn list(&self) -> Result<Vec<ModelEntry>, RegistryError> {
        let pointers = self.pointer_paths()?;
        let current = self.highest_valid(&pointers.numbered)?.pointer;
        let mut promotions: Vec<(u64, Version)> = Vec::new();
        for (number, path) in &pointers.numbered {
            if let Ok(pointer) = self.read_pointer(*number, path)? {
                promotions.push((*number, pointer.version));
            }
        }
        let mut entries = Vec::new();
        for object in self.store.list("models")? {
            let Some(version) = version_of_manifest(&object.path) else { continue };
            let Some(manifest) = self.read_manifest(&version)? else { continue };
            let metrics = self.read(&model_path(&version, "metrics.json")?)?;
            entries.push(ModelEntry {
                metrics: metrics.and_then(|bytes| serde_json::from_slice(&bytes).ok()),
                promotions: promotions.iter().filter(|(_, of)| *of == version).map(|(number, _)| *number).collect(),
                is_current: current.as_ref().is_some_and(|current| current.version == version),
                manifest,
            });
        }
        entries.sort_by(|a, b| {
            let key = |entry: &ModelEntry| (entry.manifest.published_at_ms, entry.manifest.version.clone());
            key(a).cmp(&key(b))
        });
        Ok(entries)
    }

    /// The manifest of a published version.
    pub fn manifest(&self, version: &str) -> Result<Manifest, RegistryError> {
        let unknown = || RegistryError::UnknownVersion { version: version.to_owned() };
        let version = Version::parse(version).ok_or_else(unknown)?;
        self.read_manifest(&version)?.ok_or_else(unknown)
    }

    /// A local file with the snapshot, to be memory-mapped: the object itself where the store is a
    /// folder, else a copy in `cache_folder`, downloaded once and checked against its digest.
    pub fn local_snapshot(&self, version: &str, cache_folder: &Path) -> Result<std::path::PathBuf, RegistryError> {
        let manifest = self.manifest(version)?;
        let object = snapshot_path(&manifest.version)?;
        match self.store.local_path(&object) {
            Some(place) => Ok(place),
            None => cache::download(self.store.as_ref(), &object, &manifest, cache_folder),
        }
    }

    /// Reads the whole snapshot object and compares it with its manifest's digest.
    pub fn verify(&self, version: &str) -> Result<Manifest, RegistryError> {
        let manifest = self.manifest(version)?;
        let mut object = self.store.open(&snapshot_path(&manifest.version)?)?;
        let (found, size) = cache::copy_hashing(&mut object, &mut std::io::sink(), &manifest)?;
        cache::check(&manifest, &found, size)?;
        Ok(manifest)
    }

    fn take_number(&self, pointer: &Pointer) -> Result<bool, RegistryError> {
        let path = ObjectPath::new(format!("models/pointers/{:010}.json", pointer.number))?;
        Ok(self.store.put_new(&path, &records::to_json(pointer))? == PutOutcome::Created)
    }

    fn pointer_paths(&self) -> Result<PointerPaths, RegistryError> {
        let mut paths = PointerPaths::default();
        for object in self.store.list("models/pointers")? {
            match records::pointer_number(object.path.name()) {
                Some(number) => paths.numbered.push((number, object.path)),
                None => paths.warnings.push(format!("{} is no pointer's name; it was passed over", object.path)),
            }
        }
        Ok(paths)
    }

    fn highest_valid(&self, numbered: &[(u64, ObjectPath)]) -> Result<Current, RegistryError> {
        let mut warnings = Vec::new();
        for (number, path) in numbered.iter().rev() {
            let fault = match self.read_pointer(*number, path)? {
                Ok(pointer) => match self.pointer_fault(&pointer)? {
                    None => return Ok(Current { pointer: Some(pointer), warnings }),
                    Some(fault) => fault,
                },
                Err(fault) => fault,
            };
            warnings.push(format!("pointer {path} was passed over: {fault}"));
        }
        Ok(Current { pointer: None, warnings })
    }

    /// The highest readable pointer to `wanted`, and what is wrong with its snapshot.
    fn highest_of(
        &self,
        numbered: &[(u64, ObjectPath)],
        wanted: &Version,
    ) -> Result<Option<(Pointer, Option<String>)>, RegistryError> {
        for (number, path) in numbered.iter().rev() {
            if let Ok(pointer) = self.read_pointer(*number, path)?
                && pointer.version == *wanted
            {
                let fault = self.pointer_fault(&pointer)?;
                return Ok(Some((pointer, fault)));
            }
        }
        Ok(None)
    }

    /// Outer error: the store failed. Inner error: the pointer is not usable, and why.
    fn read_pointer(&self, number: u64, path: &ObjectPath) -> Result<Result<Pointer, String>, RegistryError> {
        let Some(bytes) = self.read(path)? else { return Ok(Err("it is gone".to_owned())) };
        Ok(records::parse_pointer(number, &bytes))
    }

    fn pointer_fault(&self, pointer: &Pointer) -> Result<Option<String>, RegistryError> {
        match self.read_manifest(&pointer.version) {
            Ok(Some(manifest)) if manifest.sha256 != pointer.sha256 => {
                return Ok(Some(format!("its digest is not that of model {}", pointer.version)));
            }
            Ok(Some(_)) => {}
            Ok(None) => return Ok(Some(format!("model {} has no manifest", pointer.version))),
            Err(error @ RegistryError::Damaged { .. }) => return Ok(Some(error.to_string())),
            Err(error) => return Err(error),
        }
        self.snapshot_fault(&pointer.version, pointer.size)
    }

    fn snapshot_fault(&self, version: &Version, size: u64) -> Result<Option<String>, RegistryError> {
        Ok(match self.size_of(&snapshot_path(version)?)? {
            None => Some(format!("the snapshot of model {version} is missing")),
            Some(found) if found != size => {
                Some(format!("the snapshot of model {version} has {found} bytes instead of {size}"))
            }
            Some(_) => None,
        })
    }

    fn read_manifest(&self, version: &Version) -> Result<Option<Manifest>, RegistryError> {
        let path = model_path(version, "manifest.json")?;
        let Some(bytes) = self.read(&path)? else { return Ok(None) };
        records::parse_manifest(version, &bytes)
            .map(Some)
            .map_err(|fault| RegistryError::Damaged { place: path.to_string(), fault })
    }

    fn read(&self, path: &ObjectPath) -> Result<Option<bytes::Bytes>, RegistryError> {
        absent(self.store.get(path))
    }

    fn size_of(&self, path: &ObjectPath) -> Result<Option<u64>, RegistryError> {
        absent(self.store.size(path))
    }
}

/// The pointers' objects in ascending order of their numbers.
#[derive(Debug, Default)]
struct PointerPaths {
    numbered: Vec<(u64, ObjectPath)>,
    warnings: Vec<String>,
}

impl PointerPaths {
    /// One above the highest number in use, valid or not.
    fn next_number(&self) -> Result<u64, RegistryError> {
        let next = self.numbered.last().map_or(1, |(number, _)| number + 1);
        if next > records::NUMBER_MAX { Err(RegistryError::NumbersUsedUp) } else { Ok(next) }
    }
}

fn absent<T>(result: Result<T, LakeError>) -> Result<Option<T>, RegistryError> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(LakeError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn model_path(version: &Version, name: &str) -> Result<ObjectPath, RegistryError> {
    Ok(ObjectPath::new(format!("models/{version}/{name}"))?)
}

fn snapshot_path(version: &Version) -> Result<ObjectPath, RegistryError> {
    model_path(version, "snapshot.anb")
}

fn version_of_manifest(path: &ObjectPath) -> Option<Version> {
    let folder = path.as_str().strip_prefix("models/")?.strip_suffix("/manifest.json")?;
    Version::parse(folder)
}
