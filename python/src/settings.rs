//! The settings' four tables as they cross the border: JSON, made by the Python half from TOML or a dict.

use anabranch_batch::etl::EtlSettings;
use anabranch_batch::train::TrainingSettings;
use anabranch_events::{EventSettings, EventTypes};
use anabranch_models::ials::IalsSettings;
use anabranch_models::learn::LearnSettings;
use pyo3::prelude::*;
use serde::{Deserialize, Serialize};

use crate::errors::{Raise, input};

/// The tables of `anabranch.toml` that batch reads; other tables are the command's and are passed over.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Settings {
    pub(crate) events: EventSettings,
    pub(crate) etl: EtlSettings,
    pub(crate) model: LearnSettings,
    pub(crate) training: TrainingSettings,
}

impl Settings {
    pub(crate) fn parse(json: &str) -> PyResult<Self> {
        serde_json::from_str(json).map_err(|error| input(format!("settings: {error}")))
    }

    pub(crate) fn types(&self) -> PyResult<EventTypes> {
        self.events.compile().raise()
    }
}

/// Parses `[model.ials]` and refuses values that cannot be computed with.
pub(crate) fn ials(json: &str) -> PyResult<IalsSettings> {
    let settings: IalsSettings =
        serde_json::from_str(json).map_err(|error| input(format!("settings [model.ials]: {error}")))?;
    settings.check().raise()?;
    Ok(settings)
}

/// Checks the tables and fills in the defaults: JSON to JSON.
#[pyfunction]
pub(crate) fn check_settings(json: &str) -> PyResult<String> {
    let settings = Settings::parse(json)?;
    settings.types()?;
    settings.model.ials.check().raise()?;
    settings.model.trend.check().raise()?;
    settings.model.blend.check().map_err(input)?;
    serde_json::to_string(&settings).map_err(input)
}
