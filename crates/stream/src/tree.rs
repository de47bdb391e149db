//! Where settings come from: TOML, overridden by the environment, for the command and for the Lambda functions alike.
//!
//! `ANABRANCH__STREAM__SHARDS=4` overrides `shards` in `[stream]`: two underscores stand for a dot. Each program turns
//! the tree into the sections that it knows, and refuses a key that none of them has.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// How the variables that hold settings begin.
pub const ENVIRONMENT_PREFIX: &str = "ANABRANCH__";

/// Where things lie. What is empty lies below `home`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Places {
    /// Folder that everything lives in.
    pub home: PathBuf,
    /// The dataset: a folder or `s3://bucket/prefix`; `home/lake` if empty.
    pub lake: String,
    /// The model registry, likewise; the lake if empty. Who applies models need not be able to read the dataset.
    pub models: String,
    /// Delivered lists and dead letters: a folder or `s3://bucket/prefix`; `home/delivered` if empty.
    pub delivered: String,
    /// Temporary files of ETL and training; `home/scratch` if empty.
    pub scratch: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            home: PathBuf::from("anabranch-data"),
            lake: String::new(),
            models: String::new(),
            delivered: String::new(),
            scratch: PathBuf::new(),
        }
    }
}

impl Places {
    /// Where models are published; empty if only `home` is set.
    pub fn registry(&self) -> &str {
        if self.models.is_empty() { &self.lake } else { &self.models }
    }
}

/// How a log line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One object a line, its fields beside `message`.
    Json,
}

/// `[log]`: what a program tells of itself, on stderr.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSettings {
    /// `text` or `json`. The Lambda functions write JSON whatever this says.
    pub format: LogFormat,
    /// error, warn, info, debug, or a filter such as `anabranch_stream=debug`. If empty: warn, and info in the Lambda
    /// functions.
    pub level: String,
}

impl LogSettings {
    /// The level, or the program's own.
    pub const fn level_or<'a>(&'a self, default: &'a str) -> &'a str {
        if self.level.is_empty() { default } else { self.level.as_str() }
    }
}

/// Writes the settings of the environment into `tree`. The error names the variable and what is wrong with it.
pub fn overlay(tree: &mut toml::Table, environment: impl IntoIterator<Item = (String, String)>) -> Result<(), String> {
    let mut overrides: Vec<(String, String)> = environment
        .into_iter()
        .filter_map(|(name, value)| Some((name.strip_prefix(ENVIRONMENT_PREFIX)?.to_owned(), value)))
        .collect();
    overrides.sort_unstable();
    for (name, value) in &overrides {
        let keys: Vec<String> = name.split("__").map(str::to_ascii_lowercase).collect();
        insert(tree, &keys, value).map_err(|problem| format!("{ENVIRONMENT_PREFIX}{name}: {problem}"))?;
    }
    Ok(())
}

fn insert(table: &mut toml::Table, keys: &[String], text: &str) -> Result<(), String> {
    let (key, rest) = keys.split_first().ok_or("a setting's name is missing after the prefix")?;
    if rest.is_empty() {
        // A number, truth value or list is taken as such; anything else is text.
        let value = format!("v = {text}")
            .parse::<toml::Table>()
            .ok()
            .and_then(|mut table| table.remove("v"))
            .unwrap_or_else(|| toml::Value::String(text.to_owned()));
        table.insert(key.clone(), value);
        return Ok(());
    }
    match table.entry(key.clone()).or_insert_with(|| toml::Value::Table(toml::Table::new())) {
        toml::Value::Table(inner) => insert(inner, rest, text),
        _ => Err(format!("{key} is a value, not a section")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn two_underscores_are_a_dot_and_values_keep_their_kind() {
        let mut tree: toml::Table = "[stream]\nshards = 2\nname = \"a\"\n".parse().unwrap();
        let environment = pairs(&[
            ("ANABRANCH__STREAM__SHARDS", "4"),
            ("ANABRANCH__STREAM__NAME", "clicks-1"),
            ("ANABRANCH__EVENTS__TYPES__VIEW__HIDES", "true"),
            ("OTHER__STREAM__SHARDS", "9"),
        ]);
        overlay(&mut tree, environment).unwrap();
        let expected = "[stream]\nshards = 4\nname = \"clicks-1\"\n[events.types.view]\nhides = true\n";
        assert_eq!(tree, expected.parse::<toml::Table>().unwrap());
    }

    #[test]
    fn models_lie_in_the_lake_unless_said_otherwise() {
        let mut places = Places { lake: "s3://lake".to_owned(), ..Places::default() };
        assert_eq!(places.registry(), "s3://lake");
        "s3://models".clone_into(&mut places.models);
        assert_eq!((places.registry(), places.lake.as_str()), ("s3://models", "s3://lake"));
    }

    #[test]
    fn a_section_inside_a_value_names_its_variable() {
        let error = overlay(&mut toml::Table::new(), pairs(&[("ANABRANCH__A", "1"), ("ANABRANCH__A__B", "2")]));
        assert_eq!(error.unwrap_err(), "ANABRANCH__A__B: a is a value, not a section");
    }
}
