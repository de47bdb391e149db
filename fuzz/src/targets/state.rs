//! What is stored in a stream's state, and in the files that fill it.

use anabranch_events::erasure::ErasedName;
use anabranch_events::{HistoryKey, codec};
use anabranch_models::Hide;
use anabranch_stores::fuzzing;
use anabranch_stores::history_file::{HistoryFileError, HistoryFileReader, HistoryFileWriter};
use anabranch_stores::registry::Version;
use anabranch_stream::ports::{Position, SequenceNumber, ShardId};
use anabranch_stream::{fuzzing as stream, object, testing};

use super::types;
use crate::{Verdict, seal};

/// A history's bytes, as they are and sealed. What decodes has one form, and serves.
pub(super) fn history(bytes: &[u8]) -> Verdict {
    one_history(bytes).or(one_history(&seal::history(bytes)))
}

fn one_history(bytes: &[u8]) -> Verdict {
    let result = codec::decode(bytes, types());
    let Ok(history) = &result else { return Verdict::of(&result) };
    let canonical = codec::encode(history, types());
    assert_eq!(&codec::decode(&canonical, types()).expect("what was encoded"), history);
    assert_eq!(codec::encode(history, types()), canonical);
    let model = testing::model();
    let row = model.row(history);
    assert!(row.iter().all(|(item, weight)| *item < 20 && weight.is_finite()), "{row:?}");
    assert!(model.hidden(history, Hide::Everything).iter().all(|item| *item < 20));
    Verdict::Decoded
}

/// A file of histories, as it is and sealed.
pub(super) fn history_file(bytes: &[u8]) -> Verdict {
    one_file(bytes).or(one_file(&seal::file(bytes)))
}

fn one_file(bytes: &[u8]) -> Verdict {
    let result: Result<Vec<_>, HistoryFileError> =
        HistoryFileReader::new(bytes, "the input").and_then(Iterator::collect);
    let Ok(entries) = &result else { return Verdict::of(&result) };
    let mut writer = HistoryFileWriter::new(Vec::new()).expect("memory does not fail");
    for (key, history) in entries {
        if writer.push(key, history).is_err() {
            return Verdict::Decoded; // keys out of order, which only the writer minds
        }
    }
    let again = writer.finish().expect("memory does not fail");
    let found: Vec<_> =
        HistoryFileReader::new(&again[..], "again").and_then(Iterator::collect).expect("what was written");
    assert_eq!(&found, entries);
    Verdict::Decoded
}

/// The value of a log record.
pub(super) fn log_record(bytes: &[u8]) -> Verdict {
    let result = fuzzing::log_record(7, bytes);
    let Ok(record) = &result else { return Verdict::of(&result) };
    let again = fuzzing::log_record(7, &fuzzing::log_record_bytes(record)).expect("what was encoded");
    if record.data.is_some() {
        assert_eq!(&again, record);
    } else {
        assert_eq!((again.arrival_ms, again.data), (record.arrival_ms, None), "an erased record keeps its time alone");
    }
    Verdict::Decoded
}

/// Key (25 bytes) and value of an entry of the outbox.
pub(super) fn outbox_entry(bytes: &[u8]) -> Verdict {
    let (key, value) = bytes.split_at(bytes.len().min(25));
    let result = fuzzing::outbox_entry(key, value);
    let Ok(entry) = &result else { return Verdict::of(&result) };
    let (key, value) = fuzzing::outbox_entry_bytes(entry);
    assert_eq!(&fuzzing::outbox_entry(&key, &value).expect("what was encoded"), entry);
    if let Some(notice) = anabranch_stream::notify::Notice::from_entry(entry) {
        let again = anabranch_stream::notify::Notice::from_entry(&notice.to_entry());
        assert_eq!(again, Some(notice));
    }
    Verdict::Decoded
}

/// A shard's checkpoint in the embedded state.
pub(super) fn checkpoint(bytes: &[u8]) -> Verdict {
    let result = stream::checkpoint(bytes);
    let Ok(checkpoint) = &result else { return Verdict::of(&result) };
    let again = stream::checkpoint(&stream::checkpoint_bytes(*checkpoint)).expect("what was encoded");
    assert_eq!(&again, checkpoint);
    Verdict::Decoded
}

/// The small texts: positions, numbers, shards, names of objects, of erased owners, of models; keys of histories.
pub(super) fn position(bytes: &[u8]) -> Verdict {
    let key = HistoryKey::from_bytes(bytes);
    assert!(key.is_none_or(|key| key.to_bytes() == bytes), "the key of a history");
    let Ok(text) = std::str::from_utf8(bytes) else { return Verdict::Refused };
    let position = text.parse::<Position>();
    if let Ok(position) = &position {
        assert_eq!(position.to_string().parse::<Position>().as_ref(), Ok(position));
    }
    if let Ok(number) = text.parse::<SequenceNumber>() {
        assert_eq!(
            number.to_string(),
            if text.trim_start_matches('0').is_empty() { "0" } else { text.trim_start_matches('0') }
        );
    }
    if let Ok(shard) = text.parse::<ShardId>() {
        assert_eq!(shard.to_string(), text);
    }
    if let Some((shard, after)) = object::parse_name(text) {
        for compression in [anabranch_stream::Compression::Zstd, anabranch_stream::Compression::Gzip] {
            let name = object::object_name("lists", shard, after, 0, compression);
            assert_eq!(object::parse_name(&name), Some((shard, after)));
        }
    }
    let name = ErasedName::parse(text);
    assert!(name.is_none_or(|name| name.to_string() == text.to_ascii_lowercase()), "the name of an erased owner");
    assert!(Version::parse(text).is_none_or(|version| version.as_str() == text));
    Verdict::of(&position)
}

/// A backup, as it is and sealed.
pub(super) fn backup(bytes: &[u8]) -> Verdict {
    one_backup(bytes).or(one_backup(&seal::file(bytes)))
}

fn one_backup(bytes: &[u8]) -> Verdict {
    let result = fuzzing::backup(bytes);
    let Ok(entries) = &result else { return Verdict::of(&result) };
    let held: usize = entries.iter().map(|(key, value)| 9 + key.len() + value.len()).sum();
    assert!(held <= bytes.len(), "entries of {held} bytes in a backup of {}", bytes.len());
    Verdict::Decoded
}
