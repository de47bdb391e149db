//! The ports of the streaming arm over Amazon Web Services: Kinesis Data Streams, DynamoDB, Firehose, SNS, CloudWatch.
//!
//! | module | what lives there |
//! |---|---|
//! | [`api`] | the operations of Kinesis that we use, as small synchronous traits; one error that says what to do |
//! | [`sdk`] | the way in: one connection over the official SDK, and from it the adapters of every service |
//! | [`kinesis`] | reading shards (polling, fan-out), aggregates, resharding, leases, producing |
//! | [`dynamo`] | histories, checkpoints and leases in DynamoDB |
//! | [`fleet`] | a process's part of a stream's shards: workers on threads, started and stopped as leases come and go |
//! | [`firehose`] | delivering through a Firehose stream |
//! | [`sns`] | publishing to a topic |
//! | [`emf`] | metrics as log lines (CloudWatch embedded metric format) |
//! | [`lambda_events`] | what Lambda hands to a function, read tolerantly, and what it wants back |
//!
//! Decisions are pure functions or plain state machines over the traits, so a simulation drives them with a clock and a
//! seed of its own; only the `sdk` modules know that there is a network.

pub mod api;
pub mod dynamo;
pub mod emf;
mod failure;
pub mod firehose;
pub mod fleet;
pub mod kinesis;
pub mod lambda_events;
pub mod sdk;
pub mod sns;

#[doc(hidden)]
pub mod testing;
