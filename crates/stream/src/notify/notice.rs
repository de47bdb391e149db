//! What waits in the outbox, and what a receiver gets.
//!
//! A notice holds no list: it says which rule an event triggered, and the list is made when it is due, from the history
//! and the model of that moment. So an event that is rolled forward over (its list was delivered before a crash) leaves
//! the same notice as one that was not.

use anabranch_events::{EventKey, HistoryKey, RecommendedItem};
use anabranch_stores::state::outbox::{Entry, Place};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128_with_seed};

/// Seed of ids, so that they share nothing with those of lists.
const SEED: u64 = 0x6e6f_7469_6365_0001;

/// A notice that waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// See [`id`].
    #[serde(skip)]
    pub id: u128,
    /// The rule.
    pub rule: String,
    /// Whose event triggered it.
    #[serde(with = "owner")]
    pub owner: HistoryKey,
    /// The shard that carried the event.
    pub shard: u64,
    /// The producer's id of the event, or the derived one.
    pub event_id: String,
    /// Its type.
    pub event_type: String,
    /// Its item.
    pub item: String,
    /// Its time, milliseconds since 1970.
    pub time_ms: i64,
    /// Its record's arrival, milliseconds since 1970.
    pub arrival_ms: i64,
    /// What arrived up to here has its say first.
    pub settled_ms: i64,
    /// When it is due: then, or at the end of the quiet hours in which that lies. Cool-downs count from here.
    pub due_ms: i64,
    /// Attempts to send it.
    pub attempts: u32,
    /// When the next attempt may be made.
    pub not_before_ms: i64,
}

impl Notice {
    /// Its place in the outbox.
    pub const fn place(&self) -> Place {
        (self.due_ms, self.id)
    }

    /// As the outbox keeps it.
    pub fn to_entry(&self) -> Entry {
        let body = serde_json::to_vec(self).expect("texts and numbers serialise into memory");
        Entry { id: self.id, due_ms: self.due_ms, owner: self.owner.clone(), time_ms: self.time_ms, body }
    }

    /// Reads [`Notice::to_entry`]; `None` if the bytes are not a notice.
    pub fn from_entry(entry: &Entry) -> Option<Self> {
        let notice: Self = serde_json::from_slice(&entry.body).ok()?;
        Some(Self { id: entry.id, ..notice })
    }
}

/// The id of the notification that `event` of class `class` triggers by `rule` for the owner of `key` in the stream
/// `namespace`. The class is part of an event's identity.
pub fn id(namespace: &str, rule: &str, key: &HistoryKey, class: &str, event: EventKey) -> u128 {
    let owner = key.to_bytes();
    let parts = [namespace.as_bytes(), rule.as_bytes(), &owner, class.as_bytes(), &event.0.to_le_bytes()];
    let mut bytes = Vec::with_capacity(parts.iter().map(|part| part.len() + 4).sum());
    for part in parts {
        bytes.extend_from_slice(&(part.len() as u32).to_le_bytes());
        bytes.extend_from_slice(part);
    }
    xxh3_128_with_seed(&bytes, SEED)
}

/// What a receiver gets, as JSON.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Body<'a> {
    /// The same for a repeat.
    pub notification_id: &'a str,
    /// The rule.
    pub rule: &'a str,
    /// The stream's name and creation time.
    pub stream: &'a str,
    /// The user, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<&'a str>,
    /// The session, if the event named no user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<&'a str>,
    /// The event.
    pub event_id: &'a str,
    /// Its type.
    pub event_type: &'a str,
    /// Its item.
    pub event_item_id: &'a str,
    /// Its time, milliseconds since 1970.
    pub event_time_ms: i64,
    /// Its record's arrival, milliseconds since 1970.
    pub arrival_time_ms: i64,
    /// When the notice was due, milliseconds since 1970.
    pub due_time_ms: i64,
    /// Version of the snapshot that scored.
    pub snapshot_version: &'a str,
    /// What the user's history adds to the first item's score.
    pub lift: f64,
    /// The list, best first.
    pub items: Vec<RecommendedItem<'a>>,
}

/// A notification on its way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// 32 hexadecimal digits; a receiver drops what it has by this id.
    pub id: String,
    /// Says whose it is without naming them: 16 hexadecimal digits, equal for equal receivers.
    pub group: String,
    /// The rule.
    pub rule: String,
    /// [`Body`], as JSON.
    pub body: String,
}

impl Notification {
    /// The group of a receiver's notifications.
    pub(super) fn group(receiver: &HistoryKey) -> String {
        format!("{:016x}", xxh3_64(&receiver.to_bytes()))
    }
}

/// An id as receivers see it.
pub fn id_text(id: u128) -> String {
    format!("{id:032x}")
}

mod owner {
    use anabranch_events::HistoryKey;
    use anabranch_events::ids::check_id;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Owner {
        User(Box<str>),
        Session(Box<str>),
    }

    pub(super) fn serialize<S: Serializer>(key: &HistoryKey, serializer: S) -> Result<S::Ok, S::Error> {
        match key {
            HistoryKey::User(id) => Owner::User(id.clone()),
            HistoryKey::Session(id) => Owner::Session(id.clone()),
        }
        .serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<HistoryKey, D::Error> {
        let key = match Owner::deserialize(deserializer)? {
            Owner::User(id) => HistoryKey::User(id),
            Owner::Session(id) => HistoryKey::Session(id),
        };
        check_id(key.id()).map_err(|_| de::Error::custom("an id has 1 to 256 bytes"))?;
        Ok(key)
    }
}
