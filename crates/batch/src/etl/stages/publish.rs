//! The end of a run by stages: the books are assembled from what the stages gave, checked, and published in one step.

use std::collections::{BTreeMap, BTreeSet};

use anabranch_stores::lake::ObjectStore;
use serde::{Deserialize, Serialize};

use super::Stages;
use super::map::{Account, table_number};
use super::records::{RecordKind, Records, RecordsRef};
use crate::BatchError;
use crate::dataset::day_of;
use crate::etl::partition::PartitionCounts;
use crate::etl::publish::{DataFile, Published, Publisher, newest_manifest};
use crate::etl::report::{EtlReport, FileReport};
use crate::etl::{Judged, TableBooks, Written, assemble, publish_checked};

/// What a stage counted.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct StageCounts {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) fold: Option<PartitionCounts>,
    pub(super) items_replaced: u64,
    /// Refused rows of an earlier run that stay in the quarantine.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) carried_by_reason: BTreeMap<String, u64>,
}

impl StageCounts {
    pub(super) fn put(&self, out: &mut Records) -> Result<(), BatchError> {
        let json = serde_json::to_vec(self).expect("texts and numbers serialise");
        out.push(RecordKind::Counts, 0, |_| {}, |bytes| bytes.extend(json))
    }
}

/// Tells of the files that were written.
pub(super) fn put_files(publisher: &Publisher<'_>, out: &mut Records) -> Result<(), BatchError> {
    for file in publisher.take_files() {
        let json = serde_json::to_vec(&file).expect("texts and numbers serialise");
        out.push(RecordKind::File, 0, |_| {}, |bytes| bytes.extend(json))?;
    }
    Ok(())
}

/// What was published.
#[derive(Clone, Debug, PartialEq)]
pub struct StageOutcome {
    /// What became of every row.
    pub report: EtlReport,
    /// The manifest; `None` if files failed and that is not accepted: then nothing was published.
    pub published: Option<Published>,
}

/// Publishes what the stages wrote. `records` are all accounts, files and counts, in any order; others are refused.
pub fn publish(
    stages: &Stages,
    store: &dyn ObjectStore,
    records: &[RecordsRef<'_>],
) -> Result<StageOutcome, BatchError> {
    let plan = stages.plan();
    let Gathered { mut accounts, files, mut folded, items_replaced, carried_by_reason } = gather(records)?;
    accounts.sort_by_key(|account| (table_number(&account.line.table), account.index));
    check_accounts(stages, &accounts)?;

    let mut tables: Vec<TableBooks> = ["interactions", "items", "users"]
        .into_iter()
        .map(|name| TableBooks { name, files: Vec::new(), by_reason: BTreeMap::new() })
        .collect();
    if let Some(base) = &plan.base {
        match newest_manifest(store)? {
            Some((number, _)) if number == base.number => {}
            newest => return Err(BatchError::Raced { number: newest.map_or(0, |(number, _)| number) }),
        }
        // What was clean then is read again as rows; everything else of the books is added to them, but for the files
        // that this plan reads again.
        let (again, kept): (Vec<&FileReport>, Vec<&FileReport>) = base
            .report
            .files
            .iter()
            .filter(|line| line.table == "interactions")
            .partition(|line| plan.reads(&line.file));
        tables[0].files.extend(kept.into_iter().cloned());
        tables[0].by_reason = carried_by_reason;
        folded.duplicates += base.report.interactions.duplicates;
        folded.erased += base.report.filtered_by_reason.get("erased").copied().unwrap_or(0);
        take_back(&again, &mut folded)?;
    }
    let is_whole = accounts.iter().all(|account| account.line.failed.is_none());
    for account in accounts {
        let books = &mut tables[usize::from(table_number(&account.line.table))];
        books.files.push(account.line);
        for (reason, count) in account.by_reason {
            *books.by_reason.entry(reason).or_default() += count;
        }
    }
    // As a run over everything has them.
    tables[0].files.sort_by(|a, b| a.file.cmp(&b.file));
    let items = files.iter().filter(|file| file.kind == "catalog").map(|file| file.rows).sum();
    let judged =
        Judged { types: stages.types(), settings: &plan.settings, as_of_ms: plan.as_of_ms, until_ms: plan.until_ms };
    let report = assemble(&judged, tables, &folded, &written(&files), (items, items_replaced));
    let publisher = Publisher::new(store)?;
    for file in files {
        publisher.keep(file);
    }
    let published = publish_checked(publisher, &report, is_whole, store)?;
    Ok(StageOutcome { report, published })
}

/// Rows of files that are read again were accepted once already, and stand in the base as clean, duplicates or erased.
/// Folded again, each is a duplicate of itself (or erased once more): that many are taken back. If somebody was forgotten,
/// a few may be taken from the one count that belong to the other; the books balance all the same.
fn take_back(again: &[&FileReport], folded: &mut PartitionCounts) -> Result<(), BatchError> {
    let accepted: u64 = again.iter().map(|line| line.accepted()).sum();
    let duplicates = accepted.min(folded.duplicates);
    let Some(erased) = folded.erased.checked_sub(accepted - duplicates) else {
        return Err(BatchError::Records {
            problem: format!(
                "{} holds other rows than when it was read before: read everything again, without an incremental run",
                again.iter().map(|line| line.file.as_str()).collect::<Vec<_>>().join(", ")
            ),
        });
    };
    folded.duplicates -= duplicates;
    folded.erased = erased;
    Ok(())
}

struct Gathered {
    accounts: Vec<Account>,
    files: BTreeSet<DataFile>,
    folded: PartitionCounts,
    items_replaced: u64,
    carried_by_reason: BTreeMap<String, u64>,
}

fn gather(records: &[RecordsRef<'_>]) -> Result<Gathered, BatchError> {
    let mut all = Gathered {
        accounts: Vec::new(),
        files: BTreeSet::new(),
        folded: PartitionCounts::default(),
        items_replaced: 0,
        carried_by_reason: BTreeMap::new(),
    };
    let unreadable =
        |error: serde_json::Error| BatchError::Records { problem: format!("a record is damaged: {error}") };
    for record in records.iter().flat_map(|records| records.iter()) {
        match record.kind {
            RecordKind::Account => all.accounts.push(serde_json::from_slice(record.row).map_err(unreadable)?),
            RecordKind::File => {
                all.files.insert(serde_json::from_slice(record.row).map_err(unreadable)?);
            }
            RecordKind::Counts => {
                let counts: StageCounts = serde_json::from_slice(record.row).map_err(unreadable)?;
                if let Some(fold) = counts.fold {
                    all.folded.add(&fold);
                }
                all.items_replaced += counts.items_replaced;
                for (reason, count) in counts.carried_by_reason {
                    *all.carried_by_reason.entry(reason).or_default() += count;
                }
            }
            kind => {
                let problem = format!("publish takes accounts, files and counts, not {kind:?}");
                return Err(BatchError::Records { problem });
            }
        }
    }
    Ok(all)
}

/// Every file of the plan has one account, and nothing else has.
fn check_accounts(stages: &Stages, accounts: &[Account]) -> Result<(), BatchError> {
    let expected: Vec<(&str, u32)> = stages.plan().files.iter().map(|file| (file.table.as_str(), file.index)).collect();
    let found: Vec<(&str, u32)> = accounts.iter().map(|account| (account.line.table.as_str(), account.index)).collect();
    if expected == found {
        return Ok(());
    }
    let missing = expected.iter().find(|file| !found.contains(file));
    let problem = match missing {
        Some((table, index)) => format!("file {index} of {table} has no account: map it, or publish its account too"),
        None => format!("{} files have {} accounts: give each once", expected.len(), found.len()),
    };
    Err(BatchError::Records { problem })
}

fn written(files: &BTreeSet<DataFile>) -> Written {
    let of_days = || files.iter().filter(|file| file.kind == "interactions");
    let days: BTreeSet<&str> = of_days().filter_map(day_of).collect();
    Written {
        rows: of_days().map(|file| file.rows).sum(),
        days: days.len() as u64,
        range: days.first().zip(days.last()).map(|(first, last)| ((*first).to_owned(), (*last).to_owned())),
    }
}
