//! Where limits are reached, and what to do then: AWS's quotas, the sizes of Lambda and Glue, and our own laws (a shard is
//! one thread, a chain takes one batch at a time).

use serde::Serialize;

use super::batch::{self, Job};
use super::calls::FACTOR_MAX;
use super::data::Quota;
use super::keeping::{Units, puts_per_second};
use super::scenario::{Scenario, Shape, StreamMode, Vectors};
use super::streaming::Streaming;
use super::{GB, Input, fleet};

/// Largest function and its /tmp.
const LAMBDA_MB: f64 = 10_240.0;
/// Longest invocation of a mapping; of Firehose's processor.
const MAPPING_S: f64 = 900.0;
const PROCESSOR_S: f64 = 300.0;
/// Largest item of DynamoDB.
const ITEM_BYTES: f64 = (400 << 10) as f64;
/// Lines of a `PutRecordBatch` of 4 MB.
const FIREHOSE_BATCH_BYTES: f64 = (4 << 20) as f64;
/// Item factors that the largest Glue worker maps beside Spark.
const FACTORS_GB: f64 = 32.0;

/// A limit, and how far it is.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Limit {
    /// What is limited.
    pub(crate) what: String,
    /// How much is needed.
    pub(crate) used: f64,
    /// How much there is.
    pub(crate) available: f64,
    /// Of what.
    pub(crate) unit: String,
    /// Events a second at which it is reached, all else as it is; none if events do not move it.
    pub(crate) reached_at: Option<f64>,
    /// Whether it is reached here.
    pub(crate) is_reached: bool,
    /// Whether nobody can raise it: the shape ends here.
    pub(crate) is_end: bool,
    /// What to do then.
    pub(crate) then: String,
}

/// Limits in the making.
struct Limits<'a> {
    scenario: &'a Scenario,
    found: Vec<Limit>,
}

impl Limits<'_> {
    /// A limit that events move in proportion.
    fn of_events(&mut self, what: &str, used: f64, limit: f64, unit: &str, then: &str) {
        let at = self.scenario.events_per_second * limit / used;
        self.push(what, used, limit, unit, (used > 0.0).then_some(at), false, then);
    }

    /// A quota that events move in proportion.
    fn quota(&mut self, what: &str, used: f64, quota: &Quota, then: &str) {
        self.of_events(what, used, quota.value, &quota.unit, then);
    }

    /// A size beyond which the shape does not run.
    fn end(&mut self, what: &str, used: f64, limit: f64, unit: &str, then: &str) {
        self.push(what, used, limit, unit, None, true, then);
    }

    /// A limit that events do not move.
    fn fixed(&mut self, what: &str, used: f64, limit: f64, unit: &str, then: &str) {
        self.push(what, used, limit, unit, None, false, then);
    }

    #[allow(clippy::too_many_arguments)] // the columns of a row
    fn push(
        &mut self,
        what: &str,
        used: f64,
        limit: f64,
        unit: &str,
        reached_at: Option<f64>,
        is_end: bool,
        then: &str,
    ) {
        self.found.push(Limit {
            what: what.to_owned(),
            used,
            available: limit,
            unit: unit.to_owned(),
            reached_at,
            is_reached: used > limit,
            is_end,
            then: then.to_owned(),
        });
    }
}

/// The limits that a shape meets, at the peak.
pub(crate) fn of(shape: Shape, streaming: &Streaming, units: &Units, job: &Job, input: &Input<'_>) -> Vec<Limit> {
    let mut limits = Limits { scenario: input.scenario, found: Vec::new() };
    let quotas = &input.prices.quotas;
    if input.scenario.kinesis == StreamMode::Provisioned {
        limits.quota(
            "Kinesis shards",
            streaming.shards as f64,
            &quotas.kinesis_shards,
            "ask for the quota; aggregate events in the producer (KPL): a shard then takes as many as 1 MB holds",
        );
    } else {
        limits.quota(
            "bytes into Kinesis",
            input.scenario.peak() * input.scenario.record_bytes as f64,
            &quotas.kinesis_on_demand_bytes_per_second,
            "several streams by a hash of the user, or provisioned shards",
        );
        limits.fixed(
            "shards that keep up",
            streaming.shards as f64,
            streaming.shards_in as f64,
            "that a stream on demand has by its traffic",
            "provision them (--kinesis provisioned), or make lists cheaper: fewer items, dimensions, neighbours, entries",
        );
    }
    functions(&mut limits, shape, streaming, input);
    workers(&mut limits, shape, streaming, input);
    tables(&mut limits, units, input);
    delivery(&mut limits, shape, streaming, input);
    nightly(&mut limits, job, input);
    vectors(&mut limits, input);
    limits.found
}

fn functions(limits: &mut Limits<'_>, shape: Shape, streaming: &Streaming, input: &Input<'_>) {
    let Some(calls) = &streaming.calls else { return };
    limits.quota(
        "Lambda concurrency",
        calls.concurrency as f64,
        &input.prices.quotas.lambda_concurrency,
        "ask for the quota, and reserve it for this function; a longer window makes fewer, larger batches",
    );
    if shape == Shape::Mapping {
        limits.fixed(
            "batches of a shard side by side",
            streaming.factor as f64,
            FACTOR_MAX as f64,
            "of a mapping",
            "more shards; the plan has counted them",
        );
    }
    let longest = if shape == Shape::Transform { PROCESSOR_S } else { MAPPING_S };
    limits.fixed("a full batch", calls.longest_s, longest, "s of time-out", "fewer records in a batch, more memory");
    let then =
        "fewer dimensions or neighbours; a worker holds what a function cannot; or candidates from the vector database";
    limits.end(
        "memory of a function",
        calls.needed_mb as f64,
        LAMBDA_MB,
        "MB, two snapshots while one is replaced",
        then,
    );
    limits.end("/tmp of a function", calls.tmp_mb as f64, LAMBDA_MB, "MB, two snapshots while one is replaced", then);
}

fn workers(limits: &mut Limits<'_>, shape: Shape, streaming: &Streaming, input: &Input<'_>) {
    if streaming.calls.is_some() {
        return;
    }
    let a_shard = input.scenario.peak() / streaming.shards as f64;
    limits.fixed(
        "events a second of a shard",
        a_shard,
        input.cpu.worker_events_per_second(),
        "that one thread takes",
        "more shards; the plan has counted them",
    );
    limits.end(
        "memory of a worker",
        fleet::needed_gb(1, input),
        fleet::largest_gb(shape, input) as f64,
        "GB of the largest machine, two snapshots while one is replaced",
        "name larger machines in the price file (EC2); fewer dimensions or neighbours; candidates from the vector database",
    );
}

fn tables(limits: &mut Limits<'_>, units: &Units, input: &Input<'_>) {
    let peak = input.scenario.peak_ratio;
    let quota = &input.prices.quotas.dynamodb_table_units;
    limits.quota(
        "DynamoDB writes",
        (units.writes + units.other_writes) * peak,
        quota,
        "ask for the quota of the table, and warm it before (a new table begins at 4,000); longer windows or cuts, smaller quotas in [events]",
    );
    limits.quota(
        "DynamoDB reads",
        (units.reads + units.other_reads) * peak,
        quota,
        "ask for the quota of the table, and warm it before (a new table begins at 12,000)",
    );
    limits.end(
        "largest history",
        input.sizes.largest_item_bytes as f64,
        ITEM_BYTES,
        "bytes of an item of DynamoDB",
        "lower quota, quotas or seen_max in [events]; the stream does not start with these",
    );
}

fn delivery(limits: &mut Limits<'_>, shape: Shape, streaming: &Streaming, input: &Input<'_>) {
    let (scenario, quotas) = (input.scenario, &input.prices.quotas);
    if shape == Shape::Mapping {
        let bytes = scenario.peak() * scenario.lists_per_event() * input.sizes.line_bytes as f64;
        limits.quota(
            "bytes put into Firehose",
            bytes,
            &quotas.firehose_bytes_per_second,
            "ask for the quota (it rises with the one of requests); beyond some GB a second deliver objects, or use a worker",
        );
        let calls = streaming.calls.map_or(0.0, |calls| calls.per_second * scenario.peak_ratio);
        limits.quota(
            "requests to Firehose",
            calls.max(bytes / FIREHOSE_BATCH_BYTES),
            &quotas.firehose_requests_per_second,
            "a longer window makes fewer, larger requests; or ask for the quota",
        );
    } else if shape != Shape::Transform {
        limits.quota(
            "objects put into S3",
            puts_per_second(shape, streaming, input) * scenario.peak_ratio,
            &quotas.s3_puts_per_second,
            "longer windows or cuts; S3 splits a busy prefix by itself after a while, and answers 503 until then (it is tried again)",
        );
    }
}

fn nightly(limits: &mut Limits<'_>, job: &Job, input: &Input<'_>) {
    limits.fixed(
        "DPUs of the nightly job",
        job.dpus as f64,
        input.prices.quotas.glue_dpus.value,
        &input.prices.quotas.glue_dpus.unit,
        "ask for the quota, give the job more hours (--job-hours), or train weekly and make lists from the stream alone",
    );
    let factors_gb = input.sizes.factors_bytes as f64 / GB;
    limits.fixed(
        "item factors in a Glue worker",
        factors_gb,
        FACTORS_GB,
        "GB that the largest worker maps beside Spark",
        "fewer dimensions or items: a function could not hold them either",
    );
}

fn vectors(limits: &mut Limits<'_>, input: &Input<'_>) {
    let (scenario, quotas) = (input.scenario, &input.prices.quotas);
    match scenario.vectors {
        Vectors::None => {}
        Vectors::S3 => {
            let rate = batch::vectors_stored(input) / (scenario.job_hours * 3600.0);
            limits.fixed(
                "vectors put in the job's hours",
                rate,
                quotas.s3_vectors_puts_per_second.value,
                &quotas.s3_vectors_puts_per_second.unit,
                "store items alone; more hours; several indexes by a hash of the id",
            );
            limits.quota(
                "queries of S3 Vectors",
                scenario.peak() * scenario.similar_per_event,
                &quotas.s3_vectors_queries_per_second,
                "keep the answers (they change with the model only), ask for the quota, or use Aurora",
            );
        }
        Vectors::Aurora => limits.fixed(
            "memory of Aurora",
            batch::acus(input),
            batch::ACU_MAX,
            "ACU of an instance",
            "halfvec, fewer dimensions, several instances by a hash of the id",
        ),
    }
}
