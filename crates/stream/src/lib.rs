//! The streaming arm: events from a durable log become recommendation lists in create-only objects, each exactly once.
//!
//! Read [`worker`] first: it is the story, one shard at a time.
//!
//! | module | what lives there |
//! |---|---|
//! | [`worker`] | the chain of cuts: read → transform → object → dead letters → histories and checkpoint; roll forward |
//! | [`transform`] | what a batch of records does: decode → join → recommend; pure |
//! | [`histories`] | what a shard holds in memory, and bringing what a batch needs in few reads |
//! | [`measures`] | what a stream counts of itself beside its objects' counts: tallies and histograms |
//! | [`object`] | delivered objects: names, compression, the trailer that says what they cover |
//! | [`ports`] | what the worker asks of the world: records of a shard, a place for histories and checkpoints |
//! | [`embedded`] | these ports over the embedded log and state |
//! | [`ingest`] | acknowledged means synced: one appender groups waiting requests into one `fdatasync` |
//! | [`live`] | a running stream of any source, as a server sees it |
//! | [`crew`] | the threads of a running stream, and the failure that stopped it |
//! | [`models`] | newer models that take the place of the one that serves |
//! | [`running`] | a running stream: threads, model reload, retention, health, and the questions it answers |
//! | [`replay`] | events from elsewhere (files) into the log, resumable to the record |
//! | [`erase`] | forgetting in what the stream wrote: log records and dead letters |
//! | [`shared`] | what the threads of one stream share |
//! | [`notify`] | notifications: rules, outbox, channels |
//! | [`latency`] | times from receipt to list |
//! | [`settings`] | the `[stream]` settings |
//! | [`tree`] | settings from TOML and the environment, and where things lie |
//! | [`clock`] | time as an argument |
//!
//! It promises: `accepted = delivered + superseded + duplicate + late` for every object and over all of them; two
//! objects never cover the same record; a reader that lists objects sees committed lists only.
//! It must never do what an event means (that is `events`) or speak HTTP or AWS (those are above).

pub mod clock;
pub mod crew;
pub mod embedded;
pub mod erase;
pub mod histories;
pub mod ingest;
pub mod latency;
pub mod live;
pub mod measures;
pub mod models;
pub mod notify;
pub mod object;
pub mod ports;
pub mod replay;
pub mod running;
pub mod settings;
pub mod shared;
pub mod transform;
pub mod tree;
pub mod worker;

#[doc(hidden)]
pub mod fuzzing;
#[doc(hidden)]
pub mod testing;

pub use clock::Clock;
pub use ingest::{Appended, IngestError, NewEvent};
pub use live::LiveStream;
pub use object::Counts;
pub use running::{RunningStream, StreamParts};
pub use settings::{Compression, Format, Mode, StreamSettings};
