//! Errors to exit codes, in one place. A message says what happened and what to do; it is printed once, on stderr.

use std::process::ExitCode;

use anabranch_stores::ErrorKind;

/// Why a command ends without having done its work.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: ErrorKind,
    error: anyhow::Error,
}

impl Failure {
    /// The input, a setting or an argument must be mended.
    pub(crate) fn input(message: impl std::fmt::Display) -> Self {
        Self { kind: ErrorKind::FixInput, error: anyhow::anyhow!("{message}") }
    }

    /// Something asked for is not there.
    pub(crate) fn missing(message: impl std::fmt::Display) -> Self {
        Self { kind: ErrorKind::NotFound, error: anyhow::anyhow!("{message}") }
    }

    /// An error of this kind.
    pub(crate) fn of(kind: ErrorKind, message: impl std::fmt::Display) -> Self {
        Self { kind, error: anyhow::anyhow!("{message}") }
    }

    /// A file operation that failed.
    pub(crate) fn io(action: &str, path: &std::path::Path, error: &std::io::Error) -> Self {
        let kind = match error.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            std::io::ErrorKind::StorageFull => ErrorKind::Full,
            _ => ErrorKind::FixInput,
        };
        Self { kind, error: anyhow::anyhow!("could not {action} {}: {error}", path.display()) }
    }

    pub(crate) fn tell(&self) {
        eprintln!("anabranch: {:#}", self.error);
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        // The numbers of sysexits.h, as `--help` lists them.
        ExitCode::from(match self.kind {
            ErrorKind::FixInput => 65,
            ErrorKind::NotFound => 66,
            ErrorKind::Fenced => 69,
            ErrorKind::Bug => 70,
            ErrorKind::Full => 73,
            ErrorKind::Corrupt => 74,
            ErrorKind::Retry => 75,
        })
    }
}

macro_rules! from_kinded {
    ($($error:ty),* $(,)?) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self { kind: error.kind(), error: error.into() }
            }
        })*
    };
}

from_kinded!(
    anabranch_batch::BatchError,
    anabranch_batch::train::TrainError,
    anabranch_stores::lake::LakeError,
    anabranch_stores::registry::RegistryError,
    anabranch_stores::state::StateError,
    anabranch_stores::vectors::VectorError,
    anabranch_stream::running::StartError,
);

impl From<anabranch_stream::running::AskError> for Failure {
    fn from(error: anabranch_stream::running::AskError) -> Self {
        use anabranch_stream::running::AskError;
        let kind = match &error {
            AskError::State(error) => error.kind(),
            AskError::Histories(error) => error.kind,
            AskError::Sink(error) => error.kind(),
            AskError::Stopped(_) => ErrorKind::Retry,
        };
        Self { kind, error: error.into() }
    }
}

impl From<anabranch_stream::ports::PortError> for Failure {
    fn from(error: anabranch_stream::ports::PortError) -> Self {
        Self { kind: error.kind, error: error.into() }
    }
}

impl From<anabranch_models::ModelError> for Failure {
    fn from(error: anabranch_models::ModelError) -> Self {
        use anabranch_models::ModelError;
        let kind = match &error {
            ModelError::Open { .. } | ModelError::Settings { .. } => ErrorKind::Corrupt,
            ModelError::OtherTypes { .. } => ErrorKind::FixInput,
        };
        Self { kind, error: error.into() }
    }
}

impl From<anabranch_events::settings::SettingsError> for Failure {
    fn from(error: anabranch_events::settings::SettingsError) -> Self {
        Self { kind: ErrorKind::FixInput, error: error.into() }
    }
}
