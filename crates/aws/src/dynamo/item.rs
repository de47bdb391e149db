//! The items of the table. Attribute names are short because every write pays for them.
//!
//! | item | `k` | other attributes |
//! |---|---|---|
//! | history | `u` or `s`, then the owner's id | `h`: bytes of [`codec`]; `f`: this format's version; `v`: 8 bytes that name what `h` holds; `ttl`: seconds since 1970 |
//! | floor of an erasure | `e`, then the owner's name under the erasure key (32 bytes) | `floor`: milliseconds since 1970 |
//! | checkpoint | `c`, then `namespace/shard` | `position`, `state` (`AFTER` or `SHARD_END`), `order`: both in a text that sorts as they do |
//!
//! **Version.** `v` is a hash of format and `h`, so it is the condition of the next write, and equal versions are equal
//! bytes: an item that went from A to B and back to A may be overwritten by who read A, since nothing is missing.
//!
//! **Upgrades.** Two versions are in an item: `f` for its attributes, the first byte of `h` for the codec. Both are read
//! back to the oldest, and every write writes the newest: an upgrade is a rolling one, in place, with the next event of
//! each user. Format 0 (no `f`, no `v`) is what a bulk import of a new table brings: `k` and `h` alone. What a newer
//! program wrote is refused, never overwritten.

use anabranch_events::erasure::ErasedName;
use anabranch_events::{CodecError, EventTypes, History, HistoryKey, codec};
use anabranch_stores::ErrorKind;
use anabranch_stream::ports::{Checkpoint, PortError, Position, ShardId};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::api::{Condition, Item, Value};

/// The format of a history's attributes that this code writes.
pub const FORMAT: u8 = 1;

/// The partition key.
pub const KEY: &str = "k";
/// Time to live; the table's setting names it.
pub const TTL: &str = "ttl";
const HISTORY: &str = "h";
const FORMAT_NAME: &str = "f";
const VERSION: &str = "v";
const FLOOR: &str = "floor";
const POSITION: &str = "position";
const STATE: &str = "state";
const ORDER: &str = "order";

const AFTER: &str = "AFTER";
const SHARD_END: &str = "SHARD_END";

/// An item that is not what was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ItemError {
    /// Written by newer code.
    #[error("the item of {of} has format {found}, this program reads {FORMAT}: upgrade the program")]
    Newer {
        /// Whose item.
        of: String,
        /// The format found.
        found: u8,
    },
    /// The history's bytes do not decode.
    #[error("the item of {of}: {source}")]
    History {
        /// Whose item.
        of: String,
        /// Why.
        source: CodecError,
    },
    /// An attribute is missing or of another type.
    #[error("the item of {of} has no sound attribute {attribute}; restore the table, or remove the item and replay")]
    Attribute {
        /// Whose item.
        of: String,
        /// The attribute.
        attribute: &'static str,
    },
}

impl ItemError {
    /// The same as an error of a port.
    pub fn into_port(self) -> PortError {
        let kind = match &self {
            Self::Newer { .. } | Self::History { source: CodecError::NewerVersion { .. }, .. } => ErrorKind::FixInput,
            Self::History { .. } | Self::Attribute { .. } => ErrorKind::Corrupt,
        };
        PortError::new(kind, self.to_string(), self)
    }
}

/// What a write expects to find, so that it joins with everything that was written before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Base {
    /// No item.
    Absent,
    /// An item with this version.
    Version(u64),
    /// An item of format 0 with these bytes.
    Unversioned(Vec<u8>),
}

impl Base {
    /// What a reader of a batch held. Format 0 shows no difference there: its write conflicts once and then knows.
    pub const fn of_held(base: Option<u64>) -> Self {
        match base {
            None => Self::Absent,
            Some(version) => Self::Version(version),
        }
    }

    /// The condition that the item still is what was read.
    pub fn condition(&self) -> Condition {
        match self {
            Self::Absent => Condition::Absent(KEY),
            Self::Version(version) => Condition::Equals(VERSION, version_value(*version)),
            Self::Unversioned(bytes) => {
                Condition::Absent(VERSION).and(Condition::Equals(HISTORY, Value::B(bytes.clone())))
            }
        }
    }
}

/// A history's item, read.
#[derive(Clone, Debug)]
pub struct StoredHistory {
    /// The history.
    pub history: History,
    /// What a write over it expects.
    pub base: Base,
    /// The version, of format 0 too (where nothing stored shows it).
    pub version: u64,
}

/// The name of what an item holds: equal versions are equal formats and bytes.
pub fn version(format: u8, bytes: &[u8]) -> u64 {
    xxh3_64_with_seed(bytes, u64::from(format))
}

/// The key of a history's item.
pub fn history_key(key: &HistoryKey) -> Value {
    Value::B(key.to_bytes())
}

/// A history's item.
pub fn history_item(key: &HistoryKey, bytes: Vec<u8>, ttl_s: i64) -> Item {
    Item::from([
        (KEY.to_owned(), history_key(key)),
        (VERSION.to_owned(), version_value(version(FORMAT, &bytes))),
        (HISTORY.to_owned(), Value::B(bytes)),
        (FORMAT_NAME.to_owned(), Value::number(FORMAT)),
        (TTL.to_owned(), Value::number(ttl_s)),
    ])
}

/// Reads a history's item, of this format or an older one.
pub fn read_history(key: &HistoryKey, item: &Item, types: &EventTypes) -> Result<StoredHistory, ItemError> {
    let missing = |attribute| ItemError::Attribute { of: key.to_string(), attribute };
    let format = match item.get(FORMAT_NAME) {
        None => 0,
        Some(format) => format.as_number::<u8>().ok_or_else(|| missing(FORMAT_NAME))?,
    };
    if format > FORMAT {
        return Err(ItemError::Newer { of: key.to_string(), found: format });
    }
    let bytes = item.get(HISTORY).and_then(Value::as_bytes).ok_or_else(|| missing(HISTORY))?;
    let (version, base) = if format == 0 {
        (version(0, bytes), Base::Unversioned(bytes.to_vec()))
    } else {
        let stored = item.get(VERSION).and_then(Value::as_bytes).and_then(|bytes| bytes.try_into().ok());
        let stored = u64::from_be_bytes(stored.ok_or_else(|| missing(VERSION))?);
        (stored, Base::Version(stored))
    };
    let history = codec::decode(bytes, types).map_err(|source| ItemError::History { of: key.to_string(), source })?;
    Ok(StoredHistory { history, base, version })
}

/// The key of an erasure's floor.
pub fn floor_key(name: &ErasedName) -> Value {
    let mut key = vec![b'e'];
    key.extend_from_slice(name.as_bytes());
    Value::B(key)
}

/// An erasure's floor, and the condition that it rises.
pub fn floor_item(name: &ErasedName, floor_ms: i64) -> (Item, Condition) {
    let floor = Value::number(floor_ms);
    let rises = Condition::Absent(KEY).or(Condition::Below(FLOOR, floor.clone()));
    (Item::from([(KEY.to_owned(), floor_key(name)), (FLOOR.to_owned(), floor)]), rises)
}

/// Reads an erasure's floor.
pub fn read_floor(item: &Item) -> Result<i64, ItemError> {
    item.get(FLOOR)
        .and_then(Value::as_number)
        .ok_or_else(|| ItemError::Attribute { of: "an erased owner".to_owned(), attribute: FLOOR })
}

/// The key of a shard's checkpoint.
pub fn checkpoint_key(namespace: &str, shard: ShardId) -> Value {
    Value::B(format!("c{namespace}/{shard}").into_bytes())
}

/// A shard's checkpoint, and the condition that it moves on.
pub fn checkpoint_item(namespace: &str, shard: ShardId, checkpoint: Checkpoint) -> (Item, Condition) {
    let position = checkpoint.position();
    let state = match checkpoint {
        Checkpoint::After(_) => AFTER,
        Checkpoint::ShardEnd(_) => SHARD_END,
    };
    let order = Value::S(order(checkpoint));
    let moves_on = Condition::Absent(KEY).or(Condition::Below(ORDER, order.clone()));
    let item = Item::from([
        (KEY.to_owned(), checkpoint_key(namespace, shard)),
        (POSITION.to_owned(), Value::S(position.to_string())),
        (STATE.to_owned(), Value::S(state.to_owned())),
        (ORDER.to_owned(), order),
    ]);
    (item, moves_on)
}

/// Reads a shard's checkpoint.
pub fn read_checkpoint(shard: ShardId, item: &Item) -> Result<Checkpoint, ItemError> {
    let missing = |attribute| ItemError::Attribute { of: shard.to_string(), attribute };
    let text = |name| item.get(name).and_then(Value::as_text).ok_or_else(|| missing(name));
    let position: Position = text(POSITION)?.parse().map_err(|_| missing(POSITION))?;
    match text(STATE)? {
        AFTER => Ok(Checkpoint::After(position)),
        SHARD_END => Ok(Checkpoint::ShardEnd(position)),
        _ => Err(missing(STATE)),
    }
}

/// A text that sorts by bytes as checkpoints sort by how far they are: the number in 76 digits; a part before the whole
/// (`.` < `~`); the end of the shard after everything.
fn order(checkpoint: Checkpoint) -> String {
    let (position, end) = match checkpoint {
        Checkpoint::After(position) => (position, 0),
        Checkpoint::ShardEnd(position) => (position, 1),
    };
    match position.sub {
        Some(sub) => format!("{end}:{:076}.{sub:020}", position.number),
        None => format!("{end}:{:076}~", position.number),
    }
}

fn version_value(version: u64) -> Value {
    Value::B(version.to_be_bytes().to_vec())
}

#[cfg(test)]
mod tests;
