//! The command line. The help teaches: it says what a command reads, what it leaves behind and what to run next.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

mod plan;

pub(crate) use plan::{PlanArgs, Printed};

/// Recommendations that react to the last click, from raw files to live lists, on one machine.
///
/// The way of the data:  files → etl → train → stream → lists.
/// Try all of it on a generated shop:  anabranch demo
#[derive(Debug, Parser)]
#[command(
    name = "anabranch",
    version,
    max_term_width = 100,
    after_help = "Exit codes: 0 done, 2 wrong usage, \
    65 the input or a setting must be mended, 66 something asked for is not there, 69 the state is in use elsewhere, \
    70 a bug, 73 no space left, 74 stored data is corrupt, 75 try again later."
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Folder that everything lives in, unless the settings say otherwise.
    #[arg(long, global = true, env = "ANABRANCH_HOME", value_name = "DIR")]
    pub(crate) home: Option<PathBuf>,
    /// Settings file; by default ./anabranch.toml if it is there. `anabranch settings` prints all of them.
    #[arg(long, global = true, env = "ANABRANCH_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// What to log: error, warn, info, debug, or a filter such as anabranch_stream=debug; `[log] level` of the settings
    /// otherwise, which is warn by default.
    #[arg(long, global = true, env = "ANABRANCH_LOG", value_name = "LEVEL")]
    pub(crate) log: Option<String>,
    /// Write logs as JSON lines, as `[log] format = "json"` does.
    #[arg(long, global = true)]
    pub(crate) log_json: bool,
    /// Print answers as JSON.
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run everything on a generated shop (or your files) and watch a click change a list.
    Demo(DemoArgs),
    /// Write the generated shop, or many rows for a load test.
    Generate(GenerateArgs),
    /// Raw files to clean interactions, a catalogue and users' histories.
    Etl(EtlArgs),
    /// Histories to a published model and embeddings.
    Train(TrainArgs),
    /// Compare the model with baselines on a time split, at several quotas.
    Evaluate(EvaluateArgs),
    /// Take in events over HTTP, or read them from Kinesis ([source] in the settings), and deliver recommendation lists.
    Stream(StreamArgs),
    /// Send events from files through the stream, as if they arrived when they happened.
    Replay(ReplayArgs),
    /// The list of one user, or of all.
    Recommend(RecommendArgs),
    /// Items near an item, from the vector database.
    Similar(SimilarArgs),
    /// What is remembered of a user.
    History(HistoryArgs),
    /// Erase a user everywhere; nothing returns, whatever is replayed.
    Forget(ForgetArgs),
    /// List, promote or roll back models.
    Models(ModelsArgs),
    /// Where the running stream stands.
    Status,
    /// A consistent copy of the stream's state, also while it runs.
    Backup(BackupArgs),
    /// A state from its copy.
    Restore(RestoreArgs),
    /// What a deployment on AWS needs and costs: capacity, dollars line by line, limits. Touches no account.
    Plan(Box<PlanArgs>),
    /// Print the settings in force, documented by their names and units.
    Settings,
}

/// Where raw files lie and what their columns mean.
#[derive(Clone, Debug, Args)]
pub(crate) struct DataArgs {
    /// Folder, file or s3:// location of the raw files.
    #[arg(long, value_name = "PATH")]
    pub(crate) data: Option<String>,
    /// Mapping of files and columns (TOML); without one, Amazon Personalize's names are expected.
    #[arg(long, value_name = "FILE")]
    pub(crate) mapping: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// End after the demonstration instead of serving on.
    #[arg(long)]
    pub(crate) exit: bool,
    /// Days at the end of the data that are replayed as a stream.
    #[arg(long, default_value_t = 1, value_name = "DAYS")]
    pub(crate) replay_days: u32,
    /// Where to serve HTTP.
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDRESS")]
    pub(crate) listen: String,
}

#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    /// Folder to write into.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Write this many rows for a load test instead of the shop.
    #[arg(long)]
    pub(crate) rows: Option<u64>,
    /// Everything follows from it.
    #[arg(long, default_value_t = 42)]
    pub(crate) seed: u64,
}

#[derive(Debug, Args)]
pub(crate) struct EtlArgs {
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Leave events after this time to the stream (unix seconds, milliseconds or RFC 3339).
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<String>,
    /// Judge "more than a day ahead" by this time instead of the newest input file's.
    #[arg(long, value_name = "TIME")]
    pub(crate) as_of: Option<String>,
    /// Publish although whole files could not be read.
    #[arg(long)]
    pub(crate) keep_going: bool,
    /// Bytes that the partitions being folded may take together.
    #[arg(long, value_name = "BYTES")]
    pub(crate) memory: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct TrainArgs {
    /// Skip the evaluation.
    #[arg(long)]
    pub(crate) no_evaluate: bool,
    /// Publish without making the model current.
    #[arg(long)]
    pub(crate) no_promote: bool,
    /// Do not store embeddings in the vector database.
    #[arg(long)]
    pub(crate) no_embeddings: bool,
}

#[derive(Debug, Args)]
pub(crate) struct EvaluateArgs {
    /// Quotas to compare: numbers or "unlimited".
    #[arg(long, value_delimiter = ',', default_value = "256,1024,unlimited")]
    pub(crate) quotas: Vec<String>,
    /// Days at the end that are the test; the settings' by default.
    #[arg(long)]
    pub(crate) test_days: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct StreamArgs {
    /// Where to serve HTTP; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<String>,
    /// Join the dataset's histories into the table first, before anything is read from Kinesis. Once is enough; the
    /// embedded state does it by itself.
    #[arg(long)]
    pub(crate) warm: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Only events after this time.
    #[arg(long, value_name = "TIME")]
    pub(crate) from: Option<String>,
    /// Only events up to this time.
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<String>,
    /// A backfill: deliver under this run id, with a state of its own.
    #[arg(long, value_name = "ID")]
    pub(crate) run: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum HideArg {
    /// Show everything.
    Nothing,
    /// Hide what was bought.
    Seen,
    /// Hide whatever the history holds.
    Everything,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("who").required(true).args(["user", "session", "all"]))]
pub(crate) struct RecommendArgs {
    /// The user.
    #[arg(long)]
    pub(crate) user: Option<String>,
    /// An anonymous session.
    #[arg(long)]
    pub(crate) session: Option<String>,
    /// Lists for every user, as JSON Lines and Parquet in the lake.
    #[arg(long)]
    pub(crate) all: bool,
    /// Length of the list.
    #[arg(short = 'n', long, value_name = "N")]
    pub(crate) length: Option<usize>,
    /// Which items not to show; the settings' by default.
    #[arg(long)]
    pub(crate) hide: Option<HideArg>,
    /// Say where the first item's score comes from (or that of --item).
    #[arg(long)]
    pub(crate) explain: bool,
    /// The item to explain.
    #[arg(long, requires = "explain")]
    pub(crate) item: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct SimilarArgs {
    /// The item.
    #[arg(long)]
    pub(crate) item: String,
    /// How many.
    #[arg(short = 'n', long, default_value_t = 10, value_name = "N")]
    pub(crate) length: usize,
    /// Only items of this category.
    #[arg(long)]
    pub(crate) category: Option<String>,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("whose").required(true).args(["user", "session"]))]
pub(crate) struct HistoryArgs {
    /// The user.
    #[arg(long)]
    pub(crate) user: Option<String>,
    /// An anonymous session.
    #[arg(long)]
    pub(crate) session: Option<String>,
    /// Newest entries to print.
    #[arg(short = 'n', long, default_value_t = 20, value_name = "N")]
    pub(crate) length: usize,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("whom").required(true).args(["user", "session"]))]
pub(crate) struct ForgetArgs {
    /// The user, with all sessions known to be theirs.
    #[arg(long)]
    pub(crate) user: Option<String>,
    /// An anonymous session.
    #[arg(long)]
    pub(crate) session: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ModelsArgs {
    #[command(subcommand)]
    pub(crate) action: ModelsAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelsAction {
    /// Published models, oldest first.
    List,
    /// Make a published model current.
    Promote {
        /// Its version.
        version: String,
    },
    /// Make the model before the current one current again.
    Rollback,
}

#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    /// File to write; it must not exist.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// The backup.
    #[arg(long, value_name = "FILE")]
    pub(crate) from: PathBuf,
}
