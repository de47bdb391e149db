//! What an incremental run takes over from the dataset that it adds to: the clean rows and the histories to fold again
//! with the new rows, and the quarantine.
//!
//! A history joins what it was made of, also what lost against a duplicate then, so the fold over the clean rows, the
//! history and the new rows reaches what a fold over everything reaches.

use std::borrow::Cow;
use std::collections::BTreeMap;

use anabranch_events::Event;
use anabranch_stores::lake::ObjectStore;

use super::EachRecords;
use super::Stages;
use super::map::{self, Refusals};
use super::publish::StageCounts;
use super::records::{RecordKind, Records};
use crate::BatchError;
use crate::dataset::{Dataset, Interaction, corrupt, read_histories, read_quarantine};
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
        out.records.push(RecordKind::Row, 0, |out| out.extend(owner), |out| put_history(out, &key, &bytes))?;
        if out.records.bytes() >= HAND_OVER_BYTES {
            each(out.records.take())?;
        }
    }
    each(out.records)
}

/// The refused interactions in one published file of the quarantine, which stay there, and how many of each reason they
/// are. Entries of files that the plan reads again are left out: they are refused again, or not any more. Items and users
/// are read whole by every run, so their entries are not taken over either.
pub fn quarantine_records(
    stages: &Stages,
    dataset: &Dataset<'_>,
    store: &dyn ObjectStore,
    path: &str,
    each: EachRecords<'_>,
) -> Result<(), BatchError> {
    let file: DataFile = dataset.file(path)?;
    let mut carried_by_reason: BTreeMap<String, u64> = BTreeMap::new();
    let mut out = Refusals::default();
    let mut lines = Vec::new();
    // Names are digest-NNNNN: the number gives the order, before everything that this run refuses.
    let place = path.rsplit('-').next().and_then(|name| name.get(..5)?.parse().ok()).unwrap_or(u32::MAX);
    for line in read_quarantine(store, &file)?.lines() {
        let entry: Quarantined = serde_json::from_str(line).map_err(|error| corrupt(&file.path, &error.to_string()))?;
        if map::table_number(&entry.table) != 0 || stages.plan.reads(&entry.file) {
            continue;
        }
        entry.put(&mut lines);
        if entry.code != FILE_CODE {
            *carried_by_reason.entry(entry.code).or_default() += 1;
        }
        if lines.len() >= HAND_OVER_BYTES {
            out.carried(place, &lines)?;
            each(out.records.take())?;
            lines.clear();
        }
    }
    if !lines.is_empty() {
        out.carried(place, &lines)?;
    }
    StageCounts { carried_by_reason, ..StageCounts::default() }.put(&mut out.records)?;
    each(out.records)
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
        self.records.push(RecordKind::Row, 0, key, put)
    }

    fn finish(&mut self) -> Result<(), BatchError> {
        Ok(())
    }
}
