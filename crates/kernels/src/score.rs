//! Scores of all items for a micro-batch of users, fused with top-k so that the score matrix is never stored.
//!
//! A score is `fma(u[d], h[d], …)` over `d` ascending, starting from the user's [`Seed`] for the item, in the end times
//! the item's [`Scale`] if there is one. Items pass in
//! panels of 32 blocks of 16. First each user looks at its bounds ([`crate::bounds`]) and takes on only the blocks in
//! which a score could reach its list; then each block, once in L1, meets the users that took it on, a register tile at
//! a time. The running k-th score of each user is compared with a whole block at once, and only lanes that pass reach
//! the heap.

use crate::aligned::AlignedF32;
use crate::blocked::{BlockedView, LANES};
use crate::bounds::{Base, BlockNorms, PANEL_BLOCKS, Scale, above, user_norm, widening};
use crate::isa::{Kernels, dispatch};
use crate::lanes::{Lanes, with_tile_width};
use crate::top_k::{Scored, TopK};

/// The longest list: it bounds the heap of a user.
pub const K_MAX: usize = 1000;

/// Users that meet a panel together: whole tiles of 4, 6 and 12, and their starts for a panel are 192 KiB at most.
const USERS_PER_BATCH: usize = 96;

/// The items that are scored.
#[derive(Debug, Clone, Copy)]
pub struct Items<'a> {
    /// Their factors.
    pub factors: BlockedView<'a>,
    /// The norms of `factors`.
    pub norms: &'a BlockNorms,
    /// What their scores are multiplied by, if by anything.
    pub scale: Option<&'a Scale>,
}

/// What the scores of one user start from.
#[derive(Debug, Clone, Copy)]
pub struct Seed<'a> {
    /// A start for every item; `None` is zero.
    pub base: Option<&'a Base>,
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
    /// The seed's base is of other items.
    #[error("query {query}: the seed's base has {found} values, {expected} are needed")]
    Base {
        /// Position in the batch.
        query: usize,
        /// The number of items.
        expected: usize,
        /// Values given.
        found: usize,
    },
    /// The norms or the scale are of other items.
    #[error("the norms or the scale are of factors of another shape: compute them anew for each snapshot")]
    Items,
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
    pub fn score_top_k(self, items: Items<'_>, queries: &[Query<'_>]) -> Result<Vec<Vec<Scored>>, ScoreError> {
        let is_scaled = items.scale.is_none_or(|scale| scale.values().len() == items.factors.items());
        if !items.norms.fit(items.factors) || !is_scaled {
            return Err(ScoreError::Items);
        }
        for (position, query) in queries.iter().enumerate() {
            check(position, query, &items.factors)?;
        }
        let mut lists = Vec::with_capacity(queries.len());
        let mut panel = Panel::new(queries.len().min(USERS_PER_BATCH));
        for batch in queries.chunks(USERS_PER_BATCH) {
            let mut states: Vec<State<'_>> = batch.iter().map(|query| State::new(query, items)).collect();
            batch_top_k(self, items, &mut panel, &mut states);
            lists.extend(states.into_iter().map(|state| state.best.into_sorted()));
        }
        Ok(lists)
    }

    /// All scores of one user, [`BlockedView::padded_items`] values (the padding's scores are its seeds).
    ///
    /// `out` holds the seeds on entry: zeros for plain scores.
    pub fn scores(self, items: BlockedView<'_>, user: &[f32], out: &mut [f32]) -> Result<(), ScoreError> {
        check(0, &Query { user, seed: Seed::ZERO, exclude: &[], k: 0 }, &items)?;
        if out.len() != items.padded_items() {
            return Err(ScoreError::Base { query: 0, expected: items.padded_items(), found: out.len() });
        }
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
        && base.items() != items.items()
    {
        return Err(ScoreError::Base { query: position, expected: items.items(), found: base.items() });
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

/// What is known of a user while the panels stream by.
struct State<'a> {
    user: &'a [f32],
    /// `‖user‖`, widened.
    norm: f32,
    widening: f32,
    best: TopK,
    /// Scores below it cannot enter the list.
    threshold: f32,
    /// What is known of the k-th score before the first is computed.
    floor: f32,
    /// The exclusions not yet passed.
    exclude: &'a [u32],
    base: Option<&'a Base>,
    /// The seed's own items not yet passed.
    own: &'a [(u32, f32)],
}

impl<'a> State<'a> {
    fn new(query: &Query<'a>, items: Items<'_>) -> Self {
        let best = TopK::new(query.k);
        let (norm, widening) = (user_norm(query.user), widening(query.user.len()));
        let floor = floor(query, items, norm, widening);
        let Seed { base, own } = query.seed;
        let threshold = best.threshold().max(floor);
        Self { user: query.user, norm, widening, best, threshold, floor, exclude: query.exclude, base, own }
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
        self.threshold = self.best.threshold().max(self.floor);
    }

    /// Takes on the blocks of a panel in which a score could reach the list. Called for ascending panels.
    ///
    /// # Safety
    /// As [`Lanes`]; `norms` and `scales` hold a norm and a greatest scale for each of the panel's [`PANEL_BLOCKS`]
    /// places.
    #[inline(always)]
    unsafe fn enter<L: Lanes>(
        &mut self,
        number: usize,
        first_block: usize,
        blocks: usize,
        norms: &[f32],
        scales: Option<&[f32]>,
        panel: &mut Panel,
    ) {
        let mut maxima = [0.0_f32; PANEL_BLOCKS];
        if let Some(base) = self.base {
            maxima.copy_from_slice(&base.maxima()[first_block..][..PANEL_BLOCKS]);
        }
        // How many own items lie up to the end of each block. Sorted items often share a block, so little may depend on
        // what the item before stored.
        let mut ends = [0_u32; PANEL_BLOCKS];
        let mut passed = 0_u32;
        for (item, start) in self.own {
            let place = *item as usize / LANES - first_block;
            if place >= blocks {
                break;
            }
            passed += 1;
            ends[place] = passed;
            let most = maxima[place];
            maxima[place] = if *start > most { *start } else { most };
        }
        for most in &mut maxima {
            *most = above(*most, self.widening);
        }
        for place in 1..PANEL_BLOCKS {
            ends[place] = ends[place].max(ends[place - 1]);
        }
        let mut taken = 0_u32;
        for half in [0, LANES] {
            // SAFETY: all arrays hold PANEL_BLOCKS = 2 × 16 values.
            unsafe {
                let reach = L::load(norms.as_ptr().add(half));
                let mut upper = L::load(maxima.as_ptr().add(half)).fma(L::splat(self.norm), reach);
                if let Some(scales) = scales {
                    upper = upper.mul(L::load(scales.as_ptr().add(half)));
                }
                taken |= upper.ge_mask(L::splat(self.threshold)) << half;
            }
        }
        if scales.is_some() && self.threshold <= 0.0 {
            // The greatest scale bounds what is positive; below zero it would be the least.
            taken = u32::MAX;
        }
        taken &= u32::MAX >> (PANEL_BLOCKS - blocks);
        let (here, rest) = self.own.split_at(passed as usize);
        self.own = rest;
        while taken != 0 {
            let place = taken.trailing_zeros() as usize;
            taken &= taken - 1;
            let first = (first_block + place) * LANES;
            let starts = panel.add(place, number);
            match self.base {
                Some(base) => {
                    let base = &base.padded()[first..][..LANES];
                    // SAFETY: both are 16 values long. (A call of memmove for so little costs more than the copy.)
                    unsafe { L::load(base.as_ptr()).store(starts.as_mut_ptr()) };
                }
                None => starts.fill(0.0),
            }
            let from = if place == 0 { 0 } else { ends[place - 1] };
            for (item, start) in &here[from as usize..ends[place] as usize] {
                starts[*item as usize - first] = *start;
            }
        }
    }
}

/// A number that at least `k` of the scores will reach, from the seed's own items and the least that each can come to.
fn floor(query: &Query<'_>, items: Items<'_>, norm: f32, widening: f32) -> f32 {
    if query.k == 0 {
        return f32::NAN;
    }
    let norms = items.norms.as_slice();
    let scales = items.scale.map(Scale::values);
    let mut kept: Vec<f32> = Vec::with_capacity(2 * query.k);
    let mut least = f32::NEG_INFINITY;
    let mut exclude = query.exclude;
    let cut = |kept: &mut Vec<f32>| {
        let (_, least, _) = kept.select_nth_unstable_by(query.k - 1, |a, b| b.total_cmp(a));
        *least
    };
    for (item, start) in query.seed.own {
        let scale = scales.map_or(1.0, |scales| scales[*item as usize]);
        // Most end here: a bound from below is not above the start.
        if scale * start <= least {
            continue;
        }
        let lower = scale * (-above(-*start, widening) - norm * norms[*item as usize / LANES]);
        // A NaN is not greater either.
        if lower > least {
            while let [excluded, rest @ ..] = exclude
                && *excluded < *item
            {
                exclude = rest;
            }
            if exclude.first() != Some(item) {
                kept.push(lower);
                if kept.len() == 2 * query.k {
                    least = cut(&mut kept);
                    kept.truncate(query.k);
                }
            }
        }
    }
    if kept.len() < query.k { f32::NEG_INFINITY } else { cut(&mut kept) }
}

/// Which users took on each block of a panel, and what their scores start from.
struct Panel {
    users_max: usize,
    counts: [usize; PANEL_BLOCKS],
    /// `[block][user]` as positions in the batch.
    users: Vec<u8>,
    /// `[block][user][16]`.
    starts: AlignedF32,
}

impl Panel {
    fn new(users_max: usize) -> Self {
        Self {
            users_max,
            counts: [0; PANEL_BLOCKS],
            users: vec![0; PANEL_BLOCKS * users_max],
            starts: AlignedF32::zeroed(PANEL_BLOCKS * users_max * LANES),
        }
    }

    /// Room for the starts of one more user.
    #[inline(always)]
    fn add(&mut self, place: usize, user: usize) -> &mut [f32] {
        let slot = place * self.users_max + self.counts[place];
        self.counts[place] += 1;
        self.users[slot] = user as u8;
        &mut self.starts.as_mut_slice()[slot * LANES..][..LANES]
    }
}

/// The widths of the tiles that `users` split into: as equal as they can be.
fn tile_widths(users: usize, tile: usize) -> impl Iterator<Item = (usize, usize)> {
    let tiles = users.div_ceil(tile).max(1);
    (0..tiles).map(move |t| (t * users / tiles, (t + 1) * users / tiles)).map(|(from, to)| (from, to - from))
}

dispatch! {
    fn batch_top_k(items: Items<'_>, panel: &mut Panel, states: &mut [State<'_>]) = batch_top_k_body
}

/// # Safety
/// As [`Lanes`]. Shapes were checked by [`check`]; norms and greatest scales are a whole number of panels.
#[inline(always)]
unsafe fn batch_top_k_body<L: Lanes>(items: Items<'_>, panel: &mut Panel, states: &mut [State<'_>]) {
    let factors = items.factors;
    let block_values = LANES * factors.dim();
    let scale = items.scale.map(Scale::padded);
    for (number, values) in factors.values().chunks(PANEL_BLOCKS * block_values).enumerate() {
        let first_block = number * PANEL_BLOCKS;
        let norms = &items.norms.as_slice()[first_block..][..PANEL_BLOCKS];
        let scales = scale.map(|(_, greatest)| &greatest[first_block..][..PANEL_BLOCKS]);
        let blocks = values.len() / block_values;
        panel.counts.fill(0);
        for (user, state) in states.iter_mut().enumerate() {
            // SAFETY: the caller's promise, and `norms` and `scales` are one panel's.
            unsafe { state.enter::<L>(user, first_block, blocks, norms, scales, panel) };
        }
        for (place, block) in values.chunks_exact(block_values).enumerate() {
            let first = (first_block + place) * LANES;
            let valid = (1_u32 << (factors.items() - first).min(LANES)) - 1;
            let scale = scale.map(|(values, _)| &values[first..][..LANES]);
            let tile = Tile { block, scale, first, valid };
            let count = panel.counts[place];
            if count == 0 {
                continue;
            }
            for (from, width) in tile_widths(count, L::TILE) {
                let slot = place * panel.users_max + from;
                let users = &panel.users[slot..slot + width];
                let starts = &panel.starts.as_slice()[slot * LANES..][..width * LANES];
                // SAFETY: a user has dim factors, `block` dim × 16, and `starts` 16 values for each user.
                unsafe {
                    with_tile_width!(width, tile_top_k::<L>(&tile, users, starts, states));
                }
            }
        }
    }
}

/// A block of 16 items that meets a register tile of users.
struct Tile<'a> {
    block: &'a [f32],
    /// 16 values, if scores are scaled.
    scale: Option<&'a [f32]>,
    /// Index of the block's first item.
    first: usize,
    /// Bit `l` is set where lane `l` is an item.
    valid: u32,
}

/// # Safety
/// As [`Lanes`]; `users` has `U` positions in `states`, `starts` `U × 16` values, the tile's block 16 × each user's.
#[inline(always)]
unsafe fn tile_top_k<L: Lanes, const U: usize>(
    tile: &Tile<'_>,
    users: &[u8],
    starts: &[f32],
    states: &mut [State<'_>],
) {
    let factors: [*const f32; U] = std::array::from_fn(|u| states[usize::from(users[u])].user.as_ptr());
    // SAFETY: the pointers stay inside what the caller promises; see above.
    unsafe {
        let mut sums = [L::splat(0.0); U];
        for (u, sum) in sums.iter_mut().enumerate() {
            *sum = L::load(starts.as_ptr().add(u * LANES));
        }
        for (d, lanes) in tile.block.chunks_exact(LANES).enumerate() {
            let lanes = L::load(lanes.as_ptr());
            for (u, sum) in sums.iter_mut().enumerate() {
                *sum = sum.fma(L::splat(*factors[u].add(d)), lanes);
            }
        }
        if let Some(scale) = tile.scale {
            let scale = L::load(scale.as_ptr());
            for sum in &mut sums {
                *sum = sum.mul(scale);
            }
        }
        for (u, sum) in sums.iter().enumerate() {
            let state = &mut states[usize::from(users[u])];
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
