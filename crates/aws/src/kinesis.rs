//! Reading and writing Kinesis Data Streams.
