//! Recall@20 and NDCG@20 on Gowalla in the LightGCN split, beside the published table.
//!
//! `cargo run --release -p anabranch-evaluation --example gowalla -- FOLDER [test] [key=value …]`
//!
//! Without `test` a fifth of each user's training items is held out and measured on, so that settings are never
//! chosen by looking at the test set. Keys: dim, iterations, lambda, nu, alpha, shrinkage, beta, gamma, neighbours.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use anabranch_evaluation::{EvaluateOptions, ModelRanker, MostPopular, Ranker, TestItems, evaluate, seen_of};
use anabranch_models::ials::{IalsSettings, train};
use anabranch_models::snapshot::SnapshotContents;
use anabranch_models::{
    Blend, Interactions, Kernels, NeighboursSettings, Recommender, Snapshot, SnapshotMeta, TrendSettings, neighbours,
    popularity,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

const ITEMS: usize = 40_981;
const USERS: usize = 29_858;

fn read(path: &str) -> Vec<Vec<u32>> {
    let mut rows = vec![Vec::new(); USERS];
    for line in std::fs::read_to_string(path).unwrap().lines() {
        let mut numbers = line.split_whitespace().map(|number| number.parse::<u32>().unwrap());
        let Some(user) = numbers.next() else { continue };
        rows[user as usize] = numbers.collect();
        rows[user as usize].sort_unstable();
    }
    rows
}

fn show<R: Ranker>(name: &str, ranker: &R, matrix: &Interactions, test: &[TestItems]) {
    let options = EvaluateOptions { cutoff: 20, hide_seen: true };
    let start = Instant::now();
    let report = evaluate(ranker, matrix, &seen_of(matrix), test, options).unwrap();
    println!(
        "{name}: Recall@20 {:.4} NDCG@20 {:.4} MRR@20 {:.4} coverage {:.3} ({:.2} s)",
        report.recall,
        report.ndcg,
        report.mrr,
        report.coverage,
        start.elapsed().as_secs_f64()
    );
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let folder = arguments.first().expect("the folder with train.txt and test.txt");
    let on_test = arguments.iter().any(|argument| argument == "test");
    let values: BTreeMap<&str, f64> = arguments
        .iter()
        .filter_map(|argument| argument.split_once('='))
        .map(|(key, value)| (key, value.parse().unwrap()))
        .collect();
    let value = |key: &str, default: f64| values.get(key).copied().unwrap_or(default);

    let mut rows = read(&format!("{folder}/train.txt"));
    let test = if on_test {
        read(&format!("{folder}/test.txt"))
    } else {
        let held = |user: usize, item: u32| (user as u64 * 7919 + u64::from(item) * 104_729).is_multiple_of(5);
        rows.iter_mut()
            .enumerate()
            .map(|(user, row)| {
                let test: Vec<u32> = row.iter().copied().filter(|item| held(user, *item)).collect();
                row.retain(|item| !held(user, *item));
                test
            })
            .collect()
    };
    let test: Vec<TestItems> = test.into_iter().map(|items| TestItems { items, unknown_count: 0 }).collect();
    let rows = rows.iter().map(|row| row.iter().map(|item| (*item, 1.0)));
    let matrix = Interactions::from_rows(ITEMS, rows).unwrap();
    let popularity = popularity(&matrix);
    show("popularity", &MostPopular::new(&popularity), &matrix, &test);

    let ids: Vec<String> = (0..ITEMS).map(|item| format!("{item:05}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let ials = IalsSettings {
        dim: value("dim", 64.0) as usize,
        iterations: value("iterations", 15.0) as usize,
        regularisation: value("lambda", 0.015),
        frequency_exponent: value("nu", 1.0),
        unobserved_weight: value("alpha", 0.004),
        ..IalsSettings::default()
    };
    let start = Instant::now();
    let model = train(Kernels::best(), &matrix, &ids, &ials, |_| {}).unwrap();
    println!("iALS {ials:?}: {:.2} s", start.elapsed().as_secs_f64());
    let settings = NeighboursSettings {
        shrinkage: value("shrinkage", 0.1),
        popularity_exponent: value("beta", 0.5),
        user_exponent: value("gamma", 1.0),
        ..NeighboursSettings::default()
    };
    let start = Instant::now();
    let near = neighbours(&matrix, &settings).unwrap();
    println!("neighbours {settings:?}: {:.2} s", start.elapsed().as_secs_f64());
    let only = Blend { factors: 0.0, neighbours: 0.0, history: 0.0, popularity: 0.0 };
    for (name, blend) in [
        ("iALS", Blend { factors: 1.0, ..only }),
        ("neighbours", Blend { neighbours: 1.0, ..only }),
        ("blend", Blend { factors: 1.0, neighbours: value("neighbours", 6.0) as f32, ..only }),
    ] {
        let bytes = SnapshotContents {
            meta: &SnapshotMeta {
                version: "gowalla".into(),
                created_ms: 0,
                as_of_ms: 0,
                ials,
                neighbours: settings,
                blend,
                trend: TrendSettings::default(),
                user_count: USERS as u64,
                item_count: ITEMS as u64,
                interaction_count: matrix.len() as u64,
                event_settings: serde_json::Value::Null,
                metrics: BTreeMap::new(),
            },
            item_ids: &ids,
            item_hashes: &(0..ITEMS as u64).collect::<Vec<_>>(),
            item_factors: &model.item_factors,
            item_gramian: &model.item_gramian,
            neighbours: &near,
            popularity: &popularity,
            trend: &vec![1.0; ITEMS],
            catalogue: None,
        }
        .to_bytes()
        .unwrap();
        let recommender = Recommender::new(Arc::new(Snapshot::from_bytes(&bytes).unwrap()), Kernels::best());
        show(name, &ModelRanker(&recommender), &matrix, &test);
    }
}
