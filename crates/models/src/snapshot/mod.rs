//! The snapshot: one file that holds all that serving reads, mapped into memory, versioned and checksummed.
//!
//! Guarantees: opening verifies the header, every checksum, every bound and every order before anything is read from
//! it, so that no later access can fail; each flipped or missing byte is detected. Layout: `docs/formats.md`.
//!
//! Not here: where snapshots are kept and which one is current.

mod hashes;
mod layout;
mod meta;
mod open;
mod sections;
mod size;
mod write;

#[cfg(test)]
mod tests;

pub use layout::{FORMAT_VERSION, MAGIC};
pub use meta::SnapshotMeta;
pub use open::{OpenError, Snapshot};
pub use size::SnapshotShape;
pub use write::{Catalogue, SnapshotContents, WriteError};
