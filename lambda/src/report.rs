//! What an invocation counted, as metrics: the names, units and meanings of `docs/operations.md`.
//!
//! The counts conserve, in every line and over all of them ([`Report::conserves`]):
//!
//! ```text
//! EventsIn      = EventsApplied + EventsDuplicate + EventsLate + EventsDeadLettered
//! EventsApplied = ListsDelivered + EventsSuperseded + ListsUndeliverable
//! ```
//!
//! Each side is counted at another place: events where records are decoded, applied ones where the join decides, lists
//! where they come out. What comes again (`RecordsRetried`) is not among the events in: it is counted when it does come.
//! Latencies and `ListsMade` are of every list made, delivered or not.

use anabranch_aws::emf::{self, EmfError, Metric, Unit};
use anabranch_models::Model;
use anabranch_stream::measures::age_ms;
use anabranch_stream::notify::NotifyCounts;

use crate::run::Applied;

/// Values of a latency in one line: CloudWatch takes 100.
const VALUES_MAX: usize = emf::VALUES_MAX;

/// What one invocation did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Records handed to the function.
    pub batch_size: u64,
    /// Events of those records that this invocation is done with, refused ones too.
    pub events_in: u64,
    /// Events that earned a list, or were followed by another of their user that did.
    pub applied: u64,
    /// Events that their history held already.
    pub duplicate: u64,
    /// Events older than their history can hold.
    pub late: u64,
    /// Events refused.
    pub dead_lettered: u64,
    /// Lists delivered.
    pub delivered: u64,
    /// In per-user mode: events followed by another of the same user, which got the list.
    pub superseded: u64,
    /// Lists that are too long for the sink and never will be delivered.
    pub undeliverable: u64,
    /// Records that come again: their delivery failed, or their answer would have been too large.
    pub retried: u64,
    /// Records of objects that were rolled forward over without them.
    pub missing: u64,
    /// Lists made.
    pub lists: u64,
    /// Lists as long as was asked for.
    pub full_lists: u64,
    /// Lists that were made shorter so that the answer fits.
    pub shortened: u64,
    /// From event to now, milliseconds.
    pub from_event_ms: Vec<u64>,
    /// From arrival to now, milliseconds.
    pub from_arrival_ms: Vec<u64>,
    /// Age of the last record, milliseconds: how far the function is behind.
    pub iterator_age_ms: Option<i64>,
    /// Notices put into the outbox. What comes again counts again, and is there once.
    pub notices_queued: u64,
}

impl Report {
    /// Adds what `applied` did; everything of it is done.
    pub fn add(&mut self, applied: &Applied) {
        let (counts, tally) = (&applied.counts, &applied.tally);
        self.events_in += tally.events_in;
        self.applied += tally.applied;
        self.duplicate += counts.duplicate;
        self.late += counts.late;
        self.dead_lettered += counts.rejected;
        self.delivered += counts.delivered;
        self.superseded += counts.superseded;
        self.notices_queued += applied.notices.len() as u64;
    }

    /// Notes the lists that `applied` made, at `now_ms`.
    pub fn note_lists(&mut self, applied: &Applied, now_ms: i64) {
        self.lists += applied.tally.lists_made;
        self.full_lists += applied.tally.lists_full;
        self.from_event_ms.extend(applied.times.iter().map(|times| age_ms(times.event_ms, now_ms)));
        self.from_arrival_ms.extend(applied.times.iter().map(|times| age_ms(times.arrival_ms, now_ms)));
    }

    /// Whether every event, and every list that it earned, is accounted for.
    pub const fn conserves(&self) -> bool {
        self.events_in == self.applied + self.duplicate + self.late + self.dead_lettered
            && self.applied == self.delivered + self.superseded + self.undeliverable
    }

    /// The metrics as lines of the embedded metric format, measured at `now_ms`.
    pub fn lines(&self, namespace: &str, stream: &str, model: &Model, now_ms: i64) -> Result<Vec<String>, EmfError> {
        let count = |name, value: u64| (name, Unit::Count, vec![value as f64]);
        let snapshot_age_s = now_ms.saturating_sub(model.snapshot().meta().as_of_ms) as f64 / 1000.0;
        let mut metrics = vec![
            count("BatchSize", self.batch_size),
            count("EventsIn", self.events_in),
            count("EventsApplied", self.applied),
            count("EventsDuplicate", self.duplicate),
            count("EventsLate", self.late),
            count("EventsDeadLettered", self.dead_lettered),
            count("EventsSuperseded", self.superseded),
            count("ListsMade", self.lists),
            count("ListsFull", self.full_lists),
            count("ListsDelivered", self.delivered),
            count("ListsUndeliverable", self.undeliverable),
            count("ListsShortened", self.shortened),
            count("RecordsRetried", self.retried),
            count("RecordsMissing", self.missing),
            count("NotificationsQueued", self.notices_queued),
            ("LatencyFromEvent", Unit::Milliseconds, quantiles(&self.from_event_ms)),
            ("LatencyFromArrival", Unit::Milliseconds, quantiles(&self.from_arrival_ms)),
            ("SnapshotAge", Unit::Seconds, vec![snapshot_age_s]),
        ];
        if let Some(age_ms) = self.iterator_age_ms {
            metrics.push(("IteratorAge", Unit::Milliseconds, vec![age_ms as f64]));
        }
        written(&metrics, namespace, stream, model, now_ms)
    }
}

/// What an invocation tells of itself.
pub trait Metrics: Send {
    /// The metrics as lines of the embedded metric format, measured at `now_ms`.
    fn lines(&self, namespace: &str, stream: &str, model: &Model, now_ms: i64) -> Result<Vec<String>, EmfError>;
}

impl Metrics for Report {
    fn lines(&self, namespace: &str, stream: &str, model: &Model, now_ms: i64) -> Result<Vec<String>, EmfError> {
        Self::lines(self, namespace, stream, model, now_ms)
    }
}

/// What an invocation of `notify` did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NotifyReport {
    /// What became of notices. Nothing where another process sends.
    pub counts: Option<NotifyCounts>,
    /// For how long the oldest due notice that was left waits, milliseconds.
    pub waiting_ms: u64,
}

impl Metrics for NotifyReport {
    fn lines(&self, namespace: &str, stream: &str, model: &Model, now_ms: i64) -> Result<Vec<String>, EmfError> {
        let Some(counts) = &self.counts else { return Ok(Vec::new()) };
        let count = |name, value: u64| (name, Unit::Count, vec![value as f64]);
        let metrics = [
            count("NotificationsSent", counts.sent),
            count("NotificationsRetried", counts.retried),
            count("NotificationsDead", counts.dead),
            count("NotificationsDropped", counts.dropped.values().sum()),
            ("NotificationsWaitingAge", Unit::Milliseconds, vec![self.waiting_ms as f64]),
        ];
        written(&metrics, namespace, stream, model, now_ms)
    }
}

fn written(
    metrics: &[(&str, Unit, Vec<f64>)],
    namespace: &str,
    stream: &str,
    model: &Model,
    now_ms: i64,
) -> Result<Vec<String>, EmfError> {
    let metrics: Vec<Metric<'_>> =
        metrics.iter().map(|(name, unit, values)| Metric { name, unit: *unit, values }).collect();
    let properties = [("snapshotVersion", model.version())];
    emf::lines_with(namespace, &[("Stream", stream)], &properties, &metrics, now_ms)
}

/// At most 100 of the values, evenly spread over their order, the least and the greatest among them: CloudWatch's
/// percentiles of them are those of all, to a hundredth.
fn quantiles(values: &[u64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    if sorted.len() <= VALUES_MAX {
        return sorted.into_iter().map(|value| value as f64).collect();
    }
    let last = sorted.len() - 1;
    (0..VALUES_MAX).map(|step| sorted[step * last / (VALUES_MAX - 1)] as f64).collect()
}

#[cfg(test)]
mod tests;
