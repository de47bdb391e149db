//! What an incremental run takes over from the dataset that it adds to: the clean rows and the histories to fold again
//! with the new rows, and the quarantine.
//!
//! A history joins what it was made of, also what lost against a duplicate then, so the fold over the clean rows, the
//! history and the new rows reaches what a fold over everything reaches.

use std::borrow::Cow;
use std::collections::BTreeMap;

use anabranch_events::Event;
use anabranch_stores::lake::ObjectStore;

use super::Stages;
use super::publish::StageCounts;
use super::records::{RecordKind, Records};
use super::{EachRecords, map};
use crate::BatchError;
use crate::dataset::{Dataset, Interaction, read_histories};
use crate::etl::quarantine::{FILE_CODE, Quarantined};
use crate::etl::row::put_history;
use crate::etl::{DataFile, sinks};

/// Bytes of records that are handed over together.
const HAND_OVER_BYTES: usize = 8 << 20;

/// The rows of a published file of interactions, as the map once gave them.
pub fn interaction_records(
    stages: &Stages,
    dataset: &Dataset<'_>,
    path: &str,
    each: EachRecords<'_>,
) -> Result<(), BatchError> {
    let mut out = Carried { records: Records::default() };
    for interaction in dataset.interactions_of(path)? {
        sinks::put_rows(&event_of(interaction?, stages)?, &mut out)?;
        if out.records.bytes() >= HAND_OVER_BYTES {
            each(out.records.take())?;
        }
    }
    each(out.records)
}

fn event_of(interaction: Interaction, stages: &Stages) -> Result<Event<'static>, BatchError> {
    let kind = stages.types().code(&interaction.event_type).ok_or_else(|| BatchError::Mapping {
        problem: format!(
            "the dataset holds events of type {:?}, which the settings no longer name: read everything again, without \
             an incremental run",
            interaction.event_type
        ),
    })?;
    Ok(Event {
        user: interaction.user.map(Cow::Owned),
        session: interaction.session.map(Cow::Owned),
        item: Cow::Owned(interaction.item),
        kind,
        time_ms: interaction.time_ms,
        value: interaction.value,
        key: interaction.event,
        event_id: None,
    })
}

/// The histories of a published file, to be joined by the fold.
pub fn history_records(
    dataset: &Dataset<'_>,
    store: &dyn ObjectStore,
    path: &str,
    each: EachRecords<'_>,
) -> Result<(), BatchError> {
    let file: DataFile = dataset.file(path)?;
    let mut out = Carried { records: Records::default() };
    for entry in read_histories(store, &file) {
        let (key, bytes) = entry?;
        let owner = key.to_bytes();
        out.records.push(RecordKind::Row, 0, |out| out.extend(owner), |out| put_history(out, &key, &bytes));
        if out.records.bytes() >= HAND_OVER_BYTES {
            each(out.records.take())?;
        }
    }
    each(out.records)
}

/// The dataset's refused interactions, which stay in the quarantine, and how many of each reason they are. Items and
/// users are read whole by every run, so their lines are not taken over.
pub fn carried_quarantine(dataset: &Dataset<'_>) -> Result<Records, BatchError> {
    let mut records = Records::default();
    let mut carried_by_reason: BTreeMap<String, u64> = BTreeMap::new();
    let mut place = 0;
    for entry in dataset.quarantine()? {
        if map::table_number(&entry.table) != 0 {
            continue;
        }
        if entry.code != FILE_CODE {
            *carried_by_reason.entry(entry.code.clone()).or_default() += 1;
        }
        let key = std::iter::once(0).chain(u32::to_be_bytes(place));
        records.push(RecordKind::Quarantine, 0, |out| out.extend(key), |out| Quarantined::put(&entry, out));
        place += 1;
    }
    StageCounts { carried_by_reason, ..StageCounts::default() }.put(&mut records);
    Ok(records)
}

/// Rows on their way to the engine's shuffle.
struct Carried {
    records: Records,
}

impl sinks::RowsOut for Carried {
    fn row(&mut self, is_session: bool, owner: &str, put: impl FnOnce(&mut Vec<u8>)) -> Result<(), BatchError> {
        let key = |out: &mut Vec<u8>| {
            out.push(if is_session { b's' } else { b'u' });
            out.extend_from_slice(owner.as_bytes());
        };
        self.records.push(RecordKind::Row, 0, key, put);
        Ok(())
    }

    fn finish(&mut self) -> Result<(), BatchError> {
        Ok(())
    }
}
