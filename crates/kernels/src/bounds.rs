//! What lets a block of items be passed over unread: no score in it can reach a list.
//!
//! By Cauchy and Schwarz, `Σ u[d] h[d] ≤ ‖u‖ ‖h‖`, and a chain of `n` multiply-adds computes `start + Σ` with an error
//! of at most `γ (|start| + ‖u‖ ‖h‖)`, `γ = n 2⁻²⁴ / (1 − n 2⁻²⁴)` (Higham, *Accuracy and Stability of Numerical
//! Algorithms*, §3.1). So a block's greatest start and greatest norm bound every score that the kernel could compute in
//! it, from above and from below; each number here is widened by more than its own rounding. What is passed over is
//! therefore never in the list, and lists keep their bits.

use crate::aligned::AlignedF32;
use crate::blocked::{BlockedView, LANES, ShapeError};

/// Blocks that are looked at together: one bit each.
pub(crate) const PANEL_BLOCKS: usize = 32;

/// More than the rounding of the few operations that make a bound.
const SLACK: f32 = 1e-6;

/// The error of a chain of `dim` multiply-adds relative to the magnitudes that it adds, and some more.
pub(crate) fn widening(dim: usize) -> f32 {
    // DIM_MAX is 1024, so that n 2⁻²⁴ is below 10⁻⁴ and 1.01 covers the denominator.
    1.01 * dim as f32 / (1_u32 << 24) as f32 + SLACK
}

/// The norm of a user's factors, widened so that `reach = norm × block norm` covers sums and their errors.
pub(crate) fn user_norm(user: &[f32]) -> f32 {
    let squares: f64 = user.iter().map(|value| f64::from(*value) * f64::from(*value)).sum();
    let norm = squares.sqrt() as f32 * (1.0 + 2.0 * widening(user.len()));
    norm.min(f32::MAX)
}

/// Above every score that starts at `start`, the reach aside.
#[inline(always)]
pub(crate) fn above(start: f32, widening: f32) -> f32 {
    start + start.abs() * widening
}

/// The greatest norm of an item in each block.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockNorms {
    /// A whole number of panels, zero past the last block.
    norms: AlignedF32,
    items: usize,
    dim: usize,
}

impl BlockNorms {
    /// Reads all factors once.
    pub fn of(items: BlockedView<'_>) -> Self {
        let blocks = items.padded_items() / LANES;
        let mut norms = AlignedF32::zeroed(blocks.next_multiple_of(PANEL_BLOCKS));
        for (norm, block) in norms.as_mut_slice().iter_mut().zip(items.values().chunks_exact(LANES * items.dim())) {
            let mut squares = [0.0_f64; LANES];
            for lanes in block.chunks_exact(LANES) {
                for (sum, value) in squares.iter_mut().zip(lanes) {
                    *sum += f64::from(*value) * f64::from(*value);
                }
            }
            let most = squares.into_iter().fold(0.0, f64::max).sqrt() as f32;
            *norm = (most * (1.0 + SLACK)).min(f32::MAX);
        }
        Self { norms, items: items.items(), dim: items.dim() }
    }

    /// Whether these are the norms of factors of this shape.
    pub(crate) fn fit(&self, items: BlockedView<'_>) -> bool {
        (self.items, self.dim) == (items.items(), items.dim())
    }

    /// One norm a block, [`PANEL_BLOCKS`] past the last panel's first.
    pub(crate) fn as_slice(&self) -> &[f32] {
        self.norms.as_slice()
    }
}

/// What every score of an item is multiplied by in the end: positive and finite.
#[derive(Debug, Clone, PartialEq)]
pub struct Scale(Base);

impl Scale {
    /// One value for each item; refuses what is not positive and finite.
    pub fn new(values: &[f32]) -> Result<Self, ShapeError> {
        match values.iter().position(|value| !(*value > 0.0 && value.is_finite())) {
            Some(row) => Err(ShapeError::NotFinite { row }),
            None => Ok(Self(Base::new(values))),
        }
    }

    /// One value for each item.
    pub fn values(&self) -> &[f32] {
        self.0.values()
    }

    /// The values, a whole number of blocks, and each block's greatest, a whole number of panels.
    pub(crate) fn padded(&self) -> (&[f32], &[f32]) {
        (self.0.padded(), self.0.maxima())
    }
}

/// A start for every item, which users may share.
#[derive(Debug, Clone, PartialEq)]
pub struct Base {
    /// A whole number of blocks.
    values: AlignedF32,
    /// A whole number of panels of each block's greatest value.
    maxima: AlignedF32,
    items: usize,
}

impl Base {
    /// One value for each item.
    pub fn new(values: &[f32]) -> Self {
        let mut padded = AlignedF32::zeroed(values.len());
        padded.as_mut_slice()[..values.len()].copy_from_slice(values);
        let blocks = values.len().div_ceil(LANES);
        let mut maxima = AlignedF32::zeroed(blocks.next_multiple_of(PANEL_BLOCKS));
        for (most, block) in maxima.as_mut_slice().iter_mut().zip(values.chunks(LANES)) {
            // Comparisons pass over a NaN, as lists do.
            *most = block.iter().copied().fold(-f32::MAX, f32::max);
        }
        Self { values: padded, maxima, items: values.len() }
    }

    /// The number of items.
    pub fn items(&self) -> usize {
        self.items
    }

    /// One value for each item.
    pub fn values(&self) -> &[f32] {
        &self.values.as_slice()[..self.items]
    }

    pub(crate) fn padded(&self) -> &[f32] {
        self.values.as_slice()
    }

    pub(crate) fn maxima(&self) -> &[f32] {
        self.maxima.as_slice()
    }
}
