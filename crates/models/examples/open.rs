//! How long a snapshot takes until it can answer: mapped, every byte checked, made ready. The file's pages are in memory,
//! as after a download. `make bench` runs it.
//!
//! `cargo run --release -p anabranch-models --example open -- FILE ITEMS DIMENSIONS`
//!
//! Writes a snapshot of random values with 100 neighbours an item to FILE, then opens it several times; prints one JSON
//! object with the medians in milliseconds.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use anabranch_models::ials::IalsSettings;
use anabranch_models::snapshot::SnapshotContents;
use anabranch_models::{
    Blend, Kernels, Model, Neighbours, NeighboursSettings, Recommender, Snapshot, SnapshotMeta, TrendSettings,
};
use std::collections::BTreeMap;
use std::fs::File;
use std::hint::black_box;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

const NEIGHBOURS: usize = 100;
const ROUNDS: usize = 5;

fn values(len: usize) -> Vec<f32> {
    let mut state = 88_172_645_463_325_252_u64;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1_u32 << 24) as f32 - 0.5
        })
        .collect()
}

fn write(path: &Path, items: usize, dim: usize) {
    let names: Vec<String> = (0..items).map(|item| format!("item-{item:08}")).collect();
    let ids: Vec<&str> = names.iter().map(String::as_str).collect();
    let ials = IalsSettings { dim, ..IalsSettings::default() };
    let neighbours = Neighbours {
        offsets: (0..=items).map(|item| (item * NEIGHBOURS) as u64).collect(),
        items: (0..items * NEIGHBOURS).map(|n| (n as u64 * 2_654_435_761 % items as u64) as u32).collect(),
        scores: (0..items * NEIGHBOURS).map(|n| 1.0 / (1 + n % NEIGHBOURS) as f32).collect(),
    };
    let mut gramian = vec![0.0; dim * dim];
    gramian.iter_mut().step_by(dim + 1).for_each(|diagonal| *diagonal = items as f64 / 12.0);
    let contents = SnapshotContents {
        meta: &SnapshotMeta {
            version: "bench".into(),
            created_ms: 0,
            as_of_ms: 0,
            ials,
            neighbours: NeighboursSettings { count: NEIGHBOURS, ..NeighboursSettings::default() },
            blend: Blend::default(),
            trend: TrendSettings::default(),
            user_count: 1,
            item_count: items as u64,
            interaction_count: 1,
            event_settings: serde_json::json!({}),
            metrics: BTreeMap::new(),
        },
        item_ids: &ids,
        item_hashes: &(0..items as u64).map(|item| item.wrapping_mul(0x9E37_79B9_7F4A_7C15)).collect::<Vec<_>>(),
        item_factors: &values(items * dim),
        item_gramian: &gramian,
        neighbours: &neighbours,
        popularity: &values(items).iter().map(|value| value + 0.5).collect::<Vec<_>>(),
        trend: &vec![1.0; items],
        catalogue: None,
    };
    let mut out = BufWriter::new(File::create(path).unwrap());
    contents.write(&mut out).unwrap();
    out.flush().unwrap();
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, items, dim] = &arguments[..] else {
        eprintln!("usage: open FILE ITEMS DIMENSIONS");
        std::process::exit(2);
    };
    let (path, items, dim) = (Path::new(path), items.parse().unwrap(), dim.parse().unwrap());
    write(path, items, dim);
    let time = |work: &mut dyn FnMut()| {
        median(
            (0..ROUNDS)
                .map(|_| {
                    let begin = Instant::now();
                    work();
                    begin.elapsed().as_secs_f64() * 1e3
                })
                .collect(),
        )
    };
    let open_ms = time(&mut || drop(black_box(Snapshot::open(path).unwrap())));
    let snapshot = Arc::new(Snapshot::open(path).unwrap());
    let prepare_ms = time(&mut || drop(black_box(Recommender::new(Arc::clone(&snapshot), Kernels::best()))));
    drop(snapshot);
    let all_ms = time(&mut || drop(black_box(Model::open(path, "bench", Kernels::best()).unwrap())));
    let report = serde_json::json!({
        "items": items,
        "dim": dim,
        "bytes": std::fs::metadata(path).unwrap().len(),
        "openMs": open_ms,
        "prepareMs": prepare_ms,
        "modelMs": all_ms,
    });
    println!("{report}");
}
