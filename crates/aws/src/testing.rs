//! An in-memory Kinesis.
