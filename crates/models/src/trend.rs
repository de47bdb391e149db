//! Trend: how an item's demand of late compares with its demand for longer.
//!
//! ```text
//!   T_i = ((κ a_i + s) / (b_i + s))^e,   κ = Σ b / Σ a
//! ```
//!
//! `a_i` and `b_i` are the item's interactions in the training histories, each counted `2^(−age / h)` with a short and a
//! long half-life `h`, age being measured from the end of training's data. `s` interactions of smoothing keep rare items
//! near 1. A score is multiplied by `T_i`: what is wanted more than it used to be comes first among equals, seasons
//! come and go. A snapshot freezes it, so a list stays a function of history and snapshot; train again weekly or sooner.
//!
//! Sums are kept in whole steps of 2⁻³², so that neither the order of histories nor who adds them up can change a bit.

use anabranch_events::weights::exp2;
use serde::{Deserialize, Serialize};

use crate::portable::pow;

const DAY_MS: f64 = 86_400_000.0;
/// Steps of an interaction.
const ONE: f64 = (1_u64 << 32) as f64;

/// How the trend is computed. The defaults were chosen on Complete Journey's October and November.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrendSettings {
    /// Half-life of "of late", in days.
    pub recent_half_life_days: f64,
    /// Half-life of "for longer", in days.
    pub long_half_life_days: f64,
    /// `s` > 0, interactions.
    pub smoothing: f64,
    /// `e`, 0 to 2; 0 turns the trend off.
    pub exponent: f64,
}

impl Default for TrendSettings {
    fn default() -> Self {
        Self { recent_half_life_days: 14.0, long_half_life_days: 60.0, smoothing: 20.0, exponent: 0.5 }
    }
}

/// A setting outside its range.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("trend setting {name} is {value}: {remedy}")]
pub struct TrendError {
    /// The field's name.
    pub name: &'static str,
    /// Its value.
    pub value: f64,
    /// What it may be.
    pub remedy: &'static str,
}

impl TrendSettings {
    /// Refuses settings that mean nothing.
    pub fn check(&self) -> Result<(), TrendError> {
        let days = 0.01..=100_000.0;
        let rules = [
            ("recent_half_life_days", self.recent_half_life_days, days.clone(), "choose 0.01 to 100000"),
            ("long_half_life_days", self.long_half_life_days, days, "choose 0.01 to 100000"),
            ("smoothing", self.smoothing, 1e-3..=1e9, "choose 0.001 to 1e9"),
            ("exponent", self.exponent, 0.0..=2.0, "choose 0 to 2"),
        ];
        match rules.into_iter().find(|(_, value, range, _)| !range.contains(value)) {
            Some((name, value, _, remedy)) => Err(TrendError { name, value, remedy }),
            None => Ok(()),
        }
    }
}

/// The decayed counts of each item.
#[derive(Debug, Clone, PartialEq)]
pub struct Demand {
    as_of_ms: i64,
    settings: TrendSettings,
    /// Of late and for longer.
    counts: Vec<[u64; 2]>,
}

impl Demand {
    /// Nothing yet, for items below `items`. `as_of_ms` is the end of training's data.
    pub fn new(items: usize, as_of_ms: i64, settings: TrendSettings) -> Result<Self, TrendError> {
        settings.check()?;
        Ok(Self { as_of_ms, settings, counts: vec![[0; 2]; items] })
    }

    /// Counts an interaction; one that is newer than the data's end counts as new.
    pub fn add(&mut self, item: u32, time_ms: i64) {
        let age_days = self.as_of_ms.saturating_sub(time_ms).max(0) as f64 / DAY_MS;
        let half_lives = [self.settings.recent_half_life_days, self.settings.long_half_life_days];
        for (count, half_life) in self.counts[item as usize].iter_mut().zip(half_lives) {
            *count = count.saturating_add((exp2(-age_days / half_life) * ONE) as u64);
        }
    }

    /// Leaves out the items that are not used and closes the ranks.
    pub fn retain(&mut self, is_used: &[bool]) {
        let mut used = is_used.iter();
        self.counts.retain(|_| used.next().copied().unwrap_or(false));
    }

    /// The counts of each item, of late and for longer, in steps of 2⁻³²: whole numbers, so that those of several machines
    /// add up to those of one.
    pub fn counts(&self) -> &[[u64; 2]] {
        &self.counts
    }

    /// Demand with these counts, one pair for each item.
    pub fn from_counts(counts: Vec<[u64; 2]>, as_of_ms: i64, settings: TrendSettings) -> Result<Self, TrendError> {
        settings.check()?;
        Ok(Self { as_of_ms, settings, counts })
    }

    /// `T` of each item; positive and finite.
    pub fn trend(&self) -> Vec<f32> {
        let total = |which: usize| self.counts.iter().map(|counts| u128::from(counts[which])).sum::<u128>() as f64;
        let (recent, long) = (total(0), total(1));
        if recent == 0.0 || self.settings.exponent == 0.0 {
            return vec![1.0; self.counts.len()];
        }
        let scale = long / recent;
        let smoothing = self.settings.smoothing;
        self.counts
            .iter()
            .map(|[recent, long]| {
                let ratio = (scale * *recent as f64 / ONE + smoothing) / (*long as f64 / ONE + smoothing);
                pow(ratio, self.settings.exponent) as f32
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{Demand, TrendSettings};

    const DAY: i64 = 86_400_000;

    #[test]
    fn by_hand() {
        let settings =
            TrendSettings { recent_half_life_days: 1.0, long_half_life_days: 2.0, smoothing: 1.0, exponent: 0.5 };
        let mut demand = Demand::new(3, 10 * DAY, settings).unwrap();
        demand.add(0, 10 * DAY);
        demand.add(0, 8 * DAY);
        demand.add(1, 8 * DAY);
        // a = (1 + 1/4, 1/4, 0), b = (1 + 1/2, 1/2, 0), κ = 2 / 1.5.
        let kappa = 2.0_f64 / 1.5;
        let expected = [((kappa * 1.25 + 1.0) / 2.5).sqrt() as f32, ((kappa * 0.25 + 1.0) / 1.5).sqrt() as f32, 1.0];
        for (found, expected) in demand.trend().into_iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
        demand.retain(&[true, false, true]);
        assert_eq!(demand.trend().len(), 2);
    }

    #[test]
    fn the_order_of_adding_changes_nothing_and_equal_times_make_no_trend() {
        let settings = TrendSettings::default();
        let (mut forwards, mut backwards) =
            (Demand::new(2, 0, settings).unwrap(), Demand::new(2, 0, settings).unwrap());
        let times: Vec<i64> = (0..1000).map(|n: i64| -n * n * 7_919).collect();
        for time in &times {
            forwards.add(0, *time);
        }
        for time in times.iter().rev() {
            backwards.add(0, *time);
        }
        assert_eq!(forwards, backwards);
        let mut flat = Demand::new(2, 5, settings).unwrap();
        for n in 0..100 {
            flat.add(n % 2, 5);
        }
        assert_eq!(flat.trend(), [1.0, 1.0]);
        assert_eq!(Demand::new(2, 5, settings).unwrap().trend(), [1.0, 1.0]);
    }

    #[test]
    fn a_setting_out_of_range_is_named() {
        let error = Demand::new(1, 0, TrendSettings { exponent: f64::NAN, ..TrendSettings::default() }).unwrap_err();
        assert_eq!(error.name, "exponent");
    }
}
