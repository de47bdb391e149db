//! The published models of a lake. Records cross the border as JSON.

use std::path::PathBuf;

use anabranch_stores::registry::ModelRegistry;
use pyo3::prelude::*;

use crate::compose;
use crate::errors::{NotFoundError, Raise, input, io};
use crate::lake::Lake;

/// The published models of a lake.
#[pyclass(frozen, module = "anabranch._core")]
#[derive(Debug)]
pub(crate) struct Registry {
    registry: ModelRegistry,
}

fn json(value: &impl serde::Serialize) -> PyResult<String> {
    serde_json::to_string(value).map_err(input)
}

#[pymethods]
impl Registry {
    #[new]
    fn new(lake: &Lake) -> Self {
        Self { registry: ModelRegistry::new(lake.store().clone()) }
    }

    fn publish_file(&self, py: Python<'_>, snapshot: PathBuf, metrics: &str) -> PyResult<String> {
        let metrics: serde_json::Value =
            serde_json::from_str(metrics).map_err(|error| input(format!("metrics: {error}")))?;
        let manifest = py.detach(|| self.registry.publish(&snapshot, &metrics, compose::now_ms())).raise()?;
        json(&manifest)
    }

    fn publish_bytes(&self, py: Python<'_>, snapshot: &[u8], metrics: &str) -> PyResult<String> {
        let file = py.detach(|| -> PyResult<_> {
            let failed = |error: &std::io::Error| io("write the snapshot to", &std::env::temp_dir(), error);
            let mut file = tempfile::NamedTempFile::new().map_err(|error| failed(&error))?;
            std::io::Write::write_all(&mut file, snapshot).map_err(|error| failed(&error))?;
            Ok(file)
        })?;
        self.publish_file(py, file.path().to_owned(), metrics)
    }

    fn promote(&self, py: Python<'_>, version: &str, reason: &str) -> PyResult<String> {
        json(&py.detach(|| self.registry.promote(version, reason, compose::now_ms())).raise()?)
    }

    fn rollback(&self, py: Python<'_>, reason: &str) -> PyResult<String> {
        json(&py.detach(|| self.registry.rollback(reason, compose::now_ms())).raise()?)
    }

    fn current(&self, py: Python<'_>) -> PyResult<Option<String>> {
        py.detach(|| self.registry.current()).raise()?.pointer.as_ref().map(json).transpose()
    }

    fn list(&self, py: Python<'_>) -> PyResult<String> {
        let entries = py.detach(|| self.registry.list()).raise()?;
        let all: Vec<serde_json::Value> = entries
            .into_iter()
            .map(|entry| {
                serde_json::json!({
                    "version": entry.manifest.version,
                    "sha256": entry.manifest.sha256,
                    "size": entry.manifest.size,
                    "published_at_ms": entry.manifest.published_at_ms,
                    "metrics": entry.metrics,
                    "promotions": entry.promotions,
                    "is_current": entry.is_current,
                })
            })
            .collect();
        json(&all)
    }

    /// The snapshot's file, and its version.
    #[pyo3(signature = (folder, version=None))]
    fn fetch(&self, py: Python<'_>, folder: PathBuf, version: Option<String>) -> PyResult<(PathBuf, String)> {
        py.detach(|| {
            let version = if let Some(version) = version {
                version
            } else {
                let none = || NotFoundError::new_err("no model is current; promote one first");
                self.registry.current().raise()?.pointer.ok_or_else(none)?.version.to_string()
            };
            let path = self.registry.local_snapshot(&version, &folder).raise()?;
            Ok((path, version))
        })
    }
}
