//! The model that a running stream scores with, and newer ones that take its place.
//!
//! A reader of [`Shared::model`] takes the model once for a batch, so no batch ever sees half of an update; one that does
//! not open or does not fit the settings is told in the log and the old one goes on.

use std::path::PathBuf;
use std::sync::Arc;

use anabranch_models::{Kernels, Model};
use anabranch_stores::registry::ModelRegistry;

use crate::shared::Shared;

/// Where newer models come from.
#[derive(Debug)]
pub struct ModelSource {
    /// The registry.
    pub registry: ModelRegistry,
    /// Where snapshots of remote registries are downloaded to.
    pub cache_folder: PathBuf,
    /// The kernels that score.
    pub kernels: Kernels,
}

impl ModelSource {
    /// The current model, if it is not the one called `held`.
    pub fn newer_than(&self, held: Option<&str>) -> Result<Option<Model>, String> {
        let current = self.registry.current().map_err(|e| e.to_string())?;
        for warning in &current.warnings {
            tracing::warn!(reason = warning, "a model pointer was passed over");
        }
        let Some(pointer) = current.pointer else { return Ok(None) };
        let version = pointer.version.as_str();
        if held == Some(version) {
            return Ok(None);
        }
        let path = self.registry.local_snapshot(version, &self.cache_folder).map_err(|e| e.to_string())?;
        Model::open(&path, version, self.kernels).map(Some).map_err(|e| e.to_string())
    }
}

/// When the registry was asked last.
#[derive(Debug)]
pub struct ModelPoll {
    polled_us: u64,
}

impl ModelPoll {
    /// The model was looked up at `now_us` of the monotonic clock.
    pub const fn new(now_us: u64) -> Self {
        Self { polled_us: now_us }
    }

    /// Takes over a newer model, if it is time to ask and there is one.
    pub fn run(&mut self, shared: &Shared, models: &ModelSource) {
        let now_us = shared.clock.monotonic_us();
        if now_us.saturating_sub(self.polled_us) >= shared.settings.model_poll_ms * 1000 {
            self.polled_us = now_us;
            reload(shared, models);
        }
    }
}

/// Takes over a newer model if there is one.
pub(crate) fn reload(shared: &Shared, models: &ModelSource) {
    let held = shared.model();
    match models.newer_than(Some(held.version())) {
        Ok(Some(model)) => match model.check_types(&shared.types) {
            Ok(()) => {
                tracing::info!(version = model.version(), "a newer model serves");
                shared.set_model(Arc::new(model));
            }
            Err(error) => tracing::error!(%error, "the promoted model does not fit; the old one goes on"),
        },
        Ok(None) => {}
        Err(error) => tracing::error!(error, "the current model cannot be loaded; the old one goes on"),
    }
}
