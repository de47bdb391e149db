//! The ports of the worker over the embedded state: a shard of its log, its histories and checkpoints.
//!
//! Guaranteed: a commit, its notices among it, is one synced batch; the log loses no record that its checkpoint has not passed. Backup,
//! retention, erasure and restore are no matter of the ports: they stay with whoever owns the [`State`].

use std::sync::Arc;

use anabranch_events::{EventTypes, HistoryKey};
use anabranch_stores::ErrorKind;
use anabranch_stores::state::commit::Held;
use anabranch_stores::state::outbox::Entry;
use anabranch_stores::state::{State, StateError};

use crate::notify::Notice;
use crate::ports::{
    Checkpoint, Commit, Page, PortError, Position, Record, SequenceNumber, ShardId, ShardReader, StateStore,
};

/// Reads a shard of the embedded log.
#[derive(Debug)]
pub struct LogReader {
    state: Arc<State>,
    shard: u32,
}

impl LogReader {
    /// A reader of the log's `shard`.
    pub const fn new(state: Arc<State>, shard: u32) -> Self {
        Self { state, shard }
    }
}

impl ShardReader for LogReader {
    fn read_after(&mut self, after: Position, records_max: usize, bytes_max: usize) -> Result<Page, PortError> {
        let number = log_number(after)?;
        let records =
            self.state.read_after(self.shard, number, records_max, bytes_max).map_err(|error| port_error(&error))?;
        let records = records
            .into_iter()
            .map(|record| Record {
                position: Position::whole(record.sequence.into()),
                sub: None,
                arrival_ms: record.arrival_ms,
                partition_key: record.partition_key,
                data: record.data,
            })
            .collect();
        Ok(Page { records, ..Page::default() })
    }

    /// Retention waits for the checkpoint; only a restored backup can be older than the objects.
    fn may_lack_after(&mut self, _after: Position) -> Result<bool, PortError> {
        Ok(self.state.is_restored())
    }
}

/// Histories and checkpoints in the embedded state, for records of any source.
#[derive(Clone, Debug)]
pub struct EmbeddedState {
    state: Arc<State>,
}

impl EmbeddedState {
    /// The port of `state`.
    pub const fn new(state: Arc<State>) -> Self {
        Self { state }
    }

    pub(crate) fn state(&self) -> &State {
        &self.state
    }
}

impl StateStore for EmbeddedState {
    fn histories(&self, keys: &[HistoryKey], types: &EventTypes) -> Result<Vec<Option<Held>>, PortError> {
        keys.iter()
            .map(|key| self.state.history(key, types))
            .collect::<Result<_, _>>()
            .map_err(|error| port_error(&error))
    }

    fn checkpoint(&self, shard: ShardId) -> Result<Checkpoint, PortError> {
        let bytes = self.state.checkpoint_bytes(shard_number(shard)?).map_err(|error| port_error(&error))?;
        bytes.map_or(Ok(Checkpoint::After(Position::START)), |bytes| decode(&bytes)).map_err(|error| port_error(&error))
    }

    fn commit(&self, commit: Commit<'_>) -> Result<(), PortError> {
        let advance = |stored: Option<&[u8]>| {
            let stored = stored.map_or(Ok(commit.checkpoint), decode)?;
            Ok(encode(stored.furthest(commit.checkpoint)))
        };
        let outbox: Vec<Entry> = commit.notices.iter().map(Notice::to_entry).collect();
        self.state
            .commit_with(shard_number(commit.shard)?, &advance, commit.histories, commit.types, &outbox)
            .map_err(|error| port_error(&error))
    }
}

/// The number of a record of the embedded log.
pub fn log_number(position: Position) -> Result<u64, PortError> {
    let number = u64::try_from(position.number).ok().filter(|_| position.sub.is_none());
    number.ok_or_else(|| PortError {
        kind: ErrorKind::FixInput,
        what: format!(
            "the embedded log has no record {position}: this state belongs to a stream that reads from elsewhere; use \
             another state folder"
        ),
        source: None,
    })
}

/// A checkpoint of the log is its number; one of another source, or of a shard's end, is text.
pub(crate) fn encode(checkpoint: Checkpoint) -> Vec<u8> {
    match checkpoint {
        Checkpoint::After(position) => match log_number(position) {
            Ok(number) => number.to_le_bytes().to_vec(),
            Err(_) => format!("{AFTER}{position}").into_bytes(),
        },
        Checkpoint::ShardEnd(position) => format!("{SHARD_END}{position}").into_bytes(),
    }
}

// Either makes a text longer than the eight bytes of a number: what is no number of the log has a point or 20 digits.
const AFTER: &str = "AFTER ";
const SHARD_END: &str = "SHARD_END ";

pub(crate) fn decode(bytes: &[u8]) -> Result<Checkpoint, StateError> {
    if let Ok(number) = bytes.try_into() {
        return Ok(Checkpoint::After(Position::whole(SequenceNumber::from(u64::from_le_bytes(number)))));
    }
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    let position = |text: &str| text.parse::<Position>().ok();
    let after = text.strip_prefix(AFTER).and_then(position).map(Checkpoint::After);
    after
        .or_else(|| text.strip_prefix(SHARD_END).and_then(position).map(Checkpoint::ShardEnd))
        .ok_or_else(|| StateError::Corrupt { what: "a shard's checkpoint".to_owned() })
}

fn shard_number(shard: ShardId) -> Result<u32, PortError> {
    u32::try_from(shard.0).map_err(|_| PortError {
        kind: ErrorKind::FixInput,
        what: format!("the embedded state keeps shards up to {}, not {shard}", ShardId(u32::MAX.into())),
        source: None,
    })
}

pub(crate) fn port_error(error: &StateError) -> PortError {
    let kind = match error.kind() {
        // A write that failed poisons the engine: it has to be opened anew, asking again is no use.
        ErrorKind::Retry => ErrorKind::Fenced,
        other => other,
    };
    PortError { kind, what: error.to_string(), source: None }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::testing::{self, NOW_MS, ShardFixture};
    use anabranch_stores::state::log::NewRecord;

    #[derive(Debug)]
    struct Log(Arc<State>);

    impl ShardFixture for Log {
        fn put(&mut self, partition_key: &str, parts: &[&[u8]]) -> bool {
            let &[data] = parts else { return false };
            // Other shards' records lie between.
            for shard in [0, 1] {
                self.0.append(&[NewRecord { shard, partition_key, data, arrival_ms: NOW_MS }], None).unwrap();
            }
            true
        }

        fn close(&mut self) -> bool {
            false
        }

        fn reader(&mut self) -> Box<dyn ShardReader> {
            Box::new(LogReader::new(Arc::clone(&self.0), 1))
        }
    }

    #[test]
    fn the_log_reads_as_a_shard() {
        let folder = tempfile::tempdir().unwrap();
        testing::shard_reader_conformance(&mut Log(testing::state(folder.path(), 2)));
    }

    #[test]
    fn the_state_keeps_histories_and_checkpoints() {
        let folder = tempfile::tempdir().unwrap();
        testing::state_store_conformance(&EmbeddedState::new(testing::state(folder.path(), 2)));
    }

    #[test]
    fn the_state_keeps_an_outbox() {
        let folder = tempfile::tempdir().unwrap();
        let state = EmbeddedState::new(testing::state(folder.path(), 8));
        testing::outbox_conformance(&state, &state);
    }

    #[test]
    fn checkpoints_come_back() {
        let position = |text: &str| text.parse::<Position>().unwrap();
        let kinesis = "49590338271490256608559692538361571095921575989136588898";
        for text in ["0", "1", "18446744073709551615", "18446744073709551616", kinesis, "0.0", "7.1", "9.9"] {
            for checkpoint in [Checkpoint::After(position(text)), Checkpoint::ShardEnd(position(text))] {
                assert_eq!(decode(&encode(checkpoint)).unwrap(), checkpoint);
            }
        }
        assert_eq!(encode(Checkpoint::After(position("258"))), 258_u64.to_le_bytes(), "the log's own stay numbers");
        for damaged in [&b""[..], b"1", b"AFTER", b"AFTER x", b"SHARD_END 1.", b"\xff\xff"] {
            assert!(decode(damaged).is_err());
        }
    }

    #[test]
    fn a_place_of_another_source_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut reader = LogReader::new(testing::state(folder.path(), 1), 0);
        let error = reader.read_after("7.1".parse().unwrap(), 1, 1).unwrap_err();
        assert_eq!(error.kind, ErrorKind::FixInput);
        assert!(error.to_string().contains("use another state folder"), "{error}");
    }
}
