//! The honest figure: a global time split. Everything before the last `test_days` days is history, what each user did
//! in those days is the test. The model beside popularity and the user's own most frequent items, with seen items shown
//! and hidden, at any quotas.

use std::collections::HashMap;

use anabranch_evaluation::{
    EvaluateError, EvaluateOptions, ModelRanker, MostFrequent, MostPopular, Report, TestItems, evaluate,
};
use anabranch_events::history::Entry;
use anabranch_events::settings::QUOTA_MAX;
use anabranch_events::{EventSettings, EventTypes, History, HistoryKey, ItemKey};
use anabranch_models::learn::{ItemIndex, LearnError, LearnSettings, Provenance, learn};
use anabranch_models::{Demand, Interactions, Kernels, Recommender, Snapshot, popularity};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

use super::{TrainError, TrainProgress, TrainingSettings};
use crate::dataset::Dataset;

const DAY_MS: i64 = 86_400_000;

/// Who made the lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// The model.
    Model,
    /// The most popular items for everyone.
    Popularity,
    /// The user's own most frequent items, filled up with popular ones.
    OwnMostFrequent,
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BacktestRow {
    /// Quota of every class, or none for the settings' own.
    pub quota: Option<usize>,
    /// Who made the lists.
    pub subject: Subject,
    /// The figures.
    pub report: Report,
    /// Newest time of the training part, milliseconds since 1970.
    pub split_ms: i64,
    /// Of how many users one was evaluated (1: all).
    pub one_user_in: u64,
}

/// What a back-test needs.
#[derive(Clone, Copy)]
pub struct BacktestRequest<'a> {
    /// The dataset.
    pub dataset: &'a Dataset<'a>,
    /// Event settings.
    pub events: &'a EventSettings,
    /// Quotas to compare; `None` takes the settings' own.
    pub quotas: &'a [Option<usize>],
    /// Model settings.
    pub model: &'a LearnSettings,
    /// Training settings.
    pub training: &'a TrainingSettings,
    /// The kernels.
    pub kernels: Kernels,
    /// Told now and then how far it is.
    pub progress: &'a dyn Fn(TrainProgress),
}

impl std::fmt::Debug for BacktestRequest<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BacktestRequest").field("quotas", &self.quotas).finish_non_exhaustive()
    }
}

/// The interactions on both sides of the split.
struct Split {
    ids: Vec<String>,
    /// Entries before the split, and items after it, by owner in order of their keys.
    owners: Vec<(Vec<Entry>, Vec<ItemKey>)>,
    at_ms: i64,
    one_user_in: u64,
}

/// Runs the back-test: for every quota one model and six lines.
pub fn run(request: &BacktestRequest<'_>) -> Result<Vec<BacktestRow>, TrainError> {
    let base = request.events.compile()?;
    let split = split(request, &base)?;
    let mut table = Vec::new();
    for quota in request.quotas {
        let events = quota.map_or_else(|| request.events.clone(), |quota| request.events.clone().with_quota(quota));
        let types = events.compile()?;
        one_quota(request, &events, &types, &split, *quota, &mut table)?;
    }
    Ok(table)
}

/// Parses `256`, `1024` or `unlimited`.
pub fn parse_quota(text: &str) -> Option<usize> {
    if text == "unlimited" {
        Some(QUOTA_MAX)
    } else {
        text.parse().ok().filter(|quota| (1..=QUOTA_MAX).contains(quota))
    }
}

/// The figures of the model at the settings' own quota, by name, as a snapshot's meta data keeps them.
pub fn metrics(table: &[BacktestRow]) -> std::collections::BTreeMap<String, f64> {
    let mut metrics = std::collections::BTreeMap::new();
    for row in table.iter().filter(|row| row.quota.is_none()) {
        let subject = match row.subject {
            Subject::Model => "model",
            Subject::Popularity => "popularity",
            Subject::OwnMostFrequent => "own-most-frequent",
        };
        let seen = if row.report.hide_seen { "hidden" } else { "shown" };
        for (name, value) in super::quoted(&row.report) {
            metrics.insert(format!("{subject}/seen-{seen}/{name}@{}", row.report.cutoff), value);
        }
    }
    metrics
}

fn split(request: &BacktestRequest<'_>, types: &EventTypes) -> Result<Split, TrainError> {
    let split_ms = super::rows::end_ms(request.dataset)? - i64::from(request.training.test_days) * DAY_MS;
    let clean = request.dataset.report().interactions.clean;
    let one_user_in = clean.div_ceil(request.training.evaluation_interactions_max.max(1)).max(1);
    let bots = request.dataset.bots()?;
    let mut ids: HashMap<ItemKey, String> = HashMap::new();
    let mut owners: HashMap<HistoryKey, (Vec<Entry>, Vec<ItemKey>)> = HashMap::new();
    for interaction in request.dataset.interactions(None) {
        let interaction = interaction?;
        let owner = match (interaction.user, interaction.session) {
            (Some(user), _) => HistoryKey::User(user.into()),
            (None, Some(session)) => HistoryKey::Session(session.into()),
            (None, None) => continue,
        };
        if matches!(&owner, HistoryKey::User(user) if bots.contains(&**user)) {
            continue;
        }
        if one_user_in > 1 && !ItemKey::of(owner.id()).0.is_multiple_of(one_user_in) {
            continue;
        }
        let item = ItemKey::of(&interaction.item);
        let Some(kind) = types.code(&interaction.event_type) else { continue };
        let side = owners.entry(owner).or_default();
        if interaction.time_ms < split_ms {
            ids.entry(item).or_insert(interaction.item);
            side.0.push(Entry {
                time_ms: interaction.time_ms,
                event: interaction.event,
                item,
                value: interaction.value,
                kind,
            });
        } else {
            side.1.push(item);
        }
    }
    // In order of keys, so that sums do not depend on the order of a hash map.
    let mut owners: Vec<_> = owners.into_iter().collect();
    owners.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    let owners = owners.into_iter().map(|(_, sides)| sides).collect();
    Ok(Split { ids: ids.into_values().collect(), owners, at_ms: split_ms, one_user_in })
}

fn one_quota(
    request: &BacktestRequest<'_>,
    events: &EventSettings,
    types: &EventTypes,
    split: &Split,
    quota: Option<usize>,
    table: &mut Vec<BacktestRow>,
) -> Result<(), TrainError> {
    let index = ItemIndex::new(split.ids.clone())?;
    if index.is_empty() {
        return Err(TrainError::Empty { problem: "nothing happened before the test days; lower [training] test_days" });
    }
    let mut rows = Vec::with_capacity(split.owners.len());
    let mut seen = Vec::with_capacity(split.owners.len());
    let mut test = Vec::with_capacity(split.owners.len());
    let mut demand = Demand::new(index.len(), split.at_ms, request.model.trend).map_err(LearnError::from)?;
    for (before, after) in &split.owners {
        let history = History::from_entries(before.clone(), types);
        index.count_demand(&history, types, &mut demand);
        rows.push(index.row(&history, types));
        seen.push(known(before.iter().map(|entry| entry.item), &index).0);
        let (items, unknown_count) = known(after.iter().copied(), &index);
        test.push(TestItems { items, unknown_count });
    }
    let matrix = Interactions::from_rows(index.len(), rows)?;
    let provenance = Provenance {
        events,
        as_of_ms: split.at_ms,
        demand: Some(&demand),
        titles: &[],
        metrics: std::collections::BTreeMap::new(),
    };
    let learned = learn(request.kernels, &matrix, &index, request.model, &provenance, |progress| {
        (request.progress)(TrainProgress {
            phase: "evaluate",
            done: progress.done as u64,
            total: progress.total as u64,
        });
    })?;
    let snapshot = Snapshot::from_bytes(&learned.snapshot).map_err(|error| TrainError::Evaluate(error.to_string()))?;
    let recommender = Recommender::new(Arc::new(snapshot), request.kernels);
    let popularity = popularity(&matrix);
    for hide_seen in [false, true] {
        let options = EvaluateOptions { cutoff: request.training.cutoff, hide_seen };
        let model = evaluate(&ModelRanker(&recommender), &matrix, &seen, &test, options).map_err(told)?;
        let popular = evaluate(&MostPopular::new(&popularity), &matrix, &seen, &test, options).map_err(told)?;
        let frequent = evaluate(&MostFrequent::new(&popularity), &matrix, &seen, &test, options).map_err(told)?;
        for (subject, report) in
            [(Subject::Model, model), (Subject::Popularity, popular), (Subject::OwnMostFrequent, frequent)]
        {
            table.push(BacktestRow { quota, subject, report, split_ms: split.at_ms, one_user_in: split.one_user_in });
        }
    }
    Ok(())
}

/// Indices of the known items, ascending and distinct, and the number of distinct unknown ones.
fn known(items: impl Iterator<Item = ItemKey>, index: &ItemIndex) -> (Vec<u32>, usize) {
    let mut items: Vec<ItemKey> = items.collect();
    items.sort_unstable();
    items.dedup();
    let mut found: Vec<u32> = items.iter().filter_map(|item| index.of(*item)).collect();
    let unknown = items.len() - found.len();
    found.sort_unstable();
    (found, unknown)
}

#[allow(clippy::needless_pass_by_value)] // the shape that `map_err` takes
fn told<E: std::error::Error>(error: EvaluateError<E>) -> TrainError {
    TrainError::Evaluate(error.to_string())
}
