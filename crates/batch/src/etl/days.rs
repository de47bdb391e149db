//! The second shuffle: clean rows by day, each day's rows in order of (user, time, event key), as Parquet.
//!
//! The fold of one partition yields its owners in order, so what it adds to a day is a sorted run; a day's file is the
//! runs of several partitions, merged (a stable sort finds the runs). A day larger than [`FILE_BYTES`] becomes several
//! files, each of some partitions, so memory does not depend on the busiest day.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anabranch_events::EventTypes;

use super::publish::Publisher;
use super::row::RowRef;
use super::shuffle::Spill;
use crate::BatchError;
use crate::tables::{Column, GROUP_ROWS, Table, TextBuilder};

/// Bytes of rows in one file at most (encoded as in the shuffle).
pub(crate) const FILE_BYTES: u64 = 64 << 20;
/// Bytes of buffered rows after which a partition's buffers are written out.
const BUFFERED_BYTES_MAX: usize = 32 << 20;

/// Milliseconds of a day.
pub(crate) const DAY_MS: i64 = 86_400_000;

/// A block of one partition's rows of a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Run {
    partition: u32,
    number: u32,
    offset: u64,
    bytes: u32,
}

/// Clean rows on disk, by day.
#[derive(Debug)]
pub(crate) struct Days {
    spill: Spill,
    runs: Mutex<BTreeMap<i64, Vec<Run>>>,
}

/// One file to write: a day and the blocks of its rows.
#[derive(Debug)]
pub(crate) struct DayFile {
    day: i64,
    runs: Vec<Run>,
    pub(crate) bytes: u64,
}

impl Days {
    pub(crate) fn create(scratch: &Path) -> Result<Self, BatchError> {
        Ok(Self { spill: Spill::create(scratch, 1)?, runs: Mutex::new(BTreeMap::new()) })
    }

    pub(crate) fn writer(&self, partition: u32) -> DayWriter<'_> {
        DayWriter { days: self, partition, number: 0, buffered: 0, buffers: BTreeMap::new() }
    }

    /// The files to write, and the first and last day with rows and their number.
    pub(crate) fn plan(&self) -> (Vec<DayFile>, Option<(i64, i64)>, u64) {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        let mut files: Vec<DayFile> = Vec::new();
        for (&day, runs) in runs.iter_mut() {
            runs.sort_unstable();
            files.push(DayFile { day, runs: Vec::new(), bytes: 0 });
            for of_partition in runs.chunk_by(|a, b| a.partition == b.partition) {
                let bytes: u64 = of_partition.iter().map(|run| u64::from(run.bytes)).sum();
                if files.last().is_some_and(|file| file.bytes > 0 && file.bytes + bytes > FILE_BYTES) {
                    files.push(DayFile { day, runs: Vec::new(), bytes: 0 });
                }
                let file = files.last_mut().expect("one was pushed above");
                file.runs.extend_from_slice(of_partition);
                file.bytes += bytes;
            }
        }
        let range = runs.first_key_value().zip(runs.last_key_value()).map(|((first, _), (last, _))| (*first, *last));
        (files, range, runs.len() as u64)
    }

    /// Writes one file; returns its rows.
    pub(crate) fn write(
        &self,
        file: &DayFile,
        table: &Table,
        types: &EventTypes,
        publisher: &Publisher<'_>,
    ) -> Result<u64, BatchError> {
        let bytes = self.spill.read(file.runs.iter().map(|run| (run.offset, run.bytes)))?;
        publish_day(file.day, &bytes, table, types, publisher, &|detail| self.spill.corrupt(detail))
    }
}

/// Writes one file of a day's rows, in order; returns their number.
pub(crate) fn publish_day(
    day: i64,
    bytes: &[u8],
    table: &Table,
    types: &EventTypes,
    publisher: &Publisher<'_>,
    corrupt: &dyn Fn(&str) -> BatchError,
) -> Result<u64, BatchError> {
    let mut rows = Vec::with_capacity(bytes.len() / 32);
    let mut rest = bytes;
    while !rest.is_empty() {
        let (row, tail) = RowRef::split(rest).ok_or_else(|| corrupt("a row is cut short"))?;
        rows.push(row);
        rest = tail;
    }
    // Stable: runs that are sorted already are merged, not sorted again.
    rows.sort_by(|a, b| {
        (a.owner_is_session(), a.owner(), a.position())
            .cmp(&(b.owner_is_session(), b.owner(), b.position()))
            .then_with(|| a.bytes().cmp(b.bytes()))
    });
    let mut groups = rows.chunks(GROUP_ROWS);
    let encoded = table.encode(|| groups.next().map(|group| columns(group, types)))?;
    let folder = format!("interactions/day={}", day_name(day));
    publisher.put("interactions", &folder, ".parquet", &encoded, rows.len() as u64)?;
    Ok(rows.len() as u64)
}

/// `2017-12-01` for days since 1970.
pub(crate) fn day_name(day: i64) -> String {
    anabranch_events::wire::time::day_and_hour(day.saturating_mul(DAY_MS)).0
}

/// The table of interactions.
pub(crate) fn interactions_table() -> Table {
    Table::new(
        "interactions",
        "message interactions {
            optional binary user_id (STRING);
            optional binary session_id (STRING);
            required binary item_id (STRING);
            required binary event_type (STRING);
            optional float event_value;
            required int64 time_ms (TIMESTAMP(MILLIS, true));
            required binary event_id (STRING);
        }",
        &["event_id"],
        &["time_ms"],
    )
}

fn columns(rows: &[RowRef<'_>], types: &EventTypes) -> Vec<Column> {
    let (mut users, mut sessions) = (TextBuilder::optional(), TextBuilder::optional());
    let (mut items, mut kinds, mut ids) = (TextBuilder::required(), TextBuilder::required(), TextBuilder::required());
    let (mut values, mut present) = (Vec::new(), Vec::with_capacity(rows.len()));
    let mut times = Vec::with_capacity(rows.len());
    for row in rows {
        if row.owner_is_session() {
            users.push(None);
            sessions.push(Some(row.owner()));
        } else {
            users.push(Some(row.owner()));
            sessions.push(row.session());
        }
        items.push(Some(row.item()));
        kinds.push(Some(types.get(row.event_type()).name.as_bytes()));
        present.push(i16::from(row.value().is_some()));
        values.extend(row.value());
        times.push(row.time_ms());
        ids.push(Some(&hex(row.event().0)));
    }
    vec![
        users.finish(),
        sessions.finish(),
        items.finish(),
        kinds.finish(),
        Column::Float { values, present },
        Column::Long(times),
        ids.finish(),
    ]
}

/// The 16 hexadecimal digits of an event key, as `EventKey` displays it.
fn hex(key: u64) -> [u8; 16] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    std::array::from_fn(|i| DIGITS[(key >> (60 - 4 * i)) as usize & 15])
}

/// Buffers one partition's clean rows by day.
#[derive(Debug)]
pub(crate) struct DayWriter<'a> {
    days: &'a Days,
    partition: u32,
    number: u32,
    buffered: usize,
    buffers: BTreeMap<i64, Vec<u8>>,
}

impl DayWriter<'_> {
    pub(crate) fn push(&mut self, row: RowRef<'_>) -> Result<(), BatchError> {
        self.buffers.entry(row.time_ms().div_euclid(DAY_MS)).or_default().extend_from_slice(row.bytes());
        self.buffered += row.bytes().len();
        if self.buffered >= BUFFERED_BYTES_MAX { self.flush() } else { Ok(()) }
    }

    pub(crate) fn flush(&mut self) -> Result<(), BatchError> {
        // All days go out as one block, so that small days cost no write each.
        let mut block = Vec::with_capacity(self.buffered);
        let mut places = Vec::with_capacity(self.buffers.len());
        for (day, buffer) in &self.buffers {
            places.push((*day, block.len() as u64, buffer.len() as u32));
            block.extend_from_slice(buffer);
        }
        self.buffers.clear();
        self.buffered = 0;
        if block.is_empty() {
            return Ok(());
        }
        let start = self.days.spill.append(&block)?;
        let mut runs = self.days.runs.lock().unwrap_or_else(PoisonError::into_inner);
        for (day, offset, bytes) in places {
            let run = Run { partition: self.partition, number: self.number, offset: start + offset, bytes };
            runs.entry(day).or_default().push(run);
        }
        self.number += 1;
        Ok(())
    }
}
