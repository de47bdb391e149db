//! The way in: one [`Connection`], and from it the adapters of every service.
//!
//! TLS is rustls with ring, as in the rest of the workspace. The SDK finds credentials as AWS's own tools do
//! (environment, profile, web identity, container, instance), without single sign-on. Its retries are off: the callers
//! retry by their own rules, with a clock and a seed, and must see that they were throttled.
//!
//! The traits are synchronous, so the adapters block on a runtime, which must have threads of its own (tokio's
//! multi-threaded one): call them from other threads, or inside `tokio::task::spawn_blocking`, never from an async task.

use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use tokio::runtime::Handle;

use anabranch_stores::backoff::Pause;

use crate::dynamo::sdk::SdkDynamo;
use crate::firehose::sdk::SdkFirehose;
use crate::kinesis::sdk::SdkKinesis;
use crate::sns::sdk::SdkPublisher;

/// Where AWS is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwsSettings {
    /// The region; `None` takes the one of environment or profile.
    pub region: Option<String>,
    /// In place of AWS's endpoints, such as `http://127.0.0.1:4566`.
    pub endpoint_url: Option<String>,
    /// How long connecting may take, milliseconds.
    pub connect_timeout_ms: u64,
    /// How long one request may take, milliseconds.
    pub request_timeout_ms: u64,
}

impl Default for AwsSettings {
    /// A request of 10 MiB at 2 MB/s takes five seconds.
    fn default() -> Self {
        Self { region: None, endpoint_url: None, connect_timeout_ms: 3_000, request_timeout_ms: 15_000 }
    }
}

/// Configuration, credentials and the runtime: what all clients share.
#[derive(Clone, Debug)]
pub struct Connection {
    config: SdkConfig,
    runtime: Handle,
}

impl Connection {
    /// Reads configuration; nothing is sent until the first call, except where credentials come from the network.
    pub fn new(settings: &AwsSettings, runtime: Handle) -> Self {
        let http =
            aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(Duration::from_millis(settings.connect_timeout_ms))
            .operation_attempt_timeout(Duration::from_millis(settings.request_timeout_ms))
            .build();
        let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
            .http_client(http)
            .timeout_config(timeouts)
            .retry_config(RetryConfig::disabled());
        if let Some(region) = &settings.region {
            loader = loader.region(Region::new(region.clone()));
        }
        if let Some(endpoint_url) = &settings.endpoint_url {
            loader = loader.endpoint_url(endpoint_url);
        }
        Self { config: runtime.block_on(loader.load()), runtime }
    }

    /// The Kinesis stream of this name. `consumer_arn` is a registered consumer's; without one there is no fan-out.
    pub fn kinesis(&self, stream: impl Into<String>, consumer_arn: Option<String>) -> SdkKinesis {
        let client = aws_sdk_kinesis::Client::new(&self.config);
        SdkKinesis::new(client, self.runtime.clone(), stream, consumer_arn)
    }

    /// DynamoDB.
    pub fn dynamo(&self) -> SdkDynamo {
        SdkDynamo::new(aws_sdk_dynamodb::Client::new(&self.config), self.runtime.clone())
    }

    /// The Firehose stream of this name.
    pub fn firehose(&self, stream: impl Into<String>) -> SdkFirehose {
        SdkFirehose::new(aws_sdk_firehose::Client::new(&self.config), self.runtime.clone(), stream)
    }

    /// SNS.
    pub fn sns(&self) -> SdkPublisher {
        SdkPublisher::new(aws_sdk_sns::Client::new(&self.config), self.runtime.clone())
    }

    /// Waits on the runtime's timer.
    pub fn pause(&self) -> RuntimePause {
        RuntimePause(self.runtime.clone())
    }
}

/// Waits on a runtime's timer.
#[derive(Clone, Debug)]
pub struct RuntimePause(Handle);

impl Pause for RuntimePause {
    fn pause(&self, ms: u64) {
        // The timer is made inside, where there is a runtime.
        self.0.block_on(async { tokio::time::sleep(Duration::from_millis(ms)).await });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::testing::SimClock;
    use anabranch_stores::backoff::Patience;

    /// docs/traps.md, 23: Lambda lets a function have fifteen minutes, Firehose waits five for its transformation.
    #[test]
    fn a_call_that_is_never_answered_ends_before_firehose_stops_waiting() {
        let patience = Patience::new(Arc::new(SimClock::default()), 1);
        let attempts_ms = u64::from(patience.attempts_max) * AwsSettings::default().request_timeout_ms;
        assert!(attempts_ms + patience.waits_ms_max() <= 127_000);
    }
}
