//! What a stream measures of itself, for `/metrics` and for the lines of the Lambda functions.
//!
//! [`Counts`] are what an object says of its range. A [`Tally`] is counted beside them at other places of the code: where
//! records are decoded and where the join decides, not where lists come out. So the two equations of
//! `docs/operations.md` compare counts that were made apart, and an event that gets lost in between is seen.
//!
//! A [`Histogram`] has fixed bounds and a fixed size, whatever it counts.

use crate::object::Counts;

/// The longest time between two events that counts as latency: an event's time is its producer's clock, and one that is
/// years off would hide all others in a sum. Times beyond count as this much.
pub const AGE_MS_MAX: u64 = 24 * 3_600_000;

/// Bounds of times, in microseconds: half a millisecond (a list read from memory) to [`AGE_MS_MAX`].
const TIME_BOUNDS_US: [u64; 20] = [
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
    1_800_000_000,
    14_400_000_000,
    AGE_MS_MAX * 1000,
];
/// Bounds of batch sizes, in records.
const BATCH_BOUNDS: [u64; 12] = [1, 5, 10, 50, 100, 500, 1_000, 2_500, 5_000, 10_000, 50_000, 100_000];

/// From `since_ms` to `now_ms`, in milliseconds, within 0 and [`AGE_MS_MAX`].
pub fn age_ms(since_ms: i64, now_ms: i64) -> u64 {
    u64::try_from(now_ms.saturating_sub(since_ms)).unwrap_or(0).min(AGE_MS_MAX)
}

/// What is counted on the way of an event through the code, apart from [`Counts`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Events that records held, refused ones too. Counted where records are decoded.
    pub events_in: u64,
    /// Events that earned a list, or were followed by another of their user that did. Counted where the join decides.
    pub applied: u64,
    /// Lists made, whether or not they were delivered.
    pub lists_made: u64,
    /// Those of them that are as long as was asked for: `lists_full / lists_made` is the coverage.
    pub lists_full: u64,
}

/// When a list's event happened and arrived, milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListTimes {
    /// By its producer's clock.
    pub event_ms: i64,
    /// By the stream's.
    pub arrival_ms: i64,
}

/// Everything counted, as of one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// What objects say.
    pub counts: Counts,
    /// What was counted beside them.
    pub tally: Tally,
}

impl Counted {
    /// Adds another range's.
    pub fn add(&mut self, other: &Self) {
        self.counts.add(&other.counts);
        self.tally.events_in += other.tally.events_in;
        self.tally.applied += other.tally.applied;
        self.tally.lists_made += other.tally.lists_made;
        self.tally.lists_full += other.tally.lists_full;
    }
}

/// How many values fell between fixed bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    bounds: &'static [u64],
    /// One more than bounds: the last is of what lies beyond.
    counts: Vec<u64>,
    sum: u64,
}

impl Histogram {
    /// Of times in microseconds.
    pub fn of_times_us() -> Self {
        Self::new(&TIME_BOUNDS_US)
    }

    /// Of batch sizes in records.
    pub fn of_batches() -> Self {
        Self::new(&BATCH_BOUNDS)
    }

    fn new(bounds: &'static [u64]) -> Self {
        Self { bounds, counts: vec![0; bounds.len() + 1], sum: 0 }
    }

    /// Adds a value.
    pub fn observe(&mut self, value: u64) {
        self.counts[self.bounds.partition_point(|bound| *bound < value)] += 1;
        self.sum = self.sum.saturating_add(value);
    }

    /// Number of values.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Sum of the values.
    pub const fn sum(&self) -> u64 {
        self.sum
    }

    /// How many values lie above the bound before and at or below each bound; without a bound, beyond the last.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<u64>, u64)> {
        let bounds = self.bounds.iter().copied().map(Some).chain([None]);
        bounds.zip(self.counts.iter().copied())
    }
}

/// The distributions that the workers of a process feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distributions {
    /// Records of each cut.
    pub batch_size: Histogram,
    /// From an event's own time to its list being delivered, microseconds.
    pub from_event: Histogram,
    /// From a record's arrival in the stream to its list being delivered, microseconds.
    pub from_arrival: Histogram,
    /// From an event's receipt by this process to its list being answered from memory, microseconds.
    pub to_readable: Histogram,
}

impl Default for Distributions {
    fn default() -> Self {
        let times = Histogram::of_times_us();
        Self {
            batch_size: Histogram::of_batches(),
            from_event: times.clone(),
            from_arrival: times.clone(),
            to_readable: times,
        }
    }
}

impl Distributions {
    /// Notes a cut of `records` records with these lists, delivered at `now_ms`.
    pub(crate) fn note_delivered(&mut self, records: u64, lists: &[ListTimes], now_ms: i64) {
        self.batch_size.observe(records);
        for times in lists {
            self.from_event.observe(age_ms(times.event_ms, now_ms) * 1000);
            self.from_arrival.observe(age_ms(times.arrival_ms, now_ms) * 1000);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_falls_at_or_below_its_bound() {
        let mut batches = Histogram::of_batches();
        for value in [0, 1, 2, 5, 6, 100_000, 100_001] {
            batches.observe(value);
        }
        let found: Vec<(Option<u64>, u64)> = batches.buckets().filter(|(_, count)| *count > 0).collect();
        assert_eq!(found, [(Some(1), 2), (Some(5), 2), (Some(10), 1), (Some(100_000), 1), (None, 1)]);
        assert_eq!((batches.count(), batches.sum()), (7, 200_015));
        assert!(TIME_BOUNDS_US.is_sorted() && BATCH_BOUNDS.is_sorted());
    }

    #[test]
    fn a_clock_that_is_wrong_costs_no_more_than_a_day() {
        let mut distributions = Distributions::default();
        let now_ms = 1_700_000_000_000;
        let lists = [now_ms - 20, now_ms + 3_600_000, 0, i64::MIN, i64::MAX]
            .map(|event_ms| ListTimes { event_ms, arrival_ms: now_ms - 5 });
        distributions.note_delivered(9, &lists, now_ms);
        assert_eq!(distributions.from_event.sum(), 20_000 + 2 * AGE_MS_MAX * 1000);
        assert_eq!(distributions.from_event.buckets().last(), Some((None, 0)), "nothing lies beyond the last bound");
        assert_eq!((distributions.from_arrival.count(), distributions.from_arrival.sum()), (5, 25_000));
        assert_eq!((distributions.batch_size.count(), distributions.batch_size.sum()), (1, 9));
    }
}
