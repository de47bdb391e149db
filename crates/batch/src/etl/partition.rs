//! Folding one partition: put its rows in order, fold each owner, pass on what comes out.

use anabranch_events::{EventTypes, HistoryKey, codec};
use anabranch_stores::history_file::{HistoryFileError, HistoryFileWriter};
use serde::{Deserialize, Serialize};

use super::attributes::UserRows;
use super::days::Days;
use super::fold::{DamagedRow, FoldRules, Folded, fold_owner};
use super::publish::Publisher;
use super::row::{RowKind, RowRef, owner_hash};
use super::shuffle::Spill;
use crate::BatchError;
use crate::tables::Table;

/// What folding a partition found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct PartitionCounts {
    pub(crate) clean: u64,
    pub(crate) duplicates: u64,
    pub(crate) erased: u64,
    pub(crate) bots: u64,
    pub(crate) active_users: u64,
    pub(crate) users_with_attributes: u64,
    pub(crate) attributes_replaced: u64,
    pub(crate) attributes_erased: u64,
    pub(crate) by_event_type: Vec<u64>,
    pub(crate) user_histories: u64,
    pub(crate) session_histories: u64,
    pub(crate) entries: u64,
    pub(crate) history_bytes: u64,
}

impl PartitionCounts {
    pub(crate) fn add(&mut self, other: &Self) {
        self.clean += other.clean;
        self.duplicates += other.duplicates;
        self.erased += other.erased;
        self.bots += other.bots;
        self.active_users += other.active_users;
        self.users_with_attributes += other.users_with_attributes;
        self.attributes_replaced += other.attributes_replaced;
        self.attributes_erased += other.attributes_erased;
        self.by_event_type.resize(self.by_event_type.len().max(other.by_event_type.len()), 0);
        self.by_event_type.iter_mut().zip(&other.by_event_type).for_each(|(mine, theirs)| *mine += theirs);
        self.user_histories += other.user_histories;
        self.session_histories += other.session_histories;
        self.entries += other.entries;
        self.history_bytes += other.history_bytes;
    }
}

/// Where a row sorts. Eight bytes of hash first, so that owners are told apart without touching their ids.
#[derive(Clone, Copy)]
struct Slot<'a> {
    hash: u64,
    time_ms: i64,
    event: u64,
    row: RowRef<'a>,
}

/// Rows, and where each owner's begin and end.
type Ordered<'a> = (Vec<RowRef<'a>>, Vec<(usize, usize)>);

/// The rows of a partition, owner by owner in order of history key, each owner's in order of (time, event key, bytes).
fn in_order<'a>(bytes: &'a [u8], spill: &Spill) -> Result<Ordered<'a>, BatchError> {
    let mut slots: Vec<Slot<'a>> = Vec::with_capacity(bytes.len() / 32);
    let mut rest = bytes;
    while !rest.is_empty() {
        let (row, tail) = RowRef::split(rest).ok_or_else(|| spill.corrupt("a row is cut short"))?;
        let hash = owner_hash(row.owner_is_session(), row.owner());
        slots.push(Slot { hash, time_ms: row.time_ms(), event: row.event().0, row });
        rest = tail;
    }
    slots.sort_unstable_by(|a, b| {
        (a.hash, a.time_ms, a.event).cmp(&(b.hash, b.time_ms, b.event)).then_with(|| a.row.cmp(&b.row))
    });
    let owner = |slot: &Slot<'a>| (slot.row.owner_is_session(), slot.row.owner());
    let mut owners: Vec<(usize, usize)> = Vec::new();
    let mut start = 0;
    while start < slots.len() {
        let hash = slots[start].hash;
        let end = start + slots[start..].partition_point(|slot| slot.hash == hash);
        let first = owner(&slots[start]);
        if slots[start..end].iter().any(|slot| owner(slot) != first) {
            // Two owners with one hash: rare, and then they are told apart by their ids. The sort is stable, so each
            // owner's rows stay in order.
            slots[start..end].sort_by(|a, b| owner(a).cmp(&owner(b)));
        }
        let mut from = start;
        for run in slots[start..end].chunk_by(|a, b| owner(a) == owner(b)) {
            owners.push((from, from + run.len()));
            from += run.len();
        }
        start = end;
    }
    // A history key's bytes begin with 's' or 'u': sessions come first.
    let key = |&(from, _): &(usize, usize)| (!slots[from].row.owner_is_session(), slots[from].row.owner());
    owners.sort_unstable_by(|a, b| key(a).cmp(&key(b)));
    Ok((slots.into_iter().map(|slot| slot.row).collect(), owners))
}

/// Folds partition `number` and publishes its histories and users.
pub(crate) fn fold_partition(
    number: usize,
    spill: &Spill,
    days: &Days,
    rules: &FoldRules<'_>,
    users_table: &Table,
    publisher: &Publisher<'_>,
) -> Result<PartitionCounts, BatchError> {
    let bytes = spill.partition(number)?;
    let (rows, owners) = in_order(&bytes, spill)?;
    let damaged = |_: DamagedRow| spill.corrupt("a row holds no valid text");
    let mut writer = days.writer(number as u32);
    let mut fold = PartitionFold::new(rules.types)?;
    for (from, to) in owners {
        fold.owner(&rows[from..to], rules, &damaged, &mut |row| writer.push(row))?;
    }
    writer.flush()?;
    fold.publish(number, users_table, publisher)
}

/// The fold of one partition as it grows, owner by owner in ascending order of their keys.
#[derive(Debug)]
pub(crate) struct PartitionFold {
    counts: PartitionCounts,
    histories: HistoryFileWriter<Vec<u8>>,
    users: UserRows,
}

impl PartitionFold {
    pub(crate) fn new(types: &EventTypes) -> Result<Self, BatchError> {
        let counts = PartitionCounts { by_event_type: vec![0; types.types().len()], ..Default::default() };
        Ok(Self { counts, histories: HistoryFileWriter::new(Vec::new()).map_err(encode)?, users: UserRows::default() })
    }

    /// Folds one owner, whose rows are in order; its clean rows go to `clean`.
    pub(crate) fn owner<'r>(
        &mut self,
        rows: &[RowRef<'r>],
        rules: &FoldRules<'_>,
        damaged: &dyn Fn(DamagedRow) -> BatchError,
        clean: &mut dyn FnMut(RowRef<'r>) -> Result<(), BatchError>,
    ) -> Result<(), BatchError> {
        let Some(first) = rows.first() else { return Ok(()) };
        let owner = first.owner_key().ok_or_else(|| damaged(DamagedRow))?;
        let folded = fold_owner(&owner, rows, rules).map_err(damaged)?;
        let counts = &mut self.counts;
        counts.clean += folded.clean.len() as u64;
        counts.duplicates += folded.duplicates;
        counts.erased += folded.erased;
        counts.attributes_replaced += folded.attributes_replaced;
        counts.attributes_erased += folded.attributes_erased;
        for &index in &folded.clean {
            let row = rows[index as usize];
            counts.by_event_type[usize::from(row.event_type())] += 1;
            clean(row)?;
        }
        if let Some(history) = &folded.history {
            let encoded = codec::encode(history, rules.types);
            self.histories.push(&owner, &encoded).map_err(encode)?;
            counts.entries += history.len() as u64;
            counts.history_bytes += encoded.len() as u64;
        }
        note_owner(&owner, &folded, rows, counts, &mut self.users);
        Ok(())
    }

    /// Publishes the histories and users of partition `number`.
    pub(crate) fn publish(
        self,
        number: usize,
        users_table: &Table,
        publisher: &Publisher<'_>,
    ) -> Result<PartitionCounts, BatchError> {
        let Self { counts, histories, users } = self;
        let count = counts.user_histories + counts.session_histories;
        if count > 0 {
            let file = histories.finish().map_err(encode)?;
            publisher.put("histories", "histories", &format!("-{number:05}.hist"), &file, count)?;
        }
        users.publish(users_table, publisher)?;
        Ok(counts)
    }
}

#[allow(clippy::needless_pass_by_value)] // the shape that `map_err` takes
fn encode(error: HistoryFileError) -> BatchError {
    BatchError::Encode { what: "histories", detail: error.to_string() }
}

fn note_owner(
    owner: &HistoryKey,
    folded: &Folded,
    rows: &[RowRef<'_>],
    counts: &mut PartitionCounts,
    users: &mut UserRows,
) {
    let has_history = u64::from(folded.history.is_some());
    match owner {
        HistoryKey::Session(_) => counts.session_histories += has_history,
        HistoryKey::User(user) => {
            counts.user_histories += has_history;
            counts.active_users += u64::from(!folded.clean.is_empty());
            counts.bots += u64::from(folded.is_bot);
            counts.users_with_attributes += u64::from(folded.attributes.is_some());
            let attributes = folded.attributes.map(|index| rows[index as usize]);
            debug_assert!(attributes.is_none_or(|row| row.kind() == RowKind::Attributes));
            if attributes.is_some() || !folded.clean.is_empty() {
                users.push(user, attributes.map(RowRef::payload), folded.clean.len() as u64, folded.is_bot);
            }
        }
    }
}
