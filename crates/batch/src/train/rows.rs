//! The dataset's histories as training rows.
//!
//! Training consumes the same truncated histories with the same weights as serving. Sessions that are known to be
//! a user's are joined into the user's row, as the effective history is when a list is made. Bots are left out here and
//! only here; so is what falls out of the k-core.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;

use anabranch_events::history::effective;
use anabranch_events::wire::time::parse_time_ms;
use anabranch_events::{EventTypes, History, HistoryKey, codec};
use anabranch_models::learn::{ItemIndex, LearnError};
use anabranch_models::{Demand, Interactions, TrendSettings};

use super::TrainError;
use crate::dataset::Dataset;

/// Rows ready for training.
#[derive(Debug)]
pub struct TrainingRows {
    /// Users × items.
    pub matrix: Interactions,
    /// The items.
    pub index: ItemIndex,
    /// What the users wanted of late and for longer.
    pub demand: Demand,
    /// Whose row is whose, in the order of the rows: ascending by their bytes.
    pub keys: Vec<HistoryKey>,
    /// Newest entry of any history, milliseconds since 1970.
    pub newest_ms: i64,
}

/// Reads the dataset's histories into rows.
pub fn from_histories(
    dataset: &Dataset<'_>,
    types: &EventTypes,
    trend: TrendSettings,
) -> Result<TrainingRows, TrainError> {
    let bots = dataset.bots()?;
    let index = ItemIndex::new(item_ids(dataset)?)?;
    let mut demand = Demand::new(index.len(), end_ms(dataset)?, trend).map_err(LearnError::from)?;
    let mut keys = Vec::new();
    let mut rows = Vec::new();
    let mut newest_ms = i64::MIN;
    for entry in effective_histories(dataset, types)? {
        let (key, history) = entry?;
        if matches!(&key, HistoryKey::User(user) if bots.contains(&**user)) {
            continue;
        }
        newest_ms = newest_ms.max(history.newest_ms().unwrap_or(i64::MIN));
        index.count_demand(&history, types, &mut demand);
        let row = index.row(&history, types);
        if !row.is_empty() {
            keys.push(key);
            rows.push(row);
        }
    }
    // A dense index is the rank of the key's bytes, so that a model does not depend on how the history files are cut.
    let mut order: Vec<(HistoryKey, Vec<(u32, f32)>)> = keys.into_iter().zip(rows).collect();
    order.sort_by_cached_key(|(key, _)| key.to_bytes());
    let (mut keys, mut rows): (Vec<_>, Vec<_>) = order.into_iter().unzip();
    let settings = &dataset.report().settings;
    k_core(&mut keys, &mut rows, index.len(), settings.k_core_users as usize, settings.k_core_items as usize);
    compact(keys, rows, &index, demand, newest_ms)
}

/// The effective histories of users, and of sessions that are nobody's. A session that is known to be a user's has none of
/// its own: it is joined into the user's.
pub fn effective_histories<'a>(
    dataset: &'a Dataset<'_>,
    types: &'a EventTypes,
) -> Result<impl Iterator<Item = Result<(HistoryKey, History), TrainError>> + 'a, TrainError> {
    let sessions = owned_sessions(dataset, types)?;
    Ok(dataset.histories().filter_map(move |entry| {
        let found = entry.map_err(TrainError::from).and_then(|(key, bytes)| {
            let history = decode(&key, &bytes, types)?;
            Ok((key, history))
        });
        let (key, history) = match found {
            Ok(found) => found,
            Err(error) => return Some(Err(error)),
        };
        match &key {
            HistoryKey::User(user) => {
                let mut own = Some(history);
                let mut get = |wanted: &HistoryKey| match wanted {
                    HistoryKey::User(_) => Ok::<_, Infallible>(own.take()),
                    HistoryKey::Session(session) => Ok(sessions.get(&(user.clone(), session.clone())).cloned()),
                };
                let Ok(joined) = effective(&key, types, &mut get);
                joined.map(|history| Ok((key, history)))
            }
            HistoryKey::Session(_) if history.alias().is_some() => None,
            HistoryKey::Session(_) => Some(Ok((key, history))),
        }
    }))
}

/// Histories by (user, session).
type OwnedSessions = HashMap<(Box<str>, Box<str>), History>;

/// Histories of sessions that are known to be somebody's, by owner and session.
fn owned_sessions(dataset: &Dataset<'_>, types: &EventTypes) -> Result<OwnedSessions, TrainError> {
    let mut sessions = HashMap::new();
    for entry in dataset.histories() {
        let (key, bytes) = entry?;
        let HistoryKey::Session(session) = &key else { continue };
        let history = decode(&key, &bytes, types)?;
        if let Some(alias) = history.alias() {
            sessions.insert((alias.user.clone(), session.clone()), history);
        }
    }
    Ok(sessions)
}

fn decode(key: &HistoryKey, bytes: &[u8], types: &EventTypes) -> Result<History, TrainError> {
    codec::decode(bytes, types).map_err(|source| TrainError::History { key: key.to_string(), source })
}

/// The end of the last day that has interactions, milliseconds since 1970.
pub fn end_ms(dataset: &Dataset<'_>) -> Result<i64, TrainError> {
    let days = dataset.days();
    let Some(last) = days.last() else { return Err(TrainError::Empty { problem: "no day has interactions" }) };
    let start_ms = parse_time_ms(last).ok_or(TrainError::Empty { problem: "the last day's name is no date" })?;
    Ok(start_ms + 86_400_000)
}

/// Every item that occurs in a clean interaction.
fn item_ids(dataset: &Dataset<'_>) -> Result<Vec<String>, TrainError> {
    let mut ids: HashSet<String> = HashSet::new();
    for interaction in dataset.interactions(None) {
        let item = interaction?.item;
        if !ids.contains(&item) {
            ids.insert(item);
        }
    }
    Ok(ids.into_iter().collect())
}

/// Title and category of each item of the index, empty where the catalogue knows none.
pub fn titles(dataset: &Dataset<'_>, index: &ItemIndex) -> Result<Vec<(String, String)>, TrainError> {
    let mut by_id: HashMap<String, (String, String)> = dataset
        .catalog()?
        .into_iter()
        .map(|item| (item.id, (item.title.unwrap_or_default(), item.category.unwrap_or_default())))
        .collect();
    Ok(index.ids().iter().map(|id| by_id.remove(id).unwrap_or_default()).collect())
}

/// Drops users with fewer than `users_min` items and items with fewer than `items_min` users until neither is left.
fn k_core(
    keys: &mut Vec<HistoryKey>,
    rows: &mut Vec<Vec<(u32, f32)>>,
    item_count: usize,
    users_min: usize,
    items_min: usize,
) {
    if users_min <= 1 && items_min <= 1 {
        return;
    }
    loop {
        let mut counts = vec![0_usize; item_count];
        rows.iter().flatten().for_each(|(item, _)| counts[*item as usize] += 1);
        let before: usize = rows.iter().map(Vec::len).sum();
        for row in rows.iter_mut() {
            row.retain(|(item, _)| counts[*item as usize] >= items_min);
        }
        let mut kept = rows.iter().map(|row| row.len() >= users_min.max(1));
        keys.retain(|_| kept.next().unwrap_or(false));
        rows.retain(|row| row.len() >= users_min.max(1));
        if rows.iter().map(Vec::len).sum::<usize>() == before {
            return;
        }
    }
}

/// Leaves out items without any entry: a model cannot say anything about them.
fn compact(
    keys: Vec<HistoryKey>,
    mut rows: Vec<Vec<(u32, f32)>>,
    index: &ItemIndex,
    mut demand: Demand,
    newest_ms: i64,
) -> Result<TrainingRows, TrainError> {
    let mut is_used = vec![false; index.len()];
    rows.iter().flatten().for_each(|(item, _)| is_used[*item as usize] = true);
    let ids: Vec<String> =
        index.ids().iter().zip(&is_used).filter(|(_, used)| **used).map(|(id, _)| id.clone()).collect();
    if ids.is_empty() {
        return Err(TrainError::Empty { problem: "no history has a weighted item outside bots and k-core" });
    }
    let mut next = 0;
    let renumbered: Vec<u32> = is_used
        .iter()
        .map(|used| {
            let index = next;
            next += u32::from(*used);
            index
        })
        .collect();
    for (item, _) in rows.iter_mut().flatten() {
        *item = renumbered[*item as usize];
    }
    demand.retain(&is_used);
    let index = ItemIndex::new(ids)?;
    let matrix = Interactions::from_rows(index.len(), rows)?;
    Ok(TrainingRows { matrix, index, demand, keys, newest_ms })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_k_core_is_a_fixed_point() {
        let user = |name: &str| HistoryKey::User(name.into());
        let mut keys = vec![user("a"), user("b"), user("c")];
        // Item 2 has one user; without it b has one item, and without b item 1 has one user.
        let mut rows = vec![vec![(0, 1.0), (1, 1.0)], vec![(1, 1.0), (2, 1.0)], vec![(0, 1.0), (3, 1.0)]];
        k_core(&mut keys, &mut rows, 4, 2, 2);
        assert!(rows.is_empty() && keys.is_empty());
        let mut keys = vec![user("a"), user("b"), user("c")];
        let mut rows = vec![vec![(0, 1.0), (1, 1.0)], vec![(0, 1.0), (1, 1.0)], vec![(2, 1.0)]];
        k_core(&mut keys, &mut rows, 3, 2, 2);
        assert_eq!((keys, rows.len()), (vec![user("a"), user("b")], 2));
    }
}
