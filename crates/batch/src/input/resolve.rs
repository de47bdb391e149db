//! Patterns to files: plain paths, folders (taken whole), globs (`*`, `?`, `**`), local or `s3://`.
//!
//! Hidden files and those that begin with an underscore (`_SUCCESS`) are no data. Every other file found is read or
//! reported, never passed over in silence. Files come sorted by name, each once.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use anabranch_stores::lake::{ObjectPath, ObjectStore, StoreOptions, open_store};

use super::{Compression, Format, InputFile, Location};
use crate::BatchError;

/// Where relative patterns start, and how to reach S3.
#[derive(Clone, Debug)]
pub struct InputOptions {
    /// A folder, one file, or `s3://bucket/prefix`.
    pub data: String,
    /// How to open stores.
    pub store: StoreOptions,
}

/// Finds the files of `patterns`, sorted by name. A pattern that matches nothing is an error that says what lies beside
/// it, unless `optional`.
pub fn resolve(options: &InputOptions, patterns: &[String], optional: bool) -> Result<Vec<InputFile>, BatchError> {
    let mut found: BTreeMap<String, InputFile> = BTreeMap::new();
    let data = options.data.strip_prefix("file://").unwrap_or(&options.data);
    for pattern in patterns {
        let before = found.len();
        if pattern.starts_with("s3://") || (data.starts_with("s3://") && !pattern.starts_with('/')) {
            let url = if pattern.starts_with("s3://") {
                pattern.clone()
            } else {
                format!("{}/{pattern}", data.trim_end_matches('/'))
            };
            remote(options, pattern, &url, &mut found)?;
        } else if Path::new(data).is_file() && pattern_may_mean(data, pattern) {
            add_local(Path::new(data), file_name(Path::new(data)), &mut found)?;
        } else {
            local(Path::new(data), pattern.strip_prefix("file://").unwrap_or(pattern), &mut found)?;
        }
        if found.len() == before && !optional {
            return Err(BatchError::Input { pattern: pattern.clone(), problem: nothing_there(data) });
        }
    }
    Ok(found.into_values().collect())
}

impl InputFile {
    /// Where it lies: a path or an `s3://` URL, with which [`InputFile::at`] finds it again, on another machine too.
    pub fn place(&self) -> String {
        match &self.location {
            Location::Local(path) => path.to_string_lossy().into_owned(),
            // Remote files carry their whole URL as their name.
            Location::Remote(..) => self.name.clone(),
        }
    }

    /// A file that [`resolve`] found before.
    pub fn at(place: &str, name: &str, size: u64, modified_ms: i64, store: &StoreOptions) -> Result<Self, BatchError> {
        let location = match place.strip_prefix("s3://") {
            None => Location::Local(PathBuf::from(place)),
            Some(rest) => {
                let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
                let store = open_store(&format!("s3://{bucket}"), store)?;
                Location::Remote(Arc::from(store), ObjectPath::new(key)?)
            }
        };
        Ok(Self { format: format_of(name), name: name.to_owned(), size, modified_ms, location })
    }
}

/// If the data location is one file, the default interaction pattern means that file, whatever its name.
fn pattern_may_mean(data: &str, pattern: &str) -> bool {
    pattern == "interactions*" || file_name(Path::new(data)) == pattern
}

fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

fn nothing_there(data: &str) -> String {
    let mut names: Vec<String> =
        std::fs::read_dir(data).into_iter().flatten().flatten().map(|entry| file_name(&entry.path())).collect();
    names.sort_unstable();
    names.truncate(20);
    if names.is_empty() {
        format!("nothing matches in {data}; check the path and the mapping's files")
    } else {
        format!("nothing matches in {data}, which holds: {}", names.join(", "))
    }
}

fn local(base: &Path, pattern: &str, found: &mut BTreeMap<String, InputFile>) -> Result<(), BatchError> {
    let whole = base.join(pattern);
    if whole.is_file() {
        return add_local(&whole, pattern.to_owned(), found);
    }
    let is_glob = pattern.contains(['*', '?']);
    let start = if is_glob { base.join(fixed_folder(pattern)) } else { whole };
    let mut pending = vec![start];
    while let Some(folder) = pending.pop() {
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => continue,
            Err(error) => {
                let problem = format!("could not list {}: {error}", folder.display());
                return Err(BatchError::Input { pattern: pattern.to_owned(), problem });
            }
        };
        for entry in entries.flatten() {
            let path = entry.path();
            if is_hidden(&file_name(&path)) {
                continue;
            }
            let relative = path.strip_prefix(base).unwrap_or(&path).to_string_lossy().into_owned();
            if path.is_dir() {
                if is_glob && matches(pattern, &relative) {
                    // A folder that the glob names is taken whole.
                    local(base, &relative, found)?;
                } else {
                    pending.push(path);
                }
            } else if !is_glob || matches(pattern, &relative) {
                add_local(&path, relative, found)?;
            }
        }
    }
    Ok(())
}

fn add_local(path: &Path, name: String, found: &mut BTreeMap<String, InputFile>) -> Result<(), BatchError> {
    let metadata = std::fs::metadata(path).map_err(|error| BatchError::Input {
        pattern: name.clone(),
        problem: format!("could not look at {}: {error}", path.display()),
    })?;
    let since = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let modified_ms = since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
    let location = Location::Local(PathBuf::from(path));
    let file = InputFile { format: format_of(&name), name: name.clone(), size: metadata.len(), modified_ms, location };
    found.insert(name, file);
    Ok(())
}

fn remote(
    options: &InputOptions,
    pattern: &str,
    url: &str,
    found: &mut BTreeMap<String, InputFile>,
) -> Result<(), BatchError> {
    let rest = &url["s3://".len()..];
    let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
    let store: Arc<dyn ObjectStore> = open_store(&format!("s3://{bucket}"), &options.store)?.into();
    let key = key.trim_matches('/');
    let is_glob = key.contains(['*', '?']);
    let folder = if is_glob { fixed_folder(key) } else { key };
    let mut objects = store.list(folder)?;
    if !is_glob && objects.is_empty() {
        // Not a folder: an object of that very name, found by listing the folder that it lies in.
        let parent = key.rsplit_once('/').map_or("", |(parent, _)| parent);
        objects = store.list(parent)?;
        objects.retain(|object| object.path.as_str() == key);
    }
    for object in objects {
        let name = object.path.as_str();
        let below = name.strip_prefix(folder).unwrap_or(name);
        if below.split('/').any(is_hidden) || (is_glob && !matches(key, name) && !folder_matches(key, name)) {
            continue;
        }
        let full = format!("s3://{bucket}/{name}");
        let file = InputFile {
            format: format_of(name),
            name: full.clone(),
            size: object.size,
            modified_ms: object.modified_ms,
            location: Location::Remote(Arc::clone(&store), object.path.clone()),
        };
        found.insert(full, file);
    }
    let _ = pattern;
    Ok(())
}

fn is_hidden(name: &str) -> bool {
    name.starts_with(['.', '_'])
}

/// The folders in front of a glob's first wildcard.
fn fixed_folder(pattern: &str) -> &str {
    let wild = pattern.find(['*', '?']).unwrap_or(pattern.len());
    pattern[..wild].rsplit_once('/').map_or("", |(folder, _)| folder)
}

fn folder_matches(pattern: &str, path: &str) -> bool {
    path.char_indices().any(|(at, c)| c == '/' && matches(pattern, &path[..at]))
}

/// Whether a glob matches a path: `?` one character and `*` any number of them within a segment, `**` any segments.
fn matches(pattern: &str, path: &str) -> bool {
    let pattern: Vec<&str> = pattern.split('/').collect();
    let path: Vec<&str> = path.split('/').collect();
    segments_match(&pattern, &path)
}

fn segments_match(pattern: &[&str], path: &[&str]) -> bool {
    match (pattern.split_first(), path.split_first()) {
        (None, None) => true,
        (Some((&"**", rest)), _) => {
            segments_match(rest, path) || path.split_first().is_some_and(|(_, tail)| segments_match(pattern, tail))
        }
        (Some((first, rest)), Some((name, tail))) => {
            segment_matches(first.as_bytes(), name.as_bytes()) && segments_match(rest, tail)
        }
        _ => false,
    }
}

fn segment_matches(pattern: &[u8], name: &[u8]) -> bool {
    // The classic walk with one backtracking point: linear in practice, quadratic at worst.
    let (mut p, mut n) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                back = Some((p, n));
                p += 1;
            }
            Some(&c) if c == b'?' || c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match back {
                Some((star, taken)) => {
                    back = Some((star, taken + 1));
                    p = star + 1;
                    n = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

fn format_of(name: &str) -> Option<(Format, Compression)> {
    let lower = name.to_ascii_lowercase();
    let (stem, compression) = if let Some(stem) = lower.strip_suffix(".gz") {
        (stem, Compression::Gzip)
    } else if let Some(stem) = lower.strip_suffix(".zst") {
        (stem, Compression::Zstd)
    } else {
        (lower.as_str(), Compression::None)
    };
    let format = match stem.rsplit_once('.')?.1 {
        "csv" => Format::Csv { delimiter: b',' },
        "tsv" | "txt" => Format::Csv { delimiter: b'\t' },
        "jsonl" | "ndjson" | "json" => Format::JsonLines,
        "parquet" => Format::Parquet,
        _ => return None,
    };
    Some((format, compression))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        for (pattern, path, expected) in [
            ("*.csv", "a.csv", true),
            ("*.csv", "x/a.csv", false),
            ("**/*.csv", "x/y/a.csv", true),
            ("**/*.csv", "a.csv", true),
            ("part-?.csv", "part-1.csv", true),
            ("part-?.csv", "part-12.csv", false),
            ("a*b*c", "aXbYbc", true),
            ("day=*/x*.parquet", "day=2017-01-01/x1.parquet", true),
        ] {
            assert_eq!(matches(pattern, path), expected, "{pattern} {path}");
        }
        assert_eq!(fixed_folder("a/b/c*d/e"), "a/b");
        assert_eq!(fixed_folder("*.csv"), "");
    }
}
