//! What the stream delivers, and what it refused.

use std::collections::BTreeSet;

use anabranch_events::{HistoryKey, Recommendation};
use anabranch_stores::lake::{MemoryStore, ObjectPath, ObjectStore};
use anabranch_stores::state::log::Rewrite;
use anabranch_stream::erase;
use anabranch_stream::object::{self, Form};
use anabranch_stream::settings::{Compression, Format};

use crate::Verdict;

/// Lines that a target lets come out of an object.
const LINES_BYTES_MAX: u64 = 4 << 20;

/// A delivered list.
pub(super) fn recommendation(bytes: &[u8]) -> Verdict {
    let result = serde_json::from_slice::<Recommendation<'_>>(bytes);
    let Ok(list) = &result else { return Verdict::of(&result) };
    let text = serde_json::to_vec(list).expect("a list has a JSON form");
    assert_eq!(&serde_json::from_slice::<Recommendation<'_>>(&text).expect("what was written"), list);
    Verdict::Decoded
}

/// A delivered object of lines, zstd or gzip, with its trailer.
pub(super) fn delivered_lines(bytes: &[u8]) -> Verdict {
    if bytes.starts_with(b"PAR1") || bytes.ends_with(b"PAR1") {
        return Verdict::Refused; // the target below
    }
    delivered(bytes)
}

/// A delivered object in Parquet.
pub(super) fn delivered_parquet(bytes: &[u8]) -> Verdict {
    delivered(bytes)
}

fn delivered(bytes: &[u8]) -> Verdict {
    let lines = object::decompress("object", bytes, LINES_BYTES_MAX);
    assert!(lines.as_ref().is_ok_and(|lines| lines.len() as u64 <= LINES_BYTES_MAX) || lines.is_err());
    let trailer = object::decode_trailer("object", bytes);
    let verdict = Verdict::of(&lines).or(Verdict::of(&trailer));
    let Ok(trailer) = trailer else { return verdict };
    if trailer.bytes > LINES_BYTES_MAX {
        return verdict;
    }
    let result = object::decode("object", bytes);
    let Ok((trailer, lines)) = result else { return verdict.or(Verdict::of(&result)) };
    let form = Form {
        format: if bytes.starts_with(b"PAR1") { Format::Parquet } else { Format::Jsonl },
        compression: if bytes.starts_with(&[0x1f, 0x8b]) { Compression::Gzip } else { Compression::Zstd },
    };
    match object::encode(&lines, &trailer, form) {
        Err(error) => crate::said(&error.to_string()), // a trailer longer than its place
        Ok(again) => {
            assert_eq!(object::decode("again", &again).expect("what was written"), (trailer, lines));
        }
    }
    Verdict::Decoded
}

/// Dead letters, and records of the log, from which an owner is erased: once is enough, and nothing else goes.
pub(super) fn dead_letters(bytes: &[u8]) -> Verdict {
    let owners = BTreeSet::from([HistoryKey::User("u1".into()), HistoryKey::Session("s1".into())]);
    let store = MemoryStore::new();
    let path = ObjectPath::new("dead-letters/a.jsonl.zst").expect("a valid path");
    let packed = object::compress(bytes, Compression::Zstd).expect("memory does not fail");
    store.put(&path, &packed).expect("memory does not fail");
    let erase = || erase::erase_dead_letters(&store, "dead-letters", &owners, Compression::Zstd).expect("it reads");
    let gone = erase();
    assert_eq!(erase(), 0, "a second erasure finds more");
    let left = store.get(&path).map_or_else(
        |_| Vec::new(),
        |packed| object::decompress("left", &packed, bytes.len() as u64).expect("what was written"),
    );
    let lines = |bytes: &[u8]| bytes.split_inclusive(|byte| *byte == b'\n').count() as u64;
    assert_eq!(lines(&left) + gone, lines(bytes), "lines are kept or counted");
    match erase::without(bytes, &owners) {
        Rewrite::Keep | Rewrite::Empty => {}
        Rewrite::Replace(rest) => {
            assert_eq!(erase::without(&rest, &owners), Rewrite::Keep, "a second erasure finds more in a record");
        }
    }
    if gone > 0 { Verdict::Decoded } else { Verdict::Refused }
}
