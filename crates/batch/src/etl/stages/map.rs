//! Mapping one file into records.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use anabranch_events::Rejection;
use anabranch_stores::lake::StoreOptions;
use serde::{Deserialize, Serialize};

use super::records::{RecordKind, Records};
use super::{EachRecords, PlannedFile, Stages};
use crate::BatchError;
use crate::etl::attributes::{AttributePlan, AttributeTable};
use crate::etl::map::{self, MapRules};
use crate::etl::quarantine::{BlockKey, Quarantined};
use crate::etl::report::FileReport;
use crate::etl::sinks::{AttributeSink, MapSink, RefusalsOut, RowsOut, SinkFiles};
use crate::etl::{Accounting, constant_type, file_line};
use crate::input::{Cell, Columns, InputFile, Place, Reading, RowSink, read_rows};
use crate::mapping::TableMapping;

/// Bytes of records that are handed over together, unless a unit of the file has fewer.
const HAND_OVER_BYTES: usize = 8 << 20;

/// What became of one file.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Account {
    pub(super) index: u32,
    pub(super) line: FileReport,
    pub(super) by_reason: BTreeMap<String, u64>,
}

pub(super) fn map_file(
    stages: &Stages,
    planned: &PlannedFile,
    store: &StoreOptions,
    scratch: &Path,
    each: EachRecords<'_>,
) -> Result<(), BatchError> {
    let plan = &stages.plan;
    std::fs::create_dir_all(scratch).map_err(|error| BatchError::scratch("create", scratch, error))?;
    let file = InputFile::at(&planned.place, &planned.name, planned.size, planned.modified_ms, store)?;
    let files = std::slice::from_ref(&file);
    let one = SinkFiles { files, first: planned.index };
    let refusals = Refusals::default();
    match planned.table.as_str() {
        "interactions" => {
            let mapping = &plan.mapping.interactions;
            let rules = MapRules { types: &stages.types, as_of_ms: plan.as_of_ms, until_ms: plan.until_ms };
            let constant = constant_type(mapping, &stages.types)?;
            let rows = Rows { kind: RecordKind::Row, records: Records::default() };
            let sink = MapSink::new(&rules, constant, rows, one, refusals);
            read(planned, files, &map::interaction_columns(mapping), sink, scratch, each)
        }
        name => {
            let (table, mapping) = match name {
                "items" => (AttributeTable::Items, plan.mapping.items.as_ref()),
                _ => (AttributeTable::Users, plan.mapping.users.as_ref()),
            };
            let mapping: &TableMapping = mapping.ok_or_else(|| BatchError::Records {
                problem: format!("the mapping has no table {name:?}, of which {} is said to be a file", planned.name),
            })?;
            let attributes = AttributePlan::new(table, mapping);
            let kind = if table == AttributeTable::Items { RecordKind::Item } else { RecordKind::Row };
            let rows = Rows { kind, records: Records::default() };
            let sink = AttributeSink::new(table, &attributes, rows, one, refusals);
            read(planned, files, &attributes.columns, sink, scratch, each)
        }
    }
}

fn read<S: Accounting + Buffered>(
    planned: &PlannedFile,
    files: &[InputFile],
    columns: &Columns,
    sink: S,
    scratch: &Path,
    each: EachRecords<'_>,
) -> Result<(), BatchError> {
    let mut sinks = [Handing { sink, each }];
    let reading = Reading { files, columns, scratch, progress: &|_| {} };
    let outcome = read_rows(&reading, &mut sinks)?.into_iter().next().unwrap_or_default();
    let [Handing { mut sink, each }] = sinks;
    let mut last = Records::default();
    for records in sink.buffers() {
        if !records.is_empty() {
            each(records.take())?;
        }
    }
    if let Some(reason) = &outcome.failed {
        let line = Quarantined::file(&planned.table, &planned.name, reason);
        let number = table_number(&planned.table);
        let key = quarantine_key((number, planned.index, u32::MAX), 0);
        last.push(RecordKind::Quarantine, 0, |out| out.extend(key), |out| line.put(out))?;
    }
    let accounts = sink.finish()?;
    let counted = accounts.files.into_iter().next().unwrap_or_default();
    let account = Account {
        index: planned.index,
        line: file_line(&planned.table, &files[0], outcome, &counted),
        by_reason: accounts.by_reason.into_iter().map(|(code, count)| (code.as_str().to_owned(), count)).collect(),
    };
    let json = serde_json::to_vec(&account).expect("texts and numbers serialise");
    last.push(RecordKind::Account, 0, |_| {}, |out| out.extend(json))?;
    each(last)
}

pub(super) fn table_number(table: &str) -> u8 {
    match table {
        "interactions" => 0,
        "items" => 1,
        _ => 2,
    }
}

/// Bytes that sort as the quarantine does: table, file, place in the file, number of the record among those of that
/// place. What an earlier run refused begins with 0 and comes first.
fn quarantine_key((table, file, unit): BlockKey, number: u32) -> Vec<u8> {
    let mut key = vec![table + 1];
    key.extend(file.to_be_bytes());
    key.extend(unit.to_be_bytes());
    key.extend(number.to_be_bytes());
    key
}

/// Rows on their way to the engine's shuffle.
struct Rows {
    kind: RecordKind,
    records: Records,
}

impl RowsOut for Rows {
    fn row(&mut self, is_session: bool, owner: &str, put: impl FnOnce(&mut Vec<u8>)) -> Result<(), BatchError> {
        let is_item = self.kind == RecordKind::Item;
        let key = |out: &mut Vec<u8>| {
            if !is_item {
                out.push(if is_session { b's' } else { b'u' });
            }
            out.extend_from_slice(owner.as_bytes());
        };
        self.records.push(self.kind, 0, key, put)
    }

    fn finish(&mut self) -> Result<(), BatchError> {
        Ok(())
    }
}

/// Lines on their way to the engine.
#[derive(Default)]
pub(super) struct Refusals {
    pub(super) records: Records,
    /// The place of the last record, and how many it had.
    last: Option<(BlockKey, u32)>,
}

impl Refusals {
    /// Lines that an earlier run refused, of its file `number` of the quarantine.
    pub(super) fn carried(&mut self, number: u32, lines: &[u8]) -> Result<(), BatchError> {
        let mut key = self.next_key((0, number, 0));
        key[0] = 0;
        self.put(&key, lines)
    }

    fn next_key(&mut self, place: BlockKey) -> Vec<u8> {
        let number = match self.last {
            Some((last, number)) if last == place => number + 1,
            _ => 0,
        };
        self.last = Some((place, number));
        quarantine_key(place, number)
    }

    fn put(&mut self, key: &[u8], lines: &[u8]) -> Result<(), BatchError> {
        self.records.push(
            RecordKind::Quarantine,
            0,
            |out| out.extend_from_slice(key),
            |out| out.extend_from_slice(lines),
        )
    }
}

impl RefusalsOut for Refusals {
    fn refused(&mut self, place: BlockKey, lines: &[u8]) -> Result<(), BatchError> {
        let key = self.next_key(place);
        self.put(&key, lines)
    }
}

/// A sink whose rows and refusals can be taken.
trait Buffered {
    fn buffers(&mut self) -> [&mut Records; 2];
}

impl Buffered for MapSink<'_, Rows, Refusals> {
    fn buffers(&mut self) -> [&mut Records; 2] {
        let (rows, refusals) = self.parts();
        [&mut rows.records, &mut refusals.records]
    }
}

impl Buffered for AttributeSink<'_, Rows, Refusals> {
    fn buffers(&mut self) -> [&mut Records; 2] {
        let (rows, refusals) = self.parts();
        [&mut rows.records, &mut refusals.records]
    }
}

/// Hands over what a sink holds now and then.
struct Handing<'a, S> {
    sink: S,
    each: EachRecords<'a>,
}

impl<S: Buffered> Handing<'_, S> {
    fn hand_over(&mut self, least: usize) -> Result<(), BatchError> {
        for records in self.sink.buffers() {
            if records.bytes() >= least && !records.is_empty() {
                (self.each)(records.take())?;
            }
        }
        Ok(())
    }
}

impl<S: RowSink + Buffered> RowSink for Handing<'_, S> {
    fn row<'r>(
        &mut self,
        place: Place,
        cells: &mut [Cell<'r>],
        others: &mut Vec<(Cow<'r, str>, Cell<'r>)>,
        raw: &dyn Fn() -> Vec<u8>,
    ) -> Result<(), BatchError> {
        self.sink.row(place, cells, others, raw)?;
        self.hand_over(HAND_OVER_BYTES)
    }

    fn bad_row(&mut self, place: Place, rejection: Rejection, raw: &[u8]) -> Result<(), BatchError> {
        self.sink.bad_row(place, rejection, raw)?;
        self.hand_over(HAND_OVER_BYTES)
    }

    fn unit_done(&mut self) -> Result<(), BatchError> {
        self.sink.unit_done()?;
        self.hand_over(0)
    }
}
