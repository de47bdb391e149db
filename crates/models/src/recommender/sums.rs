//! Sums over a few thousand of many items, given out in the items' order.
//!
//! A bit for each item says whether it was touched: the bits of 40 thousand items are 5 KiB and stay in L1, they make
//! the first addition start from the base, and reading them in order sorts the items for nothing.

/// Sums for one user at a time.
#[derive(Debug, Clone)]
pub(super) struct Sums {
    /// Valid where the item's bit is set.
    values: Vec<f32>,
    touched: Vec<u64>,
}

impl Sums {
    pub(super) fn new(items: usize) -> Self {
        Self { values: vec![0.0; items], touched: vec![0; items.div_ceil(64)] }
    }

    /// Adds to the item's sum, which starts from its value in `base`.
    #[inline]
    pub(super) fn add(&mut self, base: &[f32], item: u32, value: f32) {
        let item = item as usize;
        let (word, bit) = (&mut self.touched[item / 64], 1 << (item % 64));
        let sum = if *word & bit == 0 { base[item] } else { self.values[item] };
        *word |= bit;
        self.values[item] = sum + value;
    }

    /// Moves the touched items with their sums to the end of `out`, items ascending.
    pub(super) fn drain_into(&mut self, out: &mut Vec<(u32, f32)>) {
        for (place, word) in self.touched.iter_mut().enumerate() {
            let mut bits = std::mem::take(word);
            while bits != 0 {
                let item = place * 64 + bits.trailing_zeros() as usize;
                out.push((item as u32, self.values[item]));
                bits &= bits - 1;
            }
        }
    }
}
