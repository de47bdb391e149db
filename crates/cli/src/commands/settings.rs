//! `anabranch settings`: the settings in force, in the form that `anabranch.toml` takes.

use anabranch_stores::ErrorKind;

use crate::args::Arguments;
use crate::failure::Failure;
use crate::settings;
use crate::ui::print_line;

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let settings = settings::load(arguments.config.as_deref(), arguments.home.as_deref(), std::env::vars())?;
    let text = toml::to_string_pretty(&settings)
        .map_err(|e| Failure::of(ErrorKind::Bug, format!("the settings are no TOML: {e}")))?;
    print_line(&format!(
        "# Save as anabranch.toml; ANABRANCH__STREAM__SHARDS=4 overrides one of them.\n{}",
        text.trim_end()
    ))
}
