//! Recall and speed of a vector bucket's queries, against an exact scan in memory. Prints one line of JSON.
//!
//! `cargo run --release -p anabranch-stores --example s3_vectors_recall -- <bucket> [items] [dim] [queries]`
//!
//! Reached by the variables that AWS's own tools read (`AWS_REGION`, keys, `AWS_ENDPOINT_URL_S3VECTORS`). Makes the
//! collection `recall` of version `bench` with an index of inner products, asks, and removes it again. The vectors are
//! clusters of very unequal size, scaled by a popularity over two orders of magnitude. Default: 10,000 × 64, 200 queries.
#![allow(clippy::unwrap_used)]

use std::time::Instant;

use anabranch_stores::vectors::{
    Collection, ExactVectors, Metric, S3Vectors, S3VectorsOptions, Search, VectorRecord, VectorStore,
};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use serde_json::json;

const CLUSTERS: usize = 300;
const HITS: usize = 10;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let bucket = arguments.next().expect("the first argument is a vector bucket");
    let sizes: Vec<usize> = arguments.map(|text| text.parse().unwrap()).collect();
    let size = |index: usize, default| sizes.get(index).copied().unwrap_or(default);
    let (item_count, dim, query_count) = (size(0, 10_000), size(1, 64), size(2, 200));
    let mut options = S3VectorsOptions::from_environment(bucket, &|name| std::env::var(name).ok());
    options.inner_product = vec!["recall".to_owned()];
    let store = S3Vectors::connect(options).unwrap();
    let collection = Collection::new("recall", "bench").unwrap();
    let records = clusters(item_count, dim);
    let exact = ExactVectors::new();
    exact.upsert(collection, &records).unwrap();
    let started = clock();
    store.upsert(collection, &records).unwrap();
    let put_s = started.elapsed().as_secs_f64();
    let step = (item_count / query_count).max(1);
    let queries: Vec<&[f32]> =
        records.iter().step_by(step).take(query_count).map(|record| &record.vector[..]).collect();
    let (cosine_recall, cosine_per_s) = measure(&store, &exact, collection, &queries, Metric::Cosine);
    let (dot_recall, dot_per_s) = measure(&store, &exact, collection, &queries, Metric::Dot);
    store.drop_version(collection).unwrap();
    let line = json!({
        "items": item_count, "dim": dim, "queries": queries.len(), "puts_per_s": item_count as f64 / put_s,
        "cosine_recall_at_10": cosine_recall, "cosine_queries_per_s": cosine_per_s,
        "inner_product_recall_at_10": dot_recall, "inner_product_queries_per_s": dot_per_s,
    });
    println!("{line}");
}

/// Recall at 10 and queries a second, one at a time.
fn measure(
    store: &S3Vectors,
    exact: &ExactVectors,
    collection: Collection<'_>,
    queries: &[&[f32]],
    metric: Metric,
) -> (f64, f64) {
    let search = |query| Search { metric, ..Search::cosine(query, HITS) };
    let started = clock();
    let found: Vec<_> = queries.iter().map(|query| store.search(collection, &search(query)).unwrap()).collect();
    let per_s = queries.len() as f64 / started.elapsed().as_secs_f64();
    let (mut common, mut total) = (0, 0);
    for (query, found) in queries.iter().zip(found) {
        let expected = exact.search(collection, &search(query)).unwrap();
        common += expected.iter().filter(|hit| found.contains(hit)).count();
        total += expected.len();
    }
    (common as f64 / total as f64, per_s)
}

fn clusters(item_count: usize, dim: usize) -> Vec<VectorRecord> {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(2021);
    // Irwin-Hall: the sum of twelve uniforms is close to a normal of variance 1.
    let normal = |rng: &mut Xoshiro256PlusPlus| (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0;
    let centres: Vec<Vec<f32>> = (0..CLUSTERS).map(|_| (0..dim).map(|_| normal(&mut rng)).collect()).collect();
    (0..item_count)
        .map(|index| {
            // Zipf by inversion: cluster c is drawn about in proportion to 1 / (c + 1).
            let cluster = ((CLUSTERS as f32 + 1.0).powf(rng.random::<f32>()) - 1.0) as usize;
            let popularity = 10.0f32.powf(2.0 * rng.random::<f32>() - 1.0);
            let centre = &centres[cluster.min(CLUSTERS - 1)];
            let vector = centre.iter().map(|mean| popularity * (mean + 0.7 * normal(&mut rng))).collect();
            VectorRecord { id: format!("item-{index:06}"), vector, metadata: serde_json::Map::new() }
        })
        .collect()
}

/// A bench is the place where the wall clock is the subject.
fn clock() -> Instant {
    Instant::now()
}
