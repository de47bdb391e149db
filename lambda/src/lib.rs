//! The Lambda functions: a batch of Kinesis or of Firehose through the same transform as the worker's, and what is due of
//! notifications.
//!
//! | module | what lives there |
//! |---|---|
//! | [`stream`] | behind an event source mapping of a Kinesis stream: deliver, then commit; says where to begin again |
//! | [`transform`] | Firehose's data transformation: every record answered once, at most 6 MB |
//! | [`notify`] | run by a schedule: sends the notifications that are due |
//! | [`run`] | what the first two do with records: decode → histories in few reads → join → lists, each with its record |
//! | [`objects`] | exactly-once objects in place of a Firehose stream |
//! | [`projection`] | which lists become shorter when an answer is too large |
//! | [`dead`] | dead letters, under names that a repeated invocation finds again |
//! | [`init_error`] | tells Lambda why a function does not start |
//! | [`log`] | the log on stderr |
//! | [`models`] | the current snapshot: mapped before the first event, replaced without a half-updated read |
//! | [`report`] | what an invocation counted, as metrics |
//! | [`settings`] | the settings, from the environment |
//! | [`compose`] | settings to components; what the programs share |
//!
//! Handlers are plain functions over ports; the programs only compose. They promise: histories are committed last, and
//! joined with what others wrote; a list's id is the same in every invocation, so a reader can drop repeats; a record
//! that cannot be read costs one record.
//!
//! It must never pull `batch`, `server` or `cli` (a cold start pays for every byte), nor decide what an event means.

pub mod compose;
pub mod dead;
pub mod init_error;
pub mod log;
pub mod models;
pub mod notify;
pub mod objects;
pub mod projection;
pub mod report;
pub mod run;
pub mod settings;
pub mod stream;
pub mod transform;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod testing;
