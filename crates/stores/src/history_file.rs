//! Files of users' histories: what batch leaves behind so that the stream starts warm.
//!
//! A file is a run of (key, history bytes) in ascending key order with a count and a checksum at its end, so a
//! truncated or damaged file is noticed. The history bytes are [`anabranch_events::codec`]'s and are passed on
//! unread. Layout in `docs/formats.md`.

use std::io::{self, Read, Write};

use anabranch_events::HistoryKey;
use xxhash_rust::xxh3::Xxh3;

use crate::ErrorKind;

const MAGIC: [u8; 8] = *b"ANBHIST\0";
/// Version written by this code.
pub const VERSION: u32 = 1;
/// No history is larger: 131,072 entries of 32 bytes and as many seen items, with room to spare.
const HISTORY_BYTES_MAX: u32 = 64 << 20;
const END: u16 = 0;

/// Why a history file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum HistoryFileError {
    /// The medium failed.
    #[error("history file {name}: {source}")]
    Io {
        /// The file, as the caller named it.
        name: String,
        /// What happened.
        source: io::Error,
    },
    /// Written by newer code.
    #[error(
        "history file {name} has format {found}; this program reads up to {VERSION}: upgrade it, or run the ETL again"
    )]
    NewerVersion {
        /// The file.
        name: String,
        /// The version found.
        found: u32,
    },
    /// Not what was written.
    #[error("history file {name} is corrupt at entry {entry} ({what}); run the ETL again")]
    Corrupt {
        /// The file.
        name: String,
        /// Index of the entry.
        entry: u64,
        /// What does not fit.
        what: &'static str,
    },
    /// The writer was given keys out of order.
    #[error("history file: key {key} does not follow the one before it")]
    OutOfOrder {
        /// The key that came too late.
        key: String,
    },
}

impl HistoryFileError {
    /// What the caller can do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => ErrorKind::Full,
            Self::Io { .. } => ErrorKind::Retry,
            Self::NewerVersion { .. } => ErrorKind::FixInput,
            Self::Corrupt { .. } => ErrorKind::Corrupt,
            Self::OutOfOrder { .. } => ErrorKind::Bug,
        }
    }
}

/// Writes a history file.
pub struct HistoryFileWriter<W: Write> {
    out: W,
    hash: Xxh3,
    count: u64,
    last: Vec<u8>,
}

impl<W: Write> std::fmt::Debug for HistoryFileWriter<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HistoryFileWriter").field("count", &self.count).finish_non_exhaustive()
    }
}

impl<W: Write> HistoryFileWriter<W> {
    /// Begins a file.
    pub fn new(out: W) -> Result<Self, HistoryFileError> {
        let mut writer = Self { out, hash: Xxh3::new(), count: 0, last: Vec::new() };
        writer.put(&MAGIC)?;
        writer.put(&VERSION.to_le_bytes())?;
        Ok(writer)
    }

    /// Adds a history; keys must ascend by their bytes.
    pub fn push(&mut self, key: &HistoryKey, history: &[u8]) -> Result<(), HistoryFileError> {
        let key_bytes = key.to_bytes();
        if self.count > 0 && key_bytes <= self.last {
            return Err(HistoryFileError::OutOfOrder { key: key.to_string() });
        }
        self.put(&(key_bytes.len() as u16).to_le_bytes())?;
        self.put(&key_bytes)?;
        self.put(&(history.len() as u32).to_le_bytes())?;
        self.put(history)?;
        self.count += 1;
        self.last = key_bytes;
        Ok(())
    }

    /// Ends the file and returns the writer underneath. A file that is not finished does not read.
    pub fn finish(mut self) -> Result<W, HistoryFileError> {
        self.put(&END.to_le_bytes())?;
        self.put(&self.count.to_le_bytes())?;
        let digest = self.hash.digest();
        self.out.write_all(&digest.to_le_bytes()).map_err(writing)?;
        self.out.flush().map_err(writing)?;
        Ok(self.out)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), HistoryFileError> {
        self.hash.update(bytes);
        self.out.write_all(bytes).map_err(writing)
    }
}

fn writing(source: io::Error) -> HistoryFileError {
    HistoryFileError::Io { name: "being written".to_owned(), source }
}

/// Reads a history file entry by entry; the checksum is compared when the end is reached, so a caller must read
/// to the end before it relies on what it read.
pub struct HistoryFileReader<R: Read> {
    input: R,
    name: String,
    hash: Xxh3,
    count: u64,
    done: bool,
}

impl<R: Read> std::fmt::Debug for HistoryFileReader<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HistoryFileReader")
            .field("name", &self.name)
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}

impl<R: Read> HistoryFileReader<R> {
    /// Checks the head of the file; `name` is for error messages.
    pub fn new(input: R, name: impl Into<String>) -> Result<Self, HistoryFileError> {
        let mut reader = Self { input, name: name.into(), hash: Xxh3::new(), count: 0, done: false };
        if reader.take_array::<8>()? != MAGIC {
            return Err(reader.corrupt("it is not a history file"));
        }
        let found = u32::from_le_bytes(reader.take_array()?);
        if found > VERSION {
            return Err(HistoryFileError::NewerVersion { name: reader.name, found });
        }
        Ok(reader)
    }

    fn next_entry(&mut self) -> Result<Option<(HistoryKey, Vec<u8>)>, HistoryFileError> {
        let key_len = u16::from_le_bytes(self.take_array()?);
        if key_len == END {
            let count = u64::from_le_bytes(self.take_array()?);
            let computed = self.hash.digest();
            let stored = u64::from_le_bytes(self.take_array()?);
            if count != self.count || computed != stored {
                return Err(self.corrupt("count or checksum"));
            }
            return Ok(None);
        }
        let key = self.take_vec(usize::from(key_len))?;
        let key = HistoryKey::from_bytes(&key).ok_or_else(|| self.corrupt("key"))?;
        let history_len = u32::from_le_bytes(self.take_array()?);
        if history_len > HISTORY_BYTES_MAX {
            return Err(self.corrupt("length"));
        }
        let history = self.take_vec(history_len as usize)?;
        self.count += 1;
        Ok(Some((key, history)))
    }

    fn take_array<const N: usize>(&mut self) -> Result<[u8; N], HistoryFileError> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes).map_err(|e| self.reading(e))?;
        self.hash.update(&bytes);
        Ok(bytes)
    }

    fn take_vec(&mut self, length: usize) -> Result<Vec<u8>, HistoryFileError> {
        // Grows with what is there, not with what a damaged length claims.
        let mut bytes = Vec::new();
        let read = self.input.by_ref().take(length as u64).read_to_end(&mut bytes);
        if read.map_err(|e| self.reading(e))? < length {
            return Err(self.corrupt("truncated"));
        }
        self.hash.update(&bytes);
        Ok(bytes)
    }

    fn reading(&self, source: io::Error) -> HistoryFileError {
        if source.kind() == io::ErrorKind::UnexpectedEof {
            self.corrupt("truncated")
        } else {
            HistoryFileError::Io { name: self.name.clone(), source }
        }
    }

    fn corrupt(&self, what: &'static str) -> HistoryFileError {
        HistoryFileError::Corrupt { name: self.name.clone(), entry: self.count, what }
    }
}

impl<R: Read> Iterator for HistoryFileReader<R> {
    type Item = Result<(HistoryKey, Vec<u8>), HistoryFileError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let next = self.next_entry();
        self.done = !matches!(next, Ok(Some(_)));
        next.transpose()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn file() -> Vec<u8> {
        let mut writer = HistoryFileWriter::new(Vec::new()).unwrap();
        writer.push(&HistoryKey::Session("s".into()), b"one").unwrap();
        writer.push(&HistoryKey::User("a".into()), b"").unwrap();
        writer.push(&HistoryKey::User("b".into()), b"three").unwrap();
        assert!(matches!(writer.push(&HistoryKey::User("b".into()), b""), Err(HistoryFileError::OutOfOrder { .. })));
        writer.finish().unwrap()
    }

    fn read(bytes: &[u8]) -> Result<Vec<(HistoryKey, Vec<u8>)>, HistoryFileError> {
        HistoryFileReader::new(bytes, "test")?.collect()
    }

    #[test]
    fn round_trip() {
        let entries = read(&file()).unwrap();
        assert_eq!(entries.len(), 3);
        assert_eq!(entries[2], (HistoryKey::User("b".into()), b"three".to_vec()));
        let empty = HistoryFileWriter::new(Vec::new()).unwrap().finish().unwrap();
        assert!(read(&empty).unwrap().is_empty());
    }

    #[test]
    fn every_truncation_and_every_flipped_byte_is_noticed() {
        let bytes = file();
        for cut in 0..bytes.len() {
            assert!(read(&bytes[..cut]).is_err(), "cut at {cut}");
            let mut flipped = bytes.clone();
            flipped[cut] ^= 1;
            assert!(read(&flipped).is_err(), "flip at {cut}");
        }
        let mut newer = bytes;
        newer[8] = 2;
        assert!(matches!(read(&newer), Err(HistoryFileError::NewerVersion { found: 2, .. })));
    }
}
