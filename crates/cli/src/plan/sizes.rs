//! How many bytes things have, by the code that writes them: a snapshot by its layout, a list by the line that is
//! delivered, a history by its codec and its item of DynamoDB.
//!
//! Not guessed here: lengths of ids and texts, which are the scenario's.

use anabranch_aws::dynamo::{item, size};
use anabranch_events::history::Entry;
use anabranch_events::recommendation::{Recommendation, RecommendedItem, Trigger};
use anabranch_events::{EventKey, EventSettings, EventTypes, History, HistoryKey, ItemKey, codec};
use anabranch_models::learn::LearnSettings;
use anabranch_models::snapshot::{SnapshotMeta, SnapshotShape};
use anabranch_stream::transform::NO_OVERLAY;
use serde::Serialize;

use super::scenario::Scenario;

/// 2023-11-14: times of today have as many digits.
const T_MS: i64 = 1_700_000_000_000;
/// Between two entries of a history: a delta of four bytes, as between half an hour and two days.
const STEP_MS: i64 = 3_600_000;
/// What a metric of the evaluation takes in the meta data, and how many there are, roughly.
const METRICS_BYTES: u64 = 1024;
/// DynamoDB adds this to an item that it stores.
const STORED_EXTRA_BYTES: u64 = 100;

/// Bytes, and what DynamoDB counts of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Sizes {
    /// A snapshot.
    pub(crate) snapshot_bytes: u64,
    /// Of it the item factors.
    pub(crate) factors_bytes: u64,
    /// A delivered list as a JSON line.
    pub(crate) line_bytes: u64,
    /// A history.
    pub(crate) history_bytes: u64,
    /// Its item of DynamoDB.
    pub(crate) item_bytes: u64,
    /// The same, stored.
    pub(crate) stored_bytes: u64,
    /// The largest item under the settings' quotas.
    pub(crate) largest_item_bytes: u64,
    /// Units of a write.
    pub(crate) write_units: u64,
    /// Units of a strongly consistent read.
    pub(crate) read_units: u64,
    /// An embedding of S3 Vectors: data, key, metadata.
    pub(crate) vector_bytes: u64,
}

impl Sizes {
    /// Of a scenario whose histories are folded under `types`.
    pub(crate) fn of(scenario: &Scenario, types: &EventTypes, events: &EventSettings, learn: &LearnSettings) -> Self {
        let history = history_bytes(scenario, types);
        let item_bytes = history_item_bytes(scenario, types) as u64;
        Self {
            snapshot_bytes: snapshot(scenario, events, learn).bytes(),
            factors_bytes: scenario.items.saturating_mul(scenario.dim).saturating_mul(4),
            line_bytes: line_bytes(scenario),
            history_bytes: history,
            item_bytes,
            stored_bytes: item_bytes + STORED_EXTRA_BYTES,
            largest_item_bytes: size::largest_item_bytes(types) as u64,
            write_units: size::write_units(item_bytes as usize) as u64,
            read_units: size::read_units(item_bytes as usize) as u64,
            vector_bytes: scenario.dim * 4 + scenario.item_id_bytes + scenario.text_bytes,
        }
    }
}

/// The shape of the scenario's snapshot: every item has its neighbours, ids and texts of the mean length. The meta data
/// are real but for the metrics, so the length is right to about a KB.
pub(crate) fn snapshot(scenario: &Scenario, events: &EventSettings, learn: &LearnSettings) -> SnapshotShape {
    let items = scenario.items;
    let meta = SnapshotMeta {
        version: format!("as-of-{T_MS}"),
        created_ms: T_MS,
        as_of_ms: T_MS,
        ials: learn.ials,
        neighbours: learn.neighbours,
        blend: learn.blend,
        trend: learn.trend,
        user_count: scenario.users,
        item_count: items,
        interaction_count: scenario.users.saturating_mul(scenario.history_entries),
        event_settings: serde_json::to_value(events).unwrap_or_default(),
        metrics: std::collections::BTreeMap::new(),
    };
    let meta_bytes = serde_json::to_vec(&meta).map_or(0, |bytes| bytes.len() as u64) + METRICS_BYTES;
    let texts = items.saturating_mul(scenario.text_bytes);
    SnapshotShape {
        items,
        dim: scenario.dim,
        neighbours: items.saturating_mul(scenario.neighbours.min(items - 1)),
        id_bytes: items.saturating_mul(scenario.item_id_bytes),
        catalogue_bytes: (scenario.text_bytes > 0).then_some((texts, 0)),
        meta_bytes,
    }
}

/// A list as the stream writes it, its newline included.
fn line_bytes(scenario: &Scenario) -> u64 {
    let id = "i".repeat(scenario.item_id_bytes as usize);
    // Scores have 9 or 10 characters, most of them.
    let item = RecommendedItem { item_id: id.as_str().into(), score: 0.123_456_79 };
    let list = Recommendation {
        recommendation_id: "0123456789abcdef0123456789abcdef".into(),
        user_id: Some("u".repeat(scenario.user_id_bytes as usize).into()),
        session_id: None,
        event_id: "0123456789abcdef".into(),
        event_type: "purchase".into(),
        event_item_id: id.as_str().into(),
        event_time_ms: T_MS,
        arrival_time_ms: T_MS,
        trigger: if scenario.is_per_event { Trigger::Event } else { Trigger::User },
        shard_id: "shardId-000000000000".into(),
        sequence_number: "4".repeat(56).into(),
        sub_sequence_number: None,
        snapshot_version: "0123456789abcdef".into(),
        overlay_version: NO_OVERLAY.into(),
        items: vec![item; scenario.list_length as usize],
    };
    serde_json::to_vec(&list).map_or(0, |line| line.len() as u64) + 1
}

/// A history of the scenario's entries, newest an hour ago, spread over the event types as far as their quotas go.
fn history(scenario: &Scenario, types: &EventTypes) -> History {
    let kinds = types.types().len();
    let entries = (0..scenario.history_entries).map(|entry| {
        let key = (entry + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // Half of the entries are of the first type, a quarter of the second, and so on.
        let kind = ((entry + 1).trailing_zeros() as usize).min(kinds - 1) as u8;
        let time_ms = T_MS - entry as i64 * STEP_MS;
        Entry { time_ms, event: EventKey(key), item: ItemKey(!key), value: None, kind }
    });
    History::from_entries(entries.collect(), types)
}

fn history_bytes(scenario: &Scenario, types: &EventTypes) -> u64 {
    codec::encode(&history(scenario, types), types).len() as u64
}

fn history_item_bytes(scenario: &Scenario, types: &EventTypes) -> usize {
    let key = HistoryKey::User("u".repeat(scenario.user_id_bytes as usize).into());
    let bytes = codec::encode(&history(scenario, types), types);
    size::item_bytes(&item::history_item(&key, bytes, T_MS / 1000))
}
