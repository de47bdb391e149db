//! Our own Parquet files: a schema, columns in memory, bytes out; and back. Flat columns only.
//!
//! The bytes depend on nothing but the rows (no clock, no host name), so content addresses are stable.

use std::sync::Arc;

use anabranch_stores::parquet::{column_reader, guarded};
use bytes::Bytes;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, FloatType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesPtr};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::{ColumnPath, TypePtr};

use crate::BatchError;

/// Rows of a row group: a reader holds one at a time.
pub(crate) const GROUP_ROWS: usize = 256 << 10;

/// A column in memory. `present` has one flag a row for optional columns (values only where it is 1), and is empty for
/// required ones.
#[derive(Debug)]
pub(crate) enum Column {
    Text { values: Vec<ByteArray>, present: Vec<i16> },
    Long(Vec<i64>),
    Float { values: Vec<f32>, present: Vec<i16> },
    Double { values: Vec<f64>, present: Vec<i16> },
    Bool(Vec<bool>),
}

impl Column {
    /// The text of each row; nothing for columns of another kind.
    pub(crate) fn texts(&self) -> impl Iterator<Item = Option<&[u8]>> {
        let (values, present): (&[ByteArray], &[i16]) = match self {
            Self::Text { values, present } => (values, present),
            _ => (&[], &[]),
        };
        let rows = if present.is_empty() { values.len() } else { present.len() };
        let mut values = values.iter();
        (0..rows).map(move |row| {
            let held = present.get(row).is_none_or(|&level| level > 0);
            if held { values.next().map(ByteArray::data) } else { None }
        })
    }

    /// Leaves out the rows where `keep` says false.
    pub(crate) fn retain(&mut self, keep: &[bool]) {
        fn rows<T>(values: &mut Vec<T>, keep: &[bool]) {
            let mut keep = keep.iter();
            values.retain(|_| keep.next().copied().unwrap_or(true));
        }
        fn held<T>(values: &mut Vec<T>, present: &mut Vec<i16>, keep: &[bool]) {
            if present.is_empty() {
                rows(values, keep);
            } else {
                let mut of_values = keep.iter().zip(present.iter()).filter(|(_, level)| **level > 0);
                values.retain(|_| of_values.next().is_none_or(|(keep, _)| *keep));
                rows(present, keep);
            }
        }
        match self {
            Self::Text { values, present } => held(values, present, keep),
            Self::Float { values, present } => held(values, present, keep),
            Self::Double { values, present } => held(values, present, keep),
            Self::Long(values) => rows(values, keep),
            Self::Bool(values) => rows(values, keep),
        }
    }
}

/// A kind of file: schema and how its columns are written.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) what: &'static str,
    schema: TypePtr,
    properties: WriterPropertiesPtr,
}

impl Table {
    /// `plain` names text columns whose values hardly repeat.
    pub(crate) fn new(what: &'static str, schema: &str, plain: &[&str], deltas: &[&str]) -> Self {
        let schema = Arc::new(parse_message_type(schema).expect("the schemas of this crate parse"));
        let mut properties = WriterProperties::builder()
            .set_created_by("anabranch".to_owned())
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(1).expect("level 1 exists")))
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .set_offset_index_disabled(true);
        for &name in plain {
            properties = properties.set_column_dictionary_enabled(ColumnPath::from(name), false);
        }
        for &name in deltas {
            properties = properties
                .set_column_dictionary_enabled(ColumnPath::from(name), false)
                .set_column_encoding(ColumnPath::from(name), Encoding::DELTA_BINARY_PACKED);
        }
        Self { what, schema, properties: Arc::new(properties.build()) }
    }

    /// Encodes a file of row groups, each of which `next` makes until it gives `None`.
    pub(crate) fn encode(&self, mut next: impl FnMut() -> Option<Vec<Column>>) -> Result<Vec<u8>, BatchError> {
        let encode = || -> Result<Vec<u8>, ParquetError> {
            let mut file =
                SerializedFileWriter::new(Vec::new(), Arc::clone(&self.schema), Arc::clone(&self.properties))?;
            while let Some(columns) = next() {
                let mut group = file.next_row_group()?;
                for column in &columns {
                    let Some(mut writer) = group.next_column()? else { break };
                    let levels = |present: &[i16]| if present.is_empty() { None } else { Some(present.to_vec()) };
                    match column {
                        Column::Text { values, present } => {
                            writer.typed::<ByteArrayType>().write_batch(values, levels(present).as_deref(), None)?
                        }
                        Column::Long(values) => writer.typed::<Int64Type>().write_batch(values, None, None)?,
                        Column::Float { values, present } => {
                            writer.typed::<FloatType>().write_batch(values, levels(present).as_deref(), None)?
                        }
                        Column::Double { values, present } => {
                            writer.typed::<DoubleType>().write_batch(values, levels(present).as_deref(), None)?
                        }
                        Column::Bool(values) => writer.typed::<BoolType>().write_batch(values, None, None)?,
                    };
                    writer.close()?;
                }
                group.close()?;
            }
            file.into_inner()
        };
        let mut encode = encode;
        encode().map_err(|error| BatchError::Encode { what: self.what, detail: error.to_string() })
    }
}

/// A file of ours, read row group by row group.
pub(crate) struct TableReader {
    place: String,
    reader: SerializedFileReader<Bytes>,
    next: usize,
}

impl TableReader {
    pub(crate) fn new(place: &str, bytes: Bytes) -> Result<Self, BatchError> {
        let reader = guarded(|| SerializedFileReader::new(bytes)).map_err(|error| corrupt(place, &error))?;
        Ok(Self { place: place.to_owned(), reader, next: 0 })
    }

    /// The columns of the next row group, in schema order.
    pub(crate) fn next_group(&mut self) -> Result<Option<(usize, Vec<Column>)>, BatchError> {
        self.next_columns(usize::MAX)
    }

    /// The first `count` columns of the next row group, in schema order; the others are not decoded.
    pub(crate) fn next_columns(&mut self, count: usize) -> Result<Option<(usize, Vec<Column>)>, BatchError> {
        if self.next >= self.reader.num_row_groups() {
            return Ok(None);
        }
        let group = self.next;
        self.next += 1;
        let read = || -> Result<(usize, Vec<Column>), ParquetError> {
            let group = self.reader.get_row_group(group)?;
            let rows = usize::try_from(group.metadata().num_rows()).unwrap_or(0);
            let mut columns = Vec::new();
            for index in 0..group.num_columns().min(count) {
                let optional = group.metadata().column(index).column_descr().max_def_level() > 0;
                columns.push(match column_reader(&*group, index)? {
                    ColumnReader::ByteArrayColumnReader(r) => {
                        let (values, present) = all(r, rows, optional)?;
                        Column::Text { values, present }
                    }
                    ColumnReader::Int64ColumnReader(r) => Column::Long(all(r, rows, optional)?.0),
                    ColumnReader::FloatColumnReader(r) => {
                        let (values, present) = all(r, rows, optional)?;
                        Column::Float { values, present }
                    }
                    ColumnReader::DoubleColumnReader(r) => {
                        let (values, present) = all(r, rows, optional)?;
                        Column::Double { values, present }
                    }
                    ColumnReader::BoolColumnReader(r) => Column::Bool(all(r, rows, optional)?.0),
                    _ => return Err(ParquetError::General(format!("column {index} has a foreign type"))),
                });
            }
            Ok((rows, columns))
        };
        guarded(read).map(Some).map_err(|error| corrupt(&self.place, &error))
    }
}

fn all<T: DataType>(
    mut reader: ColumnReaderImpl<T>,
    rows: usize,
    optional: bool,
) -> Result<(Vec<T::T>, Vec<i16>), ParquetError> {
    let (mut values, mut present) = (Vec::with_capacity(rows.min(GROUP_ROWS)), Vec::new()); // the count is the file's claim
    let mut read = 0;
    while read < rows {
        let (records, _, _) = reader.read_records(rows - read, Some(&mut present), None, &mut values)?;
        if records == 0 {
            return Err(ParquetError::General("a column has too few rows".to_owned()));
        }
        read += records;
    }
    if !optional {
        present.clear();
        if values.len() != rows {
            return Err(ParquetError::General("a column has too few values".to_owned()));
        }
    }
    Ok((values, present))
}

fn corrupt(place: &str, error: &ParquetError) -> BatchError {
    BatchError::Corrupt { place: place.to_owned(), detail: format!("{error}; run `anabranch etl` again") }
}

/// Texts of a column that is being built; one allocation holds them all.
#[derive(Debug, Default)]
pub(crate) struct TextBuilder {
    arena: Vec<u8>,
    ends: Vec<u32>,
    present: Vec<i16>,
    optional: bool,
}

impl TextBuilder {
    pub(crate) fn required() -> Self {
        Self::default()
    }

    pub(crate) fn optional() -> Self {
        Self { optional: true, ..Self::default() }
    }

    pub(crate) fn push(&mut self, text: Option<&[u8]>) {
        if self.optional {
            self.present.push(i16::from(text.is_some()));
        }
        if let Some(text) = text {
            self.arena.extend_from_slice(text);
            self.ends.push(self.arena.len() as u32);
        }
    }

    pub(crate) fn finish(self) -> Column {
        let arena = Bytes::from(self.arena);
        let mut start = 0;
        let values = self
            .ends
            .iter()
            .map(|&end| {
                let value = ByteArray::from(arena.slice(start as usize..end as usize));
                start = end;
                value
            })
            .collect();
        Column::Text { values, present: self.present }
    }
}
