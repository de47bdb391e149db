//! Arithmetic with the same bits everywhere.
//!
//! A laptop, a Lambda function (x86 or Arm) and a Spark executor must reach equal bytes, so every result here is
//! defined as one fixed sequence of correctly rounded operations: a score is one fused-multiply-add chain over the
//! dimensions in index order, an entry of a normal matrix one chain over the rows, an entry of a Cholesky factor one
//! chain over the pivots. Vector lanes hold *different* results, never parts of one, so the width of a register
//! cannot change a bit; where a sum is split over lanes (back substitution) the split is part of the definition.
//!
//! Guarantees: equal bits between AVX-512, AVX2 and the scalar twin, for every batch size and thread count. The
//! instruction set is chosen at run time by [`Kernels::best`]; [`Kernels::with_isa`] forces one that the CPU has.
//!
//! Not here: models, files, anything that knows what a user or an item means. This is the one crate in which
//! `unsafe` is ordinary; every block says why it is sound.
#![allow(unsafe_code)]
#![deny(unsafe_op_in_unsafe_fn)]
// The one text of each kernel must inline into the functions that enable an instruction set's features.
#![allow(clippy::inline_always)]

mod aligned;
mod blocked;
mod bounds;
mod cholesky;
mod gramian;
mod isa;
mod lanes;
mod normal;
mod prefetch;
mod scan;
mod score;
mod side_by_side;
mod top_k;
mod verify;

#[cfg(test)]
mod tests;

pub use aligned::AlignedF32;
pub use blocked::{BlockedFactors, BlockedView, LANES, Rows, ShapeError};
pub use bounds::{Norms, NormsBuilder, Scale};
pub use cholesky::NotPositiveDefinite;
pub use gramian::{GRAMIAN_BLOCKS_PER_GROUP, GRAMIAN_ROWS_PER_BLOCK, gramian, gramian_blocks, gramian_sums};
pub use isa::{Isa, Kernels};
pub use normal::{BaseMatrix, NormalEquations};
pub use prefetch::prefetch;
pub use score::{Items, K_MAX, Query, Scan, ScanBuffers, ScoreError, dot};
pub use side_by_side::SideBySide;
pub use top_k::{Scored, TopK};
pub use verify::LongHash;

/// The greatest supported number of dimensions; it bounds the scratch that one thread holds (1024² × 4 bytes).
pub const DIM_MAX: usize = 1024;
