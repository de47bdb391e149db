//! The errors of the batch arm. One bad row or file is no error (it lands in quarantine); these end a run.

use std::io;
use std::path::{Path, PathBuf};

use anabranch_stores::ErrorKind;
use anabranch_stores::lake::LakeError;

/// Why a batch run ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// The mapping file cannot be used.
    #[error("mapping: {problem}")]
    Mapping {
        /// What is wrong and what is accepted.
        problem: String,
    },
    /// An input pattern leads nowhere.
    #[error("input {pattern:?}: {problem}")]
    Input {
        /// The pattern as written.
        pattern: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// Nothing could be read from any file.
    #[error("no row could be read from the {files} interaction file(s); the first reason: {reason}")]
    NoRows {
        /// Number of files tried.
        files: usize,
        /// Why the first one gave nothing.
        reason: String,
    },
    /// Whole files were refused and the caller did not accept that.
    #[error(
        "{count} file(s) could not be read whole, the first being {file}: {reason}. Mend or remove them, or accept \
         it with --keep-going; the dataset published before is untouched"
    )]
    FilesFailed {
        /// Number of files.
        count: usize,
        /// The first one.
        file: String,
        /// Its reason.
        reason: String,
    },
    /// The books do not balance.
    #[error(
        "{table}: rows do not add up: read {read} ≠ clean {clean} + duplicates {duplicates} + quarantined \
         {quarantined} + filtered {filtered}; nothing was published, please report this"
    )]
    Unreconciled {
        /// Which table.
        table: &'static str,
        /// Rows read.
        read: u64,
        /// Rows written.
        clean: u64,
        /// Rows that repeat another.
        duplicates: u64,
        /// Rows refused.
        quarantined: u64,
        /// Rows left out on purpose.
        filtered: u64,
    },
    /// The scratch folder failed.
    #[error("could not {action} {}: {source}", place.display())]
    Scratch {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        place: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Scratch or stored bytes are not what was written.
    #[error("{place} is corrupt: {detail}")]
    Corrupt {
        /// The file or object.
        place: String,
        /// What does not fit.
        detail: String,
    },
    /// Written by newer code.
    #[error("{place} has format {found}, newer than this program reads ({known}); upgrade before reading it")]
    NewerFormat {
        /// The object.
        place: String,
        /// Its format number.
        found: u32,
        /// The newest known here.
        known: u32,
    },
    /// No dataset is there.
    #[error("there is no dataset here yet: run `anabranch etl` first")]
    NoDataset,
    /// Another run published first.
    #[error("another run published manifest {number} meanwhile; run again")]
    Raced {
        /// The manifest's number.
        number: u64,
    },
    /// Encoding a file failed.
    #[error("could not encode {what}: {detail}")]
    Encode {
        /// What was being encoded.
        what: &'static str,
        /// What the encoder said.
        detail: String,
    },
    /// A stage was given what another one did not give it.
    #[error("records: {problem}")]
    Records {
        /// What is wrong and what to do.
        problem: String,
    },
    /// Whoever takes the rows wants no more.
    #[error("the reader of the rows stopped before their end")]
    Stopped,
    /// The object store failed.
    #[error(transparent)]
    Lake(#[from] LakeError),
}

impl BatchError {
    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Mapping { .. } | Self::Input { .. } | Self::NoRows { .. } | Self::FilesFailed { .. } => {
                ErrorKind::FixInput
            }
            Self::NewerFormat { .. } | Self::Records { .. } => ErrorKind::FixInput,
            Self::Unreconciled { .. } | Self::Encode { .. } => ErrorKind::Bug,
            Self::Scratch { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::Full,
                _ => ErrorKind::Retry,
            },
            Self::Corrupt { .. } => ErrorKind::Corrupt,
            Self::NoDataset => ErrorKind::NotFound,
            Self::Raced { .. } | Self::Stopped => ErrorKind::Retry,
            Self::Lake(error) => error.kind(),
        }
    }

    pub(crate) fn scratch(action: &'static str, place: &Path, source: io::Error) -> Self {
        Self::Scratch { action, place: place.to_owned(), source }
    }
}
