//! Events from elsewhere (files) into the log, as if they arrived when they happened, as fast as the log takes them.
//!
//! The position of a replay is stored in the same synced batch as its records, so a replay that a crash cut short goes
//! on at the very next record: nothing is missing and nothing is appended twice.

use std::time::Duration;

use anabranch_stores::state::log::{NewRecord, hash_key, record_bytes, shard_of};
use anabranch_stores::state::{State, StateError};

use crate::ports::{Position, ShardId};
use crate::shared::Shared;

/// Records in one synced batch.
const BATCH_RECORDS: usize = 2_000;
/// How often a replay that filled the log looks for room.
const FULL_LOG_WAIT: Duration = Duration::from_millis(20);

/// A record to replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplayRecord {
    /// Chooses the shard.
    pub partition_key: String,
    /// The event, as a producer would send it.
    pub data: Vec<u8>,
    /// When it is taken to have arrived, milliseconds since 1970.
    pub arrival_ms: i64,
}

/// Appends `records` (the same ones in the same order whenever `id` is the same) after those that an earlier run of
/// this replay appended. Returns how many this call appended. Stops early when the stream stops.
pub fn replay(
    shared: &Shared,
    state: &State,
    id: &str,
    records: impl Iterator<Item = ReplayRecord>,
    on_progress: &mut dyn FnMut(u64),
) -> Result<u64, StateError> {
    let note = format!("replay-{id}");
    let mut done = match state.note(&note)? {
        Some(bytes) => bytes
            .try_into()
            .map(u64::from_le_bytes)
            .map_err(|_| StateError::Corrupt { what: "the position of a replay".to_owned() })?,
        None => 0,
    };
    let mut appended = 0;
    let mut batch: Vec<ReplayRecord> = Vec::with_capacity(BATCH_RECORDS);
    let mut records = records.skip(usize::try_from(done).unwrap_or(usize::MAX)).peekable();
    while records.peek().is_some() && !shared.is_stopping() {
        batch.clear();
        batch.extend(records.by_ref().take(BATCH_RECORDS));
        let new: Vec<NewRecord<'_>> = batch
            .iter()
            .map(|record| NewRecord {
                shard: shard_of(hash_key(&record.partition_key), state.identity().shards),
                partition_key: &record.partition_key,
                data: &record.data,
                arrival_ms: record.arrival_ms,
            })
            .collect();
        let bytes: u64 = new.iter().map(|record| record_bytes(record.partition_key, record.data)).sum();
        // Delivery makes room.
        while state.log_bytes() + bytes > shared.settings.retention_bytes {
            if shared.is_stopping() {
                return Ok(appended);
            }
            std::thread::park_timeout(FULL_LOG_WAIT);
        }
        done += new.len() as u64;
        let sequences = state.append(&new, Some((&note, &done.to_le_bytes())))?;
        let received_us = shared.clock.monotonic_us();
        for shard in 0..state.identity().shards {
            let own: Vec<Position> = new
                .iter()
                .zip(&sequences)
                .filter(|(record, _)| record.shard == shard)
                .map(|(_, sequence)| Position::whole((*sequence).into()))
                .collect();
            shared.announce(ShardId(shard.into()), &own, received_us);
        }
        appended += new.len() as u64;
        on_progress(done);
    }
    Ok(appended)
}
