//! Doors to decoders of this crate, for the fuzz targets alone. No part of the API: hidden, and may change at any time.

use anabranch_stores::state::StateError;

use crate::embedded;
use crate::ports::Checkpoint;

/// Reads a shard's checkpoint as the embedded state keeps it.
pub fn checkpoint(bytes: &[u8]) -> Result<Checkpoint, StateError> {
    embedded::decode(bytes)
}

/// Writes a shard's checkpoint as the embedded state keeps it.
pub fn checkpoint_bytes(checkpoint: Checkpoint) -> Vec<u8> {
    embedded::encode(checkpoint)
}
