//! A consistent copy of a running state. One fjall snapshot spans all keyspaces, so log, histories, checkpoints and
//! erasures are of one instant without stopping anything; the chain of delivered objects is walked on the first start
//! after a restore (see [`State::finish_restore`]). Layout in `docs/formats.md`.

use std::io::{self, Read, Write};
use std::path::Path;

use fjall::{KeyspaceCreateOptions, PersistMode, Readable};
use xxhash_rust::xxh3::Xxh3;

use super::{FORMAT_VERSION, META_NEXT_SEQUENCE, META_RESTORED, State, StateError, open_database};

const MAGIC: [u8; 8] = *b"ANBBACK\0";
const KEYSPACES: [&str; 6] = ["meta", "log", "histories", "checkpoints", "erasures", "outbox"];
const END: u8 = 0xff;
/// Values are log records (1 MiB) and histories; nothing is larger than this.
const VALUE_BYTES_MAX: u32 = 64 << 20;

/// What a backup holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackupSummary {
    /// Entries of all keyspaces.
    pub entries: u64,
    /// Bytes written or read.
    pub bytes: u64,
}

struct Summing<T> {
    inner: T,
    hash: Xxh3,
    bytes: u64,
}

impl<W: Write> Summing<W> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), StateError> {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        self.inner.write_all(bytes).map_err(|source| failed("writing", source))
    }
}

impl<R: Read> Summing<R> {
    fn take(&mut self, length: usize) -> Result<Vec<u8>, StateError> {
        // Grows with what is there, not with what a damaged length claims.
        let mut bytes = Vec::new();
        let read = self.inner.by_ref().take(length as u64).read_to_end(&mut bytes);
        if read.map_err(|source| failed("reading", source))? < length {
            return Err(StateError::Corrupt { what: "the backup is truncated".to_owned() });
        }
        self.hash.update(&bytes);
        self.bytes += length as u64;
        Ok(bytes)
    }

    fn take_u32(&mut self) -> Result<u32, StateError> {
        super::read_u32(&self.take(4)?)
    }
}

fn failed(action: &'static str, source: io::Error) -> StateError {
    StateError::Io { action, path: "the backup".into(), source }
}

impl State {
    /// Writes a backup of this instant.
    pub fn backup(&self, out: impl Write) -> Result<BackupSummary, StateError> {
        // The lock holds appends for the moment in which the snapshot is taken, so that the stored number fits the log.
        let (snapshot, next) = {
            let next = self.next_sequence.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            (self.db.snapshot(), *next)
        };
        let mut out = Summing { inner: out, hash: Xxh3::new(), bytes: 0 };
        let mut entries = 0;
        out.put(&MAGIC)?;
        out.put(&FORMAT_VERSION.to_le_bytes())?;
        let keyspaces = [&self.meta, &self.log, &self.histories, &self.checkpoints, &self.erasures, &self.outbox];
        for (index, keyspace) in keyspaces.into_iter().enumerate() {
            for guard in snapshot.iter(keyspace) {
                let (key, value) = guard.into_inner()?;
                if index == 0 && key.as_ref() == META_NEXT_SEQUENCE.as_bytes() {
                    continue;
                }
                put_entry(&mut out, index as u8, &key, &value)?;
                entries += 1;
            }
        }
        put_entry(&mut out, 0, META_NEXT_SEQUENCE.as_bytes(), &next.to_le_bytes())?;
        put_entry(&mut out, 0, META_RESTORED.as_bytes(), &[1])?;
        out.put(&[END])?;
        let digest = out.hash.digest();
        out.put(&digest.to_le_bytes())?;
        out.inner.flush().map_err(|source| failed("writing", source))?;
        Ok(BackupSummary { entries: entries + 2, bytes: out.bytes })
    }

    /// Restores a backup into `path`, where no state may be. The whole backup is checked before anything is written
    /// (it is read twice, hence `open`).
    pub fn restore<R: Read>(path: &Path, open: &dyn Fn() -> io::Result<R>) -> Result<BackupSummary, StateError> {
        if Self::exists(path) {
            return Err(StateError::Setting(format!(
                "there is a state in {} already; move it away before restoring",
                path.display()
            )));
        }
        read_backup(open().map_err(|source| failed("opening", source))?, &mut |_, _, _| Ok(()))?;
        let db = open_database(path)?;
        let keyspaces = KEYSPACES
            .iter()
            .map(|name| db.keyspace(name, KeyspaceCreateOptions::default))
            .collect::<Result<Vec<_>, _>>()?;
        let mut format = None;
        let summary = read_backup(open().map_err(|source| failed("opening", source))?, &mut |keyspace, key, value| {
            if keyspace == 0 && key == super::META_FORMAT.as_bytes() {
                format = Some(value); // written last: a restore that was cut short is no state
            } else {
                keyspaces[usize::from(keyspace)].insert(key, value)?;
            }
            Ok(())
        })?;
        db.persist(PersistMode::SyncAll)?;
        let format = format.ok_or_else(|| StateError::Corrupt { what: "the backup names no format".to_owned() })?;
        keyspaces[0].insert(super::META_FORMAT, format)?;
        db.persist(PersistMode::SyncAll)?;
        Ok(summary)
    }
}

fn put_entry(out: &mut Summing<impl Write>, keyspace: u8, key: &[u8], value: &[u8]) -> Result<(), StateError> {
    out.put(&[keyspace])?;
    out.put(&(key.len() as u32).to_le_bytes())?;
    out.put(key)?;
    out.put(&(value.len() as u32).to_le_bytes())?;
    out.put(value)
}

pub(crate) type EachEntry<'a> = dyn FnMut(u8, Vec<u8>, Vec<u8>) -> Result<(), StateError> + 'a;

pub(crate) fn read_backup(input: impl Read, each: &mut EachEntry<'_>) -> Result<BackupSummary, StateError> {
    let corrupt = |what: &str| StateError::Corrupt { what: format!("the backup: {what}") };
    let mut input = Summing { inner: input, hash: Xxh3::new(), bytes: 0 };
    if input.take(8)? != MAGIC {
        return Err(corrupt("it is not a backup of a state"));
    }
    let found = input.take_u32()?;
    if found > FORMAT_VERSION {
        return Err(StateError::NewerFormat { path: "the backup".into(), found });
    }
    let mut entries = 0;
    loop {
        let keyspace = input.take(1)?[0];
        if keyspace == END {
            let computed = input.hash.digest();
            if super::read_u64(&input.take(8)?)? != computed {
                return Err(corrupt("checksum"));
            }
            return Ok(BackupSummary { entries, bytes: input.bytes });
        }
        if usize::from(keyspace) >= KEYSPACES.len() {
            return Err(corrupt("an unknown keyspace"));
        }
        let key_len = input.take_u32()?;
        if key_len > 4096 {
            return Err(corrupt("a key's length"));
        }
        let key = input.take(key_len as usize)?;
        let value_len = input.take_u32()?;
        if value_len > VALUE_BYTES_MAX {
            return Err(corrupt("a value's length"));
        }
        let value = input.take(value_len as usize)?;
        each(keyspace, key, value)?;
        entries += 1;
    }
}
