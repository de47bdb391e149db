//! Lines into a Firehose stream, each answered.
//!
//! `PutRecordBatch` answers 200 with failures inside: only those records are sent again, in their order, after a pause,
//! and before anything that comes after them. When patience ends, or an answer says that trying again is no use,
//! nothing further is sent: the caller goes back to the first line that is not delivered, so what would follow would
//! only come twice. A request whose answer is lost is sent again as a whole. So delivery is at least once.

use std::fmt::Debug;
use std::ops::Range;

use anabranch_stores::backoff::Patience;

use super::pack::{self, RECORD_BYTES_MAX};
use crate::api::{ApiError, ApiErrorKind};

/// What Firehose did with one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordOutcome {
    /// It took it.
    Stored,
    /// It did not.
    Failed {
        /// AWS's code.
        code: String,
        /// AWS's words.
        message: String,
    },
}

/// What we ask of Firehose: one delivery stream, one operation.
pub trait FirehoseApi: Send + Sync + Debug {
    /// Puts at most 500 records of at most 4 MiB together; one outcome for each, in their order.
    fn put_record_batch(&self, records: &[&[u8]]) -> Result<Vec<RecordOutcome>, ApiError>;
}

/// What became of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineOutcome {
    /// Firehose has it.
    Delivered,
    /// It is longer than a record; it never will be.
    TooLarge,
    /// It was not delivered, or nobody knows: send it again later.
    Undelivered,
}

/// What became of all lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivery {
    /// For each line.
    pub lines: Vec<LineOutcome>,
    /// Why some are undelivered.
    pub trouble: Option<ApiError>,
    /// Requests made.
    pub requests: u64,
    /// Records that failed within a request that succeeded.
    pub failed_records: u64,
    /// Bytes as Firehose bills them, of records that it took.
    pub billed_bytes: u64,
}

impl Delivery {
    /// The first line that must be sent again.
    pub fn first_undelivered(&self) -> Option<usize> {
        self.lines.iter().position(|line| *line == LineOutcome::Undelivered)
    }
}

/// Delivers lines through a Firehose stream.
#[derive(Debug)]
pub struct FirehoseSink<A> {
    api: A,
    patience: Patience,
    record_bytes: usize,
}

/// A record that is not delivered yet.
#[derive(Debug)]
struct Waiting {
    data: Vec<u8>,
    lines: Range<usize>,
}

impl<A: FirehoseApi> FirehoseSink<A> {
    /// Records of about `record_bytes` ([`pack::RECORD_BYTES`]; 1 sends each line alone).
    pub const fn new(api: A, patience: Patience, record_bytes: usize) -> Self {
        Self { api, patience, record_bytes }
    }

    /// Delivers lines, which may or may not end with a newline, in their order.
    pub fn deliver<'a>(&self, lines: impl IntoIterator<Item = &'a [u8]>) -> Delivery {
        let packed = pack::pack(lines, self.record_bytes);
        let line_count = packed.records.last().map_or(0, |record| record.lines.end);
        let line_count = line_count.max(packed.too_large.last().map_or(0, |line| line + 1));
        let mut delivery = Delivery { lines: vec![LineOutcome::Undelivered; line_count], ..Delivery::default() };
        for line in packed.too_large {
            tracing::warn!(
                line,
                bytes_max = RECORD_BYTES_MAX,
                "a line is longer than a Firehose record and is not delivered"
            );
            delivery.lines[line] = LineOutcome::TooLarge;
        }
        let mut waiting: Vec<Waiting> =
            packed.records.into_iter().map(|record| Waiting { data: record.data, lines: record.lines }).collect();
        // What failed, and how often in a row nothing went through.
        let mut attempt = 0;
        while !waiting.is_empty() {
            let length = pack::batch_length(waiting.iter().map(|record| &record.data[..]));
            let rest = waiting.split_off(length);
            let before = waiting.len();
            let trouble = self.request(&mut waiting, &mut delivery);
            attempt = if waiting.len() < before { 1 } else { attempt + 1 };
            let is_stuck = !waiting.is_empty();
            waiting.extend(rest);
            if let Some(trouble) = trouble
                && is_stuck
                && !(is_passing(&trouble) && self.patience.wait_after(attempt))
            {
                delivery.trouble = Some(trouble);
                break;
            }
        }
        delivery
    }

    /// One request; leaves what is not delivered in `batch`, and says why.
    fn request(&self, batch: &mut Vec<Waiting>, delivery: &mut Delivery) -> Option<ApiError> {
        delivery.requests += 1;
        let records: Vec<&[u8]> = batch.iter().map(|record| &record.data[..]).collect();
        let outcomes = match self.api.put_record_batch(&records) {
            Ok(outcomes) if outcomes.len() == batch.len() => outcomes,
            Ok(outcomes) => {
                let message = format!("{} outcomes for {} records", outcomes.len(), batch.len());
                return Some(error(ApiErrorKind::Malformed, message));
            }
            Err(error) => return Some(error),
        };
        let mut trouble: Option<ApiError> = None;
        let mut outcomes = outcomes.into_iter();
        batch.retain(|record| match outcomes.next() {
            Some(RecordOutcome::Stored) => {
                delivery.lines[record.lines.clone()].fill(LineOutcome::Delivered);
                delivery.billed_bytes += pack::billed_bytes(record.data.len()) as u64;
                false
            }
            Some(RecordOutcome::Failed { code, message }) => {
                delivery.failed_records += 1;
                let found = error(ApiErrorKind::of(Some(&code), None), format!("{code}: {message}"));
                // What waiting does not mend is what the caller must hear of.
                if trouble.as_ref().is_none_or(is_passing) {
                    trouble = Some(found);
                }
                true
            }
            None => true,
        });
        trouble
    }
}

fn error(kind: ApiErrorKind, message: String) -> ApiError {
    ApiError::new(kind, "PutRecordBatch", "the delivery stream", message)
}

fn is_passing(error: &ApiError) -> bool {
    matches!(error.kind, ApiErrorKind::Throttled | ApiErrorKind::Retry | ApiErrorKind::InUse)
}

#[cfg(test)]
mod tests;
