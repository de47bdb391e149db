//! Aggregates of the Kinesis Producer Library: many user records packed into one Kinesis record.
//!
//! The format (KPL's `aggregation-format.md`): the magic bytes `F3 89 9A C2`, a protobuf message, the MD5 of that
//! message. The message holds a table of partition keys, a table of explicit hash keys, and records that name their keys
//! by index. [`read`] is a pure function on bytes, borrows everything, and never panics.
//!
//! A user record keeps its own partition key and is given to the caller wherever its key hashes: after a reshard the
//! KCL drops those that hash outside the shard, and loses them. What merely begins like an aggregate is a plain record;
//! what is an aggregate by its MD5 but cannot be read is [`Payload::Malformed`], one poison record.

use md5::{Digest, Md5};

use self::protobuf::{Field, Fields, Message};

mod protobuf;

const MAGIC: [u8; 4] = [0xf3, 0x89, 0x9a, 0xc2];
const MD5_BYTES: usize = 16;
/// User records in one aggregate: more than a record of 1 MiB holds at six bytes each (key index and empty data), so
/// that a hostile record of a stream with a raised limit cannot ask for gigabytes.
pub const USER_RECORDS_MAX: usize = 262_144;
/// Bytes of a partition key: Kinesis allows 256 characters of at most four bytes.
pub const KEY_BYTES_MAX: usize = 1024;

/// One user record inside an aggregate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserRecord<'a> {
    /// The partition key that its producer gave.
    pub partition_key: &'a str,
    /// The hash key that its producer gave in place of the key's MD5.
    pub explicit_hash_key: Option<&'a str>,
    /// The bytes that its producer put.
    pub data: &'a [u8],
}

/// What a Kinesis record holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload<'a> {
    /// One user record: the bytes themselves.
    Plain(&'a [u8]),
    /// An aggregate; may be empty.
    Aggregate(Vec<UserRecord<'a>>),
    /// An aggregate by its MD5 that cannot be read.
    Malformed(Malformed),
}

/// Why an aggregate cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The protobuf ends inside a field, or a varint does not end.
    #[error("the aggregate is not protobuf")]
    NotProtobuf,
    /// A field has another type than KPL's.
    #[error("field {0} of the aggregate has an unexpected type")]
    FieldType(u64),
    /// A key index beyond the table.
    #[error("a user record names key {0}, which the aggregate's table does not hold")]
    NoSuchKey(u64),
    /// A partition key that Kinesis would refuse.
    #[error("a partition key of the aggregate is not UTF-8 or longer than {KEY_BYTES_MAX} bytes")]
    Key,
    /// More user records than fit.
    #[error("the aggregate holds more than {USER_RECORDS_MAX} user records")]
    TooMany,
}

/// Takes the data of a Kinesis record apart.
pub fn read(data: &[u8]) -> Payload<'_> {
    let Some(message) = message(data) else { return Payload::Plain(data) };
    match user_records(message) {
        Ok(records) => Payload::Aggregate(records),
        Err(error) => Payload::Malformed(error),
    }
}

/// The protobuf message between the magic and an MD5 that fits it.
fn message(data: &[u8]) -> Option<&[u8]> {
    let body = data.strip_prefix(&MAGIC)?;
    let (message, digest) = body.split_at_checked(body.len().checked_sub(MD5_BYTES)?)?;
    (Md5::digest(message).as_slice() == digest).then_some(message)
}

/// Fields of `AggregatedRecord`.
const PARTITION_KEY_TABLE: u64 = 1;
const EXPLICIT_HASH_KEY_TABLE: u64 = 2;
const RECORDS: u64 = 3;
/// Fields of `Record`.
const PARTITION_KEY_INDEX: u64 = 1;
const EXPLICIT_HASH_KEY_INDEX: u64 = 2;
const DATA: u64 = 3;

fn user_records(message: &[u8]) -> Result<Vec<UserRecord<'_>>, Malformed> {
    // The tables may stand after the records, so the keys are looked up at the end.
    let (mut keys, mut hash_keys, mut parts) = (Vec::new(), Vec::new(), Vec::new());
    for field in Fields::of(message) {
        match field? {
            Field { number: PARTITION_KEY_TABLE, value } => keys.push(key(value.bytes(PARTITION_KEY_TABLE)?)?),
            Field { number: EXPLICIT_HASH_KEY_TABLE, value } => {
                hash_keys.push(key(value.bytes(EXPLICIT_HASH_KEY_TABLE)?)?);
            }
            Field { number: RECORDS, value } => {
                if parts.len() == USER_RECORDS_MAX {
                    return Err(Malformed::TooMany);
                }
                parts.push(part(value.bytes(RECORDS)?)?);
            }
            Field { .. } => {}
        }
    }
    parts
        .into_iter()
        .map(|part: Part<'_>| {
            let explicit_hash_key = part.explicit_hash_key.map(|index| look_up(&hash_keys, index)).transpose()?;
            Ok(UserRecord { partition_key: look_up(&keys, part.partition_key)?, explicit_hash_key, data: part.data })
        })
        .collect()
}

/// A record before its keys are looked up.
struct Part<'a> {
    partition_key: u64,
    explicit_hash_key: Option<u64>,
    data: &'a [u8],
}

/// A missing key index is 0 and missing data are empty: writers of proto3 leave default values out.
fn part(message: &[u8]) -> Result<Part<'_>, Malformed> {
    let mut part = Part { partition_key: 0, explicit_hash_key: None, data: &[] };
    for field in Fields::of(message) {
        match field? {
            Field { number: PARTITION_KEY_INDEX, value } => part.partition_key = value.varint(PARTITION_KEY_INDEX)?,
            Field { number: EXPLICIT_HASH_KEY_INDEX, value } => {
                part.explicit_hash_key = Some(value.varint(EXPLICIT_HASH_KEY_INDEX)?);
            }
            Field { number: DATA, value } => part.data = value.bytes(DATA)?,
            // Tags, and fields of later versions.
            Field { .. } => {}
        }
    }
    Ok(part)
}

fn key(bytes: &[u8]) -> Result<&str, Malformed> {
    if bytes.len() > KEY_BYTES_MAX {
        return Err(Malformed::Key);
    }
    std::str::from_utf8(bytes).map_err(|_| Malformed::Key)
}

fn look_up<'a>(table: &[&'a str], index: u64) -> Result<&'a str, Malformed> {
    usize::try_from(index).ok().and_then(|index| table.get(index)).copied().ok_or(Malformed::NoSuchKey(index))
}

/// Packs user records of one partition key, which is how a producer keeps a busy key in order at full speed.
#[derive(Clone, Debug)]
pub struct Aggregator {
    message: Message,
    count: usize,
}

impl Aggregator {
    /// An empty aggregate whose user records all have `partition_key`.
    pub fn new(partition_key: &str) -> Self {
        let mut message = Message::default();
        message.bytes(PARTITION_KEY_TABLE, partition_key.as_bytes());
        Self { message, count: 0 }
    }

    /// Adds a user record.
    pub fn push(&mut self, data: &[u8]) {
        let mut record = Message::default();
        record.varint(PARTITION_KEY_INDEX, 0);
        record.bytes(DATA, data);
        self.message.bytes(RECORDS, record.as_bytes());
        self.count += 1;
    }

    /// How large the aggregate would be with one more user record of `data_bytes` bytes. At most eight bytes too many,
    /// never too few.
    pub fn bytes_with(&self, data_bytes: usize) -> usize {
        // A record costs its tag and length, its key index (2 bytes), and tag and length of the data.
        const OVERHEAD: usize = 2 + 2 * (1 + 5);
        MAGIC.len() + self.message.as_bytes().len() + OVERHEAD + data_bytes + MD5_BYTES
    }

    /// User records so far.
    pub const fn count(&self) -> usize {
        self.count
    }

    /// The data of the Kinesis record.
    pub fn finish(&self) -> Vec<u8> {
        let message = self.message.as_bytes();
        [&MAGIC, message, Md5::digest(message).as_slice()].concat()
    }
}

#[cfg(test)]
mod tests;
