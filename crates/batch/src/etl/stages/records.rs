//! What travels between stages, in columns.

use crate::BatchError;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(i8)]
pub enum RecordKind {
    /// A row to fold; its key is the owner's history key.
    Row = 1,
    /// A row of the catalogue; its key is the item.
    Item = 2,
    /// Lines of the quarantine; keys order them.
    Quarantine = 3,
    /// What became of a file's rows, as JSON.
    Account = 4,
    /// A clean row; its part is the day since 1970, its key begins with 1 for sessions, 0 for users.
    Clean = 5,
    /// A data file that was written, as JSON.
    File = 6,
    /// What a stage counted, as JSON.
    Counts = 7,
}

impl RecordKind {
    /// The kind with this code.
    pub fn of(code: i8) -> Option<Self> {
        use RecordKind::{Account, Clean, Counts, File, Item, Quarantine, Row};
        [Row, Item, Quarantine, Account, Clean, File, Counts].into_iter().find(|kind| *kind as i8 == code)
    }
}

/// Byte strings one after another: string `i` lies at `offsets[i]..offsets[i + 1]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binary {
    /// One for each string, and one more.
    pub offsets: Vec<i32>,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl Default for Binary {
    fn default() -> Self {
        Self { offsets: vec![0], bytes: Vec::new() }
    }
}

impl Binary {
    /// Adds the string that `put` appends; refused where offsets of 32 bits end.
    pub fn push(&mut self, put: impl FnOnce(&mut Vec<u8>)) -> Result<(), BatchError> {
        let before = self.bytes.len();
        put(&mut self.bytes);
        let Ok(end) = i32::try_from(self.bytes.len()) else {
            self.bytes.truncate(before);
            return Err(BatchError::Records {
                problem: "a column of more than 2 GiB: hand smaller batches over".to_owned(),
            });
        };
        self.offsets.push(end);
        Ok(())
    }

    /// The number of strings.
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Records of any kinds, in order. Stages hand them over long before 2 GiB, where the offsets end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Records {
    /// Codes of [`RecordKind`].
    pub kinds: Vec<i8>,
    /// The day of clean rows, 0 of others.
    pub parts: Vec<i64>,
    /// What they are shuffled and sorted by.
    pub keys: Binary,
    /// What they say.
    pub rows: Binary,
}

impl Records {
    /// Adds one. After an error the records are no longer of use.
    pub fn push(
        &mut self,
        kind: RecordKind,
        part: i64,
        key: impl FnOnce(&mut Vec<u8>),
        row: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), BatchError> {
        self.kinds.push(kind as i8);
        self.parts.push(part);
        self.keys.push(key)?;
        self.rows.push(row)
    }

    /// The number of records.
    pub fn len(&self) -> usize {
        self.kinds.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.kinds.is_empty()
    }

    /// Bytes of keys and rows.
    pub(super) fn bytes(&self) -> usize {
        self.keys.bytes.len() + self.rows.bytes.len()
    }

    /// Takes what is there.
    pub(super) fn take(&mut self) -> Self {
        std::mem::take(self)
    }

    /// The same, borrowed.
    pub fn view(&self) -> RecordsRef<'_> {
        RecordsRef {
            kinds: &self.kinds,
            parts: &self.parts,
            keys: BinaryRef { offsets: &self.keys.offsets, bytes: &self.keys.bytes },
            rows: BinaryRef { offsets: &self.rows.offsets, bytes: &self.rows.bytes },
        }
    }
}

/// A [`Binary`] that lies elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct BinaryRef<'a> {
    offsets: &'a [i32],
    bytes: &'a [u8],
}

impl<'a> BinaryRef<'a> {
    /// Offsets (they need not begin at 0) and bytes.
    pub fn new(offsets: &'a [i32], bytes: &'a [u8]) -> Result<Self, BatchError> {
        let bounded = offsets.first().is_some_and(|first| *first >= 0)
            && offsets.last().is_some_and(|end| usize::try_from(*end).is_ok_and(|end| end <= bytes.len()));
        if !bounded || !offsets.is_sorted() {
            return Err(BatchError::Records {
                problem: "the offsets of a binary column do not fit its bytes".to_owned(),
            });
        }
        Ok(Self { offsets, bytes })
    }

    /// The number of strings.
    pub const fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The string at `index`, which must be below [`Self::len`].
    pub fn get(&self, index: usize) -> &'a [u8] {
        &self.bytes[self.offsets[index] as usize..self.offsets[index + 1] as usize]
    }

    /// The strings in order.
    pub fn iter(self) -> impl ExactSizeIterator<Item = &'a [u8]> + Clone {
        (0..self.len()).map(move |index| self.get(index))
    }
}

/// [`Records`] that lie elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct RecordsRef<'a> {
    kinds: &'a [i8],
    parts: &'a [i64],
    keys: BinaryRef<'a>,
    rows: BinaryRef<'a>,
}

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// What it is.
    pub kind: RecordKind,
    /// The day of a clean row.
    pub part: i64,
    /// What it is shuffled by.
    pub key: &'a [u8],
    /// What it says.
    pub row: &'a [u8],
}

impl<'a> RecordsRef<'a> {
    /// Columns of equal length.
    pub fn new(
        kinds: &'a [i8],
        parts: &'a [i64],
        keys: BinaryRef<'a>,
        rows: BinaryRef<'a>,
    ) -> Result<Self, BatchError> {
        if [parts.len(), keys.len(), rows.len()].iter().any(|len| *len != kinds.len()) {
            return Err(BatchError::Records { problem: "the columns differ in length".to_owned() });
        }
        if let Some(code) = kinds.iter().find(|code| RecordKind::of(**code).is_none()) {
            return Err(BatchError::Records { problem: format!("there is no kind {code}") });
        }
        Ok(Self { kinds, parts, keys, rows })
    }

    /// The records in order.
    pub fn iter(self) -> impl Iterator<Item = Record<'a>> {
        (0..self.kinds.len()).filter_map(move |index| {
            Some(Record {
                kind: RecordKind::of(self.kinds[index])?,
                part: self.parts[index],
                key: self.keys.get(index),
                row: self.rows.get(index),
            })
        })
    }

    /// The records, which must all be of this kind.
    pub(super) fn all(self, kind: RecordKind) -> Result<impl Iterator<Item = Record<'a>>, BatchError> {
        match self.iter().find(|record| record.kind != kind) {
            None => Ok(self.iter()),
            Some(other) => Err(BatchError::Records {
                problem: format!("a record of kind {:?} came where {kind:?} is taken: filter by kind", other.kind),
            }),
        }
    }
}
