//! The batch arm: the nightly Glue job and the vector database.

use serde::Serialize;

use super::bill::{Bill, Part};
use super::scenario::Vectors;
use super::words::{bytes, count, number};
use super::{GB, HOURS, Input, NIGHTS, SECONDS};

/// Workers of Glue: name, DPUs, vCPUs, GB of memory.
const WORKERS: [(&str, u64, u64, f64); 4] =
    [("G.1X", 1, 4, 16.0), ("G.2X", 2, 8, 32.0), ("G.4X", 4, 16, 64.0), ("G.8X", 8, 32, 128.0)];
/// Share of a worker's memory that item factors may take: they are mapped once, Spark has the rest.
const FACTORS_SHARE: f64 = 0.25;
/// A driver and an executor.
const WORKERS_MIN: u64 = 2;
/// A call of `PutVectors`: vectors, and the bytes that are billed at least.
const PUT_VECTORS: f64 = 500.0;
const PUT_BYTES: f64 = (128 << 10) as f64;
/// Vectors of an index that a query processes at the first price.
const FIRST_VECTORS: f64 = 100_000.0;
const TB: f64 = (1_u64 << 40) as f64;
/// Memory of an ACU of Aurora; at least a half, and at most so many.
const ACU_BYTES: f64 = (2_u64 << 30) as f64;
pub(crate) const ACU_MAX: f64 = 256.0;
/// Of a graph of HNSW in PostgreSQL over its vectors, and of memory over the graph: a guess, as pgvector pages are.
const HNSW_OVER: f64 = 1.5;

/// The nightly job.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Job {
    /// Kind of worker.
    pub(crate) worker: &'static str,
    /// Workers.
    pub(crate) workers: u64,
    /// DPUs of all.
    pub(crate) dpus: u64,
    /// Seconds that it takes.
    pub(crate) duration_s: f64,
    /// DPU-hours of a night.
    pub(crate) dpu_hours: f64,
    /// Whether the item factors fit into the largest worker.
    pub(crate) fits: bool,
}

impl Job {
    /// Sizes the job so that it ends in the scenario's hours.
    pub(crate) fn of(input: &Input<'_>) -> Self {
        let Input { scenario, figures, sizes, cpu, .. } = *input;
        let factors_gb = sizes.factors_bytes as f64 / GB;
        let fitting = WORKERS.iter().find(|(_, _, _, gb)| factors_gb <= gb * FACTORS_SHARE);
        let (worker, dpus, vcpus, _) = *fitting.unwrap_or(&WORKERS[WORKERS.len() - 1]);
        let cpu_s = (cpu.etl_s + cpu.train_s + cpu.bulk_s) / figures.spark_share.value;
        let start_s = figures.glue_start_s.value;
        let room_s = (scenario.job_hours * 3600.0 - start_s).max(60.0);
        let workers = ((cpu_s / (vcpus as f64 * room_s)).ceil() as u64).max(WORKERS_MIN);
        let duration_s = start_s + cpu_s / (workers * vcpus) as f64;
        let dpus = workers * dpus;
        let dpu_hours = dpus as f64 * duration_s.max(60.0) / 3600.0;
        Self { worker, workers, dpus, duration_s, dpu_hours, fits: fitting.is_some() }
    }
}

/// The line of Glue.
pub(crate) fn glue(bill: &mut Bill, job: &Job, input: &Input<'_>) {
    let prices = &input.prices.prices;
    let price = if input.scenario.glue >= 6 { &prices.glue_6_dpu_hour } else { &prices.glue_dpu_hour };
    let words = format!(
        "{} × {} × {} min × {} nights = {} DPU-hours",
        count(job.workers, "worker"),
        job.worker,
        number(job.duration_s / 60.0),
        number(NIGHTS),
        number(job.dpu_hours * NIGHTS)
    );
    bill.charge(Part::Glue, "nightly job", price, job.dpu_hours * NIGHTS, &words);
}

/// What a vector database holds.
pub(crate) fn vectors_stored(input: &Input<'_>) -> f64 {
    let users = if input.scenario.is_users_stored { input.scenario.users } else { 0 };
    (input.scenario.items + users) as f64
}

/// ACUs of Aurora that hold the graph in memory.
pub(crate) fn acus(input: &Input<'_>) -> f64 {
    let graph = vectors_stored(input) * input.sizes.vector_bytes as f64 * HNSW_OVER;
    // By half ACUs.
    ((graph * HNSW_OVER / ACU_BYTES * 2.0).ceil() / 2.0).max(0.5)
}

/// The lines of the vector database.
pub(crate) fn vectors(bill: &mut Bill, input: &Input<'_>) {
    let (scenario, sizes, prices) = (input.scenario, input.sizes, &input.prices.prices);
    let part = Part::Vectors;
    let stored = vectors_stored(input);
    let gb = stored * sizes.vector_bytes as f64 / GB;
    let held = format!("{} vectors × {} = {} GB", number(stored), bytes(sizes.vector_bytes as f64), number(gb));
    let queries = scenario.events_per_second * scenario.similar_per_event * SECONDS;
    match scenario.vectors {
        Vectors::None => {}
        Vectors::S3 => {
            // Blue and green lie beside each other while the new one is filled.
            bill.charge(part, "storage", &prices.s3_vectors_gb_month, 2.0 * gb, &format!("2 × {held}"));
            let puts = (stored / PUT_VECTORS).ceil();
            let put_gb = (puts * PUT_BYTES).max(stored * sizes.vector_bytes as f64) / GB * NIGHTS;
            let words = format!("{} nights × {held}, a call 128 KB at least = {} GB", number(NIGHTS), number(put_gb));
            bill.charge(part, "put", &prices.s3_vectors_put_gb, put_gb, &words);
            let words = format!("{} million queries", number(queries / 1e6));
            bill.charge(part, "queries", &prices.s3_vectors_query_million, queries / 1e6, &words);
            let items = scenario.items as f64;
            for (name, vectors, price) in [
                ("processed", items.min(FIRST_VECTORS), &prices.s3_vectors_processed_tb),
                ("processed beyond", (items - FIRST_VECTORS).max(0.0), &prices.s3_vectors_processed_more_tb),
            ] {
                let tb = queries * vectors * sizes.vector_bytes as f64 / TB;
                if tb > 0.0 {
                    let words = format!(
                        "{} million queries × {} vectors × {} = {} TB",
                        number(queries / 1e6),
                        number(vectors),
                        bytes(sizes.vector_bytes as f64),
                        number(tb)
                    );
                    bill.charge(part, name, price, tb, &words);
                }
            }
        }
        Vectors::Aurora => {
            let acus = acus(input);
            let words = format!("{} ACU × {} h", number(acus), number(HOURS));
            bill.charge(part, "ACU hours", &prices.aurora_acu_hour, acus * HOURS, &words);
            let gb = gb * HNSW_OVER * 2.0;
            let words = format!("2 × {held}, a half more for the graph");
            bill.charge(part, "storage", &prices.aurora_gb_month, gb, &words);
        }
    }
}
