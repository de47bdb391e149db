//! The embedded state of a stream: log, histories, checkpoints, erasures, outbox, in one fjall database.
//!
//! One database, because one atomic, synced batch must span histories and checkpoint (a crash leaves both or
//! neither). One process, because fjall locks its folder: a second one is told so.
//!
//! | file | what lives there |
//! |---|---|
//! | [`log`] | the durable log: Kinesis's shards, iterators and retention |
//! | [`commit`](mod@commit) | a cut's histories and checkpoint in one synced batch; reading histories |
//! | [`erasures`] | floors of forgotten users, and removing what the state holds of them |
//! | [`outbox`] | what is to be sent because of an event |
//! | [`backup`] | a consistent copy of a running state, and its way back |
//!
//! Guaranteed: what a call reported as done was synced first (`fdatasync` of the journal). Sequence numbers
//! ascend without repeats over the life of the state, restored backups included.
//! Not here: what an event means (`events`), and the order of a cut (`stream`).

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use anabranch_events::CodecError;
use anabranch_events::erasure::{ErasedName, ErasureKey, KEY_BYTES};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use serde::{Deserialize, Serialize};

use crate::ErrorKind;

pub mod backup;
pub mod commit;
pub mod erasures;
pub mod log;
pub mod outbox;

#[cfg(test)]
mod tests;

/// Version of the layout of keys and values; written at creation, checked at every opening.
pub const FORMAT_VERSION: u32 = 1;

const META_FORMAT: &str = "format";
const META_STREAM: &str = "stream";
const META_ERASURE_KEY: &str = "erasure-key";
const META_NEXT_SEQUENCE: &str = "next-sequence";
const META_RESTORED: &str = "restored";
/// Notes that other crates keep (positions of replays, imported data sets).
const META_NOTE_PREFIX: &str = "note:";

/// Most shards of one stream.
pub const SHARDS_MAX: u32 = 256;

/// Why the state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another process has it open.
    #[error(
        "the state in {path} is in use by another process; ask that process (commands find it over loopback), or stop it first"
    )]
    Locked {
        /// The state folder.
        path: PathBuf,
    },
    /// Written by newer code.
    #[error("the state in {path} has format {found}, this program reads {FORMAT_VERSION}: upgrade the program")]
    NewerFormat {
        /// The state folder.
        path: PathBuf,
        /// The version found.
        found: u32,
    },
    /// The stream was created with other settings.
    #[error(
        "the state in {path} belongs to a stream with {found} shards, the settings say {wanted}; set [stream] shards = {found}, or use another state folder"
    )]
    OtherShards {
        /// The state folder.
        path: PathBuf,
        /// Shards at creation.
        found: u32,
        /// Shards asked for.
        wanted: u32,
    },
    /// A setting is out of range.
    #[error("{0}")]
    Setting(String),
    /// Stored bytes are not what was written.
    #[error("the state is corrupt: {what}; restore it with `anabranch restore`")]
    Corrupt {
        /// What does not fit.
        what: String,
    },
    /// A stored history does not decode.
    // Errors are logged, and logs name nobody: the key is for whoever asked.
    #[error("a stored history does not read: {source}; restore the state with `anabranch restore`")]
    History {
        /// Whose history.
        key: String,
        /// Why.
        source: CodecError,
    },
    /// The storage engine failed; nothing was acknowledged.
    #[error("the storage engine failed: {0}; check the disk, then start again: nothing acknowledged is lost")]
    Engine(#[from] fjall::Error),
    /// The file system failed.
    #[error("{action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What happened.
        source: std::io::Error,
    },
}

impl StateError {
    /// What the caller can do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Locked { .. } => ErrorKind::Fenced,
            Self::NewerFormat { .. } | Self::OtherShards { .. } | Self::Setting(_) => ErrorKind::FixInput,
            Self::Corrupt { .. } | Self::History { .. } => ErrorKind::Corrupt,
            Self::Engine(fjall::Error::Io(source)) | Self::Io { source, .. }
                if source.kind() == std::io::ErrorKind::StorageFull =>
            {
                ErrorKind::Full
            }
            Self::Engine(_) | Self::Io { .. } => ErrorKind::Retry,
        }
    }
}

/// What a stream is, fixed at its creation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamIdentity {
    /// Its name.
    pub name: String,
    /// When it was created, milliseconds since 1970; part of the namespace of everything it delivers.
    pub created_ms: i64,
    /// Number of shards.
    pub shards: u32,
}

impl StreamIdentity {
    /// Name and creation time: two streams that ever existed under one name do not share ids or folders.
    pub fn namespace(&self) -> String {
        format!("{}-{}", self.name, self.created_ms)
    }
}

/// The open state. All methods may be called from any thread.
pub struct State {
    path: PathBuf,
    db: Database,
    meta: Keyspace,
    log: Keyspace,
    histories: Keyspace,
    checkpoints: Keyspace,
    erasures: Keyspace,
    outbox: Keyspace,
    identity: StreamIdentity,
    erasure_key: ErasureKey,
    /// The next sequence number; its lock also makes appends one at a time.
    next_sequence: Mutex<u64>,
    /// Makes read-join-write of histories one at a time.
    committing: Mutex<()>,
    /// Floors in memory, since every history read asks for one. Empty for most deployments.
    floors: RwLock<std::collections::HashMap<ErasedName, i64>>,
    /// Bytes of all log records: those appended since the opening, and from the first trim on, which counts the rest, all.
    log_bytes: AtomicU64,
    /// Where each shard's log begins, so that trimming does not pass again over what it removed; `None` until the first
    /// trim. Its lock also makes trimming and erasing in the log one at a time.
    log_begins: Mutex<Option<Vec<u64>>>,
    restored: bool,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("path", &self.path).field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// What [`State::open`] needs to create a state that is not there yet.
#[derive(Debug)]
pub struct Create {
    /// The stream's name.
    pub name: String,
    /// Its shards; also checked against an existing state.
    pub shards: u32,
    /// The time, milliseconds since 1970.
    pub now_ms: i64,
    /// 32 random bytes from the operating system: the secret of the erasure table.
    pub secret: [u8; KEY_BYTES],
}

impl State {
    /// Opens the state in `path`, or creates it.
    pub fn open(path: &Path, create: Create) -> Result<Self, StateError> {
        if !(1..=SHARDS_MAX).contains(&create.shards) {
            return Err(StateError::Setting(format!("[stream] shards = {}: give 1 to {SHARDS_MAX}", create.shards)));
        }
        let db = open_database(path)?;
        let meta = db.keyspace("meta", KeyspaceCreateOptions::default)?;
        let format = meta.get(META_FORMAT)?.map(|bytes| read_u32(&bytes)).transpose()?;
        match format {
            Some(FORMAT_VERSION) => {}
            Some(found) => return Err(StateError::NewerFormat { path: path.to_owned(), found }),
            None => {
                let identity = StreamIdentity { name: create.name, created_ms: create.now_ms, shards: create.shards };
                let mut batch = db.batch().durability(Some(PersistMode::SyncAll));
                batch.insert(&meta, META_STREAM, to_json(&identity));
                batch.insert(&meta, META_ERASURE_KEY, &create.secret[..]);
                batch.insert(&meta, META_FORMAT, &FORMAT_VERSION.to_le_bytes()[..]);
                batch.commit()?;
            }
        }
        let state = Self::assemble(path, db, meta)?;
        if state.identity.shards != create.shards {
            return Err(StateError::OtherShards {
                path: path.to_owned(),
                found: state.identity.shards,
                wanted: create.shards,
            });
        }
        Ok(state)
    }

    /// Whether `path` holds a state.
    pub fn exists(path: &Path) -> bool {
        path.join("keyspaces").is_dir() || path.join("version").is_file()
    }

    /// Opens the state in `path`, which must be there.
    pub fn open_existing(path: &Path) -> Result<Self, StateError> {
        if !Self::exists(path) {
            return Err(StateError::Setting(format!(
                "there is no stream state in {}; `anabranch stream` or `anabranch demo` creates one",
                path.display()
            )));
        }
        let db = open_database(path)?;
        let meta = db.keyspace("meta", KeyspaceCreateOptions::default)?;
        let format = meta.get(META_FORMAT)?.map(|bytes| read_u32(&bytes)).transpose()?;
        match format {
            Some(FORMAT_VERSION) => Self::assemble(path, db, meta),
            Some(found) => Err(StateError::NewerFormat { path: path.to_owned(), found }),
            None => Err(StateError::Corrupt { what: format!("{} has no format version", path.display()) }),
        }
    }

    fn assemble(path: &Path, db: Database, meta: Keyspace) -> Result<Self, StateError> {
        let missing = |what: &str| StateError::Corrupt { what: format!("{what} is missing in {}", path.display()) };
        let identity = meta.get(META_STREAM)?.ok_or_else(|| missing("the stream's identity"))?;
        let identity: StreamIdentity = serde_json::from_slice(&identity)
            .map_err(|e| StateError::Corrupt { what: format!("the stream's identity does not parse: {e}") })?;
        let secret = meta.get(META_ERASURE_KEY)?.ok_or_else(|| missing("the erasure key"))?;
        let secret: [u8; KEY_BYTES] = secret
            .as_ref()
            .try_into()
            .map_err(|_| StateError::Corrupt { what: "the erasure key's length".to_owned() })?;
        let keyspace = |name| db.keyspace(name, KeyspaceCreateOptions::default);
        let log = keyspace("log")?;
        let stored_next = meta.get(META_NEXT_SEQUENCE)?.map(|bytes| read_u64(&bytes)).transpose()?.unwrap_or(1);
        let mut next = stored_next;
        for shard in 0..identity.shards {
            if let Some(last) = log.prefix(shard.to_be_bytes()).next_back() {
                next = next.max(log::sequence_of(&last.key()?)? + 1);
            }
        }
        let erasures = keyspace("erasures")?;
        let floors = erasures::load(&erasures)?;
        let restored = meta.get(META_RESTORED)?.is_some();
        Ok(Self {
            path: path.to_owned(),
            log,
            histories: keyspace("histories")?,
            checkpoints: keyspace("checkpoints")?,
            erasures,
            outbox: keyspace("outbox")?,
            identity,
            erasure_key: ErasureKey::new(secret),
            next_sequence: Mutex::new(next),
            committing: Mutex::new(()),
            floors: RwLock::new(floors),
            log_bytes: AtomicU64::new(0),
            log_begins: Mutex::new(None),
            restored,
            meta,
            db,
        })
    }

    /// What this stream is.
    pub const fn identity(&self) -> &StreamIdentity {
        &self.identity
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether this state came back from a backup and its chain of objects was not walked yet: objects may exist
    /// that are newer than the log.
    pub const fn is_restored(&self) -> bool {
        self.restored
    }

    /// Says that the chain of objects was walked to its end at `last_sequence`: numbers up to it are not given again.
    pub fn finish_restore(&self, last_sequence: u64) -> Result<(), StateError> {
        let mut next = self.next_sequence.lock().unwrap_or_else(PoisonError::into_inner);
        *next = (*next).max(last_sequence + 1);
        let mut batch = self.db.batch().durability(Some(PersistMode::SyncAll));
        batch.insert(&self.meta, META_NEXT_SEQUENCE, &next.to_le_bytes()[..]);
        batch.remove(&self.meta, META_RESTORED);
        batch.commit()?;
        Ok(())
    }

    /// A note kept under `name` (the position of a replay, the data set that was imported).
    pub fn note(&self, name: &str) -> Result<Option<Vec<u8>>, StateError> {
        Ok(self.meta.get(format!("{META_NOTE_PREFIX}{name}"))?.map(|bytes| bytes.to_vec()))
    }

    /// Keeps a note, synced.
    pub fn put_note(&self, name: &str, value: &[u8]) -> Result<(), StateError> {
        let mut batch = self.db.batch().durability(Some(PersistMode::SyncAll));
        batch.insert(&self.meta, format!("{META_NOTE_PREFIX}{name}"), value);
        batch.commit()?;
        Ok(())
    }

    /// Held while stored histories or the outbox are read, changed and written.
    fn lock_commits(&self) -> MutexGuard<'_, ()> {
        self.committing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes on disk.
    pub fn disk_bytes(&self) -> Result<u64, StateError> {
        Ok(self.db.disk_space()?)
    }
}

fn open_database(path: &Path) -> Result<Database, StateError> {
    // Two workers flush and compact; the journal may grow to 256 MiB before the oldest memtable is flushed.
    Database::builder(path).worker_threads(2).max_journaling_size(256 << 20).cache_size(64 << 20).open().map_err(
        |error| match error {
            fjall::Error::Locked => StateError::Locked { path: path.to_owned() },
            other => StateError::Engine(other),
        },
    )
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain structs of text and numbers serialise")
}

fn read_u32(bytes: &[u8]) -> Result<u32, StateError> {
    bytes.try_into().map(u32::from_le_bytes).map_err(|_| StateError::Corrupt { what: "a number's length".to_owned() })
}

fn read_u64(bytes: &[u8]) -> Result<u64, StateError> {
    bytes.try_into().map(u64::from_le_bytes).map_err(|_| StateError::Corrupt { what: "a number's length".to_owned() })
}
