//! Cholesky factorisation `A = UᵀU` and the two triangular solves, in one fixed order of operations.
//!
//! `U[i][j] = (A[i][j] − Σ_{k<i} U[k][i]·U[k][j]) / U[i][i]`: the sum is one chain of `fma(−u, u, a)` over `k`
//! ascending, the division a product with the diagonal's rounded reciprocal. Working on the upper triangle row-major
//! keeps the lanes on different `j`. Panels of a few rows first take all earlier pivots as a matrix product, then
//! their own, which is the same chain: the height of a panel cannot change a bit.

use crate::blocked::LANES;
use crate::isa::dispatch;
use crate::lanes::{Lanes, with_tile_width};

/// The matrix has no Cholesky factor in `f32`.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("the matrix is not positive definite: pivot {pivot} is {value}; raise the regularisation")]
pub struct NotPositiveDefinite {
    /// The row of the pivot.
    pub pivot: usize,
    /// Its value: not positive, or not finite.
    pub value: f32,
}

dispatch! {
    /// Factorises the upper triangle of `matrix`, `[dim × stride]`, in place and writes 1 / diagonal. Entries left of
    /// the diagonal inside the diagonal's block of 16 columns become zero; those further left are unspecified.
    fn factorise_dispatched(matrix: &mut [f32], inverse: &mut [f32], dim: usize) -> Result<(), NotPositiveDefinite> = factorise_body
}

pub(crate) fn factorise(
    kernels: crate::Kernels,
    matrix: &mut [f32],
    inverse: &mut [f32],
    dim: usize,
) -> Result<(), NotPositiveDefinite> {
    factorise_dispatched(kernels, matrix, inverse, dim)
}

/// # Safety
/// As [`Lanes`]. Shapes are asserted.
#[inline(always)]
unsafe fn factorise_body<L: Lanes>(
    matrix: &mut [f32],
    inverse: &mut [f32],
    dim: usize,
) -> Result<(), NotPositiveDefinite> {
    let stride = dim.div_ceil(LANES) * LANES;
    assert!(matrix.len() >= dim * stride && inverse.len() >= dim);
    let mut p = 0;
    while p < dim {
        let height = L::TILE.min(dim - p);
        // SAFETY: the panel p..p+height lies inside the matrix.
        unsafe { with_tile_width!(height, panel::<L>(matrix, inverse, stride, p)) }?;
        p += height;
    }
    Ok(())
}

/// Factorises rows `p..p + R`, all rows above being done.
///
/// # Safety
/// As [`Lanes`]; the rows lie inside `matrix`, `[· × stride]`.
#[inline(always)]
unsafe fn panel<L: Lanes, const R: usize>(
    matrix: &mut [f32],
    inverse: &mut [f32],
    stride: usize,
    p: usize,
) -> Result<(), NotPositiveDefinite> {
    let first_block = p / LANES * LANES;
    let values = matrix.as_mut_ptr();
    for q in (first_block..stride).step_by(LANES) {
        // SAFETY: rows up to p + R and columns q..q+16 ≤ stride are inside; rows read (k < p) are not written.
        unsafe {
            let mut sums = [L::splat(0.0); R];
            for (r, sum) in sums.iter_mut().enumerate() {
                *sum = L::load(values.add((p + r) * stride + q));
            }
            for k in 0..p {
                let lanes = L::load(values.add(k * stride + q));
                for (r, sum) in sums.iter_mut().enumerate() {
                    *sum = sum.fnma(L::splat(*values.add(k * stride + p + r)), lanes);
                }
            }
            for (r, sum) in sums.iter().enumerate() {
                sum.store(values.add((p + r) * stride + q));
            }
        }
    }
    let (corner, diagonal) = corner::<R>(matrix, inverse, stride, p)?;
    let values = matrix.as_mut_ptr();
    for q in (first_block..stride).step_by(LANES) {
        // SAFETY: as above.
        unsafe {
            let mut rows = [L::splat(0.0); R];
            for (r, row) in rows.iter_mut().enumerate() {
                *row = L::load(values.add((p + r) * stride + q));
            }
            for r in 0..R {
                rows[r] = rows[r].mul(L::splat(inverse[p + r]));
                for below in r + 1..R {
                    rows[below] = rows[below].fnma(L::splat(corner[r][below]), rows[r]);
                }
            }
            for (r, row) in rows.iter().enumerate() {
                row.store(values.add((p + r) * stride + q));
            }
        }
    }
    for (r, pivot) in diagonal.into_iter().enumerate() {
        let row = &mut matrix[(p + r) * stride..][..stride];
        row[(p + r) / LANES * LANES..p + r].fill(0.0);
        row[p + r] = pivot;
    }
    Ok(())
}

/// Factorises the panel's own `R × R` corner one value at a time, with the very operations that the lanes use.
#[inline(always)]
#[allow(clippy::type_complexity)]
fn corner<const R: usize>(
    matrix: &[f32],
    inverse: &mut [f32],
    stride: usize,
    p: usize,
) -> Result<([[f32; R]; R], [f32; R]), NotPositiveDefinite> {
    let mut corner = [[0.0_f32; R]; R];
    for (r, row) in corner.iter_mut().enumerate() {
        row.copy_from_slice(&matrix[(p + r) * stride + p..][..R]);
    }
    let mut diagonal = [0.0; R];
    for r in 0..R {
        let value = corner[r][r];
        if !(value > 0.0 && value.is_finite()) {
            return Err(NotPositiveDefinite { pivot: p + r, value });
        }
        diagonal[r] = value.sqrt();
        inverse[p + r] = 1.0 / diagonal[r];
        for value in &mut corner[r][r + 1..] {
            *value *= inverse[p + r];
        }
        for below in r + 1..R {
            for column in below..R {
                corner[below][column] = (-corner[r][below]).mul_add(corner[r][column], corner[below][column]);
            }
        }
    }
    Ok((corner, diagonal))
}

dispatch! {
    /// Solves `UᵀU x = b`: `work` holds `b` on entry, `solution` `x` on return; both `[stride]`, zero past `dim`.
    fn solve_dispatched(matrix: &[f32], inverse: &[f32], work: &mut [f32], solution: &mut [f32], dim: usize) = solve_body
}

pub(crate) fn solve(
    kernels: crate::Kernels,
    matrix: &[f32],
    inverse: &[f32],
    work: &mut [f32],
    solution: &mut [f32],
    dim: usize,
) {
    solve_dispatched(kernels, matrix, inverse, work, solution, dim);
}

/// Forward: one chain over `k` ascending per value. Backward: each dot product is split over 16 lanes by `k mod 16`
/// and summed by halves; that split is the definition, whatever the register width.
///
/// # Safety
/// As [`Lanes`]. Shapes are asserted.
#[inline(always)]
unsafe fn solve_body<L: Lanes>(matrix: &[f32], inverse: &[f32], work: &mut [f32], solution: &mut [f32], dim: usize) {
    let stride = dim.div_ceil(LANES) * LANES;
    assert!(matrix.len() >= dim * stride && inverse.len() >= dim);
    assert!(work.len() == stride && solution.len() == stride);
    for k in 0..dim {
        let value = work[k] * inverse[k];
        for q in (k / LANES * LANES..stride).step_by(LANES) {
            // SAFETY: q + 16 ≤ stride, row k is inside the matrix.
            unsafe {
                let row = L::load(matrix.as_ptr().add(k * stride + q));
                L::load(work.as_ptr().add(q)).fnma(L::splat(value), row).store(work.as_mut_ptr().add(q));
            }
        }
        work[k] = value;
    }
    solution.fill(0.0);
    for i in (0..dim).rev() {
        let mut lanes = [0.0_f32; LANES];
        // SAFETY: q + 16 ≤ stride, row i is inside the matrix; `solution` is still zero at and left of i, and so is
        // the row left of the diagonal, so only k > i adds to the sum.
        unsafe {
            let mut sum = L::splat(0.0);
            for q in (i / LANES * LANES..stride).step_by(LANES) {
                sum = sum.fma(L::load(matrix.as_ptr().add(i * stride + q)), L::load(solution.as_ptr().add(q)));
            }
            sum.store(lanes.as_mut_ptr());
        }
        for half in [8, 4, 2, 1] {
            for lane in 0..half {
                lanes[lane] += lanes[lane + half];
            }
        }
        solution[i] = (work[i] - lanes[0]) * inverse[i];
    }
}
