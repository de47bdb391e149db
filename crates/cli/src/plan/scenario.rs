//! What is planned for: the traffic, the catalogue, and the choices that cost money. Numbers only; where they come from
//! (arguments, `anabranch.toml`) is the command's business.

use clap::ValueEnum;
use serde::Serialize;

/// How events travel to lists in S3 (docs/explanation.md, "Which one").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Shape {
    /// Event source mapping → function `stream` → Firehose.
    Mapping,
    /// Event source mapping → function `stream` → exactly-once objects.
    Objects,
    /// Firehose with the function `transform`.
    Transform,
    /// Workers (`anabranch stream`) on Fargate.
    Fargate,
    /// Workers on EC2.
    Ec2,
}

impl Shape {
    /// All of them, in the order of the page.
    pub(crate) const ALL: [Self; 5] = [Self::Mapping, Self::Objects, Self::Transform, Self::Fargate, Self::Ec2];

    /// Whether a Lambda function makes the lists.
    pub(crate) const fn is_function(self) -> bool {
        matches!(self, Self::Mapping | Self::Objects | Self::Transform)
    }

    /// As the command line names it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Mapping => "mapping",
            Self::Objects => "objects",
            Self::Transform => "transform",
            Self::Fargate => "fargate",
            Self::Ec2 => "ec2",
        }
    }
}

/// How DynamoDB is paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Capacity {
    /// By use.
    OnDemand,
    /// By what is set aside.
    Provisioned,
}

/// How a Kinesis stream is paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum StreamMode {
    /// By use, On-demand Standard.
    OnDemand,
    /// By use, On-demand Advantage: cheaper from 25 MB a second on.
    Advantage,
    /// By shards.
    Provisioned,
}

/// A processor of Lambda.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Architecture {
    /// 64-bit Arm.
    Arm64,
    /// 64-bit Intel and AMD.
    X86,
}

/// What Firehose writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Delivered {
    /// Parquet, converted by Firehose.
    Parquet,
    /// JSON Lines as they come.
    Json,
}

/// Where embeddings are searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Vectors {
    /// Nowhere on AWS.
    None,
    /// S3 Vectors.
    S3,
    /// PostgreSQL with pgvector, on Aurora Serverless.
    Aurora,
}

/// What is planned for.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Scenario {
    /// Events a second, the mean of a month.
    pub(crate) events_per_second: f64,
    /// The busiest minutes over the mean.
    pub(crate) peak_ratio: f64,
    /// Items of the catalogue.
    pub(crate) items: u64,
    /// Users with a history.
    pub(crate) users: u64,
    /// Dimensions of a factor.
    pub(crate) dim: u64,
    /// Neighbours kept of each item.
    pub(crate) neighbours: u64,
    /// Rounds of training.
    pub(crate) iterations: u64,
    /// Items of a list.
    pub(crate) list_length: u64,
    /// Whether every event has a list, or every user of a batch.
    pub(crate) is_per_event: bool,
    /// Bytes of an event's record with its partition key.
    pub(crate) record_bytes: u64,
    /// Entries of the history that an event meets.
    pub(crate) history_entries: u64,
    /// Events of one user in a batch or cut: one write of the history serves them all.
    pub(crate) events_per_write: f64,
    /// Bytes of an item's id.
    pub(crate) item_id_bytes: u64,
    /// Bytes of a user's id.
    pub(crate) user_id_bytes: u64,
    /// Bytes of an item's title and category; 0: no catalogue.
    pub(crate) text_bytes: u64,
    /// Records that an invocation gets at most.
    pub(crate) batch_records: u64,
    /// Seconds that the mapping gathers records for.
    pub(crate) window_s: f64,
    /// Seconds of a worker's cut.
    pub(crate) cut_s: f64,
    /// Hours that the Kinesis stream keeps records.
    pub(crate) retention_hours: u64,
    /// Days that lists and raw events stay in S3.
    pub(crate) keep_days: f64,
    /// MB of a function at least.
    pub(crate) lambda_mb: u64,
    /// The functions' processor.
    pub(crate) architecture: Architecture,
    /// How Kinesis is paid.
    pub(crate) kinesis: StreamMode,
    /// How DynamoDB is paid.
    pub(crate) dynamodb: Capacity,
    /// What Firehose writes.
    pub(crate) delivered: Delivered,
    /// Glue 5 or 6.
    pub(crate) glue: u64,
    /// Hours that the nightly job may take.
    pub(crate) job_hours: f64,
    /// Whether the job makes a list for every user.
    pub(crate) is_bulk: bool,
    /// Where embeddings are searched.
    pub(crate) vectors: Vectors,
    /// Whether users' embeddings are stored there, too.
    pub(crate) is_users_stored: bool,
    /// Questions for similar items for each event.
    pub(crate) similar_per_event: f64,
    /// Published snapshots that stay in the lake.
    pub(crate) snapshots_kept: u64,
}

impl Scenario {
    /// Events a second in the busiest minutes.
    pub(crate) fn peak(&self) -> f64 {
        self.events_per_second * self.peak_ratio
    }

    /// Lists made for each event.
    pub(crate) fn lists_per_event(&self) -> f64 {
        if self.is_per_event { 1.0 } else { 1.0 / self.events_per_write }
    }

    /// Refuses what arithmetic would make nonsense of; the error names the option.
    pub(crate) fn check(&self) -> Result<(), String> {
        let whole = |option: &str, value: u64, least: u64, most: u64| {
            ((least..=most).contains(&value), format!("--{option} {value}: {least} to {most}"))
        };
        let real = |option: &str, value: f64, least: f64, most: f64| {
            ((least..=most).contains(&value), format!("--{option} {value}: {least} to {most}"))
        };
        let rules = [
            real("events-per-second", self.events_per_second, 0.001, 1e8),
            real("peak", self.peak_ratio, 1.0, 1e3),
            whole("items", self.items, 1, u64::from(u32::MAX)),
            whole("users", self.users, 1, 100_000_000_000),
            whole("dimensions", self.dim, 1, 1024),
            whole("neighbours", self.neighbours, 1, 1000),
            whole("iterations", self.iterations, 1, 1000),
            whole("list-length", self.list_length, 1, 500),
            whole("record-bytes", self.record_bytes, 1, 10 << 20),
            whole("history-entries", self.history_entries, 1, 131_072),
            real("events-per-write", self.events_per_write, 1.0, 1e6),
            whole("item-id-bytes", self.item_id_bytes, 1, 256),
            whole("user-id-bytes", self.user_id_bytes, 1, 256),
            whole("text-bytes", self.text_bytes, 0, 10_000),
            whole("batch-records", self.batch_records, 1, 10_000),
            real("window-s", self.window_s, 0.0, 300.0),
            real("cut-s", self.cut_s, 0.001, 3600.0),
            whole("retention-hours", self.retention_hours, 24, 8760),
            real("keep-days", self.keep_days, 0.0, 36_500.0),
            whole("lambda-mb", self.lambda_mb, 128, 10_240),
            whole("glue", self.glue, 5, 6),
            real("job-hours", self.job_hours, 0.1, 24.0),
            real("similar-per-event", self.similar_per_event, 0.0, 1e3),
            whole("snapshots-kept", self.snapshots_kept, 1, 10_000),
        ];
        rules.into_iter().find(|(is_fine, _)| !is_fine).map_or(Ok(()), |(_, problem)| Err(problem))
    }
}
