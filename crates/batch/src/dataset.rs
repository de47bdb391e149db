//! The published dataset, read back: what training, the stream's warm start and the tests see.
//!
//! A [`Dataset`] is one manifest. A later run may remove its files; reading then fails with a missing object, and
//! [`Dataset::current`] gives the newer one.

use std::collections::{HashSet, VecDeque};
use std::io::Read;
use std::ops::RangeInclusive;

use anabranch_events::{EventKey, HistoryKey};
use anabranch_stores::history_file::HistoryFileReader;
use anabranch_stores::lake::{ObjectPath, ObjectStore};

use crate::BatchError;
use crate::etl::report::EtlReport;
use crate::etl::{DataFile, Manifest, Quarantined, newest_manifest};
use crate::tables::{Column, TableReader};

/// One published dataset.
#[derive(Debug)]
pub struct Dataset<'a> {
    store: &'a dyn ObjectStore,
    number: u64,
    manifest: Manifest,
}

/// A dataset without its store: what was published under a number.
#[derive(Clone, Debug)]
pub struct Published {
    number: u64,
    manifest: Manifest,
}

impl Published {
    /// The dataset in the store that it was read from.
    pub fn open<'a>(&self, store: &'a dyn ObjectStore) -> Dataset<'a> {
        Dataset { store, number: self.number, manifest: self.manifest.clone() }
    }
}

/// A history's key and encoded bytes, or why it cannot be read.
pub type HistoryEntry = Result<(HistoryKey, Vec<u8>), BatchError>;

/// A clean interaction.
#[derive(Clone, Debug, PartialEq)]
pub struct Interaction {
    /// The user, if known.
    pub user: Option<String>,
    /// The session, if given.
    pub session: Option<String>,
    /// The item.
    pub item: String,
    /// Name of the event type.
    pub event_type: String,
    /// The value, if given.
    pub value: Option<f32>,
    /// Event time, milliseconds since 1970.
    pub time_ms: i64,
    /// The event's key.
    pub event: EventKey,
}

/// An item of the catalogue.
#[derive(Clone, Debug, PartialEq)]
pub struct CatalogItem {
    /// Its id.
    pub id: String,
    /// Its title.
    pub title: Option<String>,
    /// Its category.
    pub category: Option<String>,
    /// Its price.
    pub price: Option<f64>,
    /// Everything else that the input says, by name.
    pub attributes: serde_json::Map<String, serde_json::Value>,
}

/// A user.
#[derive(Clone, Debug, PartialEq)]
pub struct UserRow {
    /// The id.
    pub id: String,
    /// Attributes from the input.
    pub attributes: serde_json::Map<String, serde_json::Value>,
    /// Clean interactions.
    pub events: u64,
    /// Whether training leaves the user out.
    pub is_bot: bool,
}

impl<'a> Dataset<'a> {
    /// The newest whole dataset of a store; [`BatchError::NoDataset`] if there is none.
    pub fn current(store: &'a dyn ObjectStore) -> Result<Self, BatchError> {
        let (number, manifest) = newest_manifest(store)?.ok_or(BatchError::NoDataset)?;
        Ok(Self { store, number, manifest })
    }

    /// The dataset without its store, to be opened again.
    pub fn into_published(self) -> Published {
        Published { number: self.number, manifest: self.manifest }
    }

    /// Number of its manifest.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Its files and report.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// What the run that made it found.
    pub fn report(&self) -> &EtlReport {
        &self.manifest.report
    }

    /// Days with interactions (`2017-12-01`), ascending.
    pub fn days(&self) -> Vec<String> {
        let mut days: Vec<String> = self.of_kind("interactions").filter_map(day_of).map(str::to_owned).collect();
        days.dedup();
        days
    }

    /// Clean interactions of the days in `days` (`None`: all), day by day; within a file in order of (user, time, event
    /// key). One row group is held in memory at a time.
    pub fn interactions(&self, days: Option<&RangeInclusive<&str>>) -> Interactions<'a> {
        let files = self
            .of_kind("interactions")
            .filter(|file| days.is_none_or(|days| day_of(file).is_some_and(|day| days.contains(&day))));
        Interactions { store: self.store, files: files.cloned().collect(), open: None, rows: Vec::new().into_iter() }
    }

    /// The clean interactions of one file ([`Dataset::paths`]).
    pub fn interactions_of(&self, path: &str) -> Result<Interactions<'a>, BatchError> {
        let file = self.file(path)?;
        Ok(Interactions { store: self.store, files: [file].into(), open: None, rows: Vec::new().into_iter() })
    }

    /// The histories of one file ([`Dataset::paths`]), in order of key.
    pub fn histories_of(&self, path: &str) -> Result<Box<dyn Iterator<Item = HistoryEntry>>, BatchError> {
        Ok(read_histories(self.store, &self.file(path)?))
    }

    /// Paths of the files of one kind: `interactions`, `catalog`, `users`, `histories` or `quarantine`.
    pub fn paths(&self, kind: &str) -> Vec<&str> {
        self.manifest.files.iter().filter(|file| file.kind == kind).map(|file| file.path.as_str()).collect()
    }

    pub(crate) fn file(&self, path: &str) -> Result<DataFile, BatchError> {
        let found = self.manifest.files.iter().find(|file| file.path == path);
        found.cloned().ok_or_else(|| BatchError::Records {
            problem: format!("dataset {} has no file {path:?}: list its files again", self.number),
        })
    }

    /// All histories: key and encoded bytes (`anabranch_events::codec`). Within a file in order of key; files hold
    /// disjoint keys.
    pub fn histories(&self) -> impl Iterator<Item = HistoryEntry> + use<'a> {
        let store = self.store;
        let files: Vec<DataFile> = self.of_kind("histories").cloned().collect();
        files.into_iter().flat_map(move |file| read_histories(store, &file))
    }

    /// The catalogue; within a file in order of id.
    pub fn catalog(&self) -> Result<Vec<CatalogItem>, BatchError> {
        let mut items = Vec::new();
        self.each_group("catalog", |place, rows, columns| {
            let mut columns = columns.into_iter();
            let mut texts = |n| texts(columns.next(), rows, place).map(move |t| (n, t));
            let ((_, ids), (_, titles), (_, categories)) = (texts(0)?, texts(1)?, texts(2)?);
            let prices = doubles(columns.next(), rows, place)?;
            let attributes = self::texts(columns.next(), rows, place)?;
            let all = ids.into_iter().zip(titles).zip(categories).zip(prices).zip(attributes);
            for ((((id, title), category), price), attributes) in all {
                let id = id.ok_or_else(|| corrupt(place, "an item has no id"))?;
                items.push(CatalogItem { id, title, category, price, attributes: json(attributes, place)? });
            }
            Ok(())
        })?;
        Ok(items)
    }

    /// Users; within a file in order of id.
    pub fn users(&self) -> Result<Vec<UserRow>, BatchError> {
        let mut users = Vec::new();
        self.each_group("users", |place, rows, columns| {
            let mut columns = columns.into_iter();
            let ids = texts(columns.next(), rows, place)?;
            let attributes = texts(columns.next(), rows, place)?;
            let (Some(Column::Long(events)), Some(Column::Bool(bots))) = (columns.next(), columns.next()) else {
                return Err(corrupt(place, "its columns are not those of users"));
            };
            for (((id, attributes), events), is_bot) in ids.into_iter().zip(attributes).zip(events).zip(bots) {
                let id = id.ok_or_else(|| corrupt(place, "a user has no id"))?;
                let events = u64::try_from(events).unwrap_or(0);
                users.push(UserRow { id, attributes: json(attributes, place)?, events, is_bot });
            }
            Ok(())
        })?;
        Ok(users)
    }

    /// Users whose events are left out of training, and nothing else of the users, who may be a hundred million.
    pub fn bots(&self) -> Result<HashSet<String>, BatchError> {
        let mut bots = HashSet::new();
        self.each_group("users", |place, rows, columns| {
            let mut columns = columns.into_iter();
            let ids = texts(columns.next(), rows, place)?;
            let Some(Column::Bool(is_bot)) = columns.nth(2) else {
                return Err(corrupt(place, "its columns are not those of users"));
            };
            bots.extend(ids.into_iter().zip(is_bot).filter_map(|(id, is_bot)| id.filter(|_| is_bot)));
            Ok(())
        })?;
        Ok(bots)
    }

    /// The quarantine, in order of (table, file, place).
    pub fn quarantine(&self) -> Result<Vec<Quarantined>, BatchError> {
        let mut files: Vec<&DataFile> = self.of_kind("quarantine").collect();
        // Names are digest-NNNNN: the number gives the order.
        files.sort_by_key(|file| file.path.rsplit('-').next().map(str::to_owned));
        let mut entries = Vec::new();
        for file in files {
            for line in read_quarantine(self.store, file)?.lines() {
                entries.push(serde_json::from_str(line).map_err(|error| corrupt(&file.path, &error.to_string()))?);
            }
        }
        Ok(entries)
    }

    fn of_kind(&self, kind: &'static str) -> impl Iterator<Item = &DataFile> {
        self.manifest.files.iter().filter(move |file| file.kind == kind)
    }

    fn each_group(
        &self,
        kind: &'static str,
        mut each: impl FnMut(&str, usize, Vec<Column>) -> Result<(), BatchError>,
    ) -> Result<(), BatchError> {
        for file in self.of_kind(kind) {
            let bytes = self.store.get(&ObjectPath::new(file.path.as_str())?)?;
            let mut reader = TableReader::new(&file.path, bytes)?;
            while let Some((rows, columns)) = reader.next_group()? {
                each(&file.path, rows, columns)?;
            }
        }
        Ok(())
    }
}

/// The histories of one file: key and encoded bytes, in order of key.
pub(crate) fn read_histories(store: &dyn ObjectStore, file: &DataFile) -> Box<dyn Iterator<Item = HistoryEntry>> {
    let place = file.path.clone();
    let reader = match ObjectPath::new(place.as_str()).and_then(|path| store.open(&path)) {
        Err(error) => return Box::new(std::iter::once(Err(BatchError::from(error)))),
        Ok(reader) => HistoryFileReader::new(std::io::BufReader::new(reader), place.clone()),
    };
    match reader {
        Err(error) => Box::new(std::iter::once(Err(corrupt(&place, &error.to_string())))),
        Ok(reader) => Box::new(reader.map(move |entry| entry.map_err(|error| corrupt(&place, &error.to_string())))),
    }
}

/// The lines of one file of the quarantine.
pub(crate) fn read_quarantine(store: &dyn ObjectStore, file: &DataFile) -> Result<String, BatchError> {
    let packed = store.get(&ObjectPath::new(file.path.as_str())?)?;
    let mut lines = String::new();
    zstd::stream::read::Decoder::new(&packed[..])
        .and_then(|mut decoder| decoder.read_to_string(&mut lines))
        .map_err(|error| corrupt(&file.path, &error.to_string()))?;
    Ok(lines)
}

/// The day of a file of interactions.
pub(crate) fn day_of(file: &DataFile) -> Option<&str> {
    file.path.split('/').find_map(|part| part.strip_prefix("day="))
}

pub(crate) fn corrupt(place: &str, detail: &str) -> BatchError {
    BatchError::Corrupt { place: place.to_owned(), detail: detail.to_owned() }
}

fn json(text: Option<String>, place: &str) -> Result<serde_json::Map<String, serde_json::Value>, BatchError> {
    match text {
        None => Ok(serde_json::Map::new()),
        Some(text) => serde_json::from_str(&text).map_err(|error| corrupt(place, &error.to_string())),
    }
}

fn texts(column: Option<Column>, rows: usize, place: &str) -> Result<Vec<Option<String>>, BatchError> {
    let Some(Column::Text { values, present }) = column else {
        return Err(corrupt(place, "a column is not text"));
    };
    let own = |value: &parquet::data_type::ByteArray| {
        value.as_utf8().map(str::to_owned).map_err(|error| corrupt(place, &error.to_string()))
    };
    spread(values.iter().map(own), &present, rows, place)
}

fn doubles(column: Option<Column>, rows: usize, place: &str) -> Result<Vec<Option<f64>>, BatchError> {
    let Some(Column::Double { values, present }) = column else {
        return Err(corrupt(place, "a column is not a number"));
    };
    spread(values.into_iter().map(Ok), &present, rows, place)
}

/// Puts values at the rows that have one.
fn spread<T>(
    mut values: impl Iterator<Item = Result<T, BatchError>>,
    present: &[i16],
    rows: usize,
    place: &str,
) -> Result<Vec<Option<T>>, BatchError> {
    let missing = || corrupt(place, "a column has too few values");
    (0..rows)
        .map(|row| match present.get(row) {
            Some(0) => Ok(None),
            _ => values.next().ok_or_else(missing)?.map(Some),
        })
        .collect()
}

/// Clean interactions, one after another.
pub struct Interactions<'a> {
    store: &'a dyn ObjectStore,
    files: VecDeque<DataFile>,
    open: Option<(String, TableReader)>,
    rows: std::vec::IntoIter<Interaction>,
}

impl std::fmt::Debug for Interactions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Interactions").field("files_left", &self.files.len()).finish_non_exhaustive()
    }
}

impl Interactions<'_> {
    /// Loads the next row group; false at the end.
    fn load(&mut self) -> Result<bool, BatchError> {
        loop {
            if let Some((place, reader)) = &mut self.open {
                if let Some((rows, columns)) = reader.next_group()? {
                    self.rows = interactions(columns, rows, place)?.into_iter();
                    return Ok(true);
                }
                self.open = None;
            }
            let Some(file) = self.files.pop_front() else { return Ok(false) };
            let bytes = self.store.get(&ObjectPath::new(file.path.as_str())?)?;
            let reader = TableReader::new(&file.path, bytes)?;
            self.open = Some((file.path, reader));
        }
    }
}

impl Iterator for Interactions<'_> {
    type Item = Result<Interaction, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(row) = self.rows.next() {
                return Some(Ok(row));
            }
            match self.load() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => {
                    self.files.clear();
                    self.open = None;
                    return Some(Err(error));
                }
            }
        }
    }
}

fn interactions(columns: Vec<Column>, rows: usize, place: &str) -> Result<Vec<Interaction>, BatchError> {
    let mut columns = columns.into_iter();
    let users = texts(columns.next(), rows, place)?;
    let sessions = texts(columns.next(), rows, place)?;
    let items = texts(columns.next(), rows, place)?;
    let kinds = texts(columns.next(), rows, place)?;
    let Some(Column::Float { values, present }) = columns.next() else {
        return Err(corrupt(place, "event_value is not a float"));
    };
    let values = spread(values.into_iter().map(Ok), &present, rows, place)?;
    let Some(Column::Long(times)) = columns.next() else { return Err(corrupt(place, "time_ms is not a number")) };
    let events = texts(columns.next(), rows, place)?;
    let all = users.into_iter().zip(sessions).zip(items).zip(kinds).zip(values).zip(times).zip(events);
    all.map(|((((((user, session), item), event_type), value), time_ms), event)| {
        let event = event.and_then(|hex| u64::from_str_radix(&hex, 16).ok());
        let (Some(item), Some(event_type), Some(event)) = (item, event_type, event) else {
            return Err(corrupt(place, "a required column has a gap"));
        };
        Ok(Interaction { user, session, item, event_type, value, time_ms, event: EventKey(event) })
    })
    .collect()
}
