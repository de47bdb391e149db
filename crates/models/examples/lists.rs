//! What a list costs on one core, stage by stage, beside this core's bound for the scores alone.
//!
//! `cargo run --release -p anabranch-models --example lists -- SNAPSHOT [ITEMS_OF_A_ROW]...`
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use anabranch_models::{Kernels, Query, Recommender, Snapshot};
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

const LISTS: usize = 384;

/// Seconds that this thread has run, where the system tells; otherwise those that went by.
fn seconds_run(since: Instant) -> f64 {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanoseconds = told.and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
    nanoseconds.map_or_else(|| since.elapsed().as_secs_f64(), |ns| ns * 1e-9)
}

/// Microseconds a list: the shortest of several runs, since the machine is shared. The system counts in ticks of some
/// milliseconds, so the work is repeated until a run has taken a hundred.
fn best(mut work: impl FnMut()) -> f64 {
    let since = Instant::now();
    (0..7)
        .map(|_| {
            let (start, mut lists) = (seconds_run(since), 0);
            loop {
                work();
                lists += LISTS;
                let seconds = seconds_run(since) - start;
                if seconds > 0.1 {
                    return seconds * 1e6 / lists as f64;
                }
            }
        })
        .fold(f64::INFINITY, f64::min)
}

/// Rows as people make them: popular items often, and what a first item's neighbours are.
fn rows(snapshot: &Snapshot, length: usize) -> Vec<Vec<(u32, f32)>> {
    let mut state = 88_172_645_463_325_252_u64;
    let mut below = |n: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((u128::from(state) * n as u128) >> 64) as usize
    };
    let mut sums = vec![0.0];
    sums.extend(snapshot.popularity().iter().scan(0.0, |sum, popularity| {
        *sum += f64::from(*popularity);
        Some(*sum)
    }));
    (0..LISTS)
        .map(|_| {
            let mut row = std::collections::BTreeMap::new();
            while row.len() < length {
                let place = below(1 << 30) as f64 / f64::from(1 << 30) * sums[sums.len() - 1];
                let item = (sums.partition_point(|sum| *sum <= place) - 1) as u32;
                row.insert(item, 1.0 + below(4) as f32);
                let (neighbours, _) = snapshot.neighbours(item);
                if row.len() < length && !neighbours.is_empty() {
                    row.insert(neighbours[below(neighbours.len().min(10))], 1.0);
                }
            }
            row.into_iter().collect()
        })
        .collect()
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().expect("the path of a snapshot");
    let snapshot = Arc::new(Snapshot::open(Path::new(&path)).unwrap());
    let recommender = Recommender::new(Arc::clone(&snapshot), Kernels::best());
    let mut scratch = recommender.scratch();
    println!("{} items × {} dimensions", snapshot.item_count(), snapshot.dim());
    let lengths: Vec<usize> = arguments.map(|length| length.parse().unwrap()).collect();
    for length in if lengths.is_empty() { vec![0, 16, 64, 256] } else { lengths } {
        let rows = rows(&snapshot, length);
        let fold_in = best(|| {
            for row in &rows {
                black_box(recommender.user_factors(&mut scratch, row).unwrap());
            }
        });
        let queries: Vec<Query<'_>> = rows.iter().map(|row| Query { row, exclude: &[], k: 20 }).collect();
        let all = best(|| {
            black_box(recommender.recommend(&mut scratch, &queries));
        });
        println!("rows of {length}: {all:.1} µs a list, fold-in {fold_in:.1} of them, {:.0} lists/s", 1e6 / all);
    }
}
