//! Items of DynamoDB. The bytes are attributes: name, type and value, each short.

use anabranch_aws::dynamo::api::{Item, Value};
use anabranch_aws::dynamo::{fuzzing, item};
use anabranch_events::{HistoryKey, codec};
use anabranch_stream::ports::ShardId;

use super::types;
use crate::Verdict;

/// An item from bytes: for each attribute the length of its name, the name, its type, two bytes of length, the value.
fn item_of(mut bytes: &[u8]) -> Item {
    let mut item = Item::new();
    while let Some((name, rest)) = short(bytes) {
        let Some((kind, rest)) = rest.split_first() else { break };
        let Some((length, rest)) = rest.split_first_chunk() else { break };
        let (value, rest) = rest.split_at(rest.len().min(usize::from(u16::from_le_bytes(*length))));
        let text = || String::from_utf8_lossy(value).into_owned();
        let value = match kind {
            b'S' => Value::S(text()),
            b'N' => Value::N(text()),
            b'L' => Value::Ss(text().split(',').map(str::to_owned).collect()),
            b'T' => Value::Bool(!value.is_empty()),
            _ => Value::B(value.to_vec()),
        };
        item.insert(String::from_utf8_lossy(name).into_owned(), value);
        bytes = rest;
    }
    item
}

fn short(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(*length))
}

/// The bytes of an item, for seeds.
pub(crate) fn item_bytes(item: &Item) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in item {
        let (kind, value) = match value {
            Value::S(text) => (b'S', text.clone().into_bytes()),
            Value::N(text) => (b'N', text.clone().into_bytes()),
            Value::B(bytes) => (b'B', bytes.clone()),
            Value::Bool(value) => (b'T', vec![1; usize::from(*value)]),
            Value::Ss(texts) => (b'L', texts.iter().cloned().collect::<Vec<_>>().join(",").into_bytes()),
        };
        bytes.push(name.len() as u8);
        bytes.extend_from_slice(name.as_bytes());
        bytes.push(kind);
        bytes.extend_from_slice(&(value.len() as u16).to_le_bytes());
        bytes.extend_from_slice(&value);
    }
    bytes
}

/// An item, read as each thing that the tables hold; what reads is written, and reads again as the same.
pub(super) fn dynamo_item(bytes: &[u8]) -> Verdict {
    let item = item_of(bytes);
    let key = HistoryKey::User("u1".into());
    let history = item::read_history(&key, &item, types());
    if let Ok(stored) = &history {
        let written = item::history_item(&key, codec::encode(&stored.history, types()), 1);
        let again = item::read_history(&key, &written, types()).expect("what was written");
        assert_eq!(again.history, stored.history);
    }
    let floor = item::read_floor(&item);
    let shard = ShardId(3);
    let checkpoint = item::read_checkpoint(shard, &item);
    if let Ok(checkpoint) = checkpoint {
        let (written, _) = item::checkpoint_item("clicks", shard, checkpoint);
        assert_eq!(item::read_checkpoint(shard, &written).expect("what was written"), checkpoint);
    }
    let lease = fuzzing::lease(&item);
    if let Ok(lease) = &lease {
        assert_eq!(&fuzzing::lease(&fuzzing::lease_item(lease)).expect("what was written"), lease);
    }
    let notice = fuzzing::notice(&item);
    if let Ok(Some(notice)) = &notice {
        assert_eq!(fuzzing::notice(&fuzzing::notice_item(notice)).expect("what was written").as_ref(), Some(notice));
    }
    let waiting = if matches!(notice, Ok(None)) { Verdict::Refused } else { Verdict::of(&notice) };
    Verdict::of(&history).or(Verdict::of(&floor)).or(Verdict::of(&checkpoint)).or(Verdict::of(&lease)).or(waiting)
}
