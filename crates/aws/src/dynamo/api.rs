//! What we ask of DynamoDB: reads of many keys, conditional writes of one item, a scan for the small lease table.
//!
//! Synchronous, since the ports of the worker are. Calls that take several requests run them side by side and answer
//! each by itself, in order: `BatchWriteItem` knows no conditions, and a write without one would let the last writer
//! win. No retries here and no decisions: whoever calls reads the error and decides. [`testing`](super::testing) holds
//! the twin in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use anabranch_stores::ErrorKind;
use anabranch_stream::ports::PortError;

use crate::api::ApiError;

/// Most keys of one `BatchGetItem`.
pub const GET_KEYS_MAX: usize = 100;
/// Most bytes that one `BatchGetItem` answers; the rest comes back as unprocessed keys.
pub const GET_BYTES_MAX: usize = 16 << 20;
/// Most bytes of an item, names of its attributes included.
pub const ITEM_BYTES_MAX: usize = 400 << 10;
/// Most bytes of a partition key.
pub const KEY_BYTES_MAX: usize = 2048;

/// An attribute's value, of the types that we store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    /// Text.
    S(String),
    /// A number, as DynamoDB writes it.
    N(String),
    /// Bytes.
    B(Vec<u8>),
    /// True or false.
    Bool(bool),
    /// A set of texts; DynamoDB keeps no empty one.
    Ss(BTreeSet<String>),
}

impl Value {
    /// A whole number.
    pub fn number(number: impl Into<i128>) -> Self {
        Self::N(number.into().to_string())
    }

    /// The whole number, if it is one that fits.
    pub fn as_number<T: TryFrom<i128>>(&self) -> Option<T> {
        match self {
            Self::N(digits) => digits.parse::<i128>().ok().and_then(|number| T::try_from(number).ok()),
            _ => None,
        }
    }

    /// The text, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::S(text) => Some(text),
            _ => None,
        }
    }

    /// The bytes, if they are.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Self::B(bytes) => Some(bytes),
            _ => None,
        }
    }
}

/// An item: attributes by name.
pub type Item = BTreeMap<String, Value>;

/// A table whose primary key is one attribute, as all of ours are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its name, or its ARN.
    pub name: String,
    /// The partition key's attribute.
    pub key: &'static str,
}

impl Table {
    /// The table as error messages name it.
    pub fn resource(&self) -> String {
        format!("table {}", self.name)
    }
}

/// What must hold of the stored item for a write to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    Always,
    /// The item has no such attribute; with the partition key's name: there is no such item.
    Absent(&'static str),
    /// The attribute is there.
    Present(&'static str),
    /// The attribute is there and has this value.
    Equals(&'static str, Value),
    /// The attribute is there, has the value's type, and is less than it.
    Below(&'static str, Value),
    /// Both hold.
    And(Box<(Condition, Condition)>),
    /// One holds.
    Or(Box<(Condition, Condition)>),
}

impl Condition {
    /// Whether it holds of `item`, `None` being an item that is not there.
    pub fn holds(&self, item: Option<&Item>) -> bool {
        let value = |name: &str| item.and_then(|item| item.get(name));
        match self {
            Self::Always => true,
            Self::Absent(name) => value(name).is_none(),
            Self::Present(name) => value(name).is_some(),
            Self::Equals(name, wanted) => value(name) == Some(wanted),
            Self::Below(name, bound) => match (value(name), bound) {
                (Some(Value::N(_)), Value::N(_)) => {
                    value(name).and_then(Value::as_number::<i128>) < bound.as_number::<i128>()
                }
                (Some(Value::S(text)), Value::S(bound)) => text < bound,
                (Some(Value::B(bytes)), Value::B(bound)) => bytes < bound,
                _ => false,
            },
            Self::And(both) => both.0.holds(item) && both.1.holds(item),
            Self::Or(either) => either.0.holds(item) || either.1.holds(item),
        }
    }

    /// This one and `other`.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Always, condition) | (condition, Self::Always) => condition,
            (left, right) => Self::And(Box::new((left, right))),
        }
    }

    /// This one or `other`.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Always, _) | (_, Self::Always) => Self::Always,
            (left, right) => Self::Or(Box::new((left, right))),
        }
    }
}

/// Puts a whole item in place of what is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put {
    /// The item, its key among the attributes.
    pub item: Item,
    /// What must hold of the item that it replaces.
    pub condition: Condition,
}

/// Changes some attributes of an item, and makes the item if it is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// The item's key.
    pub key: Value,
    /// Attributes to set.
    pub set: Vec<(&'static str, Value)>,
    /// Attributes to take away.
    pub remove: Vec<&'static str>,
    /// What must hold of the item before.
    pub condition: Condition,
}

/// What one `BatchGetItem` gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Got {
    /// Items that are there, in no particular order.
    pub items: Vec<Item>,
    /// Keys that were not looked at: ask again.
    pub unprocessed: Vec<Value>,
}

/// A page of a scan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scanned {
    /// Items.
    pub items: Vec<Item>,
    /// Where the next page begins; `None` at the end. A page may be empty before the end.
    pub next: Option<Value>,
}

/// The operations of DynamoDB that we use.
pub trait DynamoApi: Send + Sync + Debug {
    /// Reads keys, strongly consistent. Each chunk is one call: 1 to [`GET_KEYS_MAX`] distinct keys.
    fn get(&self, table: &Table, chunks: &[Vec<Value>]) -> Vec<Result<Got, DynamoError>>;

    /// Puts items, each if its condition holds. The answer to a put whose condition does not hold carries the item as
    /// it stands, if there is one and the service tells.
    fn put(&self, table: &Table, puts: Vec<Put>) -> Vec<Result<(), DynamoError>>;

    /// Changes one item if the condition holds.
    fn update(&self, table: &Table, update: Update) -> Result<(), DynamoError>;

    /// Removes one item if the condition holds; an item that is not there is removed.
    fn delete(&self, table: &Table, key: Value, condition: Condition) -> Result<(), DynamoError>;

    /// A page of all items from `from` on, strongly consistent.
    fn scan(&self, table: &Table, from: Option<Value>) -> Result<Scanned, DynamoError>;
}

/// Why DynamoDB did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DynamoError {
    /// The condition did not hold: somebody else wrote the item. With the item as it stands, if there is one and the
    /// service told.
    #[error("the condition of a write did not hold: somebody else wrote the item; join with what stands there")]
    ConditionFailed(Option<Item>),
    /// Anything else. A write that failed in passing ([`Retry`](crate::api::ApiErrorKind::Retry)) may have taken effect.
    #[error(transparent)]
    Failed(#[from] ApiError),
}

impl DynamoError {
    /// Whether the same request may succeed by itself a little later.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Failed(error) if error.kind.kind() == ErrorKind::Retry)
    }

    /// The same as an error of a port, `what` saying what was being done.
    pub fn into_port(self, what: &str) -> PortError {
        let kind = match &self {
            Self::ConditionFailed(_) => ErrorKind::Retry,
            Self::Failed(error) => error.kind.kind(),
        };
        PortError::new(kind, format!("{what}: {self}"), self)
    }
}
