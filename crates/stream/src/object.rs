//! Delivered objects: JSON Lines, compressed, with a trailer that says which records the object covers.
//!
//! The object *is* the commit point, so it must say by itself what was committed. The trailer stands after the
//! compressed lines in a form that every decompressor skips (a zstd skippable frame, or an empty gzip member whose
//! extra field holds it) and has a fixed size, so that one ranged read from the end finds it and a reader that knows
//! nothing of it sees plain JSON Lines. Layout in `docs/formats.md`.
//!
//! A name is made of the sequence number that the object comes **after**: two workers at the same place want the same
//! name, and only one of them gets it.

use std::io::{self, Read, Write};

use anabranch_events::wire::time::day_and_hour;
use anabranch_stores::lake::ObjectPath;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use crate::settings::Compression;

/// Size of the trailer, in bytes.
pub const TRAILER_BYTES: usize = 1024;
/// Version of the trailer.
pub const VERSION: u32 = 1;

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
    pub shard: u32,
    /// The sequence number that the object comes after.
    pub after: u64,
    /// First record covered.
    pub first: u64,
    /// Last record covered.
    pub last: u64,
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

/// XXH3-128 in hexadecimal.
pub fn digest(lines: &[u8]) -> String {
    format!("{:032x}", xxh3_128(lines))
}

/// Folder and name of the object of `shard` that comes after `after` and whose first record arrived at
/// `first_arrival_ms`. `kind` is the name of the branch: recommendations or dead letters of one namespace.
pub fn object_name(kind: &str, shard: u32, after: u64, first_arrival_ms: i64, compression: Compression) -> String {
    let (day, hour) = day_and_hour(first_arrival_ms);
    let extension = match compression {
        Compression::Zstd => "zst",
        Compression::Gzip => "gz",
    };
    format!("{kind}/day={day}/hour={hour}/{shard:05}-{after:020}.jsonl.{extension}")
}

/// The same place under the other compression's extension.
pub(crate) fn other_compression(path: &str) -> ObjectPath {
    let other = match path.strip_suffix(".zst") {
        Some(stem) => format!("{stem}.gz"),
        None => format!("{}.zst", path.trim_end_matches(".gz")),
    };
    ObjectPath::new(other).expect("only the extension of a valid path changed")
}

/// Shard and preceding sequence number of an object's name; `None` if it is not such a name.
pub fn parse_name(path: &str) -> Option<(u32, u64)> {
    let name = path.rsplit('/').next()?;
    let stem = name.strip_suffix(".jsonl.zst").or_else(|| name.strip_suffix(".jsonl.gz"))?;
    let (shard, after) = stem.split_once('-')?;
    if shard.len() != 5 || after.len() != 20 {
        return None;
    }
    Some((shard.parse().ok()?, after.parse().ok()?))
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

/// Compresses lines and adds the trailer.
pub fn encode(lines: &[u8], trailer: &Trailer, compression: Compression) -> io::Result<Vec<u8>> {
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

/// Reads the trailer from an object's last bytes (at least [`TRAILER_BYTES`] of them).
pub fn decode_trailer(name: &str, tail: &[u8]) -> Result<Trailer, ObjectError> {
    let corrupt = |what: &str| ObjectError::Corrupt { name: name.to_owned(), what: what.to_owned() };
    let start = tail.len().checked_sub(TRAILER_BYTES).ok_or_else(|| corrupt("shorter than a trailer"))?;
    let tail = &tail[start..];
    let payload = if tail.starts_with(&ZSTD_SKIPPABLE_MAGIC) {
        &tail[8..]
    } else if tail.starts_with(&GZIP_HEAD) && tail[12..14] == GZIP_SUBFIELD {
        &tail[GZIP_HEAD.len() + 6..TRAILER_BYTES - GZIP_TAIL.len()]
    } else {
        return Err(corrupt("no trailer"));
    };
    let value: serde_json::Value = serde_json::from_slice(payload).map_err(|e| corrupt(&e.to_string()))?;
    let found = value.get("version").and_then(serde_json::Value::as_u64).ok_or_else(|| corrupt("no version"))?;
    if found > u64::from(VERSION) {
        return Err(ObjectError::NewerVersion { name: name.to_owned(), found: found.try_into().unwrap_or(u32::MAX) });
    }
    serde_json::from_value(value).map_err(|e| corrupt(&e.to_string()))
}

/// Decompresses lines, whether or not a trailer follows. At most `limit` bytes come out: a few bytes can
/// decompress into more than the memory holds.
pub fn decompress(name: &str, bytes: &[u8], limit: u64) -> Result<Vec<u8>, ObjectError> {
    let corrupt = |what: String| ObjectError::Corrupt { name: name.to_owned(), what };
    let mut lines = Vec::new();
    let result = if bytes.starts_with(&[0x1f, 0x8b]) {
        flate2::read::MultiGzDecoder::new(bytes).take(limit + 1).read_to_end(&mut lines)
    } else {
        zstd::stream::read::Decoder::new(bytes).and_then(|decoder| decoder.take(limit + 1).read_to_end(&mut lines))
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
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn trailer(lines: &[u8]) -> Trailer {
        Trailer {
            version: VERSION,
            shard: u32::MAX,
            after: u64::MAX,
            first: u64::MAX,
            last: u64::MAX,
            counts: Counts { records: u64::MAX, accepted: u64::MAX, late: u64::MAX, ..Counts::default() },
            snapshot_version: "0123456789abcdef".to_owned(),
            overlay_version: "0".to_owned(),
            bytes: lines.len() as u64,
            digest: digest(lines),
        }
    }

    #[test]
    fn round_trip_and_plain_readers_see_only_lines() {
        for compression in [Compression::Zstd, Compression::Gzip] {
            for lines in [&b""[..], b"{}\n", &b"{\"a\":1}\n".repeat(10_000)] {
                let bytes = encode(lines, &trailer(lines), compression).unwrap();
                let (read, read_lines) = decode("x", &bytes).unwrap();
                assert_eq!((read, &read_lines[..]), (trailer(lines), lines));
                assert_eq!(decode_trailer("x", &bytes[bytes.len() - TRAILER_BYTES..]).unwrap(), trailer(lines));
                let mut plain = Vec::new();
                match compression {
                    Compression::Gzip => flate2::read::MultiGzDecoder::new(&bytes[..]).read_to_end(&mut plain).unwrap(),
                    Compression::Zstd => zstd::stream::copy_decode(&bytes[..], &mut plain).map(|()| 0).unwrap(),
                };
                assert_eq!(plain, lines);
            }
        }
    }

    #[test]
    fn names_round_trip() {
        let name = object_name("recommendations/s-1", 3, 42, 1_700_000_000_000, Compression::Gzip);
        assert_eq!(name, "recommendations/s-1/day=2023-11-14/hour=22/00003-00000000000000000042.jsonl.gz");
        assert_eq!(parse_name(&name), Some((3, 42)));
        assert_eq!(parse_name("a/b.txt"), None);
    }

    #[test]
    fn a_bomb_is_cut_off() {
        let lines = vec![b'\n'; 1 << 20];
        let mut small = trailer(&lines);
        small.bytes = 10;
        let bytes = encode(&lines, &small, Compression::Zstd).unwrap();
        assert!(matches!(decode("x", &bytes), Err(ObjectError::Corrupt { .. })));
    }

    proptest! {
        #[test]
        fn damage_is_noticed_and_never_panics(at in any::<prop::sample::Index>(), flip in 1..=255_u8, gzip in any::<bool>()) {
            let lines = b"{\"recommendationId\":\"1\"}\n".repeat(20);
            let mut bytes = encode(&lines, &trailer(&lines), if gzip { Compression::Gzip } else { Compression::Zstd }).unwrap();
            let at = at.index(bytes.len());
            let _ = decode("x", &bytes[..at]);
            bytes[at] ^= flip;
            if let Ok((read, read_lines)) = decode("x", &bytes) {
                // A flipped byte in an unchecked place (padding, an informational number) leaves the lines right.
                prop_assert_eq!(read.digest, digest(&read_lines));
            }
        }
    }
}
