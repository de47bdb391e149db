//! The current snapshot: mapped and checked before the first event, replaced when `CURRENT` moves.
//!
//! An invocation takes the model once and keeps it, so it never sees two. Looking for a newer one, downloading and
//! checking it happen on a thread of their own, one at a time: no invocation waits. Lambda freezes that thread between
//! invocations; a download that dies of it is begun again at the next look.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use anabranch_events::EventTypes;
use anabranch_models::Model;
use anabranch_stream::Clock;
use anabranch_stream::models::ModelSource;

/// Why there is no model to begin with.
#[derive(Debug, thiserror::Error)]
pub enum ModelsError {
    /// The registry, the download or the file.
    #[error("the current model: {0}")]
    Load(String),
    /// Nothing was promoted.
    #[error("no model is published: run `anabranch train`, or check places.models and places.lake")]
    NoModel,
    /// It was trained with other event types.
    #[error(transparent)]
    Model(#[from] anabranch_models::ModelError),
}

/// The model that serves, and where newer ones come from.
#[derive(Debug)]
pub struct Models {
    source: ModelSource,
    types: EventTypes,
    clock: Arc<dyn Clock>,
    poll_us: u64,
    current: RwLock<Arc<Model>>,
    looked_us: AtomicU64,
    is_looking: AtomicBool,
}

impl Models {
    /// Loads the current model. Later it is looked up every `poll_s` seconds.
    pub fn open(
        source: ModelSource,
        types: EventTypes,
        clock: Arc<dyn Clock>,
        poll_s: u64,
    ) -> Result<Arc<Self>, ModelsError> {
        let model = source.newer_than(None).map_err(ModelsError::Load)?.ok_or(ModelsError::NoModel)?;
        model.check_types(&types)?;
        let looked_us = AtomicU64::new(clock.monotonic_us());
        Ok(Arc::new(Self {
            source,
            types,
            clock,
            poll_us: poll_s.saturating_mul(1_000_000),
            current: RwLock::new(Arc::new(model)),
            looked_us,
            is_looking: AtomicBool::new(false),
        }))
    }

    /// The model. Take it once for an invocation.
    pub fn current(&self) -> Arc<Model> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Begins to look for a newer model if it is time and nobody looks. The answer is for tests, which wait for it.
    pub fn look_if_due(self: &Arc<Self>) -> Option<std::thread::JoinHandle<()>> {
        let now_us = self.clock.monotonic_us();
        let is_due = now_us.saturating_sub(self.looked_us.load(Ordering::Acquire)) >= self.poll_us;
        if !is_due || self.is_looking.swap(true, Ordering::AcqRel) {
            return None;
        }
        self.looked_us.store(now_us, Ordering::Release);
        let models = Arc::clone(self);
        let looking = std::thread::Builder::new().name("model".to_owned()).spawn(move || {
            models.look();
            models.is_looking.store(false, Ordering::Release);
        });
        if looking.is_err() {
            self.is_looking.store(false, Ordering::Release);
        }
        looking.ok()
    }

    fn look(&self) {
        let held = self.current();
        match self.source.newer_than(Some(held.version())) {
            Ok(Some(model)) => match model.check_types(&self.types) {
                Ok(()) => {
                    tracing::info!(version = model.version(), "a newer model serves");
                    *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(model);
                    // The room of a download is small; what is mapped stays mapped. It is not there if the registry is
                    // a folder.
                    let _ = std::fs::remove_file(self.source.cache_folder.join(format!("{}.anb", held.version())));
                }
                Err(error) => tracing::error!(%error, "the promoted model does not fit; the old one goes on"),
            },
            Ok(None) => {}
            Err(error) => tracing::error!(error, "the current model cannot be loaded; the old one goes on"),
        }
    }
}

#[cfg(test)]
mod tests;
