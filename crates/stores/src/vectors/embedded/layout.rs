//! Keys and values in LMDB. All keys start with the collection's slot, so that a collection is one
//! run of each database and dropping it is one range.
//!
//! | database | key | value |
//! |---|---|---|
//! | `collections` | `name` 00 `version` | JSON [`CollectionInfo`] |
//! | `ids` | slot u16 BE, id bytes | dense id u32 BE |
//! | `records` | slot u16 BE, dense id u32 BE | vector f32 LE × dim, id length u16 LE, id, metadata JSON |
//! | `terms` | slot u16 BE, field hash 16 bytes, tag, value 16 or 8 bytes | roaring bitmap of dense ids |
//! | `hnsw` | hannoy's own, its index number being the slot | |

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::vectors::{Collection, Metadata, Scalar, VectorRecord};

/// What is known of a collection besides its records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CollectionInfo {
    /// Number that its keys start with, and its index number in hannoy.
    pub(super) slot: u16,
    /// Dimension of its vectors.
    pub(super) dim: usize,
    /// Whether it has an HNSW index.
    pub(super) indexed: bool,
    /// The next dense id; ids of deleted records are not used again.
    pub(super) next_id: u32,
}

pub(super) fn collection_key(collection: Collection<'_>) -> Vec<u8> {
    [collection.name().as_bytes(), &[0], collection.version().as_bytes()].concat()
}

pub(super) fn collections_prefix(name: &str) -> Vec<u8> {
    [name.as_bytes(), &[0]].concat()
}

pub(super) fn id_key(slot: u16, id: &str) -> Vec<u8> {
    [&slot.to_be_bytes(), id.as_bytes()].concat()
}

pub(super) fn record_key(slot: u16, dense: u32) -> Vec<u8> {
    [&slot.to_be_bytes()[..], &dense.to_be_bytes()].concat()
}

pub(super) fn dense_of(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.try_into().ok()?))
}

pub(super) fn encode_record(record: &VectorRecord) -> Vec<u8> {
    let metadata = serde_json::to_vec(&record.metadata).expect("a JSON object serializes");
    let mut value = Vec::with_capacity(record.vector.len() * 4 + 2 + record.id.len() + metadata.len());
    for number in &record.vector {
        value.extend_from_slice(&number.to_le_bytes());
    }
    let id_len = u16::try_from(record.id.len()).expect("ids were checked to have at most 256 bytes");
    value.extend_from_slice(&id_len.to_le_bytes());
    value.extend_from_slice(record.id.as_bytes());
    value.extend_from_slice(&metadata);
    value
}

/// A record's value, taken apart without copying.
#[derive(Debug, Clone, Copy)]
pub(super) struct RecordView<'a> {
    vector: &'a [u8],
    /// The record's id.
    pub(super) id: &'a str,
    metadata: &'a [u8],
}

impl<'a> RecordView<'a> {
    pub(super) fn new(value: &'a [u8], dim: usize) -> Option<Self> {
        let (vector, rest) = value.split_at_checked(dim * 4)?;
        let (id_len, rest) = rest.split_first_chunk::<2>()?;
        let (id, metadata) = rest.split_at_checked(usize::from(u16::from_le_bytes(*id_len)))?;
        Some(Self { vector, id: std::str::from_utf8(id).ok()?, metadata })
    }

    /// Writes the vector into `buffer`.
    pub(super) fn read_vector(&self, buffer: &mut Vec<f32>) {
        let (numbers, _) = self.vector.as_chunks::<4>();
        buffer.clear();
        buffer.extend(numbers.iter().map(|number| f32::from_le_bytes(*number)));
    }

    pub(super) fn metadata(&self) -> Option<Metadata> {
        serde_json::from_slice(self.metadata).ok()
    }

    pub(super) fn to_record(self) -> Option<VectorRecord> {
        let mut vector = Vec::new();
        self.read_vector(&mut vector);
        Some(VectorRecord { id: self.id.to_owned(), vector, metadata: self.metadata()? })
    }
}

const TAG_BOOL: u8 = 1;
const TAG_NUMBER: u8 = 2;
const TAG_TEXT: u8 = 3;

/// Key of the bitmap of all records of a collection: shorter than any term's, so it equals none.
pub(super) fn everything_key(slot: u16) -> Vec<u8> {
    slot.to_be_bytes().to_vec()
}

/// Key of the bitmap of the records whose `field` holds `scalar`. Texts are hashed (128 bits of
/// SHA-256), since LMDB keys are short; numbers keep their order, for ranges.
pub(super) fn term_key(slot: u16, field: &str, scalar: &Scalar) -> Vec<u8> {
    let mut key = field_key(slot, field);
    match scalar {
        Scalar::Bool(value) => key.extend([TAG_BOOL, u8::from(*value)]),
        Scalar::Number(value) => {
            key.push(TAG_NUMBER);
            key.extend(ordered_bits(*value).to_be_bytes());
        }
        Scalar::Text(value) => {
            key.push(TAG_TEXT);
            key.extend_from_slice(&short_hash(value));
        }
    }
    key
}

/// First and last key of the numbers of `field` between two bounds, which are included.
pub(super) fn number_keys(slot: u16, field: &str, min: Option<f64>, max: Option<f64>) -> (Vec<u8>, Vec<u8>) {
    let bound = |value: Option<f64>, open: f64| term_key(slot, field, &Scalar::Number(value.unwrap_or(open)));
    (bound(min, f64::NEG_INFINITY), bound(max, f64::INFINITY))
}

fn field_key(slot: u16, field: &str) -> Vec<u8> {
    [&slot.to_be_bytes()[..], &short_hash(field)].concat()
}

fn short_hash(text: &str) -> [u8; 16] {
    let digest = Sha256::digest(text.as_bytes());
    let mut hash = [0; 16];
    hash.copy_from_slice(&digest[..16]);
    hash
}

/// Bits that order as the numbers do: positive numbers get the sign bit, negative ones are inverted.
fn ordered_bits(value: f64) -> u64 {
    let bits = (value + 0.0).to_bits();
    if bits >> 63 == 0 { bits | 1 << 63 } else { !bits }
}
