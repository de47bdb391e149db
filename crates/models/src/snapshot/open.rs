//! Opening a snapshot: every promise of the format is verified here, once, so that the accessors cannot fail.

use super::hashes::HashIndex;
use super::layout::{
    ALIGNMENT, ENTRY_BYTES, FORMAT_VERSION, HEADER_BYTES, HEADER_CHECKSUM_BYTES, Kind, MAGIC, table_end,
};
use super::meta::SnapshotMeta;
use super::sections::{Sections, corrupt};
use crate::ials::FoldIn;
use crate::map::{Bytes, Plain, numbers};
use anabranch_kernels::{BlockedView, Norms, prefetch};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;
use xxhash_rust::xxh3::xxh3_64;

/// Why a file is not opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The file cannot be read.
    #[error("opening the snapshot: {0}")]
    Io(#[from] io::Error),
    /// It does not start with the format's magic bytes.
    #[error("this is not an Anabranch snapshot")]
    NotASnapshot,
    /// A later version of this program wrote it.
    #[error(
        "the snapshot has format {found}, this program reads up to {supported}: upgrade the program, or train again with it"
    )]
    NewerVersion {
        /// The version in the file.
        found: u32,
        /// The greatest that is read.
        supported: u32,
    },
    /// An earlier version of this program wrote it.
    #[error("the snapshot has format {found}, this program reads {supported}: train again")]
    OlderVersion {
        /// The version in the file.
        found: u32,
        /// The one that is read.
        supported: u32,
    },
    /// The file is shorter than it says.
    #[error("the snapshot is cut short: {found} of {expected} bytes; copy it again")]
    Truncated {
        /// Bytes that the header names (or the shortest possible file).
        expected: u64,
        /// Bytes that are there.
        found: u64,
    },
    /// A checksum, a bound or an order is wrong.
    #[error("the snapshot's section \"{section}\" is corrupt; copy it again or train again")]
    Corrupt {
        /// The section's name in `docs/formats.md`.
        section: &'static str,
    },
}

/// Where each section lies in the file.
pub(super) type Ranges = [Range<usize>; Kind::ALL.len()];

/// The checksum that the table holds for each section.
pub(super) type Sums = [u64; Kind::ALL.len()];

/// An open, verified snapshot. Cheap to share; the arrays are read in place.
#[derive(Debug)]
pub struct Snapshot {
    bytes: Bytes,
    ranges: Ranges,
    meta: SnapshotMeta,
    fold_in: FoldIn,
    norms: Norms,
    hashes: HashIndex,
    has_catalogue: bool,
}

impl Snapshot {
    /// Maps and verifies a file. The file must not be changed in place afterwards (published ones never are).
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let file = File::open(path)?;
        if file.metadata()?.len() == 0 {
            return Err(OpenError::NotASnapshot); // an empty file cannot be mapped everywhere
        }
        Self::verify(Bytes::map(&file)?)
    }

    /// Verifies a copy of bytes in memory.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, OpenError> {
        Self::verify(Bytes::copy(bytes))
    }

    fn verify(bytes: Bytes) -> Result<Self, OpenError> {
        let (ranges, sums, has_catalogue) = read_table(&bytes)?;
        let file = Sections { bytes: &bytes, ranges: &ranges, sums: &sums };
        let meta: SnapshotMeta = serde_json::from_slice(file.meta()?).map_err(|_| corrupt(Kind::Meta))?;
        meta.ials.check().map_err(|_| corrupt(Kind::Meta))?;
        meta.blend.check().map_err(|_| corrupt(Kind::Meta))?;
        let items = usize::try_from(meta.item_count).map_err(|_| corrupt(Kind::Meta))?;
        if items == 0 {
            return Err(corrupt(Kind::Meta));
        }
        let dim = meta.ials.dim;
        let norms = file.check(items, dim)?;
        let gramian = file.numbers(Kind::Gramian, dim * dim)?;
        let fold_in = FoldIn::new(&meta.ials, gramian, items).map_err(|_| corrupt(Kind::Gramian))?;
        let hashes = HashIndex::of(file.numbers(Kind::Hashes, items)?);
        Ok(Self { bytes, ranges, meta, fold_in, norms, hashes, has_catalogue })
    }

    /// What the snapshot says about itself.
    pub fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    /// The number of items; indices are below it.
    pub fn item_count(&self) -> usize {
        self.meta.item_count as usize
    }

    /// The number of dimensions.
    pub fn dim(&self) -> usize {
        self.meta.ials.dim
    }

    /// The id of `item`, which must be below [`Self::item_count`].
    pub fn item_id(&self, item: u32) -> &str {
        self.text(Kind::ItemIdOffsets, Kind::ItemIds, item)
    }

    /// The index of an id: the rank of its bytes.
    pub fn item_index(&self, id: &str) -> Option<u32> {
        let (mut low, mut high) = (0, self.item_count() as u32);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.item_id(middle).cmp(id) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Some(middle),
            }
        }
        None
    }

    /// The index of the item whose id has this hash (the hash that the writer was given).
    pub fn item_index_by_hash(&self, hash: u64) -> Option<u32> {
        let position = self.hashes.position(self.array(Kind::Hashes), hash)?;
        Some(self.array::<u32>(Kind::HashItems)[position])
    }

    /// Asks for the memory that [`Self::item_index_by_hash`] reads for these hashes, before they are looked up one after
    /// the other.
    pub fn prefetch_hashes(&self, hashes: impl Iterator<Item = u64> + Clone) {
        self.hashes.prefetch(self.array(Kind::Hashes), self.array(Kind::HashItems), hashes);
    }

    /// The item factors in the blocked layout.
    pub fn item_factors(&self) -> BlockedView<'_> {
        BlockedView::new(self.array(Kind::Factors), self.item_count(), self.dim()).expect("the shape was verified")
    }

    /// The norms of the item factors.
    pub fn item_norms(&self) -> &Norms {
        &self.norms
    }

    /// `Σ h hᵀ` over the item factors, `[dim × dim]`.
    pub fn item_gramian(&self) -> &[f64] {
        self.array(Kind::Gramian)
    }

    /// The fold-in with this snapshot's settings and Gramian.
    pub fn fold_in(&self) -> &FoldIn {
        &self.fold_in
    }

    /// The neighbours of `item`, best first, and their similarities.
    pub fn neighbours(&self, item: u32) -> (&[u32], &[f32]) {
        self.neighbour_lists().of(item)
    }

    /// The neighbours of all items, for callers that look at many.
    pub fn neighbour_lists(&self) -> NeighbourLists<'_> {
        NeighbourLists {
            offsets: self.array(Kind::NeighbourOffsets),
            items: self.array(Kind::NeighbourItems),
            scores: self.array(Kind::NeighbourScores),
        }
    }

    /// Summed training weight of each item.
    pub fn popularity(&self) -> &[f32] {
        self.array(Kind::Popularity)
    }

    /// What each item's scores are multiplied by ([`crate::trend`]); positive and finite.
    pub fn trend(&self) -> &[f32] {
        self.array(Kind::Trend)
    }

    /// The item's title, if the snapshot has a catalogue and the item a title.
    pub fn item_title(&self, item: u32) -> Option<&str> {
        self.catalogue_text(Kind::TitleOffsets, Kind::Titles, item)
    }

    /// The item's category, likewise.
    pub fn item_category(&self, item: u32) -> Option<&str> {
        self.catalogue_text(Kind::CategoryOffsets, Kind::Categories, item)
    }

    fn catalogue_text(&self, offsets: Kind, texts: Kind, item: u32) -> Option<&str> {
        let text = if self.has_catalogue { self.text(offsets, texts, item) } else { "" };
        (!text.is_empty()).then_some(text)
    }

    fn text(&self, offsets: Kind, texts: Kind, item: u32) -> &str {
        let offsets: &[u64] = self.array(offsets);
        let range = offsets[item as usize] as usize..offsets[item as usize + 1] as usize;
        let bytes = &self.bytes[self.ranges[texts as usize - 1].clone()][range];
        std::str::from_utf8(bytes).expect("the texts were verified when the snapshot was opened")
    }

    fn array<T: Plain>(&self, kind: Kind) -> &[T] {
        numbers(&self.bytes[self.ranges[kind as usize - 1].clone()]).expect("the section was verified")
    }
}

const HEADER: OpenError = OpenError::Corrupt { section: "header" };

fn read_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("the range has 4 bytes"))
}

fn read_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("the range has 8 bytes"))
}

/// Verifies header, table and padding, and returns what the table says, and whether there is a catalogue.
fn read_table(bytes: &[u8]) -> Result<(Ranges, Sums, bool), OpenError> {
    let found = bytes.len() as u64;
    let head = &bytes[..bytes.len().min(MAGIC.len())];
    if head.is_empty() || *head != MAGIC[..head.len()] {
        return Err(OpenError::NotASnapshot);
    }
    if bytes.len() < HEADER_BYTES {
        return Err(OpenError::Truncated { expected: HEADER_BYTES as u64, found });
    }
    let version = read_u32(bytes, 8);
    if version > FORMAT_VERSION {
        return Err(OpenError::NewerVersion { found: version, supported: FORMAT_VERSION });
    }
    if version < FORMAT_VERSION {
        return Err(OpenError::OlderVersion { found: version, supported: FORMAT_VERSION });
    }
    let count = read_u32(bytes, 12) as usize;
    let expected = read_u64(bytes, 16);
    if count != Kind::REQUIRED && count != Kind::ALL.len() {
        return Err(HEADER);
    }
    let end = table_end(count);
    if found < expected || bytes.len() < end {
        return Err(OpenError::Truncated { expected: expected.max(end as u64), found });
    }
    let sum_at = end - HEADER_CHECKSUM_BYTES;
    if found != expected || xxh3_64(&bytes[..sum_at]) != read_u64(bytes, sum_at) {
        return Err(HEADER);
    }
    let mut ranges: Ranges = std::array::from_fn(|_| 0..0);
    let mut sums: Sums = [xxh3_64(&[]); Kind::ALL.len()];
    let mut previous = end;
    for (position, kind) in Kind::ALL.into_iter().take(count).enumerate() {
        let entry = &bytes[HEADER_BYTES + position * ENTRY_BYTES..][..ENTRY_BYTES];
        let start = previous.next_multiple_of(ALIGNMENT);
        let length = usize::try_from(read_u64(entry, 16)).map_err(|_| HEADER)?;
        let stop = start.checked_add(length).filter(|stop| *stop <= bytes.len()).ok_or(HEADER)?;
        if read_u32(entry, 0) != kind as u32 || read_u64(entry, 8) != start as u64 {
            return Err(HEADER);
        }
        if bytes[previous..start].iter().any(|byte| *byte != 0) {
            return Err(corrupt(kind)); // the gap before the section is not covered by a checksum
        }
        ranges[position] = start..stop;
        sums[position] = read_u64(entry, 24);
        previous = stop;
    }
    if previous != bytes.len() {
        return Err(HEADER);
    }
    Ok((ranges, sums, count == Kind::ALL.len()))
}

/// The neighbours of every item, borrowed from a snapshot.
#[derive(Debug, Clone, Copy)]
pub struct NeighbourLists<'a> {
    offsets: &'a [u64],
    items: &'a [u32],
    scores: &'a [f32],
}

impl<'a> NeighbourLists<'a> {
    /// The neighbours of `item`, best first, and their similarities.
    pub fn of(&self, item: u32) -> (&'a [u32], &'a [f32]) {
        let range = self.offsets[item as usize] as usize..self.offsets[item as usize + 1] as usize;
        (&self.items[range.clone()], &self.scores[range])
    }

    /// Asks for the memory that says where the neighbours of `item` are.
    pub fn prefetch_place(&self, item: u32) {
        prefetch(&self.offsets[item as usize..=item as usize]);
    }

    /// Asks for the memory of the neighbours of `item`.
    pub fn prefetch(&self, item: u32) {
        let (neighbours, scores) = self.of(item);
        prefetch(neighbours);
        prefetch(scores);
    }
}
