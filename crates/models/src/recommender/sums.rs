//! Sums over a few thousand of many items, given out in the items' order.
//!
//! A bit for each item says whether it was touched: the bits of 40 thousand items are 5 KiB and stay in L1, and reading
//! them in order sorts the items for nothing. Every value rests at its start, so adding needs no branch.

/// Sums for one user at a time.
#[derive(Debug, Clone)]
pub(super) struct Sums {
    /// The item's start where its bit is clear.
    values: Vec<f32>,
    touched: Vec<u64>,
}

impl Sums {
    /// `starts` has a value for each item.
    pub(super) fn new(starts: &[f32]) -> Self {
        Self { values: starts.to_vec(), touched: vec![0; starts.len().div_ceil(64)] }
    }

    /// Adds to the item's sum.
    #[inline]
    pub(super) fn add(&mut self, item: u32, value: f32) {
        self.values[item as usize] += value;
        self.touched[item as usize / 64] |= 1 << (item % 64);
    }

    /// Moves the touched items with their sums to the end of `out`, items ascending. `starts` is what [`Self::new`] had.
    pub(super) fn drain_into(&mut self, starts: &[f32], out: &mut Vec<(u32, f32)>) {
        for (place, word) in self.touched.iter_mut().enumerate() {
            let mut bits = std::mem::take(word);
            while bits != 0 {
                let item = place * 64 + bits.trailing_zeros() as usize;
                out.push((item as u32, std::mem::replace(&mut self.values[item], starts[item])));
                bits &= bits - 1;
            }
        }
    }
}
