//! The lake: an object store as a blocking port.
//!
//! Why our own port over the `object_store` crate: that crate's local store neither syncs what
//! it writes nor offers a durable create-only write, and both are what the exactly-once chain of
//! delivered objects stands on. The port is blocking because its callers are threads, which also
//! keeps a seeded simulation deterministic; [`RemoteStore`] hides its runtime.
//!
//! Guaranteed by every adapter (and checked by [`testing::conformance`]): a write that returned is
//! durable; readers see an object whole or not at all; of many concurrent `put_new` on one path
//! exactly one answers `Created`; listings are sorted and show committed objects only.
//!
//! Not offered on purpose: append, rename, compare-and-swap replacement (pointers are numbered
//! create-only objects instead), and folders as things of their own.

mod error;
mod faulty;
mod local;
mod memory;
mod open;
mod path;
mod port;
mod remote;
pub mod testing;

#[cfg(test)]
mod tests;

pub use error::LakeError;
pub use faulty::{Fault, FaultPlan, FaultyStore, Operation};
pub use local::LocalStore;
pub use memory::MemoryStore;
pub use open::{StoreOptions, open_store};
pub use path::ObjectPath;
pub use port::{ObjectMeta, ObjectStore, PutOutcome};
pub(crate) use remote::s3_client;
pub use remote::{RemoteStore, S3Options};
