//! Scores of all items for a micro-batch of users, fused with top-k so that the score matrix is never stored.
//!
//! A score is `fma(u[d], h[d], …)` over `d` ascending, starting from a value of the user's own for each item, in the end
//! times the item's [`Scale`] if there is one. Users are [added](Scan::add) one by one, each with a start for every item:
//! from starts and norms alone most blocks of 16 items are known to hold nothing for the list, and only the rest is
//! remembered. [`Scan::lists`] then brings blocks and users together, see [`crate::scan`].

use crate::blocked::{BlockedView, LANES};
use crate::bounds::{Norms, Scale};
use crate::isa::{Kernels, dispatch};
use crate::lanes::Lanes;
use crate::scan::{Batch, USERS_MAX};
use crate::top_k::Scored;

/// The longest list: it bounds the heap of a user.
pub const K_MAX: usize = 1000;

/// The items that are scored.
#[derive(Debug, Clone, Copy)]
pub struct Items<'a> {
    /// Their factors.
    pub factors: BlockedView<'a>,
    /// The same `[items × dim]` row-major, if there is a copy: an item alone is read out of it, a sixteenth of its block.
    pub rows: Option<&'a [f32]>,
    /// The norms of `factors`.
    pub norms: &'a Norms,
    /// What their scores are multiplied by, if by anything.
    pub scale: Option<&'a Scale>,
}

/// One user's question.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    /// `dim` factors of the user.
    pub user: &'a [f32],
    /// What each score starts from: [`BlockedView::padded_items`] values. An item whose start is NaN is in no list; what
    /// stands past the last item does not matter.
    pub starts: &'a [f32],
    /// The length of the list, at most [`K_MAX`].
    pub k: usize,
}

/// A question that cannot be answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScoreError {
    /// The user's factors have another length than the items'.
    #[error("{found} factors of the user, the items have {expected}")]
    Dimensions {
        /// Dimensions of the items.
        expected: usize,
        /// Factors given.
        found: usize,
    },
    /// A factor is NaN or infinite.
    #[error("a factor of the user is not finite")]
    NotFinite,
    /// The starts are of other items.
    #[error("{found} starts, {expected} are needed")]
    Starts {
        /// The number of items, padded to whole blocks.
        expected: usize,
        /// Starts given.
        found: usize,
    },
    /// The norms, the scale or the rows are of other items.
    #[error("the norms, the scale or the rows are of factors of another shape: compute them anew for each snapshot")]
    Items,
    /// The list would be too long.
    #[error("{k} items asked for, at most {K_MAX} are given")]
    TooMany {
        /// What was asked for.
        k: usize,
    },
    /// There is no room for another user.
    #[error("a batch has room for {USERS_MAX} users; take its lists first")]
    Full,
}

/// The score chain for one pair: `fma` over the dimensions in index order from `start`.
pub fn dot(start: f32, left: &[f32], right: &[f32]) -> f32 {
    left.iter().zip(right).fold(start, |sum, (a, b)| a.mul_add(*b, sum))
}

/// The buffers of one thread for scans of any items.
#[derive(Debug, Clone, Default)]
pub struct ScanBuffers(Batch);

/// A batch of users on their way to their lists.
#[derive(Debug)]
pub struct Scan<'a> {
    kernels: Kernels,
    items: Items<'a>,
    batch: &'a mut Batch,
}

impl Scan<'_> {
    /// Users that fit one batch: whole register tiles of 4, 6 and 12.
    pub const USERS_MAX: usize = USERS_MAX;

    /// Adds a user. One that is refused leaves the others alone.
    pub fn add(&mut self, query: Query<'_>) -> Result<(), ScoreError> {
        check_user(query.user, self.items.factors)?;
        let (expected, found) = (self.items.factors.padded_items(), query.starts.len());
        if expected != found {
            return Err(ScoreError::Starts { expected, found });
        }
        if query.k > K_MAX {
            return Err(ScoreError::TooMany { k: query.k });
        }
        if self.batch.users() == USERS_MAX {
            return Err(ScoreError::Full);
        }
        self.batch.add(self.kernels, self.items, query);
        Ok(())
    }

    /// The lists of the users added, in order, each best first (score descending, index ascending). The scan is empty
    /// afterwards.
    ///
    /// A list does not depend on the others of its batch. Scores that overflow to ±∞ keep their place; a NaN can only come
    /// from a NaN in a start, and such an item is left out.
    pub fn lists(&mut self) -> Vec<Vec<Scored>> {
        self.batch.lists(self.kernels, self.items)
    }
}

impl Kernels {
    /// An empty batch over `items`.
    pub fn scan<'a>(self, items: Items<'a>, buffers: &'a mut ScanBuffers) -> Result<Scan<'a>, ScoreError> {
        let is_scaled = items.scale.is_none_or(|scale| scale.items() == items.factors.items());
        let values = items.factors.items() * items.factors.dim();
        let is_copied = items.rows.is_none_or(|rows| rows.len() == values);
        if !items.norms.fit(items.factors) || !is_scaled || !is_copied {
            return Err(ScoreError::Items);
        }
        buffers.0.clear();
        Ok(Scan { kernels: self, items, batch: &mut buffers.0 })
    }

    /// All scores of one user, [`BlockedView::padded_items`] values (the padding's scores are its starts).
    ///
    /// `out` holds the starts on entry: zeros for plain scores.
    pub fn scores(self, items: BlockedView<'_>, user: &[f32], out: &mut [f32]) -> Result<(), ScoreError> {
        check_user(user, items)?;
        if out.len() != items.padded_items() {
            return Err(ScoreError::Starts { expected: items.padded_items(), found: out.len() });
        }
        all_scores(self, items, user, out);
        Ok(())
    }
}

fn check_user(user: &[f32], items: BlockedView<'_>) -> Result<(), ScoreError> {
    let (expected, found) = (items.dim(), user.len());
    if expected != found {
        return Err(ScoreError::Dimensions { expected, found });
    }
    if user.iter().any(|value| !value.is_finite()) {
        return Err(ScoreError::NotFinite);
    }
    Ok(())
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
