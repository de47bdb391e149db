//! The one total order of scores, and the `k` best kept while items stream by.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// An item with its score; never NaN, and never `-0.0`, so that the order is total.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scored {
    item: u32,
    score: f32,
}

impl Scored {
    /// `None` if the score is NaN. Infinite scores keep their place in the order.
    pub fn new(item: u32, score: f32) -> Option<Self> {
        // Adding zero turns −0.0 into 0.0: the two are equal as scores and must be ordered by index.
        (!score.is_nan()).then_some(Self { item, score: score + 0.0 })
    }

    /// The dense item index.
    pub fn item(&self) -> u32 {
        self.item
    }

    /// The score.
    pub fn score(&self) -> f32 {
        self.score
    }
}

impl Eq for Scored {}

impl Ord for Scored {
    /// Less is better: score descending, then item ascending, so that sorting gives a list.
    fn cmp(&self, other: &Self) -> Ordering {
        other.score.total_cmp(&self.score).then(self.item.cmp(&other.item))
    }
}

impl PartialOrd for Scored {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The `k` best of the scores offered so far.
#[derive(Debug, Clone)]
pub struct TopK {
    k: usize,
    /// The worst on top.
    heap: BinaryHeap<Scored>,
}

impl TopK {
    /// Keeps up to `k`; memory is proportional to `k` at once.
    pub fn new(k: usize) -> Self {
        Self { k, heap: BinaryHeap::with_capacity(k) }
    }

    /// Keeps the item if it is among the best; a NaN score is ignored.
    pub fn offer(&mut self, item: u32, score: f32) {
        let Some(candidate) = Scored::new(item, score) else { return };
        if self.heap.len() < self.k {
            self.heap.push(candidate);
        } else if let Some(mut worst) = self.heap.peek_mut()
            && candidate < *worst
        {
            *worst = candidate;
        }
    }

    /// A score below which, for items offered in ascending order, nothing can enter any more.
    pub(crate) fn threshold(&self) -> f32 {
        if self.k == 0 {
            return f32::NAN; // nothing compares ≥ NaN
        }
        match self.heap.peek() {
            // A later item with an equal score loses by index, so the next greater score is the first that counts.
            Some(worst) if self.heap.len() == self.k => worst.score.next_up(),
            _ => f32::NEG_INFINITY,
        }
    }

    /// The list, best first.
    pub fn into_sorted(self) -> Vec<Scored> {
        self.heap.into_sorted_vec()
    }

    /// Moves the list, best first, out into `out` and leaves this empty for reuse.
    pub fn drain_into(&mut self, out: &mut Vec<Scored>) {
        out.clear();
        out.extend(self.heap.drain());
        out.sort_unstable();
    }
}
