//! `anabranch recommend`: one user's list with its explanation, or lists for all.

use anabranch_batch::dataset::Dataset;
use anabranch_batch::train::bulk;
use anabranch_batch::train::rows::effective_histories;
use anabranch_events::history::effective;
use anabranch_events::{History, HistoryKey, codec};
use anabranch_server::answers::{self, ExplainAnswer, RecommendAnswer};
use anabranch_stores::ErrorKind;
use anabranch_stores::state::State;

use crate::account::refuse;
use crate::args::RecommendArgs;
use crate::compose::{Context, owner};
use crate::failure::Failure;
use crate::remote::{Holder, Remote, holder};
use crate::ui::{cut, grouped, ranked, table};

pub(crate) fn run(context: &Context, arguments: &RecommendArgs) -> Result<(), Failure> {
    let length = arguments.length.unwrap_or(context.settings.stream.list_length);
    if !(1..=answers::LIST_LENGTH_MAX).contains(&length) {
        return Err(Failure::input(format!("a list has 1 to {} items", answers::LIST_LENGTH_MAX)));
    }
    if arguments.all {
        return all(context, arguments, length);
    }
    let key = owner(arguments.user.as_deref(), arguments.session.as_deref())?;
    let asked = match holder(context)? {
        Holder::Running(remote) => remotely(context, &remote, &key, arguments, length)?,
        Holder::Here(state) => {
            let history = effective(&key, &context.types, &mut |key| {
                Ok::<_, Failure>(state.history(key, &context.types)?.map(|held| held.history))
            })?;
            locally(context, &key, &history.unwrap_or_default(), arguments, length)?
        }
        Holder::Table(table) => {
            locally(context, &key, &table.effective(context, &key)?.unwrap_or_default(), arguments, length)?
        }
        Holder::Nobody => {
            let history = from_dataset(context, &key)?.unwrap_or_default();
            locally(context, &key, &history, arguments, length)?
        }
    };
    match asked {
        (answer, None) => context.ui.answer(&answer, list_text),
        (_, Some(explanation)) => context.ui.answer(&explanation, explanation_text),
    }
}

fn remotely(
    context: &Context,
    remote: &Remote,
    key: &HistoryKey,
    arguments: &RecommendArgs,
    length: usize,
) -> Result<(RecommendAnswer, Option<ExplainAnswer>), Failure> {
    let kind = ("kind", kind(key).to_owned());
    let hide = serde_json::to_value(context.hide(arguments.hide)).ok().and_then(|v| v.as_str().map(str::to_owned));
    let query = [("n", length.to_string()), ("hide", hide.unwrap_or_default()), kind.clone()];
    let answer: RecommendAnswer = remote.get(&["recommendations", key.id()], &query)?;
    let explanation = match explained(arguments, &answer)? {
        Some(item) => Some(remote.get(&["explain", key.id(), &item], &[kind])?),
        None => None,
    };
    Ok((answer, explanation))
}

fn locally(
    context: &Context,
    key: &HistoryKey,
    history: &History,
    arguments: &RecommendArgs,
    length: usize,
) -> Result<(RecommendAnswer, Option<ExplainAnswer>), Failure> {
    let model = context.model()?;
    model.check_types(&context.types)?;
    let hide = context.hide(arguments.hide);
    let answer = answers::recommend(&model, key, history, length, hide).map_err(Failure::input)?;
    let explanation = match explained(arguments, &answer)? {
        Some(item) => Some(answers::explain(&model, key, history, &item).map_err(Failure::missing)?),
        None => None,
    };
    Ok((answer, explanation))
}

/// The item to explain, if any.
fn explained(arguments: &RecommendArgs, answer: &RecommendAnswer) -> Result<Option<String>, Failure> {
    if !arguments.explain {
        return Ok(None);
    }
    let first = answer.items.first().map(|item| item.item_id.clone());
    arguments.item.clone().or(first).map(Some).ok_or_else(|| Failure::missing("the list is empty: nothing to explain"))
}

/// The effective history that the dataset holds, where no stream has begun yet.
pub(crate) fn from_dataset(context: &Context, key: &HistoryKey) -> Result<Option<History>, Failure> {
    let lake = context.lake()?;
    let dataset = Dataset::current(&*lake)?;
    let find = |wanted: &HistoryKey| -> Result<Option<History>, Failure> {
        for entry in dataset.histories() {
            let (key, bytes) = entry?;
            if key == *wanted {
                let history = codec::decode(&bytes, &context.types)
                    .map_err(|e| Failure::of(ErrorKind::Corrupt, format!("{key}: {e}")))?;
                return Ok(Some(history));
            }
        }
        Ok(None)
    };
    effective(key, &context.types, &mut |key| find(key))
}

fn all(context: &Context, arguments: &RecommendArgs, length: usize) -> Result<(), Failure> {
    refuse(
        context,
        "recommend --all",
        "make them from the dataset, with [source] kind = \"embedded\" and a fresh --home",
    )?;
    let lake = context.lake()?;
    let model = context.model()?;
    model.check_types(&context.types)?;
    let hide = context.hide(arguments.hide);
    let mut progress = |users| context.ui.progress("recommend", users, 0);
    let outcome = match holder(context)? {
        Holder::Here(state) => {
            let mut histories = of_state(context, &state);
            bulk::recommend_all::<Failure>(&*lake, &model, &mut histories, length, hide, &mut progress)?
        }
        Holder::Running(_) => {
            return Err(Failure::of(
                ErrorKind::Fenced,
                "a stream is running on this state; stop it for bulk lists, or read what it delivers",
            ));
        }
        Holder::Table(_) | Holder::Nobody => {
            let dataset = Dataset::current(&*lake)?;
            let mut histories = effective_histories(&dataset, &context.types)?.map(|entry| Ok(entry?));
            bulk::recommend_all::<Failure>(&*lake, &model, &mut histories, length, hide, &mut progress)?
        }
    };
    context.ui.answer(&outcome, |outcome| {
        format!(
            "{} lists of {length} in {lake}/{} and {lake}/{}",
            grouped(outcome.users),
            outcome.jsonl,
            outcome.parquet,
            lake = context.lake_location()
        )
    })
}

fn of_state<'a>(
    context: &'a Context,
    state: &'a State,
) -> impl Iterator<Item = Result<(HistoryKey, History), Failure>> + 'a {
    state.histories(&context.types).filter_map(move |stored| {
        let stored = match stored {
            Ok(stored) => stored,
            Err(error) => return Some(Err(error.into())),
        };
        if matches!(stored.key, HistoryKey::Session(_)) {
            return None;
        }
        let joined = effective(&stored.key, &context.types, &mut |key| {
            Ok::<_, Failure>(state.history(key, &context.types)?.map(|held| held.history))
        });
        Some(joined.map(|history| (stored.key, history.unwrap_or_default())))
    })
}

/// `user` or `session`.
pub(crate) const fn kind(key: &HistoryKey) -> &'static str {
    match key {
        HistoryKey::User(_) => "user",
        HistoryKey::Session(_) => "session",
    }
}

/// A list, for people.
pub(crate) fn list_text(answer: &RecommendAnswer) -> String {
    let rows: Vec<Vec<String>> = answer
        .items
        .iter()
        .enumerate()
        .map(|(place, item)| {
            let (title, category) = (item.title.as_deref().unwrap_or(""), item.category.as_deref().unwrap_or(""));
            ranked(place, &item.item_id, title, category, item.score)
        })
        .collect();
    let from = if answer.history_events == 0 {
        "no history: popular items".to_owned()
    } else {
        format!("from {} remembered events", answer.history_events)
    };
    format!("{}  {from}, model {}", table(&["", "item", "title", "category", "score"], &rows), answer.snapshot_version)
}

fn explanation_text(answer: &ExplainAnswer) -> String {
    let rows: Vec<Vec<String>> = answer
        .parts
        .iter()
        .take(20)
        .map(|part| {
            vec![
                format!("{:+.6}", part.contribution),
                part.kind.clone(),
                part.history_item_id.clone().unwrap_or_default(),
                cut(part.title.as_deref().unwrap_or(""), 44),
            ]
        })
        .collect();
    let rest: f64 = answer.parts.iter().skip(20).map(|part| part.contribution).sum();
    let mut out = format!(
        "{} {}\n{}",
        answer.item_id,
        answer.title.as_deref().unwrap_or(""),
        table(&["adds", "through", "history item", "title"], &rows)
    );
    if answer.parts.len() > 20 {
        out.push_str(&format!("  {rest:+.6}  {} smaller parts\n", answer.parts.len() - 20));
    }
    out.push_str(&format!("  = {:.6}, the score in the list (model {})", answer.score, answer.snapshot_version));
    out
}
