//! What became of notices, since the start of the process: `queued = sent + dropped + dead + waiting`, what waited at the
//! start aside.

use std::collections::BTreeMap;

use super::rule::DropReason;

/// Counts of notices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NotifyCounts {
    /// Committed to the outbox. A cut that is committed again after a crash counts again, and its notices do not.
    pub queued: u64,
    /// Sent, and taken out of the outbox.
    pub sent: u64,
    /// Attempts that failed and are made again.
    pub retried: u64,
    /// Given up; they lie in the dead letters.
    pub dead: u64,
    /// Decided against.
    pub dropped: BTreeMap<DropReason, u64>,
}
