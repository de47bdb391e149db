//! The quarantine: every refused row with its file, place, reason and raw bytes, as JSON Lines.
//!
//! Entries go to a scratch file as they come and are put in order of (table, file, place) at the end, so the result
//! does not depend on threads and memory holds one small index entry per chunk that had bad rows.

use std::io::Write as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anabranch_events::Rejection;
use base64::Engine as _;
use serde::{Deserialize, Serialize};

use super::publish::Publisher;
use super::shuffle::Spill;
use crate::BatchError;
use crate::input::{Place, RAW_BYTES_MAX};

/// Bytes of JSON in one quarantine file before compression.
pub(crate) const FILE_BYTES: usize = 32 << 20;

/// Code of an entry that stands for a whole file.
pub const FILE_CODE: &str = "file";

/// A refused row, or a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantined {
    /// `interactions`, `items` or `users`.
    pub table: String,
    /// The file, as the report names it.
    pub file: String,
    /// Byte offset of the row's start in the decompressed file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Number of the row, for Parquet, counted from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row: Option<u64>,
    /// Code of the reason: one of `anabranch_events::RejectionCode`, or [`FILE_CODE`].
    pub code: String,
    /// What was found and what would be accepted.
    pub detail: String,
    /// The raw row (at most 64 KiB of it), if it is text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw: Option<String>,
    /// The raw row in base64, if it is no text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw_base64: Option<String>,
}

impl Quarantined {
    pub(crate) fn row(table: &str, file: &str, place: Place, rejection: &Rejection, raw: &[u8]) -> Self {
        let raw = &raw[..raw.len().min(RAW_BYTES_MAX)];
        let text = std::str::from_utf8(raw).ok();
        Self {
            table: table.to_owned(),
            file: file.to_owned(),
            offset: (!place.is_row).then_some(place.offset),
            row: place.is_row.then_some(place.offset),
            code: rejection.code.as_str().to_owned(),
            detail: rejection.detail.clone(),
            raw: text.map(str::to_owned),
            raw_base64: text.is_none().then(|| base64::engine::general_purpose::STANDARD.encode(raw)),
        }
    }

    pub(crate) fn file(table: &str, file: &str, reason: &str) -> Self {
        Self {
            table: table.to_owned(),
            file: file.to_owned(),
            offset: None,
            row: None,
            code: FILE_CODE.to_owned(),
            detail: reason.to_owned(),
            raw: None,
            raw_base64: None,
        }
    }

    /// Appends the entry as a line of JSON.
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        serde_json::to_writer(&mut *out, self).expect("texts and numbers serialise");
        out.push(b'\n');
    }
}

/// Where a block of entries belongs: (table, file, unit).
pub(crate) type BlockKey = (u8, u32, u32);

/// Entries on disk.
#[derive(Debug)]
pub(crate) struct Quarantine {
    spill: Spill,
    blocks: Mutex<Vec<(BlockKey, u64, u32)>>,
}

impl Quarantine {
    pub(crate) fn create(scratch: &Path) -> Result<Self, BatchError> {
        Ok(Self { spill: Spill::create(scratch, 1)?, blocks: Mutex::new(Vec::new()) })
    }

    /// Adds the entries (whole lines) of one unit.
    pub(crate) fn add(&self, key: BlockKey, lines: &[u8]) -> Result<(), BatchError> {
        if lines.is_empty() {
            return Ok(());
        }
        let offset = self.spill.append(lines)?;
        let bytes = u32::try_from(lines.len()).map_err(|_| self.spill.corrupt("a block is larger than 4 GiB"))?;
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner).push((key, offset, bytes));
        Ok(())
    }

    /// Publishes all entries in order.
    pub(crate) fn publish(self, publisher: &Publisher<'_>) -> Result<(), BatchError> {
        let mut blocks = self.blocks.into_inner().unwrap_or_else(PoisonError::into_inner);
        blocks.sort_unstable();
        let mut lines = Vec::new();
        let mut number = 0;
        let mut rest = blocks.as_slice();
        while let Some(((_, offset, bytes), tail)) = rest.split_first() {
            lines.extend(self.spill.read(std::iter::once((*offset, *bytes)))?);
            rest = tail;
            if lines.len() >= FILE_BYTES || rest.is_empty() {
                publish_lines(publisher, number, &lines)?;
                lines.clear();
                number += 1;
            }
        }
        Ok(())
    }
}

/// Publishes file `number` of the quarantine; files are read in order of their numbers.
pub(crate) fn publish_lines(publisher: &Publisher<'_>, number: u32, lines: &[u8]) -> Result<(), BatchError> {
    let count = memchr::memchr_iter(b'\n', lines).count() as u64;
    publisher.put("quarantine", "quarantine", &format!("-{number:05}.jsonl.zst"), &compress(lines)?, count)
}

/// The bytes of a file of `lines`.
pub(crate) fn compress(lines: &[u8]) -> Result<Vec<u8>, BatchError> {
    let pack = || {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3)?;
        encoder.write_all(lines)?;
        encoder.finish()
    };
    pack().map_err(|error: std::io::Error| BatchError::Encode { what: "quarantine", detail: error.to_string() })
}
