//! The wheel's native module: the crates' functions for Python, nothing else.
//!
//! | module | what lives there |
//! |---|---|
//! | `arrays` | numpy arrays in and out, rows |
//! | `columns` | binary columns and records, as numpy arrays of offsets and bytes |
//! | `compose` | the one place that reads clock and environment |
//! | `errors` | every error to one of six exceptions |
//! | `threads` | the pool that everything is computed on, with the GIL released |
//! | `lake`, `registry`, `dataset`, `vectors` | the object store, the published models, the published dataset, the vector database |
//! | `ials`, `neighbour_parts`, `model`, `lists`, `metrics` | factors, neighbours, snapshots, lists, evaluation |
//! | `etl`, `training` | the stages of both, and both on one machine |
//!
//! It promises: bad input is an exception with place and remedy; the GIL is released while anything is computed, read or
//! written; arrays that fit are read where they lie. The package's Python half (`python/anabranch`) brings arguments into
//! the shapes that these functions take, wraps columns as Arrow, and is what people call.
//! It does not decide what anything means: the crates below do.

#![allow(clippy::needless_pass_by_value)] // what pyo3 hands over is owned

mod arrays;
mod columns;
mod compose;
mod dataset;
mod errors;
mod etl;
mod ials;
mod lake;
mod lists;
mod metrics;
mod model;
mod neighbour_parts;
mod registry;
mod settings;
mod threads;
mod training;
mod vectors;

use pyo3::prelude::*;

/// The native half of the package `anabranch`.
#[pymodule]
mod _core {
    use pyo3::prelude::*;

    #[pymodule_export]
    use super::dataset::Dataset;
    #[pymodule_export]
    use super::etl::{EtlPlan, Folder, Mapper, Writer, plan_etl, read_events, run_etl};
    #[pymodule_export]
    use super::ials::{
        HalfStep, gramian, gramian_blocks, gramian_sums, half_step, initial_factors, neighbours, popularity,
        train_ials, trend,
    };
    #[pymodule_export]
    use super::lake::Lake;
    #[pymodule_export]
    use super::lists::{NeighbourRanker, Ranker};
    #[pymodule_export]
    use super::metrics::evaluate_lists;
    #[pymodule_export]
    use super::model::{Model, unit_rows};
    #[pymodule_export]
    use super::neighbour_parts::{neighbour_rows, neighbour_squares, neighbours_of};
    #[pymodule_export]
    use super::registry::Registry;
    #[pymodule_export]
    use super::settings::check_settings;
    #[pymodule_export]
    use super::threads::{num_threads, set_num_threads};
    #[pymodule_export]
    use super::training::{
        ItemIndex, RowMaker, backtest, backtest_metrics, join_histories, route_histories, train, training_rows,
        write_snapshot,
    };
    #[pymodule_export]
    use super::vectors::VectorDatabase;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        super::errors::add(module)?;
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        module.add("GRAMIAN_BLOCK_ROWS", anabranch_kernels::GRAMIAN_ROWS_PER_BLOCK)?;
        module.add("GRAMIAN_GROUP_BLOCKS", anabranch_kernels::GRAMIAN_BLOCKS_PER_GROUP)?;
        module.add("LIST_LENGTH_MAX", anabranch_kernels::K_MAX)?;
        Ok(())
    }
}
