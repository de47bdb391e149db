#![allow(clippy::unwrap_used)]

use anabranch_stream::ports::SequenceNumber;

use super::*;
use crate::kinesis::kpl::Aggregator;
use md5::Digest;

fn data_record(number: u64, data: Vec<u8>) -> DataRecord {
    DataRecord { number: SequenceNumber::from(number), arrival_ms: 5, partition_key: "outer".to_owned(), data }
}

fn aggregate(count: usize) -> Vec<u8> {
    let mut aggregate = Aggregator::new("inner");
    (0..count).for_each(|index| aggregate.push(index.to_string().as_bytes()));
    aggregate.finish()
}

fn position(number: u64, sub: Option<u64>) -> Position {
    Position { number: SequenceNumber::from(number), sub }
}

#[test]
fn the_last_user_record_stands_at_the_aggregates_end() {
    let records = expand(data_record(7, aggregate(3)));
    let places: Vec<_> = records.iter().map(|record| (record.position, record.sub)).collect();
    assert_eq!(
        places,
        [(position(7, Some(0)), Some(0)), (position(7, Some(1)), Some(1)), (position(7, None), Some(2))]
    );
    assert!(records.iter().all(|record| record.partition_key == "inner" && record.arrival_ms == 5));
    let plain = expand(data_record(8, b"{}".to_vec()));
    assert_eq!((plain[0].position, plain[0].sub, &plain[0].partition_key[..]), (position(8, None), None, "outer"));
}

#[test]
fn a_malformed_aggregate_is_one_poison_record() {
    let digest = md5::Md5::digest([0x1a]);
    let data = [&[0xf3, 0x89, 0x9a, 0xc2, 0x1a][..], digest.as_slice()].concat();
    let records = expand(data_record(7, data.clone()));
    assert_eq!(records.len(), 1);
    assert_eq!((records[0].position, records[0].sub, records[0].data.as_ref()), (position(7, None), None, Some(&data)));
}

#[test]
fn pages_keep_to_records_and_to_bytes_beyond_the_first() {
    let mut backlog = Backlog::new(Position::START);
    backlog.push((1..=6).map(|number| data_record(number, vec![0; 10])).collect());
    assert_eq!(backlog.page(2, usize::MAX).records.len(), 2);
    assert_eq!(backlog.page(9, 0).records.len(), 1);
    assert_eq!(backlog.page(9, 19).records.len(), 2);
    assert_eq!(backlog.page(0, 19).records.len(), 0);
    assert_eq!(backlog.page(9, 10).records.len(), 1);
    assert!(backlog.is_empty());
    assert!(backlog.continues(position(6, None)));
}

#[test]
fn inside_an_aggregate_only_the_rest_is_handed_out() {
    for (sub, expected) in [(0, vec![Some(1), Some(2)]), (1, vec![Some(2)]), (2, vec![]), (9, vec![])] {
        let mut backlog = Backlog::new(position(7, Some(sub)));
        backlog.push(vec![data_record(7, aggregate(3)), data_record(8, b"{}".to_vec())]);
        let page = backlog.page(9, usize::MAX);
        let (last, parts) = page.records.split_last().unwrap();
        assert_eq!(parts.iter().map(|record| record.sub).collect::<Vec<_>>(), expected, "after {sub}");
        assert_eq!(last.position, position(8, None));
    }
}

#[test]
fn an_aggregate_of_nothing_moves_the_position_without_a_record() {
    let mut backlog = Backlog::new(Position::START);
    backlog.push(vec![data_record(1, b"{}".to_vec()), data_record(2, aggregate(0))]);
    let page = backlog.page(9, usize::MAX);
    assert_eq!(page.records.len(), 1);
    assert_eq!(page.through, Some(position(2, None)));
    // The worker may go on from either.
    assert!(backlog.continues(position(1, None)) && backlog.continues(position(2, None)));
    assert!(!backlog.continues(Position::START));
    backlog.push(vec![data_record(3, b"{}".to_vec())]);
    assert_eq!(backlog.page(9, usize::MAX).through, None);
}

#[test]
fn what_was_handed_out_never_is_again() {
    let mut backlog = Backlog::new(position(5, None));
    backlog.push((3..=6).map(|number| data_record(number, b"{}".to_vec())).collect());
    assert_eq!(backlog.page(9, usize::MAX).records.len(), 1);
}
