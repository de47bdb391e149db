//! Every error to one of six exceptions, by what the caller can do about it. Messages carry place and remedy already.

use anabranch_batch::BatchError;
use anabranch_batch::train::TrainError;
use anabranch_models::learn::LearnError;
use anabranch_stores::ErrorKind;
use anabranch_stores::lake::LakeError;
use anabranch_stores::registry::RegistryError;
use anabranch_stores::vectors::VectorError;
use pyo3::exceptions::{PyFileNotFoundError, PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::{PyErr, create_exception};

create_exception!(anabranch, InputError, PyValueError, "An argument, a setting or a file must be mended.");
create_exception!(anabranch, NotFoundError, PyFileNotFoundError, "What was asked for is not there.");
create_exception!(anabranch, RetryError, PyOSError, "Passing trouble: the same call may succeed later.");
create_exception!(anabranch, FullError, PyOSError, "No space is left: make room, then the same call succeeds.");
create_exception!(anabranch, CorruptError, PyValueError, "Stored bytes are not what was written.");
create_exception!(anabranch, InternalError, PyRuntimeError, "A promise of this library is broken: report it.");

pub(crate) fn add(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    module.add("InputError", py.get_type::<InputError>())?;
    module.add("NotFoundError", py.get_type::<NotFoundError>())?;
    module.add("RetryError", py.get_type::<RetryError>())?;
    module.add("FullError", py.get_type::<FullError>())?;
    module.add("CorruptError", py.get_type::<CorruptError>())?;
    module.add("InternalError", py.get_type::<InternalError>())
}

/// An argument that cannot be used.
pub(crate) fn input(problem: impl std::fmt::Display) -> PyErr {
    InputError::new_err(problem.to_string())
}

/// The exception of a kind, with the error and its causes.
pub(crate) fn of_kind(kind: ErrorKind, error: &dyn std::error::Error) -> PyErr {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    match kind {
        ErrorKind::FixInput => InputError::new_err(text),
        ErrorKind::NotFound => NotFoundError::new_err(text),
        ErrorKind::Retry => RetryError::new_err(text),
        ErrorKind::Full => FullError::new_err(text),
        ErrorKind::Corrupt => CorruptError::new_err(text),
        ErrorKind::Fenced | ErrorKind::Bug => InternalError::new_err(text),
    }
}

/// Turns an error of the crates below into its exception.
pub(crate) trait Raise<T> {
    fn raise(self) -> PyResult<T>;
}

macro_rules! raise_by_kind {
    ($($error:ty),*) => {
        $(impl<T> Raise<T> for Result<T, $error> {
            fn raise(self) -> PyResult<T> {
                self.map_err(|error| of_kind(error.kind(), &error))
            }
        })*
    };
}
raise_by_kind!(BatchError, TrainError, LakeError, RegistryError, VectorError);

macro_rules! raise_as_input {
    ($($error:ty),*) => {
        $(impl<T> Raise<T> for Result<T, $error> {
            fn raise(self) -> PyResult<T> {
                self.map_err(|error| of_kind(ErrorKind::FixInput, &error))
            }
        })*
    };
}
raise_as_input!(
    LearnError,
    anabranch_evaluation::EvaluateError<anabranch_models::RecommendError>,
    anabranch_evaluation::EvaluateError<std::convert::Infallible>,
    anabranch_events::settings::SettingsError,
    anabranch_kernels::ScoreError,
    anabranch_kernels::ShapeError,
    anabranch_models::InteractionsError,
    anabranch_models::NeighboursError,
    anabranch_models::RecommendError,
    anabranch_models::TrendError,
    anabranch_models::ials::FoldInError,
    anabranch_models::ials::HalfStepError,
    anabranch_models::ials::SettingError,
    anabranch_models::ials::TrainError
);

/// What the system said of a file.
pub(crate) fn io(action: &str, place: &std::path::Path, error: &std::io::Error) -> PyErr {
    let text = format!("could not {action} {}: {error}", place.display());
    match error.kind() {
        std::io::ErrorKind::NotFound => NotFoundError::new_err(text),
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => FullError::new_err(text),
        std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::InvalidInput => InputError::new_err(text),
        _ => RetryError::new_err(text),
    }
}

/// A stored snapshot or history that does not decode.
pub(crate) fn corrupt(problem: impl std::fmt::Display) -> PyErr {
    CorruptError::new_err(problem.to_string())
}
