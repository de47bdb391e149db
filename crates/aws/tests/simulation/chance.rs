//! Chance from a seed.

use anabranch_stores::backoff::Jitter;

/// A stream of random choices.
#[derive(Debug)]
pub(crate) struct Chance(Jitter);

impl Chance {
    /// The choices that `seed` makes.
    pub(crate) const fn new(seed: u64) -> Self {
        Self(Jitter::new(seed))
    }

    /// A number in `0..bound`.
    pub(crate) fn below(&self, bound: u64) -> u64 {
        self.0.below(bound)
    }

    /// A number in `0..bound`, for indices.
    pub(crate) fn index(&self, bound: usize) -> usize {
        self.0.below(bound as u64) as usize
    }

    /// Once in `n` times.
    pub(crate) fn one_in(&self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of them.
    pub(crate) fn pick<T: Copy>(&self, of: &[T]) -> T {
        of[self.index(of.len())]
    }

    /// A seed for somebody else.
    pub(crate) fn seed(&self) -> u64 {
        self.below(u64::MAX)
    }
}
