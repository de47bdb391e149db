//! The vocabulary of Anabranch: what an event is, and what it does to a user's history.
//!
//! Everything else (batch, stream, Lambda, Spark) folds events with the functions of this crate, so all of
//! them agree by construction.
//!
//! | module | what lives there |
//! |---|---|
//! | [`ids`] | external ids (UTF-8, 1–256 bytes), their stable 64-bit hashes, the key of a history |
//! | [`event`] | one validated event and the single validator that every reader calls |
//! | [`settings`] | event types, weights, value transforms, quotas, half-life: data, compiled once |
//! | [`history`] | the history and its join (a semilattice), the one idea of the project |
//! | [`codec`] | the compact, versioned, canonical bytes of a history |
//! | [`weights`] | the weight of each item in a history, with our own `exp2` so that bits agree everywhere |
//! | [`wire`] | JSON events in Amazon Personalize's names, and times in seconds, milliseconds or RFC 3339 |
//! | [`recommendation`] | the delivered record and its deterministic id |
//! | [`erasure`] | how a forgotten user is named without being remembered |
//! | [`rejection`] | why an event was refused: the codes of quarantine and dead letters |
//!
//! It promises: the same events in any order, duplication or batching give the same history bytes.
//! It must never do I/O, run async code, or read a clock, chance or the environment.

pub mod codec;
pub mod erasure;
pub mod event;
pub mod history;
pub mod ids;
pub mod recommendation;
pub mod rejection;
pub mod settings;
pub mod weights;
pub mod wire;

pub use codec::CodecError;
pub use event::{Event, Fields};
pub use history::{Alias, Entry, History, Outcome, apply_event, effective};
pub use ids::{EventKey, HistoryKey, ItemKey};
pub use recommendation::{Recommendation, RecommendedItem, Trigger};
pub use rejection::{Rejection, RejectionCode};
pub use settings::{EventSettings, EventTypes};
