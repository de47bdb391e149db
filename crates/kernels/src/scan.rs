//! How a batch of users meets the items.
//!
//! 1. **Adding a user** reads its starts, never the items' factors. The greatest start of each lane of a group of blocks
//!    and the lane's greatest norm tell the least that its best score can come to and the most ([`crate::bounds`]). The
//!    least of all lanes give a floor that the k-th score reaches. Groups in which nothing can reach it are passed over;
//!    of the others each block of 16 is looked at by its own norms, and the starts of those that can are kept.
//! 2. **Few items** are scored at once where their rows lie together: reading whole blocks for a lane or two of each would
//!    wait for memory longer than all else takes. Then nothing is kept.
//! 3. **Lists**: each block, once in L1, meets the users that kept it, a register tile at a time. The k-th score of a user
//!    rises meanwhile, so what was kept is looked at once more, a panel of blocks at a time. The scores of a block are
//!    compared with it at once, and only lanes that pass reach the heap.

use std::ops::Range;

use crate::aligned::AlignedF32;
use crate::blocked::LANES;
use crate::bounds::{GROUP_BLOCKS, Scale, user_norm, widening};
use crate::isa::{Kernels, dispatch};
use crate::lanes::{Lanes, with_tile_width};
use crate::prefetch::prefetch;
use crate::score::{Items, Query, dot};
use crate::top_k::{Scored, TopK};

/// Users that meet the items together: whole tiles of 4, 6 and 12.
pub(crate) const USERS_MAX: usize = 96;

/// Blocks that are looked at together.
const PANEL_BLOCKS: usize = 32;

/// A user's kept blocks are few if they are at most this share of all: were they more, most blocks would be read for several
/// users of a batch.
const FEW_SHARE: usize = 8;

/// Items that few blocks may have on average, each counting those that can reach the list.
const FEW_ITEMS: usize = 3;

/// Items that are scored together, so that one's chain does not wait for another's.
const TOGETHER: usize = 8;

/// A block that a user kept.
#[derive(Debug, Clone, Copy)]
struct Kept {
    block: u32,
    /// Which of its items can reach the list.
    mask: u32,
    /// No score in the block is greater.
    upper: f32,
}

/// What is known of a user.
#[derive(Debug, Clone)]
struct User {
    best: TopK,
    /// What is known of the k-th score before the first is computed.
    floor: f32,
    /// Scores below it cannot enter the list.
    threshold: f32,
    /// The blocks kept and not yet passed, places in [`Batch::kept`].
    from: usize,
    to: usize,
}

/// A user at a block.
#[derive(Debug, Clone, Copy, Default)]
struct Seat {
    user: u32,
    /// Place of the starts in [`Batch::starts`], in blocks.
    starts: u32,
}

/// A batch of users. Its buffers are kept from batch to batch.
#[derive(Debug, Clone, Default)]
pub(crate) struct Batch {
    users: Vec<User>,
    /// `[user][dim]`.
    factors: Vec<f32>,
    /// Of all users, one after the other; of each, ascending.
    kept: Vec<Kept>,
    /// 16 for each of `kept`.
    starts: AlignedF32,
    bounds: Bounds,
    /// Items that can reach a user's list, ascending, each with its start.
    few: Vec<(u32, f32)>,
    panel: Panel,
}

/// What the first reading of a user's starts tells.
#[derive(Debug, Clone, Default)]
struct Bounds {
    /// Scores that items of different stripes reach at the least.
    least: Vec<f32>,
    /// No score in the lane of a group is greater; of each group of whole blocks.
    most: AlignedF32,
}

/// Which users meet each block of a panel.
#[derive(Debug, Clone, Default)]
struct Panel {
    counts: [usize; PANEL_BLOCKS],
    /// `[block][USERS_MAX]`.
    seats: Vec<Seat>,
}

impl Batch {
    pub(crate) fn users(&self) -> usize {
        self.users.len()
    }

    pub(crate) fn clear(&mut self) {
        self.users.clear();
        self.factors.clear();
        self.kept.clear();
        self.starts.clear();
    }

    /// Adds a user whose shapes were checked.
    pub(crate) fn add(&mut self, kernels: Kernels, items: Items<'_>, query: Query<'_>) {
        let reach = Reach { norm: user_norm(query.user), widening: widening(query.user.len()) };
        let floor = if query.k == 0 {
            f32::NAN
        } else {
            bound(kernels, items, query, reach, &mut self.bounds);
            nth_greatest(&mut self.bounds.least, query.k)
        };
        let from = self.kept.len();
        keep(kernels, items, query.starts, reach, floor, self);
        let best = TopK::new(query.k);
        let threshold = best.threshold().max(floor);
        let mut user = User { best, floor, threshold, from, to: self.kept.len() };
        if floor > f32::NEG_INFINITY && !self.score_few(kernels, items, query, &mut user) {
            limit(kernels, items, reach, &self.starts, from, &mut self.kept[from..]);
        }
        self.users.push(user);
        self.factors.extend_from_slice(query.user);
    }

    /// Scores the items of the user's kept blocks that can reach its list, and keeps none, if they are few and their rows
    /// lie together. Whether it did so.
    fn score_few(&mut self, kernels: Kernels, items: Items<'_>, query: Query<'_>, user: &mut User) -> bool {
        let Some(rows) = items.rows else { return false };
        let Self { kept, starts, few, .. } = self;
        let blocks = &kept[user.from..];
        let count: usize = blocks.iter().map(|kept| kept.mask.count_ones() as usize).sum();
        if blocks.len() * FEW_SHARE > items.factors.padded_items() / LANES || count > blocks.len() * FEW_ITEMS {
            return false;
        }
        let dim = query.user.len();
        few.clear();
        for (Kept { block, mask, .. }, starts) in
            blocks.iter().zip(&starts.as_slice().as_chunks::<LANES>().0[user.from..])
        {
            let mut mask = *mask;
            while mask != 0 {
                let lane = mask.trailing_zeros() as usize;
                mask &= mask - 1;
                let item = *block as usize * LANES + lane;
                prefetch(&rows[item * dim..][..dim]);
                few.push((item as u32, starts[lane]));
            }
        }
        for few in few.chunks_mut(TOGETHER) {
            row_scores(kernels, rows, query.user, few);
            for (item, sum) in few {
                let scale = items.scale.map(|scale| scale.padded()[*item as usize]);
                let score = scale.map_or(*sum, |scale| *sum * scale);
                if score >= user.threshold {
                    user.best.offer(*item, score);
                    user.threshold = user.best.threshold().max(user.floor);
                }
            }
        }
        kept.truncate(user.from);
        starts.truncate_lines(user.from);
        user.to = user.from;
        true
    }

    pub(crate) fn lists(&mut self, kernels: Kernels, items: Items<'_>) -> Vec<Vec<Scored>> {
        self.panel.seats.resize(PANEL_BLOCKS * USERS_MAX, Seat::default());
        meet(kernels, items, self);
        let lists = self.users.drain(..).map(|user| user.best.into_sorted()).collect();
        self.clear();
        lists
    }
}

/// The `k`-th greatest; negative infinity where there are fewer.
fn nth_greatest(values: &mut [f32], k: usize) -> f32 {
    if values.len() < k {
        return f32::NEG_INFINITY;
    }
    *values.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1
}

/// How far a user's scores may lie from their starts.
#[derive(Debug, Clone, Copy)]
struct Reach {
    /// `‖user‖`, widened.
    norm: f32,
    widening: f32,
}

impl Reach {
    /// The most that the scores of a block can come to.
    ///
    /// # Safety
    /// As [`Lanes`].
    #[inline(always)]
    unsafe fn upper<L: Lanes, const SCALED: bool>(self, block: &Block<'_>) -> L {
        // SAFETY: all arrays hold 16 values.
        unsafe {
            let starts = L::load(block.starts.as_ptr());
            let above = starts.fma(starts.abs(), L::splat(self.widening));
            let upper = above.fma(L::splat(self.norm), L::load(block.norms.as_ptr()));
            if SCALED { upper.mul(L::load(block.scale.as_ptr())) } else { upper }
        }
    }

    /// The least that the scores of a block can come to.
    ///
    /// # Safety
    /// As [`Lanes`].
    #[inline(always)]
    unsafe fn lower<L: Lanes, const SCALED: bool>(self, block: &Block<'_>) -> L {
        // SAFETY: all arrays hold 16 values.
        unsafe {
            let starts = L::load(block.starts.as_ptr());
            let below = starts.fnma(starts.abs(), L::splat(self.widening));
            let lower = below.fnma(L::splat(self.norm), L::load(block.norms.as_ptr()));
            if SCALED { lower.mul(L::load(block.scale.as_ptr())) } else { lower }
        }
    }

    /// The least that the greatest score of each lane of a group can come to, and the most. All steps are monotonous, so
    /// the greatest start with the greatest norm bounds each item of the lane, and the item of the greatest start from
    /// below.
    ///
    /// # Safety
    /// As [`Lanes`].
    #[inline(always)]
    unsafe fn of_group<L: Lanes, const SCALED: bool>(self, starts: L, group: &Group<'_>) -> (L, L) {
        // SAFETY: all arrays hold 16 values.
        unsafe {
            let (widening, norm, norms) = (L::splat(self.widening), L::splat(self.norm), L::load(group.norms.as_ptr()));
            let below = starts.fnma(starts.abs(), widening).fnma(norm, norms);
            let above = starts.fma(starts.abs(), widening).fma(norm, norms);
            if !SCALED {
                return (below, above);
            }
            let (least, most) = (L::load(group.scale.0.as_ptr()), L::load(group.scale.1.as_ptr()));
            // Where a lane reaches past the last item, zero times infinity is no number, and the other product stays.
            (below.mul(most).min_of(below.mul(least)), above.mul(most).max_of(above.mul(least)))
        }
    }
}

/// What is known of the lanes of a group.
struct Group<'a> {
    norms: &'a [f32; LANES],
    /// Least and greatest; read only where scores are scaled.
    scale: (&'a [f32; LANES], &'a [f32; LANES]),
}

/// What is known of 16 items before their factors are read.
struct Block<'a> {
    starts: &'a [f32; LANES],
    norms: &'a [f32; LANES],
    /// Read only where scores are scaled.
    scale: &'a [f32; LANES],
}

/// What is known of all items: the whole blocks, and the last one where it is cut short.
struct Known<'a> {
    starts: &'a [[f32; LANES]],
    /// Past the last item NaN, which no list takes.
    last: Option<[f32; LANES]>,
    norms: &'a [[f32; LANES]],
    scale: &'a [[f32; LANES]],
}

impl<'a> Known<'a> {
    fn new(items: Items<'a>, starts: &'a [f32]) -> Self {
        let count = items.factors.items();
        let (starts, _) = starts.as_chunks();
        let last = (!count.is_multiple_of(LANES)).then(|| {
            let mut last = starts[count / LANES];
            last[count % LANES..].fill(f32::NAN);
            last
        });
        let (norms, _) = items.norms.as_slice().as_chunks();
        let scale = items.scale.map_or(norms, |scale| scale.padded().as_chunks().0);
        Self { starts: &starts[..count / LANES], last, norms, scale }
    }

    /// The whole blocks of `range`. (Loops over blocks are written out: a closure does not inherit the features that an
    /// instruction set's kernels are compiled with.)
    #[inline(always)]
    fn whole(&self, range: Range<usize>) -> impl Iterator<Item = Block<'_>> {
        let known = self.norms[range.clone()].iter().zip(&self.scale[range.clone()]);
        self.starts[range].iter().zip(known).map(|(starts, (norms, scale))| Block { starts, norms, scale })
    }

    /// The block that is cut short.
    #[inline(always)]
    fn last(&self) -> Option<Block<'_>> {
        let number = self.starts.len();
        self.last.as_ref().map(|starts| Block { starts, norms: &self.norms[number], scale: &self.scale[number] })
    }
}

dispatch! {
    fn bound(items: Items<'_>, query: Query<'_>, reach: Reach, bounds: &mut Bounds) = bound_body
}

/// Fills `bounds.least` with what the best score of each stripe reaches at the least, a lane of a run of neighbouring
/// groups, and `bounds.most`. Runs are so long that there are some 16 stripes for each place of the list.
///
/// # Safety
/// As [`Lanes`]; shapes were checked.
#[inline(always)]
unsafe fn bound_body<L: Lanes>(items: Items<'_>, query: Query<'_>, reach: Reach, bounds: &mut Bounds) {
    // SAFETY: the caller's promise.
    unsafe {
        match items.scale {
            Some(_) => stripes::<L, true>(items, query, reach, bounds),
            None => stripes::<L, false>(items, query, reach, bounds),
        }
    }
}

/// # Safety
/// As [`Lanes`]; shapes were checked.
#[inline(always)]
unsafe fn stripes<L: Lanes, const SCALED: bool>(items: Items<'_>, query: Query<'_>, reach: Reach, bounds: &mut Bounds) {
    let Bounds { least, most } = bounds;
    least.clear();
    let known = Known::new(items, query.starts);
    let blocks = known.starts.len();
    most.resize(blocks.div_ceil(GROUP_BLOCKS) * LANES);
    let (norms, _) = items.norms.of_groups().as_chunks();
    let scale = items.scale.map(Scale::of_groups).map(|(least, most)| (least.as_chunks().0, most.as_chunks().0));
    let (least_scale, most_scale) = scale.unwrap_or((norms, norms));
    let run = (blocks / query.k / GROUP_BLOCKS).clamp(1, 32);
    let mut lanes = [0.0; LANES];
    let groups = known.starts.chunks(GROUP_BLOCKS).zip(most.as_mut_slice().as_chunks_mut::<LANES>().0);
    // SAFETY: the caller's promise, and 16 lanes.
    unsafe {
        let mut reached = L::splat(f32::NEG_INFINITY);
        let mut left = run;
        for (number, (starts, most)) in groups.enumerate() {
            let mut greatest = L::splat(f32::NEG_INFINITY);
            for starts in starts {
                greatest = greatest.max_of(L::load(starts.as_ptr()));
            }
            let group = Group { norms: &norms[number], scale: (&least_scale[number], &most_scale[number]) };
            let (lower, upper) = reach.of_group::<L, SCALED>(greatest, &group);
            upper.store(most.as_mut_ptr());
            reached = reached.max_of(lower);
            left -= 1;
            if left == 0 {
                reached.store(lanes.as_mut_ptr());
                least.extend(lanes.iter().filter(|value| **value > f32::NEG_INFINITY));
                reached = L::splat(f32::NEG_INFINITY);
                left = run;
            }
        }
        reached.store(lanes.as_mut_ptr());
        least.extend(lanes.iter().filter(|value| **value > f32::NEG_INFINITY));
        if let Some(block) = known.last() {
            reach.lower::<L, SCALED>(&block).store(lanes.as_mut_ptr());
            least.extend(lanes.iter().filter(|value| **value > f32::NEG_INFINITY));
        }
    }
}

dispatch! {
    fn keep(items: Items<'_>, starts: &[f32], reach: Reach, floor: f32, batch: &mut Batch) = keep_body
}

/// Keeps the blocks in which a score could reach `floor`.
///
/// # Safety
/// As [`Lanes`]; shapes were checked.
#[inline(always)]
unsafe fn keep_body<L: Lanes>(items: Items<'_>, starts: &[f32], reach: Reach, floor: f32, batch: &mut Batch) {
    let known = Known::new(items, starts);
    // SAFETY: the caller's promise.
    unsafe {
        match items.scale {
            Some(_) => keep_reaching::<L, true>(&known, reach, floor, batch),
            None => keep_reaching::<L, false>(&known, reach, floor, batch),
        }
    }
}

/// # Safety
/// As [`Lanes`].
#[inline(always)]
unsafe fn keep_reaching<L: Lanes, const SCALED: bool>(known: &Known<'_>, reach: Reach, floor: f32, batch: &mut Batch) {
    let blocks = known.starts.len();
    if floor.is_nan() {
        return;
    }
    let Batch { bounds, kept, starts, .. } = batch;
    // SAFETY: the caller's promise; a line of 16 was noted for each group.
    unsafe {
        let least = L::splat(floor);
        // Where nothing is known of the floor, nothing was noted either.
        let groups = if floor > f32::NEG_INFINITY { bounds.most.as_slice().as_chunks::<LANES>().0 } else { &[] };
        for (number, most) in groups.iter().enumerate() {
            if L::load(most.as_ptr()).ge_mask(least) == 0 {
                continue;
            }
            let group = number * GROUP_BLOCKS..((number + 1) * GROUP_BLOCKS).min(blocks);
            for (number, block) in group.clone().zip(known.whole(group)) {
                keep_block::<L, SCALED>(number, &block, reach, floor, kept, starts);
            }
        }
        if floor == f32::NEG_INFINITY {
            for (number, block) in known.whole(0..blocks).enumerate() {
                keep_block::<L, SCALED>(number, &block, reach, floor, kept, starts);
            }
        }
        if let Some(block) = known.last() {
            keep_block::<L, SCALED>(blocks, &block, reach, floor, kept, starts);
        }
    }
}

/// # Safety
/// As [`Lanes`].
#[inline(always)]
unsafe fn keep_block<L: Lanes, const SCALED: bool>(
    number: usize,
    block: &Block<'_>,
    reach: Reach,
    floor: f32,
    kept: &mut Vec<Kept>,
    kept_starts: &mut AlignedF32,
) {
    // SAFETY: the caller's promise, and 16 lanes.
    unsafe {
        // Where nothing is known, whatever has a score belongs to the list, and that of a start of −∞ has no bound.
        let mask = if floor == f32::NEG_INFINITY {
            u32::MAX >> LANES
        } else {
            reach.upper::<L, SCALED>(block).ge_mask(L::splat(floor))
        };
        if mask != 0 {
            kept.push(Kept { block: number as u32, mask, upper: f32::INFINITY });
            *kept_starts.push_line() = *block.starts;
        }
    }
}

dispatch! {
    fn limit(items: Items<'_>, reach: Reach, starts: &AlignedF32, first: usize, kept: &mut [Kept]) = limit_body
}

/// Notes the most that the scores of each kept block can come to; the first has its starts at place `first`.
///
/// # Safety
/// As [`Lanes`]; shapes were checked.
#[inline(always)]
unsafe fn limit_body<L: Lanes>(items: Items<'_>, reach: Reach, starts: &AlignedF32, first: usize, kept: &mut [Kept]) {
    let (starts, _) = starts.as_slice().as_chunks::<LANES>();
    let (norms, _) = items.norms.as_slice().as_chunks();
    let scale = items.scale.map_or(norms, |scale| scale.padded().as_chunks().0);
    for (kept, starts) in kept.iter_mut().zip(&starts[first..]) {
        let number = kept.block as usize;
        let block = Block { starts, norms: &norms[number], scale: &scale[number] };
        let mut lanes = [0.0; LANES];
        // SAFETY: the caller's promise, and 16 lanes.
        unsafe {
            match items.scale {
                Some(_) => reach.upper::<L, true>(&block).store(lanes.as_mut_ptr()),
                None => reach.upper::<L, false>(&block).store(lanes.as_mut_ptr()),
            }
        }
        kept.upper = lanes.into_iter().fold(f32::NEG_INFINITY, f32::max);
    }
}

dispatch! {
    fn row_scores(rows: &[f32], user: &[f32], few: &mut [(u32, f32)]) = row_scores_body
}

/// Puts the score chain of each item in the place of its start.
///
/// # Safety
/// As [`Lanes`], whose features let a multiply-add be one instruction.
#[inline(always)]
unsafe fn row_scores_body<L: Lanes>(rows: &[f32], user: &[f32], few: &mut [(u32, f32)]) {
    let dim = user.len();
    let row = |item: u32| &rows[item as usize * dim..][..dim];
    if let Ok(few) = <&mut [_; TOGETHER]>::try_from(&mut *few) {
        let rows: [&[f32]; TOGETHER] = std::array::from_fn(|n| row(few[n].0));
        let mut sums: [f32; TOGETHER] = std::array::from_fn(|n| few[n].1);
        for (d, user) in user.iter().enumerate() {
            for (sum, row) in sums.iter_mut().zip(rows) {
                *sum = user.mul_add(row[d], *sum);
            }
        }
        for ((_, start), sum) in few.iter_mut().zip(sums) {
            *start = sum;
        }
    } else {
        for (item, start) in few {
            *start = dot(*start, user, row(*item));
        }
    }
}

/// The widths of the tiles that `users` split into: as equal as they can be.
fn tile_widths(users: usize, tile: usize) -> impl Iterator<Item = (usize, usize)> {
    let tiles = users.div_ceil(tile).max(1);
    (0..tiles).map(move |t| (t * users / tiles, (t + 1) * users / tiles)).map(|(from, to)| (from, to - from))
}

dispatch! {
    fn meet(items: Items<'_>, batch: &mut Batch) = meet_body
}

/// # Safety
/// As [`Lanes`]. Shapes were checked for every user.
#[inline(always)]
unsafe fn meet_body<L: Lanes>(items: Items<'_>, batch: &mut Batch) {
    let Batch { users, factors, kept, starts, panel, .. } = batch;
    let (dim, starts) = (items.factors.dim(), starts.as_slice());
    let block_values = LANES * dim;
    let scale = items.scale.map(Scale::padded);
    for (number, values) in items.factors.values().chunks(PANEL_BLOCKS * block_values).enumerate() {
        let first_block = number * PANEL_BLOCKS;
        panel.seat(first_block, users, kept);
        for (place, block) in values.chunks_exact(block_values).enumerate() {
            let count = panel.counts[place];
            if count == 0 {
                continue;
            }
            let first = (first_block + place) * LANES;
            let scale = scale.map(|values| &values[first..][..LANES]);
            let tile = Tile { block, scale, first, factors, starts };
            for (from, width) in tile_widths(count, L::TILE) {
                let seats = &panel.seats[place * USERS_MAX + from..][..width];
                // SAFETY: a user has dim factors, `block` dim × 16, and a seat's starts are 16 of `starts`.
                unsafe {
                    with_tile_width!(width, tile_top_k::<L>(&tile, seats, users));
                }
            }
        }
    }
}

impl Panel {
    /// Gives seats to the users that kept a block of the panel in which a score can still reach their list.
    fn seat(&mut self, first_block: usize, users: &mut [User], kept: &[Kept]) {
        self.counts.fill(0);
        let end = first_block + PANEL_BLOCKS;
        for (number, user) in users.iter_mut().enumerate() {
            while user.from < user.to && (kept[user.from].block as usize) < end {
                let Kept { block, upper, .. } = kept[user.from];
                if upper >= user.threshold {
                    let place = block as usize - first_block;
                    let seat = Seat { user: number as u32, starts: user.from as u32 };
                    self.seats[place * USERS_MAX + self.counts[place]] = seat;
                    self.counts[place] += 1;
                }
                user.from += 1;
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
    /// Of all users.
    factors: &'a [f32],
    /// Of all that was kept.
    starts: &'a [f32],
}

/// # Safety
/// As [`Lanes`]; there are `U` seats, each of one of `users`, with `dim` values in the tile's factors and 16 in its
/// starts; the tile's block has 16 × `dim`.
#[inline(always)]
unsafe fn tile_top_k<L: Lanes, const U: usize>(tile: &Tile<'_>, seats: &[Seat], users: &mut [User]) {
    let dim = tile.block.len() / LANES;
    let factors: [*const f32; U] =
        std::array::from_fn(|u| tile.factors[seats[u].user as usize * dim..][..dim].as_ptr());
    // SAFETY: the pointers stay inside what the caller promises; see above.
    unsafe {
        let mut sums = [L::splat(0.0); U];
        for (sum, seat) in sums.iter_mut().zip(seats) {
            *sum = L::load(tile.starts[seat.starts as usize * LANES..][..LANES].as_ptr());
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
        for (sum, seat) in sums.iter().zip(seats) {
            let user = &mut users[seat.user as usize];
            let mask = sum.ge_mask(L::splat(user.threshold));
            if mask != 0 {
                let mut scores = [0.0; LANES];
                sum.store(scores.as_mut_ptr());
                user.offer(tile.first, &scores, mask);
            }
        }
    }
}

impl User {
    /// Offers the lanes of `mask`, item indices ascending from `first`.
    fn offer(&mut self, first: usize, scores: &[f32; LANES], mut mask: u32) {
        while mask != 0 {
            let lane = mask.trailing_zeros() as usize;
            mask &= mask - 1;
            self.best.offer((first + lane) as u32, scores[lane]);
        }
        self.threshold = self.best.threshold().max(self.floor);
    }
}
