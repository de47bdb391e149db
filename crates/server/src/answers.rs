//! What is answered about a user: pure functions of (model, history), so that a server that holds a running stream and
//! a command that opens a state which no stream holds say the same.
//!
//! Names in JSON are Amazon Personalize's where it has one.

use anabranch_events::history::NO_FLOOR;
use anabranch_events::wire::time::format_time_ms;
use anabranch_events::{EventTypes, History, HistoryKey, ItemKey};
use anabranch_models::{Hide, Model, PartKind, Query, RecommendError, Scored, Snapshot};
use serde::{Deserialize, Serialize};

/// The longest list that is given.
pub const LIST_LENGTH_MAX: usize = 500;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// The snapshot does not know the item.
    #[error("snapshot {version} does not know item {item:?}: check the id, or train again if the item is new")]
    UnknownItem {
        /// The item asked for.
        item: String,
        /// The snapshot.
        version: String,
    },
    /// The recommender refused the question.
    #[error(transparent)]
    Recommend(#[from] RecommendError),
}

/// Whose answer it is: exactly one of both is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    /// The user.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub user_id: Option<String>,
    /// The anonymous session.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub session_id: Option<String>,
}

impl From<&HistoryKey> for Owner {
    fn from(key: &HistoryKey) -> Self {
        match key {
            HistoryKey::User(id) => Self { user_id: Some(id.to_string()), session_id: None },
            HistoryKey::Session(id) => Self { user_id: None, session_id: Some(id.to_string()) },
        }
    }
}

/// An item of a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListedItem {
    /// The item.
    pub item_id: String,
    /// Its score; comparable within one list only.
    pub score: f32,
    /// Its title, if the catalogue has one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub title: Option<String>,
    /// Its category, if the catalogue has one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub category: Option<String>,
}

/// A list and what it was made from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecommendAnswer {
    /// Whose list.
    #[serde(flatten)]
    pub owner: Owner,
    /// The list, best first.
    pub items: Vec<ListedItem>,
    /// The model that made it.
    pub snapshot_version: String,
    /// Entries of the effective history; 0 gives the popular items.
    pub history_events: usize,
    /// Event time of the newest, milliseconds since 1970.
    pub newest_event_ms: Option<i64>,
}

/// A contribution to a score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedPart {
    /// `popularity`, `history`, `neighbours` or `factors`.
    pub kind: String,
    /// The item of the history that it comes from; none for popularity.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub history_item_id: Option<String>,
    /// That item's title.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub title: Option<String>,
    /// What it adds to the score; may be negative.
    pub contribution: f64,
}

/// Why an item has its score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainAnswer {
    /// Whose score.
    #[serde(flatten)]
    pub owner: Owner,
    /// The explained item.
    pub item_id: String,
    /// Its title.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub title: Option<String>,
    /// The score that a list would show.
    pub score: f32,
    /// Its parts, greatest first; they sum to the score within 1e-5.
    pub parts: Vec<ExplainedPart>,
    /// The model that scored.
    pub snapshot_version: String,
}

/// An entry of a history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HistoryEntry {
    /// Event time, RFC 3339 in UTC.
    pub time: String,
    /// Event time, milliseconds since 1970.
    pub time_ms: i64,
    /// Event type.
    pub event_type: String,
    /// The item; `#` and its hash in hexadecimal if the snapshot does not know it.
    pub item_id: String,
    /// Its title.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub title: Option<String>,
    /// The event's value.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub value: Option<f32>,
}

/// A session of a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionSeen {
    /// The session.
    pub session_id: String,
    /// Its newest time, milliseconds since 1970.
    pub newest_ms: i64,
}

/// What the system remembers of one user or session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HistoryAnswer {
    /// Whose history.
    #[serde(flatten)]
    pub owner: Owner,
    /// Entries, newest first.
    pub entries: Vec<HistoryEntry>,
    /// Items remembered as seen, also beyond the entries.
    pub seen_count: usize,
    /// Sessions known to be this user's.
    pub sessions: Vec<SessionSeen>,
    /// Everything at or below this time was erased, milliseconds since 1970; none if nothing was.
    pub floor_ms: Option<i64>,
}

/// The list of `key` with the effective history `history`: at most `list_length` items, best first.
///
/// A history whose weights cannot be folded in (of absurd scale) gets the popular items, as in the delivered lists.
pub fn recommend(
    model: &Model,
    key: &HistoryKey,
    history: &History,
    list_length: usize,
    hide: Hide,
) -> Result<RecommendAnswer, AnswerError> {
    let row = model.row(history);
    let hidden = model.hidden(history, hide);
    let items = match list(model, &row, &hidden, list_length) {
        Err(RecommendError::FoldIn(error)) => {
            tracing::warn!(%error, "fold-in failed; popular items instead");
            list(model, &[], &hidden, list_length)
        }
        other => other,
    }?;
    let snapshot = model.snapshot();
    Ok(RecommendAnswer {
        owner: key.into(),
        items: items
            .iter()
            .map(|scored| ListedItem {
                item_id: snapshot.item_id(scored.item()).to_owned(),
                score: scored.score(),
                title: title(snapshot, scored.item()),
                category: snapshot.item_category(scored.item()).map(str::to_owned),
            })
            .collect(),
        snapshot_version: model.version().to_owned(),
        history_events: history.len(),
        newest_event_ms: history.newest_ms(),
    })
}

fn list(model: &Model, row: &[(u32, f32)], hidden: &[u32], list_length: usize) -> Result<Vec<Scored>, RecommendError> {
    let query = Query { row, exclude: hidden, k: list_length };
    let recommender = model.recommender();
    recommender.recommend(&mut recommender.scratch(), &[query]).pop().unwrap_or(Ok(Vec::new()))
}

/// Why `item` has its score for the effective history `history`.
pub fn explain(model: &Model, key: &HistoryKey, history: &History, item: &str) -> Result<ExplainAnswer, AnswerError> {
    let snapshot = model.snapshot();
    let index = snapshot
        .item_index(item)
        .ok_or_else(|| AnswerError::UnknownItem { item: item.to_owned(), version: model.version().to_owned() })?;
    let recommender = model.recommender();
    let explanation = recommender.explain(&mut recommender.scratch(), &model.row(history), index)?;
    let mut parts = explanation.parts;
    parts.sort_by(|a, b| b.contribution.total_cmp(&a.contribution));
    let parts = parts
        .into_iter()
        .map(|part| ExplainedPart {
            kind: part_name(part.kind).to_owned(),
            history_item_id: part.history_item.map(|entry| snapshot.item_id(entry).to_owned()),
            title: part.history_item.and_then(|entry| title(snapshot, entry)),
            contribution: part.contribution,
        })
        .collect();
    Ok(ExplainAnswer {
        owner: key.into(),
        item_id: item.to_owned(),
        title: title(snapshot, index),
        score: explanation.score,
        parts,
        snapshot_version: model.version().to_owned(),
    })
}

/// The history of `key` for people to read. Without a snapshot every item is named by its hash.
pub fn history(types: &EventTypes, snapshot: Option<&Snapshot>, key: &HistoryKey, history: &History) -> HistoryAnswer {
    let mut entries: Vec<_> = history.entries().collect();
    entries.sort_by_key(|entry| std::cmp::Reverse((entry.time_ms, entry.event)));
    let entries = entries
        .into_iter()
        .map(|entry| {
            let (item_id, title) = name_of(snapshot, entry.item);
            HistoryEntry {
                time: format_time_ms(entry.time_ms).into_owned(),
                time_ms: entry.time_ms,
                event_type: types.get(entry.kind).name.to_string(),
                item_id,
                title,
                value: entry.value,
            }
        })
        .collect();
    let sessions = history
        .sessions()
        .map(|(session, newest_ms)| SessionSeen { session_id: session.to_owned(), newest_ms })
        .collect();
    let floor_ms = Some(history.floor_ms()).filter(|floor| *floor != NO_FLOOR);
    HistoryAnswer { owner: key.into(), entries, seen_count: history.seen().len(), sessions, floor_ms }
}

fn name_of(snapshot: Option<&Snapshot>, item: ItemKey) -> (String, Option<String>) {
    match snapshot.and_then(|snapshot| Some((snapshot, snapshot.item_index_by_hash(item.0)?))) {
        Some((snapshot, index)) => (snapshot.item_id(index).to_owned(), title(snapshot, index)),
        None => (item.to_string(), None),
    }
}

fn title(snapshot: &Snapshot, item: u32) -> Option<String> {
    snapshot.item_title(item).map(str::to_owned)
}

const fn part_name(kind: PartKind) -> &'static str {
    match kind {
        PartKind::Popularity => "popularity",
        PartKind::History => "history",
        PartKind::Neighbours => "neighbours",
        PartKind::Factors => "factors",
    }
}
