//! What a snapshot says about itself.

use crate::ials::IalsSettings;
use crate::neighbours::NeighboursSettings;
use crate::recommender::Blend;
use crate::trend::TrendSettings;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Everything that serving needs besides the arrays, and where the model came from. Stored as JSON; unknown fields of
/// a later writer of the same format version are ignored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SnapshotMeta {
    /// The snapshot's own version, chosen by the publisher; records made with it carry it.
    pub version: String,
    /// When it was written, milliseconds since 1970.
    pub created_ms: i64,
    /// The newest event time that training could see, milliseconds since 1970.
    pub as_of_ms: i64,
    /// Dimensions, `λ`, `ν`, `α₀`, iterations, seed.
    pub ials: IalsSettings,
    /// How the neighbours were computed.
    pub neighbours: NeighboursSettings,
    /// How the parts of a score are weighed.
    pub blend: Blend,
    /// How the trend was computed.
    #[serde(default)]
    pub trend: TrendSettings,
    /// Rows of the training matrix.
    pub user_count: u64,
    /// Items of every section.
    pub item_count: u64,
    /// Entries of the training matrix.
    pub interaction_count: u64,
    /// Event weights, half-life, quotas: opaque here, written and read by those who turn histories into rows.
    pub event_settings: serde_json::Value,
    /// Evaluation figures by name.
    #[serde(default)]
    pub metrics: BTreeMap<String, f64>,
}
