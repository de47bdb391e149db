//! The settings: the keys of `anabranch.toml`, from the environment (`ANABRANCH__STREAM__LIST_LENGTH=10`), and a section
//! of their own, `[lambda]`. Sections of other programs are passed over, so one set of settings serves all.
//!
//! What does not fit into the names of variables (the rules of `[notify]` have names of their own) comes as text: the
//! variable [`TOML`] holds an `anabranch.toml`, or a part of one, and single variables override it.

use anabranch_aws::api::{ApiError, StreamSummary};
use anabranch_aws::kinesis::identity;
use anabranch_events::EventSettings;
use anabranch_events::erasure::{ErasureKey, KEY_BYTES};
use anabranch_stream::StreamSettings;
use anabranch_stream::notify::{ChannelKind, NotifySettings, Rules};
use anabranch_stream::tree::{self, LogSettings, Places};
use serde::Deserialize;

/// Sections that other programs read.
const OTHERS: [&str; 6] = ["etl", "model", "training", "vectors", "server", "source"];
/// The variable that holds settings as TOML. Lambda takes 4 KB of variables in all.
pub const TOML: &str = "ANABRANCH_TOML";
const DAY_S: u32 = 86_400;
const HOUR_S: u32 = 3600;

/// All settings of a function.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Where things lie: `models` (or `lake`, which holds them otherwise) and `delivered` are needed, as
    /// `s3://bucket/prefix`. A function reads nothing else of the lake.
    pub places: Places,
    /// What events mean.
    pub events: EventSettings,
    /// Lists: mode, length, what they hide.
    pub stream: StreamSettings,
    /// Notifications.
    pub notify: NotifySettings,
    /// The functions' own.
    pub lambda: LambdaSettings,
    /// The log: its level.
    pub log: LogSettings,
}

/// How records are spread over folders (Firehose's dynamic partitioning).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Partition {
    /// Not at all.
    #[default]
    None,
    /// `day` of arrival, as `2026-11-23`.
    Day,
    /// `day` and `hour` of arrival, UTC.
    Hour,
}

/// `[lambda]`.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LambdaSettings {
    /// The DynamoDB table of histories and checkpoints.
    pub table: String,
    /// The Firehose stream that `stream` delivers to; if empty it writes exactly-once objects to `places.delivered`
    /// (the event source mapping's parallelization factor must then be 1; batches that come side by side are refused).
    pub firehose: String,
    /// Namespace of ids, folders and checkpoints. If empty it is that of a worker on the Kinesis stream `stream.name`, its
    /// name and creation time, which Kinesis is asked for (`kinesis:DescribeStreamSummary`, which the role of an event
    /// source mapping has). Set it where no Kinesis stream is behind the function, or it may not ask.
    pub namespace: String,
    /// The secret under which forgotten owners are named: 64 hexadecimal digits.
    pub erasure_key: String,
    /// How long the stream keeps events, in hours.
    pub retention_hours: u32,
    /// How long a history outlives its last change, in days; longer than the retention.
    pub history_days: u32,
    /// Partition keys that `transform` answers.
    pub partition: Partition,
    /// The DynamoDB table of notices, where there are rules in `[notify]`.
    pub outbox_table: String,
    /// `notify`: the DynamoDB table with the lease of who sends, such as the workers' lease table.
    pub lease_table: String,
    /// `notify`: the Kinesis stream that `stream` is mapped to. It is asked how far it is read. If empty, as behind
    /// `transform`, a notice waits for `settle_minutes`.
    pub kinesis_stream: String,
    /// `notify`: within this time what arrived is in the histories, in minutes; Firehose buffers for up to 15.
    pub settle_minutes: u32,
    /// `notify`: the secret of the webhook's signature, 16 bytes or more.
    pub webhook_secret: String,
    /// How often the current model is looked up, in seconds.
    pub model_poll_s: u64,
    /// Where snapshots are downloaded to.
    pub cache_folder: String,
    /// Namespace of the metrics.
    pub metrics_namespace: String,
}

impl Default for LambdaSettings {
    fn default() -> Self {
        Self {
            table: String::new(),
            firehose: String::new(),
            namespace: String::new(),
            erasure_key: String::new(),
            retention_hours: 24,
            history_days: 400,
            partition: Partition::None,
            outbox_table: String::new(),
            lease_table: String::new(),
            kinesis_stream: String::new(),
            settle_minutes: 16,
            webhook_secret: String::new(),
            model_poll_s: 60,
            cache_folder: "/tmp/anabranch".to_owned(),
            metrics_namespace: "Anabranch".to_owned(),
        }
    }
}

impl std::fmt::Debug for LambdaSettings {
    /// The secret stays out of logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LambdaSettings")
            .field("table", &self.table)
            .field("firehose", &self.firehose)
            .field("namespace", &self.namespace)
            .field("partition", &self.partition)
            .finish_non_exhaustive()
    }
}

/// Settings that do not do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SettingsError(pub String);

impl Settings {
    /// Reads and checks the settings.
    pub fn load(environment: impl IntoIterator<Item = (String, String)>) -> Result<Self, SettingsError> {
        let environment: Vec<(String, String)> = environment.into_iter().collect();
        let mut tree = match environment.iter().find(|(name, _)| name == TOML) {
            Some((_, text)) => text.parse().map_err(|error| SettingsError(format!("{TOML}: {error}")))?,
            None => toml::Table::new(),
        };
        tree::overlay(&mut tree, environment).map_err(SettingsError)?;
        tree.retain(|section, _| !OTHERS.contains(&section));
        let settings: Self = toml::Value::Table(tree)
            .try_into()
            .map_err(|error: toml::de::Error| SettingsError(format!("the environment: {error}")))?;
        settings.check()?;
        Ok(settings)
    }

    fn check(&self) -> Result<(), SettingsError> {
        self.stream.check().map_err(SettingsError)?;
        for (name, value) in [
            ("PLACES__MODELS", self.places.registry()),
            ("PLACES__DELIVERED", self.places.delivered.as_str()),
            ("LAMBDA__TABLE", self.lambda.table.as_str()),
        ] {
            if value.is_empty() {
                return Err(SettingsError(format!("set {}{name}: a function has no folder", tree::ENVIRONMENT_PREFIX)));
            }
        }
        if !self.rules()?.is_empty() && self.lambda.outbox_table.is_empty() {
            let name = tree::ENVIRONMENT_PREFIX;
            return Err(SettingsError(format!("set {name}LAMBDA__OUTBOX_TABLE: there are rules in [notify]")));
        }
        self.erasure_key().map(drop)
    }

    /// Checks what `notify` needs beside.
    pub fn check_notify(&self) -> Result<(), SettingsError> {
        let is_webhook = self.notify.channel == ChannelKind::Webhook;
        for (name, is_there, why) in [
            ("LAMBDA__OUTBOX_TABLE", !self.lambda.outbox_table.is_empty(), "it holds what is to be sent"),
            ("LAMBDA__LEASE_TABLE", !self.lambda.lease_table.is_empty(), "one process sends at a time"),
            (
                "LAMBDA__WEBHOOK_SECRET",
                !is_webhook || !self.lambda.webhook_secret.is_empty(),
                "16 bytes or more; make one with: openssl rand -hex 32",
            ),
        ] {
            if !is_there {
                return Err(SettingsError(format!("set {}{name}: {why}", tree::ENVIRONMENT_PREFIX)));
            }
        }
        Ok(())
    }

    /// What triggers notifications.
    pub fn rules(&self) -> Result<Rules, SettingsError> {
        let types = self.events.compile().map_err(|error| SettingsError(error.to_string()))?;
        self.notify.compile(&types).map_err(SettingsError)
    }

    /// Namespace of ids, folders and checkpoints: what is set, or what a worker on the same stream has. `describe` asks
    /// Kinesis. There is no other default: under a name alone a stream that was made again would go on in the chain and the
    /// checkpoints of the one before, with other sequence numbers.
    pub fn namespace(
        &self,
        describe: impl FnOnce() -> Result<StreamSummary, ApiError>,
    ) -> Result<String, SettingsError> {
        if !self.lambda.namespace.is_empty() {
            return Ok(self.lambda.namespace.clone());
        }
        let summary = describe().map_err(|error| {
            SettingsError(format!(
                "the creation time of the stream, which is part of its namespace, is not to be had: {error}. Set \
                 {prefix}LAMBDA__NAMESPACE to {name}-<creation time in milliseconds since 1970> (any fixed name if \
                 records are put straight into Firehose), or mend {prefix}STREAM__NAME or the function's policy",
                prefix = tree::ENVIRONMENT_PREFIX,
                name = self.stream.name,
            ))
        })?;
        Ok(identity::namespace(&self.stream.name, &summary))
    }

    /// The secret of the erasure table.
    pub fn erasure_key(&self) -> Result<ErasureKey, SettingsError> {
        let digits = self.lambda.erasure_key.as_bytes();
        let mut bytes = [0; KEY_BYTES];
        let is_whole = digits.len() == 2 * KEY_BYTES
            && bytes.iter_mut().zip(digits.chunks(2)).all(|(byte, pair)| {
                let pair = std::str::from_utf8(pair).ok().filter(|pair| pair.bytes().all(|b| b.is_ascii_hexdigit()));
                pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()).map(|value| *byte = value).is_some()
            });
        if is_whole {
            Ok(ErasureKey::new(bytes))
        } else {
            let what = "set ANABRANCH__LAMBDA__ERASURE_KEY to 64 hexadecimal digits, the key of the deployment";
            Err(SettingsError(what.to_owned()))
        }
    }

    /// How long the stream keeps events, in seconds.
    pub const fn retention_s(&self) -> u32 {
        self.lambda.retention_hours.saturating_mul(HOUR_S)
    }

    /// How long a history outlives its last change, in seconds.
    pub const fn history_s(&self) -> u32 {
        self.lambda.history_days.saturating_mul(DAY_S)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use anabranch_aws::api::ApiErrorKind;

    use super::*;

    fn needed() -> Vec<(String, String)> {
        let key = "0a".repeat(32);
        [
            ("ANABRANCH__PLACES__LAKE", "s3://lake/p"),
            ("ANABRANCH__PLACES__DELIVERED", "s3://lists"),
            ("ANABRANCH__LAMBDA__TABLE", "state"),
            ("ANABRANCH__LAMBDA__ERASURE_KEY", &key),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
    }

    fn load(more: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        let mut pairs = needed();
        pairs.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        Settings::load(pairs)
    }

    #[test]
    fn the_environment_is_read_and_other_programs_sections_are_passed_over() {
        let settings = load(&[
            ("ANABRANCH__STREAM__LIST_LENGTH", "7"),
            ("ANABRANCH__LAMBDA__PARTITION", "hour"),
            ("ANABRANCH__SERVER__LISTEN", "127.0.0.1:1"),
            ("PATH", "/bin"),
        ])
        .unwrap();
        assert_eq!((settings.stream.list_length, settings.lambda.partition), (7, Partition::Hour));
        assert_eq!((settings.retention_s(), settings.history_s()), (86_400, 34_560_000));
        assert_eq!(settings.erasure_key().unwrap().secret_bytes(), &[0x0a; 32]);
        assert!(!format!("{settings:?}").contains("0a0a"), "the secret stays out of logs");
    }

    #[test]
    fn models_may_have_a_place_of_their_own() {
        let lake = load(&[]).unwrap();
        assert_eq!(lake.places.registry(), "s3://lake/p");
        let models = [("ANABRANCH__PLACES__LAKE", ""), ("ANABRANCH__PLACES__MODELS", "s3://models")];
        assert_eq!(load(&models).unwrap().places.registry(), "s3://models");
    }

    #[test]
    fn the_namespace_is_a_workers_or_the_one_that_is_set() {
        let summary = || Ok(StreamSummary { arn: String::new(), created_ms: 17, retention_hours: 24 });
        let denied = || Err(ApiError::new(ApiErrorKind::Denied, "DescribeStreamSummary", "stream clicks", "no"));
        assert_eq!(load(&[]).unwrap().namespace(summary).unwrap(), "clicks-17");
        assert_eq!(load(&[("ANABRANCH__STREAM__NAME", "shop")]).unwrap().namespace(summary).unwrap(), "shop-17");
        let error = load(&[]).unwrap().namespace(denied).unwrap_err().to_string();
        for part in ["ANABRANCH__LAMBDA__NAMESPACE", "clicks-<creation time", "DescribeStreamSummary", "policy"] {
            assert!(error.contains(part), "{error}");
        }
        let set = load(&[("ANABRANCH__LAMBDA__NAMESPACE", "clicks-18")]).unwrap();
        assert_eq!(set.namespace(|| panic!("nobody is asked")).unwrap(), "clicks-18");
    }

    #[test]
    fn rules_come_as_toml_and_single_variables_override_it() {
        let toml = "[stream]\nlist_length = 3\n[server]\nlisten = \"x\"\n[notify]\nchannel = \"webhook\"\n\
                    [notify.webhook]\nurl = \"https://shop.example/hooks\"\n\
                    [notify.rules.abandoned-cart]\nevent_types = [\"cart\"]\n";
        let error = load(&[(TOML, toml)]).unwrap_err().to_string();
        assert!(error.contains("ANABRANCH__LAMBDA__OUTBOX_TABLE"), "{error}");
        let outbox = ("ANABRANCH__LAMBDA__OUTBOX_TABLE", "outbox");
        let settings = load(&[(TOML, toml), outbox, ("ANABRANCH__STREAM__LIST_LENGTH", "4")]).unwrap();
        assert!(settings.rules().unwrap().get("abandoned-cart").is_some());
        assert_eq!(settings.stream.list_length, 4);
        let mut more = vec![(TOML, toml), outbox];
        for (name, value) in
            [("ANABRANCH__LAMBDA__LEASE_TABLE", "leases"), ("ANABRANCH__LAMBDA__WEBHOOK_SECRET", "a secret of sixteen")]
        {
            let error = load(&more).unwrap().check_notify().unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
            more.push((name, value));
        }
        let settings = load(&more).unwrap();
        settings.check_notify().unwrap();
        assert!(!format!("{settings:?}").contains("sixteen"), "the secret stays out of logs");
        for (toml, part) in
            [("[notify", TOML), ("[notify.rules.r]\nevent_types = [\"ogle\"]\n", "[notify.rules.r] event_types")]
        {
            let error = load(&[(TOML, toml), outbox]).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (name, value, part) in [
            ("ANABRANCH__LAMBDA__TABEL", "x", "tabel"),
            ("ANABRANCH__LAMBDA__TABLE", "", "LAMBDA__TABLE"),
            ("ANABRANCH__PLACES__LAKE", "", "PLACES__MODELS"),
            ("ANABRANCH__STREAM__LIST_LENGTH", "0", "list_length"),
            ("ANABRANCH__LAMBDA__ERASURE_KEY", "0a", "64 hexadecimal"),
            ("ANABRANCH__LAMBDA__ERASURE_KEY", &"+a".repeat(32), "64 hexadecimal"),
            ("ANABRANCH__LAMBDA__PARTITION", "user", "partition"),
        ] {
            let mut pairs = needed();
            pairs.retain(|(held, _)| held != name);
            pairs.push((name.to_owned(), value.to_owned()));
            let error = Settings::load(pairs).unwrap_err().to_string();
            assert!(error.contains(part), "{name}: {error}");
        }
    }
}
