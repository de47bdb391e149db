//! The port of the outbox: where notices wait. They get in by [`StateStore::commit`](crate::ports::StateStore), with the
//! histories.

use std::fmt::Debug;

use anabranch_events::HistoryKey;
use anabranch_stores::ErrorKind;
use anabranch_stores::state::outbox::Place;

use super::notice::Notice;
use crate::embedded::{EmbeddedState, port_error};
use crate::ports::PortError;

/// Keeps notices until they are finished. Every call is safe to repeat.
pub trait Outbox: Send + Sync + Debug {
    /// Up to `count_max` notices that are due at `now_ms`, by due time and id, after `after`.
    fn due(&self, now_ms: i64, after: Option<Place>, count_max: usize) -> Result<Vec<Notice>, PortError>;

    /// When the first notice after `now_ms` is due, where that is known cheaply.
    fn next_due(&self, now_ms: i64) -> Result<Option<i64>, PortError>;

    /// Keeps the attempts and the next attempt's time of a notice that waits. A finished one stays finished.
    fn postpone(&self, notice: &Notice) -> Result<(), PortError>;

    /// Takes a notice out for good: its id is not taken again before `kept_until_ms`. `sent` is who got it and the time
    /// at which it was due, which is joined into their newest by the greater.
    fn finish(&self, notice: &Notice, kept_until_ms: i64, sent: Option<(&HistoryKey, i64)>) -> Result<(), PortError>;

    /// When the newest notice that went out to `receiver` was due.
    fn newest_sent(&self, receiver: &HistoryKey) -> Result<Option<i64>, PortError>;

    /// Forgets finished ids whose time is over, where nothing else does.
    fn trim(&self, now_ms: i64) -> Result<(), PortError>;
}

/// The error of a stored notice that does not read.
pub fn corrupt(id: u128) -> PortError {
    let what = format!("notice {id:032x} in the outbox does not read; restore the state from a backup");
    PortError { kind: ErrorKind::Corrupt, what, source: None }
}

impl Outbox for EmbeddedState {
    fn due(&self, now_ms: i64, after: Option<Place>, count_max: usize) -> Result<Vec<Notice>, PortError> {
        let entries = self.state().outbox_due(now_ms, after, count_max).map_err(|error| port_error(&error))?;
        entries.iter().map(|entry| Notice::from_entry(entry).ok_or_else(|| corrupt(entry.id))).collect()
    }

    fn next_due(&self, now_ms: i64) -> Result<Option<i64>, PortError> {
        self.state().outbox_next_due(now_ms).map_err(|error| port_error(&error))
    }

    fn postpone(&self, notice: &Notice) -> Result<(), PortError> {
        self.state().outbox_rewrite(&notice.to_entry()).map_err(|error| port_error(&error))
    }

    fn finish(&self, notice: &Notice, kept_until_ms: i64, sent: Option<(&HistoryKey, i64)>) -> Result<(), PortError> {
        self.state().outbox_finish(notice.place(), kept_until_ms, sent).map_err(|error| port_error(&error))
    }

    fn newest_sent(&self, receiver: &HistoryKey) -> Result<Option<i64>, PortError> {
        self.state().outbox_newest_sent(receiver).map_err(|error| port_error(&error))
    }

    fn trim(&self, now_ms: i64) -> Result<(), PortError> {
        self.state().outbox_trim(now_ms).map(drop).map_err(|error| port_error(&error))
    }
}
