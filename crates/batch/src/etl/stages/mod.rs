//! The ETL's stages apart, for an engine that brings its own shuffle: Spark on Glue runs these between its own `map`,
//! `repartition` and `sort`, and publishes what [`run`](super::run) would publish.
//!
//! | stage | takes | gives |
//! |---|---|---|
//! | [`Stages::map_file`] | a file of the [`Plan`] | rows and items to shuffle by key, lines of the quarantine, an account |
//! | [`Folder`] | rows, owners together and ascending | clean rows by day; histories and users, written; counts |
//! | [`DayWriter`], [`ItemWriter`], [`QuarantineWriter`] | their records, in order | data files, written |
//! | [`publish`] | accounts, files and counts of all stages | the dataset, in one step |
//!
//! What travels is [`Records`]: one layout for every stage, in columns, so that it crosses borders without a copy.
//!
//! Guaranteed: the same rows, histories and books as the local run, whatever the partitions; data files are named by
//! their content and created once, so a task that runs twice leaves the same file; nothing is visible before
//! [`publish`], which refuses books that do not balance.
//! Not done: shuffling; retrying a stage; cutting one file into several tasks.

mod carry;
mod fold;
mod map;
mod publish;
mod records;
#[cfg(test)]
mod tests;
mod write;

use std::path::Path;
use std::sync::Arc;

use anabranch_events::{EventSettings, EventTypes};
use anabranch_stores::lake::StoreOptions;
use serde::{Deserialize, Serialize};

use super::days::{DAY_MS, day_name};
use super::report::EtlReport;
use super::{EtlSettings, constant_type};
use crate::BatchError;
use crate::dataset::Dataset;
use crate::input::{InputFile, InputOptions, resolve};
use crate::mapping::{Mapping, TableMapping};

pub use carry::{history_records, interaction_records, quarantine_records};
pub use fold::Folder;
pub use publish::{StageOutcome, publish};
pub use records::{Binary, BinaryRef, RecordKind, Records, RecordsRef};
pub use write::{DayWriter, ItemWriter, QuarantineWriter};

/// Takes records as they come; an error of its own ends the stage.
pub type EachRecords<'a> = &'a mut (dyn FnMut(Records) -> Result<(), BatchError> + Send);

/// A file of the input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedFile {
    /// `interactions`, `items` or `users`.
    pub table: String,
    /// Its number within the table, by name.
    pub index: u32,
    /// Its name, as reports say it.
    pub name: String,
    /// Where it lies.
    pub place: String,
    /// Size as stored, in bytes.
    pub size: u64,
    /// When it was last modified, milliseconds since 1970.
    pub modified_ms: i64,
}

/// The dataset that an incremental run adds to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Base {
    /// Number of its manifest.
    pub number: u64,
    /// Its books.
    pub report: EtlReport,
}

/// One run, as every stage needs to know it. Data: it travels to other machines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The files, by table and name.
    pub files: Vec<PlannedFile>,
    /// Which columns hold what.
    pub mapping: Mapping,
    /// Event types.
    pub events: EventSettings,
    /// Settings of the ETL.
    pub settings: EtlSettings,
    /// By which time "more than a day ahead" is judged, milliseconds since 1970.
    pub as_of_ms: i64,
    /// Later events are left to the stream.
    pub until_ms: Option<i64>,
    /// What an incremental run adds to.
    pub base: Option<Base>,
}

/// What a plan is made of.
#[derive(Clone, Debug)]
pub struct PlanRequest<'a> {
    /// Where the data lies.
    pub input: &'a InputOptions,
    /// Which files and columns.
    pub mapping: Mapping,
    /// Event types.
    pub events: EventSettings,
    /// Settings of the ETL.
    pub settings: EtlSettings,
    /// The newest modification time of the files if absent.
    pub as_of_ms: Option<i64>,
    /// Later events are left to the stream.
    pub until_ms: Option<i64>,
    /// The dataset that an incremental run adds to. It is left aside, and everything read, if the cut-over goes back
    /// behind rows that it holds: those cannot be taken out of histories again.
    pub base: Option<&'a Dataset<'a>>,
}

impl Plan {
    /// Finds the files.
    pub fn new(request: PlanRequest<'_>) -> Result<Self, BatchError> {
        let mapping = request.mapping;
        let optional = |table: &Option<TableMapping>| match table {
            Some(table) => resolve(request.input, &table.files, table.optional),
            None => Ok(Vec::new()),
        };
        let tables = [
            ("interactions", resolve(request.input, &mapping.interactions.files, false)?),
            ("items", optional(&mapping.items)?),
            ("users", optional(&mapping.users)?),
        ];
        let files: Vec<PlannedFile> = tables
            .into_iter()
            .flat_map(|(table, files)| (0..).zip(files).map(move |(index, file)| planned(table, index, &file)))
            .collect();
        let newest_ms = files.iter().map(|file| file.modified_ms).max().unwrap_or(0);
        let base = request.base.filter(|base| !goes_back(base.report(), request.until_ms));
        let base = base.map(|base| Base { number: base.number(), report: base.report().clone() });
        // Rows that were taken stay taken, so time does not go back either.
        let as_of_ms = request.as_of_ms.unwrap_or(newest_ms);
        let as_of_ms = base.as_ref().map_or(as_of_ms, |base| as_of_ms.max(base.report.as_of_ms));
        Ok(Self {
            files,
            mapping,
            events: request.events,
            settings: request.settings,
            as_of_ms,
            until_ms: request.until_ms,
            base,
        })
    }

    /// Whether this file of interactions is read.
    pub(super) fn reads(&self, name: &str) -> bool {
        self.files.iter().any(|file| file.table == "interactions" && file.name == name)
    }

    /// Keeps some of the files (a bookmark); they are numbered anew.
    pub fn keep(&mut self, mut keep: impl FnMut(&PlannedFile) -> bool) {
        self.files.retain(&mut keep);
        let mut last = String::new();
        let mut next = 0;
        for file in &mut self.files {
            if file.table != last {
                last.clone_from(&file.table);
                next = 0;
            }
            file.index = next;
            next += 1;
        }
    }
}

/// Whether a dataset may hold rows after this cut-over.
fn goes_back(report: &EtlReport, until_ms: Option<i64>) -> bool {
    let Some(until_ms) = until_ms else { return false };
    if report.until_ms.is_some_and(|before_ms| before_ms <= until_ms) {
        return false;
    }
    // Days are what the report knows of times.
    report.last_day.as_deref().is_some_and(|day| *day >= *day_name(until_ms.div_euclid(DAY_MS)))
}

fn planned(table: &str, index: u32, file: &InputFile) -> PlannedFile {
    PlannedFile {
        table: table.to_owned(),
        index,
        name: file.name.clone(),
        place: file.place(),
        size: file.size,
        modified_ms: file.modified_ms,
    }
}

/// A plan with its event types compiled: what each machine works with.
#[derive(Debug)]
pub struct Stages {
    plan: Plan,
    types: EventTypes,
}

impl Stages {
    /// Checks mapping and event types.
    pub fn new(plan: Plan) -> Result<Self, BatchError> {
        let types = plan.events.compile().map_err(|error| BatchError::Mapping { problem: error.to_string() })?;
        constant_type(&plan.mapping.interactions, &types)?;
        Ok(Self { plan, types })
    }

    /// The plan.
    pub const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Its event types.
    pub const fn types(&self) -> &EventTypes {
        &self.types
    }

    /// Maps the file at `number` of the plan's files. A file that cannot be read is a line of the quarantine and a word
    /// in its account, not an error. `scratch` takes remote Parquet files, which need seeking.
    pub fn map_file(
        &self,
        number: usize,
        store: &StoreOptions,
        scratch: &Path,
        each: EachRecords<'_>,
    ) -> Result<(), BatchError> {
        let file = self.plan.files.get(number).ok_or_else(|| BatchError::Records {
            problem: format!("there is no file {number}; the plan has {}", self.plan.files.len()),
        })?;
        map::map_file(self, file, store, scratch, each)
    }

    /// Begins the fold of the engine's partition `number`.
    pub fn fold(self: &Arc<Self>, number: u32) -> Result<Folder, BatchError> {
        Folder::new(Arc::clone(self), number)
    }
}
