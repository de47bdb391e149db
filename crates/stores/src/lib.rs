//! What Anabranch keeps, and where: each kind of storage is a port (a trait that states its
//! guarantees), an in-memory twin, the embedded adapter, and one conformance suite for all.
//!
//! - [`lake`]: objects under paths, in a folder or in S3; create-only writes are what makes
//!   delivery exactly-once.

pub mod lake;

mod kind;

pub use kind::ErrorKind;
