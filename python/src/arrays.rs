//! numpy arrays in, read where they lie, and out, without a copy. The package's Python half has brought them into the
//! types and layouts named here.

use anabranch_models::SparseRows;
use numpy::{Element, PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2, PyUntypedArrayMethods};
use pyo3::prelude::*;

use crate::errors::{Raise, input};

/// Compressed rows: offsets, indices, values.
pub(crate) type Csr<'py> = (PyReadonlyArray1<'py, u64>, PyReadonlyArray1<'py, u32>, PyReadonlyArray1<'py, f32>);

/// A factor matrix `[rows × dim]`.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) rows: usize,
    pub(crate) dim: usize,
}

/// The values of a one-dimensional array.
pub(crate) fn slice<'a, T: Element>(what: &str, array: &'a PyReadonlyArray1<'_, T>) -> PyResult<&'a [T]> {
    array.as_slice().map_err(|_| input(format!("{what}: the array is not contiguous; copy it first")))
}

/// The values of a two-dimensional array, row by row.
pub(crate) fn matrix<'a>(what: &str, array: &'a PyReadonlyArray2<'_, f32>) -> PyResult<Matrix<'a>> {
    let shape = array.dims();
    let (rows, dim) = (shape[0], shape[1]);
    if !array.is_c_contiguous() {
        return Err(input(format!("{what}: the array is not row by row; use numpy.ascontiguousarray")));
    }
    let values = array.as_slice().map_err(|_| input(format!("{what}: the array is not aligned; copy it first")))?;
    Ok(Matrix { values, rows, dim })
}

/// Checked rows.
pub(crate) fn rows<'a>(csr: &'a Csr<'_>, item_count: usize) -> PyResult<SparseRows<'a>> {
    let (offsets, items, weights) = csr;
    SparseRows::new(item_count, slice("indptr", offsets)?, slice("indices", items)?, slice("data", weights)?).raise()
}

/// An array of `values`.
pub(crate) fn array<T: Element>(py: Python<'_>, values: Vec<T>) -> Bound<'_, PyArray1<T>> {
    PyArray1::from_vec(py, values)
}

/// An array `[rows × dim]` of `values`.
pub(crate) fn array2<T: Element>(
    py: Python<'_>,
    values: Vec<T>,
    rows: usize,
    dim: usize,
) -> PyResult<Bound<'_, PyArray2<T>>> {
    PyArray1::from_vec(py, values).reshape([rows, dim])
}
