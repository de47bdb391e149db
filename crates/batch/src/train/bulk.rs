//! Lists for every user: JSON Lines in Amazon Personalize's batch form, and Parquet.

use std::io::Write;

use anabranch_events::{History, HistoryKey};
use anabranch_models::{Hide, Model, Query, Scored};
use anabranch_stores::lake::{ObjectPath, ObjectStore};
use serde::Serialize;

use super::TrainError;
use crate::BatchError;
use crate::tables::{Column, Table, TextBuilder};

/// Users whose lists are made together.
const USERS_PER_BATCH: usize = 4096;

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BulkOutcome {
    /// Users with a list.
    pub users: u64,
    /// The JSON Lines object.
    pub jsonl: String,
    /// The Parquet object.
    pub parquet: String,
}

#[derive(Serialize)]
struct Line<'a> {
    input: Input<'a>,
    output: Output<'a>,
    error: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Input<'a> {
    user_id: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Output<'a> {
    recommended_items: Vec<&'a str>,
    scores: Vec<f32>,
}

/// Makes the lists of all `histories` (effective ones, of users) and writes them below `bulk/<model version>/`.
pub fn recommend_all<E: From<TrainError>>(
    store: &dyn ObjectStore,
    model: &Model,
    histories: &mut dyn Iterator<Item = Result<(HistoryKey, History), E>>,
    list_length: usize,
    hide: Hide,
    progress: &mut dyn FnMut(u64),
) -> Result<BulkOutcome, E> {
    let encoding =
        |error: std::io::Error| TrainError::from(BatchError::Encode { what: "bulk lists", detail: error.to_string() });
    let mut jsonl = zstd::stream::write::Encoder::new(Vec::new(), 1).map_err(encoding)?;
    let mut groups: Vec<Vec<Column>> = Vec::new();
    let mut users = 0;
    loop {
        // Sessions' histories come before the users': a batch of nothing else is no end.
        let entries = (&mut *histories).take(USERS_PER_BATCH).collect::<Result<Vec<_>, E>>()?;
        if entries.is_empty() {
            break;
        }
        let mut batch = Vec::with_capacity(entries.len());
        for (key, history) in entries {
            let HistoryKey::User(user) = key else { continue };
            batch.push((user, model.row(&history), model.hidden(&history, hide)));
        }
        if batch.is_empty() {
            continue;
        }
        let queries: Vec<Query<'_>> =
            batch.iter().map(|(_, row, hidden)| Query { row, exclude: hidden, k: list_length }).collect();
        let lists = model.recommender().recommend_parallel(&queries);
        let (mut ids, mut items, mut ranks, mut scores) =
            (TextBuilder::required(), TextBuilder::required(), Vec::new(), Vec::new());
        for ((user, _, _), list) in batch.iter().zip(lists) {
            let list = list.map_err(|error| TrainError::Evaluate(format!("the list of user {user}: {error}")))?;
            let line = Line {
                input: Input { user_id: user },
                output: Output {
                    recommended_items: list.iter().map(|scored| model.snapshot().item_id(scored.item())).collect(),
                    scores: list.iter().map(Scored::score).collect(),
                },
                error: None,
            };
            serde_json::to_writer(&mut jsonl, &line).map_err(|error| encoding(error.into()))?;
            jsonl.write_all(b"\n").map_err(encoding)?;
            for (rank, scored) in list.iter().enumerate() {
                ids.push(Some(user.as_bytes()));
                items.push(Some(model.snapshot().item_id(scored.item()).as_bytes()));
                ranks.push(rank as i64 + 1);
                scores.push(f64::from(scored.score()));
            }
        }
        groups.push(vec![
            ids.finish(),
            Column::Long(ranks),
            items.finish(),
            Column::Double { values: scores, present: Vec::new() },
        ]);
        users += batch.len() as u64;
        progress(users);
    }
    let table = Table::new(
        "bulk lists",
        "message recommendations { required binary user_id (STRING); required int64 rank; \
         required binary item_id (STRING); required double score; }",
        &["score"],
        &["rank"],
    );
    let mut groups = groups.into_iter();
    let parquet = table.encode(|| groups.next()).map_err(TrainError::from)?;
    let folder = format!("bulk/{}", model.version());
    let put = |name: &str, bytes: &[u8]| -> Result<String, TrainError> {
        let path = ObjectPath::new(format!("{folder}/{name}")).map_err(BatchError::from)?;
        store.put(&path, bytes).map_err(BatchError::from)?;
        Ok(path.as_str().to_owned())
    };
    let jsonl = put("recommendations.jsonl.zst", &jsonl.finish().map_err(encoding)?)?;
    let parquet = put("recommendations.parquet", &parquet)?;
    Ok(BulkOutcome { users, jsonl, parquet })
}
