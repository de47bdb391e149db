//! Lines into records, records into requests.
//!
//! Firehose bills every record rounded up to 5 KB and puts nothing between records in the object. So each line ends
//! with a newline of its own (or Athena reads one row), and many lines share a record: a list of 20 items is about 1.5
//! KB, which alone is billed as 5. With records of [`RECORD_BYTES`] the rounding costs 1 % on average instead of a
//! factor of three.
//!
//! Guaranteed: the records one after another are the lines in their order, each with one newline; a line is never split;
//! no record and no request exceeds its limit; [`billed_bytes`] of the records is never above that of one record a line
//! (rounding up is subadditive).
//!
//! A packed record is several rows, so the delivery stream must not read a record as one JSON document: dynamic
//! partitioning needs its multi-record de-aggregation by newline.

use std::ops::Range;

/// Records of one `PutRecordBatch`.
pub const BATCH_RECORDS_MAX: usize = 500;
/// Bytes of one `PutRecordBatch`, before base64.
pub const BATCH_BYTES_MAX: usize = 4 << 20;
/// Bytes of one record, before base64: 1,000 KiB.
pub const RECORD_BYTES_MAX: usize = 1000 << 10;
/// Bytes that lines are packed into a record up to: 52 billing steps, so half a step of rounding is 1 %, while what must
/// be sent again after a failure stays small.
pub const RECORD_BYTES: usize = 256 << 10;
/// What the bill rounds up to.
const BILLING_STEP: usize = 5 << 10;

/// A record: some lines, one after another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedRecord {
    /// The lines, each with its newline.
    pub data: Vec<u8>,
    /// Which lines.
    pub lines: Range<usize>,
}

/// Lines, packed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packed {
    /// Records in the order of their lines.
    pub records: Vec<PackedRecord>,
    /// Lines that no record can hold, by index; the records' ranges leave them out.
    pub too_large: Vec<usize>,
}

/// Packs lines, which may or may not end with a newline, into records of at most `record_bytes` (a longer line gets a
/// record of its own, up to [`RECORD_BYTES_MAX`]).
pub fn pack<'a>(lines: impl IntoIterator<Item = &'a [u8]>, record_bytes: usize) -> Packed {
    let record_bytes = record_bytes.min(RECORD_BYTES_MAX);
    let mut packed = Packed::default();
    for (index, line) in lines.into_iter().enumerate() {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let framed_bytes = line.len() + 1;
        if framed_bytes > RECORD_BYTES_MAX {
            packed.too_large.push(index);
            continue;
        }
        let fits =
            |record: &PackedRecord| record.lines.end == index && record.data.len() + framed_bytes <= record_bytes;
        if !packed.records.last().is_some_and(fits) {
            packed.records.push(PackedRecord { data: Vec::new(), lines: index..index });
        }
        let record = packed.records.last_mut().expect("one was there or was pushed above");
        record.data.extend_from_slice(line);
        record.data.push(b'\n');
        record.lines.end = index + 1;
    }
    packed
}

/// How many of the first records fit into one request; at least one, if there is one.
pub fn batch_length<'a>(records: impl IntoIterator<Item = &'a [u8]>) -> usize {
    let mut bytes = 0;
    let fits = |record: &&[u8]| {
        bytes += record.len();
        bytes <= BATCH_BYTES_MAX
    };
    records.into_iter().take(BATCH_RECORDS_MAX).take_while(fits).count()
}

/// What Firehose bills for a record of `bytes`.
pub const fn billed_bytes(bytes: usize) -> usize {
    bytes.div_ceil(BILLING_STEP) * BILLING_STEP
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn lengths() -> impl Strategy<Value = Vec<usize>> {
        let length = prop_oneof![
            20 => 0_usize..3000,
            4 => 3000_usize..60_000,
            2 => (RECORD_BYTES - 3)..(RECORD_BYTES + 3),
            1 => (RECORD_BYTES_MAX - 3)..(RECORD_BYTES_MAX + 3),
        ];
        proptest::collection::vec(length, 0..40)
    }

    fn lines_of(lengths: &[usize]) -> Vec<Vec<u8>> {
        let line = |(index, length): (usize, &usize)| {
            let mut line = vec![b'a' + (index % 26) as u8; *length];
            // Some lines bring their newline.
            if index % 3 == 0 {
                line.push(b'\n');
            }
            line
        };
        lengths.iter().enumerate().map(line).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn records_are_the_lines_within_every_limit(lengths in lengths(), record_bytes in 1_usize..(RECORD_BYTES_MAX + 9)) {
            let lines = lines_of(&lengths);
            let packed = pack(lines.iter().map(Vec::as_slice), record_bytes);
            let mut expected = Vec::new();
            let mut alone = 0;
            let mut left_out = Vec::new();
            for (index, length) in lengths.iter().enumerate() {
                if length + 1 > RECORD_BYTES_MAX {
                    left_out.push(index);
                    continue;
                }
                expected.resize(expected.len() + length, b'a' + (index % 26) as u8);
                expected.push(b'\n');
                alone += billed_bytes(length + 1);
            }
            let joined = packed.records.iter().map(|record| &record.data[..]).collect::<Vec<_>>().concat();
            prop_assert!(joined == expected, "the records are not the lines");
            prop_assert_eq!(&packed.too_large, &left_out);
            let named: Vec<usize> = packed.records.iter().flat_map(|record| record.lines.clone()).collect();
            let kept: Vec<usize> = (0..lines.len()).filter(|index| !left_out.contains(index)).collect();
            prop_assert_eq!(named, kept);
            for record in &packed.records {
                prop_assert!(record.data.len() <= RECORD_BYTES_MAX && record.data.ends_with(b"\n"));
                prop_assert!(record.data.len() <= record_bytes || record.lines.len() == 1);
                let rows = record.data.split_inclusive(|byte| *byte == b'\n').count();
                prop_assert_eq!(rows, record.lines.len());
            }
            let billed: usize = packed.records.iter().map(|record| billed_bytes(record.data.len())).sum();
            prop_assert!(billed <= alone, "{} billed, {} alone", billed, alone);
        }

        #[test]
        fn requests_are_within_their_limits_and_as_long_as_may_be(lengths in lengths()) {
            let records: Vec<Vec<u8>> = lengths.iter().map(|length| vec![0; *length]).collect();
            let count = batch_length(records.iter().map(Vec::as_slice));
            let bytes: usize = lengths[..count].iter().sum();
            prop_assert!(count <= BATCH_RECORDS_MAX && bytes <= BATCH_BYTES_MAX);
            prop_assert_eq!(count == 0, records.is_empty());
            if count < records.len() {
                prop_assert!(count == BATCH_RECORDS_MAX || bytes + lengths[count] > BATCH_BYTES_MAX);
            }
        }
    }

    #[test]
    fn packing_is_what_the_header_says() {
        let lines = vec![vec![b'x'; 1499]; 10_000];
        let packed = pack(lines.iter().map(Vec::as_slice), RECORD_BYTES);
        let billed: usize = packed.records.iter().map(|record| billed_bytes(record.data.len())).sum();
        let sent = 1500 * 10_000;
        assert!(billed * 1000 < sent * 1015, "{billed} for {sent}");
        assert_eq!(10_000 * billed_bytes(1500) / sent, 3);
    }

    #[test]
    fn the_bill_rounds_up() {
        assert_eq!([0, 1, 5120, 5121].map(billed_bytes), [0, 5120, 5120, 10_240]);
    }

    #[test]
    fn five_hundred_small_records_are_a_request() {
        let records = vec![vec![0_u8; 10]; 501];
        assert_eq!(batch_length(records.iter().map(Vec::as_slice)), 500);
    }
}
