//! Forgetting in what the stream wrote: the bytes of log records, and dead letters.
//!
//! What cannot be understood but contains the id is taken to be about its owner: erasing too much of a broken record is
//! better than keeping somebody's name.

use std::collections::BTreeSet;

use anabranch_events::HistoryKey;
use anabranch_stores::lake::{LakeError, ObjectStore};
use anabranch_stores::state::log::Rewrite;
use serde_json::Value;

use crate::object;
use crate::settings::Compression;

/// Lines of one dead-letter object at most, in bytes: a cut holds fewer.
const DEAD_BYTES_MAX: u64 = 4 << 30;

/// The bytes of a record without what belongs to `owners`.
pub fn without(data: &[u8], owners: &BTreeSet<HistoryKey>) -> Rewrite {
    let Ok(Value::Object(mut record)) = serde_json::from_slice::<Value>(data) else {
        let is_theirs = owners.iter().any(|owner| contains(data, owner.id().as_bytes()));
        return if is_theirs { Rewrite::Empty } else { Rewrite::Keep };
    };
    if belongs(&record, owners) {
        return Rewrite::Empty;
    }
    let Some(Value::Array(events)) = record.get_mut("eventList") else { return Rewrite::Keep };
    let before = events.len();
    events.retain(|event| !event.as_object().is_some_and(|event| belongs(event, owners)));
    match (events.len(), before) {
        (left, before) if left == before => Rewrite::Keep,
        (0, _) => Rewrite::Empty,
        _ => Rewrite::Replace(serde_json::to_vec(&record).expect("JSON values serialise")),
    }
}

fn belongs(event: &serde_json::Map<String, Value>, owners: &BTreeSet<HistoryKey>) -> bool {
    let names = |names: [&str; 2], id: &str| {
        names.iter().any(|name| match event.get(*name) {
            Some(Value::String(text)) => text == id,
            Some(Value::Number(number)) => number.to_string() == id,
            _ => false,
        })
    };
    owners.iter().any(|owner| match owner {
        HistoryKey::User(id) => names(["userId", "USER_ID"], id),
        HistoryKey::Session(id) => names(["sessionId", "SESSION_ID"], id),
    })
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// Removes the dead letters of `owners` from every object below `prefix`. Returns how many letters went.
pub fn erase_dead_letters(
    store: &dyn ObjectStore,
    prefix: &str,
    owners: &BTreeSet<HistoryKey>,
    compression: Compression,
) -> Result<u64, LakeError> {
    let mut erased = 0;
    for object in store.list(prefix)? {
        let bytes = store.get(&object.path)?;
        let Ok(lines) = object::decompress(object.path.as_str(), &bytes, DEAD_BYTES_MAX) else {
            tracing::warn!(object = object.path.as_str(), "a dead-letter object does not read; it is left as it is");
            continue;
        };
        let mut kept = Vec::with_capacity(lines.len());
        let mut gone = 0;
        for line in lines.split_inclusive(|&byte| byte == b'\n') {
            if is_about(line, owners) {
                gone += 1;
            } else {
                kept.extend_from_slice(line);
            }
        }
        if gone == 0 {
            continue;
        }
        erased += gone;
        if kept.is_empty() {
            store.delete(&object.path)?;
        } else {
            let is_gzip = bytes.starts_with(&[0x1f, 0x8b]);
            let compression = if is_gzip { Compression::Gzip } else { compression };
            let bytes = object::compress(&kept, compression).expect("compressing into memory does not fail");
            store.put(&object.path, &bytes)?;
        }
    }
    Ok(erased)
}

fn is_about(line: &[u8], owners: &BTreeSet<HistoryKey>) -> bool {
    let Ok(letter) = serde_json::from_slice::<Value>(line) else { return without(line, owners) != Rewrite::Keep };
    let key = letter.get("partitionKey").and_then(Value::as_str);
    if owners.iter().any(|owner| key == Some(owner.id())) {
        return true;
    }
    match (letter.get("raw").and_then(Value::as_str), letter.get("rawBase64").and_then(Value::as_str)) {
        (Some(raw), _) => without(raw.as_bytes(), owners) != Rewrite::Keep,
        (None, Some(encoded)) => {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD
                .decode(encoded)
                .is_ok_and(|raw| without(&raw, owners) != Rewrite::Keep)
        }
        (None, None) => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use anabranch_stores::lake::{MemoryStore, ObjectPath};

    fn owners() -> BTreeSet<HistoryKey> {
        BTreeSet::from([HistoryKey::User("u1".into()), HistoryKey::Session("s1".into())])
    }

    #[test]
    fn records_lose_what_belongs_to_the_owner() {
        let owners = owners();
        let after = |data: &str| without(data.as_bytes(), &owners);
        assert_eq!(after(r#"{"userId":"u1","itemId":"a"}"#), Rewrite::Empty);
        assert_eq!(after(r#"{"USER_ID":"u1"}"#), Rewrite::Empty);
        assert_eq!(after(r#"{"userId":"u2","sessionId":"s1"}"#), Rewrite::Empty);
        assert_eq!(after(r#"{"userId":"s1"}"#), Rewrite::Keep, "a user named like the session is somebody else");
        assert_eq!(after(r#"{"userId":"u2","itemId":"u1"}"#), Rewrite::Keep);
        assert_eq!(after("broken u1 {"), Rewrite::Empty);
        assert_eq!(after("broken"), Rewrite::Keep);
        assert_eq!(
            after(r#"{"eventList":[{"userId":"u1"},{"userId":"u2"}]}"#),
            Rewrite::Replace(br#"{"eventList":[{"userId":"u2"}]}"#.to_vec())
        );
        assert_eq!(after(r#"{"eventList":[{"userId":"u1"}]}"#), Rewrite::Empty);
    }

    #[test]
    fn dead_letters_are_rewritten_or_removed() {
        let store = MemoryStore::new();
        let path = |name: &str| ObjectPath::new(format!("dead-letters/n/{name}.jsonl.zst")).unwrap();
        let mine = br#"{"partitionKey":"x","raw":"{\"userId\":\"u1\"}"}"#;
        let other = br#"{"partitionKey":"x","raw":"{\"userId\":\"u2\"}"}"#;
        let put = |name: &str, lines: &[&[u8]]| {
            let bytes = object::compress(&lines.join(&b'\n'), Compression::Zstd).unwrap();
            store.put(&path(name), &bytes).unwrap();
        };
        put("a", &[mine, other]);
        put("b", &[mine]);
        assert_eq!(erase_dead_letters(&store, "dead-letters", &owners(), Compression::Zstd).unwrap(), 2);
        let left = store.list("dead-letters").unwrap();
        assert_eq!(left.len(), 1);
        let lines = object::decompress("a", &store.get(&left[0].path).unwrap(), 1000).unwrap();
        assert_eq!(lines, other);
    }
}
