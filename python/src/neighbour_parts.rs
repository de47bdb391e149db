//! Item neighbours in parts, for engines that hold the matrix in parts.

use anabranch_models::{Neighbourhood, NeighboursSettings, UserRows, cap_rows, item_squares, user_scales};
use numpy::{PyArray1, PyReadonlyArray1};
use pyo3::prelude::*;

use crate::arrays::{Csr, array, rows, slice};
use crate::errors::{Raise, input};
use crate::ials::NeighbourArrays;
use crate::threads::compute;

fn parse(settings: &str) -> PyResult<NeighboursSettings> {
    serde_json::from_str(settings).map_err(|error| input(format!("settings [model.neighbours]: {error}")))
}

/// Capped rows and the scale of each.
type CappedArrays<'py> =
    (Bound<'py, PyArray1<u64>>, Bound<'py, PyArray1<u32>>, Bound<'py, PyArray1<f32>>, Bound<'py, PyArray1<f32>>);

/// Rows of users, capped, with their scales.
#[pyfunction]
pub(crate) fn neighbour_rows<'py>(
    py: Python<'py>,
    csr: Csr<'py>,
    item_count: usize,
    settings: &str,
) -> PyResult<CappedArrays<'py>> {
    let settings = parse(settings)?;
    let rows = rows(&csr, item_count)?;
    let capped = compute(py, || cap_rows(rows, settings.row_cap))?.raise()?;
    let scales = user_scales(capped.view(), &settings).raise()?;
    let (offsets, items, weights) = capped.into_parts();
    Ok((array(py, offsets), array(py, items), array(py, weights), array(py, scales)))
}

/// The norm of each of these items from its capped users.
#[pyfunction]
pub(crate) fn neighbour_squares<'py>(
    py: Python<'py>,
    csr: Csr<'py>,
    scales: PyReadonlyArray1<'py, f32>,
) -> PyResult<Bound<'py, PyArray1<f64>>> {
    let scales = slice("scales", &scales)?;
    let rows = rows(&csr, scales.len())?;
    Ok(array(py, compute(py, || item_squares(rows, scales))?.raise()?))
}

/// The neighbours of the items from `first` on, whose capped users are `csr`.
#[pyfunction]
pub(crate) fn neighbours_of<'py>(
    py: Python<'py>,
    first: usize,
    csr: Csr<'py>,
    all: Csr<'py>,
    scales: PyReadonlyArray1<'py, f32>,
    squares: PyReadonlyArray1<'py, f64>,
    settings: &str,
) -> PyResult<NeighbourArrays<'py>> {
    let settings = parse(settings)?;
    let scales = slice("scales", &scales)?;
    let by_item = rows(&csr, scales.len())?;
    let (offsets, items, weights) = &all;
    let users = UserRows {
        offsets: slice("indptr", offsets)?,
        items: slice("indices", items)?,
        weights: slice("data", weights)?,
    };
    let whole = Neighbourhood::new(users, scales, slice("squares", &squares)?, settings).raise()?;
    let found = compute(py, || whole.lists(first, by_item))?.raise()?;
    Ok((array(py, found.offsets), array(py, found.items), array(py, found.scores)))
}
