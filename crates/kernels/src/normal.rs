//! Weighted normal equations `A x = b` with `A = base + ridge·I + Σ w x xᵀ` and `b = Σ w x`, accumulated and solved.
//!
//! Each entry is one multiply-add chain over the rows in the order given: `A[p][q] = fma(w·x[p], x[q], A[p][q])` for
//! `p ≤ q`, with `w·x[p]` rounded once, and `b[q] += w·x[q]` from the same rounded product. Only the upper triangle is kept. A system is
//! the reusable scratch of one thread: nothing is allocated after [`NormalEquations::new`].

use crate::aligned::AlignedF32;
use crate::blocked::{LANES, Rows, ShapeError, check_shape};
use crate::cholesky::{self, NotPositiveDefinite};
use crate::isa::{Kernels, dispatch};
use crate::lanes::{Lanes, with_tile_width};

/// Rows packed at a time: 128 rows × 64 dimensions, plain and weighted, are 64 KiB, half of L2 at worst at 128.
const ROWS_PER_PACK: usize = 128;

/// The part of the matrix that all systems share (α₀ × Gramian), rounded to `f32` once.
#[derive(Debug, Clone)]
pub struct BaseMatrix {
    values: AlignedF32,
    dim: usize,
}

impl BaseMatrix {
    /// `scale × matrix`, computed in `f64` and rounded once; `matrix` is `[dim × dim]`, symmetric.
    pub fn new(matrix: &[f64], dim: usize, scale: f64) -> Result<Self, ShapeError> {
        check_shape(dim, dim, dim.saturating_mul(dim), matrix.len())?;
        let stride = stride_of(dim);
        let mut values = AlignedF32::zeroed(dim * stride);
        for (row, (to, from)) in
            values.as_mut_slice().chunks_exact_mut(stride).zip(matrix.chunks_exact(dim)).enumerate()
        {
            for (to, from) in to.iter_mut().zip(from) {
                *to = (scale * from) as f32;
            }
            if to.iter().any(|value| !value.is_finite()) {
                return Err(ShapeError::NotFinite { row });
            }
        }
        Ok(Self { values, dim })
    }

    /// The number of dimensions.
    pub fn dim(&self) -> usize {
        self.dim
    }
}

fn stride_of(dim: usize) -> usize {
    dim.div_ceil(LANES) * LANES
}

/// One system, and the scratch to build and solve it.
#[derive(Debug, Clone)]
pub struct NormalEquations {
    kernels: Kernels,
    dim: usize,
    stride: usize,
    /// `[dim × stride]`, upper triangle; after factorising, the factor `U` with `UᵀU = A`.
    matrix: AlignedF32,
    /// 1 / diagonal of the factor.
    inverse_diagonal: AlignedF32,
    right_side: AlignedF32,
    work: AlignedF32,
    solution: AlignedF32,
    packed: AlignedF32,
    packed_weighted: AlignedF32,
}

impl NormalEquations {
    /// Scratch for systems of `dim` unknowns.
    pub fn new(kernels: Kernels, dim: usize) -> Result<Self, ShapeError> {
        check_shape(dim, dim, 0, 0)?;
        let stride = stride_of(dim);
        Ok(Self {
            kernels,
            dim,
            stride,
            matrix: AlignedF32::zeroed(dim * stride),
            inverse_diagonal: AlignedF32::zeroed(stride),
            right_side: AlignedF32::zeroed(stride),
            work: AlignedF32::zeroed(stride),
            solution: AlignedF32::zeroed(stride),
            packed: AlignedF32::zeroed(ROWS_PER_PACK * stride),
            packed_weighted: AlignedF32::zeroed(ROWS_PER_PACK * stride),
        })
    }

    /// The number of unknowns.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Starts a new system: `A = base + ridge·I`, `b = 0`.
    pub fn reset(&mut self, base: &BaseMatrix, ridge: f32) {
        assert_eq!(base.dim, self.dim, "the base matrix has the system's dimensions");
        self.matrix.as_mut_slice().copy_from_slice(base.values.as_slice());
        for (row, values) in self.matrix.as_mut_slice().chunks_exact_mut(self.stride).enumerate() {
            values[row] += ridge;
        }
        self.right_side.as_mut_slice().fill(0.0);
    }

    /// Adds `weight × x xᵀ` and `weight × x` for each `(row index, weight)`, in order.
    pub fn add_rows(&mut self, rows: Rows<'_>, entries: impl IntoIterator<Item = (u32, f32)>) {
        let mut count = 0;
        for (index, weight) in entries {
            let line = count * self.stride..(count + 1) * self.stride;
            let packed = &mut self.packed.as_mut_slice()[line.clone()];
            rows.copy_row(index as usize, self.dim, packed);
            let weighted = &mut self.packed_weighted.as_mut_slice()[line];
            weigh_row(self.kernels, weight, packed, weighted, self.right_side.as_mut_slice());
            count += 1;
            if count == ROWS_PER_PACK {
                self.flush(count);
                count = 0;
            }
        }
        self.flush(count);
    }

    fn flush(&mut self, count: usize) {
        accumulate(
            self.kernels,
            self.matrix.as_mut_slice(),
            self.packed_weighted.as_slice(),
            self.packed.as_slice(),
            count,
            self.dim,
        );
    }

    /// Length of [`Self::save`]'s array.
    pub const fn state_len(&self) -> usize {
        (self.dim + 1) * self.stride
    }

    /// Copies the system as accumulated so far to `state` ([`Self::state_len`] values), to go on later where
    /// [`Self::restore`] puts it back. The chains of multiply-adds go on as if nothing had come between.
    pub fn save(&self, state: &mut [f32]) {
        let (matrix, right_side) = state.split_at_mut(self.dim * self.stride);
        matrix.copy_from_slice(self.matrix.as_slice());
        right_side.copy_from_slice(self.right_side.as_slice());
    }

    /// Puts back what [`Self::save`] copied from a system of the same dimensions.
    pub fn restore(&mut self, state: &[f32]) {
        let (matrix, right_side) = state.split_at(self.dim * self.stride);
        self.matrix.as_mut_slice().copy_from_slice(matrix);
        self.right_side.as_mut_slice().copy_from_slice(right_side);
    }

    /// Factorises `A = UᵀU` in place; the system must be [`reset`](Self::reset) before rows are added again.
    pub fn factorise(&mut self) -> Result<(), NotPositiveDefinite> {
        cholesky::factorise(self.kernels, self.matrix.as_mut_slice(), self.inverse_diagonal.as_mut_slice(), self.dim)
    }

    /// Solves `A x = b` for the accumulated right side; `out` has `dim` values. Call [`Self::factorise`] first.
    pub fn solve(&mut self, out: &mut [f32]) {
        self.work.as_mut_slice().copy_from_slice(self.right_side.as_slice());
        self.solve_work(out);
    }

    /// Solves `A x = right_side` for another right side of `dim` values.
    pub fn solve_for(&mut self, right_side: &[f32], out: &mut [f32]) {
        self.work.as_mut_slice().fill(0.0);
        self.work.as_mut_slice()[..self.dim].copy_from_slice(right_side);
        self.solve_work(out);
    }

    fn solve_work(&mut self, out: &mut [f32]) {
        cholesky::solve(
            self.kernels,
            self.matrix.as_slice(),
            self.inverse_diagonal.as_slice(),
            self.work.as_mut_slice(),
            self.solution.as_mut_slice(),
            self.dim,
        );
        out.copy_from_slice(&self.solution.as_slice()[..self.dim]);
    }

    /// The upper triangle as it stands, `[dim × dim]` row-major with zeros below the diagonal (for tests and twins).
    pub fn upper_triangle(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.dim * self.dim];
        for (row, (to, from)) in
            out.chunks_exact_mut(self.dim).zip(self.matrix.as_slice().chunks_exact(self.stride)).enumerate()
        {
            to[row..].copy_from_slice(&from[row..self.dim]);
        }
        out
    }

    /// The accumulated right side, `dim` values.
    pub fn right_side(&self) -> &[f32] {
        &self.right_side.as_slice()[..self.dim]
    }
}

dispatch! {
    fn weigh_row(weight: f32, row: &[f32], weighted: &mut [f32], sums: &mut [f32]) = weigh_row_body
}

/// `weighted = weight × row`, rounded, and `sums += weighted`.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
unsafe fn weigh_row_body<L: Lanes>(weight: f32, row: &[f32], weighted: &mut [f32], sums: &mut [f32]) {
    let lines = weighted.as_chunks_mut::<LANES>().0.iter_mut().zip(sums.as_chunks_mut::<LANES>().0);
    for (row, (weighted, sums)) in row.as_chunks::<LANES>().0.iter().zip(lines) {
        // SAFETY: all arrays hold 16 values. A product with one is exact, so the fused sum is rounded once, as `+` is.
        unsafe {
            let product = L::splat(weight).mul(L::load(row.as_ptr()));
            product.store(weighted.as_mut_ptr());
            L::load(sums.as_ptr()).fma(product, L::splat(1.0)).store(sums.as_mut_ptr());
        }
    }
}

dispatch! {
    fn accumulate(matrix: &mut [f32], left: &[f32], right: &[f32], count: usize, dim: usize) = accumulate_body
}

/// # Safety
/// As [`Lanes`]. Shapes are asserted.
#[inline(always)]
unsafe fn accumulate_body<L: Lanes>(matrix: &mut [f32], left: &[f32], right: &[f32], count: usize, dim: usize) {
    let stride = stride_of(dim);
    assert!(matrix.len() >= dim * stride && left.len() >= count * stride && right.len() >= count * stride);
    let mut p = 0;
    while p < dim {
        let height = L::TILE.min(dim - p);
        let mut q = p / LANES * LANES;
        while q < stride {
            let tile = matrix.as_mut_ptr();
            // SAFETY: rows p..p+height < dim and columns q..q+16 ≤ stride lie inside all three arrays.
            unsafe {
                with_tile_width!(height, tile_add::<L>(tile, left.as_ptr(), right.as_ptr(), count, stride, p, q));
            }
            q += LANES;
        }
        p += height;
    }
}

/// `A[p + r][q..q + 16] += left[j][p + r] × right[j][q..q + 16]` over `j` ascending.
///
/// # Safety
/// As [`Lanes`]; the indices lie inside the arrays.
#[inline(always)]
unsafe fn tile_add<L: Lanes, const R: usize>(
    matrix: *mut f32,
    left: *const f32,
    right: *const f32,
    count: usize,
    stride: usize,
    p: usize,
    q: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [L::splat(0.0); R];
        for (r, sum) in sums.iter_mut().enumerate() {
            *sum = L::load(matrix.add((p + r) * stride + q));
        }
        for j in 0..count {
            let lanes = L::load(right.add(j * stride + q));
            for (r, sum) in sums.iter_mut().enumerate() {
                *sum = sum.fma(L::splat(*left.add(j * stride + p + r)), lanes);
            }
        }
        for (r, sum) in sums.iter().enumerate() {
            sum.store(matrix.add((p + r) * stride + q));
        }
    }
}
