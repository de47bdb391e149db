//! Recall and speed of similar items, against an exact scan, on data the size of Gowalla.
//!
//! `cargo run --release -p anabranch-stores --example vector_recall -- [items] [dim] [queries]`
//!
//! With the URL of a PostgreSQL server that has pgvector as the first argument, the same is measured there, in a schema
//! of its own, and one line of JSON is printed: seconds to load and to index, and for each filter recall
//! at 10 and queries a second of one caller.
//!
//! The vectors are a mixture of Gaussians with clusters of very unequal size (Zipf) and with axes
//! of decaying variance, as factors of a matrix factorisation have, scaled by a popularity that
//! spans two orders of magnitude; cosine ignores the scale. Default: 41,000 × 64, 1,000 queries.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::time::Instant;

use anabranch_stores::vectors::{
    Collection, EmbeddedOptions, EmbeddedVectors, ExactVectors, Filter, Metric, PostgresOptions, PostgresVectors,
    Scalar, Search, VectorRecord, VectorStore,
};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use serde_json::json;

const CLUSTERS: usize = 300;

fn main() {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let url = arguments.first().is_some_and(|first| first.contains("://")).then(|| arguments.remove(0));
    let arguments: Vec<usize> = arguments.iter().map(|text| text.parse().unwrap()).collect();
    let setting = |index: usize, default| arguments.get(index).copied().unwrap_or(default);
    let (item_count, dim, query_count) = (setting(0, 41_000), setting(1, 64), setting(2, 1000));
    let records = mixture(item_count, dim);
    let items = Collection::new("items", "bench").unwrap();
    if let Some(url) = url {
        return postgres(&url, items, &records, query_count);
    }

    let folder = std::env::temp_dir().join(format!("anabranch-vector-recall-{}", std::process::id()));
    let embedded = EmbeddedVectors::open(&folder, EmbeddedOptions::default()).unwrap();
    let exact = ExactVectors::new();
    exact.upsert(items, &records).unwrap();
    let started = clock();
    embedded.upsert(items, &records).unwrap();
    let bytes = std::fs::metadata(folder.join("data.mdb")).unwrap().len();
    println!("{item_count} x {dim}: built and committed in {:.1} s, {} MiB", seconds(started), bytes >> 20);

    let [half, eighth, narrow] = filters();
    let step = (item_count / query_count).max(1);
    let queries: Vec<&[f32]> = records.iter().step_by(step).map(|record| &record.vector[..]).collect();
    for (name, filter) in [("all", None), ("1/2", Some(&half)), ("13/100", Some(&eighth)), ("1/100", Some(&narrow))] {
        measure(name, items, &embedded, &exact, &queries, filter);
    }

    let started = clock();
    let added: Vec<_> = mixture(item_count + 100, dim).split_off(item_count);
    embedded.upsert(items, &added).unwrap();
    println!("100 more items: {:.2} s", seconds(started));
    let started = clock();
    let gone: Vec<&str> = records.iter().step_by(10).map(|record| record.id.as_str()).collect();
    embedded.delete(items, &gone).unwrap();
    println!("a tenth deleted: {:.1} s", seconds(started));
    exact.upsert(items, &added).unwrap();
    exact.delete(items, &gone).unwrap();
    measure("after", items, &embedded, &exact, &queries, None);
    let started = clock();
    let same: Vec<_> = (0..500)
        .map(|index| VectorRecord {
            id: format!("same-{index}"),
            vector: vec![1.0; dim],
            metadata: serde_json::Map::new(),
        })
        .collect();
    embedded.upsert(Collection::new("items", "same").unwrap(), &same).unwrap();
    println!("500 equal vectors (their number counts squared): {:.1} s", seconds(started));
    drop(embedded);
    std::fs::remove_dir_all(&folder).unwrap();
}

/// A half, an eighth and a hundredth of the records.
fn filters() -> [Filter; 3] {
    [
        Filter::Eq { field: "half".to_owned(), value: Scalar::Bool(true) },
        Filter::Range { field: "bucket".to_owned(), min: None, max: Some(12.0) },
        Filter::Eq { field: "bucket".to_owned(), value: Scalar::Number(7.0) },
    ]
}

/// Prints one line of JSON about a PostgreSQL server.
fn postgres(url: &str, items: Collection<'_>, records: &[VectorRecord], query_count: usize) {
    let options = PostgresOptions { schema: "anabranch_bench".to_owned(), ..PostgresOptions::new(url) };
    let store = PostgresVectors::open(options).unwrap();
    // Of a run that was broken off.
    store.drop_version(items).unwrap();
    let exact = ExactVectors::new();
    exact.upsert(items, records).unwrap();
    let started = clock();
    store.upsert(items, records).unwrap();
    let load_s = seconds(started);
    let queries: Vec<&[f32]> =
        records.iter().step_by((records.len() / query_count).max(1)).map(|record| &record.vector[..]).collect();
    let [half, eighth, narrow] = filters();
    let mut line = json!({"store": "postgres", "items": records.len(), "dim": records[0].vector.len(),
        "queries": queries.len(), "load_and_index_s": round(load_s)});
    let searches = [
        ("all", Metric::Cosine, None),
        ("half", Metric::Cosine, Some(&half)),
        ("13_percent", Metric::Cosine, Some(&eighth)),
        ("1_percent", Metric::Cosine, Some(&narrow)),
        ("inner_product", Metric::Dot, None),
    ];
    for (name, metric, filter) in searches {
        // The first search of a connection loads the extension.
        let search = |query| Search { query, k: 10, metric, filter };
        store.search(items, &search(queries[0])).unwrap();
        let few = if metric == Metric::Dot { &queries[..queries.len().min(100)] } else { &queries[..] };
        let started = clock();
        let found: Vec<_> = few.iter().map(|query| store.search(items, &search(query)).unwrap()).collect();
        let elapsed_s = seconds(started);
        let (mut shared, mut total) = (0, 0);
        for (query, found) in few.iter().zip(&found) {
            let expected = exact.search(items, &search(query)).unwrap();
            shared += expected.iter().filter(|hit| found.contains(hit)).count();
            total += expected.len();
        }
        let recall = round(shared as f64 / total as f64);
        line[name] = json!({"recall_at_10": recall, "queries_per_s": round(few.len() as f64 / elapsed_s)});
    }
    assert!(store.drop_version(items).unwrap());
    println!("{line}");
}

fn round(value: f64) -> f64 {
    (value * 10_000.0).round() / 10_000.0
}

fn measure(
    name: &str,
    items: Collection<'_>,
    embedded: &EmbeddedVectors,
    exact: &ExactVectors,
    queries: &[&[f32]],
    filter: Option<&Filter>,
) {
    let run = |store: &dyn VectorStore| {
        let started = clock();
        let found: Vec<BTreeSet<String>> = queries
            .iter()
            .map(|query| {
                let search = Search { filter, ..Search::cosine(query, 10) };
                store.search(items, &search).unwrap().into_iter().map(|hit| hit.id).collect()
            })
            .collect();
        (found, seconds(started) * 1000.0 / queries.len() as f64)
    };
    let (expected, exact_ms) = run(exact);
    let (found, embedded_ms) = run(embedded);
    let (mut common, mut total, mut worst) = (0, 0, 10);
    for (expected, found) in expected.iter().zip(&found) {
        let shared = expected.intersection(found).count();
        common += shared;
        total += expected.len();
        worst = worst.min(shared);
    }
    println!(
        "{name:>7}: recall@10 {:.4} (worst query {worst}/10), embedded {embedded_ms:.3} ms, exact {exact_ms:.3} ms, ratio {:.1}",
        f64::from(u32::try_from(common).unwrap()) / total as f64,
        exact_ms / embedded_ms
    );
}

fn mixture(item_count: usize, dim: usize) -> Vec<VectorRecord> {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(2021);
    // Irwin-Hall: the sum of twelve uniforms is close to a normal of variance 1.
    let normal = |rng: &mut Xoshiro256PlusPlus| (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0;
    let axis: Vec<f32> = (0..dim).map(|index| 1.0 / (1.0 + index as f32 / 8.0).sqrt()).collect();
    let centres: Vec<Vec<f32>> =
        (0..CLUSTERS).map(|_| axis.iter().map(|scale| scale * normal(&mut rng)).collect()).collect();
    (0..item_count)
        .map(|index| {
            // Zipf by inversion: cluster c is drawn about in proportion to 1 / (c + 1).
            let uniform = rng.random::<f32>();
            let cluster = ((CLUSTERS as f32 + 1.0).powf(uniform) - 1.0) as usize;
            let popularity = 10.0f32.powf(2.0 * rng.random::<f32>() - 1.0);
            let centre = &centres[cluster.min(CLUSTERS - 1)];
            let vector =
                centre.iter().zip(&axis).map(|(mean, scale)| popularity * (mean + 0.7 * scale * normal(&mut rng)));
            let serde_json::Value::Object(metadata) = json!({"bucket": index % 100, "half": index % 2 == 0}) else {
                unreachable!("the literal is an object")
            };
            VectorRecord { id: format!("item-{index:06}"), vector: vector.collect(), metadata }
        })
        .collect()
}

/// A bench is the place where the wall clock is the subject.
fn clock() -> Instant {
    Instant::now()
}

fn seconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64()
}
