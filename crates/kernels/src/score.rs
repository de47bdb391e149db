//! Scores of all items for a micro-batch of users, fused with top-k so that the score matrix is never stored.
//!
//! A score is `fma(u[d], h[d], …)` over `d` ascending, starting from the user's [`Seed`] for the item. Items pass in
//! panels that stay in L1 while all users meet them: for each register tile of users the panel's starts are laid out
//! side by side, then its blocks of 16 items stream by. The running k-th score of each user is compared
//! with a whole block at once, and only lanes that pass reach the heap.

use crate::aligned::AlignedF32;
use crate::blocked::{BlockedView, LANES};
use crate::isa::{Kernels, dispatch};
use crate::lanes::{Lanes, with_tile_width};
use crate::top_k::{Scored, TopK};

/// The longest list: it bounds the heap of a user.
pub const K_MAX: usize = 1000;

/// Users that meet a panel together: their packed factors, 64 KiB at 64 dimensions, pass once a panel.
const USERS_PER_BATCH: usize = 256;

/// Item factors of one panel: half of a small L1, beside the packed factors and starts of one tile of users.
const PANEL_BYTES: usize = 16 << 10;

/// What the scores of one user start from.
#[derive(Debug, Clone, Copy)]
pub struct Seed<'a> {
    /// A start for every item, [`BlockedView::padded_items`] values, which users may share; `None` is zero.
    pub base: Option<&'a [f32]>,
    /// Items that start from a value of their own instead, indices ascending.
    pub own: &'a [(u32, f32)],
}

impl Seed<'_> {
    /// Every score starts from zero.
    pub const ZERO: Seed<'static> = Seed { base: None, own: &[] };
}

/// One user's question.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    /// `dim` factors of the user.
    pub user: &'a [f32],
    /// What each score starts from.
    pub seed: Seed<'a>,
    /// Item indices that must not appear, ascending.
    pub exclude: &'a [u32],
    /// The length of the list, at most [`K_MAX`].
    pub k: usize,
}

/// A question that cannot be answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScoreError {
    /// The user's factors have another length than the items'.
    #[error("query {query}: {found} factors, the items have {expected}")]
    Dimensions {
        /// Position in the batch.
        query: usize,
        /// Dimensions of the items.
        expected: usize,
        /// Factors given.
        found: usize,
    },
    /// A factor is NaN or infinite.
    #[error("query {query}: a factor is not finite")]
    NotFinite {
        /// Position in the batch.
        query: usize,
    },
    /// The seed has another length than the padded items.
    #[error("query {query}: the seed has {found} values, {expected} are needed")]
    Seed {
        /// Position in the batch.
        query: usize,
        /// Items rounded up to whole blocks.
        expected: usize,
        /// Values given.
        found: usize,
    },
    /// The seed's own items are repeated, out of order or unknown.
    #[error("query {query}: the seed's own items must ascend, each once and below {items}")]
    SeedItems {
        /// Position in the batch.
        query: usize,
        /// The number of items.
        items: usize,
    },
    /// The exclusions are not in ascending order.
    #[error("query {query}: exclusions must be sorted ascending")]
    Exclude {
        /// Position in the batch.
        query: usize,
    },
    /// The list would be too long.
    #[error("query {query}: {k} items asked for, at most {K_MAX} are given")]
    TooMany {
        /// Position in the batch.
        query: usize,
        /// What was asked for.
        k: usize,
    },
}

/// The score chain for one pair: `fma` over the dimensions in index order from `start`.
pub fn dot(start: f32, left: &[f32], right: &[f32]) -> f32 {
    left.iter().zip(right).fold(start, |sum, (a, b)| a.mul_add(*b, sum))
}

impl Kernels {
    /// The `k` best items of each query, best first (score descending, index ascending).
    ///
    /// The answer to a query does not depend on the others in the batch. Scores that overflow to ±∞ keep their
    /// place; a NaN can only come from a NaN in a seed, and such an item is left out.
    pub fn score_top_k(self, items: BlockedView<'_>, queries: &[Query<'_>]) -> Result<Vec<Vec<Scored>>, ScoreError> {
        for (position, query) in queries.iter().enumerate() {
            check(position, query, &items)?;
        }
        let mut lists = Vec::with_capacity(queries.len());
        for batch in queries.chunks(USERS_PER_BATCH) {
            let mut states: Vec<State<'_>> = batch.iter().map(State::new).collect();
            let packed = pack(batch, items.dim(), self);
            batch_top_k(self, items, &packed, &mut states);
            lists.extend(states.into_iter().map(|state| state.best.into_sorted()));
        }
        Ok(lists)
    }

    /// All scores of one user, [`BlockedView::padded_items`] values (the padding's scores are its seeds).
    ///
    /// `out` holds the seeds on entry: zeros for plain scores.
    pub fn scores(self, items: BlockedView<'_>, user: &[f32], out: &mut [f32]) -> Result<(), ScoreError> {
        let query = Query { user, seed: Seed { base: Some(out), own: &[] }, exclude: &[], k: 0 };
        check(0, &query, &items)?;
        all_scores(self, items, user, out);
        Ok(())
    }
}

fn check(position: usize, query: &Query<'_>, items: &BlockedView<'_>) -> Result<(), ScoreError> {
    let (expected, found) = (items.dim(), query.user.len());
    if expected != found {
        return Err(ScoreError::Dimensions { query: position, expected, found });
    }
    if query.user.iter().any(|value| !value.is_finite()) {
        return Err(ScoreError::NotFinite { query: position });
    }
    if let Some(base) = query.seed.base
        && base.len() != items.padded_items()
    {
        return Err(ScoreError::Seed { query: position, expected: items.padded_items(), found: base.len() });
    }
    let own = query.seed.own;
    let is_ascending = own.windows(2).all(|pair| pair[0].0 < pair[1].0);
    if !is_ascending || own.last().is_some_and(|(item, _)| *item as usize >= items.items()) {
        return Err(ScoreError::SeedItems { query: position, items: items.items() });
    }
    if !query.exclude.is_sorted() {
        return Err(ScoreError::Exclude { query: position });
    }
    if query.k > K_MAX {
        return Err(ScoreError::TooMany { query: position, k: query.k });
    }
    Ok(())
}

/// What is known of a user while the blocks stream by.
struct State<'a> {
    best: TopK,
    threshold: f32,
    /// The exclusions not yet passed.
    exclude: &'a [u32],
    base: Option<&'a [f32]>,
    /// The seed's own items not yet passed.
    own: &'a [(u32, f32)],
}

impl<'a> State<'a> {
    fn new(query: &Query<'a>) -> Self {
        let best = TopK::new(query.k);
        let Seed { base, own } = query.seed;
        Self { threshold: best.threshold(), best, exclude: query.exclude, base, own }
    }

    /// Lays out what the scores of the items from `first` on start from, a whole number of blocks. Called for ascending
    /// panels.
    ///
    /// # Safety
    /// As [`Lanes`].
    #[inline(always)]
    unsafe fn start<L: Lanes>(&mut self, first: usize, starts: &mut [f32]) {
        match self.base {
            Some(base) => {
                let base = &base[first..][..starts.len()];
                for (to, from) in starts.chunks_exact_mut(LANES).zip(base.chunks_exact(LANES)) {
                    // SAFETY: both are 16 values long. (A call of memmove for so little costs more than the copy.)
                    unsafe { L::load(from.as_ptr()).store(to.as_mut_ptr()) };
                }
            }
            None => starts.fill(0.0),
        }
        while let [(item, value), rest @ ..] = self.own
            && let Some(start) = starts.get_mut(*item as usize - first)
        {
            *start = *value;
            self.own = rest;
        }
    }

    /// Offers the lanes of `mask`, item indices ascending from `first`.
    fn offer(&mut self, first: usize, scores: &[f32; LANES], mut mask: u32) {
        while mask != 0 {
            let lane = mask.trailing_zeros() as usize;
            mask &= mask - 1;
            let item = (first + lane) as u32;
            while let [excluded, rest @ ..] = self.exclude
                && *excluded < item
            {
                self.exclude = rest;
            }
            if self.exclude.first() != Some(&item) {
                self.best.offer(item, scores[lane]);
            }
        }
        self.threshold = self.best.threshold();
    }
}

/// The widths of the tiles that `users` split into: as equal as they can be.
fn tile_widths(users: usize, tile: usize) -> impl Iterator<Item = (usize, usize)> {
    let tiles = users.div_ceil(tile).max(1);
    (0..tiles).map(move |t| (t * users / tiles, (t + 1) * users / tiles)).map(|(from, to)| (from, to - from))
}

fn tile_of(kernels: Kernels) -> usize {
    match kernels.isa() {
        crate::Isa::Scalar => <crate::lanes::Scalar as Lanes>::TILE,
        #[cfg(target_arch = "x86_64")]
        crate::Isa::Avx2 => <crate::lanes::Avx2 as Lanes>::TILE,
        #[cfg(target_arch = "x86_64")]
        crate::Isa::Avx512 => <crate::lanes::Avx512 as Lanes>::TILE,
        #[cfg(not(target_arch = "x86_64"))]
        _ => <crate::lanes::Scalar as Lanes>::TILE,
    }
}

/// User factors as each tile reads them: `[tile][dim][users of the tile]`.
fn pack(batch: &[Query<'_>], dim: usize, kernels: Kernels) -> Vec<f32> {
    let mut packed = Vec::with_capacity(batch.len() * dim);
    for (from, width) in tile_widths(batch.len(), tile_of(kernels)) {
        for d in 0..dim {
            packed.extend(batch[from..from + width].iter().map(|query| query.user[d]));
        }
    }
    packed
}

dispatch! {
    fn batch_top_k(items: BlockedView<'_>, packed: &[f32], states: &mut [State<'_>]) = batch_top_k_body
}

/// # Safety
/// As [`Lanes`]. Shapes were checked by [`check`], and `packed` comes from [`pack`] with the same tile.
#[inline(always)]
unsafe fn batch_top_k_body<L: Lanes>(items: BlockedView<'_>, packed: &[f32], states: &mut [State<'_>]) {
    let dim = items.dim();
    let block_values = LANES * dim;
    let panel_blocks = (PANEL_BYTES / size_of::<f32>() / block_values).max(1);
    let mut starts = AlignedF32::zeroed(L::TILE * panel_blocks * LANES);
    for (number, panel) in items.values().chunks(panel_blocks * block_values).enumerate() {
        let panel_first = number * panel_blocks * LANES;
        let panel_items = panel.len() / dim;
        for (from, width) in tile_widths(states.len(), L::TILE) {
            let states = &mut states[from..from + width];
            let starts = &mut starts.as_mut_slice()[..width * panel_items];
            for (state, starts) in states.iter_mut().zip(starts.chunks_exact_mut(panel_items)) {
                // SAFETY: the caller's promise.
                unsafe { state.start::<L>(panel_first, starts) };
            }
            let users = packed[from * dim..][..width * dim].as_ptr();
            for (place, block) in panel.chunks_exact(block_values).enumerate() {
                let first = panel_first + place * LANES;
                let valid = (1_u32 << (items.items() - first).min(LANES)) - 1;
                let tile = Tile { block: block.as_ptr(), users, dim, first, valid };
                let starts = starts[place * LANES..].as_ptr();
                // SAFETY: `users` holds dim × width values, `block` dim × 16, and `starts`, for each user at a stride
                // of `panel_items`, 16 values.
                unsafe {
                    with_tile_width!(width, tile_top_k::<L>(&tile, starts, panel_items, states));
                }
            }
        }
    }
}

/// A block of 16 items that meets a register tile of users.
struct Tile {
    block: *const f32,
    /// `[dim][users of the tile]`.
    users: *const f32,
    dim: usize,
    /// Index of the block's first item.
    first: usize,
    /// Bit `l` is set where lane `l` is an item.
    valid: u32,
}

/// # Safety
/// As [`Lanes`]; the tile's block is valid for `16 × dim` values, its users for `U × dim`, `starts` for 16 values at
/// each of `U` multiples of `stride`; `states` has `U` entries.
#[inline(always)]
unsafe fn tile_top_k<L: Lanes, const U: usize>(
    tile: &Tile,
    starts: *const f32,
    stride: usize,
    states: &mut [State<'_>],
) {
    // SAFETY: the pointers stay inside what the caller promises; see above.
    unsafe {
        let mut sums = [L::splat(0.0); U];
        for (u, sum) in sums.iter_mut().enumerate() {
            *sum = L::load(starts.add(u * stride));
        }
        for d in 0..tile.dim {
            let lanes = L::load(tile.block.add(d * LANES));
            for (u, sum) in sums.iter_mut().enumerate() {
                *sum = sum.fma(L::splat(*tile.users.add(d * U + u)), lanes);
            }
        }
        for (sum, state) in sums.iter().zip(states) {
            let mask = sum.ge_mask(L::splat(state.threshold)) & tile.valid;
            if mask != 0 {
                let mut scores = [0.0; LANES];
                sum.store(scores.as_mut_ptr());
                state.offer(tile.first, &scores, mask);
            }
        }
    }
}

dispatch! {
    fn all_scores(items: BlockedView<'_>, user: &[f32], out: &mut [f32]) = all_scores_body
}

/// # Safety
/// As [`Lanes`]; `user` has `dim` values and `out` `padded_items`.
#[inline(always)]
unsafe fn all_scores_body<L: Lanes>(items: BlockedView<'_>, user: &[f32], out: &mut [f32]) {
    let blocks = items.values().chunks_exact(LANES * items.dim());
    for (block, out) in blocks.zip(out.chunks_exact_mut(LANES)) {
        // SAFETY: each chunk is exactly as long as the loads and stores below.
        unsafe {
            let mut sum = L::load(out.as_ptr());
            for (value, lanes) in user.iter().zip(block.chunks_exact(LANES)) {
                sum = sum.fma(L::splat(*value), L::load(lanes.as_ptr()));
            }
            sum.store(out.as_mut_ptr());
        }
    }
}
