#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

/// Made once with PyPI's `aws-kinesis-agg` 1.2.3 (AWS's own aggregator), and kept as bytes:
///
/// ```python
/// a = RecordAggregator()
/// a.add_user_record("u1", b'{"eventType":"view","itemId":"i1"}')
/// a.add_user_record("u2", b"", "123456789012345678901234567890")
/// a.add_user_record("u1", "naïve ☃".encode())
/// _, _, data = a.clear_and_get().get_contents()
/// ```
const AWS_KINESIS_AGG: &[u8] = include_bytes!("aws_kinesis_agg_1_2_3.bin");

fn sealed(message: &[u8]) -> Vec<u8> {
    [&MAGIC, message, Md5::digest(message).as_slice()].concat()
}

fn record(partition_key: &'static str, data: &'static [u8]) -> UserRecord<'static> {
    UserRecord { partition_key, explicit_hash_key: None, data }
}

#[test]
fn aws_own_aggregate_is_read() {
    let hash_key = Some("123456789012345678901234567890");
    assert_eq!(
        read(AWS_KINESIS_AGG),
        Payload::Aggregate(vec![
            record("u1", br#"{"eventType":"view","itemId":"i1"}"#),
            UserRecord { explicit_hash_key: hash_key, ..record("u2", b"") },
            record("u1", "naïve ☃".as_bytes()),
        ])
    );
}

#[test]
fn golden_bytes_by_hand() {
    let message = [
        &[0x1a, 0x06, 0x08, 0x01, 0x1a, 0x02][..],
        b"hi", // records: key index 1, data "hi", before the tables
        &[0x0a, 0x01],
        b"a",
        &[0x0a, 0x01],
        b"b", // partition_key_table: a, b
        &[0x1a, 0x0d, 0x08, 0x00, 0x1a, 0x01],
        b"x",
        &[0x22, 0x06, 0x0a, 0x01],
        b"k",
        &[0x12, 0x01],
        b"v",                            // with a tag
        &[0x1a, 0x00],                   // nothing at all: key 0, no data
        &[0x20, 0x96, 0x01],             // an unknown varint field 4
        &[0x2d, 1, 2, 3, 4],             // an unknown fixed32 field 5
        &[0x31, 1, 2, 3, 4, 5, 6, 7, 8], // an unknown fixed64 field 6
    ]
    .concat();
    assert_eq!(
        read(&sealed(&message)),
        Payload::Aggregate(vec![record("b", b"hi"), record("a", b"x"), record("a", b"")])
    );
    let mut aggregate = Aggregator::new("k");
    aggregate.push(b"hi");
    let by_hand = [&[0x0a, 0x01][..], b"k", &[0x1a, 0x06, 0x08, 0x00, 0x1a, 0x02], b"hi"].concat();
    assert_eq!(aggregate.finish(), sealed(&by_hand));
}

#[test]
fn what_only_begins_like_an_aggregate_is_a_plain_record() {
    let mut wrong = AWS_KINESIS_AGG.to_vec();
    *wrong.last_mut().unwrap() ^= 1;
    for data in [&wrong[..], &MAGIC, &AWS_KINESIS_AGG[..AWS_KINESIS_AGG.len() - 1], &AWS_KINESIS_AGG[..19], b"", b"{}"]
    {
        assert_eq!(read(data), Payload::Plain(data));
    }
}

#[test]
fn an_aggregate_of_nothing_is_empty() {
    assert_eq!(read(&sealed(b"")), Payload::Aggregate(vec![]));
    assert_eq!(read(&Aggregator::new("k").finish()), Payload::Aggregate(vec![]));
}

#[test]
fn what_cannot_be_read_under_a_right_md5_is_malformed() {
    let long_key = [&[0x0a, 0x81, 0x08][..], &[b'k'; 1025]].concat();
    let table: [(&[u8], Malformed); 12] = [
        (&[0x1a], Malformed::NotProtobuf),             // a tag and no length
        (&[0x1a, 0x05, 0x08], Malformed::NotProtobuf), // a length beyond the end
        (&[0x1a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], Malformed::NotProtobuf), // 2^64 - 1 bytes
        (&[0xff; 11], Malformed::NotProtobuf),         // a varint without an end
        (&[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02], Malformed::NotProtobuf), // over 64 bits
        (&[0x0b], Malformed::NotProtobuf),             // a group
        (&[0x02, 0x00], Malformed::NotProtobuf),       // field 0
        (&[0x08, 0x01], Malformed::FieldType(1)),      // a key table that is a number
        (&[0x0a, 0x01, b'k', 0x1a, 0x02, 0x1a + 1, 0x00], Malformed::NotProtobuf), // a group inside a record
        (&[0x0a, 0x01, b'k', 0x1a, 0x02, 0x08, 0x01], Malformed::NoSuchKey(1)),
        (&[0x0a, 0x01, 0xff], Malformed::Key), // not UTF-8
        (&long_key, Malformed::Key),
    ];
    for (message, error) in table {
        assert_eq!(read(&sealed(message)), Payload::Malformed(error), "{message:x?}");
    }
    let no_hash_key = [0x0a, 0x01, b'k', 0x1a, 0x04, 0x08, 0x00, 0x10, 0x00];
    assert_eq!(read(&sealed(&no_hash_key)), Payload::Malformed(Malformed::NoSuchKey(0)));
}

#[test]
fn the_number_of_user_records_is_bounded() {
    let many = |count| sealed(&[&[0x0a, 0x01, b'k'][..], &[0x1a, 0x00].repeat(count)].concat());
    let most = many(USER_RECORDS_MAX);
    let Payload::Aggregate(records) = read(&most) else { panic!("within the bound") };
    assert_eq!(records.len(), USER_RECORDS_MAX);
    assert_eq!(read(&many(USER_RECORDS_MAX + 1)), Payload::Malformed(Malformed::TooMany));
}

proptest! {
    #[test]
    fn what_is_packed_comes_out(key in ".{1,50}", data in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..30)) {
        let mut aggregate = Aggregator::new(&key);
        for data in &data {
            let bound = aggregate.bytes_with(data.len());
            aggregate.push(data);
            let bytes = aggregate.finish().len();
            prop_assert!(bytes <= bound && bound <= bytes + 8, "{} {}", bytes, bound);
        }
        prop_assert_eq!(aggregate.count(), data.len());
        let bytes = aggregate.finish();
        let expected: Vec<_> = data.iter().map(|data| UserRecord { partition_key: &key, explicit_hash_key: None, data }).collect();
        prop_assert_eq!(read(&bytes), Payload::Aggregate(expected));
    }

    #[test]
    fn no_bytes_panic(message in proptest::collection::vec(any::<u8>(), 0..300), is_sealed in any::<bool>()) {
        let data = if is_sealed { sealed(&message) } else { message };
        let _ = read(&data);
    }

    /// Damage anywhere in a real aggregate under a mended MD5.
    #[test]
    fn no_damage_panics(at in 0_usize..104, byte in any::<u8>(), cut in 0_usize..104) {
        let mut message = message(AWS_KINESIS_AGG).unwrap().to_vec();
        message[at] = byte;
        let _ = read(&sealed(&message));
        message.truncate(cut);
        let _ = read(&sealed(&message));
    }
}
