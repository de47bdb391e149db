//! The delivered record. Its id is a pure function of stream, user, event and trigger, so a reader (or
//! Firehose's at-least-once delivery) can drop repeats; where it came from (shard, sequence number, snapshot
//! and overlay version) are fields.

use std::borrow::Cow;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::ids::{EventKey, HistoryKey, recommendation_hash};

/// What caused a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trigger {
    /// One event, scored with the history as of that event.
    Event,
    /// The last of a user's events in one cut.
    User,
}

impl Trigger {
    const fn as_bytes(self) -> &'static [u8] {
        match self {
            Self::Event => b"event",
            Self::User => b"user",
        }
    }
}

/// One recommended item.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecommendedItem<'a> {
    /// External item id.
    pub item_id: Cow<'a, str>,
    /// The model's score; comparable within one list only.
    #[serde(deserialize_with = "finite")]
    pub score: f32,
}

/// A number beyond 32 bits would be infinite, and JSON has no way to write that again.
fn finite<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f32, D::Error> {
    let score = f32::deserialize(deserializer)?;
    if score.is_finite() { Ok(score) } else { Err(D::Error::custom("a score is not a finite 32-bit number")) }
}

/// One delivered recommendation list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Recommendation<'a> {
    /// Deterministic id: 32 hexadecimal digits.
    pub recommendation_id: Cow<'a, str>,
    /// The user, if known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub user_id: Option<Cow<'a, str>>,
    /// The session, if the user is unknown.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub session_id: Option<Cow<'a, str>>,
    /// The triggering event: its producer's id, or the derived key in hexadecimal.
    pub event_id: Cow<'a, str>,
    /// Type of the triggering event.
    pub event_type: Cow<'a, str>,
    /// Item of the triggering event.
    pub event_item_id: Cow<'a, str>,
    /// Event time, milliseconds since 1970.
    pub event_time_ms: i64,
    /// Arrival in the stream, milliseconds since 1970.
    pub arrival_time_ms: i64,
    /// What caused the list.
    pub trigger: Trigger,
    /// The shard that carried the event.
    pub shard_id: Cow<'a, str>,
    /// Its sequence number there.
    pub sequence_number: Cow<'a, str>,
    /// Its place in the aggregate (KPL) that carried it; only for events that came in one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sub_sequence_number: Option<u64>,
    /// Version of the snapshot that scored.
    pub snapshot_version: Cow<'a, str>,
    /// Version of the overlay that applied.
    pub overlay_version: Cow<'a, str>,
    /// The list, best first.
    pub items: Vec<RecommendedItem<'a>>,
}

/// The id of the list that `event` of class `class` triggers for the owner of `key` in the stream `namespace`.
///
/// The class is part of the id because it is part of an event's identity (see [`crate::history`]).
pub fn recommendation_id(namespace: &str, key: &HistoryKey, class: &str, event: EventKey, trigger: Trigger) -> String {
    let hash = recommendation_hash(&[
        namespace.as_bytes(),
        &key.to_bytes(),
        class.as_bytes(),
        &event.0.to_le_bytes(),
        trigger.as_bytes(),
    ]);
    format!("{hash:032x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The law of the fuzz target of lists, broken when it was written down: 1e39 was read as infinity, which is written as
    /// `null`.
    #[test]
    fn a_score_beyond_32_bits_is_refused() {
        let item = |score: &str| {
            serde_json::from_str::<RecommendedItem<'_>>(&format!(r#"{{"itemId":"i","score":{score}}}"#)).is_ok()
        };
        assert!(item("3.4e38") && item("-1e-50"));
        assert!(!item("1e39") && !item("-1e39") && !item("null"));
    }

    #[test]
    fn ids_are_frozen_and_tell_everything_apart() {
        let user = HistoryKey::User("u1".into());
        let id = |ns: &str, key: &HistoryKey, class: &str, event: u64, trigger| {
            recommendation_id(ns, key, class, EventKey(event), trigger)
        };
        let base = id("s-1", &user, "view", 1, Trigger::Event);
        assert_eq!(base, "0a0a94e5b2a7db402af2675c1e2e6afe");
        let others = [
            id("s-2", &user, "view", 1, Trigger::Event),
            id("s-1", &HistoryKey::Session("u1".into()), "view", 1, Trigger::Event),
            id("s-1", &user, "purchase", 1, Trigger::Event),
            id("s-1", &user, "view", 2, Trigger::Event),
            id("s-1", &user, "view", 1, Trigger::User),
        ];
        assert!(others.iter().all(|other| *other != base));
    }
}
