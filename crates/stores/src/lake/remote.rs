//! S3 (and what speaks its protocol) behind the blocking port, over the `object_store` crate.
//!
//! Requests run on a small runtime of the store's own (`own_runtime`). The crate retries passing failures; a create-only write whose answer was lost may therefore report
//! `AlreadyExists` for bytes that are its own, which the port allows.

use std::collections::BTreeMap;
use std::future::Future;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use bytes::Bytes;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::list::{PaginatedListOptions, PaginatedListStore as _};
use object_store::path::Path as RemotePath;
use object_store::{
    ClientOptions, GetOptions, GetRange, ObjectStore as _, ObjectStoreExt as _, PutMode, PutPayload, RetryConfig,
    WriteMultipart,
};

use super::path::listing_folder;
use super::{LakeError, ObjectMeta, ObjectPath, ObjectStore, PutOutcome};
use crate::own_runtime::{OwnRuntime, run_on};

/// Bytes of one part of a multipart upload and of one read of a stream: large enough that S3's
/// time to first byte (tens of milliseconds) is noise, small enough to hold a few in memory.
const PART_BYTES: usize = 8 << 20;
/// Parts of one upload in flight together, so a large upload holds at most 4 × 8 MiB.
const PARTS_IN_FLIGHT: usize = 4;
/// How often a create-only write that met a conflict, yet found no object, is tried again.
const CONFLICT_ATTEMPTS: usize = 5;

/// How to reach a bucket. Nothing is read from the environment here; the command line does that and
/// passes it on.
#[derive(Clone, Default)]
pub struct S3Options {
    /// Region, such as `eu-west-1`; `None` means `us-east-1`.
    pub region: Option<String>,
    /// Endpoint of an S3-compatible service, such as `http://127.0.0.1:9000`; `None` for AWS.
    pub endpoint: Option<String>,
    /// Whether a plain `http://` endpoint is allowed.
    pub allow_http: bool,
    /// Access key id; without one, the instance's, task's or web identity's role is used.
    pub access_key_id: Option<String>,
    /// Secret of that key.
    pub secret_access_key: Option<String>,
    /// Session token of temporary credentials.
    pub session_token: Option<String>,
    /// Attempts after the first failed one (`None`: 10).
    pub retries_max: Option<usize>,
    /// Further settings by `object_store`'s names (`aws_container_credentials_relative_uri`, …).
    pub settings: BTreeMap<String, String>,
}

impl S3Options {
    /// How to reach S3, by the variables that AWS's own tools read; `variable` looks one up.
    pub fn from_environment(variable: &dyn Fn(&str) -> Option<String>) -> Self {
        let read = |name: &str| variable(name).filter(|value| !value.is_empty());
        let endpoint = read("AWS_ENDPOINT_URL_S3").or_else(|| read("AWS_ENDPOINT_URL"));
        let containers = [
            ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "aws_container_credentials_relative_uri"),
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "aws_container_credentials_full_uri"),
        ];
        Self {
            region: read("AWS_REGION").or_else(|| read("AWS_DEFAULT_REGION")),
            allow_http: endpoint.as_deref().is_some_and(|endpoint| endpoint.starts_with("http://")),
            endpoint,
            access_key_id: read("AWS_ACCESS_KEY_ID"),
            secret_access_key: read("AWS_SECRET_ACCESS_KEY"),
            session_token: read("AWS_SESSION_TOKEN"),
            retries_max: None,
            settings: containers.into_iter().filter_map(|(name, key)| Some((key.to_owned(), read(name)?))).collect(),
        }
    }
}

impl std::fmt::Debug for S3Options {
    /// Secrets stay out of logs.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("S3Options")
            .field("region", &self.region)
            .field("endpoint", &self.endpoint)
            .field("allow_http", &self.allow_http)
            .field("access_key_id", &self.access_key_id)
            .field("retries_max", &self.retries_max)
            .field("settings", &self.settings.keys())
            .finish_non_exhaustive()
    }
}

/// An object store in a bucket, below an optional prefix.
#[derive(Debug)]
pub struct RemoteStore {
    name: String,
    client: Arc<AmazonS3>,
    prefix: Option<ObjectPath>,
    runtime: OwnRuntime,
}

/// How deep a listing goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Depth {
    /// What lies directly there, and the names of folders.
    One,
    /// Everything.
    All,
}

/// What a listing found.
#[derive(Debug, Default)]
struct Listed {
    folders: Vec<RemotePath>,
    objects: Vec<object_store::ObjectMeta>,
}

impl RemoteStore {
    /// Prepares a client for `bucket`; nothing is sent until the first call.
    pub fn s3(bucket: &str, prefix: &str, options: &S3Options) -> Result<Self, LakeError> {
        let name = if prefix.is_empty() { format!("s3://{bucket}") } else { format!("s3://{bucket}/{prefix}") };
        let unusable = |reason: String| LakeError::InvalidLocation { location: name.clone(), reason };
        let folder = listing_folder(prefix)?;
        let prefix = if folder.is_empty() { None } else { Some(ObjectPath::new(folder)?) };
        let client = s3_client(bucket, options).map_err(&unusable)?;
        let runtime = OwnRuntime::new("anabranch-s3").map_err(|error| LakeError::Internal {
            action: "start the S3 client's threads",
            detail: error.to_string(),
        })?;
        Ok(Self { name, client: Arc::new(client), prefix, runtime })
    }

    fn key(&self, path: &ObjectPath) -> Result<RemotePath, LakeError> {
        let text = match &self.prefix {
            Some(prefix) => format!("{prefix}/{path}"),
            None => path.to_string(),
        };
        RemotePath::parse(&text).map_err(|_| LakeError::InvalidPath { path: text, reason: "S3's client refuses it" })
    }

    /// What every key in the folder `prefix` begins with.
    fn folder_key(&self, prefix: &str) -> Result<String, LakeError> {
        let folder = listing_folder(prefix)?;
        let mut key = String::new();
        for segment in self.prefix.as_ref().map(ObjectPath::as_str).into_iter().chain(Some(folder)) {
            if !segment.is_empty() {
                key.push_str(segment);
                key.push('/');
            }
        }
        Ok(key)
    }

    /// Everything whose key begins with `start`, in S3's own pages; `prefix` is for the error.
    fn listed(&self, start: String, depth: Depth, prefix: &str) -> Result<Listed, LakeError> {
        let client = Arc::clone(&self.client);
        let listed = self.wait("list", async move {
            let mut all = Listed::default();
            let mut page_token = None;
            loop {
                let delimiter = (depth == Depth::One).then_some("/".into());
                let options = PaginatedListOptions { delimiter, page_token, ..PaginatedListOptions::default() };
                let page = client.list_paginated(Some(&start), options).await?;
                all.folders.extend(page.result.common_prefixes);
                all.objects.extend(page.result.objects);
                // Some services tell an empty token on the last page.
                page_token = page.page_token.filter(|token| !token.is_empty());
                if page_token.is_none() {
                    return Ok(all);
                }
            }
        })?;
        listed.map_err(|error| self.error("list", prefix, error))
    }

    fn sorted(&self, listed: Vec<object_store::ObjectMeta>) -> Vec<ObjectMeta> {
        let own_len = self.prefix.as_ref().map_or(0, |own| own.as_str().len() + 1);
        let mut found: Vec<ObjectMeta> = listed
            .into_iter()
            // Keys that are no object path (a console's "folder/" markers) were not written here.
            .filter_map(|meta| {
                let path = ObjectPath::new(meta.location.as_ref().get(own_len..)?).ok()?;
                let modified_ms = meta.last_modified.timestamp_millis();
                Some(ObjectMeta { path, size: meta.size, modified_ms })
            })
            .collect();
        found.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        found
    }

    fn wait<F>(&self, action: &'static str, future: F) -> Result<F::Output, LakeError>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.runtime.wait(future).map_err(|_| stopped(action))
    }

    fn error(&self, action: &'static str, path: &str, error: object_store::Error) -> LakeError {
        translate(&self.name, action, path, error)
    }

    fn size_of(&self, path: &ObjectPath) -> Result<(u64, Option<String>), LakeError> {
        let (client, key) = (Arc::clone(&self.client), self.key(path)?);
        let head = self.wait("look at", async move { client.head(&key).await })?;
        let head = head.map_err(|error| self.error("look at", path.as_str(), error))?;
        Ok((head.size, head.e_tag))
    }
}

impl ObjectStore for RemoteStore {
    fn put_new(&self, path: &ObjectPath, bytes: &[u8]) -> Result<PutOutcome, LakeError> {
        let payload = PutPayload::from_bytes(Bytes::copy_from_slice(bytes));
        for _ in 0..CONFLICT_ATTEMPTS {
            let (client, key, payload) = (Arc::clone(&self.client), self.key(path)?, payload.clone());
            let sent =
                self.wait("create", async move { client.put_opts(&key, payload, PutMode::Create.into()).await })?;
            match sent {
                Ok(_) => return Ok(PutOutcome::Created),
                Err(object_store::Error::AlreadyExists { .. }) => {}
                Err(error) => return Err(for_write(self.error("create", path.as_str(), error))),
            }
            // S3 also answers "conflict" while another write is under way. Only an object that
            // can be seen may be reported as existing.
            if self.exists(path)? {
                return Ok(PutOutcome::AlreadyExists);
            }
        }
        Err(LakeError::Remote {
            action: "create",
            place: format!("{}/{path}", self.name),
            detail: "other writers of this object conflict with each other again and again".to_owned(),
        })
    }

    fn put(&self, path: &ObjectPath, bytes: &[u8]) -> Result<(), LakeError> {
        let payload = PutPayload::from_bytes(Bytes::copy_from_slice(bytes));
        let (client, key) = (Arc::clone(&self.client), self.key(path)?);
        let sent = self.wait("write", async move { client.put(&key, payload).await })?;
        sent.map(|_| ()).map_err(|error| for_write(self.error("write", path.as_str(), error)))
    }

    fn put_file(&self, path: &ObjectPath, source: &Path) -> Result<u64, LakeError> {
        let read = |error| LakeError::from_io("read", source, error);
        let mut file = std::fs::File::open(source).map_err(read)?;
        let size = file.metadata().map_err(read)?.len();
        if size <= PART_BYTES as u64 {
            let mut bytes = Vec::with_capacity(size as usize);
            file.read_to_end(&mut bytes).map_err(read)?;
            self.put(path, &bytes)?;
            return Ok(bytes.len() as u64);
        }
        let (client, key) = (Arc::clone(&self.client), self.key(path)?);
        let path_text = path.as_str();
        let upload = self.wait("start to upload", async move { client.put_multipart(&key).await })?;
        let upload = upload.map_err(|error| for_write(self.error("start to upload", path_text, error)))?;
        let mut writer = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
        let mut written = 0;
        loop {
            let mut part = Vec::with_capacity(PART_BYTES);
            let part_len = match (&mut file).take(PART_BYTES as u64).read_to_end(&mut part) {
                Ok(part_len) => part_len,
                Err(error) => {
                    // The unfinished upload stays invisible; S3's lifecycle rule removes it if
                    // this request is lost as well.
                    let _ = self.wait("abort", async move { writer.abort().await });
                    return Err(read(error));
                }
            };
            if part_len == 0 {
                break;
            }
            written += part_len as u64;
            let (returned, ready) = self.wait("upload", async move {
                let ready = writer.wait_for_capacity(PARTS_IN_FLIGHT).await;
                if ready.is_ok() {
                    writer.put(part.into());
                }
                (writer, ready)
            })?;
            writer = returned;
            if let Err(error) = ready {
                let _ = self.wait("abort", async move { writer.abort().await });
                return Err(self.error("upload", path_text, error));
            }
        }
        let finished = self.wait("finish upload", async move { writer.finish().await })?;
        finished.map_err(|error| self.error("finish upload", path_text, error))?;
        Ok(written)
    }

    fn get(&self, path: &ObjectPath) -> Result<Bytes, LakeError> {
        let (client, key) = (Arc::clone(&self.client), self.key(path)?);
        let bytes = self.wait("read", async move { client.get(&key).await?.bytes().await })?;
        bytes.map_err(|error| self.error("read", path.as_str(), error))
    }

    fn get_range(&self, path: &ObjectPath, start: u64, len: u64) -> Result<Bytes, LakeError> {
        let outside = |size| LakeError::RangeOutside { path: path.to_string(), start, len, size };
        let end = start.checked_add(len);
        if let (Some(end), true) = (end, len > 0) {
            let (client, key) = (Arc::clone(&self.client), self.key(path)?);
            let read = self.wait("read", async move { client.get_range(&key, start..end).await })?;
            match read {
                Ok(bytes) if bytes.len() as u64 == len => return Ok(bytes),
                Ok(_) => return Err(outside(self.size(path)?)),
                Err(error) => {
                    let error = self.error("read", path.as_str(), error);
                    let past_end =
                        error.kind() == crate::ErrorKind::Retry && self.size(path).is_ok_and(|size| end > size);
                    return Err(if past_end { outside(self.size(path)?) } else { error });
                }
            }
        }
        // Nothing to transfer, yet the object must exist and reach that far.
        let size = self.size(path)?;
        if end.is_some_and(|end| end <= size) { Ok(Bytes::new()) } else { Err(outside(size)) }
    }

    fn open(&self, path: &ObjectPath) -> Result<Box<dyn Read + Send>, LakeError> {
        let (size, e_tag) = self.size_of(path)?;
        let mut reader = RangeReader {
            client: Arc::clone(&self.client),
            handle: self.runtime.handle(),
            key: self.key(path)?,
            store: self.name.clone(),
            path: path.clone(),
            e_tag,
            next_start: 0,
            size,
            pending: None,
            current: Bytes::new(),
        };
        reader.request_next();
        Ok(Box::new(reader))
    }

    fn size(&self, path: &ObjectPath) -> Result<u64, LakeError> {
        Ok(self.size_of(path)?.0)
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, LakeError> {
        let listed = self.listed(self.folder_key(prefix)?, Depth::All, prefix)?;
        Ok(self.sorted(listed.objects))
    }

    fn folders(&self, prefix: &str) -> Result<Vec<String>, LakeError> {
        let listed = self.listed(self.folder_key(prefix)?, Depth::One, prefix)?;
        // As of objects: what is no object path was not written here.
        let names =
            listed.folders.iter().filter_map(RemotePath::filename).filter(|name| ObjectPath::new(*name).is_ok());
        let mut names: Vec<String> = names.map(str::to_owned).collect();
        names.sort_unstable();
        Ok(names)
    }

    fn list_named(&self, prefix: &str, start: &str) -> Result<Vec<ObjectMeta>, LakeError> {
        let listed = self.listed(self.folder_key(prefix)? + start, Depth::One, prefix)?;
        Ok(self.sorted(listed.objects))
    }

    fn delete(&self, path: &ObjectPath) -> Result<(), LakeError> {
        let (client, key) = (Arc::clone(&self.client), self.key(path)?);
        match self.wait("delete", async move { client.delete(&key).await })? {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.error("delete", path.as_str(), error)),
        }
    }
}

/// A client for `bucket`, which sends nothing by itself; the error says which setting is wrong. Its credentials also
/// sign calls of services beside S3.
pub(crate) fn s3_client(bucket: &str, options: &S3Options) -> Result<AmazonS3, String> {
    install_tls();
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_region(options.region.as_deref().unwrap_or("us-east-1"))
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_client_options(
            ClientOptions::new().with_connect_timeout(Duration::from_secs(5)).with_timeout(Duration::from_mins(1)),
        );
    for (key, value) in &options.settings {
        let key: AmazonS3ConfigKey = key.parse().map_err(|_| format!("unknown S3 setting {key:?}"))?;
        builder = builder.with_config(key, value);
    }
    if let Some(endpoint) = &options.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    if let (Some(id), Some(secret)) = (&options.access_key_id, &options.secret_access_key) {
        builder = builder.with_access_key_id(id).with_secret_access_key(secret);
    }
    if let Some(token) = &options.session_token {
        builder = builder.with_token(token);
    }
    if let Some(max_retries) = options.retries_max {
        builder = builder.with_retry(RetryConfig { max_retries, ..RetryConfig::default() });
    }
    // Last, so that the setting the message names is the one that decides.
    builder.with_allow_http(options.allow_http).build().map_err(|error| error.to_string())
}

/// Reads an object in ranges, one ahead, all of the version seen first.
struct RangeReader {
    client: Arc<AmazonS3>,
    handle: tokio::runtime::Handle,
    key: RemotePath,
    store: String,
    path: ObjectPath,
    e_tag: Option<String>,
    next_start: u64,
    size: u64,
    pending: Option<Receiver<object_store::Result<Bytes>>>,
    current: Bytes,
}

impl RangeReader {
    fn request_next(&mut self) {
        if self.next_start >= self.size {
            self.pending = None;
            return;
        }
        let end = (self.next_start + PART_BYTES as u64).min(self.size);
        let options = GetOptions {
            range: Some(GetRange::Bounded(self.next_start..end)),
            if_match: self.e_tag.clone(),
            ..GetOptions::default()
        };
        let (client, key) = (Arc::clone(&self.client), self.key.clone());
        self.pending = Some(run_on(&self.handle, async move { client.get_opts(&key, options).await?.bytes().await }));
        self.next_start = end;
    }
}

impl Read for RangeReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.current.is_empty()
            && let Some(pending) = self.pending.take()
        {
            let received = pending.recv().map_err(|_| stopped("read")).map_err(io::Error::other)?;
            self.current = received
                .map_err(|error| io::Error::other(translate(&self.store, "read", self.path.as_str(), error)))?;
            self.request_next();
        }
        let len = buffer.len().min(self.current.len());
        buffer[..len].copy_from_slice(&self.current.split_to(len));
        Ok(len)
    }
}

fn stopped(action: &'static str) -> LakeError {
    LakeError::Internal { action, detail: "the S3 client's threads have stopped".to_owned() }
}

/// Gives the process ring as its TLS provider (aws-lc-rs needs a heavy C build), unless the binary
/// chose one before.
fn install_tls() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A write that finds nothing to write into is a wrong bucket name, not a missing object.
fn for_write(error: LakeError) -> LakeError {
    match error {
        LakeError::NotFound { store, .. } => LakeError::InvalidLocation {
            location: store,
            reason: "the bucket does not exist; create it or correct its name".to_owned(),
        },
        other => other,
    }
}

fn translate(store: &str, action: &'static str, path: &str, error: object_store::Error) -> LakeError {
    use object_store::Error as E;
    let place = format!("{store}/{path}");
    match error {
        E::NotFound { .. } => LakeError::NotFound { store: store.to_owned(), path: path.to_owned() },
        E::Precondition { .. } => LakeError::Changed { path: path.to_owned() },
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => {
            LakeError::Denied { action, place, detail: error.to_string() }
        }
        E::InvalidPath { .. } => LakeError::InvalidPath { path: path.to_owned(), reason: "S3's client refuses it" },
        E::NotSupported { .. } | E::NotImplemented { .. } | E::UnknownConfigurationKey { .. } => {
            LakeError::InvalidLocation { location: store.to_owned(), reason: error.to_string() }
        }
        other => LakeError::Remote { action, place, detail: with_sources(&other) },
    }
}

/// The error and its causes in one line: the top line alone of an HTTP failure says nothing.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
