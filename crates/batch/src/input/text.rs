//! Text files cut into chunks at record boundaries, so that chunks can be parsed on all cores.
//!
//! Where a record ends is decided by one pure function per format ([`super::csv::record_end`] for CSV), called both here
//! and by the parser. A quoted newline therefore never splits a record, and an unbalanced quote never swallows a file:
//! the CSV rule looks a bounded number of bytes ahead.

use std::io::{self, Read};

use super::{RAW_BYTES_MAX, RECORD_BYTES_MAX, csv};

/// Bytes of a chunk. Twice the longest record, so that a chunk always holds a whole one; small enough that the
/// buffers of all threads stay in the last-level cache's neighbourhood.
const CHUNK_BYTES: usize = 2 * RECORD_BYTES_MAX;

/// How records are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    Csv { delimiter: u8, columns: usize },
    Lines,
}

/// What [`TextSource::next_chunk`] put into the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chunk {
    /// Whole records, the first of which starts at `offset` in the decompressed file.
    Records { offset: u64, unit: u32 },
    /// The first bytes of a record longer than [`RECORD_BYTES_MAX`]; the rest was skipped.
    TooLong { offset: u64, unit: u32 },
}

/// A text file being read.
pub(crate) struct TextSource {
    reader: Box<dyn Read + Send>,
    framing: Framing,
    carry: Vec<u8>,
    offset: u64,
    unit: u32,
    ended: bool,
    failed: Option<io::Error>,
}

impl TextSource {
    pub(crate) fn new(reader: Box<dyn Read + Send>, framing: Framing) -> Self {
        Self { reader, framing, carry: Vec::new(), offset: 0, unit: 0, ended: false, failed: None }
    }

    /// Fills the carry with the file's first bytes (at most a chunk) and shows them.
    pub(crate) fn peek(&mut self) -> io::Result<&[u8]> {
        if self.carry.is_empty() && !self.ended {
            let mut head = Vec::new();
            self.fill(&mut head, CHUNK_BYTES);
            self.carry = head;
            if self.carry.is_empty()
                && let Some(error) = self.failed.take()
            {
                return Err(error);
            }
        }
        Ok(&self.carry)
    }

    /// Leaves out the first `bytes` of what [`TextSource::peek`] showed (a byte-order mark, a header).
    pub(crate) fn skip(&mut self, bytes: usize) {
        self.carry.drain(..bytes);
        self.offset += bytes as u64;
    }

    pub(crate) fn set_framing(&mut self, framing: Framing) {
        self.framing = framing;
    }

    /// Puts the next records into `buffer`; `None` at the end. An error (a truncated gzip file, say) comes after
    /// every whole record that could be read.
    pub(crate) fn next_chunk(&mut self, buffer: &mut Vec<u8>) -> io::Result<Option<Chunk>> {
        buffer.clear();
        std::mem::swap(buffer, &mut self.carry);
        self.carry.clear();
        if !self.ended && buffer.len() < CHUNK_BYTES {
            let missing = CHUNK_BYTES - buffer.len();
            self.fill(buffer, missing);
        }
        let complete = self.ended && self.failed.is_none();
        if buffer.is_empty() {
            return self.failed.take().map_or(Ok(None), Err);
        }
        let end = if complete { buffer.len() } else { boundary(buffer, self.framing) };
        let (offset, unit) = (self.offset, self.unit);
        if end == 0 {
            if let Some(error) = self.failed.take() {
                // The last record was cut by the failure; the failure itself accounts for it.
                return Err(error);
            }
            let skipped = self.skip_line(buffer.len() as u64)?;
            buffer.truncate(RAW_BYTES_MAX);
            self.offset += skipped;
            self.unit += 1;
            return Ok(Some(Chunk::TooLong { offset, unit }));
        }
        self.carry.extend_from_slice(&buffer[end..]);
        buffer.truncate(end);
        self.offset += end as u64;
        self.unit += 1;
        Ok(Some(Chunk::Records { offset, unit }))
    }

    fn fill(&mut self, buffer: &mut Vec<u8>, missing: usize) {
        buffer.reserve(missing);
        match self.reader.by_ref().take(missing as u64).read_to_end(buffer) {
            Ok(read) => self.ended = read < missing,
            Err(error) => {
                self.ended = true;
                self.failed = Some(error);
            }
        }
    }

    /// Reads on to the next newline; what follows it becomes the carry. Returns the bytes passed, `held` included.
    fn skip_line(&mut self, held: u64) -> io::Result<u64> {
        let mut passed = held;
        let mut block = Vec::with_capacity(RAW_BYTES_MAX);
        loop {
            block.clear();
            self.fill(&mut block, RAW_BYTES_MAX);
            if let Some(newline) = memchr::memchr(b'\n', &block) {
                self.carry.extend_from_slice(&block[newline + 1..]);
                return Ok(passed + newline as u64 + 1);
            }
            passed += block.len() as u64;
            if self.ended {
                return self.failed.take().map_or(Ok(passed), Err);
            }
        }
    }
}

/// Where the last whole record in `bytes` ends (the file goes on); 0 if none does.
fn boundary(bytes: &[u8], framing: Framing) -> usize {
    let last_line = || memchr::memrchr(b'\n', bytes).map_or(0, |at| at + 1);
    match framing {
        Framing::Lines => last_line(),
        Framing::Csv { .. } if memchr::memchr(b'"', bytes).is_none() => last_line(),
        Framing::Csv { delimiter, columns } => {
            let mut end = 0;
            while end < bytes.len()
                && let Some(next) = csv::record_end(bytes, end, delimiter, columns)
            {
                end = next;
            }
            end
        }
    }
}
