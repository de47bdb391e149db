//! Where a shard stands, as its worker tells and others ask.

use serde::Serialize;

use crate::measures::{Counted, Tally};
use crate::object::Counts;
use crate::ports::Position;

/// What a shard waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    Reader,
    State,
    Sink,
}

impl Cause {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::State => "state",
            Self::Sink => "sink",
        }
    }
}

/// Where a shard stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ShardStatus {
    /// Everything up to here is delivered and committed.
    pub committed: Position,
    /// Everything up to here is processed and served from memory.
    pub processed: Position,
    /// Newest record that is known of; the embedded log knows its own, Kinesis does not tell.
    pub newest: Position,
    /// How far the reader is behind the newest record, in milliseconds, where the source says so.
    pub behind_ms: Option<u64>,
    /// Everything that arrived before this time is applied, milliseconds since 1970.
    pub settled_ms: i64,
    /// Counts of committed cuts since the start of the worker.
    pub counts: Counts,
    /// What was counted beside them.
    #[serde(skip)]
    pub tally: Tally,
    /// Objects written since the start of the worker.
    pub objects: u64,
    /// Why the shard waits, if it does.
    pub stalled: Option<String>,
    #[serde(skip)]
    pub(super) cause: Option<Cause>,
    /// When the reader was asked for what it answered last, milliseconds since 1970; 0 before its first answer.
    #[serde(skip)]
    pub(crate) asked_ms: i64,
}

impl ShardStatus {
    /// How old the oldest record may be that is not read yet, in milliseconds; `None` before anything was read. Where the
    /// source tells how far behind its answer was, that and the time since: a shard that waits for its sink reads
    /// nothing, and falls behind. Otherwise, everything that arrived before `settled_ms` is read.
    pub fn iterator_age_ms(&self, now_ms: i64) -> Option<u64> {
        let since = |ms: i64| u64::try_from(now_ms.saturating_sub(ms)).unwrap_or(0);
        match self.behind_ms {
            Some(behind_ms) => Some(behind_ms.saturating_add(since(self.asked_ms))),
            None if self.settled_ms == 0 => None,
            None if self.newest <= self.processed => Some(0),
            None => Some(since(self.settled_ms)),
        }
    }

    pub(crate) fn add(&mut self, cut: &Counted) {
        let mut counted = self.counted();
        counted.add(cut);
        (self.counts, self.tally) = (counted.counts, counted.tally);
    }

    pub(super) const fn counted(&self) -> Counted {
        Counted { counts: self.counts, tally: self.tally }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: i64 = 1_700_000_000_000;

    fn at(number: u64) -> Position {
        Position::whole(number.into())
    }

    #[test]
    fn a_shard_of_kinesis_falls_behind_while_it_reads_nothing() {
        let status = ShardStatus { behind_ms: Some(300), asked_ms: NOW_MS, ..ShardStatus::default() };
        assert_eq!(status.iterator_age_ms(NOW_MS), Some(300));
        assert_eq!(status.iterator_age_ms(NOW_MS + 60_000), Some(60_300), "its sink fails, and the stream goes on");
        assert_eq!(status.iterator_age_ms(NOW_MS - 5), Some(300), "a clock that steps back");
    }

    #[test]
    fn the_log_knows_how_old_the_oldest_unread_record_may_be() {
        let mut status = ShardStatus { newest: at(9), ..ShardStatus::default() };
        assert_eq!(status.iterator_age_ms(NOW_MS), None, "nothing is read yet");
        (status.processed, status.settled_ms) = (at(7), NOW_MS - 2_000);
        assert_eq!(status.iterator_age_ms(NOW_MS), Some(2_000));
        status.processed = at(9);
        assert_eq!(status.iterator_age_ms(NOW_MS), Some(0));
        status.settled_ms = i64::MAX;
        assert_eq!(status.iterator_age_ms(NOW_MS), Some(0), "a shard that ended");
    }
}
