//! Waiting between attempts: doubling, with jitter, by a clock that is an argument.
//!
//! Guaranteed: a wait lies between half of its step and the whole, so callers that failed together do not come back
//! together, and none comes back at once; the number of attempts is bounded. Chance comes from a seed, so a simulation
//! repeats itself. Not here: which errors are worth another attempt (their own types say that).

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Lets time pass.
pub trait Pause: Send + Sync + Debug {
    /// Comes back after `ms` milliseconds.
    fn pause(&self, ms: u64);
}

/// How long, and how often, a call tries a service that is not well.
#[derive(Clone, Debug)]
pub struct Patience {
    /// The first wait, in milliseconds; each further one doubles.
    pub first_ms: u64,
    /// The longest wait, in milliseconds.
    pub longest_ms: u64,
    /// Attempts of one call, the first included; at least 1.
    pub attempts_max: u32,
    pause: Arc<dyn Pause>,
    jitter: Arc<Jitter>,
}

impl Patience {
    /// Eight attempts over about six seconds: longer than the service's own hiccups, shorter than a Lambda's time-out.
    pub fn new(pause: Arc<dyn Pause>, seed: u64) -> Self {
        Self { first_ms: 50, longest_ms: 3_200, attempts_max: 8, pause, jitter: Arc::new(Jitter::new(seed)) }
    }

    /// Runs `call` until it succeeds, fails with an error that does not pass, or was tried often enough.
    pub fn run<R, E>(&self, passes: impl Fn(&E) -> bool, call: impl Fn() -> Result<R, E>) -> Result<R, E> {
        let mut attempt = 1;
        loop {
            match call() {
                Err(error) if passes(&error) && self.wait_after(attempt) => attempt += 1,
                other => return other,
            }
        }
    }

    /// Waits before attempt `attempt` + 1, counted from 1. `false`, at once, if there is none.
    pub fn wait_after(&self, attempt: u32) -> bool {
        if attempt >= self.attempts_max {
            return false;
        }
        self.pause.pause(self.wait_ms(attempt));
        true
    }

    /// The most that all waits of one call sum to, in milliseconds. What the attempts themselves take comes on top.
    pub fn waits_ms_max(&self) -> u64 {
        (1..self.attempts_max).fold(0, |sum, attempt| sum.saturating_add(self.step_ms(attempt)))
    }

    /// The wait after attempt `attempt`, counted from 1, in milliseconds; for callers that come back by themselves.
    pub fn wait_ms(&self, attempt: u32) -> u64 {
        let step = self.step_ms(attempt);
        step - self.jitter.below(step / 2 + 1)
    }

    fn step_ms(&self, attempt: u32) -> u64 {
        let doubled = self.first_ms.saturating_mul(1_u64.checked_shl(attempt.saturating_sub(1)).unwrap_or(u64::MAX));
        doubled.min(self.longest_ms)
    }
}

/// Numbers from a seed (SplitMix64); any thread may draw.
#[derive(Debug)]
pub struct Jitter(AtomicU64);

impl Jitter {
    /// The numbers that `seed` gives.
    pub const fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// A number in `0..bound`; 0 if `bound` is 0. The bias of the remainder is far below what a wait can show.
    pub fn below(&self, bound: u64) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut mixed = self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)).checked_rem(bound).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::Mutex;

    #[derive(Debug, Default)]
    struct Noted(Mutex<Vec<u64>>);

    impl Pause for Noted {
        fn pause(&self, ms: u64) {
            self.0.lock().unwrap().push(ms);
        }
    }

    #[test]
    fn waits_double_stay_under_the_longest_and_end() {
        let noted = Arc::new(Noted::default());
        let patience = Patience::new(noted.clone(), 7);
        let attempts = (1..100).take_while(|&attempt| patience.wait_after(attempt)).count();
        let waits = noted.0.lock().unwrap().clone();
        assert_eq!((attempts, waits.len()), (7, 7));
        for (wait, step) in waits.iter().zip([50, 100, 200, 400, 800, 1600, 3200]) {
            assert!((step / 2..=step).contains(wait), "{wait} for {step}");
        }
    }

    #[test]
    fn passing_trouble_is_waited_out_and_the_rest_is_not() {
        for (error, attempts) in [("passing", 8), ("for good", 1)] {
            let tried = Mutex::new(0);
            let patience = Patience::new(Arc::new(Noted::default()), 7);
            let failed = patience.run(
                |error| *error == "passing",
                || {
                    *tried.lock().unwrap() += 1;
                    Err::<(), _>(error)
                },
            );
            assert_eq!((failed, tried.into_inner().unwrap()), (Err(error), attempts));
        }
    }

    /// docs/traps.md, 23: "at most 6.4 s".
    #[test]
    fn the_waits_of_a_call_sum_to_what_the_documents_say() {
        for seed in 0..200 {
            let noted = Arc::new(Noted::default());
            let patience = Patience::new(noted.clone(), seed);
            assert!((1..1000).any(|attempt| !patience.wait_after(attempt)), "it comes to an end");
            let waited: u64 = noted.0.lock().unwrap().iter().sum();
            assert!(waited <= patience.waits_ms_max() && patience.waits_ms_max() <= 6_400, "{waited}");
        }
        let endless =
            Patience { attempts_max: 100_000, longest_ms: u64::MAX, ..Patience::new(Arc::new(Noted::default()), 1) };
        assert_eq!(endless.waits_ms_max(), u64::MAX, "no sum overflows");
    }

    #[test]
    fn equal_seeds_give_equal_waits_and_others_do_not() {
        let draw = |seed| (0..20).map(|_| Jitter::new(seed).below(1000)).collect::<Vec<_>>();
        let run = |seed| {
            let jitter = Jitter::new(seed);
            (0..20).map(|_| jitter.below(1000)).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
        assert_ne!(run(1), draw(1), "one source does not repeat itself");
        assert_eq!(Jitter::new(1).below(0), 0);
    }

    #[test]
    fn no_wait_overflows() {
        let patience = Patience { attempts_max: u32::MAX, ..Patience::new(Arc::new(Noted::default()), 1) };
        for attempt in [1, 63, 64, 65, u32::MAX] {
            assert!(patience.wait_ms(attempt) <= 3200);
        }
    }
}
