//! Doors to the decoders of stored bytes, for the fuzz targets alone. No part of the API: hidden, and may change at any
//! time.

use crate::registry::{Manifest, Pointer, Version, records};
use crate::state::log::{self, LogRecord, NewRecord};
use crate::state::outbox::{self, Entry};
use crate::state::{StateError, backup};

/// Reads the value of a log record.
pub fn log_record(sequence: u64, value: &[u8]) -> Result<LogRecord, StateError> {
    log::decode(sequence, value)
}

/// Writes the value of a log record.
pub fn log_record_bytes(record: &LogRecord) -> Vec<u8> {
    let LogRecord { arrival_ms, partition_key, data, .. } = record;
    match data {
        None => log::encode_erased(*arrival_ms),
        Some(data) => log::encode(&NewRecord { shard: 0, partition_key, data, arrival_ms: *arrival_ms }),
    }
}

/// Reads key and value of an entry of the outbox.
pub fn outbox_entry(key: &[u8], value: &[u8]) -> Result<Entry, StateError> {
    outbox::decode(key, value)
}

/// Writes key and value of an entry of the outbox.
pub fn outbox_entry_bytes(entry: &Entry) -> (Vec<u8>, Vec<u8>) {
    (outbox::due_key((entry.due_ms, entry.id)), outbox::encode(entry))
}

/// Key and value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// Reads a backup: key and value of each entry.
pub fn backup(bytes: &[u8]) -> Result<Vec<Pair>, StateError> {
    let mut entries = Vec::new();
    backup::read_backup(bytes, &mut |_, key, value| {
        entries.push((key, value));
        Ok(())
    })?;
    Ok(entries)
}

/// Reads a promotion.
pub fn pointer(number: u64, bytes: &[u8]) -> Result<Pointer, String> {
    records::parse_pointer(number, bytes)
}

/// Writes a promotion.
pub fn pointer_bytes(pointer: &Pointer) -> Vec<u8> {
    records::to_json(pointer)
}

/// Reads a model's manifest.
pub fn manifest(version: &Version, bytes: &[u8]) -> Result<Manifest, String> {
    records::parse_manifest(version, bytes)
}

/// Writes a model's manifest.
pub fn manifest_bytes(manifest: &Manifest) -> Vec<u8> {
    records::to_json(manifest)
}
