//! The one place of the wheel that reads clock and environment.

use std::path::PathBuf;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anabranch_kernels::Kernels;
use anabranch_stores::lake::{S3Options, StoreOptions};

/// How to open stores, by the variables that AWS's own tools read.
pub(crate) fn store_options() -> StoreOptions {
    StoreOptions {
        // No temporary file is older than that, so none is swept: this process may be one of many on the same folder.
        process_started: UNIX_EPOCH,
        s3: S3Options::from_environment(&variable),
    }
}

/// A number that other processes do not have, for jitter.
pub(crate) fn seed() -> u64 {
    std::process::id().into()
}

/// A variable of the environment.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

/// Seconds since the call of this function.
pub(crate) fn stopwatch() -> impl Fn() -> f64 {
    let started = Instant::now();
    move || started.elapsed().as_secs_f64()
}

/// Where temporary files go unless the caller says otherwise.
pub(crate) fn scratch(given: Option<PathBuf>) -> PathBuf {
    given.unwrap_or_else(|| std::env::temp_dir().join("anabranch"))
}

/// The best kernels of this processor.
pub(crate) fn kernels() -> Kernels {
    Kernels::best()
}
