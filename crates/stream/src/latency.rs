//! How long lists take: a histogram of fixed size, whatever it counts.

/// Times from receipt to list, in microseconds: power-of-two buckets split in eight, so a quantile errs by less than
/// a tenth.
#[derive(Clone, Debug)]
pub struct Latency {
    buckets: Vec<u64>,
    count: u64,
    sum_us: u64,
}

const SUBBUCKETS: usize = 8;

impl Default for Latency {
    fn default() -> Self {
        Self { buckets: vec![0; 64 * SUBBUCKETS], count: 0, sum_us: 0 }
    }
}

impl Latency {
    /// Adds one time.
    pub fn record(&mut self, us: u64) {
        let us = us.max(SUBBUCKETS as u64);
        let exponent = us.ilog2() as usize;
        let sub = ((us >> (exponent - 3)) as usize) & (SUBBUCKETS - 1);
        self.buckets[exponent * SUBBUCKETS + sub] += 1;
        self.count += 1;
        self.sum_us += us;
    }

    /// Number of times recorded.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Sum of all times, in microseconds.
    pub const fn sum_us(&self) -> u64 {
        self.sum_us
    }

    /// The upper end of the bucket that holds quantile `q`, in microseconds; 0 if nothing was recorded.
    pub fn quantile_us(&self, q: f64) -> u64 {
        let wanted = (q * self.count as f64).ceil() as u64;
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted && *count > 0 {
                let (exponent, sub) = (index / SUBBUCKETS, index % SUBBUCKETS);
                return ((SUBBUCKETS + sub + 1) as u64) << (exponent - 3);
            }
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_a_tenth() {
        let mut latency = Latency::default();
        (1..=10_000_u64).for_each(|us| latency.record(us));
        for (q, exact) in [(0.5, 5000.0), (0.99, 9900.0), (1.0, 10_000.0)] {
            let found = latency.quantile_us(q) as f64;
            assert!(found >= exact * 0.99 && found <= exact * 1.13, "{q}: {found}");
        }
        assert_eq!(Latency::default().quantile_us(0.5), 0);
    }
}
