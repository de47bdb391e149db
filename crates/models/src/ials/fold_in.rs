//! One row's factors from the other side's factors: the half-step of training, and the fold-in of serving.

use super::IalsSettings;
use crate::portable::pow;
use anabranch_kernels::{BaseMatrix, NormalEquations, NotPositiveDefinite, Rows, ShapeError};

/// A row that has no solution in `f32`.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FoldInError {
    /// The normal matrix has no Cholesky factor.
    #[error(transparent)]
    NotPositiveDefinite(#[from] NotPositiveDefinite),
    /// The solution overflowed.
    #[error("the factors overflow: lower the weights or raise the regularisation")]
    NotFinite,
}

/// What all rows of one half-step share.
#[derive(Debug, Clone)]
pub struct FoldIn {
    base: BaseMatrix,
    regularisation: f64,
    frequency_exponent: f64,
    /// `α₀ ×` the number of entities on the other side.
    unobserved_count: f64,
}

impl FoldIn {
    /// Prepares a half-step against `count` entities whose Gramian (`[dim × dim]`, over all of them) is given.
    pub fn new(settings: &IalsSettings, gramian: &[f64], count: usize) -> Result<Self, ShapeError> {
        Ok(Self {
            base: BaseMatrix::new(gramian, settings.dim, settings.unobserved_weight)?,
            regularisation: settings.regularisation,
            frequency_exponent: settings.frequency_exponent,
            unobserved_count: settings.unobserved_weight * count as f64,
        })
    }

    /// Dimensions of a factor.
    pub fn dim(&self) -> usize {
        self.base.dim()
    }

    /// `λ (n + α₀ N)^ν` for a row of `n` distinct entries.
    pub fn ridge(&self, entries: usize) -> f32 {
        (self.regularisation * pow(entries as f64 + self.unobserved_count, self.frequency_exponent)) as f32
    }

    /// Builds and factorises the normal equations of a row; `system` can then be solved for any right side.
    ///
    /// `entries` are `(index into rows, weight)`, indices ascending, weights positive and finite.
    pub fn factorise(
        &self,
        system: &mut NormalEquations,
        rows: Rows<'_>,
        entries: impl ExactSizeIterator<Item = (u32, f32)>,
    ) -> Result<(), FoldInError> {
        self.accumulate(system, rows, entries);
        Ok(system.factorise()?)
    }

    /// Builds the normal equations of a row and leaves them as they are.
    pub(crate) fn accumulate(
        &self,
        system: &mut NormalEquations,
        rows: Rows<'_>,
        entries: impl ExactSizeIterator<Item = (u32, f32)>,
    ) {
        self.begin(system, entries.len());
        system.add_rows(rows, entries);
    }

    /// Starts the system of a row that has `entries` entries in all.
    pub(super) fn begin(&self, system: &mut NormalEquations, entries: usize) {
        system.reset(&self.base, self.ridge(entries));
    }

    /// Factorises and solves a system to which all entries were added.
    pub(super) fn end(system: &mut NormalEquations, out: &mut [f32]) -> Result<(), FoldInError> {
        system.factorise()?;
        Self::finite(system, out)
    }

    fn finite(system: &mut NormalEquations, out: &mut [f32]) -> Result<(), FoldInError> {
        system.solve(out);
        if out.iter().all(|value| value.is_finite()) { Ok(()) } else { Err(FoldInError::NotFinite) }
    }

    /// The row's factors into `out`, `dim` values. An empty row has the zero vector.
    pub fn solve(
        &self,
        system: &mut NormalEquations,
        rows: Rows<'_>,
        entries: impl ExactSizeIterator<Item = (u32, f32)>,
        out: &mut [f32],
    ) -> Result<(), FoldInError> {
        if entries.len() == 0 {
            out.fill(0.0);
            return Ok(());
        }
        self.factorise(system, rows, entries)?;
        Self::finite(system, out)
    }
}
