//! `[source]`: where the stream's records come from.

use anabranch_events::erasure::KEY_BYTES;
use serde::{Deserialize, Serialize};

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
    /// DynamoDB table of notices that wait (partition key `k`, binary; time to live on `ttl`); needed where `[notify]` has
    /// rules.
    pub(crate) outbox_table: String,
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
            outbox_table: String::new(),
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
    pub(super) fn check(&self) -> Result<(), String> {
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

impl SourceSettings {
    /// Checks that notices have a place to wait, if there are rules.
    pub(super) fn check_outbox(&self, has_rules: bool) -> Result<(), String> {
        if has_rules && self.kind == SourceKind::Kinesis && self.outbox_table.is_empty() {
            return Err("[source] outbox_table is missing: there are rules in [notify]".to_owned());
        }
        Ok(())
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
