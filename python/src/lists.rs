//! Lists straight from factors or neighbours, without a snapshot: what the classes with `implicit`'s names answer with.

use anabranch_kernels as kernels;
use anabranch_kernels::{BlockedFactors, K_MAX, Norms, Query, Scan, ScanBuffers, Scored, TopK};
use anabranch_models::{Neighbours, SparseRows};
use numpy::{PyArray2, PyReadonlyArray1, PyReadonlyArray2};
use pyo3::prelude::*;
use rayon::prelude::*;

use crate::arrays::{Csr, array2, matrix, rows, slice};
use crate::compose;
use crate::errors::{Raise, input};
use crate::threads::compute;

/// Indices and scores, each `[lists × n]`; -1 and NaN where a list is shorter.
pub(crate) type ListArrays<'py> = (Bound<'py, PyArray2<i32>>, Bound<'py, PyArray2<f32>>);

pub(crate) fn list_arrays<'py>(py: Python<'py>, lists: &[Vec<Scored>], n: usize) -> PyResult<ListArrays<'py>> {
    let (mut ids, mut scores) = (vec![-1_i32; lists.len() * n], vec![f32::NAN; lists.len() * n]);
    for (at, list) in lists.iter().enumerate() {
        for (place, scored) in list.iter().take(n).enumerate() {
            ids[at * n + place] = scored.item() as i32;
            scores[at * n + place] = scored.score();
        }
    }
    Ok((array2(py, ids, lists.len(), n)?, array2(py, scores, lists.len(), n)?))
}

pub(crate) fn check_length(n: usize) -> PyResult<()> {
    if n <= K_MAX { Ok(()) } else { Err(input(format!("N is {n}: at most {K_MAX} items are given"))) }
}

/// Which items may be listed for everyone: `None` of the start is "never".
fn starts_of(items: usize, padded: usize, filter: &[u32], allowed: Option<&[u32]>) -> PyResult<Vec<f32>> {
    let check = |item: &&u32| **item as usize >= items;
    if let Some(item) = filter.iter().chain(allowed.unwrap_or_default()).find(check) {
        return Err(input(format!("item {item} is not below {items}")));
    }
    let mut starts = vec![if allowed.is_some() { f32::NAN } else { 0.0 }; padded];
    for item in allowed.unwrap_or_default() {
        starts[*item as usize] = 0.0;
    }
    for item in filter {
        starts[*item as usize] = f32::NAN;
    }
    Ok(starts)
}

/// Ranks the rows of one matrix for the rows of another by their inner product.
#[pyclass(frozen, module = "anabranch._core")]
#[derive(Debug)]
pub(crate) struct Ranker {
    factors: BlockedFactors,
    norms: Norms,
}

impl Ranker {
    pub(crate) fn of(rows: &[f32], count: usize, dim: usize) -> PyResult<Self> {
        let factors = BlockedFactors::from_rows(rows, count, dim).raise()?;
        if let Some(row) = factors.view().first_not_finite() {
            return Err(input(format!("row {row} of the factors holds a value that is not finite")));
        }
        let norms = Norms::of(factors.view());
        Ok(Self { factors, norms })
    }

    /// The lists of these users; `exclude` has the items of each that must not be listed.
    pub(crate) fn lists(
        &self,
        users: &[f32],
        exclude: Option<SparseRows<'_>>,
        base: &[f32],
        n: usize,
    ) -> Result<Vec<Vec<Scored>>, kernels::ScoreError> {
        let view = self.factors.view();
        let items = kernels::Items { factors: view, rows: None, norms: &self.norms, scale: None };
        let dim = view.dim();
        let lists: Result<Vec<Vec<Vec<Scored>>>, kernels::ScoreError> = users
            .par_chunks(Scan::USERS_MAX * dim)
            .enumerate()
            .map_init(
                || (ScanBuffers::default(), base.to_vec()),
                |(buffers, starts), (chunk, users)| {
                    let mut scan = compose::kernels().scan(items, buffers)?;
                    for (place, user) in users.chunks_exact(dim).enumerate() {
                        let hidden = exclude.map_or(&[][..], |rows| rows.row(chunk * Scan::USERS_MAX + place).items);
                        for item in hidden {
                            starts[*item as usize] = f32::NAN;
                        }
                        let added = scan.add(Query { user, starts, k: n });
                        for item in hidden {
                            starts[*item as usize] = base[*item as usize];
                        }
                        added?;
                    }
                    Ok(scan.lists())
                },
            )
            .collect();
        Ok(lists?.into_iter().flatten().collect())
    }

    pub(crate) fn padded(&self) -> usize {
        self.factors.view().padded_items()
    }
}

#[pymethods]
impl Ranker {
    #[new]
    fn new(py: Python<'_>, factors: PyReadonlyArray2<'_, f32>) -> PyResult<Self> {
        let factors = matrix("factors", &factors)?;
        py.detach(|| Self::of(factors.values, factors.rows, factors.dim))
    }

    /// Lists for the rows of `users`; `exclude` has one row for each of them.
    #[pyo3(signature = (users, exclude, filter, allowed, n))]
    fn rank<'py>(
        &self,
        py: Python<'py>,
        users: PyReadonlyArray2<'py, f32>,
        exclude: Option<Csr<'py>>,
        filter: PyReadonlyArray1<'py, u32>,
        allowed: Option<PyReadonlyArray1<'py, u32>>,
        n: usize,
    ) -> PyResult<ListArrays<'py>> {
        check_length(n)?;
        let users = matrix("users", &users)?;
        let view = self.factors.view();
        if users.dim != view.dim() {
            return Err(input(format!("the users have {} factors, the items {}", users.dim, view.dim())));
        }
        let exclude = exclude.as_ref().map(|csr| rows(csr, view.items())).transpose()?;
        if let Some(exclude) = exclude.filter(|rows| rows.len() != users.rows) {
            return Err(input(format!("{} rows of items for {} users", exclude.len(), users.rows)));
        }
        let allowed = allowed.as_ref().map(|items| slice("items", items)).transpose()?;
        let base = starts_of(view.items(), view.padded_items(), slice("filter_items", &filter)?, allowed)?;
        let lists = compute(py, || self.lists(users.values, exclude, &base, n))?.raise()?;
        list_arrays(py, &lists, n)
    }
}

/// Ranks items for rows by the similarity of their items.
#[pyclass(frozen, module = "anabranch._core")]
#[derive(Debug)]
pub(crate) struct NeighbourRanker {
    neighbours: Neighbours,
}

#[pymethods]
impl NeighbourRanker {
    #[new]
    fn new(
        offsets: PyReadonlyArray1<'_, u64>,
        items: PyReadonlyArray1<'_, u32>,
        scores: PyReadonlyArray1<'_, f32>,
    ) -> PyResult<Self> {
        let (offsets, items, scores) =
            (slice("offsets", &offsets)?, slice("items", &items)?, slice("scores", &scores)?);
        let count = offsets.len().saturating_sub(1);
        let is_bounded = offsets.first() == Some(&0)
            && offsets.last() == Some(&(items.len() as u64))
            && offsets.is_sorted()
            && items.len() == scores.len()
            && items.iter().all(|item| (*item as usize) < count);
        if !is_bounded {
            return Err(input("offsets, items and scores of neighbours do not fit each other"));
        }
        let neighbours = Neighbours { offsets: offsets.to_vec(), items: items.to_vec(), scores: scores.to_vec() };
        Ok(Self { neighbours })
    }

    /// Lists for rows: an item's score is `Σ data × similarity`.
    #[pyo3(signature = (csr, hide_liked, filter, allowed, n))]
    fn rank<'py>(
        &self,
        py: Python<'py>,
        csr: Csr<'py>,
        hide_liked: bool,
        filter: PyReadonlyArray1<'py, u32>,
        allowed: Option<PyReadonlyArray1<'py, u32>>,
        n: usize,
    ) -> PyResult<ListArrays<'py>> {
        check_length(n)?;
        let items = self.neighbours.offsets.len() - 1;
        let rows = rows(&csr, items)?;
        let allowed = allowed.as_ref().map(|items| slice("items", items)).transpose()?;
        let base = starts_of(items, items, slice("filter_items", &filter)?, allowed)?;
        let lists: Vec<Vec<Scored>> = compute(py, || {
            (0..rows.len())
                .into_par_iter()
                .map_init(
                    || base.clone(),
                    |sums, row| {
                        let row = rows.row(row);
                        let mut touched = Vec::new();
                        for (item, weight) in row.entries() {
                            let (neighbours, scores) = self.neighbours.of(item as usize);
                            for (neighbour, score) in neighbours.iter().zip(scores) {
                                touched.push(*neighbour);
                                sums[*neighbour as usize] += weight * score;
                            }
                        }
                        if hide_liked {
                            row.items.iter().for_each(|item| sums[*item as usize] = f32::NAN);
                        }
                        touched.sort_unstable();
                        touched.dedup();
                        let mut best = TopK::new(n);
                        for item in &touched {
                            best.offer(*item, sums[*item as usize]);
                        }
                        touched.iter().chain(row.items).for_each(|item| sums[*item as usize] = base[*item as usize]);
                        best.into_sorted()
                    },
                )
                .collect()
        })?;
        list_arrays(py, &lists, n)
    }
}
