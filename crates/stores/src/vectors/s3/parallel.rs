//! A few blocking calls at a time.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Runs `work` on every job, at most `in_flight` at a time, and returns the results in the order of the jobs. After a
/// failure no further job begins; of several failures that of the earliest job is returned.
pub(super) fn in_parallel<J: Sync, R: Send, E: Send>(
    jobs: &[J],
    in_flight: usize,
    work: impl Fn(&J) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    let threads = in_flight.min(jobs.len());
    if threads <= 1 {
        return jobs.iter().map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<Option<Result<R, E>>>> = Mutex::new(jobs.iter().map(|_| None).collect());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((index, job)) =
                    Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|index| jobs.get(index).map(|job| (index, job)))
                {
                    let result = work(job);
                    if result.is_err() {
                        next.store(jobs.len(), Ordering::Relaxed);
                    }
                    // A slot is written whole, so a poisoned lock holds valid data.
                    results.lock().unwrap_or_else(PoisonError::into_inner)[index] = Some(result);
                }
            });
        }
    });
    // Jobs without a result come after a failed one only, which ends the collecting.
    results.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_the_order_of_the_jobs() {
        let jobs: Vec<u32> = (0..100).collect();
        for in_flight in [0, 1, 3, 200] {
            let doubled = in_parallel(&jobs, in_flight, |job| Ok::<u32, ()>(job * 2));
            assert_eq!(doubled, Ok(jobs.iter().map(|job| job * 2).collect()));
        }
        assert_eq!(in_parallel(&[] as &[u32], 4, |_| Err::<u32, ()>(())), Ok(vec![]));
    }

    #[test]
    fn a_failure_ends_it() {
        let begun = AtomicUsize::new(0);
        let jobs: Vec<usize> = (0..1000).collect();
        let failed = in_parallel(&jobs, 4, |job| {
            begun.fetch_add(1, Ordering::Relaxed);
            if *job >= 10 { Err(*job) } else { Ok(()) }
        });
        assert!(failed.is_err_and(|job| (10..14).contains(&job)));
        assert!(begun.into_inner() < 1000);
    }
}
