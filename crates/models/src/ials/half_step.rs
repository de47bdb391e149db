//! The half-step, for training on one machine and on many.
//!
//! A row's factors are a function of its entries in ascending order, the factors that they name, the Gramian of the
//! other side and the number of its entities. So [`half_step`] may be given any rows in any batches, and any part of the
//! other side's factors that holds what the rows name; [`BlockedHalfStep`] takes the other side block by block, for rows
//! too long or factors too large to be held. The bits are the trainer's in every case.
//!
//! Not here: where rows and factors come from, and who computes what.

use super::{FoldIn, FoldInError, IalsSettings, start};
use crate::interactions::SparseRows;
use anabranch_kernels::{Kernels, NormalEquations, Rows, ShapeError};
use rayon::prelude::*;

/// Rows that one task solves; small enough that a few long rows do not leave a core idle.
const ROWS_PER_TASK: usize = 32;

/// A row that could not be solved.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("row {row}: {source}")]
pub struct RowError {
    /// The row.
    pub row: usize,
    /// Why.
    pub source: FoldInError,
}

/// Where the factors of these ids start: `[ids × dim]`, a function of (seed, id) alone.
pub fn initial_factors<Id: AsRef<[u8]> + Sync>(settings: &IalsSettings, ids: &[Id]) -> Vec<f32> {
    let mut factors = vec![0.0_f32; ids.len() * settings.dim];
    factors.par_chunks_exact_mut(settings.dim).zip(ids).for_each(|(row, id)| start::fill(settings, id.as_ref(), row));
    factors
}

/// Solves every row against the factors in `fixed` (`[rows.items() × dim]`) into `out` (`[rows.len() × dim]`).
pub fn half_step(
    kernels: Kernels,
    fold_in: &FoldIn,
    rows: SparseRows<'_>,
    fixed: &[f32],
    out: &mut [f32],
) -> Result<(), HalfStepError> {
    let dim = fold_in.dim();
    check_length("factors", rows.items(), dim, fixed.len())?;
    check_length("out", rows.len(), dim, out.len())?;
    let blank = NormalEquations::new(kernels, dim)?;
    // Rows are independent, so their assignment to threads cannot change a bit; of several errors the first by row
    // order is kept, so that the report does not depend on it either.
    out.par_chunks_mut(ROWS_PER_TASK * dim)
        .enumerate()
        .map_init(
            || blank.clone(),
            |system, (task, out)| {
                for (position, out) in out.chunks_exact_mut(dim).enumerate() {
                    let row = task * ROWS_PER_TASK + position;
                    fold_in
                        .solve(system, Rows::RowMajor(fixed), rows.row(row).entries(), out)
                        .map_err(|source| RowError { row, source })?;
                }
                Ok(())
            },
        )
        .collect::<Vec<Result<(), RowError>>>()
        .into_iter()
        .collect::<Result<(), RowError>>()?;
    Ok(())
}

/// Why a half-step has no result.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum HalfStepError {
    /// A row could not be solved.
    #[error(transparent)]
    Row(#[from] RowError),
    /// An array has another length than the rows say.
    #[error("{what}: {rows} rows of {dim} dimensions need {expected} values, found {found}")]
    Length {
        /// Which array.
        what: &'static str,
        /// Rows that it should have.
        rows: usize,
        /// Dimensions.
        dim: usize,
        /// Values needed.
        expected: usize,
        /// Values given.
        found: usize,
    },
    /// A block has another number of rows than the half-step.
    #[error("the block has {found} rows, the half-step {expected}: give every row, empty where it has no entry")]
    Rows {
        /// Rows of the half-step.
        expected: usize,
        /// Rows given.
        found: usize,
    },
    /// A row was given another number of entries than announced.
    #[error("row {row}: {expected} entries were announced, {found} came: the ridge was made for the former")]
    Entries {
        /// The row.
        row: usize,
        /// Entries announced.
        expected: u64,
        /// Entries given.
        found: u64,
    },
    /// The factors cannot be used.
    #[error(transparent)]
    Shape(#[from] ShapeError),
}

fn check_length(what: &'static str, rows: usize, dim: usize, found: usize) -> Result<(), HalfStepError> {
    let expected = rows.saturating_mul(dim);
    if expected == found { Ok(()) } else { Err(HalfStepError::Length { what, rows, dim, expected, found }) }
}

/// A half-step over ascending blocks of the other side. Holds `dim + 1` vectors of `dim` values (rounded up to 16) for
/// each row.
#[derive(Debug, Clone)]
pub struct BlockedHalfStep {
    fold_in: FoldIn,
    blank: NormalEquations,
    /// Entries of each row in all blocks.
    announced: Vec<u64>,
    /// Entries that came so far; a row's system begins with its first.
    given: Vec<u64>,
    states: Vec<f32>,
}

impl BlockedHalfStep {
    /// Prepares rows of so many entries each, which decide the ridges.
    pub fn new(kernels: Kernels, fold_in: FoldIn, announced: Vec<u64>) -> Result<Self, HalfStepError> {
        let blank = NormalEquations::new(kernels, fold_in.dim())?;
        let states = vec![0.0; announced.len() * blank.state_len()];
        Ok(Self { fold_in, blank, given: vec![0; announced.len()], announced, states })
    }

    /// Adds the entries of all rows that lie in the next block, whose factors are `block` (`[rows.items() × dim]`).
    /// Refused calls change nothing.
    pub fn add(&mut self, rows: SparseRows<'_>, block: &[f32]) -> Result<(), HalfStepError> {
        if rows.len() != self.announced.len() {
            return Err(HalfStepError::Rows { expected: self.announced.len(), found: rows.len() });
        }
        check_length("factors", rows.items(), self.fold_in.dim(), block.len())?;
        for (row, (announced, given)) in self.announced.iter().zip(&self.given).enumerate() {
            let found = given + rows.row(row).len() as u64;
            if found > *announced {
                return Err(HalfStepError::Entries { row, expected: *announced, found });
            }
        }
        let Self { fold_in, blank, announced, given, states } = self;
        states.par_chunks_exact_mut(blank.state_len()).zip(given).zip(announced).enumerate().for_each_init(
            || blank.clone(),
            |system, (row, ((state, given), announced))| {
                let row = rows.row(row);
                if row.is_empty() {
                    return;
                }
                if *given == 0 {
                    fold_in.begin(system, *announced as usize);
                } else {
                    system.restore(state);
                }
                *given += row.len() as u64;
                system.add_rows(Rows::RowMajor(block), row.entries());
                system.save(state);
            },
        );
        Ok(())
    }

    /// Solves all rows: `[rows × dim]`, zeros for rows without entries.
    pub fn finish(&self) -> Result<Vec<f32>, HalfStepError> {
        let mismatch = self.announced.iter().zip(&self.given).position(|(announced, given)| announced != given);
        if let Some(row) = mismatch {
            return Err(HalfStepError::Entries { row, expected: self.announced[row], found: self.given[row] });
        }
        let dim = self.fold_in.dim();
        let mut out = vec![0.0; self.announced.len() * dim];
        out.par_chunks_exact_mut(dim)
            .zip(self.states.par_chunks_exact(self.blank.state_len()))
            .zip(&self.given)
            .enumerate()
            .map_init(
                || self.blank.clone(),
                |system, (row, ((out, state), given))| {
                    if *given == 0 {
                        return Ok(());
                    }
                    system.restore(state);
                    FoldIn::end(system, out).map_err(|source| RowError { row, source })
                },
            )
            .collect::<Vec<Result<(), RowError>>>()
            .into_iter()
            .collect::<Result<(), RowError>>()?;
        Ok(out)
    }
}

#[cfg(test)]
mod tests;
