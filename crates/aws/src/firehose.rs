//! Delivering through a Firehose stream.
