//! Delivering through a Firehose stream: JSON Lines in, objects in S3 at its other end.
//!
//! | file | what lives there |
//! |---|---|
//! | [`pack`] | lines → records → requests, by arithmetic: limits, newline framing, what is billed |
//! | [`sink`] | `PutRecordBatch` until every line is delivered or told; [`FirehoseApi`](sink::FirehoseApi) |
//! | [`sdk`] | that trait over the official SDK |
//!
//! Firehose promises at least once and no order; so do we here. What makes a repeat harmless is the recommendation's id.

pub mod pack;
pub mod sdk;
pub mod sink;

#[doc(hidden)]
pub mod testing;
