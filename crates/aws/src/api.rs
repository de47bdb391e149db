//! The operations of Kinesis that we use.
