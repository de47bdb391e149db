//! Where a hash stands among the snapshot's ascending ones.

use anabranch_kernels::prefetch;

/// For each value of the first bits of a hash the place of the first that has them; as many values as there are hashes,
/// or up to twice as many. Hashes spread evenly, so one or two places are left to look at; where somebody chose ids whose
/// hashes do not, halving keeps a look-up short.
#[derive(Debug)]
pub(super) struct HashIndex {
    shift: u32,
    starts: Vec<u32>,
}

impl HashIndex {
    /// Reads all of them once; they are ascending and fewer than 2³².
    pub(super) fn of(hashes: &[u64]) -> Self {
        let bits = hashes.len().next_power_of_two().ilog2().max(1);
        let shift = u64::BITS - bits;
        let mut starts = Vec::with_capacity((1 << bits) + 1);
        for (place, hash) in hashes.iter().enumerate() {
            while starts.len() <= (hash >> shift) as usize {
                starts.push(place as u32);
            }
        }
        starts.resize((1 << bits) + 1, hashes.len() as u32);
        Self { shift, starts }
    }

    /// The places where a hash can stand, from and to.
    fn places(&self, hash: u64) -> (usize, usize) {
        let first_bits = (hash >> self.shift) as usize;
        (self.starts[first_bits] as usize, self.starts[first_bits + 1] as usize)
    }

    /// Asks for the memory that [`Self::position`] reads for these hashes. Each look-up waits for memory twice; asked for
    /// together, they wait together. `items` stand beside `hashes`.
    pub(super) fn prefetch(&self, hashes: &[u64], items: &[u32], wanted: impl Iterator<Item = u64> + Clone) {
        for hash in wanted.clone() {
            let first_bits = (hash >> self.shift) as usize;
            prefetch(&self.starts[first_bits..=first_bits]);
        }
        for hash in wanted {
            let (from, _) = self.places(hash);
            prefetch(hashes.get(from..=from).unwrap_or_default());
            prefetch(items.get(from..=from).unwrap_or_default());
        }
    }

    /// `hashes` are those that the index was made of.
    pub(super) fn position(&self, hashes: &[u64], hash: u64) -> Option<usize> {
        let (from, to) = self.places(hash);
        Some(from + hashes[from..to].binary_search(&hash).ok()?)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn finds_what_is_there_and_nothing_else(
            mut hashes in prop::collection::vec(prop_oneof![any::<u64>(), 0..40_u64, u64::MAX - 40..], 0..200),
            other in any::<u64>(),
        ) {
            hashes.sort_unstable();
            hashes.dedup();
            let index = HashIndex::of(&hashes);
            for (place, hash) in hashes.iter().enumerate() {
                prop_assert_eq!(index.position(&hashes, *hash), Some(place));
            }
            for absent in [other, 0, 1, 41, u64::MAX, u64::MAX - 41] {
                prop_assert_eq!(index.position(&hashes, absent), hashes.iter().position(|hash| *hash == absent));
            }
        }
    }
}
