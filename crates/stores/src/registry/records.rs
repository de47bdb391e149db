//! The registry's stored records: small JSON objects with a format number.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Format of the records written here.
pub(super) const FORMAT: u32 = 1;
/// Pointer numbers have ten digits, so that their names sort as the numbers do.
pub(super) const NUMBER_MAX: u64 = 9_999_999_999;
/// Hexadecimal digits of the digest that make a version.
const VERSION_DIGITS: usize = 16;

/// A model's name: the first 16 hexadecimal digits of its snapshot's SHA-256.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Version(String);

impl Version {
    /// Reads a version; `None` if `text` is not 16 lower-case hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        is_hex(text, VERSION_DIGITS).then(|| Self(text.to_owned()))
    }

    /// The version of a snapshot with this SHA-256 (64 hexadecimal digits).
    pub(super) fn of_digest(sha256: &str) -> Self {
        Self(sha256.chars().take(VERSION_DIGITS).collect())
    }

    /// The version as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl TryFrom<String> for Version {
    type Error = String;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or_else(|| format!("{text:?} is no model version (16 hexadecimal digits)"))
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.0
    }
}

/// What was published, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Format of this record (1).
    pub format: u32,
    /// The model's version.
    pub version: Version,
    /// SHA-256 of the snapshot, in hexadecimal.
    pub sha256: String,
    /// Size of the snapshot in bytes.
    pub size: u64,
    /// Time of publication in milliseconds since 1970, by the publisher.
    pub published_at_ms: i64,
}

/// One promotion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pointer {
    /// Format of this record (1).
    pub format: u32,
    /// The promotion's number, which its name repeats.
    pub number: u64,
    /// The version it made current.
    pub version: Version,
    /// SHA-256 of that version's snapshot, in hexadecimal.
    pub sha256: String,
    /// Size of that snapshot in bytes.
    pub size: u64,
    /// Time of promotion in milliseconds since 1970, by the promoter.
    pub promoted_at_ms: i64,
    /// Why, in the promoter's words.
    pub reason: String,
    /// The version to go back to from this one.
    pub previous: Option<Version>,
}

pub(crate) fn to_json(record: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(record).expect("records have string keys and no failing serializers");
    bytes.push(b'\n');
    bytes
}

/// The number in a pointer's file name, `0000000042.json`.
pub(super) fn pointer_number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".json")?;
    let well_formed = digits.len() == 10 && digits.bytes().all(|digit| digit.is_ascii_digit());
    if well_formed { digits.parse().ok() } else { None }
}

pub(crate) fn parse_pointer(number: u64, bytes: &[u8]) -> Result<Pointer, String> {
    check_format(bytes)?;
    let pointer: Pointer = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if pointer.number != number {
        return Err(format!("it calls itself number {}", pointer.number));
    }
    check_digest(&pointer.version, &pointer.sha256)?;
    Ok(pointer)
}

pub(crate) fn parse_manifest(version: &Version, bytes: &[u8]) -> Result<Manifest, String> {
    check_format(bytes)?;
    let manifest: Manifest = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if manifest.version != *version {
        return Err(format!("it belongs to model {}", manifest.version));
    }
    check_digest(&manifest.version, &manifest.sha256)?;
    Ok(manifest)
}

/// Reads the format first, so that a newer record is called newer instead of malformed.
fn check_format(bytes: &[u8]) -> Result<(), String> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let Format { format } = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if format == FORMAT {
        Ok(())
    } else {
        Err(format!("it has format {format}, this program reads format {FORMAT}; use a newer anabranch"))
    }
}

fn check_digest(version: &Version, sha256: &str) -> Result<(), String> {
    if is_hex(sha256, 64) && sha256.starts_with(version.as_str()) {
        Ok(())
    } else {
        Err(format!("its digest {sha256:?} does not belong to model {version}"))
    }
}

fn is_hex(text: &str, len: usize) -> bool {
    text.len() == len && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
