//! The ETL: map → shuffle by user → fold → days → publish.
//!
//! [`run`] is the story, read top to bottom. All meaning is in two pure functions, [`map::map_row`] and
//! [`fold::fold_owner`]; the rest moves rows. Spark runs the same two with its own shuffle between them, by [`stages`].
//!
//! Guaranteed: the books balance or nothing is published; the same input gives the same bytes, whatever the threads; a
//! crash leaves the dataset that was there; memory follows the settings, not the input.
//! Not done: training filters (bots and k-core are marked and recorded; training applies them).

mod attributes;
mod days;
pub mod fold;
pub mod map;
mod partition;
mod publish;
mod quarantine;
pub mod report;
pub mod row;
mod shuffle;
mod sinks;
pub mod stages;

#[cfg(test)]
mod real_data;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use anabranch_events::erasure::ErasedName;
use anabranch_events::{EventTypes, HistoryKey};
use anabranch_stores::lake::ObjectStore;
use serde::{Deserialize, Serialize};

use self::attributes::{AttributePlan, AttributeTable};
use self::days::Days;
use self::fold::FoldRules;
use self::map::MapRules;
use self::partition::{PartitionCounts, fold_partition};
use self::quarantine::Quarantine;
use self::report::{Counts, EtlReport, FileReport, HistoryCounts};
use self::shuffle::{Spill, partition_count};
use self::sinks::{Accounts, AttributeSink, MapSink, SinkFiles};
use crate::BatchError;
use crate::input::{Columns, FileOutcome, InputFile, InputOptions, Reading, RowSink, read_rows, resolve};
use crate::mapping::{InteractionsMapping, Mapping, TableMapping};

pub(crate) use attributes::users_table;
pub(crate) use days::interactions_table;
pub use publish::{DataFile, Manifest, Published};
pub(crate) use publish::{Publisher, highest_number, name_parts, newest_manifest, settle, write_report};
pub(crate) use quarantine::compress;
pub use quarantine::{FILE_CODE, Quarantined};
pub use sinks::{EachEvent, read_events};

/// Settings of the ETL, part of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EtlSettings {
    /// A user with more events on one day (UTC) is marked as a bot; 0 marks none.
    pub bot_events_per_day_max: u32,
    /// Training leaves out users with fewer interactions; recorded here, applied there.
    pub k_core_users: u32,
    /// Training leaves out items with fewer interactions; recorded here, applied there.
    pub k_core_items: u32,
    /// Whether a dataset is published although whole files could not be read.
    pub keep_going: bool,
}

impl Default for EtlSettings {
    fn default() -> Self {
        Self { bot_events_per_day_max: 2_000, k_core_users: 0, k_core_items: 0, keep_going: false }
    }
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// `read` (in stored bytes), `fold` (in partitions) or `write` (in files).
    pub phase: &'static str,
    /// Done so far.
    pub done: u64,
    /// To be done in all.
    pub total: u64,
}

/// Everything that a run needs.
#[derive(Clone, Copy)]
pub struct EtlRequest<'a> {
    /// Where the data lies.
    pub input: &'a InputOptions,
    /// Which files and columns.
    pub mapping: &'a Mapping,
    /// Event types.
    pub types: &'a EventTypes,
    /// Settings.
    pub settings: &'a EtlSettings,
    /// By which time "more than a day ahead" is judged, milliseconds since 1970; the newest modification time of the
    /// inputs if absent, so that a second run judges alike.
    pub as_of_ms: Option<i64>,
    /// Cut-over: later events are left to the stream.
    pub until_ms: Option<i64>,
    /// The floor of an erased history, milliseconds since 1970.
    pub erased: &'a (dyn Fn(&HistoryKey) -> Option<i64> + Sync),
    /// Folder for temporary files, about twice as large as the decoded input.
    pub scratch: &'a Path,
    /// Threads.
    pub threads: usize,
    /// Bytes that the partitions being folded may take together.
    pub memory_bytes: u64,
    /// Told now and then how far the run is, from any thread.
    pub progress: &'a (dyn Fn(Progress) + Sync),
    /// Seconds since some start, for [`EtlOutcome::timings`].
    pub clock_s: &'a dyn Fn() -> f64,
}

impl std::fmt::Debug for EtlRequest<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtlRequest").field("input", self.input).field("settings", self.settings).finish_non_exhaustive()
    }
}

/// Bytes that partitions being folded may take together, unless the caller says otherwise.
pub const MEMORY_BYTES_DEFAULT: u64 = 1 << 30;

/// What a run left behind.
#[derive(Clone, Debug, PartialEq)]
pub struct EtlOutcome {
    /// What became of every row; also in `report.json`.
    pub report: EtlReport,
    /// The manifest; `None` if files failed and that is not accepted: then nothing was published, and
    /// [`EtlReport::check_files`] is the error.
    pub published: Option<Published>,
    /// Seconds of each phase.
    pub timings: Vec<(&'static str, f64)>,
}

/// Floors of forgotten owners, from the lake's erasure table: objects whose names say everything.
pub fn erased_floors(lake: &dyn ObjectStore) -> Result<HashMap<ErasedName, i64>, BatchError> {
    let mut floors = HashMap::new();
    for object in lake.list("erasures")? {
        let parsed = object.path.name().strip_suffix(".json").and_then(|stem| {
            let (name, floor) = stem.split_once('.')?;
            Some((ErasedName::parse(name)?, floor.parse::<i64>().ok()?))
        });
        let Some((name, floor)) = parsed else { continue };
        let held = floors.entry(name).or_insert(floor);
        *held = (*held).max(floor);
    }
    Ok(floors)
}

/// Runs the ETL and publishes the dataset to `store`.
pub fn run(request: &EtlRequest<'_>, store: &dyn ObjectStore) -> Result<EtlOutcome, BatchError> {
    let mut timings = Timings { clock_s: request.clock_s, last: (request.clock_s)(), phases: Vec::new() };
    let inputs = Inputs::find(request)?;
    let as_of_ms = request.as_of_ms.unwrap_or_else(|| inputs.newest_ms());
    std::fs::create_dir_all(request.scratch).map_err(|error| BatchError::scratch("create", request.scratch, error))?;
    let publisher = Publisher::new(store)?;
    let quarantine = Quarantine::create(request.scratch)?;
    let threads = request.threads.max(1);

    // Map: every row of every file, on all threads, into the shuffle.
    let bytes = inputs.interactions.iter().chain(&inputs.users).map(InputFile::decoded_bytes_estimate).sum();
    let users_spill = Spill::create(request.scratch, partition_count(bytes, threads))?;
    let rules = MapRules { types: request.types, as_of_ms, until_ms: request.until_ms };
    let mut tables = Vec::new();
    tables.push(map_interactions(request, &inputs, &rules, &users_spill, &quarantine)?);
    let items_spill = attributes::items_spill(request.scratch, &inputs.items)?;
    let sources = [
        (AttributeTable::Items, &request.mapping.items, &inputs.items, &items_spill),
        (AttributeTable::Users, &request.mapping.users, &inputs.users, &users_spill),
    ];
    for (table, mapping, files, spill) in sources {
        tables.push(map_attributes(request, table, mapping.as_ref(), files, spill, &quarantine)?);
    }
    note_failed_files(&tables, &quarantine)?;
    timings.mark("map");

    // Fold: each owner's rows, partition by partition.
    let days = Days::create(request.scratch)?;
    let folded = fold(request, &users_spill, &days, &publisher)?;
    drop(users_spill);
    timings.mark("fold");

    // Days: the clean rows in order of day and user; the catalogue.
    let written = write_days(request, &days, &publisher)?;
    drop(days);
    let items_table = attributes::items_table();
    let mut items = (0, 0);
    for partition in 0..items_spill.partitions() {
        let (clean, replaced) = attributes::write_items(partition, &items_spill, &items_table, &publisher)?;
        items = (items.0 + clean, items.1 + replaced);
    }
    quarantine.publish(&publisher)?;
    timings.mark("write");

    // Publish: the books first, then one manifest.
    let judged = Judged { types: request.types, settings: request.settings, as_of_ms, until_ms: request.until_ms };
    let tables = tables.into_iter().map(MappedTable::books).collect();
    let report = assemble(&judged, tables, &folded, &written, items);
    let is_whole = report.failed_files().next().is_none();
    let published = publish_checked(publisher, &report, is_whole, store)?;
    timings.mark("publish");
    Ok(EtlOutcome { report, published, timings: timings.phases })
}

/// Publishes if the books balance and the files of this run were read whole, or failures are accepted. The report may
/// name failed files of a dataset that was added to: those were accepted then.
fn publish_checked(
    publisher: Publisher<'_>,
    report: &EtlReport,
    is_whole: bool,
    store: &dyn ObjectStore,
) -> Result<Option<Published>, BatchError> {
    report.check()?;
    if report.interactions.read == report.interactions.quarantined {
        return Err(no_rows(report));
    }
    if report.settings.keep_going || is_whole {
        return Ok(Some(publisher.commit(report)?.0));
    }
    publish::write_report(store, report)?;
    Ok(None)
}

fn no_rows(report: &EtlReport) -> BatchError {
    let first = report.files.iter().find(|file| file.table == "interactions");
    let reason = first.and_then(|file| file.failed.clone()).unwrap_or_else(|| {
        if report.interactions.read == 0 {
            "the files hold no rows".to_owned()
        } else {
            format!("all {} rows were refused: {:?}", report.interactions.read, report.quarantined_by_reason)
        }
    });
    BatchError::NoRows { files: report.files.iter().filter(|file| file.table == "interactions").count(), reason }
}

struct Timings<'a> {
    clock_s: &'a dyn Fn() -> f64,
    last: f64,
    phases: Vec<(&'static str, f64)>,
}

impl Timings<'_> {
    fn mark(&mut self, phase: &'static str) {
        let now = (self.clock_s)();
        self.phases.push((phase, now - self.last));
        self.last = now;
    }
}

/// The files of a run.
struct Inputs {
    interactions: Vec<InputFile>,
    items: Vec<InputFile>,
    users: Vec<InputFile>,
}

impl Inputs {
    fn find(request: &EtlRequest<'_>) -> Result<Self, BatchError> {
        let table = |mapping: &Option<TableMapping>| match mapping {
            Some(mapping) => resolve(request.input, &mapping.files, mapping.optional),
            None => Ok(Vec::new()),
        };
        Ok(Self {
            interactions: resolve(request.input, &request.mapping.interactions.files, false)?,
            items: table(&request.mapping.items)?,
            users: table(&request.mapping.users)?,
        })
    }

    fn newest_ms(&self) -> i64 {
        let all = self.interactions.iter().chain(&self.items).chain(&self.users);
        all.map(|file| file.modified_ms).max().unwrap_or(0)
    }
}

/// A table as mapped: its files, what became of them, and the sinks' accounts.
struct MappedTable {
    name: &'static str,
    files: Vec<InputFile>,
    outcomes: Vec<FileOutcome>,
    accounts: Accounts,
}

impl MappedTable {
    fn books(self) -> TableBooks {
        let lines = self.files.iter().zip(self.outcomes).zip(self.accounts.files);
        let files = lines.map(|((file, outcome), line)| file_line(self.name, file, outcome, &line)).collect();
        let by_reason =
            self.accounts.by_reason.into_iter().map(|(reason, count)| (reason.as_str().to_owned(), count)).collect();
        TableBooks { name: self.name, files, by_reason }
    }
}

fn file_line(table: &str, file: &InputFile, outcome: FileOutcome, counted: &FileReport) -> FileReport {
    FileReport {
        table: table.to_owned(),
        file: file.name.clone(),
        bytes: file.size,
        failed: outcome.failed,
        ..counted.clone()
    }
}

/// The books of one table: its files, and the refused rows by reason.
struct TableBooks {
    name: &'static str,
    files: Vec<FileReport>,
    by_reason: BTreeMap<String, u64>,
}

/// What rows were judged by.
struct Judged<'a> {
    types: &'a EventTypes,
    settings: &'a EtlSettings,
    as_of_ms: i64,
    until_ms: Option<i64>,
}

fn map_interactions(
    request: &EtlRequest<'_>,
    inputs: &Inputs,
    rules: &MapRules<'_>,
    spill: &Spill,
    quarantine: &Quarantine,
) -> Result<MappedTable, BatchError> {
    let mapping = &request.mapping.interactions;
    let constant_type = constant_type(mapping, request.types)?;
    let files = SinkFiles { files: &inputs.interactions, first: 0 };
    let sinks = (0..request.threads.max(1))
        .map(|_| MapSink::new(rules, constant_type, spill.writer(), files, quarantine))
        .collect();
    read_table(request, "interactions", &inputs.interactions, &map::interaction_columns(mapping), sinks)
}

/// The event type of every row, if the mapping names one; it must be in the settings.
fn constant_type<'a>(mapping: &'a InteractionsMapping, types: &EventTypes) -> Result<Option<&'a str>, BatchError> {
    let constant_type = mapping.event_type.as_deref();
    if let Some(name) = constant_type.filter(|name| types.code(name).is_none()) {
        let known: Vec<&str> = types.types().iter().map(|t| &*t.name).collect();
        let problem =
            format!("[interactions] event_type {name:?} is not in the settings, which name: {}", known.join(", "));
        return Err(BatchError::Mapping { problem });
    }
    Ok(constant_type)
}

fn map_attributes(
    request: &EtlRequest<'_>,
    table: AttributeTable,
    mapping: Option<&TableMapping>,
    files: &[InputFile],
    spill: &Spill,
    quarantine: &Quarantine,
) -> Result<MappedTable, BatchError> {
    let name = table.name();
    let Some(mapping) = mapping else {
        return Ok(MappedTable { name, files: Vec::new(), outcomes: Vec::new(), accounts: Accounts::default() });
    };
    let plan = AttributePlan::new(table, mapping);
    let sink_files = SinkFiles { files, first: 0 };
    let sinks = (0..request.threads.max(1))
        .map(|_| AttributeSink::new(table, &plan, spill.writer(), sink_files, quarantine))
        .collect();
    read_table(request, name, files, &plan.columns, sinks)
}

/// A sink that keeps accounts.
trait Accounting: RowSink {
    fn finish(self) -> Result<Accounts, BatchError>;
}

fn read_table<S: Accounting>(
    request: &EtlRequest<'_>,
    name: &'static str,
    files: &[InputFile],
    columns: &Columns,
    mut sinks: Vec<S>,
) -> Result<MappedTable, BatchError> {
    let reading = Reading { files, columns, scratch: request.scratch, progress: request.progress };
    let outcomes = read_rows(&reading, &mut sinks)?;
    let mut accounts = Accounts::default();
    for sink in sinks {
        accounts.add(&sink.finish()?);
    }
    accounts.files.resize(files.len(), FileReport::default());
    Ok(MappedTable { name, files: files.to_vec(), outcomes, accounts })
}

/// A file that failed has an entry of its own in the quarantine, after its rows.
fn note_failed_files(tables: &[MappedTable], quarantine: &Quarantine) -> Result<(), BatchError> {
    for (number, table) in tables.iter().enumerate() {
        for (index, (file, outcome)) in table.files.iter().zip(&table.outcomes).enumerate() {
            if let Some(reason) = &outcome.failed {
                let mut line = Vec::new();
                Quarantined::file(table.name, &file.name, reason).put(&mut line);
                quarantine.add((number as u8, index as u32, u32::MAX), &line)?;
            }
        }
    }
    Ok(())
}

/// Runs `job` for 0..`count` on the request's threads and adds up what they give.
fn on_threads<T: Send + Default>(
    threads: usize,
    count: usize,
    job: impl Fn(usize) -> Result<T, BatchError> + Sync,
    add: impl Fn(&mut T, T) + Sync,
) -> Result<T, BatchError> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut sum = T::default();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return Ok(sum);
            }
            match job(index) {
                Ok(part) => add(&mut sum, part),
                Err(error) => {
                    next.store(count, Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
    };
    let mut sum = T::default();
    let results: Vec<Result<T, BatchError>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.clamp(1, count.max(1))).map(|_| scope.spawn(work)).collect();
        let join = |worker: std::thread::ScopedJoinHandle<'_, _>| match worker.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        workers.into_iter().map(join).collect()
    });
    for result in results {
        add(&mut sum, result?);
    }
    Ok(sum)
}

/// Lets as many partitions be folded at once as fit into memory; one always may.
struct Budget {
    free: Mutex<i64>,
    freed: Condvar,
    total: i64,
}

impl Budget {
    fn new(bytes: u64) -> Self {
        let total = i64::try_from(bytes).unwrap_or(i64::MAX).max(1);
        Self { free: Mutex::new(total), freed: Condvar::new(), total }
    }

    fn with<T>(&self, bytes: u64, work: impl FnOnce() -> T) -> T {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX).min(self.total);
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        while *free < bytes {
            free = self.freed.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
        *free -= bytes;
        drop(free);
        let result = work();
        *self.free.lock().unwrap_or_else(PoisonError::into_inner) += bytes;
        self.freed.notify_all();
        result
    }
}

fn fold(
    request: &EtlRequest<'_>,
    spill: &Spill,
    days: &Days,
    publisher: &Publisher<'_>,
) -> Result<PartitionCounts, BatchError> {
    let rules = FoldRules {
        types: request.types,
        bot_events_per_day_max: request.settings.bot_events_per_day_max,
        erased: request.erased,
    };
    let users_table = attributes::users_table();
    let budget = Budget::new(request.memory_bytes);
    let done = AtomicUsize::new(0);
    let job = |partition: usize| {
        // The rows, their places in order (56 bytes for 35), the day buffers and the histories.
        let held = spill.partition_bytes(partition).saturating_mul(4);
        let counts = budget.with(held, || fold_partition(partition, spill, days, &rules, &users_table, publisher))?;
        let done = done.fetch_add(1, Ordering::Relaxed) + 1;
        (request.progress)(Progress { phase: "fold", done: done as u64, total: spill.partitions() as u64 });
        Ok(counts)
    };
    on_threads(request.threads, spill.partitions(), job, |sum: &mut PartitionCounts, part| sum.add(&part))
}

/// What the days' files hold.
#[derive(Debug, Default)]
struct Written {
    rows: u64,
    days: u64,
    range: Option<(String, String)>,
}

fn write_days(request: &EtlRequest<'_>, days: &Days, publisher: &Publisher<'_>) -> Result<Written, BatchError> {
    let (files, range, day_count) = days.plan();
    let table = days::interactions_table();
    let budget = Budget::new(request.memory_bytes);
    let done = AtomicUsize::new(0);
    let job = |index: usize| {
        let file = &files[index];
        let rows = budget.with(file.bytes.saturating_mul(4), || days.write(file, &table, request.types, publisher))?;
        let done = done.fetch_add(1, Ordering::Relaxed) + 1;
        (request.progress)(Progress { phase: "write", done: done as u64, total: files.len() as u64 });
        Ok(rows)
    };
    let rows = on_threads(request.threads, files.len(), job, |sum: &mut u64, part| *sum += part)?;
    let range = range.map(|(first, last)| (days::day_name(first), days::day_name(last)));
    Ok(Written { rows, days: day_count, range })
}

fn assemble(
    judged: &Judged<'_>,
    tables: Vec<TableBooks>,
    folded: &PartitionCounts,
    written: &Written,
    (item_count, items_replaced): (u64, u64),
) -> EtlReport {
    let mut report = EtlReport {
        format: publish::FORMAT,
        as_of_ms: judged.as_of_ms,
        until_ms: judged.until_ms,
        settings: judged.settings.clone(),
        days: written.days,
        first_day: written.range.as_ref().map(|(first, _)| first.clone()),
        last_day: written.range.as_ref().map(|(_, last)| last.clone()),
        active_users: folded.active_users,
        bots: folded.bots,
        histories: HistoryCounts {
            users: folded.user_histories,
            sessions: folded.session_histories,
            entries: folded.entries,
            bytes: folded.history_bytes,
        },
        ..EtlReport::default()
    };
    for table in tables {
        let mut counts = Counts::default();
        let mut after_cut_over = 0;
        for line in table.files {
            counts.read += line.read;
            counts.quarantined += line.quarantined;
            after_cut_over += line.after_cut_over;
            report.files.push(line);
        }
        for (reason, count) in table.by_reason {
            *report.quarantined_by_reason.entry(reason).or_default() += count;
        }
        match table.name {
            "interactions" => {
                counts.clean = written.rows;
                counts.duplicates = folded.duplicates;
                counts.filtered = after_cut_over + folded.erased;
                for (reason, count) in [("after-cut-over", after_cut_over), ("erased", folded.erased)] {
                    report.filtered_by_reason.insert(reason.to_owned(), count);
                }
                report.interactions = counts;
            }
            "items" => {
                report.items = Counts { clean: item_count, duplicates: items_replaced, ..counts };
            }
            _ => {
                let (clean, duplicates) = (folded.users_with_attributes, folded.attributes_replaced);
                report.users = Counts { clean, duplicates, filtered: folded.attributes_erased, ..counts };
            }
        }
    }
    for (event_type, count) in judged.types.types().iter().zip(&folded.by_event_type) {
        report.clean_by_event_type.insert(event_type.name.to_string(), *count);
    }
    report
}
