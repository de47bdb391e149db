//! A snapshot ready to answer questions about histories: the glue between what a user did (hashes of item ids) and
//! what the snapshot knows (dense indices), the same for batch, stream and Lambda.
//!
//! Everything computed for a user is a pure function of (history, snapshot): weights, decay and their "now" come from
//! the event settings stored in the snapshot and from the history itself.

use std::path::Path;
use std::sync::Arc;

use anabranch_events::weights::weigh;
use anabranch_events::{EventSettings, EventTypes, History, ItemKey};
use anabranch_kernels::Kernels;

use crate::recommender::Recommender;
use crate::snapshot::{OpenError, Snapshot};

/// Why a snapshot cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The file is not a usable snapshot.
    #[error("{path}: {source}")]
    Open {
        /// The file.
        path: String,
        /// What is wrong with it.
        source: OpenError,
    },
    /// Its event settings do not parse or compile.
    #[error("snapshot {version}: its event settings cannot be used ({problem}); train again")]
    Settings {
        /// The snapshot.
        version: String,
        /// What is wrong.
        problem: String,
    },
    /// It was trained under other event types than the histories are folded under.
    #[error(
        "snapshot {version} was trained with event types {trained}, the settings name {folded}; train again with these settings"
    )]
    OtherTypes {
        /// The snapshot.
        version: String,
        /// Types and classes of the snapshot.
        trained: String,
        /// Types and classes of the settings.
        folded: String,
    },
}

/// An open snapshot with its compiled event settings.
#[derive(Debug)]
pub struct Model {
    recommender: Recommender,
    types: EventTypes,
    version: String,
}

/// Which items a list must not show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hide {
    /// Nothing: people rebuy groceries.
    Nothing,
    /// Items of events whose type hides them (purchases, by default), also beyond the history's horizon.
    Seen,
    /// Every item of the history, whatever the event, and the seen items.
    Everything,
}

impl Model {
    /// Opens the snapshot in `path`. `version` is its name in the registry.
    pub fn open(path: &Path, version: &str, kernels: Kernels) -> Result<Self, ModelError> {
        let snapshot =
            Snapshot::open(path).map_err(|source| ModelError::Open { path: path.display().to_string(), source })?;
        Self::new(Arc::new(snapshot), version, kernels)
    }

    /// Wraps an open snapshot.
    pub fn new(snapshot: Arc<Snapshot>, version: &str, kernels: Kernels) -> Result<Self, ModelError> {
        let unusable = |problem: String| ModelError::Settings { version: version.to_owned(), problem };
        let settings: EventSettings =
            serde_json::from_value(snapshot.meta().event_settings.clone()).map_err(|e| unusable(e.to_string()))?;
        let types = settings.compile().map_err(|e| unusable(e.to_string()))?;
        Ok(Self { recommender: Recommender::new(snapshot, kernels), types, version: version.to_owned() })
    }

    /// Refuses a snapshot whose event types or classes are not those that histories are folded under: type codes
    /// are ranks of names, and an entry must mean the same to both.
    pub fn check_types(&self, folded: &EventTypes) -> Result<(), ModelError> {
        let shape = |types: &EventTypes| {
            let names: Vec<String> = types
                .types()
                .iter()
                .map(|t| format!("{}:{}", t.name, types.classes()[usize::from(t.class)].name))
                .collect();
            names.join(" ")
        };
        let (trained, folded) = (shape(&self.types), shape(folded));
        if trained == folded {
            Ok(())
        } else {
            Err(ModelError::OtherTypes { version: self.version.clone(), trained, folded })
        }
    }

    /// Its name in the registry.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The recommender underneath.
    pub const fn recommender(&self) -> &Recommender {
        &self.recommender
    }

    /// The snapshot underneath.
    pub fn snapshot(&self) -> &Snapshot {
        self.recommender.snapshot()
    }

    /// The event settings that the snapshot was trained with.
    pub const fn types(&self) -> &EventTypes {
        &self.types
    }

    /// The row of a history: known items with their weights, indices ascending. Items that the snapshot does not know
    /// are skipped.
    pub fn row(&self, history: &History) -> Vec<(u32, f32)> {
        let snapshot = self.snapshot();
        let items = weigh(history, &self.types);
        snapshot.prefetch_hashes(items.iter().map(|item| item.item.0));
        let mut row: Vec<(u32, f32)> = Vec::with_capacity(items.len());
        row.extend(items.iter().filter_map(|item| Some((snapshot.item_index_by_hash(item.item.0)?, item.weight))));
        row.sort_unstable_by_key(|(item, _)| *item);
        row
    }

    /// The items to hide from a list for this history, in no order; one may come twice.
    pub fn hidden(&self, history: &History, hide: Hide) -> Vec<u32> {
        let snapshot = self.snapshot();
        let index = |item: ItemKey| snapshot.item_index_by_hash(item.0);
        if hide != Hide::Nothing {
            snapshot.prefetch_hashes(history.seen().iter().map(|seen| seen.item.0));
        }
        let seen = history.seen().iter().filter_map(|seen| index(seen.item));
        match hide {
            Hide::Nothing => Vec::new(),
            Hide::Seen => seen.collect(),
            Hide::Everything => seen.chain(history.entries().filter_map(|entry| index(entry.item))).collect(),
        }
    }
}
