//! A counter-based generator: value n of a stream is a hash of (seed, stream, n), so streams are independent and any
//! part of the shop can be made alone. The mixer is SplitMix64's finaliser (Steele, Lea, Flood, OOPSLA 2014).

/// One stream of numbers.
#[derive(Clone, Debug)]
pub(super) struct Rng {
    key: u64,
    count: u64,
}

const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Rng {
    pub(super) const fn new(seed: u64, stream: u64) -> Self {
        Self { key: mix(seed ^ mix(stream.wrapping_add(0x9e37_79b9_7f4a_7c15))), count: 0 }
    }

    pub(super) const fn next(&mut self) -> u64 {
        self.count = self.count.wrapping_add(1);
        mix(self.key.wrapping_add(self.count.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    /// Uniform in 0..`end` (multiply and shift; the bias is below 2⁻³² for the sizes used here).
    pub(super) fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }

    /// Uniform in [0, 1): 53 bits.
    pub(super) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / 9_007_199_254_740_992.0
    }

    /// True with probability `per_mille` / 1000.
    pub(super) fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    /// An index drawn by cumulative weights.
    pub(super) fn weighted(&mut self, cumulative: &[f64]) -> usize {
        let point = self.unit() * cumulative.last().copied().unwrap_or(0.0);
        cumulative.partition_point(|&sum| sum <= point).min(cumulative.len().saturating_sub(1))
    }
}

/// Cumulative weights 1 / (rank + 3): Zipf's law with its head bent down, as sales are.
pub(super) fn zipf(count: usize) -> Vec<f64> {
    let mut sum = 0.0;
    (0..count)
        .map(|rank| {
            sum += 1.0 / (rank as f64 + 3.0);
            sum
        })
        .collect()
}
