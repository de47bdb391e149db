//! The operations of Kinesis Data Streams that we use, as one small synchronous trait with types of its own.
//!
//! It exists so that everything above it is tested without a network: [`crate::sdk`] answers it with the official SDK,
//! [`crate::testing`] with streams in memory that throttle, expire, split and fail on purpose. A value of it speaks for
//! one stream. No method retries, waits or decides: the callers do, by [`ApiError::kind`].
//!
//! Operations: `ListShards`, `GetShardIterator`, `GetRecords`, `SubscribeToShard`, `PutRecords`, `DescribeStreamSummary`.

use std::fmt::Debug;
use std::time::Duration;

use anabranch_stores::ErrorKind;
use anabranch_stream::ports::{PortError, SequenceNumber, ShardId};

/// `GetRecords` a second a shard, over all who read it.
pub const READS_PER_SECOND: u64 = 5;
/// Records in one answer of `GetRecords`.
pub const GET_RECORDS_MAX: u32 = 10_000;

/// Why AWS did not do what it was asked, as far as the caller's next step differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ApiErrorKind {
    /// Too many requests or bytes a second: wait, then the same call succeeds.
    Throttled,
    /// The shard iterator is older than five minutes (or not of this stream): make a new one.
    ExpiredIterator,
    /// The paging token is older than five minutes: list from the start.
    ExpiredToken,
    /// The stream, shard or consumer is not there.
    NotFound,
    /// Another subscription holds the shard, or the stream is being changed: wait a few seconds.
    InUse,
    /// Passing trouble (5xx, network, time-out); a write may have happened or not.
    Retry,
    /// Credentials or permissions do not allow it.
    Denied,
    /// The request or a setting is wrong.
    FixInput,
    /// The answer is not what the API promises.
    Malformed,
}

impl ApiErrorKind {
    /// What AWS's error code (without its namespace) and HTTP status say.
    pub fn of(code: Option<&str>, status: Option<u16>) -> Self {
        match code.unwrap_or_default() {
            "ProvisionedThroughputExceededException"
            | "LimitExceededException"
            | "KMSThrottlingException"
            | "KMSThrottling"
            | "Throttled"
            | "ThrottlingException"
            | "Throttling"
            | "RequestLimitExceeded"
            | "TooManyRequestsException"
            | "SlowDown" => Self::Throttled,
            "ExpiredIteratorException" => Self::ExpiredIterator,
            "ExpiredNextTokenException" => Self::ExpiredToken,
            "ResourceNotFoundException" | "NotFound" => Self::NotFound,
            "ResourceInUseException" => Self::InUse,
            "InternalFailure"
            | "InternalFailureException"
            | "InternalServerError"
            | "InternalServiceError"
            | "ServiceUnavailable"
            | "ServiceUnavailableException"
            | "RequestTimeout"
            | "RequestTimeoutException"
            // Credentials that the SDK renews before the next call; a clock that drifted.
            | "ExpiredToken"
            | "ExpiredTokenException"
            | "RequestExpired" => Self::Retry,
            "AccessDenied"
            | "AccessDeniedException"
            | "UnrecognizedClientException"
            | "InvalidSignatureException"
            | "InvalidClientTokenId"
            | "MissingAuthenticationToken"
            | "MissingAuthenticationTokenException"
            | "IncompleteSignature"
            | "OptInRequired"
            | "NotAuthorized"
            | "KMSAccessDeniedException"
            | "KMSDisabledException"
            | "KMSInvalidStateException"
            | "KMSNotFoundException"
            | "KMSOptInRequired" => Self::Denied,
            // Of a record inside a 200, which has no status of its own.
            "InvalidArgumentException" | "ValidationException" | "InvalidKMSResourceException" => Self::FixInput,
            _ => match status {
                Some(429) => Self::Throttled,
                Some(401 | 403) => Self::Denied,
                Some(404) => Self::NotFound,
                Some(status) if (400..500).contains(&status) => Self::FixInput,
                // A 5xx; no answer; an answer of which only a part arrived.
                _ => Self::Retry,
            },
        }
    }

    /// The workspace's word for it.
    pub const fn kind(self) -> ErrorKind {
        match self {
            Self::Throttled | Self::ExpiredIterator | Self::ExpiredToken | Self::InUse | Self::Retry => {
                ErrorKind::Retry
            }
            Self::NotFound => ErrorKind::NotFound,
            Self::Denied | Self::FixInput => ErrorKind::FixInput,
            Self::Malformed => ErrorKind::Corrupt,
        }
    }

    const fn remedy(self) -> &'static str {
        match self {
            Self::Throttled => "it is asked again later; if this stays, add shards or take away readers",
            Self::ExpiredIterator => "a new iterator is made",
            Self::ExpiredToken => "the listing starts again",
            Self::NotFound => "check name and region, or whether it was deleted",
            Self::InUse => "it is asked again later; if this stays, another process reads with the same consumer",
            Self::Retry => "it is asked again later",
            Self::Denied => "check the credentials and the policy of the role",
            Self::FixInput => "check the settings that this request is made of",
            Self::Malformed => "check that the endpoint is Kinesis's",
        }
    }
}

/// A call that AWS refused or that did not reach it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{operation} of {resource} failed: {message}; {}", .kind.remedy())]
pub struct ApiError {
    /// What the caller can do.
    pub kind: ApiErrorKind,
    /// The operation, as AWS names it.
    pub operation: &'static str,
    /// What it was asked of.
    pub resource: String,
    /// AWS's code and message.
    pub message: String,
}

impl ApiError {
    /// An error of `operation` on `resource`.
    pub fn new(
        kind: ApiErrorKind,
        operation: &'static str,
        resource: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self { kind, operation, resource: resource.into(), message: message.into() }
    }
}

impl From<ApiError> for PortError {
    fn from(error: ApiError) -> Self {
        Self { kind: error.kind.kind(), what: error.to_string(), source: None }
    }
}

/// A stream, as far as a reader must know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamSummary {
    /// Its ARN.
    pub arn: String,
    /// When it was created, milliseconds since 1970: a stream that was deleted and made again is another one.
    pub created_ms: i64,
    /// How long records stay, hours.
    pub retention_hours: u32,
}

/// One shard of a stream, open or closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Its id.
    pub id: ShardId,
    /// The shard it was split from, or the first of the two it was merged from.
    pub parent: Option<ShardId>,
    /// The second of the two it was merged from.
    pub adjacent_parent: Option<ShardId>,
    /// Whether it takes no more records.
    pub is_closed: bool,
    /// First and last hash key, inclusive.
    pub hash_keys: (u128, u128),
}

impl Shard {
    /// The shards it continues: none, one (split) or two (merge).
    pub fn parents(&self) -> impl Iterator<Item = ShardId> {
        self.parent.into_iter().chain(self.adjacent_parent)
    }
}

/// Which shards `ListShards` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShardFilter {
    /// `AT_TRIM_HORIZON`: those that were open when the oldest record that the stream still holds could arrive.
    AtTrimHorizon,
}

/// One page of `ListShards`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardPage {
    /// The shards.
    pub shards: Vec<Shard>,
    /// Asks for the next page; `None` on the last.
    pub next_token: Option<String>,
}

/// Where reading begins. There is no "latest": a worker that begins there loses what came before it looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartingPosition {
    /// `TRIM_HORIZON`: the oldest record that the stream holds.
    TrimHorizon,
    /// `AT_SEQUENCE_NUMBER`: this record again, because only a part of it was read.
    At(SequenceNumber),
    /// `AFTER_SEQUENCE_NUMBER`: the record that follows.
    After(SequenceNumber),
}

/// A record as Kinesis keeps it: an event, or an aggregate of many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataRecord {
    /// Its place in the shard.
    pub number: SequenceNumber,
    /// When it arrived, milliseconds since 1970.
    pub arrival_ms: i64,
    /// The partition key; empty where an on-demand stream distributes records by itself.
    pub partition_key: String,
    /// Its bytes.
    pub data: Vec<u8>,
}

/// One answer of `GetRecords`. No records does not mean that none follow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordsPage {
    /// Records in order.
    pub records: Vec<DataRecord>,
    /// Where to go on; `None` when the shard is closed and was read to its end.
    pub next_iterator: Option<String>,
    /// `MillisBehindLatest`.
    pub behind_ms: Option<u64>,
}

/// What a subscription gave within the time it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// An event; may hold no records.
    Event(SubscriptionEvent),
    /// Nothing yet.
    Nothing,
    /// Kinesis closed the subscription, as it does after five minutes: subscribe again.
    Ended,
}

/// A `SubscribeToShardEvent`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubscriptionEvent {
    /// Records in order.
    pub records: Vec<DataRecord>,
    /// `ContinuationSequenceNumber`: the next subscription begins after it.
    pub continuation: Option<SequenceNumber>,
    /// `MillisBehindLatest`.
    pub behind_ms: Option<u64>,
    /// The shard is closed and these are its last records (`ChildShards` is not empty).
    pub is_end_of_shard: bool,
    /// Whether it came after the call of [`Subscription::next`] before, or is the first. What it says of the shard is of the time
    /// when it came, and one that lay ready already then may have come long ago.
    pub is_fresh: bool,
}

/// A running `SubscribeToShard`. Dropping it ends it.
pub trait Subscription: Send + Debug {
    /// The next event, if one comes within `wait`.
    fn next(&mut self, wait: Duration) -> Result<Pushed, ApiError>;
}

/// One record of a `PutRecords` request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PutRecord {
    /// 1 to 256 characters; decides the shard by its MD5.
    pub partition_key: String,
    /// The bytes.
    pub data: Vec<u8>,
}

/// What became of one record of a request that itself succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PutResult {
    /// It is stored.
    Stored {
        /// The shard.
        shard: ShardId,
        /// Its place there.
        number: SequenceNumber,
    },
    /// It is not (`ProvisionedThroughputExceededException`, `InternalFailure`).
    Failed {
        /// Kinesis's code.
        code: String,
        /// Kinesis's message.
        message: String,
    },
}

/// The operations, for one stream.
pub trait KinesisApi: Send + Sync + Debug {
    /// `DescribeStreamSummary`.
    fn describe(&self) -> Result<StreamSummary, ApiError>;

    /// One page of all shards that hold records, closed ones too, or of those that `filter` lets pass.
    fn list_shards(&self, filter: Option<ShardFilter>, next_token: Option<&str>) -> Result<ShardPage, ApiError>;

    /// An iterator, good for five minutes.
    fn get_shard_iterator(&self, shard: ShardId, from: StartingPosition) -> Result<String, ApiError>;

    /// Up to `limit` records (at most [`GET_RECORDS_MAX`]) and 10 MiB.
    fn get_records(&self, iterator: &str, limit: u32) -> Result<RecordsPage, ApiError>;

    /// Begins an enhanced fan-out subscription of the registered consumer.
    fn subscribe_to_shard(&self, shard: ShardId, from: StartingPosition) -> Result<Box<dyn Subscription>, ApiError>;

    /// Puts at most 500 records; one result for each, in their order. `Ok` may hold failures.
    fn put_records(&self, records: &[PutRecord]) -> Result<Vec<PutResult>, ApiError>;
}

/// All shards, over as many pages as it takes. A token that expires on the way starts the listing again, once.
pub fn all_shards(api: &dyn KinesisApi) -> Result<Vec<Shard>, ApiError> {
    filtered_shards(api, None)
}

/// The shards that were open at the trim horizon: of any other nothing has expired yet. A service that does not know the
/// filter lists them all.
pub fn shards_at_trim_horizon(api: &dyn KinesisApi) -> Result<Vec<Shard>, ApiError> {
    filtered_shards(api, Some(ShardFilter::AtTrimHorizon))
}

fn filtered_shards(api: &dyn KinesisApi, filter: Option<ShardFilter>) -> Result<Vec<Shard>, ApiError> {
    match shards_by_page(api, filter) {
        Err(error) if error.kind == ApiErrorKind::ExpiredToken => shards_by_page(api, filter),
        other => other,
    }
}

fn shards_by_page(api: &dyn KinesisApi, filter: Option<ShardFilter>) -> Result<Vec<Shard>, ApiError> {
    let mut shards = Vec::new();
    let mut token = None;
    loop {
        let page = api.list_shards(filter, token.as_deref())?;
        shards.extend(page.shards);
        if page.next_token.is_none() {
            return Ok(shards);
        }
        token = page.next_token;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_say_what_to_do() {
        let table = [
            (Some("ProvisionedThroughputExceededException"), Some(400), ApiErrorKind::Throttled, ErrorKind::Retry),
            (Some("LimitExceededException"), Some(400), ApiErrorKind::Throttled, ErrorKind::Retry),
            (Some("ExpiredIteratorException"), Some(400), ApiErrorKind::ExpiredIterator, ErrorKind::Retry),
            (Some("ExpiredNextTokenException"), Some(400), ApiErrorKind::ExpiredToken, ErrorKind::Retry),
            (Some("ResourceNotFoundException"), Some(400), ApiErrorKind::NotFound, ErrorKind::NotFound),
            (Some("ResourceInUseException"), Some(400), ApiErrorKind::InUse, ErrorKind::Retry),
            (Some("AccessDeniedException"), Some(400), ApiErrorKind::Denied, ErrorKind::FixInput),
            (Some("KMSThrottlingException"), Some(400), ApiErrorKind::Throttled, ErrorKind::Retry),
            (Some("InvalidArgumentException"), Some(400), ApiErrorKind::FixInput, ErrorKind::FixInput),
            (Some("InvalidArgumentException"), None, ApiErrorKind::FixInput, ErrorKind::FixInput),
            (Some("InternalFailure"), Some(500), ApiErrorKind::Retry, ErrorKind::Retry),
            (Some("SomethingNew"), Some(503), ApiErrorKind::Retry, ErrorKind::Retry),
            // SNS's words.
            (Some("Throttled"), Some(429), ApiErrorKind::Throttled, ErrorKind::Retry),
            (Some("KMSThrottling"), None, ApiErrorKind::Throttled, ErrorKind::Retry),
            (Some("NotFound"), Some(404), ApiErrorKind::NotFound, ErrorKind::NotFound),
            (Some("AuthorizationError"), Some(403), ApiErrorKind::Denied, ErrorKind::FixInput),
            (None, Some(429), ApiErrorKind::Throttled, ErrorKind::Retry),
            (None, Some(403), ApiErrorKind::Denied, ErrorKind::FixInput),
            (None, None, ApiErrorKind::Retry, ErrorKind::Retry),
        ];
        for (code, status, api, kind) in table {
            assert_eq!(ApiErrorKind::of(code, status), api, "{code:?} {status:?}");
            assert_eq!(api.kind(), kind);
        }
    }

    #[test]
    fn the_message_names_place_and_remedy() {
        let error = ApiError::new(ApiErrorKind::Denied, "GetRecords", "stream clicks", "AccessDeniedException: no");
        let text = PortError::from(error).to_string();
        for part in ["GetRecords of stream clicks", "AccessDeniedException", "policy of the role"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
