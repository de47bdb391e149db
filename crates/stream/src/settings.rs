//! The `[stream]` settings.

use anabranch_models::Hide;
use serde::{Deserialize, Serialize};

use crate::object::Form;

/// Least bytes of the log: while everything is delivered, a request of the largest size must find room in it.
const RETENTION_BYTES_MIN: u64 = 64 << 20;

/// When a list is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// One list for every event, with the history as of that event.
    PerEvent,
    /// One list for each user touched in a cut, with the history at its end.
    PerUser,
}

/// How delivered objects are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    /// Level 1: half the size of gzip's output at a tenth of its time.
    Zstd,
    /// For readers that know nothing else.
    Gzip,
}

/// What delivered objects are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// One JSON object a line.
    Jsonl,
    /// Columns, for Athena and other readers of Parquet. Dead letters stay JSON Lines.
    Parquet,
}

/// Settings of a stream, with their units in their names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StreamSettings {
    /// Name of the stream, as producers call it. 1 to 128 letters, digits, `.`, `_`, `-`.
    pub name: String,
    /// Shards, fixed when the stream is created. A shard is one thread and one chain of objects.
    pub shards: u32,
    /// When a list is made.
    pub mode: Mode,
    /// Length of a list, 1 to 500.
    pub list_length: usize,
    /// Which items a list does not show.
    pub hide: Hide,
    /// What delivered objects are. It is part of their names, so a stream keeps what it began with: a worker or function
    /// with another format is refused, and told how to change it.
    pub format: Format,
    /// Compression of delivered objects, and the same holds for it, but for Parquet (there it is inside).
    pub compression: Compression,
    /// A cut is made at the latest this long after its first record, in milliseconds.
    pub cut_after_ms: u64,
    /// A cut is made when its lists and dead letters reach this many bytes before compression.
    pub cut_bytes: usize,
    /// A cut is made when it has this many records.
    pub cut_records: usize,
    /// A cut is made when it changed this many histories; bounds their memory, at up to some 30 KB each under the default
    /// quotas and 3 KB for most. One micro-batch may go beyond it.
    pub cut_histories: usize,
    /// Records scored together. Larger is faster for a backlog, smaller answers the first event sooner.
    pub micro_batch_records: usize,
    /// The log keeps records at least this long, in hours; 0 keeps what is not processed only.
    pub retention_hours: u64,
    /// The log keeps at most this many bytes. Of processed records the oldest go; while those that are not delivered yet
    /// need all of it, producers are told to slow down.
    pub retention_bytes: u64,
    /// Input stops when the disk of the state has less free space than this, in bytes.
    pub disk_free_bytes_min: u64,
    /// How often the current model is looked up, in milliseconds.
    pub model_poll_ms: u64,
    /// Events waiting for their sync; beyond it producers are told to slow down.
    pub ingest_queue_records: usize,
}

impl Default for StreamSettings {
    fn default() -> Self {
        Self {
            name: "clicks".to_owned(),
            shards: 2,
            mode: Mode::PerEvent,
            list_length: 20,
            hide: Hide::Seen,
            format: Format::Jsonl,
            compression: Compression::Zstd,
            cut_after_ms: 1000,
            cut_bytes: 16 << 20,
            cut_records: 20_000,
            cut_histories: 20_000,
            micro_batch_records: 256,
            retention_hours: 24,
            retention_bytes: 4 << 30,
            disk_free_bytes_min: 256 << 20,
            model_poll_ms: 2000,
            ingest_queue_records: 20_000,
        }
    }
}

impl StreamSettings {
    /// Above the first number of bytes in the log, processed records go whatever their age, down to the second. So what is
    /// processed never takes the room of a new request, however large.
    pub(crate) const fn log_marks(&self) -> (u64, u64) {
        let (half, eighth) = (RETENTION_BYTES_MIN / 2, self.retention_bytes / 8);
        let high = self.retention_bytes.saturating_sub(if eighth > half { eighth } else { half });
        (high, high - high / 32)
    }

    /// How objects are written.
    pub const fn form(&self) -> Form {
        Form { format: self.format, compression: self.compression }
    }

    /// Checks every range; the error names the setting, what was found and what is accepted.
    pub fn check(&self) -> Result<(), String> {
        let name_ok = (1..=128).contains(&self.name.len())
            && self.name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
            && !self.name.starts_with('.');
        let checks = [
            (name_ok, format!("name = {:?}: 1 to 128 letters, digits, '.', '_' or '-'", self.name)),
            ((1..=256).contains(&self.shards), format!("shards = {}: 1 to 256", self.shards)),
            ((1..=500).contains(&self.list_length), format!("list_length = {}: 1 to 500", self.list_length)),
            (
                (1..=3_600_000).contains(&self.cut_after_ms),
                format!("cut_after_ms = {}: 1 to 3600000", self.cut_after_ms),
            ),
            (
                (1024..=1 << 30).contains(&self.cut_bytes),
                format!("cut_bytes = {}: 1024 to {}", self.cut_bytes, 1 << 30),
            ),
            ((1..=1_000_000).contains(&self.cut_records), format!("cut_records = {}: 1 to 1000000", self.cut_records)),
            (
                (1..=1_000_000).contains(&self.cut_histories),
                format!("cut_histories = {}: 1 to 1000000", self.cut_histories),
            ),
            (
                (1..=10_000).contains(&self.micro_batch_records),
                format!("micro_batch_records = {}: 1 to 10000", self.micro_batch_records),
            ),
            (
                self.retention_bytes >= RETENTION_BYTES_MIN,
                format!("retention_bytes = {}: at least {RETENTION_BYTES_MIN}", self.retention_bytes),
            ),
            (
                (10..=600_000).contains(&self.model_poll_ms),
                format!("model_poll_ms = {}: 10 to 600000", self.model_poll_ms),
            ),
            (
                (1..=1_000_000).contains(&self.ingest_queue_records),
                format!("ingest_queue_records = {}: 1 to 1000000", self.ingest_queue_records),
            ),
        ];
        checks.into_iter().find(|(ok, _)| !ok).map_or(Ok(()), |(_, problem)| Err(format!("[stream] {problem}")))
    }
}
