//! Doors to the readers of requests, for the fuzz targets alone. No part of the API: hidden, and may change at any time.

use anabranch_events::EventTypes;
use anabranch_stream::NewEvent;

use crate::{events, kinesis};

/// Most records of a `PutRecords` call.
pub const RECORDS_MAX: usize = kinesis::RECORDS_MAX;

/// The records of a `PutRecords` call to stream `stream`; the error as AWS words it.
pub fn put_records(stream: &str, body: &[u8]) -> Result<Vec<NewEvent>, (&'static str, String)> {
    kinesis::events_of(stream, body).map_err(|error| (error.kind, error.message))
}

/// The events of a `POST /events`, and how many were refused.
pub fn post_events(body: &[u8], types: &EventTypes, arrival_ms: i64) -> Result<(Vec<NewEvent>, usize), String> {
    let judged = events::judge(body, types, arrival_ms);
    judged.map(|(events, rejected)| (events, rejected.len())).map_err(|refusal| refusal.message)
}
