//! Publication: data files are content-addressed and created once; then one numbered, create-only manifest names them
//! all. Until it stands, readers see the dataset before; once it stands, they see the new one; there is nothing between.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anabranch_stores::lake::{ObjectPath, ObjectStore, PutOutcome};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::report::EtlReport;
use crate::BatchError;

/// Version of the manifest's layout.
pub(crate) const FORMAT: u32 = 1;
/// Folder of the manifests.
pub(crate) const MANIFESTS: &str = "manifests";
/// Hexadecimal digits of a file's digest in its name.
const DIGEST_DIGITS: usize = 32;
/// Folders whose files belong to a manifest.
const DATA_FOLDERS: [&str; 5] = ["interactions", "catalog", "users", "histories", "quarantine"];

/// One data file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DataFile {
    /// Its path in the store.
    pub path: String,
    /// `interactions`, `catalog`, `users`, `histories` or `quarantine`.
    pub kind: String,
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256 of its bytes, in hexadecimal digits.
    pub sha256: String,
    /// Rows, items, users, histories or entries in it.
    pub rows: u64,
}

/// A dataset: its files and its report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this layout.
    pub format: u32,
    /// All data files, sorted by path.
    pub files: Vec<DataFile>,
    /// What the run found and did.
    pub report: EtlReport,
}

/// How the manifest came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// A new manifest of this number.
    New(u64),
    /// The newest manifest, of this number, says the same already.
    Unchanged(u64),
}

/// Writes data files and collects their names.
#[derive(Debug)]
pub(crate) struct Publisher<'a> {
    store: &'a dyn ObjectStore,
    existing: BTreeMap<String, u64>,
    files: Mutex<Vec<DataFile>>,
}

impl<'a> Publisher<'a> {
    pub(crate) fn new(store: &'a dyn ObjectStore) -> Result<Self, BatchError> {
        let mut existing = BTreeMap::new();
        for folder in DATA_FOLDERS {
            existing.extend(store.list(folder)?.into_iter().map(|meta| (meta.path.as_str().to_owned(), meta.size)));
        }
        Ok(Self { store, existing, files: Mutex::new(Vec::new()) })
    }

    /// One that looks nothing up before: every file is created, or found to be there.
    pub(crate) fn blind(store: &'a dyn ObjectStore) -> Self {
        Self { store, existing: BTreeMap::new(), files: Mutex::new(Vec::new()) }
    }

    /// The files written or kept so far; they are another publisher's from now on.
    pub(crate) fn take_files(&self) -> Vec<DataFile> {
        std::mem::take(&mut *self.files.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Writes a file under `folder/<digest><suffix>`; `folder` may carry a name's beginning after its last `/`.
    pub(crate) fn put(
        &self,
        kind: &str,
        folder: &str,
        suffix: &str,
        bytes: &[u8],
        rows: u64,
    ) -> Result<(), BatchError> {
        let sha256 = hex(&Sha256::digest(bytes));
        let path = content_path(folder, &sha256, suffix);
        let size = bytes.len() as u64;
        if self.existing.get(&path) != Some(&size) {
            // A racing run may have created the same content: then it is there, and that is all that is asked.
            let (PutOutcome::Created | PutOutcome::AlreadyExists) =
                self.store.put_new(&ObjectPath::new(path.as_str())?, bytes)?;
        }
        self.keep(DataFile { path, kind: kind.to_owned(), bytes: size, sha256, rows });
        Ok(())
    }

    /// Like [`put`](Self::put), from a file of `bytes` bytes with this digest, which is never in memory whole.
    pub(crate) fn put_file(
        &self,
        kind: &str,
        folder: &str,
        suffix: &str,
        source: &Path,
        (digest, bytes): (&[u8], u64),
        rows: u64,
    ) -> Result<(), BatchError> {
        let sha256 = hex(digest);
        let path = content_path(folder, &sha256, suffix);
        if self.existing.get(&path) != Some(&bytes) {
            // It replaces nothing but the same content.
            self.store.put_file(&ObjectPath::new(path.as_str())?, source)?;
        }
        self.keep(DataFile { path, kind: kind.to_owned(), bytes, sha256, rows });
        Ok(())
    }

    /// Names a file that is there already.
    pub(crate) fn keep(&self, file: DataFile) {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).push(file);
    }

    /// Writes manifest `number` (the highest of all when the run began, and one), which replaces the dataset that the
    /// run read: if somebody published meanwhile, nothing changes and the answer is [`BatchError::Raced`].
    pub(crate) fn commit_as(self, number: u64, report: &EtlReport) -> Result<(), BatchError> {
        let manifest = manifest_of(self.files, report);
        create_manifest(self.store, number, &manifest)?;
        // Only a dataset that is whole may push another one out.
        match newest_manifest(self.store)? {
            Some((newest, _)) if newest == number => {}
            _ => return Err(BatchError::Raced { number }),
        }
        write_report(self.store, report)?;
        clean_up(self.store, number, &manifest)
    }

    /// Writes the manifest unless the newest says the same, then the report, then removes what no longer belongs.
    pub(crate) fn commit(self, report: &EtlReport) -> Result<(Published, Manifest), BatchError> {
        let manifest = manifest_of(self.files, report);
        let (published, newest) = match newest_manifest(self.store)? {
            Some((number, held)) if held == manifest => (Published::Unchanged(number), number),
            _ => {
                let number = highest_number(self.store)? + 1;
                create_manifest(self.store, number, &manifest)?;
                (Published::New(number), number)
            }
        };
        write_report(self.store, report)?;
        clean_up(self.store, newest, &manifest)?;
        Ok((published, manifest))
    }
}

fn manifest_of(files: Mutex<Vec<DataFile>>, report: &EtlReport) -> Manifest {
    let mut files = files.into_inner().unwrap_or_else(PoisonError::into_inner);
    files.sort_unstable();
    files.dedup();
    Manifest { format: FORMAT, files, report: report.clone() }
}

fn create_manifest(store: &dyn ObjectStore, number: u64, manifest: &Manifest) -> Result<(), BatchError> {
    match store.put_new(&manifest_path(number)?, &pretty(manifest))? {
        PutOutcome::Created => Ok(()),
        // A lost answer, perhaps: if it is ours, it is done.
        PutOutcome::AlreadyExists if read_manifest(store, number)? == *manifest => Ok(()),
        PutOutcome::AlreadyExists => Err(BatchError::Raced { number }),
    }
}

/// `folder/<digest><suffix>`, or `folder<digest><suffix>` if the folder ends with the beginning of a name.
fn content_path(folder: &str, sha256: &str, suffix: &str) -> String {
    let slash = if folder.ends_with('-') { "" } else { "/" };
    format!("{folder}{slash}{}{suffix}", &sha256[..DIGEST_DIGITS])
}

/// Folder and suffix of a path made by [`Publisher::put`], as it takes them.
pub(crate) fn name_parts(file: &DataFile) -> Option<(&str, &str)> {
    let (folder, suffix) = file.path.split_once(file.sha256.get(..DIGEST_DIGITS)?)?;
    Some((folder.strip_suffix('/').unwrap_or(folder), suffix))
}

/// Finishes a publication that was cut off after its manifest: the report, then what no longer belongs. Writes and
/// removes nothing if nothing was cut off.
pub(crate) fn settle(store: &dyn ObjectStore, number: u64, manifest: &Manifest) -> Result<(), BatchError> {
    let older = |path: &ObjectPath| number_of(path).is_some_and(|older| older < number);
    if store.list(MANIFESTS)?.iter().any(|meta| older(&meta.path)) {
        write_report(store, &manifest.report)?;
    }
    clean_up(store, number, manifest)
}

/// Writes `report.json` if it says something new.
pub(crate) fn write_report(store: &dyn ObjectStore, report: &EtlReport) -> Result<(), BatchError> {
    let path = ObjectPath::new("report.json")?;
    let bytes = pretty(report);
    if !store.exists(&path)? || store.get(&path)? != bytes {
        store.put(&path, &bytes)?;
    }
    Ok(())
}

fn clean_up(store: &dyn ObjectStore, number: u64, manifest: &Manifest) -> Result<(), BatchError> {
    for meta in store.list(MANIFESTS)? {
        if number_of(&meta.path).is_some_and(|older| older < number) {
            store.delete(&meta.path)?;
        }
    }
    for folder in DATA_FOLDERS {
        for meta in store.list(folder)? {
            if manifest.files.binary_search_by(|file| file.path.as_str().cmp(meta.path.as_str())).is_err() {
                store.delete(&meta.path)?;
            }
        }
    }
    Ok(())
}

/// The highest manifest that can be read and whose files are all there.
pub(crate) fn newest_manifest(store: &dyn ObjectStore) -> Result<Option<(u64, Manifest)>, BatchError> {
    let mut numbers: Vec<u64> = store.list(MANIFESTS)?.iter().filter_map(|meta| number_of(&meta.path)).collect();
    numbers.sort_unstable();
    let mut sizes: Option<BTreeMap<String, u64>> = None;
    for &number in numbers.iter().rev() {
        let manifest = match read_manifest(store, number) {
            Ok(manifest) => manifest,
            // A newer program's dataset must not be passed over in favour of an older one.
            Err(error @ (BatchError::NewerFormat { .. } | BatchError::Lake(_))) => return Err(error),
            Err(_) => continue,
        };
        if sizes.is_none() {
            let mut all = BTreeMap::new();
            for folder in DATA_FOLDERS {
                all.extend(store.list(folder)?.into_iter().map(|meta| (meta.path.as_str().to_owned(), meta.size)));
            }
            sizes = Some(all);
        }
        let there = |file: &DataFile| sizes.as_ref().is_some_and(|sizes| sizes.get(&file.path) == Some(&file.bytes));
        if manifest.files.iter().all(there) {
            return Ok(Some((number, manifest)));
        }
    }
    Ok(None)
}

fn read_manifest(store: &dyn ObjectStore, number: u64) -> Result<Manifest, BatchError> {
    #[derive(Deserialize)]
    struct Versioned {
        format: u32,
    }
    let path = manifest_path(number)?;
    let bytes = store.get(&path)?;
    let corrupt = |error: serde_json::Error| BatchError::Corrupt { place: path.to_string(), detail: error.to_string() };
    let Versioned { format } = serde_json::from_slice(&bytes).map_err(corrupt)?;
    if format > FORMAT {
        return Err(BatchError::NewerFormat { place: path.to_string(), found: format, known: FORMAT });
    }
    serde_json::from_slice(&bytes).map_err(corrupt)
}

/// The highest number of any manifest, readable or not; 0 if there is none.
pub(crate) fn highest_number(store: &dyn ObjectStore) -> Result<u64, BatchError> {
    Ok(store.list(MANIFESTS)?.iter().filter_map(|meta| number_of(&meta.path)).max().unwrap_or(0))
}

fn manifest_path(number: u64) -> Result<ObjectPath, BatchError> {
    Ok(ObjectPath::new(format!("{MANIFESTS}/{number:010}.json"))?)
}

fn number_of(path: &ObjectPath) -> Option<u64> {
    let digits = path.name().strip_suffix(".json")?;
    if digits.len() == 10 { digits.parse().ok() } else { None }
}

fn pretty<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).expect("texts, numbers and maps of them serialise");
    bytes.push(b'\n');
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
        text
    })
}
