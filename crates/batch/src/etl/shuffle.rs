//! The shuffle: rows dealt to hash partitions in one scratch file.
//!
//! Memory is bounded whatever the input: each writer holds a small buffer per partition ([`BUFFERS_BYTES`] in all),
//! and the number of partitions follows the input's size, so that one partition fits into memory when it is folded.
//! All partitions share one file (an append at a time under a lock), so no limit on open files is met.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use tempfile::NamedTempFile;

use crate::BatchError;

/// Bytes of one partition aimed at: with its sort index and the folded results about three times as much is held, by
/// each thread.
pub(crate) const PARTITION_BYTES: u64 = 48 << 20;
/// Most partitions: 1,024 × 48 MiB folds an input of 48 GiB within the aim; beyond, partitions grow.
pub(crate) const PARTITIONS_MAX: u64 = 1024;
/// Bytes of all buffers of one writer.
const BUFFERS_BYTES: usize = 32 << 20;

/// Partitions for an input whose rows take about `decoded_bytes` as text.
pub(crate) fn partition_count(decoded_bytes: u64, threads: usize) -> usize {
    let by_size = decoded_bytes.div_ceil(PARTITION_BYTES).clamp(1, PARTITIONS_MAX);
    // A small input is not worth more than one partition a thread; a larger one gets a multiple of the threads.
    let threads = threads.max(1) as u64;
    let count = if decoded_bytes < PARTITION_BYTES / 4 { 1 } else { by_size.next_multiple_of(threads) };
    count as usize
}

#[derive(Clone, Copy, Debug)]
struct Segment {
    offset: u64,
    bytes: u32,
}

/// Rows on disk, by partition.
#[derive(Debug)]
pub(crate) struct Spill {
    file: NamedTempFile,
    end: Mutex<(File, u64)>,
    segments: Vec<Mutex<Vec<Segment>>>,
}

impl Spill {
    pub(crate) fn create(scratch: &Path, partitions: usize) -> Result<Self, BatchError> {
        let failed = |error| BatchError::scratch("create a temporary file in", scratch, error);
        let file = tempfile::Builder::new().prefix("spill-").tempfile_in(scratch).map_err(failed)?;
        let writer = file.reopen().map_err(failed)?;
        let segments = (0..partitions).map(|_| Mutex::new(Vec::new())).collect();
        Ok(Self { file, end: Mutex::new((writer, 0)), segments })
    }

    pub(crate) fn partitions(&self) -> usize {
        self.segments.len()
    }

    pub(crate) fn writer(&self) -> SpillWriter<'_> {
        let flush_at = (BUFFERS_BYTES / self.partitions()).clamp(4 << 10, 256 << 10);
        SpillWriter { spill: self, flush_at, buffers: vec![Vec::new(); self.partitions()] }
    }

    /// Appends a block; returns where it lies.
    pub(crate) fn append(&self, block: &[u8]) -> Result<u64, BatchError> {
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        end.0.write_all(block).map_err(|error| BatchError::scratch("write", self.file.path(), error))?;
        let offset = end.1;
        end.1 += block.len() as u64;
        Ok(offset)
    }

    /// Reads blocks back, one after another.
    pub(crate) fn read(&self, blocks: impl Iterator<Item = (u64, u32)> + Clone) -> Result<Vec<u8>, BatchError> {
        let failed = |error| BatchError::scratch("read", self.file.path(), error);
        let total: usize = blocks.clone().map(|(_, bytes)| bytes as usize).sum();
        let mut all = Vec::with_capacity(total);
        let mut file = self.file.reopen().map_err(failed)?;
        for (offset, bytes) in blocks {
            file.seek(SeekFrom::Start(offset)).map_err(failed)?;
            let read = Read::take(&mut file, u64::from(bytes)).read_to_end(&mut all).map_err(failed)?;
            if read != bytes as usize {
                return Err(self.corrupt("it is shorter than what was written"));
            }
        }
        Ok(all)
    }

    /// All rows of a partition.
    pub(crate) fn partition(&self, partition: usize) -> Result<Vec<u8>, BatchError> {
        let segments = self.segments[partition].lock().unwrap_or_else(PoisonError::into_inner);
        self.read(segments.iter().map(|segment| (segment.offset, segment.bytes)))
    }

    pub(crate) fn partition_bytes(&self, partition: usize) -> u64 {
        let segments = self.segments[partition].lock().unwrap_or_else(PoisonError::into_inner);
        segments.iter().map(|segment| u64::from(segment.bytes)).sum()
    }

    pub(crate) fn corrupt(&self, detail: &str) -> BatchError {
        BatchError::Corrupt { place: self.file.path().display().to_string(), detail: detail.to_owned() }
    }
}

/// One thread's buffers. What is not finished is lost: call [`SpillWriter::finish`].
#[derive(Debug)]
pub(crate) struct SpillWriter<'a> {
    spill: &'a Spill,
    flush_at: usize,
    buffers: Vec<Vec<u8>>,
}

impl SpillWriter<'_> {
    /// The partition of a hash: by its high bits, since the low ones order rows within it.
    pub(crate) fn partition_of(&self, hash: u64) -> usize {
        ((u128::from(hash) * self.buffers.len() as u128) >> 64) as usize
    }

    /// Lets `put` append one row to a partition.
    pub(crate) fn push(&mut self, partition: usize, put: impl FnOnce(&mut Vec<u8>)) -> Result<(), BatchError> {
        let buffer = &mut self.buffers[partition];
        put(buffer);
        if buffer.len() >= self.flush_at { self.flush(partition) } else { Ok(()) }
    }

    pub(crate) fn finish(&mut self) -> Result<(), BatchError> {
        (0..self.buffers.len()).try_for_each(|partition| self.flush(partition))
    }

    fn flush(&mut self, partition: usize) -> Result<(), BatchError> {
        let buffer = &mut self.buffers[partition];
        if buffer.is_empty() {
            return Ok(());
        }
        let offset = self.spill.append(buffer)?;
        let bytes = u32::try_from(buffer.len()).map_err(|_| self.spill.corrupt("a row is larger than 4 GiB"))?;
        let mut segments = self.spill.segments[partition].lock().unwrap_or_else(PoisonError::into_inner);
        segments.push(Segment { offset, bytes });
        buffer.clear();
        Ok(())
    }
}
