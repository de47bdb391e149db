//! Delivered objects: JSON Lines, compressed, with a trailer that says which records the object covers.
//!
//! The object *is* the commit point, so it must say by itself what was committed. The trailer stands after the
//! compressed lines in a form that every decompressor skips (a zstd skippable frame, or an empty gzip member whose
//! extra field holds it) and has a fixed size, so that one ranged read from the end finds it and a reader that knows
//! nothing of it sees plain JSON Lines. Layout in `docs/formats.md`.
//!
//! A name is made of the position that the object comes **after**: two workers at the same place want the same name,
//! and only one of them gets it.

use std::io::{self, Read, Write};

use anabranch_events::wire::time::day_and_hour;
use anabranch_stores::lake::ObjectPath;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use crate::ports::{Position, ShardId};
use crate::settings::Compression;

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
    compression: Compression,
) -> String {
    let (day, hour) = day_and_hour(first_arrival_ms);
    let extension = match compression {
        Compression::Zstd => "zst",
        Compression::Gzip => "gz",
    };
    format!("{kind}/day={day}/hour={hour}/{}.jsonl.{extension}", stem(shard, after))
}

fn stem(shard: ShardId, after: Position) -> String {
    format!("{:05}-{after:020}", shard.0)
}

/// The same place under the other compression's extension.
pub fn other_compression(path: &str) -> ObjectPath {
    let other = match path.strip_suffix(".zst") {
        Some(stem) => format!("{stem}.gz"),
        None => format!("{}.zst", path.trim_end_matches(".gz")),
    };
    ObjectPath::new(other).expect("only the extension of a valid path changed")
}

/// Where the dead letters of an object's range lie, and how they are compressed.
pub fn dead_letters_beside(object: &ObjectPath) -> (ObjectPath, Compression) {
    let name = object.as_str().strip_prefix(LISTS).unwrap_or(object.as_str());
    let path = ObjectPath::new(format!("{DEAD_LETTERS}{name}")).expect("only the folder of a valid path changed");
    let is_gzip = object.as_str().strip_suffix(".gz").is_some();
    (path, if is_gzip { Compression::Gzip } else { Compression::Zstd })
}

/// Shard and preceding position of an object's name; `None` if [`object_name`] does not write such a name.
pub fn parse_name(path: &str) -> Option<(ShardId, Position)> {
    let name = path.rsplit('/').next()?;
    let found = name.strip_suffix(".jsonl.zst").or_else(|| name.strip_suffix(".jsonl.gz"))?;
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
    let mut value: serde_json::Value = serde_json::from_slice(payload).map_err(|e| corrupt(&e.to_string()))?;
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

    /// The longest trailer there can be.
    fn trailer(lines: &[u8]) -> Trailer {
        let position = Position { number: "9".repeat(76).parse().unwrap(), sub: Some(u64::MAX) };
        Trailer {
            version: VERSION,
            shard: ShardId(999_999_999_999),
            after: position,
            first: position,
            last: position,
            counts: Counts {
                records: u64::MAX,
                erased: u64::MAX,
                accepted: u64::MAX,
                delivered: u64::MAX,
                superseded: u64::MAX,
                duplicate: u64::MAX,
                late: u64::MAX,
                rejected: u64::MAX,
            },
            snapshot_version: "0123456789abcdef".to_owned(),
            overlay_version: u64::MAX.to_string(),
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
    fn names_are_these_and_no_others() {
        let name = |shard, after: &str| {
            let after = after.parse().unwrap();
            object_name("recommendations/s-1", ShardId(shard), after, 1_700_000_000_000, Compression::Gzip)
        };
        let folder = "recommendations/s-1/day=2023-11-14/hour=22/";
        let kinesis = "49590338271490256608559692538361571095921575989136588898";
        for (shard, after, expected) in [
            (3, "42", "00003-00000000000000000042.jsonl.gz".to_owned()),
            (3, "42.7", "00003-00000000000000000042.7.jsonl.gz".to_owned()),
            (123_456, kinesis, format!("123456-{kinesis}.jsonl.gz")),
        ] {
            let name = name(shard, after);
            assert_eq!(name, folder.to_owned() + &expected);
            assert_eq!(parse_name(&name), Some((ShardId(shard), after.parse().unwrap())));
        }
        for bad in [
            "a/b.txt",
            "00003-42.jsonl.zst",
            "3-00000000000000000042.jsonl.zst",
            "000003-00000000000000000042.jsonl.zst",
            "+0003-00000000000000000042.jsonl.zst",
            "00003-00000000000000000042.07.jsonl.zst",
            "00003-00000000000000000042..jsonl.zst",
            "00003-000000000000000000042.jsonl.zst",
        ] {
            assert_eq!(parse_name(bad), None, "{bad}");
        }
    }

    /// A trailer as the first version of this program wrote it, its positions numbers.
    #[test]
    fn the_first_version_still_reads() {
        let json = r#"{"version":1,"shard":3,"after":41,"first":42,"last":99,"counts":{"records":58,"erased":0,"accepted":58,"delivered":58,"superseded":0,"duplicate":0,"late":0,"rejected":0},"snapshotVersion":"0123456789abcdef","overlayVersion":"0","bytes":0,"digest":"99aa06d3014798d86001c324468d497f"}"#;
        let mut payload = json.as_bytes().to_vec();
        payload.resize(ZSTD_PAYLOAD, b' ');
        let bytes = [&ZSTD_SKIPPABLE_MAGIC[..], &(ZSTD_PAYLOAD as u32).to_le_bytes(), &payload].concat();
        let read = decode_trailer("x", &bytes).unwrap();
        let at = |number: u64| Position::whole(number.into());
        assert_eq!((read.shard, read.after, read.first, read.last), (ShardId(3), at(41), at(42), at(99)));
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
