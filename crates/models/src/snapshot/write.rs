//! Writing a snapshot: everything is checked first, then the bytes are a function of the contents alone.

use super::layout::{ALIGNMENT, FORMAT_VERSION, Kind, MAGIC, table_end};
use super::meta::SnapshotMeta;
use crate::map::bytes_of;
use crate::neighbours::Neighbours;
use anabranch_kernels::{BlockedFactors, LANES, ShapeError};
use std::borrow::Cow;
use std::io::{self, Write};
use xxhash_rust::xxh3::xxh3_64;

/// Titles and categories, one entry per item; an empty string is "none".
#[derive(Debug, Clone, Copy)]
pub struct Catalogue<'a> {
    /// What the item is called.
    pub titles: &'a [&'a str],
    /// Its category.
    pub categories: &'a [&'a str],
}

/// What goes into a snapshot. Item index = position in `item_ids` = rank of the id's bytes.
#[derive(Debug, Clone, Copy)]
pub struct SnapshotContents<'a> {
    /// Meta data; its counts and dimensions must match the arrays.
    pub meta: &'a SnapshotMeta,
    /// Ids, strictly ascending by bytes.
    pub item_ids: &'a [&'a str],
    /// A 64-bit hash of each id, all different.
    pub item_hashes: &'a [u64],
    /// `[items × dim]` row-major.
    pub item_factors: &'a [f32],
    /// `[dim × dim]`.
    pub item_gramian: &'a [f64],
    /// The neighbours of each item.
    pub neighbours: &'a Neighbours,
    /// Summed weight of each item.
    pub popularity: &'a [f32],
    /// What each item's scores are multiplied by.
    pub trend: &'a [f32],
    /// Optional texts.
    pub catalogue: Option<Catalogue<'a>>,
}

/// Contents that are not a snapshot.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The output failed.
    #[error("writing the snapshot: {0}")]
    Io(#[from] io::Error),
    /// There is nothing to recommend.
    #[error("a snapshot needs at least one item")]
    NoItems,
    /// An id is empty, repeated or out of order.
    #[error("item id {id:?} at {position} is empty or does not sort after its predecessor: sort ids by bytes")]
    IdOrder {
        /// Its position.
        position: usize,
        /// The id.
        id: String,
    },
    /// Two ids have one hash, so histories could not tell them apart.
    #[error("items {first:?} and {second:?} share the hash {hash:016x}: rename one of them")]
    DuplicateHash {
        /// The hash.
        hash: u64,
        /// One id.
        first: String,
        /// The other.
        second: String,
    },
    /// An array does not fit the others.
    #[error("{what}: {found} values, {expected} expected")]
    Length {
        /// Which.
        what: &'static str,
        /// Length that fits the ids and dimensions.
        expected: u64,
        /// Length found.
        found: u64,
    },
    /// A value is out of its range: not finite, negative, or an index past the items.
    #[error("{what} of item {item} is out of range")]
    Value {
        /// Which array.
        what: &'static str,
        /// The item.
        item: usize,
    },
    /// The factors have an impossible shape.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// The meta data cannot be written as JSON.
    #[error("meta data: {0}")]
    Meta(#[from] serde_json::Error),
}

type Section<'a> = (Kind, Cow<'a, [u8]>);

impl SnapshotContents<'_> {
    /// Writes the file and returns its length in bytes. The caller publishes it (temporary name, sync, link).
    pub fn write(&self, mut out: impl Write) -> Result<u64, WriteError> {
        self.check()?;
        let sections = self.sections()?;
        let mut head = Vec::with_capacity(table_end(sections.len()));
        let offsets: Vec<usize> = sections
            .iter()
            .scan(table_end(sections.len()), |end, (_, bytes)| {
                let start = end.next_multiple_of(ALIGNMENT);
                *end = start + bytes.len();
                Some(start)
            })
            .collect();
        let length = offsets.iter().zip(&sections).map(|(offset, (_, bytes))| offset + bytes.len()).max().unwrap_or(0);
        head.extend(MAGIC);
        head.extend(FORMAT_VERSION.to_le_bytes());
        head.extend((sections.len() as u32).to_le_bytes());
        head.extend((length as u64).to_le_bytes());
        head.extend([0; 8]);
        for ((kind, bytes), offset) in sections.iter().zip(&offsets) {
            head.extend((*kind as u32).to_le_bytes());
            head.extend([0; 4]);
            head.extend((*offset as u64).to_le_bytes());
            head.extend((bytes.len() as u64).to_le_bytes());
            head.extend(xxh3_64(bytes).to_le_bytes());
        }
        head.extend(xxh3_64(&head).to_le_bytes());
        out.write_all(&head)?;
        let mut written = head.len();
        for ((_, bytes), offset) in sections.iter().zip(offsets) {
            out.write_all(&[0; ALIGNMENT][..offset - written])?;
            out.write_all(bytes)?;
            written = offset + bytes.len();
        }
        out.flush()?;
        Ok(length as u64)
    }

    /// The file as bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>, WriteError> {
        let mut bytes = Vec::new();
        self.write(&mut bytes)?;
        Ok(bytes)
    }

    fn sections(&self) -> Result<Vec<Section<'_>>, WriteError> {
        let factors = BlockedFactors::from_rows(self.item_factors, self.item_ids.len(), self.meta.ials.dim)?;
        let (hashes, hash_items) = self.hash_table()?;
        let (id_offsets, ids) = strings(self.item_ids);
        let owned = |values: &[u64]| Cow::Owned(bytes_of(values).to_vec());
        let mut sections = vec![
            (Kind::Meta, Cow::Owned(serde_json::to_vec(self.meta)?)),
            (Kind::ItemIdOffsets, owned(&id_offsets)),
            (Kind::ItemIds, Cow::Owned(ids)),
            (Kind::Hashes, owned(&hashes)),
            (Kind::HashItems, Cow::Owned(bytes_of(&hash_items).to_vec())),
            (Kind::Factors, Cow::Owned(bytes_of(factors.view().values()).to_vec())),
            (Kind::Gramian, Cow::Borrowed(bytes_of(self.item_gramian))),
            (Kind::NeighbourOffsets, Cow::Borrowed(bytes_of(&self.neighbours.offsets))),
            (Kind::NeighbourItems, Cow::Borrowed(bytes_of(&self.neighbours.items))),
            (Kind::NeighbourScores, Cow::Borrowed(bytes_of(&self.neighbours.scores))),
            (Kind::Popularity, Cow::Borrowed(bytes_of(self.popularity))),
            (Kind::Trend, Cow::Borrowed(bytes_of(self.trend))),
        ];
        if let Some(catalogue) = &self.catalogue {
            let (title_offsets, titles) = strings(catalogue.titles);
            let (category_offsets, categories) = strings(catalogue.categories);
            sections.push((Kind::TitleOffsets, owned(&title_offsets)));
            sections.push((Kind::Titles, Cow::Owned(titles)));
            sections.push((Kind::CategoryOffsets, owned(&category_offsets)));
            sections.push((Kind::Categories, Cow::Owned(categories)));
        }
        Ok(sections)
    }

    fn hash_table(&self) -> Result<(Vec<u64>, Vec<u32>), WriteError> {
        let mut table: Vec<(u64, u32)> = self.item_hashes.iter().copied().zip(0..).collect();
        table.sort_unstable();
        if let Some([(hash, first), (_, second)]) = table.array_windows().find(|[a, b]| a.0 == b.0) {
            let id = |item: u32| self.item_ids[item as usize].to_owned();
            return Err(WriteError::DuplicateHash { hash: *hash, first: id(*first), second: id(*second) });
        }
        Ok(table.into_iter().unzip())
    }

    fn check(&self) -> Result<(), WriteError> {
        let (items, dim) = (self.item_ids.len(), self.meta.ials.dim);
        if items == 0 {
            return Err(WriteError::NoItems);
        }
        let mut previous = "";
        for (position, id) in self.item_ids.iter().enumerate() {
            if *id <= previous {
                return Err(WriteError::IdOrder { position, id: (*id).to_owned() });
            }
            previous = id;
        }
        let catalogue = self.catalogue.as_ref();
        let lengths = [
            ("meta.item_count", self.meta.item_count, items),
            ("item hashes", self.item_hashes.len() as u64, items),
            ("item factors", self.item_factors.len() as u64, items * dim),
            ("gramian", self.item_gramian.len() as u64, dim * dim),
            ("neighbour offsets", self.neighbours.offsets.len() as u64, items + 1),
            ("neighbour scores", self.neighbours.scores.len() as u64, self.neighbours.items.len()),
            ("popularity", self.popularity.len() as u64, items),
            ("trend", self.trend.len() as u64, items),
            ("titles", catalogue.map_or(items, |c| c.titles.len()) as u64, items),
            ("categories", catalogue.map_or(items, |c| c.categories.len()) as u64, items),
        ];
        for (what, found, expected) in lengths {
            if found != expected as u64 {
                return Err(WriteError::Length { what, expected: expected as u64, found });
            }
        }
        let offsets = &self.neighbours.offsets;
        if offsets[0] != 0 || !offsets.is_sorted() || offsets[items] != self.neighbours.items.len() as u64 {
            let (expected, found) = (self.neighbours.items.len() as u64, offsets[items]);
            return Err(WriteError::Length { what: "neighbour offsets", expected, found });
        }
        for item in 0..items {
            let (neighbours, scores) = self.neighbours.of(item);
            if neighbours.iter().any(|n| *n as usize >= items) || scores.iter().any(|s| !(*s > 0.0 && s.is_finite())) {
                return Err(WriteError::Value { what: "a neighbour", item });
            }
            if !(self.popularity[item] >= 0.0 && self.popularity[item].is_finite()) {
                return Err(WriteError::Value { what: "popularity", item });
            }
            if !(self.trend[item] > 0.0 && self.trend[item].is_finite()) {
                return Err(WriteError::Value { what: "trend", item });
            }
        }
        match self.item_gramian.iter().position(|value| !value.is_finite()) {
            Some(position) => Err(WriteError::Value { what: "gramian", item: position / dim }),
            None => Ok(()),
        }
    }
}

/// Offsets (one more than texts) and the joined bytes.
fn strings(texts: &[&str]) -> (Vec<u64>, Vec<u8>) {
    let mut offsets = Vec::with_capacity(texts.len() + 1);
    let mut bytes = Vec::with_capacity(texts.iter().map(|text| text.len()).sum());
    offsets.push(0);
    for text in texts {
        bytes.extend_from_slice(text.as_bytes());
        offsets.push(bytes.len() as u64);
    }
    (offsets, bytes)
}

// A block of the factors is as wide as the kernels' lanes: the format fixes 16.
const _: () = assert!(LANES == 16);
