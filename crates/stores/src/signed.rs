//! Signed POSTs to a service of AWS that needs no SDK: a few calls of JSON.
//!
//! `object_store` gives the credentials (and renews those of a role) and the signature (SigV4, whose time it reads from
//! the system itself); `reqwest` sends. Requests run on a small runtime of the client's own while the calling thread
//! waits, so that a call from inside another runtime cannot panic. Redirects are not followed: a signature is of one
//! host. Nothing is tried again here; callers know what may be.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use object_store::aws::{AwsAuthorizer, AwsCredentialProvider};
use object_store::client::{HttpClient, HttpRequest};
use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderName, HeaderValue};

use crate::lake::{S3Options, s3_client};
use crate::own_runtime::OwnRuntime;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Of a whole call: a body of 20 MiB over a slow line.
const CALL_TIMEOUT: Duration = Duration::from_mins(1);
/// Most bytes of an answer: 100 vectors with 40 KB of metadata, written as JSON in JSON, are 8 MB; the rest is room.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// The header that names the operation where the path does not.
pub(crate) const TARGET: HeaderName = HeaderName::from_static("x-amz-target");

/// A service, and who calls it.
#[derive(Debug)]
pub(crate) struct SignedClient {
    service: &'static str,
    endpoint: String,
    region: String,
    credentials: AwsCredentialProvider,
    client: HttpClient,
    runtime: Arc<OwnRuntime>,
}

/// An answer of any status.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The error's name, from its header.
    pub(crate) error_type: Option<String>,
    pub(crate) body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PostError {
    /// No credentials or no connection for now; the call may or may not have been applied.
    Unavailable(String),
    /// It cannot be signed.
    Denied(String),
    /// It cannot be made.
    Invalid(String),
    /// The answer is larger than any that is expected.
    TooLarge(String),
}

impl SignedClient {
    /// Prepares a client of `service` at `endpoint`, with the lake's region and keys; nothing is sent until the first
    /// call. The error says which setting is wrong.
    pub(crate) fn new(
        service: &'static str,
        endpoint: &str,
        region: &str,
        options: &S3Options,
        thread_name: &'static str,
    ) -> Result<Self, String> {
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        let url = reqwest::Url::parse(&endpoint).map_err(|error| format!("endpoint {endpoint:?}: {error}"))?;
        if !url.has_host() || !matches!(url.scheme(), "http" | "https") || url.query().is_some() {
            return Err(format!("endpoint {endpoint:?} is no http:// or https:// address"));
        }
        // Headers cannot hold anything else, and a key with a line break in it was copied badly.
        for secret in [&options.access_key_id, &options.secret_access_key, &options.session_token].into_iter().flatten()
        {
            if !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err("a key or token holds a character that no key has".to_owned());
            }
        }
        // The same client as the lake's, for its credentials alone: it sends nothing to the bucket of that name.
        let lake = s3_client("unused", options)?;
        let client = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(CALL_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| error.to_string())?;
        let runtime = OwnRuntime::new(thread_name).map_err(|error| format!("the client's threads: {error}"))?;
        Ok(Self {
            service,
            endpoint,
            region: region.to_owned(),
            credentials: Arc::clone(lake.credentials()),
            client: HttpClient::new(client),
            runtime: Arc::new(runtime),
        })
    }

    /// The runtime, to wait on.
    pub(crate) fn runtime(&self) -> Arc<OwnRuntime> {
        Arc::clone(&self.runtime)
    }

    /// One POST of `body` to `path` (`/CreateIndex`).
    pub(crate) fn post(
        &self,
        path: &str,
        content_type: &'static str,
        target: Option<&'static str>,
        body: Vec<u8>,
    ) -> Result<Answer, PostError> {
        let uri = format!("{}{path}", self.endpoint);
        let mut request = HttpRequest::new(Bytes::from(body).into());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri.parse().map_err(|error| PostError::Invalid(format!("{uri}: {error}")))?;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        if let Some(target) = target {
            request.headers_mut().insert(TARGET, HeaderValue::from_static(target));
        }
        let (client, credentials) = (self.client.clone(), Arc::clone(&self.credentials));
        let (service, region) = (self.service, self.region.clone());
        let sent = self.runtime.wait(async move {
            // Credentials may come from a service of their own, which may not be well.
            let credential =
                credentials.get_credential().await.map_err(|error| unavailable(&error, "no credentials: "))?;
            AwsAuthorizer::new(&credential, service, &region)
                .try_authorize(&mut request, None)
                .map_err(|error| PostError::Denied(format!("cannot sign: {error}")))?;
            let response = client.execute(request).await.map_err(|error| unavailable(&error, ""))?;
            let status = response.status().as_u16();
            let error_type = response.headers().get("x-amzn-errortype").and_then(|value| value.to_str().ok());
            let error_type = error_type.map(str::to_owned);
            let mut body = BytesMut::new();
            let mut stream = response.into_body().bytes_stream();
            while let Some(part) = stream.try_next().await.map_err(|error| unavailable(&error, ""))? {
                if body.len() + part.len() > ANSWER_BYTES_MAX {
                    return Err(PostError::TooLarge(format!("the answer has more than {ANSWER_BYTES_MAX} bytes")));
                }
                body.extend_from_slice(&part);
            }
            Ok(Answer { status, error_type, body: body.freeze() })
        });
        sent.map_err(|_| PostError::Unavailable("the client's threads have stopped".to_owned()))?
    }
}

/// The error and its causes in one line: the top line alone of an HTTP failure says nothing.
fn unavailable(error: &dyn std::error::Error, before: &str) -> PostError {
    let mut text = format!("{before}{error}");
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    PostError::Unavailable(text)
}
