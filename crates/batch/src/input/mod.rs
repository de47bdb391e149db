//! Files to rows. A file is found ([`resolve`]), opened by what it holds (its name and its first bytes must agree), cut
//! into units (chunks of text at record boundaries, Parquet row groups), and each unit's rows are handed to a sink, on
//! as many threads as the caller gives.
//!
//! Guaranteed: a bad row is reported with its place and raw bytes and the next row is read; a file that cannot be read
//! is reported once and the other files are read; units are the same whatever the number of threads. Not promised: the
//! order of units between threads (with one thread: file order).

mod columns;
mod csv;
mod json;
mod parquet;
mod pipeline;
mod resolve;
mod text;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;

use anabranch_events::Rejection;
use anabranch_stores::lake::{ObjectPath, ObjectStore};

use crate::BatchError;

pub(crate) use columns::{Columns, Want, Wanted};
pub(crate) use pipeline::{FileOutcome, Reading, read_rows};
pub use resolve::{InputOptions, resolve};

/// Longest record of a text file, in bytes; a longer one is refused without being held in memory.
pub const RECORD_BYTES_MAX: usize = 1 << 20;
/// Most bytes of a refused row that are kept.
pub const RAW_BYTES_MAX: usize = 64 << 10;

/// What a file holds, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `.csv`, `.tsv`, `.txt`.
    Csv {
        /// Separator unless the mapping names one.
        delimiter: u8,
    },
    /// `.jsonl`, `.ndjson`, `.json`: one object a line.
    JsonLines,
    /// `.parquet`.
    Parquet,
}

/// How a file is compressed, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// `.gz`.
    Gzip,
    /// `.zst`.
    Zstd,
}

/// Where a file's bytes lie.
#[derive(Clone, Debug)]
pub(crate) enum Location {
    Local(PathBuf),
    Remote(Arc<dyn ObjectStore>, ObjectPath),
}

/// One file of the input.
#[derive(Clone, Debug)]
pub struct InputFile {
    /// Its name relative to the data location: what reports and quarantine entries say.
    pub name: String,
    /// Size as stored, in bytes.
    pub size: u64,
    /// When it was last modified, milliseconds since 1970.
    pub modified_ms: i64,
    /// What its name says that it holds; `None` if the name ends in none of the known extensions.
    pub format: Option<(Format, Compression)>,
    pub(crate) location: Location,
}

impl InputFile {
    /// About how many bytes the rows take once decoded, for sizing the shuffle.
    pub(crate) fn decoded_bytes_estimate(&self) -> u64 {
        // Text of ids and times compresses 4 to 6 times with gzip; Parquet with dictionaries about as well.
        match self.format {
            Some((Format::Parquet, _) | (_, Compression::Gzip | Compression::Zstd)) => self.size.saturating_mul(6),
            _ => self.size,
        }
    }
}

/// A cell as found; what it means is decided by the sink.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum Cell<'a> {
    #[default]
    Absent,
    Text(Cow<'a, str>),
    /// A time in milliseconds since 1970, from a typed column.
    Ms(i64),
    Number(f64),
}

impl<'a> Cell<'a> {
    /// The cell as text; empty text is absent.
    pub(crate) fn into_text(self) -> Option<Cow<'a, str>> {
        match self {
            Self::Absent => None,
            Self::Text(text) if text.is_empty() => None,
            Self::Text(text) => Some(text),
            Self::Ms(ms) => Some(anabranch_events::wire::time::format_time_ms(ms)),
            Self::Number(number) => Some(Cow::Owned(number.to_string())),
        }
    }
}

/// Where a row stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// Index of the file.
    pub(crate) file: u32,
    /// Index of the unit (chunk or row group) in the file.
    pub(crate) unit: u32,
    /// Byte offset of the row's start in the decompressed file; for Parquet the row's number.
    pub(crate) offset: u64,
    /// Whether `offset` is a row number.
    pub(crate) is_row: bool,
}

/// Takes rows.
pub(crate) trait RowSink: Send {
    /// A row that parsed. `raw` renders it for the quarantine.
    fn row<'a>(
        &mut self,
        place: Place,
        cells: &mut [Cell<'a>],
        others: &mut Vec<(Cow<'a, str>, Cell<'a>)>,
        raw: &dyn Fn() -> Vec<u8>,
    ) -> Result<(), BatchError>;

    /// A row that did not parse.
    fn bad_row(&mut self, place: Place, rejection: Rejection, raw: &[u8]) -> Result<(), BatchError>;

    /// The unit that the last rows came from is finished.
    fn unit_done(&mut self) -> Result<(), BatchError>;
}
