//! Object paths: parsed once, so that no adapter ever sees `..`, an empty segment or a control
//! character, and a path that one store accepts is accepted by all of them.

use std::borrow::Borrow;
use std::fmt;

use super::LakeError;

/// Longest path in bytes. S3 keys end at 1,024; the rest is room for a bucket prefix.
const PATH_BYTES_MAX: usize = 768;
/// Longest segment in bytes: file systems stop at 255, temporary names need none of it.
const SEGMENT_BYTES_MAX: usize = 255;
/// First segment that the local store keeps for unfinished writes.
pub(super) const RESERVED_FOLDER: &str = ".tmp";

/// A validated, `/`-separated, relative object path such as `models/pointers/0000000001.json`.
///
/// Segments are non-empty UTF-8 of at most 255 bytes without `.`, `..`, `\` or control
/// characters; the whole is at most 768 bytes; the first segment is not `.tmp`. Ordered by bytes,
/// which is the order of listings.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectPath(String);

impl ObjectPath {
    /// Parses `text`, naming what is wrong with it.
    pub fn new(text: impl Into<String>) -> Result<Self, LakeError> {
        let text = text.into();
        match fault(&text) {
            None => Ok(Self(text)),
            Some(reason) => Err(LakeError::InvalidPath { path: text, reason }),
        }
    }

    /// This path with one or more segments appended.
    pub fn join(&self, tail: &str) -> Result<Self, LakeError> {
        Self::new(format!("{}/{tail}", self.0))
    }

    /// The path as text, without a leading or trailing `/`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last segment.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// Whether the path lies below `folder` (whole segments; the empty folder holds everything).
    pub fn is_below(&self, folder: &str) -> bool {
        self.within(folder).is_some()
    }

    /// What comes after `folder`, if the path lies below it (whole segments; the empty folder holds everything).
    pub fn within(&self, folder: &str) -> Option<&str> {
        if folder.is_empty() { Some(&self.0) } else { self.0.strip_prefix(folder)?.strip_prefix('/') }
    }
}

/// Checks the `prefix` of a listing: empty, or a path without its trailing `/`.
pub(super) fn listing_folder(prefix: &str) -> Result<&str, LakeError> {
    let folder = prefix.strip_suffix('/').unwrap_or(prefix);
    if folder.is_empty() {
        return Ok(folder);
    }
    match fault(folder) {
        None => Ok(folder),
        Some(reason) => Err(LakeError::InvalidPath { path: prefix.to_owned(), reason }),
    }
}

fn fault(text: &str) -> Option<&'static str> {
    if text.is_empty() {
        return Some("it is empty");
    }
    if text.len() > PATH_BYTES_MAX {
        return Some("it is longer than 768 bytes");
    }
    if text.chars().any(char::is_control) {
        return Some("it holds a control character");
    }
    if text.contains('\\') {
        return Some("it holds a backslash; separate segments with '/'");
    }
    for (position, segment) in text.split('/').enumerate() {
        if segment.is_empty() {
            return Some("it has an empty segment (a leading, trailing or double '/')");
        }
        if segment == "." || segment == ".." {
            return Some("a segment is '.' or '..'");
        }
        if segment.len() > SEGMENT_BYTES_MAX {
            return Some("a segment is longer than 255 bytes");
        }
        if position == 0 && segment == RESERVED_FOLDER {
            return Some("its first segment '.tmp' is kept for unfinished writes");
        }
    }
    None
}

impl fmt::Display for ObjectPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl AsRef<str> for ObjectPath {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for ObjectPath {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for ObjectPath {
    type Err = LakeError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}
