//! What a history costs in DynamoDB, by arithmetic: quotas → bytes → write units → dollars.
//!
//! A write is billed by the item's size, rounded up to whole KB, however little of it changed; a strongly consistent
//! read by its size rounded up to 4 KB. An entry takes about 20 bytes (two hashes of 8, a time delta of 3 or 4; a value
//! adds 4), a seen item beyond the held entries about 12. So the median user (30 entries) is one write unit under any
//! quotas, and quotas decide what the heavy users cost. Default event types (five classes), on-demand prices of
//! us-east-1, for a million writes (the test `the_table_in_the_header` holds the bytes and units):
//!
//! | quota of each class, `seen_max` | median user | one class full | everything full | worst case by format |
//! |---|---|---|---|---|
//! | 16, 0 | 378 B, 1 unit, $0.63 | 378 B, 1 unit, $0.63 | 1,676 B, 2 units, $1.25 | 5,170 B, 6 units, $3.75 |
//! | 64, 128 | 658 B, 1 unit, $0.63 | 1,338 B, 2 units, $1.25 | 7,308 B, 8 units, $5.00 | 14,675 B, 15 units, $9.38 |
//! | 256, 512 (default) | 658 B, 1 unit, $0.63 | 5,179 B, 6 units, $3.75 | 29,010 B, 29 units, $18.13 | 50,392 B, 50 units, $31.25 |
//!
//! A read is a quarter of the units at a fifth of the price: $0.13 a million for the median. One write serves all
//! events of a user in a cut, so an event costs the write's price over the number of that user's events in the cut: longer
//! cuts are cheaper. A write whose condition fails is billed too; it happens only where two workers meet on one user.
//!
//! [`largest_item_bytes`] is an upper bound for any history under the settings; [`check`] refuses settings under which
//! an item could exceed DynamoDB's 400 KB, at the start and with the remedy, instead of one day for one user.

use anabranch_events::EventTypes;
use anabranch_events::ids::ID_BYTES_MAX;

use super::api::{ITEM_BYTES_MAX, Item, Value};

/// Price of a million on-demand write units in us-east-1, in dollars.
pub const DOLLARS_PER_MILLION_WRITE_UNITS: f64 = 0.625;
/// Price of a million on-demand read units in us-east-1, in dollars.
pub const DOLLARS_PER_MILLION_READ_UNITS: f64 = 0.125;

/// A variable-length number of 64 bits, and of the 65 that a time delta with its flag has.
const VARINT_BYTES_MAX: usize = 10;
const HASH_BYTES: usize = 8;
/// Delta with flag, event, item, value.
const ENTRY_BYTES_MAX: usize = VARINT_BYTES_MAX + 2 * HASH_BYTES + 4;
const SEEN_BYTES_MAX: usize = VARINT_BYTES_MAX + HASH_BYTES;
/// A length of up to 256, then the id.
const ID_FIELD_BYTES_MAX: usize = 2 + ID_BYTES_MAX;
const SESSION_BYTES_MAX: usize = VARINT_BYTES_MAX + ID_FIELD_BYTES_MAX;
/// Version, flags, floor, newest time; alias (time, event, user); checksum.
const FIXED_BYTES_MAX: usize = 2 + 2 * VARINT_BYTES_MAX + (VARINT_BYTES_MAX + HASH_BYTES + ID_FIELD_BYTES_MAX) + 4;
/// `k` with its kind and id; `f` with one digit; `v` with a hash; `ttl` with 20 digits; the name `h`.
const ATTRIBUTES_BYTES_MAX: usize = (1 + 1 + ID_BYTES_MAX) + (1 + 2) + (1 + HASH_BYTES) + (3 + 11) + 1;

/// Settings under which an item could exceed what DynamoDB takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "[events]: a history under these quotas can take {bytes} bytes ({entries} entries of {ENTRY_BYTES_MAX}, {seen} seen items of {SEEN_BYTES_MAX}), an item of DynamoDB {ITEM_BYTES_MAX}; lower quota, quotas or seen_max"
)]
pub struct TooLarge {
    /// The largest item.
    pub bytes: usize,
    /// Entries of all classes.
    pub entries: usize,
    /// Seen items.
    pub seen: usize,
}

/// Refuses settings under which an item could exceed DynamoDB's limit.
pub fn check(types: &EventTypes) -> Result<(), TooLarge> {
    let bytes = largest_item_bytes(types);
    if bytes > ITEM_BYTES_MAX {
        return Err(TooLarge { bytes, entries: entries_max(types), seen: types.seen_max });
    }
    Ok(())
}

/// No item of a history under `types` is larger than this, whatever its owner's id and its events.
pub fn largest_item_bytes(types: &EventTypes) -> usize {
    ATTRIBUTES_BYTES_MAX + largest_history_bytes(types)
}

/// No encoded history under `types` is larger than this (`docs/formats.md`, History).
pub fn largest_history_bytes(types: &EventTypes) -> usize {
    let names: usize = types
        .types()
        .iter()
        .map(|event_type| {
            let quota = types.classes()[usize::from(event_type.class)].quota;
            varint_bytes(event_type.name.len()) + event_type.name.len() + varint_bytes(quota)
        })
        .sum();
    FIXED_BYTES_MAX
        + varint_bytes(types.types().len())
        + names
        + entries_max(types) * ENTRY_BYTES_MAX
        + varint_bytes(types.seen_max)
        + types.seen_max * SEEN_BYTES_MAX
        + varint_bytes(types.sessions_max)
        + types.sessions_max * SESSION_BYTES_MAX
}

/// Bytes of an item as DynamoDB counts them: names of attributes in UTF-8 and their values.
pub fn item_bytes(item: &Item) -> usize {
    item.iter().map(|(name, value)| name.len() + value_bytes(value)).sum()
}

/// Units that writing an item of `bytes` costs; a write whose condition fails costs them too.
pub const fn write_units(bytes: usize) -> usize {
    let units = bytes.div_ceil(1024);
    if units == 0 { 1 } else { units }
}

/// Units that a strongly consistent read of an item of `bytes` costs; an item that is not there costs one.
pub const fn read_units(bytes: usize) -> usize {
    let units = bytes.div_ceil(4096);
    if units == 0 { 1 } else { units }
}

/// What a million writes of items of `bytes` cost, in dollars.
pub const fn dollars_per_million_writes(bytes: usize) -> f64 {
    write_units(bytes) as f64 * DOLLARS_PER_MILLION_WRITE_UNITS
}

/// What a million strongly consistent reads of items of `bytes` cost, in dollars.
pub const fn dollars_per_million_reads(bytes: usize) -> f64 {
    read_units(bytes) as f64 * DOLLARS_PER_MILLION_READ_UNITS
}

fn entries_max(types: &EventTypes) -> usize {
    types.classes().iter().map(|class| class.quota).sum()
}

fn value_bytes(value: &Value) -> usize {
    match value {
        Value::S(text) => text.len(),
        // A byte for each two digits, one for the exponent, one for a sign.
        Value::N(digits) => digits.trim_start_matches('-').len().div_ceil(2) + 1 + usize::from(digits.starts_with('-')),
        Value::B(bytes) => bytes.len(),
        Value::Bool(_) => 1,
        Value::Ss(texts) => 3 + texts.iter().map(|text| 1 + text.len()).sum::<usize>(),
    }
}

const fn varint_bytes(value: usize) -> usize {
    let bits = (usize::BITS - value.leading_zeros()) as usize;
    if bits == 0 { 1 } else { bits.div_ceil(7) }
}

#[cfg(test)]
mod tests;
