//! The readers against plain twins: our CSV against the `csv` crate, chunks against whole files.
#![allow(clippy::unwrap_used, clippy::format_push_string)]

use std::borrow::Cow;
use std::io::{Cursor, Read};

use anabranch_events::Rejection;
use proptest::prelude::*;

use super::columns::Found;
use super::text::{Chunk, Framing, TextSource};
use super::*;

#[derive(Default)]
struct Collect {
    rows: Vec<Vec<String>>,
    bad: Vec<(u64, String)>,
}

impl RowSink for Collect {
    fn row<'a>(
        &mut self,
        _: Place,
        cells: &mut [Cell<'a>],
        _: &mut Vec<(Cow<'a, str>, Cell<'a>)>,
        _: &dyn Fn() -> Vec<u8>,
    ) -> Result<(), BatchError> {
        self.rows.push(
            cells.iter_mut().map(|c| std::mem::take(c).into_text().map(Cow::into_owned).unwrap_or_default()).collect(),
        );
        Ok(())
    }

    fn bad_row(&mut self, place: Place, _: Rejection, raw: &[u8]) -> Result<(), BatchError> {
        self.bad.push((place.offset, String::from_utf8_lossy(raw).into_owned()));
        Ok(())
    }

    fn unit_done(&mut self) -> Result<(), BatchError> {
        Ok(())
    }
}

fn parse(text: &[u8], columns: usize) -> Collect {
    let found = Found { indices: (0..columns).map(Some).collect(), others: Vec::new() };
    let mut sink = Collect::default();
    let mut source = TextSource::new(Box::new(Cursor::new(text.to_vec())), Framing::Csv { delimiter: b',', columns });
    let mut buffer = Vec::new();
    while let Some(chunk) = source.next_chunk(&mut buffer).unwrap() {
        let (Chunk::Records { offset, unit } | Chunk::TooLong { offset, unit }) = chunk;
        let place = Place { file: 0, unit, offset, is_row: false };
        match chunk {
            Chunk::Records { .. } => {
                super::csv::parse_chunk(&buffer, place, b',', columns, &found, &mut sink).unwrap();
            }
            Chunk::TooLong { .. } => sink.bad.push((offset, "too long".to_owned())),
        }
    }
    sink
}

fn field() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "ü", ",", "\"", "\n", "\r\n", " ", "7"]), 0..6)
        .prop_map(|parts| parts.concat())
}

proptest! {
    /// On well-formed text the fields are those that the `csv` crate reads.
    #[test]
    fn csv_equals_its_twin(rows in prop::collection::vec(prop::collection::vec(field(), 3), 0..20), crlf in any::<bool>()) {
        let terminator = if crlf { ::csv::Terminator::CRLF } else { ::csv::Terminator::Any(b'\n') };
        let mut writer = ::csv::WriterBuilder::new().terminator(terminator).from_writer(Vec::new());
        for row in &rows {
            writer.write_record(row).unwrap();
        }
        let text = writer.into_inner().unwrap();
        let mut reader = ::csv::ReaderBuilder::new().has_headers(false).from_reader(&text[..]);
        let twin: Vec<Vec<String>> =
            reader.records().map(|r| r.unwrap().iter().map(str::to_owned).collect()).collect();
        let ours = parse(&text, 3);
        prop_assert!(ours.bad.is_empty(), "{:?}", ours.bad);
        prop_assert_eq!(ours.rows, twin);
    }

    /// Every line is either a row or refused, whatever stands in it.
    #[test]
    fn any_text_is_accounted_for(text in "[a,\"\n]{0,300}") {
        let _ = parse(text.as_bytes(), 3);
    }
}

#[test]
fn quoted_newlines_survive_chunk_borders() {
    let mut text = String::new();
    let mut expected = Vec::new();
    for i in 0..60_000 {
        text.push_str(&format!("{i},\"line one of {i}\nline \"\"two\"\"\",{}\n", "x".repeat(i % 90)));
        expected.push(vec![i.to_string(), format!("line one of {i}\nline \"two\""), "x".repeat(i % 90)]);
    }
    assert!(text.len() > 2 * (2 << 20), "several chunks");
    let found = parse(text.as_bytes(), 3);
    assert!(found.bad.is_empty());
    assert_eq!(found.rows, expected);
}

#[test]
fn a_stray_quote_costs_one_line() {
    let text = "1,\"a,x\n2,b,y\n3,\"c\",z\n4,\"d,x\n";
    let found = parse(text.as_bytes(), 3);
    assert_eq!(found.bad.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [0, 21]);
    assert_eq!(found.rows, [["2", "b", "y"], ["3", "c", "z"]]);
}

#[test]
fn an_endless_line_is_refused_in_bounded_memory() {
    let mut text = b"1,a,x\n".to_vec();
    text.extend(std::iter::repeat_n(b'y', 9 << 20));
    text.extend_from_slice(b"\n2,b,y\n");
    let found = parse(&text, 3);
    assert_eq!(found.rows, [["1", "a", "x"], ["2", "b", "y"]]);
    assert_eq!(found.bad, [(6, "too long".to_owned())]);
}

#[test]
fn a_source_that_breaks_off_gives_its_whole_rows_first() {
    struct Broken(Cursor<Vec<u8>>);
    impl Read for Broken {
        fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
            match self.0.read(out)? {
                0 => Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof)),
                read => Ok(read),
            }
        }
    }
    let reader = Broken(Cursor::new(b"1,a,x\n2,b,".to_vec()));
    let mut source = TextSource::new(Box::new(reader), Framing::Lines);
    let mut buffer = Vec::new();
    assert!(source.next_chunk(&mut buffer).unwrap().is_some());
    assert_eq!(buffer, b"1,a,x\n");
    assert!(source.next_chunk(&mut buffer).is_err());
}
