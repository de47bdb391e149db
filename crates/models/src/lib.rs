//! What is learned from histories, the file it is kept in, and the recommendations made from that file.
//!
//! Training and serving call the same fold-in on the same bits, so a streamed list equals what a retrain with the
//! same item factors would give. Ids are plain strings here and rows are sparse; how a history becomes a row (event
//! weights, decay) is decided elsewhere and only recorded in the snapshot's meta data.

#[cfg(target_endian = "big")]
compile_error!("snapshots are little-endian files read in place");

pub mod ials;
mod interactions;
pub mod learn;
mod map;
mod model;
mod neighbours;
mod popularity;
mod portable;
mod recommender;
pub mod snapshot;
mod trend;

#[cfg(test)]
mod testing;

pub use anabranch_kernels::{Isa, K_MAX, Kernels, Scored};
pub use interactions::{Interactions, InteractionsError, Row, SparseRows};
pub use model::{Hide, Model, ModelError};
pub use neighbours::{
    Neighbourhood, Neighbours, NeighboursError, NeighboursSettings, UserRows, cap_rows, item_squares, neighbours,
    user_scales,
};
pub use popularity::{popularity, popularity_of, popularity_order};
pub use recommender::{Blend, BlendError, Explanation, Part, PartKind, Query, RecommendError, Recommender, Scratch};
pub use snapshot::{Snapshot, SnapshotMeta};
pub use trend::{Demand, TrendError, TrendSettings};
