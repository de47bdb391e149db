//! Time as an argument. The command passes a clock of the operating system, tests and replays pass their own.

use std::fmt::Debug;

/// Where the time comes from.
pub trait Clock: Send + Sync + Debug {
    /// Wall-clock time, milliseconds since 1970. May step.
    fn now_ms(&self) -> i64;
    /// A time that never steps back, in microseconds since an arbitrary start; for durations.
    fn monotonic_us(&self) -> u64;
}
