//! CSV records: where one ends, and its fields.
//!
//! RFC 4180 with the usual kindness: LF or CRLF, quotes only matter at the start of a field, blank lines are no rows.
//! **An unbalanced quote costs one line.** A quoted field must close within [`QUOTED_BYTES_MAX`] bytes, and a
//! separator or a line end must follow; if not, the record is the one physical line that it starts on, and is refused.
//! The decision looks only at bytes from the record's start to where the quote closes, so cutting a file elsewhere
//! does not change it.
//!
//! Why not the `csv` crate: it reads on to the end of the file for a missing quote, and gives no place to cut a file
//! for parsing on all cores. It is the plain twin in the tests: on well-formed text both give the same fields.

use std::borrow::Cow;

use anabranch_events::{Rejection, RejectionCode};

use super::columns::Found;
use super::{Cell, Place, RAW_BYTES_MAX, RECORD_BYTES_MAX, RowSink};
use crate::BatchError;

/// How far a quoted field is followed, in bytes.
const QUOTED_BYTES_MAX: usize = 256 << 10;

/// A field's bytes, relative to the record's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    start: u32,
    end: u32,
    /// Whether doubled quotes stand in it.
    escaped: bool,
}

enum Scan {
    /// The record ends before `next`; its text ends at `end`.
    Whole { end: usize, next: usize, fields: usize, lines: bool },
    /// The bytes end within the record.
    Open,
    /// A quote is not balanced.
    Broken,
}

/// Where the record that starts at `start` ends, its line end included; `None` if more bytes are needed to know.
pub(super) fn record_end(bytes: &[u8], start: usize, delimiter: u8, columns: usize) -> Option<usize> {
    match scan(bytes, start, delimiter, None) {
        Scan::Whole { next, .. } if next > bytes.len() => None,
        Scan::Whole { next, fields, lines, .. } if fields == columns || !lines => Some(next),
        Scan::Open if bytes.len() - start < QUOTED_BYTES_MAX => None,
        _ => memchr::memchr(b'\n', &bytes[start..]).map(|at| start + at + 1),
    }
}

/// Scans one record. A record that ends with the bytes, without a line end, has `next` one past their end.
fn scan(bytes: &[u8], start: usize, delimiter: u8, mut fields: Option<&mut Vec<Span>>) -> Scan {
    let mut at = start;
    let (mut count, mut lines) = (0, false);
    let mut push = |from: usize, to: usize, escaped: bool| {
        count += 1;
        if let Some(fields) = fields.as_deref_mut() {
            fields.push(Span { start: (from - start) as u32, end: (to - start) as u32, escaped });
        }
    };
    loop {
        let from = at;
        let quoted = bytes.get(at) == Some(&b'"');
        if quoted {
            let (mut inside, mut escaped) = (at + 1, false);
            let to = loop {
                let limit = bytes.len().min(start.saturating_add(QUOTED_BYTES_MAX));
                let Some(close) = bytes.get(inside..limit).and_then(|rest| memchr::memchr(b'"', rest)) else {
                    return if limit < bytes.len() { Scan::Broken } else { Scan::Open };
                };
                let quote = inside + close;
                if bytes.get(quote + 1) != Some(&b'"') {
                    break quote;
                }
                escaped = true;
                inside = quote + 2;
            };
            at = to + 1;
            lines |= memchr::memchr(b'\n', &bytes[from..to]).is_some();
            match bytes.get(at) {
                None => {
                    push(from + 1, to, escaped);
                    return Scan::Whole { end: at, next: bytes.len() + 1, fields: count, lines };
                }
                Some(&byte) if byte == delimiter || byte == b'\n' => {}
                Some(b'\r') if bytes.get(at + 1) == Some(&b'\n') => at += 1,
                Some(b'\r') if at + 1 == bytes.len() => return Scan::Open,
                Some(_) => return Scan::Broken,
            }
            push(from + 1, to, escaped);
        } else {
            let Some(distance) = memchr::memchr2(delimiter, b'\n', &bytes[at..]) else {
                push(from, bytes.len(), false);
                return Scan::Whole { end: bytes.len(), next: bytes.len() + 1, fields: count, lines };
            };
            at += distance;
            let is_crlf = bytes[at] == b'\n' && at > from && bytes[at - 1] == b'\r';
            push(from, at - usize::from(is_crlf), false);
        }
        if bytes[at] == b'\n' {
            return Scan::Whole { end: at, next: at + 1, fields: count, lines };
        }
        at += 1;
    }
}

/// The fields of a header line at the start of `bytes`, and the bytes it takes; `None` if it is not whole or not text.
pub(super) fn header(bytes: &[u8], delimiter: u8) -> Option<(Vec<String>, usize)> {
    let mut spans = Vec::new();
    let Scan::Whole { next, .. } = scan(bytes, 0, delimiter, Some(&mut spans)) else { return None };
    let text = std::str::from_utf8(&bytes[..next.min(bytes.len())]).ok()?;
    let fields = spans.iter().map(|span| field(text, *span).trim().to_owned()).collect();
    Some((fields, next.min(bytes.len())))
}

fn field(record: &str, span: Span) -> Cow<'_, str> {
    let text = &record[span.start as usize..span.end as usize];
    if span.escaped { Cow::Owned(text.replace("\"\"", "\"")) } else { Cow::Borrowed(text) }
}

/// Parses the records of a chunk.
pub(super) fn parse_chunk<S: RowSink>(
    bytes: &[u8],
    first: Place,
    delimiter: u8,
    column_count: usize,
    found: &Found,
    sink: &mut S,
) -> Result<(), BatchError> {
    // Checked once for the whole chunk, at the speed of memory; only a chunk with a fault is checked row by row.
    let text = std::str::from_utf8(bytes).ok();
    let has_nul = memchr::memchr(0, bytes).is_some();
    let has_quote = memchr::memchr(b'"', bytes).is_some();
    let mut spans: Vec<Span> = Vec::with_capacity(column_count + 1);
    let mut cells: Vec<Cell<'_>> = Vec::new();
    let mut others = Vec::new();
    let mut start = 0;
    while start < bytes.len() {
        spans.clear();
        let outcome = if has_quote {
            scan(bytes, start, delimiter, Some(&mut spans))
        } else {
            plain(bytes, start, delimiter, &mut spans)
        };
        let place = Place { offset: first.offset + start as u64, ..first };
        let (end, next) = match outcome {
            // A record over several lines with the wrong number of fields is a stray quote that happened to close.
            Scan::Whole { end, next, fields, lines } if fields == column_count || !lines => (end, next),
            _ => {
                let next = memchr::memchr(b'\n', &bytes[start..]).map_or(bytes.len(), |at| start + at + 1);
                let detail = "a quote is not balanced on this line";
                sink.bad_row(place, Rejection::new(RejectionCode::Unparsable, detail), line(&bytes[start..next]))?;
                start = next;
                continue;
            }
        };
        let record = line(&bytes[start..end]);
        let begin = start;
        start = next;
        if record.is_empty() {
            continue;
        }
        let problem = if record.len() > RECORD_BYTES_MAX {
            Some(Rejection::new(RejectionCode::TooLarge, too_large(record.len())))
        } else if has_nul && memchr::memchr(0, record).is_some() {
            Some(Rejection::new(RejectionCode::Unparsable, "a NUL byte stands in this row"))
        } else if spans.len() != column_count {
            let detail = format!("{} columns where the header has {column_count}", spans.len());
            Some(Rejection::new(RejectionCode::Unparsable, detail))
        } else {
            None
        };
        if let Some(problem) = problem {
            sink.bad_row(place, problem, record)?;
            continue;
        }
        let record_text = match text {
            Some(text) => &text[begin..begin + record.len()],
            None => match std::str::from_utf8(record) {
                Ok(text) => text,
                Err(error) => {
                    let detail = format!("not UTF-8 from byte {} of the row on", error.valid_up_to());
                    sink.bad_row(place, Rejection::new(RejectionCode::Unparsable, detail), record)?;
                    continue;
                }
            },
        };
        let cell = |index: usize| match field(record_text, spans[index]) {
            text if text.is_empty() => Cell::Absent,
            text => Cell::Text(text),
        };
        cells.clear();
        cells.extend(found.indices.iter().map(|index| index.map_or(Cell::Absent, cell)));
        others.clear();
        others.extend(found.others.iter().map(|(name, index)| (Cow::Owned(name.clone()), cell(*index))));
        sink.row(place, &mut cells, &mut others, &|| record.to_vec())?;
    }
    Ok(())
}

/// [`scan`] where no quote stands in the chunk.
fn plain(bytes: &[u8], start: usize, delimiter: u8, spans: &mut Vec<Span>) -> Scan {
    let newline = memchr::memchr(b'\n', &bytes[start..]).map(|at| start + at);
    let end = newline.unwrap_or(bytes.len());
    let record = line(&bytes[start..end]);
    let mut from = 0;
    for at in memchr::memchr_iter(delimiter, record) {
        spans.push(Span { start: from, end: at as u32, escaped: false });
        from = at as u32 + 1;
    }
    spans.push(Span { start: from, end: record.len() as u32, escaped: false });
    Scan::Whole { end, next: newline.map_or(bytes.len() + 1, |at| at + 1), fields: spans.len(), lines: false }
}

pub(super) fn too_large(bytes: usize) -> String {
    format!("a row of {bytes} bytes; at most {RECORD_BYTES_MAX} are read, the first {RAW_BYTES_MAX} are kept here")
}

/// The line without its end.
fn line(bytes: &[u8]) -> &[u8] {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    bytes.strip_suffix(b"\r").unwrap_or(bytes)
}
