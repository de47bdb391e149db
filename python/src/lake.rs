//! The object store.

use std::path::PathBuf;
use std::sync::Arc;

use anabranch_stores::lake::{ObjectPath, ObjectStore, PutOutcome, StoreOptions, open_store};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::compose;
use crate::errors::{Raise, input, io};

/// A folder or `s3://bucket/prefix`, with the promises of the command's own object store: a write is whole or not at all,
/// and durable when the call returns. Picklable.
#[pyclass(frozen, module = "anabranch")]
#[derive(Debug)]
pub(crate) struct Lake {
    url: String,
    given: Given,
    options: StoreOptions,
    store: Arc<dyn ObjectStore>,
}

/// What goes before the environment.
#[derive(Clone, Default)]
struct Given {
    endpoint: Option<String>,
    region: Option<String>,
    access_key_id: Option<String>,
    secret_access_key: Option<String>,
    session_token: Option<String>,
}

impl std::fmt::Debug for Given {
    /// Secrets stay out of logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Given").field("endpoint", &self.endpoint).field("region", &self.region).finish_non_exhaustive()
    }
}

impl Given {
    fn options(&self) -> StoreOptions {
        let mut options = compose::store_options();
        let s3 = &mut options.s3;
        if self.endpoint.is_some() {
            s3.allow_http = self.endpoint.as_deref().is_some_and(|endpoint| endpoint.starts_with("http://"));
            s3.endpoint.clone_from(&self.endpoint);
        }
        if self.region.is_some() {
            s3.region.clone_from(&self.region);
        }
        if self.access_key_id.is_some() {
            // A key of the arguments and a token of the environment would be of two identities.
            s3.access_key_id.clone_from(&self.access_key_id);
            s3.secret_access_key.clone_from(&self.secret_access_key);
            s3.session_token.clone_from(&self.session_token);
        }
        options
    }
}

impl Lake {
    pub(crate) fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// How it is reached, for stores beside it.
    pub(crate) const fn options(&self) -> &StoreOptions {
        &self.options
    }
}

#[pymethods]
impl Lake {
    #[new]
    #[pyo3(signature = (url, *, endpoint=None, region=None, access_key_id=None, secret_access_key=None, session_token=None))]
    fn new(
        py: Python<'_>,
        url: PathBuf,
        endpoint: Option<String>,
        region: Option<String>,
        access_key_id: Option<String>,
        secret_access_key: Option<String>,
        session_token: Option<String>,
    ) -> PyResult<Self> {
        let url = url.into_os_string().into_string().map_err(|url| input(format!("{}: not UTF-8", url.display())))?;
        if access_key_id.is_some() != secret_access_key.is_some() {
            return Err(input("access_key_id and secret_access_key belong together: give both or none"));
        }
        let given = Given { endpoint, region, access_key_id, secret_access_key, session_token };
        let options = given.options();
        let store = py.detach(|| open_store(&url, &options)).raise()?;
        Ok(Self { url, given, options, store: Arc::from(store) })
    }

    #[getter]
    fn url(&self) -> &str {
        &self.url
    }

    fn __repr__(&self) -> String {
        format!("Lake({:?})", self.url)
    }

    fn __getnewargs_ex__<'py>(&self, py: Python<'py>) -> PyResult<((&str,), Bound<'py, PyDict>)> {
        let named = PyDict::new(py);
        named.set_item("endpoint", &self.given.endpoint)?;
        // The environment's too: an executor need not have it.
        named.set_item("region", &self.options.s3.region)?;
        named.set_item("access_key_id", &self.given.access_key_id)?;
        named.set_item("secret_access_key", &self.given.secret_access_key)?;
        named.set_item("session_token", &self.given.session_token)?;
        Ok(((self.url.as_str(),), named))
    }

    fn get<'py>(&self, py: Python<'py>, path: &str) -> PyResult<Bound<'py, PyBytes>> {
        let path = ObjectPath::new(path).raise()?;
        let bytes = py.detach(|| self.store.get(&path)).raise()?;
        Ok(PyBytes::new(py, &bytes))
    }

    fn put(&self, py: Python<'_>, path: &str, data: &[u8]) -> PyResult<()> {
        let path = ObjectPath::new(path).raise()?;
        py.detach(|| self.store.put(&path, data)).raise()
    }

    fn put_new(&self, py: Python<'_>, path: &str, data: &[u8]) -> PyResult<bool> {
        let path = ObjectPath::new(path).raise()?;
        Ok(py.detach(|| self.store.put_new(&path, data)).raise()? == PutOutcome::Created)
    }

    fn upload(&self, py: Python<'_>, path: &str, file: PathBuf) -> PyResult<u64> {
        let path = ObjectPath::new(path).raise()?;
        py.detach(|| self.store.put_file(&path, &file)).raise()
    }

    fn download(&self, py: Python<'_>, path: &str, file: PathBuf) -> PyResult<u64> {
        let path = ObjectPath::new(path).raise()?;
        py.detach(|| {
            let mut from = self.store.open(&path).raise()?;
            let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
            let folder = folder.map_or_else(|| PathBuf::from("."), PathBuf::from);
            std::fs::create_dir_all(&folder).map_err(|error| io("create", &folder, &error))?;
            let mut to =
                tempfile::NamedTempFile::new_in(&folder).map_err(|error| io("create a file in", &folder, &error))?;
            let bytes = std::io::copy(&mut from, &mut to).map_err(|error| io("copy the object to", &file, &error))?;
            to.persist(&file).map_err(|error| io("put in place", &file, &error.error))?;
            Ok(bytes)
        })
    }

    #[pyo3(signature = (folder=""))]
    fn list(&self, py: Python<'_>, folder: &str) -> PyResult<Vec<(String, u64, i64)>> {
        let objects = py.detach(|| self.store.list(folder)).raise()?;
        Ok(objects.into_iter().map(|meta| (meta.path.as_str().to_owned(), meta.size, meta.modified_ms)).collect())
    }

    fn exists(&self, py: Python<'_>, path: &str) -> PyResult<bool> {
        let path = ObjectPath::new(path).raise()?;
        py.detach(|| self.store.exists(&path)).raise()
    }

    fn delete(&self, py: Python<'_>, path: &str) -> PyResult<()> {
        let path = ObjectPath::new(path).raise()?;
        py.detach(|| self.store.delete(&path)).raise()
    }
}
