//! The blocked layout of item factors, and where rows may be gathered from.
//!
//! Scoring wants sixteen items side by side for each dimension; training wants one item's dimensions side by side.
//! `[ceil(items / 16)][dim][16]` serves the first, and rows can be gathered out of it for the second, so that a
//! snapshot holds its factors once.

use crate::DIM_MAX;
use crate::aligned::AlignedF32;

/// Items in one block, and `f32` lanes in one step of every kernel.
pub const LANES: usize = 16;

/// A matrix whose shape cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShapeError {
    /// The number of dimensions is zero or too great.
    #[error("{dim} dimensions: choose 1 to {DIM_MAX}")]
    Dimensions {
        /// What was asked for.
        dim: usize,
    },
    /// The values do not fill the shape.
    #[error("{rows} rows of {dim} dimensions need {expected} values, found {found}")]
    Length {
        /// Rows of the shape.
        rows: usize,
        /// Dimensions of the shape.
        dim: usize,
        /// Values that the shape needs.
        expected: usize,
        /// Values that were given.
        found: usize,
    },
    /// A value is NaN or infinite (or, in a scale, not positive), which would leave scores without an order.
    #[error(
        "row {row} holds a value that is not finite or out of range: train again, or repair the source of the factors"
    )]
    NotFinite {
        /// The first such row.
        row: usize,
    },
}

pub(crate) fn check_shape(rows: usize, dim: usize, expected: usize, found: usize) -> Result<(), ShapeError> {
    if dim == 0 || dim > DIM_MAX {
        return Err(ShapeError::Dimensions { dim });
    }
    if expected != found {
        return Err(ShapeError::Length { rows, dim, expected, found });
    }
    Ok(())
}

/// Item factors `[ceil(items / 16)][dim][16]` of `f32`, borrowed (from a mapped file or a [`BlockedFactors`]).
///
/// Lanes past the last item are zero. Any alignment is accepted; 64 bytes is fastest.
#[derive(Debug, Clone, Copy)]
pub struct BlockedView<'a> {
    values: &'a [f32],
    items: usize,
    dim: usize,
}

impl<'a> BlockedView<'a> {
    /// A view of `values`. Checks the shape only: callers that read factors from outside check [`Self::first_not_finite`]
    /// once.
    pub fn new(values: &'a [f32], items: usize, dim: usize) -> Result<Self, ShapeError> {
        let expected = items.div_ceil(LANES).saturating_mul(LANES).saturating_mul(dim);
        check_shape(items, dim, expected, values.len())?;
        Ok(Self { values, items, dim })
    }

    /// The number of items.
    pub fn items(&self) -> usize {
        self.items
    }

    /// The number of dimensions.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Items rounded up to whole blocks: the length of a seed.
    pub fn padded_items(&self) -> usize {
        self.items.div_ceil(LANES) * LANES
    }

    /// The values in their stored order.
    pub fn values(&self) -> &'a [f32] {
        self.values
    }

    /// The first item with a value that is NaN or infinite (padding included, as an item past the last).
    pub fn first_not_finite(&self) -> Option<usize> {
        // A plain sum of bits per chunk would be faster; this runs once when a snapshot opens.
        let position = self.values.iter().position(|value| !value.is_finite())?;
        Some(position / (LANES * self.dim) * LANES + position % LANES)
    }

    /// Copies the factors of `item` into the first `dim` values of `out`.
    pub fn copy_row(&self, item: usize, out: &mut [f32]) {
        assert!(item < self.items, "item {item} of {}", self.items);
        let block = &self.values[item / LANES * LANES * self.dim..][..LANES * self.dim];
        let lane = item % LANES;
        for (to, from) in out[..self.dim].iter_mut().zip(block.chunks_exact(LANES)) {
            *to = from[lane];
        }
    }
}

/// Owned factors in the blocked layout, on cache-line boundaries.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockedFactors {
    values: AlignedF32,
    items: usize,
    dim: usize,
}

impl BlockedFactors {
    /// Blocks `rows`, `[items × dim]` row-major; refuses values that are not finite.
    pub fn from_rows(rows: &[f32], items: usize, dim: usize) -> Result<Self, ShapeError> {
        check_shape(items, dim, items.saturating_mul(dim), rows.len())?;
        let mut values = AlignedF32::zeroed(items.div_ceil(LANES) * LANES * dim);
        let blocks = values.as_mut_slice();
        for (item, row) in rows.chunks_exact(dim).enumerate() {
            if row.iter().any(|value| !value.is_finite()) {
                return Err(ShapeError::NotFinite { row: item });
            }
            let block = &mut blocks[item / LANES * LANES * dim..][..LANES * dim];
            for (to, from) in block.chunks_exact_mut(LANES).zip(row) {
                to[item % LANES] = *from;
            }
        }
        Ok(Self { values, items, dim })
    }

    /// The borrowed form, which the kernels take.
    pub fn view(&self) -> BlockedView<'_> {
        BlockedView { values: self.values.as_slice(), items: self.items, dim: self.dim }
    }
}

/// Where the rows of a normal system are gathered from. Both give the same bits.
#[derive(Debug, Clone, Copy)]
pub enum Rows<'a> {
    /// `[rows × dim]` row-major, as training holds them.
    RowMajor(&'a [f32]),
    /// The blocked layout, as a snapshot holds them.
    Blocked(BlockedView<'a>),
}

impl Rows<'_> {
    /// Copies row `index` into the first `dim` values of `out`; the index must lie inside.
    pub fn copy_row(&self, index: usize, dim: usize, out: &mut [f32]) {
        match self {
            Rows::RowMajor(values) => out[..dim].copy_from_slice(&values[index * dim..][..dim]),
            Rows::Blocked(view) => {
                assert_eq!(view.dim(), dim, "the rows and the system have the same dimensions");
                view.copy_row(index, out);
            }
        }
    }
}
