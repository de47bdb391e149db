//! The fold: one owner's rows become clean interactions and a history. The second of the two pure functions that hold
//! all meaning of the ETL.
//!
//! A history kept from an earlier run joins (an incremental run folds what was clean then, with the new rows and that
//! history, and reaches what a run over everything reaches).
//!
//! It equals `anabranch_events::history::apply_event` over the same events one by one, in any order (a property test
//! says so, byte for byte): all rows reach the history, also those that lose against another row with the same event
//! key, since they too may touch the seen set.

use anabranch_events::{Alias, Entry, EventKey, EventTypes, History, HistoryKey, codec};

use super::row::{RowKind, RowRef};

/// What the fold needs to know.
#[derive(Clone, Copy)]
pub struct FoldRules<'a> {
    /// Event types.
    pub types: &'a EventTypes,
    /// A user with more events on one day is a bot; 0 looks for none.
    pub bot_events_per_day_max: u32,
    /// The floor (milliseconds since 1970) of an erased history: its events at or below it vanish.
    pub erased: &'a (dyn Fn(&HistoryKey) -> Option<i64> + Sync),
}

impl std::fmt::Debug for FoldRules<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FoldRules")
            .field("bot_events_per_day_max", &self.bot_events_per_day_max)
            .finish_non_exhaustive()
    }
}

/// One owner, folded.
#[derive(Debug, Default)]
pub struct Folded {
    /// The history; `None` if the rows were attributes only.
    pub history: Option<History>,
    /// Indices of the clean rows, ascending.
    pub clean: Vec<u32>,
    /// Rows that repeat another's event key within its class.
    pub duplicates: u64,
    /// Rows at or below the floor.
    pub erased: u64,
    /// Whether some day holds more events than a person makes.
    pub is_bot: bool,
    /// Index of the attributes row that counts.
    pub attributes: Option<u32>,
    /// Rows of attributes that a later one replaces.
    pub attributes_replaced: u64,
    /// Attributes of a forgotten owner who has not come back, left out.
    pub attributes_erased: u64,
}

/// A row that cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a row of the shuffle is damaged")]
pub struct DamagedRow;

/// Folds the rows of one owner, which come in order of (time, event key, bytes).
pub fn fold_owner(owner: &HistoryKey, rows: &[RowRef<'_>], rules: &FoldRules<'_>) -> Result<Folded, DamagedRow> {
    let mut folded = Folded::default();
    let floor = (rules.erased)(owner);
    let mut entries: Vec<Entry> = Vec::with_capacity(rows.len());
    let mut identities: Vec<(u8, EventKey, u32)> = Vec::with_capacity(rows.len());
    let mut touched = false;
    for (index, row) in rows.iter().enumerate() {
        match row.kind() {
            RowKind::Event => {
                touched = true;
                if floor.is_some_and(|floor| row.time_ms() <= floor) {
                    folded.erased += 1;
                } else {
                    let entry = row.entry().ok_or(DamagedRow)?;
                    identities.push((rules.types.class_of(entry.kind) as u8, entry.event, index as u32));
                    entries.push(entry);
                }
            }
            RowKind::Attributes => {
                // Rows come in order, so the last one is the one that counts.
                folded.attributes_replaced += u64::from(folded.attributes.is_some());
                folded.attributes = Some(index as u32);
            }
            RowKind::Alias => {}
            RowKind::History => touched = true,
        }
    }
    folded.clean = winners(&mut identities, rows, &mut folded.duplicates);
    folded.is_bot = rules.bot_events_per_day_max > 0
        && !matches!(owner, HistoryKey::Session(_))
        && busiest_day(&folded.clean, rows) > rules.bot_events_per_day_max as usize;

    let mut history = History::from_entries(entries, rules.types);
    for row in rows.iter().filter(|row| row.kind() == RowKind::History) {
        history.join(&codec::decode(row.payload(), rules.types).map_err(|_| DamagedRow)?, rules.types);
    }
    if let Some(floor) = floor {
        history.erase(floor);
    }
    note_sessions(&mut history, rows, rules.types)?;
    if let Some(alias) = newest_alias(rows, rules)? {
        history.note_alias(alias);
        touched = true;
    }
    // Of a forgotten owner nothing is written, not even the name: the floor lives in the erasure table.
    folded.history = (touched && !(floor.is_some() && history.is_forgotten())).then_some(history);
    if floor.is_some() && folded.clean.is_empty() && folded.attributes.take().is_some() {
        folded.attributes_erased = 1;
    }
    Ok(folded)
}

/// Of the rows with one event key in one class the greatest by (time, type, item, value, bytes): indices, ascending.
fn winners(identities: &mut [(u8, EventKey, u32)], rows: &[RowRef<'_>], duplicates: &mut u64) -> Vec<u32> {
    identities.sort_unstable();
    let mut clean = Vec::with_capacity(identities.len());
    for same in identities.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)) {
        let winner = match same {
            [(_, _, one)] => *one,
            several => {
                *duplicates += several.len() as u64 - 1;
                let rank = |index: u32| {
                    let row = rows[index as usize];
                    let item = row.entry().map(|entry| entry.item);
                    (row.time_ms(), row.event_type(), item, row.value().map(f32::to_bits), row.bytes())
                };
                several.iter().map(|(_, _, index)| *index).max_by_key(|&i| rank(i)).expect("a group is not empty")
            }
        };
        clean.push(winner);
    }
    clean.sort_unstable();
    clean
}

fn busiest_day(clean: &[u32], rows: &[RowRef<'_>]) -> usize {
    let day = |index: &u32| rows[*index as usize].time_ms().div_euclid(86_400_000);
    clean.chunk_by(|a, b| day(a) == day(b)).map(<[u32]>::len).max().unwrap_or(0)
}

fn note_sessions(history: &mut History, rows: &[RowRef<'_>], types: &EventTypes) -> Result<(), DamagedRow> {
    // A session's events stand together and in order of time, so only the last of each run needs a word.
    let mut held: Option<(&[u8], i64)> = None;
    let mut note = |(session, time_ms): (&[u8], i64)| {
        history.note_session(std::str::from_utf8(session).map_err(|_| DamagedRow)?, time_ms, types);
        Ok(())
    };
    for row in rows.iter().filter(|row| row.kind() == RowKind::Event) {
        let Some(session) = row.session() else { continue };
        if let Some(last) = held
            && last.0 != session
        {
            note(last)?;
        }
        held = Some((session, row.time_ms()));
    }
    held.map_or(Ok(()), note)
}

/// The newest word on whose session this is, unless that user had it erased.
fn newest_alias(rows: &[RowRef<'_>], rules: &FoldRules<'_>) -> Result<Option<Alias>, DamagedRow> {
    let mut best: Option<Alias> = None;
    let mut known: Vec<(&[u8], Option<i64>)> = Vec::new();
    for row in rows.iter().rev().filter(|row| row.kind() == RowKind::Alias) {
        let (time_ms, event) = row.position();
        if best.as_ref().is_some_and(|held| (held.time_ms, held.event) > (time_ms, event)) {
            break;
        }
        let user = std::str::from_utf8(row.item()).map_err(|_| DamagedRow)?;
        let floor = if let Some((_, floor)) = known.iter().find(|(held, _)| *held == row.item()) {
            *floor
        } else {
            let floor = (rules.erased)(&HistoryKey::User(user.into()));
            known.push((row.item(), floor));
            floor
        };
        let alias = Alias { time_ms, event, user: user.into() };
        if floor.is_none_or(|floor| time_ms > floor) && best.as_ref().is_none_or(|held| alias > *held) {
            best = Some(alias);
        }
    }
    Ok(best)
}
