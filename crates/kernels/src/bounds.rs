//! What lets a block of items be passed over unread: no score in it can reach a list.
//!
//! By Cauchy and Schwarz, `|Σ u[d] h[d]| ≤ ‖u‖ ‖h‖`, and a chain of `n` multiply-adds computes `start + Σ` with an error
//! of at most `γ (|start| + ‖u‖ ‖h‖)`, `γ = n 2⁻²⁴ / (1 − n 2⁻²⁴)` (Higham, *Accuracy and Stability of Numerical
//! Algorithms*, §3.1). So an item's start and norm bound the score that the kernel could compute for it, from above and
//! from below; each number here is widened by more than its own rounding. What is passed over is therefore never in the
//! list, and lists keep their bits.

use crate::aligned::AlignedF32;
use crate::blocked::{BlockedView, LANES, ShapeError};
use crate::isa::{Kernels, dispatch};
use crate::lanes::Lanes;
use rayon::prelude::*;

const BLOCKS_PER_TASK: usize = 256;

/// Blocks of which one bound is noted, lane by lane, before each is looked at alone.
pub(crate) const GROUP_BLOCKS: usize = 4;

/// Of each lane of a group of blocks the value that `pick` leaves of its blocks' values.
fn of_groups(values: &AlignedF32, pick: impl Fn(f32, f32) -> f32) -> AlignedF32 {
    let groups = values.as_slice().chunks(GROUP_BLOCKS * LANES);
    let mut picked = AlignedF32::zeroed(groups.len() * LANES);
    for (picked, group) in picked.as_mut_slice().chunks_exact_mut(LANES).zip(groups) {
        picked.copy_from_slice(&group[..LANES]);
        for block in group[LANES..].chunks_exact(LANES) {
            for (picked, value) in picked.iter_mut().zip(block) {
                *picked = pick(*picked, *value);
            }
        }
    }
    picked
}

/// More than the rounding of the few operations that make a bound.
const SLACK: f32 = 1e-6;

/// The error of a chain of `dim` multiply-adds relative to the magnitudes that it adds, and some more.
pub(crate) fn widening(dim: usize) -> f32 {
    // DIM_MAX is 1024, so that n 2⁻²⁴ is below 10⁻⁴ and 1.01 covers the denominator.
    1.01 * dim as f32 / (1_u32 << 24) as f32 + SLACK
}

/// The norm of a user's factors, widened so that `reach = norm × item norm` covers sums and their errors.
pub(crate) fn user_norm(user: &[f32]) -> f32 {
    let squares: f64 = user.iter().map(|value| f64::from(*value) * f64::from(*value)).sum();
    let norm = squares.sqrt() as f32 * (1.0 + 2.0 * widening(user.len()));
    norm.min(f32::MAX)
}

/// The norm of each item's factors.
#[derive(Debug, Clone, PartialEq)]
pub struct Norms {
    /// A whole number of blocks, zero past the last item.
    values: AlignedF32,
    /// The greatest of each lane of a group.
    most: AlignedF32,
    items: usize,
    dim: usize,
}

impl Norms {
    /// Reads all factors once.
    pub fn of(items: BlockedView<'_>) -> Self {
        let kernels = Kernels::best();
        let mut values = AlignedF32::zeroed(items.padded_items());
        // A share of the blocks for each task: a million items are half a gigabyte to read.
        let norms = values.as_mut_slice().par_chunks_mut(BLOCKS_PER_TASK * LANES);
        norms.zip(items.values().par_chunks(BLOCKS_PER_TASK * LANES * items.dim())).for_each(|(norms, values)| {
            norms_of_blocks(kernels, values, items.dim(), norms);
        });
        Self::new(values, items.items(), items.dim())
    }

    fn new(values: AlignedF32, items: usize, dim: usize) -> Self {
        let most = of_groups(&values, f32::max);
        Self { values, most, items, dim }
    }

    /// Whether these are the norms of factors of this shape.
    pub(crate) fn fit(&self, items: BlockedView<'_>) -> bool {
        (self.items, self.dim) == (items.items(), items.dim())
    }

    /// One norm an item, a whole number of blocks.
    pub(crate) fn as_slice(&self) -> &[f32] {
        self.values.as_slice()
    }

    /// The greatest norm of each lane of a group, the group that is cut short included.
    pub(crate) fn of_groups(&self) -> &[f32] {
        self.most.as_slice()
    }
}

/// Norms of factors that somebody reads anyway, block after block.
#[derive(Debug)]
pub struct NormsBuilder {
    kernels: Kernels,
    values: AlignedF32,
    items: usize,
    dim: usize,
    blocks: usize,
}

impl NormsBuilder {
    /// For so many items, of which no block is read yet.
    pub fn new(kernels: Kernels, items: usize, dim: usize) -> Self {
        Self { kernels, values: AlignedF32::zeroed(items), items, dim, blocks: 0 }
    }

    /// The next blocks of the factors, `[blocks][dim][16]`; what goes past the last item is left alone.
    pub fn push(&mut self, values: &[f32]) {
        let norms = self.values.as_mut_slice().get_mut(self.blocks * LANES..).unwrap_or_default();
        norms_of_blocks(self.kernels, values, self.dim, norms);
        self.blocks += values.len() / (LANES * self.dim).max(1);
    }

    /// The norms, if the factors were read to their end.
    pub fn finish(self) -> Option<Norms> {
        (self.blocks == self.items.div_ceil(LANES)).then(|| Norms::new(self.values, self.items, self.dim))
    }
}

dispatch! {
    fn norms_of_blocks(values: &[f32], dim: usize, norms: &mut [f32]) = norms_body
}

/// # Safety
/// As [`Lanes`], whose features the compiler uses.
#[inline(always)]
unsafe fn norms_body<L: Lanes>(values: &[f32], dim: usize, norms: &mut [f32]) {
    for (norms, block) in norms.as_chunks_mut::<LANES>().0.iter_mut().zip(values.chunks_exact(LANES * dim)) {
        let mut squares = [0.0_f64; LANES];
        for lanes in block.as_chunks::<LANES>().0 {
            for (sum, value) in squares.iter_mut().zip(lanes) {
                *sum += f64::from(*value) * f64::from(*value);
            }
        }
        for (norm, squares) in norms.iter_mut().zip(squares) {
            *norm = (squares.sqrt() as f32 * (1.0 + SLACK)).min(f32::MAX);
        }
    }
}

/// What every score of an item is multiplied by in the end: positive and finite.
#[derive(Debug, Clone, PartialEq)]
pub struct Scale {
    /// A whole number of blocks, zero past the last item.
    values: AlignedF32,
    /// The least and the greatest of each lane of a group.
    least: AlignedF32,
    most: AlignedF32,
    items: usize,
}

impl Scale {
    /// One value for each item; refuses what is not positive and finite.
    pub fn new(values: &[f32]) -> Result<Self, ShapeError> {
        if let Some(row) = values.iter().position(|value| !(*value > 0.0 && value.is_finite())) {
            return Err(ShapeError::NotFinite { row });
        }
        let mut padded = AlignedF32::zeroed(values.len());
        padded.as_mut_slice()[..values.len()].copy_from_slice(values);
        let (least, most) = (of_groups(&padded, f32::min), of_groups(&padded, f32::max));
        Ok(Self { values: padded, least, most, items: values.len() })
    }

    /// The number of items.
    pub(crate) fn items(&self) -> usize {
        self.items
    }

    /// The values, a whole number of blocks.
    pub(crate) fn padded(&self) -> &[f32] {
        self.values.as_slice()
    }

    /// The least and the greatest value of each lane of a group. Zero counts where a lane reaches past the last item.
    pub(crate) fn of_groups(&self) -> (&[f32], &[f32]) {
        (self.least.as_slice(), self.most.as_slice())
    }
}
