//! The training loop: half-steps on all cores, ending with the users.

use super::{FoldIn, FoldInError, IalsSettings, SettingError, start};
use crate::interactions::{Interactions, InteractionsError};
use anabranch_kernels::{Kernels, NormalEquations, Rows, ShapeError, gramian};
use rayon::prelude::*;

/// Rows that one task solves; small enough that a few long rows do not leave a core idle.
const ROWS_PER_TASK: usize = 32;

/// How far training is, told after each half-step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Half-steps done.
    pub done: usize,
    /// Half-steps in all: two for each iteration and the last.
    pub total: usize,
}

/// Why there is no model.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A setting is out of range.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// One id is needed for each item.
    #[error("{ids} item ids for {items} items")]
    Ids {
        /// Ids given.
        ids: usize,
        /// Columns of the interactions.
        items: usize,
    },
    /// There is nothing to learn from.
    #[error("no interactions: check the filters and the event weights")]
    Empty,
    /// The other side has too many entities.
    #[error(transparent)]
    Interactions(#[from] InteractionsError),
    /// A row could not be solved.
    #[error("{side} {row}: {source}")]
    Row {
        /// `user` or `item`.
        side: &'static str,
        /// The row.
        row: usize,
        /// Why.
        source: FoldInError,
    },
    /// Factors grew past what `f32` holds.
    #[error(transparent)]
    Shape(#[from] ShapeError),
}

/// Trained factors, row-major `f32`.
#[derive(Debug, Clone, PartialEq)]
pub struct IalsModel {
    /// What it was trained with.
    pub settings: IalsSettings,
    /// `[users × dim]`; each row equals the fold-in of its interactions.
    pub user_factors: Vec<f32>,
    /// `[items × dim]`.
    pub item_factors: Vec<f32>,
    /// `Σ h hᵀ` over the item factors, `[dim × dim]` in `f64`.
    pub item_gramian: Vec<f64>,
}

impl IalsModel {
    /// The fold-in for users against these item factors.
    pub fn fold_in(&self) -> Result<FoldIn, ShapeError> {
        FoldIn::new(&self.settings, &self.item_gramian, self.item_factors.len() / self.settings.dim)
    }

    /// The item factors as rows of a normal system.
    pub fn item_rows(&self) -> Rows<'_> {
        Rows::RowMajor(&self.item_factors)
    }
}

/// Trains on `interactions`; `item_ids[i]` names column `i` and decides its starting factors.
///
/// `progress` is called after each half-step, from the calling thread.
pub fn train<Id: AsRef<[u8]> + Sync>(
    kernels: Kernels,
    interactions: &Interactions,
    item_ids: &[Id],
    settings: &IalsSettings,
    mut progress: impl FnMut(Progress),
) -> Result<IalsModel, TrainError> {
    settings.check()?;
    let (users, items, dim) = (interactions.users(), interactions.items(), settings.dim);
    if item_ids.len() != items {
        return Err(TrainError::Ids { ids: item_ids.len(), items });
    }
    if interactions.is_empty() {
        return Err(TrainError::Empty);
    }
    let by_item = interactions.transpose()?;
    let mut item_factors = vec![0.0_f32; items * dim];
    item_factors.par_chunks_exact_mut(dim).zip(item_ids).for_each(|(row, id)| start::fill(settings, id.as_ref(), row));
    let mut user_factors = vec![0.0_f32; users * dim];

    let total = 2 * settings.iterations + 1;
    let mut done = 0..;
    let mut step = |progress: &mut dyn FnMut(Progress)| {
        progress(Progress { done: done.next().expect("the range has no end") + 1, total });
    };
    for _ in 0..settings.iterations {
        half_step(kernels, settings, "user", interactions, &item_factors, &mut user_factors)?;
        step(&mut progress);
        half_step(kernels, settings, "item", &by_item, &user_factors, &mut item_factors)?;
        step(&mut progress);
    }
    let item_gramian = half_step(kernels, settings, "user", interactions, &item_factors, &mut user_factors)?;
    step(&mut progress);
    Ok(IalsModel { settings: *settings, user_factors, item_factors, item_gramian })
}

/// Solves every row against `fixed` and returns the Gramian of `fixed`.
fn half_step(
    kernels: Kernels,
    settings: &IalsSettings,
    side: &'static str,
    rows: &Interactions,
    fixed: &[f32],
    out: &mut [f32],
) -> Result<Vec<f64>, TrainError> {
    let dim = settings.dim;
    let gramian = gramian(kernels, fixed, dim)?;
    let fold_in = FoldIn::new(settings, &gramian, fixed.len() / dim)?;
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
                        .map_err(|source| TrainError::Row { side, row, source })?;
                }
                Ok(())
            },
        )
        .collect::<Vec<Result<(), TrainError>>>()
        .into_iter()
        .collect::<Result<(), TrainError>>()?;
    Ok(gramian)
}
