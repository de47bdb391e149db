//! Why an item has its score: which entries of the row put in how much.
//!
//! The iALS part is linear in the row's right side (Hu, Koren and Volinsky 2008, §5): with `A` the row's normal
//! matrix, `⟨w, h_i⟩ = Σ_j c_j h_jᵀ A⁻¹ h_i`. The list's score is computed in `f32` through `w`, the parts through
//! `A⁻¹ h_i`; the rounding between the two goes to the greatest part, so that the parts sum to the score.

use super::{RecommendError, Recommender, Scratch, Shares};
use anabranch_kernels::{Rows, dot};
use serde::Serialize;

/// Where a contribution comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PartKind {
    /// The popularity of the item itself.
    Popularity,
    /// The item is in the row.
    History,
    /// The item is a neighbour of a row's item.
    Neighbours,
    /// The factors of a row's item.
    Factors,
}

/// One contribution to a score.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Part {
    /// Where it comes from.
    pub kind: PartKind,
    /// The entry of the row, by item index; none for popularity.
    pub history_item: Option<u32>,
    /// What it adds to the score; may be negative for factors.
    pub contribution: f64,
}

/// A score and its parts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explanation {
    /// The explained item.
    pub item: u32,
    /// The score, with the bits that a list would show.
    pub score: f32,
    /// The item's trend, which multiplied every part.
    pub trend: f32,
    /// Its parts: popularity, then row by row. They sum to the score up to the rounding of an `f64` sum.
    pub parts: Vec<Part>,
    /// What the parts differed from the score before the greatest took it: the rounding of two ways to one number.
    pub rounding: f64,
}

impl Recommender {
    /// Explains the score of `item` for a row.
    pub fn explain(&self, scratch: &mut Scratch, row: &[(u32, f32)], item: u32) -> Result<Explanation, RecommendError> {
        let item_count = self.snapshot.item_count();
        if item as usize >= item_count {
            return Err(RecommendError::UnknownItem { item, item_count });
        }
        self.check_row(row)?;
        let (mut parts, seed) = self.linear_parts(row, item);
        let dim = self.snapshot.dim();
        let factors = self.snapshot.item_factors();
        let (mut user, mut target) = (vec![0.0; dim], vec![0.0; dim]);
        factors.copy_row(item as usize, &mut target);
        self.scaled_factors(&mut scratch.system, row, &mut user)?;
        let trend = self.snapshot.trend()[item as usize];
        let score = trend * dot(seed, &user, &target) + 0.0; // as a list's score, never −0.0
        let weight = self.blend().factors;
        if !row.is_empty() && weight > 0.0 {
            let rows = Rows::Blocked(factors);
            self.snapshot
                .fold_in()
                .factorise(&mut scratch.system, rows, row.iter().copied())
                .map_err(RecommendError::FoldIn)?;
            let (mut solved, mut history) = (vec![0.0; dim], vec![0.0; dim]);
            scratch.system.solve_for(&target, &mut solved);
            for (entry, entry_weight) in row {
                factors.copy_row(*entry as usize, &mut history);
                let product: f64 = history.iter().zip(&solved).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                let contribution = f64::from(weight) * f64::from(*entry_weight) * product;
                parts.push(Part { kind: PartKind::Factors, history_item: Some(*entry), contribution });
            }
        }
        for part in &mut parts {
            part.contribution *= f64::from(trend);
        }
        let sum: f64 = parts.iter().map(|part| part.contribution).sum();
        let rounding = f64::from(score) - sum;
        if let Some(greatest) = parts.iter_mut().max_by(|a, b| a.contribution.abs().total_cmp(&b.contribution.abs())) {
            greatest.contribution += rounding;
        }
        Ok(Explanation { item, score, trend, parts, rounding })
    }

    /// Popularity, history and neighbour parts with the operations of a list's seed, and that seed.
    fn linear_parts(&self, row: &[(u32, f32)], item: u32) -> (Vec<Part>, f32) {
        let mut parts = Vec::new();
        let mut seed = 0.0_f32;
        let mut add = |kind, history_item, value: f32| {
            seed += value;
            parts.push(Part { kind, history_item, contribution: f64::from(value) });
        };
        let blend = self.blend();
        let popular = self.popular.as_slice()[item as usize];
        add(PartKind::Popularity, None, if row.is_empty() { popular } else { blend.popularity * popular });
        if !row.is_empty() {
            let shares = Shares::of(row, blend);
            for (entry, weight) in row.iter().filter(|(entry, _)| *entry == item) {
                add(PartKind::History, Some(*entry), shares.history * weight);
            }
            if blend.neighbours > 0.0 {
                for (entry, weight) in row {
                    let (neighbours, scores) = self.snapshot.neighbours(*entry);
                    for (_, score) in neighbours.iter().zip(scores).filter(|(neighbour, _)| **neighbour == item) {
                        add(PartKind::Neighbours, Some(*entry), (shares.neighbours * weight) * score);
                    }
                }
            }
        }
        (parts, seed)
    }
}
