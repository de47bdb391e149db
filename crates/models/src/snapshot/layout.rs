//! The numbers of the format, shared by writer and reader.

/// The first eight bytes.
pub const MAGIC: [u8; 8] = *b"ANBRSNAP";

/// The version that this code writes, and the only one that it reads: version 1 had no trend.
pub const FORMAT_VERSION: u32 = 2;

/// Sections start on multiples of this.
pub(super) const ALIGNMENT: usize = 64;

/// Magic 8, version 4, section count 4, file length 8, reserved 8.
pub(super) const HEADER_BYTES: usize = 32;

/// Kind 4, reserved 4, offset 8, length 8, checksum 8.
pub(super) const ENTRY_BYTES: usize = 32;

/// xxh3-64 of header and table.
pub(super) const HEADER_CHECKSUM_BYTES: usize = 8;

/// The sections in the order in which they are written. The discriminant is the stored kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Kind {
    Meta = 1,
    ItemIdOffsets = 2,
    ItemIds = 3,
    Hashes = 4,
    HashItems = 5,
    Factors = 6,
    Gramian = 7,
    NeighbourOffsets = 8,
    NeighbourItems = 9,
    NeighbourScores = 10,
    Popularity = 11,
    Trend = 12,
    TitleOffsets = 13,
    Titles = 14,
    CategoryOffsets = 15,
    Categories = 16,
}

impl Kind {
    /// All kinds; the first [`Self::REQUIRED`] must be there, the rest all or none.
    pub(super) const ALL: [Kind; 16] = [
        Kind::Meta,
        Kind::ItemIdOffsets,
        Kind::ItemIds,
        Kind::Hashes,
        Kind::HashItems,
        Kind::Factors,
        Kind::Gramian,
        Kind::NeighbourOffsets,
        Kind::NeighbourItems,
        Kind::NeighbourScores,
        Kind::Popularity,
        Kind::Trend,
        Kind::TitleOffsets,
        Kind::Titles,
        Kind::CategoryOffsets,
        Kind::Categories,
    ];
    pub(super) const REQUIRED: usize = 12;

    /// The section's name in errors and docs.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Meta => "meta",
            Kind::ItemIdOffsets => "item id offsets",
            Kind::ItemIds => "item ids",
            Kind::Hashes => "item hashes",
            Kind::HashItems => "items of hashes",
            Kind::Factors => "item factors",
            Kind::Gramian => "gramian",
            Kind::NeighbourOffsets => "neighbour offsets",
            Kind::NeighbourItems => "neighbour items",
            Kind::NeighbourScores => "neighbour scores",
            Kind::Popularity => "popularity",
            Kind::Trend => "trend",
            Kind::TitleOffsets => "title offsets",
            Kind::Titles => "titles",
            Kind::CategoryOffsets => "category offsets",
            Kind::Categories => "categories",
        }
    }
}

/// Where the sections start after `count` table entries.
pub(super) fn table_end(count: usize) -> usize {
    HEADER_BYTES + count * ENTRY_BYTES + HEADER_CHECKSUM_BYTES
}
