//! A worker that sleeps longer than the shard keeps its records, and goes on as if nothing had happened.

use super::*;
use crate::testing::{MemoryShard, MemoryState};

const RETENTION_MS: i64 = 24 * 3_600_000;

/// Wherever it fell asleep: what was delivered meanwhile is not delivered again, though the log no longer tells in which
/// folder it lies.
#[test]
fn what_others_delivered_meanwhile_is_not_delivered_again() {
    let mut slept_at = 0;
    loop {
        let (shard, state, clock) = (MemoryShard::new(), MemoryState::new(), TestClock::new());
        let sink: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new());
        let worker = |cut_records| {
            let (state, clock, sink) = (Arc::clone(&state), Arc::clone(&clock), Arc::clone(&sink));
            let shared = Shared::new(testing::port_parts(state, sink, clock, settings(cut_records)));
            Worker::new(Arc::new(shared), ShardId(3), shard.reader())
        };
        let put = |first: i64, arrival_ms: i64| {
            for i in first..first + 10 {
                shard.put(arrival_ms, "k", &[&event("u", &format!("i{i}"), "view", NOW_MS + i)]);
            }
        };
        put(0, NOW_MS);
        let mut sleeper = worker(7);
        let is_idle = (0..slept_at).any(|_| matches!(sleeper.step().unwrap(), Step::Idle { .. }));

        run_to_end(&mut worker(100));
        shard.expire(shard.newest());
        clock.advance_ms(RETENTION_MS + 3_600_000);
        put(10, NOW_MS + RETENTION_MS);
        run_to_end(&mut worker(100));
        run_to_end(&mut sleeper);
        let (lists, counts) = delivered(&*sink);
        assert_eq!((lists.len(), counts.delivered, counts.records), (20, 20, 20), "asleep after {slept_at} steps");
        if is_idle {
            return;
        }
        slept_at += 1;
    }
}

/// A shard where an event comes once in a while is delivered none the less.
#[test]
fn a_quiet_shard_is_delivered() {
    let (shard, state, clock) = (MemoryShard::new(), MemoryState::new(), TestClock::new());
    let sink: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new());
    let shared = Shared::new(testing::port_parts(state, Arc::clone(&sink), Arc::clone(&clock), settings(7)));
    let mut worker = Worker::new(Arc::new(shared), ShardId(3), shard.reader());
    for day in 0..5 {
        clock.advance_ms(RETENTION_MS);
        shard.put(NOW_MS + day * RETENTION_MS, "k", &[&event("u", &format!("i{day}"), "view", NOW_MS + day)]);
        run_to_end(&mut worker);
        assert_eq!(delivered(&*sink).1.delivered, day as u64 + 1);
    }
}
