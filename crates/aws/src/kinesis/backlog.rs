//! Records that were read and not yet handed out.
//!
//! Kinesis gives up to 10,000 records or 10 MiB at once, each perhaps an aggregate of thousands; the worker takes as much
//! as it asks for. What is left waits here, in Kinesis's own form; only the front record is taken apart, so memory stays
//! within one answer of Kinesis and one aggregate. Both readers share it, and Lambda's handlers its [`expand`].

use std::collections::VecDeque;

use anabranch_stream::ports::{Page, Position, Record};

use super::kpl::{Payload, read};
use crate::api::DataRecord;

/// The user records of a Kinesis record, with positions as [`Record`] says.
///
/// An aggregate that cannot be read is one record with all its bytes: no event, so it ends as a dead letter.
pub fn expand(record: DataRecord) -> VecDeque<Record> {
    let DataRecord { number, arrival_ms, partition_key, data } = record;
    let plain =
        |data| Record { position: Position::whole(number), sub: None, arrival_ms, partition_key, data: Some(data) };
    match read(&data) {
        Payload::Plain(_) => VecDeque::from([plain(data)]),
        Payload::Malformed(error) => {
            tracing::warn!(sequence_number = %number, %error, "an aggregate cannot be read");
            VecDeque::from([plain(data)])
        }
        Payload::Aggregate(parts) => {
            let count = parts.len() as u64;
            (0..)
                .zip(parts)
                .map(|(sub, part)| Record {
                    position: Position { number, sub: (sub + 1 < count).then_some(sub) },
                    sub: Some(sub),
                    arrival_ms,
                    partition_key: part.partition_key.to_owned(),
                    data: Some(part.data.to_vec()),
                })
                .collect()
        }
    }
}

/// A queue of records after a position.
#[derive(Debug)]
pub(crate) struct Backlog {
    /// Everything up to here was handed out; nothing at or before it ever is again.
    handed_out: Position,
    /// The position of the last user record that was handed out: an aggregate without any moves only the former.
    last_record: Position,
    waiting: VecDeque<DataRecord>,
    /// The rest of the record that was taken apart last.
    front: VecDeque<Record>,
}

impl Backlog {
    pub(crate) const fn new(after: Position) -> Self {
        Self { handed_out: after, last_record: after, waiting: VecDeque::new(), front: VecDeque::new() }
    }

    /// Whether the next record handed out is the one after `after`.
    pub(crate) fn continues(&self, after: Position) -> bool {
        after == self.handed_out || after == self.last_record
    }

    pub(crate) fn position(&self) -> Position {
        self.handed_out
    }

    pub(crate) fn push(&mut self, records: Vec<DataRecord>) {
        self.waiting.extend(records);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.front.is_empty() && self.waiting.is_empty()
    }

    /// Up to `records_max` records and `bytes_max` bytes beyond the first.
    pub(crate) fn page(&mut self, records_max: usize, bytes_max: usize) -> Page {
        let mut records: Vec<Record> = Vec::new();
        let mut bytes = 0_usize;
        while records.len() < records_max {
            let Some(next) = self.front.front() else {
                let Some(record) = self.waiting.pop_front() else { break };
                self.take_apart(record);
                continue;
            };
            let next_bytes = next.data.as_ref().map_or(0, Vec::len);
            if !records.is_empty() && bytes.saturating_add(next_bytes) > bytes_max {
                break;
            }
            bytes = if records.is_empty() { 0 } else { bytes + next_bytes };
            records.extend(self.front.pop_front());
            if let Some(last) = records.last() {
                self.handed_out = last.position;
                self.last_record = last.position;
            }
        }
        let through = (self.handed_out > self.last_record).then_some(self.handed_out);
        Page { records, through, ..Page::default() }
    }

    /// Makes `record` the front, without what was handed out of it before.
    fn take_apart(&mut self, record: DataRecord) {
        let end = Position::whole(record.number);
        if end <= self.handed_out {
            return;
        }
        self.front = expand(record);
        let handed_out = self.handed_out;
        let is_known_part = |record: &Record| {
            record.position.number == handed_out.number && record.sub.is_some() && record.sub <= handed_out.sub
        };
        self.front.retain(|record| record.position > handed_out && !is_known_part(record));
        if self.front.is_empty() {
            self.handed_out = end;
        }
    }
}

#[cfg(test)]
mod tests;
