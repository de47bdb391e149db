//! Columns of Parquet files that nobody vouches for.
//!
//! The decoder makes room for as many values of a dictionary as its page's header claims before it reads one, 32 bytes a
//! text: a damaged header of a small file ends the process for want of memory. Here the claim is held against the bytes of
//! the page first. It also promises errors, yet has panicked on crafted files before: [`guarded`] makes errors of panics.

use std::panic::{AssertUnwindSafe, catch_unwind};

use parquet::basic::Type;
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::column::reader::{ColumnReader, get_column_reader};
use parquet::errors::ParquetError;
use parquet::file::reader::RowGroupReader;

/// Runs the decoder on bytes that may be damaged: a panic there costs the file, not the run.
pub fn guarded<T>(decode: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    let gave_up = |_| Err(ParquetError::General("the decoder gave up on damaged bytes".to_owned()));
    catch_unwind(AssertUnwindSafe(decode)).unwrap_or_else(gave_up)
}

/// The reader of a row group's column, which refuses a dictionary that its page has no room for.
pub fn column_reader(group: &dyn RowGroupReader, leaf: usize) -> Result<ColumnReader, ParquetError> {
    let column = group.metadata().schema_descr().column(leaf);
    let value_bits_min = match column.physical_type() {
        Type::BOOLEAN => 1,
        // Of a text its length.
        Type::INT32 | Type::FLOAT | Type::BYTE_ARRAY => 32,
        Type::INT64 | Type::DOUBLE => 64,
        Type::INT96 => 96,
        Type::FIXED_LEN_BYTE_ARRAY => 8 * u64::try_from(column.type_length()).unwrap_or(0).max(1),
    };
    let pages = CheckedPages { pages: group.get_column_page_reader(leaf)?, value_bits_min };
    Ok(get_column_reader(column, Box::new(pages)))
}

/// Pages, of which a dictionary holds at most as many values as have room in it.
struct CheckedPages {
    pages: Box<dyn PageReader>,
    value_bits_min: u64,
}

impl PageReader for CheckedPages {
    fn get_next_page(&mut self) -> Result<Option<Page>, ParquetError> {
        let page = self.pages.get_next_page()?;
        if let Some(Page::DictionaryPage { buf, num_values, .. }) = &page
            && u64::from(*num_values) * self.value_bits_min > 8 * buf.len() as u64
        {
            return Err(ParquetError::General(format!(
                "a dictionary of {} bytes cannot hold the {num_values} values that it claims",
                buf.len()
            )));
        }
        Ok(page)
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>, ParquetError> {
        self.pages.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<(), ParquetError> {
        self.pages.skip_next_page()
    }

    fn at_record_boundary(&mut self) -> Result<bool, ParquetError> {
        self.pages.at_record_boundary()
    }
}

impl Iterator for CheckedPages {
    type Item = Result<Page, ParquetError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use bytes::Bytes;
    use parquet::basic::Encoding;
    use parquet::column::reader::get_typed_column_reader;
    use parquet::data_type::{ByteArray, ByteArrayType};
    use parquet::file::properties::WriterProperties;
    use parquet::file::reader::{FileReader as _, SerializedFileReader};
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;
    use std::sync::Arc;

    struct OnePage(Option<Page>);

    impl PageReader for OnePage {
        fn get_next_page(&mut self) -> Result<Option<Page>, ParquetError> {
            Ok(self.0.take())
        }

        fn peek_next_page(&mut self) -> Result<Option<PageMetadata>, ParquetError> {
            Ok(None)
        }

        fn skip_next_page(&mut self) -> Result<(), ParquetError> {
            self.0 = None;
            Ok(())
        }
    }

    impl Iterator for OnePage {
        type Item = Result<Page, ParquetError>;

        fn next(&mut self) -> Option<Self::Item> {
            self.get_next_page().transpose()
        }
    }

    fn dictionary(bytes: usize, num_values: u32) -> Page {
        let buf = Bytes::from(vec![0; bytes]);
        Page::DictionaryPage { buf, num_values, encoding: Encoding::PLAIN, is_sorted: false }
    }

    #[test]
    fn a_dictionary_holds_at_most_what_has_room_in_it() {
        for (value_bits_min, bytes, most) in [(32, 40, 10), (64, 40, 5), (1, 2, 16), (32, 3, 0), (32, 0, 0)] {
            let read = |num_values| {
                let pages = Box::new(OnePage(Some(dictionary(bytes, num_values))));
                CheckedPages { pages, value_bits_min }.get_next_page()
            };
            assert!(read(most).unwrap().is_some());
            for claimed in [most + 1, u32::MAX] {
                let said = read(claimed).unwrap_err().to_string();
                assert!(said.contains(&format!("{bytes} bytes cannot hold the {claimed} values")), "{said}");
            }
        }
    }

    #[test]
    fn a_panic_of_the_decoder_is_an_error() {
        let said = guarded(|| -> Result<(), _> { panic!("index out of bounds") }).unwrap_err().to_string();
        assert!(said.contains("gave up on damaged bytes"), "{said}");
        assert_eq!(guarded(|| Ok(3)).unwrap(), 3);
    }

    #[test]
    fn a_column_with_a_dictionary_is_read() {
        let schema = Arc::new(parse_message_type("message m { required binary name (STRING); }").unwrap());
        let names: Vec<ByteArray> = (0..1000).map(|n| format!("{}", n % 7).into_bytes().into()).collect();
        let properties = Arc::new(WriterProperties::builder().set_dictionary_enabled(true).build());
        let mut file = SerializedFileWriter::new(Vec::new(), schema, properties).unwrap();
        let mut group = file.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&names, None, None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
        let file = SerializedFileReader::new(Bytes::from(file.into_inner().unwrap())).unwrap();
        let group = file.get_row_group(0).unwrap();
        let mut reader = get_typed_column_reader::<ByteArrayType>(column_reader(&*group, 0).unwrap());
        let mut read = Vec::new();
        reader.read_records(2000, None, None, &mut read).unwrap();
        assert_eq!(read, names);
    }
}
