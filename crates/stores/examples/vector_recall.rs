//! Recall and speed of similar items in each vector database, against an exact scan in memory, on data the size of Gowalla.
//!
//! `cargo run --release --workspace --example vector_recall -- [place] [items] [dim] [queries]`
//!
//! The place is `embedded` (the default), the URL of a PostgreSQL server that has pgvector, or `s3-vectors://bucket`
//! (reached by the variables that AWS's own tools read). One line of JSON is printed: seconds to load and to index, and
//! for each filter recall at 10, queries a second of one caller, and how many times the exact scan that is.
//!
//! The vectors are a mixture of Gaussians with clusters of very unequal size (Zipf) and with axes
//! of decaying variance, as factors of a matrix factorisation have, scaled by a popularity that
//! spans two orders of magnitude; cosine ignores the scale. Default: 41,000 × 64, 1,000 queries.
#![allow(clippy::unwrap_used)]

use std::time::Instant;

use anabranch_stores::vectors::{
    Collection, EmbeddedOptions, EmbeddedVectors, ExactVectors, Filter, Metric, PostgresOptions, PostgresVectors,
    S3Vectors, S3VectorsOptions, Scalar, Search, VectorRecord, VectorStore,
};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use serde_json::json;

const CLUSTERS: usize = 300;
const HITS: usize = 10;

fn main() {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let is_place = arguments.first().is_some_and(|first| first.parse::<usize>().is_err());
    let place = if is_place { arguments.remove(0) } else { "embedded".to_owned() };
    let sizes: Vec<usize> = arguments.iter().map(|text| text.parse().unwrap()).collect();
    let size = |index: usize, default| sizes.get(index).copied().unwrap_or(default);
    let records = mixture(size(0, 41_000), size(1, 64));
    let folder = std::env::temp_dir().join(format!("anabranch-vector-recall-{}", std::process::id()));
    let store: Box<dyn VectorStore> = if place == "embedded" {
        Box::new(EmbeddedVectors::open(&folder, EmbeddedOptions::default()).unwrap())
    } else if let Some(bucket) = place.strip_prefix("s3-vectors://") {
        let mut options = S3VectorsOptions::from_environment(bucket, &|name| std::env::var(name).ok());
        options.inner_product = vec!["items".to_owned()];
        Box::new(S3Vectors::connect(options).unwrap())
    } else {
        let options = PostgresOptions { schema: "anabranch_bench".to_owned(), ..PostgresOptions::new(&place) };
        Box::new(PostgresVectors::open(options).unwrap())
    };
    println!("{}", line(&*store, place.split(':').next().unwrap_or_default(), &records, size(2, 1000)));
    drop(store);
    if folder.exists() {
        std::fs::remove_dir_all(&folder).unwrap();
    }
}

fn line(store: &dyn VectorStore, name: &str, records: &[VectorRecord], query_count: usize) -> serde_json::Value {
    let items = Collection::new("items", "bench").unwrap();
    // Of a run that was broken off.
    store.drop_version(items).unwrap();
    let exact = ExactVectors::new();
    exact.upsert(items, records).unwrap();
    let started = clock();
    store.upsert(items, records).unwrap();
    let load_s = seconds(started);
    let step = (records.len() / query_count).max(1);
    let queries: Vec<&[f32]> = records.iter().step_by(step).map(|record| &record.vector[..]).collect();
    let [half, eighth, narrow] = filters();
    let mut line = json!({"store": name, "items": records.len(), "dim": records[0].vector.len(),
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
        let search = |query| Search { query, k: HITS, metric, filter };
        store.search(items, &search(queries[0])).unwrap();
        let few = if metric == Metric::Dot { &queries[..queries.len().min(100)] } else { &queries[..] };
        let run = |store: &dyn VectorStore| {
            let started = clock();
            let found: Vec<_> = few.iter().map(|query| store.search(items, &search(query)).unwrap()).collect();
            (found, few.len() as f64 / seconds(started))
        };
        let (found, per_s) = run(store);
        let (expected, exact_per_s) = run(&exact);
        let (mut shared, mut total) = (0, 0);
        for (expected, found) in expected.iter().zip(&found) {
            shared += expected.iter().filter(|hit| found.contains(hit)).count();
            total += expected.len();
        }
        line[name] = json!({
            "recall_at_10": round(shared as f64 / total as f64), "queries_per_s": round(per_s),
            "times_exact": round(per_s / exact_per_s),
        });
    }
    assert!(store.drop_version(items).unwrap());
    line
}

fn round(value: f64) -> f64 {
    (value * 10_000.0).round() / 10_000.0
}

/// A half, an eighth and a hundredth of the records.
fn filters() -> [Filter; 3] {
    [
        Filter::Eq { field: "half".to_owned(), value: Scalar::Bool(true) },
        Filter::Range { field: "bucket".to_owned(), min: None, max: Some(12.0) },
        Filter::Eq { field: "bucket".to_owned(), value: Scalar::Number(7.0) },
    ]
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
