//! Waiting between attempts: doubling, with jitter; time is an argument and chance comes from a seed.
//!
//! The same shape as `Patience` of the `aws` crate, which lies above this one and cannot be used here.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::api::ApiError;

/// The first wait; each further one doubles.
const FIRST_MS: u64 = 50;
/// The longest wait.
const LONGEST_MS: u64 = 3_200;

/// Lets time pass.
pub trait Pause: Send + Sync + Debug {
    /// Comes back after `ms` milliseconds.
    fn pause(&self, ms: u64);
}

/// How often a call is tried, and how long it waits between.
#[derive(Debug)]
pub(super) struct Retry {
    attempts_max: u32,
    pause: Arc<dyn Pause>,
    state: AtomicU64,
}

impl Retry {
    pub(super) fn new(attempts_max: u32, pause: Arc<dyn Pause>, seed: u64) -> Self {
        Self { attempts_max, pause, state: AtomicU64::new(seed) }
    }

    /// Runs `call` until it succeeds, fails for good, or was tried often enough.
    pub(super) fn run<R>(&self, call: impl Fn() -> Result<R, ApiError>) -> Result<R, ApiError> {
        let mut attempt = 1;
        loop {
            match call() {
                Err(error) if error.is_passing() && attempt < self.attempts_max => {
                    self.pause.pause(self.wait_ms(attempt));
                    attempt += 1;
                }
                other => return other,
            }
        }
    }

    /// Between half of the step and the whole, so that callers that failed together do not come back together.
    fn wait_ms(&self, attempt: u32) -> u64 {
        let doubled = FIRST_MS.saturating_mul(1_u64.checked_shl(attempt - 1).unwrap_or(u64::MAX));
        let step = doubled.min(LONGEST_MS);
        step - chance(&self.state) % (step / 2 + 1)
    }
}

/// The next number of a sequence that its first state decides (SplitMix64); any thread may draw.
pub(super) fn chance(state: &AtomicU64) -> u64 {
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut mixed = state.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::vectors::s3::ApiErrorKind;
    use std::sync::Mutex;

    #[derive(Debug, Default)]
    struct Noted(Mutex<Vec<u64>>);

    impl Pause for Noted {
        fn pause(&self, ms: u64) {
            self.0.lock().unwrap().push(ms);
        }
    }

    #[test]
    fn passing_trouble_is_waited_out_and_the_rest_is_not() {
        for (kind, attempts) in [
            (ApiErrorKind::Throttled, 8),
            (ApiErrorKind::Unavailable, 8),
            (ApiErrorKind::Quota, 1),
            (ApiErrorKind::Denied, 1),
            (ApiErrorKind::Invalid, 1),
        ] {
            let noted = Arc::new(Noted::default());
            let tried = Mutex::new(0);
            let failed = Retry::new(8, noted.clone(), 7).run(|| {
                *tried.lock().unwrap() += 1;
                Err::<(), _>(ApiError::new(kind, "no"))
            });
            assert_eq!(failed.unwrap_err().kind, kind);
            assert_eq!(tried.into_inner().unwrap(), attempts);
            for (wait, step) in noted.0.lock().unwrap().iter().zip([50, 100, 200, 400, 800, 1600, 3200]) {
                assert!((step / 2..=step).contains(wait), "{wait} for {step}");
            }
        }
    }

    #[test]
    fn no_wait_overflows() {
        let retry = Retry::new(u32::MAX, Arc::new(Noted::default()), 1);
        for attempt in [1, 63, 64, 65, 66, u32::MAX] {
            assert!(retry.wait_ms(attempt) <= LONGEST_MS);
        }
    }
}
