//! The embedded durable log, with the semantics of Kinesis Data Streams: shards keyed by the MD5 of the partition
//! key, sequence numbers that ascend, iterators that begin at the trim horizon, at the latest record, at or after a
//! sequence number or at a time, and retention by age and bytes.
//!
//! One difference on purpose: retention never removes a record that its shard's checkpoint has not passed. Kinesis
//! drops what is too old; here the disk is ours, so whoever appends looks at [`State::log_bytes`] and refuses instead.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use fjall::PersistMode;
use md5::{Digest, Md5};

use super::{META_NEXT_SEQUENCE, META_NOTE_PREFIX, State, StateError};

/// Largest record (data and partition key), in bytes: Kinesis's default.
pub const RECORD_BYTES_MAX: usize = 1 << 20;

/// Flag of a record whose content was erased; its place in the sequence stays.
const FLAG_ERASED: u8 = 1;
const HEAD_BYTES: usize = 8 + 1 + 2;

/// A record to append.
#[derive(Clone, Copy, Debug)]
pub struct NewRecord<'a> {
    /// The shard, from [`shard_of`].
    pub shard: u32,
    /// The partition key, 1 to 256 characters.
    pub partition_key: &'a str,
    /// The producer's bytes.
    pub data: &'a [u8],
    /// When it arrived, milliseconds since 1970.
    pub arrival_ms: i64,
}

/// A record as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord {
    /// Its place in the shard.
    pub sequence: u64,
    /// When it arrived, milliseconds since 1970.
    pub arrival_ms: i64,
    /// The partition key.
    pub partition_key: String,
    /// The producer's bytes; `None` if they were erased.
    pub data: Option<Vec<u8>>,
}

/// Where reading begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartAt {
    /// The oldest record kept.
    TrimHorizon,
    /// After the newest record.
    Latest,
    /// The record with this number, or the next one kept.
    At(u64),
    /// The record after this number: where a consumer that finished that number goes on.
    After(u64),
    /// The first record that arrived at or after this time, milliseconds since 1970.
    Time(i64),
}

/// What retention asks for.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Records that arrived before this time may go, milliseconds since 1970.
    pub oldest_ms: i64,
    /// Bytes of records that may stay, as [`record_bytes`] counts them.
    pub bytes_max: u64,
}

/// What trimming found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trimmed {
    /// Records removed.
    pub removed: u64,
    /// Bytes of records that stay.
    pub bytes_kept: u64,
    /// Whether more than the allowed bytes stay because they were not processed yet.
    pub is_full: bool,
}

/// What becomes of a record's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rewrite {
    /// They stay.
    Keep,
    /// These take their place.
    Replace(Vec<u8>),
    /// Nothing is left.
    Empty,
}

/// Kinesis's hash key of a partition key: its MD5, as a 128-bit number.
pub fn hash_key(partition_key: &str) -> u128 {
    u128::from_be_bytes(Md5::digest(partition_key.as_bytes()).into())
}

/// The shard that owns `hash_key` when the key space is split evenly over `shards`, as `CreateStream` splits it.
pub fn shard_of(hash_key: u128, shards: u32) -> u32 {
    let width = u128::MAX / u128::from(shards);
    ((hash_key / width) as u32).min(shards - 1)
}

/// Kinesis's name of a shard.
pub fn shard_id(shard: u32) -> String {
    format!("shardId-{shard:012}")
}

impl State {
    /// Appends records in order, in one synced batch, and returns their sequence numbers. `note` is kept in the
    /// same batch (a replay stores its position, so that it never appends a record twice).
    pub fn append(&self, records: &[NewRecord<'_>], note: Option<(&str, &[u8])>) -> Result<Vec<u64>, StateError> {
        let mut next = self.next_sequence.lock().unwrap_or_else(PoisonError::into_inner);
        let mut batch = self.db.batch().durability(Some(PersistMode::SyncData));
        let mut sequences = Vec::with_capacity(records.len());
        let mut bytes = 0;
        for (sequence, record) in (*next..).zip(records) {
            let value = encode(record);
            bytes += value.len() as u64;
            batch.insert(&self.log, log_key(record.shard, sequence), value);
            sequences.push(sequence);
        }
        if let Some((name, value)) = note {
            batch.insert(&self.meta, format!("{META_NOTE_PREFIX}{name}"), value);
        }
        // Before the records can be read, delivered and trimmed. An engine that fails here takes nothing any more.
        self.log_bytes.fetch_add(bytes, Ordering::SeqCst);
        batch.commit()?;
        *next += records.len() as u64;
        Ok(sequences)
    }

    /// Bytes of the records in the log, as [`record_bytes`] counts them. What an earlier process left counts from the
    /// first [`State::trim`] on. Never waits.
    pub fn log_bytes(&self) -> u64 {
        self.log_bytes.load(Ordering::SeqCst)
    }

    /// Up to `records_max` records, and no more than `bytes_max` bytes beyond the first, after `after`.
    pub fn read_after(
        &self,
        shard: u32,
        after: u64,
        records_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<LogRecord>, StateError> {
        let mut records = Vec::new();
        let mut bytes = 0;
        let from = log_key(shard, after.saturating_add(1));
        for guard in self.log.range(from..=log_key(shard, u64::MAX)).take(records_max) {
            let (key, value) = guard.into_inner()?;
            bytes += value.len();
            if bytes > bytes_max && !records.is_empty() {
                break;
            }
            records.push(decode(sequence_of(&key)?, &value)?);
        }
        Ok(records)
    }

    /// The number after which a reader that begins at `start` reads.
    pub fn resolve(&self, shard: u32, start: StartAt) -> Result<u64, StateError> {
        match start {
            StartAt::TrimHorizon => Ok(0),
            StartAt::After(sequence) => Ok(sequence),
            StartAt::At(sequence) => Ok(sequence.saturating_sub(1)),
            StartAt::Latest => self.newest(shard),
            StartAt::Time(time_ms) => {
                for guard in self.log.prefix(shard.to_be_bytes()) {
                    let (key, value) = guard.into_inner()?;
                    let sequence = sequence_of(&key)?;
                    if decode(sequence, &value)?.arrival_ms >= time_ms {
                        return Ok(sequence - 1);
                    }
                }
                self.newest(shard)
            }
        }
    }

    /// The newest sequence number in the shard's log; 0 if it is empty.
    pub fn newest(&self, shard: u32) -> Result<u64, StateError> {
        match self.log.prefix(shard.to_be_bytes()).next_back() {
            Some(guard) => sequence_of(&guard.key()?),
            None => Ok(0),
        }
    }

    /// Removes records that retention lets go and that their shard's checkpoint has passed.
    pub fn trim(&self, retention: Retention) -> Result<Trimmed, StateError> {
        let mut begins = self.log_begins.lock().unwrap_or_else(PoisonError::into_inner);
        let begins = match &mut *begins {
            Some(begins) => begins,
            uncounted => uncounted.insert(self.count_log()?),
        };
        let mut trimmed = Trimmed { bytes_kept: self.log_bytes(), ..Trimmed::default() };
        let mut removed_bytes = 0;
        let mut batch = self.db.batch();
        // Oldest first in each shard; a shard stops at its first record that must stay.
        let mut begin_then = begins.clone();
        for (shard, begin) in (0..).zip(&mut begin_then) {
            let passed = self.checkpoint(shard)?;
            for guard in self.log.range(log_key(shard, *begin)..=log_key(shard, u64::MAX)) {
                let (key, value) = guard.into_inner()?;
                let sequence = sequence_of(&key)?;
                *begin = sequence;
                let is_old = decode(sequence, &value)?.arrival_ms < retention.oldest_ms;
                let is_over = trimmed.bytes_kept > retention.bytes_max;
                if sequence > passed || !(is_old || is_over) {
                    break;
                }
                *begin = sequence + 1;
                batch.remove(&self.log, key);
                trimmed.removed += 1;
                trimmed.bytes_kept = trimmed.bytes_kept.saturating_sub(value.len() as u64);
                removed_bytes += value.len() as u64;
            }
        }
        trimmed.is_full = trimmed.bytes_kept > retention.bytes_max;
        if trimmed.removed > 0 {
            // An emptied log must not forget which numbers were given: all that were removed, and maybe more.
            let next = *self.next_sequence.lock().unwrap_or_else(PoisonError::into_inner);
            batch.insert(&self.meta, META_NEXT_SEQUENCE, &next.to_le_bytes()[..]);
            batch.durability(Some(PersistMode::SyncData)).commit()?;
            self.log_bytes.fetch_sub(removed_bytes, Ordering::SeqCst);
        }
        *begins = begin_then;
        Ok(trimmed)
    }

    /// Counts the bytes of the log. Where each shard's records begin.
    fn count_log(&self) -> Result<Vec<u64>, StateError> {
        // Nothing is appended meanwhile, so the count is exact.
        let _next = self.next_sequence.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = 0;
        for guard in self.log.iter() {
            bytes += guard.into_inner()?.1.len() as u64;
        }
        self.log_bytes.store(bytes, Ordering::SeqCst);
        Ok(vec![0; self.identity.shards as usize])
    }

    /// Lets `rewrite` see each record that is not erased; whatever it answers, the record's place in the sequence stays. One synced batch per thousand changes.
    pub(super) fn rewrite_log(&self, rewrite: &mut dyn FnMut(&[u8]) -> Rewrite) -> Result<u64, StateError> {
        let mut begins = self.log_begins.lock().unwrap_or_else(PoisonError::into_inner);
        if begins.is_none() {
            *begins = Some(self.count_log()?);
        }
        let mut changed = 0;
        let mut batch = self.db.batch().durability(Some(PersistMode::SyncData));
        for guard in self.log.iter() {
            let (key, value) = guard.into_inner()?;
            let record = decode(sequence_of(&key)?, &value)?;
            let bytes = match record.data.as_deref().map_or(Rewrite::Keep, &mut *rewrite) {
                Rewrite::Keep => continue,
                Rewrite::Replace(data) => {
                    let shard = u32::from_be_bytes(key[..4].try_into().expect("log keys have 12 bytes"));
                    encode(&NewRecord {
                        shard,
                        partition_key: &record.partition_key,
                        data: &data,
                        arrival_ms: record.arrival_ms,
                    })
                }
                Rewrite::Empty => encode_erased(record.arrival_ms),
            };
            // Modulo 2^64, a record that grew is as well counted as one that shrank.
            self.log_bytes.fetch_add((bytes.len() as u64).wrapping_sub(value.len() as u64), Ordering::SeqCst);
            batch.insert(&self.log, key, bytes);
            changed += 1;
            if changed % 1000 == 0 {
                let full = std::mem::replace(&mut batch, self.db.batch().durability(Some(PersistMode::SyncData)));
                full.commit()?;
            }
        }
        batch.commit()?;
        Ok(changed)
    }
}

/// What a record counts in the log: its key, its data and a few bytes.
pub const fn record_bytes(partition_key: &str, data: &[u8]) -> u64 {
    (HEAD_BYTES + partition_key.len() + data.len()) as u64
}

fn log_key(shard: u32, sequence: u64) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&shard.to_be_bytes());
    key[4..].copy_from_slice(&sequence.to_be_bytes());
    key
}

pub(super) fn sequence_of(key: &[u8]) -> Result<u64, StateError> {
    key.get(4..)
        .and_then(|bytes| bytes.try_into().ok())
        .map(u64::from_be_bytes)
        .ok_or_else(|| StateError::Corrupt { what: "a log key's length".to_owned() })
}

pub(crate) fn encode(record: &NewRecord<'_>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD_BYTES + record.partition_key.len() + record.data.len());
    bytes.extend_from_slice(&record.arrival_ms.to_le_bytes());
    bytes.push(0);
    bytes.extend_from_slice(&(record.partition_key.len() as u16).to_le_bytes());
    bytes.extend_from_slice(record.partition_key.as_bytes());
    bytes.extend_from_slice(record.data);
    bytes
}

pub(crate) fn encode_erased(arrival_ms: i64) -> Vec<u8> {
    let mut bytes = arrival_ms.to_le_bytes().to_vec();
    bytes.extend_from_slice(&[FLAG_ERASED, 0, 0]);
    bytes
}

pub(crate) fn decode(sequence: u64, value: &[u8]) -> Result<LogRecord, StateError> {
    let corrupt = || StateError::Corrupt { what: format!("log record {sequence}") };
    let (head, rest) = value.split_at_checked(HEAD_BYTES).ok_or_else(corrupt)?;
    let arrival_ms = i64::from_le_bytes(head[..8].try_into().expect("eight bytes"));
    let key_len = u16::from_le_bytes([head[9], head[10]]);
    let (partition_key, data) = rest.split_at_checked(usize::from(key_len)).ok_or_else(corrupt)?;
    let partition_key = String::from_utf8(partition_key.to_vec()).map_err(|_| corrupt())?;
    let data = (head[8] & FLAG_ERASED == 0).then(|| data.to_vec());
    Ok(LogRecord { sequence, arrival_ms, partition_key, data })
}
