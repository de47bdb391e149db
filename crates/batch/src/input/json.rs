//! JSON Lines: one object a line.

use std::borrow::Cow;
use std::fmt;

use anabranch_events::{Rejection, RejectionCode};
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::columns::Columns;
use super::{Cell, Place, RECORD_BYTES_MAX, RowSink, csv};
use crate::BatchError;

/// Parses the lines of a chunk.
pub(super) fn parse_chunk<S: RowSink>(
    bytes: &[u8],
    first: Place,
    columns: &Columns,
    sink: &mut S,
) -> Result<(), BatchError> {
    let text = std::str::from_utf8(bytes).ok();
    let mut cells: Vec<Cell<'_>> = Vec::new();
    let mut others: Vec<(Cow<'_, str>, Cell<'_>)> = Vec::new();
    let mut start = 0;
    while start < bytes.len() {
        let end = memchr::memchr(b'\n', &bytes[start..]).map_or(bytes.len(), |at| start + at);
        let (begin, record) = (start, bytes[start..end].trim_ascii_end());
        let place = Place { offset: first.offset + begin as u64, ..first };
        start = end + 1;
        if record.is_empty() {
            continue;
        }
        let mut refuse = |code, detail: String| sink.bad_row(place, Rejection::new(code, detail), record);
        if record.len() > RECORD_BYTES_MAX {
            refuse(RejectionCode::TooLarge, csv::too_large(record.len()))?;
            continue;
        }
        let line = match text {
            Some(text) => &text[begin..begin + record.len()],
            None => match std::str::from_utf8(record) {
                Ok(line) => line,
                Err(error) => {
                    refuse(
                        RejectionCode::Unparsable,
                        format!("not UTF-8 from byte {} of the row on", error.valid_up_to()),
                    )?;
                    continue;
                }
            },
        };
        cells.clear();
        cells.resize(columns.wanted.len(), Cell::Absent);
        others.clear();
        let mut parser = serde_json::Deserializer::from_str(line);
        let object = Object { columns, cells: &mut cells, others: &mut others };
        match object.deserialize(&mut parser).and_then(|()| parser.end()) {
            Ok(()) => sink.row(place, &mut cells, &mut others, &|| record.to_vec())?,
            Err(error) => refuse(RejectionCode::Unparsable, format!("not a JSON object: {error}"))?,
        }
    }
    Ok(())
}

/// Reads an object's wanted members into cells.
struct Object<'c, 'a> {
    columns: &'c Columns,
    cells: &'c mut Vec<Cell<'a>>,
    others: &'c mut Vec<(Cow<'a, str>, Cell<'a>)>,
}

impl<'a> DeserializeSeed<'a> for Object<'_, 'a> {
    type Value = ();
    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'a> Visitor<'a> for Object<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Name(name)) = map.next_key_seed(NameSeed)? {
            let exact = self.columns.wanted.iter().position(|wanted| wanted.names.iter().any(|n| *n == name));
            let wanted = exact.or_else(|| {
                let same = |n: &String| n.eq_ignore_ascii_case(&name);
                self.columns.wanted.iter().position(|wanted| wanted.names.iter().any(same))
            });
            match wanted {
                // An exact name beats one in other letters, whichever comes last.
                Some(index) if exact.is_some() || self.cells[index] == Cell::Absent => {
                    self.cells[index] = map.next_value_seed(ScalarSeed)?;
                }
                None if self.columns.keep_others => {
                    let cell = map.next_value_seed(AnySeed)?;
                    self.others.push((name, cell));
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

struct Name<'a>(Cow<'a, str>);
struct NameSeed;

impl<'a> DeserializeSeed<'a> for NameSeed {
    type Value = Name<'a>;
    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<Name<'a>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'a> Visitor<'a> for NameSeed {
    type Value = Name<'a>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }
    fn visit_borrowed_str<E: de::Error>(self, v: &'a str) -> Result<Name<'a>, E> {
        Ok(Name(Cow::Borrowed(v)))
    }
    fn visit_str<E: de::Error>(self, v: &str) -> Result<Name<'a>, E> {
        Ok(Name(Cow::Owned(v.to_owned())))
    }
}

/// A text, number, truth value or null; whole numbers keep all their digits.
struct ScalarSeed;

impl<'a> DeserializeSeed<'a> for ScalarSeed {
    type Value = Cell<'a>;
    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<Cell<'a>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'a> Visitor<'a> for ScalarSeed {
    type Value = Cell<'a>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, a number or null")
    }
    fn visit_borrowed_str<E: de::Error>(self, v: &'a str) -> Result<Cell<'a>, E> {
        Ok(Cell::Text(Cow::Borrowed(v)))
    }
    fn visit_str<E: de::Error>(self, v: &str) -> Result<Cell<'a>, E> {
        Ok(Cell::Text(Cow::Owned(v.to_owned())))
    }
    fn visit_u64<E: de::Error>(self, v: u64) -> Result<Cell<'a>, E> {
        Ok(Cell::Text(Cow::Owned(v.to_string())))
    }
    fn visit_i64<E: de::Error>(self, v: i64) -> Result<Cell<'a>, E> {
        Ok(Cell::Text(Cow::Owned(v.to_string())))
    }
    fn visit_f64<E: de::Error>(self, v: f64) -> Result<Cell<'a>, E> {
        Ok(Cell::Number(v))
    }
    fn visit_unit<E: de::Error>(self) -> Result<Cell<'a>, E> {
        Ok(Cell::Absent)
    }
}

/// Like [`ScalarSeed`], and lists or objects as their JSON text, for attributes.
struct AnySeed;

impl<'a> DeserializeSeed<'a> for AnySeed {
    type Value = Cell<'a>;
    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<Cell<'a>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'a> Visitor<'a> for AnySeed {
    type Value = Cell<'a>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_borrowed_str<E: de::Error>(self, v: &'a str) -> Result<Cell<'a>, E> {
        ScalarSeed.visit_borrowed_str(v)
    }
    fn visit_str<E: de::Error>(self, v: &str) -> Result<Cell<'a>, E> {
        ScalarSeed.visit_str(v)
    }
    fn visit_u64<E: de::Error>(self, v: u64) -> Result<Cell<'a>, E> {
        ScalarSeed.visit_u64(v)
    }
    fn visit_i64<E: de::Error>(self, v: i64) -> Result<Cell<'a>, E> {
        ScalarSeed.visit_i64(v)
    }
    fn visit_f64<E: de::Error>(self, v: f64) -> Result<Cell<'a>, E> {
        Ok(Cell::Number(v))
    }
    fn visit_bool<E: de::Error>(self, v: bool) -> Result<Cell<'a>, E> {
        Ok(Cell::Text(Cow::Borrowed(if v { "true" } else { "false" })))
    }
    fn visit_unit<E: de::Error>(self) -> Result<Cell<'a>, E> {
        Ok(Cell::Absent)
    }
    fn visit_seq<A: SeqAccess<'a>>(self, seq: A) -> Result<Cell<'a>, A::Error> {
        let value: serde_json::Value = serde::Deserialize::deserialize(de::value::SeqAccessDeserializer::new(seq))?;
        Ok(Cell::Text(Cow::Owned(value.to_string())))
    }
    fn visit_map<A: MapAccess<'a>>(self, map: A) -> Result<Cell<'a>, A::Error> {
        let value: serde_json::Value = serde::Deserialize::deserialize(de::value::MapAccessDeserializer::new(map))?;
        Ok(Cell::Text(Cow::Owned(value.to_string())))
    }
}
