//! The built-in shop: a data set that a newcomer can run everything on, with known ground truth.
//!
//! Deterministic: the same settings give the same bytes on every machine (own counter-based generator, no
//! transcendental functions). [`shop`] makes a small, lifelike shop; [`scale`] makes rows by the hundred million.
//! It does not imitate any real shop's numbers, and figures measured on it prove nothing about quality.

mod rng;
mod scale;
mod sessions;
mod words;
mod write;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use scale::{ScaleSettings, scale};
pub use write::shop;

/// 2024-01-01T00:00:00Z in seconds: the shop's first day.
pub const FIRST_DAY_S: i64 = 1_704_067_200;

/// Size of the shop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ShopSettings {
    /// Everything follows from it.
    pub seed: u64,
    /// Users.
    pub users: u32,
    /// Items.
    pub items: u32,
    /// Days.
    pub days: u32,
}

impl Default for ShopSettings {
    /// About 400,000 events: ETL, training and evaluation take seconds.
    fn default() -> Self {
        Self { seed: 42, users: 3_000, items: 2_000, days: 60 }
    }
}

/// What the ETL must find.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroundTruth {
    /// Interaction rows written.
    pub rows: u64,
    /// Of these, rows that repeat another.
    pub duplicates: u64,
    /// Of these, rows that must be refused, by reason.
    pub bad: BTreeMap<String, u64>,
    /// The rest.
    pub clean: u64,
    /// Users that are bots.
    pub bots: u64,
    /// Item rows.
    pub item_rows: u64,
    /// Items.
    pub items: u64,
    /// Users with attributes.
    pub users: u64,
    /// Anonymous sessions whose owner becomes known.
    pub log_ins: u64,
}
