//! One small vocabulary for "what should the caller do about it", shared by every store's error.

/// What a failed storage call asks of its caller. Every error type of this crate maps to one of
/// these in one place (`kind()`), so that callers never match on messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Passing trouble (network, contention, I/O): the same call may succeed later.
    Retry,
    /// The thing asked for is not there.
    NotFound,
    /// The caller's argument, setting or permission is wrong; the message says how to mend it.
    FixInput,
    /// No space left (disk, quota, map size): make room, then the same call succeeds.
    Full,
    /// Another process owns what this call needs; this process must stop writing.
    Fenced,
    /// Stored bytes are not what was written; restore or rebuild them.
    Corrupt,
    /// An invariant of this crate is broken; report it.
    Bug,
}
