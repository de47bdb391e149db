//! The Gramian `Σ y yᵀ` of factor rows, in `f64` over fixed groups of fixed blocks of rows.
//!
//! A product of two `f32` is exact in `f64`, so each entry is a plain sum in row order inside a block; the blocks of a
//! group are summed in order, and so are the groups. The number of threads and the instruction set cannot change a bit,
//! and neither can who computes a block: several machines may share the work ([`gramian_blocks`], [`gramian_sums`]), each
//! sending one matrix for every group that it holds. The error against the exact sum is at most
//! `(rows) × 2⁻⁵³ × Σ |y||y|`, far below the `f32` rounding that follows.

use crate::blocked::{ShapeError, check_shape};
use crate::isa::{Kernels, dispatch};
use crate::lanes::Lanes;
use rayon::prelude::*;

/// Rows in one block of the sum; part of the definition of the result.
pub const GRAMIAN_ROWS_PER_BLOCK: usize = 1024;

/// Blocks in one group of the sum; part of the definition of the result.
pub const GRAMIAN_BLOCKS_PER_GROUP: usize = 64;

/// Partial sums held at once: bounds memory to 32 × dim² × 8 bytes (32 MiB at 360 dimensions).
const BLOCKS_PER_WAVE: usize = 32;

/// Columns of a register tile.
const COLUMNS: usize = 8;
/// Rows of a register tile.
const ROWS: usize = 4;

/// `Σ y yᵀ` of `rows`, `[n × dim]` row-major, as a full symmetric `[dim × dim]` matrix.
pub fn gramian(kernels: Kernels, rows: &[f32], dim: usize) -> Result<Vec<f64>, ShapeError> {
    check_rows(rows, dim)?;
    let mut sum = vec![0.0; dim * dim];
    for group in rows.chunks(GRAMIAN_BLOCKS_PER_GROUP * GRAMIAN_ROWS_PER_BLOCK * dim) {
        let mut of_group = vec![0.0; dim * dim];
        for wave in group.chunks(BLOCKS_PER_WAVE * GRAMIAN_ROWS_PER_BLOCK * dim) {
            for partial in blocks_of(kernels, wave, dim) {
                add(&mut of_group, &partial);
            }
        }
        add(&mut sum, &of_group);
    }
    Ok(sum)
}

/// `Σ y yᵀ` of each block of `rows` (`[n × dim]` row-major), `[blocks × dim × dim]`, each full and symmetric. The first
/// row begins a block of the whole matrix; only the whole matrix's last block may be shorter.
pub fn gramian_blocks(kernels: Kernels, rows: &[f32], dim: usize) -> Result<Vec<f64>, ShapeError> {
    check_rows(rows, dim)?;
    Ok(blocks_of(kernels, rows, dim).concat())
}

/// Sums of `per_sum` matrices each (the last of what is left), in order: blocks to groups with
/// [`GRAMIAN_BLOCKS_PER_GROUP`], groups to the Gramian with their number. `matrices` is `[m × dim × dim]`.
pub fn gramian_sums(matrices: &[f64], dim: usize, per_sum: usize) -> Result<Vec<f64>, ShapeError> {
    let size = dim.saturating_mul(dim);
    let count = matrices.len().checked_div(size).unwrap_or(0);
    check_shape(count, dim, count * size, matrices.len())?;
    let mut sums = Vec::with_capacity(count.div_ceil(per_sum.max(1)) * size);
    for chunk in matrices.chunks(per_sum.max(1).saturating_mul(size)) {
        let mut sum = vec![0.0; size];
        chunk.chunks_exact(size).for_each(|matrix| add(&mut sum, matrix));
        sums.extend(sum);
    }
    Ok(sums)
}

fn check_rows(rows: &[f32], dim: usize) -> Result<(), ShapeError> {
    let count = rows.len().checked_div(dim).unwrap_or(0);
    check_shape(count, dim, count * dim, rows.len())
}

fn blocks_of(kernels: Kernels, rows: &[f32], dim: usize) -> Vec<Vec<f64>> {
    rows.par_chunks(GRAMIAN_ROWS_PER_BLOCK * dim)
        .map(|block| {
            let mut partial = vec![0.0; dim * dim];
            block_gramian(kernels, block, dim, &mut partial);
            for p in 0..dim {
                for q in 0..p {
                    partial[p * dim + q] = partial[q * dim + p];
                }
            }
            partial
        })
        .collect()
}

fn add(sum: &mut [f64], part: &[f64]) {
    for (sum, part) in sum.iter_mut().zip(part) {
        *sum += part;
    }
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
