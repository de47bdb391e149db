//! How fast the kernels run here, beside this core's own peak of multiply-adds.
//!
//! `cargo run --release -p anabranch-kernels --example throughput`
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use anabranch_kernels::{
    BaseMatrix, BlockedFactors, Isa, Items, Kernels, NormalEquations, Norms, Query, Rows, Scan, ScanBuffers,
};
use std::hint::black_box;
use std::time::Instant;

fn values(len: usize) -> Vec<f32> {
    let mut state = 88_172_645_463_325_252_u64;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1_u32 << 23) as f32 - 1.0
        })
        .collect()
}

/// Seconds that this thread has run, where the system tells; otherwise those that went by.
fn seconds_run(since: Instant) -> f64 {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanoseconds = told.and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
    nanoseconds.map_or_else(|| since.elapsed().as_secs_f64(), |ns| ns * 1e-9)
}

/// The shortest of several runs, in seconds: the machine is shared. The system counts in ticks of some milliseconds,
/// so the work is repeated until a run has taken a hundred.
fn best_of(runs: usize, mut work: impl FnMut()) -> f64 {
    let since = Instant::now();
    (0..runs)
        .map(|_| {
            let (start, mut times) = (seconds_run(since), 0);
            loop {
                work();
                times += 1;
                let seconds = seconds_run(since) - start;
                if seconds > 0.1 {
                    return seconds / f64::from(times);
                }
            }
        })
        .fold(f64::INFINITY, f64::min)
}

fn scoring(kernels: Kernels, items: usize, dim: usize, users: usize) {
    let factors = BlockedFactors::from_rows(&values(items * dim), items, dim).unwrap();
    let user_rows = values(users * dim);
    let norms = Norms::of(factors.view());
    // A tenth of the items start higher, as after a history of 64 with 100 neighbours each.
    let mut starts: Vec<f32> = values(items.next_multiple_of(16));
    starts.iter_mut().step_by(10).for_each(|start| *start += 0.5);
    let mut buffers = ScanBuffers::default();
    let seconds = best_of(5, || {
        let items = Items { factors: factors.view(), rows: None, norms: &norms, scale: None };
        let mut scan = kernels.scan(items, &mut buffers).unwrap();
        for batch in user_rows.chunks(dim * Scan::USERS_MAX) {
            for user in batch.chunks_exact(dim) {
                scan.add(Query { user, starts: &starts, k: 20 }).unwrap();
            }
            black_box(scan.lists());
        }
    });
    let lists = users as f64 / seconds;
    println!(
        "{:?} top 20 of {items} × {dim}, batch {users}: {lists:.0} lists/s, {:.1} GF/s",
        kernels.isa(),
        lists * 2e-9 * (items * dim) as f64
    );
}

fn solving(kernels: Kernels, dim: usize) {
    let (rows, count) = (values(100 * dim), 2000);
    let base = BaseMatrix::new(&vec![0.0; dim * dim], dim, 1.0).unwrap();
    let mut system = NormalEquations::new(kernels, dim).unwrap();
    let mut out = vec![0.0; dim];
    let build = best_of(5, || {
        for _ in 0..count {
            system.reset(&base, 1.0);
            system.add_rows(Rows::RowMajor(&rows), (0..100).map(|row| (row, 1.0)));
        }
    });
    let all = best_of(5, || {
        for _ in 0..count {
            system.reset(&base, 1.0);
            system.add_rows(Rows::RowMajor(&rows), (0..100).map(|row| (row, 1.0)));
            system.factorise().unwrap();
            system.solve(&mut out);
        }
    });
    println!(
        "{:?} dim {dim}: 100 rows added in {:.2} µs, factorised and solved in {:.2} µs",
        kernels.isa(),
        build / f64::from(count) * 1e6,
        (all - build) / f64::from(count) * 1e6
    );
}

/// Independent multiply-adds in registers: what this core can do at best, memory aside.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
fn peak() {
    use std::arch::x86_64::{_mm256_add_ps, _mm256_fmadd_ps, _mm256_set1_ps, _mm256_storeu_ps};
    #[target_feature(enable = "avx2,fma")]
    fn run(rounds: u32) -> [f32; 8] {
        let (factor, mut sums) = (_mm256_set1_ps(black_box(0.999)), [_mm256_set1_ps(1.0); 12]);
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, factor, factor);
            }
        }
        let total = sums.into_iter().reduce(|a, b| _mm256_add_ps(a, b)).unwrap();
        let mut out = [0.0; 8];
        // SAFETY: `out` holds 8 values.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), total) };
        out
    }
    if Isa::Avx2.is_available() {
        let rounds = 2_000_000;
        // SAFETY: the CPU has the features.
        let seconds = best_of(5, || {
            black_box(unsafe { run(rounds) });
        });
        println!("peak of 256-bit multiply-adds: {:.1} GF/s", f64::from(rounds) * 12.0 * 16.0 / seconds * 1e-9);
    }
}
#[cfg(not(target_arch = "x86_64"))]
fn peak() {}

fn main() {
    peak();
    for isa in Isa::available().filter(|isa| *isa != Isa::Scalar) {
        let kernels = Kernels::with_isa(isa).unwrap();
        for batch in [1, 32, 96, 256] {
            scoring(kernels, 41_000, 64, batch);
        }
        scoring(kernels, 41_000, 128, 32);
        solving(kernels, 64);
        solving(kernels, 128);
    }
}
