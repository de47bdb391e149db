//! Which lists become shorter when an answer is too large.
//!
//! The rule: all lists are cut to one common length, the greatest with which the answer fits, at least one item. If even
//! that is too large, records are handed back as failed, from the last one on, until the rest fits: what is answered is
//! then a prefix, so no list depends on an event that was handed back. The rule is a function of the request.
//!
//! A shorter list is the beginning of the longer one, and byte for byte what a shorter `list_length` gives.

use std::collections::BTreeMap;

use anabranch_aws::lambda_events::{FirehoseRecord, FirehoseResponse, TransformedRecord};
use serde::Deserialize;
use serde_json::value::RawValue;

/// What ends a line after its last item.
const END: &[u8] = b"]}\n";

/// What is to be answered to a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// These lines.
    Deliver(Vec<&'a [u8]>, BTreeMap<String, String>),
    /// Nothing to deliver.
    Drop,
    /// It could not be read.
    Fail,
}

/// What made the answer fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fitted {
    /// The common length that lists were cut to.
    pub list_length: Option<usize>,
    /// Lists that became shorter.
    pub shortened: u64,
    /// From this record on those with lists were handed back.
    pub returned_from: Option<usize>,
}

/// A line and where its items end.
struct Line<'a> {
    bytes: &'a [u8],
    item_ends: Vec<usize>,
}

/// The answer, of at most `bytes_max` bytes.
pub fn answer(records: &[FirehoseRecord], answers: &[Answer<'_>], bytes_max: usize) -> (FirehoseResponse, Fitted) {
    let whole = FirehoseResponse { records: records.iter().zip(answers).map(|(r, a)| written(r, a)).collect() };
    if whole.bytes() <= bytes_max {
        return (whole, Fitted::default());
    }
    let lines: Vec<Vec<Line<'_>>> = answers
        .iter()
        .map(|answer| match answer {
            Answer::Deliver(lines, _) => lines.iter().map(|line| Line::of(line)).collect(),
            Answer::Drop | Answer::Fail => Vec::new(),
        })
        .collect();
    // What does not change with the length: everything but the data of what is delivered.
    let frames: Vec<usize> = records
        .iter()
        .zip(answers)
        .map(|(record, answer)| match answer {
            Answer::Deliver(_, keys) => written(record, &Answer::Deliver(Vec::new(), keys.clone())).bytes(),
            Answer::Drop | Answer::Fail => written(record, answer).bytes(),
        })
        .collect();
    let empty = FirehoseResponse::default().bytes() + records.len().saturating_sub(1);
    let size = |index: usize, length: usize| {
        frames[index] + base64_bytes(lines[index].iter().map(|line| line.bytes_at(length)).sum())
    };
    let total = |length: usize| empty + (0..records.len()).map(|index| size(index, length)).sum::<usize>();

    let longest = lines.iter().flatten().map(|line| line.item_ends.len()).max().unwrap_or(0);
    let (mut fits, mut too_long) = (1, longest.max(1));
    while too_long - fits > 1 {
        let middle = usize::midpoint(fits, too_long);
        if total(middle) <= bytes_max {
            fits = middle;
        } else {
            too_long = middle;
        }
    }
    let mut fitted = Fitted { list_length: Some(fits), ..Fitted::default() };
    let mut bytes = total(fits);
    for index in (0..records.len()).rev() {
        if bytes <= bytes_max {
            break;
        }
        if matches!(answers[index], Answer::Deliver(..)) {
            bytes = bytes - size(index, fits) + TransformedRecord::failed(&records[index]).bytes();
            fitted.returned_from = Some(index);
        }
    }
    let is_returned = |index: usize| fitted.returned_from.is_some_and(|from| index >= from);
    let mut response = FirehoseResponse::default();
    for (index, (record, answer)) in records.iter().zip(answers).enumerate() {
        response.records.push(match answer {
            Answer::Deliver(..) if is_returned(index) => TransformedRecord::failed(record),
            Answer::Deliver(_, keys) => {
                fitted.shortened += lines[index].iter().filter(|line| line.item_ends.len() > fits).count() as u64;
                let data: Vec<u8> = lines[index].iter().flat_map(|line| line.cut(fits)).collect();
                TransformedRecord::deliver(&record.record_id, &data, keys.clone())
            }
            Answer::Drop | Answer::Fail => written(record, answer),
        });
    }
    (response, fitted)
}

fn written(record: &FirehoseRecord, answer: &Answer<'_>) -> TransformedRecord {
    match answer {
        Answer::Deliver(lines, keys) => TransformedRecord::deliver(&record.record_id, &lines.concat(), keys.clone()),
        Answer::Drop => TransformedRecord::dropped(&record.record_id),
        Answer::Fail => TransformedRecord::failed(record),
    }
}

const fn base64_bytes(bytes: usize) -> usize {
    bytes.div_ceil(3) * 4
}

impl<'a> Line<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        #[derive(Deserialize)]
        struct Items<'a> {
            #[serde(borrow)]
            items: Vec<&'a RawValue>,
        }
        let start = bytes.as_ptr().addr();
        // The lines are our own; one that were not would stay as it is.
        let item_ends = serde_json::from_slice::<Items<'_>>(bytes).map_or_else(
            |_| Vec::new(),
            |found| found.items.iter().map(|item| item.get().as_ptr().addr() - start + item.get().len()).collect(),
        );
        Self { bytes, item_ends }
    }

    /// Where to cut; `None` if it is no longer than `length` items.
    fn cut_at(&self, length: usize) -> Option<usize> {
        if length >= self.item_ends.len() {
            return None;
        }
        length.checked_sub(1).map(|last| self.item_ends[last])
    }

    fn bytes_at(&self, length: usize) -> usize {
        self.cut_at(length).map_or(self.bytes.len(), |end| end + END.len())
    }

    fn cut(&self, length: usize) -> Vec<u8> {
        self.cut_at(length).map_or_else(|| self.bytes.to_vec(), |end| [&self.bytes[..end], END].concat())
    }
}

#[cfg(test)]
mod tests;
