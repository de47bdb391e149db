//! What can go wrong in a step, and whether it may pass. A failure that may pass keeps the worker where it is; any other
//! ends it, and names the shard.

use anabranch_stores::ErrorKind;
use anabranch_stores::lake::LakeError;

use crate::object::{CHAINS, FormError, ObjectError};
use crate::ports::{PortError, ShardId};
use crate::shared::Cause;

/// Why a worker ends.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The records cannot be read.
    #[error("{shard}: reading records: {source}")]
    Reader {
        /// The shard.
        shard: ShardId,
        /// What happened.
        source: PortError,
    },
    /// The state failed.
    #[error("{shard}: {source}")]
    State {
        /// The shard.
        shard: ShardId,
        /// What happened.
        source: PortError,
    },
    /// The sink refuses in a way that waiting does not mend.
    #[error("{shard}: the sink refuses {path}: {source}")]
    Sink {
        /// The shard.
        shard: ShardId,
        /// The object or folder.
        path: String,
        /// What happened.
        source: LakeError,
    },
    /// An object of the chain does not read.
    #[error("{shard}: {source}; move it away only if its lists may be made again")]
    Object {
        /// The shard.
        shard: ShardId,
        /// What happened.
        source: ObjectError,
    },
    /// The chain has another form than the settings.
    #[error("{shard}: {source}")]
    Form {
        /// The shard.
        shard: ShardId,
        /// What happened.
        source: FormError,
    },
    /// Compression failed.
    #[error("{shard}: compressing an object failed: {source}")]
    Compress {
        /// The shard.
        shard: ShardId,
        /// What happened.
        source: std::io::Error,
    },
}

impl WorkerError {
    /// What the caller can do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Reader { source, .. } | Self::State { source, .. } => source.kind,
            Self::Sink { source, .. } => source.kind(),
            Self::Object { .. } => ErrorKind::Corrupt,
            Self::Form { source, .. } => source.kind(),
            Self::Compress { .. } => ErrorKind::Bug,
        }
    }
}

/// What kept a step from being done.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It may pass: the same is tried again.
    Passing { cause: Cause, why: String },
    /// It does not.
    Final(Box<WorkerError>),
}

impl From<WorkerError> for Trouble {
    fn from(error: WorkerError) -> Self {
        Self::Final(Box::new(error))
    }
}

impl Trouble {
    pub(super) fn reader(shard: ShardId, source: PortError) -> Self {
        match source.kind {
            ErrorKind::Retry => {
                Self::Passing { cause: Cause::Reader, why: format!("{shard} cannot read records: {source}") }
            }
            _ => WorkerError::Reader { shard, source }.into(),
        }
    }

    pub(super) fn state(shard: ShardId, source: PortError) -> Self {
        match source.kind {
            ErrorKind::Retry => {
                Self::Passing { cause: Cause::State, why: format!("{shard} cannot use its state: {source}") }
            }
            _ => WorkerError::State { shard, source }.into(),
        }
    }

    pub(super) fn form(shard: ShardId, error: FormError) -> Self {
        match error {
            FormError::Sink(source) => Self::sink(shard, CHAINS, source),
            source => WorkerError::Form { shard, source }.into(),
        }
    }

    pub(super) fn sink(shard: ShardId, path: &str, source: LakeError) -> Self {
        match source.kind() {
            ErrorKind::Retry | ErrorKind::Full => {
                Self::Passing { cause: Cause::Sink, why: format!("{shard} cannot deliver: {source}") }
            }
            _ => WorkerError::Sink { shard, path: path.to_owned(), source }.into(),
        }
    }
}
