//! Factors: the local trainer and its pieces, for engines that spread them.

use anabranch_kernels as kernels;
use anabranch_models::ials::{self, BlockedHalfStep, FoldIn, IalsSettings};
use anabranch_models::{Demand, Interactions, NeighboursSettings, TrendSettings, popularity_of};
use numpy::{PyArray1, PyArray2, PyArray3, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2, PyReadwriteArray2};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;

use crate::arrays::{Csr, Matrix, array, array2, matrix, rows, slice};
use crate::compose;
use crate::errors::{Raise, input};
use crate::settings;
use crate::threads::compute;

/// Where factors start: `[ids × dim]`.
#[pyfunction]
pub(crate) fn initial_factors<'py>(
    py: Python<'py>,
    ids: Vec<PyBackedStr>,
    ials: &str,
) -> PyResult<Bound<'py, PyArray2<f32>>> {
    let settings = settings::ials(ials)?;
    let count = ids.len();
    let factors = compute(py, || {
        let ids: Vec<&[u8]> = ids.iter().map(|id| id.as_bytes()).collect();
        ials::initial_factors(&settings, &ids)
    })?;
    array2(py, factors, count, settings.dim)
}

/// `Σ f fᵀ`, `[dim × dim]`.
#[pyfunction]
pub(crate) fn gramian<'py>(
    py: Python<'py>,
    factors: PyReadonlyArray2<'py, f32>,
) -> PyResult<Bound<'py, PyArray2<f64>>> {
    let Matrix { values, dim, .. } = matrix("factors", &factors)?;
    let sum = compute(py, || kernels::gramian(compose::kernels(), values, dim))?.raise()?;
    array2(py, sum, dim, dim)
}

/// The sum of each block of 1,024 rows, `[blocks × dim × dim]`.
#[pyfunction]
pub(crate) fn gramian_blocks<'py>(
    py: Python<'py>,
    factors: PyReadonlyArray2<'py, f32>,
) -> PyResult<Bound<'py, PyArray3<f64>>> {
    let Matrix { values, dim, .. } = matrix("factors", &factors)?;
    let blocks = compute(py, || kernels::gramian_blocks(compose::kernels(), values, dim))?.raise()?;
    matrices(py, blocks, dim)
}

/// Sums of `per_sum` matrices each, in order: `values` is `[matrices × dim × dim]`, flat.
#[pyfunction]
pub(crate) fn gramian_sums<'py>(
    py: Python<'py>,
    values: PyReadonlyArray1<'py, f64>,
    dim: usize,
    per_sum: usize,
) -> PyResult<Bound<'py, PyArray3<f64>>> {
    let values = slice("matrices", &values)?;
    let sums = py.detach(|| kernels::gramian_sums(values, dim, per_sum)).raise()?;
    matrices(py, sums, dim)
}

fn matrices(py: Python<'_>, values: Vec<f64>, dim: usize) -> PyResult<Bound<'_, PyArray3<f64>>> {
    let count = values.len() / (dim * dim);
    PyArray1::from_vec(py, values).reshape([count, dim, dim])
}

fn fold_in(settings: &IalsSettings, gramian: &[f64], count: usize) -> PyResult<FoldIn> {
    FoldIn::new(settings, gramian, count).raise()
}

/// The factors of rows against `factors`, into `out` or a new array.
#[pyfunction]
#[pyo3(signature = (csr, factors, gramian, ials, count, out=None))]
pub(crate) fn half_step<'py>(
    py: Python<'py>,
    csr: Csr<'py>,
    factors: PyReadonlyArray2<'py, f32>,
    gramian: PyReadonlyArray1<'py, f64>,
    ials: &str,
    count: usize,
    out: Option<PyReadwriteArray2<'py, f32>>,
) -> PyResult<Option<Bound<'py, PyArray2<f32>>>> {
    let settings = settings::ials(ials)?;
    let fixed = matrix("factors", &factors)?;
    if fixed.dim != settings.dim {
        return Err(input(format!("factors have {} dimensions, the settings {}", fixed.dim, settings.dim)));
    }
    let rows = rows(&csr, fixed.rows)?;
    let fold_in = fold_in(&settings, slice("gramian", &gramian)?, count)?;
    let solve = |out: &mut [f32]| ials::half_step(compose::kernels(), &fold_in, rows, fixed.values, out);
    if let Some(mut out) = out {
        let out = out.as_slice_mut().map_err(|_| input("out: the array is not row by row"))?;
        compute(py, || solve(out))?.raise()?;
        return Ok(None);
    }
    let mut values = vec![0.0; rows.len() * settings.dim];
    compute(py, || solve(&mut values))?.raise()?;
    array2(py, values, rows.len(), settings.dim).map(Some)
}

/// A half-step over ascending blocks of the other side.
#[pyclass(module = "anabranch._core")]
#[derive(Debug)]
pub(crate) struct HalfStep {
    step: BlockedHalfStep,
    rows: usize,
    dim: usize,
}

#[pymethods]
impl HalfStep {
    #[new]
    fn new(
        entry_counts: PyReadonlyArray1<'_, u64>,
        gramian: PyReadonlyArray1<'_, f64>,
        ials: &str,
        count: usize,
    ) -> PyResult<Self> {
        let settings = settings::ials(ials)?;
        let announced = slice("entry_counts", &entry_counts)?.to_vec();
        let rows = announced.len();
        let fold_in = fold_in(&settings, slice("gramian", &gramian)?, count)?;
        let step = BlockedHalfStep::new(compose::kernels(), fold_in, announced).raise()?;
        Ok(Self { step, rows, dim: settings.dim })
    }

    fn add<'py>(&mut self, py: Python<'py>, csr: Csr<'py>, factors: PyReadonlyArray2<'py, f32>) -> PyResult<()> {
        let block = matrix("factors", &factors)?;
        let rows = rows(&csr, block.rows)?;
        let step = &mut self.step;
        compute(py, || step.add(rows, block.values))?.raise()
    }

    fn finish<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let values = compute(py, || self.step.finish())?.raise()?;
        array2(py, values, self.rows, self.dim)
    }
}

/// Factors of users and items and the Gramian of the latter.
type Trained<'py> = (Bound<'py, PyArray2<f32>>, Bound<'py, PyArray2<f32>>, Bound<'py, PyArray2<f64>>);

/// The local trainer. `callback` is told (half-steps done, of how many).
#[pyfunction]
#[pyo3(signature = (csr, item_ids, ials, callback=None))]
pub(crate) fn train_ials<'py>(
    py: Python<'py>,
    csr: Csr<'py>,
    item_ids: Vec<PyBackedStr>,
    ials: &str,
    callback: Option<Py<PyAny>>,
) -> PyResult<Trained<'py>> {
    let settings = settings::ials(ials)?;
    let matrix = owned(&csr, item_ids.len())?;
    let mut refused = None;
    let model = compute(py, || {
        let ids: Vec<&[u8]> = item_ids.iter().map(|id| id.as_bytes()).collect();
        ials::train(compose::kernels(), &matrix, &ids, &settings, |progress| {
            if let (Some(callback), None) = (&callback, &refused) {
                refused = Python::attach(|py| callback.call1(py, (progress.done, progress.total)).err());
            }
        })
    })?
    .raise()?;
    if let Some(error) = refused {
        return Err(error);
    }
    Ok((
        array2(py, model.user_factors, matrix.users(), settings.dim)?,
        array2(py, model.item_factors, matrix.items(), settings.dim)?,
        array2(py, model.item_gramian, settings.dim, settings.dim)?,
    ))
}

/// Rows of one's own.
pub(crate) fn owned(csr: &Csr<'_>, item_count: usize) -> PyResult<Interactions> {
    let (offsets, items, weights) = csr;
    let offsets = slice("indptr", offsets)?.to_vec();
    let (items, weights) = (slice("indices", items)?.to_vec(), slice("data", weights)?.to_vec());
    Interactions::new(item_count, offsets, items, weights).raise()
}

/// Summed weight of each item, from the weights of item rows.
#[pyfunction]
pub(crate) fn popularity<'py>(
    py: Python<'py>,
    indptr: PyReadonlyArray1<'py, u64>,
    data: PyReadonlyArray1<'py, f32>,
) -> PyResult<Bound<'py, PyArray1<f32>>> {
    let (offsets, weights) = (slice("indptr", &indptr)?, slice("data", &data)?);
    if !offsets.is_sorted() || offsets.last().is_none_or(|end| *end > weights.len() as u64) {
        return Err(input("indptr: offsets must ascend to the number of data, one for each row and one more"));
    }
    let sums = py.detach(|| {
        offsets.array_windows().map(|[from, to]| popularity_of(&weights[*from as usize..*to as usize])).collect()
    });
    Ok(array(py, sums))
}

/// Offsets, neighbours, similarities.
pub(crate) type NeighbourArrays<'py> =
    (Bound<'py, PyArray1<u64>>, Bound<'py, PyArray1<u32>>, Bound<'py, PyArray1<f32>>);

/// The neighbours of every item.
#[pyfunction]
pub(crate) fn neighbours<'py>(
    py: Python<'py>,
    csr: Csr<'py>,
    item_count: usize,
    settings: &str,
) -> PyResult<NeighbourArrays<'py>> {
    let settings: NeighboursSettings =
        serde_json::from_str(settings).map_err(|error| input(format!("settings [model.neighbours]: {error}")))?;
    let matrix = owned(&csr, item_count)?;
    let found = compute(py, || anabranch_models::neighbours(&matrix, &settings))?.raise()?;
    Ok((array(py, found.offsets), array(py, found.items), array(py, found.scores)))
}

/// The trend of each item from `demand` (`[items × 2]`).
#[pyfunction]
pub(crate) fn trend<'py>(
    py: Python<'py>,
    demand: PyReadonlyArray2<'py, u64>,
    settings: &str,
) -> PyResult<Bound<'py, PyArray1<f32>>> {
    let settings: TrendSettings =
        serde_json::from_str(settings).map_err(|error| input(format!("settings [model.trend]: {error}")))?;
    let counts = demand.as_array();
    if counts.ncols() != 2 {
        return Err(input(format!("demand: {} columns, two are needed", counts.ncols())));
    }
    let counts = counts.rows().into_iter().map(|row| [row[0], row[1]]).collect();
    // The end of the data ages interactions when they are counted; here all are.
    let demand = Demand::from_counts(counts, 0, settings).raise()?;
    Ok(array(py, py.detach(|| demand.trend())))
}
