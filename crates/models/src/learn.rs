//! From histories to a snapshot: the training half of "fold-in is training". Rows are made from histories by the
//! very function that serving uses, so a streamed list equals what a retrain with the same item factors would give.
//!
//! Not here: where histories come from and where the snapshot goes (`batch`).

use std::collections::HashMap;

use anabranch_events::weights::weigh;
use anabranch_events::{EventSettings, EventTypes, History, ItemKey};
use anabranch_kernels::Kernels;
use serde::{Deserialize, Serialize};

use crate::ials::{self, IalsModel, IalsSettings, TrainError};
use crate::neighbours::{Neighbours, NeighboursError, NeighboursSettings, neighbours};
use crate::snapshot::{Catalogue, SnapshotContents, SnapshotMeta, WriteError};
use crate::trend::{Demand, TrendError, TrendSettings};
use crate::{Blend, BlendError, Interactions, popularity};

/// The `[model]` settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LearnSettings {
    /// Factors.
    pub ials: IalsSettings,
    /// Item neighbours.
    pub neighbours: NeighboursSettings,
    /// How the parts of a score are weighed.
    pub blend: Blend,
    /// How demand of late weighs.
    pub trend: TrendSettings,
}

/// Why nothing was learned.
#[derive(Debug, thiserror::Error)]
pub enum LearnError {
    /// Two item ids share a hash.
    #[error("items {first:?} and {second:?} share the hash {hash:016x}: rename one of them")]
    SharedHash {
        /// The hash.
        hash: u64,
        /// One id.
        first: String,
        /// The other.
        second: String,
    },
    /// A blend weight is out of range.
    #[error(transparent)]
    Blend(#[from] BlendError),
    /// A trend setting is out of range.
    #[error(transparent)]
    Trend(#[from] TrendError),
    /// Factors.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// Neighbours.
    #[error(transparent)]
    Neighbours(#[from] NeighboursError),
    /// The snapshot.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// The items of a model: ids in order of their bytes (the dense index is the rank), found by hash.
#[derive(Clone, Debug, Default)]
pub struct ItemIndex {
    ids: Vec<String>,
    hashes: Vec<u64>,
    by_hash: HashMap<u64, u32>,
}

impl ItemIndex {
    /// The index of these ids, in any order, with repeats.
    pub fn new(mut ids: Vec<String>) -> Result<Self, LearnError> {
        ids.sort_unstable();
        ids.dedup();
        let hashes: Vec<u64> = ids.iter().map(|id| ItemKey::of(id).0).collect();
        let mut by_hash = HashMap::with_capacity(ids.len());
        for (index, &hash) in hashes.iter().enumerate() {
            if let Some(first) = by_hash.insert(hash, index as u32) {
                let (first, second) = (ids[first as usize].clone(), ids[index].clone());
                return Err(LearnError::SharedHash { hash, first, second });
            }
        }
        Ok(Self { ids, hashes, by_hash })
    }

    /// The ids, ascending.
    pub fn ids(&self) -> &[String] {
        &self.ids
    }

    /// Number of items.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The index of the item with this hash.
    pub fn of(&self, item: ItemKey) -> Option<u32> {
        self.by_hash.get(&item.0).copied()
    }

    /// A history's row: known items and their weights, indices ascending. The same weights as [`crate::Model::row`].
    pub fn row(&self, history: &History, types: &EventTypes) -> Vec<(u32, f32)> {
        let mut row: Vec<(u32, f32)> =
            weigh(history, types).into_iter().filter_map(|item| Some((self.of(item.item)?, item.weight))).collect();
        row.sort_unstable_by_key(|(item, _)| *item);
        row
    }

    /// Counts the interactions of a history whose type has a weight.
    pub fn count_demand(&self, history: &History, types: &EventTypes, demand: &mut Demand) {
        for entry in history.entries().filter(|entry| types.get(entry.kind).weight > 0.0) {
            if let Some(item) = self.of(entry.item) {
                demand.add(item, entry.time_ms);
            }
        }
    }
}

/// What was learned.
#[derive(Debug)]
pub struct Learned {
    /// The factors; users in the order of the rows.
    pub model: IalsModel,
    /// The snapshot's bytes.
    pub snapshot: Vec<u8>,
}

/// What a snapshot says besides what is learned.
#[derive(Clone, Debug)]
pub struct Provenance<'a> {
    /// The event settings under which the rows were made.
    pub events: &'a EventSettings,
    /// Newest event time that training could see, milliseconds since 1970. Also the snapshot's creation time, so that
    /// training twice gives the same bytes.
    pub as_of_ms: i64,
    /// Demand for the items of the index; without it nothing trends.
    pub demand: Option<&'a Demand>,
    /// Title and category of each item of the index, empty where unknown.
    pub titles: &'a [(&'a str, &'a str)],
    /// Evaluation figures.
    pub metrics: std::collections::BTreeMap<String, f64>,
}

/// Learns from `rows` (users × items of `index`).
pub fn learn(
    kernels: Kernels,
    rows: &Interactions,
    index: &ItemIndex,
    settings: &LearnSettings,
    provenance: &Provenance<'_>,
    progress: impl FnMut(ials::Progress),
) -> Result<Learned, LearnError> {
    settings.blend.check()?;
    let model = ials::train(kernels, rows, index.ids(), &settings.ials, progress)?;
    let parts = Parts {
        item_factors: &model.item_factors,
        item_gramian: &model.item_gramian,
        neighbours: &neighbours(rows, &settings.neighbours)?,
        popularity: &popularity(rows),
        trend: &provenance.demand.map_or_else(|| vec![1.0; index.len()], Demand::trend),
        user_count: rows.users() as u64,
        interaction_count: rows.len() as u64,
    };
    let snapshot = snapshot(index, settings, provenance, &parts)?;
    Ok(Learned { model, snapshot })
}

/// What was learned, part by part: on one machine or on many.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// `[items × dim]` row-major.
    pub item_factors: &'a [f32],
    /// Their Gramian, `[dim × dim]`.
    pub item_gramian: &'a [f64],
    /// The neighbours of each item.
    pub neighbours: &'a Neighbours,
    /// Summed weight of each item.
    pub popularity: &'a [f32],
    /// Trend of each item; what the provenance says of demand does not matter here.
    pub trend: &'a [f32],
    /// Rows of the training matrix.
    pub user_count: u64,
    /// Its entries.
    pub interaction_count: u64,
}

/// The snapshot's bytes from its parts: equal parts give equal bytes.
pub fn snapshot(
    index: &ItemIndex,
    settings: &LearnSettings,
    provenance: &Provenance<'_>,
    parts: &Parts<'_>,
) -> Result<Vec<u8>, LearnError> {
    settings.blend.check()?;
    let meta = SnapshotMeta {
        version: format!("as-of-{}", provenance.as_of_ms),
        created_ms: provenance.as_of_ms,
        as_of_ms: provenance.as_of_ms,
        ials: settings.ials,
        neighbours: settings.neighbours,
        blend: settings.blend,
        trend: settings.trend,
        user_count: parts.user_count,
        item_count: index.len() as u64,
        interaction_count: parts.interaction_count,
        event_settings: serde_json::to_value(provenance.events).map_err(WriteError::Meta)?,
        metrics: provenance.metrics.clone(),
    };
    let ids: Vec<&str> = index.ids().iter().map(String::as_str).collect();
    let (titles, categories): (Vec<&str>, Vec<&str>) = provenance.titles.iter().copied().unzip();
    let contents = SnapshotContents {
        meta: &meta,
        item_ids: &ids,
        item_hashes: &index.hashes,
        item_factors: parts.item_factors,
        item_gramian: parts.item_gramian,
        neighbours: parts.neighbours,
        popularity: parts.popularity,
        trend: parts.trend,
        catalogue: (!titles.is_empty()).then_some(Catalogue { titles: &titles, categories: &categories }),
    };
    Ok(contents.to_bytes()?)
}
