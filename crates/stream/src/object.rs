//! Delivered objects: JSON Lines, compressed, or Parquet, with a trailer that says which records the object covers.
//!
//! The object *is* the commit point, so it must say by itself what was committed. The trailer stands after the
//! compressed lines in a form that every decompressor skips (a zstd skippable frame, or an empty gzip member whose
//! extra field holds it) and has a fixed size, so that one ranged read from the end finds it and a reader that knows
//! nothing of it sees plain JSON Lines. In Parquet it stands in the footer (`parquet`). Layout in `docs/formats.md`.
//!
//! A name is made of the position that the object comes **after**: two workers at the same place want the same name,
//! and only one of them gets it. Its ending is the chain's (`claim`), not the worker's.

use std::borrow::Cow;
use std::io::{self, Read, Write};

use anabranch_events::wire::time::day_and_hour;
use anabranch_stores::lake::ObjectPath;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use crate::ports::{Position, ShardId};
use crate::settings::{Compression, Format};

mod claim;
mod parquet;

pub use claim::{CHAINS, FormError, claim_form, form_path};

/// Size of the trailer, in bytes.
pub const TRAILER_BYTES: usize = 1024;
/// Folder of delivered lists.
pub const LISTS: &str = "recommendations";
/// Folder of what was refused.
pub const DEAD_LETTERS: &str = "dead-letters";
/// Version of the trailer.
pub const VERSION: u32 = 2;

const ZSTD_LEVEL: i32 = 1;
const ZSTD_SKIPPABLE_MAGIC: [u8; 4] = 0x184D_2A5A_u32.to_le_bytes();
const ZSTD_PAYLOAD: usize = TRAILER_BYTES - 8;
/// Magic, deflate, FEXTRA, no time, no extra flags, unknown system.
const GZIP_HEAD: [u8; 10] = [0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255];
const GZIP_SUBFIELD: [u8; 2] = *b"AB";
/// An empty final deflate block, the CRC-32 of nothing and the length of nothing.
const GZIP_TAIL: [u8; 10] = [3, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const GZIP_PAYLOAD: usize = TRAILER_BYTES - GZIP_HEAD.len() - 6 - GZIP_TAIL.len();

/// What happened to the records of a range. `accepted = delivered + superseded + duplicate + late`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Log records.
    pub records: u64,
    /// Records whose content was erased before they were processed.
    pub erased: u64,
    /// Valid events (a record may carry several).
    pub accepted: u64,
    /// Lists delivered.
    pub delivered: u64,
    /// In per-user mode: events followed by another of the same user in the same cut, which got the list.
    pub superseded: u64,
    /// Events that their history held already.
    pub duplicate: u64,
    /// Events older than their history can hold, or erased.
    pub late: u64,
    /// Events refused; they lie in the dead letters.
    pub rejected: u64,
}

impl Counts {
    /// Adds another range's counts.
    pub fn add(&mut self, other: &Self) {
        self.records += other.records;
        self.erased += other.erased;
        self.accepted += other.accepted;
        self.delivered += other.delivered;
        self.superseded += other.superseded;
        self.duplicate += other.duplicate;
        self.late += other.late;
        self.rejected += other.rejected;
    }

    /// Whether every accepted event is accounted for.
    pub const fn conserve(&self) -> bool {
        self.accepted == self.delivered + self.superseded + self.duplicate + self.late
    }
}

/// What an object says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trailer {
    /// Version of this trailer.
    pub version: u32,
    /// The shard.
    #[serde(with = "shard_number")]
    pub shard: ShardId,
    /// The position that the object comes after.
    pub after: Position,
    /// First record covered.
    pub first: Position,
    /// How far the object reaches.
    pub last: Position,
    /// What happened to them.
    pub counts: Counts,
    /// Snapshot in use at the end of the range.
    pub snapshot_version: String,
    /// Overlay in use at the end of the range.
    pub overlay_version: String,
    /// Length of the lines before compression, in bytes.
    pub bytes: u64,
    /// XXH3-128 of the lines before compression, 32 hexadecimal digits.
    pub digest: String,
}

/// In the trailer a shard is its bare number, as in the object's name.
mod shard_number {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::ports::ShardId;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(shard: &ShardId, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(shard.0)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ShardId, D::Error> {
        u64::deserialize(deserializer).map(ShardId)
    }
}

/// Why an object does not read.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// No trailer, or a damaged one.
    #[error("object {name} is not a delivered object or is damaged ({what})")]
    Corrupt {
        /// The object.
        name: String,
        /// What does not fit.
        what: String,
    },
    /// Written by newer code.
    #[error("object {name} has format {found}; this program reads up to {VERSION}: upgrade it")]
    NewerVersion {
        /// The object.
        name: String,
        /// The version found.
        found: u32,
    },
}

/// How an object is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// Lines or columns.
    pub format: Format,
    /// How either is compressed.
    pub compression: Compression,
}

impl From<Compression> for Form {
    fn from(compression: Compression) -> Self {
        Self { format: Format::Jsonl, compression }
    }
}

impl Form {
    /// Every form that has an ending of its own. A Parquet file's compression is inside.
    const NAMED: [Self; 3] = [
        Self { format: Format::Jsonl, compression: Compression::Zstd },
        Self { format: Format::Jsonl, compression: Compression::Gzip },
        Self { format: Format::Parquet, compression: Compression::Zstd },
    ];

    const fn ending(self) -> &'static str {
        match (self.format, self.compression) {
            (Format::Jsonl, Compression::Zstd) => ".jsonl.zst",
            (Format::Jsonl, Compression::Gzip) => ".jsonl.gz",
            (Format::Parquet, _) => ".parquet",
        }
    }
}

/// XXH3-128 in hexadecimal.
pub fn digest(lines: &[u8]) -> String {
    format!("{:032x}", xxh3_128(lines))
}

/// Folder and name of the object of `shard` that comes after `after` and whose first record arrived at
/// `first_arrival_ms`. `kind` is the name of the branch: recommendations or dead letters of one namespace.
pub fn object_name(
    kind: &str,
    shard: ShardId,
    after: Position,
    first_arrival_ms: i64,
    form: impl Into<Form>,
) -> String {
    let (day, hour) = day_and_hour(first_arrival_ms);
    format!("{kind}/day={day}/hour={hour}/{}{}", stem(shard, after), form.into().ending())
}

/// What the names of a shard's objects begin with, and of no other's.
pub fn names_of(shard: ShardId) -> String {
    format!("{:05}-", shard.0)
}

fn stem(shard: ShardId, after: Position) -> String {
    format!("{}{after:020}", names_of(shard))
}

/// The names that an object at this place has in every form; `path` itself comes last.
pub fn places(path: &ObjectPath) -> Vec<ObjectPath> {
    let stem = without_ending(path.as_str()).unwrap_or(path.as_str());
    let others = Form::NAMED.iter().map(|form| format!("{stem}{}", form.ending()));
    let others = others.filter(|name| name != path.as_str());
    let others = others.map(|name| ObjectPath::new(name).expect("only the ending of a valid path changed"));
    others.chain([path.clone()]).collect()
}

fn without_ending(path: &str) -> Option<&str> {
    Form::NAMED.iter().find_map(|form| path.strip_suffix(form.ending()))
}

/// Where the dead letters of an object's range lie, and how they are compressed. They are always JSON Lines.
pub fn dead_letters_beside(object: &ObjectPath) -> (ObjectPath, Compression) {
    let name = object.as_str().strip_prefix(LISTS).unwrap_or(object.as_str());
    let is_gzip = name.strip_suffix(".gz").is_some();
    let compression = if is_gzip { Compression::Gzip } else { Compression::Zstd };
    let stem = without_ending(name).unwrap_or(name);
    let path = ObjectPath::new(format!("{DEAD_LETTERS}{stem}{}", Form::from(compression).ending()));
    (path.expect("only folder and ending of a valid path changed"), compression)
}

/// Shard and preceding position of an object's name; `None` if [`object_name`] does not write such a name.
pub fn parse_name(path: &str) -> Option<(ShardId, Position)> {
    let name = path.rsplit('/').next()?;
    let found = without_ending(name)?;
    let (shard, after) = found.split_once('-')?;
    let (shard, after) = (ShardId(shard.parse().ok()?), after.parse().ok()?);
    (stem(shard, after) == found).then_some((shard, after))
}

/// Compresses lines without a trailer (dead letters).
pub fn compress(lines: &[u8], compression: Compression) -> io::Result<Vec<u8>> {
    match compression {
        Compression::Zstd => zstd::bulk::compress(lines, ZSTD_LEVEL),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(4));
            encoder.write_all(lines)?;
            encoder.finish()
        }
    }
}

/// Writes JSON lines in this form, with the trailer.
pub fn encode(lines: &[u8], trailer: &Trailer, form: impl Into<Form>) -> io::Result<Vec<u8>> {
    let Form { format, compression } = form.into();
    if format == Format::Parquet {
        return parquet::encode(lines, trailer, compression);
    }
    let mut bytes = compress(lines, compression)?;
    let mut payload = serde_json::to_vec(trailer)?;
    let capacity = match compression {
        Compression::Zstd => ZSTD_PAYLOAD,
        Compression::Gzip => GZIP_PAYLOAD,
    };
    if payload.len() > capacity {
        return Err(io::Error::other(format!("a trailer of {} bytes, at most {capacity} fit", payload.len())));
    }
    payload.resize(capacity, b' ');
    match compression {
        Compression::Zstd => {
            bytes.extend_from_slice(&ZSTD_SKIPPABLE_MAGIC);
            bytes.extend_from_slice(&(capacity as u32).to_le_bytes());
            bytes.extend_from_slice(&payload);
        }
        Compression::Gzip => {
            bytes.extend_from_slice(&GZIP_HEAD);
            bytes.extend_from_slice(&((capacity + 4) as u16).to_le_bytes());
            bytes.extend_from_slice(&GZIP_SUBFIELD);
            bytes.extend_from_slice(&(capacity as u16).to_le_bytes());
            bytes.extend_from_slice(&payload);
            bytes.extend_from_slice(&GZIP_TAIL);
        }
    }
    Ok(bytes)
}

/// How many of an object's last bytes [`decode_trailer`] needs; it may have fewer.
pub fn tail_bytes(name: &str) -> u64 {
    let is_parquet = name.strip_suffix(".parquet").is_some();
    (if is_parquet { parquet::TAIL_BYTES } else { TRAILER_BYTES }) as u64
}

/// Reads the trailer from an object's last [`tail_bytes`], or more of them.
pub fn decode_trailer(name: &str, tail: &[u8]) -> Result<Trailer, ObjectError> {
    let corrupt = |what: &str| ObjectError::Corrupt { name: name.to_owned(), what: what.to_owned() };
    let payload = if tail.ends_with(&parquet::MAGIC) {
        Cow::Owned(parquet::trailer_json(tail).map_err(|what| corrupt(&what))?)
    } else {
        let start = tail.len().checked_sub(TRAILER_BYTES).ok_or_else(|| corrupt("shorter than a trailer"))?;
        let tail = &tail[start..];
        Cow::Borrowed(if tail.starts_with(&ZSTD_SKIPPABLE_MAGIC) {
            &tail[8..]
        } else if tail.starts_with(&GZIP_HEAD) && tail[12..14] == GZIP_SUBFIELD {
            &tail[GZIP_HEAD.len() + 6..TRAILER_BYTES - GZIP_TAIL.len()]
        } else {
            return Err(corrupt("no trailer"));
        })
    };
    let mut value: serde_json::Value = serde_json::from_slice(&payload).map_err(|e| corrupt(&e.to_string()))?;
    let found = value.get("version").and_then(serde_json::Value::as_u64).ok_or_else(|| corrupt("no version"))?;
    if found > u64::from(VERSION) {
        return Err(ObjectError::NewerVersion { name: name.to_owned(), found: found.try_into().unwrap_or(u32::MAX) });
    }
    if found < 2 {
        // Version 1 wrote positions as numbers.
        for name in ["after", "first", "last"] {
            if let Some(number) = value.get(name).and_then(serde_json::Value::as_u64) {
                value[name] = number.to_string().into();
            }
        }
    }
    serde_json::from_value(value).map_err(|e| corrupt(&e.to_string()))
}

/// The JSON lines of an object of any form, whether or not it has a trailer. At most `limit` bytes come out: a few bytes can
/// decompress into more than the memory holds.
pub fn decompress(name: &str, bytes: &[u8], limit: u64) -> Result<Vec<u8>, ObjectError> {
    let corrupt = |what: String| ObjectError::Corrupt { name: name.to_owned(), what };
    if bytes.starts_with(&parquet::MAGIC) {
        return parquet::lines(bytes, limit).map_err(corrupt);
    }
    let mut lines = Vec::new();
    let result = if bytes.starts_with(&[0x1f, 0x8b]) {
        flate2::read::MultiGzDecoder::new(bytes).take(limit.saturating_add(1)).read_to_end(&mut lines)
    } else {
        zstd::stream::read::Decoder::new(bytes)
            .and_then(|decoder| decoder.take(limit.saturating_add(1)).read_to_end(&mut lines))
    };
    result.map_err(|e| corrupt(e.to_string()))?;
    if lines.len() as u64 > limit {
        return Err(corrupt(format!("more than {limit} bytes of lines")));
    }
    Ok(lines)
}

/// Reads a whole object and checks its lines against its trailer.
pub fn decode(name: &str, bytes: &[u8]) -> Result<(Trailer, Vec<u8>), ObjectError> {
    let trailer = decode_trailer(name, bytes)?;
    let lines = decompress(name, bytes, trailer.bytes)?;
    if lines.len() as u64 != trailer.bytes || digest(&lines) != trailer.digest {
        return Err(ObjectError::Corrupt { name: name.to_owned(), what: "length or digest of the lines".to_owned() });
    }
    Ok((trailer, lines))
}

#[cfg(test)]
mod tests;
