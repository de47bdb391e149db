//! iALS: implicit-feedback matrix factorisation by alternating least squares.
//!
//! After Hu, Koren and Volinsky 2008 ("Collaborative filtering for implicit feedback datasets") in the form of Rendle,
//! Krichene, Zhang and Koren 2021 ("Revisiting the performance of iALS on item recommendation benchmarks", §3), with
//! observation weights. With `ŷ_ui = ⟨w_u, h_i⟩`, minimise
//!
//! ```text
//!   Σ_(u,i) observed  c_ui (1 − ŷ_ui)²  +  α₀ Σ_all (u,i)  ŷ_ui²
//!     +  λ Σ_u (|I_u| + α₀ |I|)^ν ‖w_u‖²  +  λ Σ_i (|U_i| + α₀ |U|)^ν ‖h_i‖²
//! ```
//!
//! where `c_ui` is the entry's weight, `|I_u|` the number of *distinct* items of `u` and `|U_i|` of distinct users of
//! `i`, `|I|` and `|U|` the numbers of all items and users. For fixed item factors each user solves alone:
//!
//! ```text
//!   (Σ_i c_ui h_i h_iᵀ + α₀ Σ_all h hᵀ + λ (|I_u| + α₀ |I|)^ν I) w_u = Σ_i c_ui h_i
//! ```
//!
//! which [`FoldIn`] does, in training and in serving alike: fold-in *is* the user half-step. Training ends with one
//! full user half-step, so every trained user equals the folded-in one bit for bit. Results depend on neither the
//! number of threads nor the instruction set.

mod fold_in;
mod half_step;
mod start;
mod train;

#[cfg(test)]
mod tests;

pub use fold_in::{FoldIn, FoldInError};
pub use half_step::{BlockedHalfStep, HalfStepError, RowError, half_step, initial_factors};
pub use train::{IalsModel, Progress, TrainError, train};

use serde::{Deserialize, Serialize};

/// What the objective and its minimisation are set to.
///
/// The defaults were chosen on Complete Journey's validation month (the example `complete_journey` of `evaluation`):
/// histories whose summed weights reach several units per item. Sparse binary data (one unit per pair, as Gowalla)
/// wants less pull towards zero: `unobserved_weight` near 0.004 with `regularisation` near 0.015.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IalsSettings {
    /// Dimensions of a factor, 1 to 1024.
    pub dim: usize,
    /// Rounds of one user and one item half-step; a last user half-step follows.
    pub iterations: usize,
    /// `λ` ≥ 0, the strength of regularisation.
    pub regularisation: f64,
    /// `ν`, how regularisation grows with an entity's frequency: 1 scales fully, 0 not at all.
    pub frequency_exponent: f64,
    /// `α₀` > 0, the weight of every pair's pull towards zero.
    pub unobserved_weight: f64,
    /// Standard deviation of a starting factor's norm: each value has `initial_deviation / √dim`.
    pub initial_deviation: f64,
    /// Chooses the start; the same seed and ids give the same start in any order.
    pub seed: u64,
}

impl Default for IalsSettings {
    fn default() -> Self {
        Self {
            dim: 64,
            iterations: 8,
            regularisation: 0.0015,
            frequency_exponent: 1.0,
            unobserved_weight: 1.0,
            initial_deviation: 0.1,
            seed: 1,
        }
    }
}

/// A setting outside its range.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("iALS setting {name} is {value}: {remedy}")]
pub struct SettingError {
    /// The field's name.
    pub name: &'static str,
    /// Its value.
    pub value: f64,
    /// What it may be.
    pub remedy: &'static str,
}

impl IalsSettings {
    /// Refuses what cannot be computed with, so that training never fails late for it.
    pub fn check(&self) -> Result<(), SettingError> {
        let rules = [
            ("dim", self.dim as f64, (1..=anabranch_kernels::DIM_MAX).contains(&self.dim), "choose 1 to 1024"),
            ("regularisation", self.regularisation, (0.0..1e6).contains(&self.regularisation), "choose 0 to 1e6"),
            (
                "frequency_exponent",
                self.frequency_exponent,
                (0.0..=2.0).contains(&self.frequency_exponent),
                "choose 0 to 2",
            ),
            (
                "unobserved_weight",
                self.unobserved_weight,
                self.unobserved_weight > 0.0 && self.unobserved_weight < 1e6,
                "choose more than 0, below 1e6",
            ),
            (
                "initial_deviation",
                self.initial_deviation,
                self.initial_deviation > 0.0 && self.initial_deviation < 1e3,
                "choose more than 0, below 1000",
            ),
        ];
        match rules.into_iter().find(|(_, _, good, _)| !good) {
            Some((name, value, _, remedy)) => Err(SettingError { name, value, remedy }),
            None => Ok(()),
        }
    }
}
