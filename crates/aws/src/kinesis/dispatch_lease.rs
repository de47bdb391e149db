//! The lease of the one process that sends notifications.
//!
//! It lies in the lease table beside those of the shards and is taken, renewed and lost as they are: a counter that has
//! stood still for the fail-over time, on the clock of whoever watches, is taken over; clocks need not agree. The holder
//! counts the same time from *before* its last renewal, so by its own clock it stops first.
//!
//! It may be wrong for a while all the same: a notification that was on its way when the time ran out, a process that was
//! suspended between looking at the clock and sending, or a clock that runs slow send once more what the next holder
//! sends, **under the same id**. Nothing else depends on it: notices are taken out of the outbox by writes that may be
//! repeated.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anabranch_stream::Clock;
use anabranch_stream::ports::PortError;

/// Its name: not a shard's, which begin with `shardId-`.
pub const DISPATCH_LEASE: &str = "notifications";

/// The lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DispatchLease {
    /// `leaseOwner`: who sends.
    pub owner: Option<String>,
    /// `leaseCounter`: one more with each write.
    pub counter: u64,
}

/// Keeps the lease. Every write is conditional, so a lost race is an answer (`false`), not an error.
pub trait DispatchLeaseTable: Send + Sync + Debug {
    /// The lease, if there is one.
    fn dispatch_lease(&self) -> Result<Option<DispatchLease>, PortError>;

    /// Writes the lease whose counter is still `expected_counter`, or that is not there yet (`None`); whether it was so.
    fn write_dispatch_lease(&self, lease: &DispatchLease, expected_counter: Option<u64>) -> Result<bool, PortError>;
}

/// Until when this process may send. The one who renews tells it to the one who sends.
#[derive(Debug, Default)]
pub struct DispatchRight(AtomicU64);

impl DispatchRight {
    /// Whether it may send now, by the monotonic clock.
    pub fn is_held(&self, now_us: u64) -> bool {
        now_us < self.0.load(Ordering::SeqCst)
    }

    fn set(&self, until_us: u64) {
        self.0.store(until_us, Ordering::SeqCst);
    }
}

/// When this process saw the counter change last, by its own monotonic clock.
#[derive(Clone, Copy, Debug)]
struct Sighting {
    counter: u64,
    since_us: u64,
}

/// Takes the lease and keeps it.
#[derive(Debug)]
pub struct DispatchLeaseTaker {
    own: String,
    failover_us: u64,
    seen: Option<Sighting>,
    right: Arc<DispatchRight>,
}

impl DispatchLeaseTaker {
    /// For the process `own`, a name that no other process has. A lease whose counter stands still for `failover_ms` is
    /// taken over; run about three times as often.
    pub fn new(own: impl Into<String>, failover_ms: u64) -> Self {
        let failover_us = failover_ms.saturating_mul(1000);
        Self { own: own.into(), failover_us, seen: None, right: Arc::default() }
    }

    /// What tells the sender whether it may send.
    pub fn right(&self) -> Arc<DispatchRight> {
        Arc::clone(&self.right)
    }

    /// Renews the lease, or takes it if nobody keeps it. Whether it is ours now. After an error what was held goes on
    /// until its time is over.
    pub fn run(&mut self, table: &dyn DispatchLeaseTable, clock: &dyn Clock) -> Result<bool, PortError> {
        // Before the write: whoever sees it sees it later. And before the read, which may take long: until then at least a counter
        // that did not move stood still, while one that moved may have done so until the read's end.
        let asked_us = clock.monotonic_us();
        let found = table.dispatch_lease()?;
        if let Some(lease) = &found
            && self.seen.is_none_or(|seen| seen.counter != lease.counter)
        {
            self.seen = Some(Sighting { counter: lease.counter, since_us: clock.monotonic_us() });
        }
        let is_free = found.as_ref().is_none_or(|lease| {
            let is_still = self.seen.is_some_and(|seen| asked_us.saturating_sub(seen.since_us) >= self.failover_us);
            lease.owner.is_none() || lease.owner.as_deref() == Some(&*self.own) || is_still
        });
        let is_ours =
            is_free && table.write_dispatch_lease(&self.next(found.as_ref(), true), counter(found.as_ref()))?;
        self.right.set(if is_ours { asked_us.saturating_add(self.failover_us) } else { 0 });
        Ok(is_ours)
    }

    /// Gives the lease back, if it is ours: others need not wait for it to run out.
    pub fn release(&mut self, table: &dyn DispatchLeaseTable) -> Result<(), PortError> {
        self.right.set(0);
        let found = table.dispatch_lease()?;
        if found.as_ref().is_some_and(|lease| lease.owner.as_deref() == Some(&*self.own)) {
            table.write_dispatch_lease(&self.next(found.as_ref(), false), counter(found.as_ref()))?;
        }
        Ok(())
    }

    fn next(&self, found: Option<&DispatchLease>, is_own: bool) -> DispatchLease {
        let owner = is_own.then(|| self.own.clone());
        DispatchLease { owner, counter: counter(found).map_or(0, |counter| counter.wrapping_add(1)) }
    }
}

fn counter(found: Option<&DispatchLease>) -> Option<u64> {
    found.map(|lease| lease.counter)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::testing::{MemoryLeases, SimClock};

    const FAILOVER_MS: u64 = 9_000;

    fn taker(name: &str) -> DispatchLeaseTaker {
        DispatchLeaseTaker::new(name, FAILOVER_MS)
    }

    #[test]
    fn one_holds_it_and_another_takes_it_once_it_stands_still() {
        let (table, clock) = (MemoryLeases::default(), SimClock::default());
        let (mut a, mut b) = (taker("a"), taker("b"));
        assert!(a.run(&table, &clock).unwrap());
        assert!(!b.run(&table, &clock).unwrap());
        for _ in 0..10 {
            clock.advance_ms(FAILOVER_MS / 3);
            assert!(a.run(&table, &clock).unwrap() && !b.run(&table, &clock).unwrap());
        }
        // From here on a is silent; it stops by itself before b takes over.
        clock.advance_ms(FAILOVER_MS - 1);
        assert!(a.right().is_held(clock.monotonic_us()) && !b.run(&table, &clock).unwrap());
        clock.advance_ms(1);
        assert!(!a.right().is_held(clock.monotonic_us()));
        assert!(b.run(&table, &clock).unwrap());
        assert!(!a.run(&table, &clock).unwrap(), "a wakes and finds it gone");
        assert!(!a.right().is_held(clock.monotonic_us()));
        b.release(&table).unwrap();
        assert!(!b.right().is_held(clock.monotonic_us()) && a.run(&table, &clock).unwrap(), "given back");
        b.release(&table).unwrap();
        assert!(a.run(&table, &clock).unwrap(), "nobody gives back what is another's");
    }

    #[test]
    fn a_process_that_is_new_waits_before_it_takes_what_is_anothers() {
        let (table, clock) = (MemoryLeases::default(), SimClock::default());
        assert!(taker("a").run(&table, &clock).unwrap());
        clock.advance_ms(10 * FAILOVER_MS);
        let mut b = taker("b");
        assert!(!b.run(&table, &clock).unwrap(), "it knows of no time in which nothing moved");
        clock.advance_ms(FAILOVER_MS);
        assert!(b.run(&table, &clock).unwrap());
    }

    #[test]
    fn a_slow_read_takes_nothing_from_who_renews() {
        #[derive(Debug)]
        struct Slow<'a>(&'a MemoryLeases, &'a SimClock, u64);
        impl DispatchLeaseTable for Slow<'_> {
            fn dispatch_lease(&self) -> Result<Option<DispatchLease>, PortError> {
                self.1.advance_ms(self.2);
                self.0.dispatch_lease()
            }
            fn write_dispatch_lease(&self, lease: &DispatchLease, expected: Option<u64>) -> Result<bool, PortError> {
                self.0.write_dispatch_lease(lease, expected)
            }
        }
        let (table, clock) = (MemoryLeases::default(), SimClock::default());
        let (mut a, mut b) = (taker("a"), taker("b"));
        assert!(a.run(&table, &clock).unwrap() && !b.run(&table, &clock).unwrap());
        // While b waits for its answer, a renews.
        clock.advance_ms(FAILOVER_MS / 3);
        assert!(a.run(&table, &clock).unwrap());
        assert!(!b.run(&Slow(&table, &clock, 2 * FAILOVER_MS), &clock).unwrap());
        assert!(!b.run(&table, &clock).unwrap(), "what moved was seen just now");
        assert!(
            !b.run(&Slow(&table, &clock, 2 * FAILOVER_MS), &clock).unwrap(),
            "until it asked it was still for a moment"
        );
        assert!(b.run(&table, &clock).unwrap(), "now it was still for long");
    }

    #[test]
    fn a_lost_race_is_no_error() {
        let (table, clock) = (MemoryLeases::default(), SimClock::default());
        table.write_dispatch_lease(&DispatchLease { owner: None, counter: 7 }, None).unwrap();
        let other = DispatchLease { owner: Some("b".to_owned()), counter: 8 };
        assert!(
            !table.write_dispatch_lease(&other, Some(6)).unwrap() && !table.write_dispatch_lease(&other, None).unwrap()
        );
        assert!(taker("a").run(&table, &clock).unwrap());
        assert_eq!(table.dispatch_lease().unwrap().unwrap(), DispatchLease { owner: Some("a".to_owned()), counter: 8 });
    }
}
