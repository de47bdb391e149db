//! What the worker asks of the world: records of a shard, a place for histories and checkpoints. The embedded log and
//! state answer these ports on one machine, Kinesis Data Streams and `DynamoDB` in an account of AWS. The sink is the
//! lake's port, [`anabranch_stores::lake::ObjectStore`].
//!
//! Every method may fail for a while ([`ErrorKind::Retry`]): the worker keeps what it holds and asks again, so each
//! must be safe to repeat. A conformance suite in [`crate::testing`] says what an adapter promises.

use std::collections::HashMap;
use std::fmt::{self, Debug};
use std::str::FromStr;

use anabranch_events::{EventTypes, History, HistoryKey};
use anabranch_stores::ErrorKind;
use anabranch_stores::state::commit::Held;
use serde::{Deserialize, Serialize};

use crate::notify::Notice;

/// Ten to the 38th: the most decimal digits that 128 bits hold in full.
const LIMB: u128 = 10_u128.pow(38);
const LIMB_DIGITS: usize = 38;
/// Empty pages after which the oldest record is not looked for any longer.
const OLDEST_READS_MAX: usize = 10;

/// Why a port did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct PortError {
    /// What the caller can do.
    pub kind: ErrorKind,
    /// What happened, where, and the remedy.
    pub what: String,
    /// What lies beneath.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl PortError {
    /// An error that `source` caused.
    pub fn new(
        kind: ErrorKind,
        what: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { kind, what: what.into(), source: Some(source.into()) }
    }
}

/// A shard by its number: `shardId-000000000007` is 7.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u64);

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shardId-{:012}", self.0)
    }
}

/// Text that is not what its type writes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {expected}")]
pub struct ParseError {
    /// The text.
    pub text: String,
    /// What it should be.
    pub expected: &'static str,
}

impl FromStr for ShardId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        text.strip_prefix("shardId-")
            .filter(|digits| digits.len() == 12)
            .and_then(|digits| decimal(digits).map(|number| Self(number as u64)))
            .ok_or_else(|| ParseError { text: text.to_owned(), expected: "a shard id such as shardId-000000000007" })
    }
}

/// A record's place in its shard: a decimal number of up to 76 digits (Kinesis makes 56, the embedded log up to 20).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceNumber {
    high: u128,
    low: u128,
}

impl SequenceNumber {
    /// The number before every record's.
    pub const ZERO: Self = Self { high: 0, low: 0 };
}

impl From<u64> for SequenceNumber {
    fn from(number: u64) -> Self {
        Self { high: 0, low: u128::from(number) }
    }
}

impl TryFrom<SequenceNumber> for u64 {
    type Error = ParseError;

    fn try_from(number: SequenceNumber) -> Result<Self, ParseError> {
        let small = if number.high == 0 { u64::try_from(number.low).ok() } else { None };
        small.ok_or_else(|| ParseError { text: number.to_string(), expected: "a number of the embedded log" })
    }
}

impl fmt::Display for SequenceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.high == 0 {
            f.pad_integral(true, "", &self.low.to_string())
        } else {
            f.pad_integral(true, "", &format!("{}{:038}", self.high, self.low))
        }
    }
}

impl FromStr for SequenceNumber {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let error = || ParseError { text: text.to_owned(), expected: "a sequence number of at most 76 digits" };
        if text.is_empty() || text.len() > 2 * LIMB_DIGITS || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(error());
        }
        let (high, low) = text.split_at(text.len().saturating_sub(LIMB_DIGITS));
        let high = if high.is_empty() { 0 } else { decimal(high).ok_or_else(error)? };
        let low = decimal(low).ok_or_else(error)?;
        debug_assert!(high < LIMB && low < LIMB);
        Ok(Self { high, low })
    }
}

/// Digits only: `u128::from_str` would take a sign.
fn decimal(digits: &str) -> Option<u128> {
    if digits.bytes().all(|byte| byte.is_ascii_digit()) { digits.parse().ok() } else { None }
}

/// How far a shard is read: through a whole record, or through one of the user records that a producer packed into it.
///
/// Order is reading order: the parts of a record come before its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Position {
    /// The record.
    pub number: SequenceNumber,
    /// The user record inside an aggregate (KPL), counted from 0; `None` says that the record is read to its end.
    pub sub: Option<u64>,
}

impl Position {
    /// Before the first record: the trim horizon.
    pub const START: Self = Self { number: SequenceNumber::ZERO, sub: None };

    /// The end of a record.
    pub const fn whole(number: SequenceNumber) -> Self {
        Self { number, sub: None }
    }
}

impl Ord for Position {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let rank = |sub: Option<u64>| (sub.is_none(), sub);
        self.number.cmp(&other.number).then_with(|| rank(self.sub).cmp(&rank(other.sub)))
    }
}

impl PartialOrd for Position {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.number, f)?;
        self.sub.map_or(Ok(()), |sub| write!(f, ".{sub}"))
    }
}

impl FromStr for Position {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let Some((number, sub)) = text.split_once('.') else { return Ok(Self::whole(text.parse()?)) };
        let sub = decimal(sub)
            .and_then(|sub| u64::try_from(sub).ok())
            .ok_or_else(|| ParseError { text: text.to_owned(), expected: "a position such as 42 or 42.7" })?;
        Ok(Self { number: number.parse()?, sub: Some(sub) })
    }
}

impl Serialize for Position {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Position {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'_, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// One user record: what a producer put, taken out of an aggregate if it was packed into one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its place. The last user record of an aggregate stands at the aggregate's end (`sub` is `None`).
    pub position: Position,
    /// Its place as its consumers know it: with `Some` for every user record of an aggregate, the last one too.
    pub sub: Option<u64>,
    /// When it arrived, milliseconds since 1970.
    pub arrival_ms: i64,
    /// The partition key; empty where a stream distributes records by itself.
    pub partition_key: String,
    /// The producer's bytes; `None` if they were erased.
    pub data: Option<Vec<u8>>,
}

/// What one read gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Records in order; may be empty while more are to come.
    pub records: Vec<Record>,
    /// How far the reader is behind the newest record, in milliseconds; `None` where nobody says.
    pub behind_ms: Option<u64>,
    /// How far the shard is read, if that is beyond the last record here (an aggregate that held nothing).
    pub through: Option<Position>,
    /// The shard was closed (split or merged) and this page holds its last records.
    pub is_end_of_shard: bool,
    /// It came by itself: what it says of the newest record is not of the time when it was asked for, but of some time
    /// since the call before.
    pub is_pushed: bool,
}

impl Page {
    /// Whether nothing newer is known of: what this page does not hold is not there.
    pub fn is_caught_up(&self) -> bool {
        self.is_end_of_shard || self.behind_ms.is_none_or(|behind| behind == 0)
    }
}

/// Reads one shard in order. It keeps its place (an iterator, a subscription) between calls and makes it anew when
/// `after` is not where the last page ended.
pub trait ShardReader: Send + Debug {
    /// Up to `records_max` records after `after`, and no more than `bytes_max` bytes beyond the first. A reader that may
    /// not ask again yet gives an empty page that is not caught up; the worker then comes back after a pause.
    fn read_after(&mut self, after: Position, records_max: usize, bytes_max: usize) -> Result<Page, PortError>;

    /// Whether records after `after` may be gone although nobody read them (retention, a restored backup). An object's
    /// folder is known by its first record only, so the worker then looks for the chain in a listing of all objects:
    /// an adapter that knows better than "the oldest record is newer than `after`" says so and saves it.
    fn may_lack_after(&mut self, after: Position) -> Result<bool, PortError> {
        is_oldest_beyond(self, after)
    }
}

/// Whether a shard's oldest record comes after `after`, or is not to be found.
pub fn is_oldest_beyond<R: ShardReader + ?Sized>(reader: &mut R, after: Position) -> Result<bool, PortError> {
    for _ in 0..OLDEST_READS_MAX {
        let page = reader.read_after(Position::START, 1, 1)?;
        if let Some(oldest) = page.records.first() {
            return Ok(oldest.position > after);
        }
        if page.is_caught_up() {
            break;
        }
    }
    Ok(true)
}

/// How far a shard is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checkpoint {
    /// Everything up to here is delivered and in the histories.
    After(Position),
    /// The shard was closed and is read to its end (KCL writes `SHARD_END`): its children may begin.
    ShardEnd(Position),
}

impl Checkpoint {
    /// Everything up to here is committed.
    pub const fn position(&self) -> Position {
        match self {
            Self::After(position) | Self::ShardEnd(position) => *position,
        }
    }

    /// The further of two: how a stored checkpoint moves. Nothing is further than the end of the shard.
    #[must_use]
    pub fn furthest(self, other: Self) -> Self {
        let rank = |checkpoint: &Self| (matches!(checkpoint, Self::ShardEnd(_)), checkpoint.position());
        if rank(&other) > rank(&self) { other } else { self }
    }
}

/// What a cut leaves behind once its object is delivered.
#[derive(Clone, Copy, Debug)]
pub struct Commit<'a> {
    /// The shard.
    pub shard: ShardId,
    /// How far it is delivered.
    pub checkpoint: Checkpoint,
    /// The histories that the cut touched.
    pub histories: &'a HashMap<HistoryKey, Held>,
    /// Settings under which histories are folded.
    pub types: &'a EventTypes,
    /// What the cut wants sent. Ids that wait, or are finished, are there already.
    pub notices: &'a [Notice],
}

/// Keeps histories and checkpoints.
pub trait StateStore: Send + Sync + Debug {
    /// The histories of `keys`, in their order; `None` where nothing is stored. One call serves a whole batch of records.
    fn histories(&self, keys: &[HistoryKey], types: &EventTypes) -> Result<Vec<Option<Held>>, PortError>;

    /// How far `shard` is committed; [`Position::START`] if it was never.
    fn checkpoint(&self, shard: ShardId) -> Result<Checkpoint, PortError>;

    /// Keeps the notices, joins the histories into the stored ones, then sets the checkpoint, which never moves back. A
    /// history that somebody else wrote since it was read is joined, never overwritten. Where this is not one transaction
    /// the notices come first (an event that is in its history triggers nothing any more) and the checkpoint last, so
    /// that a crash in between is mended by doing it again.
    fn commit(&self, commit: Commit<'_>) -> Result<(), PortError>;

    /// Keeps the notices and joins the histories of a caller that has no place in a shard (a Firehose transformation sees
    /// many, in no order). A checkpoint at the start moves nothing; a store that can leave it out does.
    fn join(
        &self,
        histories: &HashMap<HistoryKey, Held>,
        notices: &[Notice],
        types: &EventTypes,
    ) -> Result<(), PortError> {
        let checkpoint = Checkpoint::After(Position::START);
        self.commit(Commit { shard: ShardId(0), checkpoint, histories, types, notices })
    }
}

/// One history, for callers that need no batch.
pub fn history(store: &dyn StateStore, key: &HistoryKey, types: &EventTypes) -> Result<Option<History>, PortError> {
    let mut found = store.histories(std::slice::from_ref(key), types)?;
    Ok(found.pop().flatten().map(|held| held.history))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn kinesis_numbers_survive_and_order_by_value() {
        let real = "49590338271490256608559692538361571095921575989136588898";
        let number: SequenceNumber = real.parse().unwrap();
        assert_eq!(number.to_string(), real);
        assert!(SequenceNumber::from(u64::MAX) < number);
        assert_eq!(format!("{:020}", SequenceNumber::from(7)), "00000000000000000007");
        assert_eq!(u64::try_from(SequenceNumber::from(7)), Ok(7));
        assert!(u64::try_from(number).is_err());
        for bad in ["", "+1", "-1", "1 ", "0x1", &"9".repeat(77)] {
            assert!(bad.parse::<SequenceNumber>().is_err(), "{bad}");
        }
        let round = "1".to_owned() + &"0".repeat(38);
        assert_eq!(round.parse::<SequenceNumber>().unwrap().to_string(), round);
    }

    #[test]
    fn shard_ids_are_kinesis_names() {
        assert_eq!("shardId-000000000007".parse::<ShardId>(), Ok(ShardId(7)));
        assert_eq!(ShardId(7).to_string(), "shardId-000000000007");
        for bad in ["shardId-7", "shardId-00000000000x", "shard-000000000007", "shardId-+00000000007"] {
            assert!(bad.parse::<ShardId>().is_err(), "{bad}");
        }
    }

    fn positions() -> impl Strategy<Value = Position> {
        ((0_u64..4), proptest::option::of(0_u64..4))
            .prop_map(|(number, sub)| Position { number: SequenceNumber::from(number), sub })
    }

    proptest! {
        #[test]
        fn positions_come_back_and_parts_come_before_the_end(left in positions(), right in positions()) {
            prop_assert_eq!(left.to_string().parse::<Position>().unwrap(), left);
            prop_assert_eq!(left.cmp(&right), right.cmp(&left).reverse());
            prop_assert!(left <= Position::whole(left.number));
            if left.number < right.number {
                prop_assert!(left < right);
            }
        }
    }
}
