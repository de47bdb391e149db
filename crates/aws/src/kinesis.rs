//! Kinesis Data Streams: reading shards in order, past every trap that a naive consumer falls into, and writing to them.
//!
//! | module | what lives there |
//! |---|---|
//! | [`kpl`] | aggregates of the Kinesis Producer Library: taken apart, and made |
//! | [`backlog`] | records that were read and not yet handed out; positions inside aggregates |
//! | [`reader`] | a shard by polling (`GetRecords`) |
//! | [`fanout`] | a shard by enhanced fan-out (`SubscribeToShard`) |
//! | [`shards`] | which shards may be read now, across splits and merges |
//! | [`lease`] | spreading shards over workers |
//! | [`identity`] | which stream it is: its namespace |
//! | [`dispatch_lease`] | which process sends notifications |
//! | [`frontier`] | how far the stream is read, by whomever |
//! | [`producer`] | `PutRecords`: limits, partial failures, order per partition key |
//! | [`sdk`] | all of it over the official SDK |

pub mod backlog;
pub mod dispatch_lease;
pub mod fanout;
pub mod frontier;
pub mod identity;
pub mod kpl;
pub mod lease;
pub mod producer;
pub mod reader;
pub mod sdk;
pub mod shards;

pub use fanout::FanOutReader;
pub use producer::Producer;
pub use reader::PollingReader;

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod promises;
