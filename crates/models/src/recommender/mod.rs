//! Recommendations: a pure function of (row, snapshot).
//!
//! The score of item `i` for a row `{(j, c_j)}` is
//!
//! ```text
//!   T_i · (p · pop_i / max pop  +  r · [i ∈ row] c_i / max_j c_j  +  n · Σ_j c_j sim(j → i) / Σ_j c_j  +  f · ⟨w, h_i⟩)
//! ```
//!
//! with `w` the row's fold-in, (p, r, n, f) the snapshot's [`Blend`] and `T` its [trend](crate::trend). The first three
//! start the score's chain of multiply-adds, added in that order and in row order; the last continues it over the
//! dimensions; `T` multiplies the result. An empty row gets `T_i · pop_i / max pop` alone. A list depends on neither the other queries of its batch, the number of threads nor the
//! instruction set.

mod blend;
mod explain;

#[cfg(test)]
mod tests;

pub use blend::{Blend, BlendError};
pub use explain::{Explanation, Part, PartKind};

use crate::ials::FoldInError;
use crate::interactions::{RowFault, check_row};
use crate::snapshot::Snapshot;
use anabranch_kernels::{
    self as kernels, K_MAX, Kernels, NormalEquations, Norms, Rows, Scale, Scan, ScanBuffers, Scored,
};
use rayon::prelude::*;
use std::sync::Arc;

/// Items of a row whose neighbours are asked for ahead of their turn.
const NEIGHBOURS_AHEAD: usize = 4;

/// One question.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    /// The user's items with their weights, items ascending, weights positive and finite.
    pub row: &'a [(u32, f32)],
    /// Items that must not appear, in any order.
    pub exclude: &'a [u32],
    /// Length of the list, at most [`K_MAX`].
    pub k: usize,
}

/// Why a query has no list. The others of its batch do.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RecommendError {
    /// An item is repeated, out of order or unknown.
    #[error("item {item} of the row is repeated, out of order, or not below {item_count}")]
    RowItem {
        /// The index found.
        item: u32,
        /// Items of the snapshot.
        item_count: usize,
    },
    /// A weight is not positive and finite.
    #[error("item {item} of the row has weight {weight}, which is not positive and finite")]
    RowWeight {
        /// The item.
        item: u32,
        /// The weight found.
        weight: f32,
    },
    /// The list would be too long.
    #[error("{k} items asked for, at most {K_MAX} are given")]
    TooMany {
        /// What was asked for.
        k: usize,
    },
    /// The item to explain is unknown.
    #[error("item {item} is not below {item_count}")]
    UnknownItem {
        /// The index asked for.
        item: u32,
        /// Items of the snapshot.
        item_count: usize,
    },
    /// The row could not be folded in.
    #[error(transparent)]
    FoldIn(#[from] FoldInError),
}

/// The buffers of one thread. Makes repeated calls allocate only their lists.
#[derive(Debug, Clone)]
pub struct Scratch {
    system: NormalEquations,
    user: Vec<f32>,
    /// What a user's scores start from, a whole number of blocks.
    starts: Vec<f32>,
    scan: ScanBuffers,
}

/// Answers queries from a snapshot.
#[derive(Debug, Clone)]
pub struct Recommender {
    snapshot: Arc<Snapshot>,
    kernels: Kernels,
    norms: Norms,
    /// The snapshot's trend, unless nothing trends.
    scale: Option<Scale>,
    /// Popularity over its greatest value, zero where nothing is popular; a whole number of blocks.
    popular: Vec<f32>,
    /// The same times the blend's weight: what every score starts from.
    base: Vec<f32>,
    /// The item factors row by row where they are small: gathering a row out of its block reads sixteen times as much.
    rows: Option<Vec<f32>>,
}

/// Item factors up to this size are kept row by row too.
const ROWS_BYTES_MAX: usize = 32 << 20;

impl Recommender {
    /// Prepares a snapshot: work proportional to its items, done once for each.
    pub fn new(snapshot: Arc<Snapshot>, kernels: Kernels) -> Self {
        let most = snapshot.popularity().iter().copied().fold(0.0_f32, f32::max);
        let divisor = if most > 0.0 { most } else { 1.0 };
        let mut popular: Vec<f32> = snapshot.popularity().iter().map(|popularity| popularity / divisor).collect();
        popular.resize(snapshot.item_factors().padded_items(), 0.0);
        let weight = snapshot.meta().blend.popularity;
        let base: Vec<f32> = popular.iter().map(|popular| weight * popular).collect();
        let norms = Norms::of(snapshot.item_factors());
        let is_trending = snapshot.trend().iter().any(|trend| trend.to_bits() != 1.0_f32.to_bits());
        let scale = is_trending.then(|| {
            Scale::new(snapshot.trend()).expect("the snapshot's trend was verified to be positive and finite")
        });
        let (items, dim) = (snapshot.item_count(), snapshot.dim());
        let rows = (items * dim * size_of::<f32>() <= ROWS_BYTES_MAX).then(|| {
            let mut rows = vec![0.0; items * dim];
            let factors = snapshot.item_factors();
            rows.par_chunks_exact_mut(dim).enumerate().for_each(|(item, row)| factors.copy_row(item, row));
            rows
        });
        Self { snapshot, kernels, norms, scale, popular, base, rows }
    }

    /// The snapshot that answers.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// Buffers for one thread.
    pub fn scratch(&self) -> Scratch {
        let dim = self.snapshot.dim();
        let system = NormalEquations::new(self.kernels, dim).expect("the snapshot's shape was verified");
        Scratch { system, user: vec![0.0; dim], starts: self.base.clone(), scan: ScanBuffers::default() }
    }

    /// The lists of a batch on this thread, in order; a query's error leaves the others alone.
    pub fn recommend(&self, scratch: &mut Scratch, queries: &[Query<'_>]) -> Vec<Result<Vec<Scored>, RecommendError>> {
        queries.chunks(Scan::USERS_MAX).flat_map(|batch| self.batch(scratch, batch)).collect()
    }

    /// The same on all cores.
    pub fn recommend_parallel(&self, queries: &[Query<'_>]) -> Vec<Result<Vec<Scored>, RecommendError>> {
        let share = queries.len().div_ceil(rayon::current_num_threads()).clamp(1, Scan::USERS_MAX);
        let lists: Vec<Vec<_>> = queries
            .par_chunks(share)
            .map_init(|| self.scratch(), |scratch, batch| self.batch(scratch, batch))
            .collect();
        lists.into_iter().flatten().collect()
    }

    /// The user's factors: `dim` values, zero for an empty row.
    pub fn user_factors(&self, scratch: &mut Scratch, row: &[(u32, f32)]) -> Result<Vec<f32>, RecommendError> {
        self.check_row(row)?;
        let mut out = vec![0.0; self.snapshot.dim()];
        self.fold_in(&mut scratch.system, row, &mut out)?;
        Ok(out)
    }

    fn fold_in(&self, system: &mut NormalEquations, row: &[(u32, f32)], out: &mut [f32]) -> Result<(), RecommendError> {
        let rows = match &self.rows {
            Some(rows) => {
                let dim = self.snapshot.dim();
                for (item, _) in row {
                    kernels::prefetch(&rows[*item as usize * dim..][..dim]);
                }
                Rows::RowMajor(rows)
            }
            None => Rows::Blocked(self.snapshot.item_factors()),
        };
        Ok(self.snapshot.fold_in().solve(system, rows, row.iter().copied(), out)?)
    }

    fn batch(&self, scratch: &mut Scratch, batch: &[Query<'_>]) -> Vec<Result<Vec<Scored>, RecommendError>> {
        let Scratch { system, user, starts, scan } = scratch;
        let factors = self.snapshot.item_factors();
        let items = kernels::Items { factors, norms: &self.norms, scale: self.scale.as_ref() };
        let mut scan = self.kernels.scan(items, scan).expect("norms and scale were made of these factors");
        let added: Vec<Result<(), RecommendError>> = batch
            .iter()
            .map(|query| {
                self.prepare(query, system, user, starts)?;
                let k = query.k;
                scan.add(kernels::Query { user, starts, k }).expect("shapes, factors and lengths were checked");
                Ok(())
            })
            .collect();
        let mut lists = scan.lists().into_iter();
        added
            .into_iter()
            .map(|added| added.map(|()| lists.next().expect("there is a list for each good query")))
            .collect()
    }

    /// Checks a query, and fills its factors (times the blend's weight) and what its scores start from.
    fn prepare(
        &self,
        query: &Query<'_>,
        system: &mut NormalEquations,
        user: &mut [f32],
        starts: &mut [f32],
    ) -> Result<(), RecommendError> {
        if query.k > K_MAX {
            return Err(RecommendError::TooMany { k: query.k });
        }
        self.check_row(query.row)?;
        self.scaled_factors(system, query.row, user)?;
        if query.row.is_empty() {
            starts.copy_from_slice(&self.popular);
        } else {
            starts.copy_from_slice(&self.base);
            self.add_linear_parts(query.row, starts);
        }
        for item in query.exclude {
            // No list takes a NaN. What the snapshot does not know is in no list anyway.
            if let Some(start) = starts.get_mut(*item as usize) {
                *start = f32::NAN;
            }
        }
        Ok(())
    }

    /// History, then neighbours, in row order.
    fn add_linear_parts(&self, row: &[(u32, f32)], starts: &mut [f32]) {
        let blend = self.blend();
        let shares = Shares::of(row, blend);
        for (item, weight) in row {
            starts[*item as usize] += shares.history * weight;
        }
        if blend.neighbours <= 0.0 {
            return;
        }
        let lists = self.snapshot.neighbour_lists();
        for (place, (item, weight)) in row.iter().enumerate() {
            // The neighbours of different items lie far apart; without this, waiting for them is half the time.
            if let Some((ahead, _)) = row.get(place + NEIGHBOURS_AHEAD) {
                let (neighbours, scores) = lists.of(*ahead);
                kernels::prefetch(neighbours);
                kernels::prefetch(scores);
            }
            let factor = shares.neighbours * weight;
            let (neighbours, scores) = lists.of(*item);
            for (neighbour, score) in neighbours.iter().zip(scores) {
                starts[*neighbour as usize] += factor * score;
            }
        }
    }

    /// The fold-in times the blend's weight of factors.
    fn scaled_factors(
        &self,
        system: &mut NormalEquations,
        row: &[(u32, f32)],
        user: &mut [f32],
    ) -> Result<(), RecommendError> {
        let weight = self.blend().factors;
        if row.is_empty() || weight == 0.0 {
            user.fill(0.0);
            return Ok(());
        }
        self.fold_in(system, row, user)?;
        for value in user.iter_mut() {
            *value *= weight;
            if !value.is_finite() {
                return Err(FoldInError::NotFinite.into());
            }
        }
        Ok(())
    }

    fn blend(&self) -> &Blend {
        &self.snapshot.meta().blend
    }

    fn check_row(&self, row: &[(u32, f32)]) -> Result<(), RecommendError> {
        let item_count = self.snapshot.item_count();
        check_row(row.iter().copied(), item_count).map_err(|fault| match fault {
            RowFault::Item(item) => RecommendError::RowItem { item, item_count },
            RowFault::Weight(item, weight) => RecommendError::RowWeight { item, weight },
        })
    }
}

/// What one unit of a row's weight is worth in the linear parts.
struct Shares {
    history: f32,
    neighbours: f32,
}

impl Shares {
    /// The row is not empty. Sums run in row order in `f64`, so a share is finite even where weights are huge.
    fn of(row: &[(u32, f32)], blend: &Blend) -> Self {
        let sum: f64 = row.iter().map(|(_, weight)| f64::from(*weight)).sum();
        let most = row.iter().map(|(_, weight)| f64::from(*weight)).fold(0.0, f64::max);
        Self {
            history: (f64::from(blend.history) / most) as f32,
            neighbours: (f64::from(blend.neighbours) / sum) as f32,
        }
    }
}
