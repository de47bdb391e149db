//! Records in PostgreSQL's binary `COPY` format, and vectors back from pgvector's binary form.
//!
//! `COPY` (PostgreSQL documentation, "COPY", "Binary Format"): a signature, then for each row the number of fields and
//! each field's length and bytes, big-endian, then −1. A `vector` is its dimension, 16 bits of zero, and its numbers
//! as big-endian f32, so that every bit comes back.

use bytes::{BufMut, Bytes, BytesMut};

use super::fields::fields_text;
use crate::vectors::VectorRecord;

/// Signature, flags and the length of an extension of the header: both zero.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// Number of fields that says that no row follows.
const TRAILER: i16 = -1;
/// Columns of a row: id, metadata, fields, embedding.
const COLUMNS: i16 = 4;
/// Version of jsonb's binary form, its first byte.
const JSONB_VERSION: u8 = 1;
/// A chunk is sent when it holds this much.
const CHUNK_BYTES: usize = 1 << 20;

/// The rows of `records`, encoded a chunk at a time, so that a large upsert is not held twice.
pub(super) fn chunks(records: &[VectorRecord]) -> impl Iterator<Item = Bytes> {
    let mut pending = Some(HEADER);
    let mut records = records.iter();
    std::iter::from_fn(move || {
        let header = pending.take();
        let mut chunk =
            BytesMut::with_capacity(if header.is_some() || !records.as_slice().is_empty() { CHUNK_BYTES } else { 2 });
        if let Some(header) = header {
            chunk.put_slice(header);
        } else if records.as_slice().is_empty() {
            return None;
        }
        for record in records.by_ref() {
            put_row(&mut chunk, record);
            if chunk.len() >= CHUNK_BYTES {
                break;
            }
        }
        if records.as_slice().is_empty() {
            chunk.put_i16(TRAILER);
        }
        Some(chunk.freeze())
    })
}

fn put_row(chunk: &mut BytesMut, record: &VectorRecord) {
    let metadata = serde_json::to_vec(&record.metadata).expect("a JSON object serializes");
    let fields = fields_text(&record.metadata);
    chunk.put_i16(COLUMNS);
    put_bytes(chunk, record.id.as_bytes());
    put_bytes(chunk, &metadata);
    put_length(chunk, fields.len() + 1);
    chunk.put_u8(JSONB_VERSION);
    chunk.put_slice(fields.as_bytes());
    put_length(chunk, 4 + 4 * record.vector.len());
    chunk.put_u16(record.vector.len() as u16);
    chunk.put_u16(0);
    record.vector.iter().for_each(|value| chunk.put_f32(*value));
}

fn put_bytes(chunk: &mut BytesMut, bytes: &[u8]) {
    put_length(chunk, bytes.len());
    chunk.put_slice(bytes);
}

/// A field past the format's 2 GiB is past PostgreSQL's 1 GiB as well: whatever is written here, the server refuses it.
fn put_length(chunk: &mut BytesMut, length: usize) {
    chunk.put_i32(i32::try_from(length).unwrap_or(i32::MAX));
}

/// Reads pgvector's binary form of a vector of `dim` numbers into `vector`; says whether it was one.
pub(super) fn read_vector(bytes: &[u8], dim: usize, vector: &mut Vec<f32>) -> bool {
    let Some((head, numbers)) = bytes.split_at_checked(4) else { return false };
    if usize::from(u16::from_be_bytes([head[0], head[1]])) != dim || numbers.len() != 4 * dim {
        return false;
    }
    vector.clear();
    vector.extend(numbers.chunks_exact(4).map(|bytes| f32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])));
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::testing::record;

    #[test]
    fn a_copy_has_header_rows_and_trailer() {
        let records = [record("a", &[1.0, -0.0], serde_json::json!({"x": [1, null]}))];
        let bytes: Vec<u8> = chunks(&records).flatten().collect();
        let mut expected = HEADER.to_vec();
        expected.extend(b"\0\x04\0\0\0\x01a\0\0\0\x0e{\"x\":[1,null]}\0\0\0\x0c\x01{\"x\":[1.0]}");
        expected.extend(b"\0\0\0\x0c\0\x02\0\0\x3f\x80\0\0\x80\0\0\0\xff\xff");
        assert_eq!(bytes, expected);
        assert_eq!(chunks(&[]).flatten().collect::<Vec<u8>>(), [HEADER, b"\xff\xff"].concat());
        let many: Vec<_> =
            (0..3000).map(|index| record(&index.to_string(), &[1.0; 200], serde_json::json!({}))).collect();
        assert!(chunks(&many).count() > 2);
        let whole: Vec<u8> = chunks(&many).flatten().collect();
        assert!(whole.ends_with(b"\xff\xff"));
    }

    #[test]
    fn vectors_are_read_bit_by_bit() {
        let mut vector = Vec::new();
        assert!(read_vector(b"\0\x02\0\0\x3f\x80\0\0\x80\0\0\0", 2, &mut vector));
        assert_eq!(vector.iter().map(|value| value.to_bits()).collect::<Vec<_>>(), [0x3f80_0000, 0x8000_0000]);
        for bad in [&b""[..], b"\0\x02", b"\0\x02\0\0\x3f\x80\0\0", b"\0\x01\0\0\x3f\x80\0\0"] {
            assert!(!read_vector(bad, 2, &mut vector), "{bad:?}");
        }
    }
}
