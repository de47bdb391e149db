//! What producers send: JSON events in Amazon Personalize's names, one at a time or in a `PutEvents` envelope.
//!
//! Names are accepted as the API spells them (`userId`) and as the data files do (`USER_ID`). Ids may be JSON strings
//! or integers; `sentAt` may be seconds, milliseconds or RFC 3339.

pub mod json;
pub mod time;

pub use json::{decode_record, encode_event, partition_key, split_envelope};
