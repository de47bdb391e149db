//! Parquet row groups to rows, through the low-level column readers (no Arrow: it would double the build).
//!
//! Every flat column of every physical type is understood: ids as text (whole numbers keep all digits, decimals their
//! scale), times from timestamps, dates, INT96, numbers or text, values as numbers. Nested columns are only an error
//! if they are asked for.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::sync::{Arc, Mutex, PoisonError};

use anabranch_events::{Rejection, RejectionCode, wire};
use anabranch_stores::parquet::{column_reader, guarded};
use bytes::Bytes;
use parquet::basic::{ConvertedType, LogicalType, TimeUnit};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, DataType, FixedLenByteArray, Int96};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, FileReader, Length, SerializedFileReader};
use parquet::schema::types::ColumnDescPtr;

use super::columns::{Columns, Want};
use super::pipeline::Failure;
use super::{Cell, Place, RowSink};

/// Rows decoded at a time: enough to spread the cost of a call, few enough to stay in cache.
const BATCH_ROWS: usize = 4096;

/// An open Parquet file.
pub(super) struct ParquetSource {
    reader: SerializedFileReader<SharedFile>,
    columns: Vec<Picked>,
    /// For each wanted column its index in `columns`; then the others follow.
    wanted: Vec<Option<usize>>,
    others: Vec<(String, usize)>,
    group_starts: Vec<u64>,
}

/// A file that several threads read at once. The decoder's own reader for files duplicates the handle, and duplicates
/// share one position: two row groups read together then get each other's bytes.
#[derive(Clone)]
struct SharedFile {
    file: Arc<Mutex<File>>,
    bytes: u64,
}

impl SharedFile {
    fn new(file: File) -> Result<Self, ParquetError> {
        let bytes = file.metadata()?.len();
        Ok(Self { file: Arc::new(Mutex::new(file)), bytes })
    }

    fn read_at(&self, at: u64, out: &mut [u8]) -> std::io::Result<usize> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(at))?;
        file.read(out)
    }
}

/// Reads on from a place in a [`SharedFile`].
struct SharedReader {
    file: SharedFile,
    at: u64,
}

impl Read for SharedReader {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let read = self.file.read_at(self.at, out)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Length for SharedFile {
    fn len(&self) -> u64 {
        self.bytes
    }
}

impl ChunkReader for SharedFile {
    type T = BufReader<SharedReader>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(BufReader::new(SharedReader { file: self.clone(), at: start }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        if start.saturating_add(length as u64) > self.bytes {
            return Err(ParquetError::EOF(format!("{length} bytes from {start} on are not all there")));
        }
        let mut bytes = vec![0; length];
        SharedReader { file: self.clone(), at: start }.read_exact(&mut bytes)?;
        Ok(bytes.into())
    }
}

struct Picked {
    name: String,
    leaf: usize,
    descriptor: ColumnDescPtr,
    want: Want,
}

fn damaged(error: &ParquetError) -> String {
    format!("it is no whole Parquet file: {error}. Fetch or write it again")
}

impl ParquetSource {
    pub(super) fn open(file: File, columns: &Columns) -> Result<Self, Failure> {
        let reader = guarded(|| SerializedFileReader::new(SharedFile::new(file)?));
        let reader = reader.map_err(|error| Failure::File(damaged(&error)))?;
        let schema = reader.metadata().file_metadata().schema_descr_ptr();
        let flat: Vec<usize> = (0..schema.num_columns())
            .filter(|&leaf| {
                let column = schema.column(leaf);
                column.path().parts().len() == 1 && column.max_rep_level() == 0
            })
            .collect();
        let names: Vec<String> = flat.iter().map(|&leaf| schema.column(leaf).name().to_owned()).collect();
        let found = columns.find(&names).map_err(Failure::File)?;
        let mut picked: Vec<Picked> = Vec::new();
        let mut pick = |index: usize, want: Want| {
            picked.push(Picked {
                name: names[index].clone(),
                leaf: flat[index],
                descriptor: schema.column(flat[index]),
                want,
            });
            picked.len() - 1
        };
        let wanted = found.indices.iter().zip(&columns.wanted).map(|(i, w)| i.map(|i| pick(i, w.want))).collect();
        // pandas writes its row labels as a column; they say nothing about an item.
        let others = found.others.into_iter().filter(|(name, _)| !name.starts_with("__index_level_"));
        let others = others.map(|(name, index)| (name, pick(index, Want::Text))).collect();
        let mut group_starts = Vec::new();
        let mut rows = 0_u64;
        for group in reader.metadata().row_groups() {
            group_starts.push(rows);
            rows += u64::try_from(group.num_rows()).unwrap_or(0);
        }
        Ok(Self { reader, columns: picked, wanted, others, group_starts })
    }

    pub(super) fn group_count(&self) -> usize {
        self.group_starts.len()
    }

    pub(super) fn read_group<S: RowSink>(&self, file: u32, group: usize, sink: &mut S) -> Result<(), Failure> {
        let in_group = |error| {
            Failure::File(format!("row group {group} (from row {} on): {}", self.group_starts[group], damaged(&error)))
        };
        let metadata = self.reader.metadata().row_group(group);
        let row_count = usize::try_from(metadata.num_rows()).unwrap_or(0);
        let mut readers = guarded(|| {
            let row_group = self.reader.get_row_group(group)?;
            self.columns.iter().map(|column| column_reader(&*row_group, column.leaf)).collect::<Result<Vec<_>, _>>()
        })
        .map_err(in_group)?;
        let mut batches: Vec<Batch> = self.columns.iter().map(|_| Batch::default()).collect();
        let mut done = 0;
        while done < row_count {
            let rows = BATCH_ROWS.min(row_count - done);
            for ((reader, batch), column) in readers.iter_mut().zip(&mut batches).zip(&self.columns) {
                guarded(|| {
                    batch.fill(reader, rows, column)?;
                    if batch.cells.len() == rows {
                        Ok(())
                    } else {
                        Err(ParquetError::General(format!("column {} has too few rows", column.name)))
                    }
                })
                .map_err(in_group)?;
            }
            let first = self.group_starts[group] + done as u64;
            self.hand_over(Place { file, unit: group as u32, offset: first, is_row: true }, rows, &batches, sink)?;
            done += rows;
        }
        Ok(())
    }

    fn hand_over<S: RowSink>(&self, first: Place, rows: usize, batches: &[Batch], sink: &mut S) -> Result<(), Failure> {
        let mut cells = Vec::with_capacity(self.wanted.len());
        let mut others = Vec::new();
        for row in 0..rows {
            let place = Place { offset: first.offset + row as u64, ..first };
            let raw = || self.render(batches, row);
            if let Some(bad) = batches.iter().position(|batch| matches!(batch.cells[row], Stored::NotText)) {
                let detail = format!("column {} is not UTF-8", self.columns[bad].name);
                sink.bad_row(place, Rejection::new(RejectionCode::Unparsable, detail), &raw())?;
                continue;
            }
            cells.clear();
            cells.extend(self.wanted.iter().map(|c| c.map_or(Cell::Absent, |c| batches[c].cell(row))));
            others.clear();
            others.extend(self.others.iter().map(|(name, c)| (Cow::Owned(name.clone()), batches[*c].cell(row))));
            sink.row(place, &mut cells, &mut others, &raw)?;
        }
        Ok(())
    }

    /// The row as JSON, since a Parquet row has no bytes of its own.
    fn render(&self, batches: &[Batch], row: usize) -> Vec<u8> {
        let members = self.columns.iter().zip(batches).map(|(column, batch)| {
            let value = match batch.cell(row) {
                Cell::Absent => serde_json::Value::Null,
                Cell::Text(text) => text.into_owned().into(),
                Cell::Ms(ms) => ms.into(),
                Cell::Number(number) => serde_json::Value::from(number),
            };
            (column.name.clone(), value)
        });
        let members: serde_json::Map<String, serde_json::Value> = members.collect();
        serde_json::to_vec(&members).expect("a map of JSON values serialises")
    }
}

/// A decoded cell; text lies in the batch's arena, so no row allocates.
#[derive(Clone, Copy, Debug)]
enum Stored {
    Absent,
    Text(u32, u32),
    NotText,
    Ms(i64),
    Number(f64),
}

#[derive(Default)]
struct Batch {
    cells: Vec<Stored>,
    arena: String,
    levels: Vec<i16>,
}

impl Batch {
    fn cell(&self, row: usize) -> Cell<'_> {
        match self.cells[row] {
            Stored::Absent | Stored::NotText => Cell::Absent,
            Stored::Text(start, end) => Cell::Text(Cow::Borrowed(&self.arena[start as usize..end as usize])),
            Stored::Ms(ms) => Cell::Ms(ms),
            Stored::Number(number) => Cell::Number(number),
        }
    }

    fn text(arena: &mut String, text: impl std::fmt::Display) -> Stored {
        let start = arena.len() as u32;
        write!(arena, "{text}").expect("writing to a string cannot fail");
        Stored::Text(start, arena.len() as u32)
    }

    fn fill(&mut self, reader: &mut ColumnReader, rows: usize, column: &Picked) -> Result<(), ParquetError> {
        let kind = Kind::of(&column.descriptor);
        let want = column.want;
        match reader {
            ColumnReader::BoolColumnReader(r) => self.take(r, rows, column, |arena, v| Self::text(arena, v)),
            ColumnReader::Int32ColumnReader(r) => self.take(r, rows, column, |arena, v| {
                integer(arena, i64::from(*v), kind, want, u32::try_from(*v).is_err())
            }),
            ColumnReader::Int64ColumnReader(r) => {
                self.take(r, rows, column, |arena, v| integer(arena, *v, kind, want, false))
            }
            ColumnReader::Int96ColumnReader(r) => self.take(r, rows, column, |_, v: &Int96| Stored::Ms(v.to_millis())),
            ColumnReader::FloatColumnReader(r) => {
                self.take(r, rows, column, |arena, v| number(arena, f64::from(*v), want))
            }
            ColumnReader::DoubleColumnReader(r) => self.take(r, rows, column, |arena, v| number(arena, *v, want)),
            ColumnReader::ByteArrayColumnReader(r) => {
                self.take(r, rows, column, |arena, v: &ByteArray| bytes(arena, v.data(), kind))
            }
            ColumnReader::FixedLenByteArrayColumnReader(r) => {
                self.take(r, rows, column, |arena, v: &FixedLenByteArray| bytes(arena, v.data(), kind))
            }
        }
    }

    fn take<T: DataType>(
        &mut self,
        reader: &mut ColumnReaderImpl<T>,
        rows: usize,
        column: &Picked,
        mut store: impl FnMut(&mut String, &T::T) -> Stored,
    ) -> Result<(), ParquetError> {
        let mut values: Vec<T::T> = Vec::with_capacity(rows);
        self.levels.clear();
        self.cells.clear();
        self.arena.clear();
        let mut read = 0;
        while read < rows {
            let (records, _, _) = reader.read_records(rows - read, Some(&mut self.levels), None, &mut values)?;
            if records == 0 {
                break;
            }
            read += records;
        }
        let full = column.descriptor.max_def_level();
        if full == 0 {
            self.cells.extend(values.iter().map(|value| store(&mut self.arena, value)));
            return Ok(());
        }
        let mut values = values.iter();
        for &level in &self.levels {
            let stored = if level == full {
                match values.next() {
                    Some(value) => store(&mut self.arena, value),
                    None => return Err(ParquetError::General("fewer values than levels".to_owned())),
                }
            } else {
                Stored::Absent
            };
            self.cells.push(stored);
        }
        Ok(())
    }
}

/// What a column's annotation says about its numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Plain,
    Unsigned,
    /// A time: so many units are a millisecond (or a millisecond so many units).
    Time {
        per_ms: i64,
        ms_per: i64,
    },
    Decimal {
        scale: u32,
    },
    Uuid,
}

impl Kind {
    fn of(descriptor: &ColumnDescPtr) -> Self {
        match (descriptor.logical_type_ref(), descriptor.converted_type()) {
            (Some(LogicalType::Timestamp(stamp)), _) => match stamp.unit {
                TimeUnit::MILLIS => Self::Time { per_ms: 1, ms_per: 1 },
                TimeUnit::MICROS => Self::Time { per_ms: 1_000, ms_per: 1 },
                TimeUnit::NANOS => Self::Time { per_ms: 1_000_000, ms_per: 1 },
            },
            (Some(LogicalType::Date), _) | (_, ConvertedType::DATE) => Self::Time { per_ms: 1, ms_per: 86_400_000 },
            (_, ConvertedType::TIMESTAMP_MILLIS) => Self::Time { per_ms: 1, ms_per: 1 },
            (_, ConvertedType::TIMESTAMP_MICROS) => Self::Time { per_ms: 1_000, ms_per: 1 },
            (Some(LogicalType::Decimal(decimal)), _) => {
                Self::Decimal { scale: u32::try_from(decimal.scale).unwrap_or(0).min(38) }
            }
            (_, ConvertedType::DECIMAL) => {
                Self::Decimal { scale: u32::try_from(descriptor.type_scale()).unwrap_or(0).min(38) }
            }
            (Some(LogicalType::Uuid), _) => Self::Uuid,
            (_, ConvertedType::UINT_8 | ConvertedType::UINT_16 | ConvertedType::UINT_32 | ConvertedType::UINT_64) => {
                Self::Unsigned
            }
            _ => Self::Plain,
        }
    }
}

fn integer(arena: &mut String, value: i64, kind: Kind, want: Want, narrow: bool) -> Stored {
    match (kind, want) {
        (Kind::Time { per_ms, ms_per }, Want::Text) => {
            let ms = value.div_euclid(per_ms).saturating_mul(ms_per);
            Batch::text(arena, wire::time::format_time_ms(ms))
        }
        (Kind::Time { per_ms, ms_per }, _) => Stored::Ms(value.div_euclid(per_ms).saturating_mul(ms_per)),
        (Kind::Decimal { scale }, _) => Batch::text(arena, decimal(i128::from(value), scale)),
        // A 32-bit column stores unsigned numbers by their bits.
        (Kind::Unsigned, Want::Text) if narrow => Batch::text(arena, value as i32 as u32),
        (Kind::Unsigned, Want::Text) => Batch::text(arena, value as u64),
        (_, Want::Text) => Batch::text(arena, value),
        (_, Want::Time) => match wire::time::number_ms(value as f64) {
            Some(ms) => Stored::Ms(ms),
            None => Batch::text(arena, value),
        },
        (_, Want::Number) => Stored::Number(value as f64),
    }
}

fn number(arena: &mut String, value: f64, want: Want) -> Stored {
    match want {
        Want::Text => Batch::text(arena, value),
        Want::Number => Stored::Number(value),
        Want::Time => match wire::time::number_ms(value) {
            Some(ms) => Stored::Ms(ms),
            None => Batch::text(arena, value),
        },
    }
}

fn bytes(arena: &mut String, value: &[u8], kind: Kind) -> Stored {
    match kind {
        Kind::Decimal { scale } if !value.is_empty() && value.len() <= 16 => {
            let sign = if value[0] & 0x80 == 0 { 0 } else { -1_i128 };
            let whole = value.iter().fold(sign, |whole, &byte| (whole << 8) | i128::from(byte));
            Batch::text(arena, decimal(whole, scale))
        }
        Kind::Uuid if value.len() == 16 => {
            let start = arena.len() as u32;
            for (i, byte) in value.iter().enumerate() {
                let dash = if matches!(i, 4 | 6 | 8 | 10) { "-" } else { "" };
                write!(arena, "{dash}{byte:02x}").expect("writing to a string cannot fail");
            }
            Stored::Text(start, arena.len() as u32)
        }
        _ => match std::str::from_utf8(value) {
            Ok(text) if !text.contains('\0') => {
                let start = arena.len() as u32;
                arena.push_str(text);
                Stored::Text(start, arena.len() as u32)
            }
            _ => Stored::NotText,
        },
    }
}

fn decimal(whole: i128, scale: u32) -> String {
    if scale == 0 {
        return whole.to_string();
    }
    let digits = format!("{:0>width$}", whole.unsigned_abs(), width = scale as usize + 1);
    let (before, after) = digits.split_at(digits.len() - scale as usize);
    format!("{}{before}.{after}", if whole < 0 { "-" } else { "" })
}
