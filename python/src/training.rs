//! Training: rows by stages or at once, a snapshot from its parts, and the local trainer whole.

use std::path::PathBuf;
use std::sync::Arc;

use anabranch_batch::dataset::Dataset;
use anabranch_batch::etl::stages::{Binary, BinaryRef};
use anabranch_batch::train::backtest::{self as table, BacktestRequest};
use anabranch_batch::train::rows::from_histories;
use anabranch_batch::train::stages::{self, RoutedHistory};
use anabranch_batch::train::{BacktestRow, TrainError, TrainRequest};
use anabranch_events::codec;
use anabranch_events::ids::check_id;
use anabranch_models::Neighbours;
use anabranch_models::learn::{self, Parts, Provenance};
use anabranch_stores::registry::ModelRegistry;
use numpy::{PyArray1, PyArray2, PyReadonlyArray1, PyReadonlyArray2};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::PyBytes;

use crate::arrays::{array, array2, matrix, slice};
use crate::columns::{BinaryIn, BinaryOut, binary, binary_of, binary_out};
use crate::compose;
use crate::errors::{Raise, input};
use crate::lake::Lake;
use crate::settings::Settings;
use crate::threads::compute;
use crate::vectors::VectorDatabase;

/// The items of a model.
#[pyclass(frozen, module = "anabranch._core")]
#[derive(Debug)]
pub(crate) struct ItemIndex {
    index: Arc<learn::ItemIndex>,
}

impl ItemIndex {
    pub(crate) fn index(&self) -> &learn::ItemIndex {
        &self.index
    }

    fn of(py: Python<'_>, ids: Vec<String>) -> PyResult<Self> {
        if let Some(id) = ids.iter().find(|id| check_id(id).is_err()) {
            return Err(input(format!(
                "item id {:?}: an id has 1 to 256 bytes",
                id.chars().take(40).collect::<String>()
            )));
        }
        Ok(Self { index: Arc::new(py.detach(|| learn::ItemIndex::new(ids)).raise()?) })
    }
}

#[pymethods]
impl ItemIndex {
    #[new]
    fn new(py: Python<'_>, ids: Vec<PyBackedStr>) -> PyResult<Self> {
        Self::of(py, ids.iter().map(ToString::to_string).collect())
    }

    /// What `columns` gave.
    #[staticmethod]
    fn of_columns(py: Python<'_>, columns: BinaryIn<'_>) -> PyResult<Self> {
        let ids = binary("id", &columns)?;
        let ids = ids.iter().map(|id| std::str::from_utf8(id).map(str::to_owned));
        Self::of(py, ids.collect::<Result<_, _>>().map_err(|_| input("an item id is not UTF-8"))?)
    }

    fn __len__(&self) -> usize {
        self.index.len()
    }

    #[getter]
    fn ids(&self) -> Vec<&str> {
        self.index.ids().iter().map(String::as_str).collect()
    }

    fn columns<'py>(&self, py: Python<'py>) -> PyResult<BinaryOut<'py>> {
        let ids = py.detach(|| binary_of(self.index.ids().iter().map(String::as_bytes)))?;
        Ok(binary_out(py, ids))
    }

    fn retain(&self, py: Python<'_>, is_used: PyReadonlyArray1<'_, bool>) -> PyResult<Self> {
        let is_used = slice("is_used", &is_used)?;
        if is_used.len() != self.index.len() {
            return Err(input(format!("{} marks for {} items", is_used.len(), self.index.len())));
        }
        let kept = self.index.ids().iter().zip(is_used).filter(|(_, used)| **used).map(|(id, _)| id.clone()).collect();
        Ok(Self { index: Arc::new(py.detach(|| learn::ItemIndex::new(kept)).raise()?) })
    }
}

/// Under whose key each history counts.
#[pyfunction]
pub(crate) fn route_histories<'py>(
    py: Python<'py>,
    keys: BinaryIn<'py>,
    histories: BinaryIn<'py>,
    settings: &str,
) -> PyResult<BinaryOut<'py>> {
    let types = Settings::parse(settings)?.types()?;
    let (keys, histories) = (binary("key", &keys)?, binary("history", &histories)?);
    equal_length(&[keys, histories])?;
    let routed = py.detach(|| {
        let mut routed = Binary::default();
        for (key, history) in keys.iter().zip(histories.iter()) {
            let key = stages::route(key, history, &types).raise()?;
            routed.push(|out| out.extend(key)).raise()?;
        }
        PyResult::Ok(routed)
    })?;
    Ok(binary_out(py, routed))
}

fn equal_length(columns: &[BinaryRef<'_>]) -> PyResult<()> {
    if columns.iter().all(|column| column.len() == columns[0].len()) {
        Ok(())
    } else {
        Err(input("the columns differ in length"))
    }
}

/// Histories of one key, as they come in: ascending keys, those of one key together, in any batches.
#[derive(Debug, Default)]
struct Groups {
    key: Vec<u8>,
    held: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Groups {
    fn push(
        &mut self,
        [keys, sources, histories]: [BinaryRef<'_>; 3],
        mut each: impl FnMut(&[u8], &[RoutedHistory<'_>]) -> PyResult<()>,
    ) -> PyResult<()> {
        for at in 0..keys.len() {
            let key = keys.get(at);
            if key != self.key {
                if key < self.key.as_slice() {
                    return Err(input("keys must ascend: sort each partition by (key, source)"));
                }
                self.close(&mut each)?;
                self.key = key.to_vec();
            }
            self.held.push((sources.get(at).to_vec(), histories.get(at).to_vec()));
        }
        Ok(())
    }

    fn close(&mut self, each: &mut impl FnMut(&[u8], &[RoutedHistory<'_>]) -> PyResult<()>) -> PyResult<()> {
        if self.held.is_empty() {
            return Ok(());
        }
        let routed: Vec<RoutedHistory<'_>> =
            self.held.iter().map(|(source, history)| RoutedHistory { source, history }).collect();
        each(&self.key, &routed)?;
        self.held.clear();
        Ok(())
    }
}

/// Keys, offsets of rows, items, weights.
type RowColumns<'py> =
    (BinaryOut<'py>, Bound<'py, PyArray1<i32>>, Bound<'py, PyArray1<u32>>, Bound<'py, PyArray1<f32>>);

#[derive(Debug)]
struct RowsMade {
    keys: Binary,
    offsets: Vec<i32>,
    items: Vec<u32>,
    weights: Vec<f32>,
}

impl RowsMade {
    fn new() -> Self {
        Self { keys: Binary::default(), offsets: vec![0], items: Vec::new(), weights: Vec::new() }
    }

    fn push(&mut self, key: &[u8], row: Vec<(u32, f32)>) -> PyResult<()> {
        self.keys.push(|out| out.extend_from_slice(key)).raise()?;
        let (items, weights): (Vec<u32>, Vec<f32>) = row.into_iter().unzip();
        self.items.extend(items);
        self.weights.extend(weights);
        let end = i32::try_from(self.items.len());
        self.offsets.push(end.map_err(|_| input("rows of more than 2^31 entries: give histories in smaller batches"))?);
        Ok(())
    }

    fn out(self, py: Python<'_>) -> RowColumns<'_> {
        (binary_out(py, self.keys), array(py, self.offsets), array(py, self.items), array(py, self.weights))
    }
}

/// Routed histories to training rows.
#[pyclass(module = "anabranch._core")]
#[derive(Debug)]
pub(crate) struct RowMaker {
    maker: stages::RowMaker,
    groups: Groups,
}

#[pymethods]
impl RowMaker {
    #[new]
    fn new(index: &ItemIndex, settings: &str, as_of_ms: i64, bots: Vec<String>) -> PyResult<Self> {
        let settings = Settings::parse(settings)?;
        let types = settings.types()?;
        let maker =
            stages::RowMaker::new(Arc::clone(&index.index), types, settings.model.trend, as_of_ms, bots).raise()?;
        Ok(Self { maker, groups: Groups::default() })
    }

    fn push<'py>(
        &mut self,
        py: Python<'py>,
        keys: BinaryIn<'py>,
        sources: BinaryIn<'py>,
        histories: BinaryIn<'py>,
    ) -> PyResult<RowColumns<'py>> {
        let columns = [binary("key", &keys)?, binary("source", &sources)?, binary("history", &histories)?];
        equal_length(&columns)?;
        let Self { maker, groups } = self;
        let made = py.detach(|| {
            let mut made = RowsMade::new();
            groups.push(columns, |key, routed| {
                maker.row(key, routed).raise()?.map_or(Ok(()), |row| made.push(key, row))
            })?;
            PyResult::Ok(made)
        })?;
        Ok(made.out(py))
    }

    fn finish<'py>(&mut self, py: Python<'py>) -> PyResult<RowColumns<'py>> {
        let Self { maker, groups } = self;
        let made = py.detach(|| {
            let mut made = RowsMade::new();
            groups
                .close(&mut |key, routed| maker.row(key, routed).raise()?.map_or(Ok(()), |row| made.push(key, row)))?;
            groups.key.clear();
            PyResult::Ok(made)
        })?;
        Ok(made.out(py))
    }

    /// 16 bytes that name all rows so far, in whatever order and by however many makers they were made.
    #[getter]
    fn digest<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.maker.digest().to_le_bytes())
    }

    #[getter]
    fn demand<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<u64>>> {
        let counts = self.maker.demand().counts();
        array2(py, counts.iter().flatten().copied().collect(), counts.len(), 2)
    }

    #[getter]
    fn newest_ms(&self) -> Option<i64> {
        self.maker.newest_ms()
    }
}

/// Effective histories of whole groups: keys and histories of the keys that have one. The columns hold every history of
/// each key.
#[pyfunction]
pub(crate) fn join_histories<'py>(
    py: Python<'py>,
    keys: BinaryIn<'py>,
    sources: BinaryIn<'py>,
    histories: BinaryIn<'py>,
    settings: &str,
) -> PyResult<(BinaryOut<'py>, BinaryOut<'py>)> {
    let types = Settings::parse(settings)?.types()?;
    let columns = [binary("key", &keys)?, binary("source", &sources)?, binary("history", &histories)?];
    equal_length(&columns)?;
    let (keys, joined) = py.detach(|| {
        let (mut keys, mut joined) = (Binary::default(), Binary::default());
        let mut each = |key: &[u8], routed: &[RoutedHistory<'_>]| {
            if let Some(history) = stages::join_histories(key, routed, &types).raise()? {
                keys.push(|out| out.extend_from_slice(key)).raise()?;
                joined.push(|out| out.extend(codec::encode(&history, &types))).raise()?;
            }
            PyResult::Ok(())
        };
        let mut groups = Groups::default();
        groups.push(columns, &mut each)?;
        groups.close(&mut each)?;
        PyResult::Ok((keys, joined))
    })?;
    Ok((binary_out(py, keys), binary_out(py, joined)))
}

/// Keys, items, offsets, indices, data, trend, newest time.
type TrainingArrays<'py> = (
    Vec<Bound<'py, PyBytes>>,
    ItemIndex,
    Bound<'py, PyArray1<u64>>,
    Bound<'py, PyArray1<u32>>,
    Bound<'py, PyArray1<f32>>,
    Bound<'py, PyArray1<f32>>,
    i64,
);

/// The training rows of a dataset that fits into memory.
#[pyfunction]
pub(crate) fn training_rows<'py>(py: Python<'py>, lake: &Lake, settings: &str) -> PyResult<TrainingArrays<'py>> {
    let settings = Settings::parse(settings)?;
    let types = settings.types()?;
    let (rows, offsets, items, weights, trend) = py
        .detach(|| {
            let rows = from_histories(&Dataset::current(&**lake.store())?, &types, settings.model.trend)?;
            let (mut offsets, mut items, mut weights) = (vec![0_u64], Vec::new(), Vec::new());
            for row in rows.matrix.rows() {
                items.extend_from_slice(row.items);
                weights.extend_from_slice(row.weights);
                offsets.push(items.len() as u64);
            }
            let trend = rows.demand.trend();
            Ok::<_, TrainError>((rows, offsets, items, weights, trend))
        })
        .raise()?;
    Ok((
        rows.keys.iter().map(|key| PyBytes::new(py, &key.to_bytes())).collect(),
        ItemIndex { index: Arc::new(rows.index) },
        array(py, offsets),
        array(py, items),
        array(py, weights),
        array(py, trend),
        rows.newest_ms,
    ))
}

/// The parts of a snapshot: factors, Gramian, neighbours (offsets, items, similarities), popularity, trend.
type PartArrays<'py> = (
    PyReadonlyArray2<'py, f32>,
    PyReadonlyArray1<'py, f64>,
    (PyReadonlyArray1<'py, u64>, PyReadonlyArray1<'py, u32>, PyReadonlyArray1<'py, f32>),
    PyReadonlyArray1<'py, f32>,
    PyReadonlyArray1<'py, f32>,
);

/// A snapshot's bytes. `counts` are users and interactions.
#[pyfunction]
#[allow(clippy::too_many_arguments)] // one call of the Python half, which names them
pub(crate) fn write_snapshot<'py>(
    py: Python<'py>,
    index: &ItemIndex,
    settings: &str,
    parts: PartArrays<'py>,
    counts: (u64, u64),
    as_of_ms: i64,
    titles: Vec<(PyBackedStr, PyBackedStr)>,
    metrics: &str,
) -> PyResult<Bound<'py, PyBytes>> {
    let settings = Settings::parse(settings)?;
    let metrics = serde_json::from_str(metrics).map_err(|error| input(format!("metrics: {error}")))?;
    let (factors, gramian, (offsets, items, scores), popularity, trend) = &parts;
    let factors = matrix("item_factors", factors)?;
    if !titles.is_empty() && titles.len() != index.index.len() {
        return Err(input(format!("{} titles for {} items", titles.len(), index.index.len())));
    }
    if factors.dim != settings.model.ials.dim {
        return Err(input(format!(
            "factors of {} dimensions, the settings say {}",
            factors.dim, settings.model.ials.dim
        )));
    }
    let neighbours = Neighbours {
        offsets: slice("neighbours", offsets)?.to_vec(),
        items: slice("neighbours", items)?.to_vec(),
        scores: slice("neighbours", scores)?.to_vec(),
    };
    let parts = Parts {
        item_factors: factors.values,
        item_gramian: slice("item_gramian", gramian)?,
        neighbours: &neighbours,
        popularity: slice("popularity", popularity)?,
        trend: slice("trend", trend)?,
        user_count: counts.0,
        interaction_count: counts.1,
    };
    let titles: Vec<(&str, &str)> = titles.iter().map(|(title, category)| (&**title, &**category)).collect();
    let provenance = Provenance { events: &settings.events, as_of_ms, demand: None, titles: &titles, metrics };
    let bytes = py.detach(|| learn::snapshot(&index.index, &settings.model, &provenance, &parts)).raise()?;
    Ok(PyBytes::new(py, &bytes))
}

/// The local trainer, whole; what it made, as JSON. `callback` is told (phase, done, of how many).
#[pyfunction]
#[pyo3(signature = (lake, settings, wanted, vectors, scratch, callback))]
pub(crate) fn train(
    py: Python<'_>,
    lake: &Lake,
    settings: &str,
    wanted: (bool, bool),
    vectors: Option<&VectorDatabase>,
    scratch: Option<PathBuf>,
    callback: Option<Py<PyAny>>,
) -> PyResult<String> {
    let settings = Settings::parse(settings)?;
    let (evaluate, promote) = wanted;
    let store = lake.store();
    let registry = ModelRegistry::new(store.clone());
    let scratch = compose::scratch(scratch);
    let refused = std::sync::Mutex::new(None);
    let outcome = compute(py, || {
        let clock = compose::stopwatch();
        anabranch_batch::train::train(&TrainRequest {
            lake: &**store,
            registry: &registry,
            embeddings: vectors.map(VectorDatabase::target),
            events: &settings.events,
            model: &settings.model,
            training: &settings.training,
            evaluate,
            promote,
            scratch: &scratch,
            kernels: compose::kernels(),
            now_ms: compose::now_ms(),
            clock_s: &clock,
            progress: &|progress| {
                let mut refused = refused.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                if let (Some(callback), None) = (&callback, &*refused) {
                    let told = (progress.phase, progress.done, progress.total);
                    *refused = Python::attach(|py| callback.call1(py, told).err());
                }
            },
        })
    })?
    .raise()?;
    match refused.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        Some(error) => Err(error),
        None => serde_json::to_string(&outcome).map_err(input),
    }
}

/// The back-test's table, as JSON.
#[pyfunction]
pub(crate) fn backtest(py: Python<'_>, lake: &Lake, settings: &str) -> PyResult<String> {
    let settings = Settings::parse(settings)?;
    let rows = compute(py, || {
        table::run(&BacktestRequest {
            dataset: &Dataset::current(&**lake.store())?,
            events: &settings.events,
            quotas: &[None],
            model: &settings.model,
            training: &settings.training,
            kernels: compose::kernels(),
            progress: &|_| {},
        })
    })?
    .raise()?;
    serde_json::to_string(&rows).map_err(input)
}

/// The figures of a back-test's table by name, JSON to JSON.
#[pyfunction]
pub(crate) fn backtest_metrics(table: &str) -> PyResult<String> {
    let rows: Vec<BacktestRow> =
        serde_json::from_str(table).map_err(|error| input(format!("the back-test's table: {error}")))?;
    serde_json::to_string(&table::metrics(&rows)).map_err(input)
}
