//! The pool that everything is computed on, with the GIL released.
//!
//! A pool belongs to the process that made it: Spark's Python workers are forks, in which the parent's threads are gone, so a
//! fork makes its own.

use std::sync::{Arc, Mutex, PoisonError};

use pyo3::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::errors::InternalError;

struct Held {
    process: u32,
    pool: Arc<ThreadPool>,
}

/// Threads asked for (0: rayon's own choice), and the pool, once it is needed.
static STATE: Mutex<(usize, Option<Held>)> = Mutex::new((0, None));

fn pool() -> PyResult<Arc<ThreadPool>> {
    let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    let process = std::process::id();
    match state.1.take() {
        Some(held) if held.process == process => {
            let pool = Arc::clone(&held.pool);
            state.1 = Some(held);
            return Ok(pool);
        }
        // Its threads are the parent's: nobody would answer a call to end them.
        Some(held) => std::mem::forget(held),
        None => {}
    }
    let pool = ThreadPoolBuilder::new()
        .num_threads(state.0)
        .thread_name(|index| format!("anabranch-{index}"))
        .build()
        .map_err(|error| InternalError::new_err(format!("no threads could be started: {error}")))?;
    let pool = Arc::new(pool);
    state.1 = Some(Held { process, pool: Arc::clone(&pool) });
    Ok(pool)
}

/// Runs `work` on the pool, the GIL released.
pub(crate) fn compute<T: Send>(py: Python<'_>, work: impl FnOnce() -> T + Send) -> PyResult<T> {
    let pool = pool()?;
    Ok(py.detach(|| pool.install(work)))
}

/// Threads that every later call computes on; 0 takes one for each core, or `RAYON_NUM_THREADS`.
#[pyfunction]
pub(crate) fn set_num_threads(threads: usize) {
    let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    if state.0 != threads {
        state.0 = threads;
        if let Some(held) = state.1.take() {
            // Dropping ends the threads, if they are this process's.
            if held.process != std::process::id() {
                std::mem::forget(held);
            }
        }
    }
}

/// Threads that calls compute on.
#[pyfunction]
pub(crate) fn num_threads() -> PyResult<usize> {
    Ok(pool()?.current_num_threads())
}
