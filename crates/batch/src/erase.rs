//! Forgetting in the published dataset: what belongs to somebody leaves it, without another run of the ETL.
//!
//! Only files that hold something of theirs are rewritten, as new content-addressed files; then one create-only
//! manifest names the new set, and the old files and manifests are removed. Until that manifest stands, readers see the
//! dataset before; a crash leaves it readable, and another call finishes the work. The report's books still balance:
//! erased rows move to `filtered`, with the reason `erased`.
//!
//! Guaranteed: afterwards no data file, report or bulk list names the owners; the rows and histories of others keep
//! their bytes; memory holds one file at a time.
//! Not done: the raw input is its owner's and stays (later runs of the ETL leave the rows out by the erasure table);
//! names of input files stay, in report and quarantine; another user who shared an erased session keeps the events and
//! that session's id in the history, though not among the clean interactions.

mod mentions;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anabranch_events::settings::{EventTypeSettings, QUOTA_MAX, ValueTransform};
use anabranch_events::{EventSettings, EventTypes, HistoryKey, codec};
use anabranch_stores::history_file::{HistoryFileError, HistoryFileWriter};
use anabranch_stores::lake::{ObjectPath, ObjectStore};
use memchr::memmem::Finder;
use serde::Serialize;
use sha2::{Digest, Sha256};

use self::mentions::Mentions;
use crate::BatchError;
use crate::dataset::{corrupt, day_of, read_histories, read_quarantine};
use crate::etl::report::{Counts, EtlReport};
use crate::etl::{
    DataFile, FILE_CODE, Manifest, Publisher, Quarantined, compress, highest_number, interactions_table, name_parts,
    newest_manifest, settle, users_table, write_report,
};
use crate::tables::{Column, TableReader};

/// The reason of filtered rows.
const ERASED: &str = "erased";
/// Stands in the report where a reason named somebody.
const REDACTED: &str = "the reason held erased data; run `anabranch etl` again to see why";
/// Kinds of files that hold what belongs to somebody.
const PERSONAL: [&str; 4] = ["histories", "interactions", "users", "quarantine"];
/// Folder of the lists for all users.
const BULK: &str = "bulk";
/// Folder of embeddings as files, `embeddings/<version>/users-….parquet` among them.
const EMBEDDINGS: &str = "embeddings";
/// Says that a folder of embeddings is whole; without it the next run writes them again.
const WRITTEN: &str = "written.json";

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Erased {
    /// Clean interactions.
    pub interactions: u64,
    /// Histories of users and sessions.
    pub histories: u64,
    /// Rows of the users' table.
    pub users: u64,
    /// Entries of the quarantine.
    pub quarantined: u64,
    /// Objects with lists for all users, or with users' embeddings: all of them, since every list and every embedding
    /// names its user. `recommend --all` makes the lists again, the nightly job both.
    pub bulk_objects: u64,
}

/// `owners` and the sessions that the newest dataset's histories ascribe to them (the session's newest word on whose it
/// is). Erase under these names, so that a later run of the ETL does not bring the anonymous part of a session back.
pub fn with_sessions(
    store: &dyn ObjectStore,
    owners: &BTreeSet<HistoryKey>,
) -> Result<BTreeSet<HistoryKey>, BatchError> {
    match newest_manifest(store)? {
        Some((_, manifest)) if !owners.is_empty() => Ok(survey(store, &manifest, owners)?.0),
        _ => Ok(owners.clone()),
    }
}

/// Removes what belongs to `owners`, and to the sessions that the histories ascribe to them, from the newest dataset
/// of `store`, and all lists for all users. `scratch` is a folder for temporary files, each as large as one file of
/// histories.
///
/// A clean interaction is theirs if it names one of the users or one of the sessions; an entry of the quarantine if its
/// raw row or its reason holds one of the ids as a whole word. Without owners or dataset, nothing happens; with nothing
/// of theirs, nothing is written.
///
/// Errors: [`BatchError::Raced`] if another run published meanwhile (run again); [`BatchError::Corrupt`] if a file, or
/// every manifest, is damaged (run the ETL again).
pub fn erase_owner(
    store: &dyn ObjectStore,
    owners: &BTreeSet<HistoryKey>,
    scratch: &Path,
) -> Result<Erased, BatchError> {
    if owners.is_empty() {
        return Ok(Erased::default());
    }
    let bulk_objects = erase_bulk(store)?;
    let highest = highest_number(store)?;
    let Some((number, manifest)) = newest_manifest(store)? else {
        let nothing = Erased { bulk_objects, ..Erased::default() };
        let damaged = || corrupt("manifests", "none is whole; run `anabranch etl` again, then forget again");
        return if highest == 0 { Ok(nothing) } else { Err(damaged()) };
    };
    std::fs::create_dir_all(scratch).map_err(|error| BatchError::scratch("create", scratch, error))?;

    let (owners, touched) = survey(store, &manifest, owners)?;
    let publisher = Publisher::new(store)?;
    let mut work = Erasure::new(store, scratch, &publisher, &owners, &manifest)?;
    for file in of_kind(&manifest, "histories") {
        if touched.contains(&file.path) { work.histories(file)? } else { work.keep(file) }
    }
    for file in of_kind(&manifest, "interactions") {
        work.interactions(file)?;
    }
    // After the interactions, which tell whose sums change.
    for file in of_kind(&manifest, "users") {
        work.users(file)?;
    }
    for file in of_kind(&manifest, "quarantine") {
        work.quarantine(file)?;
    }
    for file in manifest.files.iter().filter(|file| !PERSONAL.contains(&file.kind.as_str())) {
        work.keep(file);
    }
    let Erasure { mentions, mut report, mut erased, changed, .. } = work.finish();
    let changed = redact(&mut report, &mentions) || changed;

    if changed {
        report.check()?;
        publisher.commit_as(highest + 1, &report)?;
    } else {
        // An erasure or a run that was cut off may have left files of theirs that no manifest names.
        settle(store, number, &manifest)?;
    }
    redact_loose_report(store, &mentions, &report)?;
    erased.bulk_objects = bulk_objects;
    Ok(erased)
}

fn erase_bulk(store: &dyn ObjectStore) -> Result<u64, BatchError> {
    let names_users = |name: &str| name.starts_with("users-") || name == WRITTEN;
    let mut objects = store.list(EMBEDDINGS)?;
    objects.retain(|object| names_users(object.path.name()));
    objects.extend(store.list(BULK)?);
    for object in &objects {
        store.delete(&object.path)?;
    }
    Ok(objects.len() as u64)
}

fn of_kind<'a>(manifest: &'a Manifest, kind: &'static str) -> impl Iterator<Item = &'a DataFile> {
    manifest.files.iter().filter(move |file| file.kind == kind)
}

/// The owners with their sessions, and the paths of the files that hold their histories.
fn survey(
    store: &dyn ObjectStore,
    manifest: &Manifest,
    owners: &BTreeSet<HistoryKey>,
) -> Result<(BTreeSet<HistoryKey>, BTreeSet<String>), BatchError> {
    let types = every_type(&manifest.report)?;
    let (mut all, mut touched) = (owners.clone(), BTreeSet::new());
    let users: Vec<(&str, Finder<'_>)> = owners
        .iter()
        .filter(|owner| matches!(owner, HistoryKey::User(_)))
        .map(|owner| (owner.id(), Finder::new(owner.id())))
        .collect();
    for file in of_kind(manifest, "histories") {
        for entry in read_histories(store, file) {
            let (key, bytes) = entry?;
            // Few histories hold the user's name as bytes at all; only these are decoded.
            let ascribed = matches!(key, HistoryKey::Session(_))
                && users.iter().any(|(user, finder)| finder.find(&bytes).is_some() && is_alias(&bytes, user, &types));
            if ascribed || all.contains(&key) {
                touched.insert(file.path.clone());
                all.insert(key);
            }
        }
    }
    Ok((all, touched))
}

/// Whether a session's history says that it is `user`'s. One that does not decode is taken to say so.
fn is_alias(bytes: &[u8], user: &str, types: &EventTypes) -> bool {
    codec::decode(bytes, types).map_or(true, |history| history.alias().is_some_and(|alias| &*alias.user == user))
}

/// Types under which every entry of a dataset's histories decodes: those that its report names, with the widest limits.
fn every_type(report: &EtlReport) -> Result<EventTypes, BatchError> {
    let mut settings = EventSettings::default().with_quota(QUOTA_MAX);
    if let Some(first) = report.clean_by_event_type.keys().next() {
        first.clone_into(&mut settings.default_type);
        let any = EventTypeSettings { weight: 1.0, class: None, value: ValueTransform::None, hides: false };
        settings.types = report.clean_by_event_type.keys().map(|name| (name.clone(), any.clone())).collect();
    }
    settings.compile().map_err(|error| corrupt("the manifest's report", &error.to_string()))
}

/// Replaces reasons that name somebody; whether there were any.
fn redact(report: &mut EtlReport, mentions: &Mentions) -> bool {
    let mut changed = false;
    for reason in report.files.iter_mut().filter_map(|file| file.failed.as_mut()) {
        if reason != REDACTED && mentions.in_text(reason.as_bytes()) {
            REDACTED.clone_into(reason);
            changed = true;
        }
    }
    changed
}

/// A run that published nothing (its files failed) leaves a report of its own.
fn redact_loose_report(store: &dyn ObjectStore, mentions: &Mentions, published: &EtlReport) -> Result<(), BatchError> {
    let path = ObjectPath::new("report.json")?;
    if !store.exists(&path)? {
        return Ok(());
    }
    match serde_json::from_slice::<EtlReport>(&store.get(&path)?) {
        Ok(mut report) => {
            if redact(&mut report, mentions) {
                write_report(store, &report)?;
            }
            Ok(())
        }
        Err(_) => write_report(store, published),
    }
}

/// One erasure under way: what it looks for, and what it found.
struct Erasure<'a> {
    store: &'a dyn ObjectStore,
    scratch: &'a Path,
    publisher: &'a Publisher<'a>,
    owners: &'a BTreeSet<HistoryKey>,
    users: BTreeSet<&'a [u8]>,
    sessions: BTreeSet<&'a [u8]>,
    mentions: Mentions,
    types: EventTypes,
    /// Days of the interactions that stay.
    days: BTreeSet<String>,
    /// Users who are not erased, and how many clean rows they lose with a session that they shared.
    losers: BTreeMap<Vec<u8>, u64>,
    report: EtlReport,
    erased: Erased,
    changed: bool,
}

impl<'a> Erasure<'a> {
    fn new(
        store: &'a dyn ObjectStore,
        scratch: &'a Path,
        publisher: &'a Publisher<'a>,
        owners: &'a BTreeSet<HistoryKey>,
        manifest: &Manifest,
    ) -> Result<Self, BatchError> {
        let (users, sessions): (Vec<_>, Vec<_>) = owners.iter().partition(|owner| matches!(owner, HistoryKey::User(_)));
        let ids = |owners: Vec<&'a HistoryKey>| owners.into_iter().map(|owner| owner.id().as_bytes()).collect();
        Ok(Self {
            store,
            scratch,
            publisher,
            owners,
            users: ids(users),
            sessions: ids(sessions),
            mentions: Mentions::new(owners),
            types: every_type(&manifest.report)?,
            days: BTreeSet::new(),
            losers: BTreeMap::new(),
            report: manifest.report.clone(),
            erased: Erased::default(),
            changed: false,
        })
    }

    /// The report of what is left.
    fn finish(mut self) -> Self {
        if self.erased.interactions > 0 {
            self.report.days = self.days.len() as u64;
            self.report.first_day = self.days.first().cloned();
            self.report.last_day = self.days.last().cloned();
        }
        self
    }

    fn keep(&self, file: &DataFile) {
        self.publisher.keep(file.clone());
    }

    /// Writes what is left of `file`.
    fn replace(&mut self, file: &DataFile, bytes: &[u8], rows: u64) -> Result<(), BatchError> {
        self.changed = true;
        if rows == 0 {
            return Ok(());
        }
        let (folder, suffix) = parts(file)?;
        self.publisher.put(&file.kind, folder, suffix, bytes, rows)
    }

    /// Rewrites a file of histories through the scratch folder.
    fn histories(&mut self, file: &DataFile) -> Result<(), BatchError> {
        let failed = |error| BatchError::scratch("write a temporary file in", self.scratch, error);
        let spool = tempfile::Builder::new().prefix("erase-").tempfile_in(self.scratch).map_err(failed)?;
        let sink = Digesting { out: BufWriter::new(spool.as_file()), digest: Sha256::new(), bytes: 0 };
        let written = |error| writing(self.scratch, error);
        let mut writer = HistoryFileWriter::new(sink).map_err(written)?;
        let mut rows = 0;
        for entry in read_histories(self.store, file) {
            let (key, bytes) = entry?;
            if !self.owners.contains(&key) {
                writer.push(&key, &bytes).map_err(written)?;
                rows += 1;
                continue;
            }
            // A damaged history goes as well; its entries cannot be counted.
            let entries = codec::decode(&bytes, &self.types).map_or(0, |history| history.len() as u64);
            let counts = &mut self.report.histories;
            let owners = if matches!(key, HistoryKey::User(_)) { &mut counts.users } else { &mut counts.sessions };
            take(owners, 1);
            take(&mut counts.entries, entries);
            take(&mut counts.bytes, bytes.len() as u64);
            self.erased.histories += 1;
        }
        let sink = writer.finish().map_err(written)?;
        self.changed = true;
        if rows == 0 {
            return Ok(());
        }
        let (folder, suffix) = parts(file)?;
        let (digest, bytes) = (sink.digest.finalize(), sink.bytes);
        drop(sink.out);
        self.publisher.put_file(&file.kind, folder, suffix, spool.path(), (&digest, bytes), rows)
    }

    /// Rows of a day that name a user or a session of theirs.
    fn interactions(&mut self, file: &DataFile) -> Result<(), BatchError> {
        let bytes = self.store.get(&ObjectPath::new(file.path.as_str())?)?;
        let mut left = 0;
        let mut groups = Vec::new();
        // The two columns that decide are looked at first: most files hold nothing of theirs.
        let mut deciding = TableReader::new(&file.path, bytes.clone())?;
        let mut is_touched = false;
        while let Some((_, columns)) = deciding.next_columns(2)? {
            is_touched = is_touched || self.stay(&columns).contains(&false);
        }
        if is_touched {
            let mut reader = TableReader::new(&file.path, bytes)?;
            while let Some((rows, columns)) = reader.next_group()? {
                let keep = self.stay(&columns);
                if keep.len() != rows || columns.len() < 4 {
                    return Err(corrupt(&file.path, "its columns are not those of interactions"));
                }
                self.count_rows(&columns, &keep);
                left += keep_rows(columns, &keep, &mut groups);
            }
            let mut groups = groups.into_iter();
            let encoded = interactions_table().encode(|| groups.next())?;
            self.replace(file, &encoded, left)?;
        } else {
            self.keep(file);
            left = file.rows;
        }
        if left > 0 {
            self.days.extend(day_of(file).map(str::to_owned));
        }
        Ok(())
    }

    /// For each row of a group of interactions, whether it stays.
    fn stay(&self, columns: &[Column]) -> Vec<bool> {
        let [users, sessions, ..] = columns else { return Vec::new() };
        let is_theirs = |ids: &BTreeSet<&[u8]>, id: Option<&[u8]>| id.is_some_and(|id| ids.contains(id));
        let rows = users.texts().zip(sessions.texts());
        rows.map(|(user, session)| !is_theirs(&self.users, user) && !is_theirs(&self.sessions, session)).collect()
    }

    /// Moves the rows that go from clean to filtered.
    fn count_rows(&mut self, columns: &[Column], keep: &[bool]) {
        let rows = columns[0].texts().zip(columns[3].texts()).zip(keep);
        for ((user, kind), _) in rows.filter(|(_, keep)| !**keep) {
            self.erased.interactions += 1;
            filter(&mut self.report, "interactions", |counts| &mut counts.clean);
            let kind = kind.and_then(|kind| std::str::from_utf8(kind).ok());
            if let Some(count) = kind.and_then(|kind| self.report.clean_by_event_type.get_mut(kind)) {
                take(count, 1);
            }
            if let Some(user) = user.filter(|user| !self.users.contains(user)) {
                *self.losers.entry(user.to_vec()).or_default() += 1;
            }
        }
    }

    /// Rows of erased users go; the sums of those who shared a session with them shrink.
    fn users(&mut self, file: &DataFile) -> Result<(), BatchError> {
        let bytes = self.store.get(&ObjectPath::new(file.path.as_str())?)?;
        let mut reader = TableReader::new(&file.path, bytes)?;
        let (mut groups, mut left, mut is_touched) = (Vec::new(), 0, false);
        while let Some((rows, mut columns)) = reader.next_group()? {
            let [ids, attributes, Column::Long(events), Column::Bool(bots)] = columns.as_mut_slice() else {
                return Err(corrupt(&file.path, "its columns are not those of users"));
            };
            let mut keep = Vec::with_capacity(rows);
            for (((id, attributes), events), is_bot) in ids.texts().zip(attributes.texts()).zip(events).zip(bots) {
                let stays = self.user_stays(id.unwrap_or_default(), attributes.is_some(), events, *is_bot);
                is_touched |= stays != Some(false);
                keep.push(stays.is_some());
            }
            if keep.len() != rows {
                return Err(corrupt(&file.path, "its columns differ in length"));
            }
            left += keep_rows(columns, &keep, &mut groups);
        }
        if !is_touched {
            self.keep(file);
            return Ok(());
        }
        let mut groups = groups.into_iter();
        let encoded = users_table().encode(|| groups.next())?;
        self.replace(file, &encoded, left)
    }

    /// Whether a user's row changes; `None` if it goes.
    fn user_stays(&mut self, id: &[u8], has_attributes: bool, events: &mut i64, is_bot: bool) -> Option<bool> {
        let was_active = *events > 0;
        let is_theirs = self.users.contains(id);
        let lost = self.losers.get(id).copied();
        if is_theirs {
            *events = 0;
            self.erased.users += 1;
            if has_attributes {
                filter(&mut self.report, "users", |counts| &mut counts.clean);
            }
        } else if let Some(lost) = lost {
            *events = (*events - i64::try_from(lost).unwrap_or(i64::MAX)).max(0);
        }
        // As in the ETL: who has neither clean rows nor attributes has no row.
        let stays = !is_theirs && (lost.is_none() || *events > 0 || has_attributes);
        if was_active && *events == 0 {
            take(&mut self.report.active_users, 1);
        }
        if is_bot && !stays {
            take(&mut self.report.bots, 1);
        }
        stays.then_some(lost.is_some())
    }

    /// Entries whose row or reason names somebody.
    fn quarantine(&mut self, file: &DataFile) -> Result<(), BatchError> {
        let lines = read_quarantine(self.store, file)?;
        let (mut kept, mut left) = (String::with_capacity(lines.len()), 0);
        let before = self.erased.quarantined;
        for line in lines.lines() {
            let entry: Quarantined =
                serde_json::from_str(line).map_err(|error| corrupt(&file.path, &error.to_string()))?;
            if self.mentions.in_entry(&entry) {
                self.count_entry(&entry);
            } else {
                kept.push_str(line);
                kept.push('\n');
                left += 1;
            }
        }
        if self.erased.quarantined == before {
            self.keep(file);
            return Ok(());
        }
        self.replace(file, &compress(kept.as_bytes())?, left)
    }

    /// Moves a row that goes from quarantined to filtered. Entries for whole files are in no book.
    fn count_entry(&mut self, entry: &Quarantined) {
        self.erased.quarantined += 1;
        if entry.code == FILE_CODE {
            return;
        }
        filter(&mut self.report, &entry.table, |counts| &mut counts.quarantined);
        if let Some(count) = self.report.quarantined_by_reason.get_mut(&entry.code) {
            take(count, 1);
        }
        self.report.quarantined_by_reason.retain(|_, count| *count > 0);
        let mut files = self.report.files.iter_mut();
        if let Some(file) = files.find(|file| file.table == entry.table && file.file == entry.file) {
            take(&mut file.quarantined, 1);
        }
    }
}

/// One row of a table moves to the filtered ones.
fn filter(report: &mut EtlReport, table: &str, from: impl Fn(&mut Counts) -> &mut u64) {
    let counts = match table {
        "interactions" => &mut report.interactions,
        "items" => &mut report.items,
        _ => &mut report.users,
    };
    take(from(counts), 1);
    counts.filtered += 1;
    *report.filtered_by_reason.entry(ERASED.to_owned()).or_default() += 1;
}

/// Subtracts; books that were wrong before are found by [`EtlReport::check`], not by a panic.
fn take(count: &mut u64, by: u64) {
    *count = count.saturating_sub(by);
}

/// Leaves the rows of `keep` in a row group and puts it to the others, unless nothing is left. Returns how many rows are.
fn keep_rows(mut columns: Vec<Column>, keep: &[bool], groups: &mut Vec<Vec<Column>>) -> u64 {
    for column in &mut columns {
        column.retain(keep);
    }
    let kept = keep.iter().filter(|keep| **keep).count();
    if kept > 0 {
        groups.push(columns);
    }
    kept as u64
}

fn parts(file: &DataFile) -> Result<(&str, &str), BatchError> {
    name_parts(file).ok_or_else(|| corrupt(&file.path, "its name does not hold its digest"))
}

fn writing(scratch: &Path, error: HistoryFileError) -> BatchError {
    match error {
        HistoryFileError::Io { source, .. } => {
            BatchError::Scratch { action: "write a temporary file in", place: PathBuf::from(scratch), source }
        }
        error => BatchError::Encode { what: "histories", detail: error.to_string() },
    }
}

/// Counts and digests what goes through.
struct Digesting<W> {
    out: W,
    digest: Sha256,
    bytes: u64,
}

impl<W: Write> Write for Digesting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.digest.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
