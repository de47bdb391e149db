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
    self as kernels, AlignedF32, K_MAX, Kernels, NormalEquations, Rows, Scale, Scan, ScanBuffers, Scored, SideBySide,
};
use rayon::prelude::*;
use std::sync::Arc;

/// Items of a row whose neighbours are asked for ahead of their turn.
const NEIGHBOURS_AHEAD: usize = 6;

/// Neighbours, and their similarities, of one cache line.
const LINE: usize = 16;

/// Fewer rows are folded in one by one: side by side, sixteen cost as much as one.
const SIDE_BY_SIDE_MIN: usize = 3;

/// Up to so many dimensions rows are folded in side by side: the systems of 16 rows of 128 dimensions take 2 MiB.
const SIDE_BY_SIDE_DIM_MAX: usize = 128;

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
    /// Made when it is first needed.
    side_by_side: Option<SideBySide>,
    /// The factors of a group of users, `[user][dim]`.
    users: Vec<f32>,
    /// What a user's scores start from, a whole number of blocks.
    starts: AlignedF32,
    scan: ScanBuffers,
}

/// Answers queries from a snapshot.
#[derive(Debug, Clone)]
pub struct Recommender {
    snapshot: Arc<Snapshot>,
    kernels: Kernels,
    /// The snapshot's trend, unless nothing trends.
    scale: Option<Scale>,
    /// Popularity over its greatest value, zero where nothing is popular; a whole number of blocks.
    popular: AlignedF32,
    /// The same times the blend's weight: what every score starts from.
    base: AlignedF32,
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
        let weight = snapshot.meta().blend.popularity;
        let mut popular = AlignedF32::zeroed(snapshot.item_factors().padded_items());
        let mut base = popular.clone();
        let places = popular.as_mut_slice().iter_mut().zip(base.as_mut_slice());
        for ((popular, base), popularity) in places.zip(snapshot.popularity()) {
            *popular = popularity / divisor;
            *base = weight * *popular;
        }
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
        Self { snapshot, kernels, scale, popular, base, rows }
    }

    /// The snapshot that answers.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// Buffers for one thread.
    pub fn scratch(&self) -> Scratch {
        let dim = self.snapshot.dim();
        let system = NormalEquations::new(self.kernels, dim).expect("the snapshot's shape was verified");
        let users = vec![0.0; SideBySide::SYSTEMS_MAX * dim];
        Scratch { system, side_by_side: None, users, starts: self.base.clone(), scan: ScanBuffers::default() }
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
        Ok(self.snapshot.fold_in().solve(system, self.rows(row), row.iter().copied(), out)?)
    }

    /// Where the factors of a row's items are read; those that lie together are asked for.
    fn rows(&self, row: &[(u32, f32)]) -> Rows<'_> {
        let Some(rows) = &self.rows else { return Rows::Blocked(self.snapshot.item_factors()) };
        let dim = self.snapshot.dim();
        for (item, _) in row {
            kernels::prefetch(&rows[*item as usize * dim..][..dim]);
        }
        Rows::RowMajor(rows)
    }

    fn batch(&self, scratch: &mut Scratch, batch: &[Query<'_>]) -> Vec<Result<Vec<Scored>, RecommendError>> {
        let Scratch { system, side_by_side, users, starts, scan } = scratch;
        let starts = starts.as_mut_slice();
        let factors = self.snapshot.item_factors();
        let (rows, scale) = (self.rows.as_deref(), self.scale.as_ref());
        let items = kernels::Items { factors, rows, norms: self.snapshot.item_norms(), scale };
        let mut scan = self.kernels.scan(items, scan).expect("rows, norms and scale were made of these factors");
        let mut added = Vec::with_capacity(batch.len());
        for group in batch.chunks(SideBySide::SYSTEMS_MAX) {
            let checked = self.factors_of(group, system, side_by_side, users);
            for ((query, checked), user) in group.iter().zip(checked).zip(users.chunks_exact(self.snapshot.dim())) {
                if checked.is_ok() {
                    self.start(query, starts);
                    let query = kernels::Query { user, starts, k: query.k };
                    scan.add(query).expect("shapes, factors and lengths were checked");
                }
                added.push(checked);
            }
        }
        let mut lists = scan.lists().into_iter();
        added
            .into_iter()
            .map(|added| added.map(|()| lists.next().expect("there is a list for each good query")))
            .collect()
    }

    /// Checks the queries of a group, and fills the factors of each (times the blend's weight), `[user][dim]`.
    fn factors_of(
        &self,
        group: &[Query<'_>],
        system: &mut NormalEquations,
        side_by_side: &mut Option<SideBySide>,
        users: &mut [f32],
    ) -> Vec<Result<(), RecommendError>> {
        let dim = self.snapshot.dim();
        let mut checked: Vec<_> = group.iter().map(|query| self.check_query(query)).collect();
        let is_folded = |(query, checked): (&Query<'_>, &Result<(), _>)| checked.is_ok() && self.is_folded(query.row);
        let folded = group.iter().zip(&checked).filter(|pair| is_folded(*pair)).count();
        if folded < SIDE_BY_SIDE_MIN || dim > SIDE_BY_SIDE_DIM_MAX {
            for ((query, checked), user) in group.iter().zip(&mut checked).zip(users.chunks_exact_mut(dim)) {
                if checked.is_ok() {
                    *checked = self.scaled_factors(system, query.row, user);
                }
            }
            return checked;
        }
        let side_by_side = side_by_side
            .get_or_insert_with(|| SideBySide::new(self.kernels, dim).expect("the snapshot's shape was verified"));
        for (query, _) in group.iter().zip(&checked).filter(|pair| is_folded(*pair)) {
            self.snapshot.fold_in().accumulate(system, self.rows(query.row), query.row.iter().copied());
            side_by_side.push(system);
        }
        let solved = side_by_side.solve();
        let mut number = 0;
        for ((query, checked), user) in group.iter().zip(&mut checked).zip(users.chunks_exact_mut(dim)) {
            if !is_folded((query, checked)) {
                user.fill(0.0);
                continue;
            }
            let solution = side_by_side.solution(number);
            if solved >> number & 1 == 1 && solution.iter().all(|value| value.is_finite()) {
                user.copy_from_slice(solution);
                *checked = self.scale_factors(user);
            } else {
                *checked = self.scaled_factors(system, query.row, user); // tells what is wrong
            }
            number += 1;
        }
        checked
    }

    fn check_query(&self, query: &Query<'_>) -> Result<(), RecommendError> {
        if query.k > K_MAX {
            return Err(RecommendError::TooMany { k: query.k });
        }
        self.check_row(query.row)
    }

    /// Fills what the scores of a query start from.
    fn start(&self, query: &Query<'_>, starts: &mut [f32]) {
        if query.row.is_empty() {
            starts.copy_from_slice(self.popular.as_slice());
        } else {
            self.prefetch_neighbours(query.row);
            starts.copy_from_slice(self.base.as_slice());
            self.add_linear_parts(query.row, starts);
        }
        for item in query.exclude {
            // No list takes a NaN. What the snapshot does not know is in no list anyway.
            if let Some(start) = starts.get_mut(*item as usize) {
                *start = f32::NAN;
            }
        }
    }

    /// Asks for the first neighbours that [`Self::add_linear_parts`] reads.
    fn prefetch_neighbours(&self, row: &[(u32, f32)]) {
        if self.blend().neighbours > 0.0 {
            let lists = self.snapshot.neighbour_lists();
            for (item, _) in row {
                lists.prefetch_place(*item);
            }
            for (item, _) in row.iter().take(NEIGHBOURS_AHEAD) {
                lists.prefetch(*item);
            }
        }
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
            let factor = shares.neighbours * weight;
            let (neighbours, scores) = lists.of(*item);
            // The neighbours of different items lie far apart; without this, waiting for them is half the time. Asked for
            // all at once they would have to wait for each other, and the adding with them.
            let (next, next_scores) =
                row.get(place + NEIGHBOURS_AHEAD).map_or((&[][..], &[][..]), |(item, _)| lists.of(*item));
            let mut ahead = next.chunks(LINE).zip(next_scores.chunks(LINE));
            for (neighbours, scores) in neighbours.chunks(LINE).zip(scores.chunks(LINE)) {
                if let Some((neighbours, scores)) = ahead.next() {
                    kernels::prefetch(neighbours);
                    kernels::prefetch(scores);
                }
                for (neighbour, score) in neighbours.iter().zip(scores) {
                    starts[*neighbour as usize] += factor * score;
                }
            }
            for (neighbours, scores) in ahead {
                kernels::prefetch(neighbours);
                kernels::prefetch(scores);
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
        if !self.is_folded(row) {
            user.fill(0.0);
            return Ok(());
        }
        self.fold_in(system, row, user)?;
        self.scale_factors(user)
    }

    /// Whether a row's list needs its factors.
    fn is_folded(&self, row: &[(u32, f32)]) -> bool {
        !row.is_empty() && self.blend().factors != 0.0
    }

    fn scale_factors(&self, user: &mut [f32]) -> Result<(), RecommendError> {
        let weight = self.blend().factors;
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
