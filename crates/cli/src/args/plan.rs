//! The arguments of `anabranch plan`: the traffic, the catalogue, and the choices that cost money.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::plan::scenario::{Architecture, Capacity, Delivered, Shape, StreamMode, Vectors};

/// A file that is in the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Printed {
    /// AWS's prices and quotas, each with its page.
    Prices,
    /// What our own code costs, each with its source.
    Figures,
}

// Where a value is a setting, the setting is its default; what terraform/ chooses is as terraform/ has it; the rest is a
// shop's. No doc comment: it would take the place of the command's help.
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// Events a second, the mean of a month.
    #[arg(long, default_value_t = 100.0, value_name = "N")]
    pub(crate) events_per_second: f64,
    /// The busiest minutes over that mean.
    #[arg(long, default_value_t = 2.0, value_name = "RATIO")]
    pub(crate) peak: f64,
    /// Items of the catalogue.
    #[arg(long, default_value_t = 41_000, value_name = "N")]
    pub(crate) items: u64,
    /// Users with a history.
    #[arg(long, default_value_t = 1_000_000, value_name = "N")]
    pub(crate) users: u64,
    /// Dimensions of a factor.
    #[arg(long, value_name = "N")]
    pub(crate) dimensions: Option<u64>,
    /// Neighbours kept of each item.
    #[arg(long, value_name = "N")]
    pub(crate) neighbours: Option<u64>,
    /// Rounds of training.
    #[arg(long, value_name = "N")]
    pub(crate) iterations: Option<u64>,
    /// Items of a list.
    #[arg(long, value_name = "N")]
    pub(crate) list_length: Option<u64>,
    /// One list for each user of a batch or cut, not for each event.
    #[arg(long)]
    pub(crate) per_user: bool,
    /// Bytes of an event's record with its partition key.
    #[arg(long, default_value_t = 500, value_name = "BYTES")]
    pub(crate) record_bytes: u64,
    /// Entries of the history that an event meets.
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub(crate) history_entries: u64,
    /// Events of one user in a batch or cut, which one write serves.
    #[arg(long, default_value_t = 1.0, value_name = "N")]
    pub(crate) events_per_write: f64,
    /// Bytes of an item's id.
    #[arg(long, default_value_t = 12, value_name = "BYTES")]
    pub(crate) item_id_bytes: u64,
    /// Bytes of a user's id.
    #[arg(long, default_value_t = 16, value_name = "BYTES")]
    pub(crate) user_id_bytes: u64,
    /// Bytes of an item's title and category; 0 for no catalogue.
    #[arg(long, default_value_t = 40, value_name = "BYTES")]
    pub(crate) text_bytes: u64,
    /// Records that an invocation gets at most.
    #[arg(long, default_value_t = 1000, value_name = "N")]
    pub(crate) batch_records: u64,
    /// Seconds that the mapping gathers records for.
    #[arg(long, default_value_t = 1.0, value_name = "S")]
    pub(crate) window_s: f64,
    /// Seconds of a worker's cut.
    #[arg(long, value_name = "S")]
    pub(crate) cut_s: Option<f64>,
    /// Hours that the Kinesis stream keeps records.
    #[arg(long, default_value_t = 72, value_name = "HOURS")]
    pub(crate) retention_hours: u64,
    /// Days that lists and raw events stay in S3.
    #[arg(long, default_value_t = 30.0, value_name = "DAYS")]
    pub(crate) keep_days: f64,
    /// MB of a function at least.
    #[arg(long, default_value_t = 1769, value_name = "MB")]
    pub(crate) lambda_mb: u64,
    /// The functions' processor. The figures are of x86-64.
    #[arg(long, default_value = "x86")]
    pub(crate) architecture: Architecture,
    /// How Kinesis is paid.
    #[arg(long, default_value = "on-demand")]
    pub(crate) kinesis: StreamMode,
    /// How DynamoDB is paid.
    #[arg(long, default_value = "on-demand")]
    pub(crate) dynamodb: Capacity,
    /// What Firehose writes.
    #[arg(long, default_value = "parquet")]
    pub(crate) delivered: Delivered,
    /// Glue's version, 5 or 6.
    #[arg(long, default_value_t = 5, value_name = "VERSION")]
    pub(crate) glue: u64,
    /// Hours that the nightly job may take.
    #[arg(long, default_value_t = 1.0, value_name = "HOURS")]
    pub(crate) job_hours: f64,
    /// The job makes no list for every user.
    #[arg(long)]
    pub(crate) no_bulk: bool,
    /// Where embeddings are searched.
    #[arg(long, default_value = "s3")]
    pub(crate) vectors: Vectors,
    /// Store users' embeddings there, too.
    #[arg(long)]
    pub(crate) user_vectors: bool,
    /// Questions for similar items for each event.
    #[arg(long, default_value_t = 0.01, value_name = "N")]
    pub(crate) similar_per_event: f64,
    /// Published snapshots that stay in the lake.
    #[arg(long, default_value_t = 30, value_name = "N")]
    pub(crate) snapshots_kept: u64,
    /// The shape to print line by line; all are compared, and --json has the lines of all.
    #[arg(long, default_value = "mapping")]
    pub(crate) shape: Shape,
    /// Prices and quotas (TOML) in place of those of us-east-1 in the program; it may hold only what differs.
    #[arg(long, value_name = "FILE")]
    pub(crate) prices: Option<PathBuf>,
    /// Figures of our own code (TOML) in place of those in the program; it may hold only what differs.
    #[arg(long, value_name = "FILE")]
    pub(crate) figures: Option<PathBuf>,
    /// Print one of the files that are in the program, to be changed, and nothing else.
    #[arg(long, value_name = "WHICH")]
    pub(crate) print: Option<Printed>,
}
