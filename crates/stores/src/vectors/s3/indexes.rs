//! The indexes of a collection: which there are, and how they come and go.

use std::collections::HashMap;
use std::sync::{Arc, MutexGuard, PoisonError};

use super::api::{ApiError, ApiErrorKind, CreateIndex};
use super::names::{dot_index, dot_prefix, main_index, parse};
use super::record::NON_FILTERABLE;
use super::store::S3Vectors;
use crate::ErrorKind;
use crate::vectors::{Collection, VectorError};

/// What a collection is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shape {
    /// Its index.
    pub(super) main: String,
    pub(super) dim: usize,
    /// Whether a filtered query answers with all that there is, up to `top_k`.
    pub(super) filters_first: bool,
    /// Bounds of its indexes of inner products, ascending.
    pub(super) dots: Vec<i32>,
}

impl S3Vectors {
    /// What the collection is now; `None` if it is not there.
    pub(super) fn load(&self, collection: Collection<'_>) -> Result<Option<Arc<Shape>>, VectorError> {
        let Some(main) = main_index(collection) else { return Ok(None) };
        self.forget(&main);
        let info = self.patience.run(ApiError::is_passing, || self.api.get_index(&main));
        let info = match info {
            Err(ApiError { kind: ApiErrorKind::NotFound, .. }) => return Ok(None),
            other => other.map_err(|error| self.failed("look at an index of", error))?,
        };
        let dots = self.dots(&main)?;
        let filters_first = info.index_mode.as_deref() == Some("ENHANCED");
        let shape = Arc::new(Shape { main: main.clone(), dim: info.dimension, filters_first, dots });
        // A rebuild that goes on is not remembered: its end would not be noticed.
        if shape.dots.len() <= 1 {
            self.known().insert(main, Arc::clone(&shape));
        }
        Ok(Some(shape))
    }

    pub(super) fn cached(&self, collection: Collection<'_>) -> Option<Arc<Shape>> {
        main_index(collection).and_then(|main| self.known().get(&main).cloned())
    }

    pub(super) fn forget(&self, main: &str) {
        self.known().remove(main);
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Arc<Shape>>> {
        // Every critical section is one call of the map, so a poisoned lock holds valid data.
        self.shapes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bounds of the indexes of inner products beside `main`, ascending.
    pub(super) fn dots(&self, main: &str) -> Result<Vec<i32>, VectorError> {
        let names = self.list(&dot_prefix(main))?;
        let bound =
            |name: &String| parse(name).and_then(|parsed| parsed.dot).filter(|dot| dot_index(main, *dot) == *name);
        let mut dots: Vec<i32> = names.iter().filter_map(bound).collect();
        dots.sort_unstable();
        Ok(dots)
    }

    /// Names of all indexes that begin with `prefix`, whether the service keeps to it or not.
    pub(super) fn list(&self, prefix: &str) -> Result<Vec<String>, VectorError> {
        let (mut names, mut next) = (Vec::new(), None);
        loop {
            let page = in_bucket(self.call("list indexes of", |api| api.list_indexes(prefix, next.as_deref())))?;
            names.extend(page.entries.into_iter().filter(|name| name.starts_with(prefix)));
            next = page.next;
            if next.is_none() {
                return Ok(names);
            }
        }
    }

    /// Makes the collection. Its main index comes last, since with it the collection exists; indexes of inner products
    /// that a making that was cut off left behind go first.
    pub(super) fn make(
        &self,
        collection: Collection<'_>,
        main: String,
        dim: usize,
        needed: i32,
    ) -> Result<Shape, VectorError> {
        for left in self.dots(&main)? {
            self.remove_index(&dot_index(&main, left))?;
        }
        let mut dots = Vec::new();
        if self.options.inner_product.iter().any(|name| name == collection.name()) {
            self.make_index(&dot_index(&main, needed), dim + 1)?;
            dots.push(needed);
        }
        self.make_index(&main, dim)?;
        Ok(Shape { main, dim, filters_first: false, dots })
    }

    pub(super) fn make_index(&self, name: &str, dimension: usize) -> Result<(), VectorError> {
        let index = CreateIndex { name, dimension, non_filterable: &NON_FILTERABLE };
        match self.patience.run(ApiError::is_passing, || self.api.create_index(&index)) {
            Ok(()) => Ok(()),
            // Of this call, whose answer was lost, or of another writer; either is what was wanted if it has that form.
            Err(error) if error.kind == ApiErrorKind::Conflict => {
                let found = self.patience.run(ApiError::is_passing, || self.api.get_index(name));
                let fits = found.is_ok_and(|found| found.dimension == dimension && found.distance_metric == "cosine");
                if fits { Ok(()) } else { Err(self.failed("make an index in", error)) }
            }
            Err(error) => in_bucket(Err(self.failed("make an index in", error))),
        }
    }

    /// Removes an index that may be gone already.
    pub(super) fn remove_index(&self, name: &str) -> Result<(), VectorError> {
        match self.patience.run(ApiError::is_passing, || self.api.delete_index(name)) {
            Ok(()) | Err(ApiError { kind: ApiErrorKind::NotFound, .. }) => Ok(()),
            Err(error) => Err(self.failed("remove an index of", error)),
        }
    }
}

/// A bucket that is not there is a wrong setting, whatever was asked of it.
fn in_bucket<R>(result: Result<R, VectorError>) -> Result<R, VectorError> {
    result.map_err(|error| match error {
        VectorError::Service { action, place, detail, kind: ErrorKind::NotFound } => {
            let detail = format!("the vector bucket does not exist; create it or correct its name ({detail})");
            VectorError::Service { action, place, detail, kind: ErrorKind::FixInput }
        }
        other => other,
    })
}
