//! Binary columns and records across the border: numpy arrays of offsets and bytes, which the Python half wraps as Arrow
//! without a copy. So no Arrow library is compiled, and `deny.toml` keeps its word.

use anabranch_batch::etl::stages::{Binary, BinaryRef, Records, RecordsRef};
use numpy::{PyArray1, PyReadonlyArray1};
use pyo3::prelude::*;

use crate::arrays::{array, slice};
use crate::errors::Raise;

/// A binary column that comes in: offsets and bytes.
pub(crate) type BinaryIn<'py> = (PyReadonlyArray1<'py, i32>, PyReadonlyArray1<'py, u8>);
/// A binary column that goes out.
pub(crate) type BinaryOut<'py> = (Bound<'py, PyArray1<i32>>, Bound<'py, PyArray1<u8>>);
/// Records that come in: kinds, parts, keys, rows.
pub(crate) type RecordsIn<'py> = (PyReadonlyArray1<'py, i8>, PyReadonlyArray1<'py, i64>, BinaryIn<'py>, BinaryIn<'py>);
/// Records that go out.
pub(crate) type RecordsOut<'py> = (Bound<'py, PyArray1<i8>>, Bound<'py, PyArray1<i64>>, BinaryOut<'py>, BinaryOut<'py>);

pub(crate) fn binary<'a>(what: &str, column: &'a BinaryIn<'_>) -> PyResult<BinaryRef<'a>> {
    BinaryRef::new(slice(what, &column.0)?, slice(what, &column.1)?).raise()
}

pub(crate) fn records<'a>(columns: &'a RecordsIn<'_>) -> PyResult<RecordsRef<'a>> {
    let (kinds, parts, keys, rows) = columns;
    RecordsRef::new(slice("kind", kinds)?, slice("part", parts)?, binary("key", keys)?, binary("row", rows)?).raise()
}

pub(crate) fn binary_out(py: Python<'_>, column: Binary) -> BinaryOut<'_> {
    (array(py, column.offsets), array(py, column.bytes))
}

pub(crate) fn records_out(py: Python<'_>, records: Records) -> RecordsOut<'_> {
    let Records { kinds, parts, keys, rows } = records;
    (array(py, kinds), array(py, parts), binary_out(py, keys), binary_out(py, rows))
}

/// A binary column of these strings.
pub(crate) fn binary_of<'a>(strings: impl IntoIterator<Item = &'a [u8]>) -> PyResult<Binary> {
    let mut column = Binary::default();
    for string in strings {
        column.push(|out| out.extend_from_slice(string)).raise()?;
    }
    Ok(column)
}
