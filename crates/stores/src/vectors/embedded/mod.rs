//! The vector database on disk: LMDB through heed, with hannoy's HNSW index for cosine.
//!
//! One folder is one LMDB environment. Records, the map between external and dense ids, the
//! inverted index on metadata and the HNSW graph change in one LMDB transaction per call, synced at
//! its end: a crash leaves all of a call or nothing. Readers never wait for the writer.
//!
//! An upsert rebuilds the graph around what changed and walks the whole collection once, so many
//! records should come in one call. Hits are scored again from the stored vectors, exactly; only
//! which candidates are looked at is approximate. Collections of at most
//! [`EmbeddedOptions::exact_scan_max`] candidates (small ones, or narrow filters) are scanned
//! exactly instead, as is everything without an index.
//!
//! Known limit: the graph's search does not stop among equal distances, so building over a group of
//! n records with the same direction costs about n² comparisons. Groups of tens do no harm;
//! thousands take minutes.

mod layout;
mod open;
mod search;
mod terms;

use std::collections::BTreeSet;
use std::fs::File;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use hannoy::distances::Cosine;
use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, RoTxn, RwTxn, WithoutTls};
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;

use self::layout::{
    CollectionInfo, RecordView, collection_key, collections_prefix, dense_of, encode_record, id_key, record_key,
};
use self::terms::{TermChanges, Terms, TermsError};
use super::port::{check_records, check_search};
use super::score::unit;
use super::{Collection, Hit, Search, VectorError, VectorRecord, VectorStore};

/// Format of the folder.
const FORMAT: u32 = 1;
/// Key of the format in `collections`; no collection's name starts with a zero byte.
const FORMAT_KEY: &[u8] = b"\0format";

/// Links of a node above the lowest layer of the graph.
const GRAPH_LINKS: usize = 16;
/// Links of a node in the lowest layer: twice as many, as the HNSW paper advises (§4.1).
const GRAPH_LINKS_LOWEST: usize = 32;

/// Whether to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Create the database if need be, and hold the one writer's lock.
    ReadWrite,
    /// Only read what another process may be writing.
    ReadOnly,
}

/// Settings of an embedded vector database.
#[derive(Debug, Clone)]
pub struct EmbeddedOptions {
    /// Whether to write.
    pub access: Access,
    /// Most bytes the database may grow to. Address space, not memory or disk; raise it and reopen
    /// when [`VectorError::Full`] says so. Default 64 GiB.
    pub map_bytes: usize,
    /// Names of the collections that get an HNSW index. Default `items`; users are stored only,
    /// since user → item is answered exactly elsewhere.
    pub indexed: Vec<String>,
    /// Up to this many candidates (records, or records left by a filter) are scanned exactly.
    /// Default 4,096: a scan of that many 64-dimensional records costs about as much as a search
    /// of the graph (`examples/vector_recall.rs` prints both).
    pub exact_scan_max: u64,
    /// Candidates kept while inserting into the graph. Default 128.
    pub ef_construction: usize,
    /// Candidates kept while searching the graph, at least 4 × k. Default 128.
    pub ef_search: usize,
}

impl Default for EmbeddedOptions {
    fn default() -> Self {
        Self {
            access: Access::ReadWrite,
            map_bytes: 64 << 30,
            indexed: vec!["items".to_owned()],
            exact_scan_max: 4096,
            ef_construction: 128,
            ef_search: 128,
        }
    }
}

type Graph = hannoy::Database<'static, Cosine>;
type Plain = Database<'static, Bytes, Bytes>;

#[derive(Debug, Clone, Copy)]
struct Databases {
    collections: Plain,
    ids: Plain,
    records: Plain,
    terms: Terms,
    hnsw: Graph,
}

/// A vector database in a folder.
pub struct EmbeddedVectors {
    // Dropped in this order: the environment is closed before the lock is given up.
    env: Env<WithoutTls>,
    databases: Databases,
    folder: PathBuf,
    options: EmbeddedOptions,
    _lock: Option<File>,
}

impl std::fmt::Debug for EmbeddedVectors {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("EmbeddedVectors")
            .field("folder", &self.folder)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl EmbeddedVectors {
    /// Opens the database in `folder`.
    pub fn open(folder: impl Into<PathBuf>, options: EmbeddedOptions) -> Result<Self, VectorError> {
        let folder = folder.into();
        let (env, lock) = open::open(&folder, &options)?;
        let heed_error = |error| translate(&folder, &options, "open", error);
        let databases = match options.access {
            Access::ReadWrite => create_databases(&env).map_err(heed_error)?,
            Access::ReadOnly => open_databases(&env)
                .map_err(heed_error)?
                .ok_or_else(|| VectorError::Missing { place: folder.display().to_string() })?,
        };
        let store = Self { env, databases, folder, options, _lock: lock };
        store.check_format()?;
        Ok(store)
    }

    /// The database's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn check_format(&self) -> Result<(), VectorError> {
        let rtxn = self.read_txn()?;
        let stored = self.databases.collections.get(&rtxn, FORMAT_KEY);
        let stored = stored.map_err(|error| self.heed("read", error))?;
        let expected = FORMAT.to_string();
        match stored {
            Some(found) if found == expected.as_bytes() => Ok(()),
            Some(found) => Err(VectorError::Format {
                place: self.folder.display().to_string(),
                found: String::from_utf8_lossy(found).into_owned(),
                expected: FORMAT,
            }),
            None => Err(self.corrupt("its format is not recorded")),
        }
    }

    fn read_txn(&self) -> Result<RoTxn<'_, WithoutTls>, VectorError> {
        self.env.read_txn().map_err(|error| self.heed("read", error))
    }

    fn write_txn(&self) -> Result<RwTxn<'_>, VectorError> {
        if self.options.access == Access::ReadOnly {
            return Err(VectorError::ReadOnly { place: self.folder.display().to_string() });
        }
        self.env.write_txn().map_err(|error| self.heed("write", error))
    }

    fn heed(&self, action: &'static str, error: heed::Error) -> VectorError {
        translate(&self.folder, &self.options, action, error)
    }

    fn hannoy(&self, action: &'static str, error: hannoy::Error) -> VectorError {
        match error {
            hannoy::Error::Heed(error) => self.heed(action, error),
            hannoy::Error::Io(error) => self.heed(action, heed::Error::Io(error)),
            other => self.corrupt(&other.to_string()),
        }
    }

    fn terms(&self, action: &'static str, error: TermsError) -> VectorError {
        match error {
            TermsError::Heed(error) => self.heed(action, error),
            TermsError::Damaged(detail) => self.corrupt(&detail),
        }
    }

    fn corrupt(&self, detail: &str) -> VectorError {
        VectorError::Corrupt { place: self.folder.display().to_string(), detail: detail.to_owned() }
    }

    fn info(&self, rtxn: &RoTxn<'_>, collection: Collection<'_>) -> Result<Option<CollectionInfo>, VectorError> {
        let stored = self.databases.collections.get(rtxn, &collection_key(collection));
        let Some(bytes) = stored.map_err(|error| self.heed("read", error))? else { return Ok(None) };
        serde_json::from_slice(bytes).map(Some).map_err(|error| self.corrupt(&error.to_string()))
    }

    fn new_info(
        &self,
        rtxn: &RoTxn<'_>,
        collection: Collection<'_>,
        dim: usize,
    ) -> Result<CollectionInfo, VectorError> {
        let mut taken = BTreeSet::new();
        let entries = self.databases.collections.iter(rtxn).map_err(|error| self.heed("read", error))?;
        for entry in entries {
            let (key, bytes) = entry.map_err(|error| self.heed("read", error))?;
            if key != FORMAT_KEY {
                let info: CollectionInfo =
                    serde_json::from_slice(bytes).map_err(|error| self.corrupt(&error.to_string()))?;
                taken.insert(info.slot);
            }
        }
        let slot = (0..=u16::MAX).find(|slot| !taken.contains(slot));
        let slot = slot.ok_or(VectorError::UsedUp { what: "the 65,536 collections" })?;
        let indexed = self.options.indexed.iter().any(|name| name == collection.name());
        Ok(CollectionInfo { slot, dim, indexed, next_id: 0 })
    }

    fn dense_id(&self, rtxn: &RoTxn<'_>, slot: u16, id: &str) -> Result<Option<u32>, VectorError> {
        // LMDB refuses keys past 511 bytes; no stored id is that long.
        let key = id_key(slot, id);
        if key.len() > self.env.max_key_size() {
            return Ok(None);
        }
        let stored = self.databases.ids.get(rtxn, &key).map_err(|error| self.heed("read", error))?;
        stored.map(|value| dense_of(value).ok_or_else(|| self.corrupt("a dense id is malformed"))).transpose()
    }

    fn record<'t>(
        &self,
        rtxn: &'t RoTxn<'_>,
        info: &CollectionInfo,
        dense: u32,
    ) -> Result<RecordView<'t>, VectorError> {
        let stored = self.databases.records.get(rtxn, &record_key(info.slot, dense));
        let value = stored.map_err(|error| self.heed("read", error))?;
        let value = value.ok_or_else(|| self.corrupt("a record is missing"))?;
        RecordView::new(value, info.dim).ok_or_else(|| self.corrupt("a record is malformed"))
    }

    fn whole_record(&self, view: RecordView<'_>) -> Result<VectorRecord, VectorError> {
        view.to_record().ok_or_else(|| self.corrupt("a record's metadata is malformed"))
    }

    fn writer(&self, info: &CollectionInfo) -> hannoy::Writer<'static, Cosine> {
        hannoy::Writer::new(self.databases.hnsw, info.slot, info.dim)
    }

    /// Brings the graph up to date with the items added and deleted in this transaction.
    fn build_graph(&self, wtxn: &mut RwTxn<'_>, info: &CollectionInfo) -> Result<(), VectorError> {
        let writer = self.writer(info);
        let everything = terms::everything(self.databases.terms, wtxn, info.slot);
        let built = if everything.map_err(|error| self.terms("read", error))?.is_empty() {
            writer.clear(wtxn)
        } else {
            // The seed places nodes on layers; which seed does not matter, that it is given does.
            let mut rng = Xoshiro256PlusPlus::seed_from_u64(u64::from(info.next_id));
            let mut builder = writer.builder(&mut rng);
            builder.ef_construction(self.options.ef_construction).build::<GRAPH_LINKS, GRAPH_LINKS_LOWEST>(wtxn)
        };
        built.map_err(|error| self.hannoy("index", error))
    }

    /// Writes one record and says whether the graph must change.
    fn write_record(
        &self,
        wtxn: &mut RwTxn<'_>,
        info: &mut CollectionInfo,
        changes: &mut TermChanges,
        record: &VectorRecord,
    ) -> Result<bool, VectorError> {
        let mut moved = true;
        let dense = if let Some(dense) = self.dense_id(wtxn, info.slot, &record.id)? {
            let old = self.whole_record(self.record(wtxn, info, dense)?)?;
            changes.remove(info.slot, dense, &old.metadata);
            moved = old.vector != record.vector;
            dense
        } else {
            let dense = info.next_id;
            info.next_id = dense.checked_add(1).ok_or(VectorError::UsedUp { what: "the collection's dense ids" })?;
            let key = id_key(info.slot, &record.id);
            let put = self.databases.ids.put(wtxn, &key, &dense.to_be_bytes());
            put.map_err(|error| self.heed("write", error))?;
            dense
        };
        changes.add(info.slot, dense, &record.metadata);
        let put = self.databases.records.put(wtxn, &record_key(info.slot, dense), &encode_record(record));
        put.map_err(|error| self.heed("write", error))?;
        if info.indexed && moved {
            let added = self.writer(info).add_item(wtxn, dense, &unit(&record.vector));
            added.map_err(|error| self.hannoy("index", error))?;
        }
        Ok(info.indexed && moved)
    }

    /// Removes one record and says whether it was there.
    fn remove_record(
        &self,
        wtxn: &mut RwTxn<'_>,
        info: &CollectionInfo,
        changes: &mut TermChanges,
        id: &str,
    ) -> Result<bool, VectorError> {
        let Some(dense) = self.dense_id(wtxn, info.slot, id)? else { return Ok(false) };
        let old = self.whole_record(self.record(wtxn, info, dense)?)?;
        changes.remove(info.slot, dense, &old.metadata);
        let removed = self.databases.ids.delete(wtxn, &id_key(info.slot, id));
        removed.map_err(|error| self.heed("write", error))?;
        let removed = self.databases.records.delete(wtxn, &record_key(info.slot, dense));
        removed.map_err(|error| self.heed("write", error))?;
        if info.indexed {
            self.writer(info).del_item(wtxn, dense).map_err(|error| self.hannoy("index", error))?;
        }
        Ok(true)
    }
}

impl VectorStore for EmbeddedVectors {
    fn upsert(&self, collection: Collection<'_>, records: &[VectorRecord]) -> Result<(), VectorError> {
        let mut wtxn = self.write_txn()?;
        let known = self.info(&wtxn, collection)?;
        let Some(dim) = check_records(records, known.as_ref().map(|info| info.dim))? else { return Ok(()) };
        let mut info = match known {
            Some(info) => info,
            None => self.new_info(&wtxn, collection, dim)?,
        };
        let mut changes = TermChanges::default();
        let mut graph_changed = false;
        for record in records {
            graph_changed |= self.write_record(&mut wtxn, &mut info, &mut changes, record)?;
        }
        changes.apply(self.databases.terms, &mut wtxn).map_err(|error| self.terms("write", error))?;
        let bytes = serde_json::to_vec(&info).expect("a plain struct serializes");
        let put = self.databases.collections.put(&mut wtxn, &collection_key(collection), &bytes);
        put.map_err(|error| self.heed("write", error))?;
        if graph_changed {
            self.build_graph(&mut wtxn, &info)?;
        }
        wtxn.commit().map_err(|error| self.heed("commit to", error))
    }

    fn delete(&self, collection: Collection<'_>, ids: &[&str]) -> Result<u64, VectorError> {
        let mut wtxn = self.write_txn()?;
        let Some(info) = self.info(&wtxn, collection)? else { return Ok(0) };
        let mut changes = TermChanges::default();
        let mut removed_count = 0;
        for id in ids {
            removed_count += u64::from(self.remove_record(&mut wtxn, &info, &mut changes, id)?);
        }
        if removed_count == 0 {
            return Ok(0);
        }
        changes.apply(self.databases.terms, &mut wtxn).map_err(|error| self.terms("write", error))?;
        if info.indexed {
            self.build_graph(&mut wtxn, &info)?;
        }
        wtxn.commit().map_err(|error| self.heed("commit to", error))?;
        Ok(removed_count)
    }

    fn get(&self, collection: Collection<'_>, id: &str) -> Result<Option<VectorRecord>, VectorError> {
        let rtxn = self.read_txn()?;
        let Some(info) = self.info(&rtxn, collection)? else { return Ok(None) };
        let Some(dense) = self.dense_id(&rtxn, info.slot, id)? else { return Ok(None) };
        self.whole_record(self.record(&rtxn, &info, dense)?).map(Some)
    }

    fn search(&self, collection: Collection<'_>, search: &Search<'_>) -> Result<Vec<Hit>, VectorError> {
        let rtxn = self.read_txn()?;
        let info = self.info(&rtxn, collection)?.ok_or_else(|| VectorError::UnknownCollection {
            name: collection.name().to_owned(),
            version: collection.version().to_owned(),
        })?;
        check_search(search, info.dim)?;
        self.search_in(&rtxn, &info, search)
    }

    fn scan(&self, collection: Collection<'_>, visit: &mut dyn FnMut(VectorRecord)) -> Result<(), VectorError> {
        let rtxn = self.read_txn()?;
        let Some(info) = self.info(&rtxn, collection)? else { return Ok(()) };
        let ids = self.databases.ids.prefix_iter(&rtxn, &info.slot.to_be_bytes());
        for entry in ids.map_err(|error| self.heed("read", error))? {
            let (_, value) = entry.map_err(|error| self.heed("read", error))?;
            let dense = dense_of(value).ok_or_else(|| self.corrupt("a dense id is malformed"))?;
            visit(self.whole_record(self.record(&rtxn, &info, dense)?)?);
        }
        Ok(())
    }

    fn count(&self, collection: Collection<'_>) -> Result<u64, VectorError> {
        let rtxn = self.read_txn()?;
        let Some(info) = self.info(&rtxn, collection)? else { return Ok(0) };
        let everything = terms::everything(self.databases.terms, &rtxn, info.slot);
        Ok(everything.map_err(|error| self.terms("read", error))?.len())
    }

    fn versions(&self, name: &str) -> Result<Vec<String>, VectorError> {
        let rtxn = self.read_txn()?;
        let prefix = collections_prefix(name);
        let entries = self.databases.collections.prefix_iter(&rtxn, &prefix);
        let mut versions = Vec::new();
        for entry in entries.map_err(|error| self.heed("read", error))? {
            let (key, _) = entry.map_err(|error| self.heed("read", error))?;
            if key != FORMAT_KEY {
                versions.push(String::from_utf8_lossy(&key[prefix.len()..]).into_owned());
            }
        }
        Ok(versions)
    }

    fn drop_version(&self, collection: Collection<'_>) -> Result<bool, VectorError> {
        let mut wtxn = self.write_txn()?;
        let Some(info) = self.info(&wtxn, collection)? else { return Ok(false) };
        self.writer(&info).clear(&mut wtxn).map_err(|error| self.hannoy("index", error))?;
        let first = info.slot.to_be_bytes();
        let next = info.slot.checked_add(1).map(u16::to_be_bytes);
        let end = next.as_ref().map_or(Bound::Unbounded, |next| Bound::Excluded(&next[..]));
        let range = (Bound::Included(&first[..]), end);
        for database in [self.databases.ids, self.databases.records, self.databases.terms] {
            let removed = database.delete_range(&mut wtxn, &range);
            removed.map_err(|error| self.heed("write", error))?;
        }
        let removed = self.databases.collections.delete(&mut wtxn, &collection_key(collection));
        removed.map_err(|error| self.heed("write", error))?;
        wtxn.commit().map_err(|error| self.heed("commit to", error))?;
        Ok(true)
    }
}

fn create_databases(env: &Env<WithoutTls>) -> Result<Databases, heed::Error> {
    let wtxn = env.write_txn()?;
    let opened = env.create_databases_and_commit(wtxn, |opener, wtxn| {
        let collections = opener.create_database::<Bytes, Bytes>(wtxn, Some("collections"))?;
        if collections.get(wtxn, FORMAT_KEY)?.is_none() {
            collections.put(wtxn, FORMAT_KEY, FORMAT.to_string().as_bytes())?;
        }
        let all = (
            collections,
            opener.create_database::<Bytes, Bytes>(wtxn, Some("ids"))?,
            opener.create_database::<Bytes, Bytes>(wtxn, Some("records"))?,
            opener.create_database::<Bytes, Bytes>(wtxn, Some("terms"))?,
            opener.create_database(wtxn, Some("hnsw"))?,
        );
        Ok::<_, heed::Error>(CommitOrAbort::<_, ()>::Commit(all))
    })?;
    let (collections, ids, records, terms, hnsw) = opened.unwrap_commit();
    Ok(Databases { collections, ids, records, terms, hnsw })
}

fn open_databases(env: &Env<WithoutTls>) -> Result<Option<Databases>, heed::Error> {
    let rtxn = env.read_txn()?;
    let opened = env.open_databases_and_commit(rtxn, |opener, rtxn| {
        let all = (
            opener.open_database::<Bytes, Bytes>(rtxn, Some("collections"))?,
            opener.open_database::<Bytes, Bytes>(rtxn, Some("ids"))?,
            opener.open_database::<Bytes, Bytes>(rtxn, Some("records"))?,
            opener.open_database::<Bytes, Bytes>(rtxn, Some("terms"))?,
            opener.open_database(rtxn, Some("hnsw"))?,
        );
        Ok::<_, heed::Error>(CommitOrAbort::<_, ()>::Commit(all))
    })?;
    let (Some(collections), Some(ids), Some(records), Some(terms), Some(hnsw)) = opened.unwrap_commit() else {
        return Ok(None);
    };
    Ok(Some(Databases { collections, ids, records, terms, hnsw }))
}

fn translate(folder: &Path, options: &EmbeddedOptions, action: &'static str, error: heed::Error) -> VectorError {
    use heed::MdbError as M;
    let place = folder.display().to_string();
    let detail = error.to_string();
    let disk_full = |error: &std::io::Error| {
        matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
    };
    match error {
        heed::Error::Mdb(M::MapFull) => VectorError::Full { place, map_bytes: options.map_bytes, detail },
        heed::Error::Io(error) if disk_full(&error) => {
            VectorError::Full { place, map_bytes: options.map_bytes, detail }
        }
        heed::Error::Decoding(_)
        | heed::Error::Mdb(M::Corrupted | M::PageNotFound | M::Invalid | M::VersionMismatch | M::Panic) => {
            VectorError::Corrupt { place, detail }
        }
        _ => VectorError::Backend { action, place, detail },
    }
}
