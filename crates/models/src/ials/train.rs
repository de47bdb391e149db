//! The training loop: half-steps on all cores, ending with the users.

use super::{FoldIn, FoldInError, HalfStepError, IalsSettings, RowError, SettingError, half_step, initial_factors};
use crate::interactions::{Interactions, InteractionsError};
use anabranch_kernels::{Kernels, Rows, ShapeError, gramian};

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
    /// The arrays of a half-step do not fit each other.
    #[error(transparent)]
    HalfStep(HalfStepError),
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
    let mut item_factors = initial_factors(settings, item_ids);
    let mut user_factors = vec![0.0_f32; users * dim];

    let total = 2 * settings.iterations + 1;
    let mut done = 0..;
    let mut step = |progress: &mut dyn FnMut(Progress)| {
        progress(Progress { done: done.next().expect("the range has no end") + 1, total });
    };
    for _ in 0..settings.iterations {
        step_of(kernels, settings, "user", interactions, &item_factors, &mut user_factors)?;
        step(&mut progress);
        step_of(kernels, settings, "item", &by_item, &user_factors, &mut item_factors)?;
        step(&mut progress);
    }
    let item_gramian = step_of(kernels, settings, "user", interactions, &item_factors, &mut user_factors)?;
    step(&mut progress);
    Ok(IalsModel { settings: *settings, user_factors, item_factors, item_gramian })
}

/// Solves every row against `fixed` and returns the Gramian of `fixed`.
fn step_of(
    kernels: Kernels,
    settings: &IalsSettings,
    side: &'static str,
    rows: &Interactions,
    fixed: &[f32],
    out: &mut [f32],
) -> Result<Vec<f64>, TrainError> {
    let gramian = gramian(kernels, fixed, settings.dim)?;
    let fold_in = FoldIn::new(settings, &gramian, fixed.len() / settings.dim)?;
    half_step(kernels, &fold_in, rows.view(), fixed, out).map_err(|error| match error {
        HalfStepError::Row(RowError { row, source }) => TrainError::Row { side, row, source },
        error => TrainError::HalfStep(error),
    })?;
    Ok(gramian)
}
