#![allow(clippy::unwrap_used)]
use std::sync::Arc;

use proptest::prelude::*;

use anabranch_stores::backoff::Pause;

use super::*;
use crate::firehose::testing::{Faults, Hit, MemoryFirehose};

#[derive(Debug)]
struct NoPause;

impl Pause for NoPause {
    fn pause(&self, _: u64) {}
}

fn sink(firehose: &MemoryFirehose, record_bytes: usize) -> FirehoseSink<MemoryFirehose> {
    FirehoseSink::new(firehose.clone(), Patience::new(Arc::new(NoPause), 1), record_bytes)
}

fn lines(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|line| format!("{{\"line\":{line}}}").into_bytes()).collect()
}

fn deliver(sink: &FirehoseSink<MemoryFirehose>, lines: &[Vec<u8>]) -> Delivery {
    sink.deliver(lines.iter().map(Vec::as_slice))
}

/// The rows that Athena would read.
fn rows(firehose: &MemoryFirehose) -> Vec<Vec<u8>> {
    let object = firehose.stored().concat();
    object.split_inclusive(|byte| *byte == b'\n').map(|row| row.strip_suffix(b"\n").unwrap().to_vec()).collect()
}

#[test]
fn every_line_is_a_row() {
    let firehose = MemoryFirehose::new(1);
    let lines = lines(1200);
    let delivery = deliver(&sink(&firehose, pack::RECORD_BYTES), &lines);
    assert_eq!(rows(&firehose), lines);
    assert_eq!(delivery.lines, vec![LineOutcome::Delivered; 1200]);
    assert_eq!((delivery.requests, delivery.billed_bytes), (1, 20 << 10), "17,690 bytes in one record");
    assert_eq!((delivery.trouble.clone(), delivery.first_undelivered()), (None, None));
}

#[test]
fn only_what_failed_is_sent_again_in_order_and_before_the_rest() {
    let firehose = MemoryFirehose::new(1);
    let lines = lines(700);
    firehose
        .script([Hit::Partly(vec![3, 499, 7], "ServiceUnavailableException"), Hit::Partly(vec![1], "InternalFailure")]);
    let delivery = deliver(&sink(&firehose, 1), &lines);
    assert_eq!(delivery.lines, vec![LineOutcome::Delivered; 700]);
    assert_eq!((delivery.failed_records, firehose.requests()), (4, vec![500, 203, 1]));
    let mut rows = rows(&firehose);
    assert_eq!(rows.len(), 700, "nothing twice");
    // The second request begins with what failed in the first; its own failure comes last.
    assert_eq!(rows[497], lines[3]);
    assert_eq!(rows[498], lines[499]);
    assert_eq!(rows[699], lines[7]);
    rows.sort();
    let mut sorted = lines;
    sorted.sort();
    assert_eq!(rows, sorted);
}

#[test]
fn a_line_longer_than_a_record_costs_itself_alone() {
    let firehose = MemoryFirehose::new(1);
    let mut lines = lines(5);
    lines[2] = vec![b'x'; RECORD_BYTES_MAX];
    lines[4] = vec![b'x'; RECORD_BYTES_MAX];
    let delivery = deliver(&sink(&firehose, pack::RECORD_BYTES), &lines);
    let (fine, lost) = (LineOutcome::Delivered, LineOutcome::TooLarge);
    assert_eq!(delivery.lines, [fine, fine, lost, fine, lost]);
    assert_eq!((rows(&firehose).len(), delivery.first_undelivered()), (3, None));
}

#[test]
fn when_patience_ends_nothing_later_is_sent() {
    let firehose = MemoryFirehose::new(1);
    let lines = lines(1000);
    firehose.script([Hit::Partly(vec![10, 20], "ServiceUnavailableException")]);
    firehose.script(std::iter::repeat_n(Hit::Refuse(ApiErrorKind::Throttled), 8));
    let delivery = deliver(&sink(&firehose, 1), &lines);
    assert_eq!(delivery.first_undelivered(), Some(10));
    let delivered = delivery.lines.iter().filter(|line| **line == LineOutcome::Delivered).count();
    assert_eq!((delivered, rows(&firehose).len()), (498, 498));
    assert_eq!(delivery.trouble.unwrap().kind, ApiErrorKind::Throttled);
}

#[test]
fn what_waiting_does_not_mend_is_told_at_once() {
    for hit in [Hit::Refuse(ApiErrorKind::Denied), Hit::Partly(vec![0, 1], "KMSAccessDeniedException")] {
        let firehose = MemoryFirehose::new(1);
        firehose.script([hit]);
        let delivery = deliver(&sink(&firehose, 1), &lines(2));
        assert_eq!(delivery.requests, 1);
        assert_eq!(delivery.trouble.unwrap().kind, ApiErrorKind::Denied);
    }
}

#[test]
fn an_answer_that_is_lost_repeats_the_request() {
    let firehose = MemoryFirehose::new(1);
    firehose.script([Hit::Lose]);
    let lines = lines(3);
    let delivery = deliver(&sink(&firehose, 1), &lines);
    assert_eq!(delivery.lines, vec![LineOutcome::Delivered; 3]);
    assert_eq!(rows(&firehose), [lines.clone(), lines].concat());
}

#[derive(Debug)]
struct ShortAnswer;

impl FirehoseApi for ShortAnswer {
    fn put_record_batch(&self, _: &[&[u8]]) -> Result<Vec<RecordOutcome>, ApiError> {
        Ok(vec![RecordOutcome::Stored])
    }
}

#[test]
fn an_answer_that_does_not_fit_its_request_is_believed_in_nothing() {
    let sink = FirehoseSink::new(ShortAnswer, Patience::new(Arc::new(NoPause), 1), 1);
    let delivery = sink.deliver([&b"a"[..], b"b"]);
    assert_eq!(delivery.first_undelivered(), Some(0));
    assert_eq!(delivery.trouble.unwrap().kind, ApiErrorKind::Malformed);
}

#[test]
fn no_lines_are_no_request() {
    let firehose = MemoryFirehose::new(1);
    assert_eq!(deliver(&sink(&firehose, 1), &[]), Delivery::default());
}

proptest! {
    /// Whatever fails: what is said to be delivered is stored, nothing is stored that was not sent, and each line of a
    /// run without lost answers is stored at most once.
    #[test]
    fn every_answer_is_true(
        count in 0_usize..1500,
        record_bytes in 1_usize..200,
        record in 0_u64..40,
        refuse in 0_u64..40,
        lose in 0_u64..20,
        seed in any::<u64>(),
    ) {
        let firehose = MemoryFirehose::new(seed);
        firehose.set_faults(Faults { record, refuse, lose });
        let lines = lines(count);
        let delivery = deliver(&sink(&firehose, record_bytes), &lines);
        prop_assert_eq!(delivery.lines.len(), count);
        let mut times: std::collections::HashMap<Vec<u8>, usize> = std::collections::HashMap::new();
        for row in rows(&firehose) {
            *times.entry(row).or_default() += 1;
        }
        for (line, outcome) in lines.iter().zip(&delivery.lines) {
            let stored = times.remove(line).unwrap_or(0);
            prop_assert!(*outcome != LineOutcome::Delivered || stored >= 1);
            prop_assert!(lose > 0 || stored == usize::from(*outcome == LineOutcome::Delivered));
        }
        prop_assert!(times.is_empty(), "invented: {times:?}");
        prop_assert_eq!(delivery.trouble.is_some(), delivery.first_undelivered().is_some());
    }
}
