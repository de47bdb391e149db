//! Delivered lists as Parquet: one row a list, for Athena, DuckDB, pyarrow and whoever else reads columns.
//!
//! The rows say exactly what the JSON lines say, field by field, so the trailer's length and digest are those of the lines
//! whatever the format: reading a file back makes the same lines again. The trailer lies in the footer's key-value
//! metadata, where every reader passes over it; the footer of these files is small and at the end, so one ranged read of
//! [`TAIL_BYTES`] finds it. Times are `TIMESTAMP(MILLIS, UTC)`; `items` is a list of (`itemId`, `score`), which Athena
//! reads as `array<struct<itemid:string,score:float>>`.

use std::io;
use std::sync::{Arc, LazyLock};

use anabranch_events::{Recommendation, RecommendedItem};
use anabranch_stores::parquet::{column_reader, guarded};
use bytes::Bytes;
use parquet::basic::{Compression as Codec, GzipLevel, ZstdLevel};
use parquet::column::reader::get_typed_column_reader;
use parquet::data_type::{ByteArray, ByteArrayType, DataType, FloatType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::{KeyValue, ParquetMetaData, ParquetMetaDataReader};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::reader::{FileReader as _, RowGroupReader, SerializedFileReader};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::{ColumnPath, TypePtr};

use super::Trailer;
use crate::settings::Compression;

/// The last bytes of a file, which hold its whole footer: writing sees to it.
pub(super) const TAIL_BYTES: usize = 16 << 10;
/// What every Parquet file begins and ends with.
pub(super) const MAGIC: [u8; 4] = *b"PAR1";
/// The key of the trailer in the footer's metadata.
const TRAILER_KEY: &str = "anabranch.trailer";
/// Length of the footer, then the magic.
const END_BYTES: usize = 8;

/// No line is shorter: the names of its fields alone are longer.
const LINE_BYTES_MIN: u64 = 128;

/// Columns in the order of the JSON's fields.
const SCHEMA: &str = "message recommendation {
    required binary recommendationId (STRING);
    optional binary userId (STRING);
    optional binary sessionId (STRING);
    required binary eventId (STRING);
    required binary eventType (STRING);
    required binary eventItemId (STRING);
    required int64 eventTimeMs (TIMESTAMP(MILLIS,true));
    required int64 arrivalTimeMs (TIMESTAMP(MILLIS,true));
    required binary trigger (STRING);
    required binary shardId (STRING);
    required binary sequenceNumber (STRING);
    optional int64 subSequenceNumber;
    required binary snapshotVersion (STRING);
    required binary overlayVersion (STRING);
    required group items (LIST) {
        repeated group list {
            required group element {
                required binary itemId (STRING);
                required float score;
            }
        }
    }
}";

/// Columns by which people narrow a query.
const NARROWED_BY: [&str; 3] = ["eventTimeMs", "arrivalTimeMs", "eventType"];

static TYPE: LazyLock<TypePtr> =
    LazyLock::new(|| Arc::new(parse_message_type(SCHEMA).expect("the schema is a constant that parses")));

/// Writes JSON lines as a file with the trailer in its footer.
pub(super) fn encode(lines: &[u8], trailer: &Trailer, compression: Compression) -> io::Result<Vec<u8>> {
    let rows = lines
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(serde_json::from_slice)
        .collect::<Result<Vec<Recommendation<'static>>, _>>()?;
    let trailer = KeyValue::new(TRAILER_KEY.to_owned(), serde_json::to_string(trailer)?);
    let bytes = write(&rows, trailer, compression).map_err(io::Error::other)?;
    match footer_bytes(&bytes) {
        Some(footer) if footer + END_BYTES <= TAIL_BYTES => Ok(bytes),
        _ => Err(io::Error::other(format!("the footer is longer than {TAIL_BYTES} bytes"))),
    }
}

fn write(rows: &[Recommendation<'_>], trailer: KeyValue, codec: Compression) -> Result<Vec<u8>, ParquetError> {
    let codec = match codec {
        Compression::Zstd => Codec::ZSTD(ZstdLevel::try_new(1)?),
        Compression::Gzip => Codec::GZIP(GzipLevel::try_new(4)?),
    };
    let properties = NARROWED_BY
        .iter()
        .fold(WriterProperties::builder(), |properties, name| {
            properties.set_column_statistics_enabled(ColumnPath::from(*name), EnabledStatistics::Chunk)
        })
        .set_statistics_enabled(EnabledStatistics::None)
        .set_statistics_truncate_length(Some(64))
        .set_offset_index_disabled(true)
        .set_compression(codec)
        .set_created_by("anabranch".to_owned())
        .set_key_value_metadata(Some(vec![trailer]))
        .build();
    let mut file = SerializedFileWriter::new(Vec::new(), Arc::clone(&TYPE), Arc::new(properties))?;
    if !rows.is_empty() {
        let mut group = file.next_row_group()?;
        write_rows(rows, &mut group)?;
        group.close()?;
    }
    file.into_inner()
}

fn write_rows(
    rows: &[Recommendation<'_>],
    group: &mut SerializedRowGroupWriter<'_, Vec<u8>>,
) -> Result<(), ParquetError> {
    let mut text = |of: &dyn Fn(&Recommendation<'_>) -> Option<String>, is_optional: bool| {
        let cells: Vec<Option<String>> = rows.iter().map(of).collect();
        let present: Vec<i16> = cells.iter().map(|cell| i16::from(cell.is_some())).collect();
        let values: Vec<ByteArray> = cells.into_iter().flatten().map(|text| text.into_bytes().into()).collect();
        column::<ByteArrayType>(group, &values, is_optional.then_some(&present), None)
    };
    text(&|row| Some(row.recommendation_id.to_string()), false)?;
    text(&|row| row.user_id.as_deref().map(str::to_owned), true)?;
    text(&|row| row.session_id.as_deref().map(str::to_owned), true)?;
    text(&|row| Some(row.event_id.to_string()), false)?;
    text(&|row| Some(row.event_type.to_string()), false)?;
    text(&|row| Some(row.event_item_id.to_string()), false)?;
    let times = |of: &dyn Fn(&Recommendation<'_>) -> i64| rows.iter().map(of).collect::<Vec<i64>>();
    column::<Int64Type>(group, &times(&|row| row.event_time_ms), None, None)?;
    column::<Int64Type>(group, &times(&|row| row.arrival_time_ms), None, None)?;
    let mut text = |of: &dyn Fn(&Recommendation<'_>) -> String| {
        let values: Vec<ByteArray> = rows.iter().map(|row| of(row).into_bytes().into()).collect();
        column::<ByteArrayType>(group, &values, None, None)
    };
    text(&|row| trigger_name(row).to_owned())?;
    text(&|row| row.shard_id.to_string())?;
    text(&|row| row.sequence_number.to_string())?;
    let present: Vec<i16> = rows.iter().map(|row| i16::from(row.sub_sequence_number.is_some())).collect();
    // The same 64 bits.
    let subs: Vec<i64> = rows.iter().filter_map(|row| row.sub_sequence_number).map(u64::cast_signed).collect();
    column::<Int64Type>(group, &subs, Some(&present), None)?;
    let mut text = |of: &dyn Fn(&Recommendation<'_>) -> String| {
        let values: Vec<ByteArray> = rows.iter().map(|row| of(row).into_bytes().into()).collect();
        column::<ByteArrayType>(group, &values, None, None)
    };
    text(&|row| row.snapshot_version.to_string())?;
    text(&|row| row.overlay_version.to_string())?;

    // An empty list has one place without a value.
    let (mut present, mut repeated) = (Vec::new(), Vec::new());
    for row in rows {
        let places = row.items.len().max(1);
        present.extend(std::iter::repeat_n(i16::from(!row.items.is_empty()), places));
        repeated.extend((0..places).map(|place| i16::from(place > 0)));
    }
    let items = || rows.iter().flat_map(|row| &row.items);
    let ids: Vec<ByteArray> = items().map(|item| item.item_id.as_bytes().to_vec().into()).collect();
    column::<ByteArrayType>(group, &ids, Some(&present), Some(&repeated))?;
    let scores: Vec<f32> = items().map(|item| item.score).collect();
    column::<FloatType>(group, &scores, Some(&present), Some(&repeated))
}

fn column<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, Vec<u8>>,
    values: &[T::T],
    present: Option<&Vec<i16>>,
    repeated: Option<&Vec<i16>>,
) -> Result<(), ParquetError> {
    let missing = || ParquetError::General("the schema has fewer columns".to_owned());
    let mut writer = group.next_column()?.ok_or_else(missing)?;
    writer.typed::<T>().write_batch(values, present.map(Vec::as_slice), repeated.map(Vec::as_slice))?;
    writer.close()
}

/// The trigger as its JSON.
fn trigger_name(row: &Recommendation<'_>) -> &'static str {
    match row.trigger {
        anabranch_events::Trigger::Event => "event",
        anabranch_events::Trigger::User => "user",
    }
}

/// Bytes of the footer's metadata, as the end says.
fn footer_bytes(bytes: &[u8]) -> Option<usize> {
    let end = bytes.last_chunk::<END_BYTES>()?;
    let (length, magic) = end.split_at(4);
    (magic == MAGIC).then(|| u32::from_le_bytes(length.try_into().unwrap_or_default()) as usize)
}

/// The trailer's JSON from the last bytes of a file.
pub(super) fn trailer_json(tail: &[u8]) -> Result<Vec<u8>, String> {
    let footer = footer_bytes(tail).ok_or("no footer")?;
    let end = tail.len() - END_BYTES;
    let start = end.checked_sub(footer).ok_or("its footer is longer than those of delivered objects")?;
    let metadata: ParquetMetaData = decoded(|| ParquetMetaDataReader::decode_metadata(&tail[start..end]))?;
    let pairs = metadata.file_metadata().key_value_metadata();
    let pair = pairs.into_iter().flatten().find(|pair| pair.key == TRAILER_KEY);
    pair.and_then(|pair| pair.value.clone())
        .map(String::into_bytes)
        .ok_or_else(|| "no trailer in its footer".to_owned())
}

fn decoded<T>(decode: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, String> {
    guarded(decode).map_err(|error| error.to_string())
}

/// The rows of a file as the JSON lines that they were written from; at most `limit` bytes of them.
pub(super) fn lines(bytes: &[u8], limit: u64) -> Result<Vec<u8>, String> {
    let file = decoded(|| SerializedFileReader::new(Bytes::copy_from_slice(bytes)))?;
    if file.metadata().file_metadata().schema() != &**TYPE {
        return Err("its columns are not those of delivered lists".to_owned());
    }
    let mut lines = Vec::new();
    for index in 0..file.num_row_groups() {
        for row in decoded(|| read_rows(&*file.get_row_group(index)?, limit))? {
            serde_json::to_writer(&mut lines, &row).map_err(|error| error.to_string())?;
            lines.push(b'\n');
            if lines.len() as u64 > limit {
                return Err(format!("more than {limit} bytes of lines"));
            }
        }
    }
    Ok(lines)
}

fn read_rows(group: &dyn RowGroupReader, limit: u64) -> Result<Vec<Recommendation<'static>>, ParquetError> {
    let bad = |what: &str| ParquetError::General(what.to_owned());
    let rows_max = limit / LINE_BYTES_MIN;
    let count = usize::try_from(group.metadata().num_rows()).ok().filter(|&count| count as u64 <= rows_max);
    let count = count.ok_or_else(|| bad("an impossible number of rows"))?;
    let short = || bad("a column has too few values");
    let mut texts: Vec<std::vec::IntoIter<Option<ByteArray>>> = Vec::new();
    for index in [0, 1, 2, 3, 4, 5, 8, 9, 10, 12, 13] {
        let (values, present, _) = read::<ByteArrayType>(group, index, count)?;
        texts.push(placed(values, &present, count)?.into_iter());
    }
    let mut longs: Vec<std::vec::IntoIter<Option<i64>>> = Vec::new();
    for index in [6, 7, 11] {
        let (values, present, _) = read::<Int64Type>(group, index, count)?;
        longs.push(placed(values, &present, count)?.into_iter());
    }
    let (ids, present, repeated) = read::<ByteArrayType>(group, 14, count)?;
    let (scores, ..) = read::<FloatType>(group, 15, count)?;
    let mut items = ids.into_iter().zip(scores);
    let mut places = present.into_iter().zip(repeated).peekable();

    let mut rows = Vec::new(); // the count is the file's claim
    for _ in 0..count {
        let mut text = |column: usize| -> Result<Option<String>, ParquetError> {
            let cell = texts[column].next().ok_or_else(short)?;
            cell.map(|text| text.as_utf8().map(str::to_owned)).transpose()
        };
        let optional = [text(1)?, text(2)?];
        let mut required = |column| text(column)?.ok_or_else(short);
        let trigger = match required(6)?.as_str() {
            "event" => anabranch_events::Trigger::Event,
            "user" => anabranch_events::Trigger::User,
            _ => return Err(bad("an unknown trigger")),
        };
        let mut long = |column: usize| longs[column].next().ok_or_else(short);
        let mut list = Vec::new();
        let mut is_first = true;
        while let Some((is_present, _)) = places.next_if(|(_, again)| is_first || *again > 0) {
            is_first = false;
            if is_present > 0 {
                let (id, score) = items.next().ok_or_else(short)?;
                list.push(RecommendedItem { item_id: id.as_utf8()?.to_owned().into(), score });
            }
        }
        let [user_id, session_id] = optional;
        rows.push(Recommendation {
            recommendation_id: required(0)?.into(),
            user_id: user_id.map(Into::into),
            session_id: session_id.map(Into::into),
            event_id: required(3)?.into(),
            event_type: required(4)?.into(),
            event_item_id: required(5)?.into(),
            event_time_ms: long(0)?.ok_or_else(short)?,
            arrival_time_ms: long(1)?.ok_or_else(short)?,
            trigger,
            shard_id: required(7)?.into(),
            sequence_number: required(8)?.into(),
            sub_sequence_number: long(2)?.map(i64::cast_unsigned),
            snapshot_version: required(9)?.into(),
            overlay_version: required(10)?.into(),
            items: list,
        });
    }
    Ok(rows)
}

type Column<T> = (Vec<T>, Vec<i16>, Vec<i16>);

/// Values, definition levels and repetition levels of a column.
fn read<T: DataType>(group: &dyn RowGroupReader, index: usize, count: usize) -> Result<Column<T::T>, ParquetError> {
    let mut reader = get_typed_column_reader::<T>(column_reader(group, index)?);
    let (mut values, mut present, mut repeated) = (Vec::new(), Vec::new(), Vec::new());
    let mut rows = 0;
    while rows < count {
        let (read, ..) = reader.read_records(count - rows, Some(&mut present), Some(&mut repeated), &mut values)?;
        if read == 0 {
            return Err(ParquetError::General("a column has too few rows".to_owned()));
        }
        rows += read;
    }
    Ok((values, present, repeated))
}

/// One cell a row; a required column has no levels.
fn placed<T>(values: Vec<T>, present: &[i16], count: usize) -> Result<Vec<Option<T>>, ParquetError> {
    if present.is_empty() && values.len() == count {
        return Ok(values.into_iter().map(Some).collect());
    }
    let mut values = values.into_iter();
    let cells: Vec<Option<T>> = present.iter().map(|&level| if level > 0 { values.next() } else { None }).collect();
    if cells.len() == count { Ok(cells) } else { Err(ParquetError::General("a column has too few levels".to_owned())) }
}
