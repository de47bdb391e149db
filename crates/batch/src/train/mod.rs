//! Training, read top to bottom: histories → rows → (evaluate) → learn → publish → embeddings.
//!
//! | file | what lives there |
//! |---|---|
//! | [`stages`] | the rows in stages, for an engine with a shuffle of its own |
//! | [`rows`] | the dataset's histories as rows: bots left out, sessions joined to their users, k-core |
//! | [`backtest`] | the global time split and the table of figures |
//! | [`embeddings`] | item and user vectors into the vector database |
//! | [`bulk`] | lists for every user, as JSON Lines and Parquet |
//!
//! It promises: the same dataset, settings and seed give the same snapshot, byte for byte, on any machine and with any
//! number of threads; nothing is promoted that was not published whole; the old model stays until then.

use std::path::Path;

use anabranch_evaluation::Report;
use anabranch_events::EventSettings;
use anabranch_models::ials::IalsSettings;
use anabranch_models::learn::{LearnError, LearnSettings, Provenance, learn};
use anabranch_models::{Kernels, ModelError};
use anabranch_stores::ErrorKind;
use anabranch_stores::lake::ObjectStore;
use anabranch_stores::registry::{ModelRegistry, RegistryError};
use anabranch_stores::vectors::{VectorError, VectorStore};
use serde::{Deserialize, Serialize};

use crate::BatchError;
use crate::dataset::Dataset;

pub mod backtest;
pub mod bulk;
pub mod embeddings;
pub mod rows;
pub mod stages;

pub use backtest::{BacktestRow, Subject};

/// The `[training]` settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainingSettings {
    /// Days at the end of the dataset that evaluation holds out; the final model then learns from them too.
    pub test_days: u32,
    /// Length of the lists that evaluation looks at.
    pub cutoff: usize,
    /// Interactions that evaluation holds in memory (32 bytes each); beyond it users are sampled by a hash of their id.
    pub evaluation_interactions_max: u64,
    /// Users that an item needs for an embedding in the vector database: an item that one user touched has just that
    /// user's direction, and thousands of equal directions say nothing and slow the index down.
    pub embedding_users_min: usize,
    /// Versions whose embeddings stay in the vector database.
    pub embedding_versions_kept: usize,
}

impl Default for TrainingSettings {
    fn default() -> Self {
        Self {
            test_days: 7,
            cutoff: 20,
            evaluation_interactions_max: 20_000_000,
            embedding_users_min: 2,
            embedding_versions_kept: 2,
        }
    }
}

/// How far training is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrainProgress {
    /// `rows`, `evaluate`, `train`, `publish` or `embed`.
    pub phase: &'static str,
    /// Done so far.
    pub done: u64,
    /// To be done in all; 0 if unknown.
    pub total: u64,
}

/// Where embeddings go.
#[derive(Clone, Copy, Debug)]
pub struct EmbeddingTarget<'a> {
    /// The vector database.
    pub store: &'a dyn VectorStore,
    /// Whether those of users go there too.
    pub users: bool,
}

/// Everything that training needs.
#[derive(Clone, Copy)]
pub struct TrainRequest<'a> {
    /// Where the dataset lies.
    pub lake: &'a dyn ObjectStore,
    /// Where models are published.
    pub registry: &'a ModelRegistry,
    /// Where embeddings go; without it they go nowhere.
    pub embeddings: Option<EmbeddingTarget<'a>>,
    /// Event settings, the same that the ETL folded under.
    pub events: &'a EventSettings,
    /// Model settings.
    pub model: &'a LearnSettings,
    /// Training settings.
    pub training: &'a TrainingSettings,
    /// Whether to evaluate before.
    pub evaluate: bool,
    /// Whether to make the new model current.
    pub promote: bool,
    /// Folder for the snapshot while it is written.
    pub scratch: &'a Path,
    /// The kernels.
    pub kernels: Kernels,
    /// The time, milliseconds since 1970, for the registry's records.
    pub now_ms: i64,
    /// Seconds since some start, for timings.
    pub clock_s: &'a dyn Fn() -> f64,
    /// Told now and then how far it is.
    pub progress: &'a dyn Fn(TrainProgress),
}

impl std::fmt::Debug for TrainRequest<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TrainRequest")
            .field("model", self.model)
            .field("training", self.training)
            .finish_non_exhaustive()
    }
}

/// Why there is no new model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The dataset.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The event settings.
    #[error(transparent)]
    Settings(#[from] anabranch_events::settings::SettingsError),
    /// Nothing to learn from.
    #[error("the dataset has no interactions to learn from ({problem}); check the ETL's report")]
    Empty {
        /// What is missing.
        problem: &'static str,
    },
    /// A stored history does not decode.
    #[error("the history of {key}: {source}; run the ETL again")]
    History {
        /// Whose.
        key: String,
        /// Why.
        source: anabranch_events::CodecError,
    },
    /// A key is none.
    #[error("{key:?} is no key of a history: u or s, then an id of 1 to 256 bytes")]
    Key {
        /// What was given.
        key: String,
    },
    /// Learning.
    #[error(transparent)]
    Learn(#[from] LearnError),
    /// The rows are too many.
    #[error(transparent)]
    Rows(#[from] anabranch_models::InteractionsError),
    /// Evaluation.
    #[error("evaluation: {0}")]
    Evaluate(String),
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The model that was just made does not open.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The vector database.
    #[error(transparent)]
    Vectors(#[from] VectorError),
}

impl TrainError {
    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Batch(error) => error.kind(),
            Self::Settings(_) | Self::Empty { .. } | Self::Key { .. } | Self::Learn(_) | Self::Rows(_) => {
                ErrorKind::FixInput
            }
            Self::History { .. } | Self::Model(_) => ErrorKind::Corrupt,
            Self::Evaluate(_) => ErrorKind::Bug,
            Self::Registry(error) => error.kind(),
            Self::Vectors(error) => error.kind(),
        }
    }
}

/// What training made.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TrainOutcome {
    /// The model's version in the registry.
    pub version: String,
    /// Whether it is the current one now.
    pub is_promoted: bool,
    /// Training rows.
    pub users: u64,
    /// Items of the model.
    pub items: u64,
    /// Entries of the training matrix.
    pub entries: u64,
    /// Size of the snapshot.
    pub snapshot_bytes: u64,
    /// Item embeddings stored (items without a direction are not).
    pub item_embeddings: u64,
    /// User embeddings stored.
    pub user_embeddings: u64,
    /// The figures, if evaluation was asked for.
    pub backtest: Vec<BacktestRow>,
    /// Seconds of each phase.
    pub timings: Vec<(String, f64)>,
}

/// Trains, evaluates, publishes, promotes and stores embeddings.
pub fn train(request: &TrainRequest<'_>) -> Result<TrainOutcome, TrainError> {
    let mut timings = Timings { clock_s: request.clock_s, last: (request.clock_s)(), phases: Vec::new() };
    let types = request.events.compile()?;
    let dataset = Dataset::current(request.lake)?;

    (request.progress)(TrainProgress { phase: "rows", done: 0, total: 0 });
    let training = rows::from_histories(&dataset, &types, request.model.trend)?;
    timings.end("rows");

    let backtest = if request.evaluate {
        (request.progress)(TrainProgress { phase: "evaluate", done: 0, total: 0 });
        let rows = backtest::run(&backtest::BacktestRequest {
            dataset: &dataset,
            events: request.events,
            quotas: &[None],
            model: request.model,
            training: request.training,
            kernels: request.kernels,
            progress: request.progress,
        })?;
        timings.end("evaluate");
        rows
    } else {
        Vec::new()
    };

    let titles = rows::titles(&dataset, &training.index)?;
    let title_refs: Vec<(&str, &str)> = titles.iter().map(|(t, c)| (t.as_str(), c.as_str())).collect();
    let provenance = Provenance {
        events: request.events,
        as_of_ms: training.newest_ms,
        demand: Some(&training.demand),
        titles: &title_refs,
        metrics: backtest::metrics(&backtest),
    };
    let learned = learn(request.kernels, &training.matrix, &training.index, request.model, &provenance, |progress| {
        (request.progress)(TrainProgress { phase: "train", done: progress.done as u64, total: progress.total as u64 });
    })?;
    timings.end("train");

    (request.progress)(TrainProgress { phase: "publish", done: 0, total: 0 });
    let file = write_scratch(request.scratch, &learned.snapshot)?;
    let metrics = serde_json::json!({ "backtest": backtest, "dataset": dataset.number() });
    let manifest = request.registry.publish(file.path(), &metrics, request.now_ms)?;
    let version = manifest.version.to_string();
    timings.end("publish");

    // Embeddings before the promotion: whoever sees the new model finds its vectors.
    let stored = match request.embeddings {
        Some(target) => {
            (request.progress)(TrainProgress { phase: "embed", done: 0, total: 0 });
            let stored = embeddings::store(target, &version, &training, &learned.model, &title_refs, request.training)?;
            // The current model is asked for its vectors until another one is promoted, and the one before after a rollback.
            let current = request.registry.current()?.pointer;
            let served = current.into_iter().flat_map(|pointer| [Some(pointer.version), pointer.previous]);
            let served: Vec<String> = served.flatten().map(|version| version.to_string()).collect();
            let in_use: Vec<&str> =
                std::iter::once(version.as_str()).chain(served.iter().map(String::as_str)).collect();
            embeddings::drop_old(target.store, &in_use, request.training.embedding_versions_kept)?;
            timings.end("embed");
            stored
        }
        None => (0, 0),
    };
    if request.promote {
        request.registry.promote(&version, "trained", request.now_ms)?;
    }
    Ok(TrainOutcome {
        version,
        is_promoted: request.promote,
        users: training.matrix.users() as u64,
        items: training.index.len() as u64,
        entries: training.matrix.len() as u64,
        snapshot_bytes: manifest.size,
        item_embeddings: stored.0,
        user_embeddings: stored.1,
        backtest,
        timings: timings.phases,
    })
}

fn write_scratch(scratch: &Path, bytes: &[u8]) -> Result<tempfile::NamedTempFile, BatchError> {
    use std::io::Write as _;
    std::fs::create_dir_all(scratch).map_err(|error| BatchError::scratch("create", scratch, error))?;
    let mut file = tempfile::NamedTempFile::new_in(scratch)
        .map_err(|error| BatchError::scratch("create a file in", scratch, error))?;
    file.write_all(bytes).map_err(|error| BatchError::scratch("write", file.path(), error))?;
    Ok(file)
}

struct Timings<'a> {
    clock_s: &'a dyn Fn() -> f64,
    last: f64,
    phases: Vec<(String, f64)>,
}

impl Timings<'_> {
    fn end(&mut self, phase: &str) {
        let now = (self.clock_s)();
        self.phases.push((phase.to_owned(), now - self.last));
        self.last = now;
    }
}

/// The figures of a report that people quote.
pub fn quoted(report: &Report) -> [(&'static str, f64); 4] {
    [("recall", report.recall), ("ndcg", report.ndcg), ("mrr", report.mrr), ("coverage", report.coverage)]
}

/// Dimensions and rounds in words, for the terminal.
pub fn describe(settings: &IalsSettings) -> String {
    format!("{} dimensions, {} rounds, seed {}", settings.dim, settings.iterations, settings.seed)
}
