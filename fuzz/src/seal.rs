//! Checksums made right, so that mutations reach what lies behind them. Layouts are in `docs/formats.md`.

use md5::{Digest, Md5};
use xxhash_rust::xxh3::xxh3_64;

/// A history: XXH3-64's lower half at the end.
pub fn history(bytes: &[u8]) -> Vec<u8> {
    let body = &bytes[..bytes.len().saturating_sub(4)];
    [body, &(xxh3_64(body) as u32).to_le_bytes()].concat()
}

/// A history file or a backup: XXH3-64 at the end.
pub fn file(bytes: &[u8]) -> Vec<u8> {
    let body = &bytes[..bytes.len().saturating_sub(8)];
    [body, &xxh3_64(body).to_le_bytes()].concat()
}

/// An aggregate of the Kinesis Producer Library: magic in front, MD5 at the end.
pub fn aggregate(bytes: &[u8]) -> Vec<u8> {
    const MAGIC: [u8; 4] = [0xf3, 0x89, 0x9a, 0xc2];
    let body = bytes.strip_prefix(&MAGIC).unwrap_or(bytes);
    let message = &body[..body.len().saturating_sub(16)];
    [&MAGIC, message, Md5::digest(message).as_slice()].concat()
}

/// A snapshot: XXH3-64 of each section in the table, the file's length, and XXH3-64 of the table behind it.
pub fn snapshot(bytes: &[u8]) -> Vec<u8> {
    const HEADER: usize = 32;
    const ENTRY: usize = 32;
    let mut bytes = bytes.to_vec();
    let number = |bytes: &[u8], at: usize| {
        bytes.get(at..at + 8).and_then(|eight| eight.try_into().ok()).map_or(0, u64::from_le_bytes) as usize
    };
    let Some(count) = bytes.get(12).map(|count| usize::from(*count)) else { return bytes };
    let sum_at = HEADER + count * ENTRY;
    if bytes.len() < sum_at + 8 {
        return bytes;
    }
    let length = (bytes.len() as u64).to_le_bytes();
    bytes[16..24].copy_from_slice(&length);
    for entry in (HEADER..sum_at).step_by(ENTRY) {
        let start = number(&bytes, entry + 8);
        let section = start.checked_add(number(&bytes, entry + 16)).and_then(|stop| bytes.get(start..stop));
        if let Some(sum) = section.map(xxh3_64) {
            bytes[entry + 24..entry + 32].copy_from_slice(&sum.to_le_bytes());
        }
    }
    let sum = xxh3_64(&bytes[..sum_at]).to_le_bytes();
    bytes[sum_at..sum_at + 8].copy_from_slice(&sum);
    bytes
}
