//! Opening a snapshot: every promise of the format is verified here, once, so that the accessors cannot fail.

use super::layout::{
    ALIGNMENT, ENTRY_BYTES, FORMAT_VERSION, HEADER_BYTES, HEADER_CHECKSUM_BYTES, Kind, MAGIC, table_end,
};
use super::meta::SnapshotMeta;
use crate::ials::FoldIn;
use crate::map::{Bytes, Plain, numbers};
use anabranch_kernels::{BlockedView, LANES};
use rayon::prelude::*;
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

/// The section's place in the file, and what it holds.
type Ranges = [Range<usize>; Kind::ALL.len()];

/// An open, verified snapshot. Cheap to share; the arrays are read in place.
#[derive(Debug)]
pub struct Snapshot {
    bytes: Bytes,
    ranges: Ranges,
    meta: SnapshotMeta,
    fold_in: FoldIn,
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
        let (ranges, has_catalogue) = read_table(&bytes)?;
        let meta: SnapshotMeta = serde_json::from_slice(&bytes[ranges[0].clone()]).map_err(|_| corrupt(Kind::Meta))?;
        let file = Sections { bytes: &bytes, ranges: &ranges };
        meta.ials.check().map_err(|_| corrupt(Kind::Meta))?;
        meta.blend.check().map_err(|_| corrupt(Kind::Meta))?;
        let items = usize::try_from(meta.item_count).map_err(|_| corrupt(Kind::Meta))?;
        if u32::try_from(items).is_err() {
            return Err(corrupt(Kind::Meta));
        }
        let dim = meta.ials.dim;
        if items == 0 {
            return Err(corrupt(Kind::Meta));
        }
        let checks =
            [check_ids, check_hashes, check_factors, check_neighbours, check_popularity, check_trend, check_catalogue];
        checks
            .par_iter()
            .map(|check| check(&file, items, dim))
            .collect::<Vec<_>>()
            .into_iter()
            .collect::<Result<(), _>>()?;
        let gramian = file.numbers(Kind::Gramian, dim * dim)?;
        let fold_in = FoldIn::new(&meta.ials, gramian, items).map_err(|_| corrupt(Kind::Gramian))?;
        Ok(Self { bytes, ranges, meta, fold_in, has_catalogue })
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
        let position = find_hash(self.array(Kind::Hashes), hash)?;
        Some(self.array::<u32>(Kind::HashItems)[position])
    }

    /// The item factors in the blocked layout.
    pub fn item_factors(&self) -> BlockedView<'_> {
        BlockedView::new(self.array(Kind::Factors), self.item_count(), self.dim()).expect("the shape was verified")
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

fn corrupt(kind: Kind) -> OpenError {
    OpenError::Corrupt { section: kind.name() }
}

const HEADER: OpenError = OpenError::Corrupt { section: "header" };

fn read_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("the range has 4 bytes"))
}

fn read_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("the range has 8 bytes"))
}

/// Verifies header, table, padding and checksums, and returns where each section lies.
fn read_table(bytes: &[u8]) -> Result<(Ranges, bool), OpenError> {
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
        previous = stop;
    }
    if previous != bytes.len() {
        return Err(HEADER);
    }
    (0..count)
        .into_par_iter()
        .map(|position| {
            let stored = read_u64(bytes, HEADER_BYTES + position * ENTRY_BYTES + 24);
            let intact = xxh3_64(&bytes[ranges[position].clone()]) == stored;
            if intact { Ok(()) } else { Err(corrupt(Kind::ALL[position])) }
        })
        .collect::<Vec<_>>()
        .into_iter()
        .collect::<Result<(), _>>()?;
    Ok((ranges, count == Kind::ALL.len()))
}

/// The sections while they are being verified.
struct Sections<'a> {
    bytes: &'a [u8],
    ranges: &'a Ranges,
}

impl Sections<'_> {
    fn of(&self, kind: Kind) -> &[u8] {
        &self.bytes[self.ranges[kind as usize - 1].clone()]
    }

    fn numbers<T: Plain>(&self, kind: Kind, length: usize) -> Result<&[T], OpenError> {
        numbers(self.of(kind)).filter(|values: &&[T]| values.len() == length).ok_or(corrupt(kind))
    }
}

/// Offsets from 0 to `total`, ascending.
fn check_offsets(file: &Sections<'_>, kind: Kind, count: usize, total: usize) -> Result<(), OpenError> {
    let offsets: &[u64] = file.numbers(kind, count + 1)?;
    let good = offsets[0] == 0 && offsets[count] == total as u64 && offsets.is_sorted();
    if good { Ok(()) } else { Err(corrupt(kind)) }
}

fn check_strings(file: &Sections<'_>, offsets: Kind, texts: Kind, count: usize) -> Result<(), OpenError> {
    let bytes = file.of(texts);
    check_offsets(file, offsets, count, bytes.len())?;
    let text = std::str::from_utf8(bytes).map_err(|_| corrupt(texts))?;
    let boundaries: &[u64] = file.numbers(offsets, count + 1)?;
    let good = boundaries.iter().all(|offset| text.is_char_boundary(*offset as usize));
    if good { Ok(()) } else { Err(corrupt(offsets)) }
}

fn check_ids(file: &Sections<'_>, items: usize, _dim: usize) -> Result<(), OpenError> {
    check_strings(file, Kind::ItemIdOffsets, Kind::ItemIds, items)?;
    let (offsets, bytes) = (file.numbers::<u64>(Kind::ItemIdOffsets, items + 1)?, file.of(Kind::ItemIds));
    let mut previous: &[u8] = b"";
    for [start, stop] in offsets.array_windows() {
        let id = &bytes[*start as usize..*stop as usize];
        if id <= previous {
            return Err(corrupt(Kind::ItemIds));
        }
        previous = id;
    }
    Ok(())
}

fn check_hashes(file: &Sections<'_>, items: usize, _dim: usize) -> Result<(), OpenError> {
    let hashes: &[u64] = file.numbers(Kind::Hashes, items)?;
    if hashes.array_windows().any(|[a, b]| a >= b) {
        return Err(corrupt(Kind::Hashes));
    }
    let mut seen = vec![false; items];
    for item in file.numbers::<u32>(Kind::HashItems, items)? {
        match seen.get_mut(*item as usize) {
            Some(seen) if !*seen => *seen = true,
            _ => return Err(corrupt(Kind::HashItems)),
        }
    }
    Ok(())
}

fn check_factors(file: &Sections<'_>, items: usize, dim: usize) -> Result<(), OpenError> {
    let values: &[f32] = file.numbers(Kind::Factors, items.next_multiple_of(LANES) * dim)?;
    if values.par_chunks(1 << 16).any(|chunk| chunk.iter().any(|value| !value.is_finite())) {
        return Err(corrupt(Kind::Factors));
    }
    let gramian: &[f64] = file.numbers(Kind::Gramian, dim * dim)?;
    if gramian.iter().any(|value| !value.is_finite()) { Err(corrupt(Kind::Gramian)) } else { Ok(()) }
}

fn check_neighbours(file: &Sections<'_>, items: usize, _dim: usize) -> Result<(), OpenError> {
    let neighbours: &[u32] = numbers(file.of(Kind::NeighbourItems)).ok_or(corrupt(Kind::NeighbourItems))?;
    check_offsets(file, Kind::NeighbourOffsets, items, neighbours.len())?;
    if neighbours.iter().any(|item| *item as usize >= items) {
        return Err(corrupt(Kind::NeighbourItems));
    }
    let scores: &[f32] = file.numbers(Kind::NeighbourScores, neighbours.len())?;
    let good = scores.iter().all(|score| *score > 0.0 && score.is_finite());
    if good { Ok(()) } else { Err(corrupt(Kind::NeighbourScores)) }
}

fn check_popularity(file: &Sections<'_>, items: usize, _dim: usize) -> Result<(), OpenError> {
    let values: &[f32] = file.numbers(Kind::Popularity, items)?;
    let good = values.iter().all(|value| *value >= 0.0 && value.is_finite());
    if good { Ok(()) } else { Err(corrupt(Kind::Popularity)) }
}

fn check_trend(file: &Sections<'_>, items: usize, _dim: usize) -> Result<(), OpenError> {
    let values: &[f32] = file.numbers(Kind::Trend, items)?;
    let good = values.iter().all(|value| *value > 0.0 && value.is_finite());
    if good { Ok(()) } else { Err(corrupt(Kind::Trend)) }
}

/// A catalogue that is not there has empty ranges and nothing to check.
fn check_catalogue(file: &Sections<'_>, items: usize, _dim: usize) -> Result<(), OpenError> {
    if file.of(Kind::TitleOffsets).is_empty() {
        return Ok(());
    }
    check_strings(file, Kind::TitleOffsets, Kind::Titles, items)?;
    check_strings(file, Kind::CategoryOffsets, Kind::Categories, items)
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
}

/// Where `hash` stands in ascending `hashes`. Hashes spread evenly, so the search begins where `hash` should be and
/// doubles its steps from there: some ten comparisons in a few cache lines, where halving would jump through all.
pub(super) fn find_hash(hashes: &[u64], hash: u64) -> Option<usize> {
    let guess = ((u128::from(hash) * hashes.len() as u128) >> 64) as usize;
    let (mut low, mut high, mut step) = (guess, guess, 16);
    while low > 0 && hashes[low] > hash {
        low = low.saturating_sub(step);
        step *= 2;
    }
    step = 16;
    while high < hashes.len() && hashes[high] < hash {
        high += step;
        step *= 2;
    }
    let high = hashes.len().min(high + 1);
    Some(low + hashes[low..high].binary_search(&hash).ok()?)
}
