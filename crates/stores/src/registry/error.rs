//! The registry's errors.

use super::records::Version;
use crate::ErrorKind;
use crate::lake::LakeError;

/// Why a registry call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The object store failed.
    #[error(transparent)]
    Lake(#[from] LakeError),
    /// A local file failed.
    #[error("could not {action} {place}")]
    Local {
        /// What was tried.
        action: &'static str,
        /// The file.
        place: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file changed while it was being published.
    #[error("{place} changed while it was published; publish it again once it is finished")]
    Changed {
        /// The file.
        place: String,
    },
    /// No such model is published.
    #[error("no model {version:?} is published; see `anabranch models list`")]
    UnknownVersion {
        /// The version as given.
        version: String,
    },
    /// The model's snapshot is not usable.
    #[error("model {version} cannot be promoted: {fault}; publish its snapshot again")]
    Unusable {
        /// The version.
        version: String,
        /// What is wrong.
        fault: String,
    },
    /// Nothing was promoted yet.
    #[error("no model is current; promote one first")]
    NothingCurrent,
    /// There is no usable model before the current one.
    #[error("no usable model came before {version}")]
    NothingBefore {
        /// The current version.
        version: String,
    },
    /// Another promotion came between.
    #[error("another promotion took number {number} meanwhile; look at the current model and decide again")]
    Overtaken {
        /// The number it took.
        number: u64,
    },
    /// Other promoters kept winning.
    #[error("{attempts} other promotions came first; something promotes in a loop")]
    Contended {
        /// Attempts made.
        attempts: usize,
    },
    /// All ten-digit numbers are in use.
    #[error("all pointer numbers are used up; remove the pointer with the highest number if it is stray")]
    NumbersUsedUp,
    /// Two snapshots with one version: 64 bits of SHA-256 met by accident or by malice.
    #[error("model {version} is published with digest {first}; a snapshot with digest {second} cannot take its name")]
    Collision {
        /// The version both would have.
        version: Version,
        /// Digest of the published snapshot.
        first: String,
        /// Digest of the other one.
        second: String,
    },
    /// A record cannot be read.
    #[error("{place} is damaged: {fault}")]
    Damaged {
        /// The object.
        place: String,
        /// What is wrong.
        fault: String,
    },
    /// A snapshot's bytes are not those published.
    #[error(
        "the snapshot of model {version} is damaged: digest {found} ({size} bytes) instead of {expected}; publish it again or roll back"
    )]
    Digest {
        /// The version.
        version: Version,
        /// Digest in the manifest.
        expected: String,
        /// Digest of the bytes.
        found: String,
        /// Number of the bytes.
        size: u64,
    },
}

impl RegistryError {
    /// What the caller should do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Lake(error) => error.kind(),
            Self::Local { source, .. } => match source.kind() {
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ErrorKind::Full,
                std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied => ErrorKind::FixInput,
                _ => ErrorKind::Retry,
            },
            Self::Changed { .. } | Self::Overtaken { .. } | Self::Contended { .. } => ErrorKind::Retry,
            Self::UnknownVersion { .. } | Self::NothingCurrent | Self::NothingBefore { .. } => ErrorKind::NotFound,
            Self::Unusable { .. } | Self::Damaged { .. } | Self::Digest { .. } => ErrorKind::Corrupt,
            Self::NumbersUsedUp | Self::Collision { .. } => ErrorKind::FixInput,
        }
    }
}
