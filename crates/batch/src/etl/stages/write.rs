//! Writing data files from records that the engine put in order.

use std::sync::Arc;

use anabranch_stores::lake::ObjectStore;

use super::Stages;
use super::fold::{damaged_row, whole_row};
use super::publish::{StageCounts, put_files};
use super::records::{RecordKind, Records, RecordsRef};
use crate::BatchError;
use crate::etl::publish::Publisher;
use crate::etl::shuffle::PARTITION_BYTES;
use crate::etl::{attributes, days, quarantine};

/// Writes clean rows, a day after the other. Holds the rows of one file.
#[derive(Debug)]
pub struct DayWriter {
    stages: Arc<Stages>,
    day: i64,
    key: Vec<u8>,
    rows: Vec<u8>,
}

impl DayWriter {
    /// Begins.
    pub const fn new(stages: Arc<Stages>) -> Self {
        Self { stages, day: 0, key: Vec::new(), rows: Vec::new() }
    }

    /// Takes clean rows in order of (part, key); files go to `out`.
    pub fn push(
        &mut self,
        records: RecordsRef<'_>,
        store: &dyn ObjectStore,
        out: &mut Records,
    ) -> Result<(), BatchError> {
        for record in records.all(RecordKind::Clean)? {
            let is_full = self.rows.len() as u64 >= days::FILE_BYTES && record.key != self.key;
            if is_full || record.part != self.day {
                self.finish(store, out)?;
                self.day = record.part;
            }
            let row = whole_row(record.row, &self.stages)?;
            if row.time_ms().div_euclid(days::DAY_MS) != record.part {
                return Err(BatchError::Records { problem: "a clean row is of another day than its part".to_owned() });
            }
            self.rows.extend_from_slice(record.row);
            self.key.clear();
            self.key.extend_from_slice(record.key);
        }
        Ok(())
    }

    /// Writes what is held.
    pub fn finish(&mut self, store: &dyn ObjectStore, out: &mut Records) -> Result<(), BatchError> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let publisher = Publisher::blind(store);
        let table = days::interactions_table();
        days::publish_day(self.day, &self.rows, &table, &self.stages.types, &publisher, &|_| damaged_row())?;
        self.rows.clear();
        put_files(&publisher, out)
    }
}

/// Writes the catalogue. Holds the rows of one file.
#[derive(Debug, Default)]
pub struct ItemWriter {
    key: Vec<u8>,
    rows: Vec<u8>,
    replaced: u64,
}

impl ItemWriter {
    /// Takes rows of items, those of one item together; files go to `out`.
    pub fn push(
        &mut self,
        stages: &Stages,
        records: RecordsRef<'_>,
        store: &dyn ObjectStore,
        out: &mut Records,
    ) -> Result<(), BatchError> {
        for record in records.all(RecordKind::Item)? {
            if self.rows.len() as u64 >= PARTITION_BYTES && record.key != self.key {
                self.write(store, out)?;
            }
            let row = whole_row(record.row, stages)?;
            if row.owner() != record.key {
                return Err(BatchError::Records { problem: "a key is not that of its item".to_owned() });
            }
            self.rows.extend_from_slice(record.row);
            self.key.clear();
            self.key.extend_from_slice(record.key);
        }
        Ok(())
    }

    /// Writes what is held and gives the counts.
    pub fn finish(mut self, store: &dyn ObjectStore, out: &mut Records) -> Result<(), BatchError> {
        self.write(store, out)?;
        StageCounts { items_replaced: self.replaced, ..StageCounts::default() }.put(out)
    }

    fn write(&mut self, store: &dyn ObjectStore, out: &mut Records) -> Result<(), BatchError> {
        let publisher = Publisher::blind(store);
        let table = attributes::items_table();
        let (_, replaced) = attributes::publish_items(&self.rows, &table, &publisher, &|_| damaged_row())?;
        self.replaced += replaced;
        self.rows.clear();
        put_files(&publisher, out)
    }
}

/// Files of the quarantine that one partition may have, each of some 32 MiB of lines.
const QUARANTINE_FILES: u32 = 1000;
/// Partitions of the quarantine: five digits of a file's name order them.
const QUARANTINE_PARTITIONS: u32 = 100;

/// Writes lines of the quarantine. Holds one file's.
#[derive(Debug)]
pub struct QuarantineWriter {
    next: u32,
    end: u32,
    lines: Vec<u8>,
}

impl QuarantineWriter {
    /// Begins partition `number`, below 100.
    pub fn new(number: u32) -> Result<Self, BatchError> {
        if number >= QUARANTINE_PARTITIONS {
            let problem =
                format!("partition {number} of the quarantine: bring it into {QUARANTINE_PARTITIONS} at most");
            return Err(BatchError::Records { problem });
        }
        Ok(Self { next: number * QUARANTINE_FILES, end: (number + 1) * QUARANTINE_FILES, lines: Vec::new() })
    }

    /// Takes lines in order of their keys; files go to `out`.
    pub fn push(
        &mut self,
        records: RecordsRef<'_>,
        store: &dyn ObjectStore,
        out: &mut Records,
    ) -> Result<(), BatchError> {
        for record in records.all(RecordKind::Quarantine)? {
            self.lines.extend_from_slice(record.row);
            if self.lines.len() >= quarantine::FILE_BYTES {
                self.finish(store, out)?;
            }
        }
        Ok(())
    }

    /// Writes what is held.
    pub fn finish(&mut self, store: &dyn ObjectStore, out: &mut Records) -> Result<(), BatchError> {
        if self.lines.is_empty() {
            return Ok(());
        }
        if self.next == self.end {
            let problem = "one partition of the quarantine holds more than 32 GB: bring it into more".to_owned();
            return Err(BatchError::Records { problem });
        }
        let publisher = Publisher::blind(store);
        quarantine::publish_lines(&publisher, self.next, &self.lines)?;
        self.next += 1;
        self.lines.clear();
        put_files(&publisher, out)
    }
}
