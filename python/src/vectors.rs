//! The vector database. Metadata and filters cross the border as JSON.

use std::path::PathBuf;

use anabranch_batch::train::EmbeddingTarget;
use anabranch_stores::vectors::{
    Access, Collection, Filter, Metadata, Metric, Search, VectorPlaces, VectorRecord, VectorSettings, VectorStore,
};
use numpy::{PyArray1, PyReadonlyArray1, PyReadonlyArray2};
use pyo3::prelude::*;

use crate::arrays::{array, matrix, slice};
use crate::compose;
use crate::errors::{Raise, input};

/// A vector database.
#[pyclass(frozen, module = "anabranch._core")]
#[derive(Debug)]
pub(crate) struct VectorDatabase {
    store: Box<dyn VectorStore>,
    users: bool,
}

impl VectorDatabase {
    /// Where training puts embeddings.
    pub(crate) fn target(&self) -> EmbeddingTarget<'_> {
        EmbeddingTarget { store: &*self.store, users: self.users }
    }
}

/// Id, vector, metadata.
type Found<'py> = (String, Bound<'py, PyArray1<f32>>, String);

fn of((name, version): &(String, String)) -> PyResult<Collection<'_>> {
    Collection::new(name, version).raise()
}

fn metadata_text(metadata: &Metadata) -> PyResult<String> {
    serde_json::to_string(metadata).map_err(input)
}

#[pymethods]
impl VectorDatabase {
    /// Of the table `[vectors]` as JSON; `folder` is that of an embedded one.
    #[new]
    #[pyo3(signature = (settings, folder=None, read_only=false))]
    fn new(py: Python<'_>, settings: &str, folder: Option<PathBuf>, read_only: bool) -> PyResult<Self> {
        let settings: VectorSettings =
            serde_json::from_str(settings).map_err(|error| input(format!("settings [vectors]: {error}")))?;
        let access = if read_only { Access::ReadOnly } else { Access::ReadWrite };
        let store = py.detach(|| {
            settings.open(&VectorPlaces {
                folder: folder.as_deref(),
                access,
                seed: compose::seed(),
                variable: &compose::variable,
            })
        });
        Ok(Self { store: store.raise()?, users: settings.users })
    }

    /// Whether users' embeddings belong here, too.
    #[getter]
    fn users(&self) -> bool {
        self.users
    }

    /// Adds or replaces records, all or nothing where the database can.
    fn upsert(
        &self,
        py: Python<'_>,
        collection: (String, String),
        ids: Vec<String>,
        vectors: PyReadonlyArray2<'_, f32>,
        metadata: Option<Vec<String>>,
    ) -> PyResult<()> {
        let rows = matrix("vectors", &vectors)?;
        let texts = metadata.unwrap_or_else(|| vec!["{}".to_owned(); ids.len()]);
        if ids.len() != rows.rows || texts.len() != rows.rows {
            return Err(input(format!(
                "{} ids, {} vectors and {} metadata: give as many of each",
                ids.len(),
                rows.rows,
                texts.len()
            )));
        }
        py.detach(|| {
            let collection = of(&collection)?;
            let records = ids
                .into_iter()
                .zip(rows.values.chunks(rows.dim.max(1)))
                .zip(&texts)
                .map(|((id, vector), text)| {
                    let metadata = serde_json::from_str(text)
                        .map_err(|error| input(format!("metadata of {id:?}: {error}; it is a JSON object")))?;
                    Ok(VectorRecord { id, vector: vector.to_vec(), metadata })
                })
                .collect::<PyResult<Vec<_>>>()?;
            self.store.upsert(collection, &records).raise()
        })
    }

    fn delete(&self, py: Python<'_>, collection: (String, String), ids: Vec<String>) -> PyResult<u64> {
        py.detach(|| {
            let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
            self.store.delete(of(&collection)?, &ids).raise()
        })
    }

    fn get<'py>(
        &self,
        py: Python<'py>,
        collection: (String, String),
        id: &str,
    ) -> PyResult<Option<(Bound<'py, PyArray1<f32>>, String)>> {
        let found = py.detach(|| self.store.get(of(&collection)?, id).raise())?;
        found.map(|record| Ok((array(py, record.vector), metadata_text(&record.metadata)?))).transpose()
    }

    /// (ids, scores) of the nearest, best first.
    #[pyo3(signature = (collection, query, k, metric, filter=None))]
    fn search<'py>(
        &self,
        py: Python<'py>,
        collection: (String, String),
        query: PyReadonlyArray1<'_, f32>,
        k: usize,
        metric: &str,
        filter: Option<&str>,
    ) -> PyResult<(Vec<String>, Bound<'py, PyArray1<f32>>)> {
        let metric = match metric {
            "cosine" => Metric::Cosine,
            "dot" => Metric::Dot,
            other => return Err(input(format!("metric {other:?}: cosine or dot"))),
        };
        let filter: Option<Filter> = filter
            .map(serde_json::from_str)
            .transpose()
            .map_err(|error| input(format!("filter: {error}; see the description of VectorDatabase.search")))?;
        let query = slice("query", &query)?;
        let hits = py.detach(|| {
            let search = Search { query, k, metric, filter: filter.as_ref() };
            self.store.search(of(&collection)?, &search).raise()
        })?;
        let (ids, scores) = hits.into_iter().map(|hit| (hit.id, hit.score)).unzip();
        Ok((ids, array(py, scores)))
    }

    /// All records in ascending order of ids.
    fn scan<'py>(&self, py: Python<'py>, collection: (String, String)) -> PyResult<Vec<Found<'py>>> {
        let records = py.detach(|| {
            let mut records = Vec::new();
            self.store.scan(of(&collection)?, &mut |record| records.push(record)).raise().map(|()| records)
        })?;
        records
            .into_iter()
            .map(|record| {
                let text = metadata_text(&record.metadata)?;
                Ok((record.id, array(py, record.vector), text))
            })
            .collect()
    }

    fn count(&self, py: Python<'_>, collection: (String, String)) -> PyResult<u64> {
        py.detach(|| self.store.count(of(&collection)?).raise())
    }

    fn versions(&self, py: Python<'_>, name: &str) -> PyResult<Vec<String>> {
        py.detach(|| self.store.versions(name).raise())
    }

    fn drop_version(&self, py: Python<'_>, collection: (String, String)) -> PyResult<bool> {
        py.detach(|| self.store.drop_version(of(&collection)?).raise())
    }
}
