//! What all clients of the official SDK share: configuration, TLS, the runtime they wait on, the reading of errors.
//!
//! TLS is rustls with ring, as in the rest of the workspace. The SDK finds credentials as AWS's own tools do
//! (environment, profile, web identity, container, instance), without single sign-on. Its retries are off: the callers
//! retry by their own rules, with a clock and a seed, and must see that they were throttled.
//!
//! The traits are synchronous, so the adapters block on a runtime: call them from threads of their own, or inside
//! `tokio::task::spawn_blocking`, never from an async task of that runtime.

use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_kinesis::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use tokio::runtime::Handle;

use crate::api::{ApiError, ApiErrorKind};
use crate::backoff::Pause;

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

/// Reads configuration and finds credentials; the clients of all services are made of it.
pub fn connect(settings: &AwsSettings, runtime: &Handle) -> SdkConfig {
    let http = aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
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
    runtime.block_on(loader.load())
}

/// Waits on the runtime's timer.
#[derive(Clone, Debug)]
pub struct RuntimePause(pub Handle);

impl Pause for RuntimePause {
    fn pause(&self, ms: u64) {
        self.0.block_on(tokio::time::sleep(Duration::from_millis(ms)));
    }
}

/// What an error of the SDK says; `status` is the answer's HTTP status, where there was an answer.
pub(crate) fn api_error<E, R>(
    error: &SdkError<E, R>,
    operation: &'static str,
    resource: &str,
    status: Option<u16>,
) -> ApiError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
    R: std::fmt::Debug,
{
    let kind = match error {
        SdkError::ConstructionFailure(_) => ApiErrorKind::FixInput,
        SdkError::ServiceError(_) => ApiErrorKind::of(error.code(), status),
        // Among them missing credentials: they may come (an instance's role), and waiting loses nothing.
        _ => ApiErrorKind::Retry,
    };
    let message = match (error.code(), error.message()) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code.to_owned(),
        _ => DisplayErrorContext(error).to_string(),
    };
    ApiError::new(kind, operation, resource, message)
}
