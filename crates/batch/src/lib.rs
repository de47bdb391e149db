//! The batch arm: from raw files to clean interactions, a catalogue and users' histories.
//!
//! | module | what lives there |
//! |---|---|
//! | [`mapping`] | which files and columns hold what, as a person writes it in TOML |
//! | [`input`] | files to rows: CSV, JSON Lines, Parquet; gz, zst; folders, globs, `s3://` |
//! | [`etl`] | map → shuffle by user → fold → days, the report, and publication |
//! | [`dataset`] | the published dataset, read back |
//! | [`train`] | histories → rows → evaluate → learn → publish → embeddings; bulk lists |
//! | [`erase`] | what belongs to one owner leaves the published dataset |
//! | [`generate`] | the built-in shop: a deterministic data set with known ground truth |
//!
//! It promises: the same input gives the same dataset, byte for byte, whatever the number of threads; every row read is
//! clean, duplicate, quarantined or filtered, and the four add up; memory does not grow with the input.
//! It does not deliver or serve, and reads no clock, chance or environment: they are arguments.

pub mod dataset;
pub mod erase;
pub mod etl;
pub mod generate;
pub mod input;
pub mod mapping;
pub mod train;

mod error;
mod tables;

pub use error::BatchError;
