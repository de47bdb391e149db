//! Folding one partition of the engine.

use std::sync::Arc;

use anabranch_events::HistoryKey;
use anabranch_stores::lake::ObjectStore;

use super::Stages;
use super::publish::{StageCounts, put_files};
use super::records::{RecordKind, Records, RecordsRef};
use crate::BatchError;
use crate::etl::attributes;
use crate::etl::days::DAY_MS;
use crate::etl::fold::FoldRules;
use crate::etl::partition::PartitionFold;
use crate::etl::publish::Publisher;
use crate::etl::row::RowRef;

/// The floor of an erased history, milliseconds since 1970.
pub(super) type Erased<'a> = &'a (dyn Fn(&HistoryKey) -> Option<i64> + Sync);

/// The fold of one partition: rows in, clean rows out, histories and users written at the end. Holds the histories and
/// users of the partition and the rows of one owner.
#[derive(Debug)]
pub struct Folder {
    stages: Arc<Stages>,
    number: u32,
    fold: PartitionFold,
    key: Vec<u8>,
    /// Rows of the owner that `key` names.
    rows: Vec<u8>,
}

impl Folder {
    pub(super) fn new(stages: Arc<Stages>, number: u32) -> Result<Self, BatchError> {
        let fold = PartitionFold::new(&stages.types)?;
        Ok(Self { stages, number, fold, key: Vec::new(), rows: Vec::new() })
    }

    /// Takes rows whose owners stand together, in ascending order of keys; an owner's rows may come in any order. Clean
    /// rows of the owners that are complete go to `out`.
    pub fn push(&mut self, records: RecordsRef<'_>, erased: Erased<'_>, out: &mut Records) -> Result<(), BatchError> {
        for record in records.all(RecordKind::Row)? {
            if record.key != self.key {
                self.close(erased, out)?;
                if record.key < self.key.as_slice() {
                    let problem = "keys must ascend: sort each partition by key".to_owned();
                    return Err(BatchError::Records { problem });
                }
                self.key.clear();
                self.key.extend_from_slice(record.key);
            }
            let row = whole_row(record.row, &self.stages)?;
            let kind = if row.owner_is_session() { b's' } else { b'u' };
            if record.key.split_first() != Some((&kind, row.owner())) {
                return Err(BatchError::Records { problem: "a key is not that of its row's owner".to_owned() });
            }
            self.rows.extend_from_slice(record.row);
        }
        Ok(())
    }

    /// Folds the last owner, writes histories and users, and gives their files and the counts.
    pub fn finish(mut self, store: &dyn ObjectStore, erased: Erased<'_>, out: &mut Records) -> Result<(), BatchError> {
        self.close(erased, out)?;
        let publisher = Publisher::blind(store);
        let counts = self.fold.publish(self.number as usize, &attributes::users_table(), &publisher)?;
        put_files(&publisher, out)?;
        StageCounts { fold: Some(counts), ..StageCounts::default() }.put(out)
    }

    fn close(&mut self, erased: Erased<'_>, out: &mut Records) -> Result<(), BatchError> {
        let rules = FoldRules {
            types: &self.stages.types,
            bot_events_per_day_max: self.stages.plan.settings.bot_events_per_day_max,
            erased,
        };
        let mut rows = Vec::new();
        let mut rest = self.rows.as_slice();
        while let Some((row, tail)) = RowRef::split(rest) {
            rows.push(row);
            rest = tail;
        }
        rows.sort_unstable_by(|a, b| a.position().cmp(&b.position()).then_with(|| a.cmp(b)));
        let damaged = |_| damaged_row();
        self.fold.owner(&rows, &rules, &damaged, &mut |row| {
            let key = |bytes: &mut Vec<u8>| {
                bytes.push(u8::from(row.owner_is_session()));
                bytes.extend_from_slice(row.owner());
            };
            let day = row.time_ms().div_euclid(DAY_MS);
            out.push(RecordKind::Clean, day, key, |bytes| bytes.extend_from_slice(row.bytes()))
        })?;
        self.rows.clear();
        Ok(())
    }
}

pub(super) fn damaged_row() -> BatchError {
    BatchError::Records { problem: "a row is damaged, or of another run: map the files again".to_owned() }
}

/// The row that is exactly these bytes.
pub(super) fn whole_row<'a>(bytes: &'a [u8], stages: &Stages) -> Result<RowRef<'a>, BatchError> {
    match RowRef::split(bytes) {
        Some((row, [])) if row.is_known(&stages.types) => Ok(row),
        _ => Err(damaged_row()),
    }
}
