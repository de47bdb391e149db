//! What Lambda hands to a function, through the whole function over a world in memory.

use std::collections::HashSet;
use std::sync::Arc;

use anabranch_aws::firehose::sink::FirehoseSink;
use anabranch_aws::firehose::testing::MemoryFirehose;
use anabranch_aws::lambda_events::{FirehoseEvent, KinesisEvent, RESPONSE_BYTES_MAX};
use anabranch_aws::testing::SimClock;
use anabranch_events::Recommendation;
use anabranch_lambda::run::{ChainForm, Function, ScratchPool};
use anabranch_lambda::settings::Partition;
use anabranch_lambda::stream::StreamFunction;
use anabranch_lambda::transform::TransformFunction;
use anabranch_stores::backoff::Patience;
use anabranch_stores::lake::MemoryStore;
use anabranch_stream::StreamSettings;
use anabranch_stream::notify::Rules;
use anabranch_stream::testing::{self, MemoryState, TestClock};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::{Verdict, said};

fn function(state: &Arc<MemoryState>) -> Function {
    Function {
        state: Arc::clone(state) as _,
        sink: Arc::new(MemoryStore::new()),
        types: testing::types(),
        settings: StreamSettings { list_length: 5, micro_batch_records: 3, ..StreamSettings::default() },
        namespace: "clicks".to_owned(),
        rules: Rules::default(),
        clock: TestClock::new(),
        scratch: ScratchPool::default(),
        chain: ChainForm::default(),
    }
}

fn check_lines(lines: &[u8]) {
    assert!(lines.ends_with(b"\n"));
    for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        serde_json::from_slice::<Recommendation<'_>>(line).expect("a delivered line is a list");
    }
}

/// A batch of the event source mapping. The books balance, what is delivered is lists, and the same batch again changes
/// no history and delivers nothing.
pub(super) fn kinesis_event(bytes: &[u8]) -> Verdict {
    let result = serde_json::from_slice::<KinesisEvent>(bytes);
    let Ok(event) = &result else { return Verdict::of(&result) };
    let state = MemoryState::new();
    let firehose = MemoryFirehose::new(1);
    let patience = Patience::new(Arc::new(SimClock::default()), 1);
    let sink = FirehoseSink::new(firehose.clone(), patience, 1);
    let stream = StreamFunction { function: function(&state), firehose: Some(sink) };
    let model = testing::model();
    let first = match stream.handle(event, &model) {
        Ok(first) => first,
        Err(error) => {
            said(&error.to_string());
            return Verdict::Refused;
        }
    };
    assert!(first.report.conserves(), "{:?}", first.report);
    assert_eq!(first.response.batch_item_failures, [], "nothing failed that would come again");
    let lines = firehose.stored();
    for record in &lines {
        check_lines(record);
    }
    let histories = state.bytes();

    let second = stream.handle(event, &model).expect("the same batch again");
    assert!(second.report.conserves(), "{:?}", second.report);
    assert_eq!(state.bytes(), histories, "the same batch again changes a history");
    assert_eq!(second.report.delivered, 0, "the same batch again delivers");
    assert_eq!(firehose.stored(), lines);
    if first.report.delivered > 0 { Verdict::Decoded } else { Verdict::Refused }
}

/// A batch of Firehose's data transformation. Every record is answered, in order; what is delivered is lists; the size is
/// as announced.
pub(super) fn firehose_event(bytes: &[u8]) -> Verdict {
    let result = serde_json::from_slice::<FirehoseEvent>(bytes);
    let Ok(event) = &result else { return Verdict::of(&result) };
    let state = MemoryState::new();
    let transform = TransformFunction::new(function(&state), Partition::Hour);
    let model = testing::model();
    let handled = match transform.handle(event, &model) {
        Ok(handled) => handled,
        Err(error) => {
            said(&error.to_string());
            return Verdict::Refused;
        }
    };
    assert!(handled.report.conserves(), "{:?}", handled.report);
    let text = serde_json::to_vec(&handled.response).expect("an answer has a JSON form");
    assert_eq!(handled.response.bytes(), text.len());
    assert!(text.len() <= RESPONSE_BYTES_MAX.max(bytes.len() * 2), "an answer of {} bytes", text.len());
    let answer: Value = serde_json::from_slice(&text).expect("an answer is JSON");
    let answers = answer["records"].as_array().expect("an answer holds records");
    assert_eq!(answers.len(), event.records.len(), "every record is answered");
    let mut ids = HashSet::new();
    for (answer, record) in answers.iter().zip(&event.records) {
        assert_eq!(answer["recordId"], record.record_id.as_str(), "in order");
        let data = answer["data"].as_str();
        match answer["result"].as_str() {
            Some("Ok") => {
                let data = STANDARD.decode(data.unwrap_or_default()).expect("base64");
                check_lines(&data);
                for line in data.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                    let list: Recommendation<'_> = serde_json::from_slice(line).expect("a list");
                    assert!(ids.insert(list.recommendation_id.into_owned()), "an event earns one list in a request");
                }
            }
            Some("Dropped") => assert_eq!(data, None),
            Some("ProcessingFailed") => assert_eq!(data, Some(record.data.as_str()), "the record as it came"),
            other => panic!("{other:?} is no result"),
        }
    }
    if ids.is_empty() { Verdict::Refused } else { Verdict::Decoded }
}
