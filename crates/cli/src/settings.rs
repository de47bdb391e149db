//! The settings: one documented tree, from `anabranch.toml`, with overrides from the environment.
//!
//! `ANABRANCH__STREAM__SHARDS=4` overrides `shards` in `[stream]`: two underscores stand for a dot.

use std::path::{Path, PathBuf};

use anabranch_batch::etl::EtlSettings;
use anabranch_batch::train::TrainingSettings;
use anabranch_events::EventSettings;
use anabranch_events::erasure::KEY_BYTES;
use anabranch_models::learn::LearnSettings;
use anabranch_stream::StreamSettings;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

const ENVIRONMENT_PREFIX: &str = "ANABRANCH__";
const DEFAULT_FILE: &str = "anabranch.toml";

/// All settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// Where things lie.
    pub(crate) places: Places,
    /// What events mean.
    pub(crate) events: EventSettings,
    /// The ETL.
    pub(crate) etl: EtlSettings,
    /// The model.
    pub(crate) model: LearnSettings,
    /// Training and evaluation.
    pub(crate) training: TrainingSettings,
    /// Where the stream's records come from.
    pub(crate) source: SourceSettings,
    /// The stream.
    pub(crate) stream: StreamSettings,
    /// HTTP.
    pub(crate) server: ServerSettings,
}

/// Where things lie. What is empty lies below `home`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Places {
    /// Folder that everything lives in.
    pub(crate) home: PathBuf,
    /// Dataset and models: a folder or `s3://bucket/prefix`; `home/lake` if empty.
    pub(crate) lake: String,
    /// Delivered lists and dead letters: a folder or `s3://bucket/prefix`; `home/delivered` if empty.
    pub(crate) delivered: String,
    /// Temporary files of ETL and training; `home/scratch` if empty.
    pub(crate) scratch: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            home: PathBuf::from("anabranch-data"),
            lake: String::new(),
            delivered: String::new(),
            scratch: PathBuf::new(),
        }
    }
}

/// What a stream reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SourceKind {
    /// The log in `home`, which events enter over HTTP; histories lie beside it.
    #[default]
    Embedded,
    /// A stream of Kinesis Data Streams; histories lie in DynamoDB.
    Kinesis,
}

/// Where the stream's records come from. Everything but `kind` is about Kinesis.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SourceSettings {
    /// `embedded` or `kinesis`.
    pub(crate) kind: SourceKind,
    /// Name or ARN of the stream, in the account of the credentials.
    pub(crate) stream: String,
    /// ARN of a registered consumer: records are pushed (enhanced fan-out). Polls if empty.
    pub(crate) consumer_arn: String,
    /// `GetRecords` calls a second and shard, 1 to 5, which all who poll the stream share.
    pub(crate) reads_per_second: u64,
    /// DynamoDB table of histories, checkpoints and erasures (partition key `k`, binary; time to live on `ttl`).
    pub(crate) table: String,
    /// DynamoDB table of leases (partition key `leaseKey`, text).
    pub(crate) lease_table: String,
    /// The secret under which forgotten users are named, 64 hexadecimal digits, the same for every worker;
    /// `home/keys/erasure.key`, made at its first use, if empty.
    #[serde(serialize_with = "hidden")]
    pub(crate) erasure_key: String,
    /// A history vanishes this many days after its last change; more than the stream keeps records.
    pub(crate) history_days: u32,
    /// AWS region; that of ARN, environment or profile if empty.
    pub(crate) region: String,
    /// In place of AWS's endpoints, such as `http://127.0.0.1:4566`; that of the environment if empty.
    pub(crate) endpoint_url: String,
    /// Name of this worker, which no other worker of the stream has; made by chance if empty.
    pub(crate) worker: String,
    /// Shards that this worker reads at once, each on a thread with at most some 100 MB.
    pub(crate) shards_max: usize,
    /// A worker that does not renew its leases for this long has lost them, in milliseconds.
    pub(crate) failover_ms: u64,
    /// How often the shards are listed, in milliseconds.
    pub(crate) list_shards_every_ms: u64,
    /// How long open cuts may take to come out when the worker is told to end, in milliseconds.
    pub(crate) drain_ms: u64,
}

impl Default for SourceSettings {
    fn default() -> Self {
        Self {
            kind: SourceKind::Embedded,
            stream: String::new(),
            consumer_arn: String::new(),
            reads_per_second: 4,
            table: String::new(),
            lease_table: String::new(),
            erasure_key: String::new(),
            history_days: 400,
            region: String::new(),
            endpoint_url: String::new(),
            worker: String::new(),
            shards_max: 16,
            failover_ms: 10_000,
            list_shards_every_ms: 10_000,
            drain_ms: 20_000,
        }
    }
}

/// Secrets are read, never printed.
fn hidden<S: serde::Serializer>(_secret: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str("")
}

impl SourceSettings {
    fn check(&self) -> Result<(), String> {
        let is_kinesis = self.kind == SourceKind::Kinesis;
        let named = |name: &str, value: &str| (!is_kinesis || !value.is_empty(), format!("{name} is missing"));
        let is_key = self.erasure_key.is_empty() || erasure_key(&self.erasure_key).is_some();
        let checks = [
            named("stream", &self.stream),
            named("table", &self.table),
            named("lease_table", &self.lease_table),
            (is_key, "erasure_key: 64 hexadecimal digits".to_owned()),
            ((1..=5).contains(&self.reads_per_second), format!("reads_per_second = {}: 1 to 5", self.reads_per_second)),
            ((1..=3650).contains(&self.history_days), format!("history_days = {}: 1 to 3650", self.history_days)),
            ((1..=1024).contains(&self.shards_max), format!("shards_max = {}: 1 to 1024", self.shards_max)),
            ((100..=600_000).contains(&self.failover_ms), format!("failover_ms = {}: 100 to 600000", self.failover_ms)),
            (
                (100..=600_000).contains(&self.list_shards_every_ms),
                format!("list_shards_every_ms = {}: 100 to 600000", self.list_shards_every_ms),
            ),
            ((0..=600_000).contains(&self.drain_ms), format!("drain_ms = {}: 0 to 600000", self.drain_ms)),
        ];
        checks.into_iter().find(|(ok, _)| !ok).map_or(Ok(()), |(_, problem)| Err(format!("[source] {problem}")))
    }
}

/// A key from its hexadecimal digits.
pub(crate) fn erasure_key(text: &str) -> Option<[u8; KEY_BYTES]> {
    let mut key = [0; KEY_BYTES];
    let digits = text.as_bytes();
    if digits.len() != 2 * KEY_BYTES || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    for (byte, pair) in key.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(key)
}

/// HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ServerSettings {
    /// Address and port. Keep it on loopback, or put a proxy that knows your users in front.
    pub(crate) listen: String,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self { listen: "127.0.0.1:8080".to_owned() }
    }
}

/// Reads the settings: defaults, then the file, then the environment, then `--home`.
pub(crate) fn load(
    file: Option<&Path>,
    home: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<Settings, Failure> {
    let path = match file {
        Some(path) => Some(path.to_owned()),
        None => Some(PathBuf::from(DEFAULT_FILE)).filter(|path| path.is_file()),
    };
    let mut tree = match &path {
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|e| Failure::io("read the settings", path, &e))?;
            toml::from_str::<toml::Table>(&text).map_err(|e| Failure::input(format!("{}: {e}", path.display())))?
        }
        None => toml::Table::new(),
    };
    let mut overrides: Vec<(String, String)> =
        environment.filter(|(name, _)| name.starts_with(ENVIRONMENT_PREFIX)).collect();
    overrides.sort_unstable();
    for (name, value) in &overrides {
        let keys: Vec<String> = name[ENVIRONMENT_PREFIX.len()..].split("__").map(str::to_ascii_lowercase).collect();
        insert(&mut tree, &keys, value).map_err(|problem| Failure::input(format!("{name}: {problem}")))?;
    }
    let mut settings: Settings = toml::Value::Table(tree).try_into().map_err(|e: toml::de::Error| {
        let place = path.as_deref().map_or("the environment".to_owned(), |path| path.display().to_string());
        Failure::input(format!("{place}: {e}"))
    })?;
    if let Some(home) = home {
        home.clone_into(&mut settings.places.home);
    }
    settings.stream.check().map_err(Failure::input)?;
    settings.source.check().map_err(Failure::input)?;
    settings.events.compile()?;
    Ok(settings)
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

    fn environment(pairs: &[(&str, &str)]) -> impl Iterator<Item = (String, String)> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<Vec<_>>().into_iter()
    }

    #[test]
    fn file_then_environment_then_argument() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.toml");
        std::fs::write(&file, "[stream]\nshards = 3\nname = \"a\"\n[events.types.view]\nweight = 2.0\n").unwrap();
        let pairs = [("ANABRANCH__STREAM__SHARDS", "5"), ("ANABRANCH__PLACES__LAKE", "s3://b/p"), ("OTHER", "1")];
        let settings = load(Some(&file), Some(Path::new("/h")), environment(&pairs)).unwrap();
        assert_eq!((settings.stream.shards, settings.stream.name.as_str()), (5, "a"));
        assert_eq!((settings.places.lake.as_str(), settings.places.home.as_path()), ("s3://b/p", Path::new("/h")));
        assert_eq!(settings.events.types.len(), 1, "a file that names types names all of them");
    }

    #[test]
    fn mistakes_name_their_place() {
        for (pairs, part) in [
            ([("ANABRANCH__STREAM__SHARD", "5")], "shard"),
            ([("ANABRANCH__STREAM__SHARDS", "0")], "shards = 0"),
            ([("ANABRANCH__STREAM__SHARDS", "many")], "shards"),
            ([("ANABRANCH__EVENTS__DEFAULT_TYPE", "ogle")], "default_type"),
            ([("ANABRANCH__SOURCE__KIND", "kinesis")], "[source] stream is missing"),
            ([("ANABRANCH__SOURCE__ERASURE_KEY", "00ff")], "64 hexadecimal digits"),
            ([("ANABRANCH__SOURCE__READS_PER_SECOND", "6")], "1 to 5"),
        ] {
            let error = format!("{:?}", load(None, None, environment(&pairs)).unwrap_err());
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_secret_is_read_and_not_printed() {
        let pair = ("ANABRANCH__SOURCE__ERASURE_KEY", "0f".repeat(32));
        let settings = load(None, None, environment(&[(pair.0, &pair.1)])).unwrap();
        assert_eq!(erasure_key(&settings.source.erasure_key), Some([15; 32]));
        assert!(!toml::to_string_pretty(&settings).unwrap().contains("0f0f"));
    }

    #[test]
    fn printed_settings_read_back() {
        let text = toml::to_string_pretty(&Settings::default()).unwrap();
        assert_eq!(toml::from_str::<Settings>(&text).unwrap(), Settings::default());
    }
}
