//! How good lists are: the metrics, the baselines that every model is shown beside, and the loop that measures both.
//!
//! Every quality figure of this project comes through [`evaluate`], so that a baseline and a model are never measured
//! by two rulers. Splitting data by time and building rows is the caller's work; here a test set is item indices.

mod baselines;
mod evaluate;
pub mod metrics;
mod ranker;

pub use baselines::{MostFrequent, MostPopular};
pub use evaluate::{EvaluateError, EvaluateOptions, Report, TestItems, evaluate, seen_of};
pub use ranker::{ModelRanker, RankQuery, Ranker};
