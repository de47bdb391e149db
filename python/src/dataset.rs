//! The published dataset, read back.

use std::sync::Arc;

use anabranch_batch::BatchError;
use anabranch_batch::dataset::{self, Interaction};
use anabranch_batch::etl::stages::Binary;
use anabranch_batch::train::rows::{end_ms, titles};
use anabranch_stores::lake::ObjectStore;
use numpy::PyArray1;
use pyo3::prelude::*;

use crate::arrays::array;
use crate::columns::{BinaryOut, binary_of, binary_out};
use crate::errors::{Raise, input};
use crate::lake::Lake;
use crate::training::ItemIndex;

/// Events as columns; texts that are absent have a 0 among the flags.
pub(crate) type EventArrays<'py> = (
    [(BinaryOut<'py>, Bound<'py, PyArray1<u8>>); 2],
    [BinaryOut<'py>; 3],
    (Bound<'py, PyArray1<f32>>, Bound<'py, PyArray1<u8>>),
    Bound<'py, PyArray1<i64>>,
);

/// Events, column by column.
#[derive(Debug, Default)]
pub(crate) struct Events {
    /// Users and sessions, and whether they are there.
    owners: [(Binary, Vec<u8>); 2],
    /// Items, types, event keys.
    texts: [Binary; 3],
    values: (Vec<f32>, Vec<u8>),
    times: Vec<i64>,
}

impl Events {
    pub(crate) fn push(&mut self, event: &Interaction) -> Result<(), BatchError> {
        for ((column, present), text) in self.owners.iter_mut().zip([&event.user, &event.session]) {
            present.push(u8::from(text.is_some()));
            column.push(|out| out.extend_from_slice(text.as_deref().unwrap_or_default().as_bytes()))?;
        }
        let key = event.event.to_string();
        for (column, text) in self.texts.iter_mut().zip([&event.item, &event.event_type, &key]) {
            column.push(|out| out.extend_from_slice(text.as_bytes()))?;
        }
        self.values.0.push(event.value.unwrap_or(0.0));
        self.values.1.push(u8::from(event.value.is_some()));
        self.times.push(event.time_ms);
        Ok(())
    }

    pub(crate) fn len(&self) -> usize {
        self.times.len()
    }

    pub(crate) fn out(self, py: Python<'_>) -> EventArrays<'_> {
        let owners = self.owners.map(|(column, present)| (binary_out(py, column), array(py, present)));
        let texts = self.texts.map(|column| binary_out(py, column));
        (owners, texts, (array(py, self.values.0), array(py, self.values.1)), array(py, self.times))
    }
}

/// Rows of a batch that is handed over.
const BATCH_ROWS: usize = 64 << 10;
/// Bytes of histories that are handed over together.
const BATCH_BYTES: usize = 8 << 20;

/// The newest dataset of a lake.
#[pyclass(frozen, module = "anabranch._core")]
#[derive(Debug)]
pub(crate) struct Dataset {
    store: Arc<dyn ObjectStore>,
    manifest: dataset::Published,
}

impl Dataset {
    pub(crate) fn open(&self) -> dataset::Dataset<'_> {
        self.manifest.open(&*self.store)
    }
}

#[pymethods]
impl Dataset {
    #[new]
    fn new(py: Python<'_>, lake: &Lake) -> PyResult<Self> {
        let store = Arc::clone(lake.store());
        let manifest =
            py.detach(|| dataset::Dataset::current(&*store).map(dataset::Dataset::into_published)).raise()?;
        Ok(Self { store, manifest })
    }

    #[getter]
    fn number(&self) -> u64 {
        self.open().number()
    }

    /// The report, as JSON.
    fn report(&self) -> PyResult<String> {
        serde_json::to_string(self.open().report()).map_err(input)
    }

    fn files(&self, kind: &str) -> PyResult<Vec<String>> {
        let kinds = ["interactions", "catalog", "users", "histories", "quarantine"];
        if !kinds.contains(&kind) {
            return Err(input(format!("kind {kind:?}: choose one of {}", kinds.join(", "))));
        }
        Ok(self.open().paths(kind).into_iter().map(str::to_owned).collect())
    }

    #[getter]
    fn days(&self) -> Vec<String> {
        self.open().days()
    }

    /// Batches of the interactions of one file.
    fn interactions<'py>(&self, py: Python<'py>, file: &str) -> PyResult<Vec<EventArrays<'py>>> {
        let batches = py.detach(|| {
            let mut batches = vec![Events::default()];
            for event in self.open().interactions_of(file)? {
                if batches.last().is_some_and(|batch| batch.len() == BATCH_ROWS) {
                    batches.push(Events::default());
                }
                if let Some(batch) = batches.last_mut() {
                    batch.push(&event?)?;
                }
            }
            Ok::<_, BatchError>(batches)
        });
        Ok(batches.raise()?.into_iter().map(|batch| batch.out(py)).collect())
    }

    /// Batches of (keys, histories) of one file.
    fn histories<'py>(&self, py: Python<'py>, file: &str) -> PyResult<Vec<(BinaryOut<'py>, BinaryOut<'py>)>> {
        let batches = py.detach(|| {
            let mut batches = vec![(Binary::default(), Binary::default())];
            for entry in self.open().histories_of(file)? {
                let (key, history) = entry?;
                if batches.last().is_some_and(|(_, held)| held.bytes.len() >= BATCH_BYTES) {
                    batches.push((Binary::default(), Binary::default()));
                }
                if let Some((keys, histories)) = batches.last_mut() {
                    keys.push(|out| out.extend(key.to_bytes()))?;
                    histories.push(|out| out.extend(history))?;
                }
            }
            Ok::<_, BatchError>(batches)
        });
        let batches = batches.raise()?.into_iter();
        Ok(batches.map(|(keys, histories)| (binary_out(py, keys), binary_out(py, histories))).collect())
    }

    /// The quarantine, a JSON text a line.
    fn quarantine(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        let lines = py.detach(|| self.open().quarantine()).raise()?;
        lines.iter().map(|line| serde_json::to_string(line).map_err(input)).collect()
    }

    /// Distinct items of the interactions of one file, or of all, ascending.
    #[pyo3(signature = (file=None))]
    fn item_ids<'py>(&self, py: Python<'py>, file: Option<&str>) -> PyResult<BinaryOut<'py>> {
        let ids = py.detach(|| {
            let dataset = self.open();
            let events = match file {
                Some(file) => dataset.interactions_of(file)?,
                None => dataset.interactions(None),
            };
            let mut ids = std::collections::BTreeSet::new();
            for event in events {
                ids.insert(event?.item);
            }
            Ok::<_, BatchError>(ids)
        });
        Ok(binary_out(py, binary_of(ids.raise()?.iter().map(String::as_bytes))?))
    }

    fn bots(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        let mut bots: Vec<String> = py.detach(|| self.open().bots()).raise()?.into_iter().collect();
        bots.sort_unstable();
        Ok(bots)
    }

    fn titles(&self, py: Python<'_>, index: &ItemIndex) -> PyResult<Vec<(String, String)>> {
        py.detach(|| titles(&self.open(), index.index())).raise()
    }

    #[getter]
    fn end_ms(&self) -> PyResult<i64> {
        end_ms(&self.open()).raise()
    }
}
