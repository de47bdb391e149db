//! Quality on Complete Journey: a grocery chain's year, split by time, with and without hiding what was bought.
//!
//! `cargo run --release -p anabranch-evaluation --example complete_journey -- FILE.csv [test] [key=value …]`
//!
//! FILE.csv has the columns household, product, seconds. Without `test` the month before the test month is measured
//! on and nothing later is read. Keys: quota, half_life (days, 0 for none), dim, iterations, lambda, nu, alpha,
//! shrinkage, beta, gamma, factors, neighbours, history, popularity; several values separated by commas for the last
//! four give all combinations.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use anabranch_evaluation::{
    EvaluateOptions, ModelRanker, MostFrequent, MostPopular, Ranker, Report, TestItems, evaluate, seen_of,
};
use anabranch_models::ials::{IalsSettings, train};
use anabranch_models::snapshot::SnapshotContents;
use anabranch_models::{
    Blend, Interactions, Kernels, NeighboursSettings, Recommender, Snapshot, SnapshotMeta, neighbours, popularity,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

/// 2017-11-01, 2017-12-01 and 2018-01-01 00:00 UTC: the validation month, the test month, and its end.
const MONTHS: [i64; 3] = [1_509_494_400, 1_512_086_400, 1_514_764_800];

struct Data {
    matrix: Interactions,
    test: Vec<TestItems>,
    ids: Vec<String>,
}

/// Purchases by household: (seconds, product).
fn read(path: &str) -> BTreeMap<u32, Vec<(i64, String)>> {
    let mut households: BTreeMap<u32, Vec<(i64, String)>> = BTreeMap::new();
    for line in std::fs::read_to_string(path).unwrap().lines().skip(1) {
        let fields: Vec<&str> = line.split(',').collect();
        let entry = (fields[2].parse().unwrap(), fields[1].to_owned());
        households.entry(fields[0].parse().unwrap()).or_default().push(entry);
    }
    for entries in households.values_mut() {
        entries.sort();
    }
    households
}

/// Each household's newest `quota` purchases before `split`, weighted by age against its own newest.
fn split(households: &BTreeMap<u32, Vec<(i64, String)>>, (from, to): (i64, i64), quota: usize, half_life: f64) -> Data {
    let past: Vec<&[(i64, String)]> = households
        .values()
        .map(|entries| {
            let end = entries.partition_point(|(time, _)| *time < from);
            &entries[end.saturating_sub(quota)..end]
        })
        .collect();
    let ids: Vec<String> = past
        .iter()
        .flat_map(|entries| entries.iter())
        .map(|(_, id)| id.clone())
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    let index: BTreeMap<&str, u32> = ids.iter().map(String::as_str).zip(0..).collect();
    let rows = past.iter().map(|entries| {
        let now = entries.last().map_or(0, |(time, _)| *time);
        let mut row: BTreeMap<u32, f32> = BTreeMap::new();
        for (time, id) in *entries {
            let days = (now - time) as f64 / 86_400.0;
            let weight = if half_life > 0.0 { (-days / half_life).exp2() } else { 1.0 };
            *row.entry(index[id.as_str()]).or_default() += weight as f32;
        }
        row
    });
    let matrix = Interactions::from_rows(ids.len(), rows).unwrap();
    let test = households
        .values()
        .map(|entries| {
            let bought: BTreeSet<&str> =
                entries.iter().filter(|(time, _)| (from..to).contains(time)).map(|(_, id)| id.as_str()).collect();
            let items: BTreeSet<u32> = bought.iter().filter_map(|id| index.get(id).copied()).collect();
            TestItems { unknown_count: bought.len() - items.len(), items: items.into_iter().collect() }
        })
        .collect();
    Data { matrix, test, ids }
}

fn measure<R: Ranker>(ranker: &R, data: &Data) -> [Report; 2] {
    let seen = seen_of(&data.matrix);
    [false, true].map(|hide_seen| {
        evaluate(ranker, &data.matrix, &seen, &data.test, EvaluateOptions { cutoff: 20, hide_seen }).unwrap()
    })
}

fn show(name: &str, reports: [Report; 2], baseline: [Report; 2]) {
    print!("{name:<44}");
    for (report, base) in reports.iter().zip(baseline) {
        print!(
            " | R {:.4} ({:.2}x) N {:.4} ({:.2}x) M {:.3} C {:.3}",
            report.recall,
            report.recall / base.recall,
            report.ndcg,
            report.ndcg / base.ndcg,
            report.mrr,
            report.coverage
        );
    }
    println!();
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let path = arguments.first().expect("the CSV file");
    let values: BTreeMap<&str, Vec<f64>> = arguments
        .iter()
        .filter_map(|argument| argument.split_once('='))
        .map(|(key, value)| (key, value.split(',').map(|value| value.parse().unwrap()).collect()))
        .collect();
    let all = |key: &str, default: f64| values.get(key).cloned().unwrap_or(vec![default]);
    let one = |key: &str, default: f64| all(key, default)[0];
    let months = if arguments.iter().any(|argument| argument == "test") { &MONTHS[1..] } else { &MONTHS[..2] };

    let quota = one("quota", 1024.0) as usize;
    let data = split(&read(path), (months[0], months[1]), quota, one("half_life", 90.0));
    println!(
        "{} households, {} products, {} entries; columns: repeats allowed | seen hidden",
        data.matrix.users(),
        data.matrix.items(),
        data.matrix.len()
    );
    let popularity = popularity(&data.matrix);
    let baseline = measure(&MostPopular::new(&popularity), &data);
    show("popularity", baseline, baseline);
    show("own most frequent", measure(&MostFrequent::new(&popularity), &data), baseline);

    let (ials_default, near_default, blend_default) =
        (IalsSettings::default(), NeighboursSettings::default(), Blend::default());
    let ids: Vec<&str> = data.ids.iter().map(String::as_str).collect();
    let ials = IalsSettings {
        dim: one("dim", ials_default.dim as f64) as usize,
        iterations: one("iterations", ials_default.iterations as f64) as usize,
        regularisation: one("lambda", ials_default.regularisation),
        frequency_exponent: one("nu", ials_default.frequency_exponent),
        unobserved_weight: one("alpha", ials_default.unobserved_weight),
        ..ials_default
    };
    let start = Instant::now();
    let model = train(Kernels::best(), &data.matrix, &ids, &ials, |_| {}).unwrap();
    println!("iALS {ials:?}: {:.1} s", start.elapsed().as_secs_f64());
    let settings = NeighboursSettings {
        shrinkage: one("shrinkage", near_default.shrinkage),
        popularity_exponent: one("beta", near_default.popularity_exponent),
        user_exponent: one("gamma", near_default.user_exponent),
        ..near_default
    };
    let start = Instant::now();
    let near = neighbours(&data.matrix, &settings).unwrap();
    println!("neighbours {settings:?}: {:.1} s", start.elapsed().as_secs_f64());

    for factors in all("factors", f64::from(blend_default.factors)) {
        for neighbours in all("neighbours", f64::from(blend_default.neighbours)) {
            for history in all("history", f64::from(blend_default.history)) {
                for popular in all("popularity", f64::from(blend_default.popularity)) {
                    let blend = Blend {
                        factors: factors as f32,
                        neighbours: neighbours as f32,
                        history: history as f32,
                        popularity: popular as f32,
                    };
                    let bytes = SnapshotContents {
                        meta: &SnapshotMeta {
                            version: "complete-journey".into(),
                            created_ms: 0,
                            as_of_ms: months[0] * 1000,
                            ials,
                            neighbours: settings,
                            blend,
                            user_count: data.matrix.users() as u64,
                            item_count: ids.len() as u64,
                            interaction_count: data.matrix.len() as u64,
                            event_settings: serde_json::Value::Null,
                            metrics: BTreeMap::new(),
                        },
                        item_ids: &ids,
                        item_hashes: &(0..ids.len() as u64).collect::<Vec<_>>(),
                        item_factors: &model.item_factors,
                        item_gramian: &model.item_gramian,
                        neighbours: &near,
                        popularity: &popularity,
                        catalogue: None,
                    }
                    .to_bytes()
                    .unwrap();
                    let snapshot = Arc::new(Snapshot::from_bytes(&bytes).unwrap());
                    let recommender = Recommender::new(snapshot, Kernels::best());
                    let name = format!("f {factors} n {neighbours} h {history} p {popular}");
                    show(&name, measure(&ModelRanker(&recommender), &data), baseline);
                }
            }
        }
    }
}
