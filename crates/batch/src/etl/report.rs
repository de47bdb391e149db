//! The report: what became of every row. It holds no clock and no host, so a second run on the same input writes the
//! same bytes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::EtlSettings;
use crate::BatchError;

/// What became of a table's rows: `read = clean + duplicates + quarantined + filtered`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Rows found in the files.
    pub read: u64,
    /// Rows written.
    pub clean: u64,
    /// Rows that repeat another.
    pub duplicates: u64,
    /// Rows refused, each with an entry in the quarantine.
    pub quarantined: u64,
    /// Rows left out on purpose.
    pub filtered: u64,
}

impl Counts {
    /// Checks that the books balance. The four parts are counted where the rows end up, not derived from each other.
    pub fn check(&self, table: &'static str) -> Result<(), BatchError> {
        let Self { read, clean, duplicates, quarantined, filtered } = *self;
        if read == clean + duplicates + quarantined + filtered {
            Ok(())
        } else {
            Err(BatchError::Unreconciled { table, read, clean, duplicates, quarantined, filtered })
        }
    }
}

/// One input file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileReport {
    /// `interactions`, `items` or `users`.
    pub table: String,
    /// Its name relative to the data location.
    pub file: String,
    /// Size as stored, in bytes.
    pub bytes: u64,
    /// Rows found in it.
    pub read: u64,
    /// Rows refused.
    pub quarantined: u64,
    /// Of those, the ones that were more than a day ahead of [`EtlReport::as_of_ms`]; a later run may take them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub too_new: u64,
    /// Rows later than the cut-over.
    pub after_cut_over: u64,
    /// Why (the rest of) it could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl FileReport {
    /// Rows that were neither refused nor left to the stream: each is clean, a duplicate or erased.
    pub const fn accepted(&self) -> u64 {
        self.read.saturating_sub(self.quarantined + self.after_cut_over)
    }
}

/// What the histories hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryCounts {
    /// Users' histories.
    pub users: u64,
    /// Sessions' histories.
    pub sessions: u64,
    /// Entries in all of them, after quotas.
    pub entries: u64,
    /// Encoded bytes in all of them.
    pub bytes: u64,
}

/// Everything that a run found and did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EtlReport {
    /// Version of this layout.
    pub format: u32,
    /// By which time "more than a day ahead" was judged, milliseconds since 1970.
    pub as_of_ms: i64,
    /// The cut-over, if any.
    pub until_ms: Option<i64>,
    /// Interaction rows.
    pub interactions: Counts,
    /// Item rows; `clean` counts items.
    pub items: Counts,
    /// User rows; `clean` counts users with attributes.
    pub users: Counts,
    /// Refused rows of all tables by reason.
    pub quarantined_by_reason: BTreeMap<String, u64>,
    /// Rows left out by reason: `after-cut-over`, `erased`.
    pub filtered_by_reason: BTreeMap<String, u64>,
    /// Clean rows by event type.
    pub clean_by_event_type: BTreeMap<String, u64>,
    /// Days with clean rows.
    pub days: u64,
    /// The first of them.
    pub first_day: Option<String>,
    /// The last of them.
    pub last_day: Option<String>,
    /// Users with at least one clean row.
    pub active_users: u64,
    /// Users marked as bots (left out of training only).
    pub bots: u64,
    /// Histories.
    pub histories: HistoryCounts,
    /// Each input file.
    pub files: Vec<FileReport>,
    /// The settings that decided.
    pub settings: EtlSettings,
}

impl EtlReport {
    /// Files that could not be read whole.
    pub fn failed_files(&self) -> impl Iterator<Item = &FileReport> {
        self.files.iter().filter(|file| file.failed.is_some())
    }

    /// Checks the books of all tables.
    pub fn check(&self) -> Result<(), BatchError> {
        self.interactions.check("interactions")?;
        self.items.check("items")?;
        self.users.check("users")
    }

    /// The error that failed files are, unless they are accepted.
    pub fn check_files(&self) -> Result<(), BatchError> {
        let Some(first) = self.failed_files().next() else { return Ok(()) };
        Err(BatchError::FilesFailed {
            count: self.failed_files().count(),
            file: first.file.clone(),
            reason: first.failed.clone().unwrap_or_default(),
        })
    }
}
