//! Training rows in stages, for an engine that brings its own shuffle (Spark): what [`rows::from_histories`] does on one
//! machine, for histories that no machine holds together.
//!
//! [`route`] says under whose key a history counts; the engine brings histories of one key together; [`RowMaker`] makes
//! the key's row, [`join_histories`] its effective history. Both are the functions of serving: the effective history
//! by `anabranch_events::effective`, its row by [`ItemIndex::row`].
//!
//! Not done: the k-core, which needs all rows; leaving out the items that no row has ([`ItemIndex`] is made anew).
//!
//! [`rows::from_histories`]: super::rows::from_histories

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::sync::Arc;

use anabranch_events::{EventTypes, History, HistoryKey, codec, effective};
use anabranch_models::learn::{ItemIndex, LearnError};
use anabranch_models::{Demand, TrendSettings};
use sha2::{Digest, Sha256};

use super::TrainError;

/// A history and whose it is.
#[derive(Clone, Copy, Debug)]
pub struct RoutedHistory<'a> {
    /// The history's own key, as [`HistoryKey::to_bytes`].
    pub source: &'a [u8],
    /// Its encoded bytes.
    pub history: &'a [u8],
}

/// The key under which a history counts: its own, or the user's whose session it is known to be.
pub fn route(key: &[u8], history: &[u8], types: &EventTypes) -> Result<Vec<u8>, TrainError> {
    let own = parse(key)?;
    match (&own, decode(&own, history, types)?.alias()) {
        (HistoryKey::Session(_), Some(alias)) => Ok(HistoryKey::User(alias.user.clone()).to_bytes()),
        _ => Ok(key.to_vec()),
    }
}

/// The effective history of `key` from all histories that were [routed](route) to it; `None` if it has none of its own.
pub fn join_histories(
    key: &[u8],
    routed: &[RoutedHistory<'_>],
    types: &EventTypes,
) -> Result<Option<History>, TrainError> {
    let key = parse(key)?;
    let mut held: HashMap<HistoryKey, History> = HashMap::with_capacity(routed.len());
    for RoutedHistory { source, history } in routed {
        let source = parse(source)?;
        let history = decode(&source, history, types)?;
        held.insert(source, history);
    }
    let joined = effective(&key, types, &mut |key| Ok::<_, Infallible>(held.remove(key)));
    Ok(joined.unwrap_or_else(|never| match never {}))
}

/// Makes training rows and keeps count of what they say of demand and time.
#[derive(Clone, Debug)]
pub struct RowMaker {
    index: Arc<ItemIndex>,
    types: EventTypes,
    bots: HashSet<Vec<u8>>,
    demand: Demand,
    newest_ms: Option<i64>,
    digest: u128,
}

impl RowMaker {
    /// `as_of_ms` is the end of training's data; users in `bots` get no row.
    pub fn new(
        index: Arc<ItemIndex>,
        types: EventTypes,
        trend: TrendSettings,
        as_of_ms: i64,
        bots: impl IntoIterator<Item = String>,
    ) -> Result<Self, TrainError> {
        let demand = Demand::new(index.len(), as_of_ms, trend).map_err(LearnError::from)?;
        let bots = bots.into_iter().map(|user| HistoryKey::User(user.into()).to_bytes()).collect();
        Ok(Self { index, types, bots, demand, newest_ms: None, digest: 0 })
    }

    /// The row of `key` from all histories that were [routed](route) to it; `None` if it has no known weighted item.
    pub fn row(&mut self, key: &[u8], routed: &[RoutedHistory<'_>]) -> Result<Option<Vec<(u32, f32)>>, TrainError> {
        if self.bots.contains(key) {
            return Ok(None);
        }
        let Some(history) = join_histories(key, routed, &self.types)? else { return Ok(None) };
        self.newest_ms = self.newest_ms.max(history.newest_ms());
        self.index.count_demand(&history, &self.types, &mut self.demand);
        let row = self.index.row(&history, &self.types);
        if row.is_empty() {
            return Ok(None);
        }
        self.digest = self.digest.wrapping_add(digest_of(key, &row));
        Ok(Some(row))
    }

    /// Demand so far.
    pub const fn demand(&self) -> &Demand {
        &self.demand
    }

    /// The sum (modulo 2^128) of the digests of all rows so far: of two makers that share rows between them the sum is that
    /// of one that makes them all. So it names the rows, however they are dealt and in whatever order they come.
    pub const fn digest(&self) -> u128 {
        self.digest
    }

    /// The newest entry so far, milliseconds since 1970.
    pub const fn newest_ms(&self) -> Option<i64> {
        self.newest_ms
    }
}

fn digest_of(key: &[u8], row: &[(u32, f32)]) -> u128 {
    let mut digest = Sha256::new();
    digest.update((key.len() as u64).to_le_bytes());
    digest.update(key);
    for (item, weight) in row {
        digest.update(item.to_le_bytes());
        digest.update(weight.to_bits().to_le_bytes());
    }
    let mut half = [0; 16];
    half.copy_from_slice(&digest.finalize()[..16]);
    u128::from_le_bytes(half)
}

fn parse(key: &[u8]) -> Result<HistoryKey, TrainError> {
    HistoryKey::from_bytes(key)
        .ok_or_else(|| TrainError::Key { key: String::from_utf8_lossy(&key[..key.len().min(64)]).into_owned() })
}

fn decode(key: &HistoryKey, bytes: &[u8], types: &EventTypes) -> Result<History, TrainError> {
    codec::decode(bytes, types).map_err(|source| TrainError::History { key: key.to_string(), source })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use super::*;
    use crate::dataset::Dataset;
    use crate::etl::tests::World;
    use crate::train::rows::{effective_histories, end_ms, from_histories};

    /// A source key and a history.
    type Routed = (Vec<u8>, Vec<u8>);

    /// Sessions that are known to be a user's, one that nobody owns, a bot.
    const EVENTS: &str = "\
USER_ID,SESSION_ID,ITEM_ID,EVENT_TYPE,TIMESTAMP
a,s1,x,view,1700000000
a,,y,purchase,1700000100
,s1,z,view,1699999000
,s2,x,view,1700000050
,s2,w,cart,1700000060
b,s3,w,purchase,1700000070
c,,x,view,1700000001
c,,y,view,1700000002
c,,z,view,1700000003
c,,w,view,1700000004
";

    #[test]
    fn rows_by_stages_are_the_rows_of_one_machine() {
        let mut world = World::new();
        world.settings.bot_events_per_day_max = 3;
        world.file("interactions.csv", EVENTS);
        world.run().unwrap();
        let dataset = Dataset::current(&world.store).unwrap();
        let types = world.types.clone();
        let expected = from_histories(&dataset, &types, TrendSettings::default()).unwrap();

        let mut by_key: BTreeMap<Vec<u8>, Vec<Routed>> = BTreeMap::new();
        for entry in dataset.histories() {
            let (key, history) = entry.unwrap();
            let key = key.to_bytes();
            by_key.entry(route(&key, &history, &types).unwrap()).or_default().push((key, history));
        }
        assert!(by_key[b"ua".as_slice()].len() == 2 && by_key.contains_key(b"ss2".as_slice()));
        let end_ms = end_ms(&dataset).unwrap();
        let bots = dataset.bots().unwrap();
        let mut maker =
            RowMaker::new(Arc::new(expected.index.clone()), types.clone(), TrendSettings::default(), end_ms, bots)
                .unwrap();
        // The same rows, dealt to two makers from the last to the first.
        let mut dealt = [maker.clone(), maker.clone()];
        for (number, (key, histories)) in by_key.iter().rev().enumerate() {
            let routed: Vec<RoutedHistory<'_>> =
                histories.iter().map(|(source, history)| RoutedHistory { source, history }).collect();
            dealt[number % 2].row(key, &routed).unwrap();
        }
        let mut found = Vec::new();
        let mut joined = BTreeMap::new();
        for (key, histories) in &by_key {
            let routed: Vec<RoutedHistory<'_>> =
                histories.iter().map(|(source, history)| RoutedHistory { source, history }).collect();
            joined.extend(join_histories(key, &routed, &types).unwrap().map(|history| (key.clone(), history)));
            if let Some(row) = maker.row(key, &routed).unwrap() {
                found.push((HistoryKey::from_bytes(key).unwrap(), row));
            }
        }
        let rows = expected.matrix.rows().map(|row| row.entries().collect::<Vec<_>>());
        assert_eq!(found, expected.keys.iter().cloned().zip(rows).collect::<Vec<_>>());
        assert_eq!(maker.digest(), dealt[0].digest().wrapping_add(dealt[1].digest()));
        assert!(dealt.iter().all(|part| part.digest() != 0 && part.digest() != maker.digest()));
        assert_ne!(digest_of(b"ua", &[(1, 1.0)]), digest_of(b"ua", &[(1, 1.5)]));
        assert_ne!(digest_of(b"ua", &[]), digest_of(b"u", &[]));
        assert_eq!(maker.newest_ms(), Some(expected.newest_ms));
        assert_eq!(maker.demand().trend(), expected.demand.trend());
        assert!(!expected.keys.contains(&HistoryKey::User("c".into())), "c is a bot");
        let effective =
            effective_histories(&dataset, &types).unwrap().map(|entry| entry.map(|(k, h)| (k.to_bytes(), h)));
        assert_eq!(effective.collect::<Result<BTreeMap<_, _>, _>>().unwrap(), joined);
    }

    #[test]
    fn damaged_keys_and_histories_are_named() {
        let types = World::new().types;
        assert!(matches!(route(b"x1", b"", &types), Err(TrainError::Key { .. })));
        assert!(matches!(route(b"u1", b"\xff", &types), Err(TrainError::History { key, .. }) if key.contains('1')));
    }
}
