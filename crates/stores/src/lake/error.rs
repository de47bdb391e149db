//! The lake's errors: each names the object and the action, and maps once to what to do about it.

use std::io;

use crate::ErrorKind;

/// Why a lake call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LakeError {
    /// The text is no object path.
    #[error("{path:?} is not a valid object path: {reason}")]
    InvalidPath {
        /// The text given.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The text names no store, or its settings do not fit.
    #[error("cannot use {location:?} as an object store: {reason}")]
    InvalidLocation {
        /// The location as given.
        location: String,
        /// What is wrong and what to write instead.
        reason: String,
    },
    /// No object lies under the path.
    #[error("object {path} does not exist in {store}")]
    NotFound {
        /// The store, for people.
        store: String,
        /// The object's path.
        path: String,
    },
    /// The range asked for reaches past the object's end.
    #[error("object {path} has {size} bytes; bytes {start}..{start}+{len} are not all there")]
    RangeOutside {
        /// The object's path.
        path: String,
        /// First byte asked for.
        start: u64,
        /// Number of bytes asked for.
        len: u64,
        /// The object's size in bytes.
        size: u64,
    },
    /// The disk or quota is full; nothing was written.
    #[error("no space left for object {path} in {store}: free some space and try again")]
    Full {
        /// The store, for people.
        store: String,
        /// The object's path.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The system refused the access.
    #[error("may not {action} {place}: check the permissions ({detail})")]
    Denied {
        /// What was tried.
        action: &'static str,
        /// The file, folder or object.
        place: String,
        /// What the system or service said.
        detail: String,
    },
    /// The local file system failed.
    #[error("could not {action} {place}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        place: String,
        /// What the system said.
        source: io::Error,
    },
    /// The remote service failed after its retries.
    #[error("could not {action} {place}: {detail}")]
    Remote {
        /// What was tried.
        action: &'static str,
        /// The object or prefix, with its store.
        place: String,
        /// What the service or the client said.
        detail: String,
    },
    /// The object was replaced while it was being read.
    #[error("object {path} was replaced while it was read; read it again")]
    Changed {
        /// The object's path.
        path: String,
    },
    /// A fault injected by a test's [`FaultyStore`](super::FaultyStore).
    #[error("injected fault {fault:?} on {action} {path}")]
    Injected {
        /// Which fault.
        fault: super::Fault,
        /// The operation it struck.
        action: &'static str,
        /// The object's path or prefix.
        path: String,
    },
    /// The client's own machinery stopped.
    #[error("internal error while trying to {action}: {detail}")]
    Internal {
        /// What was tried.
        action: &'static str,
        /// What went wrong.
        detail: String,
    },
}

impl LakeError {
    /// What the caller should do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::InvalidPath { .. }
            | Self::InvalidLocation { .. }
            | Self::RangeOutside { .. }
            | Self::Denied { .. } => ErrorKind::FixInput,
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Full { .. } | Self::Injected { fault: super::Fault::Full, .. } => ErrorKind::Full,
            Self::Io { .. } | Self::Remote { .. } | Self::Changed { .. } | Self::Injected { .. } => ErrorKind::Retry,
            Self::Internal { .. } => ErrorKind::Bug,
        }
    }

    /// Sorts an I/O error on a local file by what the caller can do about it.
    pub(super) fn from_io(action: &'static str, place: &std::path::Path, source: io::Error) -> Self {
        let place = place.display().to_string();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::Full { store: "the file system".to_owned(), path: place, source }
            }
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Self::Denied { action, place, detail: source.to_string() }
            }
            _ => Self::Io { action, place, source },
        }
    }
}
