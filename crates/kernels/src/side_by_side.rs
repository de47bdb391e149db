//! Up to sixteen systems of normal equations factorised and solved side by side, one in each lane.
//!
//! One system alone waits: a pivot's root and reciprocal, the corner of a panel and each step of the back substitution
//! depend on what came before. Side by side the same chains ([`crate::cholesky`]) run in step, so nothing waits and no lane
//! is idle, and the right side is one more column of the matrix. Every entry goes through the very operations of a system
//! alone, in the same order: the bits are equal, and the tests compare them.
//!
//! Not here: accumulating rows, which [`NormalEquations`] does for one system after the other, and what is wrong with a
//! system that has no solution: a system alone tells.

use crate::aligned::AlignedF32;
use crate::blocked::{LANES, ShapeError, check_shape};
use crate::isa::{Kernels, dispatch};
use crate::lanes::Lanes;
use crate::normal::NormalEquations;

/// Rows and columns of a register tile: 16 accumulators beside 8 operands of the 32 registers of AVX-512. (Others spill,
/// and are still faster than one system after the other.)
const TILE: usize = 4;

/// The scratch for systems of one size.
#[derive(Debug, Clone)]
pub struct SideBySide {
    kernels: Kernels,
    dim: usize,
    stride: usize,
    count: usize,
    /// The systems as they were accumulated, one after the other.
    states: AlignedF32,
    /// `[dim][stride + 1][16]`, upper triangle, the right side in the last column.
    lanes: AlignedF32,
    /// `[dim][16]`, 1 / diagonal.
    inverse: AlignedF32,
    /// `[stride][16]`.
    solution: AlignedF32,
    /// `[16][stride]`.
    solved: AlignedF32,
}

impl SideBySide {
    /// Systems that fit.
    pub const SYSTEMS_MAX: usize = LANES;

    /// Scratch for systems of `dim` unknowns: some 33 KiB for each 1,000 entries of a matrix.
    pub fn new(kernels: Kernels, dim: usize) -> Result<Self, ShapeError> {
        check_shape(dim, dim, 0, 0)?;
        let stride = dim.div_ceil(LANES) * LANES;
        Ok(Self {
            kernels,
            dim,
            stride,
            count: 0,
            states: AlignedF32::zeroed(LANES * (dim + 1) * stride),
            lanes: AlignedF32::zeroed(dim * (stride + 1) * LANES),
            inverse: AlignedF32::zeroed(dim * LANES),
            solution: AlignedF32::zeroed(stride * LANES),
            solved: AlignedF32::zeroed(LANES * stride),
        })
    }

    /// Takes over a system as accumulated, for the next [`Self::solve`]. There must be room for it.
    pub fn push(&mut self, system: &NormalEquations) {
        assert!(self.count < LANES && system.dim() == self.dim, "a system of these dimensions, and room for it");
        let length = system.state_len();
        system.save(&mut self.states.as_mut_slice()[self.count * length..][..length]);
        self.count += 1;
    }

    /// Solves what was pushed and makes room. Bit `n` of the answer says that the n-th system has a solution
    /// ([`Self::solution`]); what a system lacks that has none, [`NormalEquations::factorise`] tells.
    pub fn solve(&mut self) -> u32 {
        let count = std::mem::take(&mut self.count);
        if count == 0 {
            return 0;
        }
        // A lane without a system repeats the first.
        let length = (self.dim + 1) * self.stride;
        let (first, others) = self.states.as_mut_slice().split_at_mut(length);
        others.chunks_exact_mut(length).skip(count - 1).for_each(|state| state.copy_from_slice(first));
        let good = solve_lanes(
            self.kernels,
            self.states.as_slice(),
            self.lanes.as_mut_slice(),
            self.inverse.as_mut_slice(),
            self.solution.as_mut_slice(),
            self.solved.as_mut_slice(),
            self.dim,
        );
        good & (u32::MAX >> (LANES - count + 16))
    }

    /// The solution of the n-th system that the last [`Self::solve`] solved, `dim` values.
    pub fn solution(&self, number: usize) -> &[f32] {
        &self.solved.as_slice()[number * self.stride..][..self.dim]
    }
}

dispatch! {
    fn solve_lanes(
        states: &[f32], lanes: &mut [f32], inverse: &mut [f32], solution: &mut [f32], solved: &mut [f32], dim: usize,
    ) -> u32 = solve_body
}

/// # Safety
/// As [`Lanes`]. Shapes are asserted.
#[inline(always)]
unsafe fn solve_body<L: Lanes>(
    states: &[f32],
    lanes: &mut [f32],
    inverse: &mut [f32],
    solution: &mut [f32],
    solved: &mut [f32],
    dim: usize,
) -> u32 {
    let stride = dim.div_ceil(LANES) * LANES;
    assert!(states.len() == LANES * (dim + 1) * stride && lanes.len() == dim * (stride + 1) * LANES);
    assert!(inverse.len() == dim * LANES && solution.len() == stride * LANES && solved.len() == LANES * stride);
    let mut matrix = Matrix { values: lanes.as_mut_ptr(), inverse: inverse.as_mut_ptr(), dim, stride };
    // SAFETY: the lengths asserted are those that the functions need.
    unsafe {
        interleave::<L>(states, &mut matrix);
        let mut good = u32::MAX >> 16;
        let mut i = 0;
        while i < dim {
            if i + TILE <= dim {
                good &= matrix.rows::<L, TILE>(i);
                i += TILE;
            } else {
                good &= matrix.rows::<L, 1>(i);
                i += 1;
            }
        }
        back_substitute::<L>(&matrix, solution);
        for q in (0..stride).step_by(LANES) {
            let mut rows = [L::splat(0.0); LANES];
            for (lane, row) in rows.iter_mut().enumerate() {
                *row = L::load(solution.as_ptr().add((q + lane) * LANES));
            }
            for (number, row) in L::transpose(rows).into_iter().enumerate() {
                row.store(solved.as_mut_ptr().add(number * stride + q));
            }
        }
        good
    }
}

/// The matrices, lane by lane.
struct Matrix {
    values: *mut f32,
    inverse: *mut f32,
    dim: usize,
    stride: usize,
}

/// # Safety
/// As [`Lanes`]; `states` holds 16 systems, the matrix has room for them.
#[inline(always)]
unsafe fn interleave<L: Lanes>(states: &[f32], matrix: &mut Matrix) {
    let (dim, stride) = (matrix.dim, matrix.stride);
    let length = (dim + 1) * stride;
    // SAFETY: row i ≤ dim and columns q..q+16 ≤ stride lie inside every state.
    unsafe {
        for i in 0..=dim {
            // The last row of a state is its right side.
            let first = if i < dim { i / LANES * LANES } else { 0 };
            for q in (first..stride).step_by(LANES) {
                let mut rows = [L::splat(0.0); LANES];
                for (number, row) in rows.iter_mut().enumerate() {
                    *row = L::load(states.as_ptr().add(number * length + i * stride + q));
                }
                for (lane, column) in L::transpose(rows).into_iter().enumerate() {
                    if i < dim {
                        column.store(matrix.at(i, q + lane));
                    } else if q + lane < dim {
                        column.store(matrix.at(q + lane, stride));
                    }
                }
            }
        }
    }
}

impl Matrix {
    /// The 16 values at row `i` < dim and column `j` ≤ stride.
    ///
    /// # Safety
    /// Row and column lie inside.
    #[inline(always)]
    unsafe fn at(&self, i: usize, j: usize) -> *mut f32 {
        // SAFETY: the caller's promise. A row is a column longer than the matrix is wide, for the right side; it also keeps
        // the rows of a column from falling together in the cache.
        unsafe { self.values.add((i * (self.stride + 1) + j) * LANES) }
    }

    /// Factorises rows `i..i + R`, all rows above being done. Bit `l` of the answer says that the pivots of lane `l` are
    /// positive and finite.
    ///
    /// # Safety
    /// As [`Lanes`]; the rows lie inside.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // the corner is read by rows and columns at once
    unsafe fn rows<L: Lanes, const R: usize>(&mut self, i: usize) -> u32 {
        // SAFETY: the caller's promise; columns are below dim, or the right side's.
        unsafe {
            let mut corner = [[L::splat(0.0); R]; R];
            self.tile::<L, R, R>(i, i, &mut corner);
            let mut inverse = [L::splat(0.0); R];
            let mut good = u32::MAX >> 16;
            for r in 0..R {
                let pivot = corner[r][r];
                good &= pivot.ge_mask(L::splat(f32::from_bits(1))) & L::splat(f32::MAX).ge_mask(pivot);
                corner[r][r] = pivot.sqrt();
                inverse[r] = corner[r][r].reciprocal();
                inverse[r].store(self.inverse.add((i + r) * LANES));
                for column in r + 1..R {
                    corner[r][column] = corner[r][column].mul(inverse[r]);
                }
                for below in r + 1..R {
                    for column in below..R {
                        corner[below][column] = corner[below][column].fnma(corner[r][below], corner[r][column]);
                    }
                }
                for column in r..R {
                    corner[r][column].store(self.at(i + r, i + column));
                }
            }
            let mut j = i + R;
            while j < self.dim {
                if j + TILE <= self.dim {
                    self.columns::<L, R, TILE>(i, j, &corner, &inverse);
                    j += TILE;
                } else {
                    self.columns::<L, R, 1>(i, j, &corner, &inverse);
                    j += 1;
                }
            }
            self.columns::<L, R, 1>(i, self.stride, &corner, &inverse);
            good
        }
    }

    /// Rows `i..i + R` of columns `j..j + C`, which lie right of the corner.
    ///
    /// # Safety
    /// As [`Lanes`]; rows and columns lie inside.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // as above
    unsafe fn columns<L: Lanes, const R: usize, const C: usize>(
        &mut self,
        i: usize,
        j: usize,
        corner: &[[L; R]; R],
        inverse: &[L; R],
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut sums = [[L::splat(0.0); C]; R];
            self.tile::<L, R, C>(i, j, &mut sums);
            for r in 0..R {
                for c in 0..C {
                    sums[r][c] = sums[r][c].mul(inverse[r]);
                    sums[r][c].store(self.at(i + r, j + c));
                }
                for below in r + 1..R {
                    for c in 0..C {
                        sums[below][c] = sums[below][c].fnma(corner[r][below], sums[r][c]);
                    }
                }
            }
        }
    }

    /// `A[i + r][j + c] − Σ_{k<i} U[k][i + r] U[k][j + c]`, one chain over `k` ascending.
    ///
    /// # Safety
    /// As [`Lanes`]; rows and columns lie inside.
    #[inline(always)]
    unsafe fn tile<L: Lanes, const R: usize, const C: usize>(&self, i: usize, j: usize, sums: &mut [[L; C]; R]) {
        // SAFETY: the caller's promise.
        unsafe {
            for (r, sums) in sums.iter_mut().enumerate() {
                for (c, sum) in sums.iter_mut().enumerate() {
                    *sum = L::load(self.at(i + r, j + c));
                }
            }
            for k in 0..i {
                let mut right = [L::splat(0.0); C];
                for (c, right) in right.iter_mut().enumerate() {
                    *right = L::load(self.at(k, j + c));
                }
                for (r, sums) in sums.iter_mut().enumerate() {
                    let left = L::load(self.at(k, i + r));
                    for (sum, right) in sums.iter_mut().zip(right) {
                        *sum = sum.fnma(left, right);
                    }
                }
            }
        }
    }
}

/// Each dot product is split by `k mod 16` and summed by halves, as [`crate::cholesky`] defines it.
///
/// # Safety
/// As [`Lanes`]; the matrix is factorised, and `solution` is 16 × its stride.
#[inline(always)]
unsafe fn back_substitute<L: Lanes>(matrix: &Matrix, solution: &mut [f32]) {
    solution.fill(0.0);
    for i in (0..matrix.dim).rev() {
        // SAFETY: k runs to the stride, i is a row of the matrix.
        unsafe {
            let one = L::splat(1.0); // a product with one is exact: a + 1 · b is rounded once, as a sum is
            let mut sums = [L::splat(0.0); LANES];
            // Left of i the solution is still zero, and a multiply-add of zero leaves a sum that starts from +0 as it is.
            for k in i + 1..(i / LANES + 1) * LANES {
                let product = L::load(matrix.at(i, k));
                sums[k % LANES] = sums[k % LANES].fma(product, L::load(solution.as_ptr().add(k * LANES)));
            }
            for from in ((i / LANES + 1) * LANES..matrix.stride).step_by(LANES) {
                for (lane, sum) in sums.iter_mut().enumerate() {
                    let values = L::load(matrix.at(i, from + lane));
                    *sum = sum.fma(values, L::load(solution.as_ptr().add((from + lane) * LANES)));
                }
            }
            for half in [8, 4, 2, 1] {
                for lane in 0..half {
                    sums[lane] = sums[lane].fma(sums[lane + half], one);
                }
            }
            let value = L::load(matrix.at(i, matrix.stride)).fnma(sums[0], one);
            let inverse = L::load(matrix.inverse.add(i * LANES));
            value.mul(inverse).store(solution.as_mut_ptr().add(i * LANES));
        }
    }
}
