//! What the sections of a snapshot promise, verified once when it is opened.
//!
//! Every byte is read once: a checksum and a look at each value both wait for memory, and a snapshot may have gigabytes.

use super::layout::Kind;
use super::open::{OpenError, Ranges, Sums};
use crate::map::{Plain, numbers};
use anabranch_kernels::{Kernels, LANES, LongHash, Norms, NormsBuilder};
use rayon::prelude::*;
use std::sync::OnceLock;
use xxhash_rust::xxh3::xxh3_64;

/// Hashed and looked at while they are in the cache: a quarter of a small second-level cache; a whole number of values and
/// of the checksum's blocks.
const CHUNK_BYTES: usize = 64 << 10;

/// The bits of +∞; those of NaN lie above.
const INFINITE: u32 = 0x7F80_0000;
const NEGATIVE_ZERO: u32 = 0x8000_0000;

pub(super) fn corrupt(kind: Kind) -> OpenError {
    OpenError::Corrupt { section: kind.name() }
}

/// What bits a section's numbers may have: `(bits & mask) − least`, wrapping, is below `count`.
struct InRange {
    mask: u32,
    least: u32,
    count: u32,
}

impl InRange {
    fn holds(&self, chunk: &[u8]) -> bool {
        let Self { mask, least, count } = *self;
        numbers(chunk).is_some_and(|values| Kernels::best().all_in_range(values, mask, least, count))
    }
}

/// The sections of a file whose header and table were verified.
pub(super) struct Sections<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) ranges: &'a Ranges,
    pub(super) sums: &'a Sums,
}

impl<'a> Sections<'a> {
    /// What the snapshot says about itself, its checksum verified.
    pub(super) fn meta(&self) -> Result<&'a [u8], OpenError> {
        self.check_sum(Kind::Meta, CHUNK_BYTES, |_| true)?;
        Ok(self.of(Kind::Meta))
    }

    /// Verifies everything else, and returns the norms of the factors: their bytes are in the cache anyway.
    pub(super) fn check(&self, items: usize, dim: usize) -> Result<Norms, OpenError> {
        // Each section on one core, the big ones first; their values are looked at while their checksum is taken.
        let mut kinds = Kind::ALL;
        let items_below = u32::try_from(items).map_err(|_| corrupt(Kind::Meta))?;
        kinds.sort_by_key(|kind| std::cmp::Reverse(self.of(*kind).len()));
        let norms = OnceLock::new();
        let checked: Vec<_> = kinds
            .par_iter()
            .with_max_len(1)
            .map(|kind| match kind {
                Kind::Factors => self.check_factors(items, dim).map(|found| drop(norms.set(found))),
                kind => self.check_values(*kind, items_below),
            })
            .collect();
        checked.into_iter().collect::<Result<(), _>>()?;
        let checks: [Check; 6] =
            [check_ids, check_hashes, check_gramian, check_neighbours, check_per_item, check_catalogue];
        let checked: Vec<_> = checks.par_iter().map(|check| check(self, items, dim)).collect();
        checked.into_iter().collect::<Result<(), _>>()?;
        norms.into_inner().ok_or(corrupt(Kind::Factors))
    }

    /// The checksum, and of the sections of numbers that each value is one that may be there.
    fn check_values(&self, kind: Kind, items: u32) -> Result<(), OpenError> {
        let check = |range: InRange| self.check_sum(kind, CHUNK_BYTES, |chunk| range.holds(chunk));
        match kind {
            Kind::NeighbourItems => check(InRange { mask: u32::MAX, least: 0, count: items }),
            Kind::NeighbourScores | Kind::Trend => check(InRange { mask: u32::MAX, least: 1, count: INFINITE - 1 }),
            Kind::Popularity => self.check_sum(kind, CHUNK_BYTES, |chunk| {
                let is_good = |bits: u32| bits < INFINITE || bits == NEGATIVE_ZERO;
                numbers::<u32>(chunk).is_some_and(|values| values.iter().all(|bits| is_good(*bits)))
            }),
            _ => self.check_sum(kind, CHUNK_BYTES, |_| true),
        }
    }

    /// Checksum, values and shape of the factors, and their norms.
    fn check_factors(&self, items: usize, dim: usize) -> Result<Norms, OpenError> {
        self.numbers::<f32>(Kind::Factors, items.next_multiple_of(LANES) * dim)?;
        let finite = InRange { mask: !NEGATIVE_ZERO, least: 0, count: INFINITE };
        let mut norms = NormsBuilder::new(Kernels::best(), items, dim);
        // Whole blocks of items and whole blocks of the checksum.
        let least = LongHash::BLOCK_BYTES * dim;
        self.check_sum(Kind::Factors, least * (CHUNK_BYTES / least).max(1), |chunk| {
            norms.push(numbers(chunk).unwrap_or_default());
            finite.holds(chunk)
        })?;
        norms.finish().ok_or(corrupt(Kind::Factors))
    }

    /// Takes the checksum and asks `is_good` about every chunk, which is then in the cache.
    fn check_sum(
        &self,
        kind: Kind,
        chunk_bytes: usize,
        mut is_good: impl FnMut(&[u8]) -> bool,
    ) -> Result<(), OpenError> {
        let bytes = self.of(kind);
        let mut good = true;
        let sum = if bytes.len() > LongHash::SHORT_BYTES_MAX {
            LongHash::of(Kernels::best(), bytes, chunk_bytes, |chunk| good &= is_good(chunk))
        } else {
            bytes.chunks(chunk_bytes).for_each(|chunk| good &= is_good(chunk));
            xxh3_64(bytes)
        };
        if good && sum == self.sums[kind as usize - 1] { Ok(()) } else { Err(corrupt(kind)) }
    }

    fn of(&self, kind: Kind) -> &'a [u8] {
        &self.bytes[self.ranges[kind as usize - 1].clone()]
    }

    pub(super) fn numbers<T: Plain>(&self, kind: Kind, length: usize) -> Result<&'a [T], OpenError> {
        numbers(self.of(kind)).filter(|values: &&[T]| values.len() == length).ok_or(corrupt(kind))
    }
}

/// Shapes and orders of some sections, for so many items and dimensions.
type Check = fn(&Sections<'_>, usize, usize) -> Result<(), OpenError>;

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

fn check_ids(file: &Sections<'_>, items: usize, _: usize) -> Result<(), OpenError> {
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

fn check_hashes(file: &Sections<'_>, items: usize, _: usize) -> Result<(), OpenError> {
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

fn check_gramian(file: &Sections<'_>, _: usize, dim: usize) -> Result<(), OpenError> {
    let gramian: &[f64] = file.numbers(Kind::Gramian, dim * dim)?;
    if gramian.iter().any(|value| !value.is_finite()) { Err(corrupt(Kind::Gramian)) } else { Ok(()) }
}

fn check_neighbours(file: &Sections<'_>, items: usize, _: usize) -> Result<(), OpenError> {
    let neighbours: &[u32] = numbers(file.of(Kind::NeighbourItems)).ok_or(corrupt(Kind::NeighbourItems))?;
    file.numbers::<f32>(Kind::NeighbourScores, neighbours.len())?;
    check_offsets(file, Kind::NeighbourOffsets, items, neighbours.len())
}

fn check_per_item(file: &Sections<'_>, items: usize, _: usize) -> Result<(), OpenError> {
    file.numbers::<f32>(Kind::Popularity, items)?;
    file.numbers::<f32>(Kind::Trend, items).map(|_| ())
}

/// A catalogue that is not there has empty ranges and nothing to check.
fn check_catalogue(file: &Sections<'_>, items: usize, _: usize) -> Result<(), OpenError> {
    if file.of(Kind::TitleOffsets).is_empty() {
        return Ok(());
    }
    check_strings(file, Kind::TitleOffsets, Kind::Titles, items)?;
    check_strings(file, Kind::CategoryOffsets, Kind::Categories, items)
}
