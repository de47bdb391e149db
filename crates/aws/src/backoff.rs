//! How long to wait before asking again: exponential, capped, with full jitter, from a seed of the caller's.
//!
//! Waiting itself is an argument too ([`Pause`]): the SDK's adapters sleep, a simulation moves its clock.

use std::fmt::Debug;

/// Waits; the only way in which this crate lets time pass.
pub trait Pause: Send + Sync + Debug {
    /// Returns after about `ms` milliseconds.
    fn pause_ms(&self, ms: u64);
}

/// The bounds of the waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackoffSettings {
    /// The bound of the first wait, milliseconds; it doubles with each failure.
    pub base_ms: u64,
    /// The bound that no wait exceeds, milliseconds.
    pub cap_ms: u64,
}

impl Default for BackoffSettings {
    /// Kinesis's limits are per second, so waits beyond a few seconds only add lag.
    fn default() -> Self {
        Self { base_ms: 100, cap_ms: 5_000 }
    }
}

/// The waits after failures that follow each other.
#[derive(Clone, Debug)]
pub struct Backoff {
    settings: BackoffSettings,
    random: u64,
    failures: u32,
}

impl Backoff {
    /// Waits drawn from `seed`; give each shard and worker a seed of its own, or all retry at once.
    pub const fn new(settings: BackoffSettings, seed: u64) -> Self {
        Self { settings, random: seed, failures: 0 }
    }

    /// Counts a failure; the milliseconds to wait: uniform between 1 and the bound (full jitter).
    pub fn failed(&mut self) -> u64 {
        let bound_ms = self
            .settings
            .base_ms
            .saturating_mul(1_u64.checked_shl(self.failures).unwrap_or(u64::MAX))
            .clamp(1, self.settings.cap_ms.max(1));
        self.failures = self.failures.saturating_add(1);
        1 + next_random(&mut self.random) % bound_ms
    }

    /// The next failure is the first again.
    pub const fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// Failures since the last success.
    pub const fn failures(&self) -> u32 {
        self.failures
    }
}

/// SplitMix64: one step of a Weyl sequence and its finaliser (Steele, Lea, Flood, OOPSLA 2014).
pub(crate) const fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_cap_and_start_again_after_a_success() {
        let settings = BackoffSettings { base_ms: 100, cap_ms: 1_000 };
        for seed in 0..200 {
            let mut backoff = Backoff::new(settings, seed);
            for bound_ms in [100, 200, 400, 800, 1_000, 1_000] {
                let wait_ms = backoff.failed();
                assert!((1..=bound_ms).contains(&wait_ms), "seed {seed}: {wait_ms} of {bound_ms}");
            }
            backoff.succeeded();
            assert!(backoff.failed() <= 100);
        }
    }

    #[test]
    fn a_thousand_failures_do_not_overflow() {
        let mut backoff = Backoff::new(BackoffSettings { base_ms: u64::MAX, cap_ms: 7 }, 1);
        assert!((0..1_000).all(|_| (1..=7).contains(&backoff.failed())));
        assert_eq!(backoff.failures(), 1_000);
        let mut none = Backoff::new(BackoffSettings { base_ms: 0, cap_ms: 0 }, 1);
        assert_eq!(none.failed(), 1);
    }

    #[test]
    fn equal_seeds_wait_equally_and_others_spread() {
        let waits = |seed| {
            let mut backoff = Backoff::new(BackoffSettings::default(), seed);
            (0..8).map(|_| backoff.failed()).collect::<Vec<_>>()
        };
        assert_eq!(waits(7), waits(7));
        let mut first: Vec<u64> = (0..100).map(|seed| waits(seed)[0]).collect();
        first.sort_unstable();
        first.dedup();
        assert!(first.len() > 40, "{} different first waits of a hundred", first.len());
    }
}
