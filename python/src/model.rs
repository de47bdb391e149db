//! A snapshot ready to answer.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use anabranch_evaluation::{EvaluateOptions, ModelRanker, TestItems, evaluate};
use anabranch_events::{History, HistoryKey, codec};
use anabranch_models::{Hide, Query, Scored, Snapshot};
use numpy::{PyArray1, PyArray2, PyReadonlyArray1, PyReadonlyArray2};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use rayon::prelude::*;

use anabranch_batch::etl::stages::Binary;

use crate::arrays::{Csr, array, array2, matrix, rows, slice};
use crate::columns::{BinaryIn, BinaryOut, binary, binary_out};
use crate::compose;
use crate::errors::{Raise, corrupt, input};
use crate::ials::owned;
use crate::lists::{ListArrays, Ranker, check_length, list_arrays};
use crate::threads::compute;

/// Lists that are made together: bounds what is held besides the answer.
const LISTS_PER_BATCH: usize = 4096;

/// Offsets, indices, values.
type RowArrays<'py> = (Bound<'py, PyArray1<u64>>, Bound<'py, PyArray1<u32>>, Bound<'py, PyArray1<f32>>);
/// Neighbours and similarities.
type NeighbourArrays<'py> = (Bound<'py, PyArray1<u32>>, Bound<'py, PyArray1<f32>>);
/// Users, ranks, items, scores.
type BulkArrays<'py> = (BinaryOut<'py>, Bound<'py, PyArray1<i64>>, BinaryOut<'py>, Bound<'py, PyArray1<f64>>);

/// What a list is asked for with: a row, and items to hide.
type Question = (Vec<(u32, f32)>, Vec<u32>);

/// A snapshot with its compiled event settings.
#[pyclass(frozen, module = "anabranch._core")]
#[derive(Debug)]
pub(crate) struct Model {
    model: anabranch_models::Model,
    /// Item factors of length one, made when similar items are first asked for.
    unit: OnceLock<Ranker>,
}

impl Model {
    fn of(snapshot: Snapshot, version: Option<String>) -> PyResult<Self> {
        let version = version.unwrap_or_else(|| snapshot.meta().version.clone());
        let model = anabranch_models::Model::new(Arc::new(snapshot), &version, compose::kernels()).map_err(input)?;
        Ok(Self { model, unit: OnceLock::new() })
    }

    fn snapshot(&self) -> &Snapshot {
        self.model.snapshot()
    }

    fn factors(&self) -> Vec<f32> {
        let (view, dim) = (self.snapshot().item_factors(), self.snapshot().dim());
        let mut out = vec![0.0; self.snapshot().item_count() * dim];
        out.par_chunks_exact_mut(dim).enumerate().for_each(|(item, row)| view.copy_row(item, row));
        out
    }

    fn decode(&self, position: usize, bytes: &[u8]) -> PyResult<History> {
        codec::decode(bytes, self.model.types()).map_err(|error| corrupt(format!("history {position}: {error}")))
    }

    fn unit(&self, py: Python<'_>) -> PyResult<&Ranker> {
        if let Some(ranker) = self.unit.get() {
            return Ok(ranker);
        }
        let (items, dim) = (self.snapshot().item_count(), self.snapshot().dim());
        let ranker = compute(py, || {
            let mut rows = self.factors();
            rows.par_chunks_exact_mut(dim).for_each(normalise);
            Ranker::of(&rows, items, dim)
        })??;
        Ok(self.unit.get_or_init(|| ranker))
    }

    fn answer(&self, questions: &[Question], n: usize) -> PyResult<Vec<Vec<Scored>>> {
        let queries: Vec<Query<'_>> =
            questions.iter().map(|(row, hidden)| Query { row, exclude: hidden, k: n }).collect();
        let lists = self.model.recommender().recommend_parallel(&queries);
        lists
            .into_iter()
            .enumerate()
            .map(|(at, list)| list.map_err(|error| input(format!("row {at}: {error}"))))
            .collect()
    }
}

fn normalise(row: &mut [f32]) {
    let norm = row.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
    if norm > 0.0 {
        for x in row {
            *x = (f64::from(*x) / norm) as f32;
        }
    }
}

pub(crate) fn hide(name: &str) -> PyResult<Hide> {
    match name {
        "nothing" => Ok(Hide::Nothing),
        "seen" => Ok(Hide::Seen),
        "everything" => Ok(Hide::Everything),
        other => Err(input(format!("hide={other:?}: choose nothing, seen or everything"))),
    }
}

#[pymethods]
impl Model {
    #[staticmethod]
    #[pyo3(signature = (path, version=None))]
    fn open(py: Python<'_>, path: PathBuf, version: Option<String>) -> PyResult<Self> {
        py.detach(|| {
            if !path.is_file() {
                let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
                return Err(crate::errors::io("open the snapshot", &path, &missing));
            }
            let snapshot = Snapshot::open(&path).map_err(|error| corrupt(format!("{}: {error}", path.display())))?;
            Self::of(snapshot, version)
        })
    }

    #[staticmethod]
    #[pyo3(signature = (data, version=None))]
    fn from_bytes(py: Python<'_>, data: &[u8], version: Option<String>) -> PyResult<Self> {
        py.detach(|| {
            let snapshot = Snapshot::from_bytes(data).map_err(|error| corrupt(format!("the snapshot: {error}")))?;
            Self::of(snapshot, version)
        })
    }

    #[getter]
    fn version(&self) -> &str {
        self.model.version()
    }

    /// The meta data, as JSON.
    fn meta(&self) -> PyResult<String> {
        serde_json::to_string(self.snapshot().meta()).map_err(input)
    }

    #[getter]
    fn dim(&self) -> usize {
        self.snapshot().dim()
    }

    #[getter]
    fn item_count(&self) -> usize {
        self.snapshot().item_count()
    }

    #[getter]
    fn item_ids(&self) -> Vec<&str> {
        (0..self.snapshot().item_count() as u32).map(|item| self.snapshot().item_id(item)).collect()
    }

    #[getter]
    fn item_factors<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let rows = compute(py, || self.factors())?;
        array2(py, rows, self.snapshot().item_count(), self.snapshot().dim())
    }

    #[getter]
    fn item_gramian<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<f64>>> {
        array2(py, self.snapshot().item_gramian().to_vec(), self.snapshot().dim(), self.snapshot().dim())
    }

    #[getter]
    fn popularity<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f32>> {
        array(py, self.snapshot().popularity().to_vec())
    }

    #[getter]
    fn trend<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f32>> {
        array(py, self.snapshot().trend().to_vec())
    }

    fn item_index(&self, item_id: &str) -> Option<u32> {
        self.snapshot().item_index(item_id)
    }

    fn neighbours<'py>(&self, py: Python<'py>, item: u32) -> PyResult<NeighbourArrays<'py>> {
        if item as usize >= self.snapshot().item_count() {
            return Err(input(format!("item {item} is not below {}", self.snapshot().item_count())));
        }
        let (items, scores) = self.snapshot().neighbours(item);
        Ok((array(py, items.to_vec()), array(py, scores.to_vec())))
    }

    /// The rows of histories.
    fn rows<'py>(&self, py: Python<'py>, histories: Vec<PyBackedBytes>) -> PyResult<RowArrays<'py>> {
        let rows = compute(py, || {
            let row = |(at, bytes): (usize, &PyBackedBytes)| Ok(self.model.row(&self.decode(at, bytes)?));
            histories.par_iter().enumerate().map(row).collect::<PyResult<Vec<_>>>()
        })??;
        let (mut offsets, mut items, mut weights) = (vec![0], Vec::new(), Vec::new());
        for (item, weight) in rows.into_iter().flat_map(|row| {
            offsets.push(offsets.last().copied().unwrap_or(0) + row.len() as u64);
            row
        }) {
            items.push(item);
            weights.push(weight);
        }
        Ok((array(py, offsets), array(py, items), array(py, weights)))
    }

    fn fold_in<'py>(&self, py: Python<'py>, csr: Csr<'py>) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let rows = rows(&csr, self.snapshot().item_count())?;
        let dim = self.snapshot().dim();
        let recommender = self.model.recommender();
        let factors = compute(py, || {
            let row = |row| rows.row(row).entries().collect::<Vec<_>>();
            (0..rows.len())
                .into_par_iter()
                .map_init(
                    || recommender.scratch(),
                    |scratch, at| {
                        recommender.user_factors(scratch, &row(at)).map_err(|error| input(format!("row {at}: {error}")))
                    },
                )
                .collect::<PyResult<Vec<_>>>()
        })??;
        array2(py, factors.concat(), rows.len(), dim)
    }

    #[pyo3(signature = (csr, n, hide_liked, filter))]
    fn recommend<'py>(
        &self,
        py: Python<'py>,
        csr: Csr<'py>,
        n: usize,
        hide_liked: bool,
        filter: PyReadonlyArray1<'py, u32>,
    ) -> PyResult<ListArrays<'py>> {
        check_length(n)?;
        let rows = rows(&csr, self.snapshot().item_count())?;
        let filter = slice("filter_items", &filter)?;
        let lists = compute(py, || {
            let mut lists = Vec::with_capacity(rows.len());
            for from in (0..rows.len()).step_by(LISTS_PER_BATCH) {
                let questions: Vec<Question> = (from..rows.len().min(from + LISTS_PER_BATCH))
                    .map(|row| {
                        let row = rows.row(row);
                        let liked = if hide_liked { row.items } else { &[] };
                        (row.entries().collect(), liked.iter().chain(filter).copied().collect())
                    })
                    .collect();
                lists.extend(self.answer(&questions, n)?);
            }
            PyResult::Ok(lists)
        })??;
        list_arrays(py, &lists, n)
    }

    #[pyo3(signature = (histories, n, hide))]
    fn recommend_histories<'py>(
        &self,
        py: Python<'py>,
        histories: Vec<PyBackedBytes>,
        n: usize,
        hide: &str,
    ) -> PyResult<ListArrays<'py>> {
        check_length(n)?;
        let hide = self::hide(hide)?;
        let lists = compute(py, || {
            let mut lists = Vec::with_capacity(histories.len());
            for (batch, histories) in histories.chunks(LISTS_PER_BATCH).enumerate() {
                let questions: Vec<Question> = histories
                    .par_iter()
                    .enumerate()
                    .map(|(at, bytes)| {
                        let history = self.decode(batch * LISTS_PER_BATCH + at, bytes)?;
                        Ok((self.model.row(&history), self.model.hidden(&history, hide)))
                    })
                    .collect::<PyResult<_>>()?;
                lists.extend(self.answer(&questions, n)?);
            }
            PyResult::Ok(lists)
        })??;
        list_arrays(py, &lists, n)
    }

    /// Items by the cosine of their factors, the item itself first.
    fn similar_items<'py>(
        &self,
        py: Python<'py>,
        items: PyReadonlyArray1<'py, u32>,
        n: usize,
    ) -> PyResult<ListArrays<'py>> {
        check_length(n)?;
        let items = slice("items", &items)?;
        let (count, dim) = (self.snapshot().item_count(), self.snapshot().dim());
        if let Some(item) = items.iter().find(|item| **item as usize >= count) {
            return Err(input(format!("item {item} is not below {count}")));
        }
        let unit = self.unit(py)?;
        let lists = compute(py, || {
            let mut users = vec![0.0; items.len() * dim];
            for (item, row) in items.iter().zip(users.chunks_exact_mut(dim)) {
                self.snapshot().item_factors().copy_row(*item as usize, row);
                normalise(row);
            }
            unit.lists(&users, None, &vec![0.0; unit.padded()], n)
        })?
        .raise()?;
        list_arrays(py, &lists, n)
    }

    /// Lists of users from columns of keys and effective histories; sessions are left out.
    #[pyo3(signature = (keys, histories, n, hide))]
    fn bulk_lists<'py>(
        &self,
        py: Python<'py>,
        keys: BinaryIn<'py>,
        histories: BinaryIn<'py>,
        n: usize,
        hide: &str,
    ) -> PyResult<BulkArrays<'py>> {
        check_length(n)?;
        let hide = self::hide(hide)?;
        let (keys, histories) = (binary("key", &keys)?, binary("history", &histories)?);
        if keys.len() != histories.len() {
            return Err(input(format!("{} keys for {} histories", keys.len(), histories.len())));
        }
        let (users, ranks, items, scores) = compute(py, || {
            let (mut users, mut items) = (Binary::default(), Binary::default());
            let (mut ranks, mut scores) = (Vec::new(), Vec::new());
            for from in (0..keys.len()).step_by(LISTS_PER_BATCH) {
                let batch = (from..keys.len().min(from + LISTS_PER_BATCH))
                    .into_par_iter()
                    .filter_map(|at| match HistoryKey::from_bytes(keys.get(at)) {
                        Some(HistoryKey::Session(_)) => None,
                        Some(HistoryKey::User(user)) => Some(
                            self.decode(at, histories.get(at))
                                .map(|history| (user, (self.model.row(&history), self.model.hidden(&history, hide)))),
                        ),
                        None => Some(Err(input(format!("key {at} is no key of a history: u or s, then the id")))),
                    })
                    .collect::<PyResult<Vec<_>>>()?;
                let (names, questions): (Vec<_>, Vec<Question>) = batch.into_iter().unzip();
                for (user, list) in names.iter().zip(self.answer(&questions, n)?) {
                    for (rank, scored) in (1..).zip(&list) {
                        users.push(|out| out.extend_from_slice(user.as_bytes())).raise()?;
                        let item = self.snapshot().item_id(scored.item());
                        items.push(|out| out.extend_from_slice(item.as_bytes())).raise()?;
                        ranks.push(rank);
                        scores.push(f64::from(scored.score()));
                    }
                }
            }
            PyResult::Ok((users, ranks, items, scores))
        })??;
        Ok((binary_out(py, users), array(py, ranks), binary_out(py, items), array(py, scores)))
    }

    /// The figures of this model's lists for `rows` against what came after, as JSON.
    #[pyo3(signature = (csr, test, unknown, seen, cutoff, hide_seen))]
    #[allow(clippy::too_many_arguments)] // one call of the Python half, which names them
    fn evaluate<'py>(
        &self,
        py: Python<'py>,
        csr: Csr<'py>,
        test: Csr<'py>,
        unknown: PyReadonlyArray1<'py, u64>,
        seen: Csr<'py>,
        cutoff: usize,
        hide_seen: bool,
    ) -> PyResult<String> {
        check_length(cutoff)?;
        let items = self.snapshot().item_count();
        let matrix = owned(&csr, items)?;
        let (test, seen, unknown) = (rows(&test, items)?, rows(&seen, items)?, slice("unknown", &unknown)?);
        if unknown.len() != test.len() {
            return Err(input(format!("{} counts of unknown items for {} test rows", unknown.len(), test.len())));
        }
        let seen: Vec<Vec<u32>> = (0..seen.len()).map(|row| seen.row(row).items.to_vec()).collect();
        let test: Vec<TestItems> = (0..test.len())
            .map(|row| TestItems { items: test.row(row).items.to_vec(), unknown_count: unknown[row] as usize })
            .collect();
        let ranker = ModelRanker(self.model.recommender());
        let options = EvaluateOptions { cutoff, hide_seen };
        let report = compute(py, || evaluate(&ranker, &matrix, &seen, &test, options))?.raise()?;
        serde_json::to_string(&report).map_err(input)
    }
}

/// Rows of factors of length one.
#[pyfunction]
pub(crate) fn unit_rows<'py>(
    py: Python<'py>,
    factors: PyReadonlyArray2<'py, f32>,
) -> PyResult<Bound<'py, PyArray2<f32>>> {
    let factors = matrix("factors", &factors)?;
    let rows = compute(py, || {
        let mut rows = factors.values.to_vec();
        rows.par_chunks_exact_mut(factors.dim.max(1)).for_each(normalise);
        rows
    })?;
    array2(py, rows, factors.rows, factors.dim)
}
