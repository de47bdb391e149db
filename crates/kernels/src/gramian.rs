//! The Gramian `Σ y yᵀ` of factor rows, in `f64` over fixed blocks of rows.
//!
//! A product of two `f32` is exact in `f64`, so each entry is a plain sum in row order inside a block, and the
//! blocks are summed in order: the number of threads and the instruction set cannot change a bit. The error against
//! the exact sum is at most `(rows) × 2⁻⁵³ × Σ |y||y|`, far below the `f32` rounding that follows.

use crate::blocked::{ShapeError, check_shape};
use crate::isa::{Kernels, dispatch};
use crate::lanes::Lanes;
use rayon::prelude::*;

/// Rows in one block of the sum; part of the definition of the result.
pub const GRAMIAN_ROWS_PER_BLOCK: usize = 1024;

/// Partial sums held at once: bounds memory to 32 × dim² × 8 bytes (32 MiB at 360 dimensions).
const BLOCKS_PER_WAVE: usize = 32;

/// Columns of a register tile.
const COLUMNS: usize = 8;
/// Rows of a register tile.
const ROWS: usize = 4;

/// `Σ y yᵀ` of `rows`, `[n × dim]` row-major, as a full symmetric `[dim × dim]` matrix.
pub fn gramian(kernels: Kernels, rows: &[f32], dim: usize) -> Result<Vec<f64>, ShapeError> {
    let count = rows.len().checked_div(dim).unwrap_or(0);
    check_shape(count, dim, count * dim, rows.len())?;
    let mut sum = vec![0.0; dim * dim];
    for wave in rows.chunks(BLOCKS_PER_WAVE * GRAMIAN_ROWS_PER_BLOCK * dim) {
        let partials: Vec<Vec<f64>> = wave
            .par_chunks(GRAMIAN_ROWS_PER_BLOCK * dim)
            .map(|block| {
                let mut partial = vec![0.0; dim * dim];
                block_gramian(kernels, block, dim, &mut partial);
                partial
            })
            .collect();
        for partial in partials {
            for (total, part) in sum.iter_mut().zip(partial) {
                *total += part;
            }
        }
    }
    for p in 0..dim {
        for q in 0..p {
            sum[p * dim + q] = sum[q * dim + p];
        }
    }
    Ok(sum)
}

dispatch! {
    fn block_gramian(block: &[f32], dim: usize, out: &mut [f64]) = block_gramian_body
}

/// Upper triangle only, in plain code that the enclosing function's features let the compiler vectorise.
///
/// # Safety
/// None of its own; the signature is the dispatcher's.
#[inline(always)]
unsafe fn block_gramian_body<L: Lanes>(block: &[f32], dim: usize, out: &mut [f64]) {
    let stride = dim.div_ceil(COLUMNS) * COLUMNS;
    let mut wide = vec![0.0_f64; block.len() / dim * stride];
    for (to, from) in wide.chunks_exact_mut(stride).zip(block.chunks_exact(dim)) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = f64::from(*from);
        }
    }
    for p in (0..dim).step_by(ROWS) {
        for q in (p / COLUMNS * COLUMNS..stride).step_by(COLUMNS) {
            let mut sums = [[0.0_f64; COLUMNS]; ROWS];
            for row in wide.chunks_exact(stride) {
                let columns: &[f64; COLUMNS] = row[q..q + COLUMNS].try_into().expect("the slice has that length");
                let left: &[f64; ROWS] = row[p..p + ROWS].try_into().expect("4 divides 8, which divides the stride");
                for (sums, left) in sums.iter_mut().zip(left) {
                    for (sum, column) in sums.iter_mut().zip(columns) {
                        *sum += left * column;
                    }
                }
            }
            for (r, sums) in sums.iter().enumerate().take(dim - p.min(dim)) {
                for (c, sum) in sums.iter().enumerate().take(dim.saturating_sub(q)) {
                    if q + c >= p + r {
                        out[(p + r) * dim + q + c] = *sum;
                    }
                }
            }
        }
    }
}
