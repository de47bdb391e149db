#![allow(clippy::unwrap_used)]
use anabranch_aws::lambda_events::TransformResult;
use anabranch_stream::StreamSettings;
use anabranch_stream::testing;
use proptest::prelude::*;

use super::*;
use crate::golden::delivered;
use crate::settings::Partition;
use crate::testing::{Put, World, firehose_event, settings, some_puts};
use crate::transform::TransformFunction;

fn transform(world: &World, list_length: usize, bytes_max: usize) -> TransformFunction {
    let settings = StreamSettings { list_length, ..settings() };
    TransformFunction { bytes_max, ..TransformFunction::new(world.stream_with(settings).function, Partition::Hour) }
}

fn answer_of(puts: &[Put], list_length: usize, bytes_max: usize) -> (FirehoseResponse, crate::report::Report, World) {
    let world = World::new();
    let event = firehose_event(0, puts);
    let handled = transform(&world, list_length, bytes_max).handle(&event, &testing::model()).unwrap();
    assert_eq!(handled.response.records.len(), event.records.len());
    assert!(handled.report.conserves(), "{:?}", handled.report);
    (handled.response, handled.report, world)
}

#[test]
fn lists_are_cut_to_the_longest_common_length_byte_for_byte() {
    let puts = some_puts(30);
    let (whole, _, _) = answer_of(&puts, 10, usize::MAX);
    for wanted in 1..10 {
        let (exact, _, _) = answer_of(&puts, wanted, usize::MAX);
        for bytes_max in [exact.bytes(), exact.bytes() + 1] {
            let (cut, report, _) = answer_of(&puts, 10, bytes_max);
            assert!(cut.bytes() <= bytes_max && cut.bytes() < whole.bytes());
            assert_eq!(delivered(&cut), delivered(&exact), "length {wanted}");
            assert_eq!((report.shortened, report.retried), (report.delivered, 0));
        }
    }
    let (same, report, _) = answer_of(&puts, 10, whole.bytes());
    assert_eq!((same, report.shortened), (whole, 0));
}

#[test]
fn what_does_not_fit_is_handed_back_and_counts_when_it_comes_again() {
    let puts = some_puts(30);
    let (one_item, _, calm) = answer_of(&puts, 1, usize::MAX);
    let (cut, report, world) = answer_of(&puts, 10, one_item.bytes() - 2000);
    let results: Vec<TransformResult> =
        cut.records.iter().map(anabranch_aws::lambda_events::TransformedRecord::result).collect();
    let first = results.iter().rposition(|result| *result == TransformResult::Ok).unwrap();
    assert!(first < results.len() - 1 && report.retried > 0);
    assert!(cut.bytes() <= one_item.bytes() - 2000);
    assert_ne!(world.state.bytes(), calm.state.bytes(), "what was handed back is not committed");
    // Whoever puts them again loses nothing.
    transform(&world, 10, usize::MAX).handle(&firehose_event(0, &puts), &testing::model()).unwrap();
    assert_eq!(world.state.bytes(), calm.state.bytes());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn no_answer_is_too_large(bytes_max in 12_000_usize..60_000) {
        let puts = some_puts(20);
        let (cut, _, _) = answer_of(&puts, 10, bytes_max);
        prop_assert!(cut.bytes() <= bytes_max, "{} of {bytes_max}", cut.bytes());
        prop_assert_eq!(cut.bytes(), serde_json::to_vec(&cut).unwrap().len());
        for line in delivered(&cut) {
            let line: serde_json::Value = serde_json::from_slice(&line).unwrap();
            prop_assert!(!line["items"].as_array().unwrap().is_empty());
        }
    }
}
