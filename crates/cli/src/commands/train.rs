//! `anabranch train` and `anabranch evaluate`.

use anabranch_batch::dataset::Dataset;
use anabranch_batch::train::backtest::{self, BacktestRequest};
use anabranch_batch::train::{self, BacktestRow, EmbeddingTarget, Subject, TrainOutcome, TrainRequest, describe};
use anabranch_events::settings::QUOTA_MAX;
use anabranch_events::wire::time::format_time_ms;
use anabranch_models::Kernels;
use anabranch_stores::vectors::Access;

use crate::args::{EvaluateArgs, TrainArgs};
use crate::compose::Context;
use crate::failure::Failure;
use crate::ui::{grouped, table};

pub(crate) fn run(context: &Context, arguments: &TrainArgs) -> Result<(), Failure> {
    let outcome = train(context, !arguments.no_evaluate, !arguments.no_promote, !arguments.no_embeddings)?;
    context.ui.answer(&outcome, |outcome| {
        format!("{}\nNext: anabranch stream, or anabranch recommend --user ID", text(context, outcome))
    })
}

/// Trains with progress.
pub(crate) fn train(context: &Context, evaluate: bool, promote: bool, embed: bool) -> Result<TrainOutcome, Failure> {
    let lake = context.lake()?;
    let registry = context.registry()?;
    let vectors = if embed { Some(context.vectors(Access::ReadWrite)?) } else { None };
    let outcome = train::train(&TrainRequest {
        lake: &*lake,
        registry: &registry,
        embeddings: vectors.as_deref().map(|store| EmbeddingTarget { store, users: context.settings.vectors.users }),
        events: &context.settings.events,
        model: &context.settings.model,
        training: &context.settings.training,
        evaluate,
        promote,
        scratch: &context.scratch(),
        kernels: Kernels::best(),
        now_ms: anabranch_stream::Clock::now_ms(&*context.clock),
        clock_s: &|| context.clock.seconds(),
        progress: &|progress| context.ui.progress(progress.phase, progress.done, progress.total),
    })?;
    context.ui.end_bar();
    Ok(outcome)
}

pub(crate) fn evaluate(context: &Context, arguments: &EvaluateArgs) -> Result<(), Failure> {
    let quotas = arguments
        .quotas
        .iter()
        .map(|text| {
            backtest::parse_quota(text).map(Some).ok_or_else(|| {
                Failure::input(format!("--quotas {text:?}: give numbers from 1 to {QUOTA_MAX}, or unlimited"))
            })
        })
        .collect::<Result<Vec<_>, _>>()?;
    let mut training = context.settings.training.clone();
    training.test_days = arguments.test_days.unwrap_or(training.test_days);
    let lake = context.lake()?;
    let dataset = Dataset::current(&*lake)?;
    let rows = backtest::run(&BacktestRequest {
        dataset: &dataset,
        events: &context.settings.events,
        quotas: &quotas,
        model: &context.settings.model,
        training: &training,
        kernels: Kernels::best(),
        progress: &|progress| context.ui.progress(progress.phase, progress.done, progress.total),
    })?;
    context.ui.answer(&rows, |rows| figures(rows))
}

/// The table of figures.
pub(crate) fn figures(rows: &[BacktestRow]) -> String {
    let Some(first) = rows.first() else { return String::new() };
    let k = first.report.cutoff;
    let mut cells = Vec::new();
    for row in rows {
        let popular = rows
            .iter()
            .find(|other| {
                other.subject == Subject::Popularity
                    && other.quota == row.quota
                    && other.report.hide_seen == row.report.hide_seen
            })
            .map_or(0.0, |popular| popular.report.recall);
        let times = if popular > 0.0 { format!("{:.2}×", row.report.recall / popular) } else { "–".to_owned() };
        cells.push(vec![
            row.quota.map_or("settings".to_owned(), |quota| {
                if quota == QUOTA_MAX { "unlimited".to_owned() } else { quota.to_string() }
            }),
            if row.report.hide_seen { "hidden" } else { "shown" }.to_owned(),
            match row.subject {
                Subject::Model => "model",
                Subject::Popularity => "popularity",
                Subject::OwnMostFrequent => "own most frequent",
            }
            .to_owned(),
            format!("{:.4}", row.report.recall),
            format!("{:.4}", row.report.ndcg),
            format!("{:.4}", row.report.mrr),
            format!("{:.4}", row.report.coverage),
            times,
            grouped(row.report.users as u64),
        ]);
    }
    let head = [
        "quota",
        "seen",
        "lists by",
        &format!("recall@{k}"),
        &format!("ndcg@{k}"),
        &format!("mrr@{k}"),
        "coverage",
        "recall/pop.",
        "users",
    ];
    let mut out = table(&head, &cells);
    out.push_str(&format!("  history before {}, test after it", format_time_ms(first.split_ms)));
    if first.one_user_in > 1 {
        out.push_str(&format!("; one user in {}", first.one_user_in));
    }
    out.push('\n');
    out
}

/// What training made, for people.
pub(crate) fn text(context: &Context, outcome: &TrainOutcome) -> String {
    let timings: Vec<String> = outcome.timings.iter().map(|(phase, s)| format!("{phase} {s:.1} s")).collect();
    format!(
        "{}  model {} ({}): {} users × {} items, {} entries, {} KB{}\n  embeddings: {} items, {} users in {}\n  {}\n",
        figures(&outcome.backtest),
        outcome.version,
        describe(&context.settings.model.ials),
        grouped(outcome.users),
        grouped(outcome.items),
        grouped(outcome.entries),
        grouped(outcome.snapshot_bytes / 1000),
        if outcome.is_promoted { ", current now" } else { ", not promoted" },
        grouped(outcome.item_embeddings),
        grouped(outcome.user_embeddings),
        context.vectors_place(),
        timings.join(", "),
    )
}
