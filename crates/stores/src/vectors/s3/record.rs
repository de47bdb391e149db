//! What lies beside a vector in the index.
//!
//! Two keys that filters do not see hold the record itself: `ab-vector`, the f32 numbers as given (little-endian, in
//! base64; the index's own copy is scaled), and `ab-metadata`, the metadata as JSON text. Beside them, for filters, lie
//! copies of the fields whose values the service compares as [`crate::vectors::Filter`] does: texts, numbers, booleans
//! and lists of texts, in ascending order of names, as far as 2 KB go. A field that has something to compare and got no
//! copy is named in `ab-loose` (all of them by `*` if even the names do not fit): every filter on it takes the record as
//! a candidate, and the record's own text decides. So a filter never misses a record, it only looks at more.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Number, Value};

use super::api::{FILTERABLE_BYTES_MAX, METADATA_BYTES_MAX, METADATA_KEYS_MAX};
use crate::vectors::filter::Scalar;
use crate::vectors::{Metadata, VectorError, VectorRecord};

/// The numbers of the record.
pub(super) const VECTOR_KEY: &str = "ab-vector";
/// The metadata of the record.
pub(super) const METADATA_KEY: &str = "ab-metadata";
/// Names of the fields that filters cannot decide.
pub(super) const LOOSE_KEY: &str = "ab-loose";
/// In [`LOOSE_KEY`]: every field.
pub(super) const LOOSE_ALL: &str = "*";
/// The keys that an index is made with as not filterable.
pub(super) const NON_FILTERABLE: [&str; 2] = [VECTOR_KEY, METADATA_KEY];

/// Longest name of a field that gets a copy.
const FIELD_NAME_MAX: usize = 48;
/// Fields that get a copy: all keys less our three.
const FIELDS_MAX: usize = METADATA_KEYS_MAX - 3;
/// `{"ab-loose":["*"]}`: always left free.
const LOOSE_ALL_BYTES: usize = 18;

/// Whether a field of that name can have a copy: plain names only, none of ours, nothing that reads as an operator.
pub(super) fn may_be_copied(field: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    !field.is_empty() && field.len() <= FIELD_NAME_MAX && !field.starts_with("ab-") && field.bytes().all(plain)
}

/// The metadata to put beside the record's vector, and its size in bytes as the service may count it.
pub(super) fn to_stored(record: &VectorRecord) -> Result<(Metadata, usize), VectorError> {
    let vector = BASE64.encode(record.vector.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>());
    let text = Value::Object(record.metadata.clone()).to_string();
    let mut stored = for_filters(&record.metadata);
    let bytes = json_bytes(&stored) + VECTOR_KEY.len() + vector.len() + METADATA_KEY.len() + text.len();
    if bytes > METADATA_BYTES_MAX {
        return Err(VectorError::Refused {
            id: record.id.clone(),
            reason: "its numbers and metadata together are more than the 40 KB that S3 Vectors keeps beside a vector",
        });
    }
    stored.insert(VECTOR_KEY.to_owned(), Value::String(vector));
    stored.insert(METADATA_KEY.to_owned(), Value::String(text));
    Ok((stored, bytes))
}

/// The record of what [`to_stored`] made; the error says what is wrong with it.
pub(super) fn from_stored(id: String, stored: Option<&Metadata>) -> Result<VectorRecord, String> {
    let text = |key| stored.and_then(|stored| stored.get(key)).and_then(Value::as_str);
    let (Some(vector), Some(metadata)) = (text(VECTOR_KEY), text(METADATA_KEY)) else {
        return Err(format!("vector {id:?} lacks {VECTOR_KEY} or {METADATA_KEY}"));
    };
    let bytes = BASE64.decode(vector).map_err(|error| format!("{VECTOR_KEY} of vector {id:?}: {error}"))?;
    let (numbers, rest) = bytes.as_chunks::<4>();
    let vector: Vec<f32> = numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    if !rest.is_empty() || !vector.iter().all(|value| value.is_finite()) {
        return Err(format!("{VECTOR_KEY} of vector {id:?} does not hold finite numbers"));
    }
    let metadata =
        serde_json::from_str(metadata).map_err(|error| format!("{METADATA_KEY} of vector {id:?}: {error}"))?;
    Ok(VectorRecord { id, vector, metadata })
}

/// What filters see of a record.
fn for_filters(metadata: &Metadata) -> Metadata {
    let mut fields: Vec<(&String, &Value)> = metadata.iter().collect();
    fields.sort_unstable_by_key(|(name, _)| *name);
    let (mut stored, mut loose) = (Metadata::new(), Vec::new());
    let mut bytes = LOOSE_ALL_BYTES;
    for (name, value) in fields {
        let copy = match copy_of(value) {
            Copy::Nothing => continue,
            Copy::Value(copy) if may_be_copied(name) && stored.len() < FIELDS_MAX => copy,
            Copy::Value(_) | Copy::Loose => {
                loose.push(name.as_str());
                continue;
            }
        };
        // `"name":copy,`
        let more = name.len() + copy.to_string().len() + 4;
        if bytes + more > FILTERABLE_BYTES_MAX {
            loose.push(name);
            continue;
        }
        bytes += more;
        stored.insert(name.clone(), copy);
    }
    if !loose.is_empty() {
        let names = Value::from(loose);
        stored.insert(LOOSE_KEY.to_owned(), names);
        if json_bytes(&stored) > FILTERABLE_BYTES_MAX {
            stored.insert(LOOSE_KEY.to_owned(), Value::from(vec![LOOSE_ALL]));
        }
    }
    stored
}

enum Copy {
    /// No condition can match the field, so its absence says the same.
    Nothing,
    /// The service compares this as a filter does.
    Value(Value),
    /// There is something to compare, and no copy of it that the service is documented to compare so.
    Loose,
}

fn copy_of(value: &Value) -> Copy {
    // Numbers as f64, as filters take them: an integer past 2⁵³ is rounded on both sides.
    let plain = |scalar: Scalar| match scalar {
        Scalar::Bool(value) => Some(Value::Bool(value)),
        Scalar::Number(number) => Number::from_f64(number).map(Value::Number),
        Scalar::Text(text) => Some(Value::String(text)),
    };
    match value {
        Value::Array(_) => {
            let scalars = Scalar::all_of(value);
            if scalars.is_empty() {
                return Copy::Nothing;
            }
            // The guide shows equality with any element of a list of texts; of other lists, and of ranges, it says nothing.
            if scalars.iter().all(|scalar| matches!(scalar, Scalar::Text(_))) {
                return Copy::Value(scalars.into_iter().filter_map(plain).collect());
            }
            Copy::Loose
        }
        _ => match Scalar::of(value) {
            Some(scalar) => plain(scalar).map_or(Copy::Loose, Copy::Value),
            None => Copy::Nothing,
        },
    }
}

/// Length of the compact JSON.
fn json_bytes(metadata: &Metadata) -> usize {
    Value::Object(metadata.clone()).to_string().len()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::vectors::testing::record;
    use proptest::prelude::*;
    use serde_json::json;

    fn seen_by_filters(metadata: Value) -> Value {
        let (mut stored, _) = to_stored(&record("a", &[1.0], metadata)).unwrap();
        for key in NON_FILTERABLE {
            assert!(stored.remove(key).is_some());
        }
        Value::Object(stored)
    }

    /// What lies in a bucket: docs/formats.md, "S3 Vectors".
    #[test]
    fn stored_form_is_the_documented_one() {
        let record = record("a", &[1.0, -0.0], json!({"genre": ["drama", "comedy"], "price": 2, "x y": 1}));
        let (stored, _) = to_stored(&record).unwrap();
        let expected = json!({
            "ab-loose": ["x y"],
            "ab-metadata": "{\"genre\":[\"drama\",\"comedy\"],\"price\":2,\"x y\":1}",
            "ab-vector": "AACAPwAAAIA=",
            "genre": ["drama", "comedy"],
            "price": 2.0,
        });
        assert_eq!(Value::Object(stored.clone()), expected);
        let back = from_stored("a".to_owned(), Some(&stored)).unwrap();
        assert_eq!(back, record);
        assert_eq!(back.vector[1].to_bits(), (-0.0f32).to_bits());
    }

    #[test]
    fn fields_without_a_faithful_copy_are_loose_and_those_without_scalars_are_not_there() {
        let seen = seen_by_filters(json!({
            "list": ["a", null, "b"], "numbers": [1, 2], "mixed": ["a", 1], "empty": [], "nothing": null, "deep": {"a": 1},
            "ab-loose": "x", "$or": 1, "": 2, "flag": false,
        }));
        let expected = json!({
            "flag": false, "list": ["a", "b"], "ab-loose": ["", "$or", "ab-loose", "mixed", "numbers"],
        });
        assert_eq!(seen, expected);
    }

    #[test]
    fn what_does_not_fit_is_loose() {
        let seen = seen_by_filters(json!({"a": "x".repeat(1900), "b": "y".repeat(200), "c": 1}));
        assert_eq!(seen, json!({"a": "x".repeat(1900), "c": 1.0, "ab-loose": ["b"]}));
        let many: Metadata = (0..400).map(|field| (format!("field-{field:03}"), json!(field))).collect();
        let seen = seen_by_filters(Value::Object(many));
        assert_eq!(seen["ab-loose"], json!(["*"]));
        assert_eq!(seen.as_object().unwrap().len(), FIELDS_MAX + 1);
    }

    #[test]
    fn a_record_past_40_kb_is_refused() {
        let refused = to_stored(&record("big", &[1.0], json!({"text": "x".repeat(40_000)}))).unwrap_err();
        assert!(matches!(refused, VectorError::Refused { id, .. } if id == "big"));
        // The largest vector leaves room for 18 KB of metadata.
        assert!(to_stored(&record("wide", &[1.5; 4096], json!({"text": "x".repeat(18_000)}))).is_ok());
    }

    #[test]
    fn damage_is_named() {
        let (stored, _) = to_stored(&record("a", &[1.0, 2.0], json!({}))).unwrap();
        for (key, value) in [
            (VECTOR_KEY, json!("AACAPwAAAEAA")),
            (VECTOR_KEY, json!("AACAfwAAgH8=")),
            (VECTOR_KEY, json!("?")),
            (VECTOR_KEY, json!(1)),
            (METADATA_KEY, json!("[]")),
            (METADATA_KEY, json!(null)),
        ] {
            let damaged: Metadata = stored.clone().into_iter().chain([(key.to_owned(), value)]).collect();
            assert!(from_stored("a".to_owned(), Some(&damaged)).unwrap_err().contains(key));
        }
        assert!(from_stored("a".to_owned(), None).is_err());
    }

    proptest! {
        #[test]
        fn records_come_back_bit_for_bit(bits in prop::collection::vec(any::<u32>(), 1..9), text in ".{0,40}", number in any::<f64>()) {
            let vector: Vec<f32> = bits.into_iter().map(f32::from_bits).filter(|value| value.is_finite()).collect();
            let given = record("a", &vector, json!({"text": text, "number": number}));
            let (stored, bytes) = to_stored(&given).unwrap();
            prop_assert!(bytes <= METADATA_BYTES_MAX);
            let back = from_stored("a".to_owned(), Some(&stored)).unwrap();
            let as_bits = |vector: &[f32]| vector.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(as_bits(&back.vector), as_bits(&given.vector));
            prop_assert_eq!(back.metadata, given.metadata);
        }

        #[test]
        fn filters_see_at_most_two_kilobytes(fields in prop::collection::btree_map("[a-z]{1,60}", ".{0,300}", 0..60)) {
            let metadata: Metadata = fields.into_iter().map(|(name, text)| (name, json!(text))).collect();
            let seen = for_filters(&metadata);
            prop_assert!(json_bytes(&seen) <= FILTERABLE_BYTES_MAX && seen.len() <= METADATA_KEYS_MAX - 2);
        }
    }
}
