//! What producers send.

use anabranch_aws::api::DataRecord;
use anabranch_aws::kinesis::backlog::expand;
use anabranch_aws::kinesis::kpl::{Aggregator, Payload, USER_RECORDS_MAX, read};
use anabranch_events::wire::decode_record;
use anabranch_events::wire::json::{encode_event, partition_key, split_envelope};
use anabranch_events::wire::time::{format_time_ms, parse_time_ms};
use anabranch_events::{Event, Rejection};
use anabranch_server::fuzzing;
use anabranch_stream::ingest::check_event;
use anabranch_stream::ports::{Position, SequenceNumber};
use anabranch_stream::testing::NOW_MS;

use super::types;
use crate::{Verdict, said, seal};

fn decoded(bytes: &[u8]) -> Vec<Result<Event<'_>, Rejection>> {
    let mut events = Vec::new();
    decode_record(bytes, types(), NOW_MS, |event| events.push(event));
    events
}

fn good(bytes: &[u8]) -> Vec<Event<'static>> {
    decoded(bytes).into_iter().flatten().map(Event::into_owned).collect()
}

/// One stream record. An event written again is the same event; an envelope taken apart at the door holds the events
/// that the stream would find in it whole.
pub(super) fn event_json(bytes: &[u8]) -> Verdict {
    let events = decoded(bytes);
    for event in &events {
        match event {
            Err(rejection) => said(&rejection.detail),
            Ok(event) => {
                let again = encode_event(event, types());
                assert_eq!(decoded(&again), [Ok(event.clone())], "an event that was written again");
                assert_eq!(partition_key(&again).as_deref(), Some(event.history_key().id()));
            }
        }
    }
    let whole = good(bytes);
    match split_envelope(bytes) {
        Err(rejection) => {
            said(&rejection.detail);
            assert!(whole.is_empty(), "the stream finds events where the door finds none");
        }
        Ok(parts) => {
            assert_eq!(parts.len(), events.len(), "one part for each event of an envelope");
            let apart: Vec<Event<'_>> = parts.iter().flat_map(|part| good(part)).collect();
            assert_eq!(apart, whole, "an envelope taken apart");
        }
    }
    if whole.is_empty() { Verdict::Refused } else { Verdict::Decoded }
}

/// The body of `POST /events`. What is taken is one good event each, and fits the log.
pub(super) fn post_events(bytes: &[u8]) -> Verdict {
    let judged = fuzzing::post_events(bytes, types(), NOW_MS);
    let Ok((events, _)) = &judged else { return Verdict::of(&judged) };
    for event in events {
        check_event(event).expect("what the door takes fits the log");
        let found = decoded(&event.data);
        let [Ok(found)] = &found[..] else { panic!("the door took {found:?}") };
        assert_eq!(found.history_key().id(), event.partition_key);
    }
    if events.is_empty() { Verdict::Refused } else { Verdict::Decoded }
}

/// The body of `PutRecords`, to a stream named `clicks`.
pub(super) fn put_records(bytes: &[u8]) -> Verdict {
    match fuzzing::put_records("clicks", bytes) {
        Err((kind, message)) => {
            assert!(kind.ends_with("Exception"), "{kind} is no error of AWS");
            said(&message);
            Verdict::Refused
        }
        Ok(events) => {
            assert!((1..=fuzzing::RECORDS_MAX).contains(&events.len()));
            for event in &events {
                check_event(event).expect("what the door takes fits the log");
            }
            Verdict::Decoded
        }
    }
}

/// A time as people write it: written as RFC 3339 it is the same time.
pub(super) fn event_time(bytes: &[u8]) -> Verdict {
    let Ok(text) = std::str::from_utf8(bytes) else { return Verdict::Refused };
    let Some(time_ms) = parse_time_ms(text) else { return Verdict::Refused };
    let written = format_time_ms(time_ms);
    if written != "out of range" {
        assert_eq!(parse_time_ms(&written), Some(time_ms), "{written}");
    }
    Verdict::Decoded
}

/// The data of a Kinesis record, as they are and sealed as an aggregate.
pub(super) fn kpl_aggregate(bytes: &[u8]) -> Verdict {
    payload(bytes).or(payload(&seal::aggregate(bytes)))
}

fn payload(data: &[u8]) -> Verdict {
    let number: SequenceNumber =
        "49590338271490256608559692538361571095921575989136588898".parse().expect("a sequence number of Kinesis");
    let record = DataRecord { number, arrival_ms: NOW_MS, partition_key: "key".to_owned(), data: data.to_vec() };
    let records = expand(record);
    let end = Position::whole(number);
    assert!(records.iter().all(|record| record.position <= end));
    assert!(records.iter().zip(records.iter().skip(1)).all(|(a, b)| a.position < b.position));
    assert!(records.back().is_none_or(|last| last.position == end), "the last user record ends the record");
    match read(data) {
        Payload::Plain(plain) => {
            assert_eq!(plain, data);
            Verdict::Refused
        }
        Payload::Malformed(error) => {
            said(&error.to_string());
            Verdict::Refused
        }
        Payload::Aggregate(parts) => {
            assert_eq!(parts.len(), records.len());
            assert!(parts.len() <= USER_RECORDS_MAX);
            let key = parts.first().map_or("", |part| part.partition_key);
            let mut aggregator = Aggregator::new(key);
            for part in &parts {
                let bound = aggregator.bytes_with(part.data.len());
                aggregator.push(part.data);
                assert!(parts.len() > 64 || aggregator.finish().len() <= bound, "an aggregate larger than announced");
            }
            let again = aggregator.finish();
            let Payload::Aggregate(found) = read(&again) else { panic!("what was packed does not unpack") };
            assert!(found.iter().map(|part| part.data).eq(parts.iter().map(|part| part.data)));
            Verdict::Decoded
        }
    }
}
