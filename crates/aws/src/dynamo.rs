//! Histories, checkpoints, leases and the outbox of notifications in DynamoDB.
//!
//! | file | what lives there |
//! |---|---|
//! | [`api`] | the operations that we use, as a small synchronous trait with types of its own |
//! | [`size`] | arithmetic: quotas → bytes of an item → write units → dollars; what exceeds an item is refused at the start |
//! | [`item`] | the bytes of a history's item, of an erasure's floor, of a checkpoint; versions and upgrades |
//! | [`histories`] | [`StateStore`](anabranch_stream::ports::StateStore): batched reads, conditional joins, checkpoints |
//! | [`erasures`] | forgetting an owner so that nothing returns |
//! | [`outbox`] | what is to be sent, in a table of its own |
//! | [`leases`] | the lease table, with KCL's names |
//! | [`sdk`] | the trait over the official SDK |
//!
//! **One table per stream** (partition key `k`, binary; on-demand; time to live on `ttl`), for one conditional write
//! needs nothing else: an item's first byte says what it is.

pub mod api;
pub mod erasures;
mod expression;
pub mod histories;
pub mod item;
pub mod leases;
pub mod outbox;
pub mod sdk;
pub mod size;

#[doc(hidden)]
pub mod fuzzing;
#[doc(hidden)]
pub mod testing;
